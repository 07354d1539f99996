//! One lock around the machine, and the order of time and threads.
//!
//! packetdrill has two threads: one runs the script, one its blocking system calls. A blocking call sleeps here (really:
//! packetdrill looks into `/proc` for it) until the machine has something for it. Virtual time could run away from a
//! thread that was woken and has not yet run; so whoever moves time first waits until every woken thread has
//! either gone to sleep again or returned *and* read the clock, as packetdrill does to note when the call ended.
//!
//! ```text
//!  caller:  Asleep --something happened--> Waking --not for me--> Asleep
//!                                             +-----done--------> Returned --reads the clock--> gone
//! ```

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use crate::machine::{Emitted, InjectError, Machine};

/// Real time that a woken thread is given before virtual time goes on without it: only a thread that was killed, or
/// never reads the clock, needs so long.
const PATIENCE: Duration = Duration::from_millis(200);

/// Real time without any call of the script's thread after which it is taken to wait for the sleeper itself, as
/// packetdrill does before its next system call (for a second at most). The sleeper then lets time pass.
const SILENCE: Duration = Duration::from_millis(250);

/// Virtual time that `receive` skips at most in search of a datagram: a day, far beyond any timer of TCP.
const HORIZON_US: i64 = 24 * 3600 * 1_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Asleep,
    Waking,
    Returned,
}

struct Caller {
    thread: ThreadId,
    phase: Phase,
}

struct Inside {
    machine: Machine,
    callers: Vec<Caller>,
    /// The thread that plays the script: when it blocks, nobody else moves time.
    script: ThreadId,
    /// Calls of that thread so far.
    calls: u64,
}

// SAFETY: a machine holds counted pointers without atomics, all of them to things that it owns itself; no copy of
// one leaves it, for every way in is through `Gate`'s lock and gives out plain values only. So only one thread at a
// time touches the counts, and the lock orders their accesses.
#[expect(unsafe_code, reason = "see SAFETY: the lock is what makes it true")]
unsafe impl Send for Inside {}

/// The machine behind its lock.
pub struct Gate {
    inside: Mutex<Inside>,
    changed: Condvar,
}

impl Gate {
    /// Puts a machine behind a lock. To be called by the thread that will play the script.
    pub fn new(machine: Machine) -> Self {
        Self {
            inside: Mutex::new(Inside {
                machine,
                callers: Vec::new(),
                script: thread::current().id(),
                calls: 0,
            }),
            changed: Condvar::new(),
        }
    }

    /// A panic in one call must not turn every later one into another riddle.
    fn lock(&self) -> MutexGuard<'_, Inside> {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.calls += u64::from(inside.script == thread::current().id());
        inside
    }

    /// One call that does not block.
    pub fn call<R>(&self, call: impl FnOnce(&mut Machine) -> R) -> R {
        let mut inside = self.lock();
        inside.forget(thread::current().id());
        let result = call(&mut inside.machine);
        drop(self.let_callers_run(inside));
        result
    }

    /// A call that is tried until it gives something; between tries the thread sleeps. The script's own thread lets time
    /// pass instead, as nobody else would. `None`: it would wait for ever.
    pub fn call_blocking<R>(
        &self,
        mut attempt: impl FnMut(&mut Machine) -> Option<R>,
    ) -> Option<R> {
        let me = thread::current().id();
        let mut inside = self.lock();
        inside.forget(me);
        let mut slept = false;
        let horizon = inside.machine.now_us() + HORIZON_US;
        loop {
            if let Some(result) = attempt(&mut inside.machine) {
                if slept {
                    inside.set(me, Phase::Returned);
                    self.changed.notify_all();
                }
                return Some(result);
            }
            if me == inside.script {
                inside.machine.next_wakeup_us().filter(|at| *at < horizon)?;
                inside.machine.step(horizon);
                inside = self.let_callers_run(inside);
                continue;
            }
            slept = true;
            inside.set(me, Phase::Asleep);
            self.changed.notify_all();
            inside = self.sleep_until_woken(inside, me);
        }
    }

    /// Sleeps until somebody else has made something happen, or until nobody does anything any more.
    fn sleep_until_woken<'a>(
        &'a self,
        mut inside: MutexGuard<'a, Inside>,
        me: ThreadId,
    ) -> MutexGuard<'a, Inside> {
        loop {
            let calls = inside.calls;
            let (woken, waited) = self
                .changed
                .wait_timeout_while(inside, SILENCE, |inside| {
                    inside.phase(me) == Some(Phase::Asleep) && inside.calls == calls
                })
                .unwrap_or_else(PoisonError::into_inner);
            inside = woken;
            if inside.phase(me) != Some(Phase::Asleep) {
                return inside;
            }
            if waited.timed_out() && inside.machine.next_wakeup_us().is_some() {
                let horizon = inside.machine.now_us() + HORIZON_US;
                inside.machine.step(horizon);
                return inside;
            }
        }
    }

    /// The clock in microseconds, one later than at the last reading, so that a script's spinning ends.
    pub fn read_clock(&self) -> i64 {
        let me = thread::current().id();
        let mut inside = self.lock();
        if inside.phase(me).is_some() {
            inside.forget(me);
            self.changed.notify_all();
            return inside.machine.now_us();
        }
        let to = inside.machine.now_us() + 1;
        inside.machine.step(to);
        let now = inside.machine.now_us();
        drop(self.let_callers_run(inside));
        now
    }

    /// Lets virtual time pass.
    pub fn sleep(&self, microseconds: u64) {
        let mut inside = self.let_callers_run(self.lock());
        let end = inside.machine.now_us() + i64::try_from(microseconds).unwrap_or(i64::MAX / 2);
        while inside.machine.now_us() < end {
            inside.machine.step(end);
            inside = self.let_callers_run(inside);
        }
    }

    /// Gives the stack a datagram.
    ///
    /// # Errors
    /// See [`Machine::inject`].
    pub fn inject(&self, datagram: &[u8]) -> Result<(), InjectError> {
        let mut inside = self.let_callers_run(self.lock());
        let result = inside.machine.inject(datagram);
        drop(self.let_callers_run(inside));
        result
    }

    /// The next datagram of the stack; time jumps from deadline to deadline until there is one. `None`: nothing is
    /// due, or nothing came in a day.
    pub fn receive(&self) -> Option<Emitted> {
        let mut inside = self.let_callers_run(self.lock());
        let horizon = inside.machine.now_us() + HORIZON_US;
        loop {
            if let Some(emitted) = inside.machine.take_emitted() {
                return Some(emitted);
            }
            inside.machine.next_wakeup_us().filter(|at| *at < horizon)?;
            inside.machine.step(horizon);
            inside = self.let_callers_run(inside);
        }
    }

    /// Wakes all sleepers, and waits until none of them has anything left to do at this moment.
    fn let_callers_run<'a>(&'a self, mut inside: MutexGuard<'a, Inside>) -> MutexGuard<'a, Inside> {
        if inside.callers.is_empty() {
            return inside;
        }
        for caller in &mut inside.callers {
            if caller.phase == Phase::Asleep {
                caller.phase = Phase::Waking;
            }
        }
        self.changed.notify_all();
        let me = thread::current().id();
        let busy = |inside: &mut Inside| {
            let mut others = inside.callers.iter().filter(|caller| caller.thread != me);
            others.any(|caller| caller.phase != Phase::Asleep)
        };
        let (mut inside, waited) = self
            .changed
            .wait_timeout_while(inside, PATIENCE, busy)
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            inside
                .callers
                .retain(|caller| caller.phase != Phase::Returned);
        }
        inside
    }
}

impl Inside {
    fn phase(&self, thread: ThreadId) -> Option<Phase> {
        let mut callers = self.callers.iter();
        callers
            .find(|caller| caller.thread == thread)
            .map(|caller| caller.phase)
    }

    fn set(&mut self, thread: ThreadId, phase: Phase) {
        self.forget(thread);
        self.callers.push(Caller { thread, phase });
    }

    fn forget(&mut self, thread: ThreadId) {
        self.callers.retain(|caller| caller.thread != thread);
    }
}
