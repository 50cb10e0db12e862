/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What passes between the attempt programs and user space. */
#pragma once

enum attempt_stage {
    ATTEMPT_BEGAN = 1,
    ATTEMPT_ENDED = 2,
};

enum attempt_outcome {
    ATTEMPT_ESTABLISHED = 1,
    ATTEMPT_REFUSED,
    ATTEMPT_TIMED_OUT,
    ATTEMPT_UNREACHABLE,
    ATTEMPT_RESET,
    ATTEMPT_NOT_SENT, /* refused by another program, no route, no port */
    ATTEMPT_ABANDONED,
    ATTEMPT_FAILED,
};

/* Counted per CPU. */
enum attempt_tally {
    ATTEMPTS_SEEN,      /* begun */
    ATTEMPTS_ENDED,     /* those of them whose end was seen */
    ATTEMPTS_RING_FULL, /* begun, and not told: the ring was full */
    ATTEMPT_ENDS_RING_FULL,
    ATTEMPTS_TABLE_FULL, /* begun and told, but the end is not followed: too many at once */
    ATTEMPTS_UNFOLLOWED, /* begun and told, but the end is not: MPTCP */
    ATTEMPT_TALLIES,
};

/* An attempt, in the table while it lasts, and in the ring when it begins and when it ends. */
struct attempt_record {
    __u64 socket;   /* its cookie */
    __u64 began_ns; /* CLOCK_MONOTONIC */
    __u64 ended_ns;
    __u64 cgroup;             /* id in the unified hierarchy */
    __u8 asked[16];           /* IPv4 behind ::ffff */
    __u8 local[16], peer[16]; /* the socket's own, once it is sent; 0 before */
    __u16 asked_port, local_port, peer_port;
    __u8 stage, outcome;
    __u32 pid; /* as the agent's /proc names it; 0: not visible there */
    __u32 network_namespace;
    __u32 sent;
    __u32 pad;
    char comm[16]; /* of the process, not of the thread */
};
