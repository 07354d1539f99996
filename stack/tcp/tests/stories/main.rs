//! Stories of two ends: each test tells one, in virtual time, and asserts what was sent and read.

#[path = "../support/mod.rs"]
mod support;

mod closing;
mod frames;
mod handshake;
mod recovery;
mod transfer;
mod window;
