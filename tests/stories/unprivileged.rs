//! A Dockerfile without RUN unpacks nothing, mounts nothing and enters no namespace.

use crate::support::cache;
use crate::support::layout::Layout;
use crate::support::seccomp::forbid_namespaces;

/// The syscalls are watched by a seccomp filter that kills whoever makes one of them.
const WITHOUT_RUN: &str = "\
FROM base AS first
COPY --chown=12:34 foo /opt/foo
ADD archive.tar /opt/
WORKDIR /opt/app
FROM base
COPY --from=first /opt/ /opt/
COPY --link foo /linked/
USER nobody
WORKDIR /home/nobody/x
ENV A=b
LABEL c=d
EXPOSE 80
VOLUME /data
HEALTHCHECK CMD true
CMD [\"sh\"]
";

story!(build_without_run_needs_no_namespace : root user single, |env| {
    env.write("foo", "foo");
    env.write("archive.tar", crate::support::image::Tar::new().file("from-archive", "x").bytes());
    env.dockerfile(WITHOUT_RUN);
    let out = env.path("out");
    let mut run = env.build_command(["--platform", "linux/amd64,linux/arm64,linux/arm/v7", "-o"]).args([out.as_os_str()]);
    forbid_namespaces(run.command_mut());
    run.ok();
    let layout = Layout::open(&out);
    assert_eq!(layout.platforms(), ["linux/amd64", "linux/arm64", "linux/arm/v7"]);
    for platform in layout.platforms() {
        let image = layout.platform(&platform);
        assert_eq!(image.file("opt/foo").line(), "-0644 12:34 opt/foo");
        assert_eq!(image.text("opt/from-archive"), "x");
    }
    // No layer became a directory either.
    let trees = env.store().join("trees");
    let unpacked = std::fs::read_dir(&trees).map_or(0, |entries| entries.count());
    assert_eq!(unpacked, 0, "{} holds unpacked layers", trees.display());
});

story!(filter_of_that_test_does_kill : root user, |env| {
    if cache().join("busybox").exists() {
        env.dockerfile("FROM base\nRUN true\n");
        let mut run = env.build_command(["-t", "x"]);
        forbid_namespaces(run.command_mut());
        let output = run.output();
        assert_ne!(output.code, Some(0), "a RUN went through without a namespace");
    }
});

story!(offline_build_opens_no_network_socket : root user, |env| {
    need_tool!("strace");
    env.write("foo", "foo");
    env.dockerfile("FROM base\nCOPY foo /\n");
    let trace = env.path("tmp/trace");
    let mut strace = std::process::Command::new("strace");
    strace.args(["-f", "-e", "trace=socket,connect", "-o"]).arg(&trace);
    env.build_command(["--offline", "-t", "x"]).wrapped(strace).ok();
    let text = std::fs::read_to_string(&trace).expect("strace wrote it");
    assert!(!text.contains("AF_INET"), "{text}");
});
