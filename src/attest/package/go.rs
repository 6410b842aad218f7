//! The build information that Go puts into executables (Go's `debug/buildinfo`).
//!
//! Since Go 1.18: 16 bytes of magic, size and flags, padded to 32, then two strings with their length
//! in front as a varint: the version of Go, and a text of tab-separated lines between two marks of 16
//! bytes. Older programs hold addresses instead, and are left out.

use super::{Package, simple};

const MAGIC: &[u8] = b"\xff Go buildinf:";
/// Magic and flags stand at a multiple of this.
const ALIGN: usize = 16;
/// Where the strings begin.
const HEADER: usize = 32;
/// In the flags: the strings follow.
const INLINE: u8 = 2;
/// Length of the marks around the text.
const MARK: usize = 16;

/// Gives the modules that an executable was made of, and Go's own library.
pub(super) fn modules(program: &[u8]) -> Vec<Package> {
    let finder = memchr::memmem::Finder::new(MAGIC);
    // The linker's own programs hold the magic as a constant too, so the first one that makes sense.
    finder.find_iter(program).find_map(|at| read(&program[at..], at)).unwrap_or_default()
}

fn read(data: &[u8], at: usize) -> Option<Vec<Package>> {
    if !at.is_multiple_of(ALIGN) || data.get(15)? & INLINE == 0 {
        return None;
    }
    let mut rest = data.get(HEADER..)?;
    let go = string(&mut rest)?;
    let version = std::str::from_utf8(go).ok()?.strip_prefix("go")?.split(' ').next()?;
    let text = string(&mut rest)?;
    let text = match text.len() {
        0 => "",
        len => std::str::from_utf8(text.get(MARK..len.checked_sub(MARK)?)?).ok()?,
    };
    let mut out = vec![module("stdlib", version)];
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        match fields[..] {
            ["mod" | "dep", path, version, ..] => out.push(module(path, version)),
            // What stands after `=>` is used instead of the line before.
            ["=>", path, version, ..] => {
                if out.len() > 1 {
                    out.pop();
                }
                out.push(module(path, version));
            }
            _ => {}
        }
    }
    Some(out)
}

fn module(path: &str, version: &str) -> Package {
    let (namespace, name) = path.rsplit_once('/').unwrap_or(("", path));
    // `(devel)` is what was built from a checkout.
    let version = if version.starts_with('(') { "" } else { version };
    simple("golang", namespace, name, version)
}

/// Takes a string with its length in front.
fn string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut len = 0u64;
    let mut shift = 0;
    loop {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        len |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            break;
        }
        shift += 7;
        if shift > 35 {
            return None;
        }
    }
    let (head, tail) = rest.split_at_checked(usize::try_from(len).ok()?)?;
    *rest = tail;
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(text: &str) -> Vec<u8> {
        let mut out = b"\x7fELF".to_vec();
        out.resize(64, 0);
        out.extend(MAGIC);
        out.extend([8, INLINE]);
        out.resize(64 + HEADER, 0);
        out.push(8);
        out.extend(b"go1.22.1");
        let framed = [&[b'a'; MARK][..], text.as_bytes(), &[b'b'; MARK][..]].concat();
        out.extend([
            u8::try_from(framed.len() & 0x7f).unwrap() | 0x80,
            u8::try_from(framed.len() >> 7).unwrap(),
        ]);
        out.extend(framed);
        out.extend(b"tail");
        out
    }

    #[test]
    fn modules_of_a_program() {
        let text = "path\tx.example/cmd\nmod\tx.example/cmd\t(devel)\t\ndep\tgithub.com/pkg/errors\tv0.9.1\th1:abc=\n\
                    dep\told.example/a\tv1.0.0\n=>\tnew.example/a\tv1.0.1\th1:x=\nbuild\t-compiler=gc\n";
        let purls: Vec<String> =
            modules(&program(text)).into_iter().map(|found| found.purl).collect();
        assert_eq!(
            purls,
            [
                "pkg:golang/stdlib@1.22.1",
                "pkg:golang/x.example/cmd",
                "pkg:golang/github.com/pkg/errors@v0.9.1",
                "pkg:golang/new.example/a@v1.0.1",
            ]
        );
    }

    #[test]
    fn what_is_no_go_program_has_no_modules() {
        let mut unaligned = program("mod\ta\tv1\n");
        unaligned.insert(0, 0);
        let mut cut = program("mod\ta\tv1\n");
        cut.truncate(110);
        for bytes in [b"#!/bin/sh\n".to_vec(), MAGIC.to_vec(), unaligned, cut, Vec::new()] {
            assert_eq!(modules(&bytes), []);
        }
    }
}
