//! RUNs for real: each case is a process of its own (entering a user namespace needs one thread), run
//! as every kind of user that this host can give: root, a user with a range of ids, one without.
//!
//! `cargo test --test sandbox_run [NAME]` runs the cases whose name holds NAME. A case that the host
//! cannot run prints `SKIP reason`.

#[path = "sandbox/bench.rs"]
mod bench;
#[path = "sandbox/cases.rs"]
mod cases;
#[path = "sandbox/emulated.rs"]
mod emulated;
#[path = "sandbox/layers.rs"]
mod layers;

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// A user to run cases as.
struct Identity {
    name: &'static str,
    ids: Option<(u32, u32)>,
}

/// Exit code of a case that this host cannot run.
const SKIPPED: u8 = 77;

fn main() -> ExitCode {
    if let Some(code) = lapstrake::sandbox::child_main() {
        return code;
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name, identity] = args.as_slice()
        && flag == "--case"
    {
        return run_here(name, identity);
    }
    let filter = args.iter().find(|a| !a.starts_with("--")).cloned().unwrap_or_default();
    if args.iter().any(|a| a == "--list") {
        for (name, _) in cases::ALL {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    run_all(&filter)
}

/// Runs one case in this process.
fn run_here(name: &str, identity: &str) -> ExitCode {
    let Some((_, case)) = cases::ALL.iter().find(|(n, _)| *n == name) else {
        eprintln!("no case {name}");
        return ExitCode::FAILURE;
    };
    match case(identity) {
        Ok(()) => ExitCode::SUCCESS,
        Err(bench::Skip(reason)) => {
            eprintln!("SKIP {reason}");
            ExitCode::from(SKIPPED)
        }
    }
}

fn run_all(filter: &str) -> ExitCode {
    let tmp = tempfile::Builder::new().prefix("lapstrake-sandbox").tempdir().expect("tempdir");
    set_mode(tmp.path(), 0o755);
    // The target directory may be closed to other users.
    let exe = tmp.path().join("sandbox_run");
    std::fs::copy(std::env::current_exe().expect("own path"), &exe).expect("copy");
    set_mode(&exe, 0o755);
    let (mut failed, mut passed, mut skipped) = (0, 0, 0);
    for (name, _) in cases::ALL {
        for identity in identities() {
            let full = format!("{name}/{}", identity.name);
            if !full.contains(filter) {
                continue;
            }
            let (code, text) = run_case(&exe, tmp.path(), name, &identity);
            match code {
                Some(0) => {
                    passed += 1;
                    println!("test {full} ... ok");
                }
                Some(c) if c == i32::from(SKIPPED) => {
                    skipped += 1;
                    let reason = text.lines().find(|l| l.starts_with("SKIP")).unwrap_or("SKIP");
                    println!("test {full} ... {reason}");
                }
                _ => {
                    failed += 1;
                    println!("test {full} ... FAILED ({code:?})\n{text}");
                }
            }
            if std::env::var_os("SHOW").is_some() {
                println!("{text}");
            }
        }
    }
    println!("\ntest result: {passed} passed; {failed} failed; {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_case(exe: &Path, tmp: &Path, name: &str, identity: &Identity) -> (Option<i32>, String) {
    let home: PathBuf = tmp.join(format!("{name}-{}", identity.name));
    std::fs::create_dir(&home).expect("mkdir");
    let mut command = Command::new(exe);
    command.args(["--case", name, identity.name]).env("TMPDIR", &home).current_dir(&home);
    if let Some((uid, gid)) = identity.ids {
        std::os::unix::fs::chown(&home, Some(uid), Some(gid)).expect("chown");
        command.uid(uid).gid(gid);
    }
    let output = command.output().expect("run the case");
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    (output.status.code(), text)
}

/// Lists the users that cases can be run as here.
fn identities() -> Vec<Identity> {
    if bench::euid() != 0 {
        return vec![Identity { name: "self", ids: None }];
    }
    let mut out = vec![Identity { name: "root", ids: None }];
    match ranged_user() {
        Some(ids) => out.push(Identity { name: "ranged", ids: Some(ids) }),
        None => println!("SKIP ranged: no user with a range in /etc/subuid"),
    }
    // An id that no account has: such users have no range.
    out.push(Identity { name: "single", ids: Some((54321, 54321)) });
    out
}

/// Finds a user that /etc/subuid knows.
fn ranged_user() -> Option<(u32, u32)> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    let subuid = std::fs::read_to_string("/etc/subuid").ok()?;
    subuid.lines().find_map(|line| {
        let user = line.split(':').next()?;
        let account = passwd.lines().find(|l| l.split(':').next() == Some(user))?;
        let mut fields = account.split(':').skip(2);
        let ids = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (ids.0 != 0).then_some(ids)
    })
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
}
