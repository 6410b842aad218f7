//! RUN --mount: bind, cache, tmpfs, secret.

story!(bind_mounts_of_context_stage_and_image : root user single, |env| {
    env.write("dir/file", "context");
    let image = env.image(
        "FROM base AS other\nRUN mkdir /made && echo stage > /made/file\nFROM base\nRUN --mount=target=/ctx --mount=type=bind,from=other,source=/made,target=/stage --mount=type=bind,source=dir/file,target=/one cat /ctx/dir/file /stage/file /one > /seen && ! touch /ctx/x 2>/dev/null\n",
    );
    assert_eq!(image.text("seen"), "contextstage\ncontext");
    for path in ["ctx", "stage", "one"] {
        assert!(!image.has(path), "{path}");
    }
});

// Trap 53: BuildKit testMountRWCache.
story!(writes_to_a_bind_mount_are_discarded : root user single, |env| {
    env.write("dir/file", "original");
    let image = env.image(
        "FROM base\nRUN --mount=type=bind,source=dir,target=/d,rw echo changed > /d/file && touch /d/new && cat /d/file > /seen\nRUN --mount=type=bind,source=dir,target=/d cat /d/file > /again && ! test -e /d/new\n",
    );
    assert_eq!(image.text("seen"), "changed\n");
    assert_eq!(image.text("again"), "original");
    assert_eq!(std::fs::read_to_string(env.context().join("dir/file")).expect("it was made"), "original");
    assert!(!env.context().join("dir/new").exists());
});

// Buildah "CVE-2024-1753", "CVE-2024-9675": a link in the source must not lead to the host.
story!(mount_sources_never_leave_their_root : root user, |env| {
    let outside = env.write_at("outside/secret", "host");
    env.link(&env.path("outside").display().to_string(), "absolute");
    env.link("../outside", "up");
    for source in ["absolute", "up", "../outside"] {
        env.dockerfile(&format!("FROM base\nRUN --mount=type=bind,source={source},target=/x,rw cat /x/secret && touch /x/broken || true\n"));
        let output = env.build_command(["-t", "x"]).output();
        assert!(!output.stderr.lines().any(|line| line.ends_with(" host") || line == "host"), "{}", output.stderr);
    }
    env.dockerfile(
        "FROM base AS evil\nRUN ln -s / /slash && ln -s ../../../../../../ /dots\nFROM base\nRUN --mount=type=bind,from=evil,source=/slash,target=/x,rw test -e /x/bin/busybox && ! test -e /x/home/lapstrake-test\nRUN --mount=type=cache,target=/c ln -s / /c/slash\nRUN --mount=type=cache,id=/c,source=slash,target=/y true\n",
    );
    let _ = env.build_command(["-t", "x"]).output();
    let parent = outside.parent().expect("it has one");
    let names: Vec<_> = std::fs::read_dir(parent).expect("it was made").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["secret"]);
});

// Trap 54: BuildKit testCacheMountDefaultID, testCacheMountUser.
story!(cache_mounts_persist_by_id_and_owner : root user single, |env| {
    env.dockerfile("FROM base\nRUN --mount=type=cache,target=/cache echo one >> /cache/log; cp /cache/log /log\n");
    env.build_into("a", [] as [&str; 0]);
    env.dockerfile("FROM base\nRUN --mount=type=cache,target=/cache/ echo two >> /cache/log; cp /cache/log /log\n");
    let image = env.build_into("b", [] as [&str; 0]).only();
    assert_eq!(image.text("log"), "one\ntwo\n", "the id is the cleaned target");
    env.dockerfile("FROM base\nRUN --mount=type=cache,target=/cache,id=other ls /cache > /list\nRUN --mount=type=cache,target=/elsewhere,id=/cache ls /elsewhere > /same\n");
    let image = env.build_into("c", [] as [&str; 0]).only();
    assert_eq!((image.text("list").as_str(), image.text("same").as_str()), ("", "log\n"));
    assert!(!image.has("cache") && !image.has("elsewhere"));
});

story!(cache_mounts_of_other_owners_are_others : root user, |env| {
    let image = env.image(
        "FROM base\nRUN --mount=type=cache,target=/c,id=x touch /c/of-root && stat -c '%u:%g %a' /c > /a\nUSER 1000\nRUN --mount=type=cache,target=/c,id=x,uid=1000,gid=1001,mode=0700 touch /c/of-user && ls /c > /tmp/b && stat -c '%u:%g %a' /c >> /tmp/b\n",
    );
    assert_eq!(image.text("a"), "0:0 755\n");
    assert_eq!(image.text("tmp/b"), "of-user\n1000:1001 700\n");
});

// BuildKit testLockedCacheMounts: a second build waits, none sees the other's half-done work.
story!(locked_cache_mounts_exclude_each_other : root user, |env| {
    let script = "test ! -e /c/busy; touch /c/busy; usleep 200000; rm /c/busy; echo x >> /c/count";
    let mut dockerfile = String::new();
    for stage in 0..4 {
        dockerfile.push_str(&format!(
            "FROM base AS s{stage}\nRUN --mount=type=cache,target=/c,sharing=locked set -e; {script}; echo {stage} > /{stage}\n"
        ));
    }
    dockerfile.push_str("FROM base\n");
    for stage in 0..4 {
        dockerfile.push_str(&format!("COPY --from=s{stage} /{stage} /\n"));
    }
    dockerfile.push_str("RUN --mount=type=cache,target=/c cp /c/count /count\n");
    env.dockerfile(&dockerfile);
    let image = env.build(["--jobs", "4"]).only();
    assert_eq!(image.text("count").lines().count(), 4);
});

story!(private_cache_mounts_are_never_shared_at_one_time : root user, |env| {
    env.dockerfile(
        "FROM base AS a\nRUN --mount=type=cache,target=/c,sharing=private test ! -e /c/busy && touch /c/busy && usleep 300000 && rm /c/busy && touch /a\nFROM base AS b\nRUN --mount=type=cache,target=/c,sharing=private test ! -e /c/busy && touch /c/busy && usleep 300000 && rm /c/busy && touch /b\nFROM base\nCOPY --from=a /a /\nCOPY --from=b /b /\n",
    );
    env.build_command(["-t", "x", "--jobs", "4"]).ok();
});

story!(cache_mount_starts_from_a_stage : root user, |env| {
    let image = env.image(
        "FROM base AS seed\nRUN mkdir /seed && echo seeded > /seed/file\nFROM base\nRUN --mount=type=cache,target=/c,from=seed,source=/seed cp /c/file /file\n",
    );
    assert_eq!(image.text("file"), "seeded\n");
});

story!(tmpfs_mounts_start_empty : root user single, |env| {
    let image = env.image(
        "FROM base\nRUN mkdir /t && touch /t/kept\nRUN --mount=type=tmpfs,target=/t,size=1m test -z \"$(ls /t)\" && touch /t/lost && ! dd if=/dev/zero of=/t/big bs=1M count=2 2>/dev/null && grep -q ' /t tmpfs ' /proc/mounts\n",
    );
    assert_eq!(image.below("t"), ["kept"]);
});

// Trap 51: BuildKit testSecretFileParams, testSecretAsEnviron, testSecretRequiredWithoutValue.
story!(secrets_as_files_and_variables : root user single, |env| {
    let secret = env.write_at("secret.txt", "s3cr3t-value");
    env.dockerfile(
        "FROM base\nRUN --mount=type=secret,id=s cat /run/secrets/s > /dev/null && test \"$(cut -c1-4 /run/secrets/s)\" = s3cr && test \"$(stat -c '%a %u' /run/secrets/s)\" = '400 0'\nRUN --mount=type=secret,id=s,target=/etc/token,mode=0440,uid=0 test \"$(stat -c '%a' /etc/token)\" = 440\nRUN --mount=type=secret,id=s,env=TOKEN test \"${#TOKEN}\" = 12 && ! test -e /run/secrets/s\nRUN --mount=type=secret,id=fromenv,env=E test \"$E\" = from-the-environment\nRUN --mount=type=secret,id=absent test ! -e /run/secrets/absent && touch /done\n",
    );
    let out = env.path("out");
    let output = env
        .build_command(["--secret", &format!("id=s,src={}", secret.display()), "--secret", "id=fromenv,env=FROM_ENV", "-o"])
        .args([out.as_os_str()])
        .env("FROM_ENV", "from-the-environment")
        .ok();
    let image = crate::support::layout::Layout::open(&out).only();
    assert!(image.has("done") && !image.has("etc/token") && !image.has("run/secrets"));
    assert!(!image.config.to_string().contains("s3cr3t-value"));
    assert!(!output.stderr.contains("s3cr3t-value"), "{}", output.stderr);
    // Nothing in the store holds it, and another value hits the cache.
    let found = env.command("grep").args(["-r", "-l", "s3cr3t-value"]).args([env.store()]).output();
    assert_eq!(found.stdout, "");
    env.write_at("secret.txt", "other-value-of-it");
    env.build_command(["--secret", &format!("id=s,src={}", secret.display()), "--secret", "id=fromenv,env=FROM_ENV", "-t", "x"])
        .env("FROM_ENV", "changed")
        .ok()
        .says("CACHED");
});

story!(required_secret_must_be_given : root user, |env| {
    env.dockerfile("FROM base\nRUN --mount=type=secret,id=needed,required=true true\n");
    let output = env.build_command(["-t", "x"]).output();
    assert!(matches!(output.code, Some(1 | 2)), "{:?}", output.code);
    output.says("needed");
});

// Trap 56: BuildKit testRelativeMountpoint.
story!(relative_mount_target_is_below_the_workdir : root user, |env| {
    env.write("file", "x");
    env.dockerfile("FROM base\nWORKDIR /w\nRUN --mount=type=bind,source=file,target=sub/file test -f /w/sub/file\nRUN test ! -e /w/sub\n");
    env.build_command(["-t", "x"]).ok();
});

// Trap 53: BuildKit testMountDuplicate; content busts, time does not.
story!(content_of_a_bind_mount_enters_the_key_but_its_time_does_not : root user, |env| {
    let file = env.write("dir/file", "one");
    env.dockerfile("FROM base\nRUN --mount=type=bind,source=dir,target=/d cat /d/file > /seen\n");
    env.build_into("a", [] as [&str; 0]);
    env.command("touch").args(["-d", "2001-01-01"]).args([&file]).ok();
    env.build_command(["-t", "x"]).ok().says("CACHED");
    env.write("dir/file", "two");
    assert_eq!(env.build_into("b", [] as [&str; 0]).only().text("seen"), "two");
});

// runc makes the working directory anew where a mount hides it; moby's own Dockerfile leans on that.
story!(mount_over_the_working_directory : root single, |env| {
    let image = env.image(
        "FROM base\nWORKDIR /go/src/app\nRUN touch there\nRUN --mount=type=tmpfs,target=/go/src pwd >/where && ls -A >>/where && touch gone\n",
    );
    assert_eq!(image.text("where"), "/go/src/app\n");
    assert_eq!(image.below("go"), ["src", "src/app", "src/app/there"]);
    let text = env.build_fails(1, "FROM base\nWORKDIR /in/this\nRUN --mount=type=bind,target=/in true\n");
    assert!(text.contains("cannot enter the working directory /in/this"), "{text}");
    assert!(text.contains("give the mount `rw`"), "{text}");
});
