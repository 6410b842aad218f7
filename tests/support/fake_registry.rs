//! A registry in a thread, strict and spiteful: it follows the distribution-spec to the letter, keeps
//! a list of what clients did against it, and fails on demand.
//!
//! It needs nothing but std, sha2 and serde_json, so that unit tests and integration tests can both
//! include it. It listens on loopback only; request heads and bodies are bounded.

#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

#[path = "fake_session.rs"]
mod session;

use session::Session;

/// The largest body that it takes.
const MAX_BODY: usize = 64 << 20;
/// The largest request head.
const MAX_HEAD: usize = 64 << 10;

/// A running registry. Dropping it closes the door.
pub struct FakeRegistry {
    port: u16,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
}

/// Who may come in.
#[derive(Clone, Debug, Default)]
pub enum Access {
    /// Everybody.
    #[default]
    Open,
    /// Whoever sends this name and password.
    Basic(String, String),
    /// Whoever brings a token of its own token server, which asks for this name and password, or for
    /// nothing when there are none.
    Bearer(Option<(String, String)>),
    /// The same, by a refresh token in a POST.
    Refresh(String),
}

/// What goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status, with these headers and this body.
    Status(u16, Vec<(String, String)>, String),
    /// The connection closes without an answer.
    Close,
    /// The right answer, but the connection closes after so many bytes of the body.
    Truncate(usize),
    /// The right answer with a byte changed.
    Corrupt,
    /// The right answer with more bytes behind it, and the length to match.
    Lengthen,
    /// A redirect.
    Redirect(u16, String),
    /// The right answer comes after so long.
    Delay(Duration),
    /// The body drips, a byte each so often.
    Drip(Duration),
    /// Ranges are not known here: all bytes come, with 200.
    IgnoreRange,
    /// A header of the right answer is another one.
    Header(String, String),
    /// The answer claims this Content-Length and then closes.
    ClaimLength(u64),
    /// The connection closes after so many bytes of the request's body.
    CutBody(usize),
    /// This status comes after so many bytes of the request's body.
    AfterBody(usize, u16),
    /// The request is done, but its answer never comes.
    LoseAnswer,
    /// All uploads in progress end, and then the right answer comes.
    ExpireUploads,
    /// All tokens end, and then the right answer comes.
    ExpireTokens,
}

struct Rule {
    method: String,
    path: String,
    skip: usize,
    times: usize,
    fault: Fault,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Headers by lower-case name.
    pub headers: BTreeMap<String, String>,
    /// How long its body was to be.
    pub length: usize,
    /// How much of it came.
    pub received: usize,
}

#[derive(Default)]
struct State {
    access: Access,
    rules: Vec<Rule>,
    seen: Vec<Seen>,
    violations: Vec<String>,
    /// Blobs by repository and digest.
    blobs: BTreeMap<(String, String), Vec<u8>>,
    /// Manifests by repository and digest: media type and bytes.
    manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    tags: BTreeMap<(String, String), String>,
    uploads: BTreeMap<String, Session>,
    tokens: BTreeSet<String>,
    next: u64,
    mounts: bool,
    absolute_locations: bool,
    ignores_expect: bool,
    /// The least size of a chunk that is not the last.
    chunk_minimum: Option<usize>,
    /// Larger bodies get a 413.
    max_body: Option<usize>,
    refuses_chunks: bool,
    forgets_broken: bool,
    /// Keeps lists of what refers to manifests.
    lists_referrers: bool,
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl FakeRegistry {
    /// Starts one.
    pub fn start() -> FakeRegistry {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let state: Arc<Mutex<State>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (Arc::clone(&state), Arc::clone(&stop));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || {
                    let _ = serve(stream, port, &shared);
                });
            }
        });
        FakeRegistry { port, state, stop }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says who may come in.
    pub fn access(&self, access: Access) {
        self.lock().access = access;
    }

    /// Lets blobs be mounted from other repositories.
    pub fn allow_mounts(&self) {
        self.lock().mounts = true;
    }

    /// Never says that a body may come.
    pub fn ignore_expect(&self) {
        self.lock().ignores_expect = true;
    }

    /// Gives upload locations with scheme (http) and host (as it is asked for).
    pub fn absolute_locations(&self) {
        self.lock().absolute_locations = true;
    }

    /// Takes no smaller chunks than this, but for the last.
    pub fn chunk_minimum(&self, bytes: usize) {
        self.lock().chunk_minimum = Some(bytes);
    }

    /// Refuses larger requests with 413, before it reads them.
    pub fn max_body(&self, bytes: usize) {
        self.lock().max_body = Some(bytes);
    }

    /// Takes blobs whole only.
    pub fn refuse_chunks(&self) {
        self.lock().refuses_chunks = true;
    }

    /// Drops a session when a request breaks, as Distribution 2.8 does.
    pub fn forget_broken(&self) {
        self.lock().forgets_broken = true;
    }

    /// Knows the referrers API, in pages of two.
    pub fn list_referrers(&self) {
        self.lock().lists_referrers = true;
    }

    /// Ends all uploads in progress.
    pub fn expire_uploads(&self) {
        self.lock().uploads.clear();
    }

    /// Counts the bytes of all request bodies that went to uploads.
    pub fn uploaded(&self) -> usize {
        let uploads = |seen: &&Seen| seen.target.contains("/blobs/uploads/");
        self.seen().iter().filter(uploads).map(|seen| seen.received).sum()
    }

    /// Makes requests of `method` whose target has `path` in it fail, `times` times, after the
    /// first `skip`.
    pub fn fail(&self, method: &str, path: &str, skip: usize, times: usize, fault: Fault) {
        let (method, path) = (method.to_owned(), path.to_owned());
        self.lock().rules.push(Rule { method, path, skip, times, fault });
    }

    /// Forgets all tokens that it gave out.
    pub fn expire_tokens(&self) {
        self.lock().tokens.clear();
    }

    /// Stores a blob and gives its digest.
    pub fn put_blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        self.lock().blobs.insert((repository.to_owned(), digest.clone()), bytes.to_vec());
        digest
    }

    /// Stores a manifest under a tag and gives its digest. What it names is not checked.
    pub fn put_manifest(
        &self,
        repository: &str,
        tag: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> String {
        let digest = digest(bytes);
        let mut state = self.lock();
        let key = (repository.to_owned(), digest.clone());
        state.manifests.insert(key, (media_type.to_owned(), bytes.to_vec()));
        state.tags.insert((repository.to_owned(), tag.to_owned()), digest.clone());
        digest
    }

    /// Gives what a tag leads to: media type and bytes.
    pub fn manifest(&self, repository: &str, tag: &str) -> Option<(String, Vec<u8>)> {
        let state = self.lock();
        let digest = state.tags.get(&(repository.to_owned(), tag.to_owned()))?;
        state.manifests.get(&(repository.to_owned(), digest.clone())).cloned()
    }

    /// Gives a blob.
    pub fn blob(&self, repository: &str, digest: &str) -> Option<Vec<u8>> {
        self.lock().blobs.get(&(repository.to_owned(), digest.to_owned())).cloned()
    }

    /// Gives all requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.lock().seen.clone()
    }

    /// Counts the requests of `method` whose target has `path` in it.
    pub fn count(&self, method: &str, path: &str) -> usize {
        self.seen()
            .iter()
            .filter(|seen| seen.method == method && seen.target.contains(path))
            .count()
    }

    /// Gives what clients did that no client may do.
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the listener up, so that it sees the flag.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// The digest of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

fn serve(stream: TcpStream, port: u16, shared: &Mutex<State>) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    while let Some(mut seen) = read_head(&mut reader)? {
        let lock = || shared.lock().unwrap_or_else(PoisonError::into_inner);
        let (fault, refused) = {
            let mut state = lock();
            let fault = state.fault(&seen);
            let too_large = state.max_body.is_some_and(|most| seen.length > most);
            (fault, too_large)
        };
        if seen.length > MAX_BODY {
            return Err(io::Error::other("too large"));
        }
        let expects = seen.headers.get("expect").is_some_and(|value| value == "100-continue");
        if refused {
            lock().seen.push(seen.clone());
            let answer = error(413, "", "the body is too large");
            write_answer(&mut writer, &seen, answer, None)?;
            return if expects { Ok(()) } else { drain(&mut reader) };
        }
        if expects && seen.length > 0 && !lock().ignores_expect {
            writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let wanted = match fault {
            Some(Fault::CutBody(most) | Fault::AfterBody(most, _)) => most.min(seen.length),
            _ => seen.length,
        };
        let mut body = vec![0; wanted];
        let mut read = 0;
        while read < wanted {
            match reader.read(&mut body[read..]) {
                Ok(0) | Err(_) => break,
                Ok(count) => read += count,
            }
        }
        seen.received = read;
        if read < seen.length || matches!(fault, Some(Fault::CutBody(_) | Fault::AfterBody(..))) {
            let mut state = lock();
            state.seen.push(seen.clone());
            if let Some(Fault::AfterBody(_, status)) = fault {
                let mut answer = error(status, "", "in the middle");
                if status == 401
                    && let Some(refused) = state.challenge(&seen, port)
                {
                    state.tokens.clear();
                    answer = refused;
                }
                state.keep_part(&seen, &body[..read]);
                drop(state);
                write_answer(&mut writer, &seen, answer, None)?;
                return drain(&mut reader);
            }
            state.keep_part(&seen, &body[..read]);
            return Ok(());
        }
        let answer = {
            let mut state = lock();
            state.seen.push(seen.clone());
            match &fault {
                Some(Fault::Close) => return Ok(()),
                Some(Fault::Status(status, headers, body)) => Answer {
                    status: *status,
                    headers: headers.clone(),
                    body: body.clone().into_bytes(),
                },
                Some(Fault::Redirect(status, to)) => Answer {
                    status: *status,
                    headers: vec![("Location".to_owned(), to.clone())],
                    body: Vec::new(),
                },
                Some(Fault::IgnoreRange) => {
                    let mut seen = seen.clone();
                    seen.headers.remove("range");
                    state.answer(&seen, &body, port)
                }
                Some(Fault::LoseAnswer) => {
                    state.answer(&seen, &body, port);
                    return Ok(());
                }
                Some(Fault::ExpireUploads) => {
                    state.uploads.clear();
                    state.answer(&seen, &body, port)
                }
                Some(Fault::ExpireTokens) => {
                    state.tokens.clear();
                    state.answer(&seen, &body, port)
                }
                _ => state.answer(&seen, &body, port),
            }
        };
        if !write_answer(&mut writer, &seen, answer, fault)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads what is still on its way, so that the answer is not lost by a reset.
fn drain(reader: &mut BufReader<TcpStream>) -> io::Result<()> {
    reader.get_ref().shutdown(std::net::Shutdown::Write)?;
    io::copy(reader, &mut io::sink()).map(drop)
}

fn read_head(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Seen>> {
    let mut head = Vec::new();
    loop {
        let before = head.len();
        if reader.by_ref().take((MAX_HEAD - before) as u64).read_until(b'\n', &mut head)? == 0 {
            return Ok(None);
        }
        if head[before..] == b"\r\n"[..] {
            break;
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let method = first.next().unwrap_or_default().to_owned();
    let target = first.next().unwrap_or_default().to_owned();
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length: usize = headers.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    Ok(Some(Seen { method, target, headers, length, received: 0 }))
}

/// Writes an answer; says whether the connection goes on.
fn write_answer(
    writer: &mut TcpStream,
    seen: &Seen,
    mut answer: Answer,
    fault: Option<Fault>,
) -> io::Result<bool> {
    let mut length = answer.body.len() as u64;
    let mut drip = None;
    let mut cut = None;
    match fault {
        Some(Fault::Truncate(bytes)) => cut = Some(bytes),
        Some(Fault::Corrupt) => {
            if let Some(byte) = answer.body.last_mut() {
                *byte ^= 1;
            }
        }
        Some(Fault::Lengthen) => {
            answer.body.extend_from_slice(b"more");
            length += 4;
        }
        Some(Fault::Delay(pause)) => std::thread::sleep(pause),
        Some(Fault::Drip(pause)) => drip = Some(pause),
        Some(Fault::Header(name, value)) => {
            answer.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(&name));
            answer.headers.push((name, value));
        }
        Some(Fault::ClaimLength(claim)) => {
            length = claim;
            cut = Some(answer.body.len());
        }
        _ => {}
    }
    let mut head = format!("HTTP/1.1 {} Fake\r\nContent-Length: {length}\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    writer.write_all(head.as_bytes())?;
    if seen.method == "HEAD" {
        return Ok(true);
    }
    if let Some(cut) = cut {
        writer.write_all(&answer.body[..cut.min(answer.body.len())])?;
        return Ok(false);
    }
    match drip {
        None => writer.write_all(&answer.body)?,
        Some(pause) => {
            for byte in &answer.body {
                writer.write_all(&[*byte])?;
                std::thread::sleep(pause);
            }
        }
    }
    Ok(true)
}

impl State {
    fn fault(&mut self, seen: &Seen) -> Option<Fault> {
        for rule in &mut self.rules {
            if rule.method == seen.method && seen.target.contains(&rule.path) {
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

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn violation(&mut self, what: String) -> Answer {
        self.violations.push(what.clone());
        error(400, "UNSUPPORTED", &what)
    }

    fn answer(&mut self, seen: &Seen, body: &[u8], port: u16) -> Answer {
        let (path, query) = seen.target.split_once('?').unwrap_or((&seen.target, ""));
        let query: BTreeMap<String, String> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), unescape(value)))
            .collect();
        if seen.headers.get("accept-encoding").is_some_and(|value| value != "identity") {
            return self.violation(format!("{} allows its answer to be compressed", seen.target));
        }
        if matches!(seen.method.as_str(), "POST" | "PUT" | "PATCH")
            && !seen.headers.contains_key("content-length")
        {
            return self
                .violation(format!("{} {} has no Content-Length", seen.method, seen.target));
        }
        if path == "/token" {
            return self.token(seen, body, &query);
        }
        let Some(rest) = path.strip_prefix("/v2/") else {
            return error(404, "NAME_UNKNOWN", "no such page");
        };
        if let Some(refused) = self.admit(seen, rest, port) {
            return refused;
        }
        if rest.is_empty() {
            return plain(200, Vec::new());
        }
        if let Some((repository, session)) = rest.split_once("/blobs/uploads/") {
            return self.upload(seen, repository, session, &query, body);
        }
        if let Some((repository, name)) = rest.split_once("/blobs/") {
            return self.get_blob(seen, repository, name);
        }
        if let Some((repository, subject)) = rest.split_once("/referrers/") {
            return self.get_referrers(repository, subject, &query);
        }
        match rest.split_once("/manifests/") {
            Some((repository, name)) if seen.method == "PUT" => {
                self.put_checked(seen, repository, name, body)
            }
            Some((repository, name)) => self.get_manifest(seen, repository, name),
            None => error(404, "NAME_UNKNOWN", "no such page"),
        }
    }

    /// Gives the refusal that a request without a good token gets.
    fn challenge(&mut self, seen: &Seen, port: u16) -> Option<Answer> {
        let mut bare = seen.clone();
        bare.headers.remove("authorization");
        let path = seen.target.split('?').next().unwrap_or_default().to_owned();
        self.admit(&bare, path.strip_prefix("/v2/").unwrap_or_default(), port)
    }

    /// Checks who asks; gives the refusal.
    fn admit(&mut self, seen: &Seen, rest: &str, port: u16) -> Option<Answer> {
        let got = seen.headers.get("authorization").map(String::as_str);
        let challenge = match &self.access {
            Access::Open => {
                if got.is_some() {
                    return Some(
                        self.violation(format!("{} brings credentials unasked", seen.target)),
                    );
                }
                return None;
            }
            Access::Basic(name, password) => {
                if got == Some(&basic(name, password)) {
                    return None;
                }
                "Basic realm=\"fake\"".to_owned()
            }
            Access::Bearer(_) | Access::Refresh(_) => {
                let repository = rest.split("/blobs/").next().unwrap_or_default();
                let repository = repository.split("/manifests/").next().unwrap_or_default();
                let repository = repository.split("/referrers/").next().unwrap_or_default();
                let push = !matches!(seen.method.as_str(), "GET" | "HEAD");
                let wanted =
                    format!("repository:{repository}:{}", if push { "pull,push" } else { "pull" });
                if let Some(token) = got.and_then(|got| got.strip_prefix("Bearer "))
                    && self.tokens.contains(token)
                    && (rest.is_empty() || token.contains(&wanted))
                {
                    return None;
                }
                format!(
                    "Bearer realm=\"http://127.0.0.1:{port}/token\",service=\"fake\",scope=\"{wanted}\""
                )
            }
        };
        let mut answer = error(401, "UNAUTHORIZED", "authentication required");
        answer.headers.push(("WWW-Authenticate".to_owned(), challenge));
        Some(answer)
    }

    fn token(&mut self, seen: &Seen, body: &[u8], query: &BTreeMap<String, String>) -> Answer {
        let got = seen.headers.get("authorization").cloned();
        let form = String::from_utf8_lossy(body).into_owned();
        let admitted = match &self.access {
            Access::Bearer(Some((name, password))) => got == Some(basic(name, password)),
            Access::Bearer(None) => got.is_none() && seen.method == "GET",
            Access::Refresh(token) => {
                seen.method == "POST"
                    && form.contains("grant_type=refresh_token")
                    && form.contains(&format!("refresh_token={token}"))
            }
            _ => false,
        };
        if !admitted {
            return error(401, "UNAUTHORIZED", "wrong name or password");
        }
        let scopes = if seen.method == "POST" {
            let scope = form.split('&').find_map(|pair| pair.strip_prefix("scope="));
            unescape(scope.unwrap_or_default())
        } else {
            // Several parameters of one name: all of them.
            let pairs = seen.target.split_once('?').map_or("", |(_, query)| query).split('&');
            let scopes: Vec<String> =
                pairs.filter_map(|pair| pair.strip_prefix("scope=")).map(unescape).collect();
            if query.get("service").map(String::as_str) != Some("fake") {
                return self.violation("a token is asked for without its service".to_owned());
            }
            scopes.join(" ")
        };
        let token = format!("t{}-{}", self.fresh(), scopes.replace(' ', "+"));
        // A token for pull,push is also one for pull.
        let token = token.clone() + "+" + &scopes.replace(":pull,push", ":pull").replace(' ', "+");
        self.tokens.insert(token.clone());
        let body = serde_json::json!({ "token": token, "expires_in": 300 });
        plain(200, body.to_string().into_bytes())
    }

    fn get_blob(&mut self, seen: &Seen, repository: &str, digest: &str) -> Answer {
        let key = (repository.to_owned(), digest.to_owned());
        let Some(blob) = self.blobs.get(&key) else {
            return error(404, "BLOB_UNKNOWN", "blob unknown to registry");
        };
        let mut headers = vec![("Docker-Content-Digest".to_owned(), digest.to_owned())];
        let start = seen.headers.get("range").and_then(|range| {
            range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok()
        });
        match start {
            None => Answer { status: 200, headers, body: blob.clone() },
            Some(start) if start >= blob.len() => error(416, "RANGE_INVALID", "out of range"),
            Some(start) => {
                let range = format!("bytes {start}-{}/{}", blob.len() - 1, blob.len());
                headers.push(("Content-Range".to_owned(), range));
                Answer { status: 206, headers, body: blob[start..].to_vec() }
            }
        }
    }

    fn get_manifest(&mut self, seen: &Seen, repository: &str, name: &str) -> Answer {
        let tag = self.tags.get(&(repository.to_owned(), name.to_owned())).cloned();
        let digest = tag.unwrap_or_else(|| name.to_owned());
        let key = (repository.to_owned(), digest.clone());
        let Some((media_type, bytes)) = self.manifests.get(&key) else {
            return error(404, "MANIFEST_UNKNOWN", "manifest unknown");
        };
        let accepted = seen.headers.get("accept").is_some_and(|accept| accept.contains(media_type));
        let answer = Answer {
            status: 200,
            headers: vec![
                ("Content-Type".to_owned(), media_type.clone()),
                ("Docker-Content-Digest".to_owned(), digest),
            ],
            body: bytes.clone(),
        };
        if !accepted && media_type.starts_with("application/vnd") {
            return self.violation(format!("{} does not accept what it gets", seen.target));
        }
        answer
    }

    fn put_checked(&mut self, seen: &Seen, repository: &str, name: &str, body: &[u8]) -> Answer {
        let digest = digest(body);
        if name.contains(':') && name != digest {
            return self.violation(format!("{name} is not the digest of what was sent"));
        }
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(body) else {
            return self.violation("a manifest is no JSON".to_owned());
        };
        let media_type = seen.headers.get("content-type").cloned().unwrap_or_default();
        if value["mediaType"].as_str().is_some_and(|own| own != media_type) {
            return self.violation("Content-Type and mediaType differ".to_owned());
        }
        let list = |key: &str| value[key].as_array().cloned().unwrap_or_default();
        for blob in list("layers").iter().chain(value.get("config")) {
            let named = blob["digest"].as_str().unwrap_or_default().to_owned();
            if !self.blobs.contains_key(&(repository.to_owned(), named.clone())) {
                return self.violation(format!("{named} was not sent before its manifest"));
            }
        }
        for child in list("manifests") {
            let named = child["digest"].as_str().unwrap_or_default().to_owned();
            if !self.manifests.contains_key(&(repository.to_owned(), named.clone())) {
                return self.violation(format!("{named} was not sent before its index"));
            }
        }
        let key = (repository.to_owned(), digest.clone());
        self.manifests.insert(key, (media_type, body.to_vec()));
        if !name.contains(':') {
            self.tags.insert((repository.to_owned(), name.to_owned()), digest.clone());
        }
        let mut answer = plain(201, Vec::new());
        if let Some(subject) = value["subject"]["digest"].as_str().filter(|_| self.lists_referrers)
        {
            answer.headers.push(("OCI-Subject".to_owned(), subject.to_owned()));
        }
        answer.headers.push(("Docker-Content-Digest".to_owned(), digest));
        answer
    }

    /// Lists what refers to a manifest, two a page.
    fn get_referrers(
        &mut self,
        repository: &str,
        subject: &str,
        query: &BTreeMap<String, String>,
    ) -> Answer {
        if !self.lists_referrers {
            return error(404, "NAME_UNKNOWN", "no such page");
        }
        let from: usize = query.get("from").and_then(|from| from.parse().ok()).unwrap_or(0);
        let mut found = Vec::new();
        for ((place, digest), (media_type, bytes)) in &self.manifests {
            let value: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
            if place == repository && value["subject"]["digest"] == subject {
                let kind = value.get("artifactType").or(value["config"].get("mediaType"));
                found.push(serde_json::json!({
                    "mediaType": media_type, "digest": digest, "size": bytes.len(),
                    "artifactType": kind,
                }));
            }
        }
        let page: Vec<_> = found.iter().skip(from).take(2).cloned().collect();
        let index = "application/vnd.oci.image.index.v1+json";
        let body = serde_json::json!({ "schemaVersion": 2, "mediaType": index, "manifests": page });
        let mut answer = plain(200, body.to_string().into_bytes());
        answer.headers.push(("Content-Type".to_owned(), index.to_owned()));
        if from + 2 < found.len() {
            let next =
                format!("</v2/{repository}/referrers/{subject}?from={}>; rel=\"next\"", from + 2);
            answer.headers.push(("Link".to_owned(), next));
        }
        answer
    }
}

fn plain(status: u16, body: Vec<u8>) -> Answer {
    Answer { status, headers: Vec::new(), body }
}

fn error(status: u16, code: &str, message: &str) -> Answer {
    let body = serde_json::json!({ "errors": [{ "code": code, "message": message }] });
    plain(status, body.to_string().into_bytes())
}

fn basic(name: &str, password: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::from("Basic ");
    for chunk in format!("{name}:{password}").as_bytes().chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for at in 0..4 {
            if at <= chunk.len() {
                out.push(DIGITS[(word >> (18 - 6 * at)) as usize & 63] as char);
            } else {
                out.push('=');
            }
        }
    }
    out
}

fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
