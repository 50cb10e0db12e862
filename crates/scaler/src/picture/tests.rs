use super::*;
use crate::proto::demand::Slice;

const S: u64 = 1_000_000_000;
const NOW: u64 = 1_700_000_000 * S;
const MINUTE: Duration = Duration::from_secs(60);

fn source(node: &str) -> Arc<Source> {
    Arc::new(Source { node: node.to_owned(), epoch: 1 })
}

fn shop() -> Service {
    Service::new("market", "shop").unwrap()
}

/// Told by a node: so many attempts, the last of them at that time of its clock.
fn told(name: &str, at_ns: u64, attempts: u64) -> ServiceDemand {
    ServiceDemand {
        namespace: "market".into(),
        name: name.into(),
        gone: false,
        last_call_unix_ns: at_ns,
        slices: vec![Slice { number: at_ns / SLICE_NS, attempts }],
    }
}

#[test]
fn nodes_add_up_and_their_clocks_do_not_matter() {
    let picture = Picture::default();
    for (name, ahead_s) in [("a", 0_i64), ("fast", 7200), ("slow", -7200)] {
        let node_now = NOW.saturating_add_signed(ahead_s * 1_000_000_000);
        picture.begin(&source(name), node_now, vec![told("shop", node_now - 10 * S, 20)], NOW);
    }
    let demand = picture.demand(&shop(), MINUTE, NOW);
    assert_eq!(demand, Demand { active: true, until_ns: NOW + 50 * S, rate: 1.0 });
    assert!(picture.demand(&shop(), MINUTE, NOW + 50 * S - 1).active);
    assert!(!picture.demand(&shop(), MINUTE, NOW + 50 * S).active);
    assert_eq!(picture.demand(&shop(), MINUTE, NOW + 120 * S).rate, 0.0);
}

#[test]
fn what_is_told_again_counts_once() {
    let picture = Picture::default();
    let a = source("a");
    picture.begin(&a, NOW, vec![told("shop", NOW, 20), told("other", NOW, 1)], NOW);
    picture.update(&a, NOW, vec![told("shop", NOW, 30)], NOW);
    picture.end(&a);
    // The stream begins anew, and knows of one Service no more.
    picture.begin(&a, NOW, vec![told("shop", NOW, 30)], NOW);
    assert_eq!(picture.demand(&shop(), MINUTE, NOW).rate, 0.5);
    assert_eq!(picture.sizes(), Sizes { connected: 1, lost: 0, services: 1 });
}

#[test]
fn what_is_lost_counts_until_it_is_old() {
    let picture = Picture::default();
    let (a, b) = (source("a"), source("b"));
    picture.begin(&a, NOW, vec![told("shop", NOW, 60)], NOW);
    picture.begin(&b, NOW, vec![], NOW);
    picture.end(&a);
    picture.set_gathered();
    picture.grow_old(NOW + 599 * S);
    assert_eq!(picture.sizes(), Sizes { connected: 1, lost: 1, services: 1 });
    assert!(picture.demand(&shop(), KEPT, NOW + 599 * S).active);
    picture.grow_old(NOW + 601 * S);
    assert_eq!(picture.sizes(), Sizes { connected: 1, lost: 0, services: 0 });
    assert!(picture.is_sure());
    picture.end(&b);
    assert!(!picture.is_sure());
}

#[test]
fn what_no_node_would_tell_is_passed_over() {
    let picture = Picture::default();
    let a = source("a");
    let names = ["", "UPPER", "a/b", "\u{202e}", "a.b"].map(|name| told(name, NOW, 1));
    let long = told(&"x".repeat(100_000), NOW, 1);
    picture.begin(&a, NOW, names.into_iter().chain([long]).collect(), NOW);
    assert_eq!(picture.sizes().services, 0);

    // Times that are none.
    let mut wild = told("shop", u64::MAX, 5);
    wild.slices.extend((0..10_000).map(|i| Slice { number: u64::MAX - i, attempts: u64::MAX }));
    wild.slices.push(Slice { number: NOW / SLICE_NS, attempts: 60 });
    picture.update(&a, NOW, vec![wild], NOW);
    let demand = picture.demand(&shop(), MINUTE, NOW);
    assert_eq!(demand, Demand { active: true, until_ns: NOW + 60 * S, rate: 1.0 });
    picture.update(&a, u64::MAX, vec![told("shop", 0, u64::MAX)], 0);
    let _no_overflow = picture.demand(&shop(), MINUTE, u64::MAX);
    picture.update(&a, 0, vec![told("shop", u64::MAX, u64::MAX)], u64::MAX);
    let _no_overflow = picture.demand(&shop(), KEPT, 0);
    picture.grow_old(u64::MAX);

    // Of a source that never began.
    picture.update(&source("nobody"), NOW, vec![told("shop", NOW, 1)], NOW);
    assert_eq!(picture.sizes().connected, 1);
}

#[test]
fn services_of_one_node_are_bounded() {
    let picture = Picture::default();
    let many = (0..SERVICES_MAX + 10).map(|i| told(&format!("s{i}"), NOW, 1)).collect();
    picture.begin(&source("a"), NOW, many, NOW);
    assert_eq!(picture.sizes().services, SERVICES_MAX);
    picture.begin(&source("b"), NOW, vec![told("more", NOW, 1)], NOW);
    assert_eq!(picture.sizes().services, SERVICES_MAX + 1);
}

#[test]
fn who_follows_leaves_nothing_behind() {
    let picture = Arc::new(Picture::default());
    let (first, second) = (picture.follow(&shop()), picture.follow(&shop()));
    drop(first);
    assert_eq!(picture.table().waiting.len(), 1);
    drop(second);
    assert!(picture.table().waiting.is_empty());
}
