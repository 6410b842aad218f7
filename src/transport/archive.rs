//! Images in tar files: an OCI layout (`oci-archive:`), and what `docker save` writes
//! (`docker-archive:`).
//!
//! # Reading
//!
//! A tar is not unpacked. Its headers are read once into an index of offsets; after that every file
//! in it is read where it lies. A compressed tar is first decompressed into an unlinked file.
//!
//! Docker's archives come in three shapes, told apart by their content:
//! 1. since 25, an OCI layout with a manifest.json beside it: read as a layout;
//! 2. since 1.10, manifest.json names the config and the layers, which lie below legacy names
//!    (`<id>/layer.tar`, sometimes as symlinks) and are not compressed as a rule. A manifest is made
//!    for them. The digest of an uncompressed layer is its DiffId, so nothing needs to be hashed
//!    beforehand, and it is verified when it is read;
//! 3. before 1.10: refused.
//!
//! # Writing
//!
//! Shape 1, which is also what BuildKit's `type=docker` is: every Docker since 1.10 loads it by its
//! manifest.json, whatever the files in it are called. The same bytes in the same order for the
//! same image: names sorted by when they are needed, times 0, owner 0.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::blob::Verified;
use super::copy::{PumpError, pump};
use super::error::{Error, Result};
use super::layout::{
    Files, LayoutSource, OCI_LAYOUT, blob_name, io_error, named_entries, read_file,
};
use super::name::Selector;
use super::{OpenBlob, Sink, Source};
use crate::layer::compress::{Decoder, Format};
use crate::oci::digest::Hasher;
use crate::oci::reference::DEFAULT_TAG;
use crate::oci::{
    Descriptor, Digest, Document, ImageConfig, Index, Manifest, Reference, canonical, media_type,
};

/// The most files an archive may have. Docker's have four a layer.
const MAX_FILES: usize = 100_000;
/// How many links may follow one another.
const MAX_LINKS: usize = 8;

/// Opens an image of an OCI layout in a tar.
pub fn open_oci(path: &Path, selector: &Selector) -> Result<Box<dyn Source>> {
    let tar = Tar::open(path, "oci-archive")?;
    if !tar.has("index.json") {
        let reason = if tar.has("manifest.json") {
            "it has no index.json; it seems to be a docker-archive:"
        } else {
            "it has no index.json"
        };
        return Err(Error::NotAnArchive { path: path.to_owned(), reason: reason.to_owned() });
    }
    Ok(Box::new(LayoutSource::read(Box::new(tar), selector)?))
}

/// Tells a layout in a tar from what an old `docker save` writes.
pub fn is_layout(path: &Path) -> Result<bool> {
    let tar = Tar::open(path, "archive")?;
    match (tar.has("index.json"), tar.has("manifest.json")) {
        (true, _) => Ok(true),
        (false, true) => Ok(false),
        (false, false) => Err(Error::NotAnArchive {
            path: path.to_owned(),
            reason: "it has neither index.json nor manifest.json".to_owned(),
        }),
    }
}

/// Opens the files of a tar.
pub(super) fn open_files(path: &Path) -> Result<Box<dyn Files>> {
    Ok(Box::new(Tar::open(path, "oci-archive")?))
}

/// Opens an image of what `docker save` writes.
pub fn open_docker(path: &Path, selector: &Selector) -> Result<Box<dyn Source>> {
    let tar = Tar::open(path, "docker-archive")?;
    if tar.has("index.json") && tar.has("oci-layout") {
        return Ok(Box::new(LayoutSource::read(Box::new(tar), selector)?));
    }
    if !tar.has("manifest.json") {
        let reason = if tar.has("repositories") {
            "it was written by a Docker before 1.10, which is not supported"
        } else {
            "it has no manifest.json"
        };
        return Err(Error::NotAnArchive { path: path.to_owned(), reason: reason.to_owned() });
    }
    Ok(Box::new(DockerSource::read(tar, selector)?))
}

/// A tar and where the files in it lie.
struct Tar {
    file: Arc<File>,
    place: String,
    files: HashMap<String, (u64, u64)>,
    links: HashMap<String, String>,
}

/// A piece of a file, read without moving anybody else's position.
struct Section {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Tar {
    fn open(path: &Path, scheme: &str) -> Result<Tar> {
        let meta = std::fs::metadata(path).map_err(io_error("open", path))?;
        let bad = |reason: String| Error::NotAnArchive { path: path.to_owned(), reason };
        if !meta.is_file() {
            return Err(bad("it is no file (for a directory, use oci:)".to_owned()));
        }
        let mut file = File::open(path).map_err(io_error("open", path))?;
        let mut head = Vec::new();
        (&file).take(8).read_to_end(&mut head).map_err(io_error("read", path))?;
        file.seek(SeekFrom::Start(0)).map_err(io_error("read", path))?;
        if Format::detect(&head).is_some() {
            file = decompressed(file, path)?;
        }
        let mut tar = Tar {
            file: Arc::new(file),
            place: format!("{scheme}:{}", path.display()),
            files: HashMap::new(),
            links: HashMap::new(),
        };
        tar.list().map_err(|error| bad(format!("its tar cannot be read ({error})")))?;
        Ok(tar)
    }

    fn list(&mut self) -> io::Result<()> {
        let end = self.file.metadata()?.len();
        let mut archive = tar::Archive::new(Section { file: Arc::clone(&self.file), at: 0, end });
        for entry in archive.entries_with_seek()? {
            let entry = entry?;
            let name = clean(&entry.path_bytes());
            if self.files.len() + self.links.len() >= MAX_FILES {
                return Err(io::Error::other(format!("more than {MAX_FILES} files")));
            }
            match entry.header().entry_type() {
                tar::EntryType::Regular | tar::EntryType::Continuous => {
                    let (at, size) = (entry.raw_file_position(), entry.size());
                    if at.checked_add(size).is_none_or(|last| last > end) {
                        return Err(io::Error::other(format!("{name} goes beyond the end")));
                    }
                    // The last one of a name counts, as when unpacking.
                    self.links.remove(&name);
                    self.files.insert(name, (at, size));
                }
                kind @ (tar::EntryType::Symlink | tar::EntryType::Link) => {
                    let Some(target) = entry.link_name_bytes() else { continue };
                    let target = String::from_utf8_lossy(&target).into_owned();
                    let target = if kind == tar::EntryType::Link || target.starts_with('/') {
                        target
                    } else {
                        let dir = name.rsplit_once('/').map_or("", |(dir, _)| dir);
                        format!("{dir}/{target}")
                    };
                    self.files.remove(&name);
                    self.links.insert(name, clean(target.as_bytes()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Gives where a file lies, through links.
    fn find(&self, name: &str) -> Option<(u64, u64)> {
        let mut name = clean(name.as_bytes());
        for _ in 0..=MAX_LINKS {
            if let Some(found) = self.files.get(&name) {
                return Some(*found);
            }
            name = self.links.get(&name)?.clone();
        }
        None
    }

    fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }
}

impl Files for Tar {
    fn open(&self, name: &str) -> Result<Option<(Box<dyn Read + Send>, u64)>> {
        Ok(self.find(name).map(|(at, size)| {
            let section = Section { file: Arc::clone(&self.file), at, end: at + size };
            (Box::new(section) as Box<dyn Read + Send>, size)
        }))
    }

    fn place(&self) -> String {
        self.place.clone()
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let wanted = left.min(buffer.len());
        let count = self.file.read_at(&mut buffer[..wanted], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Section {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.end.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// Decompresses a file into one that has no name.
fn decompressed(file: File, path: &Path) -> Result<File> {
    let mut out = tempfile::tempfile().map_err(io_error("create a temporary file for", path))?;
    let mut decoder = Decoder::new(file).map_err(io_error("decompress", path))?;
    io::copy(&mut decoder, &mut out).map_err(io_error("decompress", path))?;
    Ok(out)
}

/// Gives the one spelling of a path in an archive. What climbs out at the top stays at the top.
fn clean(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// One image of manifest.json (moby, image/tarexport).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default, deserialize_with = "crate::oci::descriptor::null_default")]
    repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "crate::oci::descriptor::null_default")]
    layers: Vec<String>,
}

/// An image of an archive without OCI layout.
struct DockerSource {
    tar: Tar,
    root: Descriptor,
    bytes: Vec<u8>,
    /// Where the blobs lie: name in the archive by digest.
    names: BTreeMap<Digest, String>,
    tags: Vec<String>,
}

impl DockerSource {
    fn read(tar: Tar, selector: &Selector) -> Result<DockerSource> {
        let place = tar.place.clone();
        let json = |what: &str, source| Error::Json {
            place: place.clone(),
            what: what.to_owned(),
            source,
        };
        let missing = |name: &str| Error::Damaged {
            place: place.clone(),
            reason: format!("manifest.json names {name:?}, which is not there"),
        };
        let text = read_file(&tar, "manifest.json")?.ok_or_else(|| missing("manifest.json"))?;
        let items: Vec<Item> =
            serde_json::from_slice(&text).map_err(|source| json("manifest.json", source))?;
        let item = choose(&place, &items, selector)?;
        let config = read_file(&tar, &item.config)?.ok_or_else(|| missing(&item.config))?;
        let parsed = ImageConfig::parse(&config).map_err(|source| json(&item.config, source))?;
        let diff_ids = &parsed.rootfs.diff_ids;
        if diff_ids.len() != item.layers.len() {
            return Err(Error::Damaged {
                place,
                reason: format!(
                    "manifest.json has {} layers, its config has {}",
                    item.layers.len(),
                    diff_ids.len()
                ),
            });
        }
        let config_descriptor = Descriptor::of(media_type::OCI_CONFIG, &config);
        let mut names = BTreeMap::from([(config_descriptor.digest, item.config.clone())]);
        let mut layers = Vec::new();
        for (name, diff_id) in item.layers.iter().zip(diff_ids) {
            let layer = describe_layer(&tar, name, &diff_id.0)?.ok_or_else(|| missing(name))?;
            names.insert(layer.digest, name.clone());
            layers.push(layer);
        }
        let (root, bytes) = Manifest::new(config_descriptor, layers).encode();
        Ok(DockerSource { tar, root, bytes, names, tags: item.repo_tags.clone() })
    }
}

/// Chooses one of several images.
fn choose<'a>(place: &str, items: &'a [Item], selector: &Selector) -> Result<&'a Item> {
    let there = || {
        items
            .iter()
            .map(|item| item.repo_tags.first().cloned().unwrap_or_else(|| item.config.clone()))
            .collect::<Vec<_>>()
    };
    let full = |text: &str| text.parse::<Reference>().ok().map(Reference::with_default_tag);
    if !selector.is_empty() {
        let name = selector.shown();
        let wanted = selector.name.as_deref().and_then(full);
        let found = items.iter().find(|item| {
            item.repo_tags.iter().any(|tag| {
                let tag = full(tag);
                tag.is_some() && tag == wanted
                    || selector.name.is_some()
                        && tag.and_then(|reference| reference.tag) == selector.name
            })
        });
        return found.ok_or_else(|| Error::NoSuchImage {
            place: place.to_owned(),
            name,
            there: there(),
        });
    }
    match items {
        [] => Err(Error::Empty { place: place.to_owned() }),
        [item] => Ok(item),
        _ => items
            .iter()
            .find(|item| {
                let latest = |tag: &String| tag.ends_with(&format!(":{DEFAULT_TAG}"));
                item.repo_tags.iter().any(latest)
            })
            .ok_or_else(|| Error::Ambiguous { place: place.to_owned(), there: there() }),
    }
}

/// Describes a layer without reading more of it than needed.
fn describe_layer(tar: &Tar, name: &str, diff_id: &Digest) -> Result<Option<Descriptor>> {
    let Some((mut file, size)) = tar.open(name)? else { return Ok(None) };
    let read = |source| Error::Read { place: tar.place.clone(), what: name.to_owned(), source };
    let mut head = Vec::new();
    file.by_ref().take(8).read_to_end(&mut head).map_err(read)?;
    let media_type = match Format::detect(&head) {
        None => return Ok(Some(Descriptor::new(media_type::OCI_LAYER, *diff_id, size))),
        Some(Format::Gzip) => media_type::OCI_LAYER_GZIP,
        Some(Format::Zstd) => media_type::OCI_LAYER_ZSTD,
        Some(other) => {
            return Err(Error::Unsupported {
                form: "an image",
                what: format!("a layer compressed as {other:?} ({name})"),
                instead: "load the archive into Docker and push or save it again",
            });
        }
    };
    let named = name.strip_prefix("blobs/sha256/").and_then(Digest::from_hex);
    let digest = match named {
        Some(digest) => digest,
        None => {
            let mut hasher = Hasher::new();
            hasher.update(&head);
            let mut buffer = vec![0; 256 << 10];
            loop {
                match file.read(&mut buffer).map_err(read)? {
                    0 => break hasher.finish(),
                    count => hasher.update(&buffer[..count]),
                }
            }
        }
    };
    Ok(Some(Descriptor::new(media_type, digest, size)))
}

impl Source for DockerSource {
    fn names(&self) -> Vec<Reference> {
        self.tags.iter().filter_map(|tag| tag.parse().ok()).collect()
    }

    fn root(&self) -> Result<(Descriptor, Vec<u8>)> {
        Ok((self.root.clone(), self.bytes.clone()))
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        if descriptor.digest == self.root.digest {
            return Ok(self.bytes.clone());
        }
        let (place, digest) = (self.describe(), descriptor.digest);
        Err(Error::Missing { place, what: "manifest", digest })
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
        let (place, digest) = (self.describe(), descriptor.digest);
        let found = match self.names.get(&digest) {
            Some(name) => self.tar.open(name)?,
            None => None,
        };
        let (file, _) =
            found.ok_or(Error::Missing { place: place.clone(), what: "blob", digest })?;
        Ok(Box::new(Verified::new(file, descriptor, &place)))
    }

    fn describe(&self) -> String {
        self.tar.place.clone()
    }
}

/// A tar that is written to: an OCI layout, for Docker with a manifest.json in it.
pub struct ArchiveSink {
    docker: bool,
    /// A tag for the image beside its names.
    tag: Option<String>,
    state: Mutex<State>,
}

struct State {
    out: Output,
    written: HashSet<String>,
    /// What manifest.json is made from.
    manifests: BTreeMap<Digest, Vec<u8>>,
    /// Entries of artifacts that refer to the image.
    referrers: Vec<Descriptor>,
    /// Set while a file is half written; then the archive is lost.
    broken: bool,
}

enum Output {
    /// Renamed to its name at the end.
    File(BufWriter<NamedTempFile>, PathBuf),
    /// Somebody else's.
    Stream(BufWriter<Box<dyn Write + Send>>),
}

impl ArchiveSink {
    /// Starts an archive that appears under `path` when it is finished.
    pub fn create(path: &Path, docker: bool) -> Result<ArchiveSink> {
        // A symlink stays, and what it leads to is replaced.
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if path.is_dir() {
            let source = io::Error::from(io::ErrorKind::IsADirectory);
            return Err(io_error("write an archive to", &path)(source));
        }
        // A pipe or a device is written to as it is.
        if std::fs::metadata(&path).is_ok_and(|meta| !meta.is_file()) {
            let file = File::options().write(true).open(&path).map_err(io_error("open", &path))?;
            return Ok(ArchiveSink::to_writer(Box::new(file), docker));
        }
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let file = tempfile::Builder::new()
            .prefix(".lapstrake-")
            // As open(2) would: the umask takes its part off.
            .permissions(std::fs::Permissions::from_mode(0o666))
            .tempfile_in(dir)
            .map_err(io_error("create a file in", dir))?;
        let out = Output::File(BufWriter::with_capacity(256 << 10, file), path);
        Ok(ArchiveSink::new(out, docker))
    }

    /// Starts an archive on a stream.
    pub fn to_writer(out: Box<dyn Write + Send>, docker: bool) -> ArchiveSink {
        ArchiveSink::new(Output::Stream(BufWriter::with_capacity(256 << 10, out)), docker)
    }

    fn new(out: Output, docker: bool) -> ArchiveSink {
        let state = State {
            out,
            written: HashSet::new(),
            manifests: BTreeMap::new(),
            referrers: Vec::new(),
            broken: false,
        };
        ArchiveSink { docker, tag: None, state: Mutex::new(state) }
    }

    /// Gives the image this bare tag, beside the names that it gets.
    #[must_use]
    pub fn with_tag(mut self, tag: Option<String>) -> ArchiveSink {
        self.tag = tag;
        self
    }
}

impl Output {
    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Output::File(out, _) => out,
            Output::Stream(out) => out,
        }
    }

    fn path(&self) -> PathBuf {
        match self {
            Output::File(_, path) => path.clone(),
            Output::Stream(_) => PathBuf::from("the output stream"),
        }
    }
}

impl State {
    /// Writes one file. `size` bytes must come out of `content`.
    fn add(&mut self, name: &str, size: u64, content: &mut dyn Read) -> Result<()> {
        let path = self.out.path();
        if self.broken {
            let source = io::Error::other("an earlier write failed");
            return Err(io_error("write", &path)(source));
        }
        if !self.written.insert(name.to_owned()) {
            return Ok(());
        }
        self.broken = true;
        // Other tools want directories before what is in them.
        for (at, _) in name.match_indices('/') {
            let dir = &name[..=at];
            if self.written.insert(dir.to_owned()) {
                self.header(dir, 0, tar::EntryType::Directory, 0o755, &path)?;
            }
        }
        self.header(name, size, tar::EntryType::Regular, 0o644, &path)?;
        let place = path.display().to_string();
        let out = self.out.writer();
        let count = pump(content, out, &place, name, &mut |_| {}).map_err(|error| match error {
            PumpError::Read(error) => error,
            PumpError::Write(source) => io_error("write", &path)(source),
        })?;
        if count != size {
            let reason = format!("{name} has {count} bytes, expected {size}");
            return Err(Error::Damaged { place, reason });
        }
        let padding = [0; 512];
        let rest = usize::try_from(size % 512).unwrap_or_default();
        if rest > 0 {
            out.write_all(&padding[rest..]).map_err(io_error("write", &path))?;
        }
        self.broken = false;
        Ok(())
    }

    fn add_bytes(&mut self, name: &str, mut bytes: &[u8]) -> Result<()> {
        self.add(name, bytes.len() as u64, &mut bytes)
    }

    fn header(
        &mut self,
        name: &str,
        size: u64,
        kind: tar::EntryType,
        mode: u32,
        path: &Path,
    ) -> Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_path(name).map_err(io_error("write", path))?;
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        self.out.writer().write_all(header.as_bytes()).map_err(io_error("write", path))
    }
}

impl Sink for ArchiveSink {
    fn accepts(&self, root: &Descriptor, bytes: &[u8]) -> Result<()> {
        if !self.docker || !root.is_index() {
            return Ok(());
        }
        let images = match Document::parse(bytes, &root.media_type) {
            Ok(Document::Index(index)) => {
                index.manifests.iter().filter(|entry| !entry.is_attestation()).count()
            }
            _ => 1,
        };
        if images == 1 {
            return Ok(());
        }
        Err(Error::Unsupported {
            form: "a docker-archive",
            what: format!("an image of {images} platforms"),
            instead: "write an OCI archive, or choose one platform",
        })
    }

    fn has_blob(&self, descriptor: &Descriptor) -> Result<bool> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(state.written.contains(&blob_name(&descriptor.digest)))
    }

    fn put_blob(&self, descriptor: &Descriptor, open: &mut OpenBlob<'_>) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let place = state.out.path().display().to_string();
        let mut reader = Verified::new(open(0)?, descriptor, &place);
        state.add(&blob_name(&descriptor.digest), descriptor.size, &mut reader)
    }

    fn put_blob_from(
        &self,
        descriptor: &Descriptor,
        _origin: Option<&Reference>,
        open: &mut OpenBlob<'_>,
    ) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let place = state.out.path().display().to_string();
        let mut reader = Verified::size_only(open(0)?, descriptor, &place);
        state.add(&blob_name(&descriptor.digest), descriptor.size, &mut reader)
    }

    fn put_manifest(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.docker {
            state.manifests.insert(descriptor.digest, bytes.to_vec());
        }
        state.add_bytes(&blob_name(&descriptor.digest), bytes)
    }

    fn put_referrer(&self, _subject: &Digest, descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
        if self.docker {
            return Err(Error::Unsupported {
                form: "a docker-archive",
                what: "what refers to an image".to_owned(),
                instead: "write an OCI archive, or leave --referrers out",
            });
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.add_bytes(&blob_name(&descriptor.digest), bytes)?;
        state.referrers.push(descriptor.clone());
        Ok(())
    }

    fn finish(&self, root: &Descriptor, bytes: &[u8], names: &[Reference]) -> Result<()> {
        self.put_manifest(root, bytes)?;
        let mut entries = named_entries(root, names, self.tag.as_deref());
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        entries.append(&mut state.referrers);
        drop(state);
        let (_, index) = Index::new(entries).encode();
        let item = if self.docker { Some(self.docker_item(root, bytes, names)?) } else { None };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.add_bytes("index.json", &index)?;
        if let Some(item) = item {
            state.add_bytes("manifest.json", &canonical::to_vec(&[item]))?;
        }
        state.add_bytes("oci-layout", OCI_LAYOUT)?;
        let path = state.out.path();
        state.out.writer().write_all(&[0; 1024]).map_err(io_error("write", &path))?;
        state.out.writer().flush().map_err(io_error("write", &path))?;
        let done = Output::Stream(BufWriter::new(Box::new(io::sink())));
        let out = std::mem::replace(&mut state.out, done);
        if let Output::File(out, path) = out {
            let file =
                out.into_inner().map_err(|error| io_error("write", &path)(error.into_error()))?;
            file.persist(&path)
                .map_err(|error| io_error("rename a file to", &path)(error.error))?;
        }
        Ok(())
    }

    /// A tar is written from front to back, and its bytes must not depend on which thread was first.
    fn parallel(&self) -> bool {
        false
    }
}

impl ArchiveSink {
    /// Makes the entry of manifest.json.
    fn docker_item(&self, root: &Descriptor, bytes: &[u8], names: &[Reference]) -> Result<Item> {
        let place = "docker-archive".to_owned();
        let wrong = |what: String, source| Error::Document { place: place.clone(), what, source };
        let manifest = match Document::parse(bytes, &root.media_type)
            .map_err(|source| wrong(root.digest.to_string(), source))?
        {
            Document::Manifest(manifest) => manifest,
            Document::Index(index) => {
                // Checked by `accepts`: exactly one image. Its manifest came by put_manifest.
                let entry = index.manifests.iter().find(|entry| !entry.is_attestation());
                let digest = entry.map_or(root.digest, |entry| entry.digest);
                let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                let bytes = state.manifests.get(&digest).ok_or_else(|| Error::Missing {
                    place: place.clone(),
                    what: "manifest",
                    digest,
                })?;
                match Document::parse(bytes, "").map_err(|s| wrong(digest.to_string(), s))? {
                    Document::Manifest(manifest) => manifest,
                    Document::Index(_) => {
                        return Err(Error::Unsupported {
                            form: "a docker-archive",
                            what: "a nested index".to_owned(),
                            instead: "write an OCI archive, or choose one platform",
                        });
                    }
                }
            }
        };
        Ok(Item {
            config: blob_name(&manifest.config.digest),
            repo_tags: names
                .iter()
                .filter(|name| name.tag.is_some())
                .map(|name| Reference { digest: None, ..name.clone() }.familiar())
                .collect(),
            layers: manifest.layers.iter().map(|layer| blob_name(&layer.digest)).collect(),
        })
    }
}
