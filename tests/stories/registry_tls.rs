//! TLS that goes wrong: certificates of other times, names and authorities, servers that do not speak it, connections
//! that break, and ways that lead out of it.
//!
//! In front of the registry is a proxy that ends TLS at this machine's own address: registries on loopback are trusted
//! whatever they show.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::fake_registry::FakeRegistry;
use crate::support::proxy::{Fault, Proxy};
use crate::support::tools::{Certificate, own_address};
use crate::support::{Output, Run, TestEnv};

use super::registry_config::no_address;
use super::registry_faults::{make_image, one_error, verified};

/// The size of the layer.
const LAYER: usize = 1 << 20;
/// Retries at once, and gives up soon what does not answer.
const HASTY: &str =
    "retry-delay=5ms,chunk-size=256k,stall-timeout=500ms,connect-timeout=1s,answer-timeout=2s";

/// An authority, and a server's certificate by it.
fn certified(env: &TestEnv) -> (PathBuf, PathBuf) {
    let dir = env.mkdir("tls");
    let authority = Certificate { authority: true, ..Certificate::new("authority") }.make(&dir);
    let server = Certificate { issuer: Some("authority"), ..Certificate::new("server") }.make(&dir);
    (authority, server)
}

/// A command that trusts this authority.
fn trusting(env: &TestEnv, authority: &Path, args: &[&str]) -> Run {
    env.lapstrake(args)
        .args(["--tls-ca".as_ref(), authority.as_os_str()])
        .env("LAPSTRAKE_NETWORK", HASTY)
}

/// Copies the image to a server; the name of the image there comes with it.
fn send(env: &TestEnv, authority: &Path, host: &str) -> (Run, String) {
    let name = format!("docker://{host}/app:1");
    (trusting(env, authority, &["copy", "oci:image:1", &name]), name)
}

/// Neither push nor pull goes through; gives both errors.
fn refused(env: &TestEnv, authority: &Path, host: &str) -> [Output; 2] {
    let (push, name) = send(env, authority, host);
    let both = [push.fails(4), trusting(env, authority, &["copy", &name, "oci:out:1"]).fails(4)];
    both.iter().for_each(one_error);
    assert!(!env.path("out/index.json").exists(), "there is an image from {host}");
    both
}

story!(servers_with_a_wrong_certificate_get_nothing : root user, |env| {
    need_tool!("openssl");
    if no_address() {
        return;
    }
    let dir = env.mkdir("tls");
    let authority = Certificate { authority: true, ..Certificate::new("authority") }.make(&dir);
    let registry = FakeRegistry::start();
    make_image(env, LAYER);
    let issued = Certificate { issuer: Some("authority"), ..Certificate::new("") };
    let table = [
        (Certificate { name: "old", year: Some(2020), ..issued }, "has expired on 2020-12-31T"),
        (Certificate { name: "early", year: Some(2200), ..issued }, "not valid yet before 2200-01-01T"),
        (Certificate { name: "address", server: Some("IP:192.0.2.1"), ..issued }, "other names (IpAddress(192.0.2.1))"),
        (Certificate { name: "name", server: Some("DNS:registry.test"), ..issued }, "other names (DnsName(\"registry.test\"))"),
        (Certificate { name: "stranger", issuer: None, ..issued }, "name the authority's certificate with --tls-ca"),
    ];
    for (certificate, want) in table {
        let proxy = Proxy::with_tls(&own_address(), &registry.host(), &certificate.make(&dir));
        // Whoever is refused for good is not asked again and again.
        let start = Instant::now();
        for output in refused(env, &authority, &proxy.host()) {
            output.says(want);
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{}: {:?}", certificate.name, start.elapsed());
        assert!(proxy.passed().is_empty(), "{}: {:?}", certificate.name, proxy.passed());
        // The user's word for it counts.
        let name = format!("docker://{}/app:1", proxy.host());
        env.lapstrake(["copy", "oci:image:1", &name, "--insecure-registry", &proxy.host()]).ok();
    }
    let right = Proxy::with_tls(&own_address(), &registry.host(), &Certificate { name: "right", ..issued }.make(&dir));
    send(env, &authority, &right.host()).0.ok();
});

story!(servers_that_do_not_speak_tls_are_told_from_others : root, |env| {
    need_tool!("openssl");
    if no_address() {
        return;
    }
    let authority = Certificate { authority: true, ..Certificate::new("authority") }.make(&env.mkdir("tls"));
    make_image(env, LAYER);
    let listen = || TcpListener::bind((own_address(), 0)).expect("the address has a free port");
    let host = |listener: &TcpListener| listener.local_addr().expect("it is bound").to_string();

    let plain = listen();
    let name = host(&plain);
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for mut stream in plain.incoming().take(64).flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    for output in refused(env, &authority, &name) {
        output.says("does not speak TLS").says("--insecure-registry");
    }

    // Accepts connections and never says a word; ends with the test.
    let mute = listen();
    let start = Instant::now();
    refused(env, &authority, &host(&mute));
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
    drop(mute);

    let closing = listen();
    let name = host(&closing);
    std::thread::spawn(move || closing.incoming().take(64).for_each(drop));
    refused(env, &authority, &name);
});

story!(broken_tls_connections_are_taken_up_again : root, |env| {
    need_tool!("openssl");
    if no_address() {
        return;
    }
    let (authority, server) = certified(env);
    let registry = FakeRegistry::start();
    let proxy = Proxy::with_tls(&own_address(), &registry.host(), &server);
    let image = make_image(env, LAYER);
    // Without a word of goodbye: whatever came may have been cut by anybody.
    for fault in [Fault::CutRequest(400_000), Fault::ResetRequest(400_000)] {
        proxy.fail("PUT", &image.layer, 0, 1, fault);
    }
    let (push, name) = send(env, &authority, &proxy.host());
    push.ok();
    assert_eq!(verified(env, &format!("{}/app:1", registry.host())), image.digest);
    for (at, fault) in [Fault::CutResponse(400_000), Fault::ResetResponse(400_000), Fault::HalfCloseResponse(400_000)].into_iter().enumerate() {
        proxy.reset();
        proxy.fail("GET", &image.layer, 0, 1, fault);
        let to = format!("oci:out-{at}:1");
        trusting(env, &authority, &["copy", &name, &to]).ok();
        assert!(proxy.matching("GET", &image.layer).len() > 1, "{at}: nothing broke");
        let told = env.lapstrake(["verify", &to]).ok().stdout;
        assert!(told.contains(&image.digest), "{at}: {told}");
    }
    // One that always breaks ends in an error.
    proxy.reset();
    proxy.fail("GET", &image.layer, 0, usize::MAX, Fault::CutResponse(0));
    one_error(&trusting(env, &authority, &["copy", &name, "oci:never:1"]).fails(4));
    assert!(!env.path("never/index.json").exists());
});

story!(nothing_leads_from_https_to_http : root user, |env| {
    need_tool!("openssl");
    if no_address() {
        return;
    }
    let (authority, server) = certified(env);
    let registry = FakeRegistry::start();
    let image = make_image(env, LAYER);
    let secure = Proxy::with_tls(&own_address(), &registry.host(), &server);
    send(env, &authority, &secure.host()).0.ok();
    // The same registry in the clear, at an address that is not this machine's loopback.
    let clear = Proxy::on(&own_address(), &registry.host());
    let pull = |to: &str| trusting(env, &authority, &["copy", &format!("docker://{}/app:1", secure.host()), to]);

    let elsewhere = format!("http://{}/v2/app/blobs/{}", clear.host(), image.layer);
    secure.fail("GET", &image.layer, 0, usize::MAX, Fault::redirect(&elsewhere));
    let output = pull("oci:redirected:1").fails(4);
    one_error(&output);
    output.says("from https to http");
    assert!(clear.passed().is_empty(), "{:?}", clear.passed());
    assert!(!env.path("redirected/index.json").exists());

    // Neither does a server of tokens get a password in the clear.
    secure.reset();
    let challenge = format!("Bearer realm=\"http://{}/token\",service=\"x\"", clear.host());
    let headers = vec![("WWW-Authenticate".to_owned(), challenge)];
    secure.fail("GET", "/v2/", 0, usize::MAX, Fault::Status(401, headers));
    let login = ["login", "-u", "alice", "--password-stdin", &secure.host()];
    let output = trusting(env, &authority, &login).input("secret").fails(4);
    one_error(&output);
    output.says("is not https").says_not("secret");
    assert!(clear.passed().is_empty(), "{:?}", clear.passed());

    // Nor an upload its bytes; but a registry behind a proxy that ends TLS means itself.
    std::fs::remove_dir_all(env.path("image")).expect("it was made");
    let other = make_image(env, LAYER / 2);
    let upload = |host: &str| vec![("Location".to_owned(), format!("http://{host}/v2/app/blobs/uploads/1"))];
    secure.reset();
    secure.fail("POST", "/blobs/uploads/", 0, usize::MAX, Fault::Status(202, upload("192.0.2.1")));
    let output = send(env, &authority, &secure.host()).0.fails(4);
    one_error(&output);
    output.says("uploads without encryption");
    assert!(registry.blob("app", &other.layer).is_none(), "it was sent");
    secure.reset();
    registry.absolute_locations();
    send(env, &authority, &secure.host()).0.ok();
    assert!(registry.blob("app", &other.layer).is_some() && clear.passed().is_empty());
});
