//! Listing a directory tree on several threads.
//!
//! Directories are tasks on a stack that the threads share. A thread lists one, sorts its names,
//! stats what the ignore rules leave in, and writes *rows* into a buffer of its own; subdirectories
//! become tasks. [`Forest`] then reads all rows in path order: a depth-first merge, since every
//! directory's rows are sorted and remember which directory each leads to.
//!
//! Rows are packed bytes in chunks, and a chunk goes as soon as all its directories were read, so
//! that a million files need little beside the table that is made of them. Each thread digests the
//! rows of its directories as well: [`Forest::print`] tells whether anything changed since another
//! walk, before any table is made.
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
use crate::oci::Digest;
use crate::oci::digest::Hasher;
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
    /// Whether this row leads to a directory that was listed.
    entered: bool,
    name: &'a [u8],
    /// The target of a symbolic link.
    pub(super) target: &'a [u8],
    /// Major and minor number of a device.
    pub(super) device: (u32, u32),
}

/// All rows that a walk found.
#[derive(Default)]
pub(super) struct Forest {
    /// By thread, as are `children`.
    chunks: Vec<Vec<Chunk>>,
    children: Vec<Vec<u32>>,
    dirs: Vec<Slot>,
    /// How many rows there are.
    pub(super) rows: usize,
    /// Whether any row is racy.
    pub(super) racy: bool,
}

#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    /// Directories that were not read yet.
    pending: usize,
}

/// Where a directory's rows are.
#[derive(Clone, Copy, Debug)]
struct Slot {
    thread: usize,
    chunk: usize,
    start: usize,
    end: usize,
    /// The directories that its rows lead to, in order: where they begin in the thread's `children`,
    /// and how many.
    children: (usize, usize),
    /// Of its rows.
    digest: Digest,
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
    children: Vec<u32>,
    slots: Vec<(u32, Slot)>,
    rows: usize,
    racy: bool,
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
    let none = Slot {
        thread: 0,
        chunk: 0,
        start: 0,
        end: 0,
        children: (0, 0),
        digest: Digest::from_bytes([0; 32]),
    };
    let mut forest = Forest { dirs: vec![none; dirs], ..Forest::default() };
    for (thread, harvest) in harvests.into_iter().enumerate() {
        let harvest = harvest?;
        for (index, slot) in harvest.slots {
            forest.dirs[index as usize] = Slot { thread, ..slot };
        }
        forest.chunks.push(harvest.chunks);
        forest.children.push(harvest.children);
        forest.rows += harvest.rows;
        forest.racy |= harvest.racy;
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
            harvest.end();
            return Ok(());
        }
        Err(error) => return Err(fail(error)),
    };
    let mut names = Vec::new();
    let mut entries: Vec<(u64, Range<usize>, Option<FileKind>)> = Vec::new();
    dir::for_each_entry(dir.as_fd(), |name, kind, _| {
        let start = names.len();
        names.extend_from_slice(name);
        entries.push((beginning(name), start..names.len(), kind));
    })
    .map_err(fail)?;
    // Most names differ in their first eight bytes.
    entries.sort_unstable_by(|(a, name_a, _), (b, name_b, _)| {
        a.cmp(b).then_with(|| names[name_a.clone()].cmp(&names[name_b.clone()]))
    });

    harvest.begin(task.index);
    let mut path = task.path.clone();
    if !path.is_empty() {
        path.push(b'/');
    }
    let stem = path.len();
    for (_, name, kind) in entries {
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

/// Gives a number that sorts as the first eight bytes of a name do. Names have no NUL, so that a short
/// one sorts before those that begin with it.
fn beginning(name: &[u8]) -> u64 {
    let mut first = [0; 8];
    let length = name.len().min(8);
    first[..length].copy_from_slice(&name[..length]);
    u64::from_be_bytes(first)
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

/// Bytes of a row before its name: kind, flags, mode, lengths of name and target, size or device, mtime,
/// print.
const HEAD: usize = 1 + 1 + 2 + 2 + 2 + 8 + 8 + 16;
const LINKED: u8 = 1;
const RACY: u8 = 2;
const EXCLUDED: u8 = 4;
const ENTERED: u8 = 8;

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
        let slot = Slot {
            thread: 0,
            chunk: last,
            start,
            end: start,
            children: (self.children.len(), 0),
            digest: Digest::from_bytes([0; 32]),
        };
        self.slots.push((index, slot));
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
        if let Some((index, excluded)) = child {
            flags |= if excluded { ENTERED | EXCLUDED } else { ENTERED };
            self.children.push(index);
        }
        let size = match stat.kind {
            FileKind::CharDevice | FileKind::BlockDevice => {
                u64::from(stat.rdev.0) << 32 | u64::from(stat.rdev.1)
            }
            FileKind::File => stat.size,
            _ => 0,
        };
        let print = Print::of(stat).0;
        let mut head = [0; HEAD];
        head[0] = KINDS.iter().position(|&kind| kind == stat.kind).unwrap_or(0) as u8;
        head[1] = flags;
        head[2..4].copy_from_slice(&(stat.mode as u16).to_le_bytes());
        // Names have at most 255 bytes, and targets less than 4096.
        head[4..6].copy_from_slice(&(name.len() as u16).to_le_bytes());
        head[6..8].copy_from_slice(&(target.len() as u16).to_le_bytes());
        head[8..16].copy_from_slice(&size.to_le_bytes());
        head[16..24].copy_from_slice(&stat.mtime_sec.to_le_bytes());
        head[24..32].copy_from_slice(&print[0].to_le_bytes());
        head[32..40].copy_from_slice(&print[1].to_le_bytes());
        bytes.extend_from_slice(&head);
        if linked {
            bytes.extend_from_slice(&stat.dev.to_le_bytes());
            bytes.extend_from_slice(&stat.ino.to_le_bytes());
        }
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(target);
        self.rows += 1;
        self.racy |= racy;
    }

    /// Ends the rows of the directory that was begun last.
    fn end(&mut self) {
        if let (Some((_, slot)), Some(chunk)) = (self.slots.last_mut(), self.chunks.last()) {
            slot.end = chunk.bytes.len();
            slot.children.1 = self.children.len() - slot.children.0;
            slot.digest = Digest::of(&chunk.bytes[slot.start..slot.end]);
        }
    }
}

impl Forest {
    /// Digests everything that the rows say: two walks with the same print found the same, in the same
    /// order, whatever thread found it.
    ///
    /// A directory's rows tell which of them lead to another directory, so digests in the order of a
    /// depth-first walk say where each belongs.
    pub(super) fn print(&self) -> Digest {
        let mut hasher = Hasher::new();
        hasher.update(b"lapstrake context print 1\n");
        let mut dirs = vec![0];
        while let Some(index) = dirs.pop() {
            let slot = &self.dirs[index as usize];
            hasher.update(slot.digest.as_bytes());
            dirs.extend(self.children_of(slot).iter().rev());
        }
        hasher.finish()
    }

    fn children_of(&self, slot: &Slot) -> &[u32] {
        let (start, count) = slot.children;
        &self.children[slot.thread][start..start + count]
    }

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
            /// How many of its directories were entered.
            entered: usize,
            stem: usize,
            waiting: bool,
        }
        let mut path: Vec<u8> = Vec::new();
        let top = self.dirs[0];
        let mut frames =
            vec![Frame { slot: top, at: top.start, entered: 0, stem: 0, waiting: false }];
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
            let child = frame.entered;
            frame.entered += usize::from(row.entered);
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
            if row.entered {
                let waiting = row.excluded;
                let child = self.children_of(&slot)[child];
                let slot = self.dirs[child as usize];
                path.push(b'/');
                let stem = path.len();
                frames.push(Frame { slot, at: slot.start, entered: 0, stem, waiting });
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
    // Rows are written by push() above, always whole.
    let (head, rest) = bytes[at..].split_at(HEAD);
    let short = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let long = |bytes: &[u8], at: usize| {
        let mut out = [0; 8];
        out.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(out)
    };
    let (kind, flags, size) = (head[0], head[1], long(head, 8));
    let (link, rest) = match flags & LINKED {
        0 => (None, rest),
        _ => {
            let (link, rest) = rest.split_at(16);
            (Some((long(link, 0), long(link, 8))), rest)
        }
    };
    let (name, rest) = rest.split_at(usize::from(short(4)));
    let (target, rest) = rest.split_at(usize::from(short(6)));
    let row = Row {
        kind: KINDS[usize::from(kind)],
        mode: short(2),
        size,
        mtime: long(head, 16) as i64,
        print: Print([long(head, 24), long(head, 32)]),
        link,
        racy: flags & RACY != 0,
        excluded: flags & EXCLUDED != 0,
        entered: flags & ENTERED != 0,
        name,
        target,
        device: ((size >> 32) as u32, size as u32),
    };
    (row, bytes.len() - rest.len())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
