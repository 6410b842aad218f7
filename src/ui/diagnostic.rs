//! Draws a [`Diagnostic`] with an excerpt of the Dockerfile, in rustc's look.
//!
//! Only the lines that matter are handed to the drawing crate, and long ones are cut around the place
//! in question, so a diagnostic costs the same in a small file and in a huge one. What the file put
//! into a message is stripped of control characters: a Dockerfile cannot talk to the terminal.

use std::borrow::Cow;
use std::sync::OnceLock;

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};

use crate::dockerfile::{Diagnostic, LineIndex, Severity, Span};

/// How many lines of an excerpt are shown at most: enough for a continued instruction.
const MAX_LINES: usize = 6;

/// How many characters of a line are shown at most; about two rows of a terminal.
const MAX_COLUMNS: usize = 160;

/// How many characters stay in front of the place when a line is cut.
const CONTEXT: usize = 40;

/// Draws the diagnostics of one file.
#[derive(Debug)]
pub struct Painter<'a> {
    path: &'a str,
    source: &'a str,
    /// Made for the first that is drawn: most files have nothing to be said of.
    lines: OnceLock<LineIndex>,
    renderer: Renderer,
}

impl<'a> Painter<'a> {
    /// Makes a painter; `path` is what is shown as the name of the file.
    pub fn new(path: &'a str, source: &'a str, color: bool) -> Painter<'a> {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let renderer = renderer.term_width(MAX_COLUMNS + CONTEXT);
        Painter { path, source, lines: OnceLock::new(), renderer }
    }

    fn lines(&self) -> &LineIndex {
        self.lines.get_or_init(|| LineIndex::new(self.source))
    }

    /// Draws one diagnostic, without a line break at the end.
    pub fn paint(&self, diagnostic: &Diagnostic) -> String {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(clean(&diagnostic.message)).id(diagnostic.code);
        let path = clean(self.path);
        let (line, column) = self.lines().position(self.source, diagnostic.span.start);
        let origin = Origin::path(path.clone()).line(line).char_column(column);
        let mut group = if self.source.is_empty() {
            title.element(origin)
        } else {
            let excerpt = self.excerpt(diagnostic.span);
            let place = AnnotationKind::Primary.span(excerpt.start..excerpt.end);
            let place = match diagnostic.label.as_str() {
                "" => place,
                label => place.label(clean(label).into_owned()),
            };
            let snippet = Snippet::source(excerpt.text).line_start(line).fold(false);
            let snippet = snippet.annotation(place);
            // The crate counts columns in the excerpt, so where that is cut the place is given apart.
            if excerpt.cut {
                title.element(origin).element(snippet)
            } else {
                title.element(snippet.path(path))
            }
        };
        if let Some(help) = &diagnostic.help {
            // Some show lines to write.
            let lines: Vec<Cow<'_, str>> = help.lines().map(clean).collect();
            group = group.element(Level::HELP.message(lines.join("\n")));
        }
        if let Some(rule) = diagnostic.rule {
            let note = match rule.url() {
                Some(url) => format!("check {}, see {url}", rule.name()),
                None => format!("check {}", rule.name()),
            };
            group = group.element(Level::NOTE.message(note));
        }
        let drawn = self.renderer.render(&[group]);
        // Blanks at line ends would only get in the way of those who compare or paste it.
        let lines: Vec<&str> = drawn.lines().map(str::trim_end).collect();
        lines.join("\n")
    }

    /// Copies the lines of a place, cut to what can be shown.
    fn excerpt(&self, span: Span) -> Excerpt {
        let first = self.lines().line(span.start);
        let last = self.lines().line(span.end.saturating_sub(1).max(span.start));
        let mut excerpt = Excerpt { text: String::new(), start: 0, end: 0, cut: false };
        for line in first..=last.min(first + MAX_LINES - 1) {
            let whole = self.lines().line_span(self.source, line);
            let (start, end) =
                (span.start.max(whole.start), span.end.clamp(whole.start, whole.end));
            if line > first {
                excerpt.text.push('\n');
            }
            let (from, to) = window(&self.source[whole.start..whole.end], start - whole.start);
            let (from, to) = (whole.start + from, whole.start + to);
            if from > whole.start {
                excerpt.text.push('…');
                excerpt.cut |= line == first;
            }
            let shift = excerpt.text.len();
            excerpt.text.push_str(&clean(&self.source[from..to]));
            if to < whole.end {
                excerpt.text.push('…');
            }
            let place = |at: usize| shift + clean(&self.source[from..at.clamp(from, to)]).len();
            if line == first {
                excerpt.start = place(start);
            }
            excerpt.end = place(end).max(excerpt.start);
        }
        excerpt
    }
}

struct Excerpt {
    text: String,
    /// The place in the text.
    start: usize,
    end: usize,
    /// The first line lacks its beginning.
    cut: bool,
}

/// Chooses the part of a line to show, which holds the offset `at`.
fn window(line: &str, at: usize) -> (usize, usize) {
    let at = at.min(line.len());
    if line.len() <= MAX_COLUMNS {
        return (0, line.len());
    }
    let back = |from: usize, count: usize| {
        line[..from].char_indices().rev().take(count).last().map_or(from, |(at, _)| at)
    };
    let forward = |from: usize, count: usize| {
        line[from..].char_indices().nth(count).map_or(line.len(), |(at, _)| from + at)
    };
    // Near the start of the line nothing needs to go on the left.
    let near = line[..at].chars().take(MAX_COLUMNS / 2).count() < MAX_COLUMNS / 2;
    let from = if near { 0 } else { back(at, CONTEXT) };
    (from, forward(from, MAX_COLUMNS))
}

/// Replaces control characters, and those that turn the direction of writing, by visible ones.
fn clean(text: &str) -> Cow<'_, str> {
    let odd = |c: char| {
        (c.is_control() && c != '\t')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(odd) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|c| if odd(c) { char::REPLACEMENT_CHARACTER } else { c }).collect())
}

/// Says how many there are: `2 errors and 1 warning`; None when there are none.
pub fn summary(diagnostics: &[Diagnostic]) -> Option<String> {
    let errors = diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count();
    let warnings = diagnostics.len() - errors;
    let count = |number: usize, what: &str| match number {
        0 => None,
        1 => Some(format!("1 {what}")),
        _ => Some(format!("{number} {what}s")),
    };
    let parts: Vec<String> =
        [count(errors, "error"), count(warnings, "warning")].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::parse;

    fn paint(source: &str) -> String {
        let parsed = parse(source.as_bytes());
        let painter = Painter::new("Dockerfile", &parsed.dockerfile.source, false);
        let painted: Vec<String> =
            parsed.diagnostics.iter().map(|diagnostic| painter.paint(diagnostic)).collect();
        painted.join("\n\n")
    }

    #[test]
    fn an_error_shows_its_place_and_what_to_do() {
        insta::assert_snapshot!(paint("FROM a AS b\nRUN --mount=type=cahce,target=/x \\\n  make\n"), @r#"
        error[E0404]: unknown mount type `cahce`
         --> Dockerfile:2:18
          |
        2 | RUN --mount=type=cahce,target=/x \
          |                  ^^^^^
          |
          = help: did you mean `cache`?
        "#);
    }

    #[test]
    fn a_check_names_itself() {
        insta::assert_snapshot!(paint("FROM a AS Base\n"), @r#"
        warning[W0101]: the stage name `Base` is not lower case
         --> Dockerfile:1:11
          |
        1 | FROM a AS Base
          |           ^^^^
          |
          = help: write `base`
          = note: check StageNameCasing, see https://docs.docker.com/go/dockerfile/rule/stage-name-casing/
        "#);
    }

    #[test]
    fn several_lines_and_labels() {
        insta::assert_snapshot!(paint("FROM a\r\nENV \\\r\n  KEY \\\r\n  value\r\nRUN <<EOF\r\nx\r\n"), @r#"
        warning[W0113]: `ENV key value` is the old form
         --> Dockerfile:3:3
          |
        3 | /   KEY \
        4 | |   value
          | |_______^
          |
          = help: write `ENV KEY=…`
          = note: check LegacyKeyValueFormat, see https://docs.docker.com/go/dockerfile/rule/legacy-key-value-format/

        warning[W0116]: `KEY` looks like a secret, and ENV keeps it in the image
         --> Dockerfile:3:3
          |
        3 |   KEY \
          |   ^^^
          |
          = help: use `RUN --mount=type=secret,id=…` instead
          = note: check SecretsUsedInArgOrEnv, see https://docs.docker.com/go/dockerfile/rule/secrets-used-in-arg-or-env/

        error[E0104]: the heredoc `EOF` is never finished
         --> Dockerfile:5:5
          |
        5 | RUN <<EOF
          |     ^^^^^ no line behind it is `EOF`
          |
          = help: a line with nothing but its name ends it
        "#);
    }

    #[test]
    fn huge_lines_are_cut() {
        let source =
            format!("FROM a\nENV {}bad {}\n", "A=1 ".repeat(30_000), "B=2 ".repeat(30_000));
        insta::assert_snapshot!(paint(&source), @r#"
        error[E0208]: `bad` is no `key=value`
         --> Dockerfile:2:120005
          |
         :::
        2 | …A=1 A=1 A=1 A=1 A=1 A=1 A=1 A=1 A=1 A=1 bad B=2 B=2 B=2 B=2 B=2 B=2 B=2 B=2 B=2 B=2 B=2 B=2 B=2 B=2 B=2 B=2 B=2 B=2 B=2 B=2 B=2 B=2 B=2 B=2 B=2 B=2 B=2 B=2 B=2 …
          |                                          ^^^
          |
          = help: put a value with blanks in quotes: `key="a value"`
        "#);
    }

    #[test]
    fn an_empty_file_has_no_excerpt() {
        insta::assert_snapshot!(paint(""), @r#"
        error[E0108]: there is no instruction in it
        --> Dockerfile:1:1
        "#);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let text = paint("FROM a\n\u{1b}[31mNOPE \u{202e} x\n");
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text}");
    }

    #[test]
    fn colour_only_adds_escapes() {
        let parsed = parse(b"FORM a");
        let source = &parsed.dockerfile.source;
        let paint = |color| Painter::new("x", source, color).paint(&parsed.diagnostics[0]);
        let mut plain = String::new();
        let colored = paint(true);
        let mut pieces = colored.split('\u{1b}');
        plain.push_str(pieces.next().unwrap_or_default());
        for piece in pieces {
            plain.push_str(piece.split_once('m').map_or("", |(_, text)| text));
        }
        assert_ne!(colored, plain);
        assert_eq!(plain, paint(false));
    }

    #[test]
    fn summaries() {
        let count = |source: &str| summary(&parse(source.as_bytes()).diagnostics);
        assert_eq!(count("FROM a"), None);
        assert_eq!(count("FROM a AS B"), Some("1 warning".to_owned()));
        assert_eq!(count("FROM a AS B\nX\nX"), Some("2 errors and 1 warning".to_owned()));
    }
}
