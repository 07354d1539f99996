//! What happened in a world: always as one number, on demand as lines on the terminal.

use bywash::seams::wire::{Decoded, Flags, SeqNumber};

use super::dice::mix;

/// Bytes of a frame that go into the number: all headers. Payload is the oracle's business.
const HASHED: usize = 96;

/// The trace of one world.
#[derive(Default)]
pub struct Trace {
    /// Changes with every frame and every moment: two runs of a seed must agree on it.
    pub hash: u64,
    /// Whether lines are printed.
    pub lines: bool,
}

impl Trace {
    /// A trace with lines or without.
    pub fn new(lines: bool) -> Self {
        Self { hash: 0, lines }
    }

    /// Takes numbers in.
    pub fn add(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.hash = mix(self.hash ^ number).wrapping_add(1);
        }
    }

    /// Takes a frame in.
    pub fn add_frame(&mut self, at: u64, what: u64, frame: &[u8]) {
        self.add(&[at, what, frame.len() as u64]);
        for piece in frame[..frame.len().min(HASHED)].chunks(8) {
            let mut word = [0; 8];
            word[..piece.len()].copy_from_slice(piece);
            self.add(&[u64::from_le_bytes(word)]);
        }
    }

    /// Prints a line, if lines are wanted: at once, so that a panic does not take them along.
    pub fn line(&self, at: u64, text: impl FnOnce() -> String) {
        if self.lines {
            println!("{:>14.6} {}", at as f64 / 1e9, text());
        }
    }
}

/// A segment as a line: numbers relative to the initial ones.
pub fn describe(decoded: &Decoded, own: SeqNumber, peer: SeqNumber) -> String {
    let segment = &decoded.segment;
    let tuple = &decoded.tuple;
    let flags: String = [
        (Flags::SYN, 'S'),
        (Flags::FIN, 'F'),
        (Flags::RST, 'R'),
        (Flags::PSH, 'P'),
        (Flags::ACK, '.'),
        (Flags::ECE, 'E'),
        (Flags::CWR, 'W'),
    ]
    .iter()
    .filter(|(flag, _)| segment.flags.contains(*flag))
    .map(|(_, letter)| letter)
    .collect();
    let seq = segment.seq.distance_from(own);
    let ack = segment.ack.distance_from(peer);
    let options = &segment.options;
    let sack: Vec<String> = options
        .sack
        .iter()
        .map(|(start, end)| format!("{}-{}", start.distance_from(peer), end.distance_from(peer)))
        .collect();
    let mut text = format!(
        "{}>{} {flags} {seq}+{} ack {ack} win {}",
        tuple.remote_port, tuple.local_port, segment.payload_len, segment.window
    );
    if let Some(mss) = options.mss {
        text += &format!(" mss {mss} wscale {:?}", options.window_scale);
    }
    if !sack.is_empty() {
        text += &format!(" sack {}", sack.join(","));
    }
    if let Some(timestamps) = options.timestamps {
        text += &format!(" ts {}/{}", timestamps.value, timestamps.echo);
    }
    text
}
