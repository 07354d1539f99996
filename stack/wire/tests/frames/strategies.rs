//! Random frames that are right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bywash_wire::{
    Ecn, FastOpen, FastOpenCookie, Flags, Link, MacAddr, Options, SackBlocks, Segment, SeqNumber,
    Timestamps, Tuple, VlanId, checksum, emit, header_len,
};
use proptest::prelude::*;

/// All that `emit` takes, and a payload.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) link: Link,
    pub(crate) tuple: Tuple,
    pub(crate) ecn: Ecn,
    pub(crate) hop_limit: u8,
    pub(crate) segment: Segment,
    pub(crate) payload: Vec<u8>,
}

impl Case {
    /// The frame, with the payload summed in two parts that meet at `split`.
    pub(crate) fn frame(&self, split: usize) -> Vec<u8> {
        let header_len = header_len(&self.link, &self.tuple, &self.segment);
        let mut frame = vec![0xee; header_len + self.payload.len()];
        let (header, body) = frame.split_at_mut(header_len);
        let (first, second) = self.payload.split_at(split);
        let (to_first, to_second) = body.split_at_mut(split);
        let sum =
            checksum::copy_and_sum(to_first, first).then(checksum::copy_and_sum(to_second, second));
        emit(
            header,
            &self.link,
            &self.tuple,
            self.ecn,
            self.hop_limit,
            &self.segment,
            sum,
        );
        frame
    }
}

fn vlan() -> impl Strategy<Value = Option<VlanId>> {
    proptest::option::of(
        (1u16..=4094, 1u16..=4094, 0..3).prop_map(|(id, inner, kind)| {
            let vlan = VlanId::new(id);
            match kind {
                0 => vlan,
                1 => vlan.map(VlanId::service),
                _ => VlanId::stacked(id, inner),
            }
            .expect("in range")
        }),
    )
}

fn addresses() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    let v4 = any::<[[u8; 2]; 2]>().prop_map(|[[a, b], [c, d]]| {
        (
            IpAddr::V4(Ipv4Addr::new(10, 1, a, b)),
            IpAddr::V4(Ipv4Addr::new(192, 168, c, d)),
        )
    });
    let v6 = any::<[u128; 2]>().prop_map(|[a, b]| {
        let prefixed =
            |prefix: u128, rest: u128| IpAddr::V6(Ipv6Addr::from_bits(prefix << 112 | rest >> 16));
        (prefixed(0x2001, a), prefixed(0xfd00, b))
    });
    prop_oneof![v4, v6]
}

/// Options that survive a round trip: those of SYN on SYN, SACK blocks elsewhere, no more than there is room for.
fn options(syn: bool) -> impl Strategy<Value = Options> {
    let timestamps = proptest::option::of(any::<(u32, u32)>())
        .prop_map(|pair| pair.map(|(value, echo)| Timestamps { value, echo }));
    let blocks = proptest::collection::vec(any::<(u32, u32)>(), 0..=4);
    let on_syn = (
        proptest::option::of(1u16..),
        proptest::option::of(0u8..=14),
        any::<bool>(),
        proptest::option::of(any::<u16>()),
        proptest::option::of(fast_open()),
    );
    (timestamps, blocks, on_syn).prop_map(
        move |(
            timestamps,
            blocks,
            (mss, window_scale, sack_permitted, user_timeout, fast_open),
        )| {
            if syn {
                return fitting(Options {
                    fast_open,
                    mss,
                    window_scale,
                    sack_permitted,
                    timestamps,
                    user_timeout,
                    sack: SackBlocks::EMPTY,
                });
            }
            let room = if timestamps.is_some() { 3 } else { 4 };
            let blocks = blocks.into_iter().take(room);
            let sack = blocks
                .map(|(start, end)| (SeqNumber::new(start), SeqNumber::new(end)))
                .collect();
            Options {
                timestamps,
                sack,
                ..Options::NONE
            }
        },
    )
}

fn fast_open() -> impl Strategy<Value = FastOpen> {
    (0usize..=7, any::<[u8; 16]>(), any::<bool>()).prop_map(|(pairs, octets, experimental)| {
        FastOpen {
            // One pair is too short for a cookie: none.
            cookie: FastOpenCookie::new(&octets[..pairs * 2 + 2]),
            experimental,
        }
    })
}

/// Without the option that is left out for want of room.
fn fitting(options: Options) -> Options {
    let without = Options {
        fast_open: None,
        ..options
    };
    if options.emitted_len() == without.emitted_len() {
        without
    } else {
        options
    }
}

fn segment() -> impl Strategy<Value = Segment> {
    (any::<u8>(), any::<(u32, u32, u16, u16)>()).prop_flat_map(
        |(flags, (seq, ack, window, urgent))| {
            let flags = Flags::from_bits(flags);
            options(flags.contains(Flags::SYN)).prop_map(move |options| Segment {
                seq: SeqNumber::new(seq),
                ack: SeqNumber::new(ack),
                flags,
                window,
                urgent,
                options,
                payload_len: 0,
            })
        },
    )
}

/// A right frame's parts, payload of up to 1500 octets.
pub(crate) fn case() -> impl Strategy<Value = Case> {
    let link = (any::<[u8; 6]>(), any::<[u8; 6]>(), vlan());
    let ends = (addresses(), 1u16.., 1u16..);
    let payload = proptest::collection::vec(any::<u8>(), 0..=1500);
    (link, ends, 0u8..4, any::<u8>(), segment(), payload).prop_map(
        |(
            (source, mut destination, vlan),
            ((local, remote), local_port, remote_port),
            ecn,
            hop_limit,
            segment,
            payload,
        )| {
            destination[0] &= !1;
            Case {
                link: Link {
                    source_mac: MacAddr(source),
                    destination_mac: MacAddr(destination),
                    vlan,
                },
                tuple: Tuple {
                    vlan,
                    ..Tuple::tcp(local, local_port, remote, remote_port)
                },
                ecn: Ecn::from_bits(ecn),
                hop_limit,
                segment: Segment {
                    payload_len: payload.len(),
                    ..segment
                },
                payload,
            }
        },
    )
}
