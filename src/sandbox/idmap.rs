//! Which ids the session's user namespace gets, and writing that to the kernel.
//!
//! * Root (in whatever namespace this process is): all ids it has, each as itself; the kernel lets
//!   it write the map, no helper is needed.
//! * A user with ranges in /etc/subuid and /etc/subgid: itself as 0, the ranges from 1 on, written
//!   by newuidmap and newgidmap, which are privileged and check the ranges.
//! * Anybody else: itself as 0 and nothing more.
//!
//! The writing process must stay outside of the new namespace; so a helper is forked before.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Error, IdMap, IdRange};
use crate::sys::{self, cred, mem, process};

/// How a map is going to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// By this process's own privilege.
    Direct(IdMap),
    /// By newuidmap and newgidmap.
    Programs { map: IdMap, newuidmap: PathBuf, newgidmap: PathBuf },
    /// By anybody: one id. `reason` tells why no more.
    Single { map: IdMap, reason: String, hint: String },
}

/// Finds out what map this process can have.
pub(super) fn plan(options: &super::Options) -> Plan {
    let (uid, gid) = (cred::euid(), cred::egid());
    let single = |reason: String, hint: String| Plan::Single {
        map: IdMap {
            uids: vec![IdRange { inside: 0, outside: uid, count: 1 }],
            gids: vec![IdRange { inside: 0, outside: gid, count: 1 }],
        },
        reason,
        hint,
    };
    if options.isolation == super::Isolation::UsernsSingle {
        return single("asked for".into(), String::new());
    }
    if uid == 0 && cred::has_capability(cred::CAP_SETUID) {
        return match cred::current_id_map() {
            Ok(map) => Plan::Direct(identity(&map)),
            Err(e) => single(format!("/proc/self/uid_map: {e}"), "mount /proc".into()),
        };
    }
    let name = account_name(uid).or_else(|| options.user_name.clone());
    let shown = name.clone().unwrap_or_else(|| uid.to_string());
    let read = |file: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        sub_ids(&text, name.as_deref(), uid)
    };
    let (sub_uids, sub_gids) = (read("/etc/subuid"), read("/etc/subgid"));
    for (ranges, file) in [(&sub_uids, "/etc/subuid"), (&sub_gids, "/etc/subgid")] {
        if ranges.is_empty() {
            return single(
                format!("{file} has no range for {shown}"),
                format!(
                    "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {shown}"
                ),
            );
        }
    }
    let program = |name: &str| options.path.iter().map(|d| d.join(name)).find(|p| p.is_file());
    let (Some(newuidmap), Some(newgidmap)) = (program("newuidmap"), program("newgidmap")) else {
        return single(
            "newuidmap and newgidmap are not installed".into(),
            "sudo apt-get install uidmap (Fedora: sudo dnf install shadow-utils-subid)".into(),
        );
    };
    let map = IdMap { uids: with_ranges(uid, &sub_uids), gids: with_ranges(gid, &sub_gids) };
    Plan::Programs { map, newuidmap, newgidmap }
}

/// Maps each id that a namespace has to itself.
fn identity(map: &IdMap) -> IdMap {
    let same = |ranges: &[IdRange]| -> Vec<IdRange> {
        ranges.iter().map(|r| IdRange { outside: r.inside, ..*r }).collect()
    };
    IdMap { uids: same(&map.uids), gids: same(&map.gids) }
}

/// Gives the map of the first id of a map only, which is the caller's.
pub(super) fn first_id(map: &IdMap) -> IdMap {
    let first = |ranges: &[IdRange]| -> Vec<IdRange> {
        ranges.iter().filter(|r| r.inside == 0).map(|r| IdRange { count: 1, ..*r }).collect()
    };
    IdMap { uids: first(&map.uids), gids: first(&map.gids) }
}

/// Maps an id to 0, and ranges (first, count) after it from 1 on.
fn with_ranges(id: u32, ranges: &[(u32, u32)]) -> Vec<IdRange> {
    let mut out = vec![IdRange { inside: 0, outside: id, count: 1 }];
    let mut next: u32 = 1;
    // 340 is how many lines the kernel takes (UID_GID_MAP_MAX_EXTENTS).
    for &(first, count) in ranges.iter().take(339) {
        let count = count.min(u32::MAX - next);
        if count > 0 {
            out.push(IdRange { inside: next, outside: first, count });
            next += count;
        }
    }
    out
}

/// Reads the ranges of a user, by name or number, from a file like /etc/subuid.
fn sub_ids(text: &str, name: Option<&str>, uid: u32) -> Vec<(u32, u32)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let who = fields.next()?;
            let first: u32 = fields.next()?.parse().ok()?;
            let count: u32 = fields.next()?.parse().ok()?;
            (Some(who) == name || who.parse() == Ok(uid)).then_some((first, count))
        })
        .filter(|&(first, count)| count > 0 && first.checked_add(count).is_some())
        .collect()
}

fn account_name(uid: u32) -> Option<String> {
    let text = std::fs::read_to_string("/etc/passwd").ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// A forked process that waits outside of the namespace to write its map.
pub(super) struct Writer {
    child: process::Child,
    go: File,
    answer: File,
}

impl Writer {
    /// Forks it; `plan` must not be [`Plan::Single`], which needs none.
    pub(super) fn start(plan: &Plan) -> Result<Writer, sys::Error> {
        let (mut wait, go) = mem::pipe()?;
        let (answer, mut tell) = mem::pipe()?;
        let target = std::process::id();
        let go_number = std::os::fd::AsRawFd::as_raw_fd(&go);
        let plan = plan.clone();
        let child = process::fork(cred::Namespaces::NONE, move || {
            // Our copy of the writing end: without closing it, the end of the parent is not seen.
            drop(process::inherited_fd(go_number));
            let mut byte = [0u8];
            if wait.read(&mut byte).unwrap_or(0) == 0 {
                return 1;
            }
            let text = match write_from_outside(&plan, target) {
                Ok(()) => "ok".to_owned(),
                Err(reason) => reason,
            };
            u8::from(tell.write_all(text.as_bytes()).is_err())
        })?;
        Ok(Writer { child, go, answer })
    }

    /// Lets it write the map of this process; gives why it could not.
    pub(super) fn write(mut self) -> Result<(), String> {
        let mut text = String::new();
        let told = self.go.write_all(b"g").and_then(|()| {
            drop(self.go);
            self.answer.read_to_string(&mut text)
        });
        let _ = self.child.wait();
        match told {
            Ok(_) if text == "ok" => Ok(()),
            Ok(_) if text.is_empty() => Err("the helper process died".into()),
            Ok(_) => Err(text),
            Err(e) => Err(e.to_string()),
        }
    }

    /// Ends it without use.
    pub(super) fn dismiss(self) {
        drop(self.go);
        let _ = self.child.wait();
    }
}

/// Writes the map of process `target`, from outside of its namespace.
fn write_from_outside(plan: &Plan, target: u32) -> Result<(), String> {
    match plan {
        Plan::Direct(map) => {
            for (name, ranges) in [("uid_map", &map.uids), ("gid_map", &map.gids)] {
                let path = format!("/proc/{target}/{name}");
                write_once(Path::new(&path), &lines(ranges))?;
            }
            Ok(())
        }
        Plan::Programs { map, newuidmap, newgidmap } => {
            for (program, ranges) in [(newuidmap, &map.uids), (newgidmap, &map.gids)] {
                let mut command = Command::new(program);
                command.arg(target.to_string());
                for r in ranges {
                    command.args([r.inside, r.outside, r.count].map(|n| n.to_string()));
                }
                let output = command.output().map_err(|e| format!("{}: {e}", program.display()))?;
                if !output.status.success() {
                    let text = String::from_utf8_lossy(&output.stderr);
                    return Err(format!("{}: {}", program.display(), text.trim()));
                }
            }
            Ok(())
        }
        Plan::Single { map, .. } => write_single(map),
    }
}

/// Maps the one id of this process, from inside of the new namespace.
pub(super) fn write_single(map: &IdMap) -> Result<(), String> {
    // The kernel wants this before an unprivileged gid_map: a group may be there to deny access
    // (user_namespaces(7)).
    write_once(Path::new("/proc/self/setgroups"), "deny")?;
    write_once(Path::new("/proc/self/uid_map"), &lines(&map.uids))?;
    write_once(Path::new("/proc/self/gid_map"), &lines(&map.gids))
}

fn lines(ranges: &[IdRange]) -> String {
    ranges.iter().map(|r| format!("{} {} {}\n", r.inside, r.outside, r.count)).collect()
}

/// Writes a whole map with one write, as the kernel demands.
fn write_once(path: &Path, text: &str) -> Result<(), String> {
    let write = || File::options().write(true).open(path)?.write_all(text.as_bytes());
    write().map_err(|e| format!("write {}: {e}", path.display()))
}

/// Names the caller.
pub(super) fn who() -> String {
    let uid = cred::euid();
    account_name(uid).unwrap_or_else(|| format!("user {uid}"))
}

/// Explains why no user namespace can be had, by what the host's settings say.
pub(super) fn explain_no_userns(error: &sys::Error) -> Error {
    let (why, hint) = why_no_userns();
    Error::NoUserNamespace { who: who(), reason: format!("{}{why}", error.one_line()), hint }
}

/// Reads the settings that forbid user namespaces: (explanation, command that mends it).
pub(super) fn why_no_userns() -> (String, String) {
    let setting = |path: &str| std::fs::read_to_string(path).ok().map(|s| s.trim().to_owned());
    let cases: [(&str, &str, &str); 3] = [
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        (
            "/proc/sys/kernel/unprivileged_userns_clone",
            "0",
            "sudo sysctl -w kernel.unprivileged_userns_clone=1",
        ),
        (
            "/proc/sys/user/max_user_namespaces",
            "0",
            "sudo sysctl -w user.max_user_namespaces=15000",
        ),
    ];
    for (path, forbids, mend) in cases {
        if setting(path).as_deref() == Some(forbids) {
            return (format!(" ({path} is {forbids})"), mend.to_owned());
        }
    }
    let filtered = setting("/proc/self/status")
        .is_some_and(|s| s.lines().any(|l| l.split_ascii_whitespace().eq(["Seccomp:", "2"])));
    if filtered {
        return (
            " (a seccomp filter is active, as in a Docker or Kubernetes container)".into(),
            "start the container with --security-opt seccomp=unconfined \
             --security-opt apparmor=unconfined --security-opt systempaths=unconfined"
                .into(),
        );
    }
    (String::new(), "run `lapstrake doctor` on the host, outside of any container".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_a_user_follow_its_own_id() {
        let text = "bob:1:2\nalice:100000:65536\n1000:300000:10\nalice:x:1\nalice:5:0\n";
        let ranges = sub_ids(text, Some("alice"), 1000);
        assert_eq!(ranges, [(100_000, 65536), (300_000, 10)]);
        assert_eq!(
            lines(&with_ranges(1000, &ranges)),
            "0 1000 1\n1 100000 65536\n65537 300000 10\n"
        );
        assert_eq!(sub_ids(text, None, 7), []);
    }

    #[test]
    fn root_keeps_the_ids_it_has() {
        let map = IdMap {
            uids: vec![IdRange { inside: 0, outside: 500_000, count: 65536 }],
            gids: vec![IdRange { inside: 0, outside: 500_000, count: 65536 }],
        };
        assert_eq!(lines(&identity(&map).uids), "0 0 65536\n");
    }
}
