//! An HTTP request and what became of it, as the bytes on a socket tell.

/// How HTTP was spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HttpVersion {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    #[default]
    Http11,
    /// HTTP/2.
    Http2,
}

/// One request, ended. Texts are cleaned (no control characters) and bounded; the path is masked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exchange {
    /// CLOCK_MONOTONIC of the request's first byte, nanoseconds; `None`: it came before the agent.
    pub began_ns: Option<u64>,
    /// CLOCK_MONOTONIC of the response's last byte, or of the connection's end, nanoseconds.
    pub ended_ns: u64,
    /// How it was spoken.
    pub version: HttpVersion,
    /// `grpc` (or grpc-web) by its content type.
    pub grpc: bool,
    /// The answer was 101: from here on another protocol is spoken, or a CONNECT stream carried one.
    pub upgraded: Option<String>,
    /// The method; empty: not seen (joined in mid-connection).
    pub method: String,
    /// The host of the request without its port, lower case; empty: none told.
    pub host: String,
    /// The path without its query, masked, at most 512 bytes; empty: not seen. Of gRPC `/service/Method`.
    pub path: String,
    /// The status; `None`: the connection ended before an answer.
    pub status: Option<u16>,
    /// gRPC's own status.
    pub grpc_status: Option<u32>,
    /// The user agent says it is a probe (`kube-probe`, …): the first 64 bytes of it.
    pub user_agent: String,
    /// Bytes of the request, header and body, as they were on the (decrypted) wire.
    pub request_bytes: u64,
    /// The same of the response.
    pub response_bytes: u64,
    /// Some of it was not seen (the agent came later, bytes were lost): what is told is true, but not all.
    pub partial: bool,
}
