//! What this host can do, found out by doing it in throw-away children.

use super::Rung;

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Check {
    /// What, in a few words.
    pub name: String,
    /// Did it work?
    pub ok: bool,
    /// What was seen.
    pub detail: String,
    /// What a build loses without it; empty when it worked.
    pub cost: String,
    /// The one command that mends it.
    pub fix: Option<String>,
}

/// What a host can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostReport {
    /// The best isolation; None when RUN is impossible.
    pub rung: Option<Rung>,
    /// Everything that was tried.
    pub checks: Vec<Check>,
}

/// Tries everything that builds may need.
pub fn probe(_options: &super::Options) -> HostReport {
    todo!()
}

/// argv[1] of the child that tries things.
pub(super) const ROLE: &str = "probe";

/// Is the child that tries things.
pub(super) fn child_main() -> std::process::ExitCode {
    std::process::ExitCode::from(125)
}
