//! rpm's own file of headers (rpm: `lib/backend/ndb/rpmpkg.c`): pages of slots, which say where blobs are.

use super::little;

pub(super) const MAGIC: &[u8] = b"RpmP";

const PAGE: usize = 4096;
const SLOT: usize = 16;
/// Unit of places in slots.
const BLOCK: usize = 16;
/// The header of the file, which takes the place of the first slots.
const HEADER: usize = 32;

/// Gives all blobs.
pub(super) fn blobs(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let pages = usize::try_from(little(bytes, 12)?).ok()?;
    let slots = bytes.get(HEADER..pages.checked_mul(PAGE)?)?;
    let mut left = bytes.len();
    let mut blobs = Vec::new();
    for slot in slots.chunks_exact(SLOT) {
        if !slot.starts_with(b"Slot") {
            return None;
        }
        let place = usize::try_from(little(slot, 8)?).ok()?.checked_mul(BLOCK)?;
        if place == 0 {
            continue;
        }
        let blob = bytes.get(place..)?;
        if !blob.starts_with(b"BlbS") || little(blob, 4) != little(slot, 4) {
            return None;
        }
        let length = usize::try_from(little(blob, 12)?).ok()?;
        left = left.checked_sub(length)?;
        blobs.push(blob.get(16..16_usize.checked_add(length)?)?.to_vec());
    }
    Some(blobs)
}
