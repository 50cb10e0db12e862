// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The first request's hold: while a Service has no endpoint, what refuses a pod's attempt to connect to it is
 * dropped on the last step to the pod, and the SYN is kept, so that it can be sent again when there is an
 * endpoint.
 *
 * Whatever these programs do not know exactly, they pass. Without a lease that user space renews they pass
 * all.
 */
#include "kernel.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "hold.h"

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define ETH_HEADER 14

#define TC_NEXT (-1) /* TCX_NEXT and TC_ACT_UNSPEC: whoever comes behind us decides */
#define TC_DROP 2

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define PROTOCOL_ICMP 1
#define PROTOCOL_TCP 6
#define PROTOCOL_ICMPV6 58

#define ICMP_UNREACHABLE 3
#define ICMP_FRAGMENTATION_NEEDED 4 /* a code of it that refuses nothing */
#define ICMPV6_UNREACHABLE 1

/* States of a TCP socket. */
#define STATE_SYN_SENT 2
#define STATE_CLOSE 7

const volatile __u32 attempts_per_pod = 1024;

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __type(key, struct hold_address);
    __type(value, struct hold_terms);
    __uint(max_entries, HOLD_ADDRESSES);
} hold_addresses SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __type(key, struct hold_key);
    __type(value, struct hold_attempt);
    __uint(max_entries, 16384); /* set by user space */
} hold_attempts SEC(".maps");

/* By interface: attempts begun, written here only; attempts forgotten, written by user space only. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __type(key, __u32);
    __type(value, __u64);
    __uint(max_entries, HOLD_PODS);
} hold_begun SEC(".maps"), hold_ended SEC(".maps");

/* Until when user space answers for what is held back. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __type(key, __u32);
    __type(value, __u64);
    __uint(max_entries, 1);
} hold_lease SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __type(key, __u32);
    __type(value, __u64);
    __uint(max_entries, HOLD_TALLIES);
} hold_tallies SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 1 << 20);
} hold_events SEC(".maps");

static __always_inline void tally(__u32 which) {
    __u64 *count = bpf_map_lookup_elem(&hold_tallies, &which);
    if (count)
        __sync_fetch_and_add(count, 1);
}

static __always_inline bool has_lease(__u64 now) {
    __u32 zero = 0;
    __u64 *until = bpf_map_lookup_elem(&hold_lease, &zero);
    if (until && now < *until)
        return true;
    tally(HOLD_LEASE_OVER);
    return false;
}

static __always_inline void submit(__u32 kind, const struct hold_key *key, const struct hold_attempt *attempt,
                                   __u64 now) {
    struct hold_event *event = bpf_ringbuf_reserve(&hold_events, sizeof(*event), 0);
    if (!event) { /* user space looks through the table when it sees this count rise */
        tally(HOLD_NO_EVENT);
        return;
    }
    event->at_ns = now;
    event->until_ns = attempt->until_ns;
    event->cookie = attempt->cookie;
    event->key = *key;
    event->isn = attempt->isn;
    event->kind = kind;
    bpf_ringbuf_submit(event, 0);
}

static __always_inline void map_ipv4(__u8 *to, __be32 address) {
    __u32 *words = (__u32 *)to;
    words[0] = 0;
    words[1] = 0;
    words[2] = bpf_htonl(0xffff);
    words[3] = address;
}

struct ipv4 {
    __u8 version_length, tos;
    __be16 length, id, fragment;
    __u8 ttl, protocol;
    __be16 checksum;
    __be32 source, destination;
};

struct ipv6 {
    __be32 version_class_flow;
    __be16 length;
    __u8 next, hops;
    __u8 source[16], destination[16];
};

struct tcp {
    __be16 source, destination;
    __be32 sequence, acknowledgement;
    __u8 offset, flags;
};

struct icmp {
    __u8 type, code;
    __be16 checksum;
    __be32 unused;
};

/* Both families' headers, of the packet or of the one an ICMP error quotes. */
union ip {
    struct ipv4 v4;
    struct ipv6 v6;
};

/* Where the transport's header begins, and its protocol; 0: none that matters here. */
static __always_inline __u32 read_ip(struct __sk_buff *skb, __u32 at, bool six, union ip *ip,
                                     __u8 *protocol) {
    if (six) {
        /* A kernel's own SYN, RST or ICMPv6 error has no header between these. */
        if (bpf_skb_load_bytes(skb, at, &ip->v6, sizeof(ip->v6)))
            return 0;
        *protocol = ip->v6.next;
        return at + sizeof(ip->v6);
    }
    if (bpf_skb_load_bytes(skb, at, &ip->v4, sizeof(ip->v4)) || ip->v4.fragment & bpf_htons(0x1fff))
        return 0;
    *protocol = ip->v4.protocol;
    return at + (ip->v4.version_length & 0xf) * 4;
}

static __always_inline void ends(const union ip *ip, bool six, __u8 *source, __u8 *destination) {
    if (six) {
        __builtin_memcpy(source, ip->v6.source, 16);
        __builtin_memcpy(destination, ip->v6.destination, 16);
    } else {
        map_ipv4(source, ip->v4.source);
        map_ipv4(destination, ip->v4.destination);
    }
}

/* The flags of a packet's TCP header, without more reading than that takes: all of a pod's traffic passes
 * here while anything is held. 0: not TCP, or not to be had cheaply. */
static __always_inline __u32 quick_flags(struct __sk_buff *skb, bool six) {
    void *data = (void *)(long)skb->data + ETH_HEADER, *end = (void *)(long)skb->data_end;
    const struct tcp *tcp = data + (six ? sizeof(struct ipv6) : sizeof(struct ipv4));

    if ((void *)(tcp + 1) > end)
        return 0;
    if (six) {
        const struct ipv6 *ip = data;
        if (ip->next != PROTOCOL_TCP)
            return 0;
    } else {
        const struct ipv4 *ip = data;
        if (ip->protocol != PROTOCOL_TCP || ip->version_length != 0x45)
            return 0;
    }
    return tcp->flags;
}

static __always_inline bool is_ip(const struct __sk_buff *skb, bool *six) {
    *six = skb->protocol == bpf_htons(ETH_P_IPV6);
    return *six || skb->protocol == bpf_htons(ETH_P_IP);
}

static __always_inline struct hold_terms *terms_of(const struct hold_key *key) {
    struct hold_address address = {.port = key->service_port};
    __builtin_memcpy(address.address, key->service, 16);
    return bpf_map_lookup_elem(&hold_addresses, &address);
}

/* Copies the SYN's headers; its length. */
static __always_inline __u16 copy_syn(struct __sk_buff *skb, __u8 *to, __u32 len) {
    barrier_var(len);
    if (len - 1 >= HOLD_SYN)
        return 0;
    barrier_var(len);
    return bpf_skb_load_bytes(skb, 0, to, ((len - 1) & (HOLD_SYN - 1)) + 1) ? 0 : len;
}

/* From the pod, where the host takes it in. */
SEC("tcx/ingress")
int hold_from_pod(struct __sk_buff *skb) {
    struct hold_attempt attempt = {}, *known;
    struct hold_key key = {};
    struct hold_terms *terms;
    struct tcp tcp;
    union ip ip;
    __u8 protocol;
    bool six;

    if (!is_ip(skb, &six))
        return TC_NEXT;
    if ((quick_flags(skb, six) & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK)) != TCP_SYN)
        return TC_NEXT;
    __u32 at = read_ip(skb, ETH_HEADER, six, &ip, &protocol);
    if (!at || bpf_skb_load_bytes(skb, at, &tcp, sizeof(tcp)))
        return TC_NEXT;
    ends(&ip, six, key.client, key.service);
    key.client_port = tcp.source;
    key.service_port = tcp.destination;
    key.ifindex = skb->ifindex;
    terms = terms_of(&key);
    if (!terms)
        return TC_NEXT;
    __u64 now = bpf_ktime_get_ns();
    if (!has_lease(now))
        return TC_NEXT;

    __u32 len = at + (tcp.offset >> 4) * 4;
    known = bpf_map_lookup_elem(&hold_attempts, &key);
    if (known && known->isn == tcp.sequence) {
        /* The client again, or our replay of what is kept: the same bytes then. */
        tally(HOLD_RETRANSMITTED);
        copy_syn(skb, known->syn, len);
        return TC_NEXT;
    }
    attempt.first_ns = now;
    attempt.until_ns = now + terms->limit_ns;
    attempt.cookie = bpf_get_socket_cookie(skb);
    attempt.isn = tcp.sequence;
    attempt.len = copy_syn(skb, attempt.syn, len);
    if (!attempt.len)
        return TC_NEXT;
    if (!known) {
        __u64 *begun = bpf_map_lookup_elem(&hold_begun, &key.ifindex);
        __u64 *ended = bpf_map_lookup_elem(&hold_ended, &key.ifindex);
        if (!begun || !ended || *begun - *ended >= attempts_per_pod) {
            tally(HOLD_QUOTA);
            return TC_NEXT;
        }
        if (bpf_map_update_elem(&hold_attempts, &key, &attempt, BPF_NOEXIST)) {
            tally(HOLD_NO_ROOM);
            return TC_NEXT;
        }
        __sync_fetch_and_add(begun, 1);
    } else if (bpf_map_update_elem(&hold_attempts, &key, &attempt, BPF_EXIST)) {
        tally(HOLD_NO_ROOM);
        return TC_NEXT;
    }
    tally(HOLD_ATTEMPTS);
    submit(HOLD_BEGAN, &key, &attempt, now);
    return TC_NEXT;
}

/* A refusal of this attempt: to be dropped? */
static __always_inline int refused(const struct hold_key *key, __be32 isn, __u32 dropped) {
    struct hold_attempt *attempt = bpf_map_lookup_elem(&hold_attempts, key);
    struct hold_terms *terms;

    if (!attempt || attempt->isn != isn || attempt->state != HOLD_WAITING)
        return TC_NEXT;
    __u64 now = bpf_ktime_get_ns();
    terms = terms_of(key);
    if (now >= attempt->until_ns || !terms) {
        tally(HOLD_TALLY_REFUSED);
        submit(HOLD_REFUSED, key, attempt, now);
        return TC_NEXT;
    }
    if (!has_lease(now))
        return TC_NEXT;
    if (!terms->refuses) {
        terms->refuses = 1;
        submit(HOLD_REFUSES, key, attempt, now);
    }
    tally(dropped);
    return TC_DROP;
}

/* To the pod: an answer to a SYN. */
static __always_inline int answer(struct __sk_buff *skb, bool six) {
    struct hold_attempt *attempt;
    struct hold_key key = {};
    struct tcp tcp;
    union ip ip;
    __u8 protocol;

    __u32 at = read_ip(skb, ETH_HEADER, six, &ip, &protocol);
    if (!at || bpf_skb_load_bytes(skb, at, &tcp, sizeof(tcp)))
        return TC_NEXT;
    ends(&ip, six, key.service, key.client);
    key.client_port = tcp.destination;
    key.service_port = tcp.source;
    key.ifindex = skb->ifindex;
    __be32 isn = bpf_htonl(bpf_ntohl(tcp.acknowledgement) - 1);
    if (tcp.flags & TCP_RST)
        return refused(&key, isn, HOLD_DROPPED_RESETS);

    attempt = bpf_map_lookup_elem(&hold_attempts, &key);
    if (attempt && attempt->isn == isn && attempt->state == HOLD_WAITING) {
        attempt->state = HOLD_ANSWERED;
        tally(HOLD_TALLY_CONNECTED);
        submit(HOLD_CONNECTED, &key, attempt, bpf_ktime_get_ns());
    }
    return TC_NEXT;
}

/* To the pod: an ICMP error that quotes its SYN. */
static __always_inline int error(struct __sk_buff *skb, __u32 at, bool six) {
    struct hold_key key = {};
    struct icmp icmp;
    struct {
        __be16 source, destination;
        __be32 sequence;
    } quoted; /* an error quotes no fewer bytes */
    union ip ip;
    __u8 protocol;

    if (bpf_skb_load_bytes(skb, at, &icmp, sizeof(icmp)))
        return TC_NEXT;
    if (six ? icmp.type != ICMPV6_UNREACHABLE
            : icmp.type != ICMP_UNREACHABLE || icmp.code == ICMP_FRAGMENTATION_NEEDED)
        return TC_NEXT;
    at = read_ip(skb, at + sizeof(icmp), six, &ip, &protocol);
    if (!at || protocol != PROTOCOL_TCP || bpf_skb_load_bytes(skb, at, &quoted, sizeof(quoted)))
        return TC_NEXT;
    ends(&ip, six, key.client, key.service);
    key.client_port = quoted.source;
    key.service_port = quoted.destination;
    key.ifindex = skb->ifindex;
    return refused(&key, quoted.sequence, HOLD_DROPPED_ICMP);
}

/* To the pod, where the host sends it out. */
SEC("tcx/egress")
int hold_to_pod(struct __sk_buff *skb) {
    union ip ip;
    __u8 protocol;
    bool six;

    if (!is_ip(skb, &six))
        return TC_NEXT;
    __u32 flags = quick_flags(skb, six);
    if (flags)
        return flags & TCP_RST || (flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK) ? answer(skb, six)
                                                                                       : TC_NEXT;
    __u32 at = read_ip(skb, ETH_HEADER, six, &ip, &protocol);
    return at && protocol == (six ? PROTOCOL_ICMPV6 : PROTOCOL_ICMP) ? error(skb, at, six) : TC_NEXT;
}

/* A frame is put in at the veth, as if it came from the pod. */
SEC("xdp")
int hold_inject(struct xdp_md *xdp) {
    return XDP_PASS;
}

/* Apart from the common one, which has no cookie; a field is found by its name whatever follows ___. */
struct sock_common___hold {
    struct {
        __u64 counter;
    } skc_cookie;
} RELOCATED;

struct sock___hold {
    struct sock_common___hold __sk_common;
} RELOCATED;

/* A client that waits no longer: nothing on the wire tells it. */
SEC("raw_tp/inet_sock_set_state")
int hold_gave_up(struct bpf_raw_tracepoint_args *ctx) {
    struct sock *sk = (void *)ctx->args[0];
    struct hold_attempt attempt = {};
    struct hold_key key = {};

    if (ctx->args[1] != STATE_SYN_SENT || ctx->args[2] != STATE_CLOSE)
        return 0;
    if (BPF_CORE_READ(sk, __sk_common.skc_family) == 2 /* AF_INET */)
        map_ipv4(key.service, BPF_CORE_READ(sk, __sk_common.skc_daddr));
    else
        BPF_CORE_READ_INTO(&key.service, sk, __sk_common.skc_v6_daddr);
    key.service_port = BPF_CORE_READ(sk, __sk_common.skc_dport);
    if (!terms_of(&key))
        return 0;
    attempt.cookie = BPF_CORE_READ((struct sock___hold *)sk, __sk_common.skc_cookie.counter);
    if (attempt.cookie)
        submit(HOLD_GAVE_UP, &key, &attempt, bpf_ktime_get_ns());
    return 0;
}

struct hold_types {
    struct hold_address address;
    struct hold_terms terms;
    struct hold_key key;
    struct hold_attempt attempt;
    struct hold_event event;
    enum hold_state state;
    enum hold_event_kind kind;
    enum hold_tally tally;
};
struct hold_types *hold_types;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
