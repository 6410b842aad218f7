//! Work in progress: one directory a process below `tmp/`, and the sweep of those left by the dead.
//!
//! `tmp/NAME/` belongs to the process that holds the lock on `tmp/NAME.lock`; its modification time
//! is when that process began. The lock file comes first and goes last, so a directory without a
//! lock that is held is garbage. Garbage that belongs to subordinate ids can only be removed inside
//! the user namespace; it is renamed to `NAME.ns` and left for [`super::Store::sweep_in_namespace`].
//! What other processes may still stand on is buried as `NAME.grave`, and swept by whoever comes
//! when nobody else is there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::lock::{self, Guard, Mode};
use super::{IoContext, Result, Store, remove};

const LOCK: &str = ".lock";
const FOR_NAMESPACE: &str = ".ns";
const GRAVE: &str = ".grave";

/// This process's part of `tmp/`. Removed with the last handle on the store.
pub(super) struct Process {
    dir: PathBuf,
    lock: PathBuf,
    _guard: Guard,
}

impl Drop for Process {
    fn drop(&mut self) {
        if remove::tree(&self.dir).is_err() {
            set_aside(&self.dir);
        }
        let _ = fs::remove_file(&self.lock);
    }
}

/// Where the process stands that sweeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Host,
    Namespace,
}

/// Work in progress of this process.
#[derive(Clone, Copy)]
pub struct Tmp<'s> {
    store: &'s Store,
}

/// Numbers the names within a process, over all stores.
static COUNTER: AtomicU64 = AtomicU64::new(0);

impl<'s> Tmp<'s> {
    pub(super) fn new(store: &'s Store) -> Tmp<'s> {
        Tmp { store }
    }

    /// Gives this process's directory, and makes it on first use.
    pub fn path(&self) -> Result<PathBuf> {
        let mut process = super::lock(&self.store.inner.process);
        if let Some(process) = &*process {
            return Ok(process.dir.clone());
        }
        let begun = begin(self.store)?;
        let dir = begun.dir.clone();
        *process = Some(begun);
        Ok(dir)
    }

    /// Gives a name in the process's directory that nothing has yet.
    pub fn unique(&self, prefix: &str) -> Result<PathBuf> {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        Ok(self.path()?.join(format!("{prefix}-{number}")))
    }

    /// Makes a directory that goes when the handle is dropped.
    pub fn dir(&self, prefix: &str) -> Result<TmpDir> {
        let path = self.unique(prefix)?;
        fs::create_dir(&path).at("create", &path)?;
        Ok(TmpDir { path: Some(path) })
    }

    /// Gives when the oldest live process of the store began; None when there is none beside this
    /// one.
    pub(super) fn oldest_other(&self) -> Result<Option<SystemTime>> {
        let ours = super::lock(&self.store.inner.process).as_ref().map(|p| p.lock.clone());
        let tmp = self.store.path("tmp");
        let mut oldest: Option<SystemTime> = None;
        for entry in fs::read_dir(&tmp).at("read", &tmp)? {
            let path = entry.at("read", &tmp)?.path();
            if path.extension().is_none_or(|ext| ext != &LOCK[1..]) || Some(&path) == ours.as_ref()
            {
                continue;
            }
            if let Ok(began) = fs::metadata(&path).and_then(|meta| meta.modified()) {
                oldest = Some(oldest.map_or(began, |oldest| oldest.min(began)));
            }
        }
        Ok(oldest)
    }
}

/// A directory of work in progress.
#[derive(Debug)]
pub struct TmpDir {
    path: Option<PathBuf>,
}

impl TmpDir {
    /// Gives where it is.
    pub fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    /// Gives the directory away: it stays until it is renamed or the process ends.
    pub fn keep(mut self) -> PathBuf {
        self.path.take().unwrap_or_default()
    }
}

impl Drop for TmpDir {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            // What cannot go now goes with the process or with a sweep.
            let _ = remove::tree(&path);
        }
    }
}

fn begin(store: &Store) -> Result<Process> {
    let tmp = store.path("tmp");
    loop {
        let name = unique_name();
        let lock = tmp.join(format!("{name}{LOCK}"));
        // None: another process of the same number (in another pid namespace) was faster.
        let Some(guard) = lock::acquire(&lock, Mode::Exclusive)? else { continue };
        let dir = tmp.join(name);
        fs::create_dir(&dir).at("create", &dir)?;
        return Ok(Process { dir, lock, _guard: guard });
    }
}

/// Moves something away, so that it is gone for all who come, and stays for all who use it.
pub(super) fn bury(store: &Store, path: &Path) -> Result<PathBuf> {
    let name = unique_name();
    let grave = store.path("tmp").join(format!("{name}{GRAVE}"));
    fs::rename(path, &grave).at("move away", path)?;
    Ok(grave)
}

/// Gives a name that no process has used or will use.
fn unique_name() -> String {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_nanos());
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{}-{nanos:x}-{number}", std::process::id())
}

/// Removes what dead processes left. Failures are not errors: the next sweep tries again.
pub(super) fn sweep(store: &Store, place: Place) -> Result<()> {
    let tmp = store.path("tmp");
    let mut names = Vec::new();
    for entry in fs::read_dir(&tmp).at("read", &tmp)? {
        names.push(entry.at("read", &tmp)?.path());
    }
    let mut graves = Vec::new();
    for path in names {
        let extension = path.extension().and_then(|ext| ext.to_str());
        if extension == Some(&LOCK[1..]) {
            sweep_process(&path);
        } else if extension == Some(&FOR_NAMESPACE[1..]) {
            if place == Place::Namespace {
                let _ = remove::tree(&path);
            }
        } else if extension == Some(&GRAVE[1..]) {
            graves.push(path);
        } else if !with_lock_name(&path).exists() && remove::tree(&path).is_err() {
            set_aside(&path);
        }
    }
    if !graves.is_empty() && alone(store)? {
        for grave in graves {
            if remove::tree(&grave).is_err() && place == Place::Host {
                set_aside(&grave);
            }
        }
    }
    Ok(())
}

/// Says whether no live process works in the store, but perhaps this one.
fn alone(store: &Store) -> Result<bool> {
    Ok(store.tmp().oldest_other()?.is_none())
}

fn sweep_process(lock: &Path) {
    // Ours or another live process's, or unreadable: leave it. The file is not created anew.
    if !lock.exists() {
        return;
    }
    let Ok(Some(_guard)) = lock::acquire(lock, Mode::Exclusive) else { return };
    let dir = lock.with_extension("");
    if remove::tree(&dir).is_err() && dir.exists() {
        set_aside(&dir);
    }
    let _ = fs::remove_file(lock);
}

fn with_lock_name(dir: &Path) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(LOCK);
    name.into()
}

fn set_aside(dir: &Path) {
    let mut name = dir.as_os_str().to_owned();
    name.push(FOR_NAMESPACE);
    let _: io::Result<()> = fs::rename(dir, PathBuf::from(name));
}

#[cfg(test)]
mod tests {
    use super::super::tests::scratch;
    use super::*;

    fn names(store: &Store) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(store.path("tmp"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_directory_of_a_process_goes_with_it() {
        let (_dir, store) = scratch();
        let dir = store.tmp().dir("x").unwrap();
        fs::write(dir.path().join("f"), "x").unwrap();
        let kept = store.tmp().dir("y").unwrap().keep();
        assert!(kept.exists());
        drop(dir);
        assert_eq!(names(&store).len(), 2);
        let root = store.root().to_owned();
        drop(store);
        assert_eq!(fs::read_dir(root.join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn a_sweep_takes_the_dead_and_spares_the_living() {
        let (_dir, store) = scratch();
        let alive = store.tmp().dir("alive").unwrap();
        let tmp = store.path("tmp");
        fs::create_dir_all(tmp.join("1-dead-0/deep")).unwrap();
        fs::write(tmp.join("1-dead-0.lock"), "").unwrap();
        fs::create_dir(tmp.join("2-lockless-0")).unwrap();
        fs::write(tmp.join("stray"), "").unwrap();
        fs::create_dir(tmp.join("3-aside-0.ns")).unwrap();
        let second = Store::open(store.root()).unwrap();
        assert!(alive.path().exists());
        assert!(names(&store).contains(&"3-aside-0.ns".to_owned()));
        assert_eq!(names(&store).len(), 3, "{:?}", names(&store));
        second.sweep_in_namespace().unwrap();
        assert_eq!(names(&store).len(), 2);
    }
}
