//! [`Toc`]: rows of a fixed size beside one arena of path bytes.
//!
//! A row is 80 bytes; a path's bytes, followed by its link target if it has one, lie in the arena;
//! xattrs are kept once per distinct set. A million rows with paths of 50 bytes take 130 MB.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use super::{Entry, EntryRef, KindRef, NO_XATTRS, Xattrs, capability_v2, is_overlay_xattr};
use crate::layer::path::{RootPath, compare};
use crate::oci::Digest;
use crate::oci::digest::Hasher;

/// What a row is. The numbers are those of the form on disk and of digests: never change them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Code {
    Whiteout = 0,
    Dir = 1,
    File = 2,
    Symlink = 3,
    Hardlink = 4,
    CharDevice = 5,
    BlockDevice = 6,
    Fifo = 7,
    Opaque = 8,
}

impl Code {
    pub(super) fn from_u8(byte: u8) -> Option<Code> {
        Some(match byte {
            0 => Code::Whiteout,
            1 => Code::Dir,
            2 => Code::File,
            3 => Code::Symlink,
            4 => Code::Hardlink,
            5 => Code::CharDevice,
            6 => Code::BlockDevice,
            7 => Code::Fifo,
            8 => Code::Opaque,
            _ => return None,
        })
    }

    /// Order of the rows of one path.
    pub(super) fn rank(self) -> u8 {
        match self {
            Code::Whiteout => 0,
            Code::Opaque => 2,
            _ => 1,
        }
    }

    fn has_target(self) -> bool {
        matches!(self, Code::Symlink | Code::Hardlink)
    }
}

/// One row. `aux` is the size of a file, the length of a link target (which follows the path in
/// the arena), or major << 32 | minor of a device.
#[derive(Clone)]
pub(super) struct Row {
    pub(super) start: u64,
    pub(super) aux: u64,
    pub(super) mtime: i64,
    pub(super) digest: [u8; 32],
    pub(super) path_len: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) xattrs: u32,
    pub(super) mode: u16,
    pub(super) code: Code,
    pub(super) has_digest: bool,
}

/// The table of contents of a layer. See the module for what always holds of it.
#[derive(Clone, Default)]
pub struct Toc {
    pub(super) rows: Vec<Row>,
    pub(super) arena: Vec<u8>,
    /// Distinct xattr sets; row.xattrs is 0 for none, else 1 + index.
    pub(super) sets: Vec<Xattrs>,
    /// Whether any whiteout or opaque mark is there.
    pub(super) marks: bool,
}

/// What makes a table of contents impossible to lay out as files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// An entry below something that the same layer makes a non-directory.
    #[error("{path} lies below {ancestor}, which the same layer makes a non-directory")]
    BelowNonDirectory {
        /// The entry.
        path: RootPath,
        /// What it lies below.
        ancestor: RootPath,
    },
    /// A hard link to a path that the layer does not have.
    #[error("hard link {path} names {target}, which the same layer does not have")]
    MissingTarget {
        /// The link.
        path: RootPath,
        /// What it names.
        target: RootPath,
    },
    /// A hard link to a directory.
    #[error("hard link {path} names {target}, which is a directory")]
    LinkToDirectory {
        /// The link.
        path: RootPath,
        /// What it names.
        target: RootPath,
    },
    /// The root is something else than a directory.
    #[error("the layer makes the root a non-directory or deletes it")]
    Root,
}

/// How mtimes enter a digest.
#[derive(Clone, Copy)]
enum Mtimes {
    Keep,
    Drop,
    Clamp(i64),
}

impl Toc {
    /// Gives the number of rows, marks included.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Says whether nothing is listed.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Says whether the layer hides anything of lower layers by whiteouts or opaque marks.
    pub fn has_marks(&self) -> bool {
        self.marks
    }

    /// Gives all rows in order.
    pub fn iter(
        &self,
    ) -> impl DoubleEndedIterator<Item = EntryRef<'_>> + ExactSizeIterator + Clone + '_ {
        self.rows.iter().map(|row| self.view(row))
    }

    /// Gives row `index`. Panics past the end, as a slice does.
    pub fn at(&self, index: usize) -> EntryRef<'_> {
        self.view(&self.rows[index])
    }

    /// Finds what the layer puts at a clean path; marks do not count.
    pub fn get(&self, path: &[u8]) -> Option<EntryRef<'_>> {
        self.index_of(path).map(|index| self.at(index))
    }

    /// Like [`Toc::get`], but gives the row's index.
    pub fn index_of(&self, path: &[u8]) -> Option<usize> {
        self.find(path, 1).ok()
    }

    /// Says whether the layer deletes this very path.
    pub fn whiteout(&self, path: &[u8]) -> bool {
        self.marks && self.find(path, 0).is_ok()
    }

    /// Says whether the layer hides the lower contents of this very directory.
    pub fn opaque(&self, path: &[u8]) -> bool {
        self.marks && self.find(path, 2).is_ok()
    }

    /// Gives the indices of all rows strictly below a directory.
    pub fn range_below(&self, dir: &[u8]) -> Range<usize> {
        let start = match self.find(dir, 2) {
            Ok(index) => index + 1,
            Err(index) => index,
        };
        let length =
            gallop(self.rows.len() - start, |i| is_below(self.path_of(&self.rows[start + i]), dir));
        start..start + length
    }

    /// Gives all rows strictly below a directory, marks included.
    pub fn below(&self, dir: &[u8]) -> impl DoubleEndedIterator<Item = EntryRef<'_>> + '_ {
        self.rows[self.range_below(dir)].iter().map(|row| self.view(row))
    }

    /// Records the digest of a file's content. Ignored for rows that are not files.
    pub fn set_digest(&mut self, index: usize, digest: Digest) {
        let row = &mut self.rows[index];
        if row.code == Code::File {
            row.digest = *digest.as_bytes();
            row.has_digest = true;
        }
    }

    /// Digests everything, mtimes included.
    ///
    /// Files without a content digest enter without one: take digests only of tables whose contents
    /// were read, or of which the contents are identified some other way.
    pub fn digest(&self) -> Digest {
        self.digest_with(Mtimes::Keep)
    }

    /// Digests everything but mtimes: the identity of a layer whose content follows from its inputs.
    pub fn digest_without_mtimes(&self) -> Digest {
        self.digest_with(Mtimes::Drop)
    }

    /// Digests everything, with mtimes as [`super::super::pack()`] writes them for this epoch.
    pub fn digest_clamped(&self, epoch: Option<i64>) -> Digest {
        self.digest_with(epoch.map_or(Mtimes::Keep, Mtimes::Clamp))
    }

    /// Gives the order of rows in a tar: as they are, but whiteouts before all siblings of what they
    /// delete (OCI image-spec, layer.md "Whiteouts").
    pub fn tar_order(&self) -> Vec<usize> {
        let mut early: Vec<(usize, usize, usize)> = Vec::new();
        if self.marks {
            for (index, row) in self.rows.iter().enumerate() {
                if row.code == Code::Whiteout {
                    let path = self.path_of(row);
                    let cut = path.iter().rposition(|&b| b == b'/').unwrap_or(0);
                    let depth = path.iter().filter(|&&b| b == b'/').count();
                    early.push((self.range_below(&path[..cut]).start, depth, index));
                }
            }
            early.sort_unstable();
        }
        let mut order = Vec::with_capacity(self.rows.len());
        let mut early = early.into_iter().peekable();
        for (index, row) in self.rows.iter().enumerate() {
            while let Some((_, _, whiteout)) = early.next_if(|&(before, _, _)| before <= index) {
                order.push(whiteout);
            }
            if row.code != Code::Whiteout {
                order.push(index);
            }
        }
        order.extend(early.map(|(_, _, whiteout)| whiteout));
        order
    }

    /// Gives the directories that the layer has entries in without listing them, as clean paths,
    /// topmost first. On disk they must exist; what they look like is up to lower layers.
    pub fn implicit_dirs(&self) -> Vec<&[u8]> {
        let mut found = Vec::new();
        let mut last: &[u8] = b"";
        // Whether a row lists `last` itself, not only a mark on it.
        let mut listed = true;
        for row in &self.rows {
            let path = self.path_of(row);
            let same = last.iter().zip(path).take_while(|(a, b)| a == b).count();
            for cut in (0..path.len()).filter(|&cut| path[cut] == b'/') {
                // A directory's own row comes right before its contents: a row before that lies in it
                // or is it means that it was seen, no such row that there is none.
                let seen = same >= cut
                    && match last.len() == cut {
                        true => listed,
                        false => last.len() > cut && last[cut] == b'/',
                    };
                if !seen {
                    found.push(&path[..cut]);
                }
            }
            let real = row.code.rank() == 1;
            listed = real || (listed && last == path);
            last = path;
        }
        found
    }

    /// Checks that the layer can be laid out as files: nothing lies below a non-directory, and hard
    /// links name files of the layer. Everything that comes from outside must pass.
    pub fn check(&self) -> Result<(), Fault> {
        let mut non_directory: Option<&[u8]> = None;
        for row in &self.rows {
            let path = self.path_of(row);
            if path.is_empty() && !matches!(row.code, Code::Dir | Code::Opaque) {
                return Err(Fault::Root);
            }
            if let Some(ancestor) = non_directory.filter(|dir| is_below(path, dir)) {
                let ancestor = RootPath::from_clean(ancestor);
                return Err(Fault::BelowNonDirectory {
                    path: RootPath::from_clean(path),
                    ancestor,
                });
            }
            if row.code == Code::Hardlink {
                let name = self.target_of(row);
                let target = self.index_of(name).map(|index| self.rows[index].code);
                let (path, name) = (RootPath::from_clean(path), RootPath::from_clean(name));
                match target {
                    Some(Code::Dir) => {
                        return Err(Fault::LinkToDirectory { path, target: name });
                    }
                    None | Some(Code::Hardlink) => {
                        return Err(Fault::MissingTarget { path, target: name });
                    }
                    Some(_) => {}
                }
            }
            if row.code.rank() == 1 && row.code != Code::Dir {
                non_directory = Some(path);
            }
        }
        Ok(())
    }

    /// Gives the bytes of memory that this table holds.
    pub fn heap_size(&self) -> usize {
        let sets = self.sets.iter().flatten().map(|(name, value)| name.len() + value.len() + 48);
        self.rows.capacity() * size_of::<Row>() + self.arena.capacity() + sets.sum::<usize>()
    }

    pub(super) fn path_of(&self, row: &Row) -> &[u8] {
        path_in(&self.arena, row)
    }

    pub(super) fn target_of(&self, row: &Row) -> &[u8] {
        target_in(&self.arena, row)
    }

    pub(in crate::layer) fn path_at(&self, index: usize) -> &[u8] {
        self.path_of(&self.rows[index])
    }

    fn view(&self, row: &Row) -> EntryRef<'_> {
        let (major, minor) = ((row.aux >> 32) as u32, row.aux as u32);
        let kind = match row.code {
            Code::Whiteout => KindRef::Whiteout,
            Code::Dir => KindRef::Dir,
            Code::File => KindRef::File {
                size: row.aux,
                digest: row.has_digest.then(|| Digest::from_bytes(row.digest)),
            },
            Code::Symlink => KindRef::Symlink(self.target_of(row)),
            Code::Hardlink => KindRef::Hardlink(self.target_of(row)),
            Code::CharDevice => KindRef::CharDevice { major, minor },
            Code::BlockDevice => KindRef::BlockDevice { major, minor },
            Code::Fifo => KindRef::Fifo,
            Code::Opaque => KindRef::Opaque,
        };
        EntryRef {
            path: self.path_of(row),
            kind,
            mode: row.mode.into(),
            uid: row.uid,
            gid: row.gid,
            mtime: row.mtime,
            xattrs: match row.xattrs {
                0 => &NO_XATTRS,
                index => &self.sets[index as usize - 1],
            },
        }
    }

    /// Finds the row of `path` with `rank`, or where it would be.
    fn find(&self, path: &[u8], rank: u8) -> Result<usize, usize> {
        self.rows.binary_search_by(|row| {
            compare(self.path_of(row), path).then_with(|| row.code.rank().cmp(&rank))
        })
    }

    fn digest_with(&self, mtimes: Mtimes) -> Digest {
        /// sha256 is fed pieces of about this size; smaller ones cost a tenth more time.
        const PIECE: usize = 32 * 1024;
        let mut hasher = Hasher::new();
        let mut out = Vec::with_capacity(PIECE + 4096);
        out.extend_from_slice(b"lapstrake toc digest 1\n");
        out.push(u8::from(!matches!(mtimes, Mtimes::Drop)));
        for row in &self.rows {
            let text = |out: &mut Vec<u8>, bytes: &[u8]| {
                out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
                out.extend_from_slice(bytes);
            };
            out.push(row.code as u8);
            text(&mut out, self.path_of(row));
            out.extend_from_slice(&row.mode.to_le_bytes());
            out.extend_from_slice(&row.uid.to_le_bytes());
            out.extend_from_slice(&row.gid.to_le_bytes());
            match mtimes {
                Mtimes::Keep => out.extend_from_slice(&row.mtime.to_le_bytes()),
                Mtimes::Clamp(epoch) => {
                    out.extend_from_slice(&row.mtime.min(epoch).to_le_bytes());
                }
                Mtimes::Drop => {}
            }
            if row.code.has_target() {
                text(&mut out, self.target_of(row));
            } else {
                out.extend_from_slice(&row.aux.to_le_bytes());
            }
            out.push(u8::from(row.has_digest));
            if row.has_digest {
                out.extend_from_slice(&row.digest);
            }
            let xattrs = self.view(row).xattrs;
            out.extend_from_slice(&(xattrs.len() as u32).to_le_bytes());
            for (name, value) in xattrs {
                text(&mut out, name);
                text(&mut out, value);
            }
            if out.len() >= PIECE {
                hasher.update(&out);
                out.clear();
            }
        }
        hasher.update(&out);
        hasher.finish()
    }
}

impl PartialEq for Toc {
    fn eq(&self, other: &Toc) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Toc {}

impl fmt::Debug for Toc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Collects entries in any order into a [`Toc`].
#[derive(Default)]
pub struct TocBuilder {
    toc: Toc,
    sets: BTreeMap<Xattrs, u32>,
}

impl TocBuilder {
    /// Starts empty.
    pub fn new() -> TocBuilder {
        TocBuilder::default()
    }

    /// Adds an entry. The last one for a path wins, as in a tar.
    pub fn push(&mut self, entry: Entry) {
        self.push_ref(&entry.as_ref());
    }

    /// Like [`TocBuilder::push`].
    pub fn push_ref(&mut self, entry: &EntryRef<'_>) {
        let mut row = Row {
            start: self.toc.arena.len() as u64,
            aux: 0,
            mtime: entry.mtime,
            digest: [0; 32],
            path_len: entry.path.len() as u32,
            uid: entry.uid,
            gid: entry.gid,
            xattrs: 0,
            mode: (entry.mode & 0o7777) as u16,
            code: Code::Dir,
            has_digest: false,
        };
        self.toc.arena.extend_from_slice(entry.path);
        let device = |major: u32, minor: u32| u64::from(major) << 32 | u64::from(minor);
        (row.code, row.aux) = match entry.kind {
            KindRef::Dir => (Code::Dir, 0),
            KindRef::File { size, digest } => {
                if let Some(digest) = digest {
                    row.digest = *digest.as_bytes();
                    row.has_digest = true;
                }
                (Code::File, size)
            }
            KindRef::Symlink(target) => {
                self.toc.arena.extend_from_slice(target);
                (Code::Symlink, target.len() as u64)
            }
            KindRef::Hardlink(target) => {
                self.toc.arena.extend_from_slice(target);
                (Code::Hardlink, target.len() as u64)
            }
            KindRef::CharDevice { major, minor } => (Code::CharDevice, device(major, minor)),
            KindRef::BlockDevice { major, minor } => (Code::BlockDevice, device(major, minor)),
            KindRef::Fifo => (Code::Fifo, 0),
            KindRef::Whiteout => (Code::Whiteout, 0),
            KindRef::Opaque => (Code::Opaque, 0),
        };
        if entry.kind.is_mark() {
            (row.mode, row.uid, row.gid, row.mtime) = (0, 0, 0, 0);
            self.toc.marks = true;
        } else if !entry.xattrs.is_empty() {
            row.xattrs = self.set_of(entry.xattrs);
        }
        self.toc.rows.push(row);
    }

    /// Gives the number of entries pushed.
    pub fn len(&self) -> usize {
        self.toc.rows.len()
    }

    /// Says whether nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.toc.rows.is_empty()
    }

    /// Sorts, drops what a later entry replaced, and gives the table.
    pub fn finish(self) -> Toc {
        let mut toc = self.toc;
        let Toc { rows, arena, .. } = &mut toc;
        let key_order = |a: &Row, b: &Row| {
            compare(path_in(arena, a), path_in(arena, b))
                .then_with(|| a.code.rank().cmp(&b.code.rank()))
        };
        // Listings mostly come sorted; then this is the whole cost. The arena offset is the order of
        // arrival, so the unstable sort loses nothing and needs no second copy of the rows.
        if !rows.windows(2).all(|pair| key_order(&pair[0], &pair[1]) == Ordering::Less) {
            // A root with an empty path takes no arena bytes, so two of them would tie: the stable
            // sort keeps their order, at the price of a copy.
            if rows.iter().filter(|row| row.path_len == 0).count() > 1 {
                rows.sort_by(key_order);
            } else {
                rows.sort_unstable_by(|a, b| key_order(a, b).then_with(|| a.start.cmp(&b.start)));
            }
            let mut last = 0;
            for next in 1..rows.len() {
                if key_order(&rows[last], &rows[next]) != Ordering::Equal {
                    last += 1;
                }
                rows.swap(last, next);
            }
            rows.truncate(last + 1);
        }
        rows.shrink_to_fit();
        settle_hardlinks(&mut toc);
        toc.arena.shrink_to_fit();
        toc
    }

    /// Finds or keeps a set of xattrs, without those that never belong to a layer.
    fn set_of(&mut self, xattrs: &Xattrs) -> u32 {
        if let Some(&index) = self.sets.get(xattrs) {
            return index;
        }
        let mut clean = xattrs.clone();
        clean.retain(|name, _| !is_overlay_xattr(name));
        if let Some(value) = clean.get_mut(&b"security.capability"[..])
            && let Some(v2) = capability_v2(value)
        {
            *value = v2;
        }
        if clean.is_empty() {
            return 0;
        }
        if let Some(&index) = self.sets.get(&clean) {
            return index;
        }
        self.toc.sets.push(clean.clone());
        let index = self.toc.sets.len() as u32;
        self.sets.insert(clean, index);
        index
    }
}

impl Extend<Entry> for TocBuilder {
    fn extend<I: IntoIterator<Item = Entry>>(&mut self, entries: I) {
        entries.into_iter().for_each(|entry| self.push(entry));
    }
}

impl FromIterator<Entry> for Toc {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Toc {
        let mut builder = TocBuilder::new();
        builder.extend(entries);
        builder.finish()
    }
}

/// Makes the first name of each file the file and all others links to it, with its attributes.
/// Links that lead nowhere stay as they are, for [`Toc::check`] to report.
fn settle_hardlinks(toc: &mut Toc) {
    /// A tar may chain links; nobody chains more than this.
    const MOST_HOPS: usize = 64;
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, row) in toc.rows.iter().enumerate() {
        if row.code != Code::Hardlink {
            continue;
        }
        let mut at = index;
        for _ in 0..MOST_HOPS {
            match toc.index_of(toc.target_of(&toc.rows[at])) {
                Some(next) if toc.rows[next].code == Code::Hardlink => at = next,
                Some(next) => {
                    groups.entry(next).or_default().push(index);
                    break;
                }
                None => break,
            }
        }
    }
    for (file, links) in groups {
        if toc.rows[file].code == Code::Dir {
            continue;
        }
        // Rows were visited in order, so the first link is the least.
        let first = links[0].min(file);
        let content = toc.rows[file].clone();
        let content_target = match content.code {
            Code::Symlink => toc.target_of(&content).to_vec(),
            _ => Vec::new(),
        };
        let first_path = toc.path_at(first).to_vec();
        for index in links.into_iter().chain([file]) {
            let path = toc.path_at(index).to_vec();
            let (code, aux, target) = match index == first {
                true => (content.code, content.aux, &content_target),
                false => (Code::Hardlink, first_path.len() as u64, &first_path),
            };
            let start = toc.arena.len() as u64;
            toc.arena.extend_from_slice(&path);
            toc.arena.extend_from_slice(target);
            let mut row = Row { start, code, aux, path_len: path.len() as u32, ..content.clone() };
            if code == Code::Hardlink {
                row.digest = [0; 32];
                row.has_digest = false;
            }
            toc.rows[index] = row;
        }
    }
}

/// Says whether a clean path lies strictly below a directory.
fn is_below(path: &[u8], dir: &[u8]) -> bool {
    match dir.is_empty() {
        true => !path.is_empty(),
        false => path.len() > dir.len() && path[dir.len()] == b'/' && path.starts_with(dir),
    }
}

/// Counts how many of `0..len` fulfil `test`, which must hold for a prefix: by doubling steps, then
/// halving, so that short prefixes of long ranges cost little.
pub(in crate::layer) fn gallop(len: usize, test: impl Fn(usize) -> bool) -> usize {
    let mut bound = 1;
    while bound <= len && test(bound - 1) {
        bound *= 2;
    }
    let (mut low, mut high) = (bound / 2, len.min(bound - 1));
    while low < high {
        let middle = low + (high - low) / 2;
        match test(middle) {
            true => low = middle + 1,
            false => high = middle,
        }
    }
    low
}

fn path_in<'a>(arena: &'a [u8], row: &Row) -> &'a [u8] {
    let start = row.start as usize;
    &arena[start..start + row.path_len as usize]
}

fn target_in<'a>(arena: &'a [u8], row: &Row) -> &'a [u8] {
    if !row.code.has_target() {
        return b"";
    }
    let start = row.start as usize + row.path_len as usize;
    &arena[start..start + row.aux as usize]
}

#[cfg(test)]
mod tests;
