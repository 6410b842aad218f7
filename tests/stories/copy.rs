//! COPY: sources, destinations, ownership, modes, links. None of these needs a namespace.

use std::os::unix::net::UnixListener;

use serde_json::json;

use crate::support::image::{Made, Tar, Writer};
use crate::support::layout::Image;
use crate::support::tools::tool;
use crate::support::{Who, cache, host_platform};

/// Gives the names of a layout at `base2` made of these layers, as arguments.
fn made_base(env: &crate::support::TestEnv, layers: Vec<Vec<u8>>) -> Vec<String> {
    let dir = env.path("base2");
    let writer = Writer::new(&dir);
    let descriptor = writer.image(&Made::new(host_platform(), json!({}), layers));
    writer.finish(descriptor, Some("latest"));
    vec!["--build-context".into(), format!("base2=oci-layout://{}:latest", dir.display())]
}

/// Builds this Dockerfile on a base of this archive, named `base2`.
fn on(env: &crate::support::TestEnv, layer: Tar, dockerfile: &str) -> Image {
    let args = made_base(env, vec![layer.bytes()]);
    env.dockerfile(dockerfile);
    env.build(args).only()
}

// BuildKit testSymlinkDestination; Buildah "bud copy to symlink", "bud copy to dangling symlink".
story!(destination_symlink_is_followed_inside_the_root : root user, |env| {
    env.write("foo", "foo");
    let image = on(
        env,
        Tar::new().dir("tmp").symlink("symlink", "../tmp/x").symlink("up", "../../../../../tmp").symlink("abs", "/tmp/y"),
        "FROM base2\nCOPY foo /symlink/\nCOPY foo /up/\nCOPY foo /abs/\n",
    );
    assert_eq!(image.text("tmp/x/foo"), "foo");
    assert_eq!(image.text("tmp/foo"), "foo");
    assert_eq!(image.text("tmp/y/foo"), "foo");
    assert_eq!(image.file("symlink").kind, 'l');
});

// BuildKit testCopySymlinks, testCopyFollowAllSymlinks.
story!(source_symlinks_are_followed_but_those_inside_a_directory_stay : root user, |env| {
    env.write("foo", "content");
    env.link("foo", "direct");
    env.write("sub/real", "real");
    env.link("real", "sub/l1");
    env.link("sub", "subdir-link");
    let image = env.image("FROM scratch\nCOPY direct /a/\nCOPY sub/l* /b/\nCOPY sub/ /c/\nCOPY subdir-link/real /d/\n");
    assert_eq!((image.file("a/direct").kind, image.text("a/direct").as_str()), ('-', "content"));
    assert_eq!((image.file("b/l1").kind, image.text("b/l1").as_str()), ('-', "real"));
    assert_eq!((image.file("c/l1").kind, image.file("c/l1").link.as_str()), ('l', "real"));
    assert_eq!(image.text("d/real"), "real");
});

// BuildKit testLocalSymlinkEscape; Buildah "bud file above context directory".
story!(symlink_never_leaves_the_context : root user, |env| {
    env.write_at("secret", "outside");
    env.link("../secret", "up");
    env.link(&env.path("secret").display().to_string(), "absolute");
    for name in ["up", "absolute", "../secret"] {
        env.dockerfile(&format!("FROM scratch\nCOPY {name} /x\n"));
        let out = env.path("escaped");
        let output = env.build_command(["-o".as_ref(), out.as_os_str()]).output();
        assert_ne!(output.code, Some(0), "COPY {name} reached out of the context");
        assert!(!out.exists());
    }
    env.write("etc/passwd", "inside");
    env.link("/etc/passwd", "clamped");
    assert_eq!(env.image("FROM scratch\nCOPY clamped /x\n").text("x"), "inside");
});

// BuildKit testPreserveDestDirSlash, testEmptyDestDir, testCopyLinkDotDestDir.
story!(trailing_slash_decides_between_file_and_directory : root user, |env| {
    env.write("foo", "foo");
    let image = env.image(
        "FROM scratch\nCOPY foo /file\nCOPY foo /dir/\nCOPY foo /dot/.\nWORKDIR /work\nENV empty=\"\"\nCOPY foo $empty\nWORKDIR /here\nCOPY foo .\nCOPY foo relative/deep/\n",
    );
    for path in ["file", "dir/foo", "dot/foo", "work/foo", "here/foo", "here/relative/deep/foo"] {
        assert_eq!(image.text(path), "foo", "{path}");
    }
});

// BuildKit testCopyWildcards; buildah conformance "copy wildcard folder contents to higher level".
story!(directory_copy_takes_its_contents_only : root user, |env| {
    env.write("sub/one/a", "a");
    env.write("sub/two/b", "b");
    let image = env.image("FROM scratch\nCOPY sub /x\nCOPY sub/ /y\nCOPY sub/. /z\nCOPY sub/* /flat/\n");
    for dir in ["x", "y", "z"] {
        assert_eq!(image.below(dir), ["one", "one/a", "two", "two/b"], "{dir}");
    }
    assert_eq!(image.below("flat"), ["a", "b"]);
});

// BuildKit testEmptyWildcard: a pattern may match nothing, a name may not.
story!(empty_wildcard_is_no_error_but_a_missing_file_is : root user, |env| {
    env.write("foo", "foo");
    let image = env.image("FROM scratch\nCOPY foo nomatch* /\n");
    assert_eq!(image.text("foo"), "foo");
    let text = env.build_fails(1, "FROM scratch\nCOPY foo missing /\n");
    assert!(text.contains("missing"), "{text}");
});

// buildah conformance copy-escape-glob.
story!(bracket_escapes_a_glob_character : root user, |env| {
    env.write("arr[0].txt", "escaped");
    env.write("arr0.txt", "plain");
    let image = env.image("FROM scratch\nCOPY arr[[]0].txt /a/\nCOPY arr[0].txt /b/\n");
    assert_eq!(image.below("a"), ["arr[0].txt"]);
    assert_eq!(image.below("b"), ["arr0.txt"]);
});

// BuildKit testCopyChownExistingDir, testCopyChownCreateDest.
// The destination keeps its owner; a directory in it that is copied over takes the source's, as with BuildKit.
story!(ownership_of_the_existing_destination_is_never_changed : root user single, |env| {
    env.write("tree/sub/file", "x");
    env.write("tree/new/file", "x");
    let image = on(
        env,
        Tar::new().dir_as("existing", 0o711, (100, 200)).dir_as("existing/sub", 0o700, (500, 600))
            .dir_as("existing/other", 0o700, (500, 600)),
        "FROM base2\nCOPY --chown=300:400 tree/ /existing/\nCOPY --chown=300:400 tree/sub/file /made/deep/\n",
    );
    let lines: Vec<_> = image.files().values().map(|entry| entry.line()).collect();
    for line in [
        "d0711 100:200 existing",
        "d0755 300:400 existing/sub",
        "d0700 500:600 existing/other",
        "-0644 300:400 existing/sub/file",
        "d0755 300:400 existing/new",
        "-0644 300:400 existing/new/file",
        "d0755 300:400 made/deep",
    ] {
        assert!(lines.iter().any(|have| have == line), "no {line} in {lines:#?}");
    }
});

// buildah conformance copy-from-owner, copy-for-user.
story!(user_does_not_own_what_it_copies : root user single, |env| {
    env.write("foo", "foo");
    let image = on(
        env,
        Tar::new().dir("src").file_as("src/owned", 0o640, (12, 34), b"x"),
        "FROM base2 AS source\nFROM base2\nUSER 1000:1000\nCOPY foo /foo\nCOPY --from=source /src/owned /owned\n",
    );
    assert_eq!(image.file("foo").line(), "-0644 0:0 foo");
    assert_eq!(image.file("owned").line(), "-0640 12:34 owned");
});

// BuildKit testCopyChown, testDockerfileAddChownExpand; Buildah "bud with chown copy with unknown substitutions".
story!(chown_names_are_looked_up_in_the_destination : root user, |env| {
    env.write("foo", "foo");
    let base = Tar::new()
        .dir("etc")
        .file("etc/passwd", "root:x:0:0::/:/bin/sh\napp:x:1234:2345::/:/bin/sh\n")
        .file("etc/group", "root:x:0:\nweb:x:3456:\n");
    let image = on(
        env,
        base,
        "FROM base2\nARG OWNER=app\nCOPY --chown=app:web foo /a\nCOPY --chown=app foo /b\nCOPY --chown=77 foo /c\nCOPY --chown=$OWNER:0 foo /d\n",
    );
    assert_eq!(image.file("a").line(), "-0644 1234:3456 a");
    assert_eq!(image.file("b").line(), "-0644 1234:2345 b");
    assert_eq!(image.file("c").line(), "-0644 77:77 c");
    assert_eq!(image.file("d").line(), "-0644 1234:0 d");
    let text = env.build_fails(1, "FROM base\nCOPY --chown=nosuchuser foo /a\n");
    assert!(text.contains("nosuchuser"), "{text}");
});

// BuildKit testCopyChmod, testCopyInvalidChmod, testChmodNonOctal.
story!(chmod_octal_and_symbolic : root user, |env| {
    env.write_mode("dir/script", "x", 0o744);
    env.write_mode("dir/data", "x", 0o600);
    env.write("file", "x");
    let image = env.image(
        "FROM scratch\nARG MODE=0751\nCOPY --chmod=0400 file /a\nCOPY --chmod=4755 file /b\nCOPY --chmod=u=rwX,go=rX dir/ /c/\nCOPY --chmod=$MODE file /d\nCOPY --chmod=go-r file /e\n",
    );
    for line in ["-0400 0:0 a", "-4755 0:0 b", "-0755 0:0 c/script", "-0644 0:0 c/data", "-0751 0:0 d", "-0600 0:0 e"] {
        let lines: Vec<_> = image.files().values().map(|entry| entry.line()).collect();
        assert!(lines.iter().any(|have| have == line), "no {line} in {lines:#?}");
    }
    for bad in ["64a", "+7", "9999", "u=q"] {
        env.dockerfile(&format!("FROM scratch\nCOPY --chmod={bad} file /a\n"));
        let output = env.build_command(["-t", "x"]).output();
        assert!(matches!(output.code, Some(1 | 2)), "{:?}", output.code);
        output.says(bad);
    }
});

// buildah conformance setuid-file-in-context, -in-other-stage.
story!(setuid_and_sticky_bits_are_kept : root user single, |env| {
    env.write_mode("suid", "x", 0o4755);
    env.write_mode("sgid", "x", 0o2711);
    let image = on(
        env,
        Tar::new().dir("d").file_as("d/other", 0o6755, (5, 6), b"x").dir_as("d/sticky", 0o1777, (0, 0)),
        "FROM base2 AS other\nFROM scratch\nCOPY suid sgid /\nCOPY --from=other /d/ /d/\n",
    );
    assert_eq!(image.file("suid").line(), "-4755 0:0 suid");
    assert_eq!(image.file("sgid").line(), "-2711 0:0 sgid");
    assert_eq!(image.file("d/other").line(), "-6755 5:6 d/other");
    assert_eq!(image.file("d/sticky").mode, 0o1777);
});

// buildah conformance xattrs-file-in-context, -in-other-stage.
story!(extended_attributes_are_kept : root user, |env| {
    need_tool!("setfattr");
    let file = env.write("attributed", "x");
    env.command("setfattr").args(["-n", "user.note", "-v", "with\nnewline"]).args([&file]).ok();
    let value: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let base = Tar::new()
        .pax(&[("SCHILY.xattr.security.capability", value), ("SCHILY.xattr.user.binary", b"a\n\x00\xff=")])
        .file_as("ping", 0o755, (0, 0), b"x");
    let image = on(env, base, "FROM base2 AS other\nFROM scratch\nCOPY attributed /\nCOPY --from=other /ping /ping\n");
    assert_eq!(image.file("attributed").xattrs["user.note"], b"with\nnewline");
    assert_eq!(image.file("ping").xattrs["security.capability"], value);
    assert_eq!(image.file("ping").xattrs["user.binary"], b"a\n\x00\xff=");
});

story!(file_capabilities_in_the_context_are_kept : root, |env| {
    need_tool!("setcap");
    let file = env.write_mode("tool", "x", 0o755);
    tool("setcap", &["cap_net_raw=ep", &file.display().to_string()]);
    let image = env.image("FROM scratch\nCOPY --chown=1:2 tool /tool\n");
    // Version 2, effective, bit 13.
    assert_eq!(image.file("tool").xattrs["security.capability"][..8], [1, 0, 0, 2, 0, 0x20, 0, 0]);
    assert_eq!(image.file("tool").line(), "-0755 1:2 tool");
});

// moby#43614, kaniko#1743: 83 MB became 720 MB.
story!(hard_links_from_a_stage_stay_links : root user single, |env| {
    let base = || Tar::new().dir("d").file("d/a", "content").hard_link("d/b", "d/a").hard_link("d/c", "d/a");
    let image = on(env, base(), "FROM base2 AS other\nFROM scratch\nCOPY --from=other /d/ /e/\nCOPY --from=other /d/c /alone\n");
    let kinds: Vec<_> = ["e/a", "e/b", "e/c"].iter().map(|path| image.file(path).kind).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == 'h').count(), 2, "{kinds:?}");
    for path in ["e/a", "e/b", "e/c"] {
        assert_eq!(image.text(path), "content");
    }
    // Its link's other names are outside of what is copied, so it becomes a file.
    assert_eq!(image.file("alone").kind, '-');
    assert_eq!(image.text("alone"), "content");
});

// BuildKit: "cannot copy to non-directory".
story!(directory_over_a_file_is_an_error : root user, |env| {
    env.write("dir/target/x", "x");
    let args = made_base(env, vec![Tar::new().file("target", "a file").bytes()]);
    env.dockerfile("FROM base2\nCOPY dir/ /\n");
    let output = env.build_command(args).args(["-t", "x"]).fails(1);
    output.says("target");
});

story!(file_replaces_a_symlink_inside_a_copied_directory : root user, |env| {
    env.write("dir/link", "now a file");
    let image = on(
        env,
        Tar::new().dir("d").file("d/other", "untouched").symlink("d/link", "other"),
        "FROM base2\nCOPY dir/ /d/\n",
    );
    assert_eq!((image.file("d/link").kind, image.text("d/link").as_str()), ('-', "now a file"));
    assert_eq!(image.text("d/other"), "untouched");
});

// BuildKit testCopyOverrideFiles.
story!(copies_merge_and_the_last_one_wins : root user, |env| {
    env.write("one/sub/a", "1");
    env.write("one/sub/b", "1");
    env.write("two/sub/b", "2");
    let image = env.image("FROM scratch\nCOPY one/ /d/\nCOPY two/ /d/\nCOPY one/sub/a two/sub/b /e/\n");
    assert_eq!(image.below("d/sub"), ["a", "b"]);
    assert_eq!((image.text("d/sub/a").as_str(), image.text("d/sub/b").as_str()), ("1", "2"));
    assert_eq!(image.below("e"), ["a", "b"]);
});

// BuildKit testCopySocket.
story!(sockets_become_files_and_fifos_never_block : root user, |env| {
    env.write("dir/file", "x");
    let _socket = UnixListener::bind(env.context().join("dir/sock")).expect("the path is short");
    tool("mkfifo", &[&env.context().join("dir/fifo").display().to_string()]);
    tool("chmod", &["0644", &env.context().join("dir/fifo").display().to_string()]);
    let image = env.image("FROM scratch\nCOPY dir/ /d/\n");
    assert_eq!((image.file("d/sock").kind, image.file("d/sock").content.len()), ('-', 0));
    assert_eq!(image.file("d/fifo").kind, 'p');
});

// What the host's file system can not hold survives all the same.
story!(devices_and_foreign_owners_from_a_stage_survive : root user single, |env| {
    let base = Tar::new().dir("d").char_device("d/null").fifo("d/pipe").file_as("d/far", 0o600, (3_000_000, 4_000_000), b"x");
    let image = on(env, base, "FROM base2 AS other\nFROM scratch\nCOPY --from=other /d/ /d/\n");
    assert_eq!(image.file("d/null").line(), "c0666 0:0 d/null -> 1,3");
    assert_eq!(image.file("d/pipe").line(), "p0600 0:0 d/pipe");
    assert_eq!(image.file("d/far").line(), "-0600 3000000:4000000 d/far");
});

// BuildKit testWorkdirCopyIgnoreRelative.
story!(source_of_copy_from_is_relative_to_the_root_not_to_the_workdir : root user, |env| {
    let image = on(
        env,
        Tar::new().file("f", "root").dir("w").file("w/f", "workdir"),
        "FROM base2 AS other\nWORKDIR /w\nFROM scratch\nCOPY --from=other f /a\nCOPY --from=other ./f /b\n",
    );
    assert_eq!((image.text("a").as_str(), image.text("b").as_str()), ("root", "root"));
});

// Buildah "bud --link consistent diffID with different base images".
story!(linked_copy_has_one_digest_on_every_base : root user, |env| {
    env.write("foo", "foo");
    env.write("ignored", "x");
    env.write(".dockerignore", "ignored\n");
    let sde = ["--build-arg", "SOURCE_DATE_EPOCH=1000000000"];
    env.dockerfile("FROM scratch\nCOPY --link --chown=1:2 foo* ignored* /opt/app/\n");
    let scratch = env.build_into("a", sde).only();
    env.dockerfile("FROM base\nCOPY --link --chown=1:2 foo* ignored* /opt/app/\n");
    let busybox = env.build_into("b", sde).only();
    assert_eq!(scratch.diff_ids().last(), busybox.diff_ids().last());
    assert_eq!(busybox.below("opt/app"), ["foo"]);
});

// BuildKit testCopyParents, testCopyRelativeParents.
story!(parents_flag_keeps_the_source_path : root user, |env| {
    env.write("a/b/c.txt", "c");
    env.write("x/y/z.txt", "z");
    env.write("x/y/z.md", "z");
    let image = env.image(
        "FROM scratch\nCOPY --parents a/b/c.txt x/./y/z.txt /dst/\nCOPY --parents **/*.txt /all/\nCOPY --parents ./x/./y/* /pivot/\n",
    );
    assert_eq!(image.below("dst"), ["a", "a/b", "a/b/c.txt", "y", "y/z.txt"]);
    assert_eq!(image.below("all"), ["a", "a/b", "a/b/c.txt", "x", "x/y", "x/y/z.txt"]);
    assert_eq!(image.below("pivot"), ["y", "y/z.md", "y/z.txt"]);
});

// BuildKit testExcludedFilesOnCopy.
story!(exclude_flag_is_relative_to_the_source : root user, |env| {
    for name in ["docs/a.md", "docs/keep.md", "docs/sub/b.md", "docs/c.txt"] {
        env.write(name, "x");
    }
    let image = env.image(
        "FROM scratch\nCOPY --exclude=*.md docs/ /a/\nCOPY --exclude=**/*.md docs/ /b/\nCOPY --exclude=*.md --exclude=!keep.md docs/ /c/\n",
    );
    assert_eq!(image.below("a"), ["c.txt", "sub", "sub/b.md"]);
    assert!(!image.has("b/sub/b.md") && !image.has("b/a.md") && image.has("b/c.txt"));
    assert!(image.has("c/keep.md") && !image.has("c/a.md"));
});

// BuildKit testContextChangeDirToFile.
story!(directory_that_became_a_file_is_seen : root user, |env| {
    env.write("thing/inner", "x");
    env.dockerfile("FROM scratch\nCOPY thing /thing\n");
    assert!(env.build_into("a", [] as [&str; 0]).only().has("thing/inner"));
    std::fs::remove_dir_all(env.context().join("thing")).expect("it was just made");
    env.write("thing", "a file now");
    assert_eq!(env.build_into("b", [] as [&str; 0]).only().text("thing"), "a file now");
});

// BuildKit testCopyUnicodePath.
story!(unicode_and_spaces_in_paths : root user, |env| {
    env.write("with space/Ünïcødé – 日本.txt", "x");
    let image = env.image("FROM scratch\nCOPY [\"with space/Ünïcødé – 日本.txt\", \"/a dir/\"]\n");
    assert_eq!(image.below("a dir"), ["Ünïcødé – 日本.txt"]);
});

// BuildKit testCopyHeredocSpecialSymbols, testHeredocIndent, testHeredocVarSubstitution.
story!(heredoc_files : root user, |env| {
    let image = env.image(
        "FROM scratch\nARG NAME=world\nCOPY <<a.txt <<\"b.txt\" /dst/\nhello $NAME ${NAME:+yes} \\$NAME\na.txt\nhello $NAME\nb.txt\nCOPY --chmod=0755 <<-EOT /indented\n\t\ttabs go\n\t  spaces stay\nEOT\nCOPY <<EOT /plain.txt\nx\nEOT\n",
    );
    assert_eq!(image.text("dst/a.txt"), "hello world yes $NAME\n");
    assert_eq!(image.text("dst/b.txt"), "hello $NAME\n");
    assert_eq!(image.text("indented"), "tabs go\n  spaces stay\n");
    assert_eq!(image.file("indented").mode, 0o755);
    assert_eq!(image.file("plain.txt").line(), "-0644 0:0 plain.txt");
});

story!(files_of_another_image_and_of_a_named_directory : root user, |env| {
    env.write_at("extra/nested/file", "extra");
    env.write("foo", "foo");
    env.dockerfile("FROM scratch\nCOPY --from=extra nested/ /e/\nCOPY --from=base /etc/passwd /passwd\n");
    let image = env
        .build(["--build-context", &format!("extra={}", env.path("extra").display())])
        .only();
    assert_eq!(image.text("e/file"), "extra");
    assert!(image.text("passwd").contains("root:x:0:0"));
    let reference = format!("oci:{}:latest", cache().join("busybox").display());
    let image = env.image(&format!("FROM scratch\nCOPY --from={reference} /etc/group /group\n"));
    assert!(image.text("group").contains("root:x:0:"));
});

story!(later_stage_copies_what_an_earlier_one_deleted_or_replaced : root user, |env| {
    let args = made_base(
        env,
        vec![
            Tar::new().dir("d").file("d/a", "lower").file("d/gone", "x").dir("opaque").file("opaque/old", "x").bytes(),
            Tar::new().dir("d").file("d/.wh.gone", "").file("d/a", "upper").dir("opaque").file("opaque/.wh..wh..opq", "").file("opaque/new", "x").bytes(),
        ],
    );
    env.dockerfile("FROM base2 AS other\nFROM scratch\nCOPY --from=other / /copy/\n");
    let image = env.build(args).only();
    assert_eq!(image.below("copy"), ["d", "d/a", "opaque", "opaque/new"]);
    assert_eq!(image.text("copy/d/a"), "upper");
});

story!(umask_and_owner_of_the_context_do_not_show : root user, |env| {
    env.write_mode("private", "x", 0o600);
    let image = env.image("FROM scratch\nCOPY private /\n");
    assert_eq!(image.file("private").line(), "-0600 0:0 private");
    assert!(env.who() != Who::Single);
});

story!(several_sources_leave_existing_directories_alone : user, |env| {
    env.write("a", "a");
    env.write("b", "b");
    let image = env.image(
        "FROM base\nRUN mkdir -p /home/app && chown 7:7 /home/app && chmod 700 /home/app\nCOPY a b /home/app/\nCOPY --chown=9 a b /home/app/new/\n",
    );
    assert_eq!(image.file("home/app").line(), "d0700 7:7 home/app");
    assert_eq!(image.file("home/app/b").line(), "-0644 0:0 home/app/b");
    assert_eq!(image.file("home/app/new").line(), "d0755 9:9 home/app/new");
    let added: Vec<_> = image.last_layer().iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(added, ["home/app/new", "home/app/new/a", "home/app/new/b"]);
});
