//! The Dockerfile language: bytes → ([`Dockerfile`], [`Diagnostic`]s).
//!
//! The language is BuildKit's of 2026 (`frontend/dockerfile/` there). [`parse`] never fails: what cannot
//! be understood becomes [`Command::Invalid`] and a diagnostic, and parsing goes on with the next line.
//!
//! The model, from the bottom up:
//!
//! | file | from | to |
//! |---|---|---|
//! | `source` | bytes | text of the same length |
//! | `line` | physical lines | logical lines with a map to the source |
//! | `word`, `json`, `heredoc` | a logical line | keyword, flags, words, markers |
//! | `instruction`, `flag`, [`mount`] | these | one typed [`Command`] |
//! | `parser` | a file | [`Dockerfile`] and [`Diagnostic`]s |
//! | `lint` | a [`Dockerfile`] | warnings of the [`check`]s |
//! | [`expand`], `glob` | a [`Word`] and variables | its text |
//! | [`chmod`], [`value`] | a text | what it means |
//!
//! Words in the [`ast`] are unexpanded; whoever knows the variables expands them. Where we know better
//! than BuildKit and yet accept all that it accepts, the module says so.
//!
//! Invariants: no IO, no environment, no threads, no recursion without a bound, time linear in the
//! length of the source.
//!
//! Start reading at `parser`.

pub mod ast;
pub mod check;
pub mod chmod;
pub mod diagnostic;
pub mod expand;
mod flag;
mod glob;
pub mod heredoc;
mod instruction;
mod json;
mod line;
mod lint;
pub mod mount;
mod parser;
mod source;
pub mod span;
pub mod suggest;
pub mod value;
mod word;

pub use ast::{
    Alias, ArgDefinition, Command, Device, Directives, Dockerfile, Escape, Form, FromImage,
    Healthcheck, Heredoc, Instruction, KeyValue, Network, Onbuild, Run, Script, Security, Source,
    Stage, Transfer,
};
pub use check::{CheckOptions, Rule};
pub use chmod::ChmodSpec;
pub use diagnostic::{Diagnostic, Severity, explain};
pub use lint::is_secret_name;
pub use mount::{Mount, MountField, MountSpec, MountType, Sharing};
pub use parser::MAX_SOURCE;
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
    parser::parse(source, parser::Scope::File, None)
}

/// Parses a Dockerfile with `check` in the place of its check directive, as BuildKit does for the
/// build argument BUILDKIT_DOCKERFILE_CHECK.
pub fn parse_with(source: &[u8], check: Option<CheckOptions>) -> Parsed {
    parser::parse(source, parser::Scope::File, check)
}

/// Parses a trigger from an image's config (`Config.OnBuild`): exactly one instruction, which is
/// neither FROM, MAINTAINER nor ONBUILD. Spans count from the start of the trigger.
pub fn parse_trigger(trigger: &str) -> Parsed {
    let mut parsed = parser::parse(trigger.as_bytes(), parser::Scope::Trigger, None);
    let mut report = |code, span, message| {
        parsed.diagnostics.push(Diagnostic::error(code, span, message));
    };
    match parsed.dockerfile.instructions.as_slice() {
        [instruction] => {
            let name = instruction.command.name();
            if matches!(name, "FROM" | "MAINTAINER" | "ONBUILD") {
                let message = format!("{name} cannot be triggered by ONBUILD");
                report("E0206", instruction.keyword_span, message);
            }
        }
        [_, second, ..] => {
            report("E0212", second.span, "a trigger holds one instruction only".to_owned());
        }
        [] => {}
    }
    parsed
}

#[cfg(test)]
mod tests;
