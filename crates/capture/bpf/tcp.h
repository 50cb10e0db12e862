/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a TCP socket tells of itself. */
#pragma once

#include "socket_state.h"
#include "tls.h"

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6

/* A member, plain where the verifier knows what is pointed to, with care where it does not. */
#define MEMBER(known, pointer, name) ((known) ? (pointer)->name : BPF_CORE_READ(pointer, name))

struct tcp_place {
    __u32 copied_seq, write_seq;
    __u64 left_ns;
};

static __always_inline struct tcp_place place_of(const struct tcp_sock *tcp, bool known) {
    struct tcp_place place = {
        .copied_seq = MEMBER(known, tcp, copied_seq),
        .write_seq = MEMBER(known, tcp, write_seq),
        .left_ns = MEMBER(known, tcp, tcp_wstamp_ns),
    };
    return place;
}

/* Bytes the program has taken out of the socket since the connection began. */
static __always_inline __u64 received_in_all(const struct tcp_sock *tcp, bool known) {
    __u32 waiting = MEMBER(known, tcp, rcv_nxt) - MEMBER(known, tcp, copied_seq);
    return MEMBER(known, tcp, bytes_received) - waiting;
}

/* Bytes it has put into it. */
static __always_inline __u64 sent_in_all(const struct tcp_sock *tcp, bool known) {
    __u32 waiting = MEMBER(known, tcp, write_seq) - MEMBER(known, tcp, snd_nxt);
    return MEMBER(known, tcp, bytes_sent) - MEMBER(known, tcp, bytes_retrans) + waiting;
}

/*
 * Which end this is. The caller's SYN is counted among the bytes that were acknowledged, and the answer to it
 * is not. A packet may be about to change these: then the next piece tells.
 */
static __always_inline __u16 side_of(const struct tcp_sock *tcp, bool known) {
    __u32 first = MEMBER(known, tcp, write_seq) - (__u32)sent_in_all(tcp, known);
    __u32 more = (__u32)MEMBER(known, tcp, bytes_acked) - (MEMBER(known, tcp, snd_una) - first);
    return more == 0 ? SOCKET_CALLED : more == 1 ? SOCKET_CALLER : 0;
}

static __always_inline void copy_address(__u8 *to, __be32 address) {
    __builtin_memset(to, 0, 10);
    to[10] = to[11] = 0xff;
    __builtin_memcpy(to + 12, &address, 4);
}

static __always_inline void find_ends(struct socket_ends *ends, const struct sock *sk, bool known) {
    ends->network_namespace =
        known ? sk->__sk_common.skc_net.net->ns.inum : BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
    ends->local_port = MEMBER(known, sk, __sk_common.skc_num);
    ends->remote_port = bpf_ntohs(MEMBER(known, sk, __sk_common.skc_dport));
    if (MEMBER(known, sk, __sk_common.skc_family) == AF_INET) {
        copy_address(ends->local, MEMBER(known, sk, __sk_common.skc_rcv_saddr));
        copy_address(ends->remote, MEMBER(known, sk, __sk_common.skc_daddr));
    } else {
        BPF_CORE_READ_INTO(&ends->local, sk, __sk_common.skc_v6_rcv_saddr);
        BPF_CORE_READ_INTO(&ends->remote, sk, __sk_common.skc_v6_daddr);
    }
}

/* A socket that moved `length` bytes is met: its streams stand at what it tells. */
static __always_inline void meet(struct socket_state *state, const struct sock *sk,
                                 const struct tcp_sock *tcp, bool known, __u64 cookie, __u32 length) {
    struct conversation *c = &state->talk;

    state->cookie = cookie;
    state->met_ns = bpf_ktime_get_ns();
    c->position[SOCKET_RECEIVED] = received_in_all(tcp, known);
    c->position[SOCKET_SENT] = sent_in_all(tcp, known);
    state->sequence[SOCKET_RECEIVED] = MEMBER(known, tcp, copied_seq);
    state->sequence[SOCKET_SENT] = MEMBER(known, tcp, write_seq);
    find_ends(&state->ends, sk, known);
    if (c->position[SOCKET_RECEIVED] + c->position[SOCKET_SENT] > length)
        c->flags |= SOCKET_JOINED;
    c->looks = c->flags & SOCKET_JOINED ? JOINED_LOOKS : 1;
    bool has_file = known ? sk->sk_socket->file != 0 : BPF_CORE_READ(sk, sk_socket, file) != 0;
    if (!has_file || is_left_out()) /* the first: it is the kernel's own */
        c->verdict = VERDICT_IGNORED;
}

/*
 * Bytes were moved: notes where the streams stand now. When it was: of what was sent, when it began
 * to leave, for the answer may be there before the call is done. 0: nobody wants to know more.
 */
static __always_inline __u64 advance(struct socket_state *state, const struct tcp_sock *tcp, bool known,
                                     __u32 direction) {
    struct conversation *c = &state->talk;
    if (c->verdict == VERDICT_IGNORED || state->ended)
        return 0;

    struct tcp_place place = place_of(tcp, known);
    __u32 sequence = direction == SOCKET_RECEIVED ? place.copied_seq : place.write_seq;
    c->position[direction] += (__s32)(sequence - state->sequence[direction]);
    state->sequence[direction] = sequence;
    if (!(c->flags & (SOCKET_CALLED | SOCKET_CALLER)))
        c->flags |= side_of(tcp, known);
    if (c->verdict == VERDICT_TLS) {
        tell_tls(state, direction);
        if (!c->run[direction])
            return 0;
    }
    __u64 now = bpf_ktime_get_ns(), at_ns = now;
    if (direction == SOCKET_SENT) {
        /* Older than the last call: nothing could leave yet, and so it is of one who was called if it is
         * older than what was asked. Later than now: it was told to wait. */
        __u64 asked_ns = c->flags & SOCKET_CALLED ? state->done_ns[SOCKET_RECEIVED] : 0;
        if (place.left_ns > state->done_ns[SOCKET_SENT] && place.left_ns > asked_ns && place.left_ns < now)
            at_ns = place.left_ns;
    }
    state->done_ns[direction & 1] = now;
    return at_ns;
}
