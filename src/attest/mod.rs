//! Attestations: what an image was made of (SLSA provenance) and what is in it (an SPDX SBOM), as
//! in-toto statements in a manifest that names the image.
//!
//! | file | what it makes |
//! |---|---|
//! | `provenance.rs` | the predicate `https://slsa.dev/provenance/v1`, in the shape of BuildKit |
//! | `sbom.rs` | the predicate `https://spdx.dev/Document`, SPDX 2.3 |
//! | `package/` | databases and metadata of packages → names and versions |
//! | `purl.rs` | package URLs |
//! | `redact.rs` | takes secrets and credentials out of all of them |
//!
//! Invariants: pure (the files of the image are handed in as bytes); the same facts make the same
//! bytes: nothing here knows a clock, a random number or a path of this machine.
//!
//! Start reading at [`Statement`] and [`Attached`].

pub mod package;
pub mod provenance;
pub mod purl;
pub mod redact;
pub mod sbom;

use serde_json::{Value, json};

use crate::oci::descriptor::{REFERENCE_DIGEST, REFERENCE_TYPE};
use crate::oci::{Descriptor, Digest, Manifest, Platform, canonical, media_type};

pub use redact::Scrubber;

/// Media type of a statement.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";
/// Annotation of a layer that says what its statement states.
pub const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";

/// How much provenance tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// What was built from what; no build arguments, no steps.
    #[default]
    Min,
    /// Build arguments, secrets' names, steps, the Dockerfile.
    Max,
}

/// Provenance that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProvenanceOptions {
    /// `mode=`.
    pub mode: Mode,
    /// `builder-id=`.
    pub builder_id: String,
    /// `reproducible=`: the user says that the same inputs make the same bytes.
    pub reproducible: bool,
}

/// How attestations are bound to their image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Attach {
    /// As entries of the index, as buildx does.
    #[default]
    Index,
    /// As OCI 1.1 referrers: the image stays as it is.
    Referrers,
}

/// All that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// `--provenance`.
    pub provenance: Option<ProvenanceOptions>,
    /// `--sbom`.
    pub sbom: bool,
    /// `--attach`.
    pub attach: Attach,
}

impl Wanted {
    /// Says whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.provenance.is_none() && !self.sbom
    }
}

/// An in-toto statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// What it states.
    pub predicate_type: &'static str,
    /// JSON.
    pub bytes: Vec<u8>,
}

impl Statement {
    /// States `predicate` about a manifest. `names` are those that the image gets; without one it is
    /// called `_`, as BuildKit does.
    pub fn new(
        predicate_type: &'static str,
        names: &[crate::oci::Reference],
        platform: &Platform,
        digest: &Digest,
        predicate: &Value,
    ) -> Statement {
        let digests = json!({ "sha256": digest.hex() });
        let mut subject: Vec<Value> = names
            .iter()
            .map(|name| json!({ "name": purl::docker(name, platform), "digest": digests }))
            .collect();
        if subject.is_empty() {
            subject.push(json!({ "name": "_", "digest": digests }));
        }
        let statement = json!({
            "_type": "https://in-toto.io/Statement/v1",
            "predicateType": predicate_type,
            "subject": subject,
            "predicate": predicate,
        });
        Statement { predicate_type, bytes: canonical::to_vec(&statement) }
    }

    fn layer(&self) -> Descriptor {
        Descriptor::of(IN_TOTO, &self.bytes).with_annotation(PREDICATE_TYPE, self.predicate_type)
    }
}

/// A manifest of statements, and all that must be stored for it.
#[derive(Debug, Clone)]
pub struct Attached {
    /// Descriptor of the manifest, as it stands in an index or in a list of referrers.
    pub descriptor: Descriptor,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// Config and statements.
    pub blobs: Vec<Vec<u8>>,
    /// The image that they are about.
    pub subject: Digest,
}

impl Attached {
    /// Makes the manifest of an image's statements.
    pub fn new(attach: Attach, image: &Descriptor, statements: &[Statement]) -> Attached {
        match attach {
            Attach::Index => Attached::entry(image, statements),
            Attach::Referrers => Attached::referrer(image, statements),
        }
    }

    /// BuildKit's form: a manifest that looks like an image of no platform.
    fn entry(image: &Descriptor, statements: &[Statement]) -> Attached {
        let layers: Vec<Descriptor> = statements.iter().map(Statement::layer).collect();
        let diff_ids: Vec<&Digest> = layers.iter().map(|layer| &layer.digest).collect();
        let config = canonical::to_vec(&json!({
            "architecture": "unknown",
            "os": "unknown",
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        }));
        let manifest = Manifest::new(Descriptor::of(media_type::OCI_CONFIG, &config), layers);
        let (descriptor, bytes) = manifest.encode();
        let unknown = Platform {
            os: "unknown".to_owned(),
            architecture: "unknown".to_owned(),
            variant: None,
            os_version: None,
            os_features: Vec::new(),
        };
        let descriptor = descriptor
            .with_platform(unknown)
            .with_annotation(REFERENCE_TYPE, "attestation-manifest")
            .with_annotation(REFERENCE_DIGEST, image.digest.to_string());
        Attached {
            descriptor,
            manifest: bytes,
            blobs: blobs(config, statements),
            subject: image.digest,
        }
    }

    /// OCI's form (image-spec 1.1, "Guidelines for Artifact Usage"): an artifact with a subject.
    fn referrer(image: &Descriptor, statements: &[Statement]) -> Attached {
        let config = b"{}".to_vec();
        let mut manifest = Manifest::new(
            Descriptor::of(media_type::OCI_EMPTY, &config),
            statements.iter().map(Statement::layer).collect(),
        );
        manifest.artifact_type = Some(IN_TOTO.to_owned());
        let subject = Descriptor::new(image.media_type.clone(), image.digest, image.size);
        manifest.subject = Some(subject);
        let (mut descriptor, bytes) = manifest.encode();
        descriptor.artifact_type = Some(IN_TOTO.to_owned());
        Attached {
            descriptor,
            manifest: bytes,
            blobs: blobs(config, statements),
            subject: image.digest,
        }
    }
}

fn blobs(config: Vec<u8>, statements: &[Statement]) -> Vec<Vec<u8>> {
    std::iter::once(config).chain(statements.iter().map(|one| one.bytes.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Descriptor {
        Descriptor::of(media_type::OCI_MANIFEST, b"image")
    }

    fn statement(names: &[&str]) -> Statement {
        let names: Vec<_> = names.iter().map(|name| name.parse().unwrap()).collect();
        let platform = "linux/arm64".parse().unwrap();
        let digest = image().digest;
        Statement::new(sbom::PREDICATE, &names, &platform, &digest, &json!({"a": 1}))
    }

    #[test]
    fn a_statement_names_its_image() {
        let value: Value = serde_json::from_slice(&statement(&["app:1", "r.example/x:2"]).bytes)
            .expect("it is JSON");
        assert_eq!(value["subject"][0]["name"], "pkg:docker/app@1?platform=linux%2Farm64");
        assert_eq!(value["subject"][1]["name"], "pkg:docker/r.example/x@2?platform=linux%2Farm64");
        assert_eq!(value["subject"][1]["digest"]["sha256"], image().digest.hex());
        let value: Value = serde_json::from_slice(&statement(&[]).bytes).expect("it is JSON");
        assert_eq!(value["subject"][0]["name"], "_");
    }

    #[test]
    fn an_entry_is_an_image_of_no_platform() {
        let made = Attached::new(Attach::Index, &image(), &[statement(&[])]);
        assert!(made.descriptor.is_attestation());
        assert_eq!(made.descriptor.annotations[REFERENCE_DIGEST], image().digest.to_string());
        let manifest: Manifest = serde_json::from_slice(&made.manifest).expect("it is JSON");
        assert_eq!(manifest.layers[0].media_type, IN_TOTO);
        assert_eq!(manifest.layers[0].annotations[PREDICATE_TYPE], "https://spdx.dev/Document");
        assert_eq!(manifest.subject, None);
        assert_eq!(made.blobs.len(), 2);
        assert_eq!(Digest::of(&made.blobs[0]), manifest.config.digest);
        assert_eq!(Digest::of(&made.blobs[1]), manifest.layers[0].digest);
    }

    #[test]
    fn a_referrer_has_a_subject_and_a_type() {
        let made = Attached::new(Attach::Referrers, &image(), &[statement(&[])]);
        let manifest: Manifest = serde_json::from_slice(&made.manifest).expect("it is JSON");
        assert_eq!(manifest.subject.map(|subject| subject.digest), Some(image().digest));
        assert_eq!(manifest.artifact_type.as_deref(), Some(IN_TOTO));
        assert_eq!(made.descriptor.artifact_type.as_deref(), Some(IN_TOTO));
        assert_eq!(made.descriptor.platform, None);
    }
}
