//! The child's root file system: the overlay, /proc, /sys, /dev, and the mounts of the spec.
//!
//! Everything is made detached and attached by descriptor. Targets are resolved with the new root as
//! root (openat2, RESOLVE_IN_ROOT), so that no symbolic link of an image leads out of it; /proc,
//! /sys and /dev must not be symbolic links at all.
//!
//! Until `pivot_root` this process still sees the builder's files; two directories of those serve
//! as mount points, in this process's own mount namespace only: `upper` carries the root, `work`
//! the file system that holds secrets and other files from memory.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::spec::{Access, Mount, MountKind, Network, Order, RunSpec};
use crate::sys::dir::FileKind;
use crate::sys::mount::{self, Attrs, Fs};
use crate::sys::{Errno, dir, node};

/// A failure, told to the builder as text.
pub(super) type Result<T> = std::result::Result<T, String>;

/// Device nodes do nothing.
const NODEV: Attrs = Attrs { read_only: false, nosuid: false, nodev: true, noexec: false };

/// Puts what was being done in front of a failure.
pub(super) fn doing<E: Into<std::io::Error>>(what: impl std::fmt::Display) -> impl Fn(E) -> String {
    move |e| format!("{what}: {}", e.into())
}

/// Builds the root and attaches it at `upper`; gives its root directory.
pub(super) fn build(order: &Order<'_>, kernel: &Kernel) -> Result<OwnedFd> {
    let spec = &*order.spec;
    let root = overlay_root(spec)?;
    proc(order, kernel, root.as_fd())?;
    sys(spec, root.as_fd())?;
    dev(spec, root.as_fd())?;
    let mut memory = Memory { place: &spec.work, root: None, names: 0 };
    for mount in &spec.mounts {
        attach(root.as_fd(), mount, &mut memory)
            .map_err(|e| format!("mounting {}: {e}", mount.target))?;
    }
    if spec.read_only_root {
        let attrs = Attrs { read_only: true, ..Attrs::default() };
        mount::set_attrs(root.as_fd(), attrs, false).map_err(doing("making / read-only"))?;
    }
    Ok(root)
}

/// Mounts the overlay at `upper`. What carries the root must be a mount; without lower layers that
/// is `upper`, bound to itself.
fn overlay_root(spec: &RunSpec) -> Result<OwnedFd> {
    let upper = dir::open(&spec.upper).map_err(doing("opening the upper directory"))?;
    if spec.lowers.is_empty() {
        let root =
            mount::clone_tree(upper.as_fd(), b"", false).map_err(doing("binding the root"))?;
        mount::attach(root.as_fd(), upper.as_fd()).map_err(doing("attaching the root"))?;
        return Ok(root);
    }
    // The root directory that a RUN sees is the upper one: it gets the looks of the one below.
    if let Some(top) = spec.lowers.last() {
        let fail = doing("preparing the root directory");
        let looks = dir::stat_follow(top).map_err(&fail)?;
        node::chown_fd(upper.as_fd(), looks.uid, looks.gid).map_err(&fail)?;
        node::chmod_fd(upper.as_fd(), looks.mode).map_err(&fail)?;
        dir::futimens(upper.as_fd(), looks.mtime_sec, looks.mtime_nsec).map_err(&fail)?;
    }
    overlay_at(&spec.lowers, (&spec.upper, &spec.work), &spec.upper)
}

/// Mounts an overlay at a directory; gives its root.
fn overlay_at(lowers: &[PathBuf], writable: (&Path, &Path), at: &Path) -> Result<OwnedFd> {
    match overlay(lowers, Some(writable)) {
        Ok(root) => {
            let place = dir::open(at).map_err(doing("opening the mount point"))?;
            mount::attach(root.as_fd(), place.as_fd()).map_err(doing("attaching the overlay"))?;
            Ok(root)
        }
        // Linux < 6.5 has no `lowerdir+`, < 5.10 no `volatile`: "Unknown parameter".
        Err(e) if e.is(Errno::INVAL) || e.is(Errno::NOSYS) => {
            overlay_old(lowers, Some(writable), at)
                .map_err(|old| format!("mounting an overlay: {}; {old}", e.one_line()))?;
            dir::open(at).map_err(doing("opening the overlay"))
        }
        Err(e) => Err(format!("mounting an overlay: {}", e.one_line())),
    }
}

/// Mounts an overlay as RUN does, to see whether it can be done.
pub(super) fn try_overlay(lowers: &[PathBuf], upper: &Path, work: &Path, at: &Path) -> Result<()> {
    overlay_at(lowers, (upper, work), at).map(drop)
}

/// Makes an overlay, attached nowhere.
fn overlay(
    lowers: &[PathBuf],
    writable: Option<(&Path, &Path)>,
) -> std::result::Result<OwnedFd, crate::sys::Error> {
    let fs = Fs::open("overlay")?;
    for lower in lowers.iter().rev() {
        fs.set("lowerdir+", lower.as_os_str().as_bytes())?;
    }
    if let Some((upper, work)) = writable {
        fs.set("upperdir", upper.as_os_str().as_bytes())?;
        fs.set("workdir", work.as_os_str().as_bytes())?;
        // No sync ever: an upper directory that a crash cut short is never used again.
        fs.flag("volatile")?;
    }
    fs.flag("userxattr")?;
    // With an index, overlay keeps hard links of lower files together by names of its own in `work`.
    fs.set("index", b"off")?;
    // In a user namespace no device works anyway; without one (rung `root`) mknod must be harmless.
    fs.mount(NODEV)
}

/// Mounts an overlay at `target` by mount(2), whose options are one page at most: short names for the
/// directories are made in a tmpfs over `target`, which the overlay then covers.
fn overlay_old(lowers: &[PathBuf], writable: Option<(&Path, &Path)>, target: &Path) -> Result<()> {
    use std::fmt::Write as _;
    let names = Fs::open("tmpfs").and_then(|fs| fs.mount(Attrs::default()));
    let names = names.map_err(doing("tmpfs"))?;
    // The paths are resolved before anything covers them: symbolic links to descriptors.
    let mut held = Vec::new();
    let mut link = |name: &str, path: &Path| -> Result<()> {
        let fd = dir::open(path).map_err(doing("opening a layer"))?;
        let to = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
        held.push(fd);
        node::symlink(names.as_fd(), name.as_bytes(), to.as_bytes()).map_err(doing("symlink"))
    };
    let mut options = String::from("userxattr,lowerdir=");
    for (i, lower) in lowers.iter().rev().enumerate() {
        link(&i.to_string(), lower)?;
        // Writing to a String cannot fail.
        let _ = write!(options, "{}{i}", if i == 0 { "" } else { ":" });
    }
    if let Some((upper, work)) = writable {
        link("u", upper)?;
        link("w", work)?;
        options.push_str(",upperdir=u,workdir=w");
    }
    let place = dir::open(target).map_err(doing("opening the mount point"))?;
    mount::attach(names.as_fd(), place.as_fd()).map_err(doing("attaching a tmpfs"))?;
    crate::sys::process::chdir_fd(names.as_fd()).map_err(doing("chdir"))?;
    let volatile = format!("{options},volatile");
    mount::mount_old("overlay", target, volatile.as_bytes())
        .or_else(|_| mount::mount_old("overlay", target, options.as_bytes()))
        .map_err(doing("overlay"))
}

/// Gives a directory of the root that one of our own file systems goes on; it must not be a link.
fn own_mount_point(root: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    match dir::statx(root, name.as_bytes()) {
        Ok(stat) if stat.kind == FileKind::Dir => {}
        Ok(_) => return Err(format!("/{name} of the image is not a directory")),
        Err(e) if e.is(Errno::NOENT) => {
            node::mkdir(root, name.as_bytes(), 0o755).map_err(doing(format!("mkdir /{name}")))?;
        }
        Err(e) => return Err(format!("/{name}: {}", e.one_line())),
    }
    node::open_path(root, name.as_bytes()).map_err(doing(format!("/{name}")))
}

/// What of /proc a RUN may read but not write (as runc's default).
const PROC_READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// What of /proc a RUN does not see (as runc's default).
const PROC_MASKED: [&str; 9] = [
    "acpi",
    "asound",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
];

/// What this kernel has of [`PROC_READ_ONLY`] and [`PROC_MASKED`]; looked up once a session.
#[derive(Debug)]
pub(super) struct Kernel {
    read_only: Vec<&'static str>,
    masked: Vec<&'static str>,
}

impl Kernel {
    /// Looks into /proc.
    pub(super) fn look() -> Kernel {
        let there = |name: &&'static str| Path::new("/proc").join(name).exists();
        Kernel {
            read_only: PROC_READ_ONLY.into_iter().filter(there).collect(),
            masked: PROC_MASKED.into_iter().filter(there).collect(),
        }
    }
}

/// Mounts /proc. As root of the initial namespace a RUN would else write the host's sysctls: those
/// ask for uid 0 only, and an identity map gives it.
fn proc(order: &Order<'_>, kernel: &Kernel, root: BorrowedFd<'_>) -> Result<()> {
    let place = own_mount_point(root, "proc")?;
    let proc = if order.fresh_proc {
        Fs::open("proc").and_then(|fs| fs.mount(Attrs::INERT)).map_err(doing("mounting /proc"))?
    } else {
        mount::clone_path(Path::new("/proc"), true).map_err(doing("binding /proc"))?
    };
    mount::attach(proc.as_fd(), place.as_fd()).map_err(doing("attaching /proc"))?;
    if order.spec.insecure {
        return Ok(());
    }
    for name in &kernel.read_only {
        let fail = doing(format!("making /proc/{name} read-only"));
        // Recursive, as /proc/sys may hold the mount of binfmt_misc where /proc is the host's.
        let copy = mount::clone_tree(proc.as_fd(), name.as_bytes(), true).map_err(&fail)?;
        let attrs = Attrs { read_only: true, ..Attrs::INERT };
        mount::set_attrs(copy.as_fd(), attrs, true).map_err(&fail)?;
        mount::attach_at(copy.as_fd(), proc.as_fd(), name.as_bytes()).map_err(&fail)?;
    }
    kernel.masked.iter().try_for_each(|name| mask(proc.as_fd(), name))
}

/// Hides a file or directory of a kernel file system, if it is there.
fn mask(dir: BorrowedFd<'_>, name: &str) -> Result<()> {
    let fail = doing(format!("masking {name}"));
    let over = match dir::statx(dir, name.as_bytes()) {
        Ok(stat) if stat.kind == FileKind::Dir => {
            let attrs = Attrs { read_only: true, ..Attrs::INERT };
            Fs::open("tmpfs").and_then(|fs| fs.mount(attrs)).map_err(&fail)?
        }
        Ok(_) => mount::clone_path(Path::new("/dev/null"), false).map_err(&fail)?,
        Err(_) => return Ok(()),
    };
    mount::attach_at(over.as_fd(), dir, name.as_bytes()).map_err(&fail)
}

/// Mounts /sys read-only: a fresh one belongs to whoever owns the network namespace, so usually the
/// host's is bound.
fn sys(spec: &RunSpec, root: BorrowedFd<'_>) -> Result<()> {
    let attrs = Attrs { read_only: true, ..Attrs::INERT };
    let fresh = || Fs::open("sysfs").and_then(|fs| fs.mount(attrs)).ok();
    let host = || -> Option<OwnedFd> {
        let copy = mount::clone_path(Path::new("/sys"), true).ok()?;
        mount::set_attrs(copy.as_fd(), attrs, true).ok()?;
        Some(copy)
    };
    let found = if spec.network == Network::None { fresh().or_else(host) } else { host() };
    // A host that has no /sys to give (some containers) has none in RUNs either.
    let Some(sys) = found else { return Ok(()) };
    let place = own_mount_point(root, "sys")?;
    mount::attach(sys.as_fd(), place.as_fd()).map_err(doing("attaching /sys"))?;
    if spec.insecure { Ok(()) } else { mask(sys.as_fd(), "firmware") }
}

/// Mounts /dev: a tmpfs with the few devices that programs expect, bound from the host.
fn dev(spec: &RunSpec, root: BorrowedFd<'_>) -> Result<()> {
    let place = own_mount_point(root, "dev")?;
    let tmpfs = || {
        let fs = Fs::open("tmpfs")?;
        fs.set("size", b"65536k")?;
        fs.set("mode", b"755")?;
        // The devices are mounts of their own, which this does not touch.
        fs.mount(Attrs { nosuid: true, ..NODEV })
    };
    let dev = tmpfs().map_err(doing("mounting /dev"))?;
    mount::attach(dev.as_fd(), place.as_fd()).map_err(doing("attaching /dev"))?;
    let dev = dev.as_fd();
    for name in ["null", "zero", "full", "random", "urandom", "tty"] {
        let fail = doing(format!("/dev/{name}"));
        let Ok(device) = mount::clone_path(&Path::new("/dev").join(name), false) else { continue };
        node::create(dev, name.as_bytes(), 0o666).map_err(&fail)?;
        mount::attach_at(device.as_fd(), dev, name.as_bytes()).map_err(&fail)?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        node::symlink(dev, name.as_bytes(), target.as_bytes()).map_err(doing("/dev"))?;
    }
    let pts = || devpts(true).or_else(|_| devpts(false));
    let shm = || self::tmpfs(Some(spec.shm_size.unwrap_or(64 << 20)), 0o1777);
    let mqueue = || Fs::open("mqueue").and_then(|fs| fs.mount(Attrs::INERT));
    let parts: [(&str, &dyn Fn() -> crate::sys::Result<OwnedFd>); 3] =
        [("pts", &pts), ("shm", &shm), ("mqueue", &mqueue)];
    for (name, make) in parts {
        let fail = doing(format!("/dev/{name}"));
        node::mkdir(dev, name.as_bytes(), 0o755).map_err(&fail)?;
        match make() {
            Ok(fs) => mount::attach_at(fs.as_fd(), dev, name.as_bytes()).map_err(&fail)?,
            // A kernel without the file system: programs that want it will say so.
            Err(e) if e.is(Errno::NODEV) => {}
            Err(e) => return Err(fail(e)),
        }
    }
    Ok(())
}

/// Makes the pseudo-terminals; group 5 (tty) exists in maps of a range only.
fn devpts(with_group: bool) -> crate::sys::Result<OwnedFd> {
    let fs = Fs::open("devpts")?;
    fs.flag("newinstance")?;
    fs.set("ptmxmode", b"0666")?;
    fs.set("mode", b"0620")?;
    if with_group {
        fs.set("gid", b"5")?;
    }
    fs.mount(Attrs { nosuid: true, noexec: true, ..Attrs::default() })
}

/// A file system in memory, for files and mount points of ours; it is attached over a directory of
/// the builder, as only what is attached can be bound from (until Linux 6.15).
struct Memory<'a> {
    place: &'a Path,
    root: Option<OwnedFd>,
    names: u32,
}

impl Memory<'_> {
    /// Gives its root directory and a name that is not taken in it.
    fn free_name(&mut self) -> Result<(BorrowedFd<'_>, String)> {
        if self.root.is_none() {
            let fs = Fs::open("tmpfs").and_then(|fs| fs.mount(Attrs::default()));
            let fs = fs.map_err(doing("tmpfs"))?;
            let place = dir::open(self.place).map_err(doing("opening the work directory"))?;
            mount::attach(fs.as_fd(), place.as_fd()).map_err(doing("attaching a tmpfs"))?;
            self.root = Some(fs);
        }
        self.names += 1;
        match &self.root {
            Some(root) => Ok((root.as_fd(), self.names.to_string())),
            None => Err("no file system in memory".into()),
        }
    }

    /// Makes a directory; gives it and its path on the builder's side.
    fn dir(&mut self) -> Result<(OwnedFd, PathBuf)> {
        let (root, name) = self.free_name()?;
        node::mkdir(root, name.as_bytes(), 0o755).map_err(doing("mkdir"))?;
        let fd = node::open_path(root, name.as_bytes()).map_err(doing("opening a directory"))?;
        Ok((fd, self.place.join(name)))
    }

    /// Makes a read-only mount of one file.
    fn file(&mut self, bytes: &[u8], mode: u32, owner: (u32, u32)) -> Result<OwnedFd> {
        let (root, name) = self.free_name()?;
        let mut file = node::create(root, name.as_bytes(), 0o600).map_err(doing("a file"))?;
        file.write_all(bytes).map_err(doing("writing a file"))?;
        match node::chown_fd(file.as_fd(), owner.0, owner.1) {
            // An id that the namespace does not have: the file belongs to root.
            Err(e) if e.is(Errno::INVAL) => {}
            other => other.map_err(doing("chown"))?,
        }
        node::chmod_fd(file.as_fd(), mode & 0o7777).map_err(doing("chmod"))?;
        drop(file);
        let made = mount::clone_tree(root, name.as_bytes(), false).map_err(doing("binding"))?;
        let attrs = Attrs { read_only: true, nosuid: true, nodev: true, noexec: false };
        mount::set_attrs(made.as_fd(), attrs, false).map_err(doing("binding"))?;
        Ok(made)
    }
}

/// Makes and attaches one mount of the spec.
fn attach(root: BorrowedFd<'_>, mount: &Mount, memory: &mut Memory<'_>) -> Result<()> {
    let made = match &mount.kind {
        MountKind::Bind { source, subpath, access } => {
            let base = node::open_path_follow(source).map_err(doing(source.display()))?;
            bind(base, subpath, access)?
        }
        MountKind::Device { source } => {
            mount::clone_path(source, false).map_err(doing(source.display()))?
        }
        MountKind::Layers { lowers, subpath, access } => layers(lowers, subpath, access, memory)?,
        MountKind::Tmpfs { size, mode } => tmpfs(*size, *mode).map_err(doing("tmpfs"))?,
        MountKind::File { bytes, mode, uid, gid } => memory.file(bytes, *mode, (*uid, *gid))?,
    };
    let is_dir = dir::fstat(made.as_fd()).map_err(doing("reading its root"))?.kind == FileKind::Dir;
    let target = target(root, &mount.target, is_dir)?;
    mount::attach(made.as_fd(), target.as_fd()).map_err(doing("attaching"))
}

fn tmpfs(size: Option<u64>, mode: u32) -> crate::sys::Result<OwnedFd> {
    let fs = Fs::open("tmpfs")?;
    if let Some(size) = size {
        fs.set("size", size.to_string().as_bytes())?;
    }
    fs.set("mode", format!("{mode:o}").as_bytes())?;
    fs.mount(Attrs { nosuid: true, nodev: true, ..Attrs::default() })
}

/// Makes a bind mount of a path below `base`.
fn bind(base: OwnedFd, subpath: &str, access: &Access) -> Result<OwnedFd> {
    let from = if subpath.trim_matches('/').is_empty() {
        base
    } else {
        dir::open_path_in_root(base.as_fd(), subpath.as_bytes()).map_err(doing(subpath))?
    };
    if let Access::Discard { scratch } = access {
        let kind = dir::fstat(from.as_fd()).map_err(doing("stat"))?.kind;
        if kind == FileKind::Dir {
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&from));
            return discarding(&[PathBuf::from(path)], scratch);
        }
        // A single file: a copy that is thrown away.
        let copy = scratch.join("file");
        std::fs::copy(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&from)), &copy)
            .map_err(doing("copying the file"))?;
        return mount::clone_path(&copy, false).map_err(doing("binding"));
    }
    // What was mounted below by the host is locked to its parent in our namespace, and cannot be
    // left out: EINVAL.
    let made = mount::clone_tree(from.as_fd(), b"", false)
        .or_else(|_| mount::clone_tree(from.as_fd(), b"", true))
        .map_err(doing("binding"))?;
    let attrs = Attrs { read_only: *access == Access::ReadOnly, ..NODEV };
    mount::set_attrs(made.as_fd(), attrs, true).map_err(doing("binding"))?;
    Ok(made)
}

/// Makes an overlay of directories whose changes go to `scratch`.
fn discarding(lowers: &[PathBuf], scratch: &Path) -> Result<OwnedFd> {
    let (upper, work) = (scratch.join("upper"), scratch.join("work"));
    for dir in [&upper, &work] {
        std::fs::create_dir(dir).map_err(doing(dir.display()))?;
    }
    let writable = Some((upper.as_path(), work.as_path()));
    match overlay(lowers, writable) {
        Err(e) if e.is(Errno::INVAL) || e.is(Errno::NOSYS) => {
            overlay_old(lowers, writable, &upper)?;
            let made = dir::open(&upper).map_err(doing("opening the overlay"))?;
            mount::clone_tree(made.as_fd(), b"", false).map_err(doing("binding the overlay"))
        }
        other => other.map_err(doing("overlay")),
    }
}

/// Makes the merged view of layer directories, or of a path in it.
fn layers(
    lowers: &[PathBuf],
    subpath: &str,
    access: &Access,
    memory: &mut Memory<'_>,
) -> Result<OwnedFd> {
    let merged = match access {
        Access::Discard { scratch } => discarding(lowers, scratch)?,
        Access::ReadOnly => {
            // An overlay without upper directory wants two lower ones: an empty one is added.
            let mut lowers = lowers.to_vec();
            while lowers.len() < 2 {
                lowers.insert(0, memory.dir()?.1);
            }
            read_only_overlay(&lowers, memory)?
        }
        Access::ReadWrite => return Err("layers cannot be mounted for writing".into()),
    };
    let attrs = Attrs { read_only: *access == Access::ReadOnly, ..NODEV };
    let made = if subpath.trim_matches('/').is_empty() {
        merged
    } else {
        let (place, _) = memory.dir()?;
        mount::attach(merged.as_fd(), place.as_fd()).map_err(doing("attaching the layers"))?;
        let from = dir::open_path_in_root(merged.as_fd(), subpath.as_bytes());
        let from = from.map_err(doing(subpath))?;
        mount::clone_tree(from.as_fd(), b"", false).map_err(doing("binding"))?
    };
    mount::set_attrs(made.as_fd(), attrs, false).map_err(doing("binding"))?;
    Ok(made)
}

fn read_only_overlay(lowers: &[PathBuf], memory: &mut Memory<'_>) -> Result<OwnedFd> {
    match overlay(lowers, None) {
        Err(e) if e.is(Errno::INVAL) || e.is(Errno::NOSYS) => {
            let (_, place) = memory.dir()?;
            overlay_old(lowers, None, &place)?;
            let made = dir::open(&place).map_err(doing("opening the overlay"))?;
            mount::clone_tree(made.as_fd(), b"", false).map_err(doing("binding the overlay"))
        }
        other => other.map_err(doing("overlay")),
    }
}

/// Finds a mount target in the root; makes it, and what leads to it, when it is missing.
fn target(root: BorrowedFd<'_>, path: &str, is_dir: bool) -> Result<OwnedFd> {
    let bytes = path.as_bytes();
    match dir::open_path_in_root(root, bytes) {
        Err(e) if e.is(Errno::NOENT) => {}
        other => return other.map_err(doing("opening the target")),
    }
    let parts: Vec<&[u8]> = bytes.split(|&b| b == b'/').filter(|p| !p.is_empty()).collect();
    let mut at = dir::open_path_in_root(root, b"").map_err(doing("opening the root"))?;
    let mut done: Vec<u8> = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        let last = i + 1 == parts.len();
        done.push(b'/');
        done.extend_from_slice(part);
        let next = match dir::open_path_in_root(root, &done) {
            Err(e) if e.is(Errno::NOENT) => {
                if last && !is_dir {
                    node::create(at.as_fd(), part, 0o644).map(drop)
                } else {
                    node::mkdir(at.as_fd(), part, 0o755)
                }
                // Another step that shares a cache may have made it just now.
                .or_else(|e| if e.is(Errno::EXIST) { Ok(()) } else { Err(e) })
                .map_err(doing("making the target"))?;
                dir::open_path_in_root(root, &done)
            }
            other => other,
        };
        at = next.map_err(doing("opening the target"))?;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Steps that share a cache and mount something within it make its target at the same moment.
    #[test]
    fn two_may_make_a_target_at_once() {
        let place = tempfile::tempdir().unwrap();
        let root = dir::open(place.path()).unwrap();
        let start = std::sync::Barrier::new(2);
        let failures = std::sync::Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for round in 0..300 {
                        start.wait();
                        let made = target(root.as_fd(), &format!("/{round}/a/b"), true);
                        let file = target(root.as_fd(), &format!("/{round}/c"), false);
                        // Kept for later: the other one waits for this one at the barrier.
                        failures.lock().unwrap().extend(made.and(file).err());
                    }
                });
            }
        });
        let failures = failures.into_inner().unwrap();
        assert!(failures.is_empty(), "{} failures: {}", failures.len(), failures[0]);
    }
}
