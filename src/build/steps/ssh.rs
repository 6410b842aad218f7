//! `RUN --mount=type=ssh`: a socket of the step's own, behind which the user's agent answers.
//!
//! The agent's socket itself can't be given to a step: its owner and mode are the user's, and agents
//! turn away callers with another user id, which a `USER` of the step has. So requests are passed on
//! by the builder, one connection each. Only listing keys and signing are: a step can neither add,
//! remove nor lock keys. When the step ends, so do the socket and all connections.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::build::layers::lock;

/// The longest message (OpenSSH: `AGENT_MAX_LEN`).
const LONGEST: usize = 256 << 10;

/// Connections at a time; more are turned away.
const MOST: usize = 64;

/// SSH_AGENTC_REQUEST_IDENTITIES, SSH_AGENTC_SIGN_REQUEST, and SSH_AGENTC_EXTENSION, by which ssh
/// tells the agent which session it is (draft-ietf-sshm-ssh-agent).
const PASSED: [u8; 3] = [11, 13, 27];

/// SSH_AGENT_FAILURE.
const FAILURE: [u8; 5] = [0, 0, 0, 1, 5];

/// A socket for one step.
pub(in crate::build) struct AgentSocket {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<UnixStream>>>,
    listener: Option<JoinHandle<()>>,
}

impl AgentSocket {
    /// Makes the socket `name` in `dir`. Owner and group are ids of this process's user namespace;
    /// one that it does not have leaves the socket with root.
    pub fn new(
        dir: &Path,
        name: &str,
        agent: &Path,
        (mode, uid, gid): (u32, u32, u32),
    ) -> io::Result<AgentSocket> {
        let path = dir.join(name);
        let listener = bind(dir, name)?;
        match chown(&path, Some(uid), Some(gid)) {
            Err(error) if error.kind() != io::ErrorKind::InvalidInput => return Err(error),
            _ => {}
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode & 0o7777))?;
        let stop = Arc::new(AtomicBool::new(false));
        let open: Arc<Mutex<Vec<UnixStream>>> = Arc::default();
        let (stopped, streams, agent) = (Arc::clone(&stop), Arc::clone(&open), agent.to_owned());
        let thread = std::thread::Builder::new()
            .name("ssh-agent".into())
            .spawn(move || accept(&listener, &agent, &stopped, &streams))?;
        Ok(AgentSocket { path, stop, open, listener: Some(thread) })
    }

    /// Gives where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for AgentSocket {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for stream in lock(&self.open).drain(..) {
            // One that has ended already can't be ended again.
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes the thread, which waits for a caller.
        let woken = self.path.parent().zip(self.path.file_name()).is_some_and(|(dir, name)| {
            through_descriptor(dir, &name.to_string_lossy(), |path| UnixStream::connect(path))
                .is_ok()
        });
        if let Some(thread) = self.listener.take().filter(|_| woken) {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

fn bind(dir: &Path, name: &str) -> io::Result<UnixListener> {
    through_descriptor(dir, name, |path| UnixListener::bind(path))
}

/// Names a socket by way of an open directory: addresses of sockets have 107 bytes at most, and
/// paths of stores have more.
fn through_descriptor<T>(
    dir: &Path,
    name: &str,
    work: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    let dir = std::fs::File::open(dir)?;
    work(Path::new(&format!("/proc/self/fd/{}/{name}", dir.as_raw_fd())))
}

fn accept(
    listener: &UnixListener,
    agent: &Path,
    stop: &Arc<AtomicBool>,
    open: &Arc<Mutex<Vec<UnixStream>>>,
) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    for stream in listener.incoming() {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        threads.retain(|thread| !thread.is_finished());
        let Ok(stream) = stream else { break };
        if threads.len() >= MOST {
            continue;
        }
        let Ok(kept) = stream.try_clone() else { continue };
        lock(open).push(kept);
        let agent = agent.to_owned();
        threads.push(std::thread::spawn(move || {
            // Whatever goes wrong, the caller sees the connection end.
            let _ = pass_on(&stream, &agent);
            let _ = stream.shutdown(Shutdown::Both);
        }));
    }
    for stream in lock(open).drain(..) {
        let _ = stream.shutdown(Shutdown::Both);
    }
    for thread in threads {
        let _ = thread.join();
    }
}

/// Passes requests on until the caller has no more.
fn pass_on(mut caller: &UnixStream, agent: &Path) -> io::Result<()> {
    let mut agent = match (agent.parent(), agent.file_name()) {
        (Some(dir), Some(name)) => {
            through_descriptor(dir, &name.to_string_lossy(), |path| UnixStream::connect(path))?
        }
        _ => UnixStream::connect(agent)?,
    };
    loop {
        let Some(request) = message(&mut caller)? else { return Ok(()) };
        if !request.get(4).is_some_and(|kind| PASSED.contains(kind)) {
            caller.write_all(&FAILURE)?;
            continue;
        }
        agent.write_all(&request)?;
        match message(&mut agent)? {
            Some(answer) => caller.write_all(&answer)?,
            None => return Ok(()),
        }
    }
}

/// Reads one message with its length in front; None at the end.
fn message(stream: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let size = u32::from_be_bytes(length) as usize;
    if size == 0 || size > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no message of an agent"));
    }
    let mut bytes = vec![0; 4 + size];
    bytes[..4].copy_from_slice(&length);
    stream.read_exact(&mut bytes[4..])?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(bytes: &[u8]) -> Vec<u8> {
        let mut out = (bytes.len() as u32).to_be_bytes().to_vec();
        out.extend_from_slice(bytes);
        out
    }

    #[test]
    fn only_listing_and_signing_reach_the_agent() {
        let dir = tempfile::tempdir().expect("a directory");
        let real = dir.path().join("real");
        let agent = UnixListener::bind(&real).expect("bound");
        // The agent says what it was asked.
        std::thread::spawn(move || {
            for stream in agent.incoming().flatten() {
                let mut stream = stream;
                while let Ok(Some(request)) = message(&mut stream) {
                    stream.write_all(&request).expect("answered");
                }
            }
        });
        // Longer than an address of a socket may be.
        let deep = dir.path().join("d".repeat(120));
        std::fs::create_dir(&deep).expect("made");
        let meta = std::fs::metadata(&deep).expect("there");
        let owner = std::os::unix::fs::MetadataExt::uid(&meta);
        let group = std::os::unix::fs::MetadataExt::gid(&meta);
        let socket = AgentSocket::new(&deep, "s", &real, (0o660, owner, group)).expect("made");
        let mode = std::fs::metadata(socket.path()).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let mut caller =
            through_descriptor(&deep, "s", |path| UnixStream::connect(path)).expect("connected");
        for (request, answer) in [
            (&[11u8][..], framed(&[11])),
            (&[13, 1, 2], framed(&[13, 1, 2])),
            (&[17, 9], FAILURE.to_vec()),
            (&[19], FAILURE.to_vec()),
            (&[27, 3], framed(&[27, 3])),
        ] {
            caller.write_all(&framed(request)).expect("sent");
            assert_eq!(message(&mut caller).expect("read"), Some(answer), "{request:?}");
        }
        let path = socket.path().to_owned();
        drop(socket);
        assert!(!path.exists());
        assert!(matches!(message(&mut caller), Ok(None) | Err(_)), "the connection ended");
    }
}
