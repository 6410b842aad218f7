//! A proxy on loopback between lapstrake and a registry, which breaks what passes through it: requests
//! and answers that are cut, reset, half-closed, slow, refused, redirected, or lied about.
//!
//! It understands as much of HTTP/1.1 as registries and their clients speak: one request after the
//! other, bodies with a length, `Expect`. What passed is kept for the test to look at, with the bytes of each
//! body that really came.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// The largest head of a request or an answer.
const MAX_HEAD: usize = 64 << 10;
/// A connection on which nothing moves for so long ends, whatever the test forgot.
const PATIENCE: Duration = Duration::from_secs(20);

/// What goes wrong with a request.
#[derive(Clone)]
pub enum Fault {
    /// So many bytes of its body go on, then both connections close.
    CutRequest(u64),
    /// The same with a reset.
    ResetRequest(u64),
    /// So many bytes of its body go on; the client is told that nothing more will come, and the rest of its body is
    /// read in vain.
    HalfCloseRequest(u64),
    /// Its body is read a byte at a time, each after a pause.
    SlowRequest(Duration),
    /// So many bytes of its body go on, then this status is the answer, with these headers.
    StatusAfter(u64, u16, Vec<(String, String)>),
    /// This status is the answer, with these headers; the registry hears nothing.
    Status(u16, Vec<(String, String)>),
    /// Another answer altogether: status, headers, body.
    Answer(u16, Vec<(String, String)>, Vec<u8>),
    /// The connection closes before the answer, which the registry gave.
    LoseAnswer,
    /// So many bytes of the answer's body come, then the connection closes.
    CutResponse(u64),
    /// The same with a reset.
    ResetResponse(u64),
    /// So many bytes of the answer's body come, then nothing but an end; the connection stays half open.
    HalfCloseResponse(u64),
    /// The answer's body comes a byte at a time, each after a pause.
    SlowResponse(Duration),
    /// The last byte of the answer's body is another one.
    Corrupt,
    /// A header of the answer is another one.
    Header(String, String),
    /// Something happens before the request goes on.
    Before(Arc<dyn Fn() + Send + Sync>),
}

impl Fault {
    /// A status with nothing to it.
    pub fn status(status: u16) -> Fault {
        Fault::Status(status, Vec::new())
    }

    fn is_broken_request(&self) -> bool {
        matches!(
            self,
            Fault::CutRequest(_)
                | Fault::ResetRequest(_)
                | Fault::HalfCloseRequest(_)
                | Fault::StatusAfter(..)
        )
    }

    /// A redirect.
    pub fn redirect(to: &str) -> Fault {
        Fault::Status(307, vec![("Location".to_owned(), to.to_owned())])
    }
}

struct Rule {
    method: String,
    path: String,
    skip: usize,
    times: usize,
    fault: Fault,
}

/// A request that came, and what became of it.
#[derive(Clone, Debug)]
pub struct Passed {
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Headers by lower-case name.
    pub headers: BTreeMap<String, String>,
    /// Bytes of its body that came.
    pub sent: u64,
    /// Bytes of the answer's body that went back.
    pub received: u64,
    /// The answer's status; 0 when there was none.
    pub status: u16,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    passed: Vec<Passed>,
    largest: Option<u64>,
}

/// A running proxy. Dropping it closes the door.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
}

impl Proxy {
    /// Starts one in front of `upstream` (`HOST:PORT`, plain http).
    pub fn start(upstream: &str) -> Proxy {
        Proxy::listen("127.0.0.1", upstream, None, None)
    }

    /// Starts one on another address than loopback.
    pub fn on(address: &str, upstream: &str) -> Proxy {
        Proxy::listen(address, upstream, None, None)
    }

    /// Starts one with a small window, so that a client cannot send much before it is read.
    pub fn narrow(upstream: &str) -> Proxy {
        Proxy::listen("127.0.0.1", upstream, Some(4096), None)
    }

    /// Starts one on `address` that speaks TLS with its clients, and shows this certificate (PEM; its key
    /// beside it as `.key`).
    pub fn with_tls(address: &str, upstream: &str, certificate: &Path) -> Proxy {
        Proxy::listen(address, upstream, None, Some(server_config(certificate)))
    }

    fn listen(
        address: &str,
        upstream: &str,
        window: Option<usize>,
        tls: Option<Arc<ServerConfig>>,
    ) -> Proxy {
        let listener = TcpListener::bind((address, 0)).expect("the address has a free port");
        if let Some(window) = window {
            rustix::net::sockopt::set_socket_recv_buffer_size(&listener, window)
                .expect("a listener has a buffer");
        }
        let address = listener.local_addr().expect("it is bound");
        let state: Arc<Mutex<State>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped, upstream) =
            (Arc::clone(&state), Arc::clone(&stop), upstream.to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (shared, upstream, tls) = (Arc::clone(&shared), upstream.clone(), tls.clone());
                std::thread::spawn(move || {
                    // What breaks here is what the test wants, or is seen by the client.
                    let _ = serve(stream, tls, &upstream, &shared);
                });
            }
        });
        Proxy { address, state, stop }
    }

    /// `ADDRESS:PORT`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes requests of `method` whose target has `path` in it fail, `times` times, after the first `skip`.
    pub fn fail(&self, method: &str, path: &str, skip: usize, times: usize, fault: Fault) {
        let (method, path) = (method.to_owned(), path.to_owned());
        self.lock().rules.push(Rule { method, path, skip, times, fault });
    }

    /// Forgets all faults and what passed.
    pub fn reset(&self) {
        *self.lock() = State::default();
    }

    /// Answers larger requests with 413.
    pub fn largest(&self, bytes: u64) {
        self.lock().largest = Some(bytes);
    }

    /// Gives all requests so far.
    pub fn passed(&self) -> Vec<Passed> {
        self.lock().passed.clone()
    }

    /// Gives the requests of `method` whose target has `path` in it.
    pub fn matching(&self, method: &str, path: &str) -> Vec<Passed> {
        let fits = |one: &Passed| one.method == method && one.target.contains(path);
        self.passed().into_iter().filter(fits).collect()
    }

    /// Counts the bytes of all bodies of uploads that came.
    pub fn uploaded(&self) -> u64 {
        let uploads = |one: &&Passed| one.target.contains("/blobs/uploads/");
        self.passed().iter().filter(uploads).map(|one| one.sent).sum()
    }

    /// Counts the bytes of blobs that went back.
    pub fn downloaded(&self) -> u64 {
        self.matching("GET", "/blobs/sha256:").iter().map(|one| one.received).sum()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the listener up, so that it sees the flag.
        let _ = TcpStream::connect(self.address);
    }
}

/// First line and headers, in order.
struct Head {
    first: String,
    headers: Vec<(String, String)>,
}

impl Head {
    fn get(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter();
        all.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn set(&mut self, name: &str, value: &str) {
        self.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    fn remove(&mut self, name: &str) {
        self.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
    }

    fn length(&self) -> Option<u64> {
        self.get("content-length")?.parse().ok()
    }

    fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        let mut text = format!("{}\r\n", self.first);
        for (key, value) in &self.headers {
            text.push_str(&format!("{key}: {value}\r\n"));
        }
        text.push_str("\r\n");
        to.write_all(text.as_bytes())
    }
}

fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Head>> {
    let mut bytes = Vec::new();
    loop {
        let before = bytes.len();
        if reader.by_ref().take((MAX_HEAD - before) as u64).read_until(b'\n', &mut bytes)? == 0 {
            return Ok(None);
        }
        if bytes[before..] == b"\r\n"[..] {
            break;
        }
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default().to_owned();
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
        .collect();
    Ok(Some(Head { first, headers }))
}

/// What a TLS server with this certificate needs.
fn server_config(certificate: &Path) -> Arc<ServerConfig> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let chain = CertificateDer::pem_file_iter(certificate).expect("it was made");
    let chain = chain.collect::<Result<Vec<_>, _>>().expect("PEM");
    let key = PrivateKeyDer::from_pem_file(certificate.with_extension("key")).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring serves all versions")
        .with_no_client_auth()
        .with_single_cert(chain, key);
    Arc::new(config.expect("certificate and key go together"))
}

/// A client's connection.
enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Wire {
    fn socket(&self) -> &TcpStream {
        match self {
            Wire::Plain(stream) => stream,
            Wire::Tls(stream) => &stream.sock,
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.read(buffer),
            Wire::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.write(bytes),
            Wire::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Wire::Plain(stream) => stream.flush(),
            Wire::Tls(stream) => stream.flush(),
        }
    }
}

/// One connection of a client.
struct Serving<'a> {
    client: BufReader<Wire>,
    shared: &'a Mutex<State>,
    /// Which of those that passed is served.
    at: usize,
}

fn serve(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    upstream: &str,
    shared: &Mutex<State>,
) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let wire = match tls {
        None => Wire::Plain(stream),
        Some(config) => {
            let connection = ServerConnection::new(config).map_err(io::Error::other)?;
            Wire::Tls(Box::new(StreamOwned::new(connection, stream)))
        }
    };
    let mut serving = Serving { client: BufReader::new(wire), shared, at: 0 };
    while let Some(head) = read_head(&mut serving.client)? {
        if !serving.pass(head, upstream)? {
            return Ok(());
        }
    }
    Ok(())
}

impl Serving<'_> {
    fn note(&self, change: impl FnOnce(&mut Passed)) {
        let mut state = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        // A test that starts over has forgotten it.
        if let Some(passed) = state.passed.get_mut(self.at) {
            change(passed);
        }
    }

    /// Passes one request on; says whether the connection stays.
    fn pass(&mut self, mut head: Head, upstream: &str) -> io::Result<bool> {
        let mut words = head.first.split(' ');
        let method = words.next().unwrap_or_default().to_owned();
        let target = words.next().unwrap_or_default().to_owned();
        let length = head.length().unwrap_or(0);
        let (fault, too_large) = {
            let mut state = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            let headers = head
                .headers
                .iter()
                .map(|(key, value)| (key.to_ascii_lowercase(), value.clone()))
                .collect();
            let (method, target) = (method.clone(), target.clone());
            let passed = Passed { method, target, headers, sent: 0, received: 0, status: 0 };
            let fault = state.fault(&passed);
            self.at = state.passed.len();
            state.passed.push(passed);
            (fault, state.largest.is_some_and(|largest| length > largest))
        };
        let expects = head.get("expect").is_some_and(|value| value == "100-continue");
        let fault = if too_large { Some(Fault::status(413)) } else { fault };
        match &fault {
            Some(Fault::Status(status, headers)) => {
                return self.refuse(*status, headers, b"", length, expects);
            }
            Some(Fault::Answer(status, headers, body)) => {
                return self.refuse(*status, headers, body, length, expects);
            }
            Some(Fault::Before(act)) => act(),
            _ => {}
        }
        if expects {
            self.client.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            head.remove("expect");
        }
        head.set("Connection", "close");
        let registry = TcpStream::connect(upstream)?;
        registry.set_read_timeout(Some(PATIENCE))?;
        let mut registry = BufReader::new(registry);
        head.write(registry.get_mut())?;
        if !self.pass_body(&mut registry, length, fault.as_ref())? {
            return Ok(false);
        }
        if matches!(fault, Some(Fault::LoseAnswer)) {
            // The registry has done it before the client learns that it will not know.
            read_head(&mut registry)?;
            return Ok(false);
        }
        self.answer(&mut registry, method == "HEAD", fault)
    }

    /// Answers for the registry, and reads the body that nobody wants.
    fn refuse(
        &mut self,
        status: u16,
        headers: &[(String, String)],
        body: &[u8],
        length: u64,
        expects: bool,
    ) -> io::Result<bool> {
        self.note(|passed| passed.status = status);
        let mut head =
            Head { first: format!("HTTP/1.1 {status} Proxy"), headers: headers.to_vec() };
        head.set("Content-Length", &body.len().to_string());
        head.write(self.client.get_mut())?;
        self.client.get_mut().write_all(body)?;
        if expects {
            return Ok(false);
        }
        let read = io::copy(&mut self.client.by_ref().take(length), &mut io::sink())?;
        self.note(|passed| passed.sent = read);
        Ok(true)
    }

    /// Passes a request's body on; says whether there will be an answer.
    fn pass_body(
        &mut self,
        registry: &mut BufReader<TcpStream>,
        length: u64,
        fault: Option<&Fault>,
    ) -> io::Result<bool> {
        let most = match fault {
            Some(
                Fault::CutRequest(most)
                | Fault::ResetRequest(most)
                | Fault::HalfCloseRequest(most)
                | Fault::StatusAfter(most, ..),
            ) => (*most).min(length),
            _ => length,
        };
        let pause = match fault {
            Some(Fault::SlowRequest(pause)) => Some(*pause),
            _ => None,
        };
        let mut buffer = vec![0; if pause.is_some() { 1 } else { 64 << 10 }];
        let mut left = most;
        while left > 0 {
            if let Some(pause) = pause {
                std::thread::sleep(pause);
            }
            let room = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = self.client.read(&mut buffer[..room])?;
            if count == 0 {
                return Ok(false);
            }
            self.note(|passed| passed.sent += count as u64);
            registry.get_mut().write_all(&buffer[..count])?;
            left -= count as u64;
        }
        let broken = Fault::is_broken_request;
        if fault.is_some_and(broken) {
            // The registry has seen the end, and has kept what came, before the client sees it and asks.
            registry.get_ref().shutdown(Shutdown::Write)?;
            let _ = io::copy(registry, &mut io::sink());
        }
        match fault {
            Some(Fault::CutRequest(_)) => return Ok(false),
            Some(Fault::ResetRequest(_)) => {
                reset_on_close(self.client.get_ref().socket());
                return Ok(false);
            }
            Some(Fault::HalfCloseRequest(_)) => {
                self.client.get_ref().socket().shutdown(Shutdown::Write)?;
                let read = io::copy(&mut self.client.by_ref().take(length - most), &mut io::sink());
                self.note(|passed| passed.sent += read.unwrap_or(0));
                return Ok(false);
            }
            Some(Fault::StatusAfter(_, status, headers)) => {
                self.refuse(*status, headers, b"", 0, false)?;
                self.client.get_ref().socket().shutdown(Shutdown::Write)?;
                // Read, so that the answer does not get lost in a reset.
                let read = io::copy(&mut self.client.by_ref().take(length - most), &mut io::sink());
                self.note(|passed| passed.sent += read.unwrap_or(0));
                return Ok(false);
            }
            _ => {}
        }
        Ok(true)
    }

    /// Passes the answer back; says whether the connection stays.
    fn answer(
        &mut self,
        registry: &mut BufReader<TcpStream>,
        is_head: bool,
        fault: Option<Fault>,
    ) -> io::Result<bool> {
        let Some(mut head) = read_head(registry)? else { return Ok(false) };
        let status = head.first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status: u16 = status.unwrap_or(0);
        self.note(|passed| passed.status = status);
        let bodiless = is_head || matches!(status, 204 | 304);
        let length = if bodiless { Some(0) } else { head.length() };
        head.remove("connection");
        if length.is_none() {
            head.set("Connection", "close");
        }
        let mut most = length.unwrap_or(u64::MAX);
        let mut pause = None;
        match &fault {
            Some(Fault::Header(name, value)) => head.set(name, value),
            Some(
                Fault::CutResponse(bytes)
                | Fault::ResetResponse(bytes)
                | Fault::HalfCloseResponse(bytes),
            ) => most = most.min(*bytes),
            Some(Fault::SlowResponse(time)) => pause = Some(*time),
            _ => {}
        }
        head.write(self.client.get_mut())?;
        let corrupt = matches!(fault, Some(Fault::Corrupt));
        let mut buffer = vec![0; if pause.is_some() { 1 } else { 64 << 10 }];
        let mut left = most;
        while left > 0 {
            let room = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = registry.read(&mut buffer[..room])?;
            if count == 0 {
                break;
            }
            left -= count as u64;
            if corrupt && left == 0 {
                buffer[count - 1] ^= 1;
            }
            if let Some(pause) = pause {
                std::thread::sleep(pause);
            }
            self.client.get_mut().write_all(&buffer[..count])?;
            self.note(|passed| passed.received += count as u64);
        }
        match fault {
            Some(Fault::CutResponse(_)) => return Ok(false),
            Some(Fault::ResetResponse(_)) => {
                reset_on_close(self.client.get_ref().socket());
                return Ok(false);
            }
            Some(Fault::HalfCloseResponse(_)) => {
                self.client.get_ref().socket().shutdown(Shutdown::Write)?;
                io::copy(&mut self.client, &mut io::sink())?;
                return Ok(false);
            }
            _ => {}
        }
        Ok(length.is_some())
    }
}

/// Lets a close reset the connection instead of ending it.
fn reset_on_close(stream: &TcpStream) {
    rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))
        .expect("a socket can be told how to close");
}

impl State {
    fn fault(&mut self, passed: &Passed) -> Option<Fault> {
        for rule in &mut self.rules {
            if rule.method == passed.method && passed.target.contains(&rule.path) {
                if rule.skip > 0 {
                    rule.skip -= 1;
                } else if rule.times > 0 {
                    rule.times -= 1;
                    return Some(rule.fault.clone());
                }
            }
        }
        None
    }
}
