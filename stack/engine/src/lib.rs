//! The polling engine: one shard per core and queue, seven stages a turn.
#![forbid(unsafe_code)]
