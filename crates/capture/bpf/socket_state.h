/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is kept of sockets, and what all their programs use. */
#pragma once

#include "judge.h"
#include "socket.h"
#include "syscall.h"

/* Filled before the programs are loaded. */
const volatile __u32 wake_at;     /* bytes waiting in the ring at which the agent is woken */
const volatile bool servers_only; /* HTTP is of interest where it is served */
const volatile bool excludes;     /* some processes are left out by their names */
const volatile bool by_calls;     /* the kernel has no tracepoints at sockets: see calls.h */

/* The agent itself, as bpf_get_current_pid_tgid() tells it. */
__u32 agent_tgid;

/* The agent runs it once, whichever pid namespace it is in. */
SEC("raw_tp")
int socket_agent(void *ctx) {
    agent_tgid = bpf_get_current_pid_tgid() >> 32;
    return 0;
}

/* What is remembered of a connection, as long as its socket lives. */
struct socket_state {
    struct conversation talk;
    struct socket_ends ends;
    __u64 cookie;
    __u64 met_ns;
    __u64 done_ns[2];  /* when the last call was done, by direction */
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

/* The same by the socket's address, where the kernel cannot keep it with the socket. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __type(key, __u64);
    __type(value, struct socket_state);
    __uint(max_entries, 32768);
} socket_states_by_address SEC(".maps");

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

static __always_inline void tally(__u32 which, __u64 by) {
    __u64 *count = bpf_map_lookup_elem(&socket_tallies, &which);
    if (count) /* ends come in soft interrupts */
        __sync_fetch_and_add(count, by);
}

static __always_inline void read_comm(char *comm) {
    struct task_struct *task = (void *)bpf_get_current_task();

    __builtin_memset(comm, 0, 16);
    struct task_struct *leader = BPF_CORE_READ(task, group_leader);
    bpf_probe_read_kernel_str(comm, 16, &leader->comm);
}

static __always_inline __u64 wake_flags(void) {
    return bpf_ringbuf_query(&socket_records, BPF_RB_AVAIL_DATA) > wake_at ? BPF_RB_FORCE_WAKEUP
                                                                           : BPF_RB_NO_WAKEUP;
}

__noinline int is_left_out(void) {
    struct task_struct *task = (void *)bpf_get_current_task();
    char comm[16] = {};

    if (is_compat(task)) {
        tally(SOCKET_COMPAT, 1);
        return true;
    }
    if (bpf_get_current_pid_tgid() >> 32 == agent_tgid)
        return true;
    if (!excludes)
        return false;
    BPF_CORE_READ_STR_INTO(&comm, task, group_leader, comm);
    if (bpf_map_lookup_elem(&socket_excluded, comm)) {
        tally(SOCKET_EXCLUDED, 1);
        return true;
    }
    return false;
}
