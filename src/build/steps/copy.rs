//! COPY, ADD of local files, WORKDIR: the new layer's table of contents and files.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;

use crate::build::conductor::{Conductor, Outcome};
use crate::build::copy::{self, Options, Owner, Planner};
use crate::build::error::{Failure, Kind};
use crate::build::files::{ContextFiles, Copied, Files, SpoolWriter};
use crate::build::users;
use crate::context::Context;
use crate::graph::{self, NodeId, Op};
use crate::layer::archive::{self, Detected};
use crate::layer::compress::Decoder;
use crate::layer::tar::Reader;
use crate::layer::toc::{KindRef, Toc, TocBuilder};
use crate::layer::tree::Tree;
use crate::layer::{Entry, Kind as EntryKind, LayerId, RootPath};
use crate::oci::digest::Hasher;

use super::{copy_failure, select};

/// Makes the layer of a WORKDIR.
pub fn workdir(
    conductor: &Conductor<'_>,
    path: &str,
    user: &str,
    below: &Outcome,
) -> Result<(LayerId, i64), Failure> {
    let tree = conductor.layers.tree(&below.layers)?;
    let owner = match user {
        "" => Owner { uid: 0, gid: 0 },
        user => owner(conductor, user, below, &tree)?,
    };
    let now = conductor.build.options.now();
    let options = Options { now, ..Options::default() };
    let mut planner = Planner::new(&tree, &options, false).map_err(copy_failure)?;
    planner.make_dirs(path, owner).map_err(copy_failure)?;
    let (toc, origins) = planner.finish();
    let files = Copied { origins, inline: HashMap::new(), extracted: None, sources: Vec::new() };
    keep(conductor, toc, Arc::new(files), now)
}

/// Makes the layer of a COPY or ADD.
pub fn run(
    conductor: &Conductor<'_>,
    id: NodeId,
    copy: &graph::Copy,
    below: &Outcome,
) -> Result<(LayerId, i64), Failure> {
    let tree = if copy.link { Tree::default() } else { conductor.layers.tree(&below.layers)? };
    let build = conductor.build;
    let now = build.options.now();
    let chmod = match &copy.chmod {
        Some(text) => {
            Some(text.parse().map_err(|error| Failure::of(Kind::Step, "bad --chmod", &error))?)
        }
        None => None,
    };
    let owner = match &copy.chown {
        Some(text) => Some(owner(conductor, text, below, &tree)?),
        None => None,
    };
    let options =
        Options { owner, chmod, parents: copy.parents, exclude: copy.exclude.clone(), now };
    let mut inputs = Vec::new();
    for (number, node) in conductor.graph.nodes[id].inputs.iter().enumerate() {
        inputs.push(Input::open(conductor, *node, &only(copy, number))?);
    }
    let several = copy.sources.len() + copy.inline.len() > 1
        || copy.sources.iter().any(|pattern| crate::build::glob::has_wildcards(pattern.as_bytes()));
    let mut planner = Planner::new(&tree, &options, several).map_err(copy_failure)?;
    let mut inline: HashMap<RootPath, Arc<[u8]>> = HashMap::new();
    let mut extracted = None;
    for (number, pattern) in copy.sources.iter().enumerate() {
        let origin = copy.origin(number);
        let Some(source) = inputs.get(origin) else { continue };
        planner.from_input(origin);
        let unpack = if source.is_download { copy.unpack_remote } else { copy.unpack };
        if unpack && !copy.parents {
            let paths = copy::expand(&source.tree, pattern).map_err(copy_failure)?;
            for path in paths {
                if !extract(conductor, &mut planner, source, &path, copy, &mut extracted)? {
                    planner
                        .copy_one(&source.tree, &path, &copy.dest, None)
                        .map_err(copy_failure)?;
                }
            }
        } else {
            planner.copy(&source.tree, pattern, &copy.dest).map_err(copy_failure)?;
        }
    }
    for file in &copy.inline {
        let bytes: Arc<[u8]> = file.data.as_bytes().into();
        let entry = Entry {
            path: RootPath::root(),
            kind: EntryKind::File {
                size: bytes.len() as u64,
                digest: Some(crate::oci::Digest::of(&bytes)),
            },
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: now,
            xattrs: Default::default(),
        };
        let path = planner.add_file(entry, &file.name, &copy.dest).map_err(copy_failure)?;
        inline.insert(path, bytes);
    }
    let (toc, origins) = planner.finish();
    let extracted = match extracted {
        Some(writer) => Some(Arc::new(writer.finish().map_err(|error| {
            Failure::of(Kind::Store, "cannot keep the files of an archive", &error)
        })?)),
        None => None,
    };
    let sources = inputs
        .iter()
        .enumerate()
        .map(|(number, input)| input.files(conductor, &toc, &origins, number))
        .collect::<Result<Vec<_>, _>>()?;
    let files = Copied { origins, inline, extracted, sources };
    let contexts: Vec<Option<Arc<Context>>> = inputs
        .iter()
        .map(|input| match &input.kind {
            InputKind::Context(context) => Some(context.clone()),
            InputKind::Stage(_) => None,
        })
        .collect();
    let toc = digested(toc, &contexts, &files)?;
    keep(conductor, toc, Arc::new(files), now)
}

/// Saves a computed layer and says where its files are.
fn keep(
    conductor: &Conductor<'_>,
    toc: Toc,
    files: Arc<dyn Files>,
    now: i64,
) -> Result<(LayerId, i64), Failure> {
    let (toc, digest) = match conductor.build.options.epoch {
        // With an epoch, times are part of the result, so they are part of its name.
        Some(epoch) => {
            let toc = clamped(toc, epoch);
            let digest = toc.digest();
            (toc, digest)
        }
        None => {
            let digest = toc.digest_without_mtimes();
            (toc, digest)
        }
    };
    let layer = LayerId::from_toc_digest(digest);
    if !conductor.layers.usable(&layer) {
        // In this order: with its files the layer counts as usable, for other steps too.
        conductor.layers.save_toc(&layer, toc)?;
        conductor.layers.set_files(&layer, files);
    }
    Ok((layer, now))
}

fn clamped(toc: Toc, epoch: i64) -> Toc {
    if toc.iter().all(|entry| entry.mtime <= epoch) {
        return toc;
    }
    let mut builder = TocBuilder::new();
    for entry in toc.iter() {
        let mut entry = entry;
        entry.mtime = entry.mtime.min(epoch);
        builder.push_ref(&entry);
    }
    builder.finish()
}

/// Fills in the content digests that the source's table of contents does not have.
pub(super) fn digested(
    mut toc: Toc,
    contexts: &[Option<Arc<Context>>],
    files: &Copied,
) -> Result<Toc, Failure> {
    let mut buffer = Vec::new();
    for row in 0..toc.len() {
        let entry = toc.at(row);
        let KindRef::File { size, digest: None } = entry.kind else { continue };
        let path = entry.root_path();
        let known = files.origins.origin_of(&path).and_then(|(input, origin)| {
            let context = contexts.get(input)?.as_ref()?;
            let row = context.listing().ok()?.index_of(origin.as_bytes())?;
            context.digest_at(row).ok()?
        });
        let digest = match known {
            Some(digest) => digest,
            None => {
                buffer.resize(128 << 10, 0);
                hash(files, &path, size, &mut buffer).map_err(|error| {
                    Failure::of(Kind::Step, &format!("cannot read {path}"), &error)
                })?
            }
        };
        toc.set_digest(row, digest);
    }
    Ok(toc)
}

fn hash(
    files: &dyn Files,
    path: &RootPath,
    size: u64,
    buffer: &mut [u8],
) -> std::io::Result<crate::oci::Digest> {
    let mut hasher = Hasher::new();
    if size > 0 {
        let mut file = files.open(path)?;
        loop {
            match file.read(buffer)? {
                0 => break,
                len => hasher.update(&buffer[..len]),
            }
        }
    }
    Ok(hasher.finish())
}

/// Looks up who `text` means in the image that is being built.
fn owner(
    conductor: &Conductor<'_>,
    text: &str,
    below: &Outcome,
    tree: &Tree,
) -> Result<Owner, Failure> {
    let (mut passwd, mut group) = (Vec::new(), Vec::new());
    if users::needs_lookup(text) {
        let read = |path| -> Result<Vec<u8>, Failure> {
            if tree.layers().is_empty() {
                return Ok(Vec::new());
            }
            Ok(conductor.layers.read(&below.layers, tree, path)?.unwrap_or_default())
        };
        passwd = read("/etc/passwd")?;
        group = read("/etc/group")?;
    }
    users::resolve(text, &passwd, &group).map_err(|error| {
        Failure::new(Kind::Step, error.to_string()).with_hint(match tree.layers().is_empty() {
            // So it is below a COPY --link, whatever the image holds.
            true => "give numbers, as --chown=1000:1000: there is no image to look names up in",
            false => "create it in a RUN before, or give numbers: --chown=1000:1000",
        })
    })
}

/// The part of a COPY that is about one of its inputs.
pub(super) fn only(copy: &graph::Copy, input: usize) -> graph::Copy {
    graph::Copy {
        sources: copy.sources_of(input).cloned().collect(),
        origins: Vec::new(),
        ..copy.clone()
    }
}

/// What a COPY copies from.
struct Input {
    tree: Tree,
    kind: InputKind,
    /// It is a file that ADD has downloaded.
    is_download: bool,
}

enum InputKind {
    Context(Arc<Context>),
    Stage(Outcome),
}

impl Input {
    fn open(
        conductor: &Conductor<'_>,
        input: NodeId,
        copy: &graph::Copy,
    ) -> Result<Input, Failure> {
        let op = &conductor.graph.nodes[input].op;
        let context = match op {
            Op::Local { context } => Some(conductor.build.context(context)?),
            Op::Remote(remote) => Some(conductor.build.source(input, remote)?),
            _ => None,
        };
        if let Some(context) = context {
            let (listing, _) = select(&context, copy)?;
            let tree = Tree::new(vec![listing]);
            let is_download = matches!(op, Op::Remote(_));
            return Ok(Input { tree, kind: InputKind::Context(context), is_download });
        }
        let outcome = conductor.outcome(Some(input)).ok_or_else(|| {
            Failure::new(Kind::Store, "a COPY was started before what it copies from was done")
        })?;
        let tree = conductor.layers.tree(&outcome.layers)?;
        Ok(Input { tree, kind: InputKind::Stage(outcome), is_download: false })
    }

    /// Gives something that opens the files that `toc` took from here.
    fn files(
        &self,
        conductor: &Conductor<'_>,
        toc: &Toc,
        origins: &copy::Origins,
        number: usize,
    ) -> Result<Arc<dyn Files>, Failure> {
        match &self.kind {
            InputKind::Context(context) => Ok(Arc::new(ContextFiles(context.clone()))),
            InputKind::Stage(outcome) => {
                let mut wanted = toc
                    .iter()
                    .filter(|entry| matches!(entry.kind, KindRef::File { .. }))
                    .filter_map(|entry| origins.origin_of(&entry.root_path()))
                    .filter(|(input, _)| *input == number)
                    .map(|(_, path)| path);
                let chain = conductor.layers.chain(&outcome.layers, &self.tree, &mut wanted)?;
                Ok(Arc::new(chain))
            }
        }
    }

    fn open_file(
        &self,
        conductor: &Conductor<'_>,
        path: &RootPath,
    ) -> Result<Box<dyn Read + Send>, Failure> {
        let files: Arc<dyn Files> = match &self.kind {
            InputKind::Context(context) => Arc::new(ContextFiles(context.clone())),
            InputKind::Stage(outcome) => Arc::new(conductor.layers.chain(
                &outcome.layers,
                &self.tree,
                &mut std::iter::once(path.clone()),
            )?),
        };
        files
            .open(path)
            .map_err(|error| Failure::of(Kind::Step, &format!("cannot read {path}"), &error))
    }
}

/// Extracts `path` when its content is an archive; says whether it was one.
fn extract(
    conductor: &Conductor<'_>,
    planner: &mut Planner<'_>,
    source: &Input,
    path: &RootPath,
    copy: &graph::Copy,
    spool: &mut Option<SpoolWriter>,
) -> Result<bool, Failure> {
    let Ok(real) = source.tree.resolve(path, true) else { return Ok(false) };
    let is_file = source.tree.lookup(&real).is_some_and(
        |found| matches!(found.target().entry.kind, KindRef::File { size, .. } if size > 0),
    );
    if !is_file {
        return Ok(false);
    }
    let damaged = |error: &(dyn std::error::Error + 'static)| {
        Failure::of(Kind::Step, &format!("cannot extract {path}"), error)
    };
    let mut head = Vec::new();
    source
        .open_file(conductor, &real)?
        .take(archive::DETECT_LEN as u64)
        .read_to_end(&mut head)
        .map_err(|error| damaged(&error))?;
    match archive::detect(&head) {
        Detected::Other => return Ok(false),
        Detected::Tar => {}
        Detected::Compressed(_) => {
            // A compressed file is an archive only when a tar is inside.
            let mut inside = Vec::new();
            let file = source.open_file(conductor, &real)?;
            let read = Decoder::new(file).and_then(|decoder| {
                decoder.take(archive::DETECT_LEN as u64).read_to_end(&mut inside)
            });
            if read.is_err() || !matches!(archive::detect(&inside), Detected::Tar) {
                return Ok(false);
            }
        }
    }
    if spool.is_none() {
        let dir = conductor
            .build
            .store
            .tmp()
            .path()
            .map_err(|error| Failure::of(Kind::Store, "", &error))?;
        *spool =
            Some(SpoolWriter::new(&dir).map_err(|error| {
                Failure::of(Kind::Store, "cannot make a temporary file", &error)
            })?);
    }
    let target = planner.make_target_dir(&copy.dest).map_err(copy_failure)?;
    let file = source.open_file(conductor, &real)?;
    let decoder = Decoder::new(file).map_err(|error| damaged(&error))?;
    let mut reader = Reader::plain(decoder);
    let Some(spool) = spool else { return Ok(false) };
    let mut archive = Extraction::new(target);
    while let Some((entry, mut content)) = reader.next_entry().map_err(|error| damaged(&error))? {
        conductor.build.check_cancelled()?;
        archive.entry(planner, entry, &mut content, spool)?;
    }
    archive.finish(planner);
    Ok(true)
}

/// An archive on its way into a layer: `tar -x` as Docker does it, inside of the root.
struct Extraction {
    target: RootPath,
    entries: std::collections::BTreeMap<RootPath, Entry>,
    links: HashMap<RootPath, Vec<u8>>,
}

impl Extraction {
    fn new(target: RootPath) -> Extraction {
        Extraction { target, entries: Default::default(), links: HashMap::new() }
    }

    /// Finds where a path of the archive lies, through links that the image or the archive has.
    fn locate(&self, planner: &Planner<'_>, path: &RootPath) -> Result<RootPath, Failure> {
        let mut current = self.target.join(path.as_bytes());
        // Links of the archive itself may lead to links of the image and back, so both are tried
        // until nothing changes; more than this many is a circle.
        for _ in 0..64 {
            let parent = current.parent().unwrap_or_default();
            let name = current.file_name().unwrap_or_default().to_vec();
            let mut resolved = planner
                .tree()
                .resolve(&parent, true)
                .map_err(|_| copy_failure(copy::Error::Loop(parent.clone())))?;
            let dirs: Vec<RootPath> = resolved.ancestors().chain([resolved.clone()]).collect();
            for dir in dirs {
                if let Some(link) = self.links.get(&dir) {
                    let rest = resolved.strip_prefix(&dir).unwrap_or_default();
                    let base = if link.starts_with(b"/") {
                        RootPath::clean(link)
                    } else {
                        dir.parent().unwrap_or_default().join(link)
                    };
                    resolved = base.join(rest.as_bytes());
                    break;
                }
            }
            let next = if name.is_empty() { resolved } else { resolved.join(&name) };
            if next == current {
                return Ok(next);
            }
            current = next;
        }
        Err(copy_failure(copy::Error::Loop(current)))
    }

    fn entry(
        &mut self,
        planner: &Planner<'_>,
        mut entry: Entry,
        content: &mut dyn Read,
        spool: &mut SpoolWriter,
    ) -> Result<(), Failure> {
        if entry.path.is_root() {
            return Ok(());
        }
        let path = self.locate(planner, &entry.path)?;
        match &mut entry.kind {
            EntryKind::Hardlink(first) => {
                let first_path = self.locate(planner, first)?;
                match self.entries.get(&first_path).map(|first| first.kind.clone()) {
                    Some(EntryKind::Hardlink(real)) => *first = real,
                    Some(_) => *first = first_path,
                    None => {
                        return Err(Failure::new(
                            Kind::Step,
                            format!(
                                "cannot extract {path}: it links to {first_path}, which is not in \
                                 the archive before it"
                            ),
                        ));
                    }
                }
            }
            EntryKind::File { size, digest } => {
                let mut hashing = HashingRead { inner: content, hasher: Hasher::new() };
                *size = spool.add(path.clone(), &mut hashing).map_err(|error| {
                    Failure::of(Kind::Step, &format!("cannot extract {path}"), &error)
                })?;
                *digest = Some(hashing.hasher.finish());
            }
            _ => {}
        }
        self.links.remove(&path);
        if let EntryKind::Symlink(target) = &entry.kind {
            self.links.insert(path.clone(), target.clone());
        }
        if !matches!(entry.kind, EntryKind::Dir) {
            // A file replaces a directory with all that the archive put below it.
            let below: Vec<RootPath> = self
                .entries
                .range(path.clone()..)
                .map(|(path, _)| path.clone())
                .take_while(|below| below.starts_with(&path))
                .collect();
            for path in below {
                self.entries.remove(&path);
            }
        }
        entry.path = path.clone();
        planner.restyle(&mut entry);
        self.entries.insert(path, entry);
        Ok(())
    }

    fn finish(self, planner: &mut Planner<'_>) {
        let mut builder = TocBuilder::new();
        // Directories that the archive implies and does not list, 0755 and root's as tar makes them.
        let mut missing: std::collections::BTreeSet<RootPath> = Default::default();
        for path in self.entries.keys() {
            for dir in path.ancestors() {
                if !self.entries.contains_key(&dir) && planner.tree().lookup(&dir).is_none() {
                    missing.insert(dir);
                }
            }
        }
        for dir in missing {
            builder.push(planner.implied_dir(dir));
        }
        for entry in self.entries.into_values() {
            builder.push(entry);
        }
        planner.push(builder);
    }
}

struct HashingRead<'r> {
    inner: &'r mut dyn Read,
    hasher: Hasher,
}

impl Read for HashingRead<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..len]);
        Ok(len)
    }
}
