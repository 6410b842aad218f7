//! RUN: the layers below as an overlay, the program in the sandbox, the changes as a new layer.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::build::Options;
use crate::build::carried;
use crate::build::conductor::{Conductor, Outcome};
use crate::build::copy::{Options as CopyOptions, Planner};
use crate::build::error::{Failure, Kind};
use crate::build::event::{Event, Stream};
use crate::build::files::{ContextFiles, Copied, Files};
use crate::build::shell::{self, Failed};
use crate::build::{leak, waste};
use crate::graph::{self, MountKind, Network, NodeId, Op};
use crate::layer::toc::KindRef;
use crate::layer::tree::Tree;
use crate::layer::{Entry, Kind as EntryKind, LayerId, RootPath};
use crate::oci::Digest;
use crate::sandbox::{self, Access, FileKind, RunSpec, Session};
use crate::snapshot::{self, DiffOptions, StubKind, TreeWriter};
use crate::store::{MountGuard, MountId, Sharing};

use super::copy::digested;
use super::ssh::AgentSocket;
use super::{copy_failure, select};

/// How much of a failing step's output is kept to be shown again.
const TAIL: usize = 16 << 10;
/// How many of its lines.
const TAIL_LINES: usize = 20;

/// Owners in an image, for sandboxes whose disk cannot tell.
pub struct OwnersOf<'a>(pub &'a Tree);

impl sandbox::Owners for OwnersOf<'_> {
    fn owner(&self, path: &[u8], kind: FileKind) -> Option<(u32, u32)> {
        let found = self.0.lookup(&RootPath::clean(path))?;
        let entry = found.target().entry;
        let same = matches!(
            (kind, entry.kind),
            (FileKind::File, KindRef::File { .. })
                | (FileKind::Dir, KindRef::Dir)
                | (FileKind::Symlink, KindRef::Symlink(_))
                | (FileKind::Fifo, KindRef::Fifo)
        );
        same.then_some((entry.uid, entry.gid))
    }
}

/// Runs one RUN and gives its layer.
pub fn run(
    conductor: &Conductor<'_>,
    id: NodeId,
    run: &graph::Run,
    below: &Outcome,
    key: Digest,
) -> Result<(LayerId, i64), Failure> {
    let session = conductor.layers.session().ok_or_else(|| {
        Failure::new(Kind::Host, "a RUN was started, but no user namespace was entered")
    })?;
    let store = |error: &(dyn std::error::Error + 'static)| {
        Failure::of(Kind::Store, "cannot prepare a step", error)
    };
    let tree = conductor.layers.tree(&below.layers)?;
    let staging = conductor.build.store.trees().staging().map_err(|error| store(&error))?;
    let place = |name: &str| -> Result<PathBuf, Failure> {
        let path = staging.path().join(name);
        std::fs::create_dir(&path).map_err(|error| store(&error))?;
        Ok(path)
    };
    let mut lowers = directories(conductor, session, &below.layers, &tree, staging.path())?;
    let (upper, work) = (place("upper")?, place("work")?);
    let mut mounts = Mounts {
        conductor,
        session,
        node: id,
        staging: staging.path(),
        list: Vec::new(),
        stubs: Vec::new(),
        env: Vec::new(),
        guards: Vec::new(),
        agents: Vec::new(),
    };
    mounts.standard();
    mounts.ca_certs(run, &below.layers, &tree)?;
    mounts.devices(run)?;
    mounts.apt(&tree);
    for mount in &run.mounts {
        mounts.add(mount)?;
    }
    if let Some(script) = &run.script {
        mounts.script(script);
    }
    let Mounts { list, stubs: targets, env: secret_env, guards, agents, .. } = mounts;
    let stub_dir = place("stubs")?;
    let stubs = snapshot::stubs(&stub_dir, &tree, &targets, session.id_map())
        .map_err(|error| store(&error))?;
    lowers.push(stub_dir);
    make_cwd(conductor, session, &tree, &run.cwd, &upper)?;

    let mut spec = RunSpec::new(lowers, upper.clone(), work, run.args.clone());
    let platform = &conductor.graph.nodes[id].platform;
    let emulated = conductor.build.is_emulated(platform);
    spec.mounts = list;
    spec.env = environment(run, secret_env);
    spec.cwd = run.cwd.clone();
    spec.user = run.user.clone();
    spec.network = match run.network {
        Network::Default => sandbox::Network::Default,
        Network::None => sandbox::Network::None,
        Network::Host => sandbox::Network::Host,
    };
    let options = conductor.build.options_of(&conductor.graph.nodes[id]);
    spec.hostname = options.hostname.clone();
    spec.personality32 = !emulated && matches!(platform.architecture.as_str(), "386" | "arm");
    // QEMU maps programs where address space randomisation may already have put something.
    spec.no_aslr = emulated;
    spec.shm_size = options.shm_size;
    spec.limits = options.limits.clone();
    spec.insecure = run.insecure;
    let group = match &options.cgroups {
        Some(groups) => Some(groups.step().map_err(|error| {
            Failure::of(Kind::Host, "cannot make a control group", &error).with_hint(error.hint())
        })?),
        None => None,
    };
    spec.cgroup = group.as_ref().map(|group| group.path().to_owned());

    let mut tail = Vec::new();
    let outcome = session
        .run(
            &spec,
            &OwnersOf(&tree),
            &mut |stream, bytes| {
                keep_tail(&mut tail, bytes);
                let stream = match stream {
                    sandbox::Stream::Stdout => Stream::Stdout,
                    sandbox::Stream::Stderr => Stream::Stderr,
                };
                conductor.build.watch.event(Event::Output {
                    step: id,
                    stream,
                    bytes: bytes.to_vec(),
                });
            },
            conductor.build.cancel,
        )
        .map_err(|error| sandbox_failure(&error))?;
    let starved = group.is_some_and(|group| group.ran_out_of_memory());
    // A shell in it is not what the limits are for.
    spec.cgroup = None;
    if !outcome.status.success() {
        let mut failure = failed(run, &outcome, &tail, emulated, &platform.architecture);
        if starved {
            let hint = "the step ran out of the memory that --memory or --resource memory= allows";
            failure.hints.push(hint.to_owned());
        }
        let wreck =
            Failed { run, node: id, key, below, tree: &tree, spec, staging, guards, agents };
        shell::put_away(conductor, wreck)?;
        return Err(failure);
    }
    drop((guards, agents));
    let options = DiffOptions {
        owner: (outcome.uid, outcome.gid),
        stubs: &stubs,
        owned: outcome.owned.as_deref(),
        now: conductor.build.options.now(),
    };
    let toc = snapshot::diff(&upper, &tree, session.id_map(), &options)
        .map_err(|error| Failure::of(Kind::Step, "cannot take the step's changes", &error))?;
    let (build, node) = (conductor.build, &conductor.graph.nodes[id]);
    leak::search(&build.checks, &build.options_of(node).secrets, node, &upper, &toc)?;
    conductor.weigh(id, waste::measure(&toc, &tree));
    let layer = LayerId::from_run_key(key);
    conductor.layers.save_toc(&layer, toc)?;
    let trees = conductor.build.store.trees();
    // What an earlier run of the same key left must not be taken for what this one made.
    if trees.path(&layer).is_some() {
        trees.discard(&layer).map_err(|error| store(&error))?;
    }
    conductor.layers.forget_blobs(&layer);
    trees.install(&upper, &layer).map_err(|error| store(&error))?;
    Ok((layer, conductor.build.options.now()))
}

/// Makes the mounts of resolv.conf and hosts.
pub(in crate::build) fn name_files(options: &Options) -> Vec<sandbox::Mount> {
    let mut hosts =
        String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    hosts.push_str(&format!("127.0.0.1\t{}\n", options.hostname));
    for (name, address) in &options.add_hosts {
        hosts.push_str(&format!("{address}\t{name}\n"));
    }
    let resolv = options.resolv_conf.clone();
    [("/etc/resolv.conf", resolv), ("/etc/hosts", hosts.into_bytes())]
        .into_iter()
        .map(|(target, bytes)| sandbox::Mount {
            target: target.to_owned(),
            kind: sandbox::MountKind::File { bytes, mode: 0o644, uid: 0, gid: 0 },
        })
        .collect()
}

/// Gives the directories of layers, bottom first: empty layers left out, of layers that come twice
/// the upper one (an overlay takes each directory once), deep stacks merged.
pub(in crate::build) fn directories(
    conductor: &Conductor<'_>,
    session: &Session,
    layers: &[LayerId],
    tree: &Tree,
    staging: &Path,
) -> Result<Vec<PathBuf>, Failure> {
    let mut seen = HashSet::new();
    let mut kept: Vec<&LayerId> = Vec::new();
    for layer in layers.iter().rev() {
        if seen.insert(layer) && !conductor.layers.toc(layer)?.is_empty() {
            kept.push(layer);
        }
    }
    kept.reverse();
    // Two places are needed, for implied directories and for mount-point stubs.
    let most = sandbox::MAX_LOWERS - 2;
    let implied = implied_dirs(conductor, &kept, tree)?;
    let mut dirs = Vec::new();
    if kept.len() > most {
        let (bottom, top) = kept.split_at(kept.len() - most / 2);
        // Chunks of half the limit keep their names while the stack grows, so each is merged once.
        for chunk in bottom.chunks(most / 2) {
            dirs.push(merged(conductor, chunk)?);
        }
        kept = top.to_vec();
    }
    for layer in kept {
        dirs.push(conductor.layers.directory(layer)?);
    }
    if !implied.is_empty() {
        dirs.push(repeated(conductor, session, &implied, tree, staging)?);
    }
    Ok(dirs)
}

/// Finds directories that a layer holds without listing them, and that a layer below it lists.
/// Unpacked on its own, the upper layer would show them with attributes that nobody gave them.
fn implied_dirs(
    conductor: &Conductor<'_>,
    layers: &[&LayerId],
    tree: &Tree,
) -> Result<BTreeSet<RootPath>, Failure> {
    let mut out = BTreeSet::new();
    for layer in layers.iter().skip(1) {
        for dir in conductor.layers.implied_dirs(layer)?.iter() {
            if !out.contains(dir) && tree.lookup(dir).is_some_and(|found| found.is_dir()) {
                out.extend(dir.ancestors());
                out.insert(dir.clone());
            }
        }
    }
    Ok(out)
}

/// Makes one more directory for the top of the stack, in which implied directories have the
/// attributes that the tree says.
fn repeated(
    conductor: &Conductor<'_>,
    session: &Session,
    dirs: &BTreeSet<RootPath>,
    tree: &Tree,
    staging: &Path,
) -> Result<PathBuf, Failure> {
    let failed = |error: &(dyn std::error::Error + 'static)| {
        Failure::of(Kind::Store, "cannot prepare a step", error)
    };
    let mut path = staging.join("implied");
    let mut number = 0;
    while let Err(error) = std::fs::create_dir(&path) {
        if error.kind() != std::io::ErrorKind::AlreadyExists {
            return Err(failed(&error));
        }
        number += 1;
        path = staging.join(format!("implied-{number}"));
    }
    let mut writer = TreeWriter::new(&path, session.id_map()).map_err(|error| failed(&error))?;
    for dir in std::iter::once(&RootPath::root()).chain(dirs) {
        let entry = match tree.lookup(dir) {
            Some(found) => found.entry.to_entry(),
            None => directory(dir.clone(), 0o755, 0, 0, conductor.build.options.now()),
        };
        writer.entry(&entry, &mut std::io::empty()).map_err(|error| failed(&error))?;
    }
    writer.finish().map_err(|error| failed(&error))?;
    Ok(path)
}

fn merged(conductor: &Conductor<'_>, layers: &[&LayerId]) -> Result<PathBuf, Failure> {
    let names: Vec<&str> = layers.iter().map(|layer| layer.as_str()).collect();
    let name = LayerId::from_toc_digest(Digest::of(names.join("\n").as_bytes()));
    let trees = conductor.build.store.trees();
    if let Some(path) = trees.path(&name) {
        return Ok(path);
    }
    let failed = |error: &(dyn std::error::Error + 'static)| {
        Failure::of(Kind::Store, "cannot merge layers", error)
    };
    let dirs = layers
        .iter()
        .map(|layer| conductor.layers.directory(layer))
        .collect::<Result<Vec<_>, _>>()?;
    let staging = trees.staging().map_err(|error| failed(&error))?;
    snapshot::merge(&dirs, staging.path()).map_err(|error| failed(&error))?;
    trees.install(staging.path(), &name).map_err(|error| failed(&error))
}

/// Makes the working directory in the upper directory when the image lacks it, as runc does.
fn make_cwd(
    conductor: &Conductor<'_>,
    session: &Session,
    tree: &Tree,
    cwd: &str,
    upper: &Path,
) -> Result<(), Failure> {
    let path = RootPath::from(cwd);
    let Ok(path) = tree.resolve(&path, true) else { return Ok(()) };
    if path.is_root() || tree.lookup(&path).is_some() {
        return Ok(());
    }
    let failed = |error: &(dyn std::error::Error + 'static)| {
        Failure::of(Kind::Store, &format!("cannot make the working directory {cwd}"), error)
    };
    let mut writer = TreeWriter::new(upper, session.id_map()).map_err(|error| failed(&error))?;
    for dir in path.ancestors().chain([path.clone()]) {
        let entry = match tree.lookup(&dir) {
            Some(found) => found.entry.to_entry(),
            None => directory(dir, 0o755, 0, 0, conductor.build.options.now()),
        };
        writer.entry(&entry, &mut std::io::empty()).map_err(|error| failed(&error))?;
    }
    writer.finish().map_err(|error| failed(&error))
}

fn directory(path: RootPath, mode: u32, uid: u32, gid: u32, mtime: i64) -> Entry {
    Entry { path, kind: EntryKind::Dir, mode, uid, gid, mtime, xattrs: Default::default() }
}

fn environment(run: &graph::Run, secrets: Vec<(String, String)>) -> Vec<String> {
    let mut names = BTreeSet::new();
    let mut pairs = run.env.to_vec();
    pairs.extend(run.proxy.iter().cloned().chain(secrets));
    pairs.reverse();
    pairs.retain(|(name, _)| names.insert(name.clone()));
    pairs.reverse();
    pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// The mounts of one RUN, as they are gathered.
pub(super) struct Mounts<'m> {
    pub(super) conductor: &'m Conductor<'m>,
    session: &'m Session,
    node: NodeId,
    staging: &'m Path,
    pub(super) list: Vec<sandbox::Mount>,
    stubs: Vec<(RootPath, StubKind)>,
    pub(super) env: Vec<(String, String)>,
    guards: Vec<MountGuard>,
    agents: Vec<AgentSocket>,
}

impl<'m> Mounts<'m> {
    fn options(&self) -> &'m Options {
        let conductor = self.conductor;
        conductor.build.options_of(&conductor.graph.nodes[self.node])
    }
}

impl Mounts<'_> {
    pub(super) fn push(&mut self, target: &str, stub: StubKind, kind: sandbox::MountKind) {
        self.stubs.push((RootPath::from(target), stub));
        self.list.push(sandbox::Mount { target: target.to_owned(), kind });
    }

    /// What every RUN has: /proc, /sys and /dev are the sandbox's own; resolv.conf and hosts.
    fn standard(&mut self) {
        for dir in ["/proc", "/sys", "/dev"] {
            self.stubs.push((RootPath::from(dir), StubKind::Dir));
        }
        for mount in name_files(self.options()) {
            self.push(&mount.target, StubKind::File, mount.kind);
        }
    }

    /// Has apt fetch as root where it can become nobody else: it drops its rights to those of `_apt`, and
    /// ends when it cannot.
    fn apt(&mut self, tree: &Tree) {
        const DIRECTORY: &str = "/etc/apt/apt.conf.d";
        let found = tree.lookup(&RootPath::from(DIRECTORY));
        if self.session.id_map().is_single() && found.is_some_and(|found| found.is_dir()) {
            let bytes = b"APT::Sandbox::User \"root\";\n".to_vec();
            let kind = sandbox::MountKind::File { bytes, mode: 0o644, uid: 0, gid: 0 };
            // Read last of all.
            self.push(&format!("{DIRECTORY}/zz-lapstrake"), StubKind::File, kind);
        }
    }

    fn script(&mut self, script: &graph::Inline) {
        let kind = sandbox::MountKind::File {
            bytes: script.data.clone().into_bytes(),
            mode: 0o755,
            uid: 0,
            gid: 0,
        };
        // Below /dev, which is a file system of the sandbox: no stub.
        self.list.push(sandbox::Mount { target: format!("/dev/pipes/{}", script.name), kind });
    }

    fn add(&mut self, mount: &graph::Mount) -> Result<(), Failure> {
        match &mount.kind {
            MountKind::Tmpfs { size } => {
                let kind = sandbox::MountKind::Tmpfs { size: *size, mode: 0o1777 };
                self.push(&mount.target, StubKind::Dir, kind);
            }
            MountKind::Secret { id, env, required, mode, uid, gid } => {
                self.secret(mount, id, env.as_deref(), *required, (*mode, *uid, *gid))?;
            }
            MountKind::Bind { input, source, writable } => {
                self.bind(&mount.target, *input, source, *writable)?;
            }
            MountKind::Cache { .. } => self.cache(mount)?,
            MountKind::Ssh { .. } => self.ssh(mount)?,
        }
        Ok(())
    }

    fn secret(
        &mut self,
        mount: &graph::Mount,
        id: &str,
        env: Option<&str>,
        required: bool,
        (mode, uid, gid): (u32, u32, u32),
    ) -> Result<(), Failure> {
        let Some(bytes) = self.options().secrets.get(id) else {
            if required {
                return Err(Failure::new(Kind::Step, format!("secret {id}: not found")).with_hint(
                    format!("give it: --secret id={id},src=FILE or --secret id={id},env=NAME"),
                ));
            }
            return Ok(());
        };
        if let Some(name) = env {
            let value = String::from_utf8(bytes.clone()).map_err(|_| {
                Failure::new(
                    Kind::Step,
                    format!("secret {id} is not text, so it can't be a variable"),
                )
                .with_hint("mount it as a file: leave env= out")
            })?;
            self.env.push((name.to_owned(), value));
        }
        if !mount.target.is_empty() {
            let kind = sandbox::MountKind::File { bytes: bytes.clone(), mode, uid, gid };
            self.push(&mount.target, StubKind::File, kind);
        }
        Ok(())
    }

    fn ssh(&mut self, mount: &graph::Mount) -> Result<(), Failure> {
        let MountKind::Ssh { id, sets_variable, required, mode, uid, gid } = &mount.kind else {
            return Ok(());
        };
        let Some(agent) = self.options().ssh.get(id) else {
            if *required {
                return Err(Failure::new(Kind::Step, format!("ssh agent {id}: not found"))
                    .with_hint(format!("give it: --ssh {id}, or --ssh {id}=SOCKET|KEY")));
            }
            return Ok(());
        };
        let name = format!("agent-{}", self.list.len());
        let socket = AgentSocket::new(self.staging, &name, agent, (*mode, *uid, *gid))
            .map_err(|error| Failure::of(Kind::Store, "cannot make a socket for ssh", &error))?;
        let kind = sandbox::MountKind::Bind {
            source: socket.path().to_owned(),
            subpath: String::new(),
            access: Access::ReadWrite,
        };
        self.agents.push(socket);
        self.push(&mount.target, StubKind::File, kind);
        let has_own = match &self.conductor.graph.nodes[self.node].op {
            Op::Run(run) => run.env.get("SSH_AUTH_SOCK").is_some(),
            _ => false,
        };
        if *sets_variable && !has_own {
            self.env.push(("SSH_AUTH_SOCK".to_owned(), mount.target.clone()));
        }
        Ok(())
    }

    fn scratch(&self) -> Result<PathBuf, Failure> {
        let path = self.staging.join(format!("scratch-{}", self.list.len()));
        std::fs::create_dir(&path)
            .map_err(|error| Failure::of(Kind::Store, "cannot prepare a mount", &error))?;
        Ok(path)
    }

    fn bind(
        &mut self,
        target: &str,
        input: usize,
        source: &str,
        writable: bool,
    ) -> Result<(), Failure> {
        let input = self.conductor.graph.nodes[self.node].inputs[input];
        let (lowers, subpath, is_dir) = self.input(input, source)?;
        let access =
            if writable { Access::Discard { scratch: self.scratch()? } } else { Access::ReadOnly };
        let stub = if is_dir { StubKind::Dir } else { StubKind::File };
        self.push(target, stub, sandbox::MountKind::Layers { lowers, subpath, access });
        Ok(())
    }

    /// Gives the directories of an input, where `source` lies in them, and whether it is one itself.
    fn input(&self, input: NodeId, source: &str) -> Result<(Vec<PathBuf>, String, bool), Failure> {
        let conductor = self.conductor;
        let missing = || {
            Failure::new(Kind::Step, format!("mount source {source:?} not found"))
                .with_hint("check the path, and that .dockerignore does not leave it out")
        };
        if let Op::Local { context } = &conductor.graph.nodes[input].op {
            let context = conductor.build.context(context)?;
            let whole = whole(source);
            let (listing, _) = select(&context, &whole)?;
            let tree = Tree::new(vec![listing]);
            let path = tree.resolve(&RootPath::from(source), true).unwrap_or_default();
            let found = tree.lookup(&path).ok_or_else(missing)?;
            let is_dir = matches!(found.entry.kind, KindRef::Dir);
            let options = CopyOptions { now: conductor.build.options.now(), ..Default::default() };
            let empty = Tree::default();
            let mut planner = Planner::new(&empty, &options, false).map_err(copy_failure)?;
            planner.copy(&tree, source, "/").map_err(copy_failure)?;
            let (toc, origins) = planner.finish();
            let files = Copied {
                origins,
                inline: Default::default(),
                extracted: None,
                sources: vec![Arc::new(ContextFiles(context.clone()))],
            };
            // The directory is named after what its files hold, which a listing does not know yet.
            let toc = digested(toc, &[Some(context.clone())], &files)?;
            let files: Arc<dyn Files> = Arc::new(files);
            let layer = LayerId::from_toc_digest(toc.digest());
            conductor.layers.save_toc(&layer, toc)?;
            conductor.layers.set_files(&layer, files);
            let dir = conductor.layers.directory(&layer)?;
            let subpath = match (is_dir, RootPath::from(source).file_name()) {
                (false, Some(name)) => String::from_utf8_lossy(name).into_owned(),
                _ => String::new(),
            };
            return Ok((vec![dir], subpath, is_dir));
        }
        let outcome = conductor.outcome(Some(input)).ok_or_else(|| {
            Failure::new(Kind::Store, "a mount was made before what it mounts was done")
        })?;
        let tree = conductor.layers.tree(&outcome.layers)?;
        let path = tree.resolve(&RootPath::from(source), true).unwrap_or_default();
        let found = tree.lookup(&path).ok_or_else(missing)?;
        let is_dir = matches!(found.entry.kind, KindRef::Dir);
        let subpath = String::from_utf8_lossy(path.as_bytes()).into_owned();
        let lowers = directories(conductor, self.session, &outcome.layers, &tree, self.staging)?;
        Ok((lowers, subpath, is_dir))
    }

    fn cache(&mut self, mount: &graph::Mount) -> Result<(), Failure> {
        let MountKind::Cache { id, sharing, input, source, mode, uid, gid, read_only } =
            &mount.kind
        else {
            return Ok(());
        };
        let build = self.conductor.build;
        let node = &self.conductor.graph.nodes[self.node];
        let origin = input.map(|index| node.inputs[index]);
        let from = origin
            .and_then(|input| self.conductor.tree_of(input))
            .map_or_else(String::new, |tree| tree.0.to_string());
        let identity = MountId {
            id: id.clone(),
            uid: *uid,
            gid: *gid,
            mode: *mode,
            variant: format!("{}\n{from}", self.session.id_map().fingerprint()),
        };
        let sharing = match sharing {
            graph::Sharing::Shared => Sharing::Shared,
            graph::Sharing::Private => Sharing::Private,
            graph::Sharing::Locked => Sharing::Locked,
        };
        let failed = |error: &(dyn std::error::Error + 'static)| {
            Failure::of(Kind::Store, &format!("cannot use the cache mount {id:?}"), error)
        };
        let mut guard = build
            .store
            .mounts()
            .acquire(&identity, sharing, &|| build.cancel.is_cancelled())
            .map_err(|error| {
                if build.cancel.is_cancelled() { Failure::interrupted() } else { failed(&error) }
            })?;
        build.carried.note(&identity);
        if guard.is_new() {
            let carried = build.carried.fetch(build, id);
            self.fill(guard.path(), origin, (*mode, *uid, *gid), carried.as_deref())?;
            guard.set_ready().map_err(|error| failed(&error))?;
        }
        let access = if *read_only { Access::ReadOnly } else { Access::ReadWrite };
        let kind = sandbox::MountKind::Bind {
            source: guard.path().to_owned(),
            subpath: source.trim_start_matches('/').to_owned(),
            access,
        };
        self.guards.push(guard);
        self.push(&mount.target, StubKind::Dir, kind);
        Ok(())
    }

    /// Gives a new cache its owner, its mode and its first contents.
    fn fill(
        &self,
        dir: &Path,
        origin: Option<NodeId>,
        (mode, uid, gid): (u32, u32, u32),
        carried: Option<&Path>,
    ) -> Result<(), Failure> {
        let failed = |error: &(dyn std::error::Error + 'static)| {
            Failure::of(Kind::Store, "cannot fill a cache mount", error)
        };
        let now = self.conductor.build.options.now();
        let mut writer =
            TreeWriter::new(dir, self.session.id_map()).map_err(|error| failed(&error))?;
        let root = directory(RootPath::root(), mode, uid, gid, now);
        writer.entry(&root, &mut std::io::empty()).map_err(|error| failed(&error))?;
        if let Some(blob) = carried {
            return carried::unpack(blob, writer).map_err(|error| failed(error.as_ref()));
        }
        if let Some(origin) = origin
            && let Some(outcome) = self.conductor.outcome(Some(origin))
            && !outcome.layers.is_empty()
        {
            let layers = &self.conductor.layers;
            let tree = layers.tree(&outcome.layers)?;
            let empty = Tree::default();
            let options = CopyOptions { now, ..Default::default() };
            let mut planner = Planner::new(&empty, &options, false).map_err(copy_failure)?;
            planner.copy(&tree, "/", "/").map_err(copy_failure)?;
            let (toc, origins) = planner.finish();
            let mut wanted = toc.iter().filter_map(|entry| origins.source_of(&entry.root_path()));
            let chain = layers.chain(&outcome.layers, &tree, &mut wanted)?;
            drop(wanted);
            for entry in toc.iter() {
                let owned = entry.to_entry();
                let mut content: Box<dyn std::io::Read> = match entry.kind {
                    KindRef::File { size, .. } if size > 0 => {
                        let from = origins.source_of(&owned.path).unwrap_or_default();
                        chain.open(&from).map_err(|error| failed(&error))?
                    }
                    _ => Box::new(std::io::empty()),
                };
                writer.entry(&owned, &mut content).map_err(|error| failed(&error))?;
            }
        }
        writer.finish().map_err(|error| failed(&error))
    }
}

/// A COPY of one path, for what it selects.
pub(super) fn whole(source: &str) -> graph::Copy {
    graph::Copy {
        add: false,
        sources: vec![source.to_owned()],
        origins: Vec::new(),
        inline: Vec::new(),
        dest: "/".to_owned(),
        chown: None,
        chmod: None,
        link: false,
        parents: false,
        exclude: Vec::new(),
        unpack: false,
        unpack_remote: false,
    }
}

fn keep_tail(tail: &mut Vec<u8>, bytes: &[u8]) {
    tail.extend_from_slice(bytes);
    if tail.len() > 2 * TAIL {
        tail.drain(..tail.len() - TAIL);
    }
}

/// Cuts what was kept to the last lines.
fn last_lines(tail: &[u8]) -> Vec<u8> {
    let text = tail.strip_suffix(b"\n").unwrap_or(tail);
    let start = text
        .iter()
        .enumerate()
        .rev()
        .filter(|&(_, &b)| b == b'\n')
        .nth(TAIL_LINES - 1)
        .map_or(0, |(at, _)| at + 1);
    text[start..].to_vec()
}

pub(in crate::build) fn sandbox_failure(error: &sandbox::Error) -> Failure {
    if matches!(error, sandbox::Error::Cancelled) {
        return Failure::interrupted();
    }
    let failure = Failure::of(Kind::Host, "", error);
    match error.hint() {
        Some(hint) => failure.with_hint(hint.to_owned()),
        None => failure.with_hint("run `lapstrake doctor` to see what this host allows"),
    }
}

fn failed(
    run: &graph::Run,
    outcome: &sandbox::RunOutcome,
    tail: &[u8],
    emulated: bool,
    arch: &str,
) -> Failure {
    let command = run.args.join(" ");
    let shown: String = command.chars().take(200).collect();
    let shown = if shown.len() < command.len() { format!("{shown}…") } else { shown };
    let code = outcome.status.code();
    let mut failure = match &outcome.status {
        sandbox::Status::NotStarted { message, hint, .. } => {
            let mut failure = Failure::new(Kind::Step, message.clone());
            failure.hints.extend(hint.clone());
            failure
        }
        sandbox::Status::Exited(code) => Failure::new(
            Kind::Step,
            format!("process {shown:?} did not complete successfully: exit code: {code}"),
        ),
        sandbox::Status::Signaled(signal) => {
            Failure::new(Kind::Step, format!("process {shown:?} was killed by signal {signal}"))
        }
    };
    failure.code = Some(code);
    failure.output = last_lines(tail);
    let crashed = matches!(code, 132 | 134 | 139)
        || String::from_utf8_lossy(&failure.output).contains("uncaught target signal");
    if emulated && crashed {
        failure.hints.push(format!(
            "the program crashed under emulation ({arch}); try a newer QEMU with --emulator {arch}=PATH, \
             or run this stage natively: FROM --platform=$BUILDPLATFORM"
        ));
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept() {
        let mut tail = Vec::new();
        for number in 0..100 {
            keep_tail(&mut tail, format!("line {number}\n").as_bytes());
        }
        let text = String::from_utf8(last_lines(&tail)).expect("text");
        assert_eq!(text.lines().count(), TAIL_LINES);
        assert!(text.starts_with("line 80\n") && text.ends_with("line 99"), "{text}");
        assert_eq!(last_lines(b"one"), b"one");
    }

    #[test]
    fn later_variables_win_and_secrets_come_last() {
        let run = graph::Run {
            args: Vec::new(),
            script: None,
            env: graph::Variables::from_iter([("A".into(), "1".into()), ("B".into(), "2".into())]),
            proxy: vec![("P".into(), "p".into())],
            cwd: "/".into(),
            user: String::new(),
            network: Network::Default,
            mounts: Vec::new(),
            insecure: false,
            devices: Vec::new(),
        };
        let env = environment(&run, vec![("A".into(), "secret".into())]);
        assert_eq!(env, ["B=2", "P=p", "A=secret"]);
    }
}
