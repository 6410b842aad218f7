//! Tells archives from other files by their content, for ADD: never by name, as Docker does.

use std::io::{self, Read};

use super::compress::{Decoder, Format};
use super::tar;

/// How many first bytes of a file [`detect`] wants to see: one tar header.
pub const DETECT_LEN: usize = 512;

/// What the first bytes of a file say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// A tar archive, not compressed.
    Tar,
    /// A compressed stream; only decompression tells whether a tar is inside.
    Compressed(Format),
    /// Neither.
    Other,
}

/// Looks at the first bytes of a file (at least [`DETECT_LEN`] of them unless it is shorter).
pub fn detect(head: &[u8]) -> Detected {
    match Format::detect(head) {
        Some(format) => Detected::Compressed(format),
        None if tar::is_header(head) => Detected::Tar,
        None => Detected::Other,
    }
}

/// Says whether a stream is a tar archive, plain or compressed. Reads only its beginning. A
/// compressed file that cannot be decompressed is no archive but an ordinary file.
pub fn is_archive(mut file: impl Read + Send) -> io::Result<bool> {
    let mut head = Vec::with_capacity(DETECT_LEN);
    (&mut file).take(DETECT_LEN as u64).read_to_end(&mut head)?;
    match detect(&head) {
        Detected::Tar => Ok(true),
        Detected::Other => Ok(false),
        Detected::Compressed(_) => {
            let Ok(decoder) = Decoder::new(io::Cursor::new(head).chain(file)) else {
                return Ok(false);
            };
            let mut inside = Vec::with_capacity(DETECT_LEN);
            let read = decoder.take(DETECT_LEN as u64).read_to_end(&mut inside);
            Ok(read.is_ok() && tar::is_header(&inside))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::layer::{Compression, Entry, Kind, RootPath};

    fn tar_bytes() -> Vec<u8> {
        let mut writer = tar::Writer::new(Vec::new());
        let entry = Entry {
            path: RootPath::from("a"),
            kind: Kind::Dir,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: Default::default(),
        };
        writer.owned_entry(&entry, &mut io::empty()).expect("entry");
        writer.finish().expect("tar")
    }

    fn compress(data: &[u8], compression: Compression) -> Vec<u8> {
        let mut encoder = crate::layer::compress::Encoder::new(Vec::new(), compression, 1);
        encoder.write_all(data).expect("compress");
        encoder.finish().expect("compress")
    }

    #[test]
    fn archives_are_told_by_content() {
        let tar = tar_bytes();
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(&tar).expect("bzip2");
        let xz = include_bytes!("../../testdata/layer/hello.tar.xz");
        let gzip = compress(&tar, Compression::GZIP);
        for (what, file, expect) in [
            ("tar", tar.clone(), true),
            ("gzip", gzip.clone(), true),
            ("zstd", compress(&tar, Compression::ZSTD), true),
            ("bzip2", bzip2.finish().expect("bzip2"), true),
            ("xz", xz.to_vec(), true),
            ("gzip of text", compress(b"hello", Compression::GZIP), false),
            ("gzip within gzip", compress(&gzip, Compression::GZIP), false),
            ("broken gzip", gzip[..20].to_vec(), false),
            ("text", b"hello".to_vec(), false),
            ("zeros", vec![0; 10240], false),
            ("nothing", Vec::new(), false),
        ] {
            assert_eq!(is_archive(&file[..]).expect(what), expect, "{what}");
        }
    }
}
