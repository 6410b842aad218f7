//! The main job: the demo, a real distribution, and our own image.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::layout::Layout;
use crate::support::{TestEnv, cache, skip};

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Copies a directory of testdata to where the story's user can read it.
fn context(env: &TestEnv, name: &str) {
    let status = Command::new("cp")
        .args(["-rT", "--no-preserve=all"])
        .arg(repository().join("testdata").join(name))
        .arg(env.context())
        .status()
        .expect("cp is everywhere");
    assert!(status.success());
}

story!(demo_for_three_platforms : root user, |env| {
    need_emulation!();
    context(env, "demo");
    let layout = env.build(["--platform", "linux/amd64,linux/arm64,linux/arm/v7", "--build-arg", "REVISION=abc", "-t", "demo:1"]);
    assert_eq!(layout.platforms(), ["linux/amd64", "linux/arm64", "linux/arm/v7"]);
    for (platform, machine) in [("linux/amd64", "amd64 runs as x86_64"), ("linux/arm64", "arm64 runs as aarch64"), ("linux/arm/v7", "armv7 runs as armv")] {
        let image = layout.platform(platform);
        assert!(image.text("srv/www/machine.txt").starts_with(machine), "{}", image.text("srv/www/machine.txt"));
        assert!(image.text("srv/www/index.html").contains(&format!("lapstrake demo for {platform}")));
        assert_eq!(image.runtime("User"), "site");
        assert_eq!(image.runtime("Healthcheck")["Test"][0], "CMD-SHELL");
        assert_eq!(image.runtime("Labels")["org.opencontainers.image.revision"], "abc");
        assert_eq!(image.file("usr/local/bin/serve").mode, 0o755);
        assert_eq!(image.file("srv/www/index.html").uid, 1000);
    }
});

/// As `scripts/machine-secrets` says. The files may hold credentials: nobody but the user can read them.
fn machine_secrets(env: &TestEnv) -> Vec<String> {
    let dir = env.path("secrets");
    let output = Command::new(repository().join("scripts/machine-secrets"))
        .arg(&dir)
        .output()
        .expect("it is a script");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    env.hand_over("secrets");
    let mode = Command::new("chmod").args(["-R", "u=rX,go="]).arg(&dir).status();
    assert!(mode.expect("chmod is everywhere").success());
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

fn debian(env: &TestEnv, platforms: &str) -> Option<Layout> {
    let base = cache().join("debian");
    if !base.join("index.json").exists() {
        skip("debian", "no base image; scripts/base-images debian makes it");
        return None;
    }
    context(env, "debian");
    let mut args = vec![
        "--platform".to_owned(),
        platforms.to_owned(),
        "--build-arg".to_owned(),
        "BASE=debianbase".to_owned(),
        "--build-context".to_owned(),
        format!("debianbase=oci-layout://{}:bookworm", base.display()),
    ];
    args.extend(machine_secrets(env));
    Some(env.build(args))
}

fn check_debian(layout: &Layout) {
    for platform in layout.platforms() {
        let image = layout.platform(&platform);
        assert_eq!(image.file("srv/app").line(), "d2750 4242:33 srv/app");
        let capability = |path: &str| {
            image.file(path).xattrs.get("security.capability").map(|value| value[..8].to_vec())
        };
        assert_eq!(capability("srv/app/ping"), Some(vec![1, 0, 0, 2, 0, 0x20, 0, 0]));
        assert_eq!(capability("usr/bin/ping").map(|value| value[3]), Some(2), "version 2");
        assert_eq!(
            image.below("srv/replace"),
            [
                "dir",
                "dir/new",
                "file-to-dir",
                "file-to-dir/z",
                "to-dir",
                "to-dir/y",
                "to-file",
                "to-link"
            ]
        );
        assert!(!image.below("var/lib/apt/lists").iter().any(|path| path.contains("_Packages")));
        for trace in ["etc/pip.conf", "run/build-ca.crt", "etc/apt/apt.conf.d/99build-machine"] {
            assert!(!image.has(trace), "{trace}");
        }
        assert!(image.file("etc/shadow").gid == 42, "{}", image.file("etc/shadow").line());
    }
}

story!(debian_with_packages_for_two_platforms : root user, |env| {
    need_emulation!();
    if let Some(layout) = debian(env, "linux/amd64,linux/arm64") {
        assert_eq!(layout.platforms(), ["linux/amd64", "linux/arm64"]);
        check_debian(&layout);
    }
});

// Packages that make users, give files away and set capabilities, where only one id is mapped.
story!(packages_with_one_id : single, |env| {
    let base = cache().join("debian");
    if !base.join("index.json").exists() {
        skip("debian", "no base image; scripts/base-images debian makes it");
        return;
    }
    env.dockerfile(
        "ARG BASE\nFROM ${BASE}\nRUN --mount=type=secret,id=apt-conf,target=/etc/apt/apt.conf.d/99build-machine,mode=0444 \\\n \
         apt-get -qq update -o APT::Update::Error-Mode=any && apt-get -qq install -y --no-install-recommends nginx-light iputils-ping dbus \\\n \
         && useradd --create-home --uid 4242 --groups www-data app && install -d -o app -g www-data -m 2750 /srv/app\n",
    );
    let base = format!("debianbase=oci-layout://{}:bookworm", base.display());
    let mut args: Vec<String> =
        ["--build-arg", "BASE=debianbase", "--build-context", &base].map(str::to_owned).into();
    args.extend(machine_secrets(env));
    let layout = env.build(args);
    let image = layout.only();
    let group = |name: &str| -> u64 {
        let groups = image.text("etc/group");
        let line = groups.lines().find(|line| line.starts_with(&format!("{name}:")));
        line.and_then(|line| line.split(':').nth(2)?.parse().ok()).expect("the package makes it")
    };
    assert_eq!(image.file("etc/shadow").gid, 42, "what useradd copies keeps its group");
    assert_eq!((image.file("var/log/nginx").uid, image.file("var/log/nginx").gid), (0, group("adm")));
    let helper = image.file("usr/lib/dbus-1.0/dbus-daemon-launch-helper");
    assert_eq!((helper.mode, helper.uid, helper.gid), (0o4754, 0, group("messagebus")));
    assert_eq!(image.file("srv/app").line(), "d2750 4242:33 srv/app");
    assert_eq!(image.file("home/app/.profile").uid, 4242);
    assert!(image.file("usr/bin/ping").xattrs.contains_key("security.capability"));
    assert!(!image.has("etc/apt/apt.conf.d/zz-lapstrake"), "it is there for the step alone");
});

// For this machine's platform only: emulated, node and rustc take minutes. `scripts/demo packages` builds both.
story!(packages_of_four_registries : user, |env| {
    let base = cache().join("debian");
    if !base.join("index.json").exists() {
        skip("debian", "no base image; scripts/base-images debian makes it");
        return;
    }
    context(env, "packages");
    let base = format!("debianbase=oci-layout://{}:bookworm", base.display());
    let mut args: Vec<String> =
        ["--build-arg", "BASE=debianbase", "--build-context", &base].map(str::to_owned).into();
    args.extend(machine_secrets(env));
    let authorities = env.path("secrets/ca.crt");
    if authorities.exists() {
        args.extend(["--ca-cert".to_owned(), authorities.display().to_string()]);
    }
    let layout = env.build(args);
    let image = layout.only();
    assert!(image.text("srv/planks.txt").starts_with("42 planks on "));
    assert_eq!(image.text("srv/python/versions"), "0.6.2 1.17.0\n");
    assert!(image.text("srv/node/answer").ends_with(" true 7200000\n"), "{}", image.text("srv/node/answer"));
    assert_eq!(image.file("usr/local/bin/planks").mode, 0o755);
    assert!(image.has("srv/node/node_modules/is-number/index.js"));
    // Two locales, and a signature that was believed; what GnuPG left running in the background went with its step.
    assert!(image.has("usr/lib/locale/locale-archive") && image.text("srv/sealed") == "believed\n");
    assert!(!image.files().keys().any(|path| path.starts_with("tmp/")));
    for trace in ["root/.npmrc", "root/.npm", "root/.cache", "cargo", "target", "etc/pip.conf"] {
        assert!(!image.has(trace), "{trace}");
    }
});

story!(own_image_runs_from_scratch : root, |env| {
    need_emulation!();
    need_tool!("unshare");
    let binary = std::env::var("LAPSTRAKE_TEST_RELEASE").unwrap_or_default();
    if !Path::new(&binary).is_file() {
        skip("release", "LAPSTRAKE_TEST_RELEASE names no release binary; scripts/test sets it");
        return;
    }
    let out = env.path("self");
    env.command(repository().join("scripts/self")).args([out.as_os_str()]).args([&binary]).ok();
    let image = Layout::open(&out).only();
    assert!(image.has("usr/bin/lapstrake") && image.has("usr/bin/qemu-arm-static") && image.has("etc/ssl/certs/ca-certificates.crt"));
    assert_eq!(image.file("tmp").mode, 0o1777);
    // The binary runs where there is nothing else, and builds itself anew there.
    let root = env.path("rootfs");
    env.write("Dockerfile", format!("FROM oci:{}\n", out.display()));
    env.build_command(["-o", &format!("type=local,dest={}", root.display())]).ok();
    std::fs::create_dir_all(root.join("work/context")).expect("it is ours");
    std::fs::write(root.join("work/context/Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").expect("it is ours");
    std::fs::create_dir_all(root.join("proc")).expect("it is ours");
    // As in any container, /proc is there.
    let enter = "mount -t proc proc \"$1/proc\" && exec chroot \"$@\"";
    let inside = env
        .command("unshare")
        .args(["--mount", "--", "sh", "-c", enter, "sh"])
        .args([&root])
        .args(["/usr/bin/lapstrake", "build", "--root", "/var/lib/lapstrake", "-o", "/work/out", "/work/context"])
        .ok();
    assert!(Layout::open(&root.join("work/out")).only().has("Dockerfile"), "{}", inside.stderr);
});
