//! Files over http: kept in the store, and asked for again only when the server says they changed.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha384, Sha512};

use crate::graph::remote::{Algorithm, Checksum, UrlSource, file_name, redact};
use crate::layer::archive;
use crate::oci::Digest;
use crate::oci::digest::Hasher;
use crate::registry::download::{Download, Fetched, FileInfo, Target};
use crate::store::RemoteRecord;

use super::{Error, Progress, Remotes, Result};

/// How often a waiting build looks whether it is cancelled.
const LOOK: Duration = Duration::from_millis(50);

/// A downloaded file.
#[derive(Clone)]
pub(super) struct File {
    /// The directory that holds it and nothing else.
    pub dir: PathBuf,
    /// Its digest.
    pub content: Digest,
    /// Seconds since 1970.
    pub modified: i64,
    name: String,
    shown: String,
}

impl File {
    /// Opens it.
    pub fn open(&self) -> Result<std::fs::File> {
        let path = self.dir.join(&self.name);
        std::fs::File::open(&path)
            .map_err(|source| Error::Io { doing: format!("opening {}", path.display()), source })
    }

    /// Says whether it is a tar, compressed or not.
    pub fn is_archive(&self) -> Result<bool> {
        archive::is_archive(self.open()?).map_err(|source| Error::Io {
            doing: format!("reading what was downloaded from {}", self.shown),
            source,
        })
    }

    /// Checks that the store's copy is still what it was when it came.
    pub fn verify(&self) -> Result<()> {
        let found = digests(self.open()?, None)
            .map_err(|source| Error::Io { doing: format!("reading {}", self.shown), source })?;
        if found.0 == self.content {
            return Ok(());
        }
        // Without its record it is not there for the next build.
        if let Some(dir) = self.dir.parent() {
            let _ = std::fs::remove_file(dir.join("about.json"));
        }
        Err(Error::Damaged { what: self.shown.clone() })
    }
}

/// Gets a file, from the store if it may.
pub(super) fn file(remotes: &Remotes, source: &UrlSource, progress: Progress<'_>) -> Result<File> {
    let shown = redact(source.url.split('#').next().unwrap_or_default());
    let key = key(source);
    let kept = remotes.store.remotes();
    let _lock = kept.lock(&key, &|| remotes.is_cancelled()).map_err(|error| {
        if remotes.is_cancelled() { Error::Cancelled } else { Error::Store(error) }
    })?;
    let known = kept.get(&key).filter(|(about, dir)| {
        let file = std::fs::metadata(dir.join("root").join(&about.name));
        about.content.is_some() && file.is_ok_and(|meta| meta.len() == about.size)
    });
    let matching = match (&known, &source.checksum) {
        (Some((about, dir)), Some(checksum)) => {
            let path = dir.join("root").join(&about.name);
            digest_of(about, checksum, &path, &shown)? == checksum.hex
        }
        _ => false,
    };
    if let (Some((about, dir)), true) = (&known, matching) {
        return made(about, dir, shown);
    }
    if remotes.options.offline {
        return Err(Error::Offline {
            what: shown,
            hint: "fetch it while online with --checksum=sha256:…, which needs no server to be asked \
                   again, or put the file into the context",
        });
    }
    // What does not have the right digest is no reason to spare the server.
    let fresh = known.as_ref().filter(|_| source.checksum.is_none());
    let request = Download {
        url: source.url.clone(),
        authorization: authorization(remotes, &source.url)?,
        etag: fresh.and_then(|(about, _)| about.etag.clone()),
        last_modified: fresh.and_then(|(about, _)| about.last_modified.clone()),
    };
    let staged = kept.staging()?;
    let root = staged.path().join("root");
    let partial = root.join("partial");
    let io = |source| Error::Io { doing: format!("keeping {shown}"), source };
    std::fs::create_dir(&root).map_err(io)?;
    let algorithm = source.checksum.as_ref().map(|checksum| checksum.algorithm);
    let received = receive(remotes, request, &partial, algorithm, &shown, progress)?;
    let (info, content, other) = match (received, known) {
        (Received::NotModified, Some((about, dir))) => return made(&about, &dir, shown),
        (Received::NotModified, None) => return Err(Error::Damaged { what: shown }),
        (Received::File { info, content, other }, _) => (info, content, other),
    };
    if let Some(checksum) = &source.checksum {
        let found = match (checksum.algorithm, &other) {
            (Algorithm::Sha256, _) | (_, None) => content.hex(),
            (_, Some(hex)) => hex.clone(),
        };
        if found != checksum.hex {
            let found = format!("{}:{found}", checksum.algorithm.as_str());
            return Err(Error::Checksum { what: shown, expected: checksum.to_string(), found });
        }
    }
    let name = source.name.clone().or(info.name.clone()).unwrap_or_else(|| file_name(&source.url));
    let modified = info.modified.unwrap_or(0);
    let time = UNIX_EPOCH + Duration::from_secs(u64::try_from(modified).unwrap_or(0));
    std::fs::File::options()
        .append(true)
        .open(&partial)
        .and_then(|file| file.set_modified(time))
        .map_err(io)?;
    std::fs::rename(&partial, root.join(&name)).map_err(io)?;
    let mut about = RemoteRecord {
        source: shown.clone(),
        content: Some(content),
        digests: BTreeMap::new(),
        name,
        size: info.size,
        modified,
        etag: info.etag,
        last_modified: info.last_modified,
    };
    if let (Some(algorithm), Some(hex)) = (algorithm, other) {
        about.digests.insert(algorithm.as_str().to_owned(), hex);
    }
    let dir = kept.put(&key, staged, &about)?;
    made(&about, &dir, shown)
}

fn made(about: &RemoteRecord, dir: &std::path::Path, shown: String) -> Result<File> {
    Ok(File {
        dir: dir.join("root"),
        content: about.content.ok_or_else(|| Error::Damaged { what: shown.clone() })?,
        modified: about.modified,
        name: about.name.clone(),
        shown,
    })
}

/// A URL's place in the store. Its fragment is never sent. User and password are part of it, since
/// they may lead to other files.
fn key(source: &UrlSource) -> Digest {
    let url = source.url.split('#').next().unwrap_or_default();
    let name = source.name.as_deref().unwrap_or("/");
    Digest::of(format!("url\n{url}\n{name}").as_bytes())
}

/// The header that a secret gives for this host (BuildKit: `HTTP_AUTH_HEADER_host` and
/// `HTTP_AUTH_TOKEN_host`).
fn authorization(remotes: &Remotes, url: &str) -> Result<Option<String>> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit('@').next().unwrap_or_default();
    // A comma or equals sign can't be in an id of --secret; a colon can.
    let host = authority.split(':').next().unwrap_or_default();
    for name in [authority, host] {
        if let Some(header) = remotes.secret(&format!("HTTP_AUTH_HEADER_{name}"))? {
            return Ok(Some(header));
        }
        if let Some(token) = remotes.secret(&format!("HTTP_AUTH_TOKEN_{name}"))? {
            return Ok(Some(format!("Bearer {token}")));
        }
    }
    Ok(None)
}

/// Gives a kept file's digest of the algorithm that a checksum has.
fn digest_of(
    about: &RemoteRecord,
    checksum: &Checksum,
    path: &std::path::Path,
    shown: &str,
) -> Result<String> {
    if let (Algorithm::Sha256, Some(content)) = (checksum.algorithm, about.content) {
        return Ok(content.hex());
    }
    if let Some(hex) = about.digests.get(checksum.algorithm.as_str()) {
        return Ok(hex.clone());
    }
    let found = std::fs::File::open(path)
        .and_then(|file| digests(file, Some(checksum.algorithm)))
        .map_err(|source| Error::Io { doing: format!("reading {shown}"), source })?;
    Ok(found.1.unwrap_or_default())
}

fn digests(
    mut file: impl Read,
    algorithm: Option<Algorithm>,
) -> io::Result<(Digest, Option<String>)> {
    let mut hashers = Hashers::new(algorithm);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hashers.finish()),
            count => hashers.update(&buffer[..count]),
        }
    }
}

/// SHA-256, by which everything is named, and another algorithm that a checksum asks for.
struct Hashers {
    sha256: Hasher,
    sha384: Option<Sha384>,
    sha512: Option<Sha512>,
}

impl Hashers {
    fn new(algorithm: Option<Algorithm>) -> Hashers {
        Hashers {
            sha256: Hasher::new(),
            sha384: (algorithm == Some(Algorithm::Sha384)).then(Sha384::new),
            sha512: (algorithm == Some(Algorithm::Sha512)).then(Sha512::new),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(hasher) = &mut self.sha384 {
            hasher.update(bytes);
        }
        if let Some(hasher) = &mut self.sha512 {
            hasher.update(bytes);
        }
    }

    fn finish(self) -> (Digest, Option<String>) {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let sha384 = self.sha384.map(|hasher| hex(&hasher.finalize()));
        let sha512 = self.sha512.map(|hasher| hex(&hasher.finalize()));
        (self.sha256.finish(), sha384.or(sha512))
    }
}

enum Received {
    NotModified,
    File { info: FileInfo, content: Digest, other: Option<String> },
}

enum Message {
    Progress(u64, Option<u64>),
    Ended(Result<Received, crate::registry::Error>),
}

/// Downloads on a thread of its own, so that a cancelled build need not wait for a server.
fn receive(
    remotes: &Remotes,
    request: Download,
    path: &std::path::Path,
    algorithm: Option<Algorithm>,
    shown: &str,
    progress: Progress<'_>,
) -> Result<Received> {
    remotes.check_cancelled()?;
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| Error::Io { doing: format!("keeping {shown}"), source })?;
    let (send, messages) = mpsc::channel();
    let stop = Arc::new(AtomicBool::new(false));
    let client = Arc::clone(&remotes.client);
    let mut target = FileTarget {
        file,
        hashers: Hashers::new(algorithm),
        algorithm,
        stop: Arc::clone(&stop),
        send: send.clone(),
        told: None,
    };
    let thread = std::thread::spawn(move || {
        let result = client.download(&request, &mut target).map(|fetched| match fetched {
            Fetched::NotModified => Received::NotModified,
            Fetched::File(info) => {
                let (content, other) = target.hashers.finish();
                Received::File { info, content, other }
            }
        });
        // Nobody listens when the build was cancelled.
        let _ = send.send(Message::Ended(result));
    });
    loop {
        match messages.recv_timeout(LOOK) {
            Ok(Message::Progress(done, total)) => progress(shown, done, total),
            Ok(Message::Ended(result)) => {
                // It has nothing more to do, and the sandbox wants a process without threads.
                let _ = thread.join();
                return result.map_err(|source| Error::Download { what: shown.to_owned(), source });
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err(Error::Io {
                    doing: format!("downloading {shown}"),
                    source: io::Error::other("the thread died; please report this"),
                });
            }
        }
        if remotes.is_cancelled() {
            stop.store(true, Ordering::SeqCst);
            return Err(Error::Cancelled);
        }
    }
}

struct FileTarget {
    file: std::fs::File,
    hashers: Hashers,
    algorithm: Option<Algorithm>,
    stop: Arc<AtomicBool>,
    send: mpsc::Sender<Message>,
    told: Option<SystemTime>,
}

impl Target for FileTarget {
    fn restart(&mut self) -> io::Result<()> {
        self.hashers = Hashers::new(self.algorithm);
        self.file.set_len(0)?;
        self.file.rewind()
    }

    fn receive(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.stop.load(Ordering::SeqCst) {
            return Err(io::Error::other("interrupted"));
        }
        self.hashers.update(bytes);
        self.file.write_all(bytes)
    }

    fn progress(&mut self, done: u64, total: Option<u64>) {
        // Ten times a second is enough for any display.
        let now = SystemTime::now();
        let recently = self.told.is_some_and(|told| {
            now.duration_since(told).is_ok_and(|passed| passed < Duration::from_millis(100))
        });
        if !recently || total == Some(done) {
            self.told = Some(now);
            let _ = self.send.send(Message::Progress(done, total));
        }
    }
}
