//! What a build may be allowed, and what shapes the sandbox of its steps.

use crate::support::TestEnv;

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

fn certificate(env: &TestEnv, name: &str) -> std::path::PathBuf {
    let (key, cert) = (env.path(format!("{name}.key")), env.path(format!("{name}.pem")));
    env.command("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", &format!("/CN={name}"), "-keyout"])
        .args([&key])
        .args(["-out"])
        .args([&cert])
        .ok();
    cert
}

story!(ca_certificates_are_in_steps_and_nowhere_else : root user single, |env| {
    need_tool!("openssl");
    let cert = certificate(env, "corporate");
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
    let other = certificate(env, "other");
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
