//! What a build may be allowed, and what shapes the sandbox of its steps.

use crate::support::tools::Certificate;

story!(host_network_by_instruction_must_be_allowed : root user, |env| {
    let text = "FROM base\nRUN --network=host ls /sys/class/net > /host\n";
    let error = env.build_fails(2, text);
    assert!(error.contains("RUN --network=host is not allowed"), "{error}");
    assert!(error.contains("--allow network.host"), "{error}");
    env.dockerfile(text);
    env.build_command(["-t", "x", "--allow", "network.host"]).ok();
    // The flag of the command line is the user's own wish.
    env.dockerfile("FROM base\nRUN true\n");
    env.build_command(["-t", "x", "--network", "host"]).ok();
});

story!(insecure_steps_must_be_allowed_and_have_all_capabilities : root user, |env| {
    let text = "FROM base\nRUN --security=insecure grep CapEff /proc/self/status > /caps && mkdir /m && mount -t tmpfs none /m && umount /m && rmdir /m\n";
    let error = env.build_fails(2, text);
    assert!(error.contains("--allow security.insecure"), "{error}");
    env.dockerfile(text);
    let image = env.build(["--allow", "security.insecure"]).only();
    let caps = image.text("caps");
    let mask = u64::from_str_radix(caps.split_whitespace().last().unwrap_or_default(), 16).expect("hexadecimal");
    assert!(mask & 1 << 21 != 0, "CAP_SYS_ADMIN is not in {caps}");
    // Another step is another one, with the capabilities that containers have.
    env.dockerfile("FROM base\nRUN ! mount -t tmpfs none /mnt 2>/dev/null\n");
    env.build_command(["-t", "x", "--allow", "security.insecure"]).ok();
});

story!(security_enters_the_key : root user, |env| {
    env.dockerfile("FROM base\nRUN grep CapEff /proc/self/status > /caps\n");
    let before = env.build_into("a", [] as [&str; 0]).only().text("caps");
    env.dockerfile("FROM base\nRUN --security=insecure grep CapEff /proc/self/status > /caps\n");
    let after = env.build_into("b", ["--allow", "security.insecure"]).only().text("caps");
    assert_ne!(before, after);
});

story!(limits_reach_the_step_and_no_key : root user single, |env| {
    env.dockerfile("FROM base\nRUN ulimit -n > /open && ulimit -c > /core\n");
    let image = env.build(["--ulimit", "nofile=64:128", "--ulimit", "core=0"]).only();
    assert_eq!((image.text("open").as_str(), image.text("core").as_str()), ("64\n", "0\n"));
    env.build_command(["-t", "x", "--ulimit", "nofile=77"]).ok().says("CACHED");
    let output = env.build_command(["-t", "x", "--no-cache", "--ulimit", "nofile=999999999"]).output();
    assert_ne!(output.code, Some(0));
    output.says("--ulimit nofile");
    env.build_command(["-t", "x", "--ulimit", "nofiles=1"]).fails(2).says("did you mean nofile?");
});

story!(hostname_of_steps_can_be_chosen : user, |env| {
    env.dockerfile("FROM base\nRUN hostname > /name && grep -c builder.test /etc/hosts >> /name\n");
    let image = env.build(["--hostname", "builder.test"]).only();
    assert_eq!(image.text("name"), "builder.test\n1\n");
    env.build_command(["-t", "x", "--hostname", "no name"]).fails(2).says("this is no host name");
    env.dockerfile("FROM base\nRUN hostname > /name\n");
    let image = env.build_into("b", ["--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=other"]).only();
    assert_eq!(image.text("name"), "other\n");
});

story!(ca_certificates_are_in_steps_and_nowhere_else : root user single, |env| {
    need_tool!("openssl");
    let cert = Certificate::new("corporate").make(&env.mkdir("tls"));
    let pem = std::fs::read_to_string(&cert).expect("openssl wrote it");
    let marker = pem.lines().nth(3).expect("a line of the certificate").to_owned();
    env.dockerfile(
        "FROM base\nENV PIP_CERT=/mine\nRUN mkdir -p /etc/ssl/certs && echo '# the image trusts this' > /etc/ssl/certs/ca-certificates.crt\n\
         RUN for v in SSL_CERT_FILE REQUESTS_CA_BUNDLE NODE_EXTRA_CA_CERTS GIT_SSL_CAINFO CURL_CA_BUNDLE CARGO_HTTP_CAINFO; do \
         eval f=\\$$v; grep -q 'BEGIN CERTIFICATE' $f && grep -q 'the image trusts this' $f || exit 1; done; echo $PIP_CERT > /pip\n",
    );
    let layout = env.build(["--ca-cert", &cert.display().to_string()]);
    let image = layout.only();
    assert_eq!(image.text("pip"), "/mine\n");
    assert!(!image.config.to_string().contains("/dev/ca-certificates.crt"));
    // In no file of the store, and no part of a key: without it, and with another one, all is cached.
    let found = env.command("grep").args(["-r", "-l", "-F", &marker]).args([env.store()]).output();
    assert_eq!(found.stdout, "");
    let other = Certificate::new("other").make(&env.path("tls"));
    for args in [vec![], vec!["--ca-cert".to_owned(), other.display().to_string()]] {
        let output = env.build_command(["-t", "x"].map(str::to_owned).into_iter().chain(args)).ok();
        assert_eq!(output.stderr.matches("CACHED").count(), 3, "{}", output.stderr);
    }
});

story!(ca_certificates_are_checked : user, |env| {
    env.dockerfile("FROM base\nRUN true\n");
    let empty = env.write("not.pem", "nothing");
    env.build_command(["-t", "x", "--ca-cert", "/does/not/exist"]).fails(2).says("--ca-cert: cannot read /does/not/exist");
    env.build_command(["-t", "x", "--ca-cert", &empty.display().to_string()]).fails(2).says("there is no certificate in it");
});

/// A device that is /dev/zero under another name, with a variable and a file.
const DEVICE: &str = r#"
cdiVersion: "0.6.0"
kind: test.example/source
containerEdits: {env: [SOURCE=here]}
devices:
  - name: zeros
    containerEdits:
      deviceNodes: [{path: /dev/zeros, hostPath: /dev/zero}]
      mounts: [{hostPath: FILE, containerPath: /usr/lib/source.conf, options: [ro]}]
  - name: hooked
    containerEdits: {hooks: [{hookName: createContainer, path: /bin/hook}]}
"#;

// BuildKit testCDI: nodes, files and variables of a device, when it is allowed.
story!(devices_by_their_cdi_names : root user single, |env| {
    let file = env.write_at("source.conf", "conf");
    env.write_at("cdi/a.yaml", DEVICE.replace("FILE", &file.display().to_string()));
    let dir = env.path("cdi");
    let build = |text: &str, args: &[&str]| {
        env.dockerfile(text);
        env.build_command(["-t", "x", "--cdi-spec-dir", dir.to_str().expect("plain")]).args(args)
    };
    let step = "head -c 4 /dev/zeros | wc -c && cat /usr/lib/source.conf && ! touch /usr/lib/source.conf && echo $SOURCE";
    let text = format!("FROM base\nRUN --device=test.example/source=zeros {step}\n");
    build(&text, &[]).fails(2).says("RUN --device=test.example/source=zeros is not allowed").says("--allow device=test.example/source");
    for allow in ["device", "device=test.example/source", "device=test.example/source=zeros"] {
        build(&text, &["--allow", allow, "--no-cache"]).ok().says("conf").says("here");
    }
    build(&text, &["--allow", "device=test.example/other"]).fails(2);
    // None of it is in a layer.
    let image = env.build(["--cdi-spec-dir", dir.to_str().expect("plain"), "--allow", "device"]).only();
    assert!(!image.has("dev/zeros") && !image.has("usr/lib/source.conf"), "{:?}", image.below("usr/lib"));
    // Optional unless required.
    build("FROM base\nRUN --device=test.example/none test -z \"$SOURCE\"\n", &["--allow", "device"]).ok();
    build("FROM base\nRUN --device=test.example/none,required true\n", &["--allow", "device"])
        .fails(1)
        .says("no device is called test.example/none")
        .says("test.example/source=zeros");
    build("FROM base\nRUN --device=test.example/source=hooked true\n", &["--allow", "device"]).ok().says("/bin/hook (createContainer) is not run");
    build("FROM base\nRUN --device=zeros true\n", &["--allow", "device"]).fails(2).says("vendor.com/class=name");
});

// Limits that can't hold are refused before anything runs: a host without the controllers, or a user to whom no
// group is delegated.
story!(limits_hold_or_are_refused : user, |env| {
    env.dockerfile("FROM base\nRUN cat /proc/self/cgroup\n");
    let output = env.build_command(["-t", "x", "--memory", "64m"]).output();
    if output.code == Some(0) {
        env.dockerfile("FROM base\nRUN head -c 256m /dev/zero | tail -n 1\n");
        env.build_command(["-t", "x", "--memory", "64m"]).fails(1).says("ran out of the memory");
    } else {
        assert_eq!(output.code, Some(3), "{}", output.stderr);
        output.says("steps can't be limited").says("systemd-run --user --scope");
        output.says_not("RUN cat");
    }
    env.build_command(["-t", "x", "--resource", "memroy=1g"]).fails(2).says("did you mean memory?");
});

// A group needs no controllers.
story!(steps_run_in_groups_below_the_parent : root, |env| {
    let name = format!("/lapstrake-story-{}", std::process::id());
    env.dockerfile("FROM base\nRUN sed -n 's/^0:://p' /proc/self/cgroup > /group\n");
    let output = env.build_command(["-t", "x", "--cgroup-parent", &name]).output();
    if output.code == Some(3) {
        crate::support::skip("cgroup2", output.stderr.lines().next().unwrap_or_default());
        return;
    }
    let image = env.build(["--no-cache", "--cgroup-parent", &name]).only();
    let group = image.text("group");
    assert!(group.starts_with(&format!("{name}/lapstrake-")), "{group}");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("proc");
    let root = mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4)).expect("it is mounted");
    let parent = std::path::Path::new(root).join(&name[1..]);
    let left: Vec<_> = std::fs::read_dir(&parent).expect("it was made").flatten().filter(|entry| entry.path().is_dir()).collect();
    assert!(left.is_empty(), "{left:?}");
    std::fs::remove_dir(parent).expect("nothing is in it");
    env.build_command(["-t", "x", "--cgroup-parent", "nowhere"]).fails(2).says("name.slice");
});
