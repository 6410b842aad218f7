//! Mount points that an image does not have.
//!
//! They are made in a directory of their own, which becomes the topmost lower directory of a RUN's
//! overlay; so nothing of them is in the upper directory, nothing has to be cleaned up, and no
//! directory of the image changes its times. The directories that lead to a stub and that the image
//! has are repeated with the image's attributes, for the topmost directory is what an overlay shows.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Error, TreeWriter};
use crate::layer::{Entry, Kind, RootPath, Tree};
use crate::sys::cred::IdMap;

/// What is mounted on a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StubKind {
    /// A directory.
    Dir,
    /// A file.
    File,
}

/// Fills `dir`, the topmost lower directory of an overlay, with the mount targets that `tree` does
/// not have; gives the paths made that the tree lacks. Symbolic links of the tree are followed.
pub fn stubs(
    dir: &Path,
    tree: &Tree,
    targets: &[(RootPath, StubKind)],
    map: &IdMap,
) -> Result<Vec<RootPath>, Error> {
    let mut writer = TreeWriter::new(dir, map)?;
    let mut made = BTreeMap::new();
    let root = RootPath::root();
    let entry = tree.lookup(&root).map_or_else(|| plain(&root, Kind::Dir), |f| f.entry.to_entry());
    writer.entry(&entry, &mut std::io::empty())?;
    for (target, kind) in targets {
        let path = tree.resolve(target, true)?;
        if let Some(found) = tree.lookup(&path) {
            match (found.is_dir(), kind) {
                (true, StubKind::Dir) | (false, StubKind::File) => continue,
                (true, StubKind::File) => {
                    return Err(wrong(target, "a directory", "a file"));
                }
                (false, StubKind::Dir) => {
                    return Err(wrong(target, "not a directory", "a directory"));
                }
            }
        }
        for above in path.ancestors() {
            let entry = match tree.lookup(&above) {
                Some(found) if found.is_dir() => found.entry.to_entry(),
                Some(_) => return Err(wrong(target, "below a file", "something")),
                None => {
                    made.insert(above.clone(), ());
                    plain(&above, Kind::Dir)
                }
            };
            writer.entry(&entry, &mut std::io::empty())?;
        }
        let stub = match kind {
            StubKind::Dir => Kind::Dir,
            StubKind::File => Kind::File { size: 0, digest: None },
        };
        writer.entry(&plain(&path, stub), &mut std::io::empty())?;
        made.insert(path, ());
    }
    writer.finish()?;
    Ok(made.into_keys().collect())
}

fn plain(path: &RootPath, kind: Kind) -> Entry {
    let mode = if kind == Kind::Dir { 0o755 } else { 0o644 };
    Entry { path: path.clone(), kind, mode, uid: 0, gid: 0, mtime: 0, xattrs: BTreeMap::new() }
}

fn wrong(target: &RootPath, found: &'static str, wanted: &'static str) -> Error {
    Error::Target { target: target.clone(), found, wanted }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::sync::Arc;

    use super::*;
    use crate::layer::TocBuilder;

    #[test]
    fn only_what_is_missing_is_made() {
        let mut toc = TocBuilder::new();
        let mut etc = plain(&"etc".into(), Kind::Dir);
        (etc.mode, etc.mtime) = (0o750, 77);
        toc.push(etc);
        toc.push(plain(&"proc".into(), Kind::Dir));
        let resolv = Kind::Symlink(b"../run/resolv.conf".to_vec());
        toc.push(plain(&"etc/resolv.conf".into(), resolv));
        let tree = Tree::new(vec![Arc::new(toc.finish())]);
        let tmp = tempfile::tempdir().unwrap();
        let targets = [
            ("proc", StubKind::Dir),
            ("sys", StubKind::Dir),
            ("etc/resolv.conf", StubKind::File),
            ("etc/hosts", StubKind::File),
            ("run/secrets/x", StubKind::File),
        ]
        .map(|(path, kind)| (RootPath::from(path), kind));
        let made = stubs(tmp.path(), &tree, &targets, &IdMap::default()).unwrap();
        let made: Vec<String> = made.iter().map(ToString::to_string).collect();
        assert_eq!(
            made,
            ["/etc/hosts", "/run", "/run/resolv.conf", "/run/secrets", "/run/secrets/x", "/sys"]
        );
        let etc = std::fs::metadata(tmp.path().join("etc")).unwrap();
        assert_eq!((etc.mode() & 0o7777, etc.mtime()), (0o750, 77));
        assert!(!tmp.path().join("proc").exists());
        assert!(tmp.path().join("run/resolv.conf").is_file());

        let wrong = [(RootPath::from("etc"), StubKind::File)];
        let error = stubs(tmp.path(), &tree, &wrong, &IdMap::default()).unwrap_err();
        assert!(matches!(error, Error::Target { .. }));
    }
}
