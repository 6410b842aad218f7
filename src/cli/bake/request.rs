//! One target as the arguments of `build`: what `build` checks and refuses, bake does as well.

use clap::{Parser, ValueEnum};

use crate::bake::Target;
use crate::bake::target::entry_text;

use super::super::args::{BakeArgs, BuildArgs, Cli, Command, GivenDockerfile, NetworkMode, Pull};
use super::super::environment::Environment;
use super::super::report::{Report, Result};
use super::super::sources;
use super::grants;
use super::remote::{Definition, HERE};

/// What is asked of a target.
pub struct Asked {
    /// Its name.
    pub name: String,
    /// The arguments of `build`; outputs are those that `build` writes.
    pub args: BuildArgs,
    /// Contexts that are other targets: name (perhaps with platform) and target.
    pub links: Vec<(String, String)>,
    /// Nothing is made of it: `type=cacheonly`.
    pub cache_only: bool,
}

fn about(target: &Target, message: impl std::fmt::Display) -> Report {
    Report::usage(format!("target {}: {message}", target.name))
}

/// Arguments of `build` when nothing was given.
pub(super) fn defaults() -> Result<BuildArgs> {
    match Cli::try_parse_from(["lapstrake", "build"]).map(|cli| cli.command) {
        Ok(Command::Build(args)) => Ok(*args),
        _ => Err(Report::usage("the arguments of build have no defaults")),
    }
}

/// Turns a target into arguments. `definition` is where the bake file comes from, if that is another
/// machine.
pub fn asked(
    target: &Target,
    definition: Option<&Definition>,
    bake: &BakeArgs,
    env: &Environment,
) -> Result<Asked> {
    let mut args = defaults()?;
    common(&mut args, bake);
    let texts = |name: &str| target.list(name).to_vec();
    let pairs =
        |name: &str| target.map(name).map(|(key, value)| format!("{key}={value}")).collect();
    let entries = |name: &str| target.entries(name).iter().map(entry_text).collect();
    let context = target.text("context").unwrap_or(".");
    // What is here though the bake file is not says so.
    let is_here = context.starts_with(HERE);
    let context = local(context);
    let dockerfile = target.text("dockerfile").unwrap_or("Dockerfile");
    if context == "-" || dockerfile == "-" {
        return Err(about(
            target,
            "a context or Dockerfile on standard input has no place in bake",
        )
        .with_hint("write the Dockerfile with dockerfile-inline = <<EOT"));
    }
    let remote =
        sources::remote_context(context).map_err(|report| about(target, report.message))?.is_some();
    if let Some(text) = target.text("dockerfile-inline") {
        args.given = Some(GivenDockerfile {
            name: format!("dockerfile-inline of {}", target.name),
            bytes: text.as_bytes().to_vec(),
            path: None,
        });
    } else if let Some(file) = dockerfile.strip_prefix(HERE).filter(|_| remote) {
        args.given = Some(here(target, file, definition, bake, env)?);
    } else if is_here && definition.is_some() && !dockerfile.starts_with(HERE) {
        // It could only be read from the context, and it is more likely that the bake file means
        // one that lies beside it (buildx: `toBuildOpt`).
        return Err(about(
            target,
            format!("the context is this machine's, and {dockerfile} is not said to be"),
        )
        .with_hint(format!("if it is, write dockerfile = \"cwd://{dockerfile}\"")));
    } else {
        // Left out, `build` finds a Containerfile as well.
        args.file = match dockerfile {
            "Dockerfile" => None,
            file if file.starts_with(HERE) => Some(local(file).to_owned()),
            file if remote || file.starts_with('/') || file.contains("://") => {
                Some(file.to_owned())
            }
            file => Some(match context {
                "." => file.to_owned(),
                context => format!("{context}/{file}"),
            }),
        };
    }
    args.context = Some(context.to_owned());
    args.tag = texts("tags");
    if let Some(definition) = definition {
        definition.authorize(context, &mut args, env);
    }
    args.platform = texts("platforms");
    args.build_arg = pairs("args");
    args.label = pairs("labels");
    args.target = target.text("target").map(str::to_owned);
    args.no_cache = target.is_on("no-cache");
    args.no_cache_filter = texts("no-cache-filter");
    args.pull = target.is_on("pull").then_some(Pull::Always);
    args.shm_size = target.text("shm-size").map(str::to_owned);
    args.ulimit = texts("ulimits");
    args.resources.resource = pairs("resources");
    args.cache_from = entries("cache-from");
    args.cache_to = entries("cache-to");
    args.secret.extend::<Vec<String>>(entries("secret"));
    args.annotation = texts("annotations");
    args.ssh.extend(target.entries("ssh").iter().map(ssh_text));
    args.attest.attest = entries("attest");
    for (host, addresses) in target.map("extra-hosts") {
        args.add_host.extend(addresses.split(',').map(|address| format!("{host}={address}")));
    }
    if let Some(mode) = target.text("network") {
        args.network = NetworkMode::from_str(mode, false).map_err(|_| {
            about(target, format!("there is no network {mode:?}"))
                .with_hint("networks are default, none and host")
        })?;
    }
    if !target.entries("policy").is_empty() {
        return Err(about(target, "policy is not supported").with_hint("leave it out"));
    }
    if let Some(call) = target.text("call").filter(|call| *call != "build")
        && args.call.is_none()
        && !args.check
    {
        args.call = Some(call.to_owned());
    }
    for entitlement in target.list("entitlements") {
        if !bake.allow.contains(entitlement) {
            return Err(about(target, format!("it asks for the entitlement {entitlement}"))
                .with_hint(format!("grant it, if you trust the file: --allow {entitlement}")));
        }
    }
    let mut links = Vec::new();
    for (name, source) in target.map("contexts") {
        match source.strip_prefix("target:") {
            Some(link) => links.push((name.to_owned(), link.to_owned())),
            None => args.build_context.push(format!("{name}={}", local(source))),
        }
    }
    let mut cache_only = false;
    args.push = target.is_on("push");
    args.load = bake.load && target.entries("output").is_empty();
    for output in target.entries("output") {
        match output.get("type").map(String::as_str) {
            Some("cacheonly") => cache_only = true,
            Some("docker") if !output.contains_key("dest") => args.load = true,
            kind => {
                // --push sends what an image output would leave here.
                let mut output = output.clone();
                if args.push && kind == Some("image") {
                    output.insert("push".to_owned(), "true".to_owned());
                }
                args.push &= !matches!(kind, Some("image" | "registry"));
                args.output.push(entry_text(&output));
            }
        }
    }
    cache_only &= !args.push && !args.load && args.output.is_empty();
    Ok(Asked { name: target.name.clone(), args, links, cache_only })
}

/// Reads a Dockerfile of this machine for a context that is on another one.
fn here(
    target: &Target,
    file: &str,
    definition: Option<&Definition>,
    bake: &BakeArgs,
    env: &Environment,
) -> Result<GivenDockerfile> {
    let path = env.cwd.join(file);
    if definition.is_some() {
        // Before anything of it could be shown in an error.
        grants::Grants::parse(&bake.allow, env).check_read(&target.name, &path)?;
    }
    let bytes = sources::read_local(&path)
        .map_err(|error| about(target, format!("cannot read {file}: {error}")))?;
    Ok(GivenDockerfile { name: file.to_owned(), bytes, path: Some(path) })
}

/// Copies what the command line of bake says of all targets.
pub(super) fn common(args: &mut BuildArgs, bake: &BakeArgs) {
    args.jobs = bake.jobs;
    args.offline = bake.offline;
    args.isolation = bake.isolation;
    args.emulator.clone_from(&bake.emulator);
    args.progress = bake.progress;
    args.log_format = bake.log_format;
    args.quiet = bake.quiet;
    args.on_error = bake.on_error;
    args.allow = grants::of_steps(&bake.allow);
    args.ca_cert.clone_from(&bake.ca_cert);
    args.registry = bake.registry.clone();
    args.call.clone_from(&bake.call);
    args.check = bake.check;
    if args.call.as_deref() == Some("build") {
        args.call = None;
    }
}

/// `cwd://` says what holds here anyway: files of this machine, from the current directory.
fn local(text: &str) -> &str {
    match text.strip_prefix(HERE) {
        Some("") => ".",
        Some(rest) => rest,
        None => text,
    }
}

fn ssh_text(entry: &crate::bake::target::Entry) -> String {
    let id = entry.get("id").map_or("default", String::as_str);
    match entry.get("paths") {
        Some(paths) => format!("{id}={paths}"),
        None => id.to_owned(),
    }
}
