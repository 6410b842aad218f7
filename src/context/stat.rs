//! The stat cache: a file that remembers, for every path of a context, what its metadata looked like
//! and what its content's digest and xattrs were then.
//!
//! Records are sorted by path, and paths are written as the difference to the one before, so the
//! file is small and is read and written in one pass beside a listing. A record that is torn or
//! altered ends the file: each carries a checksum that starts from the one before.
//!
//! ```text
//! file    = "lapstrake-stat-1", record*
//! record  = shared u16, rest u16, flags u8, print 2 × u64,
//!           [digest 32 bytes], [count u16, (name u16, value u32, name, value)*], rest of the path,
//!           checksum u64                                                    all little-endian
//! ```
//!
//! # Racily clean files
//!
//! The print of a file notices every change but one: a file written twice within the grain of the
//! file system's clock, once before we read it and once after. So what changed shortly before it was
//! listed is not recorded, and is read again next time. (git has the same problem, and its "racy
//! git" document the same answer.)

use std::io::{self, BufRead, Read, Write};

use super::print::{Print, checksum};
use crate::layer::path::compare;
use crate::layer::toc::Xattrs;
use crate::oci::Digest;

const MAGIC: &[u8; 16] = b"lapstrake-stat-1";
const DIGEST: u8 = 1;
const XATTRS: u8 = 2;

/// A record.
#[derive(Clone, Debug, Default, PartialEq)]
struct Record {
    path: Vec<u8>,
    print: Print,
    digest: Option<Digest>,
    xattrs: Xattrs,
}

/// What is known of a path.
#[derive(Debug, PartialEq)]
pub(super) struct Known<'a> {
    pub(super) digest: Option<Digest>,
    pub(super) xattrs: &'a Xattrs,
}

/// Records one after the other, packed: one piece of memory for many paths.
#[derive(Default)]
pub(super) struct Batch {
    paths: Vec<u8>,
    /// Each with the end of its path.
    records: Vec<(usize, Print, Option<Digest>, Xattrs)>,
}

/// Records of a batch.
const BATCH: usize = 1024;

/// What every record begins with: lengths of the path's parts, flags, print.
struct Head {
    shared: usize,
    rest: usize,
    flags: u8,
    print: Print,
}

/// Bytes of [`Head`].
const HEAD: usize = 21;

impl Head {
    fn of(bytes: &[u8]) -> Option<Head> {
        let head = bytes.first_chunk::<HEAD>()?;
        let word = |at: usize| head[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        Some(Head {
            shared: usize::from(u16::from_le_bytes([head[0], head[1]])),
            rest: usize::from(u16::from_le_bytes([head[2], head[3]])),
            flags: head[4],
            print: Print([word(5)?, word(13)?]),
        })
    }
}

/// Reads a stat cache in path order.
pub(super) struct Reader<R> {
    input: R,
    /// The bytes of the present record, for its checksum.
    record: Vec<u8>,
    sum: u64,
    current: Record,
    /// Whether there may be more.
    live: bool,
}

impl<R: BufRead> Reader<R> {
    /// Starts reading. Anything that is not a stat cache reads as an empty one.
    pub(super) fn new(mut input: R) -> Reader<R> {
        let mut magic = [0; 16];
        let live = input.read_exact(&mut magic).is_ok() && magic == *MAGIC;
        Reader { input, record: Vec::new(), sum: 0, current: Record::default(), live }
    }

    /// Reads the next record into `current`; says whether there was one.
    fn advance(&mut self) -> bool {
        self.live = self.live && self.read_record().is_some();
        self.live
    }

    fn read_record(&mut self) -> Option<()> {
        if let Some(read) = self.read_buffered() {
            return read;
        }
        self.record.clear();
        let head = Head::of(self.take(HEAD)?)?;
        self.current.print = head.print;
        self.current.digest = None;
        if head.flags & DIGEST != 0 {
            let digest: [u8; 32] = self.take(32)?.try_into().ok()?;
            self.current.digest = Some(Digest::from_bytes(digest));
        }
        self.current.xattrs.clear();
        if head.flags & XATTRS != 0 {
            let count = u16::from_le_bytes(self.take(2)?.try_into().ok()?);
            for _ in 0..count {
                let name = usize::from(u16::from_le_bytes(self.take(2)?.try_into().ok()?));
                let value = u32::from_le_bytes(self.take(4)?.try_into().ok()?) as usize;
                let name = self.take(name)?.to_vec();
                let value = self.take(value)?.to_vec();
                self.current.xattrs.insert(name, value);
            }
        }
        // Lengths are only believed with the checksum, but must not break anything before.
        let start = self.record.len();
        self.take(head.rest)?;
        if head.shared > self.current.path.len() {
            return None;
        }
        self.current.path.truncate(head.shared);
        self.current.path.extend_from_slice(&self.record[start..]);
        let sum = checksum(self.sum, &self.record);
        let mut told = [0; 8];
        self.input.read_exact(&mut told).ok()?;
        self.sum = sum;
        (u64::from_le_bytes(told) == sum).then_some(())
    }

    /// Reads a record that is whole in the buffer and has no xattrs, as nearly all are. None: it is
    /// another one, and nothing was read; Some(None): it is damaged.
    fn read_buffered(&mut self) -> Option<Option<()>> {
        let buffer = self.input.fill_buf().ok()?;
        let head = Head::of(buffer)?;
        if head.flags & XATTRS != 0 {
            return None;
        }
        let digest = if head.flags & DIGEST != 0 { 32 } else { 0 };
        let length = HEAD + digest + head.rest;
        let record = buffer.get(..length)?;
        let told = u64::from_le_bytes(buffer.get(length..length + 8)?.try_into().ok()?);
        let sum = checksum(self.sum, record);
        if told != sum || head.shared > self.current.path.len() {
            return Some(None);
        }
        self.sum = sum;
        self.current.print = head.print;
        self.current.digest = record[HEAD..HEAD + digest].try_into().ok().map(Digest::from_bytes);
        self.current.xattrs.clear();
        self.current.path.truncate(head.shared);
        self.current.path.extend_from_slice(&record[HEAD + digest..]);
        self.input.consume(length + 8);
        Some(Some(()))
    }

    /// Reads `length` bytes more of the record. A length that is a lie costs no memory.
    fn take(&mut self, length: usize) -> Option<&[u8]> {
        let start = self.record.len();
        if length <= 256 {
            self.record.resize(start + length, 0);
            self.input.read_exact(&mut self.record[start..]).ok()?;
        } else {
            let read = (&mut self.input).take(length as u64).read_to_end(&mut self.record).ok()?;
            (read == length).then_some(())?;
        }
        Some(&self.record[start..])
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        let mut batch = Batch::default();
        while batch.records.len() < BATCH && self.advance() {
            batch.paths.extend_from_slice(&self.current.path);
            let xattrs = std::mem::take(&mut self.current.xattrs);
            let Record { print, digest, .. } = self.current;
            batch.records.push((batch.paths.len(), print, digest, xattrs));
        }
        (!batch.records.is_empty()).then_some(batch)
    }
}

/// Finds paths in batches, in path order.
pub(super) struct Finder<I> {
    batches: I,
    batch: Batch,
    /// The present record of the batch, and where its path begins.
    at: usize,
    start: usize,
    records: usize,
    hits: usize,
}

impl<I: Iterator<Item = Batch>> Finder<I> {
    /// Starts at the first record.
    pub(super) fn new(batches: I) -> Finder<I> {
        let batch = Batch::default();
        let mut finder = Finder { batches, batch, at: 0, start: 0, records: 0, hits: 0 };
        finder.refill();
        finder
    }

    /// Finds a path, which must come after the one of the last call. Only what has the same print
    /// is found.
    pub(super) fn find(&mut self, path: &[u8], print: Print) -> Option<Known<'_>> {
        while let Some((end, ..)) = self.batch.records.get(self.at) {
            let own = &self.batch.paths[self.start..*end];
            // Most paths are the next ones of the cache, and equality is told faster than order.
            if own == path || !compare(own, path).is_lt() {
                break;
            }
            self.start = *end;
            self.at += 1;
            if self.at == self.batch.records.len() {
                self.refill();
            }
        }
        let (end, own, digest, xattrs) = self.batch.records.get(self.at)?;
        let hit = self.batch.paths[self.start..*end] == *path && *own == print;
        self.hits += usize::from(hit);
        hit.then_some(Known { digest: *digest, xattrs })
    }

    fn refill(&mut self) {
        self.batch = self.batches.next().unwrap_or_default();
        (self.at, self.start) = (0, 0);
        self.records += self.batch.records.len();
    }

    /// Reads on to the end, and says whether every record was found by somebody.
    pub(super) fn all_found(mut self) -> bool {
        while !self.batch.records.is_empty() {
            self.refill();
        }
        self.hits == self.records
    }
}

/// Writes a stat cache in path order.
pub(super) struct Writer<W> {
    output: W,
    record: Vec<u8>,
    path: Vec<u8>,
    sum: u64,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(mut output: W) -> io::Result<Writer<W>> {
        output.write_all(MAGIC)?;
        Ok(Writer { output, record: Vec::new(), path: Vec::new(), sum: 0 })
    }

    /// Adds a path, which must come after the one before. What does not fit the form (a path of
    /// more than 64 KiB) is left out.
    pub(super) fn push(
        &mut self,
        path: &[u8],
        print: Print,
        digest: Option<Digest>,
        xattrs: &Xattrs,
    ) -> io::Result<()> {
        let shared = self.path.iter().zip(path).take_while(|(a, b)| a == b).count();
        let rest = &path[shared..];
        let fits = |length: usize| u16::try_from(length).ok();
        let (Some(shared), Some(length), Some(count)) =
            (fits(shared), fits(rest.len()), fits(xattrs.len()))
        else {
            return Ok(());
        };
        let out = &mut self.record;
        out.clear();
        out.extend_from_slice(&shared.to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
        let has_xattrs = if xattrs.is_empty() { 0 } else { XATTRS };
        out.push(has_xattrs | if digest.is_some() { DIGEST } else { 0 });
        out.extend_from_slice(&print.0[0].to_le_bytes());
        out.extend_from_slice(&print.0[1].to_le_bytes());
        if let Some(digest) = digest {
            out.extend_from_slice(digest.as_bytes());
        }
        if has_xattrs != 0 {
            out.extend_from_slice(&count.to_le_bytes());
            for (name, value) in xattrs {
                // The kernel allows 255 and 65536 bytes.
                out.extend_from_slice(&(name.len() as u16).to_le_bytes());
                out.extend_from_slice(&(value.len() as u32).to_le_bytes());
                out.extend_from_slice(name);
                out.extend_from_slice(value);
            }
        }
        out.extend_from_slice(rest);
        self.sum = checksum(self.sum, out);
        self.output.write_all(out)?;
        self.output.write_all(&self.sum.to_le_bytes())?;
        self.path.truncate(usize::from(shared));
        self.path.extend_from_slice(rest);
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        self.output.flush()?;
        Ok(self.output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::RootPath;
    use proptest::prelude::*;

    fn write(all: &[Record]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new()).unwrap();
        for known in all {
            writer.push(&known.path, known.print, known.digest, &known.xattrs).unwrap();
        }
        writer.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> Vec<Record> {
        let mut reader = Reader::new(bytes);
        let mut all = Vec::new();
        while reader.advance() {
            all.push(reader.current.clone());
        }
        // Batches have the same.
        let mut packed = Vec::new();
        for Batch { paths, records } in Reader::new(bytes) {
            let mut start = 0;
            for (end, print, digest, xattrs) in records {
                packed.push(Record { path: paths[start..end].to_vec(), print, digest, xattrs });
                start = end;
            }
        }
        assert_eq!(packed, all);
        all
    }

    fn known(path: &str, number: u64) -> Record {
        Record {
            path: path.into(),
            print: Print([number, !number]),
            digest: number.is_multiple_of(2).then(|| Digest::of(path.as_bytes())),
            xattrs: (0..number % 3).map(|n| (vec![n as u8; 9], vec![7; 300])).collect(),
        }
    }

    fn sample() -> Vec<Record> {
        let paths = ["a", "a/b", "a/bc", "a/bc/d", "a-b", "b"];
        paths.iter().zip(0..).map(|(path, number)| known(path, number)).collect()
    }

    #[test]
    fn a_torn_or_altered_file_gives_only_whole_records() {
        let whole = write(&sample());
        assert_eq!(read(&whole), sample());
        for length in 0..whole.len() {
            let all = read(&whole[..length]);
            assert_eq!(all, sample()[..all.len()]);
        }
        for at in 0..whole.len() {
            let mut altered = whole.clone();
            altered[at] ^= 16;
            let all = read(&altered);
            assert!(all.len() < sample().len(), "{at}");
            assert_eq!(all, sample()[..all.len()]);
        }
    }

    #[test]
    fn only_equal_prints_are_found() {
        let whole = write(&sample());
        let mut reader = Finder::new(Reader::new(&whole[..]));
        assert!(reader.find(b"a", Print([0, !0])).is_some());
        assert!(reader.find(b"a/a", Print([0, !0])).is_none());
        assert!(reader.find(b"a/b", Print([9, 9])).is_none());
        let wanted = &sample()[3];
        let expected = Known { digest: wanted.digest, xattrs: &wanted.xattrs };
        assert_eq!(reader.find(b"a/bc/d", Print([3, !3])), Some(expected));
        assert!(reader.find(b"z", Print([3, !3])).is_none());
        assert!(!reader.all_found());
        let mut reader = Finder::new(Reader::new(&whole[..]));
        for known in sample() {
            assert!(reader.find(&known.path, known.print).is_some());
        }
        assert!(reader.all_found());
        // More than one batch.
        let many: Vec<Record> =
            (0..3 * BATCH as u64 + 7).map(|n| known(&format!("{n:06}"), n)).collect();
        let whole = write(&many);
        let mut reader = Finder::new(Reader::new(&whole[..]));
        for wanted in &many {
            let found = reader.find(&wanted.path, wanted.print).expect("it is there");
            assert_eq!((found.digest, found.xattrs), (wanted.digest, &wanted.xattrs));
        }
        assert!(reader.find(b"z", Print([3, !3])).is_none());
        assert!(reader.all_found());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn round_trips(paths in prop::collection::btree_set("[a-c/]{1,12}", 0..20)) {
            let mut paths: Vec<RootPath> = paths.iter().map(|path| path.as_str().into()).collect();
            paths.sort();
            paths.dedup();
            let all: Vec<Record> = paths
                .iter()
                .zip(0..)
                .map(|(path, n)| Record { path: path.as_bytes().to_vec(), ..known("x", n) })
                .collect();
            prop_assert_eq!(read(&write(&all)), all);
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            read(&[&MAGIC[..], &bytes].concat());
        }
    }
}
