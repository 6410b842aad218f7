//! What a target can be given: `--call=outline` (BuildKit: `dockerfile2llb/outline.go`).
//!
//! Looks at the file alone: no base image is resolved, so a variable that only an image sets is empty
//! here. Listed are the ARGs that the target and the stages it needs declare or use in FROM, and the
//! secrets and SSH agents that their RUNs mount.
//!
//! Start reading at [`outline`].

use std::collections::{BTreeMap, BTreeSet};

use crate::dockerfile::expand::Env;
use crate::dockerfile::{
    Command, Diagnostic, Dockerfile, Instruction, MountType, Span, Stage, Word, suggest,
};
use crate::oci::Platform;

use super::budget::Budget;
use super::plan::{enough, set};
use super::{Request, args};

/// What a target can be given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline {
    /// The stage's name; empty when it has none.
    pub name: String,
    /// What the comment above its FROM says.
    pub description: String,
    /// Build arguments, in the order of the file.
    pub args: Vec<Arg>,
    /// Secrets.
    pub secrets: Vec<Needed>,
    /// SSH agents.
    pub ssh: Vec<Needed>,
}

/// A build argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arg {
    /// Its name.
    pub name: String,
    /// What the comment above it says.
    pub description: String,
    /// Its value in this build; empty when it has none.
    pub value: String,
    /// Its ARG.
    pub span: Span,
}

/// A secret or SSH agent that a RUN mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    /// Its id.
    pub name: String,
    /// The build fails without it.
    pub required: bool,
    /// The first RUN that mounts it.
    pub span: Span,
}

/// Finds what the target of `request` can be given.
pub fn outline(dockerfile: &Dockerfile, request: &Request) -> Result<Outline, Diagnostic> {
    let stages = dockerfile.stages();
    let Some(last) = stages.last() else { return Ok(Outline::default()) };
    let target = match &request.target {
        None => last.index,
        Some(name) => find(&stages, name).ok_or_else(|| {
            let names = stages.iter().filter_map(Stage::name);
            let message = format!("target stage {name:?} could not be found");
            Diagnostic::error("E0602", Span::default(), message)
                .with_suggestion(suggest(name, names, true))
        })?,
    };
    let mut finder = Finder::new(dockerfile, request)?;
    let mut walked: BTreeMap<usize, Scope> = BTreeMap::new();
    let needed = needed(dockerfile, &stages, target, &finder.globals);
    for &index in &needed {
        let stage = &stages[index];
        let base = base(&stages, index, &finder.expand(&stage.from.image, &finder.globals));
        let mut scope = base.and_then(|base| walked.get(&base).cloned()).unwrap_or_default();
        finder.stage(stage, &mut scope)?;
        walked.insert(index, scope);
    }
    let alias = stages[target].from.alias.as_ref();
    Ok(Outline {
        name: stages[target].name().unwrap_or_default().to_owned(),
        description: alias.and_then(|alias| alias.doc.clone()).unwrap_or_default(),
        ..finder.finish()
    })
}

fn find(stages: &[Stage<'_>], name: &str) -> Option<usize> {
    let lower = name.to_lowercase();
    let named = stages.iter().rev().find(|stage| stage.name() == Some(lower.as_str()));
    let number = || name.parse::<usize>().ok().filter(|&index| index < stages.len());
    named.map(|stage| stage.index).or_else(number)
}

fn base(stages: &[Stage<'_>], index: usize, name: &str) -> Option<usize> {
    find(&stages[..index], name)
}

/// The target and all stages that it needs, in the order of the file.
fn needed(
    dockerfile: &Dockerfile,
    stages: &[Stage<'_>],
    target: usize,
    globals: &[(String, String)],
) -> BTreeSet<usize> {
    let mut needed = BTreeSet::new();
    let mut todo = vec![target];
    while let Some(index) = todo.pop() {
        if !needed.insert(index) {
            continue;
        }
        let image = &stages[index].from.image;
        if let Ok(expanded) = image.expand(&Pairs(globals), dockerfile.directives.escape) {
            todo.extend(base(stages, index, &expanded.text));
        }
        for instruction in stages[index].body {
            for name in super::plan::froms(instruction) {
                todo.extend(base(stages, index, &name.text));
            }
        }
    }
    needed
}

/// Variables that are borrowed.
struct Pairs<'a>(&'a [(String, String)]);

impl Env for Pairs<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        Env::get(self.0, name)
    }
}

/// The variables of a stage.
#[derive(Clone, Default)]
struct Scope {
    env: Vec<(String, String)>,
}

/// An ARG before it is known whether anything uses it.
struct Known {
    arg: Arg,
    /// The ARGs that its default is made of.
    parts: BTreeSet<String>,
}

struct Finder<'a> {
    dockerfile: &'a Dockerfile,
    request: &'a Request,
    globals: Vec<(String, String)>,
    /// The ARGs above the first FROM.
    known: BTreeMap<String, Known>,
    found: Outline,
    budget: Budget,
}

impl<'a> Finder<'a> {
    fn new(dockerfile: &'a Dockerfile, request: &'a Request) -> Result<Finder<'a>, Diagnostic> {
        let host = request.host.clone().unwrap_or_else(Platform::host);
        let target = request.platforms.first().unwrap_or(&host);
        let stage = request.target.clone().unwrap_or_default();
        let globals = args::automatic(&host, target, &stage, &request.build_args);
        let (known, found) = (BTreeMap::new(), Outline::default());
        let budget = Budget::default();
        let mut finder = Finder { dockerfile, request, globals, known, found, budget };
        for (instruction, definition) in dockerfile.global_args() {
            let name = &definition.name.text;
            let mut parts = BTreeSet::new();
            let default = definition.default.as_ref().and_then(|default| {
                let expanded =
                    default.expand(&finder.globals, dockerfile.directives.escape).ok()?;
                parts = expanded.used;
                Some(expanded.text)
            });
            let value = request.build_args.get(name).cloned().or(default);
            if let Some(value) = &value {
                finder.set_in_bounds(value, finder.globals.len(), definition.name.span)?;
                set(&mut finder.globals, name, value.clone());
            }
            let arg = Arg {
                name: name.clone(),
                description: definition.doc.clone().unwrap_or_default(),
                value: value.unwrap_or_default(),
                span: instruction.span,
            };
            finder.known.insert(name.clone(), Known { arg, parts });
        }
        Ok(finder)
    }

    /// Fails when a value, or one variable more, is too much.
    fn set_in_bounds(&mut self, value: &str, count: usize, span: Span) -> Result<(), Diagnostic> {
        let within = self.budget.spend(value.len(), span).and_then(|()| enough(count, span));
        within.map_err(|failure| failure.diagnostic)
    }

    fn expand(&self, word: &Word, env: &[(String, String)]) -> String {
        let escape = self.dockerfile.directives.escape;
        word.expand(&Pairs(env), escape).map(|expanded| expanded.text).unwrap_or_default()
    }

    /// Counts a global ARG, and those that it is made of, as used.
    fn use_global(&mut self, name: &str) {
        // No recursion: each may be made of the one before.
        let mut todo = vec![name.to_owned()];
        while let Some(name) = todo.pop() {
            if self.found.args.iter().any(|arg| arg.name == name) {
                continue;
            }
            let Some(known) = self.known.get(&name) else { continue };
            self.found.args.push(known.arg.clone());
            todo.extend(known.parts.iter().cloned());
        }
    }

    fn stage(&mut self, stage: &Stage<'_>, scope: &mut Scope) -> Result<(), Diagnostic> {
        let escape = self.dockerfile.directives.escape;
        for word in std::iter::once(&stage.from.image).chain(&stage.from.platform) {
            if let Ok(expanded) = word.expand(&self.globals, escape) {
                expanded.used.iter().for_each(|name| self.use_global(name));
            }
        }
        for instruction in stage.body {
            self.instruction(instruction, scope)?;
        }
        Ok(())
    }

    fn instruction(
        &mut self,
        instruction: &Instruction,
        scope: &mut Scope,
    ) -> Result<(), Diagnostic> {
        match &instruction.command {
            Command::Env(pairs) => {
                let before = scope.env.clone();
                for pair in pairs {
                    let name = self.expand(&pair.key, &before);
                    let value = self.expand(&pair.value, &before);
                    self.set_in_bounds(&value, scope.env.len(), pair.key.span)?;
                    set(&mut scope.env, &name, value);
                }
            }
            Command::Arg(definitions) => {
                for definition in definitions {
                    let name = &definition.name.text;
                    let given = self.request.build_args.get(name).cloned();
                    let own = given.is_some() || definition.default.is_some();
                    let default =
                        definition.default.as_ref().map(|word| self.expand(word, &scope.env));
                    let global = self.globals.iter().find(|(key, _)| key == name);
                    let inherited = global.map(|(_, value)| value.clone());
                    if let Some(value) = given.clone().or(default).or(inherited.clone()) {
                        self.set_in_bounds(&value, scope.env.len(), definition.name.span)?;
                        set(&mut scope.env, name, value);
                    }
                    if !own && inherited.is_some() {
                        self.use_global(name);
                        continue;
                    }
                    let value = scope.env.iter().find(|(key, _)| key == name);
                    let arg = Arg {
                        name: name.clone(),
                        description: definition.doc.clone().unwrap_or_default(),
                        value: value.map(|(_, value)| value.clone()).unwrap_or_default(),
                        span: instruction.span,
                    };
                    if !self.found.args.iter().any(|known| known.name == *name) {
                        self.found.args.push(arg);
                    }
                }
            }
            Command::Run(run) => {
                for mount in &run.mounts {
                    let spec =
                        mount.resolve(&mut |word| Ok(self.expand(word, &scope.env).into()))?;
                    let list = match spec.kind {
                        MountType::Secret => &mut self.found.secrets,
                        MountType::Ssh => &mut self.found.ssh,
                        _ => continue,
                    };
                    let name = match spec.kind {
                        MountType::Ssh => spec.id.clone().unwrap_or_else(|| "default".to_owned()),
                        _ => spec.secret_id().to_owned(),
                    };
                    if !list.iter().any(|known| known.name == name) {
                        let required = spec.required;
                        list.push(Needed { name, required, span: instruction.span });
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(mut self) -> Outline {
        self.found.args.sort_by_key(|arg| arg.span.start);
        self.found.secrets.sort_by_key(|needed| needed.span.start);
        self.found.ssh.sort_by_key(|needed| needed.span.start);
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::parse;

    fn outline_of(text: &str, change: impl FnOnce(&mut Request)) -> Outline {
        let parsed = parse(text.as_bytes());
        let mut request = Request::default();
        change(&mut request);
        outline(&parsed.dockerfile, &request).expect("an outline")
    }

    fn values(outline: &Outline) -> Vec<(&str, &str)> {
        outline.args.iter().map(|arg| (arg.name.as_str(), arg.value.as_str())).collect()
    }

    const TEXT: &str = "ARG V=1\n# TAG of the base\nARG TAG=v$V\nARG UNUSED=x\nFROM base:$TAG AS build\nARG FLAGS=-O2\nRUN --mount=type=secret,id=token,required --mount=type=ssh make\nFROM scratch AS other\nARG NOT=here\n# app is what runs\nFROM scratch AS app\nARG V\nARG X=$V.0\nCOPY --from=build /a /a\n";

    #[test]
    fn it_lists_what_the_target_and_its_stages_use() {
        let outline = outline_of(TEXT, |_| {});
        assert_eq!((outline.name.as_str(), outline.description.as_str()), ("app", "is what runs"));
        assert_eq!(values(&outline), [("V", "1"), ("TAG", "v1"), ("FLAGS", "-O2"), ("X", "1.0")]);
        assert_eq!(outline.args[1].description, "of the base");
        assert_eq!(outline.secrets.len(), 1);
        assert!(outline.secrets[0].required);
        assert_eq!(outline.ssh[0].name, "default");
    }

    #[test]
    fn targets_and_build_args_count() {
        let outline = outline_of(TEXT, |request| {
            request.target = Some("OTHER".to_owned());
            request.build_args.insert("NOT".to_owned(), "there".to_owned());
        });
        assert_eq!(values(&outline), [("NOT", "there")]);
        let parsed = parse(TEXT.as_bytes());
        let request = Request { target: Some("ap".to_owned()), ..Request::default() };
        let error = super::outline(&parsed.dockerfile, &request).expect_err("no such stage");
        assert_eq!(error.help.as_deref(), Some("did you mean `app`?"));
    }

    #[test]
    fn automatic_arguments_are_not_listed() {
        let outline = outline_of("FROM a\nARG TARGETARCH\nARG OWN\n", |_| {});
        assert_eq!(values(&outline), [("OWN", "")]);
    }
}
