//! References to images in registries: `[registry/]repository[:tag][@digest]`.
//!
//! The grammar and the defaults are those of Docker (distribution/reference): the first part is a
//! registry when it has a dot or a colon, is `localhost`, or has upper case; otherwise the registry
//! is `docker.io`, and there a repository of one part lies below `library/`.

use std::fmt;
use std::str::FromStr;

use super::{Digest, digest::DigestError};

/// Docker Hub's name in references.
pub const DOCKER_HUB: &str = "docker.io";
/// What a reference without tag and digest means.
pub const DEFAULT_TAG: &str = "latest";
/// The longest name (registry and repository), as Docker has it.
const MAX_NAME: usize = 255;
/// The longest tag, as the distribution-spec has it.
const MAX_TAG: usize = 128;

/// A reference to an image in a registry, with all defaults written out except the tag.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// `host[:port]`.
    pub registry: String,
    /// The path below it.
    pub repository: String,
    /// The tag.
    pub tag: Option<String>,
    /// The digest, which goes before the tag where both are there.
    pub digest: Option<Digest>,
}

/// A reference that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// No text.
    #[error("image reference is empty")]
    Empty,
    /// An upper-case letter in the repository.
    #[error(
        "image reference {text:?}: the repository name must be lower case; did you mean {suggestion:?}?"
    )]
    UpperCase {
        /// The text.
        text: String,
        /// The same in lower case.
        suggestion: String,
    },
    /// A bare image id.
    #[error(
        "image reference {0:?} is 64 hexadecimal digits, which is an image id and not a name; write NAME@sha256:… instead"
    )]
    BareId(String),
    /// A scheme in front, as of a URL.
    #[error("image reference {0:?} must not start with a scheme such as https://")]
    Scheme(String),
    /// White space or something invisible.
    #[error("image reference {0:?} has white space in it")]
    Space(String),
    /// A registry that is no host name.
    #[error("image reference {text:?}: {registry:?} is not a registry (host or host:port)")]
    Registry {
        /// The text.
        text: String,
        /// The part that is wrong.
        registry: String,
    },
    /// A repository with a part that is not allowed.
    #[error(
        "image reference {text:?}: {part:?} is not a valid part of a repository name (lower-case letters and digits, separated by '.', '_', '__' or '-')"
    )]
    Repository {
        /// The text.
        text: String,
        /// The part that is wrong.
        part: String,
    },
    /// A tag that is not allowed.
    #[error(
        "image reference {text:?}: {tag:?} is not a valid tag (up to 128 letters, digits, '_', '.' and '-', and the first is neither '.' nor '-')"
    )]
    Tag {
        /// The text.
        text: String,
        /// The tag.
        tag: String,
    },
    /// A digest that is not allowed.
    #[error("image reference {text:?} has a bad digest")]
    Digest {
        /// The text.
        text: String,
        /// Why.
        #[source]
        source: DigestError,
    },
    /// Too long a name.
    #[error("image reference {0:?} is longer than 255 characters")]
    TooLong(String),
}

impl Reference {
    /// Gives the reference with tag `latest` when it has neither tag nor digest.
    #[must_use]
    pub fn with_default_tag(mut self) -> Reference {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// Gives the reference with another digest.
    #[must_use]
    pub fn with_digest(mut self, digest: Digest) -> Reference {
        self.digest = Some(digest);
        self
    }

    /// Gives the reference with another tag and without digest.
    #[must_use]
    pub fn with_tag(mut self, tag: &str) -> Reference {
        self.tag = Some(tag.to_owned());
        self.digest = None;
        self
    }

    /// Gives `registry/repository`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Gives the short form that people write: without `docker.io/` and `library/`.
    pub fn familiar(&self) -> String {
        let name = match self.repository.strip_prefix("library/") {
            _ if self.registry != DOCKER_HUB => self.name(),
            // It would be taken for an image id.
            Some(rest) if self.suffix().is_empty() && Digest::from_hex(rest).is_some() => {
                self.name()
            }
            Some(rest) if !rest.contains('/') => rest.to_owned(),
            // What looks like a registry would be taken for one.
            _ if self.repository.split_once('/').is_some_and(|(first, _)| is_registry(first)) => {
                self.name()
            }
            _ => self.repository.clone(),
        };
        name + &self.suffix()
    }

    /// Tells whether `text` is a valid tag.
    pub fn is_tag(text: &str) -> bool {
        let mut bytes = text.bytes();
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        bytes.next().is_some_and(word)
            && text.len() <= MAX_TAG
            && bytes.all(|b| word(b) || b == b'.' || b == b'-')
    }

    fn suffix(&self) -> String {
        let mut out = String::new();
        if let Some(tag) = &self.tag {
            out.push(':');
            out.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            out.push('@');
            out.push_str(&digest.to_string());
        }
        out
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(ReferenceError::Space(text.to_owned()));
        }
        if text.contains("://") {
            return Err(ReferenceError::Scheme(text.to_owned()));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest
                    .parse()
                    .map_err(|source| ReferenceError::Digest { text: text.to_owned(), source })?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        // A colon before the last slash belongs to the port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag.filter(|tag| !Reference::is_tag(tag)) {
            return Err(ReferenceError::Tag { text: text.to_owned(), tag: tag.to_owned() });
        }
        if tag.is_none() && digest.is_none() && Digest::from_hex(name).is_some() {
            return Err(ReferenceError::BareId(text.to_owned()));
        }
        let (registry, repository) = split_registry(name);
        check_registry(text, &registry)?;
        check_repository(text, &repository)?;
        if registry.len() + 1 + repository.len() > MAX_NAME {
            return Err(ReferenceError::TooLong(text.to_owned()));
        }
        Ok(Reference { registry, repository, tag: tag.map(str::to_owned), digest })
    }
}

/// Says whether the part before the first slash is a registry.
fn is_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.to_lowercase() != *first
}

/// Splits the registry off and writes Docker Hub's defaults out.
fn split_registry(name: &str) -> (String, String) {
    let split = name.split_once('/').filter(|(first, _)| is_registry(first));
    let (registry, repository) = match split {
        Some(("index.docker.io", rest)) => (DOCKER_HUB, rest),
        Some((first, rest)) => (first, rest),
        None => (DOCKER_HUB, name),
    };
    if registry == DOCKER_HUB && !repository.contains('/') {
        return (registry.to_owned(), format!("library/{repository}"));
    }
    (registry.to_owned(), repository.to_owned())
}

fn check_registry(text: &str, registry: &str) -> Result<(), ReferenceError> {
    let wrong =
        || ReferenceError::Registry { text: text.to_owned(), registry: registry.to_owned() };
    let (host, port) = if let Some(rest) = registry.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or_else(wrong)?;
        address.parse::<core::net::Ipv6Addr>().map_err(|_| wrong())?;
        (
            "localhost",
            if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(wrong)?) },
        )
    } else {
        match registry.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (registry, None),
        }
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err() || port.starts_with('+')) {
        return Err(wrong());
    }
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if host.split('.').all(label) { Ok(()) } else { Err(wrong()) }
}

fn check_repository(text: &str, repository: &str) -> Result<(), ReferenceError> {
    if let Some(part) = repository.split('/').find(|part| !is_component(part)) {
        if part.bytes().any(|b| b.is_ascii_uppercase()) && is_component(&part.to_ascii_lowercase())
        {
            let lower = repository.to_ascii_lowercase();
            let shown = repository.strip_prefix("library/").unwrap_or(repository);
            let lower = lower.strip_prefix("library/").unwrap_or(&lower);
            return Err(ReferenceError::UpperCase {
                text: text.to_owned(),
                suggestion: text.replacen(shown, lower, 1),
            });
        }
        return Err(ReferenceError::Repository { text: text.to_owned(), part: part.to_owned() });
    }
    Ok(())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(part: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !alphanumeric(*first) || !alphanumeric(*last) {
        return false;
    }
    part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).all(|separator| {
        matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
    })
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.registry, self.repository, self.suffix())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_normalised() {
        let digest = format!("alpine@sha256:{HEX}");
        let hexadecimal = format!("docker.io/library/{HEX}");
        let both = format!("quay.io/a/b:1@sha256:{HEX}");
        let full = format!("docker.io/library/alpine@sha256:{HEX}");
        // Text; full form; short form.
        let table = [
            ("alpine", "docker.io/library/alpine", "alpine"),
            ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
            ("me/app", "docker.io/me/app", "me/app"),
            ("docker.io/alpine", "docker.io/library/alpine", "alpine"),
            ("index.docker.io/library/alpine", "docker.io/library/alpine", "alpine"),
            ("localhost/app", "localhost/app", "localhost/app"),
            ("localhost:5000/app:1", "localhost:5000/app:1", "localhost:5000/app:1"),
            ("reg.example/a/b/c", "reg.example/a/b/c", "reg.example/a/b/c"),
            ("Registry/a", "Registry/a", "Registry/a"),
            ("[::1]:5000/a", "[::1]:5000/a", "[::1]:5000/a"),
            ("127.0.0.1:5000/a", "127.0.0.1:5000/a", "127.0.0.1:5000/a"),
            ("a/b-c__d.e---f", "docker.io/a/b-c__d.e---f", "a/b-c__d.e---f"),
            ("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b"),
            ("docker.io/a.b/c", "docker.io/a.b/c", "docker.io/a.b/c"),
            ("docker.io/localhost/c", "docker.io/localhost/c", "docker.io/localhost/c"),
            (&digest, &full, &digest),
            (&hexadecimal, &hexadecimal, &hexadecimal),
            (&both, &both, &both),
        ];
        for (text, full, familiar) in table {
            let reference: Reference = text.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(reference.to_string(), full, "{text}");
            assert_eq!(reference.familiar(), familiar, "{text}");
            assert_eq!(full.parse::<Reference>().unwrap(), reference, "{text}");
            assert_eq!(familiar.parse::<Reference>().unwrap(), reference, "{text}");
        }
        let latest = "alpine".parse::<Reference>().unwrap().with_default_tag();
        assert_eq!(latest.to_string(), "docker.io/library/alpine:latest");
        assert_eq!(digest.parse::<Reference>().unwrap().with_default_tag().tag, None);
    }

    #[test]
    fn errors_tell_what_is_wrong() {
        let long = "a".repeat(300);
        // Text; what the message must hold.
        let table = [
            ("", "is empty"),
            ("My/App:1", "did you mean"),
            ("MyApp", "did you mean \"myapp\"?"),
            ("reg.io/Foo/bar:X", "did you mean \"reg.io/foo/bar:X\"?"),
            (HEX, "image id"),
            ("https://reg.io/a", "scheme"),
            ("a b", "white space"),
            ("reg.io:port/a", "is not a registry"),
            ("reg_x.io/a", "is not a registry"),
            ("-reg.io/a", "is not a registry"),
            ("reg.io:99999/a", "is not a registry"),
            ("a..b", "not a valid part"),
            ("a/", "not a valid part"),
            ("a//b", "not a valid part"),
            ("a___b", "not a valid part"),
            ("a_-b", "not a valid part"),
            ("../a", "is not a registry"),
            ("a:", "not a valid tag"),
            ("a:-x", "not a valid tag"),
            ("a:x/y", "is not a registry"),
            ("a@sha256:12", "bad digest"),
            ("a@", "bad digest"),
            (&long, "longer than"),
        ];
        for (text, message) in table {
            let error = text.parse::<Reference>().expect_err(text).to_string();
            assert!(error.contains(message), "{text:?}: {error}");
        }
    }
}
