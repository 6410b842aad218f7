//! Listing a directory tree on several threads.
//!
//! Directories are tasks on a stack that the threads share. A thread lists one, sorts its names,
//! stats what the ignore rules leave in, and writes *rows* into a buffer of its own; subdirectories
//! become tasks. [`Forest`] then reads all rows in path order: a depth-first merge, since every
//! directory's rows are sorted and remember which directory each leads to.
//!
//! Rows are packed bytes in chunks, and a chunk goes as soon as all its directories were read, so
//! that a million files need little beside the table that is made of them.
//!
//! Nothing is ever opened by a path through a symbolic link, and nothing but directories is opened.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::ignore::{Carry, IgnoreRules};
use super::print::Print;
use super::{Error, Result};
use crate::layer::RootPath;
use crate::sys::dir::{self, FileKind, Stat};
use crate::sys::{self, Errno};

/// A chunk is closed when it is this full. Large enough that the allocator maps it on its own and
/// gives it back when it is freed.
const CHUNK: usize = 1 << 20;

/// What a row says beside its name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    pub(super) kind: FileKind,
    pub(super) mode: u16,
    pub(super) size: u64,
    pub(super) mtime: i64,
    pub(super) print: Print,
    /// Device and inode, when the file has several names.
    pub(super) link: Option<(u64, u64)>,
    /// Whether the file changed so lately that it could change again without a trace.
    pub(super) racy: bool,
    /// Whether the directory itself is excluded, and only there for what it may hold.
    pub(super) excluded: bool,
    /// The directory that this row leads to.
    child: Option<u32>,
    name: &'a [u8],
    /// The target of a symbolic link.
    pub(super) target: &'a [u8],
    /// Major and minor number of a device.
    pub(super) device: (u32, u32),
}

/// All rows that a walk found.
#[derive(Default)]
pub(super) struct Forest {
    chunks: Vec<Vec<Chunk>>,
    dirs: Vec<Slot>,
    /// How many rows there are.
    pub(super) rows: usize,
}

#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    /// Directories that were not read yet.
    pending: usize,
}

/// Where a directory's rows are.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    thread: usize,
    chunk: usize,
    start: usize,
    end: usize,
}

/// A directory to list.
struct Task {
    index: u32,
    path: Vec<u8>,
    /// The directory above, kept open for its subdirectories: opening one by name is half the price
    /// of opening it by path. None at the top and below [`DEEPEST`].
    parent: Option<Arc<OwnedFd>>,
    depth: usize,
    carry: Carry,
    excluded: bool,
}

/// Down to which depth directories are kept open: at most so many descriptors a thread.
const DEEPEST: usize = 128;

/// What the threads share.
struct Queue {
    tasks: Vec<Task>,
    /// Threads that are listing, and so may add tasks.
    busy: usize,
    /// Threads that wait for tasks.
    idle: usize,
    failed: bool,
}

struct Shared<'a> {
    root: BorrowedFd<'a>,
    rules: &'a IgnoreRules,
    racy_from: (i64, u32),
    queue: Mutex<Queue>,
    more: Condvar,
    /// Directories that have a number.
    dirs: AtomicU32,
}

/// What one thread has found.
#[derive(Default)]
struct Harvest {
    chunks: Vec<Chunk>,
    slots: Vec<(u32, Slot)>,
    rows: usize,
}

/// Walks everything below `root` that the rules leave in. Files that changed at or after `racy_from`
/// (seconds, nanoseconds) are marked as racy.
pub(super) fn walk(
    root: BorrowedFd<'_>,
    rules: &IgnoreRules,
    racy_from: (i64, u32),
    threads: usize,
) -> Result<Forest> {
    let top = Task {
        index: 0,
        path: Vec::new(),
        parent: None,
        depth: 0,
        carry: Carry::default(),
        excluded: false,
    };
    let shared = Shared {
        root,
        rules,
        racy_from,
        queue: Mutex::new(Queue { tasks: vec![top], busy: 0, idle: 0, failed: false }),
        more: Condvar::new(),
        dirs: AtomicU32::new(1),
    };
    let harvests: Vec<Result<Harvest>> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads.max(1)).map(|_| scope.spawn(|| work(&shared))).collect();
        let mut harvests = vec![work(&shared)];
        for other in others {
            harvests.push(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        harvests
    });
    let dirs = shared.dirs.into_inner() as usize;
    let mut forest = Forest { dirs: vec![Slot::default(); dirs], ..Forest::default() };
    for (thread, harvest) in harvests.into_iter().enumerate() {
        let harvest = harvest?;
        for (index, slot) in harvest.slots {
            forest.dirs[index as usize] = Slot { thread, ..slot };
        }
        forest.chunks.push(harvest.chunks);
        forest.rows += harvest.rows;
    }
    Ok(forest)
}

/// Lists directories until there are no more.
fn work(shared: &Shared<'_>) -> Result<Harvest> {
    let mut harvest = Harvest::default();
    let mut children: Vec<Task> = Vec::new();
    let mut queue = lock(&shared.queue);
    loop {
        if queue.failed || (queue.tasks.is_empty() && queue.busy == 0) {
            drop(queue);
            shared.more.notify_all();
            return Ok(harvest);
        }
        let Some(task) = queue.tasks.pop() else {
            queue.idle += 1;
            queue = shared.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
            continue;
        };
        queue.busy += 1;
        drop(queue);
        let listed = list(shared, &task, &mut harvest, &mut children);
        queue = lock(&shared.queue);
        queue.busy -= 1;
        queue.failed |= listed.is_err();
        // Last first, so that the stack gives them in order and chunks fill in path order.
        queue.tasks.extend(children.drain(..).rev());
        if queue.idle > 0 && queue.tasks.len() > 1 {
            shared.more.notify_all();
        }
        if let Err(error) = listed {
            drop(queue);
            shared.more.notify_all();
            return Err(error);
        }
    }
}

/// Lists one directory.
fn list(
    shared: &Shared<'_>,
    task: &Task,
    harvest: &mut Harvest,
    children: &mut Vec<Task>,
) -> Result<()> {
    let fail = |source| Error::Read { path: RootPath::clean(&task.path), source };
    let skip = |errno| match errno {
        // It vanished or changed since its parent was listed: then it is not there.
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP => !task.path.is_empty(),
        Errno::ACCESS => task.excluded,
        _ => false,
    };
    let opened = match &task.parent {
        Some(parent) => {
            let cut = task.path.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1);
            dir::open_dir_at(parent.as_fd(), &task.path[cut..])
        }
        None => open_dir(shared.root, &task.path),
    };
    let dir = match opened {
        Ok(dir) => Arc::new(dir),
        Err(error) if skip(error.errno) => {
            harvest.begin(task.index);
            return Ok(());
        }
        Err(error) => return Err(fail(error)),
    };
    let mut names = Vec::new();
    let mut entries: Vec<(Range<usize>, Option<FileKind>)> = Vec::new();
    dir::for_each_entry(dir.as_fd(), |name, kind, _| {
        let start = names.len();
        names.extend_from_slice(name);
        entries.push((start..names.len(), kind));
    })
    .map_err(fail)?;
    entries.sort_unstable_by(|a, b| names[a.0.clone()].cmp(&names[b.0.clone()]));

    harvest.begin(task.index);
    let mut path = task.path.clone();
    if !path.is_empty() {
        path.push(b'/');
    }
    let stem = path.len();
    for (name, kind) in entries {
        let name = &names[name];
        path.truncate(stem);
        path.extend_from_slice(name);
        let mut verdict = None;
        if let Some(kind) = kind {
            verdict = Some(judge(shared.rules, &path, kind, &task.carry));
            if verdict.as_ref().is_some_and(Verdict::is_out) {
                continue;
            }
        }
        let stat = match dir::statx(dir.as_fd(), name) {
            Ok(stat) => stat,
            Err(error) if error.is(Errno::NOENT) => continue,
            Err(source) => return Err(Error::Read { path: RootPath::clean(&path), source }),
        };
        let verdict = match verdict {
            // The kind may have changed since the directory was read.
            Some(verdict) if Some(stat.kind) == kind => verdict,
            _ => judge(shared.rules, &path, stat.kind, &task.carry),
        };
        if verdict.is_out() {
            continue;
        }
        let mut target = Vec::new();
        if stat.kind == FileKind::Symlink {
            target = match dir::readlink(dir.as_fd(), name) {
                Ok(target) => target,
                Err(error) if error.is(Errno::NOENT) || error.is(Errno::INVAL) => continue,
                Err(source) => return Err(Error::Read { path: RootPath::clean(&path), source }),
            };
        }
        let mut child = None;
        if let Verdict::Enter { excluded, carry } = verdict {
            let index = shared.dirs.fetch_add(1, Ordering::Relaxed);
            child = Some((index, excluded));
            let depth = task.depth + 1;
            let parent = (depth < DEEPEST).then(|| Arc::clone(&dir));
            let path = path.clone();
            children.push(Task { index, path, parent, depth, carry, excluded });
        }
        harvest.push(name, &target, &stat, child, is_racy(&stat, shared.racy_from));
    }
    harvest.end();
    Ok(())
}

/// What the rules say to a name.
enum Verdict {
    Out,
    Keep,
    Enter { excluded: bool, carry: Carry },
}

impl Verdict {
    fn is_out(&self) -> bool {
        matches!(self, Verdict::Out)
    }
}

fn judge(rules: &IgnoreRules, path: &[u8], kind: FileKind, parent: &Carry) -> Verdict {
    if kind != FileKind::Dir {
        return if rules.excludes(path, parent) { Verdict::Out } else { Verdict::Keep };
    }
    let (excluded, carry) = rules.enter(path, parent);
    if excluded && !rules.reaches_into(path) {
        return Verdict::Out;
    }
    Verdict::Enter { excluded, carry }
}

fn is_racy(stat: &Stat, from: (i64, u32)) -> bool {
    let newest = (stat.mtime_sec, stat.mtime_nsec).max((stat.ctime_sec, stat.ctime_nsec));
    // Without nanoseconds the file system is one that counts whole or even seconds.
    let coarse = stat.mtime_nsec == 0 && stat.ctime_nsec == 0;
    newest >= from || (coarse && newest.0 >= from.0 - 2)
}

/// The longest path given to the kernel at once: PATH_MAX is 4096 with the final NUL.
pub(super) const LONGEST: usize = 4000;

/// Opens a directory of any depth beneath the root without following symbolic links.
pub(super) fn open_dir(root: BorrowedFd<'_>, path: &[u8]) -> sys::Result<OwnedFd> {
    let mut rest = path;
    let mut at: Option<OwnedFd> = None;
    while rest.len() > LONGEST {
        let from = at.as_ref().map_or(root, AsFd::as_fd);
        let Some(cut) = rest[..LONGEST].iter().rposition(|&b| b == b'/') else { break };
        at = Some(dir::open_dir_beneath(from, &rest[..cut])?);
        rest = &rest[cut + 1..];
    }
    dir::open_dir_beneath(at.as_ref().map_or(root, AsFd::as_fd), rest)
}

/// Bytes of a row before its name: kind, flags, mode, lengths, size or device, mtime, print, child.
const HEAD: usize = 1 + 1 + 2 + 2 + 2 + 8 + 8 + 16 + 4;
const LINKED: u8 = 1;
const RACY: u8 = 2;
const EXCLUDED: u8 = 4;
const NO_CHILD: u32 = u32::MAX;

const KINDS: [FileKind; 7] = [
    FileKind::File,
    FileKind::Dir,
    FileKind::Symlink,
    FileKind::Fifo,
    FileKind::CharDevice,
    FileKind::BlockDevice,
    FileKind::Socket,
];

impl Harvest {
    /// Starts the rows of a directory.
    fn begin(&mut self, index: u32) {
        if self.chunks.last().is_none_or(|chunk| chunk.bytes.len() >= CHUNK) {
            let bytes = Vec::with_capacity(CHUNK + CHUNK / 8);
            self.chunks.push(Chunk { bytes, pending: 0 });
        }
        let last = self.chunks.len() - 1;
        let chunk = &mut self.chunks[last];
        chunk.pending += 1;
        let start = chunk.bytes.len();
        self.slots.push((index, Slot { thread: 0, chunk: last, start, end: start }));
    }

    fn push(
        &mut self,
        name: &[u8],
        target: &[u8],
        stat: &Stat,
        child: Option<(u32, bool)>,
        racy: bool,
    ) {
        // begin() has made a chunk.
        let Some(Chunk { bytes, .. }) = self.chunks.last_mut() else { return };
        let linked = stat.nlink > 1 && stat.kind != FileKind::Dir;
        let mut flags = 0;
        flags |= if linked { LINKED } else { 0 };
        flags |= if racy { RACY } else { 0 };
        flags |= if child.is_some_and(|(_, excluded)| excluded) { EXCLUDED } else { 0 };
        let kind = KINDS.iter().position(|&kind| kind == stat.kind).unwrap_or(0) as u8;
        let size = match stat.kind {
            FileKind::CharDevice | FileKind::BlockDevice => {
                u64::from(stat.rdev.0) << 32 | u64::from(stat.rdev.1)
            }
            FileKind::File => stat.size,
            _ => 0,
        };
        let print = Print::of(stat).0;
        bytes.extend_from_slice(&[kind, flags]);
        bytes.extend_from_slice(&(stat.mode as u16).to_le_bytes());
        // Names have at most 255 bytes, and targets less than 4096.
        bytes.extend_from_slice(&(name.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&(target.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&size.to_le_bytes());
        bytes.extend_from_slice(&stat.mtime_sec.to_le_bytes());
        bytes.extend_from_slice(&print[0].to_le_bytes());
        bytes.extend_from_slice(&print[1].to_le_bytes());
        bytes.extend_from_slice(&child.map_or(NO_CHILD, |(index, _)| index).to_le_bytes());
        if linked {
            bytes.extend_from_slice(&stat.dev.to_le_bytes());
            bytes.extend_from_slice(&stat.ino.to_le_bytes());
        }
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(target);
        self.rows += 1;
    }

    /// Ends the rows of the directory that was begun last.
    fn end(&mut self) {
        if let (Some((_, slot)), Some(chunk)) = (self.slots.last_mut(), self.chunks.last()) {
            slot.end = chunk.bytes.len();
        }
    }
}

impl Forest {
    /// Calls `each` for every row with its path, in the order of [`crate::layer::path::compare`].
    /// Excluded directories come only if they hold something that is not.
    pub(super) fn read(
        mut self,
        mut each: impl FnMut(&[u8], &Row<'_>) -> Result<()>,
    ) -> Result<()> {
        /// A directory that is being read: how long its path is, and whether it waits for contents.
        struct Frame {
            slot: Slot,
            at: usize,
            stem: usize,
            waiting: bool,
        }
        let mut path: Vec<u8> = Vec::new();
        let top = self.dirs[0];
        let mut frames = vec![Frame { slot: top, at: top.start, stem: 0, waiting: false }];
        // Excluded directories of the present path that nothing was found in yet: where their rows
        // are, and the length of their paths.
        let mut waiting: Vec<(Slot, usize, usize)> = Vec::new();
        while let Some(frame) = frames.last_mut() {
            let slot = frame.slot;
            if frame.at >= slot.end {
                if frame.waiting {
                    // Its own row is the last that waits: those below it are gone already.
                    waiting.pop();
                }
                frames.pop();
                self.release(slot);
                continue;
            }
            let at = frame.at;
            path.truncate(frame.stem);
            let (row, next) = parse(self.bytes(slot), at);
            frame.at = next;
            path.extend_from_slice(row.name);
            if row.excluded {
                waiting.push((slot, at, path.len()));
            } else {
                if !waiting.is_empty() {
                    for (slot, at, length) in waiting.drain(..) {
                        let (row, _) = parse(self.bytes(slot), at);
                        each(&path[..length], &row)?;
                    }
                    frames.iter_mut().for_each(|frame| frame.waiting = false);
                }
                each(&path, &row)?;
            }
            if let Some(child) = row.child {
                let waiting = row.excluded;
                let slot = self.dirs[child as usize];
                path.push(b'/');
                frames.push(Frame { slot, at: slot.start, stem: path.len(), waiting });
            }
        }
        Ok(())
    }

    fn bytes(&self, slot: Slot) -> &[u8] {
        &self.chunks[slot.thread][slot.chunk].bytes
    }

    /// Frees a chunk when its last directory was read.
    fn release(&mut self, slot: Slot) {
        let chunk = &mut self.chunks[slot.thread][slot.chunk];
        chunk.pending -= 1;
        if chunk.pending == 0 {
            chunk.bytes = Vec::new();
        }
    }
}

/// Reads the row at `at` and gives where the next one begins.
fn parse(bytes: &[u8], at: usize) -> (Row<'_>, usize) {
    fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
        // Rows are written by push() above, always whole.
        let mut out = [0; N];
        out.copy_from_slice(&rest[..N]);
        *rest = &rest[N..];
        out
    }
    debug_assert!(bytes.len() >= at + HEAD);
    let mut rest = &bytes[at..];
    let [kind, flags] = take::<2>(&mut rest);
    let mode = u16::from_le_bytes(take(&mut rest));
    let name_length = usize::from(u16::from_le_bytes(take(&mut rest)));
    let target_length = usize::from(u16::from_le_bytes(take(&mut rest)));
    let size = u64::from_le_bytes(take(&mut rest));
    let mtime = i64::from_le_bytes(take(&mut rest));
    let print = Print([u64::from_le_bytes(take(&mut rest)), u64::from_le_bytes(take(&mut rest))]);
    let child = u32::from_le_bytes(take(&mut rest));
    let link = (flags & LINKED != 0)
        .then(|| (u64::from_le_bytes(take(&mut rest)), u64::from_le_bytes(take(&mut rest))));
    let (name, rest) = rest.split_at(name_length);
    let (target, rest) = rest.split_at(target_length);
    let row = Row {
        kind: KINDS[usize::from(kind)],
        mode,
        size,
        mtime,
        print,
        link,
        racy: flags & RACY != 0,
        excluded: flags & EXCLUDED != 0,
        child: (child != NO_CHILD).then_some(child),
        name,
        target,
        device: ((size >> 32) as u32, size as u32),
    };
    (row, bytes.len() - rest.len())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
