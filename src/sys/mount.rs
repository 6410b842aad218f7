//! The mount API: the one of Linux 5.2 (fsopen, open_tree, move_mount) and mount_setattr of 5.12,
//! plus what is still needed of mount(2).

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};

use super::{Errno, Error, Result, check, show, show_at, show_fd};

/// Properties of a mount (not of its file system).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attrs {
    /// Nothing can be written.
    pub read_only: bool,
    /// setuid bits and file capabilities do nothing.
    pub nosuid: bool,
    /// Device nodes do nothing.
    pub nodev: bool,
    /// Nothing can be executed.
    pub noexec: bool,
}

impl Attrs {
    /// nosuid, nodev and noexec.
    pub const INERT: Attrs = Attrs { read_only: false, nosuid: true, nodev: true, noexec: true };

    fn flags(self) -> MountAttrFlags {
        let mut flags = MountAttrFlags::empty();
        flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, self.read_only);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOSUID, self.nosuid);
        flags.set(MountAttrFlags::MOUNT_ATTR_NODEV, self.nodev);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, self.noexec);
        flags
    }
}

/// A file system being configured (`fsopen`). Errors carry the kernel's own message.
#[derive(Debug)]
pub struct Fs {
    fd: OwnedFd,
    kind: &'static str,
}

impl Fs {
    /// Starts one.
    pub fn open(kind: &'static str) -> Result<Fs> {
        let fs = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
            .map(|fd| Fs { fd, kind })
            .map_err(|e| Error::new("fsopen", kind, e))?;
        // What `mount` and `df` show in their first column.
        fs.set("source", kind.as_bytes())?;
        Ok(fs)
    }

    /// Sets an option to a value of bytes without NUL.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        rustix::mount::fsconfig_set_string(&self.fd, key, OsStr::from_bytes(value))
            .map_err(|e| self.fail("fsconfig", &format!("{key}={}", show(value)), e))
    }

    /// Sets an option without a value.
    pub fn flag(&self, key: &str) -> Result<()> {
        rustix::mount::fsconfig_set_flag(&self.fd, key).map_err(|e| self.fail("fsconfig", key, e))
    }

    /// Makes the file system and a mount of it that is attached nowhere.
    pub fn mount(self, attrs: Attrs) -> Result<OwnedFd> {
        rustix::mount::fsconfig_create(&self.fd)
            .map_err(|e| self.fail("fsconfig", "CMD_CREATE", e))?;
        rustix::mount::fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, attrs.flags())
            .map_err(|e| self.fail("fsmount", "", e))
    }

    /// Makes an error with what the kernel logged on the descriptor.
    fn fail(&self, call: &'static str, args: &str, errno: Errno) -> Error {
        let mut text = format!("{} {args}", self.kind);
        let mut buffer = [0u8; 512];
        while let Ok(n @ 1..) = rustix::io::read(&self.fd, &mut buffer) {
            let message = String::from_utf8_lossy(&buffer[..n]);
            text.push_str("; kernel: ");
            text.push_str(message.trim_end().trim_start_matches("e "));
        }
        Error::new(call, text, errno)
    }
}

/// Copies the mount (and those below it, if `recursive`) at a path; attached nowhere.
pub fn clone_tree(dir: BorrowedFd<'_>, path: &[u8], recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if path.is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(dir, OsStr::from_bytes(path), flags)
        .map_err(|e| Error::new("open_tree", show_at(dir, path), e))
}

/// Copies the mount at a path of this process's root.
pub fn clone_path(path: &Path, recursive: bool) -> Result<OwnedFd> {
    clone_tree(CWD, path.as_os_str().as_bytes(), recursive)
}

/// Adds properties to a mount that is attached nowhere yet (Linux 5.12).
pub fn set_attrs(mount: BorrowedFd<'_>, attrs: Attrs, recursive: bool) -> Result<()> {
    #[repr(C)]
    struct MountAttr {
        attr_set: u64,
        attr_clr: u64,
        propagation: u64,
        userns_fd: u64,
    }
    let attr = MountAttr {
        attr_set: attrs.flags().bits().into(),
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path is a NUL-terminated literal, and the structure of 32 bytes (version 0 of the
    // kernel's) outlives the call.
    #[expect(unsafe_code, reason = "rustix has no mount_setattr")]
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    check(done, || ("mount_setattr", format!("{}, {attrs:?}", show_fd(mount)))).map(drop)
}

/// Attaches a mount on an open file or directory.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, c"", target, c"", flags)
        .map_err(|e| Error::new("move_mount", format!("to {}", show_fd(target)), e))
}

/// Attaches a mount on a path below a directory; the last component is not followed.
pub fn attach_at(mount: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(mount, c"", dir, OsStr::from_bytes(name), flags)
        .map_err(|e| Error::new("move_mount", format!("to {}", show_at(dir, name)), e))
}

/// Takes all mounts of this namespace out of the reach of mount events from elsewhere.
pub fn make_all_private() -> Result<()> {
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change(c"/", flags).map_err(|e| Error::new("mount", "MS_PRIVATE, /", e))
}

/// Mounts by mount(2), without devices: for overlay options that fsconfig cannot carry before Linux 6.5.
pub fn mount_old(kind: &str, target: &Path, data: &[u8]) -> Result<()> {
    let fail = |e| {
        let args = format!("{kind}, {}, {}", target.display(), String::from_utf8_lossy(data));
        Error::new("mount", args, e)
    };
    let data = CString::new(data).map_err(|_| fail(Errno::INVAL))?;
    rustix::mount::mount(kind, target, kind, MountFlags::NODEV, Some(data.as_c_str())).map_err(fail)
}

/// Makes the directory `root` the root of this process and of its mount namespace, and lets go of
/// the old one.
pub fn pivot_root(root: BorrowedFd<'_>) -> Result<()> {
    rustix::process::fchdir(root).map_err(|e| Error::new("fchdir", show_fd(root), e))?;
    // pivot_root(".", ".") puts the old root on top of the new one, from where it is unmounted:
    // no directory for it has to be found in the image (pivot_root(2), NOTES).
    rustix::process::pivot_root(c".", c".").map_err(|e| Error::new("pivot_root", "., .", e))?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH)
        .map_err(|e| Error::new("umount2", "., MNT_DETACH", e))?;
    rustix::process::chdir(c"/").map_err(|e| Error::new("chdir", "/", e))
}

/// Unmounts lazily.
pub fn detach(path: &Path) -> Result<()> {
    rustix::mount::unmount(path, UnmountFlags::DETACH)
        .map_err(|e| Error::new("umount2", path.display(), e))
}

/// Makes a read-only copy of the file behind a descriptor's path, attached nowhere: the file cannot
/// be written through it, by whatever route.
pub fn read_only_copy(file: BorrowedFd<'_>) -> Result<OwnedFd> {
    let copy = clone_tree(file, b"", false)?;
    set_attrs(copy.as_fd(), Attrs { read_only: true, ..Attrs::default() }, false)?;
    Ok(copy)
}
