//! inspect, images, tag, rmi, du, prune, doctor.

use serde_json::Value;

use crate::support::layout::Layout;
use crate::support::seccomp::forbid_listeners;
use crate::support::{Who, cache};

story!(images_tag_and_rmi : root user single, |env| {
    env.dockerfile("FROM base\nENV a=b\n");
    env.build_command(["-t", "app:1"]).ok();
    env.lapstrake(["tag", "app:1", "example.com/other:2"]).ok();
    let images = env.lapstrake(["images"]).ok().stdout;
    assert!(images.contains("app") && images.contains("example.com/other"), "{images}");
    let list: Value = serde_json::from_str(&env.lapstrake(["images", "--format", "json"]).ok().stdout).expect("JSON");
    assert_eq!(list.as_array().map(Vec::len), Some(2), "{list}");
    env.lapstrake(["rmi", "app:1"]).ok();
    let images = env.lapstrake(["images"]).ok().stdout;
    assert!(images.contains("example.com/other") && !images.contains("app:1"), "{images}");
    let output = env.lapstrake(["rmi", "app:1"]).output();
    assert_ne!(output.code, Some(0));
    output.says("app:1");
    assert_ne!(env.lapstrake(["tag", "never", "x"]).output().code, Some(0));
    // The store's layout is a plain one.
    Layout::open_store(&env.store().join("layout"));
});

story!(inspect_for_people_and_programs : root user, |env| {
    env.dockerfile("FROM base\nRUN touch /x\n");
    let layout = env.build_into("out", ["--platform", "linux/amd64", "-t", "app:1"]);
    let name = format!("oci:{}:1", layout.dir.display());
    let tree = env.lapstrake(["inspect", &name]).ok().stdout;
    assert!(tree.contains("linux/amd64") && tree.contains(&layout.only().layer_digests()[0][7..19]), "{tree}");
    let json: Value = serde_json::from_str(&env.lapstrake(["inspect", "--format", "json", &name]).ok().stdout).expect("JSON");
    assert!(json.is_object() || json.is_array());
    let raw: Value = serde_json::from_str(&env.lapstrake(["inspect", "--raw", &name]).ok().stdout).expect("JSON");
    assert_eq!(raw["schemaVersion"], 2);
    let base = format!("oci:{}:latest", cache().join("busybox").display());
    let tree = env.lapstrake(["inspect", &base]).ok().stdout;
    for platform in ["linux/amd64", "linux/arm64", "linux/arm/v7"] {
        assert!(tree.contains(platform), "{tree}");
    }
    assert!(env.lapstrake(["inspect", "app:1"]).ok().stdout.contains("linux/amd64"));
    assert_ne!(env.lapstrake(["inspect", "oci:/nonexistent"]).output().code, Some(0));
});

story!(prune_keeps_what_is_named : root user single, |env| {
    env.dockerfile("FROM base\nRUN echo kept > /x\n");
    let digest = env.build_into("a", ["-t", "app:1"]).digest();
    env.dockerfile("FROM base\nRUN head -c 3000000 /dev/urandom > /unnamed\n");
    env.build_into("b", [] as [&str; 0]);
    let size = || {
        let output = env.command("du").args(["-s", "-k"]).args([env.store()]).output();
        output.stdout.split_whitespace().next().and_then(|text| text.parse::<u64>().ok()).unwrap_or_default()
    };
    let before = size();
    env.lapstrake(["du"]).ok();
    env.lapstrake(["prune", "--all"]).ok();
    assert!(size() + 2000 < before, "{} kB before, {} kB after", before, size());
    // What has a name is whole.
    let out = env.path("c");
    env.dockerfile("FROM app:1\nRUN cat /x > /y\n");
    env.build_command(["--offline", "-o"]).args([out.as_os_str()]).ok();
    assert_eq!(Layout::open(&out).only().text("y"), "kept\n");
    env.lapstrake(["inspect", "app:1"]).ok();
    assert!(digest.starts_with("sha256:"));
});

story!(doctor_tells_the_rung : root user single, |env| {
    let output = env.lapstrake(["doctor"]).output();
    let text = format!("{}{}", output.stdout, output.stderr);
    let rung = if env.who() == Who::Single { "userns-single" } else { "userns" };
    assert!(text.contains(rung), "{text}");
    if env.who() == Who::Single {
        assert!(text.contains("subuid"), "what is missing, and what to run for it: {text}");
        assert!(text.contains("ok    owners of files"), "{text}");
    } else {
        assert!(!text.contains("owners of files"), "ids are mapped: {text}");
    }
});

// Below a supervisor of its own, for one.
story!(without_a_listener_the_price_is_told : single, |env| {
    let mut doctor = env.lapstrake(["doctor"]);
    forbid_listeners(doctor.command_mut());
    let output = doctor.ok();
    for part in ["FAIL  owners of files", "busy", "costs: chown in RUN fails", "run:   use Linux 5.8"] {
        assert!(output.stdout.contains(part), "{part}\n{}", output.stdout);
    }
    env.dockerfile("FROM base\nRUN echo x > /x\nCOPY --chown=5:6 Dockerfile /y\n");
    let out = env.path("out");
    let mut build = env.build_command(["-o"]).args([out.as_os_str()]);
    forbid_listeners(build.command_mut());
    build.ok();
    assert_eq!(Layout::open(&out).only().file("y").line(), "-0644 5:6 y");
    env.dockerfile("FROM base\nRUN touch /x && chown 5:6 /x\n");
    let mut build = env.build_command(["-o"]).args([out.as_os_str()]);
    forbid_listeners(build.command_mut());
    let output = build.output();
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    output.says("Invalid argument");
    output.says("subuid");
});

story!(help_and_version : user, |env| {
    assert!(env.lapstrake(["--version"]).ok().stdout.contains(env!("CARGO_PKG_VERSION")));
    let help = env.lapstrake(["build", "--help"]).ok().stdout;
    for flag in ["--platform", "--build-arg", "--target", "--build-context", "--secret", "--no-cache-filter", "--output"] {
        assert!(help.contains(flag), "{flag}\n{help}");
    }
});

// --isolation never falls to another rung silently.
story!(isolation_that_was_asked_for_or_an_error : user single, |env| {
    env.dockerfile("FROM base\nRUN grep -c . /proc/self/uid_map && awk '{print $3}' /proc/self/uid_map > /ids\n");
    let out = env.path("out");
    env.build_command(["--isolation", "userns-single", "-o"]).args([out.as_os_str()]).ok();
    assert_eq!(Layout::open(&out).only().text("ids"), "1\n");
    let output = env.build_command(["--isolation", "userns", "--no-cache", "-t", "x"]).output();
    if env.who() == Who::Single {
        assert_eq!(output.code, Some(3), "{}", output.stderr);
        output.says("subuid");
    } else {
        assert_eq!(output.code, Some(0), "{}", output.stderr);
    }
});
