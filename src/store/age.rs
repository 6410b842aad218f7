//! Last use of a file, and taking it away only when nobody has just begun to use it.
//!
//! A file's modification time is the time of its last use, exact to [`GRAIN`]: a use is written down
//! only when the time on disk is older than that, so a lookup seldom writes.
//!
//! A reader [`claim`]s a file: opens it, takes a shared lock on it, checks that it still has a name,
//! and refreshes its time. The pruner [`retire`]s a file: opens it, takes the exclusive lock without
//! waiting, checks that it is still old, and unlinks it. So either the reader comes first and the
//! pruner sees a fresh time, or the pruner does and the reader sees a file without a name.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// How old a written-down last use may be before a new use replaces it. One hour: chosen like the
/// kernel's relatime, so that a no-op rebuild writes nothing, yet far below what people prune by.
pub const GRAIN: Duration = Duration::from_secs(3600);

/// Opens a file for reading and counts that as a use. None when there is no such file.
pub(crate) fn claim(path: &Path) -> io::Result<Option<File>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // Waits only while a pruner holds the lock, for a few microseconds. Where the file system has
    // no locks, pruning beside a build is not exact, and a lost file is a cache miss.
    let locked = file.lock_shared().is_ok();
    let meta = file.metadata()?;
    if meta.nlink() == 0 {
        return Ok(None);
    }
    if meta.modified().is_ok_and(is_stale) {
        // On a read-only store the use is simply not written down.
        let _ = file.set_modified(SystemTime::now());
    }
    if locked {
        let _ = file.unlock();
    }
    Ok(Some(file))
}

/// Counts a use of a file without reading it. False when there is no such file.
pub(crate) fn touch(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.modified().is_ok_and(is_stale) => Ok(claim(path)?.is_some()),
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Unlinks a file unless it was used at or after `cut` or is being claimed. Says whether the file
/// is gone.
pub(crate) fn retire(path: &Path, cut: SystemTime) -> io::Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => return Ok(false),
        Err(fs::TryLockError::Error(error)) => return Err(error),
    }
    if file.metadata()?.modified()? >= cut {
        return Ok(false);
    }
    fs::remove_file(path)?;
    Ok(true)
}

fn is_stale(modified: SystemTime) -> bool {
    // A time in the future (a clock that went back) counts as fresh: nothing is lost by that.
    SystemTime::now().duration_since(modified).is_ok_and(|age| age > GRAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_refreshes_only_a_stale_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "x").unwrap();
        let modified = || fs::metadata(&path).unwrap().modified().unwrap();
        for (age, refreshed) in [(60, false), (7200, true)] {
            let then = SystemTime::now() - Duration::from_secs(age);
            File::options().write(true).open(&path).unwrap().set_modified(then).unwrap();
            let before = modified();
            assert!(claim(&path).unwrap().is_some());
            assert_eq!(modified() != before, refreshed, "{age}");
        }
    }

    #[test]
    fn only_what_is_old_and_unclaimed_retires() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "x").unwrap();
        let now = SystemTime::now();
        assert!(!retire(&path, now - Duration::from_secs(60)).unwrap());
        let reader = File::open(&path).unwrap();
        reader.lock_shared().unwrap();
        assert!(!retire(&path, now + Duration::from_secs(60)).unwrap());
        reader.unlock().unwrap();
        assert!(retire(&path, now + Duration::from_secs(60)).unwrap());
        assert!(claim(&path).unwrap().is_none());
        assert!(retire(&path, now).unwrap(), "gone is gone");
    }
}
