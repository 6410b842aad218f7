//! --cache-to and --cache-from: what one machine has made, another does not make again.
//!
//! A machine is a store of its own. Every RUN of these stories leaves something that no second run would leave, so
//! equal images prove that it ran once.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::support::TestEnv;
use crate::support::fake_registry::FakeRegistry;
use crate::support::layout::{Layout, sha256};
use crate::support::proxy::{Fault, Proxy};
use crate::support::tools::{Registry, RegistryOptions, skopeo_raw, tool};

const UUID: &str = "cat /proc/sys/kernel/random/uuid";

/// A build on the machine `name`; gives the image and what it said.
fn on(env: &TestEnv, name: &str, args: &[&str]) -> (Layout, String) {
    let out = env.path(format!("{name}-out"));
    let _ = fs::remove_dir_all(&out);
    let said = env
        .build_command(args)
        .args(["-o".as_ref(), out.as_os_str()])
        .env("LAPSTRAKE_ROOT", env.path(name))
        .ok();
    (Layout::open(&out), said.stderr)
}

/// Two stages, every kind of step, a context.
fn project(env: &TestEnv) {
    env.write("src/a", "a");
    env.write("src/b", "b");
    env.write_mode("run.sh", "#!/bin/sh\n", 0o755);
    env.dockerfile(&format!(
        "FROM base AS build\nWORKDIR /src\nCOPY src/ .\nRUN cat a b > c && {UUID} >> c\nFROM base\nRUN {UUID} > /first\nCOPY --chown=1:2 run.sh /bin/\nCOPY --from=build /src/c /c\nWORKDIR /work\nRUN {UUID} > /last && rm /first && ln /last /hard\nCMD [\"x\"]\n"
    ));
}

/// A cache that is written to and read from, each way: the flags.
fn both(place: &str) -> (String, String) {
    (format!("{place},mode=max"), place.replace("dest=", "src="))
}

fn tags(registry: &Registry, repository: &str) -> Vec<String> {
    let answer = tool(
        "skopeo",
        &["list-tags", "--tls-verify=false", &format!("docker://{}/{repository}", registry.host)],
    );
    let value: Value = serde_json::from_str(&answer).expect("skopeo prints JSON");
    let mut tags: Vec<String> = value["Tags"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    tags.sort();
    tags
}

/// Runs on one machine, then on another: nothing runs there, and the bytes are equal.
fn shared(env: &TestEnv, to: &str, from: &str) {
    project(env);
    let (first, _) = on(env, "one", &["--cache-to", to]);
    let (second, said) = on(env, "two", &["--cache-from", from]);
    assert_eq!(second.digest(), first.digest(), "{said}");
    assert!(!said.contains("warning"), "{said}");
    assert_eq!(said.matches("CACHED").count(), 5, "{said}");
    // And it has them in its own store now.
    let (third, _) = on(env, "two", &["--offline"]);
    assert_eq!(third.digest(), first.digest());
}

story!(a_registry_shares_steps : root user single, |env| {
    need_tool!("docker-registry", "skopeo");
    let registry = Registry::start(RegistryOptions::default());
    let (to, from) = both(&format!("type=registry,ref={}/team/cache:ignored", registry.host));
    shared(env, &to, &from);
    let tags = tags(&registry, "team/cache");
    // Two WORKDIRs, three COPYs, three RUNs.
    assert_eq!(tags.len(), 8, "{tags:?}");
    for tag in &tags {
        assert!(tag.starts_with("s-") && tag.len() == 66, "{tag}");
        let raw = skopeo_raw(&format!("docker://{}/team/cache:{tag}", registry.host));
        assert_eq!(raw["artifactType"], "application/vnd.lapstrake.step.v1+json");
    }
});

story!(a_directory_shares_steps : root user single, |env| {
    let dir = env.path("cache");
    let (to, from) = both(&format!("type=local,dest={}", dir.display()));
    shared(env, &to, &from);
});

// What stands before a change is taken from the cache, what comes after it is made.
story!(a_change_runs_what_stands_after_it : user, |env| {
    let dir = env.path("cache").display().to_string();
    let (to, from) = both(&format!("type=local,dest={dir}"));
    env.write("a", "a");
    env.dockerfile(&format!("FROM base AS one\nRUN {UUID} > /one\nFROM base\nRUN {UUID} > /two\nCOPY a /\nCOPY --from=one /one /\nRUN {UUID} > /three\n"));
    let old = on(env, "one", &["--cache-to", &to]).0.only();
    env.write("a", "b");
    let (new, said) = on(env, "two", &["--cache-from", &from, "--cache-to", &to]);
    let new = new.only();
    assert_eq!((new.text("one"), new.text("two"), new.text("a").as_str()), (old.text("one"), old.text("two"), "b"), "{said}");
    assert_ne!(new.text("three"), old.text("three"));
    // Both branches are in the cache now.
    assert_eq!(on(env, "three", &["--cache-from", &from]).0.only().text("three"), new.text("three"));
    env.write("a", "a");
    assert_eq!(on(env, "three", &["--cache-from", &from]).0.only().text("three"), old.text("three"));
});

// mode=min holds the layers of the result alone, and still nothing runs where nothing changed.
story!(mode_min_knows_the_other_stages : user, |env| {
    let dir = env.path("cache");
    let (to, from) = (format!("type=local,dest={}", dir.display()), format!("type=local,src={}", dir.display()));
    project(env);
    let (first, _) = on(env, "one", &["--cache-to", &to]);
    let entries = entries(&dir);
    let of = |prefix: &str| entries.keys().filter(|tag| tag.starts_with(prefix)).count();
    assert_eq!((of("s-"), of("k-")), (5, 3));
    assert!(entries.iter().all(|(tag, manifest)| manifest["layers"].as_array().is_some_and(|layers| layers.len() == usize::from(tag.starts_with("s-")))));
    let (second, said) = on(env, "two", &["--cache-from", &from]);
    assert_eq!(second.digest(), first.digest(), "{said}");
    assert_eq!(said.matches("CACHED").count(), 5, "{said}");
    // Where a later step needs the other stage itself, its steps run.
    let text = fs::read_to_string(env.context().join("Dockerfile")).expect("it was written");
    env.dockerfile(&text.replace("/src/c /c", "/src/c /d"));
    let (third, said) = on(env, "three", &["--cache-from", &from]);
    assert!(third.only().text("d").starts_with("ab"), "{said}");
});

/// The manifests of a layout's entries by tag; all of it is checked in passing.
fn entries(dir: &Path) -> BTreeMap<String, Value> {
    let read = |digest: &Value, size: &Value| {
        let digest = digest.as_str().expect("a digest");
        let path = dir.join("blobs/sha256").join(digest.strip_prefix("sha256:").expect("sha256"));
        let bytes = fs::read(path).expect("the blob is there");
        assert_eq!((sha256(&bytes).as_str(), Some(bytes.len() as u64)), (digest, size.as_u64()));
        bytes
    };
    let index: Value =
        serde_json::from_slice(&fs::read(dir.join("index.json")).expect("a layout")).expect("JSON");
    let mut entries = BTreeMap::new();
    for entry in index["manifests"].as_array().expect("an index") {
        let bytes = read(&entry["digest"], &entry["size"]);
        oci_spec::image::ImageManifest::from_reader(bytes.as_slice())
            .expect("oci-spec reads the manifest");
        let manifest: Value = serde_json::from_slice(&bytes).expect("JSON");
        read(&manifest["config"]["digest"], &manifest["config"]["size"]);
        for layer in manifest["layers"].as_array().expect("layers") {
            read(&layer["digest"], &layer["size"]);
        }
        let tag = entry["annotations"]["org.opencontainers.image.ref.name"]
            .as_str()
            .expect("a tag")
            .to_owned();
        assert!(entries.insert(tag, manifest).is_none(), "each entry is there once");
    }
    entries
}

// Attack case 24: what a cache lies about is left out, and nothing of it stays in the store.
story!(a_cache_that_lies_is_left_out : user, |env| {
    let dir = env.path("cache");
    let (to, from) = both(&format!("type=local,dest={}", dir.display()));
    project(env);
    let (first, _) = on(env, "one", &["--cache-to", &to]);
    let whole = env.path("whole");
    tool("cp", &["-a", &dir.display().to_string(), &whole.display().to_string()]);
    let reset = || {
        let _ = fs::remove_dir_all(&dir);
        tool("cp", &["-a", &whole.display().to_string(), &dir.display().to_string()]);
    };
    let blob = |digest: &Value| dir.join("blobs/sha256").join(&digest.as_str().expect("a digest")[7..]);
    let fair = |name: &str, warning: &str| {
        let (image, said) = on(env, name, &["--cache-from", &from]);
        assert!(said.contains(warning), "{warning}: {said}");
        let image = image.only();
        assert_eq!(image.text("c").get(..2), Some("ab"));
        // Again, from its own store, without a word.
        let (_, said) = on(env, name, &["--offline"]);
        assert!(!said.contains("warning") && said.matches("CACHED").count() == 6, "{said}");
        image
    };
    // Layers: other bytes of the same size, cut off, gone.
    for (name, change) in [("bytes", 0), ("short", 1), ("gone", 2)] {
        reset();
        for manifest in entries(&whole).values() {
            let path = blob(&manifest["layers"][0]["digest"]);
            let bytes = fs::read(&path).unwrap_or_default();
            let _ = fs::remove_file(&path);
            match change {
                0 => fs::write(&path, bytes.iter().map(|byte| byte ^ 1).collect::<Vec<_>>()).expect("writable"),
                1 => fs::write(&path, &bytes[..bytes.len() / 2]).expect("writable"),
                _ => {}
            }
        }
        assert_ne!(fair(name, "it is made here").text("last"), first.only().text("last"));
    }
    // Manifests that cannot be read.
    reset();
    let index: Value = serde_json::from_slice(&fs::read(dir.join("index.json")).expect("a layout")).expect("JSON");
    for entry in index["manifests"].as_array().expect("an index") {
        fs::write(blob(&entry["digest"]), vec![b'{'; entry["size"].as_u64().expect("a size") as usize]).expect("writable");
    }
    fair("manifests", "is damaged and is left out");
    // Each entry under the tag of another.
    reset();
    let mut index = index.clone();
    let list = index["manifests"].as_array_mut().expect("an index");
    let mut names: Vec<Value> = list.iter().map(|entry| entry["annotations"].clone()).collect();
    names.rotate_left(1);
    list.iter_mut().zip(names).for_each(|(entry, name)| entry["annotations"] = name);
    fs::write(dir.join("index.json"), index.to_string()).expect("writable");
    fair("swapped", "it is the entry of another step");
});

story!(a_layer_of_other_files_is_not_taken_in : user, |env| {
    // Two COPYs whose entries are honest but for the blob, which is the other's.
    let dir = env.path("cache");
    let (to, from) = both(&format!("type=local,dest={}", dir.display()));
    env.write("a", "good");
    env.dockerfile("FROM scratch\nCOPY a /a\n");
    on(env, "one", &["--cache-to", &to]);
    let honest = entries(&dir);
    env.write("a", "evil");
    let other = env.path("other");
    on(env, "one", &["--cache-to", &format!("type=local,dest={},mode=max", other.display())]);
    let (tag, mut manifest) = honest.into_iter().next().expect("one entry");
    let theirs = entries(&other).into_values().next().expect("one entry");
    // The record of the good one, but with the blob and the DiffId of the evil one.
    let decode = |manifest: &Value| -> Value {
        let text = manifest["config"]["data"].as_str().expect("the record");
        serde_json::from_slice(&base64(text)).expect("JSON")
    };
    let mut record = decode(&manifest);
    record["blob"] = decode(&theirs)["blob"].clone();
    let bytes = serde_json::to_vec(&record).expect("JSON");
    manifest["layers"] = theirs["layers"].clone();
    manifest["config"]["digest"] = sha256(&bytes).into();
    manifest["config"]["size"] = bytes.len().into();
    manifest["config"]["data"] = encode(&bytes).into();
    let evil = theirs["layers"][0]["digest"].as_str().expect("a digest")[7..].to_owned();
    fs::copy(other.join("blobs/sha256").join(&evil), dir.join("blobs/sha256").join(&evil)).expect("it is there");
    let text = serde_json::to_vec(&manifest).expect("JSON");
    let digest = sha256(&text);
    fs::write(dir.join("blobs/sha256").join(&digest[7..]), &text).expect("writable");
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": text.len(), "annotations": {"org.opencontainers.image.ref.name": tag}}]});
    fs::write(dir.join("index.json"), index.to_string()).expect("writable");
    env.write("a", "good");
    let (image, said) = on(env, "two", &["--cache-from", &from]);
    assert_eq!(image.only().text("a"), "good", "{said}");
    assert!(said.contains("it holds other files; it is made here"), "{said}");
    assert!(!env.path("two/layout/blobs/sha256").join(evil).exists());
});

fn base64(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).expect("base64")
}

fn encode(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

story!(caches_that_cannot_be_reached : user, |env| {
    env.dockerfile("FROM base\nRUN echo x > /x\n");
    let from = env.build_command(["-t", "x", "--cache-from", "type=registry,ref=127.0.0.1:9/cache"]).ok();
    from.says("the cache 127.0.0.1:9/cache cannot be read and is left out");
    let other = env.path("other");
    env.build_command(["-t", "x", "--cache-from", "type=local,src=nowhere"]).env("LAPSTRAKE_ROOT", &other).ok().says("cannot be read");
    let to = env.build_command(["-t", "x", "--cache-to", "type=registry,ref=127.0.0.1:9/cache"]).fails(4);
    to.says("the cache 127.0.0.1:9/cache cannot be written").says("ignore-error=true").says_not("RUN echo");
    env.build_command(["-t", "x", "--cache-to", "type=registry,ref=127.0.0.1:9/cache,ignore-error=true"]).ok().says("warning: the cache 127.0.0.1:9/cache cannot be written");
    env.write_at("file", "");
    env.build_command(["-t", "x", "--cache-to", "type=local,dest=file/below"]).fails(4);
});

// Two machines at the same time: each entry is there once, and both go through.
story!(two_machines_at_the_same_time : user, |env| {
    need_tool!("docker-registry", "skopeo");
    let registry = Registry::start(RegistryOptions::default());
    let (to, from) = both(&format!("type=registry,ref={}/cache", registry.host));
    // What leads to other steps' content is the same everywhere; what else they leave is not.
    env.write("a", "a");
    env.dockerfile(&format!("FROM base AS one\nWORKDIR /w\nCOPY a /w/\nRUN sha256sum a > b\nFROM base\nCOPY a /\nRUN {UUID} > /x\nCOPY --from=one /w/b /\nRUN {UUID} > /y\n"));
    let args = ["--cache-to", &to, "--cache-from", &from];
    std::thread::scope(|scope| {
        for name in ["one", "two", "three"] {
            scope.spawn(move || on(env, name, &args));
        }
    });
    let tags = tags(&registry, "cache");
    assert_eq!(tags.len(), 7, "{tags:?}");
    // Whoever comes later gets what the first put there.
    let (late, _) = on(env, "late", &["--cache-from", &from]);
    let (later, _) = on(env, "later", &["--cache-from", &from]);
    assert_eq!(late.digest(), later.digest());
});

// A registry that is far away costs few round trips, not one a step; one that knows nothing is asked for nothing but the
// first steps.
story!(steps_are_asked_for_side_by_side : user, |env| {
    let registry = FakeRegistry::start();
    let proxy = Proxy::start(&registry.host());
    let place = format!("type=registry,ref={}/cache", proxy.host());
    let steps = |count: usize| (0..count).map(|n| format!("RUN {UUID} > /{n}\n")).collect::<String>();
    env.dockerfile(&format!("FROM base\n{}COPY Dockerfile /\n{}", steps(12), steps(2)));
    let (first, _) = on(env, "one", &["--cache-from", &place, "--cache-to", &format!("{place},mode=max")]);
    // Both forms of the first step's entry, and then, as each step runs, that step's once more.
    let early = proxy.passed().into_iter().take_while(|one| !one.target.contains("/blobs/")).count();
    assert!(early < 8, "{early}: {:?}", proxy.passed());

    // How many are asked for at a time, and the most of that.
    let inside: Arc<(Mutex<(usize, usize)>, Condvar)> = Arc::default();
    proxy.reset();
    let act = {
        let inside = Arc::clone(&inside);
        move || {
            let (counts, more) = &*inside;
            let mut held = counts.lock().expect("nobody panics with it");
            *held = (held.0 + 1, held.1.max(held.0 + 1));
            more.notify_all();
            // The second to the twelfth RUN and the COPY on them; not for ever when they do not come.
            let wait = Duration::from_secs(5);
            let (mut held, _) = more.wait_timeout_while(held, wait, |held| held.1 < 12).expect("nobody panics");
            held.0 -= 1;
        }
    };
    // The first step goes alone.
    proxy.fail("GET", "/manifests/s-", 1, 12, Fault::Before(Arc::new(act)));
    let (second, said) = on(env, "two", &["--cache-from", &place]);
    assert_eq!(second.digest(), first.digest(), "{said}");
    assert_eq!(inside.0.lock().expect("nobody panicked").1, 12, "{said}");
    // One request a step, and no second one.
    let asked = proxy.matching("GET", "/manifests/");
    assert_eq!(asked.len(), 15, "{asked:?}");
});

// A layer that nobody needs is not fetched.
story!(layers_are_fetched_when_they_are_needed : user, |env| {
    let dir = env.path("cache");
    let (to, from) = both(&format!("type=local,dest={}", dir.display()));
    env.dockerfile(&format!("FROM base AS one\nRUN {UUID} > /never\nFROM base\nCOPY --from=one /never /x\n"));
    on(env, "one", &["--cache-to", &to]);
    on(env, "two", &["--cache-from", &from]);
    let run = entries(&dir).into_values().map(|manifest| manifest["layers"][0]["digest"].as_str().expect("a digest")[7..].to_owned());
    let there = run.filter(|hex| env.path("two/layout/blobs/sha256").join(hex).exists()).count();
    assert_eq!(there, 1, "the COPY's layer and not the RUN's");
});

story!(zstd_epochs_and_platforms_in_a_cache : user, |env| {
    let dir = env.path("cache");
    let place = format!("type=local,dest={}", dir.display());
    let (_, from) = both(&place);
    env.write("a", "a");
    env.dockerfile(&format!("FROM base\nCOPY a /\nRUN {UUID} > /x\n"));
    let zstd = format!("{place},mode=max,compression=zstd,compression-level=5");
    let plain = on(env, "one", &["--cache-to", &zstd]).0;
    assert!(entries(&dir).values().all(|manifest| manifest["layers"][0]["mediaType"] == "application/vnd.oci.image.layer.v1.tar+zstd"));
    // The layers are packed anew, to the bytes that the first machine made.
    let (again, said) = on(env, "two", &["--cache-from", &from]);
    assert_eq!(again.digest(), plain.digest(), "{said}");
    // With an epoch, times are others, and so are the entries.
    let epoch = ["--build-arg", "SOURCE_DATE_EPOCH=1000000", "--cache-from", &from, "--cache-to", &place];
    let clamped = on(env, "three", &epoch).0;
    let again = on(env, "four", &epoch).0;
    assert_eq!(clamped.digest(), again.digest());
    assert_eq!(again.only().file("x").mtime, 1_000_000);
    let later = on(env, "four", &["--cache-from", &from]).0.only();
    assert_eq!(later.text("x"), plain.only().text("x"), "without an epoch, the entry without one");
    assert_ne!(later.file("x").mtime, 1_000_000);
});

// The image is the cache: of its own layers, and of the keys of the stages that it was made from.
story!(an_image_is_a_cache : user, |env| {
    need_tool!("docker-registry", "skopeo");
    let registry = Registry::start(RegistryOptions::default());
    let name = format!("{}/app:1", registry.host);
    project(env);
    let push = env.build_command(["--platform", "linux/amd64", "-t", &name, "--push", "--cache-to", "inline"]);
    push.ok();
    let said = env.build_command(["--platform", "linux/amd64", "-t", &name, "--cache-from", &name, "--cache-to", "type=inline"]).env("LAPSTRAKE_ROOT", env.path("two")).ok();
    assert_eq!(said.stderr.matches("CACHED").count(), 5, "{}", said.stderr);
    said.says_not("warning");
    let digest = said.stdout.trim().rsplit('@').next().expect("a digest").to_owned();
    assert_eq!(digest, sha256(&raw_manifest(&name)), "the same image");
    // Without the flag, nothing of it is left, also where the base has it.
    env.dockerfile(&format!("FROM {name}\nENV a=b\n"));
    assert!(env.build([] as [&str; 0]).only().config.get("dev.lapstrake.cache.v1").is_none());
    env.build_command(["-t", "x", "--cache-from", "type=inline"]).fails(2).says("name the image");
});

/// The manifest of a registry's image, as it is there.
fn raw_manifest(name: &str) -> Vec<u8> {
    tool("skopeo", &["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")])
        .into_bytes()
}

// Cache mounts go from machine to machine: a compiler's cache outlives the runner.
story!(cache_mounts_are_carried : root user single, |env| {
    need_tool!("docker-registry", "skopeo");
    let registry = Registry::start(RegistryOptions::default());
    let dir = env.path("mounts");
    env.dockerfile("FROM base\nRUN --mount=type=cache,id=log,target=/c date +%N >> /c/log && mkdir -p /c/d && touch /c/d/f && chmod 2750 /c/d && ln -sf d /c/l && wc -l < /c/log > /lines && ls -ld /c/d > /mode\n");
    for (round, place) in [dir.display().to_string(), format!("docker://{}/mounts:log", registry.host)].iter().enumerate() {
        let mount = format!("id=log,from={place},to={place}");
        for (number, lines) in ["1\n", "2\n", "3\n"].into_iter().enumerate() {
            let (image, said) = on(env, &format!("m{round}{number}"), &["--cache-mount", &mount]);
            let image = image.only();
            assert_eq!(image.text("lines"), lines, "{said}");
            assert!(image.text("mode").starts_with("drwxr-s---"), "{}", image.text("mode"));
            assert!(!said.contains("cannot be taken"), "{said}");
        }
    }
    let raw = skopeo_raw(&format!("docker://{}/mounts:log", registry.host));
    assert_eq!(raw["artifactType"], "application/vnd.lapstrake.cache-mount.v1+json");
    // The last one alone is in the directory; a store that has the mount does not take another's.
    assert_eq!(entries(&dir).len(), 1);
    assert_eq!(on(env, "m00", &["--no-cache", "--cache-mount", &format!("id=log,from={}", dir.display())]).0.only().text("lines"), "2\n");
    // What cannot be read is a warning, what cannot be written an error.
    let (image, said) = on(env, "m9", &["--cache-mount", "id=log,from=nowhere"]);
    assert_eq!(image.only().text("lines"), "1\n");
    assert!(said.contains("the cache mount \"log\" cannot be taken from"), "{said}");
    env.write_at("file", "");
    env.build_command(["-t", "x", "--cache-mount", "id=log,to=file/below"]).fails(4).says("cannot be written");
    env.build_command(["-t", "x", "--cache-mount", "id=log,form=x"]).fails(2).says("did you mean from=?");
});
