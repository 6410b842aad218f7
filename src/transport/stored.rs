//! The store as a source of images.
//!
//! The store's blobs are an OCI layout, so this is a layout whose blobs are opened through the
//! store, which notes their use.

use std::io::Read;
use std::path::PathBuf;

use super::Source;
use super::blob::{Verified, read_all};
use super::error::{Error, Result};
use super::layout::entries_named;
use crate::oci::manifest::MAX_SIZE;
use crate::oci::{Descriptor, Document, Index, Reference};
use crate::store::{self, Store};

/// An image of the store.
pub struct StoreSource {
    store: Store,
    root: Descriptor,
    name: String,
}

impl StoreSource {
    /// Names the image with this root.
    pub fn rooted(store: &Store, root: &Descriptor) -> StoreSource {
        StoreSource { store: store.clone(), root: root.clone(), name: root.digest.to_string() }
    }

    /// Finds an image by name or digest. An index.json that cannot be read has none.
    pub fn named(store: &Store, reference: &Reference) -> Option<StoreSource> {
        let name = reference.familiar();
        let root = match &reference.digest {
            Some(digest) => {
                // Any name may have brought it in; the digest says what it is.
                let bytes = store.blobs().read(digest, MAX_SIZE).ok()?;
                let document = Document::parse(&bytes, "").ok()?;
                Descriptor::new(document.media_type(), *digest, bytes.len() as u64)
            }
            None => {
                let bytes = std::fs::read(store.layout().join("index.json")).ok()?;
                let index: Index = serde_json::from_slice(&bytes).ok()?;
                let full = reference.clone().with_default_tag().to_string();
                let entry = entries_named(&index, &full).into_iter().next()?.clone();
                if !store.blobs().contains_sized(&entry.digest, entry.size) {
                    return None;
                }
                entry
            }
        };
        Some(StoreSource { store: store.clone(), root, name })
    }

    fn open(&self, descriptor: &Descriptor, what: &'static str) -> Result<std::fs::File> {
        self.store.blobs().open(&descriptor.digest).map_err(|error| match error {
            store::Error::NoBlob(digest) => Error::Missing { place: self.describe(), what, digest },
            other => Error::Store(other),
        })
    }
}

impl Source for StoreSource {
    fn root(&self) -> Result<(Descriptor, Vec<u8>)> {
        Ok((self.root.clone(), self.manifest(&self.root)?))
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let place = self.describe();
        let file = self.open(descriptor, "manifest")?;
        read_all(Verified::new(file, descriptor, &place), descriptor, MAX_SIZE, &place)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
        let file = self.open(descriptor, "blob")?;
        Ok(Box::new(Verified::new(file, descriptor, &self.describe())))
    }

    fn blob_file(&self, descriptor: &Descriptor) -> Option<PathBuf> {
        let blobs = self.store.blobs();
        blobs
            .contains_sized(&descriptor.digest, descriptor.size)
            .then(|| blobs.path(&descriptor.digest))
    }

    fn describe(&self) -> String {
        format!("{} in the store", self.name)
    }
}
