//! Multi-step tasks of Azure Container Registry (`acr-task.yaml`, v1.0.0 and v1.1.0): reading them.
//!
//! The model: a task is a list of steps; each builds, pushes or runs a command, after the steps that
//! `when` names, or else after the one before it. [`parse`] takes the text after its templates were
//! filled in, replaces aliases, and gives steps that can be run as they are, or says what a machine
//! without Azure and a sandbox without networks cannot do.
//!
//! Pure: nothing is run here. `docker.rs` reads the command lines of `docker` that stand in steps.
//!
//! Start reading at [`Task`].

pub mod docker;
mod raw;
mod words;

use std::collections::{BTreeMap, BTreeSet};

pub use words::split;

/// Seconds that a step may take when nothing is said (ACR's default).
const STEP_TIMEOUT: u64 = 600;
/// Seconds that the whole task may take (ACR's default).
const TOTAL_TIMEOUT: u64 = 3600;

/// A task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Seconds that all may take.
    pub total_timeout: u64,
    /// Secret volumes: files by name, by the volume's name.
    pub volumes: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// The steps, in the order of the file.
    pub steps: Vec<Step>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its name; made up when there is none.
    pub id: String,
    /// What it does.
    pub work: Work,
    /// Indexes of the steps that must have ended well.
    pub after: Vec<usize>,
    /// Seconds that it may take.
    pub timeout: u64,
    /// How often it is tried again.
    pub retries: u32,
    /// Seconds before it is tried again.
    pub retry_delay: u64,
    /// It is tried again only when its output holds one of these; empty: always.
    pub retry_on_errors: Vec<String>,
    /// How often it is run again after it ended well.
    pub repeat: u32,
    /// Seconds before it starts.
    pub start_delay: u64,
    /// `NAME=value`, the task's first.
    pub env: Vec<String>,
    /// Where it runs; None is the workspace.
    pub working_directory: Option<String>,
    /// Others go on when it fails.
    pub ignore_errors: bool,
    /// Replaces the image's entry point.
    pub entry_point: Option<String>,
    /// Replaces the image's user.
    pub user: Option<String>,
    /// Ask the registry for a newer image.
    pub pull: bool,
    /// Run in the image's own working directory.
    pub own_directory: bool,
    /// Volumes and where they are seen.
    pub mounts: Vec<(String, String)>,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// `build:` with the words behind it.
    Build(Vec<String>),
    /// `push:` with names.
    Push(Vec<String>),
    /// `cmd: docker …`.
    Docker(docker::Docker),
    /// `cmd:` with an image and its arguments.
    Run(Vec<String>),
}

/// Why a task can't be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}{message}")]
pub struct Error {
    /// Where: `step build: `, or empty.
    pub place: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Error {
    fn new(place: &str, message: impl Into<String>) -> Error {
        let place = if place.is_empty() { String::new() } else { format!("{place}: ") };
        Error { place, message: message.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }
}

/// Aliases of values (ACR's default set): name → field of `.Run`.
pub const VALUE_ALIASES: [(&str, &str); 9] = [
    ("ID", "ID"),
    ("SharedVolume", "SharedVolume"),
    ("Registry", "Registry"),
    ("RegistryName", "RegistryName"),
    ("Date", "Date"),
    ("OS", "OS"),
    ("Architecture", "Architecture"),
    ("Commit", "Commit"),
    ("Branch", "Branch"),
];

/// Aliases of images (ACR's default set), usable as the first word of `cmd`.
const IMAGE_ALIASES: [(&str, &str); 5] = [
    ("acr", "mcr.microsoft.com/acr/acr-cli:0.19"),
    ("az", "mcr.microsoft.com/acr/azure-cli:46e2782"),
    ("bash", "mcr.microsoft.com/acr/bash:46e2782"),
    ("curl", "mcr.microsoft.com/acr/curl:46e2782"),
    ("cssc", "mcr.microsoft.com/acr/cssc:46e2782"),
];

/// Reads a task whose templates were filled in. `run` holds the values of `.Run`; `secrets` are the
/// names of those whose values were given.
pub fn parse(
    text: &str,
    run: &BTreeMap<String, String>,
    secrets: &BTreeSet<String>,
) -> Result<Task, Error> {
    let first = raw::read(text)?;
    let aliased;
    let (raw, own) = match first.version.as_deref() {
        Some("v1.1.0") => {
            let mut own: BTreeMap<String, String> = VALUE_ALIASES
                .iter()
                .filter_map(|(alias, field)| Some(((*alias).to_owned(), run.get(*field)?.clone())))
                .collect();
            own.extend(first.aliases()?);
            for (alias, field) in VALUE_ALIASES {
                if !own.contains_key(alias) && names(text, alias) {
                    return Err(Error::new("", format!("${alias} has no value"))
                        .hint(missing(field).unwrap_or_default()));
                }
            }
            aliased = raw::read(&replace(text, &own))?;
            (aliased, own)
        }
        None | Some("v1.0.0" | "1.0-preview-1") if first.alias.is_none() => {
            (first, BTreeMap::new())
        }
        None | Some("v1.0.0" | "1.0-preview-1") => {
            return Err(Error::new("", "alias: needs version: v1.1.0"));
        }
        Some(other) => {
            return Err(Error::new("", format!("version {other} is not known"))
                .hint("versions are v1.0.0 and v1.1.0"));
        }
    };
    raw.check(secrets)?;
    let images: BTreeMap<&str, &str> = match raw.version.as_deref() {
        Some("v1.1.0") => IMAGE_ALIASES
            .into_iter()
            .chain(own.iter().map(|(name, value)| (name.as_str(), value.as_str())))
            .collect(),
        _ => BTreeMap::new(),
    };
    raw.into_task(&images)
}

/// Tells how a value of `.Run` that has none is given; None for what is none of `.Run`.
pub fn missing(field: &str) -> Option<&'static str> {
    match field {
        "Registry" | "RegistryName" => Some("name the registry: --registry NAME"),
        "Commit" => Some("CONTEXT is no checkout; give it: --commit COMMIT"),
        "Branch" => Some("CONTEXT is no checkout of a branch; give it: --branch BRANCH"),
        _ => None,
    }
}

/// Says whether a text has an alias.
fn names(text: &str, alias: &str) -> bool {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices('$').any(|(at, _)| {
        let after = text[at + 1..].strip_prefix(alias);
        after.is_some_and(|after| !after.starts_with(is_name))
    })
}

/// Replaces `$name` where it is an alias; every other `$` stays.
fn replace(text: &str, aliases: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, after) = rest.split_at(at + 1);
        let end =
            after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(after.len());
        match aliases.get(&after[..end]) {
            Some(value) => {
                out.push_str(&before[..at]);
                out.push_str(value);
            }
            None => {
                out.push_str(before);
                out.push_str(&after[..end]);
            }
        }
        rest = &after[end..];
    }
    out.push_str(rest);
    out
}

/// Finds the steps that can start now: those that wait for nothing that is not in `done`.
pub fn ready(task: &Task, started: &[bool], done: &[bool]) -> Vec<usize> {
    let waits = |step: &Step| step.after.iter().any(|before| !done[*before]);
    (0..task.steps.len()).filter(|&at| !started[at] && !waits(&task.steps[at])).collect()
}

#[cfg(test)]
mod tests;
