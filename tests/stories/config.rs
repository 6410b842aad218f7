//! The image config and history, as BuildKit writes them.

use serde_json::{Value, json};

use crate::support::host_platform;
use crate::support::image::{Tar, busybox_with};
use crate::support::layout::Image;

fn on_base(env: &crate::support::TestEnv, runtime: Value, dockerfile: &str) -> Image {
    let dir = env.path("base2");
    busybox_with(&dir, host_platform(), runtime, vec![Tar::new().dir("layer").bytes()]);
    env.dockerfile(dockerfile);
    env.build(["--build-context", &format!("base2=oci-layout://{}:latest", dir.display())]).only()
}

story!(every_config_instruction : root user, |env| {
    let image = env.image(
        "FROM scratch\nMAINTAINER Some One <someone@example.invalid>\nENV A=1 B=\"two words\"\nENV C three words\nLABEL one=1 two=\"2 2\"\nEXPOSE 80 443/tcp 53/udp 8000-8002\nVOLUME /data\nVOLUME [\"/json one\", \"/json2\"]\nUSER app:web\nSTOPSIGNAL SIGUSR1\nSHELL [\"/bin/bash\", \"-c\"]\nHEALTHCHECK --interval=5s --timeout=3s --start-period=1m --start-interval=2s --retries=4 CMD curl -f localhost\nENTRYPOINT [\"/app\", \"--flag\"]\nCMD start now\nONBUILD RUN echo hi\nONBUILD COPY . /src\n",
    );
    let config = &image.config["config"];
    assert_eq!(image.config["author"], "Some One <someone@example.invalid>");
    assert_eq!(config["Env"], json!(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "A=1", "B=two words", "C=three words"]));
    assert_eq!(config["Labels"], json!({"one": "1", "two": "2 2"}));
    assert_eq!(
        config["ExposedPorts"],
        json!({"80/tcp": {}, "443/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {}, "8002/tcp": {}})
    );
    assert_eq!(config["Volumes"], json!({"/data": {}, "/json one": {}, "/json2": {}}));
    assert_eq!(config["User"], "app:web");
    assert_eq!(config["StopSignal"], "SIGUSR1");
    assert_eq!(config["Shell"], json!(["/bin/bash", "-c"]));
    assert_eq!(
        config["Healthcheck"],
        json!({"Test": ["CMD-SHELL", "curl -f localhost"], "Interval": 5_000_000_000u64, "Timeout": 3_000_000_000u64, "StartPeriod": 60_000_000_000u64, "StartInterval": 2_000_000_000u64, "Retries": 4})
    );
    assert_eq!(config["Entrypoint"], json!(["/app", "--flag"]));
    assert_eq!(config["Cmd"], json!(["/bin/bash", "-c", "start now"]));
    assert_eq!(config["OnBuild"], json!(["RUN echo hi", "COPY . /src"]));
    assert_eq!(config["WorkingDir"], "/");
});

// Traps 39 and 69: BuildKit testDockerfileScratchConfig, testBuildExportScratch.
story!(image_of_metadata_only_has_no_layers : root user single, |env| {
    let image = env.image("FROM scratch\nENV foo=bar\n");
    assert_eq!(image.diff_ids(), Vec::<String>::new());
    assert_eq!(image.config["rootfs"]["type"], "layers");
    assert_eq!(image.history(), ["(empty) ENV foo=bar"]);
});

// Trap 40: BuildKit testExportedHistory.
story!(history_lines_match_the_layers : root user, |env| {
    env.write("foo", "x");
    let image = env.image(
        "FROM base\nARG WHO=me\nENV a=b\nRUN echo hi\nCOPY foo /bar\nCOPY --chown=1 foo /baz\nWORKDIR /\nWORKDIR /work\nUSER app\nEXPOSE 80\nLABEL l=m\nENTRYPOINT [\"x\"]\nCMD [\"y\", \"z\"]\n",
    );
    // How a set of ports is written differs between BuildKit's releases.
    let shown = |line: &String| if line.starts_with("(empty) EXPOSE") { "(empty) EXPOSE".to_owned() } else { line.clone() };
    assert_eq!(
        image.history()[1..].iter().map(shown).collect::<Vec<_>>(),
        [
            "(empty) ARG WHO=me",
            "(empty) ENV a=b",
            "RUN |1 WHO=me /bin/sh -c echo hi # buildkit",
            "COPY foo /bar # buildkit",
            "COPY --chown=1 foo /baz # buildkit",
            "(empty) WORKDIR /",
            "WORKDIR /work",
            "(empty) USER app",
            "(empty) EXPOSE",
            "(empty) LABEL l=m",
            "(empty) ENTRYPOINT [\"x\"]",
            "(empty) CMD [\"y\" \"z\"]",
        ]
    );
    for entry in image.config["history"].as_array().expect("it has one").iter().skip(1) {
        assert_eq!(entry["comment"], "buildkit.dockerfile.v0");
        assert!(entry["created"].is_string());
    }
});

// Trap 37: BuildKit testCmdShell.
story!(entrypoint_resets_an_inherited_cmd_only : root user, |env| {
    let runtime = json!({"Cmd": ["inherited"]});
    let image = on_base(env, runtime.clone(), "FROM base2\nENTRYPOINT my entrypoint\n");
    assert_eq!(image.runtime("Cmd"), &Value::Null);
    assert_eq!(image.runtime("Entrypoint"), &json!(["/bin/sh", "-c", "my entrypoint"]));
    let image = on_base(env, runtime.clone(), "FROM base2\nCMD [\"mine\"]\nENTRYPOINT [\"/x\"]\n");
    assert_eq!(image.runtime("Cmd"), &json!(["mine"]));
    let image = on_base(env, runtime, "FROM base2\nENV a=b\n");
    assert_eq!(image.runtime("Cmd"), &json!(["inherited"]));
});

// Trap 41: BuildKit testWorkdirUser, testWorkdirExists, testWorkdirCreatesDir.
story!(workdir_is_made_by_and_for_the_user : root user single, |env| {
    let image = env.image("FROM base\nUSER 12:34\nWORKDIR /made/deep\nWORKDIR relative/\nWORKDIR /tmp/\nWORKDIR $NOTHING/tmp\n");
    assert_eq!(image.file("made").line(), "d0755 12:34 made");
    assert_eq!(image.file("made/deep/relative").line(), "d0755 12:34 made/deep/relative");
    assert_eq!(image.file("tmp").line(), "d1777 0:0 tmp");
    assert_eq!(image.runtime("WorkingDir"), "/tmp");
});

// Buildah "bud WORKDIR isa symlink (no target dir)".
story!(workdir_through_a_symlink : root user, |env| {
    let dir = env.path("base2");
    busybox_with(&dir, host_platform(), json!({}), vec![Tar::new().dir("real").symlink("link", "/real").symlink("dangling", "/nowhere").bytes()]);
    env.write("foo", "foo");
    env.dockerfile("FROM base2\nWORKDIR /link/sub\nCOPY foo .\nRUN pwd > /pwd\nWORKDIR /dangling\nCOPY foo .\n");
    let image = env.build(["--build-context", &format!("base2=oci-layout://{}:latest", dir.display())]).only();
    assert_eq!(image.text("real/sub/foo"), "foo");
    assert_eq!(image.text("nowhere/foo"), "foo");
    assert_eq!(image.file("link").kind, 'l');
});

// Trap 44: BuildKit testOnBuildCleared, testOnBuildNewDeps.
story!(onbuild_runs_in_order_and_is_cleared : root user, |env| {
    env.write("foo", "foo");
    let runtime = json!({"OnBuild": ["ENV FROM_PARENT=1", "COPY foo /onbuild/", "RUN echo $FROM_PARENT > /onbuild/run"]});
    let image = on_base(env, runtime, "FROM base2\nRUN test -f /onbuild/foo && cp /onbuild/run /after\nONBUILD RUN touch /mine\n");
    assert_eq!(image.text("after"), "1\n");
    assert!(!image.has("mine"));
    assert_eq!(image.runtime("OnBuild"), &json!(["RUN touch /mine"]));
});

story!(onbuild_may_copy_from_a_stage_of_the_child : root user, |env| {
    let runtime = json!({"OnBuild": ["COPY --from=helper /helper /from-helper"]});
    let image = on_base(env, runtime, "FROM base AS helper\nRUN echo helped > /helper\nFROM base2\n");
    assert_eq!(image.text("from-helper"), "helped\n");
});

// Traps 45 and 46.
story!(labels_and_ports_are_inherited_from_the_base_but_not_from_copied_stages : root user, |env| {
    let runtime = json!({"Labels": {"base": "1", "both": "old"}, "ExposedPorts": {"80/tcp": {}}, "Env": ["PATH=/bin", "X=base"], "Healthcheck": {"Test": ["CMD", "x"]}});
    let image = on_base(
        env,
        runtime,
        "FROM base AS other\nLABEL other=1\nRUN touch /f\nFROM base2\nCOPY --from=other /f /f\nLABEL both=new\nEXPOSE 443\nENV X=mine\nHEALTHCHECK NONE\n",
    );
    assert_eq!(image.runtime("Labels"), &json!({"base": "1", "both": "new"}));
    assert_eq!(image.runtime("ExposedPorts"), &json!({"80/tcp": {}, "443/tcp": {}}));
    assert_eq!(image.runtime("Env"), &json!(["PATH=/bin", "X=mine"]));
    assert_eq!(image.runtime("Healthcheck")["Test"], json!(["NONE"]));
});

story!(labels_of_the_command_line_win : root user, |env| {
    env.dockerfile("FROM scratch\nLABEL a=file b=file\n");
    let image = env.build(["--label", "a=flag", "--label", "c=flag"]).only();
    assert_eq!(image.runtime("Labels"), &json!({"a": "flag", "b": "file", "c": "flag"}));
});

story!(layers_of_the_base_are_passed_on_byte_for_byte : root user single, |env| {
    let image = env.image("FROM base\nRUN touch /x\n");
    let base = crate::support::layout::Layout::open(&crate::support::cache().join("busybox")).platform(host_platform());
    assert_eq!(image.layer_digests()[0], base.layer_digests()[0]);
    assert_eq!(image.history()[0], base.history()[0]);
    assert_eq!(image.layers.len(), 2);
});
