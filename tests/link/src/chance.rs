//! Draws from a seed, one stream for each kind of fault.

/// Kinds of draws. Each has a stream of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// Uniform loss.
    Loss,
    /// Going over between the good and the bad state of bursty loss.
    Burst,
    /// A second copy.
    Duplicate,
    /// A bit flipped.
    Corrupt,
    /// Which bit.
    CorruptBit,
    /// The end cut off.
    Truncate,
    /// Where.
    TruncateAt,
    /// Held back, so that later ones overtake.
    Reorder,
    /// Addition to the delay.
    Jitter,
    /// Marked as having met congestion.
    Mark,
}

/// The draws of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chance {
    seed: u64,
}

/// Fractions are in parts of this.
const ONE: f64 = (1_u64 << 53) as f64;

impl Chance {
    /// Draws of the direction numbered `lane`.
    pub fn new(seed: u64, lane: u64) -> Self {
        Self {
            seed: mix(seed ^ mix(lane.wrapping_add(1))),
        }
    }

    /// The draw of this kind for packet `number`: all 64 bits of it.
    pub fn bits(&self, number: u64, draw: Draw) -> u64 {
        mix(self.seed ^ mix(number.wrapping_mul(16).wrapping_add(draw as u64)))
    }

    /// The same draw in [0, 1).
    pub fn fraction(&self, number: u64, draw: Draw) -> f64 {
        (self.bits(number, draw) >> 11) as f64 / ONE
    }

    /// Whether something of this probability happens to packet `number`.
    pub fn happens(&self, number: u64, draw: Draw, probability: f64) -> bool {
        self.fraction(number, draw) < probability
    }
}

/// The output function of SplitMix64 (Steele, Lea, Flood 2014): every bit of the input stirs every bit of the result.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probability_is_met() {
        let chance = Chance::new(7, 0);
        for probability in [0.0, 0.01, 0.5, 1.0] {
            let hits = (0..100_000)
                .filter(|number| chance.happens(*number, Draw::Loss, probability))
                .count() as f64;
            let expected = probability * 100_000.0;
            assert!(
                (hits - expected).abs() <= 500.0 * probability.sqrt(),
                "{hits} for {expected}"
            );
        }
    }

    #[test]
    fn streams_differ_by_seed_lane_and_kind() {
        let all = |chance: Chance, draw| {
            (0..64)
                .map(|number| chance.bits(number, draw))
                .collect::<Vec<_>>()
        };
        let one = all(Chance::new(1, 0), Draw::Loss);
        assert_eq!(one, all(Chance::new(1, 0), Draw::Loss));
        assert_ne!(one, all(Chance::new(2, 0), Draw::Loss));
        assert_ne!(one, all(Chance::new(1, 1), Draw::Loss));
        assert_ne!(one, all(Chance::new(1, 0), Draw::Burst));
    }
}
