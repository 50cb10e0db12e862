//! What is sent and received on sockets: every byte of HTTP at its place, whichever system call moved it, and none of what
//! is not HTTP.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{
    Turn,
    pieces::{Seen, Talk, agrees, bytes},
};
use gatewatch_capture::socket::{Direction, Settings, Side, SocketProbe};

const CALLS: &str = include_str!("sockets/calls.py");

fn probe(settings: &Settings) -> SocketProbe {
    let mut probe = SocketProbe::load(settings).unwrap();
    probe.attach().unwrap();
    probe
}

#[test]
fn every_call_is_seen_whole_and_at_its_place() {
    every_call(false);
}

/// As on kernels that do not tell of it at the socket.
#[test]
fn the_ends_of_system_calls_tell_the_same() {
    every_call(true);
}

fn every_call(by_calls: bool) {
    let _turn = Turn::alone();
    let calls = Talk::start("python3", &["-c", CALLS]);
    let probe = probe(&Settings { by_calls, ..Settings::default() });
    let mut seen = Seen::default();
    for told in calls.run(&probe, &mut seen) {
        let name = told["name"].as_str().unwrap();
        let ports = [told["client"].as_u64().unwrap(), told["server"].as_u64().unwrap()];
        let ends = [seen.end(ports[0], ports[1]), seen.end(ports[1], ports[0])];
        let sides = [Side::Client, Side::Server];
        // What the end receives, and what it sends.
        for ((end, side), ways) in ends.into_iter().zip(sides).zip([["down", "up"], ["up", "down"]]) {
            let end = end.unwrap_or_else(|| panic!("{name}: nothing of the {side:?}"));
            assert_eq!(end.side, Some(side), "{name}");
            assert_eq!(u64::from(end.pid), told["pid"].as_u64().unwrap());
            assert!(end.comm.starts_with("python3"), "{}", end.comm);
            assert!(end.ended, "{name}: the end of the {side:?}");
            assert_eq!(end.joined, name == "older than the agent", "{name}");
            for (direction, key) in [Direction::Received, Direction::Sent].into_iter().zip(ways) {
                let sent = bytes(&told, key);
                let what = format!("{name}, {side:?}, {direction:?}");
                let found = agrees(end, direction, &sent, &what);
                let before =
                    if name == "older than the agent" { told["before"][key].as_u64().unwrap() } else { 0 };
                let whole = sent.len() - usize::try_from(before).unwrap();
                let calls = if direction == Direction::Sent { "send by " } else { "receive by " };
                match name.strip_prefix(calls) {
                    Some("sendfile" | "splice" | "discard") => {
                        assert!(found < whole && found > 0, "{what}: {found} of {whole}");
                    }
                    Some("sendmmsg" | "recvmmsg") if by_calls => {
                        assert!(found < whole && found > 0, "{what}")
                    }
                    _ => assert_eq!(found, whole, "{what}"),
                }
            }
        }
    }
    let tallies = probe.tallies();
    assert_eq!((tallies.lost, tallies.lost_ends, tallies.faults), (0, 0, 0), "{tallies:?}");
    assert!(tallies.bufferless > 0, "{tallies:?}");
}

#[test]
fn what_is_not_http_is_copied_no_more() {
    let _turn = Turn::alone();
    let calls = Talk::start("python3", &["-c", CALLS, "others"]);
    let probe = probe(&Settings::default());
    let mut seen = Seen::default();
    let told = calls.run(&probe, &mut seen);
    for told in &told {
        let ports = [told["client"].as_u64().unwrap(), told["server"].as_u64().unwrap()];
        for end in [seen.end(ports[0], ports[1]), seen.end(ports[1], ports[0])].into_iter().flatten() {
            let pieces: usize = end.pieces.values().map(Vec::len).sum();
            let up = bytes(told, "up");
            // What could have become a request line is followed for a while.
            assert!(up.starts_with(b"GETAWAY") && pieces < 1200, "{pieces} pieces of {:?}", &up[..7]);
        }
    }
    let tallies = probe.tallies();
    assert!(tallies.other >= 2 * u64::try_from(told.len() - 1).unwrap(), "{tallies:?}");
}

#[test]
fn excluded_processes_are_not_seen() {
    let _turn = Turn::alone();
    let calls = Talk::start("python3", &["-c", CALLS, "flood"]);
    let probe = probe(&Settings { exclude_comms: vec!["python3".into()], ..Settings::default() });
    let mut seen = Seen::default();
    calls.run(&probe, &mut seen);
    assert!(seen.streams.values().all(|stream| stream.comm != "python3"));
    assert!(probe.tallies().excluded >= 2);
}

#[test]
fn what_a_full_ring_loses_is_counted_and_shows_as_a_gap() {
    let _turn = Turn::alone();
    let calls = Talk::start("python3", &["-c", CALLS, "flood"]);
    let probe = probe(&Settings { ring_bytes: 64 << 10, ..Settings::default() });
    let mut seen = Seen::default();
    // Nobody drains while they go.
    let told = calls.run(&probe, &mut seen).remove(0);
    let tallies = probe.tallies();
    assert!(tallies.lost > 0 && tallies.lost_bytes > 0, "{tallies:?}");
    let end = seen.end(told["server"].as_u64().unwrap(), told["client"].as_u64().unwrap()).unwrap();
    agrees(end, Direction::Received, &bytes(&told, "up"), "the part that found room");
}
