//! Parts of the snapshot that every probe has.

use gatewatch_capture::{MapMemory, clock};
use gatewatch_export::{
    network::Map,
    node::{Number, Snapshot},
    snapshot::Program,
};

use super::hold::Counts;
use crate::cost;

/// One with what does not depend on probes.
pub fn common() -> Snapshot {
    Snapshot {
        taken_ns: clock::monotonic(),
        offset_ns: clock::offset(),
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
pub fn hold(snapshot: &mut Snapshot, counts: &Counts) {
    let number = |name, help, value: u64| Number { name, help, label: None, value: exact(value) };
    snapshot.counters.extend([
        number("hold_connected", "Held attempts that were connected.", counts.connected),
        number("hold_expired", "Held attempts that reached their limit, and were refused.", counts.expired),
        number("hold_gave_up", "Held attempts whose client waited no longer.", counts.gave_up),
        number("hold_replays", "SYNs sent once more.", counts.replays),
        number("hold_replay_failures", "Those the kernel did not take.", counts.replay_failures),
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

#[allow(clippy::cast_precision_loss)] // exact to 2^53
fn exact(value: u64) -> f64 {
    value as f64
}
