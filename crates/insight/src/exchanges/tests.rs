use super::*;

fn callee(pod: &str) -> Callee {
    Callee { namespace: "shop".into(), service: "cart".into(), pod: pod.into() }
}

fn received<'a>(from: &str, to: &str, comm: &'a str) -> Received<'a> {
    Received {
        source: from.into(),
        ends: Some((from.parse().expect("an address"), to.parse().expect("an address"))),
        callee: callee("cart-1"),
        comm,
        network_namespace: 7,
    }
}

fn get(path: &str, status: u16) -> Exchange {
    Exchange {
        began_ns: Some(1_000_000),
        ended_ns: 3_000_000,
        method: Method::Get,
        path: path.into(),
        status: Some(status),
        ..Exchange::default()
    }
}

fn exchanges() -> Exchanges {
    Exchanges::new(Bounds::default(), HealthChecks::new(true, Vec::new()))
}

#[test]
fn requests_and_answers_are_counted_by_what_tells_them_apart() {
    let mut all = exchanges();
    for status in [200, 200, 503] {
        assert!(all.received(&received("10.0.0.1", "10.0.0.2", "nginx"), &get("/items", status)));
    }
    let (key, counted) = all.requests().next().expect("one series");
    assert_eq!((&*key.source, &*key.path, &*key.comm, counted.count), ("10.0.0.1", "/items", "nginx", 3));
    let (_, answers) = all.answers().next().expect("one callee");
    assert_eq!(answers.by_status[&(503, None)].count, 1);
    assert_eq!(answers.durations.count(), 3);
}

#[test]
fn health_checks_are_counted_apart() {
    let mut all = exchanges();
    assert!(!all.received(&received("10.0.0.1", "10.0.0.2", "nginx"), &get("/healthz", 200)));
    assert_eq!((all.requests().count(), all.apart().health_checks), (0, 1));
}

#[test]
fn a_request_through_a_sidecar_is_one_request() {
    let mut all = exchanges();
    all.met("envoy", 7);
    // In by the proxy, and on to the server, as Istio and as Linkerd hand it over.
    assert!(all.received(&received("10.0.0.1", "10.0.0.2", "envoy"), &get("/", 200)));
    assert!(!all.received(&received("127.0.0.6", "10.0.0.2", "app"), &get("/", 200)));
    assert!(!all.received(&received("127.0.0.1", "127.0.0.1", "app"), &get("/", 200)));
    // The pod calls somebody else, by its own proxy.
    assert!(!all.received(&received("10.0.0.2", "10.0.0.2", "envoy"), &get("/out", 200)));
    assert_eq!(all.apart().hops, 3);
    // Another pod has none: what it asks of itself are requests.
    let other = Received { network_namespace: 8, ..received("127.0.0.1", "127.0.0.1", "app") };
    assert!(all.received(&other, &get("/", 200)));
}

#[test]
fn whoever_asks_for_whatever_series_stay_bounded_and_counts_exact() {
    let bounds = Bounds { series: 50, groups: 20 };
    let mut all = Exchanges::new(bounds, HealthChecks::default());
    for n in 0..5000_u32 {
        let from = format!("10.{}.{}.1", n % 100, n / 100);
        let mut received = received(&from, "10.0.0.2", "nginx");
        received.callee.pod = format!("pod-{}", n % 500).into();
        all.received(&received, &get(&format!("/p{n}"), 200));
    }
    assert_eq!(all.requests().map(|(_, counted)| counted.count).sum::<u64>(), 5000);
    assert!(all.requests().count() <= 2 * bounds.series + 1, "{}", all.requests().count());
    assert!(all.answers().count() <= bounds.series + 1);
}

#[test]
fn an_answer_without_its_request_is_an_answer_only() {
    let mut all = exchanges();
    let half = Exchange { method: Method::Unknown, ..get("", 200) };
    assert!(!all.received(&received("10.0.0.1", "10.0.0.2", "nginx"), &half));
    assert_eq!((all.requests().count(), all.apart().unseen), (0, 1));
    assert_eq!(all.answers().count(), 1);
}
