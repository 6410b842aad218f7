//! What is no Dockerfile and no bake file, by size or by content: told clearly, at once, and in little memory.

use crate::support::{Run, TestEnv};

/// The most memory beyond what a tiny build takes, bytes.
const MOST_MEMORY: u64 = 64 << 20;

/// Runs something that must be refused; gives what it says and its peak of memory in bytes.
#[expect(unsafe_code, reason = "std gives no resource usage of a child")]
fn refused(env: &TestEnv, run: Run) -> (String, u64) {
    let child = run.spawn();
    let mut status = 0;
    // SAFETY: the call fills both places, which live longer; the child is ours and is waited for here only.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        let pid = libc::wait4(child.id() as i32, &mut status, 0, &mut usage);
        assert_eq!(pid, child.id() as i32);
        usage
    };
    let said = std::fs::read_to_string(env.path("tmp/spawned.log")).expect("it was started");
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 2, "{status}: {said}");
    assert!(said.len() < 100_000, "{} bytes of messages", said.len());
    // Linux counts it in KiB.
    (said, usage.ru_maxrss as u64 * 1024)
}

/// A build of what these bytes are.
fn build(env: &TestEnv, dockerfile: &[u8]) -> (String, u64) {
    env.write("Dockerfile", dockerfile);
    refused(env, env.build_command(["-t", "x"]))
}

fn bake(env: &TestEnv, name: &str, text: &str) -> (String, u64) {
    env.write(name, text);
    let run = env.lapstrake(["bake", "--print", "-f", name, "t"]).dir(env.context());
    refused(env, run)
}

fn check(name: &str, least: u64, (said, peak): (String, u64), words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "{name} does not say {word:?}: {said}");
    }
    assert!(peak < least + MOST_MEMORY, "{name}: {peak} bytes of memory, {least} are usual");
}

// The file is far too large, or has too much of something.
story!(dockerfiles_of_any_size_take_little_memory : user, |env| {
    let (_, least) = build(env, b"FROM scratch\nNOPE\n");
    let mut line = b"FROM scratch\nRUN echo ".to_vec();
    line.resize(100 << 20, b'x');
    check("a line of 100 MB", least, build(env, &line), &["more than 4 MiB", "COPY"]);
    drop(line);
    let args = "ARG A=1\n".repeat(1_000_000);
    check("a million ARGs", least, build(env, args.as_bytes()), &["more than 4 MiB"]);
    let args = "ARG A=1\n".repeat(400_000) + "FROM scratch\n";
    check("400,000 ARGs", least, build(env, args.as_bytes()), &["Dockerfile:20001", "more than 20000 instructions"]);
    let words = format!("FROM scratch\nCOPY {}/\n", "a ".repeat(2_000_000));
    check("two million words", least, build(env, words.as_bytes()), &["Dockerfile:2", "more than 65536 words"]);
    let errors = format!("FROM scratch\n{}", "nope\n".repeat(500_000));
    check("errors", least, build(env, errors.as_bytes()), &["too many errors"]);
    let zeros = vec![0; 4 << 20];
    check("zero bytes", least, build(env, &zeros), &["zero byte"]);
});

// The file is no text of ours, or is not finished.
story!(what_is_no_text_is_told : user, |env| {
    let (_, least) = build(env, b"FROM scratch\nNOPE\n");
    check("a zero byte", least, build(env, b"FROM scratch\nRUN a\0b\n"), &["Dockerfile:2", "zero byte"]);
    let text = "FROM scratch\nRUN a\n";
    let little: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let big: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
    for (mark, bytes) in [(&b"\xff\xfe"[..], &little), (b"\xfe\xff", &big), (b"", &little), (b"", &big)] {
        check("UTF-16", least, build(env, &[mark, bytes].concat()), &["UTF-16", "iconv"]);
    }
    check("Latin-1", least, build(env, b"FROM scratch\nLABEL a=\xe9\n"), &["Dockerfile:2", "not UTF-8"]);
    let heredoc = build(env, b"FROM scratch\nRUN <<EOF\necho a\n EOF\n");
    check("a heredoc", least, heredoc, &["Dockerfile:2", "`EOF` is never finished", "blanks around it"]);
});

// Little text that asks for much: variables made of each other, stages, ports, deep nesting.
story!(expansion_ends : user, |env| {
    let (_, least) = build(env, b"FROM scratch\nNOPE\n");
    let double = |keyword: &str| -> String {
        let lines = (1..60).map(|n| format!("{keyword} A{n}=$A{0}$A{0}\n", n - 1));
        format!("{keyword} A0=0123456789\n{}", lines.collect::<String>())
    };
    for text in [format!("FROM scratch\n{}", double("ENV")), format!("{}FROM scratch\n", double("ARG"))] {
        check("doubling", least, build(env, text.as_bytes()), &["variables expand to more than 1 MiB", "Dockerfile:"]);
    }
    let large = format!("FROM scratch\nENV A={}\n", "x".repeat(100_000));
    let many = (0..3_000).map(|n| format!("ENV B{n}=$A\n")).collect::<String>();
    check("copies", least, build(env, (large + &many).as_bytes()), &["more than 24 MiB", "Dockerfile:"]);
    let nested = format!("FROM scratch\nENV A={}\n", "${A:-".repeat(100_000));
    check("nesting", least, build(env, nested.as_bytes()), &["nested more than 128 levels"]);
    let flags = format!("FROM scratch\nRUN {}x\n", "--mount=type=nope ".repeat(30_000));
    check("flags", least, build(env, flags.as_bytes()), &["too many errors"]);
});

// The same for bake files.
story!(bake_files_of_any_kind_take_little_memory : user, |env| {
    let (_, least) = bake(env, "a.hcl", "target \"t\" {\n nope = 1\n}\n");
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
        check(name, least, bake(env, "a.hcl", &text), words);
    }
    let deep = format!("{{\"target\": {{\"t\": {{\"args\": {}1{} }}}}}}", "[".repeat(100_000), "]".repeat(100_000));
    check("JSON", least, bake(env, "a.json", &deep), &["a.json", "recursion limit"]);
    let deep = format!("services: {}1{}", "[".repeat(100_000), "]".repeat(100_000));
    check("YAML", least, bake(env, "a.yaml", &deep), &["a.yaml", "not YAML"]);
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..20 {
        laughs.push_str(&format!("a{n}: &a{n} [{}]\n", format!("*a{}, ", n - 1).repeat(8)));
    }
    check("laughs", least, bake(env, "a.yaml", &laughs), &["a.yaml", "not YAML"]);
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), "*a, ".repeat(10_000));
    check("aliases", least, bake(env, "a.yaml", &long), &["aliases make more of it"]);
});
