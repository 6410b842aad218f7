//! Several plans as one graph: the targets of a bake.
//!
//! Each Dockerfile is planned by itself, then its nodes are added here, and nodes that are equal are
//! one: what two targets have in common runs once. A target that another one names as a context
//! ([`stand_in`]) is planned first; in its user's plan it stands as a base image, and here that
//! image becomes the node whose result it is. So no image is made of what is only in between.
//!
//! Nodes keep the number of their Dockerfile ([`Node::part`]), because a span says nothing without
//! it. Steps that may run under different options (secrets, limits) are equal only when those are.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::oci::{DiffId, Digest, Platform};

use super::{BaseImage, Graph, Node, NodeId, Op, Output};

/// Handles from here on are stand-ins: far more than a build has base images.
const STAND_INS: usize = 1 << 32;

/// What two nodes have in common when they are one.
type Likeness = (Op, Option<NodeId>, Vec<NodeId>, Arc<Platform>, bool, usize);

/// A merged graph under construction.
#[derive(Debug, Default)]
pub struct Merge {
    /// What there is so far; without outputs.
    pub graph: Graph,
    known: HashMap<Likeness, NodeId>,
    images: HashMap<(String, Digest, String), usize>,
    stand_ins: Vec<Result>,
}

/// What one target makes for one platform, in the merged graph.
#[derive(Debug, Clone)]
pub struct Result {
    /// Its file system; None is empty.
    pub node: Option<NodeId>,
    /// Its configuration.
    pub config: crate::oci::ImageConfig,
    /// As in [`Output`].
    pub base_history: usize,
    /// As in [`Output`].
    pub base: Option<usize>,
    /// As asked for.
    pub platform: Platform,
}

impl Result {
    /// Makes an output of it.
    pub fn output(&self) -> Output {
        Output {
            platform: self.platform.clone(),
            node: self.node,
            config: self.config.clone(),
            base_history: self.base_history,
            base: self.base,
        }
    }
}

/// How the nodes of one plan enter the whole.
#[derive(Debug, Clone, Default)]
pub struct Part {
    /// Its number.
    pub number: usize,
    /// Parts with the same options have the same.
    pub options: usize,
    /// The name that step names begin with.
    pub name: String,
    /// Contexts by the names that they have in the whole.
    pub contexts: BTreeMap<String, String>,
}

impl Merge {
    /// Makes a base image that stands for another target's result in a plan.
    pub fn stand_in(&mut self, name: &str, result: Result) -> BaseImage {
        let handle = STAND_INS + self.stand_ins.len();
        let mut config = result.config.clone();
        // Planning asks only whether there is a layer; which ones is known when they are made.
        config.rootfs.diff_ids = match result.node {
            Some(_) => vec![DiffId(Digest::of(name.as_bytes()))],
            None => Vec::new(),
        };
        let platform = Platform {
            os: config.os.clone(),
            architecture: config.architecture.clone(),
            variant: config.variant.clone(),
            ..result.platform.clone()
        };
        self.stand_ins.push(result);
        BaseImage {
            name: format!("target:{name}"),
            handle,
            platform,
            digest: Digest::of(format!("target:{name}").as_bytes()),
            config,
        }
    }

    /// Adds a plan; gives its results, one a platform.
    pub fn add(&mut self, plan: Graph, part: &Part) -> Vec<Result> {
        let mut nodes: Vec<Option<NodeId>> = Vec::with_capacity(plan.nodes.len());
        let mut images: Vec<Option<usize>> = Vec::with_capacity(plan.images.len());
        for image in &plan.images {
            images.push((image.handle < STAND_INS).then(|| self.image(image)));
        }
        let stand_in = |image: usize| plan.images[image].handle.checked_sub(STAND_INS);
        for mut node in plan.nodes {
            if let Op::Image { image } = &mut node.op {
                match images[*image] {
                    Some(new) => *image = new,
                    None => {
                        let result = stand_in(*image).and_then(|index| self.stand_ins.get(index));
                        nodes.push(result.and_then(|result| result.node));
                        continue;
                    }
                }
            }
            if let Op::Local { context } = &mut node.op
                && let Some(name) = part.contexts.get(context)
            {
                context.clone_from(name);
            }
            node.parent = node.parent.and_then(|parent| nodes[parent]);
            // A stand-in without layers makes no node, so every input is there.
            node.inputs = node.inputs.iter().filter_map(|input| nodes[*input]).collect();
            node.part = part.number;
            node.name = named(&node, part);
            nodes.push(Some(self.node(node, part.options)));
        }
        let results = plan.outputs.into_iter().map(|output| {
            let below = output.base.and_then(stand_in).and_then(|index| self.stand_ins.get(index));
            let (base_history, base) = match below {
                Some(below) => (below.base_history, below.base),
                None => (output.base_history, output.base.and_then(|base| images[base])),
            };
            let node = output.node.and_then(|node| nodes[node]);
            let (platform, config) = (output.platform, output.config);
            Result { node, config, base_history, base, platform }
        });
        results.collect()
    }

    fn image(&mut self, image: &BaseImage) -> usize {
        let key = (image.name.clone(), image.digest, image.platform.to_string());
        let next = self.graph.images.len();
        let known = *self.images.entry(key).or_insert(next);
        if known == next {
            self.graph.images.push(image.clone());
        }
        known
    }

    fn node(&mut self, node: Node, options: usize) -> NodeId {
        // Only programs are run under options.
        let options = if matches!(node.op, Op::Run(_)) { options } else { 0 };
        let likeness = (
            node.op.clone(),
            node.parent,
            node.inputs.clone(),
            node.platform.clone(),
            node.no_cache,
            options,
        );
        let next = self.graph.nodes.len();
        let known = *self.known.entry(likeness).or_insert(next);
        if known == next {
            self.graph.nodes.push(node);
        }
        known
    }
}

/// Puts the target's name into a step's: `[app build 2/5] RUN make`.
fn named(node: &Node, part: &Part) -> String {
    match node.name.strip_prefix('[') {
        Some(rest) if matches!(node.op, Op::Run(_) | Op::Copy(_) | Op::Workdir { .. }) => {
            format!("[{} {rest}", part.name)
        }
        _ => node.name.clone(),
    }
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
