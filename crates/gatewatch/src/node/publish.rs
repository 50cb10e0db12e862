//! Parts of the snapshot that every probe has.

use std::sync::OnceLock;

use gatewatch_capture::{MapMemory, clock};
use gatewatch_export::{
    network::Map,
    node::{Durations, Number, Snapshot},
    snapshot::Program,
};

use super::{
    hold::counts::{BOUNDS_MS, Counts, Histogram},
    requests::Requests,
};
use crate::cost;

static OFFSET: OnceLock<u64> = OnceLock::new();

/// One with what does not depend on probes.
pub fn common() -> Snapshot {
    Snapshot {
        taken_ns: clock::monotonic(),
        // Once: when a series was created does not change because a clock is set.
        offset_ns: *OFFSET.get_or_init(clock::offset),
        agent: cost::read(),
        ..Snapshot::default()
    }
}

/// Adds what a probe costs.
pub fn probe(snapshot: &mut Snapshot, maps: Vec<MapMemory>, programs: Vec<(&'static str, u64, u64)>) {
    let map = |map: MapMemory| Map { name: map.name, bytes: map.bytes, max_entries: map.max_entries.into() };
    snapshot.maps.extend(maps.into_iter().map(map));
    let program = |(name, run_ns, runs)| Program { name, run_ns, runs };
    snapshot.programs.extend(programs.into_iter().map(program));
}

/// Adds what the first request's hold did.
/// `unheld`: attempts it could not reach, as they came from the node's own network.
pub fn hold(snapshot: &mut Snapshot, counts: &Counts, unheld: u64) {
    let number = |name, help, value: u64| Number { name, help, label: None, value: exact(value) };
    snapshot.counters.extend([
        number("hold_connected", "Held attempts that were connected.", counts.connected),
        number("hold_expired", "Held attempts that reached their limit, and were refused.", counts.expired),
        number("hold_gave_up", "Held attempts whose client waited no longer.", counts.gave_up),
        Number {
            name: "hold_unheld",
            help: "Attempts that were refused, for they could not be held.",
            label: Some(("reason", "host_network".to_owned())),
            value: exact(unheld),
        },
        number("hold_replays", "SYNs sent once more.", counts.replays),
        number("hold_replay_failures", "Those the kernel did not take.", counts.replay_failures),
    ]);
    snapshot.durations.extend([
        durations("hold_wait_seconds", "Held attempts: from the first SYN to the connection.", &counts.wait),
        durations(
            "hold_after_ready_seconds",
            "Held attempts: from the first ready endpoint, or the first SYN if that came later, to the connection.",
            &counts.after_ready,
        ),
    ]);
    snapshot.gauges.extend([
        number(
            "hold_addresses",
            "Addresses held now: of Services that ask for it, without endpoints.",
            counts.addresses,
        ),
        number("hold_waiting", "Attempts that wait now.", counts.waiting),
        number("hold_interfaces", "Interfaces of pods that are held at now.", counts.interfaces),
    ]);
}

fn durations(name: &'static str, help: &'static str, histogram: &Histogram) -> Durations {
    let bounds = BOUNDS_MS.iter().map(|ms| exact(*ms) / 1e3).chain([f64::INFINITY]);
    Durations {
        name,
        help,
        buckets: bounds.zip(histogram.buckets).collect(),
        sum_seconds: exact(histogram.sum_ns) / 1e9,
        count: histogram.count(),
    }
}

#[allow(clippy::cast_precision_loss)] // exact to 2^53
fn exact(value: u64) -> f64 {
    value as f64
}

/// Adds what was read from sockets.
pub fn requests(snapshot: &mut Snapshot, requests: &Requests) {
    let exchanges = &requests.count.exchanges;
    snapshot.requests = exchanges.requests().to_vec();
    snapshot.answers = exchanges.answers().to_vec();
    let (tallies, counts, apart, folded) =
        (requests.tallies(), requests.counts(), requests.count.apart, exchanges.folded());
    snapshot.lost.extend([
        ("capture", "piece_ring_full", tallies.lost),
        ("capture", "piece_end_ring_full", tallies.lost_ends),
        ("capture", "piece_unreadable", tallies.faults),
        ("capture", "piece_of_32_bit_program", tallies.compat),
        ("capture", "socket_table_full", tallies.no_state),
        ("decode", "connections_full", requests.turned_away),
        ("decode", "conversation_over_budget", counts.over_budget),
        ("decode", "garbage", counts.garbage),
        ("decode", "too_long", counts.too_long),
    ]);
    let apart_help = "Exchanges that stand in no series of requests, and why.";
    let not_counted = |reason: &str, value| Number {
        name: "exchanges_apart",
        help: apart_help,
        label: Some(("reason", reason.to_owned())),
        value: exact(value),
    };
    snapshot.counters.extend([
        not_counted("health_check", apart.health_checks),
        not_counted("mesh_hop", apart.hops),
        not_counted("request_unseen", apart.unseen),
    ]);
    let number = |name, help, value: u64| Number { name, help, label: None, value: exact(value) };
    snapshot.counters.extend([
        number(
            "exchanges",
            "Requests and their answers, read from sockets, of both sides.",
            counts.exchanges,
        ),
        number("exchanges_partial", "Those of which not all was seen.", counts.partial),
        number(
            "exchanges_folded",
            "Requests counted with less detail because a bound was reached.",
            folded.requests,
        ),
        number(
            "stream_holes",
            "Stretches of streams that were not seen (more than 16 KiB moved at once, calls without a buffer).",
            counts.holes,
        ),
        number("tls_handshakes", "TLS handshakes told.", counts.handshakes),
        number("pieces", "Pieces of sockets' bytes handed over.", tallies.pieces),
        number("piece_bytes", "Bytes in them.", tallies.copied_bytes),
    ]);
    let files = u64::try_from(requests.tls_files()).unwrap_or(u64::MAX);
    snapshot.gauges.push(number("tls_files", "Programs and libraries in which TLS is read.", files));
    let open = u64::try_from(requests.connections()).unwrap_or(u64::MAX);
    snapshot.gauges.push(number("http_connections", "Connections that are read now.", open));
    probe(snapshot, requests.probe().memory(), requests.probe().run_times());
}
