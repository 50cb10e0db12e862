//! What ends and comes back: no activation is lost, and nothing counts twice or below nothing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::net::TcpListener;
use tonic::Code;

use super::common::{Node, Replica, asked, eventually};
use crate::{Limits, Scaler, Settings, Tls, picture::unix_ns, proto::keda::GetMetricsRequest};

async fn attempts(replica: &Replica, service: &str) -> f64 {
    let request = GetMetricsRequest {
        scaled_object_ref: Some(asked(&[("service", service)])),
        metric_name: String::new(),
    };
    let values = replica.client().await.get_metrics(request).await.unwrap().into_inner().metric_values;
    (values[0].metric_value_float * 60.0).round()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scaler_that_starts_anew_knows_what_was_called_before() {
    let mut node = Node::start("a").await;
    let replica = Replica::start([&node]).await;
    node.board.called("market", "shop", 6, unix_ns());
    eventually("active", async || replica.is_active("shop").await.unwrap()).await;
    let mut stream = replica.stream("shop").await;
    assert!(stream.message().await.unwrap().unwrap().result);
    replica.stop().await;
    // Ended well: KEDA comes back in two seconds, and not in a minute.
    assert!(stream.message().await.unwrap().is_none());

    // Called while no scaler runs.
    node.board.called("market", "quiet", 1, unix_ns());
    let replica = Replica::start([&node]).await;
    for service in ["shop", "quiet"] {
        let mut stream = replica.stream(service).await;
        assert!(stream.message().await.unwrap().unwrap().result);
    }
    assert_eq!(attempts(&replica, "shop").await, 6.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scaler_that_has_not_met_its_nodes_does_not_say_no() {
    // Connections hang: nobody accepts.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let started = Instant::now();
    let replica = Replica::start_on(vec![address.to_string()]).await;
    let answer = replica.is_active("shop").await.unwrap_err();
    assert_eq!(answer.code(), Code::Unavailable);
    drop(silent);
    let _node = Node::start_at(address, "a", None, |_| {}).await;
    eventually("met", async || matches!(replica.is_active("shop").await, Ok(false))).await;
    assert!(started.elapsed() < Duration::from_secs(9), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_anew_adds_to_what_it_told_before() {
    let mut node = Node::start("a").await;
    let replica = Replica::start([&node]).await;
    node.board.called("market", "shop", 60, unix_ns());
    eventually("told", async || attempts(&replica, "shop").await == 60.0).await;
    let address = node.stop().await;
    eventually("lost", async || replica.scaler.figures().nodes_lost == 1).await;
    // What it told last goes on counting. The last node is gone, but a yes is a yes.
    assert!(replica.is_active("shop").await.unwrap());
    assert_eq!(attempts(&replica, "shop").await, 60.0);
    assert_eq!(replica.is_active("other").await.unwrap_err().code(), Code::Unavailable);

    let mut node = Node::start_at(address, "a", None, |_| {}).await;
    node.board.called("market", "shop", 3, unix_ns());
    eventually("told more", async || attempts(&replica, "shop").await == 63.0).await;
    let figures = replica.scaler.figures();
    assert_eq!((figures.nodes_connected, figures.nodes_lost, figures.nodes), (1, 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_counts_nothing_twice() {
    let mut node = Node::start_with("a", |settings| settings.epoch = 7).await;
    let replica = Replica::start([&node]).await;
    for _ in 0..4 {
        node.board.called("market", "shop", 30, unix_ns());
        eventually("told", async || attempts(&replica, "shop").await >= 30.0).await;
    }
    eventually("told", async || attempts(&replica, "shop").await == 120.0).await;
    // The same agent by another address: the same source.
    let (address, figures) = (node.address, replica.scaler.figures());
    let port = address.port();
    let twice = Replica::start_on(vec![address.to_string(), format!("[::ffff:127.0.0.1]:{port}")]).await;
    eventually("both streams", async || twice.scaler.figures().updates >= 2).await;
    assert_eq!(attempts(&twice, "shop").await, 120.0);
    assert_eq!(twice.scaler.figures().nodes_connected, 1);
    assert_eq!(figures.nodes_lost, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scaler_that_is_run_again_goes_on_in_its_picture() {
    let mut node = Node::start("a").await;
    node.board.called("market", "shop", 6, unix_ns());
    let settings = Settings { nodes: vec![node.address.to_string()], limits: Limits::default() };
    let scaler = Arc::new(Scaler::new(settings));
    for round in 1..3 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ready = async || scaler.is_ready() && scaler.figures().updates >= round;
        scaler.run(listener, Tls::default(), |_| {}, eventually("ready", ready)).await.unwrap();
        eventually("streams ended", async || scaler.figures().nodes_connected == 0).await;
        assert_eq!(scaler.figures().services, 1);
    }
    assert_eq!(scaler.figures().nodes_lost, 1);
}
