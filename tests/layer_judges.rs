//! GNU tar and Python's tarfile as independent judges: they read what we write, we read what they
//! write. A judge that is not installed is skipped with a line that says so.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use lapstrake::layer::compress::{Decoder, Encoder};
use lapstrake::layer::tar::Reader;
use lapstrake::layer::{
    Compression, Entry, EntryRef, Kind, KindRef, PackOptions, RootPath, Toc, TocBuilder, pack,
};

/// Says whether a program runs; prints why a test does nothing otherwise.
fn have(program: &str) -> bool {
    let found =
        Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success());
    if !found {
        println!("SKIP {program} is not installed");
    }
    found
}

/// Runs a program with `input` on its standard input; gives its standard output.
fn run(program: &str, args: &[&str], dir: &Path, input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(args)
        .current_dir(dir)
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("judge starts");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let out = std::thread::scope(|scope| {
        // A judge may stop reading at the end of the archive.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().expect("judge ends")
    });
    assert!(out.status.success(), "{program} {args:?} failed");
    out.stdout
}

fn entry(path: &str, kind: Kind) -> Entry {
    Entry {
        path: RootPath::from(path),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: 1_700_000_000,
        xattrs: BTreeMap::new(),
    }
}

fn data(path: &[u8], size: u64) -> Vec<u8> {
    (0..size).map(|i| (i as u8).wrapping_mul(path.len() as u8 | 1)).collect()
}

/// A layer with everything that a tar can hold.
fn zoo() -> Toc {
    let long = ["long"; 60].join("/");
    let file = |path: &str, size| entry(path, Kind::File { size, digest: None });
    let cap = [&[1, 0, 0, 2][..], &[0, 0x20, 0, 0], &[0; 12]].concat();
    let xattrs = BTreeMap::from([
        (b"security.capability".to_vec(), cap),
        (b"user.newline".to_vec(), b"a\n20 path=/etc/evil\n\0\xff".to_vec()),
    ]);
    let mut builder = TocBuilder::new();
    builder.extend([
        Entry { mode: 0o1777, ..entry("tmp", Kind::Dir) },
        Entry { mode: 0o4755, xattrs, ..file("bin/ping", 70_000) },
        Entry { uid: 3_000_000_000, gid: 2_097_152, ..file("big-ids", 1) },
        Entry { mtime: -5, ..file("old", 0) },
        Entry { mtime: 9_000_000_000, ..file("late", 0) },
        file(&long, 513),
        file("umläut \u{1b}\n", 512),
        file(&"n".repeat(255), 3),
        entry("s", Kind::Symlink(long.clone().into_bytes())),
        entry("t", Kind::Symlink(b"../x".to_vec())),
        entry("a-link", Kind::Hardlink("bin/ping".into())),
        entry("z-link", Kind::Hardlink("bin/ping".into())),
        Entry { mode: 0o600, ..entry("dev/sda1", Kind::BlockDevice { major: 8, minor: 1 }) },
        entry("dev/tty", Kind::CharDevice { major: 5, minor: 1_048_575 }),
        entry("fifo", Kind::Fifo),
        Entry::whiteout("tmp/gone".into()),
        Entry { kind: Kind::Opaque, ..Entry::whiteout("tmp".into()) },
    ]);
    let toc = builder.finish();
    toc.check().expect("a proper layer");
    toc
}

fn packed(toc: &Toc, compression: Compression) -> Vec<u8> {
    let mut open = |entry: &EntryRef<'_>| -> io::Result<Box<dyn Read>> {
        let KindRef::File { size, .. } = entry.kind else { unreachable!("only files are opened") };
        Ok(Box::new(io::Cursor::new(data(entry.path, size))))
    };
    let mut blob = Vec::new();
    let options = PackOptions { compression, threads: 2, epoch: None };
    pack(toc, &mut open, options, &mut blob).expect("pack");
    blob
}

/// Lists an archive as Python sees it: one JSON array a line.
const PYTHON_LIST: &str = r#"
import sys, tarfile, json, io
raw = sys.stdin.buffer.read()
t = tarfile.open(fileobj=io.BytesIO(raw), encoding='utf-8', errors='surrogateescape')
for m in t:
    content = t.extractfile(m).read() if m.isreg() else b''
    b = lambda s: s.encode('utf-8', 'surrogateescape').hex()
    x = {k[13:]: b(v) for k, v in m.pax_headers.items() if k.startswith('SCHILY.xattr.')}
    print(json.dumps([b(m.name), m.type.decode(), m.mode, m.uid, m.gid, int(m.mtime), m.size,
                      b(m.linkname), m.devmajor, m.devminor, m.uname + m.gname,
                      sum(content) % 65521, x]))
"#;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// What Python should list for an entry.
fn as_python(entry: &Entry) -> serde_json::Value {
    let (mut name, mut mode, mut size, mut sum) =
        (entry.path.as_bytes().to_vec(), entry.mode, 0, 0);
    let (mut link, mut device) = (Vec::new(), (0, 0));
    let kind = match &entry.kind {
        Kind::File { size: bytes, .. } => {
            size = *bytes;
            sum = data(entry.path.as_bytes(), size).iter().map(|&b| u64::from(b)).sum::<u64>();
            "0"
        }
        Kind::Hardlink(target) => {
            link = target.as_bytes().to_vec();
            "1"
        }
        Kind::Symlink(target) => {
            link = target.clone();
            "2"
        }
        Kind::CharDevice { major, minor } => {
            device = (*major, *minor);
            "3"
        }
        Kind::BlockDevice { major, minor } => {
            device = (*major, *minor);
            "4"
        }
        Kind::Dir => "5",
        Kind::Fifo => "6",
        Kind::Whiteout => {
            let base = [b".wh.", entry.path.file_name().expect("a name")].concat();
            name = entry.path.parent().expect("a parent").join(&base).as_bytes().to_vec();
            mode = 0;
            "0"
        }
        Kind::Opaque => {
            name = entry.path.join(b".wh..wh..opq").as_bytes().to_vec();
            mode = 0;
            "0"
        }
    };
    let xattrs: BTreeMap<String, String> = entry
        .xattrs
        .iter()
        .map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), hex(value)))
        .collect();
    serde_json::json!([
        hex(&name),
        kind,
        mode,
        entry.uid,
        entry.gid,
        entry.mtime,
        size,
        hex(&link),
        device.0,
        device.1,
        "",
        sum % 65521,
        xattrs
    ])
}

#[test]
fn python_reads_what_we_write() {
    if !have("python3") {
        return;
    }
    let toc = zoo();
    let dir = tempfile::tempdir().expect("tempdir");
    for compression in [Compression::GZIP, Compression::None] {
        let blob = packed(&toc, compression);
        let out = run("python3", &["-c", PYTHON_LIST], dir.path(), &blob);
        let lines = String::from_utf8(out).expect("ascii");
        let seen: Vec<serde_json::Value> =
            lines.lines().map(|line| serde_json::from_str(line).expect("json")).collect();
        let expect: Vec<serde_json::Value> =
            toc.tar_order().into_iter().map(|row| as_python(&toc.at(row).to_entry())).collect();
        for (seen, expect) in seen.iter().zip(&expect) {
            assert_eq!(seen, expect);
        }
        assert_eq!(seen.len(), expect.len());
    }
}

#[test]
fn gnu_tar_reads_what_we_write() {
    if !have("tar") {
        return;
    }
    let toc = zoo();
    let dir = tempfile::tempdir().expect("tempdir");
    let blob = packed(&toc, Compression::None);
    let list = ["--list", "--numeric-owner", "--quoting-style=escape", "-f", "-"];
    let names = String::from_utf8(run("tar", &list, dir.path(), &blob)).expect("ascii");
    assert_eq!(names.lines().count(), toc.len());
    assert!(names.lines().any(|line| line == "tmp/.wh.gone"), "{names}");
    assert!(names.lines().any(|line| line == "uml\\303\\244ut \\033\\n"), "{names}");
    let verbose = [&list[..], &["-vv", "--xattrs-include=*", "--full-time"]].concat();
    let out = run("tar", &verbose, dir.path(), &blob);
    let text = String::from_utf8_lossy(&out);
    for expect in [
        "-rwsr-xr-x",
        "drwxrwxrwt",
        "3000000000/2097152",
        "1969-12-31 23:59:55",
        "2255-03-14 16:00:00",
        "8,1",
        "5,1048575",
        "link to",
        "x: 20 security.capability",
        "x: 22 user.newline",
    ] {
        assert!(text.contains(expect), "{expect} is not in\n{text}");
    }
}

#[test]
fn gnu_tar_extracts_what_we_write() {
    if !have("tar") {
        return;
    }
    // What anybody may make in a directory, whoever runs this.
    let toc: Toc = zoo()
        .iter()
        .map(|row| Entry { uid: 0, gid: 0, xattrs: BTreeMap::new(), ..row.to_entry() })
        .filter(|entry| !matches!(entry.kind, Kind::BlockDevice { .. } | Kind::CharDevice { .. }))
        .collect();
    let dir = tempfile::tempdir().expect("tempdir");
    let extract = ["--extract", "--gzip", "--no-same-owner", "-f", "-"];
    run("tar", &extract, dir.path(), &packed(&toc, Compression::GZIP));
    for row in toc.iter() {
        let path = dir.path().join(String::from_utf8_lossy(row.path).as_ref());
        match row.kind {
            KindRef::File { size, .. } => {
                assert!(std::fs::read(&path).expect("file") == data(row.path, size), "{path:?}");
            }
            KindRef::Hardlink(target) => {
                assert!(std::fs::read(&path).expect("link") == data(target, 70_000), "{path:?}");
            }
            KindRef::Symlink(target) => {
                let found = std::fs::read_link(&path).expect("symlink");
                assert_eq!(found.as_os_str().as_encoded_bytes(), target);
            }
            KindRef::Dir => assert!(path.is_dir()),
            _ => {}
        }
    }
}

fn read_layer(archive: &[u8]) -> Vec<(Entry, Vec<u8>)> {
    let mut reader = Reader::new(Decoder::new(archive).expect("decoder"));
    let mut entries = Vec::new();
    while let Some((entry, mut content)) = reader.next_entry().expect("entry") {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes).expect("content");
        entries.push((entry, bytes));
    }
    entries
}

fn find<'a>(entries: &'a [(Entry, Vec<u8>)], path: &str) -> &'a (Entry, Vec<u8>) {
    let path = RootPath::from(path);
    entries.iter().find(|(entry, _)| entry.path == path).expect("listed")
}

#[test]
fn we_read_what_gnu_tar_writes() {
    if !have("tar") {
        return;
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let long = ["directory"; 20].join("/");
    std::fs::create_dir_all(dir.path().join("in").join(&long)).expect("mkdir");
    let at = |name: &str| dir.path().join("in").join(name);
    std::fs::write(at(&format!("{long}/deep")), b"deep").expect("write");
    std::fs::write(at(&"n".repeat(200)), b"name").expect("write");
    std::os::unix::fs::symlink("t".repeat(150), at("link")).expect("symlink");
    std::fs::write(at("one"), b"one").expect("write");
    std::fs::hard_link(at("one"), at("two")).expect("link");
    let sparse = std::fs::File::create(at("sparse")).expect("create");
    for piece in 0..30u64 {
        use std::os::unix::fs::FileExt;
        sparse.write_all_at(&[piece as u8 + 1; 4096], piece * 200_000).expect("write");
    }
    sparse.set_len(7_000_000).expect("truncate");
    drop(sparse);
    let expect_sparse = std::fs::read(at("sparse")).expect("read");
    for format in [
        &["--format=gnu"][..],
        &["--format=pax"],
        &["--format=gnu", "--sparse"],
        &["--format=pax", "--sparse", "--sparse-version=0.0"],
        &["--format=pax", "--sparse", "--sparse-version=0.1"],
        &["--format=pax", "--sparse", "--sparse-version=1.0"],
        &["--format=gnu", "--sparse", "--gzip"],
    ] {
        let args = [&["--create", "--sort=name", "-f", "-", "-C", "in"], format, &["."]].concat();
        let entries = read_layer(&run("tar", &args, dir.path(), b""));
        assert!(find(&entries, "sparse").1 == expect_sparse, "{format:?}");
        assert_eq!(find(&entries, &format!("{long}/deep")).1, b"deep", "{format:?}");
        assert_eq!(find(&entries, &"n".repeat(200)).1, b"name", "{format:?}");
        assert_eq!(find(&entries, "one").1, b"one", "{format:?}");
        let toc: Toc = entries.iter().map(|(entry, _)| entry.clone()).collect();
        toc.check().expect("a proper layer");
        let kind = |path: &[u8]| toc.get(path).map(|row| row.kind.to_kind());
        assert_eq!(kind(b"two"), Some(Kind::Hardlink("one".into())));
        assert_eq!(kind(b"link"), Some(Kind::Symlink("t".repeat(150).into_bytes())));
    }
}

/// Writes an archive in each of Python's formats and compressions.
const PYTHON_WRITE: &str = r#"
import sys, tarfile, io
fmt, comp = int(sys.argv[1]), sys.argv[2]
out = io.BytesIO()
t = tarfile.open(fileobj=out, mode='w:' + comp, format=fmt)
def add(name, data=b'', **kw):
    i = tarfile.TarInfo(name)
    for k, v in kw.items(): setattr(i, k, v)
    if i.isreg(): i.size = len(data)
    t.addfile(i, io.BytesIO(data) if i.isreg() else None)
add('d', type=tarfile.DIRTYPE, mode=0o755)
add('d/file', b'x' * 1000, uid=1000, gid=1000, mtime=1.75 if fmt == 2 else 1)
add('/'.join(['p' * 30] * 4), b'split')
add('d/link', type=tarfile.SYMTYPE, linkname='../file')
add('d/hard', type=tarfile.LNKTYPE, linkname='d/file')
add('d/null', type=tarfile.CHRTYPE, devmajor=1, devminor=3)
add('d/.wh.gone')
if fmt != 0:
    add('l' * 200, b'long', uid=2**31)
    add('u\u00e4', b'umlaut')
t.close()
sys.stdout.buffer.write(out.getvalue())
"#;

#[test]
fn we_read_what_python_writes() {
    if !have("python3") {
        return;
    }
    let dir = tempfile::tempdir().expect("tempdir");
    for (format, compression) in
        [("0", ""), ("1", ""), ("2", ""), ("2", "gz"), ("1", "bz2"), ("2", "xz")]
    {
        let archive = run("python3", &["-c", PYTHON_WRITE, format, compression], dir.path(), b"");
        let entries = read_layer(&archive);
        let (file, content) = find(&entries, "d/file");
        assert_eq!((file.mtime, file.uid, content.len()), (1, 1000, 1000));
        assert_eq!(find(&entries, &["p".repeat(30).as_str(); 4].join("/")).1, b"split");
        assert_eq!(find(&entries, "d/hard").0.kind, Kind::Hardlink("d/file".into()));
        assert_eq!(find(&entries, "d/null").0.kind, Kind::CharDevice { major: 1, minor: 3 });
        assert_eq!(find(&entries, "d/gone").0.kind, Kind::Whiteout);
        if format != "0" {
            assert_eq!(find(&entries, &"l".repeat(200)).0.uid, 1 << 31);
            assert_eq!(find(&entries, "uä").1, b"umlaut");
        }
    }
}

#[test]
fn other_decompressors_read_our_blobs() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut noise = 1u64;
    let mut raw = b"some text that repeats itself, more or less\n".repeat(60_000);
    raw.extend((0..1_500_000).map(|_| {
        noise = noise.wrapping_mul(6364136223846793005).wrapping_add(1);
        (noise >> 33) as u8
    }));
    raw.extend(b"and again ".repeat(80_000));
    for (program, compression) in [("gzip", Compression::GZIP), ("zstd", Compression::ZSTD)] {
        if !have(program) {
            continue;
        }
        let mut encoder = Encoder::new(Vec::new(), compression, 2);
        encoder.write_all(&raw).expect("compress");
        let blob = encoder.finish().expect("compress");
        assert!(run(program, &["-dc"], dir.path(), &blob) == raw, "{program}");
    }
}
