//! Path MTU discovery without ICMP: black holes, and probes with segments of real data (RFC 4821, RFC 8899).
//!
//! ```text
//!  fits ------------ probe ------------ high
//!  arrives           half way           does not arrive, or was never tried
//! ```
//! A path that drops what is too big and does not say so lets the handshake pass and nothing else. After some time-outs
//! segments are made smaller; when that helps, larger ones are tried: one segment, cut of data that waits anyway, with
//! enough data behind it that its loss is noticed without a time-out. Its fate moves one of the two ends, until they meet. In
//! the way of Linux's `tcp_mtu_probing`, whose values [`MtuProbing`] has.
//!
//! A probe that alone is lost costs no window (RFC 4821 7.6): it says that the path is narrow, not that it is full. It goes again
//! at once, cut; what is found lost besides, until all that was on the way is acknowledged, goes again with it, as with Linux.

use super::{Connection, PEER_MSS_MIN};
use crate::config::MtuProbing;
use crate::path_mtu::{Headers, PathMtu, Search};
use crate::payload::Payload;
use crate::time::Instant;

/// Segment size to fall back to (Linux's `tcp_base_mss`).
const BASE_MSS: u16 = 1_024;

/// Time-outs of one segment beyond which the path is suspected (RFC 9293 3.8.3's R1, Linux's `tcp_retries1`).
const SUSPICIOUS_TIMEOUTS: u8 = 3;

/// Least congestion window for a probe, in segments (RFC 4821 7.4: enough to notice its loss).
const PROBE_WINDOW: u32 = 11;

/// Segments that must wait behind a probe: as many as make fast retransmission notice its loss.
const SEGMENTS_BEHIND: u32 = 4;

impl<P: Payload> Connection<P> {
    /// Established: with [`MtuProbing::Always`] the search begins from below, unless it is known already what fits.
    pub(super) fn begin_probing(&mut self, now: Instant) {
        let is_known = self.path_mut().is_some_and(|path| path.fits < path.ceiling);
        if self.config.mtu_probing == MtuProbing::Always && !is_known {
            let ceiling = self.agreed.mss;
            let base = BASE_MSS.min(ceiling);
            self.search_from(base, now);
        }
    }

    /// A time-out, the `attempts`-th in a row: perhaps the path swallows what is large.
    pub(super) fn suspect_black_hole(&mut self, now: Instant) {
        let large =
            self.snd.record(0).len as usize + usize::from(Headers::of(self.flow.is_v4()).len);
        let least = usize::from(Headers::of(self.flow.is_v4()).mtu_min);
        if self.config.mtu_probing == MtuProbing::Off
            || self.control.attempts <= SUSPICIOUS_TIMEOUTS
            || !self.phase.is_synchronised()
            || large <= least
        {
            return;
        }
        let searching = self.path_mut().is_some_and(|path| path.search.is_some());
        let fallback = if searching {
            self.agreed.mss / 2
        } else {
            BASE_MSS.min(self.agreed.mss)
        };
        let floor = Headers::of(self.flow.is_v4()).mtu_min - Headers::of(self.flow.is_v4()).len;
        let mss = fallback.max(floor.min(self.agreed.mss)).max(PEER_MSS_MIN);
        self.search_from(mss, now);
        self.shrink_segments(mss);
    }

    /// Only segments of `mss` are believed to arrive from now on.
    fn search_from(&mut self, mss: u16, now: Instant) {
        let used = self.agreed.mss;
        let path = self
            .rare()
            .path
            .get_or_insert_with(|| PathMtu::new(used, now));
        path.fits = mss;
        path.reported_at = now;
        let high = path.search.map_or(path.ceiling, |search| search.high);
        path.search = Some(Search { high, probe: None });
        self.change_mss(mss);
    }

    /// What has become of the probe on the way, if there is one.
    pub(super) fn judge_probe(&mut self) {
        let una = self.snd.una;
        let Some((_, mut search)) = self.search_mut() else {
            return;
        };
        let Some((start, size)) = search.probe else {
            return;
        };
        let arrived = una.after(start);
        let lost =
            start == una && self.snd.is_outstanding() && self.snd.record(0).awaits_resending();
        if !arrived && !lost {
            return;
        }
        search.probe = None;
        if lost {
            search.high = size - 1;
            let moment = self.moment(self.control.clock);
            self.loss
                .on_lost_probe(&self.snd, &mut self.congestion, moment);
        }
        let Some(path) = self.path_mut() else { return };
        path.search = Some(search);
        if arrived {
            path.fits = path.fits.max(size);
            let fits = path.fits;
            self.change_mss(fits);
        }
    }

    /// The path MTU that a search has found, in bytes of IP packet, and since when it is believed; `None` while none has ended
    /// below what handshake and first hop allow.
    pub fn found_path_mtu(&self) -> Option<(u16, Instant)> {
        let path = self.rare.as_ref()?.path.as_ref()?;
        let found = path.found()?;
        Some((
            found.saturating_add(Headers::of(self.flow.is_v4()).len),
            path.reported_at,
        ))
    }

    /// Makes the first segment to send a probe if the time is right.
    pub(super) fn cut_probe(&mut self, index: usize) -> bool {
        let Some((path, search)) = self.search_mut() else {
            return false;
        };
        let Some(size) = path.next_probe(search) else {
            return false;
        };
        let options = self.agreed.mss - self.segment_limit() as u16;
        let len = u32::from(size - options);
        if !self.is_worth_probing(len) || !self.snd.gather(index, len) {
            return false;
        }
        let probe = Some((self.snd.record(index).seq, size));
        if let Some(path) = self.path_mut() {
            path.search = Some(Search { probe, ..search });
        }
        true
    }

    /// Whether the loss of a probe of `len` bytes would be noticed soon, and nothing else is wrong.
    fn is_worth_probing(&self, len: u32) -> bool {
        let limit = self.segment_limit() as u32;
        let needed = len + SEGMENTS_BEHIND * limit;
        !self.snd.is_marked()
            && self.congestion.window() >= PROBE_WINDOW * limit
            && self.snd.pipe() + 2 * limit <= self.congestion.window()
            && self.snd.unsent() as u64 >= u64::from(needed)
            && self.snd.usable_window() >= needed
    }

    fn search_mut(&mut self) -> Option<(&mut PathMtu, Search)> {
        let path = self.path_mut()?;
        let search = path.search?;
        Some((path, search))
    }
}
