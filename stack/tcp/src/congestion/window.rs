//! The variables of RFC 5681 that every algorithm has: the window, its threshold, and both before the last reduction.

use super::{Moment, initial_window};
use crate::snapshot::code;

/// Far above any path, far below overflow.
const WINDOW_MAX: u32 = 1 << 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) cwnd: u32,
    pub(super) ssthresh: u32,
    /// Window and threshold before the last reduction.
    pub(super) prior_cwnd: u32,
    pub(super) prior_ssthresh: u32,
}

code!(struct Window { cwnd, ssthresh, prior_cwnd, prior_ssthresh });

impl Window {
    pub(super) fn new(mss: u32) -> Self {
        // RFC 5681 3.1: the threshold begins arbitrarily high.
        Self {
            cwnd: initial_window(mss),
            ssthresh: u32::MAX,
            prior_cwnd: 0,
            prior_ssthresh: 0,
        }
    }

    pub(super) fn is_slow_start(&self) -> bool {
        self.cwnd < self.ssthresh
    }

    pub(super) fn grow(&mut self, bytes: u32) {
        self.set(self.cwnd.saturating_add(bytes));
    }

    pub(super) fn set(&mut self, bytes: u32) {
        self.cwnd = bytes.min(WINDOW_MAX);
    }

    /// Remembers what an undo goes back to.
    pub(super) fn remember(&mut self) {
        self.prior_cwnd = self.cwnd;
        self.prior_ssthresh = self.ssthresh;
    }

    pub(super) fn undo(&mut self) {
        self.cwnd = self.cwnd.max(self.prior_cwnd);
        self.ssthresh = self.ssthresh.max(self.prior_ssthresh);
    }

    /// A new segment size: one segment always fits.
    pub(super) fn on_mss(&mut self, moment: Moment) {
        self.cwnd = self.cwnd.max(moment.mss);
    }

    pub(super) fn on_established(&mut self, moment: Moment, syn_lost: bool) {
        // A SYN that was lost says nothing of the path's capacity: the threshold is high again (as in Linux).
        self.ssthresh = u32::MAX;
        // RFC 5681 3.1: after a lost SYN one segment.
        self.cwnd = if syn_lost {
            moment.mss
        } else {
            initial_window(moment.mss)
        };
    }
}
