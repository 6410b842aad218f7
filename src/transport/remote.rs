//! Registries as source and sink.

use std::io::Read;

use super::error::{Error, Result};
use super::{OpenBlob, Sink, Source};
use crate::oci::{Descriptor, Digest, Reference};
use crate::registry::Client;

/// Gives a name without digest; one that has only a digest is no name to give.
pub(super) fn tagged(reference: &Reference) -> Option<Reference> {
    let bare = Reference { digest: None, ..reference.clone() };
    (reference.digest.is_none() || bare.tag.is_some()).then(|| bare.with_default_tag())
}

/// An image of a registry.
pub struct RegistrySource {
    client: Client,
    reference: Reference,
}

/// A repository that an image is pushed to.
pub struct RegistrySink {
    client: Client,
    repository: Reference,
    mount_from: Option<String>,
}

impl RegistrySource {
    /// Names an image. Nobody is asked yet.
    pub fn new(client: Client, reference: Reference) -> RegistrySource {
        RegistrySource { client, reference: reference.with_default_tag() }
    }
}

impl Source for RegistrySource {
    fn root(&self) -> Result<(Descriptor, Vec<u8>)> {
        Ok(self.client.resolve(&self.reference)?)
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        Ok(self.client.manifest(&self.reference, &descriptor.digest)?)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.client.blob(&self.reference, descriptor, 0)?))
    }

    fn blob_from(&self, descriptor: &Descriptor, offset: u64) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.client.blob(&self.reference, descriptor, offset)?))
    }

    fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        Ok(self.client.referrers(&self.reference, subject)?)
    }

    fn names(&self) -> Vec<Reference> {
        tagged(&self.reference).into_iter().collect()
    }

    fn origin(&self, _descriptor: &Descriptor) -> Option<Reference> {
        Some(self.reference.clone())
    }

    fn describe(&self) -> String {
        self.reference.to_string()
    }
}

impl RegistrySink {
    /// Names a repository; tag and digest of the reference do not count.
    pub fn new(client: Client, repository: Reference) -> RegistrySink {
        // What a mirror has is not yet where this goes.
        RegistrySink { client: client.direct(), repository, mount_from: None }
    }

    /// Asks the registry to take blobs from another repository of its own before they are sent.
    #[must_use]
    pub fn with_mount_from(mut self, repository: &Reference) -> RegistrySink {
        if repository.registry == self.repository.registry
            && repository.repository != self.repository.repository
        {
            self.mount_from = Some(repository.repository.clone());
        }
        self
    }
}

impl Sink for RegistrySink {
    fn has_blob(&self, descriptor: &Descriptor) -> Result<bool> {
        Ok(self.client.has_blob(&self.repository, &descriptor.digest)?)
    }

    fn put_blob(&self, descriptor: &Descriptor, open: &mut OpenBlob<'_>) -> Result<()> {
        self.put_blob_from(descriptor, None, open)
    }

    fn put_blob_from(
        &self,
        descriptor: &Descriptor,
        origin: Option<&Reference>,
        open: &mut OpenBlob<'_>,
    ) -> Result<()> {
        // A blob of the same registry is mounted; its bytes need not come here.
        let mount_from = origin
            .filter(|origin| {
                origin.registry == self.repository.registry
                    && origin.repository != self.repository.repository
            })
            .map(|origin| origin.repository.as_str())
            .or(self.mount_from.as_deref());
        let mut failure = None;
        let mut open = |offset| {
            open(offset).map_err(|error| {
                let text = error.to_string();
                failure = Some(error);
                std::io::Error::other(text)
            })
        };
        let pushed = self.client.push_blob(&self.repository, descriptor, mount_from, &mut open);
        match (pushed, failure) {
            (Ok(_), _) => Ok(()),
            (Err(_), Some(error)) => Err(error),
            // A verifying reader that failed in the middle says why.
            (Err(crate::registry::Error::Input { what, source }), None) => {
                Err(super::blob::read_error(&self.repository.name(), &what, source))
            }
            (Err(error), None) => Err(Error::Registry(error)),
        }
    }

    /// A registry names blobs by what they hold, and the digest that closes an upload must be that
    /// (distribution-spec, DIGEST_INVALID).
    fn verifies(&self) -> bool {
        true
    }

    fn put_referrer(&self, subject: &Digest, descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
        Ok(self.client.push_referrer(&self.repository, subject, descriptor, bytes)?)
    }

    fn put_manifest(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
        let name = descriptor.digest.to_string();
        self.client.push_manifest(&self.repository, &name, &descriptor.media_type, bytes)?;
        Ok(())
    }

    /// Pushes the root under the tag of each name, or under its digest when there is no tag.
    fn finish(&self, root: &Descriptor, bytes: &[u8], names: &[Reference]) -> Result<()> {
        let mut tags: Vec<String> = Vec::new();
        for name in names {
            if name.registry != self.repository.registry
                || name.repository != self.repository.repository
            {
                return Err(Error::Unsupported {
                    form: "a push",
                    what: format!("the name {name} of another repository"),
                    instead: "push to each repository by itself",
                });
            }
            if let Some(expected) = name.digest.filter(|digest| *digest != root.digest) {
                let what = format!("what is copied to {}", self.repository.name());
                let found = root.digest;
                return Err(crate::registry::Error::Digest { what, expected, found }.into());
            }
            // A name with a digest is pushed by digest, without a tag.
            if name.digest.is_none() {
                tags.extend(name.tag.clone());
            }
        }
        if tags.is_empty() {
            return self.put_manifest(root, bytes);
        }
        for tag in tags {
            self.client.push_manifest(&self.repository, &tag, &root.media_type, bytes)?;
        }
        Ok(())
    }
}
