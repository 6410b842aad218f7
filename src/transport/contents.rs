//! The tables of contents of an image's layers, read from wherever it lies, without unpacking.

use std::io::{self, Read};
use std::sync::Arc;

use super::Source;
use super::blob::read_error;
use super::error::{Error, Result};
use super::fetch::{Progress, in_parallel};
use crate::layer::compress::Decoder;
use crate::layer::tar::Reader;
use crate::layer::toc::{Kind, Toc, TocBuilder};
use crate::oci::digest::Hasher;
use crate::oci::{Descriptor, Manifest};

/// Reads all layers of an image, bottom first, `jobs` at once. Every file has its digest.
pub fn read_contents(
    source: &dyn Source,
    manifest: &Manifest,
    jobs: usize,
    progress: &Progress<'_>,
) -> Result<Vec<Arc<Toc>>> {
    let tocs = in_parallel(&manifest.layers, jobs, |layer| read_layer(source, layer, progress))?;
    Ok(tocs.into_iter().map(Arc::new).collect())
}

fn read_layer(source: &dyn Source, layer: &Descriptor, progress: &Progress<'_>) -> Result<Toc> {
    let place = source.describe();
    let label = layer.digest.to_string();
    progress(&label, 0, Some(layer.size));
    let mut blob = source.blob(layer)?;
    let failed = |error| read_error(&place, &label, error);
    let wrong = |error: crate::layer::tar::Error| match error {
        crate::layer::tar::Error::Io(error) => failed(error),
        error => Error::Damaged { place: place.clone(), reason: format!("layer {label}: {error}") },
    };
    let decoder = Decoder::new(&mut blob).map_err(failed)?;
    let mut reader = Reader::new(decoder);
    let mut out = TocBuilder::new();
    let mut buffer = vec![0; 64 << 10];
    while let Some((mut entry, mut content)) = reader.next_entry().map_err(wrong)? {
        if let Kind::File { digest, .. } = &mut entry.kind {
            let mut hasher = Hasher::new();
            loop {
                match content.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => hasher.update(&buffer[..count]),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(failed(error)),
                }
            }
            *digest = Some(hasher.finish());
        }
        out.push(entry);
    }
    reader.finish().map_err(wrong)?;
    // The blob's own digest covers what lies behind the compressed data too.
    io::copy(&mut blob, &mut io::sink()).map_err(failed)?;
    progress(&label, layer.size, Some(layer.size));
    Ok(out.finish())
}
