//! Base images made in code: any config, any archive, any shape of index, with no help from lapstrake.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::layout::sha256;

/// An image to be written into a layout.
#[derive(Clone)]
pub struct Made {
    /// The whole config; `rootfs` is filled in.
    pub config: Value,
    /// Uncompressed layer archives, lowest first.
    pub layers: Vec<Vec<u8>>,
}

impl Made {
    /// An image of these layers for a platform such as `linux/arm64`.
    pub fn new(platform: &str, runtime: Value, layers: Vec<Vec<u8>>) -> Self {
        let mut parts = platform.split('/');
        let mut config = json!({
            "os": parts.next().unwrap_or_default(),
            "architecture": parts.next().unwrap_or_default(),
            "created": "2020-01-01T00:00:00Z",
            "config": runtime,
        });
        if let Some(variant) = parts.next() {
            config["variant"] = json!(variant);
        }
        Made { config, layers }
    }
}

/// Writes an archive entry by entry.
#[derive(Default)]
pub struct Tar {
    builder: Option<tar::Builder<Vec<u8>>>,
}

impl Tar {
    /// An empty archive.
    pub fn new() -> Self {
        Tar { builder: Some(tar::Builder::new(Vec::new())) }
    }

    fn builder(&mut self) -> &mut tar::Builder<Vec<u8>> {
        self.builder.get_or_insert_with(|| tar::Builder::new(Vec::new()))
    }

    fn push(
        mut self,
        path: &str,
        kind: tar::EntryType,
        mode: u32,
        ids: (u64, u64),
        link: &str,
        content: &[u8],
    ) -> Self {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(ids.0);
        header.set_gid(ids.1);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        if matches!(kind, tar::EntryType::Char | tar::EntryType::Block) {
            header.set_device_major(1).expect("small");
            header.set_device_minor(3).expect("small");
        }
        if link.is_empty() {
            self.builder().append_data(&mut header, path, content).expect("memory never fails");
        } else {
            self.builder().append_link(&mut header, path, link).expect("memory never fails");
        }
        self
    }

    /// A file of root's, mode 0644.
    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.push(path, tar::EntryType::Regular, 0o644, (0, 0), "", content.as_ref())
    }

    /// A file with mode and owner.
    pub fn file_as(self, path: &str, mode: u32, ids: (u64, u64), content: &[u8]) -> Self {
        self.push(path, tar::EntryType::Regular, mode, ids, "", content)
    }

    /// A directory, mode 0755.
    pub fn dir(self, path: &str) -> Self {
        self.push(path, tar::EntryType::Directory, 0o755, (0, 0), "", b"")
    }

    /// A directory with mode and owner.
    pub fn dir_as(self, path: &str, mode: u32, ids: (u64, u64)) -> Self {
        self.push(path, tar::EntryType::Directory, mode, ids, "", b"")
    }

    /// A symbolic link.
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.push(path, tar::EntryType::Symlink, 0o777, (0, 0), target, b"")
    }

    /// A hard link.
    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.push(path, tar::EntryType::Link, 0o644, (0, 0), target, b"")
    }

    /// The device 1:3.
    pub fn char_device(self, path: &str) -> Self {
        self.push(path, tar::EntryType::Char, 0o666, (0, 0), "", b"")
    }

    /// A FIFO.
    pub fn fifo(self, path: &str) -> Self {
        self.push(path, tar::EntryType::Fifo, 0o600, (0, 0), "", b"")
    }

    /// PAX records for the next entry.
    pub fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.builder().append_pax_extensions(records.iter().copied()).expect("memory never fails");
        self
    }

    /// The archive's bytes.
    pub fn bytes(mut self) -> Vec<u8> {
        let builder = self.builder.take().unwrap_or_else(|| tar::Builder::new(Vec::new()));
        builder.into_inner().expect("memory never fails")
    }

    /// The archive, gzipped.
    pub fn gzip(self) -> Vec<u8> {
        gzip(&self.bytes())
    }
}

/// gzips bytes.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory never fails");
    encoder.finish().expect("memory never fails")
}

/// A layout under construction.
pub struct Writer<'a> {
    dir: &'a Path,
}

impl<'a> Writer<'a> {
    /// Makes the directories.
    pub fn new(dir: &'a Path) -> Self {
        fs::create_dir_all(dir.join("blobs/sha256")).expect("the parent is writable");
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)
            .expect("it was just made");
        Writer { dir }
    }

    /// Writes a blob and gives its descriptor.
    pub fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = sha256(bytes);
        fs::write(self.dir.join("blobs/sha256").join(&digest[7..]), bytes)
            .expect("the directory was made");
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// Writes an image and gives its descriptor, with its platform.
    pub fn image(&self, image: &Made) -> Value {
        self.image_of("oci", image)
    }

    /// As [`Writer::image`], with Docker's media types.
    pub fn docker_image(&self, image: &Made) -> Value {
        self.image_of("docker", image)
    }

    fn image_of(&self, family: &str, image: &Made) -> Value {
        let (layer_type, config_type, manifest_type) = if family == "oci" {
            (
                "application/vnd.oci.image.layer.v1.tar+gzip",
                "application/vnd.oci.image.config.v1+json",
                "application/vnd.oci.image.manifest.v1+json",
            )
        } else {
            (
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.distribution.manifest.v2+json",
            )
        };
        let layers: Vec<Value> =
            image.layers.iter().map(|tar| self.blob(layer_type, &gzip(tar))).collect();
        let mut config = image.config.clone();
        config["rootfs"] = json!({"type": "layers", "diff_ids": image.layers.iter().map(|tar| sha256(tar)).collect::<Vec<_>>()});
        let platform = {
            let mut platform = json!({"os": config["os"], "architecture": config["architecture"]});
            for key in ["variant", "os.version"] {
                if let Some(value) = config.get(key) {
                    platform[key] = value.clone();
                }
            }
            platform
        };
        let config = self.blob(config_type, &json_bytes(&config));
        let manifest = json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": layers});
        let mut descriptor = self.blob(manifest_type, &json_bytes(&manifest));
        descriptor["platform"] = platform;
        descriptor
    }

    /// Writes an index blob and gives its descriptor.
    pub fn index(&self, manifests: &[Value]) -> Value {
        let media_type = "application/vnd.oci.image.index.v1+json";
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests});
        self.blob(media_type, &json_bytes(&index))
    }

    /// Writes index.json with this one descriptor under a tag.
    pub fn finish(&self, mut descriptor: Value, tag: Option<&str>) {
        if let Some(tag) = tag {
            descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        }
        self.finish_with(&[descriptor]);
    }

    /// Writes index.json with these descriptors as they are.
    pub fn finish_with(&self, manifests: &[Value]) {
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": manifests,
        });
        fs::write(self.dir.join("index.json"), json_bytes(&index)).expect("the directory was made");
    }
}

fn json_bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("a Value is always JSON")
}

/// The busybox base's layer archive for a platform, to be a layer of images made here.
pub fn busybox_layer(platform: &str) -> Vec<u8> {
    let layout = super::layout::Layout::open(&super::cache().join("busybox"));
    let image = layout.platform(platform);
    let digest = image.layer_digests().remove(0);
    let blob =
        fs::read(layout.dir.join("blobs/sha256").join(&digest[7..])).expect("it was read before");
    let mut tar = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(blob.as_slice()), &mut tar)
        .expect("it is gzip");
    tar
}

/// Writes a layout at `dir`, tag `latest`, of busybox with this runtime config and these layers above.
pub fn busybox_with(dir: &Path, platform: &str, runtime: Value, above: Vec<Vec<u8>>) {
    let mut layers = vec![busybox_layer(platform)];
    layers.extend(above);
    let writer = Writer::new(dir);
    let descriptor = writer.image(&Made::new(platform, runtime, layers));
    writer.finish(descriptor, Some("latest"));
    let _ = std::process::Command::new("chmod").args(["-R", "a+rX"]).arg(dir).status();
}
