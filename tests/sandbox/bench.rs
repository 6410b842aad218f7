//! What the cases share: a session, a root of busybox, and runs in it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use lapstrake::sandbox::{
    Cancel, Error, Options, RunOutcome, RunSpec, Rung, Session, Status, Stream,
};

/// Why a case cannot be run here.
pub struct Skip(pub String);

/// What a case gives.
pub type Done = Result<(), Skip>;

/// A session and a directory to work in.
pub struct Bench {
    pub session: Session,
    pub dir: tempfile::TempDir,
    lower: PathBuf,
    count: AtomicU32,
}

/// What a run gave.
#[derive(Debug)]
pub struct Ran {
    pub outcome: RunOutcome,
    pub out: String,
    pub err: String,
    pub upper: PathBuf,
}

impl Ran {
    /// Asserts success, and gives what it wrote.
    #[track_caller]
    pub fn ok(&self) -> &str {
        assert_eq!(self.outcome.status, Status::Exited(0), "{} {}", self.out, self.err);
        self.out.trim_end()
    }
}

/// Gives the user that this process runs as.
pub fn euid() -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").map_or(0, |m| m.uid())
}

/// Gives the directories of PATH, and those where tools for the administrator are.
pub fn path() -> Vec<PathBuf> {
    ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(PathBuf::from).to_vec()
}

impl Bench {
    /// Enters a session; a host without user namespaces skips.
    pub fn new() -> Result<Bench, Skip> {
        Bench::with(&Options { path: path(), ..Options::default() })
    }

    /// Enters a session with these options.
    pub fn with(options: &Options) -> Result<Bench, Skip> {
        let session = Session::enter(options).map_err(|e| Skip(format!("{e} {:?}", e.hint())))?;
        for note in session.notes() {
            eprintln!("note: {note}");
        }
        let dir = tempfile::tempdir().expect("tempdir");
        let lower = dir.path().join("lower");
        busybox_root(&lower)?;
        Ok(Bench { session, dir, lower, count: AtomicU32::new(0) })
    }

    /// Makes a directory of its own.
    pub fn fresh(&self, name: &str) -> PathBuf {
        let n = self.count.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.path().join(format!("{n}-{name}"));
        std::fs::create_dir(&path).expect("mkdir");
        path
    }

    /// Gives the directory of the busybox root.
    pub fn lower(&self) -> &Path {
        &self.lower
    }

    /// Makes the spec of a shell script.
    pub fn spec(&self, script: &str) -> RunSpec {
        RunSpec::new(
            vec![self.lower.clone()],
            self.fresh("upper"),
            self.fresh("work"),
            ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        )
    }

    /// Runs a spec.
    pub fn try_run(&self, spec: &RunSpec) -> Result<Ran, Error> {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let cancel = Cancel::new()?;
        let outcome = self.session.run(
            spec,
            &(),
            &mut |stream, bytes| match stream {
                Stream::Stdout => out.extend_from_slice(bytes),
                Stream::Stderr => err.extend_from_slice(bytes),
            },
            &cancel,
        )?;
        Ok(Ran {
            outcome,
            out: String::from_utf8_lossy(&out).into_owned(),
            err: String::from_utf8_lossy(&err).into_owned(),
            upper: spec.upper.clone(),
        })
    }

    /// Runs a spec that must get to its program.
    #[track_caller]
    pub fn run_spec(&self, spec: &RunSpec) -> Ran {
        match self.try_run(spec) {
            Ok(ran) => ran,
            Err(e) => panic!("{e}: {:?}", std::error::Error::source(&e).map(ToString::to_string)),
        }
    }

    /// Runs a shell script as root.
    #[track_caller]
    pub fn sh(&self, script: &str) -> Ran {
        self.run_spec(&self.spec(script))
    }

    /// Says whether owners other than 0 exist here.
    pub fn has_range(&self) -> bool {
        self.session.rung() != Rung::UsernsSingle
    }
}

/// Makes a root of one static busybox.
pub fn busybox_root(dir: &Path) -> Result<(), Skip> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new);
    let busybox = busybox.iter().find(|p| p.exists()).ok_or(Skip("no busybox".into()))?;
    for sub in ["bin", "etc", "proc", "sys", "dev", "tmp", "home", "root", "usr/bin"] {
        std::fs::create_dir_all(dir.join(sub)).expect("mkdir");
    }
    std::fs::copy(busybox, dir.join("bin/busybox")).expect("copy busybox");
    let list = std::process::Command::new(busybox).arg("--list").output().expect("busybox --list");
    for name in String::from_utf8_lossy(&list.stdout).lines().filter(|n| *n != "busybox") {
        std::os::unix::fs::symlink("busybox", dir.join("bin").join(name)).expect("symlink");
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\n";
    std::fs::write(dir.join("etc/passwd"), passwd).expect("write");
    let group = "root:x:0:\nwheel:x:10:root,app\napp:x:1001:\nextra:x:99:app\n";
    std::fs::write(dir.join("etc/group"), group).expect("write");
    Ok(())
}
