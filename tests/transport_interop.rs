//! Other people's programs read what we write and write what we read: skopeo, umoci, and
//! docker-registry from apt. What is not installed makes a test print `SKIP reason`.

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lapstrake::oci::{Manifest, Platform, Reference};
use lapstrake::registry::{Client, Credential, CredentialSource, Options, Secret};
use lapstrake::store::Store;
use lapstrake::transport::layout::LayoutSource;
use lapstrake::transport::remote::RegistrySink;
use lapstrake::transport::{
    self, Error, ImageName, Selector, Source, Target, copy, export, fetch_blobs, validate,
};
use serde_json::json;
use support::image::{Made, Tar, Writer};
use support::tools::{Registry, RegistryOptions, tool};

/// A layout with one image for two platforms, tagged `v1`, and a store that has its blobs.
struct World {
    dir: tempfile::TempDir,
    store: Store,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().expect("the temporary directory is writable");
        let layout = dir.path().join("in");
        let writer = Writer::new(&layout);
        let images: Vec<_> = ["linux/amd64", "linux/arm64"]
            .iter()
            .map(|platform| {
                let noise: Vec<u8> = (0..300_000u32).flat_map(|n| n.to_le_bytes()).collect();
                let first = Tar::new().dir("etc").file("etc/platform", platform).bytes();
                let second = Tar::new().file("noise", &noise).bytes();
                let runtime = json!({ "Cmd": ["/bin/sh"], "Labels": { "a": "b" } });
                writer.image(&Made::new(platform, runtime, vec![first, second]))
            })
            .collect();
        writer.finish(writer.index(&images), Some("v1"));
        let store = Store::open(&dir.path().join("store")).expect("a new store opens");
        World { dir, store }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn source(&self) -> LayoutSource {
        let path = self.dir.path().join("in");
        LayoutSource::open(&path, &Selector::default()).expect("it was just written")
    }

    /// Exports the image, or one platform of it, through the store.
    fn export(&self, platform: Option<&str>, names: &[&str], target: &Target) {
        let source = self.source();
        let (mut root, bytes) = source.root().expect("it has a root");
        if let Some(platform) = platform {
            let index = serde_json::from_slice(&bytes).expect("it is an index");
            let platform: Platform = platform.parse().expect("a platform");
            root = transport::select_platform(&source, &index, &platform).expect("it is there");
        }
        for name in fs::read_dir(self.path("in/blobs/sha256")).expect("it is there").flatten() {
            let bytes = fs::read(name.path()).expect("it is readable");
            self.store.blobs().put(&bytes).expect("the store takes it");
        }
        let names: Vec<Reference> = names.iter().map(|name| reference(name)).collect();
        export(&self.store, &root, &names, target, None).expect("it can be written");
    }

    fn open(&self, name: &str) -> Result<Box<dyn Source>, Error> {
        transport::open_source(
            &ImageName::parse(name).expect("a good name"),
            &self.store,
            &client(None, &[], vec![]),
        )
    }
}

fn reference(text: &str) -> Reference {
    text.parse::<Reference>().expect("a good reference").with_default_tag()
}

fn client(ca: Option<&Path>, insecure: &[&str], credentials: Vec<CredentialSource>) -> Arc<Client> {
    let options = Options {
        tls_ca: ca.map(|path| fs::read(path).expect("the test wrote it")).into_iter().collect(),
        insecure: insecure.iter().map(|host| (*host).to_owned()).collect(),
        credentials,
        proxy: false,
        retry_delay: Duration::from_millis(5),
        ..Options::default()
    };
    Arc::new(Client::new(options).expect("good options"))
}

#[track_caller]
fn valid(source: &dyn Source) -> validate::Summary {
    validate::source(source).unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn skopeo_and_umoci_read_what_we_write() {
    need_tool!("skopeo", "umoci");
    let world = World::new();
    let (dir, oci, docker) = (world.path("out"), world.path("oci.tar"), world.path("docker.tar"));
    world.export(None, &["reg.io/app:v1", "app:v2"], &Target::OciDir(dir.clone().into()));
    validate::layout(Path::new(&dir)).unwrap_or_else(|problems| panic!("{problems}"));
    world.export(None, &["reg.io/app:v1"], &Target::OciArchive(oci.clone().into()));
    let names = ["reg.io/app:v1", "app:v2"];
    world.export(Some("linux/arm64"), &names, &Target::DockerArchive(docker.clone().into()));
    for image in [
        format!("oci:{dir}:v1"),
        format!("oci:{dir}:v2"),
        format!("oci-archive:{oci}:v1"),
        format!("docker-archive:{docker}:reg.io/app:v1"),
        format!("docker-archive:{docker}:docker.io/library/app:v2"),
    ] {
        let args = ["--override-arch", "arm64", "inspect", "--config", &image];
        let config: serde_json::Value = serde_json::from_str(&tool("skopeo", &args)).expect("JSON");
        assert_eq!(config["architecture"], "arm64", "{image}");
        assert_eq!(config["config"]["Labels"]["a"], "b", "{image}");
        let copied = world.path("copied");
        let to = format!("dir:{copied}");
        tool("skopeo", &["--insecure-policy", "--override-arch", "arm64", "copy", &image, &to]);
        fs::remove_dir_all(copied).expect("skopeo made it");
    }
    let single = world.path("single");
    world.export(Some("linux/amd64"), &["app:v1"], &Target::OciDir(single.clone().into()));
    let bundle = world.path("bundle");
    tool("umoci", &["raw", "unpack", "--rootless", "--image", &format!("{single}:v1"), &bundle]);
    let text = fs::read_to_string(Path::new(&bundle).join("etc/platform")).expect("unpacked");
    assert_eq!(text, "linux/amd64");
}

#[test]
fn we_read_what_skopeo_writes() {
    need_tool!("skopeo");
    let world = World::new();
    let from = format!("oci:{}:v1", world.path("in"));
    for (to, name) in [
        (format!("oci:{}:t", world.path("o")), format!("oci:{}:t", world.path("o"))),
        (
            format!("oci-archive:{}:t", world.path("o.tar")),
            format!("oci-archive:{}", world.path("o.tar")),
        ),
        (
            format!("docker-archive:{}:reg.io/app:t", world.path("d.tar")),
            format!("docker-archive:{}:reg.io/app:t", world.path("d.tar")),
        ),
    ] {
        tool("skopeo", &["--insecure-policy", "--override-arch", "arm64", "copy", &from, &to]);
        let source = world.open(&name).unwrap_or_else(|error| panic!("{name}: {error}"));
        let summary = valid(source.as_ref());
        assert_eq!(summary.images[0].1.to_string(), "linux/arm64", "{name}");
    }
    let all = format!("oci:{}:all", world.path("all"));
    tool("skopeo", &["--insecure-policy", "copy", "--all", &from, &all]);
    assert_eq!(valid(world.open(&all).expect("it opens").as_ref()).images.len(), 2);
}

#[test]
fn docker_registry_takes_and_gives_images() {
    need_tool!("docker-registry");
    let plain = RegistryOptions::default();
    for options in [plain, RegistryOptions { tls: true, auth: true }] {
        if options.tls && support::which("openssl").is_none() {
            support::skip("openssl", "not installed");
            continue;
        }
        let world = World::new();
        let registry = Registry::start(options);
        let credentials = || {
            let password = Secret::new("secret");
            vec![CredentialSource::Fixed {
                key: registry.host.clone(),
                credential: Credential::Basic { username: "alice".to_owned(), password },
            }]
        };
        let given = if options.auth { credentials() } else { Vec::new() };
        let ours = client(registry.ca.as_deref(), &[], given);
        let name = reference(&format!("{}/team/app:v1", registry.host));
        let source = world.source();
        let sink = RegistrySink::new(Client::clone(&ours), name.clone());
        let names = [name.clone(), name.clone().with_tag("v2")];
        let copied = copy(&source, &sink, &names, 4, &|_, _, _| {})
            .unwrap_or_else(|error| panic!("{error}: {:?}\n{}", error, registry.log()));
        assert!(copied.written > 0 && copied.present == 0);
        let again = copy(&source, &sink, &names, 4, &|_, _, _| {}).expect("again");
        assert_eq!(again.written, 0);
        for name in &names {
            let pulled = transport::registry_source(&ours, name);
            let root = pulled.root().expect("it was pushed").0;
            assert_eq!(root.digest, copied.root.digest);
            assert_eq!(valid(pulled.as_ref()).images.len(), 2);
        }
        let (_, bytes) = source.root().expect("it has a root");
        let index = serde_json::from_slice(&bytes).expect("it is an index");
        let image = transport::select_platform(&source, &index, &Platform::linux("arm64", None));
        let bytes = source.manifest(&image.expect("it is there")).expect("it is there");
        let manifest: Manifest = serde_json::from_slice(&bytes).expect("it is a manifest");
        let blobs: Vec<_> = manifest.layers.into_iter().chain([manifest.config]).collect();
        let pulled = transport::registry_source(&ours, &name);
        fetch_blobs(pulled.as_ref(), &blobs, &world.store, 4, &|_, _, _| {}).expect("all come");
        for blob in &blobs {
            assert!(world.store.blobs().contains_sized(&blob.digest, blob.size));
        }
        // A mount within the registry.
        let other = reference(&format!("{}/team/other:v1", registry.host));
        let sink = RegistrySink::new(Client::clone(&ours), other.clone()).with_mount_from(&name);
        copy(&source, &sink, std::slice::from_ref(&other), 4, &|_, _, _| {}).expect("mounted");
        valid(transport::registry_source(&ours, &other).as_ref());
        if options.auth {
            let error =
                transport::registry_source(&client(registry.ca.as_deref(), &[], vec![]), &name)
                    .root()
                    .unwrap_err();
            assert!(error.to_string().contains("lapstrake login"), "{error}");
        }
    }
}

#[test]
fn skopeo_and_we_share_a_registry() {
    need_tool!("docker-registry", "skopeo");
    let world = World::new();
    let registry = Registry::start(RegistryOptions::default());
    let ours = client(None, &[], vec![]);
    let from = format!("oci:{}:v1", world.path("in"));
    let to = format!("docker://{}/theirs:1", registry.host);
    tool("skopeo", &["--insecure-policy", "copy", "--all", "--dest-tls-verify=false", &from, &to]);
    let name = reference(&format!("{}/theirs:1", registry.host));
    assert_eq!(valid(transport::registry_source(&ours, &name).as_ref()).images.len(), 2);
    let name = reference(&format!("{}/ours:1", registry.host));
    let sink = RegistrySink::new(Client::clone(&ours), name.clone());
    copy(&world.source(), &sink, &[name], 2, &|_, _, _| {}).expect("it is pushed");
    let from = format!("docker://{}/ours:1", registry.host);
    let to = format!("oci:{}:back", world.path("back"));
    tool("skopeo", &["--insecure-policy", "copy", "--all", "--src-tls-verify=false", &from, &to]);
    validate::layout(Path::new(&world.path("back")))
        .unwrap_or_else(|problems| panic!("{problems}"));
}

#[test]
fn a_certificate_that_nobody_signed_is_refused_at_once() {
    need_tool!("docker-registry", "openssl");
    let registry = Registry::start(RegistryOptions { tls: true, auth: false });
    // Loopback addresses are trusted, so a name is needed that is not one: 0.0.0.0 leads here too.
    let host = registry.host.replace("127.0.0.1", "0.0.0.0");
    let name = reference(&format!("{host}/app:1"));
    let start = Instant::now();
    let error = transport::registry_source(&client(None, &[], vec![]), &name).root().unwrap_err();
    let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(source.contains("certificate"), "{error}: {source}");
    assert!(start.elapsed() < Duration::from_secs(5));
    // On the insecure list it is asked, over https first.
    let ours = client(None, &[&host], vec![]);
    let error = transport::registry_source(&ours, &name).root().unwrap_err();
    assert!(error.to_string().contains("does not exist"), "{error}");
    // http is the second choice there.
    let plain = Registry::start(RegistryOptions::default());
    let host = plain.host.replace("127.0.0.1", "0.0.0.0");
    let ours = client(None, &[&host], vec![]);
    let name = reference(&format!("{host}/app:1"));
    let error = transport::registry_source(&ours, &name).root().unwrap_err();
    assert!(error.to_string().contains("does not exist"), "{error}");
}
