//! Compression of layers.

use std::io::{self, Read, Write};

/// How a layer's blob is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// One gzip member, made of independent blocks.
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
}

impl Compression {
    /// gzip at the level that measurement chose.
    pub const GZIP: Compression = Compression::Gzip { level: 4 };
    /// zstd at the level that measurement chose.
    pub const ZSTD: Compression = Compression::Zstd { level: 1 };

    /// Gives the OCI media type of a layer compressed like this.
    pub fn media_type(self) -> &'static str {
        match self {
            Compression::Gzip { .. } => "application/vnd.oci.image.layer.v1.tar+gzip",
            Compression::Zstd { .. } => "application/vnd.oci.image.layer.v1.tar+zstd",
            Compression::None => "application/vnd.oci.image.layer.v1.tar",
        }
    }
}

/// A compressed format that [`Decoder`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
}

impl Format {
    /// Tells the format by its first bytes (6 are enough).
    pub fn detect(_head: &[u8]) -> Option<Format> {
        todo!()
    }
}

/// Compresses what is written to it; the bytes do not depend on the number of threads.
pub struct Encoder<W: Write> {
    out: W,
}

impl<W: Write> Encoder<W> {
    /// Starts. Threads are spawned when the first block is full, not before.
    pub fn new(_out: W, _compression: Compression, _threads: usize) -> Encoder<W> {
        todo!()
    }

    /// Writes what is left and the trailer; gives the inner writer back. Without this call the
    /// output is not complete.
    pub fn finish(self) -> io::Result<W> {
        Ok(self.out)
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, _buf: &[u8]) -> io::Result<usize> {
        todo!()
    }

    fn flush(&mut self) -> io::Result<()> {
        todo!()
    }
}

/// Decompresses a stream whose format it tells by content.
pub struct Decoder<'a> {
    inner: Box<dyn Read + Send + 'a>,
    format: Option<Format>,
}

impl<'a> Decoder<'a> {
    /// Reads the first bytes and starts.
    pub fn new(_input: impl Read + Send + 'a) -> io::Result<Decoder<'a>> {
        todo!()
    }

    /// Makes reading of more than `bytes` decompressed bytes an error.
    pub fn limit(self, _bytes: u64) -> Decoder<'a> {
        todo!()
    }

    /// Gives the format found; None for a stream that is not compressed.
    pub fn format(&self) -> Option<Format> {
        self.format
    }
}

impl Read for Decoder<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf)
    }
}
