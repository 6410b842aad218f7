//! What `--format` templates see of an image.
//!
//! One object with the fields of `docker image inspect` (Id, Os, Config, RootFS, …), of `docker
//! buildx imagetools inspect` (Name, Manifest, Image, Provenance, SBOM) and of `skopeo inspect`
//! (Digest, Labels, Layers, LayersData, Env). Where they differ in what a name means, Docker counts.
//! Size is what the layers have in a registry, since nothing is unpacked here.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Shown, ShownKind, predicate_type};
use crate::oci::{Descriptor, ImageConfig, Manifest, Platform};
use crate::transport::{self, ImageName, Source, filter::REFERENCE_DIGEST};

/// One image of those that a name stands for.
pub(super) struct Image<'a> {
    pub(super) descriptor: &'a Descriptor,
    pub(super) manifest: &'a Manifest,
    pub(super) config: &'a ImageConfig,
}

impl Image<'_> {
    /// Gives the platform: the index knows best.
    pub(super) fn platform(&self) -> Platform {
        let said = self.descriptor.platform.clone();
        said.unwrap_or_else(|| self.config.platform()).normalized()
    }
}

/// Gives the images of a tree, without attestations and artifacts.
pub(super) fn images(shown: &Shown) -> Vec<Image<'_>> {
    match &shown.kind {
        ShownKind::Index(children) => children.iter().flat_map(images).collect(),
        ShownKind::Image(image) => match &**image {
            (manifest, Some(config))
                if manifest.is_image() && !shown.descriptor.is_attestation() =>
            {
                vec![Image { descriptor: &shown.descriptor, manifest, config }]
            }
            _ => Vec::new(),
        },
        ShownKind::Missing(_) => Vec::new(),
    }
}

/// Gives all attestations of a tree, with the digest of the image that each is about.
fn attestations(shown: &Shown) -> Vec<(&str, &Manifest)> {
    match &shown.kind {
        ShownKind::Index(children) => children.iter().flat_map(attestations).collect(),
        ShownKind::Image(image) if shown.descriptor.is_attestation() => {
            let about = shown.descriptor.annotations.get(REFERENCE_DIGEST);
            about.map(|about| (about.as_str(), &image.0)).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

/// Makes the object. `chosen` is the image that the fields of a single image are about.
pub(super) fn view(
    name: &ImageName,
    text: &str,
    shown: &Shown,
    chosen: &Image<'_>,
    source: &dyn Source,
    wanted: &str,
) -> transport::Result<Value> {
    let all = images(shown);
    let root = &shown.descriptor;
    let is_index = matches!(shown.kind, ShownKind::Index(_));
    let config = chosen.config;
    let labels = json!(config.config.labels);
    let layers = &chosen.manifest.layers;
    let (tags, digests) = match name {
        ImageName::Registry(reference) | ImageName::Store(reference) => {
            let bare = crate::oci::Reference { digest: None, ..reference.clone() };
            let tagged = match reference.digest {
                Some(_) => bare.tag.is_some().then(|| bare.familiar()),
                None => Some(bare.clone().with_default_tag().familiar()),
            };
            let repository = crate::oci::Reference { tag: None, ..bare };
            (
                json!(Vec::from_iter(tagged)),
                json!([format!("{}@{}", repository.familiar(), root.digest)]),
            )
        }
        _ => (json!([]), json!([])),
    };
    let mut manifest = json!(root);
    if let ShownKind::Index(children) = &shown.kind {
        manifest["manifests"] = children.iter().map(|child| json!(child.descriptor)).collect();
    } else {
        manifest["config"] = json!(chosen.manifest.config);
        manifest["layers"] = json!(layers);
    }
    let image = match is_index {
        false => json!(config),
        true => {
            let each = all.iter().map(|image| (image.platform().to_string(), json!(image.config)));
            Value::Object(each.collect::<Map<_, _>>())
        }
    };
    let mut out = json!({
        "Name": text,
        "Id": chosen.manifest.config.digest,
        "Digest": root.digest,
        "MediaType": root.media_type,
        "RepoTags": tags,
        "RepoDigests": digests,
        "Created": config.created.clone().unwrap_or_default(),
        "Author": config.author.clone().unwrap_or_default(),
        "Architecture": config.architecture,
        "Variant": config.variant.clone().unwrap_or_default(),
        "Os": config.os,
        "OsVersion": config.os_version.clone().unwrap_or_default(),
        "Platform": chosen.platform().to_string(),
        "Platforms": all.iter().map(|image| image.platform().format_all()).collect::<Vec<_>>(),
        "Size": layers.iter().map(|layer| layer.size).sum::<u64>(),
        "Config": runtime(config),
        "RootFS": { "Type": config.rootfs.kind, "Layers": config.rootfs.diff_ids },
        "History": config.history,
        "Labels": labels,
        "Env": config.config.env,
        "Layers": layers.iter().map(|layer| layer.digest).collect::<Vec<_>>(),
        "LayersData": layers.iter().map(|layer| json!({
            "MIMEType": layer.media_type,
            "Digest": layer.digest,
            "Size": layer.size,
            "Annotations": layer.annotations,
        })).collect::<Vec<_>>(),
        "Manifest": manifest,
        "Image": image,
        "Provenance": {},
        "SBOM": {},
    });
    // Statements may have megabytes: they are read when they are asked for.
    if wanted.contains("Provenance") || wanted.contains("SBOM") {
        statements(&mut out, shown, chosen, source)?;
    }
    Ok(out)
}

/// Fills in what attestations say: of the chosen image, and of each platform.
fn statements(
    out: &mut Value,
    shown: &Shown,
    chosen: &Image<'_>,
    source: &dyn Source,
) -> transport::Result<()> {
    for (about, manifest) in attestations(shown) {
        let digest = about.to_owned();
        let image =
            images(shown).into_iter().find(|image| image.descriptor.digest.to_string() == digest);
        let Some(image) = image else { continue };
        for layer in &manifest.layers {
            let (field, kind) = match predicate_type(layer) {
                Some(kind) if kind.contains("slsa.dev/provenance") => ("Provenance", "SLSA"),
                Some(kind) if kind.contains("spdx.dev") => ("SBOM", "SPDX"),
                _ => continue,
            };
            let bytes = transport::read_small(source, layer)?;
            let statement: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let predicate = statement.get("predicate").cloned().unwrap_or_default();
            if image.descriptor.digest == chosen.descriptor.digest {
                out[field][kind] = predicate.clone();
            }
            out[field][image.platform().to_string()][kind] = predicate;
        }
    }
    Ok(())
}

/// Gives the runtime config with the fields that Docker always has, so that a template that asks for
/// one which is not set prints nothing.
fn runtime(config: &ImageConfig) -> Value {
    let mut out = json!(config.config);
    let defaults: BTreeMap<&str, Value> = BTreeMap::from([
        ("User", json!("")),
        ("WorkingDir", json!("")),
        ("StopSignal", json!("")),
        ("Env", json!([])),
        ("Cmd", json!([])),
        ("Entrypoint", json!([])),
        ("Shell", json!([])),
        ("OnBuild", json!([])),
        ("Labels", json!({})),
        ("Volumes", json!({})),
        ("ExposedPorts", json!({})),
    ]);
    if let Value::Object(map) = &mut out {
        for (key, value) in defaults {
            let entry = map.entry(key).or_insert(Value::Null);
            if entry.is_null() {
                *entry = value;
            }
        }
    }
    out
}
