//! Small JSON records that know whether they are whole: the text, then a line with its digest.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{IoContext, Result, Store, age};
use crate::oci::Digest;

/// A digest in hexadecimal and the newlines around it.
const TAIL: usize = 1 + 64 + 1;

/// Writes a record whole.
pub(super) fn write(store: &Store, path: &Path, record: &impl Serialize) -> Result<()> {
    store.write_whole(path, &seal(record).at("encode", path)?)
}

/// Reads a record and counts that as a use. None when it is missing, torn or altered, or of a shape
/// that this version does not know.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    // 1 KiB fits nearly every record in one read.
    let mut bytes = Vec::with_capacity(1024);
    age::claim(path).ok()??.read_to_end(&mut bytes).ok()?;
    open(&bytes)
}

/// Reads a record without counting that as a use.
pub(super) fn peek<T: DeserializeOwned>(path: &Path) -> Option<T> {
    open(&fs::read(path).ok()?)
}

fn seal(record: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(record)?;
    let digest = Digest::of(&bytes).hex();
    bytes.push(b'\n');
    bytes.extend_from_slice(digest.as_bytes());
    bytes.push(b'\n');
    Ok(bytes)
}

fn open<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (json, tail) = bytes.split_at_checked(bytes.len().checked_sub(TAIL)?)?;
    let hex = tail.strip_prefix(b"\n")?.strip_suffix(b"\n")?;
    if Digest::of(json).hex().as_bytes() != hex {
        return None;
    }
    serde_json::from_slice(json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_torn_or_altered_record_is_a_miss() {
        let whole = seal(&vec!["a", "b"]).unwrap();
        assert_eq!(open::<Vec<String>>(&whole), Some(vec!["a".to_owned(), "b".to_owned()]));
        for length in 0..whole.len() {
            assert_eq!(open::<Vec<String>>(&whole[..length]), None, "{length}");
        }
        for bit in 0..whole.len() * 8 {
            let mut altered = whole.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open::<Vec<String>>(&altered), None, "{bit}");
        }
    }
}
