//! Mirrors against fake registries: who is asked, in which order, and for what.

use super::*;
use crate::registry::fake::{FakeRegistry, Fault};
use crate::registry::{ConfFile, ConfKind, Options, Registries};
use std::io::Read;
use std::time::Duration;

use crate::oci::{Descriptor, Manifest, media_type};

const REPOSITORY: &str = "team/app";
const LAYER: &[u8] = b"some bytes of a layer";

fn client(conf: &str) -> Client {
    let file = ConfFile { path: "c".into(), text: Ok(conf.to_owned()), kind: ConfKind::Registries };
    let registries = Registries::read(&[file]);
    assert_eq!(registries.fault(), None);
    let delay = Duration::from_millis(1);
    Client::new(Options {
        proxy: false,
        retries: 2,
        retry_delay: delay,
        registries,
        ..Options::default()
    })
    .unwrap()
}

/// Stores an image in `team/app` and gives its manifest's and its layer's descriptor.
fn image(registry: &FakeRegistry, repository: &str) -> (Descriptor, Descriptor) {
    registry.put_blob(repository, b"{}");
    registry.put_blob(repository, LAYER);
    let layer = Descriptor::of(media_type::OCI_LAYER, LAYER);
    let config = Descriptor::of(media_type::OCI_CONFIG, b"{}");
    let (descriptor, bytes) = Manifest::new(config, vec![layer.clone()]).encode();
    registry.put_manifest(repository, "1", &descriptor.media_type, &bytes);
    (descriptor, layer)
}

fn named(registry: &FakeRegistry) -> Reference {
    format!("{}/{REPOSITORY}:1", registry.host()).parse().unwrap()
}

fn mirrors(registry: &FakeRegistry, mirrors: &[&str]) -> String {
    let mut conf = format!("[[registry]]\nlocation = \"{}\"\n", registry.host());
    for mirror in mirrors {
        conf.push_str(&format!("[[registry.mirror]]\n{mirror}\n"));
    }
    conf
}

fn at(registry: &FakeRegistry) -> String {
    format!("location = \"{}\"", registry.host())
}

fn read(client: &Client, name: &Reference, layer: &Descriptor) -> Vec<u8> {
    let mut bytes = Vec::new();
    client.blob(name, layer, 0).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// What anybody asked a registry for, but for its root.
fn asked(registry: &FakeRegistry) -> usize {
    registry.count("GET", REPOSITORY) + registry.count("HEAD", REPOSITORY)
}

#[test]
fn mirrors_go_first_and_the_registry_last() {
    let (own, empty, full) = (FakeRegistry::start(), FakeRegistry::start(), FakeRegistry::start());
    let (root, layer) = image(&full, "cache/team/app");
    image(&own, REPOSITORY);
    let place = format!("location = \"{}/cache\"", full.host());
    let client = client(&mirrors(&own, &[&at(&empty), &place]));
    let name = named(&own);
    assert_eq!(client.resolve(&name).unwrap().0, root);
    assert_eq!(client.digest_of(&name).unwrap(), root);
    assert_eq!(read(&client, &name, &layer), LAYER);
    assert!(client.manifest(&name, &root.digest).is_ok());
    // Where the image was found, its parts are asked for first.
    assert_eq!((empty.count("GET", "/blobs/"), asked(&own)), (0, 0));
    for registry in [own, empty, full] {
        assert_eq!(registry.violations(), Vec::<String>::new());
    }
}

#[test]
fn a_mirror_that_is_down_is_asked_once() {
    let own = FakeRegistry::start();
    let (_, layer) = image(&own, REPOSITORY);
    let gone = FakeRegistry::start();
    let conf = mirrors(&own, &[&at(&gone)]);
    drop(gone);
    let client = client(&conf);
    let name = named(&own);
    client.resolve(&name).unwrap();
    assert_eq!(read(&client, &name, &layer), LAYER);
    let dead = client.inner.experience.dead.lock().unwrap().clone();
    assert_eq!(dead.len(), 1);
    let order = client.endpoints(&name, About::Image).unwrap();
    assert_eq!(order[0].reference, name, "the dead are asked last");
}

#[test]
fn whatever_a_mirror_does_wrong_the_next_is_asked() {
    let forbidden = Fault::Status(403, Vec::new(), String::new());
    let broken = Fault::Status(500, Vec::new(), String::new());
    for fault in [forbidden, broken, Fault::Close, Fault::Corrupt] {
        let (own, bad) = (FakeRegistry::start(), FakeRegistry::start());
        let (root, layer) = image(&own, REPOSITORY);
        image(&bad, REPOSITORY);
        bad.fail("GET", "/manifests/", 0, 1, fault.clone());
        let client = client(&mirrors(&own, &[&at(&bad)]));
        let name = named(&own).with_digest(root.digest);
        assert_eq!(client.resolve(&name).unwrap().0, root, "{fault:?}");
        assert_eq!(read(&client, &name, &layer), LAYER);
        assert_eq!(bad.count("GET", "/manifests/"), 1, "{fault:?}");
    }
}

#[test]
fn a_blob_goes_on_elsewhere_when_its_mirror_fails() {
    let (own, mirror) = (FakeRegistry::start(), FakeRegistry::start());
    let (_, layer) = image(&own, REPOSITORY);
    image(&mirror, REPOSITORY);
    mirror.fail("GET", "/blobs/", 0, 1, Fault::Truncate(5));
    mirror.fail("GET", "/blobs/", 0, 9, Fault::Status(404, Vec::new(), String::new()));
    let client = client(&mirrors(&own, &[&at(&mirror)]));
    let name = named(&own);
    client.resolve(&name).unwrap();
    assert_eq!(read(&client, &name, &layer), LAYER);
    let ranges = own.seen().iter().filter(|seen| seen.headers.contains_key("range")).count();
    assert_eq!(ranges, 1, "only what was lacking came from the registry");
}

#[test]
fn when_all_fail_each_is_told_and_the_registry_decides() {
    let (own, mirror) = (FakeRegistry::start(), FakeRegistry::start());
    let client = client(&mirrors(&own, &[&at(&mirror)]));
    mirror.fail("GET", "/manifests/", 0, 99, Fault::Status(503, Vec::new(), String::new()));
    let error = client.resolve(&named(&own)).unwrap_err();
    assert!(error.is_not_found(), "{error}");
    let text = error.to_string();
    for want in [own.host(), mirror.host(), "503".to_owned(), "does not exist".to_owned()] {
        assert!(text.contains(&want), "{text}");
    }
    assert_eq!(own.count("GET", "/manifests/"), 1, "it has said no");
    own.fail("GET", "/manifests/", 0, 1, Fault::Status(503, Vec::new(), String::new()));
    image(&own, REPOSITORY);
    assert!(client.resolve(&named(&own)).is_ok(), "both may come to themselves");
}

#[test]
fn pushes_and_what_they_ask_go_to_no_mirror() {
    let (own, mirror) = (FakeRegistry::start(), FakeRegistry::start());
    let (root, layer) = image(&mirror, REPOSITORY);
    let client = client(&mirrors(&own, &[&at(&mirror)])).direct();
    let name = named(&own);
    assert!(!client.has_blob(&name, &layer.digest).unwrap());
    assert!(!client.has_manifest(&name, &root.digest).unwrap());
    let mut open = |_| Ok(Box::new(LAYER) as Box<dyn Read + Send>);
    client.push_blob(&name, &layer, None, &mut open).unwrap();
    assert_eq!(asked(&mirror), 0);
    assert_eq!(own.blob(REPOSITORY, &layer.digest.to_string()).as_deref(), Some(LAYER));
}

#[test]
fn blocked_registries_are_neither_pulled_from_nor_pushed_to() {
    let own = FakeRegistry::start();
    let (_, layer) = image(&own, REPOSITORY);
    let client = client(&format!("[[registry]]\nlocation = \"{}\"\nblocked = true\n", own.host()));
    let name = named(&own);
    let mut open = |_| Ok(Box::new(LAYER) as Box<dyn Read + Send>);
    let credential = crate::registry::Credential::Identity(crate::registry::Secret::new("x"));
    let errors = [
        client.resolve(&name).unwrap_err(),
        client.blob(&name, &layer, 0).err().unwrap(),
        client.direct().push_blob(&name, &layer, None, &mut open).unwrap_err(),
        client.check_login(&own.host(), &credential).unwrap_err(),
    ];
    for error in errors {
        assert!(error.is_configuration() && error.to_string().contains("c:3"), "{error}");
    }
    assert!(own.seen().is_empty());
}
