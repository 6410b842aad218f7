//! The client against the fake registry: every answer that a registry may give, and many that it
//! may not.

use std::io::Read;
use std::time::Duration;

use super::fake::{Access, FakeRegistry, Fault};
use super::*;
use crate::oci::{Descriptor, Digest, Index, Manifest, media_type};

const REPOSITORY: &str = "team/app";

pub(super) fn options() -> Options {
    Options {
        proxy: false,
        retries: 3,
        retry_delay: Duration::from_millis(1),
        max_retry_after: Duration::from_secs(2),
        connect_timeout: Duration::from_secs(5),
        answer_timeout: Duration::from_secs(10),
        stall_timeout: Duration::from_millis(300),
        ..Options::default()
    }
}

fn client() -> Client {
    Client::new(options()).unwrap()
}

pub(super) fn client_with(key: &str, credential: Credential) -> Client {
    let credentials = vec![CredentialSource::Fixed { key: key.to_owned(), credential }];
    Client::new(Options { credentials, ..options() }).unwrap()
}

pub(super) fn user(name: &str, password: &str) -> Credential {
    Credential::Basic { username: name.to_owned(), password: Secret::new(password) }
}

pub(super) fn reference(registry: &FakeRegistry, rest: &str) -> Reference {
    format!("{}/{REPOSITORY}{rest}", registry.host()).parse().unwrap()
}

/// Bytes that do not repeat soon.
pub(super) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1Du64;
    let mut out = Vec::with_capacity(length);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out
}

/// Stores an image with one layer and gives its manifest.
fn image(registry: &FakeRegistry) -> (Descriptor, Vec<u8>) {
    let (config, layer) = (b"{}".to_vec(), noise(10_000));
    registry.put_blob(REPOSITORY, &config);
    registry.put_blob(REPOSITORY, &layer);
    let manifest = Manifest::new(
        Descriptor::of(media_type::OCI_CONFIG, &config),
        vec![Descriptor::of(media_type::OCI_LAYER, &layer)],
    );
    let (descriptor, bytes) = manifest.encode();
    registry.put_manifest(REPOSITORY, "1", &descriptor.media_type, &bytes);
    (descriptor, bytes)
}

fn read(
    client: &Client,
    reference: &Reference,
    descriptor: &Descriptor,
) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut reader = client.blob(reference, descriptor, 0).map_err(std::io::Error::other)?;
    reader.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[track_caller]
pub(super) fn clean(registry: &FakeRegistry) {
    assert_eq!(registry.violations(), Vec::<String>::new());
}

#[test]
fn manifests_and_blobs_are_pulled() {
    let registry = FakeRegistry::start();
    let (descriptor, bytes) = image(&registry);
    let client = client();
    let tag = reference(&registry, ":1");
    assert_eq!(client.resolve(&tag).unwrap(), (descriptor.clone(), bytes.clone()));
    assert_eq!(client.digest_of(&tag).unwrap(), descriptor);
    assert_eq!(client.manifest(&tag, &descriptor.digest).unwrap(), bytes);
    let manifest: Manifest = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(read(&client, &tag, &manifest.layers[0]).unwrap(), noise(10_000));
    let mut tail = Vec::new();
    client.blob(&tag, &manifest.layers[0], 9_000).unwrap().read_to_end(&mut tail).unwrap();
    assert_eq!(tail, noise(10_000)[9_000..]);
    clean(&registry);
}

#[test]
fn what_is_not_there_is_named() {
    let registry = FakeRegistry::start();
    let client = client();
    let missing = reference(&registry, ":nope");
    let error = client.resolve(&missing).unwrap_err();
    assert!(error.is_not_found());
    let text = error.to_string();
    assert!(text.contains(":nope does not exist") && text.contains("MANIFEST_UNKNOWN"), "{text}");
    let blob = Descriptor::of("x", b"nope");
    let Err(error) = client.blob(&missing, &blob, 0) else { panic!("found") };
    assert!(error.is_not_found(), "{error}");
    // A definite answer is not asked for again.
    assert_eq!(registry.count("GET", "/manifests/nope"), 1);
    clean(&registry);
}

#[test]
fn temporary_failures_are_tried_again() {
    for fault in [
        Fault::Close,
        Fault::Status(500, vec![], String::new()),
        Fault::Status(503, vec![("Retry-After".into(), "0".into())], "busy".into()),
        Fault::Status(429, vec![("Retry-After".into(), "1".into())], String::new()),
        Fault::Status(408, vec![], String::new()),
        Fault::Status(520, vec![], String::new()),
        Fault::Truncate(10),
    ] {
        let registry = FakeRegistry::start();
        let (descriptor, _) = image(&registry);
        registry.fail("GET", "/manifests/", 0, 2, fault.clone());
        let resolved = client().resolve(&reference(&registry, ":1"));
        assert_eq!(resolved.unwrap().0, descriptor, "{fault:?}");
        assert_eq!(registry.count("GET", "/manifests/"), 3, "{fault:?}");
        clean(&registry);
    }
}

#[test]
fn what_does_not_get_better_is_asked_once() {
    for status in [400, 404, 418, 501, 505, 511] {
        let registry = FakeRegistry::start();
        image(&registry);
        registry.fail("GET", "/manifests/", 0, 9, Fault::Status(status, vec![], String::new()));
        client().resolve(&reference(&registry, ":1")).unwrap_err();
        assert_eq!(registry.count("GET", "/manifests/"), 1, "{status}");
    }
}

#[test]
fn patience_ends() {
    let registry = FakeRegistry::start();
    image(&registry);
    registry.fail("GET", "/manifests/", 0, 99, Fault::Status(502, vec![], String::new()));
    let error = client().resolve(&reference(&registry, ":1")).unwrap_err();
    assert!(matches!(error, Error::Status { status: 502, .. }), "{error}");
    assert_eq!(registry.count("GET", "/manifests/"), 4);

    let registry = FakeRegistry::start();
    let headers = vec![("Retry-After".to_owned(), "3600".to_owned())];
    registry.fail("GET", "/manifests/", 0, 99, Fault::Status(429, headers, String::new()));
    let error = client().resolve(&reference(&registry, ":1")).unwrap_err().to_string();
    assert!(error.contains("asks to wait 3600 s"), "{error}");
    assert!(error.starts_with("127.0.0.1:"), "{error}");
}

#[test]
fn a_refused_connection_is_told() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let reference: Reference = format!("127.0.0.1:{port}/a:1").parse().unwrap();
    let error = client().resolve(&reference).unwrap_err();
    assert!(error.is_temporary(), "{error}");
    assert!(error.to_string().contains("cannot GET http://127.0.0.1"), "{error}");
}

#[test]
fn lies_about_manifests_are_found() {
    let check = |fault: Fault, want: &str| {
        let registry = FakeRegistry::start();
        let (descriptor, _) = image(&registry);
        registry.fail("GET", "/manifests/", 0, 99, fault.clone());
        let by_digest = reference(&registry, "").with_digest(descriptor.digest);
        let error = client().resolve(&by_digest).expect_err(want);
        let text =
            format!("{error}: {:?}", std::error::Error::source(&error).map(|s| s.to_string()));
        assert!(text.contains(want), "{fault:?}: {text}");
    };
    let header = |name: &str, value: &str| Fault::Header(name.into(), value.into());
    let other = Digest::of(b"other").to_string();
    check(Fault::Corrupt, "content has digest");
    check(Fault::Lengthen, "content has digest");
    check(header("Docker-Content-Digest", &other), "content has digest");
    check(header("Content-Type", media_type::OCI_INDEX), "was named as");
    check(Fault::ClaimLength(5 << 20), "more than the 4194304");
    check(Fault::Status(200, vec![], "x".repeat(5 << 20)), "more than the 4194304");
    check(Fault::Status(200, vec![], "<html>".into()), "content has digest");
}

#[test]
fn confused_documents_are_refused() {
    let registry = FakeRegistry::start();
    let both = br#"{"schemaVersion":2,"manifests":[],"layers":[],"config":{}}"#;
    registry.put_manifest(REPOSITORY, "both", media_type::OCI_INDEX, both);
    let error = client().resolve(&reference(&registry, ":both")).unwrap_err();
    assert!(matches!(error, Error::Document { .. }), "{error}");
    let old = br#"{"schemaVersion":1,"fsLayers":[]}"#;
    registry.put_manifest(REPOSITORY, "old", "application/json", old);
    let error = client().resolve(&reference(&registry, ":old")).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("schema 1"), "{source}");
}

#[test]
fn blobs_go_on_where_they_stopped() {
    for ranges in [true, false] {
        let registry = FakeRegistry::start();
        let blob = noise(300_000);
        registry.put_blob(REPOSITORY, &blob);
        registry.fail("GET", "/blobs/", 0, 1, Fault::Truncate(100_000));
        registry.fail("GET", "/blobs/", 0, 1, Fault::Close);
        if !ranges {
            registry.fail("GET", "/blobs/", 0, 1, Fault::IgnoreRange);
        }
        let descriptor = Descriptor::of("x", &blob);
        let got = read(&client(), &reference(&registry, ""), &descriptor).unwrap();
        assert!(got == blob, "ranges {ranges}");
        let asked: Vec<_> = registry
            .seen()
            .into_iter()
            .filter_map(|seen| seen.headers.get("range").cloned())
            .collect();
        assert!(!asked.is_empty() && asked.iter().all(|range| range != "bytes=0-"), "{asked:?}");
        clean(&registry);
    }
}

#[test]
fn lies_about_blobs_are_found() {
    let blob = noise(50_000);
    let good = Descriptor::of("x", &blob);
    let check = |descriptor: &Descriptor, fault: Option<Fault>, want: &str| {
        let registry = FakeRegistry::start();
        // Stored under the digest that is asked for, whatever it is.
        registry.put_blob(REPOSITORY, &blob);
        if let Some(fault) = fault {
            registry.fail("GET", "/blobs/", 0, 99, fault);
        }
        let error = read(&client(), &reference(&registry, ""), descriptor).expect_err(want);
        assert!(error.to_string().contains(want), "{error}");
    };
    check(&good, Some(Fault::Corrupt), "content has digest");
    check(&good, Some(Fault::Lengthen), "expected 50000");
    check(&good, Some(Fault::ClaimLength(49_999)), "expected 50000");
    check(&Descriptor::new("x", good.digest, 50_001), None, "has 50000 bytes, expected 50001");
    check(&Descriptor::new("x", good.digest, 49_999), None, "has 50000 bytes, expected 49999");
    check(&good, Some(Fault::Truncate(0)), "cannot GET");
    let range = Fault::Header("Content-Range".into(), "bytes 7-49999/50000".into());
    let registry = FakeRegistry::start();
    registry.put_blob(REPOSITORY, &blob);
    registry.fail("GET", "/blobs/", 0, 1, Fault::Truncate(1000));
    registry.fail("GET", "/blobs/", 0, 1, range);
    let error = read(&client(), &reference(&registry, ""), &good).unwrap_err();
    assert!(error.to_string().contains("asked for bytes from 1000"), "{error}");
}

#[test]
fn a_dripping_server_is_given_up() {
    let registry = FakeRegistry::start();
    let blob = noise(20_000);
    registry.put_blob(REPOSITORY, &blob);
    registry.fail("GET", "/blobs/", 0, 2, Fault::Drip(Duration::from_millis(20)));
    let descriptor = Descriptor::of("x", &blob);
    // Twice a drip, then it flows: the reader gets there.
    assert!(read(&client(), &reference(&registry, ""), &descriptor).unwrap() == blob);
    registry.fail("GET", "/blobs/", 0, 99, Fault::Drip(Duration::from_millis(20)));
    let error = read(&client(), &reference(&registry, ""), &descriptor).unwrap_err();
    assert!(error.to_string().contains("stalls"), "{error}");
}

#[test]
fn credentials_are_sent_when_asked_for() {
    let basic = Access::Basic("me".into(), "pw:1".into());
    let bearer = Access::Bearer(Some(("me".into(), "pw:1".into())));
    for access in [basic, bearer] {
        let registry = FakeRegistry::start();
        let (descriptor, _) = image(&registry);
        registry.access(access.clone());
        let client = client_with(&registry.host(), user("me", "pw:1"));
        assert_eq!(
            client.resolve(&reference(&registry, ":1")).unwrap().0,
            descriptor,
            "{access:?}"
        );
        let error = client_with(&registry.host(), user("me", "no"))
            .resolve(&reference(&registry, ":1"))
            .unwrap_err();
        assert!(matches!(error, Error::Denied { anonymous: false, .. }), "{error}");
        let error = super::tests::client().resolve(&reference(&registry, ":1")).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("lapstrake login") && !text.contains("pw"), "{text}");
        clean(&registry);
    }
}

#[test]
fn anonymous_and_refresh_tokens_work() {
    let registry = FakeRegistry::start();
    let (descriptor, _) = image(&registry);
    registry.access(Access::Bearer(None));
    let tag = reference(&registry, ":1");
    assert_eq!(client().resolve(&tag).unwrap().0, descriptor);
    registry.access(Access::Refresh("idtoken".into()));
    let client = client_with(&registry.host(), Credential::Identity(Secret::new("idtoken")));
    assert_eq!(client.resolve(&tag).unwrap().0, descriptor);
    clean(&registry);
}

#[test]
fn a_token_is_kept_and_renewed() {
    let registry = FakeRegistry::start();
    image(&registry);
    registry.access(Access::Bearer(None));
    let client = client();
    let tag = reference(&registry, ":1");
    for _ in 0..3 {
        client.resolve(&tag).unwrap();
    }
    assert_eq!(registry.count("GET", "/token"), 1);
    registry.expire_tokens();
    client.resolve(&tag).unwrap();
    assert_eq!(registry.count("GET", "/token"), 2);
    // In the middle of a blob too.
    let blob = noise(100_000);
    registry.put_blob(REPOSITORY, &blob);
    registry.fail("GET", "/blobs/", 0, 1, Fault::Truncate(50_000));
    let mut reader = client.blob(&tag, &Descriptor::of("x", &blob), 0).unwrap();
    registry.expire_tokens();
    let mut got = Vec::new();
    reader.read_to_end(&mut got).unwrap();
    assert!(got == blob);
    clean(&registry);
}

#[test]
fn redirects_do_not_carry_credentials_elsewhere() {
    let (registry, cdn) = (FakeRegistry::start(), FakeRegistry::start());
    let blob = noise(200_000);
    let digest = cdn.put_blob(REPOSITORY, &blob);
    registry.put_blob(REPOSITORY, &blob);
    registry.access(Access::Basic("me".into(), "pw".into()));
    let to = format!("http://{}/v2/{REPOSITORY}/blobs/{digest}?signature=secret", cdn.host());
    registry.fail("GET", "/blobs/", 1, 99, Fault::Redirect(307, to));
    cdn.fail("GET", "/blobs/", 0, 1, Fault::Truncate(70_000));
    let client = client_with(&registry.host(), user("me", "pw"));
    let got = read(&client, &reference(&registry, ""), &Descriptor::of("x", &blob)).unwrap();
    assert!(got == blob);
    // An open registry counts credentials as a violation.
    clean(&cdn);
    assert!(cdn.seen().iter().all(|seen| !seen.headers.contains_key("authorization")));
    // Each attempt starts at the registry, since a signature ends.
    assert_eq!(cdn.count("GET", "signature=secret"), 2);
}

#[test]
fn bad_redirects_are_refused() {
    let check = |to: &str, want: &str| {
        let registry = FakeRegistry::start();
        registry.fail("GET", "/manifests/", 0, 99, Fault::Redirect(302, to.to_owned()));
        let error = client().resolve(&reference(&registry, ":1")).unwrap_err().to_string();
        assert!(error.contains(want), "{to}: {error}");
        assert_eq!(registry.count("GET", "/manifests/"), 1, "{to}");
    };
    check("file:///etc/passwd", "neither http nor https");
    check("ftp://x/", "neither http nor https");
    check("http://u:p@127.0.0.1/", "no host, or a user");
    let registry = FakeRegistry::start();
    let here = format!("/v2/{REPOSITORY}/manifests/1");
    registry.fail("GET", "/manifests/", 0, 99, Fault::Redirect(302, here));
    let error = client().resolve(&reference(&registry, ":1")).unwrap_err().to_string();
    assert!(error.contains("too many redirects"), "{error}");
}

#[test]
fn offline_opens_no_socket() {
    let registry = FakeRegistry::start();
    let client = Client::new(Options { offline: true, ..options() }).unwrap();
    let tag = reference(&registry, ":1");
    let blob = Descriptor::of("x", b"x");
    let errors = [
        client.resolve(&tag).unwrap_err().to_string(),
        client.digest_of(&tag).unwrap_err().to_string(),
        client.has_blob(&tag, &blob.digest).unwrap_err().to_string(),
        client.push_manifest(&tag, "1", "x", b"{}").unwrap_err().to_string(),
    ];
    for error in errors {
        assert!(error.contains("/team/app:1 is not here, and --offline"), "{error}");
    }
    let hub = client.resolve(&"alpine:3".parse().unwrap()).unwrap_err().to_string();
    assert!(hub.starts_with("docker.io/library/alpine:3 is not here"), "{hub}");
    assert_eq!(registry.seen().len(), 0);
}

fn push(
    client: &Client,
    repository: &Reference,
    bytes: &[u8],
    from: Option<&str>,
) -> Result<Pushed> {
    let descriptor = Descriptor::of("x", bytes);
    client.push_blob(repository, &descriptor, from, &mut |offset| {
        Ok(Box::new(std::io::Cursor::new(bytes[offset as usize..].to_vec())))
    })
}

#[test]
fn images_are_pushed() {
    for (access, absolute) in [
        (Access::Open, false),
        (Access::Open, true),
        (Access::Basic("me".into(), "pw".into()), false),
        (Access::Bearer(Some(("me".into(), "pw".into()))), true),
    ] {
        let registry = FakeRegistry::start();
        registry.access(access.clone());
        if absolute {
            registry.absolute_locations();
        }
        let client = match access {
            Access::Open => client(),
            _ => client_with(&registry.host(), user("me", "pw")),
        };
        let repository = reference(&registry, "");
        let (config, layer) = (b"{}".to_vec(), noise(500_000));
        for bytes in [&config, &layer] {
            let digest = Digest::of(bytes);
            assert!(!client.has_blob(&repository, &digest).unwrap());
            assert_eq!(push(&client, &repository, bytes, None).unwrap(), Pushed::Uploaded);
            assert!(client.has_blob(&repository, &digest).unwrap());
        }
        let manifest = Manifest::new(
            Descriptor::of(media_type::OCI_CONFIG, &config),
            vec![Descriptor::of(media_type::OCI_LAYER, &layer)],
        );
        let (child, bytes) = manifest.encode();
        let name = child.digest.to_string();
        client.push_manifest(&repository, &name, &child.media_type, &bytes).unwrap();
        let (index, bytes) = Index::new(vec![child]).encode();
        client.push_manifest(&repository, "v1", &index.media_type, &bytes).unwrap();
        assert_eq!(registry.manifest(REPOSITORY, "v1").unwrap().1, bytes);
        assert!(client.has_manifest(&repository, &index.digest).unwrap());
        clean(&registry);
    }
}

#[test]
fn pushes_survive_failures() {
    for (method, path, fault) in [
        ("POST", "/uploads/", Fault::Status(503, vec![], String::new())),
        ("POST", "/uploads/", Fault::Close),
        ("PUT", "/uploads/", Fault::Close),
        ("PUT", "/uploads/", Fault::Status(500, vec![], String::new())),
        ("PUT", "/uploads/", Fault::Status(404, vec![], String::new())),
        ("PUT", "/uploads/", Fault::Status(416, vec![], String::new())),
        ("HEAD", "/blobs/", Fault::Status(429, vec![], String::new())),
    ] {
        let registry = FakeRegistry::start();
        registry.fail(method, path, 0, 2, fault.clone());
        let client = client();
        let repository = reference(&registry, "");
        let blob = noise(50_000);
        assert!(!client.has_blob(&repository, &Digest::of(&blob)).unwrap(), "{fault:?}");
        push(&client, &repository, &blob, None)
            .unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert!(registry.blob(REPOSITORY, &Digest::of(&blob).to_string()).unwrap() == blob);
        clean(&registry);
    }
}

#[test]
fn a_registry_may_work_on_an_upload_for_long() {
    let registry = FakeRegistry::start();
    // Longer than the time in which a download must move.
    let late = Fault::Delay(Duration::from_millis(600));
    registry.fail("PUT", "/uploads/", 0, 1, late.clone());
    registry.fail("GET", "/manifests/", 0, 1, late);
    push(&client(), &reference(&registry, ""), b"x", None).unwrap();
    assert_eq!(registry.count("PUT", "/uploads/"), 1);
    let (descriptor, _) = image(&registry);
    assert_eq!(client().resolve(&reference(&registry, ":1")).unwrap().0, descriptor);
    assert_eq!(registry.count("GET", "/manifests/"), 2);
    clean(&registry);
}

#[test]
fn a_token_that_ends_during_an_upload_is_renewed() {
    let registry = FakeRegistry::start();
    registry.access(Access::Bearer(None));
    let client = client();
    let repository = reference(&registry, "");
    let mut first = true;
    let blob = noise(10_000);
    let descriptor = Descriptor::of("x", &blob);
    let pushed = client.push_blob(&repository, &descriptor, None, &mut |_| {
        // Between the POST and the PUT.
        if std::mem::take(&mut first) {
            registry.expire_tokens();
        }
        Ok(Box::new(std::io::Cursor::new(blob.clone())))
    });
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    clean(&registry);
}

#[test]
fn wrong_uploads_are_told() {
    let registry = FakeRegistry::start();
    let client = client();
    let repository = reference(&registry, "");
    let descriptor = Descriptor::new("x", Digest::of(b"hello"), 5);
    let send = |bytes: &'static [u8]| {
        client.push_blob(&repository, &descriptor, None, &mut |_| Ok(Box::new(bytes)))
    };
    let error = send(b"hullo").unwrap_err().to_string();
    assert!(error.contains("DIGEST_INVALID"), "{error}");
    let error = send(b"he").unwrap_err().to_string();
    assert!(error.contains("has 2 bytes, expected 5"), "{error}");
    let error = send(b"hello!").unwrap_err().to_string();
    assert!(error.contains("has 6 bytes, expected 5"), "{error}");
    let error = client
        .push_blob(&repository, &descriptor, None, &mut |_| {
            Err(std::io::Error::other("the disk is gone"))
        })
        .unwrap_err();
    assert!(matches!(error, Error::Input { .. }), "{error}");
    let manifest = Manifest::new(descriptor, Vec::new()).encode();
    let error = client
        .push_manifest(&repository, "1", &manifest.0.media_type, &manifest.1)
        .unwrap_err()
        .to_string();
    assert!(error.contains("was not sent before its manifest"), "{error}");
    // The tag is only there when everything is.
    assert!(registry.manifest(REPOSITORY, "1").is_none());
}

#[test]
fn what_the_registry_stored_is_compared() {
    let registry = FakeRegistry::start();
    let other = Digest::of(b"other").to_string();
    let fault = Fault::Header("Docker-Content-Digest".into(), other);
    registry.fail("PUT", "/manifests/", 0, 1, fault.clone());
    registry.fail("PUT", "/uploads/", 0, 1, fault);
    let (client, repository) = (client(), reference(&registry, ""));
    assert!(matches!(push(&client, &repository, b"x", None), Err(Error::Digest { .. })));
    registry.put_blob(REPOSITORY, b"{}");
    let config = Descriptor::of(media_type::OCI_CONFIG, b"{}");
    let (descriptor, bytes) = Manifest::new(config, Vec::new()).encode();
    let pushed = client.push_manifest(&repository, "1", &descriptor.media_type, &bytes);
    assert!(matches!(pushed, Err(Error::Digest { .. })));
}

#[test]
fn blobs_are_mounted_or_else_sent() {
    let registry = FakeRegistry::start();
    registry.access(Access::Bearer(None));
    let (client, repository) = (client(), reference(&registry, ""));
    registry.put_blob("team/base", b"shared");
    // Refused with 202: the upload goes on.
    assert_eq!(push(&client, &repository, b"shared", Some("team/base")).unwrap(), Pushed::Uploaded);
    registry.allow_mounts();
    registry.put_blob("team/base", b"more");
    assert_eq!(push(&client, &repository, b"more", Some("team/base")).unwrap(), Pushed::Mounted);
    assert_eq!(push(&client, &repository, b"else", Some("team/none")).unwrap(), Pushed::Uploaded);
    clean(&registry);
}
