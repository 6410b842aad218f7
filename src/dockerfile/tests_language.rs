//! What is right, and what it means.

use super::*;

#[test]
fn every_instruction() {
    for (body, expect) in [
        ("RUN a b", r#"RUN "a b""#),
        (
            "run a b",
            "RUN \"a b\"\nW0104 2:1 `run`: `run` stands out: most keywords are in upper case (write `RUN`)",
        ),
        ("  RUN  a  b  ", r#"RUN "a  b""#),
        ("RUN\ta", r#"RUN "a""#),
        (r#"RUN ["a", "b c"]"#, r#"RUN ["a" "b c"]"#),
        ("COPY a b /c/", r#"COPY "a" "b" -> "/c/""#),
        (r#"COPY ["a b", "$c"]"#, r#"COPY "a b" -> "$c""#),
        ("ADD https://x/y.tgz /", r#"ADD "https://x/y.tgz" -> "/""#),
        ("ENV A=1 B='x y' C=\"$A\" D=a\\ b", r#"ENV "A"="1" "B"="'x y'" "C"="\"$A\"" "D"="a\\ b""#),
        ("LABEL a.b=c \"d e\"='f'", r#"LABEL "a.b"="c" "\"d e\""="'f'""#),
        ("ARG A B=1 C=", r#"ARG A B="1" C="""#),
        ("USER  a:b ", r#"USER "a:b""#),
        ("WORKDIR /a b", r#"WORKDIR "/a b""#),
        ("EXPOSE 80 443/tcp 53/udp $P", r#"EXPOSE "80" "443/tcp" "53/udp" "$P""#),
        ("VOLUME /a /b", r#"VOLUME "/a" "/b""#),
        (r#"VOLUME ["/a", " /b "]"#, r#"VOLUME "/a" "/b""#),
        ("STOPSIGNAL $SIG", r#"STOPSIGNAL "$SIG""#),
        (r#"SHELL ["/bin/bash", "-c"]"#, r#"SHELL "/bin/bash" "-c""#),
        (r#"CMD ["a"]"#, r#"CMD ["a"]"#),
        ("CMD []", "CMD []"),
        (r#"ENTRYPOINT ["a", "b"]"#, r#"ENTRYPOINT ["a" "b"]"#),
        ("HEALTHCHECK NONE", "HEALTHCHECK none"),
        ("HEALTHCHECK CMD curl -f x", r#"HEALTHCHECK - - - - - "curl -f x""#),
        (
            "HEALTHCHECK --interval=5s --timeout=1.5s --start-period=1m --start-interval=100ms --retries=3 CMD [\"a\"]",
            r#"HEALTHCHECK 5000000000 1500000000 60000000000 100000000 3 ["a"]"#,
        ),
        (
            "healthcheck --retries=0 cmd a",
            "HEALTHCHECK - - - - 0 \"a\"\nW0104 2:1 `healthcheck`: `healthcheck` stands out: most keywords are in upper case (write `HEALTHCHECK`)",
        ),
        ("ONBUILD RUN a  b ", r#"ONBUILD "RUN a  b " = RUN "a  b""#),
        ("ONBUILD COPY --from=x a b", r#"ONBUILD "COPY --from=x a b" = COPY from="x" "a" -> "b""#),
    ] {
        check_body(body, expect);
    }
}

#[test]
fn every_flag() {
    for (body, expect) in [
        (
            "RUN --mount=type=cache,target=/a,id=$I --mount=target=/b,ro --network=none --security=insecure --device=v/c=d,required --device=name=x,required=false a",
            r#"RUN mount(type="cache" target="/a" id="$I") mount(target="/b" ro) network=None security=Insecure device("v/c=d" true) device("x" false) "a""#,
        ),
        (
            "RUN --network=host --security=sandbox --network= a",
            "RUN network=Host security=Sandbox \"a\"\nE0302 2:39 `--network`: `--network` is given twice",
        ),
        ("RUN -- --a", r#"RUN "--a""#),
        (
            "RUN --mount=\"type=bind\",target='/x y' a",
            r#"RUN mount(type="bind" target="/x y") "a""#,
        ),
        (
            "COPY --from=b --chown=1:$G --chmod=u=rwX --link --parents=false --exclude=*.o --exclude=a\\ b a /b",
            r#"COPY from="b" chown="1:$G" chmod="u=rwX" link=true parents=false exclude="*.o" exclude="a b" "a" -> "/b""#,
        ),
        (
            "ADD --chown=a --chmod=644 --link=TRUE --checksum=sha256:$S --keep-git-dir --unpack=false --exclude=x a /b",
            r#"ADD chown="a" chmod="644" checksum="sha256:$S" link=true keep-git-dir=true unpack=false exclude="x" "a" -> "/b""#,
        ),
    ] {
        check_body(body, expect);
    }
    check(
        "FROM --platform=$BUILDPLATFORM a:1@sha256:00 AS b-1.c_d",
        r#"FROM platform="$BUILDPLATFORM" "a:1@sha256:00" as b-1.c_d"#,
    );
}

#[test]
fn comments_and_blank_lines() {
    check_body("RUN a \\\n# no\n  # neither\n  && b # stays", r#"RUN "a   && b # stays""#);
    check_body("# c\n\n  # d\nRUN a", r#"RUN "a""#);
    check_body("RUN a\\\nb", r#"RUN "ab""#);
    check_body("RU\\\nN a\\\n  b", r#"RUN "a  b""#);
    check_body("RUN a \\ \t\n b", r#"RUN "a  b""#);
    check_body("RUN a \\\\\nRUN b", "RUN \"a \\\\\\\\\"\nRUN \"b\"");
    check_body("RUN a \\", r#"RUN "a""#);
}

#[test]
fn comments_become_descriptions() {
    check(
        "# base is where it begins\nFROM a AS base\n# VERSION of it\n# OTHER thing\nARG VERSION=1 OTHER\n# VERSION\n#\nARG VERSION",
        "FROM \"a\" as base # is where it begins\nARG VERSION=\"1\" # of it OTHER # thing\nARG VERSION",
    );
}

#[test]
fn originals_are_what_history_shows() {
    let source = "FROM a\n  run --mount=target=/x a \\\n  # c\n  && b  \nCOPY <<E /x\nbody\nE\nONBUILD RUN a\\\n b ";
    let parsed = parse(source.as_bytes());
    let originals: Vec<&str> =
        parsed.dockerfile.instructions.iter().map(|i| i.original.as_str()).collect();
    let run = "run --mount=target=/x a   && b";
    assert_eq!(originals, ["FROM a", run, "COPY <<E /x", "ONBUILD RUN a b"]);
    let spans: Vec<&str> =
        parsed.dockerfile.instructions.iter().map(|i| i.span.slice(source)).collect();
    assert_eq!(spans[1], "run --mount=target=/x a \\\n  # c\n  && b  ");
    assert_eq!(spans[2], "COPY <<E /x\nbody\nE");
    assert_eq!(parsed.dockerfile.instructions[1].keyword(), "run");
}

#[test]
fn spans_point_into_the_source() {
    let source = "\u{feff}FROM --platform=$P a AS b\r\nENV A=1 \\\r\n  B=2\r\nCOPY --chown=x:y --from=b <<F s \\\r\n d\r\nF\r\nRUN --mount=type=cache,target=/t x";
    let parsed = parse(source.as_bytes());
    let at = |word: &Word| word.span.slice(source).to_owned();
    let [from, env, copy, run] = parsed.dockerfile.instructions.as_slice() else {
        panic!("there are four: {}", dump(&parsed))
    };
    let Command::From(from) = &from.command else { panic!("it is a FROM") };
    assert_eq!(from.platform.as_ref().map(at).as_deref(), Some("$P"));
    assert_eq!(at(&from.image), "a");
    let Command::Env(pairs) = &env.command else { panic!("it is an ENV") };
    let pairs: Vec<_> = pairs.iter().map(|pair| (at(&pair.key), at(&pair.value))).collect();
    assert_eq!(pairs, [("A".into(), "1".into()), ("B".into(), "2".into())]);
    let Command::Copy(copy) = &copy.command else { panic!("it is a COPY") };
    assert_eq!(copy.chown.as_ref().map(at).as_deref(), Some("x:y"));
    assert_eq!(at(&copy.destination), "d");
    let Source::Heredoc(doc) = &copy.sources[0] else { panic!("it is a heredoc") };
    assert_eq!((doc.span.slice(source), doc.content_span.slice(source)), ("<<F", ""));
    let Command::Run(run) = &run.command else { panic!("it is a RUN") };
    let fields: Vec<_> =
        run.mounts[0].fields.iter().map(|f| (at(&f.key), f.value.as_ref().map(at))).collect();
    assert_eq!(fields[1], ("target".into(), Some("/t".into())));
}

#[test]
fn directives() {
    check(
        "# syntax = docker/dockerfile:1 x\n#escape=`\n# check=skip=JSONArgsRecommended,StageNameCasing;error=true\nFROM A AS B\nRUN a `\n b \\\nCMD x",
        "# syntax docker/dockerfile:1\n# escape `\n# check CheckOptions { skip_all: false, skip: [\"JSONArgsRecommended\", \"StageNameCasing\"], experimental_all: false, experimental: [], error: true }\nFROM \"A\" as b\nRUN \"a  b \\\\\"\nCMD \"x\"",
    );
    check(
        "# hello\n# escape=`\nFROM a\nRUN a \\\n b",
        "FROM \"a\"\nRUN \"a  b\"\nW0202 2:1 `# escape=``: this directive has no effect here (directives stand at the very top, before any other comment)",
    );
    check(
        "\n# escape=`\nFROM a",
        "FROM \"a\"\nW0202 2:1 `# escape=``: this directive has no effect here (directives stand at the very top, before any other comment)",
    );
    check(
        "#!/usr/bin/env x\n# syntax=docker/dockerfile:1\nFROM a",
        "# syntax docker/dockerfile:1\nFROM \"a\"",
    );
}

#[test]
fn checks_are_turned_off_by_line() {
    check(
        "# check=skip=StageNameCasing\n\nFROM a AS B",
        "# check CheckOptions { skip_all: false, skip: [\"StageNameCasing\"], experimental_all: false, experimental: [], error: false }\nFROM \"a\" as b",
    );
    check(
        "ARG X\n# check=skip=StageNameCasing\nFROM a AS B\nFROM a AS C",
        "ARG X\nFROM \"a\" as b\nFROM \"a\" as c\nW0101 4:11 `C`: the stage name `C` is not lower case (write `c`)",
    );
    check(
        "# check=skip=all\nFROM a AS B\nCMD x",
        "# check CheckOptions { skip_all: true, skip: [], experimental_all: false, experimental: [], error: false }\nFROM \"a\" as b\nCMD \"x\"",
    );
}

#[test]
fn stages_and_global_args() {
    let source = "ARG A=1 B\nARG C\nFROM x AS one\nRUN a\nFROM one\nFROM $A AS Two\nARG B\n";
    let parsed = parse(source.as_bytes());
    let globals: Vec<&str> =
        parsed.dockerfile.global_args().map(|(_, arg)| arg.name.as_str()).collect();
    assert_eq!(globals, ["A", "B", "C"]);
    let stages = parsed.dockerfile.stages();
    let stages: Vec<_> =
        stages.iter().map(|s| (s.index, s.name(), s.first, s.body.len())).collect();
    assert_eq!(stages, [(0, Some("one"), 3, 1), (1, None, 5, 0), (2, Some("two"), 6, 1)]);
}

#[test]
fn heredocs() {
    for (body, expect) in [
        ("RUN <<EOF\na\n  b\nEOF\nUSER x", "RUN \"<<EOF\" <<EOF \"a\\n  b\\n\"\nUSER \"x\""),
        ("RUN cat <<EOF > /x\na\nEOF", r#"RUN "cat <<EOF > /x" <<EOF "a\n""#),
        (
            "COPY <<a.txt <<-'b' c /d/\n1\na.txt\n\t2\n\tb",
            r#"COPY <<a.txt "1\n" <<-'b' "\t2\n" "c" -> "/d/""#,
        ),
        ("COPY <<X <<Y /d/\nY\nX\nX\nY", r#"COPY <<X "Y\n" <<Y "X\n" -> "/d/""#),
        ("RUN 3<<A cat \\\n <<B\n1\nA\n2\nB", r#"RUN "3<<A cat  <<B" 3<<A "1\n" <<B "2\n""#),
        (
            "RUN <<EOF\nFROM x\n# no comment\n\\\nEOF",
            r#"RUN "<<EOF" <<EOF "FROM x\n# no comment\n\\\n""#,
        ),
        ("RUN --mount=target=/x <<EOF\nEOF", r#"RUN mount(target="/x") "<<EOF" <<EOF """#),
        ("RUN [\"cat\", \"<<EOF\"]", r#"RUN ["cat" "<<EOF"]"#),
        ("USER <<EOF", r#"USER "<<EOF""#),
        ("ADD <<F /f\nF", r#"ADD <<F "" -> "/f""#),
        ("COPY <<'a b' /d\nx\na b", r#"COPY <<'a b' "x\n" -> "/d""#),
        (
            "ONBUILD RUN <<EOF\na\nEOF\nUSER x",
            "ONBUILD \"RUN <<EOF\\na\\nEOF\" = RUN \"<<EOF\" <<EOF \"a\\n\"\nUSER \"x\"",
        ),
    ] {
        check_body(body, expect);
    }
}

#[test]
fn triggers_are_parsed_again() {
    let expression = "RUN <<EOF\na\nEOF";
    let parsed = parse_trigger(expression);
    assert_eq!(dump(&parsed), "RUN \"<<EOF\" <<EOF \"a\\n\"\n");
    let errors = |trigger: &str| {
        let parsed = parse_trigger(trigger);
        parsed.diagnostics.iter().map(|d| d.code).collect::<Vec<_>>()
    };
    assert_eq!(errors("COPY . /x"), [""; 0]);
    assert_eq!(errors("FROM a"), ["E0206"]);
    assert_eq!(errors("RUN a\nRUN b"), ["E0212"]);
    assert_eq!(errors(""), ["E0108"]);
}

fn script(body: &str) -> Script {
    let parsed = parse(format!("FROM a\n{body}").as_bytes());
    match &parsed.dockerfile.instructions[1].command {
        Command::Run(run) => run.script(false),
        other => panic!("it is no RUN: {other:?}"),
    }
}

/// Trap 34: a lone heredoc is a script, everything else goes to the shell as it was.
#[test]
fn heredoc_scripts() {
    let shell = |text: &str| Script::Shell(text.to_owned());
    assert_eq!(script("RUN <<EOF\na\nEOF"), shell("a\n"));
    assert_eq!(script("RUN <<-EOF\n\ta\n\t\tb\nEOF"), shell("a\nb\n"));
    assert_eq!(script("RUN <<EOF sh\na\nEOF"), shell("<<EOF sh\na\nEOF"));
    assert_eq!(script("RUN <<-EOF cat\n\ta\n\tEOF"), shell("<<-EOF cat\n\ta\nEOF"));
    assert_eq!(script("RUN <<A cat <<B\n1\nA\n2\nB"), shell("<<A cat <<B\n1\nA\n2\nB"));
    assert_eq!(script("RUN [\"a\"]"), Script::Exec(vec!["a".to_owned()]));
    let file = Script::File { name: "EOF".to_owned(), content: "#!/bin/x\na\n".to_owned() };
    assert_eq!(script("RUN <<EOF\n#!/bin/x\na\nEOF"), file);
}

/// Trap 29: all values of one ENV stay unexpanded, so that they see what was before it.
#[test]
fn trap_29_values_of_one_env_are_kept_apart() {
    check_body("ENV abc=bye def=$abc", r#"ENV "abc"="bye" "def"="$abc""#);
}

/// Trap 30: quotes, escapes and odd characters of ENV.
#[test]
fn trap_30_env_quoting() {
    for (body, expect) in [
        ("ENV A='it''s'", r#"ENV "A"="'it''s'""#),
        ("ENV A=\"a \\\"b\\\" c\" B=c", r#"ENV "A"="\"a \\\"b\\\" c\"" "B"="c""#),
        ("ENV A='open B=c", r#"ENV "A"="'open B=c""#),
        ("ENV A=a\\\n  B=b", r#"ENV "A"="a" "B"="b""#),
        ("ENV A=\"a\\\n  b\"", r#"ENV "A"="\"a  b\"""#),
        ("ENV A=%s%d B=100%", r#"ENV "A"="%s%d" "B"="100%""#),
        ("ENV A= B=\"\"", r#"ENV "A"="" "B"="\"\"""#),
        ("ENV A==b", r#"ENV "A"="=b""#),
        ("ENV A=\u{a0}", r#"ENV "A"="""#),
        ("ENV A=b\u{2003}C=d", r#"ENV "A"="b" "C"="d""#),
    ] {
        check_body(body, expect);
    }
    check_body(
        "ENV A b  c=\"d\"",
        "ENV \"A\" = \"b  c=\\\"d\\\"\"\nW0113 2:5 `A b  c=\"d\"`: `ENV key value` is the old form (write `ENV A=…`)",
    );
}

/// Trap 31: quoting in global ARGs is kept for the expansion.
#[test]
fn trap_31_global_args_and_from() {
    check(
        "ARG a1=\"box\"\nARG a2=\"$a1-foo\" a3='x y'\nFROM busy$a1\nFROM \"${a2}\" AS z",
        "ARG a1=\"\\\"box\\\"\"\nARG a2=\"\\\"$a1-foo\\\"\" a3=\"'x y'\"\nFROM \"busy$a1\"\nFROM \"\\\"${a2}\\\"\" as z",
    );
}

/// Trap 32: an ARG without a default differs from one with an empty default.
#[test]
fn trap_32_unset_and_empty_args_differ() {
    check_body("ARG A\nARG B=", "ARG A\nARG B=\"\"");
}

/// Trap 34: line ends and blanks around heredocs.
#[test]
fn trap_34_heredocs_with_crlf_and_tabs() {
    for (body, expect) in [
        ("RUN <<EOF\r\na\r\nEOF\r\nUSER x", "RUN \"<<EOF\" <<EOF \"a\\r\\n\"\nUSER \"x\""),
        ("RUN <<-EOF\n\t\ta\n\tb\n\t\tEOF", r#"RUN "<<-EOF" <<-EOF "\t\ta\n\tb\n""#),
        ("RUN <<EOF\n EOF\nEOF \nEOF", r#"RUN "<<EOF" <<EOF " EOF\nEOF \n""#),
        ("RUN << EOF\nEOF", r#"RUN "<< EOF" <<EOF """#),
        ("COPY <<EOF /a\n\\$x \\\\ '\nEOF", r#"COPY <<EOF "\\$x \\\\ '\n" -> "/a""#),
    ] {
        check_body(body, expect);
    }
}

/// Trap 35: what is no JSON goes to the shell, keywords have any case, the escape may be a backtick.
#[test]
fn trap_35_json_fallback_case_and_windows_escape() {
    for (body, expect) in [
        ("RUN [ -f /x ] && a", r#"RUN "[ -f /x ] && a""#),
        ("RUN [[ $a == b ]]", r#"RUN "[[ $a == b ]]""#),
        (
            "RUN ['a', 'b']",
            "RUN \"['a', 'b']\"\nW0204 2:6 `'`: this is not JSON, so it is taken as plain text [strings need double quotes]",
        ),
        (
            "RUN [\"a\", \"b\"",
            "RUN \"[\\\"a\\\", \\\"b\\\"\"\nW0204 2:14 ``: this is not JSON, so it is taken as plain text [expected `,` or `]`]",
        ),
        (
            "RUN [\"a\"] b",
            "RUN \"[\\\"a\\\"] b\"\nW0204 2:11 `b`: this is not JSON, so it is taken as plain text [text after the closing `]`]",
        ),
        (
            "COPY [\"a\", \"b\" /c",
            "COPY \"[\\\"a\\\",\" \"\\\"b\\\"\" -> \"/c\"\nW0204 2:16 `/`: this is not JSON, so it is taken as plain text [expected `,` or `]`]",
        ),
    ] {
        check_body(body, expect);
    }
    check("from a as b\nrun c", "FROM \"a\" as b\nRUN \"c\"");
    check(
        "# escape=`\nFROM a\nRUN dir C:\\ `\n  D:\\\nWORKDIR c:\\x",
        "# escape `\nFROM \"a\"\nRUN \"dir C:\\\\   D:\\\\\"\nWORKDIR \"c:\\\\x\"",
    );
}

/// Trap 27: JSON is how paths with blanks are copied.
#[test]
fn trap_27_unicode_and_blank_paths() {
    check_body("COPY [\"a b\", \"ä/\\u00f6\", \"/ü/\"]", r#"COPY "a b" "ä/ö" -> "/ü/""#);
    check_body("COPY sträße /ü", r#"COPY "sträße" -> "/ü""#);
}
