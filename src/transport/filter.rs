//! A source that leaves out platforms.
//!
//! For one platform the image is that manifest itself; for several an index of them, with the
//! attestations that belong to them. The manifests keep their digests; only the index is a new one,
//! unless nothing was left out.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::PathBuf;

use super::error::{Error, Result};
use super::{Source, children, copy::read_small, select_platform};
use crate::oci::{
    Descriptor, Digest, Document, ImageConfig, Index, Manifest, Platform, Reference, media_type,
};

pub use crate::oci::descriptor::REFERENCE_DIGEST;

/// Some platforms of a source.
pub struct Filtered {
    inner: Box<dyn Source>,
    root: Descriptor,
    bytes: Vec<u8>,
}

impl Filtered {
    /// Chooses platforms, each the best that there is for it. One that is not there is an error.
    pub fn new(inner: Box<dyn Source>, platforms: &[Platform]) -> Result<Filtered> {
        let (root, bytes) = inner.root()?;
        let index = match parse(inner.as_ref(), &root, &bytes)? {
            Document::Index(index) => index,
            Document::Manifest(manifest) => {
                check_single(inner.as_ref(), &manifest, platforms)?;
                return Ok(Filtered { inner, root, bytes });
            }
        };
        let mut chosen: Vec<Descriptor> = Vec::new();
        for platform in platforms {
            let image = select_platform(inner.as_ref(), &index, platform)?;
            if !chosen.iter().any(|known| known.digest == image.digest) {
                chosen.push(image);
            }
        }
        if let ([image], 1) = (chosen.as_slice(), platforms.len()) {
            let bytes = inner.manifest(image)?;
            let mut root =
                Descriptor::new(image.media_type.clone(), image.digest, bytes.len() as u64);
            if root.media_type.is_empty() {
                root.media_type = media_type::OCI_MANIFEST.to_owned();
            }
            return Ok(Filtered { inner, root, bytes });
        }
        let all = children(inner.as_ref(), &index)?;
        if all.len() == chosen.len() {
            return Ok(Filtered { inner, root, bytes });
        }
        let digests: BTreeSet<Digest> = chosen.iter().map(|image| image.digest).collect();
        let belongs = |entry: &&Descriptor| {
            let of = entry.annotations.get(REFERENCE_DIGEST);
            of.and_then(|of| of.parse().ok()).is_some_and(|of: Digest| digests.contains(&of))
        };
        chosen.extend(index.manifests.iter().filter(belongs).cloned());
        let (root, bytes) = Index { manifests: chosen, ..index.clone() }.encode();
        Ok(Filtered { inner, root, bytes })
    }
}

fn parse(source: &dyn Source, descriptor: &Descriptor, bytes: &[u8]) -> Result<Document> {
    Document::parse(bytes, &descriptor.media_type).map_err(|error| Error::Document {
        place: source.describe(),
        what: descriptor.digest.to_string(),
        source: error,
    })
}

/// Gives the platform that the config of an image says.
pub fn config_platform(source: &dyn Source, manifest: &Manifest) -> Result<Platform> {
    let bytes = read_small(source, &manifest.config)?;
    let config = ImageConfig::parse(&bytes).map_err(|error| Error::Json {
        place: source.describe(),
        what: format!("config {}", manifest.config.digest),
        source: error,
    })?;
    Ok(config.platform())
}

/// Checks that an image without index is for the platforms asked for.
fn check_single(source: &dyn Source, manifest: &Manifest, platforms: &[Platform]) -> Result<()> {
    let own = config_platform(source, manifest)?;
    match platforms.iter().find(|wanted| wanted.rank(&own).is_none()) {
        None => Ok(()),
        Some(wanted) => Err(Error::NoPlatform {
            wanted: wanted.format_all(),
            there: vec![own.normalized().format_all()],
        }),
    }
}

impl Source for Filtered {
    fn root(&self) -> Result<(Descriptor, Vec<u8>)> {
        Ok((self.root.clone(), self.bytes.clone()))
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        self.inner.manifest(descriptor)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
        self.inner.blob(descriptor)
    }

    fn blob_from(&self, descriptor: &Descriptor, offset: u64) -> Result<Box<dyn Read + Send>> {
        self.inner.blob_from(descriptor, offset)
    }

    fn blob_file(&self, descriptor: &Descriptor) -> Option<PathBuf> {
        self.inner.blob_file(descriptor)
    }

    fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        self.inner.referrers(subject)
    }

    fn origin(&self, descriptor: &Descriptor) -> Option<Reference> {
        self.inner.origin(descriptor)
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
