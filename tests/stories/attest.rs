//! --provenance, --sbom, --attest, --attach.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::TestEnv;
use crate::support::layout::sha256;
use crate::support::tools::{Registry, RegistryOptions, skopeo_raw, tool};

const EPOCH: &str = "SOURCE_DATE_EPOCH=1234567890";
const IN_TOTO: &str = "application/vnd.in-toto+json";
const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
const SPDX: &str = "https://spdx.dev/Document";

fn blob(layout: &Path, descriptor: &Value) -> Vec<u8> {
    let digest = descriptor["digest"].as_str().expect("a descriptor has a digest");
    let bytes =
        fs::read(layout.join("blobs/sha256").join(&digest[7..])).expect("the blob is there");
    assert_eq!(sha256(&bytes), digest);
    assert_eq!(descriptor["size"].as_u64(), Some(bytes.len() as u64));
    bytes
}

fn json(layout: &Path, descriptor: &Value) -> Value {
    serde_json::from_slice(&blob(layout, descriptor)).expect("it is JSON")
}

/// The index that a layout's only name leads to.
fn index(layout: &Path) -> Value {
    let bytes = fs::read(layout.join("index.json")).expect("a layout has an index.json");
    let whole: Value = serde_json::from_slice(&bytes).expect("it is JSON");
    json(layout, &whole["manifests"][0])
}

/// The statement of one kind in an attestation manifest.
fn statement(layout: &Path, manifest: &Value, kind: &str) -> Value {
    let layers = manifest["layers"].as_array().expect("a manifest has layers");
    let layer = layers
        .iter()
        .find(|layer| layer["annotations"]["in-toto.io/predicate-type"] == kind)
        .unwrap_or_else(|| panic!("no {kind} in {manifest:#}"));
    assert_eq!(layer["mediaType"], IN_TOTO);
    let statement = json(layout, layer);
    assert_eq!(statement["predicateType"], kind);
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    statement
}

fn build(env: &TestEnv, name: &str, args: &[&str]) -> std::path::PathBuf {
    let out = env.path(name);
    let _ = fs::remove_dir_all(&out);
    env.build_command(args).args(["-o".as_ref(), out.as_os_str()]).ok();
    out
}

/// Has every field that SPDX 2.3 demands, and identifiers that lead somewhere.
fn check_spdx(document: &Value) {
    assert_eq!(document["spdxVersion"], "SPDX-2.3");
    assert_eq!(document["dataLicense"], "CC0-1.0");
    assert_eq!(document["SPDXID"], "SPDXRef-DOCUMENT");
    for field in ["name", "documentNamespace"] {
        assert!(document[field].as_str().is_some_and(|text| !text.is_empty()), "{field}");
    }
    assert!(!document["documentNamespace"].as_str().unwrap_or_default().contains('#'));
    let creation = &document["creationInfo"];
    let created = creation["created"].as_str().unwrap_or_default();
    assert!(created.len() == 20 && created.ends_with('Z'), "{created}");
    assert!(creation["creators"][0].as_str().is_some_and(|text| text.starts_with("Tool: ")));
    let mut ids = vec!["SPDXRef-DOCUMENT".to_owned()];
    let license_ids: Vec<&str> = document["hasExtractedLicensingInfos"]
        .as_array()
        .map(|list| list.iter().filter_map(|one| one["licenseId"].as_str()).collect())
        .unwrap_or_default();
    for package in document["packages"].as_array().expect("packages are a list") {
        let id = package["SPDXID"].as_str().unwrap_or_default().to_owned();
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
        assert!(id.strip_prefix("SPDXRef-").is_some_and(|rest| rest.chars().all(legal)), "{id}");
        assert!(!ids.contains(&id), "{id} is there twice");
        ids.push(id);
        assert!(package["name"].is_string() && package["downloadLocation"].is_string());
        let license = package["licenseDeclared"].as_str().unwrap_or_default();
        for word in license.split([' ', '(', ')']).filter(|word| word.starts_with("LicenseRef-")) {
            assert!(license_ids.contains(&word), "{word}");
        }
        for reference in package["externalRefs"].as_array().into_iter().flatten() {
            assert_eq!(reference["referenceType"], "purl");
            assert!(
                reference["referenceLocator"].as_str().is_some_and(|text| text.starts_with("pkg:"))
            );
        }
    }
    let relations = document["relationships"].as_array().expect("relationships are a list");
    assert!(relations.iter().any(|one| one["relationshipType"] == "DESCRIBES"));
    for one in relations {
        for end in ["spdxElementId", "relatedSpdxElement"] {
            assert!(ids.iter().any(|id| one[end] == id.as_str()), "{one}");
        }
    }
}

/// The package URLs of a document.
fn purls(document: &Value) -> Vec<String> {
    let packages = document["packages"].as_array().expect("packages are a list");
    let locator = |package: &Value| {
        package["externalRefs"][0]["referenceLocator"].as_str().map(str::to_owned)
    };
    packages.iter().filter_map(locator).collect()
}

story!(provenance_is_attached_as_buildx_does : root user single, |env| {
    env.write("foo", "foo");
    env.dockerfile("FROM base\nARG VERSION\nCOPY foo /foo\nRUN touch /bar\n");
    let platforms = "linux/amd64,linux/arm/v7";
    let args = ["--platform", platforms, "-t", "example.com/app:1", "--build-arg", "VERSION=1.2", "--build-arg", EPOCH];
    let plain = index(&build(env, "plain", &args));
    let with = |mode: &str| {
        let mut all = args.to_vec();
        all.push(mode);
        build(env, "out", &all)
    };
    let out = with("--provenance=mode=max");
    let made = index(&out);
    let entries = made["manifests"].as_array().expect("an index has manifests");
    assert_eq!(entries.len(), 4);
    assert_eq!(entries[..2], plain["manifests"].as_array().expect("an index")[..], "the images are the same");
    for (image, entry) in entries[..2].iter().zip(&entries[2..]) {
        assert_eq!(entry["platform"], serde_json::json!({"architecture": "unknown", "os": "unknown"}));
        assert_eq!(entry["annotations"]["vnd.docker.reference.type"], "attestation-manifest");
        assert_eq!(entry["annotations"]["vnd.docker.reference.digest"], image["digest"]);
        let manifest = json(&out, entry);
        let config = json(&out, &manifest["config"]);
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        let statement = statement(&out, &manifest, PROVENANCE);
        let digest = image["digest"].as_str().expect("a digest");
        assert_eq!(statement["subject"][0]["digest"]["sha256"], digest[7..]);
        assert!(statement["subject"][0]["name"].as_str().is_some_and(|name| name.starts_with("pkg:docker/example.com/app@1?platform=linux%2F")));
        let predicate = &statement["predicate"];
        let definition = &predicate["buildDefinition"];
        assert_eq!(definition["buildType"], "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md");
        assert_eq!(definition["externalParameters"]["configSource"]["path"], "Dockerfile");
        assert_eq!(definition["externalParameters"]["request"]["args"]["build-arg:VERSION"], "1.2");
        let base = &definition["resolvedDependencies"][0];
        assert!(base["uri"].as_str().is_some_and(|uri| uri.starts_with("pkg:oci/busybox?platform=")), "{base}");
        assert_eq!(base["digest"]["sha256"].as_str().map(str::len), Some(64));
        let steps = definition["internalParameters"]["buildConfig"]["llbDefinition"].as_array().expect("steps");
        let sources: Vec<&str> = steps.iter().filter_map(|step| step["op"]["Op"]["source"]["identifier"].as_str()).collect();
        assert!(sources.iter().any(|source| source.starts_with("oci-layout://local/busybox@sha256:")), "{sources:?}");
        let run = steps.iter().find(|step| step["op"]["Op"]["exec"].is_object()).expect("there is a RUN");
        assert_eq!(run["op"]["Op"]["exec"]["meta"]["args"], serde_json::json!(["/bin/sh", "-c", "touch /bar"]));
        let metadata = &predicate["runDetails"]["metadata"];
        assert_eq!(metadata["finishedOn"], "2009-02-13T23:31:30Z");
        assert_eq!(metadata["buildkit_hermetic"], false);
        let text = String::from_utf8(blob(&out, &manifest["layers"][0])).expect("JSON is UTF-8");
        assert!(!text.contains(&env.path("").display().to_string()), "a path of this machine: {text}");
    }
    // Same inputs, same bytes.
    assert_eq!(index(&with("--provenance=mode=max")), made);
    let min = with("--provenance");
    let entry = index(&min)["manifests"][2].clone();
    let statement = statement(&min, &json(&min, &entry), PROVENANCE);
    let definition = &statement["predicate"]["buildDefinition"];
    assert_eq!(definition["externalParameters"]["request"]["args"], serde_json::json!({}));
    assert!(definition["internalParameters"].get("buildConfig").is_none());
    assert_eq!(index(&with("--provenance=false")), plain);
});

story!(one_image_becomes_an_index_that_others_read : root, |env| {
    need_tool!("skopeo");
    env.dockerfile("FROM base\nRUN touch /bar\n");
    let out = build(env, "out", &["-t", "app:1", "--attest", "type=provenance,mode=min", "--attest", "type=sbom"]);
    let made = index(&out);
    assert_eq!(made["manifests"].as_array().map(Vec::len), Some(2));
    let image = format!("oci:{}:1", out.display());
    assert_eq!(skopeo_raw(&image), made);
    let copy = env.path("copy");
    let to = format!("oci:{}:1", copy.display());
    tool("skopeo", &["copy", "--quiet", "--all", "--insecure-policy", &image, &to]);
    assert_eq!(index(&copy), made, "nothing had to be rewritten");
    // Without --all the image of this machine is found beside the attestation.
    tool("skopeo", &["copy", "--quiet", "--insecure-policy", &image, &format!("oci:{}:1", env.path("one").display())]);
    let name = format!("oci:{}", out.display());
    let shown = env.lapstrake(["inspect", &name]).ok().stdout;
    assert!(shown.contains("attestation") && shown.contains(PROVENANCE) && shown.contains(SPDX), "{shown}");
    env.dockerfile("FROM attested\nRUN test -e /bar\n");
    env.build_command(["--build-context", &format!("attested=oci-layout://{}:1", out.display())]).ok();
    let archive = env.path("docker.tar");
    env.dockerfile("FROM base\nRUN touch /bar\n");
    env.build_command(["-t", "app:1", "--sbom", "-o", &format!("type=docker,dest={}", archive.display())]).ok();
    tool("skopeo", &["inspect", "--config", &format!("docker-archive:{}", archive.display())]);
});

story!(secrets_are_never_told : root, |env| {
    env.write_at("token.txt", "hunter2222\n");
    env.dockerfile(
        "FROM base\nARG MIRROR\nARG API_TOKEN\nARG NOTE\nLABEL note=hunter2222\nRUN --mount=type=secret,id=token test -s /run/secrets/token\nRUN echo \"$MIRROR\" > /mirror\nCOPY <<EOF /data/\nhunter2222\nEOF\n",
    );
    let token = env.path("token.txt").display().to_string();
    let out = build(
        env,
        "out",
        &[
            "-t", "app:1", "--provenance=mode=max", "--sbom", "--secret", &format!("id=token,src={token}"),
            "--build-arg", "MIRROR=https://bob:pa55word@mirror.example/?sig=cafe1234", "--build-arg", "API_TOKEN=tok-3n",
            "--build-arg", "NOTE=with hunter2222 in it", "--label", "x=hunter2222",
        ],
    );
    let manifest = json(&out, &index(&out)["manifests"][1]);
    for layer in manifest["layers"].as_array().expect("layers") {
        let statement = json(&out, layer);
        let mut text = statement.to_string();
        let infos = &statement["predicate"]["runDetails"]["metadata"]["buildkit_metadata"]["source"]["infos"];
        if let Some(data) = infos[0]["data"].as_str() {
            let script = format!("printf %s '{data}' | base64 -d");
            text.push_str(&tool("sh", &["-c", &script]));
            assert!(text.contains("LABEL note=xxxxx"), "{text}");
            assert!(text.contains(r#""id":"token""#));
        }
        for secret in ["hunter2222", "pa55word", "cafe1234", "tok-3n"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
});

story!(sbom_tells_what_is_installed : root user single, |env| {
    env.write("os-release", "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian 12\"\n");
    env.write(
        "status",
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9\nMaintainer: GNU Libc <g@debian.example>\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n",
    );
    env.write("installed", "P:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\n\nP:odd\nV:1\nA:x86_64\nL:Own Licence, see web\n");
    env.write("METADATA", "Metadata-Version: 2.1\nName: requests\nVersion: 2.31.0\nLicense: Apache 2.0\n\ntext\n");
    env.write("package.json", r#"{"name":"left-pad","version":"1.3.0","license":"WTFPL"}"#);
    env.write("Cargo.lock", "[[package]]\nname = \"serde\"\nversion = \"1.0.200\"\n");
    env.write("rpmdb.sqlite", "SQLite format 3\0");
    let packed = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/rpm/rpmdb.sqlite.zst");
    env.write("whole.sqlite", zstd::decode_all(fs::File::open(packed).expect("it is there")).expect("zstd"));
    env.dockerfile(
        "FROM base\nCOPY os-release /etc/os-release\nCOPY status /var/lib/dpkg/status\nCOPY installed /lib/apk/db/installed\nCOPY METADATA /usr/lib/python3/dist-packages/requests-2.31.0.dist-info/METADATA\nCOPY package.json /app/node_modules/left-pad/package.json\nCOPY package.json /removed/node_modules/removed/package.json\nCOPY Cargo.lock /src/\nCOPY rpmdb.sqlite /var/lib/rpm/\nCOPY whole.sqlite /usr/lib/sysimage/rpm/rpmdb.sqlite\nRUN mkdir -p /late/node_modules/@a/b && echo '{\"name\":\"@a/b\",\"version\":\"2.0.0\"}' > /late/node_modules/@a/b/package.json && rm -r /removed\n",
    );
    let args = ["-t", "app:1", "--sbom=true", "--build-arg", EPOCH];
    let out = build(env, "out", &args);
    let made = index(&out);
    let statement = statement(&out, &json(&out, &made["manifests"][1]), SPDX);
    let document = &statement["predicate"];
    check_spdx(document);
    assert_eq!(document["creationInfo"]["created"], "2009-02-13T23:31:30Z");
    assert!(document["comment"].as_str().is_some_and(|text| text.contains("rpm")), "{document:#}");
    let mut found = purls(document);
    found.sort();
    let (rpm, found): (Vec<_>, Vec<_>) = found.into_iter().partition(|purl| purl.starts_with("pkg:rpm/"));
    assert_eq!(rpm.len(), 40);
    assert_eq!(rpm[0], "pkg:rpm/debian/plank-10@1.10-3.el9?arch=noarch&distro=debian-12&epoch=2&upstream=plank-10-1.10-3.el9.src.rpm");
    assert_eq!(
        found,
        [
            "pkg:apk/debian/musl@1.2.4-r2?arch=x86_64&distro=debian-12",
            "pkg:apk/debian/odd@1?arch=x86_64&distro=debian-12",
            "pkg:cargo/serde@1.0.200",
            "pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-12",
            "pkg:npm/%40a/b@2.0.0",
            "pkg:npm/left-pad@1.3.0",
            "pkg:pypi/requests@2.31.0",
        ]
    );
    assert_eq!(index(&build(env, "again", &args)), made, "same inputs, same bytes");
});

story!(referrers_leave_the_image_alone : root user, |env| {
    need_tool!("docker-registry", "skopeo");
    let registry = Registry::start(RegistryOptions::default());
    env.dockerfile("FROM base\nRUN touch /bar\n");
    let name = format!("{}/team/app:1", registry.host);
    let plain = env.build(["-t", &name]).digest();
    let out = build(env, "attested", &["-t", &name, "--provenance", "--sbom", "--attach=referrers", "--push"]);
    let whole: Value = serde_json::from_slice(&fs::read(out.join("index.json")).expect("a layout")).expect("JSON");
    let entries = whole["manifests"].as_array().expect("an index");
    assert!(entries.iter().any(|entry| entry["digest"] == plain.as_str()), "{whole:#}");
    let check = |manifest: &Value| {
        assert_eq!(manifest["artifactType"], IN_TOTO);
        assert_eq!(manifest["subject"]["digest"], plain.as_str());
        assert_eq!(manifest["config"]["mediaType"], "application/vnd.oci.empty.v1+json");
        assert_eq!(manifest["layers"].as_array().map(Vec::len), Some(2));
    };
    let referrer = entries.iter().find(|entry| entry["artifactType"] == IN_TOTO).expect("a referrer");
    check(&json(&out, referrer));
    // This registry keeps no list, so the image's digest is the tag of one.
    let tag = plain.replace(':', "-");
    let list = skopeo_raw(&format!("docker://{}/team/app:{tag}", registry.host));
    let digest = list["manifests"][0]["digest"].as_str().expect("a digest");
    assert_eq!(list["manifests"][0]["artifactType"], IN_TOTO);
    check(&skopeo_raw(&format!("docker://{}/team/app@{digest}", registry.host)));
    let raw = tool("skopeo", &["inspect", "--tls-verify=false", "--raw", &format!("docker://{name}")]);
    assert_eq!(sha256(raw.as_bytes()), plain);
});

story!(flags_that_make_no_sense_are_refused : user, |env| {
    env.dockerfile("FROM scratch\n");
    for (args, message) in [
        (&["--provenance=mode=some"][..], "there is no mode"),
        (&["--sbom=generator=x/y"], "not run"),
        (&["--attach=referrers"], "no attestation"),
        (&["--sbom", "-o", "type=local,dest=x"], "no attestations"),
    ] {
        env.build_command(args).fails(2).says(message);
    }
});
