//! Finds base images and named contexts: planning's questions, answered.
//!
//! A name is looked up as named context, then (by planning) as stage, then in the store, then at
//! its registry, as `--pull` and `--offline` allow. Each name is resolved to one digest a build, so
//! that all platforms come from the same index even when the tag moves meanwhile.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::graph::{BaseImage, ResolveError, ResolveExit, Resolved, Resolver};
use crate::oci::{
    Descriptor, Digest, ImageConfig, Index, Manifest, Platform, Reference, media_type,
};
use crate::store::Store;
use crate::transport::Client;
use crate::transport::{self, ImageName, Source};

use super::BaseSource;
use super::error::chain;

/// `--pull`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pull {
    /// Ask a registry only for what the store lacks.
    #[default]
    Missing,
    /// Always ask.
    Always,
    /// Never ask.
    Never,
    /// Ask, and take the store's when the registry can't be reached.
    Newer,
}

/// One `--build-context`.
#[derive(Debug, Clone)]
pub struct Named {
    /// Lower case.
    pub name: String,
    /// Only for this platform.
    pub platform: Option<Platform>,
    /// A directory (by the name under which the build knows it) or an image.
    pub source: NamedSource,
}

/// What a named context is.
#[derive(Debug, Clone)]
pub enum NamedSource {
    /// A local directory.
    Directory(String),
    /// An image, as `oci-layout://…` or `docker-image://…`.
    Image(String),
    /// What a target of a bake file makes, where nothing is built: it can't be looked at.
    Target(String),
}

type Root = (Arc<dyn Source>, Descriptor, Vec<u8>);

/// Resolves names for one build.
pub struct Bases<'a> {
    /// The store.
    pub store: &'a Store,
    /// The registries; refuses to connect when offline.
    pub client: Arc<Client>,
    /// `--pull`.
    pub pull: Pull,
    /// `--offline`.
    pub offline: bool,
    /// `--build-context`.
    pub contexts: Vec<Named>,
    /// What relative paths in image names start from.
    pub cwd: PathBuf,
    /// Everything that was resolved, by handle.
    pub sources: Vec<BaseSource>,
    roots: HashMap<String, Root>,
    /// What short names turned out to be.
    short_names: HashMap<String, Reference>,
    /// Roots of registries whose names the store does not have yet: a name is kept when what it
    /// leads to was found to be an image.
    unnamed: RefCell<HashMap<Digest, Reference>>,
}

impl<'a> Bases<'a> {
    /// Starts with nothing resolved.
    pub fn new(store: &'a Store, client: Arc<Client>, cwd: PathBuf) -> Bases<'a> {
        Bases {
            store,
            client,
            pull: Pull::default(),
            offline: false,
            contexts: Vec::new(),
            cwd,
            sources: Vec::new(),
            roots: HashMap::new(),
            short_names: HashMap::new(),
            unnamed: RefCell::default(),
        }
    }

    /// Opens what a name stands for, once.
    fn root(&mut self, name: &str) -> Result<Root, ResolveError> {
        if let Some(root) = self.roots.get(name) {
            return Ok(root.clone());
        }
        let root = self.open(name)?;
        self.roots.insert(name.to_owned(), root.clone());
        Ok(root)
    }

    fn open(&mut self, name: &str) -> Result<Root, ResolveError> {
        let parsed = ImageName::parse(name).map_err(|error| ResolveError {
            message: chain(&error),
            hint: None,
            exit: ResolveExit::Usage,
        })?;
        match parsed {
            ImageName::Store(reference) => {
                let short = match self.client.short_name(name) {
                    Ok(None) => return self.by_reference(&reference),
                    Ok(Some(short)) => Ok(short),
                    Err(error) => Err(chain(&error)),
                };
                // What the store has goes first: it may be of this user's own making.
                if let Some(root) = self.local(&reference) {
                    return Ok(root);
                }
                match short {
                    Ok(short) => {
                        let origin = short.origin.display().to_string();
                        self.by_short_name(name, &short.candidates, &origin)
                    }
                    Err(message) => {
                        Err(ResolveError { message, hint: None, exit: ResolveExit::Usage })
                    }
                }
            }
            ImageName::Registry(reference) => self.remote(&reference),
            local => {
                let local = local.relative_to(&self.cwd);
                let source = transport::open_source(&local, self.store, &self.client)
                    .map_err(|error| failed(&error, None))?;
                rooted(Arc::from(source))
            }
        }
    }

    /// Opens an image of the store, unless its registry must be asked.
    fn local(&self, reference: &Reference) -> Option<Root> {
        let first = self.offline || matches!(self.pull, Pull::Missing | Pull::Never);
        first.then(|| self.stored(&reference.clone().with_default_tag())).flatten()
    }

    /// Opens what configuration (`origin`) makes of a short name.
    fn by_short_name(
        &mut self,
        name: &str,
        candidates: &[Reference],
        origin: &str,
    ) -> Result<Root, ResolveError> {
        let mut last = None;
        let mut messages = Vec::new();
        for candidate in candidates {
            match self.by_reference(candidate) {
                Ok(root) => {
                    self.short_names.insert(name.to_owned(), candidate.clone());
                    return Ok(root);
                }
                Err(error) => {
                    messages.push(format!("{candidate}: {}", error.message));
                    last = Some(error);
                }
            }
        }
        let (hint, exit) = last.map_or((None, ResolveExit::Usage), |last| (last.hint, last.exit));
        let message = format!("{} (short name in {origin})", messages.join("; "));
        Err(ResolveError { message, hint, exit })
    }

    fn by_reference(&self, reference: &Reference) -> Result<Root, ResolveError> {
        let reference = reference.clone().with_default_tag();
        let stored = || self.stored(&reference);
        let never = self.offline || self.pull == Pull::Never;
        match (never, self.pull) {
            (true, _) => stored().ok_or_else(|| {
                let flag = if self.offline { "--offline" } else { "--pull=never" };
                ResolveError {
                    message: format!("not in the store, and {flag} forbids to ask its registry"),
                    hint: Some(format!(
                        "bring it in beforehand, as a layout: FROM oci:DIR or --build-context {}=oci-layout://DIR",
                        reference.familiar()
                    )),
                    exit: ResolveExit::Usage,
                }
            }),
            (false, Pull::Missing | Pull::Never) => match stored() {
                Some(root) => Ok(root),
                None => self.remote(&reference),
            },
            (false, Pull::Always) => self.remote(&reference),
            (false, Pull::Newer) => match (self.remote(&reference), stored()) {
                (Ok(root), _) | (Err(_), Some(root)) => Ok(root),
                (Err(error), None) => Err(error),
            },
        }
    }

    /// Opens an image of the store. What of it was never fetched (other platforms, layers that no
    /// build needed) comes from its registry, by digest, where that may be asked.
    fn stored(&self, reference: &Reference) -> Option<Root> {
        let stored = transport::store_source(self.store, reference)?;
        let ask = !self.offline && self.pull != Pull::Never;
        let registry = ask.then(|| transport::registry_source(&self.client, reference));
        rooted(Arc::new(Backed { stored, registry })).ok()
    }

    fn remote(&self, reference: &Reference) -> Result<Root, ResolveError> {
        let reference = reference.clone().with_default_tag();
        if self.offline {
            return Err(ResolveError {
                message: format!("--offline forbids to ask {}", reference.registry),
                hint: Some("take the image from a layout: FROM oci:DIR:TAG".to_owned()),
                exit: ResolveExit::Usage,
            });
        }
        let source = transport::registry_source(&self.client, &reference);
        let root = source.root().map_err(|error| failed(&error, Some(&reference)))?;
        self.store.blobs().put(&root.1).map_err(unusable)?;
        self.unnamed.borrow_mut().insert(root.0.digest, reference);
        Ok((Arc::from(source), root.0, root.1))
    }

    /// Resolves one image for one platform.
    fn resolve(&mut self, name: &str, platform: &Platform) -> Result<BaseImage, ResolveError> {
        let (source, root, bytes) = self.root(name)?;
        let damaged = |what: &str, error: serde_json::Error| ResolveError {
            message: format!("its {what} can't be read: {error}"),
            hint: None,
            exit: ResolveExit::Damaged,
        };
        let named = root.clone();
        let (descriptor, bytes) = if media_type::is_index(&root.media_type) {
            let index: Index =
                serde_json::from_slice(&bytes).map_err(|error| damaged("index", error))?;
            let chosen = transport::select_platform(source.as_ref(), &index, platform)
                .map_err(|error| failed(&error, None))?;
            let bytes = source.manifest(&chosen).map_err(|error| failed(&error, None))?;
            (chosen, bytes)
        } else {
            (root, bytes)
        };
        let manifest: Manifest =
            serde_json::from_slice(&bytes).map_err(|error| damaged("manifest", error))?;
        let config = self.config(source.as_ref(), &manifest.config)?;
        let parsed: ImageConfig =
            serde_json::from_slice(&config).map_err(|error| damaged("config", error))?;
        self.store.blobs().put(&config).map_err(unusable)?;
        self.store.blobs().put(&bytes).map_err(unusable)?;
        if let Some(reference) = self.unnamed.get_mut().remove(&named.digest) {
            // Later builds with --pull=missing find it there, and fetch only what they lack.
            let name = (reference.to_string(), named);
            self.store.images().set(&[name]).map_err(unusable)?;
        }
        let own = Platform {
            os: parsed.os.clone(),
            architecture: parsed.architecture.clone(),
            variant: parsed.variant.clone(),
            os_version: parsed.os_version.clone(),
            os_features: parsed.os_features.clone(),
        };
        let handle = self.sources.len();
        self.sources.push(BaseSource { source, manifest });
        Ok(BaseImage {
            name: match self.short_names.get(name) {
                Some(reference) => shown(&reference.to_string(), &descriptor.digest),
                None => shown(name, &descriptor.digest),
            },
            handle,
            platform: own,
            digest: descriptor.digest,
            config: parsed,
        })
    }

    fn config(
        &self,
        source: &dyn Source,
        descriptor: &Descriptor,
    ) -> Result<Vec<u8>, ResolveError> {
        // Larger configs exist nowhere; a limit keeps a hostile source from filling the memory.
        const LIMIT: u64 = 16 << 20;
        if let Ok(bytes) = self.store.blobs().read(&descriptor.digest, LIMIT) {
            return Ok(bytes);
        }
        let mut reader = source.blob(descriptor).map_err(|error| failed(&error, None))?;
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(&mut reader, LIMIT), &mut bytes)
            .map_err(|error| ResolveError {
                message: chain(&error),
                hint: None,
                exit: ResolveExit::Network,
            })?;
        if Digest::of(&bytes) != descriptor.digest {
            return Err(ResolveError {
                message: format!("its config is not what {} names", descriptor.digest),
                hint: None,
                exit: ResolveExit::Damaged,
            });
        }
        Ok(bytes)
    }
}

/// An image of the store of which parts may still be at its registry.
struct Backed {
    stored: Box<dyn Source>,
    registry: Option<Box<dyn Source>>,
}

impl Backed {
    fn either<T>(
        &self,
        read: impl Fn(&dyn Source) -> transport::Result<T>,
    ) -> transport::Result<T> {
        match (read(self.stored.as_ref()), &self.registry) {
            (Err(_), Some(registry)) => read(registry.as_ref()),
            (result, _) => result,
        }
    }
}

impl Source for Backed {
    fn root(&self) -> transport::Result<(Descriptor, Vec<u8>)> {
        self.stored.root()
    }

    fn manifest(&self, descriptor: &Descriptor) -> transport::Result<Vec<u8>> {
        self.either(|source| source.manifest(descriptor))
    }

    fn blob(&self, descriptor: &Descriptor) -> transport::Result<Box<dyn std::io::Read + Send>> {
        self.either(|source| source.blob(descriptor))
    }

    fn describe(&self) -> String {
        self.stored.describe()
    }
}

fn rooted(source: Arc<dyn Source>) -> Result<Root, ResolveError> {
    let (descriptor, bytes) = source.root().map_err(|error| failed(&error, None))?;
    Ok((source, descriptor, bytes))
}

/// Shows a name with the digest that it was resolved to.
fn shown(name: &str, digest: &Digest) -> String {
    match ImageName::parse(name) {
        Ok(ImageName::Store(reference) | ImageName::Registry(reference)) => {
            let mut reference = reference.with_default_tag();
            reference.digest = None;
            format!("{reference}@{digest}")
        }
        _ => format!("{name}@{digest}"),
    }
}

fn failed(error: &transport::Error, reference: Option<&Reference>) -> ResolveError {
    let exit = if error.is_usage() {
        ResolveExit::Usage
    } else if error.is_damage() {
        ResolveExit::Damaged
    } else {
        ResolveExit::Network
    };
    let hint = error.hint().or_else(|| {
        reference.filter(|_| exit == ResolveExit::Network).map(|reference| {
            format!(
                "check the name and the network; without network, take it from a layout: \
                 --build-context {}=oci-layout://DIR",
                reference.familiar()
            )
        })
    });
    ResolveError { message: chain(error), hint, exit }
}

impl Resolver for Bases<'_> {
    fn named_context(
        &mut self,
        name: &str,
        platform: &Platform,
    ) -> Result<Option<Resolved>, ResolveError> {
        if self.contexts.is_empty() {
            return Ok(None);
        }
        let lower = name.to_lowercase();
        let full = name.parse::<Reference>().ok().map(|name| name.with_default_tag().to_string());
        let same = |context: &&Named| {
            context.name == lower
                || full.is_some()
                    && context
                        .name
                        .parse::<Reference>()
                        .ok()
                        .map(|name| name.with_default_tag().to_string())
                        == full
        };
        let exact = self
            .contexts
            .iter()
            .filter(same)
            .rev()
            .find(|context| context.platform.as_ref() == Some(platform))
            .or_else(|| {
                self.contexts.iter().filter(same).rev().find(|context| context.platform.is_none())
            });
        let Some(context) = exact else { return Ok(None) };
        match context.source.clone() {
            NamedSource::Directory(name) => Ok(Some(Resolved::Directory(name))),
            NamedSource::Image(name) if name == "docker-image://scratch" => {
                Ok(Some(Resolved::Scratch))
            }
            NamedSource::Image(name) => {
                self.resolve(&name, platform).map(Box::new).map(Resolved::Image).map(Some)
            }
            NamedSource::Target(target) => Err(ResolveError {
                message: format!("the target {target:?} makes it"),
                hint: None,
                exit: ResolveExit::Usage,
            }),
        }
    }

    fn image(&mut self, name: &str, platform: &Platform) -> Result<BaseImage, ResolveError> {
        self.resolve(name, platform)
    }
}

/// Says whether a `--build-context` source is an image (and not a directory).
pub fn is_image(source: &str) -> bool {
    ["oci-layout://", "docker-image://", "oci:", "oci-archive:", "docker-archive:", "docker://"]
        .iter()
        .any(|scheme| source.starts_with(scheme))
}

/// Makes a path absolute.
pub fn absolute(cwd: &Path, path: &str) -> PathBuf {
    cwd.join(path)
}

/// Tells of a store that cannot be written.
fn unusable(error: crate::store::Error) -> ResolveError {
    ResolveError { message: chain(&error), hint: None, exit: ResolveExit::Damaged }
}
