//! Extended attributes of anything below a directory descriptor, symbolic links included.
//!
//! There is no `*xattrat` before Linux 6.13, and O_PATH descriptors refuse `f*xattr`; hence the `l`
//! calls on `/proc/self/fd/N/NAME`, which neither follow NAME nor can be raced out of the directory.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{self, XattrFlags};

use super::{Errno, Error, Result, show, show_at, show_fd};

/// The attribute that keeps the owner of a file, as `UID:GID`, where the disk cannot.
pub const OWNER_XATTR: &[u8] = b"user.lapstrake.owner";

/// What overlayfs sets, in mounts of users, on what it has copied up; what is new does not have it.
pub const ORIGIN_XATTR: &[u8] = b"user.overlay.origin";

/// Reads all attributes that this process may see. A file system without attributes has none.
pub fn get_all(dir: BorrowedFd<'_>, name: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let path = proc_path(dir, name);
    let path = OsStr::from_bytes(&path);
    let fail = |call, e| Error::new(call, show_at(dir, name), e);
    let list = match read_growing(|buf| fs::llistxattr(path, buf)) {
        Ok(list) => list,
        Err(Errno::OPNOTSUPP) => return Ok(BTreeMap::new()),
        Err(e) => return Err(fail("llistxattr", e)),
    };
    let mut out = BTreeMap::new();
    for key in list.split(|&b| b == 0).filter(|key| !key.is_empty()) {
        match read_growing(|buf| fs::lgetxattr(path, OsStr::from_bytes(key), buf)) {
            Ok(value) => {
                out.insert(key.to_vec(), value);
            }
            // Removed since, or listed by name without being readable (SELinux, trusted.*).
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => {}
            Err(e) => return Err(fail("lgetxattr", e)),
        }
    }
    Ok(out)
}

/// Reads all attributes of an open file (not of an O_PATH descriptor).
pub fn get_all_fd(fd: BorrowedFd<'_>) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let list = match read_growing(|buf| fs::flistxattr(fd, buf)) {
        Ok(list) => list,
        Err(Errno::OPNOTSUPP) => return Ok(BTreeMap::new()),
        Err(e) => return Err(Error::new("flistxattr", show_fd(fd), e)),
    };
    let mut out = BTreeMap::new();
    for key in list.split(|&b| b == 0).filter(|key| !key.is_empty()) {
        match read_growing(|buf| fs::fgetxattr(fd, OsStr::from_bytes(key), buf)) {
            Ok(value) => {
                out.insert(key.to_vec(), value);
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => {}
            Err(e) => return Err(Error::new("fgetxattr", show_fd(fd), e)),
        }
    }
    Ok(out)
}

/// Reads one attribute; None when there is none.
pub fn get(dir: BorrowedFd<'_>, name: &[u8], key: &[u8]) -> Result<Option<Vec<u8>>> {
    let path = proc_path(dir, name);
    match read_growing(|buf| fs::lgetxattr(OsStr::from_bytes(&path), OsStr::from_bytes(key), buf)) {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(e) => Err(Error::new("lgetxattr", format!("{}, {}", show_at(dir, name), show(key)), e)),
    }
}

/// Sets one attribute.
pub fn set(dir: BorrowedFd<'_>, name: &[u8], key: &[u8], value: &[u8]) -> Result<()> {
    let path = proc_path(dir, name);
    let (path, attr) = (OsStr::from_bytes(&path), OsStr::from_bytes(key));
    fs::lsetxattr(path, attr, value, XattrFlags::empty()).map_err(|e| {
        let args = format!("{}, {}, {} bytes", show_at(dir, name), show(key), value.len());
        Error::new("lsetxattr", args, e)
    })
}

/// Sets one attribute of an open file.
pub fn set_fd(fd: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> Result<()> {
    fs::fsetxattr(fd, OsStr::from_bytes(key), value, XattrFlags::empty()).map_err(|e| {
        let args = format!("{}, {}, {} bytes", show_fd(fd), show(key), value.len());
        Error::new("fsetxattr", args, e)
    })
}

fn proc_path(dir: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = String::with_capacity(32 + name.len());
    // Writing to a String cannot fail.
    let _ = write!(path, "/proc/self/fd/{}/", dir.as_raw_fd());
    let mut path = path.into_bytes();
    path.extend_from_slice(if name.is_empty() { b"." } else { name });
    path
}

/// Calls `read` with a buffer that grows until the answer fits.
fn read_growing(
    mut read: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0u8; 256];
    loop {
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            // 64 KiB is the kernel's limit (XATTR_SIZE_MAX, XATTR_LIST_MAX).
            Err(Errno::RANGE) if buffer.len() < 64 * 1024 => buffer.resize(64 * 1024, 0),
            Err(e) => return Err(e),
        }
    }
}
