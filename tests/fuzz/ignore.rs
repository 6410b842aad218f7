//! Target of ignore files. In the words of a small language the verdicts are those of a matcher that was
//! written for nothing but to be plain; for everything else, that reading what was understood says the
//! same.

use lapstrake::context::IgnoreRules;

use super::choice;

/// Files and paths in this alphabet, so that chance makes patterns that match.
const ALPHABET: [&str; 16] =
    ["a", "b", "a", "b", "/", "/", "*", "**", "?", "!", "\n", "\n", ".", "é", "[ab]", "[^a]"];

/// The first byte chooses the language; the file is followed by a zero byte and a path.
pub fn ignore(mut data: &[u8]) {
    if choice(&mut data) & 1 == 0 {
        return any(data);
    }
    let cut = data.iter().position(|byte| *byte == 0).unwrap_or(data.len() / 2);
    let letters = |data: &[u8], most| -> String {
        data.iter().take(most).map(|byte| ALPHABET[usize::from(*byte) % ALPHABET.len()]).collect()
    };
    // The plain matcher takes time beyond measure for more.
    let file = letters(&data[..cut], 40);
    let path = letters(&data[cut..], 16).replace(['*', '?', '!', '\n', '[', ']', '^'], "");
    let path: Vec<&str> =
        path.split('/').filter(|part| !matches!(*part, "" | "." | "..")).collect();
    if let Ok(rules) = IgnoreRules::parse(file.as_bytes())
        && !path.is_empty()
    {
        let expected = plain::verdict(&rules, &path);
        let path = path.join("/");
        assert_eq!(rules.is_ignored(path.as_bytes()), expected, "{file:?} on {path:?}");
    }
}

fn any(data: &[u8]) {
    let (file, path) = match data.iter().position(|byte| *byte == 0) {
        Some(cut) => (&data[..cut], &data[cut + 1..]),
        None => (data, &b"a/b/c.txt"[..]),
    };
    let rules = match IgnoreRules::parse(file) {
        Ok(rules) => rules,
        Err(error) => {
            let lines = file.iter().filter(|byte| **byte == b'\n').count() + 1;
            assert!((1..=lines).contains(&error.line), "line {} of {lines}", error.line);
            assert!(!error.reason.is_empty());
            return;
        }
    };
    let parts =
        path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"." | b".."));
    let path = parts.take(100).collect::<Vec<_>>().join(&b'/');
    let verdict = rules.is_ignored(&path);
    assert!(!verdict || !rules.is_empty());
    let patterns: Vec<Vec<u8>> = rules.patterns().collect();
    // Blanks that come to stand at an end only once a pattern is clean go the next time, as in Docker,
    // and what is left then may be no pattern.
    let blank = |pattern: &Vec<u8>| String::from_utf8_lossy(pattern).contains(char::is_whitespace);
    if patterns.iter().any(blank) {
        return;
    }
    let again = IgnoreRules::from_patterns(&patterns).expect("they were patterns before");
    assert_eq!(again.patterns().collect::<Vec<_>>(), patterns, "not clean the first time");
    assert_eq!(again.is_ignored(&path), verdict);
}

/// Docker's rules, written down without a thought for speed (moby/patternmatcher and fsutil's walk).
mod plain {
    use super::IgnoreRules;

    /// Judges every directory on the way, each with what the one above carried.
    pub fn verdict(rules: &IgnoreRules, path: &[&str]) -> bool {
        let patterns: Vec<(bool, String)> = rules
            .patterns()
            .map(|text| {
                let text = String::from_utf8(text).expect("it was text before");
                match text.strip_prefix('!') {
                    Some(rest) => (true, rest.to_owned()),
                    None => (false, text),
                }
            })
            .collect();
        let mut carried = vec![false; patterns.len()];
        let mut excluded = false;
        for depth in 1..=path.len() {
            let here = path[..depth].join("/");
            // A directory that is left out is walked only for the sake of an exception below it, by
            // the letters that the exception begins with.
            if depth > 1 && excluded && !reaches(&patterns, &path[..depth - 1].join("/")) {
                return true;
            }
            excluded = false;
            let mut own = Vec::new();
            for (index, (exception, pattern)) in patterns.iter().enumerate() {
                let hit = carried[index] || (*exception == excluded && matches(pattern, &here));
                own.push(hit);
                if hit {
                    excluded = !exception;
                }
            }
            carried = own;
        }
        excluded
    }

    fn reaches(patterns: &[(bool, String)], directory: &str) -> bool {
        let exceptions = patterns.iter().filter(|(exception, _)| *exception);
        let literal = |text: &str| -> String {
            let text = text.strip_suffix("/**").unwrap_or(text);
            text.strip_suffix("/*").unwrap_or(text).to_owned()
        };
        let all: Vec<String> = exceptions.map(|(_, text)| literal(text)).collect();
        // One that could match anywhere makes all of them do.
        all.iter().any(|text| text.contains(['*', '?', '[', ']', '^', '\\']))
            || all
                .iter()
                .any(|text| text == directory || text.starts_with(&format!("{directory}/")))
    }

    fn matches(pattern: &str, path: &str) -> bool {
        let (pattern, path): (Vec<char>, Vec<char>) =
            (pattern.chars().collect(), path.chars().collect());
        run(&pattern, &path, true)
    }

    fn run(pattern: &[char], path: &[char], start: bool) -> bool {
        match pattern {
            [] => path.is_empty(),
            ['*', '*', rest @ ..] => {
                let slash = rest.first() == Some(&'/');
                let rest = if slash { &rest[1..] } else { rest };
                // At the beginning a `**` before plain text asks for an end, with its slash if that
                // was written.
                if start && !rest.is_empty() && !rest.iter().any(|c| "*?[\\".contains(*c)) {
                    return path == rest
                        || (0..path.len()).any(|cut| match slash {
                            true => path[cut] == '/' && &path[cut + 1..] == rest,
                            false => &path[cut..] == rest,
                        });
                }
                rest.is_empty()
                    || run(rest, path, false)
                    || (0..path.len())
                        .any(|cut| path[cut] == '/' && run(rest, &path[cut + 1..], false))
            }
            ['*', rest @ ..] => {
                let free = path.iter().take_while(|c| **c != '/').count();
                (0..=free).any(|cut| run(rest, &path[cut..], false))
            }
            ['?', rest @ ..] => {
                path.first().is_some_and(|c| *c != '/') && run(rest, &path[1..], false)
            }
            ['[', rest @ ..] => {
                let (negated, rest) = match rest {
                    ['^', rest @ ..] => (true, rest),
                    _ => (false, rest),
                };
                let end = rest.iter().position(|c| *c == ']').expect("brackets come whole");
                path.first().is_some_and(|c| rest[..end].contains(c) != negated)
                    && run(&rest[end + 1..], &path[1..], false)
            }
            [c, rest @ ..] => path.first() == Some(c) && run(rest, &path[1..], false),
        }
    }
}
