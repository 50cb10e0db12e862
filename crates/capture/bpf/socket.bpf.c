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

#include "judge.h"
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

/* Filled before the programs are loaded. */
const volatile __u32 agent_pid_namespace;
const volatile __u32 agent_pid; /* as that namespace names it */
const volatile __u32 wake_at;   /* bytes waiting in the ring at which the agent is woken */

/* What is remembered of a connection, as long as its socket lives. */
struct socket_state {
    struct conversation talk;
    struct socket_ends ends;
    __u64 cookie;
    __u64 met_ns;
    __u32 sequence[2]; /* where the talk stands, as the socket counts it: modulo 2^32 */
    __u32 pid;         /* who moved the last piece, and its name */
    char comm[16];
    __u8 messages; /* moved by calls that take several messages */
    __u8 ended;
    __u8 pad[2];
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

/* As many, for what went through them. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __type(key, __u32);
    __type(value, struct socket_account);
    __uint(max_entries, 2);
} socket_accounts SEC(".maps");

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

/* Copies up to `limit` bytes to the scratch row; how many, with GATHER_FAILED where more could not be read.
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

static __always_inline void copy_address(__u8 *to, __be32 address) {
    __builtin_memset(to, 0, 10);
    to[10] = to[11] = 0xff;
    __builtin_memcpy(to + 12, &address, 4);
}

static __always_inline void find_ends(struct socket_ends *ends, struct sock *sk) {
    ends->network_namespace = sk->__sk_common.skc_net.net->ns.inum;
    ends->local_port = sk->__sk_common.skc_num;
    ends->remote_port = bpf_ntohs(sk->__sk_common.skc_dport);
    if (sk->__sk_common.skc_family == AF_INET) {
        copy_address(ends->local, sk->__sk_common.skc_rcv_saddr);
        copy_address(ends->remote, sk->__sk_common.skc_daddr);
    } else {
        BPF_CORE_READ_INTO(&ends->local, sk, __sk_common.skc_v6_rcv_saddr);
        BPF_CORE_READ_INTO(&ends->remote, sk, __sk_common.skc_v6_daddr);
    }
}

static __always_inline void read_comm(char *comm) {
    struct task_struct *task = (void *)bpf_get_current_task_btf();

    __builtin_memset(comm, 0, 16);
    bpf_probe_read_kernel_str(comm, 16, task->group_leader->comm);
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

#include "tls.h"

/* `length` bytes were moved in one direction: the streams stand at what the socket tells. */
static __always_inline void meet(struct socket_state *state, struct sock *sk, struct tcp_sock *tcp,
                                 __u32 length) {
    struct conversation *c = &state->talk;

    state->cookie = bpf_get_socket_cookie(sk);
    state->met_ns = bpf_ktime_get_ns();
    c->position[SOCKET_RECEIVED] = received_in_all(tcp);
    c->position[SOCKET_SENT] = sent_in_all(tcp);
    state->sequence[SOCKET_RECEIVED] = tcp->copied_seq;
    state->sequence[SOCKET_SENT] = tcp->write_seq;
    find_ends(&state->ends, sk);
    if (c->position[SOCKET_RECEIVED] + c->position[SOCKET_SENT] > length)
        c->flags |= SOCKET_JOINED;
    c->looks = c->flags & SOCKET_JOINED ? JOINED_LOOKS : 1;
    if (!sk->sk_socket || !sk->sk_socket->file || is_left_out()) /* the first two: it is the kernel's own */
        c->verdict = VERDICT_IGNORED;
}

static __always_inline struct tls_socket tls_socket(const struct socket_state *state) {
    struct tls_socket met = {
        .ends = state->ends, .cookie = state->cookie, .met_ns = state->met_ns, .flags = state->talk.flags};
    return met;
}

/* What the thread does with this socket may tell which TLS object it is below of. */
static __always_inline void tell_tls(const struct socket_state *state, __u32 direction) {
    if (!tls_attached)
        return;
    struct tls_socket met = tls_socket(state);
    meet_tls(&met, direction);
}

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
        meet(state, sk, tcp, length);
    }
    struct conversation *c = &state->talk;
    if (c->verdict == VERDICT_IGNORED || state->ended)
        return 0;

    __u32 sequence = direction == SOCKET_RECEIVED ? tcp->copied_seq : tcp->write_seq;
    c->position[direction] += (__s32)(sequence - state->sequence[direction]);
    state->sequence[direction] = sequence;
    if (!(c->flags & (SOCKET_CALLED | SOCKET_CALLER)))
        c->flags |= side_of(tcp);
    if (c->verdict == VERDICT_TLS) {
        tell_tls(state, direction);
        if (!c->run[direction])
            return 0;
    }

    __u32 row = bpf_get_smp_processor_id() * 2 + direction;
    struct scratch *s = bpf_map_lookup_elem(&socket_scratch, &row);
    struct socket_account *account = bpf_map_lookup_elem(&socket_accounts, &row);
    if (!s || !account)
        return 0;
    struct user_buffer buffer;
    __u32 copied = 0, failed = 0;
    enum shape shape = SHAPE_OTHER;

    __builtin_memset(s->bytes, 0, SHAPE_BYTES);
    has_buffer = find_buffer(&buffer, (void *)bpf_task_pt_regs((void *)bpf_get_current_task_btf()), length) &&
                 has_buffer;
    if (buffer.messages)
        state->messages = 1;
    if (has_buffer) {
        __u32 limit = wanted(c, direction), first = BODY_BYTES;
        bool in_body = is_in_body(c, direction);
        if (limit > SOCKET_BYTES_MAX)
            limit = SOCKET_BYTES_MAX;
        if (limit > length)
            limit = length;
        if (first > limit)
            first = limit;
        /* What may not be wanted is looked at first. */
        bool looks = in_body || c->verdict == VERDICT_UNKNOWN;
        copied = gather(row, buffer.vectors, buffer.count, buffer.base, looks ? first : limit);
        if (c->verdict != VERDICT_TLS)
            shape = shape_of((const struct shape_bytes *)s->bytes, copied & ~GATHER_FAILED);
        if (c->verdict == VERDICT_UNKNOWN) {
            judge(c, shape, s->bytes, copied & ~GATHER_FAILED);
            if (c->verdict == VERDICT_UNKNOWN)
                return 0;
            if (c->verdict == VERDICT_IGNORED) {
                tally(SOCKET_OTHER, 1);
                return 0;
            }
            tally(is_http(c) ? SOCKET_WATCHED : SOCKET_TLS, 1);
            if (c->verdict == VERDICT_TLS) {
                struct tls_socket met = tls_socket(state);
                bpf_map_update_elem(&tls_sockets, &state->cookie, &met, BPF_ANY);
                tell_tls(state, direction);
                if (!c->run[direction]) /* joined: the handshake is over */
                    return 0;
            }
        }
        /* Of TLS only what is said in the open, at the beginning. */
        if (c->verdict == VERDICT_TLS && s->bytes[0] == TLS_APPLICATION_DATA && s->bytes[1] == 3) {
            c->run[direction] = 0;
            return 0;
        }
        if (looks && (!in_body || shape != SHAPE_OTHER) && copied < limit)
            copied = gather(row, buffer.vectors, buffer.count, buffer.base, limit);
        failed = copied & GATHER_FAILED;
        copied &= ~GATHER_FAILED;
    } else if (c->verdict == VERDICT_UNKNOWN) {
        judge(c, shape, s->bytes, 0);
        return 0;
    }

    struct socket_record *record = &s->record;
    record->connection = state->cookie;
    record->at_ns = bpf_ktime_get_ns();
    record->ends = state->ends;
    record->flags = c->flags;
    record->cgroup = bpf_get_current_cgroup_id();
    record->pid = bpf_get_current_pid_tgid() >> 32;
    if (record->pid != state->pid) {
        state->pid = record->pid;
        read_comm(state->comm);
    }
    __builtin_memcpy(record->comm, state->comm, sizeof(record->comm));
    record->kind = SOCKET_PIECE;
    record->direction = direction;
    record->length = length;
    record->copied = copied;
    record->position = c->position[direction] > length ? c->position[direction] - length : 0;
    if (c->verdict == VERDICT_TLS)
        record->flags |= SOCKET_HANDSHAKE;
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

    __u64 size = sizeof(*record) + copied;
    barrier_var(size);
    if (size > sizeof(*record) + SOCKET_BYTES_MAX)
        size = sizeof(*record) + SOCKET_BYTES_MAX;
    /* Looking how full the ring is costs as much as a piece's head. */
    __u64 wake = account->pieces & 15 ? BPF_RB_NO_WAKEUP : wake_flags();
    if (bpf_ringbuf_output(&socket_records, record, size, wake)) {
        tally(SOCKET_LOST, 1);
        tally(SOCKET_LOST_BYTES, length);
    } else {
        account->pieces++;
        account->copied += copied;
    }
    carry_on(c, direction, shape, length, copied, s->bytes[9]);
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

    if (!state || state->ended || state->talk.verdict == VERDICT_IGNORED ||
        state->talk.verdict == VERDICT_UNKNOWN)
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
