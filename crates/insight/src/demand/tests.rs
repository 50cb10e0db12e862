use super::*;

fn service(name: &str) -> Callee {
    Callee { namespace: "shop".into(), service: name.into(), pod: "".into() }
}

fn counts(demand: &Demand, callee: &Callee) -> Vec<(String, u64)> {
    let entry = demand.callees().find(|(known, _)| *known == callee).map(|(_, entry)| entry);
    let mut counts: Vec<_> =
        entry.into_iter().flat_map(|e| &e.attempts).map(|a| (a.comm.to_string(), a.count)).collect();
    counts.sort();
    counts
}

#[test]
fn a_service_has_its_series_at_zero_before_anybody_calls_and_as_long_as_it_exists() {
    let mut demand = Demand::new(Bounds { idle_ns: 10, ..Bounds::default() });
    demand.known(&service("cart"), 1);
    demand.known(&service("cart"), 2);
    demand.expire(1_000_000);
    assert_eq!(counts(&demand, &service("cart")), [(String::new(), 0)]);
    demand.called(service("cart"), "curl", 5);
    demand.expire(1_000_000);
    assert_eq!(counts(&demand, &service("cart")), [(String::new(), 0), ("curl".to_owned(), 1)]);
    demand.gone(&service("cart"));
    assert_eq!(counts(&demand, &service("cart")), []);
}

#[test]
fn whatever_processes_call_themselves_series_stay_bounded_and_counts_exact() {
    let mut demand = Demand::new(Bounds { series: 40, processes: 8, idle_ns: 1 });
    for service_number in 0..10 {
        for process in 0..100 {
            demand.called(service(&format!("s{service_number}")), &format!("p{process}"), 1);
        }
    }
    let all: Vec<_> = demand.callees().flat_map(|(_, entry)| &entry.attempts).collect();
    assert_eq!(all.iter().map(|attempts| attempts.count).sum::<u64>(), 1000);
    // One series for the rest of each Service comes on top.
    assert!(all.len() <= 50, "{}", all.len());
    assert_eq!(
        demand.folded(),
        1000 - all.iter().filter(|a| &*a.comm != OTHER).map(|a| a.count).sum::<u64>()
    );
}

#[test]
fn past_the_bound_unnamed_addresses_are_counted_together() {
    let mut demand = Demand::new(Bounds { series: 4, processes: 8, idle_ns: 1 });
    for pod in 0..100 {
        demand.called(Callee { pod: format!("pod-{pod}").into(), ..service("cart") }, "curl", 1);
    }
    let total: u64 = demand.callees().flat_map(|(_, entry)| &entry.attempts).map(|a| a.count).sum();
    assert_eq!(total, 100);
    assert!(demand.callees().count() <= 6);
}

#[test]
fn what_is_of_no_service_is_let_go_after_a_time_without_calls() {
    let mut demand = Demand::new(Bounds { idle_ns: 100, ..Bounds::default() });
    demand.called(Callee::default(), "curl", 50);
    demand.expire(149);
    assert_eq!(demand.callees().count(), 1);
    demand.expire(150);
    assert_eq!(demand.callees().count(), 0);
}

#[test]
fn ends_are_counted_by_outcome_and_born_with_their_first() {
    let mut demand = Demand::new(Bounds::default());
    demand.known(&service("cart"), 1);
    demand.ended(&service("cart"), Outcome::Refused, 5, 7);
    demand.ended(&service("cart"), Outcome::Refused, 5, 9);
    demand.ended(&service("cart"), Outcome::Established, 2_000_000, 11);
    let (_, entry) = demand.callees().next().expect("one");
    assert_eq!(entry.outcomes[1], (2, 7));
    assert_eq!(entry.outcomes[0], (1, 11));
    assert_eq!(entry.durations.count(), 1);
}
