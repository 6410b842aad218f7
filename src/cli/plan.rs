//! `lapstrake plan`: the step graph with keys and states, as a tree, JSON, Mermaid or DOT.
//!
//! Pure: from a graph and what was looked up to text.

use serde_json::{Value, json};

use crate::build::preview::{Preview, State};
use crate::dockerfile::LineIndex;
use crate::graph::{Graph, Node, Op};

use super::args::PlanFormat;

/// Draws a plan.
pub fn draw(format: PlanFormat, graph: &Graph, steps: &[Preview], lines: &LineIndex) -> String {
    let page = Page { graph, steps, lines };
    match format {
        PlanFormat::Tree => page.tree(),
        PlanFormat::Json => format!("{:#}\n", page.json()),
        PlanFormat::Mermaid => page.mermaid(),
        PlanFormat::Dot => page.dot(),
    }
}

struct Page<'a> {
    graph: &'a Graph,
    steps: &'a [Preview],
    lines: &'a LineIndex,
}

/// The steps of one stage for one platform.
struct Group<'a> {
    title: String,
    steps: Vec<(usize, &'a Node)>,
}

fn word(state: State) -> &'static str {
    match state {
        State::Cached => "cached",
        State::Run => "run",
        State::Open => "open",
        State::Pull => "pull",
        State::Unneeded => "unneeded",
        State::Source => "source",
    }
}

fn kind(op: &Op) -> &'static str {
    match op {
        Op::Image { .. } => "image",
        Op::Local { .. } => "context",
        Op::Remote(_) => "remote",
        Op::Run(_) => "run",
        Op::Copy(copy) if copy.add => "add",
        Op::Copy(_) => "copy",
        Op::Workdir { .. } => "workdir",
    }
}

/// Gives the name of a step without what is said elsewhere: `[linux/arm64 build 2/5] RUN make`.
fn short(node: &Node) -> String {
    let name = match &node.op {
        Op::Local { context } if context.is_empty() => "the build context",
        Op::Local { context } => return format!("the context {context}"),
        _ => node.name.split_once("] ").map_or(node.name.as_str(), |(_, rest)| rest),
    };
    let name: String = name.split_whitespace().collect::<Vec<_>>().join(" ");
    match name.char_indices().nth(100) {
        Some((cut, _)) => format!("{}…", &name[..cut]),
        None => name,
    }
}

impl<'a> Page<'a> {
    /// Puts steps of one stage together, in the order of the graph; sources stand alone.
    fn groups(&self) -> Vec<Group<'a>> {
        let mut groups: Vec<Group<'a>> = Vec::new();
        for (id, node) in self.graph.nodes.iter().enumerate() {
            let title = match node.op {
                Op::Local { .. } | Op::Remote(_) => "sources".to_owned(),
                Op::Image { .. } => "base images".to_owned(),
                _ => format!("{} {}", node.platform, node.stage).trim().to_owned(),
            };
            match groups.iter_mut().find(|group| group.title == title) {
                Some(group) => group.steps.push((id, node)),
                None => groups.push(Group { title, steps: vec![(id, node)] }),
            }
        }
        groups
    }

    fn line(&self, node: &Node) -> Option<usize> {
        (!node.span.is_empty()).then(|| self.lines.line(node.span.start))
    }

    /// Gives what a step reads besides what it stands on, and that as well when it is elsewhere.
    fn from(&self, id: usize, before: Option<usize>) -> Vec<usize> {
        let node = &self.graph.nodes[id];
        let parent = node.parent.filter(|parent| Some(*parent) != before);
        parent.into_iter().chain(node.inputs.iter().copied()).collect()
    }

    fn tree(&self) -> String {
        let mut out = String::new();
        let groups = self.groups();
        let numbers: std::collections::BTreeMap<usize, usize> =
            groups.iter().flat_map(|group| &group.steps).map(|(id, _)| *id).zip(1..).collect();
        for group in &groups {
            out.push_str(&format!("{}\n", group.title));
            let mut before = None;
            for (at, (id, node)) in group.steps.iter().enumerate() {
                let step = &self.steps[*id];
                let branch = if at + 1 == group.steps.len() { "└─" } else { "├─" };
                let key = step.key.map_or_else(|| "-".to_owned(), |key| key.hex()[..12].to_owned());
                let number = numbers[id];
                let mut line = format!(
                    "{branch} {number:>3} {:<8} {key:<12} {}",
                    word(step.state),
                    short(node)
                );
                if step.emulated {
                    line.push_str(" (emulated)");
                }
                let from: Vec<String> =
                    self.from(*id, before).iter().map(|id| numbers[id].to_string()).collect();
                if !from.is_empty() {
                    line.push_str(&format!("  ← {}", from.join(", ")));
                }
                out.push_str(&format!("{line}\n"));
                before = Some(*id);
            }
        }
        for output in &self.graph.outputs {
            let step =
                output.node.map_or_else(|| "nothing".to_owned(), |id| numbers[&id].to_string());
            out.push_str(&format!("image for {} ← {step}\n", output.platform));
        }
        let count = |state| self.steps.iter().filter(|step| step.state == state).count();
        out.push_str(&format!(
            "{} cached, {} to run, {} open, {} to pull\n",
            count(State::Cached),
            count(State::Run),
            count(State::Open),
            count(State::Pull)
        ));
        out
    }

    fn json(&self) -> Value {
        let steps: Vec<Value> = self
            .graph
            .nodes
            .iter()
            .zip(self.steps)
            .enumerate()
            .map(|(id, (node, step))| {
                json!({
                    "id": id,
                    "kind": kind(&node.op),
                    "name": node.name,
                    "stage": node.stage,
                    "platform": node.platform.to_string(),
                    "line": self.line(node),
                    "parent": node.parent,
                    "inputs": node.inputs,
                    "state": word(step.state),
                    "key": step.key.map(|key| key.to_string()),
                    "emulated": step.emulated,
                })
            })
            .collect();
        let outputs: Vec<Value> = self
            .graph
            .outputs
            .iter()
            .map(|output| json!({ "platform": output.platform.to_string(), "step": output.node }))
            .collect();
        json!({ "outputs": outputs, "steps": steps })
    }

    /// Gives what stands in the box of a step.
    fn label(&self, id: usize) -> String {
        let step = &self.steps[id];
        let mark = if step.emulated { ", emulated" } else { "" };
        let key = step.key.map_or_else(String::new, |key| format!(" {}", &key.hex()[..12]));
        format!("{}\n{}{mark}{key}", short(&self.graph.nodes[id]), word(step.state))
    }

    /// Calls `edge` with each pair of steps that depend on each other, and whether the second stands
    /// on the first.
    fn edges(&self, mut edge: impl FnMut(usize, usize, bool)) {
        for (id, node) in self.graph.nodes.iter().enumerate() {
            node.parent.into_iter().for_each(|parent| edge(parent, id, true));
            node.inputs.iter().for_each(|&input| edge(input, id, false));
        }
    }

    fn mermaid(&self) -> String {
        let quoted = |text: &str| {
            let text = text.replace('&', "&amp;").replace('"', "&quot;");
            let text = text.replace('<', "&lt;").replace('>', "&gt;");
            format!("\"{}\"", text.replace('\n', "<br>"))
        };
        let mut out = String::from("flowchart TD\n");
        for (number, group) in self.groups().iter().enumerate() {
            out.push_str(&format!("  subgraph g{number}[{}]\n", quoted(&group.title)));
            for (id, _) in &group.steps {
                let class = word(self.steps[*id].state);
                out.push_str(&format!("    n{id}[{}]:::{class}\n", quoted(&self.label(*id))));
            }
            out.push_str("  end\n");
        }
        self.edges(|from, to, stands| {
            let arrow = if stands { "-->" } else { "-.->" };
            out.push_str(&format!("  n{from} {arrow} n{to}\n"));
        });
        for (number, output) in self.graph.outputs.iter().enumerate() {
            let label = quoted(&format!("image for {}", output.platform));
            out.push_str(&format!("  o{number}([{label}])\n"));
            if let Some(id) = output.node {
                out.push_str(&format!("  n{id} --> o{number}\n"));
            }
        }
        for (class, colour) in COLOURS {
            out.push_str(&format!("  classDef {class} fill:{colour},color:#000\n"));
        }
        out
    }

    fn dot(&self) -> String {
        let quoted = |text: &str| {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"");
            format!("\"{}\"", text.replace('\n', "\\n"))
        };
        let mut out = String::from(
            "digraph plan {\n  rankdir=TB;\n  node [shape=box, style=filled, fontname=\"sans-serif\"];\n",
        );
        for (number, group) in self.groups().iter().enumerate() {
            let title = quoted(&group.title);
            out.push_str(&format!("  subgraph cluster_{number} {{\n    label={title};\n"));
            for (id, _) in &group.steps {
                let class = word(self.steps[*id].state);
                let colour =
                    COLOURS.iter().find(|(name, _)| *name == class).map_or("#fff", |row| row.1);
                let label = quoted(&self.label(*id));
                out.push_str(&format!("    n{id} [label={label}, fillcolor=\"{colour}\"];\n"));
            }
            out.push_str("  }\n");
        }
        self.edges(|from, to, stands| {
            let style = if stands { "" } else { " [style=dashed]" };
            out.push_str(&format!("  n{from} -> n{to}{style};\n"));
        });
        for (number, output) in self.graph.outputs.iter().enumerate() {
            let label = quoted(&format!("image for {}", output.platform));
            out.push_str(&format!(
                "  o{number} [label={label}, shape=ellipse, fillcolor=\"#ffffff\"];\n"
            ));
            if let Some(id) = output.node {
                out.push_str(&format!("  n{id} -> o{number};\n"));
            }
        }
        out.push_str("}\n");
        out
    }
}

/// Fills that black text is read on: greens are done, oranges are work.
const COLOURS: [(&str, &str); 6] = [
    ("cached", "#c8e6c9"),
    ("run", "#ffcc80"),
    ("open", "#fff3c4"),
    ("pull", "#ffe0b2"),
    ("unneeded", "#eeeeee"),
    ("source", "#bbdefb"),
];
