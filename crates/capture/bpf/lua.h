/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The time nginx's Lua takes, by phase: a class of probes of its own, attached only while wanted. Each run of
 * a phase is two traps more, at the function's entry and at its return. Part of the nginx probe, whose worker
 * table it shares.
 *
 * Phases nest (ngx.say in the content phase runs the filters): each is given its own time only.
 */
#pragma once

#define LUA_DEPTH 8
#define LUA_PHASE_CONTENT 2
#define LUA_PHASE_LOG 6
#define LUA_PHASE_OTHER 7

/* In a cookie: the phase (`other`: that of the frame around it, if there is one), and which argument of the
 * function is the request. */
#define LUA_COOKIE_PHASE(cookie) ((cookie) & (NGINX_LUA_PHASES - 1))
#define LUA_COOKIE_SECOND(cookie) ((cookie)&8)

/* Set by user space while the class is attached. */
volatile bool lua_attached;

struct lua_frame {
    __u64 entered_ns;
    __u64 inner_ns; /* spent in phases that ran inside this one */
    __u64 request;
    __u64 phase;
};

struct lua_stack {
    __u64 depth;
    struct lua_frame frames[LUA_DEPTH];
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 64);
    __type(key, __u32);
    __type(value, struct lua_stack);
} lua_stacks SEC(".maps");

struct lua_key {
    __u64 request;
    __u64 worker; /* row, with its generation in the high half */
};

struct lua_times {
    __u64 ns[NGINX_LUA_PHASES];
};

/* Of requests that have not ended. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 10000);
    __type(key, struct lua_key);
    __type(value, struct lua_times);
} request_lua SEC(".maps");

static __always_inline struct lua_key lua_key(__u32 index, const struct nginx_worker *worker, __u64 request) {
    struct lua_key key = {.request = request, .worker = index | (__u64)worker->generation << 32};
    return key;
}

/* At a request's end: what its phases took. The log phase runs later, and counts for the worker only. */
static __always_inline void take_lua_times(__u32 index, const struct nginx_worker *worker, __u64 request,
                                           struct scratch *s, __u32 *text) {
    struct lua_key key = lua_key(index, worker, request);
    struct lua_times *times = bpf_map_lookup_elem(&request_lua, &key);
    if (!times)
        return;
    __u32 at = *text;
    if (at <= NGINX_TEXT_MAX - sizeof(*times)) {
        __builtin_memcpy(s->text + at, times, sizeof(*times));
        *text = at + sizeof(*times);
        s->record.flags |= NGINX_LUA;
    }
    bpf_map_delete_elem(&request_lua, &key);
}

SEC("uprobe")
int nginx_lua_enter(struct pt_regs *ctx) {
    __u32 index;
    if (!worker_index(ctx, bpf_get_current_pid_tgid() >> 32, &index, false))
        return 0;
    struct lua_stack *stack = bpf_map_lookup_elem(&lua_stacks, &index);
    if (!stack)
        return 0;
    __u64 cookie = bpf_get_attach_cookie(ctx);
    /* Both are read before one is chosen: the verifier takes no computed offset into the registers. */
    __u64 first = PT_REGS_PARM1(ctx), second = PT_REGS_PARM2(ctx);
    barrier_var(first);
    barrier_var(second);
    __u64 depth = stack->depth++;
    if (depth >= LUA_DEPTH)
        return 0;
    struct lua_frame *frame = &stack->frames[depth & (LUA_DEPTH - 1)];
    frame->phase = LUA_COOKIE_PHASE(cookie);
    if (frame->phase == LUA_PHASE_OTHER && depth)
        frame->phase = stack->frames[(depth - 1) & (LUA_DEPTH - 1)].phase;
    frame->request = LUA_COOKIE_SECOND(cookie) ? second : first;
    frame->inner_ns = 0;
    frame->entered_ns = bpf_ktime_get_ns();
    return 0;
}

SEC("uretprobe")
int nginx_lua_leave(struct pt_regs *ctx) {
    __u64 now = bpf_ktime_get_ns();
    __u32 index;
    if (!worker_index(ctx, bpf_get_current_pid_tgid() >> 32, &index, false))
        return 0;
    struct lua_stack *stack = bpf_map_lookup_elem(&lua_stacks, &index);
    struct nginx_worker *worker = bpf_map_lookup_elem(&workers, &index);
    if (!stack || !worker || !stack->depth)
        return 0;
    __u64 depth = --stack->depth;
    if (depth >= LUA_DEPTH)
        return 0;
    struct lua_frame *frame = &stack->frames[depth & (LUA_DEPTH - 1)];
    __u64 phase = frame->phase & (NGINX_LUA_PHASES - 1);
    __u64 expected = LUA_COOKIE_PHASE(bpf_get_attach_cookie(ctx));
    if (expected != LUA_PHASE_OTHER && phase != expected) {
        stack->depth = 0; /* attached in the middle of a phase: begin anew */
        return 0;
    }
    __u64 spent = now - frame->entered_ns;
    __u64 own = spent - frame->inner_ns;
    if (depth)
        stack->frames[(depth - 1) & (LUA_DEPTH - 1)].inner_ns += spent;
    struct lua_key key = lua_key(index, worker, frame->request);
    struct lua_times *times = bpf_map_lookup_elem(&request_lua, &key);
    /* A thread that slept goes on outside of any handler: it is its request's content. */
    if (phase == LUA_PHASE_OTHER && times && times->ns[LUA_PHASE_CONTENT])
        phase = LUA_PHASE_CONTENT;
    if (!depth || expected != LUA_PHASE_OTHER)
        worker->lua_calls[phase]++;
    worker->lua_ns[phase] += own;
    if (phase == LUA_PHASE_LOG)
        return 0;
    if (times) {
        times->ns[phase] += own;
        return 0;
    }
    struct lua_times first = {};
    first.ns[phase] = own;
    bpf_map_update_elem(&request_lua, &key, &first, BPF_ANY);
    return 0;
}
