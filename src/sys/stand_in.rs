//! Acting for another process: its memory, what it has open, and files as it sees them.
//!
//! Errors are bare numbers here, other than elsewhere: most are what the other process is to be told (a file
//! that is not there), and a text about each would cost more than the call.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{self, AtFlags, Mode, OFlags, StatxFlags, XattrFlags};

use super::Errno;
use super::dir::FileKind;

/// What a call gives.
pub type Result<T> = std::result::Result<T, Errno>;

/// What a file is, beyond its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its kind.
    pub kind: FileKind,
    /// Its number.
    pub ino: u64,
    /// When it was made, in seconds and nanoseconds; zeros where the file system does not say. With the
    /// number it tells a file from one that gets the number after it.
    pub born: (i64, u32),
    /// The number of the mount that it was opened on (Linux 5.8; else 0).
    pub mount: u64,
}

/// Gives this thread a root and a working directory of its own.
pub fn unshare_root() -> Result<()> {
    // SAFETY: only CLONE_FS, which changes no memory and no descriptor.
    #[expect(unsafe_code, reason = "unshare")]
    let done = unsafe { libc::unshare(libc::CLONE_FS) };
    told(done as isize).map(drop)
}

/// Moves this thread, which has called [`unshare_root`], to a mount namespace.
pub fn enter_mounts(namespace: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: a descriptor and a flag; affects this thread's view of files only.
    #[expect(unsafe_code, reason = "setns")]
    let done = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNS) };
    told(done as isize).map(drop)
}

/// Makes a directory this thread's root and working directory.
pub fn enter_root(dir: BorrowedFd<'_>) -> Result<()> {
    rustix::process::fchdir(dir)?;
    rustix::process::chroot(".")
}

/// Makes a directory this thread's working directory.
pub fn enter(dir: BorrowedFd<'_>) -> Result<()> {
    rustix::process::fchdir(dir)
}

fn told(done: isize) -> Result<usize> {
    usize::try_from(done).map_err(|_| {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        Errno::from_raw_os_error(errno)
    })
}

/// Reads a text that ends with a NUL from the memory of a process. ENAMETOOLONG from PATH_MAX on.
pub fn read_text(pid: u32, address: u64) -> Result<Vec<u8>> {
    const PATH_MAX: usize = 4096;
    const PAGE: u64 = 4096;
    let mut text = Vec::new();
    while text.len() < PATH_MAX {
        // Up to the next page: what follows may not be there.
        let from = address.wrapping_add(text.len() as u64);
        let mut piece = [0u8; 256];
        let most = (PAGE - from % PAGE).min(piece.len() as u64) as usize;
        let local = libc::iovec { iov_base: piece.as_mut_ptr().cast(), iov_len: most };
        let count = transfer(pid, &local, from, most, false)?;
        match piece[..count].iter().position(|&byte| byte == 0) {
            Some(end) => {
                text.extend_from_slice(&piece[..end]);
                return Ok(text);
            }
            None if count == 0 => return Err(Errno::FAULT),
            None => text.extend_from_slice(&piece[..count]),
        }
    }
    Err(Errno::NAMETOOLONG)
}

/// Writes to the memory of a process.
pub fn write_memory(pid: u32, address: u64, bytes: &[u8]) -> Result<()> {
    let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    match transfer(pid, &local, address, bytes.len(), true)? {
        count if count == bytes.len() => Ok(()),
        _ => Err(Errno::FAULT),
    }
}

fn transfer(
    pid: u32,
    local: &libc::iovec,
    address: u64,
    length: usize,
    write: bool,
) -> Result<usize> {
    let remote = libc::iovec { iov_base: address as usize as *mut _, iov_len: length };
    let pid = pid as libc::pid_t;
    // SAFETY: the local piece is a buffer of this length (written to only when reading from the other
    // process); the remote one is an address in another process, which the kernel checks.
    #[expect(unsafe_code, reason = "process_vm_readv, process_vm_writev")]
    let done = unsafe {
        match write {
            true => libc::process_vm_writev(pid, local, 1, &raw const remote, 1, 0),
            false => libc::process_vm_readv(pid, local, 1, &raw const remote, 1, 0),
        }
    };
    told(done)
}

/// Gives the number of what a link leads to, as those of namespaces in /proc.
pub fn number(dir: BorrowedFd<'_>, name: &str) -> Result<u64> {
    fs::statat(dir, name, AtFlags::empty()).map(|stat| stat.st_ino)
}

/// Opens what a path names as O_PATH, as seen from a directory and with this thread's root.
pub fn open(dir: BorrowedFd<'_>, path: &[u8], follow: bool) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let flags = if follow { flags } else { flags | OFlags::NOFOLLOW };
    fs::openat(dir, OsStr::from_bytes(path), flags, Mode::empty())
}

/// Opens a namespace in /proc.
pub fn open_namespace(dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    fs::openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Reads a link.
pub fn readlink(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>> {
    fs::readlinkat(dir, OsStr::from_bytes(name), Vec::new()).map(std::ffi::CString::into_bytes)
}

/// Says what an O_PATH descriptor stands for.
pub fn identity(fd: BorrowedFd<'_>) -> Result<Identity> {
    identify(fd, b"", AtFlags::EMPTY_PATH)
}

/// Says what a name of a directory stands for, a link for itself.
pub fn identity_at(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Identity> {
    identify(dir, name, AtFlags::SYMLINK_NOFOLLOW)
}

fn identify(dir: BorrowedFd<'_>, name: &[u8], flags: AtFlags) -> Result<Identity> {
    let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID;
    let stat = fs::statx(dir, OsStr::from_bytes(name), flags, mask)?;
    let kind =
        FileKind::of(fs::FileType::from_raw_mode(stat.stx_mode.into())).ok_or(Errno::INVAL)?;
    let born = (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec);
    Ok(Identity { kind, ino: stat.stx_ino, born, mount: stat.stx_mnt_id })
}

/// Sets owners of what an O_PATH descriptor stands for; None keeps one.
pub fn chown(fd: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    let (uid, gid) = (uid.map(fs::Uid::from_raw), gid.map(fs::Gid::from_raw));
    fs::chownat(fd, "", uid, gid, AtFlags::EMPTY_PATH)
}

/// Reads a short attribute of what a path leads to from this thread's working directory; None when there
/// is none.
pub fn get_attribute(path: &[u8], key: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut value = [0u8; 64];
    match fs::getxattr(OsStr::from_bytes(path), OsStr::from_bytes(key), &mut value) {
        Ok(length) => Ok(Some(value[..length].to_vec())),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Sets an attribute of what a path leads to from this thread's working directory.
pub fn set_attribute(path: &[u8], key: &[u8], value: &[u8]) -> Result<()> {
    fs::setxattr(OsStr::from_bytes(path), OsStr::from_bytes(key), value, XattrFlags::empty())
}

/// The owner of something that has no attributes: a symbolic link, FIFO or device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// Its number in the directory of a RUN's changes.
    pub ino: u64,
    /// When it was made, in seconds and nanoseconds.
    pub born: (i64, u32),
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Reads the value of [`super::xattr::OWNER_XATTR`].
pub fn parse_owner(value: &[u8]) -> Option<(u32, u32)> {
    let (uid, gid) = std::str::from_utf8(value).ok()?.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

/// The bytes of the kernel's `struct stat` of 64-bit ABIs, or of `struct statx`.
pub struct RawStat {
    /// As the kernel writes it for this processor.
    pub bytes: Vec<u8>,
    /// Where the ids are.
    ids: usize,
}

/// Where user and group are in `struct stat` (asm/stat.h).
#[cfg(target_arch = "x86_64")]
const STAT_IDS: usize = 28;
#[cfg(not(target_arch = "x86_64"))]
const STAT_IDS: usize = 24;

/// Where they are in `struct statx` (linux/stat.h).
const STATX_IDS: usize = 20;

impl RawStat {
    /// What fstat(2) gives of an O_PATH descriptor.
    pub fn of(fd: BorrowedFd<'_>) -> Result<RawStat> {
        let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
        // SAFETY: the kernel writes a struct stat.
        #[expect(unsafe_code, reason = "the bytes of a C struct")]
        let done = unsafe { libc::fstat(fd.as_raw_fd(), stat.as_mut_ptr()) };
        told(done as isize)?;
        Ok(RawStat { bytes: bytes_of(&stat), ids: STAT_IDS })
    }

    /// What statx(2) gives of an O_PATH descriptor.
    pub fn extended(fd: BorrowedFd<'_>, flags: u32, mask: u32) -> Result<RawStat> {
        let mut stat = std::mem::MaybeUninit::<libc::statx>::zeroed();
        let flags = (flags as i32 & libc::AT_STATX_SYNC_TYPE) | libc::AT_EMPTY_PATH;
        // SAFETY: the kernel writes a struct statx; the path is a constant.
        #[expect(unsafe_code, reason = "the bytes of a C struct")]
        let done =
            unsafe { libc::statx(fd.as_raw_fd(), c"".as_ptr(), flags, mask, stat.as_mut_ptr()) };
        told(done as isize)?;
        Ok(RawStat { bytes: bytes_of(&stat), ids: STATX_IDS })
    }

    /// Puts other ids in.
    pub fn set_ids(&mut self, uid: u32, gid: u32) {
        self.bytes[self.ids..self.ids + 4].copy_from_slice(&uid.to_ne_bytes());
        self.bytes[self.ids + 4..self.ids + 8].copy_from_slice(&gid.to_ne_bytes());
    }
}

fn bytes_of<T>(value: &std::mem::MaybeUninit<T>) -> Vec<u8> {
    // SAFETY: it was zeroed before the kernel wrote to it, so every byte has a value.
    #[expect(unsafe_code, reason = "the bytes of a C struct")]
    let bytes = unsafe {
        std::slice::from_raw_parts(value.as_ptr().cast::<u8>(), std::mem::size_of::<T>())
    };
    bytes.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn ids_are_where_the_kernel_puts_them() {
        let file = tempfile::tempfile().unwrap();
        let meta = file.metadata().unwrap();
        for extended in [false, true] {
            let read = || match extended {
                true => RawStat::extended(file.as_fd(), 0, libc::STATX_BASIC_STATS).unwrap(),
                false => RawStat::of(file.as_fd()).unwrap(),
            };
            let mut stat = read();
            let ids: [u8; 8] = stat.bytes[stat.ids..stat.ids + 8].try_into().unwrap();
            assert_eq!(ids[..4], meta.uid().to_ne_bytes());
            assert_eq!(ids[4..], meta.gid().to_ne_bytes());
            stat.set_ids(0x0102_0304, 0x0506_0708);
            let other = read();
            let changed: Vec<usize> =
                (0..other.bytes.len()).filter(|&at| other.bytes[at] != stat.bytes[at]).collect();
            assert!(changed.iter().all(|&at| (stat.ids..stat.ids + 8).contains(&at)));
        }
    }

    #[test]
    fn owners_are_read_as_they_are_written() {
        assert_eq!(parse_owner(b"33:42"), Some((33, 42)));
        for wrong in [&b"33"[..], b"a:1", b"", b"1:2:3", b"-1:0", &[0xff, b':']] {
            assert_eq!(parse_owner(wrong), None);
        }
    }

    #[test]
    fn memory_is_read_and_written() {
        let mut long = vec![b'x'; 5000];
        long.push(0);
        let here = std::process::id();
        for length in [0usize, 1, 255, 256, 257, 4000] {
            let mut text = vec![b'a'; length];
            text.push(0);
            let read = read_text(here, text.as_ptr() as u64).unwrap();
            assert_eq!(read, text[..length]);
        }
        assert_eq!(read_text(here, long.as_ptr() as u64), Err(Errno::NAMETOOLONG));
        assert_eq!(read_text(here, 8), Err(Errno::FAULT));
        let target = Box::new([1u8; 4]);
        write_memory(here, target.as_ptr() as u64, &[7, 8]).unwrap();
        assert_eq!(std::hint::black_box(&target)[..], [7, 8, 1, 1]);
        assert_eq!(write_memory(here, 8, &[1]), Err(Errno::FAULT));
    }
}
