//! Each finding of `advice.rs`, by rows of Dockerfiles.

use super::*;
use crate::dockerfile::parse;
use crate::graph::{self, BaseImage, Request, ResolveError, Resolved, Resolver};
use crate::oci::{DiffId, Digest, ImageConfig};

struct Any;

impl Resolver for Any {
    fn named_context(&mut self, _: &str, _: &Platform) -> Result<Option<Resolved>, ResolveError> {
        Ok(None)
    }

    fn image(&mut self, name: &str, platform: &Platform) -> Result<BaseImage, ResolveError> {
        let mut config = ImageConfig::empty(platform);
        config.rootfs.diff_ids = vec![DiffId(Digest::of(name.as_bytes()))];
        Ok(BaseImage {
            name: name.to_owned(),
            handle: 0,
            platform: platform.clone(),
            digest: Digest::of(name.as_bytes()),
            config,
        })
    }
}

fn planned(text: &str, platforms: &[&str]) -> (Dockerfile, Graph) {
    let parsed = parse(text.as_bytes());
    assert!(!parsed.has_errors(), "{:?}", parsed.diagnostics);
    let request = Request {
        platforms: platforms.iter().map(|text| text.parse().expect("a platform")).collect(),
        host: Some("linux/amd64".parse().expect("a platform")),
        ..Request::default()
    };
    let graph = graph::plan(&parsed.dockerfile, &request, &mut Any).expect("a plan");
    (parsed.dockerfile, graph)
}

fn ignored_in(text: &str, ignore: &str) -> Vec<String> {
    let (dockerfile, graph) = planned(text, &["linux/amd64"]);
    let rules = crate::context::IgnoreRules::parse(ignore.as_bytes()).expect("patterns");
    let patterns: Vec<Vec<u8>> = rules.patterns().collect();
    let mut found = Vec::new();
    ignored(&dockerfile, &graph, &patterns, &|path| rules.is_ignored(path), &mut found);
    found.iter().map(|finding| finding.span.slice(&dockerfile.source).to_owned()).collect()
}

#[test]
fn copies_of_ignored_files() {
    let rows: [(&str, &str, &[&str]); 13] = [
        ("COPY a /", "a\n", &["a"]),
        ("COPY a b /x/", "b\n", &["b"]),
        ("COPY ./d/f /", "d\n", &["./d/f"]),
        ("ADD a /", "a\n", &["a"]),
        ("ARG A=a\nCOPY $A /", "a\n", &["$A"]),
        ("COPY . /", "*\n", &["."]),
        ("COPY / /", "**\n", &["/"]),
        ("COPY . /", "a\n", &[]),
        ("COPY a /", "b\n", &[]),
        ("COPY a /", "", &[]),
        ("COPY a /", "a\n!b\n", &[]),
        ("COPY --from=busybox a /", "a\n", &[]),
        ("# check=skip=CopyIgnoredFile\nCOPY a /", "a\n", &[]),
    ];
    for (line, ignore, expect) in rows {
        assert_eq!(ignored_in(&format!("FROM busybox\n{line}\n"), ignore), expect, "{line}");
    }
    let heredoc = "FROM busybox\nCOPY <<a b /x/\na\n";
    assert_eq!(ignored_in(heredoc, "b\n"), ["b"]);
}

fn emulated_in(text: &str, platforms: &[&str]) -> Vec<Diagnostic> {
    let (dockerfile, graph) = planned(text, platforms);
    let mut found = Vec::new();
    emulated(&dockerfile, &graph, &|platform| platform.architecture != "amd64", &mut found);
    found
}

#[test]
fn commands_that_compile() {
    for (text, expect) in [
        ("go build ./...", Some("go build")),
        ("cd /src && CGO_ENABLED=0 go build -o /app", Some("go build")),
        ("go install example.org/tool@v1", Some("go install")),
        ("cargo +nightly build --release", Some("cargo build")),
        ("/usr/bin/gcc -o a a.c", Some("/usr/bin/gcc")),
        ("./configure\nmake -j4", Some("make")),
        ("set -e; npm ci", Some("npm ci")),
        ("npm install -g x", Some("npm install")),
        ("pip wheel -w /wheels .", Some("pip wheel")),
        ("python3 -m pip wheel .", Some("pip wheel")),
        ("apt-get install -y gcc make", None),
        ("gcc --version", None),
        ("echo make", None),
        ("go mod download", None),
        ("npm run x", None),
        ("pip install x", None),
    ] {
        assert_eq!(compile_step(text).map(|(_, command)| command).as_deref(), expect, "{text}");
    }
}

#[test]
fn an_emulated_go_build_gets_its_lines() {
    let text = "FROM golang:1 AS build\nRUN CGO_ENABLED=0 go build -o /app .\nFROM scratch\nCOPY --from=build /app /\n";
    let found = emulated_in(text, &["linux/amd64", "linux/arm64", "linux/arm/v7"]);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].message, "`go build` runs under emulation for linux/arm64, linux/arm/v7");
    assert_eq!(
        found[0].help.as_deref(),
        Some(
            "Go compiles for any platform from any other:\nFROM --platform=$BUILDPLATFORM golang:1 AS build\nARG TARGETOS TARGETARCH\nRUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -o /app ."
        )
    );
}

#[test]
fn other_tools_get_theirs() {
    for (line, expect) in [
        ("RUN cargo build --release", "cargo build --target aarch64-unknown-linux-gnu --release"),
        ("RUN make", "CC=aarch64-linux-gnu-gcc"),
        ("WORKDIR /app\nRUN npm ci", "COPY --from=build /app/node_modules /app/node_modules"),
        ("RUN pip wheel .", "FROM --platform=$BUILDPLATFORM base AS build"),
        ("RUN [\"go\", \"build\"]", "Go compiles"),
    ] {
        let found = emulated_in(&format!("FROM base\n{line}\n"), &["linux/arm64"]);
        let help = found[0].help.clone().expect("lines");
        assert!(help.contains(expect), "{line}: {help}");
    }
}

#[test]
fn native_and_skipped_compile_steps_are_fine() {
    for (text, platform) in [
        ("FROM golang\nRUN go build\n", "linux/amd64"),
        ("FROM --platform=$BUILDPLATFORM golang\nRUN go build\n", "linux/arm64"),
        ("FROM golang\nRUN echo no\n", "linux/arm64"),
        ("# check=skip=EmulatedCompile\nFROM golang\nRUN go build\n", "linux/arm64"),
        ("# check=skip=all\nFROM golang\nRUN go build\n", "linux/arm64"),
        ("FROM golang\n# check=skip=EmulatedCompile\nRUN go build\n", "linux/arm64"),
    ] {
        assert_eq!(emulated_in(text, &[platform]), [], "{text}");
    }
}

#[test]
fn the_platform_of_a_stage_is_that_of_its_lowest_from() {
    let text = "FROM golang AS base\nFROM base AS build\nRUN go build\n";
    let found = emulated_in(text, &["linux/arm64"]);
    assert!(found[0].help.as_deref().is_some_and(|help| help.contains("golang AS base")));
}
