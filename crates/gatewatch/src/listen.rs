//! The addresses an agent is asked at.

use std::{io::ErrorKind, net::SocketAddr};

use anyhow::{Result, anyhow};
use tokio::net::TcpListener;

/// What names the address of metrics.
pub const METRICS: &str = "--listen or METRICS_ADDR";

/// Takes it. `set_by`: what names another.
///
/// # Errors
/// When it cannot be had: why, and what to do.
pub async fn on(address: SocketAddr, set_by: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let known = [
            (ErrorKind::AddrInUse, "another program has it"),
            (ErrorKind::AddrNotAvailable, "it is no address of this machine"),
            (ErrorKind::PermissionDenied, "ports below 1024 need CAP_NET_BIND_SERVICE"),
        ];
        let why = known
            .into_iter()
            .find(|(kind, _)| *kind == error.kind())
            .map_or("the system refuses", |(_, why)| why);
        anyhow!("cannot listen on {address}: {why} ({error}). Choose another with {set_by}")
    })
}
