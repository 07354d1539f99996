//! The protocol of `iperf3`, both roles, compatible with the stock program (3.1 and newer).
//!
//! ```text
//!   client                                   server
//!     | ---- control connection, cookie ------> |     cookie: 37 bytes, tells one test from another
//!     | <--- PARAM_EXCHANGE ------------------- |     a state is one signed byte
//!     | ---- parameters ----------------------> |     JSON behind a 4-byte big-endian length
//!     | <--- CREATE_STREAMS ------------------- |
//!     | ==== data connections, cookie each ===> |     to the same port; perhaps on other shards
//!     | <--- TEST_START, TEST_RUNNING --------- |
//!     | ==== data, until time or amount ======> |     or from the server, or both ways
//!     | ---- TEST_END ------------------------> |
//!     | <--- EXCHANGE_RESULTS ----------------- |
//!     | ---- results -> , <- results ---------- |
//!     | <--- DISPLAY_RESULTS ------------------ |
//!     | ---- IPERF_DONE ----------------------> |
//! ```
//!
//! | file | holds |
//! |---|---|
//! | [`options`], [`error`] | what may be asked, what may go wrong |
//! | [`message`] | states, cookie, parameters, results, as bytes |
//! | [`control`] | the control connection of either role as a machine without IO |
//! | [`meter`] | byte counts in, intervals and totals out |
//! | [`report`], `text` | intervals and totals as lines or as JSON |
//! | `outcome` | both sides' totals, put together |
//! | `stream` | the hot path: one data connection |
//! | [`shared`] | what the shards of a server share |
//! | [`server`], [`client`] | the two [`Service`](bywash_engine::service::Service)s |
//! | [`run`] | either of them on a device, until it ends |

pub mod client;
pub mod control;
mod cpu;
pub mod error;
pub mod message;
pub mod meter;
pub mod options;
mod outcome;
pub mod report;
pub mod run;
pub mod server;
pub mod shared;
mod stream;
#[cfg(test)]
mod tests;
mod text;

pub use client::{Client, Summary};
pub use error::Iperf3Error;
pub use options::{ClientOptions, Extent, ServerOptions};
pub use run::{run_client, run_server};
pub use server::Server;
pub use shared::ServerState;
