//! One blob on its way into a repository, until the registry has all of it.
//!
//! An upload is a session (distribution-spec, "Pushing blobs"): a POST opens it and says where the
//! bytes go (`Location`), requests to that place carry them, a PUT with the digest closes it. The
//! ways through it, what is best first:
//!
//! 1. The registry mounts the blob from another repository, and nothing is sent.
//! 2. All bytes go with the closing PUT, in one request.
//! 3. When that breaks in the middle, the session is asked how far the registry is (GET), and the
//!    rest goes in chunks (PATCH with `Content-Range`), each from where the registry stands.
//! 4. A proxy that refuses large requests (413) gets chunks too, smaller each time it refuses.
//!
//! A session that is gone, or that the registry cannot go on with, is opened anew. Distribution 2.8
//! drops a session whenever a request breaks in the middle, so there the blob begins again.
//!
//! An upload that gets on may break as often as it likes; one that does not is given up after
//! [`Options::retries`](super::super::Options::retries).
//!
//! Start reading at [`Upload::run`].

use std::collections::HashSet;
use std::io::{self, Read};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::super::Client;
use super::super::auth::Access;
use super::super::error::{Error, Result, is_temporary_status};
use super::super::http::{Method, Payload, Request, Response};
use super::super::pull::{FORGIVE, api, temporary_as_error};
use super::super::url::{Scheme, Url};
use super::{Open, Pushed, check_digest};
use crate::oci::{Descriptor, Reference};

/// Bodies from this size on are only sent when the server says that it wants them (RFC 9110,
/// 10.1.1), so that a 413 or 401 costs no transfer. As curl does.
const EXPECT_FROM: u64 = 1 << 20;

/// A server that has said nothing for so long does not know of this question, and is not asked again:
/// ureq sends the body after a second.
const DEAF_AFTER: Duration = Duration::from_millis(900);
/// A server that refuses requests so small is no place for a layer.
const SMALLEST_CHUNK: u64 = 64 << 10;
/// After so many failures in a row without a byte that stayed, whole uploads give way to chunks.
const WHOLE_FAILURES: u32 = 2;

/// A blob on its way.
pub(super) struct Upload<'a, 'o> {
    client: &'a Client,
    repository: &'a Reference,
    descriptor: &'a Descriptor,
    open: &'a mut Open<'o>,
    content: Option<Counted<'o>>,
    mount: Option<&'a str>,
    session: Option<Session>,
    /// The most that goes with one request; nothing forbids to send all.
    limit: Option<u64>,
    /// Whether it was forbidden, so that there is no way back.
    too_large: bool,
    /// The size of the last request, for what is said when it is too large.
    asked: u64,
    /// Whether a broken session is asked how far it is.
    resumes: bool,
    /// Whether a request broke in this session: then what the registry has may be wrong, the more
    /// as it may still be busy with that request.
    doubtful: bool,
    expect: bool,
    /// Since the upload last got on.
    failures: u32,
    unauthorized: bool,
    /// How far the registry ever was.
    best: u64,
}

/// An upload that the registry knows.
struct Session {
    /// Where the next request goes; the registry may move it with each answer.
    place: Url,
    /// How many bytes the registry has.
    offset: u64,
    /// False after a failure, until the registry has been asked.
    sure: bool,
    /// The least size of a chunk that is not the last.
    minimum: u64,
    /// Whether bytes were sent: then the closing answer may be what was lost.
    sent: bool,
}

/// What the registry answered to the opening POST.
enum Started {
    Mounted,
    Session(Session),
}

enum Step {
    Done(Pushed),
    Next,
}

impl<'a, 'o> Upload<'a, 'o> {
    pub(super) fn new(
        client: &'a Client,
        repository: &'a Reference,
        descriptor: &'a Descriptor,
        mount: Option<&'a str>,
        open: &'a mut Open<'o>,
    ) -> Upload<'a, 'o> {
        Upload {
            client,
            repository,
            descriptor,
            open,
            content: None,
            mount,
            session: None,
            limit: None,
            too_large: false,
            asked: 0,
            resumes: true,
            doubtful: false,
            expect: true,
            failures: 0,
            unauthorized: false,
            best: 0,
        }
    }

    /// Goes on until the blob is there or there is no way left.
    pub(super) fn run(mut self) -> Result<Pushed> {
        loop {
            let pushed = match self.step() {
                Ok(Step::Done(pushed)) => Some(pushed),
                Ok(Step::Next) => None,
                Err(error) => self.recover(error)?,
            };
            if let Some(pushed) = pushed {
                return Ok(pushed);
            }
        }
    }

    fn step(&mut self) -> Result<Step> {
        let size = self.descriptor.size;
        let Some(session) = &self.session else { return self.begin() };
        if !session.sure {
            return self.ask();
        }
        let rest = size - session.offset;
        let whole = self.limit.is_none() && session.offset == 0;
        if whole || rest == 0 {
            return self.close(rest);
        }
        let most = self.limit.unwrap_or(self.client.inner.options.chunk_size);
        self.chunk(most.max(session.minimum).max(1).min(rest))
    }

    /// Opens a session, or has the blob mounted.
    fn begin(&mut self) -> Result<Step> {
        self.doubtful = false;
        let mount = self.mount.take();
        match start(self.client, self.repository, self.descriptor, mount)? {
            Started::Mounted => Ok(Step::Done(Pushed::Mounted)),
            Started::Session(session) => {
                self.session = Some(session);
                Ok(Step::Next)
            }
        }
    }

    /// Asks the session how far the registry is.
    fn ask(&mut self) -> Result<Step> {
        let Some(session) = &mut self.session else { return Ok(Step::Next) };
        let url = session.place.clone();
        let make = |_: &Url| Request::new(Method::Get, url.clone());
        let none = &mut Payload::None;
        let response = self.client.call(self.repository, Access::Push, &[], &make, none)?;
        if !matches!(response.status, 200 | 202 | 204) {
            return Err(response.into_error());
        }
        // One that has nothing says `0-0`, as one does that has a byte: that byte is sent again.
        let offset = match response.header("range").map(range_end) {
            Some(Some(0)) | None => 0,
            Some(Some(end)) => end + 1,
            Some(None) => return Err(unusable_range(&response)),
        };
        if offset > self.descriptor.size {
            return Err(unusable_range(&response));
        }
        if response.header("location").is_some() {
            session.place = place(&response)?;
        }
        session.offset = offset;
        session.sure = true;
        self.got(offset);
        Ok(Step::Next)
    }

    /// Sends a part of the content.
    fn chunk(&mut self, length: u64) -> Result<Step> {
        let Some(session) = &self.session else { return Ok(Step::Next) };
        let (start, url) = (session.offset, session.place.clone());
        let end = start + length;
        let range = format!("{start}-{}", end - 1);
        let response = self.send(Method::Patch, url, length, Some(range))?;
        if !matches!(response.status, 200..=202 | 204) {
            return Err(response.into_error());
        }
        let offset = match response.header("range").map(range_end) {
            Some(Some(last)) => last + 1,
            _ => end,
        };
        // It cannot have what it was not sent.
        if offset > end {
            return Err(unusable_range(&response));
        }
        let next = match response.header("location") {
            Some(_) => Some(place(&response)?),
            None => None,
        };
        if let Some(session) = &mut self.session {
            session.offset = offset;
            session.place = next.unwrap_or_else(|| session.place.clone());
        }
        self.got(offset);
        Ok(Step::Next)
    }

    /// Closes the session, with the last `length` bytes.
    fn close(&mut self, length: u64) -> Result<Step> {
        let Some(session) = &self.session else { return Ok(Step::Next) };
        let digest = self.descriptor.digest;
        let url = session.place.clone().with_query("digest", &digest.to_string());
        let response = self.send(Method::Put, url, length, None)?;
        if !matches!(response.status, 200..=202 | 204) {
            return Err(response.into_error());
        }
        check_digest(&response, digest, &self.repository.name())?;
        Ok(Step::Done(Pushed::Uploaded))
    }

    /// Sends `length` bytes from where the session is.
    fn send(
        &mut self,
        method: Method,
        url: Url,
        length: u64,
        range: Option<String>,
    ) -> Result<Response> {
        let what = format!("blob {}", self.descriptor.digest);
        let input = |source| Error::Input { what: what.clone(), source };
        let Some(session) = &mut self.session else {
            return Err(input(io::Error::other("there is no session to send it to")));
        };
        let (start, size) = (session.offset, self.descriptor.size);
        session.sent |= length > 0;
        self.asked = length;
        let mut content = match self.content.take() {
            Some(content) if content.count == start => content,
            _ if length == 0 && size > 0 => Counted::new(Box::new(io::empty()), start, size),
            _ => Counted::new((self.open)(start).map_err(input)?, start, size),
        };
        let deaf = &self.client.inner.experience.deaf;
        let known = |deaf: &HashSet<String>| deaf.contains(&url.authority);
        let expect = self.expect
            && length >= EXPECT_FROM
            && !known(&deaf.lock().unwrap_or_else(PoisonError::into_inner));
        let make = |_: &Url| {
            let mut request = Request::new(method, url.clone())
                .header("content-type", "application/octet-stream");
            if let Some(range) = &range {
                request = request.header("content-range", range.clone());
            }
            if expect {
                request = request.header("expect", "100-continue");
            }
            request
        };
        let client = self.client;
        let asked = Instant::now();
        content.begun = None;
        let exchange = |reader: &mut dyn Read| {
            let payload = &mut Payload::Stream(reader, length);
            client.call(self.repository, Access::Push, &[], &make, payload)
        };
        let response = if start + length == size {
            // All that there is, so that content which is too long is noticed.
            exchange(&mut content)
        } else {
            exchange(&mut content.by_ref().take(length))
        };
        if expect && content.begun.is_some_and(|begun| begun - asked >= DEAF_AFTER) {
            let mut deaf = deaf.lock().unwrap_or_else(PoisonError::into_inner);
            deaf.insert(url.authority.clone());
        }
        if let Some(failure) = content.error.take() {
            return Err(match failure {
                Failure::Read(source) => input(source),
                Failure::Size => Error::Size { what, expected: size, found: content.count },
            });
        }
        let response = temporary_as_error(response?)?;
        self.content = Some(content);
        Ok(response)
    }

    /// Notes that the registry has `offset` bytes.
    fn got(&mut self, offset: u64) {
        if offset >= (self.best + FORGIVE).min(self.descriptor.size) && offset > self.best {
            self.best = offset;
            self.failures = 0;
            self.unauthorized = false;
        }
    }

    /// Decides how to go on after a failure; gives the error back when there is no way. What was
    /// lost may be the answer only: then the blob is there.
    fn recover(&mut self, error: Error) -> Result<Option<Pushed>> {
        self.content = None;
        let Some(session) = &mut self.session else {
            if !error.is_temporary() {
                return Err(error);
            }
            self.pause(error)?;
            return Ok(None);
        };
        let (asking, offset, sent) = (!session.sure, session.offset, session.sent);
        let doubtful = std::mem::replace(&mut self.doubtful, sent);
        session.sure = false;
        let status = match &error {
            Error::Status { status, .. } => *status,
            error if error.is_temporary() => 0,
            _ => return Err(error),
        };
        match status {
            // The token ended while the bytes were on their way; the next request gets a new one.
            401 if !self.unauthorized && !asking => self.unauthorized = true,
            401 | 403 => return Err(self.denied(error)),
            413 if !asking => self.shrink(error)?,
            417 if self.expect => self.expect = false,
            // The registry forgot the session, maybe since it is closed.
            404 | 410 => {
                self.session = None;
                if sent && self.client.has_blob(self.repository, &self.descriptor.digest)? {
                    return Ok(Some(Pushed::Uploaded));
                }
                self.pause_unless(asking, error)?;
            }
            // The registry is not where we thought, or lost its way itself.
            416 => {
                if asking || offset == 0 {
                    self.session = None;
                }
                self.pause_unless(asking, error)?;
            }
            status if status == 0 || is_temporary_status(status) => {
                // Perhaps no connection lives long enough for so much, or a proxy closes it
                // instead of saying that it is too much.
                self.limit = match self.limit {
                    None if self.resumes && offset == 0 && self.failures + 1 >= WHOLE_FAILURES => {
                        Some(self.client.inner.options.chunk_size)
                    }
                    Some(limit) if status == 0 && !asking => Some((limit / 2).max(SMALLEST_CHUNK)),
                    limit => limit,
                };
                if !self.resumes {
                    self.session = None;
                }
                self.pause(error)?;
            }
            // It does not know how to go on, or went on wrongly. All at once it may know.
            _ if self.resumes
                && (asking || doubtful || !self.too_large && self.limit.is_some()) =>
            {
                self.resumes = false;
                if !self.too_large {
                    self.limit = None;
                }
                self.session = None;
                self.pause_unless(asking, error)?;
            }
            _ => return Err(error),
        }
        Ok(None)
    }

    /// Waits before another attempt, or says that there have been enough.
    fn pause(&mut self, error: Error) -> Result<()> {
        self.client.inner.http.pause(self.failures, error)?;
        self.failures += 1;
        Ok(())
    }

    /// The same, but for answers of a session that was asked: that failure has been waited for.
    fn pause_unless(&mut self, asking: bool, error: Error) -> Result<()> {
        if asking { Ok(()) } else { self.pause(error) }
    }

    /// Makes requests smaller after one was too large.
    fn shrink(&mut self, error: Error) -> Result<()> {
        let least = self.session.as_ref().map_or(0, |session| session.minimum);
        let least = least.max(SMALLEST_CHUNK);
        if self.asked <= least {
            let Error::Status { errors, .. } = error else { return Err(error) };
            let (what, size) = (self.repository.name(), self.asked);
            return Err(Error::RequestTooLarge { what, size, errors });
        }
        let chunk = self.client.inner.options.chunk_size;
        self.too_large = true;
        self.limit = Some((self.asked / 2).min(chunk).max(least));
        Ok(())
    }

    fn denied(&self, error: Error) -> Error {
        let Error::Status { errors, .. } = error else { return error };
        let found = self.client.inner.credentials.find(self.repository);
        let anonymous = !matches!(found, Ok(Some(_)));
        Error::Denied { what: self.repository.name(), anonymous, errors }
    }
}

/// Opens an upload, or has the blob mounted.
fn start(
    client: &Client,
    repository: &Reference,
    descriptor: &Descriptor,
    mount_from: Option<&str>,
) -> Result<Started> {
    let path = format!("{}/blobs/uploads/", repository.repository);
    let digest = descriptor.digest;
    let make = |base: &Url| {
        let url = api(base, &path);
        Request::new(
            Method::Post,
            match mount_from {
                Some(from) => url.with_query("mount", &digest.to_string()).with_query("from", from),
                None => url,
            },
        )
    };
    let scopes: Vec<String> =
        mount_from.iter().map(|from| format!("repository:{from}:pull")).collect();
    let answer = client.call(repository, Access::Push, &scopes, &make, &mut Payload::None);
    let response = match answer {
        // A token server may refuse the right to read the other repository: then just send.
        Err(Error::Denied { .. }) if mount_from.is_some() => {
            return start(client, repository, descriptor, None);
        }
        other => temporary_as_error(other?)?,
    };
    match response.status {
        201 if mount_from.is_some() => {
            check_digest(&response, digest, &repository.name())?;
            Ok(Started::Mounted)
        }
        202 => {
            let place = place(&response)?;
            let minimum = response.header("oci-chunk-min-length");
            let minimum = minimum.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
            Ok(Started::Session(Session { place, offset: 0, sure: true, minimum, sent: false }))
        }
        401 | 403 | 404 if mount_from.is_some() => start(client, repository, descriptor, None),
        _ => Err(client.refused(response, repository, &repository.name())),
    }
}

/// Gives where an upload goes on.
fn place(response: &Response) -> Result<Url> {
    let protocol = |reason: String| Error::Protocol { url: response.url.to_string(), reason };
    let location = response
        .header("location")
        .ok_or_else(|| protocol("the answer to the start of an upload has no Location".into()))?;
    let mut url = response
        .url
        .join(location)
        .map_err(|reason| protocol(format!("the Location of an upload is unusable: {reason}")))?;
    if response.url.scheme == Scheme::Https && url.scheme == Scheme::Http {
        // A registry behind a proxy that ends TLS often names itself with http. Its own name is
        // good; another one is not.
        if url.host() != response.url.host() {
            return Err(protocol(format!("it wants uploads without encryption at {url}")));
        }
        url.scheme = Scheme::Https;
        url.authority = response.url.authority.clone();
    }
    if super::super::url::is_loopback(&url.authority)
        && !super::super::url::is_loopback(&response.url.authority)
    {
        return Err(protocol(format!("it wants uploads on this machine, at {url}")));
    }
    Ok(url)
}

/// Reads `Range: 0-N`, with or without `bytes=` (distribution-spec gives it without); gives N.
fn range_end(text: &str) -> Option<u64> {
    let text = text.trim();
    let text = text.strip_prefix("bytes").map_or(text, |rest| rest.trim_start_matches(['=', ' ']));
    let (start, end) = text.split_once('-')?;
    let end = end.split('/').next()?.trim().parse::<u64>().ok()?;
    (start.trim() == "0" && end < u64::MAX).then_some(end)
}

fn unusable_range(response: &Response) -> Error {
    let range = response.header("range").unwrap_or_default();
    Error::Protocol {
        url: response.url.to_string(),
        reason: format!("it says to have the bytes {range:?} of an upload, which cannot be"),
    }
}

/// Counts content, and keeps the reason when it cannot be read, which would look like a broken
/// connection. Content of another length than announced must not be sent: the registry would wait
/// for the rest, or take what follows for the next request.
struct Counted<'a> {
    inner: Box<dyn Read + Send + 'a>,
    count: u64,
    size: u64,
    /// When the first of the present request was wanted.
    begun: Option<Instant>,
    error: Option<Failure>,
}

enum Failure {
    Read(io::Error),
    Size,
}

impl<'a> Counted<'a> {
    fn new(inner: Box<dyn Read + Send + 'a>, count: u64, size: u64) -> Counted<'a> {
        Counted { inner, count, size, begun: None, error: None }
    }

    fn fail(&mut self, failure: Failure) -> io::Error {
        self.error = Some(failure);
        io::Error::other("content cannot be read")
    }
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.begun.get_or_insert_with(Instant::now);
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

#[cfg(test)]
mod tests {
    use super::range_end;

    #[test]
    fn ranges_are_read() {
        for (text, want) in [
            ("0-0", Some(0)),
            ("0-999", Some(999)),
            ("bytes=0-9", Some(9)),
            ("bytes 0-9/100", Some(9)),
            (" 0-5 ", Some(5)),
            ("5-9", None),
            ("0-", None),
            ("-1", None),
            ("0-18446744073709551615", None),
            ("all", None),
        ] {
            assert_eq!(range_end(text), want, "{text}");
        }
    }
}
