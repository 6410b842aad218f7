//! A shell in the root file system of a step: of the one that failed (`--on-error`), or of what a
//! stage has become (`lapstrake shell`).
//!
//! A [`Wreck`] is what a failed RUN leaves when somebody wants to look at it: its directories, its
//! mounts and the session that it ran in. Nothing of it outlives the build, unless it is kept: then
//! its changes become a tree of the store, with a record that [`kept`] finds again and that pruning
//! knows like any other.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::graph::{self, NodeId};
use crate::layer::LayerId;
use crate::layer::tree::Tree;
use crate::layer::{RootPath, toc::KindRef};
use crate::oci::{Digest, ImageConfig};
use crate::sandbox::{self, Access, MountKind, RunOutcome, RunSpec, Session};
use crate::store::{MountGuard, StepRecord, Store, TmpDir};

use super::Options;
use super::conductor::{Conductor, Outcome};
use super::error::{Failure, Kind};
use super::steps::{self, AgentSocket};

/// `--on-error`: what becomes of a RUN that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// It goes.
    #[default]
    Fail,
    /// A shell is opened in it.
    Shell,
    /// It is kept for `lapstrake shell`.
    Keep,
}

/// Where our own shell lies in a root file system that has none: /dev is the sandbox's own.
const OWN_SHELL: &str = "/dev/lapstrake-shell";

/// What a failed RUN leaves.
pub struct Wreck {
    /// The step, as in the Dockerfile.
    pub name: String,
    /// Its number for `lapstrake shell`, where it was kept.
    pub kept: Option<String>,
    session: Arc<Session>,
    spec: RunSpec,
    shell: Option<String>,
    // Dropped before the directory that they are in.
    _agents: Vec<AgentSocket>,
    staging: TmpDir,
    _guards: Vec<MountGuard>,
}

/// What a record of a kept step says besides its layer.
#[derive(Debug, Serialize, Deserialize)]
pub struct Kept {
    /// The step, as in the Dockerfile.
    pub name: String,
    /// Layers below it, bottom first.
    pub layers: Vec<LayerId>,
    /// ENV and ARG; no secret is among them.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub cwd: String,
    /// USER.
    pub user: String,
    /// Platform, as `linux/arm64`.
    pub platform: String,
}

/// The parts of a failed RUN.
pub(super) struct Failed<'r> {
    pub(super) run: &'r graph::Run,
    pub(super) node: NodeId,
    pub(super) key: Digest,
    pub(super) below: &'r Outcome,
    pub(super) tree: &'r Tree,
    pub(super) spec: RunSpec,
    pub(super) staging: TmpDir,
    pub(super) guards: Vec<MountGuard>,
    pub(super) agents: Vec<AgentSocket>,
}

/// Puts away what a failed RUN leaves, as `--on-error` says. A second one is let go: other steps may
/// fail while the first is looked at.
pub(super) fn put_away(conductor: &Conductor<'_>, failed: Failed<'_>) -> Result<(), Failure> {
    let build = conductor.build;
    let Some(session) = conductor.layers.shared_session() else { return Ok(()) };
    let mut place = super::layers::lock(&build.wreck);
    if place.is_some() || build.options.on_error == OnError::Fail {
        return Ok(());
    }
    let node = &conductor.graph.nodes[failed.node];
    let mut kept = None;
    if build.options.on_error == OnError::Keep {
        let fail = |error: &(dyn std::error::Error + 'static)| {
            Failure::of(Kind::Store, "cannot keep the failed step", error)
        };
        let key = Digest::of(format!("failed {}", failed.key).as_bytes());
        let layer = LayerId::from_run_key(key);
        let trees = build.store.trees();
        trees.discard(&layer).map_err(|error| fail(&error))?;
        trees.install(&failed.spec.upper, &layer).map_err(|error| fail(&error))?;
        let about = Kept {
            name: node.name.clone(),
            layers: failed.below.layers.to_vec(),
            env: failed.run.env.to_vec(),
            cwd: failed.run.cwd.clone(),
            user: failed.run.user.clone(),
            platform: node.platform.to_string(),
        };
        let about = serde_json::to_value(about).map_err(|error| fail(&error))?;
        let record = StepRecord {
            layer: Some(layer),
            created: build.options.now(),
            extra: [("failed".to_owned(), about)].into(),
            ..StepRecord::default()
        };
        let number = key.hex()[..12].to_owned();
        build.store.steps().put(&key, &record).map_err(|error| fail(&error))?;
        build.store.steps().put_at(&number_of(&number), &key).map_err(|error| fail(&error))?;
        kept = Some(number);
    }
    *place = Some(Wreck {
        name: node.name.clone(),
        kept,
        session,
        shell: shell_of(failed.tree),
        spec: failed.spec,
        staging: failed.staging,
        _guards: failed.guards,
        _agents: failed.agents,
    });
    Ok(())
}

fn number_of(number: &str) -> Digest {
    Digest::of(format!("kept {number}").as_bytes())
}

/// Finds a kept step by its number; gives its layers, its own last.
pub fn kept(store: &Store, number: &str) -> Option<Kept> {
    let record = store.steps().last_at(&number_of(number))?;
    let mut kept: Kept = serde_json::from_value(record.extra.get("failed")?.clone()).ok()?;
    kept.layers.extend(record.layer);
    Some(kept)
}

/// Finds a shell of the image.
fn shell_of(tree: &Tree) -> Option<String> {
    let is_file = |path: &&&str| {
        let Ok(real) = tree.resolve(&RootPath::from(**path), true) else { return false };
        tree.lookup(&real)
            .is_some_and(|found| matches!(found.target().entry.kind, KindRef::File { .. }))
    };
    ["/bin/bash", "/bin/sh", "/bin/ash", "/usr/bin/bash", "/usr/bin/sh", "/busybox/sh"]
        .iter()
        .find(is_file)
        .map(|path| (*path).to_owned())
}

impl Wreck {
    /// Opens a shell in it, and waits until the user leaves.
    pub fn open(mut self, term: Option<&str>, cancel: &sandbox::Cancel) -> Result<(), Failure> {
        let scratch = |name: String| -> Result<PathBuf, Failure> {
            let path = self.staging.path().join(name);
            std::fs::create_dir(&path)
                .map_err(|error| Failure::of(Kind::Store, "cannot prepare a shell", &error))?;
            Ok(path)
        };
        // An overlay that is volatile refuses the work directory of the one before it.
        self.spec.work = scratch("shell-work".to_owned())?;
        for (number, mount) in self.spec.mounts.iter_mut().enumerate() {
            if let MountKind::Bind { access: access @ Access::Discard { .. }, .. }
            | MountKind::Layers { access: access @ Access::Discard { .. }, .. } = &mut mount.kind
            {
                *access = Access::Discard { scratch: scratch(format!("shell-scratch-{number}"))? };
            }
        }
        converse(&self.session, self.spec, self.shell, term, cancel).map(drop)
    }
}

/// Runs a shell with what a spec has; gives how it ended.
fn converse(
    session: &Session,
    mut spec: RunSpec,
    shell: Option<String>,
    term: Option<&str>,
    cancel: &sandbox::Cancel,
) -> Result<RunOutcome, Failure> {
    let program = match shell {
        Some(shell) => shell,
        None => {
            let exe = std::fs::read_link("/proc/self/exe")
                .map_err(|error| Failure::of(Kind::Host, "cannot find lapstrake itself", &error))?;
            spec.mounts.push(sandbox::Mount {
                target: OWN_SHELL.to_owned(),
                kind: MountKind::Bind {
                    source: exe,
                    subpath: String::new(),
                    access: Access::ReadOnly,
                },
            });
            OWN_SHELL.to_owned()
        }
    };
    spec.args = vec![program];
    spec.env.extend(term.map(|term| format!("TERM={term}")));
    if !spec.env.iter().any(|variable| variable.starts_with("PS1=")) {
        spec.env.push("PS1=\\w # ".to_owned());
    }
    session.converse(&spec, &(), cancel).map_err(|error| steps::run::sandbox_failure(&error))
}

/// Opens a shell on what a node has become. What it changes is lost.
pub fn open(
    conductor: &Conductor<'_>,
    node: Option<NodeId>,
    config: &ImageConfig,
    term: Option<&str>,
) -> Result<RunOutcome, Failure> {
    let outcome = conductor.outcome(node).ok_or_else(|| {
        Failure::new(Kind::Store, "a shell was asked for before its stage was built")
    })?;
    let session = conductor.layers.session().ok_or_else(|| {
        Failure::new(Kind::Host, "a shell was asked for, but no user namespace was entered")
    })?;
    let build = conductor.build;
    let staging = build
        .store
        .trees()
        .staging()
        .map_err(|error| Failure::of(Kind::Store, "cannot prepare a shell", &error))?;
    let tree = conductor.layers.tree(&outcome.layers)?;
    let lowers =
        steps::run::directories(conductor, session, &outcome.layers, &tree, staging.path())?;
    let runtime = &config.config;
    let place = Place {
        lowers,
        env: runtime.env.clone(),
        cwd: runtime.working_dir.clone(),
        user: runtime.user.clone(),
        shell: shell_of(&tree),
    };
    place.open(session, &build.options, staging.path(), term, build.cancel)
}

/// A program to run in an image, as `docker run` would.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Execute {
    /// In place of the image's entry point and command.
    pub entry_point: Option<String>,
    /// Arguments; without any, the image's command.
    pub args: Vec<String>,
    /// `NAME=value`, besides the image's.
    pub env: Vec<String>,
    /// In place of the image's working directory.
    pub cwd: Option<String>,
    /// In place of the image's user.
    pub user: Option<String>,
    /// Mounted in this order.
    pub mounts: Vec<sandbox::Mount>,
}

impl Execute {
    /// Gives the whole command line.
    fn command(&self, runtime: &crate::oci::config::RuntimeConfig) -> Vec<String> {
        let mut out = match &self.entry_point {
            Some(entry) => vec![entry.clone()],
            None => runtime.entrypoint.clone().unwrap_or_default(),
        };
        match (self.args.is_empty(), &self.entry_point) {
            (true, None) => out.extend(runtime.cmd.clone().unwrap_or_default()),
            _ => out.extend(self.args.iter().cloned()),
        }
        out
    }
}

/// Runs a program in what a node has become. What it changes is lost, but for what is mounted.
pub fn execute(
    conductor: &Conductor<'_>,
    output: &graph::Output,
    execute: &Execute,
    on_output: &mut dyn FnMut(sandbox::Stream, &[u8]),
) -> Result<RunOutcome, Failure> {
    let (outcome, session) = match (conductor.outcome(output.node), conductor.layers.session()) {
        (Some(outcome), Some(session)) => (outcome, session),
        _ => return Err(Failure::new(Kind::Store, "a program was started before its image")),
    };
    let build = conductor.build;
    let staging = build
        .store
        .trees()
        .staging()
        .map_err(|error| Failure::of(Kind::Store, "cannot prepare a program", &error))?;
    let tree = conductor.layers.tree(&outcome.layers)?;
    let lowers =
        steps::run::directories(conductor, session, &outcome.layers, &tree, staging.path())?;
    let runtime = &output.config.config;
    let args = execute.command(runtime);
    if args.is_empty() {
        return Err(Failure::new(Kind::Step, "the image has no command, and none was given"));
    }
    let mut env = runtime.env.clone();
    for variable in &execute.env {
        let name = variable.split_once('=').map_or(variable.as_str(), |(name, _)| name);
        env.retain(|known| known.split_once('=').map(|(known, _)| known) != Some(name));
        env.push(variable.clone());
    }
    let place = Place {
        lowers,
        env,
        cwd: execute.cwd.clone().unwrap_or_else(|| runtime.working_dir.clone()),
        user: execute.user.clone().unwrap_or_else(|| runtime.user.clone()),
        shell: None,
    };
    let mut spec = place.spec(&build.options, staging.path())?;
    spec.args = args;
    spec.mounts.extend(execute.mounts.iter().cloned());
    session
        .run(&spec, &steps::run::OwnersOf(&tree), on_output, build.cancel)
        .map_err(|error| steps::run::sandbox_failure(&error))
}

/// A root file system to open a shell in.
pub struct Place {
    /// Directories of its layers, bottom first.
    pub lowers: Vec<PathBuf>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Working directory; the root where it is empty.
    pub cwd: String,
    /// USER.
    pub user: String,
    /// A shell of the image.
    pub shell: Option<String>,
}

impl Place {
    /// Makes the place of a kept step, whose layers must still be there as directories.
    pub fn of_kept(kept: &Kept, store: &Store) -> Result<Place, Failure> {
        let mut lowers = Vec::new();
        let mut tocs = Vec::new();
        for layer in &kept.layers {
            let gone = || {
                Failure::new(Kind::Store, "the layers below the kept step are gone from the store")
                    .with_hint("build again with --on-error=keep")
            };
            let toc = store.tocs().load(layer).ok().flatten();
            // A failed step has no table of contents, and empty layers have no directory.
            match store.trees().path(layer) {
                Some(path) => lowers.push(path),
                None if toc.as_ref().is_some_and(|toc| toc.is_empty()) => {}
                None => return Err(gone()),
            }
            tocs.extend(toc);
        }
        let mut env: Vec<String> =
            kept.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !kept.env.iter().any(|(name, _)| name == "PATH") {
            env.push(format!("PATH={}", sandbox::DEFAULT_PATH));
        }
        let shell = shell_of(&Tree::new(tocs));
        Ok(Place { lowers, env, cwd: kept.cwd.clone(), user: kept.user.clone(), shell })
    }

    /// Opens a shell; what it changes goes to `staging`.
    pub fn open(
        self,
        session: &Session,
        options: &Options,
        staging: &Path,
        term: Option<&str>,
        cancel: &sandbox::Cancel,
    ) -> Result<RunOutcome, Failure> {
        let shell = self.shell.clone();
        converse(session, self.spec(options, staging)?, shell, term, cancel)
    }

    /// Says how a program is run in it, but for the program itself.
    fn spec(self, options: &Options, staging: &Path) -> Result<RunSpec, Failure> {
        let place = |name: &str| -> Result<PathBuf, Failure> {
            let path = staging.join(name);
            std::fs::create_dir(&path)
                .map_err(|error| Failure::of(Kind::Store, "cannot prepare a shell", &error))?;
            Ok(path)
        };
        let mut spec = RunSpec::new(self.lowers, place("upper")?, place("work")?, Vec::new());
        if !self.env.is_empty() {
            spec.env = self.env;
        }
        if !spec.env.iter().any(|variable| variable.starts_with("PATH=")) {
            spec.env.push(format!("PATH={}", sandbox::DEFAULT_PATH));
        }
        if !self.cwd.is_empty() {
            spec.cwd = self.cwd;
        }
        spec.user = self.user;
        spec.hostname = options.hostname.clone();
        spec.shm_size = options.shm_size;
        spec.limits = options.limits.clone();
        spec.mounts = steps::run::name_files(options);
        Ok(spec)
    }
}
