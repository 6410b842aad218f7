//! Tables of registries.conf: what matches, where it leads, what is refused.

use super::*;

fn file(path: &str, text: &str) -> ConfFile {
    ConfFile { path: path.into(), text: Ok(text.to_owned()), kind: ConfKind::Registries }
}

fn read(text: &str) -> Registries {
    let registries = Registries::read(&[file("r.conf", text)]);
    assert_eq!(registries.fault(), None);
    registries
}

fn places(registries: &Registries, name: &str) -> Vec<String> {
    let shown = |endpoint: &Endpoint| {
        let insecure = if endpoint.insecure { " insecure" } else { "" };
        format!("{}{insecure}", endpoint.reference)
    };
    let endpoints = registries.endpoints(&name.parse().unwrap()).unwrap();
    assert!(endpoints.last().is_some_and(|endpoint| !endpoint.is_mirror));
    endpoints.iter().filter(|endpoint| endpoint.eligible).map(shown).collect()
}

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn prefixes_match_whole_parts() {
    // Prefix; name; what follows.
    let table = [
        ("reg.io", "reg.io/a/b:1", Some("/a/b:1")),
        ("reg.io", "reg.io", Some("")),
        ("reg.io", "reg.io:5000/a", None),
        ("reg.io:5000", "reg.io:5000/a", Some("/a")),
        ("reg.io", "reg.io.evil/a", None),
        ("reg.io/a", "reg.io/a/b", Some("/b")),
        ("reg.io/a", "reg.io/a:1", Some(":1")),
        ("reg.io/a", "reg.io/a@sha256:00", Some("@sha256:00")),
        ("reg.io/a", "reg.io/ab", None),
        ("reg.io/a/b:1", "reg.io/a/b:1", Some("")),
        ("reg.io/a/b:1", "reg.io/a/b:12", None),
        ("*.reg.io", "x.reg.io/a", Some("/a")),
        ("*.reg.io", "x.y.reg.io:5000/a", Some(":5000/a")),
        ("*.reg.io", "reg.io/a", None),
        ("*.reg.io", "evil.io/x.reg.io/a", None),
        ("*.reg.io", "x.reg.io.evil/a", None),
    ];
    for (prefix, name, want) in table {
        assert_eq!(matched(prefix, name), want, "{prefix} {name}");
    }
}

#[test]
fn names_lead_to_mirrors_and_then_to_the_location() {
    let registries = read(
        r#"
        [[registry]]
        prefix = "example.com/foo"
        location = "internal.example.com/bar"
        [[registry.mirror]]
        location = "mirror-0.local/for-foo"
        [[registry.mirror]]
        location = "mirror-1.local/foo"
        insecure = true

        [[registry]]
        location = "example.com"
        insecure = true

        [[registry]]
        prefix = "*.cloud.io"
        [[registry.mirror]]
        location = "cache.io/cloud"

        [[registry]]
        prefix = "docker.io"
        location = "docker.io/"
        mirror = [ { location = "hub.local:5000", pull-from-mirror = "tag-only" },
                   { location = "hub.local:5001/p", pull-from-mirror = "digest-only" } ]

        [[registry]]
        prefix = "digests.io"
        mirror-by-digest-only = true
        [[registry.mirror]]
        location = "mirror.io"
        "#,
    );
    let digest = format!("docker.io/library/alpine@sha256:{HEX}");
    let digest_mirror = format!("hub.local:5001/p/library/alpine@sha256:{HEX}");
    let by_digest = format!("digests.io/a@sha256:{HEX}");
    let by_digest_mirror = format!("mirror.io/a@sha256:{HEX}");
    let table: [(&str, &[&str]); 8] = [
        (
            "example.com/foo/image:1",
            &[
                "mirror-0.local/for-foo/image:1",
                "mirror-1.local/foo/image:1 insecure",
                "internal.example.com/bar/image:1",
            ],
        ),
        ("example.com/other:1", &["example.com/other:1 insecure"]),
        ("a.cloud.io/x:1", &["cache.io/cloud/x:1", "a.cloud.io/x:1"]),
        ("alpine:3", &["hub.local:5000/library/alpine:3", "docker.io/library/alpine:3"]),
        (&digest, &[&digest_mirror, &digest]),
        ("digests.io/a:1", &["digests.io/a:1"]),
        (&by_digest, &[&by_digest_mirror, &by_digest]),
        ("elsewhere.io/a", &["elsewhere.io/a"]),
    ];
    for (name, want) in table {
        assert_eq!(places(&registries, name), want, "{name}");
    }
    assert!(registries.admit("example.com/x/y:1").unwrap());
    assert!(!registries.admit("example.com/foo/y:1").unwrap(), "the longer prefix says nothing");
    assert!(registries.admit("example.com").unwrap());
}

#[test]
fn blocked_names_tell_file_and_line() {
    let registries = read(
        "[[registry]]\nprefix = \"bad.io\"\n\nblocked = true\n[[registry]]\nprefix=\"bad.io/good\"\n",
    );
    let error = registries.endpoints(&"bad.io/x:1".parse().unwrap()).unwrap_err().to_string();
    assert_eq!(error, "bad.io/x:1 is blocked: `blocked = true` for bad.io in r.conf:4");
    assert!(registries.admit("bad.io").is_err());
    assert_eq!(places(&registries, "bad.io/good/x"), ["bad.io/good/x"]);
}

#[test]
fn later_files_overrule_earlier_ones() {
    let registries = Registries::read(&[
        file(
            "main",
            "unqualified-search-registries = [\"a.io\"]\n[aliases]\nx = \"one.io/x\"\ny = \"one.io/y\"\n\
             [[registry]]\nprefix = \"r.io\"\nblocked = true\n[[registry]]\nlocation = \"s.io\"\ninsecure = true\n",
        ),
        file(
            "10.conf",
            "[aliases]\nx = \"two.io/x\"\ny = \"\"\n[[registry]]\nlocation = \"r.io\"\n",
        ),
        ConfFile {
            path: "cache".into(),
            text: Ok("[aliases]\n\"z/z\" = \"three.io/z\"\n".to_owned()),
            kind: ConfKind::Aliases,
        },
    ]);
    assert_eq!(registries.fault(), None);
    assert!(!registries.admit("r.io/x").unwrap());
    assert!(registries.admit("s.io/x").unwrap());
    let short = |text: &str| {
        let short = registries.short_name(text).unwrap()?;
        let names: Vec<String> = short.candidates.iter().map(ToString::to_string).collect();
        Some((names.join(" "), short.origin.display().to_string()))
    };
    let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
    assert_eq!(short("x:1"), pair("two.io/x:1", "10.conf"));
    assert_eq!(short("y"), pair("a.io/y", "main"), "the alias was taken away");
    assert_eq!(
        short(&format!("z/z@sha256:{HEX}")),
        pair(&format!("three.io/z@sha256:{HEX}"), "cache")
    );
    for whole in ["docker.io/x", "localhost/x", "r.io:5/x"] {
        assert_eq!(short(whole), None, "{whole}");
    }
}

#[test]
fn short_names_mean_what_they_mean_to_docker_unless_a_file_says_more() {
    let name = |conf: &str, text: &str| read(conf).short_name(text);
    assert_eq!(name("", "alpine").unwrap(), None);
    assert_eq!(
        name("unqualified-search-registries = []\nshort-name-mode = \"enforcing\"", "alpine")
            .unwrap(),
        None
    );
    let all = "unqualified-search-registries = [\"q.io\", \"docker.io\"]\n";
    let found = name(all, "alpine:3").unwrap().unwrap().candidates;
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found, ["q.io/alpine:3", "docker.io/library/alpine:3"]);
    let enforcing = "short-name-mode = \"enforcing\"\n";
    let error = name(&format!("{all}{enforcing}"), "alpine:3").unwrap_err().to_string();
    assert!(error.contains("q.io/alpine or docker.io/alpine"), "{error}");
    let aliases = "[aliases]\nalpine = \"docker.io/library/alpine\"\nfedora = \"f.org/fedora\"\n";
    assert_eq!(name(aliases, "alpine:3").unwrap(), None, "what Docker means too");
    assert!(name(aliases, "fedora").unwrap().is_some());
    let one = "unqualified-search-registries = [\"q.io\"]\n";
    assert!(name(&format!("{one}{enforcing}"), "alpine").unwrap().is_some());
}

#[test]
fn mistakes_are_told_with_their_place() {
    // Text; what the message must hold.
    let table = [
        (
            "[[registry]]\nlocation = \"https://a.io\"",
            "c:2: location \"https://a.io\": write it without",
        ),
        (
            "[[registry]]\nlocation = \"mirror/x\"",
            "c:2: location \"mirror/x\": expected host.domain",
        ),
        ("[[registry]]\nlocation = \"a.io/UP\"", "c:2"),
        ("[[registry]]\nprefix = \"a.*.io\"\nlocation=\"x.io\"", "c:2"),
        ("[[registry]]\nprefix = \"*.a.io/b\"", "c:2: prefix \"*.a.io/b\": a wildcard stands for"),
        ("[[registry]]\ninsecure = true", "needs `prefix` or `location`"),
        (
            "[[registry]]\nlocation = \"a.io\"\ninsecure = \"yes\"",
            "c:3: insecure must be true or false",
        ),
        (
            "[[registry]]\nlocation = \"a.io\"\n[[registry.mirror]]\ninsecure = true",
            "c:4: a [[registry.mirror]] needs a location",
        ),
        (
            "[[registry]]\nlocation = \"a.io\"\npull-from-mirror = \"all\"",
            "c:3: pull-from-mirror is for",
        ),
        (
            "[[registry]]\nlocation = \"a.io\"\n[[registry.mirror]]\nlocation = \"m.io\"\npull-from-mirror = \"some\"",
            "c:5: pull-from-mirror \"some\": expected",
        ),
        (
            "[[registry]]\nlocation = \"a.io\"\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = \"m.io\"\npull-from-mirror = \"all\"",
            "c:6: pull-from-mirror and",
        ),
        ("[registry]\nlocation = \"a.io\"", "c:1: registry must be an array of tables"),
        ("[registries.search]\nregistries = ['a.io']", "c:1: this is the old format (version 1)"),
        ("short-name-mode = \"maybe\"", "c:1: short-name-mode \"maybe\""),
        ("unqualified-search-registries = [\"a.io/b\"]", "c:1: \"a.io/b\" is no registry"),
        (
            "unqualified-search-registries = \"a.io\"",
            "c:1: unqualified-search-registries must be an array",
        ),
        (
            "\n[aliases]\n\"a.io/x\" = \"b.io/x\"",
            "c:3: alias \"a.io/x\": the name must be a short one",
        ),
        ("[aliases]\nx = \"y\"", "c:2: alias \"x\": its value must be registry/repository"),
        ("[aliases]\nx = \"a.io/x:1\"", "without tag and digest"),
        ("[[registry]]\nlocation = \"a.io\n", "c:2: "),
        ("a = 1\na = 2", "c:2: duplicate key"),
    ];
    for (text, want) in table {
        let registries = Registries::read(&[file("c", text)]);
        let fault = registries.fault().unwrap_or_else(|| panic!("{text} was taken")).to_string();
        assert!(fault.contains(want), "{text}:\n{fault}");
        let asked = registries.endpoints(&"any.io/x".parse().unwrap()).unwrap_err();
        assert_eq!(asked.to_string(), fault);
    }
    let aliases =
        ConfFile { kind: ConfKind::Aliases, ..file("c", "short-name-mode = \"disabled\"") };
    assert!(Registries::read(&[aliases]).fault().is_some());
    let unreadable = ConfFile { text: Err("Permission denied".to_owned()), ..file("c", "") };
    assert_eq!(
        Registries::read(&[unreadable]).fault().unwrap().to_string(),
        "c: cannot be read: Permission denied"
    );
}

#[test]
fn what_has_no_effect_is_said() {
    let registries = read(
        "credential-helpers = [\"containers-auth.json\", \"pass\"]\nfuture = 1\nadditional-layer-store-auth-helper = \"x\"\n\
         [[registry]]\nlocation = \"a.io\"\ncolour = \"red\"\n",
    );
    let told = registries.warnings().join("\n");
    for want in ["r.conf:1: credential-helpers", "r.conf:2: future", "r.conf:6: colour"] {
        assert!(told.contains(want), "{told}");
    }
    assert_eq!(registries.warnings().len(), 3, "{told}");
}

#[test]
fn mirrors_of_the_command_line_go_first() {
    let conf = "[[registry]]\nlocation = \"a.io\"\n[[registry.mirror]]\nlocation = \"m.io\"\n";
    let mut registries = read(conf);
    registries.add_mirror("a.io", "first.io/a").unwrap();
    registries.add_mirror("docker.io", "hub.io:5000").unwrap();
    assert_eq!(places(&registries, "a.io/x"), ["first.io/a/x", "m.io/x", "a.io/x"]);
    let want = ["hub.io:5000/library/alpine:3", "docker.io/library/alpine:3"];
    assert_eq!(places(&registries, "alpine:3"), want);
    for (registry, mirror) in
        [("a.io", "mirror"), ("a", "m.io"), ("a.io", "https://m.io"), ("a.io", "m.io/UP")]
    {
        assert!(registries.add_mirror(registry, mirror).is_err(), "{registry} {mirror}");
    }
}
