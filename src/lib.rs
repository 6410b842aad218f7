//! lapstrake: a daemonless, rootless container image builder.
//!
//! The map. An arrow means "may use"; `tests/architecture.rs` fails on any that is not in this table.
//!
//! | module | what lives there | may use |
//! |---|---|---|
//! | `main.rs` | argv → exit code; becomes the sandbox child when re-executed as one | cli, sandbox |
//! | [`attest`] | provenance and SBOMs as in-toto statements. Pure | graph (redaction), dockerfile (names of secrets), oci |
//! | [`cli`] | one file a subcommand; the only reader of env, `$HOME`, cwd | ui, bake, build, attest, task, graph, context, remote, transport, registry, store, sandbox, layer, oci, dockerfile, sys (asking for a password, memory) |
//! | [`ui`] | build events → tty list, plain lines, JSON lines; diagnostics with excerpts | build (events only), dockerfile (diagnostics), oci |
//! | [`bake`] | bake files (HCL, JSON, compose) → targets. Pure but for one thread with a deep stack | dockerfile |
//! | [`build`] | the conductor: scheduler, cancel, one file a step kind; cache, packing | attest, graph, dockerfile, context, remote, sandbox, snapshot, store, transport, layer, oci |
//! | [`dockerfile`] | bytes → (Dockerfile, diagnostics). Pure | - |
//! | [`graph`] | Dockerfile + targets + platforms → step graph; keys. Pure | dockerfile, oci |
//! | [`context`] | the build context: ignore rules, listing, content digests, stat cache | layer, oci, sys |
//! | [`sandbox`] | one RUN: spec, parent, child, id maps, mounts, emulation, probe | sys |
//! | [`snapshot`] | Trees on disk: materialise, diff an upper directory into a Toc | layer, oci, sys |
//! | [`layer`] | Toc, Tree, tar, gzip and zstd, digests. Pure over Read/Write | oci (digest types) |
//! | [`oci`] | config, manifest, index, descriptor, platform, reference, canonical JSON. Pure | - |
//! | [`transport`] | images in and out: layouts, archives, registry, the store | registry, store, layer, oci, sys (reflinks) |
//! | [`registry`] | the distribution protocol over HTTP | oci |
//! | [`remote`] | URLs, Git repositories and archives as directories, for ADD and contexts | graph (names and keys), context, snapshot, registry, store, layer, oci, sys |
//! | [`store`] | state on disk: blobs, Tocs, step records, cache mounts, locks, gc | layer, oci, sys |
//! | [`task`] | tasks of Azure Container Registry: reading them. Pure | - |
//! | [`sys`] | every system call, thin wrappers. The only `unsafe` | - |
//!
//! Pure means: no file system, no environment, no clock, no threads of its own, no sys.

pub mod attest;
pub mod bake;
pub mod build;
pub mod cli;
pub mod context;
pub mod dockerfile;
pub mod graph;
pub mod layer;
pub mod oci;
pub mod registry;
pub mod remote;
pub mod sandbox;
pub mod snapshot;
pub mod store;
pub mod sys;
pub mod task;
pub mod transport;
pub mod ui;
