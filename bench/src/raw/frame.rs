//! Frames as TCP sends them, made by hand: Ethernet, IPv4, TCP with the time stamp option, and valid checksums, so that the demux and
//! a receiver that verifies checksums do the work they do for a real segment.
//!
//! ```text
//! 0        14          34         54              66
//! | Ethernet | IPv4 (20) | TCP (20) | options (12) | payload |
//!                          ^38 seq  ^42 ack
//! ```

use std::net::Ipv4Addr;

/// Bytes before the payload.
pub(super) const HEADER: usize = 66;
/// Bytes of Ethernet header, which the MTU does not count.
pub(super) const ETHERNET: usize = 14;

const IP: usize = ETHERNET;
const TCP: usize = IP + 20;
const SEQ: usize = TCP + 4;
const ACK: usize = TCP + 8;
const CHECKSUM: usize = TCP + 16;

/// Where a frame comes from and goes to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    pub(super) source: Ipv4Addr,
    pub(super) destination: Ipv4Addr,
    pub(super) source_mac: [u8; 6],
    pub(super) destination_mac: [u8; 6],
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
}

/// The header of all frames of one length in one direction; only sequence and acknowledgement number differ.
#[derive(Clone, Debug)]
pub(super) struct Template {
    header: [u8; HEADER],
    /// Sum over pseudo-header and TCP header with both numbers and the checksum zero.
    base: u64,
}

impl Template {
    /// Header for `payload` bytes.
    pub(super) fn new(route: &Route, payload: usize) -> Self {
        let tcp_len = (HEADER - TCP + payload) as u16;
        let mut header = [0; HEADER];
        header[0..6].copy_from_slice(&route.destination_mac);
        header[6..12].copy_from_slice(&route.source_mac);
        header[12..14].copy_from_slice(&[0x08, 0x00]);
        header[IP..IP + 2].copy_from_slice(&[0x45, 0]); // version 4, 5 words of header
        header[IP + 2..IP + 4].copy_from_slice(&(20 + tcp_len).to_be_bytes());
        header[IP + 6..IP + 10].copy_from_slice(&[0x40, 0, 64, 6]); // DF, TTL 64, TCP
        header[IP + 12..IP + 16].copy_from_slice(&route.source.octets());
        header[IP + 16..IP + 20].copy_from_slice(&route.destination.octets());
        let ip_checksum = finish(sum(&header[IP..TCP]));
        header[IP + 10..IP + 12].copy_from_slice(&ip_checksum);
        header[TCP..TCP + 2].copy_from_slice(&route.source_port.to_be_bytes());
        header[TCP + 2..TCP + 4].copy_from_slice(&route.destination_port.to_be_bytes());
        header[TCP + 12..TCP + 16].copy_from_slice(&[0x80, 0x10, 0xff, 0xff]); // 8 words, ACK, full window
        header[TCP + 20..TCP + 24].copy_from_slice(&[1, 1, 8, 10]); // NOP NOP, time stamps (RFC 7323)
        let base = pseudo_header(&header[IP..TCP], tcp_len) + sum(&header[TCP..]);
        Self { header, base }
    }

    /// Writes header and payload into a frame of exactly their length. `payload_sum` is [`sum`] of the payload: known beforehand, so
    /// that sending costs one copy and no summing.
    pub(super) fn write(
        &self,
        frame: &mut [u8],
        seq: u32,
        ack: u32,
        payload: &[u8],
        payload_sum: u64,
    ) {
        frame[..HEADER].copy_from_slice(&self.header);
        frame[SEQ..SEQ + 4].copy_from_slice(&seq.to_be_bytes());
        frame[ACK..ACK + 4].copy_from_slice(&ack.to_be_bytes());
        let numbers = sum(&seq.to_be_bytes()) + sum(&ack.to_be_bytes());
        frame[CHECKSUM..CHECKSUM + 2].copy_from_slice(&finish(self.base + numbers + payload_sum));
        frame[HEADER..].copy_from_slice(payload);
    }
}

/// Acknowledgement number of a frame made by [`Template`], which is no shorter than [`HEADER`].
pub(super) fn acknowledged(frame: &[u8]) -> u32 {
    u32::from_be_bytes([frame[ACK], frame[ACK + 1], frame[ACK + 2], frame[ACK + 3]])
}

/// True if IPv4 and TCP checksums of a frame made by [`Template`] hold: reads every byte of it.
pub(super) fn verify(frame: &[u8]) -> bool {
    let tcp_len = (frame.len() - TCP) as u16;
    finish(sum(&frame[IP..TCP])) == [0, 0]
        && finish(pseudo_header(&frame[IP..TCP], tcp_len) + sum(&frame[TCP..])) == [0, 0]
}

/// One's complement sum (RFC 1071) in the machine's byte order, not yet folded. Sums of parts add up if all parts but the last are of
/// even length.
pub(super) fn sum(bytes: &[u8]) -> u64 {
    // 32-bit words into 64-bit sums: the compiler makes vector code of it, and no carry is lost below 16 GiB.
    let words = bytes.chunks_exact(4);
    let rest = words.remainder();
    let mut total: u64 = words
        .map(|word| u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]])))
        .sum();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    total += u64::from(u32::from_ne_bytes(last));
    total
}

/// The checksum as it stands in the header.
fn finish(mut sum: u64) -> [u8; 2] {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_ne_bytes()
}

fn pseudo_header(ip: &[u8], tcp_len: u16) -> u64 {
    sum(&ip[12..20]) + sum(&[0, 6]) + sum(&tcp_len.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: Route = Route {
        source: Ipv4Addr::new(10, 77, 0, 1),
        destination: Ipv4Addr::new(10, 77, 0, 2),
        source_mac: [2, 0, 0, 0, 0, 1],
        destination_mac: [2, 0, 0, 0, 0, 2],
        source_port: 40000,
        destination_port: 5201,
    };

    fn frame(payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; HEADER + payload.len()];
        Template::new(&ROUTE, payload.len()).write(
            &mut frame,
            0x0102_0304,
            0xf0e0_d0c0,
            payload,
            sum(payload),
        );
        frame
    }

    /// RFC 1071, section 3: the example's bytes sum to 0xddf2.
    #[test]
    fn sum_agrees_with_the_rfc() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(finish(sum(&bytes)), (!0xddf2_u16).to_be_bytes());
    }

    #[test]
    fn every_length_verifies_and_every_flipped_bit_is_found() {
        for len in [0, 1, 2, 3, 64, 1448] {
            let payload: Vec<u8> = (0..len).map(|byte| byte as u8).collect();
            let mut frame = frame(&payload);
            assert!(verify(&frame), "payload of {len}");
            for byte in IP..frame.len() {
                frame[byte] ^= 0x10;
                assert!(!verify(&frame), "payload of {len}, byte {byte}");
                frame[byte] ^= 0x10;
            }
        }
    }

    /// An independent implementation reads the frame as we mean it.
    #[test]
    fn smoltcp_accepts_the_frame() {
        use smoltcp::wire::{EthernetFrame, Ipv4Packet, TcpPacket};
        let bytes = frame(b"hello");
        let ethernet = EthernetFrame::new_checked(&bytes[..]).unwrap();
        let ip = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
        assert!(ip.verify_checksum());
        let tcp = TcpPacket::new_checked(ip.payload()).unwrap();
        assert!(tcp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
        assert_eq!((tcp.src_port(), tcp.dst_port()), (40000, 5201));
        assert_eq!(tcp.seq_number().0, 0x0102_0304);
        assert_eq!(tcp.payload(), b"hello");
        assert_eq!(acknowledged(&bytes), 0xf0e0_d0c0);
    }
}
