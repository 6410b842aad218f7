//! Where the bytes of a layer's files are read from: a directory, the context, a heredoc, an
//! archive, another stage. One small trait, so that packing and materialising need not know.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use crate::context::Context;
use crate::layer::RootPath;
use crate::layer::toc::KindRef;
use crate::layer::tree::Tree;
use crate::snapshot::Contents;

use super::copy::Origins;

/// Opens files of one layer or file system by their path in it.
pub trait Files: Send + Sync {
    /// Opens the regular file at `path` (never a link).
    fn open(&self, path: &RootPath) -> io::Result<Box<dyn Read + Send>>;
}

/// A layer as a directory.
pub struct Directory(Contents);

impl Directory {
    /// Opens the directory.
    pub fn open(path: &Path) -> io::Result<Directory> {
        Contents::open(path).map(Directory).map_err(io::Error::other)
    }
}

impl Files for Directory {
    fn open(&self, path: &RootPath) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.0.file(path).map_err(io::Error::other)?))
    }
}

/// A build context.
pub struct ContextFiles(pub Arc<Context>);

impl Files for ContextFiles {
    fn open(&self, path: &RootPath) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.0.reader(path).map_err(io::Error::other)?))
    }
}

/// A stack of layers, seen as one.
pub struct Chain {
    /// The merged view.
    pub tree: Tree,
    /// One for each layer of the tree, bottom first.
    pub layers: Vec<Arc<dyn Files>>,
}

impl Files for Chain {
    fn open(&self, path: &RootPath) -> io::Result<Box<dyn Read + Send>> {
        let found = self.tree.lookup(path).ok_or_else(|| missing(path))?;
        let layer = self.layers.get(found.layer).ok_or_else(|| missing(path))?;
        match found.entry.kind {
            KindRef::Hardlink(target) => layer.open(&RootPath::clean(target)),
            _ => layer.open(path),
        }
    }
}

/// The files of a COPY or ADD.
pub struct Copied {
    /// Where each came from.
    pub origins: Origins,
    /// Heredocs by their path in the layer.
    pub inline: HashMap<RootPath, Arc<[u8]>>,
    /// Files out of archives by their path in the layer.
    pub extracted: Option<Arc<Spool>>,
    /// What was copied from, by the number of the input.
    pub sources: Vec<Arc<dyn Files>>,
}

impl Files for Copied {
    fn open(&self, path: &RootPath) -> io::Result<Box<dyn Read + Send>> {
        if let Some(bytes) = self.inline.get(path) {
            return Ok(Box::new(io::Cursor::new(bytes.clone())));
        }
        if let Some(spool) = &self.extracted
            && spool.holds(path)
        {
            return spool.open(path);
        }
        let (input, origin) = self.origins.origin_of(path).ok_or_else(|| missing(path))?;
        self.sources.get(input).ok_or_else(|| missing(path))?.open(&origin)
    }
}

fn missing(path: &RootPath) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{path}: no such file in the layer"))
}

/// Files kept one after the other in a single temporary file: what is needed of a packed layer or
/// an archive, without unpacking it.
pub struct Spool {
    file: Arc<File>,
    index: HashMap<RootPath, (u64, u64)>,
}

impl Spool {
    /// Says whether the file at `path` is in it.
    pub fn holds(&self, path: &RootPath) -> bool {
        self.index.contains_key(path)
    }
}

impl Files for Spool {
    fn open(&self, path: &RootPath) -> io::Result<Box<dyn Read + Send>> {
        let &(offset, len) = self.index.get(path).ok_or_else(|| missing(path))?;
        Ok(Box::new(Slice { file: self.file.clone(), offset, left: len }))
    }
}

/// Fills a [`Spool`].
pub struct SpoolWriter {
    file: File,
    end: u64,
    index: HashMap<RootPath, (u64, u64)>,
}

impl SpoolWriter {
    /// Starts one in a nameless temporary file under `dir`.
    pub fn new(dir: &std::path::Path) -> io::Result<SpoolWriter> {
        Ok(SpoolWriter { file: tempfile::tempfile_in(dir)?, end: 0, index: HashMap::new() })
    }

    /// Adds the file at `path`; one that was added before is replaced. Returns its size.
    pub fn add(&mut self, path: RootPath, content: &mut dyn Read) -> io::Result<u64> {
        self.file.seek(SeekFrom::Start(self.end))?;
        let len = io::copy(content, &mut self.file)?;
        self.index.insert(path, (self.end, len));
        self.end += len;
        Ok(len)
    }

    /// Ends it.
    pub fn finish(mut self) -> io::Result<Spool> {
        self.file.flush()?;
        Ok(Spool { file: Arc::new(self.file), index: self.index })
    }
}

struct Slice {
    file: Arc<File>,
    offset: u64,
    left: u64,
}

impl Read for Slice {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let got = self.file.read_at(&mut buffer[..want], self.offset)?;
        self.offset += got as u64;
        self.left -= got as u64;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spool_gives_back_what_it_was_given() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut writer = SpoolWriter::new(dir.path()).expect("a spool");
        writer.add("a".into(), &mut &b"one"[..]).expect("written");
        writer.add("b/c".into(), &mut &b""[..]).expect("written");
        writer.add("a".into(), &mut &b"two!"[..]).expect("written");
        let spool = writer.finish().expect("finished");
        let read = |path: &str| {
            let mut text = String::new();
            spool.open(&path.into()).expect("there").read_to_string(&mut text).expect("read");
            text
        };
        assert_eq!((read("a").as_str(), read("b/c").as_str()), ("two!", ""));
        assert!(spool.open(&"x".into()).is_err());
    }
}
