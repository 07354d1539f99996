//! Whole frames: golden ones of other stacks, round trips, reasons to drop, and bytes that nobody meant.

mod arbitrary;
mod drops;
mod golden;
mod icmp;
mod round_trip;
mod run;
mod strategies;
