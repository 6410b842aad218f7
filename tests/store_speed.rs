//! What looking things up in the store costs. `cargo test --release --test store_speed --
//! --nocapture` prints the numbers; in a normal run it is a smoke test with loose limits.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lapstrake::layer::LayerId;
use lapstrake::oci::{DiffId, Digest};
use lapstrake::store::{PackParams, PackRecord, StepRecord, Store};

/// Gives the median time of some calls.
fn median(what: &str, mut call: impl FnMut(u64)) -> Duration {
    let mut times: Vec<Duration> = (0..500)
        .map(|number| {
            let begun = Instant::now();
            call(number);
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!("{what}: {:?}, slowest {:?}", times[250], times[499]);
    times[250]
}

#[test]
fn lookups_cost_microseconds() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = Store::open(&root).unwrap();
    let key = |number: u64| Digest::of(&number.to_le_bytes());
    let inputs: BTreeMap<String, String> =
        (0..12).map(|n| (format!("input {n}"), format!("{:?}", key(n)))).collect();
    let params = PackParams { compression: "gzip-4".into(), ..PackParams::default() };
    let (digest, size) = store.blobs().put(b"blob").unwrap();

    median("record a step", |number| {
        let layer = Some(LayerId::from_run_key(key(number)));
        let inputs = inputs.clone();
        let step = StepRecord { layer, created: 1, inputs, ..StepRecord::default() };
        store.steps().put(&key(number), &step).unwrap();
    });
    let step = median("look a step up", |number| {
        store.steps().get(&key(number)).unwrap();
    });
    median("record a pack", |number| {
        let pack = PackRecord {
            diff_id: DiffId(digest),
            digest,
            size,
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
            diff_size: 10,
            annotations: std::collections::BTreeMap::new(),
        };
        store.packs().put(&LayerId::from_run_key(key(number)), &params, &pack).unwrap();
    });
    let pack = median("look a pack up", |number| {
        store.packs().get(&LayerId::from_run_key(key(number)), &params).unwrap();
    });
    median("lock a step", |number| {
        store.locks().step(&key(number), &|| false).unwrap();
    });
    let open = median("open the store", |_| {
        Store::open(&root).unwrap();
    });
    // Loose: other tests share the machine.
    assert!(step < Duration::from_millis(2) && pack < Duration::from_millis(2));
    assert!(open < Duration::from_millis(5));
}
