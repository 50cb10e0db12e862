//! The tree of segments of all scopes and the words met in it, both bounded.

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use super::shape::Shape;

pub(super) type NodeId = u32;
pub(super) const NIL: NodeId = u32::MAX;
pub(super) const NO_GROUP: u32 = u32::MAX;
/// Places a word is remembered to have been a value at; more say nothing new.
const PLACES: usize = 6;

/// What is known of one node: a position of a path, after all segments before it.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// The word's key; for classes a fixed one.
    pub(super) key: u64,
    pub(super) parent: NodeId,
    pub(super) first: NodeId,
    pub(super) next: NodeId,
    /// The child all values of the position share.
    pub(super) wild: NodeId,
    pub(super) visits: u32,
    /// Requests that ended here.
    pub(super) ends: u32,
    pub(super) group: u32,
    /// Where in an API the values under this node stand: the nearest word above, and how far.
    pub(super) place: u16,
    /// Children not yet judged.
    pub(super) fresh: u16,
    /// Words that became part of the API at this position, beside values.
    pub(super) literals: u16,
    pub(super) kind: Kind,
    pub(super) state: State,
    /// Lessons survived unjudged.
    pub(super) age: u8,
    /// Set when the only child of a class is a constant, which then is looked up as a word.
    pub(super) constant: bool,
    /// For the child all values share: the word most of them may be, and its lead over all others together.
    pub(super) most: u64,
    pub(super) lead: u32,
}

#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Root,
    Word,
    /// A file's ending or a verb: joined to the segment before it.
    Suffix,
    /// Any value.
    Wild,
    /// A class, with the key of the only value seen, or none if there were several.
    Class(Shape, u64),
}

#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum State {
    Fresh,
    /// Judged to be a part of the API.
    Literal,
    Free,
}

#[derive(Debug, Default)]
pub(super) struct Word {
    pub(super) text: Box<str>,
    /// Nodes that bear it.
    nodes: u32,
    /// Positions where it was judged a part of the API.
    pub(super) literal: u8,
    places: u8,
    place: [u16; PLACES],
    /// Where it was last judged a part of the API.
    last: u16,
}

impl Word {
    pub(super) fn places(&self) -> u8 {
        self.places
    }

    pub(super) fn value_at(&mut self, place: u16) {
        let count = usize::from(self.places);
        let known = self.place.get(..count).is_none_or(|seen| seen.contains(&place));
        if !known && let Some(slot) = self.place.get_mut(count) {
            *slot = place;
            self.places += 1;
        }
    }

    /// Judged a part of the API beside values. A word so judged at places of different kind is no such part, but a
    /// frequent value.
    pub(super) fn literal_at(&mut self, place: u16) {
        if self.literal == 0 || self.last != place {
            self.literal = self.literal.saturating_add(1);
            self.last = place;
        }
        if self.literal >= 4 {
            self.literal = 0;
            self.place = [place, place, place, 0, 0, 0];
            self.places = self.places.max(3);
        }
    }

    /// More often a value than a part of the API.
    pub(super) fn value(&self) -> bool {
        self.places > self.literal
    }

    /// A value at places of different kind, so a value wherever it turns up.
    pub(super) fn common(&self) -> bool {
        self.places >= 3 + self.literal.min(3)
    }
}

pub(super) struct Tree {
    nodes: Vec<Node>,
    free: NodeId,
    used: usize,
    max_nodes: usize,
    max_words: usize,
    edges: HashMap<u64, NodeId, FxBuildHasher>,
    pub(super) words: HashMap<u64, Word, FxBuildHasher>,
    spare: Node,
}

const EMPTY: Node = Node {
    key: 0,
    parent: NIL,
    first: NIL,
    next: NIL,
    wild: NIL,
    visits: 0,
    ends: 0,
    group: NO_GROUP,
    place: 0,
    fresh: 0,
    literals: 0,
    kind: Kind::Root,
    state: State::Free,
    age: 0,
    constant: false,
    most: 0,
    lead: 0,
};

fn edge(parent: NodeId, key: u64) -> u64 {
    (key ^ u64::from(parent).wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .rotate_left(23)
        .wrapping_mul(0xd6e8_feb8_6659_fd93)
}

impl Tree {
    pub(super) fn new(max_nodes: usize) -> Self {
        Self {
            nodes: Vec::new(),
            free: NIL,
            used: 0,
            max_nodes,
            max_words: max_nodes,
            edges: HashMap::default(),
            words: HashMap::default(),
            spare: EMPTY,
        }
    }

    pub(super) fn used(&self) -> usize {
        self.used
    }

    pub(super) fn max_nodes(&self) -> usize {
        self.max_nodes
    }

    /// The node, or an empty one for an id that is none.
    pub(super) fn at(&self, id: NodeId) -> &Node {
        self.nodes.get(id as usize).unwrap_or(&EMPTY)
    }

    pub(super) fn at_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(id as usize).unwrap_or(&mut self.spare)
    }

    pub(super) fn child(&self, parent: NodeId, key: u64) -> Option<NodeId> {
        self.edges.get(&edge(parent, key)).copied()
    }

    /// A new child, or `None` if the tree is full. `text` is kept for words.
    pub(super) fn add(&mut self, parent: NodeId, key: u64, kind: Kind, text: Option<&str>) -> Option<NodeId> {
        if self.used >= self.max_nodes || text.is_some() && !self.keep_word(key, text) {
            return None;
        }
        let above = self.at(parent);
        let [low, high, ..] = key.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17).to_le_bytes();
        let place = match kind {
            Kind::Word | Kind::Suffix => u16::from_le_bytes([low, high]),
            Kind::Root | Kind::Wild | Kind::Class(..) => above.place.wrapping_add(1),
        };
        let wild = kind == Kind::Wild;
        let next = if wild { NIL } else { above.first };
        let node = Node { key, parent, next, place, kind, state: State::Fresh, ..EMPTY };
        let id = if self.free == NIL {
            let id = u32::try_from(self.nodes.len()).ok().filter(|&id| id != NIL)?;
            self.nodes.push(node);
            id
        } else {
            let id = self.free;
            self.free = self.at(id).next;
            *self.at_mut(id) = node;
            id
        };
        self.used += 1;
        if parent != NIL {
            let above = self.at_mut(parent);
            if wild {
                above.wild = id;
            } else {
                above.first = id;
                if matches!(kind, Kind::Word) {
                    above.fresh = above.fresh.saturating_add(1);
                }
                self.edges.insert(edge(parent, key), id);
            }
        }
        Some(id)
    }

    fn keep_word(&mut self, key: u64, text: Option<&str>) -> bool {
        let full = self.words.len() >= self.max_words;
        let Some(text) = text else { return true };
        match self.words.entry(key) {
            hashbrown::hash_map::Entry::Occupied(mut word) => {
                let word = word.get_mut();
                word.nodes = word.nodes.saturating_add(1);
                if word.text.is_empty() {
                    word.text = text.into();
                }
            }
            hashbrown::hash_map::Entry::Vacant(_) if full => return false,
            hashbrown::hash_map::Entry::Vacant(slot) => {
                slot.insert(Word { text: text.into(), nodes: 1, ..Word::default() });
            }
        }
        true
    }

    pub(super) fn children(&self, id: NodeId) -> Vec<NodeId> {
        let mut out = Vec::new();
        let mut child = self.at(id).first;
        while child != NIL {
            out.push(child);
            child = self.at(child).next;
        }
        out
    }

    /// Takes `id` out of its parent's children; it stays whole.
    fn unlink(&mut self, id: NodeId) {
        let Node { parent, next, key, kind, .. } = *self.at(id);
        if kind == Kind::Wild {
            self.at_mut(parent).wild = NIL;
            return;
        }
        self.edges.remove(&edge(parent, key));
        let mut at = self.at(parent).first;
        if at == id {
            self.at_mut(parent).first = next;
            return;
        }
        while at != NIL {
            let after = self.at(at).next;
            if after == id {
                self.at_mut(at).next = next;
                return;
            }
            at = after;
        }
    }

    /// Takes several children out at once.
    pub(super) fn unlink_all(&mut self, parent: NodeId, gone: &dyn Fn(NodeId) -> bool) {
        let mut kept = NIL;
        for child in self.children(parent) {
            if gone(child) {
                let key = self.at(child).key;
                self.edges.remove(&edge(parent, key));
            } else {
                self.at_mut(child).next = kept;
                kept = child;
            }
        }
        self.at_mut(parent).first = kept;
    }

    fn free_one(&mut self, id: NodeId) {
        let Node { key, kind, .. } = *self.at(id);
        if matches!(kind, Kind::Word | Kind::Suffix)
            && let Some(word) = self.words.get_mut(&key)
        {
            word.nodes = word.nodes.saturating_sub(1);
            if word.nodes == 0 {
                word.text = Box::default();
                if word.places == 0 {
                    self.words.remove(&key);
                }
            }
        }
        let next = self.free;
        *self.at_mut(id) = Node { next, ..EMPTY };
        self.free = id;
        self.used -= 1;
    }

    /// Forgets words no node bears that were a value at few places.
    pub(super) fn forget_words(&mut self) {
        if self.words.len() * 4 > self.max_words * 3 {
            for least in [2, 4, u8::MAX] {
                self.words.retain(|_, word| word.nodes > 0 || word.places >= least);
                if self.words.len() * 2 < self.max_words {
                    break;
                }
            }
        }
    }

    /// Adds all that is below and at `from` (already unlinked) to `into`, and gives `from` back.
    pub(super) fn merge(&mut self, from: NodeId, into: NodeId) {
        let mut stack = vec![(from, into)];
        while let Some((from, into)) = stack.pop() {
            let Node { visits, ends, wild, .. } = *self.at(from);
            let target = self.at_mut(into);
            target.visits = target.visits.saturating_add(visits);
            target.ends = target.ends.saturating_add(ends);
            for child in self.children(from) {
                let Node { key, state, kind, .. } = *self.at(child);
                self.edges.remove(&edge(from, key));
                if let Some(same) = self.child(into, key) {
                    if state == State::Literal && self.at(same).state == State::Fresh {
                        self.at_mut(same).state = State::Literal;
                        let at = self.at_mut(into);
                        at.fresh = at.fresh.saturating_sub(u16::from(kind == Kind::Word));
                        at.literals = at.literals.saturating_add(1);
                    }
                    if let (Kind::Class(shape, one), Kind::Class(_, two)) = (kind, self.at(same).kind)
                        && one != two
                    {
                        self.at_mut(same).kind = Kind::Class(shape, 0);
                    }
                    stack.push((child, same));
                } else {
                    self.edges.insert(edge(into, key), child);
                    let first = self.at(into).first;
                    let place = self.at(into).place.wrapping_add(1);
                    let node = self.at_mut(child);
                    node.parent = into;
                    node.next = first;
                    if matches!(node.kind, Kind::Class(..)) {
                        node.place = place;
                    }
                    self.at_mut(into).first = child;
                    if kind == Kind::Word {
                        let at = self.at_mut(into);
                        match state {
                            State::Fresh => at.fresh = at.fresh.saturating_add(1),
                            State::Literal => at.literals = at.literals.saturating_add(1),
                            State::Free => {}
                        }
                    }
                    self.forget_groups(child);
                }
            }
            self.at_mut(from).first = NIL;
            if wild != NIL {
                let same = self.at(into).wild;
                if same == NIL {
                    self.at_mut(wild).parent = into;
                    self.at_mut(into).wild = wild;
                    self.forget_groups(into);
                } else {
                    stack.push((wild, same));
                }
            }
            self.free_one(from);
        }
    }

    /// Names below `id` may have changed: later requests ask for their group anew.
    pub(super) fn forget_groups(&mut self, id: NodeId) {
        let mut stack = vec![id];
        while let Some(id) = stack.pop() {
            self.at_mut(id).group = NO_GROUP;
            let Node { mut first, wild, .. } = *self.at(id);
            if wild != NIL {
                stack.push(wild);
            }
            while first != NIL {
                stack.push(first);
                first = self.at(first).next;
            }
        }
    }

    /// Makes the only value of a class a word of the API.
    pub(super) fn settle_constant(&mut self, id: NodeId, key: u64, text: &str) {
        let Node { parent, key: old, .. } = *self.at(id);
        if !self.keep_word(key, Some(text)) {
            return;
        }
        self.edges.remove(&edge(parent, old));
        self.edges.insert(edge(parent, key), id);
        let node = self.at_mut(id);
        node.key = key;
        node.kind = Kind::Word;
        node.state = State::Literal;
        self.at_mut(parent).constant = true;
        self.forget_groups(id);
    }

    /// Drops rarely used leaves until the tree has room again.
    pub(super) fn prune(&mut self, most: u32) {
        let ids = 0..u32::try_from(self.nodes.len()).unwrap_or(NIL);
        for id in ids.rev() {
            let node = self.at(id);
            let leaf = node.first == NIL && node.wild == NIL && node.state != State::Free;
            if leaf && node.kind != Kind::Root && node.visits <= most {
                let Node { parent, kind, state, .. } = *node;
                self.unlink(id);
                self.free_one(id);
                let above = self.at_mut(parent);
                if kind == Kind::Word {
                    match state {
                        State::Fresh => above.fresh = above.fresh.saturating_sub(1),
                        State::Literal => above.literals = above.literals.saturating_sub(1),
                        State::Free => {}
                    }
                }
            }
        }
    }

    /// Bytes held, as far as this can be told from sizes.
    pub(super) fn bytes(&self) -> usize {
        let texts: usize = self.words.values().map(|w| w.text.len()).sum();
        self.nodes.capacity() * size_of::<Node>()
            + self.edges.allocation_size()
            + self.words.allocation_size()
            + texts
    }
}
