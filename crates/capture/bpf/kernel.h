/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The kernel types gatewatch depends on: only the fields that are read, relocated by CO-RE when the
 * program is loaded. Reads like a list of what we need from a kernel; the same for every architecture.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#define __VMLINUX_H__ /* bpf_tracing.h: use the kernel's register names below, not user space's */

#define RELOCATED __attribute__((preserve_access_index))

#if defined(__TARGET_ARCH_x86)
struct pt_regs {
    unsigned long di, si, dx, ax, sp, ip;
} RELOCATED;
#elif defined(__TARGET_ARCH_arm64)
struct user_pt_regs {
    __u64 regs[31];
    __u64 sp;
    __u64 pc;
} RELOCATED;
struct pt_regs {
    struct user_pt_regs user_regs;
} RELOCATED;
#endif

struct ns_common {
    unsigned int inum;
} RELOCATED;

struct pid_namespace {
    struct ns_common ns;
} RELOCATED;

struct upid {
    int nr;
    struct pid_namespace *ns;
} RELOCATED;

struct pid {
    unsigned int level;
    struct upid numbers[];
} RELOCATED;

struct task_struct {
    int pid;
    int tgid;
    struct pid *thread_pid;
    struct task_struct *group_leader;
    char comm[16];
} RELOCATED;
