//! When two nodes of a plan are one: two platforms share what neither of them changes.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::{Node, NodeId, Op};
use crate::oci::Platform;

/// Where nodes that may be one are kept together: by what differs between most of them, and is cheap to
/// hash.
pub(super) fn place(node: &Node) -> u64 {
    let text = match &node.op {
        Op::Image { .. } | Op::Remote(_) => "",
        Op::Local { context } => context,
        Op::Run(run) => run.args.last().map_or("", String::as_str),
        Op::Copy(copy) => &copy.dest,
        Op::Workdir { path, .. } => path,
    };
    let mut hasher = DefaultHasher::new();
    (node.parent, node.inputs.first(), text).hash(&mut hasher);
    hasher.finish()
}

/// What makes two nodes one.
pub(super) fn likeness(node: &Node) -> (&Op, Option<NodeId>, &[NodeId], &Platform, bool) {
    (&node.op, node.parent, &node.inputs, &node.platform, node.no_cache)
}
