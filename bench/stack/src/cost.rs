//! Running two shards for a time or for an amount of work, and what that cost.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bywash::seams::MemoryConfig;
use bywash::{MemoryPair, Service, ShardConfig};
use nix::time::ClockId;

/// Turns between two looks at clock and count.
const STRIDE: usize = 16;

/// Turns without any operation after which a load counts as stuck; far more than a round trip.
const PATIENCE: Duration = Duration::from_secs(5);

/// How much to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// At least this long.
    Time(Duration),
    /// At least so many operations.
    Operations(u64),
}

/// What a load did and how long that took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Segments of a bulk transfer, transactions, or connections.
    pub operations: u64,
    /// Payload bytes that arrived at A.
    pub bytes: u64,
    /// Packets that either end sent, each of which the other received.
    pub packets: u64,
    /// Turns of each shard.
    pub turns: u64,
    /// Wall-clock time.
    pub elapsed: Duration,
    /// Time that this thread has had the core: on a busy machine less than `elapsed`, and nearer to what the work takes.
    pub core: Duration,
}

impl Cost {
    /// Operations in a second of the core.
    pub fn per_second(&self) -> f64 {
        self.operations as f64 / self.core.as_secs_f64()
    }

    /// Payload in Gbit/s, by the time of the core.
    pub fn gbits(&self) -> f64 {
        self.bytes as f64 * 8e-9 / self.core.as_secs_f64()
    }

    /// Nanoseconds of the core for each packet: sending and receiving it.
    pub fn ns_per_packet(&self) -> f64 {
        self.core.as_nanos() as f64 / self.packets as f64
    }

    /// Nanoseconds of the core for each operation.
    pub fn ns_per_operation(&self) -> f64 {
        self.core.as_nanos() as f64 / self.operations as f64
    }

    /// What part of the wall-clock time the core was ours: below 1 the machine was busy.
    pub fn share(&self) -> f64 {
        self.core.as_secs_f64() / self.elapsed.as_secs_f64()
    }
}

/// What a service of this crate tells about itself.
pub(crate) trait Progress {
    /// Operations done.
    fn operations(&self) -> u64;
    /// Payload bytes received.
    fn bytes(&self) -> u64;
    /// Why it cannot go on.
    fn failure(&self) -> Option<&str>;
}

/// Two shards, `a` listening before `b` connects.
pub(crate) fn pair<A: Service, B: Service>(
    config: &ShardConfig,
    memory: &MemoryConfig,
    a: A,
    b: B,
) -> Result<MemoryPair<A, B>> {
    Ok(MemoryPair::with_memory(config, memory, a, b)?)
}

/// Turns until `done`, for at most `limit`.
pub(crate) fn prepare<A: Service + Progress, B: Service + Progress>(
    pair: &mut MemoryPair<A, B>,
    limit: Duration,
    mut done: impl FnMut(&A, &B) -> bool,
) -> Result<()> {
    let reached = pair.run_until(
        |a, b| a.failure().is_some() || b.failure().is_some() || done(a, b),
        limit,
    );
    refuse_failures(pair)?;
    if !reached {
        bail!("not ready within {limit:?}");
    }
    Ok(())
}

/// Runs the load and counts.
pub(crate) fn run<A: Service + Progress, B: Service + Progress>(
    pair: &mut MemoryPair<A, B>,
    effort: Effort,
) -> Result<Cost> {
    let (operations, bytes) = (pair.b.service().operations(), pair.a.service().bytes());
    let mut cost = measured(pair, effort)?;
    cost.operations = pair.b.service().operations() - operations;
    cost.bytes = pair.a.service().bytes() - bytes;
    refuse_failures(pair)?;
    if cost.operations == 0 {
        bail!("nothing was done in {:?}", cost.elapsed);
    }
    Ok(cost)
}

/// Never inlined: the name by which callgrind finds what is measured.
#[inline(never)]
fn measured<A: Service + Progress, B: Service + Progress>(
    pair: &mut MemoryPair<A, B>,
    effort: Effort,
) -> Result<Cost> {
    let mut cost = Cost::default();
    let first = pair.b.service().operations();
    let core = core_time()?;
    let start = Instant::now();
    let mut progress = (0, start);
    loop {
        for _ in 0..STRIDE {
            let (a, b) = (pair.a.turn(), pair.b.turn());
            cost.packets += (a.sent + b.sent) as u64;
            cost.turns += 1;
        }
        let done = pair.b.service().operations() - first;
        let now = Instant::now();
        cost.elapsed = now - start;
        let enough = match effort {
            Effort::Time(time) => cost.elapsed >= time,
            Effort::Operations(operations) => done >= operations,
        };
        if enough {
            cost.core = core_time()?.saturating_sub(core);
            return Ok(cost);
        }
        if done > progress.0 {
            progress = (done, now);
        } else if now - progress.1 > PATIENCE {
            refuse_failures(pair)?;
            bail!("nothing more was done for {PATIENCE:?}");
        }
    }
}

fn core_time() -> Result<Duration> {
    let time = ClockId::CLOCK_THREAD_CPUTIME_ID.now()?;
    Ok(Duration::from(time))
}

fn refuse_failures<A: Service + Progress, B: Service + Progress>(
    pair: &MemoryPair<A, B>,
) -> Result<()> {
    let ends = [pair.a.service().failure(), pair.b.service().failure()];
    match ends.into_iter().flatten().next() {
        Some(failure) => bail!("the load failed: {failure}"),
        None => Ok(()),
    }
}
