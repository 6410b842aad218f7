//! Bytes → text, byte for byte, with what is no text marked.

use super::diagnostic::Diagnostic;
use super::span::Span;

/// How many damaged places are reported.
const SHOWN: usize = 3;

/// A source as text.
#[derive(Debug)]
pub struct Source {
    /// As long as the bytes; what is not UTF-8 is replaced by `?`.
    pub text: String,
    /// Where it begins, behind a byte order mark.
    pub start: usize,
    /// What is not UTF-8.
    invalid: Vec<Span>,
    /// The zero bytes.
    zeros: Vec<Span>,
}

/// Makes text of bytes. UTF-16 is the one thing that cannot be read at all.
pub fn decode(bytes: &[u8]) -> Result<Source, Diagnostic> {
    let utf16 = match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => true,
        // Without a mark: every other byte of ASCII text is zero.
        [a, 0, b, 0, ..] | [0, a, 0, b, ..] => *a != 0 && *b != 0,
        _ => false,
    };
    if utf16 {
        return Err(Diagnostic::error("E0101", Span::default(), "the file is UTF-16, not UTF-8")
            .with_help("convert it: `iconv -f UTF-16 -t UTF-8 Dockerfile`"));
    }
    let mut source =
        Source { text: String::new(), start: 0, invalid: Vec::new(), zeros: Vec::new() };
    for chunk in bytes.utf8_chunks() {
        source.text.push_str(chunk.valid());
        let (start, len) = (source.text.len(), chunk.invalid().len());
        if len > 0 {
            source.invalid.push(Span::new(start, start + len));
            source.text.extend(std::iter::repeat_n('?', len));
        }
    }
    if bytes.contains(&0) {
        let zeros = bytes.iter().enumerate().filter(|&(_, &byte)| byte == 0);
        source.zeros = zeros.map(|(at, _)| Span::new(at, at + 1)).collect();
    }
    source.start = if source.text.starts_with('\u{feff}') { 3 } else { 0 };
    Ok(source)
}

impl Source {
    /// Reports the first damaged places outside of comments, which are sorted.
    pub fn damage(&self, comments: &[Span]) -> Vec<Diagnostic> {
        let outside = |place: &&Span| {
            let after = comments.partition_point(|comment| comment.start <= place.start);
            after == 0 || comments[after - 1].end <= place.start
        };
        let invalid = self.invalid.iter().filter(outside).take(SHOWN).map(|&place| {
            Diagnostic::error("E0102", place, "this is not UTF-8")
                .with_help("save the file as UTF-8; only comments may hold other bytes")
        });
        let zeros = self.zeros.iter().filter(outside).take(SHOWN).map(|&place| {
            Diagnostic::error("E0103", place, "there is a zero byte")
                .with_help("no command and no file name can hold one; is this a text file?")
        });
        let mut diagnostics: Vec<Diagnostic> = invalid.chain(zeros).collect();
        diagnostics.sort_by_key(|diagnostic| diagnostic.span.start);
        diagnostics
    }
}
