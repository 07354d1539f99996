// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * The demultiplexer: for each packet that arrives, is it ours, and if so, into which ring?
 *
 *   Ethernet ─> [VLAN tag] ─> IPv4 / IPv6 ─> TCP ports ─> port ours? ─> address ours? ─> TCP sound? ─> flow ─> listener ─> port
 *       │             │            │                        │               │               │          │         │         │
 *       └─────────────┴────────────┴──────── PASS ──────────┴───────────────┘             DROP         └─ REDIRECT to a slot ─┘
 *
 * Three rules:
 *  1. What is not TCP to an address *and* a port of ours is the kernel's: PASS, untouched. That includes everything that is
 *     malformed before its port can be known.
 *  2. What is ours never reaches the kernel, which knows nothing of our connections and would reset them: it is redirected or
 *     dropped, also while no engine lives. A slot without a socket drops.
 *  3. Every packet is counted once, under the reason for its verdict.
 *
 * A slot is an index into the XSKMAP: queue * BYWASH_SLOTS_PER_QUEUE + ring. The kernel delivers only to sockets that are bound to the
 * queue on which the packet came, so a flow whose packets come on another queue than its socket's is handed to the primary socket
 * of the arriving queue; its shard passes it on.
 *
 * Order of look-ups: the port first, as an array look-up is a few instructions and sends nearly all foreign TCP away; then the
 * address and the flow, hash look-ups of 30 ns each.
 *
 * Not seen here: a VLAN tag that the NIC took out of the packet (`ethtool -K DEV rxvlan off` leaves it in), checksums, and
 * anything about connections. The engine checks what it gets once more.
 */
#include "abi.h"

#define MAX_EXTENSIONS 6 /* RFC 8200, section 4.1: each kind once, destination options twice */

/* Promoted and dedicated flows. Preallocated: no allocation here, and never evicted, as an LRU would. The loader sets the size. */
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

/* 1 for a VLAN whose frames are ours. */
struct {
	NUMBER(type, BPF_MAP_TYPE_ARRAY);
	NUMBER(max_entries, 4096);
	TYPE(key, __u32);
	TYPE(value, __u32);
} vlans MAP;

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

/* Packets by verdict. */
struct {
	NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	NUMBER(max_entries, BYWASH_COUNTERS);
	TYPE(key, __u32);
	TYPE(value, __u64);
} counters MAP;

/* The packet's bytes. A pointer into it may be used up to `end`, and the verifier must see each comparison. */
struct frame {
	void *data;
	void *end;
};

/* What IP says about the TCP segment. */
struct segment {
	__u32 offset; /* of the TCP header in the frame */
	__u32 length; /* of header and payload; not beyond the frame's end */
	__u32 first_fragment;
};

/* Result of a step that has found no verdict yet; else a step gives the counter of its verdict. */
#define GO_ON (-1)

INLINE void count(__u32 counter)
{
	__u64 *packets = bpf_map_lookup_elem(&counters, &counter);

	if (packets)
		(*packets)++; /* each CPU has its own */
}

/* Ends a packet that is not redirected. */
INLINE int finish(int counter)
{
	count(counter);
	return counter < REDIRECT_FLOW ? XDP_PASS : XDP_DROP;
}

/* IPv4-mapped IPv6, RFC 4291, section 2.5.5.2. */
INLINE struct bywash_address mapped(__be32 ipv4)
{
	return (struct bywash_address){ { 0, 0, be32(0xffff), ipv4 } };
}

INLINE int is_mapped(const __be32 *words)
{
	return words[0] == 0 && words[1] == 0 && words[2] == be32(0xffff);
}

/* Ethernet and at most one tag. Leaves the type of what follows, and where it starts. */
INLINE int parse_ethernet(const struct frame *frame, __u32 *offset, __u16 *type, __u16 *vlan)
{
	struct ethernet *ethernet = frame->data;
	struct vlan_tag *tag = (void *)(ethernet + 1);
	__u32 *ours, id;

	if ((void *)(ethernet + 1) > frame->end)
		return PASS_NOT_IP;
	if (ethernet->destination[0] & 1)
		return PASS_GROUP_MAC; /* RFC 1122, section 4.2.3.10: never TCP */
	*type = be16(ethernet->type);
	*offset = sizeof(*ethernet);
	*vlan = 0;
	if (*type == ETHERTYPE_SERVICE_TAG)
		return PASS_VLAN_STACKED;
	if (*type != ETHERTYPE_CUSTOMER_TAG)
		return GO_ON;

	if ((void *)(tag + 1) > frame->end)
		return PASS_NOT_IP;
	*type = be16(tag->type);
	*offset += sizeof(*tag);
	if (*type == ETHERTYPE_CUSTOMER_TAG || *type == ETHERTYPE_SERVICE_TAG)
		return PASS_VLAN_STACKED;
	id = be16(tag->control) & VLAN_ID;
	if (id == 0)
		return GO_ON; /* a priority tag names no VLAN (IEEE 802.1Q, 6.9.1): as if untagged */
	ours = bpf_map_lookup_elem(&vlans, &id);
	if (!ours || !*ours)
		return PASS_VLAN_FOREIGN;
	*vlan = id;
	return GO_ON;
}

INLINE int parse_ipv4(const struct frame *frame, __u32 offset, struct bywash_flow_key *key, struct segment *segment)
{
	struct ipv4 *ip = frame->data + offset;
	__u32 header_length, total_length, fragment;

	if ((void *)(ip + 1) > frame->end)
		return PASS_MALFORMED_IP;
	header_length = (ip->version_ihl & 0xf) * 4; /* with options, which are skipped */
	total_length = be16(ip->total_length);
	if (ip->version_ihl >> 4 != 4 || header_length < sizeof(*ip) || total_length < header_length)
		return PASS_MALFORMED_IP;
	/* The frame may be longer, by Ethernet's padding. */
	if (total_length > (__u32)(frame->end - frame->data) - offset)
		return PASS_MALFORMED_IP;
	if (ip->protocol != PROTOCOL_TCP)
		return PASS_NOT_TCP;
	fragment = be16(ip->fragment);
	if (fragment & FRAGMENT_OFFSET)
		return PASS_FRAGMENT;

	key->local = mapped(ip->destination);
	key->remote = mapped(ip->source);
	segment->offset = offset + header_length;
	segment->length = total_length - header_length;
	segment->first_fragment = fragment & FRAGMENT_MORE;
	return GO_ON;
}

/* Walks the extension headers (RFC 8200, section 4) between the IPv6 header and TCP. */
INLINE int walk_extensions(const struct frame *frame, __u8 next, struct segment *segment)
{
	struct ipv6_extension *extension;
	__u32 length;

#pragma unroll
	for (int i = 0; i <= MAX_EXTENSIONS; i++) {
		if (next == PROTOCOL_TCP)
			return GO_ON;
		if (next != PROTOCOL_HOP_BY_HOP && next != PROTOCOL_ROUTING && next != PROTOCOL_DESTINATION_OPTIONS &&
		    next != PROTOCOL_FRAGMENT)
			return PASS_NOT_TCP;
		if (i == MAX_EXTENSIONS)
			break;

		extension = frame->data + segment->offset;
		if (segment->length < sizeof(*extension) || (void *)(extension + 1) > frame->end)
			return PASS_MALFORMED_IP;
		length = sizeof(*extension);
		if (next == PROTOCOL_FRAGMENT) {
			if (be16(extension->fragment) & FRAGMENT_OFFSET_V6)
				return PASS_FRAGMENT;
			/* Also the "atomic" fragment of RFC 6946, which no TCP sends: the stack has no use for it. */
			segment->first_fragment = 1;
		} else {
			length += extension->length * 8;
			if (segment->length < length)
				return PASS_MALFORMED_IP;
			if (next == PROTOCOL_ROUTING && extension->segments_left)
				return PASS_EXTENSIONS; /* we are a router on the way: the kernel's work */
		}
		next = extension->next_header;
		segment->offset += length;
		segment->length -= length;
	}
	return PASS_EXTENSIONS;
}

INLINE int parse_ipv6(const struct frame *frame, __u32 offset, struct bywash_flow_key *key, struct segment *segment)
{
	struct ipv6 *ip = frame->data + offset;

	if ((void *)(ip + 1) > frame->end)
		return PASS_MALFORMED_IP;
	if (ip->version >> 4 != 6)
		return PASS_MALFORMED_IP;
	/* Mapped addresses do not belong on a wire, and would name an IPv4 flow here. */
	if (is_mapped(ip->source) || is_mapped(ip->destination))
		return PASS_MALFORMED_IP;
	segment->offset = offset + sizeof(*ip);
	segment->length = be16(ip->payload_length);
	if (segment->length > (__u32)(frame->end - frame->data) - segment->offset)
		return PASS_MALFORMED_IP;
	__builtin_memcpy(&key->local, ip->destination, sizeof(key->local));
	__builtin_memcpy(&key->remote, ip->source, sizeof(key->remote));
	if (likely(ip->next_header == PROTOCOL_TCP))
		return GO_ON;
	return walk_extensions(frame, ip->next_header, segment);
}

/* Redirects, or drops if the slot is empty: that is what bpf_redirect_map's flags say. */
INLINE int redirect(__u32 slot, __u32 counter)
{
	long action = bpf_redirect_map(&xsks, slot, XDP_DROP);

	count(likely(action == XDP_REDIRECT) ? counter : DROP_EMPTY_SLOT);
	return action;
}

/*
 * Tells user space that the pool has something coming. Stored only if it is not set, so that a busy flow does not take the cache
 * line away from the core that looks at it. The packet is published later, at the end of the NAPI cycle: whoever clears the byte
 * has to look into the ring for that long.
 */
INLINE void mark_dirty(__u32 queue, __u32 slot)
{
	struct bywash_dirty *ours = bpf_map_lookup_elem(&dirty, &queue);
	volatile __u8 *ring;

	if (!ours)
		return;
	ring = &ours->rings[slot & (BYWASH_SLOTS_PER_QUEUE - 1)];
	if (!*ring)
		*ring = 1;
}

/* A sound segment to an address and port of ours. `port` are the port's bits, 0 in the range for active opens. */
INLINE int steer(const struct bywash_config *settings, __u32 queue, const struct bywash_flow_key *key, __u32 port, __u8 flags)
{
	__u32 first_slot = queue * BYWASH_SLOTS_PER_QUEUE;
	struct bywash_flow *flow;

	if (queue >= settings->queues)
		return finish(DROP_NO_SHARD);
	flow = bpf_map_lookup_elem(&flows, key);
	if (flow) {
		if (likely(flow->queue == queue)) {
			if (settings->flags & BYWASH_MARK_DIRTY)
				mark_dirty(queue, flow->slot);
			return redirect(flow->slot, REDIRECT_FLOW);
		}
		return redirect(first_slot + BYWASH_RING_PRIMARY, REDIRECT_OTHER_QUEUE);
	}
	if ((port & BYWASH_PORT_TCP_LISTEN) && (flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		return redirect(first_slot + BYWASH_RING_CONTROL, REDIRECT_SYN);
	return redirect(first_slot + BYWASH_RING_PRIMARY, port ? REDIRECT_PORT : REDIRECT_LOCAL_RANGE);
}

/* Everything behind the IP header, which has been found sound. */
INLINE int demux_tcp(struct xdp_md *context, const struct frame *frame, struct bywash_flow_key *key, const struct segment *segment)
{
	struct tcp *tcp = frame->data + segment->offset;
	struct bywash_config *settings;
	__u32 zero = 0, port, *bits, ours;

	if (segment->length < sizeof(tcp->ports) || (void *)(&tcp->ports + 1) > frame->end)
		return finish(PASS_MALFORMED_IP);
	port = be16(tcp->ports.destination);
	bits = bpf_map_lookup_elem(&ports, &port);
	settings = bpf_map_lookup_elem(&config, &zero);
	if (!bits || !settings || port == 0)
		return finish(PASS_NOT_OUR_PORT);
	ours = *bits;
	if (!ours && (port < settings->local_port_first || port > settings->local_port_last))
		return finish(PASS_NOT_OUR_PORT);
	if (!bpf_map_lookup_elem(&addresses, &key->local))
		return finish(PASS_NOT_OUR_ADDRESS);

	/* Ours: from here on the kernel must not see it. */
	if (unlikely(segment->first_fragment))
		return finish(DROP_FIRST_FRAGMENT);
	if (segment->length < sizeof(*tcp) || (void *)(tcp + 1) > frame->end)
		return finish(DROP_TCP_TRUNCATED);
	if (tcp->data_offset >> 4 < 5 || (tcp->data_offset >> 4) * 4 > segment->length)
		return finish(DROP_TCP_DATA_OFFSET);
	if (tcp->ports.source == 0)
		return finish(DROP_TCP_PORT_ZERO);
	key->local_port = tcp->ports.destination;
	key->remote_port = tcp->ports.source;
	key->protocol = PROTOCOL_TCP;
	return steer(settings, context->rx_queue_index, key, ours, tcp->flags);
}

/*
 * Section "xdp", not "xdp.frags": the AF_XDP sockets take packets of one buffer, and with this section the kernel refuses an MTU
 * that needs more. A later issue takes larger ones.
 */
SECTION("xdp")
int demux(struct xdp_md *context)
{
	struct frame frame = { (void *)(long)context->data, (void *)(long)context->data_end };
	struct bywash_flow_key key = {};
	struct segment segment = {};
	__u32 offset;
	__u16 type;
	int verdict;

	verdict = parse_ethernet(&frame, &offset, &type, &key.vlan);
	if (verdict != GO_ON)
		return finish(verdict);
	if (type == ETHERTYPE_IPV4)
		verdict = parse_ipv4(&frame, offset, &key, &segment);
	else if (type == ETHERTYPE_IPV6)
		verdict = parse_ipv6(&frame, offset, &key, &segment);
	else
		verdict = PASS_NOT_IP;
	if (verdict != GO_ON)
		return finish(verdict);
	return demux_tcp(context, &frame, &key, &segment);
}

/* The helpers used here do not ask for the GPL. */
char licence[] SECTION("license") = "MIT OR Apache-2.0";
