//! From entries to a directory.
//!
//! Entries come in the order of a tar or of a Toc; the result is the same. What that takes: a later
//! entry replaces an earlier one of the same path; directories get their owner, mode and times at
//! the end, deepest first, so that filling them neither needs nor changes those; a hard link to what
//! is not there yet waits until the end.
//!
//! For one file the order is owner, mode, attributes, times: chown clears setuid bits and file
//! capabilities, and everything changes times.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::Error;
use crate::layer::{Entry, Kind, RootPath, Toc, TocBuilder, tar, toc};
use crate::oci::Digest;
use crate::oci::digest::Hasher;
use crate::sys::cred::IdMap;
use crate::sys::dir::FileKind;
use crate::sys::{Errno, dir, node, xattr};

/// The attribute that makes a directory opaque, in overlays mounted with `userxattr`.
pub(super) const OPAQUE: &[u8] = b"user.overlay.opaque";

/// What is read at a time, and the unit of holes: runs of zeros shorter than a block are written.
const CHUNK: usize = 256 * 1024;
const BLOCK: usize = 4096;

/// Writes a layer's entries to a directory.
///
/// With an empty [`IdMap`] it writes for people, not for an overlay: all files stay the caller's, and
/// devices are made as such (which only root can).
#[derive(Debug)]
pub struct TreeWriter {
    root: OwnedFd,
    map: IdMap,
    /// Open directories from the root down to the parent of the last entry.
    stack: Vec<(Vec<u8>, OwnedFd)>,
    /// What directories are to look like in the end.
    dirs: BTreeMap<RootPath, Entry>,
    /// Hard links to what is not there yet: (path, target).
    links: Vec<(RootPath, RootPath)>,
    buffer: Vec<u8>,
}

impl TreeWriter {
    /// Starts in `dir`, which must be there. What is in it stays, but for what entries replace.
    pub fn new(dir: &Path, map: &IdMap) -> Result<TreeWriter, Error> {
        let root = dir::open(dir).map_err(at("opening", &RootPath::root()))?;
        Ok(TreeWriter {
            root,
            map: map.clone(),
            stack: Vec::new(),
            dirs: BTreeMap::new(),
            links: Vec::new(),
            buffer: vec![0; CHUNK],
        })
    }

    /// Writes one entry; gives the digest of a regular file's content, computed unless the entry
    /// has it.
    pub fn entry(
        &mut self,
        entry: &Entry,
        content: &mut dyn Read,
    ) -> Result<Option<Digest>, Error> {
        let path = &entry.path;
        let Some(name) = path.file_name() else {
            match entry.kind {
                Kind::Opaque => {
                    xattr::set_fd(self.root.as_fd(), OPAQUE, b"y").map_err(at("marking", path))?;
                }
                _ => {
                    self.dirs.insert(path.clone(), entry.clone());
                }
            }
            return Ok(None);
        };
        self.enter_parent(path)?;
        match &entry.kind {
            Kind::Dir => self.directory(entry, name)?,
            Kind::File { size, digest } => {
                self.make_way(path, name)?;
                return self.file(entry, name, *size, *digest, content).map(Some);
            }
            Kind::Symlink(target) => {
                self.make_way(path, name)?;
                node::symlink(self.parent(), name, target).map_err(at("making", path))?;
                self.finish_node(entry, name)?;
            }
            Kind::Fifo => {
                self.make_way(path, name)?;
                node::mkfifo(self.parent(), name, 0o600).map_err(at("making", path))?;
                self.finish_node(entry, name)?;
            }
            Kind::Hardlink(target) => {
                self.make_way(path, name)?;
                if !self.link(path, name, target)? {
                    self.links.push((path.clone(), target.clone()));
                }
            }
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                self.make_way(path, name)?;
                if self.map.uids.is_empty() {
                    let block = matches!(entry.kind, Kind::BlockDevice { .. });
                    node::mknod_device(self.parent(), name, block, (*major, *minor))
                        .map_err(at("making", path))?;
                    self.finish_node(entry, name)?;
                } else {
                    // No user namespace may make a device; a whiteout hides what lower layers have
                    // there.
                    node::whiteout(self.parent(), name).map_err(at("making", path))?;
                }
            }
            Kind::Whiteout => self.whiteout(path, name)?,
            Kind::Opaque => {
                let dir = self.open_or_make_dir(path, name)?;
                xattr::set_fd(dir.as_fd(), OPAQUE, b"y").map_err(at("marking", path))?;
            }
        }
        Ok(None)
    }

    /// Ends the work: hard links that waited are made, directories get what is theirs.
    pub fn finish(mut self) -> Result<(), Error> {
        // A link to a link may wait for that one: as long as a round makes some, another may.
        let mut waiting = std::mem::take(&mut self.links);
        while !waiting.is_empty() {
            let before = waiting.len();
            let mut still = Vec::new();
            for (path, target) in waiting {
                self.enter_parent(&path)?;
                let Some(name) = path.file_name() else { continue };
                if !self.link(&path, name, &target)? {
                    still.push((path, target));
                }
            }
            if still.len() == before
                && let Some((path, target)) = still.pop()
            {
                return Err(Error::Hardlink { path, target });
            }
            waiting = still;
        }
        self.stack.clear();
        for (path, entry) in std::mem::take(&mut self.dirs).into_iter().rev() {
            let opened = if path.is_root() {
                self.root.try_clone().map_err(io_at("opening", &path))?
            } else {
                match dir::open_dir_beneath(self.root.as_fd(), path.as_bytes()) {
                    Ok(fd) => fd,
                    // Replaced by something else since.
                    Err(e) if e.is(Errno::NOENT) || e.is(Errno::NOTDIR) || e.is(Errno::LOOP) => {
                        continue;
                    }
                    Err(e) => return Err(at("opening", &path)(e)),
                }
            };
            self.finish_open(&entry, opened.as_fd())?;
        }
        Ok(())
    }

    /// Gives the directory that the current entry goes to.
    fn parent(&self) -> BorrowedFd<'_> {
        self.stack.last().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd())
    }

    /// Opens the directories that lead to a path, making those that are missing. Entries of one
    /// directory mostly come together, so the open ones are kept.
    fn enter_parent(&mut self, path: &RootPath) -> Result<(), Error> {
        let mut parts: Vec<&[u8]> = path.components().collect();
        parts.pop();
        let same = self.stack.iter().zip(&parts).take_while(|((have, _), want)| have == *want);
        let same = same.count();
        self.stack.truncate(same);
        for (depth, part) in parts.iter().enumerate().skip(same) {
            let dir_path = RootPath::clean(&parts[..=depth].join(&b'/'));
            let fd = self.open_or_make_dir(&dir_path, part)?;
            self.stack.push((part.to_vec(), fd));
        }
        Ok(())
    }

    /// Opens a subdirectory of the current one; makes it, and what else has its name makes way.
    fn open_or_make_dir(&mut self, path: &RootPath, name: &[u8]) -> Result<OwnedFd, Error> {
        match dir::open_dir_at(self.parent(), name) {
            Ok(fd) => return Ok(fd),
            Err(e) if e.is(Errno::NOENT) => {}
            Err(e) if e.is(Errno::NOTDIR) || e.is(Errno::LOOP) => {
                let stat = dir::statx(self.parent(), name).map_err(at("reading", path))?;
                node::unlink(self.parent(), name).map_err(at("replacing", path))?;
                if is_whiteout(&stat) {
                    let fd = self.make_dir(path, name)?;
                    xattr::set_fd(fd.as_fd(), OPAQUE, b"y").map_err(at("marking", path))?;
                    return Ok(fd);
                }
            }
            Err(e) => return Err(at("opening", path)(e)),
        }
        self.make_dir(path, name)
    }

    fn make_dir(&mut self, path: &RootPath, name: &[u8]) -> Result<OwnedFd, Error> {
        node::mkdir(self.parent(), name, 0o700).map_err(at("making", path))?;
        // Until an entry says otherwise.
        let implied = Entry {
            path: path.clone(),
            kind: Kind::Dir,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: BTreeMap::new(),
        };
        self.dirs.entry(path.clone()).or_insert(implied);
        dir::open_dir_at(self.parent(), name).map_err(at("opening", path))
    }

    fn directory(&mut self, entry: &Entry, name: &[u8]) -> Result<(), Error> {
        // The next entry is most likely in it.
        let fd = self.open_or_make_dir(&entry.path, name)?;
        self.stack.push((name.to_vec(), fd));
        self.dirs.insert(entry.path.clone(), entry.clone());
        Ok(())
    }

    /// Removes what has the name of a non-directory to be made.
    fn make_way(&mut self, path: &RootPath, name: &[u8]) -> Result<(), Error> {
        match dir::statx(self.parent(), name) {
            Err(e) if e.is(Errno::NOENT) => Ok(()),
            Err(e) => Err(at("reading", path)(e)),
            Ok(stat) if stat.kind == FileKind::Dir => {
                node::remove_all(self.parent(), name).map_err(at("replacing", path))?;
                self.dirs.retain(|dir, _| !dir.starts_with(path));
                self.links.retain(|(link, _)| !link.starts_with(path));
                Ok(())
            }
            Ok(_) => node::unlink(self.parent(), name).map_err(at("replacing", path)),
        }
    }

    /// Hides a path of lower layers. What this layer itself has there stays, and is made opaque.
    fn whiteout(&mut self, path: &RootPath, name: &[u8]) -> Result<(), Error> {
        match dir::statx(self.parent(), name) {
            Err(e) if e.is(Errno::NOENT) => {
                node::whiteout(self.parent(), name).map_err(at("hiding", path))
            }
            Err(e) => Err(at("reading", path)(e)),
            Ok(stat) if stat.kind == FileKind::Dir => {
                let fd = dir::open_dir_at(self.parent(), name).map_err(at("opening", path))?;
                xattr::set_fd(fd.as_fd(), OPAQUE, b"y").map_err(at("marking", path))
            }
            Ok(_) => Ok(()),
        }
    }

    /// Makes a hard link; false when its target is not there.
    fn link(&self, path: &RootPath, name: &[u8], target: &RootPath) -> Result<bool, Error> {
        let (Some(target_name), Some(target_dir)) = (target.file_name(), target.parent()) else {
            return Err(Error::Hardlink { path: path.clone(), target: target.clone() });
        };
        let made = dir::open_dir_beneath(self.root.as_fd(), target_dir.as_bytes())
            .and_then(|from| node::link(from.as_fd(), target_name, self.parent(), name));
        match made {
            Ok(()) => Ok(true),
            Err(e) if e.is(Errno::NOENT) => Ok(false),
            Err(e) => Err(at("linking", path)(e)),
        }
    }

    fn file(
        &mut self,
        entry: &Entry,
        name: &[u8],
        size: u64,
        known: Option<Digest>,
        content: &mut dyn Read,
    ) -> Result<Digest, Error> {
        let path = &entry.path;
        let file = node::create(self.parent(), name, 0o600).map_err(at("making", path))?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let copied = copy(path, &file, size, known.is_none(), content, &mut buffer);
        self.buffer = buffer;
        let hasher = copied?;
        self.finish_open(entry, file.as_fd())?;
        Ok(known.unwrap_or_else(|| hasher.finish()))
    }

    /// Sets owner, mode, attributes and times of an open file or directory.
    fn finish_open(&self, entry: &Entry, fd: BorrowedFd<'_>) -> Result<(), Error> {
        let path = &entry.path;
        if let Some((uid, gid)) = self.owner(entry) {
            node::chown_fd(fd, uid, gid).map_err(at("changing the owner of", path))?;
        }
        node::chmod_fd(fd, entry.mode).map_err(at("changing the mode of", path))?;
        for (key, value) in entry.xattrs.iter().filter(|(key, _)| on_disk(&entry.kind, key)) {
            match xattr::set_fd(fd, key, value) {
                // The file system has no attributes, or no privilege for this one; it stays in the
                // Toc.
                Err(e) if e.is(Errno::OPNOTSUPP) || e.is(Errno::PERM) => {}
                other => other.map_err(at("setting attributes of", path))?,
            }
        }
        dir::futimens(fd, entry.mtime, 0).map_err(at("setting times of", path))
    }

    /// Sets owner, mode and times of a symbolic link, named pipe or device.
    fn finish_node(&self, entry: &Entry, name: &[u8]) -> Result<(), Error> {
        let path = &entry.path;
        if let Some((uid, gid)) = self.owner(entry) {
            node::chown(self.parent(), name, uid, gid)
                .map_err(at("changing the owner of", path))?;
        }
        if !matches!(entry.kind, Kind::Symlink(_)) {
            node::chmod(self.parent(), name, entry.mode)
                .map_err(at("changing the mode of", path))?;
        }
        dir::utimens(self.parent(), name, entry.mtime, 0).map_err(at("setting times of", path))
    }

    /// Gives the owner that the disk can hold; None when nothing is to change hands.
    fn owner(&self, entry: &Entry) -> Option<(u32, u32)> {
        if self.map.uids.is_empty() {
            return None;
        }
        let uid = if self.map.has_uid(entry.uid) { entry.uid } else { 0 };
        let gid = if self.map.has_gid(entry.gid) { entry.gid } else { 0 };
        Some((uid, gid))
    }
}

/// Copies content to a new file, leaving holes for blocks of zeros; gives its digest if asked.
fn copy(
    path: &RootPath,
    file: &File,
    size: u64,
    hash: bool,
    content: &mut dyn Read,
    buffer: &mut [u8],
) -> Result<Hasher, Error> {
    let mut hasher = Hasher::new();
    let mut found: u64 = 0;
    // Bytes of zeros since the last write.
    let mut hole: u64 = 0;
    loop {
        let filled = fill(content, buffer).map_err(io_at("reading", path))?;
        if filled == 0 {
            break;
        }
        let chunk = &buffer[..filled];
        if hash {
            hasher.update(chunk);
        }
        found += filled as u64;
        if found > size {
            return Err(Error::Size { path: path.clone(), expected: size, found });
        }
        for (zero, piece) in runs(chunk) {
            if zero {
                hole += piece.len() as u64;
                continue;
            }
            if hole > 0 {
                node::skip(file.as_fd(), hole).map_err(at("writing", path))?;
                hole = 0;
            }
            let mut file = file;
            file.write_all(piece).map_err(io_at("writing", path))?;
        }
        if filled < buffer.len() {
            break;
        }
    }
    if found != size {
        return Err(Error::Size { path: path.clone(), expected: size, found });
    }
    if hole > 0 {
        node::truncate(file.as_fd(), size).map_err(at("writing", path))?;
    }
    Ok(hasher)
}

/// Reads until the buffer is full or the content ends.
fn fill(content: &mut dyn Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match content.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// Cuts a chunk into runs of whole zero blocks and of everything else. The last block of a chunk may
/// be short; it counts as zero if it is.
fn runs(chunk: &[u8]) -> impl Iterator<Item = (bool, &[u8])> {
    let mut rest = chunk;
    std::iter::from_fn(move || {
        let zero = is_zero(rest.chunks(BLOCK).next()?);
        let blocks = rest.chunks(BLOCK).take_while(|block| is_zero(block) == zero).count();
        let (run, more) = rest.split_at((blocks * BLOCK).min(rest.len()));
        rest = more;
        Some((zero, run))
    })
}

fn is_zero(block: &[u8]) -> bool {
    // The first byte settles it for nearly all blocks that are not.
    block.first() == Some(&0) && block.iter().all(|&b| b == 0)
}

/// Says whether a node is an overlay whiteout.
pub(super) fn is_whiteout(stat: &dir::Stat) -> bool {
    stat.kind == FileKind::CharDevice && stat.rdev == (0, 0)
}

/// Says whether the disk holds an attribute: `user.*` of files and directories, capabilities of
/// files. Others need privileges of the initial namespace or belong to the host, and stay in the
/// Toc.
pub(super) fn on_disk(kind: &Kind, key: &[u8]) -> bool {
    match kind {
        Kind::File { .. } | Kind::Hardlink(_) => {
            key == b"security.capability"
                || (key.starts_with(b"user.") && !toc::is_overlay_xattr(key))
        }
        Kind::Dir => key.starts_with(b"user.") && !toc::is_overlay_xattr(key),
        _ => false,
    }
}

/// Puts a path to a failed call.
pub(super) fn at(doing: &'static str, path: &RootPath) -> impl Fn(crate::sys::Error) -> Error {
    let path = path.clone();
    move |source| Error::Sys { doing, path: path.clone(), source }
}

/// Puts a path to failed input or output.
pub(super) fn io_at(doing: &'static str, path: &RootPath) -> impl Fn(std::io::Error) -> Error {
    let path = path.clone();
    move |source| Error::Io { doing, path: path.clone(), source }
}

/// Unpacks a layer's tar into `dir`; gives its Toc with content digests.
pub fn unpack<R: Read>(mut reader: tar::Reader<R>, dir: &Path, map: &IdMap) -> Result<Toc, Error> {
    let mut writer = TreeWriter::new(dir, map)?;
    let mut toc = TocBuilder::new();
    while let Some((mut entry, mut content)) = reader.next_entry()? {
        let found = writer.entry(&entry, &mut content)?;
        if let Kind::File { digest, .. } = &mut entry.kind {
            *digest = found;
        }
        toc.push(entry);
    }
    reader.finish()?;
    writer.finish()?;
    Ok(toc.finish())
}

/// Reads files of a layer's directory.
#[derive(Debug)]
pub struct Contents(OwnedFd);

impl Contents {
    /// Opens the directory.
    pub fn open(dir: &Path) -> Result<Contents, Error> {
        dir::open(dir).map(Contents).map_err(at("opening", &RootPath::root()))
    }

    /// Opens a regular file in it.
    pub fn file(&self, path: &RootPath) -> Result<File, Error> {
        let file =
            dir::open_beneath(self.0.as_fd(), path.as_bytes()).map_err(at("opening", path))?;
        let kind = dir::fstat(file.as_fd()).map_err(at("reading", path))?.kind;
        if kind != FileKind::File {
            let source = std::io::Error::from(std::io::ErrorKind::InvalidInput);
            return Err(io_at("opening what is no regular file,", path)(source));
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn entry(path: &str, kind: Kind, mode: u32) -> Entry {
        Entry {
            path: path.into(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: 1_000_000_000,
            xattrs: BTreeMap::new(),
        }
    }

    fn file(path: &str, text: &str) -> (Entry, Vec<u8>) {
        let kind = Kind::File { size: text.len() as u64, digest: None };
        (entry(path, kind, 0o4640), text.into())
    }

    fn write(dir: &Path, entries: &[(Entry, Vec<u8>)]) -> Result<(), Error> {
        let mut writer = TreeWriter::new(dir, &IdMap::default())?;
        for (entry, content) in entries {
            writer.entry(entry, &mut content.as_slice())?;
        }
        writer.finish()
    }

    #[test]
    fn order_does_not_matter_and_times_are_kept() {
        let tmp = tempfile::tempdir().unwrap();
        let entries = [
            (entry("a/link", Kind::Hardlink("z/file".into()), 0o644), vec![]),
            (entry("a", Kind::Dir, 0o555), vec![]),
            file("a/x", "x"),
            (entry("z", Kind::Dir, 0o2750), vec![]),
            file("z/file", "hello"),
            (entry("l", Kind::Symlink(b"/etc".to_vec()), 0o777), vec![]),
            file("l", "replaced"),
            file("d/e", "gone"),
            (entry("d", Kind::Symlink(b"z".to_vec()), 0o777), vec![]),
            file("implied/f", "f"),
        ];
        write(tmp.path(), &entries).unwrap();
        let meta = |p: &str| std::fs::symlink_metadata(tmp.path().join(p)).unwrap();
        assert_eq!(meta("a").mode() & 0o7777, 0o555);
        assert_eq!(meta("z").mode() & 0o7777, 0o2750);
        assert_eq!(meta("a").mtime(), 1_000_000_000);
        assert_eq!(meta("a/link").ino(), meta("z/file").ino());
        assert_eq!(meta("z/file").mode() & 0o7777, 0o4640);
        assert!(meta("l").is_file() && meta("d").is_symlink());
        assert_eq!(meta("implied").mode() & 0o7777, 0o755);
        let contents = Contents::open(tmp.path()).unwrap();
        let mut text = String::new();
        contents.file(&"z/file".into()).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert!(contents.file(&"d/file".into()).is_err(), "through a link");
        assert!(contents.file(&"z".into()).is_err());
    }

    #[test]
    fn nothing_is_written_through_links() {
        let tmp = tempfile::tempdir().unwrap();
        let victim = tempfile::tempdir().unwrap();
        let target = victim.path().as_os_str().as_encoded_bytes().to_vec();
        let entries = [(entry("d", Kind::Symlink(target), 0o777), vec![]), file("d/owned", "x")];
        write(tmp.path(), &entries).unwrap();
        assert_eq!(std::fs::read_dir(victim.path()).unwrap().count(), 0);
        assert!(tmp.path().join("d").is_dir());
        let outside = [(entry("h", Kind::Hardlink("nowhere".into()), 0o644), vec![])];
        assert!(matches!(write(tmp.path(), &outside), Err(Error::Hardlink { .. })));
    }

    #[test]
    fn zeros_become_holes_and_sizes_are_checked() {
        let tmp = tempfile::tempdir().unwrap();
        let mut bytes = vec![0u8; 3 << 20];
        bytes[1 << 20] = 1;
        let sparse = Kind::File { size: bytes.len() as u64, digest: None };
        let mut writer = TreeWriter::new(tmp.path(), &IdMap::default()).unwrap();
        let digest =
            writer.entry(&entry("s", sparse, 0o644), &mut bytes.as_slice()).unwrap().unwrap();
        assert_eq!(digest, Digest::of(&bytes));
        let meta = std::fs::metadata(tmp.path().join("s")).unwrap();
        assert_eq!(meta.len(), bytes.len() as u64);
        assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
        assert_eq!(std::fs::read(tmp.path().join("s")).unwrap(), bytes);
        for size in [1, 5] {
            let wrong = entry("w", Kind::File { size, digest: None }, 0o644);
            let error = writer.entry(&wrong, &mut b"abc".as_slice()).unwrap_err();
            assert!(matches!(error, Error::Size { .. }), "{error}");
        }
    }
}
