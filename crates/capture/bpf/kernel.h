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
    unsigned long di, si, dx, cx, ax, sp, ip;
    unsigned long bx, r10, r14;
    unsigned long orig_ax;
} RELOCATED;
#elif defined(__TARGET_ARCH_arm64)
struct user_pt_regs {
    __u64 regs[31];
    __u64 sp;
    __u64 pc;
} RELOCATED;
struct pt_regs {
    struct user_pt_regs user_regs;
    __u64 orig_x0;
    int syscallno;
} RELOCATED;
#endif

struct thread_info {
    unsigned long flags;
    __u32 status; /* x86 */
} RELOCATED;

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

struct net;

struct nsproxy {
    struct net *net_ns;
} RELOCATED;

struct task_struct {
    struct thread_info thread_info;
    int pid;
    int tgid;
    struct pid *thread_pid;
    struct nsproxy *nsproxy;
    struct css_set *cgroups;
    struct task_struct *group_leader;
    struct files_struct *files;
    char comm[16];
} RELOCATED;

typedef struct {
    struct net *net;
} possible_net_t;

struct net {
    struct ns_common ns;
} RELOCATED;

struct net_device {
    possible_net_t nd_net;
    int ifindex;
} RELOCATED;

struct in6_addr_kernel {
    __u8 bytes[16];
};

typedef struct {
    __s64 counter;
} atomic64_t;

struct sock_common {
    __be32 skc_daddr;
    __be32 skc_rcv_saddr;
    __be16 skc_dport;
    __u16 skc_num;
    unsigned short skc_family;
    volatile unsigned char skc_state;
    possible_net_t skc_net;
    atomic64_t skc_cookie;
    struct in6_addr_kernel skc_v6_daddr;
    struct in6_addr_kernel skc_v6_rcv_saddr;
} RELOCATED;

struct kernfs_node {
    __u64 id;
} RELOCATED;

struct cgroup {
    struct kernfs_node *kn;
} RELOCATED;

struct css_set {
    struct cgroup *dfl_cgrp; /* in the unified hierarchy */
} RELOCATED;

struct sock_cgroup_data {
    struct cgroup *cgroup;
} RELOCATED;

struct inode {
    __u16 i_mode;
    unsigned long i_ino;
} RELOCATED;

struct file {
    struct inode *f_inode;
    void *private_data;
} RELOCATED;

struct fdtable {
    unsigned int max_fds;
    struct file **fd;
} RELOCATED;

struct files_struct {
    struct fdtable *fdt;
} RELOCATED;

struct socket {
    struct file *file;
    struct sock *sk;
} RELOCATED;

struct dst_entry {
    struct net_device *dev;
} RELOCATED;

struct sock {
    struct sock_common __sk_common;
    struct dst_entry *sk_dst_cache;
    struct socket *sk_socket;
    struct sock_cgroup_data sk_cgrp_data;
    int sk_err;
    __u16 sk_protocol;
    __u32 sk_ack_backlog;
    __u32 sk_max_ack_backlog;
} RELOCATED;

struct inet_sock {
    __be16 inet_sport;
} RELOCATED;

struct tcp_sock {
    __u64 bytes_sent;
    __u64 bytes_retrans;
    __u64 bytes_received;
    __u64 bytes_acked;
    __u32 copied_seq, rcv_nxt;
    __u32 write_seq, snd_nxt, snd_una;
    __u64 tcp_wstamp_ns; /* when the last packet left, CLOCK_MONOTONIC */
    __u32 srtt_us;
    __u32 total_retrans;
} RELOCATED;

struct sk_buff {
    struct net_device *dev;
    struct sock *sk;
} RELOCATED;

enum skb_drop_reason {
    SKB_DROP_REASON_NOT_SPECIFIED = 2,
};

struct seq_file;

struct bpf_iter_meta {
    struct seq_file *seq;
} RELOCATED;

struct bpf_iter__tcp {
    struct bpf_iter_meta *meta;
    struct sock_common *sk_common;
} RELOCATED;
