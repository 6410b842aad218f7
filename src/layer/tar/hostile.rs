//! Archives made to do harm: what each does to a careless reader, and that ours confines or refuses
//! it. Named after the list of attacks that every image tool has met.

use super::header::BLOCK;
use super::tests::{entry, file, header, link, padded, pax, read_all, read_parts, regular};
use super::*;
use crate::layer::toc::{Entry, Kind};

/// Reads and draws the paths with kinds, or the error.
fn draw(parts: &[Vec<u8>]) -> String {
    match read_parts(parts) {
        Err(error) => error.to_string(),
        Ok(entries) => {
            let lines = entries.iter().map(|(entry, _)| match &entry.kind {
                Kind::Dir => format!("{}/", entry.path),
                Kind::Symlink(target) => format!("{} -> {}", entry.path, target.escape_ascii()),
                Kind::Hardlink(target) => format!("{} = {target}", entry.path),
                Kind::Whiteout => format!("{} deleted", entry.path),
                Kind::Opaque => format!("{} opaque", entry.path),
                _ => entry.path.to_string(),
            });
            lines.collect::<Vec<_>>().join(", ")
        }
    }
}

fn check(cases: &[(&str, Vec<Vec<u8>>, &str)]) {
    for (what, parts, expect) in cases {
        assert_eq!(draw(parts), *expect, "{what}");
    }
}

fn dir(name: &[u8]) -> Vec<u8> {
    header(b'5', name, |_| {})
}

fn symlink(name: &[u8], target: &[u8]) -> Vec<u8> {
    link(b'2', name, target)
}

#[test]
fn case_1_paths_are_confined() {
    check(&[
        ("dots", vec![file(b"../../x", b"")], "/x"),
        ("absolute", vec![file(b"/abs/x", b"")], "/abs/x"),
        ("dots within", vec![file(b"a/../../x", b"")], "/x"),
        ("slashes", vec![file(b"//a//.//b/", b"")], "/a/b"),
        ("by PAX", vec![pax(b'x', &[("path", b"../../../etc/x")]), file(b"ok", b"")], "/etc/x"),
        ("only dots", vec![dir(b"../..")], "//"),
    ]);
}

#[test]
fn case_2_paths_through_links_of_the_archive_stay_inside() {
    check(&[
        (
            "absolute",
            vec![symlink(b"d", b"/tmp/victim"), file(b"d/x", b"")],
            "/d -> /tmp/victim, /tmp/victim/x",
        ),
        ("relative", vec![symlink(b"d", b"../../../"), file(b"d/x", b"")], "/d -> ../../../, /x"),
        (
            "chain",
            vec![symlink(b"a", b"b"), symlink(b"b", b"../../c"), file(b"a/x", b"")],
            "/a -> b, /b -> ../../c, /c/x",
        ),
        (
            "link through a link",
            vec![symlink(b"a", b"/"), symlink(b"a/b", b"/etc"), file(b"a/b/x", b"")],
            "/a -> /, /b -> /etc, /etc/x",
        ),
        (
            "replaced by a directory",
            vec![symlink(b"d", b"/tmp"), dir(b"d"), file(b"d/x", b"")],
            "/d -> /tmp, /d/, /d/x",
        ),
        (
            "loop",
            vec![symlink(b"a", b"b"), symlink(b"b", b"a"), file(b"a/x", b"")],
            "tar entry \"a/x\": too many levels of symbolic links",
        ),
        (
            "to itself",
            vec![symlink(b"a", b"a/b"), file(b"a/x", b"")],
            "tar entry \"a/x\": too many levels of symbolic links",
        ),
        (
            "the link itself is not followed",
            vec![symlink(b"d", b"/etc/passwd"), file(b"d", b"")],
            "/d -> /etc/passwd, /d",
        ),
    ]);
}

#[test]
fn case_3_the_root_is_a_directory() {
    let refused = "the root cannot be anything but a directory";
    for name in [&b"."[..], b"/.", b"./", b"/", b"a/..", b"../.."] {
        for entry in [symlink(name, b"/tmp"), file(name, b""), link(b'1', name, b"a")] {
            let drawn = draw(&[entry]);
            assert!(drawn.ends_with(refused), "{drawn}");
        }
        assert_eq!(draw(&[dir(name)]), "//");
    }
}

#[test]
fn case_4_hard_links_stay_in_the_layer() {
    check(&[
        ("dots", vec![link(b'1', b"a", b"../../etc/passwd")], "/a = /etc/passwd"),
        ("absolute", vec![link(b'1', b"a", b"/etc/passwd")], "/a = /etc/passwd"),
        (
            "through a link",
            vec![symlink(b"d", b"/etc"), link(b'1', b"a", b"d/passwd")],
            "/d -> /etc, /a = /etc/passwd",
        ),
        (
            "to itself",
            vec![link(b'1', b"a", b"./a")],
            "tar entry \"a\": hard link to itself or to the root",
        ),
        (
            "to the root",
            vec![link(b'1', b"a", b"..")],
            "tar entry \"a\": hard link to itself or to the root",
        ),
        ("to nothing", vec![link(b'1', b"a", b"")], "tar entry \"a\": link without a target"),
    ]);
    // Whether the target exists is known when the whole layer is.
    for (parts, expect) in [
        (
            vec![link(b'1', b"a", b"/etc/passwd")],
            Some("hard link /a names /etc/passwd, which the same layer does not have"),
        ),
        (
            vec![dir(b"d"), link(b'1', b"a", b"d")],
            Some("hard link /a names /d, which is a directory"),
        ),
        (vec![link(b'1', b"b", b"a"), file(b"a", b"")], None),
        (vec![symlink(b"s", b"/etc/passwd"), link(b'1', b"a", b"s")], None),
        (
            vec![file(b"f", b""), file(b"f/x", b"")],
            Some("/f/x lies below /f, which the same layer makes a non-directory"),
        ),
    ] {
        let entries = read_parts(&parts).expect("read");
        let toc: crate::layer::Toc = entries.into_iter().map(|(entry, _)| entry).collect();
        assert_eq!(toc.check().err().map(|fault| fault.to_string()).as_deref(), expect);
    }
}

#[test]
fn case_5_whiteouts_delete_only_what_they_name() {
    let nothing =
        |name: &str| format!("tar entry \"{name}\": whiteout names nothing that could be deleted");
    for name in [".wh...", ".wh..", ".wh.", "d/.wh...", ".wh.x/y", ".wh../etc"] {
        assert_eq!(draw(&[file(name.as_bytes(), b"")]), nothing(name));
    }
    check(&[
        (
            "opaque through a link",
            vec![symlink(b"d", b"/../tmp"), file(b"d/.wh..wh..opq", b"")],
            "/d -> /../tmp, /tmp opaque",
        ),
        (
            "whiteout through a link",
            vec![symlink(b"d", b"../.."), file(b"d/.wh.etc", b"")],
            "/d -> ../.., /etc deleted",
        ),
        ("above the root", vec![file(b"../../.wh.etc", b"")], "/etc deleted"),
        ("with a slash", vec![file(b".wh.etc/", b"")], "/etc deleted"),
    ]);
    let plain = read_all(Reader::plain(&file(b"a/.wh.b", b"")));
    let expect = "tar entry \"a/.wh.b\": names that start with .wh. mean deletion in image layers and \
                  cannot be stored";
    assert_eq!(plain.expect_err("reserved").to_string(), expect);
}

#[test]
fn case_6_devices_are_recorded() {
    let device = |kind: u8| header(kind, b"dev/x", |h| h.set_device(8, 1));
    let read =
        read_parts(&[device(b'3'), device(b'4'), header(b'6', b"dev/f", |_| {})]).expect("read");
    let kinds: Vec<&Kind> = read.iter().map(|(entry, _)| &entry.kind).collect();
    let (major, minor) = (8, 1);
    let expect =
        [&Kind::CharDevice { major, minor }, &Kind::BlockDevice { major, minor }, &Kind::Fifo];
    assert_eq!(kinds, expect);
    for kind in [b's', b'M', b'X', b'N', b'A', 0xff] {
        let drawn = draw(&[header(kind, b"x", |_| {})]);
        let expect = format!("tar entry \"x\": type {:?} is not supported", char::from(kind));
        assert_eq!(drawn, expect);
    }
}

#[test]
fn case_7_xattrs_of_overlayfs_are_stripped() {
    let v3 = [&[1, 0, 0, 3][..], &[7; 16], &[0, 0, 1, 0]].concat();
    let v2 = [&[1, 0, 0, 2][..], &[7; 16]].concat();
    let parts = [
        pax(
            b'x',
            &[
                ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
                ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
                ("SCHILY.xattr.user.overlay.metacopy", b""),
                ("SCHILY.xattr.user.overlay.whiteout", b""),
                ("SCHILY.xattr.security.capability", &v3),
                ("SCHILY.xattr.user.kept", b"a\nb=c\0"),
            ],
        ),
        header(b'0', b"x", |h| h.set_mode(0o6755)),
        header(b'5', b"t", |h| h.set_mode(0o1777)),
    ];
    let read = read_parts(&parts).expect("read");
    let names: Vec<String> =
        read[0].0.xattrs.keys().map(|name| name.escape_ascii().to_string()).collect();
    assert_eq!(names, ["security.capability", "user.kept"]);
    assert_eq!(read[0].0.xattrs[&b"security.capability"[..]], v2);
    assert_eq!(read[0].0.xattrs[&b"user.kept"[..]], b"a\nb=c\0");
    assert_eq!((read[0].0.mode, read[1].0.mode), (0o6755, 0o1777));
    assert!(read[1].0.xattrs.is_empty(), "records end with their entry");
}

#[test]
fn case_8_sizes_that_readers_would_disagree_on_are_refused() {
    // CVE-2025-62518: the inner archive shows to whoever takes the size of the header.
    let inner = [file(b"etc/evil", b"evil"), vec![0; 2 * BLOCK]].concat();
    let size = inner.len().to_string();
    for ustar in [0, 512, inner.len() as u64 * 2] {
        let parts = [
            pax(b'x', &[("size", size.as_bytes())]),
            header(b'0', b"outer", |h| h.set_size(ustar)),
            inner.clone(),
        ];
        let expect = format!(
            "tar entry \"outer\": header says {ustar} bytes, its PAX record {size}: readers would \
             disagree on what follows"
        );
        assert_eq!(draw(&parts), expect);
    }
    let agreeing = [pax(b'x', &[("size", b"4")]), file(b"ok", b"data")];
    assert_eq!(draw(&agreeing), "/ok");
    for (kind, what) in [(b'5', "directory"), (b'2', "symbolic link"), (b'3', "device")] {
        let with_data = header(kind, b"x", |h| {
            h.set_size(512);
            h.set_link_name(b"t");
        });
        let expect = format!("tar entry \"x\": {what} with 512 bytes of content");
        assert_eq!(draw(&[with_data, inner.clone()]), expect);
    }
}

#[test]
fn case_8_bombs_in_headers_are_refused_before_they_are_read() {
    let large = |kind: u8| header(kind, b"bomb", |h| h.set_size(1 << 30));
    let too_long = |what: &str| {
        format!("tar entry \"bomb\": {what} of 1073741824 bytes is too long (at most 1048576)")
    };
    assert_eq!(draw(&[large(b'L')]), too_long("name"));
    assert_eq!(draw(&[large(b'K')]), too_long("name"));
    assert_eq!(draw(&[large(b'x')]), too_long("extended header"));
    assert_eq!(draw(&[large(b'g')]), too_long("extended header"));
    // As many keys as fit are no trouble: unknown ones are dropped.
    let body: Vec<u8> = (0..60_000).flat_map(|i| format!("14 k{i:06}=vv\n").into_bytes()).collect();
    let head = header(b'x', b"x", |h| h.set_size(body.len() as u64));
    assert_eq!(draw(&[head, padded(&body), file(b"a", b"")]), "/a");
    let claims = header(b'0', b"huge", |h| h.set_size(0o77777777777));
    assert!(read_parts(&[claims]).is_err(), "ends long before");
    let twice = [pax(b'x', &[("path", b"a")]), pax(b'x', &[("path", b"b")]), file(b"c", b"")];
    assert!(draw(&twice).ends_with("extended header is given twice"));
    let two_names = [
        pax(b'x', &[("path", b"a")]),
        header(b'L', b"././@LongLink", |h| h.set_size(2)),
        padded(b"b\0"),
        file(b"c", b""),
    ];
    assert!(draw(&two_names).ends_with("name is given twice"));
    for key in ["path", "linkpath", "size", "GNU.sparse.major"] {
        let drawn = draw(&[pax(b'g', &[(key, b"1")]), file(b"a", b"")]);
        assert!(drawn.contains("global PAX header sets"), "{drawn}");
    }
}

#[test]
fn case_8_numbers_out_of_range_are_refused() {
    let base256 = |first: u8, rest: u8| {
        header(b'0', b"x", move |h| {
            h.0[108..116].fill(rest);
            h.0[108] = first;
        })
    };
    let bad = |what: &str| format!("tar entry \"x\": {what} is not a number that can be used");
    check(&[
        ("uid 2^56", vec![base256(0x80, 0xff)], &bad("uid")),
        ("uid -1", vec![base256(0xff, 0xff)], &bad("uid")),
        ("letters", vec![base256(b'z', b'z')], &bad("uid")),
        (
            "PAX uid 2^63",
            vec![pax(b'x', &[("uid", b"9223372036854775808")]), file(b"x", b"")],
            &bad("uid"),
        ),
        (
            "PAX uid -1 of 32 bits",
            vec![pax(b'x', &[("gid", b"4294967295")]), file(b"x", b"")],
            &bad("gid"),
        ),
        (
            "PAX mtime",
            vec![pax(b'x', &[("mtime", b"99999999999999999999")]), file(b"x", b"")],
            "tar entry \"PaxHeaders.0/x\": PAX record mtime has an impossible value",
        ),
        ("size", vec![header(b'0', b"x", |h| h.0[124..136].fill(0xff))], &bad("size")),
        (
            "PAX size 2^63",
            vec![pax(b'x', &[("size", b"9223372036854775808")]), file(b"x", b"")],
            "tar entry \"x\": PAX record size has an impossible value",
        ),
        (
            "NUL in a name",
            vec![pax(b'x', &[("path", b"a\0b")]), file(b"x", b"")],
            "tar entry \"PaxHeaders.0/x\": path contains a NUL byte",
        ),
        ("uid beyond 2^31", vec![pax(b'x', &[("uid", b"4294967294")]), file(b"x", b"")], "/x"),
    ]);
    let old =
        read_parts(&[pax(b'x', &[("mtime", b"-62135596800")]), file(b"x", b"")]).expect("year 1");
    assert_eq!(old[0].0, Entry { mtime: -62135596800, ..entry("x", regular(0)) });
}

#[test]
fn case_8_sparse_maps_are_checked() {
    let sparse = |size: &[u8], map: &[u8]| {
        vec![
            pax(
                b'x',
                &[
                    ("GNU.sparse.size", size),
                    ("GNU.sparse.map", map),
                    ("GNU.sparse.numblocks", b"1"),
                ],
            ),
            file(b"x", b"data"),
        ]
    };
    let bad = |what: &str| format!("tar entry \"x\": impossible sparse map: {what}");
    check(&[
        (
            "8 EiB",
            sparse(b"9223372036854775807", b"0,4"),
            "tar entry \"x\": sparse file of 9223372036854775807 bytes (at most 17592186044416)",
        ),
        ("beyond the end", sparse(b"10", b"8,4"), &bad("a piece lies beyond the end")),
        ("overflow", sparse(b"10", b"18446744073709551615,4"), &bad("a piece lies beyond the end")),
        ("more than stored", sparse(b"100", b"0,5"), &bad("its pieces are not what is stored")),
        ("count", sparse(b"100", b"0,2,2,2"), &bad("its length is not the one announced")),
    ]);
    let drawn = draw(&sparse(b"100", b"0,4,9"));
    assert!(drawn.contains("odd number"), "{drawn}");
    let endless = [
        pax(b'x', &[("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"100")]),
        file(b"x", &[&b"999\n"[..], &b"1\n".repeat(254)].concat()),
    ];
    assert_eq!(draw(&endless), bad("the map does not end"));
    let many = [
        pax(b'x', &[("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"100")]),
        file(b"x", b"99999999999\n1\n"),
    ];
    assert_eq!(draw(&many), bad("too many pieces"));
}

#[test]
fn case_10_names_are_kept_byte_for_byte() {
    let deep = b"d/".repeat(200_000);
    let read = read_parts(&[pax(b'x', &[("path", &deep)]), file(b"x", b"")]).expect("deep");
    assert_eq!(read[0].0.path.as_bytes().len(), deep.len() - 1);
    for name in [&b"new\nline"[..], b"\x1b[31mred", b"\xff\xfe", &[b'n'; 255], b"\x01\x7f\xc3\x28"]
    {
        let read = read_parts(&[pax(b'x', &[("path", name)]), file(b"x", b"")]).expect("name");
        assert_eq!(read[0].0.path.as_bytes(), name);
        let mut writer = Writer::new(Vec::new());
        writer.owned_entry(&read[0].0, &mut std::io::empty()).expect("write");
        let archive = writer.finish().expect("write");
        assert_eq!(read_all(Reader::new(&archive)).expect("read"), read);
    }
}

#[test]
fn damaged_headers_tell_where() {
    let mut archive = [file(b"a", b"x"), file(b"b", b"")].concat();
    archive[2 * BLOCK] ^= 1;
    let error = read_all(Reader::new(&archive)).expect_err("damaged").to_string();
    assert_eq!(error, "tar archive is damaged at byte 1024: wrong header checksum");
    let hidden = [vec![0; BLOCK], file(b"b", b"")].concat();
    let error = read_all(Reader::new(&hidden)).expect_err("hidden").to_string();
    assert_eq!(error, "tar archive is damaged at byte 0: wrong header checksum");
}
