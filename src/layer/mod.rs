//! Layers: tables of contents ([`toc::Toc`]), their merged view ([`tree::Tree`]), tar archives,
//! compression, and the packing of a layer into a blob ([`pack::pack`]).
//!
//! Pure over Read and Write: never opens a file, never asks for the time or the environment.
//! Threads are started by [`compress`] and [`pack()`] only, when a caller asks for them and the data
//! exceeds one block; none outlives the call or the encoder.
//!
//! Start reading at [`toc`], then [`tree`] for what a stack of layers means, then [`pack`] for how
//! a layer becomes bytes.

pub mod archive;
pub mod changes;
pub mod compress;
pub mod pack;
pub mod path;
pub mod tar;
pub mod toc;
pub mod tree;

pub use compress::Compression;
pub use pack::{PackOptions, Packed, pack};
pub use path::RootPath;
pub use toc::{Entry, EntryRef, Kind, KindRef, LayerId, Toc, TocBuilder};
pub use tree::{Found, Tree};
