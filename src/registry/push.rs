//! Pushing: blobs, then the manifests that name them, the tag last.
//!
//! How a blob gets there, in one request or in many, is told in [`upload`].

mod upload;

use std::io::{self, Read};

use super::Client;
use super::auth::Access;
use super::error::{Error, Result};
use super::http::{Method, Payload, Request, Response};
use super::pull::{api, temporary_as_error};
use super::url::Url;
use crate::oci::{Descriptor, Digest, Reference};

use upload::Upload;

/// How a blob came to be in the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// The registry took it from another repository.
    Mounted,
    /// It was sent.
    Uploaded,
}

/// Opens the content of a blob for an attempt, at an offset that is 0 or where the last one broke.
pub type Open<'a> = dyn FnMut(u64) -> io::Result<Box<dyn Read + Send + 'a>> + 'a;

impl Client {
    /// Asks whether a repository has a blob.
    pub fn has_blob(&self, repository: &Reference, digest: &Digest) -> Result<bool> {
        let path = format!("{}/blobs/{digest}", repository.repository);
        let make = |base: &Url| Request::new(Method::Head, api(base, &path));
        let response = self.inner.http.retry(|| {
            let response = self.call(repository, Access::Push, &[], &make, &mut Payload::None)?;
            temporary_as_error(response)
        })?;
        match response.status {
            200 => Ok(true),
            404 => Ok(false),
            _ => Err(self.refused(response, repository, &repository.name())),
        }
    }

    /// Asks whether a repository has a manifest under this digest.
    pub fn has_manifest(&self, repository: &Reference, digest: &Digest) -> Result<bool> {
        let reference = repository.clone().with_digest(*digest);
        match self.digest_of(&reference) {
            Ok(found) => Ok(found.digest == *digest),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends a blob. `open` gives its content, once for each attempt. With
    /// `mount_from` (a repository of the same registry) the registry is first asked to take the
    /// blob from there; when it does not, the blob is sent.
    pub fn push_blob(
        &self,
        repository: &Reference,
        descriptor: &Descriptor,
        mount_from: Option<&str>,
        open: &mut Open<'_>,
    ) -> Result<Pushed> {
        Upload::new(self, repository, descriptor, mount_from, open).run()
    }

    /// Stores a manifest or index under a tag or under its digest (`name`). Everything that it
    /// names must be there. Gives its digest, which the registry has confirmed if it confirms any.
    pub fn push_manifest(
        &self,
        repository: &Reference,
        name: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Digest> {
        Ok(self.put_manifest(repository, name, media_type, bytes)?.0)
    }

    /// The same; says also whether the registry took note of the manifest's subject.
    pub(super) fn put_manifest(
        &self,
        repository: &Reference,
        name: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<(Digest, bool)> {
        let digest = Digest::of(bytes);
        let path = format!("{}/manifests/{name}", repository.repository);
        let make = |base: &Url| {
            Request::new(Method::Put, api(base, &path)).header("content-type", media_type)
        };
        let response = self.inner.http.retry(|| {
            let payload = &mut Payload::Bytes(bytes);
            temporary_as_error(self.call(repository, Access::Push, &[], &make, payload)?)
        })?;
        if !matches!(response.status, 200..=202 | 204) {
            return Err(match self.refused(response, repository, &repository.name()) {
                // For a PUT, 404 is said of what the manifest names.
                Error::NotFound { errors, what } => Error::Status {
                    method: "PUT",
                    url: format!("{what}:{name}"),
                    status: 404,
                    errors,
                    retry_after: None,
                },
                other => other,
            });
        }
        check_digest(&response, digest, &repository.name())?;
        Ok((digest, response.header("oci-subject").is_some()))
    }
}

/// Checks the digest that a registry says to have stored. Not all say one.
fn check_digest(response: &Response, expected: Digest, what: &str) -> Result<()> {
    let Some(text) = response.header("docker-content-digest") else { return Ok(()) };
    match text.parse::<Digest>() {
        Ok(found) if found != expected => {
            Err(Error::Digest { what: format!("what {what} says to have stored"), expected, found })
        }
        _ => Ok(()),
    }
}
