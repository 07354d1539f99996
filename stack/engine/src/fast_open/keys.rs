//! What cookies are made with.

use std::fmt;
use std::net::IpAddr;

use bywash_tcp::time::{Duration, Instant};
use bywash_wire::{FastOpenCookie, Tuple};
use siphasher::sip::SipHasher24;

/// Octets of a key.
pub const KEY_LEN: usize = 16;

/// The key that cookies are made with, and one that made them before and is believed still (RFC 7413 4.1.2). Servers behind
/// one address need the same.
///
/// The cookie is SipHash-2-4 over the client's and the server's address, in network order, eight octets, little-endian: as Linux
/// makes it of `net.ipv4.tcp_fastopen_key`, so that both can stand behind one address.
#[derive(Clone, PartialEq, Eq)]
pub struct FastOpenKeys {
    current: [u8; KEY_LEN],
    previous: Option<[u8; KEY_LEN]>,
}

/// Secrets are not printed.
impl fmt::Debug for FastOpenKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FastOpenKeys(..)")
    }
}

/// What a cookie is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Made with the current key.
    Current,
    /// Made with the previous one: good, and a newer one should replace it.
    Previous,
    Wrong,
}

impl FastOpenKeys {
    /// Cookies are made with `current`, and those of `previous` are believed too.
    pub fn new(current: [u8; KEY_LEN], previous: Option<[u8; KEY_LEN]>) -> Self {
        Self { current, previous }
    }

    /// The keys of this time, of a secret and for how long each makes cookies. All who share secret and clock have the same.
    pub(crate) fn at(secret: (u64, u64), now: Instant, rotation: Duration) -> Self {
        let period = now.as_nanos() / rotation.as_nanos().max(1);
        let key = |period: u64| {
            let hasher = SipHasher24::new_with_keys(secret.0, secret.1);
            let half = |half: u64| {
                let input = [period.to_le_bytes(), half.to_le_bytes()];
                hasher.hash(input.as_flattened()).to_le_bytes()
            };
            let mut key = [0; KEY_LEN];
            key[..8].copy_from_slice(&half(0));
            key[8..].copy_from_slice(&half(1));
            key
        };
        Self {
            current: key(period),
            previous: period.checked_sub(1).map(key),
        }
    }

    /// The cookie of the flow's client.
    pub(crate) fn cookie(&self, tuple: &Tuple) -> Option<FastOpenCookie> {
        FastOpenCookie::new(&octets(&self.current, tuple))
    }

    pub(crate) fn judge(&self, cookie: &FastOpenCookie, tuple: &Tuple) -> Verdict {
        if equal(cookie.octets(), &octets(&self.current, tuple)) {
            return Verdict::Current;
        }
        let old = self.previous.as_ref();
        if old.is_some_and(|key| equal(cookie.octets(), &octets(key, tuple))) {
            Verdict::Previous
        } else {
            Verdict::Wrong
        }
    }
}

/// Without telling by its time how many octets were right.
fn equal(shown: &[u8], right: &[u8; 8]) -> bool {
    let differing = |(a, b): (&u8, &u8)| a ^ b;
    shown.len() == right.len()
        && shown
            .iter()
            .zip(right)
            .map(differing)
            .fold(0, |all, one| all | one)
            == 0
}

/// `tuple.remote` is the client.
fn octets(key: &[u8; KEY_LEN], tuple: &Tuple) -> [u8; 8] {
    let hasher = SipHasher24::new_with_key(key);
    let hash = match (tuple.remote, tuple.local) {
        (IpAddr::V4(client), IpAddr::V4(server)) => {
            hasher.hash([client.octets(), server.octets()].as_flattened())
        }
        (client, server) => {
            let octets = |address: IpAddr| match address {
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                IpAddr::V6(address) => address.octets(),
            };
            hasher.hash([octets(client), octets(server)].as_flattened())
        }
    };
    hash.to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(client: &str, server: &str) -> Tuple {
        Tuple::tcp(server.parse().unwrap(), 80, client.parse().unwrap(), 40_000)
    }

    /// Linux's kselftests name the cookies of two keys (tools/testing/selftests/net/packetdrill/ksft_runner.sh).
    #[test]
    fn linux_makes_the_same_cookies() {
        let v4 = tuple("192.0.2.1", "192.168.0.1");
        let v6 = tuple("fd3d:fa7b:d17d::1", "fd3d:0a0b:17d6::1");
        let words = [0xa1a1_a1a1_u32, 0xb2b2_b2b2, 0xc3c3_c3c3, 0xd4d4_d4d4];
        let key: [u8; KEY_LEN] = words
            .map(u32::to_le_bytes)
            .as_flattened()
            .try_into()
            .unwrap();
        for (key, expected) in [
            (key, [0x3021_b9d8_8901_7eeb_u64, 0xc1d1_e974_2a47_a9bc]),
            ([0; KEY_LEN], [0xb7c1_2350_a90d_c8f5, 0x82af_1a8f_9a20_5c34]),
        ] {
            let keys = FastOpenKeys::new(key, None);
            for (tuple, expected) in [v4, v6].iter().zip(expected) {
                let cookie = keys.cookie(tuple).unwrap();
                assert_eq!(cookie.octets(), expected.to_be_bytes());
            }
        }
    }

    #[test]
    fn a_cookie_is_good_for_its_client_and_for_two_periods() {
        let secret = (1, 2);
        let rotation = Duration::from_secs(100);
        let at = |seconds: u64| {
            FastOpenKeys::at(
                secret,
                Instant::ZERO + Duration::from_secs(seconds),
                rotation,
            )
        };
        let ours = tuple("192.0.2.1", "192.168.0.1");
        let cookie = at(250).cookie(&ours).unwrap();
        for (seconds, verdict) in [
            (199, Verdict::Wrong),
            (299, Verdict::Current),
            (399, Verdict::Previous),
            (400, Verdict::Wrong),
        ] {
            assert_eq!(at(seconds).judge(&cookie, &ours), verdict, "{seconds}");
        }
        for other in [
            tuple("192.0.2.2", "192.168.0.1"),
            tuple("192.0.2.1", "192.168.0.2"),
        ] {
            assert_eq!(at(250).judge(&cookie, &other), Verdict::Wrong);
        }
        let short = FastOpenCookie::new(&cookie.octets()[..6]).unwrap();
        assert_eq!(at(250).judge(&short, &ours), Verdict::Wrong);
    }
}
