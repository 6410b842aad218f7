//! Bytes → text, byte for byte, with what is no text marked.

use super::diagnostic::Diagnostic;
use super::span::Span;

/// How many damaged places are reported.
const SHOWN: usize = 3;

/// A source as text.
#[derive(Debug)]
pub struct Source<'a> {
    /// As long as the bytes; what is not UTF-8 is replaced by `?`.
    pub text: String,
    /// Where it begins, behind a byte order mark.
    pub start: usize,
    /// Holds something that no text holds.
    pub damaged: bool,
    bytes: &'a [u8],
}

/// Makes text of bytes. UTF-16 is the one thing that cannot be read at all.
pub fn decode(bytes: &[u8]) -> Result<Source<'_>, Diagnostic> {
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
    let mut text = String::with_capacity(bytes.len());
    let mut damaged = memchr::memchr(0, bytes).is_some();
    match std::str::from_utf8(bytes) {
        Ok(valid) => text.push_str(valid),
        Err(_) => {
            damaged = true;
            for chunk in bytes.utf8_chunks() {
                text.push_str(chunk.valid());
                text.extend(std::iter::repeat_n('?', chunk.invalid().len()));
            }
        }
    }
    let start = if text.starts_with('\u{feff}') { 3 } else { 0 };
    Ok(Source { text, start, damaged, bytes })
}

impl Source<'_> {
    /// Reports the first damaged places outside of comments, which are sorted.
    pub fn damage(&self, comments: &[Span]) -> Vec<Diagnostic> {
        if !self.damaged {
            return Vec::new();
        }
        let outside = |place: &Span| {
            let after = comments.partition_point(|comment| comment.start <= place.start);
            after == 0 || comments[after - 1].end <= place.start
        };
        let mut at = 0;
        let invalid = self.bytes.utf8_chunks().filter_map(|chunk| {
            let start = at + chunk.valid().len();
            at = start + chunk.invalid().len();
            (at > start).then(|| Span::new(start, at))
        });
        let zeros = self.bytes.iter().enumerate().filter(|&(_, &byte)| byte == 0);
        let zeros = zeros.map(|(at, _)| Span::new(at, at + 1));
        let invalid = invalid.filter(outside).take(SHOWN).map(|place| {
            Diagnostic::error("E0102", place, "this is not UTF-8")
                .with_help("save the file as UTF-8; only comments may hold other bytes")
        });
        let zeros = zeros.filter(outside).take(SHOWN).map(|place| {
            Diagnostic::error("E0103", place, "there is a zero byte")
                .with_help("no command and no file name can hold one; is this a text file?")
        });
        let mut diagnostics: Vec<Diagnostic> = invalid.chain(zeros).collect();
        diagnostics.sort_by_key(|diagnostic| diagnostic.span.start);
        diagnostics
    }
}
