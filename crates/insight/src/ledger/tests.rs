use super::*;

#[test]
fn every_reason_is_exposed_at_zero() {
    let rows: Vec<_> = Ledger::default().rows().collect();
    assert_eq!(rows.len(), REASONS.len(), "a reason stands twice");
    for (stage, reason) in REASONS {
        assert!(rows.contains(&(stage, reason, 0)), "{stage:?} {reason}");
    }
}

#[test]
fn stages_have_their_labels() {
    assert_eq!(
        [Stage::Capture, Stage::Decode, Stage::Filter, Stage::Export].map(Stage::name),
        ["capture", "decode", "filter", "export"]
    );
}

/// The kernel's count falls when a worker's row is freed: what was lost stays lost.
#[test]
fn set_never_falls() {
    let mut ledger = Ledger::default();
    for (set, expected) in [(0, 0), (5, 5), (3, 5), (0, 5), (6, 6), (u64::MAX, u64::MAX), (1, u64::MAX)] {
        ledger.set(Stage::Capture, "ring_full", set);
        assert_eq!(ledger.lost(Stage::Capture, "ring_full"), expected);
    }
}

#[test]
fn lose_adds_up_by_stage_and_reason() {
    let mut ledger = Ledger::default();
    ledger.lose(Stage::Decode, "not_a_request", 2);
    ledger.lose(Stage::Decode, "not_a_request", 3);
    ledger.lose(Stage::Decode, "malformed_record", 0);
    assert_eq!(ledger.lost(Stage::Decode, "not_a_request"), 5);
    assert_eq!(ledger.lost(Stage::Decode, "malformed_record"), 0);
    assert_eq!(ledger.lost(Stage::Capture, "not_a_request"), 0);
    assert_eq!(ledger.rows().count(), REASONS.len());
    // One that was forgotten in the list is shown all the same.
    ledger.lose(Stage::Capture, "new", 1);
    assert!(ledger.rows().any(|row| row == (Stage::Capture, "new", 1)));
}

/// A line of the log that was not written belongs to a request that is reported all the same; what was filtered out is
/// left out on purpose.
#[test]
fn requests_lost_are_those_of_capture_and_decode() {
    let mut ledger = Ledger::default();
    for (n, (stage, reason)) in (0..).zip(REASONS) {
        ledger.lose(stage, reason, 1 << n);
    }
    let others = |stage: &Stage| matches!(stage, Stage::Export | Stage::Filter);
    let others: u64 = ledger.rows().filter(|(stage, ..)| others(stage)).map(|(_, _, n)| n).sum();
    assert!(others > 0);
    assert_eq!(ledger.requests_lost(), (1 << REASONS.len()) - 1 - others);
}
