//! What other builders got wrong, and no other story is about. Each names their case.

use serde_json::json;

use crate::support::host_platform;
use crate::support::image::{Tar, busybox_with};

// Buildah "bud build with heredoc verify mount leak".
story!(scripts_of_heredocs_leave_no_trace : root user single, |env| {
    let image = env.image("FROM base\nRUN <<EOF\n#!/bin/sh\nls /dev/pipes > /list\nEOF\nRUN ls /dev > /after\n");
    assert_eq!(image.text("list"), "EOF\n");
    assert!(!image.text("after").contains("pipes"), "{}", image.text("after"));
    assert!(!image.has("dev/pipes") && !image.has("dev/pipes/EOF"));
});

// Buildah conformance setuid-file-in-archive, xattrs-file-in-archive.
story!(modes_owners_and_attributes_of_an_archive_are_kept : root user single, |env| {
    let capability: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let archive = Tar::new()
        .file_as("suid", 0o4755, (7, 8), b"x")
        .dir_as("sticky", 0o1777, (0, 0))
        .pax(&[("SCHILY.xattr.security.capability", capability), ("SCHILY.xattr.user.note", b"a\n\x00b")])
        .file_as("ping", 0o755, (0, 0), b"x")
        .bytes();
    env.write("files.tar", archive);
    let image = env.image("FROM scratch AS one\nADD files.tar /d/\nFROM scratch\nCOPY --from=one /d /d\n");
    assert_eq!(image.file("d/suid").line(), "-4755 7:8 d/suid");
    assert_eq!(image.file("d/sticky").mode, 0o1777);
    let xattrs = &image.file("d/ping").xattrs;
    assert_eq!(xattrs.get("security.capability").map(Vec::as_slice), Some(capability));
    assert_eq!(xattrs.get("user.note").map(Vec::as_slice), Some(&b"a\n\x00b"[..]));
});

// BuildKit testOnBuildWithCacheMount, testOnBuildHeredoc.
story!(triggers_may_mount_caches_and_hold_heredocs : root user, |env| {
    let dir = env.path("base2");
    let script = "RUN <<EOF\necho 42 >> /cache/foo\nEOF";
    let runtime = json!({"OnBuild": ["RUN --mount=type=cache,target=/cache echo 41 > /cache/foo", "COPY <<EOF /made\nof a trigger\nEOF", script.replace("RUN", "RUN --mount=type=cache,target=/cache")]});
    busybox_with(&dir, host_platform(), runtime, Vec::new());
    env.dockerfile("FROM base2\nRUN --mount=type=cache,target=/cache cp /cache/foo /foo\n");
    let image = env.build(["--build-context", &format!("base2=oci-layout://{}:latest", dir.display())]).only();
    assert_eq!((image.text("foo").as_str(), image.text("made").as_str()), ("41\n42\n", "of a trigger\n"));
    assert!(!image.has("cache"));
});

// Buildah "bud with custom files in /run/ should persist cleanup test".
story!(files_that_a_step_puts_into_run_stay : root user single, |env| {
    let image = env.image("FROM base\nRUN --mount=type=secret,id=none mkdir -p /run/own && echo mine > /run/own/file\nRUN cat /run/own/file\n");
    assert_eq!(image.text("run/own/file"), "mine\n");
    assert!(!image.has("run/secrets"));
});

// BuildKit testEnvEmptyFormatting: a value is no format.
story!(percent_signs_are_text : user, |env| {
    let image = env.image("FROM scratch\nENV A=%foo%s%\nLABEL b=100%d\n");
    assert!(image.env().contains(&"A=%foo%s%".to_owned()));
    assert_eq!(image.runtime("Labels"), &json!({"b": "100%d"}));
});

// The checks' notes ran into the next line.
story!(every_warning_stands_on_its_own_lines : user, |env| {
    env.dockerfile("FROM scratch as One\nMAINTAINER me\nLABEL a=b\n");
    let output = env.build_command(["-t", "x"]).ok();
    let count = output.stderr.lines().filter(|line| line.starts_with("warning[")).count();
    assert_eq!(count, output.stderr.matches("warning[").count(), "{}", output.stderr);
    assert!(count >= 2, "{}", output.stderr);
});
