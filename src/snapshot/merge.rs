//! Stacks too deep for an overlay: several layer directories made into one, with hard links.
//!
//! What the result says of still lower layers is kept: whiteouts and opaque directories stay.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use super::Error;
use super::writer::{OPAQUE, at, io_at, is_whiteout};
use crate::layer::RootPath;
use crate::sys::dir::{self, FileKind, Stat};
use crate::sys::{Errno, node, xattr};

/// Merges layer directories (bottom → top) into one that looks the same below an overlay, with hard
/// links instead of copies; for stacks of more than 500. `dir` must be there and empty.
pub fn merge(layers: &[PathBuf], dir: &Path) -> Result<(), Error> {
    let root = RootPath::root();
    let out = dir::open(dir).map_err(at("opening", &root))?;
    for layer in layers {
        let from = dir::open(layer).map_err(at("opening", &root))?;
        let stat = dir::fstat(from.as_fd()).map_err(at("reading", &root))?;
        contents(from.as_fd(), out.as_fd(), &root)?;
        copy_attributes(from.as_fd(), out.as_fd(), &stat, &root)?;
    }
    Ok(())
}

/// Lays what is in `from` over what is in `to`.
fn contents(from: BorrowedFd<'_>, to: BorrowedFd<'_>, path: &RootPath) -> Result<(), Error> {
    for entry in dir::read_dir(from).map_err(at("listing", path))? {
        let name = entry.name.as_slice();
        let path = path.join(name);
        let stat = dir::statx(from, name).map_err(at("reading", &path))?;
        let there = match dir::statx(to, name) {
            Ok(stat) => Some(stat),
            Err(e) if e.is(Errno::NOENT) => None,
            Err(e) => return Err(at("reading", &path)(e)),
        };
        if stat.kind == FileKind::Dir {
            directory(from, to, name, &path, &stat, there)?;
            continue;
        }
        if there.is_some() {
            node::remove_all(to, name).map_err(at("replacing", &path))?;
        }
        match node::link(from, name, to, name) {
            Ok(()) => {}
            // As many links as the file system allows, or another file system.
            Err(e) if (e.is(Errno::MLINK) || e.is(Errno::XDEV)) && stat.kind == FileKind::File => {
                copy_file(from, to, name, &stat, &path)?;
            }
            Err(e) => return Err(at("linking", &path)(e)),
        }
    }
    Ok(())
}

fn directory(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &[u8],
    path: &RootPath,
    stat: &Stat,
    there: Option<Stat>,
) -> Result<(), Error> {
    let source = dir::open_dir_at(from, name).map_err(at("opening", path))?;
    let opaque = xattr::get(source.as_fd(), b"", OPAQUE).map_err(at("reading", path))?;
    let opaque = opaque.as_deref() == Some(b"y");
    // A directory over a whiteout, or over any other thing, starts anew for still lower layers too.
    let mut hides = opaque;
    if let Some(there) = there
        && (opaque || there.kind != FileKind::Dir)
    {
        node::remove_all(to, name).map_err(at("replacing", path))?;
        hides |= is_whiteout(&there) || there.kind != FileKind::Dir;
    }
    match node::mkdir(to, name, 0o700) {
        Err(e) if e.is(Errno::EXIST) => {}
        other => other.map_err(at("making", path))?,
    }
    let target = dir::open_dir_at(to, name).map_err(at("opening", path))?;
    if hides {
        xattr::set_fd(target.as_fd(), OPAQUE, b"y").map_err(at("marking", path))?;
    }
    contents(source.as_fd(), target.as_fd(), path)?;
    copy_attributes(source.as_fd(), target.as_fd(), stat, path)
}

/// Gives a file or directory the owner, mode, attributes and times of another.
fn copy_attributes(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    stat: &Stat,
    path: &RootPath,
) -> Result<(), Error> {
    node::chown_fd(to, stat.uid, stat.gid).map_err(at("changing the owner of", path))?;
    node::chmod_fd(to, stat.mode).map_err(at("changing the mode of", path))?;
    for (key, value) in xattr::get_all_fd(from).map_err(at("reading attributes of", path))? {
        if key != OPAQUE {
            xattr::set_fd(to, &key, &value).map_err(at("setting attributes of", path))?;
        }
    }
    dir::futimens(to, stat.mtime_sec, stat.mtime_nsec).map_err(at("setting times of", path))
}

fn copy_file(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &[u8],
    stat: &Stat,
    path: &RootPath,
) -> Result<(), Error> {
    let mut source = dir::openat_nofollow(from, name).map_err(at("opening", path))?;
    let mut target = node::create(to, name, 0o600).map_err(at("making", path))?;
    std::io::copy(&mut source, &mut target).map_err(io_at("copying", path))?;
    copy_attributes(source.as_fd(), target.as_fd(), stat, path)
}
