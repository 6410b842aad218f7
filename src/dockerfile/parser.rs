//! A whole file → instructions and diagnostics.
//!
//! The parser walks the source once. Per logical line it looks for directives and comments, takes the
//! line apart ([`Parts`]), reads the bodies of its heredocs, and has the instruction understood. After
//! an error it goes on with the next line.
//!
//! Start reading at [`Parser::run`].

use std::ops::Range;

use super::ast::{Command, Directives, Dockerfile, Escape, Heredoc, Instruction, Onbuild};
use super::check::{CheckOptions, Rule};
use super::diagnostic::Diagnostic;
use super::heredoc::{Marker, markers};
use super::instruction::{KEYWORDS, Parts, odd_name, shorten};
use super::line::{Comments, Line, Physical, Reader};
use super::lint;
use super::span::{Span, Word};
use super::suggest::suggest;
use super::{Parsed, source};

/// Whether the text is a file or a trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// A Dockerfile: it needs a FROM.
    File,
    /// An ONBUILD trigger of an image: one instruction of a stage.
    Trigger,
}

/// Parses a file or a trigger. `check` takes the place of the check directive.
pub fn parse(bytes: &[u8], scope: Scope, check: Option<CheckOptions>) -> Parsed {
    if bytes.len() > MAX_SOURCE {
        let message = format!("there are more than {} MiB of it", MAX_SOURCE >> 20);
        let error = Diagnostic::error("E0111", Span::default(), message);
        let error = error.with_help("put data into files of the context, and COPY them");
        return Parsed { diagnostics: vec![error], ..Parsed::default() };
    }
    let source = match source::decode(bytes) {
        Ok(source) => source,
        Err(diagnostic) => return Parsed { diagnostics: vec![diagnostic], ..Parsed::default() },
    };
    let most = memchr::memchr_iter(b'\n', source.text.as_bytes()).count() + 1;
    let mut parser = Parser {
        reader: Reader { source: &source.text, at: source.start },
        directives: Directives { check: check.clone().unwrap_or_default(), ..Default::default() },
        given_check: check.is_some(),
        seen: Vec::new(),
        top: Top::Directives,
        instructions: Vec::with_capacity(most.min(MOST_INSTRUCTIONS)),
        words: 0,
        line: Line::default(),
        comments: Vec::new(),
        comment_spans: Comments::default(),
        diagnostics: Vec::new(),
        in_stage: scope == Scope::Trigger,
    };
    parser.run();
    let Parser { directives, instructions, comment_spans, mut diagnostics, .. } = parser;
    // Where the bytes are wrong everything else is only noise.
    let damage = source.damage(&comment_spans.spans);
    let dockerfile = Dockerfile { source: source.text, directives, instructions };
    if !damage.is_empty() {
        return Parsed { dockerfile, diagnostics: damage };
    }
    if scope == Scope::File {
        diagnostics.extend(lint::run(&dockerfile));
    }
    diagnostics.sort_by_key(|diagnostic| diagnostic.span.start);
    Parsed { dockerfile, diagnostics }
}

/// How far the top of the file has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Top {
    /// Directives may come.
    Directives,
    /// The same, but a `#!` line came first: then `escape` does not count, as in BuildKit.
    AfterShebang,
    /// Something else came.
    Done,
}

#[derive(Debug)]
struct Parser<'a> {
    reader: Reader<'a>,
    directives: Directives,
    /// The checks were chosen from outside, the directive does not count.
    given_check: bool,
    /// The directives that were given.
    seen: Vec<&'static str>,
    top: Top,
    instructions: Vec<Instruction>,
    /// Words and comments so far.
    words: usize,
    /// The last logical line, for its memory.
    line: Line,
    /// The comments since the last instruction.
    comments: Vec<Word>,
    comment_spans: Comments,
    diagnostics: Vec<Diagnostic>,
    /// A FROM was seen, or something that may have been meant as one.
    in_stage: bool,
}

/// The largest source, bytes: a Dockerfile is read whole, and several times over. (BuildKit takes what fits
/// into one message, 16 MiB, in lines of 64 KiB.)
pub const MAX_SOURCE: usize = 4 << 20;

/// The most instructions. Overlay mounts of Linux take a few hundred layers, and what is generated has some
/// thousands of lines.
const MOST_INSTRUCTIONS: usize = 20_000;

/// The most words of one instruction, of whatever kind: each has its place, and maybe a warning. A command of
/// the shell that has more is longer than what Linux takes as one argument (128 KiB).
const MOST_WORDS: usize = 65_536;

/// The most words and comments of a file.
const MOST_WORDS_OF_FILE: usize = 262_144;

/// More warnings than these are not kept.
pub const MOST_WARNINGS: usize = 10_000;

/// More errors than these are of no use to anybody: the file is no Dockerfile.
const MOST_PROBLEMS: usize = 1000;

const DIRECTIVES: [&str; 3] = ["syntax", "escape", "check"];

impl Parser<'_> {
    /// Counts what would take too much memory, and says what there is too much of.
    fn count(&mut self, text: &str) -> Result<(), String> {
        // A word takes two bytes with what ends it, so only long texts can have too many.
        let is_long =
            self.reader.source.len() / 2 >= MOST_WORDS_OF_FILE || text.len() / 2 >= MOST_WORDS;
        let words = if is_long { words(text) } else { 0 };
        self.words += words;
        if words > MOST_WORDS {
            return Err(format!("{MOST_WORDS} words in one instruction"));
        }
        if self.words > MOST_WORDS_OF_FILE {
            return Err(format!("{MOST_WORDS_OF_FILE} words and comments"));
        }
        if self.instructions.len() == MOST_INSTRUCTIONS {
            return Err(format!("{MOST_INSTRUCTIONS} instructions"));
        }
        Ok(())
    }

    fn run(&mut self) {
        let (mut seen, mut errors) = (0, 0);
        while let Some(physical) = self.reader.read() {
            let text = self.reader.text(physical).trim_start();
            let start = physical.end - text.len();
            if let Some(comment) = text.strip_prefix('#') {
                self.words += 1;
                if self.words <= MOST_WORDS_OF_FILE {
                    self.comment(comment, Span::new(start, physical.end));
                }
                continue;
            }
            self.top = Top::Done;
            let enough = match text.is_empty() {
                true => Ok(()),
                false => self.instruction(physical),
            };
            errors += self.diagnostics[seen..].iter().filter(|found| found.is_error()).count();
            if errors > MOST_PROBLEMS || self.diagnostics.len() > MOST_WARNINGS + errors {
                // One instruction can have tens of thousands of either.
                let (mut wrong, mut doubtful) = (0, 0);
                self.diagnostics.retain(|found| {
                    let (count, most) = match found.is_error() {
                        true => (&mut wrong, MOST_PROBLEMS),
                        false => (&mut doubtful, MOST_WARNINGS),
                    };
                    *count += 1;
                    *count <= most
                });
            }
            seen = self.diagnostics.len();
            let stop = match enough {
                Err(what) => {
                    let error = format!("there are more than {what}");
                    let help = "put data into files of the context, and COPY them";
                    Some(("E0111", error, help))
                }
                Ok(()) if errors > MOST_PROBLEMS => {
                    let error = "too many errors; what follows this line was not read".to_owned();
                    Some(("E0110", error, "mend the first ones; is this a Dockerfile?"))
                }
                Ok(()) => None,
            };
            if let Some((code, error, help)) = stop {
                let span = Span::new(start, physical.end);
                self.diagnostics.push(Diagnostic::error(code, span, error).with_help(help));
                return;
            }
        }
        if self.diagnostics.iter().any(Diagnostic::is_error) {
            return;
        }
        if self.instructions.is_empty() {
            let error = "there is no instruction in it";
            self.diagnostics.push(Diagnostic::error("E0108", Span::default(), error));
        } else if !self.in_stage {
            let error = "there is no stage to build: no line begins with FROM";
            let span = self.instructions.first().map_or(Span::default(), |first| first.span);
            self.diagnostics.push(Diagnostic::error("E0109", span, error));
        }
    }

    /// Looks at a comment line, which may be a directive.
    fn comment(&mut self, comment: &str, span: Span) {
        self.comment_spans.push(self.reader.source, span);
        let first = span.start <= 3 && self.comment_spans.count == 1;
        if first && comment.starts_with('!') {
            self.top = Top::AfterShebang;
            return;
        }
        if let Some((key, value, at)) = key_value(comment) {
            let value_span = Span::new(span.start + 1 + at, span.start + 1 + at + value.len());
            let known = DIRECTIVES.into_iter().find(|known| key.eq_ignore_ascii_case(known));
            match known {
                Some(name) if self.top != Top::Done => {
                    return self.directive(name, Word::new(value, value_span), span);
                }
                Some("escape") => self.diagnostics.push(
                    Diagnostic::warning("W0202", span, "this directive has no effect here")
                        .with_help("directives stand at the very top, before any other comment"),
                ),
                None if self.top != Top::Done => {
                    if let Some(found) = suggest(key, DIRECTIVES, true) {
                        let warning = format!("`{}` is not a directive", shorten(key));
                        let warning = Diagnostic::warning("W0202", span, warning);
                        self.diagnostics.push(warning.with_suggestion(Some(found)));
                    }
                }
                _ => {}
            }
        }
        self.top = Top::Done;
        match comment.trim() {
            "" => self.comments.clear(),
            text => self.comments.push(Word::new(text, span)),
        }
    }

    fn directive(&mut self, name: &'static str, value: Word, span: Span) {
        if self.seen.contains(&name) {
            let error = format!("the directive `{name}` is given twice");
            self.diagnostics.push(Diagnostic::error("E0105", span, error));
            return;
        }
        self.seen.push(name);
        match name {
            "syntax" => {
                let image = value.text.split(' ').next().unwrap_or_default();
                let end = value.span.start + image.len();
                let image = Word::new(image, Span::new(value.span.start, end));
                self.diagnostics.extend(foreign_syntax(&image));
                self.directives.syntax = Some(image);
            }
            "escape" if self.top == Top::AfterShebang => {
                self.diagnostics.push(Diagnostic::warning(
                    "W0202",
                    span,
                    "this directive has no effect behind a `#!` line",
                ))
            }
            "escape" => match value.text.as_str() {
                "\\" => self.directives.escape = Escape::Backslash,
                "`" => self.directives.escape = Escape::Backtick,
                _ => {
                    let error = format!("invalid escape character `{}`", shorten(&value.text));
                    self.diagnostics.push(
                        Diagnostic::error("E0106", value.span, error)
                            .with_help("it is either `\\` or a backtick"),
                    );
                }
            },
            _ => match CheckOptions::parse(value.text.split(' ').next().unwrap_or_default()) {
                Ok(options) => {
                    self.diagnostics.extend(unknown_checks(&options, value.span));
                    if !self.given_check {
                        self.directives.check = options;
                    }
                }
                Err(why) => self.diagnostics.push(Diagnostic::error("E0107", value.span, why)),
            },
        }
    }

    /// Understands the instruction that begins at a line. Fails when there is too much of something.
    fn instruction(&mut self, first: Physical) -> Result<(), String> {
        let old = std::mem::take(&mut self.line);
        let mut line = Line::read(&mut self.reader, first, self.directives.escape, old);
        self.comment_spans.append(std::mem::take(&mut line.comments));
        self.count(&line.text)?;
        self.understand(&line, first);
        self.line = line;
        Ok(())
    }

    fn understand(&mut self, line: &Line, first: Physical) {
        let escape = self.directives.escape;
        let parts = Parts::split(line, 0..line.text.len(), escape);
        if parts.keyword.is_empty() {
            let error = "a line continuation without an instruction";
            let span = Span::new(first.start, first.end);
            self.diagnostics.push(Diagnostic::error("E0201", span, error));
            return;
        }
        let is_onbuild = parts.name == Some("ONBUILD");
        let inner = is_onbuild.then(|| Parts::split(line, parts.rest.clone(), escape));
        let (heredocs, end) = self.heredocs(inner.as_ref().unwrap_or(&parts));

        let comments = std::mem::take(&mut self.comments);
        let check = self.local_checks(&comments);
        if let Some(blank) = line.blank
            && self.directives.check.merged(check.as_deref()).allows(Rule::NoEmptyContinuation)
        {
            let warning = "a blank line in the middle of an instruction";
            self.diagnostics.push(
                Diagnostic::lint(Rule::NoEmptyContinuation, blank, warning)
                    .with_help("take it out, or make it a comment"),
            );
        }
        self.expect_stage(&parts);
        let command = match &inner {
            Some(inner) => self.onbuild(&parts, inner, heredocs, end),
            None if parts.name.is_none() => {
                let error = self.unknown(&parts);
                self.diagnostics.push(error);
                None
            }
            None => parts.command(heredocs, &comments, &mut self.diagnostics),
        };
        let keyword_span = line.span(parts.keyword.clone());
        self.instructions.push(Instruction {
            span: Span::new(keyword_span.start, end.unwrap_or(line.end)),
            keyword_span,
            original: line.text.trim().to_owned(),
            comments,
            check,
            command: command.unwrap_or(Command::Invalid),
        });
    }

    /// Reports the first instruction that stands before FROM.
    fn expect_stage(&mut self, parts: &Parts<'_>) {
        if self.in_stage {
            return;
        }
        match parts.name {
            Some("ARG") => return,
            Some("FROM") | None => {}
            Some(name) => {
                let span = parts.line.span(parts.keyword.clone());
                let error = format!("{name} stands before the first FROM");
                self.diagnostics.push(
                    Diagnostic::error("E0205", span, error)
                        .with_help("a stage begins with FROM; only ARG may stand before it"),
                );
            }
        }
        self.in_stage = true;
    }

    fn onbuild(
        &mut self,
        parts: &Parts<'_>,
        inner: &Parts<'_>,
        heredocs: Vec<(Range<usize>, Heredoc)>,
        end: Option<usize>,
    ) -> Option<Command> {
        parts.no_flags(&mut self.diagnostics);
        if parts.rest.is_empty() {
            let error = "ONBUILD needs an instruction";
            self.diagnostics.push(Diagnostic::error("E0202", parts.span(), error));
            return None;
        }
        let line = parts.line;
        let keyword_span = line.span(inner.keyword.clone());
        let Some(name) = inner.name else {
            let error = self.unknown(inner);
            self.diagnostics.push(error);
            return None;
        };
        if matches!(name, "ONBUILD" | "FROM" | "MAINTAINER") {
            let error = format!("{name} cannot be triggered by ONBUILD");
            self.diagnostics.push(Diagnostic::error("E0206", keyword_span, error));
            return None;
        }
        let mut expression = line.text[parts.keyword.end..].trim_start().to_owned();
        for (_, heredoc) in &heredocs {
            expression.push('\n');
            expression.push_str(&heredoc.content);
            expression.push_str(&heredoc.name);
        }
        let command = inner.command(heredocs, &[], &mut self.diagnostics)?;
        let instruction = Instruction {
            span: Span::new(keyword_span.start, end.unwrap_or(line.end)),
            keyword_span,
            original: line.text[parts.rest.clone()].to_owned(),
            comments: Vec::new(),
            check: None,
            command,
        };
        Some(Command::Onbuild(Box::new(Onbuild { expression, instruction })))
    }

    /// Reads the bodies of the heredocs of an instruction, and says where the last one ends.
    fn heredocs(&mut self, parts: &Parts<'_>) -> (Vec<(Range<usize>, Heredoc)>, Option<usize>) {
        let line = parts.line;
        let has_marker = memchr::memchr(b'<', line.text.as_bytes())
            .is_some_and(|at| line.text[at..].contains("<<"));
        if !has_marker || !parts.can_have_heredocs() {
            return (Vec::new(), None);
        }
        let found = match markers(&line.text) {
            Ok(found) => found,
            Err(error) => {
                // Then there are none, as in BuildKit; but that is hardly what was meant.
                let at = line.text.find("<<").unwrap_or_default();
                let warning = "no heredoc is looked for in this line, as it cannot be split";
                let warning = Diagnostic::warning("W0205", line.span(at..at + 2), warning);
                self.diagnostics.push(warning.with_label(error.to_string()));
                return (Vec::new(), None);
            }
        };
        let (mut heredocs, mut end) = (Vec::new(), None);
        for (marker, place) in found {
            let (heredoc, finished) = self.body(marker, line, place.clone());
            end = Some(self.reader.at);
            heredocs.push((place, heredoc));
            if !finished {
                break;
            }
        }
        let end = end.map(|end| self.reader.source[..end].trim_end_matches(['\n', '\r']).len());
        (heredocs, end)
    }

    /// Reads the body of a heredoc, the line with its name included, and says whether there was one.
    fn body(&mut self, marker: Marker, line: &Line, place: Range<usize>) -> (Heredoc, bool) {
        let Marker { name, expand, chomp, fd } = marker;
        let start = self.reader.at;
        let (mut end, mut finished) = (start, false);
        while let Some(physical) = self.reader.read() {
            let text = self.reader.text(physical);
            let text = if chomp { text.trim_start_matches('\t') } else { text };
            if text == name {
                finished = true;
                break;
            }
            end = physical.next;
        }
        let content_span = Span::new(start, end);
        let content = content_span.slice(self.reader.source).to_owned();
        let span = line.span(place.clone());
        if !finished {
            let error = format!("the heredoc `{}` is never finished", shorten(&name));
            let error = Diagnostic::error("E0104", span, error)
                .with_label(format!("no line behind it is `{}`", shorten(&name)));
            let indented = content.lines().any(|line| line.trim() == name);
            self.diagnostics.push(match odd_name(&line.text[place]) {
                Some(help) => error.with_help(help),
                None if indented && !chomp => error.with_help(
                    "the line that ends it has blanks around it; `<<-` takes leading tabs off",
                ),
                None => error.with_help("a line with nothing but its name ends it"),
            });
        }
        (Heredoc { name, span, content, content_span, expand, chomp, fd }, finished)
    }

    /// Finds a comment `# check=…` above an instruction.
    fn local_checks(&mut self, comments: &[Word]) -> Option<Box<CheckOptions>> {
        for comment in comments {
            let Some((key, value, _)) = key_value(&comment.text) else { continue };
            if !key.eq_ignore_ascii_case("check") {
                continue;
            }
            match CheckOptions::parse(value.split(' ').next().unwrap_or_default()) {
                Ok(options) => {
                    self.diagnostics.extend(unknown_checks(&options, comment.span));
                    return Some(Box::new(options));
                }
                Err(why) => {
                    self.diagnostics.push(Diagnostic::warning("W0206", comment.span, why));
                    return None;
                }
            }
        }
        None
    }

    /// Explains a line that begins with no keyword.
    fn unknown(&self, parts: &Parts<'_>) -> Diagnostic {
        let word = parts.line.word(parts.keyword.clone());
        let text = word.text.as_str();
        let error = format!("unknown instruction `{}`", shorten(text));
        let error = Diagnostic::error("E0201", word.span, error);
        let upper = text.to_uppercase();
        let glued = KEYWORDS.into_iter().any(|keyword| {
            let rest = upper.strip_prefix(keyword);
            rest.and_then(|rest| rest.chars().next()).is_some_and(|c| !c.is_alphanumeric())
        });
        let found = suggest(&upper, KEYWORDS, true);
        if let Some(found) = found.filter(|_| !glued) {
            // In the case that was used.
            let lower = found.to_lowercase();
            let shown = if text == text.to_lowercase() { lower.as_str() } else { found };
            return error.with_suggestion(Some(shown));
        }
        let help = match text {
            _ if text.starts_with("<<<<<<<") || text.starts_with(">>>>>>>") => {
                "this is the mark of a merge conflict"
            }
            _ if text.starts_with("//") || text.starts_with("/*") || text.starts_with("--") => {
                "comments begin with `#`"
            }
            "&&" | "||" | "|" | ";" | "then" | "fi" | "do" | "done" => {
                "does the line above lack a `\\` at its end?"
            }
            _ if glued => "a blank (no other kind of space) ends the keyword",
            _ if text.starts_with('-') => "does the line above lack a `\\` at its end?",
            _ if self.in_stage && !text.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                "does the line above lack a `\\` at its end?"
            }
            _ => "each line begins with a keyword such as FROM, RUN or COPY",
        };
        error.with_help(help)
    }
}

/// Counts what blanks and commas separate: words, flags, fields of flags, strings of a JSON array.
fn words(text: &str) -> usize {
    let separates = |byte: &u8| matches!(byte, b' ' | b'\t'..=b'\r' | b',' | 0xe2..=0xe3);
    let (mut count, mut within) = (0, false);
    for byte in text.as_bytes() {
        let inside = !separates(byte);
        count += usize::from(inside && !within);
        within = inside;
    }
    count
}

/// Splits `key = value`, as directives are written: key, value, and the offset of the value.
fn key_value(text: &str) -> Option<(&str, &str, usize)> {
    const BLANKS: [char; 5] = ['\t', '\n', '\u{c}', '\r', ' '];
    let body = text.trim_start();
    let len = body.find(|c: char| !c.is_ascii_alphanumeric())?;
    let (key, rest) = body.split_at(len);
    if !key.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    let value = rest.trim_start_matches(BLANKS).strip_prefix('=')?.trim_start_matches(BLANKS);
    let at = text.len() - value.len();
    let value = value.trim_end_matches(BLANKS);
    (!value.is_empty()).then_some((key, value, at))
}

/// Warns about a frontend that is not the one that is built in.
fn foreign_syntax(image: &Word) -> Option<Diagnostic> {
    let name = image.text.split(['@', ':']).next().unwrap_or_default();
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    if matches!(name, "docker/dockerfile" | "docker/dockerfile-upstream" | "dockerfile") {
        return None;
    }
    let warning = format!("the frontend `{}` is not used", shorten(&image.text));
    let help = "lapstrake has its own; what only this frontend understands is an error";
    Some(Diagnostic::warning("W0203", image.span, warning).with_help(help))
}

/// Warns about names of checks that there are not.
fn unknown_checks(options: &CheckOptions, span: Span) -> Vec<Diagnostic> {
    let names = options.skip.iter().chain(&options.experimental);
    let unknown = names.filter(|name| Rule::from_name(name).is_none() && !name.is_empty());
    let warn = |name: &String| {
        let warning = format!("there is no check named `{}`", shorten(name));
        let found = Rule::every().find(|rule| rule.name().eq_ignore_ascii_case(name));
        let found =
            found.map(Rule::name).or_else(|| suggest(name, Rule::every().map(Rule::name), true));
        Diagnostic::warning("W0206", span, warning).with_suggestion(found)
    };
    unknown.map(warn).collect()
}
