//! `inspect --format`, `--layers`, `diff` and `verify`.

use serde_json::{Value, json};

use crate::support::image::{Made, Tar, Writer, busybox_layer};
use crate::support::tools::{Containers, tool};
use crate::support::{TestEnv, cache, host_platform};

fn busybox() -> String {
    format!("oci:{}:latest", cache().join("busybox").display())
}

#[track_caller]
fn shows(env: &TestEnv, image: &str, template: &str) -> String {
    let output = env.lapstrake(["inspect", image, "--format", template]).ok().stdout;
    output.strip_suffix('\n').expect("a line").to_owned()
}

story!(layout_without_its_prefix_is_told : user, |env| {
    env.dockerfile("FROM base\nENV a=b\n");
    env.build_into::<&str>("out", []);
    let inspect = |name: &str| {
        let mut run = env.lapstrake(["inspect", name]);
        run.command_mut().current_dir(env.path(""));
        run
    };
    let output = inspect("out").fails(2);
    output.says("oci:out");
    assert!(!output.stderr.contains("lapstrake build"), "one way out: {}", output.stderr);
    inspect("oci:out").ok();
});

story!(templates_print_what_dockers_do : root user, |env| {
    env.dockerfile(
        "FROM base\nLABEL a.b=c x=\"y z\"\nENV A=b\nEXPOSE 80/tcp\nWORKDIR /w\nUSER app\nENTRYPOINT [\"/bin/sh\", \"-c\"]\nCMD [\"echo\"]\n",
    );
    let layout = env.build_into("out", ["--platform", "linux/amd64,linux/arm64", "-t", "app:1"]);
    let (amd, arm) = (layout.platform("linux/amd64"), layout.platform("linux/arm64"));
    let own = if host_platform() == "linux/amd64" { &amd } else { &arm };
    assert_eq!(shows(env, "app:1", "{{.Os}}/{{.Architecture}}"), own.platform());
    assert_eq!(shows(env, "app:1", "{{.Id}}"), own.manifest["config"]["digest"].as_str().expect("a digest"));
    assert_eq!(shows(env, "app:1", "{{json .RepoTags}}"), r#"["app:1"]"#);
    assert_eq!(shows(env, "app:1", "{{index .RepoDigests 0}}"), format!("app@{}", layout.digest()));
    assert_eq!(shows(env, "app:1", "{{.Config.User}}:{{.Config.WorkingDir}}"), "app:/w");
    assert_eq!(shows(env, "app:1", "{{.Config.StopSignal}}"), "");
    assert_eq!(shows(env, "app:1", "{{index .Config.Labels \"a.b\"}}"), "c");
    assert_eq!(shows(env, "app:1", "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}"), "a.b=c;x=y z;");
    assert_eq!(shows(env, "app:1", "{{.Config.Entrypoint}} {{join .Config.Cmd \" \"}}"), "[/bin/sh -c] echo");
    assert_eq!(shows(env, "app:1", "{{range $p, $_ := .Config.ExposedPorts}}{{$p}}{{end}}"), "80/tcp");
    assert_eq!(shows(env, "app:1", "{{len .RootFS.Layers}} {{json .Platforms}}"), format!("{} [\"linux/amd64\",\"linux/arm64\"]", own.diff_ids().len()));
    // Of imagetools: the index, and all configs by platform.
    assert_eq!(shows(env, "app:1", "{{.Manifest.Digest}} {{.Manifest.MediaType}}"), format!("{} application/vnd.oci.image.index.v1+json", layout.digest()));
    assert_eq!(shows(env, "app:1", "{{range .Manifest.Manifests}}{{.Digest}} {{end}}"), format!("{} {} ", amd.digest, arm.digest));
    assert_eq!(shows(env, "app:1", "{{(index .Image \"linux/arm64\").Architecture}}"), "arm64");
    let chosen = env.lapstrake(["inspect", "app:1", "--format", "{{.Architecture}}", "--platform", "linux/arm64"]).ok();
    assert_eq!(chosen.stdout, "arm64\n");
    let chosen = env
        .lapstrake(["inspect", "app:1", "--format", "{{.Digest}} {{json .Platforms}}"])
        .args(["--platform", "linux/arm64"])
        .ok();
    assert_eq!(chosen.stdout, format!("{} [\"linux/arm64\"]\n", arm.digest));
    let tree = env.lapstrake(["inspect", "app:1", "--platform", "linux/arm64"]).ok().stdout;
    assert!(tree.contains("linux/arm64") && !tree.contains("linux/amd64"), "{tree}");
    assert!(tree.contains("WORKDIR /w"), "{tree}");
    env.lapstrake(["inspect", "app:1", "--format", "{{.Nothing}}"]).fails(2).says("no .Nothing").says("Architecture");
    env.lapstrake(["inspect", "app:1", "--format", "{{.Os"]).fails(2).says("not closed");
    env.lapstrake(["inspect", "app:1", "--format", "yaml"]).fails(2).says("--format '{{.Os}}");
    env.lapstrake(["inspect", "app:1", "--format", "{{.Os}}", "--platform", "linux/s390x"]).fails(2).says("linux/arm64");
});

story!(templates_agree_with_skopeo_and_podman : root, |env| {
    need_tool!("skopeo", "podman");
    env.dockerfile("FROM base\nLABEL a.b=c x=\"y z\"\nENV A=b C=d\nCMD [\"echo\", \"x\"]\nWORKDIR /w\n");
    env.build_into("out", ["--platform", host_platform(), "-t", "app:1"]);
    let image = format!("oci:{}:1", env.path("out").display());
    for template in [
        "{{.Digest}}", "{{.Os}}/{{.Architecture}}", "{{.Labels}}", "{{range .Env}}{{.}};{{end}}", "{{index .Layers 0}}",
        "{{len .Layers}}", "{{index .Labels \"x\"}}", "{{.Env}}", "{{if .Labels}}yes{{else}}no{{end}}", "{{range $i, $l := .Layers}}{{$i}}:{{$l}} {{end}}",
    ] {
        let theirs = tool("skopeo", &["inspect", "--format", template, &image]);
        assert_eq!(shows(env, &image, template), theirs.trim_end_matches('\n'), "{template}");
    }
    let podman = Containers::new("podman", &env.mkdir("podman"));
    let podman = |args: &[&str]| podman.run(args);
    let id = podman(&["pull", "--quiet", &image]);
    for template in ["{{.Config.Cmd}}", "{{.Config.WorkingDir}}", "{{json .Config.Labels}}", "{{.RootFS.Type}} {{.RootFS.Layers}}", "{{.Config.Env}}", "{{.Os}}"] {
        let theirs = podman(&["image", "inspect", "--format", template, id.trim()]);
        assert_eq!(shows(env, &image, template), theirs.trim_end_matches('\n'), "{template}");
    }
});

/// A layout with an image and what BuildKit attests of it.
fn attested(env: &TestEnv) -> String {
    let dir = env.mkdir("attested");
    let writer = Writer::new(&dir);
    let image =
        writer.image(&Made::new("linux/amd64", json!({}), vec![Tar::new().file("a", "a").bytes()]));
    let statement = |kind: &str, predicate: Value| {
        let text = json!({"_type": "https://in-toto.io/Statement/v0.1", "predicateType": kind, "predicate": predicate}).to_string();
        let mut layer = writer.blob("application/vnd.in-toto+json", text.as_bytes());
        layer["annotations"] = json!({"in-toto.io/predicate-type": kind});
        layer
    };
    let layers = json!([
        statement("https://slsa.dev/provenance/v1", json!({"buildDefinition": {"buildType": "x"}})),
        statement("https://spdx.dev/Document", json!({"spdxVersion": "SPDX-2.3"})),
    ]);
    let diff_ids: Vec<&str> = layers
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|layer| layer["digest"].as_str())
        .collect();
    let config = json!({"architecture": "unknown", "os": "unknown", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config =
        writer.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": layers});
    let mut attestation =
        writer.blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
    attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": image["digest"]});
    writer.finish(writer.index(&[image, attestation]), Some("1"));
    tool("chmod", &["-R", "a+rX", &dir.display().to_string()]);
    format!("oci:{}:1", dir.display())
}

story!(attestations_are_shown : root, |env| {
    let image = attested(env);
    let tree = env.lapstrake(["inspect", &image]).ok().stdout;
    for text in ["linux/amd64  sha256:", "attestation  sha256:", "https://slsa.dev/provenance/v1", "https://spdx.dev/Document"] {
        assert!(tree.contains(text), "{tree}");
    }
    assert!(!tree.contains("unknown/unknown"), "{tree}");
    assert_eq!(shows(env, &image, "{{json .SBOM.SPDX}}"), r#"{"spdxVersion":"SPDX-2.3"}"#);
    assert_eq!(shows(env, &image, "{{.Provenance.SLSA.buildDefinition.buildType}}"), "x");
    assert_eq!(shows(env, &image, "{{(index .SBOM \"linux/amd64\").SPDX.spdxVersion}}"), "SPDX-2.3");
    assert_eq!(shows(env, &image, "{{.Architecture}}"), "amd64");
    // It is whole, and copying keeps it so.
    assert!(env.lapstrake(["verify", &image]).ok().stdout.contains("linux/amd64"));
    env.lapstrake(["copy", &image, "oci:copied:1"]).ok();
    env.lapstrake(["verify", "oci:copied"]).ok();
});

story!(files_by_layer_and_bytes_wasted : root user, |env| {
    let dir = env.mkdir("made");
    let writer = Writer::new(&dir);
    let layers = vec![
        Tar::new().dir("etc").file("etc/passwd", "root").file("etc/gone", "12345678").dir("big").file("big/a", vec![b'x'; 5000]).bytes(),
        Tar::new().file_as("etc/passwd", 0o600, (0, 0), b"root").file("etc/.wh.gone", "").file("new", "n").bytes(),
        Tar::new().dir("big").file("big/.wh..wh..opq", "").symlink("link", "new").bytes(),
    ];
    let mut made = Made::new("linux/amd64", json!({}), layers);
    made.config["history"] = json!([{"created_by": "ADD rootfs.tar /"}, {"created_by": "RUN useradd"}, {"created_by": "CMD x", "empty_layer": true}, {"created_by": "RUN cleanup"}]);
    writer.finish(writer.image(&made), Some("1"));
    tool("chmod", &["-R", "a+rX", &dir.display().to_string()]);
    let image = format!("oci:{}:1", dir.display());
    let out = env.lapstrake(["inspect", &image, "--layers"]).ok().stdout;
    for text in ["layer 1", "ADD rootfs.tar /", "layer 2", "RUN useradd", "layer 3", "RUN cleanup", "5.0 kB of it wasted", "(same content: wastes 4 B)", "etc/gone  (wastes 8 B)", "big/  (overwrites: wastes 5.0 kB)"] {
        assert!(out.contains(text), "no {text:?} in\n{out}");
    }
    let text = env.lapstrake(["inspect", &image, "--layers", "--format", "json"]).ok().stdout;
    let json: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(json["wasted"], 5012);
    assert_eq!(json["layers"][1]["createdBy"], "RUN useradd");
    let files: Vec<String> = json["layers"][1]["files"].as_array().expect("a list").iter().map(|file| format!("{} {} {}", file["change"].as_str().unwrap_or(""), file["path"].as_str().unwrap_or(""), file["hides"])).collect();
    assert_eq!(files, ["deleted etc/gone 8", "touched etc/passwd 4", "added new 0"]);
    env.lapstrake(["inspect", &image, "--layers", "--format", "{{.Os}}"]).fails(2).says("json");
});

story!(two_images_are_compared : root user, |env| {
    env.write("a", "one");
    env.write_mode("tool", "#!/bin/sh\n", 0o644);
    env.dockerfile("FROM base\nCOPY a tool /x/\nENV A=b\n");
    env.build_command(["-t", "app:1"]).ok();
    env.write("a", "two!");
    env.dockerfile("FROM base\nCOPY a /x/\nCOPY --chmod=755 tool /x/tool\nRUN rm /etc/group && echo > /new\nENV A=c\nLABEL l=m\n");
    env.build_command(["-t", "app:2"]).ok();
    let out = env.lapstrake(["diff", "app:1", "app:2"]).ok().stdout;
    for text in ["1 of the layers are the same", "config.Env", "config.Labels", "x/a  (content, was 3 B)", "x/tool  (mode 0644 → 0755)", "etc/group", "  new"] {
        assert!(out.contains(text), "no {text:?} in\n{out}");
    }
    let text = env.lapstrake(["diff", "app:1", "app:2", "--format", "json"]).ok().stdout;
    let json: Value = serde_json::from_str(&text).expect("JSON");
    let files: Vec<String> = json["files"].as_array().expect("a list").iter().map(|file| format!("{} {}", file["change"].as_str().unwrap_or(""), file["path"].as_str().unwrap_or(""))).collect();
    assert_eq!(files, ["deleted etc/group", "added new", "changed x/a", "touched x/tool"]);
    assert_eq!(json["sharedLayers"], 1);
    let same = env.lapstrake(["diff", "app:1", "app:1"]).ok().stdout;
    assert!(same.contains("no file is different"), "{same}");
    env.lapstrake(["diff", "app:1", "app:3"]).fails(2).says("app:3");
    env.lapstrake(["diff", &busybox(), &busybox(), "--platform", "linux/arm64"]).ok();
});

story!(damage_is_found : root user, |env| {
    env.dockerfile("FROM base\nENV a=b\n");
    let layout = env.build_into("out", ["--platform", "linux/amd64,linux/arm64", "-t", "app:1"]);
    let name = format!("oci:{}", layout.dir.display());
    let said = env.lapstrake(["verify", "app:1", &name]).ok().stdout;
    assert_eq!(said.matches(&layout.digest()).count(), 3, "two roots, one of which is named by its digest\n{said}");
    assert!(said.contains("linux/amd64,linux/arm64"), "{said}");
    // One bit of a layer that both platforms do not share.
    let layer = layout.platform("linux/arm64").layer_digests().remove(0);
    let path = layout.dir.join("blobs/sha256").join(&layer[7..]);
    let mut bytes = std::fs::read(&path).expect("a layer");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::remove_file(&path).expect("it is ours");
    std::fs::write(&path, &bytes).expect("it is ours");
    env.lapstrake(["verify", &name]).fails(5).says(&layer);
    env.lapstrake(["verify", &name, "app:1"]).fails(5).says(&layer);
    std::fs::remove_file(&path).expect("it is ours");
    env.lapstrake(["verify", &name]).fails(5).says(&layer).says("problem");
    env.lapstrake(["verify", "never:1"]).fails(2).says("never:1");
    // A layer whose content is not what its config says.
    let dir = env.mkdir("lying");
    let writer = Writer::new(&dir);
    let mut entry = writer.image(&Made::new("linux/amd64", json!({}), vec![busybox_layer("linux/amd64")]));
    let digest = entry["digest"].as_str().expect("a digest")[7..].to_owned();
    let path = env.path("lying/blobs/sha256").join(&digest);
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&path).expect("it was written")).expect("JSON");
    manifest["layers"][0] = writer.blob("application/vnd.oci.image.layer.v1.tar", &Tar::new().file("evil", "x").bytes());
    let platform = entry["platform"].clone();
    entry = writer.blob("application/vnd.oci.image.manifest.v1+json", &serde_json::to_vec(&manifest).expect("JSON"));
    entry["platform"] = platform;
    writer.finish(entry, Some("1"));
    tool("chmod", &["-R", "a+rX", &env.path("lying").display().to_string()]);
    env.lapstrake(["verify", "oci:lying:1"]).fails(5).says("DiffId");
});
