/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What TLS libraries are given to encrypt, and what they have decrypted: probes at the entry and the return
 * of the functions that read and write.
 *
 * Which socket it goes over: while a thread is inside such a function, what it does with a socket ties the
 * two. A library that is fed from memory does nothing with sockets; then the object is the connection, and
 * the socket that the thread received from last tells the addresses, once.
 */
#pragma once

#include "socket_state.h"
#include "syscall.h"

/* What a probe is for, in the low byte of its cookie; the rest is when it was attached, in 256 ns. */
enum tls_call_kind {
    TLS_WRITE = 1,    /* else it reads */
    TLS_EXTENDED = 2, /* its fourth argument is where the length goes; else it returns that */
};

struct tls_call_key {
    __u64 process_thread; /* of Go the process alone */
    __u64 goroutine;      /* a goroutine may change its thread; 0: not Go */
};

struct tls_call {
    __u64 object;
    __u64 buffer;
    __u64 length_at;
    __u64 cookie;
    __u64 began_ns;
};

struct tls_object_key {
    __u64 object;
    __u64 process;
};

struct tls_object {
    struct conversation talk;
    struct socket_ends ends;
    __u64 connection; /* the socket's cookie; 0: the object is the connection */
    __u8 settled;     /* pieces were told under it */
    __u8 guessed;
    __u8 pad[6];
};

/* A socket that speaks TLS. */
struct tls_socket {
    struct socket_ends ends;
    __u64 cookie;
    __u64 met_ns;
    __u16 flags;
    __u8 pad[6];
};

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __type(key, struct tls_call_key);
    __type(value, struct tls_call);
    __uint(max_entries, 8192);
} tls_calls SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __type(key, struct tls_object_key);
    __type(value, struct tls_object);
    __uint(max_entries, 16384);
} tls_objects SEC(".maps");

/* By cookie: all of them. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __type(key, __u64);
    __type(value, struct tls_socket);
    __uint(max_entries, 16384);
} tls_sockets SEC(".maps");

/* By thread: the socket it received from outside of any call. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __type(key, __u64);
    __type(value, struct tls_socket);
    __uint(max_entries, 4096);
} tls_last SEC(".maps");

/* By cookie: the object a socket was guessed to belong to. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __type(key, __u64);
    __type(value, __u64);
    __uint(max_entries, 16384);
} tls_claims SEC(".maps");

/* Set as long as there are probes. */
bool tls_attached;

static const struct tls_object no_object;

static __always_inline struct tls_object *object_of(const struct tls_object_key *key) {
    struct tls_object *object = bpf_map_lookup_elem(&tls_objects, key);
    if (object)
        return object;
    bpf_map_update_elem(&tls_objects, key, &no_object, BPF_NOEXIST);
    object = bpf_map_lookup_elem(&tls_objects, key);
    if (object) {
        object->talk.looks = JOINED_LOOKS;
        if (is_left_out())
            object->talk.verdict = VERDICT_IGNORED;
    }
    return object;
}

/* The object's bytes go over this socket. `attached`: since when the object's library is probed. */
static __always_inline void tie(struct tls_object *object, const struct tls_socket *to, __u64 attached) {
    if (object->connection == to->cookie)
        return;
    if (object->connection) /* the object serves another connection now */
        __builtin_memset(&object->talk, 0, sizeof(object->talk));
    else if (object->settled)
        return;
    object->connection = to->cookie;
    object->ends = to->ends;
    object->talk.flags = to->flags & (SOCKET_CALLED | SOCKET_CALLER | SOCKET_JOINED);
    if (to->met_ns < attached)
        object->talk.flags |= SOCKET_JOINED;
    object->talk.looks = object->talk.flags & SOCKET_JOINED ? JOINED_LOOKS : 1;
}

/* A thread has moved bytes on a socket that speaks TLS, or tried to. */
static __always_inline void meet_tls(const struct tls_socket *met, __u32 direction) {
    struct tls_call_key key = {.process_thread = bpf_get_current_pid_tgid()};
    struct tls_call *call = bpf_map_lookup_elem(&tls_calls, &key);

    if (call) {
        struct tls_object_key of = {.object = call->object, .process = key.process_thread >> 32};
        struct tls_object *object = object_of(&of);
        if (object)
            tie(object, met, call->cookie & ~0xffULL);
    } else if (direction == SOCKET_RECEIVED) {
        bpf_map_update_elem(&tls_last, &key.process_thread, met, BPF_ANY);
    }
}

static __always_inline struct tls_socket tls_socket(const struct socket_state *state) {
    struct tls_socket met = {
        .ends = state->ends, .cookie = state->cookie, .met_ns = state->met_ns, .flags = state->talk.flags};
    return met;
}

/* What the thread does with this socket may tell which TLS object it is below of. */
static __always_inline void tell_tls(const struct socket_state *state, __u32 direction) {
    if (!tls_attached)
        return;
    struct tls_socket met = tls_socket(state);
    meet_tls(&met, direction);
}

/* The addresses of an object that is fed from memory: of the socket its thread received from, if no other has
 * it. */
static __always_inline void guess(struct tls_object *object, const struct tls_object_key *key) {
    __u64 thread = bpf_get_current_pid_tgid();
    struct tls_socket *last = bpf_map_lookup_elem(&tls_last, &thread);

    if (!last)
        return;
    bpf_map_update_elem(&tls_claims, &last->cookie, &key->object, BPF_NOEXIST);
    __u64 *claim = bpf_map_lookup_elem(&tls_claims, &last->cookie);
    if (!claim || *claim != key->object)
        return;
    object->ends = last->ends;
    object->talk.flags |= last->flags & (SOCKET_CALLED | SOCKET_CALLER);
    object->guessed = 1;
}

static __always_inline bool submit_piece(struct socket_record *record, __u32 capacity,
                                         const struct socket_record *head, __u64 buffer) {
    if (!record)
        return false;
    *record = *head;
    __u32 copied = head->copied;
    barrier_var(copied);
    if (copied > capacity)
        copied = capacity;
    if (copied && bpf_probe_read_user(record + 1, copied, (void *)buffer)) {
        record->copied = 0;
        record->flags |= SOCKET_UNREADABLE;
        tally(SOCKET_FAULTS, 1);
    }
    bpf_ringbuf_submit(record, wake_flags());
    return true;
}

#define SUBMIT(capacity)                                                                                     \
    submit_piece(bpf_ringbuf_reserve(&socket_records, sizeof(struct socket_record) + (capacity), 0),         \
                 capacity, head, buffer)

/* Records of few sizes: what is reserved must be of a known one. */
static __noinline bool reserve_and_submit(const struct socket_record *head, __u64 buffer) {
    if (head->copied <= 256)
        return SUBMIT(256);
    if (head->copied <= 1024)
        return SUBMIT(1024);
    if (head->copied <= 4096)
        return SUBMIT(4096);
    return SUBMIT(SOCKET_BYTES_MAX);
}

static __always_inline void submit(const struct socket_record *head, __u64 buffer) {
    if (head->copied < head->length)
        tally(SOCKET_CUT, 1);
    if (reserve_and_submit(head, buffer)) {
        tally(SOCKET_PIECES, 1);
        tally(SOCKET_COPIED, head->copied);
    } else {
        tally(SOCKET_LOST, 1);
        tally(SOCKET_LOST_BYTES, head->length);
    }
}

/* `length` bytes at `buffer` went through an object. */
static __always_inline int told(const struct tls_object_key *key, __u64 buffer, __u32 length, __u32 direction,
                                __u64 at_ns) {
    struct tls_object *object = object_of(key);
    struct shape_bytes first = {};

    if (!object) {
        tally(SOCKET_NO_STATE, 1);
        return 0;
    }
    struct conversation *c = &object->talk;
    c->position[direction] += length;
    if (c->verdict == VERDICT_IGNORED)
        return 0;
    __u32 look = length < SHAPE_BYTES ? length : SHAPE_BYTES;
    barrier_var(look);
    if (look > SHAPE_BYTES)
        look = SHAPE_BYTES;
    bpf_probe_read_user(&first, look, (void *)buffer);
    enum shape shape = shape_of(first.b, look);
    if (c->verdict == VERDICT_UNKNOWN) {
        judge(c, shape, first.b, look);
        if (c->verdict == VERDICT_TLS) /* within TLS: a proxy's business */
            c->verdict = VERDICT_IGNORED;
        if (c->verdict != VERDICT_UNKNOWN)
            tally(is_http(c) ? SOCKET_WATCHED : SOCKET_OTHER, 1);
        if (!is_http(c))
            return 0;
    }
    if (!object->connection && !object->guessed && direction == SOCKET_RECEIVED)
        guess(object, key);
    object->settled = 1;

    struct socket_record head = {};
    head.connection = object->connection ? object->connection : key->object;
    head.at_ns = at_ns;
    head.ends = object->ends;
    if (servers_only && c->flags & SOCKET_CALLER) {
        c->verdict = VERDICT_IGNORED;
        tally(SOCKET_CALLERS, 1);
        return 0;
    }
    head.flags = c->flags | SOCKET_DECRYPTED | (object->connection ? 0 : SOCKET_NO_SOCKET);
    head.pid = key->process;
    head.cgroup = bpf_get_current_cgroup_id();
    read_comm(head.comm);
    head.kind = SOCKET_PIECE;
    head.direction = direction;
    head.length = length;
    head.position = c->position[direction] - length;
    __u32 limit = is_in_body(c, direction) && shape == SHAPE_OTHER ? BODY_BYTES : wanted(c, direction);
    if (limit < SOCKET_BYTES_MAX || length <= SOCKET_BYTES_MAX) {
        head.copied = limit < length ? limit : length;
        submit(&head, buffer);
    } else {
        __u32 left = length;
        for (int i = 1; i <= SOCKET_PIECES_MAX && left; i++) {
            head.copied = left < SOCKET_BYTES_MAX ? left : SOCKET_BYTES_MAX;
            head.length = i < SOCKET_PIECES_MAX ? head.copied : left;
            submit(&head, buffer);
            head.position += head.length;
            buffer += head.length;
            left -= head.length;
        }
    }
    carry_on(c, direction, shape, length, head.copied, first.b[9]);
    return 0;
}

/* SSL_read(ssl, buffer, size), SSL_write(ssl, buffer, size), and both _ex(…, length). */
SEC("uprobe")
int tls_enter(struct pt_regs *ctx) {
    struct tls_call_key key = {.process_thread = bpf_get_current_pid_tgid()};
    struct tls_call call = {
        .object = PT_REGS_PARM1(ctx),
        .buffer = PT_REGS_PARM2(ctx),
        .length_at = PT_REGS_PARM4(ctx),
        .cookie = bpf_get_attach_cookie(ctx),
        .began_ns = bpf_ktime_get_ns(),
    };
    bpf_map_update_elem(&tls_calls, &key, &call, BPF_ANY);
    return 0;
}

SEC("uprobe")
int tls_leave(struct pt_regs *ctx) {
    struct tls_call_key key = {.process_thread = bpf_get_current_pid_tgid()};
    struct tls_call *found = bpf_map_lookup_elem(&tls_calls, &key);
    if (!found)
        return 0;
    struct tls_call call = *found;
    bpf_map_delete_elem(&tls_calls, &key);

    __s64 length = (__s32)PT_REGS_RC(ctx);
    if (length > 0 && call.cookie & TLS_EXTENDED) {
        __u64 size = 0;
        if (bpf_probe_read_user(&size, sizeof(size), (void *)call.length_at))
            tally(SOCKET_FAULTS, 1);
        length = size;
    }
    if (length <= 0 || length > 0x7fffffff)
        return 0;
    struct tls_object_key of = {.object = call.object, .process = key.process_thread >> 32};
    /* What is written is encrypted and sent before the call is done, and an answer may be there by then. */
    if (call.cookie & TLS_WRITE)
        told(&of, call.buffer, length, SOCKET_SENT, call.began_ns);
    else
        told(&of, call.buffer, length, SOCKET_RECEIVED, bpf_ktime_get_ns());
    return 0;
}

/* SSL_free(ssl) */
SEC("uprobe")
int tls_free(struct pt_regs *ctx) {
    struct tls_object_key key = {.object = PT_REGS_PARM1(ctx), .process = bpf_get_current_pid_tgid() >> 32};
    struct tls_object *object = bpf_map_lookup_elem(&tls_objects, &key);
    if (!object)
        return 0;
    if (!object->connection && object->settled) { /* else the socket's end is its own */
        struct socket_record *record = bpf_ringbuf_reserve(&socket_records, sizeof(*record), 0);
        if (record) {
            __builtin_memset(record, 0, sizeof(*record));
            record->connection = key.object;
            record->pid = key.process;
            record->at_ns = bpf_ktime_get_ns();
            record->flags = SOCKET_NO_SOCKET | SOCKET_DECRYPTED;
            record->kind = SOCKET_END;
            bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
        } else {
            tally(SOCKET_LOST_ENDS, 1);
        }
    }
    bpf_map_delete_elem(&tls_objects, &key);
    return 0;
}
