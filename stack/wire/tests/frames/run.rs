//! What follows on a head is what decoding in full says; what a template writes is what `emit` writes.

use bywash_wire::{
    ChecksumPolicy, Decoded, Ecn, Flags, Options, Run, Template, checksum, decode, emit_partial,
    header_len,
};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::strategies::{Case, case};

/// A segment that may be a head: plain data.
fn plain(mut case: Case) -> Case {
    case.segment.flags = Flags::ACK;
    case.segment.urgent = 0;
    case.segment.options = Options {
        timestamps: case.segment.options.timestamps,
        ..Options::NONE
    };
    case.ecn = Ecn::Ect0;
    // A run looks at the first 96 octets of a frame, so its frames have as many; the shortest headers here have 54.
    case.payload.extend([1; 42]);
    case.segment.payload_len = case.payload.len();
    case
}

/// The one behind it.
fn next_of(case: &Case, payload: Vec<u8>, push: bool) -> Case {
    let mut next = case.clone();
    next.segment.seq = case.segment.seq + case.segment.payload_len as u32;
    if push {
        next.segment.flags.insert(Flags::PSH);
    }
    next.segment.payload_len = payload.len();
    next.payload = payload;
    next
}

/// With the headers equal but for what a run allows, what `take` says is what `decode` says.
fn same(run: &Run, taken: (std::ops::Range<usize>, bool), decoded: &Decoded, head: &Decoded) {
    assert_eq!(*run.segment(), decoded.segment);
    assert_eq!(taken, (decoded.payload.clone(), decoded.partial_checksum));
    let identity = |decoded: &Decoded| (decoded.tuple, decoded.ecn, decoded.hop_limit);
    assert_eq!(identity(decoded), identity(head));
}

proptest! {
    #[test]
    fn a_follower_is_what_it_is_decoded_as(
        head in case().prop_map(plain),
        payload in prop::collection::vec(any::<u8>(), 50..200),
        push: bool,
        partial: bool,
        padding in 0_usize..20,
        flip: Option<(Index, u8)>,
    ) {
        let first = head.frame(0);
        let decoded_head = decode(&first, ChecksumPolicy::Full).expect("a right frame");
        let next = next_of(&head, payload, push);
        let mut frame = next.frame(0);
        if partial {
            let len = header_len(&next.link, &next.tuple, &next.segment);
            emit_partial(&mut frame[..len], &next.link, &next.tuple, next.ecn, next.hop_limit, &next.segment);
        }
        frame.resize(frame.len() + padding, 0x55);
        if let Some((at, bit)) = flip {
            let at = at.index(frame.len());
            frame[at] ^= 1 << (bit % 8);
        }
        let stacked = head.link.vlan.is_some_and(|vlan| vlan.tags() > 1);
        let Some(run) = Run::of(&first, &decoded_head) else {
            prop_assert!(stacked, "plain data begins a run");
            return Ok(());
        };
        prop_assert!(!stacked);
        for policy in [ChecksumPolicy::Full, ChecksumPolicy::FullOrPseudo, ChecksumPolicy::Trusted] {
            let mut run = run.clone();
            let decoded = decode(&frame, policy);
            match run.take(&frame, policy) {
                Some(follower) => {
                    let decoded = decoded.expect("what follows is right");
                    same(&run, (follower.payload, follower.partial_checksum), &decoded, &decoded_head);
                }
                None if flip.is_none() => {
                    prop_assert!(partial && policy == ChecksumPolicy::Full, "it follows");
                    prop_assert!(decoded.is_err());
                }
                None => {}
            }
        }
    }

    /// Nothing but number, PSH and length may differ.
    #[test]
    fn what_differs_does_not_follow(head in case().prop_map(plain), which in 0_usize..8) {
        let first = head.frame(0);
        let decoded = decode(&first, ChecksumPolicy::Full).expect("a right frame");
        let mut next = next_of(&head, vec![3; 100], false);
        match which {
            0 => next.segment.seq += 1,
            1 => next.segment.ack += 1,
            2 => next.segment.window ^= 1,
            3 => next.segment.flags.insert(Flags::FIN),
            4 => next.segment.flags.insert(Flags::ECE),
            5 => next.ecn = Ecn::Ce,
            6 => next.tuple.local_port ^= 1,
            _ => next.hop_limit ^= 1,
        }
        if let Some(mut run) = Run::of(&first, &decoded) {
            prop_assert_eq!(run.take(&next.frame(0), ChecksumPolicy::Full), None);
            let unchanged = next_of(&head, vec![3; 100], false);
            prop_assert!(run.take(&unchanged.frame(0), ChecksumPolicy::Full).is_some());
        }
    }

    #[test]
    fn a_template_writes_what_emit_writes(
        head in case().prop_map(plain),
        payload in prop::collection::vec(any::<u8>(), 1..200),
        ahead: u32,
    ) {
        let mut payload = payload;
        payload.resize(head.payload.len(), 9);
        let mut next = next_of(&head, payload, false);
        next.segment.seq += ahead;
        let len = header_len(&head.link, &head.tuple, &head.segment);
        let Case { link, tuple, ecn, hop_limit, segment, .. } = &head;
        let template = Template::new(link, tuple, *ecn, *hop_limit, segment);
        prop_assert_eq!(template.len(), len);
        let mut written = vec![0; len];
        template.write(&mut written, next.segment.seq, checksum::sum(&next.payload));
        prop_assert_eq!(&written[..], &next.frame(0)[..len]);

        let mut header = vec![0; len];
        let tcp = emit_partial(&mut header, link, tuple, *ecn, *hop_limit, &next.segment);
        prop_assert_eq!(template.tcp(), tcp);
        template.write_partial(&mut written, next.segment.seq);
        prop_assert_eq!(written, header);
    }
}
