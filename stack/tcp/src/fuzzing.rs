//! Bodies of fuzz targets that need more than the public API: what is inside, against an oracle. No part of the API.

/// Takes `data` as operations on a send queue's scoreboard (send, acknowledge, SACK, detect, time out, cut, save and load) and
/// compares every mark, sum and hint with an oracle that walks over everything.
///
/// # Panics
/// If they differ.
pub fn scoreboard(data: &[u8]) {
    crate::snd::oracle_tests::run(data);
}
