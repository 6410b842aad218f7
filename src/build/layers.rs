//! The layers of a build: their tables of contents, their bytes, their directories and their blobs,
//! each made when it is first needed and never before.
//!
//! A layer can be had in four forms, and any of the last three makes the others:
//!
//! - its Toc (in the store, or read from its blob);
//! - its *files*: something that opens them ([`Files`]), which a COPY leaves behind;
//! - its *directory* (`trees/` of the store), which a RUN needs below it;
//! - its *blob*, which an image needs, and which a cache may have (it is fetched when one of the
//!   others is asked for and none is there).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use crate::layer::compress::{Compression, Decoder, Encoder};
use crate::layer::pack::{PackOptions, Packed, estargz, pack};
use crate::layer::tar::Reader;
use crate::layer::toc::{EntryRef, KindRef, Toc};
use crate::layer::tree::Tree;
use crate::layer::{LayerId, RootPath};
use crate::oci::{Descriptor, DiffId, media_type};
use crate::sandbox::Session;
use crate::store::{Filing, PackParams, PackRecord, StepRecord, Store};

use super::cache::Remote;
use super::error::{Failure, Kind};
use super::files::{Chain, Directory, Files, Spool, SpoolWriter};

/// A layer of a base image, as its manifest lists it.
#[derive(Debug, Clone)]
pub struct BaseLayer {
    /// Digest of its uncompressed tar.
    pub diff_id: DiffId,
    /// Its blob.
    pub descriptor: Descriptor,
}

/// How the blobs of an output are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlobForm {
    /// Compression.
    pub compression: Compression,
    /// SOURCE_DATE_EPOCH.
    pub epoch: Option<i64>,
    /// Layers of base images are packed anew where they have another compression.
    pub force: bool,
}

/// All layers of a build.
pub struct Layers<'a> {
    store: &'a Store,
    threads: usize,
    bases: HashMap<LayerId, BaseLayer>,
    origins: Mutex<HashMap<LayerId, Arc<dyn Files>>>,
    /// One lock a layer, so that a directory or Toc is made once.
    locks: Mutex<HashMap<LayerId, Arc<Mutex<()>>>>,
    /// The same for blobs: one thread fetches or packs a layer.
    blob_locks: Mutex<HashMap<LayerId, Arc<Mutex<()>>>>,
    /// Layers that caches have.
    remotes: Mutex<HashMap<LayerId, Remote>>,
    implied: Mutex<HashMap<LayerId, Arc<Vec<RootPath>>>>,
    session: OnceLock<Arc<Session>>,
    /// Forms in which a layer's blob may be in the store already.
    forms: Vec<BlobForm>,
    /// The pack records that the store had when the first RUN had ended.
    filing: OnceLock<Filing>,
}

impl BlobForm {
    /// Gives the name of the form in the store's records.
    pub fn params(&self) -> PackParams {
        let compression = match self.compression {
            Compression::Gzip { level } => format!("gzip-{level}"),
            Compression::Zstd { level } => format!("zstd-{level}"),
            Compression::None => "none".to_owned(),
            Compression::Estargz { level } => format!("estargz-{level}"),
        };
        PackParams { compression, epoch: self.epoch, toc: None }
    }
}

impl<'a> Layers<'a> {
    /// Starts with the layers of the base images.
    pub fn new(
        store: &'a Store,
        threads: usize,
        bases: impl IntoIterator<Item = BaseLayer>,
        wanted: &BTreeSet<BlobForm>,
    ) -> Layers<'a> {
        let mut forms: Vec<BlobForm> = wanted.iter().copied().collect();
        for compression in
            [Compression::GZIP, Compression::ZSTD, Compression::None, Compression::ESTARGZ]
        {
            let plain = BlobForm { compression, epoch: None, force: false };
            if !forms.contains(&plain) {
                forms.push(plain);
            }
        }
        let bases =
            bases.into_iter().map(|base| (LayerId::from_diff_id(base.diff_id), base)).collect();
        Layers {
            store,
            threads,
            bases,
            origins: Mutex::default(),
            locks: Mutex::default(),
            blob_locks: Mutex::default(),
            remotes: Mutex::default(),
            implied: Mutex::default(),
            session: OnceLock::new(),
            forms,
            filing: OnceLock::new(),
        }
    }

    /// Takes the session in which directories are made and steps run.
    pub fn set_session(&self, session: Session) {
        // Set once, before any thread starts; a second session would be a fault of the caller.
        let _ = self.session.set(Arc::new(session));
    }

    /// Gives the session, when one was entered.
    pub fn session(&self) -> Option<&Session> {
        self.session.get().map(Arc::as_ref)
    }

    /// Gives the session to somebody who may outlive this.
    pub fn shared_session(&self) -> Option<Arc<Session>> {
        self.session.get().cloned()
    }

    /// Gives the base layer of that name.
    pub fn base(&self, id: &LayerId) -> Option<&BaseLayer> {
        self.bases.get(id)
    }

    /// Remembers where the files of a layer can be read.
    pub fn set_files(&self, id: &LayerId, files: Arc<dyn Files>) {
        lock(&self.origins).insert(id.clone(), files);
    }

    /// Remembers that a cache has the layer.
    pub fn offer(&self, id: &LayerId, remote: Remote) {
        lock(&self.remotes).entry(id.clone()).or_insert(remote);
    }

    /// Forgets that a cache has the layer.
    pub fn withdraw(&self, id: &LayerId) {
        lock(&self.remotes).remove(id);
    }

    /// Says whether a cache has the layer and this machine does not.
    pub fn is_remote(&self, id: &LayerId) -> bool {
        lock(&self.remotes).contains_key(id) && !self.is_here(id)
    }

    /// Says whether only the directory of the layer is there, which only a session can read.
    pub fn is_directory_only(&self, id: &LayerId) -> bool {
        self.store.trees().path(id).is_some() && self.blob_path(id).is_none()
    }

    fn is_here(&self, id: &LayerId) -> bool {
        self.blob_path(id).is_some() || self.is_complete(id) || lock(&self.origins).contains_key(id)
    }

    /// Fetches a layer from the cache that has it, unless it is here. What is not as the cache says
    /// is not taken into the store; the failure then names the layer.
    fn bring(&self, id: &LayerId) -> Result<(), Failure> {
        let Some(remote) = lock(&self.remotes).get(id).cloned() else { return Ok(()) };
        if self.is_here(id) {
            return Ok(());
        }
        let own = lock(&self.blob_locks).entry(id.clone()).or_default().clone();
        let _guard = lock(&own);
        if self.is_here(id) {
            return Ok(());
        }
        let known = self.store.blobs().contains(&remote.descriptor.digest);
        self.take_in(id, &remote).map_err(|mut failure| {
            if !known {
                // Nothing leads to it; the pruner would remove it some day.
                let _ = std::fs::remove_file(self.store.blobs().path(&remote.descriptor.digest));
            }
            // A full disk and the like are no fault of the cache.
            if failure.hints.is_empty() {
                failure.layer = Some(id.clone());
            }
            failure
        })
    }

    fn take_in(&self, id: &LayerId, remote: &Remote) -> Result<(), Failure> {
        let place = remote.shelf.describe();
        let wrong = |error: &(dyn std::error::Error + 'static)| {
            Failure::of(
                Kind::Network,
                &format!("cannot take layer {id} from the cache {place}"),
                error,
            )
        };
        let blob = &remote.descriptor;
        if !self.store.blobs().contains_sized(&blob.digest, blob.size) {
            let mut writer = self.store.blobs().writer().map_err(|error| wrong(&error))?;
            remote.shelf.blob(blob).map_err(|error| wrong(&error)).and_then(|mut reader| {
                std::io::copy(&mut reader, &mut writer).map_err(|error| wrong(&error))
            })?;
            writer.commit(Some((blob.digest, blob.size))).map_err(|error| wrong(&error))?;
        }
        let (toc, diff_id) =
            self.read_tar(id, &self.store.blobs().path(&blob.digest), hash_file)?;
        let lies = |what: &str| {
            Failure::new(
                Kind::Network,
                format!("layer {id} of the cache {place} is not what its entry says: {what}"),
            )
        };
        if diff_id != remote.diff_id {
            return Err(lies(&format!("diff id {diff_id} instead of {}", remote.diff_id)));
        }
        if id.as_str().starts_with("c-") {
            let digest = match remote.params.epoch {
                Some(_) => toc.digest(),
                None => toc.digest_without_mtimes(),
            };
            if LayerId::from_toc_digest(digest) != *id {
                return Err(lies("it holds other files"));
            }
        }
        let failed = |error: crate::store::Error| {
            Failure::of(Kind::Store, "cannot keep a layer of a cache", &error)
        };
        self.save_toc(id, toc)?;
        let record = PackRecord {
            diff_id,
            digest: blob.digest,
            size: blob.size,
            media_type: blob.media_type.clone(),
            diff_size: remote.diff_size,
            annotations: about_bytes(blob),
        };
        self.store.packs().put(id, &remote.params, &record).map_err(failed)?;
        self.store.packs().put(id, &as_fetched(), &record).map_err(failed)?;
        let mut step = StepRecord {
            layer: Some(id.clone()),
            created: remote.created,
            extra: remote.extra.clone(),
            ..StepRecord::default()
        };
        if let Some(epoch) = remote.params.epoch {
            step.extra.insert(EPOCH.to_owned(), epoch.into());
        }
        self.store.steps().put(&remote.key, &step).map_err(failed)
    }

    /// Says whether the layer can be had without running anything.
    pub fn usable(&self, id: &LayerId) -> bool {
        self.bases.contains_key(id)
            || lock(&self.remotes).contains_key(id)
            || self.blob_path(id).is_some()
            || self.store.trees().path(id).is_some()
            || lock(&self.origins).contains_key(id)
    }

    /// Says whether the layer is there as a directory with its table of contents.
    pub fn is_complete(&self, id: &LayerId) -> bool {
        self.store.trees().path(id).is_some() && matches!(self.load_toc(id), Ok(Some(_)))
    }

    /// Says whether the blob is there in the form that an output wants.
    pub fn has_blob(&self, id: &LayerId, form: BlobForm) -> bool {
        self.bases.contains_key(id) || self.store.packs().get(id, &form.params()).is_some()
    }

    /// Forgets in which blobs a layer was packed by earlier builds: its contents are new. (This
    /// build packs a layer once, and after it was made.)
    pub fn forget_blobs(&self, id: &LayerId) {
        self.filing.get_or_init(|| self.store.packs().filing()).forget(id);
    }

    fn blob_path(&self, id: &LayerId) -> Option<PathBuf> {
        let digest = match self.bases.get(id) {
            Some(base) => base.descriptor.digest,
            None => {
                self.forms
                    .iter()
                    .map(BlobForm::params)
                    .chain([as_fetched()])
                    .find_map(|params| self.store.packs().get(id, &params))?
                    .digest
            }
        };
        self.store.blobs().contains(&digest).then(|| self.store.blobs().path(&digest))
    }

    fn own_lock(&self, id: &LayerId) -> Arc<Mutex<()>> {
        lock(&self.locks).entry(id.clone()).or_default().clone()
    }

    /// Gives the table of contents.
    pub fn toc(&self, id: &LayerId) -> Result<Arc<Toc>, Failure> {
        if let Some(toc) = self.load_toc(id)? {
            return Ok(toc);
        }
        self.bring(id)?;
        let own = self.own_lock(id);
        let _guard = lock(&own);
        if let Some(toc) = self.load_toc(id)? {
            return Ok(toc);
        }
        let path = self.blob_path(id).ok_or_else(|| lost(id))?;
        let toc = self.read_blob(id, &path, hash_file)?;
        self.save_toc(id, toc)
    }

    fn load_toc(&self, id: &LayerId) -> Result<Option<Arc<Toc>>, Failure> {
        self.store.tocs().load(id).map_err(|error| Failure::of(Kind::Store, "", &error))
    }

    /// Gives the directories that a layer holds without listing them.
    pub fn implied_dirs(&self, id: &LayerId) -> Result<Arc<Vec<RootPath>>, Failure> {
        if let Some(known) = lock(&self.implied).get(id) {
            return Ok(known.clone());
        }
        let toc = self.toc(id)?;
        let dirs = toc.implicit_dirs().into_iter().map(RootPath::clean).collect();
        let dirs: Arc<Vec<RootPath>> = Arc::new(dirs);
        lock(&self.implied).insert(id.clone(), dirs.clone());
        Ok(dirs)
    }

    /// Puts a table of contents into the store.
    pub fn save_toc(&self, id: &LayerId, toc: Toc) -> Result<Arc<Toc>, Failure> {
        let toc = Arc::new(toc);
        self.store
            .tocs()
            .save(id, &toc)
            .map_err(|error| Failure::of(Kind::Store, "cannot save a table of contents", &error))?;
        Ok(toc)
    }

    /// Reads a layer's blob entry by entry, and checks the digest of its tar.
    fn read_blob(
        &self,
        id: &LayerId,
        path: &Path,
        each: impl FnMut(&mut crate::layer::Entry, &mut dyn Read) -> std::io::Result<()>,
    ) -> Result<Toc, Failure> {
        let (toc, found) = self.read_tar(id, path, each)?;
        match self.bases.get(id) {
            Some(base) if found != base.diff_id => Err(Failure::new(
                Kind::Store,
                format!(
                    "layer {} of the base image is not what its config says: diff id {found} \
                     instead of {}",
                    base.descriptor.digest, base.diff_id
                ),
            )),
            _ => Ok(toc),
        }
    }

    /// Reads a layer's blob entry by entry; gives the digest of its tar too.
    fn read_tar(
        &self,
        id: &LayerId,
        path: &Path,
        mut each: impl FnMut(&mut crate::layer::Entry, &mut dyn Read) -> std::io::Result<()>,
    ) -> Result<(Toc, DiffId), Failure> {
        let damaged = |error: &(dyn std::error::Error + 'static)| {
            Failure::of(Kind::Store, &format!("cannot read layer {id}"), error)
        };
        let mut file = std::fs::File::open(path).map_err(|error| damaged(&error))?;
        // What eStargz adds is no part of a layer. (In a base it is: so other engines see it.)
        let added = !self.bases.contains_key(id)
            && estargz::detect(&mut file).map_err(|error| damaged(&error))?;
        let decoder = Decoder::new(file).map_err(|error| damaged(&error))?;
        let mut reader = Reader::new(Tee::new(decoder));
        let mut builder = crate::layer::toc::TocBuilder::new();
        while let Some((mut entry, mut content)) =
            reader.next_entry().map_err(|error| damaged(&error))?
        {
            if added && estargz::is_reserved(entry.path.as_bytes()) {
                continue;
            }
            each(&mut entry, &mut content).map_err(|error| damaged(&error))?;
            builder.push(entry);
        }
        let mut tee = reader.finish().map_err(|error| damaged(&error))?;
        copy_into(&mut tee, |_| ()).map_err(|error| damaged(&error))?;
        Ok((builder.finish(), DiffId(tee.finish())))
    }

    /// Gives the merged view of a stack of layers.
    pub fn tree(&self, layers: &[LayerId]) -> Result<Tree, Failure> {
        let tocs = layers.iter().map(|id| self.toc(id)).collect::<Result<Vec<_>, _>>()?;
        Ok(Tree::new(tocs))
    }

    /// Gives something that opens the files of a layer, unless only its blob is there.
    pub fn files(&self, id: &LayerId) -> Option<Arc<dyn Files>> {
        if let Some(files) = lock(&self.origins).get(id) {
            return Some(files.clone());
        }
        // Directories may belong to other ids, which only the session can read.
        let path = self.store.trees().path(id)?;
        let readable = self.session.get().is_some() || self.blob_path(id).is_none();
        let opened = if readable { Directory::open(&path).ok() } else { None };
        opened.map(|dir| Arc::new(dir) as Arc<dyn Files>)
    }

    /// Gives something that opens the `wanted` files of a stack of layers. Of layers that are only
    /// blobs just these files are taken out.
    pub fn chain(
        &self,
        layers: &[LayerId],
        tree: &Tree,
        wanted: &mut dyn Iterator<Item = RootPath>,
    ) -> Result<Chain, Failure> {
        let mut found: Vec<Option<Arc<dyn Files>>> =
            layers.iter().map(|id| self.files(id)).collect();
        let mut missing: Vec<HashSet<RootPath>> = vec![HashSet::new(); layers.len()];
        if found.iter().any(Option::is_none) {
            for path in wanted {
                let Some(entry) = tree.lookup(&path) else { continue };
                if found[entry.layer].is_none() {
                    let real = entry.target().entry.root_path();
                    missing[entry.layer].insert(real);
                }
            }
        }
        for (index, id) in layers.iter().enumerate() {
            if found[index].is_none() {
                let spool = self.spool(id, &missing[index])?;
                found[index] = Some(Arc::new(spool));
            }
        }
        Ok(Chain { tree: tree.clone(), layers: found.into_iter().flatten().collect() })
    }

    /// Takes some files out of a blob.
    fn spool(&self, id: &LayerId, wanted: &HashSet<RootPath>) -> Result<Spool, Failure> {
        let dir = self.store.tmp().path().map_err(|error| Failure::of(Kind::Store, "", &error))?;
        let io = |error: std::io::Error| {
            Failure::of(Kind::Store, "cannot take files out of a layer", &error)
        };
        let mut writer = SpoolWriter::new(&dir).map_err(io)?;
        if !wanted.is_empty() {
            self.bring(id)?;
            let path = self.blob_path(id).ok_or_else(|| lost(id))?;
            self.read_blob(id, &path, |entry, content| {
                if matches!(entry.kind, crate::layer::Kind::File { .. })
                    && wanted.contains(&entry.path)
                {
                    writer.add(entry.path.clone(), content)?;
                }
                Ok(())
            })?;
        }
        writer.finish().map_err(io)
    }

    /// Reads a small file out of a stack of layers; None when there is none.
    pub fn read(
        &self,
        layers: &[LayerId],
        tree: &Tree,
        path: &str,
    ) -> Result<Option<Vec<u8>>, Failure> {
        let path = RootPath::from(path);
        let Ok(path) = tree.resolve(&path, true) else { return Ok(None) };
        let is_file = tree
            .lookup(&path)
            .is_some_and(|found| matches!(found.target().entry.kind, KindRef::File { .. }));
        if !is_file {
            return Ok(None);
        }
        let chain = self.chain(layers, tree, &mut std::iter::once(path.clone()))?;
        let mut bytes = Vec::new();
        chain
            .open(&path)
            .and_then(|file| file.take(1 << 24).read_to_end(&mut bytes))
            .map_err(|error| Failure::of(Kind::Store, &format!("cannot read {path}"), &error))?;
        Ok(Some(bytes))
    }

    /// Gives the directory of a layer, which is made when it is missing.
    pub fn directory(&self, id: &LayerId) -> Result<PathBuf, Failure> {
        if let Some(path) = self.store.trees().path(id) {
            return Ok(path);
        }
        self.bring(id)?;
        let own = self.own_lock(id);
        let _guard = lock(&own);
        if let Some(path) = self.store.trees().path(id) {
            return Ok(path);
        }
        let store = |error: &(dyn std::error::Error + 'static)| {
            Failure::of(Kind::Store, &format!("cannot unpack layer {id}"), error)
        };
        let session = self.session.get().ok_or_else(|| {
            Failure::new(Kind::Host, "a directory is needed, but no user namespace was entered")
        })?;
        let staging = self.store.trees().staging().map_err(|error| store(&error))?;
        let mut writer = crate::snapshot::TreeWriter::new(staging.path(), session.id_map())
            .map_err(|error| store(&error))?;
        let origin = lock(&self.origins).get(id).cloned();
        if let Some(files) = origin {
            let toc = self.toc(id)?;
            for entry in toc.iter() {
                let owned = entry.to_entry();
                let mut content: Box<dyn Read> = match entry.kind {
                    KindRef::File { size, .. } if size > 0 => {
                        files.open(&owned.path).map_err(|error| store(&error))?
                    }
                    _ => Box::new(std::io::empty()),
                };
                writer.entry(&owned, &mut content).map_err(|error| store(&error))?;
            }
        } else {
            let path = self.blob_path(id).ok_or_else(|| lost(id))?;
            let toc = self.read_blob(id, &path, |entry, content| {
                let found = writer.entry(entry, content).map_err(std::io::Error::other)?;
                if let crate::layer::Kind::File { digest, .. } = &mut entry.kind {
                    *digest = found;
                }
                Ok(())
            })?;
            if self.load_toc(id)?.is_none() {
                self.save_toc(id, toc)?;
            }
        }
        writer.finish().map_err(|error| store(&error))?;
        self.store.trees().install(staging.path(), id).map_err(|error| store(&error))
    }

    /// Gives the blob of a layer in the form that an output wants.
    pub fn blob(&self, id: &LayerId, form: BlobForm) -> Result<PackRecord, Failure> {
        if let Some(base) = self.bases.get(id) {
            let own = media_type::layer_compression(&base.descriptor.media_type);
            let wanted = media_type::layer_compression(form.compression.media_type());
            let estargz = matches!(form.compression, Compression::Estargz { .. });
            let fits = own == wanted && (!estargz || estargz::is_estargz(&base.descriptor));
            if form.force && !fits {
                return self.recompressed(id, base, form);
            }
            return Ok(PackRecord {
                diff_id: base.diff_id,
                digest: base.descriptor.digest,
                size: base.descriptor.size,
                media_type: base.descriptor.media_type.clone(),
                diff_size: 0,
                annotations: about_bytes(&base.descriptor),
            });
        }
        let params = form.params();
        if let Some(record) = self.store.packs().get(id, &params) {
            return Ok(record);
        }
        let failed = |error: &(dyn std::error::Error + 'static)| {
            Failure::of(Kind::Store, &format!("cannot pack layer {id}"), error)
        };
        self.bring(id)?;
        let own = lock(&self.blob_locks).entry(id.clone()).or_default().clone();
        let _guard = lock(&own);
        if let Some(record) = self.store.packs().get(id, &params) {
            return Ok(record);
        }
        let toc = self.toc(id)?;
        let files = match self.files(id) {
            Some(files) => files,
            None => {
                let wanted: HashSet<RootPath> = toc
                    .iter()
                    .filter(|entry| matches!(entry.kind, KindRef::File { .. }))
                    .map(|entry| entry.root_path())
                    .collect();
                Arc::new(self.spool(id, &wanted)?)
            }
        };
        let options =
            PackOptions { compression: form.compression, threads: self.threads, epoch: form.epoch };
        let mut writer = self.store.blobs().unhashed_writer().map_err(|error| failed(&error))?;
        let mut open =
            |entry: &EntryRef<'_>| files.open(&entry.root_path()).map(|file| file as Box<dyn Read>);
        let packed = pack(&toc, &mut open, options, &mut writer).map_err(|error| failed(&error))?;
        writer.commit_as(packed.digest).map_err(|error| failed(&error))?;
        let record = PackRecord {
            diff_id: packed.diff_id,
            digest: packed.digest,
            size: packed.size,
            media_type: form.compression.media_type().to_owned(),
            diff_size: packed.diff_size,
            annotations: packed.annotations(),
        };
        self.store.packs().put(id, &params, &record).map_err(|error| failed(&error))?;
        Ok(record)
    }
}

impl Layers<'_> {
    /// Packs the blob of a base layer anew: the same tar in another compression, or as eStargz, which is
    /// another tar.
    fn recompressed(
        &self,
        id: &LayerId,
        base: &BaseLayer,
        form: BlobForm,
    ) -> Result<PackRecord, Failure> {
        // The times of a base are not ours to clamp.
        let params = BlobForm { epoch: None, ..form }.params();
        if let Some(record) = self.store.packs().get(id, &params) {
            return Ok(record);
        }
        let failed = |error: &(dyn std::error::Error + 'static)| {
            let what = format!("cannot pack layer {} of the base anew", base.descriptor.digest);
            Failure::of(Kind::Store, &what, error)
        };
        let file =
            self.store.blobs().open(&base.descriptor.digest).map_err(|error| failed(&error))?;
        let mut tar = Tee::new(Decoder::new(file).map_err(|error| failed(&error))?);
        let check = |diff_id: DiffId| match diff_id == base.diff_id {
            true => Ok(()),
            false => Err(Failure::new(
                Kind::Store,
                format!(
                    "layer {} of the base image is not what its config says: diff id {diff_id} \
                     instead of {}",
                    base.descriptor.digest, base.diff_id
                ),
            )),
        };
        let media_type = form.compression.media_type().to_owned();
        let record = if let Compression::Estargz { .. } = form.compression {
            let mut writer =
                self.store.blobs().unhashed_writer().map_err(|error| failed(&error))?;
            let options =
                PackOptions { compression: form.compression, threads: self.threads, epoch: None };
            let packed = estargz::convert(&mut tar, options, &mut writer);
            let packed = packed.map_err(|error| failed(&error))?;
            check(DiffId(tar.finish()))?;
            writer.commit_as(packed.digest).map_err(|error| failed(&error))?;
            let annotations = packed.annotations();
            let Packed { diff_id, digest, size, diff_size, .. } = packed;
            PackRecord { diff_id, digest, size, media_type, diff_size, annotations }
        } else {
            let writer = self.store.blobs().writer().map_err(|error| failed(&error))?;
            let mut encoder = Encoder::new(writer, form.compression, self.threads);
            let diff_size =
                std::io::copy(&mut tar, &mut encoder).map_err(|error| failed(&error))?;
            let diff_id = DiffId(tar.finish());
            check(diff_id)?;
            let writer = encoder.finish().map_err(|error| failed(&error))?;
            let (digest, size) = writer.commit(None).map_err(|error| failed(&error))?;
            let annotations = BTreeMap::new();
            PackRecord { diff_id, digest, size, media_type, diff_size, annotations }
        };
        self.store.packs().put(id, &params, &record).map_err(|error| failed(&error))?;
        Ok(record)
    }
}

/// The key of [`StepRecord::extra`] that holds the epoch to which a fetched layer was clamped.
pub(super) const EPOCH: &str = "epoch";

/// Gives what a layer's annotations say about its compressed bytes.
fn about_bytes(layer: &Descriptor) -> BTreeMap<String, String> {
    let annotations = layer.annotations.iter().filter(|(key, _)| media_type::is_about_bytes(key));
    annotations.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Under which a layer's blob is recorded as a cache had it, besides its own parameters.
fn as_fetched() -> PackParams {
    PackParams { compression: "as-fetched".to_owned(), ..PackParams::default() }
}

/// Fills in the digest of an entry's content.
fn hash_file(entry: &mut crate::layer::Entry, content: &mut dyn Read) -> std::io::Result<()> {
    if let crate::layer::Kind::File { digest, .. } = &mut entry.kind {
        let mut hasher = crate::oci::digest::Hasher::new();
        copy_into(content, |bytes| hasher.update(bytes))?;
        *digest = Some(hasher.finish());
    }
    Ok(())
}

fn lost(id: &LayerId) -> Failure {
    Failure::new(Kind::Store, format!("the bytes of layer {id} are gone from the store"))
        .with_hint("build again: the step that made it will run anew")
}

/// Locks, even when a thread died while it held the lock: what these guard is only ever complete.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Reads to the end in large pieces.
fn copy_into(input: &mut dyn Read, mut each: impl FnMut(&[u8])) -> std::io::Result<u64> {
    let mut buffer = vec![0; 128 << 10];
    let mut total = 0;
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(len) => {
                total += len as u64;
                each(&buffer[..len]);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Digests what passes through.
struct Tee<R> {
    inner: R,
    hasher: crate::oci::digest::Hasher,
}

impl<R> Tee<R> {
    fn new(inner: R) -> Tee<R> {
        Tee { inner, hasher: Default::default() }
    }

    fn finish(self) -> crate::oci::Digest {
        self.hasher.finish()
    }
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..len]);
        Ok(len)
    }
}
