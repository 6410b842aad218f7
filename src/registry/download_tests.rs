//! Downloads against a server that breaks, redirects and lies.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::super::Options;
use super::super::web::{Reply, Web};
use super::*;

#[derive(Default)]
struct Memory(Vec<u8>);

impl Target for Memory {
    fn restart(&mut self) -> io::Result<()> {
        self.0.clear();
        Ok(())
    }

    fn receive(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

fn client() -> Client {
    Client::new(Options {
        retry_delay: Duration::from_millis(1),
        stall_timeout: Duration::from_millis(300),
        proxy: false,
        ..Options::default()
    })
    .unwrap()
}

fn get(url: &str) -> (Result<Fetched>, Vec<u8>) {
    let mut target = Memory::default();
    let request = Download { url: url.to_owned(), ..Download::default() };
    let result = client().download(&request, &mut target);
    (result, target.0)
}

#[test]
fn a_broken_download_goes_on_where_it_stopped() {
    let tries = AtomicUsize::new(0);
    let web = Web::start(move |asked| match tries.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::file("0123456789").header("etag", "\"a\"").cut(4),
        _ => {
            assert_eq!(asked.header("if-range"), Some("\"a\""));
            assert_eq!(asked.header("range"), Some("bytes=4-"));
            Reply::status(206).body("456789").header("content-range", "bytes 4-9/10")
        }
    });
    let (result, bytes) = get(&web.url("/f"));
    let Fetched::File(info) = result.unwrap() else { panic!("a file was sent") };
    assert_eq!((bytes.as_slice(), info.size), (b"0123456789".as_slice(), 10));
}

#[test]
fn a_file_that_changed_or_has_no_name_starts_again() {
    for etag in [Some("\"a\""), Some("W/\"a\""), None] {
        let tries = AtomicUsize::new(0);
        let web = Web::start(move |asked| {
            let first = tries.fetch_add(1, Ordering::SeqCst) == 0;
            assert_eq!(asked.header("range").is_some(), !first && etag == Some("\"a\""));
            let body = if first { "old old old" } else { "new" };
            let reply = Reply::file(body);
            let reply = if let Some(etag) = etag { reply.header("etag", etag) } else { reply };
            if first { reply.cut(5) } else { reply }
        });
        let (result, bytes) = get(&web.url("/f"));
        assert!(result.is_ok());
        assert_eq!(bytes, b"new", "{etag:?}");
    }
}

#[test]
fn a_download_that_always_breaks_is_an_error() {
    let web = Web::start(|_| Reply::file("0123456789").cut(3));
    let (result, _) = get(&web.url("/f"));
    assert!(result.unwrap_err().is_temporary());
    assert_eq!(web.asked().len(), 5);
}

#[test]
fn credentials_stay_with_their_origin() {
    let thief = Web::with_file("theirs");
    let to = thief.url("/stolen");
    let web = Web::start(move |asked| match asked.path.as_str() {
        "/here" => Reply::redirect("/there"),
        "/there" => Reply::file("mine"),
        _ => Reply::redirect(&to),
    });
    let url = |path| web.url(path).replace("http://", "http://me:s%40cret@");
    assert_eq!(get(&url("/here")).1, b"mine");
    assert_eq!(get(&url("/away")).1, b"theirs");
    let basic = "Basic bWU6c0BjcmV0";
    assert!(web.asked().iter().all(|asked| asked.header("authorization") == Some(basic)));
    assert!(thief.asked().iter().all(|asked| asked.header("authorization").is_none()));
    let error = get("ftp://me:secret@host/x?token=1").0.unwrap_err().to_string();
    assert!(!error.contains("secret") && !error.contains("token"), "{error}");
}

#[test]
fn what_is_here_is_not_fetched_again() {
    let web = Web::start(|asked| match asked.path.as_str() {
        "/knows" if asked.header("if-none-match") == Some("\"a\"") => Reply::status(304),
        "/knows-time" if asked.header("if-modified-since").is_some() => Reply::status(304),
        "/ignores" => Reply::file("same").header("etag", "\"a\""),
        _ => Reply::file("other").header("etag", "\"b\""),
    });
    let known = |path: &str| Download {
        url: web.url(path),
        etag: Some("\"a\"".into()),
        last_modified: Some("Wed, 21 Oct 2015 07:28:00 GMT".into()),
        ..Download::default()
    };
    for path in ["/knows", "/knows-time", "/ignores"] {
        let result = client().download(&known(path), &mut Memory::default());
        assert_eq!(result.unwrap(), Fetched::NotModified, "{path}");
    }
    let result = client().download(&known("/new"), &mut Memory::default());
    assert!(matches!(result, Ok(Fetched::File(_))));
}

#[test]
fn what_is_no_file_is_an_error() {
    let web = Web::start(|asked| match asked.path.as_str() {
        "/loop" => Reply::redirect("/loop"),
        "/file" => Reply::redirect("file:///etc/passwd"),
        "/none" => Reply::status(204),
        "/slow" => Reply::file("0123456789").trickle(Duration::from_millis(120), 1),
        _ => Reply::status(404),
    });
    for (path, word) in
        [("/loop", "too many"), ("/file", "scheme"), ("/none", "204"), ("/x", "404")]
    {
        let error = get(&web.url(path)).0.unwrap_err().to_string();
        assert!(error.contains(word), "{path}: {error}");
    }
    assert!(matches!(get(&web.url("/slow")).0, Err(Error::Stalled { .. })));
}

#[test]
fn dispositions_give_plain_names() {
    for (header, name) in [
        ("attachment; filename=a.tar", Some("a.tar")),
        ("attachment; filename=\"a \\\"b\\\";c.tar\"", Some("a \"b\";c.tar")),
        ("attachment; filename=x; filename*=UTF-8''%c3%a9.tar", Some("é.tar")),
        ("attachment; filename=\"../../etc/passwd\"", Some("passwd")),
        ("attachment; filename=\"..\"", None),
        ("inline", None),
    ] {
        assert_eq!(disposition_name(header).as_deref(), name, "{header}");
    }
    assert_eq!(parse_time("Wed, 21 Oct 2015 07:28:00 GMT"), Some(1_445_412_480));
}
