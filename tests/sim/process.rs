//! Processes: each runs the shipping loop in a coroutine of its own, so that every wait inside a
//! blocking call of a port hands control back. Not resuming a coroutine is a frozen process;
//! dropping one is `kill -9`, at whatever point it waits.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use engine::instance::FatalError;

/// How a process ended by itself.
#[derive(Debug)]
pub enum Ended {
    Stopped(FatalError),
    /// Was asked to, and came to the end of a turn.
    Asked,
    Panicked(String),
}

type Running = Coroutine<(), (), Ended, DefaultStack>;

const STACK: usize = 256 * 1024;

thread_local! {
    static RUNNING: RefCell<Vec<Option<Running>>> = const { RefCell::new(Vec::new()) };
    static STACKS: RefCell<Vec<DefaultStack>> = const { RefCell::new(Vec::new()) };
    static CURRENT: Cell<(usize, *const Yielder<(), ()>)> = const { Cell::new((usize::MAX, std::ptr::null())) };
}

/// Makes a process; it begins when first resumed.
pub fn spawn(number: usize, body: impl FnOnce() -> Ended + 'static) {
    let stack = STACKS
        .with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| DefaultStack::new(STACK).expect("memory for a stack"));
    let running = Coroutine::with_stack(stack, move |yielder: &Yielder<(), ()>, ()| {
        CURRENT.set((number, yielder));
        body()
    });

    RUNNING.with_borrow_mut(|all| {
        if all.len() <= number {
            all.resize_with(number + 1, || None);
        }

        all[number] = Some(running);
    });
}

/// Runs a process up to its next wait, or to its end.
pub fn resume(number: usize) -> Option<Ended> {
    let mut running = RUNNING.with_borrow_mut(|all| all[number].take())?;
    let outer = CURRENT.get();
    let result = catch_unwind(AssertUnwindSafe(|| running.resume(())));
    CURRENT.set(outer);
    match result {
        Ok(CoroutineResult::Yield(())) => {
            RUNNING.with_borrow_mut(|all| all[number] = Some(running));
            None
        }
        Ok(CoroutineResult::Return(ended)) => {
            STACKS.with_borrow_mut(|stacks| stacks.push(running.into_stack()));
            Some(ended)
        }
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()));
            Some(Ended::Panicked(text.unwrap_or_default()))
        }
    }
}

/// Ends a process where it stands. Its destructors run; the model's do nothing that a dead process
/// could not do.
pub fn kill(number: usize) {
    let running = RUNNING.with_borrow_mut(|all| all.get_mut(number).and_then(Option::take));
    if let Some(mut running) = running {
        running.force_unwind();
        STACKS.with_borrow_mut(|stacks| stacks.push(running.into_stack()));
    }
}

/// The process that runs now.
pub fn current() -> usize {
    CURRENT.get().0
}

/// Whether a process runs, or the model itself.
pub fn is_running() -> bool {
    CURRENT.get().0 != usize::MAX
}

/// Hands control back to the scheduler until it resumes this process.
pub fn suspend() {
    let (number, yielder) = CURRENT.get();
    assert!(!yielder.is_null(), "only a process waits");

    // SAFETY: the pointer was set by the coroutine that runs now; its yielder lives on its stack as
    // long as it runs.
    unsafe { (*yielder).suspend(()) };
    CURRENT.set((number, yielder));
}
