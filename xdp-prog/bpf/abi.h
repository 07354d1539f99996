/* What the program and its loader agree on. The Rust half is src/abi.rs and src/counter.rs; tests/abi.rs compares them. */
#ifndef BYWASH_ABI_H
#define BYWASH_ABI_H

#include "kernel.h"

#define BYWASH_ABI_VERSION 2

/* Rings of a queue: slot = queue * BYWASH_SLOTS_PER_QUEUE + ring. Flow pools follow from 2. */
#define BYWASH_SLOTS_PER_QUEUE 1024 /* a power of two */
#define BYWASH_RING_PRIMARY 0
#define BYWASH_RING_CONTROL 1

/* Bits in the `ports` map. */
#define BYWASH_PORT_TCP_LISTEN 1 /* SYNs go to the control pool */
#define BYWASH_PORT_TCP_OURS 2	 /* other segments go to the primary */

/* Addresses are IPv6, or IPv4 mapped to ::ffff:a.b.c.d. Local is the packet's destination. */
struct bywash_address {
	__be32 words[4];
};

struct bywash_flow_key {
	struct bywash_address local;
	struct bywash_address remote;
	__be16 local_port;
	__be16 remote_port;
	__u16 vlan; /* host byte order; 0: untagged */
	__u8 protocol;
	__u8 padding; /* zero: hash tables compare every byte */
};

struct bywash_flow {
	__u32 slot;	  /* index into `xsks` */
	__u32 generation; /* the loader's; not read here */
	__u32 queue;	  /* that the slot's socket is bound to */
};

/* Bits in the configuration's `flags`. */
#define BYWASH_MARK_DIRTY 1 /* packets to flow pools set their slot's byte in `dirty` */

/* The single entry of the `config` map. All zero: nothing is ours. */
struct bywash_config {
	__u32 abi_version;
	__u32 flags;
	__u32 queues;		/* 0 up to queues - 1 have a shard */
	__u16 local_port_first; /* of the range for active opens, host byte order */
	__u16 local_port_last;	/* first > last, or both 0: no range */
};

/*
 * A queue's entry in the `dirty` map: a byte by ring, 1 from the moment when a packet for a flow pool is on its way to the ring
 * until user space, which maps the array into its memory, sets it to 0. Entries lie side by side: the byte's offset is the slot.
 */
struct bywash_dirty {
	__u8 rings[BYWASH_SLOTS_PER_QUEUE];
};

/* Index into the `counters` map: one for each verdict. src/counter.rs says what each means. */
enum bywash_counter {
	/* The kernel's. */
	PASS_NOT_IP = 0,
	PASS_GROUP_MAC = 1,
	PASS_VLAN_FOREIGN = 2,
	PASS_VLAN_STACKED = 3,
	PASS_NOT_TCP = 4,
	PASS_NOT_OUR_PORT = 5,
	PASS_NOT_OUR_ADDRESS = 6,
	PASS_MALFORMED_IP = 7,
	PASS_EXTENSIONS = 8,
	PASS_FRAGMENT = 9,
	/* Into a socket of ours. */
	REDIRECT_FLOW = 10,
	REDIRECT_OTHER_QUEUE = 11,
	REDIRECT_SYN = 12,
	REDIRECT_PORT = 13,
	REDIRECT_LOCAL_RANGE = 14,
	/* Ours, and thrown away. */
	DROP_EMPTY_SLOT = 15,
	DROP_NO_SHARD = 16,
	DROP_FIRST_FRAGMENT = 17,
	DROP_TCP_TRUNCATED = 18,
	DROP_TCP_DATA_OFFSET = 19,
	DROP_TCP_PORT_ZERO = 20,
	BYWASH_COUNTERS = 21,
};

_Static_assert(sizeof(struct bywash_flow_key) == 40, "flow key");
_Static_assert(__builtin_offsetof(struct bywash_flow_key, remote) == 16, "flow key");
_Static_assert(__builtin_offsetof(struct bywash_flow_key, local_port) == 32, "flow key");
_Static_assert(__builtin_offsetof(struct bywash_flow_key, remote_port) == 34, "flow key");
_Static_assert(__builtin_offsetof(struct bywash_flow_key, vlan) == 36, "flow key");
_Static_assert(__builtin_offsetof(struct bywash_flow_key, protocol) == 38, "flow key");
_Static_assert(sizeof(struct bywash_flow) == 12, "flow");
_Static_assert(__builtin_offsetof(struct bywash_flow, generation) == 4, "flow");
_Static_assert(__builtin_offsetof(struct bywash_flow, queue) == 8, "flow");
_Static_assert(sizeof(struct bywash_config) == 16, "config");
_Static_assert(__builtin_offsetof(struct bywash_config, queues) == 8, "config");
_Static_assert(__builtin_offsetof(struct bywash_config, local_port_first) == 12, "config");
_Static_assert(__builtin_offsetof(struct bywash_config, local_port_last) == 14, "config");
_Static_assert(sizeof(struct bywash_dirty) % 8 == 0, "entries of an array are rounded up to 8 bytes");
_Static_assert((BYWASH_SLOTS_PER_QUEUE & (BYWASH_SLOTS_PER_QUEUE - 1)) == 0, "slots");
_Static_assert(DROP_TCP_PORT_ZERO + 1 == BYWASH_COUNTERS, "counters");

#endif
