//! What the code itself costs: both ends of TCP on the calling thread over the in-memory wire, no kernel.
//!
//! ```text
//!   A: accepts, answers   <--- wire in memory: frames by reference, no copy --->   B: connects, asks
//! ```
//! The shards are those of an engine, with checksums computed and verified; only the port differs. Each function runs one
//! kind of load and gives its [`Cost`]:
//!
//! | function | load |
//! |---|---|
//! | [`bulk`] | one flow, B sends as much as it can |
//! | [`exchange`] | requests and answers over many connections, so many under way at once |
//! | [`churn`] | connect, a message each way, close |
//!
//! With [`Effort::Operations`] the work is fixed, for counting instructions: everything measured is below the function
//! `measured`, for `callgrind --toggle-collect='*measured*'`.
#![forbid(unsafe_code)]

mod bulk;
mod churn;
mod cost;
mod exchange;

pub use bulk::bulk;
pub use churn::{Churn, churn};
pub use cost::{Cost, Effort};
pub use exchange::{Exchange, exchange};
