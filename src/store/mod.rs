//! The store: everything lapstrake keeps on disk between builds.
//!
//! ```text
//! format         the version of this shape, written last when a store is made
//! layout/        an OCI image layout: oci-layout, index.json, blobs/sha256/…
//! toc/           tables of contents, by layer
//! trees/<map>/   layers as directories, by id map and layer
//! steps/         what a step made, by key; steps/at/ leads from a place in a Dockerfile to a key
//! packs/         which blob a layer was packed into, by layer and packing parameters
//! mounts/        cache mounts, by identity
//! remotes/       downloaded files and mirrors of Git repositories, by where they came from
//! stat/          stat caches of contexts and answers about them, by context directory
//! reserve        room for the small writes without which nothing can be removed on a full disk
//! locks/         lock files; a lock belongs to a process and dies with it
//! tmp/           work in progress: one directory a process, swept when its process is gone
//! ```
//!
//! # Model
//!
//! A layer is a Toc and bytes; the Toc is the part that must exist. Everything but the layout and
//! the cache mounts can be made again from inputs, so anything unreadable is treated as absent.
//!
//! # Invariants
//!
//! - Every file and directory appears whole: it is made below `tmp/` and renamed. A kill or a full
//!   disk at any moment leaves the old state or the new one, and garbage only in `tmp/`.
//! - A record (step, pack) ends in the digest of its own text. A torn or altered one is a miss.
//! - Blobs are hashed while they are written. A blob's name is always the digest of its bytes.
//! - Last use is the modification time of a file ([`age`] says how exact it is), so reading needs no
//!   second file and pruning needs no database.
//! - No fsync: after a power cut, [`fsck`](fsck()) finds what the file system lost.
//! - The store never looks at the environment and never prints.
//!
//! Start reading at [`Store::open`], then [`blob`] and [`gc`].

pub mod age;
pub mod blob;
pub mod fsck;
pub mod gc;
pub mod image;
pub mod lock;
mod mark;
pub mod mount;
pub mod pack;
mod record;
pub mod remote;
mod remove;
pub mod step;
pub mod tmp;
pub mod toc;
pub mod tree;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::layer::{LayerId, Toc};
use crate::oci::Digest;

pub use blob::{BlobWriter, Blobs};
pub use fsck::{Finding, FsckOptions, fsck};
pub use gc::{Amount, Category, PruneOptions, Pruned, prune, usage};
pub use image::Images;
pub use lock::{Guard, Locks};
pub use mount::{MountGuard, MountId, Mounts, Sharing};
pub use pack::{Filing, PackParams, PackRecord, Packs};
pub use remote::{RemoteRecord, Remotes};
pub use step::{Difference, StepRecord, Steps};
pub use tmp::{Tmp, TmpDir};
pub use toc::Tocs;
pub use tree::Trees;

/// The version of the shape on disk. A store of another version is not touched.
const FORMAT: &str = "1";

/// Files of the reserve: as many inodes as a prune takes, with one to spare.
const RESERVES: u32 = 6;

/// Bytes of each. Together an index.json of some 500 images.
const RESERVE: usize = 40 * 1024;

/// Lock files that must be there even when no file can be made any more.
const LOCK_FILES: [&str; 4] = ["builds", "index", "prune", "trees"];

/// What can go wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was attempted: a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The store was made by another version.
    #[error(
        "the store {} has format {found:?}, this version reads {FORMAT:?}; choose another with --root",
        path.display()
    )]
    Format {
        /// The store's root.
        path: PathBuf,
        /// What its `format` file says.
        found: String,
    },
    /// Content that came in is not what its descriptor promised.
    #[error("content has digest {found}, expected {expected}")]
    DigestMismatch {
        /// What was promised.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// Content that came in is shorter or longer than promised.
    #[error("content of {digest} has {found} bytes, expected {expected}")]
    SizeMismatch {
        /// Which content.
        digest: Digest,
        /// What was promised.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// A blob that is not in the store.
    #[error("blob {0} is not in the store")]
    NoBlob(Digest),
    /// A file of the store does not hold what it must.
    #[error("{} is damaged: {reason}; `lapstrake fsck --repair` mends the store", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The wait for a lock was given up because the build is cancelled.
    #[error("cancelled while waiting for {what}")]
    Cancelled {
        /// What the lock stands for.
        what: String,
    },
}

impl Error {
    /// Says whether there is no room on the disk, or none left for this user.
    pub fn is_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        let Error::Io { source, .. } = self else { return false };
        matches!(source.kind(), StorageFull | QuotaExceeded)
    }

    /// Says whether something was not there.
    fn is_not_found(&self) -> bool {
        matches!(self, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Short for results of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Adds what was attempted to an [`io::Error`].
pub(crate) trait IoContext<T> {
    /// Says what was attempted on which path.
    fn at(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io { action, path: path.to_owned(), source })
    }
}

/// A store on disk. Cheap to clone; may be used from several threads and processes at once.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    process: Mutex<Option<tmp::Process>>,
    id_map: Mutex<String>,
    tocs: Mutex<HashMap<LayerId, Arc<Toc>>>,
}

impl Store {
    /// Opens the store at `root`, makes it when there is none, and sweeps what dead processes left
    /// in `tmp/`. Takes no lock that could wait.
    pub fn open(root: &Path) -> Result<Store> {
        let root = std::path::absolute(root).at("resolve", root)?;
        let format = root.join("format");
        match fs::read_to_string(&format) {
            Ok(text) if text.trim_end() == FORMAT => {}
            Ok(text) => {
                return Err(Error::Format { path: root, found: text.trim_end().to_owned() });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(&root)?,
            Err(source) => return Err(Error::Io { action: "read", path: format, source }),
        }
        let store = Store {
            inner: Arc::new(Inner {
                root,
                process: Mutex::new(None),
                id_map: Mutex::new("none".to_owned()),
                tocs: Mutex::default(),
            }),
        };
        tmp::sweep(&store, tmp::Place::Host)?;
        Ok(store)
    }

    /// Gives the directory that holds the store.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Gives the OCI image layout, which any tool can read.
    pub fn layout(&self) -> PathBuf {
        self.path("layout")
    }

    /// The blobs of the layout.
    pub fn blobs(&self) -> Blobs<'_> {
        Blobs::new(self)
    }

    /// The step records.
    pub fn steps(&self) -> Steps<'_> {
        Steps::new(self)
    }

    /// The pack records.
    pub fn packs(&self) -> Packs<'_> {
        Packs::new(self)
    }

    /// The tables of contents.
    pub fn tocs(&self) -> Tocs<'_> {
        Tocs::new(self)
    }

    /// The layers that lie on disk as directories.
    pub fn trees(&self) -> Trees<'_> {
        Trees::new(self)
    }

    /// The named images.
    pub fn images(&self) -> Images<'_> {
        Images::new(self)
    }

    /// The cache mounts.
    pub fn mounts(&self) -> Mounts<'_> {
        Mounts::new(self)
    }

    /// What was fetched from other machines.
    pub fn remotes(&self) -> Remotes<'_> {
        Remotes::new(self)
    }

    /// The locks.
    pub fn locks(&self) -> Locks<'_> {
        Locks::new(self)
    }

    /// Work in progress of this process.
    pub fn tmp(&self) -> Tmp<'_> {
        Tmp::new(self)
    }

    /// Gives the file in which [`crate::context`] may keep the stat cache of the context directory
    /// `dir` (which should be canonical) under the view `variant` (named contexts of the same
    /// directory with other ignore rules share one file; so this is usually empty).
    pub fn stat_cache(&self, dir: &Path, variant: &str) -> PathBuf {
        let mut identity = dir.as_os_str().as_encoded_bytes().to_vec();
        identity.push(0);
        identity.extend_from_slice(variant.as_bytes());
        self.path("stat").join(Digest::of(&identity).hex())
    }

    /// Removes what [`Store::open`] could not because it belongs to subordinate ids. Call it once
    /// the process is root of its user namespace.
    pub fn sweep_in_namespace(&self) -> Result<()> {
        tmp::sweep(self, tmp::Place::Namespace)
    }

    /// Says which id map trees are written and looked up with: the name of a map, or any text that
    /// is equal only for equal maps. Trees made with another map are absent.
    pub fn set_id_map(&self, fingerprint: &str) {
        *lock(&self.inner.id_map) = fingerprint.to_owned();
    }

    /// Gives the id map that trees are looked up with.
    pub fn id_map(&self) -> String {
        lock(&self.inner.id_map).clone()
    }

    /// Remembers the present id map, so that the next build can look trees up before it enters a
    /// user namespace. Losing it costs that build nothing but time.
    pub fn remember_id_map(&self, user: u32) -> Result<()> {
        let fingerprint = self.id_map();
        let path = self.path(&format!("id-map-{user}"));
        if fs::read_to_string(&path).is_ok_and(|known| known == fingerprint) {
            return Ok(());
        }
        self.write_whole(&path, fingerprint.as_bytes())
    }

    /// Takes up the id map that an earlier build of this user remembered.
    pub fn recall_id_map(&self, user: u32) {
        if let Ok(fingerprint) = fs::read_to_string(self.path(&format!("id-map-{user}"))) {
            self.set_id_map(&fingerprint);
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.inner.root.join(name)
    }

    /// Tries something small. When the disk is full, gives up the reserve and tries again; later
    /// calls restore it.
    pub(crate) fn with_reserve<T>(&self, attempt: impl Fn() -> Result<T>) -> Result<T> {
        let result = match attempt() {
            Err(error) if error.is_full() && self.spend_reserve() => attempt(),
            other => return other,
        };
        // Most likely in vain now; a store without a reserve works.
        self.restore_reserve();
        result
    }

    /// Makes the reserve anew if it is gone and there is room.
    pub(crate) fn restore_reserve(&self) {
        for number in 0..RESERVES {
            let path = self.path(&format!("reserve/{number}"));
            if !path.exists() && self.write_whole(&path, &[0; RESERVE]).is_err() {
                break;
            }
        }
    }

    /// Says whether there was anything to spend.
    fn spend_reserve(&self) -> bool {
        (0..RESERVES)
            .map(|number| fs::remove_file(self.path(&format!("reserve/{number}"))))
            .filter(io::Result::is_ok)
            .count()
            > 0
    }

    /// Writes `bytes` to `path` so that it is there whole or not at all.
    pub(crate) fn write_whole(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let tmp = self.tmp().unique("file")?;
        let written = fs::write(&tmp, bytes)
            .and_then(|()| fs::set_permissions(&tmp, fs::Permissions::from_mode(0o644)))
            .at("write", &tmp)
            .and_then(|()| fs::rename(&tmp, path).at("rename a file to", path));
        if written.is_err() {
            let _ = fs::remove_file(&tmp);
        }
        written
    }
}

/// Locks a mutex whose data stays whole even when a holder panicked.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a store, one process at a time. The `format` file comes last, so whoever sees it sees a
/// whole store, and nobody sweeps `tmp/` before.
fn make(root: &Path) -> Result<()> {
    // Nobody else's business: cache mounts and trees hold whatever builds put there.
    fs::DirBuilder::new().recursive(true).mode(0o700).create(root).at("create", root)?;
    let dirs = [
        "locks",
        "tmp",
        "layout/blobs/sha256",
        "toc",
        "trees",
        "steps/at",
        "packs",
        "mounts",
        "reserve",
        "stat",
    ];
    for name in dirs {
        let path = root.join(name);
        fs::create_dir_all(&path).at("create", &path)?;
    }
    let path = root.join("locks/make");
    let _guard = lock::wait("make", &|| false, || lock::acquire(&path, lock::Mode::Exclusive))?;
    create_whole(root, "layout/oci-layout", OCI_LAYOUT)?;
    create_whole(root, "layout/index.json", EMPTY_INDEX)?;
    for name in LOCK_FILES {
        let path = root.join("locks").join(name);
        File::options().append(true).create(true).open(&path).at("create", &path)?;
    }
    for number in 0..RESERVES {
        create_whole(root, &format!("reserve/{number}"), &[0; RESERVE])?;
    }
    create_whole(root, "format", format!("{FORMAT}\n").as_bytes())
}

/// What oci-layout says (OCI image-spec, image-layout.md).
pub(crate) const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// What index.json says while there are no images.
pub(crate) const EMPTY_INDEX: &[u8] =
    br#"{"manifests":[],"mediaType":"application/vnd.oci.image.index.v1+json","schemaVersion":2}"#;

/// Makes a file that must not replace another one.
fn create_whole(root: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = root.join(name);
    if path.exists() {
        return Ok(());
    }
    let tmp = root.join("tmp/make");
    fs::write(&tmp, bytes)
        .and_then(|()| fs::set_permissions(&tmp, fs::Permissions::from_mode(0o644)))
        .at("write", &tmp)?;
    fs::rename(&tmp, &path).at("rename a file to", &path)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn scratch() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        (dir, store)
    }

    #[test]
    fn a_new_store_is_an_empty_layout() {
        let (_dir, store) = scratch();
        let index = fs::read(store.layout().join("index.json")).unwrap();
        let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
        assert_eq!(index["manifests"], serde_json::json!([]));
        assert!(store.layout().join("oci-layout").exists());
        assert_eq!(fs::read_dir(store.path("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn a_store_of_another_format_is_refused() {
        let (_dir, store) = scratch();
        fs::write(store.path("format"), "7\n").unwrap();
        let error = Store::open(store.root()).map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::Format { found, .. } if found == "7"));
    }

    #[test]
    fn opening_a_half_made_store_completes_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("layout/blobs")).unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert!(store.path("format").exists());
        assert!(store.layout().join("index.json").exists());
    }
}
