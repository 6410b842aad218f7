//! The part of Docker's API that a load needs, on a socket: it says what it is, and keeps what it is given.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;

/// What it does with an image.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// It takes it.
    Willing,
    /// It reads it, and then tells of an error in the stream, as Docker does.
    Unwilling,
    /// It answers 500 before it has read anything, and closes.
    Sick,
}

/// A running daemon. Dropping it closes the door.
pub struct FakeDocker {
    path: PathBuf,
    loaded: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: Arc<AtomicBool>,
}

impl FakeDocker {
    /// Listens at `path`. With `containerd`, it has the image store for all platforms.
    pub fn start(
        path: &Path,
        architecture: &'static str,
        containerd: bool,
        mood: Mood,
    ) -> FakeDocker {
        let listener = UnixListener::bind(path).expect("the directory is writable");
        fs::set_permissions(path, fs::Permissions::from_mode(0o666)).expect("it is ours");
        let loaded: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (kept, stopped) = (Arc::clone(&loaded), Arc::clone(&stop));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || serve(stream, architecture, containerd, mood, &kept));
            }
        });
        FakeDocker { path: path.to_owned(), loaded, stop }
    }

    /// Its `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// The archives that it was given.
    pub fn loaded(&self) -> Vec<Vec<u8>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for FakeDocker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the listener up, so that it sees the flag.
        let _ = UnixStream::connect(&self.path);
    }
}

fn serve(
    stream: UnixStream,
    architecture: &str,
    containerd: bool,
    mood: Mood,
    kept: &Mutex<Vec<Vec<u8>>>,
) {
    let mut reader = BufReader::new(stream.try_clone().expect("a descriptor"));
    let mut writer = stream;
    let mut line = String::new();
    if reader.read_line(&mut line).unwrap_or(0) == 0 {
        return;
    }
    let request = line.clone();
    let mut chunked = false;
    loop {
        line.clear();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
            break;
        }
        chunked |= line.to_ascii_lowercase().starts_with("transfer-encoding: chunked");
    }
    let mut answer = |status: &str, body: &str| {
        // In chunks, as Docker streams its messages.
        let text = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        );
        let _ = writer.write_all(text.as_bytes());
    };
    if request.starts_with("GET /info ") {
        let driver = if containerd {
            json!([["driver-type", "io.containerd.snapshotter.v1"]])
        } else {
            json!([["Backing Filesystem", "extfs"]])
        };
        let info = json!({"OSType": "linux", "Architecture": architecture, "DriverStatus": driver});
        return answer("200 OK", &info.to_string());
    }
    if !request.starts_with("POST /images/load") || !chunked {
        return answer("400 Bad Request", r#"{"message":"unknown request"}"#);
    }
    if mood == Mood::Sick {
        return answer("500 Internal Server Error", r#"{"message":"no space left on device"}"#);
    }
    let mut body = Vec::new();
    loop {
        line.clear();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            // The client went away: nothing is loaded.
            return;
        }
        let size = usize::from_str_radix(line.trim(), 16).expect("the size of a chunk");
        let mut chunk = vec![0; size + 2];
        if reader.read_exact(&mut chunk).is_err() {
            return;
        }
        if size == 0 {
            break;
        }
        body.extend_from_slice(&chunk[..size]);
    }
    if mood == Mood::Unwilling {
        let text =
            r#"{"errorDetail":{"message":"invalid tar header"},"error":"invalid tar header"}"#;
        return answer("200 OK", text);
    }
    kept.lock().unwrap_or_else(PoisonError::into_inner).push(body);
    answer("200 OK", "{\"stream\":\"Loaded image: app:1\\n\"}\r\n");
}
