//! The conductor: runs a step graph against the store, and makes images of its results.
//!
//! | file | what it does |
//! |---|---|
//! | `conductor.rs` | looks keys up, decides what must run, runs it in order, packs in the background |
//! | `steps/` | one file a kind of step |
//! | `layers.rs` | the forms of a layer: Toc, files, directory, blob |
//! | `cache/` | caches beyond the store: entries of steps in registries and layouts |
//! | `carried.rs` | cache mounts from other machines, and to them |
//! | `copy.rs`, `glob.rs` | which entries a COPY makes, computed against Trees |
//! | `files.rs` | where the bytes of a file are read from |
//! | `users.rs` | who `--chown` means |
//! | `remotes.rs` | when remote sources are fetched, and what is told of it |
//! | `image.rs` | configs, manifests and the index of the results |
//! | `rootfs.rs` | results as files: `type=local`, `type=tar` |
//! | `shell.rs` | a shell in the root file system of a step |
//! | `attest.rs` | provenance and SBOMs of the results |
//! | `advice.rs`, `waste.rs`, `leak.rs` | checks that need the context, a platform or a layer |
//! | `explain.rs` | why a step was not cached |
//! | `preview.rs` | what a build would do |
//! | `event.rs`, `error.rs` | what the user hears of it |
//!
//! Start reading at [`Build::run`].

pub mod advice;
pub mod attest;
pub mod bases;
pub mod cache;
pub mod carried;
pub mod conductor;
pub mod copy;
pub mod error;
pub mod event;
pub mod explain;
pub mod files;
pub mod glob;
pub mod image;
pub mod layers;
pub mod leak;
pub mod preview;
pub mod remotes;
pub mod rootfs;
pub mod shell;
pub mod steps;
pub mod users;
pub mod waste;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use crate::context::Context;
use crate::graph::{Graph, NodeId, Op};
use crate::oci::{Descriptor, Digest, Manifest, Platform};
use crate::remote::{Origin, Remotes};
use crate::sandbox::{self, Arch, Cancel, Emulator, Session};
use crate::store::Store;
use crate::transport::Source;

use conductor::Conductor;
use error::{Failure, Kind};
use event::{Event, Watch};
use layers::{BaseLayer, BlobForm, Layers};

/// A base image as it was resolved: what [`crate::graph::BaseImage::handle`] names.
pub struct BaseSource {
    /// Where its blobs come from.
    pub source: Arc<dyn Source>,
    /// Its manifest.
    pub manifest: Manifest,
}

/// What shapes a build, besides the graph.
#[derive(Debug, Clone)]
pub struct Options {
    /// The user who builds.
    pub user: u32,
    /// Steps at a time.
    pub jobs: usize,
    /// Threads that compress.
    pub threads: usize,
    /// SOURCE_DATE_EPOCH.
    pub epoch: Option<i64>,
    /// The time of this build, seconds since 1970.
    pub clock: i64,
    /// `--isolation`, and what is needed to enter it.
    pub sandbox: sandbox::Options,
    /// `--emulator`, and what was found in PATH, by architecture.
    pub emulators: BTreeMap<Arch, PathBuf>,
    /// Where native programs run.
    pub host: Platform,
    /// `--secret`, by id.
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// `--ssh`, by id: the sockets of agents.
    pub ssh: BTreeMap<String, PathBuf>,
    /// The resolv.conf that a RUN sees.
    pub resolv_conf: Vec<u8>,
    /// `--add-host`: name and address.
    pub add_hosts: Vec<(String, String)>,
    /// The host name that a RUN sees.
    pub hostname: String,
    /// `--shm-size`, bytes.
    pub shm_size: Option<u64>,
    /// `--ulimit`.
    pub limits: Vec<sandbox::Limit>,
    /// `--ca-cert`.
    pub ca_certs: Option<CaCerts>,
    /// `--cgroup-parent` and `--resource`.
    pub cgroups: Option<Arc<sandbox::cgroup::Cgroups>>,
    /// Where specifications of devices lie.
    pub cdi_dirs: Vec<PathBuf>,
    /// `--on-error`.
    pub on_error: shell::OnError,
}

/// Certificates that steps trust besides those of their image, as PEM.
#[derive(Debug, Clone)]
pub struct CaCerts {
    /// What was given.
    pub added: Vec<u8>,
    /// What the host trusts, for images that have no certificates.
    pub system: Vec<u8>,
}

impl Options {
    /// The time that new entries get, seconds since 1970.
    pub fn now(&self) -> i64 {
        self.epoch.unwrap_or(self.clock)
    }
}

/// One build and all that it uses.
pub struct Build<'a> {
    /// The store.
    pub store: &'a Store,
    /// The build context (empty name) and named directories.
    pub contexts: BTreeMap<String, Arc<Context>>,
    /// What fetches sources on other machines.
    pub remotes: &'a Remotes,
    /// Contexts that are fetched or unpacked when a step wants them, by name.
    pub lazy_contexts: BTreeMap<String, Origin>,
    /// Base images by handle.
    pub bases: Vec<BaseSource>,
    /// Caches beyond the store.
    pub cache: cache::Cache,
    /// `--cache-mount`.
    pub carried: carried::Carried,
    /// Options.
    pub options: Options,
    /// What differs from [`Build::options`] for the steps of each part of a merged graph; empty
    /// when all is one.
    pub parts: Vec<Options>,
    /// Who hears of it.
    pub watch: &'a dyn Watch,
    /// What `--explain` tells.
    pub explain: explain::Explain,
    /// Which checks of layers are wanted, and what they find.
    pub checks: advice::Checks<'a>,
    /// Set when the user stops the build.
    pub cancel: &'a Cancel,
    /// Results are wanted as files (`type=local`, `type=tar`), or as a place for a shell.
    pub wants_roots: bool,
    /// A shell is wanted, so a session is.
    pub wants_shell: bool,
    /// What the first failed RUN left, as `--on-error` wants it.
    pub wreck: std::sync::Mutex<Option<shell::Wreck>>,
}

impl<'a> Build<'a> {
    /// Builds all outputs of `graph`, with blobs in each of `forms`. Gives the conductor, which
    /// knows what every node made.
    pub fn run(
        &'a self,
        graph: &'a Graph,
        forms: &BTreeSet<BlobForm>,
    ) -> Result<Conductor<'a>, Failure> {
        let mut conductor = self.conductor(graph, forms)?;
        conductor.run(forms)?;
        self.carried.send(&conductor)?;
        Ok(conductor)
    }

    fn conductor(
        &'a self,
        graph: &'a Graph,
        forms: &BTreeSet<BlobForm>,
    ) -> Result<Conductor<'a>, Failure> {
        let mut bases = Vec::new();
        for image in &graph.images {
            let base = self.bases.get(image.handle).ok_or_else(|| {
                Failure::new(Kind::Store, format!("base image {} has no source", image.name))
            })?;
            let diff_ids = &image.config.rootfs.diff_ids;
            if diff_ids.len() != base.manifest.layers.len() {
                return Err(Failure::new(
                    Kind::Store,
                    format!(
                        "base image {} is damaged: its config names {} layers, its manifest {}",
                        image.name,
                        diff_ids.len(),
                        base.manifest.layers.len()
                    ),
                ));
            }
            bases.extend(diff_ids.iter().zip(&base.manifest.layers).map(
                |(diff_id, descriptor)| BaseLayer {
                    diff_id: *diff_id,
                    descriptor: descriptor.clone(),
                },
            ));
        }
        let layers = Layers::new(self.store, self.options.threads, bases, forms);
        Ok(Conductor::new(self, graph, layers))
    }

    /// Makes the images of a finished build, joined: those of some of its outputs.
    pub fn product(
        &self,
        conductor: &Conductor<'_>,
        outputs: &[crate::graph::Output],
        recipe: &image::Recipe,
    ) -> Result<image::Product, Failure> {
        image::join(self.store, image::assemble(conductor, outputs, recipe)?, recipe)
    }

    /// Gives the options of a step: its secrets, agents, limits and names.
    pub fn options_of(&self, node: &crate::graph::Node) -> &Options {
        self.parts.get(node.part).unwrap_or(&self.options)
    }

    /// Fails when the user stopped the build.
    pub fn check_cancelled(&self) -> Result<(), Failure> {
        if self.cancel.is_cancelled() { Err(Failure::interrupted()) } else { Ok(()) }
    }

    /// Gives a local directory by the name of its context.
    pub fn context(&self, name: &str) -> Result<Arc<Context>, Failure> {
        if let Some(origin) = self.lazy_contexts.get(name) {
            return self.lazy_context(origin);
        }
        self.contexts.get(name).cloned().ok_or_else(|| {
            if name.is_empty() {
                Failure::new(Kind::Step, "this build has no context to copy from")
                    .with_hint("name a directory as the last argument: lapstrake build .")
            } else {
                Failure::new(Kind::Step, format!("no context is named {name:?}"))
            }
        })
    }

    /// Says whether programs of `platform` run through an emulator.
    pub fn is_emulated(&self, platform: &Platform) -> bool {
        Arch::from_oci(&platform.architecture).is_some_and(|arch| !arch.is_native())
    }

    fn lock_step(&self, key: Digest, name: &str) -> Result<crate::store::Guard, Failure> {
        self.store.locks().step(&key, &|| self.cancel.is_cancelled()).map_err(|error| {
            if self.cancel.is_cancelled() {
                Failure::interrupted()
            } else {
                Failure::of(Kind::Store, &format!("cannot lock {name}"), &error)
            }
        })
    }

    fn fetch(
        &self,
        handle: usize,
        blobs: &[Descriptor],
        progress: &(dyn Fn(&str, u64, Option<u64>) + Sync),
    ) -> Result<(), Failure> {
        let base = self
            .bases
            .get(handle)
            .ok_or_else(|| Failure::new(Kind::Store, "a base image has no source"))?;
        crate::transport::fetch_layers(
            base.source.as_ref(),
            blobs,
            self.store,
            self.options.jobs.max(3),
            progress,
        )
        .map_err(|error| {
            let kind = if error.is_damage() { Kind::Store } else { Kind::Network };
            let mut failure = Failure::of(kind, "cannot get the base image", &error);
            failure.hints.extend(error.hint());
            failure
        })
    }

    /// Enters the user namespace, registers emulators, and tells the watcher.
    fn enter_session(
        &self,
        graph: &Graph,
        needed: &[bool],
        done: impl Fn(NodeId) -> bool,
        doubtful: impl Fn(NodeId) -> bool,
    ) -> Result<Session, Failure> {
        let host = |error: sandbox::Error| {
            let hint = error.hint().map(str::to_owned);
            let mut failure = Failure::of(Kind::Host, "", &error);
            failure.hints.extend(hint);
            failure
        };
        let mut session = Session::enter(&self.options.sandbox).map_err(host)?;
        self.store.set_id_map(&session.id_map().fingerprint());
        if let Err(error) = self.store.remember_id_map(self.options.user) {
            self.watch.event(Event::Warning(error::chain(&error)));
        }
        if let Err(error) = self.store.sweep_in_namespace() {
            self.watch.event(Event::Warning(format!(
                "left-overs of an earlier build could not be removed: {}",
                error::chain(&error)
            )));
        }
        let foreign: BTreeSet<Arch> = graph
            .nodes
            .iter()
            .enumerate()
            .filter(|(id, node)| needed[*id] && !done(*id) && matches!(node.op, Op::Run(_)))
            .filter_map(|(_, node)| Arch::from_oci(&node.platform.architecture))
            .filter(|arch| !arch.is_native())
            .collect();
        // A cache may turn out not to have what it promised; emulators are registered only once.
        let spare: BTreeSet<Arch> = (0..graph.nodes.len())
            .filter(|id| doubtful(*id))
            .filter_map(|id| Arch::from_oci(&graph.nodes[id].platform.architecture))
            .filter(|arch| !arch.is_native() && !foreign.contains(arch))
            .filter(|arch| self.options.emulators.contains_key(arch))
            .collect();
        if !foreign.is_empty() || !spare.is_empty() {
            let mut emulators = Vec::new();
            for arch in foreign.iter().chain(&spare) {
                let path = self.options.emulators.get(arch).ok_or_else(|| no_emulator(*arch))?;
                emulators.push(Emulator { arch: *arch, path: path.clone() });
            }
            session.register_emulators(&emulators).map_err(host)?;
        }
        let mut header = format!("isolation: {}", session.rung());
        if !foreign.is_empty() {
            let names: Vec<String> = foreign.iter().map(ToString::to_string).collect();
            header.push_str(&format!(", emulated: {}", names.join(", ")));
        }
        self.watch.event(Event::Header(header));
        for note in session.notes() {
            self.watch.event(Event::Warning(note.clone()));
        }
        Ok(session)
    }
}

fn no_emulator(arch: Arch) -> Failure {
    Failure::new(Kind::Host, format!("no emulator for {arch} was found")).with_hint(format!(
        "install one (Debian: apt-get install qemu-user-static), or name it: --emulator {arch}=/path/to/qemu"
    ))
}
