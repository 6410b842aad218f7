//! Descriptors: how one document names another (OCI image-spec, descriptor.md).

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{Digest, Platform, media_type};

/// Annotation that holds the tag of an entry of index.json (OCI image-spec, annotations.md).
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Annotation that holds the full name of an entry of index.json (containerd's convention).
pub const IMAGE_NAME: &str = "io.containerd.image.name";
/// Annotation by which BuildKit marks attestation manifests.
pub const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// Annotation by which an attestation of BuildKit names its image.
pub const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";

/// Names some bytes by media type, digest and size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the bytes are.
    #[serde(default)]
    pub media_type: String,
    /// Their digest.
    pub digest: Digest,
    /// How many they are.
    pub size: u64,
    /// Other places of the bytes. Kept, and never fetched.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Free text by key.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// The bytes themselves in base64, where they are small.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// What the image runs on; only in entries of an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// The kind of an artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

impl Descriptor {
    /// Names bytes that are not at hand.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Descriptor {
        Descriptor {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            data: None,
            platform: None,
            artifact_type: None,
            extra: BTreeMap::new(),
        }
    }

    /// Names `bytes`.
    pub fn of(media_type: impl Into<String>, bytes: &[u8]) -> Descriptor {
        Descriptor::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// Gives the descriptor with a platform.
    #[must_use]
    pub fn with_platform(mut self, platform: Platform) -> Descriptor {
        self.platform = Some(platform);
        self
    }

    /// Gives the descriptor with one more annotation.
    #[must_use]
    pub fn with_annotation(mut self, key: &str, value: impl Into<String>) -> Descriptor {
        self.annotations.insert(key.to_owned(), value.into());
        self
    }

    /// Tells whether it names an index or manifest list.
    pub fn is_index(&self) -> bool {
        media_type::is_index(&self.media_type)
    }

    /// Tells whether it names an image manifest.
    pub fn is_manifest(&self) -> bool {
        media_type::is_manifest(&self.media_type)
    }

    /// Tells whether it names something that is no image to run: an attestation (BuildKit's
    /// provenance and SBOM entries have the platform `unknown/unknown`) or another artifact.
    pub fn is_attestation(&self) -> bool {
        self.annotations.contains_key(REFERENCE_TYPE)
            || self.platform.as_ref().is_some_and(Platform::is_unknown)
    }
}

/// Reads `null` as the default value: Go writes nil maps and slices so.
pub(crate) fn null_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
