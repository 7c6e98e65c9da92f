//! Processes: each runs the shipping loop in a coroutine, so every wait inside a blocking call of a
//! port returns control to the scheduler. A coroutine that is not resumed is a frozen process. A
//! dropped coroutine is `kill -9` at its current wait.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use engine::instance::FatalError;

/// How a process ended by itself.
#[derive(Debug)]
pub enum Ended {
    Stopped(FatalError),
    /// A stop was requested, and the process finished its turn.
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

/// Creates a process, which begins at the first resume.
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

/// Ends a process at its current wait. Its destructors run; the model's destructors have no effect
/// that a dead process could not have.
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

/// True if a process runs; false if the model itself runs.
pub fn is_running() -> bool {
    CURRENT.get().0 != usize::MAX
}

/// Returns control to the scheduler until the scheduler resumes this process.
pub fn suspend() {
    let (number, yielder) = CURRENT.get();
    assert!(!yielder.is_null(), "only a process waits");

    // SAFETY: the running coroutine set the pointer. Its yielder lives on its stack as long as the
    // coroutine runs.
    unsafe { (*yielder).suspend(()) };
    CURRENT.set((number, yielder));
}
