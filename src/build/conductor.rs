//! The conductor: which nodes must run, in what order, and who waits for whom.
//!
//! # Model
//!
//! 0. *Resolve* remote sources: which content a URL, which commit a repository has now.
//! 1. *Look up*, on one thread, in the order of the graph: each node's key is computed as far as it
//!    can be without running anything, and its record looked for. The tree that a RUN makes is known
//!    from its key alone, so a chain of RUNs is looked up whole.
//! 2. *Need*: from the outputs backwards. A node that is known needs only its parent (whose layers
//!    lie in the image too); one that is not known needs its inputs as well.
//!    Remote sources that a step needs are fetched now, all at once.
//! 3. If a RUN must really run, the session (user namespace) is entered now, before any thread.
//! 4. *Run*: workers take ready nodes; a node whose key was not computable before looks itself up
//!    first. Each result is recorded as it is made, under a lock of its key, so that two builds do
//!    not make the same thing and a killed one resumes.
//! 5. *Pack*: one more thread makes blobs of the layers that are in an output, while later steps run.
//!
//! Start reading at [`Conductor::run`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Instant;

use crate::graph::{Graph, NodeId, Op, key, key::TreeId};
use crate::layer::LayerId;
use crate::oci::Digest;
use crate::store::StepRecord;

use super::error::{Failure, Kind};
use super::event::{Event, StepId, Work};
use super::layers::{BlobForm, Layers, lock};
use super::waste::Costs;
use super::{Build, explain, steps};

/// What a step record calls the [`Costs`] of its layer.
const COSTS: &str = "costs";

/// What a node made.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// All layers from the bottom, this node's last.
    pub layers: Arc<Vec<LayerId>>,
    /// Their identity.
    pub tree: TreeId,
    /// When this node's layer was made, seconds since 1970; None for base images.
    pub created: Option<i64>,
}

impl Outcome {
    /// The empty root file system.
    pub fn empty() -> Outcome {
        Outcome { layers: Arc::default(), tree: TreeId::empty(), created: None }
    }

    /// This with one more layer.
    pub fn with_layer(&self, layer: LayerId, created: i64) -> Outcome {
        let mut layers = self.layers.to_vec();
        let tree = self.tree.with_layer(layer.as_str());
        layers.push(layer);
        Outcome { layers: Arc::new(layers), tree, created: Some(created) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Idle,
    Waiting(usize),
    Running,
    Done,
}

/// What the workers share.
struct Board {
    status: Vec<Status>,
    ready: VecDeque<NodeId>,
    /// Needed nodes that are not done.
    left: usize,
    failure: Option<Failure>,
}

/// One build under way.
pub struct Conductor<'a> {
    /// The build.
    pub build: &'a Build<'a>,
    /// Its graph.
    pub graph: &'a Graph,
    pub(super) layers: Layers<'a>,
    outcomes: Vec<Mutex<Option<Outcome>>>,
    /// Identity of what each node makes, known before it runs.
    predicted: Vec<Option<TreeId>>,
    /// Key of each node, where it is known before it runs.
    keys: Vec<Option<Digest>>,
    /// What the layers of RUNs could do without.
    costs: Mutex<BTreeMap<NodeId, Costs>>,
    /// Identities of what steps read, by their inputs.
    contents: Mutex<BTreeMap<NodeId, Vec<Digest>>>,
}

impl<'a> Conductor<'a> {
    /// Prepares a build.
    pub fn new(build: &'a Build<'a>, graph: &'a Graph, layers: Layers<'a>) -> Conductor<'a> {
        Conductor {
            build,
            graph,
            layers,
            outcomes: graph.nodes.iter().map(|_| Mutex::new(None)).collect(),
            predicted: vec![None; graph.nodes.len()],
            keys: vec![None; graph.nodes.len()],
            costs: Mutex::default(),
            contents: Mutex::default(),
        }
    }

    /// Builds all outputs. `forms` are the blobs to make of each layer in them.
    pub fn run(&mut self, forms: &BTreeSet<BlobForm>) -> Result<(), Failure> {
        let mut needed = self.look()?;
        self.build.load_remotes(self.graph, &needed)?;
        if self.wants_session(&needed, forms) {
            let assumed = self.build.store.id_map();
            let session = self.build.enter_session(self.graph, &needed, |id| self.is_done(id))?;
            self.layers.set_session(session);
            if self.build.store.id_map() != assumed {
                // Directories that were made with another id map are of no use: look again.
                for id in 0..self.graph.nodes.len() {
                    *lock(&self.outcomes[id]) = None;
                    self.look_up(id).map_err(|failure| self.placed(id, failure))?;
                }
                needed = self.needed();
            }
        }
        self.announce(&needed);
        self.execute(&needed, forms)?;
        let in_output = self.in_outputs();
        for (&id, costs) in lock(&self.costs).iter().filter(|(id, _)| in_output[**id]) {
            self.build.checks.add(&self.graph.nodes[id], costs);
        }
        Ok(())
    }

    /// Phases 0 to 2: looks everything up, and says which nodes are needed.
    pub(super) fn look(&mut self) -> Result<Vec<bool>, Failure> {
        self.build.resolve_remotes(self.graph)?;
        for id in 0..self.graph.nodes.len() {
            self.look_up(id).map_err(|failure| self.placed(id, failure))?;
        }
        Ok(self.needed())
    }

    /// Gives a node's key, where it is known before it runs.
    pub(super) fn key(&self, id: NodeId) -> Option<Digest> {
        self.keys[id]
    }

    /// Gives what a node made, once it has.
    pub fn outcome(&self, node: Option<NodeId>) -> Option<Outcome> {
        match node {
            None => Some(Outcome::empty()),
            Some(id) => lock(&self.outcomes[id]).clone(),
        }
    }

    fn is_done(&self, id: NodeId) -> bool {
        lock(&self.outcomes[id]).is_some()
    }

    /// Gives what a node stands on. The parent has run before.
    pub(super) fn below(&self, node: NodeId) -> Result<Outcome, Failure> {
        self.outcome(self.graph.nodes[node].parent).ok_or_else(|| {
            Failure::new(Kind::Store, "a step was started before the one below it was done")
        })
    }

    fn below_tree(&self, node: NodeId) -> Option<TreeId> {
        match self.graph.nodes[node].parent {
            None => Some(TreeId::empty()),
            Some(parent) => self.predicted[parent],
        }
    }

    /// Phase 1 for one node.
    fn look_up(&mut self, id: NodeId) -> Result<(), Failure> {
        let node = &self.graph.nodes[id];
        if let Op::Image { image } = node.op {
            let config = &self.graph.images[image].config;
            let mut outcome = Outcome::empty();
            for diff_id in &config.rootfs.diff_ids {
                outcome = outcome.with_layer(LayerId::from_diff_id(*diff_id), 0);
            }
            outcome.created = None;
            self.predicted[id] = Some(outcome.tree);
            *lock(&self.outcomes[id]) = Some(outcome);
            return Ok(());
        }
        let Some(below) = self.below_tree(id) else { return Ok(()) };
        let Some(key) = steps::early_key(self, id, below)? else { return Ok(()) };
        self.keys[id] = Some(key);
        if let Op::Run(_) = node.op {
            let layer = LayerId::from_run_key(key);
            self.predicted[id] = Some(below.with_layer(layer.as_str()));
        }
        let Some(below) = self.outcome(node.parent) else { return Ok(()) };
        if let Some(outcome) = self.recorded(id, key, &below) {
            if self.build.explain.wanted {
                // What the next build of this place is compared with.
                explain::remember(self, id, key)?;
            }
            self.predicted[id] = Some(outcome.tree);
            *lock(&self.outcomes[id]) = Some(outcome);
        }
        Ok(())
    }

    /// Gives the identity of what an input holds, when it is known.
    pub(super) fn tree_of(&self, id: NodeId) -> Option<TreeId> {
        lock(&self.outcomes[id]).as_ref().map(|outcome| outcome.tree).or(self.predicted[id])
    }

    /// Looks a key's record up, and checks that its layer can be had.
    pub(super) fn recorded(&self, id: NodeId, key: Digest, below: &Outcome) -> Option<Outcome> {
        if self.graph.nodes[id].no_cache {
            return None;
        }
        let record = self.build.store.steps().get(&key)?;
        let layer = record.layer?;
        if let Some(costs) = record.extra.get(COSTS) {
            // Costs of a shape that another version wrote are not told.
            let costs = serde_json::from_value(costs.clone()).unwrap_or_default();
            lock(&self.costs).insert(id, costs);
        }
        self.layers.usable(&layer).then(|| below.with_layer(layer, record.created))
    }

    /// Phase 2: what must be there, known or not.
    fn needed(&self) -> Vec<bool> {
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

    fn announce(&self, needed: &[bool]) {
        for (id, node) in self.graph.nodes.iter().enumerate() {
            if !needed[id] || matches!(node.op, Op::Local { .. } | Op::Remote(_)) {
                continue;
            }
            let work = match node.op {
                Op::Image { .. } => Work::Pull,
                _ => Work::Instruction,
            };
            self.build.watch.event(Event::Planned {
                step: id,
                work,
                name: node.name.clone(),
                emulated: matches!(node.op, Op::Run(_)) && self.build.is_emulated(&node.platform),
            });
            if self.is_done(id) && !matches!(node.op, Op::Image { .. }) {
                self.build.watch.event(Event::Cached { step: id });
            }
        }
    }

    /// A session is needed to run a RUN, and to read what an earlier one left as a directory.
    fn wants_session(&self, needed: &[bool], forms: &BTreeSet<BlobForm>) -> bool {
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
                        forms.iter().any(|form| !self.layers.has_blob(&layer, *form))
                    })
        })
    }

    /// Phases 4 and 5.
    fn execute(&self, needed: &[bool], forms: &BTreeSet<BlobForm>) -> Result<(), Failure> {
        let count = self.graph.nodes.len();
        let mut users: Vec<Vec<NodeId>> = vec![Vec::new(); count];
        let mut status = vec![Status::Idle; count];
        let mut ready = VecDeque::new();
        let mut left = 0;
        let in_output = self.in_outputs();
        let fetch_everything = !forms.is_empty() || self.build.wants_roots;
        for id in (0..count).filter(|&id| needed[id]) {
            let node = &self.graph.nodes[id];
            let is_image = matches!(node.op, Op::Image { .. });
            let finished = self.is_done(id)
                && !(is_image && (fetch_everything || self.has_live_user(id, needed)));
            if finished {
                status[id] = Status::Done;
                continue;
            }
            let mut waits = 0;
            let mut sources: Vec<NodeId> = node.parent.into_iter().collect();
            sources.extend(&node.inputs);
            sources.sort_unstable();
            sources.dedup();
            for source in sources {
                if status[source] != Status::Done {
                    users[source].push(id);
                    waits += 1;
                }
            }
            left += 1;
            status[id] = Status::Waiting(waits);
            if waits == 0 {
                ready.push_back(id);
            }
        }
        let board = Mutex::new(Board { status, ready, left, failure: None });
        let changed = Condvar::new();
        let (pack, packs) = mpsc::channel::<LayerId>();
        let nothing_to_do = left == 0;
        for id in (0..count).filter(|&id| needed[id] && self.is_done(id)) {
            if !matches!(self.graph.nodes[id].op, Op::Image { .. }) {
                self.send_to_packer(id, &in_output, &pack);
            }
        }
        if nothing_to_do {
            drop(pack);
            return self.pack_all(packs, forms);
        }
        let workers = self.build.options.jobs.max(1).min(left);
        std::thread::scope(|scope| {
            // Not started before: a session is entered with one thread.
            let (_ticking, ticks) = mpsc::channel::<()>();
            if self.build.watch.is_live() {
                scope.spawn(move || self.tick(&ticks));
            }
            let packer = scope.spawn(|| {
                let result = self.pack_all(packs, forms);
                if let Err(failure) = &result {
                    let mut board = lock(&board);
                    board.failure.get_or_insert_with(|| failure.clone());
                    changed.notify_all();
                }
                result
            });
            let handles: Vec<_> = (0..workers)
                .map(|_| {
                    let (board, changed, users) = (&board, &changed, &users);
                    let (in_output, pack) = (&in_output, pack.clone());
                    scope.spawn(move || self.work(board, changed, users, in_output, &pack))
                })
                .collect();
            for handle in handles {
                if handle.join().is_err() {
                    let mut board = lock(&board);
                    board.failure.get_or_insert_with(|| {
                        Failure::new(Kind::Store, "a worker thread died; please report this")
                    });
                }
            }
            drop(pack);
            let packed = packer.join().unwrap_or_else(|_| {
                Err(Failure::new(Kind::Store, "the packing thread died; please report this"))
            });
            match lock(&board).failure.take() {
                Some(failure) => Err(failure),
                None => packed,
            }
        })
    }

    /// Moves the clocks of a live display until the other end of the channel is dropped.
    fn tick(&self, ticks: &mpsc::Receiver<()>) {
        let pause = std::time::Duration::from_millis(100);
        while let Err(mpsc::RecvTimeoutError::Timeout) = ticks.recv_timeout(pause) {
            self.build.watch.tick();
        }
    }

    /// Has a node's layer packed when it is in an output.
    fn send_to_packer(&self, id: NodeId, in_output: &[bool], pack: &mpsc::Sender<LayerId>) {
        if in_output[id]
            && let Some(layer) =
                self.outcome(Some(id)).and_then(|outcome| outcome.layers.last().cloned())
        {
            // The packer goes away before its senders only when it failed, and then its failure
            // is on the board.
            let _ = pack.send(layer);
        }
    }

    /// Says whether a node that must run stands on this one or reads it.
    fn has_live_user(&self, id: NodeId, needed: &[bool]) -> bool {
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

    fn in_outputs(&self) -> Vec<bool> {
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

    fn pack_all(
        &self,
        layers: mpsc::Receiver<LayerId>,
        forms: &BTreeSet<BlobForm>,
    ) -> Result<(), Failure> {
        let mut done = BTreeSet::new();
        for layer in layers {
            if !done.insert(layer.clone()) {
                continue;
            }
            for form in forms {
                self.build.check_cancelled()?;
                self.layers.blob(&layer, *form)?;
            }
        }
        Ok(())
    }

    fn work(
        &self,
        board: &Mutex<Board>,
        changed: &Condvar,
        users: &[Vec<NodeId>],
        in_output: &[bool],
        pack: &mpsc::Sender<LayerId>,
    ) {
        loop {
            let id = {
                let mut board = lock(board);
                loop {
                    if board.failure.is_some() || board.left == 0 {
                        return;
                    }
                    if let Some(id) = board.ready.pop_front() {
                        board.status[id] = Status::Running;
                        break id;
                    }
                    board = changed.wait(board).unwrap_or_else(std::sync::PoisonError::into_inner);
                }
            };
            let alarm = Alarm { board, changed };
            let result = self.step(id);
            drop(alarm);
            let mut board = lock(board);
            match result {
                Ok(outcome) => {
                    *lock(&self.outcomes[id]) = Some(outcome);
                    board.status[id] = Status::Done;
                    board.left -= 1;
                    for &user in &users[id] {
                        if let Status::Waiting(waits) = board.status[user] {
                            board.status[user] = Status::Waiting(waits - 1);
                            if waits == 1 {
                                board.ready.push_back(user);
                            }
                        }
                    }
                    changed.notify_all();
                    drop(board);
                    self.send_to_packer(id, in_output, pack);
                }
                Err(failure) => {
                    board.failure.get_or_insert(failure);
                    changed.notify_all();
                    return;
                }
            }
        }
    }

    /// Runs one node, and tells the watcher.
    fn step(&self, id: StepId) -> Result<Outcome, Failure> {
        let node = &self.graph.nodes[id];
        let started = Instant::now();
        self.build.check_cancelled()?;
        let silent = matches!(node.op, Op::Local { .. } | Op::Remote(_));
        let result = self.known_or_made(id);
        match &result {
            Ok((_, true)) if !silent => self.build.watch.event(Event::Cached { step: id }),
            Ok(_) if !silent => {
                self.build.watch.event(Event::Finished { step: id, took: started.elapsed() });
            }
            Ok(_) => {}
            Err(failure) => self.build.watch.event(Event::Failed {
                step: id,
                message: failure.message.clone(),
                took: started.elapsed(),
            }),
        }
        // Whatever a stopped step died of, it was the user's wish.
        if result.is_err() && self.build.cancel.is_cancelled() {
            return Err(Failure::interrupted());
        }
        result.map(|(outcome, _)| outcome).map_err(|failure| self.placed(id, failure))
    }

    /// Says where in the Dockerfile a node failed. What no line of it stands for is told where it is
    /// wanted.
    fn placed(&self, id: NodeId, failure: Failure) -> Failure {
        let node = &self.graph.nodes[id];
        let place = match node.span.is_empty() {
            true => self.graph.nodes.iter().find(|user| user.inputs.contains(&id)).unwrap_or(node),
            false => node,
        };
        failure.at(&place.name, place.span)
    }

    /// Gives a node's result, and whether it was known.
    fn known_or_made(&self, id: NodeId) -> Result<(Outcome, bool), Failure> {
        let node = &self.graph.nodes[id];
        match &node.op {
            Op::Image { .. } => {
                let outcome = self.outcome(Some(id)).ok_or_else(|| {
                    Failure::new(Kind::Store, "a base image was not looked up before it was used")
                })?;
                let known = steps::fetch(self, id, &outcome)?;
                return Ok((outcome, known));
            }
            Op::Local { .. } | Op::Remote(_) => return Ok((Outcome::empty(), false)),
            _ => {}
        }
        let below = self.below(id)?;
        let early = match self.keys[id] {
            Some(key) => Some(key),
            None => steps::early_key(self, id, below.tree)?,
        };
        let _guard = match early {
            Some(key) => Some(self.build.lock_step(key, &node.name)?),
            None => None,
        };
        if let Some(key) = early
            && let Some(outcome) = self.recorded(id, key, &below)
        {
            return Ok((outcome, true));
        }
        if let (Some(key), Op::Run(_)) = (early, &node.op)
            && !node.no_cache
            && self.layers.is_complete(&LayerId::from_run_key(key))
        {
            // A build was killed after the step was done and before that was recorded.
            let layer = LayerId::from_run_key(key);
            let created = self.build.options.now();
            self.record(id, key, below.tree, &layer, created)?;
            return Ok((below.with_layer(layer, created), true));
        }
        let reasons = explain::before(self, id, below.tree, early);
        self.build.watch.event(Event::Started { step: id });
        let (layer, created) = match &node.op {
            Op::Run(run) => {
                let key = early.ok_or_else(|| {
                    Failure::new(Kind::Store, "a RUN was started before its key was known")
                })?;
                steps::run::run(self, id, run, &below, key)?
            }
            Op::Copy(copy) => steps::copy::run(self, id, copy, &below)?,
            Op::Workdir { path, user } => steps::copy::workdir(self, path, user, &below)?,
            Op::Image { .. } | Op::Local { .. } | Op::Remote(_) => {
                unreachable!("handled above")
            }
        };
        explain::after(self, id, reasons, &layer);
        if let Some(key) = early {
            self.record(id, key, below.tree, &layer, created)?;
        }
        Ok((below.with_layer(layer, created), false))
    }

    /// Takes the identities of what a step reads, by its inputs.
    pub(super) fn note_contents(&self, id: NodeId, contents: Vec<Digest>) {
        if !contents.is_empty() {
            lock(&self.contents).insert(id, contents);
        }
    }

    /// Gives what was noted.
    pub(super) fn contents(&self, id: NodeId) -> Vec<Digest> {
        lock(&self.contents).get(&id).cloned().unwrap_or_default()
    }

    /// Takes what the layer of a RUN could do without.
    pub(super) fn weigh(&self, id: NodeId, costs: Costs) {
        lock(&self.costs).insert(id, costs);
    }

    fn record(
        &self,
        id: NodeId,
        key: Digest,
        below: TreeId,
        layer: &LayerId,
        created: i64,
    ) -> Result<(), Failure> {
        let inputs = explain::parts_of(self, id, below);
        let mut record =
            StepRecord { layer: Some(layer.clone()), created, inputs, ..StepRecord::default() };
        if let Some(costs) = lock(&self.costs).get(&id).filter(|costs| !costs.is_empty())
            && let Ok(costs) = serde_json::to_value(costs)
        {
            record.extra.insert(COSTS.to_owned(), costs);
        }
        self.build
            .store
            .steps()
            .put(&key, &record)
            .map_err(|error| Failure::of(Kind::Store, "cannot record a step", &error))?;
        explain::remember(self, id, key)
    }
}

/// Wakes the other workers when one dies, so that nobody waits for what it was making.
struct Alarm<'b> {
    board: &'b Mutex<Board>,
    changed: &'b Condvar,
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            lock(self.board).failure.get_or_insert_with(|| {
                Failure::new(Kind::Store, "a worker thread died; please report this")
            });
            self.changed.notify_all();
        }
    }
}

/// Gives the key of a COPY from what it selects.
pub(super) fn copy_key(copy: &crate::graph::Copy, below: TreeId, content: Digest) -> Digest {
    key::copy(copy, below, content)
}
