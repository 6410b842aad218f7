//! The cases of layers: what a real kernel leaves in an upper directory, and what comes of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use lapstrake::layer::{Entry, Kind, KindRef, RootPath, Toc, TocBuilder, Tree, tar};
use lapstrake::sandbox::{Mount, MountKind};
use lapstrake::snapshot::{self, DiffOptions, StubKind, TreeWriter};

use super::bench::{Bench, Done, Ran};

fn entry(path: &str, kind: Kind, mode: u32) -> Entry {
    Entry { path: path.into(), kind, mode, uid: 0, gid: 0, mtime: 1000, xattrs: BTreeMap::new() }
}

fn file(path: &str, text: &str) -> (Entry, Vec<u8>) {
    let kind = Kind::File { size: text.len() as u64, digest: None };
    (entry(path, kind, 0o644), text.into())
}

fn dir(path: &str) -> (Entry, Vec<u8>) {
    (entry(path, Kind::Dir, 0o755), Vec::new())
}

fn owned(mut it: (Entry, Vec<u8>), uid: u32, gid: u32, mode: u32) -> (Entry, Vec<u8>) {
    (it.0.uid, it.0.gid, it.0.mode) = (uid, gid, mode);
    it
}

/// Makes a layer: its directory and its Toc.
fn layer(bench: &Bench, entries: &[(Entry, Vec<u8>)]) -> (PathBuf, Arc<Toc>) {
    let path = bench.fresh("layer");
    let mut writer = TreeWriter::new(&path, bench.session.id_map()).expect("writer");
    let mut toc = TocBuilder::new();
    for (entry, content) in entries {
        writer.entry(entry, &mut content.as_slice()).expect("entry");
        toc.push(entry.clone());
    }
    writer.finish().expect("finish");
    (path, Arc::new(toc.finish()))
}

/// Lists busybox's root as a layer.
fn base(bench: &Bench) -> Arc<Toc> {
    Arc::new(
        snapshot::diff(
            bench.lower(),
            &Tree::default(),
            bench.session.id_map(),
            &DiffOptions::default(),
        )
        .expect("diff of the base"),
    )
}

/// Runs a script on busybox and these layers; gives what it changed.
fn changes(bench: &Bench, layers: &[(PathBuf, Arc<Toc>)], user: &str, script: &str) -> Toc {
    let mut spec = bench.spec(script);
    spec.user = user.into();
    let mut tree = Tree::new(vec![base(bench)]);
    for (path, toc) in layers {
        spec.lowers.push(path.clone());
        tree.push(toc.clone());
    }
    let ran = bench.run_spec(&spec);
    ran.ok();
    diff(bench, &ran, &tree, &[])
}

fn diff(bench: &Bench, ran: &Ran, tree: &Tree, stubs: &[RootPath]) -> Toc {
    let owned = ran.outcome.owned.as_deref();
    let options = DiffOptions { owner: (ran.outcome.uid, ran.outcome.gid), stubs, owned, now: 5 };
    let toc = snapshot::diff(&ran.upper, tree, bench.session.id_map(), &options).expect("diff");
    toc.check().expect("a layer that can be laid out");
    toc
}

/// Shows a Toc, one line a path.
fn show(toc: &Toc) -> Vec<String> {
    toc.iter()
        .map(|e| {
            let what = match e.kind {
                KindRef::Dir => "dir".to_owned(),
                KindRef::File { size, .. } => format!("file({size})"),
                KindRef::Symlink(to) => format!("link({})", String::from_utf8_lossy(to)),
                KindRef::Hardlink(to) => format!("hard({})", String::from_utf8_lossy(to)),
                KindRef::Fifo => "fifo".to_owned(),
                KindRef::Whiteout => return format!("{} gone", e.root_path()),
                _ => "other".to_owned(),
            };
            format!("{} {what} {:o} {}:{}", e.root_path(), e.mode, e.uid, e.gid)
        })
        .collect()
}

pub fn changes_become_a_layer(_: &str) -> Done {
    let bench = Bench::new()?;
    let below = layer(
        &bench,
        &[
            dir("d"),
            file("d/a", "a"),
            file("d/b", "b"),
            dir("d/sub"),
            file("d/sub/x", "x"),
            dir("moved"),
            file("moved/f", "f"),
            file("linked", "l"),
            (entry("linked2", Kind::Hardlink("linked".into()), 0o644), vec![]),
            file("flip", "file"),
            dir("flop"),
            file("flop/f", "f"),
            dir("same"),
            file("same/f", "f"),
        ],
    );
    let toc = changes(
        &bench,
        &[below],
        "",
        "rm -r d && mkdir d && echo new > d/b && mkdir d/sub && echo y > d/sub/y; \
         mv moved elsewhere; echo more >> linked; \
         rm flip && mkdir flip && echo in > flip/f; rm -r flop && echo file > flop; \
         ln linked hard; ln -s /etc link; mkfifo pipe; \
         echo gone > t && rm t; touch same/t && rm same/t; mkdir -p 'a b/ü'; \
         chmod 4711 bin/busybox",
    );
    let shown = show(&toc);
    // Overlay breaks the link between lower files when one of them is written, as it does for
    // everyone (index=off).
    let expect = [
        "/a b dir 755 0:0",
        "/a b/ü dir 755 0:0",
        "/bin dir 755 0:0",
        &format!(
            "/bin/busybox file({}) 4711 0:0",
            std::fs::metadata(bench.lower().join("bin/busybox")).expect("stat").len()
        ),
        "/d dir 755 0:0",
        "/d/a gone",
        "/d/b file(4) 644 0:0",
        "/d/sub dir 755 0:0",
        "/d/sub/x gone",
        "/d/sub/y file(2) 644 0:0",
        "/elsewhere dir 755 0:0",
        "/elsewhere/f file(1) 644 0:0",
        "/flip dir 755 0:0",
        "/flip/f file(3) 644 0:0",
        "/flop file(5) 644 0:0",
        "/hard file(6) 644 0:0",
        "/link link(/etc) 777 0:0",
        "/linked hard(hard) 644 0:0",
        "/moved gone",
        "/pipe fifo 644 0:0",
    ];
    assert_eq!(shown, expect);
    Ok(())
}

pub fn owners_and_attributes_survive(_: &str) -> Done {
    let bench = Bench::new()?;
    // cap_net_raw+ep, in the form of version 2.
    let capability = b"\x01\x00\x00\x02\x00\x20\x00\x00\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    let mut ping = owned(file("ping", "ping"), 0, 0, 0o755);
    ping.0.xattrs.insert(b"security.capability".to_vec(), capability.clone());
    ping.0.xattrs.insert(b"user.note".to_vec(), b"a\nb\0".to_vec());
    ping.0.xattrs.insert(b"security.selinux".to_vec(), b"label".to_vec());
    let device = (entry("node", Kind::CharDevice { major: 1, minor: 3 }, 0o666), vec![]);
    let below = layer(
        &bench,
        &[
            ping,
            device,
            owned(dir("home/app"), 1000, 1001, 0o700),
            owned(file("home/app/f", "f"), 1000, 1001, 0o600),
            // Beyond every usual range, though not beyond root's.
            owned(file("far", "far"), 3_000_000_000, 3_000_000_001, 0o666),
            owned(dir("open"), 0, 0, 0o1777),
        ],
    );
    let toc = changes(
        &bench,
        std::slice::from_ref(&below),
        "",
        "chmod 711 ping; echo x >> far; echo x > open/mine; test ! -e node; chmod 750 home/app; \
         stat -c '%a' /open > /open/mode",
    );
    let get = |path: &str| toc.get(path.as_bytes()).expect(path);
    assert_eq!(get("ping").xattrs.get(b"security.capability".as_slice()), Some(&capability));
    assert_eq!(get("ping").xattrs.get(b"user.note".as_slice()), Some(&b"a\nb\0".to_vec()));
    assert_eq!(get("ping").xattrs.get(b"security.selinux".as_slice()), Some(&b"label".to_vec()));
    assert_eq!(get("ping").xattrs.len(), 3, "{:?}", get("ping").xattrs);
    assert_eq!(get("ping").mode, 0o711);
    assert_eq!((get("far").uid, get("far").gid), (3_000_000_000, 3_000_000_001));
    assert_eq!(
        (get("home/app").uid, get("home/app").gid, get("home/app").mode),
        (1000, 1001, 0o750)
    );
    assert!(toc.get(b"node").is_none() && !toc.whiteout(b"node"));

    // As a user: its own files, and those it had.
    let toc = changes(
        &bench,
        std::slice::from_ref(&below),
        "app",
        "cd /home/app && cat f > g && echo more >> f && mkdir d && ln -s f l && echo x > /open/u",
    );
    let app = |path: &str| {
        let e = toc.get(path.as_bytes()).expect(path);
        (e.uid, e.gid)
    };
    for path in ["home/app/f", "home/app/g", "home/app/d", "home/app/l", "open/u"] {
        assert_eq!(app(path), (1000, 1001), "{path}");
    }
    assert_eq!(app("open"), (0, 0));

    if bench.has_range() {
        let toc = changes(
            &bench,
            &[below],
            "",
            "echo x > f; chown 33:44 f; chmod 6755 f; chown 1:2 far; mkdir g; chown 7:8 g; \
             chmod 2775 g; echo x > g/h; ln -s x l; chown -h 5:6 l",
        );
        let shown = show(&toc);
        for line in [
            "/f file(2) 6755 33:44",
            "/far file(3) 666 1:2",
            "/g dir 2775 7:8",
            "/g/h file(2) 644 0:8",
            "/l link(x) 777 5:6",
        ] {
            assert!(shown.contains(&line.to_owned()), "{line}: {shown:?}");
        }
    }
    Ok(())
}

pub fn stubs_leave_no_trace(_: &str) -> Done {
    let bench = Bench::new()?;
    let mut etc = dir("etc");
    etc.0.mtime = 4242;
    let below = layer(
        &bench,
        &[etc, (entry("etc/resolv.conf", Kind::Symlink(b"../run/r.conf".to_vec()), 0o777), vec![])],
    );
    let mut tree = Tree::new(vec![base(&bench)]);
    tree.push(below.1.clone());
    let targets = [
        ("/etc/resolv.conf", StubKind::File),
        ("/etc/hosts", StubKind::File),
        ("/run/secrets/key", StubKind::File),
        ("/cache/deep", StubKind::Dir),
        ("/proc", StubKind::Dir),
    ];
    let text = MountKind::File { bytes: b"mounted\n".to_vec(), mode: 0o644, uid: 0, gid: 0 };
    let run = |script: &str| {
        let stub_dir = bench.fresh("stubs");
        let wanted = targets.map(|(path, kind)| (RootPath::from(path), kind));
        let stubs =
            snapshot::stubs(&stub_dir, &tree, &wanted, bench.session.id_map()).expect("stubs");
        let mut spec = bench.spec(script);
        spec.lowers.extend([below.0.clone(), stub_dir]);
        for (target, kind) in &targets[..4] {
            let kind = match kind {
                StubKind::File => text.clone(),
                StubKind::Dir => MountKind::Tmpfs { size: None, mode: 0o755 },
            };
            spec.mounts.push(Mount { target: (*target).into(), kind });
        }
        let ran = bench.run_spec(&spec);
        ran.ok();
        (ran.out.clone(), show(&diff(&bench, &ran, &tree, &stubs)))
    };
    let (out, shown) = run(
        "cat /etc/resolv.conf /etc/hosts /run/secrets/key; stat -c %Y /etc; touch /cache/deep/x; \
         rm -f /etc/hosts 2>/dev/null; true",
    );
    assert_eq!(out, "mounted\nmounted\nmounted\n4242\n");
    assert_eq!(shown, [""; 0]);
    // Touching what is around them does not put them into the layer.
    let (_, shown) =
        run("chmod 700 /run/secrets /cache; touch /etc; rm -rf /run /cache 2>/dev/null; true");
    assert_eq!(shown, [""; 0]);
    // What the RUN itself makes there stays.
    let (_, shown) = run("echo 1 > /run/pid; echo x > /etc/new");
    assert_eq!(
        shown,
        [
            "/etc dir 755 0:0",
            "/etc/new file(2) 644 0:0",
            "/run dir 755 0:0",
            "/run/pid file(2) 644 0:0"
        ]
    );
    Ok(())
}

pub fn deep_stacks_are_merged(_: &str) -> Done {
    let bench = Bench::new()?;
    let gone = |path: &str| (Entry::whiteout(path.into()), Vec::new());
    let opaque = |path: &str| (entry(path, Kind::Opaque, 0), Vec::new());
    let layers = [
        layer(
            &bench,
            &[
                dir("a"),
                file("a/1", "1"),
                file("a/2", "2"),
                file("f", "f"),
                dir("z"),
                file("z/1", "1"),
            ],
        ),
        layer(
            &bench,
            &[dir("a"), gone("a/1"), owned(dir("o"), 0, 0, 0o700), file("o/x", "x"), gone("z")],
        ),
        layer(&bench, &[gone("f"), dir("o"), opaque("o"), file("o/y", "y"), file("a/3", "3")]),
        layer(&bench, &[dir("f"), file("f/in", "in"), dir("z"), file("z/2", "2"), gone("bin/vi")]),
    ];
    let dirs: Vec<PathBuf> = layers.iter().map(|(path, _)| path.clone()).collect();
    let script = "find /a /f /o /z /bin/vi -exec stat -c '%n %F %a %Y' {} + 2>/dev/null | sort";
    let listing = |lowers: &[PathBuf]| {
        let mut spec = bench.spec(script);
        spec.lowers.extend_from_slice(lowers);
        bench.run_spec(&spec).ok().to_owned()
    };
    let expect = listing(&dirs);
    for cut in 1..=dirs.len() {
        for start in 0..=dirs.len() - cut {
            let merged = bench.fresh("merged");
            snapshot::merge(&dirs[start..start + cut], &merged).expect("merge");
            let mut lowers = dirs[..start].to_vec();
            lowers.push(merged);
            lowers.extend_from_slice(&dirs[start + cut..]);
            assert_eq!(listing(&lowers), expect, "{start}..{}", start + cut);
        }
    }
    assert!(expect.contains("/z/2") && !expect.contains("/z/1"), "{expect}");
    Ok(())
}

pub fn a_tar_becomes_a_root(_: &str) -> Done {
    let bench = Bench::new()?;
    let mut bytes = Vec::new();
    let mut writer = tar::Writer::new(&mut bytes);
    for (entry, content) in [
        owned(dir("srv"), 33, 33, 0o2750),
        owned(file("srv/f", "content"), 33, 34, 0o4640),
        (entry("srv/g", Kind::Hardlink("srv/f".into()), 0o4640), vec![]),
        (Entry::whiteout("etc/group".into()), vec![]),
    ] {
        writer.owned_entry(&entry, &mut content.as_slice()).expect("write");
    }
    writer.finish().expect("finish");
    let path = bench.fresh("layer");
    let reader = tar::Reader::new(bytes.as_slice());
    let toc = snapshot::unpack(reader, &path, bench.session.id_map()).expect("unpack");
    let digest = match toc.get(b"srv/f").expect("srv/f").kind {
        KindRef::File { digest, .. } => digest,
        _ => None,
    };
    assert_eq!(digest, Some(lapstrake::oci::Digest::of(b"content")));
    let mut spec = bench.spec("stat -c '%n %u:%g %a %h' /srv /srv/f; cat /srv/g; ls /etc");
    spec.lowers.push(path.clone());
    let ids = if bench.has_range() { ("33:33", "33:34") } else { ("0:0", "0:0") };
    let links = count_links(&path.join("srv"));
    let expect = format!("/srv {} 2750 {links}\n/srv/f {} 4640 2\ncontentpasswd", ids.0, ids.1);
    assert_eq!(bench.run_spec(&spec).ok(), expect);
    Ok(())
}

fn count_links(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    // Overlay shows 1 for merged directories and the real number for others.
    std::fs::metadata(path).map_or(0, |m| m.nlink())
}

pub fn large_layers_are_quick(_: &str) -> Done {
    const DIRS: usize = 200;
    const FILES: usize = 100;
    let bench = Bench::new()?;
    let mut entries = Vec::new();
    for d in 0..DIRS {
        entries.push(dir(&format!("d{d}")));
        entries.extend((0..FILES).map(|f| file(&format!("d{d}/f{f}"), "some content\n")));
    }
    let start = Instant::now();
    let (path, toc) = layer(&bench, &entries);
    let written = start.elapsed();
    let start = Instant::now();
    let options = DiffOptions::default();
    let found = snapshot::diff(&path, &Tree::default(), bench.session.id_map(), &options);
    let read = start.elapsed();
    let merged = bench.fresh("merged");
    let start = Instant::now();
    snapshot::merge(&[path], &merged).expect("merge");
    eprintln!(
        "{} entries: written in {written:?}, diffed in {read:?}, merged in {:?}",
        toc.len(),
        start.elapsed()
    );
    // /dev, /proc and /sys come with the diff.
    assert_eq!(found.expect("diff").len(), toc.len() + 3);
    Ok(())
}
