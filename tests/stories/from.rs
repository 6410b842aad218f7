//! FROM: every kind of name, in the right order of look-up, and every shape of layout.

use serde_json::{Value, json};

use crate::support::image::{Made, Tar, Writer, gzip};
use crate::support::layout::sha256;
use crate::support::tools::tool;
use crate::support::{TestEnv, cache, host_platform};

fn marked(mark: &str) -> Made {
    Made::new(
        host_platform(),
        json!({"Env": ["PATH=/bin", "KEPT=1"]}),
        vec![Tar::new().file("mark", mark).bytes()],
    )
}

/// What /mark holds in an image built FROM this name.
fn mark(env: &TestEnv, name: &str, args: &[&str]) -> String {
    env.dockerfile(&format!("FROM {name}\nENV a=b\n"));
    let image = env.build_into("marked", args).only();
    assert!(image.env().contains(&"KEPT=1".to_owned()), "the base's config is kept");
    image.text("mark")
}

// Trap: layout shapes; containers tools and BuildKit each write another.
story!(every_shape_of_layout_is_read : root user, |env| {
    let dir = |name: &str| env.path(name);
    // One manifest without any index, tagged and untagged.
    let flat = dir("flat");
    let writer = Writer::new(&flat);
    writer.finish(writer.image(&marked("flat")), Some("one"));
    assert_eq!(mark(env, &format!("oci:{}:one", flat.display()), &[]), "flat");
    assert_eq!(mark(env, &format!("oci:{}", flat.display()), &[]), "flat");
    let untagged = dir("untagged");
    let writer = Writer::new(&untagged);
    writer.finish(writer.image(&marked("untagged")), None);
    assert_eq!(mark(env, &format!("oci:{}", untagged.display()), &[]), "untagged");
    // index.json used as the image index itself.
    let many = dir("many");
    let writer = Writer::new(&many);
    let other = Made::new("linux/s390x", json!({}), vec![Tar::new().file("mark", "wrong").bytes()]);
    writer.finish_with(&[writer.image(&other), writer.image(&marked("right"))]);
    assert_eq!(mark(env, &format!("oci:{}", many.display()), &[]), "right");
    // An index in an index, with Docker's media types in the middle.
    let nested = dir("nested");
    let writer = Writer::new(&nested);
    let inner = writer.index(&[writer.image(&other), writer.docker_image(&marked("nested"))]);
    writer.finish(writer.index(&[inner]), Some("t"));
    assert_eq!(mark(env, &format!("oci:{}:t", nested.display()), &[]), "nested");
    // No platform in the descriptor: the config tells it.
    let bare = dir("bare");
    let writer = Writer::new(&bare);
    let strip = |mut descriptor: Value| {
        descriptor.as_object_mut().expect("it is one").remove("platform");
        descriptor
    };
    let index = writer.index(&[strip(writer.image(&other)), strip(writer.image(&marked("bare")))]);
    writer.finish(index, Some("t"));
    assert_eq!(mark(env, &format!("oci:{}:t", bare.display()), &[]), "bare");
    // By digest.
    let descriptor = Writer::new(&flat).image(&marked("flat"));
    let digest = descriptor["digest"].as_str().expect("it has one");
    assert_eq!(mark(env, &format!("oci:{}@{digest}", flat.display()), &[]), "flat");
});

story!(archives_are_read_without_unpacking : root user, |env| {
    let dir = env.path("layout");
    let writer = Writer::new(&dir);
    writer.finish(writer.image(&marked("archived")), Some("t"));
    let archive = env.path("image.tar");
    env.command("tar").args(["-C"]).args([&dir]).args(["-cf"]).args([&archive]).args(["."]).ok();
    assert_eq!(mark(env, &format!("oci-archive:{}:t", archive.display()), &[]), "archived");
    assert_eq!(mark(env, &format!("oci-archive:{}", archive.display()), &[]), "archived");
    // What `docker save` wrote before it wrote layouts: layers uncompressed or gzipped, found by manifest.json.
    for (name, pack) in [("plain", false), ("gzipped", true)] {
        let layer = Tar::new().file("mark", name).bytes();
        let config = json!({
            "os": "linux", "architecture": host_platform().trim_start_matches("linux/"),
            "config": {"Env": ["KEPT=1"]}, "rootfs": {"type": "layers", "diff_ids": [sha256(&layer)]},
        });
        let stored = if pack { gzip(&layer) } else { layer };
        let manifest = json!([{"Config": "config.json", "RepoTags": ["some/name:1"], "Layers": ["abc/layer.tar"]}]);
        let tar = Tar::new()
            .file("abc/layer.tar", stored)
            .file("config.json", config.to_string())
            .file("manifest.json", manifest.to_string())
            .bytes();
        let path = env.write_at(format!("{name}.tar"), tar);
        assert_eq!(mark(env, &format!("docker-archive:{}", path.display()), &[]), name);
        assert_eq!(mark(env, &format!("docker-archive:{}:some/name:1", path.display()), &[]), name);
    }
});

story!(archives_of_skopeo_are_read : root user, |env| {
    need_tool!("skopeo");
    let source = format!("oci:{}:latest", cache().join("busybox").display());
    for (scheme, suffix) in [("docker-archive", "named/image:1"), ("oci-archive", "tag")] {
        let file = env.path(format!("{scheme}.tar"));
        tool("skopeo", &["copy", "--quiet", "--insecure-policy", &source, &format!("{scheme}:{}:{suffix}", file.display())]);
        tool("chmod", &["644", &file.display().to_string()]);
        let image = env.image(&format!("FROM {scheme}:{}\nRUN touch /x\n", file.display()));
        assert!(image.has("x") && image.has("bin/busybox"), "{scheme}");
    }
});

// Trap 84: a named context comes before a stage, a stage before the store.
story!(order_of_look_up : root user, |env| {
    let write = |name: &str| {
        let dir = env.path(name);
        let writer = Writer::new(&dir);
        writer.finish(writer.image(&marked(name)), Some("t"));
        dir
    };
    let context = format!("thing=oci-layout://{}:t", write("context-image").display());
    let stage = format!("oci:{}:t", write("stage-image").display());
    let stored = write("stored-image");
    env.dockerfile(&format!("FROM oci:{}:t\n", stored.display()));
    env.build_command(["-t", "thing"]).ok();
    assert_eq!(mark(env, "thing", &[]), "stored-image");
    assert_eq!(mark(env, "thing:latest", &["--offline"]), "stored-image");
    assert_eq!(mark(env, "docker.io/library/thing", &["--pull=never"]), "stored-image");
    let two = format!("{stage} AS thing\nFROM thing");
    assert_eq!(mark(env, &two, &[]), "stage-image");
    assert_eq!(mark(env, &two, &["--build-context", &context]), "context-image");
    assert_eq!(mark(env, "thing", &["--build-context", &context]), "context-image");
});

story!(offline_names_what_is_missing : root user, |env| {
    env.dockerfile("FROM registry.invalid/some/image:1\n");
    let output = env.build_command(["-t", "x", "--offline"]).output();
    assert!(matches!(output.code, Some(1 | 2 | 4)), "{:?}", output.code);
    output.says("registry.invalid/some/image:1").says("offline");
    let output = env.build_command(["-t", "x", "--pull=never"]).output();
    assert_ne!(output.code, Some(0));
    output.says("registry.invalid/some/image:1");
});

// Trap 72: what is read from outside is verified.
story!(damaged_base_is_found_out : root user, |env| {
    let dir = env.path("damaged");
    let writer = Writer::new(&dir);
    let made = marked("x");
    let descriptor = writer.image(&made);
    writer.finish(descriptor, Some("t"));
    let layer = sha256(&gzip(&made.layers[0]));
    let path = dir.join("blobs/sha256").join(&layer[7..]);
    let mut bytes = std::fs::read(&path).expect("it was written");
    let last = bytes.len() - 12;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).expect("it is writable");
    env.dockerfile(&format!("FROM oci:{}:t\nCOPY --from=base /etc/passwd /x\n", dir.display()));
    let output = env.build_command(["-t", "x"]).output();
    assert!(matches!(output.code, Some(1 | 5)), "{:?} {}", output.code, output.stderr);
    output.says(&layer[7..19]);
});

// Trap 36: BuildKit testOutOfOrderStage, testEmptyStages, TestDockerfileCircularDependencies.
story!(stage_names_and_indices : root user, |env| {
    let image = env.image(
        "FROM base AS First\nRUN echo 0 > /n\nFROM scratch\nCOPY --from=0 /n /by-index\nCOPY --from=first /n /by-name\nFROM scratch\nCOPY --from=1 / /\n",
    );
    assert_eq!(image.text("by-index"), image.text("by-name"));
    for bad in [
        "ARG foo\n",
        "FROM base AS a\nCOPY --from=b /x /x\nFROM a AS b\n",
        "FROM base\nCOPY --from=1 /x /x\n",
        "FROM scratch AS a\nCOPY --from=a /x /x\n",
    ] {
        env.dockerfile(bad);
        let output = env.build_command(["-t", "x", "--offline"]).output();
        assert_ne!(output.code, Some(0), "{bad}");
    }
});

// Traps 28 and 82: --target, and a suggestion for a name that is nearly right.
story!(target_stage_and_a_mistyped_one : root user, |env| {
    env.dockerfile("FROM base AS build\nRUN touch /built\nFROM base AS release\nRUN touch /released\n");
    let image = env.build(["--target", "build"]).only();
    assert!(image.has("built") && !image.has("released"));
    let output = env.build_command(["-t", "x", "--target", "relaese"]).fails(2);
    output.says("release");
});
