//! The builder's side: entering the user namespace once, then running RUNs in it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::emulation::Emulator;
use super::spec::RunSpec;
use super::{Error, IdMap};

/// How much isolation is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Isolation {
    /// The best that this host has.
    #[default]
    Auto,
    /// A user namespace with a range of ids, or an error.
    Userns,
    /// A user namespace with the one id of the caller.
    UsernsSingle,
}

/// What isolation a session got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// A user namespace with a range of ids.
    Userns,
    /// A user namespace with one id.
    UsernsSingle,
    /// No user namespace can be had, but this is root: mount and pid namespaces only.
    Root,
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rung::Userns => "userns",
            Rung::UsernsSingle => "userns-single",
            Rung::Root => "root",
        })
    }
}

/// How to enter a session.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What to ask for.
    pub isolation: Isolation,
    /// The user's name, for /etc/subuid, where /etc/passwd does not have it.
    pub user_name: Option<String>,
    /// Directories to look for newuidmap and newgidmap in (PATH).
    pub path: Vec<PathBuf>,
    /// The program to execute again for each RUN, whose `main` calls [`super::child_main`] first;
    /// this one when None.
    pub exe: Option<PathBuf>,
}

/// What a RUN wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It exited with this code.
    Exited(i32),
    /// A signal killed it.
    Signaled(i32),
    /// It was never started: not found (127) or not executable (126).
    NotStarted {
        /// 126 or 127.
        code: u8,
        /// Why.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
}

impl Status {
    /// Says whether it ended well.
    pub fn success(&self) -> bool {
        *self == Status::Exited(0)
    }

    /// Gives the code a shell would give: 128 + n for a signal.
    pub fn code(&self) -> i32 {
        match self {
            Status::Exited(code) => *code,
            Status::Signaled(signal) => 128 + signal,
            Status::NotStarted { code, .. } => i32::from(*code),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::Exited(code) => write!(f, "exit code {code}"),
            Status::Signaled(signal) => write!(f, "killed by signal {signal}"),
            Status::NotStarted { message, .. } => f.write_str(message),
        }
    }
}

/// What came of a RUN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunOutcome {
    /// How it ended.
    pub status: Status,
    /// Who ran it, inside the image: `USER` resolved. New files belong to it on the rung
    /// `userns-single`, where the disk cannot tell.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Processor time in user mode, of the program and all that it waited for.
    pub user_time: Duration,
    /// Processor time in the kernel.
    pub system_time: Duration,
}

/// A wish to stop, shared by all who run something; cheap to clone.
#[derive(Clone, Debug)]
pub struct Cancel {}

impl Cancel {
    /// Makes one that nobody wished yet.
    pub fn new() -> Result<Cancel, Error> {
        todo!()
    }

    /// Stops everything that watches this: RUNs are killed.
    pub fn cancel(&self) {
        todo!()
    }

    /// Says whether somebody cancelled.
    pub fn is_cancelled(&self) -> bool {
        todo!()
    }
}

/// The user namespace of a build and what its RUNs share.
#[derive(Debug)]
pub struct Session {}

impl Session {
    /// Moves this process, which must have one thread, into the user namespace of a build.
    pub fn enter(_options: &Options) -> Result<Session, Error> {
        todo!()
    }

    /// Gives the ids that the namespace has.
    pub fn id_map(&self) -> &IdMap {
        todo!()
    }

    /// Gives the isolation that was reached.
    pub fn rung(&self) -> Rung {
        todo!()
    }

    /// Gives remarks for the user: what the host could not do, and what mends it.
    pub fn notes(&self) -> &[String] {
        todo!()
    }

    /// Makes programs of these architectures runnable.
    pub fn register_emulators(&mut self, _emulators: &[Emulator]) -> Result<(), Error> {
        todo!()
    }

    /// Runs one RUN to its end; may be called from many threads at a time.
    pub fn run(
        &self,
        _spec: &RunSpec,
        _on_output: &mut dyn FnMut(Stream, &[u8]),
        _cancel: &Cancel,
    ) -> Result<RunOutcome, Error> {
        todo!()
    }
}
