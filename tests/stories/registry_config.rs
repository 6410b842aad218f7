//! registries.conf, certs.d and short names, as every command that asks a registry obeys them. Who is
//! asked in which order is held to tables in `registry::endpoint` and `registry::conf`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::support::layout::Layout;
use crate::support::tools::{
    Registry, RegistryOptions, certificate, own_address, skopeo_raw, tool,
};
use crate::support::{TestEnv, cache};

/// A name that no machine has (RFC 6761).
const NOWHERE: &str = "registry.invalid";

fn busybox() -> String {
    format!("oci:{}:latest", cache().join("busybox").display())
}

fn fill(registry: &Registry, repository: &str) {
    let to = format!("docker://{}/{repository}", registry.host);
    tool(
        "skopeo",
        &[
            "copy",
            "--quiet",
            "--all",
            "--insecure-policy",
            "--dest-tls-verify=false",
            &busybox(),
            &to,
        ],
    );
}

/// The user's registries.conf, beside which the system's does not count.
fn configure(env: &TestEnv, text: &str) {
    env.write_at("home/.config/containers/registries.conf", text);
}

fn has(registry: &Registry, repository: &str) -> bool {
    registry.data().join("data/docker/registry/v2/repositories").join(repository).exists()
}

pub(crate) fn no_address() -> bool {
    let none = own_address().starts_with("127.");
    if none {
        crate::support::skip("address", "this machine has no address but loopback");
    }
    none
}

// The registry itself cannot be reached at all, nor can the first mirror.
story!(mirrors_stand_in_for_a_registry : root user, |env| {
    need_tool!("docker-registry", "skopeo");
    let mirror = Registry::start(RegistryOptions::default());
    fill(&mirror, "cache/library/busybox:1");
    configure(env, &format!(
        "[[registry]]\nprefix = \"{NOWHERE}\"\nlocation = \"{NOWHERE}\"\n\n[[registry.mirror]]\nlocation = \"127.0.0.1:9\"\n\n[[registry.mirror]]\nlocation = \"{}/cache\"\n",
        mirror.host
    ));
    let name = format!("{NOWHERE}/library/busybox:1");
    env.dockerfile(&format!("FROM {name}\nRUN touch /x\nCOPY --from={name} /bin/busybox /y\n"));
    let image = env.build(["--platform", "linux/amd64"]).only();
    assert!(image.has("x") && image.has("y"));
    let remote = format!("docker://{name}");
    let raw = env.lapstrake(["inspect", "--raw", &remote]).ok();
    // Skopeo reads the same file, and is led to the same place.
    let conf = env.path("home/.config/containers/registries.conf").display().to_string();
    let theirs = ["--registries-conf", &conf, "inspect", "--tls-verify=false", "--raw", &remote];
    assert_eq!(raw.stdout.trim_end(), tool("skopeo", &theirs).trim_end());
    env.lapstrake(["copy", "--quiet", &remote, "oci:copied:1"]).ok();
    assert_eq!(Layout::open(&env.path("copied")).digest(), Layout::open(&cache().join("busybox")).digest());
    env.lapstrake(["index", "create", "oci:index:1", &remote]).ok();
    let pulled = env.lapstrake(["pull", "--quiet", &name]).ok();
    assert!(pulled.stdout.starts_with(&name), "the name stays what the user wrote: {}", pulled.stdout);
    env.lapstrake(["inspect", &name]).ok();
    let failed = env.lapstrake(["pull", &format!("{NOWHERE}/none:1")]).fails(4);
    failed.says("127.0.0.1:9").says(&mirror.host).says(NOWHERE);
    configure(env, "");
    fs::remove_dir_all(env.store()).expect("it is ours");
    let flag = format!("{NOWHERE}={}/cache", mirror.host);
    env.lapstrake(["pull", "--quiet", "--registry-mirror", &flag, &name]).ok();
    let flag = format!("--registry-mirror={}/cache", mirror.host);
    env.lapstrake(["pull", "--quiet", &flag, "busybox:1"]).ok();
    env.lapstrake(["pull", "--registry-mirror=x", "busybox:1"]).fails(2).says("\"x\" is no mirror");
});

story!(pushes_go_to_the_registry_and_never_to_a_mirror : user, |env| {
    need_tool!("docker-registry", "skopeo");
    let (own, mirror) = (Registry::start(RegistryOptions::default()), Registry::start(RegistryOptions::default()));
    fill(&mirror, "app:1");
    configure(env, &format!(
        "[[registry]]\nlocation = \"{}\"\n[[registry.mirror]]\nlocation = \"{}\"\n", own.host, mirror.host
    ));
    env.dockerfile("FROM base\nENV pushed=yes\n");
    let name = format!("{}/app:1", own.host);
    env.build_command(["--platform", "linux/amd64,linux/arm64", "-t", &name, "--push"]).ok();
    let at_mirror = skopeo_raw(&format!("docker://{}/app:1", mirror.host));
    let at_home = skopeo_raw(&format!("docker://{name}"));
    assert_ne!(at_mirror, at_home);
    // What is read to be written again is read where it is written.
    env.lapstrake(["index", "remove", &format!("docker://{name}"), "linux/arm64"]).ok();
    let left = skopeo_raw(&format!("docker://{name}"));
    assert_eq!(left["manifests"].as_array().map(Vec::len), Some(1));
    assert_eq!(left["manifests"][0]["digest"], at_home["manifests"][0]["digest"]);
    env.lapstrake(["copy", "--quiet", &busybox(), &format!("docker://{}/copied:1", own.host)]).ok();
    let cached = format!("type=registry,ref={}/cache", own.host);
    env.dockerfile("FROM base\nRUN touch /x\n");
    env.build_command(["-t", "x", "--cache-to", &cached, "--cache-from", &cached]).ok();
    assert!(has(&own, "copied") && has(&own, "cache"));
    assert!(!has(&mirror, "copied") && !has(&mirror, "cache"));
});

story!(blocked_registries_are_asked_nothing : user, |env| {
    need_tool!("docker-registry", "skopeo");
    let registry = Registry::start(RegistryOptions::default());
    fill(&registry, "bad/app:1");
    configure(env, &format!("[[registry]]\nprefix = \"{}/bad\"\nblocked = true\n", registry.host));
    let name = format!("{}/bad/app:1", registry.host);
    let says = "home/.config/containers/registries.conf:3";
    env.dockerfile(&format!("FROM {name}\n"));
    env.build_command(["-t", "x"]).fails(2).says("is blocked").says(says);
    env.dockerfile("FROM scratch\nLABEL a=b\n");
    env.build_command(["-t", &name]).ok();
    let remote = format!("docker://{name}");
    for args in [
        vec!["push", &name],
        vec!["pull", &name],
        vec!["copy", &remote, "oci:out:1"],
        vec!["copy", &busybox(), &remote],
        vec!["inspect", &remote],
        vec!["index", "create", "oci:out:1", &remote],
    ] {
        env.lapstrake(args).fails(2).says("is blocked").says(says);
    }
    // The rest of the registry is not.
    env.lapstrake(["copy", "--quiet", &busybox(), &format!("docker://{}/good:1", registry.host)]).ok();
    configure(env, &format!("[[registry]]\nlocation = \"{}\"\nblocked = true\n", registry.host));
    let login = env.lapstrake(["login", "-u", "a", "--password-stdin", &registry.host]).input("b");
    login.fails(2).says("is blocked").says(says);
});

story!(files_overrule_each_other_and_mistakes_are_told : user, |env| {
    need_tool!("docker-registry", "skopeo");
    let registry = Registry::start(RegistryOptions::default());
    fill(&registry, "app:1");
    let pull = || env.lapstrake(["pull", "--quiet", &format!("{NOWHERE}/app:1")]);
    let table = |location: &str| format!("[[registry]]\nprefix = \"{NOWHERE}\"\nlocation = \"{location}\"\n");
    configure(env, &table("127.0.0.1:9"));
    env.write_at("home/.config/containers/registries.conf.d/10-no.txt", "not read");
    env.write_at("home/.config/containers/registries.conf.d/10-mine.conf", table(&registry.host));
    pull().ok();
    // A file of the command line stands alone.
    let given = env.write_at("given.conf", table("127.0.0.1:9"));
    pull().args(["--registries-conf".as_ref(), given.as_os_str()]).fails(4).says("127.0.0.1:9");
    env.write_at("home/.config/containers/registries.conf.d/10-mine.conf", "future = 1\n");
    env.write_at("named.conf", table(&registry.host));
    pull().env("CONTAINERS_REGISTRIES_CONF", "named.conf").ok().says("10-mine.conf:1: future is not known");
    pull().env("CONTAINERS_REGISTRIES_CONF", "missing.conf").fails(2).says("missing.conf: cannot be read");
    configure(env, "[registries.search]\nregistries = ['docker.io']\n");
    pull().fails(2).says("registries.conf:1: this is the old format (version 1)");
    env.lapstrake(["doctor"]).output();
    // Who asks no registry needs no configuration.
    env.dockerfile("FROM base\nRUN touch /x\n");
    env.build_command(["-t", "x"]).ok();
    env.lapstrake(["copy", "--quiet", &busybox(), "oci:out:1"]).ok();
});

story!(short_names_follow_aliases_and_searches : user, |env| {
    need_tool!("docker-registry", "skopeo");
    let (one, two) = (Registry::start(RegistryOptions::default()), Registry::start(RegistryOptions::default()));
    fill(&one, "deep/inside:2");
    fill(&two, "tools:1");
    configure(env, &format!(
        "unqualified-search-registries = [\"{}\", \"{}\"]\n[aliases]\nbox = \"{}/deep/inside\"\n",
        one.host, two.host, one.host
    ));
    env.dockerfile("FROM box:2 AS a\nFROM tools:1\nCOPY --from=a /bin/busybox /x\n");
    let out = env.path("out");
    let args = ["--provenance=mode=min", "-o", &out.display().to_string()];
    env.build_command(args).ok();
    // What it was built from is told with the whole name.
    tool("grep", &["-rlF", &format!("{}/deep/inside", one.host), &out.display().to_string()]);
    assert!(env.build_into("plain", [] as [&str; 0]).only().has("x"));
    let pulled = env.lapstrake(["pull", "--quiet", "box:2"]).ok();
    assert!(pulled.stdout.starts_with(&format!("{}/deep/inside:2@sha256:", one.host)), "{}", pulled.stdout);
    let pulled = env.lapstrake(["pull", "--quiet", "tools:1"]).ok();
    assert!(pulled.stdout.starts_with(&format!("{}/tools:1@sha256:", two.host)), "{}", pulled.stdout);
    // Nobody has it: all are named.
    env.dockerfile("FROM nothing:1\n");
    env.build_command(["-t", "x"]).fails(4).says(&one.host).says(&two.host).says("registries.conf");
    // What this user has built goes first.
    env.dockerfile("FROM base\nENV mine=yes\n");
    env.build_command(["-t", "box:2"]).ok();
    let image = env.image("FROM box:2\n");
    assert!(image.env().contains(&"mine=yes".to_owned()));
    configure(env, &format!(
        "short-name-mode = \"enforcing\"\nunqualified-search-registries = [\"{}\", \"{}\"]\n", one.host, two.host
    ));
    env.dockerfile("FROM box:2\nRUN touch /x\n");
    env.build_command(["-t", "x"]).ok();
    env.lapstrake(["pull", "tools:1"]).fails(2).says(&format!("{}/tools or {}/tools", one.host, two.host));
    env.dockerfile("FROM other:1\n");
    env.build_command(["-t", "x"]).fails(2).says("enforcing");
    // With a scheme, and without configuration, a short name is Docker Hub's.
    let offline = ["-t", "x", "--pull=never"];
    configure(env, "");
    env.build_command(offline).fails(2).says_not("short name");
});

/// A directory of certificates for a registry, in the user's home.
fn certificates_of(env: &TestEnv, registry: &Registry, files: &[(&str, &Path)]) {
    for (name, path) in files {
        let to = format!("home/.config/containers/certs.d/{}/{name}", registry.host);
        env.write_at(to, fs::read(path).expect("it was made"));
    }
}

story!(servers_that_ask_who_we_are : root user, |env| {
    need_tool!("docker-registry", "skopeo", "openssl");
    if no_address() {
        return;
    }
    let dir = env.mkdir("tls");
    let authority = certificate(&dir, "authority", true, None);
    let server = certificate(&dir, "server", false, Some("authority"));
    let client = certificate(&dir, "client", false, Some("authority"));
    let key = dir.join("client.key");
    let registry = Registry::with_tls(&server, &dir.join("server.key"), Some(&authority));
    let name = format!("{}/app:1", registry.host);
    env.dockerfile("FROM base\nENV a=b\n");
    env.build_command(["-t", &name]).ok();
    let push = || env.lapstrake(["push", "--quiet", &name]);
    push().fails(4).says("certificate");
    push().args(["--tls-ca".as_ref(), authority.as_os_str()]).fails(4).says("client certificate");
    let files: [(&str, &Path); 3] = [("ca.crt", &authority), ("me.cert", &client), ("me.key", &key)];
    certificates_of(env, &registry, &files);
    push().ok();
    env.dockerfile(&format!("FROM {name}\nRUN touch /x\n"));
    env.build_command(["-t", "x", "--pull=always"]).ok();
    env.lapstrake(["inspect", &format!("docker://{name}")]).ok();
    env.lapstrake(["login", "-u", "a", "--password-stdin", &registry.host]).input("b").ok();
    fs::remove_file(env.path(format!("home/.config/containers/certs.d/{}/me.key", registry.host))).expect("it is there");
    push().fails(2).says("me.cert: its key is missing");
    // A directory of the command line goes before all others.
    for (name, path) in files {
        env.write_at(format!("given/{name}"), fs::read(path).expect("it was made"));
    }
    push().args(["--cert-dir", "given"]).ok();
    push().args(["--cert-dir", "missing"]).fails(2).says("no such directory");
});

// What `openssl req -x509` makes when nobody says otherwise, and what OpenSSL accepts.
story!(a_server_may_show_the_certificate_of_an_authority : user, |env| {
    need_tool!("docker-registry", "openssl");
    if no_address() {
        return;
    }
    let dir = env.mkdir("tls");
    let server = certificate(&dir, "server", true, None);
    let other = certificate(&dir, "other", true, None);
    let registry = Registry::with_tls(&server, &dir.join("server.key"), None);
    let name = format!("{}/app:1", registry.host);
    env.dockerfile("FROM base\nENV a=b\n");
    env.build_command(["-t", &name]).ok();
    let push = || env.lapstrake(["push", "--quiet", &name]);
    push().fails(4).says("trust just this certificate with --tls-ca");
    push().args(["--tls-ca".as_ref(), other.as_os_str()]).fails(4).says("trust just this certificate");
    push().args(["--tls-ca".as_ref(), server.as_os_str()]).ok();
    certificates_of(env, &registry, &[("ca.crt", &server)]);
    push().ok();
    let credentials = ["login", "-u", "a", "--password-stdin", &registry.host];
    env.lapstrake(credentials).input("b").ok();
    fs::remove_dir_all(env.path("home/.config/containers/certs.d")).expect("it was made");
    env.lapstrake(credentials).input("b").fails(4).says("certificate");
    env.lapstrake(credentials).args(["--insecure"]).input("b").ok();
    env.lapstrake(credentials).args(["--tls-ca".as_ref(), server.as_os_str()]).input("b").ok();
    // And as configuration says.
    push().fails(4);
    configure(env, &format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", registry.host));
    push().ok();
    configure(env, &format!("[[registry]]\nprefix = \"{}/other\"\ninsecure = true\n", registry.host));
    push().fails(4);
});

/// A proxy that leads to any place (CONNECT); gives its port and the places that were asked for.
fn proxy() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let told = Arc::clone(&seen);
    std::thread::spawn(move || {
        // More connections than one push makes end in a refusal.
        for client in listener.incoming().take(64).flatten() {
            let told = Arc::clone(&told);
            std::thread::spawn(move || relay(client, &told));
        }
    });
    (port, seen)
}

fn relay(client: TcpStream, told: &Mutex<Vec<String>>) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let mut line = String::new();
    while reader.read_line(&mut line).ok()? > 2 {
        line.clear();
    }
    let place = first.strip_prefix("CONNECT ")?.split(' ').next()?.to_owned();
    told.lock().ok()?.push(place.clone());
    let server = TcpStream::connect(place).ok()?;
    let (mut to_client, mut to_server) = (client, server.try_clone().ok()?);
    to_client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").ok()?;
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut reader, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let _ = std::io::copy(&mut &server, &mut to_client);
    let _ = to_client.shutdown(Shutdown::Both);
    Some(())
}

story!(a_proxy_leads_to_registries_with_tls : user, |env| {
    need_tool!("docker-registry", "openssl");
    if no_address() {
        return;
    }
    let dir = env.mkdir("tls");
    let server = certificate(&dir, "server", false, None);
    let registry = Registry::with_tls(&server, &dir.join("server.key"), None);
    let (port, seen) = proxy();
    let name = format!("{}/app:1", registry.host);
    env.dockerfile("FROM base\nENV a=b\n");
    env.build_command(["-t", &name]).ok();
    let push = || {
        let run = env.lapstrake(["push", "--quiet", &name]);
        run.env("HTTPS_PROXY", format!("http://127.0.0.1:{port}"))
    };
    push().fails(4).says("certificate");
    push().args(["--tls-ca".as_ref(), server.as_os_str()]).ok();
    let places = seen.lock().expect("no thread panicked").clone();
    assert!(places.len() > 1 && places.iter().all(|place| *place == registry.host), "{places:?}");
});

story!(doctor_tells_which_files_count : user, |env| {
    configure(env, "unqualified-search-registries = []\n");
    // Its exit code is about RUN.
    let told = env.lapstrake(["doctor"]).output();
    assert!(told.stdout.contains("ok    registries: ") && told.stdout.contains("containers/registries.conf"), "{}", told.stdout);
    configure(env, "unqualified-search-registries = 1\n");
    let told = env.lapstrake(["doctor"]).output();
    assert!(told.stdout.contains("FAIL  registries: ") && told.stdout.contains("registries.conf:1"), "{}", told.stdout);
});

// Debian's package has aliases for names that are not Docker Hub's alone.
story!(files_of_the_system_are_read : root, |env| {
    let path = "/etc/containers/registries.conf.d/shortnames.conf";
    let aliases = fs::read_to_string(path).unwrap_or_default();
    if !aliases.contains("\"fedora\" = \"registry.fedoraproject.org/fedora\"") {
        crate::support::skip("containers-common", "no aliases in /etc/containers/registries.conf.d");
        return;
    }
    let told = env.lapstrake(["doctor"]).output();
    assert!(told.stdout.contains(path), "{}", told.stdout);
    let failed = |name: &str| {
        env.dockerfile(&format!("FROM {name}\n"));
        env.build_command(["-t", "x", "--pull=never"]).fails(2)
    };
    failed("fedora:none").says("registry.fedoraproject.org/fedora:none").says(path);
    failed("alpine:none").says_not(path);
});
