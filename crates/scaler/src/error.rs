//! What can end a server or keep it from starting.

/// Why demand cannot be served, or KEDA not be answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A certificate or key is unfit.
    #[error("cannot use the TLS certificate, key or authority: {0}")]
    Tls(String),
    /// The server failed.
    #[error("the gRPC server failed: {0}")]
    Server(#[source] tonic::transport::Error),
}
