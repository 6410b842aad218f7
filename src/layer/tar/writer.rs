//! [`Writer`]: entries of a layer as a tar stream, the same bytes for the same entries.

use std::io::{self, Read, Write};

use super::header::{BLOCK, Header, MOST_OCTAL_8, MOST_OCTAL_12};
use super::pax::{self, Records};
use super::{Error, MOST_EXTENDED, Name, Problem};
use crate::layer::toc::{Entry, EntryRef, KindRef, NO_XATTRS};

/// Bytes of content copied at once: stays in a core's cache between reading and hashing.
const PIECE: usize = 64 * 1024;

static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Writes a tar stream.
///
/// ustar, with a PAX header where that cannot hold a value; directories end in a slash; no user or
/// group names; mode, ids, time and xattrs also on further names of a file, since extractors apply
/// them again (a chown drops file capabilities that the next header does not repeat).
pub struct Writer<W> {
    out: W,
    piece: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Starts an archive.
    pub fn new(out: W) -> Writer<W> {
        Writer { out, piece: Vec::new() }
    }

    /// Appends one entry. `content` must give exactly the bytes of a regular file; it is not read
    /// for other kinds.
    pub fn entry(&mut self, entry: &EntryRef<'_>, content: &mut dyn Read) -> Result<(), Error> {
        self.header(entry)?;
        match entry.kind {
            KindRef::File { size, .. } => self.content(entry, size, content),
            _ => Ok(()),
        }
    }

    /// Appends the headers of an entry; gives its name as it stands there. The content of a regular
    /// file must follow.
    pub(in crate::layer) fn header(&mut self, entry: &EntryRef<'_>) -> Result<Vec<u8>, Error> {
        let failed = |problem| Error::Entry { name: Name::new(entry.path), problem };
        let name = stored_name(entry).map_err(failed)?;
        let mut header = Header::ustar(type_flag(entry.kind));
        let mut records = Records::default();
        if !header.set_name(&name) {
            records.set(b"path", &name);
        }
        fill(&mut header, &mut records, entry).map_err(failed)?;
        if !records.is_empty() {
            let body = records.body();
            if body.len() as u64 > MOST_EXTENDED {
                return Err(failed(Problem::TooLong("extended header", body.len() as u64)));
            }
            self.out.write_all(&pax::local_header(&name, body.len()).0)?;
            self.out.write_all(&body)?;
            self.pad(body.len() as u64)?;
            // Readers without PAX get a name that is cut, not none.
            if header.0[0] == 0 {
                let fits = header.set_name(&name[..name.len().min(100)]);
                debug_assert!(fits, "100 bytes fit");
            }
        }
        header.seal();
        self.out.write_all(&header.0)?;
        Ok(name)
    }

    /// Gives the inner writer, to be told what comes next.
    pub(in crate::layer) fn inner(&mut self) -> &mut W {
        &mut self.out
    }

    /// Gives the inner writer back, without an end of the archive.
    pub(in crate::layer) fn into_inner(self) -> W {
        self.out
    }

    /// Like [`Writer::entry`].
    pub fn owned_entry(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), Error> {
        self.entry(&entry.as_ref(), content)
    }

    /// Writes the end of the archive and gives the inner writer back.
    pub fn finish(mut self) -> Result<W, Error> {
        self.out.write_all(&ZEROS)?;
        self.out.write_all(&ZEROS)?;
        Ok(self.out)
    }

    /// Appends the content of a regular file, behind its header.
    pub(in crate::layer) fn content(
        &mut self,
        entry: &EntryRef<'_>,
        size: u64,
        content: &mut dyn Read,
    ) -> Result<(), Error> {
        if size == 0 {
            return Ok(());
        }
        self.piece.resize(PIECE, 0);
        let changed = |found| Error::Changed { path: entry.root_path(), expected: size, found };
        let mut left = size;
        loop {
            // One byte more than is left is asked for, which tells a file that has grown; at the
            // end of the file that read gives 0.
            let wanted = left.saturating_add(1).min(PIECE as u64) as usize;
            let count = match content.read(&mut self.piece[..wanted]) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(Error::Content { path: entry.root_path(), source }),
            };
            if count as u64 > left {
                return Err(changed("more".to_owned()));
            }
            if count == 0 {
                break;
            }
            self.out.write_all(&self.piece[..count])?;
            left -= count as u64;
        }
        match left {
            0 => Ok(self.pad(size)?),
            left => Err(changed(format!("only {}", size - left))),
        }
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let rest = (size.wrapping_neg() % BLOCK as u64) as usize;
        self.out.write_all(&ZEROS[..rest])
    }
}

/// Gives the name as it stands in the tar.
fn stored_name(entry: &EntryRef<'_>) -> Result<Vec<u8>, Problem> {
    let path = entry.path;
    if path.split(|&b| b == b'/').any(|part| part.starts_with(b".wh.")) {
        return Err(Problem::ReservedName);
    }
    if path.contains(&0) {
        return Err(Problem::Nul("path"));
    }
    let parent = &path[..path.len() - entry.file_name().len()];
    match entry.kind {
        KindRef::Dir if path.is_empty() => Ok(b"./".to_vec()),
        KindRef::Dir => Ok([path, b"/"].concat()),
        KindRef::Opaque if path.is_empty() => Ok(b".wh..wh..opq".to_vec()),
        KindRef::Opaque => Ok([path, b"/.wh..wh..opq"].concat()),
        _ if path.is_empty() => Err(Problem::Root),
        KindRef::Whiteout => Ok([parent, b".wh.", entry.file_name()].concat()),
        _ => Ok(path.to_vec()),
    }
}

fn type_flag(kind: KindRef<'_>) -> u8 {
    match kind {
        KindRef::File { .. } | KindRef::Whiteout | KindRef::Opaque => b'0',
        KindRef::Hardlink(_) => b'1',
        KindRef::Symlink(_) => b'2',
        KindRef::CharDevice { .. } => b'3',
        KindRef::BlockDevice { .. } => b'4',
        KindRef::Dir => b'5',
        KindRef::Fifo => b'6',
    }
}

/// Fills in everything but the name, into the header or, where that is too small, into records.
fn fill(header: &mut Header, records: &mut Records, entry: &EntryRef<'_>) -> Result<(), Problem> {
    let mark = entry.kind.is_mark();
    header.set_mode(if mark { 0 } else { entry.mode });
    let mut id = |key: &[u8], value: u32| match u64::from(value) <= MOST_OCTAL_8 {
        true => value,
        false => {
            records.set(key, value.to_string().as_bytes());
            0
        }
    };
    let (uid, gid) = if mark { (0, 0) } else { (id(b"uid", entry.uid), id(b"gid", entry.gid)) };
    header.set_ids(uid, gid);
    match u64::try_from(entry.mtime).ok().filter(|&mtime| mtime <= MOST_OCTAL_12) {
        Some(mtime) => header.set_mtime(mtime),
        None => records.set(b"mtime", entry.mtime.to_string().as_bytes()),
    }
    let target = match entry.kind {
        KindRef::Symlink(target) | KindRef::Hardlink(target) => Some(target),
        _ => None,
    };
    if let Some(target) = target {
        if target.is_empty() {
            return Err(Problem::NoTarget);
        }
        if target.contains(&0) {
            return Err(Problem::Nul("link target"));
        }
        if !header.set_link_name(target) {
            records.set(b"linkpath", target);
        }
    }
    match entry.kind {
        KindRef::File { size, .. } if size <= MOST_OCTAL_12 => header.set_size(size),
        KindRef::File { size, .. } => records.set(b"size", size.to_string().as_bytes()),
        KindRef::CharDevice { major, minor } | KindRef::BlockDevice { major, minor } => {
            if u64::from(major.max(minor)) > MOST_OCTAL_8 {
                return Err(Problem::Device(major, minor));
            }
            header.set_device(major, minor);
        }
        _ => {}
    }
    if entry.xattrs.keys().any(|name| name.is_empty() || name.iter().any(|b| b"=\0".contains(b))) {
        return Err(Problem::XattrName);
    }
    records.set_xattrs(if mark { &NO_XATTRS } else { entry.xattrs });
    Ok(())
}
