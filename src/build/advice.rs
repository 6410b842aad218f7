//! Checks that are made before a step runs, and need the context or the platforms of a build.
//!
//! - CopyIgnoredFile (BuildKit: `validateCopySourcePath`): the ignore file leaves out what is copied.
//! - EmulatedCompile, ours: a compiler runs under an emulator, with the lines that would run it
//!   natively.
//!
//! What a layer shows once it is made is in `waste.rs` and `leak.rs`; [`Checks`] takes what they find.
//!
//! Start reading at [`ahead`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::context::Context;
use crate::dockerfile::{Command, Diagnostic, Dockerfile, Instruction, Rule, Source, Span, Stage};
use crate::graph::{Graph, Node, Op, Run};
use crate::oci::Platform;
use crate::sandbox::Arch;

use super::layers::lock;
use super::waste::Costs;

/// Which checks are wanted, and what those of layers found.
#[derive(Debug)]
pub struct Checks<'a> {
    dockerfiles: Vec<&'a Dockerfile>,
    found: Mutex<Vec<(usize, Diagnostic)>>,
}

impl<'a> Checks<'a> {
    /// Takes the file that is built, whose directives choose.
    pub fn new(dockerfile: &'a Dockerfile) -> Checks<'a> {
        Checks::several(vec![dockerfile])
    }

    /// Takes the files that are built together, by the number of their part.
    pub fn several(dockerfiles: Vec<&'a Dockerfile>) -> Checks<'a> {
        Checks { dockerfiles, found: Mutex::default() }
    }

    fn instruction(&self, node: &Node) -> Option<&'a Instruction> {
        self.dockerfiles.get(node.part).and_then(|dockerfile| instruction_of(dockerfile, node))
    }

    /// Says whether a check is wanted for a step.
    pub fn allow(&self, rule: Rule, node: &Node) -> bool {
        self.dockerfiles
            .get(node.part)
            .is_none_or(|dockerfile| dockerfile.allows(rule, self.instruction(node)))
    }

    /// Says whether an ARG declares a variable, anywhere in the file.
    pub fn is_arg(&self, name: &str) -> bool {
        let mut all = self.dockerfiles.iter().flat_map(|dockerfile| &dockerfile.instructions);
        all.any(|instruction| match &instruction.command {
            Command::Arg(definitions) => definitions.iter().any(|arg| arg.name.text == name),
            _ => false,
        })
    }

    /// Takes what was found in the layer of a step. Of several platforms the first is told.
    pub fn add(&self, node: &Node, costs: &Costs) {
        let mut found = lock(&self.found);
        let span = match self.instruction(node) {
            Some(instruction) => instruction.keyword_span,
            None => node.span,
        };
        let told = found.len();
        for finding in costs.findings(span) {
            let Some(rule) = finding.rule else { continue };
            let is_told = |(part, other): &(usize, Diagnostic)| {
                *part == node.part && other.rule == Some(rule) && other.span == span
            };
            if self.allow(rule, node) && !found[..told].iter().any(is_told) {
                found.push((node.part, finding));
            }
        }
    }

    /// Gives what was found in one part, in the order of its file.
    pub fn take(&self, part: usize) -> Vec<Diagnostic> {
        let taken =
            lock(&self.found).extract_if(.., |(other, _)| *other == part).collect::<Vec<_>>();
        let mut found: Vec<Diagnostic> = taken.into_iter().map(|(_, finding)| finding).collect();
        found.sort_by_key(|finding| finding.span.start);
        found
    }
}

/// Makes the checks of this module.
pub fn ahead(
    dockerfile: &Dockerfile,
    graph: &Graph,
    contexts: &BTreeMap<String, Arc<Context>>,
) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    if let Some(context) = contexts.get("") {
        let rules = context.rules();
        let patterns: Vec<Vec<u8>> = rules.patterns().collect();
        ignored(dockerfile, graph, &patterns, &|path| rules.is_ignored(path), &mut found);
    }
    let is_emulated = |platform: &Platform| {
        Arch::from_oci(&platform.architecture).is_some_and(|arch| !arch.is_native())
    };
    emulated(dockerfile, graph, &is_emulated, &mut found);
    found
}

/// Finds the instruction that a node was made of; None for a trigger of a base image.
fn instruction_of<'a>(dockerfile: &'a Dockerfile, node: &Node) -> Option<&'a Instruction> {
    let at = dockerfile
        .instructions
        .binary_search_by_key(&node.span.start, |instruction| instruction.span.start)
        .ok()?;
    let instruction = &dockerfile.instructions[at];
    let fits = match node.op {
        Op::Run(_) => matches!(instruction.command, Command::Run(_)),
        Op::Copy(_) => matches!(instruction.command, Command::Copy(_) | Command::Add(_)),
        _ => true,
    };
    fits.then_some(instruction)
}

/// CopyIgnoredFile. With an exception among the patterns nothing is said, as in BuildKit: a
/// directory may be left out and a file in it kept.
fn ignored(
    dockerfile: &Dockerfile,
    graph: &Graph,
    patterns: &[Vec<u8>],
    is_ignored: &dyn Fn(&[u8]) -> bool,
    found: &mut Vec<Diagnostic>,
) {
    if patterns.is_empty() || patterns.iter().any(|pattern| pattern.starts_with(b"!")) {
        return;
    }
    let everything =
        patterns.iter().any(|pattern| matches!(pattern.as_slice(), b"*" | b"**" | b"**/*"));
    for node in &graph.nodes {
        let Op::Copy(copy) = &node.op else { continue };
        let from_context = node.inputs.first().is_some_and(
            |&input| matches!(&graph.nodes[input].op, Op::Local { context } if context.is_empty()),
        );
        let instruction = instruction_of(dockerfile, node);
        if !from_context || !dockerfile.allows(Rule::CopyIgnoredFile, instruction) {
            continue;
        }
        let spans: Vec<Span> = match instruction.map(|instruction| &instruction.command) {
            Some(Command::Copy(transfer) | Command::Add(transfer)) => transfer
                .sources
                .iter()
                .filter_map(|source| match source {
                    Source::Path(word) => Some(word.span),
                    Source::Heredoc(_) => None,
                })
                .collect(),
            _ => Vec::new(),
        };
        for (number, source) in copy.sources.iter().enumerate() {
            let path = crate::layer::RootPath::from(source.as_str());
            let left_out = if path.is_root() { everything } else { is_ignored(path.as_bytes()) };
            if left_out {
                let span = spans.get(number).copied().unwrap_or(node.span);
                let verb = if copy.add { "ADD" } else { "COPY" };
                let message =
                    format!("the ignore file leaves `{source}` out, {verb} can't find it");
                found.push(
                    Diagnostic::lint(Rule::CopyIgnoredFile, span, message).with_help(
                        "take its pattern out of .dockerignore, or add an exception: `!…`",
                    ),
                );
            }
        }
    }
}

/// What a compile step uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    Go,
    Cargo,
    C,
    Npm,
    Pip,
}

/// EmulatedCompile.
fn emulated(
    dockerfile: &Dockerfile,
    graph: &Graph,
    is_emulated: &dyn Fn(&Platform) -> bool,
    found: &mut Vec<Diagnostic>,
) {
    // One finding for an instruction, whatever it is built for.
    let mut steps: BTreeMap<usize, (&Node, &Run, Vec<&Platform>)> = BTreeMap::new();
    for node in &graph.nodes {
        if let Op::Run(run) = &node.op
            && is_emulated(&node.platform)
        {
            let step = steps.entry(node.span.start).or_insert((node, run, Vec::new()));
            if !step.2.contains(&&*node.platform) {
                step.2.push(&node.platform);
            }
        }
    }
    let stages = dockerfile.stages();
    for (node, run, platforms) in steps.into_values() {
        let text = match &run.script {
            Some(script) => script.data.clone(),
            None => run.args.last().cloned().unwrap_or_default(),
        };
        let exec = run.args.join(" ");
        let Some((tool, command)) = compile_step(&text).or_else(|| compile_step(&exec)) else {
            continue;
        };
        let Some(instruction) = instruction_of(dockerfile, node) else { continue };
        if !dockerfile.allows(Rule::EmulatedCompile, Some(instruction)) {
            continue;
        }
        let Some(stage) = bottom(&stages, instruction) else { continue };
        let names: Vec<String> = platforms.iter().map(ToString::to_string).collect();
        let message = format!("`{command}` runs under emulation for {}", names.join(", "));
        let help = rewritten(tool, &command, stage, instruction, platforms[0], run);
        found.push(
            Diagnostic::lint(Rule::EmulatedCompile, instruction.keyword_span, message)
                .with_label("many times slower than natively")
                .with_help(help),
        );
    }
}

/// Finds the stage whose FROM decides about the platform of an instruction.
fn bottom<'a>(stages: &[Stage<'a>], instruction: &Instruction) -> Option<Stage<'a>> {
    let mut stage = *stages
        .iter()
        .rev()
        .find(|stage| stage.instruction.span.start <= instruction.span.start)?;
    loop {
        let base = stage.from.image.text.to_lowercase();
        let earlier = &stages[..stage.index];
        match earlier.iter().rev().find(|earlier| earlier.name() == Some(base.as_str())) {
            Some(earlier) if stage.from.platform.is_none() => stage = *earlier,
            _ => return Some(stage),
        }
    }
}

/// Finds the first command of a shell script that compiles, with the words that say so.
fn compile_step(text: &str) -> Option<(Tool, String)> {
    let pieces = text.split([';', '&', '|', '\n', '(', '{']);
    pieces.filter_map(compile_command).next()
}

fn compile_command(piece: &str) -> Option<(Tool, String)> {
    let starts =
        ["exec", "env", "time", "sudo", "nice", "if", "then", "else", "do", "!", "set", "\\"];
    let is_assignment = |word: &str| {
        word.split_once('=').is_some_and(|(name, _)| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        })
    };
    let mut words =
        piece.split_whitespace().skip_while(|word| starts.contains(word) || is_assignment(word));
    let program = words.next()?;
    let name = program.rsplit('/').next().unwrap_or(program);
    let rest: Vec<&str> = words.collect();
    if rest.iter().any(|word| matches!(*word, "--version" | "-version" | "--help")) {
        return None;
    }
    let mut plain = rest.iter().filter(|word| !word.starts_with(['-', '+', '\\'])).copied();
    let verb = plain.next().unwrap_or_default();
    let two = |tool| Some((tool, format!("{program} {verb}")));
    match (name, verb) {
        ("go", "build" | "install") => two(Tool::Go),
        ("cargo", "build" | "install" | "b") => two(Tool::Cargo),
        ("gcc" | "cc" | "g++" | "c++" | "clang" | "clang++" | "make" | "gmake", _) => {
            Some((Tool::C, program.to_owned()))
        }
        ("npm", "ci" | "install" | "i") => two(Tool::Npm),
        ("pip" | "pip3", "wheel") => two(Tool::Pip),
        ("python" | "python3", "pip") if plain.next() == Some("wheel") => {
            Some((Tool::Pip, "pip wheel".to_owned()))
        }
        _ => None,
    }
}

/// Writes the lines that run a compile step natively.
fn rewritten(
    tool: Tool,
    command: &str,
    stage: Stage<'_>,
    instruction: &Instruction,
    platform: &Platform,
    run: &Run,
) -> String {
    let from = native_from(stage);
    let line = one_line(&instruction.original);
    match tool {
        Tool::Go => {
            let env = "GOOS=$TARGETOS GOARCH=$TARGETARCH";
            let line = line.replacen(command, &format!("{env} {command}"), 1);
            format!(
                "Go compiles for any platform from any other:\n{from}\nARG TARGETOS TARGETARCH\n{line}"
            )
        }
        Tool::Cargo => {
            let musl = stage.from.image.text.contains("alpine");
            let triple = triple(platform, musl);
            let line = line.replacen(command, &format!("{command} --target {triple}"), 1);
            let linker = triple.to_uppercase().replace('-', "_");
            let gcc = format!("{}gcc", gnu_prefix(platform));
            format!(
                "Rust compiles for other targets, with their linker (for {platform}):\n{from}\nRUN rustup target add {triple}\nENV CARGO_TARGET_{linker}_LINKER={gcc}\n{line}"
            )
        }
        Tool::C => {
            let prefix = gnu_prefix(platform);
            format!(
                "compile natively with a cross compiler, and copy what it makes (for {platform}):\n{from}\nRUN CC={prefix}gcc CXX={prefix}g++ {command} …\nFROM {base}\nCOPY --from={name} /path/of/result /path/of/result",
                base = stage.from.image.text,
                name = name_of(stage),
            )
        }
        Tool::Npm | Tool::Pip => {
            let result = match tool {
                Tool::Npm => format!("{}/node_modules", run.cwd.trim_end_matches('/')),
                _ => "/wheels".to_owned(),
            };
            format!(
                "packages without native code are the same everywhere: get them natively, and copy them\n{from}\n{line}\nFROM {base}\nCOPY --from={name} {result} {result}",
                base = stage.from.image.text,
                name = name_of(stage),
            )
        }
    }
}

fn name_of(stage: Stage<'_>) -> String {
    stage.name().map_or_else(|| "build".to_owned(), str::to_owned)
}

/// Writes a stage's FROM with the platform of the machine that builds.
fn native_from(stage: Stage<'_>) -> String {
    format!("FROM --platform=$BUILDPLATFORM {} AS {}", stage.from.image.text, name_of(stage))
}

fn one_line(original: &str) -> String {
    const MOST: usize = 120;
    let line = original.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MOST) {
        Some((cut, _)) => format!("{} …", &line[..cut]),
        None => line,
    }
}

/// Gives Rust's name of a platform (`rustc --print target-list`).
fn triple(platform: &Platform, musl: bool) -> String {
    let (machine, suffix) = match (platform.architecture.as_str(), platform.variant.as_deref()) {
        ("amd64", _) => ("x86_64", ""),
        ("arm64", _) => ("aarch64", ""),
        ("arm", Some("v5" | "v6")) => ("arm", "eabihf"),
        ("arm", _) => ("armv7", "eabihf"),
        ("386", _) => ("i686", ""),
        ("riscv64", _) => ("riscv64gc", ""),
        ("ppc64le", _) => ("powerpc64le", ""),
        ("loong64", _) => ("loongarch64", ""),
        (other, _) => (other, ""),
    };
    let libc = if musl { "musl" } else { "gnu" };
    format!("{machine}-unknown-linux-{libc}{suffix}")
}

/// Gives what the names of GNU cross compilers begin with.
fn gnu_prefix(platform: &Platform) -> &'static str {
    match platform.architecture.as_str() {
        "amd64" => "x86_64-linux-gnu-",
        "arm64" => "aarch64-linux-gnu-",
        "arm" => "arm-linux-gnueabihf-",
        "386" => "i686-linux-gnu-",
        "riscv64" => "riscv64-linux-gnu-",
        "ppc64le" => "powerpc64le-linux-gnu-",
        "s390x" => "s390x-linux-gnu-",
        "loong64" => "loongarch64-linux-gnu-",
        _ => "",
    }
}

#[cfg(test)]
#[path = "advice_tests.rs"]
mod tests;
