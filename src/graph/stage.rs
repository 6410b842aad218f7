//! One stage, instruction by instruction: what each does to the file system (a node) and to the
//! image configuration (BuildKit: `dispatch` in `dockerfile2llb/convert.go`).

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use crate::dockerfile::expand::Env;
use crate::dockerfile::value::parse_signal;
use crate::dockerfile::{
    ArgDefinition, ChmodSpec, Command, Diagnostic, Form, Instruction, KeyValue,
    Network as NetworkFlag, Run as RunInstruction, Script, Source, Span, Transfer, Word, expand,
};
use crate::oci::config::History;
use crate::oci::{ImageConfig, Platform};

use super::add::remote_source;
use super::budget::size;
use super::history::{declared, healthcheck, quoted, run_history, summary};
use super::path::{clean_dest, clean_workdir};
use super::plan::{Base, Failure, Planner, PlatformPlan, enough};
use super::refuse::refuse_run;
use super::remote::{self, Remote};
use super::variables::Table;
use super::{Copy, Inline, MountKind, Network, Node, NodeId, Op, Run, args, check};

/// What BuildKit writes as comment of each history entry, so that tools tell them apart.
const HISTORY_COMMENT: &str = "buildkit.dockerfile.v0";

/// The search path of images that have none (BuildKit: `system.DefaultPathEnv`).
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables without those that a secret covers.
struct Without<'a> {
    env: &'a Table,
    masked: &'a [String],
}

impl Env for Without<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        if self.masked.iter().any(|masked| masked == name) { None } else { self.env.get(name) }
    }
}

/// A stage after some of its instructions.
#[derive(Clone)]
pub(super) struct StageState {
    pub node: Option<NodeId>,
    pub config: ImageConfig,
    /// ENV and ARG as a RUN sees them.
    pub env: Table,
    /// Where each variable stands in the image's configuration.
    places: HashMap<String, usize>,
    /// Declared ARGs, for history.
    pub build_args: Vec<(String, Option<String>)>,
    /// How history tells them; None when they have changed since the last RUN.
    declared: Option<String>,
    pub platform: Arc<Platform>,
    pub base: Option<usize>,
    pub base_history: usize,
    cmd_set: bool,
    /// A WORKDIR of this file was seen.
    pub workdir_set: bool,
}

/// What the instructions of one stage need besides its state.
pub(super) struct Walk<'p, 'a> {
    pub(super) planner: &'p mut Planner<'a>,
    pub(super) plan: &'p PlatformPlan,
    pub(super) index: usize,
    name: Arc<str>,
    done: usize,
    /// How many steps there are, as text.
    total: String,
    no_cache: bool,
}

impl StageState {
    /// What a copy takes, about, bytes.
    fn size(&self) -> usize {
        let labels = &self.config.config.labels;
        let labels = labels.iter().map(|(name, value)| 100 + name.len() + value.len());
        size(&self.config.history) + labels.sum::<usize>()
    }
}

impl Planner<'_> {
    /// Walks a stage whose earlier stages have been walked.
    pub(super) fn walk_stage(
        &mut self,
        index: usize,
        plan: &PlatformPlan,
    ) -> Result<StageState, Failure> {
        let Some(prepared) = plan.prepared.get(&index) else {
            unreachable!("only prepared stages are walked");
        };
        let mut state = self.base_state(index, plan)?;
        if prepared.replaced {
            return Ok(state);
        }
        state.config.config.on_build.clear();
        let stage = self.stages[index];
        let name = stage.name().map_or_else(|| format!("stage-{index}"), str::to_owned);
        let instructions: Vec<(&Instruction, bool)> = prepared
            .triggers
            .iter()
            .map(|trigger| (trigger, true))
            .chain(stage.body.iter().map(|instruction| (instruction, false)))
            .collect();
        state.config.history.reserve(instructions.len());
        let has_base = matches!(prepared.base, Base::Image(_));
        let total = usize::from(has_base)
            + instructions
                .iter()
                .filter(|(instruction, _)| {
                    matches!(
                        instruction.command,
                        Command::Run(_) | Command::Copy(_) | Command::Add(_) | Command::Workdir(_)
                    )
                })
                .count();
        self.reserve(total);
        let no_cache =
            self.request.no_cache
                || self.request.no_cache_stages.iter().any(|filter| {
                    filter.eq_ignore_ascii_case(&name) || *filter == index.to_string()
                });
        let (name, done, total) = (name.into(), usize::from(has_base), total.to_string());
        let mut walk = Walk { planner: self, plan, index, name, done, total, no_cache };
        for (instruction, triggered) in instructions {
            check::instruction(walk.planner, &state, instruction);
            let told = state.config.history.len();
            walk.instruction(&mut state, instruction, triggered)?;
            let told = size(&state.config.history[told..]);
            walk.planner.budget.spend(told, instruction.span)?;
            state.workdir_set |= matches!(instruction.command, Command::Workdir(_));
        }
        Ok(state)
    }

    fn base_state(&mut self, index: usize, plan: &PlatformPlan) -> Result<StageState, Failure> {
        let Some(prepared) = plan.prepared.get(&index) else {
            unreachable!("only prepared stages are walked");
        };
        let mut state = match &prepared.base {
            Base::Stage(stage) => {
                let Some(state) = plan.states.get(stage) else {
                    unreachable!("the base of a stage comes before it");
                };
                self.budget.spend(state.size(), self.stages[index].instruction.span)?;
                let mut state = state.clone();
                state.cmd_set = false;
                if prepared.explicit_platform {
                    state.platform = prepared.platform.clone();
                }
                return Ok(state);
            }
            Base::Image(image) => {
                let node = self.image_node(*image, &prepared.platform, index);
                let platform = check::base_platform(self, index, *image, &prepared.platform);
                let mut config = self.graph.images[*image].config.clone();
                config.created = None;
                config.drop_legacy();
                let base_history = config.history.len();
                StageState {
                    node,
                    config,
                    env: Table::default(),
                    places: HashMap::new(),
                    build_args: Vec::new(),
                    declared: None,
                    platform,
                    base: Some(*image),
                    base_history,
                    cmd_set: false,
                    workdir_set: false,
                }
            }
            Base::Directory(context) => {
                let node = self.directory_base(context, &prepared.platform, index);
                let mut state = scratch(&prepared.platform);
                state.node = Some(node);
                push_history(&mut state.config, format!("FROM {context}"), true);
                state
            }
            Base::Scratch => scratch(&prepared.platform),
        };
        let path = state.config.config.env.iter().any(|pair| pair.starts_with("PATH="));
        if !path && state.platform.os != "windows" {
            state.config.config.env.push(format!("PATH={DEFAULT_PATH}"));
        }
        for (place, pair) in state.config.config.env.iter().enumerate() {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            state.places.entry(name.to_owned()).or_insert(place);
            state.env.set(name, value);
        }
        if !state.config.config.working_dir.is_empty() {
            let path = clean_workdir("/", &state.config.config.working_dir);
            state.config.config.working_dir = path;
        }
        Ok(state)
    }
}

fn scratch(platform: &Arc<Platform>) -> StageState {
    let mut config = ImageConfig {
        os: platform.os.clone(),
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
        ..ImageConfig::default()
    };
    config.config.working_dir = "/".to_owned();
    StageState {
        node: None,
        config,
        env: Table::default(),
        places: HashMap::new(),
        build_args: Vec::new(),
        declared: None,
        platform: platform.clone(),
        base: None,
        base_history: 0,
        cmd_set: false,
        workdir_set: false,
    }
}

pub(super) fn push_history(config: &mut ImageConfig, created_by: String, layer: bool) {
    config.history.push(History {
        created_by: Some(created_by),
        comment: Some(HISTORY_COMMENT.into()),
        empty_layer: !layer,
        ..History::default()
    });
}

impl Walk<'_, '_> {
    fn instruction(
        &mut self,
        state: &mut StageState,
        instruction: &Instruction,
        triggered: bool,
    ) -> Result<(), Failure> {
        match &instruction.command {
            Command::Run(run) => self.run(state, instruction, run, triggered)?,
            Command::Copy(transfer) => self.copy(state, instruction, transfer, false, triggered)?,
            Command::Add(transfer) => self.copy(state, instruction, transfer, true, triggered)?,
            Command::Workdir(word) => self.workdir(state, instruction, word, triggered)?,
            Command::Env(pairs) => self.env(state, pairs)?,
            Command::Label(pairs) => self.label(state, pairs)?,
            Command::Arg(definitions) => self.arg(state, definitions)?,
            Command::User(word) => {
                let user = self.expand(state, word)?;
                push_history(&mut state.config, format!("USER {user}"), false);
                state.config.config.user = user.into_owned();
            }
            Command::Expose(words) => self.expose(state, words)?,
            Command::Volume(words) => self.volume(state, words)?,
            Command::Stopsignal(word) => {
                let signal = self.expand(state, word)?;
                parse_signal(&signal)
                    .map_err(|error| Diagnostic::error("E0610", word.span, error.to_string()))?;
                push_history(&mut state.config, format!("STOPSIGNAL {signal}"), false);
                state.config.config.stop_signal = Some(signal.into_owned());
            }
            Command::Shell(words) => {
                let words: Vec<String> = words.iter().map(|word| word.text.clone()).collect();
                let text = format!("SHELL [{}]", words.join(" "));
                state.config.config.shell = Some(words);
                push_history(&mut state.config, text, false);
            }
            Command::Healthcheck(check) => {
                let text;
                (state.config.config.healthcheck, text) = healthcheck(check);
                push_history(&mut state.config, text, false);
            }
            Command::Cmd(form) => {
                let args = with_shell(&state.config, form);
                push_history(&mut state.config, format!("CMD {}", quoted(&args)), false);
                state.config.config.cmd = Some(args);
                state.config.config.args_escaped = true;
                state.cmd_set = true;
            }
            Command::Entrypoint(form) => {
                let args = with_shell(&state.config, form);
                push_history(&mut state.config, format!("ENTRYPOINT {}", quoted(&args)), false);
                state.config.config.entrypoint = Some(args);
                if !state.cmd_set {
                    state.config.config.cmd = None;
                }
            }
            Command::Maintainer(word) => {
                state.config.author = Some(word.text.clone());
                push_history(&mut state.config, format!("MAINTAINER {}", word.text), false);
            }
            Command::Onbuild(onbuild) => {
                state.config.config.on_build.push(onbuild.expression.clone());
            }
            Command::From(_) | Command::Invalid => {
                unreachable!("FROM begins a stage, and files with errors are not planned")
            }
        }
        Ok(())
    }

    pub(super) fn escape(&self) -> crate::dockerfile::Escape {
        self.planner.dockerfile.directives.escape
    }

    pub(super) fn expand<'w>(
        &self,
        state: &StageState,
        word: &'w Word,
    ) -> Result<Cow<'w, str>, Failure> {
        Ok(word.text_in(&state.env, self.escape())?)
    }

    /// Names a step as BuildKit does: `[linux/arm64 build 2/5] RUN make`.
    fn name(&mut self, state: &StageState, text: &str, triggered: bool) -> String {
        self.done += 1;
        // Not by `format!`: there are thousands of steps, and this was a tenth of all that planning takes.
        let mut name = String::with_capacity(self.name.len() + text.len() + 64);
        name.push('[');
        if self.planner.multi {
            let target = &self.plan.target;
            name.push_str(&state.platform.to_string());
            if state.platform.architecture != target.architecture {
                name.extend(["->", &target.architecture]);
                if let Some(variant) = &target.variant {
                    name.extend(["/", variant]);
                }
            }
            name.push(' ');
        }
        let (done, total) = (self.done.to_string(), self.total.as_str());
        name.extend([&*self.name, " "]);
        name.extend(std::iter::repeat_n(' ', total.len().saturating_sub(done.len())));
        name.extend([done.as_str(), "/", total, if triggered { "] ONBUILD " } else { "] " }]);
        let (keyword, rest) = text.split_once(' ').unwrap_or((text, ""));
        match keyword.contains(char::is_lowercase) {
            true => name.push_str(&keyword.to_uppercase()),
            false => name.push_str(keyword),
        }
        name.extend([" ", rest]);
        name.truncate(name.trim_end().len());
        name
    }

    fn add(
        &mut self,
        state: &mut StageState,
        op: Op,
        inputs: Vec<NodeId>,
        name: String,
        span: Span,
    ) {
        let node = Node {
            op,
            parent: state.node,
            inputs,
            platform: state.platform.clone(),
            stage: self.name.clone(),
            name,
            span,
            no_cache: self.no_cache,
            part: 0,
        };
        state.node = Some(self.planner.add_node(node));
    }

    fn run(
        &mut self,
        state: &mut StageState,
        instruction: &Instruction,
        run: &RunInstruction,
        triggered: bool,
    ) -> Result<(), Failure> {
        refuse_run(run, &self.planner.request.allow)?;
        if state.platform.os != "linux" {
            return Err(Diagnostic::error(
                "E0611",
                instruction.span,
                format!("RUN needs a Linux root file system, this stage is {}", state.platform),
            )
            .with_help("indexes may hold Windows images, but their steps can't run here")
            .into());
        }
        let mut script = None;
        let args = match run.script(false) {
            Script::Exec(args) => args,
            Script::Shell(text) => shell(&state.config, text),
            Script::File { name, content } => {
                let path = format!("/dev/pipes/{name}");
                script = Some(Inline { name, data: content });
                shell(&state.config, path)
            }
        };
        let (mut mounts, mut inputs) = (Vec::with_capacity(run.mounts.len()), Vec::new());
        let mut masked = Vec::new();
        for mount in &run.mounts {
            let escape = self.escape();
            let env = &state.env;
            let spec = mount.resolve(&mut |word| word.text_in(env, escape))?;
            let resolved = self.mount(state, mount, spec, &mut inputs)?;
            if let MountKind::Secret { env: Some(name), .. } = &resolved.kind {
                masked.push(name.clone());
            }
            mounts.push(resolved);
        }
        super::mount::place_ssh(&mut mounts);
        let network = match run.network.as_ref().map(|network| network.value) {
            None => self.planner.request.network,
            Some(NetworkFlag::Default) => Network::Default,
            Some(NetworkFlag::None) => Network::None,
            Some(NetworkFlag::Host) => Network::Host,
        };
        let is_declared = |name: &str| state.build_args.iter().any(|(arg, _)| arg == name);
        let proxy = args::proxy_env(&self.planner.request.build_args)
            .into_iter()
            .filter(|(name, _)| !is_declared(name))
            .filter(|(name, _)| state.env.get(name).is_none())
            .collect();
        let shown = Without { env: &state.env, masked: &masked };
        let mut text = expand::expand_display(&instruction.original, &shown, self.escape());
        if let Some(heredoc) = run.heredocs.first() {
            text.to_mut().push_str(&format!(" ({})", summary(&heredoc.content)));
        }
        let name = self.name(state, &text, triggered);
        let declared =
            state.declared.get_or_insert_with(|| declared(&state.build_args, &state.env));
        let history = run_history(declared, &args);
        push_history(&mut state.config, history, true);
        let cwd = match state.config.config.working_dir.as_str() {
            "" => "/".to_owned(),
            path => path.to_owned(),
        };
        let op = Op::Run(Box::new(Run {
            args,
            script,
            env: state.env.list().clone(),
            proxy,
            cwd,
            user: state.config.config.user.clone(),
            network,
            mounts,
            insecure: run
                .security
                .as_ref()
                .is_some_and(|security| security.value == crate::dockerfile::Security::Insecure),
            devices: run
                .devices
                .iter()
                .map(|device| (device.name.clone(), device.required))
                .collect(),
        }));
        self.add(state, op, inputs, name, instruction.span);
        Ok(())
    }

    fn copy(
        &mut self,
        state: &mut StageState,
        instruction: &Instruction,
        transfer: &Transfer,
        add: bool,
        triggered: bool,
    ) -> Result<(), Failure> {
        let keyword = if add { "ADD" } else { "COPY" };
        let dest_text = self.expand(state, &transfer.destination)?;
        let mut sources = Vec::with_capacity(transfer.sources.len());
        let mut remotes: Vec<Option<(Remote, Span)>> = Vec::with_capacity(transfer.sources.len());
        let mut inline = Vec::new();
        let mut history = String::with_capacity(instruction.original.len() + 16);
        history.push_str(keyword);
        let parents = transfer.parents.as_ref().is_some_and(|flag| flag.value);
        if parents {
            history.push_str(" --parents");
        }
        let option = |walk: &Self, word: &Option<Word>| -> Result<Option<String>, Failure> {
            match word {
                Some(word) => {
                    let text = walk.expand(state, word)?;
                    Ok((!text.is_empty()).then(|| text.into_owned()))
                }
                None => Ok(None),
            }
        };
        let chown = option(self, &transfer.chown)?;
        if let (Some(word), None) = (&transfer.chown, &chown) {
            return Err(Diagnostic::error("E0613", word.span, "--chown has no value here")
                .with_help("give the variable a value, or name the owner: --chown=app:app")
                .into());
        }
        if let Some(chown) = &chown {
            history.extend([" --chown=", chown]);
        }
        let chmod = option(self, &transfer.chmod)?;
        if let Some(mode) = &chmod {
            mode.parse::<ChmodSpec>().map_err(|error| {
                let span = transfer.chmod.as_ref().map_or(instruction.span, |word| word.span);
                Diagnostic::error("E0614", span, error.to_string())
                    .with_help("as --chmod=755 or --chmod=u=rwX,go=rX")
            })?;
            history.extend([" --chmod=", mode]);
        }
        let checksum = match option(self, &transfer.checksum)? {
            Some(text) => {
                let span = transfer.checksum.as_ref().map_or(instruction.span, |word| word.span);
                if transfer.sources.len() != 1 {
                    let message = "checksum can't be specified for multiple sources";
                    return Err(Diagnostic::error("E0622", span, message)
                        .with_help("write one ADD for each source")
                        .into());
                }
                Some((text, span))
            }
            None => None,
        };
        for source in &transfer.sources {
            match source {
                Source::Path(word) => {
                    let text = self.expand(state, word)?;
                    history.extend([" ", &remote::redacted(&text)]);
                    let found = remote_source(&text, word.span, transfer, checksum.as_ref())?;
                    let pattern = match &found {
                        None => text.into_owned(),
                        Some(Remote::Git(_)) => "/".to_owned(),
                        Some(Remote::Url(_)) => remote::escape_pattern(&remote::file_name(&text)),
                    };
                    if found.is_some() && !add {
                        let what = match found {
                            Some(Remote::Git(_)) => "git ref",
                            _ => "URL",
                        };
                        let message = format!("source can't be a {what} for COPY");
                        return Err(Diagnostic::error("E0621", word.span, message)
                            .with_help("ADD takes remote sources")
                            .into());
                    }
                    sources.push(pattern);
                    remotes.push(found.map(|remote| (remote, word.span)));
                }
                Source::Heredoc(heredoc) => {
                    let mut data = heredoc.text().into_owned();
                    if heredoc.expand {
                        data = expand::expand_heredoc(&data, &state.env)
                            .map_err(|error| {
                                Diagnostic::error("E0501", heredoc.span, error.to_string())
                            })?
                            .text;
                    }
                    inline.push(Inline { name: heredoc.name.clone(), data });
                }
            }
        }
        if let Some((_, span)) = &checksum
            && !remotes.iter().any(Option::is_some)
        {
            return Err(Diagnostic::error(
                "E0622",
                *span,
                "checksum requires HTTP(S) or Git sources",
            )
            .with_help("drop --checksum: local files are digested anyway")
            .into());
        }
        for file in &inline {
            history.extend([" <<", &file.name]);
        }
        history.extend([" ", &dest_text, " # buildkit"]);
        let dest = clean_dest(&state.config.config.working_dir, &dest_text);
        if sources.len() + inline.len() > 1 && !dest.ends_with('/') {
            return Err(Diagnostic::error(
                "E0615",
                transfer.destination.span,
                format!(
                    "when using {keyword} with more than one source file, the destination must be a \
                     directory and end with a /"
                ),
            )
            .with_help(format!("write `{dest_text}/`"))
            .into());
        }
        let mut inputs = Vec::with_capacity(1);
        let mut origins = Vec::with_capacity(sources.len());
        for (source, remote) in sources.iter().zip(remotes) {
            let node = match (remote, &transfer.from) {
                (Some((remote, span)), _) => Some(self.planner.remote_node(remote, span)),
                (None, Some(from)) => {
                    self.planner.input(from, self.index, &state.platform, self.plan)?
                }
                (None, None) => Some(self.planner.local_node("")),
            };
            let Some(node) = node else {
                let from = transfer.from.as_ref().map_or("scratch", |word| word.text.as_str());
                return Err(Diagnostic::error(
                    "E0616",
                    instruction.span,
                    format!("{source:?} not found: {from:?} is empty"),
                )
                .into());
            };
            let place = inputs.iter().position(|input| *input == node);
            origins.push(place.unwrap_or_else(|| {
                inputs.push(node);
                inputs.len() - 1
            }));
        }
        if origins.iter().all(|origin| *origin == 0) {
            origins = Vec::new();
        }
        let text = expand::expand_display(&instruction.original, &state.env, self.escape());
        let name = self.name(state, &remote::redacted(&text), triggered);
        push_history(&mut state.config, history, true);
        let unpack = transfer.unpack.as_ref().map_or(add, |flag| flag.value);
        let unpack_remote = transfer.unpack.as_ref().is_some_and(|flag| flag.value);
        let op = Op::Copy(Box::new(Copy {
            add,
            sources,
            origins,
            inline,
            dest,
            chown,
            chmod,
            link: transfer.link.as_ref().is_some_and(|flag| flag.value),
            parents,
            exclude: transfer.exclude.iter().map(|word| word.text.clone()).collect(),
            unpack,
            unpack_remote,
        }));
        self.add(state, op, inputs, name, instruction.span);
        Ok(())
    }

    fn workdir(
        &mut self,
        state: &mut StageState,
        instruction: &Instruction,
        word: &Word,
        triggered: bool,
    ) -> Result<(), Failure> {
        let path = clean_workdir(&state.config.config.working_dir, &self.expand(state, word)?);
        state.config.config.working_dir = path.clone();
        let text = expand::expand_display(&instruction.original, &state.env, self.escape());
        let name = self.name(state, &text, triggered);
        push_history(&mut state.config, format!("WORKDIR {path}"), path != "/");
        if path != "/" {
            let op = Op::Workdir { path, user: state.config.config.user.clone() };
            self.add(state, op, Vec::new(), name, instruction.span);
        }
        Ok(())
    }

    fn env(&mut self, state: &mut StageState, pairs: &[KeyValue]) -> Result<(), Failure> {
        state.declared = None;
        let first = pairs.first().map_or(Span::default(), |pair| pair.key.span);
        let pairs = self.pairs(state, pairs)?;
        let mut text = String::with_capacity("ENV".len() + told(&pairs));
        text.push_str("ENV");
        for (name, value) in pairs {
            text.extend([" ", &name, "=", &value]);
            state.env.set(&name, &value);
            enough(state.env.list().len(), first)?;
            let pair = format!("{name}={value}");
            let env = &mut state.config.config.env;
            match state.places.get(&name) {
                Some(&place) => env[place] = pair,
                None => {
                    state.places.insert(name, env.len());
                    env.push(pair);
                }
            }
        }
        push_history(&mut state.config, text, false);
        Ok(())
    }

    fn label(&mut self, state: &mut StageState, pairs: &[KeyValue]) -> Result<(), Failure> {
        let pairs = self.pairs(state, pairs)?;
        let mut text = String::with_capacity("LABEL".len() + told(&pairs));
        text.push_str("LABEL");
        for (name, value) in pairs {
            text.extend([" ", &name, "=", &value]);
            state.config.config.labels.insert(name, value);
        }
        push_history(&mut state.config, text, false);
        Ok(())
    }

    /// Expands all pairs against the environment before the instruction.
    fn pairs(
        &self,
        state: &StageState,
        pairs: &[KeyValue],
    ) -> Result<Vec<(String, String)>, Failure> {
        pairs
            .iter()
            .map(|pair| {
                let name = self.expand(state, &pair.key)?.into_owned();
                if name.is_empty() {
                    return Err(Diagnostic::error(
                        "E0617",
                        pair.key.span,
                        "names can not be blank",
                    )
                    .into());
                }
                Ok((name, self.expand(state, &pair.value)?.into_owned()))
            })
            .collect()
    }

    fn arg(&mut self, state: &mut StageState, list: &[ArgDefinition]) -> Result<(), Failure> {
        state.declared = None;
        let mut texts = Vec::new();
        for definition in list {
            let name = &definition.name.text;
            let global =
                || self.plan.globals.iter().find(|(key, _)| key == name).map(|(_, v)| v.clone());
            let value = match (self.planner.request.build_args.get(name), &definition.default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(default)) => Some(self.expand(state, default)?.into_owned()),
                (None, None) => global(),
            };
            if let Some(value) = &value
                && !args::NOT_EXPORTED.contains(&name.as_str())
            {
                state.env.set(name, value);
                enough(state.env.list().len(), definition.name.span)?;
            }
            texts.push(match &value {
                Some(value) => format!("{name}={value}"),
                None => name.clone(),
            });
            state.build_args.push((name.clone(), value));
        }
        push_history(&mut state.config, format!("ARG {}", texts.join(" ")), false);
        Ok(())
    }
}

/// What names and values take in an entry of history, bytes.
fn told(pairs: &[(String, String)]) -> usize {
    pairs.iter().map(|(name, value)| name.len() + value.len() + 2).sum()
}

fn shell(config: &ImageConfig, text: String) -> Vec<String> {
    let mut args = Vec::with_capacity(3);
    match &config.config.shell {
        Some(shell) if !shell.is_empty() => args.extend_from_slice(shell),
        _ if config.os == "windows" => args.extend(["cmd", "/S", "/C"].map(str::to_owned)),
        _ => {
            args.push("/bin/sh".to_owned());
            args.push("-c".to_owned());
        }
    }
    args.push(text);
    args
}

fn with_shell(config: &ImageConfig, form: &Form) -> Vec<String> {
    match form {
        Form::Exec(_) => form.words(),
        Form::Shell(_) => shell(config, form.words().join(" ")),
    }
}
