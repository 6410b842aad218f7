//! `dir:` of containers-transports(5): the files of one image in a directory, for scripts and for
//! looking at them.
//!
//! | file | content |
//! |---|---|
//! | `version` | `Directory Transport Version: 1.1` |
//! | `manifest.json` | the manifest or index that the image is |
//! | `HEX.manifest.json` | a manifest that the index names |
//! | `HEX` | a config or layer |
//!
//! There are no names. A copy into a directory replaces the image in it; manifest.json is written
//! last, by rename. A directory with anything else in it is refused.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tempfile::NamedTempFile;

use super::blob::{Verified, read_all};
use super::copy::{PumpError, pump};
use super::error::{Error, Result};
use super::layout::io_error;
use super::{OpenBlob, Sink, Source};
use crate::oci::manifest::MAX_SIZE;
use crate::oci::{Descriptor, Digest, Document, Reference};

/// What `version` says. 1.1 is the version with blobs named by their digests.
const VERSION: &[u8] = b"Directory Transport Version: 1.1\n";
/// Names of files that are being written start so.
const TEMPORARY: &str = ".lapstrake-";

/// The image of a directory.
pub struct DirSource {
    path: PathBuf,
    root: Descriptor,
    bytes: Vec<u8>,
}

/// A directory that is written to.
pub struct DirSink {
    path: PathBuf,
    /// Names of the files that belong to the image.
    written: Mutex<BTreeSet<String>>,
}

fn manifest_name(digest: &Digest) -> String {
    format!("{}.manifest.json", digest.hex())
}

impl DirSource {
    /// Opens a directory.
    pub fn open(path: &Path) -> Result<DirSource> {
        let place = format!("dir:{}", path.display());
        let file = path.join("manifest.json");
        let mut bytes = Vec::new();
        File::open(&file)
            .and_then(|file| file.take(MAX_SIZE + 1).read_to_end(&mut bytes))
            .map_err(io_error("read", &file))?;
        let document = Document::parse(&bytes, "").map_err(|source| Error::Document {
            place,
            what: "manifest.json".to_owned(),
            source,
        })?;
        let root = Descriptor::of(document.media_type(), &bytes);
        Ok(DirSource { path: path.to_owned(), root, bytes })
    }

    fn read(&self, name: &str, what: &'static str, descriptor: &Descriptor) -> Result<File> {
        let path = self.path.join(name);
        // Looked at before it is opened: opening a FIFO would wait for a writer.
        match fs::metadata(&path) {
            Ok(meta) if meta.is_file() => File::open(&path).map_err(io_error("open", &path)),
            Ok(_) => Err(Error::Damaged {
                place: path.display().to_string(),
                reason: "it is no regular file".to_owned(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Error::Missing { place: self.describe(), what, digest: descriptor.digest })
            }
            Err(error) => Err(io_error("open", &path)(error)),
        }
    }
}

impl Source for DirSource {
    fn root(&self) -> Result<(Descriptor, Vec<u8>)> {
        Ok((self.root.clone(), self.bytes.clone()))
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        if descriptor.digest == self.root.digest {
            return Ok(self.bytes.clone());
        }
        let place = self.describe();
        let file = self.read(&manifest_name(&descriptor.digest), "manifest", descriptor)?;
        read_all(Verified::new(file, descriptor, &place), descriptor, MAX_SIZE, &place)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
        let file = self.read(&descriptor.digest.hex(), "blob", descriptor)?;
        Ok(Box::new(Verified::new(file, descriptor, &self.describe())))
    }

    fn describe(&self) -> String {
        format!("dir:{}", self.path.display())
    }
}

impl DirSink {
    /// Opens a directory for writing, and makes it when there is none.
    pub fn create(path: &Path) -> Result<DirSink> {
        match fs::read_dir(path) {
            Ok(entries) => {
                let empty = entries
                    .flatten()
                    .all(|entry| entry.file_name().as_encoded_bytes().starts_with(b".lapstrake-"));
                if !empty && !path.join("version").exists() {
                    return Err(Error::Occupied { path: path.to_owned() });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(path).map_err(io_error("create", path))?;
            }
            Err(error) => return Err(io_error("open", path)(error)),
        }
        let sink = DirSink { path: path.to_owned(), written: Mutex::default() };
        sink.write("version", VERSION)?;
        Ok(sink)
    }

    fn temporary(&self) -> Result<NamedTempFile> {
        tempfile::Builder::new()
            .prefix(TEMPORARY)
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
            .tempfile_in(&self.path)
            .map_err(io_error("create a file in", &self.path))
    }

    fn install(&self, file: NamedTempFile, name: &str) -> Result<()> {
        let path = self.path.join(name);
        file.persist(&path).map_err(|error| io_error("rename a file to", &path)(error.error))?;
        self.written.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        Ok(())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut file = self.temporary()?;
        file.write_all(bytes).map_err(io_error("write", &self.path.join(name)))?;
        self.install(file, name)
    }

    /// Removes what an earlier image left. Only files that are named as blobs are ours.
    fn sweep(&self) {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(entries) = fs::read_dir(&self.path) else { return };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let hex = name.strip_suffix(".manifest.json").unwrap_or(&name);
            let ours = Digest::from_hex(hex).is_some() || name.starts_with(TEMPORARY);
            if ours && !written.contains(&name) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

impl Sink for DirSink {
    fn has_blob(&self, descriptor: &Descriptor) -> Result<bool> {
        let name = descriptor.digest.hex();
        let meta = fs::metadata(self.path.join(&name));
        let there = meta.is_ok_and(|meta| meta.is_file() && meta.len() == descriptor.size);
        if there {
            self.written.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
        }
        Ok(there)
    }

    fn put_blob(&self, descriptor: &Descriptor, open: &mut OpenBlob<'_>) -> Result<()> {
        let name = descriptor.digest.hex();
        let path = self.path.join(&name);
        let place = path.display().to_string();
        let mut file = self.temporary()?;
        let mut reader = Verified::new(open(0)?, descriptor, &place);
        pump(&mut reader, &mut file, &place, "content", &mut |_| {}).map_err(
            |error| match error {
                PumpError::Read(error) => error,
                PumpError::Write(source) => io_error("write", &path)(source),
            },
        )?;
        self.install(file, &name)
    }

    fn put_referrer(&self, _: &Digest, _: &Descriptor, _: &[u8]) -> Result<()> {
        Err(Error::Unsupported {
            form: "dir:",
            what: "what refers to an image".to_owned(),
            instead: "write an OCI layout, or leave --referrers out",
        })
    }

    fn put_manifest(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
        self.write(&manifest_name(&descriptor.digest), bytes)
    }

    fn finish(&self, _root: &Descriptor, bytes: &[u8], _names: &[Reference]) -> Result<()> {
        self.write("manifest.json", bytes)?;
        self.sweep();
        Ok(())
    }
}
