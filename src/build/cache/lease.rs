//! `lease=`: machines that build the same at the same time wait for each other.
//!
//! # Model
//!
//! Beside the tag of a step's entry (`s-<key>`) stands one that moves, `l-<key>`: the *lease*. Who runs
//! a RUN writes its name there first, again and again while it runs and until the entry is there, and
//! at the end writes that nobody holds it. Who comes later waits for the entry, and takes the step
//! over when the lease has not changed for as long as it says that it holds. No clocks are compared:
//! a waiter measures how long *it* has seen the same lease.
//!
//! Registries have no compare-and-swap, so two may find a lease free at the same instant and both
//! write. Each waits a while ([`Lease::settle`]) and reads back; who reads its own name goes on. (It is
//! Fischer's algorithm.) Where a write takes longer than that, both run the step: that costs time and
//! nothing else, since entries are never changed and either result is as good.
//!
//! A registry that fails in this is a warning, and the step is run without a lease.
//!
//! Start reading at [`Lease::take`].

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::build::layers::lock;
use crate::oci::{Descriptor, Digest, Document, Manifest};
use crate::transport::shelf::Shelf;
use crate::transport::{self, Result};

/// Media type of a lease.
pub const MEDIA_TYPE: &str = "application/vnd.lapstrake.lease.v1+json";

/// Media type of the config that says nothing (OCI image specification, "empty descriptor").
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// The annotations that say who holds it (nobody: empty), how often that was written, and for how
/// many milliseconds after that it holds.
const HOLDER: &str = "dev.lapstrake.lease.holder";
const COUNT: &str = "dev.lapstrake.lease.count";
const TIME: &str = "dev.lapstrake.lease.time";

/// The longest time that another's lease is believed.
const MOST: Duration = Duration::from_secs(3600);

/// The first pause between two looks at another's lease, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// The leases of one build on one shelf.
pub struct Lease {
    shelf: Arc<dyn Shelf>,
    time: Duration,
    holder: String,
    count: AtomicU64,
    /// The empty config was put.
    prepared: AtomicBool,
    /// The registry failed once: no more of it.
    broken: AtomicBool,
    held: Mutex<BTreeSet<Digest>>,
}

/// A lease as it stands on the shelf.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sign {
    holder: String,
    count: String,
    time: Duration,
}

/// How waiting for a step ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn<T> {
    /// The step is ours to run.
    Mine,
    /// Another machine has run it.
    Found(T),
    /// The build was stopped.
    Stopped,
}

impl Lease {
    /// Leases on `shelf`, each good for `time` after it was written. The shelf should not try long.
    pub fn new(shelf: Arc<dyn Shelf>, time: Duration) -> Lease {
        // Each RandomState has other keys: enough to tell machines apart.
        let random = || RandomState::new().build_hasher().finish();
        Lease {
            shelf,
            time,
            holder: format!("{:016x}{:016x}", random() ^ u64::from(std::process::id()), random()),
            count: AtomicU64::new(0),
            prepared: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            held: Mutex::default(),
        }
    }

    /// How long a write is given to be seen by others: the longer a lease, the surer.
    fn settle(&self) -> Duration {
        (self.time / 120).clamp(Duration::from_millis(250), Duration::from_secs(2))
    }

    /// Says whether the registry has failed, and leases are no use.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Takes the lease of a step, waiting as long as another holds it. `found` looks for the entry,
    /// `waiting` is called once when there is something to wait for.
    ///
    /// Fails when the registry does; then there are no more leases in this build.
    pub fn take<T>(
        &self,
        name: &Digest,
        found: &mut dyn FnMut() -> Option<T>,
        waiting: &mut dyn FnMut(),
        stop: &dyn Fn() -> bool,
    ) -> Result<Turn<T>> {
        let result = self.wait(name, found, waiting, stop);
        if result.is_err() {
            self.broken.store(true, Ordering::Relaxed);
        }
        result
    }

    fn wait<T>(
        &self,
        name: &Digest,
        found: &mut dyn FnMut() -> Option<T>,
        waiting: &mut dyn FnMut(),
        stop: &dyn Fn() -> bool,
    ) -> Result<Turn<T>> {
        let mut seen: Option<(Sign, Instant)> = None;
        let (mut pause, longest) = PAUSES;
        loop {
            if stop() {
                return Ok(Turn::Stopped);
            }
            if let Some(sign) = self.read(name)?.filter(|sign| self.is_others(sign)) {
                match &seen {
                    None => waiting(),
                    Some((before, _)) if *before != sign => {}
                    Some((_, since)) if since.elapsed() <= sign.time => {}
                    // Nobody has renewed it: whoever held it is gone.
                    Some(_) => match self.claim(name, found, stop)? {
                        Some(turn) => return Ok(turn),
                        None => seen = None,
                    },
                }
                if seen.as_ref().is_none_or(|(before, _)| *before != sign) {
                    seen = Some((sign, Instant::now()));
                }
                sleep(pause, stop);
                pause = (pause * 3 / 2).min(longest);
                if let Some(found) = found() {
                    return Ok(Turn::Found(found));
                }
            } else if let Some(turn) = self.claim(name, found, stop)? {
                return Ok(turn);
            }
        }
    }

    /// Writes our name, waits, and reads back. None when another was later.
    fn claim<T>(
        &self,
        name: &Digest,
        found: &mut dyn FnMut() -> Option<T>,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Turn<T>>> {
        self.write(name, &self.holder)?;
        sleep(self.settle(), stop);
        if stop() {
            self.release(name);
            return Ok(Some(Turn::Stopped));
        }
        if self.read(name)?.is_none_or(|sign| sign.holder != self.holder) {
            return Ok(None);
        }
        // Whoever held it may have been done between our look for the entry and that for the lease.
        if let Some(found) = found() {
            self.release(name);
            return Ok(Some(Turn::Found(found)));
        }
        lock(&self.held).insert(*name);
        Ok(Some(Turn::Mine))
    }

    /// Lets go of a lease. Does nothing when it is not held.
    pub fn end(&self, name: &Digest) {
        if lock(&self.held).remove(name) {
            self.release(name);
        }
    }

    /// Lets go of all leases.
    pub fn end_all(&self) {
        let held = std::mem::take(&mut *lock(&self.held));
        held.iter().for_each(|name| self.release(name));
    }

    /// Renews what is held, until the other end of the channel is dropped.
    pub fn renew(&self, alive: &Receiver<()>) {
        while let Err(RecvTimeoutError::Timeout) = alive.recv_timeout(self.time / 4) {
            let held = lock(&self.held).clone();
            for name in held {
                // One that was let go meanwhile must not be written again. (Held while writing: a
                // release waits for it.)
                let guard = lock(&self.held);
                if guard.contains(&name) {
                    // It may be reachable again in time; if not, another machine runs the step too.
                    let _ = self.write(&name, &self.holder);
                }
                drop(guard);
            }
        }
    }

    fn release(&self, name: &Digest) {
        if !self.is_broken() {
            // In vain, others wait as long as the lease holds.
            let _ = self.write(name, "");
        }
    }

    fn is_others(&self, sign: &Sign) -> bool {
        !sign.holder.is_empty() && sign.holder != self.holder
    }

    fn read(&self, name: &Digest) -> Result<Option<Sign>> {
        let Some(bytes) = self.shelf.find(&tag(name))? else { return Ok(None) };
        // What is no lease holds nobody up.
        let Ok(Document::Manifest(manifest)) = Document::parse(&bytes, "") else { return Ok(None) };
        let text = |key: &str| manifest.annotations.get(key).cloned().unwrap_or_default();
        let time = text(TIME).parse().map_or(Duration::ZERO, Duration::from_millis);
        Ok(Some(Sign { holder: text(HOLDER), count: text(COUNT), time: time.min(MOST) }))
    }

    fn write(&self, name: &Digest, holder: &str) -> Result<()> {
        let config = Descriptor::of(EMPTY, b"{}");
        if !self.prepared.load(Ordering::Relaxed) {
            self.shelf.put_blob(&config, &mut |at| Ok(transport::bytes_from(b"{}", at)))?;
            self.prepared.store(true, Ordering::Relaxed);
        }
        let mut manifest = Manifest::new(config, Vec::new());
        manifest.artifact_type = Some(MEDIA_TYPE.to_owned());
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        manifest.annotations = [
            (HOLDER, holder.to_owned()),
            (COUNT, count.to_string()),
            (TIME, self.time.as_millis().to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        let (mut descriptor, bytes) = manifest.encode();
        descriptor.artifact_type = Some(MEDIA_TYPE.to_owned());
        self.shelf.replace(&tag(name), &descriptor, &bytes)
    }
}

fn tag(name: &Digest) -> String {
    format!("l-{}", name.hex())
}

/// Sleeps, but for a build that was stopped.
fn sleep(time: Duration, stop: &dyn Fn() -> bool) {
    const SLICE: Duration = Duration::from_millis(50);
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|_| !stop()) {
        std::thread::sleep(left.min(SLICE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::shelf::LayoutShelf;
    use std::sync::atomic::AtomicUsize;

    const TIME: Duration = Duration::from_secs(60);

    fn shelf(dir: &tempfile::TempDir) -> Arc<dyn Shelf> {
        Arc::new(LayoutShelf::new(dir.path()))
    }

    fn take(lease: &Lease, name: &Digest, entry: Option<u32>) -> Turn<u32> {
        lease.take(name, &mut || entry, &mut || {}, &|| false).unwrap()
    }

    #[test]
    fn one_holds_it_and_others_wait_for_the_entry() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (Lease::new(shelf(&dir), TIME), Lease::new(shelf(&dir), TIME));
        let name = Digest::of(b"step");
        assert_eq!(take(&one, &name, None), Turn::Mine);
        assert_eq!(take(&one, &Digest::of(b"another"), None), Turn::Mine);
        // Another machine waits until the entry is there, and takes that.
        let (mut looks, mut told) = (0, 0);
        let mut found = || {
            looks += 1;
            (looks == 3).then_some(7)
        };
        let turn = two.take(&name, &mut found, &mut || told += 1, &|| false).unwrap();
        assert_eq!((turn, looks, told), (Turn::Found(7), 3, 1));
        // A build that is stopped waits no more.
        let stopped = two.take(&name, &mut || None::<u32>, &mut || {}, &|| true).unwrap();
        assert_eq!(stopped, Turn::Stopped);
        // One that was let go is free, and what was made meanwhile is found.
        one.end(&name);
        assert_eq!(take(&two, &name, Some(8)), Turn::Found(8));
        assert_eq!(take(&two, &name, None), Turn::Mine);
        one.end(&name);
        assert!(two.read(&name).unwrap().is_some_and(|sign| sign.holder == two.holder));
        two.end_all();
        assert_eq!(take(&one, &name, None), Turn::Mine);
    }

    #[test]
    fn a_lease_that_nobody_renews_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let name = Digest::of(b"step");
        let gone = Lease::new(shelf(&dir), Duration::from_millis(300));
        assert_eq!(take(&gone, &name, None), Turn::Mine);
        let next = Lease::new(shelf(&dir), TIME);
        let began = Instant::now();
        assert_eq!(take(&next, &name, None), Turn::Mine);
        assert!(began.elapsed() >= Duration::from_millis(300));
        // What is under the tag and no lease holds nobody up.
        let other = Digest::of(b"other");
        let manifest = Manifest::new(Descriptor::of(EMPTY, b"{}"), Vec::new());
        let (descriptor, bytes) = manifest.encode();
        next.shelf.replace(&tag(&other), &descriptor, &bytes).unwrap();
        assert_eq!(take(&next, &other, None), Turn::Mine);
    }

    #[test]
    fn a_lease_that_is_renewed_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let name = Digest::of(b"step");
        let one = Lease::new(shelf(&dir), Duration::from_secs(1));
        let two = Lease::new(shelf(&dir), TIME);
        assert_eq!(take(&one, &name, None), Turn::Mine);
        let (alive, ends) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let one = &one;
            scope.spawn(move || one.renew(&ends));
            let began = Instant::now();
            // Three times as long as it would hold without: then the entry is there.
            let mut found = || (began.elapsed() > Duration::from_secs(3)).then_some(1);
            let turn = two.take(&name, &mut found, &mut || {}, &|| false).unwrap();
            assert_eq!(turn, Turn::Found(1));
            drop(alive);
        });
    }

    #[test]
    fn of_many_at_the_same_instant_one_runs() {
        let dir = tempfile::tempdir().unwrap();
        let name = Digest::of(b"step");
        let (ran, entry) = (AtomicUsize::new(0), AtomicBool::new(false));
        let barrier = std::sync::Barrier::new(5);
        std::thread::scope(|scope| {
            for _ in 0..5 {
                scope.spawn(|| {
                    let lease = Lease::new(shelf(&dir), Duration::from_secs(240));
                    barrier.wait();
                    let mut found = || entry.load(Ordering::SeqCst).then_some(());
                    let turn = lease.take(&name, &mut found, &mut || {}, &|| false).unwrap();
                    if turn == Turn::Mine {
                        ran.fetch_add(1, Ordering::SeqCst);
                        entry.store(true, Ordering::SeqCst);
                        lease.end(&name);
                    }
                });
            }
        });
        assert_eq!(ran.into_inner(), 1);
    }
}
