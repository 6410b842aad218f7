//! Layers: tables of contents ([`toc::Toc`]), their merged view, tar archives, compression.
//!
//! Pure over Read and Write: never opens a file.

pub mod path;
pub mod toc;

pub use path::RootPath;
pub use toc::{Entry, Kind, LayerId};
