//! Paths of WORKDIR and destinations, as tables.

use super::*;

#[test]
fn workdirs_accumulate() {
    for (current, path, expect) in [
        ("/", "a", "/a"),
        ("/a", "b/../c/", "/a/c"),
        ("/a", "/b", "/b"),
        ("", "x", "/x"),
        ("/a", "../../..", "/"),
    ] {
        assert_eq!(clean_workdir(current, path), expect);
    }
}

#[test]
fn preserve_dest_dir_slash() {
    for (workdir, dest, expect) in [
        ("/app", "x", "/app/x"),
        ("/app", "x/", "/app/x/"),
        ("/app", ".", "/app/"),
        ("/app", "", "/app/"),
        ("/app", "/y/.", "/y/"),
        ("/", "/", "/"),
        ("/", "./", "/"),
    ] {
        assert_eq!(clean_dest(workdir, dest), expect, "{workdir} {dest}");
    }
}
