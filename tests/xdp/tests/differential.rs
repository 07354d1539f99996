//! A million mutants: the program's parse against the engine's, and its verdict against the model's.
//!
//! ```text
//! mutant ──┬─> `parse` under PROG_TEST_RUN ─> verdict, key, offsets ─┐
//!          ├─> bywash_wire::decode ──────────> tuple, payload  ──────┴─ the same, but for the table in `agrees`
//!          ├─> `demux` under PROG_TEST_RUN ─> action, counters ──────┐
//!          └─> model ───────────────────────> counter  ──────────────┴─ the same
//! ```
//! Where the two parsers differ by design:
//!
//! | | the program | `decode` |
//! |---|---|---|
//! | IPv4 header checksum | not looked at: the engine does | must be right |
//! | TCP checksum | not looked at | not compared here (`ChecksumPolicy::Trusted`) |
//! | addresses that no host may have, a packet from itself | the destination must be one of ours; the source is the engine's business | refused |
//! | IPv4-mapped IPv6 addresses | malformed, before anything else | refused, after everything else |
//! | VLAN 4095 | never configured | refused |
//! | options of extension headers, order of extension headers | not looked at | refused where RFC 8200 says so |
//! | fragments | behind an IPv6 fragment header it reads on, to tell whose a first fragment is | ends there |
//! | ICMP checksum, address of who sent an error | not looked at | must be right |
//!
//! In each of these the packet is dropped by the engine, under a reason, or is the kernel's; none reaches a connection.

use anyhow::Result;
use bywash_wire::{ChecksumPolicy, Decoded, DropReason, decode, decode_icmp};
use bywash_xdp::{
    Counter, FlowKey, FlowValue, RING_CONTROL, RING_PRIMARY, Verdict, Vlan, abi, slot,
};
use bywash_xdp_tests::model::Model;
use bywash_xdp_tests::mutant::{mutant, network_layer, seal, seal_icmp};
use bywash_xdp_tests::packet::{OUR_V4, OUR_V6, Packet};
use bywash_xdp_tests::random::Random;
use bywash_xdp_tests::run::{Action, Harness, Parsed, QUEUES};
use bywash_xdp_tests::setup::{HELD, LOCAL, PORT, flow};

const MUTANTS: usize = 1_000_000;
/// Counters are compared after so many: reading them takes as long as a few dozen packets.
const BATCH: usize = 1_000;
const SEED: u64 = 20_261_120;

/// What `decode` makes of a frame, and of the same without what the program does not look at.
fn decode_leniently(frame: &[u8]) -> Result<Decoded, DropReason> {
    let decoded = decode(frame, ChecksumPolicy::Trusted);
    let (at, v4) = match network_layer(frame) {
        Some((at, 0x0800)) => (at, true),
        Some((at, 0x86dd)) => (at, false),
        _ => return decoded,
    };
    let mut frame = frame.to_vec();
    match decoded {
        Err(DropReason::BadIpChecksum) => seal(&mut frame),
        Err(DropReason::BadSourceAddress | DropReason::BadDestinationAddress) if v4 => {
            frame[at + 12..at + 20].copy_from_slice(&[10, 9, 9, 9, 10, 9, 9, 8]);
            seal(&mut frame);
        }
        Err(DropReason::BadSourceAddress | DropReason::BadDestinationAddress) => {
            frame[at + 8..at + 40].fill(0xfd);
            frame[at + 9] = 1;
        }
        decoded => return decoded,
    }
    decode_leniently(&frame)
}

/// Whether a frame is IPv6 with a mapped address.
fn is_mapped(frame: &[u8]) -> bool {
    let Some((at, 0x86dd)) = network_layer(frame) else {
        return false;
    };
    let Some(header) = frame.get(at..at + 40) else {
        return false;
    };
    let mapped = |address: &[u8]| address[..10] == [0; 10] && address[10..12] == [0xff; 2];
    header[0] >> 4 == 6 && (mapped(&header[8..24]) || mapped(&header[24..40]))
}

/// The key that the frame itself must have: what `decode` found, with the addresses that are really there.
fn key(frame: &[u8], decoded: &Decoded) -> [u8; 40] {
    let tuple = &decoded.tuple;
    let vlan = tuple
        .vlan
        .map(|vlan| match (vlan.is_service(), vlan.inner()) {
            (false, _) => Vlan::Customer(vlan.raw()),
            (true, None) => Vlan::Service(vlan.raw()),
            (true, Some(customer)) => Vlan::Stacked {
                service: vlan.raw(),
                customer,
            },
        });
    let key = FlowKey::new(
        tuple.local,
        tuple.local_port,
        tuple.remote,
        tuple.remote_port,
        vlan,
        tuple.protocol,
    );
    let mut key = key.to_bytes();
    let (at, _) = network_layer(frame).expect("it was decoded");
    match tuple.local.is_ipv4() {
        true => {
            key[12..16].copy_from_slice(&frame[at + 16..at + 20]);
            key[28..32].copy_from_slice(&frame[at + 12..at + 16]);
        }
        false => {
            key[..16].copy_from_slice(&frame[at + 24..at + 40]);
            key[16..32].copy_from_slice(&frame[at + 8..at + 24]);
        }
    }
    key
}

/// Whether the two parses of a frame say the same.
fn agrees(frame: &[u8], parsed: &Parsed) -> bool {
    let decoded = match decode_leniently(frame) {
        // What the link layer is refused for comes first in both.
        Err(reason @ (DropReason::LinkMulticast | DropReason::VlanTagStack)) => {
            return reason_agrees(reason, parsed.verdict);
        }
        _ if is_mapped(frame) => return parsed.verdict == Some(Counter::PassMalformedIp),
        Ok(decoded) => decoded,
        Err(reason) => return reason_agrees(reason, parsed.verdict),
    };
    let header = usize::from(frame.get(parsed.offset + 12).map_or(0, |octet| octet >> 4)) * 4;
    parsed.verdict.is_none()
        && parsed.key == key(frame, &decoded)
        && parsed.offset + header == decoded.payload.start
        && parsed.offset + parsed.length == decoded.payload.end
}

fn reason_agrees(reason: DropReason, verdict: Option<Counter>) -> bool {
    use Counter as C;
    let allowed: &[C] = match reason {
        DropReason::FrameTooShort => &[C::PassNotIp, C::PassMalformedIp],
        DropReason::LinkMulticast => &[C::PassGroupMac],
        DropReason::VlanTagStack => &[C::PassVlanStacked],
        // Nothing else of such a frame was compared: the model has.
        DropReason::UnknownVlan | DropReason::BadExtensionHeader => return true,
        DropReason::NotIp => &[C::PassNotIp],
        DropReason::BadIpVersion | DropReason::BadIpHeaderLength | DropReason::BadIpLength => {
            &[C::PassMalformedIp]
        }
        DropReason::Fragment => &[
            C::PassFragment,
            C::DropFirstFragment,
            C::PassNotTcp,
            C::PassMalformedIp,
            C::PassExtensions,
        ],
        DropReason::ExtensionHeaderChainTooLong => &[C::PassExtensions],
        DropReason::NotTcp => &[C::PassNotTcp],
        // Less than the ports: nobody's.
        DropReason::BadDataOffset => &[
            C::DropTcpDataOffset,
            C::DropTcpTruncated,
            C::PassMalformedIp,
        ],
        DropReason::PortZero => &[C::DropTcpPortZero, C::PassNotOurPort],
        _ => &[],
    };
    verdict.is_some_and(|verdict| allowed.contains(&verdict))
}

/// Whether program and engine say the same of an ICMP error: one goes by the model's counter, which the program's agrees with.
fn icmp_agrees(model: &Model, frame: &[u8], counter: Counter) -> bool {
    let mut frame = frame.to_vec();
    seal(&mut frame);
    seal_icmp(&mut frame);
    let ours = match decode_icmp(&frame) {
        Ok(error) => {
            let tuple = error.tuple;
            model.addresses.contains(&tuple.local) && model.is_ours(tuple.local_port)
        }
        // Both are the engine's to refuse.
        Err(DropReason::BadSourceAddress | DropReason::BadExtensionHeader) => return true,
        Err(_) => false,
    };
    let redirected = matches!(
        counter,
        Counter::RedirectIcmp | Counter::DropEmptySlot | Counter::DropNoShard
    );
    ours == redirected || counter == Counter::PassVlanForeign
}

/// Sockets for some slots of queues 0 and 1, and none for the others.
const SLOTS: [u32; 4] = [
    slot(0, RING_PRIMARY),
    slot(0, RING_CONTROL),
    slot(0, 2),
    slot(1, RING_PRIMARY),
];

fn model() -> Model {
    let stacked = |service, customer| Vlan::Stacked { service, customer };
    let mut model = Model {
        queues: QUEUES - 1,
        addresses: [OUR_V4.into(), OUR_V6.into()].into(),
        listening: [PORT].into(),
        held: [HELD].into(),
        local: Some(50_000..=50_010),
        vlans: [
            Vlan::Customer(100),
            Vlan::Customer(6),
            Vlan::Service(100),
            Vlan::Service(5),
            stacked(5, 6),
            stacked(100, 0xf06),
        ]
        .into(),
        sockets: SLOTS.into(),
        ..Model::default()
    };
    for (queue, packet) in (0..).zip(Packet::both(HELD)) {
        for vlan in [None, Some(Vlan::Service(5)), Some(stacked(5, 6))] {
            let value = FlowValue {
                slot: slot(queue, 2),
                generation: 1,
                queue,
            };
            model.flows.insert(flow(&packet, vlan), value);
        }
    }
    model
}

/// A program that is told what the model knows.
fn harness(model: &Model) -> Result<Harness> {
    let mut demux = Harness::new()?;
    for address in &model.addresses {
        demux.address(*address)?;
    }
    demux.listen(PORT)?;
    demux.port(HELD, abi::PORT_TCP_OURS)?;
    demux.local_ports(model.local.clone().expect("a range"))?;
    assert!(model.is_ours(LOCAL));
    for (outer, bits) in [
        (6, abi::VLAN_CUSTOMER),
        (5, abi::VLAN_SERVICE | abi::VLAN_STACKED),
        (
            100,
            abi::VLAN_CUSTOMER | abi::VLAN_SERVICE | abi::VLAN_STACKED,
        ),
    ] {
        demux.vlan(outer, bits)?;
    }
    for vlan in &model.vlans {
        if let Vlan::Stacked { .. } = vlan {
            demux.vlan_pair(*vlan)?;
        }
    }
    for (key, value) in &model.flows {
        demux.flow(key, *value)?;
    }
    Ok(demux)
}

fn action(counter: Counter) -> Action {
    match counter.verdict() {
        Verdict::Pass => Action::Pass,
        Verdict::Redirect => Action::Redirect,
        Verdict::Drop => Action::Drop,
    }
}

#[test]
fn program_decoder_and_model_agree_on_a_million_mutants() -> Result<()> {
    let mut model = model();
    let mut demux = harness(&model)?;
    let _sockets: Vec<_> = SLOTS
        .iter()
        .map(|slot| demux.socket(*slot))
        .collect::<Result<_>>()?;
    let mut random = Random::new(SEED);
    let mut expected = demux.counters()?;
    let (mut whole, mut icmp) = (0, 0);
    for batch in 0..MUTANTS / BATCH {
        // The second half is of an engine that puts all of its flows into the table.
        if batch == MUTANTS / BATCH / 2 {
            model.strict = true;
            demux.flags(abi::STRICT)?;
        }
        let mut frames = Vec::with_capacity(BATCH);
        for index in 0..BATCH {
            let frame = mutant(&mut random);
            let queue = u32::try_from(random.below(4))?;
            let named = || format!("batch {batch}, mutant {index}, queue {queue}: {frame:02x?}");
            let parsed = demux.parsed(&frame)?;
            assert!(
                agrees(&frame, &parsed),
                "{}\n{parsed:?}\n{:?}",
                named(),
                decode(&frame, ChecksumPolicy::Trusted)
            );
            whole += usize::from(parsed.verdict.is_none());
            let counter = model.verdict(queue, &frame);
            let is_icmp = parsed.verdict == Some(Counter::PassNotTcp);
            assert!(
                !is_icmp || icmp_agrees(&model, &frame, counter),
                "{}\n{counter}\n{:?}",
                named(),
                decode_icmp(&frame)
            );
            icmp += usize::from(is_icmp && counter == Counter::RedirectIcmp);
            let answer = demux.action(queue, &frame)?;
            assert_eq!(answer, action(counter), "{}\n{counter}", named());
            expected[counter as usize] += 1;
            frames.push((queue, frame));
        }
        if demux.counters()? != expected {
            // Which it was: one by one.
            for (queue, frame) in frames {
                let counted = demux.fate(queue, &frame)?.counter;
                assert_eq!(counted, model.verdict(queue, &frame), "{frame:02x?}");
            }
            panic!("batch {batch} was counted in another way the second time");
        }
    }
    // The mutations are worth their time only if they reach everything.
    assert!(whole > MUTANTS / 8, "only {whole} whole segments");
    assert!(icmp > MUTANTS / 500, "only {icmp} ICMP errors about us");
    let unreached: Vec<_> = Counter::ALL
        .iter()
        .filter(|counter| expected[**counter as usize] < 10)
        .collect();
    // No limit is set here.
    let limits = [
        Counter::DropSynPrefixLimit,
        Counter::DropSynLimit,
        Counter::DropAckLimit,
        Counter::DropIcmpLimit,
    ];
    assert!(unreached.into_iter().eq(&limits), "{expected:?}");
    Ok(())
}
