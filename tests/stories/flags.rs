//! Flags that other builders have: those that work here too, and those that are refused with a way out.

use serde_json::json;

story!(flags_of_other_builders_are_refused_with_a_way_out : user, |env| {
    env.dockerfile("FROM base\n");
    for (args, says) in [
        (&["--squash"][..], "FROM scratch"),
        (&["--volume", "/etc:/x"], "--build-context"),
        (&["-v", "/etc:/x"], "--build-context"),
        (&["--destination=x"], "-t NAME --push"),
        (&["--all-platforms"], "--platform linux/amd64"),
    ] {
        let output = env.build_command(args).fails(2);
        output.says(args[0].split('=').next().expect("one")).says("hint").says(says);
        assert!(output.stdout.is_empty());
    }
});

story!(one_file_at_a_time : user, |env| {
    env.dockerfile("FROM base\n");
    env.build_command(["-f", "a", "-f", "b"]).fails(2).says("one Dockerfile").says("build -f -");
    env.build_command(["-t", "x", "--target", "a", "--target", "b"]).fails(2).says("--target");
});

// Buildah "bud with --build-arg-file".
story!(build_arguments_of_a_file : user, |env| {
    env.write_at("one.env", "# of all builds\n\nA=1\nB=two words # no comment\n  C=1\nFROM_ENV\nUNSET\n");
    env.write_at("two.env", "C=2\r\nD=1");
    env.dockerfile("FROM base\nARG A\nARG B\nARG C\nARG D\nARG FROM_ENV\nARG UNSET=default\nENV ALL=\"$A|$B|$C|$D|$FROM_ENV|$UNSET\"\n");
    let out = env.path("out");
    env.build_command(["--build-arg-file", "one.env", "--build-arg-file", "two.env", "--build-arg", "D=flag"])
        .args(["-o".as_ref(), out.as_os_str()])
        .env("FROM_ENV", "env")
        .ok();
    let image = crate::support::layout::Layout::open(&out).only();
    assert!(image.env().contains(&"ALL=1|two words # no comment|2|flag|env|default".to_owned()), "{:?}", image.env());
    env.build_command(["--build-arg-file", "nowhere"]).fails(2).says("--build-arg-file nowhere");
    env.write_at("bad.env", "A=1\n=2\n");
    env.build_command(["--build-arg-file", "bad.env"]).fails(2).says("bad.env, line 2");
});

// Buildah "bud with ignorefile".
story!(ignore_file_of_the_command_line : user, |env| {
    env.write("a", "a");
    env.write("b", "b");
    env.write(".dockerignore", "a");
    env.write_at("mine", "b");
    env.dockerfile("FROM scratch\nCOPY . /d/\n");
    assert_eq!(env.build(["--ignorefile", "mine"]).only().below("d"), [".dockerignore", "Dockerfile", "a"]);
    env.build_command(["--ignorefile", "nowhere"]).fails(2).says("nowhere");
    env.write_at("bad", "ok\nb[\n");
    env.build_command(["--ignorefile", "bad"]).fails(2).says("line 2");
});

// Buildah "bud with --dns* flags".
story!(name_servers_of_the_command_line : root user single, |env| {
    env.dockerfile("FROM base\nRUN cp /etc/resolv.conf /seen\n");
    let dns = ["--dns=223.5.5.5", "--dns", "::1", "--dns-search=example.com", "--dns-option=use-vc"];
    let image = env.build(dns).only();
    let seen = image.text("seen");
    assert!(seen.starts_with("nameserver 223.5.5.5\nnameserver ::1\nsearch example.com\noptions use-vc\n"), "{seen}");
    assert_eq!(seen.matches("nameserver").count(), 2, "{seen}");
    assert!(!image.has("etc/resolv.conf"));
    env.build_command(["--dns=here"]).fails(2).says("--dns");
    // It is no part of what a step is made from.
    assert_eq!(env.build_into("again", [] as [&str; 0]).only().text("seen"), seen);
});

// Buildah "bud with --env", "bud with --unsetenv", "bud with --unsetlabel".
story!(the_command_line_edits_the_config : user, |env| {
    env.dockerfile("FROM base\nENV A=1 GONE=1\nLABEL keep=1 gone=1\nRUN test $A = 1 && test $GONE = 1\n");
    let out = env.path("out");
    env.build_command(["--env", "A=2", "--env", "FROM_ENV", "--env", "NOT_SET", "--unsetenv", "GONE", "--unsetlabel", "gone"])
        .args(["-o".as_ref(), out.as_os_str()])
        .env("FROM_ENV", "x y")
        .ok();
    let image = crate::support::layout::Layout::open(&out).only();
    let mut env_pairs = image.env();
    env_pairs.retain(|pair| !pair.starts_with("PATH="));
    assert_eq!(env_pairs, ["A=2", "FROM_ENV=x y"]);
    assert_eq!(image.runtime("Labels"), &json!({"keep": "1"}));
    env.build_command(["--unsetenv", "A=2"]).fails(2).says("--unsetenv A=2");
});

// Buildah "bud ARG scope"; BuildKit hands the arguments of a stage on to those that are from it.
story!(arguments_come_with_the_stage_they_are_from : root user, |env| {
    env.dockerfile("FROM base AS one\nARG OWN=default\nFROM one AS two\nRUN echo \"$OWN\" > /two\nFROM base\nRUN echo \"<$OWN>\" > /three\nCOPY --from=two /two /two\n");
    let image = env.build(["--build-arg", "OWN=given"]).only();
    assert_eq!((image.text("two").as_str(), image.text("three").as_str()), ("given\n", "<>\n"));
});

// buildx takes this argument for `--cache-to type=inline`.
story!(the_build_argument_for_an_inline_cache_is_followed : user, |env| {
    env.dockerfile("FROM base\nRUN echo > /x\n");
    let image = env.build(["--build-arg", "BUILDKIT_INLINE_CACHE=1"]).only();
    assert!(image.config.get("dev.lapstrake.cache.v1").is_some(), "{}", image.config);
    assert!(env.build(["--build-arg", "BUILDKIT_INLINE_CACHE=0"]).only().config.get("dev.lapstrake.cache.v1").is_none());
    let output = env.build_command(["-t", "x", "--build-arg", "BUILDKIT_MULTI_PLATFORM=1"]).ok();
    output.says("BUILDKIT_MULTI_PLATFORM has no effect").says("lapstrake index");
});

// BuildKit testCacheMountParallel.
story!(cache_mounts_may_be_nested : root user single, |env| {
    let nested = "--mount=type=cache,target=/foo/bar --mount=type=cache,target=/foo/bar/baz";
    let image = env.image(&format!(
        "FROM base AS one\nRUN {nested} echo 1 > /foo/bar/1 && echo 1 > /foo/bar/baz/1\nFROM base AS two\nRUN {nested} echo 2 > /foo/bar/2 && echo 2 > /foo/bar/baz/2\nFROM base\nCOPY --from=one /etc/passwd /1\nCOPY --from=two /etc/passwd /2\nRUN {nested} ls /foo/bar /foo/bar/baz > /list\n"
    ));
    assert_eq!(image.text("list"), "/foo/bar:\n1\n2\nbaz\n\n/foo/bar/baz:\n1\n2\n");
    assert!(!image.has("foo"));
});
