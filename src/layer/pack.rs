//! Packs a layer: Toc and contents → tar → digests and blob, each byte read once.
//!
//! The caller's thread reads contents and frames the tar. Everything else runs beside it once there
//! is more than one block: one thread digests the tar, the workers of [`super::compress`] compress,
//! one thread digests and writes the blob. A layer of one block is packed on the caller's thread
//! alone, to the same bytes. Whatever stops early stops all: threads end when the queues they read
//! are dropped, and none outlives the call.
//!
//! Start reading at [`pack`].

use std::io::{self, Read, Write};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};

use super::compress::Compression;
use super::compress::block::Member;
use super::compress::pipeline::{Block, Consumer, DIGEST_QUEUE, Pipeline, Slot};
use super::path::RootPath;
use super::tar;
use super::toc::{EntryRef, KindRef, Toc};
use crate::oci::digest::Hasher;
use crate::oci::{DiffId, Digest};

pub mod estargz;

use estargz::{Pieces, Table};

/// How to pack.
#[derive(Clone, Copy, Debug)]
pub struct PackOptions {
    /// The blob's format.
    pub compression: Compression,
    /// Threads that compress. Never changes the bytes.
    pub threads: usize,
    /// SOURCE_DATE_EPOCH: later mtimes become this one.
    pub epoch: Option<i64>,
}

/// What was packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// Digest of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// Bytes of the uncompressed tar.
    pub diff_size: u64,
    /// Digest of the table in an eStargz blob ([`Packed::annotations`]).
    pub toc_digest: Option<Digest>,
}

/// Why a layer could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The content of a file could not be opened or read.
    #[error("cannot read {path}")]
    Content {
        /// The file.
        path: RootPath,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is shorter or longer than its entry says.
    #[error("{path} changed while it was read: {expected} bytes were listed, it has {found}")]
    Changed {
        /// The file.
        path: RootPath,
        /// Size in the table of contents.
        expected: u64,
        /// What it has instead: `only 5` or `more`.
        found: String,
    },
    /// An entry that a tar cannot hold.
    #[error(transparent)]
    Tar(tar::Error),
    /// A tar that is packed anew could not be read.
    #[error("cannot read the layer's tar")]
    Read(#[source] tar::Error),
    /// An entry that the table of an eStargz blob cannot hold.
    #[error("{path} cannot be in an eStargz layer: {problem}")]
    Estargz {
        /// The entry.
        path: RootPath,
        /// Why.
        problem: String,
    },
    /// The blob could not be written.
    #[error("cannot write the layer's blob")]
    Write(#[source] io::Error),
}

impl From<tar::Error> for Error {
    fn from(error: tar::Error) -> Error {
        match error {
            tar::Error::Io(source) => Error::Write(source),
            tar::Error::Content { path, source } => Error::Content { path, source },
            tar::Error::Changed { path, expected, found } => {
                Error::Changed { path, expected, found }
            }
            error => Error::Tar(error),
        }
    }
}

/// Packs a layer and writes its blob to `out`. `content` opens the content of a regular file
/// (entries of kind `File` with a size above 0; other names of a hard link are never asked for).
pub fn pack<'c>(
    toc: &Toc,
    content: &mut dyn FnMut(&EntryRef<'_>) -> io::Result<Box<dyn Read + 'c>>,
    options: PackOptions,
    out: &mut (dyn Write + Send),
) -> Result<Packed, Error> {
    packed_by(options, out, |sink| {
        for index in toc.tar_order() {
            let mut entry = toc.at(index);
            if let Some(epoch) = options.epoch {
                entry.mtime = entry.mtime.min(epoch);
            }
            match entry.kind {
                KindRef::File { size, .. } if size > 0 => {
                    let mut file = content(&entry)
                        .map_err(|source| Error::Content { path: entry.root_path(), source })?;
                    sink.entry(&entry, &mut file)?;
                }
                _ => sink.entry(&entry, &mut io::empty())?,
            }
        }
        Ok(())
    })
}

/// Packs the entries that `frame` gives.
fn packed_by(
    options: PackOptions,
    out: &mut (dyn Write + Send),
    frame: impl FnOnce(&mut Framing<'_, '_>) -> Result<(), Error>,
) -> Result<Packed, Error> {
    thread::scope(|scope| {
        let line = Line::new(scope, out, options);
        let failure = line.failure.clone();
        // Dropping the line ends its threads, which the scope waits for.
        let packed = Framing::new(line, options.compression).and_then(|mut framing| {
            frame(&mut framing)?;
            framing.finish()
        });
        // A writer that failed shows here as a queue nobody reads: report the cause.
        packed.map_err(|error| match (error, take(&failure)) {
            (Error::Write(_), Some(cause)) => Error::Write(cause),
            (error, _) => error,
        })
    })
}

/// Entries on their way into the tar.
struct Framing<'scope, 'env> {
    writer: tar::Writer<Line<'scope, 'env>>,
    /// For eStargz.
    table: Option<(Table, u32)>,
}

impl<'scope, 'env> Framing<'scope, 'env> {
    fn new(
        line: Line<'scope, 'env>,
        compression: Compression,
    ) -> Result<Framing<'scope, 'env>, Error> {
        let mut writer = tar::Writer::new(line);
        let table = match compression {
            Compression::Estargz { level } => Some((Table::new(&mut writer)?, level)),
            _ => None,
        };
        Ok(Framing { writer, table })
    }

    fn entry(&mut self, entry: &EntryRef<'_>, content: &mut dyn Read) -> Result<(), Error> {
        match &mut self.table {
            Some((table, _)) => table.entry(&mut self.writer, entry, content),
            None => Ok(self.writer.entry(entry, content)?),
        }
    }

    fn finish(self) -> Result<Packed, Error> {
        match self.table {
            Some((table, level)) => table.finish(self.writer.into_inner(), level),
            None => self.writer.finish()?.finish(),
        }
    }
}

type Failure = Arc<Mutex<Option<io::Error>>>;

fn take(failure: &Failure) -> Option<io::Error> {
    failure.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// The tar stream's way to the blob: counts it, has it digested and compressed.
struct Line<'scope, 'env> {
    pipeline: Pipeline,
    ends: Ends<'scope, 'env>,
    diff_size: u64,
    pieces: Pieces,
    failure: Failure,
}

impl<'scope, 'env> Line<'scope, 'env> {
    fn new(
        scope: &'scope Scope<'scope, 'env>,
        out: &'env mut (dyn Write + Send),
        options: PackOptions,
    ) -> Line<'scope, 'env> {
        let pipeline = Pipeline::new(options.compression, options.threads);
        let failure = Failure::default();
        let ends = Ends {
            scope,
            compression: options.compression,
            depth: pipeline.depth(),
            out: Some(out),
            running: None,
            ended: None,
            failure: failure.clone(),
        };
        Line { pipeline, ends, diff_size: 0, pieces: Pieces::default(), failure }
    }

    /// Says that the content of a file comes next, of so many bytes.
    fn begin(&mut self, size: u64) {
        self.pieces.begin(size);
    }

    /// Waits until everything is written.
    fn end(mut self) -> Result<Ended<'env>, Error> {
        self.pipeline.finish(&mut self.ends).map_err(Error::Write)?;
        let ended = match self.ends.running.take() {
            Some(running) => running.join(),
            None => self.ends.ended.take(),
        };
        ended.ok_or_else(|| Error::Write(broken()))
    }

    fn finish(self) -> Result<Packed, Error> {
        let diff_size = self.diff_size;
        let (diff, digest, size) = self.end()?.finish();
        Ok(Packed { diff_id: DiffId(diff), digest, size, diff_size, toc_digest: None })
    }
}

impl Write for Line<'_, '_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut rest = data;
        while !rest.is_empty() {
            if let Some(piece) = self.pieces.starting() {
                self.pipeline.member(piece, &mut self.ends)?;
            }
            let now;
            (now, rest) = self.pieces.take(rest);
            self.pipeline.write(now, &mut self.ends)?;
        }
        self.diff_size += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What blocks go to in order: two threads once there is more than one block, one digesting the tar,
/// one digesting and writing the blob.
struct Ends<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    compression: Compression,
    depth: usize,
    /// Taken by whoever writes.
    out: Option<&'env mut (dyn Write + Send)>,
    running: Option<Running<'scope, 'env>>,
    /// The result where no thread was needed.
    ended: Option<Ended<'env>>,
    failure: Failure,
}

/// The tar and the blob when all blocks are written: more may follow.
struct Ended<'env> {
    diff: Hasher,
    blob: Digesting<'env>,
    /// Where the pieces of files are in the blob.
    members: Vec<Member>,
}

impl Ended<'_> {
    /// Gives the digests of the tar and of the blob, and the blob's size.
    fn finish(self) -> (Digest, Digest, u64) {
        let diff = self.diff.finish();
        (diff, self.blob.hasher.map_or(diff, Hasher::finish), self.blob.size)
    }
}

impl<'scope, 'env> Ends<'scope, 'env> {
    fn start(&mut self) -> io::Result<Running<'scope, 'env>> {
        let out = self.out.take().ok_or_else(broken)?;
        let (slots, slot_queue) = mpsc::sync_channel::<Slot>(self.depth);
        let (blocks, block_queue) = mpsc::sync_channel::<Arc<Block>>(DIGEST_QUEUE);
        let (compression, failure) = (self.compression, self.failure.clone());
        let blob = thread::Builder::new().name("write".to_owned());
        let blob = blob.spawn_scoped(self.scope, move || {
            let written = write_blob(compression, slot_queue.into_iter(), out);
            written
                .map_err(|error| {
                    *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                })
                .ok()
        })?;
        let diff = thread::Builder::new().name("digest".to_owned());
        let diff = diff.spawn_scoped(self.scope, move || {
            let mut hasher = Hasher::new();
            block_queue.into_iter().for_each(|block| hasher.update(block.data()));
            hasher
        })?;
        Ok(Running { slots, blocks, blob, diff })
    }
}

impl Consumer for Ends<'_, '_> {
    fn take(&mut self, slot: Slot) -> io::Result<()> {
        if self.running.is_none() {
            self.running = Some(self.start()?);
        }
        let running = self.running.as_ref().ok_or_else(broken)?;
        running.blocks.send(slot.block().clone()).map_err(|_| broken())?;
        running.slots.send(slot).map_err(|_| broken())
    }

    fn only(&mut self, slot: Slot) -> io::Result<()> {
        let out = self.out.take().ok_or_else(broken)?;
        let mut diff = Hasher::new();
        diff.update(slot.block().data());
        let (blob, members) = write_blob(self.compression, std::iter::once(slot), out)?;
        self.ended = Some(Ended { diff, blob, members });
        Ok(())
    }
}

struct Running<'scope, 'env> {
    slots: SyncSender<Slot>,
    blocks: SyncSender<Arc<Block>>,
    blob: ScopedJoinHandle<'scope, Option<Written<'env>>>,
    diff: ScopedJoinHandle<'scope, Hasher>,
}

impl<'env> Running<'_, 'env> {
    /// Waits for the end; None when a thread failed.
    fn join(self) -> Option<Ended<'env>> {
        drop((self.slots, self.blocks));
        let blob = self.blob.join().ok().flatten();
        let diff = self.diff.join().ok()?;
        blob.map(|(blob, members)| Ended { diff, blob, members })
    }
}

/// The blob, and where its members are.
type Written<'env> = (Digesting<'env>, Vec<Member>);

/// Writes the blob, which has no digest of its own where it is the tar itself.
fn write_blob<'env>(
    compression: Compression,
    slots: impl Iterator<Item = Slot>,
    out: &'env mut (dyn Write + Send),
) -> io::Result<Written<'env>> {
    let hasher = (compression != Compression::None).then(Hasher::new);
    let mut out = Digesting { out, hasher, size: 0 };
    let mut members = Vec::new();
    for slot in slots {
        let done = slot.wait()?;
        let place = |member: &Member| Member { offset: out.size + member.offset, ..*member };
        members.extend(done.members().iter().map(place));
        done.write(compression, &mut out)?;
    }
    out.out.flush()?;
    Ok((out, members))
}

struct Digesting<'a> {
    out: &'a mut (dyn Write + Send),
    hasher: Option<Hasher>,
    size: u64,
}

impl Write for Digesting<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.out.write_all(data)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(data);
        }
        self.size += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Stands for an error that another thread knows.
fn broken() -> io::Error {
    io::Error::from(io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests;
