//! What is wrong, and what is said about it.

use super::*;

#[test]
fn instructions() {
    for (source, expect) in [
        ("", "E0108 1:1 ``: there is no instruction in it"),
        ("# c\n\n", "E0108 1:1 ``: there is no instruction in it"),
        ("FROOM a", "?\nE0201 1:1 `FROOM`: unknown instruction `FROOM` (did you mean `FROM`?)"),
        (
            "from a\nrunn b",
            "FROM \"a\"\n?\nE0201 2:1 `runn`: unknown instruction `runn` (did you mean `run`?)",
        ),
        (
            "FROM a\n// c",
            "FROM \"a\"\n?\nE0201 2:1 `//`: unknown instruction `//` (comments begin with `#`)",
        ),
        (
            "FROM a\nRUN b\n&& c",
            "FROM \"a\"\nRUN \"b\"\n?\nE0201 3:1 `&&`: unknown instruction `&&` (does the line above lack a `\\` at its end?)",
        ),
        (
            "FROM a\nRUN\u{a0}b",
            "FROM \"a\"\n?\nE0201 2:1 `RUN\u{a0}b`: unknown instruction `RUN\u{a0}b` (a blank (no other kind of space) ends the keyword)",
        ),
        (
            "FROM a\n<<<<<<< HEAD",
            "FROM \"a\"\n?\nE0201 2:1 `<<<<<<<`: unknown instruction `<<<<<<<` (this is the mark of a merge conflict)",
        ),
        ("\\\n", "E0201 1:1 `\\`: a line continuation without an instruction"),
        (
            "RUN a\nCMD []",
            "RUN \"a\"\nCMD []\nE0205 1:1 `RUN`: RUN stands before the first FROM (a stage begins with FROM; only ARG may stand before it)",
        ),
        ("FROM", "?\nE0202 1:1 `FROM`: FROM needs an image, or `IMAGE AS NAME`"),
        ("FROM a b", "?\nE0202 1:1 `FROM a b`: FROM needs an image, or `IMAGE AS NAME`"),
        (
            "FROM a # b",
            "?\nE0202 1:1 `FROM a # b`: FROM needs an image, or `IMAGE AS NAME` (a comment needs a line of its own)",
        ),
        (
            "FROM a --platform=b",
            "?\nE0202 1:1 `FROM a --platform=b`: FROM needs an image, or `IMAGE AS NAME` (flags stand before the image: `FROM --platform=… IMAGE`)",
        ),
        (
            "FROM a AS 1b",
            "FROM \"a\" as 1b\nE0210 1:11 `1b`: invalid stage name `1b` (it begins with a letter and holds letters, digits, `-`, `_` and `.`)",
        ),
    ] {
        check(source, expect);
    }
}

#[test]
fn arguments() {
    for (body, expect) in [
        ("RUN", "RUN \"\"\nW0201 2:1 `RUN`: RUN without a command"),
        ("USER", "?\nE0202 2:1 `USER`: USER needs an argument"),
        ("EXPOSE", "?\nE0202 2:1 `EXPOSE`: EXPOSE needs at least one argument"),
        ("COPY a", "?\nE0202 2:1 `COPY a`: COPY needs a source and a destination"),
        ("COPY", "?\nE0202 2:1 `COPY`: COPY needs a source and a destination"),
        ("COPY a <<E\nE", "?\nE0207 2:8 `<<E`: COPY cannot have a heredoc as its destination"),
        ("ENV", "?\nE0202 2:1 `ENV`: ENV needs at least one `key=value`"),
        (
            "ENV A",
            "?\nE0208 2:5 `A`: `A` has no value (write `key=value`; `key=` for an empty one)",
        ),
        (
            "ENV A=1 B",
            "ENV \"A\"=\"1\"\nE0208 2:9 `B`: `B` is no `key=value` (put a value with blanks in quotes: `key=\"a value\"`)",
        ),
        ("LABEL =x", "LABEL\nE0209 2:7 `=x`: LABEL needs a name before the `=`"),
        ("ARG", "?\nE0202 2:1 `ARG`: ARG needs at least one argument"),
        ("ARG =x A", "ARG A\nE0209 2:5 `=x`: ARG needs a name before the `=`"),
        ("VOLUME [\"\"]", "VOLUME\nE0209 2:9 `\"\"`: the path of a volume cannot be empty"),
        ("VOLUME []", "?\nE0202 2:1 `VOLUME []`: VOLUME needs at least one argument"),
        (
            "SHELL /bin/sh -c",
            "?\nE0203 2:7 `/bin/sh -c`: SHELL needs a JSON array (write `[\"/bin/sh\", \"-c\"]`)",
        ),
        ("SHELL []", "?\nE0202 2:1 `SHELL []`: SHELL needs at least one argument"),
        (
            "RUN [\"a\", 1]",
            "?\nE0204 2:11 `1`: in a JSON array, all elements must be strings (put it in double quotes)",
        ),
        (
            "COPY [[\"a\"], \"b\"]",
            "?\nE0204 2:7 `[\"a\"]`: in a JSON array, all elements must be strings (put it in double quotes)",
        ),
        ("HEALTHCHECK", "?\nE0202 2:1 `HEALTHCHECK`: HEALTHCHECK needs CMD and a command, or NONE"),
        (
            "HEALTHCHECK CMD",
            "?\nE0202 2:1 `HEALTHCHECK CMD`: HEALTHCHECK needs a command after CMD",
        ),
        (
            "HEALTHCHECK NONE x",
            "HEALTHCHECK none\nE0202 2:18 `x`: HEALTHCHECK NONE takes no arguments",
        ),
        (
            "HEALTHCHECK curl x",
            "?\nE0211 2:13 `curl`: unknown kind of health check `curl` (write `HEALTHCHECK [flags] CMD command`)",
        ),
        ("ONBUILD", "?\nE0202 2:1 `ONBUILD`: ONBUILD needs an instruction"),
        ("ONBUILD ONBUILD RUN a", "?\nE0206 2:9 `ONBUILD`: ONBUILD cannot be triggered by ONBUILD"),
        ("ONBUILD FROM a", "?\nE0206 2:9 `FROM`: FROM cannot be triggered by ONBUILD"),
        (
            "ONBUILD CPOY a b",
            "?\nE0201 2:9 `CPOY`: unknown instruction `CPOY` (did you mean `COPY`?)",
        ),
    ] {
        check_body(body, expect);
    }
}

#[test]
fn flags() {
    for (body, expect) in [
        ("COPY --form=x a b", "COPY \"a\" -> \"b\"\nE0301 2:6 `--form`: COPY has no flag `--form` (did you mean `--from`?)"),
        ("COPY --chown 1 a b", "COPY \"1\" \"a\" -> \"b\"\nE0303 2:6 `--chown`: `--chown` needs a value (write `--chown=VALUE`, with no blank in it)"),
        ("COPY --link=yes a b", "COPY \"a\" -> \"b\"\nE0304 2:6 `--link`: `--link` is true or false, not `yes`"),
        ("COPY --link= a b", "COPY \"a\" -> \"b\"\nE0304 2:6 `--link`: `--link` is true or false, not ``"),
        ("COPY --from=$X a b", "COPY from=\"$X\" \"a\" -> \"b\"\nE0306 2:13 `$X`: `--from` does not take variables or quotes (define a stage `FROM … AS name` with the variable and name that)"),
        ("COPY --from=a --from=b a b", "COPY from=\"a\" \"a\" -> \"b\"\nE0302 2:15 `--from`: `--from` is given twice"),
        ("COPY --checksum=x a b", "COPY \"a\" -> \"b\"\nE0301 2:6 `--checksum`: COPY has no flag `--checksum` (COPY has --from, --chown, --chmod, --link, --parents, --exclude)"),
        ("CMD --help", "CMD \"\"\nE0301 2:5 `--help`: CMD has no flag `--help` (to begin with text that looks like a flag, write `--` before it)\nW0107 2:5 ``: x".replace("2:5 ``: x", "2:11 ``: signals do not reach the command of this CMD (write a JSON array: `CMD [\"program\", \"argument\"]`)").as_str()),
        ("ARG --x A", "ARG A\nE0301 2:5 `--x`: ARG has no flag `--x` (to begin with text that looks like a flag, write `--` before it)"),
        ("RUN --network=bridge a", "RUN \"a\"\nE0305 2:15 `bridge`: invalid value `bridge` for `--network` (the values are default, none, host)"),
        ("RUN --mont=x a", "RUN \"a\"\nE0301 2:5 `--mont`: RUN has no flag `--mont` (did you mean `--mount`?)"),
        ("RUN --mount=type=cahce,target=/x a", "RUN mount(type=\"cahce\" target=\"/x\") \"a\"\nE0404 2:18 `cahce`: unknown mount type `cahce` (did you mean `cache`?)"),
        ("RUN --mount=taregt=/x a", "RUN mount(taregt=\"/x\") \"a\"\nE0402 2:13 `taregt`: unknown key `taregt` in a mount (did you mean `target`?)"),
        ("RUN --mount=target=/x,Z a", "RUN mount(target=\"/x\" z) \"a\"\nE0402 2:23 `Z`: unknown key `z` in a mount (leave it out: nothing of the host is mounted, so nothing is relabelled)"),
        ("RUN --mount=type=tmpfs,target=/x,tmpfs-size=1m a", "RUN mount(type=\"tmpfs\" target=\"/x\" tmpfs-size=\"1m\") \"a\"\nE0402 2:34 `tmpfs-size`: unknown key `tmpfs-size` in a mount (write `size=`)"),
        ("RUN --device=a,b=c x", "RUN \"x\"\nE0409 2:14 `a,b=c`: unexpected field `b=c` in a device (the keys are name and required)"),
        ("HEALTHCHECK --interval=1 CMD a", "HEALTHCHECK - - - - - \"a\"\nE0305 2:24 `1`: invalid duration `1`: must look like `30s`, `1m30s` or `500ms`"),
        ("HEALTHCHECK --timeout=1us CMD a", "HEALTHCHECK - - - - - \"a\"\nE0305 2:23 `1us`: `--timeout` cannot be less than 1ms"),
        ("HEALTHCHECK --retries=-1 CMD a", "HEALTHCHECK - - - - - \"a\"\nE0305 2:23 `-1`: `--retries` is a whole number from 0 on, not `-1`"),
    ] {
        check_body(body, expect);
    }
}

#[test]
fn heredocs() {
    for (body, expect) in [
        (
            "RUN <<EOF\na",
            "RUN \"<<EOF\" <<EOF \"a\"\nE0104 2:5 `<<EOF`: the heredoc `EOF` is never finished [no line behind it is `EOF`] (a line with nothing but its name ends it)",
        ),
        (
            "RUN <<EOF\na\n  EOF\n",
            "RUN \"<<EOF\" <<EOF \"a\\n  EOF\\n\"\nE0104 2:5 `<<EOF`: the heredoc `EOF` is never finished [no line behind it is `EOF`] (the line that ends it has blanks around it; `<<-` takes leading tabs off)",
        ),
        (
            "RUN cat <<EOF; a\nEOF",
            "RUN \"cat <<EOF; a\" <<EOF; \"EOF\"\nE0104 2:9 `<<EOF;`: the heredoc `EOF;` is never finished [no line behind it is `EOF;`] (the name of this heredoc is `EOF;`; put a blank after `EOF`)",
        ),
        (
            "RUN it's <<EOF\n",
            "RUN \"it's <<EOF\"\nW0205 2:10 `<<`: no heredoc is looked for in this line, as it cannot be split [a ' is opened and never closed]",
        ),
    ] {
        check_body(body, expect);
    }
}

#[test]
fn directives() {
    for (source, expect) in [
        (
            "# escape=x\nFROM a",
            "FROM \"a\"\nE0106 1:10 `x`: invalid escape character `x` (it is either `\\` or a backtick)",
        ),
        (
            "# escape=`\n# Escape=`\nFROM a",
            "# escape `\nFROM \"a\"\nE0105 2:1 `# Escape=``: the directive `escape` is given twice",
        ),
        (
            "# sytnax=x\nFROM a",
            "FROM \"a\"\nW0202 1:1 `# sytnax=x`: `sytnax` is not a directive (did you mean `syntax`?)",
        ),
        (
            "# syntax=me/mine:1\nFROM a",
            "# syntax me/mine:1\nFROM \"a\"\nW0203 1:10 `me/mine:1`: the frontend `me/mine:1` is not used (lapstrake has its own; what only this frontend understands is an error)",
        ),
        (
            "# check=skip\nFROM a",
            "FROM \"a\"\nE0107 1:9 `skip`: invalid check option `skip`: there is no `=` in it",
        ),
        (
            "# check=error=maybe\nFROM a",
            "FROM \"a\"\nE0107 1:9 `error=maybe`: invalid check option `error=maybe`: `error` is true or false",
        ),
    ] {
        check(source, expect);
    }
    let parsed = parse(b"# check=skip=stagenamecasing\nFROM a");
    assert_eq!(parsed.diagnostics[0].help.as_deref(), Some("did you mean `StageNameCasing`?"));
}

#[test]
fn bytes_that_are_no_text() {
    let codes = |bytes: &[u8]| {
        parse(bytes)
            .diagnostics
            .iter()
            .map(|d| format!("{} {}", d.code, d.span.start))
            .collect::<Vec<_>>()
    };
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    assert_eq!(codes(&utf16("\u{feff}FROM a")), ["E0101 0"]);
    assert_eq!(codes(&utf16("FROM a")), ["E0101 0"]);
    assert_eq!(codes(b"FROM a\nRUN \xff\xfe b\0c"), ["E0102 11", "E0102 12", "E0103 15"]);
    assert_eq!(codes(b"# caf\xe9 \0\nFROM a\nRUN x \\\n# \xe9\n y"), [""; 0]);
    assert_eq!(codes(b"\xef\xbb\xbfFROM a"), [""; 0]);
    assert_eq!(parse(b"# \xe9\nFROM a").dockerfile.source, "# ?\nFROM a");
}

#[test]
fn checks() {
    for (source, expect) in [
        (
            "FROM a AS Base",
            "FROM \"a\" as base\nW0101 1:11 `Base`: the stage name `Base` is not lower case (write `base`)",
        ),
        (
            "FROM a as b",
            "FROM \"a\" as b\nW0102 1:8 `as`: `FROM` and `as` differ in case (write `AS`)",
        ),
        (
            "from a As b",
            "FROM \"a\" as b\nW0102 1:8 `As`: `from` and `As` differ in case (write `as`)",
        ),
        (
            "FROM a\nRUN b \\\n\n c",
            "FROM \"a\"\nRUN \"b  c\"\nW0103 3:1 ``: a blank line in the middle of an instruction (take it out, or make it a comment)",
        ),
        (
            "FROM a\nRun b\nRUN c",
            "FROM \"a\"\nRUN \"b\"\nRUN \"c\"\nW0104 2:1 `Run`: `Run` stands out: most keywords are in upper case (write `RUN`)",
        ),
        (
            "FROM a AS b\nFROM a AS B",
            "FROM \"a\" as b\nFROM \"a\" as b\nW0101 2:11 `B`: the stage name `B` is not lower case (write `b`)\nW0105 2:11 `B`: another stage is named `b` too",
        ),
        (
            "FROM a AS scratch",
            "FROM \"a\" as scratch\nW0106 1:11 `scratch`: the name `scratch` is reserved",
        ),
        (
            "FROM a\nCMD x",
            "FROM \"a\"\nCMD \"x\"\nW0107 2:5 `x`: signals do not reach the command of this CMD (write a JSON array: `CMD [\"program\", \"argument\"]`)",
        ),
        (
            "FROM a AS b\nSHELL [\"x\"]\nCMD x\nFROM b\nCMD y",
            "FROM \"a\" as b\nSHELL \"x\"\nCMD \"x\"\nFROM \"b\"\nCMD \"y\"",
        ),
        (
            "FROM a\nMAINTAINER me",
            "FROM \"a\"\nMAINTAINER \"me\"\nW0108 2:1 `MAINTAINER`: MAINTAINER is deprecated (write `LABEL org.opencontainers.image.authors=\"me\"`)",
        ),
        (
            "FROM a AS b\nWORKDIR x\nWORKDIR y\nFROM b\nWORKDIR z\nFROM c\nWORKDIR $D",
            "FROM \"a\" as b\nWORKDIR \"x\"\nWORKDIR \"y\"\nFROM \"b\"\nWORKDIR \"z\"\nFROM \"c\"\nWORKDIR \"$D\"\nW0110 2:9 `x`: `x` begins wherever the base image ends (write an absolute path)",
        ),
        (
            "FROM a\nCMD []\nCMD []",
            "FROM \"a\"\nCMD []\nCMD []\nW0112 2:1 `CMD`: this CMD is without effect: one on line 3 follows",
        ),
        (
            "FROM a\nLABEL k v",
            "FROM \"a\"\nLABEL \"k\" = \"v\"\nW0113 2:7 `k v`: `LABEL key value` is the old form (write `LABEL k=…`)",
        ),
        (
            "FROM --platform=${TARGETPLATFORM} a",
            "FROM platform=\"${TARGETPLATFORM}\" \"a\"\nW0115 1:17 `${TARGETPLATFORM}`: the target platform is the default (leave `--platform` out)",
        ),
        (
            "FROM a\nARG NPM_TOKEN\nENV API_KEY=1 PUBLIC_KEY=2 MONKEY=3",
            "FROM \"a\"\nARG NPM_TOKEN\nENV \"API_KEY\"=\"1\" \"PUBLIC_KEY\"=\"2\" \"MONKEY\"=\"3\"\nW0116 2:5 `NPM_TOKEN`: `NPM_TOKEN` looks like a secret, and ARG keeps it in the image (use `RUN --mount=type=secret,id=…` instead)\nW0116 3:5 `API_KEY`: `API_KEY` looks like a secret, and ENV keeps it in the image (use `RUN --mount=type=secret,id=…` instead)",
        ),
        (
            "FROM --platform=linux/arm64 a\nFROM --platform=linux/arm64 a AS x-arm64",
            "FROM platform=\"linux/arm64\" \"a\"\nFROM platform=\"linux/arm64\" \"a\" as x-arm64\nW0118 1:17 `linux/arm64`: the platform `linux/arm64` is fixed, whatever is built for",
        ),
        (
            "# check=experimental=all\n# hello\nFROM a AS b",
            "# check CheckOptions { skip_all: false, skip: [], experimental_all: true, experimental: [], error: false }\nFROM \"a\" as b\nW0120 2:1 `# hello`: this comment above FROM does not describe `b` (begin it with `# b `, or put an empty comment between it and FROM)",
        ),
        (
            "FROM a\nEXPOSE 80/TCP 1:2",
            "FROM \"a\"\nEXPOSE \"80/TCP\" \"1:2\"\nW0121 2:8 `80/TCP`: the protocol in `80/TCP` is not lower case\nW0122 2:15 `1:2`: `1:2` names more than a port of the container (host ports and addresses are given when it is run)",
        ),
    ] {
        check(source, expect);
    }
}

/// Trap 36: ARGs alone make no image.
#[test]
fn trap_36_args_alone_are_no_stage() {
    check(
        "ARG foo",
        "ARG foo\nE0109 1:1 `ARG foo`: there is no stage to build: no line begins with FROM",
    );
}

/// Trap 82: warnings come together with the errors, each with its place.
#[test]
fn trap_82_warnings_come_with_errors() {
    let parsed = parse(b"FROM a AS B\nRUN a \\\n\n b\nNOPE\nCOPY x\n");
    let codes: Vec<_> = parsed.diagnostics.iter().map(|d| (d.code, d.span.start)).collect();
    assert_eq!(codes, [("W0101", 10), ("W0103", 20), ("E0201", 24), ("E0202", 29)]);
}
