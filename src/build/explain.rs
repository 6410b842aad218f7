//! `--explain`: why a step was not cached.
//!
//! Each record keeps the named parts of its key ([`crate::graph::parts`]), and the store remembers
//! which record the step of a *place* had last: the same instruction of the same stage of a project,
//! else the one at the same position. What a step misses is compared with that. Which files a COPY
//! selects otherwise is read from the tables of contents of the two layers.
//!
//! Not asked for, this costs two small files for each step that runs, and nothing for others.
//!
//! Start reading at [`before`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;

use crate::graph::key::TreeId;
use crate::graph::parts::{self, Parts};
use crate::graph::{Graph, Node, NodeId, Op, key};
use crate::layer::LayerId;
use crate::layer::toc::{KindRef, Toc};
use crate::oci::Digest;
use crate::store::{Difference, StepRecord};

use super::conductor::Conductor;
use super::error::{Failure, Kind};
use super::layers::lock;

/// How many files are named; more are counted.
const MOST_FILES: usize = 5;

/// What is to be explained, and what has been.
#[derive(Debug, Default)]
pub struct Explain {
    /// Names the project among others in the store: the Dockerfile's path.
    pub project: String,
    /// The user asked for it.
    pub wanted: bool,
    told: Mutex<BTreeMap<NodeId, Vec<Reason>>>,
}

/// Why a step was not cached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// `--no-cache` or `--no-cache-filter`.
    NoCache,
    /// No build of it is known.
    New,
    /// All is as it was, and the layer is gone.
    Lost,
    /// The instruction says something else.
    Command(Change),
    /// An ENV or ARG has another value.
    Variable(String, Change),
    /// It stands on another base image.
    Base(String),
    /// It stands on what another step made.
    Below(String),
    /// Other files are selected.
    Files(Files),
    /// What it reads is other.
    Content(String),
    /// Anything else, by its name.
    Other(String, Change),
}

/// A value before and after; None where there was none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    before: Option<String>,
    after: Option<String>,
}

/// Files that differ between two layers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    changed: Vec<String>,
    added: Vec<String>,
    removed: Vec<String>,
}

impl Explain {
    /// For one project.
    pub fn new(project: String, wanted: bool) -> Explain {
        Explain { project, wanted, told: Mutex::default() }
    }

    fn tell(&self, id: NodeId, reasons: Vec<Reason>) {
        lock(&self.told).insert(id, reasons);
    }

    /// Writes what was told, in the order of the graph.
    pub fn text(&self, graph: &Graph) -> String {
        let told = lock(&self.told);
        if told.is_empty() {
            return "explain: every step was cached\n".to_owned();
        }
        let mut out = String::from("explain: why steps were not cached\n");
        for (id, reasons) in told.iter() {
            out.push_str(&format!("  {}\n", graph.nodes[*id].name));
            for reason in reasons {
                out.push_str(&format!("    - {reason}\n"));
            }
        }
        out
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The digests of long or secret values say nothing to anybody.
        let shown = |value: &String| {
            let value = value.strip_prefix('=').unwrap_or(value);
            !value.contains("sha256:") && value.len() <= 80
        };
        match (&self.before, &self.after) {
            (Some(before), Some(after)) if shown(before) && shown(after) => write!(
                f,
                "was {:?}, is {:?}",
                before.strip_prefix('=').unwrap_or(before),
                after.strip_prefix('=').unwrap_or(after)
            ),
            (Some(_), Some(_)) => f.write_str("changed"),
            (None, Some(after)) if shown(after) => {
                write!(f, "is new: {:?}", after.strip_prefix('=').unwrap_or(after))
            }
            (None, _) => f.write_str("is new"),
            (Some(_), None) => f.write_str("is gone"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NoCache => f.write_str("the cache is switched off (--no-cache)"),
            Reason::New => f.write_str("no earlier build of this step is known"),
            Reason::Lost => {
                f.write_str("nothing changed, but its layer is no longer in the store (pruned?)")
            }
            Reason::Command(change) => write!(f, "the instruction {change}"),
            Reason::Variable(name, change) => write!(f, "{name} {change}"),
            Reason::Base(name) => write!(f, "the base image is another: {name}"),
            Reason::Below(name) => write!(f, "the step below it made something else: {name}"),
            Reason::Files(files) => files.fmt(f),
            Reason::Content(what) => write!(f, "{what} changed"),
            Reason::Other(name, change) => write!(f, "{name} {change}"),
        }
    }
}

impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (what, list) in
            [("changed", &self.changed), ("new", &self.added), ("gone", &self.removed)]
        {
            if list.is_empty() {
                continue;
            }
            let named: Vec<&str> = list.iter().take(MOST_FILES).map(String::as_str).collect();
            let lead = if first { "files " } else { "; " };
            write!(f, "{lead}{what}: {}", named.join(", "))?;
            if list.len() > MOST_FILES {
                write!(f, " and {} more", list.len() - MOST_FILES)?;
            }
            first = false;
        }
        if first {
            f.write_str("owners, modes or times of files changed")?;
        }
        Ok(())
    }
}

/// The places that a step's record can be found by: its instruction's, then its position's.
fn places(conductor: &Conductor<'_>, id: NodeId) -> [Digest; 2] {
    let nodes = &conductor.graph.nodes;
    let node = &nodes[id];
    let own = text(node);
    let siblings = nodes[..id].iter().filter(|other| {
        other.stage == node.stage && other.platform == node.platform && makes_layer(other)
    });
    let (mut position, mut repetition) = (0, 0);
    for sibling in siblings {
        position += 1;
        repetition += usize::from(text(sibling) == own);
    }
    let project = &conductor.build.explain.project;
    let platform = node.platform.to_string();
    [
        key::digest(&serde_json::json!([project, platform, node.stage, own, repetition])),
        key::digest(&serde_json::json!([project, platform, node.stage, position])),
    ]
}

/// Gives the instruction of a node, without its number.
fn text(node: &Node) -> &str {
    node.name.split_once("] ").map_or(node.name.as_str(), |(_, text)| text)
}

fn makes_layer(node: &Node) -> bool {
    !matches!(node.op, Op::Image { .. } | Op::Local { .. } | Op::Remote(_))
}

/// What was known of a step's place before it ran.
pub struct Before {
    last: Option<StepRecord>,
    reasons: Vec<Reason>,
}

/// Looks for the reasons why a step is about to run. None when nobody asks.
pub fn before(
    conductor: &Conductor<'_>,
    id: NodeId,
    below: TreeId,
    key: Option<Digest>,
) -> Option<Before> {
    let explain = &conductor.build.explain;
    if !explain.wanted {
        return None;
    }
    let steps = conductor.build.store.steps();
    let last = places(conductor, id).iter().find_map(|place| steps.last_at(place));
    let reasons = match &last {
        _ if conductor.graph.nodes[id].no_cache => vec![Reason::NoCache],
        None => vec![Reason::New],
        Some(_) if key.is_some_and(|key| steps.get(&key).is_some()) => vec![Reason::Lost],
        Some(last) => {
            let now = parts_of(conductor, id, below);
            let differences = last.differences(&now);
            reasons(conductor, id, differences)
        }
    };
    explain.tell(id, reasons.clone());
    Some(Before { last, reasons })
}

/// Names the files that a COPY selects otherwise, once its layer is made.
pub fn after(conductor: &Conductor<'_>, id: NodeId, before: Option<Before>, layer: &LayerId) {
    let Some(Before { last: Some(last), mut reasons }) = before else { return };
    let is_content = |reason: &Reason| matches!(reason, Reason::Content(_));
    if !matches!(conductor.graph.nodes[id].op, Op::Copy(_)) || !reasons.iter().any(is_content) {
        return;
    }
    // A table that is gone only makes the answer less exact.
    let toc = |layer: &LayerId| conductor.build.store.tocs().load(layer).ok().flatten();
    let (Some(old), Some(new)) = (last.layer.as_ref().and_then(toc), toc(layer)) else { return };
    let files = differing(&old, &new);
    for reason in reasons.iter_mut().filter(|reason| is_content(reason)) {
        *reason = Reason::Files(files.clone());
    }
    reasons.dedup();
    conductor.build.explain.tell(id, reasons);
}

/// Remembers which record the places of a step have now.
pub fn remember(conductor: &Conductor<'_>, id: NodeId, key: Digest) -> Result<(), Failure> {
    let steps = conductor.build.store.steps();
    for place in places(conductor, id) {
        steps
            .put_at(&place, &key)
            .map_err(|error| Failure::of(Kind::Store, "cannot record a step", &error))?;
    }
    Ok(())
}

/// Names the parts of a step's key as it is now.
pub fn parts_of(conductor: &Conductor<'_>, id: NodeId, below: TreeId) -> Parts {
    let node = &conductor.graph.nodes[id];
    parts::parts(node, below, &conductor.contents(id))
}

fn reasons(conductor: &Conductor<'_>, id: NodeId, differences: Vec<Difference>) -> Vec<Reason> {
    let graph = conductor.graph;
    let node = &graph.nodes[id];
    let mut reasons: Vec<Reason> = Vec::new();
    for Difference { name, before, after } in differences {
        let change = Change { before, after };
        let reason = if name == parts::COMMAND {
            Reason::Command(change)
        } else if name == parts::BELOW {
            match node.parent.map(|parent| (&graph.nodes[parent].op, &graph.nodes[parent].name)) {
                Some((Op::Image { image }, _)) => Reason::Base(graph.images[*image].name.clone()),
                Some((_, name)) => Reason::Below(name.clone()),
                None => Reason::Base("nothing (scratch)".to_owned()),
            }
        } else if let Some(name) = name.strip_prefix(parts::VARIABLE) {
            let kind = if conductor.build.checks.is_arg(name) { "ARG" } else { "ENV" };
            Reason::Variable(format!("{kind} {name}"), change)
        } else if let Some(number) = name.strip_prefix(parts::CONTENT) {
            let input = number.parse().ok().and_then(|at: usize| node.inputs.get(at));
            Reason::Content(input.map_or_else(
                || "what it reads".to_owned(),
                |&input| match &graph.nodes[input].op {
                    Op::Local { context } if context.is_empty() => "the build context".to_owned(),
                    Op::Local { context } => format!("the context {context}"),
                    Op::Image { image } => format!("the image {}", graph.images[*image].name),
                    _ => format!("what {} made", graph.nodes[input].name),
                },
            ))
        } else if let Some(name) = name.strip_prefix(parts::MOUNT) {
            Reason::Other(
                format!("the mount {name}"),
                Change { before: change.before.map(mute), after: change.after.map(mute) },
            )
        } else {
            Reason::Other(name, change)
        };
        // The order of variables says something only where nothing else does.
        let says_order = matches!(&reason, Reason::Other(name, _) if name == "order of variables");
        if !says_order || !reasons.iter().any(|known| matches!(known, Reason::Variable(..))) {
            reasons.push(reason);
        }
    }
    let has_variable = reasons.iter().any(|reason| matches!(reason, Reason::Variable(..)));
    reasons.retain(|reason| {
        !(has_variable && matches!(reason, Reason::Other(name, _) if name == "order of variables"))
    });
    if reasons.is_empty() {
        reasons.push(Reason::Content("what it reads".to_owned()));
    }
    reasons
}

/// Keeps a value from being shown: nobody reads mounts as JSON.
fn mute(value: String) -> String {
    Digest::of(value.as_bytes()).to_string()
}

/// Compares two layers by what their entries are, without times.
fn differing(old: &Toc, new: &Toc) -> Files {
    let rows = |toc: &Toc| -> BTreeMap<String, String> {
        toc.iter()
            .filter(|entry| !matches!(entry.kind, KindRef::Dir))
            .map(|entry| {
                let what = format!("{:?} {:o} {} {}", entry.kind, entry.mode, entry.uid, entry.gid);
                (String::from_utf8_lossy(entry.path).into_owned(), what)
            })
            .collect()
    };
    let (old, new) = (rows(old), rows(new));
    let mut files = Files::default();
    for (path, what) in &new {
        match old.get(path) {
            None => files.added.push(path.clone()),
            Some(before) if before != what => files.changed.push(path.clone()),
            Some(_) => {}
        }
    }
    files.removed.extend(old.keys().filter(|path| !new.contains_key(*path)).cloned());
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_in_words() {
        let change = |before: Option<&str>, after: Option<&str>| {
            let owned = |text: &str| text.to_owned();
            Change { before: before.map(owned), after: after.map(owned) }.to_string()
        };
        assert_eq!(change(Some("=1"), Some("=2")), "was \"1\", is \"2\"");
        assert_eq!(change(None, Some("=2")), "is new: \"2\"");
        assert_eq!(change(Some("=2"), None), "is gone");
        assert_eq!(change(Some("sha256:aa"), Some("sha256:bb")), "changed");
    }

    #[test]
    fn many_files_are_counted() {
        let names: Vec<String> = (0..8).map(|number| format!("f{number}")).collect();
        let files = Files { changed: names, added: vec!["n".to_owned()], removed: Vec::new() };
        assert_eq!(files.to_string(), "files changed: f0, f1, f2, f3, f4 and 3 more; new: n");
    }
}
