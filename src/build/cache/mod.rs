//! The build cache beyond the store: `--cache-from` and `--cache-to`.
//!
//! # Model
//!
//! An *entry* is what one step made: a small manifest under a tag that follows from the step's key,
//! with the layer's blob. Keys name results before they exist and do not depend on the machine, so
//! whoever has the same step finds the entry, in a store that has never seen a build as well.
//!
//! | tag | says | written for |
//! |---|---|---|
//! | `s-<key>` | which layer the step made, when, and its blob | every step (`mode=max`), those of an output (`mode=min`) |
//! | `k-<key>` | the same without the blob | the other steps with `mode=min`: they make the keys of later steps known |
//!
//! The record of the step lies in the manifest itself (as `data` of its config), so a hit costs one
//! request. The blob is fetched when somebody needs the layer's files or an output its blob, and
//! never for a step that only leads to others.
//!
//! An image may hold the same in its config ([`inline`]).
//!
//! With SOURCE_DATE_EPOCH blobs have other times, so their entries have other tags.
//!
//! Machines that build the same at the same time wait for each other where they are asked to
//! ([`lease`]).
//!
//! # What a cache may lie about
//!
//! An entry repeats its key. A RUN's layer must be named after that key; any other layer is named
//! after its table of contents, which is compared when the blob was read. Blobs must have the digest
//! and size of the manifest, and their tar the DiffId of the record. What differs is not taken into
//! the store, the entry counts for nothing, and the step is run. (Who may write to a cache may still
//! put another layer under a RUN's key, as in any cache: let only builds that you trust write.)
//!
//! A cache that cannot be read is a warning and never fails a build. One that cannot be written does,
//! unless it has `ignore-error=true`.
//!
//! Start reading at [`Cache::find`] and, for the other way, [`export`].

pub mod export;
pub mod inline;
pub mod lease;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::layer::{Compression, LayerId};
use crate::oci::{Descriptor, DiffId, Digest, Document, Manifest, canonical};
use crate::store::PackParams;
use crate::transport::shelf::Shelf;

use super::error::chain;
use super::event::{Event, Watch};
use super::layers::lock;

/// Media type of an entry and of its record.
pub const MEDIA_TYPE: &str = "application/vnd.lapstrake.step.v1+json";

/// The shape of a record.
const VERSION: u32 = 1;

/// Which steps an export holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The layers of the outputs.
    Min,
    /// The layers of all steps.
    Max,
}

/// One `--cache-to`.
pub struct To {
    /// Where.
    pub shelf: Arc<dyn Shelf>,
    /// What.
    pub mode: Mode,
    /// `ignore-error=true`.
    pub ignore_error: bool,
    /// `compression=`; None: that of the outputs.
    pub compression: Option<Compression>,
    /// `lease=`.
    pub lease: Option<lease::Lease>,
}

/// One `--cache-from`.
struct From {
    shelf: Arc<dyn Shelf>,
    /// It failed once, and is not asked again.
    failed: AtomicBool,
}

/// All caches of a build.
#[derive(Default)]
pub struct Cache {
    from: Vec<From>,
    /// Where results go.
    pub to: Vec<To>,
    /// `type=inline`: into the images as well.
    pub inline: bool,
    /// Layers whose blobs were not what they should be.
    distrusted: Mutex<BTreeSet<LayerId>>,
    /// Entries that were found whole, by the key in their tags.
    found: Mutex<HashMap<Digest, Hit>>,
    /// What was found for steps whose turn had not come.
    ahead: Mutex<HashMap<Digest, Hit>>,
    /// Keys that nobody knew.
    missed: Mutex<BTreeSet<Digest>>,
    /// Restarts that distrust has cost.
    restarts: Mutex<usize>,
}

/// What a step made, as an entry tells it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Record {
    version: u32,
    /// The key in the tag.
    key: Digest,
    layer: LayerId,
    /// Seconds since 1970.
    created: i64,
    /// How the blob was packed; None when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blob: Option<Packed>,
    /// What else the store's record of the step has.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    extra: BTreeMap<String, serde_json::Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Packed {
    diff_id: DiffId,
    diff_size: u64,
    params: PackParams,
}

/// What was found.
#[derive(Clone)]
pub struct Hit {
    /// The layer.
    pub layer: LayerId,
    /// When the step ran.
    pub created: i64,
    /// What else the store's record of the step had.
    pub extra: BTreeMap<String, serde_json::Value>,
    /// Its blob; None when the entry has none.
    pub remote: Option<Remote>,
}

/// A layer that can be fetched.
#[derive(Clone)]
pub struct Remote {
    /// Where from.
    pub shelf: Arc<dyn Shelf>,
    /// Its blob.
    pub descriptor: Descriptor,
    /// Digest of its tar.
    pub diff_id: DiffId,
    /// Size of its tar.
    pub diff_size: u64,
    /// How it was packed.
    pub params: PackParams,
    /// The key of the step in the store.
    pub key: Digest,
    /// When the step ran.
    pub created: i64,
    /// What else the store's record of the step had.
    pub extra: BTreeMap<String, serde_json::Value>,
}

/// After so many restarts for layers that could not be had, no cache is trusted any more.
const MAX_RESTARTS: usize = 3;

impl Cache {
    /// Adds a place to look in, after those that are there.
    pub fn look_in(&mut self, shelf: Arc<dyn Shelf>) {
        self.from.push(From { shelf, failed: AtomicBool::new(false) });
    }

    /// Says whether there is anywhere to look.
    pub fn is_empty(&self) -> bool {
        self.from.is_empty()
    }

    /// Looks a step's key up, in one place after the other. `is_run` says what kind of step it is;
    /// with `again`, places that did not know the key are asked once more.
    pub fn find(
        &self,
        key: Digest,
        is_run: bool,
        epoch: Option<i64>,
        again: bool,
        watch: &dyn Watch,
    ) -> Option<Hit> {
        let name = entry_key(key, epoch);
        let ahead = lock(&self.ahead).remove(&name);
        let known = ahead.or_else(|| lock(&self.found).get(&name).cloned());
        if let Some(hit) = known.filter(|hit| !lock(&self.distrusted).contains(&hit.layer)) {
            return Some(hit);
        }
        if !again && lock(&self.missed).contains(&name) {
            return None;
        }
        for tag in [whole_tag(&name), known_tag(&name)] {
            for from in self.from.iter().filter(|from| !from.failed.load(Ordering::Relaxed)) {
                let place = from.shelf.describe();
                let read = match from.shelf.find(&tag) {
                    Ok(None) => continue,
                    Ok(Some(bytes)) => read_entry(&bytes, &name, key, is_run, &from.shelf),
                    Err(error) if error.is_damage() && !is_io(&error) => Err(chain(&error)),
                    Err(error) => {
                        if !from.failed.swap(true, Ordering::Relaxed) {
                            watch.event(Event::Warning(format!(
                                "the cache {place} cannot be read and is left out: {}",
                                chain(&error)
                            )));
                        }
                        continue;
                    }
                };
                match read {
                    Ok(hit) if lock(&self.distrusted).contains(&hit.layer) => {}
                    Ok(hit) => {
                        if hit.remote.is_some() {
                            lock(&self.found).insert(name, hit.clone());
                        }
                        return Some(hit);
                    }
                    Err(reason) => watch.event(Event::Warning(format!(
                        "the entry {tag} of the cache {place} is damaged and is left out: {reason}"
                    ))),
                }
            }
        }
        lock(&self.missed).insert(name);
        None
    }

    /// Says whether it is known what the caches say to a key.
    pub fn has_asked(&self, key: Digest, epoch: Option<i64>) -> bool {
        let name = entry_key(key, epoch);
        lock(&self.found).contains_key(&name)
            || lock(&self.missed).contains(&name)
            || lock(&self.ahead).contains_key(&name)
    }

    /// Looks keys up side by side (each with whether it is a RUN's), so that [`Cache::find`] has the
    /// answers.
    pub fn look_ahead(&self, keys: &[(Digest, bool)], epoch: Option<i64>, watch: &dyn Watch) {
        std::thread::scope(|scope| {
            for &(key, is_run) in keys {
                scope.spawn(move || {
                    if let Some(hit) = self.find(key, is_run, epoch, false, watch) {
                        lock(&self.ahead).insert(entry_key(key, epoch), hit);
                    }
                });
            }
        });
    }

    /// Gives the leases of the build, unless the registry has failed.
    pub fn lease(&self) -> Option<&lease::Lease> {
        self.to.iter().find_map(|to| to.lease.as_ref()).filter(|lease| !lease.is_broken())
    }

    /// Lets go of the lease of a step that failed.
    pub fn end_turn(&self, key: Digest, epoch: Option<i64>) {
        if let Some(lease) = self.lease() {
            lease.end(&entry_key(key, epoch));
        }
    }

    /// Gives the place where the entry of a key was found whole.
    fn found_on(&self, name: &Digest) -> Option<String> {
        let remote = lock(&self.found).get(name)?.remote.clone()?;
        Some(remote.shelf.describe())
    }

    /// Never takes a layer from a cache again.
    pub(super) fn distrust(&self, layer: &LayerId) {
        lock(&self.distrusted).insert(layer.clone());
        let mut restarts = lock(&self.restarts);
        *restarts += 1;
        if *restarts >= MAX_RESTARTS {
            self.from.iter().for_each(|from| from.failed.store(true, Ordering::Relaxed));
        }
    }
}

/// A directory that is not there is like a registry that does not answer.
fn is_io(error: &crate::transport::Error) -> bool {
    matches!(error, crate::transport::Error::Io { .. })
}

/// Gives the key under which entries lie.
pub(super) fn entry_key(key: Digest, epoch: Option<i64>) -> Digest {
    match epoch {
        None => key,
        Some(epoch) => Digest::of(format!("{key} packed at {epoch}").as_bytes()),
    }
}

fn whole_tag(name: &Digest) -> String {
    format!("s-{}", name.hex())
}

fn known_tag(name: &Digest) -> String {
    format!("k-{}", name.hex())
}

/// Makes the manifest and the record of an entry.
fn write_entry(record: &Record, blob: Option<Descriptor>) -> (Descriptor, Vec<u8>, Vec<u8>) {
    let bytes = canonical::to_vec(record);
    let mut config = Descriptor::of(MEDIA_TYPE, &bytes);
    config.data = Some(STANDARD.encode(&bytes));
    let mut manifest = Manifest::new(config, blob.into_iter().collect());
    manifest.artifact_type = Some(MEDIA_TYPE.to_owned());
    let (mut descriptor, encoded) = manifest.encode();
    descriptor.artifact_type = Some(MEDIA_TYPE.to_owned());
    (descriptor, encoded, bytes)
}

fn read_entry(
    bytes: &[u8],
    name: &Digest,
    key: Digest,
    is_run: bool,
    shelf: &Arc<dyn Shelf>,
) -> Result<Hit, String> {
    let manifest = match Document::parse(bytes, "") {
        Ok(Document::Manifest(manifest)) => manifest,
        Ok(Document::Index(_)) => return Err("it is an index".to_owned()),
        Err(error) => return Err(chain(&error)),
    };
    if manifest.config.media_type != MEDIA_TYPE {
        return Err(format!("its config is of type {:?}", manifest.config.media_type));
    }
    let data = manifest.config.data.as_deref().unwrap_or_default();
    let text = STANDARD.decode(data).map_err(|error| chain(&error))?;
    if Digest::of(&text) != manifest.config.digest {
        return Err("its record has another digest".to_owned());
    }
    let record: Record = serde_json::from_slice(&text).map_err(|error| chain(&error))?;
    if record.version != VERSION {
        return Err(format!("it is of version {}", record.version));
    }
    if record.key != *name {
        return Err(format!("it is the entry of another step, {}", record.key));
    }
    let fits = if is_run {
        record.layer == LayerId::from_run_key(key)
    } else {
        LayerId::parse(record.layer.as_str()).is_some() && record.layer.as_str().starts_with("c-")
    };
    if !fits {
        return Err(format!("it names the layer {}, which is none of this step", record.layer));
    }
    let remote = match (record.blob, &manifest.layers[..]) {
        (None, []) => None,
        (Some(packed), [blob]) => Some(Remote {
            shelf: shelf.clone(),
            descriptor: blob.clone(),
            diff_id: packed.diff_id,
            diff_size: packed.diff_size,
            params: packed.params,
            key,
            created: record.created,
            extra: record.extra.clone(),
        }),
        (_, blobs) => return Err(format!("it has {} layers", blobs.len())),
    };
    Ok(Hit { layer: record.layer, created: record.created, extra: record.extra, remote })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::shelf::LayoutShelf;

    fn record(key: Digest, layer: LayerId) -> Record {
        let params = PackParams { compression: "gzip-3".into(), ..PackParams::default() };
        let blob = Packed { diff_id: DiffId(Digest::of(b"tar")), diff_size: 3, params };
        Record {
            version: VERSION,
            key,
            layer,
            created: 5,
            blob: Some(blob),
            extra: BTreeMap::new(),
        }
    }

    fn blob() -> Descriptor {
        Descriptor::of("application/vnd.oci.image.layer.v1.tar+gzip", b"blob")
    }

    #[test]
    fn an_entry_comes_back_and_one_that_lies_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let shelf: Arc<dyn Shelf> = Arc::new(LayoutShelf::new(dir.path()));
        let key = Digest::of(b"key");
        let run = LayerId::from_run_key(key);
        let computed = LayerId::from_toc_digest(Digest::of(b"toc"));
        let read = |record: &Record, blob: Option<Descriptor>, is_run| {
            let (_, bytes, _) = write_entry(record, blob);
            read_entry(&bytes, &key, key, is_run, &shelf)
        };
        let hit = read(&record(key, run.clone()), Some(blob()), true).ok().unwrap();
        assert_eq!((hit.layer, hit.created), (run.clone(), 5));
        assert_eq!(hit.remote.map(|remote| remote.descriptor), Some(blob()));
        assert!(read(&record(key, computed.clone()), Some(blob()), false).is_ok());
        let hollow = Record { blob: None, ..record(key, run.clone()) };
        assert!(read(&hollow, None, true).is_ok_and(|hit| hit.remote.is_none()));
        for (record, blob, is_run, reason) in [
            (record(Digest::of(b"other"), run.clone()), Some(blob()), true, "another step"),
            (record(key, computed), Some(blob()), true, "none of this step"),
            (record(key, run.clone()), Some(blob()), false, "none of this step"),
            (record(key, run.clone()), None, true, "0 layers"),
            (hollow, Some(blob()), true, "1 layers"),
            (Record { version: 2, ..record(key, run) }, Some(blob()), true, "version 2"),
        ] {
            let error = read(&record, blob, is_run).err().unwrap();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn an_epoch_has_entries_of_its_own() {
        let key = Digest::of(b"key");
        assert_eq!(entry_key(key, None), key);
        assert_ne!(entry_key(key, Some(0)), key);
        assert!(whole_tag(&key).len() <= 128);
    }
}
