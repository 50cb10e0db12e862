//! The contract's file, what is refused and how, the environment, and the documentation.

use std::time::Duration;

use gatewatch_config::{Config, ConfigError, Detail, Filter, LogLevel, Protocol};

const CONTRACT: &str = include_str!("contract.yaml");

const FULL: &str = r#"
gateway:
  process_name: "kong, nginx ,openresty"
  names: [ { match: "/usr/local/kong", name: "kong" } ]
  status_url: "http://127.0.0.1:8080/nginx_status"
  lua_phases: true
  detail: lean
  debug_dir: /opt/debug
capture: { ring_bytes: 16MiB, max_workers: 8, starts_per_worker: 1024 }
paths: { max_groups: 500, templates: ["/files/{name}"] }
series: { max: 1_000, max_hosts: 100 }
log: { level: warn, json: false, requests: false }
stats: { interval: 1m30s }
listen: "[::]:9000"
mask: { enabled: true, query_values: false, patterns: ["[0-9]{16}"], user_agent: true, remote_addr: true }
"#;

fn problems(text: &str) -> Vec<String> {
    let error = Config::parse(text, "gw.yaml").expect_err(text);
    error.problems().iter().map(ToString::to_string).collect()
}

/// G9: the document's file loads unchanged.
#[test]
fn contract_file() {
    let config = Config::load(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/contract.yaml")).unwrap();
    assert!(config.monitoring.enabled);
    assert_eq!(config.monitoring.interval, Duration::from_secs(1));
    let tcp = Filter { protocol: vec![Protocol::Tcp], ..Filter::default() };
    let ports = Filter { port: vec![80, 443, 8080], ..Filter::default() };
    assert_eq!(config.monitoring.filters, [tcp, ports]);
    assert!(config.metrics.enabled);
    assert_eq!(config.metrics.endpoint.as_deref(), Some("http://prometheus:9090"));
    assert!(config.alerts.enabled);
    assert_eq!(config.alerts.thresholds.error_rate, Some(0.05));
    assert_eq!(config.alerts.thresholds.latency_p99, Some(Duration::from_millis(1000)));
    assert!(config.routing.enabled);
    let rules: Vec<_> = config
        .routing
        .rules
        .iter()
        .map(|it| {
            (it.domain.as_deref().unwrap(), it.path.as_deref().unwrap(), it.service.as_str(), it.priority)
        })
        .collect();
    assert_eq!(
        rules,
        [
            ("api.example.com", "/v1/users/*", "user-service", 1),
            ("api.example.com", "/v1/orders/*", "order-service", 1),
            ("admin.example.com", "/*", "admin-service", 2),
            ("static.example.com", "/*", "static-service", 3),
        ]
    );
    assert!(config.domain_analysis.enabled);
    assert_eq!(config.domain_analysis.track_domains, ["*.example.com", "*.api.example.com"]);
    assert_eq!(config.domain_analysis.exclude_domains, ["health.example.com"]);
    assert!(config.path_analysis.enabled);
    assert_eq!(config.path_analysis.track_paths, ["/api/*", "/v1/*", "/v2/*"]);
    assert_eq!(config.path_analysis.exclude_paths, ["/health", "/metrics"]);
    let later = ["metrics.endpoint", "alerts.thresholds"];
    assert_eq!(config.not_yet_effective(), later);
}

#[test]
fn six_switches() {
    let sections = ["monitoring", "metrics", "alerts", "routing", "domain_analysis", "path_analysis"];
    let text: String = sections.iter().map(|it| format!("{it}: {{ enabled: false }}\n")).collect();
    let it = Config::parse(&text, "t").unwrap();
    let off = [it.monitoring.enabled, it.metrics.enabled, it.alerts.enabled, it.routing.enabled];
    assert_eq!(off, [false; 4]);
    assert!(!it.domain_analysis.enabled && !it.path_analysis.enabled);
}

#[test]
fn our_sections() {
    let it = Config::parse(FULL, "t").unwrap();
    assert_eq!(it.gateway.process_name, ["kong", "nginx", "openresty"]);
    assert_eq!(
        (it.gateway.names[0].matches.as_str(), it.gateway.names[0].name.as_str()),
        ("/usr/local/kong", "kong")
    );
    assert_eq!(it.gateway.status_url.as_deref(), Some("http://127.0.0.1:8080/nginx_status"));
    assert!(it.gateway.lua_phases && it.gateway.detail == Detail::Lean);
    assert_eq!(it.gateway.debug_dir.to_str(), Some("/opt/debug"));
    assert_eq!(
        (it.capture.ring_bytes, it.capture.max_workers, it.capture.starts_per_worker),
        (16 << 20, 8, 1024)
    );
    assert_eq!((it.paths.max_groups, it.paths.templates[0].as_str()), (500, "/files/{name}"));
    assert_eq!((it.series.max, it.series.max_hosts), (1000, 100));
    assert!(it.log.level == LogLevel::Warn && !it.log.json && !it.log.requests);
    assert_eq!(it.stats.interval, Duration::from_secs(90));
    assert_eq!(it.listen.0.to_string(), "[::]:9000");
    assert!(it.mask.enabled && !it.mask.query_values && it.mask.user_agent && it.mask.remote_addr);
    assert_eq!(it.mask.patterns, ["[0-9]{16}"]);
    assert!(it.not_yet_effective().is_empty());
}

#[test]
fn empty_means_defaults() {
    for text in ["", "---\n", "# nothing\n", "~", "{}", "monitoring:\nrouting:\n  rules:\ngateway: ~\n"] {
        assert_eq!(Config::parse(text, "t").unwrap(), Config::default(), "{text:?}");
    }
    let it = Config::default();
    assert_eq!(it.listen.0.to_string(), "0.0.0.0:9102");
    assert!(it.mask.enabled && it.mask.query_values && it.log.json && it.log.requests);
    it.validate().unwrap();
    assert!(it.not_yet_effective().is_empty());
}

#[test]
fn lists_in_every_shape() {
    let ports = |text: &str| Config::parse(&format!("monitoring: {{ filters: [{{ port: {text} }}] }}"), "t");
    for (text, expected) in [
        ("80", &[80][..]),
        ("\"80,443\"", &[80, 443]),
        ("[80, 443]", &[80, 443]),
        ("' 80 , 443,'", &[80, 443]),
    ] {
        assert_eq!(ports(text).unwrap().monitoring.filters[0].port, expected, "{text}");
    }
    for bad in ["0", "65536", "http", "\"80,x\"", "-1", "[[80]]", "{a: 1}"] {
        assert!(ports(bad).is_err(), "{bad}");
    }
    let it = Config::parse(
        "monitoring: { filters: [{ status: \"404,5xx,400-409\", method: GET, network: 10.0.0.0/8, host: '*.a.b' }] }",
        "t",
    );
    let status: Vec<_> =
        it.unwrap().monitoring.filters[0].status.iter().map(|it| (it.first, it.last)).collect();
    assert_eq!(status, [(404, 404), (500, 599), (400, 409)]);
}

/// Each problem in its one line: place, key, what to write.
#[test]
fn refused_with_place_and_suggestion() {
    for (text, expected) in [
        (
            "alerts:\n  threshold: {}",
            "gw.yaml:2:3: alerts.threshold: unknown key `threshold`, did you mean `thresholds`?",
        ),
        (
            "stats:\n  interval: 10x",
            "gw.yaml:2:13: stats.interval: bad duration `10x`: write e.g. 500ms, 30s, 5m",
        ),
        (
            "stats: { interval: 10 }",
            "gw.yaml:1:20: stats.interval: bad duration `10`: write e.g. 500ms, 30s, 5m",
        ),
        ("log: { level: inof }", "gw.yaml:1:15: log.level: unknown value `inof`, did you mean `info`?"),
        ("log: { json: yes }", "gw.yaml:1:14: log.json: expected true or false, found `yes`"),
        (
            "log: [a]",
            "gw.yaml:1:6: log: expected a mapping with the keys level, json, requests, found a list",
        ),
        (
            "capture: { ring_bytes: 3MiB }",
            "gw.yaml:1:24: capture.ring_bytes: 3145728 is not a power of two: the next one is 4194304",
        ),
        (
            "capture: { ring_bytes: 4 KB }",
            "gw.yaml:1:24: capture.ring_bytes: bad size `4 KB`: write e.g. 8MiB, 512KiB, 1048576",
        ),
        (
            "listen: localhost",
            "gw.yaml:1:9: listen: bad address `localhost`: write an IP address and a port, e.g. 0.0.0.0:9102 or [::]:9102",
        ),
        (
            "routing:\n  rules:\n    - { path: /a }",
            "gw.yaml:3:7: routing.rules[0].service: the service needs a name of 1 to 253 bytes",
        ),
        (
            "routing: { rules: [{ path: '~(', service: s }] }",
            "gw.yaml:1:28: routing.rules[0].path: bad regular expression in path: unclosed group",
        ),
        (
            "monitoring: { filters: [{ port: 80,443 }] }",
            "gw.yaml:1:36: monitoring.filters[0].443: unknown key `443`: inside braces put a list in quotes, as in `port: \"80,443\"`",
        ),
        (
            "monitoring: { filters: [{ port: 99999 }] }",
            "gw.yaml:1:33: monitoring.filters[0].port: bad port `99999`: write numbers from 1 to 65535, e.g. 80,443",
        ),
        (
            "alerts: { thresholds: { error_rate: 5 } }",
            "gw.yaml:1:37: alerts.thresholds.error_rate: 5.0 is out of range: 0.0 to 1.0",
        ),
        (
            "alerts: { thresholds: { error_rate: .nan } }",
            "gw.yaml:1:37: alerts.thresholds.error_rate: expected a number, found `.nan`",
        ),
        (
            "mask: { patterns: ['ok', '('] }",
            "gw.yaml:1:26: mask.patterns[1]: bad regular expression: unclosed group",
        ),
        (
            "series: { max: 100, max_hosts: 200 }",
            "gw.yaml:1:32: series.max_hosts: more than `series.max`: each host needs at least one series",
        ),
        (
            "path_analysis: { track_paths: [api] }",
            "gw.yaml:1:32: path_analysis.track_paths[0]: bad path `api`: a path starts with `/` (or with `~` when it is a regular expression)",
        ),
        ("a: 1\na: 2", "gw.yaml:2:1: the key `a` is here twice, first in line 1"),
        (
            "log: &l { json: true }\nstats: { <<: *l }",
            "gw.yaml:2:10: merge keys (`<<`) are not supported: write the keys out",
        ),
        ("--- {}\n--- {}", "gw.yaml:2:1: a second document begins here: one file holds one configuration"),
        ("log: !!python/object {}", "gw.yaml:1:6: tags"),
        ("just text", "gw.yaml:1:1: expected a mapping with the keys monitoring"),
    ] {
        let found = problems(text);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].starts_with(expected), "\n{}\n{expected}", found[0]);
        assert!(!found[0].contains('\n'));
    }
}

#[test]
fn all_problems_at_once() {
    let text = "monitorin: {}\nlog: { level: loud, jsn: true }\nrouting:\n  rules:\n    - { domain: a, path: /, service: s, priority: x }\n    - { domain: b, pth: /, service: s }\n    - 7\nstats: { interval: never }\n";
    let found = problems(text);
    let places: Vec<&str> = found.iter().map(|it| it.split(": ").next().unwrap()).collect();
    assert_eq!(
        places,
        [
            "gw.yaml:1:1",
            "gw.yaml:2:15",
            "gw.yaml:2:21",
            "gw.yaml:5:51",
            "gw.yaml:6:20",
            "gw.yaml:7:7",
            "gw.yaml:8:20"
        ],
        "{found:#?}"
    );
    // Checks across keys come together too.
    let found = problems(
        "capture: { max_workers: 0, starts_per_worker: 100 }\nmask: { patterns: ['['] }\nmonitoring: { interval: 1ms }",
    );
    assert_eq!(found.len(), 4, "{found:#?}");
    let many: String = (0..100).map(|i| format!("k{i}: 1\n")).collect();
    let error = Config::parse(&many, "t").unwrap_err();
    assert_eq!(error.problems().len(), 25);
    assert!(error.to_string().ends_with("… and 5 more"), "{error}");
}

/// Bombs end early, whatever they expand to.
#[test]
fn bombs_are_cheap() {
    let laughs: String =
        (1..30).map(|i| format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(","))).collect();
    let wide = "mask: { patterns: [".to_owned() + &"x,".repeat(400_000) + "] }";
    let started = std::time::Instant::now();
    for (text, why) in [
        (format!("a0: &a0 [x,x,x,x,x,x,x,x,x]\n{laughs}"), "aliases expand"),
        ("[".repeat(100_000), "nest"),
        ("a: ".to_owned() + &"{a: ".repeat(200), "nest"),
        ((0..5000).map(|i| format!("{}a:\n", " ".repeat(i % 1000))).collect(), ""),
        (wide, "too many values"),
        ("x".repeat((1 << 20) + 1), "larger than 1 MiB"),
        ("a: &a [*a]".to_owned(), ""),
        ("a: *nothing".to_owned(), ""),
        ("? [a]\n: b".to_owned(), "plain word"),
    ] {
        let found = problems(&text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(why), "{} lacks {why}", found[0]);
    }
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

/// What is no file is refused at once: a FIFO would wait for a writer for ever.
#[test]
fn no_files() {
    let fifo = std::env::temp_dir().join(format!("gatewatch-config-{}.fifo", std::process::id()));
    let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let refusal = |path: &std::path::Path| Config::load(path).unwrap_err().to_string();
    let told = refusal(&fifo);
    std::fs::remove_file(&fifo).unwrap();
    assert!(told.ends_with("it is a FIFO, not a file"), "{told}");
    let told = refusal("/".as_ref());
    assert!(told.ends_with("it is a directory, not a file"), "{told}");
    let told = refusal("/dev/null".as_ref());
    assert!(told.ends_with("it is a device, not a file"), "{told}");
}

/// It is asked by a client that has no TLS.
#[test]
fn status_url_without_tls() {
    let told = problems("gateway: { status_url: 'https://127.0.0.1/status' }");
    assert!(told.len() == 1 && told[0].contains("without TLS"), "{told:?}");
}

#[test]
fn files() {
    let error = Config::load("/nonexistent/gw.yaml").unwrap_err();
    assert!(matches!(error, ConfigError::Read { .. }), "{error}");
    assert!(error.to_string().contains("/nonexistent/gw.yaml"));
    let error = Config::parse_bytes(b"log:\n  level: \xff\n", "gw.yaml").unwrap_err();
    assert_eq!(error.to_string(), "gw.yaml:2:1: this line is not UTF-8: save the file as UTF-8");
}

#[test]
fn environment() {
    let apply = |variables: &[(&str, &str)]| {
        let mut config = Config::default();
        let get = |name: &str| variables.iter().find(|it| it.0 == name).map(|it| it.1.to_owned());
        config.apply_env(get).map(|()| config)
    };
    let it = apply(&[
        ("LOG_LEVEL", "DEBUG"),
        ("ENABLE_JSON_LOG", "false"),
        ("KONG_PROCESS_NAME", "kong"),
        ("STATS_INTERVAL", "10s"),
        ("METRICS_ADDR", ":9000"),
    ])
    .unwrap();
    assert!(it.log.level == LogLevel::Debug && !it.log.json);
    assert_eq!(it.gateway.process_name, ["kong"]);
    assert_eq!((it.stats.interval.as_secs(), it.listen.0.to_string().as_str()), (10, "0.0.0.0:9000"));
    assert_eq!(apply(&[("LOG_LEVEL", ""), ("STATS_INTERVAL", " ")]).unwrap(), Config::default());
    let error = apply(&[
        ("LOG_LEVEL", "loud"),
        ("ENABLE_JSON_LOG", "maybe"),
        ("STATS_INTERVAL", "10x"),
        ("METRICS_ADDR", "nowhere"),
    ])
    .unwrap_err();
    let text = error.to_string();
    for name in
        ["LOG_LEVEL: unknown level `loud`", "ENABLE_JSON_LOG: ", "STATS_INTERVAL: bad", "METRICS_ADDR: bad"]
    {
        assert!(text.contains(name), "{text}");
    }
    for (name, value) in
        [("STATS_INTERVAL", "1ms"), ("KONG_PROCESS_NAME", ","), ("KONG_PROCESS_NAME", "a-name-much-too-long")]
    {
        let error = apply(&[(name, value)]).unwrap_err().to_string();
        assert!(error.starts_with(name), "{error}");
    }
}

/// The page lists every key there is, and no other.
#[test]
fn documentation_is_complete() {
    fn keys(value: &serde_json::Value, path: &str, into: &mut Vec<String>) {
        match value.as_object() {
            Some(map) => map.iter().for_each(|(key, value)| {
                keys(value, &format!("{path}{}{key}", if path.is_empty() { "" } else { "." }), into);
            }),
            None => into.push(path.to_owned()),
        }
    }
    let page = include_str!("../../../docs/configuration.md");
    let mut expected = Vec::new();
    keys(&serde_json::to_value(Config::default()).unwrap(), "", &mut expected);
    let section = page.split("## Keys").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut listed: Vec<String> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .map(str::to_owned)
        .collect();
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
    for name in ["LOG_LEVEL", "ENABLE_JSON_LOG", "KONG_PROCESS_NAME", "STATS_INTERVAL", "METRICS_ADDR"] {
        assert!(page.contains(name), "{name}");
    }
    let example = page.split("## Example").nth(1).unwrap().split("```").nth(1).unwrap();
    Config::parse(example.strip_prefix("yaml").unwrap(), "page").unwrap();
}

/// Mutations of real files: an answer, never a panic, and a good answer can be validated again.
#[test]
fn any_bytes() {
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut below = move |limit: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 20).unwrap() % limit
    };
    let bits: &[&[u8]] = &[
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b"- ",
        b"\n",
        b"  ",
        b"&a ",
        b"*a",
        b"!x",
        b"'",
        b"\"",
        b"|",
        b"~",
        b"\t",
        b"\xff",
        b"\0",
        b"?",
        b"%",
        b"#",
        b"99999999999999999999",
        b"---\n",
    ];
    let mut good = 0;
    for round in 0..20_000 {
        let mut bytes = if round % 2 == 0 { CONTRACT } else { FULL }.as_bytes().to_vec();
        for _ in 0..1 + below(4) {
            let at = below(bytes.len() + 1);
            match below(4) {
                0 if at < bytes.len() => bytes[at] = u8::try_from(below(256)).unwrap(),
                1 => bytes.truncate(at),
                2 if at < bytes.len() => drop(bytes.drain(at..(at + below(20)).min(bytes.len()))),
                _ => drop(bytes.splice(at..at, bits[below(bits.len())].iter().copied())),
            }
        }
        match Config::parse_bytes(&bytes, "mutated") {
            Ok(config) => {
                config.validate().unwrap();
                good += 1;
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    assert!(good > 1000, "{good}");
}
