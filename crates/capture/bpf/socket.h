/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What passes between the socket programs and user space. */
#pragma once

/* Most bytes of a piece. */
#define SOCKET_BYTES_MAX 16384
/* Most pieces of what one call moved, where all of it is wanted. */
#define SOCKET_PIECES_MAX 16

enum socket_record_kind {
    SOCKET_PIECE = 1, /* bytes moved */
    SOCKET_END = 2,   /* the connection is over */
};

enum socket_direction {
    SOCKET_RECEIVED = 0,
    SOCKET_SENT = 1,
};

enum socket_flags {
    SOCKET_CALLED = 1,     /* this end was called (accepted) */
    SOCKET_CALLER = 2,     /* this end called (connected); neither: not known yet */
    SOCKET_JOINED = 4,     /* bytes had been moved before the first that was seen */
    SOCKET_HANDSHAKE = 8,  /* the bytes are of TLS records: the handshake's first messages */
    SOCKET_DECRYPTED = 16, /* the bytes are what a TLS library was given or gave */
    SOCKET_NO_SOCKET =
        32, /* decrypted, and the socket is not known for sure: `connection` is the library's object */
    SOCKET_UNREADABLE = 64, /* some bytes could not be read: fewer were copied than would have been */
    SOCKET_NO_BUFFER = 128, /* the call has no buffer in user memory (sendfile, splice, io_uring) */
};

struct socket_ends {
    __u8 local[16], remote[16]; /* IPv4 behind ::ffff */
    __u16 local_port, remote_port;
    __u32 network_namespace; /* 0: no socket is known */
};

/* Followed by `copied` bytes. */
struct socket_record {
    __u64 connection; /* the socket's cookie; with SOCKET_NO_SOCKET the address of the library's object */
    __u64 position;   /* of the first byte in the stream of its direction */
    __u64 at_ns;      /* CLOCK_MONOTONIC, when the call was done */
    __u64 cgroup;     /* of the caller */
    __u32 length;     /* bytes moved */
    __u32 copied;     /* of those, how many follow: the first */
    struct socket_ends ends;
    __u32 pid;   /* in the kernel's first namespace */
    __u16 flags; /* enum socket_flags */
    __u8 kind;   /* enum socket_record_kind */
    __u8 direction;
    char comm[16]; /* of the process, not the thread */
};

/* What was handed over by way of a row of scratch memory. */
struct socket_account {
    __u64 pieces;
    __u64 copied;
};

/* Counted per CPU. */
enum socket_tally {
    SOCKET_PIECES,     /* handed over; of TLS, for the others see socket_account */
    SOCKET_COPIED,     /* bytes handed over; likewise */
    SOCKET_LOST,       /* pieces that found no room in the ring */
    SOCKET_LOST_BYTES, /* bytes moved in them */
    SOCKET_LOST_ENDS,  /* ends of connections that found none */
    SOCKET_CUT,        /* pieces of which not all was copied */
    SOCKET_BUFFERLESS, /* pieces without bytes: the call had no buffer */
    SOCKET_FAULTS,     /* pieces whose bytes could not all be read */
    SOCKET_COMPAT,     /* connections left out: 32-bit processes */
    SOCKET_EXCLUDED,   /* connections left out: by the process's name */
    SOCKET_OTHER,      /* connections left out: not HTTP */
    SOCKET_CALLERS,    /* connections left out: the calling end */
    SOCKET_NO_STATE,   /* pieces left out: no memory to remember the connection */
    SOCKET_WATCHED,    /* connections that speak HTTP */
    SOCKET_TLS,        /* connections that speak TLS */
    SOCKET_TALLIES,
};
