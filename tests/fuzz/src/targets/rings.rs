//! The arithmetic of rings: two honest sides, or one that writes what it likes.

/// The first byte chooses.
pub(crate) fn run(data: &[u8]) {
    match data.split_first() {
        Some((first, rest)) if first % 4 == 0 => bywash_xsk::fuzzing::hostile_rings(rest),
        Some((_, rest)) => bywash_xsk::fuzzing::rings(rest),
        None => {}
    }
}
