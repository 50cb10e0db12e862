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

#include "http.h"
#include "pid.h"
#include "socket.h"
#include "syscall.h"

#define AF_INET 2
#define AF_INET6 10
#define TCP_CLOSE 7
#define MSG_OOB 1
#define MSG_PEEK 2
#define MSG_TRUNC 0x20
#define MSG_ERRQUEUE 0x2000

/* Bytes copied of a piece that begins with the head of a response: its body mostly follows. */
#define RESPONSE_BYTES 4096
/* Where no piece has begun with a head for so many bytes, a body is on its way ... */
#define BODY_RUN 65536
/* ... and so much of each piece is copied. */
#define BODY_BYTES 256
/* Pieces of a connection met in its middle that are looked at before it is given up. */
#define JOINED_LOOKS 64
/* Bytes in which a connection that began with few must show a head. */
#define TENTATIVE_BYTES 16384
/* The same after a protocol was left. */
#define SWITCHED_LOOKS 8
/* Bytes copied of TLS in each direction: what tells names and versions stands at the beginning. */
#define HANDSHAKE_BYTES 4096

/* Filled before the programs are loaded. */
const volatile __u32 agent_pid_namespace;
const volatile __u32 agent_pid; /* as that namespace names it */
const volatile __u32 wake_at;   /* bytes waiting in the ring at which the agent is woken */

enum verdict {
    VERDICT_UNKNOWN,
    VERDICT_IGNORED,
    VERDICT_HTTP1,
    VERDICT_HTTP2,
    VERDICT_TLS,
};

/* What is remembered of a connection, as long as its socket lives. */
struct socket_state {
    __u64 cookie;
    __u64 position[2]; /* behind the last byte moved */
    __u32 sequence[2]; /* the same as the socket counts, modulo 2^32 */
    __u32 run[2];      /* HTTP/1: bytes since a head; TLS: bytes of the handshake still to be copied */
    __u16 flags;       /* enum socket_flags */
    __u8 verdict;
    __u8 looks;    /* left, while unknown */
    __u8 tunnel;   /* CONNECT was asked for */
    __u8 messages; /* moved by calls that take several messages */
    __u8 ended;
    __u8 tentative; /* began with so few bytes that no head was recognised yet */
};

struct {
    __uint(type, BPF_MAP_TYPE_SK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, int);
    __type(value, struct socket_state);
} socket_states SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 8 << 20);
} socket_records SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __type(key, __u32);
    __type(value, __u64);
    __uint(max_entries, SOCKET_TALLIES);
} socket_tallies SEC(".maps");

/* Names of processes that are left out. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __type(key, char[16]);
    __type(value, __u32);
    __uint(max_entries, 256);
} socket_excluded SEC(".maps");

struct scratch {
    struct socket_record record;
    __u8 bytes[2 * SOCKET_BYTES_MAX]; /* the verifier bounds offset and length apart */
};

/* Two for each CPU, one a program: the kernel runs each of them once at a time on a CPU. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __type(key, __u32);
    __type(value, struct scratch);
    __uint(max_entries, 2);
} socket_scratch SEC(".maps");

static __always_inline void tally(__u32 which, __u64 by) {
    __u64 *count = bpf_map_lookup_elem(&socket_tallies, &which);
    if (count) /* ends come in soft interrupts */
        __sync_fetch_and_add(count, by);
}

struct gathering {
    __u64 vectors;
    __u32 row;
    __u32 at;
    __u32 limit;
    __u32 failed;
};

static long gather_vector(__u64 index, struct gathering *g) {
    struct scratch *s = bpf_map_lookup_elem(&socket_scratch, &g->row);
    struct user_iovec vector;
    __u32 at = g->at;

    if (!s || at >= g->limit)
        return 1;
    if (bpf_probe_read_user(&vector, sizeof(vector), (void *)(g->vectors + index * sizeof(vector)))) {
        g->failed = 1;
        return 1;
    }
    __u64 size = vector.length;
    if (size > g->limit - at)
        size = g->limit - at;
    if (!size)
        return 0;
    barrier_var(size);
    if (size > SOCKET_BYTES_MAX)
        return 1;
    if (bpf_probe_read_user(s->bytes + (at & (SOCKET_BYTES_MAX - 1)), size, (void *)vector.base)) {
        g->failed = 1;
        return 1;
    }
    g->at = at + size;
    return 0;
}

#define GATHER_FAILED (1u << 31)

/*
 * Copies up to `limit` bytes to the scratch row; how many, with GATHER_FAILED where more could not be read.
 * Global, as are other functions of numbers only: the verifier looks at such a function once, not for every
 * way to come to it.
 */
__noinline __u32 gather(__u32 row, __u64 vectors, __u64 count, __u64 base, __u32 limit) {
    if (!vectors) {
        struct scratch *s = bpf_map_lookup_elem(&socket_scratch, &row);
        if (!s || limit > SOCKET_BYTES_MAX)
            return 0;
        return bpf_probe_read_user(s->bytes, limit, (void *)base) ? GATHER_FAILED : limit;
    }
    struct gathering g = {.vectors = vectors, .row = row, .limit = limit};
    bpf_loop(count < 1024 ? count : 1024, gather_vector, &g, 0);
    __u32 at = g.at;
    return g.failed ? at | GATHER_FAILED : at;
}

/* What the bytes in a scratch row begin like. */
__noinline __u32 row_shape(__u32 row, __u32 copied) {
    struct scratch *s = bpf_map_lookup_elem(&socket_scratch, &row);
    return s ? shape_of(s->bytes, copied) : SHAPE_OTHER;
}

static __always_inline void copy_address(__u8 *to, __be32 address) {
    __builtin_memset(to, 0, 10);
    to[10] = to[11] = 0xff;
    __builtin_memcpy(to + 12, &address, 4);
}

static __always_inline void describe(struct socket_record *record, struct sock *sk,
                                     struct socket_state *state) {
    record->connection = state->cookie;
    record->at_ns = bpf_ktime_get_ns();
    record->network_namespace = sk->__sk_common.skc_net.net->ns.inum;
    record->local_port = sk->__sk_common.skc_num;
    record->remote_port = bpf_ntohs(sk->__sk_common.skc_dport);
    record->flags = state->flags;
    if (sk->__sk_common.skc_family == AF_INET) {
        copy_address(record->local, sk->__sk_common.skc_rcv_saddr);
        copy_address(record->remote, sk->__sk_common.skc_daddr);
    } else {
        BPF_CORE_READ_INTO(&record->local, sk, __sk_common.skc_v6_rcv_saddr);
        BPF_CORE_READ_INTO(&record->remote, sk, __sk_common.skc_v6_daddr);
    }
}

static __always_inline void describe_caller(struct socket_record *record) {
    struct task_struct *task = (void *)bpf_get_current_task_btf();

    record->pid = bpf_get_current_pid_tgid() >> 32;
    record->cgroup = bpf_get_current_cgroup_id();
    bpf_probe_read_kernel_str(record->comm, sizeof(record->comm), task->group_leader->comm);
}

static __always_inline __u64 wake_flags(void) {
    return bpf_ringbuf_query(&socket_records, BPF_RB_AVAIL_DATA) > wake_at ? BPF_RB_FORCE_WAKEUP
                                                                           : BPF_RB_NO_WAKEUP;
}

/* Bytes the program has taken out of, or put into, the socket since the connection began. */
static __always_inline __u64 received_in_all(struct tcp_sock *tcp) {
    return tcp->bytes_received - (__u32)(tcp->rcv_nxt - tcp->copied_seq);
}

static __always_inline __u64 sent_in_all(struct tcp_sock *tcp) {
    return tcp->bytes_sent - tcp->bytes_retrans + (__u32)(tcp->write_seq - tcp->snd_nxt);
}

/*
 * Which end this is. The caller's SYN is counted among the bytes that were acknowledged, and the answer to it
 * is not. A packet may be about to change these: then the next piece tells.
 */
static __always_inline __u16 side_of(struct tcp_sock *tcp) {
    __u32 first = tcp->write_seq - (__u32)sent_in_all(tcp);
    __u32 more = (__u32)tcp->bytes_acked - (tcp->snd_una - first);
    return more == 0 ? SOCKET_CALLED : more == 1 ? SOCKET_CALLER : 0;
}

__noinline int is_left_out(void) {
    struct task_struct *task = (void *)bpf_get_current_task_btf();
    char comm[16] = {};

    if (is_compat(task)) {
        tally(SOCKET_COMPAT, 1);
        return true;
    }
    if (pid_in_namespace(task, agent_pid_namespace) == agent_pid)
        return true;
    BPF_CORE_READ_STR_INTO(&comm, task, group_leader, comm);
    if (bpf_map_lookup_elem(&socket_excluded, comm)) {
        tally(SOCKET_EXCLUDED, 1);
        return true;
    }
    return false;
}

/* `length` bytes were moved in `direction`: behind them the stream stands at what the socket tells. */
static __always_inline void meet(struct socket_state *state, struct sock *sk, struct tcp_sock *tcp,
                                 __u32 direction, __u32 length) {
    __u64 in_all[2] = {received_in_all(tcp), sent_in_all(tcp)};

    state->cookie = bpf_get_socket_cookie(sk);
    state->position[SOCKET_RECEIVED] = in_all[SOCKET_RECEIVED];
    state->position[SOCKET_SENT] = in_all[SOCKET_SENT];
    state->sequence[SOCKET_RECEIVED] = tcp->copied_seq;
    state->sequence[SOCKET_SENT] = tcp->write_seq;
    if (in_all[SOCKET_RECEIVED] + in_all[SOCKET_SENT] > length)
        state->flags |= SOCKET_JOINED;
    state->looks = state->flags & SOCKET_JOINED ? JOINED_LOOKS : 1;
    if (!sk->sk_socket || !sk->sk_socket->file) /* the kernel's own */
        state->verdict = VERDICT_IGNORED;
}

/* Gives a connection up, or watches it, by how a piece of it begins. */
static __always_inline void judge(struct socket_state *state, enum shape shape, const __u8 *b, __u32 copied) {
    switch (shape) {
    case SHAPE_REQUEST:
    case SHAPE_CONNECT:
    case SHAPE_RESPONSE:
    case SHAPE_SWITCH:
    case SHAPE_PROXY:
        state->verdict = VERDICT_HTTP1;
        break;
    case SHAPE_PREFACE:
    case SHAPE_SETTINGS:
        state->verdict = VERDICT_HTTP2;
        break;
    case SHAPE_FRAME:
        if (state->flags & SOCKET_JOINED)
            state->verdict = VERDICT_HTTP2;
        break;
    case SHAPE_HANDSHAKE:
        state->verdict = VERDICT_TLS;
        state->run[0] = state->run[1] = HANDSHAKE_BYTES;
        break;
    case SHAPE_TLS:
        if (state->flags & SOCKET_JOINED)
            state->verdict = VERDICT_TLS;
        break;
    case SHAPE_OTHER:
        if (!(state->flags & SOCKET_JOINED) && may_become_http(b, copied)) {
            state->verdict = VERDICT_HTTP1;
            state->tentative = 1;
        }
        break;
    }
    if (state->verdict != VERDICT_UNKNOWN) {
        tally(state->verdict == VERDICT_TLS ? SOCKET_TLS : SOCKET_WATCHED, 1);
        return;
    }
    if (state->looks)
        state->looks--;
    if (!state->looks) {
        state->verdict = VERDICT_IGNORED;
        tally(SOCKET_OTHER, 1);
    }
}

/* From here on this connection speaks something else, which may be HTTP/2 or TLS. */
static __always_inline void leave_http(struct socket_state *state) {
    state->verdict = VERDICT_UNKNOWN;
    state->flags |= SOCKET_JOINED;
    state->looks = SWITCHED_LOOKS;
    state->tunnel = 0;
}

static __always_inline bool is_request_direction(const struct socket_state *state, __u32 direction) {
    return !(state->flags & (direction == SOCKET_RECEIVED ? SOCKET_CALLER : SOCKET_CALLED));
}

/* How many bytes of a piece to copy; whether it must be known for that how it begins. */
static __always_inline __u32 wanted(const struct socket_state *state, __u32 direction) {
    if (state->verdict == VERDICT_TLS)
        return state->run[direction];
    if (state->verdict == VERDICT_HTTP2 || is_request_direction(state, direction))
        return SOCKET_BYTES_MAX;
    return RESPONSE_BYTES;
}

/* The piece moved by the call this thread is in. */
static __always_inline int moved(struct sock *sk, int length, __u32 direction, bool has_buffer) {
    struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
    if (!tcp)
        return 0;
    struct socket_state *state = bpf_sk_storage_get(&socket_states, sk, 0, 0);
    struct task_struct *task = (void *)bpf_get_current_task_btf();
    if (length <= 0) {
        if (state && state->messages)
            forget_message();
        return 0;
    }
    if (!state) {
        state = bpf_sk_storage_get(&socket_states, sk, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
        if (!state) {
            tally(SOCKET_NO_STATE, 1);
            return 0;
        }
        meet(state, sk, tcp, direction, length);
        if (is_left_out())
            state->verdict = VERDICT_IGNORED;
    }
    if (state->verdict == VERDICT_IGNORED || state->ended)
        return 0;

    __u32 sequence = direction == SOCKET_RECEIVED ? tcp->copied_seq : tcp->write_seq;
    state->position[direction] += (__s32)(sequence - state->sequence[direction]);
    state->sequence[direction] = sequence;
    if (!(state->flags & (SOCKET_CALLED | SOCKET_CALLER)))
        state->flags |= side_of(tcp);
    if (state->verdict == VERDICT_TLS && !state->run[direction])
        return 0;

    __u32 row = bpf_get_smp_processor_id() * 2 + direction;
    struct scratch *s = bpf_map_lookup_elem(&socket_scratch, &row);
    if (!s)
        return 0;
    struct pt_regs *regs = (void *)bpf_task_pt_regs((void *)task);
    struct user_buffer buffer;
    __u32 copied = 0, failed = 0;
    enum shape shape = SHAPE_OTHER;

    __builtin_memset(s->bytes, 0, SHAPE_BYTES);
    has_buffer = find_buffer(&buffer, regs, length) && has_buffer;
    if (buffer.messages)
        state->messages = 1;
    if (has_buffer) {
        bool is_body = state->verdict == VERDICT_HTTP1 && state->run[direction] > BODY_RUN;
        __u32 limit = wanted(state, direction), first = BODY_BYTES;
        if (limit > SOCKET_BYTES_MAX)
            limit = SOCKET_BYTES_MAX;
        if (limit > length)
            limit = length;
        if (first > limit)
            first = limit;
        /* What may not be wanted is looked at first. */
        bool looks = is_body || state->verdict == VERDICT_UNKNOWN;
        copied = gather(row, buffer.vectors, buffer.count, buffer.base, looks ? first : limit);
        if (state->verdict != VERDICT_TLS)
            shape = row_shape(row, copied & ~GATHER_FAILED);
        if (state->verdict == VERDICT_UNKNOWN)
            judge(state, shape, s->bytes, copied & ~GATHER_FAILED);
        if (state->verdict == VERDICT_UNKNOWN || state->verdict == VERDICT_IGNORED)
            return 0;
        if (looks && (shape != SHAPE_OTHER || !is_body) && copied < limit)
            copied = gather(row, buffer.vectors, buffer.count, buffer.base, limit);
        failed = copied & GATHER_FAILED;
        copied &= ~GATHER_FAILED;
    } else if (state->verdict == VERDICT_UNKNOWN) {
        judge(state, shape, s->bytes, 0);
        return 0;
    }

    struct socket_record *record = &s->record;
    describe(record, sk, state);
    describe_caller(record);
    record->kind = SOCKET_PIECE;
    record->direction = direction;
    record->length = length;
    record->copied = copied;
    record->position = state->position[direction] > length ? state->position[direction] - length : 0;
    if (!has_buffer) {
        record->flags |= SOCKET_NO_BUFFER;
        tally(SOCKET_BUFFERLESS, 1);
    }
    if (failed) {
        record->flags |= SOCKET_UNREADABLE;
        tally(SOCKET_FAULTS, 1);
    }
    if (copied < length)
        tally(SOCKET_CUT, 1);

    if (state->verdict == VERDICT_TLS) {
        record->flags |= SOCKET_HANDSHAKE;
        state->run[direction] -= copied < state->run[direction] ? copied : state->run[direction];
    } else if (shape != SHAPE_OTHER) {
        state->run[direction] = 0;
        state->tentative = 0;
    } else if (state->run[direction] <= BODY_RUN) {
        state->run[direction] += length;
    }

    __u64 size = sizeof(*record) + copied;
    barrier_var(size);
    if (size > sizeof(*record) + SOCKET_BYTES_MAX)
        size = sizeof(*record) + SOCKET_BYTES_MAX;
    if (bpf_ringbuf_output(&socket_records, record, size, wake_flags())) {
        tally(SOCKET_LOST, 1);
        tally(SOCKET_LOST_BYTES, length);
    } else {
        tally(SOCKET_PIECES, 1);
        tally(SOCKET_COPIED, copied);
    }

    if (state->verdict == VERDICT_HTTP1) {
        if (shape == SHAPE_CONNECT)
            state->tunnel = 1;
        else if (shape == SHAPE_SWITCH || (shape == SHAPE_RESPONSE && state->tunnel && s->bytes[9] == '2'))
            leave_http(state);
        if (state->tentative && state->position[0] + state->position[1] > TENTATIVE_BYTES)
            state->verdict = VERDICT_IGNORED;
    }
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

/* Is told once for each connection of which something was told. */
static __always_inline void end(struct sock *sk, bool destroyed) {
    struct socket_state *state = bpf_sk_storage_get(&socket_states, sk, 0, 0);

    if (!state || state->ended || state->verdict == VERDICT_IGNORED || state->verdict == VERDICT_UNKNOWN)
        return;
    if (!destroyed) {
        struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
        /* What waits to be read (the end counts for one byte) may still be. */
        if (tcp && (__u32)(tcp->rcv_nxt - tcp->copied_seq) > 1)
            return;
    }
    state->ended = 1;
    struct socket_record *record = bpf_ringbuf_reserve(&socket_records, sizeof(*record), 0);
    if (!record) {
        tally(SOCKET_LOST_ENDS, 1);
        return;
    }
    __builtin_memset(record, 0, sizeof(*record));
    describe(record, sk, state);
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
    return 0;
}

struct socket_types {
    struct socket_record record;
    enum socket_record_kind kind;
    enum socket_direction direction;
    enum socket_flags flags;
    enum socket_tally tally;
};
struct socket_types *socket_types;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
