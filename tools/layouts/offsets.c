/*
 * Prints, as one JSON object, where the fields gatewatch reads stand inside the structures of the nginx
 * whose headers this is compiled against. Names are those of `Layout` in crates/target/src/layout.rs.
 * Compiled and run by tools/layouts/generate; links against nothing of nginx.
 */
#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include <stddef.h>
#include <stdio.h>

#define AT(name, type, member) printf(", \"%s\": %zu", name, offsetof(type, member))
#define SIZE(name, type) printf(", \"%s\": %zu", name, sizeof(type))

int
main(void)
{
    printf("{\"version\": \"%s\", \"signature\": \"%s\"", NGINX_VERSION, NGX_MODULE_SIGNATURE);

    SIZE("request.size", ngx_http_request_t);
    AT("request.connection", ngx_http_request_t, connection);
    AT("request.upstream_states", ngx_http_request_t, upstream_states);
    AT("request.host", ngx_http_request_t, headers_in.host);
    AT("request.user_agent", ngx_http_request_t, headers_in.user_agent);
    AT("request.server", ngx_http_request_t, headers_in.server);
    AT("request.status", ngx_http_request_t, headers_out.status);
    AT("request.start_sec", ngx_http_request_t, start_sec);
    AT("request.start_msec", ngx_http_request_t, start_msec);
    AT("request.method", ngx_http_request_t, method);
    AT("request.http_version", ngx_http_request_t, http_version);
    AT("request.request_line", ngx_http_request_t, request_line);
    AT("request.unparsed_uri", ngx_http_request_t, unparsed_uri);
    AT("request.method_name", ngx_http_request_t, method_name);
    AT("request.main", ngx_http_request_t, main);
    AT("request.request_length", ngx_http_request_t, request_length);
    AT("request.err_status", ngx_http_request_t, err_status);

    SIZE("connection.size", ngx_connection_t);
    AT("connection.sent", ngx_connection_t, sent);
    AT("connection.sockaddr", ngx_connection_t, sockaddr);
    AT("connection.socklen", ngx_connection_t, socklen);
#if (NGX_SSL || NGX_COMPAT)
    AT("connection.ssl", ngx_connection_t, ssl);
#else
    /* 0 is `None`: the first member is `data` in every version. */
    printf(", \"connection.ssl\": 0");
#endif
    AT("connection.pool", ngx_connection_t, pool);
    AT("connection.number", ngx_connection_t, number);
    AT("connection.requests", ngx_connection_t, requests);

    AT("table_elt_value", ngx_table_elt_t, value);

    SIZE("upstream_state.size", ngx_http_upstream_state_t);
    AT("upstream_state.status", ngx_http_upstream_state_t, status);
    AT("upstream_state.response_time", ngx_http_upstream_state_t, response_time);
    AT("upstream_state.connect_time", ngx_http_upstream_state_t, connect_time);
    AT("upstream_state.header_time", ngx_http_upstream_state_t, header_time);
    AT("upstream_state.bytes_received", ngx_http_upstream_state_t, bytes_received);
    AT("upstream_state.peer", ngx_http_upstream_state_t, peer);

    printf("}\n");

    /* `signature` is read at offset 0 without asking; say so here rather than find out on a live host. */
    return offsetof(ngx_http_request_t, signature) != 0;
}
