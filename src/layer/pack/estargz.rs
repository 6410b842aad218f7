//! eStargz: gzip layers whose files can be read one by one (docs/estargz.md of stargz-snapshotter).
//!
//! Every piece of a file, of at most 4 MiB, begins a gzip member. The last entry of the tar,
//! `stargz.index.json`, says where each piece is and what its digest is; it is a member of its own. A
//! footer of 51 bytes, an empty member, says where that one begins. So the blob is a gzip'd tar as any
//! other, and a DiffId covers the table and the landmark too, which every such layer has.
//!
//! The names of both are kept for them: entries of these names in a layer's root are left out, as
//! other writers of the format do, since they come from a layer that was one before.
//!
//! Memory: what the pipeline takes, a row for each entry, and the table as JSON.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};

use super::{Error, Line, PackOptions, Packed, packed_by};
use crate::layer::compress::block::{CHUNK, Member};
use crate::layer::path::RootPath;
use crate::layer::tar;
use crate::layer::toc::{Entry, EntryRef, Kind, KindRef, Xattrs};
use crate::oci::digest::Hasher;
use crate::oci::{Descriptor, DiffId, Digest};

/// The annotation of a layer's descriptor with the digest of its table.
pub const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";

/// The annotation of a layer's descriptor with the size of its tar, which containers/storage asks for.
pub const UNCOMPRESSED_SIZE: &str = "io.containers.estargz.uncompressed-size";

/// The entry that holds the table.
const TABLE: &str = "stargz.index.json";

/// The entry that says that nothing should be fetched ahead.
const LANDMARK: &str = ".no.prefetch.landmark";

/// The one that other writers put behind what should be fetched ahead.
const OTHER_LANDMARK: &str = ".prefetch.landmark";

/// What a landmark holds.
const LANDMARK_CONTENT: &[u8] = &[0xf];

/// Bytes of the footer.
const FOOTER: usize = 51;

/// Says whether a path is one that the format keeps for itself.
pub fn is_reserved(path: &[u8]) -> bool {
    [TABLE, LANDMARK, OTHER_LANDMARK].iter().any(|name| path == name.as_bytes())
}

/// Says whether a blob ends as eStargz does.
pub fn detect(blob: &mut (impl Read + Seek)) -> io::Result<bool> {
    let len = blob.seek(SeekFrom::End(0))?;
    let mut end = [0; FOOTER];
    if len > FOOTER as u64 {
        blob.seek(SeekFrom::End(-(FOOTER as i64)))?;
        blob.read_exact(&mut end)?;
    }
    blob.rewind()?;
    let at = std::str::from_utf8(&end[16..32]).ok();
    let at = at.and_then(|at| u64::from_str_radix(at, 16).ok());
    Ok(at.is_some_and(|at| at < len && end == footer(at)))
}

/// Says whether a descriptor is that of an eStargz layer.
pub fn is_estargz(layer: &Descriptor) -> bool {
    layer.annotations.contains_key(TOC_DIGEST)
}

impl Packed {
    /// Gives the annotations that the descriptor of an eStargz layer needs; none for other layers.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        let Some(toc) = self.toc_digest else { return BTreeMap::new() };
        [(TOC_DIGEST, toc.to_string()), (UNCOMPRESSED_SIZE, self.diff_size.to_string())]
            .map(|(key, value)| (key.to_owned(), value))
            .into()
    }
}

/// Packs a layer that is a tar already. The entries are written anew, without names of users and
/// parts of seconds. Reads to the end of `tar`.
pub fn convert(
    tar: &mut (dyn Read + Send),
    options: PackOptions,
    out: &mut (dyn Write + Send),
) -> Result<Packed, Error> {
    packed_by(options, out, |sink| {
        let mut reader = tar::Reader::new(tar);
        while let Some((entry, mut content)) = reader.next_entry().map_err(Error::Read)? {
            sink.entry(&entry.as_ref(), &mut content)?;
        }
        reader.finish().map_err(Error::Read)?;
        Ok(())
    })
}

/// Cuts the content of files into pieces.
#[derive(Default)]
pub(super) struct Pieces {
    /// Bytes of the file to come, and of the piece.
    left: u64,
    piece: usize,
    /// For a file of several pieces.
    hasher: Option<Hasher>,
}

impl Pieces {
    /// Begins a file.
    pub(super) fn begin(&mut self, size: u64) {
        self.left = size;
        self.hasher = (size > CHUNK as u64).then(Hasher::new);
    }

    /// Gives the length of the piece that begins here, if one does.
    pub(super) fn starting(&mut self) -> Option<usize> {
        if self.piece > 0 || self.left == 0 {
            return None;
        }
        self.piece = self.left.min(CHUNK as u64) as usize;
        Some(self.piece)
    }

    /// Takes what may be written before the next piece begins.
    pub(super) fn take<'d>(&mut self, data: &'d [u8]) -> (&'d [u8], &'d [u8]) {
        if self.left == 0 {
            return (data, &[]);
        }
        let (now, rest) = data.split_at(data.len().min(self.piece));
        self.piece -= now.len();
        self.left -= now.len() as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(now);
        }
        (now, rest)
    }
}

/// The table while the layer is written: a row an entry.
#[derive(Default)]
pub(super) struct Table {
    rows: Vec<Row>,
}

/// One entry of the table, but for where its pieces are.
struct Row {
    name: String,
    kind: &'static str,
    size: u64,
    mtime: i64,
    link: String,
    mode: u32,
    uid: u32,
    gid: u32,
    device: Option<(u32, u32)>,
    xattrs: BTreeMap<String, String>,
    /// Of a file of several pieces; that of one piece is the piece's own.
    digest: Option<Digest>,
}

impl Table {
    /// Starts a layer: with the landmark.
    pub(super) fn new(writer: &mut tar::Writer<Line<'_, '_>>) -> Result<Table, Error> {
        let mut table = Table::default();
        let landmark = own_entry(LANDMARK, LANDMARK_CONTENT);
        table.write(writer, &landmark.as_ref(), &mut &LANDMARK_CONTENT[..])?;
        Ok(table)
    }

    /// Writes an entry, unless its name is kept for the format's own.
    pub(super) fn entry(
        &mut self,
        writer: &mut tar::Writer<Line<'_, '_>>,
        entry: &EntryRef<'_>,
        content: &mut dyn Read,
    ) -> Result<(), Error> {
        if is_reserved(entry.path) {
            return Ok(());
        }
        self.write(writer, entry, content)
    }

    fn write(
        &mut self,
        writer: &mut tar::Writer<Line<'_, '_>>,
        entry: &EntryRef<'_>,
        content: &mut dyn Read,
    ) -> Result<(), Error> {
        let name = writer.header(entry)?;
        let mut row = Row::new(name, entry)?;
        if let KindRef::File { size, .. } = entry.kind
            && size > 0
        {
            writer.inner().begin(size);
            writer.content(entry, size, content)?;
            row.digest = writer.inner().pieces.hasher.take().map(Hasher::finish);
        }
        self.rows.push(row);
        Ok(())
    }

    /// Writes the table and the footer behind everything else.
    pub(super) fn finish(self, line: Line<'_, '_>, level: u32) -> Result<Packed, Error> {
        let diff_size = line.diff_size;
        let mut ended = line.end()?;
        let json = self.json(&ended.members);
        let toc_digest = Digest::of(&json);
        let mut tar = tar::Writer::new(Vec::with_capacity(json.len() + 4096));
        tar.owned_entry(&own_entry(TABLE, &json), &mut &json[..])?;
        let tar = tar.finish()?;
        drop(json);
        ended.diff.update(&tar);
        let diff_size = diff_size + tar.len() as u64;
        let member = crate::layer::compress::block::gzip(level, &tar).map_err(Error::Write)?;
        drop(tar);
        let offset = ended.blob.size;
        let blob = &mut ended.blob;
        blob.write_all(&member)
            .and_then(|()| blob.write_all(&footer(offset)))
            .and_then(|()| blob.flush())
            .map_err(Error::Write)?;
        let (diff, digest, size) = ended.finish();
        let diff_id = DiffId(diff);
        Ok(Packed { diff_id, digest, size, diff_size, toc_digest: Some(toc_digest) })
    }

    /// Makes the JSON. `members` are the pieces of all files in order.
    fn json(&self, members: &[Member]) -> Vec<u8> {
        let mut members = members.iter();
        let mut json = b"{\"version\":1,\"entries\":[".to_vec();
        let mut push = |line: &JsonRow<'_>| {
            if json.last() != Some(&b'[') {
                json.push(b',');
            }
            // Writing plain strings and numbers to memory cannot fail.
            let _ = serde_json::to_writer(&mut json, line);
        };
        for row in &self.rows {
            let mut line = JsonRow::of(row);
            let pieces = row.size.div_ceil(CHUNK as u64);
            let whole = row.digest.or_else(|| (row.size == 0).then(|| Digest::of(b"")));
            line.digest = whole.filter(|_| row.kind == "reg");
            for number in 0..pieces {
                let Some(member) = members.next() else { break };
                let last = number + 1 == pieces;
                line.digest = line.digest.or((number == 0).then_some(member.digest));
                line.offset = member.offset;
                line.chunk_offset = number * CHUNK as u64;
                line.chunk_size = if last { 0 } else { CHUNK as u64 };
                line.chunk_digest = Some(member.digest);
                push(&line);
                line = JsonRow { name: &row.name, kind: "chunk", ..JsonRow::default() };
            }
            if pieces == 0 {
                push(&line);
            }
        }
        json.extend_from_slice(b"]}");
        json
    }
}

impl Row {
    fn new(name: Vec<u8>, entry: &EntryRef<'_>) -> Result<Row, Error> {
        let refused =
            |problem: &str| Error::Estargz { path: entry.root_path(), problem: problem.to_owned() };
        let text = |bytes: &[u8], what: &str| {
            let text = std::str::from_utf8(bytes).map(str::to_owned);
            text.map_err(|_| refused(&format!("its {what} is not UTF-8")))
        };
        let link = match entry.kind {
            KindRef::Hardlink(target) if is_reserved(target) => {
                return Err(refused("it is another name of a file that eStargz keeps for itself"));
            }
            KindRef::Symlink(target) => text(target, "target")?,
            KindRef::Hardlink(target) => text(target, "target")?,
            _ => String::new(),
        };
        let mark = entry.kind.is_mark();
        let mut xattrs = BTreeMap::new();
        for (key, value) in entry.xattrs.iter().filter(|_| !mark) {
            xattrs.insert(text(key, "extended attribute's name")?, STANDARD.encode(value));
        }
        Ok(Row {
            name: text(&name, "name")?,
            kind: match entry.kind {
                KindRef::Dir => "dir",
                KindRef::File { .. } | KindRef::Whiteout | KindRef::Opaque => "reg",
                KindRef::Symlink(_) => "symlink",
                KindRef::Hardlink(_) => "hardlink",
                KindRef::CharDevice { .. } => "char",
                KindRef::BlockDevice { .. } => "block",
                KindRef::Fifo => "fifo",
            },
            size: if let KindRef::File { size, .. } = entry.kind { size } else { 0 },
            mtime: entry.mtime,
            link,
            mode: if mark { 0 } else { entry.mode },
            uid: if mark { 0 } else { entry.uid },
            gid: if mark { 0 } else { entry.gid },
            device: match entry.kind {
                KindRef::CharDevice { major, minor } | KindRef::BlockDevice { major, minor } => {
                    Some((major, minor))
                }
                _ => None,
            },
            xattrs,
            digest: None,
        })
    }
}

/// An entry of the table as JSON.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonRow<'r> {
    name: &'r str,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    modtime: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    link_name: &'r str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dev_major: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dev_minor: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    xattrs: Option<&'r BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shown")]
    digest: Option<Digest>,
    #[serde(skip_serializing_if = "is_zero")]
    offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_size: u64,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shown")]
    chunk_digest: Option<Digest>,
}

impl<'r> JsonRow<'r> {
    fn of(row: &'r Row) -> JsonRow<'r> {
        // A time that RFC 3339 cannot say is left out, which means an unknown one.
        let time = jiff::Timestamp::from_second(row.mtime).map(|time| time.to_string());
        JsonRow {
            name: &row.name,
            kind: row.kind,
            size: row.size,
            modtime: time.ok().filter(|time| !time.starts_with('-')).unwrap_or_default(),
            link_name: &row.link,
            mode: Some(row.mode),
            uid: Some(row.uid),
            gid: Some(row.gid),
            dev_major: row.device.map(|(major, _)| major),
            dev_minor: row.device.map(|(_, minor)| minor),
            xattrs: (!row.xattrs.is_empty()).then_some(&row.xattrs),
            ..JsonRow::default()
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn shown<S: Serializer>(digest: &Option<Digest>, serializer: S) -> Result<S::Ok, S::Error> {
    match digest {
        Some(digest) => serializer.collect_str(digest),
        None => serializer.serialize_none(),
    }
}

/// An entry that is in no layer's table of contents.
fn own_entry(name: &str, content: &[u8]) -> Entry {
    Entry {
        path: RootPath::from(name),
        kind: Kind::File { size: content.len() as u64, digest: None },
        mode: 0o444,
        uid: 0,
        gid: 0,
        mtime: 0,
        xattrs: Xattrs::new(),
    }
}

/// Makes the footer: an empty gzip member whose extra field says where the table begins.
fn footer(offset: u64) -> [u8; FOOTER] {
    let mut footer = [0; FOOTER];
    // Deflate, with an extra field, no time, OS unknown; its length; subfield "SG" and its length.
    footer[..10].copy_from_slice(&[0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff]);
    footer[10..16].copy_from_slice(&[26, 0, b'S', b'G', 22, 0]);
    footer[16..38].copy_from_slice(format!("{offset:016x}STARGZ").as_bytes());
    // A last, stored block without data; CRC and size of nothing are 0.
    footer[38..43].copy_from_slice(&[1, 0, 0, 0xff, 0xff]);
    footer
}

#[cfg(test)]
mod tests;
