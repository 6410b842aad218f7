//! OCI layouts (OCI image-spec, image-layout.md), as directories and inside of archives.
//!
//! Reading takes every shape that tools write: an entry of index.json that is a manifest or an index
//! (nested to any depth that is bearable), Docker's media types, no tags, no media types, no
//! platforms, several entries that are one image each for a platform (a flat index.json).
//!
//! Which entry is meant:
//!
//! | asked for | taken |
//! |---|---|
//! | a digest | that entry, or that manifest below any entry, or that blob |
//! | a name | entries whose tag or full name is that; several of them are one flat index |
//! | nothing | the only image; a flat index; else the one with the tag `latest` |
//!
//! Writing keeps entries of other names as they are, byte for byte in meaning, replaces those of the
//! same name, and removes the blobs that only the replaced ones needed. Blobs appear by rename, then
//! index.json does; a kill in between leaves the old layout with some blobs too many. Two writers at
//! once are told apart by locks on the directory (shared by writers at work) and on `oci-layout`
//! (held while index.json changes).

mod sink;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::Source;
use super::blob::{Verified, read_all};
use super::error::{Error, Result};
use super::name::Selector;
use crate::oci::descriptor::{IMAGE_NAME, REF_NAME};
use crate::oci::manifest::{MAX_DEPTH, MAX_SIZE};
use crate::oci::reference::DEFAULT_TAG;
use crate::oci::{Descriptor, Digest, Document, Index, Manifest, Reference, media_type};
use crate::registry::referrers_tag;

pub use sink::LayoutSink;

/// What `oci-layout` says.
pub(super) const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// The files of a layout, in a directory or in an archive.
pub(super) trait Files: Send + Sync {
    /// Opens a file by its path in the layout and gives its size; `None` when there is none.
    fn open(&self, name: &str) -> Result<Option<(Box<dyn Read + Send>, u64)>>;

    /// Says where they are, for messages.
    fn place(&self) -> String;
}

/// An image of a layout.
pub struct LayoutSource {
    files: Box<dyn Files>,
    root: Descriptor,
    /// The bytes of a root that is no blob of the layout.
    made: Option<Vec<u8>>,
}

/// A directory.
struct Directory {
    path: PathBuf,
}

/// Gives the path of a blob in a layout.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

impl LayoutSource {
    /// Opens an image of a layout directory.
    pub fn open(path: &Path, selector: &Selector) -> Result<LayoutSource> {
        let meta = fs::metadata(path).map_err(io_error("open", path))?;
        let bad = |reason: &str| Error::NotALayout { path: path.to_owned(), reason: reason.into() };
        if !meta.is_dir() {
            return Err(bad(
                "it is no directory (for a file, use oci-archive: or docker-archive:)",
            ));
        }
        let files = Directory { path: path.to_owned() };
        if files.open("index.json")?.is_none() {
            return Err(bad("it has no index.json"));
        }
        LayoutSource::read(Box::new(files), selector)
    }

    /// Opens an image of a layout.
    pub(super) fn read(files: Box<dyn Files>, selector: &Selector) -> Result<LayoutSource> {
        let place = files.place();
        if let Some(bytes) = read_file(files.as_ref(), "oci-layout")? {
            check_version(&bytes, &place)?;
        }
        let bytes = read_file(files.as_ref(), "index.json")?
            .ok_or_else(|| Error::Empty { place: place.clone() })?;
        let index = match Document::parse(&bytes, "") {
            Ok(Document::Index(index)) => index,
            Ok(Document::Manifest(_)) => {
                return Err(Error::Damaged { place, reason: "index.json is no index".to_owned() });
            }
            Err(source) => {
                return Err(Error::Document { place, what: "index.json".to_owned(), source });
            }
        };
        let mut out =
            LayoutSource { files, root: Descriptor::of(media_type::OCI_INDEX, &bytes), made: None };
        match select(&out, &index, selector)? {
            Root::Entry(entry) => out.root = entry,
            Root::Flat(index) => {
                let (descriptor, bytes) = index.encode();
                out.root = descriptor;
                out.made = Some(bytes);
            }
        }
        Ok(out)
    }
}

impl Source for LayoutSource {
    fn root(&self) -> Result<(Descriptor, Vec<u8>)> {
        if let Some(bytes) = &self.made {
            return Ok((self.root.clone(), bytes.clone()));
        }
        let bytes = self.manifest(&self.root)?;
        let mut root = self.root.clone();
        if root.media_type.is_empty() {
            let document = Document::parse(&bytes, "").map_err(|source| Error::Document {
                place: self.describe(),
                what: root.digest.to_string(),
                source,
            })?;
            root.media_type = document.media_type().to_owned();
        }
        Ok((root, bytes))
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let place = self.describe();
        let (file, _) = self.files.open(&blob_name(&descriptor.digest))?.ok_or_else(|| {
            Error::Missing { place: place.clone(), what: "manifest", digest: descriptor.digest }
        })?;
        read_all(Verified::new(file, descriptor, &place), descriptor, MAX_SIZE, &place)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
        open_blob_of(self.files.as_ref(), descriptor)
    }

    fn blob_unverified(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
        let file = open_sized(self.files.as_ref(), descriptor)?;
        Ok(Box::new(Verified::size_only(file, descriptor, &self.files.place())))
    }

    fn names(&self) -> Vec<Reference> {
        let Ok(Some(bytes)) = read_file(self.files.as_ref(), "index.json") else {
            return Vec::new();
        };
        let Ok(Document::Index(index)) = Document::parse(&bytes, "") else { return Vec::new() };
        let ours = index.manifests.iter().filter(|entry| entry.digest == self.root.digest);
        ours.filter_map(|entry| entry.annotations.get(IMAGE_NAME)?.parse().ok()).collect()
    }

    /// Artifacts are entries of index.json beside the image (as oras writes them), or lie under the
    /// tag that registries without the referrers API have them under.
    fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        let Some(bytes) = read_file(self.files.as_ref(), "index.json")? else {
            return Ok(Vec::new());
        };
        let Ok(Document::Index(index)) = Document::parse(&bytes, "") else {
            return Ok(Vec::new());
        };
        let tag = referrers_tag(subject);
        let mut out = Vec::new();
        for entry in &index.manifests {
            let tagged = entry.annotations.get(REF_NAME).is_some_and(|name| *name == tag);
            if entry.platform.is_some() || entry.is_index() && !tagged {
                continue;
            }
            let bytes = self.manifest(entry)?;
            match Document::parse(&bytes, &entry.media_type) {
                Ok(Document::Index(index)) => out.extend(index.manifests),
                Ok(Document::Manifest(manifest))
                    if manifest.subject.as_ref().is_some_and(|of| of.digest == *subject) =>
                {
                    out.push(referrer(entry, &manifest));
                }
                _ => {}
            }
        }
        Ok(out)
    }

    fn describe(&self) -> String {
        self.files.place()
    }
}

/// Describes an artifact as the referrers API does: with its type and annotations.
pub(super) fn referrer(entry: &Descriptor, manifest: &Manifest) -> Descriptor {
    let mut out = Descriptor::new(entry.media_type.clone(), entry.digest, entry.size);
    if out.media_type.is_empty() {
        out.media_type = media_type::OCI_MANIFEST.to_owned();
    }
    let kind = manifest.artifact_type.clone();
    out.artifact_type = kind.or_else(|| Some(manifest.config.media_type.clone()));
    out.annotations = manifest.annotations.clone();
    out
}

/// Opens a blob of a layout directory. The reader verifies it.
pub(super) fn open_blob(path: &Path, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
    open_blob_of(&Directory { path: path.to_owned() }, descriptor)
}

fn open_blob_of(files: &dyn Files, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
    let file = open_sized(files, descriptor)?;
    Ok(Box::new(Verified::new(file, descriptor, &files.place())))
}

/// Opens a blob that has the right size.
fn open_sized(files: &dyn Files, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
    let place = files.place();
    let (file, size) = files.open(&blob_name(&descriptor.digest))?.ok_or_else(|| {
        Error::Missing { place: place.clone(), what: "blob", digest: descriptor.digest }
    })?;
    if size != descriptor.size {
        let (digest, expected) = (descriptor.digest, descriptor.size);
        return Err(Error::Size { place, digest, expected, found: size });
    }
    Ok(file)
}

impl Files for Directory {
    fn open(&self, name: &str) -> Result<Option<(Box<dyn Read + Send>, u64)>> {
        let path = self.path.join(name);
        // Looked at before it is opened: opening a FIFO would wait for a writer.
        match fs::metadata(&path) {
            Ok(meta) if meta.is_file() => {
                let file = File::open(&path).map_err(io_error("open", &path))?;
                Ok(Some((Box::new(file), meta.len())))
            }
            Ok(_) => Err(Error::Damaged {
                place: path.display().to_string(),
                reason: "it is no regular file".to_owned(),
            }),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(io_error("open", &path)(error)),
        }
    }

    fn place(&self) -> String {
        format!("oci:{}", self.path.display())
    }
}

/// Reads a small file of a layout.
pub(super) fn read_file(files: &dyn Files, name: &str) -> Result<Option<Vec<u8>>> {
    let Some((file, size)) = files.open(name)? else { return Ok(None) };
    let place = files.place();
    if size > MAX_SIZE {
        let reason = format!("{name} has {size} bytes, more than {MAX_SIZE}");
        return Err(Error::Damaged { place, reason });
    }
    let mut bytes = Vec::new();
    file.take(MAX_SIZE).read_to_end(&mut bytes).map_err(|source| Error::Read {
        place,
        what: name.to_owned(),
        source,
    })?;
    Ok(Some(bytes))
}

fn check_version(bytes: &[u8], place: &str) -> Result<()> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Marker {
        image_layout_version: String,
    }
    let marker: Marker = serde_json::from_slice(bytes).map_err(|source| Error::Json {
        place: place.to_owned(),
        what: "oci-layout".to_owned(),
        source,
    })?;
    if marker.image_layout_version.starts_with("1.") {
        return Ok(());
    }
    let version = marker.image_layout_version;
    let reason = format!("it is a layout of version {version:?}, and only 1.0.0 is known");
    Err(Error::Damaged { place: place.to_owned(), reason })
}

/// What a selector leads to.
enum Root {
    Entry(Descriptor),
    Flat(Index),
}

fn select(source: &LayoutSource, index: &Index, selector: &Selector) -> Result<Root> {
    let place = source.describe();
    if let Some(digest) = &selector.digest {
        return by_digest(source, index, digest, selector);
    }
    let Some(name) = &selector.name else { return unnamed(&place, index) };
    let found = entries_named(index, name);
    if found.is_empty() {
        let there = shown_names(&index.manifests);
        return Err(Error::NoSuchImage { place, name: name.clone(), there });
    }
    one_or_flat(&place, index, found)
}

/// Gives the entries of an index that a tag or a whole reference names.
pub(super) fn entries_named<'a>(index: &'a Index, name: &str) -> Vec<&'a Descriptor> {
    let full = |text: &str| text.parse::<Reference>().ok().map(Reference::with_default_tag);
    let wanted = full(name);
    // What looks like a tag may be a whole reference too (`alpine`); a tag goes first.
    let by_tag: Vec<&Descriptor> = index
        .manifests
        .iter()
        .filter(|entry| {
            let tag = entry.annotations.get(REF_NAME);
            tag.is_some_and(|tag| tag == name)
                || entry.annotations.get(IMAGE_NAME).is_some_and(|image| image == name)
        })
        .collect();
    if !by_tag.is_empty() {
        return by_tag;
    }
    let is_full = name.contains(['/', ':']);
    index
        .manifests
        .iter()
        .filter(|entry| {
            let image = entry.annotations.get(IMAGE_NAME).and_then(|image| full(image));
            let reference = entry
                .annotations
                .get(REF_NAME)
                // A bare tag would parse as a name of Docker Hub.
                .filter(|text| text.contains(['/', ':']))
                .and_then(|text| full(text));
            let found = image.or(reference);
            match (&wanted, &found) {
                (Some(wanted), Some(found)) if wanted == found => true,
                (_, Some(found)) => !is_full && found.tag.as_deref() == Some(name),
                _ => false,
            }
        })
        .collect()
}

fn by_digest(
    source: &LayoutSource,
    index: &Index,
    digest: &Digest,
    selector: &Selector,
) -> Result<Root> {
    if let Some(entry) = find(source, index, digest, 0)? {
        return Ok(Root::Entry(entry));
    }
    // Some layouts have images that no entry names (what a builder pushed by digest).
    if let Some((file, size)) = source.files.open(&blob_name(digest))?
        && size <= MAX_SIZE
    {
        let place = source.describe();
        let mut descriptor = Descriptor::new("", *digest, size);
        let verified = Verified::new(file, &descriptor, &place);
        let bytes = read_all(verified, &descriptor, MAX_SIZE, &place)?;
        if let Ok(document) = Document::parse(&bytes, "") {
            descriptor.media_type = document.media_type().to_owned();
            return Ok(Root::Entry(descriptor));
        }
    }
    Err(Error::NoSuchImage {
        place: source.describe(),
        name: selector.shown(),
        there: shown_names(&index.manifests),
    })
}

fn find(
    source: &LayoutSource,
    index: &Index,
    digest: &Digest,
    depth: usize,
) -> Result<Option<Descriptor>> {
    if let Some(entry) = index.manifests.iter().find(|entry| entry.digest == *digest) {
        return Ok(Some(entry.clone()));
    }
    if depth >= MAX_DEPTH {
        return Ok(None);
    }
    for entry in index.manifests.iter().filter(|entry| entry.is_index()) {
        // An index that cannot be read does not hide what lies beside it.
        let Ok(bytes) = source.manifest(entry) else { continue };
        if let Ok(Document::Index(nested)) = Document::parse(&bytes, &entry.media_type)
            && let Some(found) = find(source, &nested, digest, depth + 1)?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Chooses when nothing was asked for.
fn unnamed(place: &str, index: &Index) -> Result<Root> {
    // Artifacts that lie beside the image are not meant.
    let images: Vec<&Descriptor> = index
        .manifests
        .iter()
        .filter(|entry| !entry.is_attestation() && entry.artifact_type.is_none())
        .collect();
    let names: BTreeSet<Option<String>> = images.iter().map(|entry| name_of(entry)).collect();
    let digests: BTreeSet<Digest> = images.iter().map(|entry| entry.digest).collect();
    match images.as_slice() {
        [] => Err(Error::Empty { place: place.to_owned() }),
        [first, ..] if digests.len() == 1 => Ok(Root::Entry((*first).clone())),
        // All nameless, or all of one name: one image, an entry a platform.
        _ if names.len() == 1 => Ok(Root::Flat(flat(index, &images))),
        _ => {
            let latest = entries_named(index, DEFAULT_TAG);
            if latest.is_empty() {
                let there = shown_names(&index.manifests);
                return Err(Error::Ambiguous { place: place.to_owned(), there });
            }
            one_or_flat(place, index, latest)
        }
    }
}

/// Makes one image of the entries found.
fn one_or_flat(place: &str, index: &Index, found: Vec<&Descriptor>) -> Result<Root> {
    let digests: BTreeSet<Digest> = found.iter().map(|entry| entry.digest).collect();
    if digests.len() == 1 {
        return Ok(Root::Entry(found[0].clone()));
    }
    let images: BTreeSet<Option<&String>> =
        found.iter().map(|entry| entry.annotations.get(IMAGE_NAME)).collect();
    if images.len() > 1 {
        let there = found.iter().filter_map(|e| e.annotations.get(IMAGE_NAME).cloned()).collect();
        return Err(Error::Ambiguous { place: place.to_owned(), there });
    }
    Ok(Root::Flat(flat(index, &found)))
}

/// Makes an index of some entries, without the names that belong to this layout.
fn flat(index: &Index, entries: &[&Descriptor]) -> Index {
    let mut seen = BTreeSet::new();
    let manifests = entries
        .iter()
        .filter(|entry| seen.insert(entry.digest))
        .map(|entry| {
            let mut entry = (*entry).clone();
            entry.annotations.remove(REF_NAME);
            entry.annotations.remove(IMAGE_NAME);
            entry
        })
        .collect();
    Index { annotations: index.annotations.clone(), ..Index::new(manifests) }
}

/// Gives the name of an entry: the full one, else the tag.
fn name_of(entry: &Descriptor) -> Option<String> {
    let annotations = &entry.annotations;
    annotations.get(IMAGE_NAME).or_else(|| annotations.get(REF_NAME)).cloned()
}

/// Lists what there is, for messages: by tag, or by the full name where images of different
/// repositories have the same tag.
fn shown_names(entries: &[Descriptor]) -> Vec<String> {
    let tag = |entry: &Descriptor| entry.annotations.get(REF_NAME).cloned();
    let mut out: Vec<String> = Vec::new();
    for entry in entries.iter().filter(|entry| !entry.is_attestation()) {
        let shared = entries
            .iter()
            .any(|other| tag(other) == tag(entry) && name_of(other) != name_of(entry));
        let short = if shared { None } else { tag(entry) };
        let name = short.or_else(|| name_of(entry)).unwrap_or_else(|| entry.digest.to_string());
        if !out.contains(&name) {
            out.push(name);
        }
    }
    out
}

/// Gives the entry of index.json for an image under a name. (BuildKit and containerd write both.)
pub(super) fn named_entry(root: &Descriptor, name: Option<&Reference>) -> Descriptor {
    let mut entry = root.clone();
    entry.annotations.remove(REF_NAME);
    entry.annotations.remove(IMAGE_NAME);
    entry.data = None;
    let Some(name) = name else { return entry };
    if let Some(tag) = &name.tag {
        entry.annotations.insert(REF_NAME.to_owned(), tag.clone());
    }
    let mut full = name.clone();
    // With a tag, the digest says nothing that the entry does not.
    if full.tag.is_some() {
        full.digest = None;
    }
    entry.annotations.insert(IMAGE_NAME.to_owned(), full.to_string());
    entry
}

/// Gives the entries of index.json for an image: one a name, else one with a bare tag or nameless.
pub(super) fn named_entries(
    root: &Descriptor,
    names: &[Reference],
    tag: Option<&str>,
) -> Vec<Descriptor> {
    let mut entries: Vec<Descriptor> =
        names.iter().map(|name| named_entry(root, Some(name))).collect();
    if let Some(tag) = tag {
        entries.push(named_entry(root, None).with_annotation(REF_NAME, tag));
    }
    if entries.is_empty() {
        entries.push(named_entry(root, None));
    }
    entries
}

/// Gives the entries of index.json of a layout directory, or of an archive of one.
pub fn entries_of(path: &Path) -> Result<Vec<Descriptor>> {
    let files: Box<dyn Files> = if path.is_dir() {
        Box::new(Directory { path: path.to_owned() })
    } else {
        super::archive::open_files(path)?
    };
    let bytes = read_file(files.as_ref(), "index.json")?.ok_or_else(|| Error::NotALayout {
        path: path.to_owned(),
        reason: "it has no index.json".to_owned(),
    })?;
    match Document::parse(&bytes, "") {
        Ok(Document::Index(index)) => Ok(index.manifests),
        Ok(Document::Manifest(_)) => {
            let (place, reason) = (files.place(), "index.json is no index".to_owned());
            Err(Error::Damaged { place, reason })
        }
        Err(source) => {
            Err(Error::Document { place: files.place(), what: "index.json".to_owned(), source })
        }
    }
}

/// Adds what was attempted to an [`io::Error`].
pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}
