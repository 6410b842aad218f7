//! `semvercmp`: versions and constraints, in the language of Masterminds/semver.

use std::cmp::Ordering;

use super::super::value::Value;
use super::{Answer, World};

/// A version; build metadata compares equal and is dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    numbers: [u64; 3],
    pre: String,
}

impl Version {
    /// Reads `v1.2.3-rc.1+meta`, and how many of the three numbers were written.
    fn parse(text: &str) -> Option<(Version, usize)> {
        let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
        let text = text.split('+').next().unwrap_or_default();
        let (core, pre) = text.split_once('-').unwrap_or((text, ""));
        let mut numbers = [0; 3];
        let mut given = 0;
        for part in core.split('.') {
            if matches!(part, "x" | "X" | "*") {
                return (given < 3).then(|| (Version { numbers, pre: String::new() }, given));
            }
            *numbers.get_mut(given)? = part.parse().ok()?;
            given += 1;
        }
        Some((Version { numbers, pre: pre.to_owned() }, given))
    }

    fn cmp(&self, other: &Version) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| {
            match (self.pre.is_empty(), other.pre.is_empty()) {
                (true, true) => Ordering::Equal,
                (true, false) => Ordering::Greater,
                (false, true) => Ordering::Less,
                (false, false) => pre_release(&self.pre, &other.pre),
            }
        })
    }

    /// The first version that `^`, `~` or a wildcard no longer takes.
    fn bumped(&self, part: usize) -> Version {
        let mut numbers = self.numbers;
        numbers[part] += 1;
        numbers[part + 1..].fill(0);
        Version { numbers, pre: String::new() }
    }
}

fn pre_release(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.split('.'), b.split('.'));
    loop {
        let order = match (a.next(), b.next()) {
            (None, None) => return Ordering::Equal,
            (None, _) => Ordering::Less,
            (_, None) => Ordering::Greater,
            (Some(a), Some(b)) => match (a.parse::<u64>(), b.parse::<u64>()) {
                (Ok(a), Ok(b)) => a.cmp(&b),
                (Ok(_), Err(_)) => Ordering::Less,
                (Err(_), Ok(_)) => Ordering::Greater,
                (Err(_), Err(_)) => a.cmp(b),
            },
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// Says whether a version satisfies `>= 1.2, < 2 || ~3.1`.
pub(super) fn semvercmp(_: &World<'_>, args: &[Value]) -> Answer {
    let (version, constraint) = (args[0].text()?, args[1].text()?);
    let (version, _) =
        Version::parse(&version).ok_or_else(|| format!("{version:?} is no version"))?;
    let wrong = || format!("{constraint:?} is no constraint as \">= 1.2, < 2\"");
    for alternative in constraint.split("||") {
        let mut all = true;
        for condition in conditions(alternative).ok_or_else(wrong)? {
            all &= satisfies(&version, &condition).ok_or_else(wrong)?;
        }
        if all {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

/// Splits `>= 1.2 < 2` and `1.2 - 1.5` into conditions without blanks.
fn conditions(text: &str) -> Option<Vec<String>> {
    let words: Vec<&str> = text.split([' ', ',', '\t']).filter(|word| !word.is_empty()).collect();
    let mut out: Vec<String> = Vec::new();
    let mut index = 0;
    while index < words.len() {
        let word = words[index];
        if word == "-" {
            let end = words.get(index + 1)?;
            let start = out.pop()?;
            out.push(format!(">={start}"));
            out.push(format!("<={end}"));
            index += 2;
        } else if word.chars().all(|char| "=<>!~^".contains(char)) {
            out.push(format!("{word}{}", words.get(index + 1)?));
            index += 2;
        } else {
            out.push(word.to_owned());
            index += 1;
        }
    }
    (!out.is_empty()).then_some(out)
}

fn satisfies(version: &Version, condition: &str) -> Option<bool> {
    let at = condition.find(|char| !"=<>!~^".contains(char))?;
    let (operator, text) = condition.split_at(at);
    let (wanted, given) = Version::parse(text)?;
    // A pre-release is wanted only by a condition that names one.
    if !version.pre.is_empty() && wanted.pre.is_empty() {
        return Some(false);
    }
    let order = version.cmp(&wanted);
    let below = |part: usize| version.cmp(&wanted.bumped(part)) == Ordering::Less;
    let within = |part: usize| order != Ordering::Less && below(part);
    Some(match operator {
        "" | "=" | "==" if given == 0 => true,
        "" | "=" | "==" if given < 3 => within(given - 1),
        "" | "=" | "==" => order == Ordering::Equal,
        "!=" if given == 0 => false,
        "!=" if given < 3 => !within(given - 1),
        "!=" => order != Ordering::Equal,
        ">" if given == 0 => false,
        ">" if given < 3 => !below(given - 1),
        ">" => order == Ordering::Greater,
        "<" => order == Ordering::Less,
        ">=" | "=>" => order != Ordering::Less,
        "<=" | "=<" if given == 0 => true,
        "<=" | "=<" if given < 3 => below(given - 1),
        "<=" | "=<" => order != Ordering::Greater,
        "~" | "~>" => match given {
            0 => true,
            1 => within(0),
            _ => within(1),
        },
        "^" => match (given, wanted.numbers) {
            (0, _) => true,
            (1, _) => within(0),
            (_, [0, 0, _]) if given == 3 => within(2),
            (_, [0, _, _]) => within(1),
            _ => within(0),
        },
        _ => return None,
    })
}
