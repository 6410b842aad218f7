//! The merged view of a stack of layers.

use std::sync::Arc;

use super::path::RootPath;
use super::toc::{EntryRef, Toc};

/// Why a path could not be resolved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// More symbolic links than any sane image has.
    #[error("too many levels of symbolic links in {0}")]
    Loop(RootPath),
}

/// A stack of layers, bottom first, looked up lazily.
#[derive(Clone, Default)]
pub struct Tree {
    layers: Vec<Arc<Toc>>,
}

/// What a path is in a [`Tree`].
#[derive(Clone, Copy)]
pub struct Found<'a> {
    /// The entry. Never a whiteout or an opaque mark.
    pub entry: EntryRef<'a>,
    /// Which layer it comes from, 0 = bottom.
    pub layer: usize,
    toc: &'a Toc,
}

impl<'a> Found<'a> {
    /// Gives the file behind a hard link; itself for any other kind.
    pub fn target(&self) -> Found<'a> {
        let _ = self.toc;
        todo!()
    }
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

    /// Gives the layers, bottom first.
    pub fn layers(&self) -> &[Arc<Toc>] {
        &self.layers
    }

    /// Finds a path; follows no symbolic link. The root is found even where no layer lists it.
    pub fn lookup(&self, _path: &RootPath) -> Option<Found<'_>> {
        todo!()
    }

    /// Resolves symbolic links inside the root; the last component only if `follow_last`. What
    /// does not exist is kept as it is.
    pub fn resolve(&self, _path: &RootPath, _follow_last: bool) -> Result<RootPath, Error> {
        todo!()
    }

    /// Gives what a directory holds, sorted by name; nothing when it is not a directory.
    pub fn children(&self, _path: &RootPath) -> Vec<Found<'_>> {
        todo!()
    }

    /// Gives everything below `path` (not itself), merged, a directory before its contents.
    pub fn walk(&self, _path: &RootPath) -> Box<dyn Iterator<Item = Found<'_>> + '_> {
        todo!()
    }
}
