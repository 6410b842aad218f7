//! What is no Dockerfile and no bake file, by size or by content: told clearly, at once, and in little memory.

use crate::support::{Run, TestEnv};

/// Memory for data that a build may have here: 64 MiB for its input, and 32 for itself.
const BUILD: usize = 96 << 10;

/// Bake reads its files on a stack of 128 MiB, which counts as data whether it is used or not.
const BAKE: usize = BUILD + (128 << 10);

/// Runs something that must be refused, with no more memory than this (KiB), and gives what it says. With less
/// than it asks for, a program is aborted, which is no exit code of ours.
fn refused(run: Run, memory: usize) -> String {
    let output = run.under(&format!("ulimit -d {memory}")).fails(2);
    assert!(output.stderr.len() < 1_000_000, "{} bytes of messages", output.stderr.len());
    output.stderr
}

/// A build of what these bytes are.
fn build(env: &TestEnv, dockerfile: &[u8]) -> String {
    env.write("Dockerfile", dockerfile);
    refused(env.build_command(["-t", "x"]), BUILD)
}

fn bake(env: &TestEnv, name: &str, text: &str) -> String {
    env.write(name, text);
    refused(env.lapstrake(["bake", "--print", "-f", name, "t"]).dir(env.context()), BAKE)
}

fn check(name: &str, said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "{name} does not say {word:?}: {said}");
    }
}

// The file is far too large, or has too much of something.
story!(dockerfiles_of_any_size_take_little_memory : user, |env| {
    let mut line = b"FROM scratch\nRUN echo ".to_vec();
    line.resize(100 << 20, b'x');
    check("a line of 100 MB", &build(env, &line), &["more than 4 MiB", "COPY"]);
    drop(line);
    let args = "ARG A=1\n".repeat(1_000_000);
    check("a million ARGs", &build(env, args.as_bytes()), &["more than 4 MiB"]);
    let args = "ARG A=1\n".repeat(400_000) + "FROM scratch\n";
    check("400,000 ARGs", &build(env, args.as_bytes()), &["Dockerfile:20001", "more than 20000 instructions"]);
    let words = format!("FROM scratch\nCOPY {}/\n", "a ".repeat(2_000_000));
    check("two million words", &build(env, words.as_bytes()), &["Dockerfile:2", "more than 65536 words"]);
    let errors = format!("FROM scratch\n{}", "nope\n".repeat(500_000));
    check("errors", &build(env, errors.as_bytes()), &["too many errors"]);
    let zeros = vec![0; 4 << 20];
    check("zero bytes", &build(env, &zeros), &["zero byte"]);
});

// The file is no text of ours, or is not finished.
story!(what_is_no_text_is_told : user, |env| {
    check("a zero byte", &build(env, b"FROM scratch\nRUN a\0b\n"), &["Dockerfile:2", "zero byte"]);
    let text = "FROM scratch\nRUN a\n";
    let little: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let big: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
    for (mark, bytes) in [(&b"\xff\xfe"[..], &little), (b"\xfe\xff", &big), (b"", &little), (b"", &big)] {
        check("UTF-16", &build(env, &[mark, bytes].concat()), &["UTF-16", "iconv"]);
    }
    check("Latin-1", &build(env, b"FROM scratch\nLABEL a=\xe9\n"), &["Dockerfile:2", "not UTF-8"]);
    let heredoc = build(env, b"FROM scratch\nRUN <<EOF\necho a\n EOF\n");
    check("a heredoc", &heredoc, &["Dockerfile:2", "`EOF` is never finished", "blanks around it"]);
});

// Little text that asks for much: variables made of each other, stages, ports, deep nesting.
story!(expansion_ends : user, |env| {
    let double = |keyword: &str| -> String {
        let lines = (1..60).map(|n| format!("{keyword} A{n}=$A{0}$A{0}\n", n - 1));
        format!("{keyword} A0=0123456789\n{}", lines.collect::<String>())
    };
    for text in [format!("FROM scratch\n{}", double("ENV")), format!("{}FROM scratch\n", double("ARG"))] {
        check("doubling", &build(env, text.as_bytes()), &["variables expand to more than 1 MiB", "Dockerfile:"]);
    }
    let large = format!("FROM scratch\nENV A={}\n", "x".repeat(100_000));
    let many = (0..3_000).map(|n| format!("ENV B{n}=$A\n")).collect::<String>();
    check("copies", &build(env, (large + &many).as_bytes()), &["more than 24 MiB", "Dockerfile:"]);
    let nested = format!("FROM scratch\nENV A={}\n", "${A:-".repeat(100_000));
    check("nesting", &build(env, nested.as_bytes()), &["nested more than 128 levels"]);
    let flags = format!("FROM scratch\nRUN {}x\n", "--mount=type=nope ".repeat(30_000));
    check("flags", &build(env, flags.as_bytes()), &["too many errors"]);
});

// The same for bake files.
story!(bake_files_of_any_kind_take_little_memory : user, |env| {
    let target = |text: &str| format!("target \"t\" {{\n tags = [\"a\"]\n args = {{ A = {text} }}\n}}\n");
    let rows = "target \"t\" {\n name = \"t${a}-${b}\"\n matrix = {\n a = range(0, 9000)\n b = range(0, 9000)\n }\n}\n";
    for (name, text, words) in [
        ("large", target(&format!("\"{}\"", "x".repeat(2 << 20))), &["256 KiB"][..]),
        ("deep", target(&format!("{}1{}", "[".repeat(50_000), "]".repeat(50_000))), &["a.hcl:3"]),
        ("parentheses", target(&format!("{}1{}", "(".repeat(50_000), ")".repeat(50_000))), &["a.hcl:3"]),
        ("format", target("format(\"%1000000000d\", 1)"), &["a.hcl:3", "format"]),
        ("range", target("range(0, 1e15)"), &["a.hcl:3", "range"]),
        ("copies", format!("v = range(0, 90000)\n{}", target(&format!("[{}]", "v, ".repeat(9_000)))), &["too much work"]),
        ("joins", target("join(\",\", [for a in range(0, 9000) : join(\",\", range(0, 9000))])"), &["too much work"]),
        ("matrix", rows.to_owned(), &["a matrix makes at most"]),
    ] {
        check(name, &bake(env, "a.hcl", &text), words);
    }
    let deep = format!("{{\"target\": {{\"t\": {{\"args\": {}1{} }}}}}}", "[".repeat(100_000), "]".repeat(100_000));
    check("JSON", &bake(env, "a.json", &deep), &["a.json", "recursion limit"]);
    let deep = format!("services: {}1{}", "[".repeat(100_000), "]".repeat(100_000));
    check("YAML", &bake(env, "a.yaml", &deep), &["a.yaml", "not YAML"]);
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..20 {
        laughs.push_str(&format!("a{n}: &a{n} [{}]\n", format!("*a{}, ", n - 1).repeat(8)));
    }
    check("laughs", &bake(env, "a.yaml", &laughs), &["a.yaml", "not YAML"]);
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), "*a, ".repeat(10_000));
    check("aliases", &bake(env, "a.yaml", &long), &["aliases make more of it"]);
});
