//! The child's side: from a [`super::RunSpec`] on a memfd to the program.

use std::process::ExitCode;

/// Becomes the sandbox child when this process was executed as one; None otherwise. Called first
/// thing in `main`, before any thread.
pub fn child_main() -> Option<ExitCode> {
    if std::env::args_os().next()? != super::CHILD_ARG0 {
        return None;
    }
    todo!()
}
