//! Terminals: a new pair of pseudo-terminals, raw mode, and the size of a window.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pty::OpenptFlags;
use rustix::termios::{OptionalActions, Termios};

use super::{Error, Result};

/// Makes a pseudo-terminal: our end, which does not block, and the end of a program.
pub fn open_pair() -> Result<(File, OwnedFd)> {
    let fail = |call| move |errno| Error::new(call, "a pseudo-terminal", errno);
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = rustix::pty::openpt(flags).map_err(fail("posix_openpt"))?;
    rustix::pty::unlockpt(&ours).map_err(fail("unlockpt"))?;
    let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags).map_err(fail("TIOCGPTPEER"))?;
    super::mem::set_nonblocking(ours.as_fd())?;
    Ok((File::from(ours), theirs))
}

/// Makes a terminal the controlling one of this process, which leads a session without one.
pub fn take_control(terminal: BorrowedFd<'_>) -> Result<()> {
    rustix::process::ioctl_tiocsctty(terminal)
        .map_err(|errno| Error::new("TIOCSCTTY", "the terminal", errno))
}

/// Gives one terminal's window size to another; where `from` is no terminal, nothing is done.
pub fn copy_size(from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
    if let Ok(size) = rustix::termios::tcgetwinsize(from) {
        // A size that cannot be set leaves the usual one.
        let _ = rustix::termios::tcsetwinsize(to, size);
    }
}

/// Asks for a secret on a terminal, which does not show it. None when the user wants to leave
/// (Ctrl-C, Ctrl-D) or the terminal is none. `prompt` is called when nothing is shown any more.
///
/// The raw mode is what makes Ctrl-C come as a byte: a signal would leave the terminal silent.
pub fn read_secret(terminal: BorrowedFd<'_>, prompt: impl FnOnce()) -> Result<Option<Vec<u8>>> {
    const INTERRUPT: u8 = 3;
    const END: u8 = 4;
    const BACKSPACE: [u8; 2] = [8, 127];
    const KILL: u8 = 21;
    let Some(_raw) = Raw::enter(terminal) else { return Ok(None) };
    prompt();
    let mut secret: Vec<u8> = Vec::new();
    loop {
        let mut byte = [0];
        let count = match rustix::io::read(terminal, &mut byte) {
            Err(rustix::io::Errno::INTR) => continue,
            count => count.map_err(|errno| Error::new("read", "the terminal", errno))?,
        };
        match byte[0] {
            _ if count == 0 => return Ok(None),
            b'\r' | b'\n' => return Ok(Some(secret)),
            INTERRUPT => return Ok(None),
            END if secret.is_empty() => return Ok(None),
            KILL => secret.clear(),
            byte if BACKSPACE.contains(&byte) => {
                // A whole character of UTF-8: its first byte, and those that go on.
                while secret.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            byte => secret.push(byte),
        }
    }
}

/// A terminal in raw mode, until this is dropped.
#[derive(Debug)]
pub struct Raw<'t> {
    terminal: BorrowedFd<'t>,
    before: Termios,
}

impl<'t> Raw<'t> {
    /// Puts a terminal into raw mode; None where it is none.
    pub fn enter(terminal: BorrowedFd<'t>) -> Option<Raw<'t>> {
        let before = rustix::termios::tcgetattr(terminal).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(terminal, OptionalActions::Now, &raw).ok()?;
        Some(Raw { terminal, before })
    }
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        // A terminal that went away needs no mode.
        let _ = rustix::termios::tcsetattr(self.terminal, OptionalActions::Drain, &self.before);
    }
}
