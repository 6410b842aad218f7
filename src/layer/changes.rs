//! What each layer of an image does to the layers below it, and what two images have different.
//!
//! [`changes`] tells, layer by layer, which paths are new, changed or deleted, and how many bytes of
//! lower layers no longer show: they are shipped and stored for nothing. [`differences`] compares
//! two merged views. Times are left out of both: they change with every build.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::path::RootPath;
use super::toc::{EntryRef, KindRef, Toc};
use super::tree::{Found, Tree};

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// It was not there.
    Added,
    /// It was there and is another one now.
    Changed,
    /// It was there, with the same content; mode, owner or attributes are others.
    Touched,
    /// It is gone.
    Deleted,
}

/// A path that a layer changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Where.
    pub path: RootPath,
    /// What happened.
    pub what: What,
    /// A directory.
    pub is_dir: bool,
    /// Bytes of the file that this layer brings; 0 for all that is no file.
    pub size: u64,
    /// Bytes of files in lower layers that no longer show because of it.
    pub hidden: u64,
}

/// A path that two images have different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub path: RootPath,
    /// What happened from the first to the second.
    pub what: What,
    /// What is different, in words: `mode 0644 → 0755`.
    pub how: String,
    /// Size in the first, 0 when it is no file there.
    pub before: u64,
    /// Size in the second.
    pub after: u64,
    /// Layer of the second (of the first when it is deleted), 0 = bottom.
    pub layer: usize,
}

/// What shows of a path so far.
#[derive(Clone)]
struct Shown {
    layer: usize,
    row: usize,
    size: u64,
}

/// Gives the changes of each layer, bottom first. A directory that is only listed again is none.
pub fn changes(layers: &[Arc<Toc>]) -> Vec<Vec<Change>> {
    let mut shown: BTreeMap<Vec<u8>, Shown> = BTreeMap::new();
    let mut out = Vec::new();
    for (layer, toc) in layers.iter().enumerate() {
        let mut list = Vec::new();
        // Marks reach only what is below, wherever they stand.
        let mut hidden: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        for entry in toc.iter().filter(|entry| entry.kind.is_mark()) {
            let opaque = entry.kind == KindRef::Opaque;
            let bytes = take_below(&mut shown, entry.path)
                + if opaque { 0 } else { take(&mut shown, entry.path) };
            *hidden.entry(entry.path.to_vec()).or_default() += bytes;
        }
        for (row, entry) in toc.iter().enumerate().filter(|(_, entry)| !entry.kind.is_mark()) {
            let size = size_of(&entry);
            let is_dir = entry.kind == KindRef::Dir;
            let was = shown.get(entry.path).cloned();
            let marked = hidden.remove(entry.path);
            let mut bytes = marked.unwrap_or_default();
            if !is_dir {
                bytes += take_below(&mut shown, entry.path);
            }
            if was.is_some() {
                bytes += take(&mut shown, entry.path);
            }
            shown.insert(entry.path.to_vec(), Shown { layer, row, size });
            let what = match was.map(|was| layers[was.layer].at(was.row)) {
                _ if marked.is_some() => What::Changed,
                None => What::Added,
                Some(old) if !same_content(&old, &entry) => What::Changed,
                Some(old) if how(&old, &entry).is_empty() && is_dir => continue,
                Some(_) => What::Touched,
            };
            let path = entry.root_path();
            list.push(Change { path, what, is_dir, size, hidden: bytes });
        }
        for (path, hidden) in hidden {
            let path = RootPath::clean(&path);
            let what = What::Deleted;
            list.push(Change { path, what, is_dir: false, size: 0, hidden });
        }
        list.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
        out.push(list);
    }
    out
}

fn size_of(entry: &EntryRef<'_>) -> u64 {
    match entry.kind {
        KindRef::File { size, .. } => size,
        _ => 0,
    }
}

fn take(shown: &mut BTreeMap<Vec<u8>, Shown>, path: &[u8]) -> u64 {
    shown.remove(path).map_or(0, |old| old.size)
}

/// Takes away everything below a path and gives its bytes.
fn take_below(shown: &mut BTreeMap<Vec<u8>, Shown>, path: &[u8]) -> u64 {
    let mut from = path.to_vec();
    if !path.is_empty() {
        from.push(b'/');
    }
    let below: Vec<Vec<u8>> = shown
        .range(from.clone()..)
        .map(|(other, _)| other)
        .take_while(|other| other.starts_with(&from))
        .filter(|other| other.len() > from.len())
        .cloned()
        .collect();
    below.iter().map(|path| take(shown, path)).sum()
}

/// Tells whether two entries have the same content, whoever owns it.
fn same_content(a: &EntryRef<'_>, b: &EntryRef<'_>) -> bool {
    match (a.kind, b.kind) {
        (KindRef::File { size: a, digest: x }, KindRef::File { size: b, digest: y }) => {
            a == b && x.is_some() && x == y
        }
        (a, b) => a == b,
    }
}

/// Says what is different besides the content.
fn how(a: &EntryRef<'_>, b: &EntryRef<'_>) -> String {
    let mut out = Vec::new();
    if a.mode != b.mode {
        out.push(format!("mode {:04o} → {:04o}", a.mode, b.mode));
    }
    if (a.uid, a.gid) != (b.uid, b.gid) {
        out.push(format!("owner {}:{} → {}:{}", a.uid, a.gid, b.uid, b.gid));
    }
    if a.xattrs != b.xattrs {
        out.push("extended attributes".to_owned());
    }
    out.join(", ")
}

fn kind_name(kind: KindRef<'_>) -> &'static str {
    match kind {
        KindRef::Dir => "directory",
        KindRef::File { .. } => "file",
        KindRef::Symlink(_) => "link",
        KindRef::Hardlink(_) => "hard link",
        KindRef::CharDevice { .. } | KindRef::BlockDevice { .. } => "device",
        KindRef::Fifo => "pipe",
        KindRef::Whiteout | KindRef::Opaque => "mark",
    }
}

/// Compares what two stacks of layers show.
pub fn differences(before: &Tree, after: &Tree) -> Vec<Difference> {
    let list = |tree: &Tree| -> BTreeMap<RootPath, ()> {
        tree.walk(&RootPath::root()).map(|found| (found.entry.root_path(), ())).collect()
    };
    let mut paths = list(before);
    paths.extend(list(after));
    let mut out = Vec::new();
    for path in paths.into_keys() {
        let (old, new) = (before.lookup(&path), after.lookup(&path));
        let size = |found: &Option<Found<'_>>| {
            found.as_ref().map_or(0, |found| size_of(&found.target().entry))
        };
        let (before, after) = (size(&old), size(&new));
        let (what, how, layer) = match (&old, &new) {
            (None, None) => continue,
            (None, Some(new)) => (What::Added, String::new(), new.layer),
            (Some(old), None) => (What::Deleted, String::new(), old.layer),
            (Some(old), Some(new)) => {
                // A hard link is one name of a file: which name comes first is no difference.
                let (a, b) = (old.target().entry, new.target().entry);
                let mut words = how(&a, &b);
                let same = same_content(&a, &b);
                if !same {
                    let content = match (a.kind, b.kind) {
                        (KindRef::File { .. }, KindRef::File { .. }) => "content".to_owned(),
                        (KindRef::Symlink(a), KindRef::Symlink(b)) => format!(
                            "target {} → {}",
                            String::from_utf8_lossy(a),
                            String::from_utf8_lossy(b)
                        ),
                        (a, b) => format!("{} → {}", kind_name(a), kind_name(b)),
                    };
                    let parts: Vec<String> =
                        [content, words].into_iter().filter(|part| !part.is_empty()).collect();
                    words = parts.join(", ");
                } else if words.is_empty() {
                    continue;
                }
                (if same { What::Touched } else { What::Changed }, words, new.layer)
            }
        };
        out.push(Difference { path, what, how, before, after, layer });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::toc::{Entry, Kind, TocBuilder, Xattrs};
    use super::*;
    use crate::oci::Digest;

    /// `f:PATH:TEXT[:MODE]` a file, `d:PATH` a directory, `w:PATH` and `o:PATH` marks.
    fn toc(lines: &[&str]) -> Arc<Toc> {
        let mut out = TocBuilder::new();
        for line in lines {
            let parts: Vec<&str> = line.split(':').collect();
            let kind = match parts[0] {
                "f" => Kind::File {
                    size: parts[2].len() as u64,
                    digest: Some(Digest::of(parts[2].as_bytes())),
                },
                "d" => Kind::Dir,
                "w" => Kind::Whiteout,
                "o" => Kind::Opaque,
                other => panic!("{other}"),
            };
            let mode = parts.get(3).map_or(0o644, |mode| u32::from_str_radix(mode, 8).unwrap());
            out.push(Entry {
                path: RootPath::clean(parts[1].as_bytes()),
                kind,
                mode,
                uid: 0,
                gid: 0,
                mtime: 0,
                xattrs: Xattrs::new(),
            });
        }
        Arc::new(out.finish())
    }

    fn lines(list: &[Change]) -> Vec<String> {
        list.iter()
            .map(|change| {
                let path = String::from_utf8_lossy(change.path.as_bytes()).into_owned();
                format!("{:?} {path} {} {}", change.what, change.size, change.hidden)
            })
            .collect()
    }

    #[test]
    fn what_a_layer_hides_is_counted() {
        let layers = [
            toc(&[
                "d:d",
                "f:d/a:four",
                "f:d/b:sixsix",
                "f:c:x",
                "f:same:content",
                "d:gone",
                "f:gone/x:12345678",
            ]),
            toc(&["d:d", "f:d/a:other", "f:same:content:755", "w:gone"]),
            toc(&["d:d", "o:d", "f:d/new:1", "f:gone:file", "w:c", "f:c:y"]),
        ];
        let all = changes(&layers);
        assert!(all[0].iter().all(|change| change.what == What::Added && change.hidden == 0));
        assert_eq!(lines(&all[1]), ["Changed d/a 5 4", "Deleted gone 0 8", "Touched same 7 7"]);
        assert_eq!(
            lines(&all[2]),
            ["Changed c 1 1", "Changed d 0 11", "Added d/new 1 0", "Added gone 4 0"]
        );
        // A file in the place of a directory hides all of it.
        let all = changes(&[toc(&["d:d", "f:d/a:four", "f:dx:stays"]), toc(&["f:d:now"])]);
        assert_eq!(lines(&all[1]), ["Changed d 3 4"]);
    }

    #[test]
    fn merged_views_are_compared() {
        let before = Tree::new(vec![toc(&["d:d", "f:d/a:one", "f:d/b:two", "f:c:x"])]);
        let after = Tree::new(vec![
            toc(&["d:d", "f:d/a:one", "f:d/b:two", "f:c:x:755"]),
            toc(&["f:d/a:changed", "w:d/b", "f:e:new"]),
        ]);
        let found: Vec<String> = differences(&before, &after)
            .iter()
            .map(|d| {
                let path = String::from_utf8_lossy(d.path.as_bytes()).into_owned();
                format!("{:?} {path} {} {}→{} {}", d.what, d.how, d.before, d.after, d.layer)
            })
            .collect();
        assert_eq!(
            found,
            [
                "Touched c mode 0644 → 0755 1→1 0",
                "Changed d/a content 3→7 1",
                "Deleted d/b  3→0 0",
                "Added e  0→3 1",
            ]
        );
        assert!(differences(&after, &after).is_empty());
    }
}
