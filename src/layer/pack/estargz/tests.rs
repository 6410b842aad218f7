//! Blobs as the specification has them, judged by a reader that knows nothing of this writer.

use std::io::Cursor;

use proptest::prelude::*;

use super::*;
use crate::layer::compress::{Compression, Decoder};
use crate::layer::pack::pack;
use crate::layer::toc::Toc;

#[path = "../../../../tests/support/estargz.rs"]
mod judge;

const MIB: u64 = 1 << 20;

fn options(threads: usize) -> PackOptions {
    PackOptions { compression: Compression::ESTARGZ, threads, epoch: None }
}

fn entry(path: &str, kind: Kind) -> Entry {
    let path = RootPath::from(path);
    Entry { path, kind, mode: 0o4755, uid: 1, gid: 70_000, mtime: 100, xattrs: Xattrs::new() }
}

fn file(path: &str, size: u64) -> Entry {
    entry(path, Kind::File { size, digest: None })
}

/// The content of a file: noise for names that end in `r`, text for others.
fn content(path: &[u8], size: u64) -> Vec<u8> {
    let mut state = path.iter().fold(size | 1, |sum, &b| sum.wrapping_mul(31) + u64::from(b));
    let noisy = path.ends_with(b"r");
    let mut out = Vec::with_capacity(size as usize + 8);
    while out.len() < size as usize {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let word = if noisy { state ^ state >> 29 } else { state & 0x0707_0707 | 0x6161_6161_6161 };
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.truncate(size as usize);
    out
}

fn open(entry: &EntryRef<'_>) -> io::Result<Box<dyn Read>> {
    let KindRef::File { size, .. } = entry.kind else { panic!("{:?} has no content", entry.kind) };
    Ok(Box::new(Cursor::new(content(entry.path, size))))
}

fn packed(toc: &Toc, threads: usize) -> (Packed, Vec<u8>) {
    let mut blob = Vec::new();
    let packed = pack(toc, &mut open, options(threads), &mut blob).unwrap();
    (packed, blob)
}

/// Packs, has the blob judged, and reads it back; gives the rows of its table.
fn check(toc: &Toc, threads: &[usize]) -> Vec<serde_json::Value> {
    let (first, blob) = packed(toc, 1);
    assert_eq!((first.digest, first.size), (Digest::of(&blob), blob.len() as u64));
    let annotations = first.annotations();
    let rows = judge::check(&blob, &annotations[TOC_DIGEST], &annotations[UNCOMPRESSED_SIZE]);
    let mut tar = Vec::new();
    Decoder::new(&blob[..]).unwrap().read_to_end(&mut tar).unwrap();
    assert_eq!(first.diff_id, DiffId(Digest::of(&tar)));
    assert_eq!(first.diff_size, tar.len() as u64);
    let mut reader = tar::Reader::new(&tar[..]);
    let mut read = Vec::new();
    while let Some((entry, mut data)) = reader.next_entry().unwrap() {
        let mut bytes = Vec::new();
        data.read_to_end(&mut bytes).unwrap();
        if is_reserved(entry.path.as_bytes()) {
            continue;
        }
        if let Kind::File { size, .. } = entry.kind {
            assert!(bytes == content(entry.path.as_bytes(), size));
        }
        read.push(entry);
    }
    assert_eq!(read.into_iter().collect::<Toc>(), *toc);
    assert!(detect(&mut Cursor::new(&blob)).unwrap());
    for &threads in threads {
        assert!(packed(toc, threads) == (first, blob.clone()), "{threads} threads");
    }
    rows
}

#[test]
fn blobs_are_as_the_specification_has_them() {
    let (odd, empty) = (file("d/odd", 5), file("d/empty", 0));
    let xattr: Xattrs = [(b"user.a".to_vec(), vec![0, 255])].into();
    let special = [
        entry("d", Kind::Dir),
        odd,
        empty,
        Entry { xattrs: xattr, ..entry("d/with", Kind::Symlink(b"odd".to_vec())) },
        entry("d/zhard", Kind::Hardlink("d/odd".into())),
        entry("d/char", Kind::CharDevice { major: 1, minor: 300 }),
        entry("d/block", Kind::BlockDevice { major: 8, minor: 0 }),
        entry("d/fifo", Kind::Fifo),
        Entry::whiteout("d/gone".into()),
        Entry { mtime: -400_000_000_000, ..file(&"long/".repeat(60), 3) },
        Entry { mtime: -1, ..file("ü", 600) },
    ];
    let rows = check(&special.into_iter().collect(), &[0, 2, 5]);
    let of = |name: &str| rows.iter().find(|row| row["name"] == name).unwrap().clone();
    assert_eq!(of("d/")["type"], "dir");
    assert_eq!(of("d/odd")["mode"], 0o4755);
    assert_eq!(of("d/odd")["modtime"], "1970-01-01T00:01:40Z");
    assert_eq!((of("d/odd")["uid"].as_u64(), of("d/odd")["gid"].as_u64()), (Some(1), Some(70_000)));
    assert_eq!(of("d/with")["xattrs"], serde_json::json!({"user.a": "AP8="}));
    assert_eq!(
        (&of("d/with")["linkName"], &of("d/zhard")["linkName"]),
        (&"odd".into(), &"d/odd".into())
    );
    assert_eq!(of("d/char")["devMinor"], 300);
    assert_eq!(of("d/.wh.gone")["type"], "reg");
    assert_eq!(of("d/empty").get("offset"), None);
    assert_eq!(of("ü")["modtime"], "1969-12-31T23:59:59Z");
    check(&Toc::default(), &[2]);
    // Pieces, blocks, and what stands between them; many files that share a block.
    for sizes in [
        vec![4 * MIB, 4 * MIB + 1, 1],
        vec![9 * MIB, 3],
        vec![3 * MIB; 2],
        (0..2000).map(|n| n % 700).collect(),
    ] {
        let name = |n: usize| format!("{n}.{}", if n.is_multiple_of(2) { "t" } else { "r" });
        let files = sizes.iter().enumerate().map(|(n, &size)| file(&name(n), size));
        let rows = check(&files.collect(), &[3]);
        let chunks = rows.iter().filter(|row| row["type"] == "chunk").count() as u64;
        assert_eq!(chunks, sizes.iter().map(|size| size.div_ceil(4 * MIB).max(1) - 1).sum::<u64>());
    }
    // More headers than a block holds, in front of everything and between files.
    let dirs = (0..9_000).map(|n| entry(&format!("d{n}"), Kind::Dir));
    check(&dirs.chain([file("a", 3 * MIB), file("z", 5 * MIB)]).collect(), &[2]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]
    #[test]
    fn any_layer_reads_back(sizes in proptest::collection::vec(
        prop_oneof![Just(0u64), 0..2000u64, (4 * MIB - 600)..(4 * MIB + 600), 0..5 * MIB], 0..3),
        threads in 1..4usize,
    ) {
        let files = sizes.iter().enumerate().map(|(n, &size)| file(&format!("{n}"), size));
        check(&files.collect(), &[threads]);
    }
}

#[test]
fn a_tar_is_converted_to_what_packing_makes() {
    let toc: Toc =
        [file("a", 6 * MIB), entry("d", Kind::Dir), file("d/b", 77)].into_iter().collect();
    let (direct, blob) = packed(&toc, 2);
    let plain = PackOptions { compression: Compression::None, ..options(1) };
    let mut tar = Vec::new();
    pack(&toc, &mut open, plain, &mut tar).unwrap();
    let mut converted = Vec::new();
    assert_eq!(convert(&mut &tar[..], options(2), &mut converted).unwrap(), direct);
    assert!(converted == blob);
    // One that was eStargz already keeps one table and one landmark.
    let mut tar = Vec::new();
    Decoder::new(&blob[..]).unwrap().read_to_end(&mut tar).unwrap();
    let mut again = Vec::new();
    assert_eq!(convert(&mut &tar[..], options(2), &mut again).unwrap(), direct);
    // A tar that is cut off says so.
    let error = convert(&mut &tar[..2 * MIB as usize], options(2), &mut Vec::new()).unwrap_err();
    assert!(matches!(error, Error::Content { .. }), "{error:?}");
    let error =
        convert(&mut &b"no tar at all, of 512 bytes".repeat(20)[..], options(2), &mut Vec::new());
    assert!(matches!(error, Err(Error::Read(_))));
}

#[test]
fn what_the_table_cannot_hold_is_refused() {
    let latin = Entry { path: RootPath::clean(b"caf\xe9"), ..file("x", 1) };
    let link = entry("l", Kind::Symlink(b"\xff".to_vec()));
    let xattr = Entry { xattrs: [(b"user.\xff".to_vec(), vec![])].into(), ..file("x", 1) };
    let other = entry("z", Kind::Hardlink(TABLE.into()));
    for (entries, expect) in [
        (vec![latin], "its name is not UTF-8"),
        (vec![link], "its target is not UTF-8"),
        (vec![xattr], "its extended attribute's name is not UTF-8"),
        (vec![file(TABLE, 1), other], "another name of a file that eStargz keeps for itself"),
    ] {
        let toc: Toc = entries.into_iter().collect();
        let error = pack(&toc, &mut open, options(1), &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains(expect), "{error}");
    }
}

#[test]
fn other_blobs_are_not_taken_for_estargz() {
    let (_, blob) = packed(&[file("a", 5)].into_iter().collect(), 1);
    for other in [&b""[..], &[0; 51], &[0; 52], &blob[1..blob.len() - 1], &blob[blob.len() - 51..]]
    {
        assert!(!detect(&mut Cursor::new(other)).unwrap());
    }
}

#[test]
fn the_bytes_of_a_blob_never_change() {
    let (packed, _) = packed(&[file("a", 10), file("b", 20)].into_iter().collect(), 1);
    insta::assert_snapshot!(packed.diff_id, @"sha256:809b22cd267eedb0a67a20e7f41fc74c19bd449dd8f7fd439ded08843f80c72e");
}
