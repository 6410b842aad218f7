//! ADD of Git repositories: what is checked out, what is kept, and repositories that mean no good.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use crate::support::repository::{COMMIT_TIME, Repository, serve};
use crate::support::web::{Reply, Web};

// BuildKit testAddGit, testGitQueryString.
story!(repository_by_branch_tag_commit_and_directory : root user, |env| {
    need_tool!("git");
    let repository = Repository::new(env, "a.git");
    repository.write("file", "one").write("dir/inner/script", "#!").write(".gitattributes", "");
    std::fs::set_permissions(repository.path().join("dir/inner/script"), PermissionsExt::from_mode(0o755)).expect("it was made");
    let first = repository.commit();
    repository.git(&["tag", "-a", "-m", "x", "v1"]);
    repository.git(&["branch", "dev/x"]);
    repository.write("file", "two").commit();
    let web = serve(env, None);
    let url = web.url("/a.git");
    env.dockerfile(&format!(
        "FROM scratch\nADD {url} /default\nADD {url}#v1 /tag\nADD {url}#{first} /commit\nADD {url}#dev/x:dir /dir/\nADD {url}?ref=v1&subdir=dir/inner /query\nADD --link --chown=1:2 {url}#refs/heads/dev/x /moved\n"
    ));
    let out = env.path("out");
    // Modes are git's, whatever the umask.
    env.build_command(["-o".as_ref(), out.as_os_str()]).under("umask 077").ok();
    let image = crate::support::layout::Layout::open(&out).only();
    assert_eq!(image.below("default"), [".gitattributes", "dir", "dir/inner", "dir/inner/script", "file"]);
    assert_eq!(image.text("default/file"), "two");
    for place in ["tag", "commit", "moved"] {
        assert_eq!(image.text(&format!("{place}/file")), "one", "{place}");
    }
    assert_eq!(image.file("dir/inner/script").line(), "-0755 0:0 dir/inner/script");
    assert_eq!(image.file("query/script").mtime, u64::try_from(COMMIT_TIME).expect("past 1970"));
    assert_eq!(image.file("default/file").line(), "-0644 0:0 default/file");
    assert_eq!(image.file("moved/file").line(), "-0644 1:2 moved/file");
});

// BuildKit testAddGitChecksumCache; the key is the commit.
story!(commit_is_the_key_and_nothing_is_fetched_for_it : root user, |env| {
    need_tool!("git");
    let repository = Repository::new(env, "a.git");
    let first = repository.write("file", "one").commit();
    let web = serve(env, None);
    let url = web.url("/a.git");
    let packs = || web.asked().iter().filter(|asked| {
        String::from_utf8_lossy(&asked.body).contains("command=fetch")
    }).count();
    env.dockerfile(&format!("FROM base\nADD {url} /r\nRUN cp /r/file /copy\n"));
    env.build_command(["-t", "x"]).ok();
    assert_eq!(packs(), 1);
    let again = env.build_command(["-t", "x"]).ok();
    assert_eq!(again.stderr.matches("CACHED").count(), 4, "{}", again.stderr);
    // Another name of the same commit is the same step.
    env.dockerfile(&format!("FROM base\nADD {url}#{first} /r\nRUN cp /r/file /copy\n"));
    let asked = web.asked().len();
    env.build_command(["-t", "x", "--offline", "--pull=never"]).ok().says("CACHED");
    assert_eq!(web.asked().len(), asked);
    // The mirror has it, so nothing is fetched though the step runs anew.
    assert_eq!(env.build(["--no-cache", "--offline"]).only().text("copy"), "one");
    env.dockerfile(&format!("FROM base\nADD {url} /r\nRUN cp /r/file /copy\n"));
    repository.write("file", "two").commit();
    assert_eq!(env.build_into("b", [] as [&str; 0]).only().text("copy"), "two");
    assert_eq!(packs(), 2);
    env.build_command(["-t", "x", "--offline"]).fails(4).says("--offline");
});

story!(checksum_is_the_beginning_of_a_commit : root user, |env| {
    need_tool!("git");
    let repository = Repository::new(env, "a.git");
    let id = repository.write("file", "one").commit();
    repository.git(&["tag", "-a", "-m", "x", "v1"]);
    let web = serve(env, None);
    let url = web.url("/a.git");
    let short = &id[..10];
    let line = |sum: &str, rest: &str| format!("FROM scratch\nADD --checksum={sum} {url}{rest} /r\n");
    for rest in ["", "#v1", &format!("#{id}"), &format!("?checksum={short}")] {
        assert_eq!(env.image(&line(short, rest)).text("r/file"), "one", "{rest}");
    }
    repository.write("file", "two").commit();
    let text = env.build_fails(1, &line(short, ""));
    assert!(text.contains("expected checksum to match") && text.contains(short), "{text}");
    // The commit by its checksum, though the branch has moved.
    assert_eq!(env.image(&format!("FROM scratch\nADD {url}?checksum={id}&fetch-by-commit=true&ref=main /r\n")).text("r/file"), "one");
    assert!(env.build_fails(2, &line("sha256:12", "")).contains("commit id"));
    assert!(env.build_fails(2, &line("abc", "?checksum=def")).contains("different checksums"));
    assert!(env.build_fails(1, &format!("FROM scratch\nADD {url}#nowhere /r\n")).contains("nowhere"));
    assert!(env.build_fails(2, &format!("FROM scratch\nADD {url}#a..b /r\n")).contains("no name"));
});

// BuildKit testAddGit with --keep-git-dir.
story!(kept_git_directory_works_and_tells_no_times : root user, |env| {
    need_tool!("git");
    let repository = Repository::new(env, "a.git");
    let id = repository.write("file", "one").write("dir/f", "x").commit();
    repository.git(&["tag", "v1"]);
    let web = serve(env, None);
    let url = web.url("/a.git");
    env.dockerfile(&format!("FROM scratch\nADD --keep-git-dir=true {url}#v1 /r\nADD {url} /plain\nADD {url}?keep-git-dir=1&ref={id} /c\n"));
    let mut layers = Vec::new();
    for out in ["one", "two"] {
        let image = env.build_into(out, ["--no-cache", "--build-arg", "SOURCE_DATE_EPOCH=1600000000"]).only();
        assert!(!image.has("plain/.git") && image.has("r/.git/HEAD"));
        layers.push(image.diff_ids());
    }
    assert_eq!(layers[0], layers[1]);
    let tree = env.path("tree");
    env.build_command(["-o", &format!("type=local,dest={}", tree.display())]).ok();
    for dir in ["r", "c"] {
        let git = |args: &[&str]| {
            let run = env.command("git").args(["-c", "safe.directory=*"]).args(args);
            run.env("GIT_CONFIG_GLOBAL", "/dev/null").dir(tree.join(dir)).ok().stdout.trim().to_owned()
        };
        assert_eq!(git(&["rev-parse", "HEAD"]), id);
        assert_eq!(git(&["status", "--porcelain"]), "");
        assert_eq!(git(&["config", "remote.origin.url"]), url);
    }
    let text = env.build_fails(2, &format!("FROM scratch\nADD --keep-git-dir=false {url}?keep-git-dir=true /r\n"));
    assert!(text.contains("keep-git-dir"), "{text}");
});

story!(submodules_come_along_unless_told_otherwise : root user, |env| {
    need_tool!("git");
    let inner = Repository::new(env, "inner.git");
    inner.write("deep", "inside").commit();
    let outer = Repository::new(env, "outer.git");
    outer.write("file", "x");
    outer.git(&["submodule", "--quiet", "add", "../inner.git", "sub"]);
    outer.commit();
    let web = serve(env, None);
    let url = web.url("/outer.git");
    let image = env.image(&format!("FROM scratch\nADD {url} /with\nADD {url}?submodules=false /without\nADD {url}#:sub /sub\n"));
    assert_eq!(image.text("with/sub/deep"), "inside");
    assert!(!image.has("with/sub/.git") && !image.has("without/sub/deep"));
    assert_eq!(image.below("sub"), ["deep"]);
    // A path of this machine as a submodule is not read.
    let canary = Repository::new(env, "canary.git");
    canary.write("secret", "of the host").commit();
    let evil = Repository::new(env, "evil.git");
    evil.git(&["submodule", "--quiet", "add", &format!("file://{}", canary.path().display()), "sub"]);
    evil.commit();
    let text = env.build_fails(4, &format!("FROM scratch\nADD {} /r\n", web.url("/evil.git")));
    assert!(text.contains("not allowed"), "{text}");
});

// Attack case 33: nothing of the user, the machine or the repository runs.
story!(nothing_of_a_repository_or_of_the_user_runs : root user, |env| {
    need_tool!("git");
    let repository = Repository::new(env, "a.git");
    let marker = env.path("tmp/ran");
    let script = env.write_at("home/run", format!("#!/bin/sh\ntouch {}\ncat\n", marker.display()));
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).expect("it is ours");
    for hook in ["post-checkout", "reference-transaction", "post-index-change"] {
        let path = env.write_at(format!("home/hooks/{hook}"), format!("#!/bin/sh\ntouch {}\n", marker.display()));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("it is ours");
    }
    let home = env.path("home");
    let home = home.display();
    env.write_at("home/.gitconfig", format!(
        "[core]\n\thooksPath = {home}/hooks\n\tfsmonitor = {home}/run\n\tsshCommand = {home}/run\n\taskPass = {home}/run\n[filter \"evil\"]\n\tsmudge = {home}/run\n\tprocess = {home}/run\n[credential]\n\thelper = {home}/run\n[init]\n\ttemplateDir = {home}\n[url \"file:///\"]\n\tinsteadOf = http://\n"
    ));
    repository.write("file", "x").write(".gitattributes", "* filter=evil\n");
    repository.write("post-checkout", "#!/bin/sh\n").write(".gitmodules", "[submodule \"x\"]\n\tpath = x\n\turl = -u./payload\n\tupdate = !touch /tmp/never\n");
    repository.commit();
    let web = serve(env, None);
    let image = env.image(&format!("FROM scratch\nADD --keep-git-dir=true {}?submodules=false /r\n", web.url("/a.git")));
    assert_eq!(image.text("r/file"), "x");
    assert!(!marker.exists(), "something of the user's configuration ran");
    assert!(!image.has("r/.git/hooks"));
});

// CVE-2026-33748.
story!(directory_that_is_a_link_is_refused : root user, |env| {
    need_tool!("git");
    let repository = Repository::new(env, "a.git");
    repository.write("real/f", "x");
    std::os::unix::fs::symlink("/etc", repository.path().join("link")).expect("new");
    std::os::unix::fs::symlink("real", repository.path().join("near")).expect("new");
    repository.commit();
    let web = serve(env, None);
    let url = web.url("/a.git");
    for dir in ["link", "near", "link/ssh", "none", "real/f", ".git"] {
        let text = env.build_fails(1, &format!("FROM scratch\nADD {url}#:{dir} /r\n"));
        assert!(text.contains("no directory"), "{dir}: {text}");
    }
    // Links stay links in the image, wherever they lead.
    let image = env.image(&format!("FROM scratch\nADD {url} /r\n"));
    assert_eq!((image.file("r/link").kind, image.file("r/link").link.as_str()), ('l', "/etc"));
});

story!(private_repository_takes_a_token : root user, |env| {
    need_tool!("git");
    let repository = Repository::new(env, "a.git");
    repository.write("file", "x").commit();
    // x-access-token:t0ken
    let web = serve(env, Some("Basic eC1hY2Nlc3MtdG9rZW46dDBrZW4="));
    env.dockerfile(&format!("FROM scratch\nADD {} /r\n", web.url("/a.git")));
    env.build_command(["-t", "x"]).fails(4).says("GIT_AUTH_TOKEN");
    let output = env.build_command(["-t", "x", "--secret", "id=GIT_AUTH_TOKEN,env=T"]).env("T", "t0ken").ok();
    output.says_not("t0ken");
    // As user and password of the URL, which end nowhere.
    let url = web.url("/a.git").replace("http://", "http://x-access-token:t0ken@");
    env.dockerfile(&format!("FROM scratch\nADD --keep-git-dir=true {url} /r\n"));
    let image = env.build([] as [&str; 0]).only();
    assert!(!image.config.to_string().contains("t0ken") && !image.text("r/.git/config").contains("t0ken"));
    let found = env.command("grep").args(["-r", "-l", "-e", "t0ken", "-e", "eC1hY2Nlc3M"]).args([env.store()]).output();
    assert_eq!(found.stdout, "");
});

story!(repository_over_ssh_uses_the_agent_that_was_given : root user, |env| {
    need_tool!("git", "ssh");
    let repository = Repository::new(env, "a.git");
    repository.write("file", "x").commit();
    // Stands in for ssh: notes how it was called, and runs the command here.
    let log = env.path("tmp/ssh.log");
    let fake = env.write_at("bin/ssh", format!(
        "#!/bin/sh\necho \"$SSH_AUTH_SOCK $*\" >> {}\nfor last; do :; done\nGIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*' exec sh -c \"$last\"\n", log.display()
    ));
    std::fs::set_permissions(&fake, PermissionsExt::from_mode(0o755)).expect("it is ours");
    let socket = env.path("tmp/agent.sock");
    let _agent = std::os::unix::net::UnixListener::bind(&socket).expect("short enough");
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", env.path("bin").display());
    for url in [format!("git@host.invalid:{}", repository.path().display()), format!("ssh://git@host.invalid:22{}", repository.path().display())] {
        env.dockerfile(&format!("FROM scratch\nADD {url} /r\n"));
        let out = env.path("out");
        let _ = std::fs::remove_dir_all(&out);
        env.build_command(["--no-cache", "--ssh", &format!("default={}", socket.display()), "-o"]).args([&out]).env("PATH", &path).ok();
        assert_eq!(crate::support::layout::Layout::open(&out).only().text("r/file"), "x");
    }
    let log = std::fs::read_to_string(&log).expect("it was called");
    for line in log.lines() {
        assert!(line.starts_with(&socket.display().to_string()), "{line}");
        assert!(line.contains("-F /dev/null") && line.contains("BatchMode=yes") && line.contains("StrictHostKeyChecking=yes"), "{line}");
    }
});

story!(fetching_stops_when_the_build_is_stopped : root user, |env| {
    need_tool!("git");
    let web = Web::start(|_| {
        std::thread::sleep(Duration::from_secs(60));
        Reply::status(500)
    });
    env.dockerfile(&format!("FROM scratch\nADD {} /r\n", web.url("/a.git")));
    let mut child = env.build_command(["-t", "x"]).spawn();
    let started = Instant::now();
    while web.asked().is_empty() {
        assert!(started.elapsed() < Duration::from_secs(30), "nothing was asked");
        std::thread::sleep(Duration::from_millis(10));
    }
    let stopped = Instant::now();
    std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill is everywhere");
    assert_eq!(child.wait().expect("it was started").code(), Some(130));
    assert!(stopped.elapsed() < Duration::from_secs(2), "{:?}", stopped.elapsed());
    let running = env.command("ps").args(["-eo", "args"]).output().stdout;
    assert!(!running.contains(&web.url("/a.git")), "{running}");
    let left: Vec<_> = std::fs::read_dir(env.store().join("tmp")).expect("there").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
});

// BuildKit testAddGitSHA256.
story!(repository_with_sha256 : user, |env| {
    need_tool!("git");
    let repository = Repository::new(env, "a.git");
    std::fs::remove_dir_all(repository.path().join(".git")).expect("it was made");
    repository.git(&["init", "--quiet", "--initial-branch=main", "--object-format=sha256"]);
    let id = repository.write("file", "x").commit();
    assert_eq!(id.len(), 64);
    let web = serve(env, None);
    let url = web.url("/a.git");
    let image = env.image(&format!("FROM scratch\nADD {url} /r\nADD --keep-git-dir=true {url}#{id} /k\n"));
    assert_eq!(image.text("r/file") + &image.text("k/file"), "xx");
});
