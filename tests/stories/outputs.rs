//! Outputs that are images: registries, annotations, media types, recompressed bases; nothing half done.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::TestEnv;
use crate::support::layout::Layout;
use crate::support::tools::{Registry, RegistryOptions, skopeo_raw, tool, try_tool};

const TWO: &str = "linux/amd64,linux/arm64";

fn simple(env: &TestEnv) {
    env.write("foo", "foo");
    env.dockerfile("FROM base\nCOPY foo /foo\n");
}

/// A blob of a layout as JSON.
fn json(dir: &Path, descriptor: &Value) -> Value {
    let digest = descriptor["digest"].as_str().expect("a digest");
    serde_json::from_slice(
        &fs::read(dir.join("blobs/sha256").join(&digest[7..])).expect("it is there"),
    )
    .expect("JSON")
}

/// What a registry has under a name, read back whole.
fn pulled(env: &TestEnv, name: &str) -> Layout {
    let copy = env.path(format!("pulled-{}", name.replace(['/', ':', '@'], "-")));
    let _ = fs::remove_dir_all(&copy);
    tool(
        "skopeo",
        &[
            "copy",
            "--quiet",
            "--all",
            "--insecure-policy",
            "--src-tls-verify=false",
            &format!("docker://{name}"),
            &format!("oci:{}:x", copy.display()),
        ],
    );
    Layout::open(&copy)
}

story!(registries_as_outputs : user, |env| {
    need_tool!("docker-registry", "skopeo");
    let registry = Registry::start(RegistryOptions::default());
    simple(env);
    let host = &registry.host;
    let out = env.path("out");
    let dir = format!("type=oci,dest={},tar=false", out.display());
    let (a, b, c) = (format!("{host}/a:1"), format!("{host}/a:2"), format!("{host}/team/b:1"));
    let said = env
        .build_command(["--platform", TWO, "-o", &format!("type=registry,\"name={a},{b},{c}\""), "-o", &dir])
        .ok();
    let layout = Layout::open(&out);
    for name in [&a, &b, &c] {
        assert_eq!(pulled(env, name).digest(), layout.digest());
        assert!(said.stdout.contains(&format!("{name}@{}", layout.digest())), "{}", said.stdout);
    }
    // In the store is nothing that nobody asked for.
    assert_eq!(env.lapstrake(["images", "-q"]).ok().stdout, "");
    // type=image,push=true is the same, with -t for names.
    env.build_command(["-t", &format!("{host}/c:1"), "-o", "type=image,push=true,compression=zstd"]).ok();
    let image = pulled(env, &format!("{host}/c:1")).only();
    assert_eq!(image.manifest["layers"].as_array().expect("layers").last().expect("one")["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
    // By digest: no tag.
    env.build_command(["--platform", TWO, "-o", &format!("type=registry,name={host}/d,push-by-digest=true")]).ok();
    assert_eq!(pulled(env, &format!("{host}/d@{}", layout.digest())).digest(), layout.digest());
    assert!(!try_tool("skopeo", &["inspect", "--raw", "--tls-verify=false", &format!("docker://{host}/d:latest")]).status.success());
    // And the store.
    env.build_command(["-o", "type=image,name=kept:1"]).ok();
    assert!(env.lapstrake(["images"]).ok().stdout.contains("kept"));
});

// One platform of several fails: no tag moves, no file appears.
story!(one_failed_platform_changes_nothing : user, |env| {
    need_tool!("docker-registry", "skopeo");
    need_emulation!();
    let registry = Registry::start(RegistryOptions::default());
    let name = format!("{}/app:1", registry.host);
    simple(env);
    env.build_command(["--platform", TWO, "-t", &name, "--push"]).ok();
    let before = skopeo_raw(&format!("docker://{name}"));
    let images = env.lapstrake(["images", "--format", "json"]).ok().stdout;
    env.dockerfile("FROM base\nARG TARGETARCH\nCOPY foo /bar\nRUN test $TARGETARCH = amd64\n");
    let out = env.path("failed");
    env.build_command(["--platform", TWO, "-t", &name, "--push", "-o", "type=registry", "-o", &out.display().to_string()]).fails(1);
    assert_eq!(skopeo_raw(&format!("docker://{name}")), before);
    assert_eq!(env.lapstrake(["images", "--format", "json"]).ok().stdout, images);
    assert!(!out.exists());
    // A registry that refuses leaves the tags of the others.
    let closed = Registry::start(RegistryOptions { auth: true, ..RegistryOptions::default() });
    env.dockerfile("FROM base\nCOPY foo /baz\n");
    env.build_command(["-o", &format!("type=registry,\"name={name},{}/zapp:1\"", closed.host)]).fails(4);
    assert_eq!(skopeo_raw(&format!("docker://{name}")), before);
});

// Trap 83: BuildKit testExportAnnotations.
story!(annotations_stand_where_they_were_asked_for : user, |env| {
    simple(env);
    let out = env.path("out");
    let dest = format!(
        "type=oci,dest={},tar=false,annotation.From.Output=1,annotation-index-descriptor.id=2,annotation[linux/arm64].arm=3",
        out.display()
    );
    env.build_command([
        "--platform", TWO, "--annotation", "plain=a", "--annotation", "index,manifest-descriptor:both=b=c",
        "--annotation", "manifest[linux/amd64]:amd=d", "--annotation", "From.Output=0", "-o", &dest,
    ])
    .ok();
    Layout::open(&out);
    let index: Value = serde_json::from_slice(&fs::read(out.join("index.json")).expect("a layout")).expect("JSON");
    let root = &index["manifests"][0];
    assert_eq!(root["annotations"]["id"], "2");
    let list = json(&out, root);
    assert_eq!(list["annotations"], serde_json::json!({"both": "b=c"}));
    for entry in list["manifests"].as_array().expect("two") {
        assert_eq!(entry["annotations"], serde_json::json!({"both": "b=c"}));
        let expect = match entry["platform"]["architecture"].as_str() {
            Some("amd64") => serde_json::json!({"plain": "a", "From.Output": "1", "amd": "d"}),
            _ => serde_json::json!({"plain": "a", "From.Output": "1", "arm": "3"}),
        };
        assert_eq!(json(&out, entry)["annotations"], expect);
    }
    // A single image has its descriptor in index.json, and no index.
    let one = env.build_into("one", ["--annotation", "manifest,manifest-descriptor:k=v"]);
    assert_eq!(one.index["manifests"][0]["annotations"]["k"], "v");
    assert_eq!(one.only().manifest["annotations"]["k"], "v");
    for (flag, says) in [
        ("index:k=v", "there is no index for the annotation k"),
        ("manifest[linux/s390x]:k=v", "which is not built"),
        ("idnex:k=v", "did you mean index:?"),
        ("novalue", "expected KEY=VALUE"),
    ] {
        env.build_command(["-t", "x", "--annotation", flag]).fails(2).says(says);
    }
    // Annotations are no part of a config or of a key.
    env.build_command(["-t", "x", "--annotation", "other=1"]).ok().says("CACHED");
});

story!(layers_of_the_base_are_packed_anew : user, |env| {
    simple(env);
    let plain = env.build_into("plain", [] as [&str; 0]).only();
    let types = |image: &crate::support::layout::Image| -> Vec<String> {
        image.manifest["layers"].as_array().expect("layers").iter().map(|layer| layer["mediaType"].as_str().expect("text").to_owned()).collect()
    };
    for (compression, suffix) in [("zstd", "tar+zstd"), ("uncompressed", "tar"), ("gzip", "tar+gzip")] {
        let out = env.path(compression);
        let dest = format!("type=oci,dest={},tar=false,compression={compression},force-compression=true", out.display());
        env.build_command(["-o", &dest]).ok();
        let image = Layout::open(&out).only();
        let media_type = format!("application/vnd.oci.image.layer.v1.{suffix}");
        assert!(types(&image).iter().all(|found| *found == media_type), "{:?}", types(&image));
        assert_eq!(image.config["rootfs"], plain.config["rootfs"], "the tars are the same");
    }
    let out = env.path("mixed");
    env.build_command(["-o", &format!("type=oci,dest={},tar=false,compression=zstd", out.display())]).ok();
    let found = types(&Layout::open(&out).only());
    assert!(found[0].ends_with("gzip") && found[1].ends_with("zstd"), "{found:?}");
});

story!(docker_media_types : user, |env| {
    need_tool!("docker-registry", "skopeo");
    let registry = Registry::start(RegistryOptions::default());
    simple(env);
    let name = format!("{}/app:1", registry.host);
    env.build_command(["--platform", TWO, "-o", &format!("type=registry,name={name},oci-mediatypes=false")]).ok();
    let list = skopeo_raw(&format!("docker://{name}"));
    assert_eq!(list["mediaType"], "application/vnd.docker.distribution.manifest.list.v2+json");
    for entry in list["manifests"].as_array().expect("two") {
        assert_eq!(entry["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
        let digest = entry["digest"].as_str().expect("a digest");
        let manifest = skopeo_raw(&format!("docker://{}/app@{digest}", registry.host));
        assert_eq!(manifest["mediaType"], entry["mediaType"]);
        assert_eq!(manifest["layers"][0]["mediaType"], "application/vnd.docker.image.rootfs.diff.tar.gzip");
        assert_eq!(manifest["config"]["mediaType"], "application/vnd.docker.container.image.v1+json");
    }
    let archive = env.path("docker.tar");
    env.build_command(["-t", "app:1", "-o", &format!("type=docker,dest={},oci-mediatypes=false", archive.display())]).ok();
    let copy = env.path("copy");
    tool("skopeo", &["copy", "--quiet", "--insecure-policy", &format!("docker-archive:{}", archive.display()), &format!("oci:{}:t", copy.display())]);
    assert_eq!(Layout::open(&copy).only().text("foo"), "foo");
    env.build_command(["-o", "type=registry,name=x,oci-mediatypes=false,compression=zstd"]).fails(2).says("have no zstd");
});

story!(timestamps_are_rewritten_with_an_epoch : user, |env| {
    simple(env);
    let dest = format!("type=oci,dest={},tar=false,rewrite-timestamp=true", env.path("out").display());
    env.build_command(["-o", &dest]).fails(2).says("needs SOURCE_DATE_EPOCH");
    env.build_command(["-o", &dest]).env("SOURCE_DATE_EPOCH", "1000").ok();
    assert_eq!(Layout::open(&env.path("out")).only().file("foo").mtime, 1000);
    let kept = dest.replace("=true", "=false");
    env.build_command(["-o", &kept]).env("SOURCE_DATE_EPOCH", "1000").fails(2).says("leave one of them out");
});

story!(labels_of_the_command_line : user, |env| {
    env.dockerfile("FROM base\nLABEL a=1 b=1\n");
    let image = env.build(["--label", "b=2", "--label", "c=x=y"]).only();
    assert_eq!(image.runtime("Labels"), &serde_json::json!({"a": "1", "b": "2", "c": "x=y"}));
});
