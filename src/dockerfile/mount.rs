//! `RUN --mount`: its fields as written, and what they mean once expanded.

use super::diagnostic::Diagnostic;
use super::span::{Span, Word};

/// A `--mount` as written. All its values but `from` may hold variables, so it is only understood by
/// [`Mount::resolve`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The value of the flag.
    pub span: Span,
    /// The fields in order.
    pub fields: Vec<MountField>,
}

/// One `key` or `key=value` of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountField {
    /// The key in lower case.
    pub key: Word,
    /// The value: expanded.
    pub value: Option<Word>,
}

/// What kind of mount it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MountType {
    /// Files of the context, a stage or an image; the default.
    #[default]
    Bind,
    /// A directory that outlives the build.
    Cache,
    /// Memory.
    Tmpfs,
    /// A secret, as a file or in the environment.
    Secret,
    /// The socket of an SSH agent.
    Ssh,
}

/// Who may use a cache at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Sharing {
    /// All at once; the default.
    #[default]
    Shared,
    /// A new one for each who comes at the same time.
    Private,
    /// One after the other.
    Locked,
}

/// What a mount means.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MountSpec {
    /// The kind.
    pub kind: MountType,
    /// The stage, context or image.
    pub from: Option<String>,
    /// The path in it; for secrets another word for `id`. May be empty.
    pub source: String,
    /// Where it is mounted; may be relative to WORKDIR, or empty for secrets and ssh.
    pub target: String,
    /// Not to be written to.
    pub read_only: bool,
    /// The size limit in bytes; 0 is none.
    pub size: u64,
    /// The name of the cache, secret or agent.
    pub id: Option<String>,
    /// Who may use the cache at the same time.
    pub sharing: Option<Sharing>,
    /// Secrets and ssh: the build fails without it.
    pub required: bool,
    /// Secrets: the environment variable; empty means the id.
    pub env: Option<String>,
    /// The mode of the file or directory.
    pub mode: Option<u32>,
    /// Its owner.
    pub uid: Option<u32>,
    /// Its group.
    pub gid: Option<u32>,
}

impl Mount {
    /// Gives the value of `from`, which never holds variables.
    pub fn from(&self) -> Option<&Word> {
        let mut fields = self.fields.iter().rev();
        fields.find(|field| field.key.text == "from").and_then(|field| field.value.as_ref())
    }

    /// Understands the mount; `expand` gives a value with its variables replaced.
    pub fn resolve(
        &self,
        expand: &mut dyn FnMut(&Word) -> Result<String, Diagnostic>,
    ) -> Result<MountSpec, Diagnostic> {
        let _ = expand;
        todo!()
    }
}
