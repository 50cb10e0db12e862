/* A program that looks like nginx to gatewatch, with structures of its own: it prints where its members stand. */
#include <stddef.h>
#include <stdio.h>

#ifndef MARKS
#define MARKS "nginx/1.99.7", "8,4,8,0000111111010111001110101111000110"
#endif

const char *const marks[] = { MARKS };

/* Functions that can be told by their bytes. */
__asm__(".text\n"
        ".globl ngx_http_process_request\n.type ngx_http_process_request, @function\n"
        "ngx_http_process_request: .ascii \"PROCESS-REQUEST\"\n"
        ".globl ngx_http_free_request\n.type ngx_http_free_request, @function\n"
        "ngx_http_free_request: .ascii \"FREE-REQUEST\"\n");

unsigned long *ngx_stat_requests, *ngx_stat_reading, *ngx_stat_writing;

typedef struct { size_t len; unsigned char *data; } ngx_str_t;

typedef struct ngx_table_elt_s ngx_table_elt_t;
struct ngx_table_elt_s { unsigned char odd[13]; ngx_str_t key; long more; ngx_str_t value; };

/* Without a name of its own, as nginx has it. */
typedef struct {
    char before[41];
    ngx_table_elt_t *host;
    char between[100];
    ngx_table_elt_t *user_agent;
    ngx_str_t server;
} ngx_http_headers_in_t;

typedef struct { char before[24]; unsigned long status; } ngx_http_headers_out_t;

typedef struct {
    int first;
    unsigned long status;
    long response_time, connect_time, header_time, queue_time;
    long long response_length, bytes_received;
    ngx_str_t *peer;
} ngx_http_upstream_state_t;

typedef struct ngx_connection_s ngx_connection_t;
struct ngx_connection_s {
    void *data;
    long sent;
    void *log, *sockaddr;
    int socklen;
#ifndef NO_SSL
    struct ngx_ssl_connection_s *ssl;
#endif
    char far[300];
    void *pool;
    unsigned long number, requests;
};

typedef struct ngx_http_request_s ngx_http_request_t;
struct ngx_http_request_s {
    unsigned signature;
    ngx_connection_t *connection;
    char gap[77];
    void *upstream_states;
    ngx_http_headers_in_t headers_in;
    ngx_http_headers_out_t headers_out;
    long start_sec;
    unsigned long start_msec, method, http_version;
    ngx_str_t request_line, uri, unparsed_uri, method_name;
    ngx_http_request_t *main;
    long long request_length;
    unsigned long err_status;
    unsigned bits : 3;
    char tail[500];
};

ngx_http_request_t request;
ngx_connection_t connection;
ngx_http_upstream_state_t state;

#define R(m) printf("%zu ", offsetof(ngx_http_request_t, m));
#define C(m) printf("%zu ", offsetof(ngx_connection_t, m));
#define U(m) printf("%zu ", offsetof(ngx_http_upstream_state_t, m));

int main(void)
{
    printf("%zu ", sizeof(ngx_http_request_t));
    R(connection) R(upstream_states) R(headers_in.host) R(headers_in.user_agent) R(headers_in.server)
    R(headers_out.status) R(start_sec) R(start_msec) R(method) R(http_version) R(request_line)
    R(unparsed_uri) R(method_name) R(main) R(request_length) R(err_status)
    printf("%zu ", sizeof(ngx_connection_t));
    C(sent) C(sockaddr) C(socklen) C(pool) C(number) C(requests)
#ifndef NO_SSL
    C(ssl)
#else
    printf("0 ");
#endif
    printf("%zu ", offsetof(ngx_table_elt_t, value));
    printf("%zu ", sizeof(ngx_http_upstream_state_t));
    U(status) U(response_time) U(connect_time) U(header_time) U(bytes_received) U(peer)
    return 0;
}
