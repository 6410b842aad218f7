//! COPY as tables: what is there, what is copied, what comes out.

use super::*;

/// Makes a Toc of lines: `d PATH`, `f PATH [content]`, `l PATH TARGET`, `h PATH FIRST`,
/// with `@UID:GID:MODE` anywhere behind the path.
fn toc(text: &str) -> Arc<Toc> {
    let mut builder = TocBuilder::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut words = line.split_whitespace();
        let (kind, path) = (words.next().expect("a kind"), words.next().expect("a path"));
        let mut entry = Entry {
            path: path.into(),
            kind: Kind::Dir,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 7,
            xattrs: BTreeMap::new(),
        };
        let mut argument = "";
        for word in words {
            match word.strip_prefix('@') {
                Some(ids) => {
                    let ids: Vec<&str> = ids.split(':').collect();
                    entry.uid = ids[0].parse().expect("a uid");
                    entry.gid = ids[1].parse().expect("a gid");
                    entry.mode = u32::from_str_radix(ids[2], 8).expect("a mode");
                }
                None => argument = word,
            }
        }
        entry.kind = match kind {
            "d" => Kind::Dir,
            "f" => Kind::File { size: argument.len() as u64, digest: None },
            "l" => Kind::Symlink(argument.as_bytes().to_vec()),
            "h" => Kind::Hardlink(argument.into()),
            "p" => Kind::Fifo,
            _ => panic!("{line}"),
        };
        if kind == "f" && entry.mode == 0o755 && !line.contains('@') {
            entry.mode = 0o644;
        }
        builder.push(entry);
    }
    Arc::new(builder.finish())
}

fn show(toc: &Toc) -> Vec<String> {
    toc.iter()
        .map(|entry| {
            let path = String::from_utf8_lossy(entry.path).into_owned();
            let owner = format!("{}:{} {:o}", entry.uid, entry.gid, entry.mode);
            match entry.kind {
                KindRef::Dir => format!("{path}/ {owner}"),
                KindRef::Symlink(to) => format!("{path} -> {}", String::from_utf8_lossy(to)),
                KindRef::Hardlink(to) => format!("{path} = {}", String::from_utf8_lossy(to)),
                KindRef::Fifo => format!("{path}| {owner}"),
                _ => format!("{path} {owner}"),
            }
        })
        .collect()
}

struct Case<'c> {
    source: &'c str,
    dest: &'c str,
    patterns: &'c [&'c str],
    to: &'c str,
    options: Options,
}

impl Default for Case<'_> {
    fn default() -> Self {
        Case { source: "", dest: "", patterns: &["/"], to: "/", options: Options::default() }
    }
}

impl Case<'_> {
    fn run(&self) -> Result<(Toc, Origins), Error> {
        let source = Tree::new(vec![toc(self.source)]);
        let dest = Tree::new(vec![toc(self.dest)]);
        let mut planner = Planner::new(&dest, &self.options, self.patterns.len() > 1)?;
        for pattern in self.patterns {
            planner.copy(&source, pattern, self.to)?;
        }
        Ok(planner.finish())
    }

    #[track_caller]
    fn check(&self, expect: &[&str]) {
        let (toc, _) = self.run().expect("a plan");
        assert_eq!(show(&toc), expect);
    }
}

#[test]
fn directories_are_copied_as_their_contents() {
    for from in ["dir", "dir/", "dir/.", "/dir"] {
        Case {
            source: "d dir @9:9:700\nf dir/a\nd dir/b @1:2:750\nf dir/b/c",
            patterns: &[from],
            to: "/new",
            ..Case::default()
        }
        .check(&["new/ 0:0 755", "new/a 0:0 644", "new/b/ 1:2 750", "new/b/c 0:0 644"]);
    }
}

#[test]
fn a_trailing_slash_decides_between_file_and_directory() {
    let case = |to| Case { source: "f foo", patterns: &["foo"], to, ..Case::default() };
    case("/bar").check(&["bar 0:0 644"]);
    case("/bar/").check(&["bar/ 0:0 755", "bar/foo 0:0 644"]);
    case("/bar/.").check(&["bar/ 0:0 755", "bar/foo 0:0 644"]);
    case("/a/b/c").check(&["a/ 0:0 755", "a/b/ 0:0 755", "a/b/c 0:0 644"]);
    Case { dest: "d bar", ..case("/bar") }.check(&["bar/foo 0:0 644"]);
}

#[test]
fn symlink_destination_is_followed_inside_the_root() {
    let case = |dest, to| Case { source: "f foo", dest, patterns: &["foo"], to, ..Case::default() };
    case("d tmp\nd tmp/x\nl link ../../tmp/x", "/link/").check(&["tmp/x/foo 0:0 644"]);
    case("l link /deep/dir", "/link/").check(&[
        "deep/ 0:0 755",
        "deep/dir/ 0:0 755",
        "deep/dir/foo 0:0 644",
    ]);
    case("d real\nl link real", "/link/sub/x").check(&["real/sub/ 0:0 755", "real/sub/x 0:0 644"]);
    case("l target gone", "/target").check(&["gone 0:0 644"]);
}

#[test]
fn symlink_sources_are_followed_and_links_in_directories_stay() {
    let source = "d real\nf real/f\nl link real\nl file real/f\nd dir\nl dir/l ../real/f";
    let case = |patterns| Case { source, patterns, to: "/x/", ..Case::default() };
    case(&["file"]).check(&["x/ 0:0 755", "x/file 0:0 644"]);
    case(&["link/f"]).check(&["x/ 0:0 755", "x/f 0:0 644"]);
    case(&["link"]).check(&["x/ 0:0 755", "x/f 0:0 644"]);
    case(&["dir"]).check(&["x/ 0:0 755", "x/l -> ../real/f"]);
}

#[test]
fn links_out_of_the_source_are_clamped_to_its_root() {
    let source = "f etc\nl out ../../../etc";
    Case { source, patterns: &["out"], to: "/x", ..Case::default() }.check(&["x 0:0 644"]);
    let source = "l out /nowhere/passwd";
    let missing = Case { source, patterns: &["out"], to: "/x", ..Case::default() }.run();
    assert_eq!(missing.err(), Some(Error::NotFound("/out".into())));
}

#[test]
fn owners_of_existing_directories_are_kept_and_new_ones_are_given() {
    let options = Options { owner: Some(Owner { uid: 5, gid: 6 }), ..Options::default() };
    let case = |to| Case {
        source: "d s\nf s/f @1:1:600\nd s/d @1:1:700",
        dest: "d old @100:200:711\nd old/d @7:7:777",
        patterns: &["s"],
        to,
        options: options.clone(),
    };
    // The destination itself stays as it is; what lies below gets the source's mode and the owner.
    case("/old").check(&["old/d/ 5:6 700", "old/f 5:6 600"]);
    case("/p/new").check(&["p/ 5:6 755", "p/new/ 5:6 755", "p/new/d/ 5:6 700", "p/new/f 5:6 600"]);
}

#[test]
fn chmod_changes_files_and_directories_and_no_links() {
    let chmod =
        |text: &str| Options { chmod: Some(text.parse().expect("a mode")), ..Options::default() };
    let case = |options| Case {
        source: "d s\nf s/x @0:0:744\nf s/y @0:0:600\nl s/l x\nd s/d @0:0:700",
        patterns: &["s"],
        to: "/n/",
        options,
        ..Case::default()
    };
    case(chmod("0444")).check(&[
        "n/ 0:0 444",
        "n/d/ 0:0 444",
        "n/l -> x",
        "n/x 0:0 444",
        "n/y 0:0 444",
    ]);
    case(chmod("u=rwX,go=rX")).check(&[
        "n/ 0:0 755",
        "n/d/ 0:0 755",
        "n/l -> x",
        "n/x 0:0 755",
        "n/y 0:0 644",
    ]);
}

#[test]
fn wildcards_name_paths_and_flatten_directories() {
    let source = "f a.txt\nf b.txt\nf c.md\nd sub\nd sub/one\nf sub/one/x\nd sub/two\nf sub/two/y";
    let case = |patterns| Case { source, patterns, to: "/d/", ..Case::default() };
    case(&["*.txt"]).check(&["d/ 0:0 755", "d/a.txt 0:0 644", "d/b.txt 0:0 644"]);
    case(&["sub/*"]).check(&["d/ 0:0 755", "d/x 0:0 644", "d/y 0:0 644"]);
    case(&["?.md", "sub/t*/y"]).check(&["d/ 0:0 755", "d/c.md 0:0 644", "d/y 0:0 644"]);
}

#[test]
fn an_empty_wildcard_is_fine_and_a_missing_path_is_not() {
    Case { source: "f a", patterns: &["a", "no*"], to: "/", ..Case::default() }
        .check(&["a 0:0 644"]);
    Case { source: "f a", patterns: &["no*"], to: "/sub/", ..Case::default() }.check(&[]);
    let missing = Case { source: "f a", patterns: &["a", "no"], to: "/", ..Case::default() }.run();
    assert_eq!(missing.err(), Some(Error::NotFound("/no".into())));
}

#[test]
fn glob_characters_can_be_escaped() {
    let source = "f arr[0].txt\nf arr0.txt";
    Case { source, patterns: &["arr[[]0].txt"], to: "/x/", ..Case::default() }
        .check(&["x/ 0:0 755", "x/arr[0].txt 0:0 644"]);
    Case { source, patterns: &["arr\\[0].txt"], to: "/x/", ..Case::default() }
        .check(&["x/ 0:0 755", "x/arr[0].txt 0:0 644"]);
}

#[test]
fn kinds_that_clash_are_errors() {
    let over_file = Case { source: "d s\nd s/a", dest: "f a", patterns: &["s"], ..Case::default() };
    assert_eq!(over_file.run().err(), Some(Error::NotADirectory("a".into())));
    let over_dir = Case { source: "d s\nf s/a", dest: "d a", patterns: &["s"], ..Case::default() };
    assert_eq!(over_dir.run().err(), Some(Error::IsADirectory("a".into())));
    let over_link =
        Case { source: "d s\nd s/a", dest: "d b\nl a b", patterns: &["s"], ..Case::default() };
    assert_eq!(over_link.run().err(), Some(Error::NotADirectory("a".into())));
    Case { source: "d s\nf s/a", dest: "l a b", patterns: &["s"], ..Case::default() }
        .check(&["a 0:0 644"]);
}

#[test]
fn later_sources_win() {
    let source = "d one\nf one/f 1\nd two\nf two/f 22";
    let case = Case { source, patterns: &["one", "two"], to: "/d/", ..Case::default() };
    let (toc, origins) = case.run().expect("a plan");
    assert_eq!(show(&toc), ["d/ 0:0 755", "d/f 0:0 644"]);
    assert_eq!(origins.source_of(&"d/f".into()), Some("two/f".into()));
}

#[test]
fn existing_directories_are_in_no_layer_however_many_sources_there_are() {
    let dest = "d home @0:0:755\nd home/user @7:7:700";
    let source = "f one\nf two";
    let case = |patterns| Case { source, dest, patterns, to: "/home/user/", ..Case::default() };
    case(&["one"]).check(&["home/user/one 0:0 644"]);
    case(&["one", "two"]).check(&["home/user/one 0:0 644", "home/user/two 0:0 644"]);
    let deeper = Case { to: "/home/user/new/", ..case(&["one", "two"]) };
    deeper.check(&[
        "home/user/new/ 0:0 755",
        "home/user/new/one 0:0 644",
        "home/user/new/two 0:0 644",
    ]);
}

#[test]
fn hard_links_within_a_copy_stay_links() {
    let source = "d s\nf s/a data\nh s/b s/a\nh s/c s/a\nf other\nh s/out other\nh s/out2 other";
    let case = Case { source, patterns: &["s"], to: "/n/", ..Case::default() };
    let (toc, origins) = case.run().expect("a plan");
    assert_eq!(
        show(&toc),
        ["n/ 0:0 755", "n/a 0:0 644", "n/b = n/a", "n/c = n/a", "n/out 0:0 644", "n/out2 = n/out"]
    );
    assert_eq!(origins.source_of(&"n/out".into()), Some("s/out".into()));
}

#[test]
fn exclude_is_relative_to_the_source_and_has_exceptions() {
    let source = "d s\nf s/a.log\nf s/b.txt\nd s/d\nf s/d/c.log\nf s/d/keep.log";
    let exclude = |list: &[&str]| Options {
        exclude: list.iter().map(|text| (*text).to_owned()).collect(),
        ..Options::default()
    };
    let case = |options| Case { source, patterns: &["s"], to: "/n/", options, ..Case::default() };
    case(exclude(&["*.log"])).check(&[
        "n/ 0:0 755",
        "n/b.txt 0:0 644",
        "n/d/ 0:0 755",
        "n/d/c.log 0:0 644",
        "n/d/keep.log 0:0 644",
    ]);
    case(exclude(&["**/*.log", "!d/keep.log"])).check(&[
        "n/ 0:0 755",
        "n/b.txt 0:0 644",
        "n/d/ 0:0 755",
        "n/d/keep.log 0:0 644",
    ]);
    case(exclude(&["d", "!d/keep.log"])).check(&[
        "n/ 0:0 755",
        "n/a.log 0:0 644",
        "n/b.txt 0:0 644",
        "n/d/ 0:0 755",
        "n/d/keep.log 0:0 644",
    ]);
}

#[test]
fn parents_keep_the_path_from_the_pivot_on() {
    let source = "d a @3:3:711\nd a/b\nf a/b/c.txt\nf a/b/d.md\nd x\nf x/c.txt";
    let case = |patterns| Case {
        source,
        patterns,
        to: "/n/",
        options: Options { parents: true, ..Options::default() },
        ..Case::default()
    };
    case(&["a/b/c.txt"]).check(&[
        "n/ 0:0 755",
        "n/a/ 3:3 711",
        "n/a/b/ 0:0 755",
        "n/a/b/c.txt 0:0 644",
    ]);
    case(&["a/./b/c.txt"]).check(&["n/ 0:0 755", "n/b/ 0:0 755", "n/b/c.txt 0:0 644"]);
    case(&["**/*.txt"]).check(&[
        "n/ 0:0 755",
        "n/a/ 3:3 711",
        "n/a/b/ 0:0 755",
        "n/a/b/c.txt 0:0 644",
        "n/x/ 0:0 755",
        "n/x/c.txt 0:0 644",
    ]);
    let missing = case(&["a/none"]).run();
    assert_eq!(missing.err(), Some(Error::NotFound("/a/none".into())));
    case(&["no*/none"]).check(&["n/ 0:0 755"]);
}

#[test]
fn workdir_makes_directories_for_its_user_and_leaves_others_alone() {
    let dest = Tree::new(vec![toc("d home\nd home/old @3:3:700\nl link home")]);
    let options = Options::default();
    let owner = Owner { uid: 5, gid: 6 };
    let made = |path: &str| {
        let mut planner = Planner::new(&dest, &options, false).expect("a planner");
        planner.make_dirs(path, owner).expect("made");
        show(&planner.finish().0)
    };
    assert_eq!(made("/home/app/src"), ["home/app/ 5:6 755", "home/app/src/ 5:6 755"]);
    assert_eq!(made("/home/old"), Vec::<String>::new());
    assert_eq!(made("/link/x"), ["home/x/ 5:6 755"]);
}

#[test]
fn a_very_deep_tree_needs_no_stack() {
    let path = vec!["d"; 1_000].join("/");
    let mut builder = TocBuilder::new();
    let mut entry = |path: &str, kind| {
        builder.push(Entry {
            path: path.into(),
            kind,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: BTreeMap::new(),
        });
    };
    entry("d", Kind::Dir);
    entry(&path, Kind::Fifo);
    let source = Tree::new(vec![Arc::new(builder.finish())]);
    let options = Options::default();
    let empty = Tree::default();
    let mut planner = Planner::new(&empty, &options, false).expect("a planner");
    planner.copy(&source, "/", "/").expect("copied");
    assert!(!planner.finish().0.is_empty());
}

#[test]
fn setuid_bits_and_special_files_are_kept() {
    let source = "d s\nf s/su @0:0:4755\np s/fifo @1:1:1777";
    Case { source, patterns: &["s"], to: "/n/", ..Case::default() }.check(&[
        "n/ 0:0 755",
        "n/fifo| 1:1 1777",
        "n/su 0:0 4755",
    ]);
}

/// Nothing here looks at the whole source or at all that was planned once for each file.
#[test]
fn a_wildcard_of_many_files_takes_linear_time() {
    let mut builder = TocBuilder::new();
    for number in 0..100_000 {
        builder.push(Entry {
            path: format!("data/{:03}/{number:06}", number / 1000).as_str().into(),
            kind: Kind::File { size: 0, digest: None },
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: BTreeMap::new(),
        });
    }
    let source = Tree::new(vec![Arc::new(builder.finish())]);
    let (empty, options) = (Tree::default(), Options::default());
    let mut planner = Planner::new(&empty, &options, true).expect("no pattern is wrong");
    assert_eq!(planner.copy(&source, "data/*/*[37]", "/x/").expect("copied"), 20_000);
    let layers = planner.tree().layers().len();
    assert!(layers <= 20, "each look-up asks {layers} layers");
    let (toc, origins) = planner.finish();
    assert_eq!(toc.len(), 20_001);
    let at = |path: &str| origins.source_of(&path.into()).map(|path| path.to_string());
    assert_eq!(at("x/012343").as_deref(), Some("/data/012/012343"));
}
