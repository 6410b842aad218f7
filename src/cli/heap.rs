//! Memory for what large Dockerfiles become, ahead of its use.
//!
//! Parsing and planning thousands of instructions takes some megabytes, which the kernel would give page by page,
//! each at its first use: a fifth of the whole time. Beside the parser, another thread has it given in a few calls.

use std::hint::black_box;
use std::thread::{self, JoinHandle};

use crate::sys;

/// What is worth a thread, in bytes; smaller Dockerfiles are done before it has started.
const WORTH_IT: usize = 1 << 20;

/// The most bytes; the rest comes page by page.
const MOST: usize = 16 << 20;

/// How much is asked for at a time: meanwhile the parser can't get anything else from the kernel.
const PIECE: usize = 512 << 10;

/// How much memory the instructions of a Dockerfile take, and the steps that are made of them, about. Both were
/// measured with generated files of thousands of instructions.
fn estimate(source: &[u8]) -> usize {
    let lines = memchr::memchr_iter(b'\n', source).count();
    8 * source.len() + 1000 * lines
}

/// Begins to make memory ready for what is made of a Dockerfile; None when that is not worth it.
pub fn ahead(source: &[u8]) -> Option<JoinHandle<()>> {
    let bytes = estimate(source).min(MOST);
    if bytes < WORTH_IT {
        return None;
    }
    let start = grow(bytes);
    let pieces = (start..start + bytes).step_by(PIECE);
    let populate = move || {
        pieces.for_each(|at| sys::mem::populate(at..(at + PIECE).min(start + bytes)));
    };
    // Without a thread the memory comes page by page, as ever.
    thread::Builder::new().spawn(populate).ok()
}

/// Makes the heap grow by this many bytes, and says where.
///
/// A large buffer has a mapping of its own in glibc's allocator, until one was freed; from then on buffers up to that
/// size come from the heap, and twice that size stays with the heap when it is free. So the second buffer stands
/// where small ones will. With another allocator, this may come to nothing.
fn grow(bytes: usize) -> usize {
    drop(black_box(Vec::<u8>::with_capacity(bytes)));
    let place = black_box(Vec::<u8>::with_capacity(bytes));
    place.as_ptr() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_large_files_are_worth_a_thread() {
        assert!(ahead(b"FROM scratch\nRUN true\n").is_none());
        let large = b"RUN --mount=type=cache,target=/c make\n".repeat(2000);
        let thread = ahead(&large).expect("two megabytes are worth one");
        thread.join().expect("it only asks for memory");
        assert!(estimate(&large) > 2 << 20 && estimate(&large) < 4 << 20);
    }
}
