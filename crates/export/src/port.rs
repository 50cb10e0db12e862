//! How every port is served: bounded in connections, memory and time, whoever asks.

use std::{collections::VecDeque, future::Future, net::SocketAddr, time::Duration};

use axum::{Extension, Router, extract::ConnectInfo, serve::Listener};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

/// What a port grants its clients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at once. One more, and the oldest is closed: who has just come is served, however many others sit.
    connections: usize,
    /// From a connection, or the last answer on it, to the whole head of the next request.
    head: Duration,
    /// Size of such a head.
    head_bytes: usize,
    /// How long a client may take nothing of an answer.
    stall: Duration,
    /// How long answers under way are waited for at the end.
    farewell: Duration,
}

impl Limits {
    /// Of all ports.
    pub(crate) const USUAL: Self = Self {
        connections: 256,
        head: Duration::from_secs(10),
        head_bytes: 16 << 10,
        stall: Duration::from_secs(10),
        farewell: Duration::from_secs(5),
    };
}

/// Serves until `stop` resolves.
pub(crate) async fn serve(
    mut listener: TcpListener,
    router: Router,
    limits: Limits,
    stop: impl Future<Output = ()>,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_header_size(limits.head_bytes)
        .max_buf_size(limits.head_bytes);
    let shutdown = GracefulShutdown::new();
    // In the order of their coming; those that are left when this returns end with it.
    let mut connections = VecDeque::<AbortHandle>::new();
    let mut tasks = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let (stream, peer) = tokio::select! {
            () = &mut stop => break,
            Some(_ended) = tasks.join_next() => {
                connections.retain(|connection| !connection.is_finished());
                continue;
            }
            accepted = Listener::accept(&mut listener) => accepted,
        };
        if connections.len() >= limits.connections
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
        }
        close_when_stalled(&stream, limits.stall);
        let router: Router = router.clone().layer(Extension(ConnectInfo::<SocketAddr>(peer)));
        let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        let connection = shutdown.watch(connection);
        connections.push_back(tasks.spawn(async move {
            let _what_the_client_did = connection.await;
        }));
    }
    drop(listener);
    let _in_time = tokio::time::timeout(limits.farewell, shutdown.shutdown()).await;
}

/// Without it, an answer whose reader takes nothing would be kept for as long as the reader's machine is up.
fn close_when_stalled(stream: &TcpStream, limit: Duration) {
    let ms = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
    // A connection that has just ended has none: nothing is lost.
    let _set = rustix::net::sockopt::set_tcp_user_timeout(stream, ms);
}

#[cfg(test)]
mod tests;
