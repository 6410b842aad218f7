//! Cache mounts: directories that outlive a RUN, shared by the RUNs that name the same id.
//!
//! `mounts/<identity>/<n>/` holds one instance: `data/` is what a RUN sees, `lock` is flocked while
//! it is in use, `ready` says that it was initialised, `about.json` tells `du` whose it is. Owner
//! and mode belong to the identity, as in BuildKit: RUNs that ask for another owner get another
//! cache. Only [`Sharing::Private`] ever makes an instance beside number 0.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::lock::{self, Guard, Mode};
use super::{Error, IoContext, Result, Store, record};
use crate::oci::Digest;

/// Tells whose an instance is; its modification time says when it was last taken.
pub(super) const ABOUT: &str = "about.json";

/// How RUNs that use the same cache at the same time get on (`sharing=`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// All use the same directory at once.
    Shared,
    /// Each gets a directory of its own; one that is free is taken up again.
    Private,
    /// One after the other.
    Locked,
}

/// What makes two cache mounts the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountId {
    /// `id=`, or the cleaned target.
    pub id: String,
    /// Owner inside the image.
    pub uid: u32,
    /// Group inside the image.
    pub gid: u32,
    /// Permission bits of the directory.
    pub mode: u32,
    /// What else tells caches apart, such as the id map and the content a cache starts from.
    pub variant: String,
}

/// The cache mounts of a store.
#[derive(Clone, Copy)]
pub struct Mounts<'s> {
    store: &'s Store,
}

/// A cache mount in use. Others that may not share it wait until this is dropped.
#[derive(Debug)]
pub struct MountGuard {
    data: PathBuf,
    ready: PathBuf,
    initialising: Option<Guard>,
    _guard: Guard,
}

impl<'s> Mounts<'s> {
    pub(super) fn new(store: &'s Store) -> Mounts<'s> {
        Mounts { store }
    }

    /// Takes a cache for one RUN, and makes it when there is none. Waits as `sharing` demands;
    /// `cancelled` is asked between tries.
    pub fn acquire(
        &self,
        id: &MountId,
        sharing: Sharing,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<MountGuard> {
        let identity = format!("{}\n{}:{}:{:o}\n{}", id.id, id.uid, id.gid, id.mode, id.variant);
        let dir = self.store.path("mounts").join(Digest::of(identity.as_bytes()).hex());
        let what = format!("the cache mount {:?}", id.id);
        let (instance, guard) = match sharing {
            Sharing::Shared => self.first(&dir, &what, Mode::Shared, cancelled)?,
            Sharing::Locked => self.first(&dir, &what, Mode::Exclusive, cancelled)?,
            Sharing::Private => any_free(&dir)?,
        };
        record::write(self.store, &instance.join(ABOUT), id)?;
        let ready = instance.join("ready");
        let mut initialising = None;
        if !ready.exists() {
            // Several sharers may come at once; one initialises and the others wait for it.
            let path = instance.join("init.lock");
            let init = lock::wait(&what, cancelled, || lock::acquire(&path, Mode::Exclusive))?;
            initialising = (!ready.exists()).then_some(init);
        }
        Ok(MountGuard { data: instance.join("data"), ready, initialising, _guard: guard })
    }

    fn first(
        &self,
        dir: &Path,
        what: &str,
        mode: Mode,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(PathBuf, Guard)> {
        let instance = dir.join("0");
        let guard = lock::wait(what, cancelled, || try_instance(&instance, mode))?;
        Ok((instance, guard))
    }
}

/// Takes the first instance that nobody uses.
fn any_free(dir: &Path) -> Result<(PathBuf, Guard)> {
    let mut number = 0u32;
    loop {
        let instance = dir.join(number.to_string());
        if let Some(guard) = try_instance(&instance, Mode::Exclusive)? {
            return Ok((instance, guard));
        }
        number += 1;
    }
}

/// Takes an instance, and makes it when it is not there. None when others use it.
fn try_instance(instance: &Path, mode: Mode) -> Result<Option<Guard>> {
    let data = instance.join("data");
    let mut tries = 0;
    loop {
        let taken = fs::create_dir_all(&data)
            .at("create", &data)
            .and_then(|()| lock::acquire(&instance.join("lock"), mode));
        match taken {
            // A pruner moved the instance away under our hands. It works through what it listed
            // once, so this ends soon; the limit is for a file system that lies.
            // (The second kind: it vanished while its directories were being made.)
            Err(Error::Io { source, .. })
                if matches!(
                    source.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists
                ) && tries < 1000 =>
            {
                tries += 1;
            }
            other => return other,
        }
    }
}

/// Moves an instance away, unless somebody holds it or took it at or after `cut`. Gives where it
/// lies now, to be removed.
pub(super) fn retire(store: &Store, instance: &Path, cut: SystemTime) -> Result<Option<PathBuf>> {
    let taken = match lock::acquire(&instance.join("lock"), Mode::Exclusive) {
        // Another pruner was first.
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
        other => other?,
    };
    // Nobody takes it while this is held, and whoever waits for it sees that it has no name.
    let Some(_guard) = taken else { return Ok(None) };
    if used(instance) >= cut {
        return Ok(None);
    }
    let grave = store.tmp().unique("grave")?;
    fs::rename(instance, &grave).at("move away", instance)?;
    Ok(Some(grave))
}

/// Gives when an instance was last taken. One that is being made has no description yet.
pub(super) fn used(instance: &Path) -> SystemTime {
    fs::metadata(instance.join(ABOUT))
        .or_else(|_| fs::metadata(instance))
        .and_then(|meta| meta.modified())
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

impl MountGuard {
    /// Gives the directory to mount.
    pub fn path(&self) -> &Path {
        &self.data
    }

    /// Says whether the caller must give the directory its owner, mode and first content, and then
    /// call [`MountGuard::set_ready`]. Others who share the cache wait until then.
    pub fn is_new(&self) -> bool {
        self.initialising.is_some()
    }

    /// Says that the directory is initialised.
    pub fn set_ready(&mut self) -> Result<()> {
        fs::write(&self.ready, "").at("create", &self.ready)?;
        self.initialising = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::scratch;
    use super::*;
    use crate::store::{PruneOptions, prune};

    fn id(id: &str, uid: u32) -> MountId {
        MountId { id: id.into(), uid, gid: 0, mode: 0o755, variant: String::new() }
    }

    fn take(store: &Store, id: &MountId, sharing: Sharing) -> Result<MountGuard> {
        let mut guard = store.mounts().acquire(id, sharing, &|| true)?;
        if guard.is_new() {
            guard.set_ready()?;
        }
        Ok(guard)
    }

    #[test]
    fn sharing_decides_who_waits_and_who_gets_which_directory() {
        use Sharing::{Locked, Private, Shared};
        let (_dir, store) = scratch();
        let cache = id("/cache", 0);
        // held, wanted → None: waits; Some(true): same directory; Some(false): another one.
        for (held, wanted, expect) in [
            (Shared, Shared, Some(true)),
            (Shared, Locked, None),
            (Shared, Private, Some(false)),
            (Locked, Shared, None),
            (Locked, Locked, None),
            (Locked, Private, Some(false)),
            (Private, Private, Some(false)),
        ] {
            let first = take(&store, &cache, held).unwrap();
            let second = take(&store, &cache, wanted);
            let got = match &second {
                Ok(second) => Some(second.path() == first.path()),
                Err(Error::Cancelled { .. }) => None,
                Err(error) => panic!("{error}"),
            };
            assert_eq!(got, expect, "{held:?} {wanted:?}");
        }
        let again = take(&store, &cache, Private).unwrap();
        assert!(again.path().ends_with("0/data"), "a free one is taken up again");
    }

    #[test]
    fn owner_and_mode_are_part_of_the_identity() {
        let (_dir, store) = scratch();
        let root = take(&store, &id("x", 0), Sharing::Locked).unwrap();
        let user = take(&store, &id("x", 1000), Sharing::Locked).unwrap();
        assert_ne!(root.path(), user.path());
    }

    #[test]
    fn a_cache_whose_initialisation_was_cut_off_is_initialised_again() {
        let (_dir, store) = scratch();
        let cache = id("x", 0);
        let first = store.mounts().acquire(&cache, Sharing::Shared, &|| true).unwrap();
        assert!(first.is_new());
        let waits = store.mounts().acquire(&cache, Sharing::Shared, &|| true).unwrap_err();
        assert!(matches!(waits, Error::Cancelled { .. }));
        drop(first);
        let mut second = store.mounts().acquire(&cache, Sharing::Shared, &|| true).unwrap();
        assert!(second.is_new());
        second.set_ready().unwrap();
        assert!(!store.mounts().acquire(&cache, Sharing::Shared, &|| true).unwrap().is_new());
    }

    #[test]
    fn caches_are_taken_while_a_pruner_takes_them_away() {
        let (_dir, store) = scratch();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::SeqCst) {
                    let pruned = prune(&store, &PruneOptions::default()).unwrap();
                    assert!(pruned.failed.is_empty(), "{pruned:?}");
                }
            });
            let takers = [Sharing::Shared, Sharing::Locked, Sharing::Private].map(|sharing| {
                let store = &store;
                scope.spawn(move || {
                    for round in 0..400 {
                        let cache = id(&format!("{sharing:?}"), round % 2);
                        let mut guard = store.mounts().acquire(&cache, sharing, &|| false)?;
                        if guard.is_new() {
                            guard.set_ready()?;
                        }
                        fs::write(guard.path().join("f"), "x").at("write", guard.path())?;
                    }
                    Ok::<_, Error>(())
                })
            });
            let results = takers.map(|taker| taker.join());
            done.store(true, std::sync::atomic::Ordering::SeqCst);
            for result in results {
                result.unwrap().unwrap();
            }
        });
    }
}
