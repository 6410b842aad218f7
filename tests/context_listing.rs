//! What a context lists, remembers, and refuses to read.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use lapstrake::context::{Context, Error, IgnoreRules, Options};
use lapstrake::layer::{KindRef, RootPath, Toc};
use lapstrake::oci::Digest;

fn scratch(files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for path in files {
        let path = dir.path().join("c").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, path.file_name().unwrap().as_encoded_bytes()).unwrap();
    }
    fs::create_dir_all(dir.path().join("c")).unwrap();
    dir
}

fn cache(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("stat")
}

fn open(dir: &tempfile::TempDir, ignore: &str, threads: usize) -> Context {
    let rules = IgnoreRules::parse(ignore.as_bytes()).unwrap();
    let options = Options { stat_cache: Some(cache(dir)), scratch: None, threads };
    Context::open(&dir.path().join("c"), rules, options).unwrap()
}

fn paths(toc: &Toc) -> Vec<String> {
    toc.iter().map(|entry| String::from_utf8(entry.path.to_vec()).unwrap()).collect()
}

fn list(dir: &tempfile::TempDir, ignore: &str) -> Vec<String> {
    paths(&open(dir, ignore, 2).listing().unwrap())
}

/// Waits until what was written so far is older than the margin for racily clean files.
fn settle(dir: &tempfile::TempDir) {
    let wait = Duration::from_millis(150);
    let begun = SystemTime::now();
    let probe = dir.path().join("probe");
    // By the clock of the file system, which is the one that counts.
    loop {
        fs::write(&probe, "").unwrap();
        let now = fs::metadata(&probe).unwrap().modified().unwrap();
        if now.duration_since(begun).is_ok_and(|age| age > wait) {
            return;
        }
        std::thread::yield_now();
    }
}

#[test]
fn paths_come_in_order_for_any_number_of_threads() {
    let files: Vec<String> = (0..300)
        .map(|n| format!("d{}/e{}{}/f{n}", n % 7, n % 5, if n % 2 == 0 { "-x" } else { "" }))
        .collect();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let dir = scratch(&files);
    let one = open(&dir, "", 1).listing().unwrap();
    let mut sorted: Vec<RootPath> = one.iter().map(|entry| entry.root_path()).collect();
    sorted.sort();
    assert_eq!(sorted.len(), 300 + 7 + 70);
    assert!(sorted.iter().map(RootPath::as_bytes).eq(one.iter().map(|entry| entry.path)));
    for threads in [2, 8] {
        assert_eq!(*one, *open(&dir, "", threads).listing().unwrap());
    }
}

#[test]
fn entries_say_what_is_on_disk() {
    let dir = scratch(&["d/file"]);
    let root = dir.path().join("c");
    fs::set_permissions(root.join("d/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(root.join("d"), fs::Permissions::from_mode(0o1700)).unwrap();
    symlink("../../outside", root.join("link")).unwrap();
    let _socket = UnixListener::bind(root.join("socket")).unwrap();
    let then = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 999_999_999);
    File::open(root.join("d/file")).unwrap().set_modified(then).unwrap();

    let context = open(&dir, "", 1);
    let toc = context.listing().unwrap();
    assert_eq!(paths(&toc), ["d", "d/file", "link", "socket"]);
    let file = toc.get(b"d/file").unwrap();
    assert_eq!((file.mode, file.uid, file.gid), (0o4751, 0, 0));
    assert_eq!(file.mtime, 1_000_000_000);
    assert_eq!(file.kind, KindRef::File { size: 4, digest: None });
    assert_eq!(toc.get(b"d").unwrap().mode, 0o1700);
    assert_eq!(toc.get(b"link").unwrap().kind, KindRef::Symlink(b"../../outside"));
    assert_eq!(toc.get(b"socket").unwrap().kind, KindRef::File { size: 0, digest: None });
    let digests = context.digest(&["d/file".into(), "socket".into()]).unwrap();
    assert_eq!(digests, [Digest::of(b"file"), Digest::of(b"")]);
    let mut content = Vec::new();
    context.reader(&"socket".into()).unwrap().read_to_end(&mut content).unwrap();
    context.reader(&"d/file".into()).unwrap().read_to_end(&mut content).unwrap();
    assert_eq!(content, b"file");
    assert!(matches!(context.open_file(&"d".into()), Err(Error::NotAFile { .. })));
    assert!(matches!(context.open_file(&"link".into()), Err(Error::NotAFile { .. })));
    assert!(matches!(context.open_file(&"d/none".into()), Err(Error::NotListed { .. })));
}

#[test]
fn ignored_paths_are_left_out_and_parents_of_exceptions_stay() {
    let files = ["a/b/c", "a/b/d", "a/e/f", "g", "h/i", "keep/x/y", "keep/z"];
    let dir = scratch(&files);
    fs::set_permissions(dir.path().join("c/a"), fs::Permissions::from_mode(0o711)).unwrap();
    for (ignore, expect) in [
        ("*", &[][..]),
        ("a\nh\nkeep", &["g"]),
        ("*\n!a/b/c", &["a", "a/b", "a/b/c"]),
        ("*\n!**/y", &["keep", "keep/x", "keep/x/y"]),
        ("**\n!nothing", &[]),
        ("a/b\n!a/b/d\nkeep\nh", &["a", "a/b", "a/b/d", "a/e", "a/e/f", "g"]),
        ("*/*\n!keep/x\n", &["a", "g", "h", "keep", "keep/x", "keep/x/y"]),
    ] {
        assert_eq!(list(&dir, ignore), expect, "{ignore:?}");
    }
    let toc = open(&dir, "*\n!a/b/c", 1).listing().unwrap();
    assert_eq!(toc.get(b"a").unwrap().mode, 0o711);
}

#[test]
fn names_of_one_file_are_files_and_known_as_one() {
    let dir = scratch(&["a", "d/b", "solo"]);
    fs::remove_file(dir.path().join("c/d/b")).unwrap();
    fs::hard_link(dir.path().join("c/a"), dir.path().join("c/d/b")).unwrap();
    fs::hard_link(dir.path().join("c/solo"), dir.path().join("outside")).unwrap();
    let context = open(&dir, "", 1);
    let toc = context.listing().unwrap();
    let groups = context.link_groups().unwrap();
    let named: Vec<Vec<&[u8]>> =
        groups.iter().map(|group| group.iter().map(|&row| toc.at(row).path).collect()).collect();
    assert_eq!(named, [[&b"a"[..], b"d/b"]]);
    let digests = context.digest(&["d/b".into(), "a".into(), "solo".into()]).unwrap();
    assert_eq!(digests, [Digest::of(b"a"), Digest::of(b"a"), Digest::of(b"solo")]);
}

#[test]
fn a_directory_that_becomes_a_file_is_one() {
    // Trap 26: the same name, another kind, one cache.
    let dir = scratch(&["x/y"]);
    let first = open(&dir, "", 1);
    first.digest(&["x/y".into()]).unwrap();
    settle(&dir);
    first.save_stat_cache().unwrap();
    fs::remove_dir_all(dir.path().join("c/x")).unwrap();
    fs::write(dir.path().join("c/x"), "now a file").unwrap();
    let second = open(&dir, "", 1);
    assert_eq!(paths(&second.listing().unwrap()), ["x"]);
    assert_eq!(second.digest(&["x".into()]).unwrap(), [Digest::of(b"now a file")]);
}

#[test]
fn digests_are_remembered_until_a_file_changes() {
    let dir = scratch(&["a", "b", "c/d"]);
    settle(&dir);
    let all: Vec<RootPath> = ["a", "b", "c/d"].map(RootPath::from).into();
    let first = open(&dir, "", 2);
    first.digest(&all).unwrap();
    first.save_stat_cache().unwrap();

    let row = |context: &Context, path: &str| {
        context.listing().unwrap().index_of(path.as_bytes()).unwrap()
    };
    let again = open(&dir, "", 2);
    assert_eq!(again.digest_at(row(&again, "c/d")).unwrap(), Some(Digest::of(b"d")));
    let toc = again.listing().unwrap();
    assert_eq!(toc.get(b"a").unwrap().kind, KindRef::File { size: 1, digest: None });

    // Same size, same modification time: the change time tells.
    let b = dir.path().join("c/b");
    let modified = fs::metadata(&b).unwrap().modified().unwrap();
    fs::write(&b, "B").unwrap();
    File::open(&b).unwrap().set_modified(modified).unwrap();
    let changed = open(&dir, "", 2);
    assert_eq!(changed.digest_at(row(&changed, "b")).unwrap(), None);
    assert_eq!(changed.digest_at(row(&changed, "a")).unwrap(), Some(Digest::of(b"a")));
    assert_eq!(changed.digest(&all).unwrap()[1], Digest::of(b"B"));
}

#[test]
fn what_changed_just_now_is_not_remembered() {
    let dir = scratch(&["old"]);
    settle(&dir);
    let new = dir.path().join("c/new");
    fs::write(&new, "1").unwrap();
    let first = open(&dir, "", 1);
    assert_eq!(first.digest(&["new".into(), "old".into()]).unwrap()[0], Digest::of(b"1"));
    first.save_stat_cache().unwrap();
    let second = open(&dir, "", 1);
    let toc = second.listing().unwrap();
    let known = |path: &[u8]| second.digest_at(toc.index_of(path).unwrap()).unwrap();
    assert_eq!(known(b"new"), None);
    assert_eq!(known(b"old"), Some(Digest::of(b"old")));
}

#[test]
fn an_unchanged_stat_cache_is_not_written() {
    let dir = scratch(&["a", "d/b", "d/link"]);
    fs::remove_file(dir.path().join("c/d/link")).unwrap();
    symlink("b", dir.path().join("c/d/link")).unwrap();
    settle(&dir);
    let save = || {
        let context = open(&dir, "", 1);
        context.digest(&["a".into(), "d/b".into()]).unwrap();
        context.save_stat_cache().unwrap();
        fs::metadata(cache(&dir)).unwrap()
    };
    use std::os::unix::fs::MetadataExt;
    let first = save();
    assert_eq!(save().ino(), first.ino());
    fs::remove_file(dir.path().join("c/a")).unwrap();
    fs::write(dir.path().join("c/e"), "e").unwrap();
    let context = open(&dir, "", 1);
    context.listing().unwrap();
    context.save_stat_cache().unwrap();
    assert_ne!(fs::metadata(cache(&dir)).unwrap().ino(), first.ino());
}

/// Tells the context an answer, and gives what it knew before.
fn ask(dir: &tempfile::TempDir, ignore: &str, threads: usize, answer: &str) -> Option<Digest> {
    let context = open(dir, ignore, threads);
    let question = Digest::of(b"question");
    let known = context.answer(&question).unwrap();
    // As a build does: what is not known is made of the listing.
    if known.is_none() {
        context.listing().unwrap();
        context.remember(question, Digest::of(answer.as_bytes()));
    }
    context.save_stat_cache().unwrap();
    known
}

#[test]
fn answers_hold_until_anything_changes() {
    let dir = scratch(&["a", "b/c", "b/d/e", "f/g", "f/h"]);
    let root = dir.path().join("c");
    symlink("a", root.join("link")).unwrap();
    type Change = fn(&Path);
    let changes: [(&str, Change); 10] = [
        ("content", |root| fs::write(root.join("b/d/e"), "E").unwrap()),
        ("mode", |root| {
            fs::set_permissions(root.join("a"), fs::Permissions::from_mode(0o600)).unwrap();
        }),
        ("mode of a directory", |root| {
            fs::set_permissions(root.join("b"), fs::Permissions::from_mode(0o700)).unwrap();
        }),
        ("new file", |root| fs::write(root.join("b/n"), "").unwrap()),
        ("new directory", |root| fs::create_dir(root.join("z")).unwrap()),
        ("gone", |root| fs::remove_file(root.join("f/g")).unwrap()),
        ("name", |root| fs::rename(root.join("f/h"), root.join("f/i")).unwrap()),
        ("moved to another directory", |root| {
            fs::rename(root.join("f/i"), root.join("b/i")).unwrap();
        }),
        ("target of a link", |root| {
            fs::remove_file(root.join("link")).unwrap();
            symlink("b", root.join("link")).unwrap();
        }),
        ("an empty directory moved", |root| {
            fs::rename(root.join("z"), root.join("b/z")).unwrap();
        }),
    ];
    settle(&dir);
    assert_eq!(ask(&dir, "", 2, "first"), None);
    assert_eq!(ask(&dir, "", 1, ""), Some(Digest::of(b"first")), "for any number of threads");
    for (name, change) in changes {
        change(&root);
        settle(&dir);
        assert_eq!(ask(&dir, "", 2, name), None, "{name}");
        assert_eq!(ask(&dir, "", 2, ""), Some(Digest::of(name.as_bytes())), "{name}");
    }
    assert_eq!(ask(&dir, "b/c\n", 2, "without b/c"), None, "other rules, other context");
    assert_eq!(ask(&dir, "b/c\nnothing\n", 2, ""), Some(Digest::of(b"without b/c")));
}

#[test]
fn answers_about_what_changed_just_now_are_not_kept() {
    let dir = scratch(&["old"]);
    settle(&dir);
    // A time to come is as late as it gets, however slow this machine is.
    let new = File::create(dir.path().join("c/new")).unwrap();
    new.set_modified(SystemTime::now() + Duration::from_secs(3600)).unwrap();
    assert_eq!(ask(&dir, "", 1, "too early"), None);
    assert_eq!(ask(&dir, "", 1, "still"), None);
    new.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1)).unwrap();
    settle(&dir);
    assert_eq!(ask(&dir, "", 1, "settled"), None);
    assert_eq!(ask(&dir, "", 1, ""), Some(Digest::of(b"settled")));
}

#[test]
fn a_context_that_answers_can_still_be_listed() {
    let dir = scratch(&["a", "b/c"]);
    settle(&dir);
    ask(&dir, "", 2, "yes");
    let context = open(&dir, "", 2);
    assert!(context.answer(&Digest::of(b"question")).unwrap().is_some());
    assert_eq!(paths(&context.listing().unwrap()), ["a", "b", "b/c"]);
    assert_eq!(context.digest(&["b/c".into()]).unwrap(), [Digest::of(b"c")]);
}

#[test]
fn a_damaged_stat_cache_costs_only_time() {
    let dir = scratch(&["a", "b"]);
    settle(&dir);
    let context = open(&dir, "", 1);
    context.digest(&["a".into(), "b".into()]).unwrap();
    context.save_stat_cache().unwrap();
    let whole = fs::read(cache(&dir)).unwrap();
    for at in 0..whole.len() {
        let mut altered = whole.clone();
        altered[at] ^= 1;
        fs::write(cache(&dir), &altered).unwrap();
        let digests = open(&dir, "", 1).digest(&["a".into(), "b".into()]).unwrap();
        assert_eq!(digests, [Digest::of(b"a"), Digest::of(b"b")]);
    }
}

#[test]
fn a_file_that_changes_after_the_listing_is_an_error_that_names_it() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 6] = [
        ("content", |path| fs::write(path, "longer than before").unwrap()),
        ("same size", |path| {
            let modified = fs::metadata(path).unwrap().modified().unwrap();
            let name = path.file_name().unwrap().to_str().unwrap().to_uppercase();
            fs::write(path, name).unwrap();
            File::open(path).unwrap().set_modified(modified).unwrap();
        }),
        ("gone", |path| fs::remove_file(path).unwrap()),
        ("symbolic link", |path| {
            fs::remove_file(path).unwrap();
            symlink("/etc/passwd", path).unwrap();
        }),
        ("fifo", |path| {
            fs::remove_file(path).unwrap();
            let made = std::process::Command::new("mkfifo").arg(path).status().unwrap();
            assert!(made.success());
        }),
        ("directory swapped for a link", |path| {
            let parent = path.parent().unwrap();
            fs::rename(parent, parent.with_extension("old")).unwrap();
            symlink(parent.with_extension("old"), parent).unwrap();
        }),
    ];
    for (what, change) in changes {
        let dir = scratch(&["d/file"]);
        settle(&dir);
        let context = open(&dir, "", 1);
        context.listing().unwrap();
        change(&dir.path().join("c/d/file"));
        let error = context.digest(&["d/file".into()]).unwrap_err();
        assert!(matches!(error, Error::Changed { .. }), "{what}: {error:?}");
        assert!(error.to_string().contains("d/file"), "{what}: {error}");
        assert!(context.open_file(&"d/file".into()).is_err(), "{what}");
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_an_error() {
    let dir = scratch(&["f"]);
    let path = dir.path().join("c/f");
    fs::write(&path, vec![7; 10_000]).unwrap();
    for longer in [true, false] {
        fs::write(&path, vec![7; 10_000]).unwrap();
        let context = open(&dir, "", 1);
        context.listing().unwrap();
        let mut reader = context.reader(&"f".into()).unwrap();
        let mut piece = [0; 100];
        reader.read_exact(&mut piece).unwrap();
        fs::write(&path, vec![7; if longer { 10_001 } else { 9_999 }]).unwrap();
        let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("/f of the build context changed"), "{error}");
    }
}

#[test]
fn fifos_are_listed_and_never_opened() {
    let dir = scratch(&["a"]);
    let path = dir.path().join("c/pipe");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let context = open(&dir, "", 2);
    let toc = context.listing().unwrap();
    assert_eq!(toc.get(b"pipe").unwrap().kind, KindRef::Fifo);
    context.digest_rows(0..toc.len()).unwrap();
    assert!(matches!(context.digest(&["pipe".into()]), Err(Error::NotAFile { .. })));
}

#[test]
fn xattrs_are_listed_from_disk_and_from_the_stat_cache() {
    let dir = scratch(&["d/a", "b"]);
    let set = |path: &str, name: &str, value: &str| {
        std::process::Command::new("setfattr")
            .args(["-n", name, "-v", value])
            .arg(dir.path().join("c").join(path))
            .status()
            .is_ok_and(|status| status.success())
    };
    if !set("d/a", "user.color", "red") || !set("d", "user.kind", "dir") {
        eprintln!("SKIP setfattr is missing, or the file system has no user xattrs");
        return;
    }
    assert!(set("b", "user.overlay.opaque", "y"));
    settle(&dir);
    let check = || {
        let context = open(&dir, "", 1);
        let toc = context.listing().unwrap();
        let value = |path: &[u8], name: &[u8]| toc.get(path).unwrap().xattrs.get(name).cloned();
        assert_eq!(value(b"d/a", b"user.color"), Some(b"red".to_vec()));
        assert_eq!(value(b"d", b"user.kind"), Some(b"dir".to_vec()));
        assert!(toc.get(b"b").unwrap().xattrs.is_empty());
        context.save_stat_cache().unwrap();
        toc
    };
    let fresh = check();
    assert_eq!(*fresh, *check());
}

#[test]
fn paths_longer_than_the_kernel_takes_are_read() {
    let dir = scratch(&[]);
    // Two chains of 15 directories of 200 bytes; then one is hung below the other.
    let name = "n".repeat(200);
    let chain: PathBuf = std::iter::repeat_n(name.as_str(), 15).collect();
    let (upper, lower) = (dir.path().join("c").join(&chain), dir.path().join("low").join(&chain));
    fs::create_dir_all(&upper).unwrap();
    fs::create_dir_all(&lower).unwrap();
    fs::write(lower.join("f"), "x").unwrap();
    fs::rename(dir.path().join("low").join(&name), upper.join(&name)).unwrap();
    let context = open(&dir, "", 2);
    let toc = context.listing().unwrap();
    assert_eq!(toc.len(), 31);
    context.digest_rows(0..31).unwrap();
    assert_eq!(context.digest_at(30).unwrap(), Some(Digest::of(b"x")));
}

#[test]
fn names_are_bytes() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let dir = scratch(&[]);
    for name in [&b"\xff\xfe"[..], b"a\nb", b"\x1b[31m", "é".as_bytes(), b" "] {
        fs::write(dir.path().join("c").join(OsStr::from_bytes(name)), "").unwrap();
    }
    let toc = open(&dir, "??x", 1).listing().unwrap();
    assert!(toc.get(b"\xff\xfe").is_some());
    assert_eq!(toc.len(), 5);
}

#[test]
fn an_unreadable_directory_is_an_error_unless_it_is_left_out() {
    let dir = scratch(&["a", "secret/x"]);
    let secret = dir.path().join("c/secret");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read_dir(&secret).is_ok() {
        eprintln!("SKIP root reads everything");
        return;
    }
    let error = open(&dir, "", 1).listing().map(|_| ()).unwrap_err();
    assert!(error.to_string().contains(".dockerignore"), "{error}");
    assert_eq!(list(&dir, "secret"), ["a"]);
    assert_eq!(list(&dir, "secret\n!**/y"), ["a"]);
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o700)).unwrap();
}
