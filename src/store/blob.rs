//! Blobs: content named by its digest, in `layout/blobs/sha256/`.
//!
//! A blob is written to a temporary file, hashed on the way, and renamed to its name. Writing one
//! that is there already is a success (and repairs it when its size is wrong). Blobs are readable by
//! everyone whatever the umask, since other tools read the layout.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{Error, IoContext, Result, Store, age};
use crate::oci::Digest;
use crate::oci::digest::Hasher;

/// The blobs of a store.
#[derive(Clone, Copy)]
pub struct Blobs<'s> {
    store: &'s Store,
}

impl<'s> Blobs<'s> {
    pub(super) fn new(store: &'s Store) -> Blobs<'s> {
        Blobs { store }
    }

    /// Gives where a blob lies, or would.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        let mut path = self.store.path("layout/blobs/sha256");
        path.push(digest.hex());
        path
    }

    /// Says whether a blob is there, and counts that as a use.
    pub fn contains(&self, digest: &Digest) -> bool {
        age::touch(&self.path(digest)).unwrap_or(false)
    }

    /// Says whether a blob is there with this size, and counts that as a use. Cheaper than hashing
    /// and enough to notice a write that a power cut tore.
    pub fn contains_sized(&self, digest: &Digest, size: u64) -> bool {
        let path = self.path(digest);
        fs::metadata(&path).is_ok_and(|meta| meta.len() == size)
            && age::touch(&path).unwrap_or(false)
    }

    /// Gives the size of a blob; None when it is not there.
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.path(digest)).ok().map(|meta| meta.len())
    }

    /// Opens a blob for reading.
    pub fn open(&self, digest: &Digest) -> Result<File> {
        let path = self.path(digest);
        age::claim(&path).at("open", &path)?.ok_or(Error::NoBlob(*digest))
    }

    /// Reads a small blob (a manifest, a config) and verifies its digest. More than `limit` bytes
    /// are an error.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let path = self.path(digest);
        let mut bytes = Vec::new();
        self.open(digest)?.take(limit + 1).read_to_end(&mut bytes).at("read", &path)?;
        let damaged = |reason: String| Error::Damaged { path: path.clone(), reason };
        if bytes.len() as u64 > limit {
            return Err(damaged(format!("it has more than {limit} bytes")));
        }
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(damaged(format!("its digest is {found}")));
        }
        Ok(bytes)
    }

    /// Starts a blob that is hashed while it is written.
    pub fn writer(&self) -> Result<BlobWriter<'s>> {
        self.start(Some(Hasher::new()))
    }

    /// Starts a blob whose bytes the caller hashes itself (a packer that has the digest anyway). It
    /// can only be [committed as](BlobWriter::commit_as) that digest.
    pub fn unhashed_writer(&self) -> Result<BlobWriter<'s>> {
        self.start(None)
    }

    /// Stores bytes that are in memory.
    pub fn put(&self, bytes: &[u8]) -> Result<(Digest, u64)> {
        let digest = Digest::of(bytes);
        let size = bytes.len() as u64;
        if !self.contains_sized(&digest, size) {
            let mut writer = self.unhashed_writer()?;
            writer.write_all(bytes).at("write", &writer.tmp)?;
            writer.commit_as(digest)?;
        }
        Ok((digest, size))
    }

    fn start(&self, hasher: Option<Hasher>) -> Result<BlobWriter<'s>> {
        let tmp = self.store.tmp().unique("blob")?;
        let file = File::options().write(true).create_new(true).open(&tmp).at("create", &tmp)?;
        Ok(BlobWriter { store: self.store, file, tmp, hasher, size: 0, done: false })
    }
}

/// A blob in the making. Dropped without a commit, it leaves nothing.
pub struct BlobWriter<'s> {
    store: &'s Store,
    file: File,
    tmp: PathBuf,
    hasher: Option<Hasher>,
    size: u64,
    done: bool,
}

impl BlobWriter<'_> {
    /// Gives how many bytes were written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Gives the temporary file's path, for messages.
    pub fn path(&self) -> &Path {
        &self.tmp
    }

    /// Finishes the blob. With `expected`, anything else than this digest and size is an error and
    /// leaves nothing.
    pub fn commit(mut self, expected: Option<(Digest, u64)>) -> Result<(Digest, u64)> {
        let hasher = self.hasher.take().ok_or_else(|| Error::Io {
            action: "commit without a digest",
            path: self.tmp.clone(),
            source: io::ErrorKind::InvalidInput.into(),
        })?;
        let found = hasher.finish();
        if let Some((digest, size)) = expected {
            if size != self.size {
                return Err(Error::SizeMismatch { digest, expected: size, found: self.size });
            }
            if digest != found {
                return Err(Error::DigestMismatch { expected: digest, found });
            }
        }
        self.install(found)
    }

    /// Finishes the blob under a digest that the caller computed from the same bytes.
    pub fn commit_as(self, digest: Digest) -> Result<(Digest, u64)> {
        self.install(digest)
    }

    fn install(mut self, digest: Digest) -> Result<(Digest, u64)> {
        let blobs = self.store.blobs();
        if blobs.contains_sized(&digest, self.size) {
            return Ok((digest, self.size));
        }
        self.file
            .set_permissions(fs::Permissions::from_mode(0o644))
            .at("set the mode of", &self.tmp)?;
        let path = blobs.path(&digest);
        fs::rename(&self.tmp, &path).at("rename a blob to", &path)?;
        self.done = true;
        Ok((digest, self.size))
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.file.write(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..count]);
        }
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for BlobWriter<'_> {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_file(&self.tmp);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::scratch;
    use super::*;

    fn names(store: &Store) -> Vec<String> {
        fs::read_dir(store.path("layout/blobs/sha256"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    fn write<'a>(store: &'a Store, bytes: &[u8]) -> BlobWriter<'a> {
        let mut writer = store.blobs().writer().unwrap();
        writer.write_all(bytes).unwrap();
        writer
    }

    #[test]
    fn a_blob_is_named_by_its_bytes_and_readable_by_all() {
        let (_dir, store) = scratch();
        let digest = Digest::of(b"hello");
        assert!(!store.blobs().contains(&digest));
        assert_eq!(write(&store, b"hello").commit(None).unwrap(), (digest, 5));
        assert!(store.blobs().contains_sized(&digest, 5));
        assert!(!store.blobs().contains_sized(&digest, 4));
        assert_eq!(store.blobs().read(&digest, 5).unwrap(), b"hello");
        let mode = fs::metadata(store.blobs().path(&digest)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
    }

    #[test]
    fn what_differs_from_its_descriptor_is_not_stored() {
        let (_dir, store) = scratch();
        let good = Digest::of(b"hello");
        let error = write(&store, b"hullo").commit(Some((good, 5))).unwrap_err();
        assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
        let error = write(&store, b"hell").commit(Some((good, 5))).unwrap_err();
        assert!(matches!(error, Error::SizeMismatch { .. }), "{error}");
        drop(write(&store, b"given up"));
        assert_eq!(names(&store), Vec::<String>::new());
        let tmp = store.tmp().path().unwrap();
        assert_eq!(fs::read_dir(tmp).unwrap().count(), 0);
    }

    #[test]
    fn writing_again_succeeds_and_mends_a_torn_blob() {
        let (_dir, store) = scratch();
        let (digest, _) = store.blobs().put(b"hello").unwrap();
        write(&store, b"hello").commit(Some((digest, 5))).unwrap();
        assert_eq!(names(&store), [digest.hex()]);
        fs::write(store.blobs().path(&digest), b"he").unwrap();
        store.blobs().put(b"hello").unwrap();
        assert_eq!(store.blobs().read(&digest, 100).unwrap(), b"hello");
    }

    #[test]
    fn an_altered_blob_is_noticed_when_read() {
        let (_dir, store) = scratch();
        let (digest, _) = store.blobs().put(b"hello").unwrap();
        fs::write(store.blobs().path(&digest), b"hallo").unwrap();
        assert!(matches!(store.blobs().read(&digest, 100), Err(Error::Damaged { .. })));
        let missing = Digest::of(b"other");
        assert!(matches!(store.blobs().open(&missing), Err(Error::NoBlob(d)) if d == missing));
    }
}
