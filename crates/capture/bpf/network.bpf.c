// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Packets: each is counted once where it enters (XDP or TC) or leaves (TC) an interface, and accounted to its
 * connection. Every program passes every packet on.
 */
#include "kernel.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "network.h"

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define ETH_P_8021Q 0x8100
#define ETH_P_8021AD 0x88a8

#define TC_NEXT (-1) /* TCX_NEXT and TC_ACT_UNSPEC: whoever comes behind us decides */

#define TCP_FIN 0x01
#define TCP_RST 0x04

/* Payload samples wanted of each end: of most protocols, and of those that need more to be told apart. */
#define SAMPLES 2
#define SAMPLES_MORE 4
#define SAMPLES_UNKNOWN 255 /* no payload yet */

/* Extension headers of IPv6 that are walked; a chain longer than that is taken for malformed. */
#define EXTENSIONS 8

const volatile bool has_sampling;

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __type(key, __u32);
    __type(value, struct network_interface);
    __uint(max_entries, NETWORK_SLOTS);
} network_interfaces SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __type(key, __u32);
    __type(value, struct network_interface);
    __uint(max_entries, NETWORK_LOW_INDICES);
} network_low SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __type(key, __u32);
    __type(value, struct network_slot);
    __uint(max_entries, NETWORK_SLOTS);
} network_slots SEC(".maps");

/* (slot * directions + direction) * classes + class */
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __type(key, __u32);
    __type(value, struct network_count);
    __uint(max_entries, NETWORK_SLOTS *NETWORK_DIRECTIONS *NETWORK_CLASSES);
} network_counts SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __type(key, __u32);
    __type(value, __u64);
    __uint(max_entries, NETWORK_TALLIES);
} network_tallies SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __type(key, struct network_flow_key);
    __type(value, struct network_flow);
    __uint(max_entries, 65536);
} network_flows SEC(".maps");

/* The ports of a fragmented datagram stand in its first fragment only. */
struct fragment_key {
    __u8 source[16], destination[16];
    __u32 identification;
    __u32 protocol;
};

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __type(key, struct fragment_key);
    __type(value, __u32); /* source port, destination port */
    __uint(max_entries, 4096);
} network_fragments SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 1 << 20);
} network_samples SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __type(key, __u32);
    __type(value, struct network_filter);
    __uint(max_entries, 1);
} network_filter SEC(".maps");

/* A bit for each port. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __type(key, __u32);
    __type(value, __u64);
    __uint(max_entries, 1024);
} network_ports SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __type(key, struct network_prefix);
    __type(value, __u32);
    __uint(max_entries, 16384);
    __uint(map_flags, BPF_F_NO_PREALLOC);
} network_prefixes SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __type(key, __u32);
    __type(value, struct network_identity);
    __uint(max_entries, 1);
} network_identity SEC(".maps");

enum context {
    XDP,
    TC,
};

/* A packet, as far as it is understood. */
struct packet {
    void *ctx;
    enum context context;
    __u32 direction;
    __u32 ifindex;
    __u32 end; /* bytes in the frame; offsets beyond it are not read */

    __u32 packets;
    __u32 bytes;

    __u32 family;
    __u32 protocol; /* enum network_protocol */
    __u8 ip_protocol;
    bool malformed;
    bool tagged; /* the VLAN tag stands beside the frame */
    __u8 sender;
    __u8 tcp_flags;
    __u32 payload_at;
    __u32 payload;
    struct network_flow_key
        *key; /* apart: helpers are given its address, and the compiler keeps the rest in registers */
};

static __always_inline void tally(__u32 which, __u64 by) {
    __u64 *count = bpf_map_lookup_elem(&network_tallies, &which);
    if (count)
        *count += by;
}

typedef __u32 __attribute__((may_alias)) word;
typedef __u16 __attribute__((may_alias)) half;

/* Word by word: the compiler, which does not know that both our machines read unaligned words, would do it by
 * bytes. */
static __always_inline void copy_words(void *to, const void *from, const __u32 size) {
    __u32 at = 0;

#pragma unroll
    for (; at + 4 <= size; at += 4)
        *(word *)(to + at) = *(const word *)(from + at);
    if (size & 2) {
        *(half *)(to + at) = *(const half *)(from + at);
        at += 2;
    }
    if (size & 1)
        *(__u8 *)(to + at) = *(const __u8 *)(from + at);
}

/* Copies `size` (a constant) bytes at `at` of the packet: directly where they lie in one piece, which they
 * mostly do. */
static __always_inline bool load(const struct packet *p, __u32 at, void *to, const __u32 size) {
    void *data, *end;

    if (at > 0x3fff) /* no header lies so deep, and the verifier wants a bound */
        return false;
    if (p->context == XDP) {
        struct xdp_md *xdp = p->ctx;
        data = (void *)(long)xdp->data;
        end = (void *)(long)xdp->data_end;
    } else {
        struct __sk_buff *skb = p->ctx;
        data = (void *)(long)skb->data;
        end = (void *)(long)skb->data_end;
    }
    /* The bound again, at the very use: before 6.6 or so the verifier loses it where the compiler keeps the
     * offset on the stack. */
    __u32 bounded = at;
    asm volatile("" : "+r"(bounded));
    data += bounded & 0x3fff;
    if (data + size <= end) {
        copy_words(to, data, size);
        return true;
    }
    return p->context == TC && bpf_skb_load_bytes(p->ctx, at, to, size) == 0;
}

static __always_inline void map_ipv4(__u8 *to, __u32 address) {
    __u32 *words = (__u32 *)to;
    words[0] = 0;
    words[1] = 0;
    words[2] = bpf_htonl(0xffff);
    words[3] = address;
}

/* Puts the ends in order, and says which of them sent. */
static __always_inline void order(struct packet *p, const void *source, const void *destination, __u16 from,
                                  __u16 to) {
    const __u64 *s = source, *d = destination;
    bool swap = s[0] != d[0]   ? bpf_be64_to_cpu(s[0]) > bpf_be64_to_cpu(d[0])
                : s[1] != d[1] ? bpf_be64_to_cpu(s[1]) > bpf_be64_to_cpu(d[1])
                               : from > to;
    const __u64 *low = swap ? d : s, *high = swap ? s : d;

    __builtin_memcpy(p->key->address[0], low, 16);
    __builtin_memcpy(p->key->address[1], high, 16);
    p->key->port[0] = swap ? to : from;
    p->key->port[1] = swap ? from : to;
    p->sender = swap;
}

/* What is behind the IP header. `fragment` is the offset of this part of a datagram, `more` that others
 * follow. */
static __always_inline void transport(struct packet *p, __u32 at, __u32 end, const __u8 *addresses,
                                      __u32 identification, __u32 fragment, bool more) {
    struct {
        __be16 source, destination;
        __be32 sequence, acknowledgement;
        __u8 length, flags;
    } tcp;
    struct {
        __be16 source, destination;
    } ports = {};
    __u16 from = 0, to = 0;
    __u32 header = 0;

    switch (p->ip_protocol) {
    case 6:
        p->protocol = NETWORK_TCP;
        break;
    case 17:
        p->protocol = NETWORK_UDP;
        break;
    case 1:
    case 58:
        p->protocol = NETWORK_ICMP;
        break;
    case 132:
        p->protocol = NETWORK_SCTP;
        break;
    default:
        p->protocol = NETWORK_OTHERS;
    }
    bool has_ports = p->protocol == NETWORK_TCP || p->protocol == NETWORK_UDP || p->protocol == NETWORK_SCTP;

    if (has_ports && fragment == 0) {
        if (p->protocol == NETWORK_TCP) {
            if (at + 20 > end || !load(p, at, &tcp, 14)) {
                p->malformed = true;
                return;
            }
            from = bpf_ntohs(tcp.source);
            to = bpf_ntohs(tcp.destination);
            p->tcp_flags = tcp.flags;
            header = (tcp.length >> 4) * 4;
            if (header < 20 || at + header > end) {
                p->malformed = true;
                return;
            }
        } else {
            header = p->protocol == NETWORK_UDP ? 8 : 12;
            if (at + header > end || !load(p, at, &ports, 4)) {
                p->malformed = true;
                return;
            }
            from = bpf_ntohs(ports.source);
            to = bpf_ntohs(ports.destination);
        }
    }
    if (has_ports && (fragment || more)) {
        struct fragment_key key = {.identification = identification, .protocol = p->ip_protocol};
        __builtin_memcpy(key.source, addresses, 16);
        __builtin_memcpy(key.destination, addresses + 16, 16);
        if (fragment == 0) {
            __u32 both = (__u32)from << 16 | to;
            bpf_map_update_elem(&network_fragments, &key, &both, BPF_ANY);
        } else {
            __u32 *both = bpf_map_lookup_elem(&network_fragments, &key);
            if (both) {
                from = *both >> 16;
                to = *both & 0xffff;
            } else {
                tally(NETWORK_LONE_FRAGMENT, 1);
            }
        }
    }
    p->payload_at = at + header;
    p->payload = end - at - header;
    order(p, addresses, addresses + 16, from, to);
}

static __always_inline void ipv4(struct packet *p, __u32 at) {
    struct {
        __u8 version_length, service;
        __be16 total;
        __be16 identification, fragment;
        __u8 ttl, protocol;
        __be16 checksum;
        __be32 source, destination;
    } ip;
    __u8 addresses[32] __attribute__((aligned(8)));

    p->family = NETWORK_IPV4;
    if (!load(p, at, &ip, sizeof(ip))) {
        p->malformed = true;
        return;
    }
    __u32 header = (ip.version_length & 15) * 4;
    __u32 total = bpf_ntohs(ip.total);
    if (total == 0) /* a large packet on its way to be cut (BIG TCP) does not fit the field */
        total = p->end - at;
    /* Ethernet pads short frames: the header's length counts, and must not go beyond the frame. */
    if (ip.version_length >> 4 != 4 || header < 20 || total < header || at + total > p->end) {
        p->malformed = true;
        return;
    }
    map_ipv4(addresses, ip.source);
    map_ipv4(addresses + 16, ip.destination);
    __u32 fragment = bpf_ntohs(ip.fragment);
    p->ip_protocol = ip.protocol;
    transport(p, at + header, at + total, addresses, bpf_ntohs(ip.identification), fragment & 0x1fff,
              fragment & 0x2000);
}

/*
 * How far the extension headers of a packet have been walked. It stands in a map, because the verifier does
 * not follow what is in maps: each step looks to it like the one before, and is not checked again for every
 * way to come to it.
 */
struct walk {
    __u32 at;
    __u32 fragment_at; /* 0: not a fragment */
    __u32 next;
    __u32 pad;
};

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __type(key, __u32);
    __type(value, struct walk);
    __uint(max_entries, 1);
} network_walks SEC(".maps");

/* hop by hop, routing, fragment, authentication, destination options; and mobility, which is 135 */
#define EXTENSION_BITS (1ull << 0 | 1ull << 43 | 1ull << 44 | 1ull << 51 | 1ull << 60)

static __always_inline bool is_extension(__u32 next) {
    return next == 135 || (next < 64 && EXTENSION_BITS >> next & 1);
}

/* Steps over extension headers to what they precede; false where they are cut, or too many. */
static __always_inline bool step_over(const struct packet *p, volatile struct walk *walk, __u32 end) {
    for (int i = 0; i < EXTENSIONS; i++) {
        __u8 header[2];
        __u32 next = walk->next, at = walk->at, length;

        if (!is_extension(next))
            return true;
        if (at + 8 > end || !load(p, at, header, 2))
            return false;
        length = next == 44 ? 8 : next == 51 ? (header[1] + 2) * 4 : (header[1] + 1) * 8;
        walk->next = header[0];
        walk->at = at + length;
        if (next == 44) {
            __be16 offset;
            walk->fragment_at = at;
            if (load(p, at + 2, &offset, 2) && bpf_ntohs(offset) >> 3)
                return true; /* what follows a later fragment's header is no header */
        }
        if (at + length > end)
            return false;
    }
    return !is_extension(walk->next);
}

static __always_inline void ipv6(struct packet *p, __u32 at) {
    struct {
        __be32 version;
        __be16 payload;
        __u8 next, hops;
        __u8 addresses[32];
    } ip __attribute__((aligned(8)));
    __u8 addresses[32] __attribute__((aligned(8)));
    __u32 zero = 0, identification = 0, fragment = 0;

    p->family = NETWORK_IPV6;
    if (!load(p, at, &ip, sizeof(ip))) {
        p->malformed = true;
        return;
    }
    __u32 payload = bpf_ntohs(ip.payload);
    __u32 end = at + 40 + payload;
    if (payload == 0) /* a jumbogram, or BIG TCP */
        end = p->end;
    if ((bpf_ntohl(ip.version) >> 28) != 6 || end > p->end) {
        p->malformed = true;
        return;
    }
    __builtin_memcpy(addresses, ip.addresses, 32);
    at += 40;
    p->ip_protocol = ip.next;
    if (is_extension(ip.next)) {
        volatile struct walk *walk = bpf_map_lookup_elem(&network_walks, &zero);
        if (!walk)
            return;
        walk->at = at;
        walk->next = ip.next;
        walk->fragment_at = 0;
        if (!step_over(p, walk, end)) {
            p->malformed = true;
            return;
        }
        at = walk->at;
        p->ip_protocol = walk->next;
        if (walk->fragment_at) {
            struct {
                __be16 offset;
                __be32 identification;
            } __attribute__((packed)) header;
            if (!load(p, walk->fragment_at + 2, &header, 6)) {
                p->malformed = true;
                return;
            }
            fragment = bpf_ntohs(header.offset);
            identification = bpf_ntohl(header.identification);
        }
    }
    transport(p, at, end, addresses, identification, fragment >> 3, fragment & 1);
}

/* Ethernet's and VLAN headers, if it has any, and what is in them. */
static __always_inline void parse(struct packet *p, __u32 flags, __u16 protocol) {
    __u32 at = 0, tags = 0;

    p->family = NETWORK_OTHER;
    p->protocol = NETWORK_OTHERS;
    if (flags & NETWORK_ETHERNET) {
        struct {
            __u8 addresses[12];
            __be16 protocol;
        } ethernet;
        if (!load(p, 0, &ethernet, 14)) {
            p->malformed = true;
            return;
        }
        protocol = bpf_ntohs(ethernet.protocol);
        at = 14;
        if (p->context == TC && ((struct __sk_buff *)p->ctx)->vlan_present) {
            /* the tag was taken off the frame, and is counted among its bytes all the same */
            p->key->vlan[0] = ((struct __sk_buff *)p->ctx)->vlan_tci & 0xfff;
            tags = 1;
            p->bytes += 4;
            p->tagged = true;
        }
        for (int i = 0; i < 2; i++) {
            struct {
                __be16 tag, protocol;
            } vlan;
            if (protocol != ETH_P_8021Q && protocol != ETH_P_8021AD)
                break;
            if (!load(p, at, &vlan, 4)) {
                p->malformed = true;
                return;
            }
            if (tags == 0)
                p->key->vlan[0] = bpf_ntohs(vlan.tag) & 0xfff;
            else if (tags == 1)
                p->key->vlan[1] = bpf_ntohs(vlan.tag) & 0xfff;
            tags++;
            protocol = bpf_ntohs(vlan.protocol);
            at += 4;
        }
    } else if (protocol == 0) { /* XDP on a device without frames: the version tells */
        __u8 version;
        if (!load(p, 0, &version, 1)) {
            p->malformed = true;
            return;
        }
        protocol = version >> 4 == 4 ? ETH_P_IP : version >> 4 == 6 ? ETH_P_IPV6 : 0;
    }
    if (protocol == ETH_P_IP)
        ipv4(p, at);
    else if (protocol == ETH_P_IPV6)
        ipv6(p, at);
}

static __always_inline bool has_port(__u16 port) {
    __u32 word = port >> 6;
    __u64 *bits = bpf_map_lookup_elem(&network_ports, &word);
    return bits && *bits >> (port & 63) & 1;
}

static __always_inline bool in_networks(const __u8 *address) {
    struct network_prefix prefix = {.bits = 128};
    __builtin_memcpy(prefix.address, address, 16);
    return bpf_map_lookup_elem(&network_prefixes, &prefix);
}

static __always_inline bool is_watched(const struct packet *p) {
    __u32 zero = 0;
    struct network_filter *filter = bpf_map_lookup_elem(&network_filter, &zero);
    if (!filter || !filter->kinds)
        return true;
    if (filter->kinds & NETWORK_BY_PROTOCOL && !(filter->protocols >> p->protocol & 1))
        return false;
    if (filter->kinds & NETWORK_BY_PORT && !has_port(p->key->port[0]) && !has_port(p->key->port[1]))
        return false;
    if (filter->kinds & NETWORK_BY_NETWORK &&
        (p->family == NETWORK_OTHER ||
         (!in_networks(p->key->address[0]) && !in_networks(p->key->address[1]))))
        return false;
    return true;
}

/* A constant number of bytes is reserved; what of them is not filled is not told of. */
#define SAMPLE(size)                                                                                         \
    do {                                                                                                     \
        struct {                                                                                             \
            struct network_sample head;                                                                      \
            __u8 bytes[size];                                                                                \
        } *room = bpf_ringbuf_reserve(&network_samples, sizeof(*room), 0);                                   \
        if (!room) {                                                                                         \
            tally(NETWORK_NO_SAMPLE, 1);                                                                     \
            return;                                                                                          \
        }                                                                                                    \
        __u32 len = p->payload < size ? p->payload : size;                                                   \
        room->head.key = *p->key;                                                                            \
        room->head.wire_len = p->payload;                                                                    \
        room->head.len = len;                                                                                \
        room->head.sender = sender;                                                                          \
        room->head.pad = 0;                                                                                  \
        /* Less one, and more than none: before 6.8 the verifier learns nothing from a comparison with 0. */ \
        __u32 more = len - 1;                                                                                \
        asm volatile("" : "+r"(more));                                                                       \
        if (more >= size || copy(p, room->bytes, more + 1))                                                  \
            room->head.len = 0;                                                                              \
        bpf_ringbuf_submit(room, BPF_RB_NO_WAKEUP);                                                          \
    } while (0)

static __always_inline long copy(const struct packet *p, void *to, __u32 len) {
    return p->context == XDP ? bpf_xdp_load_bytes(p->ctx, p->payload_at, to, len)
                             : bpf_skb_load_bytes(p->ctx, p->payload_at, to, len);
}

/* Hands over the beginning of a payload, for telling the protocol. */
static __always_inline void sample(const struct packet *p, struct network_flow *flow) {
    __u8 sender = p->sender & 1, left = flow->samples[sender], first[3] = {};

    if (left == SAMPLES_UNKNOWN) {
        left = SAMPLES;
        /* a TLS handshake, or HTTP/2: what is to be known comes in more than a packet */
        if (load(p, p->payload_at, first, 3) && (first[0] == 0x16 || (first[0] == 'P' && first[1] == 'R')))
            left = SAMPLES_MORE;
    }
    flow->samples[sender] = left - 1;
    if (p->payload <= NETWORK_SAMPLE_SHORT)
        SAMPLE(NETWORK_SAMPLE_SHORT);
    else
        SAMPLE(NETWORK_SAMPLE_LONG);
}

static __always_inline __u64 now_coarse(void) {
    if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_ktime_get_coarse_ns)) /* 5.11 */
        return bpf_ktime_get_coarse_ns();
    return bpf_ktime_get_ns();
}

static __always_inline struct network_flow *begin_flow(const struct packet *p) {
    struct network_flow fresh = {.samples = {SAMPLES_UNKNOWN, SAMPLES_UNKNOWN}, .first = p->sender};

    fresh.first_ns = bpf_ktime_get_ns();
    long failed = bpf_map_update_elem(&network_flows, p->key, &fresh, BPF_NOEXIST);
    struct network_flow *flow = bpf_map_lookup_elem(&network_flows, p->key);
    if (!flow) {
        tally(NETWORK_NO_ROOM, p->packets);
        tally(NETWORK_NO_ROOM_BYTES, p->bytes);
        return NULL;
    }
    if (!failed)
        tally(p->protocol == NETWORK_TCP   ? NETWORK_FLOWS_TCP
              : p->protocol == NETWORK_UDP ? NETWORK_FLOWS_UDP
                                           : NETWORK_FLOWS_OTHER,
              1);
    return flow;
}

static __always_inline void account(struct packet *p) {
    struct network_flow *flow = bpf_map_lookup_elem(&network_flows, p->key);
    __u32 sender = p->sender;

    if (!flow) {
        flow = begin_flow(p);
        if (!flow)
            return;
    }
    asm volatile(
        ""
        : "+r"(sender)); /* for the verifiers of 5.11 to 5.14, which lost the bound on the way here */
    sender &= 1;
    __sync_fetch_and_add(&flow->packets[sender], p->packets);
    __sync_fetch_and_add(&flow->bytes[sender], p->bytes);
    flow->last_ns = now_coarse();
    if ((flow->tcp_flags[sender] | p->tcp_flags) != flow->tcp_flags[sender])
        flow->tcp_flags[sender] |= p->tcp_flags;
    if (p->direction == NETWORK_EGRESS && !flow->egress[sender]) {
        flow->egress[sender] = 1;
        flow->cgroup[sender] = bpf_skb_cgroup_id(p->ctx);
    }
    if (p->payload) {
        __sync_fetch_and_add(&flow->payload[sender], p->payload);
        if (flow->samples[sender] && has_sampling)
            sample(p, flow);
    }
}

static __always_inline void count(struct packet *p, __u16 protocol) {
    __u32 ifindex = p->ifindex;
    struct network_interface *interface = ifindex < NETWORK_LOW_INDICES
                                              ? bpf_map_lookup_elem(&network_low, &ifindex)
                                              : bpf_map_lookup_elem(&network_interfaces, &ifindex);
    __u32 segments = 1;

    if (!interface || !(interface->flags & NETWORK_KNOWN)) {
        tally(NETWORK_NO_INTERFACE, 1);
        return;
    }
    p->key->ifindex = p->ifindex;
    p->packets = 1;
    p->bytes = p->end;
    parse(p, interface->flags, protocol);
    if (p->context == TC && interface->flags & NETWORK_SEGMENTS && !p->malformed) {
        segments = ((struct __sk_buff *)p->ctx)->gso_segs;
        if (segments > 1) { /* each has the headers again */
            p->packets = segments;
            p->bytes += (segments - 1) * (p->payload_at + (p->tagged ? 4 : 0));
        }
    }
    p->key->protocol = p->ip_protocol;
    p->key->family = p->family;

    bool watched = is_watched(p);
    __u32 class = watched ? p->family * NETWORK_PROTOCOLS + p->protocol : NETWORK_FILTERED;
    __u32 at = (interface->slot * NETWORK_DIRECTIONS + p->direction) * NETWORK_CLASSES + class;
    struct network_count *counted = bpf_map_lookup_elem(&network_counts, &at);
    if (counted) {
        counted->packets += p->packets;
        counted->bytes += p->bytes;
    }
    if (!watched)
        return;
    if (p->malformed) {
        tally(NETWORK_MALFORMED, p->packets);
        tally(NETWORK_MALFORMED_BYTES, p->bytes);
    } else if (p->family == NETWORK_OTHER) {
        tally(NETWORK_NO_FLOW, p->packets);
        tally(NETWORK_NO_FLOW_BYTES, p->bytes);
    } else {
        account(p);
    }
}

static __always_inline int count_skb(struct __sk_buff *skb, __u32 direction) {
    struct network_flow_key key = {};
    struct packet p = {.key = &key,
                       .ctx = skb,
                       .context = TC,
                       .direction = direction,
                       .ifindex = skb->ifindex,
                       .end = skb->len};
    count(&p, bpf_ntohs(skb->protocol));
    return TC_NEXT;
}

SEC("tcx/ingress")
int network_ingress(struct __sk_buff *skb) {
    return count_skb(skb, NETWORK_INGRESS);
}

SEC("tcx/egress")
int network_egress(struct __sk_buff *skb) {
    return count_skb(skb, NETWORK_EGRESS);
}

SEC("xdp")
int network_xdp(struct xdp_md *xdp) {
    struct network_flow_key key = {};
    void *begin = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;
    /* Pointers of 64 bits to the compiler too: a half of one, kept on the stack, is refused. */
    asm volatile("" : "+r"(begin), "+r"(end));
    struct packet p = {
        .key = &key,
        .ctx = xdp,
        .context = XDP,
        .direction = NETWORK_INGRESS,
        .ifindex = xdp->ingress_ifindex,
        .end = end - begin,
    };
    count(&p, 0);
    return XDP_PASS;
}

struct network_types {
    struct network_interface interface;
    struct network_slot slot;
    struct network_count count;
    struct network_flow_key key;
    struct network_flow flow;
    struct network_sample sample;
    struct network_filter filter;
    struct network_prefix prefix;
    struct network_identity identity;
    enum network_family family;
    enum network_protocol protocol;
    enum network_class class;
    enum network_direction direction;
    enum network_interface_flags interface_flags;
    enum network_filter_kind filter_kind;
    enum network_tally tally;
};
struct network_types *network_types;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
