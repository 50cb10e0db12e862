/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What passes between the hold's programs and user space. */
#pragma once

/* Addresses held at once. */
#define HOLD_ADDRESSES 8192
/* Pods' interfaces at once. */
#define HOLD_PODS 2048
/* Bytes of a SYN with its headers: Ethernet 14, IPv6 40 (IPv4 20), TCP 60 at most. */
#define HOLD_SYN 128

/* An address and port that refusals are held back from; IPv4 as ::ffff:a.b.c.d. Ports here and below as on
 * the wire. */
struct hold_address {
    __u8 address[16];
    __u16 port;
    __u16 pad;
};

struct hold_terms {
    __u64 limit_ns; /* counted from an attempt's first SYN */
    __u64 refuses;  /* a refusal was held back */
};

/* An attempt to connect: who to whom, by which veth. */
struct hold_key {
    __u8 client[16];
    __u8 service[16];
    __u16 client_port;
    __u16 service_port;
    __u32 ifindex;
};

enum hold_state {
    HOLD_WAITING = 0,
    HOLD_ANSWERED = 1, /* a SYN-ACK has passed: nothing is held back any more */
};

struct hold_attempt {
    __u64 first_ns; /* CLOCK_MONOTONIC, as all times here */
    __u64 until_ns;
    __u64 cookie; /* of the socket; 0: not known */
    __u32 isn;    /* the SYN's sequence number: which attempt of this key it is */
    __u16 len;    /* bytes of the SYN: its headers only */
    __u8 state;
    __u8 pad;
    __u8 syn[HOLD_SYN]; /* the newest, as it came from the pod: its checksum may be partial */
};

enum hold_event_kind {
    HOLD_BEGAN = 1,     /* a first SYN; of a key known before, another attempt */
    HOLD_CONNECTED = 2, /* its SYN-ACK passes to the pod */
    HOLD_REFUSED = 3,   /* its time is over, and a refusal passes to the pod */
    HOLD_REFUSES = 4,   /* the first refusal of its address was held back */
    HOLD_GAVE_UP = 5,   /* the socket with this cookie was closed before it was connected; no key */
};

struct hold_event {
    __u64 at_ns;
    __u64 until_ns;
    __u64 cookie;
    struct hold_key key;
    __u32 isn;
    __u32 kind;
};

/* What is counted, per CPU. */
enum hold_tally {
    HOLD_ATTEMPTS,        /* attempts held */
    HOLD_RETRANSMITTED,   /* SYNs of an attempt known already */
    HOLD_DROPPED_RESETS,  /* refusals held back: TCP resets */
    HOLD_DROPPED_ICMP,    /* … ICMP errors */
    HOLD_TALLY_CONNECTED, /* SYN-ACKs of held attempts */
    HOLD_TALLY_REFUSED,   /* refusals let through since the attempt's time was over */
    HOLD_LEASE_OVER,      /* SYNs and refusals that nothing was done with since the agent's lease had ended */
    HOLD_NO_ROOM,         /* attempts not held: the table is full */
    HOLD_QUOTA,           /* attempts not held: their pod has as many as it may */
    HOLD_NO_EVENT,        /* events that found no room in the ring */
    HOLD_TALLIES,
};
