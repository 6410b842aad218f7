//! Git repositories of a story, and a web server that serves them as `git http-backend` does.

#![allow(dead_code)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::TestEnv;
use super::web::{Asked, Reply, Web};

/// When all commits were made.
pub const COMMIT_TIME: i64 = 1_500_000_000;

/// A repository below `repos`.
pub struct Repository<'e> {
    env: &'e TestEnv,
    name: String,
}

impl<'e> Repository<'e> {
    /// Makes an empty one; `name` ends in `.git`.
    pub fn new(env: &'e TestEnv, name: &str) -> Repository<'e> {
        env.mkdir(format!("repos/{name}"));
        let repository = Repository { env, name: name.to_owned() };
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        repository
    }

    /// Its directory.
    pub fn path(&self) -> PathBuf {
        self.env.path(format!("repos/{}", self.name))
    }

    /// Runs git in it; gives what it prints.
    pub fn git(&self, args: &[&str]) -> String {
        let time = format!("@{COMMIT_TIME} +0000");
        let fixed = ["-c", "user.name=n", "-c", "user.email=e@example.invalid", "-c"];
        let output = self
            .env
            .command("git")
            .args(fixed)
            .args(["protocol.file.allow=always"])
            .args(args)
            .env("GIT_AUTHOR_DATE", &time)
            .env("GIT_COMMITTER_DATE", &time)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .dir(self.path())
            .ok();
        output.stdout.trim().to_owned()
    }

    /// Writes a file.
    pub fn write(&self, path: &str, content: &str) -> &Self {
        self.env.write_at(format!("repos/{}/{path}", self.name), content);
        self
    }

    /// Commits everything; gives the commit's id.
    pub fn commit(&self) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", "change"]);
        self.git(&["rev-parse", "HEAD"])
    }
}

/// Serves the repositories of a story; with a header, only to those who send it.
pub fn serve(env: &TestEnv, authorization: Option<&str>) -> Web {
    let root = env.path("repos");
    let wanted = authorization.map(str::to_owned);
    Web::start(move |asked| {
        if wanted.is_some() && asked.header("authorization") != wanted.as_deref() {
            return Reply::status(401).header("www-authenticate", "Basic realm=\"test\"");
        }
        backend(&root, asked)
    })
}

/// Answers one request with `git http-backend`.
pub fn backend(root: &Path, asked: &Asked) -> Reply {
    let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
    let mut child = Command::new("git")
        .args(["-c", "safe.directory=*", "http-backend"])
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("REQUEST_METHOD", &asked.method)
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("CONTENT_TYPE", asked.header("content-type").unwrap_or_default())
        .env("CONTENT_LENGTH", asked.body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", asked.header("content-encoding").unwrap_or_default())
        .env("GIT_PROTOCOL", asked.header("git-protocol").unwrap_or_default())
        .env("REMOTE_ADDR", "127.0.0.1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("git is installed");
    let mut stdin = child.stdin.take().expect("it is piped");
    let body = asked.body.clone();
    let feeder = std::thread::spawn(move || {
        let _ = stdin.write_all(&body);
    });
    let output = child.wait_with_output().expect("it was started");
    let _ = feeder.join();
    let split = output.stdout.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let Some(split) = split else { return Reply::status(500) };
    let head = String::from_utf8_lossy(&output.stdout[..split]).into_owned();
    let mut status = 200;
    let mut headers = Vec::new();
    for line in head.lines() {
        match line.split_once(": ") {
            Some(("Status", text)) => {
                status = text.split(' ').next().and_then(|code| code.parse().ok()).unwrap_or(500);
            }
            Some((name, value)) => headers.push((name.to_owned(), value.to_owned())),
            None => {}
        }
    }
    let mut reply = Reply::status(status).body(&output.stdout[split + 4..]);
    for (name, value) in headers {
        reply = reply.header(&name, &value);
    }
    reply
}
