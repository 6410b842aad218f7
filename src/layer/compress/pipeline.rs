//! The way of a block: filled by the caller's thread, compressed by a worker, taken in order.
//!
//! For each block the caller's thread makes a [`Slot`], sends the block with the slot's other end to
//! the workers, and the slot to the [`Consumer`]. So the order of the output is the order of the
//! consumer's queue, and what bounds that queue bounds everything. A block's buffer goes back to its
//! [`Pool`] when its last owner (worker, consumer, a digest) drops it.

use std::io;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use super::Compression;
use super::block::{Done, Packer, block_size};

/// Bytes in blocks and their outputs, all together. (With eStargz, whose blocks hold pieces of files
/// whole, it is about twice as much.)
pub const BUDGET: usize = 28 << 20;

/// Blocks beside those that wait in the consumer's queue: one being filled, one being written, and
/// those waiting for or under a digest.
const OUTSIDE_QUEUE: usize = 3 + DIGEST_QUEUE;

/// Blocks that may wait for a digest of the data.
pub(in crate::layer) const DIGEST_QUEUE: usize = 2;

/// Buffers of one size, used again.
#[derive(Default)]
pub(in crate::layer) struct Pool(Mutex<Vec<Vec<u8>>>);

impl Pool {
    /// Gives an empty buffer.
    pub(super) fn take(&self, capacity: usize) -> Vec<u8> {
        let mut buffer = self.pop().unwrap_or_default();
        buffer.clear();
        buffer.reserve(capacity);
        buffer
    }

    /// Gives a buffer of exactly `len` bytes, with anything in it.
    fn take_filled(&self, len: usize) -> Vec<u8> {
        // Fresh zeros come from the kernel page by page when touched, so small uses stay cheap.
        self.pop().unwrap_or_else(|| vec![0; len])
    }

    pub(super) fn put(&self, buffer: Vec<u8>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }

    fn pop(&self) -> Option<Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

/// A block of data, immutable once made.
pub(in crate::layer) struct Block {
    buffer: Vec<u8>,
    len: usize,
    starts: Vec<Start>,
    home: Arc<Pool>,
}

/// Where in a block a gzip member has to begin: with a piece of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub(super) at: usize,
    /// Bytes of the piece.
    pub(super) piece: usize,
}

impl Block {
    pub(in crate::layer) fn data(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    pub(super) fn starts(&self) -> &[Start] {
        &self.starts
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.home.put(std::mem::take(&mut self.buffer));
    }
}

/// A block on its way: done, or to be waited for.
pub(in crate::layer) enum Slot {
    Ready(Done),
    Pending(Receiver<io::Result<Done>>, Arc<Block>),
}

impl Slot {
    /// Gives the data, compressed or not yet.
    pub(in crate::layer) fn block(&self) -> &Arc<Block> {
        match self {
            Slot::Ready(done) => &done.block,
            Slot::Pending(_, block) => block,
        }
    }

    /// Waits for the compressed block.
    pub(in crate::layer) fn wait(self) -> io::Result<Done> {
        match self {
            Slot::Ready(done) => Ok(done),
            Slot::Pending(receiver, _) => receiver
                .recv()
                .unwrap_or_else(|_| Err(io::Error::other("a compression thread has died"))),
        }
    }
}

/// Takes blocks in order.
pub(in crate::layer) trait Consumer {
    /// Takes the next block; waits as long as too many are queued already.
    fn take(&mut self, slot: Slot) -> io::Result<()>;

    /// Takes the first block when it is known to be the last, too.
    fn only(&mut self, slot: Slot) -> io::Result<()> {
        self.take(slot)
    }
}

struct Job {
    block: Arc<Block>,
    reply: SyncSender<io::Result<Done>>,
}

/// Cuts data into blocks and has them compressed.
pub(in crate::layer) struct Pipeline {
    compression: Compression,
    threads: usize,
    block_size: usize,
    buffer: Vec<u8>,
    filled: usize,
    starts: Vec<Start>,
    started: bool,
    inputs: Arc<Pool>,
    outputs: Arc<Pool>,
    jobs: Option<Sender<Job>>,
    workers: Vec<JoinHandle<()>>,
}

impl Pipeline {
    pub(in crate::layer) fn new(compression: Compression, threads: usize) -> Pipeline {
        Pipeline {
            compression,
            threads: threads.max(1),
            block_size: block_size(compression),
            buffer: Vec::new(),
            filled: 0,
            starts: Vec::new(),
            started: false,
            inputs: Arc::default(),
            outputs: Arc::default(),
            jobs: None,
            workers: Vec::new(),
        }
    }

    /// Says how many blocks a consumer may queue.
    pub(in crate::layer) fn depth(&self) -> usize {
        let affordable = BUDGET / (2 * self.block_size);
        (2 * self.threads + 1).min(affordable.saturating_sub(OUTSIDE_QUEUE)).max(2)
    }

    /// Adds data.
    pub(in crate::layer) fn write(
        &mut self,
        mut data: &[u8],
        consumer: &mut impl Consumer,
    ) -> io::Result<()> {
        while !data.is_empty() {
            // A full block waits for more data, so that the last block is known to be the last.
            if self.filled == self.block_size {
                self.dispatch(consumer)?;
            }
            if self.buffer.is_empty() {
                self.buffer = self.inputs.take_filled(self.block_size);
            }
            let count = data.len().min(self.block_size - self.filled);
            self.buffer[self.filled..self.filled + count].copy_from_slice(&data[..count]);
            self.filled += count;
            data = &data[count..];
        }
        Ok(())
    }

    /// Has a gzip member begin here, with a piece of a file of so many bytes (at most
    /// [`super::block::CHUNK`]), which must be written next.
    pub(in crate::layer) fn member(
        &mut self,
        piece: usize,
        consumer: &mut impl Consumer,
    ) -> io::Result<()> {
        /// Small files are compressed many at a time, which keeps threads from waiting for each other.
        const BATCH: usize = 512 * 1024;
        if self.filled > 0 && (self.filled >= BATCH || self.filled + piece > self.block_size) {
            self.dispatch(consumer)?;
        }
        self.starts.push(Start { at: self.filled, piece });
        Ok(())
    }

    /// Sends the last block, even if it is empty and the only one.
    pub(in crate::layer) fn finish(&mut self, consumer: &mut impl Consumer) -> io::Result<()> {
        if self.started {
            self.dispatch(consumer)?;
        } else {
            let slot = self.pack_here()?;
            consumer.only(slot)?;
        }
        self.jobs = None;
        Ok(())
    }

    fn cut(&mut self) -> Arc<Block> {
        let buffer = std::mem::take(&mut self.buffer);
        let len = std::mem::take(&mut self.filled);
        let starts = std::mem::take(&mut self.starts);
        Arc::new(Block { buffer, len, starts, home: self.inputs.clone() })
    }

    /// Compresses the block at hand without any thread.
    fn pack_here(&mut self) -> io::Result<Slot> {
        let block = self.cut();
        let mut packer = Packer::new(self.compression)?;
        packer.pack(block, &self.outputs).map(Slot::Ready)
    }

    fn dispatch(&mut self, consumer: &mut impl Consumer) -> io::Result<()> {
        if !self.started {
            self.started = true;
            self.start();
        }
        let Some(jobs) = &self.jobs else {
            let slot = self.pack_here()?;
            return consumer.take(slot);
        };
        let jobs = jobs.clone();
        let block = self.cut();
        let (reply, receiver) = mpsc::sync_channel(1);
        let slot = Slot::Pending(receiver, block.clone());
        // Fails only when all workers have died; then waiting for the slot says so.
        let _ = jobs.send(Job { block, reply });
        consumer.take(slot)
    }

    /// Starts the workers. Where no thread can be had, or none is needed, there are none, and blocks
    /// are packed where they are made.
    fn start(&mut self) {
        if self.compression == Compression::None {
            return;
        }
        let (sender, receiver) = mpsc::channel::<Job>();
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..self.threads {
            let (jobs, outputs) = (receiver.clone(), self.outputs.clone());
            let compression = self.compression;
            let worker = thread::Builder::new().name("compress".to_owned());
            match worker.spawn(move || work(compression, &jobs, &outputs)) {
                Ok(handle) => self.workers.push(handle),
                Err(_) => break,
            }
        }
        if !self.workers.is_empty() {
            self.jobs = Some(sender);
        }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.jobs = None;
        for worker in self.workers.drain(..) {
            // A worker that panicked has said so, and its slot was an error.
            let _ = worker.join();
        }
    }
}

fn work(compression: Compression, jobs: &Mutex<Receiver<Job>>, outputs: &Arc<Pool>) {
    let mut packer = None;
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { block, reply }) = job else { return };
        let done = match &mut packer {
            Some(packer) => Ok(packer),
            empty => Packer::new(compression).map(|packer| empty.insert(packer)),
        };
        let done = done.and_then(|packer| packer.pack(block, outputs));
        // Nobody waits any more when the writer has failed.
        let _ = reply.send(done);
    }
}
