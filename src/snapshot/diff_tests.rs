//! Tests of [`super::diff`] on directories laid out as overlay leaves them. (The sandbox's own tests
//! run it on what a kernel leaves.)

use std::sync::Arc;

use super::super::TreeWriter;
use super::*;
use crate::sys::cred::IdRange;

fn entry(path: &str, kind: Kind, mode: u32) -> Entry {
    Entry { path: path.into(), kind, mode, uid: 0, gid: 0, mtime: 5, xattrs: Xattrs::new() }
}

fn dir_entry(path: &str) -> Entry {
    entry(path, Kind::Dir, 0o755)
}

fn file_entry(path: &str) -> Entry {
    entry(path, Kind::File { size: 0, digest: None }, 0o644)
}

fn tree(entries: &[Entry]) -> Tree {
    let mut toc = TocBuilder::new();
    for entry in entries {
        toc.push(entry.clone());
    }
    Tree::new(vec![Arc::new(toc.finish())])
}

fn single() -> IdMap {
    let one = vec![IdRange { inside: 0, outside: 1000, count: 1 }];
    IdMap { uids: one.clone(), gids: one }
}

/// Lays `upper` out on disk; gives what the diff to `lower` lists, as `kind path`.
fn check(lower: &[Entry], upper: &[Entry], stubs: &[&str], expect: &[&str]) {
    let tmp = tempfile::tempdir().unwrap();
    let mut writer = TreeWriter::new(tmp.path(), &IdMap::default()).unwrap();
    for entry in upper {
        writer.entry(entry, &mut std::io::empty()).unwrap();
    }
    writer.finish().unwrap();
    let stubs: Vec<RootPath> = stubs.iter().map(|s| RootPath::from(*s)).collect();
    let options = DiffOptions { stubs: &stubs, ..DiffOptions::default() };
    let lower: Vec<Entry> =
        lower.iter().cloned().chain(["dev", "proc", "sys"].map(dir_entry)).collect();
    let toc = diff(tmp.path(), &tree(&lower), &single(), &options).unwrap();
    let found: Vec<String> = toc
        .iter()
        .map(|e| {
            let kind = match e.kind {
                KindRef::Dir => "dir",
                KindRef::File { .. } => "file",
                KindRef::Symlink(_) => "link",
                KindRef::Hardlink(_) => "hard",
                KindRef::Fifo => "fifo",
                KindRef::Whiteout => "gone",
                _ => "other",
            };
            format!("{kind} {}", e.root_path())
        })
        .collect();
    assert_eq!(found, expect);
}

#[test]
fn whiteouts_only_of_what_was_there() {
    let lower = [dir_entry("d"), file_entry("d/a"), file_entry("f")];
    let upper = [
        dir_entry("d"),
        Entry::whiteout("d/a".into()),
        Entry::whiteout("d/never".into()),
        Entry::whiteout("f".into()),
    ];
    check(&lower, &upper, &[], &["dir /d", "gone /d/a", "gone /f"]);
}

#[test]
fn a_directory_made_anew_hides_what_it_had() {
    let lower = [
        dir_entry("d"),
        file_entry("d/a"),
        dir_entry("d/sub"),
        file_entry("d/sub/x"),
        file_entry("d/sub/y"),
    ];
    let upper =
        [dir_entry("d"), entry("d", Kind::Opaque, 0), dir_entry("d/sub"), file_entry("d/sub/y")];
    let expect = ["dir /d", "gone /d/a", "dir /d/sub", "gone /d/sub/x", "file /d/sub/y"];
    check(&lower, &upper, &[], &expect);
    // New directories are marked by the kernel too: that deletes nothing.
    let new = [dir_entry("new"), entry("new", Kind::Opaque, 0), file_entry("new/f")];
    check(&lower, &new, &[], &["dir /new", "file /new/f"]);
}

#[test]
fn a_directory_over_a_file_needs_no_whiteout() {
    check(&[file_entry("f")], &[dir_entry("f"), entry("f", Kind::Opaque, 0)], &[], &["dir /f"]);
}

#[test]
fn directories_without_change_are_left_out() {
    let lower = [dir_entry("d"), dir_entry("d/e"), dir_entry("m")];
    let mut touched = dir_entry("d");
    touched.mtime = 99;
    let upper = [touched, dir_entry("d/e"), entry("m", Kind::Dir, 0o700)];
    check(&lower, &upper, &[], &["dir /m"]);
}

#[test]
fn stubs_leave_no_trace_but_what_is_written_stays() {
    let stubs = ["run", "run/secrets", "run/secrets/x", "etc/hosts"];
    let copied = [
        dir_entry("run"),
        entry("run/secrets", Kind::Dir, 0o700),
        dir_entry("etc"),
        file_entry("etc/hosts"),
    ];
    check(&[dir_entry("etc")], &copied, &stubs, &[]);
    let written = [dir_entry("run"), file_entry("run/pid")];
    check(&[dir_entry("etc")], &written, &stubs, &["dir /run", "file /run/pid"]);
}

#[test]
fn names_of_one_inode_are_hard_links() {
    let upper = [
        file_entry("b"),
        entry("a", Kind::Hardlink("b".into()), 0o644),
        entry("c", Kind::Hardlink("b".into()), 0o644),
    ];
    check(&[], &upper, &[], &["file /a", "hard /b", "hard /c"]);
}

#[test]
fn kernel_file_systems_are_in_the_layer_of_an_image_without_them() {
    let tmp = tempfile::tempdir().unwrap();
    let stubs = ["proc", "sys", "dev"].map(RootPath::from);
    let options = DiffOptions { stubs: &stubs, now: 9, ..DiffOptions::default() };
    let toc = diff(tmp.path(), &Tree::default(), &single(), &options).unwrap();
    let paths: Vec<String> = toc.iter().map(|e| e.root_path().to_string()).collect();
    assert_eq!(paths, ["/dev", "/proc", "/sys"]);
    assert!(toc.iter().all(|e| e.mtime == 9 && e.mode == 0o755));
}

#[test]
fn owners_that_the_disk_cannot_hold_come_from_the_tree() {
    let tmp = tempfile::tempdir().unwrap();
    for name in ["old", "new"] {
        std::fs::write(tmp.path().join(name), b"").unwrap();
    }
    let mut old = file_entry("old");
    (old.uid, old.gid) = (33, 44);
    old.xattrs.insert(b"security.selinux".to_vec(), b"x".to_vec());
    let lower = tree(&[old, dir_entry("dev"), dir_entry("proc"), dir_entry("sys")]);
    let options = DiffOptions { owner: (1000, 1001), ..DiffOptions::default() };
    // Tests do not run in a namespace of their own; what the disk says is seen as 0.
    let toc = diff(tmp.path(), &lower, &single(), &options).unwrap();
    let ids = |path: &str| toc.get(path.as_bytes()).map(|e| (e.uid, e.gid));
    assert_eq!(ids("new"), Some((1000, 1001)));
    if crate::sys::cred::euid() == 0 {
        assert_eq!(ids("old"), Some((33, 44)));
    }
    let old = toc.get(b"old").unwrap();
    assert_eq!(old.xattrs.get(b"security.selinux".as_slice()), Some(&b"x".to_vec()));
}

#[test]
fn owners_that_were_kept_count_and_new_files_are_not_old_ones() {
    use crate::sys::stand_in;
    use std::os::fd::AsFd as _;
    let tmp = tempfile::tempdir().unwrap();
    let dir = crate::sys::dir::open(tmp.path()).unwrap();
    let note = |name: &str, key: &[u8], value: &[u8]| {
        xattr::set(dir.as_fd(), name.as_bytes(), key, value).unwrap();
    };
    for name in ["given", "copied-up", "new", "other"] {
        std::fs::write(tmp.path().join(name), b"").unwrap();
    }
    std::fs::create_dir(tmp.path().join("d")).unwrap();
    for name in ["link", "link-2"] {
        std::os::unix::fs::symlink("x", tmp.path().join(name)).unwrap();
    }
    note("given", OWNER_XATTR, b"7:8");
    note("d", OWNER_XATTR, b"9:0");
    note("other", OWNER_XATTR, b"nobody");
    note("copied-up", ORIGIN_XATTR, b"");
    let link = stand_in::identity_at(dir.as_fd(), b"link").unwrap();
    let owned = [Owned { ino: link.ino, born: link.born, uid: 5, gid: 6 }];
    let was = |path: &str| Entry { uid: 33, gid: 44, ..file_entry(path) };
    let lower = tree(&[
        was("copied-up"),
        was("given"),
        was("new"),
        dir_entry("dev"),
        dir_entry("proc"),
        dir_entry("sys"),
    ]);
    let ids = |owned: Option<&[Owned]>, map: &IdMap| {
        let options = DiffOptions { owned, ..DiffOptions::default() };
        let toc = diff(tmp.path(), &lower, map, &options).unwrap();
        assert!(toc.iter().all(|entry| entry.xattrs.is_empty()), "marks of ours are in no layer");
        move |path: &str| toc.get(path.as_bytes()).map(|entry| (entry.uid, entry.gid)).unwrap()
    };
    let kept = ids(Some(&owned), &single());
    assert_eq!(["given", "copied-up", "new"].map(&kept), [(7, 8), (33, 44), (0, 0)]);
    assert_eq!(["d", "link", "link-2", "other"].map(&kept), [(9, 0), (5, 6), (0, 0), (0, 0)]);
    // Nobody saw who made it.
    assert_eq!(ids(None, &single())("new"), (33, 44));
    // The disk knows.
    let whole = vec![IdRange { inside: 0, outside: 0, count: u32::MAX }];
    let (uid, gid) = (crate::sys::cred::euid(), crate::sys::cred::egid());
    let seen = ids(Some(&owned), &IdMap { uids: whole.clone(), gids: whole });
    assert_eq!(["given", "link", "new"].map(seen), [(uid, gid); 3]);
}

#[test]
fn reserved_names_are_refused() {
    let tmp = tempfile::tempdir().unwrap();
    std::fs::write(tmp.path().join(".wh.x"), b"").unwrap();
    let error = diff(tmp.path(), &Tree::default(), &single(), &DiffOptions::default()).unwrap_err();
    assert!(matches!(error, Error::ReservedName { .. }), "{error}");
}

#[test]
fn sockets_are_dropped_and_hide_what_they_cover() {
    let tmp = tempfile::tempdir().unwrap();
    let make = |name| std::os::unix::net::UnixListener::bind(tmp.path().join(name)).unwrap();
    let _held = [make("s"), make("t")];
    let lower = tree(&[file_entry("t"), dir_entry("dev"), dir_entry("proc"), dir_entry("sys")]);
    let toc = diff(tmp.path(), &lower, &single(), &DiffOptions::default()).unwrap();
    assert_eq!(toc.len(), 1);
    assert!(toc.whiteout(b"t"));
}
