//! Holds `docs/compatibility.md` against the sources: tests that it names exist, a feature that works has
//! a test, and one that is refused names an error that is in the sources.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A row of a table of features.
struct Row {
    line: usize,
    feature: String,
    state: String,
    differs: String,
    guards: Vec<String>,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Splits a row of a Markdown table; a bar after a backslash is text.
fn cells(line: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut escaped = false;
    for c in line.trim().trim_start_matches('|').chars() {
        match (escaped, c) {
            (false, '\\') => escaped = true,
            (false, '|') => cells.push(String::new()),
            (_, c) => {
                escaped = false;
                cells.last_mut().expect("there is one").push(c);
            }
        }
    }
    cells.pop();
    cells.into_iter().map(|cell| cell.trim().to_owned()).collect()
}

fn guards(cell: &str) -> Vec<String> {
    cell.split("; ").filter(|guard| !guard.is_empty()).map(str::to_owned).collect()
}

/// Reads the tables: of features (four columns), and of traps (two).
fn read(text: &str) -> (Vec<Row>, Vec<Row>) {
    let (mut features, mut traps) = (Vec::new(), Vec::new());
    let mut head: Vec<String> = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        if !text.starts_with('|') {
            head.clear();
            continue;
        }
        let cells = cells(text);
        if head.is_empty() {
            head = cells;
            continue;
        }
        if cells.iter().all(|cell| cell.starts_with("---")) || head[0] == "state" {
            continue;
        }
        assert_eq!(cells.len(), head.len(), "line {line}: {text}");
        match &cells[..] {
            [feature, state, differs, guarded] => features.push(Row {
                line,
                feature: feature.clone(),
                state: state.clone(),
                differs: differs.clone(),
                guards: guards(guarded),
            }),
            [feature, guarded] => traps.push(Row {
                line,
                feature: feature.clone(),
                state: "yes".to_owned(),
                differs: String::new(),
                guards: guards(guarded),
            }),
            _ => panic!("line {line}: a table of {} columns", cells.len()),
        }
    }
    (features, traps)
}

fn manual() -> (Vec<Row>, Vec<Row>) {
    read(&fs::read_to_string(root().join("docs/compatibility.md")).expect("it is there"))
}

fn rust_files(dir: &Path, out: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.insert(path.clone(), fs::read_to_string(&path).expect("text"));
        }
    }
}

/// Says whether the text defines a test function of this name (in the sources, or in `proptest!`).
fn defines(text: &str, name: &str) -> bool {
    let head = format!("fn {name}(");
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let before = |at: usize| {
        lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//"))
    };
    lines
        .iter()
        .enumerate()
        .any(|(at, line)| line.starts_with(&head) && before(at).any(|line| *line == "#[test]"))
}

/// Finds the test that a guard names; tells what is missing.
fn find(guard: &str, sources: &BTreeMap<PathBuf, String>) -> Result<(), String> {
    let (kind, name) = guard.split_once(' ').ok_or("no test is named")?;
    let text = |path: String| sources.get(&root().join(path));
    match kind {
        "stories" => {
            let (file, name) = name.split_once("::").ok_or("expected FILE::NAME")?;
            let text = text(format!("tests/stories/{file}.rs")).ok_or("there is no such file")?;
            let head = format!("story!({name} :");
            text.contains(&head).then_some(()).ok_or("there is no such story".to_owned())
        }
        "sandbox" => {
            let text = text("tests/sandbox/cases.rs".into()).ok_or("the cases are gone")?;
            let entry = format!("(\"{name}\", ");
            text.contains(&entry).then_some(()).ok_or("there is no such case".to_owned())
        }
        "test" => {
            let (file, name) = name.split_once("::").ok_or("expected FILE::NAME")?;
            let text = text(format!("tests/{file}.rs")).ok_or("there is no such file")?;
            defines(text, name).then_some(()).ok_or("there is no such test".to_owned())
        }
        "lib" => {
            let (module, name) = name.rsplit_once("::").ok_or("expected MODULE::NAME")?;
            let path = module.replace("::", "/");
            let outer = path.strip_suffix("/tests").unwrap_or(&path);
            let places = [
                format!("src/{path}.rs"),
                format!("src/{outer}.rs"),
                format!("src/{outer}_tests.rs"),
                format!("src/{outer}/mod.rs"),
            ];
            let mut texts = places.iter().filter_map(|place| text(place.clone())).peekable();
            texts.peek().ok_or("there is no such module")?;
            texts
                .any(|text| defines(text, name))
                .then_some(())
                .ok_or("there is no such test".to_owned())
        }
        _ => Err("tests are of stories, sandbox, lib or test".to_owned()),
    }
}

fn report(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

#[test]
fn every_row_is_backed_by_the_sources() {
    let mut sources = BTreeMap::new();
    rust_files(&root().join("src"), &mut sources);
    let in_sources = |words: &str| sources.values().any(|text| text.contains(words));
    let mut tests = sources.clone();
    rust_files(&root().join("tests"), &mut tests);
    let (features, traps) = manual();
    assert!(features.len() > 100, "the tables are read: {}", features.len());
    assert!(traps.len() > 50, "the traps are read: {}", traps.len());
    let mut faults = Vec::new();
    for row in features.iter().chain(&traps) {
        let mut fault = |what: String| {
            faults.push(format!("docs/compatibility.md:{}: {}: {what}", row.line, row.feature));
        };
        let (errors, named): (Vec<_>, Vec<_>) =
            row.guards.iter().partition(|guard| guard.starts_with("error "));
        for guard in &named {
            if let Err(why) = find(guard, &tests) {
                fault(format!("{guard}: {why}"));
            }
        }
        for error in &errors {
            match error.strip_prefix("error \"").and_then(|rest| rest.strip_suffix('"')) {
                Some(words) if in_sources(words) => {}
                Some(words) => fault(format!("no error says {words:?}")),
                None => fault(format!("{error}: expected error \"WORDS\"")),
            }
        }
        match row.state.trim_matches('`') {
            "yes" | "differs" if named.is_empty() => fault("no test".into()),
            "refused" if errors.is_empty() => fault("no error".into()),
            "differs" | "no" if row.differs.is_empty() => fault("what differs?".into()),
            "yes" | "differs" | "refused" | "no" => {}
            other => fault(format!("there is no state {other:?}")),
        }
    }
    report("rows that the sources do not back", &faults);
}

#[test]
fn no_feature_has_two_rows() {
    let mut seen = BTreeMap::new();
    let (features, traps) = manual();
    let twice: Vec<String> = features
        .iter()
        .chain(&traps)
        .filter(|row| seen.insert(row.feature.clone(), row.line).is_some())
        .map(|row| format!("docs/compatibility.md:{}: {}", row.line, row.feature))
        .collect();
    report("features with two rows", &twice);
}

#[test]
fn the_reader_of_tables_finds_faults() {
    let (features, traps) = read(
        "| a | state | b | c |\n|---|---|---|---|\n| x \\| y | yes | | lib a::b; error \"c\" |\n\n| w | by |\n|---|---|\n| t | sandbox z |\n",
    );
    assert_eq!((features.len(), traps.len()), (1, 1));
    assert_eq!((features[0].feature.as_str(), features[0].line), ("x | y", 3));
    assert_eq!(features[0].guards, ["lib a::b", "error \"c\""]);
    let sources = BTreeMap::from([
        (root().join("src/a/b.rs"), "    #[test]\n    fn one() {}\n    fn two() {}\n".to_owned()),
        (root().join("tests/stories/s.rs"), "story!(told : root user, |env| {});".to_owned()),
        (root().join("tests/sandbox/cases.rs"), "    (\"case\", case),".to_owned()),
    ]);
    for guard in ["lib a::b::one", "lib a::b::tests::one", "stories s::told", "sandbox case"] {
        assert_eq!(find(guard, &sources), Ok(()), "{guard}");
    }
    for guard in [
        "lib a::b::two",
        "lib a::c::one",
        "stories s::tol",
        "stories t::told",
        "sandbox cas",
        "one",
        "unit x",
    ] {
        assert!(find(guard, &sources).is_err(), "{guard}");
    }
}
