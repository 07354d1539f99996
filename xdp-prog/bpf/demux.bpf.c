// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * The demultiplexer: for each packet that arrives, is it ours, and if so, into which ring?
 *
 *   Ethernet ─> [tags] ─> IPv4 / IPv6 ─> TCP ports ─> port ours? ─> address ours? ─> TCP sound? ─> flow ─> listener ─> port
 *       │         │            │   │                      │               │               │         │         │         │
 *       └─────────┴────────────┴───│───── PASS ───────────┴───────────────┘             DROP        └─ REDIRECT to a slot ─┘
 *                                  └─> ICMP error ─> quotes a segment of ours? ─────────────────────────────────┘
 *
 * Four rules:
 *  1. What is not TCP to an address *and* a port of ours is the kernel's: PASS, untouched. That includes everything that is
 *     malformed before its port can be known.
 *  2. What is ours never reaches the kernel, which knows nothing of our connections and would reset them: it is redirected or
 *     dropped, also while no engine lives. A slot without a socket drops.
 *  3. Every packet is counted once, under the reason for its verdict.
 *  4. What strangers send costs no more than the configured rates: SYNs, and what else a limit of abi.h names.
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
#include "maps.h"
#include "parse.h"
#include "limit.h"

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

INLINE int vlan_is_ours(__u32 tags)
{
	__u32 service = tags >> 12 & VLAN_ID, customer = tags & VLAN_ID;
	__u32 outer = service ? service : customer;
	__u32 *bits = bpf_map_lookup_elem(&vlans, &outer);

	if (!bits)
		return 0;
	if (!service)
		return *bits & BYWASH_VLAN_CUSTOMER;
	if (!customer)
		return *bits & BYWASH_VLAN_SERVICE;
	return (*bits & BYWASH_VLAN_STACKED) && bpf_map_lookup_elem(&vlan_pairs, &tags);
}

/* Whether a port is ours. `bits` are the port's, 0 in the range for active opens. */
INLINE int port_is_ours(const struct bywash_config *settings, __u32 port, __u32 *bits)
{
	__u32 *found = bpf_map_lookup_elem(&ports, &port);

	if (!found || port == 0)
		return 0;
	*bits = *found;
	return *bits || (port >= settings->local_port_first && port <= settings->local_port_last);
}

/*
 * BYWASH_STRICT: a segment of no flow in the table. A listener that answers by SYN cookies knows no flow before the handshake's
 * last segment, so what could be that one passes at a limited rate. SYNs have their own limits.
 */
INLINE int judge_stranger(const struct bywash_config *settings, __u32 port, __u8 flags)
{
	if ((flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		return GO_ON;
	if (!(port & BYWASH_PORT_TCP_LISTEN) || (flags & (TCP_SYN | TCP_RST | TCP_FIN | TCP_ACK)) != TCP_ACK)
		return DROP_NO_FLOW;
	return is_over(settings, BYWASH_LIMIT_ACK, bpf_ktime_get_coarse_ns()) ? DROP_ACK_LIMIT : GO_ON;
}

/* A sound segment to an address and port of ours. */
INLINE int steer(const struct bywash_config *settings, __u32 queue, const struct bywash_flow_key *key, __u32 port, __u8 flags)
{
	__u32 first_slot = queue * BYWASH_SLOTS_PER_QUEUE;
	struct bywash_flow *flow;
	int verdict;

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
	if ((port & BYWASH_PORT_TCP_LISTEN) && (flags & (TCP_SYN | TCP_ACK)) == TCP_SYN) {
		verdict = limit_syn(settings, &key->remote);
		if (verdict != GO_ON)
			return finish(verdict);
		return redirect(first_slot + BYWASH_RING_CONTROL, REDIRECT_SYN);
	}
	if (settings->flags & BYWASH_STRICT) {
		verdict = judge_stranger(settings, port, flags);
		if (verdict != GO_ON)
			return finish(verdict);
	}
	return redirect(first_slot + BYWASH_RING_PRIMARY, port ? REDIRECT_PORT : REDIRECT_LOCAL_RANGE);
}

/* A TCP segment whose IP header has been found sound. */
INLINE int demux_tcp(const struct bywash_config *settings, __u32 queue, const struct frame *frame, struct bywash_flow_key *key,
		     const struct segment *segment, __u32 tags)
{
	struct tcp *tcp = parse_ports(frame, segment);
	__u32 port;
	int verdict;

	if (!tcp)
		return finish(PASS_MALFORMED_IP);
	if (!port_is_ours(settings, be16(tcp->ports.destination), &port))
		return finish(PASS_NOT_OUR_PORT);
	if (!bpf_map_lookup_elem(&addresses, &key->local))
		return finish(PASS_NOT_OUR_ADDRESS);

	/* Ours: from here on the kernel must not see it. */
	verdict = check_tcp(frame, segment, tcp);
	if (verdict != GO_ON)
		return finish(verdict);
	name_flow(key, tcp, tags);
	return steer(settings, queue, key, port, tcp->flags);
}

/* ICMP. An error about a segment from a port of ours is for the engine (path MTU, unreachable peers); the rest is the kernel's. */
INLINE int demux_icmp(const struct bywash_config *settings, __u32 queue, const struct frame *frame, struct bywash_flow_key *key,
		      const struct segment *segment)
{
	struct tcp_ports *quoted = parse_icmp(frame, segment, &key->local);
	__u32 port;

	if (!quoted || !port_is_ours(settings, be16(quoted->source), &port) || !bpf_map_lookup_elem(&addresses, &key->local))
		return finish(PASS_NOT_TCP);
	if (queue >= settings->queues)
		return finish(DROP_NO_SHARD);
	if (is_over(settings, BYWASH_LIMIT_ICMP, bpf_ktime_get_coarse_ns()))
		return finish(DROP_ICMP_LIMIT);
	/* The flow's own shard, if that is another, is the arriving queue's to find, as for segments. */
	return redirect(queue * BYWASH_SLOTS_PER_QUEUE + BYWASH_RING_PRIMARY, REDIRECT_ICMP);
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
	struct bywash_config *settings;
	__u32 offset, tags, zero = 0;
	__u16 type;
	int verdict;

	verdict = parse_ethernet(&frame, &offset, &type, &tags);
	if (verdict != GO_ON)
		return finish(verdict);
	if (unlikely(tags) && !vlan_is_ours(tags))
		return finish(PASS_VLAN_FOREIGN);
	verdict = parse_ip(&frame, offset, type, &key, &segment);
	if (verdict != GO_ON)
		return finish(verdict);
	settings = bpf_map_lookup_elem(&config, &zero);
	if (!settings)
		return finish(PASS_NOT_OUR_PORT); /* never: an array has all of its entries */
	if (unlikely(segment.protocol != PROTOCOL_TCP))
		return demux_icmp(settings, context->rx_queue_index, &frame, &key, &segment);
	return demux_tcp(settings, context->rx_queue_index, &frame, &key, &segment, tags);
}

/*
 * For tests only, never attached: what `demux` would go by, put in front of the packet, so that a test can compare it with the
 * engine's own parser. Ports, addresses, VLANs and queues do not matter here.
 */
SECTION("xdp")
int parse(struct xdp_md *context)
{
	struct frame frame = { (void *)(long)context->data, (void *)(long)context->data_end };
	struct bywash_parsed parsed = {}, *out;
	struct segment segment = {};
	struct tcp *tcp;
	__u32 offset, tags;
	__u16 type;
	int verdict;

	verdict = parse_ethernet(&frame, &offset, &type, &tags);
	if (verdict == GO_ON)
		verdict = parse_ip(&frame, offset, type, &parsed.key, &segment);
	if (verdict == GO_ON && segment.protocol != PROTOCOL_TCP)
		verdict = PASS_NOT_TCP;
	if (verdict == GO_ON) {
		tcp = parse_ports(&frame, &segment);
		verdict = tcp ? check_tcp(&frame, &segment, tcp) : PASS_MALFORMED_IP;
		if (tcp && verdict == GO_ON) {
			name_flow(&parsed.key, tcp, tags);
			verdict = tcp->ports.destination ? BYWASH_PARSED : PASS_NOT_OUR_PORT;
		}
	}
	parsed.verdict = verdict;
	parsed.offset = segment.offset;
	parsed.length = segment.length;
	if (bpf_xdp_adjust_head(context, -(int)sizeof(parsed)))
		return XDP_DROP;
	out = (void *)(long)context->data;
	if ((void *)(out + 1) > (void *)(long)context->data_end)
		return XDP_DROP;
	*out = parsed;
	return XDP_PASS;
}

/* The helpers used here do not ask for the GPL. */
char licence[] SECTION("license") = "MIT OR Apache-2.0";
