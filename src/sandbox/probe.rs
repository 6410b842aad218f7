//! What this host can do, found out by doing it.
//!
//! Settings are read only to explain a failure, never to predict one: a sysctl, a seccomp filter, an
//! AppArmor profile and a missing setuid bit all end in the same EPERM. Everything is tried in a
//! throw-away process (this program executed again), so the caller stays outside of any namespace
//! and may have threads.
//!
//! Start reading at [`probe`].

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use super::emulation::Registry;
use super::session::{enter_namespaces, program_to_run};
use super::{CHILD_ARG0, Error, Isolation, Options, Rung, owners};
use crate::sys::cred::{self, Namespaces};
use crate::sys::mount::{self, Attrs, Fs};
use crate::sys::process::{self, Spawn};
use crate::sys::{self, mem};

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What, in a few words.
    pub name: String,
    /// Did it work?
    pub ok: bool,
    /// What was seen.
    pub detail: String,
    /// What a build loses without it; empty when it worked.
    pub cost: String,
    /// The one command that mends it.
    pub fix: Option<String>,
}

impl Check {
    fn ok(name: &str, detail: impl Into<String>) -> Check {
        Check { name: name.into(), ok: true, detail: detail.into(), cost: String::new(), fix: None }
    }

    fn failed(name: &str, detail: String, cost: &str, fix: &str) -> Check {
        Check {
            name: name.into(),
            ok: false,
            detail,
            cost: cost.into(),
            fix: (!fix.is_empty()).then(|| fix.into()),
        }
    }
}

/// What a host can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    /// The best isolation; None when RUN is impossible.
    pub rung: Option<Rung>,
    /// Everything that was tried.
    pub checks: Vec<Check>,
}

/// argv[1] of the child that tries things.
pub(super) const ROLE: &str = "probe";

/// Descriptor that the child reads its question from.
const QUESTION_FD: i32 = 3;
/// Descriptor that the child writes its answer to.
const ANSWER_FD: i32 = 4;

/// What the child is to try.
#[derive(Serialize, Deserialize)]
struct Question {
    user_name: Option<String>,
    path: Vec<PathBuf>,
    single: bool,
    scratch: Option<PathBuf>,
}

/// Tries everything that builds may need; overlays are tried in memory.
pub fn probe(options: &Options) -> HostReport {
    probe_in(options, None)
}

/// Tries everything that builds may need; overlays are tried in `scratch`, an empty directory on the
/// file system of the store.
pub fn probe_in(options: &Options, scratch: Option<&Path>) -> HostReport {
    ask_child(options, scratch).unwrap_or_else(|error| HostReport {
        rung: None,
        checks: vec![Check::failed("probing", error.to_string(), "nothing is known", "")],
    })
}

fn ask_child(options: &Options, scratch: Option<&Path>) -> Result<HostReport, Error> {
    let sys = |doing| move |source| Error::Sys { doing, source };
    let io = |e: std::io::Error| Error::Setup { message: e.to_string() };
    let question = Question {
        user_name: options.user_name.clone(),
        path: options.path.clone(),
        single: options.isolation == Isolation::UsernsSingle,
        scratch: scratch.map(Path::to_owned),
    };
    let program = program_to_run(options)?;
    let null = File::open("/dev/null").map_err(io)?;
    let (ask, mut asked) = mem::pipe().map_err(sys("making a pipe"))?;
    let (mut answer, answered) = mem::pipe().map_err(sys("making a pipe"))?;
    let args = [CHILD_ARG0, ROLE].map(|a| std::ffi::CString::new(a).unwrap_or_default());
    let child = process::spawn(&Spawn {
        program: program.as_fd(),
        args: &args,
        env: &[],
        fds: &[null.as_fd(), null.as_fd(), null.as_fd(), ask.as_fd(), answered.as_fd()],
        namespaces: Namespaces::NONE,
    })
    .map_err(sys("starting the probe"))?;
    drop((ask, answered));
    let asking = serde_json::to_vec(&question).map_err(Error::Spec)?;
    // A child that died has no answer either, which the next step tells.
    let _ = asked.write_all(&asking);
    drop(asked);
    let mut text = Vec::new();
    answer.read_to_end(&mut text).map_err(io)?;
    child.wait().map_err(sys("waiting for the probe"))?;
    serde_json::from_slice(&text).map_err(Error::Spec)
}

/// Is the child that tries things.
pub(super) fn child_main() -> ExitCode {
    let (Some(question), Some(answer)) =
        (process::inherited_fd(QUESTION_FD), process::inherited_fd(ANSWER_FD))
    else {
        return ExitCode::from(125);
    };
    let mut text = Vec::new();
    if File::from(question).read_to_end(&mut text).is_err() {
        return ExitCode::from(125);
    }
    let Ok(question) = serde_json::from_slice::<Question>(&text) else {
        return ExitCode::from(125);
    };
    let report = try_all(&question);
    let written = serde_json::to_vec(&report)
        .map_err(std::io::Error::other)
        .and_then(|text| File::from(answer).write_all(&text));
    ExitCode::from(if written.is_ok() { 0 } else { 125 })
}

fn try_all(question: &Question) -> HostReport {
    let options = Options {
        isolation: if question.single { Isolation::UsernsSingle } else { Isolation::Auto },
        user_name: question.user_name.clone(),
        path: question.path.clone(),
        exe: None,
    };
    let mut checks = Vec::new();
    let rung = match enter_namespaces(&options) {
        Ok((_, rung, short)) => {
            checks.push(match rung {
                Rung::Root => Check::failed(
                    "user namespace",
                    short.as_ref().map_or_else(String::new, |s| s.reason.clone()),
                    "RUN is isolated from the host by mount and pid namespaces only; no emulation \
                     without the host's help",
                    "sudo sysctl -w user.max_user_namespaces=15000",
                ),
                _ => Check::ok("user namespace", "can be created, with all capabilities in it"),
            });
            match (rung, short) {
                (Rung::UsernsSingle, Some(short)) => checks.push(Check::failed(
                    "range of user ids",
                    short.reason,
                    "programs in RUN cannot become other users (su); files can change hands all the \
                     same, see below",
                    &short.hint,
                )),
                (Rung::UsernsSingle, None) => {}
                _ => checks.push(Check::ok("range of user ids", "is mapped")),
            }
            rung
        }
        Err(error) => {
            checks.push(Check::failed(
                "user namespace",
                error.to_string(),
                "no RUN; FROM, COPY, ADD and all metadata work",
                error.hint().unwrap_or_default(),
            ));
            return HostReport { rung: None, checks };
        }
    };
    let overlay = try_mounts(question, &mut checks);
    let isolated = try_pid_namespace(&mut checks);
    if rung == Rung::UsernsSingle {
        try_owners(&mut checks);
    }
    try_network(&mut checks);
    if rung != Rung::Root {
        try_binfmt(&mut checks);
    }
    HostReport { rung: (overlay && isolated).then_some(rung), checks }
}

/// Tries mounts and an overlay; says whether RUN is possible.
fn try_mounts(question: &Question, checks: &mut Vec<Check>) -> bool {
    const NO_RUN: &str = "no RUN; FROM, COPY, ADD and all metadata work";
    const UNCONFINE: &str = "start the container with --security-opt seccomp=unconfined \
                             --security-opt apparmor=unconfined";
    // Over a directory that every host has, and that this process needs no more.
    let memory = Path::new("/dev");
    let attached = mount::make_all_private().and_then(|()| {
        let made = Fs::open("tmpfs")?.mount(Attrs::default())?;
        mount::attach(made.as_fd(), sys::dir::open(memory)?.as_fd())
    });
    if let Err(e) = attached {
        checks.push(Check::failed("mounts", e.one_line(), NO_RUN, UNCONFINE));
        return false;
    }
    checks.push(Check::ok("mounts", "can be made"));
    let (place, kind) = match &question.scratch {
        Some(dir) => (dir.clone(), "in the store's directory"),
        None => (memory.to_owned(), "in memory"),
    };
    match try_overlay(&place) {
        Ok(()) => {
            checks.push(Check::ok("overlay file system", kind));
            true
        }
        Err(error) => {
            checks.push(Check::failed(
                "overlay file system",
                error,
                NO_RUN,
                "use Linux 5.11 or later, and a store on ext4, XFS, btrfs or tmpfs: --root DIR",
            ));
            false
        }
    }
}

/// Mounts an overlay as RUN does, and deletes through it.
fn try_overlay(place: &Path) -> Result<(), String> {
    let text = |e: std::io::Error| e.to_string();
    let dirs = ["lower", "upper", "work", "at"].map(|name| place.join(name));
    for dir in &dirs {
        std::fs::create_dir(dir).map_err(text)?;
    }
    let [lower, upper, work, at] = dirs;
    std::fs::write(lower.join("file"), b"").map_err(text)?;
    // A file system that holds no attributes cannot hold an upper directory (NFS, old tmpfs).
    let done = super::rootfs::try_overlay(&[lower], &upper, &work, &at)
        .and_then(|()| std::fs::remove_file(at.join("file")).map_err(text))
        .and_then(|()| std::fs::create_dir(at.join("file")).map_err(text));
    let _ = mount::detach(&at);
    done
}

/// Tries a pid namespace, and /proc in it; says whether RUN is possible.
fn try_pid_namespace(checks: &mut Vec<Check>) -> bool {
    let forked = process::fork(Namespaces::PID | Namespaces::IPC | Namespaces::UTS, || {
        let proc = Fs::open("proc").and_then(|fs| fs.mount(Attrs::INERT));
        u8::from(proc.is_err())
    });
    match forked.and_then(|child| child.wait()) {
        Ok(ended) if ended.code == Some(0) => {
            checks.push(Check::ok("processes", "have a namespace and a /proc of their own"));
            true
        }
        Ok(_) => {
            checks.push(Check::failed(
                "/proc",
                "cannot be mounted anew: parts of the host's are hidden".into(),
                "RUN sees the process ids of the host in /proc",
                "start the container with --security-opt systempaths=unconfined \
                 (podman: --security-opt unmask=ALL)",
            ));
            true
        }
        Err(e) => {
            checks.push(Check::failed(
                "processes",
                e.one_line(),
                "no RUN: nothing could be killed at its end",
                "start the container with --security-opt seccomp=unconfined",
            ));
            false
        }
    }
}

/// Tries to be asked about the owners of files, which stands in for ids that are not mapped.
fn try_owners(checks: &mut Vec<Check>) {
    const NAME: &str = "owners of files";
    let done = process::fork(Namespaces::NONE, || match owners::listen() {
        Ok(_) => 0,
        // All that Linux knows fit (133 is the last).
        Err(error) => u8::try_from(error.errno.raw_os_error()).unwrap_or(u8::MAX),
    })
    .and_then(|child| child.wait());
    let reason = match done {
        Ok(ended) if ended.code == Some(0) => {
            return checks.push(Check::ok(NAME, "are kept for RUN: chown works with one id"));
        }
        Ok(ended) => match ended.code {
            Some(code) => std::io::Error::from_raw_os_error(code).to_string(),
            None => "the attempt was killed".to_owned(),
        },
        Err(error) => error.one_line(),
    };
    checks.push(Check::failed(
        NAME,
        format!("calls about them cannot be listened to: {reason}"),
        "chown in RUN fails, so packages that give files away do not install; COPY --chown works",
        "use Linux 5.8 or later; in a container, start it with --security-opt seccomp=unconfined",
    ));
}

fn try_network(checks: &mut Vec<Check>) {
    let done = process::fork(Namespaces::NET, || u8::from(cred::loopback_up().is_err()))
        .and_then(|child| child.wait());
    checks.push(match done {
        Ok(ended) if ended.code == Some(0) => {
            Check::ok("network namespace", "can be created (RUN --network=none)")
        }
        Ok(_) => Check::failed(
            "network namespace",
            "its loopback interface cannot be brought up".into(),
            "no RUN --network=none",
            "",
        ),
        Err(e) => Check::failed(
            "network namespace",
            e.one_line(),
            "no RUN --network=none",
            "sudo sysctl -w user.max_net_namespaces=15000",
        ),
    });
}

fn try_binfmt(checks: &mut Vec<Check>) {
    const NAME: &str = "private binfmt_misc";
    checks.push(match Registry::mount() {
        Ok(_) => Check::ok(NAME, "foreign platforms need nothing of the host but a QEMU"),
        Err(e) => Check::failed(
            NAME,
            explain_binfmt(&e),
            "RUN for foreign platforms needs emulators registered on the host, with flag F",
            "sudo apt-get install qemu-user-static binfmt-support",
        ),
    });
}

fn explain_binfmt(error: &sys::Error) -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let old = older_than(&release, (6, 7));
    if error.is(sys::Errno::NODEV) {
        return "the kernel has no binfmt_misc (sudo modprobe binfmt_misc)".into();
    }
    if old {
        return format!("Linux 6.7 has it, this is {}", release.trim());
    }
    error.one_line()
}

/// Compares the start of a kernel release like `6.1.0-18-amd64`.
fn older_than(release: &str, wanted: (u32, u32)) -> bool {
    let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < wanted,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_compare_by_number() {
        assert!(older_than("6.1.0-18-amd64\n", (6, 7)));
        assert!(!older_than("6.12.3", (6, 7)));
        assert!(!older_than("6.7", (6, 7)));
        assert!(!older_than("odd", (6, 7)));
    }
}
