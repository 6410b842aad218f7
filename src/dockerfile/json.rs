//! The JSON form: an array of strings, with the place of each.
//!
//! What decides between exec and shell form is whether the text is JSON *for Go's decoder*: so a tab
//! in a string or a single quote makes it a shell command, while a valid array with a number in it is
//! an error. Hence a parser of our own: it knows places, replaces lone surrogates as Go does, and nests
//! without recursion.

use std::ops::Range;

/// How deep Go's decoder nests.
const MAX_DEPTH: usize = 10_000;

/// What a text is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// An array of strings; each with its place, quotes included.
    Strings(Vec<(String, Range<usize>)>),
    /// A valid array that holds something else, at this place.
    NotStrings(Range<usize>),
    /// No JSON array: where it stops being one, and why.
    Not(usize, &'static str),
}

/// Looks at a text that may be a JSON array.
pub fn parse(text: &str) -> Form {
    let mut json = Json { text: text.as_bytes(), at: 0 };
    match json.array(text) {
        Ok(form) => form,
        Err(why) => Form::Not(json.at, why),
    }
}

struct Json<'a> {
    text: &'a [u8],
    at: usize,
}

impl Json<'_> {
    fn array(&mut self, text: &str) -> Result<Form, &'static str> {
        // Before the bracket every kind of blank may stand, behind it only JSON's.
        self.at = text.len() - text.trim_start().len();
        if !self.eat(b'[') {
            return Err("no `[` at the start");
        }
        let (mut strings, mut other) = (Vec::new(), None);
        self.blanks();
        if !self.eat(b']') {
            loop {
                self.blanks();
                let start = self.at;
                if self.peek() == Some(b'"') {
                    let string = self.string(text)?;
                    strings.push((string, start..self.at));
                } else {
                    self.value(text)?;
                    other.get_or_insert(start..self.at);
                }
                self.blanks();
                if self.eat(b']') {
                    break;
                }
                if !self.eat(b',') {
                    return Err("expected `,` or `]`");
                }
            }
        }
        self.blanks();
        if self.at < self.text.len() {
            return Err("text after the closing `]`");
        }
        Ok(other.map_or(Form::Strings(strings), Form::NotStrings))
    }

    /// Skips any value. The stack holds the closing brackets that are waited for.
    fn value(&mut self, text: &str) -> Result<(), &'static str> {
        let mut stack: Vec<u8> = Vec::new();
        loop {
            self.blanks();
            match self.peek() {
                Some(open @ (b'[' | b'{')) => {
                    self.at += 1;
                    if stack.len() == MAX_DEPTH {
                        return Err("nested too deeply");
                    }
                    stack.push(open + 2);
                    self.blanks();
                    if !self.eat(open + 2) {
                        self.key(open, text)?;
                        continue;
                    }
                    stack.pop();
                }
                Some(b'"') => {
                    self.string(text)?;
                }
                _ => self.scalar()?,
            }
            // A value is complete: close what it completes, or go on behind a comma.
            loop {
                let Some(&close) = stack.last() else { return Ok(()) };
                self.blanks();
                if self.eat(close) {
                    stack.pop();
                } else if self.eat(b',') {
                    self.key(close - 2, text)?;
                    break;
                } else {
                    return Err("expected `,` or a closing bracket");
                }
            }
        }
    }

    /// Skips `"key":` in an object.
    fn key(&mut self, open: u8, text: &str) -> Result<(), &'static str> {
        if open == b'{' {
            self.blanks();
            self.string(text)?;
            self.blanks();
            if !self.eat(b':') {
                return Err("expected `:`");
            }
        }
        Ok(())
    }

    fn scalar(&mut self) -> Result<(), &'static str> {
        for word in [b"true".as_slice(), b"false", b"null"] {
            if self.text[self.at..].starts_with(word) {
                self.at += word.len();
                return Ok(());
            }
        }
        let start = self.at;
        self.eat(b'-');
        if !self.eat(b'0') && self.digits() == 0 {
            self.at = start;
            return Err(match self.peek() {
                Some(b'\'') => "strings need double quotes",
                None => "the `[` is never closed",
                Some(_) => "not a JSON value",
            });
        }
        if self.eat(b'.') && self.digits() == 0 {
            return Err("not a number");
        }
        if self.eat(b'e') || self.eat(b'E') {
            let _ = self.eat(b'+') || self.eat(b'-');
            if self.digits() == 0 {
                return Err("not a number");
            }
        }
        Ok(())
    }

    fn digits(&mut self) -> usize {
        let rest = &self.text[self.at..];
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        count
    }

    fn string(&mut self, text: &str) -> Result<String, &'static str> {
        if !self.eat(b'"') {
            return Err("expected a string");
        }
        let mut out = String::new();
        loop {
            let start = self.at;
            let plain = |byte: &u8| !matches!(byte, b'"' | b'\\' | 0..0x20);
            self.at += self.text[start..].iter().take_while(|byte| plain(byte)).count();
            out.push_str(&text[start..self.at]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => {
                    self.at += 1;
                    let c = self.escape()?;
                    out.push(c);
                }
                Some(_) => return Err("a control character in a string"),
                None => return Err("a string is never closed"),
            }
        }
    }

    fn escape(&mut self) -> Result<char, &'static str> {
        let kind = self.peek().ok_or("a string is never closed")?;
        let c = match kind {
            b'"' | b'\\' | b'/' => char::from(kind),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                self.at += 1;
                let high = self.hex().ok_or("invalid \\u escape in a string")?;
                return Ok(self.surrogate(high));
            }
            _ => return Err("invalid escape in a string"),
        };
        self.at += 1;
        Ok(c)
    }

    /// Joins two surrogates; a lone one becomes U+FFFD.
    fn surrogate(&mut self, high: u32) -> char {
        if !(0xd800..0xdc00).contains(&high) {
            return char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER);
        }
        let back = self.at;
        if self.eat(b'\\')
            && self.eat(b'u')
            && let Some(low @ 0xdc00..0xe000) = self.hex()
        {
            let joined = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
            return char::from_u32(joined).unwrap_or(char::REPLACEMENT_CHARACTER);
        }
        self.at = back;
        char::REPLACEMENT_CHARACTER
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        self.at += 4;
        u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `expect` is the strings joined by `|`, or `not strings`, or the reason.
    fn check(text: &str, expect: &str) {
        let got = match parse(text) {
            Form::Strings(strings) => {
                strings.into_iter().map(|(string, _)| string).collect::<Vec<_>>().join("|")
            }
            Form::NotStrings(place) => format!("not strings: {}", &text[place]),
            Form::Not(_, why) => why.to_owned(),
        };
        assert_eq!(got, expect, "{text}");
    }

    /// Trap 35: what is JSON, what falls back to the shell, and what is an error.
    #[test]
    fn json_forms() {
        for (text, expect) in [
            ("[]", ""),
            ("  [ ]  ", ""),
            (r#"["a", "b c" ,"d"]"#, "a|b c|d"),
            (r#"["\"\\\/\b\f\n\r\té\u00e9"]"#, "\"\\/\u{8}\u{c}\n\r\téé"),
            (r#"["\ud83d\ude00\ud83dx\ude00"]"#, "😀\u{fffd}x\u{fffd}"),
            (r#"["a", 1]"#, "not strings: 1"),
            (r#"["a", ["b"]]"#, r#"not strings: ["b"]"#),
            (
                r#"[{"k": [1, {"x": null}], "l": -1.5e+3}]"#,
                r#"not strings: {"k": [1, {"x": null}], "l": -1.5e+3}"#,
            ),
            ("[true]", "not strings: true"),
            ("['a']", "strings need double quotes"),
            (r#"["a",]"#, "not a JSON value"),
            (r#"["a" "b"]"#, "expected `,` or `]`"),
            (r#"["a"] x"#, "text after the closing `]`"),
            (r#"["a"#, "a string is never closed"),
            (r#"["a","#, "the `[` is never closed"),
            ("[\"a\tb\"]", "a control character in a string"),
            (r#"["\x"]"#, "invalid escape in a string"),
            (r#"["\u12g4"]"#, "invalid \\u escape in a string"),
            ("[ -f /x ]", "not a JSON value"),
            ("[01]", "expected `,` or `]`"),
            ("echo", "no `[` at the start"),
            ("", "no `[` at the start"),
            (r#"[{"k" 1}]"#, "expected `:`"),
            ("[[1}]", "expected `,` or a closing bracket"),
        ] {
            check(text, expect);
        }
    }

    #[test]
    fn deep_nesting_does_not_recurse() {
        check(&"[".repeat(1_000_000), "nested too deeply");
        let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
        assert!(matches!(parse(&deep), Form::NotStrings(_)));
    }

    proptest! {
        #[test]
        fn never_panics(text in "[\\[\\]{}\",:\\\\u0-9a-ftrues ]{0,30}") {
            parse(&text);
        }

        #[test]
        fn agrees_with_serde(words in prop::collection::vec("\\PC{0,6}", 0..5)) {
            let text = serde_json::to_string(&words).expect("strings are JSON");
            let Form::Strings(got) = parse(&text) else { panic!("{text} is JSON") };
            for (string, place) in &got {
                let piece: String = serde_json::from_str(&text[place.clone()]).expect("a string");
                prop_assert_eq!(&piece, string);
            }
            prop_assert_eq!(got.into_iter().map(|(string, _)| string).collect::<Vec<_>>(), words);
        }

        #[test]
        fn agrees_with_serde_about_what_is_json(text in "\\[[\\[\\]{}\",:1.e \\-]{0,12}") {
            let valid = serde_json::from_str::<Vec<serde::de::IgnoredAny>>(&text).is_ok();
            prop_assert_eq!(!matches!(parse(&text), Form::Not(..)), valid, "{}", text);
        }
    }
}
