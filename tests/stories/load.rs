//! `load` and `build --load`: into Docker (a socket of ours) and Podman.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::fake_docker::{FakeDocker, Mood};
use crate::support::layout::Layout;
use crate::support::tools::{tool, try_tool};
use crate::support::{TestEnv, Who, cache, foreign_platform, host_platform, skip};

/// Unpacks what was loaded.
fn unpacked(env: &TestEnv, archive: &[u8]) -> PathBuf {
    let dir = env.mkdir("unpacked");
    tar::Archive::new(archive).unpack(&dir).expect("an archive");
    dir
}

fn host_arch() -> &'static str {
    if host_platform() == "linux/amd64" { "x86_64" } else { "aarch64" }
}

fn two(env: &TestEnv) -> Layout {
    env.dockerfile("FROM base\nENV a=b\n");
    env.build_into("out", ["--platform", "linux/amd64,linux/arm64", "-t", "registry.example/app:1"])
}

story!(docker_with_containerd_gets_all_platforms : root user, |env| {
    let docker = FakeDocker::start(&env.path("tmp/docker.sock"), host_arch(), true, Mood::Willing);
    let layout = two(env);
    let output = env.lapstrake(["load", "registry.example/app:1"]).env("DOCKER_HOST", docker.host()).ok();
    assert_eq!(output.stdout, format!("registry.example/app:1@{}\n", layout.digest()));
    output.says("linux/amd64, linux/arm64");
    let loaded = Layout::open(&unpacked(env, &docker.loaded()[0]));
    assert_eq!(loaded.platforms(), ["linux/amd64", "linux/arm64"]);
    assert_eq!(loaded.digest(), layout.digest());
    assert_eq!(loaded.index["manifests"][0]["annotations"]["io.containerd.image.name"], "registry.example/app:1");
});

story!(docker_without_it_gets_its_own_platform : root user, |env| {
    need_tool!("skopeo");
    let (foreign, arch) = (foreign_platform().0, if host_arch() == "x86_64" { "aarch64" } else { "x86_64" });
    let docker = FakeDocker::start(&env.path("tmp/docker.sock"), arch, false, Mood::Willing);
    let layout = two(env);
    let load = |args: &[&str]| env.lapstrake(["load"]).args(args).env("DOCKER_HOST", docker.host());
    // The daemon may be another machine's: its platform counts, not ours.
    let output = load(&["registry.example/app:1"]).ok();
    output.says(foreign).says("cannot hold the other 1");
    let archive = docker.loaded().remove(0);
    std::fs::write(env.path("loaded.tar"), &archive).expect("it is writable");
    let config: Value = serde_json::from_str(&tool("skopeo", &["inspect", "--config", &format!("docker-archive:{}", env.path("loaded.tar").display())])).expect("JSON");
    assert_eq!(format!("linux/{}", config["architecture"].as_str().unwrap_or_default()), foreign);
    let manifest: Value = serde_json::from_slice(&std::fs::read(unpacked(env, &archive).join("manifest.json")).expect("Docker reads it")).expect("JSON");
    assert_eq!(manifest[0]["RepoTags"][0], "registry.example/app:1");
    // One that is asked for, under another name.
    load(&["registry.example/app:1", "--platform", host_platform(), "-t", "mine"]).ok();
    load(&["registry.example/app:1", "--platform", "linux/amd64,linux/arm64"]).fails(2).says("one platform");
    assert_eq!(docker.loaded().len(), 2);
    // Archives and layouts, with the names that are in them.
    let name = format!("oci:{}:1", layout.dir.display());
    assert!(load(&[&name]).ok().stdout.starts_with("registry.example/app:1@sha256:"));
    env.lapstrake(["copy", &name, "oci-archive:file.tar:registry.example/other:2"]).ok();
    assert!(load(&["file.tar"]).ok().stdout.starts_with("registry.example/other:2@sha256:"));
    let bytes = std::fs::read(env.path("file.tar")).expect("it was made");
    assert!(load(&["-"]).input(bytes.clone()).ok().stdout.starts_with("registry.example/other:2@sha256:"));
    // An archive that ends too early is not loaded.
    let before = docker.loaded().len();
    assert_ne!(load(&["-"]).input(&bytes[..bytes.len() / 2]).output().code, Some(0));
    assert_eq!(docker.loaded().len(), before);
});

story!(what_docker_says_against_it_is_told : root, |env| {
    let base = format!("oci:{}:latest", cache().join("busybox").display());
    for (mood, message) in [(Mood::Unwilling, "invalid tar header"), (Mood::Sick, "no space left on device")] {
        let path = env.path(format!("tmp/{}.sock", message.len()));
        let docker = FakeDocker::start(&path, host_arch(), true, mood);
        let output = env.lapstrake(["load", &base, "-t", "x"]).env("DOCKER_HOST", docker.host()).output();
        assert!(output.code.is_some_and(|code| code != 0), "{}", output.stderr);
        output.says(message).says("Docker at");
        assert_eq!(output.stdout, "");
    }
    let gone = format!("unix://{}", env.path("tmp/nobody.sock").display());
    env.lapstrake(["load", &base]).env("DOCKER_HOST", &gone).fails(3).says("nobody.sock").says("-o type=docker");
    env.lapstrake(["load", &base]).env("PATH", "/nonexistent").env("DOCKER_HOST", "tcp://127.0.0.1:9").fails(3).says("docker");
});

story!(build_loads_what_it_made : root user single, |env| {
    let docker = FakeDocker::start(&env.path("tmp/docker.sock"), host_arch(), true, Mood::Willing);
    // A RUN puts the build into a user namespace; the load happens outside of it.
    env.dockerfile("FROM base\nRUN echo made > /made\n");
    let output = env.build_command(["--load", "-t", "app:1"]).env("DOCKER_HOST", docker.host()).ok();
    output.says("loaded into Docker");
    assert!(output.stdout.contains("app:1@sha256:"), "{}", output.stdout);
    let loaded = Layout::open(&unpacked(env, &docker.loaded()[0])).only();
    assert_eq!(loaded.text("made"), "made\n");
    assert!(output.stdout.contains(&Layout::open(&env.path("unpacked")).digest()));
    env.build_command(["-o", "type=docker", "-t", "app:2"]).env("DOCKER_HOST", docker.host()).ok().says("loaded into Docker");
    // A build that fails loads nothing; one without an engine does not begin.
    env.dockerfile("FROM base\nRUN false\n");
    env.build_command(["--load", "-t", "app:1"]).env("DOCKER_HOST", docker.host()).fails(1);
    assert_eq!(docker.loaded().len(), 2);
    let gone = format!("unix://{}", env.path("tmp/nobody.sock").display());
    env.build_command(["--load", "-t", "app:1"]).env("DOCKER_HOST", &gone).fails(3).says("nobody.sock").says_not("RUN false");
});

story!(podman_is_loaded_into : root, |env| {
    need_tool!("podman");
    assert!(env.who() == Who::Root);
    // Its storage goes where this story ends.
    let conf = format!("[storage]\ndriver = \"vfs\"\ngraphroot = \"{0}/graph\"\nrunroot = \"{0}/run\"\n", env.mkdir("podman").display());
    let conf = env.write_at("podman/storage.conf", conf);
    env.dockerfile("FROM base\nRUN echo made > /made\nCMD [\"echo\", \"x\"]\n");
    let load = |args: &[&str]| {
        env.build_command(args).env("CONTAINERS_STORAGE_CONF", &conf).ok()
    };
    // No Docker here: DOCKER_HOST is not set, and if its socket is there, somebody else's Docker is not for tests.
    if std::path::Path::new("/var/run/docker.sock").exists() {
        crate::support::skip("no-docker", "a Docker runs on this machine");
        return;
    }
    let output = load(&["-t", "registry.example/app:1", "--load"]);
    output.says("loaded into Podman");
    let podman = |args: &[&str]| env.command("podman").args(args).env("CONTAINERS_STORAGE_CONF", &conf).ok().stdout;
    assert_eq!(podman(&["image", "inspect", "--format", "{{json .Config.Cmd}}", "registry.example/app:1"]).trim(), r#"["echo","x"]"#);
    let base = format!("oci:{}:latest", cache().join("busybox").display());
    let output = env.lapstrake(["load", &base, "--engine", "podman", "-t", "registry.example/busybox:2"]).env("CONTAINERS_STORAGE_CONF", &conf).ok();
    output.says(host_platform()).says("cannot hold the other 2");
    assert!(podman(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).contains("registry.example/busybox:2"));
    env.lapstrake(["load", &base, "--engine", "docker"]).fails(3).says("docker.sock").says_not("podman in PATH");
});

/// Docker's daemon with a directory, a socket and a containerd of its own, and no network.
struct Daemon(std::process::Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // Not killed: it ends its containerd.
        let _ = tool("kill", &[&self.0.id().to_string()]);
        let _ = self.0.wait();
    }
}

// Debian's docker.io starts a service where it is installed, so scripts/test does not install it.
story!(a_docker_that_is_there : root, |env| {
    need_tool!("dockerd", "containerd", "docker");
    let place = |name: &str| env.mkdir("docker").join(name).display().to_string();
    let (socket, log) = (place("sock"), std::fs::File::create(place("log")).expect("it is ours"));
    let host = format!("unix://{socket}");
    let daemon = std::process::Command::new("dockerd")
        .args(["--data-root", &place("data"), "--exec-root", &place("exec"), "--pidfile", &place("pid")])
        .args(["-H", &host, "--bridge=none", "--iptables=false", "--ip6tables=false", "--storage-driver=vfs"])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(log)
        .spawn();
    let mut daemon = Daemon(daemon.expect("it is installed"));
    let docker = |args: &[&str]| try_tool("docker", &[&["-H", &host], args].concat());
    let until = Instant::now() + Duration::from_secs(30);
    while !docker(&["version"]).status.success() {
        let ended = daemon.0.try_wait().expect("it was started").is_some();
        if ended || Instant::now() > until {
            let said = std::fs::read_to_string(place("log")).unwrap_or_default();
            skip("dockerd", &format!("it does not start: {}", said.lines().last().unwrap_or_default()));
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    env.dockerfile("FROM base\nRUN echo hello > /x && ln /x /y && chmod 4755 /y\nCOPY Dockerfile /d/\nCMD [\"cat\", \"/x\"]\n");
    let image = env.build(["-t", "app:1"]).only();
    for run in [env.lapstrake(["load", "app:1"]), env.build_command(["-q", "-t", "app:1", "--load"])] {
        run.env("DOCKER_HOST", &host).ok();
        let told = docker(&["image", "inspect", "app:1", "-f", "{{json .RootFS.Layers}}"]);
        let layers: Vec<String> = serde_json::from_slice(&told.stdout).expect("docker prints JSON");
        assert_eq!(layers, image.diff_ids());
        assert!(docker(&["image", "rm", "app:1"]).status.success());
    }
    env.lapstrake(["load", "app:1"]).env("DOCKER_HOST", &host).ok();
    let ran = docker(&["run", "--rm", "--network", "none", "app:1"]);
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "hello\n", "{}", String::from_utf8_lossy(&ran.stderr));
    // And what it saves is read.
    let saved = env.path("saved.tar").display().to_string();
    assert!(docker(&["save", "app:1", "-o", &saved]).status.success());
    let said = env.lapstrake(["inspect", "--format", "{{json .RootFS.Layers}}", &format!("docker-archive:{saved}")]).ok();
    assert_eq!(said.stdout.trim(), serde_json::json!(image.diff_ids()).to_string());
});
