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
//! 5. *Pack*: one more thread makes blobs of the layers that are in an output, while later steps run;
//!    others write entries of steps to caches ([`super::cache::export`]).
//!
//! Look-ups go on to the caches of the build ([`super::cache`]) where the store has no record. A
//! cache may know a step whose layer it has not (the step is *hollow*): that is enough to know the
//! keys of later steps, and where somebody needs the layer itself the step is run. A layer that a
//! cache promised and that cannot be had starts the whole again, without it; what was done is in
//! the store by then.
//!
//! Start reading at [`Conductor::run`].

mod lookup;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, mpsc};
use std::time::Instant;

use crate::graph::{Graph, NodeId, Op, key, key::TreeId};
use crate::layer::LayerId;
use crate::oci::Digest;
use crate::store::StepRecord;

use super::cache::{self, export::Exporter, lease::Turn};
use super::error::{Failure, Kind, chain};
use super::event::{Event, StepId, Stream, Work};
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

/// Layers that are fetched from caches at a time.
const FETCHES: usize = 4;

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
    /// Keys that were made to ask caches ahead, and what they stand on.
    ahead: Vec<Option<(TreeId, Digest)>>,
    /// A cache has known something.
    caches_know: bool,
    /// What the layers of RUNs could do without.
    costs: Mutex<BTreeMap<NodeId, Costs>>,
    /// Identities of what steps read, by their inputs.
    contents: Mutex<BTreeMap<NodeId, Vec<Digest>>>,
    /// Key of each node that was not known for sure before.
    late_keys: Vec<OnceLock<Digest>>,
    /// Nodes whose outcome is known and whose layer cannot be had.
    hollow: Vec<bool>,
    /// Nodes that must not be hollow: somebody needs their layers.
    solid: Vec<bool>,
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
            ahead: vec![None; graph.nodes.len()],
            caches_know: false,
            costs: Mutex::default(),
            contents: Mutex::default(),
            late_keys: vec![OnceLock::new(); graph.nodes.len()],
            hollow: vec![false; graph.nodes.len()],
            solid: vec![false; graph.nodes.len()],
        }
    }

    /// Builds all outputs. `forms` are the blobs to make of each layer in them.
    pub fn run(&mut self, forms: &BTreeSet<BlobForm>) -> Result<(), Failure> {
        self.build.resolve_remotes(self.graph)?;
        loop {
            match self.attempt(forms) {
                Err(Failure { layer: Some(layer), message, .. })
                    if !self.build.cancel.is_cancelled() =>
                {
                    self.build.watch.event(Event::Warning(format!("{message}; it is made here")));
                    self.build.cache.distrust(&layer);
                    self.layers.withdraw(&layer);
                    self.solid.fill(false);
                }
                other => return other,
            }
        }
    }

    fn attempt(&mut self, forms: &BTreeSet<BlobForm>) -> Result<(), Failure> {
        self.look_up_all()?;
        let mut needed = self.solidify(forms)?;
        self.build.load_remotes(self.graph, &needed)?;
        if self.layers.session().is_none() && self.wants_session(&needed, forms) {
            let assumed = self.build.store.id_map();
            let doubtful = |id: NodeId| {
                let last =
                    self.outcome(Some(id)).and_then(|outcome| outcome.layers.last().cloned());
                matches!(self.graph.nodes[id].op, Op::Run(_))
                    && last.is_some_and(|layer| self.layers.is_remote(&layer))
            };
            let done = |id| self.is_done(id);
            let session = self.build.enter_session(self.graph, &needed, done, doubtful)?;
            self.layers.set_session(session);
            if self.build.store.id_map() != assumed {
                // Directories that were made with another id map are of no use: look again.
                self.look_up_all()?;
                needed = self.solidify(forms)?;
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

    /// Phases 0 to 2 alone: looks everything up, and says which nodes are needed.
    pub(super) fn look(&mut self) -> Result<Vec<bool>, Failure> {
        self.build.resolve_remotes(self.graph)?;
        self.look_up_all()?;
        Ok(self.needed())
    }

    /// Gives the key of a node, once it is known.
    pub(super) fn key_of(&self, id: NodeId) -> Option<Digest> {
        self.late_keys[id].get().copied().or(self.keys[id])
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
            // Steps in between may be known, with nobody yet who has brought in the base below them.
            sources.extend(sources.clone().into_iter().filter_map(|id| self.base_of(id)));
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
        let (export, exports) = mpsc::channel::<NodeId>();
        let exported = self.exported();
        for id in (0..count).filter(|&id| exported[id] && self.is_done(id)) {
            let _ = export.send(id);
        }
        let nothing_to_do = left == 0 && self.build.cache.to.is_empty();
        for id in (0..count).filter(|&id| needed[id] && self.is_done(id)) {
            if !matches!(self.graph.nodes[id].op, Op::Image { .. }) {
                self.send_to_packer(id, &in_output, &pack);
            }
        }
        let remote = self.remote_layers(&in_output);
        if nothing_to_do {
            drop(pack);
            self.fetch_all(&remote, forms)?;
            return self.pack_all(packs, forms);
        }
        let workers = self.build.options.jobs.max(1).min(left);
        let exporter = Exporter::new(self, exports, &in_output, forms.first().copied());
        let built = std::thread::scope(|scope| {
            if !self.build.cache.to.is_empty() {
                // Leases are renewed until the last entry is there.
                let (alive, ends) = mpsc::channel::<()>();
                if let Some(lease) = self.build.cache.lease() {
                    scope.spawn(move || lease.renew(&ends));
                }
                for _ in 0..cache::export::JOBS {
                    let (alive, exporter) = (alive.clone(), &exporter);
                    scope.spawn(move || {
                        exporter.work();
                        drop(alive);
                    });
                }
            }
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
            scope.spawn(|| {
                if let Err(failure) = self.fetch_all(&remote, forms) {
                    lock(&board).failure.get_or_insert(failure);
                    changed.notify_all();
                }
            });
            let handles: Vec<_> = (0..workers)
                .map(|_| {
                    let (board, changed, users) = (&board, &changed, &users);
                    let (in_output, pack, export) = (&in_output, pack.clone(), export.clone());
                    scope.spawn(move || {
                        self.work(board, changed, users, in_output, &pack, &export);
                    })
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
            drop((pack, export));
            let packed = packer.join().unwrap_or_else(|_| {
                Err(Failure::new(Kind::Store, "the packing thread died; please report this"))
            });
            match lock(&board).failure.take() {
                Some(failure) => Err(failure),
                None => packed,
            }
        });
        let exported = exporter.finish();
        if let Some(lease) = self.build.cache.lease() {
            lease.end_all();
        }
        built.and(exported)
    }

    /// Gives the base image that a node stands on.
    fn base_of(&self, id: NodeId) -> Option<NodeId> {
        let mut next = Some(id);
        while let Some(id) = next {
            if matches!(self.graph.nodes[id].op, Op::Image { .. }) {
                return Some(id);
            }
            next = self.graph.nodes[id].parent;
        }
        None
    }

    /// Moves the clocks of a live display until the other end of the channel is dropped.
    fn tick(&self, ticks: &mpsc::Receiver<()>) {
        let pause = std::time::Duration::from_millis(100);
        while let Err(mpsc::RecvTimeoutError::Timeout) = ticks.recv_timeout(pause) {
            self.build.watch.tick();
        }
    }

    /// Gives the layers of outputs that caches have and this machine does not.
    fn remote_layers(&self, in_output: &[bool]) -> Vec<LayerId> {
        let mut out: Vec<LayerId> = Vec::new();
        for (id, _) in in_output.iter().enumerate().filter(|(_, in_output)| **in_output) {
            let last = self.outcome(Some(id)).and_then(|outcome| outcome.layers.last().cloned());
            out.extend(last.filter(|layer| self.layers.is_remote(layer) && !out.contains(layer)));
        }
        out
    }

    /// Fetches layers, several at once.
    fn fetch_all(&self, layers: &[LayerId], forms: &BTreeSet<BlobForm>) -> Result<(), Failure> {
        let Some(form) = forms.first().filter(|_| !layers.is_empty()) else { return Ok(()) };
        let next = AtomicUsize::new(0);
        let failure: Mutex<Option<Failure>> = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..FETCHES.min(layers.len()) {
                scope.spawn(|| {
                    while let Some(layer) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if lock(&failure).is_some() || self.build.cancel.is_cancelled() {
                            return;
                        }
                        if let Err(error) = self.layers.blob(layer, *form) {
                            lock(&failure).get_or_insert(error);
                        }
                    }
                });
            }
        });
        let failure = failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        failure.map_or(Ok(()), Err)
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
        export: &mpsc::Sender<NodeId>,
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
                    // Nobody takes it where there is no cache to write to.
                    let _ = export.send(id);
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
            // The step will be done again.
            Err(failure) if failure.layer.is_some() => {}
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
        let known = failure.step.is_some();
        let mut failure = failure.at(&place.name, place.span);
        if !known {
            failure.part = place.part;
        }
        failure
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
            // Where the layer of a hollow step was made after all, it may be another than was told.
            Some(key) if !self.solid.contains(&true) => Some(key),
            _ => steps::early_key(self, id, below.tree)?,
        };
        if let Some(key) = early.filter(|key| self.keys[id] != Some(*key)) {
            // Each node comes here once.
            let _ = self.late_keys[id].set(key);
        }
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
        // Where another machine builds the same, it may have been faster; and what stands on a step
        // that was made here was not looked for yet.
        if let Some(key) = early
            && (matches!(node.op, Op::Run(_)) || self.keys[id].is_none())
            && let Some((outcome, false)) = self.cached(id, key, &below, true)
        {
            return Ok((outcome, true));
        }
        if let (Some(key), Op::Run(_)) = (early, &node.op)
            && let Some(outcome) = self.await_turn(id, key, &below)?
        {
            return Ok((outcome, true));
        }
        let reasons = explain::before(self, id, below.tree, early);
        self.build.watch.event(Event::Started { step: id });
        let (layer, created) = match &node.op {
            Op::Run(run) => {
                let key = early.ok_or_else(|| {
                    Failure::new(Kind::Store, "a RUN was started before its key was known")
                })?;
                steps::run::run(self, id, run, &below, key)
                    .inspect_err(|_| self.build.cache.end_turn(key, self.build.options.epoch))?
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

    /// Waits for a machine that runs the same RUN, where the build has leases. Gives what it made, or
    /// None when the step is ours to run.
    fn await_turn(
        &self,
        id: NodeId,
        key: Digest,
        below: &Outcome,
    ) -> Result<Option<Outcome>, Failure> {
        let build = self.build;
        let Some(lease) = build.cache.lease().filter(|_| !self.graph.nodes[id].no_cache) else {
            return Ok(None);
        };
        let mut found = || {
            let (outcome, hollow) = self.cached(id, key, below, true)?;
            (!hollow).then_some(outcome)
        };
        let mut waiting = || {
            let bytes = b"another machine runs this step; waiting for what it makes\n".to_vec();
            build.watch.event(Event::Output { step: id, stream: Stream::Stderr, bytes });
        };
        let name = cache::entry_key(key, build.options.epoch);
        let stop = || build.cancel.is_cancelled();
        match lease.take(&name, &mut found, &mut waiting, &stop) {
            Ok(Turn::Found(outcome)) => Ok(Some(outcome)),
            Ok(Turn::Mine) => Ok(None),
            Ok(Turn::Stopped) => Err(Failure::interrupted()),
            Err(error) => {
                build.watch.event(Event::Warning(format!(
                    "no lease can be had, and other machines may run the same steps: {}",
                    chain(&error)
                )));
                Ok(None)
            }
        }
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
