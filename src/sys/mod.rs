//! Every system call, as thin wrappers: the only `unsafe` of the crate, and the only user of
//! rustix, nix and libc.
//!
//! Model: a wrapper is named after what the kernel calls it (or after the one thing it does with
//! two or three calls), takes and gives owned or borrowed file descriptors, always sets CLOEXEC,
//! never follows a symbolic link in the last component unless its name says `follow`, and fails
//! with an [`Error`] that reads like a line of strace, descriptors with the path they had.
//!
//! It deliberately decides nothing: no policy, no cleaning up, no retry beyond EINTR. Where a
//! kernel may lack a call, the wrapper says so and leaves the fallback to its caller, unless the
//! fallback is exact.
//!
//! | file | what |
//! |---|---|
//! | [`dir`] | reading directories: open, list, stat, readlink, copy, rename, times |
//! | [`node`] | making file system objects beneath a directory descriptor |
//! | [`xattr`] | extended attributes of anything, symbolic links too |
//! | [`mount`] | the mount API, new and old |
//! | [`process`] | spawning into namespaces, waiting, signals |
//! | [`cred`] | ids, capabilities, namespaces of this process |
//! | [`mem`] | memfds, pipes, eventfds, poll |
//! | [`seccomp`] | filters that hand calls to a supervisor |
//! | [`stand_in`] | acting for another process |
//!
//! Start reading at [`dir`].

pub mod cred;
pub mod dir;
pub mod mem;
pub mod mount;
pub mod node;
pub mod process;
pub mod seccomp;
pub mod stand_in;
pub mod tty;
pub mod xattr;

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};

pub use rustix::io::Errno;

/// What a wrapper gives.
pub type Result<T> = std::result::Result<T, Error>;

/// A system call that failed: its name, what it was asked, and errno.
#[derive(Debug, thiserror::Error)]
#[error("{call}({args})")]
pub struct Error {
    /// The call.
    pub call: &'static str,
    /// Its arguments as text; descriptors are shown as the path they stood for.
    pub args: String,
    /// Why it failed.
    #[source]
    pub errno: Errno,
}

impl Error {
    /// Makes an error of `call` with `args`.
    pub fn new(call: &'static str, args: impl fmt::Display, errno: Errno) -> Error {
        Error { call, args: args.to_string(), errno }
    }

    /// Says whether the errno is this one.
    pub fn is(&self, errno: Errno) -> bool {
        self.errno == errno
    }

    /// Gives the call, its arguments and the reason in one line.
    pub fn one_line(&self) -> String {
        format!("{}({}): {}", self.call, self.args, self.errno)
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> std::io::Error {
        std::io::Error::new(std::io::Error::from(error.errno).kind(), error.one_line())
    }
}

/// Shows a path for an error.
fn show(path: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(path))
}

/// Shows a name below a directory descriptor, as the path it has now.
fn show_at(dir: BorrowedFd<'_>, name: &[u8]) -> String {
    format!("{}, {}", show_fd(dir), show(name))
}

/// Shows a descriptor as the path it has now.
fn show_fd(fd: BorrowedFd<'_>) -> String {
    match std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())) {
        Ok(path) => format!("<{}>", path.display()),
        Err(_) => format!("fd {}", fd.as_raw_fd()),
    }
}

/// Turns the -1 of a C call into the errno it left.
fn check<T: Into<i64> + Copy>(done: T, what: impl FnOnce() -> (&'static str, String)) -> Result<T> {
    if done.into() != -1 {
        return Ok(done);
    }
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    let (call, args) = what();
    Err(Error::new(call, args, Errno::from_raw_os_error(errno)))
}
