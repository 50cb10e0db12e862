// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What the packet programs are tried with and measured against; no part of the agent. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

SEC("xdp")
int yardstick_xdp(struct xdp_md *xdp) {
    return XDP_PASS;
}

SEC("tcx/ingress")
int yardstick_ingress(struct __sk_buff *skb) {
    return -1; /* TCX_NEXT */
}

SEC("tcx/egress")
int yardstick_egress(struct __sk_buff *skb) {
    return -1;
}

/* For frames that are let in: each is of the next of so many connections. */
__u32 flows = 1;
__u32 verdict = XDP_PASS; /* in, or (XDP_TX) out */
__u32 next_flow;

SEC("xdp")
int yardstick_vary(struct xdp_md *xdp) {
    void *data = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;

    if (data + 30 > end)
        return XDP_PASS;
    next_flow = next_flow + 1 < flows ? next_flow + 1 : 0;
    *(__u16 *)(data + 28) = next_flow; /* the lower half of IPv4's source */
    return verdict;
}

/* The least that counts by the same keys: addresses and ports of IPv4 without options, straight from the
 * frame. */
struct five {
    __u32 source, destination;
    __u32 ports;
    __u32 protocol;
};

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __type(key, struct five);
    __type(value, __u64[2]);
    __uint(max_entries, 65536);
} yardstick_flows SEC(".maps");

SEC("tcx/ingress")
int yardstick_counter(struct __sk_buff *skb) {
    void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
    struct five key;

    if (data + 38 > end)
        return -1;
    key.source = *(__u32 *)(data + 26);
    key.destination = *(__u32 *)(data + 30);
    key.ports = *(__u32 *)(data + 34);
    key.protocol = *(__u8 *)(data + 23);
    __u64 *count = bpf_map_lookup_elem(&yardstick_flows, &key);
    if (count) {
        __sync_fetch_and_add(&count[0], 1);
        __sync_fetch_and_add(&count[1], skb->len);
    } else {
        __u64 first[2] = {1, skb->len};
        bpf_map_update_elem(&yardstick_flows, &key, &first, BPF_ANY);
    }
    return -1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
