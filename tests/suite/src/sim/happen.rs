//! What befalls a world: happenings in their time, stops, deaths, and peace.

use bywash::seams::tcp::Config;

use super::faults::{Faults, Happening, MS, SEC};
use super::world::{What, World};

/// The least silence, and the least wait for an acknowledgment, after which these settings give a connection up.
pub(super) fn patience(config: &Config) -> (u64, u64) {
    let silence = config.keep_alive.map_or(u64::MAX, |keep_alive| {
        let probes = u64::from(keep_alive.probes);
        keep_alive.idle.as_nanos() + keep_alive.interval.as_nanos() * probes
    });
    let own = config.user_timeout.map_or(u64::MAX, |time| time.as_nanos());
    // RFC 5482 3.1: with the peer's option no less than 100 s.
    let told = if config.user_timeout_option {
        100 * SEC
    } else {
        u64::MAX
    };
    (silence, own.min(told))
}

impl World {
    pub(super) fn make_peace(&mut self) {
        self.trace
            .line(self.now, || "=== all faults cease ===".into());
        let plain = Faults::none(0);
        self.faults.hosts = plain.hosts;
        self.faults.stranger = plain.stranger;
        self.faults.hostile = None;
        for link in &mut self.links {
            link.make_peace();
        }
        for host in &self.hosts {
            for queue in &host.queues {
                queue.set_deaf(false);
            }
        }
    }

    pub(super) fn give_up(&mut self) {
        for host in 0..2 {
            for shard in 0..self.hosts[host].shards.len() {
                self.hosts[host].set_clock(self.now);
                self.hosts[host].shards[shard].with_context(|app, cx| app.give_up(cx));
                self.wake(host, shard, self.now);
            }
        }
    }

    pub(super) fn fault(&mut self, happening: Happening) {
        self.trace.line(self.now, || format!("=== {happening:?}"));
        match happening {
            Happening::Outage { host, lasts } => self.links[host].down_until = self.now + lasts,
            Happening::Mtu { host, mtu, tells } => self.links[host].mtu = Some((mtu, tells)),
            Happening::ClockJump { host, by } => {
                self.hosts[host].leap(by);
                let mut book = self.book.borrow_mut();
                book.leaps += by;
                book.leapt |= by > 10 * SEC;
                drop(book);
                for shard in 0..self.next_turn[host].len() {
                    self.wake(host, shard, self.now);
                }
            }
            Happening::Respread { host } => {
                self.hosts[host].demux.borrow_mut().salt = self.dice.next_u64();
            }
            Happening::Death { host, reborn_after } => {
                if self.hosts[host].is_alive() {
                    self.die(host);
                    self.push(self.now + reborn_after, What::Birth(host));
                }
            }
            Happening::Stop { host, reborn_after } => {
                if self.hosts[host].is_alive() && !self.book.borrow().stopping[host] {
                    self.book.borrow_mut().stopped(host);
                    self.hosts[host].set_clock(self.now);
                    for shard in 0..self.hosts[host].shards.len() {
                        self.hosts[host].shards[shard].with_context(|_, cx| cx.stop());
                        self.wake(host, shard, self.now);
                    }
                    self.push(self.now + reborn_after, What::Stopped(host));
                }
            }
            Happening::Unlisten { host } => {
                self.book.borrow_mut().unlisten(host);
                self.hosts[host].set_clock(self.now);
                for shard in &mut self.hosts[host].shards {
                    shard.with_context(|app, cx| app.unlisten(cx));
                }
            }
        }
    }

    fn die(&mut self, host: usize) {
        self.hosts[host].die();
        self.next_turn[host].clear();
        self.tap.forget(host);
        let mut book = self.book.borrow_mut();
        book.stopping[host] = false;
        book.died(host);
    }

    /// The time to linger is over, and more.
    pub(super) fn stopped(&mut self, host: usize) {
        if !self.hosts[host].is_alive() || !self.book.borrow().stopping[host] {
            return;
        }
        for shard in &self.hosts[host].shards {
            let left = shard.report().connections;
            if !left.is_empty() {
                self.fail(format!("liveness: a stopped shard still has {left:?}"));
            }
        }
        self.die(host);
        self.push(self.now + MS, What::Birth(host));
    }
}
