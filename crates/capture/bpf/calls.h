/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Kernels before 6.4 do not tell of what is sent and received at the socket: there the end of each system
 * call that can do it is looked at, and the socket is found by its descriptor. Every system call of the
 * machine passes here, if only for its number. What io_uring moves does not: it shows as a gap.
 */
#pragma once

#include "piece.h"
#include "tcp.h"

/* The message's length, where a call moves several. */
static __always_inline __s64 all_messages(__u64 array, __s64 count) {
    __s64 all = 0;

    for (int i = 0; i < 16; i++) {
        __u32 length = 0;
        if (i >= count)
            break;
        bpf_probe_read_user(&length, sizeof(length),
                            (void *)(array + i * sizeof(struct user_messages) +
                                     __builtin_offsetof(struct user_messages, length)));
        all += length;
    }
    return all;
}

static __always_inline void call_moved(struct sock *sk, struct pt_regs *regs, __s64 length, __u32 direction,
                                       bool loops) {
    __u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);
    if ((family != AF_INET && family != AF_INET6) || BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP)
        return;
    __u64 address = (__u64)sk;
    struct socket_state *state = bpf_map_lookup_elem(&socket_states_by_address, &address);
    if (!state) {
        static const struct socket_state none;
        bpf_map_update_elem(&socket_states_by_address, &address, &none, BPF_NOEXIST);
        state = bpf_map_lookup_elem(&socket_states_by_address, &address);
        if (!state) {
            tally(SOCKET_NO_STATE, 1);
            return;
        }
        /* The kernel gives cookies to those who ask, and this program cannot. */
        meet(state, sk, (void *)sk, false, bpf_ktime_get_ns() | 1ULL << 63, length);
    }
    __u64 at_ns = advance(state, (void *)sk, false, direction);
    if (!at_ns)
        return;
    struct user_buffer buffer;
    bool found = find_buffer(&buffer, regs, length, false);
    piece(state, direction, length, at_ns, found ? &buffer : 0, loops);
}

static __always_inline int call_ended(struct pt_regs *regs, long result, bool loops) {
    __s64 length = result;
    __u32 flags = 0, direction;
    __s32 number = CALL_FIRST(regs);

    if (result <= 0)
        return 0;
    switch (CALL_NUMBER(regs)) {
    case NR_recvfrom:
        flags = CALL_FOURTH(regs);
        direction = SOCKET_RECEIVED;
        break;
    case NR_recvmsg:
        flags = CALL_THIRD(regs);
        direction = SOCKET_RECEIVED;
        break;
    case NR_recvmmsg:
        flags = CALL_FOURTH(regs);
        length = all_messages(CALL_SECOND(regs), result);
        direction = SOCKET_RECEIVED;
        break;
    case NR_read:
    case NR_readv:
    case NR_preadv2:
        direction = SOCKET_RECEIVED;
        break;
    case NR_sendmmsg:
        length = all_messages(CALL_SECOND(regs), result);
        direction = SOCKET_SENT;
        break;
    case NR_write:
    case NR_writev:
    case NR_pwritev2:
    case NR_sendto:
    case NR_sendmsg:
    case NR_sendfile:
        direction = SOCKET_SENT;
        break;
    case NR_splice: /* from a socket, or to one */
        direction = SOCKET_RECEIVED;
        break;
    default:
        return 0;
    }
    if (length <= 0 || length > 0x7fffffff || flags & (MSG_PEEK | MSG_OOB | MSG_ERRQUEUE | MSG_TRUNC))
        return 0;
    struct sock *sk = socket_of(number);
    if (!sk && CALL_NUMBER(regs) == NR_splice) {
        direction = SOCKET_SENT;
        sk = socket_of((__s32)CALL_THIRD(regs));
    }
    if (sk)
        call_moved(sk, regs, length, direction, loops);
    return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(socket_call, struct pt_regs *regs, long result) {
    return call_ended(regs, result, true);
}

/* For kernels without bpf_loop (5.17), or whose verifier gives it up: of a call with many vectors, the first
 * are read. */
SEC("tp_btf/sys_exit")
int BPF_PROG(socket_call_few, struct pt_regs *regs, long result) {
    return call_ended(regs, result, false);
}
