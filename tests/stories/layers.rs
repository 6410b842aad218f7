//! Layers as tar archives: whiteouts, hard links, odd files, many layers, compression.

use serde_json::json;

use crate::support::image::{Made, Tar, Writer, busybox_layer, busybox_with};
use crate::support::layout::Image;
use crate::support::{TestEnv, Who, host_platform};

fn lines(image: &Image, layer: usize) -> Vec<String> {
    image.layers[layer].iter().map(|entry| entry.path.clone()).collect()
}

fn on(env: &TestEnv, above: Vec<Tar>, dockerfile: &str) -> Image {
    let dir = env.path("base2");
    busybox_with(&dir, host_platform(), json!({}), above.into_iter().map(Tar::bytes).collect());
    env.dockerfile(dockerfile);
    env.build(["--build-context", &format!("base2=oci-layout://{}:latest", dir.display())]).only()
}

// Trap 58: BuildKit testDuplicateWhiteouts, testWhiteoutParentDir.
story!(deleted_directory_is_one_whiteout : root user single, |env| {
    let image = env.image("FROM base\nRUN mkdir -p /d/sub && touch /d/sub/a /d/b /keep\nRUN rm -rf /d\nRUN rm /keep\n");
    assert_eq!(lines(&image, 2), [".wh.d"]);
    assert_eq!(lines(&image, 3), [".wh.keep"]);
    assert!(!image.has("d") && !image.has("keep"));
});

// Trap 59: moby#42662, buildkit#2614: a directory that was deleted and made again hides its old content.
story!(directory_made_anew_hides_the_old_one : root user single, |env| {
    let image = env.image(
        "FROM base\nRUN mkdir -p /d/sub && touch /d/a /d/sub/b\nRUN rm -rf /d && mkdir /d && touch /d/new\nRUN rm -rf /d\nRUN mkdir /d && touch /d/last\n",
    );
    assert_eq!(image.below("d"), ["last"]);
    let second = lines(&image, 2);
    assert!(!second.iter().any(|path| path.contains(".wh..wh..opq")), "explicit whiteouts only: {second:?}");
    assert!(second.contains(&"d/.wh.a".to_owned()) && second.contains(&"d/.wh.sub".to_owned()), "{second:?}");
});

// stargz#681: copying a directory up for a change in it deletes nothing.
story!(copied_up_directory_is_not_opaque : root user single, |env| {
    let image = env.image("FROM base\nRUN mkdir /d && touch /d/a /d/b\nRUN chmod 700 /d && touch /d/c\nRUN ls /d > /list\n");
    assert_eq!(image.below("d"), ["a", "b", "c"]);
    assert_eq!(image.text("list"), "a\nb\nc\n");
    assert!(!lines(&image, 2).iter().any(|path| path.contains(".wh.")));
});

story!(whiteouts_and_opaque_directories_of_a_base_are_understood : root user single, |env| {
    let image = on(
        env,
        vec![
            Tar::new().dir("d").file("d/a", "1").file("d/b", "1").dir("o").dir("o/sub").file("o/sub/old", "1").file("gone", "1"),
            // The marks stand after their siblings on purpose.
            Tar::new().dir("d").file("d/c", "2").file("d/.wh.a", "").dir("o").file("o/new", "2").file("o/.wh..wh..opq", "").file(".wh.gone", ""),
        ],
        "FROM base2\nRUN find /d /o | sort > /list && test ! -e /gone\nRUN rm -r /o && mkdir /o && touch /o/mine /gone\n",
    );
    assert_eq!(image.text("list"), "/d\n/d/b\n/d/c\n/o\n/o/new\n");
    assert_eq!(image.below("o"), ["mine"]);
    // Only what can be seen is whited out.
    assert!(!lines(&image, 4).iter().any(|path| path == "o/.wh.sub"), "{:?}", lines(&image, 4));
});

// Trap 58: BuildKit testMoveParentDir.
story!(moved_directory_is_whole : root user single, |env| {
    let image = env.image("FROM base\nRUN mkdir -p /a/b && echo x > /a/b/f && ln -s f /a/b/l\nRUN mv /a/b /c && mv /etc/group /etc/group2\n");
    assert_eq!(image.below("c"), ["f", "l"]);
    assert!(!image.has("a/b") && !image.has("etc/group") && image.has("etc/group2"));
});

// Trap 15: replace-symlink-with-directory and back, also in a RUN.
story!(every_kind_replaces_every_kind : root user single, |env| {
    let image = env.image(
        "FROM base\nRUN mkdir -p /d1/x /d2/x /d3 && echo f > /f1 && echo f > /f2 && ln -s /d1 /l1 && ln -s /f1 /l2 && mkfifo /p1\nRUN rm -r /d1 && echo now-file > /d1 && rm -r /d2 && ln -s /f1 /d2 && rm /f2 && mkdir -p /f2/y && rm /l1 && mkdir -p /l1/z && rm /l2 && echo now-file > /l2 && rm /p1 && mkdir /p1 && rmdir /d3 && mkfifo /d3\n",
    );
    let kinds: String = ["d1", "d2", "f2", "l1", "l2", "p1", "d3"].iter().map(|path| image.file(path).kind).collect();
    assert_eq!(kinds, "-ldd-dp");
    assert_eq!(image.below("f2"), ["y"]);
    assert_eq!(image.below("l1"), ["z"]);
    // Nothing is whited out that an entry of the same name replaces.
    assert!(!lines(&image, 2).iter().any(|path| path.contains(".wh.d1")), "{:?}", lines(&image, 2));
});

// Trap 63: a hard link to a file of a layer below brings the file with it.
story!(hard_links_never_point_out_of_their_layer : root user single, |env| {
    let image = env.image("FROM base\nRUN echo x > /a\nRUN ln /a /b && ln /b /c\nRUN echo changed >> /b\n");
    let layer = &image.layers[2];
    for entry in layer.iter().filter(|entry| entry.kind == 'h') {
        assert!(layer.iter().any(|other| other.path == entry.link && other.kind == '-'), "{}", entry.line());
    }
    assert_eq!(image.text("c"), "x\n");
    assert_eq!(image.text("b"), "x\nchanged\n");
});

// Trap 62: never a silent deletion.
story!(file_named_like_a_whiteout_is_an_error : root user, |env| {
    env.write(".wh.file", "x");
    let text = env.build_fails(1, "FROM scratch\nCOPY . /d/\n");
    assert!(text.contains(".wh.file"), "{text}");
    env.write(".dockerignore", ".wh.*\n");
    let text = env.build_fails(1, "FROM base\nRUN touch /d.wh. /.wh.bad\n");
    assert!(text.contains(".wh.bad"), "{text}");
});

// Trap 64.
story!(sparse_files_keep_their_content : root user single, |env| {
    let image = env.image("FROM base\nRUN dd if=/dev/zero of=/s bs=1 count=1 seek=5000000 2>/dev/null && echo end >> /s\nRUN tail -c 4 /s > /tail\n");
    let content = image.file("s").content;
    assert_eq!((content.len(), content.iter().filter(|byte| **byte != 0).count()), (5_000_005, 4));
    assert_eq!(image.text("tail"), "end\n");
    let size = image.manifest["layers"][1]["size"].as_u64().unwrap_or_default();
    assert!(size < 100_000, "{size} bytes for zeros");
});

// Trap 69: a RUN that changes nothing still has its history entry, and a layer that says so.
story!(run_without_changes_keeps_history_and_layers_aligned : root user single, |env| {
    let image = env.image("FROM base\nRUN true\nRUN touch /x\n");
    assert_eq!(image.history().len(), 3);
    assert_eq!(image.own_layers().len(), 2);
    assert!(image.layers[1].is_empty(), "{:?}", lines(&image, 1));
});

// Trap 13: capabilities are written in version 2, whatever user namespace they were set in; from layer to layer.
story!(file_capabilities_travel_as_version_2 : root user single, |env| {
    let value: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let image = on(
        env,
        vec![Tar::new().dir("bin").pax(&[("SCHILY.xattr.security.capability", value), ("SCHILY.xattr.user.a", b"line\nline")]).file_as("bin/tool", 0o755, (0, 0), b"#!/bin/sh\n")],
        "FROM base2\nRUN cp -a /bin/tool /bin/copy && chmod 700 /bin/tool\nRUN mv /bin/tool /bin/moved\n",
    );
    if env.who() != Who::Single {
        assert_eq!(image.file("bin/moved").xattrs["security.capability"], value);
    }
    assert_eq!(image.layers[1].iter().find(|entry| entry.path == "bin/tool").expect("of the base").xattrs["security.capability"], value);
});

// Trap 18: what the host's file system can not hold stays in the layers.
story!(devices_and_far_owners_survive_a_run : root user single, |env| {
    let image = on(
        env,
        vec![Tar::new().dir("dev").char_device("dev/x").dir("d").char_device("d/null").file_as("d/far", 0o600, (3_000_000, 4_000_000), b"x")],
        "FROM base2\nRUN chmod 711 /d && touch /d/mine\n",
    );
    assert_eq!(image.file("d/null").line(), "c0666 0:0 d/null -> 1,3");
    assert_eq!(image.file("d/far").line(), "-0600 3000000:4000000 d/far");
    assert_eq!(image.file("d").mode, 0o711);
});

// Trap 70: BuildKit testPullWithLayerLimit; the kernel takes 500 lower directories.
story!(six_hundred_layers : root user, |env| {
    let dir = env.path("base2");
    let mut layers = vec![busybox_layer(host_platform())];
    for index in 0..600 {
        layers.push(Tar::new().dir("n").file(&format!("n/{index}"), format!("{index}")).bytes());
    }
    let writer = Writer::new(&dir);
    let descriptor = writer.image(&Made::new(host_platform(), json!({}), layers));
    writer.finish(descriptor, Some("latest"));
    env.dockerfile("FROM base2\nRUN ls /n | wc -l > /count && cat /n/0 /n/599 > /ends && rm /n/1\nRUN ls /n | wc -l > /count2\n");
    let image = env.build(["--build-context", &format!("base2=oci-layout://{}:latest", dir.display())]).only();
    assert_eq!((image.text("count").as_str(), image.text("ends").as_str(), image.text("count2").as_str()), ("600\n", "0599", "599\n"));
    assert_eq!(image.layers.len(), 603);
});

// Trap 71.
story!(compression_by_choice : root user, |env| {
    env.dockerfile("FROM base\nRUN seq 1 1000 > /x\n");
    let mut diff_ids = Vec::new();
    for (compression, suffix) in [("gzip", "tar+gzip"), ("zstd", "tar+zstd"), ("uncompressed", "tar")] {
        let out = env.path(compression);
        let option = format!("type=oci,dest={},tar=false,compression={compression}", out.display());
        env.build_command(["-o", &option]).ok();
        let image = crate::support::layout::Layout::open(&out).only();
        assert_eq!(image.manifest["layers"][1]["mediaType"], format!("application/vnd.oci.image.layer.v1.{suffix}"));
        diff_ids.push(image.diff_ids());
    }
    assert!(diff_ids.windows(2).all(|pair| pair[0] == pair[1]), "the compression shows in the DiffIds");
});

// A big file, hard-to-compress and easy, goes through the block compressor whole.
story!(large_files_arrive_whole : root user, |env| {
    let image = env.image(
        "FROM base\nRUN head -c 20000000 /dev/urandom > /random && seq 1 2000000 > /text && cat /random /text | sha256sum | cut -c1-64 > /sum\n",
    );
    let mut all = image.file("random").content.to_vec();
    all.extend(image.file("text").content.iter());
    assert_eq!(crate::support::layout::sha256(&all), format!("sha256:{}", image.text("sum").trim()));
});

story!(times_are_whole_seconds_and_kept : root user single, |env| {
    let file = env.write("old", "x");
    env.command("touch").args(["-d", "@1000000000.123456789"]).args([&file]).ok();
    let image = env.image("FROM base\nCOPY old /copied\nRUN touch -d '2005-05-05 05:05:05' /run-made && cp -p /copied /kept\nRUN mkdir -p /d/e && touch -d '2006-06-06 06:06:06' /d\n");
    assert_eq!(image.file("copied").mtime, 1_000_000_000);
    assert_eq!(image.file("kept").mtime, 1_000_000_000);
    assert_eq!(image.file("run-made").mtime, 1_115_269_505);
    assert_eq!(image.file("d").mtime, 1_149_573_966);
});

story!(long_names_and_odd_characters : root user single, |env| {
    let image = env.image(
        "FROM base\nRUN n=$(printf 'n%.0s' $(seq 200)) && mkdir -p /$n/$n && echo x > /$n/$n/$n && touch \"/new$(printf '\\nline')\" '/tab\t' '/quote\"' '/back\\slash' && ln -s \"/$n/$n/$n\" /link\n",
    );
    let n = "n".repeat(200);
    assert_eq!(image.text(&format!("{n}/{n}/{n}")), "x\n");
    for name in ["new\nline", "tab\t", "quote\"", "back\\slash"] {
        assert!(image.has(name), "{name:?}");
    }
    assert_eq!(image.file("link").link, format!("/{n}/{n}/{n}"));
});
