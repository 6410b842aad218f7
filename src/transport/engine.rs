//! Container engines that images are loaded into: Docker by its API socket or its program, Podman by
//! its program.
//!
//! Docker is asked what it is (`GET /info`): with the containerd image store it takes an OCI archive
//! of all platforms (`POST /images/load`), otherwise what `docker save` writes, of its own platform.
//! Podman keeps one platform.
//!
//! Nothing here reads the environment: where to look is said by [`Places`].

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::archive::ArchiveSink;
use super::error::{Error, Result};
use super::fetch::Progress;
use super::{Source, copy};
use crate::oci::{Platform, Reference};

/// How long an engine may take to say what it is. A daemon under load answers within seconds.
const ANSWER: Duration = Duration::from_secs(20);
/// The most that is read of an answer; that to a load has a line for each layer.
const MAX_ANSWER: u64 = 4 << 20;

/// Where to look for engines.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// `DOCKER_HOST`.
    pub docker_host: Option<String>,
    /// Sockets that Docker listens on by itself.
    pub sockets: Vec<PathBuf>,
    /// The program `docker`.
    pub docker: Option<PathBuf>,
    /// The program `podman`.
    pub podman: Option<PathBuf>,
}

/// Which engine is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Docker.
    Docker,
    /// Podman.
    Podman,
}

/// An engine that answered.
#[derive(Debug, Clone)]
pub struct Engine {
    reach: Reach,
    /// Its own platform.
    pub platform: Platform,
    /// It can hold images of several platforms.
    pub all_platforms: bool,
}

#[derive(Debug, Clone)]
enum Reach {
    Socket(PathBuf),
    Docker(PathBuf),
    Podman(PathBuf),
}

impl Engine {
    /// Finds the engine that is wanted, else Docker, else Podman. The error tells what was tried.
    pub fn find(places: &Places, wanted: Option<Kind>) -> Result<Engine> {
        let mut tried = Vec::new();
        if wanted != Some(Kind::Podman) {
            match docker(places, &mut tried) {
                Some(engine) => return Ok(engine),
                // Whoever names a Docker means it.
                None if places.docker_host.is_some() => return Err(Error::NoEngine { tried }),
                None => {}
            }
        }
        if wanted != Some(Kind::Docker) {
            match &places.podman {
                Some(program) => {
                    return Ok(Engine {
                        reach: Reach::Podman(program.clone()),
                        platform: Platform::host(),
                        all_platforms: false,
                    });
                }
                None => tried.push("there is no podman in PATH".to_owned()),
            }
        }
        Err(Error::NoEngine { tried })
    }

    /// Says what it is, for people.
    pub fn describe(&self) -> String {
        match &self.reach {
            Reach::Socket(path) => format!("Docker at {}", path.display()),
            Reach::Docker(_) => "Docker".to_owned(),
            Reach::Podman(_) => "Podman".to_owned(),
        }
    }

    /// Loads an image under its names, all platforms that the source has. Gives what the engine said.
    pub fn load(
        &self,
        source: &dyn Source,
        names: &[Reference],
        progress: &Progress<'_>,
    ) -> Result<Vec<String>> {
        let several = source.root()?.0.is_index();
        let failed = |source| Error::Engine { engine: self.describe(), source };
        match &self.reach {
            Reach::Socket(path) => {
                let mut stream = UnixStream::connect(path).map_err(failed)?;
                let head = "POST /images/load?quiet=1 HTTP/1.1\r\nHost: docker\r\n\
                            Content-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n\
                            Connection: close\r\n\r\n";
                stream.write_all(head.as_bytes()).map_err(failed)?;
                let out = Chunks(stream.try_clone().map_err(failed)?);
                let sink = ArchiveSink::to_writer(Box::new(out), !several);
                let sent = copy(source, &sink, names, 1, progress);
                if sent.is_ok() {
                    // A daemon that gave up says why in its answer, not by the broken pipe.
                    let _ = stream.write_all(b"0\r\n\r\n");
                } else {
                    let _ = stream.shutdown(Shutdown::Write);
                }
                let answer = read_answer(&mut stream).map_err(failed);
                match (sent, answer) {
                    (Ok(_), answer) => self.judge(&answer?),
                    // What the daemon said of it is the cause; an upload that was cut short by us
                    // is not.
                    (Err(error), Ok(answer)) if is_broken(&error) => {
                        self.judge(&answer).and(Err(error))
                    }
                    (Err(error), _) => Err(error),
                }
            }
            Reach::Docker(program) | Reach::Podman(program) => {
                let mut child = Command::new(program)
                    .args(["load", "--quiet"])
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .map_err(failed)?;
                let input = child.stdin.take();
                // Read while it is written to: a full pipe would stop both.
                let said = std::thread::scope(|scope| {
                    let (out, err) = (child.stdout.take(), child.stderr.take());
                    let out = scope.spawn(move || read_all(out));
                    let err = scope.spawn(move || read_all(err));
                    let sent = feed(source, names, several, input, progress);
                    let said = |text: std::thread::Result<String>| text.unwrap_or_default();
                    (sent, said(out.join()), said(err.join()))
                });
                finish(self, child, said)
            }
        }
    }

    /// Reads the answer to a load.
    fn judge(&self, answer: &Answer) -> Result<Vec<String>> {
        let mut said = Vec::new();
        let refused = |message: String| Error::Refused { engine: self.describe(), message };
        for line in answer.body.lines() {
            let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
            let text = |key: &str| value[key].as_str().map(|text| text.trim().to_owned());
            if let Some(message) = text("error").or_else(|| text("message")) {
                return Err(refused(message));
            }
            said.extend(text("stream"));
        }
        match answer.status {
            200 => Ok(said),
            status => Err(refused(format!("status {status} {}", answer.body.trim()))),
        }
    }
}

/// Looks for a Docker that answers.
fn docker(places: &Places, tried: &mut Vec<String>) -> Option<Engine> {
    let mut sockets = places.sockets.clone();
    let mut by_program = true;
    if let Some(host) = &places.docker_host {
        sockets = host.strip_prefix("unix://").map(PathBuf::from).into_iter().collect();
        // TCP and SSH are the program's business, with its certificates and contexts.
        by_program = sockets.is_empty();
    }
    for path in sockets {
        match ask_socket(&path) {
            Ok(info) => return Some(engine(Reach::Socket(path), &info)),
            Err(error) => tried.push(format!("{}: {error}", path.display())),
        }
    }
    let program = places.docker.as_ref().filter(|_| by_program);
    match program {
        Some(program) => match ask_program(program) {
            Ok(info) => return Some(engine(Reach::Docker(program.clone()), &info)),
            Err(error) => tried.push(format!("docker info: {error}")),
        },
        None if by_program => tried.push("there is no docker in PATH".to_owned()),
        None => {}
    }
    None
}

fn engine(reach: Reach, info: &Value) -> Engine {
    let text = |key: &str| info[key].as_str().unwrap_or_default();
    let os = if text("OSType").is_empty() { "linux" } else { text("OSType") };
    let platform = format!("{os}/{}", text("Architecture")).parse::<Platform>();
    let all = info["DriverStatus"].as_array().is_some_and(|list| {
        list.iter().any(|pair| {
            pair[0] == "driver-type"
                && pair[1]
                    .as_str()
                    .is_some_and(|kind| kind.starts_with("io.containerd.snapshotter"))
        })
    });
    let platform = platform.map_or_else(|_| Platform::host(), Platform::normalized);
    Engine { reach, platform, all_platforms: all }
}

fn ask_socket(path: &Path) -> io::Result<Value> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    stream.write_all(b"GET /info HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")?;
    let answer = read_answer(&mut stream)?;
    if answer.status != 200 {
        return Err(io::Error::other(format!("status {}", answer.status)));
    }
    Ok(serde_json::from_str(&answer.body)?)
}

fn ask_program(program: &Path) -> io::Result<Value> {
    let output = Command::new(program)
        .args(["info", "--format", "{{json .}}"])
        .stdin(Stdio::null())
        .output()?;
    let value: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    // Without a daemon the program may still print what it knows of itself, and end well.
    if value["OSType"].as_str().is_some_and(|os| !os.is_empty()) {
        return Ok(value);
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ");
    Err(io::Error::other(if said.is_empty() { "no daemon answers".to_owned() } else { said }))
}

struct Answer {
    status: u16,
    body: String,
}

/// Reads an HTTP answer to the end of the connection.
fn read_answer(stream: &mut UnixStream) -> io::Result<Answer> {
    let mut bytes = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut bytes)?;
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "it does not speak HTTP");
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(bad)?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1."))
        .and_then(|line| line.split(' ').nth(1)?.parse().ok())
        .ok_or_else(bad)?;
    let chunked = lines.filter_map(|line| line.split_once(':')).any(|(name, value)| {
        name.eq_ignore_ascii_case("transfer-encoding")
            && value.trim().eq_ignore_ascii_case("chunked")
    });
    let body = &bytes[end + 4..];
    let body = if chunked { unchunk(body).ok_or_else(bad)? } else { body.to_vec() };
    Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
}

fn unchunk(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let end = bytes.windows(2).position(|two| two == b"\r\n")?;
        let size = std::str::from_utf8(&bytes[..end]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        bytes = &bytes[end + 2..];
        if size == 0 {
            return Some(out);
        }
        out.extend_from_slice(bytes.get(..size)?);
        bytes = bytes.get(size.checked_add(2)?..)?;
    }
}

/// Writes each piece as a chunk (RFC 9112, 7.1).
struct Chunks(UnixStream);

impl Write for Chunks {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if data.is_empty() {
            return Ok(0);
        }
        self.0.write_all(format!("{:x}\r\n", data.len()).as_bytes())?;
        self.0.write_all(data)?;
        self.0.write_all(b"\r\n")?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Tells an upload that the other side ended.
fn is_broken(error: &Error) -> bool {
    let Error::Io { source, .. } = error else { return false };
    matches!(source.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

fn read_all(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // A program that ends early closes its pipes; what it said till then counts.
        let _ = pipe.take(MAX_ANSWER).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// Writes the archive into a program; its input is closed at the end.
fn feed(
    source: &dyn Source,
    names: &[Reference],
    several: bool,
    input: Option<ChildStdin>,
    progress: &Progress<'_>,
) -> Result<()> {
    let Some(input) = input else { return Ok(()) };
    let sink = ArchiveSink::to_writer(Box::new(input), !several);
    copy(source, &sink, names, 1, progress).map(drop)
}

fn finish(
    engine: &Engine,
    mut child: Child,
    (sent, out, err): (Result<()>, String, String),
) -> Result<Vec<String>> {
    let failed = |source| Error::Engine { engine: engine.describe(), source };
    let status = child.wait().map_err(failed)?;
    match sent {
        Err(error) if !is_broken(&error) => Err(error),
        _ if !status.success() => {
            let message = if err.is_empty() { status.to_string() } else { err };
            Err(Error::Refused { engine: engine.describe(), message })
        }
        Err(error) => Err(error),
        Ok(()) => Ok(out.lines().map(str::to_owned).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_put_together() {
        assert_eq!(
            unchunk(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n").as_deref(),
            Some(&b"abcde"[..])
        );
        assert_eq!(unchunk(b"0\r\n\r\n").as_deref(), Some(&b""[..]));
        for bad in [&b"3\r\nab"[..], b"zz\r\n", b"", b"ffffffffffffffff\r\nx"] {
            assert_eq!(unchunk(bad), None);
        }
    }

    #[test]
    fn engines_say_what_they_can() {
        let info = |text: &str| {
            engine(Reach::Socket(PathBuf::new()), &serde_json::from_str(text).unwrap())
        };
        let graph = info(
            r#"{"OSType":"linux","Architecture":"aarch64","DriverStatus":[["Backing Filesystem","extfs"]]}"#,
        );
        assert_eq!(
            (graph.platform.to_string(), graph.all_platforms),
            ("linux/arm64".to_owned(), false)
        );
        let containerd = info(
            r#"{"OSType":"linux","Architecture":"x86_64","DriverStatus":[["driver-type","io.containerd.snapshotter.v1"]]}"#,
        );
        assert_eq!(
            (containerd.platform.to_string(), containerd.all_platforms),
            ("linux/amd64".to_owned(), true)
        );
    }

    #[test]
    fn what_was_tried_is_told() {
        let places = Places {
            docker_host: Some("unix:///nowhere/docker.sock".to_owned()),
            podman: Some(PathBuf::from("/bin/true")),
            ..Places::default()
        };
        let error = Engine::find(&places, None).unwrap_err().to_string();
        assert!(error.contains("/nowhere/docker.sock"), "{error}");
        let places = Places { docker_host: None, ..places };
        assert_eq!(Engine::find(&places, None).unwrap().describe(), "Podman");
        let error = Engine::find(&Places::default(), None).unwrap_err().to_string();
        assert!(error.contains("no docker in PATH") && error.contains("no podman"), "{error}");
    }
}
