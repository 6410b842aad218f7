//! Tar archives as layers use them: one reader and one writer, with a PAX codec of our own.
//!
//! [`Reader`] streams any tar that image tools make (ustar, PAX, GNU, star, old v7; sparse files of
//! GNU and PAX kind) and gives [`Entry`](super::Entry)s whose paths are confined to the root.
//! [`Writer`] writes ustar, and PAX records only for what ustar cannot hold.
//!
//! Invariants:
//! - What two readers could understand differently is refused, not guessed: a PAX size that
//!   contradicts the header, data behind a directory or device, malformed records. That is how
//!   archives smuggle files past a scanner (CVE-2025-62518).
//! - Memory is bounded whatever the archive says: names, link targets and extended headers to
//!   [`MOST_EXTENDED`] each, sparse maps to [`MOST_SEGMENTS`]; contents are streamed.
//! - Every error names the entry, escaped and shortened, or the byte at which a header is broken.
//! - The same entries give the same bytes: no user names, whole seconds, records sorted by key.
//!
//! Start reading at [`Reader::next_entry`] and [`Writer::entry`].

use std::fmt;
use std::io;

use super::path::RootPath;

mod header;
mod pax;
mod reader;
mod sparse;
mod writer;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;

pub use header::is_header;
pub use reader::{Content, Reader};
pub use writer::Writer;

/// Bytes of a long name or extended header. Go's archive/tar has the same limit, so that no image
/// that other tools can read is refused.
pub const MOST_EXTENDED: u64 = 1 << 20;

/// Pieces of data in one sparse file: 4 MiB of memory.
pub const MOST_SEGMENTS: usize = 1 << 18;

/// Bytes that a sparse file may claim to have: more than any file system that images are unpacked
/// on, little enough to count in.
pub const MOST_SPARSE: u64 = 1 << 44;

/// Symbolic links remembered in one archive.
const MOST_LINKS: usize = 1 << 20;

/// A name out of an archive, drawn so that it cannot reach a terminal or flood a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Name(Vec<u8>);

impl Name {
    /// Bytes of a name that are shown.
    const SHOWN: usize = 200;

    pub(super) fn new(name: &[u8]) -> Name {
        // Of a longer one the end is not shown, so it need not be kept.
        Name(name[..name.len().min(Name::SHOWN + 1)].to_vec())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(Name::SHOWN)];
        let more = if self.0.len() > Name::SHOWN { "…" } else { "" };
        match std::str::from_utf8(shown) {
            Ok(text) if !text.chars().any(char::is_control) => write!(f, "{text:?}{more}"),
            _ => write!(f, "\"{}\"{more}", shown.escape_ascii()),
        }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a tar could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream below failed.
    #[error("cannot transfer the tar archive")]
    Io(#[from] io::Error),
    /// The archive ends inside a header or an entry.
    #[error("tar archive ends inside {0}")]
    Truncated(Name),
    /// A header block that is none.
    #[error("tar archive is damaged at byte {offset}: {problem}")]
    Header {
        /// Where the block starts in the uncompressed archive.
        offset: u64,
        /// What is wrong.
        problem: Problem,
    },
    /// An entry that cannot be accepted or represented.
    #[error("tar entry {name}: {problem}")]
    Entry {
        /// The entry.
        name: Name,
        /// What is wrong.
        problem: Problem,
    },
    /// The content of a file to be written could not be read.
    #[error("cannot read {path}")]
    Content {
        /// The file.
        path: RootPath,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file to be written is not as long as its entry says.
    #[error("{path} changed while it was read: {expected} bytes were listed, it has {found}")]
    Changed {
        /// The file.
        path: RootPath,
        /// Size in the entry.
        expected: u64,
        /// `only 5` or `more`.
        found: String,
    },
}

/// What can be wrong with an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The checksum of a header does not fit.
    #[error("wrong header checksum")]
    Checksum,
    /// A numeric field that is neither octal nor base-256, or out of range.
    #[error("{0} is not a number that can be used")]
    Number(&'static str),
    /// A type that layers cannot hold.
    #[error("type {:?} is not supported", char::from(*.0))]
    Type(u8),
    /// Longer than [`MOST_EXTENDED`].
    #[error("{0} of {1} bytes is too long (at most {MOST_EXTENDED})")]
    TooLong(&'static str, u64),
    /// An extended header that does not follow POSIX.
    #[error("malformed PAX record: {0}")]
    Pax(&'static str),
    /// A record whose value is no good.
    #[error("PAX record {0} has an impossible value")]
    PaxValue(&'static str),
    /// A record that only makes sense for one entry, in a global header.
    #[error("global PAX header sets {0}")]
    PaxGlobal(&'static str),
    /// Two headers give the same thing.
    #[error("{0} is given twice")]
    Twice(&'static str),
    /// The PAX and the ustar size differ though the latter could hold the former.
    #[error(
        "header says {ustar} bytes, its PAX record {pax}: readers would disagree on what follows"
    )]
    SizeConflict {
        /// Of the header.
        ustar: u64,
        /// Of the record.
        pax: u64,
    },
    /// Data behind something that has none.
    #[error("{0} with {1} bytes of content")]
    UnexpectedContent(&'static str, u64),
    /// A name or link target with a NUL.
    #[error("{0} contains a NUL byte")]
    Nul(&'static str),
    /// An xattr whose name would end early in a PAX record.
    #[error("an extended attribute has a name that tar cannot hold")]
    XattrName,
    /// A link without target.
    #[error("link without a target")]
    NoTarget,
    /// The root as something else than a directory.
    #[error("the root cannot be anything but a directory")]
    Root,
    /// A hard link to itself or to the root.
    #[error("hard link to itself or to the root")]
    LinkToItself,
    /// Symbolic links of this archive that lead in circles.
    #[error("too many levels of symbolic links")]
    Loop,
    /// More symbolic links than are remembered.
    #[error("more than {MOST_LINKS} symbolic links in one archive")]
    TooManyLinks,
    /// A whiteout of nothing, `.` or `..`.
    #[error("whiteout names nothing that could be deleted")]
    Whiteout,
    /// A name that would be a whiteout.
    #[error("names that start with .wh. mean deletion in image layers and cannot be stored")]
    ReservedName,
    /// A sparse map that contradicts itself.
    #[error("impossible sparse map: {0}")]
    Sparse(&'static str),
    /// A sparse file beyond [`MOST_SPARSE`].
    #[error("sparse file of {0} bytes (at most {MOST_SPARSE})")]
    SparseTooLarge(u64),
    /// Device numbers beyond what tar can hold.
    #[error("device numbers {0}:{1} do not fit into a tar header")]
    Device(u32, u32),
}
