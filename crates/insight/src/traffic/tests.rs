use std::collections::HashMap;

use super::*;
use crate::routes::Rule;

fn rule(domain: Option<&str>, path: Option<&str>, service: &str) -> Rule {
    Rule {
        domain: domain.map(str::to_owned),
        path: path.map(str::to_owned),
        service: service.to_owned(),
        priority: 0,
    }
}

fn traffic(bounds: Bounds, rules: &[Rule], rule_paths: &[Option<&str>], templates: &[Rule]) -> Traffic {
    let routes = Routes::compile(rules).unwrap();
    let rule_paths = rule_paths.iter().map(|path| path.map(Arc::from)).collect();
    let templates = Routes::compile(templates).unwrap();
    Traffic::new(Settings { bounds, routes, rule_paths, templates, ..Settings::default() })
}

fn plain(bounds: Bounds) -> Traffic {
    traffic(bounds, &[], &[], &[])
}

fn seen<'a>(host: &'a str, path: &'a str) -> Observation<'a> {
    Observation {
        gateway: 1,
        method: Method::Get,
        host,
        path,
        protocol: Protocol::Http11,
        status: 200,
        duration_ns: 1_000_000,
        request_bytes: 10,
        response_bytes: 100,
    }
}

/// Requests, duration, bytes of requests and responses, summed over all endpoints.
fn sums(traffic: &Traffic) -> (u64, u64, u64, u64, u64) {
    traffic.endpoints().iter().fold((0, 0, 0, 0, 0), |sum, endpoint| {
        (
            sum.0 + endpoint.requests.iter().map(|(_, _, n)| n).sum::<u64>(),
            sum.1 + endpoint.duration.count(),
            sum.2 + endpoint.duration.sum_ns,
            sum.3 + endpoint.request_bytes,
            sum.4 + endpoint.response_bytes,
        )
    })
}

const DIMENSIONS: [Dimension; 7] = [
    Dimension::Gateway,
    Dimension::Method,
    Dimension::Host,
    Dimension::Path,
    Dimension::StatusClass,
    Dimension::Service,
    Dimension::Protocol,
];

/// The tables are indexed by the enums' numbers: a wrong order would count one method as another.
#[test]
fn methods_and_protocols_count_under_their_own_names() {
    for (index, method) in METHODS.into_iter().enumerate() {
        assert_eq!(method as usize, index, "{method:?}");
        let mut traffic = plain(Bounds::default());
        traffic.observe(&Observation { method, ..seen("h", "/") }, 1);
        let rows: Vec<_> =
            traffic.rows(Dimension::Method).map(|(name, row)| (name, row.requests())).collect();
        assert_eq!(rows, [(method.name().to_owned(), 1)]);
        assert_eq!(traffic.endpoints()[0].labels.method, method);
    }
    for (index, protocol) in PROTOCOLS.into_iter().enumerate() {
        assert_eq!(protocol as usize, index, "{protocol:?}");
        let mut traffic = plain(Bounds::default());
        traffic.observe(&Observation { protocol, ..seen("h", "/") }, 1);
        let rows: Vec<_> =
            traffic.rows(Dimension::Protocol).map(|(name, row)| (name, row.requests())).collect();
        assert_eq!(rows, [(protocol.name().to_owned(), 1)]);
        assert_eq!(traffic.endpoints()[0].requests, [(200, protocol, 1)]);
    }
}

#[test]
fn statuses_count_in_their_class() {
    let check = |status: u16, name: &str| {
        let mut traffic = plain(Bounds::default());
        traffic.observe(&Observation { status, ..seen("h", "/") }, 1);
        let rows: Vec<_> = traffic.rows(Dimension::StatusClass).map(|(name, _)| name).collect();
        assert_eq!(rows, [name], "{status}");
        assert_eq!(traffic.endpoints()[0].requests, [(status, Protocol::Http11, 1)]);
        let total = traffic.all().total();
        assert_eq!(total.client_errors(), u64::from(name == "4xx"), "{status}");
        assert_eq!(total.server_errors(), u64::from(name == "5xx"), "{status}");
        assert_eq!(total.classes.iter().sum::<u64>(), 1);
    };
    for (status, name) in [
        (0, "none"),
        (99, "none"),
        (100, "1xx"),
        (199, "1xx"),
        (200, "2xx"),
        (304, "3xx"),
        (400, "4xx"),
        (499, "4xx"),
        (500, "5xx"),
        (599, "5xx"),
        (600, "none"),
        (u16::MAX, "none"),
    ] {
        check(status, name);
    }
}

/// Whatever is folded away, nothing is counted twice or not at all.
fn check_bounds(what: &str, bounds: &Bounds, folded: impl Fn(Folded) -> bool) {
    let mut traffic = plain(bounds.clone());
    let gateways = [traffic.gateway("a:80"), traffic.gateway("b:80")];
    let (mut requests, mut duration, mut sent, mut received) = (0, 0, 0, 0);
    for round in 0..3u64 {
        for n in 0..600u64 {
            let host = format!("h{}.example", n % 60);
            let path = format!("/p{}/x{}", n % 7, n % 11);
            traffic.observe(
                &Observation {
                    gateway: gateways[usize::from(n % 2 == 0)],
                    method: METHODS[usize::try_from(n).unwrap() % 5],
                    status: if n % 3 == 0 { 200 } else { 502 },
                    duration_ns: n * 1000 + round,
                    request_bytes: n,
                    response_bytes: 2 * n,
                    ..seen(&host, &path)
                },
                n,
            );
            (requests, duration) = (requests + 1, duration + n * 1000 + round);
            (sent, received) = (sent + n, received + 2 * n);
        }
        traffic.rotate();
    }
    assert_eq!(sums(&traffic), (requests, requests, duration, sent, received), "{what}");
    for dimension in DIMENSIONS {
        let total: u64 = traffic.rows(dimension).map(|(_, row)| row.requests()).sum();
        assert_eq!(total, requests, "{what}: {dimension:?}");
    }
    assert!(folded(traffic.folded()), "{what}: {:?}", traffic.folded());
    // Beyond the bound there is one more for each gateway, service and method: those do not fold.
    let over = 2 * 5;
    assert!(traffic.endpoints().len() <= bounds.endpoints + over, "{what}: {}", traffic.endpoints().len());
    let hosts: std::collections::HashSet<_> =
        traffic.endpoints().iter().map(|endpoint| &*endpoint.labels.host).collect();
    assert!(hosts.len() <= bounds.hosts + 1, "{what}: {}", hosts.len());
    let paths: std::collections::HashSet<_> =
        traffic.endpoints().iter().map(|endpoint| (&*endpoint.labels.host, &*endpoint.labels.path)).collect();
    assert!(paths.len() <= bounds.paths + bounds.hosts + 1, "{what}: {}", paths.len());
    let mut labels: Vec<_> = traffic.endpoints().iter().map(|e| format!("{:?}", e.labels)).collect();
    let all = labels.len();
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), all, "{what}: two series with the same labels");
}

#[test]
fn sums_are_exact_in_every_bound() {
    let wide = Bounds { hosts: 1000, paths: 100_000, endpoints: 100_000 };
    check_bounds("no bound", &wide, |folded| folded == Folded::default());
    // 60 hosts, evenly: 50 of them are folded, in three rounds of ten requests each.
    check_bounds("hosts", &Bounds { hosts: 10, ..wide.clone() }, |folded| {
        folded == Folded { hosts: 1500, ..Folded::default() }
    });
    check_bounds("no host at all", &Bounds { hosts: 0, ..wide.clone() }, |folded| {
        folded == Folded { hosts: 1800, ..Folded::default() }
    });
    check_bounds("paths", &Bounds { paths: 5, ..wide.clone() }, |folded| {
        folded.paths > 1000 && folded.hosts + folded.endpoints == 0
    });
    check_bounds("no path at all", &Bounds { paths: 0, ..wide.clone() }, |folded| {
        folded == Folded { paths: 1800, ..Folded::default() }
    });
    check_bounds("endpoints", &Bounds { endpoints: 20, ..wide.clone() }, |folded| {
        folded.endpoints > 1000 && folded.hosts + folded.paths == 0
    });
    check_bounds("one endpoint", &Bounds { endpoints: 1, ..wide }, |folded| folded.endpoints == 1797);
    check_bounds("all of them", &Bounds { hosts: 3, paths: 4, endpoints: 5 }, |folded| {
        folded.hosts > 0 && folded.paths > 0 && folded.endpoints > 0
    });
    check_bounds("nothing", &Bounds { hosts: 0, paths: 0, endpoints: 0 }, |folded| {
        // Host and path are `other` already: for want of an endpoint nothing further is folded.
        folded == Folded { hosts: 1800, paths: 1800, endpoints: 0 }
    });
}

#[test]
fn what_is_folded_is_named_other() {
    let mut traffic = plain(Bounds { hosts: 1, paths: 1, endpoints: 2 });
    traffic.gateway("g");
    for (host, path) in [("a", "/x"), ("b", "/y"), ("a", "/z")] {
        traffic.observe(&seen(host, path), 1);
    }
    let labels: Vec<_> =
        traffic.endpoints().iter().map(|e| (e.labels.host.to_string(), e.labels.path.to_string())).collect();
    assert_eq!(
        labels,
        [("a".into(), "/x".into()), ("other".into(), "other".into()), ("other".into(), "other".into())][..2]
    );
    let place = traffic.observe(&seen("b", "/y"), 1);
    assert_eq!(&*traffic.path_name(place.path), "other");
    assert_eq!(traffic.folded(), Folded { hosts: 2, paths: 3, endpoints: 1 });
}

/// A client can send `Host: other`: two series with the same labels would spoil the whole scrape.
#[test]
fn a_host_named_other_is_no_second_series() {
    let mut traffic = plain(Bounds { hosts: 2, ..Bounds::default() });
    traffic.gateway("g");
    for host in ["other", "a", "b", "c", "other"] {
        traffic.observe(&seen(host, "/"), 1);
        traffic.observe_upstream(1, 0, host, 1);
    }
    let mut hosts: Vec<_> = traffic.endpoints().iter().map(|e| e.labels.host.to_string()).collect();
    hosts.sort_unstable();
    assert_eq!(hosts, ["a", "b", "other"]);
    assert_eq!(sums(&traffic).0, 5);
    let rows = traffic.rows(Dimension::Host).filter(|(name, _)| name == "other").count();
    assert_eq!(rows, 1);
    let peers = traffic.upstreams().iter().filter(|upstream| &*upstream.peer == "other").count();
    assert_eq!(peers, 1);
}

/// The same for paths: what the learner names stands beside what a bound folds.
#[test]
fn a_path_named_other_is_no_second_series() {
    let mut traffic = plain(Bounds { paths: 2, ..Bounds::default() });
    traffic.gateway("g");
    for path in ["other", "/a", "/b", "/c", "", "*", "/other"] {
        traffic.observe(&seen("h", path), 1);
    }
    let mut names: Vec<_> = traffic.endpoints().iter().map(|e| e.labels.path.to_string()).collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all, "{names:?}");
    assert_eq!(sums(&traffic).0, 7);
}

#[test]
fn windows_follow_each_other_and_the_total_keeps_all() {
    let mut traffic = plain(Bounds::default());
    traffic.gateway("g");
    // Requests in each window; the total counts what is not yet in a whole window too.
    let mut all = 0;
    for n in [3u64, 0, 5, 1, 0, 0, 2] {
        for _ in 0..n {
            traffic.observe(&seen("h", "/"), 7);
        }
        all += n;
        let windowed = traffic.all();
        assert_eq!((windowed.window.requests, windowed.requests(), windowed.total().requests), (n, all, all));
        traffic.rotate();
        let windowed = traffic.all();
        assert_eq!((windowed.last.requests, windowed.window.requests), (n, 0), "an empty window is one too");
        assert_eq!((windowed.requests(), windowed.total().requests), (all, all));
        for dimension in DIMENSIONS {
            let (last, total) = traffic
                .rows(dimension)
                .fold((0, 0), |(last, total), (_, row)| (last + row.last.requests, total + row.requests()));
            assert_eq!((last, total), (n, all), "{dimension:?}");
        }
    }
    let total = traffic.all().total();
    assert_eq!((total.request_bytes, total.response_bytes, total.duration_ns), (110, 1100, 11_000_000));
    assert_eq!(total.mean_ns(), 1_000_000);
    assert_eq!(traffic.last_ended_ns(), 7);
}

#[test]
fn the_last_end_never_goes_back() {
    let mut traffic = plain(Bounds::default());
    assert_eq!(traffic.last_ended_ns(), 0);
    for (now, expected) in [(5, 5), (3, 5), (9, 9)] {
        traffic.observe(&seen("h", "/"), now);
        assert_eq!(traffic.last_ended_ns(), expected);
    }
}

/// The nearest rank itself, in whole numbers.
fn exact(sorted: &[u64], percent: usize) -> u64 {
    let rank = (percent * sorted.len()).div_ceil(100).max(1);
    sorted[rank - 1]
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // all are positive and below 2^64
fn whole(duration: f64) -> u64 {
    duration as u64
}

fn check_percentiles(what: &str, durations: &[u64]) {
    let mut parts = [Summary::default(), Summary::default()];
    let mut at_once = Summary::default();
    for (n, duration_ns) in durations.iter().enumerate() {
        let sample = Sample { status: 200, duration_ns: *duration_ns, request_bytes: 0, response_bytes: 0 };
        parts[n % 2].add(sample);
        at_once.add(sample);
    }
    let [mut merged, second] = parts;
    merged.merge(&second);
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    for summary in [&at_once, &merged] {
        for percent in [1, 50, 90, 95, 99, 100] {
            let exact = exact(&sorted, percent) as f64;
            let seen = summary.quantile(percent as f64 / 100.0).unwrap();
            let error = (seen - exact).abs();
            // Nanoseconds are whole.
            assert!(
                error <= (exact * 0.010_000_1).max(1.0),
                "{what}: n = {}, p{percent}: {seen} is not {exact}",
                durations.len()
            );
        }
        assert_eq!(summary.mean_ns(), durations.iter().sum::<u64>() / durations.len() as u64);
    }
}

#[test]
fn percentiles_are_within_one_percent_of_the_nearest_rank() {
    // Each value stands 8 % above the one before: to be off by one rank is to be off by 8 %.
    for n in (1..=400).chain([999, 1000, 1001]) {
        let durations: Vec<u64> = (0..n).map(|k| whole(1000.0 * 1.08f64.powi(k % 400))).collect();
        check_percentiles("geometric", &durations);
    }
    let mut state = 7u64;
    let mut noise = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 11
    };
    for n in [1, 2, 3, 10, 99, 100, 101, 20_000] {
        let mut many = |of: &mut dyn FnMut(f64) -> f64| -> Vec<u64> {
            (0..n).map(|_| whole(of((noise() as f64 + 1.0) / (1u64 << 53) as f64))).collect()
        };
        check_percentiles("uniform", &many(&mut |u| u * 1e9));
        check_percentiles("exponential", &many(&mut |u| -u.ln() * 5e6));
        check_percentiles("heavy tail", &many(&mut |u| (1e5 / u.powf(1.5)).min(1e15)));
        check_percentiles("two humps", &many(&mut |u| if u < 0.9 { 3e5 + u * 1e4 } else { 2e9 + u }));
        check_percentiles("all over the range", &many(&mut |u| 10f64.powf(u * 15.0)));
    }
    check_percentiles("all the same", &[123_456; 1000]);
    check_percentiles("zeros", &[0; 10]);
    check_percentiles("mostly zeros", &[0, 0, 0, 0, 0, 0, 0, 0, 0, 5_000_000]);
    check_percentiles("the least", &[1, 2, 3]);
    check_percentiles("from the least to a year", &[1, 1000, 1_000_000_000, 31_536_000_000_000_000]);
}

#[test]
fn without_requests_there_is_no_percentile() {
    assert_eq!(Summary::default().quantile(0.99), None);
    assert_eq!(Summary::default().mean_ns(), 0);
}

/// `le` is inclusive: a duration that is a bound counts below it.
#[test]
fn histogram_buckets_include_their_bound() {
    for (index, (seconds, ns)) in BUCKETS.into_iter().zip(endpoint::BUCKETS_NS).enumerate() {
        assert!((seconds * 1e9 - ns as f64).abs() < 0.5, "{seconds} s is not {ns} ns");
        for (duration, bucket) in [(ns - 1, index), (ns, index), (ns + 1, index + 1)] {
            let mut histogram = Histogram::default();
            histogram.add(duration);
            assert_eq!(histogram.counts[bucket], 1, "{duration} ns");
            assert_eq!((histogram.count(), histogram.sum_ns), (1, duration));
        }
    }
    assert!(BUCKETS.is_sorted_by(|a, b| a < b));
    let mut histogram = Histogram::default();
    histogram.add(0);
    histogram.add(u64::MAX);
    assert_eq!((histogram.counts[0], histogram.counts[BUCKETS.len()]), (1, 1));
}

#[test]
fn services_come_from_routes() {
    let rules = [
        rule(Some("api.example.com"), Some("/v1/*"), "users"),
        rule(Some("*.example.com"), None, "web"),
        rule(None, Some("/health"), "users"),
    ];
    let mut traffic = traffic(Bounds::default(), &rules, &[None, None, None], &[]);
    traffic.gateway("g");
    for (host, path, service) in [
        ("api.example.com", "/v1/x", "users"),
        ("api.example.com", "/v2/x", "web"),
        ("www.example.com", "/", "web"),
        ("elsewhere", "/health", "users"),
        ("elsewhere", "/", ""),
        ("", "", ""),
    ] {
        let place = traffic.observe(&seen(host, path), 1);
        assert_eq!(&*traffic.service_name(place.service), service, "{host}{path}");
        assert_eq!(place.service == 0, service.is_empty());
    }
    let rows: HashMap<_, _> =
        traffic.rows(Dimension::Service).map(|(name, row)| (name, row.requests())).collect();
    assert_eq!(rows, HashMap::from([("users".into(), 2), ("web".into(), 2), (String::new(), 2)]));
    let users = traffic.endpoints().iter().filter(|e| &*e.labels.service == "users").count();
    assert_eq!(users, 2);
    assert_eq!(&*traffic.service_name(99), "");
}

#[test]
fn templates_and_rule_paths_name_groups_first() {
    let rules = [rule(None, Some("/v1/*"), "one"), rule(None, Some("/v2/*"), "two")];
    let templates = [rule(None, Some("/v1/users/*"), "/v1/users/{id}")];
    let mut traffic = traffic(Bounds::default(), &rules, &[Some("/v1/*"), None], &templates);
    traffic.gateway("g");
    let mut name = |host: &str, path: &str| {
        let place = traffic.observe(&seen(host, path), 1);
        traffic.path_name(place.path).to_string()
    };
    // A template before a rule, a rule before what is learned; the service is the rule's all the same.
    assert_eq!(name("a", "/v1/users/7"), "/v1/users/{id}");
    assert_eq!(name("a", "/v1/orders/7"), "/v1/*");
    assert_eq!(name("a", "/v1/"), "/v1/*");
    assert_eq!(name("b", "/v1/users/8"), "/v1/users/{id}");
    assert_eq!(name("a", "/v2/fixed"), "/v2/fixed", "a rule that names no group");
    assert_eq!(name("a", "/v3"), "/v3");
    let mut rows: Vec<_> = traffic.rows(Dimension::Path).map(|(name, row)| (name, row.requests())).collect();
    rows.sort_unstable();
    let expected =
        [("a/v1/*", 2), ("a/v1/users/{id}", 1), ("a/v2/fixed", 1), ("a/v3", 1), ("b/v1/users/{id}", 1)];
    assert_eq!(rows, expected.map(|(name, n)| (name.to_owned(), n)), "groups are kept apart by host");
    let one = traffic.endpoints().iter().find(|e| &*e.labels.path == "/v1/users/{id}").unwrap();
    assert_eq!(&*one.labels.service, "one");
}

#[test]
fn named_groups_are_bounded_too() {
    let templates = [rule(None, Some("/a/*"), "/a/{x}")];
    let mut traffic = traffic(Bounds { paths: 3, ..Bounds::default() }, &[], &[], &templates);
    traffic.gateway("g");
    for n in 0..10 {
        traffic.observe(&seen(&format!("h{n}"), "/a/b"), 1);
    }
    assert_eq!(traffic.folded(), Folded { paths: 7, ..Folded::default() });
    assert_eq!(sums(&traffic).0, 10);
}

#[test]
fn upstreams_are_bounded_and_their_tries_add_up() {
    let rules = [rule(None, Some("/*"), "svc")];
    let mut traffic = traffic(Bounds::default(), &rules, &[None], &[]);
    let gateway = traffic.gateway("g");
    let service = traffic.observe(&seen("h", "/"), 1).service;
    for round in 0..2 {
        for n in 0..300u64 {
            traffic.observe_upstream(
                gateway,
                service,
                &format!("10.0.{}.{}:80", n / 250, n % 250),
                n + round,
            );
        }
    }
    let upstreams = traffic.upstreams();
    assert_eq!(upstreams.len(), UPSTREAMS_MAX + 1);
    assert_eq!(upstreams.iter().map(|upstream| upstream.duration.count()).sum::<u64>(), 600);
    assert_eq!(upstreams.iter().map(|upstream| upstream.duration.sum_ns).sum::<u64>(), 2 * 44_850 + 300);
    let other = upstreams.iter().find(|upstream| &*upstream.peer == "other").unwrap();
    assert_eq!(other.duration.count(), 2 * (300 - UPSTREAMS_MAX as u64));
    assert!(upstreams.iter().all(|upstream| (&*upstream.gateway, &*upstream.service) == ("g", "svc")));
    // The same server for another service is another row.
    traffic.observe_upstream(gateway, 0, "10.0.0.1:80", 1);
    assert_eq!(traffic.upstreams().len(), UPSTREAMS_MAX + 2);
}

#[test]
fn names_are_given_ids_once() {
    let mut names = Names::new(2);
    assert_eq!([names.id("a"), names.id("b"), names.id("a"), names.id("c"), names.id("b")], [1, 2, 1, 0, 2]);
    assert_eq!(
        [names.name(0), names.name(1), names.name(2), names.name(3), names.name(u32::MAX)]
            .map(|name| name.to_string()),
        ["other", "a", "b", "other", "other"]
    );
}

/// The endpoints' labels and counts; no labels twice.
fn endpoints(traffic: &Traffic) -> HashMap<(String, String, String), u64> {
    let mut found = HashMap::new();
    for endpoint in traffic.endpoints() {
        let labels = &endpoint.labels;
        let key = (labels.host.to_string(), labels.path.to_string(), labels.service.to_string());
        let n: u64 = endpoint.requests.iter().map(|(_, _, n)| n).sum();
        assert_eq!(found.insert(key.clone(), n), None, "two series of one name: {key:?}");
    }
    found
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// What is not tracked, or is excluded, is folded: no figure of its own, and in every total.
#[test]
fn hosts_and_paths_without_figures_of_their_own() {
    let hosts =
        Analysis::of_hosts(true, &words(&["*.example.com"]), &words(&["health.example.com"])).unwrap();
    let paths = Analysis::of_paths(true, &words(&["/v1/*"]), &words(&["/v1/health"])).unwrap();
    let mut traffic = Traffic::new(Settings {
        // Room for what we fold to there is always.
        bounds: Bounds { hosts: 1, ..Bounds::default() },
        routes: Routes::compile(&[rule(Some("untracked.org"), None, "theirs")]).unwrap(),
        hosts,
        paths,
        ..Settings::default()
    });
    for round in 0..3 {
        for (host, path) in [
            ("a.example.com", "/v1/x"),
            ("a.example.com", "/v1/health"),
            ("health.example.com", "/v1/x"),
            ("example.com", "/v1/x"),
            ("untracked.org", "/v2"),
            ("", ""),
        ] {
            traffic.observe(&seen(host, path), round);
        }
    }
    let own = |host: &str, path: &str, service: &str| (host.to_owned(), path.to_owned(), service.to_owned());
    let expected = HashMap::from([
        (own("a.example.com", "/v1/x", ""), 3),
        (own("a.example.com", UNTRACKED, ""), 3),
        (own(UNTRACKED, "/v1/x", ""), 6),
        (own(UNTRACKED, UNTRACKED, "theirs"), 3),
        (own(UNTRACKED, UNTRACKED, ""), 3),
    ]);
    assert_eq!(endpoints(&traffic), expected);
    assert_eq!(sums(&traffic).0, 18);
    assert_eq!(traffic.all().requests(), 18);
    assert_eq!(traffic.folded(), Folded::default(), "nothing was folded for want of room");
    assert_eq!(traffic.rows(Dimension::Host).map(|(_, row)| row.requests()).sum::<u64>(), 18);
}

#[test]
fn figures_by_host_and_path_are_off() {
    let off = || Analysis::of_hosts(false, &words(&["a.org"]), &[]).unwrap();
    let mut traffic = Traffic::new(Settings { hosts: off(), ..Settings::default() });
    for host in ["a.org", "b.org", ""] {
        traffic.observe(&seen(host, "/x"), 1);
    }
    assert_eq!(endpoints(&traffic), HashMap::from([((String::new(), "/x".to_owned(), String::new()), 3)]));
    let paths = Analysis::of_paths(false, &[], &[]).unwrap();
    traffic.configure(Settings { paths, ..Settings::default() });
    traffic.observe(&seen("a.org", "/x"), 1);
    traffic.observe(&seen("a.org", "/y"), 1);
    assert_eq!(endpoints(&traffic)[&("a.org".to_owned(), String::new(), String::new())], 2);
}

/// Settings come and go: no count falls, no series stands twice, and every total holds all requests.
#[test]
fn other_settings_while_counting() {
    let settings = |variant: usize| {
        let rules = [
            vec![],
            vec![rule(Some("a"), Some("/p/*"), "one"), rule(None, Some("/q/*"), "two")],
            vec![
                rule(None, Some("/q/*"), "one"),
                rule(Some("a"), Some("/p/*"), "three"),
                rule(Some("b"), None, "two"),
            ],
        ];
        let rules = &rules[variant % 3];
        let templates = [vec![], vec![rule(None, Some("~^/q/[^/]+$"), "/q/{x}")]];
        Settings {
            bounds: Bounds { hosts: 2 + variant % 4, paths: 20, endpoints: 50 },
            routes: Routes::compile(rules).unwrap(),
            rule_paths: rules.iter().map(|rule| rule.path.as_deref().map(Arc::from)).collect(),
            templates: Routes::compile(&templates[variant % 2]).unwrap(),
            hosts: match variant % 5 {
                0 => Analysis::of_hosts(false, &[], &[]).unwrap(),
                1 => Analysis::of_hosts(true, &words(&["a"]), &[]).unwrap(),
                _ => Analysis::default(),
            },
            paths: match variant % 7 {
                0 => Analysis::of_paths(false, &[], &[]).unwrap(),
                1 => Analysis::of_paths(true, &[], &words(&["/q/*"])).unwrap(),
                _ => Analysis::default(),
            },
        }
    };
    let mut traffic = Traffic::new(settings(0));
    let mut before: HashMap<(String, String, String), u64> = HashMap::new();
    let mut sent = 0;
    for variant in 0..420 {
        traffic.configure(settings(variant));
        for n in 0..40 {
            let (host, path) = (["a", "b", "c", "d", ""][n % 5], ["/p/1", "/q/2", "/r", "/p/x/y", ""][n % 4]);
            traffic.observe(&seen(host, path), 1);
            sent += 1;
        }
        let now = endpoints(&traffic);
        for (key, n) in &before {
            assert!(now[key] >= *n, "{key:?} fell from {n} to {}", now[key]);
        }
        assert_eq!(sums(&traffic).0, sent);
        before = now;
    }
    for dimension in DIMENSIONS {
        let sum: u64 = traffic.rows(dimension).map(|(_, row)| row.requests()).sum();
        assert_eq!(sum, sent, "{dimension:?}");
    }
    let services: std::collections::BTreeSet<&str> =
        before.keys().map(|(_, _, service)| &**service).collect();
    assert_eq!(services.into_iter().collect::<Vec<_>>(), ["", "one", "three", "two"]);
}
