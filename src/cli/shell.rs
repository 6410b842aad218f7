//! `lapstrake shell`: a shell in a stage, or in a step that failed and was kept.

use crate::build::shell::{self, Place};
use crate::sandbox::{Arch, Emulator, Isolation, Session};

use super::args::{BuildArgs, ShellArgs};
use super::environment::Environment;
use super::report::{Exit, Report, Result};

/// Runs the command.
pub fn run(args: &ShellArgs, env: &Environment) -> Result<()> {
    let is_number = args.what.len() == 12 && args.what.bytes().all(|b| b.is_ascii_hexdigit());
    if is_number && args.build.context.is_none() {
        return of_kept(&args.what, &args.build, env);
    }
    if args.build.target.is_some() {
        return Err(Report::usage("--target and a stage to open a shell in exclude each other")
            .with_hint(format!("lapstrake shell {} CONTEXT", args.what)));
    }
    super::build::run_shell(&args.what, &args.build, env)
}

fn of_kept(number: &str, args: &BuildArgs, env: &Environment) -> Result<()> {
    env.cancel.on_signals();
    let store = env.open_store()?;
    store.recall_id_map(env.user());
    let _in_use = store
        .locks()
        .build(&|| env.cancel.is_cancelled())
        .map_err(|error| Report::of(Exit::Damaged, "cannot use the store", &error))?;
    let kept = shell::kept(&store, number).ok_or_else(|| {
        Report::usage(format!("no failed step {number} is kept"))
            .with_hint("`lapstrake build --on-error=keep` keeps one and prints its number")
    })?;
    let options = super::build::build_options(args, env, None, crate::oci::Platform::host())?;
    let host = |error: crate::sandbox::Error| {
        let hint = error.hint().map(str::to_owned);
        let mut report = Report::of(Exit::Host, "", &error);
        report.hints.extend(hint);
        report
    };
    let mut session = Session::enter(&env.sandbox_options(Isolation::Auto)).map_err(host)?;
    store.set_id_map(&session.id_map().fingerprint());
    let platform = kept.platform.parse::<crate::oci::Platform>().ok();
    let arch = platform.and_then(|platform| Arch::from_oci(&platform.architecture));
    if let Some(arch) = arch.filter(|arch| !arch.is_native()) {
        let path = options.emulators.get(&arch).ok_or_else(|| {
            Report::new(Exit::Host, format!("no emulator for {arch} was found"))
                .with_hint(Emulator::advice(arch))
        })?;
        session.register_emulators(&[Emulator { arch, path: path.clone() }]).map_err(host)?;
    }
    let place = Place::of_kept(&kept, &store)?;
    let staging = store
        .trees()
        .staging()
        .map_err(|error| Report::of(Exit::Damaged, "cannot prepare a shell", &error))?;
    env.say(&format!("{}, as it failed; what you change is lost when you leave\n", kept.name));
    let term = env.variable("TERM");
    place.open(&session, &options, staging.path(), term.as_deref(), &env.cancel)?;
    Ok(())
}
