//! Descriptors that stand for no file: memfds, pipes, sockets, eventfds; and waiting for many. Pages of memory.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fs::{MemfdFlags, OFlags, SealFlags};
use rustix::io::FdFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::pipe::PipeFlags;

use super::{Errno, Error, Result, show, show_fd};

/// Makes an anonymous file in memory that can be sealed but not executed.
pub fn memfd(name: &str) -> Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    create_memfd(name, flags | MemfdFlags::NOEXEC_SEAL, flags)
}

/// Makes an anonymous file in memory that can be sealed and executed. EACCES where the sysctl
/// `vm.memfd_noexec` is 2.
pub fn memfd_executable(name: &str) -> Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    create_memfd(name, flags | MemfdFlags::EXEC, flags)
}

/// Tries the flags of Linux 6.3 first, as the kernel logs a warning without them.
fn create_memfd(name: &str, new: MemfdFlags, old: MemfdFlags) -> Result<File> {
    rustix::fs::memfd_create(name, new)
        .or_else(|e| match e {
            Errno::INVAL => rustix::fs::memfd_create(name, old),
            e => Err(e),
        })
        .map(File::from)
        .map_err(|e| Error::new("memfd_create", show(name.as_bytes()), e))
}

/// Seals a memfd for good: nobody can write, grow, shrink or unseal it.
pub fn seal(memfd: BorrowedFd<'_>) -> Result<()> {
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(memfd, seals)
        .map_err(|e| Error::new("fcntl F_ADD_SEALS", show_fd(memfd), e))
}

/// Makes a pipe: (reading end, writing end).
pub fn pipe() -> Result<(File, File)> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
        .map(|(r, w)| (r.into(), w.into()))
        .map_err(|e| Error::new("pipe2", "", e))
}

/// Makes reads and writes fail with EAGAIN instead of waiting.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> Result<()> {
    rustix::fs::fcntl_getfl(fd)
        .and_then(|flags| rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK))
        .map_err(|e| Error::new("fcntl F_SETFL", show_fd(fd), e))
}

/// Sets or clears close-on-exec.
pub fn set_cloexec(fd: BorrowedFd<'_>, on: bool) -> Result<()> {
    let flags = if on { FdFlags::CLOEXEC } else { FdFlags::empty() };
    rustix::io::fcntl_setfd(fd, flags).map_err(|e| Error::new("fcntl F_SETFD", show_fd(fd), e))
}

/// A flag that threads can poll for: readable once somebody set it, for ever.
#[derive(Debug)]
pub struct Event(OwnedFd);

impl Event {
    /// Makes one that is not set.
    pub fn new() -> Result<Event> {
        rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map(Event)
            .map_err(|e| Error::new("eventfd", "", e))
    }

    /// Sets it. Safe in a signal handler: one write.
    pub fn set(&self) {
        // The counter can only overflow after 2^64 - 1 calls; it stays readable even then.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Gives the descriptor to poll.
    pub fn fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd as _;
        self.0.as_fd()
    }
}

/// Waits until one of `fds` can be read or has hung up; says which. None waits for ever.
pub fn poll_readable(
    fds: &[Option<BorrowedFd<'_>>],
    timeout: Option<Duration>,
) -> Result<Vec<bool>> {
    let mut polls: Vec<PollFd<'_>> =
        fds.iter().flatten().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    let timeout = timeout.map(|t| Timespec {
        tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(t.subsec_nanos()),
    });
    match rustix::event::poll(&mut polls, timeout.as_ref()) {
        Ok(_) => {}
        // A signal: nothing is ready, and the caller's loop comes again.
        Err(Errno::INTR) => return Ok(vec![false; fds.len()]),
        Err(e) => return Err(Error::new("poll", format!("{} descriptors", fds.len()), e)),
    }
    let mut events = polls.iter().map(PollFd::revents);
    let ready = |fd: &Option<_>| fd.is_some() && events.next().is_some_and(|e| !e.is_empty());
    Ok(fds.iter().map(ready).collect())
}

/// Makes two sockets that are connected to each other and keep the borders of messages.
pub fn socket_pair() -> Result<(OwnedFd, OwnedFd)> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    rustix::net::socketpair(family, kind, SocketFlags::CLOEXEC, None)
        .map_err(|e| Error::new("socketpair", "AF_UNIX, SOCK_SEQPACKET", e))
}

/// How many descriptors a message may carry here.
pub const MAX_MESSAGE_FDS: usize = 8;

/// Sends a message with descriptors. EPIPE, without a signal, when nobody is at the other end.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_MESSAGE_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fail = |e| Error::new("sendmsg", format!("{}, {} bytes", show_fd(socket), bytes.len()), e);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(fail(Errno::TOOBIG));
    }
    let bytes = [IoSlice::new(bytes)];
    loop {
        match rustix::net::sendmsg(socket, &bytes, &mut control, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            other => return other.map(drop).map_err(fail),
        }
    }
}

/// Receives a message: how many bytes, 0 when the other end is closed, and its descriptors.
pub fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_MESSAGE_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut bytes = [IoSliceMut::new(bytes)];
        match rustix::net::recvmsg(socket, &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            other => break other.map_err(|e| Error::new("recvmsg", show_fd(socket), e))?,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok((received.bytes, fds))
}

/// Reads what is there from a non-blocking descriptor: None when nothing is there now, 0 at the end.
pub fn read_available(file: &mut File, buffer: &mut [u8]) -> std::io::Result<Option<usize>> {
    loop {
        match file.read(buffer) {
            Ok(n) => return Ok(Some(n)),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) => return Err(e),
        }
    }
}

/// Has the kernel give the pages of a range of addresses at once, instead of one at each first use.
/// What they hold stays as it is, so it does not matter whose they are. Linux 5.14; on older ones, and where
/// there is no memory at these addresses, nothing happens.
pub fn populate(addresses: std::ops::Range<usize>) {
    const LARGEST_PAGE: usize = 64 << 10;
    let start = addresses.start - addresses.start % LARGEST_PAGE;
    let length = addresses.end.saturating_sub(start);
    // On failure each page comes at its first use, as ever.
    #[expect(unsafe_code, reason = "no safe wrapper takes addresses; it changes no memory")]
    let _ = unsafe { libc::madvise(start as *mut _, length, libc::MADV_POPULATE_WRITE) };
}

/// Makes a sealed copy of `program` in memory: it cannot be overwritten by whoever gets hold of it
/// through /proc (CVE-2019-5736).
pub fn sealed_copy(program: &mut File) -> std::io::Result<File> {
    use std::os::fd::AsFd as _;
    let mut copy = memfd_executable("lapstrake")?;
    let length = program.metadata()?.len();
    let mut left = usize::try_from(length).unwrap_or(usize::MAX);
    while left > 0 {
        match rustix::fs::sendfile(&copy, &*program, None, left) {
            Ok(0) => break,
            Ok(n) => left = left.saturating_sub(n),
            Err(Errno::INTR) => {}
            Err(Errno::INVAL | Errno::NOSYS) => {
                std::io::copy(program, &mut copy)?;
                break;
            }
            Err(e) => return Err(e.into()),
        }
    }
    copy.flush()?;
    seal(copy.as_fd())?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_sealed_copy_cannot_be_written() {
        let mut from = tempfile::tempfile().unwrap();
        from.write_all(b"program").unwrap();
        std::io::Seek::rewind(&mut from).unwrap();
        let mut copy = sealed_copy(&mut from).unwrap();
        assert!(copy.write_all(b"x").is_err());
        assert_eq!(copy.metadata().unwrap().len(), 7);
    }

    #[test]
    fn populated_memory_is_what_it_was() {
        let buffer = vec![7_u8; 1 << 20];
        let start = buffer.as_ptr() as usize;
        populate(start..start + buffer.len());
        populate(start + 1..start + 2);
        populate(0..1 << 20);
        assert!(buffer.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn poll_tells_which() {
        let (mut r, mut w) = pipe().unwrap();
        let event = Event::new().unwrap();
        let zero = Some(Duration::ZERO);
        assert_eq!(
            poll_readable(&[Some(r.as_fd()), None, Some(event.fd())], zero).unwrap(),
            [false, false, false]
        );
        event.set();
        w.write_all(b"x").unwrap();
        assert_eq!(
            poll_readable(&[Some(r.as_fd()), None, Some(event.fd())], zero).unwrap(),
            [true, false, true]
        );
        set_nonblocking(r.as_fd()).unwrap();
        let mut buffer = [0; 8];
        assert_eq!(read_available(&mut r, &mut buffer).unwrap(), Some(1));
        assert_eq!(read_available(&mut r, &mut buffer).unwrap(), None);
    }
}
