//! Round trips, independence of threads, and streams that others made.

use std::io::Read;

use proptest::prelude::*;

use super::*;

const ALL: [Compression; 5] = [
    Compression::Gzip { level: 1 },
    Compression::GZIP,
    Compression::Gzip { level: 9 },
    Compression::ZSTD,
    Compression::None,
];

/// Text, random bytes and zeros in turns, so that blocks hold runs of all kinds.
fn mixture(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut data = Vec::with_capacity(len + 65536);
    while data.len() < len {
        let run = (next() % 60000) as usize;
        match next() % 3 {
            0 => data.extend((0..run).map(|_| next() as u8)),
            1 => data.extend((0..run).map(|_| b"etaoin shrdlu\n"[(next() % 14) as usize])),
            _ => data.resize(data.len() + run, 0),
        }
    }
    data.truncate(len);
    data
}

fn encode(data: &[u8], compression: Compression, threads: usize, piece: usize) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), compression, threads);
    for piece in data.chunks(piece.max(1)) {
        encoder.write_all(piece).expect("write");
    }
    encoder.finish().expect("finish")
}

fn decode(data: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    Decoder::new(data)?.read_to_end(&mut out)?;
    Ok(out)
}

#[test]
fn what_is_compressed_comes_back_whatever_the_threads() {
    for len in [0, 1, 511, 512 * 1024, 512 * 1024 + 1, 1 << 20, 3_000_003] {
        let data = mixture(len, len as u64);
        for compression in ALL {
            let once = encode(&data, compression, 1, 1 << 16);
            assert_eq!(decode(&once).expect("decode"), data, "{compression:?} {len}");
            for (threads, piece) in [(2, 100_000), (3, 1 << 20), (16, 777)] {
                let other = encode(&data, compression, threads, piece);
                assert!(once == other, "{compression:?} {len} differs on {threads} threads");
            }
        }
    }
}

#[test]
fn gzip_members_have_a_fixed_header_and_nothing_between_them() {
    let data = mixture(3_000_000, 7);
    let bytes = encode(&data, Compression::GZIP, 2, 1 << 16);
    let mut out = Vec::new();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        assert_eq!(rest[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff]);
        flate2::bufread::GzDecoder::new(&mut rest).read_to_end(&mut out).expect("a member");
    }
    assert!(out == data);
}

#[test]
fn gzip_bytes_are_the_same_on_every_machine() {
    // Known from one machine; another compressor, or one that depends on the processor, shows here.
    let bytes = encode(&mixture(3_000_000, 7), Compression::GZIP, 2, 1 << 16);
    assert_eq!(
        crate::oci::Digest::of(&bytes).to_string(),
        "sha256:f8aae2175cbd073dbcc19e606e5013fd70f99d80b057a916d21531b7141b5265"
    );
}

#[test]
fn incompressible_data_hardly_grows() {
    let mut state = 1u64;
    let data: Vec<u8> = (0..4_000_000)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as u8
        })
        .collect();
    let bytes = encode(&data, Compression::GZIP, 2, 1 << 16);
    assert!(bytes.len() < data.len() + data.len() / 5000, "{}", bytes.len());
    assert!(decode(&bytes).expect("decode") == data);
}

#[test]
fn formats_are_told_by_content() {
    for (head, expect) in [
        (&b"\x1f\x8b\x08\0"[..], Some(Format::Gzip)),
        (b"\x1f\x8b\x07\0", None),
        (b"\x28\xb5\x2f\xfd", Some(Format::Zstd)),
        (b"\x50\x2a\x4d\x18", Some(Format::Zstd)),
        (b"BZh9", Some(Format::Bzip2)),
        (b"BZh0", None),
        (b"\xfd7zXZ\0", Some(Format::Xz)),
        (b"\xfd7zXZ", None),
        (b"", None),
        (b"plain", None),
    ] {
        assert_eq!(Format::detect(head), expect, "{}", head.escape_ascii());
    }
}

#[test]
fn members_and_frames_in_a_row_are_one_stream() {
    for compression in [Compression::GZIP, Compression::ZSTD] {
        let (one, two) = (mixture(700_000, 1), mixture(100, 2));
        let mut bytes = encode(&one, compression, 1, 1 << 20);
        bytes.extend(encode(&two, compression, 1, 1 << 20));
        assert!(decode(&bytes).expect("both") == [one, two].concat());
    }
}

#[test]
fn garbage_behind_the_end_is_refused_and_zeros_are_not() {
    let gzip = encode(b"data", Compression::GZIP, 1, 10);
    assert_eq!(decode(&[&gzip[..], &[0; 1000]].concat()).expect("zeros"), b"data");
    for rest in [&b"garbage"[..], b"\0\0x", b"\x1f\x8b", b"\x1fx"] {
        assert!(decode(&[&gzip[..], rest].concat()).is_err(), "{}", rest.escape_ascii());
    }
    let zstd = encode(b"data", Compression::ZSTD, 1, 10);
    assert!(decode(&[&zstd[..], b"garbage"].concat()).is_err());
}

#[test]
fn damage_and_truncation_are_errors() {
    let data = mixture(100_000, 3);
    for compression in [Compression::GZIP, Compression::ZSTD] {
        let bytes = encode(&data, compression, 1, 1 << 20);
        for cut in [bytes.len() - 1, bytes.len() / 2, 12] {
            assert!(decode(&bytes[..cut]).is_err(), "{compression:?} cut at {cut}");
        }
    }
    let mut bytes = encode(&data, Compression::GZIP, 1, 1 << 20);
    let crc = bytes.len() - 8;
    bytes[crc] ^= 1;
    assert!(decode(&bytes).is_err(), "wrong crc");
}

#[test]
fn case_9_decompression_bombs_hit_the_limit() {
    let zeros = vec![0u8; 20_000_000];
    for compression in [Compression::GZIP, Compression::ZSTD] {
        let bytes = encode(&zeros, compression, 1, 1 << 20);
        assert!(bytes.len() < 100_000, "it is a bomb");
        let read = |limit: u64| {
            let decoder = Decoder::new(&bytes[..]).expect("decoder");
            io::copy(&mut decoder.limit(limit), &mut io::sink())
        };
        assert_eq!(read(20_000_000).expect("exactly the limit"), 20_000_000);
        let error = read(19_999_999).expect_err("one less");
        assert!(error.to_string().contains("limit of 19999999 bytes"), "{error}");
        assert!(read(0).is_err());
    }
    // A frame that asks for a window of 2 GiB.
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("zstd");
    encoder.window_log(31).expect("window");
    encoder.long_distance_matching(true).expect("ldm");
    encoder.write_all(&zeros).expect("write");
    assert!(decode(&encoder.finish().expect("finish")).is_err());
}

/// A writer that fails after some bytes.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(data.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_failing_writer_ends_the_encoder() {
    let data = mixture(8_000_000, 5);
    for compression in ALL {
        let mut encoder = Encoder::new(Full(100_000), compression, 2);
        let result = encoder.write_all(&data).and_then(|()| encoder.finish().map(drop));
        assert_eq!(result.expect_err("full").kind(), io::ErrorKind::StorageFull);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_data_comes_back(
        parts in prop::collection::vec((any::<u64>(), 0usize..400_000), 0..5),
        level in 1u32..10,
    ) {
        let data: Vec<u8> = parts.iter().flat_map(|&(seed, len)| mixture(len, seed)).collect();
        for compression in [Compression::Gzip { level }, Compression::ZSTD, Compression::None] {
            let bytes = encode(&data, compression, 2, 50_000);
            prop_assert!(decode(&bytes).expect("decode") == data);
        }
    }
}
