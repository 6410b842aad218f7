//! A seccomp filter for child processes: whoever touches a namespace, a mount or chroot is killed.

#![expect(
    unsafe_code,
    reason = "a filter is installed between fork and exec, which std leaves to unsafe code"
)]

use std::os::unix::process::CommandExt;
use std::process::Command;

const LD_W_ABS: u16 = 0x20;
const JMP_JEQ_K: u16 = 0x15;
const JMP_JSET_K: u16 = 0x45;
const RET_K: u16 = 0x06;
const RET_ALLOW: u32 = 0x7fff_0000;
const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_ERRNO: u32 = 0x0005_0000;
/// Every CLONE_NEW* flag.
const NEW_NAMESPACES: u32 = 0x7e02_0080;

fn statement(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k }
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

fn filter() -> Vec<libc::sock_filter> {
    let forbidden = [
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_chroot,
        libc::SYS_pivot_root,
        libc::SYS_fsopen,
        libc::SYS_fsmount,
        libc::SYS_open_tree,
        libc::SYS_move_mount,
        libc::SYS_mount_setattr,
    ];
    // The call's number is at offset 0, the low half of its first argument at 16 (little endian).
    let mut program = vec![statement(LD_W_ABS, 0)];
    for call in forbidden {
        program.push(jump(JMP_JEQ_K, call as u32, 0, 1));
        program.push(statement(RET_K, RET_KILL_PROCESS));
    }
    // clone3 hides its flags from filters; without it libc starts threads by clone.
    program.push(jump(JMP_JEQ_K, libc::SYS_clone3 as u32, 0, 1));
    program.push(statement(RET_K, RET_ERRNO | libc::ENOSYS as u32));
    program.push(jump(JMP_JEQ_K, libc::SYS_clone as u32, 0, 3));
    program.push(statement(LD_W_ABS, 16));
    program.push(jump(JMP_JSET_K, NEW_NAMESPACES, 0, 1));
    program.push(statement(RET_K, RET_KILL_PROCESS));
    program.push(statement(RET_K, RET_ALLOW));
    program
}

/// A filter below which no listener can be had, as below another one.
fn deaf() -> Vec<libc::sock_filter> {
    vec![
        statement(LD_W_ABS, 0),
        jump(JMP_JEQ_K, libc::SYS_seccomp as u32, 0, 3),
        // The flags are the second argument.
        statement(LD_W_ABS, 24),
        jump(JMP_JSET_K, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32, 0, 1),
        statement(RET_K, RET_ERRNO | libc::EBUSY as u32),
        statement(RET_K, RET_ALLOW),
    ]
}

/// Makes the command die by SIGSYS at the first unshare, setns, mount, chroot or clone of a namespace.
pub fn forbid_namespaces(command: &mut Command) {
    install_filter(command, filter());
}

/// Has every attempt of the command to listen to system calls fail.
pub fn forbid_listeners(command: &mut Command) {
    install_filter(command, deaf());
}

fn install_filter(command: &mut Command, mut program: Vec<libc::sock_filter>) {
    let install = move || {
        let header = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // SAFETY: both calls only read their arguments, which live on this frame; they are async-signal-safe.
        let failed = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const header)
                    != 0
        };
        if failed { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: the closure allocates nothing and calls only prctl.
    unsafe {
        command.pre_exec(install);
    }
}
