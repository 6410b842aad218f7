//! Locks between processes (and threads): flock on files in `locks/`.
//!
//! A lock belongs to an open file. It is released when the guard is dropped and also when the
//! process dies in any way, so there is nothing to clean up. A step's lock file is unlinked by its
//! last holder; whoever waited on the unlinked file notices and starts again with the new one.
//!
//! Waiting is polling, because a blocking flock cannot be cancelled without signals.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Error, IoContext, Result, Store};
use crate::oci::Digest;

/// The longest pause between two tries: short beside any RUN, and no load at all.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Whether others may hold the same lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Shared,
    Exclusive,
}

/// A lock that is held until this is dropped.
#[derive(Debug)]
pub struct Guard {
    file: File,
    /// The lock file, when its last holder is to unlink it.
    unlink: Option<PathBuf>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(path) = &self.unlink {
            // Still locked: nobody can have taken over this file.
            let _ = std::fs::remove_file(path);
        }
        // Explicit, since a child that was forked meanwhile may still share the open file.
        let _ = self.file.unlock();
    }
}

/// The locks of a store.
#[derive(Clone, Copy)]
pub struct Locks<'s> {
    store: &'s Store,
}

impl<'s> Locks<'s> {
    pub(super) fn new(store: &'s Store) -> Locks<'s> {
        Locks { store }
    }

    /// Takes the lock on running the step with this key. Whoever waited should look for the step's
    /// record again. `cancelled` is asked between tries; once it says yes, the wait is an error.
    pub fn step(&self, key: &Digest, cancelled: &dyn Fn() -> bool) -> Result<Guard> {
        let path = self.store.path("locks").join(format!("step-{}", key.hex()));
        let mut guard =
            wait("a step that another build runs", cancelled, || acquire(&path, Mode::Exclusive))?;
        guard.unlink = Some(path);
        Ok(guard)
    }

    /// Takes the lock on the step with this key if nobody has it.
    pub fn try_step(&self, key: &Digest) -> Result<Option<Guard>> {
        let path = self.store.path("locks").join(format!("step-{}", key.hex()));
        let mut guard = acquire(&path, Mode::Exclusive)?;
        if let Some(guard) = &mut guard {
            guard.unlink = Some(path);
        }
        Ok(guard)
    }

    /// Says that this process builds. Held for the whole build; a prune that starts meanwhile spares
    /// whatever was used since (see [`super::gc`]), and one that is under way is waited for.
    pub fn build(&self, cancelled: &dyn Fn() -> bool) -> Result<Guard> {
        // The age of the private directory tells the pruner when the oldest build began.
        self.store.tmp().path()?;
        let path = self.store.path("locks/builds");
        wait("a prune of the store", cancelled, || acquire(&path, Mode::Shared))
    }

    /// Takes the store for itself if nobody builds.
    pub(super) fn alone(&self) -> Result<Option<Guard>> {
        acquire(&self.store.path("locks/builds"), Mode::Exclusive)
    }

    /// Takes the lock on one of the store's own files, such as index.json, for a short change.
    pub(super) fn short(&self, name: &str) -> Result<Guard> {
        let path = self.store.path("locks").join(name);
        wait(name, &|| false, || acquire(&path, Mode::Exclusive))
    }
}

/// Tries to take a lock. None when others hold it.
pub(super) fn acquire(path: &Path, mode: Mode) -> Result<Option<Guard>> {
    loop {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .at("open", path)?;
        let tried = match mode {
            Mode::Shared => file.try_lock_shared(),
            Mode::Exclusive => file.try_lock(),
        };
        match tried {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(source)) => return Err(source).at("lock", path),
        }
        if is_named(&file, path).at("look at", path)? {
            return Ok(Some(Guard { file, unlink: None }));
        }
        // Its last holder unlinked it between our open and our lock.
    }
}

/// Tries until it succeeds or is cancelled.
pub(super) fn wait(
    what: &str,
    cancelled: &dyn Fn() -> bool,
    mut attempt: impl FnMut() -> Result<Option<Guard>>,
) -> Result<Guard> {
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(guard) = attempt()? {
            return Ok(guard);
        }
        if cancelled() {
            return Err(Error::Cancelled { what: what.to_owned() });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::scratch;
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const NEVER: &dyn Fn() -> bool = &|| false;

    #[test]
    fn a_step_runs_once_at_a_time_and_leaves_no_file() {
        let (_dir, store) = scratch();
        let key = Digest::of(b"key");
        let (inside, total) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let _guard = store.locks().step(&key, NEVER).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        total.fetch_add(1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(total.load(Ordering::SeqCst), 160);
        let left = std::fs::read_dir(store.path("locks")).unwrap().flatten();
        let left: Vec<_> = left.map(|entry| entry.file_name().into_string().unwrap()).collect();
        assert!(!left.iter().any(|name| name.starts_with("step-")), "{left:?}");
    }

    #[test]
    fn a_wait_can_be_cancelled() {
        let (_dir, store) = scratch();
        let key = Digest::of(b"key");
        let _held = store.locks().step(&key, NEVER).unwrap();
        assert!(store.locks().try_step(&key).unwrap().is_none());
        let error = store.locks().step(&key, &|| true).unwrap_err();
        assert!(matches!(error, Error::Cancelled { .. }));
    }

    #[test]
    fn builds_share_the_store_and_a_prune_has_it_alone() {
        let (_dir, store) = scratch();
        let first = store.locks().build(NEVER).unwrap();
        let second = store.locks().build(NEVER).unwrap();
        assert!(store.locks().alone().unwrap().is_none());
        drop((first, second));
        let alone = store.locks().alone().unwrap().unwrap();
        assert!(matches!(store.locks().build(&|| true), Err(Error::Cancelled { .. })));
        drop(alone);
        store.locks().build(NEVER).unwrap();
    }
}
