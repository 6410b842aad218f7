//! "Did you mean".

/// How many edits apart a suggestion may be, as in BuildKit.
const MAX_DISTANCE: usize = 2;

/// Names longer than this get no suggestion: nobody mistypes a kilobyte.
const MAX_LEN: usize = 128;

/// Finds the candidate that was most likely meant: at most two edits away, and not equal (then the
/// name was not what was wrong). The first of the nearest wins.
pub fn suggest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
    ignore_case: bool,
) -> Option<&'a str> {
    if name.len() > MAX_LEN {
        return None;
    }
    let fold = |text: &str| if ignore_case { text.to_lowercase() } else { text.to_owned() };
    let name = fold(name);
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        if candidate.len().abs_diff(name.len()) > 4 * MAX_DISTANCE {
            continue;
        }
        let distance = distance(&name, &fold(candidate));
        if distance == 0 {
            return None;
        }
        if distance <= MAX_DISTANCE && best.is_none_or(|(nearest, _)| distance < nearest) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Counts the insertions, deletions, substitutions and swaps of neighbours that make one of the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let substituted = above[j] + usize::from(a[i] != b[j]);
            let mut least = substituted.min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_candidate_is_suggested() {
        let words = ["FROM", "RUN", "COPY", "ENV", "ENTRYPOINT"];
        for (name, expect) in [
            ("FROOM", Some("FROM")),
            ("form", Some("FROM")),
            ("cpoy", Some("COPY")),
            ("ENTRIPOINT", Some("ENTRYPOINT")),
            ("EVN", Some("ENV")),
            ("run", None),
            ("WORKDIR", None),
            ("", None),
        ] {
            assert_eq!(suggest(name, words, true), expect, "{name}");
        }
        assert_eq!(suggest("FORM", ["from"], false), None);
        assert_eq!(suggest(&"x".repeat(1_000_000), words, true), None);
    }
}
