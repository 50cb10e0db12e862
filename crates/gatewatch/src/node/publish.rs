//! Parts of the snapshot that every probe has.

use std::{sync::OnceLock, time::Duration};

use gatewatch_capture::{MapMemory, clock};
use gatewatch_export::{
    figures::{Figure, Kind},
    network::Map,
    node::{Durations, Snapshot},
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
    let (counter, gauge) = (Figure::counter, Figure::gauge);
    snapshot.figures.extend([
        counter("gatewatch_hold_connected", "Held attempts that were connected.", counts.connected),
        counter(
            "gatewatch_hold_expired",
            "Held attempts that reached their limit, and were refused.",
            counts.expired,
        ),
        counter("gatewatch_hold_gave_up", "Held attempts whose client waited no longer.", counts.gave_up),
        Figure {
            name: "gatewatch_hold_unheld",
            help: "Attempts that were refused, for they could not be held.",
            kind: Kind::Counter,
            values: vec![(Some(("reason", "host_network")), unheld)],
        },
        counter("gatewatch_hold_replays", "SYNs sent once more.", counts.replays),
        counter("gatewatch_hold_replay_failures", "Those the kernel did not take.", counts.replay_failures),
        gauge(
            "gatewatch_hold_addresses",
            "Addresses held now: of Services that ask for it, without endpoints.",
            counts.addresses,
        ),
        gauge("gatewatch_hold_waiting", "Attempts that wait now.", counts.waiting),
        gauge("gatewatch_hold_interfaces", "Interfaces of pods that are held at now.", counts.interfaces),
    ]);
    snapshot.durations.extend([
        durations(
            "gatewatch_hold_wait_seconds",
            "Held attempts: from the first SYN to the connection.",
            &counts.wait,
        ),
        durations(
            "gatewatch_hold_after_ready_seconds",
            "Held attempts: from the first ready endpoint, or the first SYN if that came later, to the connection.",
            &counts.after_ready,
        ),
    ]);
}

fn durations(name: &'static str, help: &'static str, histogram: &Histogram) -> Durations {
    let bounds = BOUNDS_MS.iter().map(|ms| Duration::from_millis(*ms).as_secs_f64()).chain([f64::INFINITY]);
    Durations {
        name,
        help,
        buckets: bounds.zip(histogram.buckets).collect(),
        sum_seconds: Duration::from_nanos(histogram.sum_ns).as_secs_f64(),
        count: histogram.count(),
    }
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
    let (counter, gauge) = (Figure::counter, Figure::gauge);
    let files = u64::try_from(requests.tls_files()).unwrap_or(u64::MAX);
    let open = u64::try_from(requests.connections()).unwrap_or(u64::MAX);
    snapshot.figures.extend([
        Figure::by(
            "reason",
            Kind::Counter,
            "gatewatch_exchanges_apart",
            "Exchanges that stand in no series of requests, and why.",
            [
                ("health_check", apart.health_checks),
                ("mesh_hop", apart.hops),
                ("request_unseen", apart.unseen),
            ],
        ),
        counter(
            "gatewatch_exchanges",
            "Requests and their answers, read from sockets, of both sides.",
            counts.exchanges,
        ),
        counter("gatewatch_exchanges_partial", "Those of which not all was seen.", counts.partial),
        counter(
            "gatewatch_exchanges_folded",
            "Requests counted with less detail because a bound was reached.",
            folded.requests,
        ),
        counter(
            "gatewatch_stream_holes",
            "Stretches of streams that were not seen (more than 256 KiB moved at once, calls without a buffer).",
            counts.holes,
        ),
        counter("gatewatch_tls_handshakes", "TLS handshakes told.", counts.handshakes),
        counter("gatewatch_pieces", "Pieces of sockets' bytes handed over.", tallies.pieces),
        counter("gatewatch_piece_bytes", "Bytes in them.", tallies.copied_bytes),
        gauge("gatewatch_tls_files", "Programs and libraries in which TLS is read.", files),
        gauge("gatewatch_http_connections", "Connections that are read now.", open),
    ]);
    probe(snapshot, requests.probe().memory(), requests.probe().run_times());
}
