//! Cache mounts that are carried from machine to machine: `--cache-mount id=…,from=…,to=…`.
//!
//! What a `RUN --mount=type=cache` directory holds is one layer of an artifact on a shelf. It is
//! brought in when a step asks for the mount and this store has none, and written when a build that
//! has used it went through. The tag moves: unlike the entry of a step, a cache mount is never more
//! than a help, so the last writer wins.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::layer::compress::{Compression, Decoder};
use crate::layer::pack::{PackOptions, pack};
use crate::layer::tar::Reader;
use crate::layer::toc::EntryRef;
use crate::layer::tree::Tree;
use crate::oci::{Descriptor, Digest, Document, Manifest, canonical, media_type};
use crate::sandbox::IdMap;
use crate::snapshot::{self, DiffOptions, TreeWriter};
use crate::store::{MountId, Sharing};
use crate::transport::{self, OpenBlob, shelf::Shelf};

use super::Build;
use super::conductor::Conductor;
use super::error::{Failure, Kind, chain};
use super::event::{Event, Work};
use super::files::{Directory, Files};
use super::layers::lock;

/// Media type of the artifact and of its config.
const MEDIA_TYPE: &str = "application/vnd.lapstrake.cache-mount.v1+json";

/// One place of a cache mount.
pub struct Spot {
    /// Where.
    pub shelf: Arc<dyn Shelf>,
    /// Under which tag; None: one that follows from the id, so that one place may hold several.
    pub tag: Option<String>,
}

impl Spot {
    fn tag(&self, id: &str) -> String {
        self.tag.clone().unwrap_or_else(|| format!("m-{}", Digest::of(id.as_bytes()).hex()))
    }
}

/// Where a cache mount comes from and goes to.
#[derive(Default)]
pub struct Ways {
    /// `from=`.
    pub from: Vec<Spot>,
    /// `to=`.
    pub to: Vec<Spot>,
}

/// All `--cache-mount`s of a build.
#[derive(Default)]
pub struct Carried {
    /// By the id of the mount.
    pub ways: BTreeMap<String, Ways>,
    /// Those that steps of this build have used.
    used: Mutex<BTreeMap<String, MountId>>,
}

impl Carried {
    /// Notes that a step uses a mount.
    pub(super) fn note(&self, mount: &MountId) {
        if self.ways.contains_key(&mount.id) {
            lock(&self.used).entry(mount.id.clone()).or_insert_with(|| mount.clone());
        }
    }

    /// Fetches the first content of a new mount, where there is one, as a blob of the store. A place
    /// that cannot be read is a warning: the mount is only ever a help.
    pub(super) fn fetch(&self, build: &Build<'_>, id: &str) -> Option<PathBuf> {
        for spot in &self.ways.get(id)?.from {
            match fetch(build, spot, &spot.tag(id)) {
                Ok(None) => {}
                Ok(Some(blob)) => return Some(blob),
                Err(error) => build.watch.event(Event::Warning(format!(
                    "the cache mount {id:?} cannot be taken from {} and starts without it: {}",
                    spot.shelf.describe(),
                    chain(&error)
                ))),
            }
        }
        None
    }

    /// Writes the mounts that steps of this build have used to where they go.
    pub(super) fn send(&self, conductor: &Conductor<'_>) -> Result<(), Failure> {
        let build = conductor.build;
        let mut number = 0;
        for (id, mount) in lock(&self.used).iter() {
            for spot in self.ways.get(id).into_iter().flat_map(|ways| &ways.to) {
                let step = usize::MAX / 2 + 1000 + number;
                number += 1;
                let name = format!("exporting cache mount {id} to {}", spot.shelf.describe());
                let planned = Event::Planned { step, work: Work::Export, name, emulated: false };
                build.watch.event(planned);
                build.watch.event(Event::Started { step });
                let started = Instant::now();
                let sent = send(conductor, mount, spot);
                let took = started.elapsed();
                match sent {
                    Ok(()) => build.watch.event(Event::Finished { step, took }),
                    Err(failure) => {
                        let message = failure.message.clone();
                        build.watch.event(Event::Failed { step, message, took });
                        return Err(failure);
                    }
                }
            }
        }
        Ok(())
    }
}

fn fetch(build: &Build<'_>, spot: &Spot, tag: &str) -> transport::Result<Option<PathBuf>> {
    let Some(bytes) = spot.shelf.find(tag)? else { return Ok(None) };
    let place = spot.shelf.describe();
    let damaged = |reason: &str| transport::Error::Damaged {
        place: format!("{place}:{tag}"),
        reason: reason.to_owned(),
    };
    let document = Document::parse(&bytes, "").map_err(|source| transport::Error::Document {
        place: place.clone(),
        what: tag.to_owned(),
        source,
    })?;
    let Document::Manifest(manifest) = document else { return Err(damaged("it is an index")) };
    let [layer] = &manifest.layers[..] else { return Err(damaged("it has not one layer")) };
    if manifest.config.media_type != MEDIA_TYPE
        || media_type::layer_compression(&layer.media_type).is_none()
    {
        return Err(damaged("it is no cache mount"));
    }
    let blobs = build.store.blobs();
    if !blobs.contains_sized(&layer.digest, layer.size) {
        let mut writer = blobs.writer()?;
        let mut reader = spot.shelf.blob(layer)?;
        std::io::copy(&mut reader, &mut writer).map_err(|source| transport::Error::Read {
            place: place.clone(),
            what: layer.digest.to_string(),
            source,
        })?;
        writer.commit(Some((layer.digest, layer.size)))?;
    }
    Ok(Some(blobs.path(&layer.digest)))
}

/// Unpacks a fetched mount. The blob is not kept: the mount has it now.
pub(super) fn unpack(
    blob: &std::path::Path,
    mut writer: TreeWriter,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut reader = Reader::new(Decoder::new(std::fs::File::open(blob)?)?);
    while let Some((entry, mut content)) = reader.next_entry()? {
        writer.entry(&entry, &mut content)?;
    }
    writer.finish()?;
    // Nothing leads to it; the pruner would remove it some day.
    let _ = std::fs::remove_file(blob);
    Ok(())
}

fn send(conductor: &Conductor<'_>, mount: &MountId, spot: &Spot) -> Result<(), Failure> {
    let build = conductor.build;
    let place = spot.shelf.describe();
    let what = format!("cannot write the cache mount {:?} to {place}", mount.id);
    let local = |error: &(dyn std::error::Error + 'static)| Failure::of(Kind::Store, &what, error);
    let session = conductor
        .layers
        .session()
        .ok_or_else(|| Failure::new(Kind::Host, "a mount was used without a user namespace"))?;
    let map: &IdMap = session.id_map();
    // Nobody changes it while it is read.
    let guard = build
        .store
        .mounts()
        .acquire(mount, Sharing::Locked, &|| build.cancel.is_cancelled())
        .map_err(|error| local(&error))?;
    let options = DiffOptions {
        owner: (mount.uid, mount.gid),
        stubs: &[],
        owned: None,
        now: build.options.now(),
    };
    let toc = snapshot::diff(guard.path(), &Tree::default(), map, &options)
        .map_err(|error| local(&error))?;
    let files = Directory::open(guard.path()).map_err(|error| local(&error))?;
    let options = PackOptions {
        compression: Compression::GZIP,
        threads: build.options.threads,
        epoch: build.options.epoch,
    };
    let mut writer = build.store.blobs().unhashed_writer().map_err(|error| local(&error))?;
    let mut open = |entry: &EntryRef<'_>| {
        files.open(&entry.root_path()).map(|file| file as Box<dyn std::io::Read>)
    };
    let packed = pack(&toc, &mut open, options, &mut writer).map_err(|error| local(&error))?;
    let known = build.store.blobs().contains(&packed.digest);
    writer.commit_as(packed.digest).map_err(|error| local(&error))?;
    drop(guard);
    let layer = Descriptor::new(options.compression.media_type(), packed.digest, packed.size);
    let text = canonical::to_vec(&serde_json::json!({
        "version": 1,
        "id": mount.id,
        "diff_id": packed.diff_id,
    }));
    let mut config = Descriptor::of(MEDIA_TYPE, &text);
    config.data = Some(STANDARD.encode(&text));
    let mut manifest = Manifest::new(config.clone(), vec![layer.clone()]);
    manifest.artifact_type = Some(MEDIA_TYPE.to_owned());
    let (mut descriptor, bytes) = manifest.encode();
    descriptor.artifact_type = Some(MEDIA_TYPE.to_owned());
    let open: &mut OpenBlob<'_> = &mut |offset| {
        let file = build.store.blobs().open(&layer.digest)?;
        transport::file_from(file, &layer, offset)
    };
    let sent = spot
        .shelf
        .put_blob(&layer, open)
        .and_then(|()| {
            let open: &mut OpenBlob<'_> = &mut |offset| Ok(transport::bytes_from(&text, offset));
            spot.shelf.put_blob(&config, open)
        })
        .and_then(|()| spot.shelf.replace(&spot.tag(&mount.id), &descriptor, &bytes));
    if !known {
        // The mount has it, and so does the shelf.
        let _ = std::fs::remove_file(build.store.blobs().path(&layer.digest));
    }
    sent.map_err(|error| {
        let kind = if error.is_damage() { Kind::Store } else { Kind::Network };
        let mut failure = Failure::of(kind, &what, &error);
        failure.hints.extend(error.hint());
        failure
    })
}
