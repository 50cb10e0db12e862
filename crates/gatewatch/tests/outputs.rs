//! What the agent says, how soon, and what it never says.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use common::{Agent, AgentSetup, Client, Nginx, SOON, Setup, Turn, get, raw, wait_for};
use serde_json::Value;

const GATEWAY: &str = r#"
    upstream backends { server 127.0.0.1:@DEAD@; }
    server {
        listen 127.0.0.1:@PORT@;
        location / { return 200 "hello\n"; }
        location /missing { return 404; }
        location /failing { return 500; }
        location /proxied { proxy_pass http://backends; }
    }
"#;

fn gateway(name: &str) -> Nginx {
    Setup::new(name, GATEWAY.replace("@DEAD@", &common::free_port().to_string())).start()
}

/// A line is in the log within 50 ms of the response, a count in the metrics within 1 s. The best of some attempts
/// counts: the machine may be busy with others.
#[test]
fn soon() {
    let _turn = Turn::alone();
    let name = "gw-soon";
    let gateway = gateway(name);
    let agent = AgentSetup::new(name).watch();
    let mut client = Client::new(gateway.port());
    client.get("/first", "");
    agent.wait_requests(1);
    let mut best = Duration::MAX;
    for attempt in 0..5 {
        let mut delays: Vec<Duration> = (0..20)
            .map(|i| {
                let path = format!("/soon/{attempt}-{i}");
                client.get(&path, "");
                let answered = Instant::now();
                let line = agent.wait_line(&path, |line| line.str("path") == path);
                line.at.saturating_duration_since(answered)
            })
            .collect();
        delays.sort();
        best = best.min(delays[10]);
        if best < Duration::from_millis(50) {
            break;
        }
    }
    println!("in the log after {best:?} (median of 20)");
    assert!(best < Duration::from_millis(50), "in the log after {best:?}");
    let mut count = agent.metrics().reported();
    let mut soonest = Duration::MAX;
    for _ in 0..5 {
        client.get("/counted", "");
        count += 1;
        let answered = Instant::now();
        agent.wait_reported(count);
        soonest = soonest.min(answered.elapsed());
    }
    println!("in the metrics after {soonest:?}");
    assert!(soonest < Duration::from_secs(1), "in the metrics after {soonest:?}");
}

/// The keys of a JSON object in the order in which they stand.
fn keys(raw: &str) -> Vec<String> {
    let (mut keys, mut depth, mut text, mut in_text, mut escaped) =
        (Vec::new(), 0, String::new(), false, false);
    let mut last = String::new();
    for c in raw.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if in_text => escaped = true,
            '"' if in_text => {
                in_text = false;
                last = std::mem::take(&mut text);
            }
            '"' => in_text = true,
            c if in_text => text.push(c),
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            ':' if depth == 1 => keys.push(last.clone()),
            _ => {}
        }
    }
    keys
}

/// K6: the line of the document, its fields first and in its order.
#[test]
fn json_line() {
    let _turn = Turn::shared();
    let name = "gw-json";
    let gateway = gateway(name);
    let agent = AgentSetup::new(name).watch();
    raw(
        gateway.port(),
        b"GET /k6?x=1 HTTP/1.1\r\nHost: localhost:8000\r\nUser-Agent: test/1\r\nConnection: close\r\n\r\n",
    );
    let line = agent.wait_requests(1).remove(0);
    let first = [
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
    assert_eq!(keys(&line.raw)[..9], first, "{}", line.raw);
    assert!(line.raw.starts_with(r#"{"level":"info","msg":"HTTP Request","method":"GET","host":"localhost:8000","path":"/k6?x=***","status_code":200,"response_time_ns":"#), "{}", line.raw);
    let time = line.str("timestamp");
    assert!(time.len() == 24 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
    let rest = [
        ("error_code", Value::from(0)),
        ("gateway", Value::from(format!("nginx:{}", gateway.port()))),
        ("protocol", Value::from("http/1.1")),
        ("tls", Value::from(false)),
        ("remote_addr", Value::from("127.0.0.1")),
        ("user_agent", Value::from("test/1")),
        ("pid", Value::from(gateway.workers()[0])),
        ("tid", Value::from(gateway.workers()[0])),
    ];
    for (key, expected) in rest {
        assert_eq!(line.json[key], expected, "{key}");
    }
    assert!((1..1_000_000_000).contains(&line.u64("response_time_ns")), "{}", line.raw);
}

/// K7, and the flags over it.
#[test]
fn levels_and_formats() {
    let _turn = Turn::shared();
    let name = "gw-levels";
    let gateway = gateway(name);
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], bool, bool, bool);
    // Environment and flags; lines of requests; detail in them; JSON.
    let cases: [Case<'_>; 9] = [
        (&[], &[], true, false, true),
        (&[("LOG_LEVEL", "info")], &[], true, false, true),
        (&[("LOG_LEVEL", "debug")], &[], true, true, true),
        (&[("LOG_LEVEL", "warn")], &[], false, false, true),
        (&[("LOG_LEVEL", "error")], &[], false, false, true),
        (&[("LOG_LEVEL", "error")], &["--log-level", "info"], true, false, true),
        (&[("ENABLE_JSON_LOG", "true")], &[], true, false, true),
        (&[("ENABLE_JSON_LOG", "false")], &[], true, false, false),
        (&[], &["--text", "--log-level", "debug"], true, true, false),
    ];
    for (env, args, requests, detail, json) in cases {
        let case = format!("{env:?} {args:?}");
        let setup =
            env.iter().fold(AgentSetup::new(name).args(args), |setup, (name, value)| setup.env(name, value));
        let mut agent = setup.watch();
        raw(gateway.port(), b"GET /level?secret=1 HTTP/1.0\r\n\r\n");
        agent.wait_reported(1);
        assert!(agent.end().success(), "{case}");
        let lines = agent.lines();
        let told: Vec<_> = lines.iter().filter(|line| line.raw.contains("/level?secret=***")).collect();
        assert_eq!(told.len(), usize::from(requests), "{case}: {}", agent.stdout());
        assert_eq!(agent.stdout().contains("connection_request"), detail, "{case}: {}", agent.stdout());
        assert!(lines.iter().all(|line| line.json.is_object() == json), "{case}: {}", agent.stdout());
        if !requests {
            assert_eq!(agent.stdout(), "", "{case}: nothing to say");
        }
        if !json {
            let words = [" GET ", " 200 ", " http/1.0 ", " 127.0.0.1"];
            assert!(words.iter().all(|word| told[0].raw.contains(word)), "{case}: {}", told[0].raw);
        }
    }
}

/// What is refused is refused before anything is attached, in one line that names it.
#[test]
fn bad_settings() {
    let _turn = Turn::shared();
    for (env, value) in [
        ("LOG_LEVEL", "loud"),
        ("ENABLE_JSON_LOG", "perhaps"),
        ("STATS_INTERVAL", "soon"),
        ("STATS_INTERVAL", "1ms"),
    ] {
        let mut agent = AgentSetup::new("gw-none").env(env, value).spawn();
        assert_eq!(agent.wait_end().code(), Some(1), "{env}={value}");
        let said = agent.stderr();
        assert!(said.contains(env) && !said.contains("panicked"), "{env}={value}: {said}");
    }
}

#[test]
fn statistics_line() {
    let _turn = Turn::shared();
    let name = "gw-stats";
    let gateway = gateway(name);
    let mut agent = AgentSetup::new(name).env("STATS_INTERVAL", "1s").args(&["--no-requests"]).watch();
    let mut client = Client::new(gateway.port());
    for _ in 0..12 {
        client.get("/ok", "");
    }
    for path in ["/missing", "/missing", "/missing", "/failing", "/proxied"] {
        // A new connection each: nginx closes it after some errors.
        Client::new(gateway.port()).get(path, "");
    }
    let is_statistics = |line: &common::Line| line.str("msg") == "Statistics";
    let complete = |line: &common::Line| is_statistics(line) && line.u64("total_responses") >= 17;
    let line = agent.wait_line("the statistics", complete);
    let told = [
        "total_requests",
        "total_responses",
        "total_errors",
        "total_client_errors",
        "total_server_errors",
        "requests_in_flight",
        "lost",
    ];
    assert_eq!(told.map(|key| line.u64(key)), [17, 17, 5, 3, 2, 0, 0], "{}", line.raw);
    assert!(line.u64("mean_response_time_ns") > 0 && line.str("last_request").ends_with('Z'), "{}", line.raw);
    // The windows add up to the total; each lasts its second.
    let windows = agent.lines().into_iter().filter(is_statistics).collect::<Vec<_>>();
    let sum: u64 = windows.iter().map(|line| line.json["window"]["requests"].as_u64().unwrap()).sum();
    assert_eq!(sum, 17);
    for line in &windows {
        let seconds = line.json["window_seconds"].as_f64().unwrap();
        assert!((0.9..10.0).contains(&seconds), "{}", line.raw);
    }
    let (_, answer) = get(agent.port, "/api/v1/statistics").unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["total"]["requests"], 17);
    for (dimension, name, requests) in [
        ("method", "GET", 17),
        ("path", "test/ok", 12),
        ("path", "test/missing", 3),
        ("host", "test", 17),
        ("protocol", "http/1.1", 17),
    ] {
        let rows = answer["dimensions"][dimension].as_array().unwrap();
        let row = rows.iter().find(|row| row["name"] == name);
        assert_eq!(
            row.map(|row| row["total"]["requests"].clone()),
            Some(Value::from(requests)),
            "{dimension} {name}: {rows:?}"
        );
    }
    assert!(agent.end().success());
}

/// Every output of an agent, its last words included.
fn outputs(agent: &mut Agent) -> Vec<(&'static str, String)> {
    let metrics = agent.metrics().text;
    let (_, statistics) = get(agent.port, "/api/v1/statistics").unwrap();
    agent.end();
    let stdout = agent.lines().iter().map(|line| line.raw.clone()).collect::<String>();
    vec![
        ("/metrics", metrics),
        ("/api/v1/statistics", statistics),
        ("stdout", stdout),
        ("stderr", agent.stderr()),
    ]
}

/// G14, K10: planted secrets leave the process by no way.
#[test]
fn secrets() {
    let _turn = Turn::shared();
    const JWT: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJwbGFudGVkIn0.c2lnbmF0dXJlLXBsYW50ZWQ";
    // What each request carries of its secrets.
    let requests = [
        ("GET /q?token=planted-query&a=planted-plain&planted-bare HTTP/1.1", "Host: test\r\n"),
        ("GET http://planted-user:planted-pass@absolute.test/x HTTP/1.1", "Host: test\r\n"),
        ("GET /hosted HTTP/1.1", "Host: somebody:planted-hostpass@hosted.test\r\n"),
        ("GET /digits HTTP/1.1", "Host: somebody:31337@hosted.test\r\n"),
        (
            "GET /headers HTTP/1.1",
            "Host: test\r\nAuthorization: Bearer planted-bearer\r\nCookie: session=planted-cookie\r\nX-Api-Key: planted-key\r\n",
        ),
        (&format!("GET /jwt/{JWT}/x HTTP/1.1"), "Host: test\r\n"),
        ("GET /agent HTTP/1.1", &format!("Host: test\r\nUser-Agent: client/1 Bearer {JWT}\r\n")),
        ("GET /pattern/cust-4711-planted/x HTTP/1.1", "Host: test\r\nUser-Agent: cust-4711-planted/1.0\r\n"),
        ("GET /proxied?key=planted-proxied HTTP/1.1", "Host: test\r\n"),
        ("GET /matrix;jsessionid=planted-session HTTP/1.1", "Host: test\r\n"),
        ("GET /encoded%3Ftoken=planted-encoded HTTP/1.1", "Host: test\r\n"),
        ("GET /fragment#planted-fragment HTTP/1.1", "Host: test\r\n"),
        ("CONNECT planted-connect:planted-pw@x.test:443 HTTP/1.1", "Host: test\r\n"),
        ("GET /bad?token=planted-bad HTTP/1.1", "Host: a\r\nHost: b\r\n"),
    ];
    let name = "gw-secrets";
    let gateway = gateway(name);
    for text in [false, true] {
        let config = "mask:\n  patterns:\n    - \"cust-[0-9]+-[a-z]+\"\nstats:\n  interval: 1s\n";
        let mut setup = AgentSetup::new(name).config(config).args(&["--log-level", "debug"]);
        if text {
            setup = setup.args(&["--text"]);
        }
        let mut agent = setup.watch();
        for (line, headers) in requests {
            raw(gateway.port(), format!("{line}\r\n{headers}Connection: close\r\n\r\n").as_bytes());
        }
        let count = u64::try_from(requests.len()).unwrap();
        let metrics = agent.wait_reported(count);
        assert_eq!((metrics.reported(), metrics.lost()), (count, 0));
        let until = Instant::now() + SOON;
        let filled = || get(agent.port, "/api/v1/statistics").unwrap().1.contains("/pattern/");
        wait_for(
            SOON,
            || "a window is over".to_owned(),
            || (filled() || Instant::now() > until).then_some(()),
        );
        let mut faults = String::new();
        for (output, said) in outputs(&mut agent) {
            for line in said.lines() {
                if line.contains("planted")
                    || line.contains("eyJ")
                    || line.contains("c2ln")
                    || line.contains("somebody:31337")
                {
                    faults += &format!("{output}: {line}\n");
                }
            }
        }
        assert!(faults.is_empty(), "secrets are told:\n{faults}");
    }
}

/// What steers a terminal is escaped, in both formats.
#[test]
fn hostile_texts() {
    let _turn = Turn::shared();
    let name = "gw-hostile";
    let gateway = gateway(name);
    for (format, words) in [("json", &[][..]), ("text", &["--text"][..])] {
        let mut agent = AgentSetup::new(name).args(&["--log-level", "debug"]).args(words).watch();
        raw(
            gateway.port(),
            b"GET /a\xff\xc2\x9b2J\xe2\x80\xaeb HTTP/1.1\r\nHost: te\xffs\xc2\x9bt\r\nUser-Agent: \x1b[31m\x07\x7f\xe2\x80\xae\r\nConnection: close\r\n\r\n",
        );
        let metrics = agent.wait_reported(1);
        agent.end();
        let said = agent.lines().iter().map(|line| line.raw.clone()).collect::<String>() + &metrics.text;
        assert!(said.contains("2J"), "{format}: {said}");
        let bad =
            said.chars().find(|c| (c.is_control() && *c != '\n') || ('\u{202a}'..='\u{202e}').contains(c));
        assert_eq!(bad, None, "{format}: {said}");
    }
}

/// docs/metrics.md has a row for each family that is exposed, and no other.
#[test]
fn documented_metrics() {
    let _turn = Turn::shared();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.starts_with("| `gatewatch_"))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let documented: BTreeSet<(String, String)> =
        rows.iter().map(|row| (row[1].trim_matches('`').to_owned(), row[2].to_owned())).collect();
    let name = "gw-docs";
    let gateway = gateway(name);
    let agent = AgentSetup::new(name).watch();
    raw(gateway.port(), b"GET /proxied HTTP/1.0\r\n\r\n");
    let metrics = agent.wait_reported(1);
    let exposed: BTreeSet<(String, String)> = metrics
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| {
            let (name, kind) = line.split_once(' ').unwrap();
            // In OpenMetrics a family's name lacks what its samples end in.
            let end = if kind == "counter" { "_total" } else { "" };
            (format!("{name}{end}"), kind.to_owned())
        })
        .collect();
    assert_eq!(exposed, documented);
    // Without its last bucket a histogram is none: quantiles over it are NaN.
    for (name, _) in exposed.iter().filter(|(_, kind)| kind == "histogram") {
        let bucket = format!("{name}_bucket");
        let last = metrics.sum(&bucket, &[("le", "+Inf")]);
        assert_eq!(last, metrics.sum(&format!("{name}_count"), &[]), "{name}: the bucket +Inf holds all");
        assert!(last > 0 || name != "gatewatch_http_request_duration_seconds", "{name}");
    }
    // The labels too, where the document tells them and there is a sample.
    for row in rows {
        let name = row[1].trim_matches('`');
        let labels: BTreeSet<&str> = row[3].split('`').filter(|part| !part.trim().is_empty()).collect();
        let of_family =
            |sample: &&common::Sample| sample.name == name || sample.name == format!("{name}_count");
        if let Some(sample) = metrics.samples.iter().find(of_family) {
            assert_eq!(sample.labels.keys().map(String::as_str).collect::<BTreeSet<_>>(), labels, "{name}");
        }
    }
}
