//! `lapstrake doctor`: what this host allows, what it costs when it does not, what to run for more.

use crate::registry::Registries;
use crate::sandbox::{self, Arch, Rung};

use super::args::DoctorArgs;
use super::environment::Environment;
use super::registries;
use super::report::{Exit, Report, Result};

/// Tries everything that builds may need.
pub fn run(args: &DoctorArgs, env: &Environment) -> Result<()> {
    let report = sandbox::probe(&env.sandbox_options(Default::default()));
    let emulators = env.find_emulators();
    let conf = registries::files(env, None);
    let conf_files: Vec<String> = conf.iter().map(|file| file.path.display().to_string()).collect();
    let fault = Registries::read(&conf).fault().map(ToString::to_string);
    if args.format.is_some() {
        let value = serde_json::json!({
            "rung": report.rung.map(|rung| rung.to_string()),
            "checks": report.checks,
            "emulators": emulators
                .iter()
                .map(|(arch, path)| (arch.to_string(), path.display().to_string()))
                .collect::<std::collections::BTreeMap<_, _>>(),
            "native": Arch::host().map(|arch| arch.to_string()),
            "registries": { "files": conf_files, "fault": fault },
        });
        env.print(&format!("{value:#}\n"));
    } else {
        let mut out = String::new();
        for check in &report.checks {
            let mark = if check.ok { "ok  " } else { "FAIL" };
            out.push_str(&format!("{mark}  {}: {}\n", check.name, check.detail));
            if !check.ok && !check.cost.is_empty() {
                out.push_str(&format!("      costs: {}\n", check.cost));
            }
            if let Some(fix) = check.fix.as_ref().filter(|_| !check.ok) {
                out.push_str(&format!("      run:   {fix}\n"));
            }
        }
        let names: Vec<String> = emulators.keys().map(ToString::to_string).collect();
        if names.is_empty() {
            out.push_str(
                "FAIL  emulators: no QEMU found in PATH\n      costs: no RUN for foreign platforms\n      \
                 run:   sudo apt-get install qemu-user-static\n",
            );
        } else {
            out.push_str(&format!("ok    emulators: {}\n", names.join(", ")));
        }
        if let Some(fault) = &fault {
            out.push_str(&format!(
                "FAIL  registries: {fault}\n      costs: nothing is pulled or pushed\n"
            ));
        } else if !conf_files.is_empty() {
            out.push_str(&format!("ok    registries: {}\n", conf_files.join(", ")));
        }
        let summary = match report.rung {
            Some(Rung::Userns) => "userns: RUN in a user namespace with a full range of ids",
            Some(Rung::UsernsSingle) => {
                "userns-single: RUN in a user namespace with one id; no program can become another user"
            }
            Some(Rung::Root) => "root: RUN as root in mount and pid namespaces",
            None => "none: Dockerfiles without RUN build, RUN does not",
        };
        out.push_str(&format!("\nisolation: {summary}\n"));
        env.print(&out);
    }
    if report.rung.is_none() {
        return Err(Report::new(Exit::Host, "no RUN can be isolated on this host")
            .with_hint("the lines marked FAIL above say what to run; builds without RUN work"));
    }
    Ok(())
}
