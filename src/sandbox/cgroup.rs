//! Control groups (v2) of steps: `--cgroup-parent`, and limits of memory and processors.
//!
//! A step gets a group of its own below the parent: the one that the user names, else the one in
//! which the builder runs. Limits need controllers that the parent hands down. As a group that holds
//! processes can't hand any down, the builder moves itself into a group beside those of its steps.
//! All of this works without root where the parent is delegated to the user, as
//! `systemd-run --user --scope -p Delegate=yes` does it; elsewhere it is an error that says so, since
//! a limit that does not hold is worse than none.
//!
//! Files and their formats: Linux `Documentation/admin-guide/cgroup-v2.rst`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What a step may use. None of it is part of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of memory and swap together; None of swap alone is unlimited: `Some(None)`.
    pub memory_swap: Option<Option<u64>>,
    /// Microseconds of processor time in a period.
    pub cpu_quota: Option<u64>,
    /// Microseconds of a period; 100,000 by default.
    pub cpu_period: Option<u64>,
    /// Relative weight, 2 to 262,144; 1,024 by default.
    pub cpu_shares: Option<u64>,
    /// Processors, as `0-3,7`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, as `0,1`.
    pub cpuset_mems: Option<String>,
}

impl Resources {
    /// Says whether anything is limited.
    pub fn is_empty(&self) -> bool {
        *self == Resources::default()
    }

    /// Gives the files of a group and what is written to them, by controller.
    fn settings(&self) -> Vec<(&'static str, &'static str, String)> {
        let mut out = Vec::new();
        if let Some(bytes) = self.memory {
            out.push(("memory", "memory.max", bytes.to_string()));
        }
        if let Some(swap) = self.memory_swap {
            // The kernel limits swap alone.
            let text = match swap {
                None => "max".to_owned(),
                Some(both) => both.saturating_sub(self.memory.unwrap_or(0)).to_string(),
            };
            out.push(("memory", "memory.swap.max", text));
        }
        if self.cpu_quota.is_some() || self.cpu_period.is_some() {
            let quota = self.cpu_quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
            let text = format!("{quota} {}", self.cpu_period.unwrap_or(100_000));
            out.push(("cpu", "cpu.max", text));
        }
        if let Some(shares) = self.cpu_shares {
            // As OCI runtimes convert it: 2…262,144 becomes 1…10,000.
            let weight = 1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142;
            out.push(("cpu", "cpu.weight", weight.to_string()));
        }
        if let Some(cpus) = &self.cpuset_cpus {
            out.push(("cpuset", "cpuset.cpus", cpus.clone()));
        }
        if let Some(mems) = &self.cpuset_mems {
            out.push(("cpuset", "cpuset.mems", mems.clone()));
        }
        out
    }
}

/// Why steps can't have groups or limits.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No cgroup v2.
    #[error("this host has no cgroup v2 at hand: {reason}")]
    None {
        /// What was looked for.
        reason: String,
    },
    /// The parent does not have, or does not hand down, what limits need.
    #[error("the control group {path} can't limit {controllers}: {reason}")]
    NotDelegated {
        /// The parent.
        path: String,
        /// `memory`, `cpu`, `cpuset`.
        controllers: String,
        /// Why.
        reason: String,
    },
    /// A name that is none.
    #[error("--cgroup-parent {name}: {reason}")]
    Name {
        /// As given.
        name: String,
        /// Why.
        reason: String,
    },
    /// A file of the control group could not be written.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    /// Gives what the user can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Error::Name { .. } => {
                "name it as /path/of/group from the root of the hierarchy, or as name.slice"
            }
            _ => {
                "start it in a group of its own: systemd-run --user --scope -p Delegate=yes \
                 lapstrake build …"
            }
        }
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| Error::Io { path: path.display().to_string(), source }
}

/// Where the groups of steps are made.
#[derive(Debug)]
pub struct Cgroups {
    parent: PathBuf,
    resources: Resources,
    next: AtomicU32,
    /// Where this process was before it made room.
    left: Option<(PathBuf, PathBuf)>,
}

impl Cgroups {
    /// Finds the parent and sees to it that its groups can be limited. None when nothing is asked for.
    pub fn open(parent: Option<&str>, resources: &Resources) -> Result<Option<Cgroups>, Error> {
        if parent.is_none() && resources.is_empty() {
            return Ok(None);
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let root = mount_of(&mounts).ok_or_else(|| Error::None {
            reason: "no file system of the type cgroup2 is mounted".into(),
        })?;
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
        Cgroups::below(&root, own, parent, resources).map(Some)
    }

    /// As [`Cgroups::open`], with the mounted hierarchy and the group of this process given.
    fn below(
        root: &Path,
        own: &str,
        parent: Option<&str>,
        resources: &Resources,
    ) -> Result<Cgroups, Error> {
        let own_path = root.join(own.trim_start_matches('/'));
        let path = match parent {
            None => own_path.clone(),
            Some(name) => root.join(place_of(name, own)?.trim_start_matches('/')),
        };
        if !path.is_dir() {
            fs::create_dir_all(&path).map_err(at(&path))?;
        }
        let wanted: BTreeSet<&str> =
            resources.settings().into_iter().map(|(controller, ..)| controller).collect();
        let mut out =
            Cgroups { parent: path, resources: resources.clone(), next: 0.into(), left: None };
        if !wanted.is_empty() {
            out.hand_down(&wanted, &own_path)?;
        }
        Ok(out)
    }

    fn hand_down(&mut self, wanted: &BTreeSet<&str>, own: &Path) -> Result<(), Error> {
        let read = |name: &str| -> BTreeSet<String> {
            let text = fs::read_to_string(self.parent.join(name)).unwrap_or_default();
            text.split_whitespace().map(str::to_owned).collect()
        };
        let has = read("cgroup.controllers");
        let fail = |missing: Vec<&str>, reason: String| Error::NotDelegated {
            path: self.parent.display().to_string(),
            controllers: missing.join(" and "),
            reason,
        };
        let missing: Vec<&str> =
            wanted.iter().copied().filter(|name| !has.contains(*name)).collect();
        if !missing.is_empty() {
            let reason = "its parent does not hand the controller down, or it is of cgroup v1 here";
            return Err(fail(missing, reason.into()));
        }
        let given = read("cgroup.subtree_control");
        let missing: Vec<&str> =
            wanted.iter().copied().filter(|name| !given.contains(*name)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let text: Vec<String> = missing.iter().map(|name| format!("+{name}")).collect();
        let text = text.join(" ");
        let file = self.parent.join("cgroup.subtree_control");
        let mut result = fs::write(&file, &text);
        if result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy)
            && self.parent == own
        {
            // A group with processes hands nothing down: make room.
            let aside = own.join(format!("lapstrake-{}", std::process::id()));
            fs::create_dir(&aside).map_err(at(&aside))?;
            let procs = aside.join("cgroup.procs");
            fs::write(&procs, "0").map_err(at(&procs))?;
            self.left = Some((own.to_owned(), aside));
            result = fs::write(&file, &text);
        }
        result.map_err(|error| fail(missing, error.to_string()))
    }

    /// Makes the group of one step.
    pub fn step(&self) -> Result<Cgroup, Error> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.parent.join(format!("lapstrake-{}-{number}", std::process::id()));
        fs::create_dir(&path).map_err(at(&path))?;
        let group = Cgroup { path };
        for (_, file, text) in self.resources.settings() {
            let file = group.path.join(file);
            fs::write(&file, text).map_err(at(&file))?;
        }
        Ok(group)
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        if let Some((own, aside)) = &self.left {
            // Handing down must end before processes may come back. What fails leaves this process
            // where it is, which ends soon.
            let given = fs::read_to_string(own.join("cgroup.subtree_control")).unwrap_or_default();
            let text: Vec<String> =
                given.split_whitespace().map(|name| format!("-{name}")).collect();
            let _ = fs::write(own.join("cgroup.subtree_control"), text.join(" "));
            let _ = fs::write(own.join("cgroup.procs"), "0");
            let _ = fs::remove_dir(aside);
        }
    }
}

/// The group of one step; dropping it ends what is in it, and removes it.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Gives its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Says whether the kernel killed something in it for want of memory.
    pub fn ran_out_of_memory(&self) -> bool {
        let text = fs::read_to_string(self.path.join("memory.events")).unwrap_or_default();
        text.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count != "0"))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Processes that ended may be counted for a moment yet.
        let started = Instant::now();
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
        while fs::remove_dir(&self.path).is_err_and(|error| {
            error.kind() == io::ErrorKind::ResourceBusy
                && started.elapsed() < Duration::from_secs(2)
        }) {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Finds where the v2 hierarchy is mounted, in the text of `/proc/self/mountinfo`.
fn mount_of(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        (after.split(' ').next()? == "cgroup2")
            .then(|| before.split(' ').nth(4))?
            .map(PathBuf::from)
    })
}

/// Gives the path of a parent by its name: a path, or a slice of systemd, whose place its name says
/// (`a-b.slice` is `a.slice/a-b.slice`): below the user's own manager where there is one.
fn place_of(name: &str, own: &str) -> Result<String, Error> {
    let bad = |reason: &str| Error::Name { name: name.to_owned(), reason: reason.to_owned() };
    if name.split('/').any(|part| part == "..") || name.contains('\0') {
        return Err(bad("this is no path of a control group"));
    }
    if name.starts_with('/') {
        return Ok(name.to_owned());
    }
    let Some(stem) = name.strip_suffix(".slice").filter(|stem| !stem.contains('/')) else {
        return Err(bad("this is neither an absolute path nor a slice"));
    };
    if stem.is_empty() || stem.split('-').any(str::is_empty) {
        return Err(bad("this is no name of a slice"));
    }
    let mut path = String::new();
    for part in own.split('/').filter(|part| !part.is_empty()) {
        path.push('/');
        path.push_str(part);
        if part.starts_with("user@") && part.ends_with(".service") {
            break;
        }
    }
    if !path.ends_with(".service") || !path.contains("/user@") {
        path.clear();
    }
    let mut whole = String::new();
    for part in stem.split('-') {
        if !whole.is_empty() {
            whole.push('-');
        }
        whole.push_str(part);
        path.push_str(&format!("/{whole}.slice"));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_have_places() {
        let user = "/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope";
        for (name, own, wanted) in [
            ("/a/b", "/", "/a/b"),
            ("build.slice", "/system.slice/x.service", "/build.slice"),
            ("a-b.slice", "/", "/a.slice/a-b.slice"),
            ("b.slice", user, "/user.slice/user-1000.slice/user@1000.service/b.slice"),
        ] {
            assert_eq!(place_of(name, own).expect(name), wanted);
        }
        for name in ["a", "a/b", "/a/../b", ".slice", "a--b.slice", "a/b.slice"] {
            assert!(place_of(name, "/").is_err(), "{name}");
        }
    }

    #[test]
    fn the_hierarchy_is_found_beside_older_ones() {
        let text = "30 29 0:26 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n\
                    31 29 0:27 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_of(text), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mount_of("1 1 0:1 / /cgroup2 rw - ext4 /dev/x rw\n"), None);
    }

    #[test]
    fn limits_become_files() {
        let resources = Resources {
            memory: Some(1 << 20),
            memory_swap: Some(Some(3 << 20)),
            cpu_quota: Some(50_000),
            cpu_period: None,
            cpu_shares: Some(1024),
            cpuset_cpus: Some("0-1".into()),
            cpuset_mems: None,
        };
        let wanted = [
            ("memory", "memory.max", "1048576"),
            ("memory", "memory.swap.max", "2097152"),
            ("cpu", "cpu.max", "50000 100000"),
            ("cpu", "cpu.weight", "39"),
            ("cpuset", "cpuset.cpus", "0-1"),
        ];
        let found = resources.settings();
        assert_eq!(found.len(), wanted.len());
        for ((controller, file, text), wanted) in found.iter().zip(wanted) {
            assert_eq!((*controller, *file, text.as_str()), wanted);
        }
        let unlimited = Resources { memory_swap: Some(None), ..Resources::default() };
        assert_eq!(unlimited.settings()[0].2, "max");
    }

    /// A directory stands in for the file system: what is written where is what counts.
    #[test]
    fn controllers_must_be_handed_down() {
        let dir = tempfile::tempdir().expect("a directory");
        let own = dir.path().join("user/scope");
        fs::create_dir_all(&own).expect("made");
        let limits = Resources { memory: Some(4096), cpu_quota: Some(1), ..Default::default() };
        let open = |limits: &Resources| Cgroups::below(dir.path(), "/user/scope", None, limits);
        fs::write(own.join("cgroup.controllers"), "memory pids\n").expect("written");
        fs::write(own.join("cgroup.subtree_control"), "").expect("written");
        let error = open(&limits).expect_err("no cpu").to_string();
        assert!(error.contains("can't limit cpu"), "{error}");
        fs::write(own.join("cgroup.controllers"), "cpu memory pids\n").expect("written");
        let groups = open(&limits).expect("all there");
        let given = fs::read_to_string(own.join("cgroup.subtree_control")).expect("there");
        assert_eq!(given, "+cpu +memory");
        let group = groups.step().expect("made");
        let read = |name: &str| fs::read_to_string(group.path().join(name)).unwrap_or_default();
        assert_eq!((read("memory.max").as_str(), read("cpu.max").as_str()), ("4096", "1 100000"));
        assert!(!group.ran_out_of_memory());
        fs::write(group.path().join("memory.events"), "oom 1\noom_kill 1\n").expect("written");
        assert!(group.ran_out_of_memory());
    }
}
