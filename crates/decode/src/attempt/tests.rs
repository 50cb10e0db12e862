use super::*;

fn record() -> Record {
    Record {
        socket: 7,
        began_ns: 100,
        ended_ns: 350,
        asked: *b"\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\x60\x00\x0a",
        asked_port: 80,
        stage: 1,
        ..Record::default()
    }
}

#[test]
fn addresses_of_ipv4_are_not_written_as_ipv6() {
    let Some(Told::Began(attempt)) = told(&record()) else { unreachable!("it began") };
    assert_eq!(attempt.asked, "10.96.0.10:80".parse().expect("an address"));
}

#[test]
fn a_name_of_any_bytes_is_a_clean_text() {
    let mut record = record();
    for (to, byte) in record.comm.iter_mut().zip(b"a\x1b[31m\xff\n\"b\0c") {
        *to = byte.cast_signed();
    }
    let Some(Told::Began(attempt)) = told(&record) else { unreachable!("it began") };
    assert_eq!(attempt.caller.comm, "a\u{fffd}[31m\u{fffd}\u{fffd}\"b");
}

#[test]
fn every_outcome_of_the_kernel_side_has_a_name_and_others_are_refused() {
    let ended = |outcome| told(&Record { stage: 2, outcome, ..record() });
    for outcome in 1..=8 {
        assert!(
            matches!(ended(outcome), Some(Told::Ended(AttemptEnd { duration_ns: 250, .. }))),
            "{outcome}"
        );
    }
    assert_eq!(ended(0), None);
    assert_eq!(ended(9), None);
}

#[test]
fn a_translation_is_told_only_of_what_was_sent() {
    let peer = *b"\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\x01\x00\x05";
    let ended = |sent| match told(&Record { stage: 2, outcome: 1, sent, peer, peer_port: 8080, ..record() }) {
        Some(Told::Ended(end)) => end.translated,
        _ => unreachable!("it ended"),
    };
    assert_eq!(ended(1), Some("10.1.0.5:8080".parse().expect("an address")));
    assert_eq!(ended(0), None);
}
