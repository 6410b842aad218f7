//! Image manifests and indexes (OCI image-spec, manifest.md and image-index.md; Docker schema 2).
//!
//! [`Document::parse`] is the only door for bytes from outside: it decides by content *and* by the
//! declared media type what they are and refuses a document that could be read both ways, because
//! two tools that disagree about it would run two different images (CVE-2021-41190).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::descriptor::null_default;
use super::{Descriptor, canonical, media_type};

/// The largest manifest or index that we read: 4 MiB, the limit of most registries.
pub const MAX_SIZE: u64 = 4 << 20;

/// The most entries an index may have, and the most layers a manifest. Chosen so that nobody's real
/// index is refused (the largest seen have some hundreds) and walking one stays cheap.
pub const MAX_ENTRIES: usize = 10_000;

/// How deep indexes may be nested. Two levels are common (index.json → index), three exist.
pub const MAX_DEPTH: usize = 8;

/// One image for one platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// What the document says it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The kind of an artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image config.
    pub config: Descriptor,
    /// The layers from the lowest up.
    #[serde(default, deserialize_with = "null_default")]
    pub layers: Vec<Descriptor>,
    /// The document that this one is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free text by key.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// Images for several platforms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// What the document says it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The kind of an artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The entries, in their order.
    #[serde(default, deserialize_with = "null_default")]
    pub manifests: Vec<Descriptor>,
    /// The document that this one is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free text by key.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// A manifest or an index, parsed.
#[expect(
    clippy::large_enum_variant,
    reason = "one or two exist at a time, and are matched at once"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Several.
    Index(Index),
}

/// A document that is no usable manifest or index.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// More than [`MAX_SIZE`] bytes.
    #[error("manifest has {size} bytes, more than the {MAX_SIZE} that are allowed")]
    TooLarge {
        /// Its size.
        size: u64,
    },
    /// Not JSON, or JSON of another shape.
    #[error("manifest cannot be read")]
    Json(#[source] serde_json::Error),
    /// Docker's schema 1, dropped by every registry.
    #[error(
        "manifest is of Docker schema 1, which is not supported; push the image again with a tool of this decade"
    )]
    Schema1,
    /// A media type that is no image.
    #[error("{0:?} is no media type of an image manifest or index")]
    MediaType(String),
    /// The document has fields of a manifest and of an index.
    #[error("document is a manifest and an index at once (it has {0})")]
    Ambiguous(&'static str),
    /// The document says that it is something else than what named it.
    #[error("document says that it is {found:?}, but was named as {declared:?}")]
    Mismatch {
        /// The media type of the descriptor or of the HTTP answer.
        declared: String,
        /// That in the document, or that of its shape.
        found: String,
    },
    /// More than [`MAX_ENTRIES`] entries.
    #[error("document has {count} entries, more than the {MAX_ENTRIES} that are allowed")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// A conversion to Docker's types that they cannot express.
    #[error("{0} cannot be expressed in Docker's schema 2; use OCI media types")]
    NotDocker(String),
}

impl Manifest {
    /// Makes an OCI manifest.
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Manifest {
        Manifest {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.to_owned()),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
            extra: BTreeMap::new(),
        }
    }

    /// Gives the canonical bytes and a descriptor of them.
    pub fn encode(&self) -> (Descriptor, Vec<u8>) {
        let bytes = canonical::to_vec(self);
        let media_type = self.media_type.as_deref().unwrap_or(media_type::OCI_MANIFEST);
        (Descriptor::of(media_type, &bytes), bytes)
    }

    /// Tells whether its config is that of a container image (and not of another artifact).
    pub fn is_image(&self) -> bool {
        self.artifact_type.is_none() && media_type::is_config(&self.config.media_type)
    }

    /// Gives the manifest in OCI media types. Config and layers keep their digests.
    #[must_use]
    pub fn to_oci(&self) -> Manifest {
        let mut out = self.clone();
        out.media_type = Some(media_type::OCI_MANIFEST.to_owned());
        out.config.media_type = media_type::to_oci(&out.config.media_type).to_owned();
        for layer in &mut out.layers {
            layer.media_type = media_type::to_oci(&layer.media_type).to_owned();
        }
        out
    }

    /// Gives the manifest in Docker's media types. Config and layers keep their digests; what
    /// schema 2 has no field for (annotations) is dropped, as Docker itself does.
    pub fn to_docker(&self) -> Result<Manifest, DocumentError> {
        let docker = |descriptor: &Descriptor| match media_type::to_docker(&descriptor.media_type) {
            Some(media_type) => Ok(Descriptor {
                media_type: media_type.to_owned(),
                urls: descriptor.urls.clone(),
                ..Descriptor::new("", descriptor.digest, descriptor.size)
            }),
            None => Err(DocumentError::NotDocker(format!(
                "{} of type {}",
                descriptor.digest, descriptor.media_type
            ))),
        };
        if self.artifact_type.is_some() || self.subject.is_some() {
            return Err(DocumentError::NotDocker("an artifact".to_owned()));
        }
        Ok(Manifest {
            media_type: Some(media_type::DOCKER_MANIFEST.to_owned()),
            layers: self.layers.iter().map(docker).collect::<Result<_, _>>()?,
            ..Manifest::new(docker(&self.config)?, Vec::new())
        })
    }
}

impl Index {
    /// Makes an OCI index.
    pub fn new(manifests: Vec<Descriptor>) -> Index {
        Index {
            schema_version: 2,
            media_type: Some(media_type::OCI_INDEX.to_owned()),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
            extra: BTreeMap::new(),
        }
    }

    /// Gives the canonical bytes and a descriptor of them.
    pub fn encode(&self) -> (Descriptor, Vec<u8>) {
        let bytes = canonical::to_vec(self);
        let media_type = self.media_type.as_deref().unwrap_or(media_type::OCI_INDEX);
        (Descriptor::of(media_type, &bytes), bytes)
    }
}

impl Document {
    /// Reads a manifest or an index. `declared` is the media type of the descriptor that named it
    /// or of the HTTP answer; an empty one, or one that says nothing (`application/json`,
    /// `application/octet-stream`, `text/plain`), leaves the decision to the document.
    pub fn parse(bytes: &[u8], declared: &str) -> Result<Document, DocumentError> {
        if bytes.len() as u64 > MAX_SIZE {
            return Err(DocumentError::TooLarge { size: bytes.len() as u64 });
        }
        let declared = declared.split(';').next().unwrap_or_default().trim();
        let probe: Probe = serde_json::from_slice(bytes).map_err(DocumentError::Json)?;
        let found = probe.media_type(declared)?;
        let says_nothing =
            matches!(declared, "" | "application/json" | "application/octet-stream" | "text/plain");
        if !says_nothing && declared != found {
            return Err(DocumentError::Mismatch { declared: declared.to_owned(), found });
        }
        let (document, count) = if media_type::is_index(&found) {
            let index: Index = serde_json::from_slice(bytes).map_err(DocumentError::Json)?;
            let count = index.manifests.len();
            (Document::Index(index), count)
        } else {
            let manifest: Manifest = serde_json::from_slice(bytes).map_err(DocumentError::Json)?;
            let count = manifest.layers.len();
            (Document::Manifest(manifest), count)
        };
        if count > MAX_ENTRIES {
            return Err(DocumentError::TooMany { count });
        }
        Ok(document)
    }

    /// Gives the media type that the document has: its own, or else that of its shape.
    pub fn media_type(&self) -> &str {
        match self {
            Document::Manifest(manifest) => {
                manifest.media_type.as_deref().unwrap_or(media_type::OCI_MANIFEST)
            }
            Document::Index(index) => index.media_type.as_deref().unwrap_or(media_type::OCI_INDEX),
        }
    }
}

/// What is looked at before a document is read as one or the other.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    schema_version: Option<u32>,
    media_type: Option<String>,
    config: Option<Value>,
    layers: Option<Value>,
    manifests: Option<Value>,
    fs_layers: Option<Value>,
}

impl Probe {
    fn media_type(&self, declared: &str) -> Result<String, DocumentError> {
        let schema1 = [media_type::DOCKER_SCHEMA1, media_type::DOCKER_SCHEMA1_SIGNED];
        if self.schema_version == Some(1)
            || schema1.contains(&declared)
            || self.media_type.as_deref().is_some_and(|m| schema1.contains(&m))
        {
            return Err(DocumentError::Schema1);
        }
        match (&self.manifests, &self.config, &self.layers, &self.fs_layers) {
            (Some(_), Some(_), _, _) => {
                return Err(DocumentError::Ambiguous("manifests and config"));
            }
            (Some(_), _, Some(_), _) => {
                return Err(DocumentError::Ambiguous("manifests and layers"));
            }
            (_, _, _, Some(_)) => return Err(DocumentError::Ambiguous("fsLayers")),
            _ => {}
        }
        let is_index = self.manifests.is_some();
        let own = match self.media_type.as_deref() {
            Some(own) if !own.is_empty() => own,
            // A document without a mediaType field is what it was named as, if its shape agrees.
            _ if is_index && media_type::is_index(declared) => declared,
            _ if !is_index && media_type::is_manifest(declared) => declared,
            _ if is_index => media_type::OCI_INDEX,
            _ => media_type::OCI_MANIFEST,
        };
        if !media_type::is_index(own) && !media_type::is_manifest(own) {
            return Err(DocumentError::MediaType(own.to_owned()));
        }
        if media_type::is_index(own) && (self.config.is_some() || self.layers.is_some())
            || media_type::is_manifest(own) && is_index
        {
            let shape = if is_index { media_type::OCI_INDEX } else { media_type::OCI_MANIFEST };
            return Err(DocumentError::Mismatch {
                declared: own.to_owned(),
                found: shape.to_owned(),
            });
        }
        Ok(own.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn manifest_json(media_type: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,{media_type}"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{D}","size":0}},"layers":[]}}"#
        )
    }

    #[test]
    fn documents_are_told_apart() {
        let own = |m: &str| format!(r#""mediaType":"{m}","#);
        let list = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"x","digest":"{D}","size":1}}]}}"#
        );
        // Text; declared type; the type that it has, or what the error says.
        let table: [(String, &str, Result<&str, &str>); 14] = [
            (manifest_json(""), "", Ok(media_type::OCI_MANIFEST)),
            (manifest_json(""), media_type::DOCKER_MANIFEST, Ok(media_type::OCI_MANIFEST)),
            (manifest_json(""), "application/json; charset=utf-8", Ok(media_type::OCI_MANIFEST)),
            (manifest_json(&own(media_type::DOCKER_MANIFEST)), "", Ok(media_type::DOCKER_MANIFEST)),
            (manifest_json(""), media_type::OCI_INDEX, Err("document says that it is")),
            (manifest_json(&own(media_type::OCI_INDEX)), "", Err("document says that it is")),
            (
                manifest_json(&own(media_type::OCI_MANIFEST)),
                media_type::DOCKER_MANIFEST,
                Err("document says"),
            ),
            (manifest_json(&own("text/html")), "", Err("no media type of an image")),
            (manifest_json(r#""manifests":[],"#), "", Err("at once")),
            (manifest_json(r#""fsLayers":[],"#), "", Err("at once")),
            (list.clone(), "", Ok(media_type::OCI_INDEX)),
            (list, media_type::OCI_MANIFEST, Err("document says")),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(), "", Err("schema 1")),
            ("[]".to_owned(), "", Err("cannot be read")),
        ];
        for (text, declared, want) in table {
            match (Document::parse(text.as_bytes(), declared), want) {
                (Ok(document), Ok(want)) => assert_eq!(document.media_type(), want, "{text}"),
                (Err(error), Err(want)) => {
                    assert!(error.to_string().contains(want), "{text}: {error}");
                }
                (got, want) => panic!("{text} {declared}: {got:?} {want:?}"),
            }
        }
        let large = vec![b' '; MAX_SIZE as usize + 1];
        assert!(matches!(Document::parse(&large, ""), Err(DocumentError::TooLarge { .. })));
        let entry = format!(r#"{{"mediaType":"x","digest":"{D}","size":1}}"#);
        let many = format!(
            r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
            vec![entry; MAX_ENTRIES + 1].join(",")
        );
        assert!(matches!(Document::parse(many.as_bytes(), ""), Err(DocumentError::TooMany { .. })));
    }

    #[test]
    fn conversion_keeps_digests() {
        let config = Descriptor::of(media_type::DOCKER_CONFIG, b"{}");
        let layer = Descriptor::new(media_type::DOCKER_LAYER_GZIP, Digest::of(b"x"), 1);
        let mut docker = Manifest::new(config, vec![layer]);
        docker.media_type = Some(media_type::DOCKER_MANIFEST.to_owned());
        let oci = docker.to_oci();
        assert_eq!(oci.config.media_type, media_type::OCI_CONFIG);
        assert_eq!(oci.layers[0].media_type, media_type::OCI_LAYER_GZIP);
        assert_eq!(oci.layers[0].digest, docker.layers[0].digest);
        assert_eq!(oci.to_docker().unwrap(), docker);
        let mut zstd = oci;
        zstd.layers[0].media_type = media_type::OCI_LAYER_ZSTD.to_owned();
        assert!(zstd.to_docker().unwrap_err().to_string().contains("use OCI media types"));
    }

    #[test]
    fn golden_digests() {
        let config = Descriptor::of(media_type::OCI_CONFIG, b"{}");
        let (descriptor, bytes) = Manifest::new(config, Vec::new()).encode();
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            r#"{"config":{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","mediaType":"application/vnd.oci.image.config.v1+json","size":2},"layers":[],"mediaType":"application/vnd.oci.image.manifest.v1+json","schemaVersion":2}"#
        );
        let entry = descriptor
            .with_annotation("z", "1")
            .with_annotation("a", "2")
            .with_platform("linux/arm/v7".parse().unwrap());
        let (descriptor, bytes) = Index::new(vec![entry]).encode();
        insta::assert_snapshot!(String::from_utf8(bytes).unwrap(), @r#"{"manifests":[{"annotations":{"a":"2","z":"1"},"digest":"sha256:1a532c454699d73464c8a86e03915be89b826ed24cd326a0442f0a310fd496af","mediaType":"application/vnd.oci.image.manifest.v1+json","platform":{"architecture":"arm","os":"linux","variant":"v7"},"size":246}],"mediaType":"application/vnd.oci.image.index.v1+json","schemaVersion":2}"#);
        assert_eq!(
            descriptor.digest.hex(),
            "36a23f3088e500a175e21b19df9dc97b7f697ff672680c688903d457e7fdebe5"
        );
    }

    #[test]
    fn unknown_fields_are_kept() {
        let text = manifest_json(r#""futureField":{"b":1,"a":[2]},"#);
        let Document::Manifest(manifest) = Document::parse(text.as_bytes(), "").unwrap() else {
            panic!("not a manifest")
        };
        assert_eq!(manifest.extra["futureField"]["b"], 1);
        let again: Manifest = serde_json::from_slice(&manifest.encode().1).unwrap();
        assert_eq!(again, manifest);
    }
}
