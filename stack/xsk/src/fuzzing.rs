//! Bodies of fuzz targets that need more than the public API. No part of the API.

/// Takes `data` as a ring's size, start and steps of its two sides, and compares what is granted and taken with two queues.
///
/// # Panics
/// If they differ.
pub fn rings(data: &[u8]) {
    crate::ring::tests::run(data);
}

/// Takes `data` as cursors that the other side of a ring writes, nonsense included: grants stay within the ring.
///
/// # Panics
/// If they do not.
pub fn hostile_rings(data: &[u8]) {
    crate::ring::tests::run_hostile(data);
}
