//! An OCI layout directory that is written to; see [`super`] for what stays and what goes.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;
use tempfile::NamedTempFile;

use super::{
    Directory, OCI_LAYOUT, blob_name, check_version, io_error, name_of, named_entries, read_file,
};
use crate::oci::descriptor::{IMAGE_NAME, REF_NAME};
use crate::oci::manifest::MAX_DEPTH;
use crate::oci::{Descriptor, Digest, Document, Index, Reference, canonical};
use crate::transport::blob::Verified;
use crate::transport::copy::{PumpError, pump};
use crate::transport::error::{Error, Result};
use crate::transport::{OpenBlob, Sink};

/// Names of files that are being written start so; what a killed process left is swept by them.
const TEMPORARY: &str = ".lapstrake-";

/// A layout directory that is written to.
pub struct LayoutSink {
    path: PathBuf,
    /// A tag for the image beside its names.
    tag: Option<String>,
    /// Entries of artifacts that refer to the image.
    referrers: Mutex<Vec<Descriptor>>,
    /// The directory, locked shared while this writer is at work.
    dir: File,
}

impl LayoutSink {
    /// Opens a layout for writing, and makes it when there is nothing or an empty directory. A
    /// directory that holds something else is left as it is.
    pub fn create(path: &Path) -> Result<LayoutSink> {
        match fs::read_dir(path) {
            Ok(entries) => {
                // What another writer, or a killed one, has begun is no layout yet.
                let ours = |name: &[u8]| name == b"blobs" || name.starts_with(TEMPORARY.as_bytes());
                let foreign =
                    entries.flatten().any(|entry| !ours(entry.file_name().as_encoded_bytes()));
                // Looked for after the names were read: another writer may be putting these there.
                let is_layout =
                    || path.join("oci-layout").exists() || path.join("index.json").exists();
                if foreign && !is_layout() {
                    return Err(Error::Occupied { path: path.to_owned() });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error("open", path)(error)),
        }
        let blobs = path.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(io_error("create", &blobs))?;
        let dir = File::open(path).map_err(io_error("open", path))?;
        // Where nobody else is at work, what is half done is nobody's. File systems without locks
        // (some network ones) just do not get swept.
        if dir.try_lock().is_ok() {
            sweep(path);
            sweep(&blobs);
            let _ = dir.unlock();
        }
        let _ = dir.lock_shared();
        let referrers = Mutex::default();
        let sink = LayoutSink { path: path.to_owned(), tag: None, referrers, dir };
        if !path.join("oci-layout").exists() {
            sink.mark()?;
        }
        if let Some(bytes) = read_file(&Directory { path: path.to_owned() }, "oci-layout")? {
            check_version(&bytes, &path.display().to_string())?;
        }
        // Told now and not after an hour of building.
        sink.read_index()?;
        Ok(sink)
    }

    /// Gives the image this bare tag, beside the names that it gets.
    #[must_use]
    pub fn with_tag(mut self, tag: Option<String>) -> LayoutSink {
        self.tag = tag;
        self
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path.join(blob_name(digest))
    }

    fn temporary(&self, dir: &Path) -> Result<NamedTempFile> {
        tempfile::Builder::new()
            .prefix(TEMPORARY)
            .tempfile_in(dir)
            .map_err(io_error("create a file in", dir))
    }

    /// Stores a blob whose reader verifies.
    fn save(&self, path: &Path, reader: &mut dyn Read) -> Result<()> {
        let mut file = self.temporary(&self.path.join("blobs/sha256"))?;
        let place = path.display().to_string();
        pump(reader, &mut file, &place, "content", &mut |_| {}).map_err(|error| match error {
            PumpError::Read(error) => error,
            PumpError::Write(source) => io_error("write", path)(source),
        })?;
        self.install(file, path)
    }

    /// Gives a finished file its name. Layouts are for other tools and users to read, whatever the
    /// umask.
    fn install(&self, file: NamedTempFile, path: &Path) -> Result<()> {
        file.as_file()
            .set_permissions(Permissions::from_mode(0o644))
            .map_err(io_error("set the mode of", file.path()))?;
        file.persist(path).map_err(|error| io_error("rename a file to", path)(error.error))?;
        Ok(())
    }

    /// Makes `oci-layout`. One that another writer has just made must stay: locks are on it.
    fn mark(&self) -> Result<()> {
        let path = self.path.join("oci-layout");
        let mut file = self.temporary(&self.path)?;
        file.write_all(OCI_LAYOUT)
            .and_then(|()| file.as_file().set_permissions(Permissions::from_mode(0o644)))
            .map_err(io_error("write", &path))?;
        match file.persist_noclobber(&path) {
            Ok(_) => Ok(()),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(io_error("create", &path)(error.error)),
        }
    }

    /// Writes a file of the layout whole or not at all.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path.join(name);
        let dir = path.parent().unwrap_or(&self.path);
        let mut file = self.temporary(dir)?;
        file.write_all(bytes).map_err(io_error("write", &path))?;
        self.install(file, &path)
    }

    /// Stores a manifest under a tag alone; one that is there moves only when `moves` says so.
    pub(in crate::transport) fn put_under_tag(
        &self,
        tag: &str,
        manifest: &Descriptor,
        bytes: &[u8],
        moves: bool,
    ) -> Result<()> {
        self.put_manifest(manifest, bytes)?;
        let turn = self.turn()?;
        let _ = turn.lock();
        let index: Index = serde_json::from_value(self.read_index()?).map_err(|source| {
            let place = self.path.display().to_string();
            Error::Json { place, what: "index.json".to_owned(), source }
        })?;
        let taken = |entry: &Descriptor| entry.annotations.get(REF_NAME).is_some_and(|t| t == tag);
        if moves || !index.manifests.iter().any(taken) {
            let entry = manifest.clone().with_annotation(REF_NAME, tag);
            let replaced = self.change_index(&[entry])?;
            self.collect(&replaced)?;
        }
        Ok(())
    }

    /// Opens the file whose lock a writer of index.json holds.
    fn turn(&self) -> Result<File> {
        let marker = self.path.join("oci-layout");
        File::open(&marker).map_err(io_error("open", &marker))
    }

    /// Reads index.json, as a value, so that what we do not know in it stays.
    fn read_index(&self) -> Result<Value> {
        let place = self.path.display().to_string();
        let files = Directory { path: self.path.clone() };
        let Some(bytes) = read_file(&files, "index.json")? else {
            return Ok(serde_json::to_value(Index::new(Vec::new())).unwrap_or_default());
        };
        let document = Document::parse(&bytes, "").map_err(|source| Error::Document {
            place: place.clone(),
            what: "index.json".to_owned(),
            source,
        })?;
        if !matches!(document, Document::Index(_)) {
            return Err(Error::Damaged { place, reason: "index.json is no index".to_owned() });
        }
        serde_json::from_slice(&bytes).map_err(|source| Error::Json {
            place,
            what: "index.json".to_owned(),
            source,
        })
    }

    /// Puts entries into index.json and gives those that they replace.
    fn change_index(&self, new: &[Descriptor]) -> Result<Vec<Descriptor>> {
        let mut index = self.read_index()?;
        let mut replaced = Vec::new();
        let list = match index.get_mut("manifests") {
            Some(Value::Array(list)) => list,
            _ => {
                index["manifests"] = Value::Array(Vec::new());
                match index.get_mut("manifests") {
                    Some(Value::Array(list)) => list,
                    _ => return Ok(replaced),
                }
            }
        };
        list.retain(|value| {
            let Ok(old) = serde_json::from_value::<Descriptor>(value.clone()) else { return true };
            let same = new.iter().any(|new| same_name(&old, new));
            if same {
                replaced.push(old);
            }
            !same
        });
        for entry in new {
            list.push(serde_json::to_value(entry).unwrap_or_default());
        }
        self.write("index.json", &canonical::to_vec(&index))?;
        Ok(replaced)
    }

    /// Removes the blobs that only replaced entries needed, unless another writer is at work, who
    /// may count on them.
    fn collect(&self, replaced: &[Descriptor]) -> Result<()> {
        let index = self.read_index()?;
        let Ok(index) = serde_json::from_value::<Index>(index) else { return Ok(()) };
        let kept: BTreeSet<Digest> = index.manifests.iter().map(|entry| entry.digest).collect();
        if replaced.iter().all(|old| kept.contains(&old.digest)) || self.dir.try_lock().is_err() {
            return Ok(());
        }
        self.remove_dead(&index, replaced);
        // There may be more to come, and others must not wait for that.
        let _ = self.dir.lock_shared();
        Ok(())
    }

    fn remove_dead(&self, index: &Index, replaced: &[Descriptor]) {
        let mut live = BTreeSet::new();
        // What cannot be walked may need anything.
        if !index.manifests.iter().all(|entry| self.reach(entry, &mut live, 0)) {
            return;
        }
        let mut dead = BTreeSet::new();
        for entry in replaced {
            self.reach(entry, &mut dead, 0);
        }
        for digest in dead.difference(&live) {
            let _ = fs::remove_file(self.blob_path(digest));
        }
    }

    /// Adds all that a descriptor leads to; says whether all of it could be walked.
    fn reach(&self, descriptor: &Descriptor, seen: &mut BTreeSet<Digest>, depth: usize) -> bool {
        if !seen.insert(descriptor.digest) {
            return true;
        }
        if !descriptor.is_index() && !descriptor.is_manifest() && !descriptor.media_type.is_empty()
        {
            return true;
        }
        let files = Directory { path: self.path.clone() };
        let Ok(Some(bytes)) = read_file(&files, &blob_name(&descriptor.digest)) else {
            return false;
        };
        match Document::parse(&bytes, &descriptor.media_type) {
            Ok(Document::Manifest(manifest)) => {
                seen.insert(manifest.config.digest);
                seen.extend(manifest.layers.iter().map(|layer| layer.digest));
                true
            }
            Ok(Document::Index(index)) if depth < MAX_DEPTH => {
                index.manifests.iter().all(|child| self.reach(child, seen, depth + 1))
            }
            _ => false,
        }
    }
}

impl Sink for LayoutSink {
    fn has_blob(&self, descriptor: &Descriptor) -> Result<bool> {
        let meta = fs::metadata(self.blob_path(&descriptor.digest));
        Ok(meta.is_ok_and(|meta| meta.is_file() && meta.len() == descriptor.size))
    }

    fn put_blob(&self, descriptor: &Descriptor, open: &mut OpenBlob<'_>) -> Result<()> {
        let path = self.blob_path(&descriptor.digest);
        self.save(&path, &mut Verified::new(open(0)?, descriptor, &path.display().to_string()))
    }

    fn put_blob_from(
        &self,
        descriptor: &Descriptor,
        _origin: Option<&Reference>,
        open: &mut OpenBlob<'_>,
    ) -> Result<()> {
        let path = self.blob_path(&descriptor.digest);
        let place = path.display().to_string();
        self.save(&path, &mut Verified::size_only(open(0)?, descriptor, &place))
    }

    /// Takes over a file: by reflink where the file system can, by a hard link where it is the same
    /// file system, else by copying.
    fn put_blob_file(&self, descriptor: &Descriptor, source: &Path) -> Result<bool> {
        let path = self.blob_path(&descriptor.digest);
        let dir = self.path.join("blobs/sha256");
        let from = File::open(source).map_err(io_error("open", source))?;
        let mut file = self.temporary(&dir)?;
        if crate::sys::dir::reflink(from.as_fd(), file.as_file().as_fd()).is_ok() {
            return self.install(file, &path).map(|()| true);
        }
        let link = dir.join(format!("{TEMPORARY}link-{}", descriptor.digest.hex()));
        if fs::hard_link(source, &link).is_ok() {
            let renamed = fs::rename(&link, &path).map_err(io_error("rename a file to", &path));
            if renamed.is_err() {
                let _ = fs::remove_file(&link);
            }
            return renamed.map(|()| true);
        }
        let mut from = from;
        // std copies within the kernel where it can.
        let copied = io::copy(&mut from, file.as_file_mut()).map_err(io_error("write", &path))?;
        if copied != descriptor.size {
            return Err(Error::Size {
                place: source.display().to_string(),
                digest: descriptor.digest,
                expected: descriptor.size,
                found: copied,
            });
        }
        self.install(file, &path).map(|()| true)
    }

    fn put_manifest(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
        if self.has_blob(descriptor)? {
            return Ok(());
        }
        self.put_blob(descriptor, &mut |_| Ok(Box::new(io::Cursor::new(bytes.to_vec()))))
    }

    fn put_referrer(&self, _subject: &Digest, descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
        self.put_manifest(descriptor, bytes)?;
        let mut referrers = self.referrers.lock().unwrap_or_else(PoisonError::into_inner);
        referrers.push(descriptor.clone());
        Ok(())
    }

    fn finish(&self, root: &Descriptor, bytes: &[u8], names: &[Reference]) -> Result<()> {
        self.put_manifest(root, bytes)?;
        let mut entries = named_entries(root, names, self.tag.as_deref());
        entries.append(&mut self.referrers.lock().unwrap_or_else(PoisonError::into_inner));
        let turn = self.turn()?;
        let _ = turn.lock();
        let replaced = self.change_index(&entries)?;
        self.collect(&replaced)
    }
}

/// Tells whether a new entry takes the place of an old one: the same full name; where one has none,
/// the same tag; or both have no name at all.
///
/// Artifacts without names lie side by side: only the same one takes its own place.
fn same_name(old: &Descriptor, new: &Descriptor) -> bool {
    let nameless = |entry: &Descriptor| entry.artifact_type.is_some() && name_of(entry).is_none();
    if nameless(old) || nameless(new) {
        return old.digest == new.digest && name_of(old).is_none() && name_of(new).is_none();
    }
    let image = |entry: &Descriptor| entry.annotations.get(IMAGE_NAME).cloned();
    let tag = |entry: &Descriptor| entry.annotations.get(REF_NAME).cloned();
    match (image(old), image(new)) {
        (Some(old), Some(new)) => {
            let full = |text: &str| text.parse::<Reference>().ok().map(Reference::with_default_tag);
            old == new || full(&old).is_some() && full(&old) == full(&new)
        }
        (None, _) => match tag(old) {
            Some(old) => tag(new) == Some(old.clone()) || image(new) == Some(old),
            None => tag(new).is_none() && image(new).is_none(),
        },
        (Some(_), None) => tag(new).is_some() && tag(old) == tag(new),
    }
}

/// Removes what killed writers left.
fn sweep(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(TEMPORARY.as_bytes()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
