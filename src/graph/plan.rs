//! From a Dockerfile to a [`Graph`]: which stages are needed, what their names mean, in what order.
//!
//! For each platform: expand the global ARGs, start at the target stage, follow FROM, `--from` and
//! the triggers of base images backwards to find the stages that are needed, then walk those in the
//! order of the file. What a single stage does is in [`super::stage`].

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use crate::dockerfile::expand;
use crate::dockerfile::{
    Command, Diagnostic, Dockerfile, Instruction, Span, Stage, Word, parse_trigger, suggest,
};
use crate::oci::{ImageConfig, Platform};

use super::budget::Budget;
use super::likeness::{likeness, place};
use super::relocate::relocate;
use super::remote::{Remote, printable};
use super::stage::StageState;
use super::{
    BaseImage, Copy, Graph, Inline, Node, NodeId, Op, Output, Request, ResolveError, ResolveExit,
    Resolved, Resolver, args, check,
};

/// Why there is no plan.
#[derive(Debug)]
pub struct Failure {
    /// What is wrong, and where.
    pub diagnostic: Diagnostic,
    /// Which exit code fits.
    pub exit: ResolveExit,
}

impl From<Diagnostic> for Failure {
    fn from(diagnostic: Diagnostic) -> Failure {
        Failure { diagnostic, exit: ResolveExit::Usage }
    }
}

/// Plans a build. The Dockerfile must have parsed without errors.
pub fn plan(
    dockerfile: &Dockerfile,
    request: &Request,
    resolver: &mut dyn Resolver,
) -> Result<Graph, Failure> {
    let stages = dockerfile.stages();
    if stages.is_empty() {
        return Err(Diagnostic::error(
            "E0601",
            Span::default(),
            "dockerfile contains no stages to build",
        )
        .with_help("begin a stage with `FROM image` or `FROM scratch`")
        .into());
    }
    let host = request.host.clone().unwrap_or_else(Platform::host);
    let implicit = request.platforms.is_empty();
    let platforms = if implicit { vec![host.clone()] } else { request.platforms.clone() };
    let mut planner = Planner {
        dockerfile,
        stages,
        request,
        resolver,
        host: host.into(),
        implicit,
        multi: platforms.len() > 1,
        graph: Graph::default(),
        known: HashMap::new(),
        locals: BTreeMap::new(),
        images: HashMap::new(),
        budget: Budget::default(),
    };
    let target = planner.target()?;
    check::froms(&mut planner, &platforms[0]);
    for platform in platforms {
        planner.plan_platform(platform, target)?;
    }
    planner.warn_of_unused_args();
    Ok(planner.graph)
}

/// What a stage starts from.
#[derive(Clone)]
pub(super) enum Base {
    /// An earlier stage.
    Stage(usize),
    /// An image.
    Image(usize),
    /// A directory, by the name of its context.
    Directory(String),
    /// Nothing.
    Scratch,
}

/// A stage before it is walked.
pub(super) struct Prepared {
    pub base: Base,
    pub platform: Arc<Platform>,
    /// `--platform` was given.
    pub explicit_platform: bool,
    /// The stage is replaced as a whole by a named context.
    pub replaced: bool,
    pub triggers: Vec<Instruction>,
}

pub(super) struct Planner<'a> {
    pub dockerfile: &'a Dockerfile,
    pub stages: Vec<Stage<'a>>,
    pub request: &'a Request,
    pub resolver: &'a mut dyn Resolver,
    pub host: Arc<Platform>,
    /// No platform was asked for.
    pub implicit: bool,
    /// Several were.
    pub multi: bool,
    pub graph: Graph,
    /// Nodes by [`place`], or by the next number when that one is taken.
    known: HashMap<u64, NodeId>,
    /// Nodes of local directories: nearly every COPY asks for the build context.
    locals: BTreeMap<String, NodeId>,
    images: HashMap<(String, Platform), Rc<Found>>,
    pub budget: Budget,
}

/// What a name stands for; looked up once a platform.
enum Found {
    Image(usize),
    Directory(String),
    Scratch,
}

/// What all stages of one platform share.
pub(super) struct PlatformPlan {
    pub target: Arc<Platform>,
    pub globals: Vec<(String, String)>,
    pub prepared: BTreeMap<usize, Prepared>,
    pub states: HashMap<usize, StageState>,
}

impl<'a> Planner<'a> {
    fn target(&self) -> Result<usize, Failure> {
        let Some(name) = &self.request.target else {
            return Ok(self.stages.len() - 1);
        };
        if let Some(index) = self.find_stage(name, self.stages.len()) {
            return Ok(index);
        }
        let names = self.stages.iter().filter_map(Stage::name);
        Err(Diagnostic::error(
            "E0602",
            Span::default(),
            format!("target stage {name:?} could not be found"),
        )
        .with_suggestion(suggest(name, names, true))
        .into())
    }

    /// Finds the latest stage before `limit` with this name (in any case) or number.
    pub fn find_stage(&self, name: &str, limit: usize) -> Option<usize> {
        let lower = name.to_lowercase();
        let by_name =
            self.stages[..limit].iter().rev().find(|stage| stage.name() == Some(lower.as_str()));
        match by_name {
            Some(stage) => Some(stage.index),
            None => name.parse::<usize>().ok().filter(|&index| index < limit),
        }
    }

    /// Warns of `--build-arg`s that no ARG declares and that mean nothing by themselves.
    fn warn_of_unused_args(&mut self) {
        let declared: std::collections::BTreeSet<&str> = self
            .dockerfile
            .instructions
            .iter()
            .filter_map(|instruction| match &instruction.command {
                Command::Arg(list) => Some(list),
                _ => None,
            })
            .flatten()
            .map(|definition| definition.name.text.as_str())
            .collect();
        for name in self.request.build_args.keys().filter(|name| args::is_without_effect(name)) {
            if !declared.contains(name.as_str()) {
                let message = format!("build-arg {name} has no effect here");
                let warning = Diagnostic::warning("W0602", Span::default(), message);
                self.graph.warnings.push(match args::way_out(name) {
                    Some(help) => warning.with_help(help),
                    None => warning,
                });
            }
        }
        let automatic = args::automatic(&self.host, &self.host, "", &BTreeMap::new());
        let unused: Vec<&str> = self
            .request
            .build_args
            .keys()
            .map(String::as_str)
            .filter(|name| !declared.contains(name))
            .filter(|name| !args::is_proxy(name) && !name.starts_with("BUILDKIT_"))
            .filter(|name| *name != "SOURCE_DATE_EPOCH")
            .filter(|name| automatic.iter().all(|(known, _)| known != name))
            .collect();
        if !unused.is_empty() {
            let message = format!("build-args [{}] were not consumed", unused.join(" "));
            let mut warning = Diagnostic::warning("W0601", Span::default(), message);
            if let [name] = unused[..] {
                warning = warning.with_suggestion(suggest(name, declared, true));
            }
            self.graph.warnings.push(warning);
        }
    }

    fn plan_platform(&mut self, target: Platform, target_stage: usize) -> Result<(), Failure> {
        let globals = self.global_args(&target)?;
        let target = Arc::new(target);
        let mut plan =
            PlatformPlan { target, globals, prepared: BTreeMap::new(), states: HashMap::new() };
        let mut todo = vec![target_stage];
        if self.request.all_stages {
            todo.extend(0..self.stages.len());
        }
        while let Some(index) = todo.pop() {
            if plan.prepared.contains_key(&index) {
                continue;
            }
            let prepared = self.prepare(index, &plan)?;
            if let Base::Stage(base) = prepared.base {
                todo.push(base);
            }
            if !prepared.replaced {
                let body = self.stages[index].body;
                for instruction in prepared.triggers.iter().chain(body) {
                    for name in froms(instruction) {
                        self.check_from(name, index)?;
                        todo.extend(self.stage_of(&name.text, index, &plan.target)?);
                    }
                }
            }
            self.graph.checks.reach(index, &prepared.base, &self.graph.images);
            plan.prepared.insert(index, prepared);
        }
        let order: Vec<usize> = plan.prepared.keys().copied().collect();
        for index in order {
            let state = self.walk_stage(index, &plan)?;
            plan.states.insert(index, state);
        }
        let Some(state) = plan.states.remove(&target_stage) else {
            unreachable!("the target stage was prepared first and walked with the others");
        };
        self.finish(&plan.target, state);
        Ok(())
    }

    /// Gives the stage that a `--from` means; None when it is an image or a context.
    pub fn stage_of(
        &mut self,
        name: &str,
        current: usize,
        platform: &Platform,
    ) -> Result<Option<usize>, Failure> {
        // A named context of that name wins over the stage; a stage with its own AS name does that
        // check itself when it is prepared.
        let found = self.find_stage(name, current);
        if let Some(index) = found
            && self.stages[index].name().is_none()
            && self.has_context(name, platform)
        {
            return Ok(None);
        }
        Ok(found)
    }

    fn has_context(&mut self, name: &str, platform: &Platform) -> bool {
        matches!(self.resolver.named_context(name, platform), Ok(Some(_)))
    }

    fn check_from(&self, from: &Word, current: usize) -> Result<(), Failure> {
        let later = self.find_stage(&from.text, self.stages.len());
        if let Some(later) = later
            && later >= current
            && self.find_stage(&from.text, current).is_none()
        {
            let own = self.stages[current].name().unwrap_or("this stage");
            return Err(Diagnostic::error(
                "E0603",
                from.span,
                format!(
                    "cannot copy from stage {:?}, it needs to be defined before current stage {own:?}",
                    from.text
                ),
            )
            .with_label(if later == current { "this very stage" } else { "defined further down" })
            .with_help("move that stage above this one")
            .into());
        }
        Ok(())
    }

    /// Expands the ARGs before the first FROM (BuildKit: `buildMetaArgs`).
    fn global_args(&self, target: &Platform) -> Result<Vec<(String, String)>, Failure> {
        self.global_args_with(target, &self.request.build_args)
    }

    /// The same with other values of ARGs; the automatic ones stay as the request has them.
    pub fn global_args_with(
        &self,
        target: &Platform,
        build_args: &BTreeMap<String, String>,
    ) -> Result<Vec<(String, String)>, Failure> {
        let stage = self.request.target.clone().unwrap_or_default();
        let mut env = args::automatic(&self.host, target, &stage, &self.request.build_args);
        let mut budget = Budget::default();
        for (_, definition) in self.dockerfile.global_args() {
            let name = &definition.name.text;
            let value = match (build_args.get(name), &definition.default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(default)) => {
                    Some(default.expand(&env, self.dockerfile.directives.escape)?.text)
                }
                (None, None) => None,
            };
            if let Some(value) = value {
                budget.spend(value.len(), definition.name.span)?;
                set(&mut env, name, value);
                enough(env.len(), definition.name.span)?;
            }
        }
        Ok(env)
    }

    fn prepare(&mut self, index: usize, plan: &PlatformPlan) -> Result<Prepared, Failure> {
        let from = self.stages[index].from;
        let escape = self.dockerfile.directives.escape;
        let (platform, explicit_platform) = match &from.platform {
            None => (plan.target.clone(), false),
            Some(word) => {
                let expanded = word.expand(&plan.globals, escape)?;
                if expanded.text.is_empty() {
                    return Err(self.empty_word("platform", word, &expanded, plan));
                }
                let platform = expanded.text.parse::<Platform>().map_err(|error| {
                    Diagnostic::error(
                        "E0604",
                        word.span,
                        format!("failed to parse platform {:?}: {error}", expanded.text),
                    )
                    .with_help("a platform is os/arch[/variant], as linux/arm64 or linux/arm/v7")
                })?;
                (Arc::new(platform), true)
            }
        };
        let expanded = from.image.expand(&plan.globals, escape)?;
        if expanded.text.is_empty() {
            return Err(self.empty_word("base name", &from.image, &expanded, plan));
        }
        let name = expanded.text;
        if let Some(alias) = &from.alias
            && let Some(found) = self.context(&alias.name, &platform, from.image.span)?
        {
            let base = self.base_of(&found);
            return Ok(Prepared {
                base,
                platform,
                explicit_platform,
                replaced: true,
                triggers: Vec::new(),
            });
        }
        let base = match self.stage_as_base(&name, index, &platform, from.image.span)? {
            Some(stage) => Base::Stage(stage),
            None => {
                let found = self.lookup(&name, &platform, &from.image)?;
                self.base_of(&found)
            }
        };
        let triggers = self.triggers(&base, index)?;
        Ok(Prepared { base, platform, explicit_platform, replaced: false, triggers })
    }

    /// FROM finds earlier stages by name only, after named contexts.
    fn stage_as_base(
        &mut self,
        name: &str,
        index: usize,
        platform: &Platform,
        span: Span,
    ) -> Result<Option<usize>, Failure> {
        let lower = name.to_lowercase();
        let stage = self.stages[..index]
            .iter()
            .rev()
            .find(|stage| stage.name() == Some(lower.as_str()))
            .map(|stage| stage.index);
        if stage.is_some() {
            return Ok(stage);
        }
        // A stage number is no base name, but people try.
        if let Ok(number) = name.parse::<usize>()
            && number < index
            && self.context(name, platform, span)?.is_none()
        {
            return Ok(Some(number));
        }
        Ok(None)
    }

    fn base_of(&self, found: &Found) -> Base {
        match found {
            Found::Image(index) => Base::Image(*index),
            Found::Directory(name) => Base::Directory(name.clone()),
            Found::Scratch => Base::Scratch,
        }
    }

    /// Collects the ONBUILD triggers that a base brings.
    fn triggers(&self, base: &Base, index: usize) -> Result<Vec<Instruction>, Failure> {
        let texts: Vec<String> = match base {
            Base::Stage(stage) => self.stages[*stage]
                .body
                .iter()
                .filter_map(|instruction| match &instruction.command {
                    Command::Onbuild(onbuild) => Some(onbuild.expression.clone()),
                    _ => None,
                })
                .collect(),
            Base::Image(image) => self.graph.images[*image].config.config.on_build.clone(),
            Base::Directory(_) | Base::Scratch => Vec::new(),
        };
        let span = self.stages[index].instruction.span;
        let mut out = Vec::new();
        for text in texts {
            let parsed = parse_trigger(&text);
            let error = parsed.diagnostics.iter().find(|diagnostic| diagnostic.is_error());
            if let Some(error) = error {
                return Err(Diagnostic::error(
                    "E0605",
                    span,
                    format!("bad ONBUILD trigger {text:?} of the base image: {}", error.message),
                )
                .with_label("the base image of this stage")
                .into());
            }
            for mut instruction in parsed.dockerfile.instructions {
                // Places in the trigger mean nothing to the user: point to FROM.
                relocate(&mut instruction, span);
                out.push(instruction);
            }
        }
        Ok(out)
    }

    fn empty_word(
        &self,
        what: &str,
        word: &Word,
        expanded: &expand::Expanded,
        plan: &PlatformPlan,
    ) -> Failure {
        let names: Vec<&str> = plan.globals.iter().map(|(name, _)| name.as_str()).collect();
        let suggestion =
            expanded.unset.iter().find_map(|name| suggest(name, names.iter().copied(), true));
        let unset: Vec<&str> = expanded.unset.iter().map(String::as_str).collect();
        let mut diagnostic = Diagnostic::error(
            "E0606",
            word.span,
            format!("{what} ({}) should not be blank", word.text),
        );
        if !unset.is_empty() {
            diagnostic = diagnostic
                .with_label(format!("{} has no value here", unset.join(", ")))
                .with_help(format!(
                    "declare it before the first FROM: `ARG {}=value`, or give --build-arg",
                    unset.join(" ")
                ));
        }
        diagnostic.with_suggestion(suggestion).into()
    }

    fn context(
        &mut self,
        name: &str,
        platform: &Platform,
        span: Span,
    ) -> Result<Option<Rc<Found>>, Failure> {
        let key = (format!("context {name}"), platform.clone());
        if let Some(found) = self.images.get(&key) {
            return Ok(Some(found.clone()));
        }
        let found = match self.resolver.named_context(name, platform) {
            Ok(None) => return Ok(None),
            Ok(Some(Resolved::Image(image))) => Found::Image(self.add_image(*image)),
            Ok(Some(Resolved::Directory(context))) => Found::Directory(context),
            Ok(Some(Resolved::Scratch)) => Found::Scratch,
            Err(error) => return Err(resolve_failure(name, error, span)),
        };
        let found = Rc::new(found);
        self.images.insert(key, found.clone());
        Ok(Some(found))
    }

    /// Finds what a name means that is no stage: named context, `scratch`, image.
    fn lookup(
        &mut self,
        name: &str,
        platform: &Platform,
        word: &Word,
    ) -> Result<Rc<Found>, Failure> {
        if let Some(found) = self.context(name, platform, word.span)? {
            return Ok(found);
        }
        if name == "scratch" {
            return Ok(Rc::new(Found::Scratch));
        }
        let key = (name.to_owned(), platform.clone());
        if let Some(found) = self.images.get(&key) {
            return Ok(found.clone());
        }
        let image = self.resolver.image(name, platform).map_err(|error| {
            let mut failure = resolve_failure(name, error, word.span);
            let names = self.stages.iter().filter_map(Stage::name);
            if let Some(stage) = suggest(name, names, true) {
                failure.diagnostic =
                    failure.diagnostic.with_help(format!("did you mean the stage `{stage}`?"));
            }
            failure
        })?;
        let found = Rc::new(Found::Image(self.add_image(image)));
        self.images.insert(key, found.clone());
        Ok(found)
    }

    fn add_image(&mut self, image: BaseImage) -> usize {
        self.graph.images.push(image);
        self.graph.images.len() - 1
    }

    /// Gives the file system that a `--from` names, as an input.
    pub fn input(
        &mut self,
        from: &Word,
        current: usize,
        platform: &Arc<Platform>,
        plan: &PlatformPlan,
    ) -> Result<Option<NodeId>, Failure> {
        if let Some(stage) = self.stage_of(&from.text, current, &plan.target)? {
            let Some(state) = plan.states.get(&stage) else {
                unreachable!("stages that a --from names were prepared and come earlier");
            };
            return Ok(state.node);
        }
        let found = self.lookup(&from.text, platform, from)?;
        Ok(match &*found {
            Found::Image(image) => self.image_node(*image, platform, current),
            Found::Directory(context) => Some(self.local_node(context)),
            Found::Scratch => None,
        })
    }

    /// Makes the node of a base image; None when it has no layers.
    pub fn image_node(
        &mut self,
        image: usize,
        platform: &Arc<Platform>,
        stage: usize,
    ) -> Option<NodeId> {
        let base = &self.graph.images[image];
        if base.config.rootfs.diff_ids.is_empty() {
            return None;
        }
        let prefix = if self.multi { format!("[{platform}] ") } else { String::new() };
        let name = format!("{prefix}FROM {}", base.name);
        let instruction = self.stages[stage].instruction;
        Some(self.add_node(Node {
            op: Op::Image { image },
            parent: None,
            inputs: Vec::new(),
            platform: platform.clone(),
            stage: "".into(),
            name,
            span: instruction.span,
            no_cache: false,
            part: 0,
        }))
    }

    /// Makes the node of a local directory.
    pub fn local_node(&mut self, context: &str) -> NodeId {
        if let Some(&id) = self.locals.get(context) {
            return id;
        }
        let name = if context.is_empty() {
            "[internal] load build context".to_owned()
        } else {
            format!("[context {context}] load from client")
        };
        let id = self.add_node(Node {
            op: Op::Local { context: context.to_owned() },
            parent: None,
            inputs: Vec::new(),
            platform: self.host.clone(),
            stage: "".into(),
            name,
            span: Span::default(),
            no_cache: false,
            part: 0,
        });
        self.locals.insert(context.to_owned(), id);
        id
    }

    /// Makes the node of a source on another machine. It is fetched once, whatever platform wants it.
    pub fn remote_node(&mut self, remote: Remote, span: Span) -> NodeId {
        let name = format!("[internal] load {}", printable(&remote.shown()));
        self.add_node(Node {
            op: Op::Remote(Box::new(remote)),
            parent: None,
            inputs: Vec::new(),
            platform: self.host.clone(),
            stage: "".into(),
            name,
            span,
            no_cache: self.request.no_cache,
            part: 0,
        })
    }

    /// Makes a root file system out of a local directory (FROM a named context).
    pub fn directory_base(
        &mut self,
        context: &str,
        platform: &Arc<Platform>,
        stage: usize,
    ) -> NodeId {
        let local = self.local_node(context);
        self.add_node(Node {
            op: Op::Copy(Box::new(Copy {
                add: false,
                sources: vec!["/".to_owned()],
                origins: Vec::new(),
                inline: Vec::<Inline>::new(),
                dest: "/".to_owned(),
                chown: None,
                chmod: None,
                link: false,
                parents: false,
                exclude: Vec::new(),
                unpack: false,
                unpack_remote: false,
            })),
            parent: None,
            inputs: vec![local],
            platform: platform.clone(),
            stage: "".into(),
            name: format!("FROM {context}"),
            span: self.stages[stage].instruction.span,
            no_cache: false,
            part: 0,
        })
    }

    /// Adds a node, or finds the equal one that there is.
    pub fn add_node(&mut self, node: Node) -> NodeId {
        let nodes = &mut self.graph.nodes;
        let mut place = place(&node);
        loop {
            match self.known.entry(place) {
                Entry::Occupied(entry) if likeness(&nodes[*entry.get()]) == likeness(&node) => {
                    return *entry.get();
                }
                Entry::Occupied(_) => place = place.wrapping_add(1),
                Entry::Vacant(entry) => {
                    entry.insert(nodes.len());
                    nodes.push(node);
                    return nodes.len() - 1;
                }
            }
        }
    }

    /// Makes room for more nodes.
    pub fn reserve(&mut self, count: usize) {
        self.graph.nodes.reserve(count);
        self.known.reserve(count);
    }

    /// Turns the target stage into a result (BuildKit: `finalizeResultImage`).
    fn finish(&mut self, target: &Platform, state: StageState) {
        let mut config: ImageConfig = state.config;
        self.request.edits.apply(&mut config.config);
        for (name, value) in &self.request.labels {
            config.config.labels.insert(name.clone(), value.clone());
        }
        let mut platform = target.clone();
        let same = config.os == target.os && config.architecture == target.architecture;
        if self.implicit && !config.architecture.is_empty() && !same {
            // Nobody asked for a platform: the image keeps the one of its base.
            platform = Platform {
                os: config.os.clone(),
                architecture: config.architecture.clone(),
                variant: config.variant.clone(),
                ..platform
            };
        } else {
            config.os = target.os.clone();
            config.architecture = target.architecture.clone();
            if target.variant.is_some() || !same {
                config.variant = target.variant.clone();
            }
            if target.os_version.is_some() || !same {
                config.os_version = target.os_version.clone();
            }
            if !target.os_features.is_empty() {
                config.os_features = target.os_features.clone();
            }
        }
        self.graph.outputs.push(Output {
            platform,
            node: state.node,
            config,
            base_history: state.base_history,
            base: state.base,
        });
    }
}

/// How many variables there may be at a time: the kernel takes 2 MiB of them for a program by default
/// (a quarter of RLIMIT_STACK).
const MOST_VARIABLES: usize = 4_000;

/// Fails when there are more variables than any program could be given.
pub(super) fn enough(count: usize, span: Span) -> Result<(), Failure> {
    if count <= MOST_VARIABLES {
        return Ok(());
    }
    let message = format!("this is one variable too many: there are {MOST_VARIABLES} already");
    Err(Diagnostic::error("E0624", span, message)
        .with_help("put them into a file that a RUN reads")
        .into())
}

/// Sets a variable, in place when it exists.
pub(super) fn set(env: &mut Vec<(String, String)>, name: &str, value: String) {
    match env.iter_mut().find(|(key, _)| key == name) {
        Some(pair) => pair.1 = value,
        None => env.push((name.to_owned(), value)),
    }
}

/// Gives what the `--from`s of an instruction name.
pub(super) fn froms(instruction: &Instruction) -> Vec<&Word> {
    match &instruction.command {
        Command::Copy(copy) => copy.from.iter().collect(),
        Command::Run(run) => run.mounts.iter().filter_map(|mount| mount.from()).collect(),
        _ => Vec::new(),
    }
}

fn resolve_failure(name: &str, error: ResolveError, span: Span) -> Failure {
    let mut diagnostic = Diagnostic::error("E0607", span, format!("{name}: {}", error.message));
    if let Some(hint) = error.hint {
        diagnostic = diagnostic.with_help(hint);
    }
    Failure { diagnostic, exit: error.exit }
}
