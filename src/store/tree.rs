//! Layers that lie on disk as directories, usable as overlay lower directories.
//!
//! A tree is made in a [staging](Trees::staging) directory and renamed to its name when it is
//! complete, so whatever has a name is complete. Owners on disk depend on the id map, so trees lie
//! below a directory a map ([`Store::set_id_map`]); another map's trees are absent.
//!
//! A tree means nothing without its Toc, which is written first; its last use is the Toc's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{IoContext, Result, Store, TmpDir, remove};
use crate::layer::LayerId;
use crate::oci::Digest;

/// The trees of a store.
#[derive(Clone, Copy)]
pub struct Trees<'s> {
    store: &'s Store,
}

impl<'s> Trees<'s> {
    pub(super) fn new(store: &'s Store) -> Trees<'s> {
        Trees { store }
    }

    /// Gives the directory of a layer; None when there is none for the present id map.
    pub fn path(&self, layer: &LayerId) -> Option<PathBuf> {
        let path = self.place(layer);
        path.is_dir().then_some(path)
    }

    /// Makes a directory to build a tree in, on the same file system. It goes when the handle is
    /// dropped.
    pub fn staging(&self) -> Result<TmpDir> {
        self.store.tmp().dir("tree")
    }

    /// Gives a complete tree its name. When another process was faster, the two are equal, and the
    /// new one is removed.
    pub fn install(&self, staging: &Path, layer: &LayerId) -> Result<PathBuf> {
        let place = self.place(layer);
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent).at("create", parent)?;
        }
        match fs::rename(staging, &place) {
            Ok(()) => Ok(place),
            // rename(2) replaces an empty directory and refuses any other.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                ) =>
            {
                // What cannot go now goes with the process or with a sweep.
                let _ = remove::tree(staging);
                Ok(place)
            }
            Err(source) => Err(source).at("rename a tree to", &place),
        }
    }

    /// Takes a layer's tree away, say because it is damaged.
    pub fn discard(&self, layer: &LayerId) -> Result<()> {
        let place = self.place(layer);
        let grave = self.store.tmp().unique("grave")?;
        match fs::rename(&place, &grave) {
            Ok(()) => remove::tree(&grave).at("remove", &grave),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(source).at("move away", &place),
        }
    }

    fn place(&self, layer: &LayerId) -> PathBuf {
        let map = Digest::of(super::lock(&self.store.inner.id_map).as_bytes()).hex();
        let mut path = self.store.path("trees");
        // 12 digits tell the few maps of one machine apart.
        path.push(&map[..12]);
        path.push(layer.as_str());
        path
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::scratch;
    use super::*;

    #[test]
    fn a_tree_appears_whole_and_for_its_map_only() {
        let (_dir, store) = scratch();
        let layer = LayerId::from_run_key(Digest::of(b"run"));
        let staging = store.trees().staging().unwrap();
        fs::write(staging.path().join("f"), "x").unwrap();
        assert_eq!(store.trees().path(&layer), None);
        let path = store.trees().install(staging.path(), &layer).unwrap();
        assert_eq!(store.trees().path(&layer), Some(path.clone()));
        assert!(path.join("f").exists());

        let late = store.trees().staging().unwrap();
        fs::write(late.path().join("f"), "x").unwrap();
        assert_eq!(store.trees().install(late.path(), &layer).unwrap(), path);
        assert!(!late.path().exists());

        store.set_id_map("0 1000 1");
        assert_eq!(store.trees().path(&layer), None);
        store.set_id_map("none");
        store.trees().discard(&layer).unwrap();
        assert_eq!(store.trees().path(&layer), None);
    }
}
