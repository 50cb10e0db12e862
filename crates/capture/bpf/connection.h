/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What passes between the connection programs and user space. Pinned: see network.h. */
#pragma once

/* Counted per CPU. */
enum connection_tally {
    CONNECTION_OPENED,
    CONNECTION_CLOSED,
    CONNECTION_REFUSED, /* attempts that failed, by the socket's error */
    CONNECTION_TIMED_OUT,
    CONNECTION_UNREACHABLE,
    CONNECTION_RESET,
    CONNECTION_ABANDONED, /* closed by the program before it was answered */
    CONNECTION_FAILED,    /* any other error */
    CONNECTION_RETRANSMITS,
    CONNECTION_RESETS_SENT,
    CONNECTION_RESETS_RECEIVED,
    CONNECTION_RTT_SUM,      /* µs */
    CONNECTION_DURATION_SUM, /* µs */
    CONNECTION_TALLIES,
};

/* Powers of two of µs: bucket i counts values up to 2^i. */
#define CONNECTION_BUCKETS 40
/* Reasons the kernel drops a packet for, by its own number; the last is all others. */
#define CONNECTION_DROPS 256

/* What is kept of a connection while it lives. */
struct connection_birth {
    __u64 ns; /* when it was established; 0: not yet */
    __u64 asked_ns;
    __u32 inner_end; /* the accepted end of a connection within this namespace: the other one is counted */
    __u32 pad;
};

/* A socket, as the iterator finds it. */
struct connection_row {
    __u8 local[16], remote[16]; /* IPv4 behind ::ffff */
    __u16 local_port, remote_port;
    __u16 family; /* 4 or 6 */
    __u16 state;  /* as in the kernel's tcp_states.h */
    __u64 inode;  /* of the socket's file; 0: none yet, or no longer */
    __u64 cgroup;
    __u64 sent; /* payload bytes, repetitions not counted */
    __u64 received;
    __u64 opened_ns; /* CLOCK_MONOTONIC; 0: before counting began */
    __u32 rtt_us;
    __u32 retransmits;
    __u32 backlog; /* of a listener: connections that wait to be accepted, and how many may */
    __u32 backlog_max;
};

struct connection_identity {
    __u64 layout;
    __u64 netns_cookie;
    __u64 began_ns;
};
