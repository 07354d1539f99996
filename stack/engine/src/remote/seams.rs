//! What the command needs of a shard from outside the crate.

use bywash_xsk::Port;

use crate::report::ShardReport;
use crate::service::Service;
use crate::shard::Shard;

pub use bywash_xdp::Mode as XdpMode;

impl<P: Port, S: Service> Shard<P, S> {
    /// A picture of the shard, as `ss` shows it. Walks all connections.
    pub fn report(&self) -> ShardReport {
        self.core.report()
    }
}
