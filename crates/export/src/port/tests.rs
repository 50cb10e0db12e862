#![allow(clippy::unwrap_used)]

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    sync::mpsc,
    thread,
    time::Instant,
};

use axum::routing::get;

use super::*;

const SHORT: Limits = Limits {
    connections: 100,
    head: Duration::from_millis(500),
    stall: Duration::from_millis(500),
    ..Limits::USUAL
};
/// What the machine may add to a limit.
const SLACK: Duration = Duration::from_secs(5);
/// More than sockets hold.
const LARGE: usize = 64 << 20;

/// Serves, tests, and tells how long the server took to end.
fn check(limits: Limits, test: impl FnOnce(SocketAddr)) -> Duration {
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (tell, address) = mpsc::channel();
    let server = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            let router = Router::new()
                .route("/", get(async |peer: ConnectInfo<SocketAddr>| peer.0.to_string()))
                .route("/large", get(async || "x".repeat(LARGE)));
            serve(listener, router, limits, async { drop(stopped.await) }).await;
        });
    });
    test(address.recv_timeout(Duration::from_secs(20)).unwrap());
    let asked = Instant::now();
    stop.send(()).unwrap();
    server.join().unwrap();
    asked.elapsed()
}

fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket
}

/// All that comes until the server closes.
fn read_all(socket: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    match socket.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "not closed in time"),
    }
    String::from_utf8(answer).unwrap()
}

fn assert_served(address: SocketAddr) {
    let mut socket = connect(address);
    socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let answer = read_all(&mut socket);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with(&format!("\r\n\r\n{}", socket.local_addr().unwrap())), "{answer}");
}

#[test]
fn who_says_nothing_or_little_is_closed_in_time() {
    check(SHORT, |address| {
        for said in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: x\r\n"] {
            let began = Instant::now();
            let mut socket = connect(address);
            socket.write_all(said.as_bytes()).unwrap();
            read_all(&mut socket);
            let took = began.elapsed();
            assert!(took >= SHORT.head / 2 && took < SHORT.head + SLACK, "{said:?}: {took:?}");
        }
        // A byte now and then is no reason to wait longer.
        let began = Instant::now();
        let mut socket = connect(address);
        while socket.write_all(b"G").is_ok() {
            assert!(began.elapsed() < SHORT.head + SLACK);
            thread::sleep(Duration::from_millis(20));
        }
    });
}

#[test]
fn a_connection_serves_again_and_is_closed_when_idle() {
    check(SHORT, |address| {
        let mut socket = connect(address);
        let mut answer = [0; 4096];
        for _ in 0..3 {
            socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            assert!(socket.read(&mut answer).unwrap() > 0 && answer.starts_with(b"HTTP/1.1 200"));
        }
        let began = Instant::now();
        assert_eq!(read_all(&mut socket), "");
        assert!(began.elapsed() < SHORT.head + SLACK);
    });
}

#[test]
fn a_large_head_is_refused() {
    check(Limits::USUAL, |address| {
        let mut socket = connect(address);
        let large = "x".repeat(Limits::USUAL.head_bytes);
        // The server may close before it has all.
        let _closed = write!(socket, "GET / HTTP/1.1\r\nHost: x\r\nLarge: {large}\r\n\r\n");
        let answer = read_all(&mut socket);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
        assert_served(address);
    });
}

#[test]
fn a_thousand_that_sit_keep_nobody_out() {
    let limits = Limits { head: Limits::USUAL.head, ..SHORT };
    check(limits, |address| {
        assert_served(address);
        let began = Instant::now();
        // Half a head each: as much as the server keeps of one that is not whole.
        let half = "x".repeat(limits.head_bytes / 2);
        let mut sitting: Vec<_> = (0..1000).map(|_| connect(address)).collect();
        for socket in &mut sitting {
            let _closed = write!(socket, "GET / HTTP/1.1\r\nHost: x\r\nHalf: {half}");
        }
        assert_served(address);
        assert!(began.elapsed() < limits.head, "served before any was too slow");
        let is_open = |mut socket: &TcpStream| {
            socket.set_nonblocking(true).unwrap();
            matches!(socket.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
        };
        let open = sitting.iter().filter(|socket| is_open(socket)).count();
        assert!((1..=limits.connections).contains(&open), "{open} are open");
    });
}

#[test]
fn who_takes_nothing_of_an_answer_is_closed() {
    let took = check(SHORT, |address| {
        let mut socket = connect(address);
        socket.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        thread::sleep(SHORT.stall + SLACK / 2);
        let mut answer = Vec::new();
        let ended = socket.read_to_end(&mut answer);
        assert!(ended.is_err() && answer.len() < LARGE, "{ended:?}, {} bytes", answer.len());
    });
    assert!(took < SHORT.farewell, "{took:?}");
}

#[test]
fn the_end_waits_for_nobody_for_long() {
    let limits = Limits { farewell: Duration::from_millis(300), ..Limits::USUAL };
    let mut sits = None;
    let took = check(limits, |address| {
        let mut socket = connect(address);
        socket.write_all(b"GET / HT").unwrap();
        assert_served(address);
        sits = Some(socket);
    });
    assert!(took < limits.farewell + SLACK, "{took:?}");
    assert_eq!(read_all(&mut sits.unwrap()), "");
}
