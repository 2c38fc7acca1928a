//! Counts the processor's work and the allocations of an action.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// What an action costs.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Cost {
    /// Processor time in nanoseconds, the kernel's included. Where the clock counts instructions, one
    /// nanosecond is one instruction.
    pub(crate) work: u64,
    /// Number of allocations.
    pub(crate) allocations: u64,
    /// Allocated bytes at the highest point, above those at the beginning.
    pub(crate) peak: u64,
    /// Bytes that are still allocated at the end.
    pub(crate) kept: u64,
}

impl Cost {
    /// The mean of so many equal actions.
    pub(crate) fn each(self, count: u64) -> Self {
        let count = count.max(1);
        Self {
            work: self.work / count,
            allocations: self.allocations / count,
            peak: self.peak,
            kept: self.kept / count,
        }
    }
}

/// The threads whose work counts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Of {
    Thread,
    Process,
}

impl Of {
    /// The processor time until now.
    pub(crate) fn work(self) -> u64 {
        let time = clock_gettime(match self {
            Self::Thread => ClockId::ThreadCPUTime,
            Self::Process => ClockId::ProcessCPUTime,
        });
        let [seconds, nanoseconds] = [time.tv_sec, time.tv_nsec].map(|part| part.unsigned_abs());
        seconds * 1_000_000_000 + nanoseconds
    }
}

/// Runs an action on this thread, and counts what it costs. Allocations are those of all threads.
pub(crate) fn measure<T>(action: impl FnOnce() -> T) -> (T, Cost) {
    measure_of(Of::Thread, action)
}

/// Runs an action, and counts what these threads do meanwhile.
pub(crate) fn measure_of<T>(of: Of, action: impl FnOnce() -> T) -> (T, Cost) {
    let (allocations, live) = (ALLOCATIONS.load(Relaxed), LIVE.load(Relaxed));
    PEAK.store(live, Relaxed);
    let work = of.work();
    let result = action();
    let cost = Cost {
        work: of.work() - work,
        allocations: ALLOCATIONS.load(Relaxed) - allocations,
        peak: PEAK.load(Relaxed).saturating_sub(live),
        kept: LIVE.load(Relaxed).saturating_sub(live),
    };
    (result, cost)
}

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static LIVE: AtomicU64 = AtomicU64::new(0);
static PEAK: AtomicU64 = AtomicU64::new(0);

/// The system's allocator, which counts at the cost of a few instructions.
///
/// Not the crate allocation-counter: it copies where the system's allocator would grow in place, which
/// changes the instructions, and it does not count other threads.
struct Counting;

fn grown(by: usize) {
    let by = u64::try_from(by).unwrap_or(u64::MAX);
    let live = LIVE.fetch_add(by, Relaxed) + by;
    PEAK.fetch_max(live, Relaxed);
}

fn shrunk(by: usize) {
    LIVE.fetch_sub(u64::try_from(by).unwrap_or(u64::MAX), Relaxed);
}

// SAFETY: every method passes its arguments to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        grown(layout.size());
        // SAFETY: the caller's promises are those that this needs.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        grown(layout.size());
        // SAFETY: the caller's promises are those that this needs.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        shrunk(layout.size());
        // SAFETY: the caller's promises are those that this needs.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        shrunk(layout.size());
        grown(size);
        // SAFETY: the caller's promises are those that this needs.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;
