//! Variables, quotes and escapes: what a word becomes.
//!
//! The rules are those of BuildKit's `frontend/dockerfile/shell/lex.go`, which resembles a shell and
//! is none:
//!
//! | written | becomes |
//! |---|---|
//! | `'…'` | the text, untouched |
//! | `"…"` | the text with variables; the escape works before `"`, `$` and itself, else it stays |
//! | escape and a character | the character; at the end of the word, nothing |
//! | `$name`, `${name}` | the value, or nothing when it is not set |
//! | `$1`, `$@` and the like | looked up under that name, so usually nothing |
//! | `${name-word}`, `+`, `?` | default, alternative, error; with `:` an empty value counts as unset |
//! | `${name#pattern}`, `##`, `%`, `%%` | the value without its shortest or longest prefix or suffix |
//! | `${name/pattern/text}`, `//` | the value with the first match or all replaced |
//!
//! The word behind an operator is expanded even if it is not needed, so its variables count as used.
//! Values are never expanded again. One deviation: BuildKit forgets the text before a `${name:-word}`
//! when it splits into words; here it stays.
//!
//! Start reading at [`Lexer::run`].

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::ast::Escape;
use super::diagnostic::Diagnostic;
use super::glob::{self, Pattern};
use super::span::Word;

/// How deep `${a:-${b:-…}}` may nest. Far beyond what people write, far below what fills a stack.
const MAX_DEPTH: usize = 128;

/// How much variables may add to a text, bytes. The kernel takes 128 KiB in one argument (MAX_ARG_STRLEN);
/// without a limit, thirty lines that double each other fill any memory.
const MAX_LENGTH: usize = 1 << 20;

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
    /// The same, split at blanks that were not quoted, those inside values included; only from
    /// [`expand_words`].
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
    #[error("a {quote} is opened and never closed")]
    Quote {
        /// Which one.
        quote: char,
    },
    /// `${` without its end.
    #[error("`${{` without the matching `}}`")]
    Brace,
    /// `${name/pattern` without the second slash.
    #[error("`${{{name}/` without the `/` before the replacement")]
    Slash {
        /// The variable.
        name: String,
    },
    /// `${}` and the like.
    #[error("bad substitution: no name after `${{`")]
    NoName,
    /// An operator that there is not.
    #[error("unsupported modifier `{modifier}` in `${{{name}…}}`")]
    Modifier {
        /// The variable.
        name: String,
        /// The operator.
        modifier: String,
    },
    /// `${name?text}` of a variable that is not set (or empty).
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// What was written behind the `?`, or that it must not be unset or empty.
        message: String,
    },
    /// A pattern that is not understood.
    #[error("invalid pattern `{pattern}` in `${{{name}…}}`")]
    Pattern {
        /// The variable.
        name: String,
        /// The pattern.
        pattern: String,
        /// Why.
        #[source]
        source: glob::Error,
    },
    /// Too many levels of `${…${…}}`.
    #[error("`${{…}}` nested more than {MAX_DEPTH} levels deep")]
    Depth,
    /// Variables make too much of too little.
    #[error("variables expand to more than {} MiB here", MAX_LENGTH >> 20)]
    Long,
}

/// Expands a word to one text: blanks stay, quotes and escapes go.
pub fn expand_word(word: &str, env: &dyn Env, escape: Escape) -> Result<Expanded, Error> {
    Lexer::new(escape).run(word, env)
}

/// Expands a word for use as several (EXPOSE): take [`Expanded::words`].
pub fn expand_words(word: &str, env: &dyn Env, escape: Escape) -> Result<Expanded, Error> {
    let (mut words, mut run) = (Words::default(), Run::new(Lexer::new(escape), word, env));
    let text = run.until(None, &mut Some(&mut words))?;
    words.flush(run.at);
    Ok(Expanded { text, words: words.words, used: run.used, unset: run.unset })
}

/// Expands the body of a heredoc for COPY and ADD: variables and backslashes, but quotes stay. The
/// escape is a backslash whatever the directive says.
pub fn expand_heredoc(body: &str, env: &dyn Env) -> Result<Expanded, Error> {
    Lexer { keep_quoted: true, ..Lexer::new(Escape::Backslash) }.run(body, env)
}

/// Expands an instruction for the progress display: quotes and unset variables stay as written; a text
/// that cannot be expanded is given back as it is.
pub fn expand_display<'t>(text: &'t str, env: &dyn Env, escape: Escape) -> Cow<'t, str> {
    let lexer =
        Lexer { raw_quotes: true, keep_unset: true, forget_names: true, ..Lexer::new(escape) };
    // Quotes stay, so most lines are shown as they are written.
    if memchr::memchr2(b'$', lexer.escape as u8, text.as_bytes()).is_none() {
        return text.into();
    }
    lexer.run(text, env).map_or(Cow::Borrowed(text), |expanded| expanded.text.into())
}

impl Word {
    /// Expands the word to its text alone, without a copy when there is nothing to expand: that is how most
    /// of the words of a large file are.
    pub fn text_in(&self, env: &dyn Env, escape: Escape) -> Result<Cow<'_, str>, Diagnostic> {
        let special = |byte| matches!(byte, b'$' | b'\'' | b'"') || byte == escape.as_char() as u8;
        if !self.text.bytes().any(special) {
            return Ok(Cow::Borrowed(&self.text));
        }
        let lexer = Lexer { forget_names: true, ..Lexer::new(escape) };
        match lexer.run(&self.text, env) {
            Ok(expanded) => Ok(Cow::Owned(expanded.text)),
            Err(error) => Err(self.blame(&error)),
        }
    }

    /// Expands the word, with an error that points to it.
    pub fn expand(&self, env: &dyn Env, escape: Escape) -> Result<Expanded, Diagnostic> {
        expand_word(&self.text, env, escape).map_err(|error| self.blame(&error))
    }

    /// Makes the diagnostic of an expansion that failed.
    pub fn blame(&self, error: &Error) -> Diagnostic {
        let code = match error {
            Error::Required { .. } => "E0502",
            Error::Long => "E0506",
            _ => "E0501",
        };
        let mut message = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(inner) = cause {
            message = format!("{message}: {inner}");
            cause = inner.source();
        }
        let diagnostic = Diagnostic::error(code, self.span, message);
        match error {
            Error::Quote { quote } => diagnostic
                .with_help(format!("close it, or write `\\{quote}` for the character itself")),
            Error::Brace | Error::NoName => {
                diagnostic.with_help("write `\\$` for a dollar sign that is none of ours")
            }
            Error::Modifier { .. } => diagnostic.with_help(
                "there are `:-` `-` `:+` `+` `:?` `?` `#` `##` `%` `%%` `/` `//`, and no others",
            ),
            _ => diagnostic,
        }
    }
}

/// The lexer and its modes; all off is the usual expansion.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lexer {
    /// Takes the meaning from the next character.
    pub escape: char,
    /// Quotes stay in the result.
    pub raw_quotes: bool,
    /// Escapes stay in the result.
    pub raw_escapes: bool,
    /// Quotes mean nothing.
    pub keep_quoted: bool,
    /// Variables that are not set stay as written.
    pub keep_unset: bool,
    /// Nobody wants [`Expanded::used`] and [`Expanded::unset`].
    pub forget_names: bool,
}

impl Lexer {
    pub fn new(escape: Escape) -> Lexer {
        Lexer {
            escape: escape.as_char(),
            raw_quotes: false,
            raw_escapes: false,
            keep_quoted: false,
            keep_unset: false,
            forget_names: false,
        }
    }

    /// Expands a text.
    pub fn run(self, text: &str, env: &dyn Env) -> Result<Expanded, Error> {
        let mut run = Run::new(self, text, env);
        let text = run.until(None, &mut None)?;
        Ok(Expanded { text, words: Vec::new(), used: run.used, unset: run.unset })
    }

    /// Splits a text into words, and gives those that hold `needle`, each with its place. (In a line of
    /// 100 MB, keeping all of them would take gigabytes.)
    pub fn split(self, text: &str, needle: &'static str) -> Result<Vec<Placed>, Error> {
        let mut words = Words { needle, ..Words::default() };
        let mut run = Run::new(self, text, &NoEnv);
        run.until(None, &mut Some(&mut words))?;
        words.flush(run.at);
        Ok(words.words.into_iter().zip(words.ranges).collect())
    }
}

/// A word and its place.
pub(super) type Placed = (String, Range<usize>);

/// The words that grow while a text is walked.
#[derive(Default)]
struct Words {
    words: Vec<String>,
    ranges: Vec<Range<usize>>,
    current: String,
    start: usize,
    /// Words without it are not kept.
    needle: &'static str,
}

impl Words {
    fn push_raw(&mut self, text: &str, at: usize) {
        if self.current.is_empty() {
            self.start = at;
        }
        self.current.push_str(text);
    }

    /// Adds plain text, each piece with its own place.
    fn push_plain(&mut self, text: &str, at: usize) {
        let mut rest = text;
        while let Some(blank) = rest.find(char::is_whitespace) {
            let begin = at + text.len() - rest.len();
            if blank > 0 {
                self.push_raw(&rest[..blank], begin);
            }
            self.flush(begin + blank);
            rest = rest[blank..].trim_start_matches(char::is_whitespace);
        }
        if !rest.is_empty() {
            self.push_raw(rest, at + text.len() - rest.len());
        }
    }

    fn push_split(&mut self, text: &str, at: usize) {
        for c in text.chars() {
            if c.is_whitespace() {
                self.flush(at);
            } else {
                self.push_raw(c.encode_utf8(&mut [0; 4]), at);
            }
        }
    }

    /// Ends a word. An empty one is none, even if it was quoted.
    fn flush(&mut self, end: usize) {
        if !self.current.is_empty() && self.current.contains(self.needle) {
            self.words.push(std::mem::take(&mut self.current));
            self.ranges.push(self.start..end);
        }
        self.current.clear();
    }
}

/// One walk over one text.
struct Run<'a> {
    lexer: Lexer,
    text: &'a str,
    at: usize,
    env: &'a dyn Env,
    used: BTreeSet<String>,
    unset: BTreeSet<String>,
    depth: usize,
    /// Bytes that variables made so far.
    made: usize,
}

impl<'a> Run<'a> {
    fn new(lexer: Lexer, text: &'a str, env: &'a dyn Env) -> Run<'a> {
        let (used, unset) = (BTreeSet::new(), BTreeSet::new());
        Run { lexer, text, at: 0, env, used, unset, depth: 0, made: 0 }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    /// Walks up to `stop` (which is eaten), or to the end when there is none.
    fn until(
        &mut self,
        stop: Option<char>,
        words: &mut Option<&mut Words>,
    ) -> Result<String, Error> {
        // Mostly it stays as long as it is; what is nested is not of the whole rest.
        let mut out = String::with_capacity(if stop.is_none() { self.text.len() } else { 0 });
        loop {
            let plain = self.plain(stop);
            if !plain.is_empty() {
                if let Some(words) = words {
                    words.push_plain(plain, self.at);
                }
                out.push_str(plain);
                self.at += plain.len();
            }
            let at = self.at;
            let Some(c) = self.peek() else { break };
            if Some(c) == stop {
                self.next();
                return Ok(out);
            }
            let piece = match c {
                '$' => {
                    let value = self.dollar()?;
                    out.push_str(&value);
                    if let Some(words) = words {
                        words.push_split(&value, at);
                    }
                    continue;
                }
                // A heredoc's name may stand behind blanks; they do not end the word.
                '<' => self.angle(),
                '\'' if !self.lexer.keep_quoted => self.single_quoted()?,
                '"' if !self.lexer.keep_quoted => self.double_quoted()?,
                c if c == self.lexer.escape => {
                    self.next();
                    let mut piece = String::new();
                    if self.lexer.raw_escapes {
                        piece.push(c);
                    }
                    piece.extend(self.next());
                    piece
                }
                c => {
                    self.next();
                    let plain = &self.text[at..self.at];
                    if let Some(words) = words {
                        if c.is_whitespace() {
                            words.flush(at);
                        } else {
                            words.push_raw(plain, at);
                        }
                    }
                    out.push_str(plain);
                    continue;
                }
            };
            out.push_str(&piece);
            if let Some(words) = words {
                words.push_raw(&piece, at);
            }
        }
        match stop {
            None => Ok(out),
            Some(_) => Err(Error::Brace),
        }
    }

    /// Gives the text up to the next character that may mean something; all of those are ASCII.
    fn plain(&self, stop: Option<char>) -> &'a str {
        let rest = &self.text[self.at..];
        // Both are ASCII. Without a stop, one more of the others does no harm.
        let (escape, stop) = (self.lexer.escape as u8, stop.map_or(b'$', |stop| stop as u8));
        let special =
            |byte: u8| matches!(byte, b'$' | b'<' | b'\'' | b'"') || byte == escape || byte == stop;
        let len = rest.bytes().position(special);
        &rest[..len.unwrap_or(rest.len())]
    }

    fn angle(&mut self) -> String {
        let start = self.at;
        self.next();
        if self.peek() == Some('<') {
            self.next();
            while matches!(self.peek(), Some('\t' | '\r' | ' ')) {
                self.next();
            }
        }
        self.text[start..self.at].to_owned()
    }

    fn single_quoted(&mut self) -> Result<String, Error> {
        let start = self.at;
        self.next();
        let body = &self.text[self.at..];
        let Some(len) = body.find('\'') else {
            self.at = self.text.len();
            return Err(Error::Quote { quote: '\'' });
        };
        self.at += len + 1;
        let raw = self.lexer.raw_quotes;
        Ok(if raw { &self.text[start..self.at] } else { &body[..len] }.to_owned())
    }

    fn double_quoted(&mut self) -> Result<String, Error> {
        let mut out = String::new();
        self.next();
        if self.lexer.raw_quotes {
            out.push('"');
        }
        loop {
            match self.peek() {
                None => return Err(Error::Quote { quote: '"' }),
                Some('"') => {
                    self.next();
                    if self.lexer.raw_quotes {
                        out.push('"');
                    }
                    return Ok(out);
                }
                Some('$') => out.push_str(&self.dollar()?),
                Some(c) => {
                    self.next();
                    if c != self.lexer.escape {
                        out.push(c);
                        continue;
                    }
                    if self.lexer.raw_escapes {
                        out.push(c);
                    }
                    match self.peek() {
                        None => {}
                        Some(next) if next == '"' || next == '$' || next == c => {
                            self.next();
                            out.push(next);
                        }
                        // Twice when escapes are kept: in a pattern this makes it a literal one.
                        Some(_) => out.push(c),
                    }
                }
            }
        }
    }

    /// Reads the name of a variable: digits, one special character, or letters, digits and `_`.
    fn name(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        let len = match rest.chars().next() {
            Some(c) if c.is_numeric() => rest.find(|c: char| !c.is_numeric()).unwrap_or(rest.len()),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => 1,
            _ => {
                let inside = |c: char| c.is_alphabetic() || c.is_numeric() || c == '_';
                rest.find(|c| !inside(c)).unwrap_or(rest.len())
            }
        };
        self.at += len;
        &rest[..len]
    }

    fn look_up(&mut self, name: &str) -> Option<&'a str> {
        let value = self.env.get(name);
        if self.lexer.forget_names {
            return value;
        }
        let names = if value.is_some() { &mut self.used } else { &mut self.unset };
        if !names.contains(name) {
            names.insert(name.to_owned());
        }
        value
    }

    /// Reads a variable, from its `$` on.
    fn dollar(&mut self) -> Result<Cow<'a, str>, Error> {
        let value = self.variable()?;
        self.made += value.len();
        if self.made > MAX_LENGTH {
            return Err(Error::Long);
        }
        Ok(value)
    }

    fn variable(&mut self) -> Result<Cow<'a, str>, Error> {
        let start = self.at;
        self.next();
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".into());
            }
            return Ok(match self.look_up(name) {
                None if self.lexer.keep_unset => self.text[start..self.at].into(),
                value => value.unwrap_or_default().into(),
            });
        }
        self.next();
        match self.peek() {
            None => return Err(Error::Brace),
            Some('{' | '}' | ':') => return Err(Error::NoName),
            Some(_) => {}
        }
        if self.depth == MAX_DEPTH {
            return Err(Error::Depth);
        }
        self.depth += 1;
        let value = self.braced();
        self.depth -= 1;
        value
    }

    /// Reads what follows `${`.
    fn braced(&mut self) -> Result<Cow<'a, str>, Error> {
        let name = self.name();
        let operator = self.next().ok_or(Error::Brace)?;
        match operator {
            '}' => Ok(match self.look_up(name) {
                None if self.lexer.keep_unset => format!("${{{name}}}").into(),
                value => value.unwrap_or_default().into(),
            }),
            ':' => {
                let operator = self.next().ok_or(Error::Brace)?;
                self.operator(name, operator, true)
            }
            '+' | '-' | '?' | '#' | '%' => self.operator(name, operator, false),
            '/' => self.replacement(name),
            other => Err(Error::Modifier { name: name.into(), modifier: other.into() }),
        }
    }

    fn operator(&mut self, name: &str, operator: char, colon: bool) -> Result<Cow<'a, str>, Error> {
        let modifier = if colon { format!(":{operator}") } else { operator.to_string() };
        let pattern = matches!(operator, '#' | '%');
        if colon && pattern {
            return Err(Error::Modifier { name: name.into(), modifier });
        }
        let word = self.nested('}', pattern)?;
        let value = self.look_up(name);
        if value.is_none() && self.lexer.keep_unset {
            return Ok(format!("${{{name}{modifier}{word}}}").into());
        }
        let empty_counts = |value: &&str| !(colon && value.is_empty());
        match operator {
            '-' => Ok(value.filter(empty_counts).map_or(word.into(), Cow::Borrowed)),
            '+' => Ok(if value.filter(empty_counts).is_some() { word.into() } else { "".into() }),
            '?' => match value.filter(empty_counts) {
                Some(value) => Ok(value.into()),
                None => {
                    let what = if value.is_none() { "unset" } else { "empty" };
                    let told = format!("is not allowed to be {what}");
                    let message = if word.is_empty() { told } else { word };
                    Err(Error::Required { name: name.into(), message })
                }
            },
            '#' | '%' => {
                let longest = word.starts_with(operator);
                let pattern = parse_pattern(name, &word[usize::from(longest)..])?;
                let value = value.unwrap_or_default();
                Ok(if operator == '#' {
                    pattern.trim_prefix(value, longest).into()
                } else {
                    pattern.trim_suffix(value, longest).into()
                })
            }
            _ => Err(Error::Modifier { name: name.into(), modifier }),
        }
    }

    fn replacement(&mut self, name: &str) -> Result<Cow<'a, str>, Error> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let pattern = self.nested('/', true).map_err(|error| match error {
            Error::Brace => Error::Slash { name: name.into() },
            error => error,
        })?;
        let with = self.nested('}', true)?;
        let Some(value) = self.look_up(name).or((!self.lexer.keep_unset).then_some("")) else {
            return Ok(format!("${{{name}/{pattern}/{with}}}").into());
        };
        let pattern = parse_pattern(name, &pattern)?;
        if all {
            pattern.replace_all(value, &with, MAX_LENGTH).map(Cow::Owned).ok_or(Error::Long)
        } else {
            Ok(pattern.replace_first(value, &with).into())
        }
    }

    fn nested(&mut self, stop: char, raw_escapes: bool) -> Result<String, Error> {
        let outer = std::mem::replace(&mut self.lexer.raw_escapes, raw_escapes);
        let word = self.until(Some(stop), &mut None);
        self.lexer.raw_escapes = outer;
        word
    }
}

fn parse_pattern(name: &str, pattern: &str) -> Result<Pattern, Error> {
    let blame = |source| Error::Pattern { name: name.into(), pattern: pattern.into(), source };
    Pattern::parse(pattern).map_err(blame)
}

#[cfg(test)]
#[path = "expand_tests.rs"]
mod tests;
