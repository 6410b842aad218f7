//! Making, changing and removing file system objects by a directory descriptor and one name.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, SeekFrom};
use rustix::process::{Gid, Uid};

use super::dir::{FileKind, open_dir_at, read_dir};
use super::{Errno, Error, Result, show, show_at, show_fd};

/// Makes a directory; the umask applies.
pub fn mkdir(dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> Result<()> {
    fs::mkdirat(dir, OsStr::from_bytes(name), Mode::from_raw_mode(mode))
        .map_err(|e| Error::new("mkdirat", show_at(dir, name), e))
}

/// mkdir in the current directory; for the sandbox child, whose current directory is in its root.
pub fn mkdir_here(name: &[u8], mode: u32) -> Result<()> {
    fs::mkdirat(fs::CWD, OsStr::from_bytes(name), Mode::from_raw_mode(mode))
        .map_err(|e| Error::new("mkdir", show(name), e))
}

/// Makes a regular file that did not exist, opened for reading and writing.
pub fn create(dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> Result<File> {
    let flags = OFlags::RDWR
        | OFlags::CREATE
        | OFlags::EXCL
        | OFlags::NOFOLLOW
        | OFlags::CLOEXEC
        | OFlags::LARGEFILE;
    fs::openat(dir, OsStr::from_bytes(name), flags, Mode::from_raw_mode(mode))
        .map(File::from)
        .map_err(|e| Error::new("openat", format!("{}, O_CREAT|O_EXCL", show_at(dir, name)), e))
}

/// Makes a symbolic link.
pub fn symlink(dir: BorrowedFd<'_>, name: &[u8], target: &[u8]) -> Result<()> {
    fs::symlinkat(OsStr::from_bytes(target), dir, OsStr::from_bytes(name)).map_err(|e| {
        Error::new("symlinkat", format!("{}, {}", show(target), show_at(dir, name)), e)
    })
}

/// Makes a hard link; a symbolic link is linked itself.
pub fn link(
    from_dir: BorrowedFd<'_>,
    from: &[u8],
    to_dir: BorrowedFd<'_>,
    to: &[u8],
) -> Result<()> {
    let (f, t) = (OsStr::from_bytes(from), OsStr::from_bytes(to));
    fs::linkat(from_dir, f, to_dir, t, AtFlags::empty()).map_err(|e| {
        Error::new("linkat", format!("{}, {}", show_at(from_dir, from), show_at(to_dir, to)), e)
    })
}

/// Makes a named pipe; the umask applies.
pub fn mkfifo(dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> Result<()> {
    fs::mknodat(dir, OsStr::from_bytes(name), FileType::Fifo, Mode::from_raw_mode(mode), 0)
        .map_err(|e| Error::new("mknodat", format!("{}, S_IFIFO", show_at(dir, name)), e))
}

/// Makes an overlay whiteout, the character device 0:0: the one device that a user namespace may
/// make (Linux 5.8).
pub fn whiteout(dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    let kind = FileType::CharacterDevice;
    fs::mknodat(dir, OsStr::from_bytes(name), kind, Mode::empty(), fs::makedev(0, 0))
        .map_err(|e| Error::new("mknodat", format!("{}, S_IFCHR, 0:0", show_at(dir, name)), e))
}

/// Makes a device node, which takes CAP_MKNOD in the initial user namespace.
pub fn mknod_device(
    dir: BorrowedFd<'_>,
    name: &[u8],
    block: bool,
    (major, minor): (u32, u32),
) -> Result<()> {
    let kind = if block { FileType::BlockDevice } else { FileType::CharacterDevice };
    let mode = Mode::RUSR | Mode::WUSR;
    fs::mknodat(dir, OsStr::from_bytes(name), kind, mode, fs::makedev(major, minor)).map_err(|e| {
        Error::new("mknodat", format!("{}, {kind:?}, {major}:{minor}", show_at(dir, name)), e)
    })
}

/// Removes a name that is not a directory.
pub fn unlink(dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    fs::unlinkat(dir, OsStr::from_bytes(name), AtFlags::empty())
        .map_err(|e| Error::new("unlinkat", show_at(dir, name), e))
}

/// Removes an empty directory.
pub fn rmdir(dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    fs::unlinkat(dir, OsStr::from_bytes(name), AtFlags::REMOVEDIR)
        .map_err(|e| Error::new("unlinkat", format!("{}, AT_REMOVEDIR", show_at(dir, name)), e))
}

/// Removes whatever has this name, with all that is in it; follows no symbolic link.
pub fn remove_all(dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    match unlink(dir, name) {
        Err(e) if e.is(Errno::ISDIR) || e.is(Errno::PERM) => {}
        other => return other,
    }
    // A directory without read or search permission is opened to its owner first. Nothing to do
    // for one that another removed meanwhile.
    let sub = match open_dir_at(dir, name) {
        Err(e) if e.is(Errno::ACCESS) => {
            fs::chmodat(dir, OsStr::from_bytes(name), Mode::RWXU, AtFlags::empty())
                .map_err(|e| Error::new("fchmodat", show_at(dir, name), e))?;
            open_dir_at(dir, name)?
        }
        other => other?,
    };
    for entry in read_dir(sub.as_fd())? {
        if entry.kind == Some(FileKind::Dir) || entry.kind.is_none() {
            remove_all(sub.as_fd(), &entry.name)?;
        } else {
            match unlink(sub.as_fd(), &entry.name) {
                Err(e) if e.is(Errno::ACCESS) => {
                    chmod_fd(sub.as_fd(), 0o700)?;
                    unlink(sub.as_fd(), &entry.name)?;
                }
                other => other?,
            }
        }
    }
    rmdir(dir, name)
}

/// Sets the owner of a name, never following a symbolic link.
pub fn chown(dir: BorrowedFd<'_>, name: &[u8], uid: u32, gid: u32) -> Result<()> {
    let (u, g) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    fs::chownat(dir, OsStr::from_bytes(name), u, g, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| Error::new("fchownat", format!("{}, {uid}:{gid}", show_at(dir, name)), e))
}

/// Sets the owner of an open file.
pub fn chown_fd(fd: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<()> {
    fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
        .map_err(|e| Error::new("fchown", format!("{}, {uid}:{gid}", show_fd(fd)), e))
}

/// Sets the permission bits of an open file or directory.
pub fn chmod_fd(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    fs::fchmod(fd, Mode::from_raw_mode(mode))
        .map_err(|e| Error::new("fchmod", format!("{}, {mode:04o}", show_fd(fd)), e))
}

/// Sets the permission bits of a name that is **known not to be a symbolic link** (the call that
/// does not follow one, fchmodat2, needs Linux 6.6).
pub fn chmod(dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> Result<()> {
    fs::chmodat(dir, OsStr::from_bytes(name), Mode::from_raw_mode(mode), AtFlags::empty())
        .map_err(|e| Error::new("fchmodat", format!("{}, {mode:04o}", show_at(dir, name)), e))
}

/// Sets the length of an open file; what is added is a hole.
pub fn truncate(fd: BorrowedFd<'_>, length: u64) -> Result<()> {
    fs::ftruncate(fd, length)
        .map_err(|e| Error::new("ftruncate", format!("{}, {length}", show_fd(fd)), e))
}

/// Moves the position of a file beyond a hole to be left.
pub fn skip(fd: BorrowedFd<'_>, bytes: u64) -> Result<()> {
    let by = i64::try_from(bytes).map_err(|_| Error::new("lseek", bytes, Errno::OVERFLOW))?;
    fs::seek(fd, SeekFrom::Current(by))
        .map(drop)
        .map_err(|e| Error::new("lseek", format!("{}, {by}", show_fd(fd)), e))
}

/// Opens a path as a place to bind from (O_PATH), following symbolic links.
pub fn open_path_follow(path: &Path) -> Result<OwnedFd> {
    fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::new("open", format!("{}, O_PATH", path.display()), e))
}

/// Opens an existing file for writing; a symbolic link is ELOOP.
pub fn open_write(dir: BorrowedFd<'_>, name: &[u8]) -> Result<File> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(dir, OsStr::from_bytes(name), flags, Mode::empty())
        .map(File::from)
        .map_err(|e| Error::new("openat", format!("{}, O_WRONLY", show_at(dir, name)), e))
}

/// Opens a name as a place for a mount or a stat (O_PATH), not following it.
pub fn open_path(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(dir, OsStr::from_bytes(name), flags, Mode::empty())
        .map_err(|e| Error::new("openat", format!("{}, O_PATH", show_at(dir, name)), e))
}
