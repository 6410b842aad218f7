//! What can go wrong with an image that is read or written.

use std::io;
use std::path::PathBuf;

use crate::oci::{Digest, DocumentError};
use crate::{registry, store};

/// Short for results of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with an image that is read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was attempted: a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A path that holds no layout.
    #[error("{} is not an OCI layout: {reason}", path.display())]
    NotALayout {
        /// The path.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// A directory that must not be written to.
    #[error("{} is neither empty nor an OCI layout; it is left as it is", path.display())]
    Occupied {
        /// The directory.
        path: PathBuf,
    },
    /// A file that is no archive of an image.
    #[error("{} is not an archive of an image: {reason}", path.display())]
    NotAnArchive {
        /// The path.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A name that is not there.
    #[error("{place} has no image {name:?}{}", list(there))]
    NoSuchImage {
        /// Where it was looked for.
        place: String,
        /// What was looked for.
        name: String,
        /// What there is.
        there: Vec<String>,
    },
    /// No name was given and there are several.
    #[error("{place} has several images; say which{}", list(there))]
    Ambiguous {
        /// Where.
        place: String,
        /// What there is.
        there: Vec<String>,
    },
    /// Nothing there.
    #[error("{place} has no images")]
    Empty {
        /// Where.
        place: String,
    },
    /// Not in the store.
    #[error("{name} is not in the store")]
    NotInStore {
        /// The short name.
        name: String,
    },
    /// A manifest that cannot be used.
    #[error("{place}: {what}")]
    Document {
        /// Where it is.
        place: String,
        /// Which one.
        what: String,
        /// Why.
        #[source]
        source: DocumentError,
    },
    /// A config or another JSON document that cannot be used.
    #[error("{place}: {what} cannot be read")]
    Json {
        /// Where it is.
        place: String,
        /// Which one.
        what: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A blob that is named and not there.
    #[error("{place} lacks {what} {digest}")]
    Missing {
        /// Where.
        place: String,
        /// What it is: blob, manifest.
        what: &'static str,
        /// Its digest.
        digest: Digest,
    },
    /// Content that is not what its digest says.
    #[error("{place}: content has digest {found}, expected {expected}")]
    Digest {
        /// Where.
        place: String,
        /// Its name.
        expected: Digest,
        /// What is there.
        found: Digest,
    },
    /// Content that is longer or shorter than its descriptor says.
    #[error("{place}: {digest} has {found} bytes, expected {expected}")]
    Size {
        /// Where.
        place: String,
        /// Which.
        digest: Digest,
        /// As the descriptor says.
        expected: u64,
        /// What is there, as far as it was read.
        found: u64,
    },
    /// An index without an image for the platform.
    #[error("no matching manifest for {wanted} in the manifest list{}", list(there))]
    NoPlatform {
        /// The platform that was wanted.
        wanted: String,
        /// The platforms that there are.
        there: Vec<String>,
    },
    /// Indexes in indexes in indexes.
    #[error("{place}: indexes are nested more than {} deep", crate::oci::manifest::MAX_DEPTH)]
    TooDeep {
        /// Where.
        place: String,
    },
    /// An image that this form cannot hold.
    #[error("{form} cannot hold {what}; {instead}")]
    Unsupported {
        /// The form.
        form: &'static str,
        /// What it cannot hold.
        what: String,
        /// What to do.
        instead: &'static str,
    },
    /// Content is wrong in a way that has no variant of its own.
    #[error("{place}: {reason}")]
    Damaged {
        /// Where.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// Reading content failed.
    #[error("cannot read {what} of {place}")]
    Read {
        /// Where.
        place: String,
        /// Which.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An entry of an index that claims another platform than its image has.
    #[error("{place} is an image for {own}, not for {said}")]
    Claim {
        /// Where the image is.
        place: String,
        /// What is claimed.
        said: String,
        /// What its config says.
        own: String,
    },
    /// Two images for one platform.
    #[error("two images for {platform}: {first} and {second}")]
    Twice {
        /// The platform.
        platform: String,
        /// The one that was there.
        first: String,
        /// The other.
        second: String,
    },
    /// No container engine answers.
    #[error("no Docker and no Podman answers: {}", tried.join("; "))]
    NoEngine {
        /// What was tried, and why it failed.
        tried: Vec<String>,
    },
    /// Talking to a container engine failed.
    #[error("cannot talk to {engine}")]
    Engine {
        /// Which.
        engine: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A container engine did not take the image.
    #[error("{engine} refuses: {message}")]
    Refused {
        /// Which.
        engine: String,
        /// What it said.
        message: String,
    },
    /// The image is artificial or of no platform, and needs one.
    #[error("{place}: {what} is no container image")]
    NotAnImage {
        /// Where.
        place: String,
        /// Which.
        what: String,
    },
}

impl Error {
    /// Tells whether the user asked for something that is not there or cannot be.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Error::NoSuchImage { .. }
                | Error::Ambiguous { .. }
                | Error::Empty { .. }
                | Error::NotInStore { .. }
                | Error::NotALayout { .. }
                | Error::NotAnArchive { .. }
                | Error::NoPlatform { .. }
                | Error::Occupied { .. }
                | Error::Unsupported { .. }
                | Error::NotAnImage { .. }
                | Error::Claim { .. }
                | Error::Twice { .. }
                | Error::Registry(registry::Error::Offline { .. })
        ) || matches!(self, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
            || matches!(self, Error::Registry(error) if error.is_configuration())
    }

    /// Tells whether content is there and wrong.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Error::Document { .. }
                | Error::Json { .. }
                | Error::Missing { .. }
                | Error::Digest { .. }
                | Error::Size { .. }
                | Error::TooDeep { .. }
                | Error::Damaged { .. }
                | Error::Store(_)
                | Error::Io { .. }
                | Error::Registry(
                    registry::Error::Digest { .. }
                        | registry::Error::Size { .. }
                        | registry::Error::Document { .. }
                )
        )
    }

    /// Gives what the user can do, where the message does not say it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Ambiguous { there, .. } => {
                there.first().map(|name| format!("add a tag, as in PATH:{name}"))
            }
            Error::NoPlatform { there, .. } if !there.is_empty() => {
                Some(format!("choose another platform, as in --platform {}", there[0]))
            }
            Error::NotInStore { name } => Some(format!(
                "`lapstrake pull {name}` brings it in, or name the registry: docker://{name}"
            )),
            Error::Claim { .. } => {
                Some("say what the image is, or insist on it with --force".to_owned())
            }
            Error::Twice { .. } => Some(
                "leave one of them out; Windows images of several versions need os.version each"
                    .to_owned(),
            ),
            Error::Occupied { .. } => Some("choose an empty or a new directory".to_owned()),
            Error::Missing { .. } | Error::Digest { .. } | Error::Size { .. } => {
                Some("the image was damaged or copied incompletely; get it again".to_owned())
            }
            _ => None,
        }
    }
}

/// Shows what there is: ` (there are: a, b)`.
fn list(there: &[String]) -> String {
    const SHOWN: usize = 20;
    match there.len() {
        0 => String::new(),
        1 => format!(" (there is {})", there[0]),
        count if count > SHOWN => {
            format!(" (there are {} and {} more)", there[..SHOWN].join(", "), count - SHOWN)
        }
        _ => format!(" (there are {})", there.join(", ")),
    }
}
