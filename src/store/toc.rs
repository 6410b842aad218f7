//! Tables of contents of layers, by layer id: `toc/<layer>`.
//!
//! A Toc that was read or written stays in memory for as long as the store is open, so a build reads
//! each once. A file that cannot be read as a Toc (torn by a power cut, altered, of another version)
//! is absent: the layer is then made anew.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;

use super::{IoContext, Result, Store, age};
use crate::layer::{LayerId, Toc};

/// The tables of contents of a store.
#[derive(Clone, Copy)]
pub struct Tocs<'s> {
    store: &'s Store,
}

impl<'s> Tocs<'s> {
    pub(super) fn new(store: &'s Store) -> Tocs<'s> {
        Tocs { store }
    }

    /// Loads a layer's Toc, and counts that as a use. None when there is none, or none that is
    /// whole.
    pub fn load(&self, layer: &LayerId) -> Result<Option<Arc<Toc>>> {
        if let Some(toc) = super::lock(&self.store.inner.tocs).get(layer) {
            return Ok(Some(Arc::clone(toc)));
        }
        let path = self.path(layer);
        let Some(file) = age::claim(&path).at("open", &path)? else { return Ok(None) };
        let Ok(toc) = Toc::read_from(&mut BufReader::with_capacity(BUFFER, file)) else {
            return Ok(None);
        };
        let toc = Arc::new(toc);
        super::lock(&self.store.inner.tocs).insert(layer.clone(), Arc::clone(&toc));
        Ok(Some(toc))
    }

    /// Saves a layer's Toc.
    pub fn save(&self, layer: &LayerId, toc: &Arc<Toc>) -> Result<()> {
        let path = self.path(layer);
        let tmp = self.store.tmp().unique("toc")?;
        let written = File::create_new(&tmp)
            .and_then(|file| {
                let mut out = BufWriter::with_capacity(BUFFER, file);
                toc.write_to(&mut out)?;
                out.flush()
            })
            .at("write", &tmp)
            .and_then(|()| fs::rename(&tmp, &path).at("rename a table of contents to", &path));
        if written.is_err() {
            let _ = fs::remove_file(&tmp);
        } else {
            super::lock(&self.store.inner.tocs).insert(layer.clone(), Arc::clone(toc));
        }
        written
    }

    /// Reads a Toc without counting that as a use or keeping it, for [`super::fsck`].
    pub(super) fn peek(&self, layer: &LayerId) -> Option<Toc> {
        let file = File::open(self.path(layer)).ok()?;
        Toc::read_from(&mut BufReader::with_capacity(BUFFER, file)).ok()
    }

    pub(super) fn path(&self, layer: &LayerId) -> PathBuf {
        self.store.path("toc").join(layer.as_str())
    }
}

/// Large enough that a system call costs nothing beside the parsing.
const BUFFER: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::super::tests::scratch;
    use super::*;
    use crate::layer::{Entry, Kind};
    use crate::oci::Digest;

    fn toc() -> Arc<Toc> {
        let entry = Entry {
            path: "a/b".into(),
            kind: Kind::Symlink(b"c".to_vec()),
            mode: 0o777,
            uid: 1,
            gid: 2,
            mtime: 3,
            xattrs: Default::default(),
        };
        Arc::new(Toc::from_iter([entry]))
    }

    #[test]
    fn a_toc_comes_back_from_memory_and_from_disk() {
        let (_dir, store) = scratch();
        let layer = LayerId::from_run_key(Digest::of(b"run"));
        assert_eq!(store.tocs().load(&layer).unwrap(), None);
        store.tocs().save(&layer, &toc()).unwrap();
        assert_eq!(store.tocs().load(&layer).unwrap(), Some(toc()));
        let again = Store::open(store.root()).unwrap();
        assert_eq!(again.tocs().load(&layer).unwrap(), Some(toc()));
    }

    #[test]
    fn a_torn_toc_is_absent() {
        let (_dir, store) = scratch();
        let layer = LayerId::from_run_key(Digest::of(b"run"));
        store.tocs().save(&layer, &toc()).unwrap();
        let path = store.tocs().path(&layer);
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let again = Store::open(store.root()).unwrap();
            assert_eq!(again.tocs().load(&layer).unwrap(), None, "{length}");
        }
    }
}
