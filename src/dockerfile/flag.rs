//! The flags of an instruction: which there are, and what was given.

use std::ops::Range;

use super::diagnostic::Diagnostic;
use super::line::Line;
use super::span::{Span, Spanned, Word};
use super::suggest::suggest;
use super::word::RawFlag;

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing, or `=true` or `=false`; once.
    Boolean,
    /// A value; once.
    Text,
    /// A value; as often as one likes.
    Texts,
}

/// The name of a flag and what it takes.
pub type Definition = (&'static str, Kind);

/// A flag that was given and is right so far.
#[derive(Debug)]
struct Flag<'a> {
    name: &'static str,
    /// Where the value begins in the raw text.
    value: usize,
    on: bool,
    raw: &'a RawFlag<'a>,
}

/// The flags of one instruction.
#[derive(Debug)]
pub struct Flags<'a> {
    line: &'a Line,
    flags: Vec<Flag<'a>>,
}

impl<'a> Flags<'a> {
    /// Checks the flags against those that the instruction has.
    pub fn check(
        instruction: &str,
        line: &'a Line,
        raw: &'a [RawFlag<'a>],
        defined: &[Definition],
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Flags<'a> {
        let mut flags: Vec<Flag<'a>> = Vec::new();
        for raw in raw {
            let (written, value) = match raw.text.split_once('=') {
                Some((written, value)) => (written, Some(value)),
                None => (&*raw.text, None),
            };
            let name_span = raw.span(line, 0..written.len());
            let name = written.strip_prefix("--").unwrap_or(written);
            let Some((name, kind)) = defined.iter().copied().find(|(known, _)| *known == name)
            else {
                diagnostics.push(unknown(instruction, name, name_span, defined));
                continue;
            };
            if kind != Kind::Texts && flags.iter().any(|flag| flag.name == name) {
                let error = format!("`--{name}` is given twice");
                diagnostics.push(Diagnostic::error("E0302", name_span, error));
                continue;
            }
            let mut on = true;
            match (kind, value) {
                (Kind::Boolean, None) => {}
                (Kind::Boolean, Some(value)) => match value.to_lowercase().as_str() {
                    "true" => {}
                    "false" => on = false,
                    _ => {
                        let error = format!("`--{name}` is true or false, not `{value}`");
                        diagnostics.push(Diagnostic::error("E0304", name_span, error));
                        continue;
                    }
                },
                (_, None) => {
                    let error = format!("`--{name}` needs a value");
                    diagnostics.push(
                        Diagnostic::error("E0303", name_span, error)
                            .with_help(format!("write `--{name}=VALUE`, with no blank in it")),
                    );
                    continue;
                }
                (_, Some(_)) => {}
            }
            let value = (written.len() + 1).min(raw.text.len());
            flags.push(Flag { name, value, on, raw });
        }
        Flags { line, flags }
    }

    /// Gives the value of a flag; None when it is empty or was not given.
    pub fn text(&self, name: &str) -> Option<Word> {
        let mut given = self.flags.iter().filter(|flag| flag.name == name);
        given.find(|flag| flag.value < flag.raw.text.len()).map(|flag| self.value(flag))
    }

    /// Gives all values of a flag.
    pub fn texts(&self, name: &str) -> Vec<Word> {
        let given = self.flags.iter().filter(|flag| flag.name == name);
        given.map(|flag| self.value(flag)).collect()
    }

    /// Gives a flag that is true or false.
    pub fn boolean(&self, name: &str) -> Option<Spanned<bool>> {
        let flag = self.flags.iter().find(|flag| flag.name == name)?;
        Some(Spanned { value: flag.on, span: self.line.span(flag.raw.range.clone()) })
    }

    /// Gives all values of a flag, each with a function that finds the place of a piece of it.
    pub fn located(
        &self,
        name: &str,
    ) -> impl Iterator<Item = (&'a str, Span, impl Fn(Range<usize>) -> Span)> {
        let line = self.line;
        let given = self.flags.iter().filter(move |flag| flag.name == name);
        given.map(move |flag| {
            let (value, raw) = (flag.value, flag.raw);
            let locate =
                move |range: Range<usize>| raw.span(line, value + range.start..value + range.end);
            let text = &raw.text[value..];
            (text, locate(0..text.len()), locate)
        })
    }

    fn value(&self, flag: &Flag<'_>) -> Word {
        let text = &flag.raw.text[flag.value..];
        Word::new(text, flag.raw.span(self.line, flag.value..flag.raw.text.len()))
    }
}

fn unknown(instruction: &str, name: &str, span: Span, defined: &[Definition]) -> Diagnostic {
    let shown: String = name.chars().take(40).collect();
    let error = Diagnostic::error("E0301", span, format!("{instruction} has no flag `--{shown}`"));
    let names = || defined.iter().map(|(name, _)| *name);
    if let Some(found) = suggest(name, names(), true) {
        return error.with_help(format!("did you mean `--{found}`?"));
    }
    if defined.is_empty() {
        return error.with_help("to begin with text that looks like a flag, write `--` before it");
    }
    let list: Vec<String> = names().map(|name| format!("--{name}")).collect();
    error.with_help(format!("{instruction} has {}", list.join(", ")))
}
