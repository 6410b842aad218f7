//! `lapstrake task run`.

use std::fs;
use std::path::Path;

use crate::support::tools::{Registry, RegistryOptions, skopeo_raw, tool};
use crate::support::{Run, TestEnv, cache};

/// Runs a task that lies beside the context.
fn task(env: &TestEnv, text: &str, args: &[&str]) -> Run {
    let file = env.write_at("acr-task.yaml", text);
    env.lapstrake(["task".as_ref(), "run".as_ref(), file.as_os_str(), env.context().as_os_str()])
        .args(args)
}

/// A registry with busybox as library/busybox:latest.
fn registry() -> Registry {
    let registry = Registry::start(RegistryOptions::default());
    let from = format!("oci:{}:latest", cache().join("busybox").display());
    let to = format!("docker://{}/library/busybox:latest", registry.host);
    tool(
        "skopeo",
        &["copy", "--quiet", "--all", "--insecure-policy", "--dest-tls-verify=false", &from, &to],
    );
    registry
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

// What the documentation of ACR shows for multi-arch images, with templates, aliases and steps side by side.
story!(two_architectures_become_one_image : root user, |env| {
    need_tool!("docker-registry", "skopeo");
    let registry = registry();
    for arch in ["amd64", "arm64"] {
        env.write(format!("{arch}.dockerfile"), "ARG REG\nFROM $REG/library/busybox\nCOPY file /file\n");
    }
    env.write("file", "content");
    let text = "version: v1.1.0
stepTimeout: 120
env: [DOCKER_CLI_EXPERIMENTAL=enabled]
alias:
  values:
    repo: team/app
steps:
  - id: amd
    build: --rm --platform linux/amd64 --build-arg REG=$Registry -t $Registry/$repo:{{.Run.ID}}-amd64 -f amd64.dockerfile .
  - id: arm
    when: ['-']
    build: --platform linux/arm64 --build-arg REG=$Registry -t $Registry/$repo:{{.Run.ID}}-arm64 -f arm64.dockerfile .
  - id: push
    when: [amd, arm]
    push:
      - $Registry/$repo:{{.Run.ID}}-amd64
      - $Registry/$repo:{{.Run.ID}}-arm64
  - id: create
    cmd: docker manifest create $Registry/$repo:{{.Values.tag}} $Registry/$repo:{{.Run.ID}}-amd64 $Registry/$repo:{{.Run.ID}}-arm64
  - cmd: docker manifest annotate $Registry/$repo:{{.Values.tag}} $Registry/$repo:{{.Run.ID}}-arm64 --variant v8
  - id: publish
    cmd: docker manifest push --purge $Registry/$repo:{{.Values.tag}}
  - cmd: docker manifest inspect $Registry/$repo:{{.Values.tag}}
";
    let output = task(env, text, &["--registry", &registry.host, "--set", "tag=v1", "--run-id", "ca1"]).ok();
    let raw = skopeo_raw(&format!("docker://{}/team/app:v1", registry.host));
    let platforms: Vec<_> = raw["manifests"]
        .as_array()
        .expect("it is an index")
        .iter()
        .map(|entry| format!("{}/{}", entry["platform"]["os"].as_str().unwrap_or_default(), entry["platform"]["architecture"].as_str().unwrap_or_default()))
        .collect();
    assert_eq!(platforms, ["linux/amd64", "linux/arm64"]);
    let one = skopeo_raw(&format!("docker://{}/team/app:ca1-arm64", registry.host));
    assert!(one["config"]["digest"].is_string(), "{one}");
    let inspected: serde_json::Value = serde_json::from_str(&output.stdout).expect("stdout is what was inspected");
    assert_eq!(inspected, raw);
    output.says("publish | done");
    // --purge: the list is not kept here.
    let images = env.lapstrake(["images"]).ok().stdout;
    assert!(images.contains("ca1-arm64") && !images.contains("v1"), "{images}");
});

story!(images_run_in_the_sandbox : root user single, |env| {
    need_tool!("docker-registry", "skopeo");
    let registry = registry();
    env.write("in/data", "from the context\n");
    let text = "version: v1.1.0
alias:
  values:
    box: '{{.Run.Registry}}/library/busybox'
volumes:
  - name: v
    secret:
      token: {{.Secrets.token | b64enc}}
env: [GREETING=hello]
steps:
  - cmd: box sh -c 'cat in/data > out; echo $GREETING $NAME >> out; pwd >> out'
    env: [NAME=world]
  - cmd: box sh -c 'cat /run/v/token; test -s /run/v/token && echo has one'
    volumeMounts: [{name: v, mountPath: /run/v}]
  - cmd: box -c 'pwd; cat ../out'
    entryPoint: /bin/sh
    workingDirectory: in
";
    let output = task(env, text, &["--registry", &registry.host, "--set-secret", "token=hunter2222"]).ok();
    assert_eq!(read(&env.context().join("out")), "from the context\nhello world\n/workspace\n");
    assert!(output.stdout.contains("has one\n/workspace/in\nfrom the context\n"), "{}", output.stdout);
    assert!(!output.stdout.contains("hunter2222") && !output.stderr.contains("hunter2222"), "{}{}", output.stdout, output.stderr);
});

story!(failures_retries_and_time : root, |env| {
    need_tool!("docker-registry", "skopeo");
    let registry = registry();
    let run = |steps: &str| {
        let text = format!("version: v1.1.0\nalias: {{values: {{box: '{}/library/busybox'}}}}\nsteps:\n{steps}", registry.host);
        task(env, &text, &[])
    };
    // A step that fails stops those after it, unless errors are ignored.
    run("  - {id: bad, cmd: box sh -c 'exit 3'}\n  - cmd: box touch never\n").fails(1).says("step bad");
    assert!(!env.context().join("never").exists());
    run("  - {id: bad, cmd: box sh -c 'exit 3', ignoreErrors: true}\n  - cmd: box touch later\n").ok();
    assert!(env.context().join("later").exists());
    // The third try finds what the first two left.
    let output = run("  - {id: again, cmd: \"box sh -c 'echo x >> tries; test $(wc -l < tries) = 3'\", retries: 4}\n").ok();
    output.says("try 3 of 5");
    assert_eq!(read(&env.context().join("tries")), "x\nx\nx\n");
    run("  - {cmd: \"box sh -c 'echo y >> other; exit 1'\", retries: 4, retryOnErrors: [nothing like this]}\n").fails(1);
    assert_eq!(read(&env.context().join("other")), "y\n");
    let output = run("  - {id: slow, cmd: box sleep 600, timeout: 1}\n").fails(1);
    output.says("step slow: took longer than 1 s");
});

story!(what_a_task_cannot_have_is_told_before_anything_runs : user, |env| {
    for (text, message) in [
        ("version: v1.1.0\nsteps:\n- cmd: a\n- {id: x, cmd: a, detach: true}\n", "step x: detach"),
        ("version: v1.1.0\nnetworks: [{name: n}]\nsteps: [{cmd: a}]\n", "networks"),
        ("version: v1.1.0\nsecrets: [{id: s, keyvault: https://x}]\nsteps: [{cmd: a}]\n", "Key Vault"),
        ("version: v1.1.0\nsteps:\n- build: -t {{.Run.Registry}}/a .\n", "--registry NAME"),
        ("version: v1.1.0\nsteps:\n- build: -t {{.Values.name}} .\n", "line 3: no value"),
        ("version: v1.1.0\nsteps: [{cmd: docker ps}]\n", "no daemon"),
        ("steps: {", "acr-task.yaml"),
    ] {
        task(env, text, &[]).fails(2).says(message);
    }
});
