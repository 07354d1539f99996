//! What must hold when a world has come to its end.

use super::faults::SEC;
use super::tap::is_of_decode;
use super::world::World;

/// What became of a world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// What was found wrong; empty: nothing.
    pub failures: Vec<String>,
    /// Changes with everything that happened.
    pub hash: u64,
    /// Virtual time that passed, ns.
    pub lasted: u64,
    /// Turns of all shards.
    pub turns: u64,
    /// Bytes that were read at their right place.
    pub verified: u64,
    /// Connections that came to a good end, and that were excused from it.
    pub good: usize,
    /// See `good`.
    pub excused: usize,
}

impl World {
    /// Runs the world to its end and judges it.
    pub fn finish(mut self) -> Outcome {
        self.run(u64::MAX);
        if self.book.borrow().failures.is_empty() {
            self.judge();
        }
        if self.trace.lines {
            for shard in self.hosts.iter().flat_map(|host| &host.shards) {
                let report = shard.report();
                println!("{:#?}\n{:#?}", report.counters, report.drops);
            }
        }
        let book = self.book.borrow();
        let excused = book.entries.iter().filter(|e| e.excuse.is_some()).count();
        Outcome {
            seed: self.scenario.seed,
            failures: book.failures.clone(),
            hash: self.trace.hash,
            lasted: self.now,
            turns: self.turns,
            verified: book.verified,
            good: book.entries.len() - excused,
            excused,
        }
    }

    fn judge(&mut self) {
        let patience = self.scenario.patience / SEC;
        let pending = self.book.borrow().pending();
        for number in pending {
            let entry = self.book.borrow().entries[number as usize].clone();
            let how = if self.is_at_rest() {
                "nothing is left to happen".to_owned()
            } else {
                format!("after {patience} s of peace")
            };
            self.fail(format!(
                "liveness: connection {number} is not over, {how}: {:?}",
                entry.ends
            ));
        }
        if self.book.borrow().failures.is_empty() && !self.is_at_rest() {
            self.fail(format!("liveness: no rest after {patience} s of peace"));
        }
        if !self.book.borrow().failures.is_empty() {
            return;
        }
        self.book.borrow_mut().judge();
        for host in 0..2 {
            self.judge_frames(host);
            self.judge_counters(host);
        }
    }

    /// At the end every frame is free again, or with the kernel to be filled.
    fn judge_frames(&self, host: usize) {
        for queue in &self.hosts[host].queues {
            let umem = queue.umem();
            // Those that another shard has given back since the last turn.
            umem.collect_leases();
            match umem.audit() {
                Err(error) => self.fail(format!("ledger: {error}")),
                Ok(ledger) => {
                    let free = ledger.rx_free + ledger.fill + ledger.tx_free;
                    if free != ledger.frames || queue.unread() > 0 {
                        self.fail(format!("ledger: frames are still held: {ledger:?}"));
                    }
                }
            }
        }
        for shard in &self.hosts[host].shards {
            let left = shard.report().connections;
            if !left.is_empty() {
                self.fail(format!("liveness: connections are left: {left:?}"));
            }
        }
    }

    /// What came in was counted: as a segment, or as a drop with a reason.
    fn judge_counters(&self, host: usize) {
        let (mut received, mut counted) = (0, 0);
        let (mut sent, mut completed) = (0, 0);
        let (mut handed, mut taken, mut full) = (0, 0, 0);
        let mut icmp = 0;
        for shard in &self.hosts[host].shards {
            let report = shard.report();
            let counter = |name: &str| report.counters[name];
            let drop = |name: &str| report.drops.get(name).copied().unwrap_or(0);
            received += counter("frames-received") + counter("taken-over");
            counted += counter("segments-in") + counter("icmp-errors");
            let of_decode = report.drops.iter().filter(|(name, _)| is_of_decode(name));
            counted += of_decode.map(|(_, count)| count).sum::<u64>();
            // An ICMP error for another shard's flow is handed over before anything counts it here.
            icmp += counter("icmp-errors");
            icmp += report
                .drops
                .iter()
                .filter(|(name, _)| name.contains("icmp"))
                .map(|(_, n)| n)
                .sum::<u64>();
            sent += counter("frames-transmitted");
            completed += counter("frames-completed");
            handed += counter("handed-over");
            taken += counter("taken-over");
            full += drop("no-receive-credit");
        }
        let delivered = self.delivered[host];
        if received < counted || received > counted + icmp.min(handed) {
            self.fail(format!(
                "counters: {received} frames received, {counted} counted"
            ));
        }
        if received != delivered + taken {
            self.fail(format!(
                "counters: {delivered} frames delivered, {received} received"
            ));
        }
        if sent != completed {
            self.fail(format!(
                "counters: {sent} frames sent, {completed} completed"
            ));
        }
        if taken > handed || handed > taken + full {
            self.fail(format!(
                "counters: {handed} handed over, {taken} taken over"
            ));
        }
    }
}
