//! Diagnostics: where, what, why, and what to do; and the exit codes.

story!(syntax_error_shows_line_excerpt_and_hint : root user, |env| {
    let text = env.build_fails(2, "FROM base\nRUNN echo hi\nCOPPY a b\n");
    assert!(text.contains("Dockerfile:2") && text.contains("RUNN echo hi") && text.contains('^'), "{text}");
    assert!(text.contains("RUN") && text.contains("COPPY") && text.contains("COPY"), "all problems at once, with hints: {text}");
});

story!(unknown_flag_and_stage_get_a_suggestion : root user, |env| {
    let text = env.build_fails(2, "FROM base AS builder\nCOPY --chwon=1 a b\n");
    assert!(text.contains("--chwon") && text.contains("--chown"), "{text}");
    env.dockerfile("FROM base AS builder\nFROM scratch\nCOPY --from=buidler /a /b\n");
    let output = env.build_command(["-t", "x", "--offline"]).output();
    assert_ne!(output.code, Some(0));
    output.says("builder");
});

story!(failing_run_shows_its_output_code_and_place : root user single, |env| {
    env.dockerfile("FROM base\nRUN echo before\nRUN seq 1 500 && echo the last words >&2 && exit 42\n");
    let output = env.build_command(["-t", "x"]).fails(1);
    output.says("the last words").says("42").says("Dockerfile:3").says("exit 42");
});

story!(command_not_found_and_not_executable : root user, |env| {
    env.dockerfile("FROM base\nRUN nosuchcommand --flag\n");
    env.build_command(["-t", "x"]).fails(1).says("127").says("nosuchcommand");
    env.dockerfile("FROM base\nRUN [\"nosuchcommand\"]\n");
    env.build_command(["-t", "x"]).fails(1).says("nosuchcommand");
    env.dockerfile("FROM scratch\nRUN echo hi\n");
    env.build_command(["-t", "x"]).fails(1).says("/bin/sh");
});

story!(missing_things_are_usage_errors : root user, |env| {
    let output = env.lapstrake(["build", "-t", "x", "/nonexistent-context"]).fails(2);
    output.says("/nonexistent-context");
    let empty = env.mkdir("empty");
    env.lapstrake(["build", "-t", "x"]).args([&empty]).fails(2).says("Dockerfile");
    env.lapstrake(["build", "--nonsense"]).fails(2);
    env.lapstrake(["nonsense"]).fails(2);
    env.dockerfile("FROM base\n");
    env.build_command(["-t", "UPPER/Case"]).fails(2).says("UPPER");
    env.build_command(["-t", "x", "--platform", "nonsense/arch/x/y"]).fails(2);
});

story!(no_usable_output_is_said_before_anything_runs : root user, |env| {
    env.dockerfile("FROM base\nRUN echo ran\n");
    let file = env.write_at("plain-file", "x");
    let output = env.build_command(["-o"]).args([&file]).output();
    assert_ne!(output.code, Some(0));
    output.says("plain-file");
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), "x");
});

story!(progress_on_a_pipe_is_plain_lines : root user, |env| {
    env.dockerfile("FROM base\nRUN echo visible-output\n");
    let output = env.build_command(["-t", "x"]).ok();
    assert!(!output.stderr.contains('\u{1b}'), "colours on a pipe: {}", output.stderr);
    output.says("RUN echo visible-output");
    let again = env.build_command(["-t", "x"]).ok();
    again.says("CACHED");
    let lapstrake = env.build_command(["-t", "y", "--no-cache"]).env("NO_COLOR", "1").ok();
    assert!(!lapstrake.stderr.contains('\u{1b}'));
});

// A full disk is an error that says so, and the store is whole afterwards.
story!(full_disk_leaves_a_usable_store : root, |env| {
    need_tool!("mount", "unshare");
    env.dockerfile("FROM base\nRUN head -c 60000000 /dev/urandom > /big\n");
    let small = env.mkdir("small");
    let script = format!("mount -t tmpfs -o size=30m none {0} && \"$@\" ; code=$?; test $code = 1 -o $code = 5 || exit 99; ls {0} >/dev/null; exit 0 #", small.display());
    let mut unshare = std::process::Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", &script, "sh"]);
    let output = env.build_command(["-t", "x"]).env("LAPSTRAKE_ROOT", small.join("store")).wrapped(unshare).output();
    assert_eq!(output.code, Some(0), "{}", output.stderr);
});

// What is far larger than any Dockerfile is told at once, and no memory is spent on it.
story!(huge_files_are_no_dockerfiles : user, |env| {
    env.dockerfile(&format!("FROM scratch\nLABEL a={}\n", "x".repeat(5 << 20)));
    env.build_command(["-t", "x"]).fails(2).says("more than 4 MiB").says("COPY");
    env.dockerfile(&format!("FROM scratch\n{}", "nope\n".repeat(500_000)));
    let output = env.build_command(["-t", "x"]).fails(2);
    output.says("too many errors");
    assert!(output.stderr.lines().count() < 20_000, "{}", output.stderr.len());
});
