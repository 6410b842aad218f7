//! One file a kind of step; and what all of them share: keys before the work, base images, the
//! identity of what a COPY or a bind mount selects.

pub mod copy;
mod host;
pub mod run;
mod ssh;

use std::sync::Arc;

use crate::context::Context;
use crate::graph::{self, MountKind, NodeId, Op, key, key::TreeId};
use crate::layer::RootPath;
use crate::layer::toc::{EntryRef, KindRef, Toc};
use crate::layer::tree::Tree;
use crate::oci::{Descriptor, Digest, digest::Hasher};

pub(super) use ssh::AgentSocket;

use super::conductor::{Conductor, Outcome, copy_key};
use super::error::{Failure, Kind};
use super::event::Event;

/// Computes a node's key from what is known without running anything; None when something is not.
pub fn early_key(
    conductor: &Conductor<'_>,
    id: NodeId,
    below: TreeId,
) -> Result<Option<Digest>, Failure> {
    let node = &conductor.graph.nodes[id];
    match &node.op {
        Op::Image { .. } | Op::Local { .. } | Op::Remote(_) => Ok(None),
        Op::Workdir { path, user } => {
            Ok(Some(with_epoch(conductor, key::workdir(path, user, below))))
        }
        Op::Run(run) => {
            let mut contents = vec![None; node.inputs.len()];
            for mount in &run.mounts {
                let (MountKind::Bind { input, source, .. }
                | MountKind::Cache { input: Some(input), source, .. }) = &mount.kind
                else {
                    continue;
                };
                let Some(content) = input_content(conductor, node.inputs[*input], source)? else {
                    return Ok(None);
                };
                contents[*input] = Some(content);
            }
            let contents: Vec<Digest> =
                contents.into_iter().map(|content| content.unwrap_or(Digest::of(b""))).collect();
            let key = key::run(run, &node.platform, below, &contents);
            conductor.note_contents(id, contents);
            Ok(Some(key))
        }
        Op::Copy(copy) => {
            let mut contents = Vec::new();
            for number in 0..node.inputs.len() {
                match copied_content(conductor, id, copy, number)? {
                    Some(content) => contents.push(content),
                    None => return Ok(None),
                }
            }
            let content = match contents[..] {
                [] => Digest::of(b""),
                [content] => content,
                _ => key::digest(&serde_json::json!(contents)),
            };
            conductor.note_contents(id, contents);
            Ok(Some(with_epoch(conductor, copy_key(copy, below, content))))
        }
    }
}

/// Identity of what a COPY takes from one of its inputs.
fn copied_content(
    conductor: &Conductor<'_>,
    id: NodeId,
    copy: &graph::Copy,
    number: usize,
) -> Result<Option<Digest>, Failure> {
    let build = conductor.build;
    let input = conductor.graph.nodes[id].inputs[number];
    match &conductor.graph.nodes[input].op {
        Op::Local { context } => {
            let context = build.context(context)?;
            let epoch = build.options.epoch;
            selection(&context, &self::copy::only(copy, number), epoch).map(Some)
        }
        Op::Remote(remote) => build.identity(input, remote).map(Some),
        _ => Ok(conductor.tree_of(input).map(|tree| tree.0)),
    }
}

/// With SOURCE_DATE_EPOCH, a computed layer has other times, so it is another result.
fn with_epoch(conductor: &Conductor<'_>, key: Digest) -> Digest {
    match conductor.build.options.epoch {
        None => key,
        Some(epoch) => Digest::of(format!("{key} clamped to {epoch}").as_bytes()),
    }
}

/// Identity of one path of an input, for bind mounts.
fn input_content(
    conductor: &Conductor<'_>,
    input: NodeId,
    source: &str,
) -> Result<Option<Digest>, Failure> {
    match &conductor.graph.nodes[input].op {
        Op::Local { context } => {
            let context = conductor.build.context(context)?;
            let whole = run::whole(source);
            Ok(Some(selection(&context, &whole, None)?))
        }
        _ => Ok(conductor.tree_of(input).map(|tree| tree.0)),
    }
}

/// Bytes that are hashed at a time.
const PIECE: usize = 32 * 1024;

/// Digests what a COPY selects from a context: paths, kinds, modes, owners, xattrs, contents; with
/// an epoch the clamped times as well.
///
/// A context that looks as it did in an earlier build gives what was found then.
fn selection(context: &Context, copy: &graph::Copy, epoch: Option<i64>) -> Result<Digest, Failure> {
    let question = serde_json::json!({
        "selection": 1,
        "sources": copy.sources,
        "parents": copy.parents,
        "exclude": copy.exclude,
        "epoch": epoch,
    });
    let question = key::digest(&question);
    if let Some(known) = context.answer(&question).map_err(|error| unreadable(&error))? {
        return Ok(known);
    }
    let (listing, selected) = select(context, copy)?;
    let mut hasher = Hasher::new();
    let mut piece = Vec::new();
    for (root, rows) in &selected {
        for &row in rows {
            let mut entry = listing.at(row);
            if let KindRef::File { digest, .. } = &mut entry.kind {
                *digest = context.digest_at(row).map_err(|error| unreadable(&error))?;
            }
            put_entry(&mut piece, root, &entry, epoch);
            if piece.len() >= PIECE {
                hasher.update(&piece);
                piece.clear();
            }
        }
    }
    hasher.update(&piece);
    let found = hasher.finish();
    context.remember(question, found);
    Ok(found)
}

/// What a COPY selects: each path that its patterns name, with the rows of the listing at and below.
type Selected = Vec<(RootPath, Vec<usize>)>;

/// Finds what a COPY selects from a context, and has the contents of all its files digested.
pub fn select(context: &Context, copy: &graph::Copy) -> Result<(Arc<Toc>, Selected), Failure> {
    let listing = context.listing().map_err(|error| unreadable(&error))?;
    let tree = Tree::new(vec![listing.clone()]);
    let exclude = super::copy::patterns(&copy.exclude).map_err(copy_failure)?;
    let mut selected = Vec::new();
    for (root, row) in roots(&listing, &tree, copy)? {
        let mut rows: Vec<usize> = row.into_iter().collect();
        if row.is_some_and(|row| !matches!(listing.at(row).kind, KindRef::Dir)) {
            selected.push((root, rows));
            continue;
        }
        let prefix = if root.is_root() { 0 } else { root.as_bytes().len() + 1 };
        let keeps = |row: &usize| match &exclude {
            Some(exclude) => !exclude.is_ignored(&listing.at(*row).path[prefix..]),
            None => true,
        };
        rows.extend(listing.range_below(root.as_bytes()).filter(keeps));
        selected.push((root, rows));
    }
    let rows = selected.iter().flat_map(|(_, rows)| rows.iter().copied());
    context.digest_rows(rows).map_err(|error| unreadable(&error))?;
    Ok((listing, selected))
}

fn unreadable(error: &crate::context::Error) -> Failure {
    Failure::of(Kind::Step, "", error)
}

/// Gives every path that the patterns of a COPY name, links resolved, with its row of the listing
/// where it has one.
fn roots(
    listing: &Toc,
    tree: &Tree,
    copy: &graph::Copy,
) -> Result<Vec<(RootPath, Option<usize>)>, Failure> {
    let mut out = Vec::new();
    for pattern in &copy.sources {
        let pattern = match (copy.parents, pattern.split_once("/./")) {
            (true, Some((pivot, _))) => pivot,
            (true, None) => "/",
            (false, _) => pattern,
        };
        for path in super::copy::expand(tree, pattern).map_err(copy_failure)? {
            let row = listing.index_of(path.as_bytes());
            // What is listed has directories above it, and no links.
            if row.is_some_and(|row| !matches!(listing.at(row).kind, KindRef::Symlink(_))) {
                out.push((path, row));
                continue;
            }
            let path = tree.resolve(&path, true).unwrap_or(path);
            let row = listing.index_of(path.as_bytes());
            out.push((path, row));
        }
    }
    Ok(out)
}

/// Turns an error of the planner into a failed step.
pub fn copy_failure(error: super::copy::Error) -> Failure {
    let hint = match &error {
        super::copy::Error::NotFound(_) => {
            Some("check the path, and that .dockerignore does not leave it out")
        }
        _ => None,
    };
    let failure = Failure::new(Kind::Step, error.to_string());
    match hint {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

/// Appends what identifies an entry. Fields are gathered: a hasher takes its time over small pieces.
fn put_entry(out: &mut Vec<u8>, root: &RootPath, entry: &EntryRef<'_>, epoch: Option<i64>) {
    fn field(out: &mut Vec<u8>, bytes: &[u8]) {
        out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        out.extend_from_slice(bytes);
    }
    let name_of_root = root.as_bytes().len();
    // A pattern that matches another name is another copy, so the matched path itself counts.
    field(out, &entry.path[..name_of_root.min(entry.path.len())]);
    field(out, &entry.path[name_of_root.min(entry.path.len())..]);
    let mut numbers = [0u8; 13];
    numbers[0..4].copy_from_slice(&entry.mode.to_le_bytes());
    numbers[4..8].copy_from_slice(&entry.uid.to_le_bytes());
    numbers[8..12].copy_from_slice(&entry.gid.to_le_bytes());
    numbers[12] = match entry.kind {
        KindRef::Dir => 0,
        KindRef::File { .. } => 1,
        KindRef::Symlink(_) => 2,
        KindRef::Hardlink(_) => 3,
        KindRef::CharDevice { .. } => 4,
        KindRef::BlockDevice { .. } => 5,
        KindRef::Fifo => 6,
        KindRef::Whiteout => 7,
        KindRef::Opaque => 8,
    };
    out.extend_from_slice(&numbers);
    match entry.kind {
        KindRef::File { digest, size } => {
            out.extend_from_slice(&size.to_le_bytes());
            if let Some(digest) = digest {
                out.extend_from_slice(digest.as_bytes());
            }
        }
        KindRef::Symlink(target) | KindRef::Hardlink(target) => field(out, target),
        KindRef::CharDevice { major, minor } | KindRef::BlockDevice { major, minor } => {
            out.extend_from_slice(&major.to_le_bytes());
            out.extend_from_slice(&minor.to_le_bytes());
        }
        _ => {}
    }
    out.extend_from_slice(&(entry.xattrs.len() as u64).to_le_bytes());
    for (name, value) in entry.xattrs {
        field(out, name);
        field(out, value);
    }
    if let Some(epoch) = epoch {
        out.extend_from_slice(&entry.mtime.min(epoch).to_le_bytes());
    }
}

/// Finds the blobs of base images among `outcome`'s layers that are not in the store.
pub(super) fn missing(conductor: &Conductor<'_>, outcome: &Outcome) -> Vec<Descriptor> {
    let store = conductor.build.store;
    outcome
        .layers
        .iter()
        .filter_map(|layer| conductor.layers.base(layer))
        .map(|base| base.descriptor.clone())
        .filter(|blob| !store.blobs().contains_sized(&blob.digest, blob.size))
        .collect()
}

/// Brings the blobs of a base image into the store. Returns whether they were there.
pub fn fetch(conductor: &Conductor<'_>, id: NodeId, outcome: &Outcome) -> Result<bool, Failure> {
    let Op::Image { image } = conductor.graph.nodes[id].op else { return Ok(true) };
    let store = conductor.build.store;
    let missing = missing(conductor, outcome);
    if missing.is_empty() {
        return Ok(true);
    }
    conductor.build.watch.event(Event::Started { step: id });
    let progress = |item: &str, done: u64, total: Option<u64>| {
        conductor.build.watch.event(Event::Progress {
            step: id,
            item: item.to_owned(),
            done,
            total,
        });
    };
    let handle = conductor.graph.images[image].handle;
    let Err(failure) = conductor.build.fetch(handle, &missing, &progress) else {
        return Ok(false);
    };
    // What one base lacks another may have: images that share layers are often kept side by side.
    for blob in missing {
        let there = store.blobs().contains_sized(&blob.digest, blob.size)
            || conductor.build.bases.iter().enumerate().any(|(source, base)| {
                // Its own source once more, too: the first error kept the other blobs from coming.
                base.manifest.layers.iter().any(|layer| layer.digest == blob.digest)
                    && conductor.build.fetch(source, std::slice::from_ref(&blob), &progress).is_ok()
            });
        if !there {
            return Err(failure);
        }
    }
    Ok(false)
}
