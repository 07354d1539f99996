//! What `--so_flags` says: words `name=value` with commas or spaces between them.
//!
//! | word | meaning |
//! |---|---|
//! | `local=ADDR` | an address of the stack; packetdrill's `--local_ip`. May be given several times. Needed. |
//! | `mtu=BYTES` | largest datagram, packetdrill's `--mtu`. Default 1500, and 1520 if all addresses are IPv6, as its suites are run |
//! | `seed=N` | initial sequence numbers, ports and hash keys. Default 1 |
//! | `sysctls=PATH` | where kernel parameters are read from, `/proc/sys` by default; `off`: nowhere |

use std::net::IpAddr;
use std::path::PathBuf;

/// The choices, all made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flags {
    /// Addresses of the stack, in the order given.
    pub local: Vec<IpAddr>,
    /// Largest datagram that is sent, in bytes.
    pub mtu: u16,
    /// Seed of all randomness.
    pub seed: u64,
    /// Directory with `net/ipv4/tcp_*`; `None`: the stack's own defaults hold.
    pub sysctls: Option<PathBuf>,
}

/// What is wrong with the words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagsError {
    /// No `local=`.
    #[error("--so_flags names no address: give \"local=ADDR\", the script's --local_ip")]
    NoLocal,
    /// A word that means nothing.
    #[error("--so_flags: {0:?} is none of local=, mtu=, seed=, sysctls=")]
    Unknown(String),
    /// A value that cannot be read.
    #[error("--so_flags: {word:?}: {cause}")]
    Value {
        /// The word.
        word: String,
        /// What reading it said.
        cause: String,
    },
}

/// Ethernet's.
const MTU: u16 = 1500;
/// What leaves the same 1460 octets for a segment over IPv6: scripts are written for that.
const MTU_V6: u16 = 1520;
/// Smallest MTU that carries any segment with options (IPv6's least, RFC 8200 5, is larger; scripts use less).
const LEAST_MTU: u16 = 256;
/// Jumbo frames, and more; what a frame of the machine holds.
const MOST_MTU: u16 = 16_000;

impl Flags {
    /// Reads the words.
    ///
    /// # Errors
    /// The first word that means nothing, or `NoLocal`.
    pub fn parse(text: &str) -> Result<Self, FlagsError> {
        let mut mtu = None;
        let mut flags = Self {
            local: Vec::new(),
            mtu: MTU,
            seed: 1,
            sysctls: Some(PathBuf::from("/proc/sys")),
        };
        let words = text.split([',', ' ', '\t']).filter(|word| !word.is_empty());
        for word in words {
            let value_error = |cause: String| FlagsError::Value {
                word: word.to_owned(),
                cause,
            };
            match word.split_once('=') {
                Some(("local", value)) => flags.local.push(
                    value
                        .parse()
                        .map_err(|_| value_error("no IP address".into()))?,
                ),
                Some(("mtu", value)) => {
                    let fits = value
                        .parse()
                        .ok()
                        .filter(|mtu| (LEAST_MTU..=MOST_MTU).contains(mtu));
                    mtu =
                        Some(fits.ok_or_else(|| {
                            value_error(format!("not in {LEAST_MTU}..={MOST_MTU}"))
                        })?);
                }
                Some(("seed", value)) => {
                    flags.seed = value.parse().map_err(|_| value_error("no number".into()))?;
                }
                Some(("sysctls", "off")) => flags.sysctls = None,
                Some(("sysctls", value)) => flags.sysctls = Some(PathBuf::from(value)),
                _ => return Err(FlagsError::Unknown(word.to_owned())),
            }
        }
        if flags.local.is_empty() {
            return Err(FlagsError::NoLocal);
        }
        let only_v6 = flags.local.iter().all(IpAddr::is_ipv6);
        flags.mtu = mtu.unwrap_or(if only_v6 { MTU_V6 } else { MTU });
        Ok(flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_in_any_order() {
        let flags = Flags::parse("mtu=1420, local=192.0.2.1 local=fd00::1,sysctls=off").unwrap();
        let expected = Flags {
            local: vec!["192.0.2.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            mtu: 1420,
            seed: 1,
            sysctls: None,
        };
        assert_eq!(flags, expected);
    }

    #[test]
    fn what_means_nothing_is_named() {
        assert_eq!(Flags::parse(""), Err(FlagsError::NoLocal));
        let unknown = Flags::parse("local=192.0.2.1 speed=9");
        assert_eq!(unknown, Err(FlagsError::Unknown("speed=9".into())));
        for word in ["local=here", "mtu=99999", "seed=x"] {
            let text = Flags::parse(word).unwrap_err().to_string();
            assert!(text.contains(word), "{text}");
        }
    }
}
