/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the first bytes of a piece look like. */
#pragma once

enum shape {
    SHAPE_OTHER,
    SHAPE_REQUEST,   /* a request line of HTTP/1 */
    SHAPE_CONNECT,   /* … that asks for a tunnel */
    SHAPE_RESPONSE,  /* a status line of HTTP/1 */
    SHAPE_SWITCH,    /* … that leaves HTTP: 101 */
    SHAPE_PREFACE,   /* HTTP/2, from its beginning */
    SHAPE_SETTINGS,  /* … its other side */
    SHAPE_FRAME,     /* HTTP/2, somewhere */
    SHAPE_PROXY,     /* a PROXY header, HTTP may follow */
    SHAPE_HANDSHAKE, /* TLS */
    SHAPE_TLS,       /* TLS, somewhere */
};

#define TLS_APPLICATION_DATA 23

/* Enough for all of them; behind what was copied stand zeros. */
#define SHAPE_BYTES 24

struct shape_bytes {
    __u8 b[SHAPE_BYTES];
} __attribute__((aligned(8)));

#define WORD(a, b, c, d) ((__u32)(a) | (__u32)(b) << 8 | (__u32)(c) << 16 | (__u32)(d) << 24)
#define WORDS(a, b, c, d, e, f, g, h) ((__u64)WORD(a, b, c, d) | (__u64)WORD(e, f, g, h) << 32)

static __always_inline bool is_upper(__u8 c) {
    return c >= 'A' && c <= 'Z';
}

/* A method, a space, and how a target begins. */
static __always_inline bool is_request_line(const __u8 *b) {
    for (int i = 0; i < 18; i++) {
        if (is_upper(b[i]) || (i && b[i] == '-'))
            continue;
        if (i < 3 || b[i] != ' ')
            return false;
        return b[i + 1] == '/' || b[i + 1] == '*' || (b[i + 1] == 'h' && b[i + 2] == 't' && b[i + 3] == 't');
    }
    return false;
}

/* The nine bytes of a frame's head, of a kind that has such a length, such flags and such a stream. */
static __always_inline enum shape frame_shape(const __u8 *b) {
    __u32 length = (__u32)b[0] << 16 | (__u32)b[1] << 8 | b[2];
    __u32 stream = (__u32)b[5] << 24 | (__u32)b[6] << 16 | (__u32)b[7] << 8 | b[8];
    __u8 flags = b[4];

    if (stream >> 31 || length > 1 << 20)
        return SHAPE_OTHER;
    switch (b[3]) {
    case 0: /* DATA */
        return stream && !(flags & ~0x09) && (length || flags & 1) ? SHAPE_FRAME : SHAPE_OTHER;
    case 1: /* HEADERS */
        return stream && length && flags & 0x04 && !(flags & ~0x2d) ? SHAPE_FRAME : SHAPE_OTHER;
    case 3: /* RST_STREAM */
        return stream && length == 4 && !flags ? SHAPE_FRAME : SHAPE_OTHER;
    case 4: /* SETTINGS */
        if (stream || flags > 1 || length % 6 || (flags && length) || length > 600)
            return SHAPE_OTHER;
        return flags ? SHAPE_FRAME : SHAPE_SETTINGS;
    case 6: /* PING */
        return !stream && length == 8 && flags <= 1 ? SHAPE_FRAME : SHAPE_OTHER;
    case 7: /* GOAWAY */
        return !stream && length >= 8 && !flags ? SHAPE_FRAME : SHAPE_OTHER;
    case 8: /* WINDOW_UPDATE */
        return length == 4 && !flags ? SHAPE_FRAME : SHAPE_OTHER;
    default:
        return SHAPE_OTHER;
    }
}

/* The five bytes of a TLS record's head. Libraries read them alone, before the rest. */
static __always_inline enum shape record_shape(const __u8 *b, __u32 copied) {
    __u32 length = (__u32)b[3] << 8 | b[4];

    if (b[1] != 3 || b[2] > 4 || length - 1 >= 16384 + 256)
        return SHAPE_OTHER;
    if (b[0] == 22)
        return copied <= 5 || b[5] == 1 || b[5] == 2 ? SHAPE_HANDSHAKE : SHAPE_TLS;
    return b[0] >= 20 && b[0] <= 23 ? SHAPE_TLS : SHAPE_OTHER;
}

/* `b` is aligned to 8. */
static __always_inline enum shape shape_of(const __u8 *b, __u32 copied) {
    __u64 words = *(const __u64 *)b;
    __u32 word = words;

    if (word == WORD('G', 'E', 'T', ' ') || words << 24 == WORDS('P', 'O', 'S', 'T', ' ', 0, 0, 0) << 24)
        return SHAPE_REQUEST;
    if (words << 8 >> 8 == WORDS('H', 'T', 'T', 'P', '/', '1', '.', 0))
        return *(const __u32 *)(b + 8) == WORD(' ', '1', '0', '1') ? SHAPE_SWITCH : SHAPE_RESPONSE;
    if (words == WORDS('C', 'O', 'N', 'N', 'E', 'C', 'T', ' '))
        return SHAPE_CONNECT;
    if (words == WORDS('P', 'R', 'I', ' ', '*', ' ', 'H', 'T'))
        return SHAPE_PREFACE;
    if (words << 16 >> 16 == WORDS('P', 'R', 'O', 'X', 'Y', ' ', 0, 0) ||
        words == WORDS('\r', '\n', '\r', '\n', 0, '\r', '\n', 'Q'))
        return SHAPE_PROXY;
    if (is_upper(b[0]))
        return is_request_line(b) ? SHAPE_REQUEST : SHAPE_OTHER;
    if (copied < 5)
        return SHAPE_OTHER;
    enum shape shape = record_shape(b, copied);
    if (shape == SHAPE_OTHER && copied >= 9)
        shape = frame_shape(b);
    return shape;
}

/* So few bytes that more may make it a request line, or the preface. */
static __always_inline bool may_become_http(const __u8 *b, __u32 copied) {
    return copied && copied < 8 && is_upper(b[0]) && (copied < 2 || is_upper(b[1])) &&
           (copied < 3 || is_upper(b[2]));
}
