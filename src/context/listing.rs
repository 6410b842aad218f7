//! A listing: the Toc of a context and, beside each of its rows, what is needed to read files safely
//! and to remember their digests.
//!
//! Made in one pass over the walk's rows and the stat cache, both sorted by path. Xattrs cost a system
//! call a file, so they are read only where the stat cache does not know the file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::ignore::IgnoreRules;
use super::print::Print;
use super::walk::{self, Forest, Row};
use super::{Error, Result, stat};
use crate::layer::toc::{Xattrs, is_overlay_xattr};
use crate::layer::{EntryRef, KindRef, RootPath, Toc, TocBuilder};
use crate::oci::Digest;
use crate::sys::dir::FileKind;
use crate::sys::{Errno, xattr};

/// How long before the listing a file must have changed last for its print to be believed. Kernels
/// stamp files with a clock of 1 to 10 ms; network file systems add some skew.
const RACY_MARGIN: Duration = Duration::from_millis(100);

/// Bytes from which a stat cache is read by a thread of its own: some thousand files.
const LARGE: u64 = 1 << 18;

/// Batches of the stat cache that may wait to be used.
const BATCHES: usize = 16;

/// Rows that a thread takes at a time.
const BATCH: usize = 64;

/// See the module.
pub(super) struct Listing {
    pub(super) toc: Arc<Toc>,
    /// By row, like all that follows.
    pub(super) prints: Vec<Print>,
    digests: Mutex<Vec<[u8; 32]>>,
    racy: Bits,
    /// Sockets, which are listed as empty files.
    pub(super) sockets: Bits,
    /// Rows that are names of one file, for files with several names in the context.
    pub(super) links: Vec<Vec<usize>>,
    /// Leads from a row to its group in `links`.
    pub(super) group_of: BTreeMap<usize, usize>,
    /// Whether the stat cache would say more or other things now than it does on disk.
    outdated: Mutex<bool>,
}

/// A set of row numbers.
#[derive(Default)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    fn insert(&mut self, index: usize) {
        if self.0.len() <= index / 64 {
            self.0.resize(index / 64 + 1, 0);
        }
        self.0[index / 64] |= 1 << (index % 64);
    }

    pub(super) fn contains(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }
}

/// What no digest is.
const UNKNOWN: [u8; 32] = [0; 32];

/// Walks everything below `root` that the rules leave in.
pub(super) fn walk(root: BorrowedFd<'_>, rules: &IgnoreRules, threads: usize) -> Result<Forest> {
    let racy_from = SystemTime::now()
        .checked_sub(RACY_MARGIN)
        .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok())
        .map_or((0, 0), |age| (age.as_secs() as i64, age.subsec_nanos()));
    walk::walk(root, rules, racy_from, threads)
}

impl Listing {
    /// Lists what a walk below `root` found.
    pub(super) fn make(
        root: BorrowedFd<'_>,
        forest: Forest,
        stat_cache: Option<&Path>,
        threads: usize,
    ) -> Result<Listing> {
        let cache = stat_cache.and_then(|path| File::open(path).ok());
        std::thread::scope(|scope| {
            let cache = cache.map(|file| stat::Finder::new(records(scope, file)));
            Listing::join(root, forest, cache, threads)
        })
    }

    /// Puts what the walk found and what the stat cache knows together.
    fn join(
        root: BorrowedFd<'_>,
        forest: Forest,
        mut cache: Option<stat::Finder<impl Iterator<Item = stat::Batch>>>,
        threads: usize,
    ) -> Result<Listing> {
        let mut builder = TocBuilder::new();
        let mut prints = Vec::with_capacity(forest.rows);
        // Zeroes from the allocator are not in memory before they are written to.
        let mut digests = vec![UNKNOWN; forest.rows];
        let (mut racy, mut sockets) = (Bits::default(), Bits::default());
        let mut links: BTreeMap<(u64, u64), Vec<usize>> = BTreeMap::new();
        let mut missed: Vec<u32> = Vec::new();
        let (none, empty) = (Xattrs::new(), Digest::of(b""));
        let mut outdated = false;
        forest.read(|path, row| {
            let index = prints.len();
            prints.push(row.print);
            if row.racy {
                racy.insert(index);
            }
            if row.kind == FileKind::Socket {
                sockets.insert(index);
            }
            if let (Some(link), FileKind::File) = (row.link, row.kind) {
                links.entry(link).or_default().push(index);
            }
            let known = cache.as_mut().and_then(|cache| cache.find(path, row.print));
            match &known {
                Some(known) => {
                    if let Some(digest) = known.digest {
                        digests[index] = *digest.as_bytes();
                    }
                }
                None if may_have_xattrs(row.kind) => {
                    missed.push(index as u32);
                    outdated |= !row.racy;
                }
                None => {}
            }
            let kind = kind_of(row);
            if matches!(kind, KindRef::File { size: 0, .. }) {
                digests[index] = *empty.as_bytes();
            }
            builder.push_ref(&EntryRef {
                path,
                kind,
                mode: row.mode.into(),
                uid: 0,
                gid: 0,
                mtime: row.mtime,
                xattrs: known.map_or(&none, |known| known.xattrs),
            });
            Ok(())
        })?;
        outdated |= cache.is_some_and(|cache| !cache.all_found());
        // Excluded directories that hold nothing took room in the count.
        digests.truncate(prints.len());
        let mut toc = builder.finish();
        let found = read_xattrs(root, &toc, &missed, threads)?;
        if !found.is_empty() {
            toc = with_xattrs(&toc, &found);
        }
        links.retain(|_, rows| rows.len() > 1);
        let links: Vec<Vec<usize>> = links.into_values().collect();
        let group_of = links
            .iter()
            .enumerate()
            .flat_map(|(group, rows)| rows.iter().map(move |&row| (row, group)))
            .collect();
        Ok(Listing {
            toc: Arc::new(toc),
            prints,
            digests: Mutex::new(digests),
            racy,
            sockets,
            links,
            group_of,
            outdated: Mutex::new(outdated),
        })
    }

    /// Gives the digest of a row's content, if it is known.
    pub(super) fn digest(&self, row: usize) -> Option<Digest> {
        let digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        digests.get(row).filter(|digest| **digest != UNKNOWN).copied().map(Digest::from_bytes)
    }

    /// Keeps only those of some rows whose digest is not known.
    pub(super) fn retain_unknown(&self, rows: &mut Vec<usize>) {
        let digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        rows.retain(|&row| digests.get(row).is_some_and(|digest| *digest == UNKNOWN));
    }

    /// Keeps digests, for all names of the files.
    pub(super) fn set_digests(&self, found: &mut Vec<(usize, Digest)>) {
        let mut digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        let mut news = false;
        for (row, digest) in found.drain(..) {
            news |= !self.racy.contains(row);
            match self.group_of.get(&row) {
                Some(&group) => {
                    self.links[group].iter().for_each(|&row| digests[row] = *digest.as_bytes());
                }
                None => digests[row] = *digest.as_bytes(),
            }
        }
        *self.outdated.lock().unwrap_or_else(PoisonError::into_inner) |= news;
    }

    /// Writes the stat cache if it would differ from the one on disk.
    pub(super) fn save(&self, path: &Path, scratch: &Path) -> io::Result<()> {
        let mut outdated = self.outdated.lock().unwrap_or_else(PoisonError::into_inner);
        if !*outdated {
            return refresh(path);
        }
        let tmp = tempfile::Builder::new().prefix("stat-").tempfile_in(scratch)?;
        let mut writer = stat::Writer::new(BufWriter::with_capacity(1 << 18, tmp))?;
        let digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, entry) in self.toc.iter().enumerate() {
            let remembered = matches!(entry.kind, KindRef::File { .. } | KindRef::Dir);
            if !remembered || self.racy.contains(index) || self.sockets.contains(index) {
                continue;
            }
            let digest = digests[index];
            let digest = (digest != UNKNOWN).then(|| Digest::from_bytes(digest));
            writer.push(entry.path, self.prints[index], digest, entry.xattrs)?;
        }
        drop(digests);
        let tmp = writer.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        tmp.persist(path).map_err(|error| error.error)?;
        *outdated = false;
        Ok(())
    }
}

/// Reads a stat cache, a large one by a thread of its own: taking it apart costs as much as putting
/// it together with what was found.
fn records<'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    file: File,
) -> Box<dyn Iterator<Item = stat::Batch>> {
    let is_large = file.metadata().is_ok_and(|metadata| metadata.len() > LARGE);
    let reader = stat::Reader::new(BufReader::with_capacity(1 << 18, file));
    if !is_large {
        return Box::new(reader);
    }
    let (send, receive) = sync_channel(BATCHES);
    scope.spawn(move || {
        for batch in reader {
            // Whoever wanted it may have failed.
            if send.send(batch).is_err() {
                break;
            }
        }
    });
    Box::new(receive.into_iter())
}

/// Marks an unchanged stat cache as used, so that pruning by last use spares it. Once an hour is
/// exact enough.
pub(super) fn refresh(path: &Path) -> io::Result<()> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let age = SystemTime::now().duration_since(file.metadata()?.modified()?).unwrap_or_default();
    if age > Duration::from_secs(3600) {
        file.set_modified(SystemTime::now())?;
    }
    Ok(())
}

fn kind_of<'a>(row: &Row<'a>) -> KindRef<'a> {
    let (major, minor) = row.device;
    match row.kind {
        FileKind::File => KindRef::File { size: row.size, digest: None },
        // Nothing else can stand for a socket in a layer; BuildKit does the same.
        FileKind::Socket => KindRef::File { size: 0, digest: None },
        FileKind::Dir => KindRef::Dir,
        FileKind::Symlink => KindRef::Symlink(row.target),
        FileKind::Fifo => KindRef::Fifo,
        FileKind::CharDevice => KindRef::CharDevice { major, minor },
        FileKind::BlockDevice => KindRef::BlockDevice { major, minor },
    }
}

/// Only files and directories have `user.*` attributes, and only files have capabilities (xattr(7)).
fn may_have_xattrs(kind: FileKind) -> bool {
    matches!(kind, FileKind::File | FileKind::Dir)
}

/// Reads the xattrs of some rows (sorted), and gives those that have any.
fn read_xattrs(
    root: BorrowedFd<'_>,
    toc: &Toc,
    rows: &[u32],
    threads: usize,
) -> Result<BTreeMap<usize, Xattrs>> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<BTreeMap<usize, Xattrs>> {
        let mut found = BTreeMap::new();
        let mut dir: Option<(&[u8], OwnedFd)> = None;
        loop {
            let start = next.fetch_add(BATCH, Ordering::Relaxed);
            let Some(batch) = rows.get(start..rows.len().min(start + BATCH)) else { break };
            if batch.is_empty() {
                break;
            }
            for &row in batch {
                let entry = toc.at(row as usize);
                let name = entry.file_name();
                let parent = &entry.path[..entry.path.len().saturating_sub(name.len() + 1)];
                let fail = |source: crate::sys::Error| match source.errno {
                    Errno::NOENT | Errno::NOTDIR | Errno::LOOP => {
                        Error::Changed { path: entry.root_path() }
                    }
                    _ => Error::Read { path: entry.root_path(), source },
                };
                if dir.as_ref().is_none_or(|(open, _)| *open != parent) {
                    dir = Some((parent, walk::open_dir(root, parent).map_err(fail)?));
                }
                let Some((_, dir)) = &dir else { continue };
                let mut xattrs = xattr::get_all(dir.as_fd(), name).map_err(fail)?;
                xattrs.retain(|name, _| is_kept(name));
                if !xattrs.is_empty() {
                    found.insert(row as usize, xattrs);
                }
            }
        }
        Ok(found)
    };
    // Threads cost more than they save for a few rows.
    let threads = threads.clamp(1, rows.len() / BATCH + 1);
    let mut found = BTreeMap::new();
    std::thread::scope(|scope| -> Result<()> {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        found.extend(work()?);
        for other in others {
            found.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(())
    })?;
    Ok(found)
}

/// Says whether an xattr goes into images: those of users, and capabilities.
fn is_kept(name: &[u8]) -> bool {
    (name.starts_with(b"user.") && !is_overlay_xattr(name)) || name == b"security.capability"
}

/// Copies a Toc with more xattrs. Rare, so it may cost a second Toc for a moment.
fn with_xattrs(toc: &Toc, found: &BTreeMap<usize, Xattrs>) -> Toc {
    let mut builder = TocBuilder::new();
    for (index, entry) in toc.iter().enumerate() {
        let xattrs = found.get(&index).unwrap_or(entry.xattrs);
        builder.push_ref(&EntryRef { xattrs, ..entry });
    }
    builder.finish()
}

/// Finds the row of a path.
pub(super) fn row_of(toc: &Toc, path: &RootPath) -> Result<usize> {
    toc.index_of(path.as_bytes()).ok_or_else(|| Error::NotListed { path: path.clone() })
}
