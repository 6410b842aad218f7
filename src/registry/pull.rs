//! Pulling: manifests by tag or digest, and blobs that go on where they stopped.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::auth::Access;
use super::conf::Endpoint;
use super::endpoint::About;
use super::error::{Error, Result};
use super::http::{Method, Payload, Request, Response, read_error};
use super::url::Url;
use super::{Client, Options};
use crate::oci::digest::Hasher;
use crate::oci::manifest::MAX_SIZE;
use crate::oci::{Descriptor, Digest, Document, DocumentError, Reference, media_type};

/// All that we read, what we like best first.
const ACCEPT: [&str; 4] = [
    media_type::OCI_INDEX,
    media_type::DOCKER_LIST,
    media_type::OCI_MANIFEST,
    media_type::DOCKER_MANIFEST,
];

impl Client {
    /// Gets the manifest or index that a reference names: by its digest, else by its tag, else by
    /// `latest`. The bytes are as the registry sent them and belong to the descriptor's digest.
    pub fn resolve(&self, reference: &Reference) -> Result<(Descriptor, Vec<u8>)> {
        self.inner
            .http
            .retry(|| self.anywhere(reference, About::Image, |place| self.resolve_once(place)))
    }

    /// Gets a manifest of a repository by its digest.
    pub fn manifest(&self, repository: &Reference, digest: &Digest) -> Result<Vec<u8>> {
        let reference = repository.clone().with_digest(*digest);
        let found = self
            .inner
            .http
            .retry(|| self.anywhere(&reference, About::Part, |place| self.resolve_once(place)));
        Ok(found?.1)
    }

    /// Asks which digest a reference has now, without getting the manifest. Costs nothing of Docker
    /// Hub's rate limit. A registry that does not tell is asked for the manifest.
    pub fn digest_of(&self, reference: &Reference) -> Result<Descriptor> {
        self.inner.http.retry(|| {
            self.anywhere(reference, About::Image, |place| match self.digest_at(place)? {
                Some(descriptor) => Ok(descriptor),
                None => Ok(self.resolve_once(place)?.0),
            })
        })
    }

    fn digest_at(&self, place: &Endpoint) -> Result<Option<Descriptor>> {
        let response = self.ask_manifest(Method::Head, place)?;
        if response.status != 200 {
            return Ok(None);
        }
        let digest = response.header("docker-content-digest").and_then(|d| d.parse().ok());
        let media_type = response.header("content-type").map(str::to_owned);
        let known = (digest, media_type, response.content_length());
        Ok(match known {
            (Some(digest), Some(media_type), Some(size))
                if media_type::is_index(&media_type) || media_type::is_manifest(&media_type) =>
            {
                Some(Descriptor::new(media_type, digest, size))
            }
            _ => None,
        })
    }

    /// Opens a blob. With `offset` 0 the reader verifies digest and size, and its last read fails
    /// when they are wrong. With another offset it starts there and verifies the size only: the
    /// caller has the bytes before and must verify the digest over all.
    pub fn blob(
        &self,
        repository: &Reference,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<BlobReader> {
        let mut reader = BlobReader {
            client: self.clone(),
            repository: repository.clone(),
            digest: descriptor.digest,
            size: descriptor.size,
            offset,
            hasher: (offset == 0).then(Hasher::new),
            source: None,
            url: None,
            failures: 0,
            progress: 0,
            window: Window::default(),
            finished: false,
        };
        // The first request is made here, so that a blob that does not exist is told at once.
        self.inner.http.retry(|| reader.connect())?;
        Ok(reader)
    }

    pub(super) fn resolve_once(&self, place: &Endpoint) -> Result<(Descriptor, Vec<u8>)> {
        let reference = &place.reference;
        let what = reference.to_string();
        let response = self.ask_manifest(Method::Get, place)?;
        if response.status != 200 {
            return Err(self.refused(response, reference, &what));
        }
        let declared = response.header("content-type").unwrap_or_default().to_owned();
        let stated: Option<Digest> =
            response.header("docker-content-digest").and_then(|text| text.parse().ok());
        if let Some(size) = response.content_length().filter(|size| *size > MAX_SIZE) {
            return Err(Error::Document { what, source: DocumentError::TooLarge { size } });
        }
        let bytes = response.read(MAX_SIZE)?;
        let found = Digest::of(&bytes);
        // A registry that states another digest than it sends is as wrong as one that sends
        // another manifest than was asked for.
        if let Some(expected) = reference.digest.into_iter().chain(stated).find(|d| *d != found) {
            return Err(Error::Digest { what, expected, found });
        }
        let document = Document::parse(&bytes, &declared)
            .map_err(|source| Error::Document { what, source })?;
        let declared = declared.split(';').next().unwrap_or_default().trim();
        let media_type = if media_type::is_index(declared) || media_type::is_manifest(declared) {
            declared
        } else {
            document.media_type()
        };
        Ok((Descriptor::new(media_type, found, bytes.len() as u64), bytes))
    }

    fn ask_manifest(&self, method: Method, place: &Endpoint) -> Result<Response> {
        let reference = &place.reference;
        let name = match (&reference.digest, &reference.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => crate::oci::reference::DEFAULT_TAG.to_owned(),
        };
        let path = format!("{}/manifests/{name}", reference.repository);
        let make =
            |base: &Url| Request::new(method, api(base, &path)).header("accept", ACCEPT.join(", "));
        let response = self.call_at(place, Access::Pull, &[], &make, &mut Payload::None)?;
        temporary_as_error(response)
    }
}

/// A blob on its way, verified while it is read. A connection that breaks or stalls is made again
/// where it stopped.
pub struct BlobReader {
    client: Client,
    repository: Reference,
    digest: Digest,
    size: u64,
    offset: u64,
    hasher: Option<Hasher>,
    source: Option<Box<dyn Read + Send>>,
    url: Option<Url>,
    failures: u32,
    /// Bytes since the last failure.
    progress: u64,
    window: Window,
    finished: bool,
}

/// The transfer rate is judged over windows of waiting time.
#[derive(Default)]
struct Window {
    waited: Duration,
    bytes: u64,
}

/// After so many bytes an earlier failure is forgiven: a long transfer over a bad line may break
/// often, as long as it gets on.
pub(super) const FORGIVE: u64 = 1 << 20;

impl BlobReader {
    /// Gives how many bytes were read, counted from the start of the blob.
    pub fn position(&self) -> u64 {
        self.offset
    }

    fn what(&self) -> String {
        format!("blob {} of {}", self.digest, self.repository.name())
    }

    fn options(&self) -> &Options {
        &self.client.inner.options
    }

    /// Opens the connection at the present offset.
    fn connect(&mut self) -> Result<()> {
        if self.offset >= self.size {
            self.source = Some(Box::new(io::empty()));
            return Ok(());
        }
        // The blob of this digest, so that mirrors that are for digests alone are asked too.
        let blob = self.repository.clone().with_digest(self.digest);
        self.client.clone().anywhere(&blob, About::Part, |place| self.connect_at(place))
    }

    fn connect_at(&mut self, place: &Endpoint) -> Result<()> {
        let path = format!("{}/blobs/{}", place.reference.repository, self.digest);
        let offset = self.offset;
        let make = |base: &Url| {
            let request = Request::new(Method::Get, api(base, &path));
            match offset {
                0 => request,
                _ => request.header("range", format!("bytes={offset}-")),
            }
        };
        let response = self.client.call_at(place, Access::Pull, &[], &make, &mut Payload::None)?;
        let response = temporary_as_error(response)?;
        let url = response.url.clone();
        let (skip, rest) = match response.status {
            200 => (offset, self.size),
            206 => {
                self.check_range(&response)?;
                (0, self.size - offset)
            }
            // The server has fewer bytes than the descriptor says.
            416 => {
                let (what, expected) = (self.what(), self.size);
                return Err(Error::Size { what, expected, found: offset });
            }
            _ => {
                let what = self.what();
                return Err(self.client.refused(response, &place.reference, &what));
            }
        };
        if let Some(length) = response.content_length().filter(|length| *length != rest) {
            let found = length + (self.size - rest);
            return Err(Error::Size { what: self.what(), expected: self.size, found });
        }
        let mut source = response.into_reader();
        if skip > 0 {
            // The server knows no ranges: the bytes that we have come again.
            let skipped = io::copy(&mut source.by_ref().take(skip), &mut io::sink())
                .map_err(|source| read_error(Method::Get, &url, source))?;
            if skipped < skip {
                return Err(read_error(Method::Get, &url, io::ErrorKind::UnexpectedEof.into()));
            }
        }
        self.source = Some(source);
        self.url = Some(url);
        self.window = Window::default();
        Ok(())
    }

    fn check_range(&self, response: &Response) -> Result<()> {
        let range = response.header("content-range").unwrap_or_default();
        let start = range
            .strip_prefix("bytes ")
            .and_then(|range| range.split('-').next())
            .and_then(|start| start.trim().parse::<u64>().ok());
        if start == Some(self.offset) {
            return Ok(());
        }
        Err(Error::Protocol {
            url: response.url.to_string(),
            reason: format!("asked for bytes from {}, got {range:?}", self.offset),
        })
    }

    /// Reads once from the connection.
    fn read_once(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if self.source.is_none() {
            self.connect()?;
        }
        let Some(source) = &mut self.source else { return Ok(0) };
        let start = Instant::now();
        let result = source.read(buffer);
        let waited = start.elapsed();
        let count = match (result, &self.url) {
            (Ok(count), _) => count,
            (Err(source), Some(url)) => return Err(read_error(Method::Get, url, source)),
            (Err(source), None) => {
                return Err(Error::Input { what: self.what(), source });
            }
        };
        if count == 0 && self.offset < self.size {
            let eof = io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the connection closed after {} of {} bytes", self.offset, self.size),
            );
            return match &self.url {
                Some(url) => Err(read_error(Method::Get, url, eof)),
                None => Err(Error::Input { what: self.what(), source: eof }),
            };
        }
        self.window.waited += waited;
        self.window.bytes += count as u64;
        let (time, bytes) = (self.options().stall_timeout, self.options().stall_bytes);
        if self.window.waited >= time && self.offset + (count as u64) < self.size {
            let window = std::mem::take(&mut self.window);
            if window.bytes < bytes {
                // What just came is thrown away; it comes again.
                return Err(Error::Stalled { what: self.what(), bytes, time });
            }
        }
        Ok(count)
    }

    fn finish(&mut self) -> Result<()> {
        if self.finished {
            return Ok(());
        }
        self.finished = true;
        if self.offset != self.size {
            let (expected, found) = (self.size, self.offset);
            return Err(Error::Size { what: self.what(), expected, found });
        }
        if let Some(hasher) = self.hasher.take() {
            let found = hasher.finish();
            if found != self.digest {
                return Err(Error::Digest { what: self.what(), expected: self.digest, found });
            }
        }
        Ok(())
    }

    fn read_verified(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match self.read_once(buffer) {
                Ok(count) => {
                    self.offset += count as u64;
                    self.progress += count as u64;
                    if self.offset > self.size {
                        let (expected, found) = (self.size, self.offset);
                        return Err(Error::Size { what: self.what(), expected, found });
                    }
                    if let Some(hasher) = &mut self.hasher {
                        hasher.update(&buffer[..count]);
                    }
                    if count == 0 && !buffer.is_empty() {
                        self.finish()?;
                    }
                    return Ok(count);
                }
                Err(error) if error.is_temporary() => {
                    self.source = None;
                    if self.progress >= FORGIVE {
                        self.failures = 0;
                    }
                    self.progress = 0;
                    self.client.inner.http.pause(self.failures, error)?;
                    self.failures += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_verified(buffer).map_err(io::Error::other)
    }
}

/// Gives the URL of a path below `/v2/`.
pub(super) fn api(base: &Url, path: &str) -> Url {
    Url { path: format!("{}{path}", base.path), ..base.clone() }
}

/// Turns a status that may pass into an error, so that the retry loop sees it.
pub(super) fn temporary_as_error(response: Response) -> Result<Response> {
    if super::error::is_temporary_status(response.status) {
        return Err(response.into_error());
    }
    Ok(response)
}
