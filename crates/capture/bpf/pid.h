/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once

/* The number of the task's process in the pid namespace with this inode; 0 where it has none there. */
static __always_inline __u32 pid_in_namespace(struct task_struct *task, __u32 namespace) {
    struct pid *pid = BPF_CORE_READ(task, group_leader, thread_pid);
    __u32 level = BPF_CORE_READ(pid, level);

    for (__u32 i = 0; i < 32; i++) {
        if (i > level)
            break;
        struct upid *upid =
            (void *)pid + bpf_core_field_offset(struct pid, numbers) + i * bpf_core_type_size(struct upid);
        if (BPF_CORE_READ(upid, ns, ns.inum) == namespace)
            return BPF_CORE_READ(upid, nr);
    }
    return 0;
}
