//! Builds the chosen targets: one store, one scheduler, one display, one session.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::attest::Wanted;
use crate::bake::Chosen;
use crate::build::advice::Checks;
use crate::build::bases::{Bases, Pull as PullPolicy};
use crate::build::explain::Explain;
use crate::build::{Build, Options};
use crate::context;
use crate::dockerfile::{self, Diagnostic};
use crate::graph::merge::Part;
use crate::graph::{self, Graph, Request, ResolveExit};
use crate::oci::Platform;
use crate::ui::diagnostic::Painter;
use crate::ui::github;
use crate::ui::progress::{Progress, Style};

use super::super::args::{BakeArgs, BuildArgs, LogFormat, Pull};
use super::super::build;
use super::super::environment::Environment;
use super::super::export::{self, Plan};
use super::super::load::Loader;
use super::super::report::{Exit, Report, Result};
use super::super::sources::{self, Contexts, DockerfileSource, Main, Opened};
use super::super::{attest, cache, call, edit, options, output, privilege};
use super::grants::{self, Grants};
use super::plan::{Planned, Planner, Trouble};
use super::remote::Definition;
use super::request::{self, Asked};

/// A target and where its Dockerfile comes from.
struct Target {
    asked: Asked,
    plan: Plan,
    source: DockerfileSource,
    main: Main,
    attestations: Wanted,
}

/// Builds all.
pub fn build(
    chosen: &Chosen,
    definition: Option<&Definition>,
    args: &BakeArgs,
    env: &Environment,
) -> Result<()> {
    // Those that were asked for come first, in that order; then those that they need.
    let linked = chosen.targets.keys().filter(|name| !chosen.wanted.contains(name));
    let names: Vec<&String> = chosen.wanted.iter().chain(linked).collect();
    let asked = names
        .iter()
        .map(|name| request::asked(&chosen.targets[*name], definition, args, env))
        .collect::<Result<Vec<Asked>>>()?;
    grants::check_names(&args.allow)?;
    if definition.is_some() {
        Grants::parse(&args.allow, env).check(&asked, env)?;
    }
    for asked in &asked {
        options::refuse(&asked.args).map_err(|report| named(report, &asked.name))?;
    }
    if asked
        .iter()
        .take(chosen.wanted.len())
        .any(|asked| asked.args.check || asked.args.call.is_some())
    {
        return answer(&asked[..chosen.wanted.len()], env);
    }
    env.cancel.on_signals();
    let result = build_all(asked, chosen.wanted.len(), args, env);
    if let (Err(report), LogFormat::Github) = (&result, args.log_format) {
        let whole = || github::error(&report.message);
        env.say(&report.annotation.clone().unwrap_or_else(whole));
    }
    result
}

fn named(mut report: Report, target: &str) -> Report {
    if !report.message.is_empty() {
        report.message = format!("target {target}: {}", report.message);
    }
    report
}

/// `--check` and `--call`: one answer a target.
fn answer(asked: &[Asked], env: &Environment) -> Result<()> {
    let mut result = Ok(());
    for one in asked {
        if asked.len() > 1 {
            env.say(&format!("# target {}\n", one.name));
        }
        let linked = one.links.iter().map(|(name, link)| format!("{name}={link}")).collect();
        // What one has to say does not depend on the others.
        let answer = build::run(&BuildArgs { linked, ..one.args.clone() }, env);
        if let Err(report) = answer
            && let Err(earlier) = std::mem::replace(&mut result, Err(report))
        {
            earlier.print(env.colour);
        }
    }
    result
}

/// The arguments that the store and the registries are opened with: secrets and agents of all.
fn shared(asked: &[Asked]) -> Result<BuildArgs> {
    let first = asked.first().ok_or_else(|| Report::usage("there is no target to build"))?;
    let mut all = first.args.clone();
    for (flag, list) in [
        ("secret", &mut all.secret as &mut Vec<String>),
        ("ssh", &mut all.ssh),
        ("cache-from", &mut all.cache_from),
        ("cache-to", &mut all.cache_to),
    ] {
        let of = |asked: &Asked| match flag {
            "secret" => asked.args.secret.clone(),
            "ssh" => asked.args.ssh.clone(),
            "cache-from" => asked.args.cache_from.clone(),
            _ => asked.args.cache_to.clone(),
        };
        for text in asked.iter().skip(1).flat_map(of) {
            if !list.contains(&text) {
                list.push(text);
            }
        }
    }
    let mut agents: BTreeMap<String, &String> = BTreeMap::new();
    for text in &all.ssh {
        let (id, _) = options::ssh(text)?;
        if agents.insert(id.clone(), text).is_some() {
            return Err(Report::usage(format!("two targets have different ssh for the id {id:?}"))
                .with_hint("give one of them another id"));
        }
    }
    Ok(all)
}

fn build_all(asked: Vec<Asked>, wanted: usize, args: &BakeArgs, env: &Environment) -> Result<()> {
    let host = Platform::host();
    let shared = shared(&asked)?;
    let opened = Opened::new(&shared, env)?;
    let store = opened.store.clone();
    let cache_from = cache::sources(&shared.cache_from)?;
    let cache_to = cache::targets(&shared.cache_to)?;
    let numbers: BTreeMap<String, usize> =
        asked.iter().enumerate().map(|(number, asked)| (asked.name.clone(), number)).collect();
    let mut targets = Vec::new();
    let mut plans = Vec::new();
    let mut all_options: Vec<Options> = Vec::new();
    let mut likeness: Vec<Vec<String>> = Vec::new();
    let mut contexts = Contexts::default();
    let mut epochs = BTreeSet::new();
    for (number, asked) in asked.into_iter().enumerate() {
        let name = asked.name.clone();
        let about = |report| named(report, &name);
        let one = &asked.args;
        let tags = options::tags(&one.tag).map_err(about)?;
        if one.push && tags.is_empty() {
            let report = Report::usage("a push needs a name to push to")
                .with_hint(format!("give it tags, or --set {name}.tags=REGISTRY/NAME:TAG"));
            return Err(about(report));
        }
        let outputs = one
            .output
            .iter()
            .map(|text| output::output(text))
            .collect::<Result<Vec<_>>>()
            .map_err(about)?;
        let platforms = options::platforms(&one.platform, &host).map_err(about)?;
        let annotations = output::annotations(&one.annotation).map_err(about)?;
        let lookup = |name: &str| env.variable(name);
        let mut build_args = options::build_args(&one.build_arg, &lookup).map_err(about)?;
        let epoch = build::epoch(&mut build_args, env).map_err(about)?;
        epochs.insert(epoch);
        let built = if platforms.is_empty() { vec![host.clone()] } else { platforms.clone() };
        output::check(&outputs, &annotations, &built, &tags, epoch).map_err(about)?;
        let attestations = attest::wanted(&one.attest).map_err(about)?;
        attest::check_outputs(&attestations, &outputs).map_err(about)?;
        let main = Main::parse(one, env).map_err(about)?;
        let source = sources::read_dockerfile(&main, one, env, Some(&opened)).map_err(about)?;
        let parsed = dockerfile::parse_with(&source.bytes, call::checks(&build_args)?);
        if parsed.has_errors() {
            let painter = Painter::new(&source.name, &parsed.dockerfile.source, env.colour);
            let errors = || parsed.diagnostics.iter().filter(|found| found.is_error());
            let drawn: Vec<String> = errors().map(|found| painter.paint(found)).collect();
            let place = source.shown_from(&env.cwd);
            let text = &parsed.dockerfile.source;
            let mut report = Report::new(Exit::Usage, "");
            report.excerpt = Some(drawn.join("\n"));
            report.annotation =
                Some(errors().map(|found| github::annotation(&place, text, found)).collect());
            return Err(report);
        }
        let own = sources::contexts(one, env, &store, &source).map_err(about)?;
        let mut links = Vec::new();
        for (context, link) in &asked.links {
            let text = [format!("{context}=target:{link}")];
            for found in options::named_contexts(&text).map_err(about)? {
                links.push((found.name, found.platform, numbers[link]));
            }
        }
        let part = Part {
            number,
            options: like(&mut likeness, one),
            name: name.clone(),
            contexts: join(&mut contexts, &own, one, &source),
        };
        all_options.push(Options {
            secrets: sources::secrets(one, env).map_err(about)?,
            ssh: opened.ssh.clone(),
            ca_certs: opened.ca_certs.clone(),
            ..build::build_options(one, env, epoch, host.clone()).map_err(about)?
        });
        plans.push(Planned {
            name: name.clone(),
            parsed,
            request: Request {
                platforms: platforms.clone(),
                host: Some(host.clone()),
                target: one.target.clone(),
                build_args,
                labels: options::pairs("--label", &one.label).map_err(about)?,
                no_cache: one.no_cache,
                no_cache_stages: one.no_cache_filter.clone(),
                network: options::network(one.network),
                allow: privilege::allow(&one.allow)?,
                all_stages: false,
                edits: edit::edits(&one.edits, &lookup)?,
            },
            named: own.named,
            links,
            pull: match one.pull {
                Some(Pull::Always) => PullPolicy::Always,
                _ => PullPolicy::Missing,
            },
            part,
        });
        let (push, load, shell) = (one.push, one.load, asked.cache_only);
        let plan = Plan {
            platforms,
            tags,
            outputs,
            annotations,
            epoch,
            push,
            load,
            shell,
            // Known when all is planned.
            results: 0..0,
            first: 0,
        };
        targets.push(Target { asked, plan, source, main, attestations });
    }
    if epochs.len() > 1 {
        return Err(Report::usage("targets have different SOURCE_DATE_EPOCH")
            .with_hint("set it once, in the environment: SOURCE_DATE_EPOCH=0 lapstrake bake"));
    }
    let mut dests = BTreeSet::new();
    for output in targets[..wanted].iter().flat_map(|target| &target.plan.outputs) {
        if !output.kind.is_named() && !dests.insert(output.dest.clone()) {
            return Err(Report::usage(format!(
                "two outputs have the same destination, {}",
                output.dest.display()
            )));
        }
    }
    let style = build::style(args.quiet, args.progress, args.log_format);
    let quiet = style == Style::Quiet || style == Style::RawJson;
    let paint = |part: usize, diagnostic: &Diagnostic| {
        let text = &plans[part].parsed.dockerfile.source;
        Painter::new(&targets[part].source.name, text, env.colour).paint(diagnostic)
    };
    let annotate = |part: usize, diagnostic: &Diagnostic| {
        let text = &plans[part].parsed.dockerfile.source;
        github::annotation(&targets[part].source.shown_from(&env.cwd), text, diagnostic)
    };
    let warn = |part: usize, warning: &Diagnostic| {
        if warning.span.is_empty() {
            let help = warning.help.as_ref().map_or(String::new(), |help| format!("; {help}"));
            env.say(&format!("warning: {}{help}\n", warning.message));
            return;
        }
        env.say(&paint(part, warning));
        if args.log_format == LogFormat::Github {
            env.say(&annotate(part, warning));
        }
    };
    let mut bases = Bases::new(&store, Arc::clone(&opened.client), env.cwd.clone());
    bases.offline = args.offline;
    // A target that several others use is planned for several platforms; its findings are told once.
    let mut told: BTreeSet<String> = BTreeSet::new();
    let mut refused = None;
    let mut seen = |part: usize, graph: &mut Graph| {
        let parsed = &plans[part].parsed;
        let main = plans[part].part.contexts.get("").and_then(|name| contexts.open.get(name));
        let main: BTreeMap<String, Arc<context::Context>> =
            main.map(|context| (String::new(), Arc::clone(context))).into_iter().collect();
        let found = call::warnings(&parsed.dockerfile, parsed.diagnostics.clone(), graph, &main);
        for warning in found.iter().filter(|_| !quiet) {
            if told.insert(format!("{} {warning:?}", targets[part].source.shown_from(&env.cwd))) {
                warn(part, warning);
            }
        }
        if let Err(report) = call::refuse_findings(&parsed.dockerfile, &found) {
            refused.get_or_insert(named(report, &plans[part].name));
        }
    };
    let mut planner = Planner::new(&plans, bases, &mut seen);
    let mut results: Vec<Vec<graph::Output>> = Vec::new();
    for number in 0..wanted {
        let found = planner.whole(number).map_err(|Trouble { part, failure }| {
            let exit = match failure.exit {
                ResolveExit::Usage => Exit::Usage,
                ResolveExit::Network => Exit::Network,
                ResolveExit::Damaged => Exit::Damaged,
            };
            let draw = |diagnostic: &Diagnostic| paint(part, diagnostic);
            let mut report = build::located(exit, &failure.diagnostic, &draw);
            report.annotation = Some(annotate(part, &failure.diagnostic));
            named(report, &plans[part].name)
        })?;
        results.push(found.iter().map(graph::merge::Result::output).collect::<Vec<_>>());
    }
    let Planner { mut bases, merge, .. } = planner;
    if let Some(report) = refused {
        return Err(report);
    }
    let mut graph = merge.graph;
    let mut first = graph.nodes.len();
    let ranges: Vec<(std::ops::Range<usize>, usize)> = results
        .into_iter()
        .zip(&targets)
        .map(|(results, target)| {
            let start = graph.outputs.len();
            graph.outputs.extend(results);
            let step = first;
            first += target.plan.outputs.len();
            (start..graph.outputs.len(), step)
        })
        .collect();
    let progress = Progress::new(style, !env.colour);
    let build = Build {
        store: &store,
        contexts: contexts.open.clone(),
        remotes: &opened.remotes,
        lazy_contexts: std::mem::take(&mut contexts.lazy),
        bases: std::mem::take(&mut bases.sources),
        cache: cache::open(&shared, env, &opened.client, &cache_from, &cache_to, &progress)?,
        // bake has no --cache-mount.
        carried: Default::default(),
        options: all_options[0].clone(),
        parts: all_options,
        watch: &progress,
        explain: Explain::new(env.cwd.display().to_string(), false),
        checks: Checks::several(plans.iter().map(|plan| &plan.parsed.dockerfile).collect()),
        cancel: &env.cancel,
        wants_roots: targets[..wanted]
            .iter()
            .any(|target| target.plan.outputs.iter().any(|output| !output.kind.has_blobs())),
        wants_shell: false,
        wreck: Default::default(),
    };
    // They are processes of their own, which must be there before a user namespace is entered.
    let loaders = targets[..wanted]
        .iter()
        .map(|target| target.plan.load.then(|| Loader::start(env)).transpose())
        .collect::<Result<Vec<_>>>()?;
    let forms = targets[..wanted].iter().flat_map(|target| target.plan.forms()).collect();
    let result = build.run(&graph, &forms);
    for context in build.contexts.values() {
        // What is lost without it is time, and the next build says nothing of it either.
        let _ = context.save_stat_cache();
    }
    let made = result.map_err(Report::from).and_then(|conductor| {
        for (part, plan) in plans.iter().enumerate() {
            let found = build.checks.take(part);
            if !quiet && !found.is_empty() {
                progress.end();
                found.iter().for_each(|found| warn(part, found));
            }
            call::refuse_findings(&plan.parsed.dockerfile, &found)?;
        }
        let mut made = Vec::new();
        let all = targets[..wanted].iter().zip(&ranges).zip(loaders);
        for ((target, (results, first)), loader) in all {
            let plan = Plan { results: results.clone(), first: *first, ..target.plan.clone() };
            let number = made.len();
            let text = &plans[number].parsed.dockerfile.source;
            let asked = attest::asked(
                target.attestations.clone(),
                &target.asked.args,
                &plans[number].request,
                &target.main,
                &target.source,
                text,
                plan.names(),
            );
            let alike =
                (0..plans.len()).filter(|other| plans[*other].parsed.dockerfile.source == *text);
            let asked = asked.among(alike.collect(), &plans[number].part.contexts);
            let product =
                export::export_all(env, &conductor, &plan, &asked, &opened.client, loader)
                    .map_err(|report| named(report, &target.asked.name))?;
            made.push(product);
        }
        Ok(made)
    });
    progress.end();
    let made = match made {
        Ok(made) => made,
        Err(mut report) => {
            if report.excerpt.is_none()
                && let Some(span) = report.span.take()
            {
                let place = Diagnostic::error("E1001", span, report.message.clone());
                report.excerpt = Some(paint(report.part, &place));
                report.annotation = Some(annotate(report.part, &place));
                report.message.clear();
            }
            let wreck =
                build.wreck.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            return Err(match wreck {
                Some(wreck) => build::look_at(wreck, report, env),
                None => report,
            });
        }
    };
    tell(args, env, &targets[..wanted], &made)
}

/// Tells the results: the metadata file, and lines on standard output.
fn tell(
    args: &BakeArgs,
    env: &Environment,
    targets: &[Target],
    made: &[Option<crate::build::image::Product>],
) -> Result<()> {
    let mut all = serde_json::Map::new();
    let mut lines = String::new();
    for (target, product) in targets.iter().zip(made) {
        let Some(product) = product else { continue };
        let references = target.plan.names();
        let names: Vec<String> = references.iter().map(ToString::to_string).collect();
        all.insert(target.asked.name.clone(), build::metadata(product, &names));
        let id = match &product.images[..] {
            [image] => image.config,
            _ => product.root.digest,
        };
        if args.quiet {
            lines.push_str(&format!("{id}\n"));
        } else if names.is_empty() {
            lines.push_str(&format!("{} {}\n", target.asked.name, product.root.digest));
        }
        for tag in references.iter().filter(|_| !args.quiet) {
            lines.push_str(&format!("{}@{}\n", tag.familiar(), product.root.digest));
        }
    }
    if let Some(path) = &args.metadata_file {
        let text = format!("{:#}\n", serde_json::Value::Object(all));
        super::super::environment::write_file(&env.cwd.join(path), text.as_bytes()).map_err(
            |error| Report::of(Exit::Usage, &format!("cannot write {}", path.display()), &error),
        )?;
    }
    let to_stdout = targets
        .iter()
        .any(|target| target.plan.outputs.iter().any(|output| output.dest.as_os_str() == "-"));
    if to_stdout {
        env.say(&lines)
    } else {
        env.print(&lines)
    }
    Ok(())
}

/// Numbers the options that steps may run under: targets with the same have the same number.
fn like(known: &mut Vec<Vec<String>>, args: &BuildArgs) -> usize {
    let marked = |mark: &str, list: &[String]| -> Vec<String> {
        list.iter().map(|text| format!("{mark} {text}")).collect()
    };
    let hostname = |text: &&String| text.starts_with("BUILDKIT_SANDBOX_HOSTNAME=");
    let hostnames: Vec<String> = args.build_arg.iter().filter(hostname).cloned().collect();
    let key = [
        marked("secret", &args.secret),
        marked("ssh", &args.ssh),
        marked("host", &args.add_host),
        marked("ulimit", &args.ulimit),
        marked("resource", &args.resources.resource),
        marked("shm", args.shm_size.as_slice()),
        hostnames,
    ]
    .concat();
    match known.iter().position(|other| *other == key) {
        Some(number) => number,
        None => {
            known.push(key);
            known.len() - 1
        }
    }
}

/// Puts a target's contexts to those of the others: the same directory under the same rules is one.
fn join(
    all: &mut Contexts,
    own: &Contexts,
    args: &BuildArgs,
    source: &DockerfileSource,
) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    for (name, context) in &own.open {
        let dockerfile = source.path.as_deref().filter(|_| name.is_empty());
        let rules = context::locate::ignore_rules(context.dir(), dockerfile);
        let rules = rules.ok().and_then(|(_, path)| path);
        let rules = rules.map_or_else(String::new, |path| path.display().to_string());
        let global = format!("{} {rules}", context.dir().display());
        all.open.entry(global.clone()).or_insert_with(|| Arc::clone(context));
        names.insert(name.clone(), global);
    }
    for (name, origin) in &own.lazy {
        let text = args.build_context.iter().find_map(|text| {
            let (known, source) = text.split_once('=')?;
            (known.to_lowercase() == *name.to_lowercase()).then_some(source)
        });
        let global = text.map_or_else(|| name.clone(), |source| format!("source {source}"));
        all.lazy.entry(global.clone()).or_insert_with(|| origin.clone());
        names.insert(name.clone(), global);
    }
    names
}
