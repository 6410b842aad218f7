//! The fuzz targets in the ordinary test suite: over their seeds, over random pieces of what their
//! languages are made of, and over the largest inputs that are read; none may take more than 64 MiB.
//!
//! The coverage-guided runs are started by `scripts/fuzz`; see `tests/fuzz/README.md`.

#[path = "fuzz/meter.rs"]
mod meter;
#[path = "fuzz/targets.rs"]
mod targets;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

#[global_allocator]
static METER: meter::Meter = meter::Meter;

/// Memory is counted for the whole process, so one test runs at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// The most memory that one input may take, bytes.
const MOST_MEMORY: usize = 64 << 20;

fn run(name: &str, data: &[u8], what: &str) {
    let target = targets::find(name).expect("it is one of the table");
    let (_, peak) = meter::measure(|| (target.run)(data));
    assert!(peak <= MOST_MEMORY, "{name}, {what}: {peak} bytes for {} of input", data.len());
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(directory: PathBuf) -> Vec<PathBuf> {
    let (mut found, mut todo) = (Vec::new(), vec![directory]);
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).expect("it can be listed").flatten() {
            let path = entry.path();
            if path.is_dir() { todo.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

/// The inputs that a target begins with, as `scripts/fuzz` has them.
fn seeds(target: &targets::Target) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for path in files(root().join("tests/fuzz/seeds").join(target.name)) {
        found.push((path.display().to_string(), fs::read(&path).expect("it can be read")));
    }
    for path in files(root().join("testdata")) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if target.seeds.iter().any(|end| name == *end || (end.len() < 6 && name.ends_with(end))) {
            let mut data = fs::read(&path).expect("it can be read");
            if matches!(target.name, "plan" | "ignore" | "compose") {
                data.insert(0, 0);
            }
            found.push((path.display().to_string(), data));
        }
    }
    found
}

#[test]
fn seeds_pass() {
    let _alone = ALONE.lock();
    for target in &targets::TARGETS {
        let seeds = seeds(target);
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        for (name, data) in seeds {
            run(target.name, &data, &name);
            // Cut short, as when a file was not written to its end.
            for part in 1..8 {
                run(target.name, &data[..data.len() * part / 8], &name);
            }
        }
    }
}

/// The words of a dictionary of libFuzzer's: `"…"` a line, with `\xNN`.
fn dictionary(name: &str) -> Vec<Vec<u8>> {
    let path = root().join("tests/fuzz/dictionaries").join(name);
    let text = fs::read_to_string(path).expect("each target has one");
    let word = |line: &str| -> Vec<u8> {
        let mut bytes = line.trim_matches('"').bytes();
        let mut out = Vec::new();
        while let Some(byte) = bytes.next() {
            out.push(match (byte, byte == b'\\').1.then(|| bytes.next()).flatten() {
                Some(b'x') => {
                    let digits = [bytes.next(), bytes.next()].map(|digit| digit.unwrap_or(b'0'));
                    let digits = String::from_utf8_lossy(&digits).into_owned();
                    u8::from_str_radix(&digits, 16).expect("two digits")
                }
                Some(escaped) => escaped,
                None => byte,
            });
        }
        out
    };
    text.lines().filter(|line| line.starts_with('"')).map(word).collect()
}

#[test]
fn words_in_any_order_pass() {
    let _alone = ALONE.lock();
    for target in &targets::TARGETS {
        let words = dictionary(target.name);
        let seeds = seeds(target);
        let piece = prop_oneof![
            4 => prop::sample::select(words),
            1 => prop::collection::vec(any::<u8>(), 0..4),
            1 => "[ -~\\n]{0,8}".prop_map(String::into_bytes),
        ];
        let input = (
            any::<u8>(),
            prop::sample::select(seeds),
            any::<prop::sample::Index>(),
            prop::collection::vec(piece, 0..25),
        );
        let config =
            ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() };
        let outcome = TestRunner::new(config).run(&input, |(first, seed, at, pieces)| {
            // Words alone, and words in the middle of something sound.
            let words = pieces.concat();
            run(target.name, &[&[first], &words[..]].concat(), "words");
            let (before, after) = seed.1.split_at(at.index(seed.1.len().max(1)).min(seed.1.len()));
            run(target.name, &[before, &words, after].concat(), "words in a seed");
            Ok(())
        });
        outcome.unwrap_or_else(|error| panic!("{}: {error}", target.name));
    }
}

/// One piece as often as fits into so many bytes.
fn repeated(start: &str, piece: &str, end: &str, size: usize) -> Vec<u8> {
    format!("{start}{}{end}", piece.repeat(size / piece.len())).into_bytes()
}

/// Whatever there is most of, memory stays within bounds: it is read, or refused.
#[test]
fn large_inputs_of_every_kind_stay_small() {
    let _alone = ALONE.lock();
    let whole = 4 << 20;
    for (start, piece, end) in [
        ("FROM a\n", "ENV A=b\n", ""),
        ("", "ARG A\n", "FROM a\n"),
        ("FROM a\n", "CMD a\n", ""),
        ("", "FROM a AS b\n", ""),
        ("", "\n", ""),
        ("", "#\n", "FROM a\n"),
        ("FROM a\nRUN ", "\\\n", "x\n"),
        ("FROM a\nRUN ", "a\\\n", "x\n"),
        ("FROM a\nRUN \\\n", "#\n", "x\n"),
        ("FROM a\nRUN \\\n", " #\n", "x\n\u{0}"),
        ("FROM a\nRUN \\\n", "\n", "x\n"),
        ("FROM a\nRUN ", "x", "\n"),
        ("FROM a\nRUN ", "x ", "\n"),
        ("FROM a\nRUN ", "<<a ", "\n"),
        ("FROM a\nCOPY ", "a ", "/\n"),
        ("FROM a\nCOPY [", "\"\",", "\"/\"]\n"),
        ("FROM a\nCOPY <<a /\n", "x\n", "a\n"),
        ("FROM a\nENV ", "a=$a", "\n"),
        ("FROM a\nENV ", "secret=\"\" ", "\n"),
        ("FROM a\nEXPOSE ", "8/TCP\u{2003}", "\n"),
        ("FROM a\n", "ONBUILD RUN a <<e\nb\ne\n", ""),
        ("FROM a\nRUN --mount=", "a=$b,", " c\n"),
        ("FROM a\nRUN ", "--device=a ", "c\n"),
        ("# check=skip=", "a,", "\nFROM a\n"),
        ("FROM a\nLABEL ", "a=b ", "\n"),
        ("\u{0}", "\u{0}", ""),
        ("FROM a\n", "\u{7f}", ""),
    ] {
        for size in [whole - 100, 300_000] {
            let data = repeated(start, piece, end, size);
            run("parser", &data, &format!("{start:?}, {piece:?}"));
        }
        let data = repeated(&format!("\u{1}{start}"), piece, end, 60_000);
        run("plan", &data, &format!("{start:?}, {piece:?}"));
    }
    run("parser", &vec![0xff; whole], "no UTF-8");
    run("parser", &[0xff, 0xfe].repeat(whole / 2), "UTF-16");
}

#[test]
fn large_bake_files_stay_small() {
    let _alone = ALONE.lock();
    let whole = (256 << 10) - 100;
    for (start, piece, end) in [
        ("", "a=1\n", ""),
        ("a=[", "1,", "]"),
        ("a=[", "1+1,", "]"),
        ("a=[", "f(),", "]"),
        ("a=[", "\"${1}\",", "]"),
        ("a=\"", "${1}", "\""),
        ("a={", "b=1,", "}"),
        ("", "target \"a\"{}\n", ""),
        ("a=[", "((((((((((((((((((((1)))))))))))))))))))),", "]"),
        ("v=range(0,90000)\na=[", "v,", "]"),
        ("v=\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"\na=[", "\"${v}${v}\",", "]"),
    ] {
        let data = repeated(start, piece, end, whole);
        run("hcl", &data, &format!("{start:?}, {piece:?}"));
    }
    for (start, piece, end) in [
        ("\u{1}{\"a\":[", "1,", "1]}"),
        ("\u{1}{\"a\":[", "\"${a}\",", "1]}"),
        ("\u{1}{\"target\":{", "\"a\":{},", "\"b\":{}}}"),
        ("\u{0}services: [", "1,", "1]"),
        ("\u{0}services:\n", " a: {build: .}\n", ""),
        ("\u{0}a: &a xxxxxxxxxxxxxxxxxxxxxxxxxxxxx\nb: [", "*a,", "1]"),
    ] {
        let data = repeated(start, piece, end, whole);
        run("compose", &data, &format!("{start:?}, {piece:?}"));
    }
}
