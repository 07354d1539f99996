//! First figures.
fn main() {}
