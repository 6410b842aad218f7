//! Files from any web server, with the same agents, proxies, certificates, redirects and retries as
//! registries: for ADD of URLs and for contexts.
//!
//! A download goes on where it broke (`Range` with `If-Range`) as long as the server says that the
//! file is still the same one, and starts again otherwise. User and password of the URL, or an
//! `Authorization` that is given, go to the URL's own origin and nowhere else.

use std::io::{self, Read};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;

use super::Client;
use super::error::{Error, Result};
use super::http::{Method, Payload, Request, Response, read_error};
use super::pull::temporary_as_error;
use super::url::Url;

/// What is read at a time.
const CHUNK: usize = 256 << 10;

/// After so many bytes an earlier failure is forgiven, as with blobs.
const FORGIVE: u64 = 1 << 20;

/// What to get.
#[derive(Debug, Clone, Default)]
pub struct Download {
    /// http or https; may hold user and password.
    pub url: String,
    /// The value of an `Authorization` header; wins over user and password of the URL.
    pub authorization: Option<String>,
    /// `ETag` of what is here already.
    pub etag: Option<String>,
    /// `Last-Modified` of what is here already.
    pub last_modified: Option<String>,
}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// What is here already is still right.
    NotModified,
    /// A file, which the target has now.
    File(FileInfo),
}

/// What a server says about a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileInfo {
    /// `ETag`.
    pub etag: Option<String>,
    /// `Last-Modified` as it came.
    pub last_modified: Option<String>,
    /// The same, seconds since 1970.
    pub modified: Option<i64>,
    /// The file name that `Content-Disposition` gives, without directories.
    pub name: Option<String>,
    /// Bytes.
    pub size: u64,
}

/// Receives a file.
pub trait Target {
    /// Throws away what was received.
    fn restart(&mut self) -> io::Result<()>;
    /// Takes the next bytes. An error ends the download.
    fn receive(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Hears of the progress: bytes received, and in all when the server says so.
    fn progress(&mut self, _done: u64, _total: Option<u64>) {}
}

impl Client {
    /// Gets a file.
    pub fn download(&self, download: &Download, target: &mut dyn Target) -> Result<Fetched> {
        let (url, own) = split_credentials(&download.url)?;
        let authorization = download.authorization.clone().or(own);
        let mut transfer = Transfer {
            client: self,
            download,
            url,
            authorization,
            target,
            offset: 0,
            validator: None,
            progress: 0,
        };
        let mut failures = 0;
        loop {
            let error = match transfer.attempt() {
                Ok(fetched) => return Ok(fetched),
                Err(error) => error,
            };
            if std::mem::take(&mut transfer.progress) >= FORGIVE {
                failures = 0;
            }
            if !error.is_temporary() {
                return Err(error);
            }
            self.inner.http.pause(failures, error)?;
            failures += 1;
        }
    }
}

/// Takes user and password out of a URL; gives them as a header.
fn split_credentials(text: &str) -> Result<(Url, Option<String>)> {
    let bad = |reason: &str| Error::Protocol {
        url: without_user(text),
        reason: format!("this is no URL: {reason}"),
    };
    let (scheme, rest) = text.split_once("://").ok_or_else(|| bad("it has no scheme"))?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (clean, header) = match rest[..end].rfind('@') {
        Some(at) => {
            let user = decode(&rest[..at]);
            let user = if user.contains(':') { user } else { format!("{user}:") };
            let encoded = base64::engine::general_purpose::STANDARD.encode(user);
            (format!("{scheme}://{}", &rest[at + 1..]), Some(format!("Basic {encoded}")))
        }
        None => (text.to_owned(), None),
    };
    Ok((Url::parse(&clean).map_err(bad)?, header))
}

/// The URL without what stands before an `@`, and without its query.
fn without_user(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or_default();
    match (text.split_once("://"), text.rfind('@')) {
        (Some((scheme, _)), Some(at)) => format!("{scheme}://…{}", &text[at..]),
        _ => text.to_owned(),
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| byte == b'%') {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &tail[2..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

struct Transfer<'t> {
    client: &'t Client,
    download: &'t Download,
    url: Url,
    authorization: Option<String>,
    target: &'t mut dyn Target,
    offset: u64,
    /// What tells that the file is still the one of which `offset` bytes are here.
    validator: Option<String>,
    /// Bytes since the last failure.
    progress: u64,
}

impl Transfer<'_> {
    fn attempt(&mut self) -> Result<Fetched> {
        if self.offset > 0 && self.validator.is_none() {
            self.restart()?;
        }
        let mut request = Request::new(Method::Get, self.url.clone());
        request.authorization.clone_from(&self.authorization);
        if self.offset > 0 {
            request = request.header("range", format!("bytes={}-", self.offset));
            if let Some(validator) = &self.validator {
                request = request.header("if-range", validator.clone());
            }
        } else {
            if let Some(etag) = &self.download.etag {
                request = request.header("if-none-match", etag.clone());
            }
            if let Some(time) = &self.download.last_modified {
                request = request.header("if-modified-since", time.clone());
            }
        }
        let what = self.url.to_string();
        let response = self.client.inner.http.exchange(&request, &mut Payload::None, &what)?;
        let response = temporary_as_error(response)?;
        match response.status {
            304 if self.offset == 0 && self.is_conditional() => return Ok(Fetched::NotModified),
            200 | 203 => {
                if self.offset > 0 {
                    self.restart()?;
                }
                // Servers that do not know If-None-Match send the file again, with the same tag.
                let etag = response.header("etag");
                if etag.is_some() && etag == self.download.etag.as_deref() {
                    return Ok(Fetched::NotModified);
                }
            }
            206 if self.offset > 0 => self.check_range(&response)?,
            // Another file now, and shorter than what is here of the old one.
            416 if self.offset > 0 => {
                self.restart()?;
                return self.attempt();
            }
            _ => return Err(response.into_error()),
        }
        self.receive(response)
    }

    fn is_conditional(&self) -> bool {
        self.download.etag.is_some() || self.download.last_modified.is_some()
    }

    fn restart(&mut self) -> Result<()> {
        self.offset = 0;
        self.validator = None;
        self.target.restart().map_err(|source| self.kept(source))
    }

    fn kept(&self, source: io::Error) -> Error {
        Error::Keep { what: self.url.to_string(), source }
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

    fn receive(&mut self, response: Response) -> Result<Fetched> {
        let url = response.url.clone();
        let total = response.content_length().map(|length| length + self.offset);
        let mut info = FileInfo {
            etag: response.header("etag").map(str::to_owned),
            last_modified: response.header("last-modified").map(str::to_owned),
            modified: response.header("last-modified").and_then(parse_time),
            name: response.header("content-disposition").and_then(disposition_name),
            size: 0,
        };
        if self.offset == 0 {
            // Only a strong tag says that the bytes are the same (RFC 9110, 13.1.5).
            let strong = info.etag.clone().filter(|etag| !etag.starts_with("W/"));
            self.validator = strong.or_else(|| info.last_modified.clone());
        }
        let mut body = response.into_reader();
        let mut buffer = vec![0; CHUNK];
        let mut window = Window::default();
        loop {
            let started = Instant::now();
            let count = body.read(&mut buffer).map_err(|source| {
                let got = match total {
                    Some(total) => format!("{} of {total} bytes", self.offset),
                    None => format!("{} bytes", self.offset),
                };
                let source = io::Error::new(source.kind(), format!("after {got}: {source}"));
                read_error(Method::Get, &url, source)
            })?;
            window.waited += started.elapsed();
            window.bytes += count as u64;
            if count == 0 {
                break;
            }
            self.target.receive(&buffer[..count]).map_err(|source| self.kept(source))?;
            self.offset += count as u64;
            self.progress += count as u64;
            self.target.progress(self.offset, total);
            let options = &self.client.inner.options;
            if window.waited >= options.stall_timeout {
                let bytes = std::mem::take(&mut window).bytes;
                if bytes < options.stall_bytes && total != Some(self.offset) {
                    return Err(Error::Stalled {
                        what: url.to_string(),
                        bytes: options.stall_bytes,
                        time: options.stall_timeout,
                    });
                }
            }
        }
        if let Some(total) = total
            && total != self.offset
        {
            let eof = io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the connection closed after {} of {total} bytes", self.offset),
            );
            return Err(read_error(Method::Get, &url, eof));
        }
        info.size = self.offset;
        Ok(Fetched::File(info))
    }
}

/// The transfer rate is judged over windows of waiting time.
#[derive(Default)]
struct Window {
    waited: Duration,
    bytes: u64,
}

/// Reads an HTTP date, seconds since 1970.
fn parse_time(text: &str) -> Option<i64> {
    let time: SystemTime = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp().into();
    i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
}

/// Reads the file name of a `Content-Disposition`, `filename*` first (RFC 6266, 4.3).
fn disposition_name(header: &str) -> Option<String> {
    let mut plain = None;
    let mut extended = None;
    for part in split_parameters(header).iter().skip(1) {
        let Some((key, value)) = part.split_once('=') else { continue };
        let value = value.trim();
        match key.trim().to_ascii_lowercase().as_str() {
            "filename" => plain = Some(unquote(value)),
            "filename*" => {
                let mut fields = value.splitn(3, '\'');
                let charset = fields.next().unwrap_or_default();
                let text = fields.nth(1);
                if charset.eq_ignore_ascii_case("utf-8") {
                    extended = text.map(decode);
                }
            }
            _ => {}
        }
    }
    let name = extended.or(plain)?;
    let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let fits = !name.is_empty() && name != "." && name != ".." && !name.contains('\0');
    fits.then(|| name.to_owned())
}

/// Splits at semicolons outside of quotes.
fn split_parameters(header: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    let mut quoted = false;
    let mut escaped = false;
    for c in header.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ';' if !quoted => {
                out.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = out.last_mut() {
            last.push(c);
        }
    }
    out
}

fn unquote(text: &str) -> String {
    let Some(inner) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) else {
        return text.to_owned();
    };
    let mut out = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.extend(chars.next()),
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
#[path = "download_tests.rs"]
mod tests;
