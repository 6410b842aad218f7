//! Same inputs, same bytes: across users, rungs, umasks, thread counts and stores.

use std::fs;

use crate::support::{Who, host_platform};

const EPOCH: &str = "SOURCE_DATE_EPOCH=1234567890";

fn dockerfile() -> &'static str {
    "FROM base\nCOPY dir/ /dir/\nADD archive.tar /archive/\nWORKDIR /work/deep\nRUN mkdir /made && seq 1 50000 > /made/numbers && ln /made/numbers /made/hard && chmod 4755 /made/numbers && head -c 3000000 /dev/zero > /made/zeros && chown 7:8 /made/zeros && ln -s zeros /made/link && chown -h 9:10 /made/link && cp -p /made/zeros /made/copy\nRUN rm /made/hard && touch /made/later\nENV a=b\n"
}

fn prepare(env: &crate::support::TestEnv) {
    env.write("dir/file", "content");
    env.write_mode("dir/script", "#!/bin/sh\n", 0o755);
    env.link("file", "dir/link");
    env.write(
        "archive.tar",
        crate::support::image::Tar::new().file_as("f", 0o600, (3, 4), b"x").bytes(),
    );
    env.dockerfile(dockerfile());
}

// The digest that every user on every machine gets: each user's test leaves its own and compares with the others'.
story!(every_user_makes_the_same_bytes : root user single, |env| {
    prepare(env);
    let digest = env.build(["--build-arg", EPOCH, "--platform", host_platform()]).only();
    let record = std::env::temp_dir().join(format!("lapstrake-digests-{}", std::process::id()));
    fs::create_dir_all(&record).expect("the temporary directory is writable");
    fs::write(record.join(env.who_name()), format!("{:?} {}", digest.layer_digests(), digest.digest)).expect("it was just made");
    let digests: Vec<_> = fs::read_dir(&record).expect("it was just made").flatten().map(|entry| fs::read_to_string(entry.path()).expect("written whole")).collect();
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:#?}");
    if digests.len() == 3 {
        let _ = fs::remove_dir_all(&record);
    }
});

story!(umask_threads_and_store_do_not_show : root user, |env| {
    prepare(env);
    let first = env.build_into("a", ["--build-arg", EPOCH]).digest();
    for (index, (umask, jobs)) in [("077", "1"), ("000", "4"), ("022", "2")].into_iter().enumerate() {
        let out = env.path(format!("again-{index}"));
        let store = env.path(format!("store-{index}"));
        let touched = env.context().join("dir/file");
        env.command("touch").args([&touched]).ok();
        env.build_command(["--build-arg", EPOCH, "--jobs", jobs, "-o"])
            .args([out.as_os_str()])
            .env("LAPSTRAKE_ROOT", &store)
            .under(&format!("umask {umask}"))
            .ok();
        assert_eq!(crate::support::layout::Layout::open(&out).digest(), first, "umask {umask}, {jobs} jobs");
    }
});

// Traps 65 and 67: BuildKit testSourceDateEpochClamp; never the base's layers or history.
story!(epoch_clamps_new_layers_only : root user single, |env| {
    env.write("new", "x");
    let old = env.write("old", "x");
    env.command("touch").args(["-d", "2001-01-01T00:00:00Z"]).args([&old]).ok();
    env.dockerfile("FROM base\nCOPY new old /\nRUN touch /run\n");
    let out = env.path("out");
    env.build_command(["-o"]).args([out.as_os_str()]).env("SOURCE_DATE_EPOCH", "1234567890").ok();
    let image = crate::support::layout::Layout::open(&out).only();
    for entry in image.own_layers().iter().flatten() {
        assert!(entry.mtime <= 1_234_567_890, "{} {}", entry.line(), entry.mtime);
    }
    assert_eq!(image.file("new").mtime, 1_234_567_890);
    assert_eq!(image.file("old").mtime, 978_307_200);
    assert_eq!(image.config["created"], "2009-02-13T23:31:30Z");
    // The base is of 2023: newer than the epoch, and untouched.
    assert_eq!(image.config["history"][0]["created"], "2023-06-10T00:00:00Z");
    assert_eq!(image.config["history"][1]["created"], "2009-02-13T23:31:30Z");
    assert_eq!(image.file("bin/busybox").mtime, 1_686_355_200);
});

// A layer that is in the store unclamped is packed anew, and its step is not run again.
story!(epoch_changes_the_packing_not_the_step : root user, |env| {
    env.dockerfile("FROM base\nRUN cat /proc/sys/kernel/random/uuid > /stamp\n");
    let plain = env.build_into("a", [] as [&str; 0]).only();
    let clamped = env.build_into("b", ["--build-arg", EPOCH]).only();
    assert_eq!(plain.text("stamp"), clamped.text("stamp"));
    assert_ne!(plain.diff_ids(), clamped.diff_ids());
    assert_eq!(clamped.file("stamp").mtime, 1_234_567_890);
});

// Trap 68.
story!(hostname_is_fixed : root user single, |env| {
    let image = env.image("FROM base\nRUN hostname > /name\n");
    let real = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    assert_ne!(image.text("name"), real);
    assert!(env.who() == Who::Root || !image.text("name").trim().is_empty());
});

// Trap 66: sorted entries, no names, no times of access.
story!(entries_are_sorted_and_anonymous : root user, |env| {
    for name in ["z", "a", "m/b", "m/a", "m-x", "m.y"] {
        env.write(format!("d/{name}"), "x");
    }
    let image = env.image("FROM scratch\nCOPY d/ /d/\n");
    let paths: Vec<_> = image.last_layer().iter().map(|entry| entry.path.replace('/', "\0")).collect();
    let mut sorted = paths.clone();
    sorted.sort();
    assert_eq!(paths, sorted);
});
