//! The end-to-end harness: a hermetic place to build in, run as root or as an unprivileged user.
//!
//! A [`TestEnv`] is a temporary directory with a home, a store and a context, owned by the user that the story runs
//! as. Commands get an empty environment. Every image that [`TestEnv::build`] leaves is read back whole by
//! [`layout`], which checks it in passing: nothing that lapstrake writes in a test goes unvalidated.
//!
//! What the host lacks makes a story print `SKIP reason` (also appended to the file named by `LAPSTRAKE_TEST_SKIPS`,
//! because the test runner swallows the output of tests that pass). A feature listed in `LAPSTRAKE_TEST_REQUIRE`
//! (comma-separated) makes its absence a failure instead; CI lists all of them.
//!
//! Start reading at [`story!`] and [`TestEnv::build`].

#![allow(dead_code)]

pub mod estargz;
pub mod fake_docker;
pub mod fake_registry;
pub mod image;
pub mod layout;
pub mod proxy;
pub mod repository;
pub mod seccomp;
pub mod tools;
pub mod web;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use layout::Layout;

/// As whom a story runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Real root: every id is mapped.
    Root,
    /// An unprivileged user with a range in /etc/subuid.
    User,
    /// An unprivileged user without one: only id 0 is mapped.
    Single,
}

impl Who {
    const fn account(self) -> &'static str {
        match self {
            Who::Root => "root",
            Who::User => "lapstrake-test",
            Who::Single => "lapstrake-single",
        }
    }

    const fn feature(self) -> &'static str {
        match self {
            Who::Root => "root",
            Who::User => "user",
            Who::Single => "single",
        }
    }
}

/// Declares a story and one test for each user that it runs as.
///
/// `story!(copy_follows_links: root user, |env| { … });`
#[macro_export]
macro_rules! story {
    ($(#[$meta:meta])* $name:ident : $($who:ident)+, |$env:ident| $body:block) => {
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            fn tell($env: &$crate::support::TestEnv) $body
            $($crate::story_test!($who);)+
        }
    };
}

/// One test of a story; see [`story!`].
#[macro_export]
macro_rules! story_test {
    (root) => {
        #[test]
        fn as_root() {
            $crate::support::run_as($crate::support::Who::Root, tell);
        }
    };
    (user) => {
        #[test]
        fn as_user_with_subuids() {
            $crate::support::run_as($crate::support::Who::User, tell);
        }
    };
    (single) => {
        #[test]
        fn as_user_without_subuids() {
            $crate::support::run_as($crate::support::Who::Single, tell);
        }
    };
}

/// Runs a story as `who`, or skips it where this process can not become that user.
pub fn run_as(who: Who, story: fn(&TestEnv)) {
    if let Some(env) = TestEnv::new(who) {
        story(&env);
    }
}

/// Says that a test is skipped because `feature` is missing; fails if the feature is required.
pub fn skip(feature: &str, reason: &str) {
    let required = std::env::var("LAPSTRAKE_TEST_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|name| name == feature),
        "required feature {feature} is missing: {reason}"
    );
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    eprintln!("SKIP {feature}: {reason}");
    if let Ok(path) = std::env::var("LAPSTRAKE_TEST_SKIPS")
        && let Ok(mut file) = fs::OpenOptions::new().create(true).append(true).open(path)
    {
        let _ = writeln!(file, "SKIP {feature}: {reason} ({test})");
    }
}

/// Leaves the story unless the command is installed.
#[macro_export]
macro_rules! need_tool {
    ($($tool:expr),+) => {
        $(if $crate::support::which($tool).is_none() {
            $crate::support::skip($tool, "not installed");
            return;
        })+
    };
}

/// Leaves the story unless QEMU for the platforms of the base images is installed.
#[macro_export]
macro_rules! need_emulation {
    () => {
        need_tool!($crate::support::foreign_platform().1, "qemu-arm-static")
    };
}

/// Finds a command in the usual places.
pub fn which(name: &str) -> Option<PathBuf> {
    ["/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.is_file())
}

/// The directory of base images that `scripts/base-images` makes.
pub fn cache() -> PathBuf {
    if let Ok(dir) = std::env::var("LAPSTRAKE_TEST_CACHE") {
        return PathBuf::from(dir);
    }
    let root = PathBuf::from("/var/cache/lapstrake-test");
    if root.join("busybox/index.json").exists() {
        return root;
    }
    PathBuf::from(std::env::var("HOME").unwrap_or_default()).join(".cache/lapstrake-test")
}

/// An account of /etc/passwd.
#[derive(Clone, Copy, Debug)]
struct Account {
    uid: u32,
    gid: u32,
}

fn account(name: &str) -> Option<Account> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then_some(())?;
        Some(Account { uid: fields.nth(1)?.parse().ok()?, gid: fields.next()?.parse().ok()? })
    })
}

fn own_uid() -> u32 {
    // The owner of /proc/self is the effective user.
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").expect("/proc is mounted").uid()
}

fn has_subids(name: &str, uid: u32) -> bool {
    fs::read_to_string("/etc/subuid").unwrap_or_default().lines().any(|line| {
        let owner = line.split(':').next().unwrap_or_default();
        owner == name || owner == uid.to_string()
    })
}

/// The binary under test, at a path that every user can reach.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let built = std::env::var_os("LAPSTRAKE_TEST_BINARY")
            .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_lapstrake")), PathBuf::from);
        let reachable = built
            .ancestors()
            .skip(1)
            .all(|dir| fs::metadata(dir).is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0));
        if reachable {
            return built;
        }
        let meta = fs::metadata(&built).expect("the binary was built by cargo");
        let modified = meta.modified().expect("this platform has modification times");
        let stamp = modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let dir = std::env::temp_dir().join("lapstrake-test-bin");
        fs::create_dir_all(&dir).expect("the temporary directory is writable");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))
            .expect("the directory is ours");
        let copy = dir.join(format!("{stamp:x}-{:x}", meta.len()));
        if !copy.exists() {
            for old in fs::read_dir(&dir).expect("it was just made").flatten() {
                let _ = fs::remove_file(old.path());
            }
            let partial = dir.join(format!("partial-{}", std::process::id()));
            fs::copy(&built, &partial).expect("copying the binary");
            fs::set_permissions(&partial, fs::Permissions::from_mode(0o755)).expect("it is ours");
            fs::rename(&partial, &copy).expect("same directory");
        }
        copy
    })
}

/// A new temporary directory. Its name has small letters only: some tools take paths for image names.
fn new_directory() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("lapstrake-test-{}-{next}", std::process::id()));
        match fs::create_dir(&path) {
            Ok(()) => return path,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }
}

/// A place to build in: a home, a store, a context, and a user.
pub struct TestEnv {
    root: PathBuf,
    who: Who,
    account: Account,
}

impl TestEnv {
    /// Makes the directories, or says why this process can not run as `who`.
    pub fn new(who: Who) -> Option<Self> {
        let own = own_uid();
        let account = if own == 0 {
            let Some(account) = account(who.account()) else {
                skip(who.feature(), &format!("no user {}; scripts/test makes it", who.account()));
                return None;
            };
            if who == Who::User && !has_subids(who.account(), account.uid) {
                skip("user", &format!("{} has no range in /etc/subuid", who.account()));
                return None;
            }
            account
        } else {
            let name = std::env::var("USER").unwrap_or_default();
            let fits = match who {
                Who::Root => false,
                Who::User => has_subids(&name, own),
                Who::Single => !has_subids(&name, own),
            };
            if !fits {
                skip(
                    who.feature(),
                    "the tests do not run as root, so only the present user is tried",
                );
                return None;
            }
            account(&name)?
        };
        if !cache().join("busybox/index.json").exists() {
            skip("base-images", "no base image; scripts/base-images makes it");
            return None;
        }
        let root = new_directory();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).expect("it is ours");
        let env = TestEnv { root, who, account };
        env.own(&env.root);
        for dir in ["home", "context", "tmp"] {
            env.mkdir(dir);
        }
        Some(env)
    }

    /// As whom commands run.
    pub fn who(&self) -> Who {
        self.who
    }

    /// The name of the account that commands run as.
    pub fn who_name(&self) -> &'static str {
        self.who.account()
    }

    /// A path in this place.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    /// The store's directory.
    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    fn own(&self, path: &Path) {
        if own_uid() == 0 {
            chown(path, Some(self.account.uid), Some(self.account.gid)).expect("root may chown");
        }
    }

    /// Gives a directory that this process made, and the files in it, to the user.
    pub fn hand_over(&self, relative: impl AsRef<Path>) {
        let dir = self.path(relative);
        for entry in fs::read_dir(&dir).expect("it was made").flatten() {
            self.own(&entry.path());
        }
        self.own(&dir);
    }

    /// Makes a directory, and its parents, that the user owns.
    pub fn mkdir(&self, relative: impl AsRef<Path>) -> PathBuf {
        let mut path = self.root.clone();
        for part in relative.as_ref().components() {
            path.push(part);
            if !path.exists() {
                fs::create_dir(&path).expect("parents exist");
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
                self.own(&path);
            }
        }
        path
    }

    /// Writes a file (mode 0644) and its parents; `relative` is below this place's root.
    pub fn write_at(&self, relative: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let relative = relative.as_ref();
        if let Some(parent) = relative.parent() {
            self.mkdir(parent);
        }
        let path = self.root.join(relative);
        fs::write(&path, content).expect("parents exist");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("it is ours");
        self.own(&path);
        path
    }

    /// Writes a file of the context.
    pub fn write(&self, relative: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        self.write_at(Path::new("context").join(relative), content)
    }

    /// Writes an executable file of the context.
    pub fn write_mode(
        &self,
        relative: impl AsRef<Path>,
        content: impl AsRef<[u8]>,
        mode: u32,
    ) -> PathBuf {
        let path = self.write(relative, content);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it is ours");
        path
    }

    /// Makes a symbolic link in the context.
    pub fn link(&self, target: &str, relative: impl AsRef<Path>) -> PathBuf {
        let relative = Path::new("context").join(relative);
        if let Some(parent) = relative.parent() {
            self.mkdir(parent);
        }
        let path = self.root.join(relative);
        symlink(target, &path).expect("parents exist");
        path
    }

    /// Writes the context's Dockerfile.
    pub fn dockerfile(&self, text: &str) -> &Self {
        self.write("Dockerfile", text);
        self
    }

    /// The context's path.
    pub fn context(&self) -> PathBuf {
        self.path("context")
    }

    /// A command that runs as this story's user with a clean environment.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Run {
        let mut command = Command::new(program.as_ref());
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("HOME", self.path("home"))
            .env("USER", self.who.account())
            .env("TMPDIR", self.path("tmp"))
            .env("LAPSTRAKE_ROOT", self.store())
            .env("LC_ALL", "C.UTF-8")
            .env("RUST_BACKTRACE", "1")
            .current_dir(&self.root)
            .stdin(Stdio::null());
        if own_uid() == 0 && self.who != Who::Root {
            // Changing the uid in the child makes std drop the supplementary groups too.
            command.uid(self.account.uid).gid(self.account.gid);
        }
        Run { command, input: None, root: self.root.clone() }
    }

    /// lapstrake with these arguments.
    pub fn lapstrake<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Run {
        let mut run = self.command(binary());
        run.command.args(args);
        run
    }

    /// `lapstrake build` of the context with the base images as the named contexts `base` (busybox).
    pub fn build_command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Run {
        let base = format!("base=oci-layout://{}:latest", cache().join("busybox").display());
        // The context stands first, so that stories may add options at the end.
        let mut run = self.lapstrake(["build"]);
        run.command.arg(self.context()).args(["--build-context", &base]).args(args);
        run
    }

    /// Builds the context into a fresh OCI layout, which is read back and validated.
    pub fn build<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Layout {
        self.build_into("out", args)
    }

    /// As [`TestEnv::build`], into the directory `name`.
    pub fn build_into<A: AsRef<OsStr>>(
        &self,
        name: &str,
        args: impl IntoIterator<Item = A>,
    ) -> Layout {
        let out = self.path(name);
        // The reader finds fault with blobs of an earlier build.
        let _ = fs::remove_dir_all(&out);
        let args: Vec<_> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        self.build_command(args).args(["-o".as_ref(), out.as_os_str()]).ok();
        Layout::open(&out)
    }

    /// Builds this Dockerfile and gives the image of the only platform.
    pub fn image(&self, dockerfile: &str) -> layout::Image {
        self.dockerfile(dockerfile);
        self.build([] as [&str; 0]).only()
    }

    /// Builds, expecting this exit code, and gives what stands on stderr.
    pub fn build_fails(&self, code: i32, dockerfile: &str) -> String {
        self.dockerfile(dockerfile);
        let out = self.path("failed-out");
        let text = self.build_command(["-o".as_ref(), out.as_os_str()]).fails(code).stderr;
        assert!(!out.exists(), "a failed build left an output:\n{text}");
        text
    }
}

impl Drop for TestEnv {
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os("LAPSTRAKE_TEST_KEEP").is_some() {
            eprintln!("kept {}", self.root.display());
            return;
        }
        if fs::remove_dir_all(&self.root).is_err() {
            // Files of subordinate ids, or directories without write permission.
            let _ = Command::new("unshare")
                .args(["--user", "--map-root-user", "--map-auto", "rm", "-rf"])
                .arg(&self.root)
                .status();
        }
    }
}

/// A command about to run.
pub struct Run {
    command: Command,
    input: Option<Vec<u8>>,
    root: PathBuf,
}

impl Run {
    /// Adds arguments. lapstrake takes options after its positional ones too.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets the working directory.
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Feeds stdin.
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// Runs it under `sh -c 'PRELUDE; exec "$@"'`, for what only a shell can set (umask, ulimit).
    pub fn under(self, prelude: &str) -> Self {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("{prelude}; exec \"$@\"")).arg("sh");
        self.wrapped(shell)
    }

    /// Runs it as the last arguments of another command.
    pub fn wrapped(self, mut outer: Command) -> Self {
        outer.arg(self.command.get_program()).args(self.command.get_args());
        outer.env_clear();
        for (name, value) in self.command.get_envs() {
            if let Some(value) = value {
                outer.env(name, value);
            }
        }
        if let Some(dir) = self.command.get_current_dir() {
            outer.current_dir(dir);
        }
        outer.stdin(Stdio::null());
        // The user of the inner command is not readable from a Command, so it is taken from the directory's owner.
        use std::os::unix::fs::MetadataExt;
        if own_uid() == 0
            && let Ok(meta) = fs::metadata(&self.root)
            && meta.uid() != 0
        {
            outer.uid(meta.uid()).gid(meta.gid());
        }
        Run { command: outer, input: self.input, root: self.root }
    }

    /// The command as a line for a shell. No argument of these stories has a quote in it.
    pub fn line(&self) -> String {
        let words = std::iter::once(self.command.get_program()).chain(self.command.get_args());
        words.map(|word| format!("'{}'", word.to_string_lossy())).collect::<Vec<_>>().join(" ")
    }

    /// The command itself, for what this type has no method for.
    pub fn command_mut(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Starts it and returns at once; its output goes to files in the environment's tmp directory.
    pub fn spawn(mut self) -> Child {
        let log = fs::File::create(self.root.join("tmp/spawned.log")).expect("tmp exists");
        self.command
            .stdout(Stdio::null())
            .stderr(Stdio::from(log))
            .spawn()
            .expect("the command starts")
    }

    /// Runs it to the end.
    pub fn output(mut self) -> Output {
        let shown = format!("{:?}", self.command);
        if self.input.is_some() {
            self.command.stdin(Stdio::piped());
        }
        let mut child = self
            .command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{shown}: {error}"));
        let feeder = self.input.map(|input| {
            let mut stdin = child.stdin.take().expect("it is piped");
            std::thread::spawn(move || {
                let _ = stdin.write_all(&input);
            })
        });
        let output = child.wait_with_output().expect("it was started");
        if let Some(feeder) = feeder {
            feeder.join().expect("the feeder does not panic");
        }
        Output {
            command: shown,
            code: output.status.code(),
            signal: output.status.signal(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            root: self.root,
        }
    }

    /// Runs it and expects success.
    #[track_caller]
    pub fn ok(self) -> Output {
        self.fails(0)
    }

    /// Runs it and expects this exit code.
    #[track_caller]
    pub fn fails(self, code: i32) -> Output {
        let output = self.output();
        assert_eq!(
            output.code,
            Some(code),
            "{}\nsignal {:?}\nstdout:\n{}\nstderr:\n{}",
            output.command,
            output.signal,
            output.stdout,
            output.stderr
        );
        output
    }
}

/// What a command left.
pub struct Output {
    /// How it was called.
    pub command: String,
    /// Its exit code, unless a signal killed it.
    pub code: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    root: PathBuf,
}

impl Output {
    /// stderr with paths, digests and times replaced by names, for comparing.
    pub fn normalised(&self) -> String {
        normalise(&self.stderr, &self.root)
    }

    /// Panics unless stderr holds this text.
    #[track_caller]
    pub fn says(&self, text: &str) -> &Self {
        assert!(
            self.stderr.contains(text),
            "{}\nexpected on stderr: {text}\nstderr:\n{}",
            self.command,
            self.stderr
        );
        self
    }

    /// Panics if stderr holds this text.
    #[track_caller]
    pub fn says_not(&self, text: &str) -> &Self {
        assert!(
            !self.stderr.contains(text),
            "{}\nunexpected on stderr: {text}\nstderr:\n{}",
            self.command,
            self.stderr
        );
        self
    }
}

/// Replaces `root` by `$ROOT`, every sha256 by `[1]`, `[2]` in order of appearance, and durations by `[time]`.
pub fn normalise(text: &str, root: &Path) -> String {
    let text = text.replace(&root.display().to_string(), "$ROOT");
    let mut known: Vec<String> = Vec::new();
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find("sha256:") {
        let (before, tail) = rest.split_at(at + 7);
        let hex: String = tail.chars().take_while(char::is_ascii_hexdigit).collect();
        out.push_str(&before[..before.len() - 7]);
        if hex.len() < 12 {
            out.push_str("sha256:");
            rest = tail;
            continue;
        }
        let index = known.iter().position(|old| *old == hex).unwrap_or_else(|| {
            known.push(hex.clone());
            known.len() - 1
        });
        out.push_str(&format!("[{}]", index + 1));
        rest = &tail[hex.len()..];
    }
    out.push_str(rest);
    out
}

/// The platform of this machine, as `--platform` takes it.
pub fn host_platform() -> &'static str {
    if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" }
}

/// A platform whose programs need an emulator here, and the name of that emulator.
pub fn foreign_platform() -> (&'static str, &'static str) {
    if cfg!(target_arch = "aarch64") {
        ("linux/amd64", "qemu-x86_64-static")
    } else {
        ("linux/arm64", "qemu-aarch64-static")
    }
}
