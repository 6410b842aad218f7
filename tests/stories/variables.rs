//! ENV and ARG: scopes, quoting, overrides, proxies. Expansion itself has its tables in `dockerfile`.

use crate::support::host_platform;

// Trap 29: all of one ENV sees the state before it.
story!(env_of_one_instruction_sees_the_state_before_it : root user, |env| {
    let image = env.image("FROM scratch\nENV a=1\nENV a=2 b=$a c=${a:-x}\nENV d=$b$a\n");
    assert_eq!(image.env()[1..], ["a=2", "b=1", "c=1", "d=12"]);
});

// Trap 30: buildah conformance env-*; BuildKit testEnvEmptyFormatting.
story!(env_quoting : root user, |env| {
    let image = env.image(
        "FROM scratch\nENV a='single $x' b=\"double \\\"q\\\"\" c=back\\ slash d=%s%d\nENV e=\"multi\\\nline\"\nENV f   spaced  value \nENV g='it'\"'\"'s'\nENV h=\n",
    );
    assert_eq!(
        image.env()[1..],
        ["a=single $x", "b=double \"q\"", "c=back slash", "d=%s%d", "e=multiline", "f=spaced  value", "g=it's", "h="]
    );
});

// Trap 29: the later one of an ENV and an ARG of one name is what a RUN sees; the config holds the ENV.
story!(later_of_env_and_arg_wins : root user, |env| {
    env.dockerfile("FROM base\nARG NAME=arg\nENV NAME=env\nRUN echo $NAME > /a\nARG NAME=again\nRUN echo $NAME > /b\nARG OTHER\nRUN echo \"$OTHER\" > /c\n");
    let image = env.build(["--build-arg", "NAME=flag", "--build-arg", "OTHER=given"]).only();
    assert_eq!((image.text("a").as_str(), image.text("b").as_str(), image.text("c").as_str()), ("env\n", "flag\n", "given\n"));
    assert!(image.env().contains(&"NAME=env".to_owned()));
    assert!(!image.env().iter().any(|line| line.starts_with("OTHER")));
});

// Trap 31: BuildKit testGlobalArg, testQuotedMetaArgs, testDefaultEnvWithArgs.
story!(global_arguments_and_their_scope : root user, |env| {
    let image = env.image(
        "ARG image=idlebase\nARG name=\"quoted \"\nARG other=\"$name-x\"\nFROM ${image#idle} AS one\nRUN echo \"[$image]\" > /outside\nARG other\nARG name=default\nRUN echo \"$other|$name\" > /inside\nFROM one\nRUN echo \"[$other]\" > /stage-two\n",
    );
    assert_eq!(image.text("outside"), "[]\n");
    assert_eq!(image.text("inside"), "quoted -x|default\n");
    assert_eq!(image.text("stage-two"), "[quoted -x]\n");
});

// A value may come from the caller's environment: --build-arg NAME.
story!(build_argument_from_the_environment : root user, |env| {
    env.dockerfile("FROM base\nARG FROM_ENV=default\nARG MISSING=default\nRUN echo $FROM_ENV $MISSING > /a\n");
    let out = env.path("out");
    env.build_command(["--build-arg", "FROM_ENV", "--build-arg", "MISSING", "-o"]).args([out.as_os_str()]).env("FROM_ENV", "caller").ok();
    assert_eq!(crate::support::layout::Layout::open(&out).only().text("a"), "caller default\n");
});

// Trap 33: BuildKit testBuiltinArgs.
story!(proxy_arguments_reach_run_but_neither_key_nor_history : root user, |env| {
    env.dockerfile("FROM base\nRUN echo \"$HTTP_PROXY|$no_proxy\" > /proxy\n");
    let first = env.build_into("a", ["--build-arg", "HTTP_PROXY=http://one.invalid", "--build-arg", "no_proxy=local"]).only();
    assert_eq!(first.text("proxy"), "http://one.invalid|local\n");
    assert!(!first.config.to_string().contains("one.invalid"));
    env.build_command(["-t", "x", "--build-arg", "HTTP_PROXY=http://two.invalid"]).ok().says("CACHED");
    env.dockerfile("FROM base\nARG HTTP_PROXY\nRUN echo $HTTP_PROXY > /proxy\n");
    let declared = env.build_into("b", ["--build-arg", "HTTP_PROXY=http://three.invalid"]).only();
    assert!(declared.history().iter().any(|line| line.contains("three.invalid")), "{:?}", declared.history());
});

// Trap 73: BuildKit testPlatformArgsImplicit, testPlatformArgsExplicit.
story!(platform_arguments : root user, |env| {
    let dockerfile = "FROM scratch AS stage\nARG TARGETPLATFORM\nARG TARGETOS\nARG TARGETARCH\nARG TARGETVARIANT\nARG BUILDPLATFORM\nARG TARGETSTAGE\nENV p=$TARGETPLATFORM os=$TARGETOS arch=$TARGETARCH variant=\"$TARGETVARIANT\" build=$BUILDPLATFORM stage=$TARGETSTAGE\n";
    env.dockerfile(dockerfile);
    let layout = env.build(["--platform", "linux/arm64/v8,linux/arm/v7,linux/amd64"]);
    assert_eq!(
        layout.platform("linux/arm64").env()[1..],
        ["p=linux/arm64", "os=linux", "arch=arm64", "variant=", &format!("build={}", host_platform()), "stage=default"]
    );
    assert_eq!(layout.platform("linux/arm/v7").env()[1..5], ["p=linux/arm/v7", "os=linux", "arch=arm", "variant=v7"]);
    let image = env.build_into("b", ["--build-arg", "TARGETARCH=mine", "--target", "stage"]).only();
    assert!(image.env().contains(&"arch=mine".to_owned()) && image.env().contains(&"stage=stage".to_owned()), "{:?}", image.env());
});

story!(unused_build_argument_is_told : user, |env| {
    env.dockerfile("FROM scratch\nENV a=b\n");
    env.build_command(["-t", "x", "--build-arg", "TYPO=1"]).ok().says("TYPO");
});

// Trap 35: testInvalidJSONCommands, testDockerfileLowercase.
story!(invalid_json_is_a_shell_command_and_case_does_not_matter : root user, |env| {
    let image = env.image("from base\nrun [ -d /etc ] && touch /a\ncmd [ \"not, json ]\nexpose 80\n");
    assert!(image.has("a"));
    assert_eq!(image.runtime("Cmd"), &serde_json::json!(["/bin/sh", "-c", "[ \"not, json ]"]));
});
