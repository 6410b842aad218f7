//! What one RUN needs, as plain data: written as JSON to a memfd by the builder and read by the
//! child, so that the child depends on nothing that the builder had in memory.

use std::borrow::Cow;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One RUN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSpec {
    /// Layer directories, bottom → top; mount-point stubs are the last of them. At most
    /// [`super::MAX_LOWERS`]. When there are none, `upper` itself becomes the root.
    pub lowers: Vec<PathBuf>,
    /// Where changes land: an empty directory.
    pub upper: PathBuf,
    /// Overlay's own work directory: empty, on the file system of `upper`.
    pub work: PathBuf,
    /// Mounted in this order, after /proc, /dev and /sys.
    pub mounts: Vec<Mount>,
    /// Program and arguments; a program without a slash is looked up in the PATH of `env`.
    pub args: Vec<String>,
    /// `NAME=value`. HOME is added from /etc/passwd of the image when absent.
    pub env: Vec<String>,
    /// Working directory inside the root; it must exist.
    pub cwd: String,
    /// `USER` as in the Dockerfile: name or id, optionally `:group`. Empty is root.
    pub user: String,
    /// What network it sees.
    pub network: Network,
    /// Host name.
    pub hostname: String,
    /// Makes `uname -m` say i686 on x86-64 (or armv8l on arm64): personality(PER_LINUX32).
    pub personality32: bool,
    /// Switches off address space randomisation, which some QEMU and glibc pairs crash on.
    pub no_aslr: bool,
    /// Bytes of /dev/shm; 64 MiB when None.
    pub shm_size: Option<u64>,
    /// Keeps all capabilities of the session's namespace and leaves /proc and /sys unmasked
    /// (`RUN --security=insecure`).
    pub insecure: bool,
    /// Mounts the root read-only.
    pub read_only_root: bool,
    /// `--ulimit`.
    pub limits: Vec<Limit>,
    /// The standard streams are a terminal, which becomes the controlling one.
    pub terminal: bool,
    /// Directory of the control group that it enters first.
    pub cgroup: Option<PathBuf>,
}

/// One limit of a process (getrlimit(2)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// As `nofile`; one of [`crate::sandbox::limit_names`].
    pub name: String,
    /// None is unlimited.
    pub soft: Option<u64>,
    /// None is unlimited.
    pub hard: Option<u64>,
}

impl RunSpec {
    /// Makes the spec of `args` run by root in `/` on these directories, all else by default.
    pub fn new(lowers: Vec<PathBuf>, upper: PathBuf, work: PathBuf, args: Vec<String>) -> RunSpec {
        RunSpec {
            lowers,
            upper,
            work,
            mounts: Vec::new(),
            args,
            env: vec![format!("PATH={}", super::DEFAULT_PATH)],
            cwd: "/".into(),
            user: String::new(),
            network: Network::Default,
            hostname: super::DEFAULT_HOSTNAME.into(),
            personality32: false,
            no_aslr: false,
            shm_size: None,
            insecure: false,
            read_only_root: false,
            limits: Vec::new(),
            terminal: false,
            cgroup: None,
        }
    }
}

/// What network a RUN sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// The builder's network, as rootless BuildKit does.
    #[default]
    Default,
    /// Its own, with nothing but the loopback interface.
    None,
    /// The builder's network, asked for by name.
    Host,
}

/// One mount of a RUN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the root; symbolic links are followed inside it. Made when it is missing
    /// (stubs see to it that this happens only on top of other mounts).
    pub target: String,
    /// What is mounted.
    pub kind: MountKind,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountKind {
    /// A directory, file or socket of the host.
    Bind {
        /// Directory (or file) on the host.
        source: PathBuf,
        /// Path below `source`, resolved as if `source` were the root; empty is `source` itself.
        subpath: String,
        /// May it be written?
        access: Access,
    },
    /// A device node of the host.
    Device {
        /// On the host.
        source: PathBuf,
    },
    /// Layer directories, merged: another stage or image.
    Layers {
        /// Bottom → top.
        lowers: Vec<PathBuf>,
        /// Path in the merged tree, resolved inside it; empty is its root.
        subpath: String,
        /// May it be written?
        access: Access,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Bytes; half of the memory when None.
        size: Option<u64>,
        /// Permission bits of its root.
        mode: u32,
    },
    /// A read-only file in memory: a secret, a here-document, resolv.conf.
    File {
        /// Its content.
        #[serde(with = "base64_bytes")]
        bytes: Vec<u8>,
        /// Permission bits.
        mode: u32,
        /// Owner inside the image.
        uid: u32,
        /// Group inside the image.
        gid: u32,
    },
}

/// What a RUN may do to a mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Read.
    ReadOnly,
    /// Read and write; what is written stays. Not for `Layers`.
    ReadWrite,
    /// Read and write; what is written is lost: an overlay with its upper directory in `scratch`,
    /// an empty directory.
    Discard {
        /// Taken for upper and work directory.
        scratch: PathBuf,
    },
}

/// What the builder tells the child: the spec, and what the session knows of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Order<'a> {
    /// What to run.
    pub(super) spec: Cow<'a, RunSpec>,
    /// The user namespace has one id.
    pub(super) single_id: bool,
    /// /proc can be mounted anew.
    pub(super) fresh_proc: bool,
    /// Somebody at the other end of the sixth descriptor keeps owners: see [`super::owners`].
    pub(super) keeps_owners: bool,
}

/// What the child says before it becomes the program; one JSON object on the report pipe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Report {
    /// All is set; the exec is next.
    Ready {
        /// Who runs it.
        uid: u32,
        /// And in which group.
        gid: u32,
    },
    /// The program cannot be started; `code` is the shell's: 126 or 127.
    NotStarted {
        /// Exit code.
        code: u8,
        /// Why.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// The sandbox cannot be made.
    Setup {
        /// What failed.
        message: String,
    },
}

/// Bytes as base64 text: a JSON array of numbers would be four times larger.
mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_round_trip() {
        let mut spec =
            RunSpec::new(vec!["/l".into()], "/u".into(), "/w".into(), vec!["true".into()]);
        spec.mounts.push(Mount {
            target: "/run/secrets/x".into(),
            kind: MountKind::File { bytes: vec![0, 255, 10], mode: 0o400, uid: 1, gid: 2 },
        });
        let text = serde_json::to_vec(&spec).unwrap();
        assert_eq!(serde_json::from_slice::<RunSpec>(&text).unwrap(), spec);
    }
}
