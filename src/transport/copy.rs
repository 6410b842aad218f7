//! Copies an image from a source to a sink: what it names is walked once, blobs go first.

use std::collections::HashSet;
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};

use super::blob::{read_all, read_error};
use super::error::{Error, Result};
use super::fetch::{Progress, in_parallel};
use super::{Sink, Source};
use crate::oci::manifest::MAX_DEPTH;
use crate::oci::{Descriptor, Digest, Document, Reference, config, media_type};
use crate::registry::Error as RegistryError;

/// The most that all manifests of one image may have together. They are held in memory until their
/// blobs are there; hundreds of platforms with attestations have some megabytes.
const MAX_MANIFESTS: u64 = 128 << 20;

/// What a copy did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// The root.
    pub root: Descriptor,
    /// Blobs that were written.
    pub written: u64,
    /// Blobs that were there already.
    pub present: u64,
    /// Bytes that were written.
    pub bytes: u64,
    /// Artifacts that refer to the image and went along.
    pub referrers: u64,
}

/// How [`copy_with`] copies.
#[derive(Debug, Clone, Copy)]
pub struct CopyOptions {
    /// Blobs that go at once, where the sink allows it.
    pub jobs: usize,
    /// Takes along what refers to the image (signatures, SBOMs).
    pub referrers: bool,
}

/// All that an image names.
#[derive(Default)]
struct Tree {
    /// Manifests and indexes, each after all that it names.
    manifests: Vec<(Descriptor, Vec<u8>)>,
    blobs: Vec<Descriptor>,
    seen: HashSet<Digest>,
    bytes: u64,
    /// Artifacts with the manifest that they refer to.
    referrers: Vec<(Digest, Descriptor, Vec<u8>)>,
}

/// Copies the whole image of a source, all platforms of it, and gives it its names. Blobs that the
/// sink has are not sent. `jobs` blobs go at once where the sink allows it.
pub fn copy(
    source: &dyn Source,
    sink: &dyn Sink,
    names: &[Reference],
    jobs: usize,
    progress: &Progress<'_>,
) -> Result<Copied> {
    copy_with(source, sink, names, CopyOptions { jobs, referrers: false }, progress)
}

/// The same with options.
pub fn copy_with(
    source: &dyn Source,
    sink: &dyn Sink,
    names: &[Reference],
    options: CopyOptions,
    progress: &Progress<'_>,
) -> Result<Copied> {
    let (root, bytes) = source.root()?;
    sink.accepts(&root, &bytes)?;
    let mut tree = Tree::default();
    tree.walk(source, &root, bytes, 0)?;
    if options.referrers {
        let subjects: Vec<Digest> = tree.manifests.iter().map(|(d, _)| d.digest).collect();
        for subject in subjects {
            tree.attach(source, &subject, 0)?;
        }
    }
    let jobs = if sink.parallel() { options.jobs.max(1) } else { 1 };
    if jobs > 1 {
        // What takes longest first, so that no large blob is left to go alone at the end.
        tree.blobs.sort_by_key(|blob| std::cmp::Reverse(blob.size));
    }
    let outcomes = in_parallel(&tree.blobs, jobs, |blob| put(source, sink, blob, progress))?;
    let (root, bytes) = match tree.manifests.pop() {
        Some(last) => last,
        // The walk pushes the root last, whatever it is.
        None => return Err(Error::Empty { place: source.describe() }),
    };
    for (descriptor, bytes) in &tree.manifests {
        sink.put_manifest(descriptor, bytes)?;
    }
    for (subject, descriptor, bytes) in &tree.referrers {
        sink.put_referrer(subject, descriptor, bytes)?;
    }
    sink.finish(&root, &bytes, names)?;
    let referrers = tree.referrers.len() as u64;
    let mut copied = Copied { root, written: 0, present: 0, bytes: 0, referrers };
    for (blob, written) in tree.blobs.iter().zip(outcomes) {
        if written {
            copied.written += 1;
            copied.bytes += blob.size;
        } else {
            copied.present += 1;
        }
    }
    Ok(copied)
}

/// Reads a small blob (a config) whole.
pub fn read_small(source: &dyn Source, descriptor: &Descriptor) -> Result<Vec<u8>> {
    let place = source.describe();
    read_all(source.blob(descriptor)?, descriptor, config::MAX_SIZE, &place)
}

impl Tree {
    fn walk(
        &mut self,
        source: &dyn Source,
        descriptor: &Descriptor,
        bytes: Vec<u8>,
        depth: usize,
    ) -> Result<()> {
        let place = source.describe();
        if depth > MAX_DEPTH {
            return Err(Error::TooDeep { place });
        }
        self.bytes += bytes.len() as u64;
        if self.bytes > MAX_MANIFESTS {
            let reason = format!("its manifests have more than {MAX_MANIFESTS} bytes together");
            return Err(Error::Damaged { place, reason });
        }
        let document = Document::parse(&bytes, &descriptor.media_type).map_err(|source| {
            Error::Document { place, what: descriptor.digest.to_string(), source }
        })?;
        match document {
            Document::Manifest(manifest) => {
                for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
                    self.blob(blob);
                }
            }
            Document::Index(index) => {
                for child in &index.manifests {
                    if !child.is_index() && !child.is_manifest() && !child.media_type.is_empty() {
                        // An index may name anything; what is no manifest is only bytes.
                        self.blob(child);
                    } else if self.seen.insert(child.digest) {
                        let bytes = source.manifest(child)?;
                        self.walk(source, child, bytes, depth + 1)?;
                    }
                }
            }
        }
        self.manifests.push((descriptor.clone(), bytes));
        Ok(())
    }

    /// Adds what refers to a manifest, and what refers to that (the signature of an SBOM).
    fn attach(&mut self, source: &dyn Source, subject: &Digest, depth: usize) -> Result<()> {
        let place = source.describe();
        if depth > MAX_DEPTH {
            return Err(Error::TooDeep { place });
        }
        for descriptor in source.referrers(subject)? {
            if !self.seen.insert(descriptor.digest) {
                continue;
            }
            let bytes = source.manifest(&descriptor)?;
            let wrong = |source| Error::Document {
                place: place.clone(),
                what: descriptor.digest.to_string(),
                source,
            };
            self.bytes += bytes.len() as u64;
            if self.bytes > MAX_MANIFESTS {
                let reason = format!("its manifests have more than {MAX_MANIFESTS} bytes together");
                return Err(Error::Damaged { place, reason });
            }
            match Document::parse(&bytes, &descriptor.media_type).map_err(wrong)? {
                Document::Manifest(manifest) => {
                    for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
                        self.blob(blob);
                    }
                }
                Document::Index(_) => {
                    let reason = format!("the referrer {} is an index", descriptor.digest);
                    return Err(Error::Damaged { place, reason });
                }
            }
            let digest = descriptor.digest;
            self.referrers.push((*subject, descriptor, bytes));
            self.attach(source, &digest, depth + 1)?;
        }
        Ok(())
    }

    fn blob(&mut self, blob: &Descriptor) {
        if self.seen.insert(blob.digest) {
            self.blobs.push(blob.clone());
        }
    }
}

/// Puts one blob; says whether it was written.
fn put(
    source: &dyn Source,
    sink: &dyn Sink,
    blob: &Descriptor,
    progress: &Progress<'_>,
) -> Result<bool> {
    let label = blob.digest.to_string();
    if sink.has_blob(blob)? {
        progress(&label, blob.size, Some(blob.size));
        return Ok(false);
    }
    if let Some(file) = source.blob_file(blob)
        && sink.put_blob_file(blob, &file)?
    {
        progress(&label, blob.size, Some(blob.size));
        return Ok(true);
    }
    // Layers that their owner forbids to hand on are often not there; that is no error.
    if media_type::is_foreign(&blob.media_type) && source.blob(blob).is_err() {
        return Ok(false);
    }
    let told = AtomicU64::new(0);
    let put = sink.put_blob_from(blob, source.origin(blob).as_ref(), &mut |offset| {
        // Digesting a gigabyte takes as long as sending it does; once is enough.
        let inner = match sink.verifies() && offset == 0 {
            true => source.blob_unverified(blob)?,
            false => source.blob_from(blob, offset)?,
        };
        Ok(Box::new(Told { inner, count: offset, told: &told, blob, label: &label, progress }))
    });
    match put {
        Err(
            error @ Error::Registry(
                RegistryError::Status { status: 400..=499, .. } | RegistryError::Digest { .. },
            ),
        ) => {
            // Perhaps it was refused for what it holds: then it is the source that is damaged.
            let wrong = |error| read_error(&source.describe(), &label, error);
            std::io::copy(&mut source.blob(blob)?, &mut std::io::sink()).map_err(wrong)?;
            return Err(error);
        }
        put => put?,
    }
    progress(&label, blob.size, Some(blob.size));
    Ok(true)
}

/// Tells of progress while it is read. Bytes that are sent again count once.
struct Told<'a> {
    inner: Box<dyn Read + Send>,
    count: u64,
    /// How far was told, by this attempt or an earlier one.
    told: &'a AtomicU64,
    blob: &'a Descriptor,
    label: &'a str,
    progress: &'a Progress<'a>,
}

/// How many bytes pass between two reports: some hundred a second on the fastest lines.
const REPORT: u64 = 1 << 20;

impl Read for Told<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count += count as u64;
        let told = self.told.load(Ordering::Relaxed);
        if self.count >= told + REPORT || told == 0 {
            self.told.store(self.count.max(1), Ordering::Relaxed);
            (self.progress)(self.label, self.count, Some(self.blob.size));
        }
        Ok(count)
    }
}

/// Copies a reader to a writer and keeps read and write errors apart.
pub(super) fn pump(
    reader: &mut dyn Read,
    writer: &mut dyn std::io::Write,
    place: &str,
    what: &str,
    progress: &mut dyn FnMut(u64),
) -> Result<u64, PumpError> {
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0;
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(PumpError::Read(read_error(place, what, error))),
        };
        writer.write_all(&buffer[..count]).map_err(PumpError::Write)?;
        total += count as u64;
        progress(total);
    }
}

/// Which side failed.
pub(super) enum PumpError {
    Read(Error),
    Write(std::io::Error),
}
