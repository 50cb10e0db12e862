/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Whether a conversation is HTTP, and how much of its pieces is wanted. */
#pragma once

#include "http.h"
#include "socket.h"

/* Bytes copied of a piece that begins with the head of a response: its body mostly follows. */
#define RESPONSE_BYTES 4096
/* Where no piece has begun with a head for so many bytes, a body is on its way ... */
#define BODY_RUN 65536
/* ... and so much of each piece is copied. */
#define BODY_BYTES 256
/* Pieces of a conversation met in its middle that are looked at before it is given up. */
#define JOINED_LOOKS 64
/* The same after a protocol was left. */
#define SWITCHED_LOOKS 8
/* Bytes in which a conversation that began with few must show a head. */
#define TENTATIVE_BYTES 16384
/* Bytes copied of TLS in each direction: what tells names and versions stands at the beginning. */
#define HANDSHAKE_BYTES 4096

enum verdict {
    VERDICT_UNKNOWN,
    VERDICT_IGNORED,
    VERDICT_HTTP1,
    VERDICT_HTTP2,
    VERDICT_TLS,
};

struct conversation {
    __u64 position[2]; /* behind the last byte moved */
    __u32 run[2];      /* HTTP/1: bytes since a head; TLS: bytes of the handshake still to be copied */
    __u16 flags;       /* enum socket_flags */
    __u8 verdict;
    __u8 looks;     /* left, while unknown */
    __u8 tunnel;    /* CONNECT was asked for */
    __u8 tentative; /* began with so few bytes that no head was recognised yet */
    __u16 pad;
};

static __always_inline bool is_http(const struct conversation *c) {
    return c->verdict == VERDICT_HTTP1 || c->verdict == VERDICT_HTTP2;
}

/* Gives a conversation up, or watches it, by how a piece of it begins. */
static __always_inline void judge(struct conversation *c, enum shape shape, const __u8 *b, __u32 copied) {
    switch (shape) {
    case SHAPE_REQUEST:
    case SHAPE_CONNECT:
    case SHAPE_RESPONSE:
    case SHAPE_SWITCH:
    case SHAPE_PROXY:
        c->verdict = VERDICT_HTTP1;
        break;
    case SHAPE_PREFACE:
    case SHAPE_SETTINGS:
        c->verdict = VERDICT_HTTP2;
        break;
    case SHAPE_FRAME:
        if (c->flags & SOCKET_JOINED)
            c->verdict = VERDICT_HTTP2;
        break;
    case SHAPE_HANDSHAKE:
        c->verdict = VERDICT_TLS;
        c->run[0] = c->run[1] = HANDSHAKE_BYTES;
        break;
    case SHAPE_TLS:
        if (c->flags & SOCKET_JOINED)
            c->verdict = VERDICT_TLS;
        break;
    case SHAPE_OTHER:
        if (!(c->flags & SOCKET_JOINED) && may_become_http(b, copied)) {
            c->verdict = VERDICT_HTTP1;
            c->tentative = 1;
        }
        break;
    }
    if (c->verdict != VERDICT_UNKNOWN)
        return;
    if (c->looks)
        c->looks--;
    if (!c->looks)
        c->verdict = VERDICT_IGNORED;
}

static __always_inline bool is_request_direction(const struct conversation *c, __u32 direction) {
    return !(c->flags & (direction == SOCKET_RECEIVED ? SOCKET_CALLER : SOCKET_CALLED));
}

/* How many bytes of a piece to copy at most. */
static __always_inline __u32 wanted(const struct conversation *c, __u32 direction) {
    if (c->verdict == VERDICT_TLS)
        return c->run[direction];
    if (c->verdict != VERDICT_HTTP1 || is_request_direction(c, direction))
        return SOCKET_BYTES_MAX;
    return RESPONSE_BYTES;
}

/* A body is on its way, of which little is wanted. */
static __always_inline bool is_in_body(const struct conversation *c, __u32 direction) {
    return c->verdict == VERDICT_HTTP1 && c->run[direction] > BODY_RUN;
}

/* What follows from a piece for the next ones. `status`: the first digit, of a response. */
static __always_inline void carry_on(struct conversation *c, __u32 direction, enum shape shape, __u32 length,
                                     __u32 copied, __u8 status) {
    if (c->verdict == VERDICT_TLS) {
        c->run[direction] -= copied < c->run[direction] ? copied : c->run[direction];
        return;
    }
    if (shape != SHAPE_OTHER) {
        c->run[direction] = 0;
        c->tentative = 0;
    } else if (c->run[direction] <= BODY_RUN) {
        c->run[direction] += length;
    }
    if (c->verdict != VERDICT_HTTP1)
        return;
    if (shape == SHAPE_CONNECT) {
        c->tunnel = 1;
    } else if (shape == SHAPE_SWITCH || (shape == SHAPE_RESPONSE && c->tunnel && status == '2')) {
        /* From here on something else is spoken, which may be HTTP/2 or TLS. */
        c->verdict = VERDICT_UNKNOWN;
        c->flags |= SOCKET_JOINED;
        c->looks = SWITCHED_LOOKS;
        c->tunnel = 0;
    }
    if (c->tentative && c->position[0] + c->position[1] > TENTATIVE_BYTES)
        c->verdict = VERDICT_IGNORED;
}
