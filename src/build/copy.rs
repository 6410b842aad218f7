//! COPY and ADD of local files, computed against Trees: which entries the new layer has, and where
//! the bytes of each come from. Nothing is unpacked or mounted for it.
//!
//! # Model
//!
//! Every source pattern gives one or more *mappings*: a source path and the destination path that
//! it becomes. Each mapping is walked on its own and becomes a Toc, laid on top of the destination
//! Tree, so that the next mapping sees what the one before it made. At the end the Tocs are merged.
//!
//! The rules are BuildKit's (`solver/llbsolver/file/backend.go` and fsutil's `copy/copy.go`):
//! a source that is a symbolic link is followed, links inside a copied directory stay links; of a
//! directory the contents are copied; the destination is resolved inside the root, through links;
//! directories that exist keep their owner and mode when they are the destination itself, and get
//! the source's when they lie below it; missing parents are made 0755 (or as `--chmod`) and owned
//! as `--chown` says.
//!
//! Start reading at [`Planner::copy`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::context::ignore::IgnoreRules;
use crate::dockerfile::chmod::ChmodSpec;
use crate::layer::toc::{EntryRef, KindRef, Toc, TocBuilder};
use crate::layer::tree::Tree;
use crate::layer::{Entry, Kind, RootPath};

use super::glob;

/// Why a COPY or ADD can't be computed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// A literal source does not exist.
    #[error("{0:?} not found")]
    NotFound(String),
    /// A pattern with wrong syntax.
    #[error(transparent)]
    Pattern(#[from] glob::BadPattern),
    /// An `--exclude` or `--parents` pattern with wrong syntax.
    #[error("{pattern:?} is not a valid pattern: {cause}")]
    Matcher {
        /// As written.
        pattern: String,
        /// What is wrong with it.
        cause: String,
    },
    /// A directory would replace a file.
    #[error("cannot copy to non-directory: {0}")]
    NotADirectory(RootPath),
    /// A file would replace a directory.
    #[error("cannot replace to directory {0} with file")]
    IsADirectory(RootPath),
    /// A name that image layers cannot hold.
    #[error("{0}: names that start with .wh. mean deletion in image layers and cannot be stored")]
    WhiteoutName(RootPath),
    /// Links that lead around in a circle.
    #[error("too many levels of symbolic links at {0}")]
    Loop(RootPath),
}

/// Owner and group that `--chown` gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id inside the image.
    pub uid: u32,
    /// Group id inside the image.
    pub gid: u32,
}

/// The options of one COPY or ADD that shape its entries.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `--chown`, resolved.
    pub owner: Option<Owner>,
    /// `--chmod`.
    pub chmod: Option<ChmodSpec>,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`.
    pub exclude: Vec<String>,
    /// Modification time of directories that are made, seconds since 1970.
    pub now: i64,
}

/// One source path that became one destination path, with all that lies below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Path in the source Tree.
    pub source: RootPath,
    /// Path in the new layer.
    pub dest: RootPath,
    /// Which of several source Trees it is; see [`Planner::from_input`].
    pub input: usize,
}

/// Finds where the bytes of a planned file lie.
#[derive(Debug, Default)]
pub struct Origins {
    mappings: Vec<Mapping>,
    /// For paths that more than one mapping could have made: the one that did.
    exact: HashMap<RootPath, u32>,
    overlapping: bool,
}

impl Origins {
    /// Gives the source path of the file at `dest`.
    pub fn source_of(&self, dest: &RootPath) -> Option<RootPath> {
        self.origin_of(dest).map(|(_, path)| path)
    }

    /// Gives the source path of the file at `dest`, and which source Tree it is in.
    pub fn origin_of(&self, dest: &RootPath) -> Option<(usize, RootPath)> {
        let rebased = |mapping: &Mapping| {
            Some((mapping.input, rebase(dest, &mapping.dest, &mapping.source)?))
        };
        if self.overlapping {
            return rebased(self.mappings.get(*self.exact.get(dest)? as usize)?);
        }
        self.mappings.iter().find_map(rebased)
    }

    /// Gives all mappings.
    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }
}

/// Files with several names, each with its layer.
type Linked = HashSet<(usize, RootPath)>;

fn rebase(path: &RootPath, from: &RootPath, to: &RootPath) -> Option<RootPath> {
    let rest = path.strip_prefix(from)?;
    Some(if rest.is_root() { to.clone() } else { to.join(rest.as_bytes()) })
}

/// Computes one layer.
pub struct Planner<'a> {
    options: &'a Options,
    /// The destination, with what was planned so far on top.
    work: Tree,
    planned: Vec<Arc<Toc>>,
    origins: Origins,
    exclude: Option<IgnoreRules>,
    /// The linked files of the source Tree that was copied from last, and that Tree's layers.
    linked: (Vec<Arc<Toc>>, Arc<Linked>),
    /// Which mapping wrote which file; kept only when there may be several.
    track: bool,
    /// Which source Tree is copied from now.
    input: usize,
}

impl<'a> Planner<'a> {
    /// Starts a layer on top of `dest`. `several` says that more than one source may be copied.
    pub fn new(dest: &Tree, options: &'a Options, several: bool) -> Result<Planner<'a>, Error> {
        Ok(Planner {
            options,
            work: dest.clone(),
            planned: Vec::new(),
            origins: Origins::default(),
            exclude: patterns(&options.exclude)?,
            linked: Default::default(),
            track: several,
            input: 0,
        })
    }

    /// Says which of several source Trees the next copies are from.
    pub fn from_input(&mut self, input: usize) {
        self.input = input;
    }

    /// Gives the destination as it stands now.
    pub fn tree(&self) -> &Tree {
        &self.work
    }

    /// Makes `dir` and its missing parents, as WORKDIR does: 0755, owned by `owner`.
    pub fn make_dirs(&mut self, dir: &str, owner: Owner) -> Result<(), Error> {
        let path = self.resolve(&RootPath::clean(dir.as_bytes()))?;
        let mut builder = TocBuilder::new();
        self.missing_dirs(&path, 0o755, Some(owner), &mut builder)?;
        self.push(builder);
        Ok(())
    }

    /// Copies what `pattern` names in `source` to `dest` (absolute; a slash at the end means a
    /// directory). Returns how many sources matched.
    pub fn copy(&mut self, source: &Tree, pattern: &str, dest: &str) -> Result<usize, Error> {
        let (pattern, include) = if self.options.parents {
            let (pivot, rest) = match pattern.split_once("/./") {
                Some((pivot, rest)) => (pivot.to_owned(), rest),
                None => ("/".to_owned(), pattern.strip_prefix("./").unwrap_or(pattern)),
            };
            let clean = RootPath::clean(rest.as_bytes());
            let text = String::from_utf8_lossy(clean.as_bytes()).into_owned();
            if !glob::has_wildcards(pivot.as_bytes()) && !glob::has_wildcards(rest.as_bytes()) {
                self.require(source, &RootPath::clean(pivot.as_bytes()).join(clean.as_bytes()))?;
            }
            (pivot, Some(text))
        } else {
            (pattern.to_owned(), None)
        };
        let include = match include {
            Some(text) if text.is_empty() => None,
            Some(text) => patterns(&[text])?,
            None => None,
        };
        let found = expand(source, &pattern)?;
        for path in &found {
            self.copy_one(source, path, dest, include.as_ref())?;
        }
        Ok(found.len())
    }

    /// Copies the entry at `path` (named so in the Dockerfile; links in it are followed).
    pub fn copy_one(
        &mut self,
        source: &Tree,
        path: &RootPath,
        dest: &str,
        include: Option<&IgnoreRules>,
    ) -> Result<(), Error> {
        let followed = source.resolve(path, true).map_err(|_| Error::Loop(path.clone()))?;
        let is_dir = match source.lookup(&followed) {
            Some(found) => matches!(found.entry.kind, KindRef::Dir),
            None if followed.is_root() => true,
            None => return Err(Error::NotFound(path.to_string())),
        };
        if !is_dir && self.excludes(path.file_name().unwrap_or_default()) {
            return Ok(());
        }
        let name = path.file_name().unwrap_or_default();
        let (target, mut builder, made) = self.prepare_target(dest, name, is_dir)?;
        let mapping = u32::try_from(self.origins.mappings.len())
            .expect("a Dockerfile line cannot name four thousand million sources");
        let linked = self.linked_files(source);
        let mut walk = Walk {
            planner: self,
            source,
            include,
            builder: &mut builder,
            made,
            inodes: HashMap::new(),
            linked,
            files: Vec::new(),
        };
        walk.copy(&followed, &RootPath::root(), &target, false)?;
        let files = walk.files;
        let input = self.input;
        self.origins.mappings.push(Mapping { source: followed, dest: target, input });
        self.origins.overlapping |= self.track;
        for file in files {
            self.origins.exact.insert(file, mapping);
        }
        self.push(builder);
        Ok(())
    }

    /// Adds a file that the caller has the bytes of (a heredoc). Returns where it went.
    pub fn add_file(&mut self, entry: Entry, name: &str, dest: &str) -> Result<RootPath, Error> {
        let (target, mut builder, _) = self.prepare_target(dest, name.as_bytes(), false)?;
        if let Some(found) = self.work.lookup(&target)
            && matches!(found.entry.kind, KindRef::Dir)
        {
            return Err(Error::IsADirectory(target));
        }
        let mut entry = Entry { path: target.clone(), ..entry };
        self.restyle(&mut entry);
        builder.push(entry);
        self.push(builder);
        Ok(target)
    }

    /// Lays entries that were made elsewhere (an archive) on top.
    pub fn push(&mut self, builder: TocBuilder) {
        let toc = builder.finish();
        if toc.is_empty() {
            return;
        }
        let toc = Arc::new(toc);
        self.work.push(toc.clone());
        self.planned.push(toc);
        // A pattern may name a hundred thousand files, and every look-up asks every layer: layers of
        // about one size become one, so that there are few, and each entry moves only a few times.
        while let [.., below, top] = &self.planned[..]
            && below.len() <= 2 * top.len()
        {
            let both = Arc::new(merged(&[below.clone(), top.clone()]));
            self.planned.truncate(self.planned.len() - 2);
            self.work.truncate(self.work.layers().len() - 2);
            self.work.push(both.clone());
            self.planned.push(both);
        }
    }

    /// All files of `source` that some hard link of the same layer names.
    fn linked_files(&mut self, source: &Tree) -> Arc<Linked> {
        let (layers, linked) = &self.linked;
        let same = layers.len() == source.layers().len()
            && layers.iter().zip(source.layers()).all(|(one, other)| Arc::ptr_eq(one, other));
        if same {
            return linked.clone();
        }
        let mut found = Linked::new();
        for (layer, toc) in source.layers().iter().enumerate() {
            for entry in toc.iter() {
                if let KindRef::Hardlink(target) = entry.kind {
                    found.insert((layer, RootPath::clean(target)));
                }
            }
        }
        let found = Arc::new(found);
        self.linked = (source.layers().to_vec(), found.clone());
        found
    }

    /// Makes the directory `dest` (and parents) as the destination of an archive.
    pub fn make_target_dir(&mut self, dest: &str) -> Result<RootPath, Error> {
        let path = self.resolve(&RootPath::clean(dest.as_bytes()))?;
        let mut builder = TocBuilder::new();
        let mode = self.dir_mode();
        self.missing_dirs(&path, mode, self.options.owner, &mut builder)?;
        self.push(builder);
        Ok(path)
    }

    /// Ends: the layer's table of contents, and where its files come from.
    pub fn finish(self) -> (Toc, Origins) {
        let toc = match self.planned.len() {
            0 => TocBuilder::new().finish(),
            1 => match Arc::try_unwrap({
                let mut planned = self.planned;
                drop(self.work);
                planned.swap_remove(0)
            }) {
                Ok(toc) => toc,
                Err(shared) => merged(&[shared]),
            },
            _ => merged(&self.planned),
        };
        (toc, self.origins)
    }

    fn dir_mode(&self) -> u32 {
        match &self.options.chmod {
            Some(ChmodSpec::Octal(mode)) => *mode,
            Some(ChmodSpec::Symbolic(_)) | None => 0o755,
        }
    }

    fn require(&self, source: &Tree, path: &RootPath) -> Result<(), Error> {
        let followed = source.resolve(path, true).map_err(|_| Error::Loop(path.clone()))?;
        if followed.is_root() || source.lookup(&followed).is_some() {
            return Ok(());
        }
        Err(Error::NotFound(path.to_string()))
    }

    fn excludes(&self, relative: &[u8]) -> bool {
        self.exclude.as_ref().is_some_and(|exclude| exclude.is_ignored(relative))
    }

    fn resolve(&self, path: &RootPath) -> Result<RootPath, Error> {
        self.work.resolve(path, true).map_err(|_| Error::Loop(path.clone()))
    }

    /// Finds where a source named `name` goes, and makes the directories on the way.
    fn prepare_target(
        &mut self,
        dest: &str,
        name: &[u8],
        source_is_dir: bool,
    ) -> Result<(RootPath, TocBuilder, HashSet<RootPath>), Error> {
        let mut builder = TocBuilder::new();
        let mode = self.dir_mode();
        let owner = self.options.owner;
        // What stands before the last slash must be a directory; `.` at the end counts as one.
        let dest = dest.strip_suffix("/.").map_or(dest.to_owned(), |dir| format!("{dir}/"));
        let clean = RootPath::clean(dest.as_bytes());
        let ensure =
            if dest.ends_with('/') { clean.clone() } else { clean.parent().unwrap_or_default() };
        let ensure = self.resolve(&ensure)?;
        let mut made: HashSet<RootPath> = HashSet::new();
        self.missing_dirs_into(&ensure, mode, owner, &mut builder, &mut made)?;
        let mut target = self.resolve(&clean)?;
        let exists_as_dir = made.contains(&target) || self.is_dir(&target);
        let exists = exists_as_dir || self.work.lookup(&target).is_some();
        if !source_is_dir && exists_as_dir {
            target = target.join(name);
        }
        let parent = if source_is_dir && !exists {
            target.clone()
        } else {
            target.parent().unwrap_or_default()
        };
        self.missing_dirs_into(&parent, mode, owner, &mut builder, &mut made)?;
        Ok((target, builder, made))
    }

    fn is_dir(&self, path: &RootPath) -> bool {
        path.is_root()
            || self.work.lookup(path).is_some_and(|found| matches!(found.entry.kind, KindRef::Dir))
    }

    fn missing_dirs(
        &self,
        path: &RootPath,
        mode: u32,
        owner: Option<Owner>,
        builder: &mut TocBuilder,
    ) -> Result<(), Error> {
        self.missing_dirs_into(path, mode, owner, builder, &mut HashSet::new())
    }

    fn missing_dirs_into(
        &self,
        path: &RootPath,
        mode: u32,
        owner: Option<Owner>,
        builder: &mut TocBuilder,
        made: &mut HashSet<RootPath>,
    ) -> Result<(), Error> {
        let owner = owner.unwrap_or(Owner { uid: 0, gid: 0 });
        for dir in path.ancestors().chain((!path.is_root()).then(|| path.clone())) {
            if made.contains(&dir) {
                continue;
            }
            match self.work.lookup(&dir) {
                Some(found) if matches!(found.entry.kind, KindRef::Dir) => {}
                Some(_) => return Err(Error::NotADirectory(dir)),
                None => {
                    builder.push(Entry {
                        path: dir.clone(),
                        kind: Kind::Dir,
                        mode,
                        uid: owner.uid,
                        gid: owner.gid,
                        mtime: self.options.now,
                        xattrs: BTreeMap::new(),
                    });
                    made.insert(dir);
                }
            }
        }
        Ok(())
    }

    /// A directory that an archive implies: 0755, owned as `--chown` says.
    pub fn implied_dir(&self, path: RootPath) -> Entry {
        let owner = self.options.owner.unwrap_or(Owner { uid: 0, gid: 0 });
        Entry {
            path,
            kind: Kind::Dir,
            mode: 0o755,
            uid: owner.uid,
            gid: owner.gid,
            mtime: self.options.now,
            xattrs: BTreeMap::new(),
        }
    }

    /// Applies `--chown` and `--chmod`.
    pub fn restyle(&self, entry: &mut Entry) {
        if let Some(owner) = self.options.owner {
            entry.uid = owner.uid;
            entry.gid = owner.gid;
            // A change of owner clears the set-id bits and the capabilities of a file, as chown(2)
            // does; copying sets the mode afterwards, so that only capabilities would be lost, and
            // those BuildKit writes last.
        }
        if let Some(spec) = &self.options.chmod
            && !matches!(entry.kind, Kind::Symlink(_) | Kind::Hardlink(_))
        {
            entry.mode = spec.apply(entry.mode, matches!(entry.kind, Kind::Dir));
        }
    }
}

/// Turns a pattern into the paths that it names: itself when it has no wildcard.
pub fn expand(source: &Tree, pattern: &str) -> Result<Vec<RootPath>, Error> {
    let clean = RootPath::clean(pattern.as_bytes());
    glob::check(clean.as_bytes())?;
    let (literal, rest) = glob::split_wildcards(clean.as_bytes());
    if rest.is_empty() {
        return Ok(vec![RootPath::clean(&glob::unescape(&literal))]);
    }
    let base = RootPath::clean(&glob::unescape(&literal));
    let base = source.resolve(&base, true).map_err(|_| Error::Loop(base.clone()))?;
    if !base.is_root() && source.lookup(&base).is_none() {
        return Err(Error::NotFound(base.to_string()));
    }
    let depth = glob::depth(&rest);
    let parts: Vec<&[u8]> = rest.split(|&b| b == b'/').collect();
    let mut level = vec![base];
    for (index, part) in parts.iter().enumerate() {
        let mut next = Vec::new();
        for dir in &level {
            let descend = dir.is_root()
                || source.lookup(dir).is_some_and(|found| matches!(found.entry.kind, KindRef::Dir));
            if !descend {
                continue;
            }
            for child in source.children(dir) {
                if glob::matches(part, child.entry.file_name()) {
                    next.push(dir.join(child.entry.file_name()));
                }
            }
        }
        level = next;
        debug_assert!(index < depth);
    }
    Ok(level)
}

/// Reads a list of `--exclude` or `--parents` patterns; None for an empty one.
pub fn patterns(list: &[String]) -> Result<Option<IgnoreRules>, Error> {
    if list.is_empty() {
        return Ok(None);
    }
    IgnoreRules::from_patterns(list)
        .map(Some)
        .map_err(|error| Error::Matcher { pattern: list.join(", "), cause: error.to_string() })
}

fn merged(planned: &[Arc<Toc>]) -> Toc {
    let mut builder = TocBuilder::new();
    let listed = |path: &[u8]| planned.iter().any(|toc| toc.get(path).is_some());
    for found in Tree::new(planned.to_vec()).walk(&RootPath::root()) {
        // A tree also shows the directories that its paths imply. Those exist below this layer, with
        // an owner and a mode that must stay: in the layer they would become root's and 0755.
        if !matches!(found.entry.kind, KindRef::Dir) || listed(found.entry.path) {
            builder.push_ref(&found.entry);
        }
    }
    builder.finish()
}

struct Walk<'w, 'a> {
    planner: &'w mut Planner<'a>,
    source: &'w Tree,
    include: Option<&'w IgnoreRules>,
    builder: &'w mut TocBuilder,
    /// Directories that were made for the destination of this mapping.
    made: HashSet<RootPath>,
    /// Files with several names: the first destination that each got.
    inodes: HashMap<(usize, RootPath), RootPath>,
    linked: Arc<Linked>,
    files: Vec<RootPath>,
}

/// A directory of the source that is not in the layer yet, because nothing below it is.
struct Pending {
    entry: Entry,
    done: bool,
}

impl Walk<'_, '_> {
    /// Copies `from` to `target`. An explicit stack instead of recursion: archives and contexts
    /// may be two hundred thousand directories deep.
    fn copy(
        &mut self,
        from: &RootPath,
        relative: &RootPath,
        target: &RootPath,
        overwrite: bool,
    ) -> Result<(), Error> {
        let mut pending: Vec<Pending> = Vec::new();
        let mut stack = vec![(from.clone(), relative.clone(), target.clone(), overwrite, 0usize)];
        while let Some((from, relative, target, overwrite, depth)) = stack.pop() {
            pending.truncate(depth);
            let found = self.source.lookup(&from);
            let is_dir = match &found {
                Some(found) => matches!(found.entry.kind, KindRef::Dir),
                None => true,
            };
            if target.file_name().is_some_and(|name| name.starts_with(b".wh.")) {
                return Err(Error::WhiteoutName(from));
            }
            let (mut included, mut excluded) = (true, false);
            if !relative.is_root() {
                if let Some(include) = self.include {
                    included = include.is_ignored(relative.as_bytes());
                }
                excluded = self.planner.excludes(relative.as_bytes());
                included &= !excluded;
            } else if self.include.is_some() {
                // The pivot itself is only the place that paths start from.
                included = false;
            }
            if !is_dir {
                if included && let Some(found) = found {
                    self.emit_parents(&mut pending);
                    self.copy_file(&found.entry, found.layer, &from, &target)?;
                }
                continue;
            }
            let entry = found.as_ref().map(|found| found.entry.to_entry());
            let exists = self.planner.work.lookup(&target);
            if let Some(exists) = &exists
                && !matches!(exists.entry.kind, KindRef::Dir)
            {
                return Err(Error::NotADirectory(target));
            }
            let exists = exists.is_some() || target.is_root() || self.made.contains(&target);
            let wanted = entry.filter(|_| !exists || overwrite).map(|entry| {
                let mut entry = Entry { path: target.clone(), ..entry };
                self.planner.restyle(&mut entry);
                entry
            });
            match wanted {
                Some(entry) if included => {
                    self.emit_parents(&mut pending);
                    self.builder.push(entry.clone());
                    pending.push(Pending { entry, done: true });
                }
                Some(entry) => pending.push(Pending { entry, done: false }),
                None => pending.push(Pending {
                    entry: Entry {
                        path: target.clone(),
                        kind: Kind::Dir,
                        mode: 0,
                        uid: 0,
                        gid: 0,
                        mtime: 0,
                        xattrs: BTreeMap::new(),
                    },
                    done: true,
                }),
            }
            let may_hold = |rules: &IgnoreRules| rules.reaches_into(relative.as_bytes());
            if excluded && !self.planner.exclude.as_ref().is_some_and(may_hold) {
                continue;
            }
            let depth = pending.len();
            for child in self.source.children(&from).into_iter().rev() {
                let name = child.entry.file_name();
                stack.push((from.join(name), relative.join(name), target.join(name), true, depth));
            }
        }
        Ok(())
    }

    fn emit_parents(&mut self, pending: &mut [Pending]) {
        for dir in pending.iter_mut().filter(|dir| !dir.done) {
            dir.done = true;
            self.builder.push(dir.entry.clone());
        }
    }

    fn copy_file(
        &mut self,
        entry: &EntryRef<'_>,
        layer: usize,
        from: &RootPath,
        target: &RootPath,
    ) -> Result<(), Error> {
        if let Some(existing) = self.planner.work.lookup(target)
            && matches!(existing.entry.kind, KindRef::Dir)
        {
            return Err(Error::IsADirectory(target.clone()));
        }
        let mut entry = entry.to_entry();
        let inode = match &entry.kind {
            Kind::Hardlink(first) => Some((layer, first.clone())),
            Kind::File { .. } => {
                let key = (layer, from.clone());
                self.linked.contains(&key).then_some(key)
            }
            _ => None,
        };
        if let Some(inode) = inode {
            if let Some(first) = self.inodes.get(&inode) {
                entry.kind = Kind::Hardlink(first.clone());
            } else {
                if let Kind::Hardlink(first) = &entry.kind
                    && let Some(file) = self.source.layers()[layer].get(first.as_bytes())
                {
                    entry = file.to_entry();
                }
                self.inodes.insert(inode, target.clone());
            }
        }
        entry.path = target.clone();
        self.planner.restyle(&mut entry);
        if self.planner.track && matches!(entry.kind, Kind::File { .. }) {
            self.files.push(target.clone());
        }
        self.builder.push(entry);
        Ok(())
    }
}

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;
