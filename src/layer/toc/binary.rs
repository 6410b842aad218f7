//! The form of a [`Toc`] on disk: small, checked, read in one pass.
//!
//! `LSTOC`, a version byte, the number of xattr sets and the sets, the number of rows and the rows,
//! then the CRC-32 of all before it. Numbers are LEB128. A row holds its path as the length of what
//! it shares with the path before it and the rest, and its mtime as the difference to the one
//! before. Reading trusts nothing: lengths are bounded by what was really read, order is verified.

use std::cmp::Ordering;
use std::io::{self, Read, Write};

use flate2::Crc;

use super::table::{Code, Row, Toc};
use super::{Xattrs, is_overlay_xattr};
use crate::layer::path::compare;

const MAGIC: &[u8; 5] = b"LSTOC";
/// Raise with every change of the form: readers take any other number as "not there".
const VERSION: u8 = 1;
/// Bytes read or written at once.
const CHUNK: usize = 64 * 1024;

const HAS_DIGEST: u8 = 1 << 4;
const HAS_XATTRS: u8 = 1 << 5;
const SAME_OWNER: u8 = 1 << 6;

/// Why a table of contents could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream failed or ended too early.
    #[error("cannot read the table of contents")]
    Io(#[from] io::Error),
    /// Something else than a table of contents.
    #[error("not a table of contents")]
    Magic,
    /// Written by another version of this program.
    #[error("table of contents has version {0}, this program reads version {VERSION}")]
    Version(u8),
    /// The checksum is wrong.
    #[error("table of contents is damaged: wrong checksum")]
    Checksum,
    /// The checksum is right or not reached, yet the content is impossible.
    #[error("table of contents is damaged: {0}")]
    Damaged(&'static str),
}

impl Toc {
    /// Writes the form on disk.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let mut out = Output { out, buffer: Vec::with_capacity(CHUNK + 1024), crc: Crc::new() };
        out.buffer.extend_from_slice(MAGIC);
        out.buffer.push(VERSION);
        out.number(self.sets.len() as u64);
        for set in &self.sets {
            out.number(set.len() as u64);
            for (name, value) in set {
                out.bytes(name);
                out.bytes(value);
                out.spill()?;
            }
        }
        out.number(self.rows.len() as u64);
        let mut last: &[u8] = b"";
        let (mut mtime, mut owner) = (0i64, (0, 0));
        for row in &self.rows {
            let path = self.path_of(row);
            let shared = path.iter().zip(last).take_while(|(a, b)| a == b).count();
            let mut head = row.code as u8;
            head |= if row.has_digest { HAS_DIGEST } else { 0 };
            head |= if row.xattrs != 0 { HAS_XATTRS } else { 0 };
            head |= if owner == (row.uid, row.gid) { SAME_OWNER } else { 0 };
            out.buffer.push(head);
            out.number(shared as u64);
            out.bytes(&path[shared..]);
            out.number(row.mode.into());
            if owner != (row.uid, row.gid) {
                out.number(row.uid.into());
                out.number(row.gid.into());
            }
            let step = row.mtime.wrapping_sub(mtime);
            out.number((step << 1 ^ step >> 63) as u64);
            out.number(row.aux);
            out.buffer.extend_from_slice(self.target_of(row));
            if row.has_digest {
                out.buffer.extend_from_slice(&row.digest);
            }
            if row.xattrs != 0 {
                out.number(row.xattrs.into());
            }
            out.spill()?;
            (last, mtime, owner) = (path, row.mtime, (row.uid, row.gid));
        }
        out.crc.update(&out.buffer);
        let sum = out.crc.sum().to_le_bytes();
        out.buffer.extend_from_slice(&sum);
        out.out.write_all(&out.buffer)
    }

    /// Reads the form on disk.
    pub fn read_from(input: &mut impl Read) -> Result<Toc, Error> {
        let mut input = Input { input, buffer: vec![0; CHUNK], at: 0, filled: 0, crc: Crc::new() };
        let mut head = [0; MAGIC.len() + 1];
        input.fill(&mut head)?;
        if !head.starts_with(MAGIC) {
            return Err(Error::Magic);
        }
        if head[MAGIC.len()] != VERSION {
            return Err(Error::Version(head[MAGIC.len()]));
        }
        let mut toc = Toc { sets: input.sets()?, ..Toc::default() };
        let rows = input.number()?;
        // Trusted up to a million only, so that a damaged number cannot ask for all memory.
        toc.rows.reserve_exact(rows.min(1 << 20) as usize);
        for _ in 0..rows {
            let row = input.row(&mut toc.arena, toc.rows.last(), toc.sets.len())?;
            toc.marks |= matches!(row.code, Code::Whiteout | Code::Opaque);
            toc.rows.push(row);
        }
        let sum = input.sum();
        let mut stored = [0; 4];
        input.fill(&mut stored)?;
        if u32::from_le_bytes(stored) != sum {
            return Err(Error::Checksum);
        }
        toc.rows.shrink_to_fit();
        toc.arena.shrink_to_fit();
        Ok(toc)
    }
}

struct Output<'a, W> {
    out: &'a mut W,
    buffer: Vec<u8>,
    crc: Crc,
}

impl<W: Write> Output<'_, W> {
    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.buffer.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.buffer.push(value as u8);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.buffer.extend_from_slice(bytes);
    }

    /// Writes the buffer once it is full.
    fn spill(&mut self) -> io::Result<()> {
        if self.buffer.len() >= CHUNK {
            self.crc.update(&self.buffer);
            self.out.write_all(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }
}

struct Input<'a, R> {
    input: &'a mut R,
    buffer: Vec<u8>,
    at: usize,
    filled: usize,
    crc: Crc,
}

impl<R: Read> Input<'_, R> {
    fn refill(&mut self) -> Result<(), Error> {
        self.crc.update(&self.buffer[..self.filled]);
        (self.at, self.filled) = (0, 0);
        while self.filled == 0 {
            match self.input.read(&mut self.buffer) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(count) => self.filled = count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    #[inline]
    fn byte(&mut self) -> Result<u8, Error> {
        if self.at == self.filled {
            self.refill()?;
        }
        self.at += 1;
        Ok(self.buffer[self.at - 1])
    }

    /// Gives the checksum of everything consumed so far.
    fn sum(&self) -> u32 {
        let mut crc = Crc::new();
        crc.combine(&self.crc);
        crc.update(&self.buffer[..self.at]);
        crc.sum()
    }

    #[inline]
    fn number(&mut self) -> Result<u64, Error> {
        let first = self.byte()?;
        if first < 0x80 {
            return Ok(first.into());
        }
        self.rest_of_number(first)
    }

    fn rest_of_number(&mut self, first: u8) -> Result<u64, Error> {
        let mut value = u64::from(first & 0x7f);
        for shift in (7..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Error::Damaged("a number does not end"))
    }

    fn small(&mut self) -> Result<u32, Error> {
        u32::try_from(self.number()?).map_err(|_| Error::Damaged("a number is too large"))
    }

    /// Appends `len` bytes to `out`, which grows only by what is really there.
    fn append(&mut self, mut len: u64, out: &mut Vec<u8>) -> Result<(), Error> {
        while len > 0 {
            if self.at == self.filled {
                self.refill()?;
            }
            let count = len.min((self.filled - self.at) as u64) as usize;
            out.extend_from_slice(&self.buffer[self.at..self.at + count]);
            self.at += count;
            len -= count as u64;
        }
        Ok(())
    }

    fn fill(&mut self, mut out: &mut [u8]) -> Result<(), Error> {
        while !out.is_empty() {
            if self.at == self.filled {
                self.refill()?;
            }
            let count = out.len().min(self.filled - self.at);
            let (now, later) = out.split_at_mut(count);
            now.copy_from_slice(&self.buffer[self.at..self.at + count]);
            self.at += count;
            out = later;
        }
        Ok(())
    }

    fn sets(&mut self) -> Result<Vec<Xattrs>, Error> {
        let mut sets = Vec::new();
        for _ in 0..self.number()? {
            let mut set = Xattrs::new();
            for _ in 0..self.number()? {
                let (mut name, mut value) = (Vec::new(), Vec::new());
                let len = self.number()?;
                self.append(len, &mut name)?;
                let len = self.number()?;
                self.append(len, &mut value)?;
                if is_overlay_xattr(&name) {
                    return Err(Error::Damaged("it holds xattrs of overlayfs"));
                }
                set.insert(name, value);
            }
            sets.push(set);
        }
        Ok(sets)
    }

    fn row(
        &mut self,
        arena: &mut Vec<u8>,
        previous: Option<&Row>,
        sets: usize,
    ) -> Result<Row, Error> {
        let head = self.byte()?;
        let code = Code::from_u8(head & 15).ok_or(Error::Damaged("unknown kind of entry"))?;
        let shared = self.number()? as usize;
        let rest = self.number()?;
        let before = previous
            .map_or(0..0, |row| row.start as usize..row.start as usize + row.path_len as usize);
        if shared > before.len() {
            return Err(Error::Damaged("a path shares more than there is"));
        }
        let start = arena.len();
        arena.extend_from_within(before.start..before.start + shared);
        self.append(rest, arena)?;
        if let Some(row) = previous {
            let order =
                compare(&arena[before.start + shared..before.end], &arena[start + shared..])
                    .then_with(|| row.code.rank().cmp(&code.rank()));
            if order != Ordering::Less {
                return Err(Error::Damaged("entries are not in order"));
            }
        }
        let path_len =
            u32::try_from(arena.len() - start).map_err(|_| Error::Damaged("a path is too long"))?;
        let mode = u16::try_from(self.number()?)
            .ok()
            .filter(|mode| mode & !0o7777 == 0)
            .ok_or(Error::Damaged("impossible mode"))?;
        let (uid, gid) = match (head & SAME_OWNER != 0, previous) {
            (true, Some(row)) => (row.uid, row.gid),
            (true, None) => (0, 0),
            (false, _) => (self.small()?, self.small()?),
        };
        let step = self.number()?;
        let step = (step >> 1) as i64 ^ -((step & 1) as i64);
        let mtime = previous.map_or(0, |row| row.mtime).wrapping_add(step);
        let aux = self.number()?;
        if matches!(code, Code::Symlink | Code::Hardlink) {
            self.append(aux, arena)?;
        }
        let mut digest = [0; 32];
        if head & HAS_DIGEST != 0 {
            self.fill(&mut digest)?;
        }
        let xattrs = if head & HAS_XATTRS != 0 { self.small()? } else { 0 };
        if xattrs as usize > sets {
            return Err(Error::Damaged("an entry has xattrs that are not there"));
        }
        Ok(Row {
            start: start as u64,
            aux,
            mtime,
            digest,
            path_len,
            uid,
            gid,
            xattrs,
            mode,
            code,
            has_digest: head & HAS_DIGEST != 0,
        })
    }
}
