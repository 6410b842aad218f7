//! `lapstrake push`, and `build --push`.

use std::sync::Arc;

use crate::build::event::Watch;
use crate::oci::{Descriptor, Digest, Reference};
use crate::registry::Client;
use crate::store::Store;
use crate::transport::{self, CopyOptions, Sink, Source, remote::RegistrySink};
use crate::ui::progress::{Progress, Style};

use super::args::PushArgs;
use super::copy;
use super::environment::Environment;
use super::images;
use super::report::{Report, Result};

/// Blobs that are sent at a time.
const JOBS: usize = 4;

/// Runs the command.
pub fn run(args: &PushArgs, env: &Environment) -> Result<()> {
    let store = env.open_store()?;
    let _lock = super::copy::hold(&store)?;
    let client = env.registry_client(&args.registry, false)?;
    let mut references = Vec::new();
    for name in &args.names {
        let (reference, _) = images::find(&store, name)?;
        if !references.contains(&reference) {
            references.push(reference);
        }
    }
    let style = if args.quiet { Style::Quiet } else { Style::Auto };
    let progress = Progress::new(style, !env.colour);
    let pushed = push(env, &store, &client, &references, args.referrers, &progress);
    progress.end();
    for (reference, digest) in references.iter().zip(pushed?) {
        env.print(&format!("{}@{digest}\n", reference.familiar()));
    }
    Ok(())
}

/// One image on its way to one repository, under all the names that it gets there.
struct Parcel {
    source: Box<dyn Source>,
    root: Descriptor,
    bytes: Vec<u8>,
    names: Vec<Reference>,
    sink: RegistrySink,
}

/// Sends images of the store to the registries that their names say, and what refers to them if
/// asked. Names are given when everything has been sent, and each blob goes to a repository once; a
/// second one of the same registry takes it from the first. Gives the digests of the names.
pub fn push(
    env: &Environment,
    store: &Store,
    client: &Arc<Client>,
    references: &[Reference],
    referrers: bool,
    watch: &dyn Watch,
) -> Result<Vec<Digest>> {
    let shown = references.iter().map(Reference::familiar).collect::<Vec<_>>().join(", ");
    let what = format!("cannot push {shown}");
    let mut parcels: Vec<Parcel> = Vec::new();
    let mut digests = Vec::new();
    for reference in references {
        let source = transport::store_source(store, reference).ok_or_else(|| {
            Report::usage(format!("no image {} in the store", reference.familiar()))
        })?;
        let (root, bytes) = source.root().map_err(|error| copy::failed(&what, &error))?;
        digests.push(root.digest);
        let fits = |parcel: &&mut Parcel| {
            parcel.root.digest == root.digest && parcel.names[0].name() == reference.name()
        };
        if let Some(parcel) = parcels.iter_mut().find(fits) {
            parcel.names.push(reference.clone());
            continue;
        }
        let mut sink = RegistrySink::new(Client::clone(client), reference.clone());
        let earlier = parcels.iter().map(|parcel| &parcel.names[0]);
        if let Some(first) = earlier.into_iter().find(|name| name.registry == reference.registry) {
            sink = sink.with_mount_from(first);
        }
        parcels.push(Parcel { source, root, bytes, names: vec![reference.clone()], sink });
    }
    copy::tell(env, watch, &format!("pushing {shown}"), &what, |progress| {
        let options = CopyOptions { jobs: JOBS, referrers };
        let alone = parcels.len() == 1;
        for Parcel { source, names, sink, .. } in &parcels {
            let now: &[Reference] = if alone { names } else { &[] };
            transport::copy_with(source.as_ref(), sink, now, options, progress)?;
        }
        if !alone {
            for Parcel { root, bytes, names, sink, .. } in &parcels {
                sink.finish(root, bytes, names)?;
            }
        }
        Ok(())
    })?;
    Ok(digests)
}
