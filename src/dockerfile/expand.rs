//! Variables, quotes and escapes: what a word becomes.

use std::collections::{BTreeMap, BTreeSet};

use super::ast::Escape;
use super::diagnostic::Diagnostic;
use super::span::Word;

/// Gives values of variables.
pub trait Env {
    /// Gives the value of a variable; None when it is not set.
    fn get(&self, name: &str) -> Option<&str>;
}

/// No variables at all.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoEnv;

impl Env for NoEnv {
    fn get(&self, _: &str) -> Option<&str> {
        None
    }
}

impl Env for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<&str> {
        BTreeMap::get(self, name).map(String::as_str)
    }
}

impl Env for [(String, String)] {
    fn get(&self, name: &str) -> Option<&str> {
        self.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

impl Env for Vec<(String, String)> {
    fn get(&self, name: &str) -> Option<&str> {
        Env::get(self.as_slice(), name)
    }
}

/// A word after expansion.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expanded {
    /// The text.
    pub text: String,
    /// The same, split at unquoted blanks.
    pub words: Vec<String>,
    /// The names that were asked for and set.
    pub used: BTreeSet<String>,
    /// The names that were asked for and not set.
    pub unset: BTreeSet<String>,
}

/// Why a word cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A quote is not closed.
    #[error("unexpected end of `{word}` while looking for the matching {quote}")]
    Quote {
        /// The word.
        word: String,
        /// Which quote.
        quote: char,
    },
}

/// Expands a word to one text: blanks stay, quotes and escapes go.
pub fn expand_word(word: &str, env: &dyn Env, escape: Escape) -> Result<Expanded, Error> {
    let _ = (word, env, escape);
    todo!()
}

/// Expands a word and splits it at blanks that are not quoted (EXPOSE): see [`Expanded::words`].
pub fn expand_words(word: &str, env: &dyn Env, escape: Escape) -> Result<Expanded, Error> {
    expand_word(word, env, escape)
}

/// Expands the body of a heredoc: variables and backslashes, but quotes stay.
pub fn expand_heredoc(body: &str, env: &dyn Env) -> Result<Expanded, Error> {
    expand_word(body, env, Escape::Backslash)
}

/// Expands an instruction for the progress display: quotes and unset variables stay as written; a text
/// that cannot be expanded is given back as it is.
pub fn expand_display(text: &str, env: &dyn Env, escape: Escape) -> String {
    expand_word(text, env, escape).map(|expanded| expanded.text).unwrap_or(text.to_owned())
}

impl Word {
    /// Expands the word, with an error that points to it.
    pub fn expand(&self, env: &dyn Env, escape: Escape) -> Result<Expanded, Diagnostic> {
        expand_word(&self.text, env, escape)
            .map_err(|error| Diagnostic::error("E0501", self.span, error.to_string()))
    }
}
