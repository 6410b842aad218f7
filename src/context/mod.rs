//! The build context: a directory whose files go into images.
//!
//! A [`Context`] is listed once, as a [`Toc`]: owners are 0:0; modes, times and kinds are as on disk;
//! sockets are empty files; names of one file are separate files ([`Context::link_groups`] tells which
//! are one). Contents are read when somebody asks for their digests, on several threads, and never
//! twice: a stat cache remembers digests from build to build.
//!
//! Invariants:
//! - Nothing is ever opened through a symbolic link, so nothing outside the directory is read,
//!   whoever swaps what while a build runs. Resolving links inside the context is done on the Toc.
//! - A file that changed since it was listed is an error that names it, not a digest of something
//!   else: [`Context::open_file`] and [`Context::reader`] check before and after.
//! - Opening never blocks: FIFOs and devices are listed and never read.
//! - The order of everything is that of paths, for any number of threads.
//! - A context that looks as it did in an earlier build gives the answers of that build
//!   ([`Context::answer`]) without a table of contents.
//!
//! Which paths are in the context is in [`ignore`]; where a Dockerfile and its ignore file are, in
//! [`locate`]. Tar, git and http contexts become directories before they come here.
//!
//! Start reading at [`Context::open`], then `listing.rs`, then `walk.rs`.

mod answers;
mod digest;
mod glob;
pub mod ignore;
mod listing;
pub mod locate;
mod print;
mod stat;
mod walk;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::layer::{Entry, Kind, RootPath, Toc};
use crate::oci::Digest;
use crate::sys;

pub use digest::Reader;
pub use ignore::{IgnoreRules, PatternError};

use answers::Answers;
use listing::{Listing, row_of};
use walk::Forest;

/// What can go wrong with a context.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory cannot be opened.
    #[error("cannot open the build context {}", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: sys::Error,
    },
    /// Something in the context cannot be read.
    #[error(
        "cannot read {path} of the build context; if images do not need it, list it in .dockerignore"
    )]
    Read {
        /// Where in the context.
        path: RootPath,
        /// Why.
        #[source]
        source: sys::Error,
    },
    /// A file's content cannot be read.
    #[error("cannot read the content of {path} of the build context")]
    Content {
        /// Where in the context.
        path: RootPath,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not what it was when the context was listed.
    #[error(
        "{path} of the build context changed while it was read; build again, or list it in .dockerignore"
    )]
    Changed {
        /// Where in the context.
        path: RootPath,
    },
    /// The context has no such path, or leaves it out.
    #[error("{path} is not in the build context")]
    NotListed {
        /// Where it would be.
        path: RootPath,
    },
    /// Something else than a regular file was to be read.
    #[error("{path} of the build context is not a regular file")]
    NotAFile {
        /// Where in the context.
        path: RootPath,
    },
    /// A file beside the context cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no Dockerfile.
    #[error("there is no Dockerfile {}; name one with -f", path.display())]
    NoDockerfile {
        /// Where it was expected.
        path: PathBuf,
    },
    /// An ignore file has a pattern that is none.
    #[error("line {} of {}: {source}", source.line, path.display())]
    Ignore {
        /// The ignore file.
        path: PathBuf,
        /// What is wrong.
        source: PatternError,
    },
    /// The stat cache could not be written.
    #[error("cannot write the stat cache {}", path.display())]
    StatCache {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Short for results of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// How to read a context.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The file that remembers digests from build to build. None: remember nothing.
    pub stat_cache: Option<PathBuf>,
    /// Where the stat cache may be written before it is renamed; on its file system. None: beside it.
    pub scratch: Option<PathBuf>,
    /// Threads for listing and reading; 0 is taken as 1.
    pub threads: usize,
}

/// A directory whose files go into images. May be used from several threads.
pub struct Context {
    dir: PathBuf,
    root: OwnedFd,
    rules: IgnoreRules,
    options: Options,
    state: Mutex<State>,
    /// Held while contents are read, so that no file is read twice.
    reading: Mutex<()>,
}

/// How far a context has been looked at.
#[derive(Default)]
struct State {
    /// What the walk found, until the listing is made of it.
    forest: Option<Forest>,
    listing: Option<Arc<Listing>>,
    /// The print of what the walk found, and what is known of it.
    answers: Option<(Digest, Answers)>,
    /// Whether answers must not outlive this build: something changed right before it was listed.
    racy: bool,
}

impl Context {
    /// Opens a directory. Symbolic links in `dir` itself are followed.
    pub fn open(dir: &Path, rules: IgnoreRules, options: Options) -> Result<Context> {
        let root =
            sys::dir::open(dir).map_err(|source| Error::Open { path: dir.to_owned(), source })?;
        let (state, reading) = (Mutex::default(), Mutex::new(()));
        Ok(Context { dir: dir.to_owned(), root, rules, options, state, reading })
    }

    /// Gives the directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Gives the ignore rules.
    pub fn rules(&self) -> &IgnoreRules {
        &self.rules
    }

    /// Gives what is in the context. Listed on first use; files have no digests in it.
    pub fn listing(&self) -> Result<Arc<Toc>> {
        Ok(Arc::clone(&self.listed()?.toc))
    }

    /// Gives the digests of files, reading those that are not known yet.
    pub fn digest(&self, paths: &[RootPath]) -> Result<Vec<Digest>> {
        let listing = self.listed()?;
        let rows =
            paths.iter().map(|path| row_of(&listing.toc, path)).collect::<Result<Vec<usize>>>()?;
        self.digest_rows(rows.iter().copied())?;
        let digest = |(&row, path): (&usize, &RootPath)| {
            listing.digest(row).ok_or_else(|| Error::NotAFile { path: path.clone() })
        };
        rows.iter().zip(paths).map(digest).collect()
    }

    /// Makes the digests of some rows of the listing known, reading what must be read on several
    /// threads. Rows that are not files are passed over.
    pub fn digest_rows(&self, rows: impl IntoIterator<Item = usize>) -> Result<()> {
        let listing = self.listed()?;
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        digest::read(self.root.as_fd(), &listing, rows, self.options.threads.max(1))
    }

    /// Gives the digest of a row's content, if it is known already.
    pub fn digest_at(&self, row: usize) -> Result<Option<Digest>> {
        Ok(self.listed()?.digest(row))
    }

    /// Copies a row of the listing, with its digest if that is known already.
    pub fn entry(&self, row: usize) -> Result<Entry> {
        let listing = self.listed()?;
        let mut entry = listing.toc.at(row).to_entry();
        if let Kind::File { digest, .. } = &mut entry.kind {
            *digest = listing.digest(row);
        }
        Ok(entry)
    }

    /// Gives the rows that are names of one file, group by group.
    pub fn link_groups(&self) -> Result<Vec<Vec<usize>>> {
        Ok(self.listed()?.links.clone())
    }

    /// Opens a file that is still as it was listed.
    pub fn open_file(&self, path: &RootPath) -> Result<File> {
        let listing = self.listed()?;
        let row = row_of(&listing.toc, path)?;
        digest::open(self.root.as_fd(), &listing, row)
    }

    /// Opens a file for reading it whole: a change before the end is an error that names it. Sockets
    /// read as the empty files they are listed as.
    pub fn reader(&self, path: &RootPath) -> Result<Reader> {
        let listing = self.listed()?;
        let row = row_of(&listing.toc, path)?;
        digest::reader(self.root.as_fd(), &listing, row)
    }

    /// Gives the answer to a question that [`Context::remember`] was told, now or in an earlier build in
    /// which the context looked the same.
    pub fn answer(&self, question: &Digest) -> Result<Option<Digest>> {
        let Some(file) = self.answers_file() else { return Ok(None) };
        let mut state = self.lock();
        if state.answers.is_none() {
            let print = match &state.forest {
                Some(forest) => forest.print(),
                // The listing is there already, without need for answers.
                None if state.listing.is_some() => return Ok(None),
                None => state.forest.insert(self.walk()?).print(),
            };
            state.racy = state.forest.as_ref().is_some_and(|forest| forest.racy);
            state.answers = Some((print, Answers::load(&file, &print)));
        }
        Ok(state.answers.as_ref().and_then(|(_, answers)| answers.get(question)))
    }

    /// Keeps what was made of the listing and of contents of files. `question` must stand for all else
    /// that the answer depends on.
    pub fn remember(&self, question: Digest, answer: Digest) {
        if let Some((_, answers)) = &mut self.lock().answers {
            answers.insert(question, answer);
        }
    }

    /// Gives the file of answers: it lies beside the stat cache.
    fn answers_file(&self) -> Option<PathBuf> {
        let mut name = self.options.stat_cache.as_ref()?.clone().into_os_string();
        name.push("-answers");
        Some(name.into())
    }

    /// Writes the stat cache and the answers if they changed. A build that skips this loses nothing but
    /// time.
    pub fn save_stat_cache(&self) -> Result<()> {
        let (Some(path), Some(answers_file)) = (&self.options.stat_cache, self.answers_file())
        else {
            return Ok(());
        };
        let beside = path.parent().unwrap_or(Path::new("."));
        let scratch = self.options.scratch.as_deref().unwrap_or(beside);
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::StatCache { path, source }
        };
        let mut state = self.lock();
        match &state.listing {
            Some(listing) => listing.save(path, scratch).map_err(fail(path))?,
            // All was answered: it is of use, unseen.
            None if state.forest.is_some() => listing::refresh(path).map_err(fail(path))?,
            None => return Ok(()),
        }
        if state.racy {
            return Ok(());
        }
        if let Some((print, answers)) = &mut state.answers
            && !answers.save(&answers_file, scratch, print).map_err(fail(&answers_file))?
        {
            listing::refresh(&answers_file).map_err(fail(&answers_file))?;
        }
        Ok(())
    }

    fn listed(&self) -> Result<Arc<Listing>> {
        let mut state = self.lock();
        if let Some(listing) = &state.listing {
            return Ok(Arc::clone(listing));
        }
        let forest = match state.forest.take() {
            Some(forest) => forest,
            None => self.walk()?,
        };
        let made = Arc::new(Listing::make(
            self.root.as_fd(),
            forest,
            self.options.stat_cache.as_deref(),
            self.options.threads.max(1),
        )?);
        state.listing = Some(Arc::clone(&made));
        Ok(made)
    }

    fn walk(&self) -> Result<Forest> {
        listing::walk(self.root.as_fd(), &self.rules, self.options.threads.max(1))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
