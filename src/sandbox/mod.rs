//! One RUN: a program in a root file system of its own, with nothing of the host but its kernel
//! and (by default) its network.
//!
//! # Model
//!
//! * The **session** ([`Session::enter`]) is what all RUNs of a build share: the user namespace and
//!   its id map, a private mount namespace, and a *session init*: this program executed again from a
//!   sealed copy, in a pid namespace of its own, which ends when the builder ends, by whatever death,
//!   and takes every RUN with it.
//! * A **run** ([`Session::run`]) is a fork of the session init into new mount, pid, ipc and uts
//!   namespaces, with a [`RunSpec`] on a memfd. It puts the root together, drops what a RUN must not
//!   have, and becomes the program, as pid 1.
//! * **Emulators** ([`Session::register_emulators`]) are registered in the user namespace's own
//!   binfmt_misc, held by a detached mount: the host never sees them, and they end with the process.
//!
//! # Invariants
//!
//! * Nothing of the host's file system is reachable from a RUN but what the spec mounts.
//! * No descriptor above 2 is open in a RUN; descriptor 0 is empty.
//! * No process of a RUN outlives it, nor the builder.
//! * Never decides what a layer is: it knows directories, not Tocs.
//!
//! Start reading at `session.rs`, then `init.rs`, then `child.rs`.

pub mod cdi;
pub mod cgroup;
mod child;
pub mod emulation;
mod idmap;
mod init;
pub mod owners;
pub mod probe;
mod rootfs;
mod session;
mod spec;
mod terminal;
mod user;

pub use child::child_main;
pub use emulation::{Arch, Emulator};
pub use owners::Owners;
pub use probe::{Check, HostReport, probe, probe_in};
pub use session::{Cancel, Isolation, Options, RunOutcome, Rung, Session, Status, Stream};
pub use spec::{Access, Limit, Mount, MountKind, Network, RunSpec};

pub use crate::sys::cred::{IdMap, IdRange};
pub use crate::sys::dir::FileKind;

/// Gives the names that a [`Limit`] may have.
pub fn limit_names() -> impl Iterator<Item = &'static str> {
    crate::sys::process::LIMITS.iter().map(|(name, _)| *name)
}

/// How many lower directories an overlay takes: Linux refuses the 501st (`OVL_MAX_STACK`).
pub const MAX_LOWERS: usize = 500;

/// PATH where an image sets none (BuildKit's `system.DefaultPathEnvUnix`).
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Host name of a RUN, the same everywhere so that it does not leak into layers.
pub const DEFAULT_HOSTNAME: &str = "buildkitsandbox";

/// argv[0] by which the child knows itself.
const CHILD_ARG0: &str = "lapstrake-sandbox";

/// What can go wrong around a RUN (not in the program, which has a [`Status`]).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No user namespace can be had.
    #[error("this host does not let {who} create a user namespace: {reason}")]
    NoUserNamespace {
        /// User asking.
        who: String,
        /// What was tried and what the host's settings say.
        reason: String,
        /// The command that mends it.
        hint: String,
    },
    /// The id map that was asked for cannot be written.
    #[error("cannot map a range of user ids: {reason}")]
    NoIdRange {
        /// What failed.
        reason: String,
        /// The command that mends it.
        hint: String,
    },
    /// `Session::enter` in a process with threads.
    #[error("cannot enter a user namespace: the process already has {threads} threads")]
    Threads {
        /// How many.
        threads: usize,
    },
    /// No way to run programs of an architecture.
    #[error("cannot run {arch} programs here: {reason}")]
    NoEmulator {
        /// The architecture.
        arch: Arch,
        /// Why not.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// More layers than an overlay takes.
    #[error("{count} layers are more than an overlay takes ({MAX_LOWERS}); merge some first")]
    TooManyLowers {
        /// How many.
        count: usize,
    },
    /// The child could not make the sandbox.
    #[error("cannot set up the sandbox: {message}")]
    Setup {
        /// What failed, from the child.
        message: String,
    },
    /// The child ended without a word.
    #[error("the sandbox process ended before it ran the program ({status})")]
    Died {
        /// How.
        status: Status,
    },
    /// The spec cannot be passed on.
    #[error("cannot encode the run")]
    Spec(#[source] serde_json::Error),
    /// A system call failed in the builder.
    #[error("{doing}")]
    Sys {
        /// What was being done.
        doing: &'static str,
        /// The call.
        #[source]
        source: crate::sys::Error,
    },
    /// Cancelled by the caller.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// Gives what the user can do about it, where there is something.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Error::NoUserNamespace { hint, .. }
            | Error::NoIdRange { hint, .. }
            | Error::NoEmulator { hint, .. } => Some(hint),
            _ => None,
        }
    }
}
