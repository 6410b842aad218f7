//! Bake files: `docker-bake.hcl`, its JSON form and compose files, read as `docker buildx bake`
//! reads them.
//!
//! # Model
//!
//! Files are parsed to one tree ([`syntax`]), whatever they are written in. Expressions are
//! evaluated when somebody asks for them ([`eval`], [`scope`]), so the order of definitions does
//! not matter. What comes out are [`Target`]s of plain text: [`config`] merges those of one name,
//! follows `inherits` and groups, and applies `--set`.
//!
//! | file | what it does |
//! |---|---|
//! | `syntax.rs` | HCL and JSON to attributes and blocks, with places |
//! | `value.rs`, `types.rs` | values, conversions, types of variables |
//! | `eval.rs` | expressions and templates |
//! | `functions/` | the functions that files can call |
//! | `scope.rs` | what names stand for: variables, functions, attributes of targets |
//! | `target.rs` | the attributes of a target: reading, merging, overriding, printing |
//! | `config.rs` | all files together: targets, groups, inheritance, choice |
//! | `compose.rs`, `interpolate.rs`, `dotenv.rs` | services of compose files as targets |
//! | `combine.rs` | compose files that include and extend others |
//!
//! # Invariants
//!
//! No file system, no network, no clock and no environment but through [`World`]. Whatever a file
//! says, reading it ends: work, depth and sizes are bounded.
//!
//! Start reading at [`read`].

mod combine;
pub mod compose;
#[cfg(test)]
mod compose_tests;
pub mod config;
pub mod csv;
mod dotenv;
pub mod error;
pub mod eval;
pub mod functions;
mod interpolate;
pub mod scope;
pub mod syntax;
pub mod target;
#[cfg(test)]
mod tests;
pub mod types;
pub mod value;

use std::collections::BTreeMap;

pub use config::{Chosen, Config, Group, Variable};
pub use dotenv::dotenv;
pub use error::{Error, Result};
pub use functions::World;
pub use target::Target;

/// A file, as it was read.
#[derive(Debug, Clone)]
pub struct File {
    /// As shown to the user; its end tells what it is written in.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// What a file is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// HCL.
    Hcl,
    /// HCL's JSON form.
    Json,
    /// YAML of compose.
    Compose,
}

impl File {
    /// Says what it is written in: by its name, else by what it looks like.
    pub fn format(&self) -> Format {
        let name = self.name.to_lowercase();
        if name.ends_with(".yml") || name.ends_with(".yaml") {
            return Format::Compose;
        }
        if name.ends_with(".hcl") {
            return Format::Hcl;
        }
        if name.ends_with(".json") || self.text.trim_start().starts_with('{') {
            return Format::Json;
        }
        let is_services = |line: &str| line.trim_end() == "services:";
        if self.text.lines().any(is_services) { Format::Compose } else { Format::Hcl }
    }
}

/// The values that come from outside.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// `--var`, which win over the environment.
    pub variables: BTreeMap<String, String>,
    /// Variables that files can use and not change, as `BAKE_LOCAL_PLATFORM`.
    pub builtins: BTreeMap<String, String>,
    /// Variables of the file `.env`, for compose files.
    pub dotenv: BTreeMap<String, String>,
}

/// Largest file, bytes. The largest that is known has a fifth of it; the parsers take up to 200 times as much
/// memory as there is text.
pub const MAX_FILE: usize = 256 << 10;

/// Largest file in JSON, which programs write, bytes.
pub const MAX_JSON: usize = 512 << 10;

/// The most targets of all files.
const MOST_TARGETS: usize = 5_000;

/// The most text that all files together may come to, bytes.
const MAX_TEXT: usize = 16 << 20;

/// Stack of the thread that reads: what the deepest file that is allowed takes is a tenth of it in
/// a build without optimisation.
const STACK: usize = 128 << 20;

/// Reads all files, the first one first; later ones win.
pub fn read(files: &[File], given: &Given, world: &World<'_>) -> Result<Config> {
    std::thread::scope(|scope| {
        let reader = std::thread::Builder::new()
            .stack_size(STACK)
            .spawn_scoped(scope, || read_here(files, given, world));
        match reader.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(error) => {
                Err(Error::usage("E0701", format!("no thread to read the bake files: {error}")))
            }
        }
    })
}

fn read_here(files: &[File], given: &Given, world: &World<'_>) -> Result<Config> {
    for (id, file) in files.iter().enumerate() {
        let (most, what) = match file.format() {
            Format::Json => (MAX_JSON, "JSON"),
            Format::Hcl => (MAX_FILE, "HCL"),
            Format::Compose => (MAX_FILE, "YAML"),
        };
        if file.text.len() > most {
            let message = format!("a bake file in {what} has at most {} KiB", most >> 10);
            return Err(Error::at("E0701", error::Place::file(id), message)
                .with_help("split it into several files; all that -f names are read"));
        }
    }
    let mut config = Config::default();
    let mut bodies = Vec::new();
    for (id, file) in files.iter().enumerate() {
        match file.format() {
            Format::Compose => compose::read(id, file, given, world, &mut config)?,
            Format::Hcl => bodies.push((id, syntax::parse_hcl(id, &file.text)?)),
            Format::Json => bodies.push((id, syntax::parse_json(id, &file.text)?)),
        }
    }
    scope::evaluate(&bodies, given, world, &mut config)?;
    Ok(config)
}
