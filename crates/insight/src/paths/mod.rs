//! Groups URL paths into templates, online and without rules: `/users/123` → `/users/{id}`.
//!
//! Values are told from parts of an API by their shape at once and by their use in time. Each request walks a tree of
//! segments, one node a position. Now and then ([`PathGroups::group`] does it on its own) the tree is judged: a
//! position with ever new words, or with words that are values elsewhere, gets one child for all its values, and what
//! was learned below each is added up there. Words whose continuation differs, and few and frequent ones, stay.
//!
//! A group's name never changes. When a position is regrouped, later requests get another group; what was counted
//! stays where it was counted, so nothing is lost and nothing counted twice.

mod learn;
mod name;
mod shape;
#[cfg(test)]
mod tests;
mod tree;

use hashbrown::{HashMap, HashSet};
use rustc_hash::FxBuildHasher;

use shape::Shape;
use tree::{Kind, NIL, NO_GROUP, NodeId, Tree};

/// Segments beyond this depth are shown as one value.
const MAX_DEPTH: u32 = 24;
/// Words judged at one position at a time; what comes above that shares the values' child.
const MAX_FRESH: u16 = 64;
/// Requests after which a class with a single value is taken for a constant, as `/2010-04-01/`.
const CONSTANT: u32 = 64;
/// By how many requests a word must lead all others at its position together to be a part of the API.
const LEAD: u32 = 64;
/// Requests before the first lesson, and between two at most.
const LESSONS: (u32, u32) = (32, 4_096);

/// The bounds of [`PathGroups`], over all scopes together.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Groups ever handed out; what exceeds this is [`GroupId::OTHER`].
    pub max_groups: usize,
    /// Nodes of the tree, of about 64 bytes each with its entry in the index.
    pub max_nodes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_groups: 1_000, max_nodes: 28_672 }
    }
}

/// A group of paths within a scope. Ids count up from 0 in the order the groups were found and are never reused.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct GroupId(u32);

impl GroupId {
    /// Where requests are counted that a bound left without a group.
    pub const OTHER: Self = Self(u32::MAX);

    /// The id as an index, for counters kept in a vector; `None` for [`GroupId::OTHER`].
    #[must_use]
    pub fn index(self) -> Option<usize> {
        if self == Self::OTHER { None } else { usize::try_from(self.0).ok() }
    }
}

/// How much a [`PathGroups`] holds, and what its bounds kept out.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Groups handed out.
    pub groups: usize,
    /// Nodes of the tree in use.
    pub nodes: usize,
    /// Bytes held, without the allocator's own.
    pub bytes: usize,
    /// Requests counted under [`GroupId::OTHER`] because no further group was allowed.
    pub over_groups: u64,
    /// Requests counted under [`GroupId::OTHER`] because the tree was full.
    pub over_nodes: u64,
    /// Times rarely used parts of the tree were dropped.
    pub prunes: u64,
}

/// One scope: an API of its own.
struct Scope {
    root: NodeId,
    /// Requests since the last lesson, and how many are waited for.
    since: u32,
    until: u32,
    /// Values met at positions of values: all, and those that are values elsewhere too.
    values: u32,
    common: u32,
    /// Places, by the words above, that are known to hold values.
    places: HashSet<u16, FxBuildHasher>,
}

impl Scope {
    /// Stands in a scope's place while a request is walked.
    const EMPTY: Self = Self {
        root: NIL,
        since: 0,
        until: LESSONS.0,
        values: 0,
        common: 0,
        places: HashSet::with_hasher(FxBuildHasher),
    };
}

/// Groups paths; see the [module](self).
pub struct PathGroups {
    tree: Tree,
    scopes: HashMap<u32, usize, FxBuildHasher>,
    states: Vec<Scope>,
    /// The scope asked for last: most requests of a gateway come in runs.
    last: (u32, Option<usize>),
    names: Vec<Box<str>>,
    by_name: HashMap<(u32, Box<str>), GroupId, FxBuildHasher>,
    limits: Limits,
    over_groups: u64,
    over_nodes: u64,
    prunes: u64,
    since_prune: u32,
}

impl PathGroups {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            tree: Tree::new(limits.max_nodes),
            scopes: HashMap::default(),
            states: Vec::new(),
            last: (0, None),
            names: Vec::new(),
            by_name: HashMap::default(),
            limits,
            over_groups: 0,
            over_nodes: 0,
            prunes: 0,
            since_prune: 0,
        }
    }

    /// At most so many groups from now on; those handed out stay.
    pub fn set_max_groups(&mut self, max_groups: usize) {
        self.limits.max_groups = max_groups;
    }

    /// The group of one request, and a lesson from it. `scope` keeps APIs apart (a host, a service); `path` is the
    /// target as it stood in the request line: a query, a fragment and a `scheme://host` before it are cut.
    pub fn group(&mut self, scope: u32, path: &[u8]) -> GroupId {
        self.since_prune = self.since_prune.saturating_add(1);
        let path = origin(path);
        let Some(index) = self.scope(scope) else {
            self.over_nodes += 1;
            return GroupId::OTHER;
        };
        let Some(mut state) = self.states.get_mut(index).map(|s| std::mem::replace(s, Scope::EMPTY)) else {
            return GroupId::OTHER;
        };
        let group = self.place(scope, &mut state, path);
        state.since += 1;
        if state.since >= state.until {
            self.lesson(&mut state);
        }
        if let Some(slot) = self.states.get_mut(index) {
            *slot = state;
        }
        group
    }

    fn place(&mut self, scope: u32, state: &mut Scope, path: &[u8]) -> GroupId {
        let Some(end) = self.walk(scope, state, path) else {
            self.over_nodes += 1;
            return GroupId::OTHER;
        };
        let node = self.tree.at_mut(end);
        node.ends = node.ends.saturating_add(1);
        let group = node.group;
        if group != NO_GROUP {
            return GroupId(group);
        }
        let group = self.find(scope, state, end);
        if group == GroupId::OTHER {
            self.over_groups += 1;
        }
        group
    }

    fn lesson(&mut self, state: &mut Scope) {
        learn::lesson(&mut self.tree, state);
        state.since = 0;
        let part = u32::try_from(self.tree.used() / 4).unwrap_or(u32::MAX);
        state.until = (state.until * 5 / 4).max(part).min(LESSONS.1);
    }

    /// The group's name, as `/users/{id}/orders/{…}`: at most 256 bytes, without control characters. The same id has
    /// the same name for ever; it is `other` for [`GroupId::OTHER`].
    #[must_use]
    pub fn name(&self, id: GroupId) -> &str {
        id.index().and_then(|i| self.names.get(i)).map_or("other", |name| name)
    }

    /// Groups handed out so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether no group was handed out yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// What is held, and what was kept out, for the ledger. Walks all words, so not for the hot path.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let names: usize = self.names.iter().map(|n| 2 * n.len() + size_of::<Box<str>>()).sum();
        Usage {
            groups: self.names.len(),
            nodes: self.tree.used(),
            bytes: self.tree.bytes()
                + names
                + self.by_name.allocation_size()
                + self.scopes.allocation_size()
                + self.states.capacity() * size_of::<Scope>()
                + self.states.iter().map(|s| s.places.allocation_size()).sum::<usize>(),
            over_groups: self.over_groups,
            over_nodes: self.over_nodes,
            prunes: self.prunes,
        }
    }

    /// The scope's place in `states`, made if need be.
    fn scope(&mut self, scope: u32) -> Option<usize> {
        if let (known, Some(at)) = self.last
            && known == scope
        {
            return Some(at);
        }
        if let Some(&at) = self.scopes.get(&scope) {
            self.last = (scope, Some(at));
            return Some(at);
        }
        let root = self.tree.add(NIL, u64::from(scope), Kind::Root, None).or_else(|| {
            self.make_room();
            self.tree.add(NIL, u64::from(scope), Kind::Root, None)
        })?;
        let state =
            Scope { root, since: 0, until: LESSONS.0, values: 0, common: 0, places: HashSet::default() };
        let at = self.states.len();
        self.states.push(state);
        self.scopes.insert(scope, at);
        self.last = (scope, Some(at));
        Some(at)
    }

    /// Drops what is rare when the tree is full, at most once in a while: a pass over all nodes is not free.
    fn make_room(&mut self) {
        if self.since_prune < 16_384 && self.prunes > 0 {
            return;
        }
        self.since_prune = 0;
        self.prunes += 1;
        let room = self.tree.max_nodes() / 4 * 3;
        for most in [1, 4, 16, 64] {
            self.tree.prune(most);
            if self.tree.used() <= room {
                break;
            }
        }
        self.tree.forget_words();
    }

    /// The node the path ends at, made if need be.
    fn walk(&mut self, scope: u32, state: &mut Scope, path: &[u8]) -> Option<NodeId> {
        let mut at = state.root;
        let visits = &mut self.tree.at_mut(at).visits;
        *visits = visits.saturating_add(1);
        let mut rest = path;
        let mut depth = 0;
        loop {
            let (segment, class, after) = shape::segment(rest);
            let last = after.first() != Some(&b'/');
            depth += 1;
            if depth > MAX_DEPTH {
                return self.step(scope, state, at, b"", Shape::Token, false);
            }
            let cut = if last { shape::suffix(segment) } else { None };
            if let Some((stem, suffix)) = cut.and_then(|at| segment.split_at_checked(at)) {
                at = self.step(scope, state, at, stem, shape::shape(stem), false)?;
                return self.step(scope, state, at, suffix, Shape::Word, true);
            }
            at = match shape::call(segment) {
                Some(call) if class == Shape::Word => self.step(scope, state, at, &call, class, false)?,
                _ => self.step(scope, state, at, segment, class, false)?,
            };
            if last {
                return Some(at);
            }
            rest = after.get(1..)?;
        }
    }

    fn step(
        &mut self,
        scope: u32,
        state: &mut Scope,
        at: NodeId,
        bytes: &[u8],
        class: Shape,
        suffix: bool,
    ) -> Option<NodeId> {
        let next = if class == Shape::Word {
            self.word(scope, state, at, bytes, suffix)
        } else {
            self.class(scope, at, bytes, class)
        }?;
        let node = self.tree.at_mut(next);
        node.visits = node.visits.saturating_add(1);
        Some(next)
    }

    fn word(
        &mut self,
        scope: u32,
        state: &mut Scope,
        at: NodeId,
        bytes: &[u8],
        suffix: bool,
    ) -> Option<NodeId> {
        let key = key(scope, bytes);
        if let Some(child) = self.tree.child(at, key) {
            return Some(child);
        }
        let node = self.tree.at(at);
        let (wild, place, fresh) = (node.wild, node.place, node.fresh);
        let ratio = sure(state);
        if let Some(word) = self.tree.words.get_mut(&key) {
            if wild != NIL && word.value() {
                let (values, common) = (&mut state.values, &mut state.common);
                *values += 1;
                *common += u32::from(word.places() >= 2);
                word.value_at(place);
                let node = self.tree.at_mut(wild);
                if node.most == key {
                    node.lead += 1;
                    if node.lead >= LEAD {
                        return self.hold(at, wild, key, bytes, suffix);
                    }
                } else if node.lead == 0 {
                    node.most = key;
                    node.lead = 1;
                } else {
                    node.lead -= 1;
                }
                return Some(wild);
            }
            if wild == NIL && !suffix && ratio && word.common() {
                word.value_at(place);
                let new = self.tree.add(at, learn::WILD, Kind::Wild, None)?;
                return Some(new);
            }
        }
        if wild != NIL {
            state.values += 1;
            if fresh >= MAX_FRESH {
                return Some(wild);
            }
        }
        if wild == NIL
            && !suffix
            && !bytes.is_empty()
            && state.places.contains(&place)
            && self.tree.at(at).visits > 1
        {
            let part = self.tree.words.get(&key).is_some_and(|w| w.literal > 0);
            if !part {
                self.tree.add(at, learn::WILD, Kind::Wild, None);
            }
        }
        let kind = if suffix { Kind::Suffix } else { Kind::Word };
        let text = name::text(bytes);
        let mut new = self.tree.add(at, key, kind, Some(&text));
        if new.is_none() && wild == NIL {
            self.make_room();
            // Dropping rare parts may have taken `at` itself.
            if self.tree.at(at).state == tree::State::Free {
                return None;
            }
            new = self.tree.add(at, key, kind, Some(&text));
        }
        new.or(Some(wild).filter(|&w| w != NIL))
    }

    /// Makes a word a part of the API that most requests at a position of values bear: few and frequent words stay.
    fn hold(&mut self, at: NodeId, wild: NodeId, key: u64, bytes: &[u8], suffix: bool) -> Option<NodeId> {
        self.tree.at_mut(wild).lead = 0;
        if suffix {
            return Some(wild);
        }
        let Some(new) = self.tree.add(at, key, Kind::Word, Some(&name::text(bytes))) else {
            return Some(wild);
        };
        let node = self.tree.at_mut(new);
        node.state = tree::State::Literal;
        node.age = learn::HELD;
        let above = self.tree.at_mut(at);
        above.fresh = above.fresh.saturating_sub(1);
        above.literals = above.literals.saturating_add(1);
        Some(new)
    }

    fn class(&mut self, scope: u32, at: NodeId, bytes: &[u8], class: Shape) -> Option<NodeId> {
        if self.tree.at(at).constant
            && let Some(child) = self.tree.child(at, key(scope, bytes))
        {
            return Some(child);
        }
        let fixed = learn::CLASSES + class as u64;
        let Some(child) = self.tree.child(at, fixed) else {
            let wild = self.tree.at(at).wild;
            let new = self.tree.add(at, fixed, Kind::Class(class, key(scope, bytes)), None);
            return new.or(Some(wild).filter(|&w| w != NIL));
        };
        if let Kind::Class(_, only) = self.tree.at(child).kind
            && only != 0
            // An API's version may be a date. A number that comes again and again is a popular one.
            && class == Shape::Date
        {
            let key = key(scope, bytes);
            if key != only {
                self.tree.at_mut(child).kind = Kind::Class(class, 0);
            } else if self.tree.at(child).visits >= CONSTANT && bytes.len() <= 32 {
                self.tree.settle_constant(child, key, &name::text(bytes));
            }
        }
        Some(child)
    }

    /// The group of the paths that end at a node.
    fn find(&mut self, scope: u32, state: &Scope, end: NodeId) -> GroupId {
        let (name, lasting) =
            name::name(&self.tree, state, end, !sure(state) && self.names.len() * 2 > self.limits.max_groups);
        let found = match self.by_name.get(&(scope, name.clone())) {
            Some(&found) => found,
            None if self.names.len() >= self.limits.max_groups => return GroupId::OTHER,
            None => {
                let Some(id) = u32::try_from(self.names.len()).ok().map(GroupId) else {
                    return GroupId::OTHER;
                };
                self.names.push(name.clone());
                self.by_name.insert((scope, name), id);
                id
            }
        };
        if lasting {
            self.tree.at_mut(end).group = found.0;
        }
        found
    }
}

/// Whether values of this API are mostly words that are values at several places, so that a word never seen as a value
/// is more likely a part of the API.
fn sure(state: &Scope) -> bool {
    state.values >= 32 && state.common * 10 >= state.values * 6
}

/// The path of a request target: without `scheme://host`, the first slash.
fn origin(target: &[u8]) -> &[u8] {
    let mut path = target;
    if path.first() != Some(&b'/')
        && let Some(at) = memchr::memmem::find(path.get(..16).unwrap_or(path), b"://")
    {
        path = path.get(at + 3..).unwrap_or_default();
        let host = memchr::memchr3(b'/', b'?', b'#', path).unwrap_or(path.len());
        path = path.get(host..).unwrap_or_default();
    }
    path.strip_prefix(b"/").unwrap_or(path)
}

/// A word's key within a scope.
fn key(scope: u32, bytes: &[u8]) -> u64 {
    const K: u64 = 0x9fb2_1c65_1e98_df25;
    let mut hash = u64::from(scope).wrapping_add(bytes.len() as u64).wrapping_mul(K);
    let mut mix = |part: u64| hash = (hash ^ part).wrapping_mul(K).rotate_left(29);
    let mut rest = bytes;
    while let Some((part, more)) = rest.split_first_chunk::<8>() {
        mix(u64::from_le_bytes(*part));
        rest = more;
    }
    // What is left is read with bytes before it where there are any: the length above keeps it unambiguous.
    if let Some(part) = bytes.last_chunk::<8>() {
        mix(u64::from_le_bytes(*part));
    } else if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        mix(u64::from(u32::from_le_bytes(*first)) << 32 | u64::from(u32::from_le_bytes(*last)));
    } else if let (Some(&first), Some(&middle), Some(&last)) =
        (bytes.first(), bytes.get(bytes.len() / 2), bytes.last())
    {
        mix(u64::from(first) << 16 | u64::from(middle) << 8 | u64::from(last));
    }
    // The lowest values are those of the classes.
    (hash ^ hash >> 32) | 1 << 63
}
