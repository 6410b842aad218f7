//! login and logout against docker-registry with htpasswd.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::tools::{Registry, RegistryOptions};

story!(login_checks_keeps_and_logout_forgets : root user, |env| {
    need_tool!("docker-registry");
    let registry = Registry::start(RegistryOptions { auth: true, tls: false });
    let login = |password: &str| {
        env.lapstrake(["login", "-u", "alice", "--password-stdin", &registry.host]).input(password)
    };
    let config = env.path("home/.docker/config.json");
    login("wrong\n").fails(4).says("does not accept this name and password").says_not("wrong\n");
    assert!(!config.exists(), "what was refused is not kept");
    let name = format!("{}/app:1", registry.host);
    env.dockerfile("FROM base\nENV a=b\n");
    env.build_command(["-t", &name, "--push"]).fails(4).says("lapstrake login");
    login("secret\n").ok();
    assert_eq!(fs::metadata(&config).expect("login wrote it").permissions().mode() & 0o777, 0o600);
    env.build_command(["-t", &name, "--push"]).ok();
    env.lapstrake(["logout", &registry.host]).ok();
    assert!(!fs::read_to_string(&config).expect("it stays").contains(&registry.host));
    env.build_command(["-t", &name, "--push"]).fails(4);
});

// The password goes to the helper by name, and nothing of it into the file.
story!(a_credential_helper_keeps_the_password : user, |env| {
    need_tool!("docker-registry");
    let registry = Registry::start(RegistryOptions { auth: true, tls: false });
    let kept = env.path("kept");
    let helper = format!(
        "#!/bin/sh\ncase $1 in\nstore) cat > {0} ;;\nget) cat {0} ;;\nerase) rm {0} ;;\nesac\n",
        kept.display()
    );
    let helper = env.write_at("bin/docker-credential-story", helper);
    fs::set_permissions(helper, PermissionsExt::from_mode(0o755)).expect("it was written");
    env.write_at("home/.docker/config.json", r#"{"credsStore":"story","other":{"kept":true}}"#);
    let path = format!("{}:/usr/bin:/bin:/usr/sbin", env.path("bin").display());
    let run = |args: &[&str]| env.lapstrake(args).env("PATH", &path);
    run(&["login", "-u", "alice", "--password-stdin", &registry.host]).input("secret\n").ok().says("docker-credential-story");
    let told: serde_json::Value = serde_json::from_slice(&std::fs::read(&kept).expect("it was stored")).expect("JSON");
    assert_eq!((told["Username"].as_str(), told["Secret"].as_str()), (Some("alice"), Some("secret")));
    let file = std::fs::read_to_string(env.path("home/.docker/config.json")).expect("it is there");
    assert!(!file.contains("secret") && !file.contains("c2VjcmV0") && file.contains("\"kept\""), "{file}");
    env.dockerfile("FROM scratch\nLABEL a=b\n");
    let name = format!("{}/app:1", registry.host);
    env.build_command(["-t", &name, "--push"]).env("PATH", &path).ok();
    run(&["logout", &registry.host]).ok();
    assert!(!kept.exists());
    env.lapstrake(["push", &name]).env("PATH", &path).fails(4);
});
