//! The shard's flow table: tuple to connection. Every received segment is looked up here once; a forged one costs this
//! look-up and nothing more.
//!
//! ```text
//!  tuple --hash--> [hash, place] --> connection, or rest of one in TIME-WAIT: its own tuple decides
//! ```
//! Eight bytes a flow: the tuple itself stands in the connection, which a segment that is ours needs next in any case. One
//! that is not ours nearly always fails at 32 bits of hash.

use std::hash::{BuildHasher, Hasher as _};
use std::net::IpAddr;

use bywash_wire::Tuple;
use hashbrown::HashTable;

use crate::shard::Conn;
use crate::slab::Slab;
use crate::time_waits::TimeWaits;

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

/// Set in a place among those in TIME-WAIT; slabs have fewer places.
const TIME_WAIT: u32 = 1 << 31;

impl Place {
    const fn pack(self) -> u32 {
        match self {
            Self::Connection(index) => index,
            Self::TimeWait(index) => index | TIME_WAIT,
        }
    }

    const fn unpack(place: u32) -> Self {
        match place & TIME_WAIT {
            0 => Self::Connection(place),
            _ => Self::TimeWait(place & !TIME_WAIT),
        }
    }
}

#[derive(Clone, Copy)]
struct Entry {
    hash: u32,
    place: u32,
}

#[derive(Default)]
pub(crate) struct FlowTable {
    entries: HashTable<Entry>,
    hasher: Hasher,
}

/// The table wants 64 bits; those that it keeps are spread over them.
const fn spread(hash: u32) -> u64 {
    (hash as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Equality, with whole words compared where that is enough.
fn is_same(one: &Tuple, other: &Tuple) -> bool {
    let addresses = match (one.local, one.remote, other.local, other.remote) {
        (IpAddr::V4(a), IpAddr::V4(b), IpAddr::V4(c), IpAddr::V4(d)) => {
            a.to_bits() == c.to_bits() && b.to_bits() == d.to_bits()
        }
        (a, b, c, d) => a == c && b == d,
    };
    addresses
        && one.local_port == other.local_port
        && one.remote_port == other.remote_port
        && one.vlan == other.vlan
        && one.protocol == other.protocol
}

impl FlowTable {
    /// Words instead of the fields one by one.
    fn hash(&self, tuple: &Tuple) -> u32 {
        let mut hasher = self.hasher.build_hasher();
        let vlan = tuple.vlan.map_or(0, |vlan| vlan.bits());
        let ports = u32::from(tuple.local_port) << 16 | u32::from(tuple.remote_port);
        match (tuple.local, tuple.remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                hasher.write_u64(u64::from(local.to_bits()) << 32 | u64::from(remote.to_bits()));
            }
            (local, remote) => {
                for address in [local, remote] {
                    match address {
                        IpAddr::V4(address) => hasher.write_u32(address.to_bits()),
                        IpAddr::V6(address) => hasher.write_u128(address.to_bits()),
                    }
                }
            }
        }
        // Every flow is TCP's: its protocol tells nothing.
        hasher.write_u64(u64::from(vlan) << 32 | u64::from(ports));
        let hash = hasher.finish();
        (hash >> 32) as u32 ^ hash as u32
    }

    /// The flow's place; `conns` and `time_waits` are what this table's places are in.
    pub(crate) fn lookup(
        &self,
        tuple: &Tuple,
        conns: &Slab<Conn>,
        time_waits: &TimeWaits,
    ) -> Option<Place> {
        let hash = self.hash(tuple);
        let is = |entry: &Entry| {
            entry.hash == hash
                && match Place::unpack(entry.place) {
                    Place::Connection(index) => {
                        conns.get(index).is_some_and(|conn| conn.tcp.is_flow(tuple))
                    }
                    Place::TimeWait(index) => time_waits
                        .get(index)
                        .is_some_and(|one| is_same(one.tuple(), tuple)),
                }
        };
        let entry = self.entries.find(spread(hash), is)?;
        Some(Place::unpack(entry.place))
    }

    /// The connection that the flow is likely to be: what it is, is not looked at.
    pub(crate) fn guess(&self, tuple: &Tuple) -> Option<u32> {
        let hash = self.hash(tuple);
        let entry = self
            .entries
            .find(spread(hash), |entry| entry.hash == hash)?;
        match Place::unpack(entry.place) {
            Place::Connection(index) => Some(index),
            Place::TimeWait(_) => None,
        }
    }

    /// `place` has this tuple, and no other place has.
    pub(crate) fn insert(&mut self, tuple: &Tuple, place: Place) {
        let entry = Entry {
            hash: self.hash(tuple),
            place: place.pack(),
        };
        self.entries
            .insert_unique(spread(entry.hash), entry, |entry| spread(entry.hash));
    }

    /// The place has left.
    pub(crate) fn remove(&mut self, tuple: &Tuple, place: Place) {
        let hash = self.hash(tuple);
        let is = |entry: &Entry| entry.hash == hash && entry.place == place.pack();
        if let Ok(found) = self.entries.find_entry(spread(hash), is) {
            found.remove();
        }
    }
}
