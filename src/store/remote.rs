//! What was fetched from other machines: downloaded files and mirrors of Git repositories.
//!
//! One directory each, below `remotes/`, by a key that the caller computes from where it came from.
//! Its record `about.json` says what is known of it, and its time is the last use. A directory
//! appears whole, and is replaced by being moved away: who has it open goes on with the old one.
//! A mirror is changed in place, by `git`, under the [lock](Remotes::lock) of its key.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Guard, IoContext, Result, Store, TmpDir, age, record, tmp};
use crate::oci::Digest;

/// The record's name in the directory.
pub(super) const ABOUT: &str = "about.json";

/// The lock on changes of the directory of directories.
const LOCK: &str = "remotes";

/// What is known of something that was fetched.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RemoteRecord {
    /// Where it came from, without credentials, for people.
    pub source: String,
    /// A downloaded file's content; None for a mirror.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Digest>,
    /// Its other digests, by algorithm, as far as somebody asked for them.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub digests: std::collections::BTreeMap<String, String>,
    /// Its name in the directory `root`.
    #[serde(default)]
    pub name: String,
    /// Its size in bytes.
    #[serde(default)]
    pub size: u64,
    /// Its modification time, seconds since 1970.
    #[serde(default)]
    pub modified: i64,
    /// `ETag`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// `Last-Modified` as the server wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<String>,
}

/// What was fetched from other machines.
#[derive(Clone, Copy)]
pub struct Remotes<'s> {
    store: &'s Store,
}

impl<'s> Remotes<'s> {
    pub(super) fn new(store: &'s Store) -> Remotes<'s> {
        Remotes { store }
    }

    /// Gives the record and the directory of a key, and counts that as a use.
    pub fn get(&self, key: &Digest) -> Option<(RemoteRecord, PathBuf)> {
        let dir = self.path(key);
        let record = record::read(&dir.join(ABOUT))?;
        Some((record, dir))
    }

    /// Makes an empty directory to fill and [`Remotes::put`].
    pub fn staging(&self) -> Result<TmpDir> {
        self.store.tmp().dir("remote")
    }

    /// Puts a directory in the place of a key.
    pub fn put(&self, key: &Digest, staged: TmpDir, about: &RemoteRecord) -> Result<PathBuf> {
        let parent = self.store.path("remotes");
        fs::create_dir_all(&parent).at("create", &parent)?;
        record::write(self.store, &staged.path().join(ABOUT), about)?;
        let dir = self.path(key);
        let _lock = self.store.locks().short(LOCK)?;
        if dir.exists() {
            tmp::bury(self.store, &dir)?;
        }
        fs::rename(staged.path(), &dir).at("rename a directory to", &dir)?;
        let _: PathBuf = staged.keep();
        Ok(dir)
    }

    /// Changes the record of a key.
    pub fn note(&self, key: &Digest, about: &RemoteRecord) -> Result<()> {
        record::write(self.store, &self.path(key).join(ABOUT), about)
    }

    /// Takes the lock on fetching a key; `cancelled` is asked between tries.
    pub fn lock(&self, key: &Digest, cancelled: &dyn Fn() -> bool) -> Result<Guard> {
        self.store.locks().step(key, cancelled)
    }

    fn path(&self, key: &Digest) -> PathBuf {
        self.store.path("remotes").join(key.hex())
    }
}

/// Moves a directory away unless it was used at or after `cut`. Says whether it went, and where to.
pub(super) fn retire(
    store: &Store,
    dir: &Path,
    cut: std::time::SystemTime,
) -> Result<Option<PathBuf>> {
    // Else a new one might come to its place in between, and be moved away instead.
    let _lock = store.locks().short(LOCK)?;
    let about = dir.join(ABOUT);
    if !age::retire(&about, cut).at("remove", &about)? {
        return Ok(None);
    }
    tmp::bury(store, dir).map(Some)
}

/// Gives the time of the last use of a directory; None when it has no record.
pub(super) fn used(dir: &Path) -> io::Result<std::time::SystemTime> {
    fs::metadata(dir.join(ABOUT))?.modified()
}

#[cfg(test)]
mod tests {
    use super::super::tests::scratch;
    use super::super::{PruneOptions, prune};
    use super::*;

    fn put(store: &Store, key: &Digest, text: &str) -> PathBuf {
        let staged = store.remotes().staging().unwrap();
        fs::create_dir(staged.path().join("root")).unwrap();
        fs::write(staged.path().join("root/f"), text).unwrap();
        let about = RemoteRecord { name: text.into(), ..RemoteRecord::default() };
        store.remotes().put(key, staged, &about).unwrap()
    }

    #[test]
    fn the_last_one_put_is_found_whole() {
        let (_dir, store) = scratch();
        let key = Digest::of(b"url");
        assert!(store.remotes().get(&key).is_none());
        for text in ["one", "two"] {
            let dir = put(&store, &key, text);
            let (about, found) = store.remotes().get(&key).unwrap();
            assert_eq!((about.name.as_str(), &found), (text, &dir));
            assert_eq!(fs::read_to_string(found.join("root/f")).unwrap(), text);
        }
    }

    #[test]
    fn a_prune_takes_what_was_fetched() {
        let (_dir, store) = scratch();
        let key = Digest::of(b"url");
        let dir = put(&store, &key, "one");
        let pruned = prune(&store, &PruneOptions::default()).unwrap();
        assert!(!dir.exists(), "{pruned:?}");
        assert_eq!(pruned.removed[&super::super::Category::Contexts].count, 1);
        assert!(pruned.failed.is_empty(), "{pruned:?}");
    }
}
