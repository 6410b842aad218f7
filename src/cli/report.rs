//! What went wrong, as the user sees it: message, cause, what to do, exit code.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use crate::build::error::{Failure, Kind};
use crate::ui::text;

/// Exit codes of the program (DESIGN.md, section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// A build step failed.
    Step = 1,
    /// Usage or Dockerfile.
    Usage = 2,
    /// The host lacks what this needs.
    Host = 3,
    /// Network or registry.
    Network = 4,
    /// The store or an image is damaged.
    Damaged = 5,
    /// The user stopped it.
    Interrupted = 130,
}

/// An error on its way to the user.
#[derive(Debug)]
pub struct Report {
    /// Picks the exit code.
    pub exit: Exit,
    /// One line.
    pub message: String,
    /// A drawing of the place in the Dockerfile, ready to print.
    pub excerpt: Option<String>,
    /// The place in the Dockerfile, before it is drawn.
    pub span: Option<crate::dockerfile::Span>,
    /// Which of several Dockerfiles it is in.
    pub part: usize,
    /// The last lines of a failed step.
    pub output: Vec<u8>,
    /// What to do.
    pub hints: Vec<String>,
    /// The same for a program that reads the log (`--log-format`).
    pub annotation: Option<String>,
}

/// What every subcommand returns.
pub type Result<T, E = Report> = std::result::Result<T, E>;

impl Report {
    /// Makes a report.
    pub fn new(exit: Exit, message: impl Into<String>) -> Report {
        Report {
            exit,
            message: message.into(),
            excerpt: None,
            span: None,
            part: 0,
            output: Vec::new(),
            hints: Vec::new(),
            annotation: None,
        }
    }

    /// Makes a report of wrong usage.
    pub fn usage(message: impl Into<String>) -> Report {
        Report::new(Exit::Usage, message)
    }

    /// Makes a report of an error and its causes.
    pub fn of(exit: Exit, what: &str, error: &(dyn std::error::Error + 'static)) -> Report {
        let chain = crate::build::error::chain(error);
        let message = if what.is_empty() { chain } else { format!("{what}: {chain}") };
        Report::new(exit, message)
    }

    /// Adds what to do.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Report {
        self.hints.push(hint.into());
        self
    }

    /// Prints it on standard error, and gives the exit code.
    pub fn print(&self, colour: bool) -> ExitCode {
        let mut out = String::new();
        if !self.output.is_empty() {
            out.push_str("------\n");
            for line in self.output.split(|&b| b == b'\n') {
                out.push_str(&format!(" > {}\n", text::printable(line, colour)));
            }
            out.push_str("------\n");
        }
        if let Some(excerpt) = &self.excerpt {
            out.push_str(excerpt);
            if !excerpt.ends_with('\n') {
                out.push('\n');
            }
        }
        if !self.message.is_empty() {
            let label = if colour { "\u{1b}[1;31merror\u{1b}[0m" } else { "error" };
            let message = text::printable(self.message.replace('\n', " ").as_bytes(), false);
            out.push_str(&format!("{label}: {message}\n"));
        }
        for hint in &self.hints {
            let label = if colour { "\u{1b}[1;36mhint\u{1b}[0m" } else { "hint" };
            out.push_str(&format!("{label}: {hint}\n"));
        }
        // Where standard error is closed, there is nobody to tell.
        let _ = std::io::stderr().write_all(out.as_bytes());
        ExitCode::from(self.exit as u8)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Failure> for Report {
    fn from(failure: Failure) -> Report {
        let exit = match failure.kind {
            Kind::Step => Exit::Step,
            Kind::Host => Exit::Host,
            Kind::Network => Exit::Network,
            Kind::Store => Exit::Damaged,
            Kind::Interrupted => Exit::Interrupted,
        };
        let mut report = Report::new(exit, failure.to_string());
        report.span = failure.step.map(|(_, span)| span).filter(|span| !span.is_empty());
        report.part = failure.part;
        report.output = failure.output;
        report.hints = failure.hints;
        report
    }
}
