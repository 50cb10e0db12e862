//! An HTTP request and what became of it, as the bytes on a socket tell.

use std::sync::Arc;

use crate::request::Method;

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
///
/// Texts are shared: the host of a thousand requests on one connection is one allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// CLOCK_MONOTONIC of the request's first byte, nanoseconds; `None`: it was not seen.
    pub began_ns: Option<u64>,
    /// CLOCK_MONOTONIC of the response's last byte, or of the connection's end, nanoseconds.
    pub ended_ns: u64,
    /// How it was spoken.
    pub version: HttpVersion,
    /// `grpc` (or grpc-web) by its content type.
    pub grpc: bool,
    /// What is spoken from here on instead of HTTP, lower case, at most 32 bytes: the protocol that a 101 or an
    /// extended CONNECT changed to (`websocket`, `h2c`), or `connect` for a tunnel.
    pub upgraded: Option<Arc<str>>,
    /// The method; [`Method::Unknown`]: not seen (joined in mid-connection, or lost).
    pub method: Method,
    /// The host of the request without its port, lower case, at most 255 bytes; empty: none told.
    pub host: Arc<str>,
    /// The path without its query, masked, at most 512 bytes; empty: not seen. Of gRPC `/service/Method`.
    pub path: Arc<str>,
    /// The status; `None`: the connection ended before an answer, or, where this is `partial`, none was seen.
    pub status: Option<u16>,
    /// gRPC's own status.
    pub grpc_status: Option<u32>,
    /// The first 64 bytes of the user agent, masked: it tells a probe (`kube-probe/…`) from a request.
    pub user_agent: Arc<str>,
    /// Bytes of the request, header and body, as they were on the (decrypted) wire.
    pub request_bytes: u64,
    /// The same of the response.
    pub response_bytes: u64,
    /// Some of it was not seen (the agent came later, bytes were lost): what is told is true, but not all.
    pub partial: bool,
}

impl Default for Exchange {
    fn default() -> Self {
        Self {
            began_ns: None,
            ended_ns: 0,
            version: HttpVersion::default(),
            grpc: false,
            upgraded: None,
            method: Method::Unknown,
            host: Arc::default(),
            path: Arc::default(),
            status: None,
            grpc_status: None,
            user_agent: Arc::default(),
            request_bytes: 0,
            response_bytes: 0,
            partial: false,
        }
    }
}

impl Exchange {
    /// From the request's first byte to the response's last; `None` where either was not seen.
    #[must_use]
    pub fn duration_ns(&self) -> Option<u64> {
        let began = self.began_ns.filter(|_| self.status.is_some())?;
        Some(self.ended_ns.saturating_sub(began))
    }
}
