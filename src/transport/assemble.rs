//! A source that is an index of images from several sources.
//!
//! [`Assembly`] collects entries, checks what is claimed of them against their configs, and becomes
//! an [`Assembled`] source. The manifests are passed through from where they lie; only the index is
//! made here. A source that is an index itself gives its entries, attestations included.
//!
//! Nothing here contacts anybody by itself: what is asked are the sources.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::{Error, Result};
use super::filter::{REFERENCE_DIGEST, config_platform};
use super::{Source, children};
use crate::oci::{
    Descriptor, Digest, Document, Index, Platform, PlatformError, Reference, media_type,
};

/// What is said of an entry beside what its config says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claim {
    /// The operating system.
    pub os: Option<String>,
    /// The architecture.
    pub architecture: Option<String>,
    /// The variant; empty takes it away.
    pub variant: Option<String>,
    /// The version of the operating system; empty takes it away.
    pub os_version: Option<String>,
    /// Features of the operating system, instead of those that are there.
    pub os_features: Option<Vec<String>>,
    /// Annotations of the entry; an empty value takes one away.
    pub annotations: BTreeMap<String, String>,
}

/// An index in the making.
#[derive(Default)]
pub struct Assembly {
    sources: Vec<Arc<dyn Source>>,
    entries: Vec<(Descriptor, usize)>,
    /// The index that it began with, for all that is not entries.
    base: Option<Index>,
    /// What configs say, so that each is read once.
    configs: BTreeMap<Digest, Platform>,
    /// Annotations of the index itself.
    pub annotations: BTreeMap<String, String>,
}

/// What happens to an entry of the same platform that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Same {
    /// It is an error, unless it is the same image.
    Refuse,
    /// The new one takes its place.
    Replace,
}

/// The index as a source.
pub struct Assembled {
    sources: Vec<Arc<dyn Source>>,
    root: Descriptor,
    bytes: Vec<u8>,
    /// Which source has a digest.
    routes: Mutex<HashMap<Digest, usize>>,
}

impl Claim {
    /// Tells whether it says anything of the platform.
    pub fn is_platform(&self) -> bool {
        self.os.is_some()
            || self.architecture.is_some()
            || self.variant.is_some()
            || self.os_version.is_some()
            || self.os_features.is_some()
    }

    /// Takes over all of a platform.
    pub fn set_platform(&mut self, text: &str) -> Result<(), PlatformError> {
        let platform: Platform = text.parse()?;
        self.os = Some(platform.os);
        self.architecture = Some(platform.architecture);
        self.variant = Some(platform.variant.unwrap_or_default());
        if platform.os_version.is_some() {
            self.os_version = platform.os_version;
        }
        if !platform.os_features.is_empty() {
            self.os_features = Some(platform.os_features);
        }
        Ok(())
    }

    fn apply(&self, own: &Platform) -> Platform {
        let mut out = own.clone();
        let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        if let Some(os) = &self.os {
            out.os = os.clone();
        }
        if let Some(architecture) = &self.architecture {
            out.architecture = architecture.clone();
            // The variant is one of the other architecture.
            if *architecture != own.architecture {
                out.variant = None;
            }
        }
        if let Some(variant) = &self.variant {
            out.variant = given(variant);
        }
        if let Some(version) = &self.os_version {
            out.os_version = given(version);
        }
        if let Some(features) = &self.os_features {
            out.os_features = features.clone();
        }
        out.normalized()
    }

    fn annotate(&self, annotations: &mut BTreeMap<String, String>) {
        for (key, value) in &self.annotations {
            if value.is_empty() {
                annotations.remove(key);
            } else {
                annotations.insert(key.clone(), value.clone());
            }
        }
    }
}

impl Assembly {
    /// Begins with an image that is there; one without index is the first entry.
    pub fn from_existing(source: Arc<dyn Source>) -> Result<Assembly> {
        let mut out = Assembly::default();
        let (root, bytes) = source.root()?;
        if let Document::Index(index) = parse(source.as_ref(), &root, &bytes)? {
            out.annotations = index.annotations.clone();
            out.sources.push(Arc::clone(&source));
            // As they are: what is not touched keeps its bytes.
            out.entries = index.manifests.iter().map(|entry| (entry.clone(), 0)).collect();
            out.base = Some(index);
            return Ok(out);
        }
        out.add(source, &Claim::default(), Same::Refuse, false)?;
        Ok(out)
    }

    /// Adds all images of a source. `claim` may say what the config does not say; what it says
    /// otherwise is refused without `force`. Gives the platforms that were added.
    pub fn add(
        &mut self,
        source: Arc<dyn Source>,
        claim: &Claim,
        same: Same,
        force: bool,
    ) -> Result<Vec<Platform>> {
        let (root, bytes) = source.root()?;
        let place = source.describe();
        let images = match parse(source.as_ref(), &root, &bytes)? {
            Document::Manifest(manifest) => {
                if !manifest.is_image() {
                    return Err(Error::NotAnImage { place, what: root.digest.to_string() });
                }
                let own = config_platform(source.as_ref(), &manifest)?;
                self.configs.insert(root.digest, own.clone());
                vec![Descriptor { annotations: BTreeMap::new(), ..root }.with_platform(own)]
            }
            Document::Index(index) => {
                let images = children(source.as_ref(), &index)?;
                if images.is_empty() {
                    return Err(Error::Empty { place });
                }
                if images.len() > 1 && claim.is_platform() {
                    return Err(Error::Unsupported {
                        form: "an entry with a platform of its own",
                        what: format!("{place}, which has {} platforms", images.len()),
                        instead: "leave the platform out, or name one image by its digest",
                    });
                }
                let attestations = index.manifests.iter().filter(|entry| {
                    entry.is_attestation() && entry.annotations.contains_key(REFERENCE_DIGEST)
                });
                images.iter().chain(attestations).cloned().collect()
            }
        };
        let at = self.sources.len();
        self.sources.push(Arc::clone(&source));
        let mut added = Vec::new();
        for mut entry in images {
            entry.data = None;
            if entry.is_attestation() {
                if !self.entries.iter().any(|(known, _)| known.digest == entry.digest) {
                    self.entries.push((entry, at));
                }
                continue;
            }
            claim.annotate(&mut entry.annotations);
            added.push(self.place(entry, at, claim, same, force)?);
        }
        Ok(added)
    }

    /// Puts one image where it belongs.
    fn place(
        &mut self,
        mut entry: Descriptor,
        at: usize,
        claim: &Claim,
        same: Same,
        force: bool,
    ) -> Result<Platform> {
        let own = entry.platform.clone().unwrap_or_else(|| Platform::linux("unknown", None));
        let platform = claim.apply(&own);
        // What an index says of its images is a claim too.
        self.check(at, &entry, &platform, force)?;
        entry.platform = Some(platform.clone());
        let full = platform.format_all();
        let there = self.entries.iter().position(|(known, _)| {
            !known.is_attestation()
                && known.platform.clone().is_some_and(|p| p.normalized().format_all() == full)
        });
        match there {
            None => self.entries.push((entry, at)),
            Some(position) => {
                let old = self.entries[position].0.digest;
                if old != entry.digest && same == Same::Refuse {
                    let sources = &self.sources;
                    return Err(Error::Twice {
                        platform: full,
                        first: sources[self.entries[position].1].describe(),
                        second: sources[at].describe(),
                    });
                }
                self.entries[position] = (entry, at);
                // What attests the image that went, goes.
                if !self.entries.iter().any(|(known, _)| known.digest == old) {
                    self.drop_attestations(&[old]);
                }
            }
        }
        Ok(platform)
    }

    /// Changes entries that `wanted` chooses (see [`Assembly::find`]).
    pub fn annotate(&mut self, wanted: &str, claim: &Claim, force: bool) -> Result<usize> {
        let found = self.find(wanted)?;
        for position in &found {
            let (mut entry, at) = self.entries[*position].clone();
            if claim.is_platform() {
                let own = match &entry.platform {
                    Some(platform) => platform.clone(),
                    None => claim.apply(&Platform::linux("unknown", None)),
                };
                let platform = claim.apply(&own);
                if !entry.is_attestation() {
                    self.check(at, &entry, &platform, force)?;
                }
                entry.platform = Some(platform);
            }
            claim.annotate(&mut entry.annotations);
            self.entries[*position].0 = entry;
        }
        self.refuse_twins()?;
        Ok(found.len())
    }

    /// Takes entries away that `wanted` chooses, with their attestations.
    pub fn remove(&mut self, wanted: &str) -> Result<usize> {
        let found = self.find(wanted)?;
        let digests: Vec<Digest> = found.iter().map(|at| self.entries[*at].0.digest).collect();
        let mut at = 0;
        self.entries.retain(|_| {
            at += 1;
            !found.contains(&(at - 1))
        });
        self.drop_attestations(&digests);
        Ok(found.len())
    }

    /// Gives the entries that a digest (or the beginning of one) or a platform chooses. A platform
    /// without version of the operating system chooses those of all versions.
    fn find(&self, wanted: &str) -> Result<Vec<usize>> {
        let platform = wanted.parse::<Platform>().ok().filter(|_| wanted.contains('/'));
        let matches = |entry: &Descriptor| match (&platform, &entry.platform) {
            (Some(wanted), Some(own)) => {
                let own = own.clone().normalized();
                let wanted = wanted.clone().normalized();
                own.os == wanted.os
                    && own.architecture == wanted.architecture
                    && own.variant == wanted.variant
                    && (wanted.os_version.is_none() || wanted.os_version == own.os_version)
            }
            (Some(_), None) => false,
            (None, _) => {
                let hex = wanted.strip_prefix("sha256:").unwrap_or(wanted);
                hex.len() >= 6 && entry.digest.hex().starts_with(hex)
            }
        };
        let found: Vec<usize> =
            (0..self.entries.len()).filter(|at| matches(&self.entries[*at].0)).collect();
        if !found.is_empty() {
            return Ok(found);
        }
        let there = self.entries.iter().filter(|(entry, _)| !entry.is_attestation());
        let there = there.map(|(entry, _)| match &entry.platform {
            Some(platform) => platform.format_all(),
            None => entry.digest.to_string(),
        });
        let there = there.collect();
        Err(Error::NoPlatform { wanted: wanted.to_owned(), there })
    }

    /// Compares what is claimed of an image with its config. What the config does not say may be
    /// claimed: Windows' features, and versions that some builders leave out.
    fn check(&mut self, at: usize, entry: &Descriptor, said: &Platform, force: bool) -> Result<()> {
        if force {
            return Ok(());
        }
        let source = self.sources[at].as_ref();
        let own = match self.configs.get(&entry.digest) {
            Some(own) => own.clone(),
            None => {
                let bytes = source.manifest(entry)?;
                let Document::Manifest(manifest) = parse(source, entry, &bytes)? else {
                    return Ok(());
                };
                let own = config_platform(source, &manifest)?;
                self.configs.insert(entry.digest, own.clone());
                own
            }
        };
        let no_variant = own.variant.is_none();
        let own = own.normalized();
        let same = said.os == own.os
            && said.architecture == own.architecture
            && (said.variant == own.variant || no_variant)
            && (said.os_version == own.os_version || own.os_version.is_none());
        if same {
            return Ok(());
        }
        let (said, own) = (said.format_all(), own.format_all());
        Err(Error::Claim { place: source.describe(), said, own })
    }

    fn drop_attestations(&mut self, of: &[Digest]) {
        self.entries.retain(|(entry, _)| {
            let about = entry.annotations.get(REFERENCE_DIGEST).and_then(|of| of.parse().ok());
            !about.is_some_and(|digest: Digest| of.contains(&digest))
        });
    }

    fn refuse_twins(&self) -> Result<()> {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for (at, (entry, source)) in self.entries.iter().enumerate() {
            let Some(platform) = entry.platform.as_ref().filter(|_| !entry.is_attestation()) else {
                continue;
            };
            let full = platform.clone().normalized().format_all();
            if let Some(first) = seen.insert(full.clone(), at) {
                return Err(Error::Twice {
                    platform: full,
                    first: self.entries[first].0.digest.to_string(),
                    second: format!("{} of {}", entry.digest, self.sources[*source].describe()),
                });
            }
        }
        Ok(())
    }

    /// Tells whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.entries.iter().all(|(entry, _)| entry.is_attestation())
    }

    /// Gives the index as a source.
    pub fn finish(self) -> Assembled {
        let mut index = self.base.unwrap_or_else(|| Index::new(Vec::new()));
        index.manifests = self.entries.iter().map(|(entry, _)| entry.clone()).collect();
        index.annotations = self.annotations;
        // Docker's lists have no annotations, and name Docker's manifests only.
        let needs_oci = |entry: &Descriptor| {
            entry.media_type != media_type::DOCKER_MANIFEST || !entry.annotations.is_empty()
        };
        if !index.annotations.is_empty() || index.manifests.iter().any(needs_oci) {
            index.media_type = Some(media_type::OCI_INDEX.to_owned());
        }
        let (root, bytes) = index.encode();
        let routes = self.entries.iter().map(|(entry, at)| (entry.digest, *at)).collect();
        Assembled { sources: self.sources, root, bytes, routes: Mutex::new(routes) }
    }
}

fn parse(source: &dyn Source, descriptor: &Descriptor, bytes: &[u8]) -> Result<Document> {
    Document::parse(bytes, &descriptor.media_type).map_err(|error| Error::Document {
        place: source.describe(),
        what: descriptor.digest.to_string(),
        source: error,
    })
}

impl Assembled {
    fn route(&self, digest: &Digest) -> usize {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes.get(digest).copied().unwrap_or_default()
    }

    fn of(&self, digest: &Digest) -> Result<&Arc<dyn Source>> {
        let source = self.sources.get(self.route(digest));
        source.ok_or_else(|| Error::Missing {
            place: self.describe(),
            what: "source of",
            digest: *digest,
        })
    }
}

impl Source for Assembled {
    fn root(&self) -> Result<(Descriptor, Vec<u8>)> {
        Ok((self.root.clone(), self.bytes.clone()))
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let at = self.route(&descriptor.digest);
        let bytes = self.of(&descriptor.digest)?.manifest(descriptor)?;
        let document = parse(self, descriptor, &bytes)?;
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        match document {
            Document::Manifest(manifest) => {
                for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
                    routes.entry(blob.digest).or_insert(at);
                }
            }
            Document::Index(index) => {
                for child in &index.manifests {
                    routes.entry(child.digest).or_insert(at);
                }
            }
        }
        Ok(bytes)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
        self.of(&descriptor.digest)?.blob(descriptor)
    }

    fn blob_from(&self, descriptor: &Descriptor, offset: u64) -> Result<Box<dyn Read + Send>> {
        self.of(&descriptor.digest)?.blob_from(descriptor, offset)
    }

    fn blob_file(&self, descriptor: &Descriptor) -> Option<PathBuf> {
        self.of(&descriptor.digest).ok()?.blob_file(descriptor)
    }

    fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        if *subject == self.root.digest {
            return Ok(Vec::new());
        }
        let at = self.route(subject);
        let found = self.of(subject)?.referrers(subject)?;
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        for referrer in &found {
            routes.entry(referrer.digest).or_insert(at);
        }
        Ok(found)
    }

    fn origin(&self, descriptor: &Descriptor) -> Option<Reference> {
        self.of(&descriptor.digest).ok()?.origin(descriptor)
    }

    fn describe(&self) -> String {
        let all: Vec<String> = self.sources.iter().map(|source| source.describe()).collect();
        all.join(", ")
    }
}
