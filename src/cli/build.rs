//! `lapstrake build`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::build::advice::Checks;
use crate::build::bases::{Bases, Pull as PullPolicy};
use crate::build::explain::Explain;
use crate::build::image::Product;
use crate::build::shell::{Execute, OnError, Wreck};
use crate::build::{Build, Options};
use crate::dockerfile::{self, Diagnostic, LineIndex};
use crate::graph::{self, Graph, Request, ResolveExit};
use crate::oci::Platform;
use crate::sandbox::{Isolation, cdi};
use crate::ui::diagnostic::Painter;
use crate::ui::github;
use crate::ui::progress::{Progress, Style};

use super::args::{
    BuildArgs, IsolationArg, LogFormat, OnErrorArg, PlanArgs, PlanFormat, ProgressArg, Pull,
};
use super::cache;
use super::environment::{Environment, threads};
use super::export::{Plan, export_all};
use super::load::Loader;
use super::options;
use super::output;
use super::report::{Exit, Report, Result};
use super::sources::{self, Main, Opened};
use super::{attest, call, edit, heap, plan, privilege};

/// Shows what checks of layers found, and says whether that is an error.
type Judge<'a> = &'a dyn Fn(Vec<Diagnostic>) -> Result<()>;

/// The `-o` that is `--load`.
const INTO_DOCKER: &str = "type=docker";

/// The most problems that are annotated for GitHub, whose limit is lower.
const ANNOTATED: usize = 100;

/// Runs the command.
pub fn run(args: &BuildArgs, env: &Environment) -> Result<()> {
    let mut asked = None;
    if args.output.iter().any(|output| output == INTO_DOCKER) {
        // As buildx has it: what has no destination goes to the engine.
        let asked = asked.insert(args.clone());
        asked.output.retain(|output| output != INTO_DOCKER);
        asked.load = true;
    }
    let result = run_build(asked.as_ref().unwrap_or(args), env, Goal::Image);
    if let (Err(report), LogFormat::Github) = (&result, args.log_format) {
        let whole = || github::error(&report.message);
        env.say(&report.annotation.clone().unwrap_or_else(whole));
    }
    result
}

/// Builds a stage, and opens a shell in it.
pub fn run_shell(stage: &str, args: &BuildArgs, env: &Environment) -> Result<()> {
    if args.push || args.load || !args.output.is_empty() || !args.tag.is_empty() {
        return Err(Report::usage(
            "a shell makes no image, so -t, -o, --push and --load have no place",
        ));
    }
    if args.platform.len() > 1 {
        return Err(Report::usage("a shell has one platform"));
    }
    run_build(args, env, Goal::Shell(stage))
}

/// Runs a program in the image that a Dockerfile makes; nothing is made of it.
pub fn run_execute(execute: &Execute, args: &BuildArgs, env: &Environment) -> Result<()> {
    run_build(args, env, Goal::Execute(execute))
}

/// Shows what a build would do.
pub fn run_plan(args: &PlanArgs, env: &Environment) -> Result<()> {
    if args.build.explain {
        return Err(Report::usage("a plan runs no step, so --explain has no place")
            .with_hint("lapstrake build --explain tells why steps were not cached"));
    }
    run_build(&args.build, env, Goal::Plan(args.format))
}

/// What a build is for.
#[derive(Clone, Copy)]
enum Goal<'a> {
    Image,
    /// A shell in a stage.
    Shell(&'a str),
    /// A program in the last stage.
    Execute(&'a Execute),
    /// To be shown only.
    Plan(PlanFormat),
}

fn run_build(args: &BuildArgs, env: &Environment, goal: Goal<'_>) -> Result<()> {
    let shell = match goal {
        Goal::Shell(stage) => Some(stage),
        // A step of a task has one stage.
        Goal::Execute(_) => Some("0"),
        _ => None,
    };
    options::refuse(args)?;
    env.cancel.on_signals();
    let host = Platform::host();
    let tags = options::tags(&args.tag)?;
    if args.push && tags.is_empty() {
        return Err(
            Report::usage("--push needs a name to push to").with_hint("add -t REGISTRY/NAME:TAG")
        );
    }
    let outputs =
        args.output.iter().map(|text| output::output(text)).collect::<Result<Vec<_>>>()?;
    let annotations = output::annotations(&args.annotation)?;
    let platforms = options::platforms(&args.platform, &host)?;
    let cache_from = cache::sources(&args.cache_from)?;
    let mounts = cache::mounts(&args.cache_mount)?;
    let attestations = attest::wanted(&args.attest)?;
    attest::check_outputs(&attestations, &outputs)?;
    let lookup = |name: &str| env.variable(name);
    let mut build_args = edit::build_arg_files(&args.edits, &env.cwd, &lookup)?;
    build_args.extend(options::build_args(&args.build_arg, &lookup)?);
    let cache_to = cache::targets(&edit::cache_to(&args.cache_to, &build_args))?;
    let epoch = epoch(&mut build_args, env)?;
    let call = call::requested(args)?;
    let checks = call::checks(&build_args)?;
    let built = if platforms.is_empty() { vec![host.clone()] } else { platforms.clone() };
    output::check(&outputs, &annotations, &built, &tags, epoch)?;
    let main = Main::parse(args, env)?;
    let early = match main.needs_store(args) {
        true => Some(Opened::new(args, env)?),
        false => None,
    };
    let source = sources::read_dockerfile(&main, args, env, early.as_ref())?;
    let style = style(args.quiet, args.progress, args.log_format);
    let memory = heap::ahead(&source.bytes);
    let parsed = dockerfile::parse_with(&source.bytes, checks);
    let painter = Painter::new(&source.name, &parsed.dockerfile.source, env.colour);
    let draw = |diagnostic: &Diagnostic| painter.paint(diagnostic);
    let place = source.shown_from(&env.cwd);
    let annotate =
        |diagnostic: &Diagnostic| github::annotation(&place, &parsed.dockerfile.source, diagnostic);
    let warn = |warning: &Diagnostic| {
        env.say(&format!("{}\n", draw(warning)));
        if args.log_format == LogFormat::Github {
            env.say(&annotate(warning));
        }
    };
    let quiet = style == Style::Quiet || style == Style::RawJson;
    let page = call::Page { env, name: &source.name, dockerfile: &parsed.dockerfile, draw: &draw };
    if let Some(call) = &call
        && let Some(result) = call::of_file(call, &page, &parsed)
    {
        return result;
    }
    if parsed.has_errors() {
        let errors = || parsed.diagnostics.iter().filter(|found| found.is_error());
        let drawn: Vec<String> = errors().map(draw).collect();
        let mut report = Report::new(Exit::Usage, "");
        report.excerpt = Some(drawn.join("\n"));
        // GitHub shows ten of a step.
        report.annotation = Some(errors().take(ANNOTATED).map(annotate).collect());
        return Err(report);
    }
    let opened = match early {
        Some(opened) => opened,
        None => Opened::new(args, env)?,
    };
    let (store, client) = (opened.store.clone(), Arc::clone(&opened.client));
    let contexts = sources::contexts(args, env, &store, &source)?;
    let mut bases = Bases::new(&store, client.clone(), env.cwd.clone());
    bases.offline = args.offline;
    bases.pull = match args.pull {
        None | Some(Pull::Missing | Pull::No) => PullPolicy::Missing,
        Some(Pull::Always) => PullPolicy::Always,
        Some(Pull::Never) => PullPolicy::Never,
        Some(Pull::Newer) => PullPolicy::Newer,
    };
    bases.contexts = contexts.named;
    let request = Request {
        platforms: platforms.clone(),
        host: Some(host.clone()),
        target: shell.map(str::to_owned).or_else(|| args.target.clone()),
        build_args,
        labels: options::pairs("--label", &args.label)?,
        edits: edit::edits(&args.edits, &lookup)?,
        no_cache: args.no_cache,
        no_cache_stages: args.no_cache_filter.clone(),
        network: options::network(args.network),
        allow: privilege::allow(&args.allow)?,
        all_stages: call.is_some() && args.target.is_none(),
    };
    if let Some(call) = &call {
        let ask = args.pull.is_some() && !args.offline;
        let found = parsed.diagnostics.clone();
        let result = call::of_plan(call, &page, found, &request, &mut bases, ask, &contexts.open);
        // The process is about to end; freeing each word of thousands of instructions takes time.
        std::mem::forget(parsed);
        return result;
    }
    let planned = graph::plan(&parsed.dockerfile, &request, &mut bases);
    // It has long ended. Steps are prepared by a process of one thread, as without it.
    drop(memory.map(JoinHandle::join));
    if planned.is_err() && !quiet {
        parsed.diagnostics.iter().for_each(warn);
    }
    let mut graph = planned.map_err(|failure| {
        let exit = match failure.exit {
            ResolveExit::Usage => Exit::Usage,
            ResolveExit::Network => Exit::Network,
            ResolveExit::Damaged => Exit::Damaged,
        };
        let mut report = located(exit, &failure.diagnostic, &draw);
        report.annotation = Some(annotate(&failure.diagnostic));
        report
    })?;
    let warnings =
        call::warnings(&parsed.dockerfile, parsed.diagnostics.clone(), &mut graph, &contexts.open);
    if !quiet {
        for warning in &warnings {
            if warning.span.is_empty() {
                let help = warning.help.as_ref().map_or(String::new(), |help| format!("; {help}"));
                env.say(&format!("warning: {}{help}\n", warning.message));
            } else {
                warn(warning);
            }
        }
    }
    call::refuse_findings(&parsed.dockerfile, &warnings)?;
    let progress = Progress::new(style, !env.colour);
    let place = source.path.as_ref().or(source.context.as_ref());
    let project = match place {
        Some(path) => path.canonicalize().unwrap_or_else(|_| path.clone()).display().to_string(),
        None => args.context.clone().unwrap_or_default(),
    };
    let build = Build {
        store: &store,
        contexts: contexts.open,
        remotes: &opened.remotes,
        lazy_contexts: contexts.lazy,
        bases: std::mem::take(&mut bases.sources),
        cache: cache::open(args, env, &client, &cache_from, &cache_to, &progress)?,
        carried: cache::open_mounts(env, &client, mounts)?,
        options: Options {
            secrets: opened.secrets.clone(),
            ssh: opened.ssh.clone(),
            ca_certs: opened.ca_certs.clone(),
            ..build_options(args, env, epoch, host)?
        },
        parts: Vec::new(),
        watch: &progress,
        explain: Explain::new(project, args.explain),
        checks: Checks::new(&parsed.dockerfile),
        cancel: &env.cancel,
        wants_roots: shell.is_some() || outputs.iter().any(|output| !output.kind.has_blobs()),
        wants_shell: shell.is_some(),
        wreck: Default::default(),
    };
    let judge = |found: Vec<Diagnostic>| {
        if !quiet && !found.is_empty() {
            progress.end();
            found.iter().for_each(warn);
        }
        call::refuse_findings(&parsed.dockerfile, &found)
    };
    if let Goal::Plan(format) = goal {
        let steps = build.preview(&graph);
        progress.end();
        let lines = LineIndex::new(&parsed.dockerfile.source);
        env.print(&plan::draw(format, &graph, &steps?, &lines));
        return Ok(());
    }
    let (push, load, shell) = (args.push, args.load, shell.is_some());
    let (results, first) = (0..graph.outputs.len(), graph.nodes.len());
    let plan =
        Plan { platforms, tags, outputs, annotations, epoch, push, load, shell, results, first };
    let text = &parsed.dockerfile.source;
    let asked = attest::asked(attestations, args, &request, &main, &source, text, plan.names());
    let result = build_and_export(env, &build, &graph, &plan, &asked, goal, &judge, &client);
    progress.end();
    if args.explain {
        env.say(&build.explain.text(&graph));
    }
    let product = match result {
        Ok(product) => product,
        Err(mut report) => {
            if report.excerpt.is_none()
                && let Some(span) = report.span.take()
            {
                let place = Diagnostic::error("E1001", span, report.message.clone());
                report.excerpt = Some(draw(&place));
                report.annotation = Some(annotate(&place));
                report.message.clear();
            }
            let wreck =
                build.wreck.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            return Err(match wreck {
                Some(wreck) => look_at(wreck, report, env),
                None => report,
            });
        }
    };
    finish(args, env, &plan, product)
}

/// Does what `--on-error` says with a failed step; gives the report that remains.
pub(super) fn look_at(wreck: Wreck, mut report: Report, env: &Environment) -> Report {
    if let Some(number) = &wreck.kept {
        report.hints.push(format!("to look at the step: lapstrake shell {number}"));
        return report;
    }
    report.print(env.colour);
    env.say(
        "\nA shell in the step, with its mounts and environment; what you change is lost when you leave\n",
    );
    let end = format!("{} failed", wreck.name);
    let term = env.variable("TERM");
    match wreck.open(term.as_deref(), &env.cancel) {
        Ok(()) => {
            let annotation = report.annotation.take();
            Report { annotation, ..Report::new(report.exit, end) }
        }
        Err(failure) => failure.into(),
    }
}

pub(super) fn located(
    exit: Exit,
    diagnostic: &Diagnostic,
    draw: &dyn Fn(&Diagnostic) -> String,
) -> Report {
    let whole = diagnostic.span.is_empty() && diagnostic.span.start == 0;
    let mut report =
        Report::new(exit, if whole { diagnostic.message.clone() } else { String::new() });
    if whole {
        report.hints.extend(diagnostic.help.clone());
    } else {
        report.excerpt = Some(draw(diagnostic));
    }
    report
}

/// SOURCE_DATE_EPOCH: a --build-arg, else the variable (which then is an argument too).
pub(super) fn epoch(args: &mut BTreeMap<String, String>, env: &Environment) -> Result<Option<i64>> {
    const NAME: &str = "SOURCE_DATE_EPOCH";
    let text =
        args.get(NAME).cloned().or_else(|| env.variable(NAME)).filter(|text| !text.is_empty());
    let Some(text) = text else { return Ok(None) };
    let epoch = text.trim().parse::<i64>().ok().filter(|epoch| *epoch >= 0).ok_or_else(|| {
        Report::usage(format!("{NAME}={text} is no number of seconds since 1970"))
            .with_hint(format!("as {NAME}=$(git log -1 --pretty=%ct)"))
    })?;
    args.insert(NAME.to_owned(), text);
    Ok(Some(epoch))
}

/// How progress is shown.
pub(super) fn style(quiet: bool, progress: ProgressArg, format: LogFormat) -> Style {
    match (quiet, progress) {
        (true, _) | (_, ProgressArg::Quiet) => Style::Quiet,
        (_, ProgressArg::Auto | ProgressArg::Plain) if format == LogFormat::Github => Style::Github,
        (_, ProgressArg::Auto) => Style::Auto,
        (_, ProgressArg::Tty) => Style::Tty,
        (_, ProgressArg::Plain) => Style::Plain,
        (_, ProgressArg::Rawjson) => Style::RawJson,
    }
}

/// Options of a build, without its secrets, agents and certificates.
pub(super) fn build_options(
    args: &BuildArgs,
    env: &Environment,
    epoch: Option<i64>,
    host: Platform,
) -> Result<Options> {
    let cores = threads();
    let jobs = match args.jobs {
        Some(0) => return Err(Report::usage("--jobs 0: at least one step must run at a time")),
        Some(jobs) => jobs,
        None => cores,
    };
    let isolation = match args.isolation {
        IsolationArg::Auto => Isolation::Auto,
        IsolationArg::Userns => Isolation::Userns,
        IsolationArg::UsernsSingle => Isolation::UsernsSingle,
        IsolationArg::Chroot => {
            return Err(Report::usage("--isolation chroot is not supported yet")
                .with_hint("run `lapstrake doctor` to see what this host allows"));
        }
    };
    let mut emulators = env.find_emulators();
    emulators.extend(options::emulators(&args.emulator)?);
    Ok(Options {
        user: env.user(),
        jobs,
        threads: cores,
        epoch,
        clock: env.now(),
        sandbox: env.sandbox_options(isolation),
        emulators,
        host,
        secrets: BTreeMap::new(),
        ssh: BTreeMap::new(),
        resolv_conf: edit::resolv_conf(&args.edits, env.resolv_conf())?,
        add_hosts: options::add_hosts(&args.add_host)?,
        hostname: hostname(args)?,
        shm_size: match &args.shm_size {
            Some(text) => Some(options::size("--shm-size", text)?),
            None => None,
        },
        limits: privilege::limits(&args.ulimit)?,
        ca_certs: None,
        cgroups: privilege::cgroups(args)?,
        cdi_dirs: match args.cdi_spec_dir.as_slice() {
            [] => cdi::DIRECTORIES.map(PathBuf::from).to_vec(),
            given => given.iter().map(|dir| env.cwd.join(dir)).collect(),
        },
        on_error: match args.on_error {
            OnErrorArg::Fail => OnError::Fail,
            OnErrorArg::Shell => OnError::Shell,
            OnErrorArg::Keep => OnError::Keep,
        },
    })
}

/// The host name of steps: --hostname, else the build argument that BuildKit has for it.
fn hostname(args: &BuildArgs) -> Result<String> {
    let mut arguments = args.build_arg.iter().rev();
    let argument = arguments
        .find_map(|text| text.strip_prefix("BUILDKIT_SANDBOX_HOSTNAME=").map(str::to_owned));
    let Some(name) = args.hostname.clone().or(argument) else {
        return Ok(crate::sandbox::DEFAULT_HOSTNAME.to_owned());
    };
    let fits = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if name.len() > 64 || !name.split('.').all(fits) {
        return Err(Report::usage(format!("--hostname {name}: this is no host name"))
            .with_hint("letters, digits, - and dots, 64 characters at most"));
    }
    Ok(name)
}

#[expect(clippy::too_many_arguments, reason = "what was gathered before the build, handed on once")]
fn build_and_export(
    env: &Environment,
    build: &Build<'_>,
    graph: &Graph,
    plan: &Plan,
    asked: &attest::Asked<'_>,
    goal: Goal<'_>,
    judge: Judge<'_>,
    client: &Arc<crate::registry::Client>,
) -> Result<Option<Product>> {
    let loader = if plan.load { Some(Loader::start(env)?) } else { None };
    let forms = plan.forms();
    let conductor = build.run(graph, &forms);
    for context in build.contexts.values() {
        // What is lost without it is time, and the next build says nothing of it either.
        let _ = context.save_stat_cache();
    }
    let conductor = conductor?;
    judge(build.checks.take(0))?;
    if plan.shell {
        let output =
            graph.outputs.first().ok_or_else(|| Report::usage("there is no such stage"))?;
        build.watch.rest();
        if let Goal::Execute(execute) = goal {
            return super::task::in_image(&conductor, output, execute).map(|()| None);
        }
        let term = env.variable("TERM");
        crate::build::shell::open(&conductor, output.node, &output.config, term.as_deref())?;
        return Ok(None);
    }
    export_all(env, &conductor, plan, asked, client, loader)
}

/// Gives what `--metadata-file` tells of an image.
pub(super) fn metadata(product: &Product, names: &[String]) -> serde_json::Value {
    let mut metadata = serde_json::json!({
        "containerimage.digest": product.root.digest,
        "containerimage.descriptor": product.root,
    });
    if let [image] = &product.images[..] {
        metadata["containerimage.config.digest"] = serde_json::json!(image.config);
    }
    if !names.is_empty() {
        metadata["image.name"] = serde_json::json!(names.join(","));
    }
    metadata
}

/// Tells the result: files that were asked for, and one line on standard output.
fn finish(
    args: &BuildArgs,
    env: &Environment,
    plan: &Plan,
    product: Option<Product>,
) -> Result<()> {
    let Some(product) = product else { return Ok(()) };
    let write = |path: &Path, text: String| -> Result<()> {
        super::environment::write_file(&env.cwd.join(path), text.as_bytes()).map_err(|error| {
            Report::of(Exit::Usage, &format!("cannot write {}", path.display()), &error)
        })
    };
    let id = match &product.images[..] {
        [image] => image.config,
        _ => product.root.digest,
    };
    if let Some(path) = &args.iidfile {
        write(path, id.to_string())?;
    }
    let references = plan.names();
    let names: Vec<String> = references.iter().map(ToString::to_string).collect();
    if let Some(path) = &args.metadata_file {
        write(path, format!("{:#}\n", metadata(&product, &names)))?;
    }
    let mut line = String::new();
    if args.quiet {
        line.push_str(&format!("{id}\n"));
    } else if names.is_empty() {
        line.push_str(&format!("{}\n", product.root.digest));
    }
    for tag in references.iter().filter(|_| !args.quiet) {
        line.push_str(&format!("{}@{}\n", tag.familiar(), product.root.digest));
    }
    let to_stdout = plan.outputs.iter().any(|output| output.dest.as_os_str() == "-");
    if to_stdout {
        env.say(&line)
    } else {
        env.print(&line)
    }
    if plan.tags.is_empty() && plan.outputs.is_empty() && !args.quiet {
        env.say("note: the image has no name; give it one with -t NAME, or write it with -o DIR\n");
    }
    Ok(())
}
