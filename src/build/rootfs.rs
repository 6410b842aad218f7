//! Results as files: `type=tar` and `type=local`.
//!
//! The merged file system of a result is one COPY of everything onto nothing, so the planner of
//! COPY computes it: hard links stay links where both names are there, whiteouts are gone.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use crate::graph::Output;
use crate::layer::tar::Writer;
use crate::layer::toc::{KindRef, Toc};
use crate::layer::tree::Tree;

use super::conductor::Conductor;
use super::copy::{Options, Planner};
use super::error::{Failure, Kind};
use super::files::{Copied, Files};
use super::steps::copy_failure;

/// The merged file system of one result.
pub struct Root {
    /// All entries.
    pub toc: Toc,
    /// What opens its files.
    pub files: Arc<dyn Files>,
}

/// Computes the file system of `output`, below the directory `prefix` (empty for none).
pub fn root(conductor: &Conductor<'_>, output: &Output, prefix: &str) -> Result<Root, Failure> {
    let outcome = conductor
        .outcome(output.node)
        .ok_or_else(|| Failure::new(Kind::Store, "a result was exported before it was made"))?;
    let tree = conductor.layers.tree(&outcome.layers)?;
    let options = Options { now: conductor.build.options.now(), ..Options::default() };
    let empty = Tree::default();
    let mut planner = Planner::new(&empty, &options, false).map_err(copy_failure)?;
    let dest = if prefix.is_empty() { "/".to_owned() } else { format!("/{prefix}/") };
    planner.copy(&tree, "/", &dest).map_err(copy_failure)?;
    let (toc, origins) = planner.finish();
    let mut wanted = toc
        .iter()
        .filter(|entry| matches!(entry.kind, KindRef::File { .. }))
        .filter_map(|entry| origins.source_of(&entry.root_path()));
    let chain = conductor.layers.chain(&outcome.layers, &tree, &mut wanted)?;
    drop(wanted);
    let source: Arc<dyn Files> = Arc::new(chain);
    let files = Copied { origins, inline: HashMap::new(), extracted: None, sources: vec![source] };
    Ok(Root { toc, files: Arc::new(files) })
}

/// Writes all roots into one tar archive, times clamped to SOURCE_DATE_EPOCH.
pub fn write_tar(
    conductor: &Conductor<'_>,
    roots: &[Root],
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let failed = |error: &(dyn std::error::Error + 'static)| {
        Failure::of(Kind::Store, "cannot write the archive", error)
    };
    let mut writer = Writer::new(out);
    for root in roots {
        each(conductor, root, &mut |entry, content| {
            writer.entry(&entry.as_ref(), content).map_err(|error| failed(&error))
        })?;
    }
    writer.finish().map_err(|error| failed(&error))?.flush().map_err(|error| failed(&error))
}

/// Writes all roots as files below `dir`, owned by the user who builds.
pub fn write_files(conductor: &Conductor<'_>, roots: &[Root], dir: &Path) -> Result<(), Failure> {
    let failed = |error: &(dyn std::error::Error + 'static)| {
        Failure::of(Kind::Store, &format!("cannot write files to {}", dir.display()), error)
    };
    // No id is mapped, so nothing changes hands.
    let map = crate::sandbox::IdMap::default();
    let mut writer = crate::snapshot::TreeWriter::new(dir, &map).map_err(|error| failed(&error))?;
    for root in roots {
        each(conductor, root, &mut |entry, content| {
            let mut content = content;
            writer.entry(entry, &mut content).map(drop).map_err(|error| failed(&error))
        })?;
    }
    writer.finish().map_err(|error| failed(&error))
}

fn each(
    conductor: &Conductor<'_>,
    root: &Root,
    write: &mut dyn FnMut(&crate::layer::Entry, &mut dyn Read) -> Result<(), Failure>,
) -> Result<(), Failure> {
    for entry in root.toc.iter() {
        conductor.build.check_cancelled()?;
        let mut owned = entry.to_entry();
        if let Some(epoch) = conductor.build.options.epoch {
            owned.mtime = owned.mtime.min(epoch);
        }
        let mut content: Box<dyn Read> = match entry.kind {
            KindRef::File { size, .. } if size > 0 => {
                root.files.open(&owned.path).map_err(|error| {
                    Failure::of(Kind::Store, &format!("cannot read {}", owned.path), &error)
                })?
            }
            _ => Box::new(std::io::empty()),
        };
        write(&owned, &mut content)?;
    }
    Ok(())
}
