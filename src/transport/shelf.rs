//! Shelves: places of small artifacts under immutable tags, with their blobs. The build cache keeps
//! its entries on them.
//!
//! A shelf is a repository of a registry or an OCI layout directory; both hold the same bytes. A tag
//! that is there is never changed by [`Shelf::put`], so that writers that know nothing of each other
//! cannot spoil one another's work: a registry is asked first (two writers at the same instant leave
//! one of two equally good entries), a layout is looked at under its lock.

use std::collections::HashMap;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use super::blob::read_all;
use super::error::{Error, Result};
use super::layout::LayoutSink;
use super::remote::RegistrySink;
use super::{OpenBlob, Sink};
use crate::oci::descriptor::REF_NAME;
use crate::oci::manifest::MAX_SIZE;
use crate::oci::{Descriptor, Digest, Index, Reference};
use crate::registry::Client;

/// A place of artifacts.
pub trait Shelf: Send + Sync {
    /// Gives the manifest under a tag; None when there is none. Costs a registry one request.
    fn find(&self, tag: &str) -> Result<Option<Vec<u8>>>;

    /// Opens a blob. The reader verifies digest and size.
    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>>;

    /// Tells whether the tag is there.
    fn has(&self, tag: &str) -> Result<bool>;

    /// Stores a blob, unless it is there.
    fn put_blob(&self, descriptor: &Descriptor, open: &mut OpenBlob<'_>) -> Result<()>;

    /// Stores a manifest under a tag, unless that is taken. What it names was put before.
    fn put(&self, tag: &str, manifest: &Descriptor, bytes: &[u8]) -> Result<()>;

    /// Stores a manifest under a tag, which moves when it is taken.
    fn replace(&self, tag: &str, manifest: &Descriptor, bytes: &[u8]) -> Result<()>;

    /// Fails when nothing could be put here: asked before an hour of building.
    fn check_writable(&self) -> Result<()>;

    /// Says what it is, for messages. Equal for equal places.
    fn describe(&self) -> String;
}

/// How often a manifest is put again, and the pause before the first time; each doubles it.
const PUTS: u32 = 5;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// Tells whether a registry misses a blob that it has just taken.
fn is_unknown_blob(error: &crate::registry::Error) -> bool {
    let crate::registry::Error::Status { status: 400 | 404, errors, .. } = error else {
        return false;
    };
    errors
        .iter()
        .any(|error| matches!(error.code.as_str(), "MANIFEST_BLOB_UNKNOWN" | "BLOB_UNKNOWN"))
}

/// A repository of a registry.
pub struct RegistryShelf {
    /// Asks whether something is there: in vain, that should not take long.
    asking: Client,
    client: Client,
    repository: Reference,
    sink: RegistrySink,
}

impl RegistryShelf {
    /// Names a repository; tag and digest of the reference do not count. Nobody is asked yet.
    /// `asking` is the client for small questions, which may have fewer retries.
    pub fn new(asking: &Client, client: &Client, reference: &Reference) -> RegistryShelf {
        let repository = Reference { tag: None, digest: None, ..reference.clone() };
        let sink = RegistrySink::new(client.clone(), repository.clone());
        // What is read here is what is written here: mirrors have no part in it.
        let (asking, client) = (asking.direct(), client.direct());
        RegistryShelf { asking, client, repository, sink }
    }

    fn tagged(&self, tag: &str) -> Reference {
        Reference { tag: Some(tag.to_owned()), ..self.repository.clone() }
    }
}

impl Shelf for RegistryShelf {
    fn find(&self, tag: &str) -> Result<Option<Vec<u8>>> {
        match self.asking.resolve(&self.tagged(tag)) {
            Ok((_, bytes)) => Ok(Some(bytes)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.client.blob(&self.repository, descriptor, 0)?))
    }

    fn has(&self, tag: &str) -> Result<bool> {
        match self.asking.digest_of(&self.tagged(tag)) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn put_blob(&self, descriptor: &Descriptor, open: &mut OpenBlob<'_>) -> Result<()> {
        if self.sink.has_blob(descriptor)? { Ok(()) } else { self.sink.put_blob(descriptor, open) }
    }

    fn put(&self, tag: &str, manifest: &Descriptor, bytes: &[u8]) -> Result<()> {
        let mut tries = 0;
        loop {
            if self.has(tag)? {
                return Ok(());
            }
            match self.client.push_manifest(&self.repository, tag, &manifest.media_type, bytes) {
                Ok(_) => return Ok(()),
                // Distribution's file storage writes the link to a blob in place, so while another
                // writer puts the same blob it may look as if there were none.
                Err(error) if tries < PUTS && is_unknown_blob(&error) => {
                    std::thread::sleep(PAUSE * (1 << tries));
                    tries += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn replace(&self, tag: &str, manifest: &Descriptor, bytes: &[u8]) -> Result<()> {
        self.client.push_manifest(&self.repository, tag, &manifest.media_type, bytes)?;
        Ok(())
    }

    fn check_writable(&self) -> Result<()> {
        // Asks with the right to push; whether the blob is there does not matter.
        self.asking.has_blob(&self.repository, &Digest::of(b"{}"))?;
        Ok(())
    }

    fn describe(&self) -> String {
        self.repository.name()
    }
}

/// An OCI layout directory.
pub struct LayoutShelf {
    path: PathBuf,
    sink: OnceLock<LayoutSink>,
    known: Mutex<Known>,
}

/// index.json as it was read last.
#[derive(Default)]
struct Known {
    /// Size, time and number of the file: two may be written within a tick of the clock.
    stamp: Option<(u64, SystemTime, u64)>,
    tags: HashMap<String, Descriptor>,
}

impl LayoutShelf {
    /// Names a directory, which is made when something is put there.
    pub fn new(path: &Path) -> LayoutShelf {
        LayoutShelf { path: path.to_owned(), sink: OnceLock::new(), known: Mutex::default() }
    }

    fn sink(&self) -> Result<&LayoutSink> {
        if let Some(sink) = self.sink.get() {
            return Ok(sink);
        }
        let sink = LayoutSink::create(&self.path)?;
        Ok(self.sink.get_or_init(|| sink))
    }

    fn entry(&self, tag: &str) -> Result<Option<Descriptor>> {
        let path = self.path.join("index.json");
        let io = |source| Error::Io { action: "read", path: path.clone(), source };
        let meta = match std::fs::metadata(&path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && self.path.is_dir() => {
                return Ok(None);
            }
            Err(error) => return Err(io(error)),
        };
        let stamp = meta.modified().ok().map(|time| (meta.len(), time, meta.ino()));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if stamp.is_none() || known.stamp != stamp {
            let bytes = std::fs::read(&path).map_err(io)?;
            let index: Index = serde_json::from_slice(&bytes).map_err(|source| Error::Json {
                place: self.describe(),
                what: "index.json".to_owned(),
                source,
            })?;
            let tagged =
                |entry: Descriptor| Some((entry.annotations.get(REF_NAME)?.clone(), entry));
            known.tags = index.manifests.into_iter().filter_map(tagged).collect();
            known.stamp = stamp;
        }
        Ok(known.tags.get(tag).cloned())
    }
}

impl Shelf for LayoutShelf {
    fn find(&self, tag: &str) -> Result<Option<Vec<u8>>> {
        let mut last = None;
        loop {
            let Some(entry) = self.entry(tag)? else { return Ok(None) };
            let read = self.blob(&entry);
            let read = read.and_then(|blob| read_all(blob, &entry, MAX_SIZE, &self.describe()));
            match read {
                // Whoever moves a tag removes what it led to: then it leads elsewhere by now.
                Err(Error::Missing { .. }) if last.as_ref() != Some(&entry) => {
                    self.known.lock().unwrap_or_else(PoisonError::into_inner).stamp = None;
                    last = Some(entry);
                }
                other => return other.map(Some),
            }
        }
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
        super::layout::open_blob(&self.path, descriptor)
    }

    fn has(&self, tag: &str) -> Result<bool> {
        Ok(self.entry(tag)?.is_some())
    }

    fn put_blob(&self, descriptor: &Descriptor, open: &mut OpenBlob<'_>) -> Result<()> {
        let sink = self.sink()?;
        if sink.has_blob(descriptor)? { Ok(()) } else { sink.put_blob(descriptor, open) }
    }

    fn put(&self, tag: &str, manifest: &Descriptor, bytes: &[u8]) -> Result<()> {
        self.sink()?.put_under_tag(tag, manifest, bytes, false)
    }

    fn replace(&self, tag: &str, manifest: &Descriptor, bytes: &[u8]) -> Result<()> {
        self.sink()?.put_under_tag(tag, manifest, bytes, true)
    }

    fn check_writable(&self) -> Result<()> {
        self.sink().map(drop)
    }

    fn describe(&self) -> String {
        format!("oci:{}", self.path.display())
    }
}
