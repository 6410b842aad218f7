//! What a build says, for people and for programs.

use serde_json::Value;

story!(quiet_prints_the_image_id_alone : root user, |env| {
    env.dockerfile("FROM base\nRUN echo noise\n");
    let output = env.build_command(["-t", "x", "-q", "--iidfile", &env.path("home/id").display().to_string()]).ok();
    assert_eq!(output.stderr, "");
    let id = std::fs::read_to_string(env.path("home/id")).expect("--iidfile was written");
    assert_eq!(output.stdout.trim(), id.trim());
    assert!(id.starts_with("sha256:") && id.trim().len() == 71, "{id}");
});

story!(rawjson_has_the_shape_of_buildkit : user, |env| {
    env.dockerfile("FROM base\nRUN echo hello from the step\nRUN exit 7\n");
    let output = env.build_command(["-t", "x", "--progress", "rawjson"]).fails(1);
    let lines: Vec<Value> =
        output.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let vertexes: Vec<&Value> = lines.iter().filter_map(|line| line["vertexes"].get(0)).collect();
    let of = |name: &str, key: &str| {
        vertexes
            .iter()
            .filter(|vertex| vertex["name"].as_str().is_some_and(|text| text.ends_with(name)))
            .find_map(|vertex| vertex.get(key).cloned())
    };
    assert!(of("RUN echo hello from the step", "completed").is_some(), "{}", output.stderr);
    let error = of("RUN exit 7", "error").expect("the step failed");
    assert!(error.as_str().is_some_and(|text| text.contains("exit code: 7")), "{error}");
    let log = lines.iter().filter_map(|line| line["logs"].get(0)).find(|log| log["stream"] == 1).expect("a line of output");
    assert_eq!(Some(&log["vertex"]), of("RUN echo hello from the step", "digest").as_ref());
    assert_eq!(log["data"], "aGVsbG8gZnJvbSB0aGUgc3RlcAo=");
});

story!(github_gets_groups_and_annotations : user, |env| {
    env.dockerfile("FROM base\nRUN echo '::set-env name=A::b'\nRUN exit 7\n");
    let output = env.build_command(["-t", "x", "--log-format", "github"]).fails(1);
    output.says("::group::[stage-0 2/3] RUN echo").says("::endgroup::").says("::error file=").says("line=3,endLine=3").says("exit code: 7");
    assert!(!output.stderr.lines().any(|line| line.trim_start().starts_with("::set-env")), "{}", output.stderr);
    let (opened, closed) = (output.stderr.matches("::group::").count(), output.stderr.matches("::endgroup::").count());
    assert!(opened == closed && opened >= 2, "{}", output.stderr);
    env.dockerfile("FROM base\nRUM x\nMAINTAINER me\n");
    env.build_command(["-t", "x", "--log-format", "github"]).fails(2).says("::error file=").says("line=2,endLine=2");
    env.build_command(["-t", "x", "--log-format", "github", "--secret", "id=a,src=/none"]).output().says("::error");
});

story!(metadata_has_the_keys_of_buildx : user, |env| {
    env.dockerfile("FROM base\n");
    let file = env.path("home/metadata.json");
    env.build_command(["-t", "app:1", "--metadata-file", &file.display().to_string()]).ok();
    let read = || -> Value { serde_json::from_slice(&std::fs::read(&file).expect("written")).expect("JSON") };
    let metadata = read();
    assert_eq!(metadata["containerimage.descriptor"]["digest"], metadata["containerimage.digest"]);
    assert_eq!(metadata["image.name"], "docker.io/library/app:1");
    assert!(metadata["containerimage.config.digest"].as_str().is_some_and(|text| text.starts_with("sha256:")));
    env.build_command(["--platform", "linux/amd64,linux/arm64", "-t", "app:1", "--metadata-file", &file.display().to_string()]).ok();
    let metadata = read();
    assert!(metadata.get("containerimage.config.digest").is_none(), "an index has no config: {metadata}");
    assert_eq!(metadata["containerimage.descriptor"]["mediaType"], "application/vnd.oci.image.index.v1+json");
});

// A session is entered with one thread, so the display's clock must not run yet.
story!(steps_run_under_a_live_display : root user, |env| {
    need_tool!("script");
    env.dockerfile("FROM base\nRUN echo x > /x\n");
    let line = env.build_command(["-t", "x"]).line();
    env.command("script").args(["-qec", &line, "/dev/null"]).ok();
    assert!(env.lapstrake(["images"]).ok().stdout.contains('x'));
});
