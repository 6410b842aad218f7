//! A judge of eStargz blobs, written from docs/estargz.md of stargz-snapshotter and from nothing of ours. The unit
//! tests of `layer::pack` use it as well.

use std::io::Read;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

fn sha256(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Decodes the one gzip member that begins a slice; gives what it holds and the bytes behind it.
fn member(bytes: &[u8]) -> (Vec<u8>, &[u8]) {
    assert_eq!(bytes[..3], [0x1f, 0x8b, 8], "a gzip header is where the table says");
    let mut decoder = flate2::bufread::GzDecoder::new(bytes);
    let mut out = Vec::new();
    decoder.read_to_end(&mut out).expect("a whole member");
    (out, decoder.into_inner())
}

/// Walks a tar: name, type flag, content.
fn walk(tar: &[u8]) -> Vec<(String, u8, &[u8])> {
    let octal = |field: &[u8]| {
        let text: String =
            field.iter().filter(|b| b.is_ascii_digit()).map(|b| *b as char).collect();
        usize::from_str_radix(&text, 8).unwrap_or(0)
    };
    let text = |field: &[u8]| {
        let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
        String::from_utf8(field[..end].to_vec()).expect("UTF-8")
    };
    let (mut entries, mut at, mut pax_path) = (Vec::new(), 0, None);
    while tar[at] != 0 {
        let header = &tar[at..at + 512];
        let size = octal(&header[124..136]);
        let content = &tar[at + 512..at + 512 + size];
        at += 512 + size.div_ceil(512) * 512;
        if header[156] == b'x' {
            let records = String::from_utf8_lossy(content).into_owned();
            pax_path =
                records.split('\n').find_map(|line| Some(line.split_once(" path=")?.1.to_owned()));
            continue;
        }
        let prefix = text(&header[345..500]);
        let name = if prefix.is_empty() {
            text(&header[..100])
        } else {
            format!("{prefix}/{}", text(&header[..100]))
        };
        entries.push((pax_path.take().unwrap_or(name), header[156], content));
    }
    assert_eq!(tar.len() - at, 1024, "two blocks of zeros end it");
    entries
}

/// Checks a blob with its annotations; gives the entries of its table.
#[track_caller]
pub fn check(blob: &[u8], toc_digest: &str, uncompressed_size: &str) -> Vec<Value> {
    // The footer.
    let footer = &blob[blob.len() - 51..];
    assert_eq!(footer[..4], [0x1f, 0x8b, 8, 4], "deflate with an extra field");
    assert_eq!(footer[10..16], [26, 0, b'S', b'G', 22, 0]);
    assert_eq!(&footer[32..38], b"STARGZ");
    assert_eq!(footer[38..], [1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    let offset = std::str::from_utf8(&footer[16..32]).expect("digits");
    let offset = usize::from_str_radix(offset, 16).expect("16 hex digits");
    // The table is one member, and the last before the footer.
    let (toc, rest) = member(&blob[offset..]);
    assert_eq!(rest, footer);
    let entries = walk(&toc);
    let [(name, b'0', json)] = &entries[..] else {
        panic!("one entry is behind the table's offset")
    };
    assert_eq!(name, "stargz.index.json");
    assert_eq!(sha256(json), toc_digest);
    let toc: Value = serde_json::from_slice(json).expect("JSON");
    assert_eq!(toc["version"], 1);
    let listed = toc["entries"].as_array().expect("a list").clone();
    // The whole is a gzip of a tar.
    let mut tar = Vec::new();
    flate2::bufread::MultiGzDecoder::new(blob).read_to_end(&mut tar).expect("gzip");
    assert_eq!(tar.len().to_string(), uncompressed_size);
    let mut stored = walk(&tar);
    assert_eq!(stored.pop().expect("entries").0, "stargz.index.json", "the last entry");
    let landmark = stored.iter().find(|entry| entry.0 == ".no.prefetch.landmark");
    assert_eq!(landmark.expect("nothing is prioritised").2, [0xf]);
    // Every entry is in the table, and every piece where the table says.
    let number =
        |entry: &Value, key: &str| entry.get(key).map_or(0, |n| n.as_u64().expect("a number"));
    let mut rows = listed.iter().peekable();
    let mut last_offset = 0;
    for (name, flag, content) in stored {
        let row = rows.next().expect("an entry for each");
        assert_eq!(row["name"], *name);
        let kind = match flag {
            b'0' => "reg",
            b'1' => "hardlink",
            b'2' => "symlink",
            b'3' => "char",
            b'4' => "block",
            b'5' => "dir",
            b'6' => "fifo",
            other => panic!("type {other}"),
        };
        assert_eq!(row["type"], kind, "{name}");
        for required in ["mode", "uid", "gid"] {
            assert!(row[required].is_u64(), "{required} of {name}");
        }
        assert_eq!(row.get("linkName").is_some(), matches!(kind, "symlink" | "hardlink"), "{name}");
        assert_eq!(row.get("devMajor").is_some(), matches!(kind, "char" | "block"), "{name}");
        assert_eq!(number(row, "size"), content.len() as u64, "{name}");
        if kind == "reg" {
            assert_eq!(row["digest"], sha256(content), "{name}");
        }
        let mut row = row;
        let mut done = 0;
        while done < content.len() {
            let (offset, at) = (number(row, "offset"), number(row, "chunkOffset"));
            assert!(offset > last_offset, "offsets rise");
            last_offset = offset;
            assert_eq!(at, done as u64, "{name}");
            let next_is_chunk = rows.peek().is_some_and(|next| next["type"] == "chunk");
            let size = match number(row, "chunkSize") {
                0 => content.len() - done,
                size => size as usize,
            };
            assert_eq!(
                row.get("chunkSize").is_some(),
                next_is_chunk,
                "the last of {name} has none"
            );
            assert!(size <= 4 << 20);
            let (data, _) = member(&blob[offset as usize..]);
            let piece = &content[done..done + size];
            assert!(data.len() >= size && data[..size] == *piece, "piece {at} of {name}");
            assert_eq!(row["chunkDigest"], sha256(piece), "{name}");
            done += size;
            if next_is_chunk {
                row = rows.next().expect("it was there");
                assert_eq!(row["name"], *name);
            }
        }
    }
    assert!(rows.next().is_none(), "nothing is listed that is not there");
    listed
}
