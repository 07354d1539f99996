//! Stories of two ends: each test tells one, in virtual time, and asserts what was sent and read.

#[path = "../support/mod.rs"]
mod support;

mod adversary;
mod black_hole;
mod closing;
mod cookies;
mod duplicates;
mod fast_open;
mod frames;
mod handshake;
mod icmp;
mod paws;
mod rack;
mod receive_buffer;
mod recovery;
mod segment_arrives;
mod segment_space;
mod time_wait;
mod transfer;
mod undo;
mod urgent;
mod user_timeout;
mod window;
