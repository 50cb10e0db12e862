//! Nodes and replicas that end with the test.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tonic::{Status, Streaming, transport::Channel};

use crate::{
    ClientTls, Limits, Scaler, ServerTls, Settings, Tls,
    demand::{self, Board, Figures},
    proto::keda::{IsActiveResponse, ScaledObjectRef, external_scaler_client::ExternalScalerClient},
};

pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until it holds.
pub(super) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(super) fn asked(metadata: &[(&str, &str)]) -> ScaledObjectRef {
    let scaler_metadata = metadata.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    ScaledObjectRef { name: "so".into(), namespace: "market".into(), scaler_metadata }
}

/// A node agent's demand.
pub(super) struct Node {
    pub(super) board: Board,
    pub(super) address: SocketAddr,
    pub(super) figures: Arc<Figures>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Node {
    pub(super) async fn start(name: &str) -> Self {
        Self::start_with(name, |_| {}).await
    }

    pub(super) async fn start_with(name: &str, adjust: impl FnOnce(&mut demand::Settings)) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), name, None, adjust).await
    }

    pub(super) async fn start_at(
        address: SocketAddr,
        name: &str,
        tls: Option<ServerTls>,
        adjust: impl FnOnce(&mut demand::Settings),
    ) -> Self {
        let mut settings = demand::Settings::new(name.into(), crate::picture::unix_ns());
        adjust(&mut settings);
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (board, feed) = demand::board(settings);
        let figures = feed.figures();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let stopped = async move {
                let _either = stopped.await;
            };
            demand::serve(listener, feed, tls, stopped).await.unwrap();
        });
        Self { board, address, figures, stop: Some(stop), task }
    }

    pub(super) fn untold(&self) -> u64 {
        self.figures.untold.load(Ordering::Relaxed)
    }

    /// Ends it in good order; another may take its address.
    pub(super) async fn stop(mut self) -> SocketAddr {
        self.stop.take().unwrap().send(()).unwrap();
        let end = &mut self.task;
        tokio::time::timeout(PATIENCE, end).await.unwrap().unwrap();
        self.address
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A scaler, and the way to ask it.
pub(super) struct Replica {
    pub(super) scaler: Arc<Scaler>,
    pub(super) address: SocketAddr,
    channel: Option<Channel>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), crate::Error>>,
}

impl Replica {
    /// One that knows these nodes, and has met them all.
    pub(super) async fn start<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Self {
        let nodes: Vec<_> = nodes.into_iter().map(|node| node.address.to_string()).collect();
        let n = u64::try_from(nodes.len()).unwrap();
        let replica = Self::start_on(nodes).await;
        eventually("all nodes met", async || replica.scaler.figures().nodes_connected == n).await;
        if n > 0 {
            eventually("ready", async || replica.scaler.is_ready()).await;
        }
        replica
    }

    pub(super) async fn start_on(nodes: Vec<String>) -> Self {
        Self::start_with(nodes, Limits::default(), None, None).await
    }

    pub(super) async fn start_with(
        nodes: Vec<String>,
        limits: Limits,
        tls: Option<ServerTls>,
        node_tls: Option<ClientTls>,
    ) -> Self {
        let plain = tls.is_none();
        let scaler = Arc::new(Scaler::new(Settings { nodes, limits }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn({
            let scaler = Arc::clone(&scaler);
            async move {
                let stopped = async {
                    let _either = stopped.await;
                };
                scaler
                    .run(
                        listener,
                        Tls { keda: tls, nodes: node_tls },
                        |warning| eprintln!("{warning}"),
                        stopped,
                    )
                    .await
            }
        });
        let channel = if plain {
            Some(Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap())
        } else {
            None
        };
        Self { scaler, address, channel, stop: Some(stop), task }
    }

    pub(super) async fn client(&self) -> ExternalScalerClient<Channel> {
        ExternalScalerClient::new(self.channel.clone().unwrap())
    }

    pub(super) async fn is_active(&self, service: &str) -> Result<bool, Status> {
        let question = asked(&[("service", service)]);
        Ok(self.client().await.is_active(question).await?.into_inner().result)
    }

    pub(super) async fn stream(&self, service: &str) -> Streaming<IsActiveResponse> {
        let question = asked(&[("service", service)]);
        self.client().await.stream_is_active(question).await.unwrap().into_inner()
    }

    pub(super) async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        let end = &mut self.task;
        tokio::time::timeout(PATIENCE, end).await.unwrap().unwrap().unwrap();
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.task.abort();
    }
}
