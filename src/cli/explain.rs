//! `lapstrake explain`: what a code of an error or a check means.

use crate::bake;
use crate::dockerfile::diagnostic::CODES;
use crate::dockerfile::{Rule, suggest};
use crate::graph;

use super::args::ExplainArgs;
use super::environment::Environment;
use super::report::{Report, Result};

/// The page of every check.
const CHECKS: &str = include_str!("../../docs/checks.md");

/// Runs the command.
pub fn run(args: &ExplainArgs, env: &Environment) -> Result<()> {
    match &args.code {
        None => env.print(&list()),
        Some(code) => env.print(&explain(code)?),
    }
    Ok(())
}

/// Errors and warnings that are no checks, in the order of their codes.
fn codes() -> impl Iterator<Item = (&'static str, &'static str)> {
    CODES.into_iter().chain(graph::code::CODES).chain(bake::error::CODES)
}

fn list() -> String {
    let mut rows: Vec<(&str, String)> =
        codes().map(|(code, meaning)| (code, meaning.to_owned())).collect();
    let checks = Rule::every();
    rows.extend(
        checks.map(|rule| (rule.code(), format!("{}: {}", rule.name(), rule.description()))),
    );
    // Errors before warnings, as the letters have it.
    rows.sort();
    rows.iter().map(|(code, meaning)| format!("{code}  {meaning}\n")).collect()
}

fn explain(code: &str) -> Result<String> {
    let same = |known: &str| known.eq_ignore_ascii_case(code);
    if let Some(rule) = Rule::every().find(|rule| same(rule.code()) || same(rule.name())) {
        return Ok(format!("{}: the check {}\n\n{}", rule.code(), rule.name(), section(rule)));
    }
    if let Some((code, meaning)) = codes().find(|(known, _)| same(known)) {
        return Ok(format!("{code}: {meaning}\n"));
    }
    let names = codes()
        .map(|(code, _)| code)
        .chain(Rule::every().flat_map(|rule| [rule.code(), rule.name()]));
    let report = Report::usage(format!("there is no code {code:?}"));
    Err(match suggest(code, names, true) {
        Some(near) => report.with_hint(format!("did you mean {near}?")),
        None => report.with_hint("`lapstrake explain` lists all"),
    })
}

/// Gives the section of a check, without the marks of its code blocks.
fn section(rule: Rule) -> String {
    let title = format!("\n## {}\n", rule.name());
    let text = CHECKS.split_once(&title).map_or("", |(_, rest)| rest);
    let text = text.split_once("\n## ").map_or(text, |(section, _)| section);
    let mut out = String::new();
    let mut in_code = false;
    for line in text.trim().lines() {
        if line.starts_with("```") {
            in_code = !in_code;
        } else if in_code {
            out.push_str(&format!("    {line}\n"));
        } else {
            out.push_str(&format!("{line}\n"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn check(dir: &Path, count: &mut usize) {
        for entry in std::fs::read_dir(dir).expect("the sources are there") {
            let path = entry.expect("it can be listed").path();
            if path.is_dir() {
                check(&path, count);
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("it is text");
            for piece in text.split('"').filter(|piece| piece.len() == 5) {
                let is_code = piece.starts_with(['E', 'W'])
                    && piece.bytes().skip(1).all(|byte| byte.is_ascii_digit());
                if is_code {
                    *count += 1;
                    assert!(explain(piece).is_ok(), "{piece} in {}", path.display());
                }
            }
        }
    }

    #[test]
    fn every_code_in_the_sources_is_explained() {
        let mut count = 0;
        check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut count);
        assert!(count > 100, "{count}");
    }

    #[test]
    fn no_code_means_two_things() {
        let list = list();
        let codes: Vec<&str> = list.lines().map(|line| &line[..5]).collect();
        assert!(codes.windows(2).all(|pair| pair[0] < pair[1]), "{codes:?}");
    }
}
