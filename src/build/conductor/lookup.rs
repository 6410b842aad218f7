//! Phases 1 to 3: what is known already, in the store and in caches, what must be made, and whether
//! that takes a session. Nothing here changes anything but the conductor's own tables.

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::{NodeId, Op, key::TreeId};
use crate::layer::LayerId;
use crate::oci::Digest;

use super::{COSTS, Conductor, Outcome, steps};
use crate::build::cache::Mode;
use crate::build::error::Failure;
use crate::build::explain;
use crate::build::layers::{BlobForm, EPOCH, lock};

/// How many steps are asked for side by side.
const AHEAD: usize = 16;

impl Conductor<'_> {
    pub(super) fn look_up_all(&mut self) -> Result<(), Failure> {
        for id in 0..self.graph.nodes.len() {
            *lock(&self.outcomes[id]) = None;
            self.hollow[id] = false;
            (self.predicted[id], self.keys[id], self.ahead[id]) = (None, None, None);
            self.late_keys[id].take();
            // What stands on a base can be asked for before its turn comes.
            if let Op::Image { image } = self.graph.nodes[id].op {
                self.look_up_image(id, image);
            }
        }
        for id in 0..self.graph.nodes.len() {
            if !matches!(self.graph.nodes[id].op, Op::Image { .. }) {
                self.look_up(id).map_err(|failure| self.placed(id, failure))?;
            }
        }
        Ok(())
    }

    /// Finds what is needed, and takes the outcomes of hollow nodes back whose layers are.
    pub(super) fn solidify(&mut self, forms: &BTreeSet<BlobForm>) -> Result<Vec<bool>, Failure> {
        loop {
            let needed = self.needed();
            if !self.hollow.contains(&true) {
                return Ok(needed);
            }
            let mut read: Vec<NodeId> = Vec::new();
            for (id, node) in self.graph.nodes.iter().enumerate() {
                if needed[id] && !self.is_done(id) {
                    read.extend(node.parent);
                    read.extend(&node.inputs);
                }
            }
            if !forms.is_empty() || self.build.wants_roots {
                read.extend(self.graph.outputs.iter().filter_map(|output| output.node));
            }
            let mut changed = false;
            for id in read {
                let mut next = Some(id);
                while let Some(id) = next {
                    if std::mem::take(&mut self.hollow[id]) {
                        self.solid[id] = true;
                        *lock(&self.outcomes[id]) = None;
                        changed = true;
                    }
                    next = self.graph.nodes[id].parent;
                }
            }
            if !changed {
                return Ok(needed);
            }
        }
    }

    fn below_tree(&self, node: NodeId) -> Option<TreeId> {
        match self.graph.nodes[node].parent {
            None => Some(TreeId::empty()),
            Some(parent) => self.predicted[parent],
        }
    }

    /// Phase 1 for a base image.
    fn look_up_image(&mut self, id: NodeId, image: usize) {
        let config = &self.graph.images[image].config;
        let mut outcome = Outcome::empty();
        for diff_id in &config.rootfs.diff_ids {
            outcome = outcome.with_layer(LayerId::from_diff_id(*diff_id), 0);
        }
        outcome.created = None;
        self.predicted[id] = Some(outcome.tree);
        *lock(&self.outcomes[id]) = Some(outcome);
    }

    /// Phase 1 for one node that is no base image.
    fn look_up(&mut self, id: NodeId) -> Result<(), Failure> {
        let node = &self.graph.nodes[id];
        let Some(below) = self.below_tree(id) else { return Ok(()) };
        let Some(key) = self.early_key(id, below)? else { return Ok(()) };
        self.keys[id] = Some(key);
        if let Op::Run(_) = node.op {
            let layer = LayerId::from_run_key(key);
            self.predicted[id] = Some(below.with_layer(layer.as_str()));
        }
        let Some(below) = self.outcome(node.parent) else { return Ok(()) };
        // What stands on a step that no cache knows is in none either.
        let found = self.recorded(id, key, &below).or_else(|| {
            self.look_ahead(id, key);
            let (outcome, hollow) = self.cached(id, key, &below, false)?;
            self.caches_know = true;
            self.predicted[id] = Some(outcome.tree);
            (!hollow || !self.solid[id]).then(|| {
                self.hollow[id] = hollow;
                outcome
            })
        });
        if let Some(outcome) = found {
            if self.build.explain.wanted {
                // What the next build of this place is compared with.
                explain::remember(self, id, key)?;
            }
            self.predicted[id] = Some(outcome.tree);
            *lock(&self.outcomes[id]) = Some(outcome);
        }
        Ok(())
    }

    fn early_key(&self, id: NodeId, below: TreeId) -> Result<Option<Digest>, Failure> {
        match self.ahead[id] {
            Some((tree, key)) if tree == below => Ok(Some(key)),
            _ => steps::early_key(self, id, below),
        }
    }

    /// Asks caches side by side for a step and for those after it whose keys are known before their
    /// turn comes: RUNs one upon the other, and what stands on them. A registry that is far away then
    /// costs few round trips and not one a step. Only when a cache has known something: one that knows
    /// nothing is asked for nothing but the first steps.
    fn look_ahead(&mut self, id: NodeId, key: Digest) {
        let (cache, epoch) = (&self.build.cache, self.build.options.epoch);
        if !self.caches_know || cache.is_empty() || cache.has_asked(key, epoch) {
            return;
        }
        let mut trees: BTreeMap<NodeId, TreeId> = BTreeMap::new();
        let mut keys = Vec::new();
        for next in id..self.graph.nodes.len() {
            let node = &self.graph.nodes[next];
            if node.no_cache || matches!(node.op, Op::Image { .. }) {
                continue;
            }
            let below = match node.parent {
                None => Some(TreeId::empty()),
                Some(parent) => trees.get(&parent).copied().or(self.predicted[parent]),
            };
            let Some(below) = below else { continue };
            // What is wrong with it is told when its turn comes.
            let Ok(Some(key)) = self.early_key(next, below) else { continue };
            self.ahead[next] = Some((below, key));
            let is_run = matches!(node.op, Op::Run(_));
            if is_run {
                let layer = LayerId::from_run_key(key);
                trees.insert(next, below.with_layer(layer.as_str()));
            }
            if self.build.store.steps().get(&key).is_none() && !cache.has_asked(key, epoch) {
                keys.push((key, is_run));
                if keys.len() == AHEAD {
                    break;
                }
            }
        }
        if keys.len() > 1 {
            cache.look_ahead(&keys, epoch, self.build.watch);
        }
    }

    /// Gives the identity of what an input holds, when it is known.
    pub(in crate::build) fn tree_of(&self, id: NodeId) -> Option<TreeId> {
        lock(&self.outcomes[id]).as_ref().map(|outcome| outcome.tree).or(self.predicted[id])
    }

    /// Looks a key's record up, and checks that its layer can be had.
    pub(super) fn recorded(&self, id: NodeId, key: Digest, below: &Outcome) -> Option<Outcome> {
        if self.graph.nodes[id].no_cache {
            return None;
        }
        let record = self.build.store.steps().get(&key)?;
        let layer = record.layer?;
        self.tell_costs(id, &record.extra);
        // A layer that a cache had clamped to another epoch has other times than a RUN would leave.
        let epoch = record.extra.get(EPOCH).and_then(serde_json::Value::as_i64);
        let fits = epoch.is_none() || epoch == self.build.options.epoch;
        (fits && self.layers.usable(&layer)).then(|| below.with_layer(layer, record.created))
    }

    /// Remembers what the record of a RUN says that its layer could do without.
    fn tell_costs(&self, id: NodeId, extra: &BTreeMap<String, serde_json::Value>) {
        if let Some(costs) = extra.get(COSTS) {
            // Costs of a shape that another version wrote are not told.
            let costs = serde_json::from_value(costs.clone()).unwrap_or_default();
            lock(&self.costs).insert(id, costs);
        }
    }

    /// Looks a key up in the caches of the build. Says too whether the layer cannot be had.
    pub(super) fn cached(
        &self,
        id: NodeId,
        key: Digest,
        below: &Outcome,
        again: bool,
    ) -> Option<(Outcome, bool)> {
        let node = &self.graph.nodes[id];
        let cache = &self.build.cache;
        if node.no_cache || cache.is_empty() {
            return None;
        }
        let is_run = matches!(node.op, Op::Run(_));
        let hit = cache.find(key, is_run, self.build.options.epoch, again, self.build.watch)?;
        self.tell_costs(id, &hit.extra);
        if let Some(remote) = hit.remote {
            self.layers.offer(&hit.layer, remote);
        }
        let hollow = !self.layers.usable(&hit.layer);
        Some((below.with_layer(hit.layer, hit.created), hollow))
    }

    /// Phase 2: what must be there, known or not.
    pub(super) fn needed(&self) -> Vec<bool> {
        let mut needed = vec![false; self.graph.nodes.len()];
        let mut todo: Vec<NodeId> =
            self.graph.outputs.iter().filter_map(|output| output.node).collect();
        while let Some(id) = todo.pop() {
            if std::mem::replace(&mut needed[id], true) {
                continue;
            }
            let node = &self.graph.nodes[id];
            todo.extend(node.parent);
            if !self.is_done(id) {
                todo.extend(&node.inputs);
            }
        }
        needed
    }

    /// A session is needed to run a RUN, and to read what an earlier one left as a directory.
    pub(super) fn wants_session(&self, needed: &[bool], forms: &BTreeSet<BlobForm>) -> bool {
        let of_runs = |id: NodeId| {
            let mut next = Some(id);
            while let Some(id) = next {
                if matches!(self.graph.nodes[id].op, Op::Run(_)) {
                    return true;
                }
                next = self.graph.nodes[id].parent;
            }
            false
        };
        let runs = (0..self.graph.nodes.len()).any(|id| {
            if !needed[id] || self.is_done(id) {
                return false;
            }
            match self.graph.nodes[id].op {
                Op::Run(_) => true,
                Op::Copy(_) | Op::Workdir { .. } => {
                    of_runs(id) || self.graph.nodes[id].inputs.iter().any(|&input| of_runs(input))
                }
                _ => false,
            }
        });
        runs || self.build.wants_shell
            || self.unpacked_runs(needed, forms)
            || self.exports_directories()
            || (self.build.wants_roots
                && needed.iter().enumerate().any(|(id, needed)| *needed && of_runs(id)))
    }

    /// Says whether a RUN's layer is there as a directory but not in a form that an output wants.
    fn unpacked_runs(&self, needed: &[bool], forms: &BTreeSet<BlobForm>) -> bool {
        self.graph.nodes.iter().enumerate().any(|(id, node)| {
            needed[id]
                && matches!(node.op, Op::Run(_))
                && self
                    .outcome(Some(id))
                    .and_then(|outcome| outcome.layers.last().cloned())
                    .is_some_and(|layer| {
                        !self.layers.is_remote(&layer)
                            && forms.iter().any(|form| !self.layers.has_blob(&layer, *form))
                    })
        })
    }

    /// Says whether a cache is to get the layer of a RUN that is there as a directory only.
    fn exports_directories(&self) -> bool {
        let whole = self.build.cache.to.iter().any(|to| to.mode == Mode::Max);
        let exported = self.exported();
        self.graph.nodes.iter().enumerate().any(|(id, node)| {
            whole
                && exported[id]
                && matches!(node.op, Op::Run(_))
                && self
                    .outcome(Some(id))
                    .and_then(|outcome| outcome.layers.last().cloned())
                    .is_some_and(|layer| self.layers.is_directory_only(&layer))
        })
    }

    /// Says which nodes a cache gets: all that outputs are made from, even where they are known.
    pub(in crate::build) fn exported(&self) -> Vec<bool> {
        let mut exported = vec![false; self.graph.nodes.len()];
        if self.build.cache.to.is_empty() && !self.build.cache.inline {
            return exported;
        }
        let mut todo: Vec<NodeId> =
            self.graph.outputs.iter().filter_map(|output| output.node).collect();
        while let Some(id) = todo.pop() {
            if !std::mem::replace(&mut exported[id], true) {
                todo.extend(self.graph.nodes[id].parent);
                todo.extend(&self.graph.nodes[id].inputs);
            }
        }
        exported
    }

    pub(super) fn in_outputs(&self) -> Vec<bool> {
        let mut out = vec![false; self.graph.nodes.len()];
        for output in &self.graph.outputs {
            let mut next = output.node;
            while let Some(id) = next {
                if std::mem::replace(&mut out[id], true) {
                    break;
                }
                next = self.graph.nodes[id].parent;
            }
        }
        out
    }

    /// Says whether a node that must run stands on this one or reads it.
    pub(super) fn has_live_user(&self, id: NodeId, needed: &[bool]) -> bool {
        self.graph.nodes.iter().enumerate().any(|(user, node)| {
            needed[user]
                && !self.is_done(user)
                && (node.inputs.contains(&id) || self.stands_on(user, id))
        })
    }

    fn stands_on(&self, user: NodeId, base: NodeId) -> bool {
        let mut next = self.graph.nodes[user].parent;
        while let Some(id) = next {
            if id == base {
                return true;
            }
            next = self.graph.nodes[id].parent;
        }
        false
    }
}
