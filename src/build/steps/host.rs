//! What the host hands into a RUN: devices by their CDI names, and the certificates of `--ca-cert`.

use crate::build::error::{Failure, Kind};
use crate::build::event::Event;
use crate::graph;
use crate::layer::LayerId;
use crate::layer::tree::Tree;
use crate::sandbox::{self, Access, cdi};
use crate::snapshot::StubKind;

use super::run::Mounts;

/// Where the certificates of `--ca-cert` lie in a step.
const CA_BUNDLE: &str = "/dev/ca-certificates.crt";
/// Where distributions keep what they trust (as Go's crypto/x509 looks for it).
const CA_BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// What OpenSSL and Go, Python's requests, pip, Node, git, curl and cargo read.
const CA_VARIABLES: [&str; 7] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "CURL_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
];

impl Mounts<'_> {
    /// Gives the step its devices: nodes, files and variables, as their specifications say.
    pub(super) fn devices(&mut self, run: &graph::Run) -> Result<(), Failure> {
        if run.devices.is_empty() {
            return Ok(());
        }
        let build = self.conductor.build;
        let edits = cdi::Devices::read(&build.options.cdi_dirs)
            .and_then(|devices| devices.edits(&run.devices))
            .map_err(|error| Failure::of(Kind::Step, "", &error).with_hint(error.hint()))?;
        for hook in edits.hooks {
            let text = format!("the device's hook {hook} is not run: hooks are for runtimes");
            build.watch.event(Event::Warning(text));
        }
        for (target, source) in edits.nodes {
            let kind = sandbox::MountKind::Device { source };
            match target.starts_with("/dev/") {
                // A file system of the sandbox: no stub, whatever the image has.
                true => self.list.push(sandbox::Mount { target, kind }),
                false => self.push(&target, StubKind::File, kind),
            }
        }
        for mount in edits.mounts {
            let kind = std::fs::metadata(&mount.source).map_err(|error| {
                let what = format!("cannot mount {} for a device", mount.source.display());
                Failure::of(Kind::Host, &what, &error)
            })?;
            let stub = if kind.is_dir() { StubKind::Dir } else { StubKind::File };
            let access = if mount.read_only { Access::ReadOnly } else { Access::ReadWrite };
            let kind =
                sandbox::MountKind::Bind { source: mount.source, subpath: String::new(), access };
            self.push(&mount.target, stub, kind);
        }
        self.env.extend(edits.env);
        Ok(())
    }

    /// Mounts the certificates of `--ca-cert`, with those that the image (else the host) trusts
    /// already, and points the usual variables at them where the Dockerfile does not set them. Never
    /// part of a layer or a key.
    pub(super) fn ca_certs(
        &mut self,
        run: &graph::Run,
        layers: &[LayerId],
        tree: &Tree,
    ) -> Result<(), Failure> {
        let Some(ca_certs) = &self.conductor.build.options.ca_certs else { return Ok(()) };
        let mut bundle = Vec::new();
        if !tree.layers().is_empty() {
            for path in CA_BUNDLES {
                if let Some(found) = self.conductor.layers.read(layers, tree, path)?
                    && !found.is_empty()
                {
                    bundle = found;
                    break;
                }
            }
        }
        if bundle.is_empty() {
            bundle.clone_from(&ca_certs.system);
        }
        if !bundle.is_empty() && !bundle.ends_with(b"\n") {
            bundle.push(b'\n');
        }
        bundle.extend_from_slice(&ca_certs.added);
        let kind = sandbox::MountKind::File { bytes: bundle, mode: 0o444, uid: 0, gid: 0 };
        // Below /dev: no stub.
        self.list.push(sandbox::Mount { target: CA_BUNDLE.to_owned(), kind });
        for name in CA_VARIABLES {
            if run.env.get(name).is_none() {
                self.env.push((name.to_owned(), CA_BUNDLE.to_owned()));
            }
        }
        Ok(())
    }
}
