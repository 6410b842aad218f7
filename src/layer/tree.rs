//! The merged view of a stack of layers: what a path is after whiteouts, without any files.
//!
//! A [`Tree`] holds its [`Toc`]s as they are and merges on the way: for a directory it keeps, layer
//! by layer, the range of rows below it that still counts, and narrows these ranges component by
//! component. Nothing is copied or indexed, so stacking a layer costs nothing.
//!
//! What counts, seen from the top layer down (as overlayfs would show the layers as directories):
//! - A whiteout hides the path in all layers below; an entry of the same layer stays.
//! - A non-directory hides everything below its path in the layers below; a directory over a
//!   non-directory hides the latter.
//! - An opaque mark hides the contents of the directory in the layers below, not its attributes.
//! - A layer that has entries in a directory without listing it takes the attributes from below; if
//!   there is none, it is `root:root`, 0755, at time 0. An entry that lies below a symbolic link of
//!   a lower layer replaces the link by a directory, as containerd's overlay snapshotter does.
//!
//! It never fails but for loops of symbolic links; tables from outside pass [`Toc::check`] first.
//!
//! Start reading at [`Tree::settle`].

use std::ops::Range;
use std::sync::Arc;

use super::path::RootPath;
use super::toc::{EntryRef, KindRef, NO_XATTRS, Toc, gallop};

/// Links followed in one path before giving up: containerd's limit for paths in a root
/// (continuity, fs/path.go); the kernel's own is 40.
const MOST_LINKS: usize = 255;

/// Why a path could not be resolved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// More symbolic links than any sane image has.
    #[error("too many levels of symbolic links in {0}")]
    Loop(RootPath),
}

/// A stack of layers, bottom first, looked up lazily.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    layers: Vec<Arc<Toc>>,
}

/// What a path is in a [`Tree`].
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// The entry. Never a whiteout or an opaque mark.
    pub entry: EntryRef<'a>,
    /// Which layer it comes from, 0 = bottom.
    pub layer: usize,
    toc: &'a Toc,
}

impl<'a> Found<'a> {
    /// Gives the file behind a hard link, from the same layer; itself for any other kind.
    pub fn target(&self) -> Found<'a> {
        match self.entry.kind {
            KindRef::Hardlink(path) => {
                self.toc.get(path).map_or(*self, |entry| Found { entry, ..*self })
            }
            _ => *self,
        }
    }

    /// Says whether this is a directory.
    pub fn is_dir(&self) -> bool {
        self.entry.kind == KindRef::Dir
    }
}

/// The rows of one layer that count, for a path or below a directory.
#[derive(Clone, Debug)]
struct Part {
    layer: usize,
    rows: Range<usize>,
}

impl Tree {
    /// Stacks `layers`, bottom first.
    pub fn new(layers: Vec<Arc<Toc>>) -> Tree {
        Tree { layers }
    }

    /// Puts a layer on top.
    pub fn push(&mut self, layer: Arc<Toc>) {
        self.layers.push(layer);
    }

    /// Keeps the lowest `len` layers.
    pub fn truncate(&mut self, len: usize) {
        self.layers.truncate(len);
    }

    /// Gives the layers, bottom first.
    pub fn layers(&self) -> &[Arc<Toc>] {
        &self.layers
    }

    /// Finds a path; follows no symbolic link. The root is found even where no layer lists it.
    pub fn lookup(&self, path: &RootPath) -> Option<Found<'_>> {
        self.descend(path).map(|(found, _)| found)
    }

    /// Resolves symbolic links inside the root; the last component only if `follow_last`. What
    /// does not exist is kept as it is; `..` never leaves the root.
    pub fn resolve(&self, path: &RootPath, follow_last: bool) -> Result<RootPath, Error> {
        let mut pending: Vec<Vec<u8>> = path.components().rev().map(<[u8]>::to_vec).collect();
        let mut done: Vec<u8> = Vec::new();
        // The parts below each directory of `done`, the root first.
        let mut stack = vec![self.root().1];
        let mut links = 0;
        while let Some(name) = pending.pop() {
            if name == b".." {
                let cut = done.iter().rposition(|&b| b == b'/').unwrap_or(0);
                done.truncate(cut);
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            let prefix = if done.is_empty() { 0 } else { done.len() + 1 };
            let below = stack.last().map_or(&[][..], Vec::as_slice);
            let (found, parts) = self.enter(below, prefix, &name);
            let followed = follow_last || !pending.is_empty();
            if let Some(found) = found
                && followed
                && let KindRef::Symlink(target) = found.target().entry.kind
            {
                links += 1;
                if links > MOST_LINKS {
                    return Err(Error::Loop(path.clone()));
                }
                if target.starts_with(b"/") {
                    done.clear();
                    stack.truncate(1);
                }
                let parts = target.split(|&b| b == b'/').rev();
                let parts = parts.filter(|part| !part.is_empty() && *part != b".");
                pending.extend(parts.map(<[u8]>::to_vec));
                continue;
            }
            if !done.is_empty() {
                done.push(b'/');
            }
            done.extend_from_slice(&name);
            stack.push(parts);
        }
        Ok(RootPath::from_clean(&done))
    }

    /// Gives what a directory holds, sorted by name; nothing when it is not a directory.
    pub fn children(&self, path: &RootPath) -> Vec<Found<'_>> {
        let Some((_, parts)) = self.descend(path) else { return Vec::new() };
        let mut frame = Frame::new(path.as_bytes().len(), parts);
        std::iter::from_fn(|| frame.next(self).map(|(found, _)| found)).collect()
    }

    /// Gives everything below `path` (not itself), merged, a directory before its contents.
    pub fn walk(&self, path: &RootPath) -> Walk<'_> {
        let frame = self.descend(path).map(|(_, parts)| Frame::new(path.as_bytes().len(), parts));
        Walk { tree: self, frames: frame.into_iter().collect() }
    }

    fn root(&self) -> (Found<'_>, Vec<Part>) {
        let all = self.layers.iter().enumerate().rev();
        let all = all.map(|(layer, toc)| Part { layer, rows: 0..toc.len() });
        static NOTHING: std::sync::LazyLock<Toc> = std::sync::LazyLock::new(Toc::default);
        let (found, parts) = self.settle(all, 0);
        let unlisted = || Found { entry: bare_dir(b""), layer: 0, toc: &NOTHING };
        (found.unwrap_or_else(unlisted), parts)
    }

    fn descend(&self, path: &RootPath) -> Option<(Found<'_>, Vec<Part>)> {
        let (mut found, mut parts) = self.root();
        let mut prefix = 0;
        for name in path.components() {
            let (child, below) = self.enter(&parts, prefix, name);
            (found, parts) = (child?, below);
            prefix += name.len() + 1;
        }
        Some((found, parts))
    }

    /// Goes from a directory, whose contents' paths have their names at `prefix`, to one of them.
    fn enter(&self, parts: &[Part], prefix: usize, name: &[u8]) -> (Option<Found<'_>>, Vec<Part>) {
        let narrowed = parts.iter().filter_map(|part| {
            let toc = &self.layers[part.layer];
            let rows = part.rows.clone();
            let (mut low, mut high) = (rows.start, rows.end);
            while low < high {
                let middle = low + (high - low) / 2;
                match name_at(toc, middle, prefix) < name {
                    true => low = middle + 1,
                    false => high = middle,
                }
            }
            let count = gallop(rows.end - low, |i| name_at(toc, low + i, prefix) == name);
            (count > 0).then(|| Part { layer: part.layer, rows: low..low + count })
        });
        self.settle(narrowed, prefix + name.len())
    }

    /// Decides what a path of length `len` is, from its rows and those below it in each layer that
    /// counts, top first; gives the parts below it that count, if it is a directory.
    fn settle(
        &self,
        parts: impl Iterator<Item = Part>,
        len: usize,
    ) -> (Option<Found<'_>>, Vec<Part>) {
        let mut found: Option<Found<'_>> = None;
        // The topmost layer that has real entries in this directory without listing it.
        let mut implicit: Option<Found<'_>> = None;
        let mut contents: Vec<Part> = Vec::new();
        let mut opaque = false;
        for Part { layer, mut rows } in parts {
            let toc: &Toc = &self.layers[layer];
            let (mut hidden, mut real, mut mark) = (false, None, false);
            while rows.start < rows.end && toc.path_at(rows.start).len() == len {
                let entry = toc.at(rows.start);
                match entry.kind {
                    KindRef::Whiteout => hidden = true,
                    KindRef::Opaque => mark = true,
                    _ => real = Some(entry),
                }
                rows.start += 1;
            }
            match real {
                Some(entry) if entry.kind != KindRef::Dir => {
                    if found.is_none() && implicit.is_none() && !opaque {
                        return (Some(Found { entry, layer, toc }), Vec::new());
                    }
                    break;
                }
                Some(entry) => {
                    found = found.or(Some(Found { entry, layer, toc }));
                }
                None if implicit.is_none() && found.is_none() => {
                    let first = match mark {
                        true => Some(rows.start - 1),
                        false => rows.clone().find(|&row| toc.at(row).kind != KindRef::Whiteout),
                    };
                    implicit = first.map(|row| {
                        let entry = bare_dir(&toc.path_at(row)[..len]);
                        Found { entry, layer, toc }
                    });
                }
                None => {}
            }
            if !rows.is_empty() && !opaque {
                contents.push(Part { layer, rows });
            }
            opaque |= mark;
            if hidden || (opaque && found.is_some()) {
                break;
            }
        }
        (found.or(implicit), contents)
    }
}

/// Everything below a directory of a [`Tree`], in order; see [`Tree::walk`].
#[derive(Clone, Debug)]
pub struct Walk<'a> {
    tree: &'a Tree,
    frames: Vec<Frame>,
}

impl<'a> Iterator for Walk<'a> {
    type Item = Found<'a>;

    fn next(&mut self) -> Option<Found<'a>> {
        loop {
            let frame = self.frames.last_mut()?;
            match frame.next(self.tree) {
                Some((found, contents)) => {
                    if !contents.is_empty() {
                        self.frames.push(Frame::new(found.entry.path.len(), contents));
                    }
                    return Some(found);
                }
                None => {
                    self.frames.pop();
                }
            }
        }
    }
}

impl Walk<'_> {
    /// Leaves out what lies below the directory that was given last. Without effect after anything
    /// that has no contents.
    pub fn skip_contents(&mut self, last: &Found<'_>) {
        let prefix = last.entry.path.len() + 1;
        if last.is_dir() && self.frames.last().is_some_and(|frame| frame.prefix == prefix) {
            self.frames.pop();
        }
    }
}

/// The rest of a directory's contents: what is left of each part, top layer first.
#[derive(Clone, Debug)]
struct Frame {
    prefix: usize,
    parts: Vec<Part>,
}

impl Frame {
    fn new(dir_len: usize, parts: Vec<Part>) -> Frame {
        Frame { prefix: if dir_len == 0 { 0 } else { dir_len + 1 }, parts }
    }

    fn next<'a>(&mut self, tree: &'a Tree) -> Option<(Found<'a>, Vec<Part>)> {
        let prefix = self.prefix;
        loop {
            let heads = self.parts.iter().filter(|part| !part.rows.is_empty());
            let name = heads
                .map(|part| name_at(&tree.layers[part.layer], part.rows.start, prefix))
                .min()?;
            let taken = self.parts.iter_mut().filter_map(|part| {
                let toc: &Toc = &tree.layers[part.layer];
                let start = part.rows.start;
                let count = gallop(part.rows.len(), |i| name_at(toc, start + i, prefix) == name);
                part.rows.start += count;
                (count > 0).then(|| Part { layer: part.layer, rows: start..start + count })
            });
            let taken: Vec<Part> = taken.collect();
            if let (Some(found), contents) = tree.settle(taken.into_iter(), prefix + name.len()) {
                return Some((found, contents));
            }
        }
    }
}

/// Gives the component of a row's path that starts at `prefix`.
fn name_at(toc: &Toc, row: usize, prefix: usize) -> &[u8] {
    let rest = &toc.path_at(row)[prefix..];
    rest.iter().position(|&b| b == b'/').map_or(rest, |end| &rest[..end])
}

/// A directory that no layer lists.
fn bare_dir(path: &[u8]) -> EntryRef<'_> {
    EntryRef { path, kind: KindRef::Dir, mode: 0o755, uid: 0, gid: 0, mtime: 0, xattrs: &NO_XATTRS }
}

#[cfg(test)]
mod tests;
