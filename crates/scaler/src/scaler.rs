//! The scaler: follows the nodes, answers KEDA.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::watch};
use tonic::transport::Server;

use crate::{
    error::Error,
    figures::{Counts, Figures},
    keda::Answers,
    nodes,
    picture::Picture,
    proto::keda::external_scaler_server::ExternalScalerServer,
    transport::{ClientTls, ServerTls, accepted},
};

/// A KEDA that has not answered a ping for so long is cut off.
const PATIENCE: Duration = Duration::from_secs(20);
/// A question's bytes at most.
const QUESTION_MAX: usize = 16 << 10;
/// How long streams have to take their leave.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a scaler needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where node agents tell their demand, `name:port` or `address:port`. All addresses of a name are followed: a
    /// headless Service's is meant.
    pub nodes: Vec<String>,
    /// Bounds against whoever reaches its port.
    pub limits: Limits,
}

/// TLS of a scaler; plaintext where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Towards KEDA.
    pub keda: Option<ServerTls>,
    /// Towards the nodes.
    pub nodes: Option<ClientTls>,
}

/// Bounds against whoever reaches a scaler's port.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Streams at most: KEDA needs one for each ScaledObject.
    pub streams: u32,
    /// Connections at most: KEDA needs one for each way ScaledObjects name the scaler.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { streams: 20_000, connections: 256 }
    }
}

/// A scaler. Its figures can be read while it runs.
#[derive(Debug)]
pub struct Scaler {
    settings: Settings,
    picture: Arc<Picture>,
    counts: Arc<Counts>,
}

impl Scaler {
    /// A scaler that has not begun yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, picture: Arc::default(), counts: Arc::default() }
    }

    /// Whether it can say that a Service is not called: a node agent at least tells its demand.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.picture.is_sure()
    }

    /// What it counted so far.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let wide = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let (sizes, counts) = (self.picture.sizes(), &self.counts);
        Figures {
            nodes: counts.nodes.get(),
            nodes_connected: wide(sizes.connected),
            nodes_lost: wide(sizes.lost),
            resolve_failures: counts.resolve_failures.get(),
            node_failures: counts.node_failures.get(),
            updates: counts.updates.get(),
            services: wide(sizes.services),
            streams: counts.streams.get(),
            refused_streams: counts.refused_streams.get(),
            activations: counts.activations.get(),
            questions: [
                ("GetMetricSpec", counts.get_metric_spec.get()),
                ("GetMetrics", counts.get_metrics.get()),
                ("IsActive", counts.is_active.get()),
                ("StreamIsActive", counts.stream_is_active.get()),
            ],
            bad_questions: counts.bad_questions.get(),
            unsure: counts.unsure.get(),
        }
    }

    /// Follows the nodes and answers KEDA on `listener` until `stop` resolves. What it has to warn of goes to `warn`. May be
    /// run again, with another certificate: it goes on in its picture and figures.
    ///
    /// # Errors
    /// When certificate or key are unfit, or the server fails.
    pub async fn run(
        &self,
        listener: TcpListener,
        tls: Tls,
        warn: impl Fn(String) + Send + Sync + 'static,
        stop: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let Settings { nodes, limits } = self.settings.clone();
        let (halt, mut halted) = watch::channel(());
        let answers = Answers {
            picture: Arc::clone(&self.picture),
            counts: Arc::clone(&self.counts),
            streams: limits.streams.into(),
            halted: halted.clone(),
        };
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<ExternalScalerServer<Answers>>().await;
        let mut server = Server::builder()
            .http2_keepalive_interval(Some(PATIENCE))
            .http2_keepalive_timeout(Some(PATIENCE))
            // KEDA has all its streams on one connection, and its questions beside them.
            .max_concurrent_streams(limits.streams.saturating_add(1000))
            .http2_max_header_list_size(16 << 10);
        if let Some(tls) = tls.keda {
            server = tls.apply(server)?;
        }
        let serving = server
            .add_service(ExternalScalerServer::new(answers).max_decoding_message_size(QUESTION_MAX))
            .add_service(health_service)
            .serve_with_incoming_shutdown(accepted(listener, limits.connections), async move {
                while halted.changed().await.is_ok() {}
            });
        let warn = Arc::new(warn);
        let following =
            nodes::follow(nodes, tls.nodes, Arc::clone(&self.picture), Arc::clone(&self.counts), warn);
        let stopping = async {
            stop.await;
            // All streams end well, so that KEDA comes back soon, to another replica.
            drop(halt);
            tokio::time::sleep(FAREWELL).await;
        };
        tokio::select! {
            result = serving => result.map_err(Error::Server),
            () = following => Ok(()),
            () = stopping => Ok(()),
        }
    }
}
