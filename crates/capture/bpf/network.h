/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What passes between the packet programs and user space. These maps are pinned and outlive the agent: a
 * change of this file changes the layout's hash, by which a newer agent knows whether it can take them over.
 */
#pragma once

/* Interfaces counted at once. */
#define NETWORK_SLOTS 256
/* Below this, interface indices are looked up in an array, which costs almost nothing; above, in a hash. */
#define NETWORK_LOW_INDICES 1024
/* Bytes kept of a sample: of a short one, of a long one. */
#define NETWORK_SAMPLE_SHORT 256
#define NETWORK_SAMPLE_LONG 1536

enum network_family {
    NETWORK_IPV4 = 0,
    NETWORK_IPV6 = 1,
    NETWORK_OTHER = 2,
    NETWORK_FAMILIES = 3,
};

enum network_protocol {
    NETWORK_TCP = 0,
    NETWORK_UDP = 1,
    NETWORK_ICMP = 2,
    NETWORK_SCTP = 3,
    NETWORK_OTHERS = 4,
    NETWORK_PROTOCOLS = 5,
};

/* A counter's place within those of an interface and direction; 16 to each. */
enum network_class {
    NETWORK_FILTERED = 15, /* before it: family * NETWORK_PROTOCOLS + protocol */
    NETWORK_CLASSES = 16,
};

enum network_direction {
    NETWORK_INGRESS = 0,
    NETWORK_EGRESS = 1,
    NETWORK_DIRECTIONS = 2,
};

struct network_count {
    __u64 packets;
    __u64 bytes;
};

enum network_interface_flags {
    NETWORK_ETHERNET = 1, /* frames begin with an Ethernet header; else with IP */
    NETWORK_KNOWN = 4,    /* it has a slot */
    NETWORK_SEGMENTS = 2, /* what the stack hands over in one piece, the hardware cuts or has put together */
};

/* By interface index: what to do with its packets. */
struct network_interface {
    __u32 slot;
    __u32 flags;
};

/* By slot: whose counters they are. An interface that is made anew under its name goes on where it ended. */
struct network_slot {
    __u32 ifindex; /* 0: free */
    char name[16];
};

/*
 * A connection, whichever way its packet went: the end with the smaller address (then port) is end 0. IPv4
 * addresses stand in the last four bytes behind ::ffff.
 */
struct network_flow_key {
    __u8 address[2][16];
    __u16 port[2]; /* in the machine's order; 0 where the protocol has none */
    __u32 ifindex;
    __u16 vlan[2]; /* outer, inner; 0: none */
    __u8 protocol; /* IP's number */
    __u8 family;   /* enum network_family */
    __u16 pad;
};

/* Index 0: sent by end 0, 1: sent by end 1. What each packet touches stands together: 64 bytes. */
struct network_flow {
    __u64 packets[2];
    __u64 bytes[2];
    __u64 payload[2]; /* bytes behind the TCP or UDP header */
    __u64 last_ns;    /* CLOCK_MONOTONIC, to a timer tick */
    __u8 tcp_flags[2];
    __u8 egress[2];  /* end i sends by way of our egress */
    __u8 samples[2]; /* still wanted */
    __u8 first;      /* the end that sent the first packet */
    __u8 pad;
    __u64 cgroup[2]; /* of the socket that sent, where the packet was counted on its way out; 0: not known */
    __u64 first_ns;
};

/* The first bytes a connection carries, for telling its protocol. */
struct network_sample {
    struct network_flow_key key;
    __u32 wire_len; /* payload bytes in the packet */
    __u16 len;      /* of those, bytes that follow */
    __u8 sender;    /* end 0 or 1 */
    __u8 pad;
};

/* What is watched: entries of one kind combine by OR, kinds by AND. */
struct network_filter {
    __u32 kinds;     /* enum network_filter_kind */
    __u32 protocols; /* bits by enum network_protocol */
};

enum network_filter_kind {
    NETWORK_BY_PROTOCOL = 1,
    NETWORK_BY_PORT = 2,
    NETWORK_BY_NETWORK = 4,
};

/* Key of the trie of watched networks; IPv4 as ::ffff:a.b.c.d, its prefix 96 longer. */
struct network_prefix {
    __u32 bits;
    __u8 address[16];
};

/* What else is counted, per CPU. */
enum network_tally {
    NETWORK_FLOWS_TCP,     /* connections accounted for, begun */
    NETWORK_FLOWS_UDP,     /* … */
    NETWORK_FLOWS_OTHER,   /* … */
    NETWORK_NO_FLOW,       /* packets of no connection: not IP */
    NETWORK_NO_FLOW_BYTES, /* their bytes */
    NETWORK_MALFORMED, /* packets whose headers are cut or contradict themselves; they are of no connection */
    NETWORK_MALFORMED_BYTES, /* their bytes */
    NETWORK_NO_ROOM,         /* packets whose connection found no room in the table */
    NETWORK_NO_ROOM_BYTES,   /* their bytes */
    NETWORK_NO_SAMPLE,       /* samples that found no room in the ring */
    NETWORK_LONE_FRAGMENT,   /* later fragments whose first was not seen: accounted for without ports */
    NETWORK_NO_INTERFACE,    /* packets of an interface that has no slot */
    NETWORK_TALLIES,
};

/* Whose maps these are. */
struct network_identity {
    __u64 layout;       /* hash of this file */
    __u64 netns_cookie; /* of the network namespace; 0: the kernel has none */
    __u64 began_ns;     /* CLOCK_MONOTONIC: when counting began */
    __u64 alive_ns;     /* when an agent last said that it runs */
    __u64 absent_ns;    /* for how long, in all, none has run since counting began */
    __u64 ended_udp;    /* UDP flows that agents found ended */
};
