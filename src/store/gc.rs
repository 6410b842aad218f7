//! What the store holds ([`usage`]) and taking away what nobody needs ([`prune`]).
//!
//! # Model
//!
//! Images are roots: no blob that one of them reaches is ever removed. Everything else is cache and
//! goes by last use, oldest first, as *items*:
//!
//! | item | consists of | last use is the newest of |
//! |---|---|---|
//! | a layer | its Toc, trees, pack records, the step records that lead to it, its blobs | all of these files' times, and the trees' marks' |
//! | a step without a layer | its record | the record's time |
//! | a place | which key a step had last time | the file's time |
//! | a blob of no layer | (a pulled manifest or config, what a killed build left) | the blob's time |
//! | a cache mount | its directory | when it was last taken |
//! | a stat cache | the file | when it was last used |
//! | a download, a mirror of a repository | its directory | when it was last used |
//!
//! # Beside running builds
//!
//! When nobody builds, the pruner has the store for itself. Otherwise it spares whatever was used
//! since the oldest running process began (with [`age::GRAIN`] to spare, the exactness of times), and
//! takes files away by [`age::retire`], which loses against a reader. Records go before what they
//! lead to; so a build finds a layer with its record or a miss, and whatever a build found stays.
//!
//! # Other owners
//!
//! Trees and cache mounts may hold files of subordinate ids, which only root of the user namespace
//! can remove: enter it first if you can. What cannot be removed is moved aside and reported.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::mount::{self, MountId};
use super::pack::Packs;
use super::{IoContext, Result, Store, Trees, age, mark, record, remote, remove};
use crate::layer::LayerId;
use crate::oci::Digest;

/// What kind of thing takes space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Category {
    /// Blobs that images reach.
    Images,
    /// Layers that only the build cache needs: blobs, Tocs, records.
    Layers,
    /// Layers as directories.
    Trees,
    /// Cache mounts.
    Mounts,
    /// Stat caches of contexts, downloads, mirrors of repositories.
    Contexts,
}

impl Category {
    /// All, in the order of reports.
    pub const ALL: [Category; 5] =
        [Category::Images, Category::Layers, Category::Trees, Category::Mounts, Category::Contexts];

    /// Gives the name for reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Category::Images => "images",
            Category::Layers => "layers",
            Category::Trees => "trees",
            Category::Mounts => "mounts",
            Category::Contexts => "contexts",
        }
    }
}

/// How many things of a category there are and what they take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Things: blobs, layers, directories, files.
    pub count: u64,
    /// Bytes on disk.
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// What a prune is to remove.
#[derive(Clone, Copy, Debug, Default)]
pub struct PruneOptions {
    /// Only what was not used for so long. None: whatever its age.
    pub unused_for: Option<Duration>,
    /// Only, oldest first, until all cache together takes no more bytes than this.
    pub keep_storage: Option<u64>,
    /// Leave cache mounts alone.
    pub keep_mounts: bool,
    /// Say what would go, and remove nothing.
    pub dry_run: bool,
}

/// What a prune did.
#[derive(Debug, Default)]
pub struct Pruned {
    /// What went, by category.
    pub removed: BTreeMap<Category, Amount>,
    /// What could not be removed, and why.
    pub failed: Vec<(PathBuf, io::Error)>,
    /// Whether builds were running, whose recent things were spared.
    pub beside_builds: bool,
}

/// A layer and all that belongs to it.
#[derive(Debug, Default)]
struct Layer {
    toc: Option<PathBuf>,
    trees: Vec<PathBuf>,
    steps: Vec<PathBuf>,
    packs: Vec<PathBuf>,
    blobs: BTreeSet<Digest>,
}

#[derive(Debug)]
enum Item {
    Layer(Box<Layer>),
    File(Category, PathBuf),
    Mount(PathBuf),
    Remote(PathBuf),
}

/// An item with what decides its fate.
#[derive(Debug)]
struct Candidate {
    used: SystemTime,
    bytes: u64,
    item: Item,
}

/// Everything in the store, sorted out.
#[derive(Default)]
struct Inventory {
    images: Amount,
    blobs: BTreeMap<Digest, Size>,
    candidates: Vec<Candidate>,
    /// How many layers want each blob that no image reaches.
    wanted: BTreeMap<Digest, usize>,
}

#[derive(Clone, Copy)]
struct Size {
    bytes: u64,
    used: SystemTime,
}

/// Says what takes how much, by category.
pub fn usage(store: &Store) -> Result<BTreeMap<Category, Amount>> {
    let inventory = take_stock(store)?;
    let mut usage: BTreeMap<Category, Amount> =
        Category::ALL.into_iter().map(|category| (category, Amount::default())).collect();
    usage.insert(Category::Images, inventory.images);
    let mut counted = BTreeSet::new();
    for candidate in &inventory.candidates {
        for (category, bytes) in parts(candidate, &inventory, &mut counted) {
            usage.entry(category).or_default().add(bytes);
        }
    }
    Ok(usage)
}

/// Removes cache that nobody used for long, as [`PruneOptions`] say.
pub fn prune(store: &Store, options: &PruneOptions) -> Result<Pruned> {
    // The process's own directory must exist before others are looked for, to be told apart. On a
    // full disk there may be no room for it.
    store.with_reserve(|| store.tmp().path())?;
    // Two pruners would only stumble over each other.
    let _pruner = store.locks().short("prune")?;
    let alone = store.locks().alone()?;
    let mut pruned = Pruned { beside_builds: alone.is_none(), ..Pruned::default() };
    // Without builds, even files with times in the future may go.
    let mut cut = SystemTime::now() + Duration::from_secs(86_400);
    if let Some(unused_for) = options.unused_for {
        cut = SystemTime::now().checked_sub(unused_for).unwrap_or(SystemTime::UNIX_EPOCH);
    }
    if alone.is_none() {
        // Whoever holds the lock has a private directory; if it is just about to have one, spare
        // all that is fresh.
        let oldest = store.tmp().oldest_other()?.unwrap_or_else(SystemTime::now);
        cut = cut.min(oldest.checked_sub(2 * age::GRAIN).unwrap_or(SystemTime::UNIX_EPOCH));
    }

    let mut inventory = take_stock(store)?;
    inventory.candidates.sort_by_key(|candidate| candidate.used);
    let mut total: u64 = inventory.candidates.iter().map(|candidate| candidate.bytes).sum();
    let mut counted = BTreeSet::new();
    for candidate in std::mem::take(&mut inventory.candidates) {
        if options.keep_storage.is_some_and(|keep| total <= keep) {
            break;
        }
        if candidate.used >= cut
            || (options.keep_mounts && matches!(candidate.item, Item::Mount(_)))
        {
            continue;
        }
        let parts = parts(&candidate, &inventory, &mut counted);
        if options.dry_run || remove_item(store, &candidate.item, cut, &mut inventory, &mut pruned)
        {
            total = total.saturating_sub(candidate.bytes);
            for (category, bytes) in parts {
                pruned.removed.entry(category).or_default().add(bytes);
            }
        }
    }
    store.restore_reserve();
    Ok(pruned)
}

/// Splits what an item takes by category. Each blob is counted for the first layer that has it.
fn parts(
    candidate: &Candidate,
    inventory: &Inventory,
    counted: &mut BTreeSet<Digest>,
) -> Vec<(Category, u64)> {
    match &candidate.item {
        Item::File(category, _) => vec![(*category, candidate.bytes)],
        Item::Mount(_) => vec![(Category::Mounts, candidate.bytes)],
        Item::Remote(_) => vec![(Category::Contexts, candidate.bytes)],
        Item::Layer(layer) => {
            let mut parts: Vec<(Category, u64)> =
                layer.trees.iter().map(|tree| (Category::Trees, disk_usage(tree))).collect();
            let files = layer.toc.iter().chain(&layer.steps).chain(&layer.packs);
            let mut bytes: u64 = files.map(|path| file_size(path)).sum();
            for blob in &layer.blobs {
                if counted.insert(*blob) {
                    bytes += inventory.blobs.get(blob).map_or(0, |size| size.bytes);
                }
            }
            parts.push((Category::Layers, bytes));
            parts
        }
    }
}

/// Removes an item. Says whether it is gone.
fn remove_item(
    store: &Store,
    item: &Item,
    cut: SystemTime,
    inventory: &mut Inventory,
    pruned: &mut Pruned,
) -> bool {
    let mut retire = |path: &Path| match age::retire(path, cut) {
        Ok(gone) => gone,
        Err(error) => {
            pruned.failed.push((path.to_owned(), error));
            false
        }
    };
    match item {
        Item::File(_, path) => retire(path),
        Item::Layer(layer) => {
            // What leads to the layer goes first. If one of them is in use, so is the layer.
            let records = layer.steps.iter().chain(&layer.packs).chain(&layer.toc);
            for path in records {
                if !retire(path) {
                    return false;
                }
            }
            for blob in &layer.blobs {
                let wanted = inventory.wanted.entry(*blob).or_insert(1);
                *wanted = wanted.saturating_sub(1);
                if *wanted == 0 {
                    retire(&store.blobs().path(blob));
                }
            }
            for tree in &layer.trees {
                remove_retired(pruned, tree, Trees::retire(store, tree, cut));
            }
            true
        }
        Item::Mount(instance) => {
            remove_retired(pruned, instance, mount::retire(store, instance, cut));
            !instance.exists()
        }
        Item::Remote(dir) => {
            remove_retired(pruned, dir, remote::retire(store, dir, cut));
            !dir.exists()
        }
    }
}

/// Removes a directory that was moved away, and so is gone for everybody at once; None when it is in
/// use.
fn remove_retired(pruned: &mut Pruned, dir: &Path, grave: Result<Option<PathBuf>>) {
    let removed = grave.and_then(|grave| match grave {
        Some(grave) => remove::tree(&grave).at("remove", &grave),
        None => Ok(()),
    });
    note(pruned, dir, removed);
}

fn note(pruned: &mut Pruned, path: &Path, result: Result<()>) {
    match result {
        Ok(()) => {}
        Err(super::Error::Io { path, source, .. }) => pruned.failed.push((path, source)),
        Err(error) => pruned.failed.push((path.to_owned(), io::Error::other(error))),
    }
}

/// Looks at everything in the store.
fn take_stock(store: &Store) -> Result<Inventory> {
    let marks = mark::all(store)?;
    let mut stock = Inventory::default();
    for (path, name, meta) in files(&store.path("layout/blobs/sha256"))? {
        let Some(digest) = Digest::from_hex(&name) else { continue };
        let size = Size { bytes: blocks(&meta), used: used(&meta) };
        if marks.blobs.contains_key(&digest) {
            stock.images.add(size.bytes);
        } else {
            stock.blobs.insert(digest, size);
        }
        drop(path);
    }
    let layers = layers(store, &mut stock)?;
    for (mut layer, mut newest) in layers {
        layer.blobs.retain(|blob| stock.blobs.contains_key(blob));
        let mut bytes: u64 = layer.trees.iter().map(|tree| disk_usage(tree)).sum();
        for path in layer.toc.iter().chain(&layer.steps).chain(&layer.packs) {
            bytes += file_size(path);
        }
        for blob in &layer.blobs {
            let size = stock.blobs[blob];
            newest = newest.max(size.used);
            bytes += size.bytes;
            *stock.wanted.entry(*blob).or_default() += 1;
        }
        stock.candidates.push(Candidate {
            used: newest,
            bytes,
            item: Item::Layer(Box::new(layer)),
        });
    }
    for (digest, size) in &stock.blobs {
        if !stock.wanted.contains_key(digest) {
            let item = Item::File(Category::Layers, store.blobs().path(digest));
            stock.candidates.push(Candidate { used: size.used, bytes: size.bytes, item });
        }
    }
    for (category, dir) in [(Category::Layers, "steps/at"), (Category::Contexts, "stat")] {
        for (path, _, meta) in files(&store.path(dir))? {
            let item = Item::File(category, path);
            stock.candidates.push(Candidate { used: used(&meta), bytes: blocks(&meta), item });
        }
    }
    mounts(store, &mut stock)?;
    let remotes = store.path("remotes");
    // Stores of earlier versions have none.
    for dir in if remotes.exists() { subdirs(&remotes)? } else { Vec::new() } {
        let used = remote::used(&dir).unwrap_or(SystemTime::UNIX_EPOCH);
        let bytes = disk_usage(&dir);
        stock.candidates.push(Candidate { used, bytes, item: Item::Remote(dir) });
    }
    Ok(stock)
}

/// Groups Tocs, trees and records by layer, each with its last use; steps without a layer and
/// records that cannot be read become items of their own.
fn layers(store: &Store, stock: &mut Inventory) -> Result<Vec<(Layer, SystemTime)>> {
    let mut layers: BTreeMap<LayerId, (Layer, SystemTime)> = BTreeMap::new();
    fn entry<'a>(
        layers: &'a mut BTreeMap<LayerId, (Layer, SystemTime)>,
        id: &LayerId,
        used: SystemTime,
    ) -> &'a mut Layer {
        let (layer, newest) =
            layers.entry(id.clone()).or_insert_with(|| (Layer::default(), SystemTime::UNIX_EPOCH));
        *newest = (*newest).max(used);
        layer
    }
    let alone = |path: PathBuf, meta: &fs::Metadata| Candidate {
        used: used(meta),
        bytes: blocks(meta),
        item: Item::File(Category::Layers, path),
    };
    for (path, name, meta) in files(&store.path("toc"))? {
        match LayerId::parse(&name) {
            Some(id) => entry(&mut layers, &id, used(&meta)).toc = Some(path),
            None => stock.candidates.push(alone(path, &meta)),
        }
    }
    for (path, name, meta) in files(&store.path("steps"))? {
        match store.steps().peek(&name).and_then(|step| step.layer) {
            Some(id) => entry(&mut layers, &id, used(&meta)).steps.push(path),
            None => stock.candidates.push(alone(path, &meta)),
        }
    }
    for (path, _, meta) in files(&store.path("packs"))? {
        match Packs::peek(&path) {
            Some(filed) => {
                let layer = entry(&mut layers, &filed.layer, used(&meta));
                layer.packs.push(path);
                layer.blobs.insert(filed.record.digest);
            }
            None => stock.candidates.push(alone(path, &meta)),
        }
    }
    for map in subdirs(&store.path("trees"))? {
        for tree in subdirs(&map)? {
            let name = tree.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            // Without a mark it is what a killed process left.
            let used = Trees::used(&tree).unwrap_or(SystemTime::UNIX_EPOCH);
            if let Some(id) = LayerId::parse(name) {
                entry(&mut layers, &id, used).trees.push(tree);
            }
        }
    }
    Ok(layers.into_values().collect())
}

fn mounts(store: &Store, stock: &mut Inventory) -> Result<()> {
    for identity in subdirs(&store.path("mounts"))? {
        for instance in subdirs(&identity)? {
            let used = mount::used(&instance);
            let bytes = disk_usage(&instance);
            stock.candidates.push(Candidate { used, bytes, item: Item::Mount(instance) });
        }
    }
    Ok(())
}

/// A cache mount, for reports.
#[derive(Clone, Debug)]
pub struct MountUsage {
    /// Which; None when its description cannot be read.
    pub id: Option<MountId>,
    /// Where.
    pub path: PathBuf,
    /// Bytes on disk.
    pub bytes: u64,
    /// When it was last taken.
    pub used: SystemTime,
}

/// Lists the cache mounts.
pub fn mount_usage(store: &Store) -> Result<Vec<MountUsage>> {
    let mut stock = Inventory::default();
    mounts(store, &mut stock)?;
    let mounts = stock.candidates.into_iter().filter_map(|candidate| match candidate.item {
        Item::Mount(path) => Some(MountUsage {
            id: record::peek(&path.join(mount::ABOUT)),
            path,
            bytes: candidate.bytes,
            used: candidate.used,
        }),
        _ => None,
    });
    Ok(mounts.collect())
}

/// Lists the plain files of a directory with their names. What vanishes meanwhile is left out.
pub(super) fn files(dir: &Path) -> Result<Vec<(PathBuf, String, fs::Metadata)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).at("read", dir)? {
        let entry = entry.at("read", dir)?;
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_file() {
            found.push((entry.path(), entry.file_name().to_string_lossy().into_owned(), meta));
        }
    }
    Ok(found)
}

pub(super) fn subdirs(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).at("read", dir)? {
        let entry = entry.at("read", dir)?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Gives what a directory takes on disk, as far as it can be read; symbolic links are not followed.
fn disk_usage(dir: &Path) -> u64 {
    let mut total = 0;
    let mut linked = BTreeSet::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                pending.push(entry.path());
            } else if meta.nlink() > 1 && !linked.insert((meta.dev(), meta.ino())) {
                continue;
            }
            total += blocks(&meta);
        }
    }
    total
}

fn file_size(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |meta| blocks(&meta))
}

fn blocks(meta: &fs::Metadata) -> u64 {
    meta.blocks() * 512
}

fn used(meta: &fs::Metadata) -> SystemTime {
    meta.modified().unwrap_or(SystemTime::UNIX_EPOCH)
}
