//! `lapstrake load`, and `build --load`: images into a Docker or Podman that runs.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::oci::{Platform, Reference};
use crate::store::Store;
use crate::transport::engine::{Engine, Kind, Places};
use crate::transport::{self, ImageName, Selector, Source, Target};

use super::copy::{Place, choose, display, failed, parse_name, tell};
use super::environment::Environment;
use super::image_args::{EngineArg, LoadArgs};
use super::options;
use super::report::{Exit, Report, Result};

/// Runs the command.
pub fn run(args: &LoadArgs, env: &Environment) -> Result<()> {
    let platforms = options::platforms(&args.platform, &Platform::host())?;
    let mut names = options::tags(&args.tag)?;
    let engine = find(env, args.engine)?;
    let place = Place::open(env, &args.registry)?;
    let _held = super::copy::hold(&place.store)?;
    let shown = if args.image == "-" { "standard input" } else { &args.image };
    let what = format!("cannot load {shown}");
    // Kept until the end: what comes from standard input lies there.
    let scratch = place.store.tmp().dir("load").map_err(|error| {
        Report::of(Exit::Damaged, "cannot use the store for temporary files", &error)
    })?;
    let name = name_of(args, env, scratch.path())?;
    let source = place.source(&name, shown)?;
    if names.is_empty() {
        names = source.names();
    }
    let (source, platforms) = fit(source, &engine, &platforms, &what)?;
    let progress = display(env, args.quiet);
    let title = format!("loading {shown} into {}", engine.describe());
    let loaded = tell(env, &progress, &title, &what, |progress| {
        engine.load(source.as_ref(), &names, progress)
    });
    progress.end();
    let said = loaded?;
    env.say(&format!("loaded into {}: {platforms}\n", engine.describe()));
    let (root, _) = source.root().map_err(|error| failed(&what, &error))?;
    if names.is_empty() {
        said.iter().for_each(|line| env.say(&format!("{line}\n")));
        env.print(&format!("{}\n", root.digest));
    }
    for name in &names {
        env.print(&format!("{}@{}\n", name.familiar(), root.digest));
    }
    Ok(())
}

/// Finds the engine.
pub fn find(env: &Environment, wanted: Option<EngineArg>) -> Result<Engine> {
    let wanted = wanted.map(|engine| match engine {
        EngineArg::Docker => Kind::Docker,
        EngineArg::Podman => Kind::Podman,
    });
    let places: Places = env.engines();
    Engine::find(&places, wanted).map_err(|error| {
        Report::of(Exit::Host, "no container engine to load into", &error).with_hint(
            "start Docker or install Podman, or write a file for them: -o type=docker,dest=app.tar",
        )
    })
}

/// Gives the name of the image; that from standard input is put into a file.
fn name_of(args: &LoadArgs, env: &Environment, scratch: &Path) -> Result<ImageName> {
    let path = env.cwd.join(&args.image);
    let path = if args.image == "-" {
        let path = scratch.join("image.tar");
        let copied = std::fs::File::create(&path)
            .and_then(|mut file| std::io::copy(&mut std::io::stdin().lock(), &mut file));
        copied.map_err(|error| Report::of(Exit::Damaged, "cannot read standard input", &error))?;
        path
    } else if path.is_file() {
        path
    } else {
        return parse_name(env, &args.image);
    };
    // Both kinds of archive, with the same look inside.
    let selector = Selector::default();
    Ok(match transport::archive::is_layout(&path) {
        Ok(true) => ImageName::OciArchive { path, selector },
        Ok(false) => ImageName::DockerArchive { path, selector },
        Err(error) => return Err(failed(&format!("cannot load {}", args.image), &error)),
    })
}

/// Leaves the platforms that the engine can hold, and says in words which these are.
fn fit(
    source: Box<dyn Source>,
    engine: &Engine,
    wanted: &[Platform],
    what: &str,
) -> Result<(Box<dyn Source>, String)> {
    let shown =
        |list: &[Platform]| list.iter().map(Platform::format_all).collect::<Vec<_>>().join(", ");
    if wanted.len() > 1 && !engine.all_platforms {
        return Err(Report::usage(format!(
            "{what}: {} holds one platform of an image, not {}",
            engine.describe(),
            shown(wanted)
        ))
        .with_hint("switch on Docker's containerd image store, or choose one with --platform"));
    }
    if !wanted.is_empty() {
        return Ok((choose(source, wanted, what)?, shown(wanted)));
    }
    let there = transport::platforms(source.as_ref()).map_err(|error| failed(what, &error))?;
    if engine.all_platforms || there.len() == 1 {
        return Ok((source, shown(&there)));
    }
    let own = std::slice::from_ref(&engine.platform);
    let left = there.len() - 1;
    let chosen = choose(source, own, what)?;
    Ok((chosen, format!("{} (its own platform; it cannot hold the other {left})", shown(own))))
}

/// A `lapstrake load -` that waits for an image.
///
/// It is started before a build enters its user namespace: in there, Podman would take itself for
/// root's, and Docker's group is gone.
pub struct Loader {
    child: Option<Child>,
}

impl Loader {
    /// Starts it, when there is an engine.
    pub fn start(env: &Environment) -> Result<Loader> {
        find(env, None)?;
        let failed =
            |error: std::io::Error| Report::of(Exit::Host, "cannot start `lapstrake load`", &error);
        let exe = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(exe);
        command.arg("--root").arg(env.store_root()?).args(["load", "-", "--quiet"]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(failed)?;
        Ok(Loader { child: Some(child) })
    }

    /// Gives it an image of the store, and waits until it is loaded.
    pub fn load(
        mut self,
        store: &Store,
        root: &crate::oci::Descriptor,
        tags: &[Reference],
    ) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let input = child.stdin.take();
        let target = Target::OciArchive("-".into());
        let sent = match input {
            Some(input) => {
                let out: Box<dyn Write + Send> = Box::new(input);
                transport::export(store, root, tags, &target, Some(out))
            }
            None => Ok(()),
        };
        let mut said = String::new();
        if let Some(mut out) = child.stdout.take() {
            // What it prints is what the build prints; it must be read for it to end.
            let _ = out.read_to_string(&mut said);
        }
        let status = child.wait();
        match (status, sent) {
            (Ok(status), _) if !status.success() => {
                // It has told why.
                Err(Report::new(Exit::Host, "the image was built and not loaded"))
            }
            (Err(error), _) => Err(Report::of(Exit::Host, "cannot wait for the load", &error)),
            (Ok(_), sent) => sent.map_err(|error| failed("cannot load the image", &error)),
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Nothing was built. A load that has read nothing has done nothing.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
