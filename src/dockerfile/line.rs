//! Physical lines → logical lines, with a map back to the source.
//!
//! A logical line is what an instruction is parsed from: continuations joined, comment lines and blank
//! lines between them gone. It knows for every byte where it stood, so spans survive the joining.

use std::ops::Range;

use super::ast::Escape;
use super::span::{Span, Word};

/// A line of the source: `start..end` without its line break, the next line begins at `next`.
#[derive(Debug, Clone, Copy)]
pub struct Physical {
    /// Where it begins.
    pub start: usize,
    /// Where its text ends; carriage returns before the line break do not belong to it.
    pub end: usize,
    /// Where the next line begins.
    pub next: usize,
}

/// Reads physical lines.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    /// The whole source.
    pub source: &'a str,
    /// Where the next line begins.
    pub at: usize,
}

impl<'a> Reader<'a> {
    /// Reads the next line; None at the end.
    pub fn read(&mut self) -> Option<Physical> {
        let rest = &self.source[self.at..];
        if rest.is_empty() {
            return None;
        }
        let start = self.at;
        let end = memchr::memchr(b'\n', rest.as_bytes());
        let next = end.map_or(self.source.len(), |at| start + at + 1);
        let text = self.source[start..next].trim_end_matches(['\n', '\r']);
        self.at = next;
        Some(Physical { start, end: start + text.len(), next })
    }

    /// Gives the text of a line.
    pub fn text(&self, line: Physical) -> &'a str {
        &self.source[line.start..line.end]
    }
}

/// The places of comment lines, in order; those with nothing but blanks between them are one.
#[derive(Debug, Clone, Default)]
pub struct Comments {
    /// The places.
    pub spans: Vec<Span>,
    /// How many comments there were.
    pub count: usize,
}

impl Comments {
    /// Adds the next one.
    pub fn push(&mut self, source: &str, span: Span) {
        self.count += 1;
        match self.spans.last_mut() {
            Some(last) if source[last.end..span.start].trim().is_empty() => last.end = span.end,
            _ => self.spans.push(span),
        }
    }

    /// Adds those of a logical line.
    pub fn append(&mut self, mut line: Comments) {
        self.count += line.count;
        self.spans.append(&mut line.spans);
    }
}

/// A logical line.
#[derive(Debug, Clone, Default)]
pub struct Line {
    /// The joined text.
    pub text: String,
    /// Where each piece begins, in the text and in the source (which is never as large as 4 GiB).
    pieces: Vec<(u32, u32)>,
    /// Where the last of its physical lines ends.
    pub end: usize,
    /// The first blank line between its continued lines.
    pub blank: Option<Span>,
    /// The comments between its continued lines.
    pub comments: Comments,
}

impl Line {
    /// Reads the rest of a logical line whose first physical line is `first`. The memory of `old`, an
    /// earlier line, is used again.
    pub fn read(reader: &mut Reader<'_>, first: Physical, escape: Escape, old: Line) -> Line {
        let Line { mut text, mut pieces, .. } = old;
        text.clear();
        pieces.clear();
        let mut line = Line { text, pieces, end: first.end, ..Line::default() };
        let text = reader.text(first);
        let trimmed = text.trim_start();
        let mut more = line.push(trimmed, first.end - trimmed.len(), escape);
        while more && let Some(physical) = reader.read() {
            line.end = physical.end;
            let text = reader.text(physical);
            let trimmed = text.trim_start();
            if trimmed.is_empty() {
                line.blank.get_or_insert(Span::new(physical.start, physical.end));
            } else if trimmed.starts_with('#') {
                line.comments.push(reader.source, Span::new(physical.start, physical.end));
            } else {
                more = line.push(text, physical.start, escape);
            }
        }
        line
    }

    /// Makes a logical line of one piece.
    #[cfg(test)]
    pub fn single(text: &str) -> Line {
        Line { text: text.to_owned(), pieces: vec![(0, 0)], end: text.len(), ..Line::default() }
    }

    /// Adds a piece and says whether the line goes on behind it.
    fn push(&mut self, text: &str, at: usize, escape: Escape) -> bool {
        let escape = escape.as_char();
        let cut = text.trim_end_matches([' ', '\t']).strip_suffix(escape);
        // An escaped escape joins nothing. Three of them do not either, as in BuildKit.
        let cut = cut.filter(|cut| !cut.ends_with(escape));
        let text = cut.unwrap_or(text);
        if !text.is_empty() || self.pieces.is_empty() {
            self.pieces.push((self.text.len() as u32, at as u32));
            self.text.push_str(text);
        }
        cut.is_some()
    }

    /// Gives the place in the source of a range of the text.
    pub fn span(&self, range: Range<usize>) -> Span {
        let start = self.offset(range.start);
        if range.is_empty() {
            return Span::new(start, start);
        }
        Span::new(start, self.offset(range.end - 1) + 1)
    }

    /// Gives a range of the text as a word.
    pub fn word(&self, range: Range<usize>) -> Word {
        Word::new(&self.text[range.clone()], self.span(range))
    }

    /// Gives the range without blanks at both ends.
    pub fn trim(&self, range: Range<usize>) -> Range<usize> {
        let text = &self.text[range.clone()];
        let front = text.len() - text.trim_start().len();
        let start = range.start + front;
        start..start + text.trim().len()
    }

    fn offset(&self, at: usize) -> usize {
        let found = match self.pieces.as_slice() {
            // As in most lines.
            [only] => Some(only),
            pieces => {
                let behind = pieces.partition_point(|&(text, _)| text as usize <= at);
                pieces.get(behind.saturating_sub(1))
            }
        };
        found.map_or(self.end, |&(text, source)| source as usize + (at - text as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(source: &str) -> Vec<Line> {
        let mut reader = Reader { source, at: 0 };
        let mut lines = Vec::new();
        while let Some(first) = reader.read() {
            lines.push(Line::read(&mut reader, first, Escape::Backslash, Line::default()));
        }
        lines
    }

    #[test]
    fn continuations_are_joined_and_mapped() {
        let source = "  RUN a \\\r\n  # no\r\n\r\n  b \\ \t\r\nc\\\\\r\nRUN d\\";
        let lines = read(source);
        let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts, ["RUN a   b c\\\\", "RUN d"]);
        let line = &lines[0];
        for piece in ["RUN", "a", "b", "c\\\\"] {
            let at = line.text.find(piece).expect("it is in there");
            assert_eq!(line.span(at..at + piece.len()).slice(source), piece);
        }
        assert_eq!(line.span(4..9).slice(source), "a \\\r\n  # no\r\n\r\n  b");
        assert_eq!(line.blank.map(|span| span.start), Some(19));
        assert_eq!(lines[1].span(5..5).start, source.len() - 1);
    }

    #[test]
    fn three_escapes_at_the_end_do_not_continue() {
        assert_eq!(read("RUN a\\\\\\\nRUN b").len(), 2);
        assert_eq!(read("\\\nRUN b").len(), 1);
    }

    #[test]
    fn a_hundred_megabytes_in_one_line_are_read_once() {
        let source = format!("RUN {}", "x \\\n".repeat(1 << 20));
        let lines = read(&source);
        assert_eq!(lines.len(), 1);
        assert_eq!(
            lines[0].span(lines[0].text.len() - 2..lines[0].text.len() - 1).slice(&source),
            "x"
        );
    }
}
