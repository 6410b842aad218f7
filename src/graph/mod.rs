//! The step graph: a Dockerfile, its targets and platforms, turned into nodes with every variable
//! expanded.
//!
//! # Model
//!
//! [`plan`] walks the stages that the target needs, once for each platform, and makes [`Node`]s:
//! a base image, a local directory, a remote source, a RUN, a COPY or ADD, a WORKDIR. A node's file system is its
//! parent's plus one layer. Metadata instructions make no node: they change the image
//! configuration, which is complete when planning ends. So no label, command or comment can ever
//! invalidate a step.
//!
//! Nodes that are equal (same operation, same parent, same inputs, same platform) are made once:
//! a stage that two platforms share is one chain of nodes and runs once.
//!
//! What planning must know of the world (base images, named contexts) it asks of a [`Resolver`].
//!
//! # Invariants
//!
//! No file system, no network, no environment, no clock. A node's parent and inputs have smaller
//! numbers than the node itself, so the order of numbers is an order to build in.
//!
//! Start reading at [`plan`].

mod add;
pub mod args;
mod budget;
pub mod check;
pub mod code;
mod expose;
mod history;
pub mod key;
mod likeness;
pub mod merge;
mod mount;
pub mod outline;
pub mod parts;
mod path;
mod plan;
mod refuse;
mod relocate;
pub mod remote;
mod stage;
#[cfg(test)]
mod tests;
mod variables;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::dockerfile::{Diagnostic, Span};
use crate::oci::{Digest, ImageConfig, Platform};

pub use plan::{Failure, plan};
pub use remote::Remote;
pub use variables::Variables;

/// Index of a node in [`Graph::nodes`].
pub type NodeId = usize;

/// The whole plan of a build.
#[derive(Debug, Default)]
pub struct Graph {
    /// All nodes; parents and inputs come before their users.
    pub nodes: Vec<Node>,
    /// The base images that nodes name.
    pub images: Vec<BaseImage>,
    /// One result a platform.
    pub outputs: Vec<Output>,
    /// Remarks of planning that do not stop the build.
    pub warnings: Vec<Diagnostic>,
    /// What decides about findings of the file alone.
    pub checks: check::Facts,
}

/// One step.
#[derive(Debug)]
pub struct Node {
    /// What it does.
    pub op: Op,
    /// The file system it starts from; None is the empty one.
    pub parent: Option<NodeId>,
    /// Other file systems that it reads, in the order in which `op` names them.
    pub inputs: Vec<NodeId>,
    /// Where its programs run. Thousands of steps share one.
    pub platform: Arc<Platform>,
    /// The name of its stage, for `--no-cache-filter` and messages. Shared likewise.
    pub stage: Arc<str>,
    /// As `[linux/arm64 build 2/5] RUN make`.
    pub name: String,
    /// Its instruction in the Dockerfile.
    pub span: Span,
    /// Must run even when its result is known.
    pub no_cache: bool,
    /// Which of several Dockerfiles that are built together ([`merge`]); 0 in a build of one.
    pub part: usize,
}

/// What a node does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Op {
    /// The layers of [`Graph::images`]`[image]`.
    Image {
        /// Which.
        image: usize,
    },
    /// The contents of a local directory: the build context (empty name) or a named one.
    Local {
        /// Its name.
        context: String,
    },
    /// What ADD gets from another machine.
    Remote(Box<Remote>),
    /// RUN.
    Run(Box<Run>),
    /// COPY and ADD.
    Copy(Box<Copy>),
    /// WORKDIR: the directory exists afterwards.
    Workdir {
        /// Absolute path.
        path: String,
        /// As in USER; empty is root. Owner of the directories that are made.
        user: String,
    },
}

/// One RUN, expanded.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Run {
    /// The argument vector.
    pub args: Vec<String>,
    /// A heredoc with a `#!` line, run as a file of this name under /dev/pipes.
    pub script: Option<Inline>,
    /// ENV and ARG, in order.
    pub env: Variables,
    /// Proxy variables that no ARG declares: seen by the program, part of no key.
    pub proxy: Vec<(String, String)>,
    /// Working directory, absolute.
    pub cwd: String,
    /// As in USER; empty is root.
    pub user: String,
    /// `--network`.
    pub network: Network,
    /// `--mount`, in order.
    pub mounts: Vec<Mount>,
    /// `--security=insecure`: all capabilities of the build's user namespace, /proc and /sys whole.
    pub insecure: bool,
    /// `--device`: the CDI name, and whether the step fails without it.
    pub devices: Vec<(String, bool)>,
}

/// The network of a RUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Network {
    /// What the build says.
    #[default]
    Default,
    /// Loopback only.
    None,
    /// The host's.
    Host,
}

/// One `--mount` of a RUN.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mount {
    /// Absolute path in the root file system; empty for a secret that is only a variable.
    pub target: String,
    /// What is mounted.
    pub kind: MountKind,
}

/// What a mount holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum MountKind {
    /// Part of another file system.
    Bind {
        /// Index in [`Node::inputs`].
        input: usize,
        /// Path there, absolute.
        source: String,
        /// Writable; what is written is thrown away.
        writable: bool,
    },
    /// A directory that lives from build to build.
    Cache {
        /// Its name.
        id: String,
        /// Who may use it at a time.
        sharing: Sharing,
        /// First contents: index in [`Node::inputs`].
        input: Option<usize>,
        /// Path below the cache, or below the first contents, absolute.
        source: String,
        /// Mode of the directory when it is made.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
        /// Not writable.
        read_only: bool,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Most bytes; None is the kernel's default.
        size: Option<u64>,
    },
    /// A secret, as a file, as a variable, or as both.
    Secret {
        /// Its name.
        id: String,
        /// The variable that carries it.
        env: Option<String>,
        /// Fail without it.
        required: bool,
        /// Mode of the file.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// The socket of an SSH agent.
    Ssh {
        /// Its name.
        id: String,
        /// The step's SSH_AUTH_SOCK; the first mount of a step sets it.
        sets_variable: bool,
        /// Fail without it.
        required: bool,
        /// Mode of the socket.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

/// `sharing=` of a cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Sharing {
    /// Any number of steps at a time.
    #[default]
    Shared,
    /// One step at a time; another one gets a new directory.
    Private,
    /// One step at a time; another one waits.
    Locked,
}

impl Copy {
    /// Gives the index in [`Node::inputs`] of what a source is taken from.
    pub fn origin(&self, source: usize) -> usize {
        self.origins.get(source).copied().unwrap_or(0)
    }

    /// Gives the sources that come from one input.
    pub fn sources_of(&self, input: usize) -> impl Iterator<Item = &String> {
        let all = self.sources.iter().enumerate();
        all.filter(move |(index, _)| self.origin(*index) == input).map(|(_, source)| source)
    }
}

/// One COPY or ADD, expanded.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Copy {
    /// ADD.
    pub add: bool,
    /// Patterns below the root of [`Node::inputs`]`[0]`, or of what `origins` says.
    pub sources: Vec<String>,
    /// For each of `sources` its index in [`Node::inputs`]; empty when all come from the first.
    pub origins: Vec<usize>,
    /// Heredocs.
    pub inline: Vec<Inline>,
    /// Absolute; a slash at the end means a directory.
    pub dest: String,
    /// `--chown`, as written.
    pub chown: Option<String>,
    /// `--chmod`, as written (checked).
    pub chmod: Option<String>,
    /// `--link`: computed on an empty root.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`.
    pub exclude: Vec<String>,
    /// Archives are extracted.
    pub unpack: bool,
    /// Archives that were downloaded are extracted.
    pub unpack_remote: bool,
}

/// A file whose contents stand in the Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Inline {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub data: String,
}

/// [`BaseImage::handle`] of an image that nobody could look at, so that its config is a guess.
pub const UNKNOWN: usize = usize::MAX;

/// A base image, resolved for one platform.
#[derive(Debug, Clone)]
pub struct BaseImage {
    /// As in the Dockerfile, normalised, with its digest.
    pub name: String,
    /// What the resolver calls it.
    pub handle: usize,
    /// Its platform.
    pub platform: Platform,
    /// Digest of its manifest.
    pub digest: Digest,
    /// Its configuration.
    pub config: ImageConfig,
}

/// The result for one platform.
#[derive(Debug)]
pub struct Output {
    /// As asked for.
    pub platform: Platform,
    /// Its file system; None is empty.
    pub node: Option<NodeId>,
    /// The configuration, without layers and without times of creation.
    pub config: ImageConfig,
    /// How many entries at the start of `config.history` are the base image's.
    pub base_history: usize,
    /// The base image whose layers lie at the bottom.
    pub base: Option<usize>,
}

/// What a name in FROM or `--from` stands for, when it is not a stage.
#[derive(Debug)]
pub enum Resolved {
    /// An image.
    Image(Box<BaseImage>),
    /// A local directory, by the name of its context.
    Directory(String),
    /// Nothing: an empty root file system.
    Scratch,
}

/// Answers planning's questions about the world.
pub trait Resolver {
    /// Looks a named context up (`--build-context`), without and with a platform in its name;
    /// None when there is no such context. Names compare without regard to case.
    fn named_context(
        &mut self,
        name: &str,
        platform: &Platform,
    ) -> Result<Option<Resolved>, ResolveError>;

    /// Finds an image: layout, archive, store, registry.
    fn image(&mut self, name: &str, platform: &Platform) -> Result<BaseImage, ResolveError>;
}

/// Why a base image can't be had.
#[derive(Debug)]
pub struct ResolveError {
    /// The cause, with everything below it.
    pub message: String,
    /// What the user can do.
    pub hint: Option<String>,
    /// Which exit code fits.
    pub exit: ResolveExit,
}

/// What kind of failure kept a base image away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResolveExit {
    /// A wrong name or option.
    Usage,
    /// Network or registry.
    Network,
    /// A damaged store or image.
    Damaged,
}

/// What a plan is made for.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The platforms asked for; empty is [`Request::host`], not asked for.
    pub platforms: Vec<Platform>,
    /// Where native programs run.
    pub host: Option<Platform>,
    /// `--target`: a stage by name or number.
    pub target: Option<String>,
    /// `--build-arg`, with values.
    pub build_args: BTreeMap<String, String>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--env`, `--unsetenv`, `--unsetlabel`.
    pub edits: Edits,
    /// `--no-cache`.
    pub no_cache: bool,
    /// `--no-cache-filter`: stages.
    pub no_cache_stages: Vec<String>,
    /// `--network`.
    pub network: Network,
    /// `--allow`.
    pub allow: Allow,
    /// Plan all stages and not only those that the target needs (`--check`).
    pub all_stages: bool,
}

/// What the command line changes in the configuration of the result, as Buildah does. What is unset
/// goes first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Edits {
    /// Variables that are set.
    pub env: BTreeMap<String, String>,
    /// Variables that are taken out.
    pub unset_env: Vec<String>,
    /// Labels that are taken out.
    pub unset_labels: Vec<String>,
}

impl Edits {
    fn apply(&self, config: &mut crate::oci::config::RuntimeConfig) {
        for name in &self.unset_labels {
            config.labels.remove(name);
        }
        config.env.retain(|pair| {
            let name = pair.split_once('=').map_or(pair.as_str(), |(name, _)| name);
            !self.unset_env.iter().any(|unset| unset == name)
        });
        for (name, value) in &self.env {
            let pair = format!("{name}={value}");
            let prefix = format!("{name}=");
            match config.env.iter_mut().find(|old| old.starts_with(&prefix)) {
                Some(old) => *old = pair,
                None => config.env.push(pair),
            }
        }
    }
}

/// What instructions may ask for only when the user allows it (BuildKit's entitlements).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allow {
    /// `network.host`: RUN --network=host.
    pub host_network: bool,
    /// `security.insecure`: RUN --security=insecure.
    pub insecure: bool,
    /// `device`: RUN --device, whatever the device.
    pub all_devices: bool,
    /// `device=NAME`: a device, or a kind and so all devices of it.
    pub devices: Vec<String>,
}
