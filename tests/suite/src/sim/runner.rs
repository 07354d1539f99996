//! Worlds by their seeds: one, or many on all cores.

use std::cell::RefCell;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once};
use std::thread;

use super::scenario::Scenario;
use super::verdict::Outcome;
use super::world::World;

thread_local! {
    /// What the last panic of this thread said, while worlds run on it.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static QUIET: RefCell<bool> = const { RefCell::new(false) };
}

/// A panic in a world is that world's failure, not a message on the terminal.
fn hush() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if QUIET.with(|quiet| *quiet.borrow()) {
                PANIC.with(|text| *text.borrow_mut() = Some(info.to_string()));
            } else {
                before(info);
            }
        }));
    });
}

/// Runs the world of a seed. `lines`: with a trace.
pub fn run(seed: u64, lines: bool) -> Outcome {
    run_caught(seed, || World::new(Scenario::of(seed), lines).finish())
}

/// Runs a world after `prepare` has had it.
pub fn run_scenario(scenario: Scenario, lines: bool, prepare: impl FnOnce(&mut World)) -> Outcome {
    run_caught(scenario.seed, || {
        let mut world = World::new(scenario, lines);
        prepare(&mut world);
        world.finish()
    })
}

fn run_caught(seed: u64, world: impl FnOnce() -> Outcome) -> Outcome {
    hush();
    let before = QUIET.with(|quiet| quiet.replace(true));
    let result = panic::catch_unwind(AssertUnwindSafe(world));
    QUIET.with(|quiet| *quiet.borrow_mut() = before);
    result.unwrap_or_else(|_| {
        let said = PANIC.with(|text| text.borrow_mut().take());
        let said = said.unwrap_or_default().replace('\n', " ");
        Outcome {
            seed,
            failures: vec![format!("panic: {said}")],
            hash: 0,
            lasted: 0,
            turns: 0,
            verified: 0,
            good: 0,
            excused: 0,
        }
    })
}

/// Runs the worlds of many seeds on `threads` threads; `done` is told of each as it ends, in no order.
pub fn run_many(seeds: Range<u64>, threads: usize, done: impl FnMut(Outcome) + Send) {
    let next = AtomicU64::new(seeds.start);
    let done = Mutex::new(done);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = run(seed, false);
                    let mut done = done.lock().expect("no world panics through its runner");
                    done(outcome);
                }
            });
        }
    });
}
