//! Names that occur again and again, each kept once.

use std::{collections::HashSet, sync::Arc};

/// Looks for names that nobody has any more when there are twice as many as after the last look, and this many at least.
const LOOK: usize = 4096;

/// Namespaces, nodes, workloads, labels: 20,000 pods share a few hundred.
#[derive(Debug)]
pub(super) struct Names {
    known: HashSet<Arc<str>>,
    look_at: usize,
}

impl Default for Names {
    fn default() -> Self {
        Self { known: HashSet::new(), look_at: LOOK }
    }
}

impl Names {
    /// Puts the one copy in its place.
    pub(super) fn share(&mut self, name: &mut Arc<str>) {
        if let Some(known) = self.known.get(name) {
            *name = Arc::clone(known);
            return;
        }
        if self.known.len() >= self.look_at {
            self.sweep();
        }
        self.known.insert(Arc::clone(name));
    }

    /// Forgets those that only this has.
    pub(super) fn sweep(&mut self) {
        self.known.retain(|name| Arc::strong_count(name) > 1);
        self.look_at = (self.known.len() * 2).max(LOOK);
    }
}
