/* A unit that comes first and only declares: what it says of the structures is not the whole. */
typedef struct ngx_http_request_s ngx_http_request_t;
typedef struct ngx_connection_s ngx_connection_t;
typedef struct ngx_table_elt_s ngx_table_elt_t;

extern ngx_http_request_t request;

ngx_http_request_t *seen = &request;
ngx_connection_t *also_seen;
ngx_table_elt_t *and_this;
