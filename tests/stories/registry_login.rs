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
