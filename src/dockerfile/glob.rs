//! Patterns of `${name#pattern}`, `%` and `/`: `*`, `?` and `\`, nothing more.
//!
//! BuildKit turns them into regular expressions (`frontend/dockerfile/shell/lex.go`), hence two traits
//! that are kept here: `*` and `?` do not match a line break, and the replacement of `//` knows `$0`
//! and `$$`. Matching walks the text once with all states at a time, so no pattern makes it slow.

/// Why a pattern is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A backslash before something that needs none.
    #[error("invalid escape `\\{0}` in a pattern")]
    Escape(char),
    /// A backslash at the end.
    #[error("a pattern ends in a lone `\\`")]
    Dangling,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Star,
    Any,
    Literal(char),
}

/// A parsed pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Vec<Token>);

/// Where a match may begin and which of several ends counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    AnchoredShortest,
    AnchoredLongest,
    LeftmostLongest,
}

impl Pattern {
    /// Parses a pattern. The escape is a backslash whatever the file's escape directive says.
    pub fn parse(pattern: &str) -> Result<Pattern, Error> {
        let mut tokens = Vec::new();
        let mut chars = pattern.chars().peekable();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' => Token::Star,
                '?' => Token::Any,
                '\\' => match chars.next() {
                    // `}` and `/` are escaped for the sake of `${…}`, not of the pattern.
                    Some(c @ ('*' | '?' | '\\' | '}' | '/')) => Token::Literal(c),
                    Some(c) => return Err(Error::Escape(c)),
                    None => return Err(Error::Dangling),
                },
                c => Token::Literal(c),
            });
        }
        Ok(Pattern(tokens))
    }

    /// Takes a match off the front: the shortest or the longest one.
    pub fn trim_prefix(&self, value: &str, longest: bool) -> String {
        let chars: Vec<char> = value.chars().collect();
        match find(&self.0, &chars, 0, anchored(longest)) {
            Some((_, end)) => chars[end..].iter().collect(),
            None => value.to_owned(),
        }
    }

    /// Takes a match off the end: the shortest or the longest one.
    pub fn trim_suffix(&self, value: &str, longest: bool) -> String {
        let chars: Vec<char> = value.chars().rev().collect();
        let tokens: Vec<Token> = self.0.iter().rev().copied().collect();
        match find(&tokens, &chars, 0, anchored(longest)) {
            Some((_, end)) => chars[end..].iter().rev().collect(),
            None => value.to_owned(),
        }
    }

    /// Replaces the first match; the replacement is taken literally.
    pub fn replace_first(&self, value: &str, replacement: &str) -> String {
        let chars: Vec<char> = value.chars().collect();
        let Some((start, end)) = find(&self.0, &chars, 0, Mode::LeftmostLongest) else {
            return value.to_owned();
        };
        let mut out: String = chars[..start].iter().collect();
        out.push_str(replacement);
        out.extend(&chars[end..]);
        out
    }

    /// Replaces all matches; `$0`, `$$` and other `$name`s (which are empty) in the replacement are
    /// those of Go's regexp package. None when the result would have more than some `most` bytes.
    pub fn replace_all(&self, value: &str, replacement: &str, most: usize) -> Option<String> {
        let copies = replacement.matches("$0").count() + replacement.matches("${0").count();
        let chars: Vec<char> = value.chars().collect();
        let (mut out, mut search, mut copied) = (String::new(), 0, 0);
        while search <= chars.len() {
            let Some((start, end)) = find(&self.0, &chars, search, Mode::LeftmostLongest) else {
                break;
            };
            out.extend(&chars[copied..start]);
            let longest = replacement.len() + copies * 4 * (end - start);
            if out.len() + longest > most {
                return None;
            }
            // An empty match right behind another match does not count.
            if end > copied || start == 0 {
                push_template(&mut out, replacement, &chars[start..end]);
            }
            copied = end;
            search = end.max(search + 1);
        }
        out.extend(&chars[copied..]);
        Some(out)
    }
}

fn anchored(longest: bool) -> Mode {
    if longest { Mode::AnchoredLongest } else { Mode::AnchoredShortest }
}

/// The states that are alive, each with the start of its match; sorted by start, a state only once.
struct Alive {
    states: Vec<(usize, usize)>,
    seen: Vec<usize>,
    generation: usize,
}

impl Alive {
    fn clear(&mut self) {
        self.states.clear();
        self.generation += 1;
    }

    fn add(&mut self, tokens: &[Token], mut state: usize, start: usize) {
        while self.seen[state] != self.generation {
            self.seen[state] = self.generation;
            self.states.push((state, start));
            if tokens.get(state) != Some(&Token::Star) {
                break;
            }
            state += 1;
        }
    }
}

fn find(tokens: &[Token], chars: &[char], from: usize, mode: Mode) -> Option<(usize, usize)> {
    let fresh = || Alive { states: Vec::new(), seen: vec![0; tokens.len() + 1], generation: 1 };
    let (mut now, mut next) = (fresh(), fresh());
    let mut best: Option<(usize, usize)> = None;
    for at in from..=chars.len() {
        if best.is_none() && (at == from || mode == Mode::LeftmostLongest) {
            now.add(tokens, 0, at);
        }
        if let Some(&(_, start)) = now.states.iter().find(|&&(state, _)| state == tokens.len())
            && best.is_none_or(|(leftmost, _)| start <= leftmost)
        {
            best = Some((start, at));
            if mode == Mode::AnchoredShortest {
                return best;
            }
        }
        let Some(&c) = chars.get(at) else { break };
        next.clear();
        for &(state, start) in &now.states {
            if best.is_some_and(|(leftmost, _)| start > leftmost) {
                continue;
            }
            match tokens.get(state) {
                Some(Token::Literal(literal)) if *literal == c => {
                    next.add(tokens, state + 1, start);
                }
                Some(Token::Any) if c != '\n' => next.add(tokens, state + 1, start),
                Some(Token::Star) if c != '\n' => next.add(tokens, state, start),
                _ => {}
            }
        }
        std::mem::swap(&mut now, &mut next);
        if now.states.is_empty() && (best.is_some() || mode != Mode::LeftmostLongest) {
            break;
        }
    }
    best
}

fn push_template(out: &mut String, template: &str, matched: &[char]) {
    let mut rest = template;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let braced = rest.strip_prefix('{');
        let body = braced.unwrap_or(rest);
        let len = body.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(body.len());
        let (name, after) = body.split_at(len);
        let after = if braced.is_some() { after.strip_prefix('}') } else { Some(after) };
        match after {
            Some(after) if !name.is_empty() => {
                if name.bytes().all(|byte| byte == b'0') {
                    out.extend(matched);
                }
                rest = after;
            }
            _ => out.push('$'),
        }
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(op: &str, pattern: &str, value: &str, expect: &str) {
        let parsed = Pattern::parse(pattern).expect("the pattern is right");
        let got = match op {
            "#" => parsed.trim_prefix(value, false),
            "##" => parsed.trim_prefix(value, true),
            "%" => parsed.trim_suffix(value, false),
            "%%" => parsed.trim_suffix(value, true),
            _ => unreachable!("unknown operator"),
        };
        assert_eq!(got, expect, "${{v{op}{pattern}}} of {value:?}");
    }

    #[test]
    fn trims_take_the_shortest_or_longest_match() {
        for (op, pattern, value, expect) in [
            ("#", "*/", "usr/local/bin", "local/bin"),
            ("##", "*/", "usr/local/bin", "bin"),
            ("%", "/*", "usr/local/bin", "usr/local"),
            ("%%", "/*", "usr/local/bin", "usr"),
            ("#", "u?r", "usr", ""),
            ("#", "?", "ñandú", "andú"),
            ("%", "?", "ñandú", "ñand"),
            ("#", "x", "usr", "usr"),
            ("#", "", "usr", "usr"),
            ("##", "*", "usr", ""),
            ("#", "*", "usr", "usr"),
            ("#", "\\*", "*a", "a"),
            ("%", "\\?", "a?", "a"),
            ("##", "*a*b", "xaxbab!", "!"),
            ("##", "*", "one\ntwo", "\ntwo"),
            ("%", "[b]", "a[b]", "a"),
        ] {
            check(op, pattern, value, expect);
        }
    }

    #[test]
    fn replacements_follow_go() {
        let replace = |pattern: &str, all: bool, value: &str, with: &str| {
            let pattern = Pattern::parse(pattern).expect("the pattern is right");
            if all {
                pattern.replace_all(value, with, 1000).expect("short")
            } else {
                pattern.replace_first(value, with)
            }
        };
        for (pattern, all, value, with, expect) in [
            ("o", false, "foo boo", "0", "f0o boo"),
            ("o", true, "foo boo", "0", "f00 b00"),
            ("f*o", false, "a foo boo z", "X", "a X z"),
            ("", true, "abc", "-", "-a-b-c-"),
            ("", false, "abc", "-", "-abc"),
            ("*", true, "abc", "x", "x"),
            ("zz", true, "abc", "x", "abc"),
            ("b", false, "abc", "$0", "a$0c"),
            ("b", true, "abc", "[$0]", "a[b]c"),
            ("b", true, "abc", "$$1${0}${nope}$1$", "a$1bc".replace("bc", "b$c").as_str()),
            ("?", true, "", "x", ""),
        ] {
            assert_eq!(replace(pattern, all, value, with), expect, "{pattern} {value} {with}");
        }
    }

    #[test]
    fn unknown_escapes_are_errors() {
        assert_eq!(Pattern::parse("a\\b"), Err(Error::Escape('b')));
        assert_eq!(Pattern::parse("a\\"), Err(Error::Dangling));
        assert!(Pattern::parse("\\}\\/\\\\").is_ok());
    }

    #[test]
    fn a_hostile_pattern_takes_no_longer_than_text_times_pattern() {
        let pattern = Pattern::parse(&"*a".repeat(50)).expect("the pattern is right");
        assert_eq!(pattern.replace_first(&"b".repeat(20_000), "x"), "b".repeat(20_000));
    }

    /// The definition, word for word: tries every end.
    fn matches(tokens: &[Token], text: &[char]) -> bool {
        match tokens.split_first() {
            None => text.is_empty(),
            Some((Token::Star, rest)) => (0..=text.len())
                .take_while(|&n| !text[..n].contains(&'\n'))
                .any(|n| matches(rest, &text[n..])),
            Some((token, rest)) => text.split_first().is_some_and(|(&c, tail)| {
                (*token == Token::Literal(c) || (*token == Token::Any && c != '\n'))
                    && matches(rest, tail)
            }),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(pattern in "[ab*?]{0,5}", value in "[ab\n]{0,8}") {
            let parsed = Pattern::parse(&pattern).expect("no escapes in it");
            let chars: Vec<char> = value.chars().collect();
            let ends = |start: usize| (start..=chars.len())
                .filter(|&end| matches(&parsed.0, &chars[start..end])).collect::<Vec<_>>();
            let text = |from: usize| chars[from..].iter().collect::<String>();
            let shortest = ends(0).first().map_or(value.clone(), |&end| text(end));
            let longest = ends(0).last().map_or(value.clone(), |&end| text(end));
            prop_assert_eq!(parsed.trim_prefix(&value, false), shortest);
            prop_assert_eq!(parsed.trim_prefix(&value, true), longest);
            let leftmost = (0..=chars.len()).find_map(|s| ends(s).last().map(|&e| (s, e)));
            prop_assert_eq!(find(&parsed.0, &chars, 0, Mode::LeftmostLongest), leftmost);
        }
    }
}
