//! The named parts of a key, kept in a step's record so that `build --explain` can say which of them
//! changed. What enters and why is in the table of [`super::key`]; a test holds the two together.
//!
//! Values are short: what is long, or looks like a secret by its name, is a digest.

use std::collections::BTreeMap;

use super::key::{TreeId, mount_value};
use super::{Copy, Inline, Network, Node, Op, Run};
use crate::dockerfile::is_secret_name;
use crate::oci::Digest;

/// Names and values of parts. Names of variables begin with [`VARIABLE`], those of mounts with
/// [`MOUNT`], those of what is read with [`CONTENT`].
pub type Parts = BTreeMap<String, String>;

/// Begins the name of a variable's part.
pub const VARIABLE: &str = "variable ";
/// Begins the name of a mount's part.
pub const MOUNT: &str = "mount ";
/// Begins the name of the part that is the identity of an input, by its number.
pub const CONTENT: &str = "content ";
/// The file system that the step starts from.
pub const BELOW: &str = "below";
/// The command or the words of the instruction.
pub const COMMAND: &str = "command";

/// Longer values are kept as digests: a terminal has about as many columns.
const LONGEST: usize = 200;

/// Names the parts of a step's key. `contents` are the identities of what it reads, by the index of
/// the node's inputs.
pub fn parts(node: &Node, below: TreeId, contents: &[Digest]) -> Parts {
    let mut parts = Parts::new();
    let mut add = |name: &str, value: String| {
        if !value.is_empty() {
            parts.insert(name.to_owned(), short(value));
        }
    };
    match &node.op {
        Op::Run(run) => run_parts(node, run, &mut add),
        Op::Copy(copy) => copy_parts(copy, &mut add),
        Op::Workdir { path, user } => {
            add(COMMAND, path.clone());
            add("user", user.clone());
        }
        Op::Image { .. } | Op::Local { .. } | Op::Remote(_) => return parts,
    }
    for (number, content) in contents.iter().enumerate() {
        add(&format!("{CONTENT}{number}"), content.to_string());
    }
    if !matches!(&node.op, Op::Copy(copy) if copy.link) {
        add(BELOW, below.0.to_string());
    }
    parts
}

fn run_parts(node: &Node, run: &Run, add: &mut dyn FnMut(&str, String)) {
    add(COMMAND, run.args.join(" "));
    add("script", run.script.as_ref().map(digest_of).unwrap_or_default());
    for (name, value) in run.env.iter() {
        let value = match is_secret_name(name) {
            true => Digest::of(value.as_bytes()).to_string(),
            // An empty value is a value.
            false => format!("={value}"),
        };
        add(&format!("{VARIABLE}{name}"), value);
    }
    let order: Vec<&str> = run.env.iter().map(|(name, _)| name).collect();
    add("order of variables", order.join(" "));
    add("platform", node.platform.to_string());
    add("working directory", run.cwd.clone());
    add("user", run.user.clone());
    add("network", if run.network == Network::None { "none".to_owned() } else { String::new() });
    add("security", if run.insecure { "insecure".to_owned() } else { String::new() });
    let devices = run.devices.iter().map(|(name, required)| format!("{name} {required}"));
    add("devices", devices.collect::<Vec<_>>().join(", "));
    for (number, mount) in run.mounts.iter().enumerate() {
        let place = if mount.target.is_empty() { "variable" } else { mount.target.as_str() };
        add(&format!("{MOUNT}{place} ({number})"), mount_value(mount, &[]).to_string());
    }
}

fn copy_parts(copy: &Copy, add: &mut dyn FnMut(&str, String)) {
    let mut words = vec![if copy.add { "ADD" } else { "COPY" }.to_owned()];
    let flags = [
        (copy.link, "--link"),
        (copy.parents, "--parents"),
        (copy.unpack, "--unpack"),
        (copy.unpack_remote, "--unpack (downloads)"),
    ];
    words.extend(flags.iter().filter(|(on, _)| *on).map(|(_, flag)| (*flag).to_owned()));
    words.extend(copy.exclude.iter().map(|pattern| format!("--exclude={pattern}")));
    words.extend(copy.sources.iter().map(|source| format!("{source:?}")));
    words.push(format!("{:?}", copy.dest));
    add(COMMAND, words.join(" "));
    add("--chown", copy.chown.clone().unwrap_or_default());
    add("--chmod", copy.chmod.clone().unwrap_or_default());
    let origins: Vec<String> = copy.origins.iter().map(usize::to_string).collect();
    add("origins", origins.join(" "));
    for (number, inline) in copy.inline.iter().enumerate() {
        add(&format!("heredoc {} ({number})", inline.name), digest_of(inline));
    }
}

fn digest_of(inline: &Inline) -> String {
    Digest::of(inline.data.as_bytes()).to_string()
}

fn short(value: String) -> String {
    match value.len() {
        0..=LONGEST => value,
        _ => {
            let start: String = value.chars().take(LONGEST / 4).collect();
            format!("{start}… {}", Digest::of(value.as_bytes()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::graph::{Mount, MountKind, Sharing, Variables, key};

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn run_node(change: impl FnOnce(&mut Run)) -> Node {
        let mut run = Run {
            args: vec!["sh".into(), "-c".into(), "make".into()],
            script: None,
            env: variables(&[("A", "1"), ("B", "2")]),
            proxy: Vec::new(),
            cwd: "/".into(),
            user: String::new(),
            network: Network::Default,
            mounts: Vec::new(),
            insecure: false,
            devices: Vec::new(),
        };
        change(&mut run);
        node(Op::Run(Box::new(run)))
    }

    fn copy_node(change: impl FnOnce(&mut Copy)) -> Node {
        let mut copy = Copy {
            add: false,
            sources: vec!["a".into()],
            origins: Vec::new(),
            inline: Vec::new(),
            dest: "/".into(),
            chown: None,
            chmod: None,
            link: false,
            parents: false,
            exclude: Vec::new(),
            unpack: false,
            unpack_remote: false,
        };
        change(&mut copy);
        node(Op::Copy(Box::new(copy)))
    }

    fn node(op: Op) -> Node {
        Node {
            op,
            parent: None,
            inputs: Vec::new(),
            platform: Arc::new("linux/amd64".parse().expect("a platform")),
            stage: "".into(),
            name: String::new(),
            span: Default::default(),
            no_cache: false,
            part: 0,
        }
    }

    fn key_of(node: &Node) -> Digest {
        let below = TreeId::empty();
        match &node.op {
            Op::Run(run) => key::run(run, &node.platform, below, &[]),
            Op::Copy(copy) => key::copy(copy, below, Digest::of(b"")),
            _ => unreachable!("the rows have no other steps"),
        }
    }

    /// Steps that differ in one thing: the parts differ exactly where the keys do.
    #[test]
    fn parts_differ_where_keys_do() {
        let cache = |target: &str| Mount {
            target: target.into(),
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
        };
        let inline = |data: &str| Inline { name: "EOF".into(), data: data.into() };
        let rows = [
            run_node(|_| {}),
            run_node(|run| run.proxy.push(("HTTP_PROXY".into(), "x".into()))),
            run_node(|run| run.network = Network::Host),
            run_node(|run| run.network = Network::None),
            run_node(|run| run.args[2] = "make all".into()),
            run_node(|run| run.args[2] = "x".repeat(LONGEST + 1)),
            run_node(|run| run.args[2] = "x".repeat(LONGEST + 2)),
            run_node(|run| run.env = variables(&[("A", "2"), ("B", "2")])),
            run_node(|run| run.env = variables(&[("A", ""), ("B", "2")])),
            run_node(|run| run.env = variables(&[("B", "2")])),
            run_node(|run| run.env = variables(&[("B", "2"), ("A", "1")])),
            run_node(|run| run.env = variables(&[("TOKEN", "1"), ("B", "2")])),
            run_node(|run| run.env = variables(&[("TOKEN", "2"), ("B", "2")])),
            run_node(|run| run.cwd = "/src".into()),
            run_node(|run| run.user = "app".into()),
            run_node(|run| run.insecure = true),
            run_node(|run| run.devices.push(("a/b=c".into(), true))),
            run_node(|run| run.script = Some(inline("a"))),
            run_node(|run| run.script = Some(inline("b"))),
            run_node(|run| run.mounts.push(cache("/c"))),
            run_node(|run| run.mounts.push(cache("/d"))),
            copy_node(|_| {}),
            copy_node(|copy| copy.add = true),
            copy_node(|copy| copy.sources.push("b".into())),
            copy_node(|copy| copy.dest = "/x".into()),
            copy_node(|copy| copy.inline.push(inline("a"))),
            copy_node(|copy| copy.inline.push(inline("b"))),
            copy_node(|copy| copy.chown = Some("1".into())),
            copy_node(|copy| copy.chmod = Some("0755".into())),
            copy_node(|copy| copy.link = true),
            copy_node(|copy| copy.parents = true),
            copy_node(|copy| copy.exclude.push("x".into())),
            copy_node(|copy| copy.unpack = true),
            copy_node(|copy| copy.unpack_remote = true),
        ];
        for one in &rows {
            for other in &rows {
                let parts = |node: &Node| parts(node, TreeId::empty(), &[]);
                assert_eq!(
                    key_of(one) == key_of(other),
                    parts(one) == parts(other),
                    "{one:?} {other:?}"
                );
            }
        }
    }

    #[test]
    fn secrets_are_not_kept() {
        let node = run_node(|run| run.env = variables(&[("NPM_TOKEN", "s3cr3t-value")]));
        let parts = parts(&node, TreeId::empty(), &[Digest::of(b"a")]);
        assert!(parts.values().all(|value| !value.contains("s3cr3t")), "{parts:?}");
        assert!(parts.contains_key("content 0") && parts.contains_key(BELOW));
    }
}
