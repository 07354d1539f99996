//! Where the time goes: how long a connection had something to send, and what it waited for meanwhile (as in Linux's
//! `tcpi_busy_time`, `tcpi_rwnd_limited`, `tcpi_sndbuf_limited`).

use crate::snapshot::code;
use crate::time::Instant;

/// Counted in this unit, so that counters of 32 bits last 76 hours. Ticks of one clock are counted, so what is lost of one
/// span by rounding another has.
const UNIT: u64 = 64_000;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Doing {
    /// Nothing is to be sent, nothing on the way.
    #[default]
    Idle,
    /// Something is.
    Busy,
    /// ... and the peer's window is full.
    ReceiveWindow,
    /// ... and the application waits for room, though nothing else holds it back.
    SendBuffer,
}

code!(
    enum Doing {
        Idle = 0,
        Busy = 1,
        ReceiveWindow = 2,
        SendBuffer = 3,
    }
);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chrono {
    /// When it began to do what it does, in the unit, wrapping.
    since: u32,
    busy: u32,
    receive_window: u32,
    send_buffer: u32,
    doing: Doing,
}

code!(struct Chrono { since, busy, receive_window, send_buffer, doing });

fn units(now: Instant) -> u32 {
    (now.as_nanos() / UNIT) as u32
}

impl Chrono {
    pub(crate) fn switch(&mut self, now: Instant, doing: Doing) {
        if doing == self.doing {
            return;
        }
        (self.busy, self.receive_window, self.send_buffer) = self.including(self.elapsed(now));
        self.since = units(now);
        self.doing = doing;
    }

    fn elapsed(&self, now: Instant) -> u32 {
        units(now).wrapping_sub(self.since)
    }

    /// The counters, with so many units of what goes on now.
    fn including(&self, units: u32) -> (u32, u32, u32) {
        let of = |doing| if self.doing == doing { units } else { 0 };
        let busy = if self.doing == Doing::Idle { 0 } else { units };
        (
            self.busy.saturating_add(busy),
            self.receive_window.saturating_add(of(Doing::ReceiveWindow)),
            self.send_buffer.saturating_add(of(Doing::SendBuffer)),
        )
    }

    /// Nanoseconds busy, limited by the peer's window, and by the send buffer; up to `now`.
    pub(crate) fn totals(&self, now: Instant) -> (u64, u64, u64) {
        let (busy, receive_window, send_buffer) = self.including(self.elapsed(now));
        let nanos = |units: u32| u64::from(units) * UNIT;
        (nanos(busy), nanos(receive_window), nanos(send_buffer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn each_time_has_its_owner() {
        let mut chrono = Chrono::default();
        chrono.switch(at(1_000), Doing::Busy);
        chrono.switch(at(1_100), Doing::ReceiveWindow);
        chrono.switch(at(1_150), Doing::Busy);
        chrono.switch(at(1_160), Doing::SendBuffer);
        chrono.switch(at(1_163), Doing::Idle);
        let (busy, receive_window, send_buffer) = chrono.totals(at(9_000));
        let near = |nanos: u64, millis: u64| nanos.abs_diff(millis * 1_000_000) <= 2 * UNIT;
        assert!(near(busy, 163), "{busy}");
        assert!(near(receive_window, 50), "{receive_window}");
        assert!(near(send_buffer, 3), "{send_buffer}");
    }

    #[test]
    fn short_times_add_up() {
        let mut chrono = Chrono::default();
        chrono.switch(Instant::ZERO, Doing::Busy);
        for n in 1..=10_000 {
            let doing = if n % 2 == 0 {
                Doing::Busy
            } else {
                Doing::ReceiveWindow
            };
            chrono.switch(Instant::from_nanos(n * 10_000), doing);
        }
        let (busy, ..) = chrono.totals(Instant::from_nanos(100_000_000));
        assert!(busy.abs_diff(100_000_000) <= 2 * UNIT, "{busy}");
    }
}
