//! Running programs of foreign architectures: which emulator, and how the kernel recognises them.
//!
//! # Model
//!
//! The kernel's binfmt_misc looks at the first bytes of a program and starts an interpreter for it.
//! Since Linux 6.7 each user namespace may have an instance of its own. [`Registry`] mounts one,
//! attached nowhere: RUNs cannot reach it, the host does not see it, and the kernel removes it when
//! the last descriptor closes, by whatever death. Once it exists the host's registrations no longer
//! count for the namespace, so every architecture that is needed is registered anew.
//!
//! The flags are `POCF`: P keeps argv[0], O passes the program as a descriptor, C takes credentials
//! from the program (setuid works), F opens the emulator now, so that images need not have it.
//!
//! The masks are made from the ELF specification: class, byte order, version, type (executable or
//! shared object) and machine count; OS ABI, ABI version and padding do not.
//!
//! Start reading at [`Registry`].

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Error;
use crate::sys::{self, Errno, cred, dir, mount, node, process};

/// A processor architecture, by the names OCI images use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arch {
    /// x86-64.
    Amd64,
    /// 32-bit x86.
    I386,
    /// AArch64.
    Arm64,
    /// 32-bit Arm.
    Arm,
    /// 64-bit RISC-V.
    Riscv64,
    /// 64-bit Power, little-endian.
    Ppc64le,
    /// IBM Z.
    S390x,
    /// 64-bit MIPS, little-endian.
    Mips64le,
    /// 64-bit LoongArch.
    Loong64,
}

/// What names an architecture: OCI's word, QEMU's word, and its ELF identity.
struct Traits {
    arch: Arch,
    oci: &'static str,
    qemu: &'static str,
    /// EI_CLASS is ELFCLASS64.
    wide: bool,
    /// EI_DATA is ELFDATA2LSB.
    little: bool,
    /// e_machine.
    machine: u16,
}

/// Machine numbers are those of the ELF registry (`EM_*`).
const TRAITS: [Traits; 9] = [
    row(Arch::Amd64, "amd64", "x86_64", true, true, 62),
    row(Arch::I386, "386", "i386", false, true, 3),
    row(Arch::Arm64, "arm64", "aarch64", true, true, 183),
    row(Arch::Arm, "arm", "arm", false, true, 40),
    row(Arch::Riscv64, "riscv64", "riscv64", true, true, 243),
    row(Arch::Ppc64le, "ppc64le", "ppc64le", true, true, 21),
    row(Arch::S390x, "s390x", "s390x", true, false, 22),
    row(Arch::Mips64le, "mips64le", "mips64el", true, true, 8),
    row(Arch::Loong64, "loong64", "loongarch64", true, true, 258),
];

const fn row(
    arch: Arch,
    oci: &'static str,
    qemu: &'static str,
    wide: bool,
    little: bool,
    machine: u16,
) -> Traits {
    Traits { arch, oci, qemu, wide, little, machine }
}

impl Arch {
    /// Reads the `architecture` of an OCI platform.
    pub fn from_oci(name: &str) -> Option<Arch> {
        TRAITS.iter().find(|t| t.oci == name).map(|t| t.arch)
    }

    /// Gives the `architecture` of an OCI platform.
    pub fn oci_name(self) -> &'static str {
        self.traits().oci
    }

    /// Gives the name that QEMU has for it.
    pub fn qemu_name(self) -> &'static str {
        self.traits().qemu
    }

    /// Gives the architecture this program was compiled for.
    pub fn host() -> Option<Arch> {
        Some(match std::env::consts::ARCH {
            "x86_64" => Arch::Amd64,
            "x86" => Arch::I386,
            "aarch64" => Arch::Arm64,
            "arm" => Arch::Arm,
            "riscv64" => Arch::Riscv64,
            "powerpc64" if cfg!(target_endian = "little") => Arch::Ppc64le,
            "s390x" => Arch::S390x,
            "mips64" if cfg!(target_endian = "little") => Arch::Mips64le,
            "loongarch64" => Arch::Loong64,
            _ => return None,
        })
    }

    /// Says whether this host's processor runs programs of this architecture by itself: its own,
    /// and the 32-bit one of x86-64. (Some arm64 processors run 32-bit Arm, many do not.)
    pub fn is_native(self) -> bool {
        let host = Arch::host();
        host == Some(self) || (self == Arch::I386 && host == Some(Arch::Amd64))
    }

    /// Says whether it runs natively but as the 32-bit side of the host: see
    /// [`super::RunSpec::personality32`].
    pub fn wants_personality32(self) -> bool {
        self == Arch::I386 && Arch::host() == Some(Arch::Amd64)
    }

    fn traits(self) -> &'static Traits {
        // Every variant has its row, at its own place: `every_arch_has_its_row` tests it.
        &TRAITS[self as usize]
    }

    /// Gives the first bytes of its programs, and which of their bits count.
    fn magic(self) -> ([u8; 20], [u8; 20]) {
        let t = self.traits();
        let mut magic = [0u8; 20];
        let mut mask = [0u8; 20];
        magic[..7].copy_from_slice(&[
            0x7f,
            b'E',
            b'L',
            b'F',
            if t.wide { 2 } else { 1 },
            if t.little { 1 } else { 2 },
            1,
        ]);
        mask[..7].fill(0xff);
        // e_type: ET_EXEC is 2, ET_DYN is 3.
        let (kind, kind_mask, machine) = if t.little {
            (2u16.to_le_bytes(), 0xfffe_u16.to_le_bytes(), t.machine.to_le_bytes())
        } else {
            (2u16.to_be_bytes(), 0xfffe_u16.to_be_bytes(), t.machine.to_be_bytes())
        };
        magic[16..18].copy_from_slice(&kind);
        mask[16..18].copy_from_slice(&kind_mask);
        magic[18..].copy_from_slice(&machine);
        mask[18..].fill(0xff);
        (magic, mask)
    }

    /// Recognises a program by its first bytes.
    pub fn of_program(head: &[u8]) -> Option<Arch> {
        TRAITS.iter().map(|t| t.arch).find(|arch| {
            let (magic, mask) = arch.magic();
            head.len() >= magic.len()
                && head.iter().zip(magic).zip(mask).all(|((b, m), k)| b & k == m & k)
        })
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.oci_name())
    }
}

/// A program that runs programs of an architecture: a statically linked QEMU in user mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emulator {
    /// Whose programs it runs.
    pub arch: Arch,
    /// Where it is on the host.
    pub path: PathBuf,
}

impl Emulator {
    /// Looks for `qemu-ARCH-static`, then a static `qemu-ARCH`, in these directories.
    pub fn find(arch: Arch, path: &[PathBuf]) -> Option<Emulator> {
        [format!("qemu-{}-static", arch.qemu_name()), format!("qemu-{}", arch.qemu_name())]
            .iter()
            .flat_map(|name| path.iter().map(move |dir| dir.join(name)))
            .find(|file| file.is_file() && is_static(file) == Some(true))
            .map(|path| Emulator { arch, path })
    }

    /// Gives the advice for an architecture without an emulator.
    pub fn advice(arch: Arch) -> String {
        format!(
            "install a static QEMU (sudo apt-get install qemu-user-static; Fedora: sudo dnf install \
             qemu-user-static), or give one with --emulator {arch}=PATH"
        )
    }
}

/// Says whether an ELF program needs no dynamic linker. A dynamic emulator is of no use: its linker
/// would be looked for in the image. None when it is no ELF program.
fn is_static(path: &Path) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    let mut head = Vec::new();
    File::open(path).ok()?.take(4096).read_to_end(&mut head).ok()?;
    if head.get(..4)? != b"\x7fELF" || head.get(5)? != &1 {
        // Our hosts' programs are little-endian, but for s390x, where we trust the name.
        return (head.get(..4)? == b"\x7fELF").then_some(true);
    }
    let half = |at: usize| Some(u16::from_le_bytes(head.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
    // e_phoff, e_phentsize, e_phnum (ELF specification, "ELF Header").
    let (table, size, count) = if head.get(4)? == &2 {
        (word(32)? as usize, usize::from(half(54)?), usize::from(half(56)?))
    } else {
        (word(28)? as usize, usize::from(half(42)?), usize::from(half(44)?))
    };
    for i in 0..count {
        if word(table + i * size)? == PT_INTERP {
            return Some(false);
        }
    }
    Some(true)
}

/// The binfmt_misc instance of this process's user namespace.
#[derive(Debug)]
pub(super) struct Registry(OwnedFd);

impl Registry {
    /// Mounts it, attached nowhere. EPERM before Linux 6.7; ENODEV without binfmt_misc.
    pub(super) fn mount() -> sys::Result<Registry> {
        mount::Fs::open("binfmt_misc")?.mount(mount::Attrs::INERT).map(Registry)
    }

    /// Registers an emulator; one that is registered already is fine.
    pub(super) fn add(&self, emulator: &Emulator) -> Result<(), Error> {
        let fail =
            |reason: String, hint: String| Error::NoEmulator { arch: emulator.arch, reason, hint };
        if is_static(&emulator.path) == Some(false) {
            return Err(fail(
                format!(
                    "{} is linked dynamically, so images cannot run it",
                    emulator.path.display()
                ),
                Emulator::advice(emulator.arch),
            ));
        }
        let name = format!("lapstrake-{}", emulator.arch.qemu_name());
        if dir::statx(self.0.as_fd(), name.as_bytes()).is_ok() {
            return Ok(());
        }
        let line = registration(&name, emulator);
        let open = node::open_write(self.0.as_fd(), b"register");
        let mut file = open.map_err(|e| fail(e.one_line(), String::new()))?;
        file.write_all(&line).map_err(|e| {
            let hint = if Some(Errno::NOSPC) == e.raw_os_error().map(Errno::from_raw_os_error) {
                "raise the limit: sudo sysctl -w user.max_binfmt_misc_interpreters=64"
            } else {
                "the emulator must be an executable file that this user may read"
            };
            fail(format!("cannot register {}: {e}", emulator.path.display()), hint.into())
        })
    }
}

/// Makes the line that registers an emulator (kernel, admin-guide/binfmt-misc.rst).
fn registration(name: &str, emulator: &Emulator) -> Vec<u8> {
    let (magic, mask) = emulator.arch.magic();
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("\\x{b:02x}")).collect() };
    let mut line = format!(":{name}:M::{}:{}:", hex(&magic), hex(&mask)).into_bytes();
    line.extend_from_slice(emulator.path.as_os_str().as_bytes());
    line.extend_from_slice(b":POCF");
    line
}

/// Checks whether the host's own registrations cover these architectures, where the namespace cannot
/// have its own.
pub(super) fn host_covers(emulators: &[Emulator], refused: &sys::Error) -> Result<(), Error> {
    for emulator in emulators {
        let arch = emulator.arch;
        if !host_runs(arch) {
            return Err(Error::NoEmulator {
                arch,
                reason: format!(
                    "the kernel gives a user namespace no binfmt_misc of its own ({}; Linux 6.7 \
                     does), and the host has no registration for it",
                    refused.one_line()
                ),
                hint: "register emulators on the host, with flag F: sudo apt-get install \
                       qemu-user-static binfmt-support (or: docker run --privileged --rm \
                       tonistiigi/binfmt --install all)"
                    .into(),
            });
        }
    }
    Ok(())
}

/// Finds out whether the kernel has a handler for an architecture, by executing a program that is
/// nothing but a header: without a handler that is ENOEXEC.
pub(super) fn host_runs(arch: Arch) -> bool {
    let try_it = || -> std::io::Result<bool> {
        let mut file = sys::mem::memfd_executable("lapstrake-probe")?;
        let (magic, _) = arch.magic();
        let mut head = [0u8; 64];
        head[..magic.len()].copy_from_slice(&magic);
        file.write_all(&head)?;
        let number = std::os::fd::AsRawFd::as_raw_fd(&file);
        let program = File::open(format!("/proc/self/fd/{number}"))?;
        drop(file);
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let spawned = process::spawn(&process::Spawn {
            program: program.as_fd(),
            args: &[c"probe".to_owned()],
            env: &[],
            fds: &[null.as_fd(), null.as_fd(), null.as_fd()],
            namespaces: cred::Namespaces::NONE,
        });
        match spawned {
            Ok(child) => {
                child.kill()?;
                child.wait()?;
                Ok(true)
            }
            Err(e) if e.is(Errno::NOEXEC) => Ok(false),
            Err(e) => Err(e.into()),
        }
    };
    try_it().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_arch_has_its_row() {
        for (i, t) in TRAITS.iter().enumerate() {
            assert_eq!(t.arch as usize, i);
            assert_eq!(Arch::from_oci(t.oci), Some(t.arch));
        }
        assert_eq!(Arch::from_oci("sparc"), None);
        assert!(Arch::host().is_none_or(Arch::is_native));
    }

    #[test]
    fn programs_are_recognised_by_their_header() {
        let mut head = *b"\x7fELF\x02\x01\x01\x03\0\0\0\0\0\0\0\0\x03\0\xb7\0";
        assert_eq!(Arch::of_program(&head), Some(Arch::Arm64));
        head[16] = 1;
        assert_eq!(Arch::of_program(&head), None, "an object file is no program");
        assert_eq!(
            Arch::of_program(b"\x7fELF\x02\x02\x01\0\0\0\0\0\0\0\0\0\0\x02\0\x16"),
            Some(Arch::S390x)
        );
        assert_eq!(Arch::of_program(b"#!/bin/sh\n"), None);
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(Arch::of_program(&own), Arch::host());
    }

    #[test]
    fn a_registration_names_flags_and_masks() {
        let emulator = Emulator { arch: Arch::S390x, path: "/q".into() };
        assert_eq!(
            String::from_utf8(registration("x", &emulator)).unwrap(),
            ":x:M::\\x7f\\x45\\x4c\\x46\\x02\\x02\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\
             \\x00\\x02\\x00\\x16:\
             \\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\
             \\xff\\xfe\\xff\\xff:/q:POCF"
        );
    }
}
