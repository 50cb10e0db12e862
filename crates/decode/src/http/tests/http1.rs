//! HTTP/1.

use gatewatch_event::{HttpVersion, request::Method};

use super::*;

#[test]
fn a_request_and_its_answer() {
    let request = "POST /a/b?token=x HTTP/1.1\r\nHost: Shop.Example:8080\r\nUser-Agent: curl/8\r\nContent-Length: 4\r\n\r\nbody";
    let response = "HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok";
    let told = exchanges(&[client(10, request), server(25, response)]);
    assert_eq!(
        told,
        [Exchange {
            began_ns: Some(10),
            ended_ns: 25,
            version: HttpVersion::Http11,
            method: Method::Post,
            host: "shop.example".into(),
            path: "/a/b".into(),
            status: Some(201),
            user_agent: "curl/8".into(),
            request_bytes: request.len() as u64,
            response_bytes: response.len() as u64,
            ..Exchange::default()
        }]
    );
    assert_eq!(told[0].duration_ns(), Some(15));
}

#[test]
fn all_ways_a_body_ends() {
    let told = exchanges(&[
        client(1, "GET /chunked HTTP/1.1\r\n\r\n"),
        server(
            2,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n4\r\nwxyz\r\n00A;x=\"1\"\r\n0123456789\r\n",
        ),
        server(3, "0\r\nX-Trailer: a\r\n\r\n"),
        client(4, "HEAD /head HTTP/1.1\r\n\r\n"),
        server(5, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        client(6, "GET /same HTTP/1.1\r\n\r\n"),
        server(7, "HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n"),
        client(8, "DELETE /gone HTTP/1.1\r\n\r\n"),
        server(9, "HTTP/1.1 204 No Content\r\n\r\n"),
        client(10, "PUT /up HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
        server(
            11,
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200\r\nContent-Length: 0, 0\r\n\r\n",
        ),
        client(12, "\r\n\r\nGET /old HTTP/1.0\r\n\r\n"),
        server(13, "HTTP/1.0 200 OK\r\n\r\nuntil"),
        server(14, "close"),
    ]);
    let expected = [
        "GET /chunked 200",
        "HEAD /head 200",
        "GET /same 304",
        "DELETE /gone 204",
        "PUT /up 200",
        "GET /old 200",
    ];
    assert_eq!(short(&told), expected);
    let times: Vec<_> = told.iter().map(|it| (it.began_ns.unwrap(), it.ended_ns)).collect();
    assert_eq!(times, [(1, 3), (4, 5), (6, 7), (8, 9), (10, 11), (12, 14)]);
    assert_eq!(told[5].version, HttpVersion::Http10);
}

#[test]
fn pipelines_are_answered_in_order() {
    let told = exchanges(&[
        client(
            1,
            "GET /1 HTTP/1.1\r\n\r\nPOST /2 HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET /3 HTTP/1.1\r\n\r\n",
        ),
        server(2, "HTTP/1.1 201 A\r\nContent-Length: 1\r\n\r\naHTTP/1.1 202 B\r\nContent-Length: 0\r\n\r\n"),
        client(3, "HEAD /4 HTTP/1.1\r\n\r\n"),
        server(4, "HTTP/1.1 203 C\r\nContent-Length: 1\r\n\r\ncHTTP/1.1 204 D\r\n\r\n"),
    ]);
    assert_eq!(short(&told), ["GET /1 201", "POST /2 202", "GET /3 203", "HEAD /4 204"]);
}

#[test]
fn targets_and_hosts() {
    let told = exchanges(&[
        client(1, "GET http://u:p@Other.example:1/x?q HTTP/1.1\r\nHost: h\r\n\r\n"),
        server(2, "HTTP/1.1 404 N\r\nContent-Length: 0\r\n\r\n"),
        client(3, "OPTIONS * HTTP/1.1\r\nhost:  [2001:DB8::1]:443 \r\n\r\n"),
        server(4, "HTTP/1.1 200 N\r\nContent-Length: 0\r\n\r\n"),
        client(5, "BREW /bearer%20abc/token=s3cret HTTP/1.1\r\nHost: h\r\n\r\n"),
        server(6, "HTTP/1.1 418 N\r\nContent-Length: 0\r\n\r\n"),
    ]);
    let seen: Vec<_> = told.iter().map(|it| (it.method.name(), &*it.host, &*it.path)).collect();
    assert_eq!(seen[0], ("GET", "other.example", "/x"));
    assert_eq!(seen[1], ("OPTIONS", "[2001:db8::1]", "*"));
    assert_eq!((seen[2].0, seen[2].1), ("_OTHER", "h"));
    assert!(!seen[2].2.contains("s3cret"), "{}", seen[2].2);
}

#[test]
fn upgrades_and_tunnels_end_the_conversation() {
    let told = exchanges(&[
        client(1, "GET /chat HTTP/1.1\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\r\n"),
        server(2, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x01GET / HTTP/1.1\r\n\r\n"),
        client(3, "GET /none HTTP/1.1\r\n\r\n"),
    ]);
    assert_eq!(short(&told), ["GET /chat 101"]);
    assert_eq!(told[0].upgraded.as_deref(), Some("websocket"));
    let told = exchanges(&[
        client(1, "CONNECT db.example:443 HTTP/1.1\r\nHost: db.example:443\r\n\r\n"),
        server(2, "HTTP/1.1 200 OK\r\n\r\n"),
        client(3, "GET /none HTTP/1.1\r\n\r\n"),
    ]);
    assert_eq!(short(&told), ["CONNECT  200"]);
    assert_eq!((told[0].upgraded.as_deref(), &*told[0].host), (Some("connect"), "db.example"));
    let told = exchanges(&[
        client(1, "GET /chat HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"),
        server(2, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        client(3, "GET /more HTTP/1.1\r\n\r\n"),
    ]);
    assert_eq!(short(&told), ["GET /chat 200", "GET /more -"]);
    assert_eq!(told[0].upgraded, None);
}

#[test]
fn whoever_waits_for_a_100_may_not_send_the_body() {
    let put = "PUT /big HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 100\r\n\r\n";
    let (told, counts) = told(
        Side::Server,
        false,
        &[
            client(1, put),
            server(2, "HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n"),
            client(3, "GET /next HTTP/1.1\r\n\r\n"),
            server(4, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ],
        usize::MAX,
    );
    assert_eq!(short(&told), ["PUT /big 417", "GET /next 200"], "{counts:?}");
    let told = exchanges(&[
        client(1, put),
        server(2, "HTTP/1.1 100 Continue\r\n\r\n"),
        client(3, "GET /next HTTP/1.1\r\n\r\n".repeat(4) + "12345678"),
        server(4, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ]);
    assert_eq!(short(&told), ["PUT /big 200"]);
}

#[test]
fn an_answer_may_be_told_of_before_its_request() {
    let mut feeder = Feeder::new(Side::Client, false);
    feeder.say(&server(5, "HTTP/1.1 201 A\r\nContent-Length: 1\r\n\r\na"));
    feeder.say(&server(15, "HTTP/1.1 202 B\r\nContent-Length: 0\r\n\r\n"));
    feeder.say(&client(4, "GET /1 HTTP/1.1\r\n\r\n"));
    feeder.say(&client(14, "GET /2 HTTP/1.1\r\n\r\n"));
    // Nobody asked for this one.
    feeder.say(&server(20, "HTTP/1.1 408 Late\r\nContent-Length: 0\r\n\r\n"));
    feeder.say(&client(24, "GET /3 HTTP/1.1\r\n\r\n"));
    let (told, counts) = feeder.close(30);
    assert_eq!(short(&told), ["GET /1 201", "GET /2 202", "  408 partial", "GET /3 -"]);
    assert_eq!(counts.orphans, 1);
}

#[test]
fn heads_beyond_what_is_kept() {
    let long = format!("GET /long HTTP/1.1\r\nHost: h\r\nCookie: {}\r\n\r\n", "c".repeat(40_000));
    let many = format!("GET /many HTTP/1.1\r\nHost: h\r\n{}\r\n", "a: b\r\n".repeat(500));
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    for size in [usize::MAX, 4096, 1000] {
        let talk = [
            client(1, &long),
            server(2, ok),
            client(3, "GET /2 HTTP/1.1\r\n\r\n"),
            server(4, ok),
            client(5, &many),
            server(6, ok),
        ];
        let (told, counts) = told(Side::Server, false, &talk, size);
        assert!(short(&told)[0].starts_with("GET /long 200"), "{size}: {:?}", short(&told));
        assert!(short(&told)[1..].contains(&"GET /2 200".to_owned()), "{size}: {:?}", short(&told));
        assert!(told.last().unwrap().path == "/many".into(), "{size}: {:?} {counts:?}", short(&told));
        assert_eq!(&*told[0].host, "h");
    }
}

#[test]
fn what_is_no_http_is_left_alone() {
    for bytes in
        [&b"*1\r\n$4\r\nPING\r\n"[..], b"get key\r\n", b"\x00\x00\x01\x02", b"SSH-2.0-x\r\n", b"EHLO x\r\n"]
    {
        for size in [usize::MAX, 1] {
            let mut feeder = Feeder::new(Side::Server, false);
            for bytes in bytes.chunks(size) {
                feeder.call(true, 1, bytes, usize::MAX);
            }
            assert_eq!(feeder.conversation.speaks(), Speaks::Other, "{bytes:?}");
            assert_eq!(feeder.close(2).0, []);
        }
    }
}

#[test]
fn half_a_request_gets_its_answer() {
    let mut feeder = Feeder::new(Side::Client, false);
    feeder.say(&client(4, "GET /1 HTTP/1.1\r\n\r\n"));
    feeder.say(&server(5, "HTTP/1.1 201 A\r\nContent-Length: 1\r\n\r\na"));
    feeder.lose(true, 10);
    feeder.say(&client(8, "xxxxxx"));
    feeder.say(&client(10, "PUT /2 HTTP/1.1\r\nTransfer-Enco"));
    feeder.lose(true, 10);
    feeder.say(&server(12, "HTTP/1.1 202 A\r\nContent-Length: 1\r\n\r\na"));
    feeder.say(&client(14, "GET /3 HTTP/1.1\r\n\r\n"));
    feeder.say(&server(15, "HTTP/1.1 203 A\r\nContent-Length: 1\r\n\r\na"));
    let (told, counts) = feeder.close(30);
    assert_eq!(short(&told), ["GET /1 201", "PUT /2 202 partial", "GET /3 203"]);
    assert_eq!((counts.holes, counts.skipped_bytes, counts.orphans), (2, 6, 0));
}

#[test]
fn holes_within_bodies_are_passed_over_exactly() {
    let mut feeder = Feeder::new(Side::Server, false);
    for n in 0..3 {
        let at = 10 * n;
        let body = vec![b'x'; 5000];
        let upload = [b"POST /up HTTP/1.1\r\nContent-Length: 5000\r\n\r\n", &*body].concat();
        feeder.call(true, at, &upload, 100);
        feeder.call(false, at + 1, b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n", usize::MAX);
        // As sendfile does: nothing of it is seen; then nothing, not even the call.
        feeder.call(false, at + 2, &[b'y'; 4000], 0);
        feeder.lose(false, 4990);
        feeder.call(false, at + 3, &[b'z'; 10], 0);
        let chunk = [b"1388\r\n", &*body, b"\r\n"].concat();
        feeder.call(true, at + 4, b"PUT /chunks HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", usize::MAX);
        feeder.call(true, at + 4, &chunk, 6);
        feeder.call(true, at + 4, &[&*chunk, b"0\r\n\r\n"].concat()[..5006], 300);
        feeder.call(true, at + 5, b"\r\n0\r\n\r\n", usize::MAX);
        feeder.call(false, at + 6, b"HTTP/1.1 204 OK\r\n\r\n", usize::MAX);
    }
    let (told, counts) = feeder.close(100);
    assert_eq!(short(&told), ["POST /up 200", "PUT /chunks 204"].repeat(3));
    assert_eq!((counts.holes, counts.partial), (0, 0));
    assert_eq!((told[0].ended_ns, told[0].request_bytes, told[0].response_bytes), (3, 5043, 9041));
}
