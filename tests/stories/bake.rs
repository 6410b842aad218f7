//! Bake: several targets, one graph.

use std::path::Path;

use crate::support::TestEnv;
use crate::support::layout::Layout;

const STAMP: &str = "cat /proc/sys/kernel/random/uuid > /stamp";

/// `lapstrake bake` in the directory of the context.
fn bake(env: &TestEnv, args: &[&str]) -> crate::support::Run {
    env.lapstrake(["bake"]).args(args).dir(env.context())
}

fn bake_file(env: &TestEnv, text: &str) {
    let base = crate::support::cache().join("busybox:latest");
    env.write(
        "docker-bake.hcl",
        text.replace("$BASE", &format!("oci-layout://{}", base.display())),
    );
}

fn layout(env: &TestEnv, name: &str) -> Layout {
    Layout::open(&env.context().join(name))
}

fn count(output: &str, word: &str) -> usize {
    output.lines().filter(|line| line.contains(word)).count()
}

// What two targets have in common runs once; a story that counts, by what the step itself leaves.
story!(common_steps_run_once : root user single, |env| {
    env.write("counted", "x");
    env.write("Dockerfile", format!("FROM base AS common\nCOPY counted /\nRUN {STAMP}\nFROM common AS one\nRUN echo 1 > /which\nFROM common AS two\nRUN echo 2 > /which\n"));
    bake_file(env, r#"
group "default" { targets = ["one", "two"] }
target "_common" { contexts = { base = "$BASE" } }
target "one" {
  inherits = ["_common"]
  target = "one"
  output = ["type=oci,dest=one,tar=false"]
}
target "two" {
  inherits = ["_common"]
  target = "two"
  output = ["type=oci,dest=two,tar=false"]
}
"#);
    let said = bake(env, &["--progress=plain", "--metadata-file=meta.json"]).ok();
    let (one, two) = (layout(env, "one").only(), layout(env, "two").only());
    assert_eq!(one.text("stamp"), two.text("stamp"));
    assert_eq!((one.text("which"), two.text("which")), ("1\n".to_owned(), "2\n".to_owned()));
    assert!(count(&said.stderr, "> /stamp") >= 1);
    let steps: std::collections::BTreeSet<&str> = said.stderr.lines().filter(|line| line.contains("RUN cat /proc")).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(steps.len(), 1, "{}", said.stderr);
    let meta: serde_json::Value = serde_json::from_slice(&std::fs::read(env.context().join("meta.json")).expect("written")).expect("JSON");
    assert_eq!(meta["one"]["containerimage.digest"], layout(env, "one").digest());
    assert_eq!(meta["two"]["containerimage.digest"], layout(env, "two").digest());
    // Again: all is cached.
    let again = bake(env, &["--progress=plain"]).ok();
    assert_eq!(count(&again.stderr, "CACHED"), 5, "{}", again.stderr);
});

// contexts = target: as base and as a source of COPY, over two hops, without an image in between.
story!(one_target_is_the_base_of_another : root user, |env| {
    env.write("base.Dockerfile", "FROM root\nRUN echo base > /base\nENV FROM_BASE=yes\nLABEL l=base\nONBUILD RUN echo triggered > /triggered\n");
    env.write("app.Dockerfile", "FROM base\nRUN echo $FROM_BASE > /app\nCOPY --from=tools /tool /tool\n");
    bake_file(env, r#"
target "base" {
  dockerfile = "base.Dockerfile"
  contexts = { root = "$BASE" }
}
target "tools" {
  dockerfile-inline = <<EOT
FROM base
RUN cat /base /triggered > /tool
EOT
  contexts = { base = "target:base" }
}
target "app" {
  dockerfile = "app.Dockerfile"
  contexts = { base = "target:base", tools = "target:tools" }
  tags = ["app:${upper("x")}"]
  output = ["type=oci,dest=app,tar=false"]
}
"#);
    bake(env, &["app"]).ok();
    let app = layout(env, "app").only();
    assert_eq!(app.text("app"), "yes\n");
    assert_eq!(app.text("tool"), "base\ntriggered\n");
    assert!(app.history().iter().any(|line| line.contains("echo base")), "{:?}", app.history());
    // What is only linked is not kept as an image.
    let images = env.lapstrake(["images", "--quiet"]).ok().stdout;
    assert!(images.contains("app:X") && !images.contains("base"), "{images}");
});

story!(several_platforms_share_one_base_target : user, |env| {
    env.write("base.Dockerfile", "ARG TARGETARCH\nFROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /arch\n");
    env.write("amd64", "amd64");
    env.write("arm64", "arm64");
    env.write("Dockerfile", "FROM base\nCOPY amd64 /more\n");
    bake_file(env, r#"
target "base" { dockerfile = "base.Dockerfile" }
target "app" {
  contexts = { base = "target:base" }
  platforms = ["linux/amd64", "linux/arm64"]
  output = ["type=oci,dest=app,tar=false"]
}
"#);
    bake(env, &["app"]).ok();
    let app = layout(env, "app");
    for arch in ["amd64", "arm64"] {
        let image = app.platform(&format!("linux/{arch}"));
        assert_eq!(image.text("arch"), arch);
        assert_eq!(image.history().iter().filter(|line| line.contains("COPY")).count(), 2);
    }
});

// Options of steps are those of their own target.
story!(targets_have_secrets_and_limits_of_their_own : root user, |env| {
    env.write("one.txt", "first");
    env.write("two.txt", "second");
    env.write("Dockerfile", "FROM base\nARG WHICH\nRUN --mount=type=secret,id=s wc -c < /run/secrets/s > /size && ulimit -n > /limit && echo $WHICH\n");
    bake_file(env, r#"
group "default" { targets = ["t"] }
target "t" {
  name = "t-${w}"
  matrix = { w = ["one", "two"] }
  contexts = { base = "$BASE" }
  args = { WHICH = w }
  secret = ["id=s,src=${w}.txt"]
  ulimits = ["nofile=${w == "one" ? 100 : 200}"]
  output = ["type=oci,dest=${w},tar=false"]
}
"#);
    bake(env, &[]).ok();
    for (name, size, limit) in [("one", "5\n", "100\n"), ("two", "6\n", "200\n")] {
        let image = layout(env, name).only();
        assert_eq!((image.text("size").as_str(), image.text("limit").as_str()), (size, limit));
    }
});

story!(compose_override_print_and_set : user, |env| {
    env.write("web/Dockerfile", "FROM scratch\nARG A\nLABEL a=$A\nCOPY f /\n");
    env.write("web/f", "f");
    env.write("compose.yaml", "services:\n  web:\n    image: web:${TAG:-none}\n    build:\n      context: ./web\n      args: { A: compose }\n  db:\n    image: postgres\n");
    env.write(".env", "TAG=dot\n");
    env.write("docker-bake.override.hcl", "target \"web\" { args = { A = \"hcl\" } }\n");
    let printed = bake(env, &["--print"]).ok();
    let json: serde_json::Value = serde_json::from_str(&printed.stdout).expect("JSON");
    assert_eq!(json, serde_json::json!({
        "group": {"default": {"targets": ["web"]}},
        "target": {"web": {"args": {"A": "hcl"}, "context": "./web", "dockerfile": "Dockerfile", "tags": ["web:dot"]}},
    }));
    let list = bake(env, &["--list=targets"]).ok().stdout;
    assert!(list.contains("web"), "{list}");
    bake(env, &["--set", "web.output=type=local,dest=files", "--set", "web.args.A=set"]).ok();
    assert!(Path::new(&env.context().join("files/f")).is_file());
    let image = env.lapstrake(["inspect", "--format", "json", "web:dot"]).ok().stdout;
    assert!(image.contains("set"), "{image}");
});

// A base that several services extend, and a project within the project.
story!(compose_files_include_and_extend : user, |env| {
    env.write("compose.yaml", "include: [sub/compose.yaml]\nservices:\n  one: { extends: base, build: { args: { A: one } } }\n  base: { image: 'base:1', build: { context: ctx, args: { A: base, B: base } } }\n");
    env.write("ctx/Dockerfile", "FROM scratch\nARG A\nARG B\nLABEL a=$A b=$B\n");
    env.write("sub/compose.yaml", "services:\n  lib: { image: 'lib:${V}', build: . }\n");
    env.write("sub/.env", "V=3\n");
    env.write("sub/Dockerfile", "FROM scratch\nCOPY .env /\n");
    bake(env, &["--set", "one.tags=one:1"]).ok();
    let config = env.lapstrake(["inspect", "--format", "{{json .Config.Labels}}", "one:1"]).ok().stdout;
    assert_eq!(config.trim(), r#"{"a":"one","b":"base"}"#);
    env.lapstrake(["inspect", "lib:3"]).ok();
});

story!(standard_input_and_mistakes : user, |env| {
    env.write("Dockerfile", "FROM scratch\nCOPY none /\n");
    bake(env, &[]).fails(2).says("there is no bake file here");
    bake(env, &["-f", "-", "t"]).input("target \"t\" {\n  tgas = [\"x\"]\n}\n").fails(2).says("standard input:2:3").says("did you mean `tags`?");
    bake(env, &["-f", "-"]).input("target \"t\" {}").fails(2).says("there is no target or group \"default\"");
    bake(env, &["-f", "-", "t"]).input("target \"t\" { entitlements = [\"network.host\"] }").fails(2).says("--allow network.host");
    bake(env, &["-f", "-", "t"]).input("target \"t\" { policy = [\"a=b\"] }").fails(2).says("target t: policy is not supported");
    // The place of a failed step is in the Dockerfile of its own target.
    env.write("fine.Dockerfile", "FROM scratch\nLABEL a=b\n");
    let two = "group \"default\" { targets = [\"fine\", \"bad\"] }\ntarget \"fine\" { dockerfile = \"fine.Dockerfile\" }\ntarget \"bad\" {}\n";
    bake(env, &["-f", "-"]).input(two).fails(1).says("Dockerfile:2:").says("COPY none /");
});

// Attestations are those of their target: about its images, its lines, and nothing of this machine.
story!(targets_are_attested : user, |env| {
    env.write("counted", "x");
    env.write("Dockerfile", "FROM base AS common\nCOPY counted /\nRUN --mount=type=secret,id=s cp /run/secrets/s /tmp/s && rm /tmp/s\nFROM common AS one\nRUN echo 1 > /which\nFROM common AS two\nRUN echo 2 > /which\n");
    env.write("secret", "hush-hush-hush");
    bake_file(env, r#"
group "default" { targets = ["one", "two", "three"] }
target "_common" {
  contexts = { base = "$BASE" }
  secret = ["id=s,src=secret"]
}
target "one" {
  inherits = ["_common"]
  target = "one"
  output = ["type=oci,dest=one,tar=false"]
}
target "two" {
  inherits = ["_common"]
  target = "two"
  args = { SEEN = "yes", PASSWORD = "hush-hush-hush" }
  attest = ["type=provenance,mode=max", "type=sbom"]
  platforms = ["linux/amd64", "linux/arm64"]
  output = ["type=oci,dest=two,tar=false"]
}
target "three" {
  dockerfile-inline = "FROM two\nLABEL a=b\n"
  contexts = { two = "target:two" }
  attest = [{ type = "provenance", mode = "max" }]
  platforms = ["linux/amd64"]
  output = ["type=oci,dest=three,tar=false"]
}
"#);
    bake(env, &[]).ok();
    let json = |name: &str, digest: &serde_json::Value| -> serde_json::Value {
        let hex = &digest.as_str().expect("a digest")[7..];
        let bytes = std::fs::read(env.context().join(name).join("blobs/sha256").join(hex)).expect("the blob is there");
        let text = String::from_utf8(bytes).expect("JSON is UTF-8");
        assert!(!text.contains("hush-hush-hush"), "{text}");
        assert!(!text.contains(&env.path("").display().to_string()), "nothing of where it was built: {text}");
        serde_json::from_str(&text).expect("JSON")
    };
    // Gives (subject, predicate type, predicate) of all attestations.
    let attested = |name: &str| -> Vec<(String, String, serde_json::Value)> {
        let whole = std::fs::read(env.context().join(name).join("index.json")).expect("a layout");
        let whole: serde_json::Value = serde_json::from_slice(&whole).expect("JSON");
        let index = json(name, &whole["manifests"][0]["digest"]);
        let all = index["manifests"].as_array().cloned().unwrap_or_default();
        let about = |entry: &serde_json::Value| entry["annotations"]["vnd.docker.reference.digest"].as_str().map(str::to_owned);
        let mut found = Vec::new();
        for entry in &all {
            let Some(subject) = about(entry) else { continue };
            assert!(all.iter().any(|image| image["digest"] == *subject && about(image).is_none()), "it is about an image of this index");
            for layer in json(name, &entry["digest"])["layers"].as_array().expect("layers") {
                let statement = json(name, &layer["digest"]);
                found.push((subject.clone(), statement["predicateType"].as_str().expect("text").to_owned(), statement["predicate"].clone()));
            }
        }
        found
    };
    assert!(attested("one").is_empty());
    let two = attested("two");
    let kinds: Vec<&str> = two.iter().map(|(_, kind, _)| kind.rsplit('/').nth(1).expect("a URL")).collect();
    assert_eq!(kinds, ["provenance", "spdx.dev", "provenance", "spdx.dev"]);
    assert_ne!(two[0].0, two[2].0, "one for each platform");
    let definition = &two[0].2["buildDefinition"];
    let text = definition.to_string();
    assert!(text.contains("\"build-arg:SEEN\":\"yes\"") && text.contains("echo 2") && !text.contains("echo 1 >"), "{text}");
    assert_eq!(attested("three").len(), 1);
    // --provenance=false takes it away, --sbom adds to all.
    bake(env, &["--provenance=false", "--sbom=true", "one", "two"]).ok();
    let kinds = |name: &str| attested(name).into_iter().map(|(_, kind, _)| kind).collect::<Vec<_>>();
    assert_eq!((kinds("one").len(), kinds("two").len()), (1, 2));
    assert!(kinds("two").iter().all(|kind| kind.contains("spdx")));
    // Files have no attestations, and say so.
    bake(env, &["--set", "two.output=type=local,dest=files", "two"]).fails(2).says("have no attestations");
});
