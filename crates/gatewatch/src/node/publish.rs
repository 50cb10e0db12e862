//! Parts of the snapshot that every probe has.

use gatewatch_capture::{MapMemory, clock};
use gatewatch_export::{network::Map, node::Snapshot, snapshot::Program};

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
