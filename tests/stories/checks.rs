//! Build checks: `--check`, `--call`, directives, and what only a built layer shows.

use serde_json::Value;

const MIXED: &str = "# V is the version\nARG V=1\nFROM base AS Tools\nENV A=$NOPE\nFROM Tools AS app\nARG V\nARG FLAGS=-O$V\nRUN --mount=type=secret,id=token,required --mount=type=ssh touch /never\nCOPY left-out /\nCMD run it\n";

story!(check_finds_and_builds_nothing : root user single, |env| {
    env.write(".dockerignore", "left-out\n");
    env.dockerfile(&MIXED.replace(" --mount=type=ssh", ""));
    let output = env.build_command(["--check"]).fails(2);
    for rule in ["StageNameCasing", "UndefinedVar", "CopyIgnoredFile", "JSONArgsRecommended"] {
        assert!(output.stdout.contains(rule), "{rule} is not in:\n{}", output.stdout);
    }
    assert!(output.stdout.contains("Dockerfile:4:7") && output.stdout.ends_with("checked: 4 warnings\n"), "{}", output.stdout);
    output.says_not("isolation").says_not("RUN");
    env.dockerfile("FROM base\nCMD [\"run\"]\n");
    let output = env.build_command(["--check"]).ok();
    assert_eq!(output.stdout, "checked: nothing found\n");
});

story!(check_speaks_json_in_the_shape_of_buildx : user, |env| {
    env.dockerfile("FROM base\nRUN echo a \\\n  b\nENV A=$NOPE\n");
    let output = env.build_command(["--call=check,format=json"]).fails(2);
    let json: Value = serde_json::from_str(&output.stdout).expect("JSON");
    let warning = &json["warnings"][0];
    assert_eq!(warning["ruleName"], "UndefinedVar");
    assert_eq!(warning["url"], "https://docs.docker.com/go/dockerfile/rule/undefined-var/");
    assert!(warning["description"].is_string() && warning["detail"].is_string());
    assert_eq!(warning["location"]["ranges"][0]["start"]["line"], 4);
    assert_eq!(json["sources"][0]["filename"], "Dockerfile");
    assert_eq!(json["sources"][0]["language"], "Dockerfile");
    assert!(json["sources"][0]["data"].as_str().is_some_and(|data| data.starts_with("RlJPTSBi")));
    // A file that is no Dockerfile has an error beside its warnings.
    env.dockerfile("FROM base as B\nRUNN x\n");
    let output = env.build_command(["--call=check,format=json"]).fails(2);
    let json: Value = serde_json::from_str(&output.stdout).expect("JSON");
    assert!(json["buildError"]["message"].as_str().is_some_and(|text| text.contains("RUNN")), "{json}");
    assert_eq!(json["buildError"]["location"]["ranges"][0]["start"]["line"], 2);
    let ignored = env.build_command(["--call=check,format=json,ignorestatus"]).ok();
    assert_eq!(ignored.stdout, output.stdout);
});

story!(outline_and_targets_tell_what_a_file_offers : user, |env| {
    env.dockerfile(MIXED);
    let outline = env.build_command(["--call=outline"]).ok().stdout;
    assert_eq!(outline, "TARGET:      app\n\nBUILD ARG   VALUE   DESCRIPTION\nV           1       is the version\nFLAGS       -O1\n\nSECRET   REQUIRED\ntoken    true\n\nSSH       REQUIRED\ndefault\n");
    let json = env.build_command(["--call=outline,format=json", "--build-arg", "V=2"]).ok().stdout;
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["args"][0]["name"], "V");
    assert_eq!(json["args"][0]["value"], "2");
    assert_eq!(json["secrets"][0]["required"], true);
    let targets = env.build_command(["--call=targets"]).ok().stdout;
    assert_eq!(targets, "TARGET          DESCRIPTION\ntools\napp (default)\n");
    let json = env.build_command(["--call=targets,format=json"]).ok().stdout;
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["targets"][1]["default"], true);
    assert_eq!(json["targets"][1]["base"], "Tools");
    env.build_command(["--call=outlines"]).fails(2).says("--call=outline");
});

story!(checks_are_skipped_and_made_errors_by_directives : root user, |env| {
    env.dockerfile("# check=skip=UndefinedVar\nFROM base\nENV A=$NOPE\n");
    env.build_command(["--check"]).ok();
    env.dockerfile("FROM base\nENV A=$NOPE\n");
    let built = env.build_command(["-t", "x"]).ok();
    built.says("nothing defines the variable `NOPE`").says("check UndefinedVar");
    env.build_command(["-t", "x", "--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=all"]).ok().says_not("NOPE");
    let text = env.build_fails(2, "# check=error=true\nFROM base\nRUN touch /never\nENV A=$NOPE\n");
    assert!(text.contains("UndefinedVar") && !text.contains("#1"), "{text}");
    env.build_command(["-t", "x", "--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=Nonsense;error=maybe"]).fails(2);
});

story!(an_emulated_compile_step_gets_the_lines_to_write : user, |env| {
    let (platform, _) = crate::support::foreign_platform();
    env.dockerfile("FROM base AS build\nRUN go build -o /app .\n");
    let output = env.build_command(["--check", "--platform", platform]).fails(2);
    for line in ["EmulatedCompile", "FROM --platform=$BUILDPLATFORM base AS build", "ARG TARGETOS TARGETARCH", "RUN GOOS=$TARGETOS GOARCH=$TARGETARCH go build -o /app ."] {
        assert!(output.stdout.contains(line), "{line} is not in:\n{}", output.stdout);
    }
    env.build_command(["--check"]).ok();
});

story!(a_layer_that_repeats_files_says_what_that_costs : root user, |env| {
    env.write("big", vec![7u8; 2_500_000]);
    let text = "FROM base\nCOPY big /app/big\nRUN chown -R 7:7 /app && echo x > /app/small\n";
    env.dockerfile(text);
    let output = env.build_command(["-t", "x"]).ok();
    output.says("this RUN stores 2.5 MB again: only owner or mode of a file changed").says("Dockerfile:3").says("RepeatedFiles").says("COPY --chown");
    // A step that is known says the same.
    env.build_command(["-t", "x"]).ok().says("CACHED").says("stores 2.5 MB again");
    env.dockerfile(&text.replace("RUN", "# check=skip=RepeatedFiles\nRUN"));
    env.build_command(["-t", "x"]).ok().says_not("RepeatedFiles");
    let text = env.build_fails(2, &format!("# check=error=true\n{text}"));
    assert!(text.contains("error=true forbids that: RepeatedFiles"), "{text}");
    // What ends in no image costs nothing.
    env.dockerfile("FROM base AS a\nCOPY big /app/big\nRUN chown -R 7:7 /app\nFROM base\nCOPY --from=a /app/big /b\n");
    env.build_command(["-t", "x"]).ok().says_not("RepeatedFiles");
});

story!(a_package_cache_in_a_layer_is_weighed : user, |env| {
    env.dockerfile("FROM base\nRUN mkdir -p /var/lib/apt/lists && head -c 1200000 /dev/zero > /var/lib/apt/lists/all && rm -f /none\nRUN --mount=type=cache,target=/var/cache/apt head -c 1200000 /dev/zero > /var/cache/apt/x\n");
    let output = env.build_command(["-t", "x"]).ok();
    output.says("this RUN leaves 1.2 MB of apt's cache in its layer").says("Dockerfile:2").says("PackageCache").says("--mount=type=cache,target=/var/cache/apt,sharing=locked");
    assert_eq!(output.stderr.matches("PackageCache").count(), 1, "{}", output.stderr);
});

story!(a_secret_in_a_layer_fails_the_build : root user single, |env| {
    let secret = env.write_at("secret.txt", "s3cr3t-value-of-it\n");
    let given = format!("id=token,src={}", secret.display());
    let text = "FROM base\nRUN --mount=type=secret,id=token mkdir /app && (head -c 600000 /dev/zero; cat /run/secrets/token) > /app/npmrc\n";
    env.dockerfile(text);
    let output = env.build_command(["-t", "x", "--secret", &given]).fails(1);
    output.says("the value of the secret \"token\" is in /app/npmrc").says("Dockerfile:2").says("SecretInLayer").says_not("s3cr3t-value");
    // The layer was not kept, so the next build fails too.
    env.build_command(["-t", "x", "--secret", &given]).fails(1).says("SecretInLayer");
    env.dockerfile(&text.replace("RUN", "# check=skip=SecretInLayer\nRUN"));
    env.build_command(["-t", "x", "--secret", &given]).ok();
    env.dockerfile("FROM base\nRUN --mount=type=secret,id=token,env=T test \"$T\" && echo \"${#T}\" > /length && rm -f /none\n");
    env.build_command(["-t", "x", "--secret", &given]).ok();
});
