//! Where the fields gatewatch reads stand inside nginx's structures.

/// Byte offsets inside the structures of one nginx build.
///
/// All values are bytes from the start of the named C structure. Source: DWARF, or [`crate::table`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    /// `ngx_http_request_t`.
    pub request: RequestLayout,
    /// `ngx_connection_t`.
    pub connection: ConnectionLayout,
    /// `ngx_table_elt_t.value`.
    pub table_elt_value: u16,
    /// `ngx_http_upstream_state_t`.
    pub upstream_state: UpstreamStateLayout,
}

/// Offsets in `ngx_http_request_t`. `signature` is always its first member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestLayout {
    /// `sizeof(ngx_http_request_t)`.
    pub size: u16,
    /// `connection`.
    pub connection: u16,
    /// `upstream_states`.
    pub upstream_states: u16,
    /// `headers_in.host`.
    pub host: u16,
    /// `headers_in.user_agent`.
    pub user_agent: u16,
    /// `headers_in.server`: the normalised host, without port.
    pub server: u16,
    /// `headers_out.status`.
    pub status: u16,
    /// `start_sec`.
    pub start_sec: u16,
    /// `start_msec`.
    pub start_msec: u16,
    /// `method`.
    pub method: u16,
    /// `http_version`.
    pub http_version: u16,
    /// `request_line`.
    pub request_line: u16,
    /// `unparsed_uri`.
    pub unparsed_uri: u16,
    /// `method_name`.
    pub method_name: u16,
    /// `main`.
    pub main: u16,
    /// `request_length`.
    pub request_length: u16,
    /// `err_status`.
    pub err_status: u16,
}

/// Offsets in `ngx_connection_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionLayout {
    /// `sizeof(ngx_connection_t)`.
    pub size: u16,
    /// `sent`.
    pub sent: u16,
    /// `sockaddr`.
    pub sockaddr: u16,
    /// `socklen`.
    pub socklen: u16,
    /// `ssl`; `None` where the binary was built without TLS.
    pub ssl: Option<u16>,
    /// `pool`.
    pub pool: u16,
    /// `number`.
    pub number: u16,
    /// `requests`.
    pub requests: u16,
}

/// Offsets in `ngx_http_upstream_state_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamStateLayout {
    /// `sizeof(ngx_http_upstream_state_t)`.
    pub size: u16,
    /// `status`.
    pub status: u16,
    /// `response_time`.
    pub response_time: u16,
    /// `connect_time`.
    pub connect_time: u16,
    /// `header_time`.
    pub header_time: u16,
    /// `bytes_received`.
    pub bytes_received: u16,
    /// `peer`.
    pub peer: u16,
}
