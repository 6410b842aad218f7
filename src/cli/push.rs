//! `lapstrake push`, and `build --push`.

use std::sync::Arc;

use crate::build::event::{Event, Watch, Work};
use crate::oci::Reference;
use crate::registry::Client;
use crate::store::Store;
use crate::transport::{self, CopyOptions, remote::RegistrySink};
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
    let (reference, _) = images::find(&store, &args.name)?;
    let style = if args.quiet { Style::Quiet } else { Style::Auto };
    let progress = Progress::new(style, !env.colour);
    let pushed = push(env, &store, &client, &reference, args.referrers, &progress);
    progress.end();
    let digest = pushed?;
    env.print(&format!("{}@{digest}\n", reference.familiar()));
    Ok(())
}

/// Sends an image of the store to the registry that its name says, and what refers to it if asked.
/// Gives its digest.
pub fn push(
    env: &Environment,
    store: &Store,
    client: &Arc<Client>,
    reference: &Reference,
    referrers: bool,
    watch: &dyn Watch,
) -> Result<crate::oci::Digest> {
    // Steps of a build are numbered from 0; this is none of them.
    let step = usize::MAX - env.pushes();
    let started = std::time::Instant::now();
    watch.event(Event::Planned {
        step,
        work: Work::Export,
        name: format!("pushing {}", reference.familiar()),
        emulated: false,
    });
    watch.event(Event::Started { step });
    let source = transport::store_source(store, reference)
        .ok_or_else(|| Report::usage(format!("no image {} in the store", reference.familiar())))?;
    let sink = RegistrySink::new(Client::clone(client), reference.clone());
    let names = std::slice::from_ref(reference);
    let progress = |item: &str, done: u64, total: Option<u64>| {
        watch.event(Event::Progress { step, item: item.to_owned(), done, total });
    };
    let options = CopyOptions { jobs: JOBS, referrers };
    match transport::copy_with(source.as_ref(), &sink, names, options, &progress) {
        Ok(copied) => {
            watch.event(Event::Finished { step, took: started.elapsed() });
            Ok(copied.root.digest)
        }
        Err(error) => {
            let report = copy::failed(&format!("cannot push {}", reference.familiar()), &error);
            watch.event(Event::Failed {
                step,
                message: report.message.clone(),
                took: started.elapsed(),
            });
            Err(report)
        }
    }
}
