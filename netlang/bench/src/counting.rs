//! An allocator that counts: what is allocated now, the most there was, how often and how much.
//!
//! A program or test that wants to count makes it its global allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static CALLS: AtomicUsize = AtomicUsize::new(0);
static TOTAL: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, counted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counting;

/// What was counted by [`count`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// The most bytes that were allocated at once, beyond those before.
    pub peak: usize,
    /// Allocations, growths included.
    pub calls: usize,
    /// Bytes of all allocations together.
    pub total: usize,
}

fn add(bytes: usize) {
    let now = NOW.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(now, Relaxed);
    CALLS.fetch_add(1, Relaxed);
    TOTAL.fetch_add(bytes, Relaxed);
}

// SAFETY: every call is handed on to the system's allocator as it came; counting touches only atomics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller keeps the promises of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller keeps the promises of `GlobalAlloc::alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps the promises of `GlobalAlloc::dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        NOW.fetch_sub(layout.size(), Relaxed);
        add(size);
        // SAFETY: the caller keeps the promises of `GlobalAlloc::realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Runs something and counts what it allocates. What else the process does at the same time is counted, too.
pub fn count<V>(work: impl FnOnce() -> V) -> (V, Counts) {
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    CALLS.store(0, Relaxed);
    TOTAL.store(0, Relaxed);
    let value = work();
    let peak = PEAK.load(Relaxed).saturating_sub(before);
    (value, Counts { peak, calls: CALLS.load(Relaxed), total: TOTAL.load(Relaxed) })
}
