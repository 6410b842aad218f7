//! Processes: starting them in new namespaces, waiting for them, becoming another program.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::process::Signal;

use super::cred::Namespaces;
use super::{Errno, Error, Result, check, show_fd};

/// A program to be started by [`spawn`].
#[derive(Debug)]
pub struct Spawn<'a> {
    /// The program.
    pub program: BorrowedFd<'a>,
    /// Its arguments, argv[0] first.
    pub args: &'a [CString],
    /// Its environment.
    pub env: &'a [CString],
    /// What it finds as descriptors 0, 1, 2 and so on; all others are closed.
    pub fds: &'a [BorrowedFd<'a>],
    /// Namespaces to be made for it.
    pub namespaces: Namespaces,
}

/// A started process. Dropping it neither kills nor reaps it.
#[derive(Debug)]
pub struct Child {
    pid: libc::pid_t,
    pidfd: OwnedFd,
}

/// How a process ended, and what it cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Exit code, unless a signal killed it.
    pub code: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// Processor time in user mode, with that of children it waited for.
    pub user_time: Duration,
    /// Processor time in the kernel.
    pub system_time: Duration,
}

/// What the child of [`spawn`] needs between clone and exec, where it shares our memory.
struct Launch {
    program: RawFd,
    args: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    fds: Vec<RawFd>,
    errno: libc::c_int,
    step: &'static str,
}

/// Starts a program like vfork and exec do: no page table is copied, and this thread sleeps until
/// the child has become the program. Safe with other threads about.
pub fn spawn(spawn: &Spawn<'_>) -> Result<Child> {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let mut launch = Launch {
        program: spawn.program.as_raw_fd(),
        args: pointers(spawn.args),
        env: pointers(spawn.env),
        fds: spawn.fds.iter().map(AsRawFd::as_raw_fd).collect(),
        errno: 0,
        step: "",
    };
    let args = || format!("{}, {:?}", show_fd(spawn.program), spawn.namespaces);
    let child =
        clone_vfork(&mut launch, spawn.namespaces).map_err(|e| Error::new("clone", args(), e))?;
    if launch.errno != 0 {
        let _ = child.wait();
        return Err(Error::new(launch.step, args(), Errno::from_raw_os_error(launch.errno)));
    }
    Ok(child)
}

fn clone_vfork(launch: &mut Launch, namespaces: Namespaces) -> std::result::Result<Child, Errno> {
    // 32 KiB: the child calls four libc wrappers; the largest frame is that of clone itself.
    const STACK: usize = 32 * 1024;
    let mut stack = vec![0u128; STACK / size_of::<u128>()];
    let mut pidfd: libc::c_int = -1;
    let flags =
        libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD | namespaces.bits();
    // SAFETY: the child runs `launch_child` on its own stack, 16-byte aligned by u128, which outlives
    // it because CLONE_VFORK keeps this thread asleep until it has called exec or _exit. Signals are
    // blocked around it, so that no handler of ours runs there. It touches nothing but `launch`.
    #[expect(unsafe_code, reason = "no crate offers vfork into namespaces")]
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let top = stack.as_mut_ptr().add(stack.len());
        let pid = libc::clone(
            launch_child,
            top.cast(),
            flags,
            std::ptr::from_mut(launch).cast(),
            &raw mut pidfd,
        );
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        if pid == -1 {
            return Err(Errno::from_raw_os_error(errno));
        }
        Ok(Child { pid, pidfd: OwnedFd::from_raw_fd(pidfd) })
    }
}

/// Runs in the child, in the parent's memory: only raw calls, no allocation, no return on success.
extern "C" fn launch_child(launch: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `launch` is the `Launch` of the sleeping parent; nobody else uses it now. The calls
    // below are async-signal-safe and get valid pointers.
    #[expect(unsafe_code, reason = "the child of vfork")]
    unsafe {
        let launch = &mut *launch.cast::<Launch>();
        let fail = |launch: &mut Launch, step: &'static str| -> ! {
            launch.errno = *libc::__errno_location();
            launch.step = step;
            libc::_exit(127)
        };
        // Above the targets first: a source may have the number of a target.
        let base = launch.fds.len() as libc::c_int + 3;
        let program = libc::fcntl(launch.program, libc::F_DUPFD_CLOEXEC, base);
        if program == -1 {
            fail(launch, "fcntl F_DUPFD");
        }
        for i in 0..launch.fds.len() {
            let high = libc::fcntl(launch.fds[i], libc::F_DUPFD_CLOEXEC, base);
            if high == -1 {
                fail(launch, "fcntl F_DUPFD");
            }
            launch.fds[i] = high;
        }
        for i in 0..launch.fds.len() {
            if libc::dup2(launch.fds[i], i as libc::c_int) == -1 {
                fail(launch, "dup2");
            }
        }
        // Descriptors inherited by us without close-on-exec. Linux 5.11; else `close_from` in the
        // child does it.
        libc::syscall(
            libc::SYS_close_range,
            launch.fds.len() as libc::c_uint,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
        libc::syscall(
            libc::SYS_execveat,
            program,
            c"".as_ptr(),
            launch.args.as_ptr(),
            launch.env.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
        fail(launch, "execveat")
    }
}

impl Child {
    /// Gives the descriptor that becomes readable when the process has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Gives the process id, in this process's namespace.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Kills it; one that has ended is fine.
    pub fn kill(&self) -> Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(e) => Err(Error::new("pidfd_send_signal", format!("{}, KILL", self.pid), e)),
        }
    }

    /// Waits for its end, and reaps it.
    pub fn wait(&self) -> Result<Ended> {
        wait(self.pid)
    }
}

fn wait(pid: i32) -> Result<Ended> {
    let mut status: libc::c_int = 0;
    loop {
        // SAFETY: rusage is plain old data; both pointers are to locals.
        #[expect(unsafe_code, reason = "no crate has wait4, which alone tells processor time")]
        let (done, usage) = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            (libc::wait4(pid, &raw mut status, 0, &raw mut usage), usage)
        };
        match check(done, || ("wait4", pid.to_string())) {
            Err(e) if e.is(Errno::INTR) => {}
            Err(e) => return Err(e),
            Ok(_) => {
                return Ok(Ended {
                    code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
                    signal: libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)),
                    user_time: duration(usage.ru_utime),
                    system_time: duration(usage.ru_stime),
                });
            }
        }
    }
}

fn duration(time: libc::timeval) -> Duration {
    // A 32-bit host has narrower fields than others.
    let part = |n: i128| u64::try_from(n).unwrap_or(0);
    let (seconds, micros) = (part(time.tv_sec.into()), part(time.tv_usec.into()));
    Duration::from_secs(seconds) + Duration::from_micros(micros)
}

/// Counts the threads of this process, by the links of the directory that has one for each.
pub fn thread_count() -> usize {
    super::dir::stat_follow(std::path::Path::new("/proc/self/task"))
        .map_or(1, |stat| (stat.nlink as usize).saturating_sub(2))
}

/// Forks this process, which must have one thread (else EBUSY), into new namespaces. The child runs
/// `body` and exits with what it gives.
pub fn fork(namespaces: Namespaces, body: impl FnOnce() -> u8) -> Result<Child> {
    if thread_count() != 1 {
        return Err(Error::new("fork", "a process with threads", Errno::BUSY));
    }
    let mut pidfd: libc::c_int = -1;
    // SAFETY: a clone without CLONE_VM and without a stack is a fork; the kernel writes the pidfd to
    // a local before it returns. With one thread, no lock is held by anyone who does not exist in
    // the child.
    #[expect(unsafe_code, reason = "fork, with namespaces")]
    let pid = unsafe {
        let flags = libc::c_long::from(libc::SIGCHLD | libc::CLONE_PIDFD | namespaces.bits());
        let told = &raw mut pidfd;
        #[cfg(target_arch = "s390x")]
        let pid = libc::syscall(libc::SYS_clone, 0, flags, told, 0, 0);
        #[cfg(not(target_arch = "s390x"))]
        let pid = libc::syscall(libc::SYS_clone, flags, 0, told, 0, 0);
        pid
    };
    if check(pid, || ("clone", format!("{namespaces:?}")))? == 0 {
        let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(125);
        exit_now(code);
    }
    let pid = i32::try_from(pid).map_err(|_| Error::new("clone", pid, Errno::OVERFLOW))?;
    // SAFETY: the kernel just opened it for us.
    #[expect(unsafe_code, reason = "a descriptor by number")]
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child { pid, pidfd })
}

/// Ends this process without running destructors or flushing anything.
pub fn exit_now(code: u8) -> ! {
    // SAFETY: _exit takes an integer and does not return.
    #[expect(unsafe_code, reason = "std can only exit with destructors of statics")]
    unsafe {
        libc::_exit(code.into())
    }
}

/// Lets the kernel kill this process when the thread that started it ends.
pub fn die_with_parent() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|e| Error::new("prctl", "PR_SET_PDEATHSIG, KILL", e))
}

/// Starts a session, so that no terminal sends signals here. Fails for a group leader.
pub fn setsid() -> Result<()> {
    rustix::process::setsid().map(drop).map_err(|e| Error::new("setsid", "", e))
}

/// Closes all descriptors from `first` on.
pub fn close_from(first: i32) {
    // SAFETY: takes integers. Only called where nobody owns these descriptors: in a process that is
    // about to be another program, or to wait for its end.
    #[expect(unsafe_code, reason = "rustix has no close_range")]
    let done = unsafe {
        libc::syscall(libc::SYS_close_range, first as libc::c_uint, libc::c_uint::MAX, 0)
    };
    if done == 0 {
        return;
    }
    // Linux < 5.9.
    let open: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&fd| fd >= first)
        .collect();
    for fd in open {
        // SAFETY: as above; the listing's own descriptor is closed already, which EBADF tells.
        #[expect(unsafe_code, reason = "closing by number")]
        unsafe {
            libc::close(fd);
        }
    }
}

/// Closes all descriptors but these, which get the numbers 0, 1, 2 and so on. For a forked process
/// that will do one thing only.
pub fn keep_only<const N: usize>(fds: [BorrowedFd<'_>; N]) -> Result<[OwnedFd; N]> {
    let base = i32::try_from(N).map_err(|_| Error::new("dup2", N, Errno::MFILE))?;
    let high: Vec<OwnedFd> = fds
        .iter()
        .map(|fd| {
            rustix::io::fcntl_dupfd_cloexec(fd, base)
                .map_err(|e| Error::new("fcntl F_DUPFD", show_fd(*fd), e))
        })
        .collect::<Result<_>>()?;
    for (number, fd) in (0..).zip(&high) {
        // SAFETY: takes integers. The numbers below N are owned by nobody who will use them again.
        #[expect(unsafe_code, reason = "rustix dups to owned descriptors only")]
        let kept = unsafe { libc::dup3(fd.as_raw_fd(), number, libc::O_CLOEXEC) };
        check(kept, || ("dup3", show_fd(fd.as_fd())))?;
    }
    std::mem::forget(high);
    close_from(base);
    let mut number = -1;
    Ok([(); N].map(|()| {
        number += 1;
        // SAFETY: 0 to N - 1 were just opened by the calls above.
        #[expect(unsafe_code, reason = "descriptors by number")]
        unsafe {
            OwnedFd::from_raw_fd(number)
        }
    }))
}

/// Takes a descriptor that this process was started with. None when it is not open.
pub fn inherited_fd(number: i32) -> Option<OwnedFd> {
    // SAFETY: F_GETFD takes an integer and tells whether the descriptor is open. By contract with
    // whoever started this process, nobody else owns it.
    #[expect(unsafe_code, reason = "descriptors passed by number")]
    unsafe {
        if libc::fcntl(number, libc::F_GETFD) == -1 {
            return None;
        }
        Some(OwnedFd::from_raw_fd(number))
    }
}

/// How often the user asked this process to stop.
static STOPS: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
/// The event descriptor that the first such request is written to.
static STOP_EVENT: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(-1);

/// Exit code of a program that the user stopped: 128 + SIGINT.
const INTERRUPTED: libc::c_int = 130;

extern "C" fn stop(_: libc::c_int) {
    use std::sync::atomic::Ordering;
    if STOPS.fetch_add(1, Ordering::SeqCst) > 0 {
        // The second request: at once. All RUNs die with this process.
        // SAFETY: _exit is async-signal-safe and takes any number.
        #[expect(unsafe_code, reason = "std's exit is not async-signal-safe")]
        unsafe {
            libc::_exit(INTERRUPTED)
        }
    }
    let one = 1u64;
    // SAFETY: write is async-signal-safe; the pointer is to eight valid bytes; errno is the only
    // thing that it changes, and the interrupted code is in a call that reports its own.
    #[expect(unsafe_code, reason = "std's write may lock")]
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(STOP_EVENT.load(Ordering::SeqCst), (&raw const one).cast(), 8);
        *libc::__errno_location() = errno;
    }
}

/// From now on, SIGINT, SIGTERM and SIGHUP are requests to stop: the first makes `event` (an
/// eventfd that lives as long as the process) readable, the second ends the process at once.
pub fn stop_on_signals(event: BorrowedFd<'_>) {
    STOP_EVENT.store(event.as_raw_fd(), std::sync::atomic::Ordering::SeqCst);
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: `stop` is an async-signal-safe function of the right type, and the structure is
        // plain data for which zero is a valid value of every field.
        #[expect(unsafe_code, reason = "rustix has no signal handlers")]
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = stop as *const () as usize;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
    }
}

/// Has a command's process killed when the thread that starts it ends, so that a killed build leaves
/// no child, and gives it a process group of its own for [`kill_group`].
pub fn tie_to_this_thread(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
    // SAFETY: prctl is async-signal-safe and allocates nothing.
    #[expect(unsafe_code, reason = "std has no death signal")]
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
                .map_err(std::io::Error::from)
        });
    }
}

/// Kills a process group; one that is gone is fine.
pub fn kill_group(leader: u32) -> Result<()> {
    let id = i32::try_from(leader).ok().and_then(rustix::process::Pid::from_raw);
    let Some(id) = id else {
        return Err(Error::new("kill", leader, Errno::SRCH));
    };
    match rustix::process::kill_process_group(id, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(e) => Err(Error::new("kill", format!("-{leader}, KILL"), e)),
    }
}

/// Says whether the user asked this process to stop.
pub fn stop_requested() -> bool {
    STOPS.load(std::sync::atomic::Ordering::SeqCst) > 0
}

/// Puts all signals back to what a fresh process expects: no handlers, nothing ignored (Rust
/// ignores SIGPIPE), nothing blocked.
pub fn reset_signals() {
    // SAFETY: SIG_DFL is valid for every signal; the kernel refuses KILL, STOP and unknown ones.
    #[expect(unsafe_code, reason = "no crate resets all signals")]
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// Becomes the program at `path`; only returns to say why not.
pub fn exec(path: &CStr, args: &[CString], env: &[CString]) -> Error {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(args), pointers(env));
    // SAFETY: all three are NUL-terminated and outlive the call.
    #[expect(unsafe_code, reason = "std's exec looks up PATH and changes signals by its own rules")]
    let done = unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    match check(done, || ("execve", format!("{path:?}"))) {
        Err(error) => error,
        Ok(_) => Error::new("execve", format!("{path:?}"), Errno::IO),
    }
}

/// The limits of getrlimit(2), by the names that `docker --ulimit` has for them.
pub const LIMITS: [(&str, libc::__rlimit_resource_t); 15] = [
    ("core", libc::RLIMIT_CORE),
    ("cpu", libc::RLIMIT_CPU),
    ("data", libc::RLIMIT_DATA),
    ("fsize", libc::RLIMIT_FSIZE),
    ("locks", libc::RLIMIT_LOCKS),
    ("memlock", libc::RLIMIT_MEMLOCK),
    ("msgqueue", libc::RLIMIT_MSGQUEUE),
    ("nice", libc::RLIMIT_NICE),
    ("nofile", libc::RLIMIT_NOFILE),
    ("nproc", libc::RLIMIT_NPROC),
    ("rss", libc::RLIMIT_RSS),
    ("rtprio", libc::RLIMIT_RTPRIO),
    ("rttime", libc::RLIMIT_RTTIME),
    ("sigpending", libc::RLIMIT_SIGPENDING),
    ("stack", libc::RLIMIT_STACK),
];

/// Sets a limit of [`LIMITS`] for this process and what it starts; None is unlimited.
#[allow(unsafe_code)]
pub fn set_limit(name: &str, soft: Option<u64>, hard: Option<u64>) -> Result<()> {
    let Some((_, resource)) = LIMITS.iter().find(|(known, _)| *known == name) else {
        return Err(Error::new("setrlimit", name, Errno::INVAL));
    };
    let value = |limit: Option<u64>| limit.unwrap_or(libc::RLIM_INFINITY);
    let limit = libc::rlimit { rlim_cur: value(soft), rlim_max: value(hard) };
    // SAFETY: the pointer is to a live value.
    let done = unsafe { libc::setrlimit(*resource, &limit) };
    check(done, || ("setrlimit", name.to_owned())).map(drop)
}

/// Changes the working directory to a path.
pub fn chdir(path: &CStr) -> Result<()> {
    rustix::process::chdir(path).map_err(|e| Error::new("chdir", format!("{path:?}"), e))
}

/// Changes the working directory to an open directory.
pub fn chdir_fd(dir: BorrowedFd<'_>) -> Result<()> {
    rustix::process::fchdir(dir).map_err(|e| Error::new("fchdir", show_fd(dir), e))
}

/// Gives the working directory as the kernel sees it; `(unreachable)...` when it lies outside of
/// the root.
pub fn getcwd() -> Result<Vec<u8>> {
    rustix::process::getcwd(Vec::new())
        .map(CString::into_bytes)
        .map_err(|e| Error::new("getcwd", "", e))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use super::super::mem;
    use super::*;

    #[test]
    fn a_spawned_program_gets_its_descriptors_and_nothing_else() {
        let program = File::open("/bin/sh").unwrap();
        let null = File::open("/dev/null").unwrap();
        let (mut reader, writer) = mem::pipe().unwrap();
        // Kept open without close-on-exec, as a parent of ours may have done.
        let leak = File::open("/dev/zero").unwrap();
        mem::set_cloexec(leak.as_fd(), false).unwrap();
        let args = ["sh", "-c", "echo $A; ls /proc/self/fd | wc -l; exit 7"]
            .map(|s| CString::new(s).unwrap());
        let child = spawn(&Spawn {
            program: program.as_fd(),
            args: &args,
            env: &[c"A=b".to_owned(), c"PATH=/usr/bin:/bin".to_owned()],
            fds: &[null.as_fd(), writer.as_fd(), writer.as_fd()],
            namespaces: Namespaces::NONE,
        })
        .unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        // 0, 1, 2 and the directory that ls itself opened.
        assert_eq!(text, "b\n4\n");
        assert_eq!(child.wait().unwrap().code, Some(7));
    }

    #[test]
    fn a_failed_exec_is_told() {
        let program = File::open("/etc/passwd").unwrap();
        let error = spawn(&Spawn {
            program: program.as_fd(),
            args: &[c"x".to_owned()],
            env: &[],
            fds: &[],
            namespaces: Namespaces::NONE,
        })
        .unwrap_err();
        assert!(error.is(Errno::ACCESS), "{error}");
    }
}
