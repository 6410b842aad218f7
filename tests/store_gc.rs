//! What `du`, `prune` and `fsck` see and take away.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lapstrake::layer::{Entry, Kind, LayerId, Toc};
use lapstrake::oci::{DiffId, Digest};
use lapstrake::store::{
    Category, FsckOptions, MountId, PackParams, PackRecord, PruneOptions, Sharing, StepRecord,
    Store, fsck, prune, usage,
};

const NEVER: &dyn Fn() -> bool = &|| false;
const DAY: Duration = Duration::from_secs(86_400);

fn scratch() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    (dir, store)
}

/// Makes a layer with everything that a RUN leaves: Toc, tree, blob, pack record, step record.
fn layer(store: &Store, name: &str) -> LayerId {
    let key = Digest::of(name.as_bytes());
    let id = LayerId::from_run_key(key);
    let entry = Entry {
        path: "f".into(),
        kind: Kind::File { size: 5, digest: None },
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: 0,
        xattrs: Default::default(),
    };
    store.tocs().save(&id, &Arc::new(Toc::from_iter([entry]))).unwrap();
    let staging = store.trees().staging().unwrap();
    fs::write(staging.path().join("f"), "12345").unwrap();
    store.trees().install(staging.path(), &id).unwrap();
    let (digest, size) = store.blobs().put(format!("blob of {name}").as_bytes()).unwrap();
    let pack = PackRecord {
        diff_id: DiffId(digest),
        digest,
        size,
        media_type: "application/vnd.oci.image.layer.v1.tar".into(),
        diff_size: size,
        annotations: std::collections::BTreeMap::new(),
    };
    store.packs().put(&id, &PackParams::default(), &pack).unwrap();
    let step = StepRecord { layer: Some(id.clone()), created: 0, ..StepRecord::default() };
    store.steps().put(&key, &step).unwrap();
    id
}

fn blob_of(store: &Store, id: &LayerId) -> Option<Digest> {
    store.packs().get(id, &PackParams::default()).map(|pack| pack.digest)
}

/// Writes an image that has this layer, straight into index.json.
fn image(store: &Store, layer: Digest) {
    let size = store.blobs().size(&layer).unwrap();
    let (config, config_size) = store.blobs().put(b"{\"config\":1}").unwrap();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "config": {"digest": config, "size": config_size, "mediaType": "c"},
        "layers": [{"digest": layer, "size": size, "mediaType": "l"}],
    });
    let (manifest, manifest_size) =
        store.blobs().put(&serde_json::to_vec(&manifest).unwrap()).unwrap();
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "digest": manifest, "size": manifest_size, "mediaType": "m",
            "annotations": {"org.opencontainers.image.ref.name": "app"},
        }],
    });
    let path = store.layout().join("index.json");
    fs::write(path, serde_json::to_vec(&index).unwrap()).unwrap();
}

/// Makes every file of the store look as if it was last used `age` ago.
fn age(dir: &Path, age: Duration) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            if entry.file_name() != "tmp" {
                self::age(&path, age);
            }
        } else {
            File::open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
        }
    }
}

/// Makes files that were used less than `limit` ago look as if that was `age` ago.
fn younger(dir: &Path, limit: Duration, age: Duration) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() && entry.file_name() != "tmp" {
            younger(&entry.path(), limit, age);
        } else if kind.is_file()
            && entry.metadata().unwrap().modified().unwrap() > SystemTime::now() - limit
        {
            File::open(entry.path()).unwrap().set_modified(SystemTime::now() - age).unwrap();
        }
    }
}

fn has(store: &Store, id: &LayerId) -> bool {
    // Opened anew: what is in memory does not count.
    let store = Store::open(store.root()).unwrap();
    let toc = store.tocs().load(id).unwrap().is_some();
    assert_eq!(toc, store.trees().path(id).is_some());
    assert_eq!(toc, blob_of(&store, id).is_some());
    toc
}

#[test]
fn what_images_reach_stays_whatever_its_age() {
    let (_dir, store) = scratch();
    let (kept, gone) = (layer(&store, "kept"), layer(&store, "gone"));
    let (kept, gone) = (blob_of(&store, &kept).unwrap(), blob_of(&store, &gone).unwrap());
    image(&store, kept);
    age(store.root(), 400 * DAY);
    let before = usage(&store).unwrap();
    assert_eq!(before[&Category::Images].count, 3);
    assert_eq!(before[&Category::Layers].count, 2);
    assert_eq!(before[&Category::Trees].count, 2);
    let pruned = prune(&store, &PruneOptions::default()).unwrap();
    assert!(pruned.failed.is_empty(), "{:?}", pruned.failed);
    assert!(!pruned.beside_builds);
    assert_eq!(pruned.removed[&Category::Trees].count, 2);
    assert!(store.blobs().contains(&kept));
    assert!(!store.blobs().contains(&gone));
    let after = usage(&store).unwrap();
    assert_eq!(after[&Category::Images], before[&Category::Images]);
    assert_eq!(after[&Category::Layers].count, 0);
    assert_eq!(fsck(&store, &FsckOptions::default()).unwrap(), []);
}

#[test]
fn age_and_amount_choose_the_oldest() {
    let (_dir, store) = scratch();
    let old = layer(&store, "old");
    age(store.root(), 10 * DAY);
    let middle = layer(&store, "middle");
    younger(store.root(), 9 * DAY, 5 * DAY);
    let new = layer(&store, "new");
    let dry = PruneOptions { unused_for: Some(7 * DAY), dry_run: true, ..PruneOptions::default() };
    assert_eq!(prune(&store, &dry).unwrap().removed[&Category::Layers].count, 1);
    assert_eq!(fs::read_dir(store.root().join("toc")).unwrap().count(), 3);

    let total: u64 = usage(&store).unwrap().values().map(|amount| amount.bytes).sum();
    let keep = PruneOptions { keep_storage: Some(total - 1), ..PruneOptions::default() };
    prune(&store, &keep).unwrap();
    assert!(!has(&store, &old));
    assert!(has(&store, &middle) && has(&store, &new));

    let week = PruneOptions { unused_for: Some(7 * DAY), ..PruneOptions::default() };
    prune(&store, &week).unwrap();
    assert!(store.trees().path(&middle).is_some());
    // Looking at it was a use.
    let day = PruneOptions { unused_for: Some(DAY), ..PruneOptions::default() };
    prune(&store, &day).unwrap();
    assert!(has(&store, &middle) && has(&store, &new));
}

#[test]
fn a_running_build_keeps_what_it_used() {
    let (_dir, store) = scratch();
    let (used, unused) = (layer(&store, "used"), layer(&store, "unused"));
    age(store.root(), 10 * DAY);
    // As another process would: a store of its own, with its own directory and locks.
    let builder = Store::open(store.root()).unwrap();
    let build = builder.locks().build(NEVER).unwrap();
    assert!(builder.steps().get(&Digest::of(b"used")).is_some());
    let fresh = layer(&builder, "fresh");
    let pruned = prune(&store, &PruneOptions::default()).unwrap();
    assert!(pruned.beside_builds);
    assert!(has(&store, &used) && has(&store, &fresh));
    assert!(!has(&store, &unused));
    drop(build);
    assert!(!prune(&store, &PruneOptions::default()).unwrap().beside_builds);
    assert!(!has(&store, &used) && !has(&store, &fresh));
}

#[test]
fn cache_mounts_in_use_stay() {
    let (_dir, store) = scratch();
    let id = |id: &str| MountId { id: id.into(), uid: 0, gid: 0, mode: 0o755, variant: "".into() };
    let held = store.mounts().acquire(&id("held"), Sharing::Shared, NEVER).unwrap();
    let free = store.mounts().acquire(&id("free"), Sharing::Shared, NEVER).unwrap();
    let (held_path, free_path) = (held.path().to_owned(), free.path().to_owned());
    drop(free);
    let keep = PruneOptions { keep_mounts: true, ..PruneOptions::default() };
    prune(&store, &keep).unwrap();
    assert!(free_path.exists());
    let pruned = prune(&store, &PruneOptions::default()).unwrap();
    assert_eq!(pruned.removed[&Category::Mounts].count, 1);
    assert!(held_path.exists() && !free_path.exists());
}

#[test]
fn every_flipped_bit_is_found_and_mended() {
    let (_dir, store) = scratch();
    let id = layer(&store, "layer");
    image(&store, blob_of(&store, &id).unwrap());
    assert_eq!(fsck(&store, &FsckOptions::default()).unwrap(), []);
    let mut damaged = 0;
    for dir in ["layout/blobs/sha256", "toc", "steps", "packs"] {
        for entry in fs::read_dir(store.root().join(dir)).unwrap().flatten() {
            if !entry.file_type().unwrap().is_file() {
                continue;
            }
            let mut bytes = fs::read(entry.path()).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            fs::write(entry.path(), &bytes).unwrap();
            damaged += 1;
            let found = fsck(&store, &FsckOptions::default()).unwrap();
            assert!(found.iter().any(|f| f.path == entry.path()), "{:?}: {found:?}", entry.path());
        }
    }
    assert_eq!(damaged, 6);
    let repair = FsckOptions { repair: true, ..FsckOptions::default() };
    assert!(fsck(&store, &repair).unwrap().iter().all(|finding| finding.mended));
    assert_eq!(fsck(&store, &FsckOptions::default()).unwrap(), []);
    let store = Store::open(store.root()).unwrap();
    assert_eq!(store.steps().get(&Digest::of(b"layer")), None);
}

#[test]
fn a_lost_index_and_torn_trees_are_mended() {
    let (_dir, store) = scratch();
    let id = layer(&store, "layer");
    let repair = FsckOptions { repair: true, quick: true };
    for content in [&b""[..], b"{", b"[]", b"{\"manifests\":3}"] {
        fs::write(store.layout().join("index.json"), content).unwrap();
        let error = usage(&store).unwrap_err().to_string();
        assert!(error.contains("fsck"), "{error}");
        assert_eq!(fsck(&store, &repair).unwrap().len(), 1);
        usage(&store).unwrap();
    }
    fs::write(store.layout().join("oci-layout"), "").unwrap();
    fs::write(store.trees().path(&id).unwrap().join("f"), "").unwrap();
    assert_eq!(fsck(&store, &repair).unwrap().len(), 2);
    assert_eq!(fsck(&store, &repair).unwrap(), []);
    assert_eq!(store.trees().path(&id), None);
}
