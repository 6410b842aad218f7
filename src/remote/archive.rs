//! Tar archives as directories, for contexts.
//!
//! What is unpacked belongs to the caller, with the modes and times of the archive. The reader
//! cleans every path and the writer follows no link, so nothing is written outside of the directory.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::layer::compress::Decoder;
use crate::layer::{Kind, tar};
use crate::snapshot::TreeWriter;
use crate::store::{Store, TmpDir};
use crate::sys::cred::IdMap;

use super::{Cancelled, Error, Result};

/// Unpacks an archive, compressed or not, into an empty directory. `what` names it in errors.
pub fn unpack(
    archive: impl Read + Send,
    dir: &Path,
    what: &str,
    cancelled: &Cancelled,
) -> Result<()> {
    let unreadable = |source: std::io::Error| Error::Archive { what: what.to_owned(), source };
    let decoder = Decoder::new(archive).map_err(unreadable)?;
    let mut reader = tar::Reader::plain(decoder);
    let unwritten = |source| Error::Write { what: what.to_owned(), source };
    let mut writer = TreeWriter::new(dir, &IdMap::default()).map_err(unwritten)?;
    let broken = |error: tar::Error| unreadable(std::io::Error::other(error));
    while let Some((mut entry, mut content)) = reader.next_entry().map_err(broken)? {
        if cancelled() {
            return Err(Error::Cancelled);
        }
        if matches!(entry.kind, Kind::CharDevice { .. } | Kind::BlockDevice { .. }) {
            return Err(Error::Device { what: what.to_owned(), path: entry.path });
        }
        // The caller must be able to list it, whatever the archive says.
        if matches!(entry.kind, Kind::Dir) && entry.path.is_root() {
            entry.mode |= 0o700;
        }
        // A context has no attributes of overlays and no capabilities to hand on.
        entry.xattrs.retain(|name, _| name.starts_with(b"user."));
        writer.entry(&entry, &mut content).map_err(unwritten)?;
    }
    writer.finish().map_err(unwritten)
}

/// Finds a directory of what was unpacked. A link on the way could lead anywhere, so every part must
/// be a directory itself, as in repositories.
pub(super) fn directory(root: &Path, dir: &str, what: &str) -> Result<PathBuf> {
    let mut path = root.to_owned();
    for part in dir.split('/').filter(|part| !part.is_empty()) {
        path.push(part);
        if part == ".." || !path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            return Err(Error::NoDirectory { what: what.to_owned(), dir: dir.to_owned() });
        }
    }
    Ok(path)
}

/// Unpacks an archive into a temporary directory of the store.
pub(super) fn unpack_to_tmp(
    store: &Store,
    archive: impl Read + Send,
    what: &str,
    cancelled: &Cancelled,
) -> Result<TmpDir> {
    let dir = store.tmp().dir("context")?;
    unpack(archive, dir.path(), what, cancelled)?;
    Ok(dir)
}
