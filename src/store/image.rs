//! The images of the store: names in `layout/index.json`.
//!
//! One descriptor a name, with `org.opencontainers.image.ref.name` (the tag) and
//! `io.containerd.image.name` (the whole name), as BuildKit and containerd write layouts. Entries of
//! other tools stay as they are. Every change reads, changes and renames the file under a lock, so
//! that it is always either the old one or the new one.

use std::fs;

use crate::oci::descriptor::{IMAGE_NAME, REF_NAME};
use crate::oci::{Descriptor, Index, canonical};

use super::{Error, IoContext, Result, Store};

/// The named images of a store.
#[derive(Clone, Copy)]
pub struct Images<'s> {
    store: &'s Store,
}

impl<'s> Images<'s> {
    pub(super) fn new(store: &'s Store) -> Images<'s> {
        Images { store }
    }

    /// Gives all names with what they stand for, sorted by name. Names of other tools that are only
    /// a tag are given as they are.
    pub fn list(&self) -> Result<Vec<(String, Descriptor)>> {
        let index = self.read()?;
        let mut out: Vec<(String, Descriptor)> = index
            .manifests
            .into_iter()
            .filter_map(|descriptor| Some((name_of(&descriptor)?, descriptor)))
            .collect();
        out.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(out)
    }

    /// Gives what a name stands for.
    pub fn get(&self, name: &str) -> Result<Option<Descriptor>> {
        let index = self.read()?;
        Ok(index
            .manifests
            .into_iter()
            .find(|descriptor| name_of(descriptor).as_deref() == Some(name)))
    }

    /// Gives images names (whole: `docker.io/library/app:latest`); a name that exists moves. All at
    /// once or not at all. Their blobs must be in the store.
    pub fn set(&self, names: &[(String, Descriptor)]) -> Result<()> {
        self.change(|index| {
            for (name, descriptor) in names {
                let mut descriptor = descriptor.clone();
                descriptor.annotations.insert(IMAGE_NAME.to_owned(), name.clone());
                descriptor.annotations.insert(REF_NAME.to_owned(), tag_of(name).to_owned());
                let place = index
                    .manifests
                    .iter()
                    .position(|known| name_of(known).as_deref() == Some(name.as_str()));
                match place {
                    Some(place) => index.manifests[place] = descriptor,
                    None => index.manifests.push(descriptor),
                }
            }
            true
        })
    }

    /// Takes a name away. Says whether it was there.
    pub fn remove(&self, name: &str) -> Result<bool> {
        let mut found = false;
        self.change(|index| {
            let before = index.manifests.len();
            index.manifests.retain(|known| name_of(known).as_deref() != Some(name));
            found = index.manifests.len() < before;
            found
        })?;
        Ok(found)
    }

    fn read(&self) -> Result<Index> {
        let path = self.store.layout().join("index.json");
        let bytes = fs::read(&path).at("read", &path)?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::Damaged { path, reason: error.to_string() })
    }

    fn change(&self, apply: impl FnOnce(&mut Index) -> bool) -> Result<()> {
        let _lock = self.store.locks().short("index")?;
        let mut index = self.read()?;
        if !apply(&mut index) {
            return Ok(());
        }
        let path = self.store.layout().join("index.json");
        let bytes = canonical::to_vec(&index);
        // Without the reserve, nothing could be removed once the disk is full.
        self.store.with_reserve(|| self.store.write_whole(&path, &bytes))
    }
}

fn name_of(descriptor: &Descriptor) -> Option<String> {
    let annotations = &descriptor.annotations;
    annotations.get(IMAGE_NAME).or_else(|| annotations.get(REF_NAME)).cloned()
}

/// Gives the tag of a whole name.
fn tag_of(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((_, tag)) if !tag.contains('/') => tag,
        _ => "latest",
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::scratch;
    use super::*;
    use crate::oci::media_type;

    #[test]
    fn names_are_set_moved_and_removed() {
        let (_dir, store) = scratch();
        let one = Descriptor::of(media_type::OCI_MANIFEST, b"one");
        let two = Descriptor::of(media_type::OCI_MANIFEST, b"two");
        let name = "localhost:5000/app:1".to_owned();
        store.images().set(&[(name.clone(), one.clone())]).unwrap();
        store.images().set(&[("docker.io/library/b:x".into(), one)]).unwrap();
        store.images().set(&[(name.clone(), two.clone())]).unwrap();
        let list = store.images().list().unwrap();
        assert_eq!(list.len(), 2);
        let found = store.images().get(&name).unwrap().unwrap();
        assert_eq!(found.digest, two.digest);
        assert_eq!(found.annotations[REF_NAME], "1");
        assert!(store.images().remove(&name).unwrap());
        assert!(!store.images().remove(&name).unwrap());
    }

    #[test]
    fn two_writers_lose_nothing() {
        let (_dir, store) = scratch();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let store = &store;
                scope.spawn(move || {
                    for number in 0..10 {
                        let name = format!("docker.io/library/a{writer}:{number}");
                        let image = Descriptor::of(media_type::OCI_MANIFEST, name.as_bytes());
                        store.images().set(&[(name, image)]).unwrap();
                    }
                });
            }
        });
        assert_eq!(store.images().list().unwrap().len(), 40);
    }
}
