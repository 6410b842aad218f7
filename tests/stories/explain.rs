//! `build --explain`: why a step was not cached; `lapstrake explain`: what a code means.

use crate::support::TestEnv;

const TEXT: &str = "FROM base AS build\nARG V=1\nENV MODE=a\nWORKDIR /src\nCOPY . .\nRUN cat f > g\nFROM base\nCOPY --from=build /src/g /g\n";

/// Builds, and gives what is said of each step.
fn explain(env: &TestEnv, args: &[&str]) -> String {
    let output = env.build_command(["-t", "x", "--explain"]).args(args).ok();
    output.stderr.split_once("explain: ").map(|(_, text)| text.to_owned()).unwrap_or_default()
}

story!(explain_names_what_changed : root user single, |env| {
    env.write("f", "1");
    env.dockerfile(TEXT);
    let text = explain(env, &[]);
    assert!(text.starts_with("why steps were not cached\n") && text.matches("no earlier build of this step is known").count() == 4, "{text}");
    assert_eq!(explain(env, &[]), "every step was cached\n");
    env.write("f", "2");
    env.write("h", "new");
    let text = explain(env, &[]);
    assert!(text.contains("COPY . .\n    - files changed: src/f; new: src/h\n"), "{text}");
    assert!(text.contains("RUN cat f > g\n    - the step below it made something else: [build 3/4] COPY . .\n"), "{text}");
    assert!(text.contains("COPY --from=build /src/g /g\n    - files changed: g\n"), "{text}");
    assert!(!text.contains("WORKDIR"), "{text}");
    // Back to what it was: known again.
    env.write("f", "1");
    std::fs::remove_file(env.path("context/h")).expect("it was written");
    assert_eq!(explain(env, &[]), "every step was cached\n");
    let text = explain(env, &["--build-arg", "V=2"]);
    assert!(text.contains("RUN cat f > g\n    - ARG V was \"1\", is \"2\"\n"), "{text}");
    env.dockerfile(&TEXT.replace("MODE=a", "MODE=b API_TOKEN=s3cr3t-value"));
    let text = explain(env, &[]);
    assert!(text.contains("- ENV MODE was \"a\", is \"b\"\n") && text.contains("- ENV API_TOKEN is new\n") && !text.contains("s3cr3t"), "{text}");
    env.dockerfile(&TEXT.replace("cat f > g", "cat f f > g"));
    let text = explain(env, &[]);
    assert!(text.contains("- the instruction was \"/bin/sh -c cat f > g\", is \"/bin/sh -c cat f f > g\"\n"), "{text}");
    let text = explain(env, &["--no-cache"]);
    assert!(text.contains("- the cache is switched off (--no-cache)\n"), "{text}");
});

story!(explain_tells_of_bases_mounts_and_failures : user, |env| {
    env.write("f", "1");
    env.dockerfile("FROM base\nRUN --mount=type=bind,source=f,target=/f cat /f > /g\n");
    explain(env, &[]);
    env.write("f", "2");
    let text = explain(env, &[]);
    assert!(text.contains("- the build context changed\n"), "{text}");
    let layout = env.path("other");
    env.dockerfile("FROM base\nRUN touch /other\n");
    env.build_command(["-o"]).args([&layout]).ok();
    env.dockerfile("FROM base\nRUN --mount=type=bind,source=f,target=/f cat /f > /g\n");
    let text = explain(env, &["--build-context", &format!("base=oci-layout://{}", layout.display())]);
    assert!(text.contains("- the base image is another: "), "{text}");
    env.dockerfile("FROM base\nRUN exit 3\n");
    let output = env.build_command(["-t", "x", "--explain"]).fails(1);
    output.says("explain: why steps were not cached").says("exit code: 3");
    // Not asked for, nothing is said.
    env.build_command(["-t", "x"]).fails(1).says_not("explain");
});

story!(codes_are_explained : user, |env| {
    let list = env.lapstrake(["explain"]).ok().stdout;
    assert!(list.lines().count() > 90 && list.contains("E0201  ") && list.contains("W0111  UndefinedVar: "), "{list}");
    let error = env.build_fails(2, "FROM base\nCPOY a b\n");
    assert!(error.contains("error[E0201]"), "{error}");
    let page = env.lapstrake(["explain", "e0201"]).ok().stdout;
    assert!(page.starts_with("E0201: "), "{page}");
    let page = env.lapstrake(["explain", "UndefinedVar"]).ok().stdout;
    assert!(page.contains("Bad:") && page.contains("    FROM debian\n") && page.contains("# check=skip=UndefinedVar"), "{page}");
    env.lapstrake(["explain", "UndefinedVra"]).fails(2).says("did you mean UndefinedVar?");
});
