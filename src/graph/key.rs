//! Keys: the digest that names a step's result before it exists.
//!
//! | input | enters | why |
//! |---|---|---|
//! | version of this table | yes | a change of what a step means must not find old results |
//! | platform (os, architecture, variant) | Run | the same command gives other bytes elsewhere |
//! | | not Copy, Workdir | they compute entries, whatever the machine |
//! | identity of the Tree below | yes | [`tree`]: the chain of layer identities |
//! | RUN: arguments, script | yes | |
//! | RUN: ENV and ARG values, in order | yes | programs read them |
//! | RUN: working directory, user | yes | |
//! | RUN: network | only `none` | a build with host or default network is the same build |
//! | RUN: proxy variables without an ARG | no | they say how to reach the world, not what is there |
//! | RUN: bind mounts: target, source path, writable, content | yes | content, not times |
//! | RUN: cache mounts: target, id, source path, owner, mode | yes | |
//! | RUN: what a cache mount holds | no | it must only ever make a step faster |
//! | RUN: tmpfs target and size | yes | a full one fails |
//! | RUN: secrets: id, target, variable | yes | their values: no, a new token is the same build |
//! | RUN: devices: names, required | yes | what stands behind a name: no, it is the host's |
//! | RUN: security=insecure | yes | programs see other capabilities, and act on them |
//! | RUN: CA certificates of --ca-cert, and the variables that name them | no | as proxy variables |
//! | RUN: ssh: id, target, mode, owner | yes | the agent and its keys: no, as secrets |
//! | RUN: hostname, hosts, limits, isolation rung, emulator | no | same output is the contract of each |
//! | COPY, ADD: patterns, destination, chown, chmod, exclude, parents, link, unpack | yes | |
//! | COPY, ADD: content, kinds, modes, owners, xattrs of what is selected | yes | |
//! | COPY, ADD: modification times | no | a fresh checkout is the same input |
//! | ADD of a URL: name, content | yes | not the URL: a mirror has the same file |
//! | ADD of a URL: Last-Modified, ETag, checksum | no | what must be fetched again, not what it is |
//! | ADD of a repository: commit, subdirectory, flags | yes | a commit id says what is in it |
//! | ADD of a repository: URL; branch or tag | no; with `.git` | both are written in `.git` |
//! | WORKDIR: path, user | yes | |
//! | labels, CMD, EXPOSE and other metadata | no | they change no file |
//! | stage names, comments, position in the Dockerfile | no | |
//! | SOURCE_DATE_EPOCH | as ARG or ENV only | times are clamped when a layer is packed |
//!
//! Known imperfection: a RUN that reads the network has the world as an input that no key can hold;
//! `--no-cache` and `--no-cache-filter` are for that.

use serde_json::{Value, json};

use super::{Copy, Inline, Mount, MountKind, Network, Run};
use crate::oci::{Digest, Platform, canonical};

/// Changes whenever a step's meaning does.
const VERSION: u32 = 1;

/// Identity of a file system: the chain of its layers' identities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreeId(pub Digest);

impl TreeId {
    /// Identity of the empty root file system.
    pub fn empty() -> TreeId {
        TreeId(Digest::of(b"lapstrake empty tree"))
    }

    /// Identity of this file system with one more layer.
    pub fn with_layer(&self, layer: &str) -> TreeId {
        TreeId(digest(&json!({ "below": self.0, "layer": layer })))
    }
}

/// Key of a RUN. `inputs` are the identities of what its mounts bring in, by index of the node's
/// inputs.
pub fn run(run: &Run, platform: &Platform, below: TreeId, inputs: &[Digest]) -> Digest {
    let mounts: Vec<Value> = run.mounts.iter().map(|mount| mount_value(mount, inputs)).collect();
    let mut value = json!({
        "version": VERSION,
        "kind": "run",
        "platform": platform_value(platform),
        "below": below.0,
        "args": run.args,
        "script": run.script.as_ref().map(inline_value),
        "env": run.env,
        "cwd": run.cwd,
        "user": run.user,
        "offline": run.network == Network::None,
        "mounts": mounts,
    });
    if run.insecure {
        value["insecure"] = true.into();
    }
    if !run.devices.is_empty() {
        value["devices"] = json!(run.devices);
    }
    digest(&value)
}

/// Key of a COPY or ADD. `content` is the identity of what it selects.
pub fn copy(copy: &Copy, below: TreeId, content: Digest) -> Digest {
    let mut value = json!({
        "version": VERSION,
        "kind": "copy",
        "below": if copy.link { TreeId::empty().0 } else { below.0 },
        "add": copy.add,
        "sources": copy.sources,
        "inline": copy.inline.iter().map(inline_value).collect::<Vec<_>>(),
        "dest": copy.dest,
        "chown": copy.chown,
        "chmod": copy.chmod,
        "link": copy.link,
        "parents": copy.parents,
        "exclude": copy.exclude,
        "unpack": copy.unpack,
        "content": content,
    });
    // Left out where they are not used, so that the keys of steps without remote sources stay.
    if !copy.origins.is_empty() {
        value["origins"] = json!(copy.origins);
    }
    if copy.unpack_remote {
        value["unpack_remote"] = json!(true);
    }
    digest(&value)
}

/// Identity of a downloaded file, whatever it is called.
pub fn url_content(content: Digest) -> Digest {
    digest(&json!(["url", content]))
}

/// Identity of what is taken from a Git repository at `commit`. `place` is where the repository
/// and which ref it is, when `.git` is kept.
pub fn git_content(source: &super::remote::GitSource, commit: &str, place: &str) -> Digest {
    digest(&json!([
        "git",
        commit,
        source.subdir,
        source.submodules,
        source.checkout_times,
        source.keep_git_dir.then_some(place)
    ]))
}

/// Key of a WORKDIR.
pub fn workdir(path: &str, user: &str, below: TreeId) -> Digest {
    digest(&json!({
        "version": VERSION,
        "kind": "workdir",
        "below": below.0,
        "path": path,
        "user": user,
    }))
}

fn platform_value(platform: &Platform) -> Value {
    json!([platform.os, platform.architecture, platform.variant])
}

fn inline_value(inline: &Inline) -> Value {
    json!([inline.name, Digest::of(inline.data.as_bytes())])
}

pub(super) fn mount_value(mount: &Mount, inputs: &[Digest]) -> Value {
    let input = |index: usize| inputs.get(index).copied();
    let kind = match &mount.kind {
        MountKind::Bind { input: index, source, writable } => {
            json!(["bind", input(*index), source, writable])
        }
        MountKind::Cache { id, sharing, input: index, source, mode, uid, gid, read_only } => {
            json!([
                "cache",
                id,
                format!("{sharing:?}"),
                index.and_then(input),
                source,
                mode,
                uid,
                gid,
                read_only
            ])
        }
        MountKind::Tmpfs { size } => json!(["tmpfs", size]),
        MountKind::Secret { id, env, required, mode, uid, gid } => {
            json!(["secret", id, env, required, mode, uid, gid])
        }
        MountKind::Ssh { id, sets_variable, required, mode, uid, gid } => {
            json!(["ssh", id, sets_variable, required, mode, uid, gid])
        }
    };
    json!([mount.target, kind])
}

/// Digests canonical JSON.
pub fn digest(value: &Value) -> Digest {
    Digest::of(&canonical::to_vec(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Sharing, Variables};

    fn example() -> Run {
        Run {
            args: vec!["/bin/sh".into(), "-c".into(), "make".into()],
            script: None,
            env: Variables::from_iter([("A".into(), "1".into())]),
            proxy: Vec::new(),
            cwd: "/".into(),
            user: String::new(),
            network: Network::Default,
            mounts: Vec::new(),
            insecure: false,
            devices: Vec::new(),
        }
    }

    fn key_of(change: impl FnOnce(&mut Run)) -> Digest {
        let mut changed = example();
        change(&mut changed);
        run(&changed, &"linux/amd64".parse().expect("a platform"), TreeId::empty(), &[])
    }

    #[test]
    fn what_enters_a_run_key_is_what_the_table_says() {
        let base = key_of(|_| {});
        assert_eq!(base, key_of(|run| run.proxy.push(("HTTP_PROXY".into(), "x".into()))));
        assert_eq!(base, key_of(|run| run.network = Network::Host));
        let differ = [
            key_of(|run| run.args[2] = "make all".into()),
            key_of(|run| run.env = Variables::from_iter([("A".into(), "2".into())])),
            key_of(|run| run.cwd = "/src".into()),
            key_of(|run| run.user = "app".into()),
            key_of(|run| run.network = Network::None),
            key_of(|run| {
                run.mounts.push(Mount {
                    target: "/c".into(),
                    kind: MountKind::Cache {
                        id: "/c".into(),
                        sharing: Sharing::Shared,
                        input: None,
                        source: "/".into(),
                        mode: 0o755,
                        uid: 0,
                        gid: 0,
                        read_only: false,
                    },
                });
            }),
        ];
        for key in differ {
            assert_ne!(base, key);
        }
    }

    #[test]
    fn the_platform_enters_a_run_key() {
        let amd64 = run(&example(), &"linux/amd64".parse().expect("p"), TreeId::empty(), &[]);
        let arm64 = run(&example(), &"linux/arm64".parse().expect("p"), TreeId::empty(), &[]);
        assert_ne!(amd64, arm64);
    }

    #[test]
    fn layers_chain() {
        let one = TreeId::empty().with_layer("d-1");
        assert_ne!(one, TreeId::empty());
        assert_ne!(one.with_layer("d-2"), TreeId::empty().with_layer("d-2").with_layer("d-1"));
    }

    #[test]
    fn a_linked_copy_does_not_depend_on_what_lies_below() {
        let mut example = Copy {
            add: false,
            sources: vec!["a".into()],
            origins: Vec::new(),
            inline: Vec::new(),
            dest: "/".into(),
            chown: None,
            chmod: None,
            link: true,
            parents: false,
            exclude: Vec::new(),
            unpack: false,
            unpack_remote: false,
        };
        let below = TreeId::empty().with_layer("d-1");
        let content = Digest::of(b"");
        assert_eq!(copy(&example, below, content), copy(&example, TreeId::empty(), content));
        example.link = false;
        assert_ne!(copy(&example, below, content), copy(&example, TreeId::empty(), content));
    }
}
