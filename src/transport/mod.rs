//! Images in and out, behind two small traits.
//!
//! A [`Source`] gives an image: its root document, further manifests, blobs. A [`Sink`] takes one:
//! blobs first, then manifests from the leaves up, and the names at the end, so that whoever looks
//! at an unfinished one never finds a name that leads to nothing.
//!
//! | form | source | sink |
//! |---|---|---|
//! | OCI layout directory | [`layout`] | [`layout`] |
//! | OCI layout in a tar | [`archive`] | [`archive`] |
//! | `docker save` / `docker load` | [`archive`] | [`archive`] |
//! | registry | [`remote`] | [`remote`] |
//! | `dir:` of containers-transports(5) | [`dir`] | [`dir`] |
//! | the store | [`stored`] | [`stored`] |
//!
//! Between a source and a sink stand sources that change one: [`filter`] leaves out platforms,
//! [`recompress`] compresses layers anew, [`assemble`] makes one index of several images.
//!
//! [`shelf`] holds artifacts under immutable tags, for the build cache.
//!
//! Invariants:
//! - Bytes of manifests and configs pass through as they are; nothing is re-serialised, so digests
//!   survive every copy. Only [`archive`] makes manifests of its own, for `docker save` archives
//!   that have none.
//! - Everything that is read is verified against its descriptor, from files as from the network.
//! - What is written appears whole or not at all. An archive is written beside its name and renamed;
//!   a layout gets its blobs first and a new index.json by rename.
//! - `urls` of descriptors are never followed.
//!
//! Start reading at [`ImageName`], then [`open_source`] and [`export`].

pub mod archive;
pub mod assemble;
mod blob;
mod contents;
mod copy;
pub mod dir;
pub mod engine;
mod error;
mod fetch;
pub mod filter;
pub mod layout;
mod name;
pub mod recompress;
pub mod remote;
mod select;
pub mod shelf;
pub mod stored;
pub mod validate;

#[cfg(test)]
mod change_tests;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;

use crate::oci::{Descriptor, Digest, Reference};

use crate::store::Store;

pub use crate::registry::Client;
pub use blob::Verified;
use blob::read_error;
pub use contents::read_contents;
pub use copy::{Copied, CopyOptions, copy, copy_with, read_small};
pub use error::{Error, Result};
pub use fetch::{Progress, fetch_blobs, fetch_layers};
pub use name::{ImageName, NameError, Selector};
pub use select::{children, platforms, select_platform};

/// Somewhere an image can be read from.
pub trait Source: Send + Sync {
    /// Gives the document that the name stands for, a manifest or an index, with its raw bytes.
    fn root(&self) -> Result<(Descriptor, Vec<u8>)>;

    /// Gives another manifest or index of the image, verified.
    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>>;

    /// Opens a blob. The reader verifies digest and size: its last read fails when they are wrong.
    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>>;

    /// Opens a blob at an offset, to go on with it elsewhere. Whoever has the bytes before must
    /// verify the whole.
    fn blob_from(&self, descriptor: &Descriptor, offset: u64) -> Result<Box<dyn Read + Send>> {
        if offset == 0 {
            return self.blob(descriptor);
        }
        let place = self.describe();
        let wrong = |error| read_error(&place, &descriptor.digest.to_string(), error);
        if let Some(path) = self.blob_file(descriptor) {
            let mut file = std::fs::File::open(path).map_err(wrong)?;
            file.seek(SeekFrom::Start(offset)).map_err(wrong)?;
            return Ok(Box::new(file));
        }
        skip(self.blob(descriptor)?, offset).map_err(wrong)
    }

    /// Opens a blob for somebody who verifies its digest. Its size is verified here, or both are.
    fn blob_unverified(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
        self.blob(descriptor)
    }

    /// Gives a file that holds a blob and nothing else, where there is one. Whoever takes it must
    /// verify it.
    fn blob_file(&self, _descriptor: &Descriptor) -> Option<PathBuf> {
        None
    }

    /// Gives the artifacts that refer to a manifest by their `subject` (OCI 1.1): signatures, SBOMs.
    fn referrers(&self, _subject: &Digest) -> Result<Vec<Descriptor>> {
        Ok(Vec::new())
    }

    /// Gives the repository that holds a blob, where a registry has it: another repository of that
    /// registry can take it from there.
    fn origin(&self, _descriptor: &Descriptor) -> Option<Reference> {
        None
    }

    /// Gives the names that the image has where it lies.
    fn names(&self) -> Vec<Reference> {
        Vec::new()
    }

    /// Says what it is, for messages: `oci:DIR`, `docker.io/library/alpine:3`.
    fn describe(&self) -> String;
}

/// Somewhere an image can be written to.
///
/// Order of calls: blobs in any order and from any thread, then each manifest after all that it
/// names, then [`Sink::finish`] once.
pub trait Sink: Send + Sync {
    /// Refuses a root that the form cannot hold, before anything is written.
    fn accepts(&self, _root: &Descriptor, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    /// Tells whether a blob is there already.
    fn has_blob(&self, descriptor: &Descriptor) -> Result<bool>;

    /// Stores a blob. `open` gives its content, once for each attempt. Digest and size are
    /// verified.
    fn put_blob(&self, descriptor: &Descriptor, open: &mut OpenBlob<'_>) -> Result<()>;

    /// Stores a blob that is a file which does not change, by a link where it can. Says `false`
    /// when it takes streams only.
    fn put_blob_file(&self, _descriptor: &Descriptor, _file: &std::path::Path) -> Result<bool> {
        Ok(false)
    }

    /// Stores a blob of a source: `open(0)` gives what [`Source::blob`] gives, a reader that verifies.
    /// Where a repository has it, the sink may be able to take it from there without reading it here.
    fn put_blob_from(
        &self,
        descriptor: &Descriptor,
        _origin: Option<&Reference>,
        open: &mut OpenBlob<'_>,
    ) -> Result<()> {
        self.put_blob(descriptor, open)
    }

    /// Stores an artifact that refers to a manifest of the image, so that whoever asks for the
    /// referrers of `subject` finds it. Its blobs are there; called before [`Sink::finish`].
    fn put_referrer(&self, subject: &Digest, descriptor: &Descriptor, bytes: &[u8]) -> Result<()>;

    /// Stores a manifest or index that another one names.
    fn put_manifest(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<()>;

    /// Stores the root and gives it its names, and makes everything visible. Without names it is
    /// stored nameless.
    fn finish(&self, root: &Descriptor, bytes: &[u8], names: &[Reference]) -> Result<()>;

    /// Tells whether a blob is refused, by whoever keeps it, when its bytes are not what its digest says.
    fn verifies(&self) -> bool {
        false
    }

    /// Tells whether blobs may be put from several threads at once and in any order.
    fn parallel(&self) -> bool {
        true
    }
}

/// Opens content for an attempt, at an offset that is 0 or where the last attempt broke.
pub type OpenBlob<'a> = dyn FnMut(u64) -> Result<Box<dyn Read + Send + 'a>> + 'a;

/// Reads `offset` bytes and throws them away.
fn skip<'a>(
    mut reader: Box<dyn Read + Send + 'a>,
    offset: u64,
) -> std::io::Result<Box<dyn Read + Send + 'a>> {
    std::io::copy(&mut reader.by_ref().take(offset), &mut std::io::sink())?;
    Ok(reader)
}

/// Gives bytes from memory as [`OpenBlob`] wants them.
pub fn bytes_from(bytes: &[u8], offset: u64) -> Box<dyn Read + Send + 'static> {
    let at = usize::try_from(offset).map_or(bytes.len(), |at| at.min(bytes.len()));
    Box::new(std::io::Cursor::new(bytes[at..].to_vec()))
}

/// Gives a file of the store as [`OpenBlob`] wants it.
pub fn file_from(
    mut file: std::fs::File,
    blob: &Descriptor,
    offset: u64,
) -> Result<Box<dyn Read + Send + 'static>> {
    file.seek(SeekFrom::Start(offset))
        .map_err(|error| read_error("the store", &blob.digest.to_string(), error))?;
    Ok(Box::new(file))
}

/// Where [`export`] writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// An OCI layout directory. Other names in it stay.
    OciDir(PathBuf),
    /// An OCI layout in a tar.
    OciArchive(PathBuf),
    /// What `docker load` reads. One platform only.
    DockerArchive(PathBuf),
}

/// Opens what an image name stands for.
pub fn open_source(
    name: &ImageName,
    store: &Store,
    client: &Arc<Client>,
) -> Result<Box<dyn Source>> {
    match name {
        ImageName::Layout { path, selector } => {
            Ok(Box::new(layout::LayoutSource::open(path, selector)?))
        }
        ImageName::OciArchive { path, selector } => archive::open_oci(path, selector),
        ImageName::DockerArchive { path, selector } => archive::open_docker(path, selector),
        ImageName::Dir { path } => Ok(Box::new(dir::DirSource::open(path)?)),
        ImageName::Registry(reference) => Ok(registry_source(client, reference)),
        ImageName::Store(reference) => store_source(store, reference)
            .ok_or_else(|| Error::NotInStore { name: reference.familiar() }),
    }
}

/// Opens a place to write an image to, and gives the names that it gets there. What another process
/// does with the store meanwhile cannot hurt: the sink of the store holds its lock.
pub fn open_sink(
    name: &ImageName,
    store: &Store,
    client: &Arc<Client>,
) -> Result<(Box<dyn Sink>, Vec<Reference>)> {
    // In a layout, `oci:DIR:TAG` is a bare tag, as skopeo writes it; a whole reference is a name.
    let split = |selector: &Selector| -> (Option<String>, Vec<Reference>) {
        match &selector.name {
            Some(name) if name.contains(['/', ':']) => (None, name.parse().into_iter().collect()),
            name => (name.clone(), Vec::new()),
        }
    };
    Ok(match name {
        ImageName::Layout { path, selector } => {
            let (tag, names) = split(selector);
            (Box::new(layout::LayoutSink::create(path)?.with_tag(tag)), names)
        }
        ImageName::OciArchive { path, selector } => {
            let (tag, names) = split(selector);
            (Box::new(archive::ArchiveSink::create(path, false)?.with_tag(tag)), names)
        }
        ImageName::DockerArchive { path, selector } => {
            let name = selector.name.as_deref().and_then(|name| name.parse::<Reference>().ok());
            let names = name.map(Reference::with_default_tag).into_iter().collect();
            (Box::new(archive::ArchiveSink::create(path, true)?), names)
        }
        ImageName::Dir { path } => (Box::new(dir::DirSink::create(path)?), Vec::new()),
        ImageName::Registry(reference) => {
            let reference = match reference.digest {
                // By digest: no tag, and nothing else may come out.
                Some(_) => reference.clone(),
                None => reference.clone().with_default_tag(),
            };
            let sink = remote::RegistrySink::new(Client::clone(client), reference.clone());
            (Box::new(sink), vec![reference])
        }
        ImageName::Store(reference) => {
            let sink = stored::StoreSink::new(store, reference)?;
            (Box::new(sink), vec![reference.clone().with_default_tag()])
        }
    })
}

/// Opens an image of the store by its name or digest.
pub fn store_source(store: &Store, reference: &Reference) -> Option<Box<dyn Source>> {
    Some(Box::new(stored::StoreSource::named(store, reference)?))
}

/// Opens an image of a registry. Nobody is asked before it is read.
pub fn registry_source(client: &Arc<Client>, reference: &Reference) -> Box<dyn Source> {
    Box::new(remote::RegistrySource::new(Client::clone(client), reference.clone()))
}

/// Writes an image of the store, with everything that it names, to a file or a directory. With
/// `out`, an archive goes there instead of to its path.
pub fn export(
    store: &Store,
    root: &Descriptor,
    names: &[Reference],
    target: &Target,
    out: Option<Box<dyn Write + Send>>,
) -> Result<()> {
    export_with(store, root, &[], names, target, out)
}

/// The same with artifacts of the store that refer to it: what each is about, and its manifest.
pub fn export_with(
    store: &Store,
    root: &Descriptor,
    referrers: &[(Digest, Descriptor)],
    names: &[Reference],
    target: &Target,
    out: Option<Box<dyn Write + Send>>,
) -> Result<()> {
    let source = stored::StoreSource::rooted(store, root).with_referrers(referrers);
    let docker = matches!(target, Target::DockerArchive(_));
    let sink: Box<dyn Sink> = match (target, out) {
        (Target::OciDir(path), _) => Box::new(layout::LayoutSink::create(path)?),
        (Target::OciArchive(_) | Target::DockerArchive(_), Some(out)) => {
            Box::new(archive::ArchiveSink::to_writer(out, docker))
        }
        (Target::OciArchive(path) | Target::DockerArchive(path), None) => {
            Box::new(archive::ArchiveSink::create(path, docker)?)
        }
    };
    // Files are linked or copied; more than two at once only fight for the disk.
    let options = CopyOptions { jobs: 2, referrers: !referrers.is_empty() };
    copy_with(&source, sink.as_ref(), names, options, &|_, _, _| {})?;
    Ok(())
}
