//! Chooses the image for a platform out of an index.

use std::collections::HashSet;

use super::Source;
use super::copy::read_small;
use super::error::{Error, Result};
use crate::oci::manifest::MAX_DEPTH;
use crate::oci::{Descriptor, Digest, Document, ImageConfig, Index, Platform, media_type};

/// The most entries that are read for their platform; images that say none have a few.
const MAX_READ: usize = 1000;

/// Gives the images of an index, those of nested indexes included, each with its platform.
/// Attestations and other artifacts are left out. Where an entry does not say its platform, the
/// image's config does.
pub fn children(source: &dyn Source, index: &Index) -> Result<Vec<Descriptor>> {
    let mut out = Vec::new();
    collect(source, index, 0, &mut HashSet::new(), &mut out)?;
    Ok(out)
}

/// Chooses the image that suits a platform best; of equal ones the first. See [`Platform::rank`].
pub fn select_platform(source: &dyn Source, index: &Index, want: &Platform) -> Result<Descriptor> {
    let images = children(source, index)?;
    let best = images
        .iter()
        .filter_map(|image| Some((want.rank(image.platform.as_ref()?)?, image)))
        .min_by_key(|(rank, _)| *rank);
    if let Some((_, image)) = best {
        return Ok(image.clone());
    }
    let mut there: Vec<String> = Vec::new();
    for platform in images.iter().filter_map(|image| image.platform.as_ref()) {
        let shown = platform.clone().normalized().format_all();
        if !there.contains(&shown) {
            there.push(shown);
        }
    }
    Err(Error::NoPlatform { wanted: want.format_all(), there })
}

/// Gives the platforms of the images of a source.
pub fn platforms(source: &dyn Source) -> Result<Vec<Platform>> {
    let (root, bytes) = source.root()?;
    let place = source.describe();
    let what = root.digest.to_string();
    let document = Document::parse(&bytes, &root.media_type).map_err(|error| Error::Document {
        place,
        what,
        source: error,
    })?;
    match document {
        Document::Index(index) => {
            let images = children(source, &index)?;
            Ok(images.into_iter().filter_map(|image| image.platform).collect())
        }
        Document::Manifest(manifest) => {
            Ok(vec![super::filter::config_platform(source, &manifest)?])
        }
    }
}

fn collect(
    source: &dyn Source,
    index: &Index,
    depth: usize,
    read: &mut HashSet<Digest>,
    out: &mut Vec<Descriptor>,
) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::TooDeep { place: source.describe() });
    }
    for entry in &index.manifests {
        let no_image = !entry.media_type.is_empty()
            && !media_type::is_index(&entry.media_type)
            && !media_type::is_manifest(&entry.media_type);
        if no_image || entry.is_attestation() {
            continue;
        }
        let said = entry
            .platform
            .as_ref()
            .filter(|platform| !platform.os.is_empty() && !platform.architecture.is_empty());
        if said.is_some() && !entry.is_index() {
            out.push(entry.clone());
            continue;
        }
        // The same one again is the same image. Indexes of indexes that name one another many times
        // would cost requests without end.
        if !read.insert(entry.digest) {
            continue;
        }
        if read.len() > MAX_READ {
            let reason = format!("more than {MAX_READ} of its entries do not say their platform");
            return Err(Error::Damaged { place: source.describe(), reason });
        }
        let bytes = source.manifest(entry)?;
        let document =
            Document::parse(&bytes, &entry.media_type).map_err(|error| Error::Document {
                place: source.describe(),
                what: entry.digest.to_string(),
                source: error,
            })?;
        match document {
            Document::Index(nested) => collect(source, &nested, depth + 1, read, out)?,
            Document::Manifest(manifest) if manifest.is_image() => {
                let config = read_small(source, &manifest.config)?;
                let config = ImageConfig::parse(&config).map_err(|error| Error::Json {
                    place: source.describe(),
                    what: format!("config {}", manifest.config.digest),
                    source: error,
                })?;
                out.push(entry.clone().with_platform(config.platform()));
            }
            Document::Manifest(_) => {}
        }
    }
    Ok(())
}
