//! Running programs of foreign architectures: which emulator, and how the kernel recognises them.

use std::fmt;
use std::path::PathBuf;

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

impl Arch {
    /// Reads the `architecture` of an OCI platform.
    pub fn from_oci(_name: &str) -> Option<Arch> {
        todo!()
    }

    /// Gives the `architecture` of an OCI platform.
    pub fn oci_name(self) -> &'static str {
        todo!()
    }

    /// Gives the architecture this program was compiled for.
    pub fn host() -> Option<Arch> {
        todo!()
    }

    /// Says whether this host's processor runs programs of this architecture by itself, and whether
    /// they need `personality32`.
    pub fn is_native(self) -> bool {
        todo!()
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
    pub fn find(_arch: Arch, _path: &[PathBuf]) -> Option<Emulator> {
        todo!()
    }
}
