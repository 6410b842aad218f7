//! `--cache-to`: entries of steps, written while the build goes on.
//!
//! Each step that is done goes to a queue; a few threads take from it, pack the layer where nobody
//! has, and send it. The queue is drained before the build ends, also when a step failed (what was
//! done is there for the next build), and not when the user stopped it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Instant;

use crate::graph::{NodeId, Op};
use crate::layer::compress::Compression;
use crate::oci::{Descriptor, media_type};
use crate::transport::{self, OpenBlob};

use super::{Mode, Packed, Record, To, entry_key, known_tag, whole_tag, write_entry};
use crate::build::conductor::Conductor;
use crate::build::error::{Failure, Kind, chain};
use crate::build::event::{Event, StepId, Work};
use crate::build::layers::{BlobForm, EPOCH, lock};

/// Entries that are written at a time: sending waits for the network, packing for the processor.
pub const JOBS: usize = 3;

/// The export of one build to all of its caches.
pub struct Exporter<'e> {
    conductor: &'e Conductor<'e>,
    queue: Mutex<Receiver<NodeId>>,
    /// Which nodes lie in an output.
    in_output: &'e [bool],
    /// The form of blobs where a cache does not ask for one.
    form: BlobForm,
    places: Vec<Place<'e>>,
}

/// One cache, and how far its export is.
struct Place<'e> {
    to: &'e To,
    step: StepId,
    started: Instant,
    /// Something was sent.
    busy: AtomicBool,
    failure: Mutex<Option<Failure>>,
}

impl<'e> Exporter<'e> {
    /// Starts with what the build knows. The numbers of its steps begin far above those of nodes.
    pub fn new(
        conductor: &'e Conductor<'e>,
        queue: Receiver<NodeId>,
        in_output: &'e [bool],
        form: Option<BlobForm>,
    ) -> Exporter<'e> {
        let epoch = conductor.build.options.epoch;
        let places = conductor.build.cache.to.iter().enumerate().map(|(number, to)| Place {
            to,
            step: usize::MAX / 2 + number,
            started: Instant::now(),
            busy: AtomicBool::new(false),
            failure: Mutex::new(None),
        });
        Exporter {
            conductor,
            queue: Mutex::new(queue),
            in_output,
            form: form.unwrap_or(BlobForm { compression: Compression::GZIP, epoch, force: false }),
            places: places.collect(),
        }
    }

    /// Takes steps from the queue until its other end is dropped. For several threads.
    pub fn work(&self) {
        loop {
            let next = lock(&self.queue).recv();
            let Ok(id) = next else { return };
            if self.conductor.build.cancel.is_cancelled() {
                return;
            }
            for place in &self.places {
                if lock(&place.failure).is_some() {
                    continue;
                }
                if let Err(failure) = self.export(place, id) {
                    lock(&place.failure).get_or_insert(failure);
                }
                // The entry is there, or will not be.
                if let (Some(lease), Some(key)) = (&place.to.lease, self.conductor.key_of(id)) {
                    lease.end(&entry_key(key, self.conductor.build.options.epoch));
                }
            }
        }
    }

    /// Tells how it went, and gives the failure that fails the build.
    pub fn finish(self) -> Result<(), Failure> {
        let watch = self.conductor.build.watch;
        let mut result = Ok(());
        for place in self.places {
            let took = place.started.elapsed();
            let step = place.step;
            match place.failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
                None if place.busy.into_inner() => watch.event(Event::Finished { step, took }),
                None => {}
                Some(failure) if place.to.ignore_error => {
                    watch.event(Event::Warning(failure.message));
                }
                Some(failure) => {
                    watch.event(Event::Failed { step, message: failure.message.clone(), took });
                    if result.is_ok() {
                        result = Err(failure);
                    }
                }
            }
        }
        result
    }

    /// Writes the entry of one step, unless it is there.
    fn export(&self, place: &Place<'_>, id: NodeId) -> Result<(), Failure> {
        let conductor = self.conductor;
        if matches!(
            conductor.graph.nodes[id].op,
            Op::Image { .. } | Op::Local { .. } | Op::Remote(_)
        ) {
            return Ok(());
        }
        let (Some(key), Some(outcome)) = (conductor.key_of(id), conductor.outcome(Some(id))) else {
            return Ok(());
        };
        let Some(layer) = outcome.layers.last() else { return Ok(()) };
        let shelf = &place.to.shelf;
        let name = entry_key(key, conductor.build.options.epoch);
        if conductor.build.cache.found_on(&name) == Some(shelf.describe()) {
            return Ok(());
        }
        let whole =
            (place.to.mode == Mode::Max || self.in_output[id]) && conductor.layers.usable(layer);
        let tag = if whole { whole_tag(&name) } else { known_tag(&name) };
        let failed = |error: transport::Error| {
            let kind = if error.is_damage() { Kind::Store } else { Kind::Network };
            let what = format!("cannot write to the cache {}", shelf.describe());
            let mut failure = Failure::of(kind, &what, &error);
            failure.hints.extend(error.hint());
            failure.with_hint(
                "ignore-error=true lets a build go through when its cache cannot be written",
            )
        };
        if shelf.has(&tag).map_err(failed)? {
            return Ok(());
        }
        let created = outcome.created.unwrap_or_default();
        let known = conductor.build.store.steps().get(&key).unwrap_or_default();
        let mut extra = known.extra;
        extra.remove(EPOCH);
        let (version, layer_name) = (super::VERSION, layer.clone());
        let mut record =
            Record { version, key: name, layer: layer_name, created, blob: None, extra };
        let mut blob = None;
        if whole {
            let form = match place.to.compression {
                Some(compression) => BlobForm { compression, ..self.form },
                None => self.form,
            };
            let packed = match conductor.layers.blob(layer, form) {
                Ok(packed) => packed,
                // A layer of another cache that could not be had: that is no fault of this one.
                Err(failure) if failure.layer.is_some() => {
                    conductor.build.watch.event(Event::Warning(failure.message));
                    return Ok(());
                }
                Err(failure) => return Err(failure),
            };
            record.blob = Some(Packed {
                diff_id: packed.diff_id,
                diff_size: packed.diff_size,
                params: form.params(),
            });
            let media_type = media_type::to_oci(&packed.media_type);
            let mut descriptor = Descriptor::new(media_type, packed.digest, packed.size);
            descriptor.annotations = packed.annotations;
            blob = Some(descriptor);
        }
        if !place.busy.swap(true, Ordering::Relaxed) {
            let step = place.step;
            let name = format!("exporting cache to {}", shelf.describe());
            let planned = Event::Planned { step, work: Work::Export, name, emulated: false };
            conductor.build.watch.event(planned);
            conductor.build.watch.event(Event::Started { step });
        }
        if let Some(blob) = &blob {
            let store = conductor.build.store;
            let open: &mut OpenBlob<'_> = &mut |offset| {
                let file = store.blobs().open(&blob.digest)?;
                transport::file_from(file, blob, offset)
            };
            shelf.put_blob(blob, open).map_err(failed)?;
            let (item, size) = (blob.digest.to_string(), blob.size);
            let progress =
                Event::Progress { step: place.step, item, done: size, total: Some(size) };
            conductor.build.watch.event(progress);
        }
        let (manifest, bytes, text) = write_entry(&record, blob);
        let config = Descriptor::of(super::MEDIA_TYPE, &text);
        shelf
            .put_blob(&config, &mut |offset| Ok(transport::bytes_from(&text, offset)))
            .and_then(|()| shelf.put(&tag, &manifest, &bytes))
            .map_err(failed)
    }
}

/// Says why a cache cannot be written, before the build begins.
pub fn refused(to: &To) -> Option<Failure> {
    let error = to.shelf.check_writable().err()?;
    let message = format!("the cache {} cannot be written: {}", to.shelf.describe(), chain(&error));
    let mut failure = Failure::new(Kind::Network, message);
    failure.hints.extend(error.hint());
    Some(
        failure.with_hint(
            "ignore-error=true lets a build go through when its cache cannot be written",
        ),
    )
}
