//! What no KEDA and no scaler sends.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{Code, transport::Channel};

use super::common::{Node, Replica, asked, eventually};
use crate::{
    Limits,
    picture::unix_ns,
    proto::demand::{WatchRequest, demand_client::DemandClient},
};

#[tokio::test(flavor = "multi_thread")]
async fn wrong_metadata_is_refused_with_what_to_write() {
    let node = Node::start("a").await;
    let replica = Replica::start([&node]).await;
    let mut client = replica.client().await;
    for question in
        [asked(&[]), asked(&[("service", "shop"), ("window", "soon")]), asked(&[("sevice", "shop")])]
    {
        for answer in [
            client.is_active(question.clone()).await.unwrap_err(),
            client.stream_is_active(question.clone()).await.unwrap_err(),
            client.get_metric_spec(question).await.unwrap_err(),
        ] {
            assert_eq!(answer.code(), Code::InvalidArgument);
        }
    }
    let answer = client.get_metrics(crate::proto::keda::GetMetricsRequest::default()).await.unwrap_err();
    assert_eq!(answer.code(), Code::InvalidArgument);
    assert_eq!(replica.scaler.figures().bad_questions, 10);

    let long = "x".repeat(1 << 20);
    let answer = client.is_active(asked(&[("service", &long)])).await.unwrap_err();
    assert_eq!(answer.code(), Code::OutOfRange, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_bounded_and_a_place_comes_back() {
    let node = Node::start("a").await;
    let limits = Limits { streams: 300, connections: 8 };
    let replica = Replica::start_with(vec![node.address.to_string()], limits, None, None).await;
    let mut streams = Vec::new();
    // More than HTTP/2 servers mostly allow on one connection: KEDA has them all on one.
    for i in 0..300 {
        streams.push(replica.stream(&format!("s{i}")).await);
    }
    let question = asked(&[("service", "one-more")]);
    let answer = replica.client().await.stream_is_active(question.clone()).await.unwrap_err();
    assert_eq!(answer.code(), Code::ResourceExhausted);
    assert_eq!(replica.scaler.figures().refused_streams, 1);
    streams.pop();
    eventually("a place is free", async || {
        replica.client().await.stream_is_active(question.clone()).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_is_cut_off_and_others_are_served() {
    let mut node = Node::start("a").await;
    let replica = Replica::start([&node]).await;
    let channel = Channel::from_shared(format!("http://{}", node.address)).unwrap().connect().await.unwrap();
    let mut slow = DemandClient::new(channel).watch(WatchRequest {}).await.unwrap().into_inner();
    let names: Vec<_> = (0..2000).map(|i| format!("s{i}")).collect();
    let slow_readers = || node.figures.slow_readers.load(std::sync::atomic::Ordering::Relaxed);
    let mut rounds = 0;
    while slow_readers() == 0 {
        rounds += 1;
        assert!(rounds < 1000, "it is never cut off");
        for name in &names {
            node.board.called("market", name, 1, unix_ns());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    node.board.called("market", "after", 1, unix_ns());
    eventually("the other reads on", async || replica.is_active("after").await.unwrap()).await;
    assert_eq!(slow_readers(), 1);
    // It gets what had been sent, and then the end.
    let end = async { while let Ok(Some(_)) = slow.message().await {} };
    tokio::time::timeout(Duration::from_secs(10), end).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_are_bounded() {
    let node = Node::start_with("a", |settings| settings.readers = 1).await;
    let _first = Replica::start([&node]).await;
    let channel = Channel::from_shared(format!("http://{}", node.address)).unwrap().connect().await.unwrap();
    let answer = DemandClient::new(channel).watch(WatchRequest {}).await.unwrap_err();
    assert_eq!(answer.code(), Code::ResourceExhausted);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_and_silence_end_and_hold_nobody_up() {
    let mut node = Node::start("a").await;
    let replica = Replica::start([&node]).await;
    let mut open = Vec::new();
    for address in [node.address, replica.address] {
        for bytes in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n", &[0xff; 4096]] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            open.push(stream);
        }
        // A good beginning, and then a frame that is longer than any may be.
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x04\x00\x00\x00\x00\x00")
            .await
            .unwrap();
        open.push(stream);
    }
    node.board.called("market", "shop", 1, unix_ns());
    eventually("served meanwhile", async || replica.is_active("shop").await.unwrap()).await;
    for mut stream in open {
        let mut rest = Vec::new();
        // Reset or closed.
        let end = tokio::time::timeout(Duration::from_secs(9), stream.read_to_end(&mut rest)).await;
        assert!(end.is_ok(), "still open");
    }
}
