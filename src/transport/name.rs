//! Names of images with a scheme in front, as containers-transports(5) and `--build-context` have
//! them.
//!
//! | text | meaning |
//! |---|---|
//! | `oci:PATH[:TAG\|@DIGEST]` | an OCI layout directory |
//! | `oci-layout://PATH[:TAG][@DIGEST]` | the same, as BuildKit writes it |
//! | `oci-archive:FILE[:TAG]` | an OCI layout in a tar |
//! | `docker-archive:FILE[:REFERENCE]` | what `docker save` writes |
//! | `dir:PATH` | a directory with the files of one image, as skopeo writes it |
//! | `docker://REFERENCE`, `docker-image://REFERENCE` | a registry |
//! | `REFERENCE` | the store, and what the caller makes of it |
//!
//! A path may have colons in it: only what is a valid tag and has no slash counts as one, and in an
//! archive the text after the first colon does (a reference may have a port).

use std::path::{Path, PathBuf};

use crate::oci::{Digest, Reference, ReferenceError};

/// A parsed name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageName {
    /// An OCI layout directory.
    Layout {
        /// Where.
        path: PathBuf,
        /// Which image of it.
        selector: Selector,
    },
    /// An OCI layout in a tar.
    OciArchive {
        /// Where.
        path: PathBuf,
        /// Which image of it.
        selector: Selector,
    },
    /// What `docker save` writes.
    DockerArchive {
        /// Where.
        path: PathBuf,
        /// Which image of it.
        selector: Selector,
    },
    /// A directory with the files of one image.
    Dir {
        /// Where.
        path: PathBuf,
    },
    /// An image of a registry.
    Registry(Reference),
    /// A bare reference.
    Store(Reference),
}

/// Which image of several. A digest goes before a name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    /// A tag or a whole reference.
    pub name: Option<String>,
    /// A digest.
    pub digest: Option<Digest>,
}

/// A name that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The reference is wrong.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// No path after the scheme.
    #[error("image name {0:?} has no path after its scheme")]
    NoPath(String),
    /// What follows the path is wrong.
    #[error("image name {text:?}: {part:?} is neither a tag nor a digest")]
    Selector {
        /// The text.
        text: String,
        /// The part.
        part: String,
    },
    /// A scheme that we do not know or cannot serve.
    #[error(
        "image name {text:?}: {scheme} images are not supported (oci:, oci-archive:, docker-archive:, dir:, docker:// and oci-layout:// are)"
    )]
    Scheme {
        /// The text.
        text: String,
        /// The scheme.
        scheme: String,
    },
}

/// Schemes of containers-transports(5) that need a daemon or somebody else's storage.
const FOREIGN: [&str; 6] =
    ["docker-daemon", "containers-storage", "ostree", "sif", "tarball", "atomic"];

impl ImageName {
    /// Reads a name.
    pub fn parse(text: &str) -> Result<ImageName, NameError> {
        if let Some(rest) = text.strip_prefix("oci-layout://") {
            let (path, selector) = split_layout(text, rest)?;
            return Ok(ImageName::Layout { path, selector });
        }
        if let Some(rest) =
            text.strip_prefix("docker://").or_else(|| text.strip_prefix("docker-image://"))
        {
            return Ok(ImageName::Registry(rest.parse()?));
        }
        if let Some(rest) = text.strip_prefix("oci:") {
            let (path, selector) = split_layout(text, rest)?;
            return Ok(ImageName::Layout { path, selector });
        }
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            let (path, selector) = split_archive(text, rest)?;
            return Ok(ImageName::OciArchive { path, selector });
        }
        if let Some(rest) = text.strip_prefix("docker-archive:") {
            let (path, selector) = split_archive(text, rest)?;
            return Ok(ImageName::DockerArchive { path, selector });
        }
        if let Some(path) = text.strip_prefix("dir:") {
            if path.is_empty() {
                return Err(NameError::NoPath(text.to_owned()));
            }
            return Ok(ImageName::Dir { path: PathBuf::from(path) });
        }
        if let Some(scheme) = FOREIGN.iter().find(|scheme| {
            text.strip_prefix(**scheme).is_some_and(|rest| {
                // `atomic:1` is also an image named atomic with tag 1.
                rest.starts_with(":/")
                    || rest.starts_with(":.")
                    || **scheme == "docker-daemon" && rest.starts_with(':')
            })
        }) {
            return Err(NameError::Scheme { text: text.to_owned(), scheme: (*scheme).to_owned() });
        }
        Ok(ImageName::Store(text.parse()?))
    }

    /// Gives the name with its path taken from `dir` when it is relative.
    #[must_use]
    pub fn relative_to(self, dir: &Path) -> ImageName {
        match self {
            ImageName::Layout { path, selector } => {
                ImageName::Layout { path: dir.join(path), selector }
            }
            ImageName::OciArchive { path, selector } => {
                ImageName::OciArchive { path: dir.join(path), selector }
            }
            ImageName::DockerArchive { path, selector } => {
                ImageName::DockerArchive { path: dir.join(path), selector }
            }
            ImageName::Dir { path } => ImageName::Dir { path: dir.join(path) },
            other => other,
        }
    }

    /// Tells whether it leads to a registry, so that the network is needed.
    pub fn is_remote(&self) -> bool {
        matches!(self, ImageName::Registry(_))
    }
}

impl Selector {
    /// Chooses by name.
    pub fn name(name: impl Into<String>) -> Selector {
        Selector { name: Some(name.into()), digest: None }
    }

    /// Tells whether nothing was chosen.
    pub fn is_empty(&self) -> bool {
        self.name.is_none() && self.digest.is_none()
    }

    /// Shows it as it was written.
    pub fn shown(&self) -> String {
        match (&self.name, &self.digest) {
            (Some(name), Some(digest)) => format!("{name}@{digest}"),
            (Some(name), None) => name.clone(),
            (None, Some(digest)) => digest.to_string(),
            (None, None) => String::new(),
        }
    }
}

/// Splits `PATH[:TAG][@DIGEST]`.
fn split_layout(text: &str, rest: &str) -> Result<(PathBuf, Selector), NameError> {
    let (rest, digest) = match rest.rsplit_once('@') {
        Some((path, digest)) if digest.starts_with("sha256:") => {
            let wrong = |_| NameError::Selector { text: text.to_owned(), part: digest.to_owned() };
            (path, Some(digest.parse().map_err(wrong)?))
        }
        _ => (rest, None),
    };
    let (path, name) = match rest.rsplit_once(':') {
        // Skopeo writes whole references here too: oci:dir:docker.io/library/alpine:3. The last
        // colon then splits a reference, which an earlier one begins. It must name its registry, or
        // else a path with a colon (/data:2024/layout:1) would look the same.
        Some((path, tag)) if Reference::is_tag(tag) => match path.split_once(':') {
            Some((shorter, name)) if names_registry(name) => {
                (shorter, Some(format!("{name}:{tag}")))
            }
            _ => (path, Some(tag.to_owned())),
        },
        Some((path, "")) => (path, None),
        _ => (rest, None),
    };
    if path.is_empty() {
        return Err(NameError::NoPath(text.to_owned()));
    }
    Ok((PathBuf::from(path), Selector { name, digest }))
}

/// Tells whether a name without tag is a reference that says its registry.
fn names_registry(name: &str) -> bool {
    name.split_once('/').is_some_and(|(first, _)| {
        first.contains(['.', ':']) && !first.starts_with('.') || first == "localhost"
    }) && name.parse::<Reference>().is_ok()
}

/// Splits `FILE[:REFERENCE]`.
fn split_archive(text: &str, rest: &str) -> Result<(PathBuf, Selector), NameError> {
    let (path, name) = match rest.split_once(':') {
        Some((path, "")) => (path, None),
        Some((path, name)) => (path, Some(name)),
        None => (rest, None),
    };
    if path.is_empty() {
        return Err(NameError::NoPath(text.to_owned()));
    }
    let selector = match name {
        None => Selector::default(),
        Some(name) => match name.strip_prefix('@').map(str::parse) {
            Some(Ok(digest)) => Selector { name: None, digest: Some(digest) },
            None if Reference::is_tag(name) || name.parse::<Reference>().is_ok() => {
                Selector::name(name)
            }
            _ => {
                return Err(NameError::Selector { text: text.to_owned(), part: name.to_owned() });
            }
        },
    };
    Ok((PathBuf::from(path), selector))
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_split() {
        let layout = |path: &str, name: Option<&str>, digest: bool| ImageName::Layout {
            path: path.into(),
            selector: Selector {
                name: name.map(str::to_owned),
                digest: digest.then(|| D.parse().unwrap()),
            },
        };
        let docker = |path: &str, name: Option<&str>| ImageName::DockerArchive {
            path: path.into(),
            selector: Selector { name: name.map(str::to_owned), digest: None },
        };
        let reference = |text: &str| text.parse::<Reference>().unwrap();
        let table = [
            ("oci:dir".to_owned(), layout("dir", None, false)),
            ("oci:dir:1.0".to_owned(), layout("dir", Some("1.0"), false)),
            ("oci:/a/b:c/d".to_owned(), layout("/a/b:c/d", None, false)),
            ("oci:/data:2024/x:1".to_owned(), layout("/data:2024/x", Some("1"), false)),
            ("oci:/a:b/dir:".to_owned(), layout("/a:b/dir", None, false)),
            (format!("oci:dir@{D}"), layout("dir", None, true)),
            (format!("oci-layout:///abs/dir:v1@{D}"), layout("/abs/dir", Some("v1"), true)),
            ("oci-layout://rel/dir".to_owned(), layout("rel/dir", None, false)),
            (
                "oci:dir:docker.io/library/alpine:3".to_owned(),
                layout("dir", Some("docker.io/library/alpine:3"), false),
            ),
            ("docker-archive:x.tar".to_owned(), docker("x.tar", None)),
            ("docker-archive:x.tar:a/b:1".to_owned(), docker("x.tar", Some("a/b:1"))),
            (
                "docker-archive:x.tar:reg.io:5000/b:1".to_owned(),
                docker("x.tar", Some("reg.io:5000/b:1")),
            ),
            (
                "oci-archive:x.tar:1".to_owned(),
                ImageName::OciArchive { path: "x.tar".into(), selector: Selector::name("1") },
            ),
            ("docker://alpine".to_owned(), ImageName::Registry(reference("alpine"))),
            ("docker-image://a.io/b:1".to_owned(), ImageName::Registry(reference("a.io/b:1"))),
            ("alpine:3".to_owned(), ImageName::Store(reference("alpine:3"))),
            ("dir:1".to_owned(), ImageName::Dir { path: "1".into() }),
            ("atomic:1".to_owned(), ImageName::Store(reference("atomic:1"))),
        ];
        for (text, want) in table {
            assert_eq!(ImageName::parse(&text).as_ref(), Ok(&want), "{text}");
        }
    }

    #[test]
    fn bad_names_are_refused() {
        for (text, message) in [
            ("oci:", "no path"),
            ("oci::tag", "no path"),
            ("oci:dir@sha256:12", "neither a tag nor a digest"),
            ("docker-archive:x.tar:A B", "neither a tag nor a digest"),
            ("docker-daemon:alpine", "not supported"),
            ("ostree:/x", "not supported"),
            ("dir:", "no path"),
            ("docker://UP", "lower case"),
        ] {
            let error = ImageName::parse(text).expect_err(text).to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn relative_paths_are_joined() {
        let name = ImageName::parse("oci:dir:1").unwrap().relative_to(Path::new("/w"));
        assert!(matches!(name, ImageName::Layout { path, .. } if path == Path::new("/w/dir")));
        let name = ImageName::parse("oci:/dir").unwrap().relative_to(Path::new("/w"));
        assert!(matches!(name, ImageName::Layout { path, .. } if path == Path::new("/dir")));
    }
}
