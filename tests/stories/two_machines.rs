//! Two machines share one registry cache, each in a network of its own: every step runs once in all.
//!
//! Three network namespaces: one has the registry, each of the two others a cable to it and nothing else. Addresses
//! are private ones that exist in there alone. A step that runs leaves a fresh UUID, and a machine that has run a step
//! keeps its own, so equal images prove that each step ran once.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::support::TestEnv;
use crate::support::layout::Layout;
use crate::support::skip;
use crate::support::tools::{Registry, RegistryOptions, try_tool};

const UUID: &str = "cat /proc/sys/kernel/random/uuid";

/// Long enough for the slowest machine; reached by failures alone.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where the registry listens, in its namespace.
const HOST: &str = "10.77.0.1:5000";

/// A process; ended when dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A network namespace, which lives as long as the process in it.
struct Net(Ended);

impl Net {
    fn new() -> Net {
        let mut child = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare is installed");
        // It answers when it is in there.
        use std::io::{Read, Write};
        child.stdin.as_mut().expect("piped").write_all(b"x").expect("it reads");
        child.stdout.as_mut().expect("piped").read_exact(&mut [0]).expect("it answers");
        Net(Ended(child))
    }

    fn pid(&self) -> String {
        self.0.0.id().to_string()
    }

    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.pid(), "--"]);
        command
    }

    fn ip(&self, line: &str) {
        let args: Vec<&str> = line.split(' ').collect();
        let done = self.enter().arg("ip").args(&args).output().expect("nsenter runs");
        assert!(done.status.success(), "ip {line}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

/// The registry, and the networks of both machines.
struct World {
    machines: [Net; 2],
    _registry: Ended,
    _middle: Net,
}

fn world(env: &TestEnv) -> Option<World> {
    let probe = try_tool(
        "unshare",
        &["--net", "ip", "link", "add", "one", "type", "veth", "peer", "name", "two"],
    );
    if !probe.status.success() {
        skip(
            "netns",
            &format!("no network namespaces: {}", String::from_utf8_lossy(&probe.stderr).trim()),
        );
        return None;
    }
    let middle = Net::new();
    let machines = [Net::new(), Net::new()];
    middle.ip("link set lo up");
    middle.ip("address add 10.77.0.1/32 dev lo");
    for (number, machine) in machines.iter().enumerate() {
        let (here, there) = (format!("10.77.{}.1", number + 1), format!("10.77.{}.2", number + 1));
        middle.ip(&format!("link add m{number} type veth peer name eth0 netns {}", machine.pid()));
        middle.ip(&format!("address add {here}/30 dev m{number}"));
        middle.ip(&format!("link set m{number} up"));
        machine.ip("link set lo up");
        machine.ip(&format!("address add {there}/30 dev eth0"));
        machine.ip("link set eth0 up");
        machine.ip(&format!("route add default via {here}"));
    }
    let config = env.write_at(
        "registry.yml",
        format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {HOST}\n",
            env.mkdir("registry").display()
        ),
    );
    let registry = middle
        .enter()
        .args(["docker-registry", "serve"])
        .arg(config)
        .env("OTEL_TRACES_EXPORTER", "none")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nsenter runs");
    let world = World { machines, _registry: Ended(registry), _middle: middle };
    let until = Instant::now() + PATIENCE;
    let connect = format!("exec 3<>/dev/tcp/{}", HOST.replace(':', "/"));
    for machine in &world.machines {
        while !machine
            .enter()
            .args(["bash", "-c", &connect])
            .stderr(Stdio::null())
            .status()
            .expect("nsenter runs")
            .success()
        {
            assert!(Instant::now() < until, "docker-registry does not listen");
        }
    }
    Some(world)
}

/// A build on one of the machines, with its own store, home and context.
struct Building {
    child: Child,
    lines: Receiver<String>,
    said: String,
    out: PathBuf,
}

fn start(env: &TestEnv, world: &World, number: usize, dockerfile: &str, out: &str) -> Building {
    let name = |part: &str| format!("machine{number}/{part}");
    let (home, context) = (env.mkdir(name("home")), env.mkdir(name("context")));
    env.write_at(name("context/Dockerfile"), dockerfile);
    let out = env.path(name(out));
    let place = format!("type=registry,ref={HOST}/team/cache");
    let base =
        format!("base=oci-layout://{}:latest", crate::support::cache().join("busybox").display());
    let mut run = env
        .lapstrake([
            "build",
            "--progress",
            "plain",
            "--insecure-registry",
            HOST,
            "--build-context",
            &base,
        ])
        .args(["--cache-to", &format!("{place},mode=max,lease=2m"), "--cache-from", &place])
        .args(["-o".as_ref(), out.as_os_str(), context.as_os_str()])
        .env("HOME", home)
        .env("LAPSTRAKE_ROOT", env.path(name("store")))
        .wrapped(world.machines[number].enter());
    let mut child = run
        .command_mut()
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nsenter runs");
    let stderr = child.stderr.take().expect("piped");
    let (send, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let _ = send.send(line);
        }
    });
    Building { child, lines, said: String::new(), out }
}

impl Building {
    /// Waits until it has said something.
    fn says(&mut self, text: &str) {
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.said.push_str(&format!("{line}\n"));
            if line.contains(text) {
                return;
            }
        }
        panic!("it never said {text:?}:\n{}", self.said);
    }

    fn end(mut self) -> (Layout, String) {
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.said.push_str(&format!("{line}\n"));
        }
        let status = self.child.wait().expect("it was started");
        assert!(status.success(), "{status}\n{}", self.said);
        assert!(!self.said.contains("warning"), "{}", self.said);
        (Layout::open(&self.out), self.said)
    }
}

story!(each_step_runs_once_in_all : root, |env| {
    need_tool!("docker-registry", "skopeo", "unshare", "nsenter", "ip", "bash");
    let Some(world) = world(env) else { return };
    let steps = |name: &str| -> String { (0..3).map(|n| format!("RUN {UUID} > /{name}{n}\n")).collect() };
    // First one machine, then the other: it runs nothing.
    let first = format!("FROM base\n{}", steps("a"));
    let (one, said) = start(env, &world, 0, &first, "one").end();
    assert_eq!(said.matches("CACHED").count(), 0, "{said}");
    let (two, said) = start(env, &world, 1, &first, "one").end();
    assert_eq!(said.matches("CACHED").count(), 3, "{said}");
    assert_eq!(one.digest(), two.digest());
    // Then both at once on a changed Dockerfile. The first of the new steps does not end before the other machine has
    // said that it waits for it.
    let gate = "until wget -q -O /dev/null http://10.77.0.1:5000/v2/gate/tags/list; do sleep 0.05; done";
    let second = format!("{first}RUN echo it runs && {UUID} > /gate && {gate}\n{}", steps("b"));
    let mut ahead = start(env, &world, 0, &second, "two");
    ahead.says("it runs");
    let mut behind = start(env, &world, 1, &second, "two");
    behind.says("another machine runs this step");
    let opened = world.machines[1]
        .enter()
        .args(["skopeo", "copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"])
        .arg(format!("oci:{}", env.path("machine0/one").display()))
        .arg(format!("docker://{HOST}/gate:1"))
        .output()
        .expect("nsenter runs");
    assert!(opened.status.success(), "{}", String::from_utf8_lossy(&opened.stderr));
    let ((ahead, said_ahead), (behind, said_behind)) = (ahead.end(), behind.end());
    let said = format!("{said_ahead}\n{said_behind}");
    assert_eq!(ahead.digest(), behind.digest(), "{said}");
    let image = ahead.only();
    let all: Vec<String> = ["gate", "a0", "a1", "a2", "b0", "b1", "b2"].iter().map(|file| image.text(file)).collect();
    assert!(all.iter().all(|id| all.iter().filter(|other| *other == id).count() == 1), "{all:?}");
    // Of the seven steps, each machine had three already, and the base; of the other four, each was one's work and the
    // other's gain.
    assert_eq!(said.matches("CACHED").count(), 2 * (1 + 3) + 4, "{said}");
});

// A registry that goes away in the middle: with ignore-error=true that is told, without it the build fails and says
// why. What was built is kept either way.
story!(the_registry_goes_away_in_the_middle : user, |env| {
    need_tool!("docker-registry");
    for (number, ignore) in [false, true].into_iter().enumerate() {
        let mut registry = Registry::start(RegistryOptions::default());
        // The first entry is sent while the second step runs; that one ends when nobody listens any more.
        env.dockerfile(&format!(
            "FROM base\nRUN {UUID} > /one\nRUN {UUID} > /two && echo ready{number} && while wget -q -O /dev/null http://{}/v2/; do sleep 0.05; done\n",
            registry.host
        ));
        let place = format!("type=registry,ref={}/cache", registry.host);
        let to = format!("{place},mode=max,lease=30s,ignore-error={ignore}");
        let out = env.path(format!("out{number}"));
        let mut run = env
            .build_command(["--progress", "plain", "--cache-to", &to, "--cache-from", &place])
            .args(["-o".as_ref(), out.as_os_str()]);
        let mut child =
            run.command_mut().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
        let mut said = String::new();
        for line in BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok) {
            if line.contains(&format!("ready{number}")) && !line.contains("echo") {
                registry.stop();
            }
            said.push_str(&format!("{line}\n"));
        }
        let code = child.wait().expect("it was started").code();
        assert_eq!(code, Some(if ignore { 0 } else { 4 }), "{said}");
        assert!(said.contains(&format!("cannot write to the cache {}/cache", registry.host)), "{said}");
        assert_eq!(said.contains("warning: cannot write to the cache"), ignore, "{said}");
        assert_eq!(said.contains("ignore-error=true lets a build go through"), !ignore, "{said}");
        // The store has both steps.
        let again = env.path(format!("again{number}"));
        let said = env.build_command(["--offline", "-o"]).args([again.as_os_str()]).ok();
        assert_eq!(said.stderr.matches("CACHED").count(), 3, "with the base: {}", said.stderr);
        let image = Layout::open(&again).only();
        if ignore {
            assert_eq!(Layout::open(&out).only().diff_ids(), image.diff_ids());
        }
        env.lapstrake(["verify"]).args([format!("oci:{}", again.display())]).ok();
    }
});

// What is typed wrong, or could never be waited for, is refused.
story!(leases_that_make_no_sense : user, |env| {
    env.dockerfile("FROM base\n");
    let from = ["--cache-from", "r.example/cache"];
    for (to, says) in [
        ("type=registry,ref=r.example/cache,lease=30s", "lease= needs mode=max"),
        ("type=registry,ref=r.example/cache,mode=max,lease=30", "expected 2s to 1h"),
        ("type=registry,ref=r.example/cache,mode=max,lease=1s", "expected 2s to 1h"),
        ("type=registry,ref=r.example/other,mode=max,lease=2m", "add --cache-from type=registry,ref=r.example/other"),
        ("type=local,dest=d,mode=max,lease=30s", "there is no option \"lease\""),
    ] {
        env.build_command(["-t", "x", "--cache-to", to]).args(from).fails(2).says(says);
    }
});
