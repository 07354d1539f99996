//! `TCP_INFO` in the layout of Linux's `struct tcp_info` (`include/uapi/linux/tcp.h`).
//!
//! What the stack does not know is zero, as it is in a kernel that does not know it.

use bywash_engine::tcp::{FastOpenStatus, Info, RecoveryPhase, State};

/// Bytes of the structure, AccECN's counters at its end included, which are always zero here.
const LEN: usize = size_of::<libc::tcp_info>();

/// Field values in order, at their natural alignment.
struct Writer(Vec<u8>);

impl Writer {
    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_ne_bytes());
    }

    fn u32(&mut self, value: u32) {
        debug_assert!(self.0.len().is_multiple_of(4));
        self.0.extend_from_slice(&value.to_ne_bytes());
    }

    fn u64(&mut self, value: u64) {
        debug_assert!(self.0.len().is_multiple_of(8));
        self.0.extend_from_slice(&value.to_ne_bytes());
    }
}

/// Numbers of the states in Linux.
fn state_number(state: State) -> u8 {
    match state {
        State::Established => 1,
        State::SynSent => 2,
        State::SynReceived => 3,
        State::FinWait1 => 4,
        State::FinWait2 => 5,
        State::TimeWait => 6,
        State::Closed => 7,
        State::CloseWait => 8,
        State::LastAck => 9,
        State::Listen => 10,
        State::Closing => 11,
    }
}

/// Numbers of `enum tcp_ca_state`.
fn phase_number(phase: RecoveryPhase) -> u8 {
    match phase {
        RecoveryPhase::Open => 0,
        RecoveryPhase::Disorder => 1,
        RecoveryPhase::Recovery => 3,
        RecoveryPhase::Loss => 4,
    }
}

/// Numbers of `enum tcp_fastopen_client_fail`.
fn fast_open_failure(status: FastOpenStatus) -> u8 {
    match status {
        FastOpenStatus::Unused
        | FastOpenStatus::Granted
        | FastOpenStatus::Sent
        | FastOpenStatus::Accepted => 0,
        FastOpenStatus::CookieOnly => 1,
        FastOpenStatus::DataNotAcked => 2,
        FastOpenStatus::SynRetransmitted => 3,
    }
}

fn micros(nanos: u64) -> u32 {
    u32::try_from(nanos / 1000).unwrap_or(u32::MAX)
}

fn clamp(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// The structure's bytes; without a connection only its state is there.
pub(super) fn encode(info: Option<&Info>, listens: bool) -> Vec<u8> {
    let mut out = Writer(Vec::with_capacity(LEN));
    let Some(info) = info else {
        out.u8(state_number(if listens {
            State::Listen
        } else {
            State::Closed
        }));
        out.0.resize(LEN, 0);
        return out.0;
    };
    let mss = info.mss.max(1);
    let segments = |bytes: u32| bytes.div_ceil(mss);
    out.u8(state_number(info.state));
    let recovery = &info.recovery;
    out.u8(phase_number(recovery.phase)); // tcpi_ca_state
    out.u8(0); // tcpi_retransmits
    out.u8(0); // tcpi_probes
    out.u8(0); // tcpi_backoff
    // TCPI_OPT_TIMESTAMPS 1, SACK 2, WSCALE 4, ECN 8, ECN_SEEN 16, SYN_DATA 32
    let scaled = info.snd_wscale > 0 || info.rcv_wscale > 0;
    let seen = info.ecn_marks > 0;
    let syn_data = info.fast_open == FastOpenStatus::Accepted && info.syn_data > 0;
    let bits = [info.timestamps, info.sack, scaled, info.ecn, seen, syn_data];
    let options = (0..).zip(bits).map(|(bit, on)| u8::from(on) << bit);
    out.u8(options.sum());
    out.u8(info.snd_wscale & 15 | info.rcv_wscale << 4);
    let failure = fast_open_failure(info.fast_open); // tcpi_fastopen_client_fail
    out.u8(u8::from(info.delivery_rate_app_limited) | failure << 1);
    out.u32(micros(info.rto_ns));
    out.u32(40_000); // tcpi_ato
    out.u32(mss); // tcpi_snd_mss
    out.u32(536); // tcpi_rcv_mss
    out.u32(segments(info.in_flight)); // tcpi_unacked
    out.u32(recovery.sacked_now);
    out.u32(recovery.lost_now);
    out.u32(recovery.resent_now); // tcpi_retrans
    out.u32(0); // tcpi_fackets
    let millis = |nanos: u64| clamp(nanos / 1_000_000);
    out.u32(millis(info.sent_before_ns)); // tcpi_last_data_sent
    out.u32(0); // tcpi_last_ack_sent, which Linux does not know either
    out.u32(millis(info.received_before_ns)); // tcpi_last_data_recv
    out.u32(millis(info.heard_before_ns)); // tcpi_last_ack_recv
    out.u32(1500); // tcpi_pmtu
    out.u32(u32::MAX); // tcpi_rcv_ssthresh
    out.u32(micros(info.rtt_ns));
    out.u32(micros(info.rttvar_ns));
    let ssthresh = if info.ssthresh == u32::MAX {
        0x7fff_ffff // TCP_INFINITE_SSTHRESH
    } else {
        info.ssthresh / mss
    };
    out.u32(ssthresh);
    out.u32(info.cwnd / mss); // tcpi_snd_cwnd
    out.u32(mss); // tcpi_advmss
    out.u32(recovery.reordering);
    out.u32(0); // tcpi_rcv_rtt
    out.u32(info.rcv_wnd); // tcpi_rcv_space
    out.u32(clamp(info.retransmissions)); // tcpi_total_retrans
    later_fields(&mut out, info);
    out.0.resize(LEN, 0);
    out.0
}

/// The fields from `tcpi_pacing_rate` on, which Linux has added over the years.
fn later_fields(out: &mut Writer, info: &Info) {
    let recovery = &info.recovery;
    let mss = info.mss.max(1);
    out.u64(info.pacing_rate.unwrap_or(u64::MAX)); // tcpi_pacing_rate
    out.u64(u64::MAX); // tcpi_max_pacing_rate
    out.u64(info.bytes_acked);
    out.u64(info.bytes_in); // tcpi_bytes_received
    out.u32(clamp(info.segments_out));
    out.u32(clamp(info.segments_in));
    out.u32(clamp(info.unsent)); // tcpi_notsent_bytes
    out.u32(micros(info.rtt_ns_min));
    out.u32(0); // tcpi_data_segs_in
    out.u32(0); // tcpi_data_segs_out
    out.u64(info.delivery_rate);
    out.u64(info.busy_ns / 1000); // tcpi_busy_time
    out.u64(info.rwnd_limited_ns / 1000); // tcpi_rwnd_limited
    out.u64(info.sndbuf_limited_ns / 1000); // tcpi_sndbuf_limited
    out.u32(clamp(info.bytes_acked.div_ceil(mss.into()))); // tcpi_delivered
    out.u32(clamp(info.ecn_echoes)); // tcpi_delivered_ce
    out.u64(info.bytes_out + recovery.resent_bytes); // tcpi_bytes_sent
    out.u64(recovery.resent_bytes); // tcpi_bytes_retrans
    out.u32(clamp(recovery.duplicates)); // tcpi_dsack_dups
    out.u32(clamp(recovery.reordered)); // tcpi_reord_seen
    out.u32(clamp(info.out_of_order)); // tcpi_rcv_ooopack
    out.u32(info.snd_wnd);
    out.u32(info.rcv_wnd);
    out.u32(0); // tcpi_rehash
    out.u16(u16::try_from(info.timeouts).unwrap_or(u16::MAX)); // tcpi_total_rto
    out.u16(0); // tcpi_total_rto_recoveries
    out.u32(0); // tcpi_total_rto_time
}

#[cfg(test)]
mod tests {
    use bywash_engine::tcp::time::Instant;
    use bywash_engine::tcp::{Config, Connection};
    use bywash_engine::wire::{SeqNumber, Tuple};

    use super::*;

    #[test]
    fn without_a_connection_only_the_state_is_said() {
        let bytes = encode(None, true);
        assert_eq!(bytes.len(), LEN);
        assert_eq!(bytes[0], 10);
        assert!(bytes[1..].iter().all(|byte| *byte == 0));
        assert_eq!(encode(None, false)[0], 7);
    }

    /// libc's structure says where the fields are.
    #[test]
    fn fields_stand_where_c_looks_for_them() {
        let ip = |last| std::net::Ipv4Addr::new(192, 0, 2, last).into();
        let tuple = Tuple::tcp(ip(1), 1, ip(2), 2);
        let now = Instant::from_nanos(1_000_000_000);
        let iss = SeqNumber::new(0);
        let tcp = Connection::<Vec<u8>>::connect(&Config::default(), tuple, iss, 0, now);
        let info = Info {
            unsent: 11,
            delivery_rate: 12,
            bytes_out: 13,
            snd_wnd: 14,
            timeouts: 15,
            cwnd: 16 * tcp.info().mss,
            retransmissions: 17,
            ..tcp.info()
        };
        let bytes = encode(Some(&info), false);
        let at = |offset: usize| u32::from_ne_bytes(bytes[offset..offset + 4].try_into().unwrap());
        use std::mem::offset_of;
        assert_eq!(bytes[0], 2);
        assert_eq!(at(offset_of!(libc::tcp_info, tcpi_notsent_bytes)), 11);
        assert_eq!(at(offset_of!(libc::tcp_info, tcpi_delivery_rate)), 12);
        assert_eq!(at(offset_of!(libc::tcp_info, tcpi_bytes_sent)), 13);
        assert_eq!(at(offset_of!(libc::tcp_info, tcpi_snd_wnd)), 14);
        assert_eq!(at(offset_of!(libc::tcp_info, tcpi_total_rto)), 15);
        assert_eq!(at(offset_of!(libc::tcp_info, tcpi_snd_cwnd)), 16);
        assert_eq!(at(offset_of!(libc::tcp_info, tcpi_total_retrans)), 17);
    }
}
