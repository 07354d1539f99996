//! Connections as bytes, with the frames that they hold: how they outlive the engine that runs them.

use bywash_tcp::{Connection, SnapshotError};
use bywash_xsk::Port;

use crate::payload::FramePayload;
use crate::service::ConnId;
use crate::shard::Shard;

impl<P: Port, S> Shard<P, S> {
    /// The connection as bytes, in the format of [`Connection::snapshot`]; `None`: there is none of that name.
    pub fn snapshot(&mut self, conn: ConnId) -> Option<Vec<u8>> {
        let conn = self.core.conns.by_id(conn)?;
        let mut bytes = Vec::new();
        conn.tcp
            .snapshot(&mut bytes, |payload| payload.frame.bytes());
        Some(bytes)
    }

    /// Puts what [`snapshot`](Self::snapshot) gave in the place of the connection that it was taken of. All its payload,
    /// sent and received, moves to TX frames of this shard. On an error nothing has changed.
    ///
    /// # Errors
    /// The bytes are no connection, or there are too few frames. A connection that is not there is `Corrupt`.
    pub fn restore(&mut self, conn: ConnId, bytes: &[u8]) -> Result<(), SnapshotError> {
        let umem = self.core.port.umem().clone();
        let tcp = Connection::restore(bytes, |bytes| {
            let mut payload = FramePayload::empty(umem.alloc_tx()?);
            (payload.fill(bytes, bytes.len()) == bytes.len()).then_some(payload)
        })?;
        let conn = self.core.conns.by_id(conn);
        let same = conn.filter(|conn| conn.tcp.tuple() == tcp.tuple());
        same.ok_or(SnapshotError::Corrupt)?.tcp = tcp;
        Ok(())
    }
}
