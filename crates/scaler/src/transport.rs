//! TLS, and connections within bounds.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};
use tonic::transport::{
    Certificate, ClientTlsConfig, Identity, Server, ServerTlsConfig,
    server::{Connected, TcpConnectInfo},
};

use crate::error::Error;

/// How long a client may take for the handshake, and to say that it speaks HTTP/2.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// The bytes with which an HTTP/2 client begins.
const PREFACE: usize = 24;
/// A pause where accepting fails, for want of file descriptors mostly.
const BREATH: Duration = Duration::from_millis(50);

/// A server's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// Its certificate with those that vouch for it, PEM.
    pub certificate: Vec<u8>,
    /// The private key, PEM.
    pub key: Vec<u8>,
    /// Where given, only clients with a certificate of this authority (PEM) are let in.
    pub client_authority: Option<Vec<u8>>,
}

/// How a client knows servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTls {
    /// The authority, PEM, that vouches for servers.
    pub authority: Vec<u8>,
    /// The name that must stand in their certificates.
    pub name: String,
    /// Own certificate and key, PEM, where servers ask for them.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl ServerTls {
    pub(crate) fn apply(self, server: Server) -> Result<Server, Error> {
        settle_provider();
        let mut config = ServerTlsConfig::new()
            .identity(Identity::from_pem(self.certificate, self.key))
            .timeout(HANDSHAKE);
        if let Some(authority) = self.client_authority {
            config = config.client_ca_root(Certificate::from_pem(authority));
        }
        server.tls_config(config).map_err(|error| Error::Tls(cause(&error)))
    }
}

impl ClientTls {
    pub(crate) fn config(&self) -> ClientTlsConfig {
        settle_provider();
        let config = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.authority))
            .domain_name(&self.name)
            .timeout(HANDSHAKE);
        match &self.identity {
            Some((certificate, key)) => config.identity(Identity::from_pem(certificate, key)),
            None => config,
        }
    }
}

/// rustls refuses to choose where several crates bring different cryptography.
fn settle_provider() {
    let _already_settled = rustls::crypto::ring::default_provider().install_default();
}

/// What is behind an error: tonic's own text is only "transport error".
pub(crate) fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let all = std::iter::successors(Some(error), |error| error.source());
    all.last().unwrap_or(error).to_string()
}

/// Connections to `listener`, at most so many at once; more wait to be accepted.
pub(crate) fn accepted(
    listener: TcpListener,
    at_once: usize,
) -> impl Stream<Item = io::Result<Connection>> + Send {
    let places = Arc::new(Semaphore::new(at_once));
    stream::unfold((listener, places), async |(listener, places)| {
        // The semaphore is never closed.
        let place = Arc::clone(&places).acquire_owned().await.ok()?;
        let stream = loop {
            match listener.accept().await {
                Ok((stream, _)) => break stream,
                Err(_) => tokio::time::sleep(BREATH).await,
            }
        };
        // A small message must not wait for the next.
        let _slower = stream.set_nodelay(true);
        let connection = Connection {
            stream,
            unread: PREFACE,
            deadline: Box::pin(tokio::time::sleep(HANDSHAKE)),
            _place: place,
        };
        Some((Ok(connection), (listener, places)))
    })
}

/// A client's connection. One that does not begin in time is ended: it would hold its place for ever.
pub(crate) struct Connection {
    stream: TcpStream,
    /// Bytes of the beginning that have not come yet.
    unread: usize,
    deadline: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if self.unread > 0 {
            let read = buffer.filled().len().saturating_sub(before);
            self.unread = self.unread.saturating_sub(read);
            if polled.is_pending() && self.deadline.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
