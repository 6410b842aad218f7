//! Documents of a registry that means ill: each is one clear error, soon, with few requests and nothing kept.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::TestEnv;
use crate::support::fake_registry::{FakeRegistry, Fault, digest};
use crate::support::image::{Tar, gzip};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("a Value is always JSON")
}

fn named(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
}

/// Stores an image of one layer, whose config says this diff id, and gives its manifest.
fn image(registry: &FakeRegistry, layer: Value, diff_id: &str) -> Value {
    let config = bytes(&json!({
        "os": "linux", "architecture": "amd64", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
    }));
    registry.put_blob("x", &config);
    json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": named(CONFIG, &config), "layers": [layer] })
}

/// Tries to pull and to build on an image; both must fail soon and say why, once.
#[track_caller]
fn refused(env: &TestEnv, registry: &FakeRegistry, tag: &str, says: &str) {
    let name = format!("{}/x:{tag}", registry.host());
    env.dockerfile(&format!("FROM {name}\nCOPY --from={name} / /all\n"));
    for run in [
        env.lapstrake(["pull", &name]),
        env.lapstrake(["copy", &format!("docker://{name}"), "oci:out"]),
        env.build_command(["-t", "built"]),
    ] {
        let (before, start) = (registry.seen().len(), Instant::now());
        let output = run.env("LAPSTRAKE_NETWORK", "retries=1,retry-delay=5ms").output();
        assert!(matches!(output.code, Some(1..=5)), "{tag}: {:?}\n{}", output.code, output.stderr);
        output.says(says).says_not("panicked");
        let errors = output.stderr.lines().filter(|line| line.starts_with("error")).count();
        assert_eq!(errors, 1, "{tag}: {}", output.stderr);
        assert!(output.stderr.len() < 10_000, "{tag}: a novel of {} bytes", output.stderr.len());
        assert!(start.elapsed() < Duration::from_secs(20), "{tag}: {:?}", start.elapsed());
        let requests = registry.seen().len() - before;
        assert!(requests < 60, "{tag}: {requests} requests");
        let kept = env.lapstrake(["images", "-q"]).ok().stdout;
        // A base whose manifest and config are good has its name, whatever its layers turn out to be.
        if output.command.contains("\"build\"") && matches!(tag, "huge" | "short" | "none" | "same")
        {
            env.lapstrake(["rmi", kept.trim()]).ok();
        } else {
            assert_eq!(kept, "", "{tag}\n{}", output.command);
        }
    }
}

story!(documents_that_are_traps : root, |env| {
    let registry = FakeRegistry::start();
    let layer = gzip(&Tar::new().file("a", "a").bytes());
    registry.put_blob("x", &layer);
    let good = image(&registry, named(LAYER, &layer), &digest(&Tar::new().file("a", "a").bytes()));
    // More than 4 MiB, said and not said.
    let mut large = bytes(&good);
    large.resize((4 << 20) + 1, b' ');
    registry.put_manifest("x", "large", MANIFEST, &large);
    refused(env, &registry, "large", "more than the");
    // More entries than anybody has, and as many as may be, of which none is there.
    let entry = |n: usize| json!({ "mediaType": MANIFEST, "digest": digest(&n.to_le_bytes()), "size": 5, "platform": { "os": "linux", "architecture": "amd64" } });
    for (tag, count, says) in [("many", 10_001, "10001 entries"), ("most", 10_000, "")] {
        let entries: Vec<Value> = (0..count).map(entry).collect();
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
        registry.put_manifest("x", tag, INDEX, &bytes(&index));
        refused(env, &registry, tag, says);
    }
    // Manifest or index: a document that could be both, one that is named as the other, and one that says neither.
    let mut both = good.clone();
    both["manifests"] = json!([named(MANIFEST, &bytes(&good))]);
    registry.put_manifest("x", "both", MANIFEST, &bytes(&both));
    refused(env, &registry, "both", "");
    registry.put_manifest("x", "named", INDEX, &bytes(&good));
    refused(env, &registry, "named", "was named as");
    let inner = bytes(&good);
    registry.put_manifest("x", "inner", MANIFEST, &inner);
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [named(INDEX, &inner)] });
    registry.put_manifest("x", "confused", INDEX, &bytes(&index));
    refused(env, &registry, "confused", "was named as");
    registry.put_manifest("x", "text", "text/html", b"<html>log in</html>");
    refused(env, &registry, "text", "");
    registry.put_manifest("x", "empty", MANIFEST, b"");
    refused(env, &registry, "empty", "");
    // What its own descriptor says of sizes.
    for (tag, size, says) in [("huge", 1u64 << 60, "expected 1152921504606846976"), ("short", 3, "expected 3"), ("none", 0, "content has digest")] {
        let mut lying = named(LAYER, &layer);
        lying["size"] = json!(size);
        let lie = image(&registry, lying, &digest(&Tar::new().file("a", "a").bytes()));
        registry.put_manifest("x", tag, MANIFEST, &bytes(&lie));
        refused(env, &registry, tag, says);
    }
    // The honest one is pulled all the same, by the store that has seen the others.
    env.lapstrake(["pull", &format!("{}/x:inner", registry.host())]).ok();
    env.lapstrake(["verify", &format!("{}/x:inner", registry.host())]).ok();
});

story!(indexes_that_never_end : root, |env| {
    let registry = FakeRegistry::start();
    // One in the other, deeper than anybody needs.
    let config = image(&registry, named(LAYER, b"none"), &digest(b"none"));
    let mut inner = (MANIFEST, bytes(&config));
    for _ in 0..20 {
        registry.put_manifest("x", "part", inner.0, &inner.1);
        let entry = named(inner.0, &inner.1);
        inner = (INDEX, bytes(&json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] })));
    }
    registry.put_manifest("x", "deep", INDEX, &inner.1);
    refused(env, &registry, "deep", "");
    // One that names itself cannot be, but a registry can say so for any digest that it is asked for.
    let other = digest(b"other");
    let own = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [{ "mediaType": INDEX, "digest": other, "size": 300 }] });
    registry.put_manifest("x", "self", INDEX, &bytes(&own));
    let answer = vec![("Content-Type".to_owned(), INDEX.to_owned())];
    let text = String::from_utf8(bytes(&own)).expect("JSON is text");
    registry.fail("GET", &other, 0, 99, Fault::Status(200, answer, text));
    refused(env, &registry, "self", "content has digest");
    // The same one ten times is read once.
    let shared = bytes(&image(&registry, named(LAYER, b"none"), &digest(b"none")));
    registry.put_manifest("x", "shared", MANIFEST, &shared);
    let entries = vec![named(MANIFEST, &shared); 1000];
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
    registry.put_manifest("x", "same", INDEX, &bytes(&index));
    refused(env, &registry, "same", "");
    assert!(registry.count("GET", &digest(&shared)) <= 12);
});

story!(urls_of_layers_are_never_asked : root, |env| {
    let (registry, trap) = (FakeRegistry::start(), FakeRegistry::start());
    let tar = Tar::new().file("a", "a").bytes();
    let layer = gzip(&tar);
    trap.put_blob("x", &layer);
    for (tag, media_type) in [
        ("plain", LAYER),
        ("foreign", "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"),
        ("docker", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
    ] {
        let mut elsewhere = named(media_type, &layer);
        elsewhere["urls"] = json!([
            format!("http://{}/v2/x/blobs/{}", trap.host(), digest(&layer)),
            "http://169.254.169.254/latest/meta-data/", "file:///etc/passwd",
        ]);
        let manifest = image(&registry, elsewhere, &digest(&tar));
        registry.put_manifest("x", tag, MANIFEST, &bytes(&manifest));
        let name = format!("{}/x:{tag}", registry.host());
        env.dockerfile(&format!("FROM base\nCOPY --from={name} /a /a\n"));
        let output = env.build_command(["-t", "built", "--platform", "linux/amd64"]).output();
        assert_ne!(output.code, Some(0), "{tag}");
        output.says_not("panicked");
        // A copy may leave out what may not be handed on, but asks nobody else for it.
        env.lapstrake(["copy", &format!("docker://{name}"), &format!("oci:{tag}")]).output().says_not("panicked");
    }
    assert_eq!(trap.seen().len(), 0);
});

story!(the_right_layer_with_a_wrong_diff_id : root, |env| {
    let registry = FakeRegistry::start();
    let layer = gzip(&Tar::new().file("a", "a").bytes());
    registry.put_blob("x", &layer);
    let manifest = image(&registry, named(LAYER, &layer), &digest(b"another tar"));
    registry.put_manifest("x", "1", MANIFEST, &bytes(&manifest));
    let name = format!("{}/x:1", registry.host());
    env.dockerfile(&format!("FROM {name}\nRUN [\"/a\"]\n"));
    let output = env.build_command(["-t", "built", "--platform", "linux/amd64"]).output();
    assert_ne!(output.code, Some(0));
    output.says(&digest(b"another tar"));
    env.lapstrake(["verify", &format!("docker://{name}")]).fails(5).says(&digest(b"another tar"));
});
