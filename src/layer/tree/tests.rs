//! Stacks of layers written as text: `path kind` a line, layers separated by `--`, bottom first.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::layer::toc::{Entry, Kind, Xattrs};

/// Makes an entry of `a/b dir`, `a file:3`, `a ->target`, `a =file`, `a whiteout`, `a opaque`. The
/// mtime tells entries apart.
fn entry(line: &str, mtime: i64) -> Entry {
    let (path, kind) = line.trim().split_once(' ').expect("path and kind");
    let kind = match kind {
        "dir" => Kind::Dir,
        "whiteout" => Kind::Whiteout,
        "opaque" => Kind::Opaque,
        "file" => Kind::File { size: 1, digest: None },
        link if link.starts_with("->") => Kind::Symlink(link[2..].into()),
        link if link.starts_with('=') => Kind::Hardlink(link[1..].into()),
        other => panic!("{other}"),
    };
    let path = RootPath::from(path);
    Entry { path, kind, mode: 0o644, uid: 0, gid: 0, mtime, xattrs: Xattrs::new() }
}

fn tree(text: &str) -> Tree {
    let layers = text.split("--").enumerate().map(|(layer, lines)| {
        let lines = lines.lines().filter(|line| !line.trim().is_empty());
        Arc::new(lines.map(|line| entry(line, layer as i64)).collect::<Toc>())
    });
    Tree::new(layers.collect())
}

/// Draws a walk: `path@layer`, directories with a slash.
fn draw<'a>(found: impl IntoIterator<Item = Found<'a>>) -> String {
    let names = found.into_iter().map(|found| {
        let slash = if found.is_dir() { "/" } else { "" };
        format!("{}{slash}@{}", String::from_utf8_lossy(found.entry.path), found.layer)
    });
    names.collect::<Vec<_>>().join(" ")
}

#[test]
fn layers_merge_as_overlayfs_shows_them() {
    for (what, layers, expect) in [
        ("nothing", "", ""),
        ("one layer", "a dir\na/b file\nc file", "a/@0 a/b@0 c@0"),
        ("later attributes win", "a dir\na/b file\n--\na dir", "a/@1 a/b@0"),
        ("whiteout of a file", "a dir\na/b file\na/c file\n--\na/b whiteout", "a/@0 a/c@0"),
        ("whiteout of a directory", "a dir\na/b dir\na/b/c file\n--\na whiteout", ""),
        ("whiteout hides only below its layer", "a file\n--\na whiteout\na file", "a@1"),
        ("replaced directory", "d dir\nd/x file\n--\nd whiteout\nd dir\nd/y file", "d/@1 d/y@1"),
        ("deleted, then made again", "d dir\nd/x file\n--\nd whiteout\n--\nd dir", "d/@2"),
        ("opaque", "d dir\nd/x file\n--\nd dir\nd opaque\nd/y file", "d/@1 d/y@1"),
        ("opaque without its directory", "d dir\nd/x file\n--\nd opaque\nd/y file", "d/@0 d/y@1"),
        ("opaque over a file", "d file\n--\nd opaque", "d/@1"),
        ("opaque root", "a file\n--\n/ opaque\nb file", "b@1"),
        ("file over directory", "d dir\nd/x file\n--\nd file", "d@1"),
        ("directory over file", "d file\n--\nd dir\nd/x file", "d/@1 d/x@1"),
        ("file over directory, then directory", "d dir\nd/x file\n--\nd file\n--\nd dir", "d/@2"),
        ("unlisted parent", "d dir\n--\nd/x file", "d/@0 d/x@1"),
        ("unlisted parent that is nowhere", "--\nd/e/x file", "d/@1 d/e/@1 d/e/x@1"),
        ("unlisted parent over a symlink", "lib ->usr/lib\n--\nlib/x file", "lib/@1 lib/x@1"),
        ("whiteout makes no directory", "a file\n--\nd/x whiteout", "a@0"),
        ("whiteout below a file", "d file\n--\nd/x whiteout", "d@0"),
        ("whiteout of nothing", "a file\n--\nb whiteout", "a@0"),
        (
            "siblings around the slash",
            "a dir\na/z file\na-b file\na.b file",
            "a/@0 a/z@0 a-b@0 a.b@0",
        ),
        ("many layers", "a file\n--\nb file\n--\nc file\n--\nb whiteout", "a@0 c@2"),
    ] {
        assert_eq!(draw(tree(layers).walk(&RootPath::root())), expect, "{what}");
    }
}

#[test]
fn lookup_agrees_with_the_walk() {
    let tree = tree("d dir\nd/e dir\nd/e/f file\nx file\n--\nd/e/g file\nx whiteout");
    for (path, expect) in [
        ("/", "/@1"),
        ("d", "d/@0"),
        ("d/e/f", "d/e/f@0"),
        ("d/e/g", "d/e/g@1"),
        ("x", ""),
        ("x/y", ""),
        ("d/e/f/below", ""),
        ("nothing", ""),
    ] {
        assert_eq!(draw(tree.lookup(&path.into())), expect, "{path}");
    }
    assert_eq!(draw(tree.children(&"d/e".into())), "d/e/f@0 d/e/g@1");
    assert_eq!(draw(tree.children(&"d/e/f".into())), "");
    assert_eq!(draw(tree.walk(&"d".into())), "d/e/@0 d/e/f@0 d/e/g@1");
    assert!(Tree::default().lookup(&RootPath::root()).is_some(), "the root is always there");
}

#[test]
fn a_walk_leaves_out_what_it_is_told_to() {
    let tree = tree("a dir\na/b dir\na/b/c file\nd dir\nd/e file\nf dir");
    let mut walk = tree.walk(&RootPath::root());
    let mut seen = Vec::new();
    while let Some(found) = walk.next() {
        seen.push(String::from_utf8_lossy(found.entry.path).into_owned());
        if found.entry.path != b"d" {
            walk.skip_contents(&found);
        }
    }
    assert_eq!(seen, ["a", "d", "d/e", "f"]);
}

#[test]
fn links_resolve_inside_the_root() {
    let tree = tree(
        "usr dir\nusr/lib dir\nusr/lib/so file\nlib ->usr/lib\nabs ->/usr/lib\nup ->../../../usr\n\
         usr/up ->../lib\nloop ->loop\na ->b\nb ->a\ndangling ->no/where\ndot ->./usr/.\nfile file\n\
         hard =file\nroot ->/\nusr/lib/parent ->..",
    );
    for (path, follow_last, expect) in [
        ("lib/so", true, "/usr/lib/so"),
        ("lib", false, "/lib"),
        ("lib", true, "/usr/lib"),
        ("abs/so", false, "/usr/lib/so"),
        ("up/lib/so", false, "/usr/lib/so"),
        ("usr/up/so", false, "/usr/lib/so"),
        ("dangling", true, "/no/where"),
        ("dangling/x", false, "/no/where/x"),
        ("no/such/path", true, "/no/such/path"),
        ("dot/lib", true, "/usr/lib"),
        ("file/x", true, "/file/x"),
        ("root/usr", true, "/usr"),
        ("lib/parent/lib/so", true, "/usr/lib/so"),
    ] {
        let resolved = tree.resolve(&path.into(), follow_last).expect(path);
        assert_eq!(resolved.to_string(), expect, "{path} {follow_last}");
    }
    for path in ["loop", "a", "loop/x"] {
        assert_eq!(tree.resolve(&path.into(), true), Err(Error::Loop(path.into())));
    }
    assert_eq!(tree.resolve(&"loop".into(), false), Ok("loop".into()));
}

#[test]
fn a_hard_link_leads_to_its_file_even_when_that_is_deleted_above() {
    let tree = tree("a file\nb =a\n--\na whiteout");
    let found = tree.lookup(&"b".into()).expect("b");
    assert!(matches!(found.target().entry.kind, KindRef::File { .. }));
    assert!(tree.lookup(&"a".into()).is_none());
}

/// The plain way: apply layer after layer to a map, as an extractor would to a directory.
fn apply(layers: &[Vec<Entry>]) -> BTreeMap<RootPath, (Kind, i64)> {
    let mut state: BTreeMap<RootPath, (Kind, i64)> = BTreeMap::new();
    for layer in layers {
        let toc: Toc = layer.iter().cloned().collect();
        for mark in toc.iter().filter(|entry| entry.kind.is_mark()) {
            let path = mark.root_path();
            let strictly = mark.kind == KindRef::Opaque;
            state.retain(|known, _| !known.starts_with(&path) || (strictly && *known == path));
            if strictly && !path.is_root() {
                make_dirs(&mut state, &path.join(b"x"));
            }
        }
        for entry in toc.iter().filter(|entry| !entry.kind.is_mark()) {
            let path = entry.root_path();
            make_dirs(&mut state, &path);
            let known = state.get(&path);
            let keeps =
                entry.kind == KindRef::Dir && known.is_none_or(|(kind, _)| *kind == Kind::Dir);
            if !keeps {
                state.retain(|known, _| !known.starts_with(&path));
            }
            state.insert(path, (entry.kind.to_kind(), entry.mtime));
        }
    }
    state
}

/// Makes the unlisted parents of a path, in place of whatever is no directory.
fn make_dirs(state: &mut BTreeMap<RootPath, (Kind, i64)>, path: &RootPath) {
    for dir in path.ancestors() {
        if state.get(&dir).is_none_or(|(kind, _)| *kind != Kind::Dir) {
            state.insert(dir, (Kind::Dir, 0));
        }
    }
}

fn layer() -> impl Strategy<Value = Vec<Entry>> {
    let path = prop::collection::vec(prop::sample::select(vec!["a", "a-", "b"]), 1..4);
    let kind = prop::sample::select(vec!["dir", "dir", "dir", "file", "whiteout", "opaque"]);
    prop::collection::vec((path, kind), 0..8).prop_map(|lines| {
        let entries = lines.iter().map(|(path, kind)| {
            entry(&format!("{} {kind}", path.join("/")), 5 + path.len() as i64)
        });
        let toc: Toc = entries.collect();
        // What Toc::check refuses is not a layer: leave out entries below non-directories.
        let mut kept: Vec<Entry> = Vec::new();
        for entry in toc.iter().map(|entry| entry.to_entry()) {
            let below = |other: &Entry| {
                matches!(other.kind, Kind::File { .. }) && entry.path.starts_with(&other.path)
            };
            let opaque_file = entry.kind == Kind::Opaque
                && kept.iter().any(|other| {
                    other.path == entry.path
                        && other.kind != Kind::Dir
                        && other.kind != Kind::Whiteout
                });
            if !kept.iter().any(below) && !opaque_file {
                kept.push(entry);
            }
        }
        kept
    })
}

proptest! {
    #[test]
    fn a_tree_shows_what_applying_its_layers_leaves(layers in prop::collection::vec(layer(), 0..5)) {
        let tree = Tree::new(
            layers.iter().map(|layer| Arc::new(layer.iter().cloned().collect::<Toc>())).collect(),
        );
        let expect = apply(&layers);
        let walked: BTreeMap<RootPath, (Kind, i64)> = tree
            .walk(&RootPath::root())
            .map(|found| {
                (found.entry.root_path(), (found.entry.kind.to_kind(), found.entry.mtime))
            })
            .collect();
        prop_assert_eq!(&walked, &expect);
        for (path, (kind, _)) in &expect {
            let found = tree.lookup(path).expect("what is walked is found");
            prop_assert_eq!(&found.entry.kind.to_kind(), kind);
            prop_assert_eq!(tree.resolve(path, true), Ok(path.clone()));
        }
    }
}
