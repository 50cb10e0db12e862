// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Processes that begin (exec) or end: a gateway that starts after the agent is attached to within
 * milliseconds, before it has workers, and a worker that dies has its open requests counted.
 */
#include "kernel.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "pid.h"
#include "process.h"

const volatile __u32 agent_pid_namespace;

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 256 << 10);
} process_events SEC(".maps");

static __always_inline void submit(struct task_struct *task, __u32 change) {
    struct process_event *event = bpf_ringbuf_reserve(&process_events, sizeof(*event), 0);
    if (!event) /* the agent's next look through /proc makes it good */
        return;
    event->change = change;
    event->pid = BPF_CORE_READ(task, tgid);
    event->agent_pid = pid_in_namespace(task, agent_pid_namespace);
    event->pad = 0;
    BPF_CORE_READ_STR_INTO(&event->comm, task, comm);
    bpf_ringbuf_submit(event, 0);
}

SEC("raw_tp/sched_process_exec")
int process_exec(struct bpf_raw_tracepoint_args *ctx) {
    submit((void *)ctx->args[0], PROCESS_EXEC);
    return 0;
}

SEC("raw_tp/sched_process_exit")
int process_exit(struct bpf_raw_tracepoint_args *ctx) {
    struct task_struct *task = (void *)ctx->args[0];
    if (BPF_CORE_READ(task, pid) == BPF_CORE_READ(task, tgid)) /* the process, not one of its threads */
        submit(task, PROCESS_EXIT);
    return 0;
}

struct process_types {
    struct process_event event;
    enum process_change change;
};
struct process_types *process_types;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
