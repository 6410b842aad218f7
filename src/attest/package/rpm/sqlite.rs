//! As much of SQLite's file format (sqlite.org/fileformat2.html) as one table of blobs needs.
//!
//! A table is a tree of pages; its leaves hold records, and what is too long for a page goes on in a
//! chain of others. A library for it would be a tenth of this program.

use super::big;

pub(super) const MAGIC: &[u8] = b"SQLite format 3\0";

/// More levels than any file has that fits into memory.
const DEEPEST: usize = 16;

/// A database in memory.
struct Database<'a> {
    bytes: &'a [u8],
    page: usize,
    /// Bytes of a page that are used.
    usable: usize,
    /// Pages that may still be looked at: each belongs to one tree or chain.
    left: usize,
    /// Bytes of records that may still be given.
    room: usize,
}

/// One column of a record.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Gives the last column of all records of a table.
pub(super) fn blobs(bytes: &[u8], table: &str) -> Option<Vec<Vec<u8>>> {
    let page = match u16::from_be_bytes([*bytes.get(16)?, *bytes.get(17)?]) {
        1 => 1 << 16,
        size => usize::from(size),
    };
    let usable = page.checked_sub(usize::from(*bytes.get(20)?)).filter(|usable| *usable >= 480)?;
    let mut database =
        Database { bytes, page, usable, left: bytes.len() / page, room: bytes.len() };
    let mut schema = Vec::new();
    database.walk(1, 0, &mut schema)?;
    // type, name, tbl_name, rootpage, sql
    let root = schema.iter().find_map(|record| {
        let values = values(record)?;
        let is_text = |at: usize, text: &str| {
            matches!(values.get(at), Some(Value::Bytes(bytes)) if *bytes == text.as_bytes())
        };
        match values.get(3) {
            Some(Value::Number(root)) if is_text(0, "table") && is_text(1, table) => Some(*root),
            _ => None,
        }
    })?;
    let mut records = Vec::new();
    (database.left, database.room) = (bytes.len() / page, bytes.len());
    database.walk(usize::try_from(root).ok()?, 0, &mut records)?;
    let last = |record: &Vec<u8>| match values(record)?.pop()? {
        Value::Bytes(blob) => Some(blob.to_vec()),
        Value::Number(_) => None,
    };
    Some(records.iter().filter_map(last).collect())
}

impl<'a> Database<'a> {
    /// Gives a page, counted from 1.
    fn page(&mut self, number: usize) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let start = number.checked_sub(1)?.checked_mul(self.page)?;
        self.bytes.get(start..start.checked_add(self.page)?)
    }

    /// Adds the records of a table below a page.
    fn walk(&mut self, number: usize, depth: usize, out: &mut Vec<Vec<u8>>) -> Option<()> {
        let page = self.page(number)?;
        // The first page begins with the header of the file.
        let head = if number == 1 { 100 } else { 0 };
        let kind = *page.get(head)?;
        let cells = usize::from(u16::from_be_bytes([*page.get(head + 3)?, *page.get(head + 4)?]));
        let (pointers, is_leaf) = match kind {
            0x0d => (head + 8, true),
            0x05 if depth < DEEPEST => (head + 12, false),
            _ => return None,
        };
        for cell in 0..cells {
            let at = pointers + 2 * cell;
            let at = usize::from(u16::from_be_bytes([*page.get(at)?, *page.get(at + 1)?]));
            if is_leaf {
                out.push(self.record(page, at)?);
            } else {
                self.walk(big(page, at)? as usize, depth + 1, out)?;
            }
        }
        if !is_leaf {
            self.walk(big(page, head + 8)? as usize, depth + 1, out)?;
        }
        Some(())
    }

    /// Reads the record of a cell of a leaf, with what goes on in other pages.
    fn record(&mut self, page: &[u8], at: usize) -> Option<Vec<u8>> {
        let (length, at) = varint(page, at)?;
        let (_, at) = varint(page, at)?;
        let length = usize::try_from(length).ok()?;
        self.room = self.room.checked_sub(length)?;
        let least = (self.usable - 12) * 32 / 255 - 23;
        let local = match least + length.saturating_sub(least) % (self.usable - 4) {
            _ if length <= self.usable - 35 => length,
            local if local <= self.usable - 35 => local,
            _ => least,
        };
        let mut record = page.get(at..at.checked_add(local)?)?.to_vec();
        let mut next = if local < length { big(page, at + local)? as usize } else { 0 };
        while record.len() < length {
            let page = self.page(next)?;
            let piece = (length - record.len()).min(self.usable - 4);
            record.extend_from_slice(page.get(4..4 + piece)?);
            next = big(page, 0)? as usize;
        }
        Some(record)
    }
}

/// Takes a record apart.
fn values(record: &[u8]) -> Option<Vec<Value<'_>>> {
    let (head, mut at) = varint(record, 0)?;
    let head = usize::try_from(head).ok()?;
    let (mut values, mut data) = (Vec::new(), head);
    while at < head {
        let (kind, next) = varint(record, at)?;
        at = next;
        let length = match kind {
            0 | 8 | 9 => 0,
            1..=4 => kind as usize,
            5 => 6,
            6 | 7 => 8,
            12.. => usize::try_from((kind - 12) / 2).ok()?,
            _ => return None,
        };
        let bytes = record.get(data..data.checked_add(length)?)?;
        data += length;
        values.push(match kind {
            12.. => Value::Bytes(bytes),
            9 => Value::Number(1),
            _ => Value::Number(bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))),
        });
    }
    Some(values)
}

/// Reads a number of up to nine bytes; gives where it ends, too.
fn varint(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let mut number = 0;
    for index in 0..8 {
        let byte = *bytes.get(at + index)?;
        number = number << 7 | u64::from(byte & 0x7f);
        if byte < 0x80 {
            return Some((number, at + index + 1));
        }
    }
    Some((number << 8 | u64::from(*bytes.get(at + 8)?), at + 9))
}
