// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * TCP connections, from the kernel's own state: their births and deaths are counted where the kernel makes
 * them, and an iterator tells of those that live, older ones than the agent too. No cost per packet.
 */
#include "kernel.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "connection.h"

#define AF_INET 2
#define AF_INET6 10
#define LOOPBACK_IFINDEX 1

enum {
    TCP_ESTABLISHED = 1,
    TCP_SYN_SENT = 2,
    TCP_SYN_RECV = 3,
    TCP_TIME_WAIT = 6,
    TCP_CLOSE = 7,
    TCP_CLOSE_WAIT = 8,
    TCP_LAST_ACK = 9,
    TCP_LISTEN = 10,
    TCP_CLOSING = 11,
    TCP_NEW_SYN_RECV = 12,
};

const volatile __u32 network_namespace;

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __type(key, __u32);
    __type(value, __u64);
    __uint(max_entries, CONNECTION_TALLIES);
} connection_tallies SEC(".maps");

/* Of each connection that ended: its smoothed round-trip time, and how long it was established. */
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __type(key, __u32);
    __type(value, __u64);
    __uint(max_entries, CONNECTION_BUCKETS);
} connection_rtts SEC(".maps"), connection_durations SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __type(key, __u32);
    __type(value, __u64);
    __uint(max_entries, CONNECTION_DROPS);
} connection_drops SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __type(key, __u64); /* the socket's address */
    __type(value, struct connection_birth);
    __uint(max_entries, 65536);
} connection_births SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __type(key, __u32);
    __type(value, struct connection_identity);
    __uint(max_entries, 1);
} connection_identity SEC(".maps");

/* A soft interrupt may come between reading and writing: atomically, though it is this CPU's. */
static __always_inline void add(void *map, __u32 index, __u64 by) {
    __u64 *count = bpf_map_lookup_elem(map, &index);
    if (count)
        __sync_fetch_and_add(count, by);
}

static __always_inline void observe(void *map, __u64 us) {
    __u64 rest = us ? us - 1 : 0;
    __u32 bucket = 0;

    for (__u32 step = 32; step; step >>= 1) /* how many bits the number has */
        if (rest >> step) {
            bucket += step;
            rest >>= step;
        }
    bucket += rest;
    if (bucket >= CONNECTION_BUCKETS)
        bucket = CONNECTION_BUCKETS - 1;
    add(map, bucket, 1);
}

static __always_inline bool is_ours(const struct sock *sk) {
    return BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum) == network_namespace;
}

/* Both ends are in this namespace. */
static __always_inline bool is_inner(const struct sock *sk) {
    if (BPF_CORE_READ(sk, sk_dst_cache, dev, ifindex) == LOOPBACK_IFINDEX)
        return true;
    if (BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET)
        return BPF_CORE_READ(sk, __sk_common.skc_daddr) == BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr);
    __u64 local[2], remote[2];
    BPF_CORE_READ_INTO(&local, sk, __sk_common.skc_v6_rcv_saddr);
    BPF_CORE_READ_INTO(&remote, sk, __sk_common.skc_v6_daddr);
    return local[0] == remote[0] && local[1] == remote[1];
}

static __always_inline __u32 failure(int error) {
    switch (error) {
    case 0:
        return CONNECTION_ABANDONED;
    case 111: /* ECONNREFUSED */
        return CONNECTION_REFUSED;
    case 110: /* ETIMEDOUT */
        return CONNECTION_TIMED_OUT;
    case 113: /* EHOSTUNREACH */
    case 101: /* ENETUNREACH */
        return CONNECTION_UNREACHABLE;
    case 104: /* ECONNRESET */
        return CONNECTION_RESET;
    default:
        return CONNECTION_FAILED;
    }
}

static __always_inline void closed(const struct sock *sk, __u64 key, int from) {
    struct connection_birth *birth = bpf_map_lookup_elem(&connection_births, &key);
    const struct tcp_sock *tcp = (const void *)sk;
    __u64 now = bpf_ktime_get_ns();
    bool other_end;

    if (birth)
        other_end = birth->inner_end;
    else /* older than we: of two ends here, the one with the lower port was called */
        other_end = is_inner(sk) && bpf_ntohs(BPF_CORE_READ((const struct inet_sock *)sk, inet_sport)) <
                                        bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
    if (!other_end) {
        add(&connection_tallies, CONNECTION_CLOSED, 1);
        __u64 rtt = BPF_CORE_READ(tcp, srtt_us) >> 3;
        add(&connection_tallies, CONNECTION_RTT_SUM, rtt);
        observe(&connection_rtts, rtt);
        if (birth && birth->ns) {
            __u64 us = (now - birth->ns) / 1000;
            add(&connection_tallies, CONNECTION_DURATION_SUM, us);
            observe(&connection_durations, us);
        }
    }
    bpf_map_delete_elem(&connection_births, &key);
}

SEC("raw_tp/inet_sock_set_state")
int connection_state(struct bpf_raw_tracepoint_args *ctx) {
    const struct sock *sk = (const void *)ctx->args[0];
    int from = ctx->args[1], to = ctx->args[2];
    __u64 key = (__u64)sk;

    if (to != TCP_SYN_SENT && to != TCP_ESTABLISHED && to != TCP_CLOSE)
        return 0;
    if (!is_ours(sk))
        return 0;
    if (to == TCP_SYN_SENT) {
        struct connection_birth birth = {.asked_ns = bpf_ktime_get_ns()};
        bpf_map_update_elem(&connection_births, &key, &birth, BPF_ANY);
    } else if (to == TCP_ESTABLISHED) {
        struct connection_birth birth = {.ns = bpf_ktime_get_ns()};
        /* one that asked itself was not called, though the other end asked at the same moment, or is the same
         */
        birth.inner_end =
            from == TCP_SYN_RECV && is_inner(sk) && !bpf_map_lookup_elem(&connection_births, &key);
        bpf_map_update_elem(&connection_births, &key, &birth, BPF_ANY);
        if (!birth.inner_end)
            add(&connection_tallies, CONNECTION_OPENED, 1);
    } else if (from == TCP_SYN_SENT) {
        add(&connection_tallies, failure(BPF_CORE_READ(sk, sk_err)), 1);
        bpf_map_delete_elem(&connection_births, &key);
    } else if (from != TCP_LISTEN && from != TCP_SYN_RECV && from != TCP_CLOSE) {
        closed(sk, key, from);
    }
    return 0;
}

SEC("raw_tp/tcp_retransmit_skb")
int connection_retransmit(struct bpf_raw_tracepoint_args *ctx) {
    if (is_ours((const void *)ctx->args[0]))
        add(&connection_tallies, CONNECTION_RETRANSMITS, 1);
    return 0;
}

/* The namespace a packet is in: of its device, else of its socket. */
static __always_inline bool is_our_packet(const struct sk_buff *skb) {
    __u32 inode = BPF_CORE_READ(skb, dev, nd_net.net, ns.inum);
    if (!inode)
        inode = BPF_CORE_READ(skb, sk, __sk_common.skc_net.net, ns.inum);
    return inode == network_namespace;
}

SEC("raw_tp/tcp_send_reset")
int connection_send_reset(struct bpf_raw_tracepoint_args *ctx) {
    const struct sock *sk = (const void *)ctx->args[0];
    const struct sk_buff *skb = (const void *)ctx->args[1];
    if (sk ? is_ours(sk) : is_our_packet(skb)) /* to a port nobody listens on there is no socket */
        add(&connection_tallies, CONNECTION_RESETS_SENT, 1);
    return 0;
}

SEC("raw_tp/tcp_receive_reset")
int connection_receive_reset(struct bpf_raw_tracepoint_args *ctx) {
    if (is_ours((const void *)ctx->args[0]))
        add(&connection_tallies, CONNECTION_RESETS_RECEIVED, 1);
    return 0;
}

SEC("raw_tp/kfree_skb")
int connection_drop(struct bpf_raw_tracepoint_args *ctx) {
    __u32 reason = 0;

    if (bpf_core_type_exists(enum skb_drop_reason)) /* 5.17; before it, no reason is told */
        reason = ctx->args[2];
    if (!is_our_packet((const void *)ctx->args[0]))
        return 0;
    if (reason >= CONNECTION_DROPS)
        reason = CONNECTION_DROPS - 1;
    add(&connection_drops, reason, 1);
    return 0;
}

static __always_inline void copy_address(__u8 *to, __be32 address) {
    __builtin_memset(to, 0, 10);
    to[10] = to[11] = 0xff;
    __builtin_memcpy(to + 12, &address, 4);
}

static __always_inline bool has_received_fin(__u16 state) {
    return state == TCP_CLOSE_WAIT || state == TCP_LAST_ACK || state == TCP_CLOSING;
}

SEC("iter/tcp")
int connection_rows(struct bpf_iter__tcp *ctx) {
    struct sock_common *common = ctx->sk_common;
    struct seq_file *seq = ctx->meta->seq;
    struct connection_row row = {};

    if (!common)
        return 0;
    const struct sock *sk = (const void *)common;
    const struct tcp_sock *tcp = (const void *)common;
    if (BPF_CORE_READ(common, skc_family) == AF_INET) {
        row.family = 4;
        copy_address(row.local, BPF_CORE_READ(common, skc_rcv_saddr));
        copy_address(row.remote, BPF_CORE_READ(common, skc_daddr));
    } else {
        row.family = 6;
        BPF_CORE_READ_INTO(&row.local, common, skc_v6_rcv_saddr);
        BPF_CORE_READ_INTO(&row.remote, common, skc_v6_daddr);
    }
    row.local_port = BPF_CORE_READ(common, skc_num);
    row.remote_port = bpf_ntohs(BPF_CORE_READ(common, skc_dport));
    row.state = BPF_CORE_READ(common, skc_state);
    if (row.state != TCP_TIME_WAIT &&
        row.state != TCP_NEW_SYN_RECV) { /* those two have no more than the common part */
        __u64 key = (__u64)sk;
        row.inode = BPF_CORE_READ(sk, sk_socket, file, f_inode, i_ino);
        if (bpf_core_field_exists(
                sk->sk_cgrp_data.cgroup)) /* 5.15; before it, a word of bits and a pointer */
            row.cgroup = BPF_CORE_READ(sk, sk_cgrp_data.cgroup, kn, id);
        row.backlog = BPF_CORE_READ(sk, sk_ack_backlog);
        row.backlog_max = BPF_CORE_READ(sk, sk_max_ack_backlog);
        if (row.state != TCP_LISTEN) {
            row.sent = BPF_CORE_READ(tcp, bytes_sent) - BPF_CORE_READ(tcp, bytes_retrans);
            row.received = BPF_CORE_READ(tcp, bytes_received);
            if (has_received_fin(row.state) && row.received) /* the kernel counts it as a byte */
                row.received--;
            row.rtt_us = BPF_CORE_READ(tcp, srtt_us) >> 3;
            row.retransmits = BPF_CORE_READ(tcp, total_retrans);
            struct connection_birth *birth = bpf_map_lookup_elem(&connection_births, &key);
            if (birth)
                row.opened_ns = birth->ns ? birth->ns : birth->asked_ns;
        }
    }
    bpf_seq_write(seq, &row, sizeof(row));
    return 0;
}

struct connection_types {
    enum connection_tally tally;
    struct connection_birth birth;
    struct connection_row row;
    struct connection_identity identity;
};
struct connection_types *connection_types;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
