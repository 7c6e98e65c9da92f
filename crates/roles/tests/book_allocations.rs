//! The matching core makes no allocation per command after its slab has reached the size of the
//! book.

#[path = "../../../benches/support/desk.rs"]
mod desk;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed on to the system allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn none_in_the_steady_state() {
    let mut desk = desk::Desk::new();
    (0..1_000_000).for_each(|_| desk.step());
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let traded = desk.traded;
    (0..1_000_000).for_each(|_| desk.step());
    assert!(
        desk.traded > traded && desk.counts.iter().all(|n| *n > 10_000),
        "the mix was run: {:?}",
        desk.counts
    );

    // Other threads of the test program may allocate a little. One allocation per thousand commands
    // would already give a thousand.
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert!(
        allocations < 50,
        "{allocations} allocations in 1000000 commands"
    );
}
