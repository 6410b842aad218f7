//! Differential tests: two independent Dockerfile parsers must read the same as ours.
//!
//! Neither knows the whole language, so each gets only the part in which it is right: parse-dockerfile
//! nearly all but heredocs in the middle of a line, comments in continuations, and words of ENV and
//! LABEL (it gives the raw text); dockerfile-parser the language of 2019. What one says is brought into
//! rows of text, `[KEYWORD, part…]`, where a part that has a place is written `text@start`.

use dockerfile_parser as old;
use lapstrake::dockerfile::{self, Command, Form, Healthcheck, Source, Transfer, Word};
use parse_dockerfile as modern;
use proptest::prelude::*;

type Rows = Vec<Vec<String>>;

fn at(text: &str, start: usize) -> String {
    format!("{text}@{start}")
}

fn place(word: &Word) -> String {
    at(&word.text, word.span.start)
}

/// Brings our own reading into rows.
fn our_rows(source: &str) -> Rows {
    let parsed = dockerfile::parse(source.as_bytes());
    assert!(!parsed.has_errors(), "{source}\n{:?}", parsed.diagnostics);
    parsed.dockerfile.instructions.iter().map(|i| our_row(&i.command)).collect()
}

fn our_row(command: &Command) -> Vec<String> {
    let mut row = vec![command.name().to_owned()];
    match command {
        Command::From(from) => {
            row.extend(from.platform.iter().map(|word| format!("platform={}", word.text)));
            row.push(place(&from.image));
            row.extend(from.alias.iter().map(|alias| format!("as {}", place(&alias.word))));
        }
        Command::Run(run) => {
            for mount in &run.mounts {
                let fields = mount.fields.iter().map(|field| match &field.value {
                    Some(value) => format!("{}={}", field.key.text, value.text),
                    None => field.key.text.clone(),
                });
                row.push(format!("mount={}", fields.collect::<Vec<_>>().join(",")));
            }
            if run.network.is_some() {
                row.push("network=none".to_owned());
            }
            if run.heredocs.is_empty() {
                our_form(&mut row, &run.form);
            }
            for heredoc in &run.heredocs {
                row.push(format!("{} {:?}", heredoc.expand, heredoc.text()));
            }
        }
        Command::Copy(transfer) | Command::Add(transfer) => our_transfer(&mut row, transfer),
        Command::Env(pairs) | Command::Label(pairs) => {
            let text =
                |pair: &dockerfile::KeyValue| format!("{}={}", pair.key.text, pair.value.text);
            row.push(pairs.iter().map(text).collect::<Vec<_>>().join(" "));
        }
        Command::Arg(definitions) => {
            let text = |definition: &dockerfile::ArgDefinition| match &definition.default {
                Some(default) => format!("{}={}", definition.name.text, default.text),
                None => definition.name.text.clone(),
            };
            row.push(definitions.iter().map(text).collect::<Vec<_>>().join(" "));
        }
        Command::User(word)
        | Command::Workdir(word)
        | Command::Stopsignal(word)
        | Command::Maintainer(word) => row.push(place(word)),
        Command::Expose(words) => row.extend(words.iter().map(place)),
        Command::Volume(words) | Command::Shell(words) => {
            row.extend(words.iter().map(|word| word.text.clone()));
        }
        Command::Healthcheck(health) => match &**health {
            Healthcheck::None => row.push("none".to_owned()),
            Healthcheck::Check { test, interval, retries, .. } => {
                row.extend(interval.map(|ns| format!("interval={}s", ns / 1_000_000_000)));
                row.extend(retries.map(|number| format!("retries={number}")));
                our_form(&mut row, test);
            }
        },
        Command::Cmd(form) | Command::Entrypoint(form) => our_form(&mut row, form),
        Command::Onbuild(onbuild) => row.extend(our_row(&onbuild.instruction.command)),
        Command::Invalid => row.push("invalid".to_owned()),
    }
    row
}

fn our_form(row: &mut Vec<String>, form: &Form) {
    match form {
        Form::Shell(word) => row.push(format!("shell {}", place(word))),
        Form::Exec(words) => row.extend(words.iter().map(|word| format!("exec {}", word.text))),
    }
}

fn our_transfer(row: &mut Vec<String>, transfer: &Transfer) {
    let texts = [
        ("from", &transfer.from),
        ("chown", &transfer.chown),
        ("chmod", &transfer.chmod),
        ("checksum", &transfer.checksum),
    ];
    for (name, word) in texts {
        row.extend(word.iter().map(|word| format!("{name}={}", word.text)));
    }
    row.extend(transfer.link.map(|_| "link".to_owned()));
    row.extend(transfer.exclude.iter().map(|word| format!("exclude={}", word.text)));
    row[1..].sort();
    for source in &transfer.sources {
        row.push(match source {
            Source::Path(word) => word.text.clone(),
            Source::Heredoc(heredoc) => format!("{} {:?}", heredoc.expand, heredoc.text()),
        });
    }
    row.push(transfer.destination.text.clone());
}

/// Brings the reading of parse-dockerfile into rows.
fn modern_rows(source: &str) -> Rows {
    let parsed = modern::parse(source).unwrap_or_else(|error| panic!("{source}\n{error}"));
    parsed.instructions.iter().map(modern_row).collect()
}

fn modern_row(instruction: &modern::Instruction<'_>) -> Vec<String> {
    use modern::Instruction as I;
    let word = |word: &modern::UnescapedString<'_>| at(&word.value, word.span.start);
    let text = |word: &modern::UnescapedString<'_>| word.value.clone().into_owned();
    let row = |name: &str| vec![name.to_owned()];
    match instruction {
        I::From(from) => {
            let mut out = row("FROM");
            modern_flags(&mut out, &from.options);
            out.push(word(&from.image));
            out.extend(from.as_.iter().map(|(_, name)| format!("as {}", word(name))));
            out
        }
        I::Run(run) => {
            let mut out = row("RUN");
            modern_flags(&mut out, &run.options);
            if run.here_docs.is_empty() {
                modern_command(&mut out, &run.arguments);
            }
            out.extend(run.here_docs.iter().map(|doc| format!("{} {:?}", doc.expand, doc.value)));
            out
        }
        I::Copy(copy) => modern_transfer(row("COPY"), &copy.options, &copy.src, &copy.dest),
        I::Add(add) => modern_transfer(row("ADD"), &add.options, &add.src, &add.dest),
        I::Env(env) => [row("ENV"), vec![text(&env.arguments)]].concat(),
        I::Label(label) => [row("LABEL"), vec![text(&label.arguments)]].concat(),
        I::Arg(arg) => [row("ARG"), vec![text(&arg.arguments)]].concat(),
        I::User(user) => [row("USER"), vec![word(&user.arguments)]].concat(),
        I::Workdir(workdir) => [row("WORKDIR"), vec![word(&workdir.arguments)]].concat(),
        I::Stopsignal(signal) => [row("STOPSIGNAL"), vec![word(&signal.arguments)]].concat(),
        I::Maintainer(name) => [row("MAINTAINER"), vec![word(&name.name)]].concat(),
        I::Expose(expose) => [row("EXPOSE"), expose.arguments.iter().map(word).collect()].concat(),
        I::Volume(volume) => {
            let words: Vec<String> = match &volume.arguments {
                modern::JsonOrStringArray::Json(list) => list.value.iter().map(text).collect(),
                modern::JsonOrStringArray::String(list) => list.iter().map(text).collect(),
            };
            [row("VOLUME"), words].concat()
        }
        I::Shell(shell) => [row("SHELL"), shell.arguments.iter().map(text).collect()].concat(),
        I::Cmd(cmd) => {
            let mut out = row("CMD");
            modern_command(&mut out, &cmd.arguments);
            out
        }
        I::Entrypoint(entrypoint) => {
            let mut out = row("ENTRYPOINT");
            modern_command(&mut out, &entrypoint.arguments);
            out
        }
        I::Healthcheck(health) => {
            let mut out = row("HEALTHCHECK");
            modern_flags(&mut out, &health.options);
            match &health.arguments {
                modern::HealthcheckArguments::Cmd { arguments, .. } => {
                    modern_command(&mut out, arguments);
                }
                _ => out.push("none".to_owned()),
            }
            out
        }
        I::Onbuild(onbuild) => [row("ONBUILD"), modern_row(&onbuild.instruction)].concat(),
        other => panic!("an instruction that is not in the sub-language: {other:?}"),
    }
}

fn modern_flags(row: &mut Vec<String>, flags: &[modern::Flag<'_>]) {
    for flag in flags {
        row.push(match &flag.value {
            Some(value) => format!("{}={}", flag.name.value, value.value),
            None => flag.name.value.clone().into_owned(),
        });
    }
}

fn modern_command(row: &mut Vec<String>, command: &modern::Command<'_>) {
    match command {
        modern::Command::Exec(words) => {
            row.extend(words.value.iter().map(|word| format!("exec {}", word.value)));
        }
        modern::Command::Shell(text) => {
            row.push(format!("shell {}", at(text.value, text.span.start)));
        }
        other => panic!("a command that is not in the sub-language: {other:?}"),
    }
}

fn modern_transfer(
    mut row: Vec<String>,
    flags: &[modern::Flag<'_>],
    sources: &[modern::Source<'_>],
    destination: &modern::UnescapedString<'_>,
) -> Vec<String> {
    modern_flags(&mut row, flags);
    row[1..].sort();
    for source in sources {
        row.push(match source {
            modern::Source::Path(path) => path.value.clone().into_owned(),
            modern::Source::HereDoc(doc) => format!("{} {:?}", doc.expand, doc.value),
            other => panic!("a source that is not in the sub-language: {other:?}"),
        });
    }
    row.push(destination.value.clone().into_owned());
    row
}

/// Brings the reading of dockerfile-parser into rows.
fn old_rows(source: &str) -> Rows {
    let parsed = old::Dockerfile::parse(source).unwrap_or_else(|error| panic!("{source}\n{error}"));
    parsed.instructions.iter().map(old_row).collect()
}

fn old_row(instruction: &old::Instruction) -> Vec<String> {
    use old::Instruction as I;
    let word = |word: &old::SpannedString| at(&word.content, word.span.start);
    let row = |name: &str, parts: Vec<String>| [vec![name.to_owned()], parts].concat();
    let expression = |expression: &old::ShellOrExecExpr| match expression {
        old::ShellOrExecExpr::Shell(text) => {
            vec![format!("shell {}", at(&text.to_string(), text.span.start))]
        }
        old::ShellOrExecExpr::Exec(list) => {
            list.elements.iter().map(|word| format!("exec {}", word.content)).collect()
        }
    };
    match instruction {
        I::From(from) => {
            let mut out = row("FROM", vec![]);
            out.extend(
                from.flags.iter().map(|f| format!("{}={}", f.name.content, f.value.content)),
            );
            out.push(word(&from.image));
            out.extend(from.alias.iter().map(|alias| format!("as {}", word(alias))));
            out
        }
        I::Arg(arg) => row(
            "ARG",
            vec![match &arg.value {
                Some(value) => format!("{}={}", arg.name.content, value.content),
                None => arg.name.content.clone(),
            }],
        ),
        I::Label(label) => {
            let text =
                |label: &old::Label| format!("{}={}", label.name.content, label.value.content);
            row("LABEL", vec![label.labels.iter().map(text).collect::<Vec<_>>().join(" ")])
        }
        I::Env(env) => {
            let text = |var: &old::EnvVar| format!("{}={}", var.key.content, var.value);
            row("ENV", vec![env.vars.iter().map(text).collect::<Vec<_>>().join(" ")])
        }
        I::Run(run) => row("RUN", expression(&run.expr)),
        I::Cmd(cmd) => row("CMD", expression(&cmd.expr)),
        I::Entrypoint(entrypoint) => row("ENTRYPOINT", expression(&entrypoint.expr)),
        I::Copy(copy) => {
            let flags =
                copy.flags.iter().map(|f| format!("{}={}", f.name.content, f.value.content));
            let mut flags: Vec<String> = flags.collect();
            flags.sort();
            let mut out = row("COPY", flags);
            out.extend(copy.sources.iter().map(|source| source.content.clone()));
            out.push(copy.destination.content.clone());
            out
        }
        I::Misc(misc) => {
            // It leaves the blank behind the keyword in.
            let text = misc.arguments.to_string();
            let start = misc.arguments.span.start + text.len() - text.trim_start().len();
            let text = text.trim_start().to_owned();
            row(&misc.instruction.content.to_uppercase(), vec![at(&text, start)])
        }
    }
}

/// A word without blanks, quotes and escapes, which is no flag and no number.
const WORD: &str = "[a-z/$][a-z0-9./_:$-]{0,7}";

fn words(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(WORD, count)
}

fn json(words: &[String]) -> String {
    serde_json::to_string(words).expect("strings are JSON").replace("\",\"", "\", \"")
}

/// A command line in shell or JSON form; in continued lines for those who can.
fn command() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z$][a-z0-9 ./_:$'&|;-]{0,20}[a-z0-9]",
        words(1..4).prop_map(|words| json(&words)),
    ]
}

/// An instruction that all three read.
fn common() -> impl Strategy<Value = String> {
    prop_oneof![
        command().prop_map(|text| format!("RUN {text}")),
        command().prop_map(|text| format!("CMD {text}")),
        command().prop_map(|text| format!("ENTRYPOINT {text}")),
        words(2..4).prop_map(|words| format!("COPY {}", words.join(" "))),
        (WORD, words(2..3)).prop_map(|(user, words)| {
            format!("COPY --from=base --chown={} {}", user.replace('$', "u"), words.join(" "))
        }),
        ("[A-Z]{1,4}", "[a-z0-9]{1,5}").prop_map(|(key, value)| format!("ENV {key}={value} Z=1")),
        ("[A-Z]{1,4}", "[a-z0-9]{1,5}").prop_map(|(key, value)| format!("ARG {key}={value}")),
        "[A-Z]{1,4}".prop_map(|key| format!("ARG {key}")),
        ("[a-z.]{1,6}", "[a-z0-9]{1,5}").prop_map(|(key, value)| format!("LABEL {key}={value}")),
        WORD.prop_map(|word| format!("USER {word}")),
        WORD.prop_map(|word| format!("WORKDIR {word}")),
        Just("STOPSIGNAL SIGTERM".to_owned()),
        "[a-z]{1,6} [a-z]{1,6}".prop_map(|name| format!("MAINTAINER {name}")),
    ]
}

/// An instruction of today's language.
fn current() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => common(),
        1 => (WORD, command()).prop_map(|(target, text)| {
            format!("RUN --mount=type=cache,target=/m{target} --network=none {text}")
        }),
        1 => ("[A-Z]{1,3}", "([ a-z$#\"']{0,8}\n){0,3}").prop_map(|(name, body)| {
            format!("RUN <<{name}\n{body}{name}")
        }),
        1 => ("[A-Z]{1,3}", "([ a-z$#\"']{0,8}\n){0,3}").prop_map(|(name, body)| {
            format!("COPY <<'{name}' /x\n{body}{name}")
        }),
        1 => words(2..4).prop_map(|words| format!("ADD --link --chmod=644 {}", json(&words))),
        1 => words(2..4).prop_map(|words| {
            format!("ADD --checksum=sha256:00 --exclude=*.o {}", words.join(" "))
        }),
        1 => prop::collection::vec("[1-9][0-9]{0,3}(/udp)?", 1..4).prop_map(|ports| {
            format!("EXPOSE {}", ports.join(" "))
        }),
        1 => words(1..4).prop_map(|words| format!("VOLUME {}", words.join(" "))),
        1 => words(1..4).prop_map(|words| format!("VOLUME {}", json(&words))),
        1 => words(1..4).prop_map(|words| format!("SHELL {}", json(&words))),
        1 => command().prop_map(|text| format!("HEALTHCHECK --interval=5s --retries=2 CMD {text}")),
        1 => Just("HEALTHCHECK NONE".to_owned()),
        1 => common().prop_filter("cannot be triggered", |text| !text.starts_with("MAINTAINER"))
            .prop_map(|text| format!("ONBUILD {text}")),
    ]
}

fn file(body: &[String], gap: &str, platform: bool) -> String {
    let platform = if platform { "--platform=$BUILDPLATFORM " } else { "" };
    let mut source = format!("FROM {platform}busybox:1.37 AS base\n");
    for line in body {
        source.push_str(gap);
        source.push_str(line);
        source.push('\n');
    }
    source.push_str("FROM base\nUSER app\n");
    source
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn parse_dockerfile_reads_the_same(
        body in prop::collection::vec(current(), 0..8),
        gap in prop::sample::select(vec!["", "\n", "  ", "\t", "# c\n", "\n  # c\n"]),
    ) {
        let source = file(&body, gap, true);
        prop_assert_eq!(our_rows(&source), modern_rows(&source), "{}", source);
    }

    #[test]
    fn dockerfile_parser_reads_the_same(
        body in prop::collection::vec(common(), 0..8),
        gap in prop::sample::select(vec!["", "\n", "# c\n"]),
    ) {
        let source = file(&body, gap, false);
        prop_assert_eq!(our_rows(&source), old_rows(&source), "{}", source);
    }

    /// Continued lines and CRLF, where the raw text differs but not what it means.
    #[test]
    fn line_ends_and_continuations_do_not_matter(body in prop::collection::vec(common(), 0..8)) {
        let bare = |source: &str| -> Rows {
            let strip = |part: String| part.split('@').next().unwrap_or_default().to_owned();
            our_rows(source).into_iter().map(|row| row.into_iter().map(strip).collect()).collect()
        };
        let source = file(&body, "", true);
        prop_assert_eq!(bare(&source), bare(&source.replace('\n', "\r\n")));
        let continued: String = source.lines().map(|line| line.replacen(' ', " \\\n# c\n ", 1) + "\n").collect();
        prop_assert_eq!(bare(&source), bare(&continued));
    }
}
