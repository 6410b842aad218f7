//! An OCI layout read back whole, independently of lapstrake's own reader, and checked in passing.
//!
//! [`Layout::open`] fails the test on: a blob that is missing, has another digest or size than its descriptor says, or
//! is referred to by nothing; a layer whose uncompressed digest is not the config's DiffId; a history whose non-empty
//! entries do not match the layers; media types out of the specification; JSON that the `oci-spec` crate can not read;
//! archives with a wrong order (a whiteout after its sibling, a hard link before its file), with user names, with GNU
//! sparse entries or with nanosecond times.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// An OCI layout directory, with all that its index.json reaches.
pub struct Layout {
    /// Where it is.
    pub dir: PathBuf,
    /// index.json.
    pub index: Value,
    images: Vec<(String, Image)>,
}

/// One image: a manifest with its config and layers.
#[derive(Clone, Debug)]
pub struct Image {
    /// The manifest's digest.
    pub digest: String,
    /// The manifest.
    pub manifest: Value,
    /// The config.
    pub config: Value,
    /// The layers' entries, lowest layer first.
    pub layers: Vec<Vec<Entry>>,
}

/// One entry of a layer's archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path without leading or trailing slash.
    pub path: String,
    /// `-`, `d`, `l`, `h` (hard link), `c`, `b` or `p`.
    pub kind: char,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Whole seconds.
    pub mtime: u64,
    /// Target of a link, or `major,minor` of a device.
    pub link: String,
    /// Extended attributes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// Content of a regular file.
    pub content: Arc<Vec<u8>>,
}

impl Entry {
    /// `-rw-r--r-- 0:0 etc/passwd`, with ` -> target` for links.
    pub fn line(&self) -> String {
        let arrow = if self.link.is_empty() { String::new() } else { format!(" -> {}", self.link) };
        format!("{}{:04o} {}:{} {}{arrow}", self.kind, self.mode, self.uid, self.gid, self.path)
    }

    /// The content as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.content).into_owned()
    }
}

/// `sha256:…` of these bytes.
pub fn sha256(bytes: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

impl Layout {
    /// Reads and checks a layout directory.
    #[track_caller]
    pub fn open(dir: &Path) -> Self {
        let (layout, seen) = Self::read(dir);
        for blob in fs::read_dir(dir.join("blobs/sha256")).expect("a layout has blobs").flatten() {
            let name = format!("sha256:{}", blob.file_name().to_string_lossy());
            assert!(seen.contains(&name), "blob {name} belongs to nothing in {}", dir.display());
        }
        layout
    }

    /// Reads and checks the layout of a store, which holds blobs that no name reaches.
    #[track_caller]
    pub fn open_store(dir: &Path) -> Self {
        Self::read(dir).0
    }

    fn read(dir: &Path) -> (Self, BTreeSet<String>) {
        let marker =
            fs::read_to_string(dir.join("oci-layout")).expect("a layout has a file oci-layout");
        let marker: Value = serde_json::from_str(&marker).expect("oci-layout is JSON");
        assert_eq!(text(&marker, "imageLayoutVersion"), "1.0.0");
        let index_bytes = fs::read(dir.join("index.json")).expect("a layout has an index.json");
        oci_spec::image::ImageIndex::from_reader(index_bytes.as_slice())
            .expect("oci-spec reads index.json");
        let index: Value = serde_json::from_slice(&index_bytes).expect("index.json is JSON");

        let mut reader = Reader { dir, seen: BTreeSet::new(), images: Vec::new() };
        for descriptor in index["manifests"].as_array().expect("an index has manifests") {
            let name =
                text(&descriptor["annotations"], "org.opencontainers.image.ref.name").to_owned();
            reader.walk(descriptor, &name);
        }
        let Reader { seen, images, .. } = reader;
        (Layout { dir: dir.to_owned(), index, images }, seen)
    }

    /// The image of a layout that has one.
    #[track_caller]
    pub fn only(&self) -> Image {
        assert_eq!(
            self.images.len(),
            1,
            "the layout has {} images: {:?}",
            self.images.len(),
            self.platforms()
        );
        self.images[0].1.clone()
    }

    /// The image of a platform, such as `linux/arm/v7`.
    #[track_caller]
    pub fn platform(&self, platform: &str) -> Image {
        self.images
            .iter()
            .map(|(_, image)| image)
            .find(|image| image.platform() == platform)
            .unwrap_or_else(|| panic!("no image for {platform} among {:?}", self.platforms()))
            .clone()
    }

    /// The image with this tag and only one platform.
    #[track_caller]
    pub fn tagged(&self, tag: &str) -> Image {
        self.images
            .iter()
            .find(|(name, _)| name == tag)
            .unwrap_or_else(|| panic!("no tag {tag} among {:?}", self.tags()))
            .1
            .clone()
    }

    /// The platforms in the order of the index.
    pub fn platforms(&self) -> Vec<String> {
        self.images.iter().map(|(_, image)| image.platform()).collect()
    }

    /// The tags of index.json.
    pub fn tags(&self) -> Vec<String> {
        let mut tags: Vec<String> = self.images.iter().map(|(name, _)| name.clone()).collect();
        tags.dedup();
        tags
    }

    /// The digest that index.json's only descriptor names.
    #[track_caller]
    pub fn digest(&self) -> String {
        let manifests = self.index["manifests"].as_array().expect("an index has manifests");
        assert_eq!(manifests.len(), 1);
        text(&manifests[0], "digest").to_owned()
    }
}

struct Reader<'a> {
    dir: &'a Path,
    seen: BTreeSet<String>,
    images: Vec<(String, Image)>,
}

impl Reader<'_> {
    fn blob(&mut self, descriptor: &Value) -> Vec<u8> {
        let digest = text(descriptor, "digest");
        let hex = digest.strip_prefix("sha256:").unwrap_or_else(|| panic!("digest {digest:?}"));
        let bytes = fs::read(self.dir.join("blobs/sha256").join(hex))
            .unwrap_or_else(|error| panic!("blob {digest}: {error}"));
        assert_eq!(sha256(&bytes), digest, "a blob's content");
        assert_eq!(descriptor["size"].as_u64(), Some(bytes.len() as u64), "size of {digest}");
        self.seen.insert(digest.to_owned());
        bytes
    }

    fn walk(&mut self, descriptor: &Value, name: &str) {
        let bytes = self.blob(descriptor);
        let value: Value = serde_json::from_slice(&bytes).expect("a manifest is JSON");
        assert_eq!(
            text(descriptor, "mediaType"),
            text(&value, "mediaType"),
            "descriptor and manifest agree"
        );
        match text(descriptor, "mediaType") {
            "application/vnd.oci.image.index.v1+json"
            | "application/vnd.docker.distribution.manifest.list.v2+json" => {
                oci_spec::image::ImageIndex::from_reader(bytes.as_slice())
                    .expect("oci-spec reads the index");
                for child in value["manifests"].as_array().expect("an index has manifests") {
                    self.walk(child, name);
                }
            }
            "application/vnd.oci.image.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.v2+json" => {
                oci_spec::image::ImageManifest::from_reader(bytes.as_slice())
                    .expect("oci-spec reads the manifest");
                let image = self.image(text(descriptor, "digest"), value);
                if let Some(platform) = descriptor.get("platform") {
                    assert_eq!(
                        platform_text(platform),
                        image.platform(),
                        "the descriptor's platform is the config's"
                    );
                }
                self.images.push((name.to_owned(), image));
            }
            other => panic!("media type {other:?}"),
        }
    }

    fn image(&mut self, digest: &str, manifest: Value) -> Image {
        let config_bytes = self.blob(&manifest["config"]);
        oci_spec::image::ImageConfiguration::from_reader(config_bytes.as_slice())
            .expect("oci-spec reads the config");
        let config: Value = serde_json::from_slice(&config_bytes).expect("a config is JSON");
        let docker = text(&manifest, "mediaType").contains("docker");
        let expected = if docker {
            "application/vnd.docker.container.image.v1+json"
        } else {
            "application/vnd.oci.image.config.v1+json"
        };
        assert_eq!(text(&manifest["config"], "mediaType"), expected);
        assert_eq!(text(&config["rootfs"], "type"), "layers");
        let diff_ids = config["rootfs"]["diff_ids"].as_array().cloned().unwrap_or_default();
        let descriptors = manifest["layers"].as_array().cloned().unwrap_or_default();
        assert_eq!(diff_ids.len(), descriptors.len(), "a DiffId for each layer");
        if let Some(history) = config["history"].as_array() {
            let filled =
                history.iter().filter(|entry| entry["empty_layer"] != Value::Bool(true)).count();
            assert_eq!(filled, diff_ids.len(), "a history entry for each layer: {history:#?}");
        }
        let mut layers = Vec::new();
        for (descriptor, diff_id) in descriptors.iter().zip(&diff_ids) {
            let blob = self.blob(descriptor);
            let tar = decompress(text(descriptor, "mediaType"), &blob);
            assert_eq!(
                sha256(&tar),
                diff_id.as_str().unwrap_or_default(),
                "the uncompressed layer's digest"
            );
            layers.push(entries(&tar));
        }
        Image { digest: digest.to_owned(), manifest, config, layers }
    }
}

fn decompress(media_type: &str, blob: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    match media_type {
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
            flate2::read::MultiGzDecoder::new(blob)
                .read_to_end(&mut tar)
                .expect("a gzip layer is gzip");
        }
        "application/vnd.oci.image.layer.v1.tar+zstd" => {
            tar = zstd::stream::decode_all(blob).expect("a zstd layer is zstd");
        }
        "application/vnd.oci.image.layer.v1.tar" => tar = blob.to_vec(),
        other => panic!("layer of media type {other:?}"),
    }
    tar
}

/// Reads a layer's archive, and checks what must hold of each that lapstrake writes.
///
/// A reader of its own: that of the `tar` crate ends a PAX value at its first newline.
pub fn entries(tar: &[u8]) -> Vec<Entry> {
    let mut list: Vec<Entry> = Vec::new();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut pax: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut at = 0;
    loop {
        let header = tar.get(at..at + 512).expect("an archive ends with zeros");
        if header.iter().all(|byte| *byte == 0) {
            break;
        }
        let sum: u64 = header
            .iter()
            .enumerate()
            .map(|(index, byte)| if (148..156).contains(&index) { 32 } else { u64::from(*byte) })
            .sum();
        assert_eq!(number(&header[148..156]), sum, "a header's checksum");
        let kind = header[156];
        let stored = number(&header[124..136]);
        let pax_size = pax
            .get("size")
            .map(|value| text_of(value).parse::<u64>().expect("a PAX size is a number"));
        let size = usize::try_from(pax_size.unwrap_or(stored)).expect("it fits in memory");
        let content = tar.get(at + 512..at + 512 + size).expect("content is whole");
        at += 512 + size.div_ceil(512) * 512;
        if kind == b'x' {
            assert!(pax.is_empty(), "two PAX headers in a row");
            pax = pax_records(content);
            continue;
        }
        assert!(kind != b'g', "a global header says nothing about a layer");
        let entry = entry(header, &std::mem::take(&mut pax), content);
        assert!(seen.insert(entry.path.clone()), "two entries for {}", entry.path);
        list.push(entry);
    }
    list
}

fn entry(header: &[u8], pax: &BTreeMap<String, Vec<u8>>, content: &[u8]) -> Entry {
    let field = |from: usize, to: usize| {
        text_of(header[from..to].split(|byte| *byte == 0).next().unwrap_or_default())
    };
    let mut path = field(0, 100);
    if &header[257..262] == b"ustar" && !field(345, 500).is_empty() {
        path = format!("{}/{path}", field(345, 500));
    }
    let mut link = field(157, 257);
    let (mut uid, mut gid) = (number(&header[108..116]), number(&header[116..124]));
    let mut mtime = number(&header[136..148]);
    let mut xattrs = BTreeMap::new();
    for (key, value) in pax {
        let parsed = || {
            text_of(value).parse::<u64>().unwrap_or_else(|_| {
                panic!("{key} of {path} is no whole number: {}", text_of(value))
            })
        };
        match key.as_str() {
            "size" => {}
            "uid" => uid = parsed(),
            "gid" => gid = parsed(),
            "mtime" => mtime = parsed(),
            "linkpath" => link = text_of(value),
            "path" => {}
            _ => {
                let name = key.strip_prefix("SCHILY.xattr.");
                let name = name.unwrap_or_else(|| {
                    panic!("PAX record {key} of {path} has no place in a layer")
                });
                xattrs.insert(name.to_owned(), value.clone());
            }
        }
    }
    if let Some(value) = pax.get("path") {
        path = text_of(value);
    }
    assert!(
        field(265, 297).is_empty() && field(297, 329).is_empty(),
        "user and group names of {path}"
    );
    let path = path.trim_start_matches("./").trim_matches('/').to_owned();
    let (kind, link) = match header[156] {
        b'0' | 0 => ('-', link),
        b'5' => ('d', link),
        b'2' => ('l', link),
        b'1' => ('h', link.trim_start_matches("./").trim_start_matches('/').to_owned()),
        b'6' => ('p', String::new()),
        kind @ (b'3' | b'4') => {
            let numbers = format!("{},{}", number(&header[329..337]), number(&header[337..345]));
            (if kind == b'3' { 'c' } else { 'b' }, numbers)
        }
        other => panic!("entry type {:?} of {path}", char::from(other)),
    };
    let mode = u32::try_from(number(&header[100..108]) & 0o7777).expect("twelve bits");
    Entry { path, kind, mode, uid, gid, mtime, link, xattrs, content: Arc::new(content.to_vec()) }
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// An octal field, or one in base 256.
fn number(field: &[u8]) -> u64 {
    if field[0] & 0x80 != 0 {
        return field[1..]
            .iter()
            .fold(u64::from(field[0] & 0x7f), |sum, byte| sum << 8 | u64::from(*byte));
    }
    let digits: String = text_of(field).chars().filter(char::is_ascii_digit).collect();
    u64::from_str_radix(&digits, 8).unwrap_or(0)
}

/// `LENGTH KEY=VALUE\n`, where a value may hold anything.
fn pax_records(mut bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut records = BTreeMap::new();
    while !bytes.is_empty() {
        let space = bytes
            .iter()
            .position(|byte| *byte == b' ')
            .expect("a PAX record begins with its length");
        let length: usize = text_of(&bytes[..space]).parse().expect("a PAX length is a number");
        let record =
            bytes[space + 1..length].strip_suffix(b"\n").expect("a PAX record ends with a newline");
        let equals = record.iter().position(|byte| *byte == b'=').expect("a PAX record has a key");
        records.insert(text_of(&record[..equals]), record[equals + 1..].to_vec());
        bytes = &bytes[length..];
    }
    records
}

fn platform_text(platform: &Value) -> String {
    let mut text = format!(
        "{}/{}",
        platform["os"].as_str().unwrap_or_default(),
        platform["architecture"].as_str().unwrap_or_default()
    );
    if let Some(variant) = platform["variant"].as_str() {
        text.push('/');
        text.push_str(variant);
    }
    text
}

impl Image {
    /// `linux/arm/v7`, from the config.
    pub fn platform(&self) -> String {
        platform_text(&self.config)
    }

    /// What the config's `config` object says of this key.
    pub fn runtime(&self, key: &str) -> &Value {
        &self.config["config"][key]
    }

    /// The variables, as NAME=VALUE.
    pub fn env(&self) -> Vec<String> {
        self.runtime("Env").as_array().map_or_else(Vec::new, |list| {
            list.iter().map(|value| value.as_str().unwrap_or_default().to_owned()).collect()
        })
    }

    /// The commands of the history, with `(empty)` before those without a layer.
    pub fn history(&self) -> Vec<String> {
        self.config["history"].as_array().map_or_else(Vec::new, |list| {
            list.iter()
                .map(|entry| {
                    let mark =
                        if entry["empty_layer"] == Value::Bool(true) { "(empty) " } else { "" };
                    format!("{mark}{}", text(entry, "created_by"))
                })
                .collect()
        })
    }

    /// The digests of the layers' blobs.
    pub fn layer_digests(&self) -> Vec<String> {
        let layers = self.manifest["layers"].as_array().cloned().unwrap_or_default();
        layers.iter().map(|layer| text(layer, "digest").to_owned()).collect()
    }

    /// The DiffIds.
    pub fn diff_ids(&self) -> Vec<String> {
        let ids = self.config["rootfs"]["diff_ids"].as_array().cloned().unwrap_or_default();
        ids.iter().map(|id| id.as_str().unwrap_or_default().to_owned()).collect()
    }

    /// The layers above the busybox base, which has one.
    pub fn own_layers(&self) -> &[Vec<Entry>] {
        &self.layers[1..]
    }

    /// The highest layer's entries.
    #[track_caller]
    pub fn last_layer(&self) -> &[Entry] {
        self.layers.last().expect("the image has layers")
    }

    /// The lines of the highest layer (see [`Entry::line`]), directories that hold nothing new included.
    pub fn last_lines(&self) -> Vec<String> {
        self.last_layer().iter().map(Entry::line).collect()
    }

    /// The merged file system: all layers applied in order, with whiteouts and opaque directories.
    pub fn files(&self) -> BTreeMap<String, Entry> {
        let mut merged: BTreeMap<String, Entry> = BTreeMap::new();
        for layer in &self.layers {
            // Whiteouts reach only what is below, wherever they stand in the archive.
            for entry in layer {
                let (parent, name) = entry.path.rsplit_once('/').unwrap_or(("", &entry.path));
                let Some(hidden) = name.strip_prefix(".wh.") else { continue };
                let join = |name: &str| {
                    if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") }
                };
                if hidden == ".wh..opq" {
                    let below = join("");
                    merged.retain(|path, _| !path.starts_with(&below));
                } else {
                    remove(&mut merged, &join(hidden), true);
                }
            }
            for entry in layer {
                let name = entry.path.rsplit('/').next().unwrap_or_default();
                if name.starts_with(".wh.") {
                    continue;
                }
                if entry.kind != 'd' {
                    remove(&mut merged, &entry.path, false);
                }
                merged.insert(entry.path.clone(), entry.clone());
            }
        }
        merged
    }

    /// A file of the merged file system.
    #[track_caller]
    pub fn file(&self, path: &str) -> Entry {
        let path = path.trim_matches('/');
        self.files().get(path).cloned().unwrap_or_else(|| {
            panic!("no {path} in the image; the last layer:\n{}", self.last_lines().join("\n"))
        })
    }

    /// The text of a file; hard links are followed.
    #[track_caller]
    pub fn text(&self, path: &str) -> String {
        let entry = self.file(path);
        if entry.kind == 'h' { self.text(&entry.link) } else { entry.text() }
    }

    /// True if the merged file system has this path.
    pub fn has(&self, path: &str) -> bool {
        self.files().contains_key(path.trim_matches('/'))
    }

    /// The paths below a directory of the merged file system.
    pub fn below(&self, dir: &str) -> Vec<String> {
        let prefix = format!("{}/", dir.trim_matches('/'));
        self.files()
            .into_keys()
            .filter_map(|path| path.strip_prefix(&prefix).map(str::to_owned))
            .collect()
    }
}

fn remove(merged: &mut BTreeMap<String, Entry>, path: &str, itself: bool) {
    // A range, not a look at every path: a distribution has thousands.
    let below = format!("{path}/");
    let inside: Vec<String> = merged
        .range(below.clone()..)
        .map(|(other, _)| other)
        .take_while(|other| other.starts_with(&below))
        .cloned()
        .collect();
    for other in inside {
        merged.remove(&other);
    }
    if itself {
        merged.remove(path);
    }
}
