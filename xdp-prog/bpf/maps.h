/* The maps: what loader, program and engine share. */
#ifndef BYWASH_MAPS_H
#define BYWASH_MAPS_H

#include "abi.h"

/*
 * Promoted and dedicated flows, or with BYWASH_STRICT all of them. Preallocated: no allocation here, and never evicted, as an LRU
 * would. The loader sets the size.
 */
struct {
	NUMBER(type, BPF_MAP_TYPE_HASH);
	NUMBER(max_entries, 16384);
	TYPE(key, struct bywash_flow_key);
	TYPE(value, struct bywash_flow);
} flows MAP;

/* Bits by port. An array, as every foreign TCP packet is looked up here: 512 KiB, of which only ports in use are ever touched. */
struct {
	NUMBER(type, BPF_MAP_TYPE_ARRAY);
	NUMBER(max_entries, 65536);
	TYPE(key, __u32);
	TYPE(value, __u32);
} ports MAP;

/* Our local addresses. Without them a host that forwards would lose transit traffic to a port number that we listen to. */
struct {
	NUMBER(type, BPF_MAP_TYPE_HASH);
	NUMBER(max_entries, 4096);
	TYPE(key, struct bywash_address);
	TYPE(value, __u32);
} addresses MAP;

struct {
	NUMBER(type, BPF_MAP_TYPE_ARRAY);
	NUMBER(max_entries, 1);
	TYPE(key, __u32);
	TYPE(value, struct bywash_config);
} config MAP;

/* BYWASH_VLAN_* by identifier of the outer tag. */
struct {
	NUMBER(type, BPF_MAP_TYPE_ARRAY);
	NUMBER(max_entries, 4096);
	TYPE(key, __u32);
	TYPE(value, __u32);
} vlans MAP;

/* Service and customer tag, as in a flow key's `link` without the protocol. */
struct {
	NUMBER(type, BPF_MAP_TYPE_HASH);
	NUMBER(max_entries, 4096);
	TYPE(key, __u32);
	TYPE(value, __u32);
} vlan_pairs MAP;

/* Sockets by slot. The loader sets the size. A socket that closes leaves by itself. */
struct {
	NUMBER(type, BPF_MAP_TYPE_XSKMAP);
	NUMBER(max_entries, BYWASH_SLOTS_PER_QUEUE);
	TYPE(key, __u32);
	TYPE(value, __u32);
} xsks MAP;

/* Which flow pools to look into, by queue. The loader sets the size. */
struct {
	NUMBER(type, BPF_MAP_TYPE_ARRAY);
	NUMBER(max_entries, 1);
	NUMBER(map_flags, BPF_F_MMAPABLE);
	TYPE(key, __u32);
	TYPE(value, struct bywash_dirty);
} dirty MAP;

/* Accounts of senders of SYNs. Those not heard of for longest make room; a sender whose account has gone has its whole burst. */
struct {
	NUMBER(type, BPF_MAP_TYPE_LRU_PERCPU_HASH);
	NUMBER(max_entries, 16384);
	TYPE(key, struct bywash_prefix);
	TYPE(value, __u64);
} syn_prefixes MAP;

/* Accounts of the limits that have one each, by BYWASH_LIMIT_*. */
struct {
	NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	NUMBER(max_entries, BYWASH_LIMITS);
	TYPE(key, __u32);
	TYPE(value, __u64);
} accounts MAP;

/* Packets by verdict. */
struct {
	NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	NUMBER(max_entries, BYWASH_COUNTERS);
	TYPE(key, __u32);
	TYPE(value, __u64);
} counters MAP;

#endif
