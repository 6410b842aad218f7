//! The Dockerfile language: bytes → ([`Dockerfile`], [`Diagnostic`]s).
//!
//! The language is BuildKit's of 2026. [`parse`] never fails: what cannot be understood becomes
//! [`Command::Invalid`] and a diagnostic.
//!
//! Invariants: no IO, no environment, no threads, no recursion without a bound, time linear in the
//! length of the source.

pub mod ast;
pub mod check;
pub mod chmod;
pub mod diagnostic;
pub mod expand;
mod glob;
pub mod heredoc;
mod json;
pub mod mount;
pub mod span;
pub mod suggest;
pub mod value;

pub use ast::{
    Alias, ArgDefinition, Command, Device, Directives, Dockerfile, Escape, Form, FromImage,
    Healthcheck, Heredoc, Instruction, KeyValue, Network, Onbuild, Run, Script, Security, Source,
    Stage, Transfer,
};
pub use check::{CheckOptions, Rule};
pub use chmod::ChmodSpec;
pub use diagnostic::{Diagnostic, Severity};
pub use mount::{Mount, MountField, MountSpec, MountType, Sharing};
pub use span::{LineIndex, Span, Spanned, Word};
pub use suggest::suggest;

/// What [`parse`] gives.
#[derive(Debug, Clone, Default)]
pub struct Parsed {
    /// What was understood.
    pub dockerfile: Dockerfile,
    /// What was not, and what is doubtful, in the order of the source.
    pub diagnostics: Vec<Diagnostic>,
}

impl Parsed {
    /// Says whether the build cannot go on.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }
}

/// Parses a Dockerfile.
pub fn parse(source: &[u8]) -> Parsed {
    let _ = source;
    todo!()
}

/// Parses a trigger from an image's config (`Config.OnBuild`): exactly one instruction, which is
/// neither FROM, MAINTAINER nor ONBUILD.
pub fn parse_trigger(trigger: &str) -> Parsed {
    let _ = trigger;
    todo!()
}
