//! The store under kill -9, full disks, and many processes at once.
//!
//! Each test starts this test binary again as a worker (`LAPSTRAKE_WORKER` says what it does), since
//! only another process can be killed, limited, or have locks of its own.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lapstrake::layer::{Entry, Kind, LayerId, Toc};
use lapstrake::oci::{Descriptor, DiffId, Digest, Manifest, media_type};
use lapstrake::store::{
    Error, FsckOptions, MountId, PackParams, PackRecord, PruneOptions, Sharing, StepRecord, Store,
    fsck, prune,
};

const NEVER: &dyn Fn() -> bool = &|| false;

/// Keys that the workers build over and over.
const KEYS: u64 = 12;

/// Does what a build does for one step: looks it up, else runs it under its lock. Checks that
/// whatever is found is whole. Gives the blob.
fn build(store: &Store, number: u64) -> Result<PackRecord, Error> {
    let key = Digest::of(&number.to_le_bytes());
    let _guard = store.locks().step(&key, NEVER)?;
    let params = PackParams { compression: "none".into(), ..PackParams::default() };
    let id = LayerId::from_run_key(key);
    let found = store.steps().get(&key).and_then(|step| {
        assert_eq!(step.layer.as_ref(), Some(&id));
        let toc = store.tocs().load(&id).unwrap()?;
        let tree = store.trees().path(&id)?;
        // The pruner may run, but whoever found a layer keeps it.
        let content = fs::read(tree.join("f")).unwrap();
        assert_eq!(toc.get(b"f").unwrap().mtime, number as i64);
        assert_eq!(content, content_of(number));
        store.packs().get(&id, &params)
    });
    if let Some(pack) = found {
        let blob = store.blobs().read(&pack.digest, 1 << 20)?;
        assert_eq!(blob, content_of(number));
        return Ok(pack);
    }
    let content = content_of(number);
    let entry = Entry {
        path: "f".into(),
        kind: Kind::File { size: content.len() as u64, digest: Some(Digest::of(&content)) },
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: number as i64,
        xattrs: Default::default(),
    };
    let staging = store.trees().staging()?;
    write(&staging.path().join("f"), &content)?;
    store.tocs().save(&id, &Arc::new(Toc::from_iter([entry])))?;
    store.trees().install(staging.path(), &id)?;
    let mut writer = store.blobs().writer()?;
    for piece in content.chunks(1000) {
        writer.write_all(piece).map_err(|source| io_error(writer.path(), source))?;
    }
    let (digest, size) = writer.commit(None)?;
    let pack = PackRecord {
        diff_id: DiffId(digest),
        digest,
        size,
        media_type: media_type::OCI_LAYER.into(),
        diff_size: size,
        annotations: std::collections::BTreeMap::new(),
    };
    store.packs().put(&id, &params, &pack)?;
    let step = StepRecord { layer: Some(id), created: 1, ..StepRecord::default() };
    store.steps().put(&key, &step)?;
    Ok(pack)
}

fn content_of(number: u64) -> Vec<u8> {
    number.to_string().into_bytes().repeat(5000)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    fs::write(path, bytes).map_err(|source| io_error(path, source))
}

fn io_error(path: &Path, source: io::Error) -> Error {
    Error::Io { action: "write", path: path.to_owned(), source }
}

/// Builds an image of two layers, and names it.
fn image(store: &Store, name: &str, layers: [u64; 2]) -> Result<(), Error> {
    let mut descriptors = Vec::new();
    for number in layers {
        let pack = build(store, number)?;
        descriptors.push(Descriptor::new(pack.media_type, pack.digest, pack.size));
    }
    let (config, size) = store.blobs().put(format!("{{\"n\":{}}}", layers[0]).as_bytes())?;
    let config = Descriptor::new(media_type::OCI_CONFIG, config, size);
    let (descriptor, bytes) = Manifest::new(config, descriptors).encode();
    store.blobs().put(&bytes)?;
    store.images().set(&[(name.to_owned(), descriptor)])
}

fn mount(id: &str) -> MountId {
    MountId { id: id.into(), uid: 0, gid: 0, mode: 0o755, variant: String::new() }
}

/// What a worker does; `seed` tells workers apart.
fn work(root: &Path, task: &str, seed: u64) -> Result<(), Error> {
    match task {
        // Until killed.
        "forever" => {
            for round in 0.. {
                one_build(root, seed.wrapping_add(round), "app")?;
            }
            Ok(())
        }
        "some" => (0..15).try_for_each(|round| one_build(root, seed + round, "app")),
        "old" => (0..15).try_for_each(|round| {
            {
                let _beside = gate(root, Gate::Beside);
                one_build(root, seed + round, &format!("w{seed}"))?;
            }
            // Makes the pruner want it.
            let _alone = gate(root, Gate::Alone);
            age(root);
            Ok(())
        }),
        "prune" => {
            for _ in 0..25 {
                let _beside = gate(root, Gate::Beside);
                let store = Store::open(root)?;
                let pruned = prune(&store, &PruneOptions::default())?;
                assert!(pruned.failed.is_empty(), "{:?}", pruned.failed);
            }
            Ok(())
        }
        "full" => full(root),
        other => panic!("no task {other}"),
    }
}

fn one_build(root: &Path, seed: u64, name: &str) -> Result<(), Error> {
    let store = Store::open(root)?;
    let _build = store.locks().build(NEVER)?;
    let mut cache = store.mounts().acquire(&mount("cache"), Sharing::Shared, NEVER)?;
    if cache.is_new() {
        write(&cache.path().join("seed"), b"x")?;
        cache.set_ready()?;
    }
    let layers = [seed % KEYS, (seed * 7 + 3) % KEYS];
    image(&store, &format!("docker.io/library/{name}:{}", seed % 3), layers)
}

/// Builds and prunes run beside each other; time is turned back only between them, as it never is
/// while they work: a pruner relies on what was used during its work being fresh.
enum Gate {
    Beside,
    Alone,
}

/// Passes the gate of the workers of one store, until the file is dropped.
fn gate(root: &Path, who: Gate) -> File {
    let lock = |name: &str| {
        let path = root.with_file_name(name);
        File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
    };
    // Whoever wants to be alone holds the turnstile while it waits, so that it is not starved.
    let turnstile = lock("turnstile");
    turnstile.lock().unwrap();
    let gate = lock("gate");
    match who {
        Gate::Beside => gate.lock_shared().unwrap(),
        Gate::Alone => gate.lock().unwrap(),
    }
    gate
}

/// Makes everything look as if it was last used ten days ago.
fn age(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && entry.file_name() != "tmp" {
            age(&entry.path());
        } else if kind.is_file()
            && let Ok(file) = File::open(entry.path())
        {
            let then = SystemTime::now() - Duration::from_secs(864_000);
            let _ = file.set_modified(then);
        }
    }
}

/// Fills a small file system, and checks that every failure leaves the store as it was.
fn full(root: &Path) -> Result<(), Error> {
    let mut failures = 0;
    let store = Store::open(root)?;
    for number in 1000..3000 {
        let result = image(&store, &format!("docker.io/library/full:{number}"), [number, number]);
        match result {
            Ok(()) => {}
            Err(error) if error.is_full() => {
                failures += 1;
                let tmp = store.tmp().path()?;
                assert_eq!(fs::read_dir(tmp).unwrap().count(), 0, "something half-written stayed");
            }
            Err(error) => return Err(error),
        }
        if failures == 20 {
            break;
        }
    }
    assert_eq!(failures, 20, "the disk never got full");
    assert_eq!(fsck(&store, &FsckOptions::default())?, []);
    // As a new process would find it. Room again: what failed succeeds.
    drop(store);
    let store = Store::open(root)?;
    for (name, _) in store.images().list()? {
        store.images().remove(&name)?;
    }
    prune(&store, &PruneOptions::default())?;
    image(&store, "docker.io/library/again:1", [5000, 5001])?;
    assert_eq!(fsck(&store, &FsckOptions::default())?, []);
    Ok(())
}

/// The worker: does nothing in a normal run of the tests.
#[test]
fn worker() {
    let Some(task) = std::env::var_os("LAPSTRAKE_WORKER") else { return };
    let task = task.into_string().unwrap();
    let root = PathBuf::from(std::env::var_os("LAPSTRAKE_WORKER_ROOT").unwrap());
    let seed: u64 = std::env::var("LAPSTRAKE_WORKER_SEED").unwrap().parse().unwrap();
    work(&root, &task, seed).unwrap();
}

fn command(root: &Path, task: &str, seed: u64) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "worker", "--nocapture", "--test-threads=1"])
        .env("LAPSTRAKE_WORKER", task)
        .env("LAPSTRAKE_WORKER_ROOT", root)
        .env("LAPSTRAKE_WORKER_SEED", seed.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

fn join(child: Child) {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_kill_at_any_moment_leaves_a_usable_store() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    for round in 0..40u64 {
        let mut victim = command(&root, "forever", round * 31).spawn().unwrap();
        // Anywhere from before the store exists to many builds later.
        std::thread::sleep(Duration::from_millis(round * round % 47));
        victim.kill().unwrap();
        victim.wait().unwrap();

        let store = Store::open(&root).unwrap();
        let left: Vec<_> = fs::read_dir(root.join("tmp")).unwrap().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
        let findings = fsck(&store, &FsckOptions::default()).unwrap();
        // A tree that was renamed and not marked yet is absent, and replaced by the next install.
        let serious: Vec<_> =
            findings.iter().filter(|finding| finding.problem != "is not complete").collect();
        assert!(serious.is_empty(), "{serious:?}");
        for number in 0..KEYS {
            let key = Digest::of(&number.to_le_bytes());
            assert!(store.locks().try_step(&key).unwrap().is_some(), "a lock outlived its process");
        }
        drop(store);
        one_build(&root, round, "after").unwrap();
    }
    let store = Store::open(&root).unwrap();
    assert_eq!(fsck(&store, &FsckOptions::default()).unwrap(), []);
}

#[test]
fn many_processes_share_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    // All start at once, and the store is not there yet.
    let children: Vec<Child> =
        (0..6).map(|seed| command(&root, "some", seed * 5).spawn().unwrap()).collect();
    children.into_iter().for_each(join);
    let store = Store::open(&root).unwrap();
    assert_eq!(store.images().list().unwrap().len(), 3);
    assert_eq!(fsck(&store, &FsckOptions::default()).unwrap(), []);
}

#[test]
fn pruning_beside_builds_takes_nothing_that_they_use() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let mut children: Vec<Child> =
        (0..3).map(|seed| command(&root, "old", seed).spawn().unwrap()).collect();
    children.extend((0..2).map(|_| command(&root, "prune", 0).spawn().unwrap()));
    children.into_iter().for_each(join);
    let store = Store::open(&root).unwrap();
    assert_eq!(store.images().list().unwrap().len(), 9);
    assert_eq!(fsck(&store, &FsckOptions::default()).unwrap(), []);
}

#[test]
fn a_full_disk_is_an_error_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("small");
    fs::create_dir(&place).unwrap();
    for options in ["size=3m", "size=64m,nr_inodes=400"] {
        // A mount namespace of its own, so that the mount goes with the worker. As root, or as root
        // of a new user namespace.
        let run = |flags: &str| {
            let exe = std::env::current_exe().unwrap();
            let script = format!(
                "mount -t tmpfs -o {options} small '{0}' || exit 77; \
                 exec '{1}' --exact worker --nocapture --test-threads=1",
                place.display(),
                exe.display()
            );
            Command::new("unshare")
                .args([flags, "sh", "-c", &script])
                .env("LAPSTRAKE_WORKER", "full")
                .env("LAPSTRAKE_WORKER_ROOT", place.join("store"))
                .env("LAPSTRAKE_WORKER_SEED", "0")
                .output()
        };
        let mut output = None;
        for flags in ["-m", "-rm"] {
            match run(flags) {
                Ok(done) if done.status.code() == Some(101) || done.status.success() => {
                    output = Some(done);
                    break;
                }
                _ => {}
            }
        }
        let Some(output) = output else {
            eprintln!("SKIP no mount namespace to mount a small tmpfs in");
            return;
        };
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{options}: {said}");
    }
}
