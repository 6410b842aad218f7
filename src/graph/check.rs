//! The checks that need stages, values of variables or base images.
//!
//! The parser's own checks look at the file alone, at all of it. Here is what planning adds:
//! UndefinedVar, UndefinedArgInFrom, InvalidDefaultArgInFrom, InvalidBaseImagePlatform, and the
//! EXPOSE and WORKDIR checks of words with variables (BuildKit: `dockerfile2llb/validations.go`).
//!
//! BuildKit runs most checks only in the stages that it builds. [`settle`] brings the parser's
//! findings in line with that, and puts them together with planning's.
//!
//! Start reading at [`instruction`].

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::dockerfile::expand::{Env, expand_heredoc, expand_words};
use crate::dockerfile::value::parse_port;
use crate::dockerfile::{
    Command, Diagnostic, Dockerfile, Instruction, KeyValue, Rule, Source, Span, Stage, Transfer,
    Word, suggest,
};
use crate::oci::{Platform, Reference};

use super::plan::{Base, Planner};
use super::stage::StageState;
use super::variables::Table;
use super::{BaseImage, UNKNOWN, args};

/// What planning learned that decides about findings of the file alone.
#[derive(Debug, Default)]
pub struct Facts {
    /// The stages that were planned, by number.
    pub reached: BTreeSet<usize>,
    /// Of these, the ones whose base image has a SHELL of its own.
    shells: BTreeSet<usize>,
}

impl Facts {
    pub(super) fn reach(&mut self, stage: usize, base: &Base, images: &[BaseImage]) {
        self.reached.insert(stage);
        let has_shell = |image: &usize| {
            images[*image].config.config.shell.as_ref().is_some_and(|shell| !shell.is_empty())
        };
        if matches!(base, Base::Image(image) if has_shell(image)) {
            self.shells.insert(stage);
        }
    }
}

/// Puts the findings of the parser and of planning together: those of stages that are not built go,
/// and so do repetitions (several platforms say the same). In the order of the source.
pub fn settle(
    dockerfile: &Dockerfile,
    parsed: Vec<Diagnostic>,
    facts: &Facts,
    planned: Vec<Diagnostic>,
) -> Vec<Diagnostic> {
    let stages = dockerfile.stages();
    let stage_at = |at: usize| {
        stages.iter().rev().find(|stage| stage.instruction.span.start <= at).map(|s| s.index)
    };
    let counts = |found: &Diagnostic| {
        let Some(rule) = found.rule else { return true };
        if !is_of_stages(rule) {
            return true;
        }
        // What stands before the first FROM ends in no image.
        let Some(stage) = stage_at(found.span.start) else { return false };
        facts.reached.contains(&stage)
            && !(rule == Rule::JsonArgsRecommended && has_shell(&stages, facts, stage))
    };
    let mut all: Vec<Diagnostic> = parsed.into_iter().filter(counts).collect();
    for found in planned {
        if !all.contains(&found) {
            all.push(found);
        }
    }
    all.sort_by_key(|found| found.span.start);
    all
}

/// Says whether BuildKit makes this check only where it builds.
fn is_of_stages(rule: Rule) -> bool {
    matches!(
        rule,
        Rule::JsonArgsRecommended
            | Rule::WorkdirRelativePath
            | Rule::MultipleInstructionsDisallowed
            | Rule::LegacyKeyValueFormat
            | Rule::SecretsUsedInArgOrEnv
            | Rule::ExposeProtoCasing
            | Rule::ExposeInvalidFormat
    )
}

/// Says whether a stage has a SHELL from the image at its bottom.
fn has_shell(stages: &[Stage<'_>], facts: &Facts, stage: usize) -> bool {
    let mut next = Some(stage);
    while let Some(stage) = next {
        if facts.shells.contains(&stage) {
            return true;
        }
        let base = stages[stage].from.image.text.to_lowercase();
        next = stages[..stage]
            .iter()
            .rev()
            .find(|earlier| earlier.name() == Some(base.as_str()))
            .map(|earlier| earlier.index);
    }
    false
}

/// Checks what all FROMs say, against the global ARGs with and without the given values.
pub(super) fn froms(planner: &mut Planner<'_>, target: &Platform) {
    let escape = planner.dockerfile.directives.escape;
    let mut found = Vec::new();
    // A broken default is an error of planning; there is nothing to add to it.
    let (Ok(given), Ok(defaults)) = (
        planner.global_args_with(target, &planner.request.build_args),
        planner.global_args_with(target, &BTreeMap::new()),
    ) else {
        return;
    };
    let declared = planner.dockerfile.global_args().map(|(_, arg)| arg.name.text.as_str());
    let known: Vec<&str> = declared.chain(given.iter().map(|(name, _)| name.as_str())).collect();
    for stage in &planner.stages {
        let mut report = |rule: Rule, finding: Diagnostic| {
            if planner.dockerfile.allows(rule, Some(stage.instruction)) {
                found.push(finding);
            }
        };
        for word in std::iter::once(&stage.from.image).chain(&stage.from.platform) {
            let Ok(expanded) = word.expand(&given, escape) else { continue };
            for name in expanded.unset.iter().filter(|name| !known.contains(&name.as_str())) {
                let rule = Rule::UndefinedArgInFrom;
                let message = format!("no ARG above the first FROM declares `{name}`");
                let help = match suggest(name, known.iter().copied(), false) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("write `ARG {name}=…` above the first FROM"),
                };
                report(
                    rule,
                    Diagnostic::lint(rule, variable_span(planner.dockerfile, word, name), message)
                        .with_help(help),
                );
            }
        }
        let image = &stage.from.image;
        let Ok(expanded) = image.expand(&defaults, escape) else { continue };
        if !is_image_name(&expanded.text, &planner.stages[..stage.index]) {
            let rule = Rule::InvalidDefaultArgInFrom;
            let name = expanded.text;
            let message = match name.as_str() {
                "" => format!("without build arguments, `{}` is empty", image.text),
                _ => format!("without build arguments, `{}` is `{name}`, no image", image.text),
            };
            report(
                rule,
                Diagnostic::lint(rule, image.span, message)
                    .with_help("give the ARG a default that makes a valid image name"),
            );
        }
    }
    planner.graph.warnings.append(&mut found);
}

/// Says whether a text can name a base: an image, an earlier stage, or a layout or archive.
fn is_image_name(name: &str, earlier: &[Stage<'_>]) -> bool {
    let local = ["oci:", "oci-archive:", "docker-archive:", "docker://", "dir:"];
    let lower = name.to_lowercase();
    local.iter().any(|scheme| name.starts_with(scheme))
        || earlier.iter().any(|stage| stage.name() == Some(lower.as_str()))
        || name.parse::<Reference>().is_ok()
}

/// Gives the platform that programs of a base image run on, whatever was asked for, and warns when
/// that is another.
pub(super) fn base_platform(
    planner: &mut Planner<'_>,
    stage: usize,
    image: usize,
    expected: &Arc<Platform>,
) -> Arc<Platform> {
    let base = &planner.graph.images[image];
    let config = &base.config;
    let differs = config.architecture != expected.architecture || config.os != expected.os;
    if !differs || config.architecture.is_empty() {
        return expected.clone();
    }
    let platform = Arc::new(base.platform.clone());
    let rule = Rule::InvalidBaseImagePlatform;
    let stage = &planner.stages[stage];
    if base.handle != UNKNOWN && planner.dockerfile.allows(rule, Some(stage.instruction)) {
        let message = format!(
            "base image {} was pulled with platform {:?}, expected {:?}",
            base.name,
            platform.to_string(),
            expected.to_string()
        );
        planner.graph.warnings.push(Diagnostic::lint(rule, stage.from.image.span, message));
    }
    platform
}

/// Checks one instruction against the stage as it is before it.
pub(super) fn instruction(
    planner: &mut Planner<'_>,
    state: &StageState,
    instruction: &Instruction,
) {
    let dockerfile = planner.dockerfile;
    // Most instructions have no variables, and nothing to be looked at here.
    let may_have = match &instruction.command {
        Command::Copy(_) | Command::Add(_) => true,
        Command::Run(run) => !run.mounts.is_empty(),
        _ => instruction.original.contains('$'),
    };
    if !may_have {
        return;
    }
    let mut found = Vec::new();
    let unknown_base = state.base.is_some_and(|base| planner.graph.images[base].handle == UNKNOWN);
    if dockerfile.allows(Rule::UndefinedVar, Some(instruction)) && !unknown_base {
        undefined(dockerfile, &planner.request.build_args, state, instruction, &mut found);
    }
    match &instruction.command {
        Command::Expose(words) => expose(dockerfile, state, instruction, words, &mut found),
        Command::Workdir(path)
            if !state.workdir_set
                && path.text.trim_start_matches(['"', '\'']).starts_with('$')
                && dockerfile.allows(Rule::WorkdirRelativePath, Some(instruction)) =>
        {
            let expanded = path.expand(&state.env, dockerfile.directives.escape);
            if let Ok(text) = expanded.map(|expanded| expanded.text)
                && !text.starts_with('/')
            {
                let message = format!("`{text}` begins wherever the base image ends");
                found.push(
                    Diagnostic::lint(Rule::WorkdirRelativePath, path.span, message)
                        .with_help("write an absolute path"),
                );
            }
        }
        _ => {}
    }
    planner.graph.warnings.append(&mut found);
}

/// Finds variables that nothing defines (BuildKit: `reportUnmatchedVariables`).
fn undefined(
    dockerfile: &Dockerfile,
    build_args: &BTreeMap<String, String>,
    state: &StageState,
    instruction: &Instruction,
    found: &mut Vec<Diagnostic>,
) {
    let escape = dockerfile.directives.escape;
    let mut scope = Scope {
        env: &state.env,
        own: Vec::new(),
        args: &state.build_args,
        declared: Vec::new(),
        missed: Cell::new(false),
    };
    let mut look = |word: &Word, scope: &Scope<'_>| {
        // There are thousands of words. Most have no variable, nearly all others have what is defined, and
        // only then names must be told.
        scope.missed.set(false);
        let is_defined = |word: &Word| word.text_in(scope, escape).is_ok() && !scope.missed.get();
        if word.text.contains('$')
            && !is_defined(word)
            && let Ok(expanded) = word.expand(scope, escape)
        {
            scope.report(dockerfile, word, &expanded.unset, found);
        }
    };
    match &instruction.command {
        Command::Env(pairs) | Command::Label(pairs) => {
            for KeyValue { key, value, .. } in pairs {
                look(key, &scope);
                look(value, &scope);
            }
        }
        Command::User(word) | Command::Workdir(word) | Command::Stopsignal(word) => {
            look(word, &scope);
        }
        Command::Volume(words) => words.iter().for_each(|word| look(word, &scope)),
        Command::Arg(definitions) => {
            // Each name is known to the next.
            for (number, definition) in definitions.iter().enumerate() {
                let name = &definition.name.text;
                let is_last = number + 1 == definitions.len();
                if let Some(default) = &definition.default
                    && !build_args.contains_key(name)
                {
                    look(default, &scope);
                    if !is_last {
                        let value = default.text_in(&scope, escape).unwrap_or_default();
                        let value = value.into_owned();
                        scope.own.push((name.clone(), value));
                    }
                }
                scope.declared.push(name.clone());
            }
        }
        Command::Copy(transfer) | Command::Add(transfer) => {
            for word in words_of(transfer) {
                look(word, &scope);
            }
            for source in &transfer.sources {
                if let Source::Heredoc(heredoc) = source
                    && heredoc.expand
                    && let Ok(expanded) = expand_heredoc(&heredoc.text(), &scope)
                {
                    let place = Word::new(heredoc.content.clone(), heredoc.content_span);
                    scope.report(dockerfile, &place, &expanded.unset, found);
                }
            }
        }
        Command::Run(run) => {
            let fields = run.mounts.iter().flat_map(|mount| &mount.fields);
            fields.filter_map(|field| field.value.as_ref()).for_each(|word| look(word, &scope));
        }
        _ => {}
    }
}

/// The words of a COPY or ADD that are expanded.
fn words_of(transfer: &Transfer) -> impl Iterator<Item = &Word> {
    let paths = transfer.sources.iter().filter_map(|source| match source {
        Source::Path(word) => Some(word),
        Source::Heredoc(_) => None,
    });
    paths
        .chain(std::iter::once(&transfer.destination))
        .chain(&transfer.chown)
        .chain(&transfer.chmod)
        .chain(&transfer.checksum)
}

/// What an instruction can see.
struct Scope<'a> {
    env: &'a Table,
    /// What the instruction itself has set so far.
    own: Vec<(String, String)>,
    /// ARGs above, also those without a value.
    args: &'a [(String, Option<String>)],
    /// ARGs of this instruction.
    declared: Vec<String>,
    /// Something was asked for that has no value.
    missed: Cell<bool>,
}

impl Env for Scope<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        let value = Env::get(&self.own, name).or_else(|| self.env.get(name));
        self.missed.set(self.missed.get() || value.is_none());
        value
    }
}

impl Scope<'_> {
    fn report(
        &self,
        dockerfile: &Dockerfile,
        word: &Word,
        unset: &BTreeSet<String>,
        found: &mut Vec<Diagnostic>,
    ) {
        for name in unset {
            let is_declared =
                self.declared.contains(name) || self.args.iter().any(|(arg, _)| arg == name);
            if is_declared || args::NOT_EXPORTED.contains(&name.as_str()) {
                continue;
            }
            let own = self.own.iter().map(|(name, _)| name.as_str());
            let known = self.env.list().iter().map(|(name, _)| name).chain(own);
            let span = variable_span(dockerfile, word, name);
            let finding = Diagnostic::lint(
                Rule::UndefinedVar,
                span,
                format!("nothing defines the variable `{name}`"),
            );
            let finding = match suggest(name, known, false) {
                Some(near) => finding.with_help(format!("did you mean `${near}`?")),
                None => finding.with_help(format!(
                    "declare it in this stage with `ARG {name}`, or set it with `ENV {name}=…`"
                )),
            };
            if !found.contains(&finding) {
                found.push(finding);
            }
        }
    }
}

/// Finds where in a word a variable is used.
fn variable_span(dockerfile: &Dockerfile, word: &Word, name: &str) -> Span {
    let text = word.span.slice(&dockerfile.source);
    let ends = |at: usize| !text[at..].starts_with(|c: char| c.is_alphanumeric() || c == '_');
    for (mark, close) in [("$", false), ("${", true)] {
        let needle = format!("{mark}{name}");
        for (at, _) in text.match_indices(&needle) {
            let mut end = at + needle.len();
            if ends(end) {
                end += usize::from(close && text[end..].starts_with('}'));
                return Span::new(word.span.start + at, word.span.start + end);
            }
        }
    }
    word.span
}

/// The EXPOSE checks of words with variables; the parser has looked at the others.
fn expose(
    dockerfile: &Dockerfile,
    state: &StageState,
    instruction: &Instruction,
    words: &[Word],
    found: &mut Vec<Diagnostic>,
) {
    let env: &dyn Env = &state.env;
    for word in words.iter().filter(|word| word.text.contains('$')) {
        let expanded = expand_words(&word.text, env, dockerfile.directives.escape);
        for text in expanded.map(|expanded| expanded.words).unwrap_or_default() {
            let Ok(port) = parse_port(&text) else { continue };
            let mut report = |rule: Rule, message: String, help: &str| {
                if dockerfile.allows(rule, Some(instruction)) {
                    found.push(Diagnostic::lint(rule, word.span, message).with_help(help));
                }
            };
            if port.odd_casing {
                let message = format!("the protocol in `{text}` is not lower case");
                report(Rule::ExposeProtoCasing, message, "write it in lower case");
            }
            if port.host_part {
                let message = format!("`{text}` names more than a port of the container");
                let help = "host ports and addresses are given when it is run";
                report(Rule::ExposeInvalidFormat, message, help);
            }
        }
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
