//! Every form of image, read and written, and everything written checked whole.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::fixture::{Images, gzip, tar};
use super::layout::{LayoutSink, LayoutSource};
use super::*;
use crate::oci::descriptor::{IMAGE_NAME, REF_NAME};
use crate::oci::{Digest, Index, Manifest, Platform, media_type};
use crate::registry::Options;
use crate::registry::fake::{FakeRegistry, Fault};

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn reference(text: &str) -> Reference {
    text.parse::<Reference>().unwrap().with_default_tag()
}

fn silent() -> &'static Progress<'static> {
    &|_, _, _| {}
}

fn tagged(entry: &Descriptor, tag: &str) -> Descriptor {
    entry.clone().with_annotation(REF_NAME, tag)
}

fn named(entry: &Descriptor, name: &str) -> Descriptor {
    let name = reference(name);
    let tag = name.tag.clone().unwrap();
    tagged(entry, &tag).with_annotation(IMAGE_NAME, name.to_string())
}

fn bare(entry: &Descriptor) -> Descriptor {
    Descriptor { platform: None, ..entry.clone() }
}

fn open(dir: &Path, selector: &str) -> Result<LayoutSource> {
    let selector = match (selector, selector.parse::<Digest>()) {
        ("", _) => Selector::default(),
        (_, Ok(digest)) => Selector { name: None, digest: Some(digest) },
        (name, _) => Selector::name(name),
    };
    LayoutSource::open(dir, &selector)
}

fn store(dir: &tempfile::TempDir) -> Store {
    Store::open(&dir.path().join("store")).unwrap()
}

/// Puts all blobs of some images into a store.
fn stored(images: &Images, store: &Store) -> Descriptor {
    for bytes in images.blobs.values() {
        store.blobs().put(bytes).unwrap();
    }
    images.root.clone().unwrap()
}

fn client() -> Arc<Client> {
    let options = Options {
        proxy: false,
        retries: 2,
        retry_delay: Duration::from_millis(1),
        stall_timeout: Duration::from_secs(2),
        ..Options::default()
    };
    Arc::new(Client::new(options).unwrap())
}

fn index_of(dir: &Path) -> Index {
    serde_json::from_slice(&fs::read(dir.join("index.json")).unwrap()).unwrap()
}

#[test]
fn every_shape_of_layout_is_read() {
    let mut images = Images::default();
    let (amd, arm) = (images.image("linux/amd64", "x"), images.image("linux/arm64", "x"));
    let list = images.index(vec![amd.clone(), arm.clone()]);
    let deep = images.index(vec![list.clone()]);
    let flat = Index::new(vec![amd.clone(), arm.clone()]).encode().0;
    let flat_bare = Index::new(vec![bare(&amd), bare(&arm)]).encode().0;
    let mut untyped = bare(&amd);
    untyped.media_type = String::new();
    let note = bare(&arm).with_annotation(crate::oci::descriptor::REFERENCE_TYPE, "x");
    // Entries of index.json; what is asked for; the digest of the root, or what the error says.
    let table: Vec<(Vec<Descriptor>, &str, Result<Digest, &str>)> = vec![
        (vec![list.clone()], "", Ok(list.digest)),
        (vec![deep.clone()], "", Ok(deep.digest)),
        (vec![bare(&amd)], "", Ok(amd.digest)),
        (vec![untyped], "", Ok(amd.digest)),
        (vec![amd.clone(), arm.clone()], "", Ok(flat.digest)),
        (vec![bare(&amd), bare(&arm)], "", Ok(flat_bare.digest)),
        (vec![tagged(&amd, "1"), tagged(&arm, "1")], "", Ok(flat.digest)),
        (vec![tagged(&amd, "1"), tagged(&arm, "1"), tagged(&list, "2")], "1", Ok(flat.digest)),
        (vec![tagged(&amd, "1"), tagged(&list, "2")], "2", Ok(list.digest)),
        (vec![tagged(&amd, "1"), tagged(&list, "latest")], "", Ok(list.digest)),
        (vec![tagged(&amd, "1"), tagged(&list, "2")], "", Err("(there are 1, 2)")),
        (vec![tagged(&amd, "1"), tagged(&list, "2")], "3", Err("has no image \"3\" (there are")),
        (vec![tagged(&list, "1"), tagged(&list, "2")], "", Ok(list.digest)),
        (vec![amd.clone(), note], "", Ok(amd.digest)),
        (vec![], "", Err("has no images")),
        (vec![named(&amd, "a/b:1"), named(&arm, "c:1")], "a/b:1", Ok(amd.digest)),
        (vec![named(&amd, "a/b:1"), named(&arm, "c:1")], "docker.io/library/c:1", Ok(arm.digest)),
        (vec![named(&amd, "a/b:1"), named(&arm, "c:1")], "1", Err("several images")),
        (vec![tagged(&amd, "docker.io/a/b:1")], "a/b:1", Ok(amd.digest)),
        (vec![tagged(&amd, "docker.io/a/b:1")], "1", Ok(amd.digest)),
        (vec![tagged(&deep, "1")], &arm.digest.to_string().leak()[..], Ok(arm.digest)),
        (vec![tagged(&amd, "1")], &arm.digest.to_string().leak()[..], Ok(arm.digest)),
    ];
    for (entries, asked, want) in table {
        let dir = scratch();
        images.write(dir.path(), entries.clone());
        match (open(dir.path(), asked), want) {
            (Ok(source), Ok(want)) => {
                let (root, bytes) = source.root().unwrap();
                assert_eq!(root.digest, want, "{asked:?} of {entries:#?}");
                assert_eq!(Digest::of(&bytes), want);
                assert!(!root.media_type.is_empty());
            }
            (Err(error), Err(want)) => assert!(error.to_string().contains(want), "{error}"),
            (got, want) => panic!("{asked:?}: {:?} {want:?}", got.map(|s| s.root())),
        }
    }
}

#[test]
fn docker_types_are_read() {
    let mut images = Images::default();
    images.plain_image("linux/amd64", "x");
    let oci: Manifest = serde_json::from_slice(&images.root().unwrap().1).unwrap();
    let (descriptor, bytes) = oci.to_docker().unwrap().encode();
    images.blobs.insert(descriptor.digest, bytes);
    let mut list = Index::new(vec![descriptor.with_platform("linux/amd64".parse().unwrap())]);
    list.media_type = Some(media_type::DOCKER_LIST.to_owned());
    let (list, bytes) = list.encode();
    images.blobs.insert(list.digest, bytes);
    images.root = Some(list.clone());
    let summary = validate::source(&images).unwrap();
    assert_eq!(summary.images[0].1.to_string(), "linux/amd64");
    let dir = scratch();
    images.write(dir.path(), vec![list.clone()]);
    assert_eq!(open(dir.path(), "").unwrap().root().unwrap().0, list);
}

#[test]
fn what_is_no_layout_is_told() {
    let dir = scratch();
    let error = open(dir.path(), "").err().unwrap();
    assert!(error.is_usage() && error.to_string().contains("it has no index.json"), "{error}");
    fs::write(dir.path().join("file"), "").unwrap();
    let error = open(&dir.path().join("file"), "").err().unwrap();
    assert!(error.to_string().contains("use oci-archive:"), "{error}");
    let error = open(&dir.path().join("none"), "").err().unwrap();
    assert!(error.is_usage(), "{error}");
    fs::write(dir.path().join("index.json"), "{").unwrap();
    let error = open(dir.path(), "").err().unwrap();
    assert!(error.is_damage(), "{error}");
    fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
    let error = open(dir.path(), "").err().unwrap().to_string();
    assert!(error.contains("only 1.0.0 is known"), "{error}");
}

#[test]
fn damaged_layouts_are_found() {
    let mut images = Images::default();
    let image = images.image("linux/amd64", "x");
    let manifest: Manifest = serde_json::from_slice(&images.root().unwrap().1).unwrap();
    let blob = |dir: &Path, digest: &Digest| dir.join(super::layout::blob_name(digest));
    let layer = &manifest.layers[0];
    type Damage<'a> = Box<dyn Fn(&Path) + 'a>;
    let table: Vec<(&str, Damage<'_>)> = vec![
        ("lacks blob", Box::new(|dir| fs::remove_file(blob(dir, &layer.digest)).unwrap())),
        ("lacks manifest", Box::new(|dir| fs::remove_file(blob(dir, &image.digest)).unwrap())),
        (
            "content has digest",
            Box::new(|dir| {
                let path = blob(dir, &layer.digest);
                let mut bytes = fs::read(&path).unwrap();
                bytes[20] ^= 1;
                fs::write(path, bytes).unwrap();
            }),
        ),
        ("bytes, expected", Box::new(|dir| fs::write(blob(dir, &layer.digest), "short").unwrap())),
        ("bytes, expected", Box::new(|dir| fs::write(blob(dir, &image.digest), "{}").unwrap())),
        (
            "no regular file",
            Box::new(|dir| {
                fs::remove_file(blob(dir, &layer.digest)).unwrap();
                fs::create_dir(blob(dir, &layer.digest)).unwrap();
            }),
        ),
    ];
    for (want, damage) in table {
        let dir = scratch();
        images.write(dir.path(), vec![bare(&image)]);
        damage(dir.path());
        let sink = scratch();
        let sink = LayoutSink::create(&sink.path().join("out")).unwrap();
        let copied = open(dir.path(), "").and_then(|s| copy(&s, &sink, &[], 2, silent()));
        let error = copied.unwrap_err();
        assert!(error.to_string().contains(want) && error.is_damage(), "{want}: {error}");
        let problems = validate::layout(dir.path()).unwrap_err().to_string();
        assert!(problems.contains(want), "{want}: {problems}");
    }
}

#[test]
fn platforms_are_chosen() {
    let mut images = Images::default();
    let entries: Vec<Descriptor> = ["linux/amd64", "linux/arm64", "linux/arm/v6", "linux/arm/v7"]
        .iter()
        .map(|platform| images.image(platform, "x"))
        .collect();
    let (amd, arm64, v6, v7) = (&entries[0], &entries[1], &entries[2], &entries[3]);
    let windows = images.image("windows/amd64", "1");
    let windows = |version: &str| {
        let platform = format!("windows({version})/amd64").parse().unwrap();
        windows.clone().with_platform(platform)
    };
    let (old, new) = (windows("10.0.17763.1"), windows("10.0.20348.1"));
    let note = Descriptor { platform: Some("unknown/unknown".parse().unwrap()), ..arm64.clone() };
    let artifact = Descriptor::of("application/x-sbom", b"x");
    let nested = images.index(vec![arm64.clone(), v6.clone()]);
    let full = vec![
        note,
        artifact,
        v6.clone(),
        amd.clone(),
        v7.clone(),
        arm64.clone(),
        old.clone(),
        new.clone(),
    ];
    // Entries; wanted; chosen, or what the error says.
    let table = vec![
        (full.clone(), "linux/amd64", Ok(amd.digest)),
        (full.clone(), "linux/arm/v7", Ok(v7.digest)),
        (full.clone(), "linux/arm", Ok(v7.digest)),
        (
            full.clone(),
            "linux/arm/v5",
            Err(
                "no matching manifest for linux/arm/v5 in the manifest list (there are linux/arm/v6, linux/amd64,",
            ),
        ),
        (full.clone(), "linux/arm64/v8", Ok(arm64.digest)),
        (full.clone(), "windows(10.0.20348.9)/amd64", Ok(new.digest)),
        (full.clone(), "windows/amd64", Ok(old.digest)),
        (full, "linux/s390x", Err("no matching manifest for linux/s390x")),
        (vec![amd.clone(), v6.clone()], "linux/arm/v7", Ok(v6.digest)),
        (vec![amd.clone()], "linux/arm64", Err("in the manifest list (there is linux/amd64)")),
        (vec![bare(v7), bare(arm64), bare(amd)], "linux/arm64", Ok(arm64.digest)),
        (vec![amd.clone(), nested], "linux/arm/v6", Ok(v6.digest)),
        (vec![], "linux/amd64", Err("no matching manifest")),
    ];
    for (entries, want, outcome) in table {
        let index = Index::new(entries);
        match (select_platform(&images, &index, &want.parse::<Platform>().unwrap()), outcome) {
            (Ok(got), Ok(digest)) => assert_eq!(got.digest, digest, "{want}"),
            (Err(error), Err(text)) => {
                assert!(error.to_string().contains(text) && error.is_usage(), "{error}");
            }
            (got, outcome) => panic!("{want}: {got:?} {outcome:?}"),
        }
    }
}

#[test]
fn nesting_has_a_limit() {
    let mut images = Images::default();
    let mut entry = images.image("linux/amd64", "x");
    for _ in 0..20 {
        entry = images.index(vec![entry]);
    }
    let index: Index = serde_json::from_slice(&images.root().unwrap().1).unwrap();
    let error = select_platform(&images, &index, &"linux/amd64".parse().unwrap()).unwrap_err();
    assert!(matches!(error, Error::TooDeep { .. }), "{error}");
    let dir = scratch();
    let sink = LayoutSink::create(dir.path()).unwrap();
    let error = copy(&images, &sink, &[], 1, silent()).unwrap_err();
    assert!(matches!(error, Error::TooDeep { .. }), "{error}");
}

#[test]
fn exports_are_whole_and_the_same_every_time() {
    let dir = scratch();
    let store = store(&dir);
    let images = Images::multi("x");
    let root = stored(&images, &store);
    let names = [reference("example.io/app:1"), reference("app")];
    let path = |name: &str| dir.path().join(name);
    let archives = ["1.tar", "2.tar"].map(|name| {
        export(&store, &root, &names, &Target::OciArchive(path(name)), None).unwrap();
        fs::read(path(name)).unwrap()
    });
    assert!(archives[0] == archives[1]);
    let streamed = Arc::new(Mutex::new(Vec::new()));
    let out = Box::new(Shared(Arc::clone(&streamed)));
    export(&store, &root, &names, &Target::OciArchive("-".into()), Some(out)).unwrap();
    assert!(*streamed.lock().unwrap() == archives[0]);
    for name in ["example.io/app:1", "app", "latest", ""] {
        let source = match name {
            "" => archive::open_oci(&path("1.tar"), &Selector::default()),
            name => archive::open_oci(&path("1.tar"), &Selector::name(name)),
        };
        let summary = validate::source(source.unwrap().as_ref()).unwrap();
        assert_eq!(summary.images.len(), 2);
        assert_eq!(summary.reached.len(), images.blobs.len());
    }
    export(&store, &root, &names, &Target::OciDir(path("out")), None).unwrap();
    let summary = validate::layout(&path("out")).unwrap();
    assert_eq!(summary.reached.len(), images.blobs.len());
    let entries = index_of(&path("out")).manifests;
    let shown: Vec<_> = entries
        .iter()
        .map(|e| (e.annotations[REF_NAME].as_str(), e.annotations[IMAGE_NAME].as_str(), e.digest))
        .collect();
    assert_eq!(
        shown,
        [
            ("1", "example.io/app:1", root.digest),
            ("latest", "docker.io/library/app:latest", root.digest)
        ]
    );
    // What the umask is does not matter for what other tools and users read.
    for digest in images.blobs.keys() {
        let meta = fs::metadata(path("out").join(super::layout::blob_name(digest))).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o644);
    }
}

struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn docker_archives_are_written_and_read() {
    let dir = scratch();
    let store = store(&dir);
    let mut images = Images::default();
    let image = images.image("linux/arm64", "x");
    let list = images.index(vec![image.clone()]);
    stored(&images, &store);
    for (root, file) in [(bare(&image), "m.tar"), (list, "l.tar")] {
        let path = dir.path().join(file);
        let names = [reference("app:1"), reference("reg.io/x/app:2")];
        export(&store, &root, &names, &Target::DockerArchive(path.clone()), None).unwrap();
        let source = archive::open_docker(&path, &Selector::name("reg.io/x/app:2")).unwrap();
        assert_eq!(source.root().unwrap().0.digest, root.digest);
        validate::source(source.as_ref()).unwrap();
        // As Docker itself reads it.
        let mut text = String::new();
        let mut archive = tar::Archive::new(fs::File::open(&path).unwrap());
        let mut entries = archive.entries().unwrap().map(|entry| entry.unwrap());
        let mut found = entries.find(|e| e.path().unwrap() == Path::new("manifest.json")).unwrap();
        found.read_to_string(&mut text).unwrap();
        let items: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(items[0]["RepoTags"], serde_json::json!(["app:1", "reg.io/x/app:2"]));
        assert_eq!(items[0]["Layers"].as_array().unwrap().len(), 3);
    }
    let multi = Images::multi("y");
    let root = stored(&multi, &store);
    let path = dir.path().join("no.tar");
    let error = export(&store, &root, &[], &Target::DockerArchive(path.clone()), None).unwrap_err();
    assert!(error.to_string().contains("cannot hold an image of 2 platforms"), "{error}");
    assert!(!path.exists());
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

/// Writes what `docker save` wrote before 25: a config, layers below ids, one of them a symlink.
fn legacy_archive(images: &Images, tags: &[&str], compressed: bool) -> Vec<u8> {
    let manifest: Manifest = serde_json::from_slice(&images.root().unwrap().1).unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes).unwrap();
    };
    let config = format!("{}.json", manifest.config.digest.hex());
    add(&config, &images.blobs[&manifest.config.digest]);
    let mut names = Vec::new();
    for (at, layer) in manifest.layers.iter().enumerate() {
        let bytes = &images.blobs[&layer.digest];
        add(&format!("id{at}/real.tar"), &if compressed { gzip(bytes) } else { bytes.clone() });
        names.push(format!("id{at}/layer.tar"));
    }
    let items = serde_json::json!([{ "Config": config, "RepoTags": tags, "Layers": names }]);
    add("manifest.json", items.to_string().as_bytes());
    for at in 0..manifest.layers.len() {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        let (name, target) = (format!("id{at}/layer.tar"), format!("../id{at}/real.tar"));
        builder.append_link(&mut header, name, target).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn archives_of_old_dockers_are_read() {
    let dir = scratch();
    let path = dir.path().join("old.tar");
    let mut images = Images::default();
    images.plain_image("linux/amd64", "x");
    for compressed_layers in [false, true] {
        let bytes = legacy_archive(&images, &["app:1", "app:2"], compressed_layers);
        for bytes in [gzip(&bytes), bytes] {
            fs::write(&path, bytes).unwrap();
            for name in ["", "app:1", "docker.io/library/app:2", "2"] {
                let selector =
                    if name.is_empty() { Selector::default() } else { Selector::name(name) };
                let source = archive::open_docker(&path, &selector).unwrap();
                let summary = validate::source(source.as_ref()).unwrap();
                assert_eq!(summary.images[0].1.to_string(), "linux/amd64");
            }
        }
    }
    let error = archive::open_docker(&path, &Selector::name("app:3")).err().unwrap().to_string();
    assert!(error.contains("has no image \"app:3\" (there is app:1)"), "{error}");
    let error = archive::open_oci(&path, &Selector::default()).err().unwrap().to_string();
    assert!(error.contains("docker-archive:"), "{error}");
}

#[test]
fn hostile_archives_are_refused() {
    let dir = scratch();
    let path = dir.path().join("bad.tar");
    let mut images = Images::default();
    images.plain_image("linux/amd64", "x");
    let good = legacy_archive(&images, &[], false);
    let check = |bytes: &[u8], want: &str| {
        fs::write(&path, bytes).unwrap();
        let error = archive::open_docker(&path, &Selector::default()).err().expect(want);
        assert!(error.to_string().contains(want), "{want}: {error}");
    };
    check(b"", "it has no manifest.json");
    check(b"no tar at all", "its tar cannot be read");
    check(&tar("repositories", "{}"), "before 1.10");
    check(&tar("manifest.json", "[]"), "has no images");
    check(&tar("manifest.json", "{"), "manifest.json cannot be read");
    check(&tar("manifest.json", r#"[{"Config":"../../etc/passwd","Layers":[]}]"#), "not there");
    check(&good[..2000], "its tar cannot be read");
    let mut counts = good.clone();
    let at = counts.windows(11).position(|w| w == b"\"id1/layer.").unwrap();
    // One layer fewer than the config has.
    counts[at - 1..at + 15].copy_from_slice(b"                ");
    check(&counts, "has 1 layers, its config has 2");
    // A link that leads to itself.
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "manifest.json", "manifest.json").unwrap();
    check(&builder.into_inner().unwrap(), "it has no manifest.json");
}

#[test]
fn a_layout_keeps_what_is_not_replaced() {
    let dir = scratch();
    let out = dir.path().join("out");
    let store = store(&dir);
    let put = |text: &str, names: &[&str]| {
        let images = Images::multi(text);
        let root = stored(&images, &store);
        let names: Vec<Reference> = names.iter().map(|name| reference(name)).collect();
        export(&store, &root, &names, &Target::OciDir(out.clone()), None).unwrap();
        validate::layout(&out).unwrap();
        root.digest
    };
    let digests = || -> Vec<(String, Digest)> {
        let name = |e: &Descriptor| e.annotations.get(IMAGE_NAME).cloned().unwrap_or_default();
        index_of(&out).manifests.iter().map(|e| (name(e), e.digest)).collect()
    };
    let full = |name: &str| reference(name).to_string();
    let a = put("a", &["app:1"]);
    let b = put("b", &["app:2", "other:1"]);
    assert_eq!(digests(), [(full("app:1"), a), (full("app:2"), b), (full("other:1"), b)]);
    // The same name is replaced, and the blobs of the old image go (validate checks it).
    let c = put("c", &["app:1"]);
    assert_eq!(digests(), [(full("app:2"), b), (full("other:1"), b), (full("app:1"), c)]);
    // Nameless replaces nameless.
    put("d", &[]);
    let e = put("e", &[]);
    assert_eq!(digests().last(), Some(&(String::new(), e)));
    assert_eq!(digests().len(), 4);
    // An entry of somebody else, with a field that nobody knows, stays as it is.
    let mut index: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("index.json")).unwrap()).unwrap();
    index["manifests"][0]["futureField"] = serde_json::json!({ "x": 1 });
    index["futureTop"] = serde_json::json!(true);
    fs::write(out.join("index.json"), index.to_string()).unwrap();
    put("f", &["app:1"]);
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["futureField"]["x"], 1);
    assert_eq!(index["futureTop"], true);
}

#[test]
fn directories_of_others_are_left_alone() {
    let dir = scratch();
    let path = dir.path().join("home");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("thesis.txt"), "").unwrap();
    let error = LayoutSink::create(&path).err().unwrap();
    assert!(matches!(error, Error::Occupied { .. }) && error.is_usage(), "{error}");
    assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
    // A damaged layout is not overwritten either.
    let broken = dir.path().join("broken");
    Images::default().write(&broken, vec![]);
    fs::write(broken.join("index.json"), "{").unwrap();
    assert!(LayoutSink::create(&broken).is_err());
    assert_eq!(fs::read_to_string(broken.join("index.json")).unwrap(), "{");
    // A symlink to a layout is one.
    let (real, link) = (dir.path().join("real"), dir.path().join("link"));
    fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let mut images = Images::default();
    images.image("linux/amd64", "x");
    copy(&images, &LayoutSink::create(&link).unwrap(), &[], 2, silent()).unwrap();
    validate::layout(&real).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
}

#[test]
fn a_failed_write_leaves_what_was_there() {
    let dir = scratch();
    let (out, file) = (dir.path().join("out"), dir.path().join("out.tar"));
    let mut images = Images::default();
    images.image("linux/amd64", "x");
    let names = [reference("app:1")];
    copy(&images, &LayoutSink::create(&out).unwrap(), &names, 1, silent()).unwrap();
    copy(&images, &archive::ArchiveSink::create(&file, true).unwrap(), &names, 1, silent())
        .unwrap();
    let (index, bytes) = (fs::read(out.join("index.json")).unwrap(), fs::read(&file).unwrap());
    // A layer is not what it should be.
    let mut bad = Images::default();
    bad.image("linux/amd64", "y");
    let manifest: Manifest = serde_json::from_slice(&bad.root().unwrap().1).unwrap();
    bad.blobs.get_mut(&manifest.layers[2].digest).unwrap()[9] ^= 1;
    let sinks: [Box<dyn Sink>; 2] = [
        Box::new(LayoutSink::create(&out).unwrap()),
        Box::new(archive::ArchiveSink::create(&file, true).unwrap()),
    ];
    for sink in sinks {
        let error = copy(&bad, sink.as_ref(), &names, 1, silent()).unwrap_err();
        assert!(matches!(error, Error::Digest { .. }), "{error}");
    }
    assert!(fs::read(out.join("index.json")).unwrap() == index);
    assert!(fs::read(&file).unwrap() == bytes);
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    // What a killed writer left is swept by the next.
    fs::write(out.join("blobs/sha256/.lapstrake-abc"), "half").unwrap();
    drop(LayoutSink::create(&out).unwrap());
    assert!(!out.join("blobs/sha256/.lapstrake-abc").exists());
}

#[test]
fn two_writers_do_not_lose_entries() {
    let dir = scratch();
    let out = dir.path().join("out");
    std::thread::scope(|scope| {
        for number in 0..8 {
            let out = out.clone();
            scope.spawn(move || {
                for round in 0..4 {
                    let mut images = Images::default();
                    images.image("linux/amd64", &format!("{number}/{round}"));
                    let sink = LayoutSink::create(&out).unwrap();
                    let name = reference(&format!("app:{number}"));
                    copy(&images, &sink, &[name], 2, silent()).unwrap();
                }
            });
        }
    });
    assert_eq!(index_of(&out).manifests.len(), 8);
    let selector = |number: usize| Selector::name(format!("{number}"));
    for number in 0..8 {
        validate::source(&LayoutSource::open(&out, &selector(number)).unwrap()).unwrap();
    }
}

#[test]
fn a_closed_pipe_is_an_error() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let dir = scratch();
    let store = store(&dir);
    let mut images = Images::default();
    images.image("linux/amd64", "x");
    let root = stored(&images, &store);
    let target = Target::OciArchive("-".into());
    let error = export(&store, &root, &[], &target, Some(Box::new(Closed))).unwrap_err();
    assert!(error.to_string().contains("cannot write the output stream"), "{error}");
}

#[test]
fn registries_are_sources_and_sinks() {
    let registry = FakeRegistry::start();
    let client = client();
    let name = reference(&format!("{}/team/app:1", registry.host()));
    let images = Images::multi("x");
    let sink = remote::RegistrySink::new(Client::clone(&client), name.clone());
    let copied = copy(&images, &sink, std::slice::from_ref(&name), 4, silent()).unwrap();
    assert_eq!((copied.written, copied.present), (8, 0));
    // Again: nothing is sent.
    let copied = copy(&images, &sink, std::slice::from_ref(&name), 4, silent()).unwrap();
    assert_eq!((copied.written, copied.present), (0, 8));
    assert_eq!(registry.violations(), Vec::<String>::new());
    let source = registry_source(&client, &name);
    assert_eq!(source.root().unwrap().0.digest, images.root.clone().unwrap().digest);
    assert_eq!(validate::source(source.as_ref()).unwrap().images.len(), 2);
    let other = reference("elsewhere.io/team/app:1");
    assert!(copy(&images, &sink, &[other], 1, silent()).unwrap_err().is_usage());
}

#[test]
fn layers_are_fetched_into_the_store() {
    let registry = FakeRegistry::start();
    let client = client();
    let name = reference(&format!("{}/team/app:1", registry.host()));
    let mut images = Images::default();
    images.image("linux/amd64", "x");
    let sink = remote::RegistrySink::new(Client::clone(&client), name.clone());
    copy(&images, &sink, std::slice::from_ref(&name), 2, silent()).unwrap();
    let dir = scratch();
    let store = store(&dir);
    let source = registry_source(&client, &name);
    let manifest: Manifest = serde_json::from_slice(&source.root().unwrap().1).unwrap();
    let mut layers = manifest.layers.clone();
    layers.push(layers[0].clone());
    registry.fail("GET", "/blobs/", 0, 2, Fault::Truncate(100));
    let told = Mutex::new(0);
    let progress = |_: &str, _: u64, _: Option<u64>| *told.lock().unwrap() += 1;
    fetch_layers(source.as_ref(), &layers, &store, 3, &progress).unwrap();
    assert!(*told.lock().unwrap() >= 6);
    for layer in &layers {
        assert!(store.blobs().contains_sized(&layer.digest, layer.size));
    }
    let before = registry.seen().len();
    fetch_layers(source.as_ref(), &layers, &store, 3, &progress).unwrap();
    assert_eq!(registry.seen().len(), before);
    // A lie leaves nothing, and is not taken for a broken network.
    let blob = registry.put_blob("team/app", b"truth");
    registry.fail("GET", &blob, 0, 9, Fault::Corrupt);
    let liar = Descriptor::of("x", b"truth");
    let error = fetch_layers(source.as_ref(), std::slice::from_ref(&liar), &store, 1, &progress)
        .unwrap_err();
    assert!(error.is_damage(), "{error}");
    assert!(!store.blobs().contains(&liar.digest));
}

#[test]
fn foreign_urls_are_not_followed() {
    let trap = FakeRegistry::start();
    let mut images = Images::default();
    images.plain_image("windows/amd64", "x");
    let mut manifest: Manifest = serde_json::from_slice(&images.root().unwrap().1).unwrap();
    let layer = &mut manifest.layers[0];
    images.blobs.remove(&layer.digest);
    layer.media_type = media_type::OCI_FOREIGN_LAYER.to_owned();
    layer.urls = vec![format!("http://{}/layer", trap.host()), "file:///etc/passwd".to_owned()];
    let (descriptor, bytes) = manifest.encode();
    images.blobs.insert(descriptor.digest, bytes);
    images.root = Some(descriptor);
    let dir = scratch();
    copy(&images, &LayoutSink::create(&dir.path().join("out")).unwrap(), &[], 2, silent()).unwrap();
    validate::layout(&dir.path().join("out")).unwrap();
    let store = store(&dir);
    assert!(fetch_layers(&images, &manifest.layers, &store, 2, silent()).is_err());
    assert_eq!(trap.seen().len(), 0);
}

#[test]
fn the_store_is_a_source() {
    let dir = scratch();
    let store = store(&dir);
    let images = Images::multi("x");
    let root = stored(&images, &store);
    let entry = named(&root, "team/app:1");
    fs::write(store.layout().join("index.json"), Index::new(vec![entry]).encode().1).unwrap();
    for name in ["team/app:1", "docker.io/team/app:1"] {
        let source = store_source(&store, &reference(name)).unwrap();
        assert_eq!(source.root().unwrap().0.digest, root.digest);
        assert_eq!(validate::source(source.as_ref()).unwrap().images.len(), 2);
    }
    let by_digest: Reference = format!("any@{}", root.digest).parse().unwrap();
    assert_eq!(store_source(&store, &by_digest).unwrap().root().unwrap().0.digest, root.digest);
    assert!(store_source(&store, &reference("team/app:2")).is_none());
    assert!(store_source(&store, &reference("app:1")).is_none());
    let name = ImageName::parse("nothing:1").unwrap();
    let error = open_source(&name, &store, &client()).err().unwrap();
    assert!(error.is_usage() && error.to_string().contains("nothing:1 is not in"), "{error}");
}

#[test]
fn validation_is_strict() {
    type Change<'a> = &'a dyn Fn(&mut Manifest, &mut crate::oci::ImageConfig);
    let check = |want: &str, change: Change<'_>| {
        let mut images = Images::default();
        images.plain_image("linux/amd64", "x");
        let mut manifest: Manifest = serde_json::from_slice(&images.root().unwrap().1).unwrap();
        let bytes = &images.blobs[&manifest.config.digest];
        let mut config = crate::oci::ImageConfig::parse(bytes).unwrap();
        manifest.config = images.add(media_type::OCI_CONFIG, config.encode());
        change(&mut manifest, &mut config);
        let fresh = images.add(&manifest.config.media_type.clone(), config.encode());
        manifest.config = fresh;
        let (descriptor, bytes) = manifest.encode();
        images.blobs.insert(descriptor.digest, bytes);
        images.root = Some(descriptor);
        let problems = validate::source(&images).expect_err(want).to_string();
        assert!(problems.contains(want), "{want}: {problems}");
    };
    check("config says", &|_, config| config.rootfs.diff_ids.swap(0, 1));
    check("2 layers, but 1 diff_ids", &|_, config| config.rootfs.diff_ids.truncate(1));
    check("2 layers, but 1 in the history", &|_, config| drop(config.history.remove(0)));
    check("rootfs.type", &|_, config| config.rootfs.kind = "files".into());
    check("has no platform", &|_, config| config.os.clear());
    check("no RFC 3339 time", &|_, config| config.created = Some("yesterday".into()));
    check("no NAME=value", &|_, config| config.config.env = vec!["=x".into()]);
    check("mixes Docker's types", &|manifest, _| {
        manifest.layers[0].media_type = media_type::DOCKER_LAYER.into();
    });
    check("layer of media type", &|manifest, _| manifest.layers[0].media_type = "x/y".into());
    check("its media type says Gzip", &|manifest, _| {
        manifest.layers[0].media_type = media_type::OCI_LAYER_GZIP.into();
    });
    check("bytes, expected 2049", &|manifest, _| manifest.layers[0].size += 1);
    check("schemaVersion", &|manifest, _| manifest.schema_version = 3);
}
