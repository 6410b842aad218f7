//! Mount points that an image does not have, and stacks too deep for an overlay.

use std::path::{Path, PathBuf};

use super::Error;
use crate::layer::{RootPath, Tree};
use crate::sys::cred::IdMap;

/// What is mounted on a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StubKind {
    /// A directory.
    Dir,
    /// A file.
    File,
}

/// Fills `dir`, the topmost lower directory of an overlay, with the mount targets that `tree` does
/// not have; gives the paths made that the tree lacks. Symbolic links of the tree are followed.
pub fn stubs(
    _dir: &Path,
    _tree: &Tree,
    _targets: &[(RootPath, StubKind)],
    _map: &IdMap,
) -> Result<Vec<RootPath>, Error> {
    todo!()
}

/// Merges layer directories (bottom → top) into one that looks the same below an overlay, with hard
/// links instead of copies; for stacks of more than 500.
pub fn merge(_layers: &[PathBuf], _dir: &Path) -> Result<(), Error> {
    todo!()
}
