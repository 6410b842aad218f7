//! Configs, manifests and the index of a build's results.
//!
//! The config is the one that planning made, with layers and times filled in. Times come from the
//! records of the steps, so a build that finds everything in the cache makes the same bytes again.

use std::collections::BTreeMap;

use crate::graph::{NodeId, Op};
use crate::oci::{
    Descriptor, DiffId, Digest, Index, Manifest, Platform, canonical, config::History, media_type,
};
use crate::store::PackRecord;

use super::cache::inline;
use super::conductor::Conductor;
use super::error::{Failure, Kind};
use super::layers::BlobForm;

/// The image of one platform; its blobs are in the store.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its platform.
    pub platform: Platform,
    /// The manifest, with platform.
    pub descriptor: Descriptor,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// Digest of the config: the image id.
    pub config: Digest,
}

/// What a build leaves: one image, or an index of several.
#[derive(Debug, Clone)]
pub struct Product {
    /// Descriptor of the manifest or index.
    pub root: Descriptor,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// One a platform.
    pub images: Vec<Image>,
}

/// How images are made of layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// The blobs.
    pub form: BlobForm,
    /// Docker's media types in place of OCI's.
    pub docker_types: bool,
    /// Annotations; of equal ones the last counts.
    pub annotations: Vec<Annotation>,
}

/// One annotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    /// Where it stands.
    pub level: Level,
    /// Only for this platform.
    pub platform: Option<Platform>,
    /// Its name.
    pub key: String,
    /// Its text.
    pub value: String,
}

/// Where an annotation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// In the manifest of each image.
    Manifest,
    /// In the index's entry for each image; of a single image, in that of index.json.
    ManifestDescriptor,
    /// In the index.
    Index,
    /// In index.json's entry for the index.
    IndexDescriptor,
}

impl Recipe {
    fn annotations(&self, level: Level, platform: Option<&Platform>) -> BTreeMap<String, String> {
        self.annotations
            .iter()
            .filter(|annotation| annotation.level == level)
            .filter(|annotation| {
                annotation.platform.is_none() || annotation.platform.as_ref() == platform
            })
            .map(|annotation| (annotation.key.clone(), annotation.value.clone()))
            .collect()
    }
}

/// Makes the image of each output, and puts its config and manifest into the store.
pub fn assemble(
    conductor: &Conductor<'_>,
    outputs: &[crate::graph::Output],
    recipe: &Recipe,
) -> Result<Vec<Image>, Failure> {
    let graph = conductor.graph;
    let mut images = Vec::new();
    for output in outputs {
        let mut chain: Vec<NodeId> = Vec::new();
        let mut next = output.node;
        while let Some(id) = next {
            chain.push(id);
            next = graph.nodes[id].parent;
        }
        chain.reverse();
        let mut layers = Vec::new();
        let mut packed: Vec<(Option<NodeId>, PackRecord)> = Vec::new();
        let mut diff_ids: Vec<DiffId> = Vec::new();
        let mut times: Vec<i64> = Vec::new();
        for id in chain {
            let outcome = conductor.outcome(Some(id)).ok_or_else(|| {
                Failure::new(Kind::Store, "an image was assembled before its layers were made")
            })?;
            let own = match graph.nodes[id].op {
                Op::Image { .. } => &outcome.layers[..],
                _ => &outcome.layers[outcome.layers.len().saturating_sub(1)..],
            };
            for layer in own {
                let blob = conductor.layers.blob(layer, recipe.form)?;
                let media_type = media_type::to_oci(&blob.media_type).to_owned();
                let mut descriptor = Descriptor::new(&media_type, blob.digest, blob.size);
                descriptor.annotations = blob.annotations.clone();
                layers.push(descriptor);
                diff_ids.push(blob.diff_id);
                let node = (!matches!(graph.nodes[id].op, Op::Image { .. })).then_some(id);
                packed.push((node, blob));
            }
            if !matches!(graph.nodes[id].op, Op::Image { .. }) {
                times.push(outcome.created.unwrap_or_default());
            }
        }
        let mut config = output.config.clone();
        let epoch = conductor.build.options.epoch;
        let base_created = output.base.and_then(|base| graph.images[base].config.created.clone());
        let base_layers = diff_ids.len() - times.len();
        align_base_history(&mut config.history, output.base_history, base_layers);
        let created = date(&mut config.history, output.base_history, &times, epoch, base_created);
        config.created = Some(created);
        config.rootfs.diff_ids = diff_ids;
        // That of a base speaks of other steps.
        config.extra.remove(inline::FIELD);
        if conductor.build.cache.inline {
            let field = inline::field(conductor, recipe.form, &packed);
            config.extra.insert(inline::FIELD.to_owned(), field);
        }
        let bytes = canonical::to_vec(&config);
        let store = conductor.build.store;
        let failed =
            |error: crate::store::Error| Failure::of(Kind::Store, "cannot write the image", &error);
        let (config_digest, size) = store.blobs().put(&bytes).map_err(failed)?;
        let platform = platform_of(&output.config, &output.platform);
        let annotations = |level| recipe.annotations(level, Some(&output.platform));
        let mut manifest =
            Manifest::new(Descriptor::new(media_type::OCI_CONFIG, config_digest, size), layers);
        manifest.annotations = annotations(Level::Manifest);
        if recipe.docker_types {
            manifest = manifest.to_docker().map_err(|error| {
                let what = "cannot write the manifest in Docker's media types";
                Failure::of(Kind::Store, what, &error)
                    .with_hint("leave oci-mediatypes=false out, or add force-compression=true")
            })?;
        }
        let (mut descriptor, bytes) = manifest.encode();
        store.blobs().put(&bytes).map_err(failed)?;
        descriptor.platform = Some(platform);
        descriptor.annotations = annotations(Level::ManifestDescriptor);
        images.push(Image {
            platform: output.platform.clone(),
            descriptor,
            manifest: bytes,
            config: config_digest,
        });
    }
    Ok(images)
}

/// Joins images: one stays itself, several become an index.
pub fn join(
    store: &crate::store::Store,
    images: Vec<Image>,
    recipe: &Recipe,
) -> Result<Product, Failure> {
    if let [image] = &images[..] {
        let (root, bytes) = (image.descriptor.clone(), image.manifest.clone());
        return Ok(Product { root, bytes, images });
    }
    let mut index = Index::new(images.iter().map(|image| image.descriptor.clone()).collect());
    index.annotations = recipe.annotations(Level::Index, None);
    if recipe.docker_types {
        index.media_type = Some(media_type::DOCKER_LIST.to_owned());
    }
    let (mut root, bytes) = index.encode();
    store
        .blobs()
        .put(&bytes)
        .map_err(|error| Failure::of(Kind::Store, "cannot write the index", &error))?;
    root.annotations = recipe.annotations(Level::IndexDescriptor, None);
    Ok(Product { root, bytes, images })
}

fn platform_of(config: &crate::oci::ImageConfig, asked: &Platform) -> Platform {
    Platform {
        os: config.os.clone(),
        architecture: config.architecture.clone(),
        variant: config.variant.clone().or_else(|| asked.variant.clone()),
        os_version: config.os_version.clone(),
        os_features: config.os_features.clone(),
    }
}

/// Makes a base's history speak of as many layers as it has: some tools leave it out.
fn align_base_history(history: &mut Vec<History>, base_history: usize, layers: usize) {
    let told = history[..base_history.min(history.len())]
        .iter()
        .filter(|entry| !entry.empty_layer)
        .count();
    for _ in told..layers {
        history.insert(
            base_history.min(history.len()),
            History { comment: Some("layer of the base image".into()), ..History::default() },
        );
    }
}

/// Gives every new history entry its time, and returns the image's own.
fn date(
    history: &mut [History],
    base_history: usize,
    times: &[i64],
    epoch: Option<i64>,
    base_created: Option<String>,
) -> String {
    let text = |seconds: i64| {
        jiff::Timestamp::from_second(seconds)
            .map_or_else(|_| "1970-01-01T00:00:00Z".to_owned(), |time| time.to_string())
    };
    let mut last = match epoch {
        Some(epoch) => text(epoch),
        None => base_created.unwrap_or_else(|| text(times.first().copied().unwrap_or(0))),
    };
    // Entries that were put in for silent base layers carry no `created_by` and no time.
    let own = history.iter_mut().skip(base_history).filter(|entry| entry.created_by.is_some());
    let mut times = times.iter();
    for entry in own {
        if epoch.is_none()
            && !entry.empty_layer
            && let Some(time) = times.next()
        {
            last = text(*time);
        }
        entry.created = Some(last.clone());
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str, layer: bool) -> History {
        History { created_by: Some(text.to_owned()), empty_layer: !layer, ..History::default() }
    }

    #[test]
    fn history_times_come_from_the_steps() {
        let mut history = vec![entry("base", true), entry("ENV", false), entry("RUN", true)];
        let created = date(&mut history, 1, &[86_400], None, Some("2020-01-01T00:00:00Z".into()));
        assert_eq!(created, "1970-01-02T00:00:00Z");
        assert_eq!(history[0].created, None);
        assert_eq!(history[1].created.as_deref(), Some("2020-01-01T00:00:00Z"));
        assert_eq!(history[2].created.as_deref(), Some("1970-01-02T00:00:00Z"));
    }

    #[test]
    fn an_epoch_dates_new_entries_and_never_the_base() {
        let mut history = vec![entry("base", true), entry("RUN", true), entry("CMD", false)];
        let created =
            date(&mut history, 1, &[86_400], Some(0), Some("2020-01-01T00:00:00Z".into()));
        assert_eq!(created, "1970-01-01T00:00:00Z");
        assert_eq!(history[0].created, None);
        assert_eq!(history[2].created.as_deref(), Some("1970-01-01T00:00:00Z"));
    }

    #[test]
    fn history_and_layers_are_aligned() {
        let mut history = vec![entry("ENV", false), entry("RUN", true)];
        align_base_history(&mut history, 1, 2);
        assert_eq!(history.iter().filter(|entry| !entry.empty_layer).count(), 3);
    }
}
