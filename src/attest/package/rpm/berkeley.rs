//! The hash files of Berkeley DB (as rpm reads them: `lib/backend/bdb_ro.cc`). Their pages hold keys and
//! values in turns; what is too long for a page lies in a chain of others.

use super::{big, little};

/// What the fourth word of the file is.
const MAGIC: u32 = 0x0006_1561;
/// Bytes of a page before its index.
const HEAD: usize = 26;
/// Kinds of pages: hash, of old and of new files; a piece of something long.
const HASH: [u8; 2] = [2, 13];
const PIECE: u8 = 7;
/// Kinds of values: in the page itself, and in others.
const INSIDE: u8 = 1;
const OUTSIDE: u8 = 3;

struct File<'a> {
    bytes: &'a [u8],
    page: usize,
    is_swapped: bool,
    /// Bytes that may still be given: each belongs to one value.
    left: usize,
}

/// Gives all values.
pub(super) fn values(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let is_swapped = match (little(bytes, 12)?, big(bytes, 12)?) {
        (MAGIC, _) => false,
        (_, MAGIC) => true,
        _ => return None,
    };
    let mut file = File { bytes, page: 0, is_swapped, left: bytes.len() };
    file.page = usize::try_from(file.word(bytes, 20)?).ok().filter(|page| *page >= 512)?;
    let mut values = Vec::new();
    for page in bytes.chunks_exact(file.page).skip(1) {
        if HASH.contains(&page[25]) {
            file.of_page(page, &mut values)?;
        }
    }
    Some(values)
}

impl<'a> File<'a> {
    fn word(&self, bytes: &[u8], at: usize) -> Option<u32> {
        if self.is_swapped { big(bytes, at) } else { little(bytes, at) }
    }

    fn half(&self, bytes: &[u8], at: usize) -> Option<usize> {
        let two = [*bytes.get(at)?, *bytes.get(at + 1)?];
        Some(usize::from(if self.is_swapped {
            u16::from_be_bytes(two)
        } else {
            u16::from_le_bytes(two)
        }))
    }

    /// Adds the values of a page.
    fn of_page(&mut self, page: &'a [u8], out: &mut Vec<Vec<u8>>) -> Option<()> {
        for index in (1..self.half(page, 20)?).step_by(2) {
            let at = self.half(page, HEAD + 2 * index)?;
            match *page.get(at)? {
                // It ends where its key begins, which was put there before.
                INSIDE => {
                    let end = self.half(page, HEAD + 2 * (index - 1))?;
                    let value = page.get(at + 1..end)?;
                    self.left = self.left.checked_sub(value.len())?;
                    out.push(value.to_vec());
                }
                OUTSIDE => {
                    let (next, length) = (self.word(page, at + 4)?, self.word(page, at + 8)?);
                    out.push(self.chain(next, usize::try_from(length).ok()?)?);
                }
                // Several values of one key: rpm has none.
                _ => {}
            }
        }
        Some(())
    }

    /// Reads what lies in a chain of pages.
    fn chain(&mut self, mut next: u32, length: usize) -> Option<Vec<u8>> {
        self.left = self.left.checked_sub(length)?;
        let mut value = Vec::with_capacity(length);
        while value.len() < length {
            let start = usize::try_from(next).ok()?.checked_mul(self.page)?;
            let page = self.bytes.get(start..start.checked_add(self.page)?)?;
            let piece = page.get(HEAD..HEAD + self.half(page, 22)?)?;
            if page[25] != PIECE || piece.is_empty() || piece.len() > length - value.len() {
                return None;
            }
            value.extend_from_slice(piece);
            next = self.word(page, 16)?;
        }
        Some(value)
    }
}
