//! Checks the whole store, and mends what can be mended by taking damaged things away: whatever is
//! missing is then made anew by the next build or pull.
//!
//! Run it alone or beside builds; it changes nothing that is whole.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::gc::{files, subdirs};
use super::pack::Packs;
use super::{EMPTY_INDEX, Error, IoContext, Result, Store, Trees, mark, remove};
use crate::layer::{KindRef, LayerId, Toc};
use crate::oci::Digest;
use crate::oci::digest::Hasher;

/// How to check.
#[derive(Clone, Copy, Debug, Default)]
pub struct FsckOptions {
    /// Take damaged things away.
    pub repair: bool,
    /// Do not read the content of layers, only sizes and documents.
    pub quick: bool,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub path: PathBuf,
    /// What.
    pub problem: String,
    /// Whether it was taken away.
    pub mended: bool,
}

struct Check<'s> {
    store: &'s Store,
    options: FsckOptions,
    findings: Vec<Finding>,
}

/// Checks the store and gives what is wrong, in a fixed order.
pub fn fsck(store: &Store, options: &FsckOptions) -> Result<Vec<Finding>> {
    let mut check = Check { store, options: *options, findings: Vec::new() };
    check.oci_layout()?;
    check.blobs()?;
    check.index()?;
    check.records()?;
    check.layers()?;
    Ok(check.findings)
}

impl Check<'_> {
    fn report(
        &mut self,
        path: &Path,
        problem: impl Into<String>,
        mend: impl FnOnce() -> Result<()>,
    ) {
        let mut problem = problem.into();
        let mut mended = false;
        if self.options.repair {
            match mend() {
                Ok(()) => mended = true,
                Err(error) => problem = format!("{problem} (not mended: {error})"),
            }
        }
        self.findings.push(Finding { path: path.to_owned(), problem, mended });
    }

    fn report_file(&mut self, path: &Path, problem: impl Into<String>) {
        self.report(path, problem, || fs::remove_file(path).at("remove", path));
    }

    fn oci_layout(&mut self) -> Result<()> {
        let path = self.store.layout().join("oci-layout");
        let version = fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
            .and_then(|value| value.get("imageLayoutVersion")?.as_str().map(str::to_owned));
        if version.is_none_or(|version| !version.starts_with("1.")) {
            let store = self.store;
            self.report(&path, "is not an OCI layout file of version 1", || {
                store.write_whole(&path, super::OCI_LAYOUT)
            });
        }
        Ok(())
    }

    fn blobs(&mut self) -> Result<()> {
        for (path, name, meta) in files(&self.store.path("layout/blobs/sha256"))? {
            let Some(digest) = Digest::from_hex(&name) else {
                self.report_file(&path, "is not named by a digest");
                continue;
            };
            if self.options.quick && meta.len() > mark::MANIFEST_LIMIT {
                continue;
            }
            match hash(&path) {
                Ok(found) if found == digest => {}
                Ok(found) => self.report_file(&path, format!("has digest {found}")),
                Err(error) => self.report(&path, format!("cannot be read: {error}"), || {
                    Err(error).at("read", &path)
                }),
            }
        }
        Ok(())
    }

    fn index(&mut self) -> Result<()> {
        let path = self.store.layout().join("index.json");
        let store = self.store;
        let index = match mark::index(store) {
            Ok(index) => index,
            Err(Error::Damaged { reason, .. }) => {
                self.report(&path, reason, || {
                    let aside = path.with_extension("json.damaged");
                    fs::rename(&path, &aside).at("rename to", &aside)?;
                    store.write_whole(&path, EMPTY_INDEX)
                });
                return Ok(());
            }
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                self.report(&path, "is missing", || store.write_whole(&path, EMPTY_INDEX));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for descriptor in index["manifests"].as_array().map_or(&[][..], |list| list) {
            let name = image_name(descriptor);
            let marks = mark::below(store, std::slice::from_ref(descriptor));
            let mut problems: Vec<String> = Vec::new();
            for (digest, size) in &marks.blobs {
                match store.blobs().size(digest) {
                    Some(found) if found == *size => {}
                    Some(found) => {
                        problems.push(format!("{digest} has {found} bytes, not {size}"));
                    }
                    None => problems.push(format!("{digest} is missing")),
                }
            }
            for (digest, reason) in &marks.broken {
                if store.blobs().size(digest).is_some() {
                    problems.push(format!("{digest} cannot be read: {reason}"));
                }
            }
            if !problems.is_empty() {
                let problem = format!("image {name}: {}", problems.join(", "));
                self.report(&path, problem, || drop_image(store, descriptor));
            }
        }
        Ok(())
    }

    fn records(&mut self) -> Result<()> {
        for (path, name, _) in files(&self.store.path("steps"))? {
            if self.store.steps().peek(&name).is_none() {
                self.report_file(&path, "is not a whole step record");
            }
        }
        for (path, _, _) in files(&self.store.path("packs"))? {
            match Packs::peek(&path) {
                None => self.report_file(&path, "is not a whole pack record"),
                Some(filed) => match self.store.blobs().size(&filed.record.digest) {
                    // Pruned, or never pushed through: the record is a miss and harms nobody.
                    None => {}
                    Some(size) if size == filed.record.size => {}
                    Some(_) => self.report_file(&path, "names a blob of another size"),
                },
            }
        }
        Ok(())
    }

    fn layers(&mut self) -> Result<()> {
        for (path, name, _) in files(&self.store.path("toc"))? {
            let whole =
                LayerId::parse(&name).is_some_and(|id| self.store.tocs().peek(&id).is_some());
            if !whole {
                self.report_file(&path, "is not a whole table of contents");
            }
        }
        for map in subdirs(&self.store.path("trees"))? {
            for tree in subdirs(&map)? {
                let name = tree.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let id = LayerId::parse(name);
                let problem = match (&id, Trees::used(&tree)) {
                    (None, _) => Some("is not named by a layer".to_owned()),
                    (_, None) => Some("is not complete".to_owned()),
                    // A tree may stand for several layers, and then has no Toc.
                    (Some(id), _) => {
                        self.store.tocs().peek(id).and_then(|toc| tree_problem(&tree, &toc))
                    }
                };
                if let Some(problem) = problem {
                    let store = self.store;
                    let ever = SystemTime::now() + Duration::from_secs(86_400);
                    self.report(&tree, problem, || match Trees::retire(store, &tree, ever)? {
                        Some(grave) => remove::tree(&grave).at("remove", &grave),
                        None => Ok(()),
                    });
                }
            }
        }
        Ok(())
    }
}

/// Compares a tree with its Toc by presence and size: what a power cut would have lost. Files that
/// this process may not look at are taken as they are.
fn tree_problem(tree: &Path, toc: &Toc) -> Option<String> {
    use std::os::unix::ffi::OsStrExt;
    for entry in toc.iter() {
        let KindRef::File { size, .. } = entry.kind else { continue };
        let path = std::ffi::OsStr::from_bytes(entry.path);
        match fs::symlink_metadata(tree.join(path)) {
            Ok(meta) if meta.is_file() && meta.len() == size => {}
            Ok(_) => {
                return Some(format!("{} differs from the table of contents", entry.root_path()));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Some(format!("{} is missing", entry.root_path()));
            }
            Err(_) => {}
        }
    }
    None
}

fn hash(path: &Path) -> io::Result<Digest> {
    let mut file = fs::File::open(path)?;
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            count => hasher.update(&buffer[..count]),
        }
    }
}

fn image_name(descriptor: &Value) -> String {
    let annotation = |name: &str| {
        descriptor.get("annotations").and_then(|all| all.get(name)).and_then(Value::as_str)
    };
    annotation("io.containerd.image.name")
        .or_else(|| annotation("org.opencontainers.image.ref.name"))
        .or_else(|| descriptor.get("digest").and_then(Value::as_str))
        .unwrap_or("without a digest")
        .to_owned()
}

/// Takes an image out of index.json, if it is still there.
fn drop_image(store: &Store, descriptor: &Value) -> Result<()> {
    let _guard = store.locks().short("index")?;
    let path = store.layout().join("index.json");
    let mut index = mark::index(store)?;
    if let Some(Value::Array(manifests)) = index.get_mut("manifests") {
        manifests.retain(|other| other != descriptor);
    }
    let bytes = serde_json::to_vec(&index).map_err(io::Error::from).at("encode", &path)?;
    store.write_whole(&path, &bytes)
}
