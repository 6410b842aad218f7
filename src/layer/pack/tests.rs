//! What is packed is what was listed, whatever the format and the threads; failures name their cause.

use super::*;
use crate::layer::compress::Decoder;
use crate::layer::toc::{Entry, Kind, Xattrs};

const FORMATS: [Compression; 3] = [Compression::GZIP, Compression::ZSTD, Compression::None];

fn entry(path: &str, kind: Kind) -> Entry {
    let path = RootPath::from(path);
    Entry { path, kind, mode: 0o644, uid: 0, gid: 0, mtime: 100, xattrs: Xattrs::new() }
}

fn file(path: &str, size: usize) -> Entry {
    entry(path, Kind::File { size: size as u64, digest: None })
}

/// The content of a file: text or noise, from its name and size.
fn content(path: &[u8], size: usize) -> Vec<u8> {
    let mut state = path.iter().fold(size as u64 | 1, |sum, &b| sum * 31 + u64::from(b));
    let noisy = path.ends_with(b"r");
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as u8
    };
    (0..size).map(|_| if noisy { next() } else { b'a' + next() % 8 }).collect()
}

fn open(entry: &EntryRef<'_>) -> io::Result<Box<dyn Read>> {
    match entry.kind {
        KindRef::File { size, .. } => {
            Ok(Box::new(io::Cursor::new(content(entry.path, size as usize))))
        }
        other => panic!("{other:?} has no content"),
    }
}

fn layer(sizes: &[usize]) -> Toc {
    let files = sizes.iter().enumerate().map(|(i, &size)| {
        let ending = if i % 2 == 0 { "t" } else { "r" };
        file(&format!("d/{i}.{ending}"), size)
    });
    let other = [
        entry("d", Kind::Dir),
        Entry::whiteout("d/gone".into()),
        entry("d/link", Kind::Symlink(b"0.t".to_vec())),
        entry("d/zhard", Kind::Hardlink("d/0.t".into())),
    ];
    files.chain(other).collect()
}

fn options(compression: Compression, threads: usize) -> PackOptions {
    PackOptions { compression, threads, epoch: None }
}

fn packed(toc: &Toc, options: PackOptions) -> (Packed, Vec<u8>) {
    let mut blob = Vec::new();
    let packed = pack(toc, &mut open, options, &mut blob).expect("pack");
    (packed, blob)
}

#[test]
fn a_packed_layer_reads_back_as_it_was_listed() {
    for sizes in [&[][..], &[0], &[5, 6], &[1_000_000, 2_000_000, 3_000_001], &[255_000, 512, 0, 1]]
    {
        let toc = layer(if sizes.is_empty() { &[1] } else { sizes });
        let toc = if sizes.is_empty() { Toc::default() } else { toc };
        let mut diff = None;
        for compression in FORMATS {
            let (first, blob) = packed(&toc, options(compression, 1));
            assert_eq!(first.digest, Digest::of(&blob));
            assert_eq!(first.size, blob.len() as u64);
            let mut tar = Vec::new();
            Decoder::new(&blob[..]).expect("decode").read_to_end(&mut tar).expect("decode");
            assert_eq!(first.diff_id, DiffId(Digest::of(&tar)));
            assert_eq!(first.diff_size, tar.len() as u64);
            assert_eq!(
                *diff.get_or_insert(first.diff_id),
                first.diff_id,
                "one tar for all formats"
            );
            for threads in [0, 2, 5] {
                let other = packed(&toc, options(compression, threads));
                assert!(other == (first, blob.clone()), "{compression:?} on {threads} threads");
            }
            let mut reader = tar::Reader::new(&tar[..]);
            let mut read = Vec::new();
            while let Some((entry, mut data)) = reader.next_entry().expect("tar") {
                let mut bytes = Vec::new();
                data.read_to_end(&mut bytes).expect("content");
                if let Kind::File { size, .. } = entry.kind {
                    assert!(bytes == content(entry.path.as_bytes(), size as usize));
                }
                read.push(entry);
            }
            assert_eq!(read.into_iter().collect::<Toc>(), toc);
        }
    }
}

#[test]
fn the_bytes_of_a_layer_never_change() {
    // The DiffId is part of every image and of our keys: a change here breaks both.
    let (packed, _) = packed(&layer(&[10, 20]), options(Compression::None, 1));
    assert_eq!(packed.digest, packed.diff_id.0);
    insta::assert_snapshot!(packed.diff_id, @"sha256:f460d6cb8e0a4c5aff22e58dcb93c5238538d47a30f232bdcc191927bbd70de0");
}

#[test]
fn an_epoch_clamps_later_times_only() {
    let toc: Toc = [Entry { mtime: 50, ..file("a", 0) }, Entry { mtime: 150, ..file("b", 0) }]
        .into_iter()
        .collect();
    let epoch = |epoch| PackOptions { epoch, ..options(Compression::None, 1) };
    let (_, blob) = packed(&toc, epoch(Some(100)));
    let mut reader = tar::Reader::new(&blob[..]);
    let mut times = Vec::new();
    while let Some((entry, _)) = reader.next_entry().expect("tar") {
        times.push(entry.mtime);
    }
    assert_eq!(times, [50, 100]);
    assert_eq!(packed(&toc, epoch(Some(150))), packed(&toc, epoch(None)));
}

#[test]
fn a_file_that_changed_is_named() {
    for (listed, has, expect) in [
        (10, 9, "/f changed while it was read: 10 bytes were listed, it has only 9"),
        (10, 11, "/f changed while it was read: 10 bytes were listed, it has more"),
        (
            9_000_000,
            8_999_999,
            "/f changed while it was read: 9000000 bytes were listed, it has only 8999999",
        ),
    ] {
        let toc: Toc = [file("f", listed)].into_iter().collect();
        let mut open = |_: &EntryRef<'_>| -> io::Result<Box<dyn Read>> {
            Ok(Box::new(io::repeat(b'x').take(has)))
        };
        let error = pack(&toc, &mut open, options(Compression::GZIP, 2), &mut Vec::new());
        let error = error.expect_err("changed");
        assert!(matches!(error, Error::Changed { .. }));
        assert_eq!(error.to_string(), expect);
    }
}

#[test]
fn unreadable_content_is_named() {
    let toc = layer(&[3_000_000, 3_000_000]);
    let mut opened = 0;
    let mut open = |entry: &EntryRef<'_>| {
        opened += 1;
        if opened == 2 { Err(io::ErrorKind::PermissionDenied.into()) } else { open(entry) }
    };
    let error = pack(&toc, &mut open, options(Compression::GZIP, 2), &mut Vec::new());
    match error.expect_err("unreadable") {
        Error::Content { path, source } => {
            assert_eq!(path, "d/1.r".into());
            assert_eq!(source.kind(), io::ErrorKind::PermissionDenied);
        }
        other => panic!("{other:?}"),
    }
}

/// A writer with room for some bytes.
struct Disk(usize);

impl Write for Disk {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(data.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_reported_as_such_wherever_it_happens() {
    let toc = layer(&[4_000_000, 4_000_000, 4_000_000, 100]);
    for compression in FORMATS {
        let (whole, _) = packed(&toc, options(compression, 2));
        for room in [0, 100, 1 << 20, whole.size as usize - 1] {
            let error = pack(&toc, &mut open, options(compression, 2), &mut Disk(room));
            match error.expect_err("full") {
                Error::Write(cause) => assert_eq!(cause.kind(), io::ErrorKind::StorageFull),
                other => panic!("{other:?}"),
            }
        }
    }
    let tiny = layer(&[1]);
    let error = pack(&tiny, &mut open, options(Compression::GZIP, 2), &mut Disk(0));
    assert!(
        matches!(error, Err(Error::Write(cause)) if cause.kind() == io::ErrorKind::StorageFull)
    );
}

#[test]
fn names_that_mean_deletion_are_refused() {
    let toc: Toc = [file("d/.wh.x", 1)].into_iter().collect();
    let error = pack(&toc, &mut open, options(Compression::GZIP, 2), &mut Vec::new());
    let text = error.expect_err("reserved").to_string();
    assert!(text.starts_with("tar entry \"d/.wh.x\": names that start with .wh."), "{text}");
}
