//! Integration tests in network namespaces, and the checks of the walls between crates.
//!
//! ```text
//! namespace bwt<pid>-<n>-host            namespace bwt<pid>-<n>-peer
//!   the bywash command, the kernel's  <-veth->  stock programs, the kernel's TCP,
//!   own services on the same address            raw frames
//! ```
//!
//! [`Bed`] makes the two (with a link emulator between them where packets are to be lost), [`process`] runs programs in them,
//! [`bywash`] knows the command's lines, [`kernel`] has the kernel's TCP as a peer, [`frames`] the malformed packets, [`pings`] pings,
//! [`remains`] looks for what an engine has left behind.
//!
//! Beds take turns: two cores carry one engine and one peer, and a test that waits for its turn measures nothing. Everything
//! waits with a limit, and a limit that runs out fails the test with all that the programs have said.

pub mod bed;
pub mod bywash;
pub mod flood;
pub mod flows;
pub mod frames;
pub mod kernel;
pub mod pings;
pub mod process;
pub mod remains;
pub mod sim;
pub mod soak;
pub mod vlans;
pub mod workspace;

pub use bed::{Bed, Shape, Side};
pub use vlans::Vlans;

use std::time::Duration;

/// How long anything may take that does not depend on an amount of data: far more than it should, since it is no measurement.
pub const LIMIT: Duration = Duration::from_secs(30);
