//! What a RUN sees, as whom it runs, and what it leaves behind.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::image::{Tar, busybox_with};
use crate::support::layout::Layout;
use crate::support::{TestEnv, host_platform};

/// Builds on busybox with an additional layer and config.
fn on(
    env: &TestEnv,
    runtime: serde_json::Value,
    layer: Tar,
    dockerfile: &str,
) -> crate::support::layout::Image {
    let dir = env.path("base2");
    busybox_with(&dir, host_platform(), runtime, vec![layer.bytes()]);
    env.dockerfile(dockerfile);
    env.build(["--build-context", &format!("base2=oci-layout://{}:latest", dir.display())]).only()
}

story!(shell_exec_and_heredoc_forms : root user single, |env| {
    let image = env.image(
        "FROM base\nRUN echo \"shell $((1+1))\" > /a && echo $0 >> /a\nRUN [\"/bin/sh\", \"-c\", \"echo exec $HOME > /b\"]\nRUN [\"touch\", \"/literal $HOME\"]\nRUN <<EOF\nset -e\necho one > /c\necho two >> /c\nEOF\nRUN <<EOF\n#!/usr/bin/awk -f\nBEGIN { print \"awk\" > \"/d\" }\nEOF\nRUN cat <<EOF > /e && echo after >> /e\nin $HOME the middle\nEOF\nRUN cat <<'EOF' > /f\nquoted $HOME\nEOF\nSHELL [\"/bin/sh\", \"-xc\"]\nRUN echo $- > /g\n",
    );
    assert_eq!(image.text("a"), "shell 2\n/bin/sh\n");
    assert_eq!(image.text("b"), "exec /root\n");
    assert!(image.has("literal $HOME"));
    assert_eq!(image.text("c"), "one\ntwo\n");
    assert_eq!(image.text("d"), "awk\n");
    assert_eq!(image.text("e"), "in /root the middle\nafter\n");
    assert_eq!(image.text("f"), "quoted $HOME\n");
    assert!(image.text("g").contains('x'), "{}", image.text("g"));
});

story!(run_sees_a_sane_linux : root user single, |env| {
    let image = env.image(
        "FROM base\nRUN <<'EOF'\nset -eu\nfor node in null zero full random urandom tty; do test -c /dev/$node; done\necho x > /dev/null\nhead -c 4 /dev/zero | wc -c | grep -q 4\nhead -c 4 /dev/urandom | wc -c | grep -q 4\ntest -c /dev/ptmx && test -d /dev/pts\necho x > /dev/shm/x && rm /dev/shm/x\ntest \"$(stat -c %a /dev/shm)\" = 1777\nfor link in fd stdin stdout stderr; do test -L /dev/$link; done\necho fd | cat /dev/fd/0\ntest \"$(cat /proc/self/comm)\" = cat\ntest -d /proc/1\ntest -e /sys/kernel || test -e /sys/class\ntest -r /etc/resolv.conf && grep -q localhost /etc/hosts\ntest -n \"$(hostname)\"\ntest \"$(umask)\" = 0022\ntest \"$(id -u)\" = 0\ngrep -q '^CapEff:.*00000000a80425fb' /proc/self/status\n! touch /proc/sys/kernel/hostname-is-readonly 2>/dev/null\nls /proc/self/fd | wc -l > /fds\nEOF\n",
    );
    // 0, 1, 2, and the directory that ls reads.
    assert!(image.text("fds").trim().parse::<u32>().is_ok_and(|count| count <= 4), "{}", image.text("fds"));
});

story!(pseudo_terminals_can_be_opened : root user, |env| {
    // Opening ptmx makes the next slave appear.
    env.dockerfile("FROM base\nRUN exec 3<>/dev/ptmx && ls /dev/pts | grep -q '^[0-9]'\n");
    env.build_command(["-t", "x"]).ok();
});

// Trap 32: an ARG without a value is no variable, an empty one is.
story!(environment_of_a_run : root user single, |env| {
    env.dockerfile(
        "FROM base\nENV GREETING=\"hello  world\" EMPTY=\nARG SET=1\nARG UNSET\nARG BLANK=\nRUN env | grep -v -e '^SHLVL=' -e '^PWD=' -e '^_=' -e '^HOSTNAME=' | sort > /env\n",
    );
    let image = env.build([] as [&str; 0]).only();
    assert_eq!(
        image.text("env"),
        "BLANK=\nEMPTY=\nGREETING=hello  world\nHOME=/root\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nSET=1\n"
    );
});

// Trap 39.
story!(path_has_a_default_where_the_base_has_none : root user, |env| {
    let image = on(env, json!({}), Tar::new(), "FROM base2\nRUN echo $PATH > /path\nRUN [\"sh\", \"-c\", \"true\"]\n");
    assert_eq!(image.text("path"), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n");
});

// Trap 38: BuildKit testIgnoreEntrypoint.
story!(entrypoint_of_the_base_is_ignored : root user, |env| {
    let image = on(
        env,
        json!({"Entrypoint": ["/nonexistent"], "Cmd": ["/also/nonexistent"]}),
        Tar::new(),
        "FROM base2\nRUN echo ok > /ok\n",
    );
    assert_eq!(image.text("ok"), "ok\n");
    assert_eq!(image.runtime("Entrypoint"), &json!(["/nonexistent"]));
});

// Trap 42: BuildKit testUser, testUserAdditionalGids.
story!(user_group_and_supplementary_groups : root user, |env| {
    let base = Tar::new()
        .dir("etc")
        .file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nuser1:x:1001:1001::/home/user1:/bin/sh\nuser2:x:1002:1003::/:/bin/sh\n")
        .file("etc/group", "root:x:0:\nuser1:x:1001:\ngrp3:x:1003:user1\ngrp4:x:1004:user1,user2\n");
    let cases = [
        ("user1", "1001:1001:1001 1003 1004", "/home/user1"),
        ("1001", "1001:1001:1001 1003 1004", "/home/user1"),
        ("user1:1003", "1001:1003:1003", "/home/user1"),
        ("user2", "1002:1003:1003 1004", "/"),
        ("user2:grp4", "1002:1004:1004", "/"),
        ("1002:1004", "1002:1004:1004", "/"),
        ("4321", "4321:0:0", "/"),
        ("4321:77", "4321:77:77", "/"),
        ("root", "0:0:0", "/root"),
        ("0", "0:0:0", "/root"),
    ];
    let mut dockerfile = String::from("FROM base2\nRUN mkdir -m 1777 /out\n");
    for (index, (user, ..)) in cases.iter().enumerate() {
        dockerfile.push_str(&format!(
            "USER {user}\nRUN echo \"$(id -u):$(id -g):$(id -G | tr ' ' '\\n' | sort -nu | tr '\\n' ' ' | sed 's/ $//') $HOME\" > /out/{index}\n"
        ));
    }
    let image = on(env, json!({}), base, &dockerfile);
    for (index, (user, ids, home)) in cases.iter().enumerate() {
        assert_eq!(image.text(&format!("out/{index}")), format!("{ids} {home}\n"), "USER {user}");
    }
    env.dockerfile("FROM base\nUSER nosuchuser\nRUN true\n");
    env.build_command(["-t", "x"]).fails(1).says("nosuchuser");
});

// A HOME that was set is kept.
story!(home_of_env_wins : root user, |env| {
    let image = env.image("FROM base\nENV HOME=/elsewhere\nUSER nobody\nRUN test \"$HOME\" = /elsewhere\nUSER root\nRUN echo $HOME > /home-was\n");
    assert_eq!(image.text("home-was"), "/elsewhere\n");
});

// Trap 55: BuildKit testStdinClosed; Buildah "bud does not gobble stdin".
story!(stdin_is_empty_and_that_of_the_builder_untouched : root user, |env| {
    env.dockerfile("FROM base\nRUN cat > /stdin && read -r line || true\n");
    let out = env.path("out");
    env.build_command(["-o".as_ref(), out.as_os_str()]).input("not for the step\n").ok();
    assert_eq!(crate::support::layout::Layout::open(&out).only().text("stdin"), "");
});

// Trap 55: a process left behind ends with its step.
story!(background_process_ends_with_its_step : root user single, |env| {
    env.dockerfile(
        "FROM base\nRUN (sleep 1000; touch /late) & setsid sleep 1000 & echo started > /first\nRUN ! ps | grep -v grep | grep -q 'sleep 1000'\n",
    );
    let started = Instant::now();
    let image = env.build([] as [&str; 0]).only();
    assert!(started.elapsed() < Duration::from_secs(60), "the step waited for its background process");
    assert!(image.has("first") && !image.has("late"));
});

// Trap 47: BuildKit testResolveAndHosts. Writing to them is allowed and goes nowhere.
story!(resolv_conf_and_hosts_never_end_in_a_layer : root user single, |env| {
    let image = env.image(
        "FROM base\nRUN cat /etc/resolv.conf /etc/hosts > /seen\nRUN echo 10.0.0.1 example >> /etc/hosts || true\nRUN touch /etc/other\n",
    );
    for name in ["etc/resolv.conf", "etc/hosts", "etc/hostname", "etc/mtab"] {
        assert!(!image.has(name), "{name} is in the image");
    }
    assert!(image.has("etc/other"));
    assert!(image.text("seen").contains("localhost"));
});

story!(resolv_conf_of_the_base_is_kept : root user, |env| {
    let image = on(
        env,
        json!({}),
        Tar::new().dir("etc").file("etc/resolv.conf", "nameserver 192.0.2.1\n"),
        "FROM base2\nRUN ! grep -q 192.0.2.1 /etc/resolv.conf\nRUN touch /x\n",
    );
    assert_eq!(image.text("etc/resolv.conf"), "nameserver 192.0.2.1\n");
});

// Traps 48 and 50: BuildKit testMountStubsDirectory, testMountStubsTimestamp.
story!(mount_points_leave_no_trace : root user single, |env| {
    let image = env.image(
        "FROM base\nRUN --mount=type=tmpfs,target=/new/deep/dir --mount=type=cache,target=/var/newcache --mount=type=secret,id=none --mount=type=bind,from=base,source=/etc/passwd,target=/opt/file true\n",
    );
    assert_eq!(image.last_lines(), Vec::<String>::new(), "a step that did nothing");
    // Directories that hold mount points keep their times.
    let lower = image.layers[0].iter().find(|entry| entry.path == "var").map(|entry| entry.mtime);
    assert_eq!(Some(image.file("var").mtime), lower);
    for path in ["new", "var/newcache", "run/secrets", "opt", "dev/null", "proc/self"] {
        assert!(!image.has(path), "{path}");
    }
});

story!(a_directory_made_before_its_mount_is_kept : root user, |env| {
    let image = env.image(
        "FROM base\nRUN mkdir -p /cache/inner && touch /cache/kept\nRUN --mount=type=tmpfs,target=/cache touch /cache/lost\nRUN --mount=type=cache,target=/cache/inner touch /cache/inner/lost /cache/new\n",
    );
    assert_eq!(image.below("cache"), ["inner", "kept", "new"]);
});

// Trap 49.
story!(run_in_a_nearly_empty_root : root user single, |env| {
    let image = env.image("FROM scratch\nCOPY --from=base /bin/busybox /bin/busybox\nRUN [\"/bin/busybox\", \"touch\", \"/made\"]\n");
    assert!(image.has("made"));
    for path in image.files().keys() {
        let top = path.split('/').next().unwrap_or_default();
        let mount_point = matches!(top, "dev" | "proc" | "sys") && !path.contains('/');
        assert!(mount_point || matches!(path.as_str(), "bin" | "bin/busybox" | "made"), "{path} is in the image");
    }
});

// Trap 43: BuildKit keeps what a RUN changes below a VOLUME.
story!(changes_below_a_volume_are_kept : root user, |env| {
    let image = env.image("FROM base\nRUN mkdir /data && chown 12:34 /data\nVOLUME /data\nRUN echo kept > /data/file\n");
    assert_eq!(image.text("data/file"), "kept\n");
    assert_eq!(image.file("data").line(), "d0755 12:34 data");
    assert_eq!(image.runtime("Volumes"), &json!({"/data": {}}));
});

// Trap 56.
story!(missing_working_directory_is_made : root user, |env| {
    let image = on(env, json!({"WorkingDir": "/not/there"}), Tar::new(), "FROM base2\nRUN pwd > /pwd\n");
    assert_eq!(image.text("pwd"), "/not/there\n");
});

// Trap 57: BuildKit testRunNoNetwork.
story!(network_none_has_only_loopback : root user single, |env| {
    env.dockerfile(
        "FROM base\nRUN --network=none test \"$(ls /sys/class/net)\" = lo && ifconfig lo | grep -q UP && ifconfig lo | grep -q 127.0.0.1\nRUN ls /sys/class/net > /host\n",
    );
    let here = std::fs::read_dir("/sys/class/net").map_or(0, |entries| entries.count());
    let image = env.build([] as [&str; 0]).only();
    assert_eq!(image.text("host").lines().count(), here);
    env.dockerfile("FROM base\nRUN test \"$(ls /sys/class/net)\" = lo\n");
    env.build_command(["-t", "x", "--network", "none"]).ok();
});

story!(changes_of_a_run_become_its_layer : root user single, |env| {
    let image = env.image(
        "FROM base\nRUN mkdir -p /d/e && echo 1 > /d/e/f && chmod 4711 /d/e/f && ln -s f /d/e/l && ln /d/e/f /d/e/h && mkfifo /d/p && chmod 1777 /d\nRUN rm /d/e/l && chmod 600 /d/e/f && mv /d/p /d/q\n",
    );
    assert_eq!(
        image.layers[1].iter().map(|entry| entry.line()).collect::<Vec<_>>(),
        ["d1777 0:0 d", "d0755 0:0 d/e", "-4711 0:0 d/e/f", "h4711 0:0 d/e/h -> d/e/f", "l0777 0:0 d/e/l -> f", "p0644 0:0 d/p"]
    );
    assert_eq!(image.file("d/e/f").mode, 0o600);
    assert!(!image.has("d/e/l") && !image.has("d/p") && image.has("d/q"));
    assert!(image.last_lines().iter().any(|line| line.ends_with("d/e/.wh.l")), "{:?}", image.last_lines());
});

story!(ownership_as_far_as_it_is_mapped : root user, |env| {
    let image = env.image("FROM base\nRUN touch /a /b && chown 1:2 /a && chown 65534:65534 /b && echo app:x:4242:4242::/home/app:/bin/sh >> /etc/passwd && mkdir /home/app && chown 4242 /home/app && su app -c 'touch /home/app/mine'\n");
    assert_eq!(image.file("a").line(), "-0644 1:2 a");
    assert_eq!(image.file("b").line(), "-0644 65534:65534 b");
    assert_eq!(image.file("home/app/mine").uid, 4242);
});

/// Gives files away and looks at them, by every way to do either.
fn hands(env: &TestEnv, platform: &str) {
    env.dockerfile(
        r#"FROM base
COPY --chown=5:6 Dockerfile /copied
RUN set -e; see() { for f; do stat -c '%n %u:%g' $f; done >>/seen; } \
 && touch /a /kept && chown 33:44 /a && chown :9 /kept && see /a /kept /copied \
 && ln -s a /link && chown -h 7:8 /link && see /link && [ "$(stat -L -c %u /link)" = 33 ] \
 && mkdir -p /d/e && cp -p /a /d/e/a && mv /d/e/a /d/e/b && see /d/e/b \
 && chown -R 10:11 /d && see /d /d/e /d/e/b \
 && ln /a /hard && chown 34 /hard && see /a \
 && mkfifo /pipe && chown 12:13 /pipe && see /pipe \
 && tar cf /t.tar copied a && mkdir /x && tar xf /t.tar -C /x && rm /t.tar && see /x/copied /x/a \
 && chown 0:0 /x/a && see /x/a && cd /d && see . ./e e/../e/b \
 && touch /suid && chmod 6755 /suid && chown 1:1 /suid && ! chown 1 /missing && ! chown 1 /a/a \
 && mkdir -p /r/bin && cp /bin/busybox /r/bin/busybox && touch /r/f /r/copied && chroot /r /bin/busybox chown 5:7 /f && see /r/f \
 && [ "$(chroot /r /bin/busybox stat -c %u:%g /copied /f | tr '\n' ' ')" = "0:0 5:7 " ]
RUN set -e; for f in /a /link /d/e/b /x/copied /kept; do stat -c '%n %u:%g' $f; done >/again; chown 50 /copied; mv /link /moved; rm /d/e/b; touch /d/e/b; mv /kept /later; stat -c '%n %u:%g' /d/e/b /later /moved >>/again
"#,
    );
    let image = env.build(["--platform", platform]).only();
    let seen = image.text("seen");
    let seen: Vec<&str> = seen.lines().collect();
    assert_eq!(
        seen,
        [
            "/a 33:44",
            "/kept 0:9",
            "/copied 5:6",
            "/link 7:8",
            "/d/e/b 33:44",
            "/d 10:11",
            "/d/e 10:11",
            "/d/e/b 10:11",
            "/a 34:44",
            "/pipe 12:13",
            "/x/copied 5:6",
            "/x/a 34:44",
            "/x/a 0:0",
            ". 10:11",
            "./e 10:11",
            "e/../e/b 10:11",
            "/r/f 5:7",
        ]
    );
    assert_eq!(
        image.text("again"),
        "/a 34:44\n/link 7:8\n/d/e/b 10:11\n/x/copied 5:6\n/kept 0:9\n/d/e/b 0:0\n/later 0:9\n/moved 7:8\n"
    );
    for line in [
        "-0644 34:44 a",
        "-0644 0:9 later",
        "-0644 50:6 copied",
        "l0777 7:8 moved -> a",
        "d0755 10:11 d",
        "d0755 10:11 d/e",
        "-0644 0:0 d/e/b",
        "p0644 12:13 pipe",
        "-0644 5:6 x/copied",
        "-0644 0:0 x/a",
        "-0755 1:1 suid",
    ] {
        let path = line.split(' ').nth(2).expect("kind and mode, owner, path");
        assert_eq!(image.file(path).line(), line);
    }
    for path in ["a", "d", "d/e/b", "copied"] {
        assert!(image.file(path).xattrs.is_empty(), "{path}");
    }
}

// With one id, files are given away all the same, and seen so.
story!(files_change_hands_with_any_number_of_ids : root user single, |env| {
    hands(env, host_platform());
});

story!(files_change_hands_under_emulation : user single, |env| {
    need_emulation!();
    hands(env, crate::support::foreign_platform().0);
});

// As images do that give their log, a link to it, to the server's user.
story!(output_of_a_run_changes_hands : root user single, |env| {
    env.dockerfile(
        "FROM base\nRUN ln -s /dev/stdout /log && chown 101:102 /log && chown 101 /dev/stderr /dev/fd/1 /proc/self/fd/2 && chown -h 7:8 /log && echo fine\nRUN ! chown 5 /proc/self/nothing && ln -s /proc/self/none /x && ! chown 5 /x\n",
    );
    let out = env.path("out");
    env.build_command(["-o"]).args([out.as_os_str()]).ok().says("fine");
    let image = Layout::open(&out).only();
    assert_eq!(image.file("log").line(), "l0777 7:8 log -> /dev/stdout");
    assert_eq!(image.file("x").line(), "l0777 0:0 x -> /proc/self/none");
});

// What a RUN names below /proc/self is looked up by the builder, whose own files it must not lead to.
story!(proc_self_leads_to_no_file_of_the_host : single, |env| {
    need_tool!("setfattr");
    let victim = env.write("victim", "x");
    // So that the builder has something to say of it.
    let noted = std::process::Command::new("setfattr").args(["-n", "user.lapstrake.owner", "-v", "5:6"]).arg(&victim).status();
    assert!(noted.expect("it is there").success());
    let victim = victim.display().to_string();
    for way in [format!("/proc/self/../..{victim}"), format!("/dev/fd/../../..{victim}"), format!("/proc/self/fd/../../..{victim}")] {
        env.dockerfile(&format!("FROM base\nRUN ! stat -L {way} && ! chown 7:8 {way}\n"));
        env.build_command(["-t", "x"]).ok();
    }
});

story!(setuid_programs_work : root user, |env| {
    env.dockerfile(
        "FROM base\nRUN sed -i 's/^root:[^:]*:/root::/' /etc/shadow && cp /bin/busybox /bin/busybox-suid && chmod 4755 /bin/busybox-suid && chmod 644 /etc/shadow\nUSER nobody\nRUN test \"$(/bin/busybox-suid su -c 'id -u')\" = 0\n",
    );
    env.build_command(["-t", "x"]).ok();
});

story!(both_streams_and_much_output_arrive : root user, |env| {
    env.dockerfile("FROM base\nRUN echo on-stdout; echo on-stderr >&2; printf no-newline\nRUN seq 1 200000\n");
    let output = env.build_command(["-t", "x"]).ok();
    output.says("on-stdout").says("on-stderr").says("no-newline").says("199999");
    assert!(!output.stdout.contains("on-stdout"), "stdout is for data");
});

// Trap 79: BuildKit testNoSnapshotLeak; nothing mounted, nothing running, nothing in tmp.
story!(build_leaves_nothing_behind : root user single, |env| {
    env.dockerfile("FROM base\nRUN --mount=type=tmpfs,target=/x touch /a\nRUN touch /b\n");
    env.build_command(["-t", "x"]).ok();
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
    assert!(!mounts.contains(&env.path("").display().to_string()), "{mounts}");
    let tmp = env.store().join("tmp");
    let left: Vec<_> = std::fs::read_dir(&tmp).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default();
    assert!(left.is_empty(), "{left:?}");
    let home: Vec<_> = std::fs::read_dir(env.path("home")).expect("it was made").flatten().map(|entry| entry.path()).collect();
    assert!(home.is_empty(), "{home:?}");
    let disk = |env: &TestEnv| {
        let output = env.lapstrake(["du", "--format", "json"]).ok();
        output.stdout
    };
    let before = disk(env);
    env.build_command(["-t", "x"]).ok();
    assert_eq!(disk(env), before, "a no-op rebuild took room");
});

// A SIGKILL at any moment leaves nothing mounted, registered or running.
story!(kill_in_the_middle_leaves_nothing_running : root user single, |env| {
    let mark = format!("{}", 100_000 + std::process::id() % 10_000 * 7 + u32::from(env.who() == crate::support::Who::User));
    env.dockerfile(&format!("FROM base\nRUN touch /a\nRUN echo started; sleep {mark}; true\n"));
    let mut child = env.build_command(["-t", "x"]).spawn();
    wait_for(|| running(&mark), "the step starts");
    child.kill().expect("it runs");
    child.wait().expect("it was started");
    wait_for(|| !running(&mark), "the step ends with its builder");
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
    assert!(!mounts.contains(&env.path("").display().to_string()), "{mounts}");
    // The store is whole, and what was done is not done again.
    env.dockerfile("FROM base\nRUN touch /a\nRUN echo other\n");
    env.build_command(["-t", "x"]).ok().says("CACHED");
});

// An interrupt ends the build with 130 and leaves nothing.
story!(interrupt_stops_the_build : root user, |env| {
    let mark = format!("{}", 200_000 + std::process::id() % 10_000 * 7 + u32::from(env.who() == crate::support::Who::User));
    env.dockerfile(&format!("FROM base\nRUN sleep {mark}; true\n"));
    let mut child = env.build_command(["-t", "x"]).spawn();
    wait_for(|| running(&mark), "the step starts");
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill is everywhere");
    let status = child.wait().expect("it was started");
    assert_eq!(status.code(), Some(130));
    wait_for(|| !running(&mark), "the step ends");
});

/// True if some process has this as one of its arguments.
pub fn running(argument: &str) -> bool {
    std::fs::read_dir("/proc").expect("/proc is mounted").flatten().any(|entry| {
        std::fs::read(entry.path().join("cmdline"))
            .is_ok_and(|line| line.split(|byte| *byte == 0).any(|word| word == argument.as_bytes()))
    })
}

/// Polls until it holds, for at most a minute.
pub fn wait_for(condition: impl Fn() -> bool, what: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "waited a minute: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
