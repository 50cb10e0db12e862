// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What programs send and receive on TCP sockets, where it looks like HTTP: copied after each call, whichever
 * call it was, from the caller's own memory. The tracepoints give the socket, so that connections older than
 * the agent are seen too, and calls on other files cost nothing.
 *
 * A connection is judged by its first bytes, or by those it has when it is met. One that is found to speak
 * something else costs one lookup from then on.
 */
#include "kernel.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "socket_state.h"
#include "syscall.h"
#include "tcp.h"
#include "tls.h"
#include "tls_go.h"

#define TCP_CLOSE 7
#define MSG_OOB 1
#define MSG_PEEK 2
#define MSG_TRUNC 0x20
#define MSG_ERRQUEUE 0x2000

#include "calls.h"
#include "piece.h"

/* The call this thread is in has moved `length` bytes, or has failed. */
static __always_inline int moved(struct sock *sk, int length, __u32 direction, bool has_buffer) {
    struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
    if (!tcp)
        return 0;
    struct socket_state *state = bpf_sk_storage_get(&socket_states, sk, 0, 0);
    if (length <= 0) {
        if (state && state->messages)
            forget_message();
        if (state && state->talk.verdict == VERDICT_TLS)
            tell_tls(state, direction);
        return 0;
    }
    if (!state) {
        state = bpf_sk_storage_get(&socket_states, sk, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
        if (!state) {
            tally(SOCKET_NO_STATE, 1);
            return 0;
        }
        meet(state, sk, tcp, true, bpf_get_socket_cookie(sk), length);
    }
    __u64 at_ns = advance(state, tcp, true, direction);
    if (!at_ns)
        return 0;
    struct pt_regs *regs = (void *)bpf_task_pt_regs((void *)bpf_get_current_task_btf());
    struct user_buffer buffer;
    bool found = find_buffer(&buffer, regs, length, true);
    if (buffer.messages)
        state->messages = 1;
    piece(state, direction, length, at_ns, found && has_buffer ? &buffer : 0, true);
    return 0;
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(socket_received, struct sock *sk, int length, int flags) {
    if (flags & (MSG_PEEK | MSG_OOB | MSG_ERRQUEUE))
        return 0;
    return moved(sk, length, SOCKET_RECEIVED, !(flags & MSG_TRUNC));
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(socket_sent, struct sock *sk, int length, int flags) {
    return moved(sk, length, SOCKET_SENT, true);
}

static __always_inline struct socket_state *state_of(struct sock *sk) {
    __u64 address = (__u64)sk;
    return by_calls ? bpf_map_lookup_elem(&socket_states_by_address, &address)
                    : bpf_sk_storage_get(&socket_states, sk, 0, 0);
}

/* Is told once for each connection of which something was told. */
static __always_inline void end(struct sock *sk, bool destroyed) {
    struct socket_state *state = state_of(sk);

    if (!state || state->ended || state->talk.verdict == VERDICT_IGNORED ||
        state->talk.verdict == VERDICT_UNKNOWN)
        return;
    if (!destroyed) {
        const struct tcp_sock *tcp = (const void *)sk;
        /* What waits to be read (the end counts for one byte) may still be. */
        if ((__u32)(BPF_CORE_READ(tcp, rcv_nxt) - BPF_CORE_READ(tcp, copied_seq)) > 1)
            return;
    }
    state->ended = 1;
    struct socket_record *record = bpf_ringbuf_reserve(&socket_records, sizeof(*record), 0);
    if (!record) {
        tally(SOCKET_LOST_ENDS, 1);
        return;
    }
    __builtin_memset(record, 0, sizeof(*record));
    record->connection = state->cookie;
    record->at_ns = bpf_ktime_get_ns();
    record->kind = SOCKET_END;
    bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(socket_state_changed, struct sock *sk, int from, int to) {
    if (to == TCP_CLOSE)
        end(sk, false);
    return 0;
}

/* The program has let go of it. */
SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(socket_destroyed, struct sock *sk) {
    end(sk, true);
    if (by_calls) {
        __u64 address = (__u64)sk;
        bpf_map_delete_elem(&socket_states_by_address, &address);
    }
    return 0;
}

struct socket_types {
    struct socket_account account;
    struct socket_record record;
    enum socket_record_kind kind;
    enum socket_direction direction;
    enum socket_flags flags;
    enum socket_tally tally;
};
struct socket_types *socket_types;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
