//! Tar archives as layers use them.

use std::io::{self, Read, Write};

use super::toc::{Entry, EntryRef};

/// Why a tar could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream below failed.
    #[error("cannot read the tar archive")]
    Io(#[from] io::Error),
}

/// Reads the entries of a tar stream.
pub struct Reader<R> {
    inner: R,
}

impl<R: Read> Reader<R> {
    /// Reads a layer: `.wh.` names become whiteouts.
    pub fn new(inner: R) -> Reader<R> {
        Reader { inner }
    }

    /// Reads an ordinary archive, as ADD does: `.wh.` names are refused.
    pub fn plain(inner: R) -> Reader<R> {
        Reader { inner }
    }

    /// Gives the next entry and a reader of its content; None at the end. What the caller leaves
    /// unread of the content is skipped.
    pub fn next_entry(&mut self) -> Result<Option<(Entry, Content<'_, R>)>, Error> {
        todo!()
    }

    /// Reads the rest of the stream, so that a digest below covers all of it, and gives it back.
    pub fn finish(self) -> Result<R, Error> {
        Ok(self.inner)
    }
}

/// The content of one entry, sparse files expanded.
pub struct Content<'a, R> {
    _reader: &'a mut Reader<R>,
}

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, _buf: &mut [u8]) -> io::Result<usize> {
        todo!()
    }
}

/// Writes a tar stream.
pub struct Writer<W> {
    inner: W,
}

impl<W: Write> Writer<W> {
    /// Starts an archive.
    pub fn new(inner: W) -> Writer<W> {
        Writer { inner }
    }

    /// Appends one entry. `content` must give exactly the bytes of a regular file; it is not read
    /// for other kinds.
    pub fn entry(&mut self, _entry: &EntryRef<'_>, _content: &mut dyn Read) -> Result<(), Error> {
        todo!()
    }

    /// Writes the end of the archive and gives the inner writer back.
    pub fn finish(self) -> Result<W, Error> {
        Ok(self.inner)
    }
}

/// Appends an entry given as [`Entry`].
impl<W: Write> Writer<W> {
    /// Like [`Writer::entry`].
    pub fn owned_entry(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), Error> {
        self.entry(&entry.as_ref(), content)
    }
}
