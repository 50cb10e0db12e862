//! Names of bounded number, each given a small id.

use std::sync::Arc;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

/// What is counted under no name of its own.
pub const OTHER: &str = "other";

/// Gives names ids, from 1 on; 0 is `other`, for all that came when the bound was reached.
#[derive(Debug)]
pub struct Names {
    ids: HashMap<Arc<str>, u32, FxBuildHasher>,
    names: Vec<Arc<str>>,
    max: usize,
}

impl Names {
    /// At most `max` names.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { ids: HashMap::default(), names: vec![Arc::from(OTHER)], max }
    }

    /// The id of a name.
    pub fn id(&mut self, name: &str) -> u32 {
        // Whoever sends it as a name is counted there too: no two series of one name.
        if name == OTHER {
            return 0;
        }
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        if self.ids.len() >= self.max { 0 } else { self.insert(name) }
    }

    fn insert(&mut self, name: &str) -> u32 {
        let Ok(id) = u32::try_from(self.names.len()) else {
            return 0;
        };
        let name: Arc<str> = Arc::from(name);
        self.names.push(Arc::clone(&name));
        self.ids.insert(name, id);
        id
    }

    /// The id of a name that has a place whatever the bound: one of few, which we made up ourselves.
    pub fn reserved(&mut self, name: &str) -> u32 {
        match self.ids.get(name) {
            Some(id) => *id,
            None => self.insert(name),
        }
    }

    /// At most `max` names from now on; those that are there stay.
    pub fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// The name of an id.
    #[must_use]
    pub fn name(&self, id: u32) -> Arc<str> {
        let index = usize::try_from(id).unwrap_or(0);
        self.names.get(index).or(self.names.first()).map_or_else(|| Arc::from(OTHER), Arc::clone)
    }
}
