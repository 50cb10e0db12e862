//! Who claims an address and a port; there is hardly ever more than one.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
};

use smallvec::SmallVec;

/// Claims to places `P` by `C`: the least of them has the best right.
#[derive(Debug)]
pub(super) struct Claims<P, C> {
    places: HashMap<P, SmallVec<[C; 1]>>,
    /// How many claims there may be at all.
    limit: usize,
    count: usize,
}

impl<P: Eq + Hash, C: Ord> Claims<P, C> {
    pub(super) fn new(limit: usize) -> Self {
        Self { places: HashMap::new(), limit, count: 0 }
    }

    /// Whether it was taken: there may be too many.
    pub(super) fn add(&mut self, place: P, claim: C) -> bool {
        if self.count >= self.limit {
            return false;
        }
        let claims = self.places.entry(place).or_default();
        if let Err(at) = claims.binary_search(&claim) {
            claims.insert(at, claim);
            self.count += 1;
        }
        true
    }

    pub(super) fn remove(&mut self, place: P, claim: &C) {
        if let Entry::Occupied(mut entry) = self.places.entry(place) {
            if let Ok(at) = entry.get().binary_search(claim) {
                entry.get_mut().remove(at);
                self.count -= 1;
            }
            if entry.get().is_empty() {
                entry.remove();
            }
        }
    }

    /// The best right first.
    pub(super) fn at(&self, place: &P) -> &[C] {
        self.places.get(place).map_or(&[], SmallVec::as_slice)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty() && self.count == 0
    }
}
