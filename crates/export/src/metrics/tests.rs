use std::collections::{BTreeMap, BTreeSet};

use gatewatch_event::request::{Method, Protocol};
use gatewatch_insight::{
    ledger::{REASONS, Stage},
    traffic::{Endpoint, Folded, Labels, Upstream},
};

use super::*;
use crate::snapshot::{Agent, Gateway, Program, Reloads};

type LabelSet = BTreeMap<String, String>;

#[derive(Debug, Default)]
struct Parsed {
    /// Type and help by family.
    families: BTreeMap<String, (String, String)>,
    samples: Vec<(String, LabelSet, f64)>,
}

impl Parsed {
    fn values(&self, name: &str) -> Vec<(&LabelSet, f64)> {
        self.samples.iter().filter(|sample| sample.0 == name).map(|sample| (&sample.1, sample.2)).collect()
    }

    fn one(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |set: &LabelSet| labels.iter().all(|(k, v)| set.get(*k).is_some_and(|seen| seen == v));
        let found: Vec<_> = self.values(name).into_iter().filter(|(set, _)| has(set)).collect();
        assert_eq!(found.len(), 1, "{name} {labels:?}: {found:?}");
        found[0].1
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// `a="b",c="d"}` up to the brace; what follows it.
fn labels(mut text: &str) -> (LabelSet, &str) {
    let mut set = LabelSet::new();
    loop {
        let (name, rest) = text.split_once("=\"").expect("a label");
        assert!(is_name(name), "{name:?}");
        let mut value = String::new();
        let mut chars = rest.char_indices();
        let end = loop {
            match chars.next().expect("the value's end") {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next().unwrap().1 {
                    'n' => '\n',
                    c @ ('\\' | '"') => c,
                    other => panic!("no escape: \\{other}"),
                }),
                (_, c) => value.push(c),
            }
        };
        assert!(set.insert(name.to_owned(), value).is_none(), "{name} stands twice");
        let rest = &rest[end + 1..];
        match rest.strip_prefix(',') {
            Some(more) => text = more,
            None => return (set, rest.strip_prefix('}').expect("a brace")),
        }
    }
}

/// OpenMetrics' text format, as strictly as its grammar has it; families may not be mixed.
fn parse(text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    let body = text.strip_suffix("# EOF\n").expect("it ends with # EOF");
    let mut current = String::new();
    let mut seen = BTreeSet::new();
    for line in body.split_terminator('\n') {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (kind, name, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            assert!(is_name(name), "{line}");
            if name != current {
                assert!(!parsed.families.contains_key(name), "{name} begins twice");
                current = name.to_owned();
            }
            let family = parsed.families.entry(current.clone()).or_default();
            let place = match kind {
                "TYPE" => &mut family.0,
                "HELP" => &mut family.1,
                other => panic!("no comment of OpenMetrics: {other}"),
            };
            assert!(place.is_empty(), "{line} stands twice");
            *place = rest.to_owned();
            continue;
        }
        let end = line.find(['{', ' ']).expect("a value");
        let (name, rest) = line.split_at(end);
        let (set, rest) = match rest.strip_prefix('{') {
            Some(inside) => labels(inside),
            None => (LabelSet::new(), rest),
        };
        let value = rest.strip_prefix(' ').expect("a space before the value");
        let value: f64 = if value == "+Inf" { f64::INFINITY } else { value.parse().expect(line) };
        let kind = parsed.families[&current].0.as_str();
        let suffix = name.strip_prefix(&current).unwrap_or_else(|| panic!("{name} stands under {current}"));
        let allowed: &[&str] = match kind {
            "counter" => &["_total"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_sum", "_count"],
            other => panic!("{current} is of type {other}"),
        };
        assert!(allowed.contains(&suffix), "{line}");
        assert!(value >= 0.0 && !value.is_nan(), "{line}");
        assert!(seen.insert((name.to_owned(), set.clone())), "twice: {line}");
        parsed.samples.push((name.to_owned(), set, value));
    }
    parsed
}

const HOSTILE: &str = "a\"b\\c\nd\u{202e}\x1b{}=,";

fn snapshot() -> Snapshot {
    let mut duration = Histogram::default();
    for ns in [0, 250_000, 250_001, 3_000_000, 10_000_000_000, 10_000_000_001, 60_000_000_000] {
        duration.add(ns);
    }
    let endpoint = |path: &str| Endpoint {
        labels: Arc::new(Labels {
            gateway: "kong:8000".into(),
            host: "api.example.com".into(),
            path: path.into(),
            service: "".into(),
            method: Method::Get,
        }),
        requests: vec![(200, Protocol::Http11, 5), (502, Protocol::Http2, 2)],
        duration: duration.clone(),
        request_bytes: 70,
        response_bytes: u64::MAX,
    };
    let mut snapshot = Snapshot {
        endpoints: vec![endpoint("/a"), endpoint(HOSTILE), endpoint("")],
        upstreams: vec![Upstream {
            gateway: "kong:8000".into(),
            service: "users".into(),
            peer: HOSTILE.into(),
            duration,
        }],
        gateways: vec![
            Gateway {
                name: "kong:8000".to_owned(),
                version: "1.22.1".to_owned(),
                layout: "table".to_owned(),
                proven: true,
                workers: 4,
                in_flight: Some(3),
                counted_by_gateway: Some(700),
                coverage: Some(0.5),
                seen: 723,
                overflow: vec![(200, 11), (0, 12)],
                overflow_duration_ns: 3_000_000_000,
                overflow_durations: [vec![1; 10], vec![0; 11], vec![6], vec![0; 17], vec![7]].concat(),
                lua: vec![("access", 2_000_000_000, 7)],
                ..Gateway::default()
            },
            Gateway { name: HOSTILE.to_owned(), ..Gateway::default() },
        ],
        folded: Folded { hosts: 1, paths: 2, endpoints: 3 },
        coarse_starts: 9,
        programs: vec![Program { name: "nginx_request_end", run_ns: 1_500_000_000, runs: 8 }],
        reloads: Reloads { applied: 4, refused: 5, unchanged: 6, last_applied_ns: 1_700_000_000_500_000_000 },
        agent: Agent { cpu_ns: 2_500_000_000, resident_bytes: 1 << 40 },
        ..Snapshot::default()
    };
    snapshot.ledger.lose(Stage::Capture, "ring_full", 21);
    snapshot
}

fn rendered(snapshot: Snapshot) -> String {
    let mut text = String::new();
    render(Arc::new(snapshot), Arc::default(), &mut text).unwrap();
    text
}

#[test]
fn every_family_has_type_and_help() {
    for snapshot in [Snapshot::default(), snapshot()] {
        let parsed = parse(&rendered(snapshot));
        assert!(parsed.families.len() >= 20, "{:?}", parsed.families.keys());
        for (name, (kind, help)) in &parsed.families {
            assert!(name.starts_with("gatewatch_"), "{name}");
            assert!(!kind.is_empty() && !help.is_empty(), "{name}: {kind:?} {help:?}");
            assert!(help.ends_with('.'), "{name}: {help:?} is no sentence");
        }
    }
}

#[test]
fn what_is_counted_is_shown() {
    let parsed = parse(&rendered(snapshot()));
    let gateway = ("gateway", "kong:8000");
    for (name, labels, expected) in [
        (
            "gatewatch_http_requests_total",
            &[("path", "/a"), ("status", "200"), ("protocol", "http/1.1")][..],
            5.0,
        ),
        ("gatewatch_http_requests_total", &[("path", "/a"), ("status", "502"), ("protocol", "h2")], 2.0),
        ("gatewatch_http_request_bytes_total", &[("path", "/a"), ("method", "GET")], 70.0),
        ("gatewatch_http_response_bytes_total", &[("path", "/a")], u64::MAX as f64),
        ("gatewatch_lost_total", &[("stage", "capture"), ("reason", "ring_full")], 21.0),
        ("gatewatch_http_requests_seen_total", &[gateway], 723.0),
        ("gatewatch_lost_total", &[("reason", "layout_unproven")], 0.0),
        ("gatewatch_folded_total", &[("what", "host")], 1.0),
        ("gatewatch_folded_total", &[("what", "path")], 2.0),
        ("gatewatch_folded_total", &[("what", "endpoint")], 3.0),
        ("gatewatch_http_overflow_requests_total", &[gateway, ("status", "200")], 11.0),
        ("gatewatch_http_overflow_requests_total", &[gateway, ("status", "0")], 12.0),
        ("gatewatch_program_run_seconds_total", &[("program", "nginx_request_end")], 1.5),
        ("gatewatch_program_runs_total", &[("program", "nginx_request_end")], 8.0),
        ("gatewatch_lua_phase_seconds_total", &[gateway, ("phase", "access")], 2.0),
        ("gatewatch_lua_phase_calls_total", &[gateway, ("phase", "access")], 7.0),
        ("gatewatch_gateway_requests_total", &[gateway], 700.0),
        ("gatewatch_http_coarse_starts_total", &[], 9.0),
        ("gatewatch_agent_cpu_seconds_total", &[], 2.5),
        ("gatewatch_config_reloads_total", &[("result", "applied")], 4.0),
        ("gatewatch_config_reloads_total", &[("result", "refused")], 5.0),
        ("gatewatch_config_reloads_total", &[("result", "unchanged")], 6.0),
        ("gatewatch_config_last_applied_timestamp_seconds", &[], 1_700_000_000.5),
        ("gatewatch_agent_resident_bytes", &[], (1u64 << 40) as f64),
        ("gatewatch_http_requests_in_flight", &[gateway], 3.0),
        ("gatewatch_capture_coverage_ratio", &[gateway], 0.5),
        ("gatewatch_gateway_workers", &[gateway], 4.0),
        ("gatewatch_gateway_layout_proven", &[gateway, ("version", "1.22.1"), ("layout", "table")], 1.0),
        ("gatewatch_gateway_layout_proven", &[("gateway", HOSTILE)], 0.0),
        ("gatewatch_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0),
    ] {
        let seen = parsed.one(name, labels);
        assert!((seen - expected).abs() < 1e-9 * expected.max(1.0), "{name} {labels:?}: {seen}");
    }
    assert_eq!(parsed.values("gatewatch_lost_total").len(), REASONS.len());
    // What is not known is not shown as a number.
    for name in [
        "gatewatch_http_requests_in_flight",
        "gatewatch_capture_coverage_ratio",
        "gatewatch_gateway_requests_total",
    ] {
        assert_eq!(parsed.values(name).len(), 1, "{name}");
    }
}

#[test]
fn labels_keep_hostile_text_and_break_no_line() {
    let parsed = parse(&rendered(snapshot()));
    parsed.one("gatewatch_http_requests_total", &[("path", HOSTILE), ("status", "200")]);
    parsed.one("gatewatch_http_upstream_duration_seconds_count", &[("upstream", HOSTILE)]);
    parsed.one("gatewatch_gateway_workers", &[("gateway", HOSTILE)]);
}

#[test]
fn histograms_are_cumulative_and_end_at_their_count() {
    let parsed = parse(&rendered(snapshot()));
    for (name, series) in
        [("gatewatch_http_request_duration_seconds", 3), ("gatewatch_http_upstream_duration_seconds", 1)]
    {
        let mut by_series: BTreeMap<LabelSet, Vec<(f64, f64)>> = BTreeMap::new();
        for (set, value) in parsed.values(&format!("{name}_bucket")) {
            let mut set = set.clone();
            let le = set.remove("le").expect("le");
            let le = if le == "+Inf" { f64::INFINITY } else { le.parse().unwrap() };
            by_series.entry(set).or_default().push((le, value));
        }
        assert_eq!(by_series.len(), series);
        for (set, buckets) in by_series {
            let bounds: Vec<_> = buckets.iter().map(|(le, _)| *le).collect();
            assert_eq!(bounds, BUCKETS.into_iter().chain([f64::INFINITY]).collect::<Vec<_>>());
            assert!(buckets.is_sorted_by(|a, b| a.1 <= b.1), "{buckets:?}");
            let labels: Vec<_> = set.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let count = parsed.one(&format!("{name}_count"), &labels);
            assert_eq!(buckets.last().map(|(_, n)| *n), Some(count));
            assert_eq!(count, 7.0);
            // 0 and the bound itself are below it; two are beyond ten seconds.
            assert_eq!((buckets[0].1, buckets[1].1, buckets[BUCKETS.len() - 1].1), (2.0, 3.0, 5.0));
            let sum = parsed.one(&format!("{name}_sum"), &labels);
            assert!((sum - 80.003_500_002).abs() < 1e-6, "{sum}");
        }
    }
}

/// Without `+Inf` Prometheus takes no percentile of a histogram.
#[test]
fn every_histogram_ends_at_infinity() {
    let parsed = parse(&rendered(snapshot()));
    let histograms = parsed.families.iter().filter(|(_, (kind, _))| kind == "histogram");
    let mut names = Vec::new();
    for (name, _) in histograms {
        let buckets = parsed.values(&format!("{name}_bucket"));
        let ends: Vec<_> = buckets.iter().filter(|(set, _)| set["le"] == "+Inf").collect();
        let counts = parsed.values(&format!("{name}_count"));
        assert!(!counts.is_empty(), "{name} has no series");
        assert_eq!(
            ends.iter().map(|(_, n)| *n).collect::<Vec<_>>(),
            counts.iter().map(|(_, n)| *n).collect::<Vec<_>>(),
            "{name}"
        );
        names.push(name.as_str());
    }
    assert_eq!(names.len(), 5, "{names:?}");
}

/// The kernel counts them by powers of two; the smallest share one bucket.
#[test]
fn overflowed_durations_keep_their_count() {
    let parsed = parse(&rendered(snapshot()));
    let name = "gatewatch_http_overflow_duration_seconds";
    let buckets: Vec<(f64, f64)> = parsed
        .values(&format!("{name}_bucket"))
        .into_iter()
        .filter_map(|(set, n)| Some((set["le"].parse().ok()?, n)))
        .collect();
    assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{buckets:?}");
    let below = |seconds: f64| buckets.iter().rev().find(|(le, _)| *le <= seconds).map(|(_, n)| *n);
    // Ten are below 131 µs, six between 2^20 and 2^21 ns, seven beyond all bounds.
    assert_eq!(
        [below(0.000_132), below(0.001_1), below(0.002_1), below(1e6)],
        [10.0, 10.0, 16.0, 16.0].map(Some)
    );
    assert_eq!(parsed.one(&format!("{name}_count"), &[]), 23.0);
    assert_eq!(parsed.one(&format!("{name}_sum"), &[]), 3.0);
}
