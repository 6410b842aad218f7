//! What can go wrong with a source on another machine.

use std::io;

use crate::layer::RootPath;
use crate::{context, registry, snapshot, store};

/// What kind of failure it is; picks the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What the user wrote, or what the source holds, is wrong.
    Usage,
    /// This host lacks a program.
    Host,
    /// The network, or the other machine.
    Network,
    /// The store or the disk.
    Store,
    /// The user stopped the build.
    Interrupted,
}

/// What can go wrong with a source on another machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The network is needed and forbidden.
    #[error("{what} is not here, and --offline forbids to fetch it")]
    Offline {
        /// The source.
        what: String,
        /// What would make it work.
        hint: &'static str,
    },
    /// A download failed.
    #[error("cannot download {what}")]
    Download {
        /// The URL.
        what: String,
        /// Why.
        #[source]
        source: registry::Error,
    },
    /// What came is not what was asked for.
    #[error("digest mismatch for {what}: {found} (expected: {expected})")]
    Checksum {
        /// The URL.
        what: String,
        /// As written.
        expected: String,
        /// As it is.
        found: String,
    },
    /// A kept download is not what it was.
    #[error("the store's copy of {what} is damaged")]
    Damaged {
        /// The URL.
        what: String,
    },
    /// A program is missing.
    #[error("{what} needs the program `{program}`, which is not in PATH")]
    NoProgram {
        /// The source.
        what: String,
        /// git or ssh.
        program: &'static str,
        /// What to install.
        package: &'static str,
    },
    /// git failed, or what it gave is wrong.
    #[error("{what}: {message}")]
    Git {
        /// The repository.
        what: String,
        /// Why.
        message: String,
        /// What to do.
        hint: Option<String>,
        /// Whose fault it is.
        kind: Kind,
    },
    /// A secret that is no header.
    #[error("the secret {id} can't be used as a header: it is empty or no text")]
    Secret {
        /// Its id.
        id: String,
    },
    /// An archive that can't be read.
    #[error("cannot unpack {what}")]
    Archive {
        /// The archive.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An entry of an archive that can't be made.
    #[error("cannot unpack {what}: {path} is a device, which a context can't hold")]
    Device {
        /// The archive.
        what: String,
        /// The entry.
        path: RootPath,
    },
    /// A directory of an archive that is not there, or no directory.
    #[error("{dir:?} is no directory of {what}")]
    NoDirectory {
        /// The archive.
        what: String,
        /// The directory.
        dir: String,
    },
    /// What an archive holds can't be written.
    #[error("cannot unpack {what}")]
    Write {
        /// The archive.
        what: String,
        /// Why.
        #[source]
        source: snapshot::Error,
    },
    /// The files can't be read.
    #[error(transparent)]
    Context(context::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A file operation failed.
    #[error("{doing}")]
    Io {
        /// What was attempted.
        doing: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The user stopped the build.
    #[error("interrupted")]
    Cancelled,
}

impl Error {
    /// Says what kind of failure it is.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Checksum { .. }
            | Error::Secret { .. }
            | Error::Archive { .. }
            | Error::Device { .. }
            | Error::NoDirectory { .. }
            | Error::Context(_) => Kind::Usage,
            Error::Download { source, .. } => match source {
                registry::Error::Keep { .. } => Kind::Store,
                _ => Kind::Network,
            },
            Error::Offline { .. } => Kind::Network,
            Error::NoProgram { .. } => Kind::Host,
            Error::Git { kind, .. } => *kind,
            Error::Damaged { .. } | Error::Write { .. } | Error::Store(_) | Error::Io { .. } => {
                Kind::Store
            }
            Error::Cancelled => Kind::Interrupted,
        }
    }

    /// Gives what the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Offline { hint, .. } => Some((*hint).to_owned()),
            Error::Checksum { .. } => {
                Some("check the file and where it comes from, then correct --checksum".to_owned())
            }
            Error::NoProgram { program, package, .. } => Some(format!(
                "install {program} (Debian: apt-get install {package}; Alpine: apk add {package})"
            )),
            Error::Git { hint, .. } => hint.clone(),
            Error::NoDirectory { .. } => Some(
                "symbolic links are not followed here; name the directory itself".to_owned(),
            ),
            Error::Damaged { .. } => Some("build again: it is fetched anew".to_owned()),
            Error::Download { source: registry::Error::Status { status, .. }, .. } => match status {
                401 | 403 => Some(
                    "give a token: --secret id=HTTP_AUTH_TOKEN_<host>,env=TOKEN, or a whole header \
                     with HTTP_AUTH_HEADER_<host>"
                        .to_owned(),
                ),
                404 | 410 => Some("check the URL".to_owned()),
                _ => None,
            },
            _ => None,
        }
    }
}
