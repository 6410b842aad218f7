//! Several platforms in one graph, and emulation with no set-up of the host.

use serde_json::json;

use crate::support::image::{Made, Tar, Writer};
use crate::support::{Run, foreign_platform, host_platform};

const THREE: &str = "linux/amd64,linux/arm64,linux/arm/v7";

fn host_registrations() -> String {
    let mut text = String::new();
    if let Ok(entries) = std::fs::read_dir("/proc/sys/fs/binfmt_misc") {
        let mut names: Vec<_> = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        text = names.join(" ");
    }
    text
}

story!(foreign_run_needs_no_setup_of_the_host : root user single, |env| {
    need_emulation!();
    let before = host_registrations();
    env.dockerfile("FROM base\nRUN uname -m > /machine && cat /proc/self/comm\nRUN [\"sh\", \"-c\", \"uname -m | tee /again\"]\n");
    let layout = env.build(["--platform", THREE]);
    let machines: Vec<_> = layout.platforms().iter().map(|platform| layout.platform(platform).text("machine")).collect();
    assert_eq!(machines[0], "x86_64\n");
    assert_eq!(machines[1], "aarch64\n");
    assert!(machines[2].starts_with("armv"), "{}", machines[2]);
    assert_eq!(layout.platforms(), ["linux/amd64", "linux/arm64", "linux/arm/v7"]);
    assert_eq!(host_registrations(), before);
    assert!(!layout.platform(foreign_platform().0).files().keys().any(|path| path.contains("qemu")));
});

// Flags POCF: podman#20443.
story!(setuid_programs_work_under_emulation : root user, |env| {
    need_emulation!();
    env.dockerfile(
        "FROM base\nRUN sed -i 's/^root:[^:]*:/root::/' /etc/shadow && chmod 644 /etc/shadow && cp /bin/busybox /bin/busybox-suid && chmod 4755 /bin/busybox-suid\nUSER nobody\nRUN test \"$(/bin/busybox-suid su -c 'id -u')\" = 0\n",
    );
    env.build_command(["-t", "x", "--platform", foreign_platform().0]).ok();
});

// argv[0] is kept, and scripts find their interpreter.
story!(scripts_and_argv0_under_emulation : root user, |env| {
    need_emulation!();
    env.dockerfile(
        "FROM base\nRUN printf '#!/bin/sh\\necho script $0 $1\\n' > /s && chmod 755 /s && test \"$(/s x)\" = 'script /s x' && ln -s busybox /bin/other-name && ! /bin/other-name 2>/dev/null\n",
    );
    env.build_command(["-t", "x", "--platform", foreign_platform().0]).ok();
});

story!(emulator_of_the_command_line : root user, |env| {
    need_emulation!();
    let (platform, emulator) = foreign_platform();
    let path = crate::support::which(emulator).expect("need_emulation looked");
    let copy = env.path("my-qemu");
    std::fs::copy(path, &copy).expect("it is readable");
    let arch = platform.trim_start_matches("linux/");
    env.dockerfile("FROM base\nRUN true\n");
    env.build_command(["-t", "x", "--platform", platform, "--emulator", &format!("{arch}={}", copy.display())]).ok();
    let output = env.build_command(["-t", "x", "--no-cache", "--platform", platform, "--emulator", &format!("{arch}=/nonexistent")]).output();
    assert!(matches!(output.code, Some(2 | 3)), "{:?}", output.code);
    output.says("/nonexistent");
});

// Emulators are looked for beyond PATH, so they are hidden, in a mount namespace of the story's own.
story!(missing_emulator_is_explained : root, |env| {
    need_tool!("unshare");
    let platform = foreign_platform().0;
    let registered = std::fs::read_dir("/proc/sys/fs/binfmt_misc").is_ok_and(|mut found| found.any(|entry| {
        entry.is_ok_and(|entry| entry.file_name().to_string_lossy().contains("qemu"))
    }));
    if registered {
        crate::support::skip("no-host-binfmt", "the host has registrations of its own");
        return;
    }
    let hide = "for q in /usr/bin/qemu-*; do [ ! -e \"$q\" ] || mount --bind /dev/null \"$q\"; done; exec \"$@\"";
    let hidden = |run: Run| {
        let mut outer = std::process::Command::new("unshare");
        outer.args(["--mount", "--propagation", "private", "sh", "-c", hide, "sh"]);
        run.wrapped(outer)
    };
    env.dockerfile("FROM base\nRUN true\n");
    let output = hidden(env.build_command(["-t", "x", "--platform", platform])).fails(3);
    output.says("no emulator for").says("apt-get install qemu-user-static").says("--emulator");
    // What needs no emulator is built all the same.
    env.dockerfile("FROM base\nCOPY Dockerfile /\n");
    hidden(env.build_command(["-t", "x", "--platform", platform])).ok();
});

// A step that two platforms share is one node and runs once.
story!(shared_steps_run_once : root user, |env| {
    env.dockerfile(
        "FROM --platform=$BUILDPLATFORM base AS tools\nRUN cat /proc/sys/kernel/random/uuid > /stamp\nFROM base\nCOPY --from=tools /stamp /stamp\nARG TARGETPLATFORM\nCOPY <<EOF /platform\n$TARGETPLATFORM\nEOF\n",
    );
    let layout = env.build(["--platform", THREE]);
    let stamps: Vec<_> = layout.platforms().iter().map(|platform| layout.platform(platform).text("stamp")).collect();
    assert_eq!((&stamps[0], &stamps[1]), (&stamps[1], &stamps[2]));
    for platform in layout.platforms() {
        assert_eq!(layout.platform(&platform).text("platform"), format!("{platform}\n"));
    }
});

// Trap 76: BuildKit testCacheMultiPlatformImportExport; Buildah "should not reuse different platform".
story!(cache_never_mixes_platforms : root user, |env| {
    env.dockerfile("FROM base\nARG TARGETARCH\nCOPY <<EOF /a\nsame\nEOF\nENV arch=$TARGETARCH\n");
    let first = env.build_into("a", ["--platform", "linux/arm64"]).platform("linux/arm64");
    let second = env.build_into("b", ["--platform", "linux/arm/v7"]).platform("linux/arm/v7");
    let both = env.build_into("c", ["--platform", "linux/arm64,linux/arm/v7"]);
    assert_eq!(both.platform("linux/arm64").layer_digests(), first.layer_digests());
    assert_eq!(both.platform("linux/arm/v7").layer_digests(), second.layer_digests());
    assert_ne!(first.layer_digests()[0], second.layer_digests()[0]);
});

story!(missing_platform_names_those_there_are : root user, |env| {
    env.dockerfile("FROM base\nENV a=b\n");
    let output = env.build_command(["-t", "x", "--platform", "linux/s390x"]).output();
    assert_ne!(output.code, Some(0));
    output.says("no matching manifest for linux/s390x in the manifest list").says("linux/arm64").says("linux/arm/v7");
});

// Trap 75: BuildKit testBaseImagePlatformMismatch.
story!(config_tells_the_requested_platform : root user, |env| {
    env.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    let layout = env.build(["--platform", "linux/arm/v6,linux/riscv64,windows/amd64"]);
    assert_eq!(layout.platforms(), ["linux/arm/v6", "linux/riscv64", "windows/amd64"]);
});

// Ranked variants: linux/arm/v7 takes v6 where there is no better one; arm64 takes no amd64.
story!(variants_are_ranked : root user, |env| {
    let dir = env.path("base2");
    let writer = Writer::new(&dir);
    let make = |platform: &str| writer.image(&Made::new(platform, json!({}), vec![Tar::new().file("which", platform).bytes()]));
    let manifests = [make("linux/arm/v5"), make("linux/arm/v6"), make("linux/arm64"), make("linux/386")];
    writer.finish(writer.index(&manifests), Some("latest"));
    env.dockerfile("FROM base2\nENV a=b\n");
    let base = format!("base2=oci-layout://{}:latest", dir.display());
    let layout = env.build(["--platform", "linux/arm/v7,linux/arm64", "--build-context", &base]);
    assert_eq!(layout.platform("linux/arm/v7").text("which"), "linux/arm/v6");
    assert_eq!(layout.platform("linux/arm64").text("which"), "linux/arm64");
});

// Trap 77: Buildah bud-multiple-platform-no-partial-manifest-list.
story!(failure_of_one_platform_leaves_no_partial_index : root user, |env| {
    let (foreign, _) = foreign_platform();
    env.dockerfile("FROM base\nARG TARGETPLATFORM\nCOPY $TARGETPLATFORM /x\n");
    env.write(host_platform(), "x");
    let out = env.path("out");
    env.build_command(["-t", "both", "--platform", &format!("{},{foreign}", host_platform()), "-o"]).args([out.as_os_str()]).fails(1);
    assert!(!out.exists());
    assert!(!env.lapstrake(["images"]).ok().stdout.contains("both"));
});

story!(duplicate_platforms_are_one : root user, |env| {
    env.dockerfile("FROM base\nENV a=b\n");
    let layout = env.build(["--platform", "linux/arm64,linux/arm64/v8,linux/aarch64"]);
    assert_eq!(layout.platforms(), ["linux/arm64"]);
});
