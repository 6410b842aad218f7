//! What is wrong with a bake file, and where.

use crate::dockerfile::{Diagnostic, Span};

/// Index of a file in the list that was read.
pub type FileId = usize;

/// A place in a bake file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// Which file.
    pub file: FileId,
    /// Which bytes; empty where only the file is known (JSON, compose).
    pub span: Span,
}

impl Place {
    /// The file as a whole.
    pub fn file(file: FileId) -> Place {
        Place { file, span: Span::default() }
    }
}

/// An error in a bake file or in what was asked of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What is wrong.
    pub diagnostic: Diagnostic,
    /// In which file; None for what the command line asked.
    pub file: Option<FileId>,
}

/// What reading bake files returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every code that this module gives, with what it means.
pub const CODES: [(&str, &str); 11] = [
    ("E0701", "The bake file is not written as HCL, JSON or YAML should be."),
    ("E0702", "The bake file has no such block, or a block without its one name."),
    ("E0703", "A target or group has no such attribute, or it holds a value of the wrong kind."),
    ("E0704", "The variable is not defined in any of the bake files."),
    ("E0705", "There is no such function, or it does not take these arguments."),
    ("E0706", "The expression has no value."),
    ("E0707", "Variables, functions, targets or contexts need each other in a circle."),
    ("E0708", "A variable got a value that its type or its validation does not allow."),
    ("E0709", "There is no such target or group."),
    ("E0710", "--set takes `target.attribute=value`."),
    ("E0711", "The compose file says something that cannot be built."),
];

impl Error {
    /// Makes an error at a place.
    pub fn at(code: &'static str, place: Place, message: impl Into<String>) -> Error {
        Error { diagnostic: Diagnostic::error(code, place.span, message), file: Some(place.file) }
    }

    /// Makes an error of the command line.
    pub fn usage(code: &'static str, message: impl Into<String>) -> Error {
        Error { diagnostic: Diagnostic::error(code, Span::default(), message), file: None }
    }

    /// Adds what to do about it.
    pub fn with_help(mut self, help: impl Into<String>) -> Error {
        self.diagnostic = self.diagnostic.with_help(help);
        self
    }

    /// Adds "did you mean" when there is something to suggest.
    pub fn with_suggestion(mut self, suggestion: Option<&str>) -> Error {
        self.diagnostic = self.diagnostic.with_suggestion(suggestion);
        self
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.diagnostic.message)
    }
}
