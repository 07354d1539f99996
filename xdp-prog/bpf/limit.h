/*
 * Rate limits: a token bucket of one word, as the generic cell rate algorithm (ITU-T I.371) keeps it.
 *
 *   account: when the next packet would be due if all came evenly
 *
 *        now            due
 *   ──────┼──────────────┼──────> time     within `burst`: the packet passes, and due moves on by `interval`
 *         └── <= burst ──┘                 beyond it: the packet is dropped, and due stays
 *
 * The clock is the kernel's coarse one, which moves with its timer tick, each 1 to 10 ms: it costs 2 ns where the exact one costs
 * 37 on a virtual machine. So a burst has to last for a tick at least; the loader sees to it. An account belongs to one CPU.
 */
#ifndef BYWASH_LIMIT_H
#define BYWASH_LIMIT_H

#include "maps.h"
#include "parse.h"

/* True: the packet is to be dropped. */
INLINE int charge(__u64 *due, __u64 now, const struct bywash_limit *limit)
{
	__u64 ahead = *due - now;

	/* In the past: the bucket is full. Further ahead than this limit can bring it: it was another limit's, since replaced. */
	if (*due < now || ahead > limit->burst + limit->interval)
		ahead = 0;
	if (ahead > limit->burst)
		return 1;
	*due = now + ahead + limit->interval;
	return 0;
}

INLINE int is_over(const struct bywash_config *settings, __u32 which, __u64 now)
{
	const struct bywash_limit *limit = &settings->limits[which];
	__u64 *due;

	if (!limit->interval)
		return 0;
	due = bpf_map_lookup_elem(&accounts, &which);
	return due && charge(due, now, limit);
}

INLINE struct bywash_prefix prefix_of(const struct bywash_address *address)
{
	const __be32 *words = address->words;

	if (is_mapped(words))
		return (struct bywash_prefix){ { be32(0xffffffff), words[3] & be32(0xffffff00) } };
	return (struct bywash_prefix){ { words[0], words[1] } };
}

/*
 * Counter of the limit that a SYN is beyond, or GO_ON. The sender's own comes first: who is over it takes nothing from others. A
 * sender without an account gets one last, when its SYN passes: that takes 400 ns, and a flood from everywhere has only new senders.
 */
INLINE int limit_syn(const struct bywash_config *settings, const struct bywash_address *remote)
{
	const struct bywash_limit *limit = &settings->limits[BYWASH_LIMIT_SYN_PREFIX];
	struct bywash_prefix prefix = prefix_of(remote);
	__u64 now = bpf_ktime_get_coarse_ns();
	__u64 *due = NULL, first;

	if (limit->interval)
		due = bpf_map_lookup_elem(&syn_prefixes, &prefix);
	if (due && charge(due, now, limit))
		return DROP_SYN_PREFIX_LIMIT;
	if (is_over(settings, BYWASH_LIMIT_SYN, now))
		return DROP_SYN_LIMIT;
	if (limit->interval && !due) {
		first = now + limit->interval;
		/* The table makes room by itself; if it fails all the same, one more SYN of this sender passes. */
		bpf_map_update_elem(&syn_prefixes, &prefix, &first, BPF_ANY);
	}
	return GO_ON;
}

#endif
