//! HTTP/2 and gRPC, from frames made here.

use gatewatch_event::{HttpVersion, request::Method};

use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const BOTH: u8 = END_STREAM | END_HEADERS;

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

fn headers(flags: u8, stream: u32, block: &[u8]) -> Vec<u8> {
    frame(1, flags, stream, block)
}

fn data(flags: u8, stream: u32, len: usize) -> Vec<u8> {
    frame(0, flags, stream, &vec![7; len])
}

/// A field with a name of its own, not put into the table.
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0, u8::try_from(name.len()).unwrap()];
    out.extend(name.as_bytes());
    out.push(u8::try_from(value.len()).unwrap());
    out.extend(value.as_bytes());
    out
}

/// `GET` or `POST` of a path, with literals only.
pub(super) fn get(path: &str) -> Vec<u8> {
    [vec![0x82], field(":path", path), field(":authority", "h")].concat()
}

fn post(path: &str, more: &[Vec<u8>]) -> Vec<u8> {
    [vec![0x83], field(":path", path), field(":authority", "h"), more.concat()].concat()
}

pub(super) fn status(status: u16) -> Vec<u8> {
    field(":status", &status.to_string())
}

fn begin() -> [Said; 2] {
    [
        client(1, [PREFACE, &frame(4, 0, 0, &[0, 1, 0, 0, 16, 0])].concat()),
        server(1, [frame(4, 0, 0, &[]), frame(4, 1, 0, &[])].concat()),
    ]
}

fn talk(rest: &[Said]) -> Vec<Said> {
    begin().iter().chain(rest).cloned().collect()
}

#[test]
fn streams_interleave() {
    let request = headers(BOTH, 1, &get("/1?q"));
    let told = exchanges(&talk(&[
        client(
            10,
            [&*request, &headers(END_HEADERS, 3, &post("/3", &[field("user-agent", "x/1")]))].concat(),
        ),
        server(11, headers(END_HEADERS, 3, &status(103))),
        client(12, [data(0, 3, 20), frame(8, 0, 0, &[0, 0, 0, 9]), data(END_STREAM, 3, 0)].concat()),
        server(13, headers(END_HEADERS, 3, &status(201))),
        server(14, [headers(END_HEADERS, 1, &status(404)), data(END_STREAM, 3, 5)].concat()),
        server(15, [data(0, 1, 6), headers(BOTH, 1, &field("x-trailer", "1"))].concat()),
    ]));
    assert_eq!(short(&told), ["POST /3 201", "GET /1 404"]);
    assert_eq!((told[0].began_ns, told[0].ended_ns, &*told[0].user_agent), (Some(10), 14, "x/1"));
    assert_eq!((told[1].began_ns, told[1].ended_ns, &*told[1].host), (Some(10), 15, "h"));
    assert_eq!(told[1].request_bytes, request.len() as u64);
    assert_eq!(told[0].version, HttpVersion::Http2);
}

#[test]
fn grpc_tells_its_own_status() {
    let call = |stream, path: &str| {
        let grpc = [field("content-type", "application/grpc+proto"), field("te", "trailers")];
        [headers(END_HEADERS, stream, &post(path, &grpc)), data(END_STREAM, stream, 9)].concat()
    };
    let kind = field("content-type", "application/grpc");
    let told = exchanges(&talk(&[
        client(10, call(1, "/shop.v1.Users/Get")),
        server(11, [headers(END_HEADERS, 1, &[status(200), kind.clone()].concat()), data(0, 1, 7)].concat()),
        server(12, headers(BOTH, 1, &field("grpc-status", "0"))),
        client(13, call(3, "/shop.v1.Users/List")),
        server(14, headers(BOTH, 3, &[status(200), kind, field("grpc-status", "14")].concat())),
    ]));
    assert_eq!(short(&told), ["POST /shop.v1.Users/Get 200", "POST /shop.v1.Users/List 200"]);
    assert_eq!(
        told.iter().map(|it| (it.grpc, it.grpc_status)).collect::<Vec<_>>(),
        [(true, Some(0)), (true, Some(14))]
    );
}

#[test]
fn streams_that_are_broken_off() {
    let told = exchanges(&talk(&[
        client(10, headers(BOTH, 1, &get("/reset-by-client"))),
        client(11, frame(3, 0, 1, &[0, 0, 0, 8])),
        client(12, headers(END_HEADERS, 3, &get("/reset-by-server"))),
        server(13, [headers(END_HEADERS, 3, &status(200)), frame(3, 0, 3, &[0, 0, 0, 2])].concat()),
        client(14, [headers(BOTH, 5, &get("/taken")), headers(BOTH, 7, &get("/refused"))].concat()),
        server(15, [frame(7, 0, 0, &[0, 0, 0, 5, 0, 0, 0, 0]), headers(BOTH, 5, &status(200))].concat()),
        client(16, headers(BOTH, 9, &get("/open"))),
    ]));
    assert_eq!(
        short(&told),
        [
            "GET /reset-by-client -",
            "GET /reset-by-server 200",
            "GET /refused -",
            "GET /taken 200",
            "GET /open -"
        ]
    );
    assert_eq!(told[4].ended_ns, 1_000_000);
}

#[test]
fn connect_is_handed_out_when_it_is_granted() {
    let connect =
        |more: &[u8]| [&field(":method", "CONNECT")[..], &field(":authority", "o:1"), more].concat();
    let chat = [field(":protocol", "websocket"), field(":path", "/chat")].concat();
    let told = exchanges(&talk(&[
        client(10, headers(END_HEADERS, 1, &connect(&chat))),
        server(11, headers(END_HEADERS, 1, &status(200))),
        client(12, data(0, 1, 100)),
        client(13, headers(END_HEADERS, 3, &connect(&[]))),
        server(14, headers(END_HEADERS, 3, &status(200))),
        client(15, headers(END_HEADERS, 5, &connect(&chat))),
        server(16, headers(BOTH, 5, &status(403))),
        server(17, data(END_STREAM, 1, 100)),
    ]));
    assert_eq!(short(&told), ["CONNECT /chat 200", "CONNECT  200", "CONNECT /chat 403"]);
    let to: Vec<_> = told.iter().map(|it| it.upgraded.as_deref()).collect();
    assert_eq!(to, [Some("websocket"), Some("connect"), None]);
}

#[test]
fn padding_priority_continuations_and_pushes() {
    let block = get("/padded");
    let padded = frame(1, BOTH | 0x28, 1, &[&[3, 0, 0, 0, 0, 9][..], &block, &[0; 3]].concat());
    let block = get("/split");
    let split = [
        frame(1, END_STREAM, 3, &block[..2]),
        frame(9, 0, 3, &block[2..9]),
        frame(9, END_HEADERS, 3, &block[9..]),
    ];
    let promise = frame(5, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &get("/pushed")].concat());
    let told = exchanges(&talk(&[
        client(10, [padded, split.concat()].concat()),
        server(11, [promise, headers(BOTH, 1, &status(200)), headers(BOTH, 2, &status(200))].concat()),
        server(12, [headers(END_HEADERS, 3, &status(200)), frame(0, END_STREAM | 8, 3, &[2, 0, 0])].concat()),
    ]));
    assert_eq!(short(&told), ["GET /padded 200", "GET /split 200"]);
}

#[test]
fn tables_remember() {
    // The path and the user agent go into the client's table, the status into the server's.
    let first = [&[0x82, 0x44, 2][..], b"/a", &[0x41, 1], b"h", &[0x7a, 3], b"k/1"].concat();
    let told = exchanges(&talk(&[
        client(10, headers(BOTH, 1, &first)),
        server(11, headers(BOTH, 1, &[&[0x48, 3][..], b"418"].concat())),
        // 62 is the newest: the agent, then the authority, then the path.
        client(12, headers(BOTH, 3, &[0x82, 0x80 | 62, 0x80 | 63, 0x80 | 64])),
        server(13, headers(BOTH, 3, &[0x80 | 62])),
        // The table is emptied, and nothing can be named any more.
        client(14, headers(BOTH, 5, &[&[0x20, 0x82, 0x44, 2][..], b"/b", &[0x80 | 62]].concat())),
        server(15, headers(BOTH, 5, &[0x80 | 62])),
    ]));
    assert_eq!(short(&told), ["GET /a 418", "GET /a 418", "GET /b 418 partial"]);
    assert_eq!((&*told[1].host, &*told[1].user_agent), ("h", "k/1"));
}

#[test]
fn joined_later_it_tells_what_it_can() {
    // Names of the dynamic table that nobody saw filled, then literals, then these by name.
    let unknown = [0x82, 0x80 | 70, 0x80 | 71, 0x86];
    let literal = [&[0x82, 0x44, 2][..], b"/b", &[0x41, 1], b"h"].concat();
    let mut feeder = Feeder::new(Side::Unknown, true);
    feeder.say(&server(1, [headers(BOTH, 99, &[0x88]), frame(6, 0, 0, &[0; 8])].concat()));
    feeder.say(&client(2, headers(BOTH, 101, &unknown)));
    feeder.say(&server(3, headers(BOTH, 101, &[0x88])));
    feeder.say(&client(4, headers(BOTH, 103, &literal)));
    feeder.say(&server(5, headers(BOTH, 103, &[0x80 | 64])));
    feeder.say(&client(6, headers(BOTH, 105, &[0x82, 0x80 | 62, 0x80 | 63])));
    feeder.say(&server(7, headers(BOTH, 105, &[0x8e])));
    let (told, counts) = feeder.close(8);
    assert_eq!(short(&told), ["  200 partial", "GET  200 partial", "GET /b - partial", "GET /b 500"]);
    assert_eq!((counts.unknown_fields, counts.orphans), (3, 1));
    assert_eq!(told[1].method, Method::Get);
}

#[test]
fn answers_may_be_told_of_before_their_requests() {
    let mut feeder = Feeder::new(Side::Client, false);
    begin().iter().for_each(|said| feeder.say(said));
    feeder.say(&server(12, [headers(END_HEADERS, 1, &status(200)), data(END_STREAM, 1, 3)].concat()));
    feeder.say(&client(11, headers(BOTH, 1, &get("/1"))));
    feeder.say(&server(14, headers(BOTH, 5, &status(201))));
    feeder.say(&client(13, headers(BOTH, 5, &get("/5"))));
    feeder.say(&server(16, headers(BOTH, 7, &status(202))));
    feeder.say(&client(17, headers(BOTH, 9, &get("/9"))));
    let (told, _) = feeder.close(20);
    assert_eq!(short(&told), ["GET /1 200", "GET /5 201", "  202 partial", "GET /9 -"]);
    assert_eq!((told[0].began_ns, told[0].ended_ns), (Some(11), 12));
}

#[test]
fn a_flood_of_resets_is_counted_and_bounded() {
    let mut feeder = Feeder::new(Side::Server, false);
    begin().iter().for_each(|said| feeder.say(said));
    let mut stream = 1;
    for at in 0..20_000 {
        let mut bytes = headers(BOTH, stream, &get("/reset"));
        bytes.extend(frame(3, 0, stream, &[0, 0, 0, 8]));
        feeder.call(true, 10 + at, &bytes, usize::MAX);
        stream += 2;
    }
    assert_eq!(feeder.told.len(), 20_000);
    for at in 0..6_000 {
        feeder.call(true, 30_000 + at, &headers(BOTH, stream, &get("/open")), usize::MAX);
        stream += 2;
    }
    assert!(feeder.decoder.held_bytes() < 4 << 20, "{}", feeder.decoder.held_bytes());
    let (told, counts) = feeder.close(100_000);
    assert_eq!((told.len(), counts.streams_over), (26_000, 6_000 - 4096));
}

#[test]
fn a_flood_of_continuations_is_bounded() {
    let mut feeder = Feeder::new(Side::Server, false);
    begin().iter().for_each(|said| feeder.say(said));
    feeder.call(true, 10, &frame(1, END_STREAM, 1, &get("/flood")), usize::MAX);
    for _ in 0..10_000 {
        feeder.call(true, 10, &frame(9, 0, 1, &[0x82; 1000]), usize::MAX);
        assert!(feeder.decoder.held_bytes() < 1 << 18);
    }
    feeder.call(true, 10, &frame(9, END_HEADERS, 1, &[]), usize::MAX);
    feeder.call(false, 11, &headers(BOTH, 1, &status(431)), usize::MAX);
    let (told, counts) = feeder.close(12);
    assert_eq!((short(&told), counts.too_long), (vec!["  431 partial".to_owned()], 1));
}

#[test]
fn holes_in_data_are_harmless_and_others_are_told() {
    let mut feeder = Feeder::new(Side::Server, false);
    begin().iter().for_each(|said| feeder.say(said));
    // Only the first bytes of each call are copied.
    let upload = [headers(END_HEADERS, 1, &post("/up", &[])), data(0, 1, 16_000)].concat();
    feeder.call(true, 10, &upload, 200);
    feeder.call(true, 11, &[data(END_STREAM, 1, 5000), headers(BOTH, 3, &get("/3"))].concat(), usize::MAX);
    feeder.call(
        false,
        12,
        &[headers(BOTH, 1, &status(200)), headers(END_HEADERS, 3, &status(201))].concat(),
        usize::MAX,
    );
    feeder.call(false, 13, &data(END_STREAM, 3, 9000), 9);
    assert_eq!(short(&feeder.told), ["POST /up 200", "GET /3 201"]);
    assert_eq!(feeder.told[1].ended_ns, 13);
    // A call that was lost, with the request of stream 5 in it; then one within a header block.
    feeder.lose(true, 30);
    feeder.call(true, 20, &headers(BOTH, 7, &get("/7")), usize::MAX);
    feeder.call(
        false,
        21,
        &[headers(BOTH, 5, &status(202)), headers(BOTH, 7, &status(203))].concat(),
        usize::MAX,
    );
    feeder.call(true, 22, &headers(BOTH, 9, &get("/9")), 12);
    feeder.call(true, 23, &headers(BOTH, 11, &get("/11")), usize::MAX);
    feeder.call(
        false,
        24,
        &[headers(BOTH, 9, &status(204)), headers(BOTH, 11, &status(205))].concat(),
        usize::MAX,
    );
    let (told, counts) = feeder.close(30);
    assert_eq!(
        short(&told)[2..],
        ["  202 partial", "GET /7 203", "  204 partial", "GET /11 205"],
        "{counts:?}"
    );
}

#[test]
fn a_stream_whose_end_was_lost_is_handed_out_in_time() {
    let mut feeder = Feeder::new(Side::Server, false);
    begin().iter().for_each(|said| feeder.say(said));
    feeder.call(true, 10, &headers(BOTH, 1, &get("/1")), usize::MAX);
    feeder.call(true, 10, &headers(BOTH, 3, &get("/3")), usize::MAX);
    feeder.lose(false, 100);
    feeder.call(false, 20, &headers(BOTH, 3, &status(200)), usize::MAX);
    feeder.call(true, 30, &headers(BOTH, 5, &get("/5")), usize::MAX);
    assert_eq!(short(&feeder.told), ["GET /3 200"]);
    feeder.call(true, 30_000_000_000, &headers(BOTH, 7, &get("/7")), usize::MAX);
    assert_eq!(short(&feeder.told), ["GET /3 200", "GET /1 - partial"]);
    assert_eq!(short(&feeder.close(30_000_000_001).0)[2..], ["GET /5 -", "GET /7 -"]);
}
