//! What can go wrong with a registry, and whether trying again can help.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::oci::{Digest, DocumentError};

/// Short for results of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with a registry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The network is needed and forbidden.
    #[error(
        "{what} is not here, and --offline forbids to fetch it; pull it while online or give it as oci:DIR"
    )]
    Offline {
        /// The image or blob that is missing.
        what: String,
    },
    /// No connection, or it broke.
    #[error("cannot {method} {url}")]
    Connection {
        /// The HTTP method.
        method: &'static str,
        /// The URL without query.
        url: String,
        /// Whether another attempt could work.
        temporary: bool,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An answer that says no.
    #[error("{method} {url}: {status}{}", ApiErrors(errors))]
    Status {
        /// The HTTP method.
        method: &'static str,
        /// The URL without query.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the registry says about it.
        errors: Vec<ApiError>,
        /// How long the registry asks to wait.
        retry_after: Option<Duration>,
    },
    /// Nobody is logged in, or the wrong one.
    #[error(
        "access to {what} is denied ({}{}); {}",
        if *anonymous { "no credentials" } else { "the stored credentials are not accepted" },
        ApiErrors(errors),
        if *anonymous { "log in with `lapstrake login`, or check the name" } else { "check the rights of this user, or log in again" }
    )]
    Denied {
        /// The repository.
        what: String,
        /// Whether no credentials were found.
        anonymous: bool,
        /// What the registry says about it.
        errors: Vec<ApiError>,
    },
    /// The registry does not have it.
    #[error("{what} does not exist in the registry{}", ApiErrors(errors))]
    NotFound {
        /// What was asked for.
        what: String,
        /// What the registry says about it.
        errors: Vec<ApiError>,
    },
    /// Too many requests, and the registry asks to wait longer than we do.
    #[error(
        "{registry} limits the rate of requests and asks to wait {}; log in for a higher limit, or use a mirror",
        Wait(retry_after)
    )]
    RateLimit {
        /// The registry.
        registry: String,
        /// For how long.
        retry_after: Option<Duration>,
    },
    /// Requests that are too large, however small they are made.
    #[error(
        "{what} cannot be pushed to: requests of {size} bytes are refused as too large (413){}; raise the limit of the proxy in front of the registry (nginx: client_max_body_size)",
        ApiErrors(errors)
    )]
    RequestTooLarge {
        /// The repository.
        what: String,
        /// The size of the last request.
        size: u64,
        /// What the registry says about it.
        errors: Vec<ApiError>,
    },
    /// Content that is not what its digest says.
    #[error("{what}: content has digest {found}, expected {expected}")]
    Digest {
        /// What was fetched.
        what: String,
        /// Its name.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// Content that is longer or shorter than its descriptor says.
    #[error("{what}: content has {found} bytes, expected {expected}")]
    Size {
        /// What was fetched.
        what: String,
        /// As the descriptor says.
        expected: u64,
        /// What came, or was announced.
        found: u64,
    },
    /// A manifest that cannot be used.
    #[error("{what}")]
    Document {
        /// The reference.
        what: String,
        /// Why.
        #[source]
        source: DocumentError,
    },
    /// A redirect that is not followed.
    #[error("{url} redirects to {to}, which is not followed: {reason}")]
    Redirect {
        /// From, without query.
        url: String,
        /// To, without query.
        to: String,
        /// Why not.
        reason: &'static str,
    },
    /// An answer that breaks the protocol.
    #[error("{url}: {reason}")]
    Protocol {
        /// The URL without query.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// A download that came too slowly, several times.
    #[error("{what}: the download stalls (fewer than {bytes} bytes in {} s)", time.as_secs())]
    Stalled {
        /// What was fetched.
        what: String,
        /// The least that must come.
        bytes: u64,
        /// In this time.
        time: Duration,
    },
    /// A credential file that cannot be used.
    #[error("credentials in {} cannot be read", path.display())]
    CredentialFile {
        /// The file, or where inline text came from.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A credential file that cannot be written.
    #[error("credentials cannot be written to {}", path.display())]
    CredentialWrite {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Name and password, or token, that a registry does not accept.
    #[error("{registry} does not accept this name and password{}", ApiErrors(errors))]
    LoginRefused {
        /// The registry.
        registry: String,
        /// What it says about it.
        errors: Vec<ApiError>,
    },
    /// A credential helper that failed.
    #[error("credential helper docker-credential-{name} failed for {registry}: {reason}")]
    CredentialHelper {
        /// Its name without the prefix.
        name: String,
        /// The registry that it was asked about.
        registry: String,
        /// What it said.
        reason: String,
    },
    /// A certificate that cannot be used.
    #[error("certificate authority {index} given for registries is not PEM: {reason}")]
    Certificate {
        /// Which of those given, from 0.
        index: usize,
        /// What is wrong.
        reason: String,
    },
    /// A configuration of registries that cannot be used.
    #[error(transparent)]
    Configuration(#[from] super::conf::ConfError),
    /// Configuration forbids this registry.
    #[error("{what} is blocked: `blocked = true` for {prefix} in {place}")]
    Blocked {
        /// The image or registry.
        what: String,
        /// The prefix of the rule.
        prefix: String,
        /// Where it stands.
        place: super::conf::Place,
    },
    /// Configuration moves a name to a place where it is none.
    #[error("configuration leads {what} to {location}, which gives no name of an image")]
    Rewrite {
        /// The name.
        what: String,
        /// Where to.
        location: String,
        /// Why not.
        #[source]
        source: crate::oci::ReferenceError,
    },
    /// A short name that may stand for several.
    #[error(
        "the short name {name} may stand for {}, and short-name-mode = \"enforcing\" in {} forbids to guess; write one of them",
        choices.join(" or "),
        origin.display()
    )]
    ShortName {
        /// As the user wrote it.
        name: String,
        /// What it may stand for.
        choices: Vec<String>,
        /// The file that says so.
        origin: PathBuf,
    },
    /// Neither the mirrors nor the registry have it.
    #[error("cannot get {what} from its mirrors or its registry{}", Places(failures))]
    Everywhere {
        /// The image.
        what: String,
        /// By place, the registry itself last.
        failures: Vec<(String, Error)>,
    },
    /// Certificates for a registry that cannot be used.
    #[error("certificates for registries: {}: {reason}", path.display())]
    HostCertificates {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// What is downloaded cannot be kept.
    #[error("cannot keep what comes from {what}")]
    Keep {
        /// The URL without query.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is pushed cannot be read.
    #[error("cannot read {what} to push it")]
    Input {
        /// What is pushed.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// One entry of a registry's error document (distribution-spec, "Error Codes").
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct ApiError {
    /// The code, as in `MANIFEST_UNKNOWN`.
    #[serde(default)]
    pub code: String,
    /// For people.
    #[serde(default)]
    pub message: String,
}

impl Error {
    /// Tells whether the same request could work a little later.
    pub fn is_temporary(&self) -> bool {
        match self {
            Error::Connection { temporary, .. } => *temporary,
            Error::Status { status, .. } => is_temporary_status(*status),
            Error::Stalled { .. } => true,
            Error::Everywhere { failures, .. } => {
                // A registry that says no is not asked again for a mirror's sake.
                !self.is_not_found() && failures.iter().any(|(_, error)| error.is_temporary())
            }
            _ => false,
        }
    }

    /// Tells whether the registry was reached and does not have what was asked for.
    pub fn is_not_found(&self) -> bool {
        match self {
            Error::NotFound { .. } => true,
            Error::Everywhere { failures, .. } => {
                failures.last().is_some_and(|(_, error)| error.is_not_found())
            }
            _ => false,
        }
    }

    /// Tells whether it is configuration that forbids or cannot be used.
    pub fn is_configuration(&self) -> bool {
        matches!(
            self,
            Error::Configuration(_)
                | Error::Blocked { .. }
                | Error::Rewrite { .. }
                | Error::ShortName { .. }
                | Error::HostCertificates { .. }
        )
    }

    /// Gives how long the registry asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Status { retry_after, .. } => *retry_after,
            Error::Everywhere { failures, .. } => {
                failures.last().and_then(|(_, error)| error.retry_after())
            }
            _ => None,
        }
    }
}

/// The statuses after which a request is tried again: proxies and content networks have some of their
/// own (520 to 530). What a server does not implement (501, 505), and a network that wants a login
/// (511), do not get better.
pub(super) fn is_temporary_status(status: u16) -> bool {
    matches!(status, 408 | 429 | 500..=599) && !matches!(status, 501 | 505 | 511)
}

/// Reads a registry's error document; anything else gives nothing.
pub(super) fn parse_api_errors(body: &[u8]) -> Vec<ApiError> {
    #[derive(serde::Deserialize)]
    struct Body {
        errors: Vec<ApiError>,
    }
    let Ok(body) = serde_json::from_slice::<Body>(body) else { return Vec::new() };
    let mut errors = body.errors;
    errors.truncate(5);
    for error in &mut errors {
        // The text goes to a terminal: no control characters, no novels.
        let clean = |text: &str| text.chars().filter(|c| !c.is_control()).take(300).collect();
        error.code = clean(&error.code);
        error.message = clean(&error.message);
    }
    errors
}

/// Shows errors of a registry after a message: `: CODE: message; CODE: message`.
struct ApiErrors<'a>(&'a [ApiError]);

impl fmt::Display for ApiErrors<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            f.write_str(if i == 0 { ": " } else { "; " })?;
            match (error.code.as_str(), error.message.as_str()) {
                ("", message) => f.write_str(message)?,
                (code, "") => f.write_str(code)?,
                (code, message) => write!(f, "{message} ({code})")?,
            }
        }
        Ok(())
    }
}

/// Shows what went wrong in each place, with the causes.
struct Places<'a>(&'a [(String, Error)]);

impl fmt::Display for Places<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (place, error)) in self.0.iter().enumerate() {
            write!(f, "{} {place}: {error}", if i == 0 { ":" } else { ";" })?;
            let mut source = std::error::Error::source(error);
            while let Some(cause) = source {
                write!(f, ": {cause}")?;
                source = cause.source();
            }
        }
        Ok(())
    }
}

struct Wait<'a>(&'a Option<Duration>);

impl fmt::Display for Wait<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(time) => write!(f, "{} s", time.as_secs()),
            None => f.write_str("a while"),
        }
    }
}
