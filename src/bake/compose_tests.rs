//! Compose files as targets.

use std::collections::BTreeMap;

use super::tests::{choose, environment, json, load, load_beside};

#[test]
fn compose_files() {
    let text = r#"
x-common: &common
  args: { SHARED: "${DOT}" }
services:
  web.front:
    image: "app:${VERSION:-0}"
    environment: [FROM_SERVICE=yes]
    build:
      <<: *common
      context: ./web
      dockerfile: D
      target: run
      args: [ONE=1, FROM_SERVICE, VERSION, MISSING]
      labels: { l: "$$x" }
      additional_contexts: { lib: "service:lib" }
      secrets: [tok, {source: env}]
      ssh: [default, k=/p]
      ulimits: { nofile: { soft: 1, hard: 2 }, nproc: 3 }
      extra_hosts: ["h=10.0.0.1", "i:10.0.0.2"]
      shm_size: 64m
      x-bake: { platforms: [linux/arm64], tags: [more], output: "type=oci,dest=o", contexts: { c: d } }
  lib: { build: "./lib" }
  db: { image: postgres }
secrets:
  tok: { file: ./token }
  env: { environment: TOK }
"#;
    let chosen = choose(&[("compose.yaml", text)], &[], &[]).expect("fine");
    assert_eq!(chosen.wanted, ["lib", "web_front"]);
    assert_eq!(chosen.targets["lib"].text("context"), Some("./lib"));
    insta::assert_snapshot!(json(&chosen.targets["web_front"]), @r##"{"args":{"FROM_SERVICE":"yes","ONE":"1","VERSION":"9"},"context":"./web","contexts":{"c":"d","lib":"target:lib"},"dockerfile":"D","extra-hosts":{"h":"10.0.0.1","i":"10.0.0.2"},"labels":{"l":"$x"},"output":[{"dest":"o","type":"oci"}],"platforms":["linux/arm64"],"secret":[{"id":"tok","src":"./token"},{"env":"TOK","id":"env"}],"shm-size":"64m","ssh":[{"id":"default"},{"id":"k","paths":["/p"]}],"tags":["app:9","more"],"target":"run","ulimits":["nofile=1:2","nproc=3:3"]}"##);
    // HCL goes on where compose ends.
    let hcl = (
        "docker-bake.hcl",
        "target \"lib\" { tags = [\"lib\"] }\ntarget \"x\" { inherits = [\"lib\"] }",
    );
    let chosen = choose(&[("compose.yaml", text), hcl], &["x"], &[]).expect("fine");
    assert_eq!(
        json(&chosen.targets["x"]),
        r#"{"context":"./lib","dockerfile":"Dockerfile","tags":["lib"]}"#
    );
    for (text, message) in [
        ("services:\n  a: {build: {contex: x}}", "no attribute \"contex\""),
        (
            "services:\n  a: {extends: b}",
            "services.a.extends: there is no service \"b\" in compose.yaml",
        ),
        ("services:\n  a: {extends: {file: x}}", "service is missing"),
        ("services:\n  a: {extends: b}\n  b: {extends: a}", "extends itself: "),
        ("services:\n  a: {extends: {service: b, file: x}}", "cannot read x: there is no x here"),
        ("include: [x]", "cannot read x: there is no x here"),
        ("include: [{}]", "include: path is missing"),
        ("include: [{paths: x}]", "include: there is no attribute \"paths\""),
        ("services:\n  a: {build: !reset null}", "the tag !reset is not supported"),
        ("services: [", "this is not YAML"),
        ("services:\n  a: {build: {secrets: [x]}}", "the secret \"x\" is not defined"),
        (
            "a: &a [x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n",
            "this is not YAML",
        ),
    ] {
        let found = choose(&[("compose.yaml", text)], &[], &[]).expect_err(text).to_string();
        assert!(found.contains(message), "{text}: {found}");
    }
}

/// The services of `compose.yaml` beside other files, as JSON by name.
fn composed(files: &[(&str, &str)]) -> BTreeMap<String, serde_json::Value> {
    let find = |name: &str| match files.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => Ok((*text).to_owned()),
        None => Err(format!("there is no {name}")),
    };
    let config = load_beside(&files[..1], &find).expect("fine");
    let chosen = config.choose(&[], &[], &environment).expect("there is a group");
    chosen.targets.iter().map(|(name, target)| (name.clone(), target.to_json())).collect()
}

// compose-go: TestExtends…, TestExtendsRelativePath.
#[test]
fn services_extend_others() {
    let found = composed(&[
        (
            "compose.yaml",
            r#"
services:
  app:
    extends: { service: common, file: lib/common.yaml }
    build:
      args: { MODE: app, SECOND: "2" }
      x-bake: { tags: [two] }
      labels: [l=app]
      extra_hosts: ["h=1.1.1.1"]
      ulimits: { nofile: 5 }
  copy: { extends: app, image: copy }
  plain: { extends: short, build: { target: t } }
  short: { build: ./short }
"#,
        ),
        (
            "lib/common.yaml",
            r#"
include: [unread.yaml]
services:
  common:
    extends: { service: base, file: ../base/base.yaml }
    build:
      context: ./ctx
      args: [MODE=common, FIRST=1]
      x-bake: { tags: [one] }
      additional_contexts: { a: ./a, b: "docker-image://b", c: "service:short", g: github.com/o/r }
      ssh: [default, k=./key]
      labels: { l: common, m: common }
      extra_hosts: ["h=1.1.1.1", "i=2.2.2.2"]
      ulimits: { nofile: { soft: 1, hard: 2 }, nproc: 3 }
"#,
        ),
        (
            "base/base.yaml",
            "services:\n  base: { image: base, command: [x], build: { dockerfile: D, context: never, args: {BASE: b} } }\n",
        ),
    ]);
    let app = &found["app"];
    assert_eq!(app["context"], "lib/ctx");
    assert_eq!(app["dockerfile"], "D");
    assert_eq!(
        app["args"],
        serde_json::json!({"BASE": "b", "MODE": "app", "FIRST": "1", "SECOND": "2"})
    );
    // The image of the base is a tag, too.
    assert_eq!(app["tags"], serde_json::json!(["base", "one", "two"]));
    assert_eq!(
        app["contexts"],
        serde_json::json!({"a": "lib/a", "b": "docker-image://b", "c": "target:short", "g": "github.com/o/r"})
    );
    assert_eq!(app["labels"], serde_json::json!({"l": "app", "m": "common"}));
    assert!(app["ssh"].to_string().contains("lib/key"), "{app}");
    assert_eq!(app["extra-hosts"], serde_json::json!({"h": "1.1.1.1", "i": "2.2.2.2"}));
    let limits = app["ulimits"].to_string();
    assert!(
        limits.contains("nofile=5:5") && limits.contains("nproc=3:3") && !limits.contains("1:2"),
        "{limits}"
    );
    assert_eq!(found["copy"]["args"], app["args"]);
    assert_eq!(
        (&found["plain"]["context"], &found["plain"]["target"]),
        (&"./short".into(), &"t".into())
    );
}

// compose-go: TestInclude…; the file that includes wins, and each has its own variables.
#[test]
fn files_include_others() {
    let found = composed(&[
        (
            "compose.yaml",
            r#"
include:
  - sub/compose.yaml
  - path: [two/one.yaml, two/override.yaml]
    project_directory: home
    env_file: [two/first.env, two/second.env]
services:
  shared: { build: { target: ours, secrets: [tok] } }
  top: { extends: inner, build: { target: top } }
"#,
        ),
        (
            "sub/compose.yaml",
            r#"
include: [deeper/compose.yaml]
services:
  inner: { image: "in:${TAG:-none}", build: ./inner }
  shared: { build: { context: ., target: theirs, args: { A: a } } }
secrets:
  tok: { file: ./token }
"#,
        ),
        ("sub/.env", "TAG=sub\nDOT=not-this\n"),
        (
            "sub/deeper/compose.yaml",
            "services:\n  deep: { image: \"d:${TAG}-${DOT}\", build: .. }\n",
        ),
        (
            "two/one.yaml",
            "services:\n  two: { image: \"two:${V}${W}\", build: { context: ctx, args: {A: '1', B: '1'} } }\n",
        ),
        ("two/override.yaml", "services:\n  two: { build: { args: {B: '2'} } }\n"),
        ("two/first.env", "V=1\nW=1\n"),
        ("two/second.env", "W=2\n"),
    ]);
    assert_eq!(found["inner"]["context"], "sub/inner");
    assert_eq!(found["inner"]["tags"], serde_json::json!(["in:sub"]));
    assert_eq!(found["top"]["context"], "sub/inner");
    assert_eq!(found["shared"]["context"], "sub");
    assert_eq!(found["shared"]["target"], "ours");
    assert_eq!(found["shared"]["args"], serde_json::json!({"A": "a"}));
    assert!(found["shared"]["secret"].to_string().contains("sub/token"), "{}", found["shared"]);
    assert_eq!(found["deep"]["context"], "sub");
    assert_eq!(found["deep"]["tags"], serde_json::json!(["d:sub-env"]));
    assert_eq!(found["two"]["context"], "home/ctx");
    assert_eq!(found["two"]["tags"], serde_json::json!(["two:12"]));
    assert_eq!(found["two"]["args"], serde_json::json!({"A": "1", "B": "2"}));
}

#[test]
fn files_that_name_each_other_end() {
    for (files, expected) in [
        (vec![("compose.yaml", "include: [compose.yaml]")], "includes itself"),
        (
            vec![
                ("compose.yaml", "include: [a.yaml]"),
                ("a.yaml", "include: [b.yaml]"),
                ("b.yaml", "include: [a.yaml]"),
            ],
            "a.yaml includes itself",
        ),
        (
            vec![
                ("compose.yaml", "services: {a: {extends: {service: b, file: a.yaml}}}"),
                ("a.yaml", "services: {b: {extends: {service: b, file: a.yaml}}}"),
            ],
            "extends itself",
        ),
        (
            vec![("compose.yaml", "include: [a.yaml]"), ("a.yaml", "services: [")],
            "a.yaml: this is not YAML",
        ),
    ] {
        let find = |name: &str| {
            files
                .iter()
                .find(|file| file.0 == name)
                .map(|file| file.1.to_owned())
                .ok_or_else(|| "none".to_owned())
        };
        let error = load_beside(&files[..1], &find).expect_err(expected);
        assert!(error.diagnostic.message.contains(expected), "{}", error.diagnostic.message);
    }
    // Attack: each file names the next one many times over.
    let many = |name: &str| {
        Ok(format!("include: [{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}]\n", format!("{name}x.yaml")))
    };
    let error = load_beside(&[("compose.yaml", "include: [a.yaml]")], &many).expect_err("too much");
    assert!(!error.diagnostic.message.is_empty());
    // Attack: every service holds all that the one before held, and more.
    let mut text = "services:\n  s0: {build: {args: [A=0]}}\n".to_owned();
    for number in 1..3_000 {
        text +=
            &format!("  s{number}: {{extends: s{}, build: {{args: [A{number}=1]}}}}\n", number - 1);
    }
    let error = load(&[("compose.yaml", &text)]).expect_err("too much");
    let message = &error.diagnostic.message;
    assert!(
        message.contains("makes more of it") || message.contains("extends itself"),
        "{message}"
    );
}
