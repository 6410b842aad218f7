//! The borders of the house: which module may use which, and what text may stand where.
//!
//! The table in `src/lib.rs` is read as it stands; an arrow that is not in it fails here. So do system calls outside of
//! `sys`, printing and environment outside of `cli`, `ui` and `main`, clocks and files in pure modules, modules without
//! docs, and files over 800 lines.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A source file, with comments and the tests at its end removed.
struct Source {
    /// Relative to src/.
    path: String,
    /// Its top-level module.
    module: String,
    whole: String,
    /// (line number, text) of code lines.
    code: Vec<(usize, String)>,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("src is readable").flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files.into_iter().map(|file| read(&root, &file)).collect()
}

fn read(root: &Path, file: &PathBuf) -> Source {
    let whole = fs::read_to_string(file).expect("sources are UTF-8");
    let path = file.strip_prefix(root).expect("it is below").display().to_string();
    let module = path.split(['/', '.']).next().unwrap_or_default().to_owned();
    // Files that hold nothing but tests are named so, and are declared under #[cfg(test)].
    let only_tests =
        path.ends_with("/tests.rs") || path.ends_with("_tests.rs") || path.contains("/tests/");
    let mut code = Vec::new();
    let mut lines = whole.lines().enumerate().peekable();
    while let Some((index, line)) = lines.next() {
        let text = line.trim_start();
        if text.starts_with("#[cfg(test)]") {
            // Skips the item that follows: to the line that closes it at the same indent, or one line.
            let indent = line.len() - text.len();
            for (_, skipped) in lines.by_ref() {
                let at = skipped.len() - skipped.trim_start().len();
                let closes = at == indent
                    && (skipped.trim_start().starts_with('}') || skipped.trim_end().ends_with(';'));
                if closes {
                    break;
                }
            }
            continue;
        }
        if only_tests || text.starts_with("//") {
            continue;
        }
        code.push((index + 1, without_comment_and_strings(line)));
    }
    Source { path, module, whole, code }
}

/// Drops string literals' content and a trailing `//` comment; good enough for rustfmt's style.
fn without_comment_and_strings(line: &str) -> String {
    let mut out = String::new();
    let mut chars = line.chars().peekable();
    let mut quoted = false;
    while let Some(char) = chars.next() {
        match char {
            '\\' if quoted => {
                chars.next();
            }
            '\'' if !quoted && chars.peek() == Some(&'"') => {
                chars.next();
                chars.next();
            }
            '"' => {
                quoted = !quoted;
                out.push('"');
            }
            '/' if !quoted && chars.peek() == Some(&'/') => break,
            _ if quoted => {}
            _ => out.push(char),
        }
    }
    out
}

/// The table of src/lib.rs: module → modules that it may use.
fn table() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs"))
        .expect("src/lib.rs is there");
    let mut table = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("//! | ")) {
        let cells: Vec<&str> = line.split(" | ").collect();
        let name = cells[0].trim_matches(['[', ']', '`', '*']).trim_end_matches(".rs");
        let Some(uses) = cells.get(2) else { continue };
        if name == "module" {
            continue;
        }
        let uses = uses.trim_end_matches(['|', ' ']);
        let uses = uses
            .split(',')
            .map(|word| word.split('(').next().unwrap_or_default().trim().to_owned())
            .filter(|word| !word.is_empty() && word != "-")
            .collect();
        table.insert(name.to_owned(), uses);
    }
    assert!(table.len() >= 15, "the table of src/lib.rs was not understood: {table:?}");
    table
}

fn report(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

/// The words after `crate::`, also in `use crate::{a, b::c};`.
fn crate_paths(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let text: Vec<&(usize, String)> = source.code.iter().collect();
    for (position, (number, line)) in text.iter().map(|pair| (pair.0, &pair.1)).enumerate() {
        let mut rest = line.as_str();
        for prefix in ["crate::", "lapstrake::"] {
            while let Some(at) = rest.find(prefix) {
                let tail = &rest[at + prefix.len()..];
                if let Some(group) = tail.strip_prefix('{') {
                    // The group may go on over lines; only its top-level names count.
                    let mut joined = group.to_owned();
                    let mut next = position + 1;
                    while depth_open(&joined) && next < text.len() {
                        joined.push_str(&text[next].1);
                        next += 1;
                    }
                    for name in top_level_names(&joined) {
                        found.push((number, name));
                    }
                } else {
                    let name: String = tail
                        .chars()
                        .take_while(|char| char.is_alphanumeric() || *char == '_')
                        .collect();
                    found.push((number, name));
                }
                rest = tail;
            }
        }
    }
    found
}

fn depth_open(group: &str) -> bool {
    let mut depth = 1i32;
    for char in group.chars() {
        match char {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return false;
        }
    }
    true
}

fn top_level_names(group: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut depth = 1i32;
    let mut word = String::new();
    let mut fresh = true;
    for char in group.chars() {
        match char {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if depth == 1 && (char.is_alphanumeric() || char == '_') && fresh {
            word.push(char);
        } else if depth == 1 && char == ',' {
            names.push(std::mem::take(&mut word));
            fresh = true;
        } else if !word.is_empty() {
            fresh = false;
        }
    }
    names.push(word);
    names.retain(|name| !name.is_empty());
    names
}

#[test]
fn no_arrow_that_is_not_in_the_table() {
    let table = table();
    let mut found = Vec::new();
    for source in sources() {
        if source.module == "lib" {
            continue;
        }
        let Some(allowed) = table.get(&source.module) else {
            found.push(format!(
                "src/{}: the table of src/lib.rs has no module {}",
                source.path, source.module
            ));
            continue;
        };
        for (line, used) in crate_paths(&source) {
            if used == source.module || !table.contains_key(&used) || allowed.contains(&used) {
                continue;
            }
            found
                .push(format!("src/{}:{line}: {} must not use {used}", source.path, source.module));
        }
    }
    report("arrows that the table of src/lib.rs does not have", &found);
}

#[test]
fn every_module_of_the_table_exists_and_the_other_way_round() {
    let declared: BTreeSet<String> = sources()
        .iter()
        .filter(|source| source.module != "lib")
        .map(|source| source.module.clone())
        .collect();
    let listed: BTreeSet<String> = table().into_keys().collect();
    assert_eq!(declared, listed);
}

/// Fails for each code line that holds one of the words, outside of the places where it may stand.
fn forbid(words: &[&str], excepted: impl Fn(&Source) -> bool, why: &str) {
    let mut found = Vec::new();
    for source in sources() {
        if excepted(&source) {
            continue;
        }
        for (number, line) in &source.code {
            for word in words {
                if holds_word(line, word) {
                    found.push(format!("src/{}:{number}: {word}", source.path));
                }
            }
        }
    }
    report(why, &found);
}

fn holds_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|char| char.is_alphanumeric() || char == '_')
    })
}

#[test]
fn system_calls_are_made_in_sys_only() {
    forbid(
        &["nix::", "rustix::", "libc::", "unsafe {", "unsafe fn", "unsafe impl"],
        |source| source.module == "sys",
        "only src/sys talks to the kernel",
    );
}

#[test]
fn printing_exit_and_environment_belong_to_the_edge() {
    forbid(
        &[
            "println!",
            "eprintln!",
            "print!",
            "eprint!",
            "process::exit",
            "env::var",
            "env::vars",
            "env::var_os",
            "dbg!",
        ],
        |source| matches!(source.module.as_str(), "cli" | "ui" | "main"),
        "only cli, ui and main print, exit or read the environment",
    );
}

#[test]
fn pure_modules_touch_nothing() {
    let pure = ["attest", "dockerfile", "graph", "layer", "oci", "task"];
    forbid(
        &[
            "std::fs",
            "fs::",
            "File::open",
            "SystemTime::now",
            "Instant::now",
            "std::env",
            "std::net",
            "std::process",
        ],
        |source| !pure.contains(&source.module.as_str()),
        "pure modules read no file, no clock, no environment",
    );
    // Layers are compressed on scoped threads, by contract.
    forbid(
        &["thread::spawn", "thread::scope"],
        |source| {
            !pure.contains(&source.module.as_str())
                || source.path.starts_with("layer/compress")
                || source.path.starts_with("layer/pack")
        },
        "pure modules start no threads",
    );
}

#[test]
fn nothing_is_left_undone_or_dropped_silently() {
    forbid(&["todo!", "unimplemented!", "#[ignore"], |_| false, "no stub is left");
}

#[test]
fn every_module_says_what_it_is() {
    let found: Vec<String> = sources()
        .iter()
        .filter(|source| !source.whole.starts_with("//!"))
        .map(|source| format!("src/{}", source.path))
        .collect();
    report("files that do not start with //! docs", &found);
}

#[test]
fn no_file_grows_without_bound() {
    let found: Vec<String> = sources()
        .iter()
        .map(|source| (source.path.clone(), source.whole.lines().count()))
        .filter(|(_, lines)| *lines > 800)
        .map(|(path, lines)| format!("src/{path}: {lines} lines"))
        .collect();
    report("files over 800 lines", &found);
}

#[test]
fn every_dependency_says_what_it_is_for() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .expect("it is there");
    let mut found = Vec::new();
    let mut within = false;
    let mut before = "";
    // Crates of one family (serde, serde_json) share a line.
    let mut family = "-";
    for line in manifest.lines() {
        if line.starts_with('[') {
            within = line.ends_with("dependencies]");
        } else if within && line.contains(" = ") {
            if !before.starts_with('#') && !line.starts_with(family) {
                found.push(line.to_owned());
            }
            family = line.split(" = ").next().unwrap_or_default();
        }
        before = line;
    }
    report("dependencies without a line above that says what for", &found);
}

#[test]
fn the_reader_of_sources_understands_them() {
    assert_eq!(
        top_level_names("oci::{Digest, DiffId}, layer::Toc, sys};"),
        ["oci", "layer", "sys"]
    );
    assert_eq!(
        without_comment_and_strings(r#"call("text // no", '"', x); // gone"#),
        r#"call("", , x); "#
    );
    assert!(
        holds_word("let x = libc::open();", "libc::") && !holds_word("mylibc::open()", "libc::")
    );
    assert!(table()["cli"].contains("ui") && table()["build"].contains("ui").eq(&false));
}
