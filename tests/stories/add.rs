//! ADD of local files and archives.

use serde_json::json;

use crate::support::host_platform;
use crate::support::image::{Made, Tar, Writer, gzip};

fn sample() -> Tar {
    Tar::new()
        .dir("pack")
        .file_as("pack/file", 0o640, (7, 8), b"packed")
        .symlink("pack/link", "file")
        .hard_link("pack/hard", "pack/file")
}

// BuildKit testDockerfileAddArchive; detection is by content, never by name.
story!(archive_is_detected_by_its_content : root user, |env| {
    env.write("plain.tar", sample().bytes());
    env.write("named-otherwise.bin", sample().gzip());
    env.write("z.dat", zstd::encode_all(sample().bytes().as_slice(), 3).expect("memory never fails"));
    env.write("text.tar.gz", "this is no archive");
    env.write("empty.tar.gz", "");
    env.write("gzipped-text.gz", gzip(b"only text"));
    let image = env.image(
        "FROM scratch\nADD plain.tar /plain/\nADD named-otherwise.bin /gz/\nADD z.dat /zstd/\nADD text.tar.gz empty.tar.gz gzipped-text.gz /copied/\n",
    );
    for dir in ["plain", "gz", "zstd"] {
        assert_eq!(image.below(dir), ["pack", "pack/file", "pack/hard", "pack/link"], "{dir}");
        assert_eq!(image.file(&format!("{dir}/pack/file")).line(), format!("-0640 7:8 {dir}/pack/file"));
        assert_eq!(image.text(&format!("{dir}/pack/hard")), "packed");
    }
    assert_eq!(image.below("copied"), ["empty.tar.gz", "gzipped-text.gz", "text.tar.gz"]);
    assert_eq!(image.text("copied/text.tar.gz"), "this is no archive");
});

story!(archives_of_bzip2_and_xz : root user, |env| {
    need_tool!("bzip2", "xz");
    for (tool, name) in [("bzip2", "a.bz2"), ("xz", "a.xz")] {
        let plain = env.write("plain.tar", sample().bytes());
        let packed = env.command(tool).args(["-k", "-c"]).args([&plain]).command_mut().output().expect("it is installed").stdout;
        env.write(name, packed);
    }
    let image = env.image("FROM scratch\nADD a.bz2 /b/\nADD a.xz /x/\n");
    assert_eq!(image.text("b/pack/file"), "packed");
    assert_eq!(image.text("x/pack/file"), "packed");
});

// BuildKit testDockerfileAddArchiveWildcard, …WithImpliedParentDir; buildah conformance add-archive-*.
story!(several_archives_and_implied_parents : root user, |env| {
    env.write("a1.tar", Tar::new().file("deep/er/one", "1").bytes());
    env.write("a2.tar", Tar::new().file("deep/two", "2").bytes());
    let image = env.image("FROM scratch\nADD a*.tar /d/\n");
    assert_eq!(image.below("d"), ["deep", "deep/er", "deep/er/one", "deep/two"]);
    assert_eq!(image.file("d/deep/er").line(), "d0755 0:0 d/deep/er");
});

// BuildKit testDockerfileAddArchiveThroughAbsoluteSymlink.
story!(archive_writes_through_links_stay_inside_the_root : root user, |env| {
    let dir = env.path("base2");
    let writer = Writer::new(&dir);
    let layer = Tar::new().dir("real").symlink("abs", "/real").symlink("up", "../../../real").bytes();
    let descriptor = writer.image(&Made::new(host_platform(), json!({}), vec![layer]));
    writer.finish(descriptor, Some("latest"));
    env.write("a.tar", Tar::new().file("abs/one", "1").file("up/two", "2").bytes());
    env.dockerfile("FROM base2\nADD a.tar /\n");
    let image = env.build(["--build-context", &format!("base2=oci-layout://{}:latest", dir.display())]).only();
    assert_eq!(image.below("real"), ["one", "two"]);
    assert_eq!(image.file("abs").kind, 'l');
});

story!(archive_that_escapes_is_confined_or_refused : root user, |env| {
    let mut header = tar::Header::new_ustar();
    header.set_size(4);
    header.set_mode(0o644);
    header.set_entry_type(tar::EntryType::Regular);
    header.as_old_mut().name[..14].copy_from_slice(b"../../../evil\0");
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(b"evil");
    bytes.resize(2048, 0);
    env.write("evil.tar", bytes);
    env.dockerfile("FROM scratch\nADD evil.tar /d/e/\n");
    let out = env.path("out");
    let output = env.build_command(["-o".as_ref(), out.as_os_str()]).output();
    assert!(!env.path("evil").exists() && !env.path("context/evil").exists());
    if output.code == Some(0) {
        let image = crate::support::layout::Layout::open(&out).only();
        assert!(image.files().keys().all(|path| !path.contains("..")), "{:?}", image.files().keys());
    } else {
        output.says("evil");
    }
});

// BuildKit testDockerfileAddChownArchive.
story!(chown_overrides_the_owners_of_an_archive : root user, |env| {
    env.write("a.tar", sample().bytes());
    let image = env.image("FROM scratch\nADD --chown=100:200 a.tar /made/\n");
    for path in ["made", "made/pack", "made/pack/file"] {
        let entry = image.file(path);
        assert_eq!((entry.uid, entry.gid), (100, 200), "{path}");
    }
});

// PAX headers, GNU long names, global headers: buildah conformance tar-g.
story!(archive_dialects_of_gnu_tar : root user, |env| {
    need_tool!("tar");
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(140));
    env.write_at(format!("src/{long}"), "long");
    env.write_at("src/sparse", "");
    let sparse = env.path("src/sparse");
    let file = std::fs::OpenOptions::new().write(true).open(&sparse).expect("it was just made");
    file.set_len(3_000_000).expect("ext4 has holes");
    std::os::unix::fs::FileExt::write_at(&file, b"end", 2_000_000).expect("it is writable");
    for format in ["gnu", "pax"] {
        let archive = env.context().join(format!("{format}.tar"));
        env.command("tar").args(["--format", format, "--sparse", "-C"]).args([&env.path("src")]).args(["-cf"]).args([&archive]).args(["."]).ok();
    }
    let image = env.image("FROM scratch\nADD gnu.tar /gnu/\nADD pax.tar /pax/\n");
    for dir in ["gnu", "pax"] {
        assert_eq!(image.text(&format!("{dir}/{long}")), "long");
        let content = image.file(&format!("{dir}/sparse")).content;
        assert_eq!((content.len(), &content[2_000_000..2_000_003]), (3_000_000, b"end".as_slice()));
    }
});
