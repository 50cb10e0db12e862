//! Names given small ids, which are given back when nobody uses them any more.

use std::sync::Arc;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use crate::traffic::OTHER;

/// The id of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct NameId(u32);

impl NameId {
    pub(super) const OTHER: Self = Self(0);
}

/// Names not used by any series that may pile up before they are given back.
const LOOSE_MAX: usize = 65_536;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Interned {
    ids: HashMap<Arc<str>, NameId, FxBuildHasher>,
    names: Vec<Option<Arc<str>>>,
    free: Vec<NameId>,
}

impl Interned {
    pub(super) fn new() -> Self {
        let mut this = Self { ids: HashMap::default(), names: Vec::new(), free: Vec::new() };
        this.add(OTHER);
        this
    }

    /// The id of a name; beyond the bound that of `other`.
    pub(super) fn id(&mut self, name: &str) -> NameId {
        match self.ids.get(name) {
            Some(id) => *id,
            None if self.ids.len() >= LOOSE_MAX => NameId::OTHER,
            None => self.add(name),
        }
    }

    fn add(&mut self, name: &str) -> NameId {
        let name: Arc<str> = Arc::from(name);
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                let Ok(id) = u32::try_from(self.names.len()) else { return NameId::OTHER };
                self.names.push(None);
                NameId(id)
            }
        };
        if let Some(place) = self.place(id) {
            *place = Some(Arc::clone(&name));
        }
        self.ids.insert(name, id);
        id
    }

    fn place(&mut self, id: NameId) -> Option<&mut Option<Arc<str>>> {
        self.names.get_mut(usize::try_from(id.0).ok()?)
    }

    pub(super) fn has(&self, id: NameId) -> bool {
        usize::try_from(id.0).ok().and_then(|at| self.names.get(at)).is_some_and(Option::is_some)
    }

    pub(super) fn name(&self, id: NameId) -> Arc<str> {
        let named = usize::try_from(id.0).ok().and_then(|at| self.names.get(at)?.as_ref());
        named.map_or_else(|| Arc::from(OTHER), Arc::clone)
    }

    /// Gives back all names but these.
    pub(super) fn keep(&mut self, used: impl Iterator<Item = NameId>) {
        let mut is_used = vec![false; self.names.len()];
        for NameId(id) in used.chain([NameId::OTHER]) {
            if let Some(it) = usize::try_from(id).ok().and_then(|at| is_used.get_mut(at)) {
                *it = true;
            }
        }
        for ((at, name), is_used) in (0..).zip(&mut self.names).zip(is_used) {
            if !is_used && let Some(name) = name.take() {
                self.ids.remove(&name);
                self.free.push(NameId(at));
            }
        }
    }
}
