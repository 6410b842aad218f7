//! Uploads that break, against the fake registry: how much is sent again is what they are about.

use std::io::Cursor;
use std::time::{Duration, Instant};

use super::fake::{Access, FakeRegistry, Fault};
use super::tests::{clean, client_with, noise, options, reference, user};
use super::*;
use crate::oci::{Descriptor, Digest};

const MB: usize = 1 << 20;

/// A client whose chunks are small.
fn client() -> Client {
    Client::new(Options { chunk_size: MB as u64 / 4, ..options() }).unwrap()
}

/// Pushes with a given client and tells at which offsets the content was opened.
fn push_with(client: &Client, registry: &FakeRegistry, bytes: &[u8]) -> (Result<Pushed>, Vec<u64>) {
    let descriptor = Descriptor::of("x", bytes);
    let mut opened = Vec::new();
    let repository = reference(registry, "");
    let pushed = client.push_blob(&repository, &descriptor, None, &mut |offset| {
        opened.push(offset);
        Ok(Box::new(Cursor::new(bytes[usize::try_from(offset).unwrap()..].to_vec())))
    });
    (pushed, opened)
}

/// Pushes, and checks that the registry has the blob and nothing to complain of.
#[track_caller]
fn arrives(client: &Client, registry: &FakeRegistry, bytes: &[u8]) -> Vec<u64> {
    let (pushed, opened) = push_with(client, registry, bytes);
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    let digest = Digest::of(bytes).to_string();
    assert!(registry.blob("team/app", &digest).unwrap() == bytes);
    clean(registry);
    opened
}

#[test]
fn a_broken_upload_goes_on_where_it_stopped() {
    for fault in [
        Fault::CutBody(700_000),
        Fault::AfterBody(700_000, 500),
        Fault::AfterBody(700_000, 503),
        Fault::AfterBody(700_000, 401),
    ] {
        let registry = FakeRegistry::start();
        registry.fail("PUT", "/uploads/", 0, 1, fault.clone());
        let blob = noise(2 * MB);
        let opened = arrives(&client(), &registry, &blob);
        assert_eq!(opened, [0, 700_000], "{fault:?}");
        // Nothing is sent twice: what came of the first request and the rest.
        assert_eq!(registry.uploaded(), blob.len(), "{fault:?}");
        assert_eq!(registry.count("POST", "/uploads/"), 1, "{fault:?}");
        assert_eq!(registry.count("PATCH", "/uploads/"), 6, "{fault:?}");
    }
}

#[test]
fn chunks_break_too() {
    let registry = FakeRegistry::start();
    registry.absolute_locations();
    registry.fail("PUT", "/uploads/", 0, 1, Fault::CutBody(300_000));
    registry.fail("PATCH", "/uploads/", 1, 1, Fault::CutBody(100_000));
    registry.fail("PATCH", "/uploads/", 1, 1, Fault::LoseAnswer);
    registry.fail("PATCH", "/uploads/", 2, 1, Fault::Status(502, vec![], String::new()));
    let blob = noise(2 * MB);
    let opened = arrives(&client(), &registry, &blob);
    assert_eq!(registry.count("POST", "/uploads/"), 1);
    assert!(opened.windows(2).all(|pair| pair[0] < pair[1]), "{opened:?}");
    // The one that was answered with 502 was read whole before.
    assert_eq!(registry.uploaded(), blob.len() + MB / 4);
}

#[test]
fn an_upload_that_gets_on_may_break_often() {
    let registry = FakeRegistry::start();
    registry.fail("PUT", "/uploads/", 0, 1, Fault::CutBody(MB));
    registry.fail("PATCH", "/uploads/", 0, 9, Fault::CutBody(MB));
    let blob = noise(12 * MB);
    let client = Client::new(Options { chunk_size: 64 << 20, ..options() }).unwrap();
    arrives(&client, &registry, &blob);
    assert_eq!(registry.uploaded(), blob.len());
    // One that does not get on is given up.
    let registry = FakeRegistry::start();
    registry.fail("PUT", "/uploads/", 0, 99, Fault::CutBody(10));
    registry.fail("PATCH", "/uploads/", 0, 99, Fault::CutBody(10));
    let (pushed, opened) = push_with(&client, &registry, &blob[..MB]);
    assert!(pushed.unwrap_err().is_temporary());
    assert!(opened.len() <= 6, "{opened:?}");
}

#[test]
fn a_lost_answer_is_no_lost_blob() {
    let registry = FakeRegistry::start();
    registry.fail("PUT", "/uploads/", 0, 1, Fault::LoseAnswer);
    let blob = noise(MB);
    assert_eq!(arrives(&client(), &registry, &blob), [0]);
    assert_eq!(registry.uploaded(), blob.len());
}

#[test]
fn a_session_that_is_gone_begins_anew() {
    for fault in [Fault::ExpireUploads, Fault::Status(404, vec![], String::new())] {
        let registry = FakeRegistry::start();
        registry.fail("PUT", "/uploads/", 0, 1, Fault::CutBody(300_000));
        registry.fail("PATCH", "/uploads/", 1, 1, fault);
        arrives(&client(), &registry, &noise(MB));
        assert_eq!(registry.count("POST", "/uploads/"), 2);
    }
    // As Distribution 2.8: whatever breaks is forgotten.
    let registry = FakeRegistry::start();
    registry.forget_broken();
    registry.fail("PUT", "/uploads/", 0, 1, Fault::CutBody(300_000));
    assert_eq!(arrives(&client(), &registry, &noise(MB)), [0, 0]);
}

#[test]
fn a_line_that_never_holds_long_enough_gets_chunks() {
    let registry = FakeRegistry::start();
    registry.forget_broken();
    registry.fail("PUT", "/uploads/", 0, 2, Fault::CutBody(MB));
    arrives(&client(), &registry, &noise(2 * MB));
    assert_eq!(registry.count("PATCH", "/uploads/"), 8);
}

#[test]
fn a_registry_without_chunks_gets_the_whole_again() {
    let registry = FakeRegistry::start();
    registry.refuse_chunks();
    registry.fail("PUT", "/uploads/", 0, 1, Fault::CutBody(300_000));
    registry.fail("PUT", "/uploads/", 0, 1, Fault::CutBody(300_000));
    assert_eq!(arrives(&client(), &registry, &noise(MB)), [0, 300_000, 0, 0]);
    // One that does not tell how far it is.
    let registry = FakeRegistry::start();
    registry.fail("PUT", "/uploads/", 0, 1, Fault::CutBody(300_000));
    registry.fail("GET", "/uploads/", 0, 1, Fault::Status(405, vec![], String::new()));
    assert_eq!(arrives(&client(), &registry, &noise(MB)), [0, 0]);
}

#[test]
fn what_the_registry_has_wrongly_is_sent_again() {
    // It says to have more than it has: the digest tells.
    let registry = FakeRegistry::start();
    registry.fail("PUT", "/uploads/", 0, 1, Fault::CutBody(300_000));
    registry.fail("GET", "/uploads/", 0, 1, Fault::Header("Range".into(), "0-399999".into()));
    let opened = arrives(&client(), &registry, &noise(MB));
    assert_eq!(opened, [0, 400_000, 300_000]);
    let registry = FakeRegistry::start();
    registry.fail("PUT", "/uploads/", 0, 1, Fault::CutBody(300_000));
    registry.fail("GET", "/uploads/", 0, 1, Fault::Header("Range".into(), "0-9999999".into()));
    let error = push_with(&client(), &registry, &noise(MB)).0.unwrap_err().to_string();
    assert!(error.contains("which cannot be"), "{error}");
}

#[test]
fn too_large_requests_become_smaller() {
    let registry = FakeRegistry::start();
    registry.max_body(MB / 3);
    let blob = noise(2 * MB);
    assert_eq!(arrives(&client(), &registry, &blob), [0, 0]);
    assert_eq!(registry.count("PATCH", "/uploads/"), 8);
    // The refusal came before the body did.
    assert_eq!(registry.uploaded(), blob.len());
    let registry = FakeRegistry::start();
    registry.max_body(100_000);
    arrives(&client(), &registry, &blob);
    let registry = FakeRegistry::start();
    registry.max_body(100);
    let error = push_with(&client(), &registry, &blob).0.unwrap_err().to_string();
    assert!(error.contains("requests of 65536 bytes are refused as too large"), "{error}");
    assert!(error.contains("client_max_body_size"), "{error}");
    assert_eq!(registry.uploaded(), 0);
}

#[test]
fn the_least_size_of_chunks_is_honoured() {
    let registry = FakeRegistry::start();
    registry.chunk_minimum(MB / 2);
    registry.fail("PUT", "/uploads/", 0, 1, Fault::CutBody(MB / 2));
    arrives(&client(), &registry, &noise(2 * MB + 5));
    // Half a megabyte came at first; chunks of as much, and the rest.
    assert_eq!(registry.count("PATCH", "/uploads/"), 4);
    // Smaller ones are not tried when a proxy refuses that size.
    let registry = FakeRegistry::start();
    registry.chunk_minimum(MB / 2);
    registry.max_body(MB / 4);
    let error = push_with(&client(), &registry, &noise(2 * MB)).0.unwrap_err().to_string();
    assert!(error.contains(&format!("requests of {} bytes", MB / 2)), "{error}");
}

#[test]
fn tokens_end_between_chunks() {
    let registry = FakeRegistry::start();
    registry.access(Access::Bearer(Some(("me".into(), "pw".into()))));
    registry.fail("PUT", "/uploads/", 0, 1, Fault::CutBody(300_000));
    registry.fail("PATCH", "/uploads/", 0, 1, Fault::AfterBody(1000, 401));
    let options = Options {
        credentials: vec![CredentialSource::Fixed {
            key: registry.host(),
            credential: user("me", "pw"),
        }],
        chunk_size: MB as u64 / 4,
        ..options()
    };
    let client = Client::new(options).unwrap();
    arrives(&client, &registry, &noise(MB));
    // The first one learns that a token is wanted.
    assert_eq!(registry.count("POST", "/uploads/"), 2);
    assert_eq!(registry.uploaded(), MB);
    // Rights that are gone are told.
    registry.fail("PUT", "/uploads/", 0, 1, Fault::AfterBody(1000, 401));
    registry.fail("GET", "/uploads/", 0, 9, Fault::Status(401, vec![], String::new()));
    let error = push_with(&client, &registry, &noise(MB + 1)).0.unwrap_err();
    assert!(matches!(error, Error::Denied { anonymous: false, .. }), "{error}");
    let refused = client_with(&registry.host(), user("me", "no"));
    let error = push_with(&refused, &registry, b"x").0.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error}");
}

#[test]
fn nobody_listening_is_told_soon() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let options = Options { proxy: false, ..Options::default() };
    let client = Client::new(options).unwrap();
    let repository: Reference = format!("127.0.0.1:{port}/a").parse().unwrap();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let error = client.has_blob(&repository, &Digest::of(b"x")).unwrap_err();
                assert!(error.is_temporary(), "{error}");
            });
        }
    });
    // All the pauses between tries would be 20 s.
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
}

#[test]
fn a_server_that_does_not_know_expect_is_waited_for_once() {
    let registry = FakeRegistry::start();
    registry.ignore_expect();
    let client = client();
    let start = Instant::now();
    for seed in 0..4 {
        let mut blob = noise(2 * MB);
        blob[0] = seed;
        arrives(&client, &registry, &blob);
    }
    // Each time would be four seconds of waiting alone.
    assert!(start.elapsed() < Duration::from_millis(3900), "{:?}", start.elapsed());
    let asked = registry.seen().iter().filter(|seen| seen.headers.contains_key("expect")).count();
    assert_eq!(asked, 1);
}
