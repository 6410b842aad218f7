//! -t and -o: layouts, archives, directories; atomically, several at once, readable by others' tools.

use std::fs;
use std::path::Path;

use crate::support::layout::Layout;
use crate::support::tools::{Containers, skopeo_raw, tool};
use crate::support::{TestEnv, host_platform, which};

fn simple(env: &TestEnv) {
    env.write("foo", "foo");
    env.dockerfile("FROM base\nCOPY --chown=0:0 foo /foo\nRUN ln -s foo /link && mkdir /dir && echo x > /dir/file && chmod 750 /dir\nENTRYPOINT [\"/bin/sh\"]\n");
}

story!(layout_directory_is_read_by_others : root user single, |env| {
    simple(env);
    let two = "linux/amd64,linux/arm/v7";
    env.write("foo", "foo");
    env.dockerfile("FROM base\nCOPY foo /foo\n");
    let layout = env.build(["--platform", two, "-t", "example.com/app:1"]);
    assert_eq!(layout.platforms(), ["linux/amd64", "linux/arm/v7"]);
    assert_eq!(layout.index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], "1");
    assert_eq!(layout.index["manifests"][0]["annotations"]["io.containerd.image.name"], "example.com/app:1");
    let image = format!("oci:{}:1", layout.dir.display());
    if which("skopeo").is_some() {
        let raw = skopeo_raw(&image);
        assert_eq!(raw["manifests"].as_array().map(Vec::len), Some(2));
        let copy = env.path("copied");
        tool("skopeo", &["copy", "--quiet", "--all", "--insecure-policy", &image, &format!("oci:{}:1", copy.display())]);
        assert_eq!(Layout::open(&copy).digest(), layout.digest(), "nothing had to be rewritten");
    } else {
        crate::support::skip("skopeo", "not installed");
    }
});

story!(umoci_unpacks_what_was_built : root, |env| {
    need_tool!("umoci");
    simple(env);
    let layout = env.build(["-t", "app:1"]);
    let bundle = env.path("bundle");
    tool("umoci", &["unpack", "--image", &format!("{}:1", layout.dir.display()), &bundle.display().to_string()]);
    assert_eq!(fs::read_to_string(bundle.join("rootfs/foo")).expect("umoci unpacked it"), "foo");
    assert_eq!(fs::read_link(bundle.join("rootfs/link")).expect("umoci unpacked it"), Path::new("foo"));
});

story!(podman_loads_and_buildah_reads_what_was_built : root, |env| {
    need_tool!("podman");
    simple(env);
    let archive = env.path("image.tar");
    env.build_command(["-t", "example.com/app:1", "-o", &format!("type=docker,dest={}", archive.display())]).ok();
    let podman = Containers::new("podman", &env.mkdir("containers"));
    let podman = |args: &[&str]| podman.run(args);
    let loaded = podman(&["load", "-i", &archive.display().to_string()]);
    assert!(loaded.contains("example.com/app:1"), "{loaded}");
    let inspected: serde_json::Value = serde_json::from_str(&podman(&["image", "inspect", "example.com/app:1"])).expect("JSON");
    assert_eq!(inspected[0]["Config"]["Entrypoint"], serde_json::json!(["/bin/sh"]));
    let layout = env.build_into("layout", ["-t", "app:1"]);
    let id = podman(&["pull", "--quiet", &format!("oci:{}:1", layout.dir.display())]);
    assert!(!id.trim().is_empty());
    tool("chmod", &["-R", "u+rwX", &env.path("containers").display().to_string()]);
});

story!(archives_as_output : root user, |env| {
    need_tool!("skopeo");
    simple(env);
    for (kind, scheme) in [("oci", "oci-archive"), ("docker", "docker-archive")] {
        let file = env.path(format!("{kind}.tar"));
        env.build_command(["-t", "example.com/app:1", "-o", &format!("type={kind},dest={}", file.display())]).ok();
        let copy = env.path(format!("{kind}-copy"));
        tool(
            "skopeo",
            &["copy", "--quiet", "--insecure-policy", &format!("{scheme}:{}", file.display()), &format!("oci:{}:t", copy.display())],
        );
        let image = Layout::open(&copy).only();
        assert_eq!((image.text("foo").as_str(), image.file("dir").mode), ("foo", 0o750), "{kind}");
        assert_eq!(image.runtime("Entrypoint"), &serde_json::json!(["/bin/sh"]));
    }
});

story!(archive_on_stdout : root user, |env| {
    simple(env);
    let mut run = env.build_command(["-o", "type=tar,dest=-"]);
    let output = run.command_mut().stdout(std::process::Stdio::piped()).output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names: Vec<_> = crate::support::layout::entries(&output.stdout).into_iter().map(|entry| entry.path).collect();
    assert!(names.contains(&"dir/file".to_owned()) && names.contains(&"bin/busybox".to_owned()), "{names:?}");
    assert!(!names.iter().any(|name| name.contains(".wh.")));
});

// Trap 78: BuildKit testExportMultiPlatform, testTarExporterSymlink.
story!(root_file_system_as_output : root user, |env| {
    simple(env);
    let dir = env.path("rootfs");
    env.build_command(["-o", &format!("type=local,dest={}", dir.display())]).ok();
    assert_eq!(fs::read_to_string(dir.join("foo")).expect("it was exported"), "foo");
    assert_eq!(fs::read_link(dir.join("link")).expect("it was exported"), Path::new("foo"));
    assert!(dir.join("bin/busybox").is_file() && dir.join("bin/sh").is_symlink());
    env.dockerfile("FROM scratch\nARG TARGETPLATFORM\nCOPY <<EOF /p\n$TARGETPLATFORM\nEOF\n");
    let split = env.path("split");
    env.build_command(["--platform", "linux/arm64,linux/arm/v7", "-o", &format!("type=local,dest={}", split.display())]).ok();
    assert_eq!(fs::read_to_string(split.join("linux_arm64/p")).expect("it was exported"), "linux/arm64\n");
    assert_eq!(fs::read_to_string(split.join("linux_arm_v7/p")).expect("it was exported"), "linux/arm/v7\n");
    let tar = env.path("one.tar");
    env.build_command(["--platform", host_platform(), "-o", &format!("type=tar,dest={}", tar.display())]).ok();
    let entries = crate::support::layout::entries(&fs::read(&tar).expect("it was exported"));
    assert_eq!(entries.iter().map(|entry| entry.path.as_str()).collect::<Vec<_>>(), ["p"]);
});

story!(several_outputs_and_names_of_one_build : root user, |env| {
    simple(env);
    let dir = env.path("layout");
    let tar = env.path("oci.tar");
    env.build_command([
        "-t", "first:1", "-t", "example.com/second:2", "-o", &format!("type=oci,dest={},tar=false", dir.display()), "-o",
        &format!("type=oci,dest={}", tar.display()), "-o", &format!("type=local,dest={}", env.path("local").display()),
    ])
    .ok();
    // Trap 77: BuildKit testOCILayoutMultiname.
    assert_eq!(Layout::open(&dir).tags(), ["1", "2"]);
    assert!(tar.is_file() && env.path("local/foo").is_file());
    let images = env.lapstrake(["images"]).ok().stdout;
    assert!(images.contains("first") && images.contains("example.com/second"), "{images}");
});

// Trap 77: TestReplaceByImageName.
story!(same_name_is_replaced_and_others_are_kept : root user, |env| {
    let out = env.path("out");
    for (tag, content) in [("a:1", "one"), ("a:2", "two"), ("a:1", "three")] {
        env.write("foo", content);
        env.dockerfile("FROM scratch\nCOPY foo /foo\n");
        env.build_command(["-t", tag, "-o"]).args([out.as_os_str()]).ok();
    }
    let index: serde_json::Value = serde_json::from_slice(&fs::read(out.join("index.json")).expect("written")).expect("JSON");
    let names: Vec<_> = index["manifests"]
        .as_array()
        .expect("an index")
        .iter()
        .map(|entry| entry["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap_or_default().to_owned())
        .collect();
    let mut sorted = names.clone();
    sorted.sort();
    assert_eq!(sorted, ["1", "2"]);
    if which("skopeo").is_some() {
        assert!(tool("skopeo", &["inspect", &format!("oci:{}:2", out.display())]).contains("Digest"));
    }
});

// A failed build leaves what was there before.
story!(failed_build_leaves_the_old_output : root user, |env| {
    simple(env);
    let before = env.build(["-t", "app:1"]).digest();
    let store = env.lapstrake(["images", "--format", "json"]).ok().stdout;
    env.dockerfile("FROM base\nCOPY foo /other\nRUN exit 3\n");
    env.build_command(["-t", "app:1", "-o"]).args([env.path("out").as_os_str()]).fails(1);
    assert_eq!(Layout::open(&env.path("out")).digest(), before);
    assert_eq!(env.lapstrake(["images", "--format", "json"]).ok().stdout, store);
});

story!(unknown_output_options_are_refused : user, |env| {
    simple(env);
    for option in ["type=nonsense", "type=oci,dest=x,nonsense=1", "type=oci,dest=x,compression=lz4"] {
        env.build_command(["-o", option]).fails(2);
    }
});

// stdout is data: the name with its digest, or nothing else.
story!(stdout_is_the_digest_and_files_tell_it : root user, |env| {
    simple(env);
    let iid = env.path("iid");
    let metadata = env.path("metadata");
    let output = env
        .build_command(["-t", "app:1", "--iidfile", &iid.display().to_string(), "--metadata-file", &metadata.display().to_string()])
        .ok();
    let line = output.stdout.trim();
    assert_eq!(output.stdout.lines().count(), 1, "{}", output.stdout);
    let digest = line.split_once('@').map_or(line, |(_, digest)| digest);
    assert!(digest.starts_with("sha256:") && digest.len() == 71, "{line}");
    assert!(fs::read_to_string(&iid).expect("it was asked for").starts_with("sha256:"));
    let metadata: serde_json::Value = serde_json::from_slice(&fs::read(&metadata).expect("it was asked for")).expect("JSON");
    assert_eq!(metadata["containerimage.digest"], digest);
    let quiet = env.build_command(["-t", "app:1", "--progress", "quiet"]).ok();
    assert_eq!(quiet.stderr, "");
});
