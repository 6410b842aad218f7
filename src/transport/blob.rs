//! Readers that verify, and errors on their way through [`std::io::Read`].

use std::io::{self, Read};

use super::error::{Error, Result};
use crate::oci::digest::Hasher;
use crate::oci::{Descriptor, Digest};
use crate::registry;

/// Passes bytes through and verifies at the end that they were those of a descriptor. The read that
/// would return 0 fails when they were not; so does one that goes beyond the size.
pub struct Verified<R> {
    inner: R,
    place: String,
    digest: Digest,
    size: u64,
    count: u64,
    hasher: Option<Hasher>,
    ended: bool,
}

impl<R: Read> Verified<R> {
    /// Starts to verify. `place` is named in errors.
    pub fn new(inner: R, descriptor: &Descriptor, place: &str) -> Verified<R> {
        Verified {
            inner,
            place: place.to_owned(),
            digest: descriptor.digest,
            size: descriptor.size,
            count: 0,
            hasher: Some(Hasher::new()),
            ended: false,
        }
    }

    /// Verifies the size alone: `inner` verifies the digest, and the same bytes need no second one.
    pub fn size_only(inner: R, descriptor: &Descriptor, place: &str) -> Verified<R> {
        Verified { hasher: None, ..Verified::new(inner, descriptor, place) }
    }

    fn wrong_size(&self) -> io::Error {
        io::Error::other(Error::Size {
            place: self.place.clone(),
            digest: self.digest,
            expected: self.size,
            found: self.count,
        })
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count += count as u64;
        if self.count > self.size {
            return Err(self.wrong_size());
        }
        if count > 0 {
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&buffer[..count]);
            }
        } else if !buffer.is_empty() && !std::mem::replace(&mut self.ended, true) {
            if self.count != self.size {
                return Err(self.wrong_size());
            }
            let found = self.hasher.take().map(Hasher::finish);
            if let Some(found) = found.filter(|found| *found != self.digest) {
                return Err(io::Error::other(Error::Digest {
                    place: self.place.clone(),
                    expected: self.digest,
                    found,
                }));
            }
        }
        Ok(count)
    }
}

/// Takes out of an [`io::Error`] the error that a verifying reader put in.
pub(super) fn read_error(place: &str, what: &str, error: io::Error) -> Error {
    let fallback = |source| Error::Read { place: place.to_owned(), what: what.to_owned(), source };
    if error.get_ref().is_none() {
        return fallback(error);
    }
    let kind = error.kind();
    let Some(inner) = error.into_inner() else { return fallback(kind.into()) };
    match inner.downcast::<Error>() {
        Ok(error) => *error,
        Err(inner) => match inner.downcast::<registry::Error>() {
            Ok(error) => Error::Registry(*error),
            Err(inner) => fallback(io::Error::new(kind, inner)),
        },
    }
}

/// Reads all of a verifying reader into memory, up to `limit` bytes.
pub(super) fn read_all(
    mut reader: impl Read,
    descriptor: &Descriptor,
    limit: u64,
    place: &str,
) -> Result<Vec<u8>> {
    if descriptor.size > limit {
        return Err(Error::Size {
            place: format!("{place} (limit of {limit} bytes)"),
            digest: descriptor.digest,
            expected: limit,
            found: descriptor.size,
        });
    }
    let mut bytes = Vec::new();
    reader
        .by_ref()
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| read_error(place, &descriptor.digest.to_string(), error))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_bytes_never_end_well() {
        let good = Descriptor::of("x", b"hello");
        let check = |descriptor: &Descriptor, bytes: &[u8], want: &str| {
            let error = read_all(Verified::new(bytes, descriptor, "here"), descriptor, 100, "here")
                .expect_err(want);
            assert!(error.to_string().contains(want), "{error}");
        };
        assert_eq!(
            read_all(Verified::new(&b"hello"[..], &good, "p"), &good, 5, "p").unwrap(),
            b"hello"
        );
        check(&good, b"hullo", "content has digest");
        check(&good, b"hell", "has 4 bytes, expected 5");
        check(&good, b"hello!", "has 6 bytes, expected 5");
        // Of a reader that verifies by itself, the size alone.
        let size_only = |bytes: &'static [u8]| {
            read_all(Verified::size_only(bytes, &good, "here"), &good, 100, "here")
        };
        assert_eq!(size_only(b"hullo").unwrap(), b"hullo");
        for bytes in [&b"hell"[..], b"hello!", b""] {
            assert!(size_only(bytes).unwrap_err().to_string().contains("expected 5"));
        }
        let large = Descriptor::new("x", good.digest, 101);
        check(&large, b"hello", "limit of 100");
    }
}
