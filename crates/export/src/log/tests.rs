use std::{
    sync::{Condvar, Mutex},
    time::{Duration, Instant},
};

use gatewatch_event::request::{Cut, ErrorCode, Method, Protocol, Remote, TRIES_MAX, Try};
use serde_json::Value;

use super::*;
use crate::snapshot::Row;

/// 2026-11-21T16:00:00.123456789Z
const NOW: u64 = 1_795_276_800_123_456_789;

/// A writer whose reader the test is.
#[derive(Clone, Default)]
struct Sink(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    written: Vec<u8>,
    blocked: bool,
    fails: bool,
    /// Calls of `write` so far.
    writes: usize,
}

impl Sink {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.0.lock().unwrap().written.clone()).unwrap()
    }

    fn wait_for_write(&self) {
        let state = self.0.0.lock().unwrap();
        let patience = Duration::from_secs(20);
        let (state, _) = self.0.1.wait_timeout_while(state, patience, |state| state.writes == 0).unwrap();
        assert!(state.writes > 0, "the writer never wrote");
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.0.lock().unwrap();
        state.writes += 1;
        self.0.1.notify_all();
        let mut state = self.0.1.wait_while(state, |state| state.blocked).unwrap();
        if state.fails {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe));
        }
        state.written.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const JSON: Settings = Settings { level: Level::Info, json: true, requests: true };
const TEXT: Settings = Settings { json: false, ..JSON };

fn written(settings: Settings, write: impl FnOnce(&mut Log)) -> String {
    let sink = Sink::default();
    let mut log = Log::new(settings, sink.clone()).unwrap();
    write(&mut log);
    log.finish();
    assert_eq!(log.lost(), 0);
    sink.text()
}

fn request() -> Request<'static> {
    let mut upstream = [Try::default(); TRIES_MAX];
    upstream[0] = Try { peer: b"10.0.0.1:80", status: 502, response_ms: Some(5), ..Try::default() };
    upstream[1] = Try {
        peer: b"10.0.0.2:80",
        status: 201,
        connect_ms: Some(1),
        header_ms: Some(6),
        response_ms: Some(7),
        bytes_received: 9,
    };
    let mut lua_ns = [0; gatewatch_event::request::LUA_PHASES.len()];
    lua_ns[1] = 1234;
    Request {
        worker: 0,
        pid: 11,
        tid: 12,
        ended_ns: 0,
        duration_ns: 12_345_678,
        precise: true,
        method: Method::Post,
        method_name: b"POST",
        target: b"/a?b=c",
        host: b"api.example.com",
        host_port: Some(8000),
        user_agent: b"curl",
        remote: Remote::Unknown,
        protocol: Protocol::Http11,
        tls: true,
        status: 201,
        connection: 5,
        connection_request: 6,
        request_bytes: 70,
        response_bytes: 80,
        tries: 2,
        upstream,
        lua_ns,
        cut: Cut { host: true, ..Cut::default() },
        error: ErrorCode::Memory,
    }
}

/// A test's few names may stay for its life.
fn peers<const N: usize>(names: [&str; N]) -> &'static [Arc<str>] {
    Vec::leak(names.into_iter().map(Arc::from).collect())
}

fn details() -> Details<'static> {
    Details {
        gateway: "kong:8000",
        service: "users",
        route: "/a",
        target: "/a?b=***",
        host: "api.example.com",
        user_agent: "curl",
        remote: "192.0.2.1".into(),
        peers: peers(["10.0.0.1:80", "10.0.0.2:80"]),
        ended_ns: NOW,
    }
}

/// Keys of the outermost object in the order they stand (serde_json's map would sort them).
fn keys(line: &str) -> Vec<String> {
    let (mut depth, mut keys, mut rest) = (0, Vec::new(), line);
    while let Some(at) = rest.find(['{', '}', '[', ']', '"']) {
        let mark = rest.as_bytes()[at];
        rest = &rest[at + 1..];
        match mark {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {
                let mut end = 0;
                while rest.as_bytes()[end] != b'"' {
                    end += if rest.as_bytes()[end] == b'\\' { 2 } else { 1 };
                }
                let text = &rest[..end];
                rest = &rest[end + 1..];
                if depth == 1 && rest.starts_with(':') {
                    keys.push(text.to_owned());
                }
            }
        }
    }
    keys
}

#[test]
fn the_nine_fields_of_the_contract_stand_first() {
    for level in [Level::Info, Level::Debug] {
        let line = written(Settings { level, ..JSON }, |log| log.request(&request(), &details()));
        let expected = [
            "level",
            "msg",
            "method",
            "host",
            "path",
            "status_code",
            "response_time_ns",
            "error_code",
            "timestamp",
        ];
        let keys = keys(&line);
        assert_eq!(keys[..9], expected);
        let mut once = keys.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), keys.len(), "a key stands twice: {keys:?}");
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["level"], "info");
        assert_eq!(value["msg"], "HTTP Request");
        assert_eq!(value["method"], "POST");
        assert_eq!(value["host"], "api.example.com:8000");
        assert_eq!(value["path"], "/a?b=***");
        assert_eq!(value["status_code"], 201);
        assert_eq!(value["response_time_ns"], 12_345_678);
        assert_eq!(value["error_code"], 2);
        assert_eq!(value["timestamp"], "2026-11-21T16:00:00.123Z");
    }
}

#[test]
fn a_request_in_json() {
    let line = written(JSON, |log| log.request(&request(), &details()));
    assert_eq!(line.matches('\n').count(), 1);
    let value: Value = serde_json::from_str(&line).unwrap();
    for (key, expected) in [
        ("gateway", Value::from("kong:8000")),
        ("service", "users".into()),
        ("route", "/a".into()),
        ("protocol", "http/1.1".into()),
        ("tls", true.into()),
        ("remote_addr", "192.0.2.1".into()),
        ("user_agent", "curl".into()),
        ("request_bytes", 70.into()),
        ("response_bytes", 80.into()),
        ("pid", 11.into()),
        ("tid", 12.into()),
        ("upstream_addr", "10.0.0.2:80".into()),
        ("upstream_status", 201.into()),
        ("upstream_tries", 2.into()),
        ("upstream_ms", 12.into()),
        ("upstream_first_byte_ms", 6.into()),
        ("cut", true.into()),
        ("connection", Value::Null),
    ] {
        assert_eq!(value[key], expected, "{key}");
    }
}

#[test]
fn debug_adds_detail() {
    let line = written(Settings { level: Level::Debug, ..JSON }, |log| log.request(&request(), &details()));
    let value: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["connection"], 5);
    assert_eq!(value["connection_request"], 6);
    assert_eq!(value["precise"], true);
    assert_eq!(value["tries"][0]["addr"], "10.0.0.1:80");
    assert_eq!(value["tries"][0]["connect_ms"], Value::Null);
    assert_eq!(value["tries"][1]["response_ms"], 7);
    assert_eq!(value["lua_ns"], serde_json::json!({"access": 1234}));
    assert_eq!(value["cut_fields"], serde_json::json!(["host"]));
    let text = written(Settings { level: Level::Debug, ..TEXT }, |log| log.request(&request(), &details()));
    assert_eq!(text.matches('\n').count(), 2);
    assert!(text.contains("{\"access\":1234}"), "{text}");
}

#[test]
fn a_request_in_text() {
    let line = written(TEXT, |log| log.request(&request(), &details()));
    let expected = "2026-11-21T16:00:00.123Z info  kong:8000 201 POST api.example.com:8000/a?b=*** 12.346ms http/1.1+tls 192.0.2.1 [users] as /a \
         -> 10.0.0.1:80 (502) -> 10.0.0.2:80 (201)\n";
    assert_eq!(line, expected);
}

#[test]
fn what_is_not_there_is_left_out() {
    let request =
        Request { tries: 0, tls: false, host_port: None, cut: Cut::default(), status: 0, ..request() };
    let details = Details { service: "", peers: &[], ..details() };
    let value: Value = serde_json::from_str(&written(JSON, |log| log.request(&request, &details))).unwrap();
    for key in ["upstream_addr", "upstream_status", "upstream_tries", "upstream_ms", "cut"] {
        assert!(value.get(key).is_none(), "{key}");
    }
    assert_eq!((&value["host"], &value["status_code"]), (&"api.example.com".into(), &0.into()));
    let text = written(TEXT, |log| log.request(&request, &details));
    assert!(text.ends_with(" http/1.1 192.0.2.1 as /a\n"), "{text}");
}

#[test]
fn timestamps_are_rfc_3339_in_utc() {
    for (ns, expected) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (999_999, "1970-01-01T00:00:00.000Z"),
        (1_000_000, "1970-01-01T00:00:00.001Z"),
        (1_709_208_000_000_000_000, "2024-02-29T12:00:00.000Z"),
        (NOW, "2026-11-21T16:00:00.123Z"),
    ] {
        assert_eq!(timestamp(ns), expected);
    }
    assert!(timestamp(u64::MAX).starts_with("2554-"), "the last one there is");
}

/// Whatever a client or a server sends: nothing that acts on a terminal or breaks the line comes out raw.
#[test]
fn hostile_text_never_comes_out_raw() {
    let hostile = "\x1b]0;owned\x07\n\r{\"level\":\"fatal\"}\"\\\u{202e}\u{9b}2J\u{7f}\u{2028}\u{feff}\0é🦀";
    let raw = b"\xff\xfe\x1b[2J\n\xc2\x9b";
    let request = Request { method_name: raw, ..request() };
    let details = Details {
        gateway: hostile,
        service: hostile,
        route: hostile,
        target: hostile,
        host: hostile,
        user_agent: hostile,
        remote: hostile.into(),
        peers: peers([hostile, hostile]),
        ended_ns: NOW,
    };
    let statistics = Statistics {
        window_seconds: 1.0,
        dimensions: vec![(
            "host",
            vec![Row {
                name: hostile.to_owned(),
                window: Figures { requests: 1, ..Figures::default() },
                ..Row::default()
            }],
        )],
        ..Statistics::default()
    };
    for (json, level, lines) in
        [(true, Level::Info, 3), (true, Level::Debug, 3), (false, Level::Info, 4), (false, Level::Debug, 5)]
    {
        let out = written(Settings { level, json, requests: true }, |log| {
            log.request(&request, &details);
            log.say(Level::Error, NOW, hostile);
            log.statistics(NOW, &statistics, None, 0);
        });
        assert_eq!(out.lines().count(), lines, "{out}");
        let escaped = |c: char| c != '\n' && is_unsafe(c);
        assert!(!out.contains(escaped), "{:?}", out.matches(escaped).collect::<Vec<_>>());
        if json {
            let values: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            for key in ["path", "user_agent", "remote_addr", "gateway", "service", "route", "upstream_addr"] {
                assert_eq!(values[0][key], hostile, "{key} is not what it was");
            }
            assert_eq!(values[0]["host"], format!("{hostile}:8000"));
            assert_eq!(values[0]["method"], String::from_utf8_lossy(raw).as_ref());
            assert_eq!(values[0]["level"], "info");
            if level == Level::Debug {
                assert_eq!(values[0]["tries"][1]["addr"], hostile);
            }
            assert_eq!(values[1]["msg"], hostile);
            assert_eq!(values[2]["host"][hostile]["requests"], 1);
        }
    }
    assert!(!plain(hostile).contains(is_unsafe));
}

/// Every character there is, one by one, through JSON and back.
#[test]
fn all_characters_survive_json() {
    let all: Vec<char> = (0..0x3000).chain(0xfe00..0x1_0100).filter_map(char::from_u32).collect();
    for chunk in all.chunks(500) {
        let text: String = chunk.iter().collect();
        let line = written(JSON, |log| log.say(Level::Info, 0, &text));
        assert!(!line.trim_end_matches('\n').contains(is_unsafe));
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["msg"], text);
    }
}

#[test]
fn levels_filter() {
    use Level::{Debug, Error, Info, Warn};
    let all = [Debug, Info, Warn, Error];
    for least in all {
        for json in [true, false] {
            for requests in [true, false] {
                let out = written(Settings { level: least, json, requests }, |log| {
                    for level in all {
                        assert_eq!(log.writes(level), level >= least);
                        log.say(level, 0, "SAID");
                    }
                    assert_eq!(log.writes_requests(), requests && least <= Info);
                    log.request(&request(), &details());
                    log.statistics(0, &Statistics::default(), None, 0);
                });
                let said = all.iter().filter(|level| **level >= least).count();
                assert_eq!(out.matches("SAID").count(), said, "{least:?}");
                let times = out.matches("16:00:00.123Z").count();
                let expected = match (requests, least) {
                    (true, Debug) if !json => 2,
                    (true, Debug | Info) => 1,
                    _ => 0,
                };
                assert_eq!(times, expected, "{least:?} {json} {requests}");
                let statistics = if json { "\"Statistics\"" } else { " stats " };
                assert_eq!(out.contains(statistics), least <= Info);
            }
        }
    }
    assert_eq!(all.map(Level::name), ["debug", "info", "warn", "error"]);
}

#[test]
fn a_blocked_reader_blocks_nobody_and_its_lines_are_counted() {
    let sink = Sink::default();
    sink.change(|state| state.blocked = true);
    let mut log = Log::new(JSON, sink.clone()).unwrap();
    log.say(Level::Info, 0, "first");
    log.flush();
    // From here on the writer holds one chunk, and none is read.
    sink.wait_for_write();
    let msg = "x".repeat(1000);
    let mut lines: u64 = 1;
    let begun = Instant::now();
    while lines < 20_000 {
        log.say(Level::Info, 0, &msg);
        lines += 1;
    }
    log.flush();
    assert!(begun.elapsed() < Duration::from_secs(10), "20 MB took {:?}", begun.elapsed());
    let lost = log.lost();
    assert!(lost > 10_000, "4 MiB wait at most: {lost} lost");
    sink.change(|state| state.blocked = false);
    log.finish();
    let written = sink.text().lines().count() as u64;
    assert_eq!(log.lost(), lost, "what waited is not lost");
    assert_eq!(written + lost, lines, "each line is written or counted");
    assert!(sink.text().lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "no line is half");
}

#[test]
fn a_reader_that_is_gone_is_counted() {
    let sink = Sink::default();
    sink.change(|state| state.fails = true);
    let mut log = Log::new(TEXT, sink.clone()).unwrap();
    for n in 0..5000 {
        log.say(Level::Warn, 0, &format!("{n}\n not a line of its own"));
    }
    log.request(&request(), &details());
    log.finish();
    assert_eq!(log.lost(), 5001);
    assert_eq!(sink.text(), "");
}

#[test]
fn what_is_said_after_the_end_is_counted_as_lost() {
    let sink = Sink::default();
    let mut log = Log::new(TEXT, sink.clone()).unwrap();
    log.say(Level::Info, 0, "before");
    log.finish();
    log.say(Level::Info, 0, "after");
    log.finish();
    assert_eq!(log.lost(), 1);
    assert!(sink.text().ends_with("before\n"));
}

#[test]
fn statistics_in_json() {
    let total =
        Figures { requests: 100, client_errors: 7, server_errors: 3, mean_ns: 42, ..Figures::default() };
    let window =
        Figures { requests: 10, percentiles_ns: [1_000_000, 2_000_000, 3_500_000], ..Figures::default() };
    let row = |n: usize| Row { name: format!("h{n:02}"), total, window };
    let statistics = Statistics {
        window_seconds: 5.0,
        all: Row { name: String::new(), total, window },
        last_request_ns: NOW,
        dimensions: vec![("host", (0..20).map(row).collect())],
    };
    let value = |in_flight| -> Value {
        let line = written(JSON, |log| log.statistics(NOW, &statistics, in_flight, 9));
        assert_eq!(keys(&line)[..3], ["level", "msg", "timestamp"]);
        serde_json::from_str(&line).unwrap()
    };
    let seen = value(Some(4));
    for (key, expected) in [
        ("total_requests", Value::from(104)),
        ("total_responses", 100.into()),
        ("total_errors", 10.into()),
        ("total_client_errors", 7.into()),
        ("total_server_errors", 3.into()),
        ("mean_response_time_ns", 42.into()),
        ("requests_in_flight", 4.into()),
        ("last_request", "2026-11-21T16:00:00.123Z".into()),
        ("lost", 9.into()),
        ("window_seconds", 5.0.into()),
    ] {
        assert_eq!(seen[key], expected, "{key}");
    }
    assert_eq!(seen["window"]["p99_ms"], 3.5);
    assert_eq!(seen["host"].as_object().unwrap().len(), 2 * TOP);
    assert_eq!(value(None)["requests_in_flight"], Value::Null);
    assert_eq!(value(None)["total_requests"], 100);
}
