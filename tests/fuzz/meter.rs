//! Measures what a piece of code takes: time of the processor, and live memory exactly.
#![allow(unsafe_code, reason = "an allocator that counts is an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// An allocator that counts; a program makes it its `#[global_allocator]`.
pub struct Meter;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// So much is a bug beyond doubt, and ends the program before it takes the machine down, bytes.
const FAR_TOO_MUCH: usize = 512 << 20;

fn grow(size: usize) {
    let live = LIVE.fetch_add(size, Ordering::Relaxed) + size;
    if live > PEAK.fetch_max(live, Ordering::Relaxed) && live > FAR_TOO_MUCH {
        std::process::abort();
    }
}

// SAFETY: hands everything to the system's allocator as it came, and only counts beside that.
unsafe impl GlobalAlloc for Meter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promises are those of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // A move holds both for a moment, unless the system can extend in place; counted is the
        // sum of what is asked for, as large blocks are moved by the kernel without a copy.
        if size > layout.size() {
            grow(size - layout.size());
        } else {
            LIVE.fetch_sub(layout.size() - size, Ordering::Relaxed);
        }
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// Runs something, and gives its seconds of processor time and the most bytes that were live above those
/// before. Not for several threads that measure at a time.
pub fn measure(run: impl FnOnce()) -> (f64, usize) {
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let start = processor_seconds();
    run();
    let peak = PEAK.load(Ordering::Relaxed);
    (processor_seconds() - start, peak.saturating_sub(before))
}

unsafe extern "C" {
    /// C's clock(3): time of the processor that this process has had, in microseconds (POSIX fixes
    /// CLOCKS_PER_SEC at a million).
    safe fn clock() -> std::ffi::c_long;
}

fn processor_seconds() -> f64 {
    clock() as f64 / 1e6
}
