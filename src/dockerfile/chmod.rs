//! `--chmod`: octal and symbolic modes.

/// A parsed `--chmod`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChmodSpec(());

/// A `--chmod` that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid chmod parameter `{0}`")]
pub struct Error(pub String);

impl std::str::FromStr for ChmodSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<ChmodSpec, Error> {
        let _ = text;
        todo!()
    }
}

impl ChmodSpec {
    /// Gives the new twelve mode bits of a file that had `mode`.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let _ = (mode, is_dir);
        todo!()
    }
}
