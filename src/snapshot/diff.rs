//! From an upper directory of an overlay to a Toc.

use std::path::Path;

use super::Error;
use crate::layer::{RootPath, Toc, Tree};
use crate::sys::cred::IdMap;

/// What [`diff`] must know beyond the directory.
#[derive(Clone, Debug, Default)]
pub struct DiffOptions<'a> {
    /// Who ran the program (inside the image): new files belong to it where the id map is single.
    pub owner: (u32, u32),
    /// Paths that [`super::stubs`] made.
    pub stubs: &'a [RootPath],
    /// Time of entries that no disk has (/proc, /sys and /dev of an image without them).
    pub now: i64,
}

/// Lists what the upper directory of an overlay changes in `lower`.
pub fn diff(
    _upper: &Path,
    _lower: &Tree,
    _map: &IdMap,
    _options: &DiffOptions<'_>,
) -> Result<Toc, Error> {
    todo!()
}
