//! Names of remote sources, as tables.

use super::*;

fn git_of(text: &str) -> GitSource {
    match classify_context(text).expect(text) {
        Named::Git(name) => {
            GitSource { keep_git_dir: name.keep_git_dir.unwrap_or(false), ..name.source }
        }
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn repositories_and_files_are_told_apart() {
    for text in [
        "https://h/a.git",
        "http://h/a.git#main",
        "https://h/a.git?ref=x",
        "git://h/a",
        "ssh://git@h:22/a",
        "git@h:a/b.git",
        "git@h:a#v1:sub",
        "https://u:p@h/a.git",
    ] {
        assert!(matches!(classify(text), Ok(Named::Git(_))), "{text}");
    }
    for text in ["https://h/a", "http://h/a.git/x", "https://h/a.tar.gz#a.git", "HTTPS://h/x"] {
        assert_eq!(classify(text), Ok(Named::Url), "{text}");
    }
    for text in ["a.git", "./git@h:a", "file:///a.git", "github.com/a/b", "a/b@c:d", "dir", "a@b"] {
        assert_eq!(classify(text), Ok(Named::Path), "{text}");
    }
    assert_eq!(git_of("github.com/a/b#v1").remote, "https://github.com/a/b");
}

#[test]
fn fragment_and_query_say_the_same() {
    for (text, reference, subdir) in [
        ("https://h/a.git", None, ""),
        ("https://h/a.git#", None, ""),
        ("https://h/a.git#v1", Some("v1"), ""),
        ("https://h/a.git#v1:sub/dir", Some("v1"), "sub/dir"),
        ("https://h/a.git#:/sub/../dir/", None, "dir"),
        ("https://h/a.git#v1:../../x", Some("v1"), "x"),
        ("https://h/a.git?ref=v1&subdir=sub", Some("v1"), "sub"),
        ("https://h/a.git?ref=v1#v1", Some("v1"), ""),
        ("https://h/a.git?tag=v1", Some("refs/tags/v1"), ""),
        ("https://h/a.git?branch=b/c", Some("refs/heads/b/c"), ""),
        ("git@h:a.git?ref=a%2Fb", Some("a/b"), ""),
    ] {
        let source = git_of(text);
        assert_eq!(
            (source.reference.as_deref(), source.subdir.as_str()),
            (reference, subdir),
            "{text}"
        );
        assert!(!source.remote.contains(['?', '#']), "{text}");
    }
    let all = git_of("https://h/a.git?keep-git-dir&submodules=0&mtime=checkout&checksum=ABCD12");
    assert!(all.keep_git_dir && !all.submodules && all.checkout_times);
    assert_eq!(all.checksum.as_deref(), Some("ABCD12"));
    assert!(git_of("https://h/a.git").submodules);
}

#[test]
fn what_git_could_misunderstand_is_refused() {
    for (text, word) in [
        ("https://h/a.git?ref=x#y", "conflicts"),
        ("https://h/a.git?tag=x&branch=y", "conflicts"),
        ("https://h/a.git?ref=x&ref=y", "multiple"),
        ("https://h/a.git?ref=", "no value"),
        ("https://h/a.git?depth=1", "unexpected"),
        ("https://h/a.git?submodules=maybe", "invalid"),
        ("https://h/a.git?checksum=xyz", "checksum"),
        ("https://h/a.git?fetch-by-commit=1&checksum=abc", "full commit"),
        ("https://h/a.git#--upload-pack=touch", "no name"),
        ("https://h/a.git?ref=a:refs/heads/b", "no name"),
        ("https://h/a.git#a..b", "no name"),
        ("https://h/a.git?ref=%0a", "no name"),
        ("https://h/a.git?ref=%zz", "hex digits"),
        ("-oProxyCommand@h:a", "dash"),
        ("git@-oProxyCommand:a", "no host"),
        ("ssh://-oProxyCommand/a", "no host"),
        ("git:///a", "no host"),
    ] {
        let error = classify(text).expect_err(text);
        assert!(error.contains(word), "{text}: {error}");
    }
}

#[test]
fn files_are_named_after_the_path() {
    for (url, name) in [
        ("https://h/a/b.tar.gz", "b.tar.gz"),
        ("https://h/a/b.tar.gz?x=1/2#frag", "b.tar.gz"),
        ("https://h/a/", "a"),
        ("https://h/", "__unnamed__"),
        ("https://h", "__unnamed__"),
        ("https://h?x=/y", "__unnamed__"),
        ("https://h/a%20b", "a b"),
        ("https://h/..%2F..%2Fetc%2Fpasswd", "passwd"),
        ("https://h/a/..", "__unnamed__"),
    ] {
        assert_eq!(file_name(url), name, "{url}");
    }
    assert_eq!(escape_pattern("a[1]*.tar"), "a\\[1\\]\\*.tar");
}

#[test]
fn credentials_are_never_shown() {
    for (text, shown) in [
        ("https://u:p@h/x", "https://xxxxx:xxxxx@h/x"),
        ("ADD https://token@h/x.git /y", "ADD https://xxxxx@h/x.git /y"),
        ("ssh://git@h/x", "ssh://git@h/x"),
        ("ssh://u:p@h/x https://a:b@c/", "ssh://xxxxx:xxxxx@h/x https://xxxxx:xxxxx@c/"),
        ("https://h/x@y", "https://h/x@y"),
        ("git@h:x", "git@h:x"),
    ] {
        assert_eq!(redact(text), shown);
    }
}

#[test]
fn checksums_have_an_algorithm_and_a_length() {
    let text = format!("sha512:{}", "0a".repeat(64));
    let checksum: Checksum = text.parse().expect("fine");
    assert_eq!((checksum.to_string(), checksum.algorithm), (text, Algorithm::Sha512));
    for bad in ["abc", "md5:abc", "sha256:abc", &format!("sha256:{}", "0A".repeat(32))] {
        assert!(bad.parse::<Checksum>().is_err(), "{bad}");
    }
}

// buildx: TestRemoteURLWithSubdir, and archives.
#[test]
fn directories_of_contexts_are_named() {
    for (text, dir, expected) in [
        ("https://h/r.git", ".", "https://h/r.git"),
        ("https://h/r.git", "./", "https://h/r.git"),
        ("https://h/r.git", "a/./b", "https://h/r.git#:a/b"),
        ("https://h/r.git", "/a", "https://h/r.git#:a"),
        ("https://h/r.git#v1", "a", "https://h/r.git#v1:a"),
        ("https://h/r.git#v1:a", "b", "https://h/r.git#v1:a/b"),
        ("https://h/r.git#v1:a", ".", "https://h/r.git#v1:a"),
        ("https://h/r.git#v1:a", "../b", "https://h/r.git#v1:b"),
        ("https://h/r.git#v1:a", "../..", "https://h/r.git#v1"),
        ("https://h/r.git#:a", "..", "https://h/r.git"),
        ("https://h/r.git?ref=v1&subdir=a", "b", "https://h/r.git?ref=v1#:a/b"),
        ("https://h/r.git?subdir=a%20c", "b", "https://h/r.git#:a c/b"),
        ("https://h/r.git", "50%", "https://h/r.git#:50%25"),
        ("git@h:r.git#v1", "a", "git@h:r.git#v1:a"),
        ("github.com/o/r", "a", "github.com/o/r#:a"),
        ("https://h/a.tar.gz", "a", "https://h/a.tar.gz#:a"),
        ("https://h/a.tar.gz#:a", "b", "https://h/a.tar.gz#:a/b"),
        ("https://h/a.tar.gz?subdir=x", "b", "https://h/a.tar.gz?subdir=x#:b"),
    ] {
        let found = within(text, dir);
        assert_eq!(found, expected, "{text} {dir}");
        // What is made can be read again.
        match classify_context(&found).expect(&found) {
            Named::Git(name) => {
                let old = classify_context(text).expect(text);
                let Named::Git(old) = old else { panic!("{text} is a repository") };
                let subdir = clean_subdir(&format!("{}/{dir}", old.source.subdir));
                assert_eq!(name.source, GitSource { subdir, ..old.source }, "{found}");
            }
            Named::Url => assert_eq!(
                archive_dir(&found).expect("fine").0,
                text.split('#').next().unwrap_or(text)
            ),
            Named::Path => panic!("{found} is no path"),
        }
    }
    assert_eq!(archive_dir("https://h/a#:b/../c%20").ok(), Some(("https://h/a", "c ".to_owned())));
    assert_eq!(archive_dir("https://h/a#b").ok(), Some(("https://h/a#b", String::new())));
    assert!(archive_dir("https://h/a#:%zz").is_err());
}
