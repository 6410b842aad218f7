//! Pull and push against docker-registry. Faults are tried against the fake registry in `registry`'s own tests.

use std::fs;

use serde_json::Value;

use crate::support::layout::Layout;
use crate::support::tools::{Registry, RegistryOptions, own_address, skopeo_raw, tool};
use crate::support::{TestEnv, cache};

fn busybox() -> String {
    format!("oci:{}:latest", cache().join("busybox").display())
}

/// A registry that has busybox as library/busybox:latest.
fn filled(options: RegistryOptions) -> Registry {
    let registry = Registry::start(options);
    let mut args = vec!["copy", "--quiet", "--all", "--insecure-policy", "--dest-tls-verify=false"];
    if options.auth {
        args.extend(["--dest-creds", "alice:secret"]);
    }
    let (from, to) = (busybox(), format!("docker://{}/library/busybox:latest", registry.host));
    args.extend([from.as_str(), to.as_str()]);
    tool("skopeo", &args);
    registry
}

fn auth_file(env: &TestEnv, relative: &str, registry: &str) {
    // base64 of alice:secret
    env.write_at(
        relative,
        format!(r#"{{"auths":{{"{registry}":{{"auth":"YWxpY2U6c2VjcmV0"}}}}}}"#),
    );
}

story!(pull_build_and_push_over_loopback : root user single, |env| {
    need_tool!("docker-registry", "skopeo");
    let registry = filled(RegistryOptions::default());
    let name = format!("{}/team/app:1", registry.host);
    env.write("foo", "foo");
    env.dockerfile(&format!("FROM {}/library/busybox\nCOPY foo /foo\n", registry.host));
    let layout = env.build(["--platform", "linux/amd64,linux/arm64,linux/arm/v7", "-t", &name]);
    let pushed = env.lapstrake(["push", &name]).ok();
    assert!(pushed.stdout.contains(&layout.digest()), "{}", pushed.stdout);
    let raw = skopeo_raw(&format!("docker://{name}"));
    assert_eq!(raw["manifests"].as_array().map(Vec::len), Some(3));
    let copy = env.path("copy");
    tool("skopeo", &["copy", "--quiet", "--all", "--insecure-policy", "--src-tls-verify=false", &format!("docker://{name}"), &format!("oci:{}:1", copy.display())]);
    assert_eq!(Layout::open(&copy).digest(), layout.digest());
    // Again: nothing to send.
    env.lapstrake(["push", &name]).ok();
    // The store has the base now: no registry is needed.
    drop(registry);
    env.dockerfile(&env_dockerfile(env));
    env.build_command(["--offline", "-t", "again"]).ok();
});

fn env_dockerfile(env: &TestEnv) -> String {
    fs::read_to_string(env.context().join("Dockerfile")).expect("it was written")
}

story!(build_pushes_by_itself : root user, |env| {
    need_tool!("docker-registry", "skopeo");
    let registry = Registry::start(RegistryOptions::default());
    env.dockerfile("FROM base\nENV a=b\n");
    let name = format!("{}/app:2", registry.host);
    let output = env.build_command(["--push", "-t", &name]).ok();
    assert!(output.stdout.contains("sha256:"));
    assert!(skopeo_raw(&format!("docker://{name}"))["config"]["digest"].is_string() || skopeo_raw(&format!("docker://{name}"))["manifests"].is_array());
});

story!(credentials_of_docker_and_podman : root user, |env| {
    need_tool!("docker-registry", "skopeo");
    let registry = filled(RegistryOptions { auth: true, tls: false });
    env.dockerfile(&format!("FROM {}/library/busybox\nENV a=b\n", registry.host));
    let refused = env.build_command(["-t", "x"]).fails(4);
    refused.says(&registry.host).says_not("secret");
    auth_file(env, "home/.docker/config.json", &registry.host);
    env.build_command(["-t", &format!("{}/mine:1", registry.host), "--push"]).ok();
    fs::remove_file(env.path("home/.docker/config.json")).expect("it was written");
    auth_file(env, "home/.config/containers/auth.json", &format!("{}/library", registry.host));
    env.build_command(["-t", "x", "--pull=always"]).ok();
    let dir = env.mkdir("docker-config");
    fs::remove_file(env.path("home/.config/containers/auth.json")).expect("it was written");
    auth_file(env, "docker-config/config.json", &registry.host);
    env.build_command(["-t", "x", "--pull=always"]).env("DOCKER_CONFIG", &dir).ok();
    let file = env.path("docker-config/config.json");
    env.build_command(["-t", "x", "--pull=always"]).env("REGISTRY_AUTH_FILE", &file).ok();
    env.build_command(["-t", "x", "--pull=always"]).fails(4).says("no credentials");
});

story!(certificate_authority_of_the_command_line : root user, |env| {
    need_tool!("docker-registry", "skopeo", "openssl");
    if own_address().starts_with("127.") {
        crate::support::skip("address", "this machine has no address but loopback");
        return;
    }
    let registry = filled(RegistryOptions { tls: true, auth: false });
    let ca = registry.ca.clone().expect("it speaks TLS");
    env.dockerfile(&format!("FROM {}/library/busybox\nENV a=b\n", registry.host));
    let refused = env.build_command(["-t", "x"]).fails(4);
    refused.says("certificate");
    env.build_command(["-t", &format!("{}/mine:1", registry.host), "--push", "--tls-ca"]).args([&ca]).ok();
});

story!(missing_platform_of_a_registry_image : root user, |env| {
    need_tool!("docker-registry", "skopeo");
    let registry = filled(RegistryOptions::default());
    env.dockerfile(&format!("FROM {}/library/busybox\nENV a=b\n", registry.host));
    let output = env.build_command(["-t", "x", "--platform", "linux/ppc64le"]).output();
    assert_ne!(output.code, Some(0));
    output.says("no matching manifest for linux/ppc64le in the manifest list").says("linux/arm64");
});

story!(schema_2_images_and_lists : root user, |env| {
    need_tool!("docker-registry", "skopeo");
    let registry = Registry::start(RegistryOptions::default());
    tool("skopeo", &["copy", "--quiet", "--all", "--insecure-policy", "--dest-tls-verify=false", "--format", "v2s2", &busybox(), &format!("docker://{}/docker:list", registry.host)]);
    let raw = skopeo_raw(&format!("docker://{}/docker:list", registry.host));
    assert_eq!(raw["mediaType"], "application/vnd.docker.distribution.manifest.list.v2+json");
    env.dockerfile(&format!("FROM {}/docker:list\nRUN touch /x\n", registry.host));
    let image = env.build([] as [&str; 0]).only();
    assert_eq!(image.manifest["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    assert!(image.has("x") && image.has("bin/busybox"));
});

story!(pull_policies : root user, |env| {
    need_tool!("docker-registry", "skopeo");
    let registry = Registry::start(RegistryOptions::default());
    let name = format!("{}/moving:1", registry.host);
    let publish = |content: &str| {
        env.dockerfile(&format!("FROM base\nENV CONTENT={content}\n"));
        env.build_command(["-t", "staging"]).ok();
        let dir = env.path("store/layout");
        let index: Value = serde_json::from_slice(&fs::read(dir.join("index.json")).expect("a store")).expect("JSON");
        assert!(index["manifests"].is_array());
        env.lapstrake(["tag", "staging", &name]).ok();
        env.lapstrake(["push", &name]).ok();
        env.lapstrake(["rmi", &name]).ok();
    };
    let content = |policy: &str| {
        env.dockerfile(&format!("FROM {name}\nENV a=b\n"));
        let image = env.build_into("pulled", [policy]).only();
        image.env().into_iter().find(|line| line.starts_with("CONTENT")).unwrap_or_default()
    };
    publish("one");
    assert_eq!(content("--pull=missing"), "CONTENT=one");
    let kept = env.path("kept");
    tool("cp", &["-a", &env.store().display().to_string(), &kept.display().to_string()]);
    publish("two");
    // A store that still knows the first.
    tool("rm", &["-rf", &env.store().display().to_string()]);
    tool("mv", &[&kept.display().to_string(), &env.store().display().to_string()]);
    assert_eq!(content("--pull=never"), "CONTENT=one");
    assert_eq!(content("--pull=missing"), "CONTENT=one");
    assert_eq!(content("--pull=newer"), "CONTENT=two");
    assert_eq!(content("--pull=always"), "CONTENT=two");
    drop(registry);
    assert_eq!(content("--pull=newer"), "CONTENT=two");
    env.dockerfile(&format!("FROM {name}\n"));
    env.build_command(["-t", "x", "--pull=always"]).fails(4);
});

story!(unreachable_registry_is_error_four : root user, |env| {
    env.dockerfile("FROM 127.0.0.1:9/library/nothing\n");
    env.build_command(["-t", "x"]).fails(4).says("127.0.0.1:9");
    env.lapstrake(["push", "127.0.0.1:9/never/built:1"]).output();
});
