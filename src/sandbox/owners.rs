//! Owners where only one id is mapped.
//!
//! There the kernel refuses to give a file to anyone (chown(2): EINVAL), and shows all files as root's.
//! So a RUN's processes get a filter that hands the calls about owners to the builder, which keeps the
//! owner beside the file and shows it from there:
//!
//! | call | what the builder does |
//! |---|---|
//! | `chown` and its kin | as much as the kernel lets it do (copying up, clearing setuid bits), and notes the owner |
//! | `stat` and its kin | where another than root is noted, or is the owner in the image: the kernel's answer with these ids; else nothing |
//! | `rename`, `link` | where the owner is the one in the image: notes it, as it is found by path; then nothing |
//! | `setgroups` | nothing, and calls it done: no file can tell |
//!
//! Files and directories keep the owner in an attribute, [`OWNER_XATTR`], which moves, is linked and is copied
//! up with them; other nodes have no attributes of users, and theirs is given to the caller at the end
//! ([`Owned`]). The commit reads both.
//!
//! What stays impossible: to *become* another user (`su`, `setpriv`), which would need the id. 32-bit programs
//! see root as the owner of everything (their `struct stat` is another), unless they use statx(2).
//!
//! # Acting for a process
//!
//! A thread of the builder enters the mount namespace and the root of the process that calls, and from there
//! opens what it names, so that links and `..` lead where they would have led it, and never out of its root. It
//! stays there for as long as the same process calls, and `chroot` and the like are handed over to end that.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::Error;
use crate::sys::dir::{self, FileKind};
use crate::sys::seccomp::{self, Answer, Call, Event, abi};
use crate::sys::stand_in::{self, Identity, Owned, RawStat, parse_owner};
use crate::sys::xattr::{ORIGIN_XATTR, OWNER_XATTR};
use crate::sys::{self, Errno};

/// What the image says of owners.
pub trait Owners: Sync {
    /// Gives the owner of what the image has at a path of its root, if it is of that kind.
    fn owner(&self, path: &[u8], kind: FileKind) -> Option<(u32, u32)>;
}

/// An image in which everything is root's, or of which nobody knows.
impl Owners for () {
    fn owner(&self, _: &[u8], _: FileKind) -> Option<(u32, u32)> {
        None
    }
}

/// A call about owners. `narrow`: ids have 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Chown {
        follow: bool,
        narrow: bool,
    },
    Fchown {
        narrow: bool,
    },
    Fchownat,
    /// By path, and by directory and path.
    Move,
    Moveat,
    SetGroups,
    /// The process goes to another root or namespace.
    Leave,
    Stat {
        follow: bool,
    },
    Fstat,
    Fstatat,
    Statx,
}

/// Calls by number.
type Numbers = &'static [(u32, Op)];

/// The calls of each ABI, in two parts.
const TABLE: [(u32, [Numbers; 2]); 5] = {
    use Op::*;
    const X86_64: Numbers = &[
        (92, Chown { follow: true, narrow: false }),
        (93, Fchown { narrow: false }),
        (94, Chown { follow: false, narrow: false }),
        (260, Fchownat),
        (116, SetGroups),
        (155, Leave),
        (161, Leave),
        (272, Leave),
        (308, Leave),
        (82, Move),
        (86, Move),
        (264, Moveat),
        (265, Moveat),
        (316, Moveat),
        (4, Stat { follow: true }),
        (5, Fstat),
        (6, Stat { follow: false }),
        (262, Fstatat),
        (332, Statx),
    ];
    /// Of 64-bit ABIs that are younger (asm-generic/unistd.h).
    const GENERIC: Numbers = &[
        (54, Fchownat),
        (55, Fchown { narrow: false }),
        (159, SetGroups),
        (41, Leave),
        (51, Leave),
        (97, Leave),
        (268, Leave),
        (37, Moveat),
        (38, Moveat),
        (276, Moveat),
        (79, Fstatat),
        (80, Fstat),
        (291, Statx),
    ];
    /// Of 32-bit x86 and ARM.
    const OLD: Numbers = &[
        (16, Chown { follow: false, narrow: true }),
        (95, Fchown { narrow: true }),
        (182, Chown { follow: true, narrow: true }),
        (198, Chown { follow: false, narrow: false }),
        (207, Fchown { narrow: false }),
        (212, Chown { follow: true, narrow: false }),
        (81, SetGroups),
        (206, SetGroups),
        (9, Move),
        (38, Move),
        (61, Leave),
    ];
    const I386: Numbers = &[
        (217, Leave),
        (310, Leave),
        (346, Leave),
        (298, Fchownat),
        (383, Statx),
        (302, Moveat),
        (303, Moveat),
        (353, Moveat),
    ];
    const ARM: Numbers = &[
        (218, Leave),
        (337, Leave),
        (375, Leave),
        (325, Fchownat),
        (397, Statx),
        (329, Moveat),
        (330, Moveat),
        (382, Moveat),
    ];
    [
        (abi::X86_64, [X86_64, &[]]),
        (abi::I386, [OLD, I386]),
        (abi::AARCH64, [GENERIC, &[]]),
        (abi::ARM, [OLD, ARM]),
        (abi::RISCV64, [GENERIC, &[]]),
    ]
};

/// Finds what a call of an ABI is about.
fn op(abi: u32, number: u32) -> Option<Op> {
    let (_, parts) = TABLE.iter().find(|(known, _)| *known == abi)?;
    let mut calls = parts.iter().copied().flatten();
    calls.find(|(known, _)| *known == number).map(|(_, op)| *op)
}

/// Puts the filter on this thread and all that come from it; gives the listener for [`supervise`].
pub(super) fn listen() -> crate::sys::Result<OwnedFd> {
    let numbers = TABLE.map(|(abi, parts)| {
        let calls = parts.into_iter().flatten();
        (abi, calls.map(|(number, _)| *number).collect::<Vec<u32>>())
    });
    let calls: Vec<seccomp::Calls<'_>> =
        numbers.iter().map(|(abi, numbers)| (*abi, numbers.as_slice())).collect();
    seccomp::listen(&calls)
}

/// Answers the calls of a RUN, whose changes go to `upper`, until it has ended or `stop` can be read. For a
/// thread of its own, which is good for nothing else after that: it has another root.
pub(super) fn supervise(
    listener: BorrowedFd<'_>,
    stop: BorrowedFd<'_>,
    upper: &std::path::Path,
    owners: &dyn Owners,
) -> Result<Vec<Owned>, Error> {
    let fail = |source| Error::Sys { doing: "keeping the owners of files", source };
    let bare = |errno| fail(sys::Error::new("unshare", "CLONE_FS", errno));
    let proc = dir::open(std::path::Path::new("/proc")).map_err(fail)?;
    let upper = dir::open(upper).map_err(fail)?;
    let users = stand_in::number(proc.as_fd(), "self/ns/user").map_err(bare)?;
    stand_in::unshare_root().map_err(bare)?;
    seccomp::take_turns(listener);
    let owned = HashMap::new();
    let mut keeper =
        Keeper { listener, proc, upper, users, mounts: 0, root: None, seat: None, owners, owned };
    loop {
        match seccomp::wait(listener, stop).map_err(fail)? {
            Event::Nothing => {}
            Event::End => return Ok(keeper.owned.into_values().collect()),
            Event::Call => {
                let Some(call) = seccomp::receive(listener).map_err(fail)? else { continue };
                let answer = keeper.answer(&call);
                seccomp::answer(listener, &call, answer).map_err(fail)?;
            }
        }
    }
}

struct Keeper<'a> {
    listener: BorrowedFd<'a>,
    /// The builder's /proc, which shows the processes of the RUN.
    proc: OwnedFd,
    /// Where the RUN's changes go.
    upper: OwnedFd,
    /// The number of the builder's user namespace.
    users: u64,
    /// That of the mount namespace that this thread is in.
    mounts: u64,
    /// The RUN's root: mount and number.
    root: Option<(u64, u64)>,
    /// Where this thread is.
    seat: Option<Seat>,
    owners: &'a dyn Owners,
    /// By number, as it is shown, and time of making.
    owned: HashMap<(u64, (i64, u32)), Owned>,
}

/// The root of a process, which is this thread's as well.
struct Seat {
    pid: u32,
    dir: OwnedFd,
    /// Mount and number.
    root: (u64, u64),
}

/// Why a call is not answered here: the kernel answers it, or an error does.
enum Pass {
    On,
    Fail(Errno),
}

impl From<Errno> for Pass {
    /// Whatever keeps us from looking keeps the process as well: the kernel tells it why.
    fn from(_: Errno) -> Pass {
        Pass::On
    }
}

/// What a call is about, opened.
struct Target {
    fd: OwnedFd,
    identity: Identity,
    /// Whether it is in the image: on the mount of the RUN's root, seen from there.
    in_image: bool,
}

/// AT_FDCWD, AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH: the same for all processors.
const CWD: i32 = -100;
const NO_FOLLOW: u64 = 0x100;
const EMPTY_PATH: u64 = 0x1000;

impl Keeper<'_> {
    fn answer(&mut self, call: &Call) -> Answer {
        match self.act(call) {
            Ok(answer) => answer,
            Err(Pass::On) => Answer::Continue,
            Err(Pass::Fail(errno)) => Answer::Fail(errno),
        }
    }

    fn act(&mut self, call: &Call) -> Result<Answer, Pass> {
        let op = op(call.abi, call.number).ok_or(Pass::On)?;
        if op == Op::Leave {
            self.seat = None;
            return Err(Pass::On);
        }
        self.sit(call.pid)?;
        let arg = |n: usize| call.args[n];
        let target =
            |this: &mut Self, base: i32, path: u64, flags: u64| this.open(call, base, path, flags);
        let follow = |follow: bool| if follow { 0 } else { NO_FOLLOW };
        match op {
            Op::SetGroups | Op::Leave => Ok(Answer::Done),
            Op::Chown { follow: links, narrow } => {
                let target = target(self, CWD, arg(0), follow(links))?;
                self.chown(call, &target, id(arg(1), narrow), id(arg(2), narrow))
            }
            Op::Fchown { narrow } => {
                let target = target(self, arg(0) as i32, 0, EMPTY_PATH)?;
                self.chown(call, &target, id(arg(1), narrow), id(arg(2), narrow))
            }
            Op::Fchownat => {
                let target = target(self, arg(0) as i32, arg(1), arg(4))?;
                self.chown(call, &target, id(arg(2), false), id(arg(3), false))
            }
            Op::Move | Op::Moveat => {
                let (base, path) = match op {
                    Op::Move => (CWD, arg(0)),
                    _ => (arg(0) as i32, arg(1)),
                };
                let target = target(self, base, path, NO_FOLLOW)?;
                self.check(call)?;
                self.keep(&target)?;
                Err(Pass::On)
            }
            Op::Stat { follow: links } => {
                let target = target(self, CWD, arg(0), follow(links))?;
                self.tell(call, &target, arg(1), None)
            }
            Op::Fstat => {
                let target = target(self, arg(0) as i32, 0, EMPTY_PATH)?;
                self.tell(call, &target, arg(1), None)
            }
            Op::Fstatat => {
                let target = target(self, arg(0) as i32, arg(1), arg(3))?;
                self.tell(call, &target, arg(2), None)
            }
            Op::Statx => {
                let target = target(self, arg(0) as i32, arg(1), arg(2))?;
                self.tell(call, &target, arg(4), Some((arg(2) as u32, arg(3) as u32)))
            }
        }
    }

    /// Goes to the root of a process.
    fn sit(&mut self, pid: u32) -> Result<(), Pass> {
        if self.seat.as_ref().is_some_and(|seat| seat.pid == pid) {
            return Ok(());
        }
        let proc = self.proc.as_fd();
        // In a user namespace of its own, ids are others.
        if stand_in::number(proc, &format!("{pid}/ns/user"))? != self.users {
            return Err(Pass::On);
        }
        self.seat = None;
        let dir = stand_in::open(proc, format!("{pid}/root").as_bytes(), true)?;
        let mounts = format!("{pid}/ns/mnt");
        let number = stand_in::number(proc, &mounts)?;
        if number != self.mounts {
            let namespace = stand_in::open_namespace(proc, &mounts)?;
            stand_in::enter_mounts(namespace.as_fd())?;
            self.mounts = number;
        }
        stand_in::enter_root(dir.as_fd())?;
        // What is read by name is in /proc; all else is opened from somewhere.
        stand_in::enter(proc)?;
        let root = stand_in::identity(dir.as_fd())?;
        self.seat = Some(Seat { pid, dir, root: (root.mount, root.ino) });
        Ok(())
    }

    /// Makes sure that what was learnt is of the process that waits, not of one that got its number.
    fn check(&self, call: &Call) -> Result<(), Pass> {
        match seccomp::still_waits(self.listener, call) {
            true => Ok(()),
            false => Err(Pass::On),
        }
    }

    /// Opens what a process names, seen from where it is. `path` is an address in its memory, 0 for none.
    fn open(&mut self, call: &Call, base: i32, path: u64, flags: u64) -> Result<Target, Pass> {
        let path = match path {
            0 => Vec::new(),
            address => stand_in::read_text(call.pid, address)?,
        };
        if path.is_empty() && flags & EMPTY_PATH == 0 {
            return Err(Pass::On);
        }
        let from = |what: String| {
            stand_in::open(self.proc.as_fd(), format!("{}/{what}", call.pid).as_bytes(), true)
        };
        let base = match base {
            _ if path.first() == Some(&b'/') => None,
            CWD => Some(from("cwd".to_owned())?),
            number => Some(from(format!("fd/{number}"))?),
        };
        let seat = self.seat.as_ref().ok_or(Pass::On)?;
        let fd = match base {
            Some(base) if path.is_empty() => base,
            base => {
                let base = base.as_ref().map_or(seat.dir.as_fd(), AsFd::as_fd);
                let follow = flags & NO_FOLLOW == 0;
                match stand_in::open(base, &path, follow) {
                    Err(Errno::NOENT) if follow => self.open_of_itself(call.pid, base, path)?,
                    opened => opened?,
                }
            }
        };
        let identity = stand_in::identity(fd.as_fd())?;
        // The first process that calls is in the RUN's root; others may go into one of their own.
        let in_image =
            *self.root.get_or_insert(seat.root) == seat.root && identity.mount == seat.root.0;
        Ok(Target { fd, identity, in_image })
    }

    /// Opens what leads to a descriptor by `/proc/self/fd`, such as /dev/stdout, which to this thread is
    /// nothing: it is in no pid namespace that this /proc knows. ENOENT for anything else.
    fn open_of_itself(
        &self,
        pid: u32,
        base: BorrowedFd<'_>,
        mut path: Vec<u8>,
    ) -> Result<OwnedFd, Pass> {
        for _ in 0..MOST_LINKS {
            if let Some(number) = own_descriptor(&path) {
                let path = format!("{pid}/fd/{number}");
                return Ok(stand_in::open(self.proc.as_fd(), path.as_bytes(), true)?);
            }
            let link = stand_in::open(base, &path, false)?;
            if stand_in::identity(link.as_fd())?.kind != FileKind::Symlink {
                break;
            }
            path = stand_in::readlink(link.as_fd(), b"")?;
            if path.first() != Some(&b'/') {
                break;
            }
        }
        Err(Errno::NOENT.into())
    }

    /// Gives the owner of a file as the RUN is to see it.
    fn owner(&self, target: &Target) -> Result<(u32, u32), Pass> {
        let Identity { kind, ino, born, .. } = target.identity;
        if !has_attributes(kind)
            && let Some(owned) = self.owned.get(&(ino, born))
        {
            return Ok((owned.uid, owned.gid));
        }
        if let Some(noted) = self.attribute(target)? {
            return Ok(noted);
        }
        if !target.in_image {
            return Ok((0, 0));
        }
        self.owner_in_image(target)
    }

    /// Gives the owner that the image has for a file, if it is still the file of the image.
    fn owner_in_image(&self, target: &Target) -> Result<(u32, u32), Pass> {
        let (kind, path) = (target.identity.kind, self.path(target)?);
        let path = path.strip_prefix(b"/").unwrap_or(&path);
        match self.owners.owner(path, kind) {
            Some(owner) if owner != (0, 0) && !self.is_new(path, kind)? => Ok(owner),
            _ => Ok((0, 0)),
        }
    }

    /// Says whether something was made by this RUN, not copied up. What has no attributes counts as not.
    fn is_new(&self, path: &[u8], kind: FileKind) -> Result<bool, Pass> {
        if !has_attributes(kind) {
            return Ok(false);
        }
        match stand_in::open(self.upper.as_fd(), path, false) {
            Ok(fd) => Ok(stand_in::get_attribute(&own(&fd), ORIGIN_XATTR)?.is_none()),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Notes the owner that the image has for a file that is about to get another name.
    fn keep(&mut self, target: &Target) -> Result<(), Pass> {
        let key = (target.identity.ino, target.identity.born);
        if !target.in_image || self.owned.contains_key(&key) || self.attribute(target)?.is_some() {
            return Ok(());
        }
        let (uid, gid) = self.owner_in_image(target)?;
        if (uid, gid) != (0, 0) {
            // Copies it up, as the kernel would for the new name.
            stand_in::chown(target.fd.as_fd(), None, None)?;
            self.note(target, uid, gid)?;
        }
        Ok(())
    }

    fn attribute(&self, target: &Target) -> Result<Option<(u32, u32)>, Pass> {
        if !has_attributes(target.identity.kind) {
            return Ok(None);
        }
        let value = stand_in::get_attribute(&own(&target.fd), OWNER_XATTR)?;
        Ok(value.as_deref().and_then(parse_owner))
    }

    /// The path of something from the root of this thread, which is that of the process.
    fn path(&self, target: &Target) -> Result<Vec<u8>, Pass> {
        Ok(stand_in::readlink(self.proc.as_fd(), &own(&target.fd))?)
    }

    fn chown(
        &mut self,
        call: &Call,
        target: &Target,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Result<Answer, Pass> {
        let old = self.owner(target)?;
        self.check(call)?;
        // Copies up what is in a lower layer, and takes away setuid bits and capabilities.
        stand_in::chown(target.fd.as_fd(), uid.map(|_| 0), gid.map(|_| 0)).map_err(Pass::Fail)?;
        self.note(target, uid.unwrap_or(old.0), gid.unwrap_or(old.1))?;
        Ok(Answer::Done)
    }

    /// Notes an owner.
    fn note(&mut self, target: &Target, uid: u32, gid: u32) -> Result<(), Pass> {
        if has_attributes(target.identity.kind) {
            let value = format!("{uid}:{gid}");
            match stand_in::set_attribute(&own(&target.fd), OWNER_XATTR, value.as_bytes()) {
                // Not on a file system of the image: nothing that a layer could hold.
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(Pass::Fail(errno)),
            }
        } else if target.in_image {
            // Copying up may have made another node of it; it is still shown with the number of the lower one.
            let Identity { ino, born, .. } = stand_in::identity(target.fd.as_fd())?;
            let path = self.path(target)?;
            let path = path.strip_prefix(b"/").unwrap_or(&path);
            let node = stand_in::identity_at(self.upper.as_fd(), path)?;
            self.owned.insert((ino, born), Owned { ino: node.ino, born, uid, gid });
        }
        Ok(())
    }

    /// Tells a process what a file is, if its owner is another than the kernel would say.
    fn tell(
        &self,
        call: &Call,
        target: &Target,
        address: u64,
        extended: Option<(u32, u32)>,
    ) -> Result<Answer, Pass> {
        let (uid, gid) = self.owner(target)?;
        if (uid, gid) == (0, 0) {
            return Err(Pass::On);
        }
        let fd = target.fd.as_fd();
        let mut stat = match extended {
            Some((flags, mask)) => RawStat::extended(fd, flags, mask)?,
            None => RawStat::of(fd)?,
        };
        stat.set_ids(uid, gid);
        self.check(call)?;
        stand_in::write_memory(call.pid, address, &stat.bytes).map_err(Pass::Fail)?;
        Ok(Answer::Done)
    }
}

/// An id of an argument; None keeps the one that is.
fn id(argument: u64, narrow: bool) -> Option<u32> {
    let id = argument as u32;
    match narrow {
        true => (id as u16 != u16::MAX).then_some(id & 0xffff),
        false => (id != u32::MAX).then_some(id),
    }
}

/// Symbolic links that are followed to a descriptor: /dev/stdout, and a log that leads to it.
const MOST_LINKS: usize = 4;

/// Gives the descriptor of the process itself that a path names. Only a number: what follows it would be
/// looked up in the builder's /proc, from where `..` leads to the host.
fn own_descriptor(path: &[u8]) -> Option<u32> {
    let number = path.strip_prefix(b"/proc/self/fd/").or_else(|| path.strip_prefix(b"/dev/fd/"))?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

/// Only files and directories have attributes of users (xattr(7)).
fn has_attributes(kind: FileKind) -> bool {
    matches!(kind, FileKind::File | FileKind::Dir)
}

/// The name below /proc of a descriptor of this thread.
fn own(fd: &OwnedFd) -> Vec<u8> {
    format!("thread-self/fd/{}", fd.as_raw_fd()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_all_widths() {
        assert_eq!(id(u64::from(u32::MAX), false), None);
        assert_eq!(id(u64::MAX, false), None);
        assert_eq!(id(0xffff, true), None);
        assert_eq!(id(0xffff, false), Some(0xffff));
        assert_eq!(id(33, true), Some(33));
    }

    #[test]
    fn descriptors_are_numbers() {
        assert_eq!(own_descriptor(b"/proc/self/fd/1"), Some(1));
        assert_eq!(own_descriptor(b"/dev/fd/12"), Some(12));
        for other in [
            "/proc/self/fd/",
            "/proc/self/fd/1/",
            "/proc/self/fd/../x",
            "/dev/fd/-1",
            "/dev/fd/1/../../..",
            "/dev/stdout",
        ] {
            assert_eq!(own_descriptor(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn no_call_stands_twice_in_an_abi() {
        for (abi, parts) in TABLE {
            let calls: Vec<(u32, Op)> = parts.into_iter().flatten().copied().collect();
            let mut numbers: Vec<u32> = calls.iter().map(|(number, _)| *number).collect();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), calls.len());
            assert!(calls.iter().all(|(number, known)| op(abi, *number) == Some(*known)));
            assert_eq!(op(abi, 1_000_000), None);
        }
    }
}
