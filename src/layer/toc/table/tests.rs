//! Tables: order, replacement, lookup, digests, and the form on disk.

use proptest::prelude::*;

use super::super::{Error, Kind, LayerId};
use super::*;

fn entry(path: &str, kind: Kind) -> Entry {
    let path = RootPath::from(path);
    Entry { path, kind, mode: 0o644, uid: 1, gid: 2, mtime: 3, xattrs: Xattrs::new() }
}

fn file(path: &str, size: u64) -> Entry {
    entry(path, Kind::File { size, digest: None })
}

fn link(path: &str, target: &str) -> Entry {
    entry(path, Kind::Hardlink(target.into()))
}

fn opaque(path: &str) -> Entry {
    Entry { kind: Kind::Opaque, ..Entry::whiteout(path.into()) }
}

/// Draws rows: `path`, `path/`, `path=target`, `-path`, `path!`.
fn draw<'a>(rows: impl IntoIterator<Item = EntryRef<'a>>) -> String {
    let rows = rows.into_iter().map(|row| {
        let path = String::from_utf8_lossy(row.path);
        match row.kind {
            KindRef::Dir => format!("{path}/"),
            KindRef::Hardlink(target) => format!("{path}={}", String::from_utf8_lossy(target)),
            KindRef::Whiteout => format!("-{path}"),
            KindRef::Opaque => format!("{path}!"),
            _ => path.into_owned(),
        }
    });
    rows.collect::<Vec<_>>().join(" ")
}

fn toc(entries: impl IntoIterator<Item = Entry>) -> Toc {
    entries.into_iter().collect()
}

#[test]
fn a_row_is_small() {
    assert!(size_of::<Row>() <= 80);
    let mut builder = TocBuilder::new();
    for i in 0..100_000 {
        builder
            .push(file(&format!("usr/share/some/directory/{:03}/file-number-{i:06}", i / 1000), i));
    }
    let toc = builder.finish();
    let per_row = toc.heap_size() / toc.len();
    assert!(per_row <= 150, "{per_row} bytes a row");
}

#[test]
fn rows_are_sorted_and_the_last_entry_for_a_path_wins() {
    let dir = |path: &str| entry(path, Kind::Dir);
    for (what, entries, expect) in [
        ("order", vec![file("a-b", 0), file("a/b", 0), dir("a"), file("a.b", 0)], "a/ a/b a-b a.b"),
        ("duplicate", vec![file("a", 1), dir("b"), dir("a")], "a/ b/"),
        ("marks beside", vec![opaque("a"), dir("a"), Entry::whiteout("a".into())], "-a a/ a!"),
        ("marks twice", vec![opaque("a"), opaque("a")], "a!"),
        ("root", vec![file("a", 0), dir("/"), dir("")], "/ a"),
        ("nothing", vec![], ""),
    ] {
        assert_eq!(draw(toc(entries).iter()), expect, "{what}");
    }
    let late = toc([file("a", 1), file("b", 0), file("a", 2)]);
    assert_eq!(late.get(b"a").map(|row| row.kind), Some(KindRef::File { size: 2, digest: None }));
    let root = |mtime| Entry { mtime, ..entry("", Kind::Dir) };
    let late = toc([root(1), file("a", 0), root(2), root(3)]);
    assert_eq!(late.get(b"").map(|row| row.mtime), Some(3));
}

#[test]
fn rows_are_found_by_path() {
    let toc = toc([
        entry("a", Kind::Dir),
        file("a/x", 0),
        file("a/y/z", 0),
        Entry::whiteout("a/w".into()),
        opaque("a"),
        file("a-", 0),
        file("b", 0),
    ]);
    assert_eq!(draw(toc.get(b"a/x")), "a/x");
    assert!(toc.get(b"a/w").is_none() && toc.get(b"a/y").is_none() && toc.get(b"c").is_none());
    assert!(toc.whiteout(b"a/w") && !toc.whiteout(b"a/x") && !toc.whiteout(b"a"));
    assert!(toc.opaque(b"a") && !toc.opaque(b"b"));
    assert_eq!(draw(toc.below(b"a")), "-a/w a/x a/y/z");
    assert_eq!(draw(toc.below(b"a/y")), "a/y/z");
    assert_eq!(draw(toc.below(b"")), "a/ a! -a/w a/x a/y/z a- b");
    assert_eq!(draw(toc.below(b"b")), "");
    assert_eq!(toc.implicit_dirs(), [&b"a/y"[..]]);
}

#[test]
fn unlisted_directories_are_named_once() {
    for (entries, expect) in [
        (vec![file("a/b/c", 0), file("a/b/d", 0), file("a/e", 0)], "a a/b"),
        (vec![entry("a", Kind::Dir), file("a/b/c", 0)], "a/b"),
        (vec![file("a/b", 0), file("a-/b", 0), file("a.b", 0)], "a a-"),
        (vec![Entry::whiteout("a".into()), file("a/b", 0), file("a/c", 0)], "a"),
        (vec![opaque("a"), file("a/b", 0)], "a"),
        (vec![entry("a", Kind::Dir), opaque("a"), file("a/b", 0)], ""),
        (vec![Entry::whiteout("a/b".into())], "a"),
    ] {
        let toc = toc(entries);
        let dirs: Vec<_> = toc.implicit_dirs().iter().map(|d| String::from_utf8_lossy(d)).collect();
        assert_eq!(dirs.join(" "), expect, "{toc:?}");
    }
}

#[test]
fn marks_have_no_attributes() {
    let xattrs = Xattrs::from([(b"user.a".to_vec(), vec![1])]);
    let a = toc([Entry { xattrs, ..entry("a", Kind::Whiteout) }]);
    assert_eq!(a, toc([Entry::whiteout("a".into())]));
    assert_eq!(a.digest(), toc([Entry::whiteout("a".into())]).digest());
}

#[test]
fn the_first_name_of_a_file_is_the_file() {
    for (what, entries, expect) in [
        ("in order", vec![file("a", 1), link("b", "a")], "a b=a"),
        ("target later", vec![link("a", "b"), file("b", 1)], "a b=a"),
        ("three", vec![link("a", "b"), file("b", 1), link("c", "b")], "a b=a c=a"),
        ("chain", vec![file("c", 1), link("b", "c"), link("a", "b")], "a b=a c=a"),
        (
            "two files",
            vec![link("a", "d"), link("b", "c"), file("c", 1), file("d", 1)],
            "a b c=b d=a",
        ),
        ("nowhere", vec![link("a", "x")], "a=x"),
        ("circle", vec![link("a", "b"), link("b", "a")], "a=b b=a"),
        ("directory", vec![link("a", "b"), entry("b", Kind::Dir)], "a=b b/"),
        ("symlink", vec![link("a", "b"), entry("b", Kind::Symlink(b"t".to_vec()))], "a b=a"),
    ] {
        let toc = toc(entries);
        assert_eq!(draw(toc.iter()), expect, "{what}");
    }
    let digest = Digest::of(b"x");
    let kind = Kind::File { size: 9, digest: Some(digest) };
    let toc = toc([Entry { mode: 0, uid: 0, ..link("a", "b") }, entry("b", kind)]);
    assert_eq!(toc.at(0).kind, KindRef::File { size: 9, digest: Some(digest) });
    assert_eq!((toc.at(0).uid, toc.at(1).uid), (1, 1), "one file has one owner");
    assert!(toc.check().is_ok());
}

#[test]
fn faults_are_found() {
    for (what, entries, expect) in [
        ("fine", vec![entry("a", Kind::Dir), file("a/b", 0)], None),
        ("below a file", vec![file("a", 0), file("a/b/c", 0)], Some("/a/b/c lies below /a")),
        (
            "below a link",
            vec![entry("a", Kind::Symlink(b"b".into())), file("a/b", 0)],
            Some("/a/b lies"),
        ),
        ("beside a file", vec![file("a", 0), file("a-b", 0)], None),
        ("whiteout below a file", vec![file("a", 0), Entry::whiteout("a/b".into())], Some("/a/b")),
        ("replaced directory", vec![Entry::whiteout("a".into()), file("a/b", 0)], None),
        ("root", vec![file("", 0)], Some("root")),
        ("root deleted", vec![Entry::whiteout("".into())], Some("root")),
        ("link", vec![link("a", "b")], Some("hard link /a names /b")),
    ] {
        let found = toc(entries).check().err().map(|fault| fault.to_string());
        match expect {
            None => assert_eq!(found, None, "{what}"),
            Some(part) => {
                assert!(found.clone().is_some_and(|f| f.contains(part)), "{what}: {found:?}")
            }
        }
    }
}

#[test]
fn whiteouts_come_before_their_siblings_in_a_tar() {
    let w = |path: &str| Entry::whiteout(path.into());
    let d = |path: &str| entry(path, Kind::Dir);
    for (entries, expect) in [
        (vec![d("a"), file("a/b", 0), w("a/c"), file("a/d", 0)], "a/ -a/c a/b a/d"),
        (vec![file("a", 0), w("z"), w("y")], "-y -z a"),
        (vec![d("a"), d("a/b"), w("a/b/y"), w("a/x")], "a/ -a/x a/b/ -a/b/y"),
        (vec![w("a/b/y"), w("a/x"), file("a/b/c", 0)], "-a/x -a/b/y a/b/c"),
        (vec![d("a"), opaque("a"), w("a/x"), file("a/b", 0)], "a/ a! -a/x a/b"),
        (vec![w("a"), d("a"), file("a/b", 0), w("a/c")], "-a a/ -a/c a/b"),
        (vec![file("a", 0), w("b/c")], "a -b/c"),
    ] {
        let toc = toc(entries);
        let order = toc.tar_order();
        assert_eq!(draw(order.iter().map(|&row| toc.at(row))), expect);
        assert_eq!(order.len(), toc.len());
    }
}

#[test]
fn digests_cover_everything_but_order_and_optionally_mtimes() {
    let base =
        || vec![entry("a", Kind::Dir), file("a/b", 1), entry("c", Kind::Symlink(b"x".into()))];
    let digest = toc(base()).digest();
    let mut turned = base();
    turned.reverse();
    assert_eq!(toc(turned).digest(), digest);
    let xattrs = Xattrs::from([(b"user.x".to_vec(), b"1".to_vec())]);
    let content = Some(Digest::of(b"b"));
    let changes: Vec<(&str, Entry)> = vec![
        ("mode", Entry { mode: 0o755, ..file("a/b", 1) }),
        ("uid", Entry { uid: 9, ..file("a/b", 1) }),
        ("gid", Entry { gid: 9, ..file("a/b", 1) }),
        ("size", file("a/b", 2)),
        ("xattrs", Entry { xattrs, ..file("a/b", 1) }),
        ("content", entry("a/b", Kind::File { size: 1, digest: content })),
        ("kind", entry("a/b", Kind::Fifo)),
        ("target", entry("c", Kind::Symlink(b"y".into()))),
        ("more", file("d", 0)),
    ];
    for (what, change) in changes {
        let changed = toc(base().into_iter().chain([change]));
        assert_ne!(changed.digest(), digest, "{what}");
        assert_ne!(changed.digest_without_mtimes(), toc(base()).digest_without_mtimes(), "{what}");
    }
    let later = toc(base().into_iter().map(|entry| Entry { mtime: 7, ..entry }));
    assert_ne!(later.digest(), digest);
    assert_eq!(later.digest_without_mtimes(), toc(base()).digest_without_mtimes());
    assert_eq!(later.digest_clamped(Some(3)), toc(base()).digest_clamped(Some(3)));
    assert_eq!(later.digest_clamped(None), later.digest());
    let mut known = toc(base());
    known.set_digest(known.index_of(b"a/b").expect("a/b"), Digest::of(b"b"));
    assert_ne!(known.digest(), digest);
    // Recorded so that a change, which invalidates every cache, is a decision.
    insta::assert_snapshot!(digest.to_string(), @"sha256:bfe84114b164e06df851444273c6d2d7a815d6897e1a79e7d7b0124774f0396f");
}

#[test]
fn xattrs_are_cleaned_and_shared() {
    let v3 = [&[0, 0, 0, 3][..], &[1; 20]].concat();
    let xattrs = Xattrs::from([
        (b"trusted.overlay.opaque".to_vec(), b"y".to_vec()),
        (b"user.overlay.origin".to_vec(), b"y".to_vec()),
        (b"security.capability".to_vec(), v3.clone()),
    ]);
    let only_overlay = Xattrs::from([(b"user.overlay.opaque".to_vec(), b"y".to_vec())]);
    let toc = toc([
        Entry { xattrs: xattrs.clone(), ..file("a", 0) },
        Entry { xattrs, ..file("b", 0) },
        Entry { xattrs: only_overlay, ..file("c", 0) },
    ]);
    let cleaned =
        Xattrs::from([(b"security.capability".to_vec(), [&[0, 0, 0, 2][..], &v3[4..20]].concat())]);
    assert_eq!((toc.at(0).xattrs, toc.at(1).xattrs), (&cleaned, &cleaned));
    assert!(toc.at(2).xattrs.is_empty());
    assert_eq!(toc.sets.len(), 1);
}

#[test]
fn damaged_tables_are_refused() {
    let toc = toc((0..2000).map(|i| file(&format!("dir/file{i}"), i)));
    let mut bytes = Vec::new();
    toc.write_to(&mut bytes).expect("write");
    assert_eq!(Toc::read_from(&mut &bytes[..]).expect("read"), toc);
    for at in (0..bytes.len()).step_by(37).chain([0, 4, 5, bytes.len() - 1]) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x11;
        assert!(Toc::read_from(&mut &damaged[..]).is_err(), "byte {at}");
        assert!(Toc::read_from(&mut &bytes[..at]).is_err(), "cut at {at}");
    }
    let mut other = bytes.clone();
    other[5] = 99;
    assert!(matches!(Toc::read_from(&mut &other[..]), Err(Error::Version(99))));
    assert!(matches!(Toc::read_from(&mut &b"{\"json\": true}"[..]), Err(Error::Magic)));
    // A length that asks for all memory.
    let huge = [&b"LSTOC\x01\x00"[..], &[0xff; 9], &[1]].concat();
    assert!(Toc::read_from(&mut &huge[..]).is_err());
}

#[test]
fn layer_names_are_read_back() {
    let digest = Digest::of(b"");
    for id in [
        LayerId::from_diff_id(crate::oci::DiffId(digest)),
        LayerId::from_toc_digest(digest),
        LayerId::from_run_key(digest),
    ] {
        assert_eq!(LayerId::parse(id.as_str()), Some(id));
    }
    for text in ["", "d-", "x-", "d-00", "../x"] {
        assert_eq!(LayerId::parse(text), None);
    }
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let path = prop::collection::vec("[a-c./-]{1,3}", 0..4).prop_map(|parts| parts.join("/"));
    let kind = prop_oneof![
        Just(Kind::Dir),
        Just(Kind::Whiteout),
        Just(Kind::Opaque),
        Just(Kind::Fifo),
        (any::<u64>(), any::<Option<[u8; 32]>>())
            .prop_map(|(size, digest)| Kind::File { size, digest: digest.map(Digest::from_bytes) }),
        prop::collection::vec(any::<u8>(), 0..9).prop_map(Kind::Symlink),
        "[a-c/]{1,4}".prop_map(|path| Kind::Hardlink(path.as_str().into())),
        any::<(u32, u32)>().prop_map(|(major, minor)| Kind::CharDevice { major, minor }),
        any::<(u32, u32)>().prop_map(|(major, minor)| Kind::BlockDevice { major, minor }),
    ];
    let bytes = prop::collection::vec(any::<u8>(), 0..4);
    let xattrs = prop::collection::btree_map(bytes.clone(), bytes, 0..3);
    (path, kind, 0u32..0o10000, any::<(u32, u32)>(), any::<i64>(), xattrs).prop_map(
        |(path, kind, mode, (uid, gid), mtime, xattrs)| Entry {
            mode,
            uid,
            gid,
            mtime,
            xattrs,
            ..entry(&path, kind)
        },
    )
}

proptest! {
    #[test]
    fn the_form_on_disk_keeps_everything(entries in prop::collection::vec(any_entry(), 0..40)) {
        let toc = toc(entries);
        let mut bytes = Vec::new();
        toc.write_to(&mut bytes).expect("write");
        let read = Toc::read_from(&mut &bytes[..]).expect("read");
        prop_assert_eq!(&read, &toc);
        prop_assert_eq!(read.digest(), toc.digest());
        prop_assert_eq!(read.has_marks(), toc.has_marks());
        // Pushing what it holds makes the same table.
        prop_assert_eq!(&toc.iter().map(|row| row.to_entry()).collect::<Toc>(), &toc);
    }

    #[test]
    fn lookups_agree_with_a_scan(entries in prop::collection::vec(any_entry(), 0..40)) {
        let toc = toc(entries);
        let order: Vec<_> = toc.iter().collect();
        prop_assert!(order.is_sorted_by(|a, b| compare(a.path, b.path).is_le()));
        for row in &order {
            let is = |kind: KindRef| order.iter().any(|r| r.path == row.path && r.kind == kind);
            prop_assert_eq!(toc.whiteout(row.path), is(KindRef::Whiteout));
            prop_assert_eq!(toc.opaque(row.path), is(KindRef::Opaque));
            let real = order.iter().find(|r| r.path == row.path && !r.kind.is_mark()).copied();
            prop_assert_eq!(toc.get(row.path), real);
            let below = order.iter().filter(|r| is_below(r.path, row.path)).copied();
            prop_assert_eq!(toc.below(row.path).collect::<Vec<_>>(), below.collect::<Vec<_>>());
        }
        let implicit = toc.implicit_dirs();
        for row in &order {
            for dir in row.root_path().ancestors() {
                let listed = toc.get(dir.as_bytes()).is_some();
                prop_assert_eq!(implicit.contains(&dir.as_bytes()), !listed, "{:?}", dir);
            }
        }
        let mut sorted = toc.tar_order();
        sorted.sort_unstable();
        prop_assert!(sorted.into_iter().eq(0..toc.len()));
    }
}
