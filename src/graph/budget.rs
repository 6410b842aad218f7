//! How much text planning may make: a Dockerfile of a few kilobytes can ask for gigabytes, with variables
//! made of each other, with stages that hand everything down, and with history that repeats it all.

use crate::dockerfile::{Diagnostic, Span};
use crate::oci::config::History;

use super::plan::Failure;

/// The most bytes. A step of a usual build takes less than one kilobyte, for each platform.
const MOST: usize = 24 << 20;

/// What is left.
#[derive(Debug)]
pub(super) struct Budget(usize);

impl Default for Budget {
    fn default() -> Budget {
        Budget(MOST)
    }
}

impl Budget {
    /// Takes some bytes, for an instruction.
    pub fn spend(&mut self, bytes: usize, span: Span) -> Result<(), Failure> {
        match self.0.checked_sub(bytes) {
            Some(left) => {
                self.0 = left;
                Ok(())
            }
            None => {
                let most = MOST >> 20;
                let message =
                    format!("up to here, this build makes more than {most} MiB of configuration");
                Err(Diagnostic::error("E0625", span, message)
                    .with_help("are there variables made of each other, or stages without end?")
                    .into())
            }
        }
    }
}

/// What entries of history take, about, bytes.
pub(super) fn size(history: &[History]) -> usize {
    let text = |entry: &History| entry.created_by.as_ref().map_or(0, String::len);
    history.iter().map(|entry| 200 + text(entry)).sum()
}
