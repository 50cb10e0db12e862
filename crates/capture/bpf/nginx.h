/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What passes between the nginx probe's kernel programs and user space. Plain integers only; the Rust
 * types are generated from this file.
 *
 * Times are nanoseconds of CLOCK_MONOTONIC unless the name says otherwise; sizes are bytes; "absent" is 0
 * unless said otherwise.
 */
#pragma once

#define NGINX_TRIES_MAX 4   /* upstream tries reported one by one; `tries` counts them all */
#define NGINX_LINE_MAX 1024 /* bytes of the request line that are kept */
#define NGINX_HOST_MAX 256
#define NGINX_AGENT_MAX 256
#define NGINX_PEER_MAX 64
#define NGINX_STRETCH_MAX 1024 /* request line, host and agent that stand this near are read in one go */
/* What stands behind a record's fixed part at the most. */
#define NGINX_TEXT_MAX                                                                                       \
    (NGINX_TRIES_MAX * 24 + NGINX_LINE_MAX + NGINX_HOST_MAX + NGINX_AGENT_MAX +                              \
     NGINX_TRIES_MAX * NGINX_PEER_MAX + NGINX_LUA_PHASES * 8)

#define NGINX_LAYOUTS_MAX 32
#define NGINX_STATUS_MAX 600      /* statuses above are counted at 0 */
#define NGINX_DURATION_BUCKETS 40 /* bucket i: durations below 2^i ns */
#define NGINX_START_WAYS 4
#define NGINX_LUA_PHASES 8

/* Byte offsets in one nginx build's structures; 0xffff: the member does not exist. */
struct nginx_layout {
    /* ngx_http_request_t */
    __u16 request_read; /* bytes to read from the start: up to the last member used */
    __u16 connection;
    __u16 upstream_states;
    __u16 host; /* the header as sent */
    __u16 user_agent;
    __u16 server; /* the host as nginx normalised it */
    __u16 status;
    __u16 start_sec;
    __u16 start_msec;
    __u16 method;
    __u16 http_version;
    __u16 request_line;
    __u16 main;
    __u16 request_length;
    __u16 err_status;
    /* ngx_connection_t; read in one stretch of connection_read bytes from connection_from,
     * and counted from there */
    __u16 connection_from;
    __u16 connection_read;
    __u16 sent;
    __u16 sockaddr;
    __u16 socklen;
    __u16 ssl;
    __u16 pool;
    __u16 number;
    __u16 requests;
    /* ngx_table_elt_t */
    __u16 table_elt_value;
    /* ngx_http_upstream_state_t */
    __u16 state_size;
    __u16 state_status;
    __u16 state_response_time;
    __u16 state_connect_time;
    __u16 state_header_time;
    __u16 state_bytes_received;
    __u16 state_peer;
};

enum nginx_record_flags {
    NGINX_TLS = 1 << 0,
    NGINX_STARTED = 1 << 1,       /* start_ns was taken at ngx_http_process_request */
    NGINX_NO_REQUEST = 1 << 2,    /* the request could not be read: nothing but the times is set */
    NGINX_BAD_SIGNATURE = 1 << 3, /* what was read does not begin with "HTTP": likewise */
    NGINX_NO_CONNECTION = 1 << 4, /* the connection could not be read */
    NGINX_LINE_UNREAD = 1 << 5,   /* the request line could not be read */
    NGINX_HOST_UNREAD = 1 << 6,
    NGINX_AGENT_UNREAD = 1 << 7,
    NGINX_ADDRESS_UNREAD = 1 << 8,
    NGINX_UPSTREAM_UNREAD = 1 << 9,
    NGINX_LUA = 1 << 11,      /* the times of Lua phases are the record's last bytes */
    NGINX_NOT_MAIN = 1 << 10, /* request->main is another request: a layout that does not fit */
};

/* One try at an upstream server, as ngx_http_upstream_state_t has it. Times in ms; ~0: did not come to it. */
struct nginx_try {
    __u64 bytes_received;
    __u32 response_ms;
    __u32 connect_ms;
    __u32 header_ms;
    __u16 status;
    __u16 peer_len; /* bytes of the peer's name in the text */
};

/*
 * One finished request. Behind it stand, only as long as they are: the upstream tries (struct nginx_try, up
 * to NGINX_TRIES_MAX of the `tries`); the captured bytes of request line, host and user agent at the offsets
 * named, counted from the record's end (what stands between them is not theirs); the names of the upstream
 * peers, one after the other; and with NGINX_LUA the nanoseconds of each Lua phase. Up to 8 bytes behind the
 * host may be captured too: nginx cuts the port from the host's length, not its bytes.
 */
struct nginx_record {
    __u64 start_ns;
    __u64 end_ns;
    __u64 connection;          /* nginx's number of the connection, unique in an instance's life */
    __u64 connection_requests; /* how many requests the connection has had */
    __u64 request_bytes;
    __u64 response_bytes;
    __u64 start_sec; /* nginx's own start time: Unix seconds and milliseconds */
    __u32 start_msec;
    __u32 flags;
    __u32 pid; /* of the worker, in the kernel's first namespace */
    __u32 tid;
    __u32 worker; /* index in the worker table */
    __u32 method; /* NGX_HTTP_GET and the like */
    __u32 http_version;
    __u32 line_len; /* whole length in nginx; what was captured is the smaller of this and its limit */
    __u32 host_len;
    __u32 agent_len;
    __u16 layout;
    __u16 status;
    __u16 err_status;
    __u16 final_status; /* ngx_http_free_request's second argument; 0 where it is not above 0 */
    __u16 line_at;
    __u16 line_captured;
    __u16 host_at;
    __u16 host_captured;
    __u16 host_behind; /* bytes captured behind the host */
    __u16 agent_at;
    __u16 agent_captured;
    __u16 peers_at;
    __u16 tries;
    __u16 family; /* AF_INET, AF_INET6, AF_UNIX */
    __u16 port;   /* network order */
    __u8 address[16];
    __u8 pad[2];
};

/* One gateway worker process. A single thread of a single process writes to it: no atomics needed. */
struct nginx_worker {
    __u32 pid;       /* in the kernel's first namespace; 0: free */
    __u32 agent_pid; /* the same process as the agent's /proc names it; 0: not visible there */
    __u32 layout;
    __u32 generation;
    __u64 since_ns;
    __u64 started;       /* starts seen and kept */
    __u64 finished;      /* ends whose start had been kept */
    __u64 start_dropped; /* starts for which the table had no room */
    __u64 ended;         /* ngx_http_free_request entered: every request that ended */
    __u64 submitted;     /* records handed to user space */
    __u64 ring_full;     /* ends whose record found no room: see nginx_overflow */
    __u64 last_end_ns;
    __u64 lua_calls[NGINX_LUA_PHASES];
    __u64 lua_ns[NGINX_LUA_PHASES];
};

/* What is kept of the requests whose record found no room in the ring. */
struct nginx_overflow {
    __u64 duration_ns;
    __u64 status[NGINX_STATUS_MAX];
    __u64 duration[NGINX_DURATION_BUCKETS];
};

struct nginx_start_set {
    __u64 request[NGINX_START_WAYS]; /* pointer, with the worker's generation in the top byte */
    __u64 ns[NGINX_START_WAYS];
};
