//! End-to-end stories: each builds something real and reads the result back, as root and as unprivileged users.
//!
//! What can be tested lower is tested lower. A story's name says what it guards; where it guards a trap that other
//! builders fell into, its comment names their case. `scripts/test` makes the users and base images.

#[path = "../support/mod.rs"]
#[macro_use]
mod support;

/// Which builds need no privilege at all.
mod unprivileged;

/// ADD, and archives in the context.
mod add;
/// ADD of Git repositories.
mod add_git;
/// ADD of URLs.
mod add_url;
/// Provenance and SBOMs.
mod attest;
/// Several targets, one graph.
mod bake;
mod bake_remote;
/// Cache: what hits, what misses, what resumes.
mod cache;
/// Caches that machines share.
mod caches;
/// --check, --call, and the checks of layers.
mod checks;
/// The other subcommands.
mod commands;
/// ENTRYPOINT, USER, LABEL and the rest of the config and history.
mod config;
/// What well-known projects' Dockerfiles are made of.
mod constructs;
/// Contexts that are no directory, and named ones.
mod contexts;
/// COPY into, from and through everything.
mod copy;
/// Looking into a failed step.
mod debug;
/// Diagnostics and exit codes.
mod errors;
/// eStargz layers.
mod estargz;
/// --explain.
mod explain;
/// Flags of other builders.
mod flags;
/// FROM in all its forms.
mod from;
/// The harness itself.
mod harness;
/// What is no Dockerfile at all.
mod hostile;
/// .dockerignore.
mod ignore;
/// copy and pull.
mod image_copy;
/// Indexes made of images.
mod index;
/// Templates, files by layer, diff, verify.
mod inspect;
/// The main job: demo, Debian, our own image.
mod jobs;
/// Whiteouts, hard links, devices, many layers, compression.
mod layers;
/// Loading into Docker and Podman.
mod load;
/// RUN --mount.
mod mounts;
/// -o in all its forms.
mod output;
/// Outputs that are images, in registries and elsewhere.
mod outputs;
/// lapstrake plan.
mod plan;
/// Several platforms and emulation.
mod platform;
/// --allow, --ulimit, --ca-cert.
mod privilege;
/// --progress, --log-format, --metadata-file.
mod progress;
/// Registries: pull and push.
mod registry;
/// registries.conf, certs.d, short names.
mod registry_config;
/// Registries behind lines and proxies that break everything.
mod registry_faults;
/// Registries that mean ill.
mod registry_hostile;
/// login and logout.
mod registry_login;
/// What a push sends, and where it puts names.
mod registry_push;
/// TLS that goes wrong.
mod registry_tls;
/// Same inputs, same bytes.
mod reproducible;
/// What a RUN sees, and what it leaves.
mod run;
/// RUN --mount=type=ssh.
mod ssh;
/// Tasks of Azure Container Registry.
mod task;
/// What other builders got wrong, and no other story is about.
mod traps;
/// Two machines, one registry cache.
mod two_machines;
/// ENV and ARG.
mod variables;
