// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A socket load balancer as some CNIs have it: a connect to a Service's address is rewritten to an
 * endpoint's, or refused where there is none. What attempts are tried behind; no part of the agent.
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct target {
    __u32 address, port; /* as in struct bpf_sock_addr */
};

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __type(key, struct target);
    __type(value, struct target); /* port 0: there is no endpoint */
    __uint(max_entries, 1024);
} balancer_services SEC(".maps");

SEC("cgroup/connect4")
int balancer_connect4(struct bpf_sock_addr *ctx) {
    struct target service = {.address = ctx->user_ip4, .port = ctx->user_port};
    struct target *endpoint = bpf_map_lookup_elem(&balancer_services, &service);

    if (!endpoint)
        return 1;
    if (!endpoint->port)
        return 0;
    ctx->user_ip4 = endpoint->address;
    ctx->user_port = endpoint->port;
    return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
