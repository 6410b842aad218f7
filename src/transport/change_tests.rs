//! Sources that change other sources (filter, recompress, assemble), `dir:`, and referrers.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::assemble::{Assembly, Claim, Same};
use super::dir::{DirSink, DirSource};
use super::filter::{Filtered, REFERENCE_DIGEST};
use super::fixture::Images;
use super::layout::{LayoutSink, LayoutSource};
use super::recompress::Recompressed;
use super::*;
use crate::layer::Compression;
use crate::oci::{Document, Index, Manifest, Platform, media_type};

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn silent() -> &'static Progress<'static> {
    &|_, _, _| {}
}

fn platform(text: &str) -> Platform {
    text.parse().unwrap()
}

fn index_of(source: &dyn Source) -> Index {
    let (root, bytes) = source.root().unwrap();
    match Document::parse(&bytes, &root.media_type).unwrap() {
        Document::Index(index) => index,
        Document::Manifest(_) => panic!("no index"),
    }
}

/// Writes a source into a layout, checks that, and gives its platforms.
fn written(source: &dyn Source, dir: &Path) -> Vec<String> {
    copy(source, &LayoutSink::create(dir).unwrap(), &[], 1, silent()).unwrap();
    validate::layout(dir).unwrap();
    match LayoutSource::open(dir, &Selector::default()) {
        Ok(source) => validate::source(&source).unwrap(),
        Err(error) => panic!("{error}"),
    };
    match Document::parse(&source.root().unwrap().1, "").unwrap() {
        Document::Manifest(_) => Vec::new(),
        Document::Index(index) => index
            .manifests
            .iter()
            .filter(|entry| !entry.is_attestation())
            .map(|entry| entry.platform.clone().unwrap().format_all())
            .collect(),
    }
}

/// An attestation of an image, as BuildKit attaches it.
fn attest(images: &mut Images, of: &Descriptor) -> Descriptor {
    let said = images.plain_image("unknown/unknown", &of.digest.to_string());
    said.with_annotation(REFERENCE_DIGEST, of.digest.to_string())
        .with_annotation("vnd.docker.reference.type", "attestation-manifest")
}

/// Three platforms, the first of which has an attestation.
fn three() -> Images {
    let mut images = Images::default();
    let mut entries: Vec<Descriptor> = ["linux/amd64", "linux/arm64", "linux/arm/v7"]
        .iter()
        .map(|platform| images.image(platform, "x"))
        .collect();
    let attestation = attest(&mut images, &entries[0].clone());
    entries.push(attestation);
    images.index(entries);
    images
}

#[test]
fn platforms_are_left_out() {
    let dir = scratch();
    let images = three();
    let entries = index_of(&images).manifests;
    let of = |wanted: &[&str]| {
        let wanted: Vec<Platform> = wanted.iter().map(|text| platform(text)).collect();
        Filtered::new(Box::new(images.clone()), &wanted)
    };
    // One platform is that manifest itself.
    let one = of(&["linux/arm64"]).unwrap();
    assert_eq!(one.root().unwrap().0.digest, entries[1].digest);
    written(&one, &dir.path().join("one"));
    // Several are an index of their manifests as they were, with their attestations.
    let two = of(&["linux/arm/v7", "linux/amd64"]).unwrap();
    assert_eq!(written(&two, &dir.path().join("two")), ["linux/arm/v7", "linux/amd64"]);
    let kept: Vec<_> = index_of(&two).manifests.iter().map(|entry| entry.digest).collect();
    assert_eq!(kept, [entries[2].digest, entries[0].digest, entries[3].digest]);
    // All of them: nothing changes.
    let all = of(&["linux/amd64", "linux/arm64", "linux/arm/v7"]).unwrap();
    assert_eq!(all.root().unwrap().0.digest, images.root.clone().unwrap().digest);
    let error = of(&["linux/amd64", "linux/s390x"]).err().unwrap();
    assert!(error.is_usage() && error.to_string().contains("linux/arm/v7"), "{error}");
    // An image without index is checked by its config.
    let mut single = Images::default();
    single.image("linux/amd64", "x");
    let own = single.root.clone().unwrap().digest;
    let kept = Filtered::new(Box::new(single.clone()), &[platform("linux/amd64")]).unwrap();
    assert_eq!(kept.root().unwrap().0.digest, own);
    assert!(Filtered::new(Box::new(single), &[platform("linux/arm64")]).is_err());
}

#[test]
fn layers_are_compressed_anew() {
    let dir = scratch();
    let images = three();
    for (compression, media_type) in [
        (Compression::GZIP, media_type::OCI_LAYER_GZIP),
        (Compression::ZSTD, media_type::OCI_LAYER_ZSTD),
        (Compression::None, media_type::OCI_LAYER),
    ] {
        let new = Recompressed::new(Box::new(images.clone()), compression, dir.path(), 1, silent())
            .unwrap();
        let place = dir.path().join(format!("{compression:?}").replace(['{', '}', ' ', ':'], ""));
        // What is written is validated with its DiffIds, so the contents are the same.
        assert_eq!(written(&new, &place), ["linux/amd64", "linux/arm64", "linux/arm/v7"]);
        // The image that the attestation is about is gone, and so is what attests it.
        assert_eq!(new.dropped, 1);
        for entry in &index_of(&new).manifests {
            let manifest: Manifest = serde_json::from_slice(&new.manifest(entry).unwrap()).unwrap();
            assert!(manifest.layers.iter().all(|layer| layer.media_type == media_type));
        }
        // What is as wanted already is not touched.
        let again = LayoutSource::open(&place, &Selector::default()).unwrap();
        let again =
            Recompressed::new(Box::new(again), compression, dir.path(), 1, silent()).unwrap();
        assert_eq!(again.root().unwrap().0.digest, new.root().unwrap().0.digest);
    }
    // The scratch space goes with the source.
    let left = fs::read_dir(dir.path())
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"recompress-"));
    assert_eq!(left.count(), 0);
}

#[test]
fn a_lying_layer_is_not_compressed_anew() {
    let dir = scratch();
    let mut images = Images::default();
    images.plain_image("linux/amd64", "x");
    let mut manifest: Manifest = serde_json::from_slice(&images.root().unwrap().1).unwrap();
    // Another layer than the config names.
    manifest.layers[0] = images.add(media_type::OCI_LAYER, super::fixture::tar("evil", "x"));
    let (root, bytes) = manifest.encode();
    images.blobs.insert(root.digest, bytes);
    images.root = Some(root);
    let error = Recompressed::new(Box::new(images), Compression::GZIP, dir.path(), 1, silent())
        .err()
        .unwrap();
    assert!(error.is_damage(), "{error}");
}

fn single(platform: &str, text: &str) -> Arc<dyn Source> {
    let mut images = Images::default();
    images.image(platform, text);
    Arc::new(images)
}

fn claim(text: &str) -> Claim {
    let mut claim = Claim::default();
    claim.set_platform(text).unwrap();
    claim
}

#[test]
fn indexes_are_made_of_images() {
    let dir = scratch();
    let mut assembly = Assembly::default();
    let none = Claim::default();
    assembly.add(single("linux/amd64", "a"), &none, Same::Refuse, false).unwrap();
    assembly.add(single("linux/arm/v7", "b"), &none, Same::Refuse, false).unwrap();
    // The same image twice is one entry; another one of that platform is refused.
    assembly.add(single("linux/amd64", "a"), &none, Same::Refuse, false).unwrap();
    let error = assembly.add(single("linux/amd64", "z"), &none, Same::Refuse, false).unwrap_err();
    assert!(error.to_string().contains("two images for linux/amd64"), "{error}");
    // Two images of Windows that differ in nothing but the version.
    for version in ["10.0.17763.1", "10.0.20348.1"] {
        let claim = claim(&format!("windows({version})/amd64"));
        assembly.add(single("windows/amd64", version), &claim, Same::Refuse, false).unwrap();
    }
    let made = assembly.finish();
    assert_eq!(
        written(&made, &dir.path().join("made")),
        [
            "linux/amd64",
            "linux/arm/v7",
            "windows(10.0.17763.1)/amd64",
            "windows(10.0.20348.1)/amd64"
        ]
    );
    // Changed: a platform without version names both, so the version must be said.
    let mut changed = Assembly::from_existing(Arc::new(made)).unwrap();
    assert_eq!(changed.remove("windows(10.0.17763.1)/amd64").unwrap(), 1);
    assert!(changed.remove("linux/s390x").unwrap_err().is_usage());
    let new = single("linux/amd64", "new");
    let digest = new.root().unwrap().0.digest;
    changed.add(new, &none, Same::Replace, false).unwrap();
    let noted =
        Claim { annotations: [("a".to_owned(), "b".to_owned())].into(), ..Claim::default() };
    assert_eq!(changed.annotate("linux/arm/v7", &noted, false).unwrap(), 1);
    let changed = changed.finish();
    assert_eq!(
        written(&changed, &dir.path().join("changed")),
        ["linux/amd64", "linux/arm/v7", "windows(10.0.20348.1)/amd64"]
    );
    let entries = index_of(&changed).manifests;
    assert_eq!(entries[0].digest, digest);
    assert_eq!(entries[1].annotations["a"], "b");
}

#[test]
fn claims_are_checked_against_configs() {
    let none = Claim::default();
    let mut assembly = Assembly::default();
    let error = assembly
        .add(single("linux/arm64", "x"), &claim("linux/amd64"), Same::Refuse, false)
        .unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("linux/arm64"), "{error}");
    assert!(assembly.is_empty());
    assembly.add(single("linux/arm64", "x"), &claim("linux/amd64"), Same::Refuse, true).unwrap();
    assert!(!assembly.is_empty());
    // A version that the config does not say may be claimed, and so may features.
    let mut versioned = claim("windows(10.0.1.2)/amd64");
    versioned.os_features = Some(vec!["win32k".to_owned()]);
    assembly.add(single("windows/amd64", "x"), &versioned, Same::Refuse, false).unwrap();
    let error = assembly.annotate("windows/amd64", &claim("linux/riscv64"), false).unwrap_err();
    assert!(error.is_usage(), "{error}");
    // An index that lies about its entries is found out.
    let mut lying = Images::default();
    let entry = lying.image("linux/arm64", "y").with_platform(platform("linux/s390x"));
    lying.index(vec![entry]);
    let error = assembly.add(Arc::new(lying), &none, Same::Refuse, false).unwrap_err();
    assert!(error.is_usage(), "{error}");
    // A platform for an index of several says nothing.
    let error =
        assembly.add(Arc::new(three()), &claim("linux/amd64"), Same::Refuse, false).unwrap_err();
    assert!(error.is_usage(), "{error}");
}

#[test]
fn attestations_go_with_their_images() {
    let dir = scratch();
    let mut assembly = Assembly::default();
    assembly.add(Arc::new(three()), &Claim::default(), Same::Refuse, false).unwrap();
    let all = assembly.finish();
    assert_eq!(index_of(&all).manifests.len(), 4);
    let mut fewer = Assembly::from_existing(Arc::new(all)).unwrap();
    fewer.remove("linux/amd64").unwrap();
    let fewer = fewer.finish();
    assert_eq!(written(&fewer, &dir.path().join("out")), ["linux/arm64", "linux/arm/v7"]);
    assert_eq!(index_of(&fewer).manifests.len(), 2);
}

#[test]
fn directories_hold_one_image() {
    let dir = scratch();
    let place = dir.path().join("image");
    let images = three();
    copy(&images, &DirSink::create(&place).unwrap(), &[], 2, silent()).unwrap();
    let back = DirSource::open(&place).unwrap();
    assert_eq!(back.root().unwrap().1, images.root().unwrap().1);
    validate::source(&back).unwrap();
    // Another image takes its place, and its files go.
    let mut other = Images::default();
    other.plain_image("linux/amd64", "other");
    copy(&other, &DirSink::create(&place).unwrap(), &[], 2, silent()).unwrap();
    let mut names: Vec<String> = fs::read_dir(&place)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names.len(), 5, "config, two layers, manifest.json, version: {names:?}");
    validate::source(&DirSource::open(&place).unwrap()).unwrap();
    // What is somebody else's stays.
    let foreign = dir.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("precious"), "x").unwrap();
    assert!(DirSink::create(&foreign).err().unwrap().is_usage());
    assert!(DirSource::open(&foreign).err().unwrap().is_usage());
    // A blob that is no file, or another one, is damage.
    let layer = names.iter().find(|name| name.len() == 64).unwrap();
    fs::write(place.join(layer), "wrong").unwrap();
    assert!(validate::source(&DirSource::open(&place).unwrap()).is_err());
}

/// An artifact about `subject`: its manifest, with its blobs in `images`.
fn artifact(images: &mut Images, subject: &Descriptor) -> Descriptor {
    let empty = images.add("application/vnd.oci.empty.v1+json", b"{}".to_vec());
    let sbom = images.add("application/spdx+json", b"{\"spdx\":1}".to_vec());
    let mut manifest = Manifest::new(empty, vec![sbom]);
    manifest.artifact_type = Some("application/spdx+json".to_owned());
    manifest.subject =
        Some(Descriptor::new(subject.media_type.clone(), subject.digest, subject.size));
    let (descriptor, bytes) = manifest.encode();
    images.blobs.insert(descriptor.digest, bytes);
    Descriptor { artifact_type: manifest.artifact_type, ..descriptor }
}

#[test]
fn referrers_go_along_when_asked() {
    let dir = scratch();
    let mut images = three();
    let root = images.root.clone().unwrap();
    let entry = artifact(&mut images, &root);
    let from = dir.path().join("from");
    images.write(&from, vec![root.clone(), entry.clone()]);
    // The artifact beside the image does not make it ambiguous.
    let source = LayoutSource::open(&from, &Selector::default()).unwrap();
    assert_eq!(source.root().unwrap().0.digest, root.digest);
    let options = |referrers| CopyOptions { jobs: 2, referrers };
    let plain = dir.path().join("plain");
    let sink = LayoutSink::create(&plain).unwrap();
    assert_eq!(copy_with(&source, &sink, &[], options(false), silent()).unwrap().referrers, 0);
    assert!(!plain.join(layout::blob_name(&entry.digest)).exists());
    // Twice into one place: it is there once.
    let with = dir.path().join("with");
    for _ in 0..2 {
        let sink = LayoutSink::create(&with).unwrap();
        assert_eq!(copy_with(&source, &sink, &[], options(true), silent()).unwrap().referrers, 1);
    }
    assert_eq!(layout::entries_of(&with).unwrap().len(), 2);
    let back = LayoutSource::open(&with, &Selector::default()).unwrap();
    let found = back.referrers(&root.digest).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].artifact_type.as_deref(), Some("application/spdx+json"));
    // The store keeps them too.
    let store = Store::open(&dir.path().join("store")).unwrap();
    let name: Reference = "app:1".parse().unwrap();
    let sink = stored::StoreSink::new(&store, &name).unwrap();
    copy_with(&back, &sink, std::slice::from_ref(&name), options(true), silent()).unwrap();
    drop(sink);
    let stored = store_source(&store, &name).unwrap();
    assert_eq!(stored.referrers(&root.digest).unwrap().len(), 1);
    // dir: has no place for them.
    let sink = DirSink::create(&dir.path().join("dir")).unwrap();
    assert!(copy_with(&back, &sink, &[], options(true), silent()).unwrap_err().is_usage());
}
