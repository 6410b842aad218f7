//! Sources on other machines, and archives, as directories: what ADD and contexts name by URL.
//!
//! # Model
//!
//! [`Remotes::identity`] finds out what a source is now, which is what step keys are made of: for a
//! file its content, which is fetched unless the server says that what the store has is still
//! right; for a repository the id of the commit, for which nothing is fetched. [`Remotes::context`]
//! gives the files as a [`Context`], and fetches what is missing. Each source is looked at once a
//! build, whoever asks how often.
//!
//! Downloads and mirrors of repositories stay in the store ([`crate::store::remote`]). Checkouts and
//! unpacked archives lie in the process's temporary directory and go with it.
//!
//! # Invariants
//!
//! - With `offline` no socket is opened and no `git` is started that could open one.
//! - No name of an archive, of a repository or of a server leads out of the directory it belongs to.
//! - Credentials are in no command line, record, error or message.
//! - Every wait ends soon after the build is cancelled.
//!
//! Start reading at [`Remotes`].

mod agent;
mod archive;
mod download;
mod error;
mod git;
mod repository;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::context::{self, Context, IgnoreRules};
use crate::graph::Remote;
use crate::oci::Digest;
use crate::registry::Client;
use crate::store::{Store, TmpDir};

pub use agent::Agent;
pub use archive::unpack;
pub use error::{Error, Kind};

/// Short for results of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Says whether the build is to stop.
pub type Cancelled = Arc<dyn Fn() -> bool + Send + Sync>;

/// Hears of bytes: of what, how many, and of how many in all.
pub type Progress<'p> = &'p (dyn Fn(&str, u64, Option<u64>) + Sync);

/// How sources are fetched.
#[derive(Clone, Default)]
pub struct Options {
    /// Open no socket.
    pub offline: bool,
    /// Where `git` and `ssh` are looked for.
    pub path: Vec<PathBuf>,
    /// Variables that `git` gets: proxies.
    pub variables: Vec<(String, String)>,
    /// The caller's list of ssh host keys.
    pub known_hosts: Option<PathBuf>,
    /// More certificate authorities, as PEM.
    pub tls_ca: Vec<Vec<u8>>,
    /// `--secret`: GIT_AUTH_TOKEN, GIT_AUTH_HEADER, HTTP_AUTH_TOKEN_host, HTTP_AUTH_HEADER_host.
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// `--ssh`: the sockets of agents.
    pub ssh: BTreeMap<String, PathBuf>,
    /// Threads for reading contexts.
    pub threads: usize,
}

/// Where files come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A source of ADD: a downloaded file as it is, or a repository.
    Source(Remote),
    /// A context: a downloaded archive is unpacked.
    Context(Remote),
    /// A directory of a context; relative and clean.
    Directory(Remote, String),
    /// An archive on this machine, unpacked.
    Archive(PathBuf),
}

/// The sources of one build.
pub struct Remotes {
    store: Store,
    client: Arc<Client>,
    options: Options,
    cancelled: Cancelled,
    slots: Mutex<HashMap<Origin, Arc<Mutex<Slot>>>>,
}

/// What is known of one source.
#[derive(Default)]
struct Slot {
    found: Option<Found>,
    context: Option<Arc<Context>>,
    /// Holds the context's files.
    _files: Option<TmpDir>,
}

/// What a source is now.
#[derive(Clone)]
enum Found {
    File(download::File),
    Commit(repository::Commit),
}

impl Remotes {
    /// Starts with nothing fetched.
    pub fn new(
        store: Store,
        client: Arc<Client>,
        options: Options,
        cancelled: Cancelled,
    ) -> Remotes {
        Remotes { store, client, options, cancelled, slots: Mutex::default() }
    }

    /// Gives what a step key says of a source of ADD. With an `epoch`, times of modification up to
    /// then are part of it.
    pub fn identity(
        &self,
        remote: &Remote,
        epoch: Option<i64>,
        progress: Progress<'_>,
    ) -> Result<Digest> {
        use crate::graph::key;
        let slot = self.slot(&Origin::Source(remote.clone()));
        let mut slot = lock(&slot);
        let found = self.found(&mut slot, remote, progress)?;
        Ok(match (found, remote) {
            (Found::File(file), _) => {
                let content = key::url_content(file.content);
                match epoch {
                    Some(epoch) => {
                        Digest::of(format!("{content} of {}", file.modified.min(epoch)).as_bytes())
                    }
                    None => content,
                }
            }
            (Found::Commit(commit), Remote::Git(source)) => {
                key::git_content(source, commit.id(), &commit.place(source))
            }
            (Found::Commit(commit), Remote::Url(_)) => Digest::of(commit.id().as_bytes()),
        })
    }

    /// Gives algorithm and digest (in hex) of a source that this build has looked at: of a file, or
    /// of a commit.
    pub fn known(&self, remote: &Remote) -> Option<(&'static str, String)> {
        [Origin::Source(remote.clone()), Origin::Context(remote.clone())].iter().find_map(
            |origin| {
                let slot = self.slot(origin);
                let slot = lock(&slot);
                match slot.found.as_ref()? {
                    Found::File(file) => Some(("sha256", file.content.hex().to_string())),
                    Found::Commit(commit) => Some(("sha1", commit.id().to_owned())),
                }
            },
        )
    }

    /// Gives the files of a source, fetching what is not here.
    pub fn context(&self, origin: &Origin, progress: Progress<'_>) -> Result<Arc<Context>> {
        let slot = self.slot(origin);
        let mut slot = lock(&slot);
        if let Some(context) = &slot.context {
            return Ok(Arc::clone(context));
        }
        let (dir, files) = match origin {
            Origin::Archive(path) => {
                let file = std::fs::File::open(path).map_err(|source| Error::Io {
                    doing: format!("opening {}", path.display()),
                    source,
                })?;
                let dir = archive::unpack_to_tmp(
                    &self.store,
                    file,
                    &path.display().to_string(),
                    &self.cancelled,
                )?;
                (dir.path().to_owned(), Some(dir))
            }
            Origin::Directory(remote, dir) => {
                // Its own slot holds the files of the whole.
                let whole = self.context(&Origin::Context(remote.clone()), progress)?;
                (archive::directory(whole.dir(), dir, &remote.shown())?, None)
            }
            Origin::Source(remote) | Origin::Context(remote) => {
                let found = self.found(&mut slot, remote, progress)?;
                self.files(origin, remote, &found, progress)?
            }
        };
        let options = context::Options {
            stat_cache: None,
            scratch: None,
            threads: self.options.threads.max(1),
        };
        let context = Context::open(&dir, IgnoreRules::default(), options)
            .map(Arc::new)
            .map_err(Error::Context)?;
        slot.context = Some(Arc::clone(&context));
        slot._files = files;
        Ok(context)
    }

    /// Downloads a file, and reads it unless it is an archive.
    pub fn plain_file(
        &self,
        source: &crate::graph::remote::UrlSource,
        progress: Progress<'_>,
    ) -> Result<Option<Vec<u8>>> {
        let remote = Remote::Url(source.clone());
        let slot = self.slot(&Origin::Context(remote.clone()));
        let mut slot = lock(&slot);
        let Found::File(file) = self.found(&mut slot, &remote, progress)? else { return Ok(None) };
        if file.is_archive()? {
            return Ok(None);
        }
        file.verify()?;
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut file.open()?, &mut bytes).map_err(|source| Error::Io {
            doing: format!("reading what came from {}", remote.shown()),
            source,
        })?;
        Ok(Some(bytes))
    }

    fn files(
        &self,
        origin: &Origin,
        remote: &Remote,
        found: &Found,
        progress: Progress<'_>,
    ) -> Result<(PathBuf, Option<TmpDir>)> {
        match (found, remote) {
            (Found::File(file), _) => {
                file.verify()?;
                if matches!(origin, Origin::Context(_)) && file.is_archive()? {
                    let opened = file.open()?;
                    let shown = remote.shown();
                    let dir = archive::unpack_to_tmp(&self.store, opened, &shown, &self.cancelled)?;
                    return Ok((dir.path().to_owned(), Some(dir)));
                }
                Ok((file.dir.clone(), None))
            }
            (Found::Commit(commit), Remote::Git(source)) => {
                let (dir, files) = repository::checkout(self, source, commit, progress)?;
                Ok((dir, Some(files)))
            }
            (Found::Commit(_), Remote::Url(_)) => Err(Error::Git {
                what: remote.shown(),
                message: "this is no repository".into(),
                hint: None,
                kind: Kind::Usage,
            }),
        }
    }

    fn found(&self, slot: &mut Slot, remote: &Remote, progress: Progress<'_>) -> Result<Found> {
        if let Some(found) = &slot.found {
            return Ok(found.clone());
        }
        let found = match remote {
            Remote::Url(source) => Found::File(download::file(self, source, progress)?),
            Remote::Git(source) => Found::Commit(repository::resolve(self, source)?),
        };
        slot.found = Some(found.clone());
        Ok(found)
    }

    fn slot(&self, origin: &Origin) -> Arc<Mutex<Slot>> {
        Arc::clone(lock(&self.slots).entry(origin.clone()).or_default())
    }

    fn is_cancelled(&self) -> bool {
        (self.cancelled)()
    }

    fn check_cancelled(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Gives a secret as text for a header; what a header can't hold is an error.
    fn secret(&self, id: &str) -> Result<Option<String>> {
        let Some(bytes) = self.options.secrets.get(id) else { return Ok(None) };
        let text = std::str::from_utf8(bytes).map(str::trim).unwrap_or("\0");
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(Error::Secret { id: id.to_owned() });
        }
        Ok(Some(text.to_owned()))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
