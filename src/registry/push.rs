//! Pushing: blobs, then the manifests that name them, the tag last.
//!
//! An upload is a session: a POST opens it and says where the bytes go (`Location`), requests to
//! that place carry them, a PUT with the digest closes it. We send the bytes with the closing PUT
//! (monolithic), which every registry takes. A mount of a blob from another repository, and a
//! chunked or resumed upload, are other ways to walk the same session: [`Session`] holds what they
//! need (the place and how far the registry is).

use std::io::{self, Read};

use super::Client;
use super::auth::Access;
use super::error::{Error, Result};
use super::http::{Method, Payload, Request, Response};
use super::pull::{api, temporary_as_error};
use super::url::{Scheme, Url};
use crate::oci::{Descriptor, Digest, Reference};

/// How a blob came to be in the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// The registry took it from another repository.
    Mounted,
    /// It was sent.
    Uploaded,
}

/// Opens the content of a blob anew for each attempt.
pub type Open<'a> = dyn FnMut() -> io::Result<Box<dyn Read + Send + 'a>> + 'a;

/// An upload in progress.
struct Session {
    /// Where the next request goes; the registry may move it with each answer.
    place: Url,
}

/// What the registry answered to the opening POST.
enum Started {
    Mounted,
    Session(Session),
}

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

    /// Sends a blob. `open` gives its content from the start, once for each attempt. With
    /// `mount_from` (a repository of the same registry) the registry is first asked to take the
    /// blob from there; when it does not, the blob is sent.
    pub fn push_blob(
        &self,
        repository: &Reference,
        descriptor: &Descriptor,
        mount_from: Option<&str>,
        open: &mut Open<'_>,
    ) -> Result<Pushed> {
        let mut mount = mount_from;
        let mut unauthorized = false;
        let mut lost = 0;
        loop {
            let pushed = self.inner.http.retry(|| {
                let session = match self.start(repository, &descriptor.digest, mount.take())? {
                    Started::Mounted => return Ok(Pushed::Mounted),
                    Started::Session(session) => session,
                };
                self.send_whole(repository, descriptor, session, open)?;
                Ok(Pushed::Uploaded)
            });
            match pushed {
                // The token ended while the bytes were on their way; the next start gets a new one.
                Err(Error::Status { status: 401, .. }) if !unauthorized => unauthorized = true,
                // The registry forgot the session.
                Err(Error::Status { status: 404 | 416, .. }) if lost < 2 => lost += 1,
                Err(Error::Status { status: 401 | 403, errors, .. }) => {
                    let found = self.inner.credentials.find(repository)?;
                    let anonymous = found.is_none();
                    return Err(Error::Denied { what: repository.name(), anonymous, errors });
                }
                other => return other,
            }
        }
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

    /// Opens an upload, or has the blob mounted.
    fn start(
        &self,
        repository: &Reference,
        digest: &Digest,
        mount_from: Option<&str>,
    ) -> Result<Started> {
        let path = format!("{}/blobs/uploads/", repository.repository);
        let make = |base: &Url| {
            let url = api(base, &path);
            Request::new(
                Method::Post,
                match mount_from {
                    Some(from) => {
                        url.with_query("mount", &digest.to_string()).with_query("from", from)
                    }
                    None => url,
                },
            )
        };
        let scopes: Vec<String> =
            mount_from.iter().map(|from| format!("repository:{from}:pull")).collect();
        let answer = self.call(repository, Access::Push, &scopes, &make, &mut Payload::None);
        let response = match answer {
            // A token server may refuse the right to read the other repository: then just send.
            Err(Error::Denied { .. }) if mount_from.is_some() => {
                return self.start(repository, digest, None);
            }
            other => temporary_as_error(other?)?,
        };
        match response.status {
            201 if mount_from.is_some() => {
                check_digest(&response, *digest, &repository.name())?;
                Ok(Started::Mounted)
            }
            202 => Ok(Started::Session(Session { place: self.place(&response)? })),
            401 | 403 | 404 if mount_from.is_some() => self.start(repository, digest, None),
            _ => Err(self.refused(response, repository, &repository.name())),
        }
    }

    /// Gives where an upload goes on.
    fn place(&self, response: &Response) -> Result<Url> {
        let protocol = |reason: String| Error::Protocol { url: response.url.to_string(), reason };
        let location = response.header("location").ok_or_else(|| {
            protocol("the answer to the start of an upload has no Location".into())
        })?;
        let mut url = response.url.join(location).map_err(|reason| {
            protocol(format!("the Location of an upload is unusable: {reason}"))
        })?;
        if response.url.scheme == Scheme::Https && url.scheme == Scheme::Http {
            // A registry behind a proxy that ends TLS often names itself with http. Its own name is
            // good; another one is not.
            if url.host() != response.url.host() {
                return Err(protocol(format!("it wants uploads without encryption at {url}")));
            }
            url.scheme = Scheme::Https;
            url.authority = response.url.authority.clone();
        }
        if super::url::is_loopback(&url.authority)
            && !super::url::is_loopback(&response.url.authority)
        {
            return Err(protocol(format!("it wants uploads on this machine, at {url}")));
        }
        Ok(url)
    }

    /// Sends all bytes with the request that closes the session.
    fn send_whole(
        &self,
        repository: &Reference,
        descriptor: &Descriptor,
        session: Session,
        open: &mut Open<'_>,
    ) -> Result<()> {
        let what = format!("blob {}", descriptor.digest);
        let input = |source| Error::Input { what: what.clone(), source };
        let content = open().map_err(input)?;
        let mut content = Counted { inner: content, count: 0, size: descriptor.size, error: None };
        let url = session.place.with_query("digest", &descriptor.digest.to_string());
        let make = |_: &Url| {
            Request::new(Method::Put, url.clone())
                .header("content-type", "application/octet-stream")
        };
        let payload = &mut Payload::Stream(&mut content, descriptor.size);
        let response = self.call(repository, Access::Push, &[], &make, payload);
        if let Some(source) = content.error.take() {
            return Err(match source {
                Failure::Read(source) => input(source),
                Failure::Size => {
                    let (expected, found) = (descriptor.size, content.count);
                    Error::Size { what, expected, found }
                }
            });
        }
        let response = temporary_as_error(response?)?;
        if !matches!(response.status, 200..=202 | 204) {
            return Err(response.into_error());
        }
        check_digest(&response, descriptor.digest, &repository.name())
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

/// Counts content, and keeps the reason when it cannot be read, which would look like a broken
/// connection. Content of another length than announced must not be sent: the registry would wait
/// for the rest, or take what follows for the next request.
struct Counted<'a> {
    inner: Box<dyn Read + Send + 'a>,
    count: u64,
    size: u64,
    error: Option<Failure>,
}

enum Failure {
    Read(io::Error),
    Size,
}

impl Counted<'_> {
    fn fail(&mut self, failure: Failure) -> io::Error {
        self.error = Some(failure);
        io::Error::other("content cannot be read")
    }
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buffer) {
            Ok(count) => {
                self.count += count as u64;
                let short = count == 0 && !buffer.is_empty() && self.count < self.size;
                if short || self.count > self.size {
                    return Err(self.fail(Failure::Size));
                }
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => Err(self.fail(Failure::Read(error))),
        }
    }
}
