//! A private `ssh-agent` for key files that `--ssh ID=KEY` names.
//!
//! The agent is started around a program that reads a pipe of ours: when this process ends, however
//! it ends, the pipe closes, the program ends, and the agent notices within seconds.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::error::Kind;
use super::{Error, Result};
use crate::store::{Store, TmpDir};
use crate::sys::mem;

/// How long the agent may take to come up.
const START: Duration = Duration::from_secs(5);

/// An agent that holds some keys. Dropping it takes them away and ends it.
pub struct Agent {
    socket: PathBuf,
    child: Child,
    path: Vec<PathBuf>,
    _dir: TmpDir,
}

impl Agent {
    /// Starts one and gives it the keys. `path` is where programs are looked for.
    pub fn start(store: &Store, id: &str, keys: &[PathBuf], path: &[PathBuf]) -> Result<Agent> {
        let what = format!("--ssh {id}");
        let find = |program: &'static str| {
            path.iter().map(|dir| dir.join(program)).find(|path| path.is_file()).ok_or_else(|| {
                Error::NoProgram { what: what.clone(), program, package: "openssh-client" }
            })
        };
        let (agent, add) = (find("ssh-agent")?, find("ssh-add")?);
        let io = |source| Error::Io { doing: format!("starting ssh-agent for {what}"), source };
        let failed = |message: String, hint: &str| Error::Git {
            what: what.clone(),
            message,
            hint: Some(hint.to_owned()),
            kind: Kind::Usage,
        };
        let dir = store.tmp().dir("agent")?;
        let log = dir.path().join("log");
        // A relative name, since addresses of sockets are short and paths of stores are not.
        let child = Command::new(&agent)
            .args(["-a", "s", "cat"])
            .current_dir(dir.path())
            .env_clear()
            .env("PATH", std::env::join_paths(path).unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).map_err(io)?)
            .spawn()
            .map_err(io)?;
        let socket = dir.path().join("s");
        let mut agent = Agent { socket, child, path: path.to_vec(), _dir: dir };
        // The agent listens before it runs cat, which gives back what it is sent.
        if !agent.answers().map_err(io)? {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            return Err(failed(
                format!("ssh-agent does not start: {}", said.trim()),
                "start one yourself, and name its socket: --ssh default=SOCKET",
            ));
        }
        for key in keys {
            let output = agent.add(&add).arg(key).stdin(Stdio::null()).output().map_err(io)?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr);
                let said: Vec<&str> = said.lines().filter(|line| !line.contains('@')).collect();
                return Err(failed(
                    format!("cannot load the key {}: {}", key.display(), said.join(" ").trim()),
                    "a key with a passphrase goes into an agent of yours: ssh-add KEY, then \
                     --ssh default",
                ));
            }
        }
        Ok(agent)
    }

    /// Gives the socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Says whether the agent runs, once it does or has ended.
    fn answers(&mut self) -> io::Result<bool> {
        let (Some(input), Some(mut output)) = (&mut self.child.stdin, self.child.stdout.take())
        else {
            return Ok(false);
        };
        if input.write_all(b"\n").is_err() {
            return Ok(false);
        }
        let started = Instant::now();
        while started.elapsed() < START {
            if mem::poll_readable(&[Some(output.as_fd())], Some(START))?[0] {
                return Ok(output.read(&mut [0])? == 1);
            }
        }
        Ok(false)
    }

    fn add(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        let dir = self.socket.parent().unwrap_or(Path::new("/"));
        command.current_dir(dir).env_clear().env("SSH_AUTH_SOCK", "s").arg("-q");
        command
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Best effort: the agent ends by itself a few seconds after its program does.
        let add = self.path.iter().map(|dir| dir.join("ssh-add")).find(|path| path.is_file());
        if let Some(add) = add {
            let _ = self
                .add(&add)
                .arg("-D")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
