//! Nodes, scalers and KEDA's side, joined by real gRPC over loopback.

mod common;
mod hostile;
mod latency;
mod restarts;
mod secured;

use std::time::Duration;

use common::{Node, Replica, asked, eventually};
use tonic::Code;

use crate::{picture::unix_ns, proto::keda::GetMetricsRequest};

#[tokio::test(flavor = "multi_thread")]
async fn the_first_call_on_any_node_turns_every_replica_active() {
    let mut nodes = [Node::start("a").await, Node::start("b").await, Node::start("c").await];
    let replicas = [Replica::start(&nodes).await, Replica::start(&nodes).await];
    for replica in &replicas {
        assert!(!replica.is_active("shop").await.unwrap());
    }
    let mut streams = Vec::new();
    for replica in &replicas {
        let mut stream = replica.stream("shop").await;
        assert!(!stream.message().await.unwrap().unwrap().result, "the present state comes first");
        streams.push(stream);
    }
    nodes[1].board.called("market", "shop", 1, unix_ns());
    for (stream, replica) in streams.iter_mut().zip(&replicas) {
        assert!(stream.message().await.unwrap().unwrap().result);
        assert!(replica.is_active("shop").await.unwrap());
        assert!(!replica.is_active("other").await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn inactive_is_said_when_the_window_has_passed_and_active_is_said_again_until_then() {
    let mut node = Node::start("a").await;
    let replica = Replica::start([&node]).await;
    let mut client = replica.client().await;
    let question = asked(&[("service", "shop"), ("window", "2s")]);
    let mut stream = client.stream_is_active(question).await.unwrap().into_inner();
    assert!(!stream.message().await.unwrap().unwrap().result);
    node.board.called("market", "shop", 1, unix_ns());
    let called = std::time::Instant::now();
    let mut said = Vec::new();
    while said.last() != Some(&false) {
        said.push(stream.message().await.unwrap().unwrap().result);
    }
    let after = called.elapsed();
    assert_eq!(said, [true, true, false]);
    assert!(after >= Duration::from_millis(1990) && after < Duration::from_millis(2500), "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metric_is_the_rate_of_all_nodes_over_the_window() {
    let mut nodes = [Node::start("a").await, Node::start("b").await];
    let replicas = [Replica::start(&nodes).await, Replica::start(&nodes).await];
    let spec = {
        let question = asked(&[("service", "shop"), ("threshold", "2.5")]);
        replicas[0].client().await.get_metric_spec(question).await.unwrap().into_inner().metric_specs
    };
    assert_eq!((spec[0].target_size_float, spec[0].target_size), (2.5, 3));
    // Some at once, some while the Service is being called already.
    for (node, n) in [(0, 100), (1, 50), (0, 20), (0, 10)] {
        nodes[node].board.called("market", "shop", n, unix_ns());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for replica in &replicas {
        let request = || GetMetricsRequest {
            scaled_object_ref: Some(asked(&[("service", "shop")])),
            metric_name: spec[0].metric_name.clone(),
        };
        eventually("the rate is told", async || {
            let values =
                replica.client().await.get_metrics(request()).await.unwrap().into_inner().metric_values;
            (values[0].metric_value_float - 3.0).abs() < 1e-9 && values[0].metric_value == 3
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_gone_is_forgotten_and_may_come_again() {
    let mut node = Node::start("a").await;
    let replica = Replica::start([&node]).await;
    node.board.called("market", "shop", 5, unix_ns());
    eventually("active", async || replica.is_active("shop").await.unwrap()).await;
    node.board.forget("market", "shop");
    assert!(node.board.is_empty());
    eventually("forgotten", async || !replica.is_active("shop").await.unwrap()).await;
    node.board.called("market", "shop", 1, unix_ns());
    eventually("active again", async || replica.is_active("shop").await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_node_the_answer_is_never_no() {
    let replica = Replica::start([]).await;
    let answer = replica.is_active("shop").await.unwrap_err();
    assert_eq!(answer.code(), Code::Unavailable);
    assert!(!replica.scaler.is_ready());
    // Streams wait.
    let mut stream = replica.stream("shop").await;
    assert!(tokio::time::timeout(Duration::from_millis(700), stream.message()).await.is_err());
    assert!(replica.scaler.figures().unsure >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_services_are_told_and_none_is_mixed_up() {
    const SERVICES: usize = 5000;
    let mut node = Node::start("a").await;
    let early = Replica::start([&node]).await;
    for i in 0..SERVICES {
        let count = u64::try_from(i).unwrap() + 1;
        node.board.called("market", &format!("s{i}"), count, unix_ns());
    }
    assert_eq!(node.board.len(), SERVICES);
    // One that followed, and one that got the picture at once.
    let late = Replica::start([&node]).await;
    for replica in [&early, &late] {
        let all = u64::try_from(SERVICES).unwrap();
        eventually("all Services told", async || replica.scaler.figures().services == all).await;
        for i in [0, 1, 499, 500, 501, 2500, SERVICES - 1] {
            let request = GetMetricsRequest {
                scaled_object_ref: Some(asked(&[("service", &format!("s{i}"))])),
                metric_name: String::new(),
            };
            let values =
                replica.client().await.get_metrics(request).await.unwrap().into_inner().metric_values;
            let count = values[0].metric_value_float * 60.0;
            assert!((count - (i as f64 + 1.0)).abs() < 1e-6, "s{i}: {count}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_board_tells_what_it_cannot_tell() {
    let mut node = Node::start_with("a", |settings| settings.services = 2).await;
    let now = unix_ns();
    for name in ["x", "y", "z", "z"] {
        node.board.called("market", name, 3, now);
    }
    assert_eq!(node.board.len(), 2);
    assert_eq!(node.untold(), 6);
    // What was called long ago makes room.
    node.board.called("market", "z", 1, now + 601_000_000_000);
    assert_eq!(node.board.len(), 1);
    assert_eq!(node.untold(), 6);
    // What can be no Service is not told either.
    node.board.called("market", "Not A Name", 1, now);
    assert_eq!(node.untold(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_resolved_and_a_node_that_comes_later_is_found() {
    let mut node = Node::start("a").await;
    let port = node.address.port();
    let replica = Replica::start_on(vec![format!("localhost:{port}")]).await;
    eventually("the node is found", async || replica.scaler.figures().nodes_connected == 1).await;
    node.board.called("market", "shop", 1, unix_ns());
    eventually("active", async || replica.is_active("shop").await.unwrap()).await;
}
