//! Many literal prefixes, the best-ranked one found by a single binary search.

use super::Rank;

/// Prefixes sorted by bytes, each knowing its longest proper prefix in the set.
///
/// Why one search is enough: if `q` is a prefix of `path`, everything that sorts between `q` and `path`
/// starts with `q` too. So the entry just before `path` is either a match or a descendant of every match,
/// and its chain of parents holds them all.
#[derive(Debug, Default)]
pub(super) struct Prefixes {
    entries: Vec<Prefix>,
}

#[derive(Debug)]
struct Prefix {
    bytes: Box<[u8]>,
    parent: Option<usize>,
    /// Best rank of this entry and all its parents: they match whenever this one does.
    best: Rank,
}

impl Prefixes {
    pub(super) fn new(mut prefixes: Vec<(Box<[u8]>, Rank)>) -> Self {
        // Sorted by rank behind the bytes, so that of equal prefixes the best-ranked stays.
        prefixes.sort();
        prefixes.dedup_by(|later, earlier| later.0 == earlier.0);
        let mut entries: Vec<Prefix> = Vec::with_capacity(prefixes.len());
        for (bytes, rank) in prefixes {
            let mut parent = entries.len().checked_sub(1);
            while let Some(entry) = parent.and_then(|at| entries.get(at)) {
                if bytes.starts_with(&entry.bytes) {
                    break;
                }
                parent = entry.parent;
            }
            let inherited = parent.and_then(|at| entries.get(at)).map(|entry| entry.best);
            entries.push(Prefix { bytes, parent, best: inherited.map_or(rank, |best| best.min(rank)) });
        }
        Self { entries }
    }

    pub(super) fn find(&self, path: &[u8]) -> Option<Rank> {
        let after = self.entries.partition_point(|entry| *entry.bytes <= *path);
        let mut at = after.checked_sub(1);
        while let Some(entry) = at.and_then(|at| self.entries.get(at)) {
            if path.starts_with(&entry.bytes) {
                return Some(entry.best);
            }
            at = entry.parent;
        }
        None
    }
}
