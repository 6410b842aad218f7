//! What a build would do: the conductor's first two phases, and nothing after them.
//!
//! Files of contexts are read (their digests are in keys) and remote sources are asked what they
//! hold; no layer is fetched, no namespace is entered, nothing is recorded.

use std::collections::BTreeSet;

use crate::graph::{Graph, Op};
use crate::oci::Digest;

use super::conductor::Conductor;
use super::error::Failure;
use super::{Build, steps};

/// What would become of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its result is known.
    Cached,
    /// It would run.
    Run,
    /// It depends on what a step before it makes.
    Open,
    /// Layers of a base image would be fetched.
    Pull,
    /// Nothing needs it: what stands on it is known, or no output does.
    Unneeded,
    /// A context or a remote source, which is read.
    Source,
}

/// One step of a plan.
#[derive(Debug, Clone, Copy)]
pub struct Preview {
    /// What would become of it.
    pub state: State,
    /// Its key, where that is known before anything runs; the digest of a base image.
    pub key: Option<Digest>,
    /// It would run under an emulator.
    pub emulated: bool,
}

impl<'a> Build<'a> {
    /// Looks all steps up and runs none; one item a node of the graph.
    pub fn preview(&'a self, graph: &'a Graph) -> Result<Vec<Preview>, Failure> {
        let mut conductor = self.conductor(graph, &BTreeSet::new())?;
        let needed = conductor.look()?;
        Ok(graph
            .nodes
            .iter()
            .enumerate()
            .map(|(id, node)| Preview {
                state: state(&conductor, id, needed[id]),
                key: match node.op {
                    Op::Image { image } => Some(graph.images[image].digest),
                    _ => conductor.key_of(id),
                },
                emulated: matches!(node.op, Op::Run(_)) && self.is_emulated(&node.platform),
            })
            .collect())
    }
}

fn state(conductor: &Conductor<'_>, id: usize, needed: bool) -> State {
    match conductor.graph.nodes[id].op {
        _ if !needed => State::Unneeded,
        Op::Local { .. } | Op::Remote(_) => State::Source,
        Op::Image { .. } => match conductor.outcome(Some(id)) {
            Some(outcome) if !steps::missing(conductor, &outcome).is_empty() => State::Pull,
            _ => State::Cached,
        },
        _ if conductor.outcome(Some(id)).is_some() => State::Cached,
        _ if conductor.key_of(id).is_none() => State::Open,
        _ => State::Run,
    }
}
