//! The shard's flow table: tuple to connection. Every received segment is looked up here once; a forged one costs this
//! look-up and nothing more.

use bywash_wire::Tuple;
use hashbrown::HashMap;

/// Seeded per process, so that peers cannot choose tuples that collide.
type Hasher = foldhash::fast::RandomState;

/// Where a flow's state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the slab of connections.
    Connection(u32),
    /// Among those in TIME-WAIT.
    TimeWait(u32),
}

#[derive(Default)]
pub(crate) struct FlowTable {
    by_tuple: HashMap<Tuple, Place, Hasher>,
}

impl FlowTable {
    pub(crate) fn lookup(&self, tuple: &Tuple) -> Option<Place> {
        self.by_tuple.get(tuple).copied()
    }

    /// The place of a connection that is not in TIME-WAIT's own table.
    pub(crate) fn connection(&self, tuple: &Tuple) -> Option<u32> {
        match self.lookup(tuple) {
            Some(Place::Connection(index)) => Some(index),
            _ => None,
        }
    }

    pub(crate) fn insert(&mut self, tuple: Tuple, place: Place) {
        let before = self.by_tuple.insert(tuple, place);
        debug_assert!(before.is_none(), "{tuple} stood in the table already");
    }

    pub(crate) fn remove(&mut self, tuple: &Tuple) {
        self.by_tuple.remove(tuple);
    }
}
