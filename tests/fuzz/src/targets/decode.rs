//! Any bytes as a frame. What is decoded lies within the frame, and emitting it gives a frame that decodes to the same.

use bywash_wire::{
    ChecksumPolicy, Decoded, DropReason, Link, checksum, decode, decode_icmp, emit, header_len,
};

/// The first byte says whether an IPv4 header's checksum is mended first: no mutation would ever hit it.
pub(crate) fn run(data: &[u8]) {
    let Some((first, frame)) = data.split_first() else {
        return;
    };
    let mut frame = frame.to_vec();
    if first % 4 != 0 {
        mend(&mut frame);
    }
    let all = [
        ChecksumPolicy::Trusted,
        ChecksumPolicy::FullOrPseudo,
        ChecksumPolicy::Full,
    ];
    let [trusted, either, full] = all.map(|policy| decode(&frame, policy));
    // Each policy takes what the stricter one takes, and sees the same in it.
    if let Ok(full) = &full {
        assert!(either.as_ref().is_ok_and(|either| same(either, full)));
    }
    if let Ok(either) = &either {
        assert!(trusted.as_ref().is_ok_and(|trusted| same(trusted, either)));
    }
    for decoded in [&trusted, &either, &full].into_iter().flatten() {
        round_trip(&frame, decoded);
    }
    match decode_icmp(&frame) {
        Ok(error) => assert!(error.tuple.local_port != 0 && error.tuple.remote_port != 0),
        // A segment is no ICMP error.
        Err(reason) => assert!(trusted.is_err() || reason != DropReason::NotIp),
    }
}

fn same(one: &Decoded, other: &Decoded) -> bool {
    let mut one = one.clone();
    one.partial_checksum = other.partial_checksum;
    one == *other
}

fn round_trip(frame: &[u8], decoded: &Decoded) {
    let payload = &frame[decoded.payload.clone()];
    assert_eq!(payload.len(), decoded.segment.payload_len);
    let tuple = &decoded.tuple;
    assert!(tuple.local_port != 0 && tuple.remote_port != 0);
    assert_eq!(tuple.local.is_ipv4(), tuple.remote.is_ipv4());
    let link = Link {
        source_mac: decoded.source_mac,
        destination_mac: decoded.destination_mac,
        vlan: tuple.vlan,
    };
    let segment = &decoded.segment;
    let sender = tuple.reversed();
    let head = header_len(&link, &sender, segment);
    let mut again = vec![0; head + payload.len()];
    let (header, body) = again.split_at_mut(head);
    let sum = checksum::copy_and_sum(body, payload);
    emit(
        header,
        &link,
        &sender,
        decoded.ecn,
        decoded.hop_limit,
        segment,
        sum,
    );
    let twice = decode(&again, ChecksumPolicy::Full).expect("what was emitted decodes");
    assert_eq!(twice.tuple, *tuple);
    assert_eq!(twice.source_mac, decoded.source_mac);
    assert_eq!(twice.destination_mac, decoded.destination_mac);
    assert_eq!(twice.ecn, decoded.ecn);
    assert_eq!(twice.hop_limit, decoded.hop_limit);
    assert_eq!(&again[twice.payload.clone()], payload);
    // Emitting has room for fewer blocks where other options take theirs; all else must come back.
    let (mut first, second) = (*segment, twice.segment);
    let blocks = second.options.sack.len();
    first.options.sack = first.options.sack.iter().take(blocks).collect();
    assert_eq!(first, second);
}

/// Puts the right checksum into an IPv4 header, if there is one.
fn mend(frame: &mut [u8]) {
    let mut at = 12;
    while let Some([0x81 | 0x88, 0x00 | 0xa8]) = frame.get(at..at + 2) {
        at += 4;
    }
    if frame.get(at..at + 2) != Some(&[8, 0]) {
        return;
    }
    let start = at + 2;
    let Some(first) = frame.get(start) else {
        return;
    };
    let len = usize::from(first & 15) * 4;
    if len < 20 || frame.len() < start + len {
        return;
    }
    let header = &mut frame[start..start + len];
    header[10..12].fill(0);
    let sum = header
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    header[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
}
