// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Attempts to connect: the address a program asked for, before anything translates it, and what became of it.
 *
 * A cgroup/connect program runs once for each connect of a socket that is not connected yet, whoever began it
 * (connect, io_uring, TCP fast open), with the kernel's own copy of the address, and costs other system calls
 * nothing. At the root of the hierarchy, before all others (BPF_F_PREORDER), it sees the address that a
 * socket load balancer is about to rewrite or refuse. Where a kernel has no such order, the system call's own
 * tracepoint tells what was asked. It always allows.
 */
#include "kernel.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "attempt.h"
#include "pid.h"

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define IPPROTO_MPTCP 262

enum {
    TCP_ESTABLISHED = 1,
    TCP_SYN_SENT = 2,
    TCP_CLOSE = 7,
};

enum {
    ENETUNREACH = 101,
    ECONNRESET = 104,
    ETIMEDOUT = 110,
    ECONNREFUSED = 111,
    EHOSTUNREACH = 113,
};

const volatile __u32 agent_pid_namespace;
/* No cgroup program could be attached: an attempt begins when its socket does, and one that fails before that
 * is not seen. */
const volatile bool begins_at_state;

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 4 << 20);
} attempt_events SEC(".maps");

/* The oldest give way: whatever keeps the kernel from telling of ends, it heals. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __type(key, __u64); /* the socket's cookie */
    __type(value, struct attempt_record);
    __uint(max_entries, 32768);
} attempts_open SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __type(key, __u32);
    __type(value, __u64);
    __uint(max_entries, ATTEMPT_TALLIES);
} attempt_tallies SEC(".maps");

/* What the running system call of a thread asks for. */
struct asked {
    __u8 address[16];
    __u16 port;
    __u16 pad[3];
};
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __type(key, __u64);
    __type(value, struct asked);
    __uint(max_entries, 16384);
} attempt_calls SEC(".maps");

static __always_inline void add(__u32 index) {
    __u64 *count = bpf_map_lookup_elem(&attempt_tallies, &index);
    if (count)
        __sync_fetch_and_add(count, 1);
}

static __always_inline void map_ipv4(__u8 *to, __be32 address) {
    __builtin_memset(to, 0, 10);
    to[10] = to[11] = 0xff;
    __builtin_memcpy(to + 12, &address, 4);
}

static __always_inline bool is_tcp(__u32 protocol) {
    return protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP;
}

static __always_inline void tell(const struct attempt_record *record, __u32 lost) {
    if (bpf_ringbuf_output(&attempt_events, (void *)record, sizeof(*record), 0))
        add(lost);
}

static __always_inline void end(struct attempt_record *record, __u64 cookie, __u8 outcome) {
    record->stage = ATTEMPT_ENDED;
    record->outcome = outcome;
    record->ended_ns = bpf_ktime_get_ns();
    add(ATTEMPTS_ENDED);
    tell(record, ATTEMPT_ENDS_RING_FULL);
    bpf_map_delete_elem(&attempts_open, &cookie);
}

/* `followed`: what becomes of the socket is told of it, and not of another below it, as with MPTCP. */
static __always_inline void begin(struct attempt_record *record, bool followed) {
    struct task_struct *task = (void *)bpf_get_current_task();

    record->stage = ATTEMPT_BEGAN;
    record->began_ns = bpf_ktime_get_ns();
    record->pid = pid_in_namespace(task, agent_pid_namespace);
    record->network_namespace = BPF_CORE_READ(task, nsproxy, net_ns, ns.inum);
    record->cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
    BPF_CORE_READ_STR_INTO(&record->comm, task, group_leader, comm);
    add(ATTEMPTS_SEEN);
    tell(record, ATTEMPTS_RING_FULL);
    if (!followed)
        add(ATTEMPTS_UNFOLLOWED);
    else if (bpf_map_update_elem(&attempts_open, &record->socket, record, BPF_ANY))
        add(ATTEMPTS_TABLE_FULL);
}

/* bpf_get_current_pid_tgid, which cgroup programs have since 6.1 only. */
static __always_inline __u64 this_thread(void) {
    struct task_struct *task = (void *)bpf_get_current_task();
    return (__u64)BPF_CORE_READ(task, tgid) << 32 | (__u32)BPF_CORE_READ(task, pid);
}

static __always_inline int asked(struct bpf_sock_addr *ctx, struct attempt_record *record) {
    __u64 thread = this_thread();
    struct asked *call = bpf_map_lookup_elem(&attempt_calls, &thread);
    struct attempt_record *earlier;

    record->socket = bpf_get_socket_cookie(ctx);
    if (call) { /* before a program that ran earlier rewrote it */
        __builtin_memcpy(record->asked, call->address, sizeof(record->asked));
        record->asked_port = call->port;
    }
    earlier = bpf_map_lookup_elem(&attempts_open, &record->socket);
    if (earlier && !earlier->sent) /* the socket tries once more: the last try never left */
        end(earlier, record->socket, ATTEMPT_NOT_SENT);
    begin(record, ctx->protocol == IPPROTO_TCP);
    return 1;
}

SEC("cgroup/connect4")
int attempt_connect4(struct bpf_sock_addr *ctx) {
    struct attempt_record record = {};

    if (!is_tcp(ctx->protocol))
        return 1;
    map_ipv4(record.asked, ctx->user_ip4);
    record.asked_port = bpf_ntohs((__u16)ctx->user_port);
    return asked(ctx, &record);
}

SEC("cgroup/connect6")
int attempt_connect6(struct bpf_sock_addr *ctx) {
    struct attempt_record record = {};

    if (!is_tcp(ctx->protocol))
        return 1;
    __u32 words[4] = {ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]};
    __builtin_memcpy(record.asked, words, sizeof(words));
    record.asked_port = bpf_ntohs((__u16)ctx->user_port);
    return asked(ctx, &record);
}

/* A socket goes while its attempt never left: closed at once after a refusal. */
SEC("cgroup/sock_release")
int attempt_release(struct bpf_sock *ctx) {
    if (!is_tcp(ctx->protocol))
        return 1;
    __u64 cookie = bpf_get_socket_cookie(ctx);
    struct attempt_record *record = bpf_map_lookup_elem(&attempts_open, &cookie);
    if (record && !record->sent)
        end(record, cookie, ATTEMPT_NOT_SENT);
    return 1;
}

struct syscall_enter {
    __u64 common;
    __s64 number;
    __u64 arguments[6];
};

SEC("tracepoint/syscalls/sys_enter_connect")
int attempt_call(struct syscall_enter *ctx) {
    const void *address = (const void *)ctx->arguments[1];
    __u64 thread = this_thread();
    struct asked call = {};
    __u16 family = 0;
    __be16 port = 0;

    if (bpf_probe_read_user(&family, sizeof(family), address) ||
        bpf_probe_read_user(&port, sizeof(port), address + 2))
        return 0;
    call.port = bpf_ntohs(port);
    if (family == AF_INET && ctx->arguments[2] >= 16) {
        __be32 ip = 0;
        if (bpf_probe_read_user(&ip, sizeof(ip), address + 4))
            return 0;
        map_ipv4(call.address, ip);
    } else if (family == AF_INET6 && ctx->arguments[2] >= 24) {
        if (bpf_probe_read_user(call.address, sizeof(call.address), address + 8))
            return 0;
    } else {
        return 0;
    }
    bpf_map_update_elem(&attempt_calls, &thread, &call, BPF_ANY);
    return 0;
}

SEC("tracepoint/syscalls/sys_exit_connect")
int attempt_called(void *ctx) {
    __u64 thread = this_thread();
    bpf_map_delete_elem(&attempt_calls, &thread);
    return 0;
}

static __always_inline void places(const struct sock *sk, struct attempt_record *record) {
    if (BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET) {
        map_ipv4(record->local, BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr));
        map_ipv4(record->peer, BPF_CORE_READ(sk, __sk_common.skc_daddr));
    } else {
        BPF_CORE_READ_INTO(&record->local, sk, __sk_common.skc_v6_rcv_saddr);
        BPF_CORE_READ_INTO(&record->peer, sk, __sk_common.skc_v6_daddr);
    }
    record->local_port = BPF_CORE_READ(sk, __sk_common.skc_num);
    record->peer_port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
}

static __always_inline __u8 outcome(const struct attempt_record *record, int error) {
    switch (error) {
    case 0: /* the kernel found no port, or the program closed */
        return record->local_port ? ATTEMPT_ABANDONED : ATTEMPT_NOT_SENT;
    case ECONNREFUSED:
        return ATTEMPT_REFUSED;
    case ETIMEDOUT:
        return ATTEMPT_TIMED_OUT;
    case EHOSTUNREACH:
    case ENETUNREACH:
        return ATTEMPT_UNREACHABLE;
    case ECONNRESET:
        return ATTEMPT_RESET;
    default:
        return ATTEMPT_FAILED;
    }
}

SEC("raw_tp/inet_sock_set_state")
int attempt_state(struct bpf_raw_tracepoint_args *ctx) {
    const struct sock *sk = (const void *)ctx->args[0];
    int to = ctx->args[2];
    struct attempt_record *record;

    if (to != TCP_SYN_SENT && to != TCP_ESTABLISHED && to != TCP_CLOSE)
        return 0;
    __u64 cookie = BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
    if (begins_at_state)
        cookie = (__u64)sk; /* nobody gave it one */
    if (!cookie)
        return 0;
    if (begins_at_state && to == TCP_SYN_SENT) {
        struct attempt_record fresh = {.socket = cookie, .sent = 1};
        places(sk, &fresh);
        __builtin_memcpy(fresh.asked, fresh.peer, sizeof(fresh.asked));
        fresh.asked_port = fresh.peer_port;
        begin(&fresh, true);
        return 0;
    }
    record = bpf_map_lookup_elem(&attempts_open, &cookie);
    if (!record)
        return 0;
    if (to == TCP_SYN_SENT) {
        record->sent = 1;
        places(sk, record);
    } else if (to == TCP_ESTABLISHED) {
        places(sk, record);
        end(record, cookie, ATTEMPT_ESTABLISHED);
    } else {
        /* its number has been given back already */
        record->local_port = bpf_ntohs(BPF_CORE_READ((const struct inet_sock *)sk, inet_sport));
        end(record, cookie, outcome(record, BPF_CORE_READ(sk, sk_err)));
    }
    return 0;
}

struct attempt_types {
    enum attempt_stage stage;
    enum attempt_outcome outcome;
    enum attempt_tally tally;
    struct attempt_record record;
};
struct attempt_types *attempt_types;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
