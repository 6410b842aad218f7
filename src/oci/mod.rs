//! The image formats: digests, platforms, references, descriptors, manifests, indexes, configs.
//!
//! The model is the OCI image-spec 1.1 plus what Docker's schema 2 and Docker's config add to it.
//! Two rules hold everywhere:
//! - bytes that came from outside are never re-serialised: callers keep the raw bytes and use the
//!   parsed form only to look at them;
//! - bytes that we make go through [`canonical::to_vec`], so the same value has the same digest on
//!   every machine and in every run.
//!
//! Fields that we do not know are kept (`extra`), so that a base image's config loses nothing.
//!
//! Pure: no file system, no network, no clock, no threads.

pub mod canonical;
pub mod config;
pub mod descriptor;
pub mod digest;
pub mod manifest;
pub mod media_type;
pub mod platform;
pub mod reference;

pub use config::{Healthcheck, History, ImageConfig, KeySet, RootFs, RuntimeConfig};
pub use descriptor::Descriptor;
pub use digest::{DiffId, Digest};
pub use manifest::{Document, DocumentError, Index, Manifest};
pub use platform::{Platform, PlatformError};
pub use reference::{Reference, ReferenceError};
