//! The child's side: from an order on a memfd to the program, in one straight line.
//!
//! Runs as a fork of the session's [`init`], with one thread, in namespaces of its own.
//! Descriptors: 0 empty, 1 and 2 the pipes of the output, 3 the order, 4 the pipe of the report, 5 the
//! socket for the listener of [`owners`].
//!
//! The order of steps matters: the accounts are read and the root is built with the session's full
//! capabilities; then `pivot_root` takes the builder's files out of sight; only then do the ids and
//! capabilities of the RUN apply; the program is looked up last, with the rights it will have.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use super::emulation::Arch;
use super::rootfs::{self, Kernel, doing};
use super::spec::{Network, Order, Report, RunSpec};
use super::user::{self, User};
use super::{CHILD_ARG0, DEFAULT_PATH, init, owners, probe};
use crate::sys::cred::{self, Namespaces};
use crate::sys::{Errno, dir, mem, mount, node, process, tty};

/// Docker's default capabilities, by number: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID,
/// SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD, AUDIT_WRITE, SETFCAP (moby,
/// `oci/caps/defaults.go`).
const DEFAULT_CAPABILITIES: u64 = {
    let numbers = [0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31];
    let mut mask = 0;
    let mut i = 0;
    while i < numbers.len() {
        mask |= 1u64 << numbers[i];
        i += 1;
    }
    mask
};

/// Why there is no program.
enum Failure {
    /// Exit code of a shell, why, what to do.
    NotStarted(u8, String, Option<String>),
    /// The sandbox could not be made.
    Setup(String),
}

impl From<String> for Failure {
    fn from(message: String) -> Failure {
        Failure::Setup(message)
    }
}

/// Becomes a process of the sandbox when this one was executed as such; None otherwise. Called first
/// thing in `main`, before any thread.
pub fn child_main() -> Option<ExitCode> {
    let mut args = std::env::args_os();
    if args.next()? != CHILD_ARG0 {
        return None;
    }
    let role = args.next()?;
    if role == init::ROLE {
        Some(init::main())
    } else if role == probe::ROLE {
        Some(probe::child_main())
    } else {
        None
    }
}

/// Is the child of one RUN: gives the exit code when there is no program to become.
pub(super) fn run(fds: [BorrowedFd<'_>; 6], kernel: &Kernel) -> u8 {
    let Ok([null, out, err, order, report, owners]) = process::keep_only(fds) else { return 125 };
    let mut report = File::from(report);
    let Err(failure) =
        become_program([null, out, err], File::from(order), &mut report, owners, kernel);
    let (code, told) = match failure {
        Failure::NotStarted(code, message, hint) => {
            (code, Report::NotStarted { code, message, hint })
        }
        Failure::Setup(message) => (125, Report::Setup { message }),
    };
    // When the builder is gone there is nobody to tell.
    let _ = tell(&mut report, &told);
    code
}

fn tell(report: &mut File, what: &Report) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    report.write_all(&line)
}

/// Goes all the way. The report and the order are closed by exec, the others stay open.
fn become_program(
    standard: [OwnedFd; 3],
    mut order: File,
    report: &mut File,
    owners: OwnedFd,
    kernel: &Kernel,
) -> Result<std::convert::Infallible, Failure> {
    for fd in &standard {
        mem::set_cloexec(fd.as_fd(), false).map_err(doing("preparing"))?;
    }
    let _ = process::setsid();
    dir::umask(0);
    let mut text = Vec::new();
    order.read_to_end(&mut text).map_err(doing("reading the order"))?;
    drop(order);
    let order: Order<'_> =
        serde_json::from_slice(&text).map_err(|e| format!("reading the order: {e}"))?;
    let spec = &*order.spec;

    if let Some(group) = &spec.cgroup {
        let file = group.join("cgroup.procs");
        std::fs::write(&file, "0").map_err(doing(file.display()))?;
    }
    if spec.terminal {
        tty::take_control(standard[0].as_fd()).map_err(doing("taking the terminal"))?;
    }
    let root = rootfs::build(&order, kernel)?;
    let user = find_user(root.as_fd(), &spec.user)?;
    cred::set_hostname(&spec.hostname).map_err(doing("setting the host name"))?;
    if spec.network == Network::None {
        cred::loopback_up().map_err(doing("bringing up the loopback interface"))?;
    }
    mount::pivot_root(root.as_fd()).map_err(doing("entering the root"))?;
    drop(root);
    enter_cwd(&spec.cwd)?;
    cred::leave_session_keyring();
    give_output_to(&standard[1..], &user, order.single_id)?;
    if order.keeps_owners && (user.uid, user.gid) == (0, 0) {
        hand_over_owners(owners.as_fd());
    }
    drop(owners);
    become_user(&user, &order)?;
    dir::umask(0o022);
    if spec.personality32 || spec.no_aslr {
        cred::personality(spec.personality32, spec.no_aslr).map_err(doing("personality"))?;
    }
    for limit in &spec.limits {
        process::set_limit(&limit.name, limit.soft, limit.hard).map_err(|error| {
            let mut message =
                format!("--ulimit {}: {}", limit.name, std::io::Error::from(error.errno));
            if error.is(Errno::PERM) {
                message.push_str(
                    "; a hard limit can only be lowered, and this process has a lower one",
                );
            }
            message
        })?;
    }
    let ready = Report::Ready { uid: user.uid, gid: user.gid };
    tell(report, &ready).map_err(doing("reporting"))?;
    Err(exec(spec, &user))
}

/// Resolves `USER` by the files of the image.
fn find_user(root: BorrowedFd<'_>, name: &str) -> Result<User, Failure> {
    let passwd = read_accounts(root, "etc/passwd")?;
    let group = read_accounts(root, "etc/group")?;
    user::resolve(name, &passwd, &group).map_err(|error| {
        let hint = "create the user in a RUN before, or give numbers: USER 1000:1000";
        Failure::NotStarted(126, error.to_string(), Some(hint.to_owned()))
    })
}

/// Reads a small file of the image; one that is missing is empty.
fn read_accounts(root: BorrowedFd<'_>, path: &str) -> Result<Vec<u8>, Failure> {
    // 16 MiB: a few hundred thousand accounts; an image with more would only fill our memory.
    const LIMIT: u64 = 16 << 20;
    let fail = doing(format!("reading /{path}"));
    // Opening blocks on no FIFO, and what is not a regular file has no accounts.
    let file = match dir::open_in_root(root, path.as_bytes()) {
        Ok(file) => file,
        Err(e) if e.is(Errno::NOENT) || e.is(Errno::NOTDIR) || e.is(Errno::LOOP) => {
            return Ok(Vec::new());
        }
        Err(e) => return Err(Failure::Setup(fail(e.into()))),
    };
    let mut bytes = Vec::new();
    if file.metadata().is_ok_and(|m| m.is_file()) {
        file.take(LIMIT).read_to_end(&mut bytes).map_err(fail)?;
    }
    Ok(bytes)
}

/// Enters the working directory, and makes sure that it lies in the root (CVE-2024-21626).
fn enter_cwd(cwd: &str) -> Result<(), Failure> {
    let path = CString::new(if cwd.is_empty() { "/" } else { cwd })
        .map_err(|_| format!("the working directory {cwd:?} holds a NUL"))?;
    let entered = match process::chdir(&path) {
        Err(e) if e.is(Errno::NOENT) => make_cwd(cwd),
        other => other,
    };
    entered.map_err(|error| {
        let hint = error.is(Errno::ROFS).then(|| {
            "a read-only mount of this RUN hides it; give the mount `rw`, or another target"
                .to_owned()
        });
        Failure::NotStarted(126, format!("cannot enter the working directory {cwd}: {error}"), hint)
    })?;
    let real = process::getcwd().map_err(doing("reading the working directory"))?;
    if real.first() != Some(&b'/') {
        return Err(Failure::Setup(format!("the working directory {cwd} is outside of the root")));
    }
    Ok(())
}

/// Makes and enters a working directory that a mount of this RUN hides, as runc does: with
/// `WORKDIR /go/src/app`, `--mount=type=tmpfs,target=/go/src` leaves nothing of it.
fn make_cwd(cwd: &str) -> crate::sys::Result<()> {
    process::chdir(c"/")?;
    for name in cwd.split('/').filter(|name| !matches!(*name, "" | ".")) {
        let text = CString::new(name).expect("the whole path holds no NUL");
        match process::chdir(&text) {
            Err(e) if e.is(Errno::NOENT) => {
                node::mkdir_here(name.as_bytes(), 0o755)?;
                process::chdir(&text)?;
            }
            other => other?,
        }
    }
    Ok(())
}

/// Makes the output pipes the user's, so that it may open /dev/stdout.
fn give_output_to(pipes: &[OwnedFd], user: &User, single_id: bool) -> Result<(), Failure> {
    if user.uid == 0 || single_id {
        return Ok(());
    }
    for fd in pipes {
        match node::chown_fd(fd.as_fd(), user.uid, user.gid) {
            // Outside of the map: becoming the user will tell.
            Err(e) if e.is(Errno::INVAL) => {}
            other => other.map_err(doing("giving the output to the user"))?,
        }
    }
    Ok(())
}

/// Hands calls about owners over to the builder. Where the kernel has no such filters, or another
/// supervisor is there already, the kernel answers them: files cannot be given away then.
fn hand_over_owners(socket: BorrowedFd<'_>) {
    if let Ok(listener) = owners::listen() {
        // Without the builder nothing goes on anyway.
        let _ = mem::send(socket, b"l", &[listener.as_fd()]);
    }
}

/// Takes ids, groups and capabilities of the RUN.
fn become_user(user: &User, order: &Order<'_>) -> Result<(), Failure> {
    if order.single_id {
        if user.uid != 0 || user.gid != 0 {
            rename_single_id(user)?;
        }
    } else {
        let mut groups = user.groups.clone();
        groups.push(user.gid);
        cred::set_groups(&groups).map_err(no_such_id(user))?;
    }
    if !order.spec.insecure {
        cred::limit_capabilities(DEFAULT_CAPABILITIES).map_err(doing("dropping capabilities"))?;
    }
    if !order.single_id {
        cred::set_ids(user.uid, user.gid).map_err(no_such_id(user))?;
    }
    Ok(())
}

fn no_such_id(user: &User) -> impl Fn(crate::sys::Error) -> Failure {
    move |e| {
        let mut message =
            format!("becoming user {}:{}: {}", user.uid, user.gid, std::io::Error::from(e.errno));
        if e.is(Errno::INVAL) {
            message.push_str("; this id is not in the range that /etc/subuid and /etc/subgid give");
        }
        Failure::Setup(message)
    }
}

/// Where one id is mapped, no process can be another user; but a user namespace below can show this
/// id under the number wanted. The program then sees itself as that user, without capabilities,
/// and all files as its own.
fn rename_single_id(user: &User) -> Result<(), Failure> {
    cred::unshare(Namespaces::USER).map_err(doing("a user namespace for USER"))?;
    let write = |name: &str, text: String| {
        File::options()
            .write(true)
            .open(format!("/proc/self/{name}"))
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(doing(format!("writing /proc/self/{name}")))
    };
    write("uid_map", format!("{} 0 1\n", user.uid))?;
    write("gid_map", format!("{} 0 1\n", user.gid))?;
    Ok(())
}

/// Becomes the program; returns only to say why not.
fn exec(spec: &RunSpec, user: &User) -> Failure {
    let mut env: Vec<CString> = Vec::with_capacity(spec.env.len() + 1);
    for variable in &spec.env {
        match CString::new(variable.as_bytes()) {
            Ok(variable) => env.push(variable),
            Err(_) => return Failure::Setup(format!("variable {variable:?} holds a NUL")),
        }
    }
    let has = |name: &str| spec.env.iter().any(|v| v.starts_with(name));
    if !has("HOME=") {
        env.extend(CString::new(format!("HOME={}", user.home)));
    }
    let args: Result<Vec<CString>, _> =
        spec.args.iter().map(|a| CString::new(a.as_bytes())).collect();
    let Ok(args) = args else { return Failure::Setup("an argument holds a NUL".into()) };
    let Some(name) = spec.args.first().filter(|name| !name.is_empty()) else {
        return Failure::NotStarted(127, "no command given".into(), None);
    };
    let path = match look_up(name, &spec.env) {
        Ok(path) => path,
        Err(failure) => return failure,
    };
    let Ok(c_path) = CString::new(path.as_bytes()) else {
        return Failure::Setup(format!("{path:?} holds a NUL"));
    };
    let error = process::exec(&c_path, &args, &env);
    explain(&path, error.errno)
}

/// Finds a program like execvp: a name with a slash is a path, others are looked for in PATH.
fn look_up(name: &str, env: &[String]) -> Result<String, Failure> {
    if name.contains('/') {
        return Ok(name.to_owned());
    }
    // The last one counts, as in the kernel's list it would for getenv of a shell.
    let path = env.iter().rev().find_map(|v| v.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let mut denied = None;
    for dir in path.split(':') {
        let dir = if dir.is_empty() { "." } else { dir };
        let file = format!("{}/{name}", dir.trim_end_matches('/'));
        match std::fs::metadata(&file) {
            Ok(meta) if meta.is_file() => {
                use std::os::unix::fs::PermissionsExt as _;
                if meta.permissions().mode() & 0o111 != 0 {
                    return Ok(file);
                }
                denied = Some(file);
            }
            _ => {}
        }
    }
    Err(match denied {
        Some(file) => Failure::NotStarted(
            126,
            format!("{file}: permission denied"),
            Some(format!("{file} is not executable: RUN chmod +x {file}, or COPY --chmod=755")),
        ),
        None => Failure::NotStarted(
            127,
            format!("{name}: executable file not found in $PATH"),
            Some(format!("PATH is {path}")),
        ),
    })
}

/// Says why a program that is there (or not) could not be executed.
fn explain(path: &str, errno: Errno) -> Failure {
    let mut head = Vec::new();
    if let Ok(file) = File::open(path) {
        let _ = file.take(256).read_to_end(&mut head);
    }
    let script = head.strip_prefix(b"#!").map(|rest| {
        let line = rest.split(|&b| b == b'\n').next().unwrap_or_default();
        String::from_utf8_lossy(line).into_owned()
    });
    let text = |what: &str| format!("{path}: {what}");
    match errno {
        Errno::NOENT if Path::new(path).exists() => match script {
            Some(line) if line.ends_with('\r') => Failure::NotStarted(
                127,
                text("its interpreter was not found"),
                Some(
                    "its first line ends with a carriage return: save it with Unix line ends"
                        .into(),
                ),
            ),
            Some(line) => Failure::NotStarted(
                127,
                text(&format!("its interpreter {} was not found", line.trim())),
                Some("install the interpreter named in its first line".into()),
            ),
            None => Failure::NotStarted(
                127,
                text("its dynamic linker was not found"),
                Some("it is linked against a C library that this image does not have".into()),
            ),
        },
        Errno::NOENT => Failure::NotStarted(127, text("no such file or directory"), None),
        Errno::NOTDIR => Failure::NotStarted(127, text("not a directory"), None),
        Errno::ACCESS if Path::new(path).is_dir() => {
            Failure::NotStarted(126, text("is a directory"), None)
        }
        Errno::ACCESS => Failure::NotStarted(
            126,
            text("permission denied"),
            Some(format!("make it executable: RUN chmod +x {path}, or COPY --chmod=755")),
        ),
        Errno::NOEXEC => {
            let hint = match Arch::of_program(&head) {
                Some(arch) if Some(arch) != Arch::host() => {
                    format!("it is an {arch} program. {}", super::Emulator::advice(arch))
                }
                Some(_) => "it is damaged".to_owned(),
                None if script.is_none() => {
                    "it is no program, or a script without a first line like #!/bin/sh".to_owned()
                }
                None => "the interpreter in its first line cannot be executed".to_owned(),
            };
            Failure::NotStarted(126, text("exec format error"), Some(hint))
        }
        errno => {
            let error = std::io::Error::from(errno);
            Failure::NotStarted(126, text(&error.to_string()), None)
        }
    }
}
