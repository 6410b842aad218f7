//! Filters that hand system calls to a supervisor (seccomp_unotify(2)), and the calls that one needs to
//! act for another process.
//!
//! Listeners exist since Linux 5.0, answers that let the call go on since 5.5. A supervisor that goes away
//! leaves its processes with ENOSYS for all that it was to be asked.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};

use super::{Errno, Error, Result, check, show_fd};

/// The calls of one ABI that are handed over: its audit number (linux/audit.h) and theirs.
pub type Calls<'a> = (u32, &'a [u32]);

/// Kernel numbers of ABIs (linux/audit.h): ELF machine, 64 bits, little-endian.
pub mod abi {
    /// 64-bit x86.
    pub const X86_64: u32 = 0xC000_003E;
    /// 32-bit x86.
    pub const I386: u32 = 0x4000_0003;
    /// 64-bit ARM.
    pub const AARCH64: u32 = 0xC000_00B7;
    /// 32-bit ARM.
    pub const ARM: u32 = 0x4000_0028;
    /// 64-bit RISC-V.
    pub const RISCV64: u32 = 0xC000_00F3;
}

/// A system call that waits for an answer.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Its number among those of this listener.
    pub id: u64,
    /// The thread that calls, as this process sees it.
    pub pid: u32,
    /// One of [`abi`].
    pub abi: u32,
    /// The call's number in that.
    pub number: u32,
    /// Its arguments.
    pub args: [u64; 6],
}

/// What to tell a process that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Let the kernel do it.
    Continue,
    /// It is done.
    Done,
    /// It failed.
    Fail(Errno),
}

/// What [`wait`] waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A call can be received.
    Call,
    /// No process has the filter any more, or it was said to stop.
    End,
    /// Neither, yet.
    Nothing,
}

/// Puts a filter on this thread and all that come from it, and gives the listener (CLOEXEC). Needs
/// CAP_SYS_ADMIN in the user namespace. EBUSY: another supervisor has a listener on it already.
pub fn listen(calls: &[Calls<'_>]) -> Result<OwnedFd> {
    let mut filter = program(calls);
    let fprog = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    let install = |flags: libc::c_ulong| {
        // SAFETY: the program lives during the call, which copies it.
        #[expect(unsafe_code, reason = "seccomp")]
        let fd = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::c_long::from(libc::SECCOMP_SET_MODE_FILTER),
                flags as libc::c_long,
                &raw const fprog,
            )
        };
        check(fd, || ("seccomp", format!("a listener, flags {flags:#x}")))
    };
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // Since 5.19: a call that was received is not begun again by a signal.
    let fd = match install(listener | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        Err(error) if error.is(Errno::INVAL) => install(listener)?,
        other => other?,
    };
    let fd = i32::try_from(fd).map_err(|_| Error::new("seccomp", fd, Errno::OVERFLOW))?;
    // SAFETY: the kernel just opened it for us.
    #[expect(unsafe_code, reason = "a descriptor by number")]
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Writes the filter: by ABI, then by number; all else is allowed.
fn program(calls: &[Calls<'_>]) -> Vec<libc::sock_filter> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    /// Offsets in struct seccomp_data.
    const NUMBER: u32 = 0;
    const ABI: u32 = 4;
    let op = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let mut out = vec![op(LOAD, ABI, 0, 0)];
    for (abi, numbers) in calls {
        // load, tests, allow, hand over
        let length = numbers.len() as u8 + 3;
        out.push(op(IF_EQUAL, *abi, 0, length));
        out.push(op(LOAD, NUMBER, 0, 0));
        for (index, number) in numbers.iter().enumerate() {
            out.push(op(IF_EQUAL, *number, (numbers.len() - index) as u8, 0));
        }
        out.push(op(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0));
        out.push(op(RETURN, libc::SECCOMP_RET_USER_NOTIF, 0, 0));
    }
    out.push(op(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0));
    out
}

/// Has callers and supervisor take turns on one processor: a call costs a tenth of the time then. Linux 6.6;
/// on older ones nothing happens.
pub fn take_turns(listener: BorrowedFd<'_>) {
    /// SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (linux/seccomp.h).
    const SYNC_WAKE_UP: u64 = 1;
    // SAFETY: a number, no pointer.
    #[expect(unsafe_code, reason = "ioctl")]
    let _ = unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP)
    };
}

/// Waits for a call, or until `stop` can be read.
pub fn wait(listener: BorrowedFd<'_>, stop: BorrowedFd<'_>) -> Result<Event> {
    let mut polls = [
        PollFd::from_borrowed_fd(listener, PollFlags::IN),
        PollFd::from_borrowed_fd(stop, PollFlags::IN),
    ];
    match rustix::event::poll(&mut polls, None) {
        Ok(_) => {}
        Err(Errno::INTR) => return Ok(Event::Nothing),
        Err(e) => return Err(Error::new("poll", show_fd(listener), e)),
    }
    Ok(if polls[0].revents().contains(PollFlags::IN) {
        Event::Call
    } else if !polls[0].revents().is_empty() || !polls[1].revents().is_empty() {
        Event::End
    } else {
        Event::Nothing
    })
}

/// Receives a call; None when its process has just gone.
pub fn receive(listener: BorrowedFd<'_>) -> Result<Option<Call>> {
    // SAFETY: a struct of integers, which the kernel wants to be zero.
    #[expect(unsafe_code, reason = "a C struct")]
    let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes a struct of the size that is part of the request's number.
    #[expect(unsafe_code, reason = "ioctl")]
    let done =
        unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call) };
    match check(done, || ("ioctl SECCOMP_IOCTL_NOTIF_RECV", show_fd(listener))) {
        Ok(_) => Ok(Some(Call {
            id: call.id,
            pid: call.pid,
            abi: call.data.arch,
            number: call.data.nr as u32,
            args: call.data.args,
        })),
        Err(error) if error.is(Errno::NOENT) || error.is(Errno::INTR) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Says whether a call still waits, so that its pid is still that of its process.
pub fn still_waits(listener: BorrowedFd<'_>, call: &Call) -> bool {
    // SAFETY: the kernel reads a number.
    #[expect(unsafe_code, reason = "ioctl")]
    let done = unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const call.id)
    };
    done == 0
}

/// Answers a call. One whose process has gone needs none.
pub fn answer(listener: BorrowedFd<'_>, call: &Call, answer: Answer) -> Result<()> {
    let (error, flags) = match answer {
        Answer::Continue => (0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
        Answer::Done => (0, 0),
        Answer::Fail(errno) => (-errno.raw_os_error(), 0),
    };
    let response = libc::seccomp_notif_resp { id: call.id, val: 0, error, flags };
    // SAFETY: the kernel reads a struct of the size that is part of the request's number.
    #[expect(unsafe_code, reason = "ioctl")]
    let done = unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const response)
    };
    match check(done, || ("ioctl SECCOMP_IOCTL_NOTIF_SEND", show_fd(listener))) {
        Err(error) if !error.is(Errno::NOENT) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a filter as the kernel does, on an ABI and a number.
    fn verdict(program: &[libc::sock_filter], abi: u32, number: u32) -> u32 {
        let (mut at, mut value) = (0, 0);
        loop {
            let op = program[at];
            at += 1;
            match u32::from(op.code) & 7 {
                libc::BPF_LD => value = if op.k == 4 { abi } else { number },
                libc::BPF_RET => return op.k,
                _ => at += usize::from(if value == op.k { op.jt } else { op.jf }),
            }
        }
    }

    #[test]
    fn filters_hand_over_what_they_name_and_nothing_else() {
        let program =
            program(&[(abi::X86_64, &[4, 92, 332]), (abi::I386, &[182]), (abi::ARM, &[])]);
        let handed = |abi, number| verdict(&program, abi, number) == libc::SECCOMP_RET_USER_NOTIF;
        for number in 0..500 {
            assert_eq!(handed(abi::X86_64, number), [4, 92, 332].contains(&number), "{number}");
            assert_eq!(handed(abi::I386, number), number == 182, "{number}");
            assert!(!handed(abi::ARM, number) && !handed(abi::AARCH64, number));
        }
    }
}
