//! The store as source and sink of images.
//!
//! The store's blobs are an OCI layout, so this is a layout whose blobs are opened through the
//! store, which notes their use.

use std::io::Read;
use std::path::PathBuf;

use super::blob::{Verified, read_all};
use super::error::{Error, Result};
use super::fetch::save;
use super::layout::entries_named;
use super::{OpenBlob, Sink, Source};
use crate::oci::manifest::MAX_SIZE;
use crate::oci::{Descriptor, Digest, Document, Index, Reference};
use crate::registry::referrers_tag;
use crate::store::{self, Guard, Store};

/// An image of the store.
pub struct StoreSource {
    store: Store,
    root: Descriptor,
    name: String,
    repository: Option<Reference>,
    /// Artifacts that no name leads to yet, with what they are about.
    referrers: Vec<(Digest, Descriptor)>,
}

/// Brings an image into the store.
pub struct StoreSink {
    store: Store,
    repository: Reference,
    /// What comes in has no name yet; a prune must leave it alone until it has.
    _lock: Guard,
}

impl StoreSource {
    /// Names the image with this root.
    pub fn rooted(store: &Store, root: &Descriptor) -> StoreSource {
        let name = root.digest.to_string();
        StoreSource {
            store: store.clone(),
            root: root.clone(),
            name,
            repository: None,
            referrers: Vec::new(),
        }
    }

    /// Takes artifacts along that no name leads to yet, with what they are about.
    #[must_use]
    pub fn with_referrers(mut self, referrers: &[(Digest, Descriptor)]) -> StoreSource {
        self.referrers = referrers.to_vec();
        self
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
        let repository = Some(reference.clone());
        Some(StoreSource { store: store.clone(), root, name, repository, referrers: Vec::new() })
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

    fn blob_unverified(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
        let file = self.open(descriptor, "blob")?;
        Ok(Box::new(Verified::size_only(file, descriptor, &self.describe())))
    }

    fn blob_file(&self, descriptor: &Descriptor) -> Option<PathBuf> {
        let blobs = self.store.blobs();
        blobs
            .contains_sized(&descriptor.digest, descriptor.size)
            .then(|| blobs.path(&descriptor.digest))
    }

    fn names(&self) -> Vec<Reference> {
        self.repository.as_ref().and_then(super::remote::tagged).into_iter().collect()
    }

    /// Artifacts lie under the tag that registries without the referrers API have them under.
    fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        let Some(repository) = &self.repository else {
            let own = self.referrers.iter().filter(|(about, _)| about == subject);
            return Ok(own.map(|(_, descriptor)| descriptor.clone()).collect());
        };
        let tag = referrers_tag(subject);
        let name = Reference { digest: None, ..repository.clone() }.with_tag(&tag);
        match StoreSource::named(&self.store, &name) {
            Some(source) => Ok(index_of(&source)?.map(|index| index.manifests).unwrap_or_default()),
            None => Ok(Vec::new()),
        }
    }

    fn describe(&self) -> String {
        format!("{} in the store", self.name)
    }
}

impl StoreSink {
    /// Starts to bring an image in. Artifacts that come along are named after `repository`.
    pub fn new(store: &Store, repository: &Reference) -> Result<StoreSink> {
        let lock = store.locks().build(&|| false)?;
        Ok(StoreSink { store: store.clone(), repository: repository.clone(), _lock: lock })
    }
}

impl Sink for StoreSink {
    fn has_blob(&self, descriptor: &Descriptor) -> Result<bool> {
        Ok(self.store.blobs().contains_sized(&descriptor.digest, descriptor.size))
    }

    fn put_blob(&self, descriptor: &Descriptor, open: &mut OpenBlob<'_>) -> Result<()> {
        save(open(0)?, descriptor, &self.store, "the store", &mut |_| {})
    }

    fn put_manifest(&self, _descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
        self.store.blobs().put(bytes)?;
        Ok(())
    }

    fn put_referrer(&self, subject: &Digest, descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
        self.store.blobs().put(bytes)?;
        let tag = referrers_tag(subject);
        let name = Reference { digest: None, ..self.repository.clone() }.with_tag(&tag);
        let mut index = match StoreSource::named(&self.store, &name) {
            Some(source) => index_of(&source)?.unwrap_or_else(|| Index::new(Vec::new())),
            None => Index::new(Vec::new()),
        };
        if index.manifests.iter().any(|known| known.digest == descriptor.digest) {
            return Ok(());
        }
        index.manifests.push(descriptor.clone());
        let (root, bytes) = index.encode();
        self.store.blobs().put(&bytes)?;
        self.store.images().set(&[(name.to_string(), root)])?;
        Ok(())
    }

    fn finish(&self, root: &Descriptor, bytes: &[u8], names: &[Reference]) -> Result<()> {
        self.put_manifest(root, bytes)?;
        let mut entry = Descriptor { data: None, ..root.clone() };
        entry.annotations.clear();
        let names: Vec<(String, Descriptor)> =
            names.iter().map(|name| (name.to_string(), entry.clone())).collect();
        self.store.images().set(&names)?;
        Ok(())
    }
}

fn index_of(source: &StoreSource) -> Result<Option<Index>> {
    let (root, bytes) = source.root()?;
    match Document::parse(&bytes, &root.media_type) {
        Ok(Document::Index(index)) => Ok(Some(index)),
        _ => Ok(None),
    }
}
