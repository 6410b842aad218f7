//! What the images of the layout reach: index.json → indexes → manifests → configs and layers.
//!
//! Works on JSON values, since it must follow descriptors of every kind and version that is there,
//! also those that lapstrake does not write itself. Pure but for reading blobs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use super::{Error, IoContext, Result, Store};
use crate::oci::Digest;

/// The largest manifest or index that is read: the limit of registries.
pub(super) const MANIFEST_LIMIT: u64 = 4 * 1024 * 1024;

/// The keys under which manifests and indexes name other content.
const LISTS: [&str; 4] = ["manifests", "layers", "blobs", "fsLayers"];
const SINGLES: [&str; 2] = ["config", "subject"];

/// What images reach.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Blobs that are named, with the sizes they are said to have.
    pub(super) blobs: BTreeMap<Digest, u64>,
    /// Indexes and manifests that are named and cannot be read, with why.
    pub(super) broken: Vec<(Digest, String)>,
}

/// Reads index.json.
pub(super) fn index(store: &Store) -> Result<Value> {
    let path = store.layout().join("index.json");
    let bytes = fs::read(&path).at("read", &path)?;
    let damaged = |reason: String| Error::Damaged { path: path.clone(), reason };
    let index: Value =
        serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    match index.get("manifests") {
        Some(Value::Array(_)) => Ok(index),
        _ => Err(damaged("it has no list of manifests".into())),
    }
}

/// Marks what all images reach.
pub(super) fn all(store: &Store) -> Result<Marks> {
    let index = index(store)?;
    Ok(below(store, index["manifests"].as_array().map_or(&[][..], |list| list)))
}

/// Marks what some descriptors reach.
pub(super) fn below(store: &Store, descriptors: &[Value]) -> Marks {
    let mut marks = Marks::default();
    let mut seen = BTreeSet::new();
    let mut pending: Vec<Digest> = Vec::new();
    for descriptor in descriptors {
        pending.extend(mark(&mut marks, descriptor));
    }
    while let Some(digest) = pending.pop() {
        if !seen.insert(digest) {
            continue;
        }
        match document(store, &digest) {
            Ok(document) => {
                for list in LISTS {
                    let Some(Value::Array(descriptors)) = document.get(list) else { continue };
                    for descriptor in descriptors {
                        let digest = mark(&mut marks, descriptor);
                        // Only indexes hold further documents; layers are never opened.
                        pending.extend(digest.filter(|_| list == "manifests"));
                    }
                }
                for single in SINGLES {
                    if let Some(descriptor) = document.get(single) {
                        mark(&mut marks, descriptor);
                    }
                }
            }
            Err(reason) => marks.broken.push((digest, reason)),
        }
    }
    marks
}

fn mark(marks: &mut Marks, descriptor: &Value) -> Option<Digest> {
    let digest: Digest = descriptor.get("digest")?.as_str()?.parse().ok()?;
    let size = descriptor.get("size").and_then(Value::as_u64).unwrap_or(0);
    marks.blobs.insert(digest, size);
    Some(digest)
}

/// Reads a manifest or an index without counting that as a use.
fn document(store: &Store, digest: &Digest) -> Result<Value, String> {
    let path = store.blobs().path(digest);
    let meta = fs::metadata(&path).map_err(|error| error.to_string())?;
    if meta.len() > MANIFEST_LIMIT {
        return Err(format!("it has more than {MANIFEST_LIMIT} bytes"));
    }
    let bytes = fs::read(&path).map_err(|error| error.to_string())?;
    serde_json::from_slice(&bytes).map_err(|error| error.to_string())
}
