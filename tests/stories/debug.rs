//! Looking into a step: --on-error, `lapstrake shell`.

use crate::support::{Output, TestEnv, skip};

const BROKEN: &str = "FROM base AS broken\nENV COLOUR=green\nWORKDIR /work\nRUN --mount=type=secret,id=s --mount=type=cache,target=/cache echo made > made && echo cached > /cache/c && exit 3\n";

fn broken(env: &TestEnv, how: &str, input: &str) -> Output {
    let secret = env.write_at("secret.txt", "s3cret-value");
    env.dockerfile(BROKEN);
    env.build_command([
        "-t",
        "x",
        "--on-error",
        how,
        "--secret",
        &format!("id=s,src={}", secret.display()),
    ])
    .input(input)
    .fails(1)
}

story!(on_error_opens_a_shell_in_the_failed_step : root user single, |env| {
    let output = broken(env, "shell", "echo \"$PWD-$COLOUR-$(cat made)-$(cat /cache/c)-$(cat /run/secrets/s)\"\ntouch /more\nexit\n");
    output.says("exit code: 3").says("/work-green-made-cached-s3cret-value");
    // The step is no better for it.
    env.build_command(["-t", "x", "--on-error", "fail"]).fails(1);
    let left = env.command("find").args([env.store().join("tmp")]).args(["-mindepth", "2"]).ok();
    assert_eq!(left.stdout, "");
});

story!(the_end_of_input_ends_the_shell : user, |env| {
    broken(env, "shell", "").says("A shell in the step");
});

story!(a_failed_step_can_be_kept_and_looked_at : root user single, |env| {
    let output = broken(env, "keep", "");
    let number = output
        .stderr
        .lines()
        .find_map(|line| line.split("lapstrake shell ").nth(1))
        .expect("the number is told")
        .trim()
        .to_owned();
    // Twice: what is changed in the shell is lost.
    for _ in 0..2 {
        env.lapstrake(["shell", &number])
            .input("echo \"$PWD-$COLOUR-$(cat made)\"; ls /run/secrets /changed; touch /changed; exit\n")
            .ok()
            .says("/work-green-made")
            .says("/changed: No such file")
            .says_not("s3cret-value");
    }
    env.lapstrake(["prune", "--all"]).ok();
    env.lapstrake(["shell", &number]).fails(2).says("--on-error=keep");
    let found = env.command("grep").args(["-r", "-l", "s3cret-value"]).args([env.store()]).output();
    assert_eq!(found.stdout, "");
});

story!(a_shell_in_a_stage_builds_it_and_leaves_no_image : root user single, |env| {
    env.write("file", "from the context");
    env.dockerfile("FROM base AS one\nENV A=b\nRUN echo one > /one\nCOPY file /file\nUSER 33\nFROM base AS two\nRUN exit 1\n");
    let output = env
        .lapstrake(["shell", "--build-context", &format!("base=oci-layout://{}:latest", crate::support::cache().join("busybox").display()), "one"])
        .args([env.context()])
        .input("echo \"$A-$(cat /one)-$(cat /file)-$(id -u)\"\nexit\n")
        .ok();
    output.says("b-one-from the context-33");
    let again = env
        .lapstrake(["shell", "--build-context", &format!("base=oci-layout://{}:latest", crate::support::cache().join("busybox").display()), "one"])
        .args([env.context()])
        .input("exit\n")
        .ok();
    again.says("CACHED").says_not("DONE 0.1s");
    assert_eq!(env.lapstrake(["images", "-q"]).ok().stdout, "");
    env.lapstrake(["shell", "three"]).args([env.context()]).fails(2);
});

story!(an_image_without_a_shell_gets_ours : root user single, |env| {
    let binary = std::env::var("LAPSTRAKE_TEST_RELEASE").unwrap_or_default();
    if !std::path::Path::new(&binary).is_file() {
        skip("release", "LAPSTRAKE_TEST_RELEASE names no release binary; scripts/test sets it");
        return;
    }
    env.dockerfile("FROM scratch\nCOPY --from=base /bin/busybox /bb\nENV A=b\nRUN [\"/bb\", \"false\"]\n");
    // The static one: ours must run where there is no C library.
    let lapstrake = env.path("lapstrake");
    env.command("cp").args([&binary]).args([&lapstrake]).ok();
    env.command(&lapstrake)
        .args(["build", "--root"])
        .args([env.store()])
        .args(["--on-error", "shell", "--build-context", &format!("base=oci-layout://{}:latest", crate::support::cache().join("busybox").display())])
        .args([env.context()])
        .input("ls -l /; echo \"$A and\" more; /bb echo by a program; nothing; echo $?; exit\n")
        .fails(1)
        .says("bb")
        .says("b and more")
        .says("by a program")
        .says("127");
});
