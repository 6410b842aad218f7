//! [`Print`]: a fingerprint of a file's metadata that changes when the file does, and the fast hash
//! that makes it. Pure.

use crate::sys::dir::{FileKind, Stat};

/// Stands for kind, mode, size, modification time, change time and inode of a file.
///
/// The kernel sets the change time on every change of content, mode, owner or xattrs, and nobody
/// can set it back. The device number is left out: it may change with every mount, and the others
/// say enough. 128 bits, so that two different states of a file never look alike by chance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Print(pub(super) [u64; 2]);

impl Print {
    /// Takes the print of a file.
    pub(super) fn of(stat: &Stat) -> Print {
        let kind = match stat.kind {
            FileKind::File => 1,
            FileKind::Dir => 2,
            FileKind::Symlink => 3,
            FileKind::Fifo => 4,
            FileKind::CharDevice => 5,
            FileKind::BlockDevice => 6,
            FileKind::Socket => 7,
        };
        let words = [
            u64::from(stat.mode) << 8 | kind,
            // A directory's size says nothing of what is in the context.
            if stat.kind == FileKind::Dir { 0 } else { stat.size },
            stat.mtime_sec as u64,
            stat.ctime_sec as u64,
            u64::from(stat.mtime_nsec) << 32 | u64::from(stat.ctime_nsec),
            stat.ino,
        ];
        let half = |seed: u64| words.iter().fold(seed, |sum, &word| mix(sum, word));
        Print([half(SEEDS[0]), half(SEEDS[1])])
    }
}

/// Two odd numbers without structure (digits of pi and of e).
const SEEDS: [u64; 2] = [0x243f_6a88_85a3_08d3, 0xb7e1_5162_8aed_2a6b];

/// Stirs a word into a sum: a multiplication to twice the width, folded. What wyhash is made of.
fn mix(sum: u64, word: u64) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let product = u128::from(sum ^ word) * u128::from(FACTOR);
    // The rotation keeps a sum of zero from swallowing what comes next.
    (product as u64 ^ (product >> 64) as u64).wrapping_add(sum.rotate_left(23) ^ word)
}

/// Sums bytes up, to notice that a file was torn or altered; no use against malice.
pub(super) fn checksum(seed: u64, bytes: &[u8]) -> u64 {
    let mut sum = mix(SEEDS[0] ^ seed, bytes.len() as u64);
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        sum = mix(sum, u64::from_le_bytes(word));
    }
    let mut word = [0; 8];
    word[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    mix(mix(sum, u64::from_le_bytes(word)), SEEDS[1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_field_counts() {
        let stat = Stat {
            kind: FileKind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 0,
            blocks: 0,
            mtime_sec: 0,
            mtime_nsec: 0,
            ctime_sec: 0,
            ctime_nsec: 0,
            ino: 0,
            dev: 0,
            rdev: (0, 0),
            nlink: 1,
        };
        let variants = [
            stat,
            Stat { kind: FileKind::Fifo, ..stat },
            Stat { mode: 0o755, ..stat },
            Stat { size: 1, ..stat },
            Stat { mtime_sec: 1, ..stat },
            Stat { mtime_nsec: 1, ..stat },
            Stat { ctime_sec: 1, ..stat },
            Stat { ctime_nsec: 1, ..stat },
            Stat { ino: 1, ..stat },
        ];
        let prints: BTreeSet<[u64; 2]> = variants.iter().map(|stat| Print::of(stat).0).collect();
        assert_eq!(prints.len(), variants.len());
        assert_eq!(Print::of(&Stat { dev: 9, nlink: 2, ..stat }), Print::of(&stat));
    }

    #[test]
    fn neighbouring_states_never_collide() {
        let sums: BTreeSet<u64> =
            (0..1000u64).flat_map(|a| (0..100u64).map(move |b| mix(mix(SEEDS[0], a), b))).collect();
        assert_eq!(sums.len(), 100_000);
    }

    #[test]
    fn a_checksum_notices_any_flipped_bit_and_length() {
        let bytes: Vec<u8> = (0..27).collect();
        let mut sums = BTreeSet::from([checksum(0, &bytes)]);
        for bit in 0..bytes.len() * 8 {
            let mut altered = bytes.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(sums.insert(checksum(0, &altered)));
        }
        assert!(sums.insert(checksum(0, &bytes[..26])));
        assert!(sums.insert(checksum(1, &bytes)));
    }
}
