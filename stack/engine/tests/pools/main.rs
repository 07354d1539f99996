//! Flow pools on a queue whose device is code, in virtual time.
//!
//! The device does what a kernel does: packets of a NAPI cycle are steered one by one, by the flow table as it stands at
//! that moment, and every ring that the cycle touched is published at its end, one after the other, last touched first.
//! Shards may run between any two of those steps.

mod device;
mod faults;
mod limits;
mod order;
mod queues;
