//! Bake files of a repository or URL: `lapstrake bake https://host/app.git#v2 [CONTEXT] [TARGET…]`.
//!
//! As in buildx (`bake/remote.go`, `bakeArgs` in `commands/bake.go`): what is relative in such a file
//! is relative to the repository or archive, and `cwd://` says what is on this machine. A URL of a
//! bake file alone leaves relative contexts on this machine, for there is nowhere else.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};

use crate::bake::target::Setting;
use crate::bake::{MAX_JSON, Target};
use crate::context::locate;
use crate::graph::Remote;
use crate::graph::remote::{self as name};

use super::super::args::{BakeArgs, BuildArgs};
use super::super::environment::Environment;
use super::super::report::{Exit, Report, Result};
use super::super::sources::{self, Opened};
use super::request;

/// What a bake file says of files of this machine.
pub const HERE: &str = "cwd://";

/// The arguments, told apart.
pub struct Named<'a> {
    /// Where the bake files are, if that is another machine.
    pub definition: Option<Definition>,
    /// BAKE_CMD_CONTEXT.
    pub context: &'a str,
    /// Targets and groups.
    pub targets: &'a [String],
}

/// Tells URLs from targets: at most two stand before them.
pub fn named(arguments: &[String]) -> Result<Named<'_>> {
    let first = |arguments: &[String]| match arguments.first() {
        Some(text) => sources::remote_context(text),
        None => Ok(None),
    };
    let Some((remote, dir)) = first(arguments)? else {
        return Ok(Named { definition: None, context: HERE, targets: arguments });
    };
    let definition = Definition {
        url: arguments[0].clone(),
        remote,
        dir,
        has_files: Cell::new(true),
        fetched: RefCell::default(),
    };
    let rest = &arguments[1..];
    let (context, targets) = match first(rest)? {
        Some(_) => (rest[0].as_str(), &rest[1..]),
        None => (HERE, rest),
    };
    Ok(Named { definition: Some(definition), context, targets })
}

/// A repository or URL with bake files.
pub struct Definition {
    /// As written.
    url: String,
    remote: Remote,
    /// A directory in an archive.
    dir: String,
    /// False once it has turned out to be one bake file and nothing else.
    has_files: Cell<bool>,
    /// Its files, while bake files are read.
    fetched: RefCell<Option<(PathBuf, Opened)>>,
}

impl Definition {
    /// Fetches the files with these names, or without names those of `usual` that there are.
    pub fn read(
        &self,
        names: &[&str],
        usual: &[&str],
        args: &BakeArgs,
        env: &Environment,
    ) -> Result<Vec<(String, Vec<u8>)>> {
        let mut build = request::defaults()?;
        request::common(&mut build, args);
        self.authorize(&self.url, &mut build, env);
        env.cancel.on_signals();
        let opened = Opened::new(&build, env)?;
        let shown = name::printable(&self.remote.shown());
        if !args.quiet && !args.print {
            env.say(&format!("loading bake files of {shown}\n"));
        }
        let quiet: crate::remote::Progress<'_> = &|_, _, _| {};
        if let Remote::Url(source) = &self.remote
            && let Some(bytes) =
                opened.remotes.plain_file(source, quiet).map_err(sources::failed)?
        {
            if let Some(name) = names.first() {
                return Err(Report::usage(format!("{shown} is one file: it holds no {name}"))
                    .with_hint("leave -f out, or say that it is on this machine: -f cwd://FILE"));
            }
            if !self.dir.is_empty() {
                return Err(Report::usage(format!(
                    "{shown} is a file and no archive: it has no directory {}",
                    self.dir
                )));
            }
            self.has_files.set(false);
            // The format goes by the end of the name.
            return Ok(vec![(name::file_name(&source.url), limited(&shown, bytes)?)]);
        }
        let origin = sources::origin(self.remote.clone(), self.dir.clone());
        let context = opened.remotes.context(&origin, quiet).map_err(|error| {
            let mut report = sources::failed(error);
            // bake has no --secret.
            for hint in report.hints.iter_mut().filter(|hint| hint.contains("GIT_AUTH_TOKEN")) {
                *hint = "give a token in the environment: BUILDX_BAKE_GIT_AUTH_TOKEN, or a whole \
                         header in BUILDX_BAKE_GIT_AUTH_HEADER"
                    .to_owned();
            }
            report
        })?;
        let dir = context.dir().to_owned();
        let mut files = Vec::new();
        for name in if names.is_empty() { usual } else { names } {
            let found = match locate::read_inside(&dir, Path::new(name)) {
                Ok(found) => found,
                Err(error) => {
                    return Err(Report::of(Exit::Usage, &format!("{shown}: {name}"), &error));
                }
            };
            match found {
                Some(bytes) => files.push(((*name).to_owned(), limited(name, bytes)?)),
                None if names.is_empty() => {}
                None => {
                    return Err(Report::usage(format!("there is no file {name} in {shown}"))
                        .with_hint(format!("a file of this machine is named as -f {HERE}{name}")));
                }
            }
        }
        if files.is_empty() {
            return Err(Report::usage(format!("there is no bake file in {shown}"))
                .with_hint(format!("name one with -f; looked for are {}", usual.join(", "))));
        }
        drop(context);
        self.fetched.replace(Some((dir, opened)));
        Ok(files)
    }

    /// Where its files are, once they have been fetched; None for a bake file alone.
    pub fn dir(&self) -> Option<PathBuf> {
        self.fetched.borrow().as_ref().map(|(dir, _)| dir.clone())
    }

    /// Lets go of the files: what a build needs of them is fetched for it.
    pub fn release(&self) {
        self.fetched.replace(None);
    }

    /// Says of a target's relative contexts that they are here, and not on this machine.
    pub fn place(&self, target: &mut Target) {
        if !self.has_files.get() {
            return;
        }
        let placed = |source: &str| {
            // Standard input is refused later, by its name.
            let own = source == "-"
                || [HERE, "target:", "docker-image:", "oci-layout:"]
                    .iter()
                    .any(|prefix| source.starts_with(prefix))
                || !matches!(name::classify_context(source), Ok(name::Named::Path));
            if own { source.to_owned() } else { name::within(&self.url, source) }
        };
        let context = placed(target.text("context").unwrap_or("."));
        target.settings.insert("context".to_owned(), Setting::Text(context));
        if let Some(Setting::Map(contexts)) = target.settings.get_mut("contexts") {
            contexts.values_mut().for_each(|source| *source = placed(source));
        }
    }

    /// Gives what reads from this repository the credentials for it, by buildx's variables
    /// (`bake.gitAuthSecretsFromEnv`, BUILDX_BAKE_GIT_SSH).
    pub fn authorize(&self, context: &str, args: &mut BuildArgs, env: &Environment) {
        let (Remote::Git(own), Ok(Some((Remote::Git(other), _)))) =
            (&self.remote, sources::remote_context(context))
        else {
            return;
        };
        if own.remote != other.remote {
            return;
        }
        let given = |name: &str| env.variable(name).filter(|value| !value.is_empty());
        for id in ["GIT_AUTH_TOKEN", "GIT_AUTH_HEADER"] {
            let variable = format!("BUILDX_BAKE_{id}");
            if given(&variable).is_some() {
                args.secret.push(format!("id={id},env={variable}"));
            }
        }
        let is_ssh = !own.remote.contains("://") || own.remote.starts_with("ssh://");
        if is_ssh {
            if let Some(paths) = given("BUILDX_BAKE_GIT_SSH") {
                args.ssh.push(format!("default={paths}"));
            } else if given("SSH_AUTH_SOCK").is_some() {
                args.ssh.push("default".to_owned());
            }
        }
    }
}

fn limited(name: &str, bytes: Vec<u8>) -> Result<Vec<u8>> {
    // As of files of this machine: one byte too many is told when it is parsed.
    if bytes.len() <= MAX_JSON + 1 {
        return Ok(bytes);
    }
    Err(Report::usage(format!("{name} is no bake file: it has more than {} KiB", MAX_JSON >> 10)))
}
