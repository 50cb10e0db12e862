use super::*;

const SERVICE: &str = "10.96.0.10:80";
const MS: u64 = 1_000_000;
const LIMIT: u64 = 10_000 * MS;

fn key(client: &str, ifindex: u32) -> Key {
    Key { client: client.parse().unwrap(), service: SERVICE.parse().unwrap(), ifindex }
}

fn wanted(ready: bool) -> Wanted {
    Wanted { address: SERVICE.parse().unwrap(), limit: Duration::from_nanos(LIMIT), ready }
}

fn held() -> Table {
    let mut table = Table::default();
    table.services(&[wanted(false)], 0);
    assert_eq!(table.actions, [Action::Hold(SERVICE.parse().unwrap(), Duration::from_nanos(LIMIT))]);
    table.actions.clear();
    table
}

fn happened(key: Key, isn: u32, at_ns: u64, happened: Happened) -> Event {
    Event::Attempt { key, isn, at_ns, happened }
}

fn begun(table: &mut Table, key: Key, isn: u32, at_ns: u64, cookie: u64) {
    table.event(&happened(key, isn, at_ns, Happened::Began { until_ns: at_ns + LIMIT, cookie }));
}

fn take(table: &mut Table) -> Vec<Action> {
    std::mem::take(&mut table.actions)
}

#[test]
fn replayed_at_readiness_until_connected() {
    let (mut table, key) = (held(), key("10.244.0.2:4000", 7));
    begun(&mut table, key, 1, MS, 9);
    table.advance(2 * MS);
    assert_eq!(take(&mut table), []);
    table.ready(key.service, 100 * MS);
    assert_eq!(table.next_ns(), Some(100 * MS));
    table.advance(100 * MS);
    assert_eq!(take(&mut table), [Action::Replay { key, isn: 1, first: true }]);
    // Not before half a millisecond has passed, and later and later.
    table.advance(100 * MS + MS / 4);
    assert_eq!(take(&mut table), []);
    table.advance(100 * MS + MS / 2);
    assert_eq!(take(&mut table), [Action::Replay { key, isn: 1, first: false }]);
    table.advance(1100 * MS);
    take(&mut table);
    assert_eq!(table.next_ns(), Some(1125 * MS));
    table.event(&happened(key, 1, 1121 * MS, Happened::Connected));
    assert_eq!(take(&mut table), [Action::Forget(key, 1)]);
    assert_eq!((table.counts.connected, table.counts.waiting), (1, 0));
    assert_eq!((table.counts.wait.sum_ns, table.counts.after_ready.sum_ns), (1120 * MS, 1021 * MS));
    // A second later it is an address like others.
    table.advance(2121 * MS);
    assert_eq!(take(&mut table), [Action::Release(key.service)]);
    assert!(!table.is_holding());
}

#[test]
fn many_addresses_share_the_pace() {
    let mut table = Table::default();
    let at = |i: u16| Wanted { address: SocketAddr::new("10.96.0.10".parse().unwrap(), i), ..wanted(true) };
    let all: Vec<Wanted> = (1..=10).map(at).collect();
    table.services(&all.iter().map(|at| Wanted { ready: false, ..*at }).collect::<Vec<_>>(), 0);
    for at in &all {
        begun(&mut table, Key { service: at.address, ..key("10.244.0.2:4000", 7) }, 1, 0, 0);
    }
    // As long as one is ready, it has the pace for itself; the more there are, the slower.
    let mut one = all.iter().map(|at| Wanted { ready: false, ..*at }).collect::<Vec<_>>();
    one[0].ready = true;
    table.services(&one, MS);
    table.advance(MS);
    assert_eq!(table.next_ns(), Some(MS + MS / 2));
    table.services(&all, MS + MS / 2);
    table.advance(MS + MS / 2);
    assert_eq!(table.next_ns(), Some(3 * MS + MS / 2));
}

#[test]
fn one_of_each_pod_until_one_gets_through_then_all() {
    let mut table = held();
    let keys: Vec<Key> = (0..20).map(|i| key(&format!("10.244.0.2:{}", 4000 + i), 7 + i % 2)).collect();
    keys.iter().for_each(|key| begun(&mut table, *key, 1, MS, 0));
    table.ready(keys[0].service, 2 * MS);
    table.advance(2 * MS);
    let ifindex = |action: &Action| {
        let Action::Replay { key, .. } = action else { panic!("{action:?}") };
        key.ifindex
    };
    let replayed: Vec<u32> = take(&mut table).iter().map(ifindex).collect();
    assert_eq!(replayed.len(), 2);
    assert_ne!(replayed[0], replayed[1]);
    table.event(&happened(keys[0], 1, 3 * MS, Happened::Connected));
    let again = take(&mut table);
    assert_eq!(again.iter().filter(|action| matches!(action, Action::Replay { .. })).count(), 19);
}

#[test]
fn at_the_limit_the_refusal_is_asked_for_then_made() {
    let (mut table, first) = (held(), key("10.244.0.2:4000", 7));
    let second = key("10.244.0.2:4001", 7);
    begun(&mut table, first, 1, 0, 0);
    begun(&mut table, second, 1, 0, 0);
    table.event(&happened(first, 1, 0, Happened::Closed));
    table.advance(LIMIT);
    let asked = take(&mut table);
    assert!(asked.contains(&Action::Ask(first, 1)) && asked.contains(&Action::Ask(second, 1)), "{asked:?}");
    table.event(&happened(first, 1, LIMIT + MS, Happened::Refused));
    table.advance(LIMIT + REFUSAL_NS);
    assert_eq!(take(&mut table), [Action::Refuse(second, 1)]);
    assert_eq!((table.counts.expired, table.counts.waiting), (2, 0));
    // Known for a while, so that neither is held anew.
    table.advance(LIMIT + OVER_NS + MS);
    assert_eq!(take(&mut table), [Action::Forget(first, 1)]);
}

#[test]
fn where_nothing_refuses_nothing_is_refused_by_hand() {
    let (mut table, key) = (held(), key("10.244.0.2:4000", 7));
    begun(&mut table, key, 1, 0, 0);
    table.advance(LIMIT);
    table.advance(LIMIT + REFUSAL_NS);
    assert_eq!(take(&mut table), [Action::Ask(key, 1)]);
}

#[test]
fn whoever_gave_up_is_forgotten() {
    let (mut table, key) = (held(), key("10.244.0.2:4000", 7));
    begun(&mut table, key, 1, 0, 9);
    // The same port again, before the first's end was told.
    begun(&mut table, key, 2, MS, 10);
    table.event(&Event::GaveUp { cookie: 9 });
    assert_eq!((take(&mut table), table.counts.waiting, table.counts.gave_up), (vec![], 1, 1));
    table.event(&Event::GaveUp { cookie: 10 });
    assert_eq!(take(&mut table), [Action::Forget(key, 2)]);
    assert_eq!((table.counts.waiting, table.counts.gave_up), (0, 2));
    table.ready(key.service, 2 * MS);
    table.advance(2 * MS);
    assert_eq!(take(&mut table), []);
}

#[test]
fn an_endpoint_lost_again() {
    let (mut table, key) = (held(), key("10.244.0.2:4000", 7));
    begun(&mut table, key, 1, 0, 0);
    table.services(&[wanted(true)], MS);
    table.services(&[wanted(false)], 2 * MS);
    table.advance(3 * MS);
    assert_eq!(take(&mut table), []);
    // The Service is gone: who waits is let go.
    table.services(&[], 4 * MS);
    table.advance(4 * MS);
    assert_eq!(take(&mut table), [Action::Release(key.service), Action::Ask(key, 1)]);
}

#[test]
fn what_is_known_of_one_port_used_again_and_again_is_bounded() {
    let (mut table, key) = (held(), key("10.244.0.2:4000", 7));
    (0..100_000).for_each(|isn| begun(&mut table, key, isn, u64::from(isn), 0));
    assert!(table.due.len() < 2000 && table.addresses[&key.service].queues[&7].len() < 2000);
    assert_eq!((table.counts.waiting, table.counts.gave_up), (1, 99_999));
}
