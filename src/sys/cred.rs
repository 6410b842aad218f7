//! Ids, capabilities and namespaces of this process.

use std::os::fd::AsRawFd;

use super::{Errno, Error, Result, check, show};

/// A run of consecutive ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// First id inside the namespace.
    pub inside: u32,
    /// First id outside of it.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// The user and group ids that a user namespace has.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct IdMap {
    /// User ids.
    pub uids: Vec<IdRange>,
    /// Group ids.
    pub gids: Vec<IdRange>,
}

impl IdMap {
    /// Says whether files can belong to this user.
    pub fn has_uid(&self, uid: u32) -> bool {
        contains(&self.uids, uid)
    }

    /// Says whether files can belong to this group.
    pub fn has_gid(&self, gid: u32) -> bool {
        contains(&self.gids, gid)
    }

    /// Says whether it holds one id only, so that the disk cannot tell owners apart.
    pub fn is_single(&self) -> bool {
        self.uids.iter().map(|r| u64::from(r.count)).sum::<u64>() <= 1
    }

    /// Gives a short text that differs between maps under which directories look different.
    pub fn fingerprint(&self) -> String {
        let text = |ranges: &[IdRange]| {
            let parts: Vec<String> =
                ranges.iter().map(|r| format!("{}-{}-{}", r.inside, r.outside, r.count)).collect();
            parts.join(",")
        };
        format!("u{};g{}", text(&self.uids), text(&self.gids))
    }
}

fn contains(ranges: &[IdRange], id: u32) -> bool {
    ranges.iter().any(|r| id >= r.inside && id - r.inside < r.count)
}

/// A set of namespaces.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Namespaces(libc::c_int);

impl Namespaces {
    /// None of them.
    pub const NONE: Namespaces = Namespaces(0);
    /// User and group ids, capabilities.
    pub const USER: Namespaces = Namespaces(libc::CLONE_NEWUSER);
    /// Mounts.
    pub const MOUNT: Namespaces = Namespaces(libc::CLONE_NEWNS);
    /// Process ids.
    pub const PID: Namespaces = Namespaces(libc::CLONE_NEWPID);
    /// System V IPC and POSIX message queues.
    pub const IPC: Namespaces = Namespaces(libc::CLONE_NEWIPC);
    /// Host name.
    pub const UTS: Namespaces = Namespaces(libc::CLONE_NEWUTS);
    /// Network.
    pub const NET: Namespaces = Namespaces(libc::CLONE_NEWNET);

    /// The flags of clone(2).
    pub(super) fn bits(self) -> libc::c_int {
        self.0
    }
}

impl std::ops::BitOr for Namespaces {
    type Output = Namespaces;

    fn bitor(self, other: Namespaces) -> Namespaces {
        Namespaces(self.0 | other.0)
    }
}

impl std::fmt::Debug for Namespaces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const NAMES: [(Namespaces, &str); 6] = [
            (Namespaces::USER, "NEWUSER"),
            (Namespaces::MOUNT, "NEWNS"),
            (Namespaces::PID, "NEWPID"),
            (Namespaces::IPC, "NEWIPC"),
            (Namespaces::UTS, "NEWUTS"),
            (Namespaces::NET, "NEWNET"),
        ];
        let set = NAMES.iter().filter(|(n, _)| self.0 & n.0 != 0).map(|(_, name)| *name);
        f.write_str(&set.collect::<Vec<_>>().join("|"))
    }
}

/// Gives the effective user id.
pub fn euid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Gives the effective group id.
pub fn egid() -> u32 {
    rustix::process::getegid().as_raw()
}

/// Moves this process into new namespaces (`unshare`). A user namespace needs a process with one
/// thread, else EINVAL.
pub fn unshare(namespaces: Namespaces) -> Result<()> {
    // SAFETY: takes no pointer; CLONE_FILES is not among the flags, so no descriptor table changes
    // below anybody's feet.
    #[expect(unsafe_code, reason = "nix and rustix have no user namespace flag that is safe")]
    let done = unsafe { libc::unshare(namespaces.bits()) };
    check(done, || ("unshare", format!("{namespaces:?}"))).map(drop)
}

/// Gives what the kernel maps in this process's user namespace (`/proc/self/uid_map`, `gid_map`).
pub fn current_id_map() -> std::io::Result<IdMap> {
    let read = |name: &str| -> std::io::Result<Vec<IdRange>> {
        Ok(parse_id_map(&std::fs::read_to_string(format!("/proc/self/{name}"))?))
    };
    Ok(IdMap { uids: read("uid_map")?, gids: read("gid_map")? })
}

fn parse_id_map(text: &str) -> Vec<IdRange> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace().map(str::parse::<u32>);
            match (words.next(), words.next(), words.next()) {
                (Some(Ok(inside)), Some(Ok(outside)), Some(Ok(count))) => {
                    Some(IdRange { inside, outside, count })
                }
                _ => None,
            }
        })
        .collect()
}

/// Replaces the supplementary groups of this thread.
pub fn set_groups(groups: &[u32]) -> Result<()> {
    let ids: Vec<rustix::thread::Gid> =
        groups.iter().map(|&g| rustix::thread::Gid::from_raw(g)).collect();
    rustix::thread::set_thread_groups(&ids)
        .map_err(|e| Error::new("setgroups", format!("{groups:?}"), e))
}

/// Sets real, effective and saved group and user id of this thread, the group first.
pub fn set_ids(uid: u32, gid: u32) -> Result<()> {
    let g = rustix::thread::Gid::from_raw(gid);
    rustix::thread::set_thread_res_gid(g, g, g).map_err(|e| Error::new("setresgid", gid, e))?;
    let u = rustix::thread::Uid::from_raw(uid);
    rustix::thread::set_thread_res_uid(u, u, u).map_err(|e| Error::new("setresuid", uid, e))
}

/// Says whether the effective set has a capability, by the kernel's number for it.
pub fn has_capability(number: u32) -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.bits() & (1 << number) != 0)
}

/// CAP_SETUID, for [`has_capability`].
pub const CAP_SETUID: u32 = 7;
/// CAP_SYS_ADMIN, for [`has_capability`].
pub const CAP_SYS_ADMIN: u32 = 21;

/// Removes from the bounding set all capabilities whose bit is not in `keep`, and empties the
/// inheritable set (CVE-2022-27651), which empties the ambient set too.
pub fn limit_capabilities(keep: u64) -> Result<()> {
    // 64 is what the kernel's format can hold; EINVAL marks the end of those it knows.
    for number in (0..64).filter(|n| keep & (1 << n) == 0) {
        // SAFETY: prctl(PR_CAPBSET_DROP) takes plain integers.
        #[expect(unsafe_code, reason = "rustix names capabilities, not numbers to come")]
        let done = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number as libc::c_ulong, 0, 0, 0) };
        match check(done, || ("prctl", format!("PR_CAPBSET_DROP, {number}"))) {
            Ok(_) => {}
            Err(e) if e.is(Errno::INVAL) => break,
            Err(e) => return Err(e),
        }
    }
    let mut sets = rustix::thread::capabilities(None).map_err(|e| Error::new("capget", "", e))?;
    sets.inheritable = rustix::thread::CapabilitySet::empty();
    rustix::thread::set_capabilities(None, sets).map_err(|e| Error::new("capset", "", e))
}

/// Sets the host name of the uts namespace.
pub fn set_hostname(name: &str) -> Result<()> {
    rustix::system::sethostname(name.as_bytes())
        .map_err(|e| Error::new("sethostname", show(name.as_bytes()), e))
}

/// Leaves the session keyring of the user behind, so that a RUN cannot read the keys in it. Kernels
/// without keyrings have nothing to leave.
pub fn leave_session_keyring() {
    // SAFETY: a null name asks for an anonymous keyring; no memory is read.
    #[expect(unsafe_code, reason = "no crate has keyctl")]
    let _ = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<u8>(),
            0,
            0,
            0,
        )
    };
}

const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;

/// Adds bits to the execution domain of this process: 32-bit `uname -m`, no address randomisation.
pub fn personality(linux32: bool, no_aslr: bool) -> Result<()> {
    let mut persona = 0;
    if linux32 {
        persona |= PER_LINUX32;
    }
    if no_aslr {
        persona |= ADDR_NO_RANDOMIZE;
    }
    // SAFETY: takes a plain integer.
    #[expect(unsafe_code, reason = "rustix has no personality")]
    let done = unsafe { libc::personality(persona) };
    check(done, || ("personality", format!("{persona:#x}"))).map(drop)
}

const PER_LINUX32: libc::c_ulong = 0x0008;
const ADDR_NO_RANDOMIZE: libc::c_ulong = 0x004_0000;

/// Brings the loopback interface of this network namespace up.
pub fn loopback_up() -> Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(|e| Error::new("socket", "AF_INET", e))?;
    // SAFETY: ifreq is plain old data, for which all zeros are valid.
    #[expect(unsafe_code, reason = "a C structure for an ioctl")]
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which lives on this stack frame.
    #[expect(unsafe_code, reason = "no crate has SIOCSIFFLAGS")]
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) };
    check(done, || ("ioctl SIOCSIFFLAGS", "lo".into())).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_maps_are_read() {
        let map = IdMap {
            uids: parse_id_map(
                "         0       1000          1\n         1     100000      65536\n",
            ),
            gids: parse_id_map("0 1000 1\n"),
        };
        assert!(map.has_uid(0) && map.has_uid(65536) && !map.has_uid(65537));
        assert!(map.has_gid(0) && !map.has_gid(1));
        assert!(!map.is_single());
        assert_eq!(map.fingerprint(), "u0-1000-1,1-100000-65536;g0-1000-1");
    }
}
