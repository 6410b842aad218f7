//! Checks images whole, as strictly as the specification allows. Tests run every image that any of
//! them makes through here.
//!
//! [`source`] checks an image: that each document parses and is what its descriptor says, each blob
//! is there with its size and digest, each layer decompresses to its DiffId, the config fits its
//! layers, history and platform, and media types are those of the specification and of one family.
//! [`layout`] checks a layout directory around its images: the marker, the entries and their names,
//! that every file is a blob under its own digest, and that something names it.
//!
//! All problems are collected; none stops the walk.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use super::Source;
use super::copy::read_small;
use super::layout::LayoutSource;
use super::name::Selector;
use crate::layer::compress::Decoder;
use crate::oci::descriptor::{IMAGE_NAME, REF_NAME};
use crate::oci::digest::Hasher;
use crate::oci::manifest::MAX_DEPTH;
use crate::oci::media_type::{self, LayerCompression};
use crate::oci::{
    Descriptor, DiffId, Digest, Document, ImageConfig, Index, Manifest, Platform, Reference,
};

/// What was found in an image or layout that has no problems.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// The images, in the order of the walk, each with its platform.
    pub images: Vec<(Digest, Platform)>,
    /// All that is named, documents and blobs, with sizes.
    pub reached: BTreeMap<Digest, u64>,
}

/// What is wrong, one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Problems {}

/// Checks the image of a source.
pub fn source(source: &dyn Source) -> Result<Summary, Problems> {
    let mut check = Check { source, summary: Summary::default(), problems: Vec::new() };
    match source.root() {
        Ok((root, bytes)) => {
            check.summary.reached.insert(root.digest, root.size);
            if root.digest != Digest::of(&bytes) || root.size != bytes.len() as u64 {
                check.problem("root", "its bytes are not those of its descriptor".to_owned());
            }
            check.document(&root, &bytes, 0);
        }
        Err(error) => check.problem("root", chain(&error)),
    }
    check.finish()
}

/// Checks a layout directory and every image in it.
pub fn layout(path: &Path) -> Result<Summary, Problems> {
    let mut problems = Vec::new();
    let mut summary = Summary::default();
    match fs::read(path.join("oci-layout")) {
        Ok(bytes) => {
            let version = serde_json::from_slice::<serde_json::Value>(&bytes)
                .ok()
                .and_then(|value| value["imageLayoutVersion"].as_str().map(str::to_owned));
            if version.as_deref() != Some("1.0.0") {
                problems.push("oci-layout: imageLayoutVersion is not \"1.0.0\"".to_owned());
            }
        }
        Err(error) => problems.push(format!("oci-layout: {error}")),
    }
    let index =
        fs::read(path.join("index.json")).map_err(|error| error.to_string()).and_then(|bytes| {
            match Document::parse(&bytes, media_type::OCI_INDEX) {
                Ok(Document::Index(index)) => Ok(index),
                Ok(Document::Manifest(_)) => Err("it is a manifest".to_owned()),
                Err(error) => Err(chain(&error)),
            }
        });
    match index {
        Ok(index) => {
            names(&index, &mut problems);
            entries(path, &index, &mut summary, &mut problems);
        }
        Err(reason) => problems.push(format!("index.json: {reason}")),
    }
    files(path, &summary, &mut problems);
    if problems.is_empty() { Ok(summary) } else { Err(Problems(problems)) }
}

/// Checks every entry of an index.json.
fn entries(path: &Path, index: &Index, summary: &mut Summary, problems: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for entry in &index.manifests {
        if !entry.is_index() && !entry.is_manifest() {
            problems.push(format!(
                "index.json: entry {} has media type {:?}",
                entry.digest, entry.media_type
            ));
        }
        if !seen.insert(entry.digest) {
            continue;
        }
        let selector = Selector { name: None, digest: Some(entry.digest) };
        match LayoutSource::open(path, &selector) {
            Ok(opened) => {
                let mut check =
                    Check { source: &opened, summary: Summary::default(), problems: Vec::new() };
                check.summary.reached.insert(entry.digest, entry.size);
                match opened.manifest(entry) {
                    Ok(bytes) => {
                        let images = check.document(entry, &bytes, 0);
                        if let (Some(said), [own]) = (&entry.platform, images.as_slice()) {
                            check.platform("index.json", said, own);
                        }
                    }
                    Err(error) => check.problem("index.json", chain(&error)),
                }
                summary.images.extend(check.summary.images);
                summary.reached.extend(check.summary.reached);
                problems.extend(check.problems);
            }
            Err(error) => problems.push(format!("index.json: {}", chain(&error))),
        }
    }
}

/// Checks the names of the entries of an index.json.
fn names(index: &Index, problems: &mut Vec<String>) {
    let mut full = BTreeSet::new();
    let mut tags = BTreeMap::new();
    for entry in &index.manifests {
        let tag = entry.annotations.get(REF_NAME);
        let image = entry.annotations.get(IMAGE_NAME);
        if let Some(image) = image {
            match image.parse::<Reference>() {
                Ok(reference) if reference.to_string() != *image => {
                    problems.push(format!("index.json: {image:?} is not a full name"));
                }
                Ok(reference) if tag.is_some() && reference.tag.as_ref() != tag => {
                    problems.push(format!("index.json: {image:?} has the tag {tag:?}"));
                }
                Ok(_) => {}
                Err(error) => problems.push(format!("index.json: {}", chain(&error))),
            }
            if !full.insert(image) {
                problems.push(format!("index.json: {image:?} names two entries"));
            }
        } else if let Some(tag) = tag
            && tags.insert(tag, entry.digest).is_some_and(|other| other != entry.digest)
            && entry.platform.is_none()
        {
            problems.push(format!("index.json: {tag:?} names two entries without platform"));
        }
    }
}

/// Checks that every file is a blob, under its own digest, that something names.
fn files(path: &Path, summary: &Summary, problems: &mut Vec<String>) {
    let list = |dir: &Path| -> Vec<String> {
        let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
        let mut names: Vec<String> = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    for name in list(path) {
        if !matches!(name.as_str(), "oci-layout" | "index.json" | "blobs") {
            problems.push(format!("{name}: does not belong into a layout"));
        }
    }
    for name in list(&path.join("blobs")) {
        if name != "sha256" {
            problems.push(format!("blobs/{name}: is no known algorithm"));
        }
    }
    let blobs = path.join("blobs/sha256");
    for name in list(&blobs) {
        match Digest::from_hex(&name) {
            Some(digest) if summary.reached.contains_key(&digest) => {}
            Some(digest) => problems.push(format!("blobs/sha256/{digest}: nothing names it")),
            None => problems.push(format!("blobs/sha256/{name}: is no digest")),
        }
    }
}

struct Check<'a> {
    source: &'a dyn Source,
    summary: Summary,
    problems: Vec<String>,
}

impl Check<'_> {
    fn problem(&mut self, place: &str, what: String) {
        self.problems.push(format!("{place}: {what}"));
    }

    fn finish(self) -> Result<Summary, Problems> {
        if self.problems.is_empty() { Ok(self.summary) } else { Err(Problems(self.problems)) }
    }

    /// Checks a manifest or index and all below it; gives the platforms of the images.
    fn document(&mut self, descriptor: &Descriptor, bytes: &[u8], depth: usize) -> Vec<Platform> {
        let place = format!("manifest {}", descriptor.digest);
        if depth > MAX_DEPTH {
            self.problem(&place, "is nested too deep".to_owned());
            return Vec::new();
        }
        let document = match Document::parse(bytes, &descriptor.media_type) {
            Ok(document) => document,
            Err(error) => {
                self.problem(&place, chain(&error));
                return Vec::new();
            }
        };
        match document {
            Document::Index(index) => self.index(&place, &index, depth),
            Document::Manifest(manifest) => {
                self.manifest(&place, descriptor, &manifest).into_iter().collect()
            }
        }
    }

    fn index(&mut self, place: &str, index: &Index, depth: usize) -> Vec<Platform> {
        if index.schema_version != 2 {
            self.problem(place, format!("schemaVersion is {}", index.schema_version));
        }
        let mut out = Vec::new();
        let mut platforms = BTreeSet::new();
        for entry in &index.manifests {
            if !entry.is_index() && !entry.is_manifest() {
                self.problem(place, format!("entry of media type {:?}", entry.media_type));
                continue;
            }
            self.summary.reached.insert(entry.digest, entry.size);
            let bytes = match self.source.manifest(entry) {
                Ok(bytes) => bytes,
                Err(error) => {
                    self.problem(place, chain(&error));
                    continue;
                }
            };
            let below = self.document(entry, &bytes, depth + 1);
            if entry.is_index() || entry.is_attestation() {
                out.extend(below);
                continue;
            }
            match (&entry.platform, below.as_slice()) {
                (Some(said), [own]) => self.platform(place, said, own),
                (None, [_]) => self.problem(place, format!("{} has no platform", entry.digest)),
                _ => {}
            }
            for mut platform in below {
                // Many builders leave the version out of the config, and the index tells images of
                // Windows apart by it.
                if let (None, Some(said)) = (&platform.os_version, &entry.platform) {
                    platform.os_version = said.os_version.clone();
                }
                if !platforms.insert(platform.format_all()) {
                    self.problem(place, format!("two images for {}", platform.format_all()));
                }
                out.push(platform);
            }
        }
        out
    }

    /// Compares the platform that an index says with that of the config.
    fn platform(&mut self, place: &str, said: &Platform, own: &Platform) {
        let said = said.clone().normalized();
        let same = said.os == own.os
            && said.architecture == own.architecture
            && said.variant == own.variant
            && (said.os_version == own.os_version || own.os_version.is_none());
        if !same {
            let (said, own) = (said.format_all(), own.format_all());
            self.problem(place, format!("says {said}, the config says {own}"));
        }
    }

    /// Checks one image; gives its platform when it is one.
    fn manifest(
        &mut self,
        place: &str,
        descriptor: &Descriptor,
        manifest: &Manifest,
    ) -> Option<Platform> {
        if manifest.schema_version != 2 {
            self.problem(place, format!("schemaVersion is {}", manifest.schema_version));
        }
        self.media_types(place, descriptor, manifest);
        self.summary.reached.insert(manifest.config.digest, manifest.config.size);
        let config = match read_small(self.source, &manifest.config) {
            Ok(config) => config,
            Err(error) => {
                self.problem(place, chain(&error));
                return None;
            }
        };
        // BuildKit's attestations have an image's config and layers that are statements.
        if !manifest.is_image() || descriptor.is_attestation() {
            for layer in &manifest.layers {
                self.blob(place, layer);
            }
            return None;
        }
        let config = match ImageConfig::parse(&config) {
            Ok(config) => config,
            Err(error) => {
                self.problem(place, format!("config: {error}"));
                return None;
            }
        };
        self.config(place, manifest, &config);
        for (at, layer) in manifest.layers.iter().enumerate() {
            self.layer(place, layer, config.rootfs.diff_ids.get(at));
        }
        let platform = config.platform();
        self.summary.images.push((descriptor.digest, platform.clone()));
        Some(platform)
    }

    fn media_types(&mut self, place: &str, descriptor: &Descriptor, manifest: &Manifest) {
        let docker = media_type::is_docker(&descriptor.media_type);
        match &manifest.media_type {
            Some(own) if *own == descriptor.media_type => {}
            None if !docker => {}
            own => self.problem(
                place,
                format!("says mediaType {own:?}, named as {:?}", descriptor.media_type),
            ),
        }
        if !manifest.is_image() || descriptor.is_attestation() {
            return;
        }
        for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
            if media_type::is_docker(&blob.media_type) != docker {
                self.problem(
                    place,
                    format!("mixes Docker's types and OCI's ({})", blob.media_type),
                );
            }
        }
        for layer in &manifest.layers {
            if !media_type::is_layer(&layer.media_type) {
                self.problem(place, format!("layer of media type {:?}", layer.media_type));
            }
        }
    }

    fn config(&mut self, place: &str, manifest: &Manifest, config: &ImageConfig) {
        if config.rootfs.kind != "layers" {
            self.problem(place, format!("config: rootfs.type is {:?}", config.rootfs.kind));
        }
        if config.os.is_empty() || config.architecture.is_empty() {
            self.problem(place, "config: has no platform".to_owned());
        }
        let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
        if layers != diff_ids {
            self.problem(place, format!("{layers} layers, but {diff_ids} diff_ids"));
        }
        // A config without any history is legal; one with a wrong history is not.
        if !config.history.is_empty() && config.history_layers() != layers {
            let count = config.history_layers();
            self.problem(place, format!("{layers} layers, but {count} in the history"));
        }
        for time in std::iter::once(&config.created)
            .chain(config.history.iter().map(|entry| &entry.created))
            .flatten()
        {
            if time.parse::<jiff::Timestamp>().is_err() {
                self.problem(place, format!("config: {time:?} is no RFC 3339 time"));
            }
        }
        for variable in &config.config.env {
            if variable.split_once('=').is_none_or(|(name, _)| name.is_empty()) {
                self.problem(place, format!("config: {variable:?} in Env is no NAME=value"));
            }
        }
    }

    /// Reads a blob to its end, which verifies it.
    fn blob(&mut self, place: &str, blob: &Descriptor) {
        self.summary.reached.insert(blob.digest, blob.size);
        let read = self.source.blob(blob).and_then(|mut reader| {
            io::copy(&mut reader, &mut io::sink())
                .map_err(|error| super::blob::read_error(place, "blob", error))
        });
        if let Err(error) = read {
            self.problem(place, chain(&error));
        }
    }

    /// Checks a layer: the blob, its compression, its DiffId.
    fn layer(&mut self, place: &str, layer: &Descriptor, diff_id: Option<&DiffId>) {
        if media_type::is_foreign(&layer.media_type) && self.source.blob(layer).is_err() {
            return;
        }
        self.summary.reached.insert(layer.digest, layer.size);
        let Some(compression) = media_type::layer_compression(&layer.media_type) else {
            return self.blob(place, layer);
        };
        // Read once, both ways: it may come from far away.
        let mut reader = match self.source.blob(layer) {
            Ok(reader) => reader,
            Err(error) => return self.problem(place, chain(&error)),
        };
        let found = digest_uncompressed(&mut reader, compression);
        if let Err(error) = io::copy(&mut reader, &mut io::sink()) {
            self.problem(place, chain(&super::blob::read_error(place, "blob", error)));
        }
        match found {
            Ok(found) if Some(&DiffId(found)) == diff_id => {}
            Ok(found) => {
                let said = diff_id.map_or_else(|| "nothing".to_owned(), DiffId::to_string);
                let layer = layer.digest;
                self.problem(
                    place,
                    format!("layer {layer}: DiffId is {found}, config says {said}"),
                );
            }
            Err(reason) => self.problem(place, format!("layer {}: {reason}", layer.digest)),
        }
    }
}

/// Digests what a layer decompresses to, and checks that it is compressed as its type says.
fn digest_uncompressed(
    reader: &mut (dyn Read + Send),
    compression: LayerCompression,
) -> Result<Digest, String> {
    use crate::layer::compress::Format;
    let mut decoder = Decoder::new(reader).map_err(|error| error.to_string())?;
    let found = match decoder.format() {
        None => LayerCompression::None,
        Some(Format::Gzip) => LayerCompression::Gzip,
        Some(Format::Zstd) => LayerCompression::Zstd,
        Some(other) => return Err(format!("is compressed as {other:?}")),
    };
    if found != compression {
        return Err(format!("is compressed as {found:?}, its media type says {compression:?}"));
    }
    let mut hasher = Hasher::new();
    let mut size = 0;
    let mut buffer = vec![0; 256 << 10];
    loop {
        match decoder.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                hasher.update(&buffer[..count]);
                size += count as u64;
            }
            Err(error) => return Err(error.to_string()),
        }
    }
    if size % 512 != 0 {
        return Err(format!("is no tar: {size} bytes are no whole blocks"));
    }
    Ok(hasher.finish())
}

/// Shows an error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        out.push_str(": ");
        out.push_str(&cause.to_string());
        next = cause.source();
    }
    out
}
