//! From entries to a directory.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::Error;
use crate::layer::{Entry, RootPath, Toc, tar};
use crate::oci::Digest;
use crate::sys::cred::IdMap;

/// Writes a layer's entries to a directory, in any order in which hard links come after what they
/// name.
#[derive(Debug)]
pub struct TreeWriter {}

impl TreeWriter {
    /// Starts in `dir`, which must be there and empty.
    pub fn new(_dir: &Path, _map: &IdMap) -> Result<TreeWriter, Error> {
        todo!()
    }

    /// Writes one entry; gives the digest of a regular file's content.
    pub fn entry(
        &mut self,
        _entry: &Entry,
        _content: &mut dyn Read,
    ) -> Result<Option<Digest>, Error> {
        todo!()
    }

    /// Ends the work: directories get their times.
    pub fn finish(self) -> Result<(), Error> {
        todo!()
    }
}

/// Unpacks a layer's tar into `dir`; gives its Toc with content digests.
pub fn unpack<R: Read>(_reader: tar::Reader<R>, _dir: &Path, _map: &IdMap) -> Result<Toc, Error> {
    todo!()
}

/// Reads files of a layer's directory.
#[derive(Debug)]
pub struct Contents {}

impl Contents {
    /// Opens the directory.
    pub fn open(_dir: &Path) -> Result<Contents, Error> {
        todo!()
    }

    /// Opens a regular file in it.
    pub fn file(&self, _path: &RootPath) -> Result<File, Error> {
        todo!()
    }
}
