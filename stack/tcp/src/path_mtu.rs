//! The MTU of a path that turned out narrower than handshake and first hop had promised (RFC 1191, RFC 8201).
//!
//! ```text
//!  least ----------- fits --------------- ceiling
//!        goes through       does not, or     what handshake and first hop allow
//!                           not known
//! ```
//! Most connections never have one of these: it is made when the first report comes. Sizes are segment sizes (MSS), so that
//! nothing here knows of IP versions but [`Headers`]. After [`AGE`] the path is believed to have its full size again (RFC 1191
//! 6.3, RFC 8201 4): if it has not, the next full segment brings the next report.

use bywash_wire::SeqNumber;

use crate::snapshot::code;
use crate::time::{Duration, Instant};

/// How long a report is believed (RFC 1191 6.3: ten minutes; Linux's `mtu_expires`).
pub(crate) const AGE: Duration = Duration::from_secs(600);

/// What packets looked like before path MTU discovery, largest first (RFC 1191 7.1): the next lower one is tried when a
/// router does not say what fits.
const PLATEAUS: [u16; 8] = [32_000, 17_914, 8_166, 4_352, 2_002, 1_492, 1_006, 508];

/// What stands around a segment's payload, by IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Headers {
    /// IP and TCP header without options.
    pub(crate) len: u16,
    /// Least MTU believed of a path.
    pub(crate) mtu_min: u16,
}

impl Headers {
    /// IPv4: Linux's `ip_rt_min_pmtu`, since nobody but an attacker names less (RFC 5927 7.3). IPv6: no link has less, and a
    /// smaller report must not make the packets smaller (RFC 8201 4).
    pub(crate) fn of(v4: bool) -> Self {
        if v4 {
            Self {
                len: 40,
                mtu_min: 552,
            }
        } else {
            Self {
                len: 60,
                mtu_min: 1_280,
            }
        }
    }

    /// The segment size that a report means: `mtu` as it stands in the report, `used` the segment size at present. `None`:
    /// not smaller than what is used, so no news (RFC 8201 4: a report never makes packets larger).
    pub(crate) fn mss_of_report(self, mtu: u32, used: u16) -> Option<u16> {
        let present = used.saturating_add(self.len);
        let mtu = match mtu {
            0 => PLATEAUS.into_iter().find(|plateau| *plateau < present)?,
            mtu => u16::try_from(mtu).unwrap_or(u16::MAX),
        };
        let mss = mtu.max(self.mtu_min) - self.len;
        (mss < used).then_some(mss)
    }
}

/// A path narrower than promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PathMtu {
    /// What handshake and first hop allow.
    pub(crate) ceiling: u16,
    /// What the latest report left.
    pub(crate) fits: u16,
    /// When that was.
    pub(crate) reported_at: Instant,
    /// The search for more, where nobody reports.
    pub(crate) search: Option<Search>,
}

code!(struct PathMtu { ceiling, fits, reported_at, search });

/// A search between [`PathMtu::fits`] and `high`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Search {
    /// The largest size that may still turn out to fit.
    pub(crate) high: u16,
    /// The probe on the way: where it begins, and its size.
    pub(crate) probe: Option<(SeqNumber, u16)>,
}

code!(struct Search { high, probe });

/// The search ends when the two ends are so near (Linux's `tcp_probe_threshold`).
const SEARCH_END: u16 = 8;

impl PathMtu {
    pub(crate) fn new(ceiling: u16, now: Instant) -> Self {
        Self {
            ceiling,
            fits: ceiling,
            reported_at: now,
            search: None,
        }
    }

    /// A report leaves `mss`.
    pub(crate) fn on_report(&mut self, mss: u16, now: Instant) {
        self.fits = mss;
        self.reported_at = now;
        if let Some(search) = &mut self.search {
            search.high = mss;
            search.probe = None;
        }
    }

    /// The size of the next probe: half way, unless one is on the way or the search is over.
    pub(crate) fn next_probe(&self, search: Search) -> Option<u16> {
        let room = search.high.checked_sub(self.fits)?;
        if search.probe.is_some() || room < SEARCH_END {
            return None;
        }
        Some(self.fits + room.div_ceil(2))
    }

    /// The segment size that a search has ended at, if that is less than the whole.
    pub(crate) fn found(&self) -> Option<u16> {
        let search = self.search?;
        let ended = search.probe.is_none() && search.high.saturating_sub(self.fits) < SEARCH_END;
        (ended && self.ceiling.saturating_sub(self.fits) >= SEARCH_END).then_some(self.fits)
    }

    /// The report was long ago: whether the whole path may be used again without a search.
    pub(crate) fn rejuvenate(&mut self, now: Instant) -> bool {
        self.reported_at = now;
        if let Some(search) = &mut self.search {
            search.high = self.ceiling;
        }
        self.search.is_none()
    }

    /// Whether the report is too old to be believed.
    pub(crate) fn is_stale(&self, now: Instant) -> bool {
        now.since(self.reported_at) > AGE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: Headers = Headers {
        len: 40,
        mtu_min: 552,
    };
    const V6: Headers = Headers {
        len: 60,
        mtu_min: 1_280,
    };

    #[test]
    fn a_search_has_found_something_when_its_ends_have_met_below_the_ceiling() {
        let mut path = PathMtu::new(1_460, Instant::ZERO);
        assert_eq!(path.found(), None, "no search");
        for (fits, high, found) in [
            (1_024, 1_460, None),
            (1_250, 1_262, None),
            (1_250, 1_257, Some(1_250)),
            (1_454, 1_460, None),
        ] {
            path.fits = fits;
            path.search = Some(Search { high, probe: None });
            assert_eq!(path.found(), found, "{fits} {high}");
        }
        path.fits = 1_250;
        let probe = Some((SeqNumber::new(1), 1_256));
        path.search = Some(Search { high: 1_257, probe });
        assert_eq!(path.found(), None, "a probe is on its way");
    }

    #[test]
    fn a_report_only_ever_lowers() {
        assert_eq!(V4.mss_of_report(1_400, 1_460), Some(1_360));
        assert_eq!(V4.mss_of_report(1_500, 1_460), None);
        assert_eq!(V4.mss_of_report(u32::MAX, 1_460), None);
        assert_eq!(V6.mss_of_report(1_400, 1_440), Some(1_340));
    }

    #[test]
    fn a_report_below_the_least_counts_as_the_least() {
        assert_eq!(V4.mss_of_report(68, 1_460), Some(512));
        assert_eq!(V4.mss_of_report(68, 512), None);
        assert_eq!(V6.mss_of_report(1, 1_440), Some(1_220));
        assert_eq!(V6.mss_of_report(1_279, 1_220), None);
    }

    #[test]
    fn a_report_without_a_size_means_the_next_plateau() {
        assert_eq!(V4.mss_of_report(0, 1_460), Some(1_452));
        assert_eq!(V4.mss_of_report(0, 1_452), Some(966));
        assert_eq!(V4.mss_of_report(0, 966), Some(512));
        assert_eq!(V4.mss_of_report(0, 512), None);
    }
}
