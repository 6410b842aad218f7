//! Brings blobs into the store, several at once.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::Source;
use super::copy::{PumpError, pump};
use super::error::{Error, Result};
use crate::oci::Descriptor;
use crate::store::Store;

/// Is told of progress: the digest, bytes so far, bytes in all.
pub type Progress<'a> = dyn Fn(&str, u64, Option<u64>) + Sync + 'a;

/// Brings layers into the store's blobs, at most `jobs` at once, each verified. Those that are
/// there are skipped. The first error stops the others.
pub fn fetch_layers(
    source: &dyn Source,
    layers: &[Descriptor],
    store: &Store,
    jobs: usize,
    progress: &Progress<'_>,
) -> Result<()> {
    fetch_blobs(source, layers, store, jobs, progress)
}

/// The same for blobs of any kind.
pub fn fetch_blobs(
    source: &dyn Source,
    blobs: &[Descriptor],
    store: &Store,
    jobs: usize,
    progress: &Progress<'_>,
) -> Result<()> {
    let mut wanted: Vec<Descriptor> = Vec::new();
    for blob in blobs {
        if !wanted.iter().any(|other| other.digest == blob.digest)
            && !store.blobs().contains_sized(&blob.digest, blob.size)
        {
            wanted.push(blob.clone());
        }
    }
    // The largest first, so that the last one to finish is a small one.
    wanted.sort_by(|a, b| b.size.cmp(&a.size).then(a.digest.cmp(&b.digest)));
    in_parallel(&wanted, jobs.max(1), |blob| fetch(source, blob, store, progress))?;
    Ok(())
}

fn fetch(
    source: &dyn Source,
    blob: &Descriptor,
    store: &Store,
    progress: &Progress<'_>,
) -> Result<()> {
    let label = blob.digest.to_string();
    progress(&label, 0, Some(blob.size));
    let mut tell = |done| progress(&label, done, Some(blob.size));
    save(source.blob(blob)?, blob, store, &source.describe(), &mut tell)
}

/// Writes what a verifying reader gives into the store's blobs.
pub(super) fn save(
    mut reader: Box<dyn std::io::Read + Send + '_>,
    blob: &Descriptor,
    store: &Store,
    place: &str,
    tell: &mut dyn FnMut(u64),
) -> Result<()> {
    // The reader verifies, so the store need not digest the same bytes again.
    let mut writer = store.blobs().unhashed_writer()?;
    let what = blob.digest.to_string();
    let size = pump(&mut reader, &mut writer, place, &what, tell).map_err(|error| match error {
        PumpError::Read(error) => error,
        PumpError::Write(source) => {
            Error::Io { action: "write", path: writer.path().to_owned(), source }
        }
    })?;
    if size != blob.size {
        return Err(Error::Size {
            place: place.to_owned(),
            digest: blob.digest,
            expected: blob.size,
            found: size,
        });
    }
    writer.commit_as(blob.digest)?;
    Ok(())
}

/// Calls `work` for each item on at most `jobs` threads and gives the results in order, or the
/// first error, after which no further item is begun.
pub(super) fn in_parallel<I: Sync, T: Send>(
    items: &[I],
    jobs: usize,
    work: impl Fn(&I) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    if jobs <= 1 || items.len() <= 1 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let results: Vec<Mutex<Option<Result<T>>>> = items.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(items.len()) {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at) else { return };
                    let result = work(item);
                    if result.is_err() {
                        failed.store(true, Ordering::Relaxed);
                    }
                    *results[at].lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
                }
            });
        }
    });
    let mut out = Vec::with_capacity(items.len());
    let mut error = None;
    for result in results {
        match result.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(Ok(value)) => out.push(value),
            Some(Err(first)) => {
                error.get_or_insert(first);
            }
            None => {}
        }
    }
    match error {
        Some(error) => Err(error),
        None => Ok(out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_spread_and_stops_at_an_error() {
        let items: Vec<u32> = (0..100).collect();
        for jobs in [1, 2, 7] {
            assert_eq!(in_parallel(&items, jobs, |i| Ok(i * 2)).unwrap()[99], 198);
            let begun = AtomicUsize::new(0);
            let result = in_parallel(&items, jobs, |i| {
                begun.fetch_add(1, Ordering::Relaxed);
                if *i == 3 { Err(Error::Empty { place: "x".into() }) } else { Ok(()) }
            });
            assert!(matches!(result, Err(Error::Empty { .. })));
            assert!(begun.into_inner() < 100);
        }
    }
}
