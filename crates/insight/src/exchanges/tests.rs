use super::*;

fn seen<'a>(source: &'a str, path: &'a str) -> Observation<'a> {
    Observation {
        source,
        namespace: "shop",
        service: "cart",
        pod: "cart-1",
        method: Method::Get,
        path,
        comm: "nginx",
        outcome: Outcome::Class(2),
        duration_ns: Some(2_000_000),
        request_bytes: 10,
        response_bytes: 100,
    }
}

fn lines(exchanges: &Exchanges) -> Vec<String> {
    let line = |it: &Requests| {
        let To { namespace, service, pod } = &it.to;
        let (source, method, path, comm) = (&it.source, it.method.name(), &it.path, &it.comm);
        format!("{source} {namespace}/{service}/{pod} {method} {path} {comm} {}", it.count)
    };
    exchanges.requests().iter().map(line).collect()
}

#[test]
fn requests_and_answers_are_counted_apart() {
    let mut exchanges = Exchanges::new(Bounds::default());
    exchanges.observe(&seen("10.0.0.1", "/a"), 5);
    exchanges.observe(&seen("10.0.0.1", "/a"), 6);
    exchanges.observe(&Observation { method: Method::Other, ..seen("10.0.0.2", "/a") }, 7);
    exchanges.observe(&Observation { outcome: Outcome::Class(5), ..seen("10.0.0.1", "/a") }, 8);
    exchanges
        .observe(&Observation { outcome: Outcome::Unseen, duration_ns: None, ..seen("10.0.0.1", "/a") }, 9);
    assert_eq!(
        lines(&exchanges),
        ["10.0.0.1 shop/cart/cart-1 GET /a nginx 4", "10.0.0.2 shop/cart/cart-1 _OTHER /a nginx 1"]
    );
    assert_eq!(exchanges.requests()[1].born_ns, 7);
    let answers: Vec<_> =
        exchanges.answers().iter().map(|it| (it.method.name(), it.outcome.name(), it.count)).collect();
    assert_eq!(answers, [("GET", "2xx", 2), ("_OTHER", "2xx", 1), ("GET", "5xx", 1), ("GET", "unknown", 1)]);
    let ok = &exchanges.answers()[0];
    assert_eq!(
        (ok.duration.count(), ok.duration.sum_ns, ok.request_bytes, ok.response_bytes),
        (2, 4_000_000, 20, 200)
    );
    assert_eq!(exchanges.answers()[3].duration.count(), 0);
    assert_eq!(exchanges.folded(), Folded::default());
}

#[test]
fn outcomes_have_names_and_tell_errors() {
    use gatewatch_event::Exchange;
    let of = |status, grpc, grpc_status, partial| {
        Outcome::of(&Exchange { status, grpc, grpc_status, partial, ..Exchange::default() })
    };
    for (outcome, name, error) in [
        (of(Some(200), false, None, false), "2xx", false),
        (of(Some(404), false, None, true), "4xx", false),
        (of(Some(503), false, None, false), "5xx", true),
        (of(Some(700), false, None, false), "other", false),
        (of(Some(200), true, Some(0), false), "OK", false),
        (of(Some(200), true, Some(5), false), "NOT_FOUND", false),
        (of(Some(200), true, Some(14), false), "UNAVAILABLE", true),
        (of(Some(200), true, Some(99), false), "other", false),
        (of(Some(200), true, None, false), "none", true),
        (of(None, false, None, false), "none", true),
        (of(None, true, None, false), "none", true),
        (of(None, false, None, true), "unknown", false),
    ] {
        assert_eq!((outcome.name(), outcome.is_error()), (name, error), "{outcome:?}");
    }
    assert!(of(None, true, None, false).is_grpc(), "given up before an answer, and gRPC all the same");
}

#[test]
fn a_path_that_was_not_seen_is_not_the_root() {
    let mut exchanges = Exchanges::new(Bounds::default());
    exchanges.observe(&seen("10.0.0.1", "/"), 5);
    exchanges.observe(&seen("10.0.0.1", ""), 6);
    assert_eq!(
        lines(&exchanges),
        ["10.0.0.1 shop/cart/cart-1 GET / nginx 1", "10.0.0.1 shop/cart/cart-1 GET  nginx 1"]
    );
    assert_eq!(exchanges.folded(), Folded::default());
}

#[test]
fn paths_are_grouped() {
    let mut exchanges = Exchanges::new(Bounds::default());
    for user in 0..500 {
        exchanges.observe(&seen("10.0.0.1", &format!("/users/{user}/orders")), user);
    }
    assert_eq!(lines(&exchanges).len(), 1, "{:?}", lines(&exchanges));
    assert!(lines(&exchanges)[0].ends_with("orders nginx 500"), "{:?}", lines(&exchanges));
}

#[test]
fn beyond_the_bounds_the_destination_is_still_told() {
    let mut exchanges =
        Exchanges::new(Bounds { requests: 10, answers: 2, destinations: 3, ..Bounds::default() });
    for source in 0..1000 {
        exchanges.observe(&seen(&format!("10.0.0.{source}"), "/a"), source);
    }
    let all = lines(&exchanges);
    assert_eq!(all.len(), 11);
    assert_eq!(all[10], "other shop/cart/other GET other other 990");
    assert_eq!(exchanges.folded().requests, 990);
    for service in 0..100 {
        let name = format!("service-{service}");
        exchanges.observe(&Observation { service: &name, ..seen("10.0.0.1", "/a") }, 2000);
    }
    let total: u64 = exchanges.requests().iter().map(|it| it.count).sum();
    assert_eq!(total, 1100, "nothing is lost");
    assert!(exchanges.requests().len() <= 14, "{:?}", lines(&exchanges));
    assert_eq!(lines(&exchanges).last().unwrap(), "other other/other/other _OTHER other other 98");
    assert_eq!(exchanges.folded().destinations, 98);
    let answers: u64 = exchanges.answers().iter().map(|it| it.count).sum();
    assert_eq!(answers, 1100);
    assert!(exchanges.answers().len() <= 6);
}

#[test]
fn what_is_silent_is_forgotten_and_born_again() {
    let mut exchanges = Exchanges::new(Bounds::default());
    exchanges.observe(&seen("10.0.0.1", "/a"), 10);
    exchanges.observe(&seen("10.0.0.2", "/a"), 20);
    exchanges.forget(5);
    assert_eq!(exchanges.generation(), 0);
    exchanges.forget(15);
    assert_eq!((exchanges.generation(), lines(&exchanges).len()), (1, 1));
    exchanges.observe(&seen("10.0.0.3", "/a"), 30);
    exchanges.observe(&seen("10.0.0.1", "/a"), 40);
    exchanges.observe(&seen("10.0.0.2", "/a"), 50);
    let births: Vec<_> = exchanges.requests().iter().map(|it| (&*it.source, it.count, it.born_ns)).collect();
    assert_eq!(births, [("10.0.0.2", 2, 20), ("10.0.0.3", 1, 30), ("10.0.0.1", 1, 40)]);
    assert_eq!(exchanges.answers()[0].count, 5, "the destination was never silent");
}

#[test]
fn names_that_come_and_go_do_not_pile_up() {
    let mut exchanges = Exchanges::new(Bounds { requests: 100, ..Bounds::default() });
    for round in 0..20_u64 {
        for source in 0..10_000 {
            exchanges.observe(&seen(&format!("10.{round}.{source}"), "/a"), round);
        }
        exchanges.forget(round + 1);
        assert!(exchanges.requests().is_empty());
    }
    exchanges.observe(&seen("10.0.0.1", "/a"), 30);
    assert_eq!(lines(&exchanges), ["10.0.0.1 shop/cart/cart-1 GET /a nginx 1"]);
}
