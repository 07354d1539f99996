//! The shard's flow table: tuple to place in the slab. Every received segment is looked up here
//! once; a forged one costs this look-up and nothing more.

use bywash_wire::Tuple;
use hashbrown::HashMap;

/// Seeded per process, so that peers cannot choose tuples that collide.
type Hasher = foldhash::fast::RandomState;

#[derive(Default)]
pub(crate) struct FlowTable {
    by_tuple: HashMap<Tuple, u32, Hasher>,
}

impl FlowTable {
    pub(crate) fn lookup(&self, tuple: &Tuple) -> Option<u32> {
        self.by_tuple.get(tuple).copied()
    }

    pub(crate) fn insert(&mut self, tuple: Tuple, index: u32) {
        let before = self.by_tuple.insert(tuple, index);
        debug_assert!(before.is_none(), "{tuple} stood in the table already");
    }

    pub(crate) fn remove(&mut self, tuple: &Tuple) {
        self.by_tuple.remove(tuple);
    }
}
