//! What a Dockerfile says: [`Dockerfile`], [`Instruction`], [`Command`] and their parts.
//!
//! Everything that may hold variables is an unexpanded [`Word`]; which ones are expanded, and how, is
//! written at each field. "Expanded" means [`expand_word`](super::expand::expand_word), unless it says
//! `expand_words`. What is not said to be expanded is taken literally, as BuildKit does.

use std::borrow::Cow;

use super::check::{CheckOptions, Rule};
use super::heredoc::is_only_heredoc;
use super::mount::Mount;
use super::span::{Span, Spanned, Word};

/// A parsed Dockerfile: its directives and the flat list of its instructions.
#[derive(Debug, Clone, Default)]
pub struct Dockerfile {
    /// The text as read; bytes that are not UTF-8 are replaced by `?`, so that offsets hold.
    pub source: String,
    /// The parser directives at the top.
    pub directives: Directives,
    /// All instructions in order, also those that could not be understood ([`Command::Invalid`]).
    pub instructions: Vec<Instruction>,
}

/// One stage: its FROM and what follows up to the next FROM.
#[derive(Debug, Clone, Copy)]
pub struct Stage<'a> {
    /// The position among the stages, counted from 0.
    pub index: usize,
    /// The FROM instruction as a whole.
    pub instruction: &'a Instruction,
    /// What FROM says.
    pub from: &'a FromImage,
    /// The position of the first instruction of `body` in [`Dockerfile::instructions`].
    pub first: usize,
    /// The instructions of the stage without its FROM.
    pub body: &'a [Instruction],
}

impl<'a> Stage<'a> {
    /// Gives the name after AS, in lower case.
    pub fn name(&self) -> Option<&'a str> {
        self.from.alias.as_ref().map(|alias| alias.name.as_str())
    }
}

impl Dockerfile {
    /// Gives the instructions before the first FROM (ARGs, when the file is right).
    pub fn preamble(&self) -> &[Instruction] {
        let end = self.instructions.iter().position(|i| matches!(i.command, Command::From(_)));
        &self.instructions[..end.unwrap_or(self.instructions.len())]
    }

    /// Gives the definitions of the ARGs before the first FROM.
    pub fn global_args(&self) -> impl Iterator<Item = (&Instruction, &ArgDefinition)> {
        self.preamble().iter().flat_map(|instruction| {
            let definitions = match &instruction.command {
                Command::Arg(definitions) => definitions.as_slice(),
                _ => &[],
            };
            definitions.iter().map(move |definition| (instruction, definition))
        })
    }

    /// Gives the line of an offset, counted from 1. Linear in the offset; use
    /// [`LineIndex`](super::LineIndex) for many.
    pub fn line(&self, offset: usize) -> usize {
        let before = &self.source.as_bytes()[..offset.min(self.source.len())];
        before.iter().filter(|&&byte| byte == b'\n').count() + 1
    }

    /// Says whether a check is on for an instruction; None is for the file as a whole.
    pub fn allows(&self, rule: Rule, instruction: Option<&Instruction>) -> bool {
        match instruction.and_then(|instruction| instruction.check.as_deref()) {
            Some(local) => self.directives.check.merged(Some(local)).allows(rule),
            None => self.directives.check.allows(rule),
        }
    }

    /// Gives the stages in order.
    pub fn stages(&self) -> Vec<Stage<'_>> {
        let mut stages: Vec<Stage<'_>> = Vec::new();
        for (at, instruction) in self.instructions.iter().enumerate() {
            if let Command::From(from) = &instruction.command {
                let (index, first) = (stages.len(), at + 1);
                stages.push(Stage { index, instruction, from, first, body: &[] });
            } else if let Some(stage) = stages.last_mut() {
                stage.body = &self.instructions[stage.first..=at];
            }
        }
        stages
    }
}

/// The character that joins lines and takes the meaning from the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Escape {
    /// `\`, the default.
    #[default]
    Backslash,
    /// `` ` ``, for Windows paths.
    Backtick,
}

impl Escape {
    /// Gives the character.
    pub fn as_char(self) -> char {
        match self {
            Escape::Backslash => '\\',
            Escape::Backtick => '`',
        }
    }
}

/// The parser directives at the top of a file.
#[derive(Debug, Clone, Default)]
pub struct Directives {
    /// `# syntax=`: the frontend image that was asked for, up to the first blank.
    pub syntax: Option<Word>,
    /// `# escape=`.
    pub escape: Escape,
    /// `# check=`: which checks are on, and whether they are errors.
    pub check: CheckOptions,
}

/// One instruction.
#[derive(Debug, Clone)]
pub struct Instruction {
    /// From the keyword to the end of the last line, heredocs included.
    pub span: Span,
    /// The keyword.
    pub keyword_span: Span,
    /// The logical line as BuildKit shows it in history and progress: continuations joined, comments
    /// gone, trimmed, without heredoc bodies.
    pub original: String,
    /// The comments above it, without `#`.
    pub comments: Vec<Word>,
    /// What a comment `# check=…` above it says, when there is one.
    pub check: Option<Box<CheckOptions>>,
    /// What it says.
    pub command: Command,
}

impl Instruction {
    /// Gives the keyword as written.
    pub fn keyword(&self) -> &str {
        self.original.split(['\t', '\u{b}', '\u{c}', '\r', ' ']).next().unwrap_or_default()
    }
}

/// What an instruction says.
#[derive(Debug, Clone)]
pub enum Command {
    /// FROM.
    From(Box<FromImage>),
    /// RUN.
    Run(Box<Run>),
    /// COPY.
    Copy(Box<Transfer>),
    /// ADD.
    Add(Box<Transfer>),
    /// ENV: keys and values are expanded, all against the environment before the instruction.
    Env(Vec<KeyValue>),
    /// LABEL: keys and values are expanded.
    Label(Vec<KeyValue>),
    /// ARG.
    Arg(Vec<ArgDefinition>),
    /// USER: expanded.
    User(Word),
    /// WORKDIR: expanded.
    Workdir(Word),
    /// EXPOSE in the order written: each is expanded with `expand_words`, then parsed with
    /// [`parse_port`](super::value::parse_port). BuildKit sorts the unexpanded words first.
    Expose(Vec<Word>),
    /// VOLUME: each is expanded.
    Volume(Vec<Word>),
    /// STOPSIGNAL: expanded, then [`parse_signal`](super::value::parse_signal).
    Stopsignal(Word),
    /// SHELL: literal, at least one.
    Shell(Vec<Word>),
    /// HEALTHCHECK: literal.
    Healthcheck(Box<Healthcheck>),
    /// CMD: literal.
    Cmd(Form),
    /// ENTRYPOINT: literal.
    Entrypoint(Form),
    /// MAINTAINER: literal.
    Maintainer(Word),
    /// ONBUILD: literal until it is triggered.
    Onbuild(Box<Onbuild>),
    /// Not understood; there is an error diagnostic for it.
    Invalid,
}

impl Command {
    /// Gives the keyword in upper case; empty for [`Command::Invalid`].
    pub fn name(&self) -> &'static str {
        match self {
            Command::From(_) => "FROM",
            Command::Run(_) => "RUN",
            Command::Copy(_) => "COPY",
            Command::Add(_) => "ADD",
            Command::Env(_) => "ENV",
            Command::Label(_) => "LABEL",
            Command::Arg(_) => "ARG",
            Command::User(_) => "USER",
            Command::Workdir(_) => "WORKDIR",
            Command::Expose(_) => "EXPOSE",
            Command::Volume(_) => "VOLUME",
            Command::Stopsignal(_) => "STOPSIGNAL",
            Command::Shell(_) => "SHELL",
            Command::Healthcheck(_) => "HEALTHCHECK",
            Command::Cmd(_) => "CMD",
            Command::Entrypoint(_) => "ENTRYPOINT",
            Command::Maintainer(_) => "MAINTAINER",
            Command::Onbuild(_) => "ONBUILD",
            Command::Invalid => "",
        }
    }
}

/// FROM.
#[derive(Debug, Clone)]
pub struct FromImage {
    /// The image, stage or `scratch`: expanded against the global ARGs.
    pub image: Word,
    /// The name after AS.
    pub alias: Option<Alias>,
    /// `--platform`: expanded against the global ARGs.
    pub platform: Option<Word>,
}

/// The name after AS.
#[derive(Debug, Clone)]
pub struct Alias {
    /// The name in lower case; names are compared without case.
    pub name: String,
    /// The name as written.
    pub word: Word,
    /// The keyword AS as written.
    pub keyword: Word,
    /// What a comment `# NAME text` above says.
    pub doc: Option<String>,
}

/// One `key=value` (or, in the old form, `key value`).
#[derive(Debug, Clone)]
pub struct KeyValue {
    /// The key.
    pub key: Word,
    /// The value.
    pub value: Word,
    /// Written in the old form, with a blank.
    pub legacy: bool,
}

/// One `NAME` or `NAME=default` of an ARG.
#[derive(Debug, Clone)]
pub struct ArgDefinition {
    /// The name: literal.
    pub name: Word,
    /// The default: expanded (unless `--build-arg` gives a value).
    pub default: Option<Word>,
    /// What a comment `# NAME text` above says.
    pub doc: Option<String>,
}

/// A command line in shell or exec form.
#[derive(Debug, Clone)]
pub enum Form {
    /// To be handed to the SHELL; the text may be empty.
    Shell(Word),
    /// To be executed as it is.
    Exec(Vec<Word>),
}

impl Form {
    /// Says whether it is a JSON array.
    pub fn is_exec(&self) -> bool {
        matches!(self, Form::Exec(_))
    }

    /// Gives the words: one for the shell form (none when it is empty), all for the exec form.
    pub fn words(&self) -> Vec<String> {
        match self {
            Form::Shell(word) if word.text.is_empty() => Vec::new(),
            Form::Shell(word) => vec![word.text.clone()],
            Form::Exec(words) => words.iter().map(|word| word.text.clone()).collect(),
        }
    }
}

/// A document that follows its instruction, line by line up to its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The name: the line that ends the body; for COPY and ADD also the file name.
    pub name: String,
    /// `<<NAME` on the instruction's line.
    pub span: Span,
    /// The body as written, with its line breaks and leading tabs.
    pub content: String,
    /// The body in the source, without the line that ends it.
    pub content_span: Span,
    /// Variables in the body are expanded (the name was not quoted); matters for COPY and ADD, see
    /// [`expand_heredoc`](super::expand::expand_heredoc).
    pub expand: bool,
    /// Leading tabs are taken off (`<<-`).
    pub chomp: bool,
    /// The number before `<<`; 0 when there was none.
    pub fd: u32,
}

impl Heredoc {
    /// Gives the body with leading tabs taken off when `<<-` asked for it.
    pub fn text(&self) -> Cow<'_, str> {
        if !self.chomp {
            return Cow::Borrowed(&self.content);
        }
        let lines = self.content.split_inclusive('\n');
        Cow::Owned(lines.map(|line| line.trim_start_matches('\t')).collect())
    }
}

/// RUN.
#[derive(Debug, Clone)]
pub struct Run {
    /// `--mount`s in order; see [`Mount::resolve`] for what is expanded.
    pub mounts: Vec<Mount>,
    /// `--network`: literal.
    pub network: Option<Spanned<Network>>,
    /// `--security`: literal.
    pub security: Option<Spanned<Security>>,
    /// `--device`s in order: literal.
    pub devices: Vec<Device>,
    /// The command line without flags: literal.
    pub form: Form,
    /// The bodies of its heredocs in order.
    pub heredocs: Vec<Heredoc>,
}

/// What a RUN really executes, once its heredocs are taken into account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Script {
    /// These words as they are.
    Exec(Vec<String>),
    /// This text, handed to the SHELL.
    Shell(String),
    /// This file (mode 0755, on a read-only mount at `/dev/pipes/`), handed to the SHELL by its path.
    File {
        /// The name in `/dev/pipes/`.
        name: String,
        /// The content, which begins with `#!`.
        content: String,
    },
}

impl Run {
    /// Gives what is to be executed: a lone heredoc is its body, a script with `#!` becomes a file
    /// (not on Windows), everything else is put together again for the shell.
    pub fn script(&self, windows: bool) -> Script {
        let line = match &self.form {
            Form::Exec(words) => {
                return Script::Exec(words.iter().map(|word| word.text.clone()).collect());
            }
            Form::Shell(line) => &line.text,
        };
        let Some(first) = self.heredocs.first() else {
            return Script::Shell(line.clone());
        };
        if is_only_heredoc(line) {
            let content = first.text().into_owned();
            if !windows && content.starts_with("#!") {
                return Script::File { name: first.name.clone(), content };
            }
            return Script::Shell(content);
        }
        let mut text = line.clone();
        for heredoc in &self.heredocs {
            text.push('\n');
            text.push_str(&heredoc.content);
            text.push_str(&heredoc.name);
        }
        Script::Shell(text)
    }
}

/// `RUN --network`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Network {
    /// As the build is set up.
    #[default]
    Default,
    /// Loopback only.
    None,
    /// The host's.
    Host,
}

/// `RUN --security`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Security {
    /// The usual restrictions.
    #[default]
    Sandbox,
    /// All capabilities, no seccomp.
    Insecure,
}

/// `RUN --device`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The CDI name.
    pub name: String,
    /// The build fails without it.
    pub required: bool,
    /// The value of the flag.
    pub span: Span,
}

/// COPY or ADD.
#[derive(Debug, Clone)]
pub struct Transfer {
    /// What is copied, at least one.
    pub sources: Vec<Source>,
    /// Where to: expanded; may become empty, which means the working directory.
    pub destination: Word,
    /// `--from` (COPY only): literal, quotes already taken off; holds no variables.
    pub from: Option<Word>,
    /// `--chown`: expanded, then [`Chown::parse`](super::value::Chown::parse).
    pub chown: Option<Word>,
    /// `--chmod`: expanded, then [`ChmodSpec`](super::chmod::ChmodSpec).
    pub chmod: Option<Word>,
    /// `--link`.
    pub link: Option<Spanned<bool>>,
    /// `--parents` (COPY only).
    pub parents: Option<Spanned<bool>>,
    /// `--exclude`s: literal.
    pub exclude: Vec<Word>,
    /// `--checksum` (ADD only): expanded.
    pub checksum: Option<Word>,
    /// `--keep-git-dir` (ADD only).
    pub keep_git_dir: Option<Spanned<bool>>,
    /// `--unpack` (ADD only).
    pub unpack: Option<Spanned<bool>>,
}

/// One source of a COPY or ADD.
#[derive(Debug, Clone)]
pub enum Source {
    /// A path, pattern or URL: expanded.
    Path(Word),
    /// A file made from a heredoc, mode 0644. Boxed, as most sources are paths and much smaller.
    Heredoc(Box<Heredoc>),
}

/// HEALTHCHECK.
#[derive(Debug, Clone)]
pub enum Healthcheck {
    /// `HEALTHCHECK NONE`.
    None,
    /// `HEALTHCHECK … CMD …`.
    Check {
        /// The command, never empty.
        test: Form,
        /// `--interval` in nanoseconds.
        interval: Option<i64>,
        /// `--timeout` in nanoseconds.
        timeout: Option<i64>,
        /// `--start-period` in nanoseconds.
        start_period: Option<i64>,
        /// `--start-interval` in nanoseconds.
        start_interval: Option<i64>,
        /// `--retries`.
        retries: Option<u32>,
    },
}

/// ONBUILD.
#[derive(Debug, Clone)]
pub struct Onbuild {
    /// What goes into the image's config: the text after ONBUILD, heredoc bodies included.
    pub expression: String,
    /// The same, parsed in place.
    pub instruction: Instruction,
}
