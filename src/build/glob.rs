//! File name patterns of COPY and ADD sources: the language of Go's `path/filepath.Match`, which the
//! Dockerfile reference names.
//!
//! `*` and `?` never cross a slash, `[a-z]` and `[^a-z]` are character classes, a backslash takes
//! the next character literally. A pattern matches a whole relative path, component by component.

/// Says whether `pattern` holds a wildcard that is not escaped.
pub fn has_wildcards(pattern: &[u8]) -> bool {
    let mut bytes = pattern.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// Splits a clean pattern before its first component with a wildcard: (literal directory, rest).
/// The rest is empty when there is no wildcard.
pub fn split_wildcards(pattern: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut literal: Vec<&[u8]> = Vec::new();
    let mut parts = pattern.split(|&b| b == b'/').filter(|part| !part.is_empty()).peekable();
    while let Some(part) = parts.peek() {
        if has_wildcards(part) {
            break;
        }
        literal.push(part);
        parts.next();
    }
    let rest: Vec<&[u8]> = parts.collect();
    (literal.join(&b'/'), rest.join(&b'/'))
}

/// Removes the backslashes of a literal (wildcard-free) pattern.
pub fn unescape(pattern: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(pattern.len());
    let mut bytes = pattern.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\\' => out.extend(bytes.next()),
            _ => out.push(byte),
        }
    }
    out
}

/// A pattern whose brackets or escapes do not close.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a valid file name pattern (an unclosed bracket or a backslash at its end)")]
pub struct BadPattern(pub String);

/// Checks the syntax of `pattern`.
pub fn check(pattern: &[u8]) -> Result<(), BadPattern> {
    let mut at = 0;
    while at < pattern.len() {
        match pattern[at] {
            b'[' => match class(&pattern[at..], 0) {
                Some((_, used)) => at += used,
                None => return Err(BadPattern(String::from_utf8_lossy(pattern).into_owned())),
            },
            b'\\' if at + 1 == pattern.len() => {
                return Err(BadPattern(String::from_utf8_lossy(pattern).into_owned()));
            }
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    Ok(())
}

/// Matches a whole relative path. Both sides are walked component by component, so that the cost
/// stays linear in their number; a star backtracks only within its component.
pub fn matches(pattern: &[u8], path: &[u8]) -> bool {
    let mut patterns = split_components(pattern);
    let mut parts = path.split(|&b| b == b'/');
    loop {
        match (patterns.next(), parts.next()) {
            (None, None) => return true,
            (Some(pattern), Some(part)) if component_matches(pattern, part) => {}
            _ => return false,
        }
    }
}

/// Counts the components of a pattern.
pub fn depth(pattern: &[u8]) -> usize {
    split_components(pattern).count()
}

/// Splits at slashes that are not inside of brackets or escaped.
fn split_components(pattern: &[u8]) -> impl Iterator<Item = &[u8]> {
    pattern.split(|&b| b == b'/')
}

fn component_matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to go back to: the position behind the last star, and the name position tried for it.
    let mut star: Option<(usize, usize)> = None;
    loop {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, n));
                p += 1;
                continue;
            }
            None if n == name.len() => return true,
            None => None,
            Some(_) if n == name.len() => None,
            Some(b'?') => Some((1, char_len(&name[n..]))),
            Some(b'[') => {
                let (c, used_name) = decode(&name[n..]);
                match class(&pattern[p..], c) {
                    Some((true, used)) => Some((used, used_name)),
                    _ => None,
                }
            }
            Some(b'\\') => match pattern.get(p + 1) {
                Some(byte) if *byte == name[n] => Some((2, 1)),
                _ => None,
            },
            Some(byte) if *byte == name[n] => Some((1, 1)),
            Some(_) => None,
        };
        match (step, star) {
            (Some((dp, dn)), _) => {
                p += dp;
                n += dn;
            }
            (None, Some((after, tried))) if tried < name.len() => {
                star = Some((after, tried + 1));
                p = after;
                n = tried + 1;
            }
            _ => return false,
        }
    }
}

/// Reads a bracket expression at the start of `pattern`: (whether `c` is a member, bytes used).
fn class(pattern: &[u8], c: u32) -> Option<(bool, usize)> {
    let mut at = 1;
    let negated = pattern.get(at) == Some(&b'^');
    if negated {
        at += 1;
    }
    let (mut found, mut members) = (false, 0);
    loop {
        if pattern.get(at) == Some(&b']') && members > 0 {
            return Some((found != negated, at + 1));
        }
        let (low, used) = class_char(&pattern[at..])?;
        at += used;
        let mut high = low;
        if pattern.get(at) == Some(&b'-') {
            let (end, used) = class_char(&pattern[at + 1..])?;
            high = end;
            at += 1 + used;
        }
        found |= (low..=high).contains(&c);
        members += 1;
    }
}

fn class_char(pattern: &[u8]) -> Option<(u32, usize)> {
    match pattern.first()? {
        b'-' | b']' => None,
        b'\\' => {
            let rest = pattern.get(1..).filter(|rest| !rest.is_empty())?;
            let (c, used) = decode(rest);
            Some((c, used + 1))
        }
        _ => Some(decode(pattern)),
    }
}

/// Decodes one character; a byte that is not UTF-8 stands for itself, beyond all characters.
fn decode(bytes: &[u8]) -> (u32, usize) {
    let len = char_len(bytes);
    match std::str::from_utf8(&bytes[..len]).ok().and_then(|text| text.chars().next()) {
        Some(c) => (u32::from(c), len),
        None => (0x11_0000 + u32::from(bytes.first().copied().unwrap_or(0)), 1),
    }
}

fn char_len(bytes: &[u8]) -> usize {
    let want = match bytes.first() {
        Some(0xc0..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        Some(0xf0..=0xf7) => 4,
        _ => 1,
    };
    let len = want.min(bytes.len());
    if std::str::from_utf8(&bytes[..len]).is_ok() { len } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_follow_filepath_match() {
        for (pattern, path, expect) in [
            ("*.txt", "a.txt", true),
            ("*.txt", "d/a.txt", false),
            ("d/*.txt", "d/a.txt", true),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("a?c", "aéc", true),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[!a]x", "!x", true),
            ("arr[[]0].txt", "arr[0].txt", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("*a*b*c", "xxaxxbxxc", true),
            ("*a*b*c", "xxaxxbxxd", false),
            ("**", "abc", true),
            ("**", "a/b", false),
            ("*", "", true),
            ("[", "[", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), path.as_bytes()), expect, "{pattern} {path}");
        }
    }

    #[test]
    fn bad_patterns_are_found() {
        assert!(check(b"a[b").is_err());
        assert!(check(b"a\\").is_err());
        assert!(check(b"a[]b]").is_err());
        assert!(check(b"arr[[]0].txt").is_ok());
    }

    #[test]
    fn literal_directories_are_split_off() {
        assert_eq!(split_wildcards(b"a/b/*.c/d"), (b"a/b".to_vec(), b"*.c/d".to_vec()));
        assert_eq!(split_wildcards(b"a/b"), (b"a/b".to_vec(), Vec::new()));
        assert_eq!(split_wildcards(b"*"), (Vec::new(), b"*".to_vec()));
        assert_eq!(unescape(b"a\\*b"), b"a*b");
    }
}
