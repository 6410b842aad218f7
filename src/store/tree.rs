//! Layers that lie on disk as directories, usable as overlay lower directories.
//!
//! A tree is made in a [staging](Trees::staging) directory and renamed to its name when it is
//! complete. A mark beside it (`<layer>.used`) comes after it and goes before it: a tree without one
//! is absent, and the mark's time is the tree's last use. Mark and tree change together under a lock,
//! so a tree without a mark that is seen under it is what a killed process left.
//!
//! Owners on disk depend on the id map, so trees lie below a directory a map
//! ([`Store::set_id_map`]); another map's trees are absent.
//!
//! A tree that has a name is never emptied in place, since an overlay of another build may stand on
//! it: see [`Trees::discard`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{IoContext, Result, Store, TmpDir, age, remove, tmp};
use crate::layer::LayerId;
use crate::oci::Digest;

/// The lock under which trees come and go.
const LOCK: &str = "trees";

/// The trees of a store.
#[derive(Clone, Copy)]
pub struct Trees<'s> {
    store: &'s Store,
}

impl<'s> Trees<'s> {
    pub(super) fn new(store: &'s Store) -> Trees<'s> {
        Trees { store }
    }

    /// Gives the directory of a layer, and counts that as a use. None when there is none for the
    /// present id map.
    pub fn path(&self, layer: &LayerId) -> Option<PathBuf> {
        let place = self.place(layer);
        (age::touch(&mark_of(&place)).ok()? && place.is_dir()).then_some(place)
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
        let mark = mark_of(&place);
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent).at("create", parent)?;
        }
        let guard = self.store.locks().short(LOCK)?;
        if place.exists() {
            if mark.exists() {
                drop(guard);
                // What cannot go now goes with the process or with a sweep.
                let _ = remove::tree(staging);
                return Ok(place);
            }
            let grave = self.store.tmp().unique("grave")?;
            fs::rename(&place, &grave).at("move away", &place)?;
        }
        fs::rename(staging, &place).at("rename a tree to", &place)?;
        fs::write(&mark, "").at("create", &mark)?;
        Ok(place)
    }

    /// Takes a layer's tree away: because it is damaged, or to make room for another one of the same
    /// name. While other processes use the store, one of their overlays may stand on it; then its
    /// files stay in `tmp/` until the store is opened by somebody who is alone.
    pub fn discard(&self, layer: &LayerId) -> Result<()> {
        let place = self.place(layer);
        let grave = {
            let _guard = self.store.locks().short(LOCK)?;
            drop_mark(&mark_of(&place))?;
            match tmp::bury(self.store, &place) {
                Ok(grave) => grave,
                Err(error) if error.is_not_found() => return Ok(()),
                Err(error) => return Err(error),
            }
        };
        // Not an error: what stays is swept later.
        if self.store.tmp().oldest_other()?.is_none() {
            let _ = remove::tree(&grave);
        }
        Ok(())
    }

    /// Takes a tree away if it was not used since `cut`, and gives where its files are now. None when
    /// it was.
    pub(super) fn retire(
        store: &Store,
        place: &Path,
        cut: std::time::SystemTime,
    ) -> Result<Option<PathBuf>> {
        let _guard = store.locks().short(LOCK)?;
        let mark = mark_of(place);
        if !age::retire(&mark, cut).at("remove", &mark)? {
            return Ok(None);
        }
        let grave = store.tmp().unique("grave")?;
        fs::rename(place, &grave).at("move away", place)?;
        Ok(Some(grave))
    }

    /// Says when a tree was last used; None when it is not complete.
    pub(super) fn used(place: &Path) -> Option<std::time::SystemTime> {
        fs::metadata(mark_of(place)).ok()?.modified().ok()
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

fn mark_of(place: &Path) -> PathBuf {
    let mut name = place.as_os_str().to_owned();
    name.push(".used");
    name.into()
}

fn drop_mark(mark: &Path) -> Result<()> {
    match fs::remove_file(mark) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at("remove", mark),
        _ => Ok(()),
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
        assert!(!path.exists());
        store.trees().discard(&layer).unwrap();
    }

    #[test]
    fn a_tree_whose_install_was_cut_off_is_absent_and_replaced() {
        let (_dir, store) = scratch();
        let layer = LayerId::from_run_key(Digest::of(b"run"));
        let install = |content: &str| {
            let staging = store.trees().staging().unwrap();
            fs::write(staging.path().join("f"), content).unwrap();
            store.trees().install(staging.path(), &layer).unwrap()
        };
        let path = install("torn");
        fs::remove_file(mark_of(&path)).unwrap();
        assert_eq!(store.trees().path(&layer), None);
        assert_eq!(install("whole"), path);
        assert_eq!(fs::read(path.join("f")).unwrap(), b"whole");
        install("late");
        assert_eq!(fs::read(path.join("f")).unwrap(), b"whole");
    }

    #[test]
    fn a_tree_that_others_may_stand_on_keeps_its_files_until_they_are_gone() {
        let (_dir, store) = scratch();
        let layer = LayerId::from_run_key(Digest::of(b"run"));
        let staging = store.trees().staging().unwrap();
        fs::write(staging.path().join("f"), "x").unwrap();
        let path = store.trees().install(staging.path(), &layer).unwrap();
        // A handle on an open file shows whether it still has a name.
        let file = fs::File::open(path.join("f")).unwrap();
        let names = || std::os::unix::fs::MetadataExt::nlink(&file.metadata().unwrap());
        let other = Store::open(store.root()).unwrap();
        other.tmp().path().unwrap();
        store.trees().discard(&layer).unwrap();
        assert_eq!((store.trees().path(&layer), names()), (None, 1));
        Store::open(store.root()).unwrap();
        assert_eq!(names(), 1);
        drop(other);
        drop(staging);
        drop(Store::open(store.root()).unwrap());
        assert_eq!(names(), 1, "this process is alive too");
        let root = store.root().to_owned();
        drop(store);
        Store::open(&root).unwrap();
        assert_eq!(names(), 0);
    }
}
