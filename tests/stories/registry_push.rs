//! What a push sends, where it puts names, and what registries of other kinds make of it.

use std::sync::Arc;

use crate::support::TestEnv;
use crate::support::fake_registry::{self, Access, FakeRegistry};
use crate::support::proxy::{Fault, Proxy};
use crate::support::tools::{Registry, RegistryOptions};

/// Builds an image of a layer that cannot be compressed under some names.
fn build(env: &TestEnv, names: &[&str]) -> String {
    let noise: Vec<u8> = (0..100_000u32)
        .flat_map(|i| fake_registry::digest(&i.to_le_bytes()).into_bytes())
        .take(300_000)
        .collect();
    env.write("noise", noise);
    env.dockerfile("FROM scratch\nCOPY noise /\n");
    let said = env.build_command(names.iter().flat_map(|name| ["-t", name])).ok().stdout;
    said.rsplit_once('@').expect("NAME@DIGEST").1.trim().to_owned()
}

#[track_caller]
fn verified(env: &TestEnv, name: &str) -> String {
    let said = env.lapstrake(["verify", &format!("docker://{name}")]).ok().stdout;
    said.split_whitespace().find(|word| word.starts_with("sha256:")).expect("a digest").to_owned()
}

story!(many_names_are_one_transfer : root user, |env| {
    let registry = FakeRegistry::start();
    registry.allow_mounts();
    let host = registry.host();
    let names: Vec<String> = ["a:1", "a:2", "b:1"].iter().map(|name| format!("{host}/{name}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let digest = build(env, &names);
    let said = env.lapstrake(["push"]).args(&names).ok();
    let want: String = names.iter().map(|name| format!("{name}@{digest}\n")).collect();
    assert_eq!(said.stdout, want);
    for name in &names {
        assert_eq!(verified(env, name), digest);
    }
    // One repository gets the bytes, the other one takes them from there. The manifest goes by its
    // digest first, and gets its names when both have all of it.
    assert_eq!(registry.count("PUT", "/v2/a/blobs/uploads/"), 2);
    assert_eq!(registry.count("PUT", "/v2/b/blobs/uploads/"), 0);
    assert_eq!(registry.count("PUT", "/v2/a/manifests/"), 3);
    assert_eq!(registry.violations(), Vec::<String>::new());
    // Again: nothing is sent.
    let before = registry.uploaded();
    env.lapstrake(["push"]).args(&names).ok();
    env.build_command(["--push", "-t", names[0], "-t", names[2]]).ok();
    assert_eq!(registry.uploaded(), before);
    // A name that is not there is told before anything is sent.
    env.lapstrake(["push", names[0], "never:1"]).fails(2).says("never:1");
    env.lapstrake(["push"]).fails(2).says("NAME");
});

story!(names_come_when_everything_is_there : root, |env| {
    let registry = FakeRegistry::start();
    let proxy = Proxy::start(&registry.host());
    let (a, b) = (format!("{}/a:1", proxy.host()), format!("{}/b:1", proxy.host()));
    build(env, &[&a, &b]);
    proxy.fail("POST", "/v2/b/", 0, 99, Fault::status(403));
    env.lapstrake(["push", &a, &b]).fails(4).says("/b is denied");
    env.build_command(["--push", "-t", &a, "-t", &b]).fails(4).says("/b is denied");
    assert!(registry.manifest("a", "1").is_none() && registry.manifest("b", "1").is_none());
    proxy.reset();
    env.lapstrake(["push", &a, &b]).ok();
    assert!(registry.manifest("a", "1").is_some() && registry.manifest("b", "1").is_some());
});

story!(a_push_by_digest_has_no_tag : root, |env| {
    let registry = FakeRegistry::start();
    let name = format!("{}/app", registry.host());
    let digest = build(env, &["app:1"]);
    let copy = |to: &str| env.lapstrake(["copy", "app:1", &format!("docker://{to}")]);
    copy(&format!("{name}@{digest}")).ok();
    assert_eq!(verified(env, &format!("{name}@{digest}")), digest);
    let put: Vec<_> = registry.seen().into_iter().filter(|seen| seen.method == "PUT" && seen.target.contains("/manifests/")).collect();
    assert!(put.iter().all(|seen| seen.target.ends_with(&digest)), "{put:?}");
    assert!(registry.manifest("app", "latest").is_none());
    // Another image than the name says does not get there.
    let other = fake_registry::digest(b"other");
    copy(&format!("{name}@{other}")).output().says("content has digest").says(&other);
    assert_eq!(registry.count("PUT", &other), 0);
});

story!(blobs_that_are_there_or_may_be_mounted : root, |env| {
    need_tool!("docker-registry");
    let registry = Registry::start(RegistryOptions::default());
    let proxy = Proxy::start(&registry.host);
    let (a, b) = (format!("{}/a:1", proxy.host()), format!("{}/b:1", proxy.host()));
    let digest = build(env, &[&a, &b]);
    env.lapstrake(["push", &a]).ok();
    let sent = proxy.uploaded();
    env.lapstrake(["push", &a]).ok();
    assert_eq!(proxy.uploaded(), sent);
    env.lapstrake(["copy", &format!("docker://{a}"), &format!("docker://{b}")]).ok();
    assert_eq!(proxy.uploaded(), sent, "blobs are mounted");
    assert_eq!(verified(env, &b), digest);
    // A registry that does not mount says 202, and one that hides the other repository 404 or 401.
    for (name, status) in [("refused", 202), ("hidden", 404), ("denied", 401)] {
        let fake = FakeRegistry::start();
        let before = Proxy::start(&fake.host());
        if status != 202 {
            before.fail("POST", "mount=", 0, 99, Fault::status(status));
        }
        let (from, to) = (format!("docker://{}/from:1", before.host()), format!("docker://{}/{name}:1", before.host()));
        env.lapstrake(["copy", &a, &from]).ok();
        env.lapstrake(["copy", &from, &to]).ok();
        assert!(!before.matching("POST", "mount=").is_empty(), "{name}");
        assert_eq!(verified(env, &format!("{}/{name}:1", fake.host())), digest, "{name}");
        assert_eq!(fake.violations(), Vec::<String>::new(), "{name}");
    }
});

story!(a_registry_that_lists_referrers : root, |env| {
    let registry = FakeRegistry::start();
    registry.list_referrers();
    registry.access(Access::Bearer(None));
    let name = format!("{}/app:1", registry.host());
    env.dockerfile("FROM base\nRUN touch /bar\n");
    env.build_command(["-t", &name, "--provenance", "--sbom", "--attach=referrers", "--push"]).ok();
    // The list is the registry's; no tag keeps it.
    let (_, image) = registry.manifest("app", "1").expect("it was pushed");
    let digest = fake_registry::digest(&image);
    assert!(registry.manifest("app", &digest.replace(':', "-")).is_none());
    // More than a page of them: signatures, as it were.
    for n in 0..4 {
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"application/x.sign","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{}","size":2}},"layers":[],"annotations":{{"n":"{n}"}},"subject":{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":{}}}}}"#,
            registry.put_blob("app", b"{}"),
            image.len()
        );
        registry.put_manifest("app", &format!("s{n}"), "application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
    }
    let to = format!("oci:{}:1", env.path("back").display());
    let said = env.lapstrake(["copy", "--referrers", &format!("docker://{name}"), &to]).ok();
    said.says("5 referrers went along");
    assert!(registry.count("GET", "/referrers/") >= 3);
    env.lapstrake(["verify", &to]).ok();
    assert_eq!(registry.violations(), Vec::<String>::new());
});

story!(progress_tells_bytes_once : root, |env| {
    let registry = Arc::new(FakeRegistry::start());
    let proxy = Proxy::start(&registry.host());
    let name = format!("{}/app:1", proxy.host());
    build(env, &[&name]);
    proxy.fail("PUT", "/uploads/", 0, 2, Fault::CutRequest(100));
    let output = env.lapstrake(["push", &name]).env("LAPSTRAKE_NETWORK", "retry-delay=5ms").ok();
    let (_, manifest) = registry.manifest("app", "1").expect("it was pushed");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
    let layer = manifest["layers"][0]["digest"].as_str().expect("a digest");
    // Bytes so far and in all, once for each blob however often it broke.
    let lines: Vec<&str> = output.stderr.lines().filter(|line| line.contains(layer)).collect();
    assert_eq!(lines.len(), 1, "{}", output.stderr);
    assert!(lines[0].contains("kB / ") && lines[0].contains("kB"), "{}", lines[0]);
    let quiet = env.lapstrake(["push", "-q", &name]).ok();
    assert_eq!(quiet.stderr, "");
});
