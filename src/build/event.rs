//! What a build tells whoever watches it. Plain data: `ui` turns it into text.

use std::time::Duration;

/// Names one step of a build in its events.
pub type StepId = usize;

/// What kind of work a step is, for marks and grouping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// An instruction of the Dockerfile.
    Instruction,
    /// Getting a base image.
    Pull,
    /// Packing a layer in the background.
    Pack,
    /// Writing an output or sending it to a registry.
    Export,
}

/// Which stream a line of output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One event.
#[derive(Debug, Clone)]
pub enum Event {
    /// One line that describes the whole build: rung of isolation, platforms, what is emulated.
    Header(String),
    /// A step exists. Told before anything else of it.
    Planned {
        /// Its id.
        step: StepId,
        /// What it is.
        work: Work,
        /// As `[linux/arm64 build 2/5] RUN make`.
        name: String,
        /// Runs under an emulator.
        emulated: bool,
    },
    /// Work on the step began.
    Started {
        /// Which.
        step: StepId,
    },
    /// The step needs no work: its result is known.
    Cached {
        /// Which.
        step: StepId,
    },
    /// A piece of output, not cut at line ends.
    Output {
        /// Which.
        step: StepId,
        /// Where the step wrote it.
        stream: Stream,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Bytes moved so far.
    Progress {
        /// Which.
        step: StepId,
        /// What moves, as `sha256:0123456789ab`.
        item: String,
        /// Bytes done.
        done: u64,
        /// Bytes in all, when known.
        total: Option<u64>,
    },
    /// The step is done.
    Finished {
        /// Which.
        step: StepId,
        /// How long it took.
        took: Duration,
    },
    /// The step failed.
    Failed {
        /// Which.
        step: StepId,
        /// Why, on one line.
        message: String,
        /// How long it took.
        took: Duration,
    },
    /// Something the user should know.
    Warning(String),
}

/// Receives events, from any thread.
pub trait Watch: Sync {
    /// Takes one event.
    fn event(&self, event: Event);
    /// Says whether [`Watch::tick`] wants to be called some ten times a second.
    fn is_live(&self) -> bool {
        false
    }
    /// Lets clocks on a display move on.
    fn tick(&self) {}
    /// Ends a display for now: something else is about to write to the terminal.
    fn rest(&self) {}
}

/// Ignores all events.
pub struct Silent;

impl Watch for Silent {
    fn event(&self, _: Event) {}
}
