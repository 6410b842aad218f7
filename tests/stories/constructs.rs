//! The constructs of well-known projects' Dockerfiles (testdata/constructs): each builds, and gives what matters.
//!
//! A directory of testdata/constructs is a context, and its file `expect` says what must come out, a line each:
//!
//! ```text
//! build ARGUMENTS             more arguments of `lapstrake build`; the first line
//! on PLATFORM                 what follows holds for this platform; `on all` ends that
//! config KEY JSON             a key of the image's runtime config; `null` for one that is absent
//! env NAME=VALUE              a variable of it
//! label NAME=VALUE            a label of it
//! file LINE                   an entry of the file system: kind and mode, owner, path, target (see `Entry::line`)
//! text PATH TEXT              a file's content, with ` | ` between its lines
//! time PATH SECONDS           a file's modification time
//! no PATH                     nothing has this path
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use crate::support::layout::{Entry, Image, Layout};
use crate::support::{TestEnv, cache, skip};

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/constructs")
}

/// Copies a directory to where the story's user can read it, with the modes that Git keeps.
fn copy_context(env: &TestEnv, name: &str) {
    let script = "cp -rT \"$1\" \"$2\" && rm \"$2/expect\" && chmod -R u=rwX,go=rX \"$2\"";
    let status = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(directory().join(name))
        .arg(env.context())
        .status();
    assert!(status.expect("sh is everywhere").success());
}

/// Judges one line of `expect`; gives what is wrong.
fn judge(image: &Image, files: &BTreeMap<String, Entry>, line: &str) -> Result<(), String> {
    let (verb, rest) = line.split_once(' ').ok_or("a line is a word and more")?;
    let pair = || rest.split_once(' ').ok_or("two words are needed".to_owned());
    let equal = |found: String, wanted: &str| {
        if found == wanted { Ok(()) } else { Err(format!("found {found}")) }
    };
    let entry = |path: &str| files.get(path).ok_or_else(|| format!("there is no {path}"));
    match verb {
        "config" => {
            let (key, wanted) = pair()?;
            let wanted: serde_json::Value =
                serde_json::from_str(wanted).map_err(|error| error.to_string())?;
            equal(image.runtime(key).to_string(), &wanted.to_string())
        }
        "env" if image.env().iter().any(|variable| variable == rest) => Ok(()),
        "env" => Err(format!("the variables are {:#?}", image.env())),
        "label" => {
            let (name, value) = rest.split_once('=').ok_or("a label has a value")?;
            equal(image.runtime("Labels")[name].as_str().unwrap_or("(none)").to_owned(), value)
        }
        "file" => {
            let path = rest.split(' ').nth(2).ok_or("mode, owner and path are needed")?;
            equal(entry(path)?.line(), rest)
        }
        "text" => {
            let (path, wanted) = pair()?;
            let found = entry(path)?;
            let found = if found.kind == 'h' { entry(&found.link)? } else { found };
            equal(found.text().trim_end().replace('\n', " | "), wanted)
        }
        "time" => {
            let (path, wanted) = pair()?;
            equal(entry(path)?.mtime.to_string(), wanted)
        }
        "no" if files.contains_key(rest) => Err("it is there".to_owned()),
        "no" => Ok(()),
        _ => Err("no such verb".to_owned()),
    }
}

fn check(layout: &Layout, expect: &str) {
    let images: Vec<_> = layout
        .platforms()
        .into_iter()
        .map(|platform| {
            let image = layout.platform(&platform);
            let files = image.files();
            (platform, image, files)
        })
        .collect();
    let mut only = "all";
    let mut wrong = Vec::new();
    for line in expect.lines().filter(|line| !line.is_empty() && !line.starts_with("build")) {
        if let Some(platform) = line.strip_prefix("on ") {
            only = platform;
            continue;
        }
        let mut judged = false;
        for (platform, image, files) in &images {
            if only != "all" && only != platform {
                continue;
            }
            judged = true;
            if let Err(what) = judge(image, files, line) {
                wrong.push(format!("{platform}: {line}\n    {what}"));
            }
        }
        assert!(judged, "no image is for {only}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn construct(env: &TestEnv, name: &str) {
    let expect = std::fs::read_to_string(directory().join(name).join("expect"))
        .expect("each directory has a file expect");
    let debian = cache().join("debian");
    let text = std::fs::read_to_string(directory().join(name).join("Dockerfile"));
    let mut args: Vec<String> = Vec::new();
    if text.expect("it is a context").contains("debian") {
        if !debian.join("index.json").exists() {
            skip("debian", "no base image; scripts/base-images debian makes it");
            return;
        }
        args.push("--build-context".to_owned());
        args.push(format!("debian=oci-layout://{}:bookworm", debian.display()));
    }
    copy_context(env, name);
    let build = expect.lines().next().and_then(|line| line.strip_prefix("build"));
    let build = build.expect("the first line of expect is 'build'");
    args.extend(build.split_whitespace().map(str::to_owned));
    check(&env.build(args), &expect);
}

/// Declares the stories, and a test that no directory is forgotten.
macro_rules! constructs {
    ($($(#[$meta:meta])* $module:ident = $name:literal : $who:ident,)+) => {
        $(story!($(#[$meta])* $module : $who, |env| {
            need_emulation!();
            construct(env, $name);
        });)+

        #[test]
        fn every_directory_has_a_story() {
            let mut there: Vec<String> = std::fs::read_dir(directory())
                .expect("it is in the repository")
                .flatten()
                .filter(|entry| entry.path().is_dir())
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect();
            there.sort();
            let mut known = vec![$($name),+];
            known.sort_unstable();
            assert_eq!(there, known);
        }
    };
}

// Those with users of their own need more than one id; the others are built with one, as that is the hardest.
constructs! {
    airflow = "airflow" : user,
    caddy = "caddy" : single,
    compose = "compose" : single,
    copy_flags = "copy-flags" : user,
    distroless = "distroless" : single,
    elasticsearch = "elasticsearch" : user,
    engine_dev = "engine-dev" : user,
    go_service = "go-service" : single,
    golang_image = "golang-image" : single,
    grafana = "grafana" : user,
    haproxy = "haproxy" : root,
    jenkins = "jenkins" : root,
    mastodon = "mastodon" : user,
    mysql = "mysql" : root,
    nginx = "nginx" : single,
    node_image = "node-image" : user,
    notebook = "notebook" : user,
    onbuild = "onbuild" : user,
    per_arch_base = "per-arch-base" : single,
    php_apache = "php-apache" : root,
    postgres = "postgres" : user,
    prometheus = "prometheus" : root,
    python_image = "python-image" : single,
    python_service = "python-service" : single,
    rabbitmq = "rabbitmq" : user,
    redis = "redis" : user,
    rust_image = "rust-image" : single,
    rust_service = "rust-service" : single,
    secrets = "secrets" : user,
    sentry = "sentry" : single,
    tomcat = "tomcat" : single,
    uv = "uv" : single,
    web_app = "web-app" : user,
}
