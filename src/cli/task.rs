//! `lapstrake task run`: multi-step tasks of Azure Container Registry on this machine.
//!
//! Each step is a process of this very program (`build`, `push`, `index …`, or an image in the
//! sandbox), so that steps run side by side, each can be stopped at its time-out, and one that dies
//! takes nothing along. The workspace is the context directory itself.

mod values;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use clap::Parser;
use serde::{Deserialize, Serialize};

use crate::attest::Scrubber;
use crate::build::shell::Execute;
use crate::oci::Reference;
use crate::sandbox::{Access, Mount, MountKind, Stream};
use crate::task::docker::Docker;
use crate::task::{self, Step, Task, Work};
use crate::transport::{self, ImageName};

use super::args::{Cli, Command as Verb, TaskArgs, TaskCommand, TaskRunArgs};
use super::copy::Place;
use super::environment::Environment;
use super::report::{Exit, Report, Result};

use values::{render, values, variables};

/// Where steps see the workspace, as on Azure.
const WORKSPACE: &str = "/workspace";
/// How much of a step's output is kept for `retryOnErrors`.
const TAIL: usize = 64 << 10;
/// How often it is looked whether the user stopped the task.
const TICK: Duration = Duration::from_millis(100);

/// What a process that runs an image is told, on its standard input: no secret stands in arguments.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    /// Arguments of `build` for the image's root.
    build: Vec<String>,
    /// What is run in it.
    execute: Execute,
}

/// Runs the command.
pub fn run(args: &TaskArgs, env: &Environment) -> Result<()> {
    match &args.command {
        TaskCommand::Run(args) => run_task(args, env),
        TaskCommand::Exec => execute(env),
    }
}

fn run_task(args: &TaskRunArgs, env: &Environment) -> Result<()> {
    env.cancel.on_signals();
    let workspace = env.cwd.join(args.context.as_deref().unwrap_or(Path::new(".")));
    let workspace = workspace.canonicalize().map_err(|error| {
        Report::of(Exit::Usage, &format!("the context {}", workspace.display()), &error)
    })?;
    let text = match args.file.as_str() {
        "-" => std::io::read_to_string(std::io::stdin()),
        file => std::fs::read_to_string(env.cwd.join(file)),
    }
    .map_err(|error| Report::of(Exit::Usage, &format!("cannot read {}", args.file), &error))?;
    let variables = variables(args, env, &workspace);
    let values = values(args, env)?;
    let secrets = super::options::pairs("--set-secret", &args.set_secret)?;
    let text = render(&args.file, &text, &variables, &values, &secrets)?;
    let task = task::parse(&text, &variables, &secrets.keys().cloned().collect::<BTreeSet<_>>())
        .map_err(|error| {
            let mut report = Report::usage(format!("{}: {error}", args.file));
            report.hints.extend(error.hint);
            report
        })?;
    let scratch = tempfile::tempdir()
        .map_err(|error| Report::of(Exit::Host, "cannot make a temporary directory", &error))?;
    let runner = Runner {
        args,
        env,
        task: &task,
        workspace,
        scratch: scratch.path().to_owned(),
        scrubber: Scrubber::new(secrets.values().map(|value| value.as_bytes())),
        deadline: Instant::now() + Duration::from_secs(task.total_timeout),
    };
    runner.all()
}

/// One task under way.
struct Runner<'a> {
    args: &'a TaskRunArgs,
    env: &'a Environment,
    task: &'a Task,
    workspace: PathBuf,
    scratch: PathBuf,
    scrubber: Scrubber,
    deadline: Instant,
}

/// How a process ended.
enum End {
    Well,
    Badly { code: Option<i32>, tail: String },
    TooLong,
    Stopped,
}

impl Runner<'_> {
    /// Runs all steps, each as soon as those before it are done.
    fn all(&self) -> Result<()> {
        let count = self.task.steps.len();
        let (mut started, mut done) = (vec![false; count], vec![false; count]);
        let mut failure: Option<Report> = None;
        std::thread::scope(|scope| {
            let (tell, hear) = mpsc::channel::<(usize, Result<()>)>();
            let mut running = 0;
            loop {
                if failure.is_none() {
                    for at in task::ready(self.task, &started, &done) {
                        started[at] = true;
                        running += 1;
                        let tell = tell.clone();
                        scope.spawn(move || {
                            let result = self.step(&self.task.steps[at]);
                            // The receiver lives as long as steps run.
                            let _ = tell.send((at, result));
                        });
                    }
                }
                if running == 0 {
                    break;
                }
                let Ok((at, result)) = hear.recv() else { break };
                running -= 1;
                let step = &self.task.steps[at];
                match result {
                    Ok(()) => done[at] = true,
                    Err(report) if step.ignore_errors && report.exit != Exit::Interrupted => {
                        self.say(&step.id, &format!("{} (ignored)", report.message));
                        done[at] = true;
                    }
                    Err(report) => {
                        // The others are of no use any more.
                        self.env.cancel.cancel();
                        failure.get_or_insert(report);
                    }
                }
            }
        });
        match failure {
            Some(report) => Err(report),
            None => Ok(()),
        }
    }

    fn say(&self, id: &str, text: &str) {
        self.env.say(&format!("{id} | {}\n", self.scrubber.text(text)));
    }

    /// Runs one step, as often as it wants.
    fn step(&self, step: &Step) -> Result<()> {
        self.pause(step.start_delay)?;
        for _ in 0..=step.repeat {
            let mut tries = 0;
            loop {
                let started = Instant::now();
                self.say(&step.id, "started");
                let failed = |message: String| {
                    Report::new(Exit::Step, format!("step {}: {message}", step.id))
                };
                let (report, tail) = match self.once(step)? {
                    End::Well => {
                        let took = started.elapsed().as_secs_f64();
                        self.say(&step.id, &format!("done in {took:.1} s"));
                        break;
                    }
                    End::Stopped => return Err(Report::new(Exit::Interrupted, "interrupted")),
                    End::TooLong => {
                        let limit = step.timeout.min(self.task.total_timeout);
                        let report = failed(format!("took longer than {limit} s"));
                        (report.with_hint("allow more: timeout: SECONDS"), String::new())
                    }
                    End::Badly { code, tail } => {
                        let code =
                            code.map_or("a signal".to_owned(), |code| format!("exit code {code}"));
                        (failed(format!("ended with {code}")), tail)
                    }
                };
                let again = step.retry_on_errors.is_empty()
                    || step.retry_on_errors.iter().any(|text| tail.contains(text.as_str()));
                if tries >= step.retries || !again {
                    return Err(report);
                }
                tries += 1;
                self.say(
                    &step.id,
                    &format!("{}; try {} of {}", report.message, tries + 1, step.retries + 1),
                );
                self.pause(step.retry_delay)?;
            }
        }
        Ok(())
    }

    /// Waits, unless the task is stopped.
    fn pause(&self, seconds: u64) -> Result<()> {
        let end = (Instant::now() + Duration::from_secs(seconds)).min(self.deadline);
        while Instant::now() < end {
            if self.env.cancel.is_cancelled() {
                return Err(Report::new(Exit::Interrupted, "interrupted"));
            }
            std::thread::sleep(TICK.min(end.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }

    /// Runs the processes of a step, one after the other.
    fn once(&self, step: &Step) -> Result<End> {
        let end = (Instant::now() + Duration::from_secs(step.timeout)).min(self.deadline);
        let name = |names: &[String]| -> Vec<Vec<String>> {
            names.iter().map(|name| vec!["push".to_owned(), name.clone()]).collect()
        };
        let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let lines: Vec<Vec<String>> = match &step.work {
            Work::Run(words) => return self.image(step, words, end),
            Work::Build(words) | Work::Docker(Docker::Build(words)) => {
                vec![[own(&["build", "--progress=plain"]), words.clone()].concat()]
            }
            Work::Push(names) | Work::Docker(Docker::Push(names)) => name(names),
            Work::Docker(Docker::Pull(names)) => vec![[own(&["pull"]), names.clone()].concat()],
            Work::Docker(Docker::Tag { source, target }) => vec![own(&["tag", source, target])],
            Work::Docker(Docker::Create { list, members, amend }) => {
                let verb = if *amend && self.is_stored(list)? { "append" } else { "create" };
                let mut line = own(&["index", verb, list]);
                for member in members {
                    line.push(self.located(member)?);
                }
                vec![line]
            }
            Work::Docker(Docker::Annotate { list, member, flags }) => {
                let digest = self.digest(member)?;
                vec![[own(&["index", "annotate", list, &digest]), flags.clone()].concat()]
            }
            Work::Docker(Docker::PushList { list, purge }) => {
                let mut lines = vec![own(&["push", list])];
                if *purge {
                    lines.push(own(&["rmi", list]));
                }
                lines
            }
            Work::Docker(Docker::Inspect(name)) => {
                vec![own(&["inspect", "--raw", &self.located(name)?])]
            }
            Work::Docker(Docker::Remove(names)) => vec![[own(&["rmi"]), names.clone()].concat()],
        };
        for mut line in lines {
            if matches!(line[0].as_str(), "build" | "push" | "pull" | "index" | "inspect") {
                line.extend(self.registry_flags());
            }
            let mut command = self.command(&line)?;
            command.current_dir(self.directory(step)?).stdin(Stdio::null());
            command.envs(step.env.iter().filter_map(|text| text.split_once('=')));
            match self.watch(step, command, None, end)? {
                End::Well => {}
                other => return Ok(other),
            }
        }
        Ok(End::Well)
    }

    /// Runs an image in the sandbox.
    fn image(&self, step: &Step, words: &[String], end: Instant) -> Result<End> {
        let failed =
            |error: std::io::Error| Report::of(Exit::Host, "cannot prepare a step", &error);
        let dir = tempfile::tempdir_in(&self.scratch).map_err(failed)?;
        let dockerfile = dir.path().join("Dockerfile");
        std::fs::write(&dockerfile, format!("FROM {}\n", words[0])).map_err(failed)?;
        let mut build = vec!["--quiet".to_owned(), format!("--file={}", dockerfile.display())];
        if step.pull {
            build.push("--pull=always".to_owned());
        }
        build.extend(self.registry_flags());
        build.push(dir.path().display().to_string());
        let mut mounts = vec![Mount {
            target: WORKSPACE.to_owned(),
            kind: MountKind::Bind {
                source: self.workspace.clone(),
                subpath: String::new(),
                access: Access::ReadWrite,
            },
        }];
        for (volume, path) in &step.mounts {
            for (name, bytes) in &self.task.volumes[volume] {
                mounts.push(Mount {
                    target: format!("{}/{name}", path.trim_end_matches('/')),
                    kind: MountKind::File { bytes: bytes.clone(), mode: 0o444, uid: 0, gid: 0 },
                });
            }
        }
        let cwd = match &step.working_directory {
            _ if step.own_directory => None,
            Some(dir) if dir.starts_with('/') => Some(dir.clone()),
            Some(dir) => Some(format!("{WORKSPACE}/{dir}")),
            None => Some(WORKSPACE.to_owned()),
        };
        let execute = Execute {
            entry_point: step.entry_point.clone(),
            args: words[1..].to_vec(),
            env: step.env.clone(),
            cwd,
            user: step.user.clone(),
            mounts,
        };
        let order = serde_json::to_vec(&Order { build, execute })
            .map_err(|error| Report::of(Exit::Host, "cannot prepare a step", &error))?;
        let mut command = self.command(&["task".to_owned(), "exec".to_owned()])?;
        command.current_dir(&self.workspace).stdin(Stdio::piped());
        self.watch(step, command, Some(order), end)
    }

    fn registry_flags(&self) -> Vec<String> {
        let registry = &self.args.registry;
        let path = |flag: &'static str| {
            move |path: &std::path::PathBuf| {
                format!("--{flag}={}", self.env.cwd.join(path).display())
            }
        };
        let text = |flag: &'static str| move |text: &String| format!("--{flag}={text}");
        let ca = registry.tls_ca.iter().map(path("tls-ca"));
        ca.chain(registry.cert_dir.iter().map(path("cert-dir")))
            .chain(registry.registries_conf.iter().map(path("registries-conf")))
            .chain(registry.insecure_registry.iter().map(text("insecure-registry")))
            .chain(registry.registry_mirror.iter().map(text("registry-mirror")))
            .collect()
    }

    fn command(&self, line: &[String]) -> Result<Command> {
        let program = std::env::current_exe()
            .map_err(|error| Report::of(Exit::Host, "cannot find lapstrake itself", &error))?;
        let mut command = Command::new(program);
        command.arg("--root").arg(self.env.store_root()?).args(line);
        Ok(command)
    }

    /// Gives the directory on this machine in which a build or a push runs.
    fn directory(&self, step: &Step) -> Result<PathBuf> {
        let Some(dir) = &step.working_directory else { return Ok(self.workspace.clone()) };
        let inside = dir.strip_prefix(WORKSPACE).unwrap_or(dir).trim_start_matches('/');
        if dir.starts_with('/') && !dir.starts_with(WORKSPACE) {
            return Err(Report::usage(format!(
                "step {}: workingDirectory {dir} is not below {WORKSPACE}",
                step.id
            )));
        }
        Ok(self.workspace.join(inside))
    }

    fn is_stored(&self, name: &str) -> Result<bool> {
        let store = self.env.open_store()?;
        let reference = name
            .parse::<Reference>()
            .map_err(|error| Report::of(Exit::Usage, name, &error))?
            .with_default_tag();
        Ok(transport::store_source(&store, &reference).is_some())
    }

    /// Names an image of the store, or else of its registry.
    fn located(&self, name: &str) -> Result<String> {
        Ok(if self.is_stored(name)? { name.to_owned() } else { format!("docker://{name}") })
    }

    /// Gives the digest of an entry of a list by the name that it came from.
    fn digest(&self, name: &str) -> Result<String> {
        let located = self.located(name)?;
        let place = Place::open(self.env, &self.args.registry)?;
        let parsed =
            ImageName::parse(&located).map_err(|error| Report::of(Exit::Usage, name, &error))?;
        let source = place.source(&parsed, name)?;
        let failed = |error| super::copy::failed(&format!("cannot read {name}"), &error);
        let (root, bytes) = source.root().map_err(failed)?;
        // An image with attestations is an index; the list has what is in it.
        let digest = match crate::oci::Document::parse(&bytes, &root.media_type) {
            Ok(crate::oci::Document::Index(index)) => {
                let images = transport::children(source.as_ref(), &index).map_err(failed)?;
                match &images[..] {
                    [image] => image.digest,
                    _ => {
                        return Err(Report::usage(format!("{name} is more than one image"))
                            .with_hint("name the entry by a tag of its own"));
                    }
                }
            }
            _ => root.digest,
        };
        Ok(digest.to_string())
    }

    /// Passes on what a process says until it ends, or until its time is over.
    fn watch(
        &self,
        step: &Step,
        mut command: Command,
        input: Option<Vec<u8>>,
        end: Instant,
    ) -> Result<End> {
        let failed = |error: std::io::Error| Report::of(Exit::Host, "cannot start a step", &error);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(failed)?;
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            // One that has died says so by its exit code.
            let _ = stdin.write_all(&input);
        }
        let is_image = matches!(step.work, Work::Run(_) | Work::Docker(Docker::Inspect(_)));
        let mut tail = String::new();
        let mut stopped: Option<End> = None;
        std::thread::scope(|scope| {
            let (tell, hear) = mpsc::channel::<(bool, String)>();
            for (is_data, stream) in streams(&mut child) {
                let tell = tell.clone();
                scope.spawn(move || {
                    for line in BufReader::new(stream).split(b'\n').map_while(|line| line.ok()) {
                        let line = String::from_utf8_lossy(&line).into_owned();
                        if tell.send((is_data, line)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(tell);
            loop {
                match hear.recv_timeout(TICK) {
                    Ok((is_data, line)) => {
                        tail.push_str(&line);
                        tail.push('\n');
                        if tail.len() > 2 * TAIL {
                            let cut = (tail.len() - TAIL..tail.len())
                                .find(|&at| tail.is_char_boundary(at));
                            tail.drain(..cut.unwrap_or_default());
                        }
                        if is_data && is_image {
                            self.env.print(&format!("{}\n", self.scrubber.text(&line)));
                        } else {
                            self.say(&step.id, &line);
                        }
                    }
                    Err(mpsc::RecvTimeoutError::Disconnected) => break,
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                }
                if stopped.is_none() {
                    stopped = if self.env.cancel.is_cancelled() {
                        Some(End::Stopped)
                    } else if Instant::now() >= end {
                        Some(End::TooLong)
                    } else {
                        None
                    };
                    if stopped.is_some() {
                        // What it runs in a sandbox dies with it.
                        let _ = child.kill();
                    }
                }
            }
        });
        let status = child.wait().map_err(failed)?;
        Ok(match stopped {
            Some(end) => end,
            None if status.success() => End::Well,
            None => End::Badly { code: status.code(), tail },
        })
    }
}

/// Gives both outputs of a process; the first is data.
fn streams(child: &mut Child) -> Vec<(bool, Box<dyn Read + Send>)> {
    let mut out: Vec<(bool, Box<dyn Read + Send>)> = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        out.push((true, Box::new(stdout)));
    }
    if let Some(stderr) = child.stderr.take() {
        out.push((false, Box::new(stderr)));
    }
    out
}

/// Runs an image in the sandbox: the process of a step.
fn execute(env: &Environment) -> Result<()> {
    let mut text = Vec::new();
    std::io::stdin()
        .read_to_end(&mut text)
        .map_err(|error| Report::of(Exit::Usage, "cannot read standard input", &error))?;
    let order: Order = serde_json::from_slice(&text)
        .map_err(|error| Report::of(Exit::Usage, "this is a part of `task run`", &error))?;
    let words = ["lapstrake", "build"].into_iter().map(str::to_owned).chain(order.build);
    let cli = Cli::try_parse_from(words)
        .map_err(|error| Report::of(Exit::Usage, "cannot read a step", &error))?;
    match cli.command {
        Verb::Build(args) => super::build::run_execute(&order.execute, &args, env),
        _ => Err(Report::usage("this is a part of `task run`")),
    }
}

/// Runs the program of a step in its image.
pub fn in_image(
    conductor: &crate::build::conductor::Conductor<'_>,
    output: &crate::graph::Output,
    order: &Execute,
) -> Result<()> {
    let mut pass = |stream: Stream, bytes: &[u8]| {
        let out: &mut dyn Write = match stream {
            Stream::Stdout => &mut std::io::stdout(),
            Stream::Stderr => &mut std::io::stderr(),
        };
        // Whoever reads it may have gone; the program's own end is what counts.
        let _ = out.write_all(bytes).and_then(|()| out.flush());
    };
    let outcome = crate::build::shell::execute(conductor, output, order, &mut pass)?;
    if outcome.status.success() {
        return Ok(());
    }
    Err(Report::new(Exit::Step, format!("the program ended with {}", outcome.status)))
}
