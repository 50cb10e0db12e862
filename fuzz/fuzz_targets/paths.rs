//! Paths, a line each, grouped within bounds.
#![no_main]

use gatewatch_insight::paths::{Limits, PathGroups};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits { max_groups: 20, max_nodes: 200 };
    let mut groups = PathGroups::new(limits.clone());
    // Twice: what was learned from the first pass changes the second.
    for pass in 0..2 {
        for line in bytes.split(|byte| *byte == b'\n') {
            let scope = line.first().map_or(0, |byte| u32::from(byte % 3));
            let id = groups.group(scope, line);
            assert!(!groups.name(id).is_empty(), "pass {pass}: a group without a name");
        }
    }
    assert!(groups.len() <= limits.max_groups);
});
