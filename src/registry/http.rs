//! One HTTP exchange: agents, time-outs, redirects, and the retry loop around it.
//!
//! [`Http::exchange`] is the only place that opens a socket, and the place where `--offline` is
//! enforced. It follows redirects itself, because the rules matter: credentials go to the origin
//! that they are for and to nobody else, https never becomes http, and only GET and HEAD move.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use ureq::http;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector, TcpConnector};
use ureq::{Agent, SendBody};

use super::Options;
use super::error::{Error, Result, is_temporary_status, parse_api_errors};
use super::tls::{self, HostTls, TlsConnector};
use super::url::{Scheme, Trust, Url, is_loopback};
use crate::oci::reference::DOCKER_HUB;

/// The host that serves `docker.io`.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";
/// As many as browsers and Go follow.
const MAX_REDIRECTS: usize = 10;
/// A port that nobody listens on is rarely served a little later: a registry that restarts takes
/// some seconds, and a name or port that is wrong should be told soon.
const REFUSED_RETRIES: u32 = 2;
/// How much of an error page is read.
const MAX_ERROR_BODY: u64 = 64 << 10;
/// The longest pause between two attempts that we choose ourselves.
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// The methods that registries know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
}

impl Method {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Patch => "PATCH",
        }
    }
}

/// What is sent.
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: Vec<(&'static str, String)>,
    /// Sent to the origin of `url` only.
    pub(super) authorization: Option<String>,
}

/// The body of a request.
pub(super) enum Payload<'a> {
    None,
    Bytes(&'a [u8]),
    Stream(&'a mut dyn Read, u64),
}

/// What came back.
pub(super) struct Response {
    pub(super) method: Method,
    /// Where it came from, after redirects.
    pub(super) url: Url,
    pub(super) status: u16,
    headers: http::HeaderMap,
    body: ureq::Body,
}

/// Agents and what is known of the servers.
#[derive(Debug)]
pub(super) struct Http {
    options: Arc<Options>,
    /// Certificate authorities beyond the system's.
    extra_certs: Vec<CertificateDer<'static>>,
    agents: Mutex<HashMap<AgentKey, Agent>>,
    /// Certificates of single registries, by directory; None where there are none.
    hosts: Mutex<HashMap<PathBuf, Option<Arc<HostTls>>>>,
    /// The scheme of loopback and insecure registries, once found out. Held while one is asked.
    schemes: Mutex<HashMap<String, Scheme>>,
}

/// What connections must have in common to be made by one agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct AgentKey {
    insecure: bool,
    proxy: bool,
    /// The directory of certificates.
    certificates: Option<PathBuf>,
    /// Whether the server may be told who we are.
    identity: bool,
}

impl Http {
    pub(super) fn new(options: Arc<Options>) -> Result<Http> {
        let extra_certs = parse_certs(&options.tls_ca)?;
        Ok(Http {
            options,
            extra_certs,
            agents: Mutex::default(),
            hosts: Mutex::default(),
            schemes: Mutex::default(),
        })
    }

    /// Gives the root of a registry's API.
    ///
    /// A loopback registry is asked over http and then over https, an insecure one the other way
    /// round, every other one over https alone. `what` names what is missing when offline.
    ///
    /// Nothing is tried again here: whoever asks for more than this does that.
    pub(super) fn base(&self, registry: &str, insecure: bool, what: &str) -> Result<Url> {
        let host = if registry == DOCKER_HUB { DOCKER_HUB_HOST } else { registry };
        let at = |scheme| {
            let trust = Trust { insecure, registry: Some(registry.into()), elsewhere: false };
            Url { trust, ..Url::new(scheme, host, "/v2/") }
        };
        let order = if is_loopback(host) {
            [Scheme::Http, Scheme::Https]
        } else if insecure || self.is_insecure(host) {
            [Scheme::Https, Scheme::Http]
        } else {
            return Ok(at(Scheme::Https));
        };
        let mut known = self.schemes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(scheme) = known.get(host) {
            return Ok(at(*scheme));
        }
        let mut first_error = None;
        for scheme in order {
            let url = at(scheme);
            let request = Request::new(Method::Get, url.clone());
            match self.exchange(&request, &mut Payload::None, what) {
                // What Go's servers say to http on a TLS port. Some other 400 is an answer too.
                Ok(response) if response.status == 400 && scheme == Scheme::Http => {}
                Ok(_) => {
                    known.insert(host.to_owned(), scheme);
                    return Ok(url);
                }
                Err(error @ Error::Offline { .. }) => return Err(error),
                Err(error) => {
                    first_error.get_or_insert(error);
                    // A refused connection is the same for both schemes.
                    if first_error.as_ref().is_some_and(is_refused) {
                        break;
                    }
                }
            }
        }
        match first_error {
            Some(error) => Err(error),
            None => Ok(at(order[0])),
        }
    }

    /// Tells whether the user allows plain http and unverified certificates for a server.
    pub(super) fn is_insecure(&self, authority: &str) -> bool {
        is_loopback(authority)
            || self.options.insecure.iter().any(|entry| {
                entry.eq_ignore_ascii_case(authority)
                    || entry.eq_ignore_ascii_case(super::url::host_of(authority))
            })
    }

    /// Sends a request and follows redirects. Every status comes back as a response; an error is
    /// a connection that failed or a redirect that is not followed.
    pub(super) fn exchange(
        &self,
        request: &Request,
        payload: &mut Payload<'_>,
        what: &str,
    ) -> Result<Response> {
        if self.options.offline {
            return Err(Error::Offline { what: what.to_owned() });
        }
        let mut url = request.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let authorization =
                request.authorization.as_deref().filter(|_| url.same_origin(&request.url));
            let response = self.send(request, &url, authorization, payload)?;
            if !matches!(response.status, 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            url = self.redirect(request, &response)?;
        }
        Err(Error::Redirect {
            url: request.url.to_string(),
            to: url.to_string(),
            reason: "too many redirects in a row",
        })
    }

    fn redirect(&self, request: &Request, response: &Response) -> Result<Url> {
        let location = response.header("location").unwrap_or_default();
        let refuse = |to: &str, reason| {
            Err(Error::Redirect { url: response.url.to_string(), to: to.to_owned(), reason })
        };
        if !matches!(request.method, Method::Get | Method::Head) {
            return refuse("another place", "only downloads may be redirected");
        }
        let to = match response.url.join(location) {
            Ok(to) => to,
            // The location is not shown: it may hold a signature.
            Err(reason) => return refuse("a bad URL", reason),
        };
        if response.url.scheme == Scheme::Https
            && to.scheme == Scheme::Http
            && !self.is_insecure(&to.authority)
            && !to.trust.insecure
        {
            return refuse(&to.to_string(), "it leads from https to http");
        }
        // A registry elsewhere has no business with services of this machine.
        if is_loopback(&to.authority) && !is_loopback(&request.url.authority) {
            return refuse(&to.to_string(), "it leads to this machine");
        }
        Ok(to)
    }

    fn send(
        &self,
        request: &Request,
        url: &Url,
        authorization: Option<&str>,
        payload: &mut Payload<'_>,
    ) -> Result<Response> {
        let failed = |error: ureq::Error| connection_error(request.method, url, error);
        let mut builder = http::Request::builder()
            .method(request.method.as_str())
            .uri(url.to_full())
            // Bytes are digested as they come, so nobody may compress them on the way.
            .header("accept-encoding", "identity");
        for (name, value) in &request.headers {
            builder = builder.header(*name, value);
        }
        if let Some(value) = authorization {
            builder = builder.header("authorization", value);
        }
        let has_body = matches!(request.method, Method::Post | Method::Put | Method::Patch);
        let agent = self.agent(url)?;
        let bad = |error: http::Error| failed(ureq::Error::Http(error));
        let response = if has_body {
            let mut bytes: &[u8] = &[];
            let (reader, size): (&mut dyn Read, u64) = match payload {
                Payload::None => (&mut bytes, 0),
                Payload::Bytes(all) => {
                    bytes = all;
                    (&mut bytes, all.len() as u64)
                }
                Payload::Stream(reader, size) => (*reader, *size),
            };
            let request = builder
                .header("content-length", size)
                .body(SendBody::from_reader(reader))
                .map_err(bad)?;
            // What is sent is worked on before it is answered, and that is no stall.
            let config = agent.configure_request(request);
            agent.run(config.timeout_per_read(Some(self.options.answer_timeout)).build())
        } else {
            agent.run(builder.body(()).map_err(bad)?)
        }
        .map_err(failed)?;
        let (parts, body) = response.into_parts();
        Ok(Response {
            method: request.method,
            url: url.clone(),
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
        })
    }

    fn agent(&self, url: &Url) -> Result<Agent> {
        let (certificates, host) = match self.host_tls(url)? {
            Some((dir, host)) => (Some(dir), Some(host)),
            None => (None, None),
        };
        let key = AgentKey {
            insecure: url.trust.insecure || self.is_insecure(&url.authority),
            proxy: self.options.proxy && !is_loopback(&url.authority),
            certificates,
            identity: !url.trust.elsewhere,
        };
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(&key) {
            return Ok(agent.clone());
        }
        let options = &self.options;
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(options.user_agent.as_str())
            .timeout_connect(Some(options.connect_timeout))
            .timeout_recv_response(Some(options.answer_timeout))
            .timeout_per_read(Some(options.stall_timeout))
            .timeout_per_write(Some(options.stall_timeout))
            .max_idle_connections_per_host(16)
            .input_buffer_size(128 << 10)
            .output_buffer_size(128 << 10);
        if !key.proxy {
            config = config.proxy(None);
        }
        let mut given = self.extra_certs.clone();
        given.extend(host.iter().flat_map(|host| host.authorities.iter().cloned()));
        let identity = host.as_ref().and_then(|host| host.identity.as_ref());
        let identity = identity.filter(|_| key.identity);
        let tls = TlsConnector(tls::config(given, identity, key.insecure)?);
        // ureq's own chain, but for TLS.
        let connector =
            ().chain(ConnectProxyConnector::default()).chain(TcpConnector::default()).chain(tls);
        let agent = Agent::with_parts(config.build(), connector, DefaultResolver::default());
        agents.insert(key, agent.clone());
        Ok(agent)
    }

    /// Finds the certificates for a server: those of its own name, else those of the registry on whose
    /// behalf it is asked. The first directory that exists counts, as for Podman. Servers that have
    /// nothing to do with a registry (ADD) have none.
    fn host_tls(&self, url: &Url) -> Result<Option<(PathBuf, Arc<HostTls>)>> {
        let Some(registry) = url.trust.registry.as_deref().filter(|_| url.scheme == Scheme::Https)
        else {
            return Ok(None);
        };
        let names = [url.authority.as_str(), registry].into_iter();
        let dirs: Vec<PathBuf> = match &self.options.cert_dir {
            Some(dir) => vec![dir.clone()],
            None => names
                .flat_map(|name| self.options.cert_dirs.iter().map(move |dir| dir.join(name)))
                .collect(),
        };
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        for dir in dirs {
            if !hosts.contains_key(&dir) {
                hosts.insert(dir.clone(), HostTls::read(&dir)?.map(Arc::new));
            }
            if let Some(host) = hosts.get(&dir).cloned().flatten() {
                return Ok(Some((dir, host)));
            }
        }
        match &self.options.cert_dir {
            Some(dir) => Err(Error::HostCertificates {
                path: dir.clone(),
                reason: "there is no such directory, or it may not be read".to_owned(),
            }),
            None => Ok(None),
        }
    }

    /// Calls `attempt` until it works, fails for good, or has failed too often.
    pub(super) fn retry<T>(&self, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let mut tries = 0;
        loop {
            let error = match attempt() {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if !error.is_temporary() {
                return Err(error);
            }
            self.pause(tries, error)?;
            tries += 1;
        }
    }

    /// Waits before attempt `tries` + 2, or gives the error back when there have been enough or the
    /// wait would be too long.
    pub(super) fn pause(&self, tries: u32, error: Error) -> Result<()> {
        let most = self.options.retries;
        let most = if is_refused(&error) { most.min(REFUSED_RETRIES) } else { most };
        if tries >= most {
            return Err(error);
        }
        let own = backoff(self.options.retry_delay, tries);
        let wait = match error.retry_after() {
            Some(asked) if asked > self.options.max_retry_after => {
                return Err(match error {
                    Error::Status { status: 429, url, retry_after, .. } => {
                        let url = Url::parse(&url).map_or(url, |url| url.authority);
                        Error::RateLimit { registry: url, retry_after }
                    }
                    other => other,
                });
            }
            Some(asked) => asked.max(own),
            None => own,
        };
        std::thread::sleep(wait);
        Ok(())
    }
}

impl Request {
    pub(super) fn new(method: Method, url: Url) -> Request {
        Request { method, url, headers: Vec::new(), authorization: None }
    }

    #[must_use]
    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Request {
        self.headers.push((name, value.into()));
        self
    }
}

impl Response {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(super) fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.get_all(name).iter().filter_map(|value| value.to_str().ok())
    }

    /// Gives the length that is announced. (For HEAD there is no body to ask.)
    pub(super) fn content_length(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }

    /// Gives the body. The stream ends where the announced length does; a connection that closes
    /// before is an error.
    pub(super) fn into_reader(self) -> Box<dyn Read + Send> {
        Box::new(self.body.into_with_config().limit(u64::MAX).reader())
    }

    /// Reads the whole body, or says that it has more than `limit` bytes.
    pub(super) fn read(self, limit: u64) -> Result<Vec<u8>> {
        let (method, url) = (self.method, self.url.clone());
        let mut bytes = Vec::new();
        self.into_reader()
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| read_error(method, &url, source))?;
        if bytes.len() as u64 > limit {
            return Err(Error::Protocol {
                url: url.to_string(),
                reason: format!("the answer has more than the {limit} bytes that are allowed"),
            });
        }
        Ok(bytes)
    }

    /// Makes the error for a status that was not wanted.
    pub(super) fn into_error(self) -> Error {
        let (method, url, status) = (self.method, self.url.to_string(), self.status);
        let retry_after = self.header("retry-after").and_then(parse_retry_after);
        let mut body = Vec::new();
        // The status says enough when the page breaks off.
        let _ = self.into_reader().take(MAX_ERROR_BODY).read_to_end(&mut body);
        Error::Status {
            method: method.as_str(),
            url,
            status,
            errors: parse_api_errors(&body),
            retry_after: retry_after.filter(|_| is_temporary_status(status)),
        }
    }
}

/// Makes the error for a body that broke off; trying again may help.
pub(super) fn read_error(method: Method, url: &Url, source: io::Error) -> Error {
    Error::Connection { method: method.as_str(), url: url.to_string(), temporary: true, source }
}

fn connection_error(method: Method, url: &Url, error: ureq::Error) -> Error {
    use ureq::Error as E;
    let temporary = match &error {
        // What we send wrongly or refuse stays so. A certificate does not get better either.
        E::Http(_) | E::BadUri(_) | E::Tls(_) | E::Pem(_) | E::Rustls(_) | E::InvalidProxyUrl => {
            false
        }
        E::Io(source) => !is_certificate(source),
        _ => true,
    };
    let source = match error {
        E::Io(source) => certificate_reason(source),
        E::HostNotFound => {
            io::Error::new(io::ErrorKind::NotFound, "the name of the host cannot be resolved")
        }
        E::Timeout(_) => io::Error::new(io::ErrorKind::TimedOut, error),
        other => io::Error::other(other),
    };
    Error::Connection { method: method.as_str(), url: url.to_string(), temporary, source }
}

/// rustls hands its errors on inside of io errors of this kind.
fn is_certificate(source: &io::Error) -> bool {
    source.kind() == io::ErrorKind::InvalidData
}

/// Says what a user can act on, where rustls has only a name for it.
fn certificate_reason(source: io::Error) -> io::Error {
    let inner = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner.and_then(tls::reason) {
        Some(reason) => io::Error::new(source.kind(), reason),
        None => source,
    }
}

fn is_refused(error: &Error) -> bool {
    match error {
        Error::Connection { source, .. } => source.kind() == io::ErrorKind::ConnectionRefused,
        // Those that may come to themselves are all of this kind.
        Error::Everywhere { failures, .. } => {
            failures.iter().all(|(_, error)| is_refused(error) || !error.is_temporary())
        }
        _ => false,
    }
}

/// Reads certificates from PEM.
fn parse_certs(pems: &[Vec<u8>]) -> Result<Vec<CertificateDer<'static>>> {
    let mut certs = Vec::new();
    for (index, pem) in pems.iter().enumerate() {
        let more = tls::authorities(pem).map_err(|reason| Error::Certificate { index, reason })?;
        certs.extend(more);
    }
    Ok(certs)
}

/// Doubles from attempt to attempt, and takes a random part off so that many builds that failed
/// together do not come back together.
fn backoff(base: Duration, tries: u32) -> Duration {
    use std::hash::{BuildHasher, Hasher};
    let full = base.saturating_mul(1 << tries.min(16)).min(MAX_BACKOFF);
    // RandomState is seeded by the system and needs no crate.
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    full.mul_f64(0.5 + (random % 1024) as f64 / 2048.0)
}

/// Reads `Retry-After`: seconds or a date (RFC 9110, 10.2.3).
fn parse_retry_after(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let date: SystemTime = date.into();
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_keep_to_https_and_off_this_machine() {
        let options = Options { insecure: vec!["plain.io".to_owned()], ..Options::default() };
        let http = Http::new(Arc::new(options)).unwrap();
        let follow = |method, from: &str, to: &str| {
            let url = Url::parse(from).unwrap();
            let mut headers = http::HeaderMap::new();
            headers.insert("location", to.parse().unwrap());
            let body = ureq::Body::builder().data("");
            let response = Response { method, url: url.clone(), status: 307, headers, body };
            http.redirect(&Request::new(method, url), &response).map(|url| url.to_full())
        };
        let get = |from, to| follow(Method::Get, from, to);
        assert_eq!(get("https://r.io/a", "https://cdn.io/b?c").unwrap(), "https://cdn.io/b?c");
        assert_eq!(get("https://r.io/a", "/b").unwrap(), "https://r.io/b");
        assert_eq!(get("http://plain.io/a", "http://cdn.io/b").unwrap(), "http://cdn.io/b");
        assert_eq!(get("https://r.io/a", "http://plain.io/b").unwrap(), "http://plain.io/b");
        for (method, from, to, want) in [
            (Method::Get, "https://r.io/a", "http://r.io/a", "from https to http"),
            (Method::Head, "https://r.io/a", "https://localhost/a", "leads to this machine"),
            (Method::Get, "https://r.io/a", "https://127.0.0.1:2375/a", "leads to this machine"),
            (Method::Put, "https://r.io/a", "https://cdn.io/a", "only downloads"),
            (Method::Post, "https://r.io/a", "https://cdn.io/a", "only downloads"),
        ] {
            let error = follow(method, from, to).unwrap_err().to_string();
            assert!(error.contains(want), "{to}: {error}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(parse_retry_after(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert!(
            parse_retry_after("Mon, 21 Oct 2335 07:28:00 GMT") > Some(Duration::from_secs(999))
        );
        assert_eq!(parse_retry_after("soon"), None);
    }

    #[test]
    fn backoff_grows_and_is_capped() {
        let base = Duration::from_millis(100);
        for tries in 0..40 {
            let wait = backoff(base, tries);
            assert!(wait <= MAX_BACKOFF && wait >= base / 2, "{tries}: {wait:?}");
        }
        assert!(backoff(base, 30) >= MAX_BACKOFF / 2);
    }
}
