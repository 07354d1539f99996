//! The stages of a turn, one file each, in the order of their calls. Each has a budget and returns
//! how much it did.

mod deliver;
pub(crate) mod egress;
mod icmp;
pub(crate) mod ingress;
mod kick;
mod pools;
mod reclaim;
mod refill;
mod resteer;
mod timers;
