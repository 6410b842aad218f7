//! Images made in memory, for tests.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;

use super::Source;
use super::error::{Error, Result};
use crate::oci::{
    Descriptor, DiffId, Digest, History, ImageConfig, Index, Manifest, Platform, media_type,
};

/// All bytes of some images, by digest. A [`Source`] with one of them as root.
#[derive(Clone, Default)]
pub(crate) struct Images {
    pub(crate) blobs: BTreeMap<Digest, Vec<u8>>,
    pub(crate) root: Option<Descriptor>,
}

impl Images {
    pub(crate) fn add(&mut self, media_type: &str, bytes: Vec<u8>) -> Descriptor {
        let descriptor = Descriptor::of(media_type, &bytes);
        self.blobs.insert(descriptor.digest, bytes);
        descriptor
    }

    /// Adds an image with a gzip layer, an uncompressed one and a zstd one, all different for
    /// each `text`, and makes it the root.
    pub(crate) fn image(&mut self, platform: &str, text: &str) -> Descriptor {
        let tars: Vec<Vec<u8>> =
            (0..3).map(|at| tar(&format!("file{at}"), format!("{platform}{text}{at}"))).collect();
        let layers = vec![
            self.add(media_type::OCI_LAYER_GZIP, gzip(&tars[0])),
            self.add(media_type::OCI_LAYER, tars[1].clone()),
            self.add(media_type::OCI_LAYER_ZSTD, zstd::encode_all(&tars[2][..], 3).unwrap()),
        ];
        self.of_layers(platform, &tars, layers)
    }

    /// Adds an image all of whose layers are uncompressed.
    pub(crate) fn plain_image(&mut self, platform: &str, text: &str) -> Descriptor {
        let tars = vec![tar("a", format!("{text}a")), tar("b", format!("{text}b"))];
        let layers = tars.iter().map(|tar| self.add(media_type::OCI_LAYER, tar.clone())).collect();
        self.of_layers(platform, &tars, layers)
    }

    fn of_layers(
        &mut self,
        platform: &str,
        tars: &[Vec<u8>],
        layers: Vec<Descriptor>,
    ) -> Descriptor {
        let platform: Platform = platform.parse().unwrap();
        let mut config = ImageConfig::empty(&platform);
        config.created = Some("1970-01-01T00:00:00Z".to_owned());
        config.rootfs.diff_ids = tars.iter().map(|tar| DiffId(Digest::of(tar))).collect();
        config.history = layers.iter().map(|_| History::default()).collect();
        config.history.push(History { empty_layer: true, ..History::default() });
        let config = self.add(media_type::OCI_CONFIG, config.encode());
        let (descriptor, bytes) = Manifest::new(config, layers).encode();
        self.blobs.insert(descriptor.digest, bytes);
        self.root = Some(descriptor.clone());
        descriptor.with_platform(platform)
    }

    /// Adds an index and makes it the root.
    pub(crate) fn index(&mut self, entries: Vec<Descriptor>) -> Descriptor {
        let (descriptor, bytes) = Index::new(entries).encode();
        self.blobs.insert(descriptor.digest, bytes);
        self.root = Some(descriptor.clone());
        descriptor
    }

    /// An image for two platforms.
    pub(crate) fn multi(text: &str) -> Images {
        let mut images = Images::default();
        let entries = vec![images.image("linux/amd64", text), images.image("linux/arm64", text)];
        images.index(entries);
        images
    }

    /// Writes a layout with this index.json.
    pub(crate) fn write(&self, dir: &Path, entries: Vec<Descriptor>) {
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        fs::write(dir.join("oci-layout"), super::layout::OCI_LAYOUT).unwrap();
        fs::write(dir.join("index.json"), Index::new(entries).encode().1).unwrap();
        for (digest, bytes) in &self.blobs {
            fs::write(dir.join(super::layout::blob_name(digest)), bytes).unwrap();
        }
    }
}

impl Source for Images {
    fn root(&self) -> Result<(Descriptor, Vec<u8>)> {
        let root = self.root.clone().unwrap();
        let bytes = self.manifest(&root)?;
        Ok((root, bytes))
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let (place, digest) = (self.describe(), descriptor.digest);
        let missing = Error::Missing { place, what: "manifest", digest };
        self.blobs.get(&digest).cloned().ok_or(missing)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
        let bytes = self.manifest(descriptor)?;
        Ok(Box::new(super::Verified::new(std::io::Cursor::new(bytes), descriptor, "memory")))
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}

/// A tar with one file.
pub(crate) fn tar(name: &str, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, name, content).unwrap();
    builder.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
