use super::*;

const MS: u64 = 1_000_000;

fn exchange(path: &str, began_ns: u64, ended_ns: u64) -> Exchange {
    Exchange {
        began_ns: Some(began_ns),
        ended_ns,
        method: Method::Get,
        path: path.into(),
        status: Some(200),
        ..Exchange::default()
    }
}

/// Adds what ended, each named, and tells what came of it.
fn told(parts: &[(Place, &str, u64, u64, &'static str)], until_ns: u64) -> Vec<Counted<&'static str>> {
    let pod: Arc<str> = "shop/cart-1".into();
    let (mut hops, mut told) = (Hops::default(), Vec::new());
    let mut now_ns = 0;
    for (place, path, began_ns, ended_ns, name) in parts {
        now_ns = now_ns.max(*ended_ns);
        hops.add(&pod, *place, &exchange(path, *began_ns, *ended_ns), *name, now_ns, &mut |it| told.push(it));
    }
    hops.tick(until_ns, &mut |it| told.push(it));
    told
}

#[test]
fn where_a_request_was_received() {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let pod = [ip("10.1.2.3"), ip("fd00::3")];
    for (comm, remote, sidecar, expected) in [
        ("nginx", "10.9.9.9", true, Place::Plain),
        ("nginx", "127.0.0.6", false, Place::Inner),
        ("nginx", "127.0.0.1", true, Place::Inner),
        ("nginx", "::ffff:10.1.2.3", true, Place::Inner),
        ("nginx", "fd00::3", true, Place::Inner),
        ("nginx", "127.0.0.1", false, Place::Plain),
        ("nginx", "10.1.2.3", false, Place::Plain),
        ("envoy", "10.9.9.9", true, Place::Outer),
        ("linkerd2-proxy", "10.9.9.9", true, Place::Outer),
        ("wrk:worker_1", "10.1.2.3", true, Place::Outbound),
        ("envoy", "127.0.0.1", true, Place::Outbound),
    ] {
        assert_eq!(place(comm, ip(remote), &pod, sidecar), expected, "{comm} from {remote}");
    }
}

#[test]
fn both_halves_are_one_request_in_either_order() {
    let inner = (Place::Inner, "/a", 12, 18, "inner");
    let outer = (Place::Outer, "/a", 10, 20, "outer");
    assert_eq!(told(&[outer, inner], MS), [Counted::Both { inner: "inner", outer: "outer" }]);
    // The first of a pod does not wait: nobody knows yet that there is an outer side.
    assert_eq!(told(&[inner, outer], MS), [Counted::Request("inner"), Counted::Hop("outer")]);
    let later = (Place::Inner, "/a", 32, 38, "inner 2");
    let outer_2 = (Place::Outer, "/a", 30, 40, "outer 2");
    assert_eq!(
        told(&[inner, outer, later, outer_2], MS)[2..],
        [Counted::Both { inner: "inner 2", outer: "outer 2" }]
    );
}

#[test]
fn what_has_no_other_half_is_a_request_by_itself() {
    let outer = (Place::Outer, "/a", 10, 20, "outer");
    for other in [
        (Place::Inner, "/b", 12, 18, "other path"),
        (Place::Inner, "/a", 9, 18, "began before"),
        (Place::Inner, "/a", 12, 21, "ended behind"),
    ] {
        let name = other.4;
        assert_eq!(told(&[outer, other], MS), [], "both wait: {name}");
        let mut all = told(&[outer, other], WAIT_NS + MS);
        all.sort_by_key(|it| format!("{it:?}"));
        let mut expected = [Counted::Request(name), Counted::Request("outer")];
        expected.sort_by_key(|it| format!("{it:?}"));
        assert_eq!(all, expected);
    }
}

#[test]
fn an_encrypted_outer_side_holds_nobody_up() {
    let inner = |at: u64| (Place::Inner, "/a", at, at + 5, "inner");
    assert_eq!(told(&[inner(10), inner(20), inner(30)], 40), [const { Counted::Request("inner") }; 3]);
}

#[test]
fn what_a_program_sends_out_is_a_hop() {
    assert_eq!(told(&[(Place::Outbound, "/a", 10, 20, "out")], 20), [Counted::Hop("out")]);
    assert_eq!(told(&[(Place::Plain, "/a", 10, 20, "plain")], 20), [Counted::Request("plain")]);
}

#[test]
fn many_at_once_are_each_counted_once() {
    let pod: Arc<str> = "shop/cart-1".into();
    let mut hops = Hops::default();
    let (mut requests, mut hop_count) = (0, 0);
    let mut count = |it: Counted<()>| match it {
        Counted::Request(()) => requests += 1,
        Counted::Both { .. } => (requests, hop_count) = (requests + 1, hop_count + 1),
        Counted::Hop(()) => hop_count += 1,
    };
    for n in 0..50_000_u64 {
        // Sixteen at a time, of few paths, that overlap.
        let (began, path) = (n / 16 * 1000 + n % 16, format!("/{}", n % 3));
        let (outer, inner) = (exchange(&path, began, began + 900), exchange(&path, began + 20, began + 800));
        let halves = if n % 2 == 0 {
            [(Place::Outer, outer), (Place::Inner, inner)]
        } else {
            [(Place::Inner, inner), (Place::Outer, outer)]
        };
        for (place, exchange) in halves {
            hops.add(&pod, place, &exchange, (), began + 900, &mut count);
        }
    }
    hops.tick(u64::MAX, &mut count);
    assert_eq!((requests, hop_count), (50_000, 50_000));
    assert_eq!(hops.waiting(), 0);
}

#[test]
fn pods_without_end_are_bounded() {
    let mut hops = Hops::default();
    let mut told = 0;
    for n in 0..5000 {
        let pod: Arc<str> = format!("pod-{n}").into();
        hops.add(&pod, Place::Outer, &exchange("/a", 1, 2), n, 2, &mut |_| told += 1);
    }
    assert_eq!((told, hops.waiting()), (5000 - PODS_MAX, PODS_MAX));
    hops.tick(WAIT_NS + 2, &mut |_| told += 1);
    assert_eq!((told, hops.waiting()), (5000, 0));
}
