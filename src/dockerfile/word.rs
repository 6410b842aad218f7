//! Splitting a logical line: keyword, flags, words.
//!
//! There are three ways, and each instruction has its own: at blanks only (FROM, EXPOSE, COPY), at
//! blanks outside of quotes with the quotes kept for expansion (ENV, LABEL, ARG), and for flags at
//! blanks outside of quotes with the quotes taken off.

use std::borrow::Cow;
use std::ops::Range;

use super::ast::Escape;
use super::line::Line;
use super::span::Span;

/// What separates words of instructions; a narrower set than Unicode's.
pub const BLANKS: [char; 5] = ['\t', '\u{b}', '\u{c}', '\r', ' '];

/// Splits a range at its first blanks: the first word, and what follows.
pub fn split_first(line: &Line, range: Range<usize>) -> (Range<usize>, Range<usize>) {
    let text = &line.text[range.clone()];
    let len = text.find(BLANKS).unwrap_or(text.len());
    let tail = text[len..].trim_start_matches(BLANKS);
    (range.start..range.start + len, range.end - tail.len()..range.end)
}

/// Splits a range at blanks. A range in `whole` stays in one piece whatever is in it.
pub fn split_blanks(line: &Line, range: Range<usize>, whole: &[Range<usize>]) -> Vec<Range<usize>> {
    let (mut words, mut whole) = (Vec::new(), whole.iter().peekable());
    let mut at = range.start;
    while at < range.end {
        let rest = &line.text[at..range.end];
        let skipped = rest.len() - rest.trim_start_matches(BLANKS).len();
        if skipped > 0 {
            at += skipped;
            continue;
        }
        while whole.next_if(|piece| piece.end <= at).is_some() {}
        let len = match whole.peek() {
            Some(piece) if piece.start == at => piece.len(),
            _ => rest.find(BLANKS).unwrap_or(rest.len()),
        };
        words.push(at..at + len);
        at += len;
    }
    words
}

/// Splits a range at blanks outside of quotes: the words with their quotes and escapes, and their places.
pub fn split_quoted(line: &Line, range: Range<usize>, escape: Escape) -> Vec<(&str, Span)> {
    let escape = escape.as_char();
    let mut words = Vec::new();
    let mut start = None;
    let mut quote = None;
    let text = &line.text[range.clone()];
    let place = |from: usize, to: usize| line.span(range.start + from..range.start + to);
    // An escape at the very end is dropped.
    let mut end = text.len();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            if let Some(start) = start.take() {
                words.push((&text[start..at], place(start, at)));
            }
            continue;
        }
        start.get_or_insert(at);
        if c == escape && quote != Some('\'') {
            if chars.next().is_none() {
                end = at;
            }
            continue;
        }
        match quote {
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ => {}
        }
    }
    if let Some(start) = start.filter(|&start| start < end) {
        words.push((&text[start..end], place(start, text.len())));
    }
    words
}

/// A flag as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawFlag<'a> {
    /// `--name=value` without quotes and escapes; borrowed when there were none.
    pub text: Cow<'a, str>,
    /// Where it stands in the logical line.
    pub range: Range<usize>,
}

impl RawFlag<'_> {
    /// Gives the place of a range of `text`; of the whole flag when quotes shifted the text.
    pub fn span(&self, line: &Line, range: Range<usize>) -> Span {
        match self.text {
            Cow::Borrowed(_) => {
                line.span(self.range.start + range.start..self.range.start + range.end)
            }
            Cow::Owned(_) => line.span(self.range.clone()),
        }
    }
}

/// Takes the flags off the front of a range: what they are, and the range of what follows. Flags end
/// at the first word that does not begin with `--`, or behind a lone `--`.
pub fn split_flags(
    line: &Line,
    range: Range<usize>,
    escape: Escape,
) -> (Vec<RawFlag<'_>>, Range<usize>) {
    let escape = escape.as_char();
    let mut flags = Vec::new();
    let mut at = range.start;
    loop {
        let rest = &line.text[at..range.end];
        at = range.end - rest.trim_start().len();
        let rest = &line.text[at..range.end];
        if !rest.starts_with("--") {
            return (flags, line.trim(at..range.end));
        }
        let (text, len) = flag(rest, escape);
        let end = at + len;
        if text == "--" {
            return (flags, line.trim(end..range.end));
        }
        flags.push(RawFlag { text, range: at..end });
        at = end;
    }
}

/// Reads one flag: its text without quotes and escapes, and how long it was with them.
fn flag(rest: &str, escape: char) -> (Cow<'_, str>, usize) {
    // Most have neither.
    let len = rest.find(char::is_whitespace).unwrap_or(rest.len());
    if !rest[..len].contains(['\'', '"', escape]) {
        return (rest[..len].into(), len);
    }
    let (mut text, mut quote) = (String::new(), None);
    let mut chars = rest.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return (text.into(), at),
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ if c == escape => text.extend(chars.next().map(|(_, next)| next)),
            _ => text.push(c),
        }
    }
    (text.into(), rest.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quoted_words_keep_their_quotes() {
        for (text, expect) in [
            ("a=b c", vec!["a=b", "c"]),
            ("a='b c' d", vec!["a='b c'", "d"]),
            ("a=\"b \\\" c\" d", vec!["a=\"b \\\" c\"", "d"]),
            ("a='b \\' c", vec!["a='b \\'", "c"]),
            ("a=b\\ c d", vec!["a=b\\ c", "d"]),
            ("a=\\\"b c", vec!["a=\\\"b", "c"]),
            ("a=b\\", vec!["a=b"]),
            ("a='b c", vec!["a='b c"]),
            ("\"\" ''", vec!["\"\"", "''"]),
            ("a\u{a0}b", vec!["a", "b"]),
            ("  ", vec![]),
            ("\\", vec![]),
        ] {
            let line = Line::single(text);
            let words = split_quoted(&line, 0..text.len(), Escape::Backslash);
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            assert_eq!(words, expect, "{text}");
        }
    }

    #[test]
    fn flags_lose_their_quotes() {
        for (text, flags, rest) in [
            ("--a=b --c d --e", vec!["--a=b", "--c"], "d --e"),
            ("--a=\"b c\" x", vec!["--a=b c"], "x"),
            ("--a='b\\'c' x", vec!["--a=b'c"], "x"),
            ("--a=b\\ c x", vec!["--a=b c"], "x"),
            ("--a -- --b", vec!["--a"], "--b"),
            ("-a --b", vec![], "-a --b"),
            ("--a=b", vec!["--a=b"], ""),
            ("--ünï=\"ö", vec!["--ünï=ö"], ""),
            ("--", vec![], ""),
            ("", vec![], ""),
        ] {
            let line = Line::single(text);
            let (got, range) = split_flags(&line, 0..text.len(), Escape::Backslash);
            let got: Vec<&str> = got.iter().map(|flag| &*flag.text).collect();
            assert_eq!((got, &text[range]), (flags, rest), "{text}");
        }
    }

    #[test]
    fn whole_pieces_are_not_split() {
        let line = Line::single("a <<'b c' d");
        let words = split_blanks(&line, 0..11, std::slice::from_ref(&(2..9)));
        let words: Vec<&str> = words.into_iter().map(|word| &line.text[word]).collect();
        assert_eq!(words, ["a", "<<'b c'", "d"]);
    }

    proptest! {
        #[test]
        fn never_panics_and_spans_hold(text in "[-a=<'\"\\\\ `é]{0,24}") {
            let line = Line::single(&text);
            for escape in [Escape::Backslash, Escape::Backtick] {
                split_flags(&line, 0..text.len(), escape);
                for (word, span) in split_quoted(&line, 0..text.len(), escape) {
                    prop_assert!(span.slice(&text).starts_with(word));
                }
            }
            let words: Vec<&str> =
                split_blanks(&line, 0..text.len(), &[]).into_iter().map(|w| &text[w]).collect();
            prop_assert_eq!(words, text.split(' ').filter(|w| !w.is_empty()).collect::<Vec<_>>());
        }
    }
}
