//! [`Reader`]: a tar stream as entries of a layer.

use std::collections::HashMap;
use std::io::{self, BufReader, Read};

use super::header::{BLOCK, Header, MOST_OCTAL_12};
use super::pax::Pax;
use super::sparse::{self, Expansion};
use super::{Error, MOST_EXTENDED, MOST_LINKS, Name, Problem};
use crate::layer::path::RootPath;
use crate::layer::toc::{Entry, Kind, Xattrs, capability_v2, is_overlay_xattr};

/// Bytes read at once; contents are read past it in larger pieces.
const BUFFER: usize = 64 * 1024;

/// Links followed within one name, as many as [`super::super::tree`] follows.
const MOST_HOPS: usize = 255;

/// Bytes of a path that is followed through links: more than any system call takes, and little enough
/// that looking at each of its parents costs milliseconds. What lies below a link in a longer path is
/// left there, for [`crate::layer::Toc::check`] to refuse.
const MOST_FOLLOWED: usize = 8192;

/// Reads the entries of a tar stream.
///
/// Paths are lexically cleaned and confined to the root. A path that goes through a symbolic link of
/// the same archive is rewritten to where the link leads inside the root, as extractors that are
/// confined to a root would do it, so that no consumer ever has to.
pub struct Reader<R> {
    input: BufReader<R>,
    layer: bool,
    /// Bytes consumed, for error messages.
    offset: u64,
    /// Stored bytes of the current entry not read yet, and the padding behind them.
    stored: u64,
    padding: u64,
    expansion: Option<Expansion>,
    current: Name,
    globals: Pax,
    /// Symbolic links of this archive: where → target.
    links: HashMap<Vec<u8>, Vec<u8>>,
    ended: bool,
}

/// What the headers in front of an entry's own say about it.
#[derive(Default)]
struct Extended {
    pax: Option<Pax>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

/// An entry before its path is looked at.
struct Raw {
    name: Vec<u8>,
    entry: Entry,
    link: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// Reads a layer: `.wh.` names become whiteouts.
    pub fn new(inner: R) -> Reader<R> {
        Reader {
            input: BufReader::with_capacity(BUFFER, inner),
            layer: true,
            offset: 0,
            stored: 0,
            padding: 0,
            expansion: None,
            current: Name::new(b""),
            globals: Pax::default(),
            links: HashMap::new(),
            ended: false,
        }
    }

    /// Reads an ordinary archive, as ADD does: `.wh.` names are refused.
    pub fn plain(inner: R) -> Reader<R> {
        Reader { layer: false, ..Reader::new(inner) }
    }

    /// Gives the next entry and a reader of its content; None at the end. What the caller leaves
    /// unread of the content is skipped. After an error the reader is at its end.
    pub fn next_entry(&mut self) -> Result<Option<(Entry, Content<'_, R>)>, Error> {
        let entry = match self.advance() {
            Ok(entry) => entry,
            Err(error) => {
                self.ended = true;
                return Err(error);
            }
        };
        Ok(entry.map(|entry| (entry, Content { reader: self })))
    }

    /// Reads the rest of the stream, so that a digest below covers all of it, and gives it back.
    pub fn finish(mut self) -> Result<R, Error> {
        io::copy(&mut self.input, &mut io::sink())?;
        Ok(self.input.into_inner())
    }

    fn advance(&mut self) -> Result<Option<Entry>, Error> {
        while !self.ended {
            self.skip_content()?;
            let Some(raw) = self.read_raw()? else {
                self.ended = true;
                break;
            };
            let name = Name::new(&raw.name);
            match self.place(raw) {
                Ok(Some(entry)) => return Ok(Some(entry)),
                Ok(None) => {}
                Err(problem) => return Err(Error::Entry { name, problem }),
            }
        }
        Ok(None)
    }

    /// Reads headers up to and including those of the next entry.
    fn read_raw(&mut self) -> Result<Option<Raw>, Error> {
        let mut extended = Extended::default();
        loop {
            let Some(header) = self.read_header()? else {
                return match extended.pax.is_none() && extended.long_name.is_none() {
                    true => Ok(None),
                    false => Err(Error::Truncated(Name::new(b"an extended header"))),
                };
            };
            let name = header.name();
            self.current = Name::new(&name);
            let failed = |problem| Error::Entry { name: Name::new(&name), problem };
            let kind = header.kind();
            if !matches!(kind, b'x' | b'g' | b'L' | b'K' | b'V') {
                return self.read_entry(header, extended).map(Some);
            }
            let size = header.size().map_err(failed)?;
            let what = if matches!(kind, b'L' | b'K') { "name" } else { "extended header" };
            if size > MOST_EXTENDED {
                return Err(failed(Problem::TooLong(what, size)));
            }
            let body = self.read_body(size)?;
            let twice = match kind {
                b'x' => {
                    let pax = Pax::parse(&body).map_err(failed)?;
                    extended.pax.replace(pax).is_some()
                }
                b'g' => {
                    let pax = Pax::parse(&body).map_err(failed)?;
                    pax.check_global().map_err(failed)?;
                    self.globals.merge(pax);
                    false
                }
                b'L' => extended.long_name.replace(until_nul(body)).is_some(),
                b'K' => extended.long_link.replace(until_nul(body)).is_some(),
                // A volume label says nothing about files.
                _ => false,
            };
            if twice {
                return Err(failed(Problem::Twice(what)));
            }
        }
    }

    /// Reads a header block; None at the end of the archive.
    fn read_header(&mut self) -> Result<Option<Header>, Error> {
        let mut header = Header([0; BLOCK]);
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut header.0[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(Error::Truncated(Name::new(b"a header"))),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        let offset = self.offset;
        self.offset += BLOCK as u64;
        if header.is_zero() {
            // One block of zeros ends the archive; a second one should follow. Something else behind
            // the first would be read by some tools and not by others.
            let mut second = Vec::with_capacity(BLOCK);
            (&mut self.input).take(BLOCK as u64).read_to_end(&mut second)?;
            return match second.iter().all(|&b| b == 0) {
                true => Ok(None),
                false => Err(Error::Header { offset, problem: Problem::Checksum }),
            };
        }
        match header.checksum_fits() {
            true => Ok(Some(header)),
            false => Err(Error::Header { offset, problem: Problem::Checksum }),
        }
    }

    /// Reads the body of an extended header, at most [`MOST_EXTENDED`].
    fn read_body(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        (&mut self.input).take(size).read_to_end(&mut body)?;
        if body.len() as u64 != size {
            return Err(Error::Truncated(self.current.clone()));
        }
        self.offset += size;
        self.stored = 0;
        self.padding = padding(size);
        self.skip_content()?;
        Ok(body)
    }

    fn read_entry(&mut self, header: Header, extended: Extended) -> Result<Raw, Error> {
        let mut pax = self.globals.clone();
        if let Some(local) = extended.pax {
            pax.merge(local);
        }
        let name = pick(pax.sparse.name.take().or(pax.path.take()), extended.long_name);
        let name = name.map(|name| name.unwrap_or_else(|| header.name()));
        let link = pick(pax.link_path.take(), extended.long_link);
        let link = link.map(|link| link.unwrap_or_else(|| header.link_name().to_vec()));
        let (name, link) = match (name, link) {
            (Some(name), Some(link)) => (name, link),
            _ => {
                let name = Name::new(&header.name());
                return Err(Error::Entry { name, problem: Problem::Twice("name") });
            }
        };
        self.current = Name::new(&name);
        let failed = |problem| Error::Entry { name: Name::new(&name), problem };
        let mut entry = attributes(&header, &pax).map_err(failed)?;
        let stored = stored_size(&header, &pax).map_err(failed)?;
        entry.kind = kind(&header, &name, &link, stored).map_err(failed)?;
        if let Kind::File { .. } = entry.kind {
            (self.stored, self.padding) = (stored, padding(stored));
            let size = self.start_sparse(&header, pax).map_err(|error| match error {
                SparseError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    Error::Truncated(Name::new(&name))
                }
                SparseError::Io(error) => Error::Io(error),
                SparseError::Problem(problem) => failed(problem),
            })?;
            entry.kind = Kind::File { size: size.unwrap_or(stored), digest: None };
        }
        Ok(Raw { name, entry, link })
    }

    /// Prepares the expansion if the entry is sparse; gives its full size then.
    fn start_sparse(&mut self, header: &Header, pax: Pax) -> Result<Option<u64>, SparseError> {
        let (map, size) = if header.kind() == b'S' {
            let (map, size, extra) = sparse::read_gnu(header, &mut self.input)??;
            self.offset += extra;
            (map, size)
        } else if pax.sparse.is_sparse() {
            let missing = Problem::PaxValue("GNU.sparse.realsize");
            let size = pax.sparse.real_size.ok_or(missing)?;
            match pax.sparse.major {
                Some(0) | None => {
                    if pax.sparse.blocks.is_some_and(|count| count != pax.sparse.map.len() as u64) {
                        return Err(Problem::Sparse("its length is not the one announced").into());
                    }
                    (pax.sparse.map, size)
                }
                Some(1) => {
                    let (map, taken) = sparse::read_pax_1_0(&mut self.input, self.stored)??;
                    self.offset += taken;
                    // The map's last block may be all of the padding as well.
                    let all = self.stored + self.padding;
                    self.stored = self.stored.saturating_sub(taken);
                    self.padding = all - taken - self.stored;
                    (map, size)
                }
                Some(_) => return Err(Problem::PaxValue("GNU.sparse.major").into()),
            }
        } else {
            return Ok(None);
        };
        sparse::check(&map, size, self.stored)?;
        self.expansion = Some(Expansion::new(map, size));
        Ok(Some(size))
    }

    /// Turns the name into a path and a whiteout into a mark; None for what is to be left out.
    fn place(&mut self, raw: Raw) -> Result<Option<Entry>, Problem> {
        let Raw { name, mut entry, link } = raw;
        if name.contains(&0) {
            return Err(Problem::Nul("path"));
        }
        if link.contains(&0) {
            return Err(Problem::Nul("link target"));
        }
        let path = RootPath::clean(&name);
        let reserved = path.components().position(|part| part.starts_with(b".wh."));
        if let Some(position) = reserved {
            if !self.layer {
                return Err(Problem::ReservedName);
            }
            return self.place_mark(&path, position);
        }
        // Only directories may be the root: a link there would move all that follows
        // (CVE-2021-29136).
        if path.is_root() && entry.kind != Kind::Dir {
            return Err(Problem::Root);
        }
        entry.path = self.follow(&path)?;
        match &mut entry.kind {
            Kind::Symlink(target) => {
                if self.links.len() >= MOST_LINKS {
                    return Err(Problem::TooManyLinks);
                }
                self.links.insert(entry.path.as_bytes().to_vec(), target.clone());
            }
            other => {
                if !self.links.is_empty() {
                    self.links.remove(entry.path.as_bytes());
                }
                if let Kind::Hardlink(target) = other {
                    *target = self.follow(&RootPath::clean(&link))?;
                    if target.is_root() || *target == entry.path {
                        return Err(Problem::LinkToItself);
                    }
                }
            }
        }
        Ok(Some(entry))
    }

    fn place_mark(&mut self, path: &RootPath, position: usize) -> Result<Option<Entry>, Problem> {
        let parts: Vec<&[u8]> = path.components().collect();
        let part = parts[position];
        let last = position + 1 == parts.len();
        let parent = RootPath::from_clean(&parts[..position].join(&b'/'));
        let parent = self.follow(&parent.join(b"x"))?.parent().unwrap_or_default();
        if last && part == b".wh..wh..opq" {
            return Ok(Some(Entry { kind: Kind::Opaque, ..Entry::whiteout(parent) }));
        }
        // What aufs kept for itself (.wh..wh.plnk and the like) is in old images and means nothing.
        if part.starts_with(b".wh..wh.") {
            return Ok(None);
        }
        let target = &part[b".wh.".len()..];
        if !last || matches!(target, b"" | b"." | b"..") {
            return Err(Problem::Whiteout);
        }
        Ok(Some(Entry::whiteout(parent.join(target))))
    }

    /// Resolves the parents of a path through the symbolic links of this archive.
    fn follow(&self, path: &RootPath) -> Result<RootPath, Problem> {
        if self.links.is_empty() || path.as_bytes().len() > MOST_FOLLOWED {
            return Ok(path.clone());
        }
        // Mostly no parent is a link; then nothing needs to be built.
        let bytes = path.as_bytes();
        let cuts = bytes.iter().enumerate().filter(|&(_, &b)| b == b'/').map(|(cut, _)| cut);
        if !cuts.into_iter().any(|cut| self.links.contains_key(&bytes[..cut])) {
            return Ok(path.clone());
        }
        let mut pending: Vec<Vec<u8>> = path.components().rev().map(<[u8]>::to_vec).collect();
        let mut done = RootPath::root();
        let mut hops = 0;
        while let Some(part) = pending.pop() {
            let next = done.join(&part);
            // `..` in a link's target has been resolved by join; the last component stays itself.
            match self.links.get(next.as_bytes()).filter(|_| !pending.is_empty()) {
                Some(target) => {
                    hops += 1;
                    if hops > MOST_HOPS {
                        return Err(Problem::Loop);
                    }
                    if target.starts_with(b"/") {
                        done = RootPath::root();
                    }
                    let parts = target.split(|&b| b == b'/').rev();
                    pending.extend(parts.filter(|part| !part.is_empty()).map(<[u8]>::to_vec));
                }
                None => done = next,
            }
        }
        Ok(done)
    }

    /// Skips what is left of the current entry.
    fn skip_content(&mut self) -> Result<(), Error> {
        self.expansion = None;
        let left = self.stored + self.padding;
        (self.stored, self.padding) = (0, 0);
        let skipped = io::copy(&mut (&mut self.input).take(left), &mut io::sink())?;
        self.offset += skipped;
        match skipped == left {
            true => Ok(()),
            false => Err(Error::Truncated(self.current.clone())),
        }
    }

    fn read_content(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        let Reader { input, stored, offset, current, expansion, .. } = self;
        let mut read_stored = |out: &mut [u8]| {
            let wanted = (*stored).min(out.len() as u64) as usize;
            if wanted == 0 {
                return Ok(0);
            }
            let count = input.read(&mut out[..wanted])?;
            if count == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    Error::Truncated(current.clone()),
                ));
            }
            *stored -= count as u64;
            *offset += count as u64;
            Ok(count)
        };
        match expansion {
            Some(expansion) => expansion.read(out, read_stored),
            None => read_stored(out),
        }
    }
}

/// The content of one entry, sparse files expanded; empty for all but regular files.
pub struct Content<'a, R> {
    reader: &'a mut Reader<R>,
}

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.reader.read_content(out)
    }
}

enum SparseError {
    Io(io::Error),
    Problem(Problem),
}

impl From<io::Error> for SparseError {
    fn from(error: io::Error) -> SparseError {
        SparseError::Io(error)
    }
}

impl From<Problem> for SparseError {
    fn from(problem: Problem) -> SparseError {
        SparseError::Problem(problem)
    }
}

/// Takes the one of two that is given; None when they contradict each other.
fn pick(pax: Option<Vec<u8>>, gnu: Option<Vec<u8>>) -> Option<Option<Vec<u8>>> {
    match (pax, gnu) {
        (Some(pax), Some(gnu)) if pax != gnu => None,
        (pax, gnu) => Some(pax.or(gnu)),
    }
}

fn attributes(header: &Header, pax: &Pax) -> Result<Entry, Problem> {
    // 4294967295 is -1 to chown: not an id.
    let id = |value: i64, what| {
        u32::try_from(value).ok().filter(|&id| id != u32::MAX).ok_or(Problem::Number(what))
    };
    let mut xattrs = Xattrs::new();
    for (name, value) in &pax.xattrs {
        let Some(value) = value.as_ref().filter(|_| !is_overlay_xattr(name)) else { continue };
        let value = match name == b"security.capability" {
            true => capability_v2(value).unwrap_or_else(|| value.clone()),
            false => value.clone(),
        };
        xattrs.insert(name.clone(), value);
    }
    Ok(Entry {
        path: RootPath::root(),
        kind: Kind::Dir,
        mode: header.mode()?,
        uid: id(pax.uid.map_or_else(|| header.uid(), Ok)?, "uid")?,
        gid: id(pax.gid.map_or_else(|| header.gid(), Ok)?, "gid")?,
        mtime: pax.mtime.map_or_else(|| header.mtime(), Ok)?,
        xattrs,
    })
}

/// Gives the bytes behind the header, as all careful readers must agree on them.
fn stored_size(header: &Header, pax: &Pax) -> Result<u64, Problem> {
    let ustar = header.size();
    match pax.size {
        None => ustar,
        // The record is there because the field cannot hold the number, whatever it holds then.
        Some(size) if size > MOST_OCTAL_12 => {
            i64::try_from(size).map(|_| size).map_err(|_| Problem::PaxValue("size"))
        }
        Some(pax) => match ustar? {
            ustar if ustar == pax => Ok(pax),
            ustar => Err(Problem::SizeConflict { ustar, pax }),
        },
    }
}

fn kind(header: &Header, name: &[u8], link: &[u8], stored: u64) -> Result<Kind, Problem> {
    let empty = |what, kind| match stored {
        0 => Ok(kind),
        size => Err(Problem::UnexpectedContent(what, size)),
    };
    let file = Kind::File { size: 0, digest: None };
    match header.kind() {
        // Before ustar a directory was a file with a slash at the end.
        0 if name.ends_with(b"/") => empty("directory", Kind::Dir),
        0 | b'0' | b'7' | b'S' => Ok(file),
        // Some writers repeat the file's size here; nobody stores data (POSIX pax, typeflag 1).
        b'1' if link.is_empty() => Err(Problem::NoTarget),
        b'1' => Ok(Kind::Hardlink(RootPath::root())),
        b'2' if link.is_empty() => Err(Problem::NoTarget),
        b'2' => empty("symbolic link", Kind::Symlink(link.to_vec())),
        b'3' | b'4' => {
            let (major, minor) = header.device()?;
            let kind = match header.kind() {
                b'3' => Kind::CharDevice { major, minor },
                _ => Kind::BlockDevice { major, minor },
            };
            empty("device", kind)
        }
        b'5' => empty("directory", Kind::Dir),
        b'6' => empty("named pipe", Kind::Fifo),
        other => Err(Problem::Type(other)),
    }
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

/// GNU ends long names with a NUL.
fn until_nul(mut body: Vec<u8>) -> Vec<u8> {
    if let Some(end) = body.iter().position(|&b| b == 0) {
        body.truncate(end);
    }
    body
}
