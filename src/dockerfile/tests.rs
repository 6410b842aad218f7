//! The language as a whole: tables of `check(input, expect)`.
//!
//! `expect` has a line for each instruction and then one for each diagnostic. Longer cases are files in
//! `testdata/dockerfile/`, with `NAME.expect` beside `NAME`; `UPDATE_EXPECT=1` writes them anew.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;

/// Shows what a source means.
fn dump(parsed: &Parsed) -> String {
    let mut out = String::new();
    let directives = &parsed.dockerfile.directives;
    if let Some(syntax) = &directives.syntax {
        let _ = writeln!(out, "# syntax {}", syntax.text);
    }
    if directives.escape == Escape::Backtick {
        let _ = writeln!(out, "# escape `");
    }
    if directives.check != CheckOptions::default() {
        let _ = writeln!(out, "# check {:?}", directives.check);
    }
    for instruction in &parsed.dockerfile.instructions {
        let _ = writeln!(out, "{}", dump_command(&instruction.command));
    }
    let source = &parsed.dockerfile.source;
    let index = LineIndex::new(source);
    for diagnostic in &parsed.diagnostics {
        let (line, column) = index.position(source, diagnostic.span.start);
        let text = diagnostic.span.slice(source).replace('\n', "\\n").replace('\r', "\\r");
        let Diagnostic { code, message, label, help, .. } = diagnostic;
        let _ = write!(out, "{code} {line}:{column} `{text}`: {message}");
        if !label.is_empty() {
            let _ = write!(out, " [{label}]");
        }
        if let Some(help) = help {
            let _ = write!(out, " ({help})");
        }
        out.push('\n');
    }
    out
}

fn words(words: &[Word]) -> String {
    words.iter().map(|word| format!("{:?}", word.text)).collect::<Vec<_>>().join(" ")
}

fn form(form: &Form) -> String {
    match form {
        Form::Shell(word) => format!("{:?}", word.text),
        Form::Exec(list) => format!("[{}]", words(list)),
    }
}

fn heredoc(heredoc: &Heredoc) -> String {
    let Heredoc { name, content, expand, chomp, fd, .. } = heredoc;
    let fd = if *fd == 0 { String::new() } else { fd.to_string() };
    let (chomp, quote) = (if *chomp { "-" } else { "" }, if *expand { "" } else { "'" });
    format!("{fd}<<{chomp}{quote}{name}{quote} {content:?}")
}

fn dump_command(command: &Command) -> String {
    let name = command.name();
    let rest = match command {
        Command::From(from) => {
            let mut out = String::new();
            if let Some(platform) = &from.platform {
                let _ = write!(out, "platform={:?} ", platform.text);
            }
            let _ = write!(out, "{:?}", from.image.text);
            if let Some(alias) = &from.alias {
                let _ = write!(out, " as {}", alias.name);
                if let Some(doc) = &alias.doc {
                    let _ = write!(out, " # {doc}");
                }
            }
            out
        }
        Command::Run(run) => {
            let mut out = String::new();
            for mount in &run.mounts {
                let fields = mount.fields.iter().map(|field| match &field.value {
                    Some(value) => format!("{}={:?}", field.key.text, value.text),
                    None => field.key.text.clone(),
                });
                let _ = write!(out, "mount({}) ", fields.collect::<Vec<_>>().join(" "));
            }
            if let Some(network) = run.network {
                let _ = write!(out, "network={:?} ", network.value);
            }
            if let Some(security) = run.security {
                let _ = write!(out, "security={:?} ", security.value);
            }
            for device in &run.devices {
                let _ = write!(out, "device({:?} {}) ", device.name, device.required);
            }
            let heredocs = run.heredocs.iter().map(|doc| format!(" {}", heredoc(doc)));
            out + &form(&run.form) + &heredocs.collect::<String>()
        }
        Command::Copy(transfer) | Command::Add(transfer) => {
            let mut out = String::new();
            let texts = [
                ("from", &transfer.from),
                ("chown", &transfer.chown),
                ("chmod", &transfer.chmod),
                ("checksum", &transfer.checksum),
            ];
            for (name, word) in texts {
                if let Some(word) = word {
                    let _ = write!(out, "{name}={:?} ", word.text);
                }
            }
            let booleans = [
                ("link", transfer.link),
                ("parents", transfer.parents),
                ("keep-git-dir", transfer.keep_git_dir),
                ("unpack", transfer.unpack),
            ];
            for (name, flag) in booleans {
                if let Some(flag) = flag {
                    let _ = write!(out, "{name}={} ", flag.value);
                }
            }
            for word in &transfer.exclude {
                let _ = write!(out, "exclude={:?} ", word.text);
            }
            for source in &transfer.sources {
                match source {
                    Source::Path(word) => {
                        let _ = write!(out, "{:?} ", word.text);
                    }
                    Source::Heredoc(doc) => {
                        let _ = write!(out, "{} ", heredoc(doc));
                    }
                }
            }
            format!("{out}-> {:?}", transfer.destination.text)
        }
        Command::Env(pairs) | Command::Label(pairs) => {
            let pair = |pair: &KeyValue| {
                let sign = if pair.legacy { " = " } else { "=" };
                format!("{:?}{sign}{:?}", pair.key.text, pair.value.text)
            };
            pairs.iter().map(pair).collect::<Vec<_>>().join(" ")
        }
        Command::Arg(definitions) => {
            let definition = |definition: &ArgDefinition| {
                let mut out = definition.name.text.clone();
                if let Some(default) = &definition.default {
                    let _ = write!(out, "={:?}", default.text);
                }
                if let Some(doc) = &definition.doc {
                    let _ = write!(out, " # {doc}");
                }
                out
            };
            definitions.iter().map(definition).collect::<Vec<_>>().join(" ")
        }
        Command::User(word)
        | Command::Workdir(word)
        | Command::Stopsignal(word)
        | Command::Maintainer(word) => format!("{:?}", word.text),
        Command::Expose(list) | Command::Volume(list) | Command::Shell(list) => words(list),
        Command::Healthcheck(health) => match &**health {
            Healthcheck::None => "none".to_owned(),
            Healthcheck::Check {
                test,
                interval,
                timeout,
                start_period,
                start_interval,
                retries,
            } => {
                let times = [interval, timeout, start_period, start_interval];
                let times = times.map(|time| time.map_or("-".to_owned(), |ns| ns.to_string()));
                let retries = retries.map_or("-".to_owned(), |n| n.to_string());
                format!("{} {retries} {}", times.join(" "), form(test))
            }
        },
        Command::Cmd(line) | Command::Entrypoint(line) => form(line),
        Command::Onbuild(onbuild) => {
            format!("{:?} = {}", onbuild.expression, dump_command(&onbuild.instruction.command))
        }
        Command::Invalid => return "?".to_owned(),
    };
    format!("{name} {rest}").trim_end().to_owned()
}

/// Parses a source that begins with a stage of its own, unless it has one.
fn check(source: &str, expect: &str) {
    assert_eq!(dump(&parse(source.as_bytes())).trim_end(), expect, "{source}");
}

/// The same for what stands in a stage.
fn check_body(body: &str, expect: &str) {
    let got = dump(&parse(format!("FROM a\n{body}").as_bytes()));
    let got = got.strip_prefix("FROM \"a\"\n").unwrap_or(&got);
    assert_eq!(got.trim_end(), expect, "{body}");
}

#[path = "tests_language.rs"]
mod language;
#[path = "tests_trouble.rs"]
mod trouble;

/// All files of testdata/dockerfile.
#[test]
fn files() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/dockerfile");
    let entries = std::fs::read_dir(dir).expect("the directory is part of the sources");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("it can be listed").path()).collect();
    paths.retain(|path| path.extension().is_none_or(|extension| extension != "expect"));
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        let parsed = parse(&std::fs::read(&path).expect("it can be read"));
        let got = dump(&parsed);
        let expect_path = path.with_added_extension("expect");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&expect_path, &got).expect("it can be written");
        }
        let expect = std::fs::read_to_string(&expect_path).unwrap_or_default();
        assert_eq!(got, expect, "{}", path.display());
    }
}

/// Lines that are right or nearly so, to be put together at random.
const FRAGMENTS: [&str; 34] = [
    "FROM",
    "RUN",
    "COPY",
    "ENV",
    "ARG",
    "ONBUILD",
    "HEALTHCHECK",
    "CMD",
    "# escape=`",
    "#",
    "\\",
    "`",
    "\n",
    "\r\n",
    " ",
    "\t",
    "<<EOF",
    "<<-'E F'",
    "EOF",
    "[\"a\"]",
    "[1]",
    "--mount=type=cache,",
    "--from=",
    "--",
    "=",
    "\"",
    "'",
    "$X",
    "${X:-",
    "}",
    "é",
    "\u{a0}",
    "\u{feff}",
    "/x",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn never_panics_and_spans_are_within_the_source(
        pieces in prop::collection::vec(prop::sample::select(FRAGMENTS.to_vec()), 0..40),
    ) {
        let source = pieces.concat();
        let parsed = parse(source.as_bytes());
        prop_assert_eq!(&parsed.dockerfile.source, &source);
        for diagnostic in &parsed.diagnostics {
            prop_assert!(source.get(diagnostic.span.start..diagnostic.span.end).is_some(),
                "{:?}", diagnostic);
        }
        for instruction in &parsed.dockerfile.instructions {
            prop_assert!(source.get(instruction.span.start..instruction.span.end).is_some());
        }
        parse_trigger(&source);
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let parsed = parse(&bytes);
        let len = parsed.dockerfile.source.len();
        prop_assert!(len == bytes.len() || parsed.has_errors());
    }

    #[test]
    fn exec_words_round_trip(list in prop::collection::vec("\\PC{0,8}", 0..5)) {
        let json = serde_json::to_string(&list).expect("strings are JSON");
        let parsed = parse(format!("FROM a\nCMD {json}\n").as_bytes());
        let Command::Cmd(form) = &parsed.dockerfile.instructions[1].command else {
            panic!("CMD is a CMD")
        };
        prop_assert!(form.is_exec());
        prop_assert_eq!(form.words(), list);
    }

    #[test]
    fn env_values_round_trip(list in prop::collection::vec("[^\\x00\n\r]{0,8}", 1..5)) {
        let quoted = |value: &String| format!("K='{}'", value.replace('\'', "'\\''"));
        let source = format!("FROM a\nENV {}\n", list.iter().map(quoted).collect::<Vec<_>>().join(" "));
        let parsed = parse(source.as_bytes());
        let Command::Env(pairs) = &parsed.dockerfile.instructions[1].command else {
            panic!("ENV is an ENV: {:?}", parsed.diagnostics)
        };
        let values: Vec<String> = pairs
            .iter()
            .map(|pair| pair.value.expand(&expand::NoEnv, Escape::Backslash).expect("it is right").text)
            .collect();
        prop_assert_eq!(values, list);
    }

    #[test]
    fn heredoc_bodies_round_trip(lines in prop::collection::vec("[^\n\r\\x00]{0,12}", 0..6)) {
        prop_assume!(!lines.iter().any(|line| line == "END"));
        let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let parsed = parse(format!("FROM a\nRUN <<'END'\n{body}END\n").as_bytes());
        let Command::Run(run) = &parsed.dockerfile.instructions[1].command else {
            panic!("RUN is a RUN")
        };
        prop_assert_eq!(&run.heredocs[0].content, &body);
    }
}

/// The code of the only error, with its message.
fn refused(source: &[u8]) -> String {
    let parsed = parse(source);
    let errors: Vec<_> = parsed.diagnostics.iter().filter(|found| found.is_error()).collect();
    let [error] = errors[..] else { panic!("{} errors", errors.len()) };
    format!("{} {}", error.code, error.message)
}

#[test]
fn what_is_no_dockerfile_by_its_size_is_refused() {
    let million = "ARG A=1\n".repeat(1_000_000);
    assert_eq!(refused(million.as_bytes()), "E0111 there are more than 4 MiB of it");
    let args = "ARG A=1\n".repeat(100_000) + "FROM a\n";
    assert_eq!(refused(args.as_bytes()), "E0111 there are more than 20000 instructions");
    let words = format!("FROM a\nEXPOSE{}\n", " 1".repeat(100_000));
    assert_eq!(
        refused(words.as_bytes()),
        "E0111 there are more than 65536 words in one instruction"
    );
    let fields = format!("FROM a\nRUN --mount={} x\n", "a,".repeat(100_000));
    assert_eq!(
        refused(fields.as_bytes()),
        "E0111 there are more than 65536 words in one instruction"
    );
    let words = format!("FROM a\n{}", format!("LABEL{}\n", " a=b".repeat(40_000)).repeat(8));
    assert_eq!(refused(words.as_bytes()), "E0111 there are more than 262144 words and comments");
    let comments = format!("FROM a\n{}RUN b\n", "#\n".repeat(500_000));
    assert_eq!(refused(comments.as_bytes()), "E0111 there are more than 262144 words and comments");
}

#[test]
fn the_most_that_is_read_takes_linear_time() {
    let source = "ARG A=1\n".repeat(19_999) + "FROM a\n";
    let parsed = parse(source.as_bytes());
    assert_eq!(parsed.dockerfile.instructions.len(), 20_000);
    assert!(!parsed.has_errors());
    let source = format!("FROM a\nENV {}\n", "a=b ".repeat(60_000));
    let parsed = parse(source.as_bytes());
    assert!(
        matches!(&parsed.dockerfile.instructions[1].command, Command::Env(p) if p.len() == 60_000)
    );
    // Each of the names would look through all comments.
    let source = format!("{}ARG{}\nFROM a\n", "# B c\n".repeat(60_000), " A".repeat(60_000));
    assert!(!parse(source.as_bytes()).has_errors());
    let source = format!("FROM a\nRUN echo {}\n", "x<<".repeat(1 << 20));
    assert_eq!(parse(source.as_bytes()).dockerfile.instructions.len(), 2);
}

#[test]
fn many_errors_take_linear_time() {
    let parsed = parse(("FROM a\n".to_owned() + &"CMD a\n".repeat(15_000)).as_bytes());
    // Whoever has more warnings than ten thousand, or made more errors than a thousand, wants to hear of no
    // more.
    assert_eq!(parsed.diagnostics.len(), 10_000);
    let flags = format!("FROM a\nRUN {}x\n", "--mount=type=nope ".repeat(30_000));
    assert_eq!(parse(flags.as_bytes()).diagnostics.len(), 1001);
    let parsed = parse("NOPE $\n".repeat(20_000).as_bytes());
    assert!((1001..2101).contains(&parsed.diagnostics.len()), "{}", parsed.diagnostics.len());
    assert_eq!(parsed.diagnostics.last().map(|last| last.code), Some("E0110"));
}

#[test]
fn what_diagnostics_quote_is_cut() {
    let long = "é".repeat(100_000);
    for text in
        [format!("MAINTAINER {long}"), format!("EXPOSE 8{long}/TCP"), format!("ENV {long} x")]
    {
        for found in parse(format!("FROM a\n{text}\n").as_bytes()).diagnostics {
            assert!(found.message.len() < 2100 && found.help.is_none_or(|help| help.len() < 2100));
        }
    }
}

#[test]
fn deep_nesting_does_not_overflow_the_stack() {
    for body in [
        format!("RUN {}", "[".repeat(1_000_000)),
        format!("RUN echo {} <<EOF", "${A:-".repeat(500_000)),
        "ONBUILD ".repeat(60_000),
        format!("ENV A={}", "\"".repeat(1_000_001)),
    ] {
        parse(format!("FROM a\n{body}\n").as_bytes());
    }
}
