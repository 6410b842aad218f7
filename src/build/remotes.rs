//! When sources on other machines are fetched, and what is told of it.
//!
//! All at once, before the process enters a user namespace: `git` and `ssh` then run as the user who
//! builds, and the sandbox finds a process without threads. What a step key needs comes first
//! ([`Build::resolve_remotes`]); files that no step needs, since all who read them are known, are
//! not fetched.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::context::Context;
use crate::graph::{Graph, NodeId, Op, Remote};
use crate::oci::Digest;
use crate::remote::{self, Origin};

use super::Build;
use super::error::{Failure, Kind};
use super::event::{Event, Work};
use super::layers::lock;

impl Build<'_> {
    /// Finds out what all remote sources of a graph are now.
    pub(super) fn resolve_remotes(&self, graph: &Graph) -> Result<(), Failure> {
        let nodes = remote_nodes(graph, |_| true);
        for &(step, _) in &nodes {
            self.watch.event(Event::Planned {
                step,
                work: Work::Pull,
                name: graph.nodes[step].name.clone(),
                emulated: false,
            });
            self.watch.event(Event::Started { step });
        }
        self.each_remote(graph, &nodes, |step, remote| self.identity(step, remote).map(drop))
    }

    /// Fetches the files of those that somebody needs.
    pub(super) fn load_remotes(&self, graph: &Graph, needed: &[bool]) -> Result<(), Failure> {
        for (step, _) in remote_nodes(graph, |id| !needed[id]) {
            self.watch.event(Event::Cached { step });
        }
        let nodes = remote_nodes(graph, |id| needed[id]);
        self.each_remote(graph, &nodes, |step, remote| {
            let started = Instant::now();
            self.source(step, remote)?;
            self.watch.event(Event::Finished { step, took: started.elapsed() });
            Ok(())
        })
    }

    /// Works on several sources at a time; gives the first failure.
    fn each_remote(
        &self,
        graph: &Graph,
        nodes: &[(NodeId, &Remote)],
        work: impl Fn(NodeId, &Remote) -> Result<(), Failure> + Sync,
    ) -> Result<(), Failure> {
        // More than a few connections at a time make nothing faster.
        let threads = self.options.jobs.clamp(3, 8).min(nodes.len());
        let next = Mutex::new(nodes.iter());
        let failure: Mutex<Option<Failure>> = Mutex::new(None);
        std::thread::scope(|scope| {
            let worker = || {
                loop {
                    if lock(&failure).is_some() {
                        return;
                    }
                    let Some(&(step, remote)) = lock(&next).next() else { return };
                    let started = Instant::now();
                    if let Err(error) = work(step, remote) {
                        self.watch.event(Event::Failed {
                            step,
                            message: error.message.clone(),
                            took: started.elapsed(),
                        });
                        let node = &graph.nodes[step];
                        lock(&failure).get_or_insert(error.at(&node.name, node.span));
                    }
                }
            };
            let handles: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
            for handle in handles {
                // Joined one by one: the end of a scope does not wait for threads to be gone.
                if handle.join().is_err() {
                    lock(&failure).get_or_insert_with(|| {
                        Failure::new(Kind::Store, "a worker thread died; please report this")
                    });
                }
            }
        });
        let first = lock(&failure).take();
        match first {
            Some(_) if self.cancel.is_cancelled() => Err(Failure::interrupted()),
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    /// Gives what a key says of a remote source.
    pub(super) fn identity(&self, step: NodeId, remote: &Remote) -> Result<Digest, Failure> {
        let progress = self.progress(step);
        self.remotes.identity(remote, self.options.epoch, &progress).map_err(failed)
    }

    /// Gives the files of a remote source of ADD.
    pub(super) fn source(&self, step: NodeId, remote: &Remote) -> Result<Arc<Context>, Failure> {
        let progress = self.progress(step);
        self.remotes.context(&Origin::Source(remote.clone()), &progress).map_err(failed)
    }

    /// Gives a context that is fetched when it is wanted.
    pub(super) fn lazy_context(&self, origin: &Origin) -> Result<Arc<Context>, Failure> {
        self.remotes.context(origin, &|_, _, _| {}).map_err(failed)
    }

    fn progress(&self, step: NodeId) -> impl Fn(&str, u64, Option<u64>) + Sync {
        move |item: &str, done: u64, total: Option<u64>| {
            self.watch.event(Event::Progress { step, item: item.to_owned(), done, total });
        }
    }
}

fn remote_nodes(graph: &Graph, which: impl Fn(NodeId) -> bool) -> Vec<(NodeId, &Remote)> {
    let all = graph.nodes.iter().enumerate();
    all.filter_map(|(id, node)| match &node.op {
        Op::Remote(remote) if which(id) => Some((id, &**remote)),
        _ => None,
    })
    .collect()
}

/// Turns an error of a remote source into a failure with its exit code.
pub fn failed(error: remote::Error) -> Failure {
    let kind = match error.kind() {
        remote::Kind::Usage => Kind::Step,
        remote::Kind::Host => Kind::Host,
        remote::Kind::Network => Kind::Network,
        remote::Kind::Store => Kind::Store,
        remote::Kind::Interrupted => return Failure::interrupted(),
    };
    let mut failure = Failure::of(kind, "", &error);
    failure.hints.extend(error.hint());
    failure
}
