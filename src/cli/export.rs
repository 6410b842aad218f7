//! Writes the outputs of a build that went through: layouts, archives, files, the store, registries.
//!
//! Order: files first, then the store's names, then registries, and of a registry the tags last. So a
//! failure leaves no tag that leads to less than everything.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::attest::Attached;
use crate::build::conductor::Conductor;
use crate::build::event::{Event, Work};
use crate::build::image::{Annotation, Product, Recipe};
use crate::build::layers::BlobForm;
use crate::build::rootfs;
use crate::layer::compress::Compression;
use crate::oci::{Descriptor, Digest, Platform, Reference};
use crate::registry::Client;
use crate::transport::{self, CopyOptions, Sink, remote::RegistrySink, stored::StoreSource};

use super::attest::{self, Asked};
use super::copy;
use super::environment::Environment;
use super::load::Loader;
use super::output::{Output, OutputKind};
use super::report::{Exit, Report, Result};

/// Blobs that are sent to a registry at a time.
const JOBS: usize = 4;

/// Everything of the command line that shapes outputs, checked.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What is built.
    pub platforms: Vec<Platform>,
    /// `-t`.
    pub tags: Vec<Reference>,
    /// `-o`.
    pub outputs: Vec<Output>,
    /// `--annotation`.
    pub annotations: Vec<Annotation>,
    /// SOURCE_DATE_EPOCH.
    pub epoch: Option<i64>,
    /// `--push`.
    pub push: bool,
    /// `--load`.
    pub load: bool,
    /// A shell is opened in the result, or nothing but the cache is wanted: no image is made of it.
    pub shell: bool,
    /// Which of the graph's outputs it is about.
    pub results: Range<usize>,
    /// The number of the first step that is told of.
    pub first: usize,
}

impl Plan {
    /// Gives the recipe of the image that the store keeps; None when it keeps none.
    fn stored(&self) -> Option<Recipe> {
        let named = !self.tags.is_empty() || self.outputs.is_empty();
        let keeps = !self.shell && (named || self.load);
        let form = BlobForm { compression: Compression::GZIP, epoch: self.epoch, force: false };
        keeps.then(|| Recipe { form, docker_types: false, annotations: self.annotations.clone() })
    }

    /// Gives the recipe of an output; None when it is made of files.
    fn recipe(&self, output: &Output) -> Option<Recipe> {
        let form = BlobForm {
            compression: output.compression,
            epoch: self.epoch,
            force: output.force_compression,
        };
        let mut annotations = self.annotations.clone();
        annotations.extend(output.annotations.iter().cloned());
        output.kind.has_blobs().then_some(Recipe {
            form,
            docker_types: output.docker_types,
            annotations: if output.docker_types { Vec::new() } else { annotations },
        })
    }

    /// Gives the forms in which layers are wanted.
    pub fn forms(&self) -> BTreeSet<BlobForm> {
        let outputs = self.outputs.iter().filter_map(|output| self.recipe(output));
        outputs.chain(self.stored()).map(|recipe| recipe.form).collect()
    }

    /// Gives all names that the image gets somewhere.
    pub fn names(&self) -> Vec<Reference> {
        let mut names = self.tags.clone();
        for output in self.outputs.iter().filter(|output| output.kind.is_named()) {
            for name in output.names.iter().flatten() {
                if !names.contains(name) {
                    names.push(name.clone());
                }
            }
        }
        names
    }
}

/// An image, and what refers to it without being a part of it.
#[derive(Clone)]
struct Made {
    product: Product,
    referrers: Vec<Attached>,
}

impl Made {
    fn referrers(&self) -> Vec<(Digest, Descriptor)> {
        self.referrers.iter().map(|one| (one.subject, one.descriptor.clone())).collect()
    }
}

/// Makes and writes all outputs; gives the image that the user is told of.
pub fn export_all(
    env: &Environment,
    conductor: &Conductor<'_>,
    plan: &Plan,
    asked: &Asked<'_>,
    client: &Arc<Client>,
    loader: Option<Loader>,
) -> Result<Option<Product>> {
    let build = conductor.build;
    let mut made: Vec<(Recipe, Made)> = Vec::new();
    let mut make = |recipe: Option<Recipe>| -> Result<Option<Made>> {
        let Some(recipe) = recipe else { return Ok(None) };
        if let Some((_, whole)) = made.iter().find(|(known, _)| *known == recipe) {
            return Ok(Some(whole.clone()));
        }
        let outputs = &conductor.graph.outputs[plan.results.clone()];
        let product = build.product(conductor, outputs, &recipe)?;
        let (product, referrers) = asked.attach(conductor, product, outputs, recipe.form)?;
        let whole = Made { product, referrers };
        made.push((recipe, whole.clone()));
        Ok(Some(whole))
    };
    let stored = make(plan.stored())?;
    let mut outputs = Vec::new();
    for (number, output) in plan.outputs.iter().enumerate() {
        outputs.push((number, output, make(plan.recipe(output))?));
    }
    let first = plan.first;
    outputs.sort_by_key(|(_, output, _)| match output.kind {
        OutputKind::Registry { .. } => 2,
        OutputKind::Store => 1,
        _ => 0,
    });
    let (registries, files): (Vec<_>, Vec<_>) = outputs
        .iter()
        .partition(|(_, output, _)| matches!(output.kind, OutputKind::Registry { .. }));
    for (number, output, made) in files {
        export(env, conductor, plan, output, made.as_ref(), first + number)?;
    }
    if let Some(made) = &stored {
        name(conductor, &plan.tags, made)?;
        if let Some(loader) = loader {
            build.watch.rest();
            loader.load(build.store, &made.product.root, &plan.tags)?;
        }
        if plan.push {
            let referrers = !made.referrers.is_empty();
            super::push::push(env, build.store, client, &plan.tags, referrers, build.watch)?;
        }
    }
    for (number, output, made) in registries {
        let Some(made) = made else { continue };
        let names = output.names.as_deref().unwrap_or(&plan.tags);
        let by_digest = output.kind == OutputKind::Registry { by_digest: true };
        push(conductor, client, names, by_digest, made, first + number)?;
    }
    let first_made = outputs.into_iter().min_by_key(|(number, ..)| *number);
    Ok(stored.or(first_made.and_then(|(.., made)| made)).map(|made| made.product))
}

/// Gives an image its names in the store.
fn name(conductor: &Conductor<'_>, references: &[Reference], made: &Made) -> Result<()> {
    let root = &made.product.root;
    let names: Vec<(String, crate::oci::Descriptor)> =
        references.iter().map(|name| (name.to_string(), root.clone())).collect();
    if names.is_empty() {
        return Ok(());
    }
    let images = conductor.build.store.images();
    images
        .set(&names)
        .map_err(|error| Report::of(Exit::Damaged, "cannot name the image", &error))?;
    attest::keep(conductor.build.store, references, &made.referrers)
}

/// Tells the watcher of one step around some work.
fn told<T>(
    conductor: &Conductor<'_>,
    step: usize,
    name: String,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let watch = conductor.build.watch;
    let started = Instant::now();
    watch.event(Event::Planned { step, work: Work::Export, name, emulated: false });
    watch.event(Event::Started { step });
    let result = work();
    let took = started.elapsed();
    match &result {
        Ok(_) => watch.event(Event::Finished { step, took }),
        Err(report) => {
            watch.event(Event::Failed { step, message: report.message.clone(), took });
        }
    }
    result
}

/// Sends an image to all repositories, and gives it its tags when every one has all of it.
fn push(
    conductor: &Conductor<'_>,
    client: &Arc<Client>,
    names: &[Reference],
    by_digest: bool,
    made: &Made,
    step: usize,
) -> Result<()> {
    let product = &made.product;
    let mut repositories: BTreeMap<String, Vec<Reference>> = BTreeMap::new();
    for name in names {
        repositories.entry(name.name()).or_default().push(name.clone());
    }
    let shown: Vec<String> = match by_digest {
        true => repositories.keys().map(|name| format!("{name}@{}", product.root.digest)).collect(),
        false => names.iter().map(Reference::familiar).collect(),
    };
    let shown = shown.join(", ");
    told(conductor, step, format!("pushing {shown}"), || {
        let watch = conductor.build.watch;
        let progress = |item: &str, done: u64, total: Option<u64>| {
            watch.event(Event::Progress { step, item: item.to_owned(), done, total });
        };
        let failed =
            |error: transport::Error| copy::failed(&format!("cannot push {shown}"), &error);
        let source = StoreSource::rooted(conductor.build.store, &product.root)
            .with_referrers(&made.referrers());
        let mut sinks = Vec::new();
        let several = repositories.len() > 1;
        let mut before: Option<&Reference> = None;
        for names in repositories.values() {
            let Some(first) = names.first() else { continue };
            let mut sink = RegistrySink::new(Client::clone(client), first.clone());
            if let Some(done) = before.filter(|done| done.registry == first.registry) {
                sink = sink.with_mount_from(done);
            }
            before = Some(first);
            let tags: &[Reference] = if several || by_digest { &[] } else { names };
            let options = CopyOptions { jobs: JOBS, referrers: !made.referrers.is_empty() };
            transport::copy_with(&source, &sink, tags, options, &progress).map_err(failed)?;
            sinks.push((sink, names));
        }
        if several && !by_digest {
            for (sink, names) in &sinks {
                sink.finish(&product.root, &product.bytes, names).map_err(failed)?;
            }
        }
        Ok(())
    })
}

/// Writes one output that is no registry.
fn export(
    env: &Environment,
    conductor: &Conductor<'_>,
    plan: &Plan,
    output: &Output,
    made: Option<&Made>,
    step: usize,
) -> Result<()> {
    let dest = env.cwd.join(&output.dest);
    let names = output.names.as_deref().unwrap_or(&plan.tags);
    let shown = match output.kind {
        OutputKind::Store => names.iter().map(Reference::familiar).collect::<Vec<_>>().join(", "),
        _ => output.dest.display().to_string(),
    };
    told(conductor, step, format!("exporting to {shown}"), || {
        let target = match output.kind {
            OutputKind::OciDir => transport::Target::OciDir(dest.clone()),
            OutputKind::OciArchive => transport::Target::OciArchive(dest.clone()),
            OutputKind::DockerArchive => transport::Target::DockerArchive(dest.clone()),
            _ => match made {
                Some(made) => return name(conductor, names, made),
                None => return export_files(env, conductor, plan, output, &dest),
            },
        };
        let made = made.ok_or_else(|| {
            Report::new(Exit::Damaged, "an output was written before its image was made")
        })?;
        let out = env.stdout_of(&output.dest);
        let (store, root) = (conductor.build.store, &made.product.root);
        transport::export_with(store, root, &made.referrers(), names, &target, out)
            .map_err(|error| Report::of(Exit::Damaged, &format!("cannot write {shown}"), &error))
    })
}

fn export_files(
    env: &Environment,
    conductor: &Conductor<'_>,
    plan: &Plan,
    output: &Output,
    dest: &Path,
) -> Result<()> {
    let several = plan.platforms.len() > 1;
    let roots = conductor.graph.outputs[plan.results.clone()]
        .iter()
        .map(|result| {
            let prefix = if several { result.platform.dir_name() } else { String::new() };
            rootfs::root(conductor, result, &prefix)
        })
        .collect::<std::result::Result<Vec<_>, _>>()?;
    if output.kind == OutputKind::Local {
        std::fs::create_dir_all(dest).map_err(|error| {
            Report::of(Exit::Damaged, &format!("cannot make {}", output.dest.display()), &error)
        })?;
        rootfs::write_files(conductor, &roots, dest)?;
        return Ok(());
    }
    if output.dest.as_os_str() == "-" {
        let mut out = env.stdout();
        rootfs::write_tar(conductor, &roots, &mut out)?;
        return Ok(());
    }
    let failed = |error: std::io::Error| {
        Report::of(Exit::Damaged, &format!("cannot write {}", output.dest.display()), &error)
    };
    let dir = dest.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
    {
        let mut buffered = std::io::BufWriter::with_capacity(256 << 10, file.as_file_mut());
        rootfs::write_tar(conductor, &roots, &mut buffered)?;
        buffered.flush().map_err(failed)?;
    }
    super::environment::publish(file, dest).map_err(failed)
}
