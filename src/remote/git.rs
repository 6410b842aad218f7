//! The system's `git` as a child that trusts nobody: neither the configuration of the user and the
//! machine, nor what a repository or its server says.
//!
//! What keeps it in check:
//!
//! | danger | held off by |
//! |---|---|
//! | configuration that runs programs | `GIT_CONFIG_NOSYSTEM`, `GIT_CONFIG_GLOBAL=/dev/null`, an empty HOME, a private git directory |
//! | hooks, templates, fsmonitor | `core.hooksPath=/dev/null`, `init --template=`, `core.fsmonitor=false` |
//! | filters and attributes of the machine | none are configured; `GIT_ATTR_NOSYSTEM`, `core.attributesFile` |
//! | questions on the terminal | `GIT_TERMINAL_PROMPT=0`, `ssh -o BatchMode=yes`, no stdin, no askpass |
//! | other transports (`ext::`, local files as submodules) | `GIT_ALLOW_PROTOCOL` |
//! | credentials in `ps` | they are handed over as `GIT_CONFIG_VALUE_n` |
//! | a server that holds the connection | low-speed limits, ssh keep-alives, and [`LONGEST`] |
//! | a build that is stopped or killed | the process group is killed; a death signal |

use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;

use crate::graph::remote::{GitSource, percent_decode, redact};
use crate::store::TmpDir;
use crate::sys::process;

use super::error::Kind;
use super::{Error, Remotes, Result};

/// The longest that one command may take: the largest repositories clone in less over slow lines.
const LONGEST: Duration = Duration::from_secs(3600);

/// What git may use to fetch.
const TRANSPORTS: &str = "https:http:git:ssh";

/// How often a waiting build looks whether the child has ended or the build is cancelled.
const LOOK: Duration = Duration::from_millis(10);

/// How much of what git says is kept.
const SAID: u64 = 64 << 10;

/// Settings of every command.
const SETTINGS: [&str; 18] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.attributesFile=/dev/null",
    "core.excludesFile=/dev/null",
    "core.autocrlf=false",
    "core.protectHFS=true",
    "core.protectNTFS=true",
    "core.symlinks=true",
    "core.fileMode=true",
    "credential.helper=",
    "gc.auto=0",
    "maintenance.auto=false",
    "fetch.recurseSubmodules=false",
    "advice.detachedHead=false",
    "init.defaultBranch=master",
    "safe.directory=*",
    "http.lowSpeedLimit=500",
    "http.lowSpeedTime=60",
];

/// Runs `git` for one repository.
pub(super) struct Git<'r> {
    remotes: &'r Remotes,
    program: PathBuf,
    /// Where the repository is, without user and password if it is http.
    url: String,
    /// For messages.
    shown: String,
    /// HOME, and certificates.
    home: TmpDir,
    /// Settings that are not for `ps`.
    secrets: Vec<(String, String)>,
    agent: Option<PathBuf>,
    is_ssh: bool,
}

/// What a command gave.
struct Ended {
    success: bool,
    stdout: Vec<u8>,
    stderr: String,
}

impl<'r> Git<'r> {
    /// Prepares to run it.
    pub fn new(remotes: &'r Remotes, source: &GitSource) -> Result<Git<'r>> {
        let shown = redact(&source.remote);
        let missing = |program, package| Error::NoProgram { what: shown.clone(), program, package };
        let program = find(remotes, "git").ok_or_else(|| missing("git", "git"))?;
        let is_ssh = !source.remote.contains("://")
            || source.remote.to_ascii_lowercase().starts_with("ssh://");
        if is_ssh && find(remotes, "ssh").is_none() {
            return Err(missing("ssh", "openssh-client"));
        }
        let home = remotes.store.tmp().dir("git-home")?;
        let (url, own) = split_user(&source.remote);
        let mut git = Git {
            remotes,
            program,
            url,
            shown,
            home,
            secrets: Vec::new(),
            agent: remotes.options.ssh.get("default").cloned(),
            is_ssh,
        };
        git.authorize(own)?;
        Ok(git)
    }

    /// The repository, for messages.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// The repository, for git.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Finds the header for http servers: from a secret, else from the URL (BuildKit:
    /// `gitSourceHandler.getAuthToken`).
    fn authorize(&mut self, own: Option<String>) -> Result<()> {
        let Some((scheme, rest)) = self.url.split_once("://") else { return Ok(()) };
        if !matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https") {
            return Ok(());
        }
        let host = rest.split('/').next().unwrap_or_default().to_owned();
        let basic = |user: &str| {
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(user))
        };
        let mut value = None;
        for suffix in [format!(".{host}"), String::new()] {
            if value.is_none() {
                value = self.remotes.secret(&format!("GIT_AUTH_HEADER{suffix}"))?;
            }
            if value.is_none() {
                let token = self.remotes.secret(&format!("GIT_AUTH_TOKEN{suffix}"))?;
                value = token.map(|token| basic(&format!("x-access-token:{token}")));
            }
        }
        let value = value.or(own.map(|user| basic(&user)));
        if let Some(value) = value {
            let key = format!("http.{scheme}://{host}/.extraHeader");
            self.secrets.push((key, format!("Authorization: {value}")));
        }
        Ok(())
    }

    /// Runs a command that must work; gives what it prints.
    pub fn run(&self, dir: Option<&Path>, args: &[&str]) -> Result<Vec<u8>> {
        self.run_with(dir, args, &[])
    }

    /// As [`Git::run`], with more variables.
    pub fn run_with(
        &self,
        dir: Option<&Path>,
        args: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<Vec<u8>> {
        let ended = self.execute(dir, args, variables)?;
        if ended.success { Ok(ended.stdout) } else { Err(self.failed(args, &ended.stderr)) }
    }

    /// Runs a command that asks something; says whether the answer is yes.
    pub fn ask(&self, dir: Option<&Path>, args: &[&str]) -> Result<bool> {
        Ok(self.execute(dir, args, &[])?.success)
    }

    /// Makes the error of this repository.
    pub fn error(&self, kind: Kind, message: String, hint: Option<&str>) -> Error {
        Error::Git { what: self.shown.clone(), message, hint: hint.map(str::to_owned), kind }
    }

    fn command(&self, dir: Option<&Path>, args: &[&str], more: &[(&str, &str)]) -> Result<Command> {
        let mut command = Command::new(&self.program);
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        if let Some(dir) = dir {
            command.arg("--git-dir").arg(dir);
        }
        command.args(args).env_clear().current_dir(self.home.path());
        let path = std::env::join_paths(&self.remotes.options.path).unwrap_or_default();
        command
            .env("PATH", path)
            .env("HOME", self.home.path())
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ALLOW_PROTOCOL", TRANSPORTS)
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_LFS_SKIP_SMUDGE", "1")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_SSH_COMMAND", self.ssh_command())
            .env("GIT_SSH_VARIANT", "ssh");
        for (name, value) in &self.remotes.options.variables {
            command.env(name, value);
        }
        if let Some(agent) = &self.agent {
            command.env("SSH_AUTH_SOCK", agent);
        }
        if !self.remotes.options.tls_ca.is_empty() {
            command.env("GIT_SSL_CAINFO", self.certificates()?);
        }
        command.env("GIT_CONFIG_COUNT", self.secrets.len().to_string());
        for (number, (key, value)) in self.secrets.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{number}"), key);
            command.env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
        command.envs(more.iter().copied());
        Ok(command)
    }

    /// ssh without the user's configuration and keys: with the agent of `--ssh`, and with host keys
    /// that the user knows.
    fn ssh_command(&self) -> String {
        let known = match &self.remotes.options.known_hosts {
            Some(path) => path.display().to_string(),
            None => "/dev/null".to_owned(),
        };
        // Quoted once for ssh, which splits the value, and once for the shell that git starts.
        let known = format!("UserKnownHostsFile=\"{known}\"").replace('\'', "'\\''");
        format!(
            "ssh -F /dev/null -a -x -o BatchMode=yes -o StrictHostKeyChecking=yes -o '{known}' \
             -o IdentityFile=none -o PermitLocalCommand=no -o ConnectTimeout=30 \
             -o ServerAliveInterval=15 -o ServerAliveCountMax=4"
        )
    }

    /// Writes the machine's and the given certificate authorities into one file: git takes one.
    fn certificates(&self) -> Result<PathBuf> {
        const SYSTEM: [&str; 4] = [
            "/etc/ssl/certs/ca-certificates.crt",
            "/etc/pki/tls/certs/ca-bundle.crt",
            "/etc/ssl/ca-bundle.pem",
            "/etc/ssl/cert.pem",
        ];
        let path = self.home.path().join("certificates.pem");
        if path.exists() {
            return Ok(path);
        }
        let mut bytes = SYSTEM.iter().find_map(|path| std::fs::read(path).ok()).unwrap_or_default();
        for pem in &self.remotes.options.tls_ca {
            bytes.push(b'\n');
            bytes.extend_from_slice(pem);
        }
        std::fs::write(&path, bytes)
            .map_err(|source| Error::Io { doing: "writing certificates for git".into(), source })?;
        Ok(path)
    }

    fn execute(&self, dir: Option<&Path>, args: &[&str], more: &[(&str, &str)]) -> Result<Ended> {
        self.remotes.check_cancelled()?;
        let doing = |source| Error::Io { doing: format!("running git for {}", self.shown), source };
        let file = || tempfile::tempfile_in(self.home.path()).map_err(doing);
        let (mut stdout, mut stderr) = (file()?, file()?);
        let mut command = self.command(dir, args, more)?;
        command
            .stdin(Stdio::null())
            .stdout(stdout.try_clone().map_err(doing)?)
            .stderr(stderr.try_clone().map_err(doing)?);
        process::tie_to_this_thread(&mut command);
        let mut child = command.spawn().map_err(doing)?;
        let started = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().map_err(doing)? {
                break status;
            }
            let late = started.elapsed() > LONGEST;
            if late || self.remotes.is_cancelled() {
                // Its helpers too: git-remote-https, ssh, index-pack.
                let _ = process::kill_group(child.id());
                let _ = child.wait();
                if late {
                    let message = format!("git took more than {} s", LONGEST.as_secs());
                    return Err(self.error(Kind::Network, message, None));
                }
                return Err(Error::Cancelled);
            }
            std::thread::sleep(LOOK);
        };
        let read = |file: &mut std::fs::File, limit: u64| -> std::io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            file.rewind()?;
            file.take(limit).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        // ls-remote of a repository with a million refs is some 60 MB.
        let out = read(&mut stdout, 256 << 20).map_err(doing)?;
        let said = read(&mut stderr, SAID).map_err(doing)?;
        let said = redact(&String::from_utf8_lossy(&said));
        Ok(Ended { success: status.success(), stdout: out, stderr: said })
    }

    /// Tells why git failed by what it said last.
    fn failed(&self, args: &[&str], stderr: &str) -> Error {
        let lines: Vec<&str> = stderr
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with("hint:"))
            .collect();
        let last = lines[lines.len().saturating_sub(3)..].join("; ");
        let last: String = last.chars().filter(|c| !c.is_control()).take(600).collect();
        let command = args.iter().find(|arg| !arg.starts_with('-')).copied().unwrap_or("git");
        let says = |texts: &[&str]| texts.iter().any(|text| stderr.contains(text));
        let hint = if says(&["Host key verification failed"]) {
            let host = host_of(&self.url);
            Some(format!(
                "if you trust the server, add its key: ssh-keyscan {host} >> ~/.ssh/known_hosts"
            ))
        } else if self.is_ssh && says(&["Permission denied"]) {
            Some(match self.agent {
                Some(_) => "load a key that the server accepts into the agent: ssh-add".to_owned(),
                None => "give an agent that has the key: --ssh default".to_owned(),
            })
        } else if says(&[
            "could not read Username",
            "Authentication failed",
            "could not read Password",
            "terminal prompts disabled",
            "returned error: 403",
        ]) {
            Some(
                "check the name; a private repository needs a token: \
                 --secret id=GIT_AUTH_TOKEN,env=VARIABLE"
                    .to_owned(),
            )
        } else if says(&["not allowed"]) && says(&["transport"]) {
            Some("submodules are fetched over https, http, git and ssh; switch them off: ?submodules=false".to_owned())
        } else {
            None
        };
        let message = format!("git {command} failed: {last}");
        Error::Git { what: self.shown.clone(), message, hint, kind: Kind::Network }
    }
}

/// Looks for a program.
fn find(remotes: &Remotes, name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    remotes.options.path.iter().map(|dir| dir.join(name)).find(|path| {
        std::fs::metadata(path)
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}

/// Takes user and password out of an http URL; gives them as `user:password`.
fn split_user(remote: &str) -> (String, Option<String>) {
    let Some((scheme, rest)) = remote.split_once("://") else { return (remote.to_owned(), None) };
    if !matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https") {
        return (remote.to_owned(), None);
    }
    let end = rest.find('/').unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => {
            let user = percent_decode(&rest[..at]).unwrap_or_else(|_| rest[..at].to_owned());
            let user = if user.contains(':') { user } else { format!("{user}:") };
            (format!("{scheme}://{}", &rest[at + 1..]), Some(user))
        }
        None => (remote.to_owned(), None),
    }
}

fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    host.split(':').next().unwrap_or_default()
}
