//! AF_XDP sockets, rings and frames, and an in-memory wire with the same types.
//!
//! ```text
//!            Umem: one memfd mapping, cut into chunks            Frame: the one token for a chunk
//!   +--------------------------+---------------------------+
//!   | RX chunks [0, rx_frames) | TX chunks                 |     free --refill--> kernel --receive--> Frame --drop--> free
//!   +--------------------------+---------------------------+     free --alloc_tx-> Frame --transmit-> queued --reclaim-> free
//!          ^            |            |             ^
//!        fill ring   RX rings     TX ring    completion ring     XskPort: the kernel at the other end of the rings
//!          |            v            v             |             MemoryPort: another port in the same thread
//! ```
//!
//! Everything that is unsafe in Bywash lives in this crate: shared memory, ring memory, system calls. What it knows of a
//! packet is an address and a length; Ethernet and TCP are other crates.
//!
//! | file | holds |
//! |---|---|
//! | [`region`] | the mapping, and leases: frames lent to other threads as plain data |
//! | [`umem`] | who holds which chunk; the two-release rule; the ledger |
//! | [`frame`] | the move-only 16-byte token |
//! | `ring` | producer and consumer cursors, written once for all four rings |
//! | `busy_poll` | the driver's NAPI, run by our own system calls |
//! | `tx_checksum` | checksums that the kernel completes |
//! | `tx_guard` | a test mode: nobody changes what is being sent |
//! | `socket` | one AF_XDP socket: options, mappings, bind |
//! | [`port`] | what the engine sees of a queue |
//! | [`xsk_port`] | a queue of a device |
//! | [`marks`] | which rings XDP has sent packets to |
//! | [`memory`] | a wire in memory |
//! | [`virtual_port`] | a queue whose device is code |
//! | [`mapped_array`] | a BPF array that the XDP program writes, in our memory |

mod busy_poll;
pub mod config;
pub mod error;
mod fill_depth;
pub mod frame;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod mapped_array;
pub mod marks;
pub mod memory;
pub mod port;
mod prefetch;
pub mod region;
mod ring;
mod socket;
pub mod statistics;
mod tx_checksum;
mod tx_guard;
pub mod umem;
pub mod virtual_port;
pub mod waker;
pub mod xsk_port;

pub use busy_poll::{BusyPoll, BusyPollConfig};
pub use config::{BindMode, MemoryConfig, PoolClass, RingSizes, UmemConfig, XskConfig};
pub use error::XskError;
pub use frame::Frame;
pub use mapped_array::MappedArray;
pub use marks::Marks;
pub use memory::{Fate, MemoryPort};
pub use port::Port;
pub use prefetch::prefetch;
pub use region::{LeaseDesc, RegionView, RxLease};
pub use socket::Mode;
pub use statistics::{KernelStatistics, Statistics};
pub use tx_checksum::{PartialChecksum, TxChecksum};
pub use umem::{Ledger, LedgerError, Umem};
pub use virtual_port::{Received, VirtualPort, VirtualQueue};
pub use waker::Waker;
pub use xsk_port::{KernelModes, TxBudget, XskPort};
