//! `type=inline`: the cache of an image lies in the image's own config.
//!
//! The config gets one more field, as BuildKit's does, with the steps of the image (their layers are
//! those of the image) and, without layers, all other steps that it was made from. An image that is
//! named by `--cache-from type=registry,ref=…` is a shelf of these entries.

use std::collections::HashMap;
use std::io::Read;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::graph::NodeId;
use crate::layer::LayerId;
use crate::oci::{Descriptor, DiffId, Digest, Document, ImageConfig, Manifest};
use crate::store::PackParams;
use crate::transport::shelf::Shelf;
use crate::transport::{Error, OpenBlob, Result, Source, read_small};

use super::{Packed, Record, VERSION, entry_key, known_tag, whole_tag, write_entry};
use crate::build::conductor::Conductor;
use crate::build::layers::BlobForm;
use crate::store::PackRecord;

/// The field of a config.
pub const FIELD: &str = "dev.lapstrake.cache.v1";

/// The cache in a config.
#[derive(Debug, Serialize, Deserialize)]
struct Steps {
    version: u32,
    /// How the layers were packed.
    params: PackParams,
    steps: Vec<Step>,
}

/// One step.
#[derive(Debug, Serialize, Deserialize)]
struct Step {
    key: Digest,
    layer: LayerId,
    created: i64,
    /// Which layer of the image, and the size of its tar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    place: Option<(usize, u64)>,
}

/// Gives the field for an image, whose layers are `blobs`, made by `nodes` (None for the base's).
pub fn field(
    conductor: &Conductor<'_>,
    form: BlobForm,
    blobs: &[(Option<NodeId>, PackRecord)],
) -> Value {
    let epoch = conductor.build.options.epoch;
    let exported = conductor.exported();
    let mut steps: Vec<Step> = Vec::new();
    for id in (0..exported.len()).filter(|id| exported[*id]) {
        let (Some(key), Some(outcome)) = (conductor.key_of(id), conductor.outcome(Some(id))) else {
            continue;
        };
        let Some(layer) = outcome.layers.last().cloned() else { continue };
        let place = blobs
            .iter()
            .position(|(node, _)| *node == Some(id))
            .map(|index| (index, blobs[index].1.diff_size));
        let (key, created) = (entry_key(key, epoch), outcome.created.unwrap_or_default());
        // One entry a key: platforms may share steps, and the one with a layer says more.
        match steps.iter_mut().find(|step| step.key == key) {
            Some(known) if known.place.is_none() => known.place = place,
            Some(_) => {}
            None => steps.push(Step { key, layer, created, place }),
        }
    }
    steps.sort_by_key(|step| step.key);
    let field = Steps { version: VERSION, params: form.params(), steps };
    serde_json::to_value(field).unwrap_or_default()
}

/// An image as a shelf. It is read when something is looked for.
pub struct InlineShelf {
    image: Box<dyn Source>,
    entries: OnceLock<HashMap<String, Vec<u8>>>,
}

impl InlineShelf {
    /// Names an image.
    pub fn new(image: Box<dyn Source>) -> InlineShelf {
        InlineShelf { image, entries: OnceLock::new() }
    }

    /// Reads the caches of all platforms. An image that is not there, or that has no cache in it, has
    /// no entries.
    fn read(&self) -> Result<HashMap<String, Vec<u8>>> {
        let mut entries = HashMap::new();
        let (root, bytes) = match self.image.root() {
            Ok(root) => root,
            Err(Error::Registry(error)) if error.is_not_found() => return Ok(entries),
            Err(error) => return Err(error),
        };
        let parse = |bytes: &[u8], media_type: &str| {
            Document::parse(bytes, media_type).map_err(|source| Error::Document {
                place: self.image.describe(),
                what: "the image".to_owned(),
                source,
            })
        };
        match parse(&bytes, &root.media_type)? {
            Document::Manifest(manifest) => self.add(&manifest, &mut entries)?,
            Document::Index(index) => {
                for child in index.manifests.iter().filter(|child| !child.is_attestation()) {
                    let bytes = self.image.manifest(child)?;
                    if let Document::Manifest(manifest) = parse(&bytes, &child.media_type)? {
                        self.add(&manifest, &mut entries)?;
                    }
                }
            }
        }
        Ok(entries)
    }

    fn add(&self, manifest: &Manifest, entries: &mut HashMap<String, Vec<u8>>) -> Result<()> {
        if !manifest.is_image() {
            return Ok(());
        }
        let bytes = read_small(self.image.as_ref(), &manifest.config)?;
        let Ok(config) = ImageConfig::parse(&bytes) else { return Ok(()) };
        let Some(field) = config.extra.get(FIELD) else { return Ok(()) };
        let steps: Steps = serde_json::from_value(field.clone()).map_err(|source| Error::Json {
            place: self.image.describe(),
            what: format!("the cache in config {}", manifest.config.digest),
            source,
        })?;
        if steps.version != VERSION {
            return Ok(());
        }
        for step in steps.steps {
            let found: Option<(&Descriptor, &DiffId, u64)> =
                step.place.and_then(|(index, size)| {
                    Some((manifest.layers.get(index)?, config.rootfs.diff_ids.get(index)?, size))
                });
            let blob = found.map(|(_, diff_id, diff_size)| Packed {
                diff_id: *diff_id,
                diff_size,
                params: steps.params.clone(),
            });
            let tag = match found {
                Some(_) => whole_tag(&step.key),
                None => known_tag(&step.key),
            };
            let (key, layer, created) = (step.key, step.layer, step.created);
            let extra = Default::default();
            let record = Record { version: VERSION, key, layer, created, blob, extra };
            let (_, bytes, _) = write_entry(&record, found.map(|(layer, ..)| layer.clone()));
            entries.insert(tag, bytes);
        }
        Ok(())
    }

    fn refuse(&self) -> Error {
        Error::Unsupported {
            form: "an image",
            what: "more entries of a cache".to_owned(),
            instead: "write to a repository",
        }
    }
}

impl Shelf for InlineShelf {
    fn find(&self, tag: &str) -> Result<Option<Vec<u8>>> {
        if let Some(entries) = self.entries.get() {
            return Ok(entries.get(tag).cloned());
        }
        let entries = self.read()?;
        Ok(self.entries.get_or_init(|| entries).get(tag).cloned())
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
        self.image.blob(descriptor)
    }

    fn has(&self, tag: &str) -> Result<bool> {
        Ok(self.find(tag)?.is_some())
    }

    fn put_blob(&self, _: &Descriptor, _: &mut OpenBlob<'_>) -> Result<()> {
        Err(self.refuse())
    }

    fn put(&self, _: &str, _: &Descriptor, _: &[u8]) -> Result<()> {
        Err(self.refuse())
    }

    fn replace(&self, _: &str, _: &Descriptor, _: &[u8]) -> Result<()> {
        Err(self.refuse())
    }

    fn check_writable(&self) -> Result<()> {
        Err(self.refuse())
    }

    fn describe(&self) -> String {
        self.image.describe()
    }
}
