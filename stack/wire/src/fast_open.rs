//! The Fast Open option (RFC 7413 4.1.1): a client asks for a cookie, a server gives one, a client shows it.
//!
//! ```text
//!  34 | 2                          asks for a cookie
//!  34 | 2 + n | n octets           the cookie: n even, 4..=16
//! 254 | 4 + n | 0xf989 | n octets  the same, as the number was before IANA gave it one (RFC 6994)
//! ```

use core::fmt;
use core::num::NonZeroU8;

/// Kind of the option.
pub(crate) const KIND: u8 = 34;
/// Kind of experimental options (RFC 4727).
pub(crate) const EXPERIMENT: u8 = 254;
/// What marks an experimental option as this one (RFC 6994 3).
pub(crate) const MAGIC: [u8; 2] = [0xf9, 0x89];

/// A cookie: 4 to 16 octets, an even number. Opaque to all but the server that made it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FastOpenCookie {
    octets: [u8; Self::MAX],
    len: NonZeroU8,
}

impl FastOpenCookie {
    /// Fewest octets (RFC 7413 4.1.1).
    pub const MIN: usize = 4;
    /// Most octets.
    pub const MAX: usize = 16;

    /// The cookie of these octets; `None` if no cookie can have so many.
    pub fn new(octets: &[u8]) -> Option<Self> {
        if octets.len() < Self::MIN || octets.len() > Self::MAX || !octets.len().is_multiple_of(2) {
            return None;
        }
        let mut all = [0; Self::MAX];
        all[..octets.len()].copy_from_slice(octets);
        Some(Self {
            octets: all,
            len: NonZeroU8::new(octets.len() as u8)?,
        })
    }

    /// The octets, in the order of the wire.
    pub fn octets(&self) -> &[u8] {
        &self.octets[..self.len()]
    }

    const fn len(&self) -> usize {
        self.len.get() as usize
    }
}

/// In hexadecimal digits, as packet scripts write it.
impl fmt::Debug for FastOpenCookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.octets()
            .iter()
            .try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

/// The option.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FastOpen {
    /// `None`: a cookie is asked for.
    pub cookie: Option<FastOpenCookie>,
    /// In the experimental form, which is answered in kind.
    pub experimental: bool,
}

impl FastOpen {
    /// The option by the octets behind kind and length, or behind the magic number; `None`: a length that no cookie has, and the
    /// option is ignored (RFC 7413 4.1.1).
    pub(crate) fn parse(value: &[u8], experimental: bool) -> Option<Self> {
        let cookie = match value {
            [] => None,
            octets => Some(FastOpenCookie::new(octets)?),
        };
        Some(Self {
            cookie,
            experimental,
        })
    }

    /// Kind, length and magic number.
    const fn head(&self) -> usize {
        if self.experimental { 4 } else { 2 }
    }

    /// Octets on the wire without padding.
    const fn len(&self) -> usize {
        let cookie = match &self.cookie {
            Some(cookie) => cookie.len(),
            None => 0,
        };
        self.head() + cookie
    }

    /// The same, padded to a multiple of four.
    pub(crate) const fn padded_len(&self) -> usize {
        self.len().next_multiple_of(4)
    }

    /// The option's words, padded behind with no-operations.
    pub(crate) fn words(&self) -> impl Iterator<Item = u32> {
        let mut octets = [1; 4 + FastOpenCookie::MAX];
        octets[..2].copy_from_slice(&[KIND, self.len() as u8]);
        if self.experimental {
            octets[0] = EXPERIMENT;
            octets[2..4].copy_from_slice(&MAGIC);
        }
        if let Some(cookie) = &self.cookie {
            octets[self.head()..self.len()].copy_from_slice(cookie.octets());
        }
        (0..self.padded_len() / 4).map(move |place| {
            let at = place * 4;
            u32::from_be_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_has_an_even_number_of_octets_from_4_to_16() {
        let octets = [7; 20];
        for len in 0..=20 {
            let legal = [4, 6, 8, 10, 12, 14, 16].contains(&len);
            let cookie = FastOpenCookie::new(&octets[..len]);
            assert_eq!(cookie.is_some(), legal, "{len}");
            assert!(cookie.is_none_or(|cookie| cookie.octets() == &octets[..len]));
        }
    }

    #[test]
    fn request_and_cookie_on_the_wire() {
        let words = |fast_open: FastOpen| {
            let mut all = [0; 5];
            let mut len = 0;
            for word in fast_open.words() {
                all[len] = word;
                len += 1;
            }
            (all, len)
        };
        let ask = FastOpen::default();
        assert_eq!(words(ask), ([0x2202_0101, 0, 0, 0, 0], 1));
        let cookie = FastOpenCookie::new(&[1, 2, 3, 4, 5, 6, 7, 8]);
        let show = FastOpen {
            cookie,
            experimental: false,
        };
        assert_eq!(
            words(show),
            ([0x220a_0102, 0x0304_0506, 0x0708_0101, 0, 0], 3)
        );
        let old = FastOpen {
            cookie,
            experimental: true,
        };
        assert_eq!(
            words(old),
            ([0xfe0c_f989, 0x0102_0304, 0x0506_0708, 0, 0], 3)
        );
    }
}
