//! The session's init: the parent of every RUN, in a pid namespace of its own.
//!
//! It is this program executed again, from a sealed copy in memory, so it holds nothing of the
//! builder's and has one thread: RUNs are plain forks of it, which costs less than to execute this
//! program for each. The kernel makes a pid namespace only below the one a process is in (clone gives
//! EINVAL after setns), so the builder itself cannot start RUNs below the init; it asks. What holds
//! it all together is one socket: when the builder ends, by whatever death, its end closes, the init
//! ends, and the kernel kills all in its namespace and those below.
//!
//! The seal is for CVE-2019-5736: until its program runs, /proc/self/exe of a RUN is that copy, and
//! nobody who gets hold of it there can change what users of this program execute.
//!
//! The protocol, on sockets that keep the borders of messages:
//!
//! * builder → init, on the session's socket: one byte of flags and five descriptors: stdout,
//!   stderr, order, report, and one end of a socket for this RUN; a sixth is where the child sends the
//!   listener of its filter to ([`super::owners`]);
//! * init → builder, on the RUN's socket: how it ended ([`encode`]), or errno of the clone;
//! * builder → init, on the RUN's socket: any byte kills it, and so does closing it.
//!
//! Descriptors of the init: 0 empty, 1 and 2 the builder's stderr, 3 the session's socket. It says
//! first, in one byte, whether /proc can be mounted.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use super::rootfs::Kernel;
use super::{CHILD_ARG0, Error};
use crate::sys::cred::Namespaces;
use crate::sys::process::{Child, Ended, Spawn};
use crate::sys::{self, Errno, mem, mount, process};

/// Flag of a request: the RUN gets a network namespace.
const OWN_NETWORK: u8 = 1;

/// Flag of a request: what the RUN writes to is what it reads from.
const TERMINAL: u8 = 2;

/// The builder's handle of the init.
#[derive(Debug)]
pub(super) struct Init {
    child: Child,
    /// None once it has been told to go.
    socket: Option<OwnedFd>,
    /// Whether /proc can be mounted anew in pid namespaces here.
    pub(super) fresh_proc: bool,
}

/// A RUN to be started.
pub(super) struct Start<'a> {
    pub(super) out: BorrowedFd<'a>,
    pub(super) err: BorrowedFd<'a>,
    pub(super) order: BorrowedFd<'a>,
    pub(super) report: BorrowedFd<'a>,
    /// Where the listener goes, if somebody keeps owners.
    pub(super) owners: Option<BorrowedFd<'a>>,
    pub(super) own_network: bool,
    /// `out` is a terminal, which the RUN reads from as well.
    pub(super) terminal: bool,
}

/// A RUN that was started; dropping it kills it.
#[derive(Debug)]
pub(super) struct Running(OwnedFd);

impl Init {
    /// Starts it; `program` is executed as it.
    pub(super) fn start(program: &OwnedFd) -> Result<Init, Error> {
        let sys = |doing| move |source| Error::Sys { doing, source };
        let (socket, theirs) = mem::socket_pair().map_err(sys("making a socket"))?;
        let null = File::open("/dev/null")
            .map_err(|e| Error::Setup { message: format!("/dev/null: {e}") })?;
        // The constants hold no NUL.
        let args = [CHILD_ARG0, ROLE].map(|a| CString::new(a).unwrap_or_default());
        let stderr = std::io::stderr();
        let child = process::spawn(&Spawn {
            program: program.as_fd(),
            args: &args,
            env: &[],
            fds: &[null.as_fd(), stderr.as_fd(), stderr.as_fd(), theirs.as_fd()],
            namespaces: Namespaces::PID,
        })
        .map_err(sys("starting the session's init"))?;
        drop(theirs);
        let mut byte = [0u8];
        match mem::receive(socket.as_fd(), &mut byte) {
            Ok((1, _)) => {}
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                let message = "the session's init did not start".into();
                return Err(Error::Setup { message });
            }
        }
        Ok(Init { child, socket: Some(socket), fresh_proc: byte == *b"p" })
    }

    /// Lets it start a RUN.
    pub(super) fn start_run(&self, start: &Start<'_>) -> Result<Running, Error> {
        let sys = |doing| move |source| Error::Sys { doing, source };
        let (ours, theirs) = mem::socket_pair().map_err(sys("making a socket"))?;
        let Some(socket) = &self.socket else {
            return Err(Error::Setup { message: "the session has ended".into() });
        };
        let flags = if start.own_network { OWN_NETWORK } else { 0 }
            | if start.terminal { TERMINAL } else { 0 };
        let mut fds = vec![start.out, start.err, start.order, start.report, theirs.as_fd()];
        fds.extend(start.owners);
        mem::send(socket.as_fd(), &[flags], &fds).map_err(sys("asking the session's init"))?;
        Ok(Running(ours))
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        drop(self.socket.take());
        let _ = self.child.wait();
    }
}

impl Running {
    /// Gives the descriptor that becomes readable when the RUN has ended.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Kills it.
    pub(super) fn kill(&self) -> Result<(), Error> {
        match mem::send(self.0.as_fd(), b"k", &[]) {
            // It has ended, and its answer is there to be read.
            Err(e) if !e.is(Errno::PIPE) => {
                Err(Error::Sys { doing: "killing the sandbox", source: e })
            }
            _ => Ok(()),
        }
    }

    /// Reads how it ended.
    pub(super) fn ended(&self) -> Result<Ended, Error> {
        let mut message = [0u8; MESSAGE];
        let sys = |source| Error::Sys { doing: "waiting for the sandbox", source };
        let (length, _) = match mem::receive(self.0.as_fd(), &mut message) {
            // It ended on its own just as we killed it; the kernel tells that first, once.
            Err(e) if e.is(Errno::CONNRESET) => mem::receive(self.0.as_fd(), &mut message),
            other => other,
        }
        .map_err(sys)?;
        match decode(&message[..length]) {
            Some(Ok(ended)) => Ok(ended),
            Some(Err(errno)) => Err(Error::Sys {
                doing: "starting the sandbox",
                source: sys::Error::new("clone", "new namespaces", errno),
            }),
            None => Err(Error::Setup { message: "the session's init was killed".into() }),
        }
    }
}

/// Bytes of an answer.
const MESSAGE: usize = 21;

/// Writes an end as bytes: a kind, a number, and both times in microseconds.
fn encode(ended: Result<Ended, Errno>) -> [u8; MESSAGE] {
    let (kind, number, user, system) = match ended {
        Ok(e) => match (e.code, e.signal) {
            (Some(code), _) => (b'e', code, e.user_time, e.system_time),
            (None, signal) => (b's', signal.unwrap_or(0), e.user_time, e.system_time),
        },
        Err(errno) => (b'!', errno.raw_os_error(), Duration::ZERO, Duration::ZERO),
    };
    let micros = |t: Duration| u64::try_from(t.as_micros()).unwrap_or(u64::MAX).to_ne_bytes();
    let mut out = [0u8; MESSAGE];
    out[0] = kind;
    out[1..5].copy_from_slice(&number.to_ne_bytes());
    out[5..13].copy_from_slice(&micros(user));
    out[13..].copy_from_slice(&micros(system));
    out
}

fn decode(message: &[u8]) -> Option<Result<Ended, Errno>> {
    let number = i32::from_ne_bytes(message.get(1..5)?.try_into().ok()?);
    let micros = |from: usize| -> Option<Duration> {
        let bytes = message.get(from..from + 8)?.try_into().ok()?;
        Some(Duration::from_micros(u64::from_ne_bytes(bytes)))
    };
    let ended = |code, signal| -> Option<Ended> {
        Some(Ended { code, signal, user_time: micros(5)?, system_time: micros(13)? })
    };
    match message.first()? {
        b'e' => ended(Some(number), None).map(Ok),
        b's' => ended(None, Some(number)).map(Ok),
        b'!' => Some(Err(Errno::from_raw_os_error(number))),
        _ => None,
    }
}

/// A RUN, as the init knows it.
struct Run {
    child: Child,
    socket: OwnedFd,
    /// Nothing more is read from the socket: a kill came, or the builder closed it.
    deaf: bool,
}

/// argv[1] of the init.
pub(super) const ROLE: &str = "init";

/// Descriptor of the session's socket.
const SOCKET_FD: i32 = 3;

/// Is the init.
pub(super) fn main() -> ExitCode {
    let Some(socket) = process::inherited_fd(SOCKET_FD) else { return ExitCode::from(125) };
    process::close_from(SOCKET_FD + 1);
    // For the RUNs, which inherit it: no handlers, and no terminal to read from or be signalled by.
    process::reset_signals();
    let _ = process::setsid();
    let _ = process::die_with_parent();
    let Ok(null) = mem::set_cloexec(socket.as_fd(), true)
        .map_err(std::io::Error::from)
        .and_then(|()| File::open("/dev/null"))
    else {
        return ExitCode::from(125);
    };
    let proc = mount::Fs::open("proc").and_then(|fs| fs.mount(mount::Attrs::INERT));
    if mem::send(socket.as_fd(), if proc.is_ok() { b"p" } else { b"-" }, &[]).is_err() {
        return ExitCode::from(125);
    }
    drop(proc);
    let kernel = Kernel::look();
    let mut runs: Vec<Run> = Vec::new();
    loop {
        let mut fds = vec![Some(socket.as_fd())];
        for run in &runs {
            fds.push(Some(run.child.pidfd()));
            fds.push((!run.deaf).then(|| run.socket.as_fd()));
        }
        let Ok(ready) = mem::poll_readable(&fds, None) else { return ExitCode::from(125) };
        drop(fds);
        let mut flags = ready.get(1..).unwrap_or_default().chunks_exact(2);
        runs.retain_mut(|run| match flags.next() {
            Some([true, _]) => {
                let ended = run.child.wait().map_err(|e| e.errno);
                // A builder that no longer listens has lost interest.
                let _ = mem::send(run.socket.as_fd(), &encode(ended), &[]);
                false
            }
            Some([_, true]) => {
                // Read, not left: closing a socket with something unread resets the other end.
                let _ = mem::receive(run.socket.as_fd(), &mut [0u8]);
                let _ = run.child.kill();
                run.deaf = true;
                true
            }
            _ => true,
        });
        if ready.first() == Some(&true) {
            match accept(&socket, &null, &kernel) {
                Ok(Some(run)) => runs.push(run),
                Ok(None) => {}
                // There is no builder any more.
                Err(()) => return ExitCode::SUCCESS,
            }
        }
    }
}

/// Starts the RUN that the builder asks for; None when it could not be.
fn accept(socket: &OwnedFd, null: &File, kernel: &Kernel) -> Result<Option<Run>, ()> {
    let mut flags = [0u8];
    let Ok((1, fds)) = mem::receive(socket.as_fd(), &mut flags) else { return Err(()) };
    let mut fds = fds;
    let owners = (fds.len() == 6).then(|| fds.pop()).flatten();
    let Ok([out, err, order, report, reply]) = <[OwnedFd; 5]>::try_from(fds) else {
        return Err(());
    };
    let mut namespaces = Namespaces::MOUNT | Namespaces::PID | Namespaces::IPC | Namespaces::UTS;
    if flags[0] & OWN_NETWORK != 0 {
        namespaces = namespaces | Namespaces::NET;
    }
    let input = if flags[0] & TERMINAL != 0 { out.as_fd() } else { null.as_fd() };
    // Six always; the child is told whether the last is one.
    let owners = owners.as_ref().map_or(null.as_fd(), AsFd::as_fd);
    let fds = [input, out.as_fd(), err.as_fd(), order.as_fd(), report.as_fd(), owners];
    match process::fork(namespaces, || super::child::run(fds, kernel)) {
        Ok(child) => Ok(Some(Run { child, socket: reply, deaf: false })),
        Err(e) => {
            let _ = mem::send(reply.as_fd(), &encode(Err(e.errno)), &[]);
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_round_trip() {
        let time = Duration::from_micros(123_456_789);
        for (code, signal) in [(Some(7), None), (None, Some(9))] {
            let ended = Ended { code, signal, user_time: time, system_time: Duration::ZERO };
            assert_eq!(decode(&encode(Ok(ended))), Some(Ok(ended)));
        }
        assert_eq!(decode(&encode(Err(Errno::PERM))), Some(Err(Errno::PERM)));
        assert_eq!(decode(b""), None);
    }
}
