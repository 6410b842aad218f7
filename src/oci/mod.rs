//! The image formats: digests, platforms, references, descriptors, manifests, indexes, configs.
//!
//! Pure: no file system, no network, no clock.

pub mod digest;

pub use digest::{DiffId, Digest};
