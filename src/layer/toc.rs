//! The table of contents of a layer.

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
