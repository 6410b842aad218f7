//! The cases of foreign programs, which are made here of a few machine instructions.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use lapstrake::sandbox::{Arch, Emulator, Error, Status};

use super::bench::{Bench, Done, Skip, path};

/// Makes an executable of one segment that holds `code`.
fn program(machine: u16, flags: u32, code: &[u32]) -> Vec<u8> {
    let code: Vec<u8> = code.iter().flat_map(|w| w.to_le_bytes()).collect();
    let base: u64 = 0x1_0000;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0".to_vec();
    elf.extend(machine.to_le_bytes());
    elf.extend(1u32.to_le_bytes());
    for word in [base + 120, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(flags.to_le_bytes());
    for half in [64u16, 56, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    let size = 120 + code.len() as u64;
    elf.extend([1u32.to_le_bytes(), 5u32.to_le_bytes()].concat());
    for word in [0, base, base, size, size, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    elf
}

/// AArch64: exit(code).
fn arm64_exit(code: u32) -> Vec<u8> {
    program(183, 0, &[0xd280_0000 | (code << 5), 0xd280_0ba8, 0xd400_0001])
}

/// AArch64: exit(geteuid()).
fn arm64_exit_euid() -> Vec<u8> {
    program(183, 0, &[0xd280_15e8, 0xd400_0001, 0xd280_0ba8, 0xd400_0001])
}

/// RISC-V: exit(code).
fn riscv64_exit(code: u32) -> Vec<u8> {
    program(243, 5, &[(code << 20) | (10 << 7) | 0x13, (93 << 20) | (17 << 7) | 0x13, 0x73])
}

fn put(path: &Path, bytes: &[u8], mode: u32) {
    std::fs::write(path, bytes).expect("write");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
}

fn find(arch: Arch) -> Result<Emulator, Skip> {
    if arch.is_native() {
        return Err(Skip(format!("{arch} is this host's own")));
    }
    Emulator::find(arch, &path()).ok_or(Skip(format!("no emulator of {arch} is installed")))
}

fn register(bench: &mut Bench, emulators: &[Emulator]) -> Result<(), Skip> {
    bench.session.register_emulators(emulators).map_err(|e| Skip(format!("{e} {:?}", e.hint())))
}

pub fn foreign_programs_run(_: &str) -> Done {
    let mut bench = Bench::new()?;
    let emulators = [find(Arch::Arm64)?, find(Arch::Riscv64)?];
    register(&mut bench, &emulators)?;
    register(&mut bench, &emulators)?;
    let image = bench.fresh("image");
    put(&image.join("arm"), &arm64_exit(42), 0o755);
    put(&image.join("riscv"), &riscv64_exit(43), 0o755);
    // Both platforms at the same time, in one session.
    std::thread::scope(|scope| {
        for (name, code) in [("/arm", 42), ("/riscv", 43)] {
            let (bench, image) = (&bench, &image);
            scope.spawn(move || {
                for no_aslr in [false, true] {
                    let mut spec = bench.spec("");
                    spec.lowers.push(image.clone());
                    spec.args = vec![name.into()];
                    spec.no_aslr = no_aslr;
                    let ran = bench.run_spec(&spec);
                    assert_eq!(ran.outcome.status, Status::Exited(code), "{name} {}", ran.err);
                }
            });
        }
    });
    let mut spec = bench.spec("/arm; echo $?; ls /proc/sys/fs/binfmt_misc 2>/dev/null; true");
    spec.lowers.push(image);
    let ran = bench.run_spec(&spec);
    assert!(ran.ok().starts_with("42") && !ran.out.contains("lapstrake"), "{ran:?}");
    // The host does not see the registrations.
    for dir in ["/proc/sys/fs/binfmt_misc", "/proc/1/root/proc/sys/fs/binfmt_misc"] {
        let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let ours = names.filter(|n| n.file_name().to_string_lossy().contains("lapstrake"));
        assert_eq!(ours.count(), 0);
    }
    Ok(())
}

pub fn foreign_setuid_programs_gain_ids(_: &str) -> Done {
    let mut bench = Bench::new()?;
    if !bench.has_range() {
        return Err(Skip("one id only: nobody can become anybody".into()));
    }
    let emulator = find(Arch::Arm64)?;
    register(&mut bench, &[emulator])?;
    let image = bench.fresh("image");
    put(&image.join("euid"), &arm64_exit_euid(), 0o755);
    put(&image.join("setuid"), &arm64_exit_euid(), 0o755);
    std::os::unix::fs::chown(image.join("setuid"), Some(7), Some(7)).expect("chown");
    std::fs::set_permissions(image.join("setuid"), std::fs::Permissions::from_mode(0o4755))
        .expect("chmod");
    for (name, code) in [("/euid", 33), ("/setuid", 7)] {
        let mut spec = bench.spec("");
        spec.lowers.push(image.clone());
        spec.args = vec![name.into()];
        spec.user = "33".into();
        assert_eq!(bench.run_spec(&spec).outcome.status, Status::Exited(code), "{name}");
    }
    Ok(())
}

pub fn without_an_emulator_the_error_says_so(_: &str) -> Done {
    let mut bench = Bench::new()?;
    let image = bench.fresh("image");
    put(&image.join("arm"), &arm64_exit(1), 0o755);
    let mut spec = bench.spec("");
    spec.lowers.push(image);
    spec.args = vec!["/arm".into()];
    let host_has_it = std::fs::exists("/proc/sys/fs/binfmt_misc/qemu-aarch64").unwrap_or(false);
    if !Arch::Arm64.is_native() && !host_has_it {
        let ran = bench.run_spec(&spec);
        let Status::NotStarted { code: 126, hint: Some(hint), .. } = &ran.outcome.status else {
            panic!("{:?}", ran.outcome.status)
        };
        assert!(hint.contains("arm64") && hint.contains("qemu-user-static"), "{hint}");
    }
    for (path, text) in [("/nowhere/qemu", "cannot register"), ("/bin/sh", "dynamically")] {
        let emulator = Emulator { arch: Arch::S390x, path: path.into() };
        match bench.session.register_emulators(&[emulator]) {
            Err(Error::NoEmulator { reason, .. }) if reason.contains("Linux 6.7") => {
                return Err(Skip(reason));
            }
            Err(e) => assert!(e.to_string().contains(text), "{e}"),
            Ok(()) => panic!("{path} was accepted"),
        }
    }
    Ok(())
}
