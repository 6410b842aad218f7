//! Pack records: into which blob a layer was packed.
//!
//! The same layer may be packed several times: with another compression, with clamped times. So a
//! record is found by the layer and the [`PackParams`], and it counts only while its blob is there.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Result, Store, record};
use crate::layer::LayerId;
use crate::oci::{DiffId, Digest};

/// What, beside the layer, decides the bytes of a blob.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackParams {
    /// The compression and its level, such as `gzip-4`; `as-fetched` for the blob that a cache had,
    /// which is recorded under its own parameters as well.
    pub compression: String,
    /// SOURCE_DATE_EPOCH, when times are clamped to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// The digest of the Toc with its clamped times, for layers whose id leaves times out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toc: Option<Digest>,
}

/// A layer's blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackRecord {
    /// The digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// The digest of the blob.
    pub digest: Digest,
    /// The size of the blob.
    pub size: u64,
    /// The media type of the blob.
    pub media_type: String,
    /// The size of the uncompressed tar.
    pub diff_size: u64,
    /// What the blob's descriptor says beside: where the table of an eStargz blob is verified.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A record as it is on disk.
#[derive(Serialize, Deserialize)]
pub(super) struct Filed<R> {
    pub(super) layer: LayerId,
    params: PackParams,
    pub(super) record: R,
}

/// The pack records of a store.
#[derive(Clone, Copy)]
pub struct Packs<'s> {
    store: &'s Store,
}

impl<'s> Packs<'s> {
    pub(super) fn new(store: &'s Store) -> Packs<'s> {
        Packs { store }
    }

    /// Looks a layer's blob up, and counts that as a use of both. None when the blob is gone.
    pub fn get(&self, layer: &LayerId, params: &PackParams) -> Option<PackRecord> {
        let filed: Filed<PackRecord> = record::read(&self.path(layer, params))?;
        let whole = filed.layer == *layer
            && filed.params == *params
            && self.store.blobs().contains_sized(&filed.record.digest, filed.record.size);
        whole.then_some(filed.record)
    }

    /// Records into which blob a layer was packed. Commit the blob first.
    pub fn put(&self, layer: &LayerId, params: &PackParams, pack: &PackRecord) -> Result<()> {
        let filed = Filed { layer: layer.clone(), params: params.clone(), record: pack };
        record::write(self.store, &self.path(layer, params), &filed)
    }

    /// Gives the records that there are now, for [`Filing::forget`].
    pub fn filing(&self) -> Filing {
        let mut files: HashMap<String, Vec<PathBuf>> = HashMap::new();
        let entries = std::fs::read_dir(self.store.path("packs")).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if let Some((layer, _)) = name.split_once('-') {
                files.entry(layer.to_owned()).or_default().push(path);
            }
        }
        Filing { files }
    }

    /// Reads the file `path` without counting that as a use, for the pruner.
    pub(super) fn peek(path: &std::path::Path) -> Option<Filed<PackRecord>> {
        record::peek(path)
    }

    fn path(&self, layer: &LayerId, params: &PackParams) -> PathBuf {
        let optional = |text: Option<String>| text.unwrap_or_default();
        let form = format!(
            "{}\n{}\n{}",
            params.compression,
            optional(params.epoch.map(|epoch| epoch.to_string())),
            optional(params.toc.map(|toc| toc.to_string())),
        );
        // The layer first, so that all records of one are found by their names.
        let form = Digest::of(form.as_bytes()).hex();
        self.store.path("packs").join(format!("{}-{}", shelf_mark(layer), &form[..32]))
    }
}

/// What the names of a layer's records begin with.
fn shelf_mark(layer: &LayerId) -> String {
    Digest::of(layer.to_string().as_bytes()).hex()[..32].to_owned()
}

/// The pack records that a store had at some time, by layer.
#[derive(Debug, Default)]
pub struct Filing {
    files: HashMap<String, Vec<PathBuf>>,
}

impl Filing {
    /// Forgets into which blobs a layer was packed, in whatever form: its contents are new.
    pub fn forget(&self, layer: &LayerId) {
        for path in self.files.get(&shelf_mark(layer)).into_iter().flatten() {
            // One that cannot go at worst names a blob of the same key.
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::scratch;
    use super::*;
    use std::fs;

    #[test]
    fn a_record_counts_while_its_blob_is_whole() {
        let (_dir, store) = scratch();
        let layer = LayerId::from_run_key(Digest::of(b"run"));
        let gzip = PackParams { compression: "gzip-4".into(), ..PackParams::default() };
        let clamped = PackParams { epoch: Some(0), ..gzip.clone() };
        let (digest, size) = store.blobs().put(b"blob").unwrap();
        let pack = PackRecord {
            diff_id: DiffId(Digest::of(b"tar")),
            digest,
            size,
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
            diff_size: 3,
            annotations: BTreeMap::new(),
        };
        store.packs().put(&layer, &gzip, &pack).unwrap();
        assert_eq!(store.packs().get(&layer, &gzip), Some(pack.clone()));
        assert_eq!(store.packs().get(&layer, &clamped), None);
        store.packs().put(&layer, &clamped, &pack).unwrap();
        let other = LayerId::from_run_key(Digest::of(b"other"));
        store.packs().put(&other, &clamped, &pack).unwrap();
        store.packs().filing().forget(&layer);
        assert_eq!(store.packs().get(&layer, &gzip), None);
        assert_eq!(store.packs().get(&layer, &clamped), None);
        assert_eq!(store.packs().get(&other, &clamped), Some(pack.clone()));
        store.packs().put(&layer, &gzip, &pack).unwrap();
        fs::write(store.blobs().path(&digest), "bl").unwrap();
        assert_eq!(store.packs().get(&layer, &gzip), None);
        fs::remove_file(store.blobs().path(&digest)).unwrap();
        assert_eq!(store.packs().get(&layer, &gzip), None);
    }
}
