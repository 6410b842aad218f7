//! The table of contents of a layer: what it changes, and nothing else.
//!
//! [`Entry`] is one path on its own; [`Toc`] holds many of them compactly, sorted, immutable but for
//! the digests of file contents; [`EntryRef`] is a view of one of its rows.
//!
//! Invariants of a Toc:
//! - Rows are sorted by [`super::path::compare`], then whiteout < real entry < opaque mark. There is
//!   at most one row of each of the three for a path.
//! - A whiteout or opaque mark has no attributes (mode, owner, time and xattrs are zero or empty):
//!   they would only make equal layers differ.
//! - Of the names of one file, the one that sorts first is the `File`, the others are `Hardlink`s to
//!   it, so that a tar in this order never links forward.
//! - Xattrs of overlayfs (`trusted.overlay.*`, `user.overlay.*`) are never in a Toc: they are the
//!   host's way of holding a layer, and an attack when they come from an image.
//!
//! Start reading at [`Toc`] and [`TocBuilder`] in `table.rs`; `binary.rs` holds the form on disk.

mod binary;
mod table;

pub use binary::Error;
pub(in crate::layer) use table::gallop;
pub use table::{Fault, Toc, TocBuilder};

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::path::RootPath;
use crate::oci::Digest;

/// Extended attributes: name → value, both bytes.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// What a path is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory. A layer that repeats a directory changes its metadata and keeps its contents.
    Dir,
    /// A regular file of `size` bytes. `digest` is the sha256 of its content once it is known.
    File {
        /// Bytes.
        size: u64,
        /// sha256 of the content; None while nobody has read it.
        digest: Option<Digest>,
    },
    /// A symbolic link and its target, as written (any bytes).
    Symlink(Vec<u8>),
    /// Another name for a regular file (or other non-directory) **of the same layer**.
    Hardlink(RootPath),
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// The path is deleted: nothing of lower layers shows at or below it (`.wh.NAME` in a tar).
    Whiteout,
    /// Contents that lower layers have in this directory do not show (`.wh..wh..opq` in a tar).
    /// Stands beside the `Dir` entry of the same path, or without one. Read, never written: we
    /// write explicit whiteouts, as the specification recommends.
    Opaque,
}

/// One path of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where.
    pub path: RootPath,
    /// What.
    pub kind: Kind,
    /// Permission bits, with setuid, setgid and sticky (07777).
    pub mode: u32,
    /// Owner inside the image.
    pub uid: u32,
    /// Group inside the image.
    pub gid: u32,
    /// Modification time, whole seconds since 1970 (layers carry no fractions).
    pub mtime: i64,
    /// Extended attributes; `security.capability` always in its version 2 form.
    pub xattrs: Xattrs,
}

/// What a path is, borrowed from a [`Toc`] or an [`Entry`]. See [`Kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of Kind")]
pub enum KindRef<'a> {
    /// A directory.
    Dir,
    /// A regular file.
    File { size: u64, digest: Option<Digest> },
    /// A symbolic link.
    Symlink(&'a [u8]),
    /// Another name for the file at this clean path of the same layer.
    Hardlink(&'a [u8]),
    /// A character device.
    CharDevice { major: u32, minor: u32 },
    /// A block device.
    BlockDevice { major: u32, minor: u32 },
    /// A named pipe.
    Fifo,
    /// The path is deleted.
    Whiteout,
    /// Lower contents of the directory do not show.
    Opaque,
}

/// One path of a layer, borrowed from a [`Toc`] or an [`Entry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRef<'a> {
    /// Where: the bytes of a clean [`RootPath`].
    pub path: &'a [u8],
    /// What.
    pub kind: KindRef<'a>,
    /// Permission bits, with setuid, setgid and sticky (07777).
    pub mode: u32,
    /// Owner inside the image.
    pub uid: u32,
    /// Group inside the image.
    pub gid: u32,
    /// Modification time, whole seconds since 1970.
    pub mtime: i64,
    /// Extended attributes.
    pub xattrs: &'a Xattrs,
}

pub(in crate::layer) static NO_XATTRS: Xattrs = Xattrs::new();

impl Kind {
    /// Borrows.
    pub fn as_ref(&self) -> KindRef<'_> {
        match self {
            Kind::Dir => KindRef::Dir,
            Kind::File { size, digest } => KindRef::File { size: *size, digest: *digest },
            Kind::Symlink(target) => KindRef::Symlink(target),
            Kind::Hardlink(target) => KindRef::Hardlink(target.as_bytes()),
            Kind::CharDevice { major, minor } => {
                KindRef::CharDevice { major: *major, minor: *minor }
            }
            Kind::BlockDevice { major, minor } => {
                KindRef::BlockDevice { major: *major, minor: *minor }
            }
            Kind::Fifo => KindRef::Fifo,
            Kind::Whiteout => KindRef::Whiteout,
            Kind::Opaque => KindRef::Opaque,
        }
    }
}

impl KindRef<'_> {
    /// Copies.
    pub fn to_kind(&self) -> Kind {
        match *self {
            KindRef::Dir => Kind::Dir,
            KindRef::File { size, digest } => Kind::File { size, digest },
            KindRef::Symlink(target) => Kind::Symlink(target.to_vec()),
            KindRef::Hardlink(target) => Kind::Hardlink(RootPath::from_clean(target)),
            KindRef::CharDevice { major, minor } => Kind::CharDevice { major, minor },
            KindRef::BlockDevice { major, minor } => Kind::BlockDevice { major, minor },
            KindRef::Fifo => Kind::Fifo,
            KindRef::Whiteout => Kind::Whiteout,
            KindRef::Opaque => Kind::Opaque,
        }
    }

    /// Says whether this is a mark about lower layers and not something that exists.
    pub fn is_mark(&self) -> bool {
        matches!(self, KindRef::Whiteout | KindRef::Opaque)
    }
}

impl Entry {
    /// Borrows.
    pub fn as_ref(&self) -> EntryRef<'_> {
        EntryRef {
            path: self.path.as_bytes(),
            kind: self.kind.as_ref(),
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            mtime: self.mtime,
            xattrs: &self.xattrs,
        }
    }

    /// Makes a whiteout of `path`.
    pub fn whiteout(path: RootPath) -> Entry {
        let xattrs = Xattrs::new();
        Entry { path, kind: Kind::Whiteout, mode: 0, uid: 0, gid: 0, mtime: 0, xattrs }
    }
}

impl EntryRef<'_> {
    /// Copies.
    pub fn to_entry(&self) -> Entry {
        Entry {
            path: self.root_path(),
            kind: self.kind.to_kind(),
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            mtime: self.mtime,
            xattrs: self.xattrs.clone(),
        }
    }

    /// Copies the path.
    pub fn root_path(&self) -> RootPath {
        RootPath::from_clean(self.path)
    }

    /// Gives the last component; empty for the root.
    pub fn file_name(&self) -> &[u8] {
        let cut = self.path.iter().rposition(|&b| b == b'/').map_or(0, |i| i + 1);
        &self.path[cut..]
    }
}

/// Says whether an xattr belongs to overlayfs itself and so never to a layer.
pub fn is_overlay_xattr(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

/// Brings a `security.capability` value into its version 2 form: version 3 holds the root uid of
/// the user namespace it was set in, which means nothing in an image. None when it is neither.
pub fn capability_v2(value: &[u8]) -> Option<Vec<u8>> {
    // vfs_cap_data: le32 magic (revision in the top byte, flags below), then two pairs of
    // permitted and inheritable; vfs_ns_cap_data appends le32 rootid (linux/capability.h).
    match (value.get(3)?, value.len()) {
        (2, 20) => Some(value.to_vec()),
        (3, 24) => {
            let mut v2 = value[..20].to_vec();
            v2[3] = 2;
            Some(v2)
        }
        _ => None,
    }
}

/// The identity of a layer, which later steps' keys are made from.
///
/// `d-<hex>`: a base layer, by DiffId. `c-<hex>`: Copy, Add, Workdir, by its Toc without mtimes.
/// `r-<hex>`: a Run, by its step key. Usable as a file name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LayerId(String);

impl LayerId {
    /// Names a base layer.
    pub fn from_diff_id(diff_id: crate::oci::DiffId) -> LayerId {
        LayerId(format!("d-{}", diff_id.0.hex()))
    }

    /// Names a layer by the digest of its Toc without mtimes.
    pub fn from_toc_digest(digest: Digest) -> LayerId {
        LayerId(format!("c-{}", digest.hex()))
    }

    /// Names the layer that a Run with this key makes.
    pub fn from_run_key(key: Digest) -> LayerId {
        LayerId(format!("r-{}", key.hex()))
    }

    /// Gives the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads a name; None when it is not one.
    pub fn parse(text: &str) -> Option<LayerId> {
        let (kind, hex) = text.split_once('-')?;
        (matches!(kind, "d" | "c" | "r") && Digest::from_hex(hex).is_some())
            .then(|| LayerId(text.to_owned()))
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
