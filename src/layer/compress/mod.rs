//! Compression of layers: parallel, and the same bytes for any number of threads.
//!
//! The data is cut into blocks of a fixed size, each compressed on its own by whichever worker is
//! free, and put together in order:
//! - **gzip**: one or more members a block (RFC 1952 section 2.2: a file is a series of members, as
//!   pigz, bgzip and eStargz write them). libdeflate compresses at zlib's ratio in about half of its
//!   time, and to the same bytes on every processor. Runs that a cheap sample shows to be
//!   incompressible are stored. Header fixed: no time, no name, OS unknown.
//! - **zstd**: a frame a block (RFC 8878 section 3: a decoder reads concatenated frames as one).
//! - **none**: the blocks as they are.
//! - **eStargz**: a gzip member for each piece of a file ([`super::pack`] says where they begin).
//!
//! Invariants:
//! - The bytes depend on the data, the format, the level and the versions of the compressors; never
//!   on threads, timing or how the data was cut into writes.
//! - No thread is started while everything fits into one block: the layers of most RUNs do.
//! - Blocks, queued or in work, take at most [`pipeline::BUDGET`] bytes; buffers are used again.
//!
//! Start reading at [`pipeline`] for the flow, [`block`] for the formats.

use std::collections::VecDeque;
use std::io::{self, Write};

pub(super) mod block;
mod decode;
pub(super) mod pipeline;

#[cfg(test)]
mod tests;

pub use decode::{Decoder, Format};
use pipeline::{Consumer, Pipeline, Slot};

/// How a layer's blob is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Compression {
    /// gzip members.
    Gzip {
        /// 1 to 9.
        level: u32,
    },
    /// zstd frames.
    Zstd {
        /// 1 to 22.
        level: i32,
    },
    /// The tar itself.
    None,
    /// gzip members that can be read one by one, with a table of them: see [`super::pack`].
    Estargz {
        /// 1 to 9.
        level: u32,
    },
}

impl Compression {
    /// gzip at the level that measurement chose: within 1 % of zlib's default on programs and sources, at
    /// twice its speed. (Level 1 takes two thirds of the time, for blobs that are 1 to 5 % larger; who
    /// wants speed takes zstd, which is three times as fast at about the same size.)
    pub const GZIP: Compression = Compression::Gzip { level: 3 };
    /// zstd at the level that measurement chose.
    pub const ZSTD: Compression = Compression::Zstd { level: 1 };
    /// eStargz at a level that makes up in part for members that begin with each file.
    pub const ESTARGZ: Compression = Compression::Estargz { level: 3 };

    /// Gives the OCI media type of a layer compressed like this.
    pub fn media_type(self) -> &'static str {
        match self {
            Compression::Gzip { .. } | Compression::Estargz { .. } => {
                "application/vnd.oci.image.layer.v1.tar+gzip"
            }
            Compression::Zstd { .. } => "application/vnd.oci.image.layer.v1.tar+zstd",
            Compression::None => "application/vnd.oci.image.layer.v1.tar",
        }
    }
}

/// Compresses what is written to it; the bytes do not depend on the number of threads.
///
/// Compressed data is written to the inner writer by the thread that writes to this one.
pub struct Encoder<W: Write> {
    pipeline: Pipeline,
    output: Local<W>,
}

/// Blocks in order, written by the caller's thread once there are enough of them to keep the workers
/// busy meanwhile.
struct Local<W> {
    queue: VecDeque<Slot>,
    compression: Compression,
    out: W,
    depth: usize,
}

impl<W: Write> Local<W> {
    fn drain(&mut self, keep: usize) -> io::Result<()> {
        while self.queue.len() > keep
            && let Some(slot) = self.queue.pop_front()
        {
            slot.wait()?.write(self.compression, &mut self.out)?;
        }
        Ok(())
    }
}

impl<W: Write> Consumer for Local<W> {
    fn take(&mut self, slot: Slot) -> io::Result<()> {
        self.queue.push_back(slot);
        self.drain(self.depth)
    }
}

impl<W: Write> Encoder<W> {
    /// Starts. Threads are spawned when the first block is full, not before. Not for eStargz, which
    /// is about entries ([`super::pack::convert`]).
    pub fn new(out: W, compression: Compression, threads: usize) -> Encoder<W> {
        debug_assert!(!matches!(compression, Compression::Estargz { .. }), "has entries");
        let pipeline = Pipeline::new(compression, threads);
        let depth = pipeline.depth();
        Encoder { pipeline, output: Local { queue: VecDeque::new(), compression, out, depth } }
    }

    /// Writes what is left; gives the inner writer back. Without this call the
    /// output is not complete.
    pub fn finish(mut self) -> io::Result<W> {
        self.pipeline.finish(&mut self.output)?;
        self.output.drain(0)?;
        Ok(self.output.out)
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.pipeline.write(data, &mut self.output)?;
        Ok(data.len())
    }

    /// Does nothing: a block is compressed when it is full, so that the bytes do not depend on it.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
