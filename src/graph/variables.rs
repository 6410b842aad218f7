//! The variables of a stage, kept so that thousands of steps can each have their own.
//!
//! Every RUN sees the variables as they were at its place in the file. A copy for each would make a
//! generated Dockerfile of a few thousand lines quadratic, in time and in memory; so a [`Variables`]
//! is a list of shared chunks, and a change copies one of them.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::dockerfile::expand;

/// Pairs a chunk: a change copies so many, and a snapshot one pointer for each so many.
const CHUNK: usize = 64;

type Pair = (Arc<str>, Arc<str>);

/// Names and values, in the order in which the names were first set. Cheap to clone.
#[derive(Clone, Default, Eq)]
pub struct Variables {
    /// All but the last are full.
    chunks: Vec<Arc<Vec<Pair>>>,
}

impl Variables {
    /// Gives names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).map(|(name, value)| (&**name, &**value))
    }

    /// Gives how many there are.
    pub fn len(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len())
    }

    /// Says whether there is none.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Gives the value of a variable; looks through all of them.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(own, _)| *own == name).map(|(_, value)| value)
    }

    /// Gives copies of all.
    pub fn to_vec(&self) -> Vec<(String, String)> {
        self.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn at(&self, index: usize) -> &Pair {
        &self.chunks[index / CHUNK][index % CHUNK]
    }

    fn push(&mut self, pair: Pair) {
        match self.chunks.last_mut() {
            Some(last) if last.len() < CHUNK => Arc::make_mut(last).push(pair),
            _ => self.chunks.push(Arc::new(vec![pair])),
        }
    }
}

impl FromIterator<(String, String)> for Variables {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Variables {
        let mut all = Variables::default();
        pairs.into_iter().for_each(|(name, value)| all.push((name.into(), value.into())));
        all
    }
}

impl PartialEq for Variables {
    fn eq(&self, other: &Variables) -> bool {
        let same = |(one, other): (&Arc<Vec<Pair>>, &Arc<Vec<Pair>>)| {
            Arc::ptr_eq(one, other) || one == other
        };
        self.chunks.len() == other.chunks.len() && self.chunks.iter().zip(&other.chunks).all(same)
    }
}

impl Hash for Variables {
    /// Only their number: steps that differ in nothing but a value are rare, and reading thousands of
    /// values for every step is not worth what it would save.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.len().hash(state);
    }
}

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl serde::Serialize for Variables {
    /// As a list of pairs.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

/// The variables while a stage is walked: found by name, and changed.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    list: Variables,
    places: HashMap<Arc<str>, usize>,
}

impl Table {
    /// Sets a variable, in place when it exists.
    pub fn set(&mut self, name: &str, value: &str) {
        match self.places.get(name) {
            Some(&place) => {
                let chunk = Arc::make_mut(&mut self.list.chunks[place / CHUNK]);
                chunk[place % CHUNK].1 = value.into();
            }
            None => {
                let name: Arc<str> = name.into();
                self.places.insert(name.clone(), self.list.len());
                self.list.push((name, value.into()));
            }
        }
    }

    /// Gives the variables as they are now.
    pub fn list(&self) -> &Variables {
        &self.list
    }
}

impl expand::Env for Table {
    fn get(&self, name: &str) -> Option<&str> {
        self.places.get(name).map(|&place| &*self.list.at(place).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::expand::Env;

    #[test]
    fn snapshots_stay_as_they_were() {
        let mut table = Table::default();
        let mut plain: Vec<(String, String)> = Vec::new();
        let mut snapshots = Vec::new();
        for step in 0..3 * CHUNK {
            let (name, value) = (format!("N{}", step * 7 % (2 * CHUNK + 3)), step.to_string());
            table.set(&name, &value);
            match plain.iter_mut().find(|(own, _)| *own == name) {
                Some(pair) => pair.1 = value,
                None => plain.push((name, value)),
            }
            snapshots.push((table.list().clone(), plain.clone()));
        }
        for (list, plain) in snapshots {
            assert_eq!(list.to_vec(), plain);
            assert_eq!(list.len(), plain.len());
            assert_eq!(list, plain.iter().cloned().collect());
            assert_eq!(serde_json::json!(list), serde_json::json!(plain));
        }
        for (name, value) in &plain {
            assert_eq!(table.get(name), Some(value.as_str()));
        }
        assert_eq!(table.get("N"), None);
    }

    #[test]
    fn lists_are_equal_by_what_they_hold() {
        let of = |pairs: &[(&str, &str)]| -> Variables {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(of(&[("a", "1"), ("b", "2")]), of(&[("a", "1"), ("b", "2")]));
        for other in [&[("a", "1")][..], &[("b", "2"), ("a", "1")], &[("a", "1"), ("b", "")], &[]] {
            assert_ne!(of(&[("a", "1"), ("b", "2")]), of(other));
        }
        assert!(Variables::default().is_empty() && !of(&[("a", "")]).is_empty());
        assert_eq!([of(&[("a", "")]).get("a"), of(&[("a", "")]).get("b")], [Some(""), None]);
    }
}
