//! eStargz layers: judged by the specification, read by everybody else as any gzip layer.

use std::fs;
use std::path::Path;

use crate::support::TestEnv;
use crate::support::estargz::check;
use crate::support::layout::{Image, Layout};
use crate::support::tools::{Registry, RegistryOptions};
use crate::support::tools::{skopeo_raw, tool};

const TOC: &str = "containerd.io/snapshot/stargz/toc.digest";
const SIZE: &str = "io.containers.estargz.uncompressed-size";

fn project(env: &TestEnv) {
    env.write("big", "0123456789abcdef".repeat(330_000));
    env.write("small", "small");
    env.dockerfile("FROM base\nCOPY big small /data/\nRUN echo x > /data/made && ln -s made /data/link && ln /data/made /data/hard && rm /data/small && mkdir /empty\nWORKDIR /work\n");
}

fn build(env: &TestEnv, name: &str, form: &str) -> Layout {
    let out = env.path(name);
    let _ = fs::remove_dir_all(&out);
    env.build_command(["-o", &format!("type=oci,dest={},tar=false,{form}", out.display())]).ok();
    Layout::open(&out)
}

/// Has the judge look at every layer from the one `first`; gives the names in their tables.
fn judged(dir: &Path, image: &Image, first: usize) -> Vec<String> {
    let mut names = Vec::new();
    for layer in &image.manifest["layers"].as_array().expect("layers")[first..] {
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
        let digest = layer["digest"].as_str().expect("a digest");
        let blob = fs::read(dir.join("blobs/sha256").join(&digest[7..])).expect("the blob");
        let text =
            |key: &str| layer["annotations"][key].as_str().expect("an annotation").to_owned();
        let rows = check(&blob, &text(TOC), &text(SIZE));
        names.extend(rows.iter().map(|row| row["name"].as_str().expect("text").to_owned()));
    }
    names
}

/// The files of an image, but for what the format adds.
fn files(image: &Image) -> Vec<String> {
    let mut lines: Vec<String> = image
        .files()
        .into_iter()
        .filter(|(path, _)| !matches!(path.as_str(), "stargz.index.json" | ".no.prefetch.landmark"))
        .map(|(path, entry)| format!("{path} {}", entry.line()))
        .collect();
    lines.sort();
    lines
}

story!(an_image_of_estargz_layers : root user, |env| {
    need_tool!("skopeo", "umoci", "gzip", "tar");
    project(env);
    let plain = build(env, "plain", "compression=gzip").only();
    let estargz = build(env, "estargz", "compression=estargz");
    let (dir, image) = (env.path("estargz"), estargz.only());
    // Layers of the base stay as they are unless they are forced.
    let names = judged(&dir, &image, 1);
    for name in ["data/", "data/big", "data/made", "data/link", "data/hard", "data/.wh.small", "empty/", "work/"] {
        assert!(names.iter().any(|found| found == name), "{name} of {names:?}");
    }
    assert_eq!(names.iter().filter(|name| *name == "data/big").count(), 2, "two pieces");
    assert_eq!(files(&image), files(&plain));
    let forced = build(env, "forced", "compression=estargz,force-compression=true");
    judged(&env.path("forced"), &forced.only(), 0);
    assert_eq!(files(&forced.only()), files(&plain));
    // What was packed so is in nobody's way: the same gzip layers as before, and nothing runs.
    assert_eq!(build(env, "again", "compression=gzip").only().layer_digests(), plain.layer_digests());
    // Other programs.
    for layer in image.layer_digests() {
        let blob = dir.join("blobs/sha256").join(&layer[7..]).display().to_string();
        tool("sh", &["-c", &format!("gzip -t < {blob}")]);
        tool("tar", &["-tzf", &blob]);
    }
    let copy = env.path("copy");
    tool("skopeo", &["copy", "--quiet", "--insecure-policy", &format!("oci:{}", dir.display()), &format!("oci:{}:x", copy.display())]);
    let bundle = env.path("bundle");
    tool("umoci", &["unpack", "--rootless", "--image", &format!("{}:x", copy.display()), &bundle.display().to_string()]);
    let big = fs::read(bundle.join("rootfs/data/big")).expect("umoci unpacked it");
    assert!(big == "0123456789abcdef".repeat(330_000).as_bytes());
    assert!(!bundle.join("rootfs/data/small").exists());
    // And Docker's media types cannot say what it needs.
    env.build_command(["-o", "type=registry,name=x,oci-mediatypes=false,compression=estargz"]).fails(2).says("have no estargz");
});

// Another machine, with other threads, makes the same bytes; a level is another form.
story!(estargz_is_reproducible : user, |env| {
    project(env);
    env.dockerfile("FROM base\nCOPY big small /data/\nWORKDIR /work\n");
    let digest = |root: &str, form: &str, jobs: &str| {
        let out = env.path(format!("{root}-out"));
        let _ = fs::remove_dir_all(&out);
        env.build_command(["--jobs", jobs, "-o", &format!("type=oci,dest={},tar=false,{form}", out.display())])
            .env("LAPSTRAKE_ROOT", env.path(root))
            .env("SOURCE_DATE_EPOCH", "0")
            .ok();
        Layout::open(&out).digest().to_owned()
    };
    let first = digest("one", "compression=estargz", "1");
    assert_eq!(digest("two", "compression=estargz", "4"), first);
    assert_ne!(digest("two", "compression=estargz,compression-level=9", "4"), first);
    assert_eq!(digest("two", "compression=estargz", "4"), first);
});

// A cache may hold such layers: whoever takes them gets the layer, not what the format adds.
story!(estargz_layers_in_a_cache : user single, |env| {
    env.write("a", "a");
    env.dockerfile("FROM base AS one\nCOPY a /a\nRUN cat /proc/sys/kernel/random/uuid > /id\nFROM base\nCOPY --from=one / /all/\nRUN ls -A / /all > /names\n");
    let cache = env.path("cache");
    let on = |root: &str, flag: &str, value: String, form: &str| {
        let out = env.path(format!("{root}-out"));
        env.build_command([flag, &value, "-o", &format!("type=oci,dest={},tar=false{form}", out.display())])
            .env("LAPSTRAKE_ROOT", env.path(root))
            .ok();
        Layout::open(&out).only()
    };
    let to = format!("type=local,dest={},mode=max,compression=estargz", cache.display());
    let first = on("one", "--cache-to", to, "");
    let from = || format!("type=local,src={}", cache.display());
    let second = on("two", "--cache-from", from(), "");
    assert_eq!(files(&second), files(&first));
    assert_eq!(second.layer_digests().len(), first.layer_digests().len());
    // One more step: it stands on what the cache had, as files and as directories.
    env.dockerfile("FROM base AS one\nCOPY a /a\nRUN cat /proc/sys/kernel/random/uuid > /id\nFROM base\nCOPY --from=one / /all/\nRUN ls -A / /all > /names\nRUN ls -A / /all > /again && cat /all/id > /id\nCOPY --from=one /id /copied\n");
    let third = on("three", "--cache-from", from(), ",compression=estargz");
    judged(&env.path("three-out"), &third, 1);
    assert_eq!(third.text("id"), third.text("copied"));
    assert_eq!(third.text("id"), first.text("all/id"));
    let again = third.text("again").replace("again\n", "");
    assert_eq!(again, third.text("names"));
    assert!(!again.contains("stargz"), "{again}");
});

story!(copies_become_estargz : user, |env| {
    need_tool!("docker-registry", "skopeo");
    project(env);
    let registry = Registry::start(RegistryOptions::default());
    let out = env.path("out");
    env.build_command(["--platform", "linux/amd64,linux/arm64", "--provenance=false", "-o", &format!("{}", out.display())]).ok();
    let (name, to) = (format!("oci:{}", out.display()), format!("docker://{}/app:1", registry.host));
    env.lapstrake(["copy", "--compression", "estargz", &name, &to]).ok();
    let copy = env.path("copy");
    env.lapstrake(["copy", &to, &format!("oci:{}:1", copy.display())]).ok();
    let (before, after) = (Layout::open(&out), Layout::open(&copy));
    for platform in ["linux/amd64", "linux/arm64"] {
        let image = after.platform(platform);
        judged(&copy, &image, 0);
        assert_eq!(files(&image), files(&before.platform(platform)));
        assert_eq!(image.history(), before.platform(platform).history());
    }
    env.lapstrake(["verify", &to]).ok();
    // What is so already stays; back to zstd, the annotations go.
    let again = env.lapstrake(["copy", "--compression", "estargz", &to, &format!("docker://{}/app:2", registry.host)]).ok();
    assert!(again.stdout.contains(after.digest().as_str()), "{}", again.stdout);
    env.lapstrake(["copy", "--platform", "linux/amd64", "--compression", "zstd", &to, &format!("docker://{}/app:3", registry.host)]).ok();
    let manifest = skopeo_raw(&format!("docker://{}/app:3", registry.host));
    assert!(!manifest.to_string().contains("stargz"), "{manifest}");
});
