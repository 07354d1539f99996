/*
 * The little of the kernel's interface that the program needs: types, map and program numbers, helpers, headers on the wire.
 * Written out here so that the object depends on nothing that is installed: the same clang gives the same bytes anywhere.
 * Numbers are those of Linux's <linux/bpf.h>, <linux/if_ether.h> and <linux/in.h>, which never change.
 */
#ifndef BYWASH_KERNEL_H
#define BYWASH_KERNEL_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef __u16 __be16; /* big endian, as on the wire */
typedef __u32 __be32;

#define NULL ((void *)0)
#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define likely(condition) __builtin_expect(!!(condition), 1)
#define unlikely(condition) __builtin_expect(!!(condition), 0)

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define be16(value) __builtin_bswap16(value)
#define be32(value) __builtin_bswap32(value)
#else
#define be16(value) (value)
#define be32(value) (value)
#endif

/* BPF */

#define XDP_DROP 1
#define XDP_PASS 2
#define XDP_REDIRECT 4

struct xdp_md {
	__u32 data;
	__u32 data_end;
	__u32 data_meta;
	__u32 ingress_ifindex;
	__u32 rx_queue_index;
	__u32 egress_ifindex;
};

#define BPF_MAP_TYPE_HASH 1
#define BPF_MAP_TYPE_ARRAY 2
#define BPF_MAP_TYPE_PERCPU_ARRAY 6
#define BPF_MAP_TYPE_LRU_PERCPU_HASH 10
#define BPF_MAP_TYPE_XSKMAP 17

#define BPF_ANY 0
#define BPF_F_MMAPABLE 1024 /* Linux 5.5 */

/* A map's attributes are read from the types of its members (BTF): the values of NUMBER lie in an array's length. */
#define NUMBER(name, value) int(*name)[value]
#define TYPE(name, value) typeof(value) *name
#define MAP SECTION(".maps")

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;
static long (*const bpf_xdp_adjust_head)(struct xdp_md *context, int delta) = (void *)44;
static __u64 (*const bpf_ktime_get_coarse_ns)(void) = (void *)160; /* Linux 5.11 */
static long (*const bpf_redirect_map)(void *map, __u64 index, __u64 flags) = (void *)51;

/* Ethernet */

#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_IPV6 0x86dd
#define ETHERTYPE_CUSTOMER_TAG 0x8100 /* IEEE 802.1Q */
#define ETHERTYPE_SERVICE_TAG 0x88a8  /* IEEE 802.1ad */
#define VLAN_ID 0x0fff

struct ethernet {
	__u8 destination[6];
	__u8 source[6];
	__be16 type;
};

struct vlan_tag {
	__be16 control; /* priority 3 bits, DEI 1, identifier 12 */
	__be16 type;
};

/* IP */

#define PROTOCOL_HOP_BY_HOP 0
#define PROTOCOL_ICMP 1
#define PROTOCOL_TCP 6
#define PROTOCOL_ROUTING 43
#define PROTOCOL_FRAGMENT 44
#define PROTOCOL_ICMPV6 58
#define PROTOCOL_DESTINATION_OPTIONS 60

#define FRAGMENT_MORE 0x2000   /* IPv4: more fragments */
#define FRAGMENT_OFFSET 0x1fff /* IPv4: in units of 8 bytes */
#define FRAGMENT_OFFSET_V6 0xfff8

struct ipv4 {
	__u8 version_ihl; /* header length in words of 32 bits */
	__u8 tos;
	__be16 total_length;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__be16 checksum;
	__be32 source;
	__be32 destination;
};

struct ipv6 {
	__u8 version; /* and half of the traffic class */
	__u8 flow[3];
	__be16 payload_length;
	__u8 next_header;
	__u8 hop_limit;
	__be32 source[4];
	__be32 destination[4];
};

/* The first 8 bytes of every extension header that the program walks; `detail` is the fragment header's offset and flag. */
struct ipv6_extension {
	__u8 next_header;
	__u8 length; /* in units of 8 bytes, the first 8 not counted; a fragment header always has 8 bytes */
	union {
		__be16 fragment;
		struct {
			__u8 routing_type;
			__u8 segments_left;
		};
	};
	__u32 rest;
};

/* ICMP: errors that quote the packet they are about. Redirects quote as well, but are about a route: the kernel's. */

#define ICMP_UNREACHABLE 3
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER_PROBLEM 12
#define ICMPV6_UNREACHABLE 1
#define ICMPV6_PARAMETER_PROBLEM 4 /* 2 is packet too big, 3 is time exceeded */

struct icmp {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 rest; /* then the quoted packet, from its IP header on */
};

/* TCP */

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

struct tcp_ports {
	__be16 source;
	__be16 destination;
};

struct tcp {
	struct tcp_ports ports;
	__be32 sequence;
	__be32 acknowledgment;
	__u8 data_offset; /* upper 4 bits: header length in words of 32 bits */
	__u8 flags;
	__be16 window;
	__be16 checksum;
	__be16 urgent;
};

_Static_assert(sizeof(struct ethernet) == 14 && sizeof(struct vlan_tag) == 4, "wire layout");
_Static_assert(sizeof(struct ipv4) == 20 && sizeof(struct ipv6) == 40 && sizeof(struct ipv6_extension) == 8, "wire layout");
_Static_assert(sizeof(struct icmp) == 8 && sizeof(struct tcp) == 20, "wire layout");

#endif
