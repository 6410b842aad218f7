//! Everything that can go wrong between lapstrake and a registry, by a proxy that breaks what passes.
//!
//! A fault that passes ends in success, and the proxy's record says that what was there already did not come twice;
//! one that stays ends in one clear error, without a tag and with a store that works. Behind the proxy are
//! docker-registry and a strict registry of ours. What single answers do to the client is tried in `registry`'s own
//! tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::fake_registry::{self, Access, FakeRegistry};
use crate::support::image::{Made, Tar, Writer};
use crate::support::proxy::{Fault, Proxy};
use crate::support::tools::{Registry, RegistryOptions};
use crate::support::{Output, Run, TestEnv};

/// Retries at once; nothing here is to be slow.
const QUICK: &str = "retry-delay=5ms,max-retry-after=1s,chunk-size=256k";
/// For what is slow on purpose.
const HASTY: &str = "retry-delay=5ms,chunk-size=256k,stall-timeout=500ms,answer-timeout=2s";
/// The size of the layer, before it is compressed: it hardly gets smaller.
const LAYER: usize = 1 << 20;

/// Bytes that cannot be compressed.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out
}

/// An image of one large layer, as the layout `image`.
pub(crate) struct Image {
    pub(crate) digest: String,
    pub(crate) layer: String,
    /// Of the layer.
    size: u64,
}

/// What else is sent or comes: the config.
const SLACK: u64 = 4 << 10;
/// The size of a chunk in [`QUICK`].
const CHUNK: u64 = 256 << 10;

pub(crate) fn make_image(env: &TestEnv, length: usize) -> Image {
    let layer = Tar::new().file("noise", noise(length, 7)).bytes();
    let dir = env.mkdir("image");
    let writer = Writer::new(&dir);
    let descriptor = writer.image(&Made::new("linux/amd64", serde_json::json!({}), vec![layer]));
    let digest = descriptor["digest"].as_str().expect("a descriptor").to_owned();
    writer.finish(descriptor, Some("1"));
    env.hand_over("image");
    let blob = std::fs::read(dir.join("blobs/sha256").join(&digest[7..])).expect("it was made");
    let manifest: serde_json::Value = serde_json::from_slice(&blob).expect("JSON");
    let layer = &manifest["layers"][0];
    let size = layer["size"].as_u64().expect("a size");
    Image { digest, layer: layer["digest"].as_str().expect("a digest").to_owned(), size }
}

fn quick(run: Run) -> Run {
    run.env("LAPSTRAKE_NETWORK", QUICK)
}

/// Copies the image to a repository.
fn send(env: &TestEnv, host: &str, repository: &str) -> Run {
    let to = format!("docker://{host}/{repository}:1");
    quick(env.lapstrake(["copy", "oci:image:1", &to]))
}

/// Reads an image of a registry whole; gives its digest.
#[track_caller]
pub(crate) fn verified(env: &TestEnv, name: &str) -> String {
    let said = env.lapstrake(["verify", &format!("docker://{name}")]).ok().stdout;
    let digest = said.split_whitespace().find(|word| word.starts_with("sha256:"));
    digest.unwrap_or_else(|| panic!("no digest in {said}")).to_owned()
}

/// One error, told once, and no traceback.
#[track_caller]
pub(crate) fn one_error(output: &Output) {
    let errors = output.stderr.lines().filter(|line| line.starts_with("error")).count();
    assert_eq!(errors, 1, "{}\n{}", output.command, output.stderr);
    output.says_not("panicked");
}

/// Faults that pass, of the requests that bring a layer.
fn passing_push_faults() -> Vec<(&'static str, &'static str, Fault)> {
    let after = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    vec![
        ("put-cut", "PUT", Fault::CutRequest(400_000)),
        ("put-cut-at-once", "PUT", Fault::CutRequest(0)),
        ("put-reset", "PUT", Fault::ResetRequest(400_000)),
        ("put-half-closed", "PUT", Fault::HalfCloseRequest(400_000)),
        ("put-unanswered", "PUT", Fault::LoseAnswer),
        ("put-401", "PUT", Fault::StatusAfter(400_000, 401, Vec::new())),
        ("put-500", "PUT", Fault::StatusAfter(400_000, 500, Vec::new())),
        ("put-502", "PUT", Fault::status(502)),
        ("put-503", "PUT", Fault::Status(503, after("Retry-After", "0"))),
        ("put-429", "PUT", Fault::Status(429, after("Retry-After", "0"))),
        ("put-413", "PUT", Fault::status(413)),
        ("put-404", "PUT", Fault::status(404)),
        ("post-reset", "POST", Fault::ResetRequest(0)),
        ("post-unanswered", "POST", Fault::LoseAnswer),
        ("post-500", "POST", Fault::status(500)),
        ("head-503", "HEAD", Fault::status(503)),
        ("head-reset", "HEAD", Fault::ResetResponse(0)),
    ]
}

/// What tells requests about the layer from those about the config.
fn path_of<'a>(method: &str, image: &'a Image) -> &'a str {
    match method {
        "POST" => "/blobs/uploads/",
        _ => &image.layer,
    }
}

story!(pushes_get_through_and_nothing_goes_twice : root, |env| {
    let registry = FakeRegistry::start();
    let proxy = Proxy::start(&registry.host());
    let image = make_image(env, LAYER);
    for (name, method, fault) in passing_push_faults() {
        proxy.reset();
        let before = registry.uploaded();
        proxy.fail(method, path_of(method, &image), 0, 1, fault);
        send(env, &proxy.host(), name).ok();
        assert_eq!(verified(env, &format!("{}/{name}:1", registry.host())), image.digest, "{name}");
        // What the registry got of the layer and the config, all attempts together: each byte once.
        let got = (registry.uploaded() - before) as u64;
        assert!(got <= image.size + SLACK, "{name}: {got} bytes were sent");
        assert_eq!(registry.violations(), Vec::<String>::new(), "{name}");
        // A session that stands is gone on with.
        if matches!(name, "put-cut" | "put-reset" | "put-401" | "put-500") {
            assert!(!proxy.matching("PATCH", "/uploads/").is_empty(), "{name}");
            // What a broken request had on its way comes on top, where the proxy read it in vain.
            assert!(proxy.uploaded() <= 2 * image.size, "{name}: {}", proxy.uploaded());
        }
    }
});

story!(chunks_get_through_too : root, |env| {
    let registry = FakeRegistry::start();
    registry.chunk_minimum(128 << 10);
    let proxy = Proxy::start(&registry.host());
    let image = make_image(env, LAYER);
    for (name, fault) in [
        ("cut", Fault::CutRequest(100_000)),
        ("reset", Fault::ResetRequest(100_000)),
        ("half-closed", Fault::HalfCloseRequest(200_000)),
        ("unanswered", Fault::LoseAnswer),
        ("401", Fault::StatusAfter(100_000, 401, Vec::new())),
        ("502", Fault::status(502)),
    ] {
        proxy.reset();
        let before = registry.uploaded();
        proxy.fail("PUT", &image.layer, 0, 1, Fault::CutRequest(300_000));
        proxy.fail("PATCH", "/uploads/", 1, 1, fault);
        send(env, &proxy.host(), name).ok();
        assert_eq!(verified(env, &format!("{}/{name}:1", registry.host())), image.digest, "{name}");
        let got = (registry.uploaded() - before) as u64;
        // A chunk whose answer was lost or that was refused is sent again.
        assert!(got <= image.size + SLACK, "{name}: {got}");
        assert_eq!(registry.violations(), Vec::<String>::new(), "{name}");
    }
    // The session ends between two chunks: the layer begins anew.
    proxy.reset();
    let fake = Arc::new(registry);
    let ending = Arc::clone(&fake);
    proxy.fail("PUT", &image.layer, 0, 1, Fault::CutRequest(300_000));
    proxy.fail("PATCH", "/uploads/", 1, 1, Fault::Before(Arc::new(move || ending.expire_uploads())));
    send(env, &proxy.host(), "expired").ok();
    assert_eq!(verified(env, &format!("{}/expired:1", fake.host())), image.digest);
});

story!(docker_registry_behind_a_bad_line : root, |env| {
    need_tool!("docker-registry");
    let registry = Registry::start(RegistryOptions::default());
    let proxy = Proxy::start(&registry.host);
    let image = make_image(env, LAYER);
    for (name, method, fault) in passing_push_faults() {
        // What does not reach the registry is the same for all.
        if matches!(name, "put-503" | "put-429" | "put-404" | "head-503" | "head-reset" | "post-500") {
            continue;
        }
        proxy.reset();
        proxy.fail(method, path_of(method, &image), 0, 1, fault);
        send(env, &proxy.host(), name).ok();
        assert_eq!(verified(env, &format!("{}/{name}:1", registry.host)), image.digest, "{name}");
    }
    // A proxy with a limit, as nginx has one.
    proxy.reset();
    proxy.largest(500_000);
    send(env, &proxy.host(), "limited").ok();
    assert_eq!(verified(env, &format!("{}/limited:1", registry.host)), image.digest);
    assert!(proxy.matching("PATCH", "/uploads/").len() >= 4);
    // The refused request cost no transfer.
    assert!(proxy.uploaded() <= image.size + SLACK, "{}", proxy.uploaded());
    // A chunk that is refused before the registry hears of it costs nothing but itself.
    proxy.reset();
    proxy.largest(500_000);
    proxy.fail("PATCH", "/uploads/", 3, 1, Fault::status(502));
    proxy.fail("PATCH", "/uploads/", 5, 1, Fault::Status(401, Vec::new()));
    send(env, &proxy.host(), "chunks").ok();
    assert_eq!(verified(env, &format!("{}/chunks:1", registry.host)), image.digest);
    assert_eq!(proxy.matching("POST", "/uploads/").len(), 2);
    assert!(proxy.uploaded() <= image.size + 2 * CHUNK + SLACK, "{}", proxy.uploaded());
});

story!(a_push_that_cannot_work_is_one_error : root, |env| {
    let registry = FakeRegistry::start();
    let proxy = Proxy::start(&registry.host());
    let image = make_image(env, 200_000);
    let wrong = fake_registry::digest(b"other");
    let stated = || Fault::Header("Docker-Content-Digest".to_owned(), wrong.clone());
    let elsewhere = FakeRegistry::start();
    let redirect = format!("http://{}/v2/x/blobs/uploads/1", elsewhere.host());
    let ages = || vec![("Retry-After".to_owned(), "3600".to_owned())];
    for (name, method, path, fault, code, says) in [
        ("cut", "PUT", "/uploads/", Fault::CutRequest(10), 4, "cannot P"),
        ("reset", "PUT", "/uploads/", Fault::ResetRequest(10), 4, "cannot P"),
        ("500", "PUT", "/uploads/", Fault::status(500), 4, ": 500"),
        ("403", "PUT", "/uploads/", Fault::status(403), 4, "is denied"),
        ("401", "PUT", "/uploads/", Fault::status(401), 4, "is denied"),
        ("404", "PUT", "/uploads/", Fault::status(404), 4, ": 404"),
        ("413", "PUT", "/uploads/", Fault::status(413), 4, "refused as too large (413)"),
        ("429", "PUT", "/uploads/", Fault::Status(429, ages()), 4, "asks to wait 3600 s"),
        ("post", "POST", "/uploads/", Fault::status(502), 4, ": 502"),
        ("redirect", "PUT", "/uploads/", Fault::redirect(&redirect), 4, "only downloads may be redirected"),
        ("blob-lie", "PUT", "/uploads/", stated(), 5, "content has digest"),
        ("manifest-lie", "PUT", "/manifests/", stated(), 5, "content has digest"),
        ("manifest-500", "PUT", "/manifests/", Fault::status(500), 4, ": 500"),
        ("manifest-cut", "PUT", "/manifests/", Fault::CutRequest(5), 4, "cannot PUT"),
        ("head-403", "HEAD", "/blobs/", Fault::status(403), 4, "is denied"),
    ] {
        proxy.reset();
        proxy.fail(method, path, 0, 99, fault.clone());
        if method == "PUT" {
            proxy.fail("PATCH", path, 0, 99, fault);
        }
        let output = send(env, &proxy.host(), name).output();
        assert_eq!(output.code, Some(code), "{name}\n{}", output.stderr);
        output.says(says).says(&proxy.host());
        one_error(&output);
        // A registry that lies about the digest of a manifest has stored it; the others have no tag.
        if name != "manifest-lie" {
            assert!(registry.manifest(name, "1").is_none(), "{name}");
        }
        let requests = proxy.passed().len();
        assert!(requests <= 40, "{name}: {requests} requests");
        proxy.reset();
        send(env, &proxy.host(), name).ok();
        assert_eq!(verified(env, &format!("{}/{name}:1", registry.host())), image.digest, "{name}");
    }
    assert_eq!(elsewhere.seen().len(), 0);
});

story!(slow_lines_are_given_up_and_tried_again : root, |env| {
    let registry = FakeRegistry::start();
    let proxy = Proxy::narrow(&registry.host());
    // More than the kernel keeps for a reader that does not read.
    let image = make_image(env, 8 << 20);
    let pause = Duration::from_millis(200);
    proxy.fail("PUT", &image.layer, 0, 1, Fault::SlowRequest(pause));
    let to = format!("docker://{}/slow:1", proxy.host());
    env.lapstrake(["copy", "oci:image:1", &to]).env("LAPSTRAKE_NETWORK", HASTY).ok();
    assert_eq!(verified(env, &format!("{}/slow:1", registry.host())), image.digest);
    // And the other way.
    proxy.reset();
    proxy.fail("GET", &image.layer, 0, 1, Fault::SlowResponse(pause));
    env.lapstrake(["copy", &to, "oci:back:1"]).env("LAPSTRAKE_NETWORK", HASTY).ok();
    env.lapstrake(["verify", "oci:back:1"]).ok();
    // Who is always slow is told as such.
    proxy.fail("GET", "/blobs/", 0, 99, Fault::SlowResponse(pause));
    let hasty = format!("{HASTY},retries=1");
    let output = env.lapstrake(["pull", &to]).env("LAPSTRAKE_NETWORK", hasty).output();
    assert_eq!(output.code, Some(4), "{}", output.stderr);
    one_error(&output);
});

story!(pulls_get_through_and_nothing_comes_twice : root, |env| {
    let registry = FakeRegistry::start();
    let proxy = Proxy::start(&registry.host());
    let image = make_image(env, LAYER);
    send(env, &registry.host(), "app").ok();
    let name = format!("{}/app:1", proxy.host());
    let header = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    for (case, path, fault) in [
        ("cut", image.layer.as_str(), Fault::CutResponse(1000)),
        ("reset", image.layer.as_str(), Fault::ResetResponse(1000)),
        ("half-closed", image.layer.as_str(), Fault::HalfCloseResponse(400_000)),
        ("unanswered", image.layer.as_str(), Fault::LoseAnswer),
        ("401", image.layer.as_str(), Fault::Status(401, header("WWW-Authenticate", "Basic realm=\"x\""))),
        ("429", image.layer.as_str(), Fault::Status(429, header("Retry-After", "1"))),
        ("500", image.layer.as_str(), Fault::status(500)),
        ("502", image.layer.as_str(), Fault::status(502)),
        ("503", image.layer.as_str(), Fault::Status(503, header("Retry-After", "0"))),
        ("408", image.layer.as_str(), Fault::status(408)),
        ("manifest-cut", "/manifests/", Fault::CutResponse(50)),
        ("manifest-reset", "/manifests/", Fault::ResetResponse(50)),
        ("manifest-500", "/manifests/", Fault::status(500)),
    ] {
        proxy.reset();
        proxy.fail("GET", path, 0, if case == "429" { 1 } else { 2 }, fault);
        let pull = || quick(env.lapstrake(["pull", &name])).env("LAPSTRAKE_ROOT", env.path(case));
        if case == "401" {
            // Nobody has a password here, so a challenge is the end.
            one_error(&pull().fails(4));
            continue;
        }
        let pulled = pull().ok();
        assert!(pulled.stdout.contains(&image.digest), "{case}: {}", pulled.stdout);
        env.lapstrake(["verify", &name]).env("LAPSTRAKE_ROOT", env.path(case)).ok();
        assert!(proxy.downloaded() <= image.size + SLACK, "{case}: {}", proxy.downloaded());
        if matches!(case, "cut" | "half-closed") {
            let ranges = proxy.matching("GET", "/blobs/");
            assert!(ranges.iter().any(|one| one.headers.contains_key("range")), "{case}");
        }
    }
});

story!(lies_are_found_and_leave_nothing : root, |env| {
    let registry = FakeRegistry::start();
    let proxy = Proxy::start(&registry.host());
    let image = make_image(env, 200_000);
    send(env, &registry.host(), "app").ok();
    let (name, wrong) = (format!("{}/app:1", proxy.host()), fake_registry::digest(b"other"));
    let header = |name: &str, value: &str| Fault::Header(name.to_owned(), value.to_owned());
    for (case, method, path, fault, says) in [
        ("blob", "GET", "/blobs/", Fault::Corrupt, "content has digest"),
        ("manifest", "GET", "/manifests/", Fault::Corrupt, "content has digest"),
        ("stated", "GET", "/manifests/", header("Docker-Content-Digest", &wrong), "content has digest"),
        ("longer", "GET", "/blobs/", header("Content-Length", "999999"), "expected"),
        ("encoded", "GET", "/blobs/", header("Content-Encoding", "gzip"), ""),
        ("encoded-manifest", "GET", "/manifests/", header("Content-Encoding", "gzip"), ""),
        ("media-type", "GET", "/manifests/", header("Content-Type", "application/vnd.oci.image.index.v1+json"), "was named as"),
        ("page", "GET", "/manifests/", Fault::Answer(200, Vec::new(), b"<html>log in</html>".to_vec()), ""),
    ] {
        proxy.reset();
        proxy.fail(method, path, 0, 99, fault);
        let run = |args: &[&str]| quick(env.lapstrake(args)).env("LAPSTRAKE_ROOT", env.path(case));
        let output = run(&["pull", &name]).output();
        // A header that lies about an encoding which nobody asked for may be ignored: the digest decides.
        if output.code == Some(0) {
            assert!(case.starts_with("encoded"), "{case} went through");
            run(&["verify", &name]).ok();
        } else {
            assert!(matches!(output.code, Some(4 | 5)), "{case}: {:?}\n{}", output.code, output.stderr);
            output.says(says);
            one_error(&output);
            assert_eq!(run(&["images", "-q"]).ok().stdout, "", "{case}");
        }
        proxy.reset();
        assert!(run(&["pull", &name]).ok().stdout.contains(&image.digest), "{case}");
        run(&["verify", &name]).ok();
    }
    // What HEAD says counts for nothing that is used: a tag is what GET gives.
    proxy.reset();
    proxy.fail("HEAD", "/manifests/", 0, 99, header("Docker-Content-Digest", &wrong));
    env.dockerfile(&format!("FROM {name}\nENV a=b\n"));
    let image = |policy: &str| quick(env.build_command(["-t", "x", policy])).output();
    assert_eq!(image("--pull=missing").code, Some(0));
    let newer = image("--pull=newer");
    assert!(newer.code == Some(0) || newer.code == Some(4), "{}", newer.stderr);
});

story!(credentials_stay_where_they_belong : root, |env| {
    let registry = FakeRegistry::start();
    let elsewhere = FakeRegistry::start();
    let proxy = Proxy::start(&registry.host());
    let image = make_image(env, LAYER);
    send(env, &registry.host(), "app").ok();
    send(env, &elsewhere.host(), "app").ok();
    let before = elsewhere.seen().len();
    registry.access(Access::Basic("alice".into(), "secret".into()));
    // base64 of alice:secret
    let auths = format!(r#"{{"auths":{{"{}":{{"auth":"YWxpY2U6c2VjcmV0"}}}}}}"#, proxy.host());
    env.write_at("home/.docker/config.json", auths);
    let name = format!("{}/app:1", proxy.host());
    for blob in proxy_blobs(&registry) {
        let to = format!("http://{}/v2/app/blobs/{blob}?signature=x", elsewhere.host());
        proxy.fail("GET", &blob, 1, 9, Fault::redirect(&to));
        proxy.fail("GET", &blob, 0, 1, Fault::redirect(&to));
    }
    assert!(quick(env.lapstrake(["pull", &name])).ok().stdout.contains(&image.digest));
    env.lapstrake(["verify", &name]).ok();
    let redirected = &elsewhere.seen()[before..];
    assert!(redirected.len() >= 2, "{redirected:?}");
    assert!(redirected.iter().all(|seen| !seen.headers.contains_key("authorization")));
    // The open registry would count credentials as a violation.
    assert_eq!(elsewhere.violations(), Vec::<String>::new());
    // They were sent where they belong.
    assert!(proxy.matching("GET", "/manifests/").iter().any(|one| one.headers.contains_key("authorization")));
});

/// The blobs of repository `app`.
fn proxy_blobs(registry: &FakeRegistry) -> Vec<String> {
    let (_, manifest) = registry.manifest("app", "1").expect("it was pushed");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
    let layers = manifest["layers"].as_array().expect("layers").iter();
    let all = layers.chain([&manifest["config"]]);
    all.map(|one| one["digest"].as_str().expect("a digest").to_owned()).collect()
}

story!(a_token_server_elsewhere_gets_what_is_its_own : root, |env| {
    let registry = FakeRegistry::start();
    registry.access(Access::Bearer(Some(("alice".into(), "secret".into()))));
    let registry = Arc::new(registry);
    // The realm in the challenge is the registry's own address, so to clients of the proxy it is another host.
    let proxy = Proxy::start(&registry.host());
    let image = make_image(env, LAYER);
    let auths = format!(r#"{{"auths":{{"{}":{{"auth":"YWxpY2U6c2VjcmV0"}}}}}}"#, proxy.host());
    env.write_at("home/.docker/config.json", auths);
    // Its token ends in the middle of the layer, of the upload and of the download.
    let ending = Arc::clone(&registry);
    let end = Fault::Before(Arc::new(move || ending.expire_tokens()));
    proxy.fail("PUT", &image.layer, 0, 1, Fault::CutRequest(400_000));
    proxy.fail("PATCH", "/uploads/", 2, 1, end.clone());
    send(env, &proxy.host(), "app").ok();
    assert!(proxy.matching("PATCH", "/uploads/").iter().any(|one| one.status == 401));
    assert!(proxy.uploaded() <= image.size + 2 * CHUNK + SLACK, "{}", proxy.uploaded());
    assert_eq!(proxy.matching("GET", "/token").len(), 0);
    assert!(registry.count("GET", "/token") >= 2);
    proxy.reset();
    proxy.fail("GET", &image.layer, 0, 1, Fault::CutResponse(400_000));
    proxy.fail("GET", &image.layer, 1, 1, end);
    let name = format!("{}/app:1", proxy.host());
    assert!(quick(env.lapstrake(["pull", &name])).ok().stdout.contains(&image.digest));
    env.lapstrake(["verify", &name]).ok();
    assert!(proxy.downloaded() <= image.size + SLACK, "{}", proxy.downloaded());
    assert_eq!(registry.violations(), Vec::<String>::new());
});

story!(build_push_over_a_bad_line : root, |env| {
    let registry = FakeRegistry::start();
    let proxy = Proxy::start(&registry.host());
    let layer = noise(LAYER, 3);
    env.write("noise", &layer);
    env.dockerfile("FROM scratch\nCOPY noise /\n");
    let name = |tag: &str| format!("{}/app:{tag}", proxy.host());
    proxy.fail("PUT", "/uploads/", 0, 1, Fault::ResetRequest(500_000));
    proxy.fail("POST", "/uploads/", 0, 1, Fault::status(503));
    proxy.fail("PUT", "/manifests/", 0, 1, Fault::LoseAnswer);
    let first = quick(env.build_command(["--push", "-t", &name("1"), "-t", &name("2")])).ok();
    let digest = verified(env, &format!("{}/app:1", registry.host()));
    assert!(first.stdout.contains(&digest), "{}", first.stdout);
    assert_eq!(verified(env, &format!("{}/app:2", registry.host())), digest);
    assert!(registry.uploaded() <= LAYER + LAYER / 16, "{}", registry.uploaded());
    // One that cannot work tags nothing, and the image is not lost.
    env.dockerfile("FROM scratch\nCOPY noise /\nENV a=b\n");
    proxy.fail("PUT", "/manifests/", 0, 99, Fault::status(500));
    let failed = quick(env.build_command(["--push", "-t", &name("3")])).fails(4);
    one_error(&failed);
    assert!(registry.manifest("app", "3").is_none());
    proxy.reset();
    quick(env.lapstrake(["push", &name("3")])).ok();
    verified(env, &format!("{}/app:3", registry.host()));
});

story!(a_tag_that_moves_is_read_once : root, |env| {
    let registry = Arc::new(FakeRegistry::start());
    let proxy = Proxy::start(&registry.host());
    for tag in ["one", "two"] {
        let dir = env.mkdir(tag);
        let writer = Writer::new(&dir);
        let entries: Vec<_> = ["linux/amd64", "linux/arm64"]
            .map(|platform| {
                let layer = Tar::new().file("which", tag).bytes();
                writer.image(&Made::new(platform, serde_json::json!({}), vec![layer]))
            })
            .to_vec();
        writer.finish(writer.index(&entries), Some("1"));
        env.hand_over(tag);
        let to = format!("docker://{}/moving:{tag}", registry.host());
        quick(env.lapstrake(["copy", &format!("oci:{tag}:1"), &to])).ok();
    }
    let of = |tag: &str| registry.manifest("moving", tag).expect("it was pushed");
    let (kind, one) = of("one");
    registry.put_manifest("moving", "latest", &kind, &one);
    // The tag moves as soon as it has been read, and whenever it is.
    let (moving, reads) = (Arc::clone(&registry), Arc::new(AtomicUsize::new(0)));
    let (count, two) = (Arc::clone(&reads), of("two").1);
    let act = move || {
        count.fetch_add(1, Ordering::Relaxed);
        moving.put_manifest("moving", "latest", &kind, &two);
    };
    proxy.fail("GET", "/manifests/sha256:", 0, 99, Fault::Before(Arc::new(act)));
    env.dockerfile(&format!("FROM {}/moving\nENV a=b\n", proxy.host()));
    let run = quick(env.build_command(["--platform", "linux/amd64,linux/arm64", "-o", "type=oci,dest=out,tar=false"]));
    run.ok();
    assert!(reads.load(Ordering::Relaxed) >= 2);
    let layout = crate::support::layout::Layout::open(&env.path("out"));
    for platform in ["linux/amd64", "linux/arm64"] {
        assert_eq!(layout.platform(platform).text("which"), "one", "{platform}");
    }
    assert_eq!(proxy.matching("GET", "/manifests/latest").len(), 1);
});

story!(nobody_listening_is_told_soon : root, |env| {
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback works");
    let host = port.local_addr().expect("it is bound").to_string();
    drop(port);
    env.dockerfile("FROM scratch\nENV a=b\n");
    let start = Instant::now();
    let name = format!("{host}/app:1");
    let output = env.build_command(["--push", "-t", &name]).fails(4);
    output.says(&host).says("refused");
    one_error(&output);
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    // Five times the pauses would be 20 s.
    env.lapstrake(["images", "-q"]).ok();
});
