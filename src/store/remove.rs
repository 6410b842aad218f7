//! Removal of directory trees that builds have made.
//!
//! A RUN can leave anything: directories without permissions (overlayfs leaves one too), a hundred
//! thousand levels, paths longer than the kernel takes. So directories are given permissions when
//! they lack them, and what lies too deep is first moved up. Symbolic links are removed, never
//! followed. The tree lies in `tmp/`, or is about to, so nobody else comes to it meanwhile; but who was
//! in the middle of creating a file there when it was moved away may still create that one.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// How deep the recursion goes before directories are moved up.
const DEEPEST: usize = 64;

/// How long a path may get before directories are moved up. PATH_MAX is 4096, a name at most 255.
const LONGEST: usize = 3000;

/// How often a directory is emptied again into which something came late.
const LATE: u32 = 100;

/// Removes a file or a directory with all that it holds; nothing there is a success. What cannot be
/// removed stays, the rest goes; the first failure is given.
pub(super) fn tree(path: &Path) -> io::Result<()> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !meta.is_dir() {
        return fs::remove_file(path);
    }
    let mut removal = Removal { root: path, moved: 0, failed: None };
    let mut late = 0;
    loop {
        let before = removal.moved;
        removal.clear(path, 0);
        // Directories that were moved up are in the root now.
        if removal.moved != before {
            continue;
        }
        if let Some(error) = removal.failed {
            return Err(error);
        }
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && late < LATE => {
                late += 1;
            }
            other => return other,
        }
    }
}

struct Removal<'a> {
    root: &'a Path,
    /// How many directories were moved up.
    moved: u64,
    failed: Option<io::Error>,
}

impl Removal<'_> {
    /// Empties a directory.
    fn clear(&mut self, dir: &Path, depth: usize) {
        let entries = match allowed(dir, || fs::read_dir(dir)) {
            Ok(entries) => entries,
            Err(error) => return self.note(error),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return self.note(error),
            };
            let path = entry.path();
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let removed = allowed(dir, || fs::remove_file(&path));
                self.note_unless_gone(removed);
            } else if depth < DEEPEST && path.as_os_str().len() < LONGEST {
                self.clear(&path, depth + 1);
                if self.failed.is_none() {
                    let removed = allowed(dir, || fs::remove_dir(&path));
                    self.note_unless_gone(removed);
                }
            } else {
                let moved = self.move_up(&path, dir);
                self.note_unless_gone(moved);
            }
        }
    }

    fn move_up(&mut self, path: &Path, parent: &Path) -> io::Result<()> {
        loop {
            let place: PathBuf = self.root.join(format!(".moved-up-{}", self.moved));
            self.moved += 1;
            if place.symlink_metadata().is_err() {
                // Moving a directory changes its `..`, for which it must be writable itself.
                return allowed(path, || allowed(parent, || fs::rename(path, &place)));
            }
        }
    }

    fn note_unless_gone(&mut self, result: io::Result<()>) {
        if let Err(error) = result
            && error.kind() != io::ErrorKind::NotFound
        {
            self.note(error);
        }
    }

    fn note(&mut self, error: io::Error) {
        self.failed.get_or_insert(error);
    }
}

/// Tries something in a directory, and once more with all permissions there if they were lacking.
fn allowed<T>(dir: &Path, attempt: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match attempt() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(|_| error)?;
            attempt()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_run_leaves_goes() {
        let dir = tempfile::tempdir().unwrap();
        let canary = dir.path().join("canary");
        fs::write(&canary, "").unwrap();
        let root = dir.path().join("x");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/f"), "").unwrap();
        fs::write(root.join(".moved-up-0"), "").unwrap();
        std::os::unix::fs::symlink(dir.path(), root.join("a/link")).unwrap();
        for path in ["a/b", "a"] {
            fs::set_permissions(root.join(path), fs::Permissions::from_mode(0o0)).unwrap();
        }
        tree(&root).unwrap();
        assert!(!root.exists() && canary.exists());
        tree(&root).unwrap();
    }

    #[test]
    fn depth_is_no_limit() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("x");
        // 300 levels of 100 bytes, by hanging ever longer chains below each other.
        let name = "n".repeat(100);
        let short: PathBuf = std::iter::repeat_n(name.as_str(), 20).collect();
        fs::create_dir(&root).unwrap();
        for _ in 0..15 {
            let next = dir.path().join("next");
            fs::create_dir_all(next.join(&short)).unwrap();
            for entry in fs::read_dir(&root).unwrap().flatten() {
                fs::rename(entry.path(), next.join(&short).join("below")).unwrap();
            }
            fs::rename(next.join(&name), root.join(&name)).unwrap();
            fs::remove_dir(&next).unwrap();
        }
        tree(&root).unwrap();
        assert!(!root.exists());
    }
}
