//! Tells archives from other files by their content, for ADD.

use super::compress::Format;

/// How many first bytes of a file [`detect`] wants to see: one tar header.
pub const DETECT_LEN: usize = 512;

/// What the first bytes of a file say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// A tar archive, not compressed.
    Tar,
    /// A compressed stream; only decompression tells whether a tar is inside.
    Compressed(Format),
    /// Neither.
    Other,
}

/// Looks at the first bytes of a file (at least [`DETECT_LEN`] of them unless it is shorter).
pub fn detect(_head: &[u8]) -> Detected {
    todo!()
}
