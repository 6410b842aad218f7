//! Ignore files: which paths of a context are left out.
//!
//! The behaviour is Docker's (moby/patternmatcher and tonistiigi/fsutil's filter):
//!
//! - Lines are trimmed, cleaned like paths, and lose a leading slash; those that begin with `#` are
//!   comments; `!` makes an exception. What a pattern means is in `glob`.
//! - The last pattern that matches decides. A pattern that matches a directory also matches all that
//!   is in it, for as long as no later pattern decides otherwise.
//! - What a pattern did for a directory is *carried* to its contents ([`Carry`]). A pattern that could
//!   not change the verdict for the directory (an exception where nothing was excluded) is not even
//!   tried there, and so is not carried. Some tools judge each path on its own instead, and differ.
//! - Exceptions re-include things in excluded directories, so these are walked as long as an
//!   exception could match below them; directories that hold something re-included are in the
//!   context, with their own metadata.
//!
//! Paths are clean, relative, and bytes. This module is pure.

use super::glob::Glob;

/// The patterns of an ignore file. The default leaves nothing out.
#[derive(Clone, Debug, Default)]
pub struct IgnoreRules {
    patterns: Vec<Pattern>,
    /// Whether any pattern is an exception.
    exceptions: bool,
    /// The literal beginnings of all exceptions; None when one of them could match anywhere.
    reach: Option<Vec<Vec<u8>>>,
    edges: Edges,
}

/// Which patterns can match a path, judged by its first and its last byte: most of a long list need
/// not be tried. One bit a pattern, for each byte.
#[derive(Clone, Debug, Default)]
struct Edges {
    /// Words a byte.
    words: usize,
    first: Vec<u64>,
    last: Vec<u64>,
}

impl Edges {
    fn new(patterns: &[Pattern]) -> Edges {
        let words = patterns.len().div_ceil(64);
        let mut edges = Edges { words, first: vec![0; 256 * words], last: vec![0; 256 * words] };
        for (index, pattern) in patterns.iter().enumerate() {
            let (first, last) = pattern.glob.edges();
            for (table, wanted) in [(&mut edges.first, first), (&mut edges.last, last)] {
                let bytes = wanted.map_or(0..=u8::MAX, |byte| byte..=byte);
                for byte in bytes {
                    table[usize::from(byte) * words + index / 64] |= 1 << (index % 64);
                }
            }
        }
        edges
    }

    /// Gives those of the patterns from `64 * word` on that can match.
    fn candidates(&self, path: &[u8], word: usize) -> u64 {
        let (Some(&first), Some(&last)) = (path.first(), path.last()) else { return u64::MAX };
        self.first[usize::from(first) * self.words + word]
            & self.last[usize::from(last) * self.words + word]
    }
}

#[derive(Clone, Debug)]
struct Pattern {
    glob: Glob,
    exception: bool,
}

/// A line of an ignore file that is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pattern {pattern:?} is not valid: {reason}")]
pub struct PatternError {
    /// The number of the line, from 1.
    pub line: usize,
    /// The pattern as it was read.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Which patterns matched a directory, for judging what it holds.
#[derive(Clone, Debug, Default)]
pub struct Carry {
    /// One bit a pattern; empty means none.
    matched: Box<[u64]>,
}

impl IgnoreRules {
    /// Reads an ignore file.
    pub fn parse(file: &[u8]) -> Result<IgnoreRules, PatternError> {
        let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
        let lines = file.split(|&b| b == b'\n').enumerate().filter_map(|(index, line)| {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.starts_with(b"#") {
                return None;
            }
            let line = trim(line);
            let (mark, body) = match line.strip_prefix(b"!") {
                Some(body) => (&b"!"[..], trim(body)),
                None => (&b""[..], line),
            };
            if mark.is_empty() && body.is_empty() {
                return None;
            }
            let mut body = if body.is_empty() { Vec::new() } else { clean(body) };
            if body.len() > 1 && body[0] == b'/' {
                body.remove(0);
            }
            Some((index + 1, [mark, &body].concat()))
        });
        IgnoreRules::compile(lines)
    }

    /// Takes patterns one by one, as `--exclude` gives them. In an error, `line` counts them.
    pub fn from_patterns<P: AsRef<[u8]>>(patterns: &[P]) -> Result<IgnoreRules, PatternError> {
        let numbered = patterns.iter().enumerate();
        IgnoreRules::compile(
            numbered.map(|(index, pattern)| (index + 1, pattern.as_ref().to_vec())),
        )
    }

    fn compile(lines: impl Iterator<Item = (usize, Vec<u8>)>) -> Result<IgnoreRules, PatternError> {
        let mut rules = IgnoreRules { reach: Some(Vec::new()), ..IgnoreRules::default() };
        for (line, text) in lines {
            let trimmed = trim(&text);
            if trimmed.is_empty() {
                continue;
            }
            let wrong = |reason: String| PatternError {
                line,
                pattern: String::from_utf8_lossy(trimmed).into_owned(),
                reason,
            };
            let mut pattern = clean(trimmed);
            let exception = pattern[0] == b'!';
            if exception {
                if pattern.len() == 1 {
                    return Err(wrong("an exception needs a pattern after the !".into()));
                }
                pattern.remove(0);
                rules.exceptions = true;
                rules.extend_reach(&pattern);
            }
            let glob = Glob::new(&pattern).map_err(wrong)?;
            rules.patterns.push(Pattern { glob, exception });
        }
        rules.edges = Edges::new(&rules.patterns);
        Ok(rules)
    }

    /// Notes where an exception could match: only at or below its literal beginning.
    fn extend_reach(&mut self, pattern: &[u8]) {
        let pattern = pattern.strip_suffix(b"/**").unwrap_or(pattern);
        let pattern = pattern.strip_suffix(b"/*").unwrap_or(pattern);
        if pattern.iter().any(|b| b"*[]?^\\".contains(b)) {
            self.reach = None;
        } else if let Some(reach) = &mut self.reach {
            reach.push(pattern.to_vec());
        }
    }

    /// Says whether nothing is ever left out.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Gives the cleaned patterns, exceptions with their mark, for messages and keys.
    pub fn patterns(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        self.patterns.iter().map(|pattern| {
            let mark: &[u8] = if pattern.exception { b"!" } else { b"" };
            [mark, pattern.glob.text()].concat()
        })
    }

    /// Says whether `path` is left out, given what its directory carries (for the top level: the
    /// default).
    pub fn excludes(&self, path: &[u8], parent: &Carry) -> bool {
        self.judge(path, parent, |_| {})
    }

    /// Like [`IgnoreRules::excludes`] for a directory, and gives what it carries.
    pub fn enter(&self, path: &[u8], parent: &Carry) -> (bool, Carry) {
        let mut carry = vec![0u64; self.edges.words];
        let excluded = self.judge(path, parent, |index| carry[index / 64] |= 1 << (index % 64));
        (excluded, Carry { matched: carry.into() })
    }

    /// Tells each pattern that matched.
    fn judge(&self, path: &[u8], parent: &Carry, mut matched: impl FnMut(usize)) -> bool {
        let mut excluded = false;
        for word in 0..self.edges.words {
            let carried = parent.matched.get(word).copied().unwrap_or_default();
            let mut rest = carried | self.edges.candidates(path, word);
            while rest != 0 {
                let (bit, index) = (rest & rest.wrapping_neg(), word * 64);
                let index = index + rest.trailing_zeros() as usize;
                rest ^= bit;
                let Some(pattern) = self.patterns.get(index) else { break };
                // What cannot change the verdict is not tried.
                if carried & bit != 0
                    || (pattern.exception == excluded && pattern.glob.matches(path))
                {
                    excluded = !pattern.exception;
                    matched(index);
                }
            }
        }
        excluded
    }

    /// Says whether an excluded directory can hold anything that is not excluded.
    pub fn reaches_into(&self, dir: &[u8]) -> bool {
        let below = |pattern: &[u8]| {
            pattern == dir || (pattern.starts_with(dir) && pattern.get(dir.len()) == Some(&b'/'))
        };
        self.exceptions && self.reach.as_ref().is_none_or(|all| all.iter().any(|p| below(p)))
    }

    /// Says whether a clean path is left out, judged from the top down as a walk would.
    pub fn is_ignored(&self, path: &[u8]) -> bool {
        let mut carry = Carry::default();
        for (cut, _) in path.iter().enumerate().filter(|&(_, &b)| b == b'/') {
            let (excluded, inner) = self.enter(&path[..cut], &carry);
            if excluded && !self.reaches_into(&path[..cut]) {
                return true;
            }
            carry = inner;
        }
        !path.is_empty() && self.excludes(path, &carry)
    }
}

/// Trims whitespace as Go's strings.TrimSpace does.
fn trim(mut text: &[u8]) -> &[u8] {
    while !text.is_empty() {
        let (c, width) = super::glob::decode(text);
        if !c.is_whitespace() {
            break;
        }
        text = &text[width..];
    }
    'end: while !text.is_empty() {
        // A whitespace character takes up to three bytes.
        for width in 1..=text.len().min(3) {
            let tail = &text[text.len() - width..];
            let (c, whole) = super::glob::decode(tail);
            if whole == width && c.is_whitespace() {
                text = &text[..text.len() - width];
                continue 'end;
            }
        }
        break;
    }
    text
}

/// Cleans a path as Go's filepath.Clean does: unlike in [`crate::layer::RootPath`], leading `..`
/// stay and a leading slash stays.
fn clean(path: &[u8]) -> Vec<u8> {
    let rooted = path.first() == Some(&b'/');
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => match parts.last() {
                Some(&last) if last != b".." => drop(parts.pop()),
                _ if rooted => {}
                _ => parts.push(part),
            },
            _ => parts.push(part),
        }
    }
    let joined = parts.join(&b'/');
    match (rooted, joined.is_empty()) {
        (true, _) => [b"/", &joined[..]].concat(),
        (false, true) => b".".to_vec(),
        (false, false) => joined,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules(file: &str) -> IgnoreRules {
        IgnoreRules::parse(file.as_bytes()).unwrap()
    }

    fn cleaned(file: &str) -> Vec<String> {
        rules(file).patterns().map(|pattern| String::from_utf8(pattern).unwrap()).collect()
    }

    #[test]
    fn lines_are_read_as_docker_reads_them() {
        for (file, expect) in [
            ("a\n\nb", &["a", "b"][..]),
            ("\u{feff}a\r\n b \t\n", &["a", "b"]),
            ("# c\n #a\n\\#b", &["#a", "\\#b"]),
            ("/a\n//b/\n./c\nd/../e\n/", &["a", "b", "c", "e", "/"]),
            ("!a\n! /b/\n!../c\n!.", &["!a", "!b", "!../c", "!."]),
            (".\n..\n../a", &[".", "..", "../a"]),
            ("\u{a0}a\u{2003}", &["a"]),
        ] {
            assert_eq!(cleaned(file), expect, "{file:?}");
        }
    }

    #[test]
    fn wrong_lines_are_named() {
        for (file, line) in [("a\n!", 2), ("!/", 1), ("# x\n\n[", 3), ("a\nb\\", 2)] {
            assert_eq!(IgnoreRules::parse(file.as_bytes()).unwrap_err().line, line, "{file:?}");
        }
        let error = IgnoreRules::parse(b"[").unwrap_err();
        assert_eq!(error.to_string(), "pattern \"[\" is not valid: a bracket is not closed");
    }

    #[test]
    fn the_last_match_decides_and_directories_hand_it_down() {
        for (file, ignored, kept) in [
            ("", &[][..], &["a", "a/b"][..]),
            ("a", &["a", "a/b", "a/b/c"], &["ab", "b/a"]),
            ("/a/", &["a", "a/b"], &["b/a"]),
            ("*", &["a", "a/b"], &[]),
            ("*/*", &["a/b", "a/b/c"], &["a"]),
            (".", &[], &["a"]),
            ("..\n../a", &[], &["a"]),
            ("**/x", &["x", "a/x", "a/x/y"], &["xx"]),
            ("a*\n!ab", &["a", "ac", "ac/ab"], &["ab", "ab/c", "b"]),
            ("!ab\na*", &["ab"], &["b"]),
            ("*\n!a\na/b\n!a/b/c", &["x", "a/b", "a/b/d"], &["a", "a/x", "a/b/c"]),
            ("a\n!a/b", &["a", "a/c"], &["a/b", "a/b/d"]),
            ("a/*\n!a/b", &["a/c", "a/c/b"], &["a", "a/b"]),
            ("**\n!**/*.go", &["a", "d", "d/a"], &["x.go", "d/x.go"]),
            ("a/b\n!a/**", &[], &["a/b", "a/b/c"]),
            ("*.md\n!README*\nREADME-secret*", &["a.md", "README-secret.md"], &["README.md"]),
            // An exception that did nothing for `a` is not carried to `a/b` (walk order, as BuildKit).
            ("a/b\n!a", &["a/b", "a/b/c"], &["a", "a/c"]),
            ("Dockerfile\n.dockerignore", &["Dockerfile", ".dockerignore"], &["d/Dockerfile"]),
        ] {
            let rules = rules(file);
            for path in ignored {
                assert!(rules.is_ignored(path.as_bytes()), "{file:?} should ignore {path}");
            }
            for path in kept {
                assert!(!rules.is_ignored(path.as_bytes()), "{file:?} should keep {path}");
            }
        }
    }

    #[test]
    fn excluded_directories_are_walked_only_for_exceptions() {
        for (file, dir, expect) in [
            ("a", "a", false),
            ("a\n!a/b", "a", true),
            ("a\n!a/b", "a/b", true),
            ("a\n!a/b", "a/c", false),
            ("a\n!a/b/**", "a/b", true),
            ("a\n!a/b/*", "a", true),
            ("a\n!b", "a", false),
            ("a\n!ab", "a", false),
            ("a\n!**/x", "a", true),
            ("a\n!x*", "a", true),
        ] {
            assert_eq!(rules(file).reaches_into(dir.as_bytes()), expect, "{file:?} {dir}");
        }
    }

    #[test]
    fn more_patterns_than_bits_in_a_word() {
        let mut file: String = (0..200).map(|n| format!("x{n}\n")).collect();
        file.push_str("!x150/y\n");
        let rules = rules(&file);
        assert!(rules.is_ignored(b"x199/z"));
        assert!(!rules.is_ignored(b"x150/y"));
        assert!(rules.is_ignored(b"x150/z"));
    }

    #[test]
    fn patterns_are_tried_for_whatever_byte_a_path_begins_and_ends_with() {
        for (pattern, paths) in [
            ("a*", &["a", "ab", "a\u{e9}"][..]),
            ("*z", &["z", "\u{e9}z"]),
            ("**/q", &["q", "x/q"]),
            ("q/**", &["q/x", "q/\u{e9}"]),
            ("**", &["x", "\u{e9}"]),
            ("**q", &["q", "xq", "x/q"]),
            ("?", &["x", "\u{e9}"]),
            ("[x-z]*[^x]", &["xa", "z\u{e9}"]),
            ("**/*.c", &["a.c", "x/a.c"]),
            ("\u{e9}*\u{e8}", &["\u{e9}\u{e8}", "\u{e9}x\u{e8}"]),
        ] {
            for path in paths {
                assert!(rules(pattern).is_ignored(path.as_bytes()), "{pattern} on {path}");
            }
        }
    }

    /// The verdict as fsutil's walk reaches it, written down naively: every directory on the way is
    /// judged with the results of the one above.
    fn naive(patterns: &[Pattern], path: &[u8]) -> bool {
        let mut parent = vec![false; patterns.len()];
        let mut verdict = false;
        let parts: Vec<&[u8]> = path.split(|&b| b == b'/').collect();
        for depth in 1..=parts.len() {
            let path = parts[..depth].join(&b'/');
            let mut own = vec![false; patterns.len()];
            verdict = false;
            for (index, pattern) in patterns.iter().enumerate() {
                own[index] = parent[index];
                if !own[index] && pattern.exception == verdict {
                    own[index] = pattern.glob.matches(&path);
                }
                if own[index] {
                    verdict = !pattern.exception;
                }
            }
            parent = own;
        }
        verdict
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 2048, failure_persistence: None, ..ProptestConfig::default()
        })]
        #[test]
        fn skipping_directories_changes_no_verdict(
            // Docker does not descend for an exception whose directories are wildcards (`b` and
            // `!b/*/**` leave b/a/a out): there skipping does change the verdict.
            lines in prop::collection::vec(
                prop_oneof![
                    "(a|b|\\*|\\*\\*|\\?)(/(a|b|\\*|\\*\\*|ab)){0,2}",
                    "!(a|b|ab)(/(a|b|ab)){0,2}",
                ],
                1..6,
            ),
            path in "(a|b|ab)(/(a|b|ab)){0,3}",
        ) {
            let rules = rules(&lines.join("\n"));
            prop_assert_eq!(
                rules.is_ignored(path.as_bytes()),
                naive(&rules.patterns, path.as_bytes()),
                "{:?} on {}", lines, path
            );
        }

        #[test]
        fn any_file_is_read_or_refused(file in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(rules) = IgnoreRules::parse(&file) {
                rules.is_ignored(b"a/b");
            }
        }
    }
}
