//! ADD of URLs: names, modes, times, checksums, the cache, and servers that mean no good.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::image::Tar;
use crate::support::layout::sha256;
use crate::support::web::{Reply, Web};

const DATE: &str = "Wed, 21 Oct 2015 07:28:00 GMT";
const DATE_SECONDS: u64 = 1_445_412_480;

// Trap 21: BuildKit testDockerfileADDFromURL, testAddURLChmod.
story!(url_gives_name_mode_and_time : root user single, |env| {
    let web = Web::start(|asked| match asked.path.as_str() {
        "/dated.txt?v=1" => Reply::file("dated").header("last-modified", DATE),
        _ => Reply::file("plain").header("content-disposition", "attachment; filename=other"),
    });
    let url = |path| web.url(path);
    env.dockerfile(&format!(
        "FROM scratch\nADD {} /dir/\nADD {} {} /dir/\nADD --chown=7:8 --chmod=u=rwX,go=r {} /named\nWORKDIR /w\nADD {} rel\n",
        url("/dated.txt?v=1"), url("/plain"), url("/"), url("/x"), url("/a[1].txt"),
    ));
    let image = env.build(["--no-cache"]).only();
    let dated = image.file("dir/dated.txt");
    assert_eq!((dated.line().as_str(), dated.mtime), ("-0600 0:0 dir/dated.txt", DATE_SECONDS));
    assert_eq!((image.file("dir/plain").mtime, image.text("dir/__unnamed__")), (0, "plain".into()));
    assert_eq!(image.file("named").line(), "-0644 7:8 named");
    assert_eq!(image.text("w/rel"), "plain");
});

// BuildKit testBuildHTTPSource: the content is the key, the server says whether it is still the same.
story!(content_is_the_key_and_the_server_is_asked : root user, |env| {
    let state: Arc<Mutex<(String, String)>> = Arc::new(Mutex::new(("one".into(), "\"1\"".into())));
    let served = Arc::clone(&state);
    let web = Web::start(move |asked| {
        let (body, etag) = served.lock().expect("nobody panics").clone();
        if asked.header("if-none-match") == Some(&etag) {
            return Reply::status(304);
        }
        Reply::file(body).header("etag", &etag)
    });
    env.dockerfile(&format!("FROM base\nADD {} /f\nRUN cat /f > /copy\n", web.url("/f")));
    let build = || env.build_command(["-t", "x"]).ok();
    build().says_not("CACHED");
    assert_eq!(web.asked().len(), 1);
    let again = build();
    assert_eq!(again.stderr.matches("CACHED").count(), 4, "{}", again.stderr);
    again.says_not("isolation:");
    assert_eq!(web.asked().len(), 2);
    // Another tag, the same bytes: nothing is done again.
    state.lock().expect("nobody panics").1 = "\"2\"".into();
    assert_eq!(build().stderr.matches("CACHED").count(), 4);
    *state.lock().expect("nobody panics") = ("two".into(), "\"3\"".into());
    assert_eq!(build().stderr.matches("CACHED").count(), 1);
    assert_eq!(env.build([] as [&str; 0]).only().text("copy"), "two");
});

// BuildKit testAddChecksum.
story!(checksum_must_fit : root user, |env| {
    let web = Web::with_file("content");
    let good = sha256(b"content");
    let sha512 = "sha512:b2d1d285b5199c85f988d03649c37e44fd3dde01e5d69c50fef90651962f48110e9340b60d49a479c4c0b53f5f07d690686dd87d2481937a512e8b85ee7c617f";
    let line = |sum: &str, rest: &str| format!("FROM scratch\nADD --checksum={sum} {rest}\n");
    let add = format!("{} /f", web.url("/f"));
    for sum in [good.as_str(), sha512] {
        assert_eq!(env.image(&line(sum, &add)).text("f"), "content");
    }
    let wrong = sha256(b"other");
    let text = env.build_fails(1, &line(&wrong, &add));
    assert!(text.contains(&good) && text.contains(&wrong), "{text}");
    let wrong512 = format!("sha512:{}", "0".repeat(128));
    assert!(env.build_fails(1, &line(&wrong512, &add)).contains("digest mismatch"));
    env.write("local", "x");
    for (sum, rest, word) in [
        (good.as_str(), "local /f".to_owned(), "requires"),
        (&good, format!("{} {} /d/", web.url("/a"), web.url("/b")), "multiple"),
        ("sha256:12", add.clone(), "64"),
        ("md5:12", add.clone(), "sha256"),
    ] {
        let text = env.build_fails(2, &line(sum, &rest));
        assert!(text.contains(word), "{text}");
    }
});

story!(offline_takes_what_a_checksum_names_and_nothing_else : root user, |env| {
    let web = Web::with_file("content");
    let sum = sha256(b"content");
    env.dockerfile(&format!("FROM scratch\nADD --checksum={sum} {} /f\n", web.url("/f")));
    let text = env.build_command(["-t", "x", "--offline"]).fails(4).stderr;
    assert!(text.contains("--offline") && text.contains("--checksum"), "{text}");
    env.build_command(["-t", "x"]).ok();
    assert_eq!(web.asked().len(), 1);
    let image = env.build(["--offline", "--no-cache"]).only();
    assert_eq!(image.text("f"), "content");
    env.build_command(["-t", "x"]).ok().says("CACHED");
    assert_eq!(web.asked().len(), 1, "a checksum needs no server");
    env.dockerfile(&format!("FROM scratch\nADD {} /f\n", web.url("/f")));
    env.build_command(["-t", "x", "--offline"]).fails(4).says("--offline");
    assert_eq!(web.asked().len(), 1);
});

// BuildKit testAddUnpack: downloads are not extracted unless told so, local archives are.
story!(archives_are_extracted_when_asked : root user, |env| {
    let tar = Tar::new().file_as("in/f", 0o640, (3, 4), b"x").gzip();
    let web = Web::with_file(tar.clone());
    env.write("local.tgz", &tar);
    let image = env.image(&format!(
        "FROM scratch\nADD {0} /plain/\nADD --unpack=true {0} /unpacked/\nADD --unpack=false local.tgz {0} /both/\nADD local.tgz {0} /mixed/\n",
        web.url("/a.tgz")
    ));
    assert_eq!(image.below("plain"), ["a.tgz"]);
    assert_eq!(image.file("unpacked/in/f").line(), "-0640 3:4 unpacked/in/f");
    assert_eq!(image.below("both"), ["a.tgz", "local.tgz"]);
    assert_eq!(image.below("mixed"), ["a.tgz", "in", "in/f"]);
    assert_eq!(web.asked().len(), 1, "one URL is fetched once a build");
});

story!(later_source_of_one_add_wins : root user, |env| {
    let web = Web::with_file("remote");
    env.write("f", "local");
    let image = env.image(&format!("FROM scratch\nADD f {0} /a/\nADD {0} f /b/\n", web.url("/f")));
    assert_eq!((image.text("a/f").as_str(), image.text("b/f").as_str()), ("remote", "local"));
});

story!(copy_takes_no_url : user, |env| {
    for source in ["https://example.invalid/x", "https://example.invalid/x.git", "git@example.invalid:x"] {
        let text = env.build_fails(2, &format!("FROM scratch\nCOPY {source} /x\n"));
        assert!(text.contains("for COPY"), "{text}");
    }
});

// Attack cases 15 and 33.
story!(servers_that_break_lie_or_redirect : root user, |env| {
    let thief = Web::with_file("stolen");
    let to = thief.url("/take");
    let tries = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&tries);
    let web = Web::start(move |asked| match asked.path.as_str() {
        "/breaks" if count.fetch_add(1, Ordering::SeqCst) == 0 => {
            Reply::file("0123456789").header("etag", "\"a\"").cut(4)
        }
        "/breaks" => Reply::status(206).body("456789").header("content-range", "bytes 4-9/10"),
        "/away" => Reply::redirect(&to),
        "/file" => Reply::redirect("file:///etc/passwd"),
        "/loop" => Reply::redirect("/loop"),
        "/short" => Reply::file("0123456789").cut(4),
        _ => Reply::status(404),
    });
    let url = |path: &str| web.url(path).replace("http://", "http://me:s3cr3t@");
    let add = |path: &str| format!("FROM scratch\nADD {} /f\n", url(path));
    assert_eq!(env.image(&add("/breaks")).text("f"), "0123456789");
    let image = env.image(&add("/away"));
    assert_eq!(image.text("f"), "stolen");
    assert!(thief.asked().iter().all(|asked| asked.header("authorization").is_none()));
    assert!(web.asked().iter().all(|asked| asked.header("authorization").is_some()));
    assert!(!image.config.to_string().contains("s3cr3t"), "{}", image.config);
    for (path, word) in [("/none", "404"), ("/file", "redirect"), ("/loop", "redirect"), ("/short", "4 of 10")] {
        let text = env.build_fails(4, &add(path));
        let told: Vec<_> = text.lines().filter(|line| !line.starts_with("2 | ADD ")).collect();
        assert!(text.contains(word) && !told.concat().contains("s3cr3t"), "{text}");
    }
    // Neither the store nor what was shown has the password. (The Dockerfile's own excerpt is the user's.)
    let found = env.command("grep").args(["-r", "-l", "s3cr3t"]).args([env.store()]).output();
    assert_eq!(found.stdout, "");
});

// BuildKit: HTTP_AUTH_TOKEN_host and HTTP_AUTH_HEADER_host.
story!(tokens_come_from_secrets : root user, |env| {
    let web = Web::start(|asked| match asked.header("authorization") {
        Some("Bearer t0ken") => Reply::file("private"),
        _ => Reply::status(401),
    });
    env.dockerfile(&format!("FROM scratch\nADD {} /f\n", web.url("/f")));
    env.build_command(["-t", "x"]).fails(4).says("HTTP_AUTH_TOKEN_");
    let secret = format!("id=HTTP_AUTH_TOKEN_{},env=TOKEN", web.host());
    let output = env.build_command(["-t", "x", "--secret", &secret]).env("TOKEN", "t0ken").ok();
    output.says_not("t0ken");
    let found = env.command("grep").args(["-r", "-l", "t0ken"]).args([env.store()]).output();
    assert_eq!(found.stdout, "");
});

story!(download_stops_when_the_build_is_stopped : root user, |env| {
    let web = Web::start(|_| Reply::file(vec![b'x'; 1 << 20]).trickle(Duration::from_millis(100), 1));
    env.dockerfile(&format!("FROM scratch\nADD {} /f\n", web.url("/f")));
    let mut child = env.build_command(["-t", "x"]).spawn();
    let started = Instant::now();
    while web.asked().is_empty() {
        assert!(started.elapsed() < Duration::from_secs(30), "nothing was asked");
        std::thread::sleep(Duration::from_millis(10));
    }
    let stopped = Instant::now();
    std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill is everywhere");
    let status = child.wait().expect("it was started");
    assert_eq!(status.code(), Some(130));
    assert!(stopped.elapsed() < Duration::from_secs(2), "{:?}", stopped.elapsed());
    let left: Vec<_> = std::fs::read_dir(env.store().join("tmp")).expect("there").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
});

// Same inputs, same bytes: the server's time is clamped as any other.
story!(epoch_clamps_the_servers_time : root user, |env| {
    let web = Web::start(|_| Reply::file("x").header("last-modified", DATE));
    env.dockerfile(&format!("FROM scratch\nADD {} /f\n", web.url("/f")));
    let image = env.build(["--build-arg", "SOURCE_DATE_EPOCH=1000000000"]).only();
    assert_eq!(image.file("f").mtime, 1_000_000_000);
    let image = env.build_into("b", ["--build-arg", "SOURCE_DATE_EPOCH=1600000000"]).only();
    assert_eq!(image.file("f").mtime, DATE_SECONDS);
});

story!(url_in_an_onbuild_trigger_and_a_variable : root user, |env| {
    let web = Web::with_file("x");
    env.dockerfile(
        "FROM scratch AS parent\nONBUILD ARG URL\nONBUILD ADD $URL/f /f\nFROM parent\nARG URL\nADD ${URL}/g /g\n",
    );
    let image = env.build(["--build-arg", &format!("URL={}", web.url(""))]).only();
    assert_eq!(image.text("f") + &image.text("g"), "xx");
});
