//! One logical line → one typed [`Command`].
//!
//! Every function here reports all that is wrong with its instruction and gives what can be saved;
//! None means that nothing can. The rules are those of BuildKit's
//! `frontend/dockerfile/instructions/parse.go`.
//!
//! Start reading at [`Parts::command`].

use std::collections::BTreeMap;
use std::ops::Range;

use super::ast::{
    Alias, ArgDefinition, Command, Device, Escape, Form, FromImage, Healthcheck, Heredoc, KeyValue,
    Network, Run, Security, Source, Transfer,
};
use super::diagnostic::Diagnostic;
use super::expand::{NoEnv, expand_word};
use super::flag::{Definition, Flags, Kind};
use super::heredoc::parse_marker;
use super::json;
use super::line::Line;
use super::mount::{self, Mount};
use super::span::{Span, Spanned, Word};
use super::value;
use super::word::{BLANKS, RawFlag, split_blanks, split_first, split_flags, split_quoted};

/// All keywords, in upper case.
pub const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

const COPY_FLAGS: [Definition; 6] = [
    ("from", Kind::Text),
    ("chown", Kind::Text),
    ("chmod", Kind::Text),
    ("link", Kind::Boolean),
    ("parents", Kind::Boolean),
    ("exclude", Kind::Texts),
];

const ADD_FLAGS: [Definition; 7] = [
    ("chown", Kind::Text),
    ("chmod", Kind::Text),
    ("link", Kind::Boolean),
    ("checksum", Kind::Text),
    ("keep-git-dir", Kind::Boolean),
    ("unpack", Kind::Boolean),
    ("exclude", Kind::Texts),
];

const RUN_FLAGS: [Definition; 4] = [
    ("mount", Kind::Texts),
    ("network", Kind::Text),
    ("security", Kind::Text),
    ("device", Kind::Texts),
];

const HEALTHCHECK_FLAGS: [Definition; 5] = [
    ("interval", Kind::Text),
    ("timeout", Kind::Text),
    ("start-period", Kind::Text),
    ("start-interval", Kind::Text),
    ("retries", Kind::Text),
];

/// A logical line, taken apart into keyword, flags and the rest.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The whole line.
    pub line: &'a Line,
    /// The keyword.
    pub keyword: Range<usize>,
    /// One of [`KEYWORDS`]; None for anything else.
    pub name: Option<&'static str>,
    /// The flags as written.
    pub flags: Vec<RawFlag<'a>>,
    /// What follows the flags, trimmed.
    pub rest: Range<usize>,
    /// The file's escape character.
    pub escape: Escape,
}

impl<'a> Parts<'a> {
    /// Takes a range of a line apart.
    pub fn split(line: &'a Line, range: Range<usize>, escape: Escape) -> Parts<'a> {
        let (keyword, rest) = split_first(line, line.trim(range));
        let written = &line.text[keyword.clone()];
        let name = KEYWORDS
            .iter()
            .find(|known| known.len() == written.len() && known.eq_ignore_ascii_case(written))
            .copied();
        let (flags, rest) = split_flags(line, rest, escape);
        Parts { line, keyword, name, flags, rest, escape }
    }

    /// Gives what follows the flags.
    pub fn rest(&self) -> &'a str {
        &self.line.text[self.rest.clone()]
    }

    /// Says whether heredocs may follow: only RUN, COPY and ADD have them, and no JSON form.
    pub fn can_have_heredocs(&self) -> bool {
        matches!(self.name, Some("RUN" | "COPY" | "ADD"))
            && !matches!(json::parse(self.rest()), json::Form::Strings(_))
    }

    /// Gives the place of the whole instruction on its line.
    pub fn span(&self) -> Span {
        let end = self.flags.last().map_or(self.keyword.end, |flag| flag.range.end);
        self.line.span(self.keyword.start..end.max(self.rest.end))
    }

    /// Understands the instruction. ONBUILD and what is no keyword are left to the caller.
    pub fn command(
        &self,
        heredocs: Vec<(Range<usize>, Heredoc)>,
        comments: &[Word],
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Option<Command> {
        let name = self.name?;
        match name {
            "FROM" => self.from(comments, diagnostics).map(|from| Command::From(Box::new(from))),
            "RUN" => self.run(heredocs, diagnostics).map(|run| Command::Run(Box::new(run))),
            "COPY" => {
                self.transfer(heredocs, diagnostics).map(|copy| Command::Copy(Box::new(copy)))
            }
            "ADD" => self.transfer(heredocs, diagnostics).map(|add| Command::Add(Box::new(add))),
            "ENV" => self.key_values(diagnostics).map(Command::Env),
            "LABEL" => self.key_values(diagnostics).map(Command::Label),
            "ARG" => self.args(comments, diagnostics).map(Command::Arg),
            "HEALTHCHECK" => {
                let health = self.healthcheck(diagnostics)?;
                Some(Command::Healthcheck(Box::new(health)))
            }
            "EXPOSE" => {
                self.no_flags(diagnostics);
                let words = split_blanks(self.line, self.rest.clone(), &[]);
                let words = words.into_iter().map(|word| self.line.word(word)).collect();
                self.some(words, diagnostics).map(Command::Expose)
            }
            "VOLUME" => self.volume(diagnostics).map(Command::Volume),
            "SHELL" => self.shell(diagnostics).map(Command::Shell),
            "CMD" => {
                self.no_flags(diagnostics);
                self.form(self.rest.clone(), diagnostics).map(Command::Cmd)
            }
            "ENTRYPOINT" => {
                self.no_flags(diagnostics);
                self.form(self.rest.clone(), diagnostics).map(Command::Entrypoint)
            }
            "USER" => self.one(diagnostics).map(Command::User),
            "WORKDIR" => self.one(diagnostics).map(Command::Workdir),
            "STOPSIGNAL" => self.one(diagnostics).map(Command::Stopsignal),
            "MAINTAINER" => self.one(diagnostics).map(Command::Maintainer),
            _ => None,
        }
    }

    fn name(&self) -> &'static str {
        self.name.unwrap_or_default()
    }

    /// Checks the flags.
    fn flags(&self, defined: &[Definition], diagnostics: &mut Vec<Diagnostic>) -> Flags<'_> {
        Flags::check(self.name(), self.line, &self.flags, defined, diagnostics)
    }

    /// Reports all flags: the instruction has none.
    pub fn no_flags(&self, diagnostics: &mut Vec<Diagnostic>) {
        self.flags(&[], diagnostics);
    }

    fn missing(&self, what: &str) -> Diagnostic {
        Diagnostic::error("E0202", self.span(), format!("{} needs {what}", self.name()))
    }

    /// The rest as one word, which must not be empty.
    fn one(&self, diagnostics: &mut Vec<Diagnostic>) -> Option<Word> {
        self.no_flags(diagnostics);
        if self.rest.is_empty() {
            diagnostics.push(self.missing("an argument"));
            return None;
        }
        Some(self.line.word(self.rest.clone()))
    }

    /// The words, of which there must be one.
    fn some<T>(&self, words: Vec<T>, diagnostics: &mut Vec<Diagnostic>) -> Option<Vec<T>> {
        if words.is_empty() {
            diagnostics.push(self.missing("at least one argument"));
            return None;
        }
        Some(words)
    }

    /// The JSON form of a range: None when it is none; an error when it is one with other things than
    /// strings in it.
    fn json(
        &self,
        range: Range<usize>,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Result<Option<Vec<Word>>, ()> {
        let text = &self.line.text[range.clone()];
        let place = |piece: Range<usize>| {
            self.line.span(range.start + piece.start..range.start + piece.end)
        };
        match json::parse(text) {
            json::Form::Strings(strings) => {
                let word = |(string, piece)| Word::new(string, place(piece));
                Ok(Some(strings.into_iter().map(word).collect()))
            }
            json::Form::NotStrings(piece) => {
                let error = "in a JSON array, all elements must be strings";
                let diagnostic = Diagnostic::error("E0204", place(piece), error);
                diagnostics.push(diagnostic.with_help("put it in double quotes"));
                Err(())
            }
            json::Form::Not(at, why) => {
                if looks_like_json(text) {
                    let len = text[at..].chars().next().map_or(0, char::len_utf8);
                    let warning = "this is not JSON, so it is taken as plain text";
                    let warning = Diagnostic::warning("W0204", place(at..at + len), warning);
                    diagnostics.push(warning.with_label(why));
                }
                Ok(None)
            }
        }
    }

    /// A command line.
    fn form(&self, range: Range<usize>, diagnostics: &mut Vec<Diagnostic>) -> Option<Form> {
        match self.json(range.clone(), diagnostics) {
            Ok(Some(words)) => Some(Form::Exec(words)),
            Ok(None) => Some(Form::Shell(self.line.word(range))),
            Err(()) => None,
        }
    }

    fn from(&self, comments: &[Word], diagnostics: &mut Vec<Diagnostic>) -> Option<FromImage> {
        let platform = self.flags(&[("platform", Kind::Text)], diagnostics).text("platform");
        let words = split_blanks(self.line, self.rest.clone(), &[]);
        let words: Vec<Word> = words.into_iter().map(|word| self.line.word(word)).collect();
        let (image, alias) = match words.as_slice() {
            [image] => (image, None),
            [image, keyword, word] if keyword.text.eq_ignore_ascii_case("as") => {
                let name = word.text.to_lowercase();
                if !is_stage_name(&name) {
                    let error = format!("invalid stage name `{}`", word.text);
                    diagnostics.push(Diagnostic::error("E0210", word.span, error).with_help(
                        "it begins with a letter and holds letters, digits, `-`, `_` and `.`",
                    ));
                }
                let doc = doc_comment(comments, &name);
                let (word, keyword) = (word.clone(), keyword.clone());
                (image, Some(Alias { name, word, keyword, doc }))
            }
            _ => {
                let error = self.missing("an image, or `IMAGE AS NAME`");
                let help = match words.as_slice() {
                    [_, second, ..] if second.text.starts_with("--") => {
                        Some("flags stand before the image: `FROM --platform=… IMAGE`")
                    }
                    [_, second, ..] if second.text.starts_with('#') => {
                        Some("a comment needs a line of its own")
                    }
                    _ => None,
                };
                diagnostics.push(match help {
                    Some(help) => error.with_help(help),
                    None => error,
                });
                return None;
            }
        };
        Some(FromImage { image: image.clone(), alias, platform })
    }

    fn run(
        &self,
        heredocs: Vec<(Range<usize>, Heredoc)>,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Option<Run> {
        let flags = self.flags(&RUN_FLAGS, diagnostics);
        let located = flags.located("mount");
        let mounts =
            located.map(|(text, span, locate)| Mount::parse(text, span, &locate, diagnostics));
        let mounts = mounts.collect::<Vec<_>>();
        let devices: Vec<Device> =
            flags.texts("device").iter().filter_map(|word| device(word, diagnostics)).collect();
        let network = choice("network", flags.text("network"), &NETWORKS, diagnostics);
        let security = choice("security", flags.text("security"), &SECURITY, diagnostics);
        let form = self.form(self.rest.clone(), diagnostics)?;
        if self.rest.is_empty() {
            let warning = Diagnostic::warning("W0201", self.span(), "RUN without a command");
            diagnostics.push(warning);
        }
        let heredocs = heredocs.into_iter().map(|(_, heredoc)| heredoc).collect();
        Some(Run { mounts, network, security, devices, form, heredocs })
    }

    /// COPY and ADD.
    fn transfer(
        &self,
        heredocs: Vec<(Range<usize>, Heredoc)>,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Option<Transfer> {
        let defined: &[Definition] = if self.name() == "ADD" { &ADD_FLAGS } else { &COPY_FLAGS };
        let flags = self.flags(defined, diagnostics);
        let from = flags.text("from");
        if let Some(from) = &from {
            let same = expand_word(&from.text, &NoEnv, self.escape);
            if same.map_or(true, |expanded| expanded.text != from.text) {
                let error = "`--from` does not take variables or quotes";
                diagnostics.push(
                    Diagnostic::error("E0306", from.span, error).with_help(
                        "define a stage `FROM … AS name` with the variable and name that",
                    ),
                );
            }
        }
        let mut sources = self.sources(heredocs, diagnostics)?;
        let destination = sources.pop();
        let destination = match destination {
            Some(Source::Heredoc(heredoc)) => {
                let error = format!("{} cannot have a heredoc as its destination", self.name());
                diagnostics.push(Diagnostic::error("E0207", heredoc.span, error));
                return None;
            }
            Some(Source::Path(word)) if !sources.is_empty() => word,
            _ => {
                diagnostics.push(self.missing("a source and a destination"));
                return None;
            }
        };
        Some(Transfer {
            sources,
            destination,
            from,
            chown: flags.text("chown"),
            chmod: flags.text("chmod"),
            link: flags.boolean("link"),
            parents: flags.boolean("parents"),
            exclude: flags.texts("exclude"),
            checksum: flags.text("checksum"),
            keep_git_dir: flags.boolean("keep-git-dir"),
            unpack: flags.boolean("unpack"),
        })
    }

    /// Sources and destination of COPY and ADD, in order.
    fn sources(
        &self,
        heredocs: Vec<(Range<usize>, Heredoc)>,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Option<Vec<Source>> {
        if let Some(words) = self.json(self.rest.clone(), diagnostics).ok()? {
            return Some(words.into_iter().map(Source::Path).collect());
        }
        let places: Vec<Range<usize>> = heredocs.iter().map(|(place, _)| place.clone()).collect();
        let mut heredocs = heredocs.into_iter().peekable();
        let words = split_blanks(self.line, self.rest.clone(), &places);
        let mut sources = Vec::with_capacity(words.len());
        for range in words {
            match heredocs.next_if(|(place, _)| *place == range) {
                Some((_, heredoc)) => sources.push(Source::Heredoc(Box::new(heredoc))),
                None => sources.push(Source::Path(self.line.word(range))),
            }
        }
        Some(sources)
    }

    /// ENV and LABEL.
    fn key_values(&self, diagnostics: &mut Vec<Diagnostic>) -> Option<Vec<KeyValue>> {
        self.no_flags(diagnostics);
        let words = split_quoted(self.line, self.rest.clone(), self.escape);
        let Some((first, _)) = words.first() else {
            diagnostics.push(self.missing("at least one `key=value`"));
            return None;
        };
        if !first.contains('=') {
            // The old form: everything behind the first blank is the value.
            let (key, value) = split_first(self.line, self.rest.clone());
            if value.is_empty() {
                let error = format!("`{}` has no value", shorten(&self.line.text[key.clone()]));
                let diagnostic = Diagnostic::error("E0208", self.line.span(key), error);
                diagnostics
                    .push(diagnostic.with_help("write `key=value`; `key=` for an empty one"));
                return None;
            }
            let (key, value) = (self.line.word(key), self.line.word(value));
            return Some(vec![KeyValue { key, value, legacy: true }]);
        }
        let mut pairs = Vec::with_capacity(words.len());
        for (text, span) in words {
            let Some((key, value)) = split_pair(text, span) else {
                let error = format!("`{}` is no `key=value`", shorten(text));
                let help = "put a value with blanks in quotes: `key=\"a value\"`";
                diagnostics.push(Diagnostic::error("E0208", span, error).with_help(help));
                continue;
            };
            if key.text.is_empty() {
                diagnostics.push(self.blank(span));
                continue;
            }
            pairs.push(KeyValue { key, value, legacy: false });
        }
        Some(pairs)
    }

    fn blank(&self, span: Span) -> Diagnostic {
        let error = format!("{} needs a name before the `=`", self.name());
        Diagnostic::error("E0209", span, error)
    }

    fn args(
        &self,
        comments: &[Word],
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Option<Vec<ArgDefinition>> {
        self.no_flags(diagnostics);
        let words = split_quoted(self.line, self.rest.clone(), self.escape);
        let mut definitions = Vec::with_capacity(words.len());
        let mut docs = BTreeMap::new();
        for (name, text) in comments.iter().filter_map(|comment| comment.text.split_once(' ')) {
            docs.entry(name).or_insert(text);
        }
        for (text, span) in self.some(words, diagnostics)? {
            let (name, default) = match split_pair(text, span) {
                Some((name, _)) if name.text.is_empty() => {
                    diagnostics.push(self.blank(span));
                    continue;
                }
                Some((name, value)) => (name, Some(value)),
                None => (Word::new(text, span), None),
            };
            // Any number of names may stand below any number of comments.
            let doc = docs.remove(name.text.as_str()).map(str::to_owned);
            definitions.push(ArgDefinition { name, default, doc });
        }
        Some(definitions)
    }

    fn volume(&self, diagnostics: &mut Vec<Diagnostic>) -> Option<Vec<Word>> {
        self.no_flags(diagnostics);
        let words = match self.json(self.rest.clone(), diagnostics).ok()? {
            Some(words) => words,
            None => {
                let words = split_blanks(self.line, self.rest.clone(), &[]);
                words.into_iter().map(|word| self.line.word(word)).collect()
            }
        };
        let mut volumes = Vec::with_capacity(words.len());
        for word in self.some(words, diagnostics)? {
            let text = word.text.trim();
            if text.is_empty() {
                let error = "the path of a volume cannot be empty";
                diagnostics.push(Diagnostic::error("E0209", word.span, error));
            } else {
                volumes.push(Word::new(text, word.span));
            }
        }
        Some(volumes)
    }

    fn shell(&self, diagnostics: &mut Vec<Diagnostic>) -> Option<Vec<Word>> {
        self.no_flags(diagnostics);
        if self.rest.is_empty() {
            diagnostics.push(self.missing("at least one argument"));
            return None;
        }
        match self.json(self.rest.clone(), diagnostics).ok()? {
            Some(words) => self.some(words, diagnostics),
            None => {
                let words: Vec<String> = self
                    .rest()
                    .split_whitespace()
                    .take(8)
                    .map(|word| format!("{word:?}"))
                    .collect();
                let place = self.line.span(self.rest.clone());
                let error = Diagnostic::error("E0203", place, "SHELL needs a JSON array");
                diagnostics.push(error.with_help(format!("write `[{}]`", words.join(", "))));
                None
            }
        }
    }

    fn healthcheck(&self, diagnostics: &mut Vec<Diagnostic>) -> Option<Healthcheck> {
        if self.rest.is_empty() {
            diagnostics.push(self.missing("CMD and a command, or NONE"));
            return None;
        }
        let text = self.rest();
        let len = text.find(char::is_whitespace).unwrap_or(text.len());
        let kind = self.rest.start..self.rest.start + len;
        let rest = self.line.trim(kind.end..self.rest.end);
        match self.line.text[kind.clone()].to_uppercase().as_str() {
            "NONE" => {
                self.no_flags(diagnostics);
                if !rest.is_empty() {
                    let error = "HEALTHCHECK NONE takes no arguments";
                    diagnostics.push(Diagnostic::error("E0202", self.line.span(rest), error));
                }
                return Some(Healthcheck::None);
            }
            "CMD" => {}
            _ => {
                let word = self.line.word(kind);
                let error = format!("unknown kind of health check `{}`", shorten(&word.text));
                diagnostics.push(
                    Diagnostic::error("E0211", word.span, error)
                        .with_help("write `HEALTHCHECK [flags] CMD command`"),
                );
                return None;
            }
        }
        let flags = self.flags(&HEALTHCHECK_FLAGS, diagnostics);
        let mut duration = |name: &str| interval(name, flags.text(name), diagnostics);
        let (every, timeout) = (duration("interval"), duration("timeout"));
        let (start_period, start_interval) = (duration("start-period"), duration("start-interval"));
        let retries = flags.text("retries").and_then(|word| {
            let number = word.text.parse::<i32>().ok().and_then(|n| u32::try_from(n).ok());
            if number.is_none() {
                let error = format!("`--retries` is a whole number from 0 on, not `{}`", word.text);
                diagnostics.push(Diagnostic::error("E0305", word.span, error));
            }
            number
        });
        let test = self.form(rest, diagnostics)?;
        if test.words().is_empty() {
            diagnostics.push(self.missing("a command after CMD"));
            return None;
        }
        let interval = every;
        Some(Healthcheck::Check { test, interval, timeout, start_period, start_interval, retries })
    }
}

const NETWORKS: [(&str, Network); 3] =
    [("default", Network::Default), ("none", Network::None), ("host", Network::Host)];

const SECURITY: [(&str, Security); 2] =
    [("sandbox", Security::Sandbox), ("insecure", Security::Insecure)];

/// Understands a flag that has a fixed set of values.
fn choice<T: Copy>(
    name: &str,
    word: Option<Word>,
    known: &[(&str, T)],
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Spanned<T>> {
    let word = word?;
    if let Some((_, value)) = known.iter().find(|(text, _)| *text == word.text) {
        return Some(Spanned { value: *value, span: word.span });
    }
    let names: Vec<&str> = known.iter().map(|(text, _)| *text).collect();
    let error = format!("invalid value `{}` for `--{name}`", shorten(&word.text));
    diagnostics.push(
        Diagnostic::error("E0305", word.span, error)
            .with_help(format!("the values are {}", names.join(", "))),
    );
    None
}

/// Understands a `--device`: `NAME`, `NAME,required`, `name=NAME,required=true`.
fn device(word: &Word, diagnostics: &mut Vec<Diagnostic>) -> Option<Device> {
    let fail = |why: String| Diagnostic::error("E0409", word.span, why);
    let fields = match mount::csv(&word.text) {
        Ok(fields) => fields,
        Err((_, why)) => {
            diagnostics.push(fail(format!("invalid `--device`: {why}")));
            return None;
        }
    };
    let (mut name, mut required) = (String::new(), false);
    for (field, _) in fields {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (field.to_lowercase(), None),
        };
        match (key.as_str(), value) {
            ("required", None) => required = true,
            ("required", Some(value)) => match mount::boolean(value) {
                Some(value) => required = value,
                None => {
                    let why = format!("`required` is true or false, not `{value}`");
                    diagnostics.push(fail(why));
                    return None;
                }
            },
            ("name", Some(value)) if name.is_empty() => value.clone_into(&mut name),
            // A name itself may hold `=`, as in `vendor/class=device`.
            _ if name.is_empty() && key != "name" => name = field.into_owned(),
            _ => {
                let why = format!("unexpected field `{}` in a device", shorten(&field));
                diagnostics.push(fail(why).with_help("the keys are name and required"));
                return None;
            }
        }
    }
    Some(Device { name, required, span: word.span })
}

/// Understands a duration of HEALTHCHECK. Zero is the same as none.
fn interval(name: &str, word: Option<Word>, diagnostics: &mut Vec<Diagnostic>) -> Option<i64> {
    let word = word?;
    let error = match value::parse_duration(&word.text) {
        Ok(0) => return None,
        Ok(nanoseconds) if nanoseconds >= 1_000_000 => return Some(nanoseconds),
        Ok(_) => format!("`--{name}` cannot be less than 1ms"),
        Err(error) => error.to_string(),
    };
    diagnostics.push(Diagnostic::error("E0305", word.span, error));
    None
}

fn is_stage_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b))
}

/// Finds what the comments say about a name: `# name text`.
fn doc_comment(comments: &[Word], name: &str) -> Option<String> {
    let after = |comment: &Word| {
        let rest = comment.text.strip_prefix(name)?;
        rest.strip_prefix(' ').map(str::to_owned)
    };
    if name.is_empty() { None } else { comments.iter().find_map(after) }
}

/// Says whether a text that is no JSON array was probably meant as one: it begins with `["a",` or
/// `["a"]`, also with single quotes. `[ "$a" = b ]` and `[ "$a" ] && b` are shell.
fn looks_like_json(text: &str) -> bool {
    let Some(body) = text.strip_prefix('[') else { return false };
    let body = body.trim_start_matches(BLANKS);
    let Some(quote) = body.chars().next().filter(|c| matches!(c, '"' | '\'')) else { return false };
    let Some(close) = body[1..].find(quote) else { return true };
    let rest = body[close + 2..].trim_start_matches(BLANKS);
    match rest.strip_prefix(']') {
        Some(rest) => !rest.trim_start_matches(BLANKS).starts_with(['&', '|', ';']),
        None => rest.is_empty() || rest.starts_with(','),
    }
}

/// Splits a word at its first `=`.
fn split_pair(text: &str, span: Span) -> Option<(Word, Word)> {
    let (key, value) = text.split_once('=')?;
    // Where a continuation is in the key, the value begins somewhere behind.
    let middle = (span.start + key.len() + 1).min(span.end);
    let whole = span.end - span.start == text.len();
    let key_end = if whole { middle - 1 } else { span.end };
    let value_start = if whole { middle } else { span.start };
    let key = Word::new(key, Span::new(span.start, key_end));
    Some((key, Word::new(value, Span::new(value_start, span.end))))
}

/// Cuts what is shown of a text in a message.
pub(super) fn shorten(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// Says why a heredoc's name was probably not meant, for a heredoc that is never finished.
pub(super) fn odd_name(marker: &str) -> Option<String> {
    let name = parse_marker(marker).ok().flatten()?.name;
    let bare = name.trim_end_matches([';', ')', '|', '&', '>', '`']);
    let bare = bare.split([';', ')', '|', '&', '>']).next().unwrap_or_default();
    (!bare.is_empty() && bare != name)
        .then(|| format!("the name of this heredoc is `{name}`; put a blank after `{bare}`"))
}
