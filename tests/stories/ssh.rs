//! RUN --mount=type=ssh: who sees the agent, and what it may be asked.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use crate::support::TestEnv;

/// A key file without a passphrase.
fn key(env: &TestEnv, name: &str) -> PathBuf {
    let path = env.path(name);
    let args = ["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"];
    env.command("ssh-keygen").args(args).args([&path]).ok();
    path
}

/// Puts ssh-add and what it is linked with into a directory that steps mount at /ssh.
fn client(env: &TestEnv) -> Vec<String> {
    let dir = env.mkdir("client");
    let program = crate::support::which("ssh-add").expect("checked by the story");
    let listed = crate::support::tools::tool("ldd", &[program.to_str().expect("plain")]);
    let libraries =
        listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    for file in libraries.chain([program]) {
        let name = file.file_name().expect("a file").to_str().expect("plain");
        let name = if name.starts_with("ld-") { "loader" } else { name };
        std::fs::copy(&file, dir.join(name)).expect("readable");
    }
    env.hand_over("client");
    vec!["--build-context".into(), format!("client={}", dir.display())]
}

/// A step that asks the agent.
fn ask(mount: &str, command: &str) -> String {
    format!(
        "FROM base\nRUN --mount=type=bind,from=client,target=/ssh --mount=type=ssh{mount} {}\n",
        command.replace("ssh-add", "/ssh/loader --library-path /ssh /ssh/ssh-add")
    )
}

struct Agent(Child, PathBuf);

impl Agent {
    /// Starts an agent of the user's.
    fn start(env: &TestEnv) -> Agent {
        let socket = env.path("agent");
        let agent =
            Agent(env.command("ssh-agent").args(["-D", "-a"]).args([&socket]).spawn(), socket);
        let started = Instant::now();
        while UnixStream::connect(&agent.1).is_err() {
            assert!(started.elapsed() < Duration::from_secs(30), "the agent does not answer");
            std::thread::sleep(Duration::from_millis(5));
        }
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// BuildKit testSSHMount: keys as files, which lapstrake holds in an agent of its own.
story!(key_files_are_held_for_the_step_alone : root user single, |env| {
    need_tool!("ssh-add", "ssh-agent", "ssh-keygen");
    let mut args = client(env);
    let path = key(env, "first");
    args.extend(["--ssh".into(), format!("default={}", path.display())]);
    env.dockerfile(&ask("", "ssh-add -L > /keys; echo $SSH_AUTH_SOCK >> /keys"));
    let image = env.build(&args).only();
    let keys = image.text("keys");
    assert!(keys.contains(" first\n") && keys.ends_with("/run/buildkit/ssh_agent.0\n"), "{keys}");
    assert!(!image.has("run/buildkit"), "{:?}", image.below(""));
    // Nothing stays behind: no agent, no socket, no key.
    let left: Vec<_> = std::fs::read_dir(env.store().join("tmp")).expect("there").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    let private = std::fs::read_to_string(&path).expect("it was made");
    let line = private.lines().nth(2).expect("three lines and more");
    assert_eq!(env.command("grep").args(["-r", "-l", line]).args([env.store()]).output().stdout, "");
});

story!(agent_of_the_user_answers_and_is_not_changed : root user, |env| {
    need_tool!("ssh-add", "ssh-agent", "ssh-keygen");
    let agent = Agent::start(env);
    let path = key(env, "mine");
    let add = || env.command("ssh-add").env("SSH_AUTH_SOCK", &agent.1);
    add().args(["-q".as_ref(), path.as_os_str()]).ok();
    let mut args = client(env);
    args.extend(["--ssh".into(), "default".into(), "--ssh".into(), format!("other={}", agent.1.display())]);
    let text = ask(",id=other,mode=0666,uid=7,target=/agent", "ssh-add -L > /keys; ssh-add -D && exit 9; stat -c '%a %u' /agent >> /keys");
    env.dockerfile(&text.replace("RUN ", "USER 7\nWORKDIR /tmp\nRUN ").replace("> /keys", "> keys"));
    let output = env.path("out");
    let mut arguments = args.clone();
    arguments.extend(["-o".into(), output.display().to_string()]);
    env.build_command(&arguments).env("SSH_AUTH_SOCK", &agent.1).ok();
    let keys = crate::support::layout::Layout::open(&output).only().text("tmp/keys");
    assert!(keys.contains(" mine\n") && keys.ends_with("666 7\n"), "{keys}");
    // The step could not remove them.
    assert!(add().args(["-L"]).ok().stdout.contains(" mine"));
});

story!(agents_are_optional_unless_required : user, |env| {
    env.dockerfile("FROM base\nRUN --mount=type=ssh test -z \"$SSH_AUTH_SOCK\"\n");
    env.build_command(["-t", "x"]).ok();
    env.dockerfile("FROM base\nRUN --mount=type=ssh,required=true true\n");
    env.build_command(["-t", "x"]).fails(1).says("ssh agent default: not found").says("--ssh default");
    env.build_command(["-t", "x", "--ssh", "default"]).fails(2).says("SSH_AUTH_SOCK is not set");
    env.build_command(["-t", "x", "--ssh", "a=/none"]).fails(2).says("/none");
});

// As secrets: another key is the same step.
story!(keys_of_an_agent_are_no_part_of_a_key : user, |env| {
    need_tool!("ssh-add", "ssh-agent", "ssh-keygen");
    let args = client(env);
    let (first, second) = (key(env, "first"), key(env, "second"));
    env.dockerfile(&ask("", "ssh-add -l"));
    let build = |key: &PathBuf| {
        let ssh = format!("default={}", key.display());
        env.build_command(&args).args(["-t", "x", "--ssh", &ssh]).ok()
    };
    build(&first);
    build(&second).says("CACHED").says_not("isolation:");
});
