//! Any bytes as the option list of a segment, against a parser that knows nothing but kinds and lengths.

use bywash_wire::{
    ChecksumPolicy, Ecn, FastOpen, FastOpenCookie, Flags, Link, Options, SackBlocks, Segment,
    SeqNumber, Timestamps, Tuple, checksum, decode, emit, header_len,
};

use super::frame::tuple;

/// The first byte says whether the segment is a SYN; the rest is the list, padded with ends.
pub(crate) fn run(data: &[u8]) {
    let Some((first, list)) = data.split_first() else {
        return;
    };
    let flags = if first % 2 == 0 {
        Flags::ACK
    } else {
        Flags::SYN
    };
    let mut list = list[..list.len().min(40)].to_vec();
    list.resize(list.len().next_multiple_of(4), 0);
    let frame = frame_with(&tuple(), flags, &list);
    let decoded = decode(&frame, ChecksumPolicy::Trusted).expect("only the options are odd");
    let expected = expected(&list, flags == Flags::SYN);
    assert_eq!(decoded.segment.options, expected, "{list:?}");
    assert_eq!(decoded.segment.payload_len, 0);
    assert!(expected.emitted_len() <= 40 && expected.emitted_len().is_multiple_of(4));
}

/// A frame without payload whose TCP header ends in `list`.
fn frame_with(tuple: &Tuple, flags: Flags, list: &[u8]) -> Vec<u8> {
    let segment = Segment {
        flags,
        ..Segment::default()
    };
    let link = Link::default();
    let head = header_len(&link, tuple, &segment);
    let mut frame = vec![0; head];
    // The IP header is told of the list as if it were payload; then the data offset takes it in.
    let told = Segment {
        payload_len: list.len(),
        ..segment
    };
    let sum = checksum::sum(list);
    emit(&mut frame, &link, tuple, Ecn::NotEct, 64, &told, sum);
    frame[head - 8] = ((20 + list.len()) as u8 / 4) << 4;
    frame.extend_from_slice(list);
    frame
}

/// RFC 9293 3.1: kind, length, value; an end, a hole, or a length that cannot be ends the list.
fn expected(list: &[u8], syn: bool) -> Options {
    let mut options = Options::NONE;
    let mut at = 0;
    while at < list.len() && list[at] != 0 {
        if list[at] == 1 {
            at += 1;
            continue;
        }
        let Some(len) = list.get(at + 1).map(|len| usize::from(*len)) else {
            break;
        };
        if len < 2 || at + len > list.len() {
            break;
        }
        read(&mut options, &list[at..at + len], syn);
        at += len;
    }
    options
}

fn read(options: &mut Options, one: &[u8], syn: bool) {
    let word = |at: usize| {
        one[at..at + 4]
            .iter()
            .fold(0, |n, b| n << 8 | u32::from(*b))
    };
    match (one[0], one.len()) {
        // An MSS of 0 is as good as none.
        (2, 4) if syn && word(0) as u16 != 0 => options.mss = Some(word(0) as u16),
        // RFC 7323 2.3: more than 14 counts as 14.
        (3, 3) if syn => options.window_scale = Some(one[2].min(14)),
        (4, 2) if syn => options.sack_permitted = true,
        (8, 10) => {
            options.timestamps = Some(Timestamps {
                value: word(2),
                echo: word(6),
            });
        }
        (28, 4) => options.user_timeout = Some(word(0) as u16),
        // RFC 7413 4.1.1: nothing asks, 4 to 16 octets in pairs are a cookie, other lengths are ignored.
        (34, 2) if syn => options.fast_open = Some(FastOpen::default()),
        (34, len) if syn => show(options, &one[2..len], false),
        (254, 4) if syn && word(0) as u16 == 0xf989 => {
            options.fast_open = Some(FastOpen {
                cookie: None,
                experimental: true,
            });
        }
        (254, len) if syn && len > 4 && one[2..4] == [0xf9, 0x89] => {
            show(options, &one[4..len], true);
        }
        (5, len) if !syn && (len - 2) % 8 == 0 => {
            let mut blocks = SackBlocks::EMPTY;
            for at in (2..len).step_by(8) {
                blocks.push(SeqNumber::new(word(at)), SeqNumber::new(word(at + 4)));
            }
            options.sack = blocks;
        }
        _ => {}
    }
}

fn show(options: &mut Options, cookie: &[u8], experimental: bool) {
    if [4, 6, 8, 10, 12, 14, 16].contains(&cookie.len()) {
        options.fast_open = Some(FastOpen {
            cookie: FastOpenCookie::new(cookie),
            experimental,
        });
    }
}
