//! What is wrong with a Dockerfile: [`Diagnostic`], collected and never thrown.
//!
//! Codes are stable: `E…` stops the build, `W…` does not. [`explain`] says more about each.

use super::check::Rule;
use super::span::Span;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// The build goes on.
    Warning,
    /// The build stops.
    Error,
}

/// One thing to tell the user about the Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The stable code, such as `E0201`.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// The check that found it, when it is one that `# check=skip=` can name.
    pub rule: Option<Rule>,
    /// What is to be underlined.
    pub span: Span,
    /// What is wrong, in lower case without a full stop.
    pub message: String,
    /// What to write under the underlined text; may be empty.
    pub label: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// Makes an error.
    pub fn error(code: &'static str, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            code,
            severity: Severity::Error,
            rule: None,
            span,
            message: message.into(),
            label: String::new(),
            help: None,
        }
    }

    /// Makes a warning.
    pub fn warning(code: &'static str, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(code, span, message) }
    }

    /// Makes the warning of a check.
    pub fn lint(rule: Rule, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic { rule: Some(rule), ..Diagnostic::warning(rule.code(), span, message) }
    }

    /// Adds what stands under the underlined text.
    pub fn with_label(mut self, label: impl Into<String>) -> Diagnostic {
        self.label = label.into();
        self
    }

    /// Adds what to do about it.
    pub fn with_help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }

    /// Adds "did you mean" when there is something to suggest.
    pub fn with_suggestion(self, suggestion: Option<&str>) -> Diagnostic {
        match suggestion {
            Some(name) => self.with_help(format!("did you mean `{name}`?")),
            None => self,
        }
    }

    /// Says whether it stops the build.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}
