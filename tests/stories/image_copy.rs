//! `copy` and `pull` between registries, layouts, archives, directories and the store, with skopeo, umoci and podman
//! reading what is written and writing what is read.

use std::path::Path;

use lapstrake::transport::{Selector, layout::LayoutSource, validate};
use serde_json::{Value, json};

use crate::support::fake_registry::{FakeRegistry, digest};
use crate::support::image::{Made, Tar, Writer};
use crate::support::layout::Layout;
use crate::support::tools::{Containers, Registry, RegistryOptions, skopeo_raw, tool};
use crate::support::{TestEnv, cache};

fn busybox() -> String {
    format!("oci:{}:latest", cache().join("busybox").display())
}

fn busybox_digest() -> String {
    digest_of(&busybox())
}

/// The digest that skopeo sees.
fn digest_of(image: &str) -> String {
    let raw = tool("skopeo", &["inspect", "--tls-verify=false", "--raw", image]);
    digest(raw.as_bytes())
}

/// Copies, and gives the digest that is printed.
#[track_caller]
fn copied(env: &TestEnv, args: &[&str]) -> String {
    let output = env.lapstrake(["copy", "--quiet"]).args(args).ok();
    let (_, digest) = output.stdout.trim().rsplit_once('@').expect("NAME@DIGEST is printed");
    digest.to_owned()
}

fn at(env: &TestEnv, scheme: &str, name: &str) -> String {
    format!("{scheme}:{}", env.path(name).display())
}

story!(one_image_through_every_form_keeps_its_digest : root user, |env| {
    need_tool!("skopeo", "docker-registry");
    let registry = Registry::start(RegistryOptions::default());
    let remote = format!("docker://{}/team/app:1", registry.host);
    let forms = [
        at(env, "oci", "layout:1"),
        at(env, "oci-archive", "image.tar:1"),
        at(env, "dir", "dir"),
        "stored:1".to_owned(),
        remote.clone(),
        at(env, "oci", "back:1"),
    ];
    let want = busybox_digest();
    let mut from = busybox();
    for to in &forms {
        assert_eq!(copied(env, &[&from, to]), want, "{from} to {to}");
        if !to.starts_with("stored") {
            assert_eq!(digest_of(to), want, "{to}");
        }
        from.clone_from(to);
    }
    assert_eq!(Layout::open(&env.path("back")).platforms().len(), 3);
    assert_eq!(Layout::open(&env.path("layout")).platforms().len(), 3);
    // What skopeo writes in all of these is read.
    let (theirs, archive) = (at(env, "dir", "theirs"), at(env, "oci-archive", "theirs.tar:x"));
    for (number, to) in [theirs, archive].iter().enumerate() {
        tool("skopeo", &["copy", "--quiet", "--all", "--insecure-policy", &busybox(), to]);
        tool("chmod", &["-R", "a+rX", &env.path("").display().to_string()]);
        assert_eq!(copied(env, &[to, &at(env, "oci", &format!("again{number}:1"))]), want);
        Layout::open(&env.path(format!("again{number}")));
    }
});

story!(platforms_are_chosen : root, |env| {
    need_tool!("skopeo", "umoci");
    let two = at(env, "oci", "two:t");
    copied(env, &[&busybox(), &two, "--platform", "linux/arm64,linux/arm/v7"]);
    assert_eq!(Layout::open(&env.path("two")).platforms(), ["linux/arm64", "linux/arm/v7"]);
    let one = at(env, "oci", "one:t");
    let digest = copied(env, &[&busybox(), &one, "--platform", "linux/amd64"]);
    assert_eq!(Layout::open(&env.path("one")).only().digest, digest);
    tool("umoci", &["unpack", "--rootless", "--image", &one[4..], &env.path("unpacked").display().to_string()]);
    assert!(env.path("unpacked/rootfs/bin/busybox").exists());
    env.lapstrake(["copy", &busybox(), &at(env, "oci", "x"), "--platform", "linux/s390x"])
        .fails(2)
        .says("linux/s390x")
        .says("linux/arm/v7");
});

story!(docker_archive_holds_one_platform : root, |env| {
    need_tool!("skopeo");
    let archive = at(env, "docker-archive", "app.tar:app:1");
    let output = env.lapstrake(["copy", &busybox(), &archive]).fails(2);
    output.says("platform");
    assert!(!env.path("app.tar").exists());
    copied(env, &[&busybox(), &archive, "--platform", "linux/arm64"]);
    let shown: Value = serde_json::from_str(&tool("skopeo", &["inspect", "--config", &archive])).expect("JSON");
    assert_eq!(shown["architecture"], "arm64");
    // And back, also one that skopeo wrote.
    copied(env, &[&archive, &at(env, "oci", "back:1")]);
    assert_eq!(Layout::open(&env.path("back")).only().platform(), "linux/arm64");
    let theirs = at(env, "docker-archive", "theirs.tar:app:2");
    tool("skopeo", &["copy", "--quiet", "--insecure-policy", "--override-arch=arm64", &busybox(), &theirs]);
    copied(env, &[&theirs, &at(env, "oci", "theirs:1")]);
    assert_eq!(Layout::open(&env.path("theirs")).only().diff_ids(), Layout::open(&env.path("back")).only().diff_ids());
});

/// Requests of a registry that carry layers: GET of a blob, or a POST that is not for a mount.
fn moved(registry: &FakeRegistry) -> usize {
    let gets = registry.count("GET", "/blobs/sha256");
    gets + registry.count("PUT", "/blobs/") + registry.count("PATCH", "/blobs/")
}

story!(blobs_are_mounted_within_one_registry : root user, |env| {
    let registry = FakeRegistry::start();
    registry.allow_mounts();
    let (a, b) = (format!("docker://{}/team/a:1", registry.host()), format!("docker://{}/other/b:2", registry.host()));
    let want = copied(env, &[&busybox(), &a]);
    let before = moved(&registry);
    assert_eq!(copied(env, &[&a, &b]), want);
    // Nothing of any layer or config went in either direction.
    assert_eq!(moved(&registry), before, "{:#?}", registry.seen());
    assert_eq!(registry.count("POST", "mount="), 6, "a config and a layer for each of three platforms");
    assert_eq!(registry.violations(), Vec::<String>::new());
    let (_, bytes) = registry.manifest("other/b", "2").expect("it has a name");
    assert_eq!(digest(&bytes), want);
    // Again: every blob is there, and one more tag costs one request.
    let before = registry.seen().len();
    copied(env, &[&a, &b, "--additional-tag", "latest"]);
    assert_eq!(registry.seen()[before..].iter().filter(|seen| seen.method == "POST").count(), 0);
    assert!(registry.manifest("other/b", "latest").is_some());
});

story!(mounts_of_docker_registry : root, |env| {
    need_tool!("docker-registry", "skopeo");
    let registry = Registry::start(RegistryOptions::default());
    let (a, b) = (format!("docker://{}/team/a:1", registry.host), format!("docker://{}/b:1", registry.host));
    let want = copied(env, &[&busybox(), &a]);
    assert_eq!(copied(env, &[&a, &b]), want);
    assert_eq!(digest_of(&b), want);
    copied(env, &[&b, &at(env, "oci", "back:1")]);
    assert_eq!(Layout::open(&env.path("back")).platforms().len(), 3);
    // By digest: no tag is made.
    let pinned = format!("docker://{}/pinned@{want}", registry.host);
    copied(env, &[&a, &pinned]);
    assert_eq!(digest_of(&pinned), want);
    let wrong = format!("docker://{}/pinned@sha256:{}", registry.host, "1".repeat(64));
    env.lapstrake(["copy", &a, &wrong]).output().says("sha256:1111");
});

story!(layers_are_compressed_anew : root user, |env| {
    need_tool!("skopeo", "umoci");
    let before = Layout::open(&cache().join("busybox"));
    for (name, media_type) in [
        ("zstd", "application/vnd.oci.image.layer.v1.tar+zstd"),
        ("none", "application/vnd.oci.image.layer.v1.tar"),
    ] {
        let to = at(env, "oci", &format!("{name}:1"));
        copied(env, &[&busybox(), &to, "--compression", name]);
        // The reader compares each layer with its DiffId.
        let after = Layout::open(&env.path(name));
        assert_eq!(after.platforms(), before.platforms());
        for platform in after.platforms() {
            let image = after.platform(&platform);
            assert_eq!(image.diff_ids(), before.platform(&platform).diff_ids());
            assert_eq!(image.manifest["layers"][0]["mediaType"], media_type);
        }
    }
    // Back to gzip, from an archive into the store.
    copied(env, &[&at(env, "oci", "zstd:1"), &at(env, "oci", "gzip:1"), "--compression=gzip", "--compression-level=9"]);
    let after = Layout::open(&env.path("gzip"));
    assert_eq!(after.platform("linux/arm64").diff_ids(), before.platform("linux/arm64").diff_ids());
    env.lapstrake(["copy", &busybox(), "x", "--compression=gzip", "--compression-level=99"]).fails(2).says("1 to 9");
    let left: Vec<_> = std::fs::read_dir(env.store().join("tmp")).map(|list| list.flatten().collect()).unwrap_or_default();
    assert!(left.iter().all(|entry| !entry.file_name().to_string_lossy().contains("copy")), "{left:?}");
});

/// A layout with an image, tag 1, and an SBOM that refers to it. Gives the image's digest and the SBOM's.
fn attested(dir: &Path) -> (String, String) {
    let writer = Writer::new(dir);
    let layer = Tar::new().file("a", "a").bytes();
    let mut image = writer.image(&Made::new("linux/amd64", json!({}), vec![layer]));
    let empty = writer.blob("application/vnd.oci.empty.v1+json", b"{}");
    let sbom = writer.blob("application/spdx+json", b"{\"spdxVersion\":\"SPDX-2.3\"}");
    let subject =
        json!({"mediaType": image["mediaType"], "digest": image["digest"], "size": image["size"]});
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/spdx+json",
        "config": empty, "layers": [sbom], "subject": subject,
    });
    let bytes = serde_json::to_vec(&manifest).expect("JSON");
    let mut artifact = writer.blob("application/vnd.oci.image.manifest.v1+json", &bytes);
    artifact["artifactType"] = json!("application/spdx+json");
    image["annotations"] = json!({"org.opencontainers.image.ref.name": "1"});
    let digests =
        [&image, &artifact].map(|entry| entry["digest"].as_str().expect("a digest").to_owned());
    writer.finish_with(&[image, artifact]);
    tool("chmod", &["-R", "a+rX", &dir.display().to_string()]);
    let [image, artifact] = digests;
    (image, artifact)
}

story!(referrers_go_along : root user, |env| {
    need_tool!("docker-registry", "skopeo");
    let (image, sbom) = attested(&env.mkdir("signed"));
    // docker-registry 2 has no referrers API: the list is kept under a tag.
    let registry = Registry::start(RegistryOptions::default());
    let (a, b) = (format!("docker://{}/a:1", registry.host), format!("docker://{}/b:1", registry.host));
    assert_eq!(copied(env, &[&at(env, "oci", "signed:1"), &a, "--referrers"]), image);
    let list = skopeo_raw(&format!("docker://{}/a:sha256-{}", registry.host, &image[7..]));
    assert_eq!(list["manifests"][0]["digest"], sbom.as_str());
    assert_eq!(list["manifests"][0]["artifactType"], "application/spdx+json");
    // From one repository to another, and to the store and back out to a layout.
    copied(env, &[&a, &b, "--referrers"]);
    assert_eq!(skopeo_raw(&format!("docker://{}/b@{sbom}", registry.host))["subject"]["digest"], image.as_str());
    env.lapstrake(["pull", "--referrers", &b]).ok();
    let name = format!("{}/b:1", registry.host);
    copied(env, &[&name, &at(env, "oci", "back:1"), "--referrers"]);
    let source = LayoutSource::open(&env.path("back"), &Selector::name("1")).expect("a layout");
    validate::source(&source).expect("it is whole");
    assert!(env.path(format!("back/blobs/sha256/{}", &sbom[7..])).exists());
    // Not asked for, they stay away.
    copied(env, &[&a, &at(env, "oci", "plain:1")]);
    assert!(!env.path(format!("plain/blobs/sha256/{}", &sbom[7..])).exists());
    Layout::open(&env.path("plain"));
    env.lapstrake(["copy", &a, &at(env, "dir", "d"), "--referrers"]).fails(2).says("--referrers");
});

story!(pulled_images_are_in_the_store : root user, |env| {
    let registry = FakeRegistry::start();
    let name = format!("{}/library/busybox", registry.host());
    let want = copied(env, &[&busybox(), &format!("docker://{name}:latest")]);
    let output = env.lapstrake(["pull", &name, "--quiet"]).ok();
    assert_eq!(output.stdout, format!("{name}:latest@{want}\n"));
    assert_eq!(output.stderr, "");
    Layout::open_store(&env.store().join("layout"));
    // It is all there: the registry is gone.
    let before = registry.seen().len();
    env.dockerfile(&format!("FROM {name}\nENV a=b\n"));
    let layout = env.build(["--offline", "--platform", "linux/amd64,linux/arm64,linux/arm/v7"]);
    assert_eq!(layout.platforms().len(), 3);
    assert_eq!(registry.seen().len(), before);
    // By digest, and for one platform.
    env.lapstrake(["pull", &format!("{name}@{want}")]).ok();
    env.lapstrake(["pull", &name, "--platform", "linux/arm64"]).ok();
    assert!(env.lapstrake(["inspect", &name]).ok().stdout.contains("linux/arm64"));
    env.lapstrake(["pull", &format!("{}/no/such:1", registry.host())]).fails(4).says("no/such");
});

story!(damaged_images_are_not_copied : root, |env| {
    let dir = env.path("layout");
    copied(env, &[&busybox(), &at(env, "oci", "layout:1"), "--platform", "linux/amd64"]);
    let layer = Layout::open(&dir).only().layer_digests().remove(0);
    let path = dir.join("blobs/sha256").join(&layer[7..]);
    let mut bytes = std::fs::read(&path).expect("a layer");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).expect("it is ours");
    for to in [at(env, "oci", "out:1"), at(env, "oci-archive", "out.tar"), at(env, "dir", "out.d"), "stored".to_owned()] {
        env.lapstrake(["copy", &at(env, "oci", "layout:1"), &to]).fails(5).says(&layer);
    }
    assert!(!env.path("out.tar").exists() && !env.path("out/index.json").exists());
    assert!(!env.path("out.d/manifest.json").exists());
    env.lapstrake(["inspect", "stored"]).output().says("stored");
    // A registry verifies what it gets; that it is the source which is damaged, and not the way, is found out here.
    let registry = FakeRegistry::start();
    let name = format!("docker://{}/app:1", registry.host());
    env.lapstrake(["copy", &at(env, "oci", "layout:1"), &name]).fails(5).says(&layer).says("content has digest");
    assert!(registry.manifest("app", "1").is_none() && registry.blob("app", &layer).is_none());
    bytes.pop();
    std::fs::write(&path, &bytes).expect("it is ours");
    env.lapstrake(["copy", &at(env, "oci", "layout:1"), &name]).fails(5).says(&layer).says("bytes");
    // The same in the store.
    copied(env, &[&busybox(), "whole", "--platform", "linux/amd64"]);
    let path = env.path("store/layout/blobs/sha256").join(&layer[7..]);
    tool("chmod", &["u+w", &path.display().to_string()]);
    for change in [1, 0] {
        let mut bytes = std::fs::read(&path).expect("a layer");
        bytes[middle] ^= 1;
        bytes.truncate(bytes.len() - usize::from(change == 0));
        std::fs::write(&path, bytes).expect("it is ours");
        env.lapstrake(["copy", "whole", &name]).fails(5).says(&layer);
    }
    // Nothing at all, and things that are no images.
    env.lapstrake(["copy", "never", "oci:x"]).fails(2).says("never").says("docker://");
    env.lapstrake(["copy", "docker-daemon:app:1", "oci:x"]).fails(2).says("docker-daemon");
    env.write_at("full/precious", "x");
    env.lapstrake(["copy", &busybox(), &at(env, "oci", "full")]).fails(2).says("left as it is");
});

// What podman saves is read below, what skopeo writes above.
story!(what_umoci_and_buildah_write_is_read : root, |env| {
    need_tool!("umoci", "buildah");
    let path = |name: &str| env.path(name).display().to_string();
    let (layout, bundle) = (path("umoci"), path("bundle"));
    let image = format!("{layout}:made");
    tool("umoci", &["init", "--layout", &layout]);
    tool("umoci", &["new", "--image", &image]);
    tool("umoci", &["unpack", "--image", &image, &bundle]);
    env.write_at("bundle/rootfs/hello", "hello\n");
    std::fs::hard_link(path("bundle/rootfs/hello"), path("bundle/rootfs/again")).expect("it is ours");
    tool("umoci", &["repack", "--image", &image, &bundle]);
    tool("umoci", &["config", "--image", &image, "--config.env", "MADE=here", "--config.cmd", "cat"]);
    let mut made = vec![format!("oci:{image}")];

    let buildah = Containers::new("buildah", &env.mkdir("buildah"));
    let buildah = |args: &[&str]| buildah.run(args);
    env.write_at("theirs/hello", "hello\n");
    env.write_at("theirs/Dockerfile", "FROM scratch\nCOPY hello /\nCOPY hello /again\nENV MADE=here\nCMD [\"cat\"]\n");
    buildah(&["build", "--quiet", "--isolation", "chroot", "--layers", "-t", "made", &path("theirs")]);
    for to in ["oci:b-oci:made", "oci-archive:b-oci.tar:made", "docker-archive:b-docker.tar:localhost/made:1", "dir:b-dir"] {
        let (form, rest) = to.split_once(':').expect("a form");
        let to = format!("{form}:{}", path(rest));
        buildah(&["push", "--quiet", "made", &to]);
        made.push(to);
    }
    for (number, name) in made.iter().enumerate() {
        env.lapstrake(["verify", name]).ok();
        let copy = at(env, "oci", &format!("read{number}:1"));
        copied(env, &[name, &copy]);
        // `FROM` reads all forms but dir:.
        let base = if name.starts_with("dir:") { &copy } else { name };
        env.dockerfile(&format!("FROM {base}\nCOPY --from=base /bin/busybox /bin/cat\nRUN [\"/bin/cat\", \"/hello\"]\n"));
        let image = env.build_into(&format!("on{number}"), [] as [&str; 0]).only();
        assert_eq!((image.text("hello").as_str(), image.has("again")), ("hello\n", true), "{name}");
        assert_eq!(image.runtime("Cmd").to_string(), "[\"cat\"]", "{name}");
        assert!(image.env().contains(&"MADE=here".to_owned()), "{name}: {:?}", image.env());
    }
});

story!(podman_runs_on_what_is_copied : root, |env| {
    need_tool!("podman");
    let archive = at(env, "oci-archive", "image.tar:app");
    copied(env, &[&busybox(), &archive]);
    let podman = Containers::new("podman", &env.mkdir("podman"));
    let podman = |args: &[&str]| podman.run(args);
    let id = podman(&["pull", "--quiet", &archive]);
    assert_eq!(podman(&["image", "inspect", "--format", "{{.Os}}", id.trim()]).trim(), "linux");
    // What podman saves is read.
    let saved = env.path("saved.tar").display().to_string();
    podman(&["tag", id.trim(), "localhost/saved:1"]);
    podman(&["save", "--quiet", "--format", "oci-archive", "-o", &saved, "localhost/saved:1"]);
    copied(env, &[&format!("oci-archive:{saved}"), &at(env, "oci", "back:1")]);
    Layout::open(&env.path("back"));
});
