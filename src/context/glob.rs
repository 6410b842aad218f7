//! One pattern of an ignore file, matched exactly as Docker does (moby/patternmatcher).
//!
//! Docker turns a pattern into a Go regular expression by plain text substitution, with short cuts
//! for literal text, for a trailing `**` and for a leading `**`. What a pattern means is thereby
//! defined by that text, including where the substitution takes no care: `*` inside brackets is
//! substituted too, and `\d` means a digit. So this module does the same in two steps: it writes the
//! same text, then reads the few constructs that can occur in it into [`Node`]s and runs them as a
//! set of states. No regular expression library is involved, and time is linear in the path.
//!
//! | pattern | means |
//! |---|---|
//! | `*` | any characters but `/` |
//! | `?` | one character but `/` |
//! | `**`, `**/` | nothing, or any characters that end in `/` |
//! | `**` at the end | anything |
//! | `[a-c]`, `[^a-c]` | one character of a set, or not of it (`/` can be in it) |
//! | `\c` | `c` itself |
//!
//! Not supported, and refused: `\p`, `\P`, `\Q`, `\C`, which mean something to Go's engine alone.

/// A compiled pattern.
#[derive(Clone, Debug)]
pub(super) struct Glob {
    /// The pattern as it was, cleaned.
    text: Vec<u8>,
    way: Way,
}

/// How a pattern is matched.
#[derive(Clone, Debug)]
enum Way {
    /// The path is the text.
    Exact,
    /// The path begins with the text without its last two characters (`**`).
    Prefix,
    /// The path ends in the text without its first two characters (`**`).
    Suffix,
    Nodes(Nodes),
}

/// A sequence of nodes that must match a whole path.
#[derive(Clone, Debug)]
struct Nodes {
    /// Literal text that every match begins with, and ends with: two cheap tests that refuse most
    /// paths. The nodes still include it.
    prefix: Vec<u8>,
    suffix: Vec<u8>,
    nodes: Vec<Node>,
    /// The middle between prefix and suffix is a single `*`: no states are needed.
    single_star: bool,
}

/// One state of the matcher, or a step between states that consumes nothing.
#[derive(Clone, Debug, PartialEq)]
enum Node {
    /// Consumes one character.
    One(Set),
    /// Consumes any number of characters.
    Star(Set),
    /// Goes to the next state and to the one after: `(.*/)?` is a Fork and a Dirs.
    Fork,
    /// Consumes any characters but newlines; a `/` may be the last of them.
    Dirs,
    /// Consumes nothing, and holds at the beginning.
    Begin,
    /// Consumes nothing, and holds at the end.
    End,
    /// Consumes nothing, and holds at a word boundary, or elsewhere.
    Word(bool),
}

/// A set of characters.
#[derive(Clone, Debug, PartialEq)]
enum Set {
    Char(char),
    NotSlash,
    NotNewline,
    Ranges { negated: bool, ranges: Vec<(char, char)> },
}

impl Set {
    fn has(&self, c: char) -> bool {
        match self {
            Set::Char(own) => *own == c,
            Set::NotSlash => c != '/',
            Set::NotNewline => c != '\n',
            Set::Ranges { negated, ranges } => {
                ranges.iter().any(|&(low, high)| low <= c && c <= high) != *negated
            }
        }
    }
}

impl Glob {
    /// Compiles a cleaned pattern. The error says what is wrong with it.
    pub(super) fn new(text: &[u8]) -> Result<Glob, String> {
        check_syntax(text)?;
        let (kind, regex) = translate(text);
        let way = match kind {
            Type::Exact => Way::Exact,
            Type::Prefix => Way::Prefix,
            Type::Suffix => Way::Suffix,
            Type::Regex => Way::Nodes(Nodes::new(parse(&regex)?)),
        };
        Ok(Glob { text: text.to_vec(), way })
    }

    /// Gives the pattern.
    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    /// Gives the bytes that every path which matches begins and ends with, where there is one.
    pub(super) fn edges(&self) -> (Option<u8>, Option<u8>) {
        let text = &self.text[..];
        match &self.way {
            Way::Exact => (text.first().copied(), text.last().copied()),
            Way::Prefix => (text[..text.len() - 2].first().copied(), None),
            // The slash of `**/foo` may be left out.
            Way::Suffix => (None, text[2..].last().copied().filter(|&last| last != b'/')),
            Way::Nodes(nodes) => (nodes.prefix.first().copied(), nodes.suffix.last().copied()),
        }
    }

    /// Says whether the pattern matches this very path.
    pub(super) fn matches(&self, path: &[u8]) -> bool {
        match &self.way {
            Way::Exact => path == self.text,
            Way::Prefix => path.starts_with(&self.text[..self.text.len() - 2]),
            Way::Suffix => {
                let suffix = &self.text[2..];
                // `**/foo` matches `foo` too.
                path.ends_with(suffix) || suffix.strip_prefix(b"/") == Some(path)
            }
            Way::Nodes(nodes) => nodes.matches(path),
        }
    }
}

/// Checks a pattern as Go's filepath.Match does, which Docker asks first.
fn check_syntax(pattern: &[u8]) -> Result<(), String> {
    let mut rest = pattern;
    while !rest.is_empty() {
        let stars = rest.iter().take_while(|&&b| b == b'*').count();
        rest = &rest[stars..];
        let (mut end, mut in_range) = (0, false);
        while end < rest.len() {
            match rest[end] {
                b'\\' if end + 1 < rest.len() => end += 1,
                b'[' => in_range = true,
                b']' => in_range = false,
                b'*' if !in_range => break,
                _ => {}
            }
            end += 1;
        }
        check_chunk(&rest[..end])?;
        rest = &rest[end..];
    }
    Ok(())
}

fn check_chunk(mut chunk: &[u8]) -> Result<(), String> {
    while let Some((&first, rest)) = chunk.split_first() {
        chunk = rest;
        match first {
            b'[' => {
                chunk = chunk.strip_prefix(b"^").unwrap_or(chunk);
                let mut count = 0;
                while count == 0 || chunk.first() != Some(&b']') {
                    chunk = check_member(chunk)?;
                    if let Some(high) = chunk.strip_prefix(b"-") {
                        chunk = check_member(high)?;
                    }
                    count += 1;
                }
                chunk = &chunk[1..];
            }
            b'\\' => {
                chunk = chunk.get(1..).ok_or("it ends in a backslash")?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Reads one character of a bracket expression and gives what follows it.
fn check_member(chunk: &[u8]) -> Result<&[u8], String> {
    let chunk = match chunk.first() {
        None => return Err("a bracket is not closed".into()),
        Some(b'-' | b']') => return Err("a bracket holds a bare - or ]; escape it".into()),
        Some(b'\\') => &chunk[1..],
        Some(_) => chunk,
    };
    if chunk.is_empty() {
        return Err("a bracket is not closed".into());
    }
    let (c, width) = decode(chunk);
    if c == char::REPLACEMENT_CHARACTER && width == 1 {
        return Err("a bracket holds bytes that are not UTF-8".into());
    }
    match &chunk[width..] {
        [] => Err("a bracket is not closed".into()),
        rest => Ok(rest),
    }
}

/// What the substitution found a pattern to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    Exact,
    Prefix,
    Suffix,
    Regex,
}

/// Substitutes as patternmatcher.go's compile does, without the anchors.
fn translate(pattern: &[u8]) -> (Type, Vec<char>) {
    let mut input = Vec::new();
    let mut rest = pattern;
    while !rest.is_empty() {
        let (c, width) = decode(rest);
        input.push(c);
        rest = &rest[width..];
    }
    // Go's text/scanner drops a byte order mark at the beginning.
    let mut input = input.into_iter().peekable();
    input.next_if_eq(&'\u{feff}');

    let mut out: Vec<char> = Vec::new();
    let mut kind = Type::Exact;
    let mut first = true;
    while let Some(c) = input.next() {
        match c {
            '*' if input.next_if_eq(&'*').is_some() => {
                input.next_if_eq(&'/');
                if input.peek().is_some() {
                    out.extend("(.*/)?".chars());
                    kind = Type::Regex;
                } else if kind == Type::Exact {
                    kind = Type::Prefix;
                } else {
                    out.extend(".*".chars());
                    kind = Type::Regex;
                }
                if first {
                    kind = Type::Suffix;
                }
            }
            '*' => {
                out.extend("[^/]*".chars());
                kind = Type::Regex;
            }
            '?' => {
                out.extend("[^/]".chars());
                kind = Type::Regex;
            }
            '.' | '+' | '(' | ')' | '|' | '{' | '}' | '$' => out.extend(['\\', c]),
            '\\' => {
                out.push('\\');
                if let Some(next) = input.next() {
                    out.push(next);
                    kind = Type::Regex;
                }
            }
            '[' | ']' => {
                out.push(c);
                kind = Type::Regex;
            }
            _ => out.push(c),
        }
        first = false;
    }
    (kind, out)
}

/// Reads the substituted text.
fn parse(regex: &[char]) -> Result<Vec<Node>, String> {
    let mut nodes = Vec::new();
    let mut rest = regex;
    while let [first, tail @ ..] = rest {
        let set = match (*first, tail) {
            // The only group that the substitution makes.
            ('(', ['.', '*', '/', ')', '?', after @ ..]) => {
                nodes.extend([Node::Fork, Node::Dirs]);
                rest = after;
                continue;
            }
            ('^', _) => {
                nodes.push(Node::Begin);
                rest = tail;
                continue;
            }
            ('\\', [c @ ('A' | 'z' | 'b' | 'B'), after @ ..]) => {
                nodes.push(match c {
                    'A' => Node::Begin,
                    'z' => Node::End,
                    c => Node::Word(*c == 'b'),
                });
                rest = after;
                continue;
            }
            ('\\', _) => {
                let (set, after) = escape(tail)?;
                rest = after;
                set
            }
            ('[', _) => {
                let (set, after) = bracket(tail)?;
                rest = after;
                set
            }
            ('.', _) => {
                rest = tail;
                Set::NotNewline
            }
            (c, _) => {
                rest = tail;
                Set::Char(c)
            }
        };
        // Only the substitution writes a bare star, and always after a set.
        if let ['*', after @ ..] = rest {
            rest = after;
            nodes.push(Node::Star(set));
        } else {
            nodes.push(Node::One(set));
        }
    }
    Ok(nodes)
}

/// Reads what follows a backslash: a class, or a single character.
fn escape(rest: &[char]) -> Result<(Set, &[char]), String> {
    if let [c, after @ ..] = rest
        && let Some(ranges) = perl_class(*c)
    {
        return Ok((Set::Ranges { negated: c.is_ascii_uppercase(), ranges }, after));
    }
    let (c, after) = escaped_char(rest)?;
    Ok((Set::Char(c), after))
}

/// Reads what follows a backslash as Go's regexp/syntax does where it wants one character.
fn escaped_char(rest: &[char]) -> Result<(char, &[char]), String> {
    let [c, after @ ..] = rest else { return Err("it ends in a backslash".into()) };
    let simple = match c {
        'a' => '\u{7}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        'x' => return hex(after),
        '0'..='7' if *c == '0' || after.first().is_some_and(|c| c.is_digit(8)) => {
            let digits = rest.iter().take(3).take_while(|c| c.is_digit(8)).count();
            let value =
                rest[..digits].iter().fold(0, |sum, c| sum * 8 + c.to_digit(8).unwrap_or(0));
            let c = char::from_u32(value).ok_or("an octal escape is too large")?;
            return Ok((c, &rest[digits..]));
        }
        c if c.is_ascii() && !c.is_ascii_alphanumeric() => *c,
        c => return Err(format!("\\{c} means nothing")),
    };
    Ok((simple, after))
}

/// Reads `HH` or `{H…}`.
fn hex(rest: &[char]) -> Result<(char, &[char]), String> {
    let wrong = || "\\x needs two hexadecimal digits".to_owned();
    // The substitution has escaped the braces, which Go then does not take for its `\x{…}`.
    let [high, low, after @ ..] = rest else { return Err(wrong()) };
    let (Some(high), Some(low)) = (high.to_digit(16), low.to_digit(16)) else {
        return Err(wrong());
    };
    Ok((char::from_u32(high * 16 + low).ok_or_else(wrong)?, after))
}

/// Reads a bracket expression after its `[`.
fn bracket(mut rest: &[char]) -> Result<(Set, &[char]), String> {
    let mut negated = false;
    if let ['^', tail @ ..] = rest {
        (negated, rest) = (true, tail);
    }
    let mut ranges: Vec<(char, char)> = Vec::new();
    let mut first = true;
    loop {
        match rest {
            [] => return Err("a bracket is not closed".into()),
            [']', tail @ ..] if !first => {
                let set = match negated && ranges == [('/', '/')] {
                    true => Set::NotSlash,
                    false => Set::Ranges { negated, ranges },
                };
                return Ok((set, tail));
            }
            ['[', ':', tail @ ..] if named_end(tail).is_some() => {
                let end = named_end(tail).unwrap_or(0);
                let name: String = tail[..end].iter().collect();
                let (flip, name) = match name.strip_prefix('^') {
                    Some(name) => (true, name.to_owned()),
                    None => (false, name),
                };
                let class = named_class(&name).ok_or(format!("[:{name}:] is no class"))?;
                ranges.extend(if flip { complement(class) } else { class.to_vec() });
                rest = &tail[end + 2..];
            }
            ['\\', c, tail @ ..] if perl_class(*c).is_some() => {
                let class = perl_class(*c).unwrap_or_default();
                let class = if c.is_ascii_uppercase() { complement(&class) } else { class };
                ranges.extend(class);
                rest = tail;
            }
            _ => {
                let (low, tail) = member(rest)?;
                rest = tail;
                let mut high = low;
                if let ['-', tail @ ..] = rest
                    && !matches!(tail, [] | [']', ..])
                {
                    (high, rest) = member(tail)?;
                }
                if high < low {
                    return Err(format!("the range {low}-{high} is empty"));
                }
                ranges.push((low, high));
            }
        }
        first = false;
    }
}

fn member(rest: &[char]) -> Result<(char, &[char]), String> {
    match rest {
        ['\\', tail @ ..] => escaped_char(tail),
        [c, tail @ ..] => Ok((*c, tail)),
        [] => Err("a bracket is not closed".into()),
    }
}

/// Finds the `:]` that ends a named class.
fn named_end(rest: &[char]) -> Option<usize> {
    rest.windows(2).position(|pair| pair == [':', ']'])
}

const WORD: &[(char, char)] = &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')];

fn perl_class(c: char) -> Option<Vec<(char, char)>> {
    Some(match c.to_ascii_lowercase() {
        'd' => vec![('0', '9')],
        's' => vec![('\t', '\n'), ('\u{c}', '\r'), (' ', ' ')],
        'w' => WORD.to_vec(),
        _ => return None,
    })
}

fn named_class(name: &str) -> Option<&'static [(char, char)]> {
    Some(match name {
        "alnum" => &[('0', '9'), ('A', 'Z'), ('a', 'z')],
        "alpha" => &[('A', 'Z'), ('a', 'z')],
        "ascii" => &[('\0', '\u{7f}')],
        "blank" => &[('\t', '\t'), (' ', ' ')],
        "cntrl" => &[('\0', '\u{1f}'), ('\u{7f}', '\u{7f}')],
        "digit" => &[('0', '9')],
        "graph" => &[('!', '~')],
        "lower" => &[('a', 'z')],
        "print" => &[(' ', '~')],
        "punct" => &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
        "space" => &[('\t', '\r'), (' ', ' ')],
        "upper" => &[('A', 'Z')],
        "word" => WORD,
        "xdigit" => &[('0', '9'), ('A', 'F'), ('a', 'f')],
        _ => return None,
    })
}

/// Gives what a class of ASCII ranges, sorted, leaves out.
fn complement(class: &[(char, char)]) -> Vec<(char, char)> {
    let mut out = Vec::new();
    let mut next = '\0';
    for &(low, high) in class {
        if next < low {
            out.push((next, char::from(low as u8 - 1)));
        }
        // Every class here is ASCII, so one more is a character too.
        next = char::from(high as u8 + 1);
    }
    out.push((next, char::MAX));
    out
}

impl Nodes {
    fn new(nodes: Vec<Node>) -> Nodes {
        let literal = |node: &Node| match node {
            // Stands for any byte that is not UTF-8, so it is not literal.
            Node::One(Set::Char(char::REPLACEMENT_CHARACTER)) => None,
            Node::One(Set::Char(c)) => Some(*c),
            _ => None,
        };
        let before: String = nodes.iter().map_while(literal).collect();
        let after: Vec<char> = nodes.iter().rev().map_while(literal).collect();
        let middle = nodes.get(before.chars().count()..nodes.len().saturating_sub(after.len()));
        let single_star = matches!(middle, Some([Node::Star(Set::NotSlash)]));
        Nodes {
            prefix: before.into_bytes(),
            suffix: after.into_iter().rev().collect::<String>().into_bytes(),
            single_star,
            nodes,
        }
    }

    fn matches(&self, path: &[u8]) -> bool {
        if !path.starts_with(&self.prefix) || !path.ends_with(&self.suffix) {
            return false;
        }
        if self.single_star {
            let middle = path.get(self.prefix.len()..path.len() - self.suffix.len());
            return middle.is_some_and(|middle| !middle.contains(&b'/'));
        }
        // 128 states fit on the stack; longer patterns are rare.
        let words = self.nodes.len() / 64 + 1;
        if words <= 2 {
            self.run(path, &mut [0; 2], &mut [0; 2])
        } else {
            self.run(path, &mut vec![0; words], &mut vec![0; words])
        }
    }

    /// Runs all states at once. Bit n of a set of states says that the nodes before n have matched
    /// what was read; the bit past the last node that all have.
    fn run<'a>(&self, path: &[u8], mut now: &'a mut [u64], mut next: &'a mut [u64]) -> bool {
        let mut previous = None;
        let mut rest = path;
        set(now, 0);
        loop {
            let upcoming = (!rest.is_empty()).then(|| decode(rest));
            self.advance(now, previous, upcoming.map(|(c, _)| c));
            let Some((c, width)) = upcoming else { return has(now, self.nodes.len()) };
            next.fill(0);
            for (index, node) in self.nodes.iter().enumerate().filter(|(index, _)| has(now, *index))
            {
                match node {
                    Node::One(own) if own.has(c) => set(next, index + 1),
                    Node::Star(own) if own.has(c) => set(next, index),
                    Node::Dirs => {
                        if c != '\n' {
                            set(next, index);
                        }
                        if c == '/' {
                            set(next, index + 1);
                        }
                    }
                    _ => {}
                }
            }
            if next.iter().all(|&word| word == 0) {
                return false;
            }
            std::mem::swap(&mut now, &mut next);
            previous = Some(c);
            rest = &rest[width..];
        }
    }

    /// Takes all steps that consume nothing. They only lead forward, so one pass does.
    fn advance(&self, states: &mut [u64], previous: Option<char>, upcoming: Option<char>) {
        let word = |c: Option<char>| c.is_some_and(|c| c == '_' || c.is_ascii_alphanumeric());
        for (index, node) in self.nodes.iter().enumerate() {
            if !has(states, index) {
                continue;
            }
            match node {
                Node::Star(_) => set(states, index + 1),
                Node::Fork => {
                    set(states, index + 1);
                    set(states, index + 2);
                }
                Node::Begin if previous.is_none() => set(states, index + 1),
                Node::End if upcoming.is_none() => set(states, index + 1),
                Node::Word(boundary) if (word(previous) != word(upcoming)) == *boundary => {
                    set(states, index + 1);
                }
                _ => {}
            }
        }
    }
}

fn has(states: &[u64], index: usize) -> bool {
    states[index / 64] >> (index % 64) & 1 == 1
}

fn set(states: &mut [u64], index: usize) {
    states[index / 64] |= 1 << (index % 64);
}

/// Reads one character; bytes that are not UTF-8 are U+FFFD, one byte each, as in Go.
pub(super) fn decode(bytes: &[u8]) -> (char, usize) {
    let first = bytes[0];
    if first.is_ascii() {
        return (first.into(), 1);
    }
    let width = match first {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => 1,
    };
    let c = bytes.get(..width).and_then(|bytes| std::str::from_utf8(bytes).ok());
    match c.and_then(|text| text.chars().next()) {
        Some(c) => (c, width),
        None => (char::REPLACEMENT_CHARACTER, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, path: &str) -> bool {
        Glob::new(pattern.as_bytes()).unwrap().matches(path.as_bytes())
    }

    #[test]
    fn patterns_mean_what_docker_says() {
        for (pattern, yes, no) in [
            ("a", &["a"][..], &["b", "a/b", "aa"][..]),
            ("a/b", &["a/b"], &["a", "b"]),
            ("*", &["a", ".a", ""], &["a/b"]),
            ("*.log", &["x.log", ".log"], &["x.logs", "d/x.log", "log"]),
            ("a*b", &["ab", "axxb"], &["a/b", "a"]),
            ("ab*ba", &["abba", "ab-ba"], &["aba"]),
            ("a?c", &["abc", "aéc"], &["ac", "a/c", "abbc"]),
            ("**", &["a", "a/b", ""], &[]),
            ("**/a", &["a", "x/a", "x/y/a"], &["ba", "x/ba", "a/x"]),
            ("**a", &["a", "ba", "x/ba"], &["ab"]),
            ("a/**", &["a/b", "a/b/c", "a/"], &["a", "ab"]),
            ("a**", &["a", "ab", "a/b"], &["b", "b/a"]),
            ("a/**/b", &["a/b", "a/x/b", "a/x/y/b"], &["a/xb", "ab"]),
            ("a**/b", &["a/b", "axx/b", "ab"], &["axb", "b"]),
            ("**/a/**", &["a/b", "x/a/b"], &["a", "x/a", "xa/b"]),
            ("**/*.c", &["x.c", "d/x.c", "d/e/x.c"], &["x.cc"]),
            ("a***b", &["ab", "axb", "ax/yb"], &["a/b/"]),
            ("[a-c]x", &["ax", "cx"], &["dx", "x"]),
            ("[^a-c]x", &["dx", "/x"], &["ax"]),
            ("[!a]x", &["!x", "ax"], &["bx"]),
            ("[a\\-c]", &["a", "-", "c"], &["b"]),
            ("[.+]", &[".", "+"], &["\\", "a"]),
            ("a\\*b", &["a*b"], &["axb"]),
            ("a{b,c}", &["a{b,c}"], &["ab"]),
            ("a.(b)|c$", &["a.(b)|c$"], &["axb"]),
            ("x*^", &[], &["x^", "x"]),
            // Where Docker substitutes without care.
            ("[*]", &["]", "/^[]"], &["*"]),
            ("[?]", &["/]", "^]"], &["?", "a"]),
            ("\\d*", &["1", "2x"], &["d", "dx"]),
            ("[[:digit:]]", &["7"], &["d", ":"]),
            ("[[:^digit:]\\d]z", &["az", "0z"], &["z"]),
            ("\\x41?", &["Ab"], &["x41b"]),
            ("\\101?", &["Ab"], &["101b"]),
            ("a\\b*", &["a", "a-b"], &["ab"]),
            ("*\\z", &["a"], &["z/"]),
        ] {
            for path in yes {
                assert!(matches(pattern, path), "{pattern} should match {path}");
            }
            for path in no {
                assert!(!matches(pattern, path), "{pattern} should not match {path}");
            }
        }
    }

    #[test]
    fn wrong_patterns_are_refused() {
        for pattern in [
            "a[", "[]a]", "[-x]", "[x-]", "[a-b-c]", "a\\", "[", "[^", "[^bc", "a[\\", "*[x",
            "[z-a]",
        ] {
            assert!(Glob::new(pattern.as_bytes()).is_err(), "{pattern}");
        }
        for pattern in ["\\q*", "\\pL", "\\8", "\\é", "[[:nope:]]", "\\xzz"] {
            assert!(Glob::new(pattern.as_bytes()).is_err(), "{pattern}");
        }
        assert!(Glob::new(b"[\xff]").is_err());
    }

    #[test]
    fn bytes_that_are_not_utf8_match_as_single_characters() {
        let one = Glob::new(b"a?c").unwrap();
        assert!(one.matches(b"a\xffc"));
        assert!(!one.matches(b"a\xff\xffc"));
        assert!(Glob::new(b"a\xff*").unwrap().matches(b"a\xfe"), "both are U+FFFD to Go");
        assert!(!Glob::new(b"a\xff").unwrap().matches(b"a\xfe"), "without wildcards bytes count");
    }

    #[test]
    fn long_patterns_work() {
        let pattern = format!("*{}*", "ab/".repeat(100));
        assert!(matches(&pattern, &format!("x{}y", "ab/".repeat(100))));
        assert!(!matches(&pattern, &format!("x{}y", "ab/".repeat(99))));
    }

    /// The meaning of a pattern by the table in the module's documentation, with no thought for
    /// speed. `start` says that nothing of the pattern was consumed yet.
    fn naive(pattern: &[char], path: &[char], start: bool) -> bool {
        match pattern {
            [] => path.is_empty(),
            ['*', '*', rest @ ..] => {
                let slash = rest.first() == Some(&'/');
                let rest = if slash { &rest[1..] } else { rest };
                // At the very beginning a `**` before plain text only asks for an end, and only
                // with its slash if that was written.
                if start && !rest.is_empty() && !rest.iter().any(|c| "*?[\\".contains(*c)) {
                    return path == rest
                        || (0..path.len()).any(|cut| match slash {
                            true => path[cut] == '/' && &path[cut + 1..] == rest,
                            false => &path[cut..] == rest,
                        });
                }
                rest.is_empty()
                    || naive(rest, path, false)
                    || (0..path.len())
                        .any(|cut| path[cut] == '/' && naive(rest, &path[cut + 1..], false))
            }
            ['*', rest @ ..] => {
                let free = path.iter().take_while(|c| **c != '/').count();
                (0..=free).any(|cut| naive(rest, &path[cut..], false))
            }
            ['?', rest @ ..] => {
                path.first().is_some_and(|c| *c != '/') && naive(rest, &path[1..], false)
            }
            ['[', rest @ ..] => {
                let (negated, rest) = match rest {
                    ['^', rest @ ..] => (true, rest),
                    _ => (false, rest),
                };
                let end = rest.iter().position(|c| *c == ']').unwrap();
                path.first().is_some_and(|c| rest[..end].contains(c) != negated)
                    && naive(&rest[end + 1..], &path[1..], false)
            }
            ['\\', c, rest @ ..] | [c, rest @ ..] => {
                path.first() == Some(c) && naive(rest, &path[1..], false)
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn agrees_with_the_naive_reading(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "a", "b", "a", "b", "/", ".", "*", "**", "**/", "/**", "?", "[ab]", "[^a]", "\\*",
                ]),
                1..8,
            ),
            path in "[ab/.*]{0,8}",
        ) {
            // Patterns come cleaned: never with a slash at the end.
            let text = parts.concat().trim_end_matches('/').to_owned();
            let pattern: Vec<char> = text.chars().collect();
            let path_chars: Vec<char> = path.chars().collect();
            prop_assert_eq!(
                matches(&text, &path),
                naive(&pattern, &path_chars, true),
                "{} on {}", text, path
            );
        }

        #[test]
        fn never_panics(pattern in prop::collection::vec(any::<u8>(), 0..24),
                        path in prop::collection::vec(any::<u8>(), 0..24)) {
            if let Ok(glob) = Glob::new(&pattern) {
                glob.matches(&path);
            }
        }
    }
}
