//! The stages of a turn, one file each, in the order of their calls. Each has a budget and returns
//! how much it did.

mod deliver;
mod egress;
mod ingress;
mod kick;
mod reclaim;
mod refill;
mod timers;
