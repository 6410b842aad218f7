//! Reading contents: digests on several threads, and readers that notice a change.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::listing::Listing;
use super::print::Print;
use super::{Error, Result, walk};
use crate::layer::{KindRef, RootPath};
use crate::oci::Digest;
use crate::oci::digest::Hasher;
use crate::sys::{Errno, dir};

/// Files that a thread takes at a time.
const BATCH: usize = 16;

/// Bytes that are read at a time; they stay in the second-level cache until they are hashed.
const BUFFER: usize = 256 * 1024;

/// Reads the files among some rows whose digests are not known.
pub(super) fn read(
    root: BorrowedFd<'_>,
    listing: &Listing,
    rows: impl IntoIterator<Item = usize>,
    threads: usize,
) -> Result<()> {
    let mut todo: Vec<usize> = rows
        .into_iter()
        .filter(|&row| {
            row < listing.toc.len() && matches!(listing.toc.at(row).kind, KindRef::File { .. })
        })
        // Of the names of one file, the first is read.
        .map(|row| listing.group_of.get(&row).map_or(row, |&group| listing.links[group][0]))
        .collect();
    listing.retain_unknown(&mut todo);
    todo.sort_unstable();
    todo.dedup();

    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || -> Result<()> {
        let mut buffer = vec![0; BUFFER];
        let mut found = Vec::with_capacity(BATCH);
        while !failed.load(Ordering::Relaxed) {
            let start = next.fetch_add(BATCH, Ordering::Relaxed).min(todo.len());
            let batch = &todo[start..todo.len().min(start + BATCH)];
            if batch.is_empty() {
                break;
            }
            for &row in batch {
                match digest(root, listing, row, &mut buffer) {
                    Ok(digest) => found.push((row, digest)),
                    Err(error) => {
                        failed.store(true, Ordering::Relaxed);
                        return Err(error);
                    }
                }
            }
            listing.set_digests(&mut found);
        }
        Ok(())
    };
    // Threads cost more than they save for a few files.
    let threads = threads.clamp(1, todo.len() / BATCH + 1);
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut result = work();
        for other in others {
            let other = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result = result.and(other);
        }
        result
    })
}

fn digest(
    root: BorrowedFd<'_>,
    listing: &Listing,
    row: usize,
    buffer: &mut [u8],
) -> Result<Digest> {
    let mut reader = reader(root, listing, row)?;
    let mut hasher = Hasher::new();
    loop {
        match reader.pull(buffer)? {
            0 => return Ok(hasher.finish()),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// Opens the file of a row, if it is still the same.
pub(super) fn open(root: BorrowedFd<'_>, listing: &Listing, row: usize) -> Result<File> {
    let entry = listing.toc.at(row);
    let path = || entry.root_path();
    if !matches!(entry.kind, KindRef::File { .. }) || listing.sockets.contains(row) {
        return Err(Error::NotAFile { path: path() });
    }
    let fail = |source: crate::sys::Error| match source.errno {
        // Gone, or something else has its name or that of a directory above.
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::NODEV => {
            Error::Changed { path: path() }
        }
        _ => Error::Read { path: path(), source },
    };
    let name = entry.file_name();
    let file = if entry.path.len() < walk::LONGEST {
        dir::open_beneath(root, entry.path).map_err(fail)?
    } else {
        let parent = &entry.path[..entry.path.len().saturating_sub(name.len() + 1)];
        let parent = walk::open_dir(root, parent).map_err(fail)?;
        dir::openat_nofollow(parent.as_fd(), name).map_err(fail)?
    };
    let stat = dir::fstat(file.as_fd()).map_err(fail)?;
    if Print::of(&stat) != listing.prints[row] {
        return Err(Error::Changed { path: path() });
    }
    Ok(file)
}

/// Opens the file of a row for reading it whole.
pub(super) fn reader(root: BorrowedFd<'_>, listing: &Listing, row: usize) -> Result<Reader> {
    let entry = listing.toc.at(row);
    let KindRef::File { size, .. } = entry.kind else {
        return Err(Error::NotAFile { path: entry.root_path() });
    };
    let file = match listing.sockets.contains(row) {
        true => None,
        false => Some(open(root, listing, row)?),
    };
    Ok(Reader { file, path: entry.root_path(), print: listing.prints[row], left: size })
}

/// Reads a file of the context, and makes sure at its end that it did not change meanwhile.
#[derive(Debug)]
pub struct Reader {
    /// None: nothing is left to read.
    file: Option<File>,
    path: RootPath,
    print: Print,
    left: u64,
}

impl Reader {
    /// Like read, with an error of this module.
    fn pull(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let Some(file) = &mut self.file else { return Ok(0) };
        let changed = || Error::Changed { path: self.path.clone() };
        if self.left > 0 {
            let most =
                usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
            let count = loop {
                match file.read(&mut buffer[..most]) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(source) => return Err(Error::Content { path: self.path.clone(), source }),
                    Ok(count) => break count,
                }
            };
            if count == 0 && most > 0 {
                return Err(changed());
            }
            self.left -= count as u64;
            return Ok(count);
        }
        // All there was. A file that grew has another size now.
        let stat = dir::fstat(file.as_fd())
            .map_err(|source| Error::Read { path: self.path.clone(), source })?;
        if Print::of(&stat) != self.print {
            return Err(changed());
        }
        self.file = None;
        Ok(0)
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        self.pull(buffer).map_err(io::Error::other)
    }
}
