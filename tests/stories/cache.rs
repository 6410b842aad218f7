//! The cache: what hits, what misses, across builds, processes and kills.

use std::fs;

use crate::support::TestEnv;
use crate::support::layout::Layout;

/// Builds into the store and gives how many steps were cached, by the word that the progress prints.
fn cached(env: &TestEnv, args: &[&str]) -> usize {
    let output = env.build_command(["-t", "x"]).args(args).ok();
    output.stderr.lines().filter(|line| line.contains("CACHED")).count()
}

/// The content of /stamp, which every RUN of these stories fills with something new.
fn stamp(env: &TestEnv, args: &[&str]) -> String {
    env.build_into("stamped", args).only().text("stamp")
}

const STAMP: &str = "cat /proc/sys/kernel/random/uuid > /stamp";

story!(unchanged_build_runs_nothing : root user single, |env| {
    env.write("foo", "foo");
    env.dockerfile(&format!("FROM base\nCOPY foo /\nRUN {STAMP}\nRUN echo second > /second\n"));
    let first = stamp(env, &[]);
    assert_eq!(stamp(env, &[]), first);
    assert!(cached(env, &[]) >= 2);
});

// LABEL and the like above a RUN never invalidate it; nor does a comment.
story!(metadata_above_a_run_never_invalidates_it : root user, |env| {
    env.dockerfile(&format!("FROM base\nLABEL v=1\nCMD a\nEXPOSE 80\nRUN {STAMP}\n"));
    let first = stamp(env, &[]);
    env.dockerfile(&format!("# a comment\nFROM base\nLABEL v=2\nCMD b\nEXPOSE 81\nVOLUME /v\nHEALTHCHECK CMD x\nSTOPSIGNAL 9\nMAINTAINER me\nENTRYPOINT x\nRUN {STAMP}\n"));
    assert_eq!(stamp(env, &[]), first);
    env.dockerfile(&format!("FROM base\nENV v=2\nRUN {STAMP}\n"));
    assert_ne!(stamp(env, &[]), first, "ENV is seen by a RUN");
});

// What a RUN can not see does not enter its key: times, and the layers' split.
story!(fresh_checkout_shares_every_later_run : root user, |env| {
    let file = env.write("src/foo", "foo");
    env.dockerfile(&format!("FROM base\nCOPY src/ /src/\nWORKDIR /w\nRUN {STAMP}\n"));
    let first = stamp(env, &[]);
    env.command("touch").args(["-d", "2001-01-01"]).args([&file]).args([&env.context().join("src")]).ok();
    assert_eq!(stamp(env, &[]), first);
    fs::remove_dir_all(env.context().join("src")).expect("it was made");
    env.write("src/foo", "foo");
    assert_eq!(stamp(env, &[]), first);
    env.write("src/foo", "bar");
    assert_ne!(stamp(env, &[]), first);
});

// Same size, same time to the nanosecond: the change is seen all the same.
story!(edit_within_the_clock_tick_is_seen : root user, |env| {
    env.dockerfile("FROM scratch\nCOPY foo /\n");
    for round in 0..10 {
        env.write("foo", format!("{round}"));
        assert_eq!(env.build_into("round", [] as [&str; 0]).only().text("foo"), format!("{round}"));
    }
    let file = env.write("foo", "a");
    env.command("touch").args(["-d", "2001-01-01"]).args([&file]).ok();
    env.build_into("round", [] as [&str; 0]);
    fs::write(&file, "b").expect("it is there");
    env.command("touch").args(["-d", "2001-01-01"]).args([&file]).ok();
    assert_eq!(env.build_into("round", [] as [&str; 0]).only().text("foo"), "b");
});

// BuildKit testCopyWildcardCache, testWildcardRenameCache.
story!(rename_and_new_match_of_a_wildcard_are_seen : root user, |env| {
    env.write("a.txt", "x");
    env.dockerfile("FROM scratch\nCOPY *.txt /d/\n");
    assert_eq!(env.build_into("a", [] as [&str; 0]).only().below("d"), ["a.txt"]);
    fs::rename(env.context().join("a.txt"), env.context().join("b.txt")).expect("it was made");
    assert_eq!(env.build_into("b", [] as [&str; 0]).only().below("d"), ["b.txt"]);
    env.write("c.txt", "y");
    env.write("ignored.md", "y");
    assert_eq!(env.build_into("c", [] as [&str; 0]).only().below("d"), ["b.txt", "c.txt"]);
    env.write_mode("c.txt", "y", 0o755);
    assert_eq!(env.build_into("d", [] as [&str; 0]).only().file("d/c.txt").mode, 0o755);
});

story!(no_cache_runs_everything_or_the_named_stage : root user, |env| {
    env.dockerfile(&format!("FROM base AS one\nRUN {STAMP}\nFROM base AS two\nCOPY --from=one /stamp /one\nRUN {STAMP}\n"));
    let read = |args: &[&str]| {
        let image = env.build_into("out", args).only();
        (image.text("one"), image.text("stamp"))
    };
    let first = read(&[]);
    assert_eq!(read(&[]), first);
    let filtered = read(&["--no-cache-filter", "two"]);
    assert_eq!(filtered.0, first.0);
    assert_ne!(filtered.1, first.1);
    let all = read(&["--no-cache"]);
    assert!(all.0 != first.0 && all.1 != filtered.1);
    // What it made replaces what was known.
    assert_eq!(read(&[]), all);
});

// A blob of a form that this build does not ask for, and that a later one does, is of the old run.
story!(what_ran_anew_is_packed_anew_in_every_form : root, |env| {
    env.dockerfile("FROM base\nRUN cat /proc/sys/kernel/random/uuid > /id\nRUN cp /id /copy\n");
    let build = |out: &str, more: &[&str]| {
        let output = format!("type=oci,tar=false,dest={out},compression-level=9");
        env.build_command(["-o", &output]).env("SOURCE_DATE_EPOCH", "1700000000").args(more).ok();
        let image = Layout::open(&env.path(out)).only();
        assert_eq!(image.text("id"), image.text("copy"));
        image.text("id")
    };
    let first = build("first", &[]);
    let second = env.build_into("second", ["--no-cache"]).only().text("id");
    assert_ne!(first, second);
    assert_eq!(build("third", &[]), second);
});

// BuildKit testCacheMountModeNoCache: a cache mount outlives --no-cache.
story!(no_cache_keeps_cache_mounts : root user, |env| {
    env.dockerfile("FROM base\nRUN --mount=type=cache,target=/c echo x >> /c/log && cp /c/log /log\n");
    env.build_into("a", ["--no-cache"]);
    assert_eq!(env.build_into("b", ["--no-cache"]).only().text("log"), "x\nx\n");
});

// Buildah "bud --layers and --build-args".
story!(arguments_enter_the_key_where_they_are_visible : root user, |env| {
    env.dockerfile(&format!("FROM base\nRUN {STAMP}\nARG A=1\nRUN echo $A > /a\n"));
    let first = stamp(env, &["--build-arg", "A=2"]);
    assert_eq!(stamp(env, &["--build-arg", "A=3"]), first, "an ARG below a RUN");
    env.dockerfile(&format!("FROM base\nARG A=1\nRUN {STAMP}\n"));
    let one = stamp(env, &["--build-arg", "A=2"]);
    assert_ne!(stamp(env, &["--build-arg", "A=3"]), one);
    assert_eq!(stamp(env, &["--build-arg", "A=2"]), one);
});

story!(failed_build_resumes_where_it_was : root user single, |env| {
    env.dockerfile(&format!("FROM base\nRUN {STAMP}\nRUN exit 7\n"));
    env.build_command(["-t", "x"]).fails(1).says("7");
    env.dockerfile(&format!("FROM base\nRUN {STAMP}\nRUN echo fixed > /fixed\n"));
    env.build_command(["-t", "x"]).ok().says("CACHED");
});

// One build of a key at a time, across processes.
story!(two_builds_at_once_run_a_step_once : root user, |env| {
    env.dockerfile(&format!("FROM base\nRUN {STAMP} && usleep 500000\n"));
    let stamps: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = ["a", "b", "c"]
            .into_iter()
            .map(|name| scope.spawn(move || env.build_into(name, [] as [&str; 0]).only().text("stamp")))
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("the build goes through")).collect()
    });
    assert_eq!(stamps[0], stamps[1]);
    assert_eq!(stamps[1], stamps[2]);
});

// A step that is torn out of the store is run again, never an error.
story!(damaged_records_are_misses : root user, |env| {
    env.dockerfile("FROM base\nRUN echo x > /x\n");
    env.build_into("a", [] as [&str; 0]);
    let mut torn = 0;
    let mut directories = vec![env.store().join("steps")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("records are there").flatten() {
            if entry.path().is_dir() {
                directories.push(entry.path());
            } else {
                let bytes = fs::read(entry.path()).expect("it is a file");
                fs::write(entry.path(), &bytes[..bytes.len() / 2]).expect("it is writable");
                torn += 1;
            }
        }
    }
    assert!(torn > 0);
    assert_eq!(env.build_into("b", [] as [&str; 0]).only().text("x"), "x\n");
});

// Trees may be deleted at any time; blobs rebuild them.
story!(missing_trees_are_made_again : root user, |env| {
    env.dockerfile("FROM base\nRUN echo x > /x\n");
    env.build_into("a", [] as [&str; 0]);
    let trees = env.store().join("trees");
    std::process::Command::new("rm").arg("-rf").arg(&trees).status().expect("rm is everywhere");
    env.dockerfile("FROM base\nRUN echo x > /x\nRUN cat /x > /y\n");
    assert_eq!(env.build_into("b", [] as [&str; 0]).only().text("y"), "x\n");
});

// Independent stages run side by side; a stage that no output needs does not run.
story!(stages_run_in_parallel_and_only_if_needed : root user, |env| {
    env.dockerfile(
        "FROM base AS a\nRUN --mount=type=cache,target=/c,id=meet touch /c/a && for i in $(seq 1000); do test -e /c/b && exit 0; usleep 20000; done; exit 1\nFROM base AS b\nRUN --mount=type=cache,target=/c,id=meet touch /c/b && for i in $(seq 1000); do test -e /c/a && exit 0; usleep 20000; done; exit 1\nFROM base AS never\nRUN exit 9\nFROM base\nCOPY --from=a /etc/passwd /a\nCOPY --from=b /etc/passwd /b\n",
    );
    env.build_command(["-t", "x", "--jobs", "2"]).ok();
});
