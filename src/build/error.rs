//! Why a build failed, in the terms that a user acts on.

use std::error::Error as StdError;
use std::fmt;

use crate::dockerfile::Span;

/// What kind of failure it is; picks the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An instruction failed.
    Step,
    /// The host lacks what the build needs.
    Host,
    /// Network or registry.
    Network,
    /// The store, the disk, or an image is damaged or full.
    Store,
    /// The user stopped it.
    Interrupted,
}

/// A failed build.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What kind.
    pub kind: Kind,
    /// The step, as `[build 2/5] RUN make`, and its place in the Dockerfile.
    pub step: Option<(String, Span)>,
    /// Which of several Dockerfiles that place is in.
    pub part: usize,
    /// What went wrong, causes included.
    pub message: String,
    /// The last lines that the step wrote.
    pub output: Vec<u8>,
    /// The exit code of the step's program.
    pub code: Option<i32>,
    /// What the user can do.
    pub hints: Vec<String>,
    /// The layer that a cache has promised and that could not be had. The build goes on without it.
    pub layer: Option<crate::layer::LayerId>,
}

impl Failure {
    /// Makes a failure.
    pub fn new(kind: Kind, message: impl Into<String>) -> Failure {
        Failure {
            kind,
            step: None,
            part: 0,
            message: message.into(),
            output: Vec::new(),
            code: None,
            hints: Vec::new(),
            layer: None,
        }
    }

    /// Makes a failure of an error and its causes.
    pub fn of(kind: Kind, what: &str, error: &(dyn StdError + 'static)) -> Failure {
        let message =
            if what.is_empty() { chain(error) } else { format!("{what}: {}", chain(error)) };
        let mut failure = Failure::new(kind, message);
        if is_full(error) {
            failure.kind = Kind::Store;
            failure.hints.push(
                "free some space, or run `lapstrake prune`, and build again: what is done is kept"
                    .into(),
            );
        }
        failure
    }

    /// Adds what the user can do.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Failure {
        self.hints.push(hint.into());
        self
    }

    /// Says which step it was, unless that is known.
    pub fn at(mut self, name: &str, span: Span) -> Failure {
        self.step.get_or_insert_with(|| (name.to_owned(), span));
        self
    }

    /// The failure of a build that the user stopped.
    pub fn interrupted() -> Failure {
        Failure::new(Kind::Interrupted, "interrupted")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.step {
            Some((name, _)) => write!(f, "{name}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl StdError for Failure {}

/// Writes an error and its causes on one line, without saying the same thing twice.
pub fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// Says whether a full disk (or quota) is at the bottom of it.
fn is_full(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && matches!(
                io.kind(),
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
            )
        {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot write")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("disk on fire"));
        assert_eq!(chain(&error), "cannot write: disk on fire");
    }

    #[test]
    fn a_full_disk_is_a_failure_of_the_store() {
        let error = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert_eq!(Failure::of(Kind::Step, "", &error).kind, Kind::Store);
    }
}
