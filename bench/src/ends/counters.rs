//! Counters of the engines that run in this process, by their control sockets.

use anyhow::Result;
use bywash::seams::control::{Operation, ask, engines};

/// Sums over all shards of all engines of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// System calls: to send, and to sleep.
    pub(crate) calls: u64,
    /// Frames sent and received.
    pub(crate) frames: u64,
    /// Frames that the kernel had no room for.
    pub(crate) lost: u64,
}

impl Counters {
    /// As of now.
    pub(crate) fn now() -> Result<Self> {
        let mut sums = Self::default();
        for engine in engines()? {
            let ours = engine
                .owner
                .as_ref()
                .is_some_and(|owner| owner.pid == std::process::id());
            if !ours {
                continue;
            }
            let report = ask(&engine, Operation::Ss)?;
            for shard in report["shards"].as_array().into_iter().flatten() {
                let sum = |names: &[&str]| -> u64 {
                    names
                        .iter()
                        .filter_map(|name| shard["counters"][name].as_u64())
                        .sum()
                };
                sums.calls += sum(&["kicks", "sleeps"]);
                sums.frames += sum(&["frames-received", "frames-transmitted"]);
                sums.lost += sum(&["rx-ring-full", "rx-dropped"]);
            }
        }
        Ok(sums)
    }

    /// What has come since an earlier reading.
    pub(crate) const fn since(self, earlier: Self) -> Self {
        Self {
            calls: self.calls.saturating_sub(earlier.calls),
            frames: self.frames.saturating_sub(earlier.frames),
            lost: self.lost.saturating_sub(earlier.lost),
        }
    }
}
