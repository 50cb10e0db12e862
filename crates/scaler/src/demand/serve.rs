//! The gRPC service scalers watch.

use std::{future::Future, pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt as _, stream};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
};
use tonic::{Request, Response, Status, transport::Server};

use super::{Feed, keeper::Ask};
use crate::{
    error::Error,
    proto::demand::{
        Update, WatchRequest,
        demand_server::{Demand, DemandServer},
    },
    transport::{ServerTls, accepted},
};

/// A reader that has not answered a ping for so long is cut off.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at most: each scaler needs one.
const CONNECTIONS_MAX: usize = 64;
/// A request says nothing.
const REQUEST_MAX: usize = 64;
/// How long readers have to take their leave.
const FAREWELL: Duration = Duration::from_secs(1);

/// Streams demand to scalers until `stop` resolves.
///
/// # Errors
/// When certificate or key are unfit, or the server fails.
pub async fn serve(
    listener: TcpListener,
    feed: Feed,
    tls: Option<ServerTls>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let (asks, asked) = mpsc::channel(16);
    let (halt, halted) = watch::channel(());
    let server = DemandServer::new(Service { asks }).max_decoding_message_size(REQUEST_MAX);
    let mut builder = Server::builder()
        .http2_keepalive_interval(Some(PATIENCE))
        .http2_keepalive_timeout(Some(PATIENCE))
        .max_concurrent_streams(8)
        .http2_max_header_list_size(16 << 10);
    if let Some(tls) = tls {
        builder = tls.apply(builder)?;
    }
    let serving = builder
        .add_service(server)
        .serve_with_incoming_shutdown(accepted(listener, CONNECTIONS_MAX), gone(halted.clone()));
    let (keeper, rung) = feed.into_keeper();
    let keeping = keeper.run(rung, asked);
    let stopping = async {
        tokio::select! {
            () = stop => {}
            () = keeping => {}
        }
        // With the keeper gone all streams end, and with them the server.
        drop(halt);
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        result = serving => result.map_err(Error::Server),
        () = stopping => Ok(()),
    }
}

/// Resolves when the sender is gone.
async fn gone(mut halted: watch::Receiver<()>) {
    while halted.changed().await.is_ok() {}
}

struct Service {
    asks: mpsc::Sender<Ask>,
}

#[tonic::async_trait]
impl Demand for Service {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<Update, Status>> + Send>>;

    async fn watch(&self, _request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let ending = || Status::unavailable("the node agent is ending");
        let (ask, answer) = oneshot::channel();
        self.asks.send(ask).await.map_err(|_| ending())?;
        let subscription = answer
            .await
            .map_err(|_| ending())?
            .ok_or_else(|| Status::resource_exhausted("as many scalers read already as this node allows"))?;
        let news = stream::unfold(subscription.news, async |mut news| {
            news.recv().await.map(|update| (update.as_ref().clone(), news))
        });
        let all = stream::iter(subscription.picture).chain(news);
        Ok(Response::new(Box::pin(all.map(Ok))))
    }
}
