//! `index create|append|annotate|merge|remove`: multi-platform images of images that exist.

use serde_json::Value;

use crate::support::fake_registry::FakeRegistry;
use crate::support::image::{Made, Tar, Writer};
use crate::support::layout::Layout;
use crate::support::tools::{Containers, Registry, RegistryOptions, skopeo_raw, tool};
use crate::support::{TestEnv, cache};

fn at(env: &TestEnv, scheme: &str, name: &str) -> String {
    format!("{scheme}:{}", env.path(name).display())
}

/// Builds an image for one platform into the store.
fn built(env: &TestEnv, name: &str, platform: &str) {
    env.dockerfile(&format!("FROM base\nLABEL made.for=\"{platform}\"\n"));
    env.build_command(["-t", name, "--platform", platform]).ok();
}

/// The entries of what a name of the store stands for.
fn entries(env: &TestEnv, name: &str) -> Vec<Value> {
    let raw: Value =
        serde_json::from_str(&env.lapstrake(["inspect", "--raw", name]).ok().stdout).expect("JSON");
    raw["manifests"].as_array().cloned().unwrap_or_default()
}

fn platforms(entries: &[Value]) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    entries
        .iter()
        .map(|entry| {
            let platform = &entry["platform"];
            let version = text(&platform["os.version"]);
            let version = if version.is_empty() { version } else { format!("({version})") };
            format!("{}{version}/{}", text(&platform["os"]), text(&platform["architecture"]))
        })
        .collect()
}

/// A layout of a Windows image, which says its version or not.
fn windows(env: &TestEnv, name: &str, version: Option<&str>) {
    let dir = env.mkdir(name);
    let writer = Writer::new(&dir);
    let layer = Tar::new().dir("Files").file("Files/a.txt", name).bytes();
    let mut image = Made::new("windows/amd64", Value::Null, vec![layer]);
    image.config["config"] = serde_json::json!({});
    if let Some(version) = version {
        image.config["os.version"] = version.into();
    }
    writer.finish(writer.image(&image), Some("1"));
    tool("chmod", &["-R", "a+rX", &dir.display().to_string()]);
}

story!(images_of_different_dockerfiles_become_one : root user single, |env| {
    built(env, "app:amd64", "linux/amd64");
    built(env, "app:arm64", "linux/arm64");
    let made = env.lapstrake(["index", "create", "app:latest", "app:amd64", "app:arm64"]).ok();
    assert!(made.stdout.starts_with("app:latest@sha256:"), "{}", made.stdout);
    assert_eq!(platforms(&entries(env, "app:latest")), ["linux/amd64", "linux/arm64"]);
    Layout::open_store(&env.store().join("layout"));
    // It is an image as any other: pushed whole, to a registry that checks what it is given.
    let registry = FakeRegistry::start();
    let name = format!("{}/team/app:latest", registry.host());
    env.lapstrake(["tag", "app:latest", &name]).ok();
    let pushed = env.lapstrake(["push", &name]).ok();
    assert_eq!(pushed.stdout.trim().rsplit_once('@').map(|pair| pair.1), made.stdout.trim().rsplit_once('@').map(|pair| pair.1));
    assert_eq!(registry.violations(), Vec::<String>::new());
    // The same again is the same digest.
    assert_eq!(env.lapstrake(["index", "create", "app:latest", "app:amd64", "app:arm64"]).ok().stdout, made.stdout);
});

story!(an_index_grows_and_shrinks : root, |env| {
    need_tool!("skopeo");
    built(env, "app:amd64", "linux/amd64");
    built(env, "app:arm64", "linux/arm64");
    let layout = at(env, "oci", "out:all");
    let out = env.path("out");
    env.lapstrake(["index", "create", &layout, "app:amd64"]).ok();
    env.lapstrake(["index", "append", &layout, "app:arm64", "--annotation", "org.example.team=a"]).ok();
    assert_eq!(Layout::open(&out).platforms(), ["linux/amd64", "linux/arm64"]);
    let raw = skopeo_raw(&layout);
    assert_eq!(raw["annotations"]["org.example.team"], "a");
    // A new image of a platform takes the place of the old one.
    let old = raw["manifests"][1]["digest"].clone();
    env.dockerfile("FROM base\nENV new=er\n");
    env.build_command(["-t", "app:arm64", "--platform", "linux/arm64"]).ok();
    env.lapstrake(["index", "append", &layout, "app:arm64"]).ok();
    let raw = skopeo_raw(&layout);
    assert_eq!(raw["manifests"].as_array().map(Vec::len), Some(2));
    assert_ne!(raw["manifests"][1]["digest"], old);
    assert_eq!(raw["annotations"]["org.example.team"], "a", "what is not spoken of stays");
    // Nothing that only the old one needed is left.
    Layout::open(&out);
    env.lapstrake(["index", "annotate", &layout, "linux/arm64", "--annotation", "a=b", "--annotation", "c=d"]).ok();
    env.lapstrake(["index", "annotate", &layout, "linux/arm64", "--annotation", "c="]).ok();
    env.lapstrake(["index", "annotate", &layout, "--annotation", "org.example.team="]).ok();
    let raw = skopeo_raw(&layout);
    assert_eq!(raw["manifests"][1]["annotations"], serde_json::json!({"a": "b"}));
    assert!(raw.get("annotations").is_none(), "{raw}");
    let digest = raw["manifests"][0]["digest"].as_str().expect("a digest").to_owned();
    env.lapstrake(["index", "remove", &layout, &digest[..19]]).ok();
    assert_eq!(Layout::open(&out).platforms(), ["linux/arm64"]);
    env.lapstrake(["index", "remove", &layout, "linux/arm64"]).fails(2).says("without images");
    env.lapstrake(["index", "remove", &layout, "linux/s390x"]).fails(2).says("linux/s390x").says("linux/arm64");
    env.lapstrake(["index", "annotate", &layout, "--os", "linux"]).fails(2).says("entry");
    env.lapstrake(["index", "annotate", &layout]).fails(2).says("nothing to change");
});

story!(versions_of_windows_live_side_by_side : root user, |env| {
    need_tool!("skopeo");
    windows(env, "w19", Some("10.0.17763.1"));
    windows(env, "w22", None);
    built(env, "app:linux", "linux/amd64");
    let out = at(env, "oci", "out:all");
    let second = format!("{},os.version=10.0.20348.2,os.features=win32k,annotation.a.b=c", at(env, "oci", "w22"));
    env.lapstrake(["index", "create", &out, &at(env, "oci", "w19"), &second, "app:linux"]).ok();
    let raw = skopeo_raw(&out);
    let list = raw["manifests"].as_array().expect("a list");
    assert_eq!(platforms(list), ["windows(10.0.17763.1)/amd64", "windows(10.0.20348.2)/amd64", "linux/amd64"]);
    assert_eq!(list[1]["platform"]["os.features"], serde_json::json!(["win32k"]));
    assert_eq!(list[1]["annotations"], serde_json::json!({"a.b": "c"}));
    Layout::open(&env.path("out"));
    // skopeo, as other clients do, takes the first of the operating system and architecture.
    let config = tool("skopeo", &["--override-os=windows", "--override-arch=amd64", "inspect", "--config", &out]);
    assert!(config.contains("10.0.17763.1"), "{config}");
    // Of two that cannot be told apart, one is too many.
    windows(env, "w22b", None);
    env.lapstrake(["index", "create", "x", &at(env, "oci", "w22"), &at(env, "oci", "w22b")]).fails(2).says("windows/amd64").says("os.version");
    env.lapstrake(["index", "annotate", &out, "windows(10.0.20348.2)/amd64", "--os-version", "10.0.17763.1", "--os-features="]).fails(2).says("two images");
});

story!(claims_are_held_against_configs : root, |env| {
    built(env, "app:arm64", "linux/arm64");
    let claim = "app:arm64,platform=linux/amd64";
    let refused = env.lapstrake(["index", "create", "x", claim]).fails(2);
    refused.says("linux/arm64").says("linux/amd64").says("--force");
    env.lapstrake(["inspect", "x"]).output().says("x");
    env.lapstrake(["index", "create", "x", claim, "--force"]).ok();
    assert_eq!(platforms(&entries(env, "x")), ["linux/amd64"]);
    env.lapstrake(["index", "annotate", "x", "linux/amd64", "--arch", "riscv64"]).fails(2).says("--force");
    env.lapstrake(["index", "create", "x", "app:arm64,cpu=x"]).fails(2).says("cpu=x").says("os.version");
    env.lapstrake(["index", "create", "x", "app:gone"]).fails(2).says("app:gone");
    env.lapstrake(["index", "create", &at(env, "dir", "d"), "app:arm64"]).fails(2).says("layout");
});

story!(layouts_of_a_matrix_are_merged : root user, |env| {
    need_tool!("skopeo");
    let mut digests = Vec::new();
    for (dir, platform) in [("a", "linux/amd64"), ("b", "linux/arm64")] {
        env.dockerfile("FROM base\nENV a=b\n");
        let layout = env.build_into(dir, ["--platform", platform, "-t", "registry.example/team/app:1", "-t", "registry.example/team/tools:2"]);
        digests.push(layout.platform(platform).digest);
    }
    let merged = env.lapstrake(["index", "merge", "a/", "b/", "-o", "out/"]).ok();
    assert!(merged.stdout.contains("registry.example/team/app:1@sha256:"), "{}", merged.stdout);
    assert!(merged.stdout.contains("registry.example/team/tools:2@sha256:"), "{}", merged.stdout);
    let layout = Layout::open(&env.path("out"));
    assert_eq!(layout.tags(), ["1", "2"]);
    assert_eq!(layout.platform("linux/amd64").digest, digests[0]);
    assert_eq!(layout.platform("linux/arm64").digest, digests[1]);
    let raw = skopeo_raw(&format!("oci:{}:1", env.path("out").display()));
    assert_eq!(platforms(raw["manifests"].as_array().expect("a list")), ["linux/amd64", "linux/arm64"]);
    // The same again changes nothing.
    assert_eq!(env.lapstrake(["index", "merge", "a/", "b/", "-o", "out/"]).ok().stdout, merged.stdout);
    // Archives and nameless layouts too; two images for one platform do not go together.
    for (dir, platform) in [("c", "linux/amd64"), ("d", "linux/arm64")] {
        env.build_into(dir, ["--platform", platform]);
    }
    env.lapstrake(["copy", &at(env, "oci", "d"), &at(env, "oci-archive", "d.tar")]).ok();
    env.lapstrake(["index", "merge", "c", "d.tar", "-o", "one"]).ok();
    assert_eq!(Layout::open(&env.path("one")).platforms(), ["linux/amd64", "linux/arm64"]);
    env.dockerfile("FROM base\nENV other=x\n");
    env.build_into("e", ["--platform", "linux/amd64"]);
    env.lapstrake(["index", "merge", "c", "e", "-o", "two"]).fails(2).says("two images for linux/amd64");
    env.lapstrake(["index", "merge", "nothing", "-o", "three"]).fails(2).says("nothing");
});

story!(images_of_a_registry_are_put_together_where_they_are : root, |env| {
    let registry = FakeRegistry::start();
    registry.allow_mounts();
    let name = |tag: &str| format!("docker://{}/team/app:{tag}", registry.host());
    let busybox = format!("oci:{}:latest", cache().join("busybox").display());
    env.lapstrake(["copy", &busybox, &name("amd64"), "--platform", "linux/amd64"]).ok();
    env.lapstrake(["copy", &busybox, &name("arm64"), "--platform", "linux/arm64"]).ok();
    let before = registry.seen().len();
    env.lapstrake(["index", "create", &name("latest"), &name("amd64"), &name("arm64")]).ok();
    let seen = registry.seen().split_off(before);
    // Configs are read, to see that each is what it is called; no layer is.
    let layers = seen.iter().filter(|seen| seen.method == "GET" && seen.target.contains("/blobs/")).count();
    assert_eq!(layers, 2, "{seen:#?}");
    assert_eq!(seen.iter().filter(|seen| seen.method == "POST").count(), 0);
    let (media_type, bytes) = registry.manifest("team/app", "latest").expect("it was made");
    assert_eq!(media_type, "application/vnd.oci.image.index.v1+json");
    let index: Value = serde_json::from_slice(&bytes).expect("JSON");
    assert_eq!(platforms(index["manifests"].as_array().expect("a list")), ["linux/amd64", "linux/arm64"]);
    assert_eq!(registry.violations(), Vec::<String>::new());
    // Into another repository, with one more from the store.
    built(env, "app:arm", "linux/arm/v7");
    let other = format!("docker://{}/other/app:1", registry.host());
    env.lapstrake(["index", "create", &other, &name("latest"), "app:arm"]).ok();
    assert!(registry.manifest("other/app", "1").is_some());
    assert_eq!(registry.violations(), Vec::<String>::new());
});

story!(no_registry_is_asked_where_none_is_named : root, |env| {
    built(env, "127.0.0.1:9/app:amd64", "linux/amd64");
    built(env, "127.0.0.1:9/app:arm64", "linux/arm64");
    // Nobody listens there: a name without docker:// is the store's.
    env.lapstrake(["index", "create", "127.0.0.1:9/app:1", "127.0.0.1:9/app:amd64", "127.0.0.1:9/app:arm64"]).ok();
    assert_eq!(entries(env, "127.0.0.1:9/app:1").len(), 2);
});

story!(lists_of_docker_and_buildah_are_taken : root, |env| {
    need_tool!("skopeo", "docker-registry", "buildah");
    let registry = Registry::start(RegistryOptions::default());
    let list = format!("docker://{}/docker:list", registry.host);
    let busybox = format!("oci:{}:latest", cache().join("busybox").display());
    tool("skopeo", &["copy", "--quiet", "--all", "--insecure-policy", "--dest-tls-verify=false", "--format", "v2s2", &busybox, &list]);
    env.lapstrake(["index", "remove", &list, "linux/arm/v7"]).ok();
    let raw = skopeo_raw(&list);
    assert_eq!(raw["mediaType"], "application/vnd.docker.distribution.manifest.list.v2+json");
    assert_eq!(platforms(raw["manifests"].as_array().expect("a list")), ["linux/amd64", "linux/arm64"]);
    // With what only OCI has, it becomes OCI.
    env.lapstrake(["index", "annotate", &list, "linux/arm64", "--annotation", "a=b"]).ok();
    assert_eq!(skopeo_raw(&list)["mediaType"], "application/vnd.oci.image.index.v1+json");
    // Buildah reads it: its manifest list has the same two.
    let buildah = Containers::new("buildah", &env.mkdir("buildah"));
    let buildah = |args: &[&str]| buildah.run(args);
    buildah(&["manifest", "create", "ours"]);
    buildah(&["manifest", "add", "--all", "--tls-verify=false", "ours", &list]);
    let shown: Value = serde_json::from_str(&buildah(&["manifest", "inspect", "ours"])).expect("JSON");
    assert_eq!(shown["manifests"].as_array().map(Vec::len), Some(2), "{shown}");
});
