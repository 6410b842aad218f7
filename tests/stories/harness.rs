//! The harness reads and makes images as it should, without lapstrake.

use serde_json::json;

use crate::support::image::{Made, Tar, Writer, busybox_with};
use crate::support::layout::Layout;
use crate::support::tools::{Registry, RegistryOptions, skopeo_raw, tool};
use crate::support::{cache, host_platform, normalise};

story!(base_image_is_valid : root user single, |env| {
    let layout = Layout::open(&cache().join("busybox"));
    assert_eq!(layout.platforms(), ["linux/amd64", "linux/arm64", "linux/arm/v7"]);
    let image = layout.platform(host_platform());
    assert_eq!(image.file("bin/sh").link, "/bin/busybox");
    assert!(env.context().is_dir());
});

story!(made_images_are_valid_and_merge : root, |env| {
    let dir = env.path("made");
    busybox_with(
        &dir,
        host_platform(),
        json!({"Env": ["A=1"]}),
        vec![
            Tar::new().dir("d").file("d/a", "1").file("d/b", "1").file("e", "1").bytes(),
            Tar::new().dir("d").file("d/c", "2").file("d/.wh..wh..opq", "").file(".wh.e", "").hard_link("d/h", "d/c").bytes(),
        ],
    );
    let image = Layout::open(&dir).only();
    assert_eq!(image.below("d"), ["c", "h"]);
    assert_eq!(image.text("d/h"), "2");
    assert!(!image.has("e") && image.has("bin/busybox"));
});

story!(wrong_layouts_are_found_out : root, |env| {
    let dir = env.path("made");
    let writer = Writer::new(&dir);
    writer.finish(writer.image(&Made::new("linux/amd64", json!({}), vec![Tar::new().file("a", "x").bytes()])), None);
    assert!(std::panic::catch_unwind(|| Layout::open(&dir)).is_ok());
    writer.blob("text/plain", b"of nothing");
    assert!(std::panic::catch_unwind(|| Layout::open(&dir)).is_err());
});

story!(commands_run_as_the_user_with_a_clean_environment : root user single, |env| {
    let user = env.command("id").args(["-un"]).ok().stdout;
    assert_eq!(user.trim(), env.who_name());
    let umask = env.command("touch").args([env.path("tmp/f")]).under("umask 077; test \"$(id -G | wc -w)\" -ge 1").ok();
    assert_eq!(umask.stderr, "");
    let names = env.command("env").ok().stdout;
    assert!(!names.contains("CARGO"), "{names}");
});

story!(registry_takes_and_gives : root, |env| {
    need_tool!("docker-registry", "skopeo", "openssl");
    for options in [RegistryOptions { tls: false, auth: false }, RegistryOptions { tls: true, auth: true }] {
        let registry = Registry::start(options);
        let name = format!("docker://{}/a:1", registry.host);
        let mut args = vec!["copy", "--quiet", "--all", "--insecure-policy", "--dest-tls-verify=false"];
        if options.auth {
            args.extend(["--dest-creds", "alice:secret"]);
        }
        let from = format!("oci:{}:latest", cache().join("busybox").display());
        args.extend([from.as_str(), name.as_str()]);
        tool("skopeo", &args);
        if !options.auth {
            assert!(skopeo_raw(&name)["manifests"].is_array());
        }
    }
    assert!(env.store().parent().is_some());
});

#[test]
fn normalising_numbers_digests() {
    let hex = "ab".repeat(32);
    let other = "cd".repeat(32);
    let text = format!("/r/x sha256:{hex} sha256:{other} sha256:{hex} sha256:no");
    assert_eq!(normalise(&text, std::path::Path::new("/r")), "$ROOT/x [1] [2] [1] sha256:no");
}
