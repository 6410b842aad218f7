//! Step records: what a step with a certain key made.
//!
//! One file a key. A record repeats its key, so a file that was moved to another name is a miss.
//! Beside them, `at/` remembers which key a *place* (say, the third instruction of a stage for one
//! platform) had last time, which is what answers "why was this not cached?".

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Result, Store, record};
use crate::layer::LayerId;
use crate::oci::Digest;

/// What a step made and from what.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The layer; None for a step that only changes the config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<LayerId>,
    /// When the step ran, seconds since 1970.
    pub created: i64,
    /// The parts that the key was made from, by name, for explanations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, String>,
    /// Whatever else the builder keeps with the step.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, serde_json::Value>,
}

/// One input that differs between two records of the same place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The input's name.
    pub name: String,
    /// What it was; None when it was not there.
    pub before: Option<String>,
    /// What it is; None when it is not there.
    pub after: Option<String>,
}

impl StepRecord {
    /// Gives the inputs in which `inputs` differs from this record's, by name.
    pub fn differences(&self, inputs: &BTreeMap<String, String>) -> Vec<Difference> {
        let names: std::collections::BTreeSet<&String> =
            self.inputs.keys().chain(inputs.keys()).collect();
        names
            .into_iter()
            .filter(|name| self.inputs.get(*name) != inputs.get(*name))
            .map(|name| Difference {
                name: name.clone(),
                before: self.inputs.get(name).cloned(),
                after: inputs.get(name).cloned(),
            })
            .collect()
    }
}

/// A record as it is on disk.
#[derive(Serialize, Deserialize)]
struct Filed<R> {
    key: Digest,
    record: R,
}

/// The step records of a store.
#[derive(Clone, Copy)]
pub struct Steps<'s> {
    store: &'s Store,
}

impl<'s> Steps<'s> {
    pub(super) fn new(store: &'s Store) -> Steps<'s> {
        Steps { store }
    }

    /// Looks a step up, and counts that as a use.
    pub fn get(&self, key: &Digest) -> Option<StepRecord> {
        let filed: Filed<StepRecord> = record::read(&self.path(key))?;
        (filed.key == *key).then_some(filed.record)
    }

    /// Records a step.
    pub fn put(&self, key: &Digest, step: &StepRecord) -> Result<()> {
        record::write(self.store, &self.path(key), &Filed { key: *key, record: step })
    }

    /// Remembers that the step at `place` has this key now.
    pub fn put_at(&self, place: &Digest, key: &Digest) -> Result<()> {
        record::write(self.store, &self.place(place), key)
    }

    /// Gives the record that the step at `place` had when it was last remembered.
    pub fn last_at(&self, place: &Digest) -> Option<StepRecord> {
        let key: Digest = record::read(&self.place(place))?;
        self.get(&key)
    }

    /// Reads a record of the file `name` without counting that as a use, for the pruner.
    pub(super) fn peek(&self, name: &str) -> Option<StepRecord> {
        let key = Digest::from_hex(name)?;
        let filed: Filed<StepRecord> = record::peek(&self.path(&key))?;
        (filed.key == key).then_some(filed.record)
    }

    pub(super) fn path(&self, key: &Digest) -> PathBuf {
        self.store.path("steps").join(key.hex())
    }

    fn place(&self, place: &Digest) -> PathBuf {
        self.store.path("steps/at").join(place.hex())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::scratch;
    use super::*;
    use std::fs;

    fn step(input: &str) -> StepRecord {
        StepRecord {
            layer: Some(LayerId::from_run_key(Digest::of(b"run"))),
            created: 1_700_000_000,
            inputs: [("command".to_owned(), input.to_owned())].into(),
            extra: [("note".to_owned(), serde_json::json!({"a": 1}))].into(),
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was_put() {
        let (_dir, store) = scratch();
        let key = Digest::of(b"key");
        assert_eq!(store.steps().get(&key), None);
        store.steps().put(&key, &step("make")).unwrap();
        assert_eq!(store.steps().get(&key), Some(step("make")));
        store.steps().put(&key, &step("make all")).unwrap();
        assert_eq!(store.steps().get(&key), Some(step("make all")));
    }

    #[test]
    fn a_record_under_another_name_is_a_miss() {
        let (_dir, store) = scratch();
        let (key, other) = (Digest::of(b"key"), Digest::of(b"other"));
        store.steps().put(&key, &step("make")).unwrap();
        fs::rename(store.steps().path(&key), store.steps().path(&other)).unwrap();
        assert_eq!(store.steps().get(&other), None);
        fs::write(store.steps().path(&key), "{}").unwrap();
        assert_eq!(store.steps().get(&key), None);
    }

    #[test]
    fn a_place_tells_what_changed() {
        let (_dir, store) = scratch();
        let (place, key) = (Digest::of(b"stage 0, line 3"), Digest::of(b"key"));
        assert_eq!(store.steps().last_at(&place), None);
        store.steps().put(&key, &step("make")).unwrap();
        store.steps().put_at(&place, &key).unwrap();
        let last = store.steps().last_at(&place).unwrap();
        assert_eq!(last.differences(&step("make").inputs), []);
        let changed = last.differences(&step("make all").inputs);
        assert_eq!(changed[0].before.as_deref(), Some("make"));
        assert_eq!(changed[0].after.as_deref(), Some("make all"));
    }
}
