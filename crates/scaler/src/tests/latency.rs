//! From the call to KEDA's side.

use std::time::{Duration, Instant};

use super::common::{Node, Replica, asked};
use crate::picture::unix_ns;

/// The figure is for the whole way but the kernel's: two gRPC hops and both tables. On two cores shared with other tests
/// the bound is loose; a quiet machine shows far less.
#[tokio::test(flavor = "multi_thread")]
async fn from_the_call_to_active_within_milliseconds() {
    const ROUNDS: usize = 300;
    let mut node = Node::start("a").await;
    let replica = Replica::start([&node]).await;
    let mut client = replica.client().await;
    let mut taken = Vec::new();
    for i in 0..ROUNDS {
        let name = format!("s{i}");
        let question = asked(&[("service", &name)]);
        let mut stream = client.stream_is_active(question).await.unwrap().into_inner();
        assert!(!stream.message().await.unwrap().unwrap().result);
        let called = Instant::now();
        node.board.called("market", &name, 1, unix_ns());
        assert!(stream.message().await.unwrap().unwrap().result);
        taken.push(called.elapsed());
    }
    taken.sort_unstable();
    let (median, p99, most) = (taken[ROUNDS / 2], taken[ROUNDS * 99 / 100], taken[ROUNDS - 1]);
    println!("called → StreamIsActive true: median {median:?}, p99 {p99:?}, most {most:?} of {ROUNDS}");
    assert!(median < Duration::from_millis(10), "{median:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn among_five_thousand_streams_on_one_connection_the_right_one_wakes() {
    const STREAMS: usize = 5000;
    let mut node = Node::start("a").await;
    let replica = Replica::start([&node]).await;
    let mut streams = Vec::new();
    for i in 0..STREAMS {
        let mut stream = replica.stream(&format!("s{i}")).await;
        assert!(!stream.message().await.unwrap().unwrap().result);
        streams.push(stream);
    }
    let mut taken = Vec::new();
    for i in (0..STREAMS).step_by(25) {
        let called = Instant::now();
        node.board.called("market", &format!("s{i}"), 1, unix_ns());
        assert!(streams[i].message().await.unwrap().unwrap().result);
        taken.push(called.elapsed());
    }
    taken.sort_unstable();
    let (median, most) = (taken[taken.len() / 2], taken[taken.len() - 1]);
    println!("with {STREAMS} streams: median {median:?}, most {most:?} of {}", taken.len());
    let figures = replica.scaler.figures();
    assert_eq!(figures.streams, u64::try_from(STREAMS).unwrap());
    assert_eq!(figures.activations, u64::try_from(taken.len()).unwrap());
    assert!(median < Duration::from_millis(10), "{median:?}");
}

/// What a call costs the hot loop, with readers and without.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_cheap_for_the_hot_loop() {
    const CALLS: u32 = 200_000;
    const SERVICES: usize = 500;
    let mut node = Node::start("a").await;
    let replica = Replica::start([&node]).await;
    let names: Vec<_> = (0..SERVICES).map(|i| format!("service-{i}")).collect();
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    for i in 0..CALLS {
        let one = Instant::now();
        node.board.called("market", &names[i as usize % SERVICES], 1, unix_ns());
        slowest = slowest.max(one.elapsed());
    }
    let each = began.elapsed() / CALLS;
    println!("Board::called: {each:?} each (with two clocks read), slowest {slowest:?}");
    assert!(each < Duration::from_micros(20), "{each:?}");
    drop(replica);
}
