//! A source whose layers are compressed anew.
//!
//! Configs stay as they are, since they name layers by their uncompressed digests, except with
//! eStargz, which adds to what is compressed. Manifests and indexes around the layers are made anew. Layers that are compressed as wanted already, and those
//! that are no file systems or may not be handed on, are passed through.
//!
//! Attestations say which digest they are about. Those of images that change would lie; they are
//! left out and counted in [`Recompressed::dropped`]. Referrers are given for images that stay.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::blob::{Verified, read_error};
use super::error::{Error, Result};
use super::fetch::Progress;
use super::filter::REFERENCE_DIGEST;
use super::layout::io_error;
use super::{Source, copy::read_small};
use crate::layer::compress::{Decoder, Encoder};
use crate::layer::pack::estargz;
use crate::layer::{Compression, PackOptions};
use crate::oci::digest::Hasher;
use crate::oci::manifest::MAX_DEPTH;
use crate::oci::media_type::{self, LayerCompression};
use crate::oci::{
    Descriptor, DiffId, Digest, Document, ImageConfig, Index, Manifest, Reference, canonical,
};

/// A source with other layers.
pub struct Recompressed {
    inner: Box<dyn Source>,
    root: Descriptor,
    bytes: Vec<u8>,
    manifests: BTreeMap<Digest, Vec<u8>>,
    /// Where the new layers lie.
    files: BTreeMap<Digest, PathBuf>,
    /// Attestations that were left out.
    pub dropped: usize,
    _scratch: TempDir,
}

struct Work<'a> {
    inner: &'a dyn Source,
    compression: Compression,
    threads: usize,
    scratch: &'a Path,
    progress: &'a Progress<'a>,
    manifests: BTreeMap<Digest, Vec<u8>>,
    files: BTreeMap<Digest, PathBuf>,
    /// What became of layers, so that one that several images share is compressed once.
    layers: BTreeMap<Digest, (Descriptor, DiffId)>,
    dropped: usize,
}

impl Recompressed {
    /// Compresses all layers of a source into files below `dir`.
    pub fn new(
        inner: Box<dyn Source>,
        compression: Compression,
        dir: &Path,
        threads: usize,
        progress: &Progress<'_>,
    ) -> Result<Recompressed> {
        let scratch = tempfile::Builder::new()
            .prefix("recompress-")
            .tempdir_in(dir)
            .map_err(io_error("create a directory in", dir))?;
        let (root, bytes) = inner.root()?;
        let mut work = Work {
            inner: inner.as_ref(),
            compression,
            threads,
            scratch: scratch.path(),
            progress,
            manifests: BTreeMap::new(),
            files: BTreeMap::new(),
            layers: BTreeMap::new(),
            dropped: 0,
        };
        let (root, bytes) = work.document(&root, bytes, 0)?;
        let Work { manifests, files, dropped, .. } = work;
        Ok(Recompressed { inner, root, bytes, manifests, files, dropped, _scratch: scratch })
    }
}

impl Work<'_> {
    /// Gives the document that takes another's place.
    fn document(
        &mut self,
        descriptor: &Descriptor,
        bytes: Vec<u8>,
        depth: usize,
    ) -> Result<(Descriptor, Vec<u8>)> {
        let place = self.inner.describe();
        if depth > MAX_DEPTH {
            return Err(Error::TooDeep { place });
        }
        let document = Document::parse(&bytes, &descriptor.media_type).map_err(|source| {
            Error::Document { place, what: descriptor.digest.to_string(), source }
        })?;
        let (new, bytes) = match document {
            Document::Manifest(manifest) if manifest.is_image() => {
                match self.manifest(&manifest)? {
                    Some(manifest) => manifest.encode(),
                    None => (descriptor.clone(), bytes),
                }
            }
            Document::Manifest(_) => (descriptor.clone(), bytes),
            Document::Index(index) => match self.index(&index, depth)? {
                Some(index) => index.encode(),
                None => (descriptor.clone(), bytes),
            },
        };
        let new = Descriptor {
            media_type: new.media_type,
            digest: new.digest,
            size: new.size,
            data: None,
            ..descriptor.clone()
        };
        self.manifests.insert(new.digest, bytes.clone());
        Ok((new, bytes))
    }

    fn index(&mut self, index: &Index, depth: usize) -> Result<Option<Index>> {
        let mut changed: BTreeMap<Digest, Digest> = BTreeMap::new();
        let mut entries = Vec::new();
        for entry in &index.manifests {
            if !entry.is_index() && !entry.is_manifest() && !entry.media_type.is_empty()
                || entry.is_attestation()
            {
                entries.push(entry.clone());
                continue;
            }
            let bytes = self.inner.manifest(entry)?;
            let (new, _) = self.document(entry, bytes, depth + 1)?;
            if new.digest != entry.digest {
                changed.insert(entry.digest, new.digest);
            }
            entries.push(new);
        }
        if changed.is_empty() {
            return Ok(None);
        }
        let before = entries.len();
        entries.retain(|entry| {
            let of = entry.annotations.get(REFERENCE_DIGEST).and_then(|of| of.parse().ok());
            !of.is_some_and(|of: Digest| changed.contains_key(&of))
        });
        self.dropped += before - entries.len();
        let mut new = Index { manifests: entries, ..index.clone() };
        // Docker's lists name Docker's manifests only.
        if new.manifests.iter().any(|entry| entry.media_type == media_type::OCI_MANIFEST) {
            new.media_type = Some(media_type::OCI_INDEX.to_owned());
        }
        Ok(Some(new))
    }

    fn manifest(&mut self, manifest: &Manifest) -> Result<Option<Manifest>> {
        let wanted = match self.compression {
            Compression::None => LayerCompression::None,
            Compression::Gzip { .. } | Compression::Estargz { .. } => LayerCompression::Gzip,
            Compression::Zstd { .. } => LayerCompression::Zstd,
        };
        let estargz = matches!(self.compression, Compression::Estargz { .. });
        let to_do = |layer: &Descriptor| {
            !media_type::is_foreign(&layer.media_type)
                && media_type::layer_compression(&layer.media_type).is_some_and(|compression| {
                    compression != wanted || estargz && !estargz::is_estargz(layer)
                })
        };
        if !manifest.layers.iter().any(to_do) {
            return Ok(None);
        }
        let config = read_small(self.inner, &manifest.config)?;
        let mut config = ImageConfig::parse(&config).map_err(|source| Error::Json {
            place: self.inner.describe(),
            what: format!("config {}", manifest.config.digest),
            source,
        })?;
        let mut new = manifest.to_oci();
        for (at, layer) in manifest.layers.iter().enumerate() {
            if to_do(layer) {
                let diff_id = config.rootfs.diff_ids.get(at).copied();
                let (mut packed, diff_id) = self.layer(layer, diff_id)?;
                let kept =
                    layer.annotations.iter().filter(|(key, _)| !media_type::is_about_bytes(key));
                packed.annotations.extend(kept.map(|(key, value)| (key.clone(), value.clone())));
                new.layers[at] = packed;
                if let Some(known) = config.rootfs.diff_ids.get_mut(at) {
                    *known = diff_id;
                }
            }
        }
        if estargz {
            // A cache in the image would speak of the layers as they were.
            config.extra.retain(|key, _| !key.starts_with("dev.lapstrake.cache."));
            let bytes = canonical::to_vec(&config);
            let descriptor = Descriptor::of(&new.config.media_type, &bytes);
            let path = self.scratch.join(descriptor.digest.hex());
            std::fs::write(&path, &bytes).map_err(io_error("write", &path))?;
            self.files.insert(descriptor.digest, path);
            new.config = descriptor;
        }
        Ok(Some(new))
    }

    fn layer(
        &mut self,
        layer: &Descriptor,
        diff_id: Option<DiffId>,
    ) -> Result<(Descriptor, DiffId)> {
        if let Some(known) = self.layers.get(&layer.digest) {
            return Ok(known.clone());
        }
        let place = self.inner.describe();
        let label = layer.digest.to_string();
        let path = self.scratch.join(layer.digest.hex());
        let file = File::create(&path).map_err(io_error("create", &path))?;
        let told = Told { inner: self.inner.blob(layer)?, count: 0, layer, tell: self.progress };
        let decoder = Decoder::new(told).map_err(|error| read_error(&place, &label, error))?;
        let check = |found: Digest| match diff_id.map(|id| id.0) {
            Some(expected) if expected != found => {
                Err(Error::Digest { place: place.clone(), expected, found })
            }
            _ => Ok(()),
        };
        if let Compression::Estargz { .. } = self.compression {
            let options =
                PackOptions { compression: self.compression, threads: self.threads, epoch: None };
            let mut tar = Hashed { inner: decoder, hasher: Hasher::new(), size: 0 };
            let mut out = BufWriter::new(file);
            let packed = estargz::convert(&mut tar, options, &mut out)
                .map_err(|error| read_error(&place, &label, io::Error::other(error)))?;
            check(tar.hasher.finish())?;
            out.flush().map_err(io_error("write", &path))?;
            let mut new =
                Descriptor::new(self.compression.media_type(), packed.digest, packed.size);
            new.annotations = packed.annotations();
            self.files.insert(new.digest, path);
            self.layers.insert(layer.digest, (new.clone(), packed.diff_id));
            return Ok((new, packed.diff_id));
        }
        let mut decoder = decoder;
        let out = Hashed { inner: BufWriter::new(file), hasher: Hasher::new(), size: 0 };
        let mut encoder = Encoder::new(out, self.compression, self.threads);
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 256 << 10];
        loop {
            match decoder.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    hasher.update(&buffer[..count]);
                    encoder.write_all(&buffer[..count]).map_err(io_error("write", &path))?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(read_error(&place, &label, error)),
            }
        }
        let found = hasher.finish();
        check(found)?;
        let mut out = encoder.finish().map_err(io_error("write", &path))?;
        out.inner.flush().map_err(io_error("write", &path))?;
        let media_type = self.compression.media_type();
        let new = Descriptor::new(media_type, out.hasher.finish(), out.size);
        self.files.insert(new.digest, path);
        self.layers.insert(layer.digest, (new.clone(), DiffId(found)));
        Ok((new, DiffId(found)))
    }
}

/// Tells of progress while a layer is read.
struct Told<'a> {
    inner: Box<dyn Read + Send>,
    count: u64,
    layer: &'a Descriptor,
    tell: &'a Progress<'a>,
}

impl Read for Told<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count += count as u64;
        if count == 0 {
            (self.tell)(&self.layer.digest.to_string(), self.count, Some(self.layer.size));
        }
        Ok(count)
    }
}

struct Hashed<W> {
    inner: W,
    hasher: Hasher,
    size: u64,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.size += count as u64;
        Ok(count)
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(data)?;
        self.hasher.update(&data[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Source for Recompressed {
    fn root(&self) -> Result<(Descriptor, Vec<u8>)> {
        Ok((self.root.clone(), self.bytes.clone()))
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        match self.manifests.get(&descriptor.digest) {
            Some(bytes) => Ok(bytes.clone()),
            None => self.inner.manifest(descriptor),
        }
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
        match self.files.get(&descriptor.digest) {
            None => self.inner.blob(descriptor),
            Some(path) => {
                let file = File::open(path).map_err(io_error("open", path))?;
                Ok(Box::new(Verified::new(file, descriptor, &self.describe())))
            }
        }
    }

    fn blob_unverified(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
        match self.files.contains_key(&descriptor.digest) {
            true => self.blob(descriptor),
            false => self.inner.blob_unverified(descriptor),
        }
    }

    fn blob_file(&self, descriptor: &Descriptor) -> Option<PathBuf> {
        self.inner.blob_file(descriptor)
    }

    fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        self.inner.referrers(subject)
    }

    fn origin(&self, descriptor: &Descriptor) -> Option<Reference> {
        if self.files.contains_key(&descriptor.digest) {
            return None;
        }
        self.inner.origin(descriptor)
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
