/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What passes between the process probe and user space. */
#pragma once

enum process_change {
    PROCESS_EXEC = 1,
    PROCESS_EXIT = 2,
};

struct process_event {
    __u32 change;
    __u32 pid;       /* in the kernel's first namespace */
    __u32 agent_pid; /* the same process as the agent's /proc names it; 0: not visible there */
    __u32 pad;
    char comm[16];
};
