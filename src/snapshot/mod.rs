//! Trees on disk: a layer as a directory, and what a RUN changed in one.
//!
//! # Model
//!
//! A layer's directory is an overlay lower directory: a whiteout is a character device 0:0, an
//! opaque directory carries `user.overlay.opaque=y`. Files have their real owners as far as the id
//! map reaches. What the disk cannot hold lives only in the Toc: device nodes (a whiteout stands in
//! for them, so that nothing of lower layers shows), owners outside of the map (the file belongs to
//! 0), attributes that need privileges of the initial namespace.
//!
//! # Invariants
//!
//! * Every access is relative to a directory descriptor and follows no symbolic link.
//! * Nothing is written outside of the directory given.
//! * A Toc from [`diff`] holds explicit whiteouts only, and only of paths that the Tree has.
//!
//! Start reading at [`writer`], then [`diff`].

mod diff;
mod merge;
mod stubs;
mod writer;

pub use diff::{DiffOptions, diff};
pub use merge::merge;
pub use stubs::{StubKind, stubs};
pub use writer::{Contents, TreeWriter, unpack};

use crate::layer::RootPath;

/// What can go wrong with a directory of a layer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("{doing} {path}")]
    Sys {
        /// What was being done.
        doing: &'static str,
        /// Where in the layer.
        path: RootPath,
        /// The call.
        #[source]
        source: crate::sys::Error,
    },
    /// Content could not be read or written.
    #[error("{doing} {path}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Where in the layer.
        path: RootPath,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Content shorter or longer than its entry says.
    #[error("{path} has {found} bytes, {expected} were announced")]
    Size {
        /// Where in the layer.
        path: RootPath,
        /// Bytes announced.
        expected: u64,
        /// Bytes that came.
        found: u64,
    },
    /// A hard link to something that is not there.
    #[error("{path} is a hard link to {target}, which the layer does not have before it")]
    Hardlink {
        /// Where in the layer.
        path: RootPath,
        /// What it names.
        target: RootPath,
    },
    /// A file whose name means something else in a layer.
    #[error("{path} cannot be stored in a layer: names that start with .wh. mean deletions there")]
    ReservedName {
        /// Where in the layer.
        path: RootPath,
    },
    /// A mount target of the wrong kind.
    #[error("mount target {target} is {found} in the image, but {wanted} is to be mounted there")]
    Target {
        /// Mount target.
        target: RootPath,
        /// What the image has there.
        found: &'static str,
        /// What is mounted.
        wanted: &'static str,
    },
    /// Symbolic links that go round.
    #[error(transparent)]
    Tree(#[from] crate::layer::tree::Error),
    /// A damaged layer.
    #[error(transparent)]
    Tar(#[from] crate::layer::tar::Error),
}
