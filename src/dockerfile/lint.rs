//! The checks that need nothing but the file.
//!
//! Left to `graph::check`, which knows values of variables and base images: UndefinedVar,
//! UndefinedArgInFrom, InvalidDefaultArgInFrom, InvalidBaseImagePlatform, and the EXPOSE and WORKDIR
//! checks of words with variables; and to `build::advice`, which knows the context: CopyIgnoredFile.
//! All stages are looked at here. BuildKit checks most things only in the stages that it builds;
//! `graph::check::settle` takes out what was found in others.
//!
//! Start reading at [`run`].

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use super::ast::{
    ArgDefinition, Command, Dockerfile, Form, FromImage, Instruction, KeyValue, Stage,
};
use super::check::{CheckOptions, Rule};
use super::diagnostic::Diagnostic;
use super::expand::{NoEnv, expand_words};
use super::instruction::shorten;
use super::parser::MOST_WARNINGS;
use super::span::{LineIndex, Span};
use super::value::parse_port;

/// Names that look like secrets, as whole words between underscores, in any case.
const SECRET_WORDS: [&str; 10] = [
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "password",
    "pword",
    "passwd",
    "secret",
    "token",
];

/// Words that make such a name harmless.
const HARMLESS_WORDS: [&str; 3] = ["public", "file", "version"];

/// Says whether a variable's name looks like that of a secret.
pub fn is_secret_name(name: &str) -> bool {
    let lower = name.to_lowercase();
    let has = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
    has(&SECRET_WORDS) && !has(&HARMLESS_WORDS)
}

/// Runs all checks.
pub fn run(dockerfile: &Dockerfile) -> Vec<Diagnostic> {
    let options = &dockerfile.directives.check;
    let mut linter = Linter { options, diagnostics: Vec::new() };
    linter.keyword_casing(dockerfile);
    for instruction in &dockerfile.instructions {
        linter.instruction(instruction);
    }
    let stages = dockerfile.stages();
    linter.stage_names(&stages);
    linter.stage_bodies(&stages, &dockerfile.source);
    linter.diagnostics
}

struct Linter<'a> {
    options: &'a CheckOptions,
    diagnostics: Vec<Diagnostic>,
}

impl Linter<'_> {
    fn report(&mut self, on: &Instruction, rule: Rule, span: Span, message: String) {
        self.report_with(on, rule, span, message, None);
    }

    fn report_with(
        &mut self,
        on: &Instruction,
        rule: Rule,
        span: Span,
        message: String,
        help: Option<String>,
    ) {
        let allowed = match on.check.as_deref() {
            Some(local) => self.options.merged(Some(local)).allows(rule),
            None => self.options.allows(rule),
        };
        if allowed && self.diagnostics.len() < MOST_WARNINGS {
            let diagnostic = Diagnostic::lint(rule, span, message);
            self.diagnostics.push(match help {
                Some(help) => diagnostic.with_help(help),
                None => diagnostic,
            });
        }
    }

    fn keyword_casing(&mut self, dockerfile: &Dockerfile) {
        // ARGs before FROM do not count, as in BuildKit.
        let preamble = dockerfile.preamble().len();
        let known = dockerfile.instructions[preamble..]
            .iter()
            .filter(|instruction| !matches!(instruction.command, Command::Invalid));
        let (mut lower, mut upper) = (0_usize, 0_usize);
        let mut all = 0;
        for instruction in known.clone() {
            let keyword = instruction.keyword();
            lower += usize::from(!keyword.contains(char::is_uppercase));
            upper += usize::from(!keyword.contains(char::is_lowercase));
            all += 1;
        }
        // As in nearly all files: then none stands out, and they need not be looked at again.
        if lower.max(upper) == all {
            return;
        }
        for instruction in known {
            let keyword = instruction.keyword();
            let stands_out = match lower > upper {
                true => keyword.contains(char::is_uppercase),
                false => keyword.contains(char::is_lowercase),
            };
            if stands_out {
                let (wanted, case) = match lower > upper {
                    true => (keyword.to_lowercase(), "lower"),
                    false => (keyword.to_uppercase(), "upper"),
                };
                let message = format!("`{keyword}` stands out: most keywords are in {case} case");
                let help = Some(format!("write `{wanted}`"));
                let (rule, span) = (Rule::ConsistentInstructionCasing, instruction.keyword_span);
                self.report_with(instruction, rule, span, message, help);
            }
        }
    }

    fn instruction(&mut self, instruction: &Instruction) {
        match &instruction.command {
            Command::From(from) => self.from(instruction, from),
            Command::Maintainer(name) => {
                let message = "MAINTAINER is deprecated".to_owned();
                let text = name.text.trim_matches('"');
                let help = format!("write `LABEL org.opencontainers.image.authors={text:?}`");
                let span = instruction.keyword_span;
                let rule = Rule::MaintainerDeprecated;
                self.report_with(instruction, rule, span, message, Some(help));
            }
            Command::Env(pairs) => {
                self.legacy(instruction, pairs);
                let keys = pairs.iter().map(|pair| &pair.key);
                keys.for_each(|key| self.secret(instruction, &key.text, key.span));
            }
            Command::Label(pairs) => self.legacy(instruction, pairs),
            Command::Arg(definitions) => self.arg(instruction, definitions),
            Command::Expose(words) => {
                for word in words.iter().filter(|word| !word.text.contains('$')) {
                    self.expose(instruction, &word.text, word.span);
                }
            }
            _ => {}
        }
    }

    fn from(&mut self, instruction: &Instruction, from: &FromImage) {
        if let Some(alias) = &from.alias {
            if alias.word.text != alias.name {
                let message = format!("the stage name `{}` is not lower case", alias.word.text);
                let help = Some(format!("write `{}`", alias.name));
                let span = alias.word.span;
                self.report_with(instruction, Rule::StageNameCasing, span, message, help);
            }
            let keyword = instruction.keyword();
            let wanted = match keyword {
                _ if keyword == keyword.to_lowercase() => "as",
                _ if keyword == keyword.to_uppercase() => "AS",
                _ => alias.keyword.text.as_str(),
            };
            if alias.keyword.text != wanted {
                let message = format!("`{keyword}` and `{}` differ in case", alias.keyword.text);
                let help = Some(format!("write `{wanted}`"));
                let span = alias.keyword.span;
                self.report_with(instruction, Rule::FromAsCasing, span, message, help);
            }
            self.description(instruction, "FROM", &[&alias.name]);
        }
        let Some(platform) = &from.platform else { return };
        let text = platform.text.as_str();
        if is_target_platform(text) {
            let message = "the target platform is the default".to_owned();
            let help = Some("leave `--platform` out".to_owned());
            let span = platform.span;
            self.report_with(instruction, Rule::RedundantTargetPlatform, span, message, help);
        } else if !text.contains('$') {
            let name = from.alias.as_ref().map_or("", |alias| alias.name.as_str());
            let mut parts = text.split('/').take(2).filter(|part| !part.is_empty());
            if !parts.any(|part| name.contains(part) || name.contains(usual_name(part))) {
                let message = format!("the platform `{text}` is fixed, whatever is built for");
                let rule = Rule::FromPlatformFlagConstDisallowed;
                self.report(instruction, rule, platform.span, message);
            }
        }
    }

    fn arg(&mut self, instruction: &Instruction, definitions: &[ArgDefinition]) {
        for definition in definitions {
            self.secret(instruction, &definition.name.text, definition.name.span);
        }
        let names: Vec<&str> = definitions.iter().map(|d| d.name.text.as_str()).collect();
        self.description(instruction, "ARG", &names);
    }

    /// The last comment above FROM and ARG should describe a name that is defined there.
    fn description(&mut self, instruction: &Instruction, keyword: &str, names: &[&str]) {
        let Some(comment) = instruction.comments.last() else { return };
        let first = comment.text.split(' ').next().unwrap_or_default();
        if !names.contains(&first) {
            let name = if let [name] = names { name } else { "NAME" };
            let message = format!("this comment above {keyword} does not describe `{name}`");
            let help = Some(format!(
                "begin it with `# {name} `, or put an empty comment between it and {keyword}"
            ));
            let rule = Rule::InvalidDefinitionDescription;
            self.report_with(instruction, rule, comment.span, message, help);
        }
    }

    fn legacy(&mut self, instruction: &Instruction, pairs: &[KeyValue]) {
        if let Some(pair) = pairs.iter().find(|pair| pair.legacy) {
            let name = instruction.command.name();
            let message = format!("`{name} key value` is the old form");
            let help = Some(format!("write `{name} {}=…`", pair.key.text));
            let span = pair.key.span.to(pair.value.span);
            self.report_with(instruction, Rule::LegacyKeyValueFormat, span, message, help);
        }
    }

    fn secret(&mut self, instruction: &Instruction, key: &str, span: Span) {
        if is_secret_name(key) {
            let name = instruction.command.name();
            let message = format!("`{key}` looks like a secret, and {name} keeps it in the image");
            let help = Some("use `RUN --mount=type=secret,id=…` instead".to_owned());
            self.report_with(instruction, Rule::SecretsUsedInArgOrEnv, span, message, help);
        }
    }

    fn expose(&mut self, instruction: &Instruction, word: &str, span: Span) {
        let escape = super::ast::Escape::Backslash;
        let words = expand_words(word, &NoEnv, escape).map(|expanded| expanded.words);
        // It may hold any number of ports, and is named for each.
        let word = shorten(word);
        for port in words.unwrap_or_default().iter().filter_map(|port| parse_port(port).ok()) {
            if port.odd_casing {
                let message = format!("the protocol in `{word}` is not lower case");
                self.report(instruction, Rule::ExposeProtoCasing, span, message);
            }
            if port.host_part {
                let message = format!("`{word}` names more than a port of the container");
                let help = Some("host ports and addresses are given when it is run".to_owned());
                self.report_with(instruction, Rule::ExposeInvalidFormat, span, message, help);
            }
        }
    }

    fn stage_names(&mut self, stages: &[Stage<'_>]) {
        let mut names = BTreeSet::new();
        for stage in stages {
            let Some(alias) = &stage.from.alias else { continue };
            if matches!(alias.name.as_str(), "scratch" | "context") {
                let message = format!("the name `{}` is reserved", alias.name);
                let span = alias.word.span;
                self.report(stage.instruction, Rule::ReservedStageName, span, message);
            }
            if !names.insert(alias.name.as_str()) {
                let message = format!("another stage is named `{}` too", alias.name);
                let span = alias.word.span;
                self.report(stage.instruction, Rule::DuplicateStageName, span, message);
            }
        }
    }

    fn stage_bodies(&mut self, stages: &[Stage<'_>], source: &str) {
        // Hardly ever needed.
        let lines = OnceCell::new();
        // What a stage hands down to those that are built on it.
        let mut facts: BTreeMap<String, Facts> = BTreeMap::new();
        for stage in stages {
            let base = stage.from.image.text.to_lowercase();
            let mut fact = facts.get(&base).copied().unwrap_or_default();
            let mut last: BTreeMap<&str, usize> = BTreeMap::new();
            for (at, instruction) in stage.body.iter().enumerate() {
                let command = &instruction.command;
                let name = command.name();
                if matches!(name, "CMD" | "ENTRYPOINT" | "HEALTHCHECK")
                    && let Some(before) = last.insert(name, at)
                {
                    let before = &stage.body[before];
                    let lines = lines.get_or_init(|| LineIndex::new(source));
                    let line = lines.line(instruction.span.start);
                    let message =
                        format!("this {name} is without effect: one on line {line} follows");
                    let rule = Rule::MultipleInstructionsDisallowed;
                    self.report(before, rule, before.keyword_span, message);
                }
                self.body_instruction(instruction, &mut fact);
            }
            if let Some(name) = stage.name() {
                facts.insert(name.to_owned(), fact);
            }
        }
    }

    fn body_instruction(&mut self, instruction: &Instruction, fact: &mut Facts) {
        match &instruction.command {
            Command::Shell(_) => fact.shell = true,
            Command::Workdir(path) => {
                let text = path.text.trim_start_matches(['"', '\'']);
                let relative = !text.starts_with(['/', '\\', '$']) && !text.contains(":\\");
                if relative && !fact.workdir {
                    let message = format!("`{}` begins wherever the base image ends", path.text);
                    let help = Some("write an absolute path".to_owned());
                    let rule = Rule::WorkdirRelativePath;
                    self.report_with(instruction, rule, path.span, message, help);
                }
                fact.workdir = true;
            }
            Command::Cmd(Form::Shell(word)) | Command::Entrypoint(Form::Shell(word))
                if !fact.shell =>
            {
                let name = instruction.command.name();
                let message = format!("signals do not reach the command of this {name}");
                let help =
                    Some(format!("write a JSON array: `{name} [\"program\", \"argument\"]`"));
                let rule = Rule::JsonArgsRecommended;
                self.report_with(instruction, rule, word.span, message, help);
            }
            _ => {}
        }
    }
}

/// Says whether a word is the target platform and nothing else, as `${TARGETPLATFORM:-…}` is too.
fn is_target_platform(text: &str) -> bool {
    const VALUE: &str = "os/arch";
    let env = vec![("TARGETPLATFORM".to_owned(), VALUE.to_owned())];
    let expanded = expand_words(text, &env, super::ast::Escape::Backslash);
    expanded.is_ok_and(|word| word.text == VALUE && word.used.len() == 1 && word.unset.is_empty())
}

/// Gives the name that platforms use for an architecture which other programs name otherwise.
fn usual_name(part: &str) -> &str {
    match part {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "armhf" | "armel" => "arm",
        "i386" | "i486" | "i586" | "i686" => "386",
        other => other,
    }
}

/// What is known of a stage at its end.
#[derive(Debug, Clone, Copy, Default)]
struct Facts {
    shell: bool,
    workdir: bool,
}
