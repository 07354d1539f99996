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
	__u32 link; /* host byte order: protocol << 24 | VLAN of the service tag << 12 | of the customer tag; 0: no such tag */
};

struct bywash_flow {
	__u32 slot;	  /* index into `xsks` */
	__u32 generation; /* the loader's; not read here */
	__u32 queue;	  /* that the slot's socket is bound to */
};

/* Bits in the `vlans` map, whose index is the identifier of the outer tag. */
#define BYWASH_VLAN_CUSTOMER 1 /* a customer tag alone is ours */
#define BYWASH_VLAN_SERVICE 2  /* a service tag alone is ours */
#define BYWASH_VLAN_STACKED 4  /* a service tag may be ours with the customer tag inside it: `vlan_pairs` knows */

/* Bits in the configuration's `flags`. */
#define BYWASH_MARK_DIRTY 1 /* packets to flow pools set their slot's byte in `dirty` */
#define BYWASH_STRICT 2	    /* every flow of ours stands in `flows`: segments of others are dropped */

/* A rate: one packet each `interval` on average, and as many at once as fit into `burst`. Nanoseconds; interval 0: no limit. */
struct bywash_limit {
	__u64 interval;
	__u64 burst;
};

/* Index into the configuration's limits. Each CPU has its own account, and a queue of a NIC has one CPU. */
#define BYWASH_LIMIT_SYN_PREFIX 0 /* SYNs to listening ports, from one IPv4 /24 or IPv6 /64 */
#define BYWASH_LIMIT_SYN 1	  /* all SYNs to listening ports */
#define BYWASH_LIMIT_ACK 2	  /* BYWASH_STRICT: segments to listening ports that may end a handshake by SYN cookie */
#define BYWASH_LIMIT_ICMP 3	  /* ICMP errors */
#define BYWASH_LIMITS 4

/* Who sends: the first 8 octets of an IPv6 address. An IPv4 /24 stands in ff00::/8, from which nobody may send. */
struct bywash_prefix {
	__be32 words[2];
};

/* The single entry of the `config` map. All zero: nothing is ours. */
struct bywash_config {
	__u32 abi_version;
	__u32 flags;
	__u32 queues;		/* 0 up to queues - 1 have a shard */
	__u16 local_port_first; /* of the range for active opens, host byte order */
	__u16 local_port_last;	/* first > last, or both 0: no range */
	struct bywash_limit limits[BYWASH_LIMITS];
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
	REDIRECT_ICMP = 15,
	/* Ours, and thrown away. */
	DROP_EMPTY_SLOT = 16,
	DROP_NO_SHARD = 17,
	DROP_FIRST_FRAGMENT = 18,
	DROP_TCP_TRUNCATED = 19,
	DROP_TCP_DATA_OFFSET = 20,
	DROP_TCP_PORT_ZERO = 21,
	DROP_SYN_PREFIX_LIMIT = 22,
	DROP_SYN_LIMIT = 23,
	DROP_NO_FLOW = 24,
	DROP_ACK_LIMIT = 25,
	DROP_ICMP_LIMIT = 26,
	BYWASH_COUNTERS = 27,
};

/* What the program `parse`, which is for tests only, puts in front of the packet. */
struct bywash_parsed {
	__u32 verdict; /* enum bywash_counter, or BYWASH_PARSED */
	__u32 offset;  /* of the TCP header in the frame */
	__u32 length;  /* of header and payload */
	struct bywash_flow_key key;
};

#define BYWASH_PARSED 255 /* a whole, sound TCP segment: the rest is set */

_Static_assert(sizeof(struct bywash_flow_key) == 40, "flow key");
_Static_assert(__builtin_offsetof(struct bywash_flow_key, remote) == 16, "flow key");
_Static_assert(__builtin_offsetof(struct bywash_flow_key, local_port) == 32, "flow key");
_Static_assert(__builtin_offsetof(struct bywash_flow_key, remote_port) == 34, "flow key");
_Static_assert(__builtin_offsetof(struct bywash_flow_key, link) == 36, "flow key");
_Static_assert(sizeof(struct bywash_flow) == 12, "flow");
_Static_assert(__builtin_offsetof(struct bywash_flow, generation) == 4, "flow");
_Static_assert(__builtin_offsetof(struct bywash_flow, queue) == 8, "flow");
_Static_assert(sizeof(struct bywash_config) == 80, "config");
_Static_assert(__builtin_offsetof(struct bywash_config, queues) == 8, "config");
_Static_assert(__builtin_offsetof(struct bywash_config, local_port_first) == 12, "config");
_Static_assert(__builtin_offsetof(struct bywash_config, local_port_last) == 14, "config");
_Static_assert(__builtin_offsetof(struct bywash_config, limits) == 16, "config");
_Static_assert(sizeof(struct bywash_parsed) == 52, "parsed");
_Static_assert(sizeof(struct bywash_dirty) % 8 == 0, "entries of an array are rounded up to 8 bytes");
_Static_assert((BYWASH_SLOTS_PER_QUEUE & (BYWASH_SLOTS_PER_QUEUE - 1)) == 0, "slots");
_Static_assert(DROP_ICMP_LIMIT + 1 == BYWASH_COUNTERS, "counters");

#endif
