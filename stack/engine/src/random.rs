//! Randomness of a shard: sequence numbers, timestamp offsets, ports.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

use bywash_tcp::CookieInput;
use bywash_tcp::time::Instant;
use bywash_wire::{SeqNumber, Tuple};
use siphasher::sip::SipHasher13;

/// Where a shard takes its secrets from. A simulation gives a seed; an engine the kernel's pool.
pub trait Random {
    /// 64 bits that a peer cannot guess.
    fn next_u64(&mut self) -> u64;
}

/// The kernel's random number generator.
#[derive(Debug, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn next_u64(&mut self) -> u64 {
        getrandom::u64().expect("the kernel's random number generator answers (getrandom(2))")
    }
}

/// A reproducible sequence for tests and simulation (splitmix64).
#[derive(Clone, Debug)]
pub struct SeededRandom(pub u64);

impl Random for SeededRandom {
    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Keyed hashes over a tuple, drawn once per shard.
pub(crate) struct Secrets {
    sequence: (u64, u64),
    timestamps: (u64, u64),
    cookies: (u64, u64),
    ports: (u64, u64),
}

impl Secrets {
    pub(crate) fn new(random: &mut dyn Random) -> Self {
        Self {
            sequence: (random.next_u64(), random.next_u64()),
            timestamps: (random.next_u64(), random.next_u64()),
            cookies: (random.next_u64(), random.next_u64()),
            ports: (random.next_u64(), random.next_u64()),
        }
    }

    /// RFC 6528 3: ISN = M + F(tuple, secret), M a 4 us clock.
    pub(crate) fn initial_sequence(&self, tuple: &Tuple, now: Instant) -> SeqNumber {
        let clock = (now.as_nanos() / 4000) as u32;
        SeqNumber::new(clock.wrapping_add(keyed(self.sequence, tuple) as u32))
    }

    /// RFC 7323 7.1 wants an offset per connection, so that uptime and other flows stay hidden.
    pub(crate) fn timestamp_offset(&self, tuple: &Tuple) -> u32 {
        keyed(self.timestamps, tuple) as u32
    }

    /// RFC 6056 3.3.4: where the search for a local port begins, and which counter it shares.
    pub(crate) fn local_port(&self, source: IpAddr, remote: SocketAddr) -> u64 {
        keyed(self.ports, &(source, remote))
    }

    /// RFC 4987 3.6: the hash of a SYN cookie.
    pub(crate) fn cookie(&self, tuple: &Tuple, input: CookieInput) -> u32 {
        keyed(self.cookies, &(tuple, input)) as u32
    }
}

fn keyed(key: (u64, u64), what: &impl Hash) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(key.0, key.1);
    what.hash(&mut hasher);
    hasher.finish()
}
