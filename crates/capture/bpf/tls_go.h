/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The same of Go's crypto/tls. Its functions take and give in registers, and a goroutine may change its
 * thread. */
#pragma once

#include "tls.h"

#if defined(__TARGET_ARCH_x86)
#define GO_FIRST(ctx) BPF_CORE_READ((ctx), ax)
#define GO_SECOND(ctx) BPF_CORE_READ((ctx), bx)
#define GO_THIRD(ctx) BPF_CORE_READ((ctx), cx)
#define GO_ROUTINE(ctx) BPF_CORE_READ((ctx), r14)
#elif defined(__TARGET_ARCH_arm64)
#define GO_FIRST(ctx) PT_REGS_PARM1(ctx)
#define GO_SECOND(ctx) PT_REGS_PARM2(ctx)
#define GO_THIRD(ctx) PT_REGS_PARM3(ctx)
#define GO_ROUTINE(ctx) BPF_CORE_READ((ctx), user_regs.regs[28])
#endif

/* tls.Conn begins with the connection below it, an interface; of a net.TCPConn that is a pointer to the
 * descriptor's structure, in which the number stands behind a lock of 16 bytes. */
#define GO_CONN_DATA 8
#define GO_FD_NUMBER 16

/* The TCP socket below a tls.Conn; null where it is something else. */
static __always_inline struct sock *go_socket(__u64 conn) {
    __u64 tcp_conn = 0, net_fd = 0;
    __s64 number = -1;

    if (bpf_probe_read_user(&tcp_conn, sizeof(tcp_conn), (void *)(conn + GO_CONN_DATA)) ||
        bpf_probe_read_user(&net_fd, sizeof(net_fd), (void *)tcp_conn) ||
        bpf_probe_read_user(&number, sizeof(number), (void *)(net_fd + GO_FD_NUMBER)))
        return 0;
    return socket_of(number);
}

/* What the connection is called; 0: it was not met. */
static __always_inline __u64 cookie_of(struct sock *sk) {
    if (!sk || !by_calls)
        return sk ? BPF_CORE_READ(sk, __sk_common.skc_cookie.counter) : 0;
    __u64 address = (__u64)sk;
    struct socket_state *state = bpf_map_lookup_elem(&socket_states_by_address, &address);
    return state ? state->cookie : 0;
}

/* Ties the object to its socket, which was met in the handshake. */
static __always_inline void go_tie(const struct tls_object_key *key, __u64 attached) {
    struct sock *sk = go_socket(key->object);
    __u64 cookie = cookie_of(sk);
    struct tls_object *object = object_of(key);

    if (!cookie || !object || object->connection == cookie)
        return;
    struct tls_socket *met = bpf_map_lookup_elem(&tls_sockets, &cookie);
    if (met)
        tie(object, met, attached);
}

static __always_inline struct tls_call_key go_key(struct pt_regs *ctx) {
    struct tls_call_key key = {.process_thread = bpf_get_current_pid_tgid() >> 32,
                               .goroutine = GO_ROUTINE(ctx)};
    return key;
}

/* (*Conn).Read(b []byte) (int, error) */
SEC("uprobe")
int tls_go_read_enter(struct pt_regs *ctx) {
    struct tls_call_key key = go_key(ctx);
    struct tls_call call = {
        .object = GO_FIRST(ctx), .buffer = GO_SECOND(ctx), .cookie = bpf_get_attach_cookie(ctx)};
    bpf_map_update_elem(&tls_calls, &key, &call, BPF_ANY);
    return 0;
}

SEC("uprobe")
int tls_go_read_leave(struct pt_regs *ctx) {
    struct tls_call_key key = go_key(ctx);
    struct tls_call *found = bpf_map_lookup_elem(&tls_calls, &key);
    if (!found)
        return 0;
    struct tls_call call = *found;
    bpf_map_delete_elem(&tls_calls, &key);
    __s64 length = GO_FIRST(ctx);
    if (length <= 0 || length > 0x7fffffff)
        return 0;
    struct tls_object_key of = {.object = call.object, .process = key.process_thread};
    go_tie(&of, call.cookie & ~0xffULL);
    told(&of, call.buffer, length, SOCKET_RECEIVED, bpf_ktime_get_ns());
    return 0;
}

/* (*Conn).Write(b []byte) (int, error): all of it, or the connection is broken. So its entry tells enough. */
SEC("uprobe")
int tls_go_write(struct pt_regs *ctx) {
    struct tls_object_key of = {.object = GO_FIRST(ctx), .process = bpf_get_current_pid_tgid() >> 32};
    __s64 length = GO_THIRD(ctx);
    if (length <= 0 || length > 0x7fffffff)
        return 0;
    go_tie(&of, bpf_get_attach_cookie(ctx) & ~0xffULL);
    told(&of, GO_SECOND(ctx), length, SOCKET_SENT, bpf_ktime_get_ns());
    return 0;
}
