//! Packs a layer: Toc and contents → tar → digests and blob.

use std::io::{self, Read, Write};

use super::compress::Compression;
use super::path::RootPath;
use super::tar;
use super::toc::{EntryRef, Toc};
use crate::oci::{DiffId, Digest};

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
    #[error("{path} changed while it was read: {expected} bytes were listed, {found}")]
    Changed {
        /// The file.
        path: RootPath,
        /// Size in the table of contents.
        expected: u64,
        /// What was found instead.
        found: String,
    },
    /// An entry that a tar cannot hold.
    #[error(transparent)]
    Tar(#[from] tar::Error),
    /// The blob could not be written.
    #[error("cannot write the layer's blob")]
    Write(#[source] io::Error),
}

/// Packs a layer and writes its blob to `out`. `content` opens the content of a regular file
/// (entries of kind `File` with a size above 0; other names of a hard link are never asked for).
pub fn pack<'c>(
    _toc: &Toc,
    _content: &mut dyn FnMut(&EntryRef<'_>) -> io::Result<Box<dyn Read + 'c>>,
    _options: PackOptions,
    _out: &mut (dyn Write + Send),
) -> Result<Packed, Error> {
    todo!()
}
