// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The nginx probe: two entry uprobes, at ngx_http_process_request (the header is complete) and at
 * ngx_http_free_request (the request is over, and its structures still stand). The second alone counts:
 * every request nginx creates passes it exactly once, whatever becomes of it.
 *
 * State is kept by worker, never by CPU: a uprobe's program may be preempted, and another worker's may then
 * run on the same CPU. A worker runs its requests on one thread, so its rows have one writer.
 */
#include "kernel.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "nginx.h"
#include "pid.h"

#define NO_MEMBER 0xffff
#define REQUEST_READ_MAX 2040
#define CONNECTION_READ_MAX 504
#define STATE_SIZE_MAX 128
#define TEXT_APPEND_MAX 2047 /* where the last text may begin */
#define WORKER_MEMO 1024
#define ADDRESS_MEMO 512 /* connections a worker whose address is remembered */
#define CONNECTION_POOL 512
#define ARRAY_HEAD 40 /* sizeof(ngx_array_t); its first elements mostly stand right behind it */

/* Filled before the programs are loaded. */
const volatile __u32 agent_pid_namespace; /* inode of the agent's pid namespace */
const volatile __u32 start_sets;          /* sets a worker, a power of two */
const volatile __u32 wake_at;             /* bytes waiting in the ring at which the agent is woken */
const volatile bool cookies = true;       /* the kernel has attach cookies (5.15) */

/* Requests that ended in a worker that got no row. */
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} no_worker SEC(".maps");

/* Rows of `workers` that nobody uses: index in the low half, generation in the high half. */
struct {
    __uint(type, BPF_MAP_TYPE_QUEUE);
    __uint(max_entries, 64);
    __uint(value_size, sizeof(__u32));
} free_workers SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1024);
    __type(key, __u32); /* pid */
    __type(value, __u32);
} worker_ids SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, WORKER_MEMO);
    __type(key, __u32);
    __type(value, __u64); /* pid in the high half, row in the low half */
} worker_memo SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 64);
    __type(key, __u32);
    __type(value, struct nginx_worker);
} workers SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 64);
    __type(key, __u32);
    __type(value, struct nginx_overflow);
} overflow SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, NGINX_LAYOUTS_MAX);
    __type(key, __u32);
    __type(value, struct nginx_layout);
} layouts SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 16384);
    __type(key, __u32);
    __type(value, struct nginx_start_set);
} request_starts SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 8 << 20);
} http_events SEC(".maps");

struct known_address {
    __u64 connection; /* number, with the worker's generation in the top byte; 0: nothing */
    __u16 family;
    __u16 port;
    __u8 address[16];
    __u32 pad;
};

/* A worker's working memory: too large for the stack. */
struct scratch {
    struct nginx_record record;
    __u8 text[4096]; /* more than NGINX_TEXT_MAX: the verifier bounds offset and length apart */
    __u8 request[REQUEST_READ_MAX + 8];
    __u8 connection[CONNECTION_READ_MAX + 8];
    __u8 array[ARRAY_HEAD + NGINX_TRIES_MAX * STATE_SIZE_MAX];
    struct known_address addresses[ADDRESS_MEMO];
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 64);
    __type(key, __u32);
    __type(value, struct scratch);
} scratches SEC(".maps");

struct ngx_str {
    __u64 len;
    __u64 data;
};

static __noinline __u32 *register_worker(__u32 *pid, __u32 layout) {
    __u32 slot = 0;
    if (bpf_map_pop_elem(&free_workers, &slot))
        return 0;
    __u32 index = slot & 0xffff;
    struct nginx_worker *worker = bpf_map_lookup_elem(&workers, &index);
    if (!worker)
        return 0;
    worker->pid = *pid;
    worker->agent_pid = pid_in_namespace((void *)bpf_get_current_task(), agent_pid_namespace);
    worker->layout = layout;
    worker->generation = slot >> 16;
    worker->since_ns = bpf_ktime_get_ns();
    /* It has twice the room of `workers`; should it fail all the same, the row goes back. */
    if (bpf_map_update_elem(&worker_ids, pid, &index, BPF_ANY)) {
        worker->pid = 0;
        bpf_map_push_elem(&free_workers, &slot, BPF_ANY);
        return 0;
    }
    return bpf_map_lookup_elem(&worker_ids, pid);
}

/* A hash lookup saved: most entries come from the few workers that run. One word, so that two workers that
 * share a place cannot mix theirs. */
static __always_inline bool worker_index(void *ctx, __u32 pid, __u32 *index, bool may_register) {
    __u32 place = pid & (WORKER_MEMO - 1);
    __u64 *memo = bpf_map_lookup_elem(&worker_memo, &place);
    if (!memo)
        return false;
    __u64 known = *(volatile __u64 *)memo;
    if (known >> 32 == pid) {
        *index = known;
        return true;
    }
    __u32 *found = bpf_map_lookup_elem(&worker_ids, &pid);
    if (!found && may_register)
        found = register_worker(&pid, cookies ? bpf_get_attach_cookie(ctx) : 0);
    if (!found)
        return false;
    *index = *found;
    *(volatile __u64 *)memo = (__u64)pid << 32 | *index;
    return true;
}

#include "lua.h"

static __always_inline struct nginx_start_set *start_set(__u32 index, __u64 request) {
    /* Requests stand 16-aligned in pools of mostly 4 KiB: mix, or few sets would serve them all. */
    __u32 set = index * start_sets + ((request * 0x9e3779b97f4a7c15ULL >> 40) & (start_sets - 1));
    return bpf_map_lookup_elem(&request_starts, &set);
}

static __always_inline __u64 start_key(struct nginx_worker *worker, __u64 request) {
    return request | ((__u64)worker->generation << 56);
}

SEC("uprobe")
int nginx_request_start(struct pt_regs *ctx) {
    __u32 index;
    if (!worker_index(ctx, bpf_get_current_pid_tgid() >> 32, &index, true))
        return 0;
    struct nginx_worker *worker = bpf_map_lookup_elem(&workers, &index);
    if (!worker)
        return 0;
    __u64 request = PT_REGS_PARM1(ctx);
    struct nginx_start_set *set = start_set(index, request);
    if (!set)
        return 0;
    __u64 key = start_key(worker, request);
#pragma unroll
    for (int i = 0; i < NGINX_START_WAYS; i++) {
        __u64 held = set->request[i];
        if (!held || held >> 56 != worker->generation) { /* free, or left behind by a dead worker */
            set->request[i] = key;
            set->ns[i] = bpf_ktime_get_ns();
            worker->started++;
            return 0;
        }
    }
    worker->start_dropped++;
    return 0;
}

static __always_inline __u64 member(const __u8 *base, __u32 offset, __u32 limit) {
    offset &= 0x7f8; /* members are 8-aligned; keeps the verifier sure of the bound */
    if (offset > limit)
        return 0;
    return *(const __u64 *)(base + offset);
}

#define REQUEST(name) member(s->request, layout->name, REQUEST_READ_MAX)
#define CONNECTION(name) member(s->connection, layout->name, CONNECTION_READ_MAX)

/* Append up to `max` of the `len` bytes at `data` to the text; how many, or 0 with `flag` raised. */
static __always_inline __u32 append(struct scratch *s, __u32 *at, __u64 data, __u64 len, __u32 max,
                                    __u32 flag) {
    if (!len || !data)
        return 0;
    if (len > max)
        len = max;
    __u32 offset = *at;
    if (offset > TEXT_APPEND_MAX)
        return 0;
    /* The compiler knows the bounds, and would leave out the masks that verifiers before 6.5 want to see
     * here. */
    __u64 size = len;
    barrier_var(offset);
    barrier_var(size);
    if (bpf_probe_read_user(s->text + (offset & TEXT_APPEND_MAX), size & 0x7ff, (void *)data)) {
        s->record.flags |= flag;
        return 0;
    }
    *at = offset + len;
    return len;
}

static __always_inline __u32 clamp32(__u64 value) {
    return value > 0xffffffffULL ? 0xffffffffU : value;
}

static __always_inline __u16 clamp16(__u64 value) {
    return value > 0xffff ? 0xffff : value;
}

/* The tries that are told one by one: put before the text. How many, with their names' places in `peers`. */
static __always_inline __u32 read_tries(struct scratch *s, const struct nginx_layout *layout, __u64 *peers) {
    struct nginx_record *record = &s->record;
    __u64 array = REQUEST(upstream_states);
    /* Sizes and counts in 64 bits, all through: before 5.11 the verifier forgets the upper half of a product
     * of 32-bit numbers, and then takes no comparison for a bound. */
    __u64 size = layout->state_size;
    if (!array)
        return 0;
    if (size < 8 || size > STATE_SIZE_MAX)
        goto unread;
    if (bpf_probe_read_user(s->array, ARRAY_HEAD + size, (void *)array))
        goto unread;
    __u64 elements = *(__u64 *)s->array, count = *(__u64 *)(s->array + 8);
    if (!count)
        return 0;
    __u64 told = count > NGINX_TRIES_MAX ? NGINX_TRIES_MAX : count;
    if (elements != array + ARRAY_HEAD || count > 1) {
        __u64 bytes = told * size;
        if (bytes > NGINX_TRIES_MAX * STATE_SIZE_MAX ||
            bpf_probe_read_user(s->array + ARRAY_HEAD, bytes, (void *)elements))
            goto unread;
    }
    record->tries = clamp16(count);
    for (__u64 i = 0; i < NGINX_TRIES_MAX; i++) {
        if (i >= told)
            break;
        const __u8 *state = s->array + ARRAY_HEAD + i * size;
        struct nginx_try *try = (struct nginx_try *)s->text + i;
        try->status = clamp16(member(state, layout->state_status, STATE_SIZE_MAX - 8));
        try->response_ms = clamp32(member(state, layout->state_response_time, STATE_SIZE_MAX - 8));
        try->connect_ms = clamp32(member(state, layout->state_connect_time, STATE_SIZE_MAX - 8));
        try->header_ms = clamp32(member(state, layout->state_header_time, STATE_SIZE_MAX - 8));
        try->bytes_received = member(state, layout->state_bytes_received, STATE_SIZE_MAX - 8);
        try->peer_len = 0;
        peers[i] = member(state, layout->state_peer, STATE_SIZE_MAX - 8);
    }
    return told;
unread:
    record->flags |= NGINX_UPSTREAM_UNREAD;
    return 0;
}

/* The names of the peers: put behind the text. */
static __always_inline void read_peers(struct scratch *s, __u32 told, const __u64 *peers, __u32 *text) {
    for (__u32 i = 0; i < NGINX_TRIES_MAX; i++) {
        if (i >= told)
            break;
        struct ngx_str name;
        if (!peers[i])
            continue;
        if (bpf_probe_read_user(&name, sizeof(name), (void *)peers[i])) {
            s->record.flags |= NGINX_UPSTREAM_UNREAD;
            continue;
        }
        __u32 len = append(s, text, name.data, name.len, NGINX_PEER_MAX, NGINX_UPSTREAM_UNREAD);
        ((struct nginx_try *)s->text + i)->peer_len = len;
    }
}

static __always_inline void read_connection(struct scratch *s, const struct nginx_layout *layout,
                                            const struct nginx_worker *worker, __u64 connection) {
    struct nginx_record *record = &s->record;
    if (bpf_probe_read_user(s->connection, layout->connection_read & 0x1ff,
                            (void *)(connection + layout->connection_from))) {
        record->flags |= NGINX_NO_CONNECTION;
        return;
    }
    record->connection = CONNECTION(number);
    record->connection_requests = CONNECTION(requests);
    record->response_bytes = CONNECTION(sent);
    if (layout->ssl != NO_MEMBER && CONNECTION(ssl))
        record->flags |= NGINX_TLS;

    __u64 sockaddr = CONNECTION(sockaddr);
    if (!sockaddr)
        return;
    /* The address a connection was accepted with stands in its own pool and never changes: read it once. An
     * address that realip or the like put in its place stands elsewhere, and is read each time. */
    struct known_address *known = &s->addresses[record->connection & (ADDRESS_MEMO - 1)];
    bool own = sockaddr - CONNECTION(pool) < CONNECTION_POOL;
    __u64 key = record->connection | ((__u64)worker->generation << 56);
    if (!own || known->connection != key) {
        struct {
            __u16 family;
            __u16 port;
            __u8 v4[4];
            __u8 v6[16];
            __u32 scope;
            __u32 room; /* up to the mask below */
        } address = {};
        __u32 len = CONNECTION(socklen);
        if (len > 28) /* sizeof(struct sockaddr_in6) */
            len = 28;
        barrier_var(len); /* or the compiler leaves the mask out */
        if (bpf_probe_read_user(&address, len & 0x1f, (void *)sockaddr)) {
            record->flags |= NGINX_ADDRESS_UNREAD;
            return;
        }
        known->connection = own ? key : 0;
        known->family = address.family;
        known->port = address.port;
        __builtin_memset(known->address, 0, sizeof(known->address));
        if (address.family == 2)
            __builtin_memcpy(known->address, address.v4, 4);
        else if (address.family == 10)
            __builtin_memcpy(known->address, address.v6, 16);
    }
    record->family = known->family;
    record->port = known->port;
    __builtin_memcpy(record->address, known->address, 16);
}

/* Request line, host and user agent: mostly near each other in the header's buffer, and then one read. */
static __always_inline __u32 read_text(struct scratch *s, const struct nginx_layout *layout, __u32 from) {
    struct nginx_record *record = &s->record;
    __u64 line = member(s->request, layout->request_line + 8, REQUEST_READ_MAX),
          line_len = REQUEST(request_line);
    __u64 host = member(s->request, layout->server + 8, REQUEST_READ_MAX), host_len = REQUEST(server);
    __u64 header = REQUEST(user_agent);
    struct ngx_str agent = {};

    /* It is not more; verifiers that lose a bound when it is kept on the stack want to see it. */
    barrier_var(from);
    if (from > NGINX_TRIES_MAX * sizeof(struct nginx_try))
        return 0;
    if (header && bpf_probe_read_user(&agent, sizeof(agent), (void *)(header + layout->table_elt_value)))
        record->flags |= NGINX_AGENT_UNREAD;
    record->line_len = clamp32(line_len);
    record->host_len = clamp32(host_len);
    record->agent_len = clamp32(agent.len);
    if (line_len > NGINX_LINE_MAX)
        line_len = NGINX_LINE_MAX;
    if (host_len > NGINX_HOST_MAX)
        host_len = NGINX_HOST_MAX;
    if (agent.len > NGINX_AGENT_MAX)
        agent.len = NGINX_AGENT_MAX;

    __u64 end = line_len;
    __u64 host_at = host - line, agent_at = agent.data - line;
    bool host_near = host_len && host_at < NGINX_STRETCH_MAX - NGINX_HOST_MAX - 8;
    bool agent_near = agent.len && agent_at < NGINX_STRETCH_MAX - NGINX_AGENT_MAX;
    if (host_near && host_at + host_len + 8 > end)
        end = host_at + host_len + 8;
    if (agent_near && agent_at + agent.len > end)
        end = agent_at + agent.len;
    if (end > NGINX_STRETCH_MAX)
        end = NGINX_STRETCH_MAX;
    /* The compiler knows the bound and would leave out the mask, which older kernels' verifiers want to see.
     */
    barrier_var(end);
    end &= 0x7ff;
    __u32 at = from;
    if (line && line_len && !bpf_probe_read_user(s->text + from, end, (void *)line)) {
        record->line_at = at;
        record->line_captured = line_len;
        at += end;
    } else {
        host_near = agent_near = false;
        record->line_at = at;
        if (line && line_len)
            record->line_captured = append(s, &at, line, line_len, NGINX_LINE_MAX, NGINX_LINE_UNREAD);
    }
    if (host_near) {
        record->host_at = from + host_at;
        record->host_captured = host_len;
        record->host_behind = 8;
    } else if (host_len) {
        /* A copy in lower case, or a header of HTTP/2: with its port it stands in the header as sent. */
        struct ngx_str sent = {};
        __u64 host_header = REQUEST(host);
        record->host_at = at;
        if (host_header &&
            !bpf_probe_read_user(&sent, sizeof(sent), (void *)(host_header + layout->table_elt_value)) &&
            sent.len > host_len && sent.len <= host_len + 6 && sent.len <= NGINX_HOST_MAX) {
            record->host_captured =
                append(s, &at, sent.data, sent.len, NGINX_HOST_MAX, NGINX_HOST_UNREAD) ? host_len : 0;
            record->host_behind = record->host_captured ? sent.len - host_len : 0;
        } else {
            record->host_captured = append(s, &at, host, host_len, NGINX_HOST_MAX, NGINX_HOST_UNREAD);
        }
    }
    if (agent_near) {
        record->agent_at = from + agent_at;
        record->agent_captured = agent.len;
    } else if (agent.len) {
        record->agent_at = at;
        record->agent_captured = append(s, &at, agent.data, agent.len, NGINX_AGENT_MAX, NGINX_AGENT_UNREAD);
    }
    return at;
}

static __always_inline void count_overflow(__u32 index, struct nginx_worker *worker,
                                           struct nginx_record *record) {
    worker->ring_full++;
    struct nginx_overflow *kept = bpf_map_lookup_elem(&overflow, &index);
    if (!kept)
        return;
    __u32 status = record->err_status ? record->err_status : record->status;
    if (status >= NGINX_STATUS_MAX)
        status = 0;
    kept->status[status]++;
    __u64 duration = record->flags & NGINX_STARTED ? record->end_ns - record->start_ns : 0;
    kept->duration_ns += duration;
    __u32 bucket = 0;
    for (; bucket < NGINX_DURATION_BUCKETS - 1; bucket++)
        if (duration < 1ULL << bucket)
            break;
    kept->duration[bucket]++;
}

SEC("uprobe")
int nginx_request_end(struct pt_regs *ctx) {
    __u64 pid_tgid = bpf_get_current_pid_tgid();
    __u32 index;
    if (!worker_index(ctx, pid_tgid >> 32, &index, true)) {
        __u32 zero = 0;
        __u64 *lost = bpf_map_lookup_elem(&no_worker, &zero);
        if (lost)
            (*lost)++;
        return 0;
    }
    struct nginx_worker *worker = bpf_map_lookup_elem(&workers, &index);
    struct scratch *s = bpf_map_lookup_elem(&scratches, &index);
    if (!worker || !s)
        return 0;
    struct nginx_layout *layout = bpf_map_lookup_elem(&layouts, &worker->layout);
    if (!layout)
        return 0;
    worker->ended++;

    struct nginx_record *record = &s->record;
    __u64 request = PT_REGS_PARM1(ctx);
    __s64 rc = PT_REGS_PARM2(ctx);
    __u32 text = 0;

    __builtin_memset(record, 0, sizeof(*record));
    record->end_ns = bpf_ktime_get_ns();
    record->pid = pid_tgid >> 32;
    record->tid = pid_tgid;
    record->worker = index;
    record->layout = worker->layout;
    worker->last_end_ns = record->end_ns;

    struct nginx_start_set *set = start_set(index, request);
    if (set) {
        __u64 key = start_key(worker, request);
#pragma unroll
        for (int i = 0; i < NGINX_START_WAYS; i++) {
            if (set->request[i] == key) {
                record->start_ns = set->ns[i];
                record->flags |= NGINX_STARTED;
                set->request[i] = 0;
                worker->finished++;
                break;
            }
        }
    }

    if (bpf_probe_read_user(s->request, layout->request_read & 0x7ff, (void *)request)) {
        record->flags |= NGINX_NO_REQUEST;
        goto submit;
    }
    if (*(__u32 *)s->request != 0x50545448) { /* "HTTP" */
        record->flags |= NGINX_BAD_SIGNATURE;
        goto submit;
    }
    if (REQUEST(main) != request)
        record->flags |= NGINX_NOT_MAIN;

    record->status = clamp16(REQUEST(status));
    record->err_status = clamp16(REQUEST(err_status));
    record->method = REQUEST(method);
    record->http_version = REQUEST(http_version);
    record->start_sec = REQUEST(start_sec);
    record->start_msec = REQUEST(start_msec);
    record->request_bytes = REQUEST(request_length);
    read_connection(s, layout, worker, REQUEST(connection));
    /* ngx_http_free_request's own first step, which it has not taken yet. */
    if (rc > 0 && (!record->status || !record->response_bytes))
        record->status = clamp16(rc);
    record->final_status = rc > 0 ? clamp16(rc) : 0;

    __u64 peers[NGINX_TRIES_MAX] = {}; /* verifiers before 6.5 do not see that only those told of are read */
    __u32 told = read_tries(s, layout, peers);
    text = read_text(s, layout, told * sizeof(struct nginx_try));
    record->peers_at = text;
    read_peers(s, told, peers, &text);

    if (lua_attached)
        take_lua_times(index, worker, request, s, &text);

submit:;
    __u64 len = sizeof(*record) + text;
    if (len > sizeof(*record) + NGINX_TEXT_MAX)
        len = sizeof(*record) + NGINX_TEXT_MAX;
    /* The agent looks by itself every few milliseconds: waking it for each record would cost the gateway
     * more than all of the above. */
    __u64 wake = BPF_RB_NO_WAKEUP;
    if (!(worker->ended & 31) && bpf_ringbuf_query(&http_events, BPF_RB_AVAIL_DATA) > wake_at)
        wake = BPF_RB_FORCE_WAKEUP;
    if (bpf_ringbuf_output(&http_events, record, len, wake))
        count_overflow(index, worker, record);
    else
        worker->submitted++;
    return 0;
}

/* Names the types for the generation of their Rust side. */
struct nginx_types {
    struct nginx_try tried;
    struct nginx_record record;
    struct nginx_layout layout;
    struct nginx_worker worker;
    struct nginx_overflow overflow;
    enum nginx_record_flags flags;
};
struct nginx_types *nginx_types;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
