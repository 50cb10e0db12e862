//! Every kind of request, told as the gateway itself tells it: each line against what was sent, and against
//! nginx's own access log.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    process::Command,
    thread,
};

use common::{
    Agent, AgentSetup, Client, Line, Metrics, Nginx, SOON, Setup, Turn, curl, free_port, raw, text, wait_for,
};
use serde_json::Value;

const UPSTREAM: &str = r#"
    client_max_body_size 100m;
    server {
        listen 127.0.0.1:@PORT@;
        location / { content_by_lua_block { ngx.req.read_body() ngx.print("from upstream\n") } }
        location /slow { content_by_lua_block { ngx.sleep(3) ngx.say("late") } }
        location = /allow { return 204; }
        location = /deny { return 403; }
        location /broken { return 500 "broken\n"; }
        location /large { content_by_lua_block { for i = 1, 64 do ngx.print(string.rep("x", 16384)) ngx.flush(true) end } }
    }
"#;

const GATEWAY: &str = r#"
    log_format own escape=none '$status|$bytes_sent|$request_length|$remote_addr|$server_protocol|$https|$connection|$connection_requests|$upstream_status|$upstream_addr';
    client_max_body_size 100m;
    client_header_timeout 700ms;
    map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
    upstream second_works { server 127.0.0.1:@DEAD@ max_fails=0; server 127.0.0.1:@UP@ backup; }
    upstream broken_first { server 127.0.0.1:@UP@ max_fails=0; server 127.0.0.1:@DEAD@ backup; }
    server {
        listen 127.0.0.1:@PORT@;
        listen [::1]:@PORT@;
        listen unix:@DIR@/gw.sock;
        listen 127.0.0.1:@TLS@ ssl http2;
        ssl_certificate @DIR@/cert.pem;
        ssl_certificate_key @DIR@/key.pem;
        access_log @DIR@/access.log own;
        root @DIR@/html;
        proxy_http_version 1.1;

        location / { return 200 "hello\n"; }
        location /end { return 200 "end\n"; }
        location /p/ { proxy_pass http://127.0.0.1:@UP@; }
        location /direct/ { proxy_pass http://127.0.0.1:@UP@; proxy_request_buffering off; }
        location /slow { proxy_pass http://127.0.0.1:@UP@; }
        location /timeout { proxy_pass http://127.0.0.1:@UP@/slow; proxy_read_timeout 300ms; }
        location /dead { proxy_pass http://127.0.0.1:@DEAD@; }
        location /retry { proxy_pass http://second_works; }
        location /broken { proxy_pass http://broken_first; proxy_next_upstream error timeout http_500; }
        location /large { proxy_pass http://127.0.0.1:@UP@; }
        location /ws { proxy_pass http://127.0.0.1:@WS@; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade; }
        location /missing { error_page 404 /sorry.html; try_files /nothing =404; }
        location /softened { error_page 404 =200 /sorry.html; try_files /nothing =404; }
        location /named { error_page 404 = @fallback; try_files /nothing =404; }
        location @fallback { proxy_pass http://127.0.0.1:@UP@; }
        location = /sorry.html { internal; return 200 "sorry\n"; }
        location /rewritten/ { rewrite ^/rewritten/(.*)$ /p/$1 last; }
        location /moved { return 301 /elsewhere; }
        location /guarded { auth_request /check; proxy_pass http://127.0.0.1:@UP@; }
        location /refused { auth_request /no; proxy_pass http://127.0.0.1:@UP@; }
        location = /check { internal; proxy_pass http://127.0.0.1:@UP@/allow; proxy_pass_request_body off; proxy_set_header Content-Length ""; }
        location = /no { internal; proxy_pass http://127.0.0.1:@UP@/deny; }
        location /page.html { ssi on; }
        location = /stub { stub_status; }
    }
    server {
        listen 127.0.0.1:@PORT@;
        server_name behind.test;
        access_log @DIR@/access.log own;
        set_real_ip_from 127.0.0.1;
        real_ip_header X-Forwarded-For;
        location / { return 200 "hello\n"; }
    }
"#;

/// How a request is told whose path is too long to stand here.
const LONG: &str = "GET /aaaa… 414";

/// A gateway with an upstream and an agent that says all it knows.
struct Bench {
    gateway: Nginx,
    agent: Agent,
    _upstream: Nginx,
    _turn: Turn,
    seen: usize,
    cases: usize,
    faults: String,
}

impl Bench {
    fn new(name: &str) -> Self {
        let turn = Turn::shared();
        let upstream = Setup::new("gwt-upstream", UPSTREAM).lua().start();
        let http = GATEWAY
            .replace("@UP@", &upstream.port().to_string())
            .replace("@DEAD@", &free_port().to_string())
            .replace("@WS@", &websocket_server().to_string());
        let gateway = Setup::new(name, http).prepare();
        let html = gateway.dir.path().join("html");
        fs::write(
            html.join("page.html"),
            r#"<!--#include virtual="/p/a" --><!--#include virtual="/p/b" -->"#,
        )
        .unwrap();
        let gateway = gateway.start();
        let agent = AgentSetup::new(name).args(&["--log-level", "debug"]).watch();
        Self { gateway, agent, _upstream: upstream, _turn: turn, seen: 0, cases: 0, faults: String::new() }
    }

    fn port(&self) -> u16 {
        self.gateway.port()
    }

    /// Does it, and holds what was reported of it against what is expected: one line each, in any order, as
    /// `METHOD host path status protocol` and ` tls`.
    fn check(&mut self, case: &str, drive: impl FnOnce(&Nginx), expected: &[&str]) -> Vec<Line> {
        let count = expected.len();
        drive(&self.gateway);
        let logged =
            || fs::read_to_string(self.gateway.dir().join("access.log")).unwrap_or_default().lines().count();
        wait_for(
            SOON,
            || format!("{case}: {count} in nginx's own log"),
            || (logged() >= self.seen + count).then_some(()),
        );
        // One worker reports in the order in which requests end: what ended before the next one's line is all.
        self.cases += 1;
        let mark = format!("/end/{}", self.cases);
        assert_eq!(Client::new(self.port()).get(&mark, ""), 200);
        self.agent
            .wait_line(&format!("{case}: {mark}"), |line| line.is_request() && line.str("path") == mark);
        let all = self.agent.requests();
        let lines = all[self.seen..all.len() - 1].to_vec();
        let access = fs::read_to_string(self.gateway.dir().join("access.log")).unwrap();
        let access: Vec<&str> = access.lines().collect();
        let host = format!("127.0.0.1:{}", self.port());
        // Whether the port stays with the host is asked by a test of its own.
        let tls_host = format!(" 127.0.0.1:{} ", self.gateway.tls());
        let shown = |line: &Line| {
            if line.u64("status_code") == 414 && line.str("path").starts_with("/aaaa") {
                return LONG.to_owned();
            }
            brief(line)
                .replace(&host, "GATEWAY")
                .replace(&tls_host, " GATEWAY ")
                .replace(" 127.0.0.1 ", " GATEWAY ")
        };
        let mut told: Vec<String> = lines.iter().map(shown).collect();
        let mut wanted: Vec<String> = expected.iter().map(|line| (*line).to_owned()).collect();
        told.sort();
        wanted.sort();
        if told != wanted {
            let _infallible = writeln!(
                self.faults,
                "{case}: expected\n    {}\n  reported\n    {}",
                wanted.join("\n    "),
                told.join("\n    ")
            );
        }
        if access.len() == all.len() {
            for (line, own) in lines.iter().zip(&access[self.seen..]) {
                self.compare(case, line, own);
            }
        } else {
            let _infallible = writeln!(
                self.faults,
                "{case}: nginx logged {} requests, {} were reported",
                access.len(),
                all.len()
            );
        }
        self.seen = access.len();
        lines
    }

    /// A line against nginx's own.
    fn compare(&mut self, case: &str, line: &Line, own: &str) {
        let own: Vec<&str> = own.split('|').collect();
        let number = |key: &str| line.u64(key).to_string();
        let protocol = match own[4] {
            "HTTP/0.9" => "http/0.9",
            "HTTP/1.0" => "http/1.0",
            "HTTP/1.1" => "http/1.1",
            "HTTP/2.0" => "h2",
            _ => "",
        };
        // nginx keeps the text of the request line; of HTTP/0.9 there is none.
        let own_protocol = line.str("protocol").replace("http/0.9", "");
        let last = |list: &str| list.rsplit([',', ' ']).next().unwrap_or("").to_owned();
        let pairs = [
            ("status_code", own[0].to_owned(), format!("{:03}", line.u64("status_code"))),
            ("response_bytes", own[1].to_owned(), number("response_bytes")),
            ("request_bytes", own[2].to_owned(), number("request_bytes")),
            ("remote_addr", own[3].to_owned(), line.str("remote_addr").to_owned()),
            ("protocol", protocol.to_owned(), own_protocol),
            ("tls", (own[5] == "on").to_string(), line.json["tls"].to_string()),
            ("connection", own[6].to_owned(), number("connection")),
            ("connection_request", own[7].to_owned(), number("connection_request")),
            ("upstream_addr", last(own[9]).replace('-', ""), line.str("upstream_addr").to_owned()),
        ];
        for (field, nginx, told) in pairs {
            if nginx != told {
                let _infallible = writeln!(
                    self.faults,
                    "{case}: {field}: nginx says {nginx:?}, the line {told:?}: {}",
                    line.raw.trim()
                );
            }
        }
    }

    fn expect(&mut self, what: &str, holds: bool, lines: &[Line]) {
        if !holds {
            let told: Vec<&str> = lines.iter().map(|line| line.raw.trim()).collect();
            let _infallible = writeln!(self.faults, "{what}: not so in\n    {}", told.join("\n    "));
        }
    }

    /// All counts agree, nothing hostile stands in the output, and nothing was wrong.
    fn finish(mut self) {
        let count = u64::try_from(self.seen).unwrap();
        let all = |metrics: &Metrics| metrics.reported() + metrics.lost() >= count;
        let metrics = self.agent.wait_metrics(SOON, "all are accounted for", all);
        if (metrics.reported(), metrics.lost()) != (count, 0) {
            let _infallible = writeln!(self.faults, "{count} requests, but\n{}", metrics.brief());
        }
        // What the gateway counted besides (a request of nobody's) would show here.
        let name = "gatewatch_capture_coverage_ratio";
        let known = |metrics: &Metrics| metrics.select(name, &[]).next().is_some();
        let metrics = self.agent.wait_metrics(SOON, "coverage is known", known);
        let coverage: Vec<f64> = metrics.select(name, &[]).map(|sample| sample.value).collect();
        if coverage != [1.0] {
            let _infallible = writeln!(self.faults, "coverage is {coverage:?}\n{}", metrics.brief());
        }
        let output = self.agent.stdout() + &metrics.text;
        let bad =
            output.chars().find(|c| (c.is_control() && *c != '\n') || ('\u{202a}'..='\u{202e}').contains(c));
        assert_eq!(bad, None, "nothing in the output may steer a terminal");
        assert!(self.agent.is_running());
        assert!(self.faults.is_empty(), "\n{}", self.faults);
    }
}

fn brief(line: &Line) -> String {
    let tls = if line.json["tls"] == Value::Bool(true) { " tls" } else { "" };
    let parts = [line.str("method"), line.str("host"), line.str("path")];
    format!("{} {} {}{tls}", parts.join(" "), line.u64("status_code"), line.str("protocol"))
}

/// Answers every handshake with 101 and sends back what it gets.
fn websocket_server() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut line = String::new();
                while reader.read_line(&mut line).unwrap_or(0) > 2 {
                    line.clear();
                }
                let answer =
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
                stream.write_all(answer.as_bytes()).unwrap();
                let _gone = std::io::copy(&mut reader, &mut stream);
            });
        }
    });
    port
}

fn curled(args: &[&str]) {
    let output = curl(args);
    assert!(output.status.success(), "curl {args:?}: {}", text(&output.stderr));
}

#[test]
fn protocols() {
    let mut bench = Bench::new("gw-protocols");
    let port = bench.port();
    bench.check("HTTP/1.0", |g| drop(raw(g.port(), b"GET /a HTTP/1.0\r\n\r\n")), &["GET  /a 200 http/1.0"]);
    bench.check("HTTP/0.9", |g| drop(raw(g.port(), b"GET /nine\r\n")), &["GET  /nine 200 http/0.9"]);
    let keep_alive = |g: &Nginx| {
        let mut client = Client::new(g.port());
        for _ in 0..20 {
            assert_eq!(client.get("/kept", ""), 200);
        }
    };
    let lines = bench.check("keep-alive", keep_alive, &["GET test /kept 200 http/1.1"; 20]);
    let numbers: Vec<u64> = lines.iter().map(|line| line.u64("connection_request")).collect();
    bench.expect("requests on a connection are numbered", numbers == (1..=20).collect::<Vec<_>>(), &lines);
    let pipelined = |g: &Nginx| {
        let mut client = Client::new(g.port());
        client.send(&b"GET /piped HTTP/1.1\r\nHost: test\r\n\r\n".repeat(50));
        for _ in 0..50 {
            assert_eq!(client.response(), 200);
        }
    };
    bench.check("pipelining", pipelined, &["GET test /piped 200 http/1.1"; 50]);
    let secure = |path: &str, flag: &str, g: &Nginx| {
        curled(&["-k", flag, "-o", "/dev/null", &format!("https://127.0.0.1:{}{path}", g.tls())]);
    };
    bench.check("TLS", |g| secure("/tls", "--http1.1", g), &["GET GATEWAY /tls 200 http/1.1 tls"]);
    bench.check("HTTP/2", |g| secure("/two", "--http2", g), &["GET GATEWAY /two 200 h2 tls"]);
    let multiplexed = |g: &Nginx| {
        let url = format!("https://127.0.0.1:{}/many", g.tls());
        common::run("h2load", &["-n", "200", "-c", "2", "-m", "20", &url]);
    };
    bench.check("HTTP/2, many streams", multiplexed, &["GET GATEWAY /many 200 h2 tls"; 200]);
    let websocket = |g: &Nginx| {
        let mut client = Client::new(g.port());
        client.send(b"GET /ws HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n");
        assert_eq!(client.response(), 101);
        client.send(&[b'x'; 5000]);
        assert_eq!(client.read(5000), [b'x'; 5000]);
        client.close();
    };
    let lines = bench.check("WebSocket", websocket, &["GET test /ws 101 http/1.1"]);
    bench.expect(
        "what passed is counted",
        lines.iter().all(|line| (5000..6000).contains(&line.u64("response_bytes"))),
        &lines,
    );
    let six = move |_: &Nginx| {
        let mut stream = TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
        stream.write_all(b"GET /six HTTP/1.1\r\nHost: [::1]:99\r\nConnection: close\r\n\r\n").unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    };
    let lines = bench.check("IPv6", six, &["GET [::1]:99 /six 200 http/1.1"]);
    bench.expect("the client is ::1", lines.iter().all(|line| line.str("remote_addr") == "::1"), &lines);
    let unix = |g: &Nginx| {
        let mut stream = UnixStream::connect(g.dir().join("gw.sock")).unwrap();
        stream.write_all(b"GET /unix HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    };
    bench.check("Unix socket", unix, &["GET test /unix 200 http/1.1"]);
    bench.finish();
}

#[test]
fn methods_and_bodies() {
    let mut bench = Bench::new("gw-bodies");
    for (method, status) in [
        ("GET", 200),
        ("PUT", 200),
        ("DELETE", 200),
        ("PATCH", 200),
        ("OPTIONS", 200),
        ("POST", 200),
        ("PURGE", 200),
        ("PROPFIND", 200),
        ("TRACE", 405),
    ] {
        let drive = |g: &Nginx| curled(&["-X", method, "-o", "/dev/null", &g.url("/p/method")]);
        let lines = bench.check(method, drive, &[&format!("{method} GATEWAY /p/method {status} http/1.1")]);
        bench.expect(method, lines.iter().all(|line| line.u64("error_code") == 0), &lines);
    }
    bench.check(
        "HEAD",
        |g| curled(&["-I", "-o", "/dev/null", &g.url("/p/head")]),
        &["HEAD GATEWAY /p/head 200 http/1.1"],
    );
    let chunked = |g: &Nginx| {
        curled(&[
            "-X",
            "POST",
            "-H",
            "Transfer-Encoding: chunked",
            "-d",
            "hello chunks",
            "-o",
            "/dev/null",
            &g.url("/p/chunked"),
        ]);
    };
    bench.check("chunked", chunked, &["POST GATEWAY /p/chunked 200 http/1.1"]);
    for path in ["/p/upload", "/direct/upload"] {
        let upload = |g: &Nginx| {
            let file = g.dir().join("upload");
            fs::write(&file, vec![b'u'; 20 << 20]).unwrap();
            curled(&["--data-binary", &format!("@{}", file.display()), "-o", "/dev/null", &g.url(path)]);
        };
        let lines = bench.check("20 MiB", upload, &[&format!("POST GATEWAY {path} 200 http/1.1")]);
        let size = lines.first().map_or(0, |line| line.u64("request_bytes"));
        bench.expect("the body is counted", (20 << 20..(20 << 20) + 1000).contains(&size), &lines);
    }
    let two = |g: &Nginx| {
        curled(&[
            "-k",
            "--http2",
            "-d",
            &"b".repeat(100_000),
            "-o",
            "/dev/null",
            &format!("https://127.0.0.1:{}/p/two", g.tls()),
        ]);
    };
    bench.check("HTTP/2 body", two, &["POST GATEWAY /p/two 200 h2 tls"]);
    let lines = bench.check(
        "1 MiB down",
        |g| curled(&["-o", "/dev/null", &g.url("/large")]),
        &["GET GATEWAY /large 200 http/1.1"],
    );
    bench.expect(
        "the response is counted",
        lines.iter().all(|line| line.u64("response_bytes") > 1 << 20),
        &lines,
    );
    bench.finish();
}

#[test]
fn upstreams() {
    let mut bench = Bench::new("gw-upstreams");
    let get = |path: &'static str| move |g: &Nginx| curled(&["-o", "/dev/null", &g.url(path)]);
    let lines = bench.check("proxied", get("/p/x"), &["GET GATEWAY /p/x 200 http/1.1"]);
    let tried = |line: &Line| (line.u64("upstream_tries"), line.u64("upstream_status"));
    bench.expect("one try", lines.iter().all(|line| tried(line) == (1, 200)), &lines);
    let abort =
        |g: &Nginx| drop(Command::new("curl").args(["-s", "-m", "0.4", &g.url("/slow")]).output().unwrap());
    bench.check("client abort", abort, &["GET GATEWAY /slow 499 http/1.1"]);
    let abort2 = |g: &Nginx| {
        let url = format!("https://127.0.0.1:{}/slow", g.tls());
        drop(Command::new("curl").args(["-sk", "--http2", "-m", "0.4", &url]).output().unwrap());
    };
    bench.check("client abort over HTTP/2", abort2, &["GET GATEWAY /slow 499 h2 tls"]);
    let lines = bench.check("timeout", get("/timeout"), &["GET GATEWAY /timeout 504 http/1.1"]);
    bench.expect(
        "took 300 ms",
        lines.iter().all(|line| (290_000_000..1_500_000_000).contains(&line.u64("response_time_ns"))),
        &lines,
    );
    bench.expect("504 of the upstream", lines.iter().all(|line| tried(line) == (1, 504)), &lines);
    let lines = bench.check("dead upstream", get("/dead"), &["GET GATEWAY /dead 502 http/1.1"]);
    bench.expect("502 of the upstream", lines.iter().all(|line| tried(line) == (1, 502)), &lines);
    let statuses = |line: &Line| -> Vec<u64> {
        let tries = line.json["tries"].as_array().cloned().unwrap_or_default();
        tries.iter().map(|tried| tried["status"].as_u64().unwrap()).collect()
    };
    let lines = bench.check("retry", get("/retry"), &["GET GATEWAY /retry 200 http/1.1"]);
    bench.expect(
        "two tries",
        lines.iter().all(|line| tried(line) == (2, 200) && statuses(line) == [502, 200]),
        &lines,
    );
    let lines = bench.check("both fail", get("/broken"), &["GET GATEWAY /broken 502 http/1.1"]);
    bench.expect(
        "two tries",
        lines.iter().all(|line| tried(line) == (2, 502) && statuses(line) == [500, 502]),
        &lines,
    );
    let metrics = bench.agent.metrics();
    let tries = metrics.sum("gatewatch_http_upstream_duration_seconds_count", &[]);
    assert_eq!(tries, 9, "1 proxied, 2 aborted, 1 timeout, 1 dead, 2 and 2 retried:\n{}", metrics.text);
    bench.finish();
}

#[test]
fn internal_ways() {
    let mut bench = Bench::new("gw-internal");
    for (path, status) in [
        ("/missing", 404),
        ("/softened", 200),
        ("/named", 200),
        ("/rewritten/x", 200),
        ("/moved", 301),
        ("/guarded", 200),
        ("/refused", 403),
        ("/page.html", 200),
        ("/sorry.html", 404),
    ] {
        let drive = |g: &Nginx| curled(&["-o", "/dev/null", &g.url(path)]);
        bench.check(path, drive, &[&format!("GET GATEWAY {path} {status} http/1.1")]);
        let over_h2 = |g: &Nginx| {
            curled(&["-k", "--http2", "-o", "/dev/null", &format!("https://127.0.0.1:{}{path}", g.tls())]);
        };
        bench.check(path, over_h2, &[&format!("GET GATEWAY {path} {status} h2 tls")]);
    }
    let post = |g: &Nginx| curled(&["-d", "x=1", "-o", "/dev/null", &g.url("/missing")]);
    bench.check(
        "a method that nginx changes for an error page",
        post,
        &["POST GATEWAY /missing 404 http/1.1"],
    );
    bench.finish();
}

#[test]
fn not_understood() {
    let mut bench = Bench::new("gw-malformed");
    // The very first requests the agent sees are these: they prove no layout, and are lost neither.
    let long = format!("GET /{} HTTP/1.1\r\nHost: test\r\n\r\n", "a".repeat(64 << 10));
    let header = format!("GET /big HTTP/1.1\r\nHost: test\r\nX: {}\r\n\r\n", "b".repeat(64 << 10));
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03hello hello hello hello";
    let cases: [(&str, &[u8], &str); 14] = [
        (
            "OPTIONS *",
            b"OPTIONS * HTTP/1.1
Host: test
Connection: close

",
            "   400 ",
        ),
        ("garbage", b"garbage\r\n\r\n", "   400 "),
        ("TLS to a plain port", hello, "   400 "),
        ("nothing but lines", b"\r\n\r\n\r\n\x01\r\n", "   400 "),
        ("a NUL in the path", b"GET /a\0b HTTP/1.1\r\nHost: test\r\n\r\n", "   400 "),
        (
            "a NUL in a header",
            b"GET /nul HTTP/1.1\r\nHost: test\r\nX: a\0b\r\n\r\n",
            "GET test /nul 400 http/1.1",
        ),
        ("a NUL in the host", b"GET /nulhost HTTP/1.1\r\nHost: te\0st\r\n\r\n", "GET  /nulhost 400 http/1.1"),
        ("no host", b"GET /nohost HTTP/1.1\r\n\r\n", "GET  /nohost 400 http/1.1"),
        ("two hosts", b"GET /hosts HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "GET a /hosts 400 http/1.1"),
        (
            "bad length",
            b"POST /length HTTP/1.1\r\nHost: test\r\nContent-Length: x\r\n\r\n",
            "POST test /length 400 http/1.1",
        ),
        (
            "bad chunk",
            b"POST /p/chunk HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "POST test /p/chunk 400 http/1.1",
        ),
        ("bad version", b"GET /version HTTP/7.7\r\nHost: test\r\n\r\n", "   505 "),
        ("64 KiB of headers", header.as_bytes(), "GET test /big 400 http/1.1"),
        ("plain HTTP to TLS", b"", "GET test /plain 400 http/1.1"),
    ];
    for (case, bytes, expected) in cases {
        let drive = |g: &Nginx| {
            if bytes.is_empty() {
                raw(g.tls(), b"GET /plain HTTP/1.1\r\nHost: test\r\n\r\n");
            } else {
                raw(g.port(), bytes);
            }
        };
        let lines = bench.check(case, drive, &[expected]);
        let parsed = !expected.starts_with(' ');
        bench.expect(case, lines.iter().all(|line| line.u64("error_code") == u64::from(!parsed)), &lines);
    }
    let lines = bench.check(
        "header timeout",
        |g| drop(raw(g.port(), b"GET /slowly HTTP/1.1\r\nHost: te")),
        &["GET  /slowly 408 http/1.1"],
    );
    bench.expect(
        "header timeout",
        lines.iter().all(|line| line.u64("response_time_ns") < 5_000_000_000),
        &lines,
    );
    let lines = bench.check("64 KiB of path", |g| drop(raw(g.port(), long.as_bytes())), &[LONG]);
    let cut = |line: &Line| line.json["cut"] == Value::Bool(true) && line.str("path").len() >= 512;
    bench.expect("cut, and told so", !lines.is_empty() && lines.iter().all(cut), &lines);
    bench.finish();
}

/// On one connection, and on several at once, each line has the address its own request was sent with.
#[test]
fn real_addresses() {
    let mut bench = Bench::new("gw-realip");
    let address = |i: usize| match i % 4 {
        0 => format!("203.0.113.{}", i % 250),
        1 => "127.0.0.1".to_owned(),
        2 => format!("2001:db8::{i:x}"),
        _ => format!("198.51.100.{}", (i * 7) % 250),
    };
    let drive = |g: &Nginx| {
        let mut clients: Vec<Client> = (0..5).map(|_| Client::new(g.port())).collect();
        for i in 0..200 {
            let client = &mut clients[(i * 3) % 5];
            let forwarded =
                if i % 4 == 1 { String::new() } else { format!("X-Forwarded-For: {}\r\n", address(i)) };
            client.send(format!("GET /from/{i} HTTP/1.1\r\nHost: behind.test\r\n{forwarded}\r\n").as_bytes());
            assert_eq!(client.response(), 200);
        }
    };
    let expected: Vec<String> = (0..200).map(|i| format!("GET behind.test /from/{i} 200 http/1.1")).collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    let lines = bench.check("realip", drive, &expected);
    for (i, line) in lines.iter().enumerate() {
        bench.expect(&address(i), line.str("remote_addr") == address(i), std::slice::from_ref(line));
    }
    bench.finish();
}

/// The port that a client names with the host is told, however the host reached nginx (K6: `localhost:8000`).
#[test]
fn hosts_with_ports() {
    let mut bench = Bench::new("gw-ports");
    let cases = [
        (
            "lower case",
            "GET /port HTTP/1.1\r\nHost: example.com:8443\r\n",
            "GET example.com:8443 /port 200 http/1.1",
        ),
        (
            "capitals",
            "GET /port HTTP/1.1\r\nHost: ExAmple.COM:8443\r\n",
            "GET example.com:8443 /port 200 http/1.1",
        ),
        (
            "absolute",
            "GET http://example.com:8080/abs HTTP/1.1\r\nHost: b\r\n",
            "GET example.com:8080 http://example.com:8080/abs 200 http/1.1",
        ),
        (
            "far behind",
            "GET /far HTTP/1.1\r\nX-Fill: @FILL@\r\nHost: example.com:8443\r\n",
            "GET example.com:8443 /far 200 http/1.1",
        ),
    ];
    for (case, head, expected) in cases {
        let head = head.replace("@FILL@", &"f".repeat(3000));
        let drive = |g: &Nginx| drop(raw(g.port(), format!("{head}Connection: close\r\n\r\n").as_bytes()));
        bench.check(case, drive, &[expected]);
    }
    let over_h2 = |g: &Nginx| {
        let to = format!("example.com:8443:127.0.0.1:{}", g.tls());
        curled(&["-k", "--http2", "--connect-to", &to, "-o", "/dev/null", "https://example.com:8443/two"]);
    };
    bench.check("HTTP/2", over_h2, &["GET example.com:8443 /two 200 h2 tls"]);
    bench.finish();
}

#[test]
fn texts() {
    let mut bench = Bench::new("gw-texts");
    let path = format!("/{}", "long/path-".repeat(60));
    let host = format!("{}.example", "h".repeat(247));
    let send = |line: &str, headers: &str| -> Vec<u8> {
        format!("{line}\r\n{headers}Connection: close\r\n\r\n").into_bytes()
    };
    let mut escapes = send("GET /escapes HTTP/1.1", "Host: test\r\n");
    escapes.truncate(escapes.len() - 2);
    escapes.extend_from_slice(
        b"User-Agent: \x1b[31mred\x1b]0;pwned\x07 \xe2\x80\xae\xc2\x9b31m\x7f\xff\r\n\r\n",
    );
    let mut invalid =
        b"GET /bad\xff\xfe\xc2\x9b2J\xe2\x80\xaeend HTTP/1.1\r\nHost: te\xffst\r\nConnection: close\r\n\r\n"
            .to_vec();
    invalid.shrink_to_fit();
    let cases: Vec<(&str, Vec<u8>, String)> = vec![
        ("no host", send("GET /empty HTTP/1.1", "Host:\r\n"), "GET  /empty 400 http/1.1".to_owned()),
        (
            "absolute form",
            send("GET http://Absolute.Example/abs?x=1 HTTP/1.1", "Host: other\r\n"),
            "GET absolute.example http://Absolute.Example/abs?x=*** 200 http/1.1".to_owned(),
        ),
        (
            "absolute form, no path",
            send("GET http://absolute.example HTTP/1.1", "Host: other\r\n"),
            "GET absolute.example http://absolute.example 200 http/1.1".to_owned(),
        ),
        (
            "trailing dot",
            send("GET /dot HTTP/1.1", "Host: example.com.\r\n"),
            "GET example.com /dot 200 http/1.1".to_owned(),
        ),
        (
            "long path",
            send(&format!("GET {path} HTTP/1.1"), "Host: test\r\n"),
            format!("GET test {path} 200 http/1.1"),
        ),
        (
            "long host",
            send("GET /host HTTP/1.1", &format!("Host: {host}\r\n")),
            format!("GET {host} /host 200 http/1.1"),
        ),
        (
            "encoded",
            send("GET /a%20b/%00%1b%ff HTTP/1.1", "Host: test\r\n"),
            "GET  /a%20b/%00%1b%ff 400 http/1.1".to_owned(),
        ),
        (
            "spaces around",
            send("GET   /spaces   HTTP/1.1", "Host: test\r\n"),
            "GET test /spaces 200 http/1.1".to_owned(),
        ),
        ("escapes", escapes, "GET test /escapes 200 http/1.1".to_owned()),
        (
            "not UTF-8",
            invalid,
            "GET te\u{fffd}st /bad\u{fffd}\u{fffd}\u{9b}2J\u{202e}end 200 http/1.1".to_owned(),
        ),
    ];
    for (case, bytes, expected) in cases {
        let lines = bench.check(case, |g| drop(raw(g.port(), &bytes)), &[&expected]);
        bench.expect(case, lines.iter().all(|line| line.json["cut"].is_null()), &lines);
    }
    let agent = format!("Agent/{}", "u".repeat(300));
    let drive = |g: &Nginx| {
        drop(raw(g.port(), &send("GET /agent HTTP/1.1", &format!("Host: test\r\nUser-Agent: {agent}\r\n"))))
    };
    let lines = bench.check("long agent", drive, &["GET test /agent 200 http/1.1"]);
    bench.expect(
        "cut, and told so",
        lines.iter().all(|line| {
            let told = line.str("user_agent");
            line.json["cut"] == Value::Bool(true)
                && line.json["cut_fields"][0] == "user_agent"
                && told.len() == 256
                && agent.starts_with(told)
        }),
        &lines,
    );
    // A user agent that stands far behind the request line, and before it in another buffer.
    let far = format!("Host: test\r\nX-Fill: {}\r\nUser-Agent: far/1.0\r\n", "f".repeat(3000));
    let lines = bench.check(
        "far agent",
        |g| drop(raw(g.port(), &send("GET /far HTTP/1.1", &far))),
        &["GET test /far 200 http/1.1"],
    );
    bench.expect("read all the same", lines.iter().all(|line| line.str("user_agent") == "far/1.0"), &lines);
    bench.finish();
}
