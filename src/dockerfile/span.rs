//! Places in the source: [`Span`], [`Word`], [`LineIndex`].
//!
//! Every span counts bytes of the Dockerfile as it was read, byte order mark included. A word that was
//! put together over a line continuation has a span from its first to its last byte, so the span may
//! hold more than the word's text.

/// A range of bytes of the source, `start..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Span {
    /// The offset of the first byte.
    pub start: usize,
    /// The offset behind the last byte.
    pub end: usize,
}

impl Span {
    /// Makes the span `start..end`; an end before the start counts as empty.
    pub fn new(start: usize, end: usize) -> Span {
        Span { start, end: end.max(start) }
    }

    /// Makes the smallest span that holds both.
    pub fn to(self, other: Span) -> Span {
        Span { start: self.start.min(other.start), end: self.end.max(other.end) }
    }

    /// Says whether no byte is in it.
    pub fn is_empty(self) -> bool {
        self.start >= self.end
    }

    /// Gives the bytes of `source` that it covers, cut to what there is.
    pub fn slice(self, source: &str) -> &str {
        source.get(self.start..self.end.min(source.len())).unwrap_or_default()
    }
}

/// A piece of an instruction, with variables and quotes as written, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Word {
    /// The unexpanded text.
    pub text: String,
    /// Where it stands in the source.
    pub span: Span,
}

impl Word {
    /// Makes a word.
    pub fn new(text: impl Into<String>, span: Span) -> Word {
        Word { text: text.into(), span }
    }

    /// Gives the unexpanded text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// A checked value and where it stands in the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it stands in the source.
    pub span: Span,
}

/// Finds the line and column of an offset in logarithmic time.
#[derive(Debug, Clone, Default)]
pub struct LineIndex {
    /// Half the size of `usize`: a source may hold nothing but line breaks.
    starts: Vec<u32>,
    len: usize,
}

impl LineIndex {
    /// Indexes a source.
    pub fn new(source: &str) -> LineIndex {
        let breaks = memchr::memchr_iter(b'\n', source.as_bytes());
        let starts = std::iter::once(0).chain(breaks.map(|at| at as u32 + 1)).collect();
        LineIndex { starts, len: source.len() }
    }

    /// Gives the line of an offset, counted from 1.
    pub fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|&start| start as usize <= offset).max(1)
    }

    /// Gives line and column (in characters) of an offset, both counted from 1.
    pub fn position(&self, source: &str, offset: usize) -> (usize, usize) {
        let line = self.line(offset);
        let start = self.start(line);
        let before = source.get(start..offset.min(source.len())).unwrap_or_default();
        (line, before.chars().count() + 1)
    }

    /// Gives the offset at which a line (counted from 1) begins.
    pub fn start(&self, line: usize) -> usize {
        self.starts.get(line.saturating_sub(1)).map_or(self.len, |&start| start as usize)
    }

    /// Gives the range of a line (counted from 1) without its line break.
    pub fn line_span(&self, source: &str, line: usize) -> Span {
        let span = Span::new(self.start(line), self.start(line + 1));
        let text = span.slice(source);
        Span::new(span.start, span.start + text.trim_end_matches(['\n', '\r']).len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_from_one() {
        let source = "añb\r\nc\n";
        let index = LineIndex::new(source);
        let at: Vec<_> = [0, 3, 6, 7, 8].map(|offset| index.position(source, offset)).to_vec();
        assert_eq!(at, [(1, 1), (1, 3), (2, 1), (2, 2), (3, 1)]);
        assert_eq!(index.line_span(source, 1).slice(source), "añb");
        assert_eq!(index.line_span(source, 3), Span::new(8, 8));
    }
}
