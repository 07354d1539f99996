/*
 * From a frame to the TCP segment in it, without a map: Ethernet ─> [tags] ─> IPv4 / IPv6 [extensions] ─> TCP or ICMP.
 *
 * A step answers GO_ON or the counter of the packet's verdict. bywash-wire's `decode` does the same for the engine; where the two
 * differ is written down in tests/xdp/tests/differential.rs, which compares them.
 */
#ifndef BYWASH_PARSE_H
#define BYWASH_PARSE_H

#include "abi.h"

#define MAX_EXTENSIONS 6 /* RFC 8200, section 4.1: each kind once, destination options twice */

#define GO_ON (-1)

/* The packet's bytes. A pointer into it may be used up to `end`, and the verifier must see each comparison. */
struct frame {
	void *data;
	void *end;
};

/* What IP says about its payload. */
struct segment {
	__u32 offset; /* in the frame */
	__u32 length; /* not beyond the frame's end */
	__u32 first_fragment;
	__u32 protocol; /* TCP, ICMP or ICMPv6 */
};

/* IPv4-mapped IPv6, RFC 4291, section 2.5.5.2. */
INLINE struct bywash_address mapped(__be32 ipv4)
{
	return (struct bywash_address){ { 0, 0, be32(0xffff), ipv4 } };
}

INLINE int is_mapped(const __be32 *words)
{
	return words[0] == 0 && words[1] == 0 && words[2] == be32(0xffff);
}

INLINE int is_tag(__u16 type)
{
	return type == ETHERTYPE_CUSTOMER_TAG || type == ETHERTYPE_SERVICE_TAG;
}

/* One tag: a customer's or a service's. Two: a service's with a customer's inside (IEEE 802.1ad). Nothing else is known. */
INLINE int parse_tags(const struct frame *frame, __u32 *offset, __u16 *type, __u32 *tags)
{
	struct vlan_tag *tag = frame->data + sizeof(struct ethernet);
	__u16 outer = *type;

	if ((void *)(tag + 1) > frame->end)
		return PASS_NOT_IP;
	*type = be16(tag->type);
	*offset += sizeof(*tag);
	/* Identifier 0, a priority tag, names no VLAN (IEEE 802.1Q, 6.9.1): as if the tag were not there. */
	*tags = be16(tag->control) & VLAN_ID;
	if (outer == ETHERTYPE_SERVICE_TAG) {
		*tags <<= 12;
		if (*type == ETHERTYPE_CUSTOMER_TAG) {
			tag++;
			if ((void *)(tag + 1) > frame->end)
				return PASS_NOT_IP;
			*type = be16(tag->type);
			*offset += sizeof(*tag);
			*tags |= be16(tag->control) & VLAN_ID;
		}
	}
	return is_tag(*type) ? PASS_VLAN_STACKED : GO_ON;
}

/* Ethernet and its tags. Leaves the type of what follows, and where it starts; `tags` is 0 for a frame without a VLAN. */
INLINE int parse_ethernet(const struct frame *frame, __u32 *offset, __u16 *type, __u32 *tags)
{
	struct ethernet *ethernet = frame->data;

	if ((void *)(ethernet + 1) > frame->end)
		return PASS_NOT_IP;
	if (ethernet->destination[0] & 1)
		return PASS_GROUP_MAC; /* RFC 1122, section 4.2.3.10: never TCP */
	*type = be16(ethernet->type);
	*offset = sizeof(*ethernet);
	*tags = 0;
	if (likely(!is_tag(*type)))
		return GO_ON;
	return parse_tags(frame, offset, type, tags);
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
	if (ip->protocol != PROTOCOL_TCP && ip->protocol != PROTOCOL_ICMP)
		return PASS_NOT_TCP;
	fragment = be16(ip->fragment);
	if (fragment & FRAGMENT_OFFSET)
		return PASS_FRAGMENT;

	key->local = mapped(ip->destination);
	key->remote = mapped(ip->source);
	segment->offset = offset + header_length;
	segment->length = total_length - header_length;
	segment->first_fragment = fragment & FRAGMENT_MORE;
	segment->protocol = ip->protocol;
	return GO_ON;
}

/* Walks the extension headers (RFC 8200, section 4) between the IPv6 header and TCP or ICMP. */
INLINE int walk_extensions(const struct frame *frame, __u8 next, struct segment *segment)
{
	struct ipv6_extension *extension;
	__u32 length;

#pragma unroll
	for (int i = 0; i <= MAX_EXTENSIONS; i++) {
		if (next == PROTOCOL_TCP || next == PROTOCOL_ICMPV6) {
			segment->protocol = next;
			return GO_ON;
		}
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
	segment->protocol = PROTOCOL_TCP;
	if (likely(ip->next_header == PROTOCOL_TCP))
		return GO_ON;
	return walk_extensions(frame, ip->next_header, segment);
}

/* Leaves the addresses, and in `segment` where their payload is. */
INLINE int parse_ip(const struct frame *frame, __u32 offset, __u16 type, struct bywash_flow_key *key, struct segment *segment)
{
	if (type == ETHERTYPE_IPV4)
		return parse_ipv4(frame, offset, key, segment);
	if (type == ETHERTYPE_IPV6)
		return parse_ipv6(frame, offset, key, segment);
	return PASS_NOT_IP;
}

/* The TCP header up to its ports, if they are there. */
INLINE struct tcp *parse_ports(const struct frame *frame, const struct segment *segment)
{
	struct tcp *tcp = frame->data + segment->offset;

	if (segment->length < sizeof(tcp->ports) || (void *)(&tcp->ports + 1) > frame->end)
		return NULL;
	return tcp;
}

/* The rest of the header. */
INLINE int check_tcp(const struct frame *frame, const struct segment *segment, const struct tcp *tcp)
{
	if (unlikely(segment->first_fragment))
		return DROP_FIRST_FRAGMENT;
	if (segment->length < sizeof(*tcp) || (void *)(tcp + 1) > frame->end)
		return DROP_TCP_TRUNCATED;
	if (tcp->data_offset >> 4 < 5 || (tcp->data_offset >> 4) * 4 > segment->length)
		return DROP_TCP_DATA_OFFSET;
	if (tcp->ports.source == 0)
		return DROP_TCP_PORT_ZERO;
	return GO_ON;
}

/* Completes a key that has its addresses. */
INLINE void name_flow(struct bywash_flow_key *key, const struct tcp *tcp, __u32 tags)
{
	key->local_port = tcp->ports.destination;
	key->remote_port = tcp->ports.source;
	key->link = PROTOCOL_TCP << 24 | tags;
}

/* The IPv4 TCP packet that an ICMP error quotes: its source and ports. NULL: nothing of the kind. */
INLINE struct tcp_ports *quoted_ipv4(const struct frame *frame, __u32 offset, __u32 length, struct bywash_address *source)
{
	struct ipv4 *ip = frame->data + offset;
	struct tcp_ports *ports;
	__u32 header_length;

	if (length < sizeof(*ip) || (void *)(ip + 1) > frame->end)
		return NULL;
	header_length = (ip->version_ihl & 0xf) * 4;
	if (ip->version_ihl >> 4 != 4 || header_length < sizeof(*ip) || ip->protocol != PROTOCOL_TCP ||
	    (be16(ip->fragment) & FRAGMENT_OFFSET))
		return NULL;
	/* RFC 792: the header and 64 bits of what follows it. */
	ports = frame->data + offset + header_length;
	if (length < header_length + 2 * sizeof(*ports) || (void *)(ports + 2) > frame->end)
		return NULL;
	*source = mapped(ip->source);
	return ports;
}

/* The same for IPv6. We send no extension headers, so a quotation that has some is not of ours. */
INLINE struct tcp_ports *quoted_ipv6(const struct frame *frame, __u32 offset, __u32 length, struct bywash_address *source)
{
	struct ipv6 *ip = frame->data + offset;
	struct tcp_ports *ports = (void *)(ip + 1);

	if (length < sizeof(*ip) + 2 * sizeof(*ports) || (void *)(ports + 2) > frame->end)
		return NULL;
	if (ip->version >> 4 != 6 || ip->next_header != PROTOCOL_TCP)
		return NULL;
	__builtin_memcpy(source, ip->source, sizeof(*source));
	return ports;
}

/* The ports of the TCP packet that an ICMP error quotes, if it is one that `local`, to whom the error is sent, has sent. */
INLINE struct tcp_ports *parse_icmp(const struct frame *frame, const struct segment *segment, const struct bywash_address *local)
{
	struct icmp *icmp = frame->data + segment->offset;
	struct bywash_address source = {};
	struct tcp_ports *ports;
	__u32 offset, length;

	if (segment->first_fragment || segment->length < sizeof(*icmp) || (void *)(icmp + 1) > frame->end)
		return NULL;
	offset = segment->offset + sizeof(*icmp);
	length = segment->length - sizeof(*icmp);
	if (segment->protocol == PROTOCOL_ICMP) {
		if (icmp->type != ICMP_UNREACHABLE && icmp->type != ICMP_TIME_EXCEEDED && icmp->type != ICMP_PARAMETER_PROBLEM)
			return NULL;
		ports = quoted_ipv4(frame, offset, length, &source);
	} else {
		if (icmp->type < ICMPV6_UNREACHABLE || icmp->type > ICMPV6_PARAMETER_PROBLEM)
			return NULL;
		ports = quoted_ipv6(frame, offset, length, &source);
	}
	if (!ports || source.words[0] != local->words[0] || source.words[1] != local->words[1] ||
	    source.words[2] != local->words[2] || source.words[3] != local->words[3])
		return NULL;
	/* No segment of ours has port 0 (RFC 6335, section 6). */
	if (!ports->source || !ports->destination)
		return NULL;
	return ports;
}

#endif
