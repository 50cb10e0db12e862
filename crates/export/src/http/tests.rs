use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        atomic::{AtomicBool, AtomicU64},
        mpsc,
    },
    thread,
    time::Duration,
};

use super::*;
use crate::{hot_loop::PATIENCE, snapshot::Figures};

/// One clock for each test that moves it: they run side by side.
static HEALTH_NOW: AtomicU64 = AtomicU64::new(0);

/// Serves while `test` runs, with a loop that publishes what it is asked for until told to stop.
fn check(meeting: &Arc<Meeting>, now_ns: fn() -> u64, test: impl FnOnce(SocketAddr)) {
    check_with(meeting, now_ns, true, test);
}

fn check_with(meeting: &Arc<Meeting>, now_ns: fn() -> u64, metrics: bool, test: impl FnOnce(SocketAddr)) {
    meeting.offer_metrics(metrics);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (tell, address) = mpsc::channel();
    let served = Arc::clone(meeting);
    let server = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            let stop = async { drop(stopped.await) };
            serve(listener, served, now_ns, stop).await;
        });
    });
    test(address.recv_timeout(Duration::from_secs(20)).unwrap());
    stop.send(()).unwrap();
    server.join().unwrap();
}

/// Status, head and body of an answer, over a socket of its own.
fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(socket, "GET {path} HTTP/1.0\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_ascii_lowercase(), body.to_owned())
}

#[test]
fn health_is_a_loop_that_turns() {
    let meeting = Arc::new(Meeting::default());
    let clock = || HEALTH_NOW.load(Ordering::Relaxed);
    check(&meeting, clock, |address| {
        const SECOND: u64 = 1_000_000_000;
        for (turned, now, expected) in [
            // Never turned on a machine that has been up for long.
            (0, 1000 * SECOND, 503),
            (1000 * SECOND, 1000 * SECOND, 200),
            (1000 * SECOND, 1005 * SECOND - 1, 200),
            (1000 * SECOND, 1005 * SECOND, 503),
            (1000 * SECOND, 1060 * SECOND, 503),
            (1060 * SECOND, 1060 * SECOND, 200),
            // The loop's clock was read after the server's.
            (1061 * SECOND, 1060 * SECOND, 200),
        ] {
            meeting.hot_loop.turn(turned);
            HEALTH_NOW.store(now, Ordering::Relaxed);
            let (status, _, body) = get(address, "/healthz");
            assert_eq!(status, expected, "turned at {turned}, now {now}: {body}");
        }
        HEALTH_NOW.store(1068 * SECOND, Ordering::Relaxed);
        assert_eq!(get(address, "/healthz").2, "the hot loop has not turned for 7 s\n");
    });
}

#[test]
fn ready_is_a_gateway_that_is_watched() {
    let meeting = Arc::new(Meeting::default());
    check(
        &meeting,
        || 0,
        |address| {
            for (ready, expected) in [(None, 503), (Some(true), 200), (Some(false), 503), (Some(true), 200)] {
                if let Some(ready) = ready {
                    meeting.hot_loop.set_ready(ready);
                }
                assert_eq!(get(address, "/readyz").0, expected, "{ready:?}");
            }
            meeting.hot_loop.set_ready(false);
            assert!(get(address, "/readyz").2.contains("gatewatch doctor"));
        },
    );
}

/// A hot loop in small: it publishes what it has counted when it is asked.
fn with_loop(meeting: &Arc<Meeting>, test: impl FnOnce()) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut turns = 0;
            while !done.load(Ordering::Relaxed) {
                turns += 1;
                if meeting.hot_loop.turn(0) {
                    let mut snapshot = Snapshot { coarse_starts: turns, ..Snapshot::default() };
                    let figures =
                        Figures { requests: 7, percentiles_ns: [1, 2, 3_000_000], ..Figures::default() };
                    let row =
                        crate::snapshot::Row { name: "a\"b".to_owned(), total: figures, window: figures };
                    snapshot.statistics.all = row.clone();
                    snapshot.statistics.dimensions = vec![("host", vec![row])];
                    meeting.hot_loop.publish(snapshot);
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        // Also where the test fails, or the scope would wait for the loop for ever.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
        done.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn metrics_are_fresh() {
    let meeting = Arc::new(Meeting::default());
    check(
        &meeting,
        || 0,
        |address| {
            with_loop(&meeting, || {
                let turns = || -> u64 {
                    let (status, head, body) = get(address, "/metrics");
                    assert_eq!(status, 200);
                    assert!(head.contains(&format!("content-type: {}", metrics::CONTENT_TYPE)), "{head}");
                    assert!(body.ends_with("# EOF\n"));
                    let line =
                        body.lines().find(|l| l.starts_with("gatewatch_http_coarse_starts_total ")).unwrap();
                    line.rsplit(' ').next().unwrap().parse().unwrap()
                };
                let first = turns();
                thread::sleep(Duration::from_millis(20));
                assert!(first > 0 && turns() > first, "each scrape gets a picture of its own");
            });
        },
    );
}

#[test]
fn a_loop_that_hangs_gives_the_last_picture_and_no_scrape_hangs() {
    let meeting = Arc::new(Meeting::default());
    meeting.hot_loop.publish(Snapshot { coarse_starts: 5, ..Snapshot::default() });
    check(
        &meeting,
        || 0,
        |address| {
            let begun = std::time::Instant::now();
            let (status, _, body) = get(address, "/metrics");
            assert_eq!(status, 200);
            assert!(body.contains("gatewatch_http_coarse_starts_total 5\n"));
            assert!(begun.elapsed() >= PATIENCE && begun.elapsed() < Duration::from_secs(10));
            assert!(meeting.hot_loop.turn(1), "the loop learns that somebody waits");
            assert!(!meeting.hot_loop.turn(2), "once");
        },
    );
}

#[test]
fn statistics_are_json() {
    let meeting = Arc::new(Meeting::default());
    check(
        &meeting,
        || 0,
        |address| {
            with_loop(&meeting, || {
                let (status, head, body) = get(address, "/api/v1/statistics");
                assert_eq!(status, 200);
                assert!(head.contains("content-type: application/json"), "{head}");
                let value: serde_json::Value = serde_json::from_str(&body).unwrap();
                assert_eq!(value["total"]["requests"], 7);
                assert_eq!(value["window"]["p99_ms"], 3.0);
                assert_eq!(value["dimensions"]["host"][0]["name"], "a\"b");
            });
        },
    );
}

#[test]
fn metrics_can_be_off() {
    let meeting = Arc::new(Meeting::default());
    check_with(
        &meeting,
        || 0,
        false,
        |address| {
            assert_eq!(get(address, "/metrics").0, 404);
            assert_eq!(get(address, "/healthz").0, 200);
            assert!(!meeting.hot_loop.turn(1), "nobody asked the loop for anything");
        },
    );
}

#[test]
fn other_routes_and_garbage_are_refused() {
    let meeting = Arc::new(Meeting::default());
    check(
        &meeting,
        || 0,
        |address| {
            assert_eq!(get(address, "/").0, 404);
            assert_eq!(get(address, "/metrics/").0, 404);
            let mut socket = TcpStream::connect(address).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            socket.write_all(b"\x16\x03\x01\0\0garbage\r\n\r\n").unwrap();
            let mut answer = Vec::new();
            socket.read_to_end(&mut answer).unwrap();
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"));
            assert_eq!(get(address, "/readyz").0, 503, "the server goes on");
        },
    );
}
