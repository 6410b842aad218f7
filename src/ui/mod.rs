//! What the user sees: events of a build, and diagnostics with excerpts of their source.
//!
//! Text is made here and written by the caller; nothing in here decides what a build does.

pub mod diagnostic;
pub mod github;
pub mod progress;
mod rawjson;
pub mod text;
