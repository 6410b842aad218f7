//! Contexts that are no directory, and named ones.

use crate::support::repository::{Repository, serve};
use crate::support::web::{Reply, Web};

/// A tar archive of the context directory.
fn archive(env: &crate::support::TestEnv, compress: &str) -> Vec<u8> {
    let file = env.path(format!("context.tar{compress}"));
    env.command("tar")
        .args(["--create"].into_iter().chain((!compress.is_empty()).then_some(compress)))
        .args([
            "--file".as_ref(),
            file.as_os_str(),
            "--directory".as_ref(),
            env.context().as_os_str(),
            ".".as_ref(),
        ])
        .ok();
    std::fs::read(file).expect("it was made")
}

const DOCKERFILE: &str = "FROM scratch\nCOPY . /c/\n";

// docker build - < Dockerfile, docker build - < context.tar.gz
story!(standard_input_is_told_apart_by_its_content : root user, |env| {
    need_tool!("xz", "zstd");
    env.lapstrake(["build", "-t", "x", "-"]).input("FROM scratch\nLABEL a=b\n").ok();
    env.lapstrake(["build", "-t", "x", "-"]).input(DOCKERFILE).fails(1).says("no context to copy from").says("Dockerfile:2:");
    env.write("file", "one");
    env.dockerfile(DOCKERFILE);
    for compress in ["", "--gzip", "--xz", "--zstd"] {
        let bytes = archive(env, compress);
        let out = env.path(format!("out{compress}"));
        env.lapstrake(["build".as_ref(), "-o".as_ref(), out.as_os_str(), "-".as_ref()]).input(bytes).ok();
        assert_eq!(crate::support::layout::Layout::open(&out).only().below("c"), ["Dockerfile", "file"], "{compress}");
    }
    // -f names a file in the archive.
    env.write("sub/other.Dockerfile", "FROM scratch\nCOPY file /other\n");
    let bytes = archive(env, "");
    let out = env.path("other");
    env.lapstrake(["build".as_ref(), "-f".as_ref(), "sub/other.Dockerfile".as_ref(), "-o".as_ref(), out.as_os_str(), "-".as_ref()]).input(bytes.clone()).ok();
    assert_eq!(crate::support::layout::Layout::open(&out).only().text("other"), "one");
    env.lapstrake(["build", "-f", "none", "-t", "x", "-"]).input(bytes.clone()).fails(2).says("no file none in the context");
    env.lapstrake(["build", "-t", "x", "-"]).input(&bytes[..700]).fails(2);
    let left: Vec<_> = std::fs::read_dir(env.store().join("tmp")).expect("there").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
});

story!(archive_on_this_machine_is_a_context : root user single, |env| {
    env.write("file", "one");
    env.dockerfile(DOCKERFILE);
    let bytes = archive(env, "--gzip");
    let file = env.write_at("c.tgz", bytes);
    let out = env.path("out");
    let build = |out: &std::path::Path| env.lapstrake(["build".as_ref(), "-o".as_ref(), out.as_os_str(), file.as_os_str()]);
    build(&out).ok();
    let image = crate::support::layout::Layout::open(&out).only();
    assert_eq!(image.below("c"), ["Dockerfile", "file"]);
    build(&env.path("again")).ok().says("CACHED");
    let text = env.write_at("text", "hello");
    env.lapstrake(["build".as_ref(), "-t".as_ref(), "x".as_ref(), text.as_os_str()]).fails(2).says("a context is a directory or a tar archive");
});

// Attack: an archive that climbs out of the context.
story!(archive_can_not_leave_its_directory : user, |env| {
    let tar = crate::support::image::Tar::new()
        .file("Dockerfile", "FROM scratch\nCOPY . /c/\n")
        .symlink("link", "/tmp")
        .pax(&[("path", b"../../../../up")])
        .file("renamed", "x")
        .file("link/through", "x")
        .bytes();
    let output = env.lapstrake(["build", "-t", "x", "-"]).input(tar).output();
    assert!(!std::path::Path::new("/tmp/through").exists() && !env.path("up").exists());
    assert!(!env.store().join("up").exists(), "{}", output.stderr);
});

story!(context_over_http_is_an_archive_or_a_dockerfile : root user, |env| {
    env.write("file", "one");
    env.dockerfile(DOCKERFILE);
    let bytes = archive(env, "--gzip");
    let web = Web::start(move |asked| match asked.path.as_str() {
        "/c.tar.gz" => Reply::file(bytes.clone()),
        "/Dockerfile" => Reply::file("FROM scratch\nLABEL from=url\n"),
        _ => Reply::status(404),
    });
    let build = |name: &str, args: &[&str]| {
        let out = env.path(name);
        env.lapstrake(["build", "-o", out.to_str().expect("plain")]).args(args).ok();
        crate::support::layout::Layout::open(&out).only()
    };
    assert_eq!(build("a", &[&web.url("/c.tar.gz")]).below("c"), ["Dockerfile", "file"]);
    assert_eq!(build("b", &[&web.url("/Dockerfile")]).runtime("Labels")["from"], "url");
    // -f may be a URL, too.
    let context = env.context();
    let local = context.to_str().expect("plain");
    assert_eq!(build("c", &["-f", &web.url("/Dockerfile"), local]).runtime("Labels")["from"], "url");
    env.lapstrake(["build", "-t", "x", &web.url("/none")]).fails(4).says("404");
    env.lapstrake(["build", "-t", "x", "--offline", &web.url("/other")]).fails(4).says("--offline");
});

// BuildKit: url#ref:subdir, ?ref=&subdir=; no .git in it unless asked for.
story!(context_of_a_repository : root user, |env| {
    need_tool!("git");
    let repository = Repository::new(env, "app.git");
    repository.write("Dockerfile", DOCKERFILE).write("file", "one").write("dir/Dockerfile", DOCKERFILE).write("dir/inner", "in").commit();
    repository.git(&["tag", "v1"]);
    repository.write("file", "two").commit();
    let web = serve(env, None);
    let build = |name: &str, context: &str, args: &[&str]| {
        let out = env.path(name);
        env.lapstrake(["build", "-o", out.to_str().expect("plain"), context]).args(args).ok();
        crate::support::layout::Layout::open(&out).only()
    };
    let url = web.url("/app.git");
    let image = build("a", &url, &[]);
    assert_eq!((image.text("c/file").as_str(), image.has("c/.git")), ("two", false));
    assert_eq!(build("b", &format!("{url}#v1"), &[]).text("c/file"), "one");
    assert_eq!(build("c", &format!("{url}#v1:dir"), &[]).below("c"), ["Dockerfile", "inner"]);
    assert_eq!(build("d", &format!("{url}?ref=v1&subdir=dir"), &[]).below("c"), ["Dockerfile", "inner"]);
    let image = build("e", &url, &["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"]);
    assert!(image.has("c/.git/HEAD"), "{:?}", image.below("c"));
    let output = env.lapstrake(["build", "-t", "x", &format!("{url}#none")]).output();
    assert_ne!(output.code, Some(0));
    output.says("none");
});

// features.md 1.5: named contexts of every kind, loaded when a step wants them, by platform.
story!(named_contexts_of_every_kind : root user, |env| {
    need_tool!("git");
    let repository = Repository::new(env, "lib.git");
    repository.write("file", "git").commit();
    let web = serve(env, None);
    env.write("file", "archive");
    let tar = env.write_at("lib.tar", archive(env, ""));
    let dir = env.mkdir("lib");
    env.write_at("lib/file", "directory");
    env.dockerfile("FROM scratch AS lib\nFROM scratch\nCOPY --from=lib file /file\n");
    let build = |name: &str, source: &str| {
        env.build_into(name, ["--build-context", &format!("lib={source}"), "--build-context", "unused=https://unreachable.invalid/c.tar"])
            .only()
            .text("file")
    };
    // A named context wins over a stage.
    assert_eq!(build("a", dir.to_str().expect("plain")), "directory");
    assert_eq!(build("b", tar.to_str().expect("plain")), "archive");
    assert_eq!(build("c", &web.url("/lib.git")), "git");
    let image = env.path("lib-image");
    env.write_at("one/Dockerfile", "FROM scratch\nCOPY <<E /file\nimage\nE\n");
    env.lapstrake(["build".as_ref(), "-o".as_ref(), image.as_os_str(), env.path("one").as_os_str()]).ok();
    assert_eq!(build("d", &format!("oci-layout://{}", image.display())), "image\n");
});

story!(named_context_of_one_platform : user, |env| {
    for name in ["x", "y"] {
        env.mkdir(name);
        env.write_at(format!("{name}/file"), name);
    }
    env.dockerfile("FROM scratch\nCOPY --from=lib file /file\n");
    let arm = format!("lib::linux/arm64={}", env.path("y").display());
    let layout = env.build(["--platform", "linux/amd64,linux/arm64", "--build-context", &format!("lib={}", env.path("x").display()), "--build-context", &arm]);
    assert_eq!(layout.platform("linux/amd64").text("file"), "x");
    assert_eq!(layout.platform("linux/arm64").text("file"), "y");
});

// Buildah finds these names; Docker's come first.
story!(containerfile_and_its_ignore_file : user, |env| {
    std::fs::remove_file(env.context().join("Dockerfile")).unwrap_or_default();
    env.write("Containerfile", "FROM scratch\nCOPY . /c/\n");
    env.write(".containerignore", "secret\n");
    env.write("secret", "x");
    env.write("file", "x");
    let image = env.build([] as [&str; 0]).only();
    assert_eq!(image.below("c"), [".containerignore", "Containerfile", "file"]);
});
