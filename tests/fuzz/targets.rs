//! The fuzz targets: each takes any bytes, and panics when something does not hold that always must.
//!
//! Shared by the property tests (`tests/fuzz_targets.rs`) and by libFuzzer (`tests/fuzz`). No panic is
//! the least of it; what else is asked is written at each target. Bounds on time and memory are set by
//! the caller, which measures them.

#[path = "bake.rs"]
mod bake;
#[path = "dockerfile.rs"]
mod dockerfile;
#[path = "ignore.rs"]
mod ignore;
#[path = "names.rs"]
mod names;

use lapstrake::dockerfile::{Diagnostic, Rule, Span};

/// One target.
pub struct Target {
    /// What `scripts/fuzz` calls it.
    pub name: &'static str,
    /// Where inputs to begin with lie, relative to the repository, and how their names end. All files
    /// of the directory `tests/fuzz/seeds/NAME` count too.
    #[allow(dead_code, reason = "only the property tests look for seeds")]
    pub seeds: &'static [&'static str],
    /// Panics when something is wrong.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: [Target; 7] = [
    Target { name: "parser", seeds: &["Dockerfile"], run: dockerfile::parser },
    Target { name: "plan", seeds: &["Dockerfile"], run: dockerfile::plan },
    Target { name: "expansion", seeds: &[], run: dockerfile::expansion },
    Target { name: "ignore", seeds: &[".dockerignore"], run: ignore::ignore },
    Target { name: "reference", seeds: &[], run: names::reference },
    Target { name: "hcl", seeds: &[".hcl"], run: bake::hcl },
    Target { name: "compose", seeds: &[".yml", ".yaml", ".json"], run: bake::compose },
];

/// Finds a target.
#[allow(dead_code, reason = "the property tests run them all")]
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Every diagnostic has a code that `lapstrake explain` knows, says something, and points into the
/// source without cutting a character.
fn check_diagnostic(diagnostic: &Diagnostic, source: &str) {
    let code = diagnostic.code;
    let known = Rule::every().any(|rule| rule.code() == code)
        || lapstrake::dockerfile::diagnostic::CODES.iter().any(|(known, _)| *known == code)
        || lapstrake::graph::code::CODES.iter().any(|(known, _)| *known == code)
        || lapstrake::bake::error::CODES.iter().any(|(known, _)| *known == code);
    assert!(known, "the code {code:?} is not explained");
    assert!(!diagnostic.message.is_empty(), "{code} says nothing");
    // Messages are read by people; what they quote is cut.
    let long = diagnostic.message.len().max(diagnostic.help.as_ref().map_or(0, String::len));
    assert!(long <= 2010, "{code}: a message of {long} bytes");
    check_span(diagnostic.span, source, code);
}

fn check_span(span: Span, source: &str, what: &str) {
    assert!(
        span.start <= span.end && source.get(span.start..span.end).is_some(),
        "the span {span:?} of {what} is not in a source of {} bytes",
        source.len()
    );
}

/// Takes one byte off the front, for choices; 0 at the end.
fn choice<'a>(data: &mut &'a [u8]) -> u8 {
    let rest: &'a [u8] = data;
    match rest {
        [first, rest @ ..] => {
            *data = rest;
            *first
        }
        [] => 0,
    }
}
