/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From what a call moved to a record in the ring. */
#pragma once

#include "socket_state.h"
#include "syscall.h"
#include "tls.h"

struct scratch {
    struct user_buffer buffer; /* of the call the program was called for */
    struct socket_record record;
    __u8 bytes[2 * SOCKET_BYTES_MAX]; /* the verifier bounds offset and length apart */
};

/* Two for each CPU, one a program: the kernel runs each of them once at a time on a CPU. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __type(key, __u32);
    __type(value, struct scratch);
    __uint(max_entries, 2);
} socket_scratch SEC(".maps");

/* As many, for what went through them. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __type(key, __u32);
    __type(value, struct socket_account);
    __uint(max_entries, 2);
} socket_accounts SEC(".maps");

struct gathering {
    __u64 vectors;
    __u64 skip; /* bytes still to be left out */
    __u32 row;
    __u32 at;
    __u32 limit;
    __u32 failed;
};

/* Vectors read at a time; most calls have no more. */
#define VECTORS 4

/* Nonzero: enough, or no more can be read. */
static __always_inline long gather_from(struct gathering *g, struct scratch *s,
                                        const struct user_iovec *vector) {
    __u64 size = vector->length, skip = g->skip;
    __u32 at = g->at;

    if (at >= g->limit)
        return 1;
    if (size <= skip) {
        g->skip = skip - size;
        return 0;
    }
    g->skip = 0;
    size -= skip;
    if (size > g->limit - at)
        size = g->limit - at;
    barrier_var(size);
    if (size > SOCKET_BYTES_MAX)
        return 1;
    if (bpf_probe_read_user(s->bytes + (at & (SOCKET_BYTES_MAX - 1)), size, (void *)(vector->base + skip))) {
        g->failed = 1;
        return 1;
    }
    g->at = at + size;
    return 0;
}

static __always_inline long gather_next(__u64 index, struct gathering *g) {
    struct scratch *s = bpf_map_lookup_elem(&socket_scratch, &g->row);
    struct user_iovec vector;

    if (!s)
        return 1;
    if (bpf_probe_read_user(&vector, sizeof(vector), (void *)(g->vectors + index * sizeof(vector)))) {
        g->failed = 1;
        return 1;
    }
    return gather_from(g, s, &vector);
}

static long gather_vector(__u64 index, struct gathering *g) {
    return gather_next(index, g);
}

#define GATHER_FAILED (1u << 31)

static __always_inline __u32 gather_by(__u32 row, __u32 from, __u32 limit, bool loops) {
    struct scratch *s = bpf_map_lookup_elem(&socket_scratch, &row);

    if (!s || limit > SOCKET_BYTES_MAX)
        return 0;
    if (!s->buffer.vectors)
        return bpf_probe_read_user(s->bytes, limit, (void *)(s->buffer.base + from)) ? GATHER_FAILED : limit;
    struct gathering g = {.vectors = s->buffer.vectors, .skip = from, .row = row, .limit = limit};
    __u64 count = s->buffer.count;
    if (!loops) {
        for (int i = 0; i < 32; i++)
            if (i >= count || gather_next(i, &g))
                break;
    } else {
        struct user_iovec first[VECTORS];
        __u64 some = count < VECTORS ? count : VECTORS;
        bool over = false;
        barrier_var(some);
        if (some > VECTORS)
            some = VECTORS;
        if (bpf_probe_read_user(first, some * sizeof(*first), (void *)g.vectors))
            return GATHER_FAILED;
#pragma unroll
        for (int i = 0; i < VECTORS; i++)
            if (!over && i < some)
                over = gather_from(&g, s, &first[i]);
        if (!over && count > VECTORS) {
            g.vectors += sizeof(first);
            count -= VECTORS;
            bpf_loop(count < 1024 ? count : 1024, gather_vector, &g, 0);
        }
    }
    __u32 at = g.at;
    return g.failed ? at | GATHER_FAILED : at;
}

/*
 * Copies what stands in a scratch row's buffer from byte `from` on to the row's bytes, up to `limit` of them;
 * how many, with GATHER_FAILED where more could not be read.
 */
__noinline __u32 gather(__u32 row, __u32 from, __u32 limit) {
    return gather_by(row, from, limit, true);
}

/* The same for kernels without bpf_loop (5.17), which may not even see a pointer to its callback (5.13). */
__noinline __u32 gather_few(__u32 row, __u32 from, __u32 limit) {
    return gather_by(row, from, limit, false);
}

/* What the bytes in a scratch row begin like. */
__noinline __u32 row_shape(__u32 row, __u32 copied) {
    struct scratch *s = bpf_map_lookup_elem(&socket_scratch, &row);
    return s ? shape_of(s->bytes, copied) : SHAPE_OTHER;
}

/* Hands over the record and `copied` bytes of a row. */
static __always_inline void hand_over(struct scratch *s, struct socket_account *account, __u32 copied) {
    __u64 size = sizeof(s->record) + copied;
    barrier_var(size);
    if (size > sizeof(s->record) + SOCKET_BYTES_MAX)
        size = sizeof(s->record) + SOCKET_BYTES_MAX;
    /* Looking how full the ring is costs as much as a piece's head. */
    __u64 wake = account->pieces & 15 ? BPF_RB_NO_WAKEUP : wake_flags();
    if (bpf_ringbuf_output(&socket_records, &s->record, size, wake)) {
        tally(SOCKET_LOST, 1);
        tally(SOCKET_LOST_BYTES, s->record.length);
    } else {
        account->pieces++;
        account->copied += copied;
    }
}

static __always_inline __u32 next_by(__u32 row, __u32 from, __u32 length, bool is_last, bool loops) {
    struct scratch *s = bpf_map_lookup_elem(&socket_scratch, &row);
    struct socket_account *account = bpf_map_lookup_elem(&socket_accounts, &row);
    if (!s || !account || from >= length)
        return 0;
    __u32 limit = length - from;
    if (limit > SOCKET_BYTES_MAX)
        limit = SOCKET_BYTES_MAX;
    __u32 copied = loops ? gather(row, from, limit) : gather_few(row, from, limit),
          failed = copied & GATHER_FAILED;
    copied &= ~GATHER_FAILED;
    if (copied > SOCKET_BYTES_MAX)
        return 0;
    if (failed) {
        s->record.flags |= SOCKET_UNREADABLE;
        tally(SOCKET_FAULTS, 1);
    }
    bool goes_on = !is_last && copied == SOCKET_BYTES_MAX;
    s->record.position += s->record.length;
    s->record.length = goes_on ? copied : length - from;
    s->record.copied = copied;
    if (copied < s->record.length)
        tally(SOCKET_CUT, 1);
    hand_over(s, account, copied);
    return goes_on ? from + copied : 0;
}

/*
 * What the call moved behind its first `from` bytes, of `length` in all: a piece of its own. How far it went;
 * 0: that was all.
 */
__noinline __u32 next_piece(__u32 row, __u32 from, __u32 length, __u32 is_last) {
    return next_by(row, from, length, is_last, true);
}

__noinline __u32 next_piece_few(__u32 row, __u32 from, __u32 length, __u32 is_last) {
    return next_by(row, from, length, is_last, false);
}

/*
 * `length` bytes were moved, up to where the talk stands now. `buffer`: null where the call has none.
 * `loops`: the kernel has bpf_loop.
 */
static __always_inline void piece(struct socket_state *state, __u32 direction, __u32 length, __u64 at_ns,
                                  const struct user_buffer *buffer, bool loops) {
    struct conversation *c = &state->talk;
    __u32 row = bpf_get_smp_processor_id() * 2 + direction;
    struct scratch *s = bpf_map_lookup_elem(&socket_scratch, &row);
    struct socket_account *account = bpf_map_lookup_elem(&socket_accounts, &row);
    if (!s || !account)
        return;
    __u32 copied = 0, failed = 0;
    enum shape shape = SHAPE_OTHER;

    __builtin_memset(s->bytes, 0, SHAPE_BYTES);
    if (buffer) {
        __u32 limit = wanted(c, direction), first = BODY_BYTES;
        bool in_body = is_in_body(c, direction);
        if (limit > SOCKET_BYTES_MAX)
            limit = SOCKET_BYTES_MAX;
        if (limit > length)
            limit = length;
        if (limit > buffer->most)
            limit = buffer->most;
        if (first > limit)
            first = limit;
        /* What may not be wanted is looked at first. */
        bool looks = in_body || c->verdict == VERDICT_UNKNOWN;
        s->buffer = *buffer;
        first = looks ? first : limit;
        copied = loops ? gather(row, 0, first) : gather_few(row, 0, first);
        if (c->verdict != VERDICT_TLS)
            shape = row_shape(row, copied & ~GATHER_FAILED);
        if (c->verdict == VERDICT_UNKNOWN) {
            judge(c, shape, s->bytes, copied & ~GATHER_FAILED);
            if (c->verdict == VERDICT_UNKNOWN)
                return;
            if (c->verdict == VERDICT_IGNORED) {
                tally(SOCKET_OTHER, 1);
                return;
            }
            if (servers_only && is_http(c) && c->flags & SOCKET_CALLER) {
                c->verdict = VERDICT_IGNORED;
                tally(SOCKET_CALLERS, 1);
                return;
            }
            tally(is_http(c) ? SOCKET_WATCHED : SOCKET_TLS, 1);
            if (c->verdict == VERDICT_TLS) {
                struct tls_socket met = tls_socket(state);
                bpf_map_update_elem(&tls_sockets, &state->cookie, &met, BPF_ANY);
                tell_tls(state, direction);
                if (!c->run[direction]) /* joined: the handshake is over */
                    return;
            }
        }
        /* Of TLS only what is said in the open, at the beginning. */
        if (c->verdict == VERDICT_TLS && s->bytes[0] == TLS_APPLICATION_DATA && s->bytes[1] == 3) {
            c->run[direction] = 0;
            return;
        }
        if (looks && (!in_body || shape != SHAPE_OTHER) && copied < limit)
            copied = loops ? gather(row, 0, limit) : gather_few(row, 0, limit);
        failed = copied & GATHER_FAILED;
        copied &= ~GATHER_FAILED;
    } else if (c->verdict == VERDICT_UNKNOWN) {
        judge(c, shape, s->bytes, 0);
        if (c->verdict == VERDICT_IGNORED)
            tally(SOCKET_OTHER, 1);
        return;
    }

    struct socket_record *record = &s->record;
    record->connection = state->cookie;
    record->at_ns = at_ns;
    record->ends = state->ends;
    record->flags = c->flags;
    record->cgroup = bpf_get_current_cgroup_id();
    record->pid = bpf_get_current_pid_tgid() >> 32;
    if (record->pid != state->pid) {
        state->pid = record->pid;
        read_comm(state->comm);
    }
    __builtin_memcpy(record->comm, state->comm, sizeof(record->comm));
    record->kind = SOCKET_PIECE;
    record->direction = direction;
    bool goes_on = copied == SOCKET_BYTES_MAX && length > SOCKET_BYTES_MAX;
    record->length = goes_on ? copied : length;
    record->copied = copied;
    record->position = c->position[direction] > length ? c->position[direction] - length : 0;
    if (c->verdict == VERDICT_TLS)
        record->flags |= SOCKET_HANDSHAKE;
    if (!buffer) {
        record->flags |= SOCKET_NO_BUFFER;
        tally(SOCKET_BUFFERLESS, 1);
    }
    if (failed) {
        record->flags |= SOCKET_UNREADABLE;
        tally(SOCKET_FAULTS, 1);
    }
    if (copied < record->length)
        tally(SOCKET_CUT, 1);
    __u8 status = s->bytes[9];
    hand_over(s, account, copied);
    __u32 from = goes_on ? copied : 0;
    for (int i = 2; i <= SOCKET_PIECES_MAX && from; i++)
        from = loops ? next_piece(row, from, length, i == SOCKET_PIECES_MAX)
                     : next_piece_few(row, from, length, i == SOCKET_PIECES_MAX);
    carry_on(c, direction, shape, length, copied, status);
}
