//! login and logout against docker-registry with htpasswd.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

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

/// Reads from a terminal until it shows `end`, or nobody writes any more.
fn shown(terminal: &mut File, end: &str) -> String {
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains(end) {
        let mut ready = [rustix::event::PollFd::new(&*terminal, rustix::event::PollFlags::IN)];
        let wait = rustix::event::Timespec { tv_sec: 60, tv_nsec: 0 };
        let count = rustix::event::poll(&mut ready, Some(&wait)).expect("it can be waited for");
        assert!(count > 0, "nothing came after {:?}", String::from_utf8_lossy(&text));
        let mut buffer = [0; 1024];
        match terminal.read(&mut buffer) {
            Ok(count) if count > 0 => text.extend_from_slice(&buffer[..count]),
            // The other end is closed: EIO, or an end.
            _ => break,
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

story!(a_terminal_is_asked_and_does_not_show_the_password : user, |env| {
    need_tool!("docker-registry");
    let registry = Registry::start(RegistryOptions { auth: true, tls: false });
    let login = |typed: &str| {
        let (mut ours, theirs) = lapstrake::sys::tty::open_pair().expect("there are terminals");
        let ends = || Stdio::from(theirs.try_clone().expect("it is open"));
        let mut run = env.lapstrake(["login", &registry.host]);
        let mut child = run
            .command_mut()
            .stdin(ends())
            .stdout(ends())
            .stderr(ends())
            .spawn()
            .expect("lapstrake starts");
        drop((run, theirs));
        let mut all = shown(&mut ours, "User name: ");
        ours.write_all(b"alice\n").expect("it reads");
        all.push_str(&shown(&mut ours, "Password: "));
        ours.write_all(typed.as_bytes()).expect("it reads");
        all.push_str(&shown(&mut ours, "\u{0}"));
        (child.wait().expect("it ends").code(), all)
    };
    // With a typing mistake: wrong bytes are taken back, one by one and all at once.
    let (code, all) = login("no\u{15}secré\u{7f}et\r");
    assert_eq!(code, Some(0), "{all}");
    assert!(!all.contains("secr") && all.contains("logged in to"), "{all}");
    env.dockerfile("FROM base\nENV a=b\n");
    env.build_command(["-t", &format!("{}/app:1", registry.host), "--push"]).ok();
    let (code, all) = login("sec\u{3}");
    assert_eq!(code, Some(130), "{all}");
    let (code, all) = login("wrong\n");
    assert_eq!(code, Some(4), "{all}");
    env.lapstrake(["login", "-u", "alice", &registry.host]).fails(2).says("standard input is none");
});

// Jobs of one CI machine.
story!(two_logins_at_a_time_lose_nothing : user, |env| {
    need_tool!("docker-registry");
    let registry = Registry::start(RegistryOptions { auth: true, tls: false });
    let port = registry.host.rsplit_once(':').expect("it has one").1;
    let names = [registry.host.clone(), format!("localhost:{port}")];
    std::thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| {
                let run = env.lapstrake(["login", "-u", "alice", "--password-stdin", name]);
                run.input("secret\n").ok();
            });
        }
    });
    let config = fs::read_to_string(env.path("home/.docker/config.json")).expect("it is there");
    assert!(names.iter().all(|name| config.contains(name)), "{config}");
});
