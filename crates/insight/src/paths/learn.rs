//! Lessons: which positions hold values, judged from the words that stood there and what followed them.

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use super::tree::{Kind, NIL, Node, NodeId, State, Tree};
use super::{Scope, sure};

/// The key of the child all values share.
pub(super) const WILD: u64 = 0;
/// The first key of the classes.
pub(super) const CLASSES: u64 = 16;
/// The age of a word that is a part of the API because most requests at its position bear it.
pub(super) const HELD: u8 = u8::MAX;
/// Words at one position that are shown before the position is judged.
const SHOWN: u16 = 8;

/// Whether a position has so many words not yet judged that one more would not be shown.
pub(super) fn crowded(node: &Node, scope: &Scope) -> bool {
    node.fresh > SHOWN && !sure(scope) && curve(node.visits, u32::from(node.fresh) * 6 / 10)
}

/// Whether so few visits with so many words tell of ever new words. Words of an API come back soon: among 100 visits
/// to 70 of them, by popularity, 15 were there once only; among values it is 35.
fn curve(visits: u32, once: u32) -> bool {
    let visits = f64::from(visits.max(1));
    f64::from(once) / visits > 0.45 * (24.0 / visits).powf(0.45)
}

/// What a lesson needs of one child.
struct Child {
    id: NodeId,
    key: u64,
    visits: u32,
    state: State,
    leaf: bool,
    age: u8,
}

/// Judges all positions of one scope.
pub(super) fn lesson(tree: &mut Tree, scope: &mut Scope) {
    let mut stack = vec![scope.root];
    while let Some(id) = stack.pop() {
        position(tree, scope, id);
        let wild = tree.at(id).wild;
        if wild != NIL {
            stack.push(wild);
        }
        for child in tree.children(id) {
            let Node { kind, state, first, wild: below, .. } = *tree.at(child);
            let judged = wild == NIL || state == State::Literal || matches!(kind, Kind::Class(..));
            if judged && (first != NIL || below != NIL) {
                stack.push(child);
            } else if !judged {
                // Its name depends on what is learned of the values beside it.
                tree.forget_groups(child);
            }
        }
    }
    scope.values -= scope.values / 4;
    scope.common -= scope.common / 4;
    tree.forget_words();
}

fn words(tree: &Tree, id: NodeId) -> Vec<Child> {
    let mut out = Vec::new();
    for id in tree.children(id) {
        let node = tree.at(id);
        if node.kind == Kind::Word {
            out.push(Child {
                id,
                key: node.key,
                visits: node.visits,
                state: node.state,
                leaf: node.first == NIL && node.wild == NIL,
                age: node.age,
            });
        }
    }
    out
}

fn position(tree: &mut Tree, scope: &mut Scope, id: NodeId) {
    if tree.at(id).first == NIL {
        return;
    }
    let mut children = words(tree, id);
    if children.is_empty() {
        return;
    }
    let sure = sure(scope);
    if tree.at(id).wild == NIL {
        let values = unsettled(tree, scope, id, &children, sure);
        if values.is_empty() {
            return;
        }
        let Node { place, .. } = *tree.at(id);
        if values.len() >= 8 {
            scope.places.insert(place);
        }
        let Some(wild) = tree.add(id, WILD, Kind::Wild, None) else {
            return;
        };
        gather(tree, id, wild, &values);
        tree.forget_groups(id);
        children = words(tree, id);
    }
    settled(tree, scope, id, children, sure);
}

/// The values of a position not known to hold any.
fn unsettled(tree: &Tree, scope: &Scope, id: NodeId, children: &[Child], sure: bool) -> Vec<NodeId> {
    let known = |c: &&Child| tree.words.get(&c.key).is_some_and(|w| w.value() && w.places() >= 2);
    let common = |c: &&Child| tree.words.get(&c.key).is_some_and(super::tree::Word::common);
    if sure {
        let values: Vec<_> = children.iter().filter(common).map(|c| c.id).collect();
        if !values.is_empty() {
            return values;
        }
    }
    let values: Vec<_> = children.iter().filter(known).map(|c| c.id).collect();
    if values.len() >= 3 && values.len() * 2 >= children.len() {
        return values;
    }
    if scope.places.contains(&tree.at(id).place) {
        let open =
            |c: &&Child| c.state == State::Fresh && tree.words.get(&c.key).is_none_or(|w| w.literal == 0);
        return children.iter().filter(open).map(|c| c.id).collect();
    }
    let visits: u32 = children.iter().map(|c| c.visits).fold(0, u32::saturating_add);
    let once = children.iter().filter(|c| c.visits == 1).count();
    let least = if sure { 40 } else { 9 };
    let once = u32::try_from(once).unwrap_or(u32::MAX);
    if children.len() < least || visits < 16 || !curve(visits, once) {
        return Vec::new();
    }
    let alike = alike(tree, children);
    let branches = children.iter().filter(|c| !c.leaf).count();
    let similar = children.iter().filter(|c| !c.leaf && alike.contains(&c.id)).count();
    if branches * 2 > children.len() && similar * 3 < branches {
        return Vec::new();
    }
    let stays = |c: &&Child| c.visits >= 8 && !c.leaf && !alike.contains(&c.id);
    children.iter().filter(|c| !stays(c)).map(|c| c.id).collect()
}

/// The children with a continuation that many of them share.
fn alike(tree: &Tree, children: &[Child]) -> Vec<NodeId> {
    let mut bags: Vec<(NodeId, Vec<u64>)> = Vec::new();
    let mut shared: HashMap<u64, usize, FxBuildHasher> = HashMap::default();
    for child in children.iter().filter(|c| !c.leaf) {
        let bag = bag(tree, child.id);
        for &key in &bag {
            *shared.entry(key).or_default() += 1;
        }
        bags.push((child.id, bag));
    }
    let least = (bags.len() / 5).max(2);
    let common = |key: &u64| shared.get(key).is_some_and(|&n| n >= least);
    bags.into_iter().filter(|(_, bag)| bag.iter().any(common)).map(|(id, _)| id).collect()
}

/// Words up to three segments below a node that are not known as values.
fn bag(tree: &Tree, id: NodeId) -> Vec<u64> {
    let mut out = Vec::new();
    let mut stack = vec![(id, 0)];
    while let Some((id, depth)) = stack.pop() {
        let Node { mut first, wild, .. } = *tree.at(id);
        if wild != NIL && depth < 2 {
            stack.push((wild, depth + 1));
        }
        while first != NIL {
            let node = tree.at(first);
            if matches!(node.kind, Kind::Word | Kind::Suffix)
                && tree.words.get(&node.key).is_none_or(|w| w.places() == 0)
            {
                out.push(node.key);
            }
            if depth < 2 {
                stack.push((first, depth + 1));
            }
            if out.len() >= 48 {
                break;
            }
            first = node.next;
        }
        if out.len() >= 48 {
            break;
        }
    }
    out.sort_unstable();
    out.dedup();
    out
}

/// Judges the words beside the values of a position.
fn settled(tree: &mut Tree, scope: &mut Scope, id: NodeId, children: Vec<Child>, sure: bool) {
    let Node { wild, literals, visits, place, .. } = *tree.at(id);
    let ripe = scope.common.saturating_mul(10) >= scope.values.saturating_mul(9);
    let mut values = Vec::new();
    let mut parts = Vec::new();
    for child in children {
        let word = tree.words.get(&child.key);
        let (places, literal) = word.map_or((0, 0), |w| (w.places(), w.literal));
        let common = word.is_some_and(super::tree::Word::common);
        if child.state == State::Literal {
            if child.age == HELD {
                continue;
            }
            if common && sure || !child.leaf && covered(tree, child.id, wild).named >= 0.6 {
                values.push(child.id);
            }
            continue;
        }
        if places >= 2 && places > literal || places == 1 && literal == 0 && !sure {
            values.push(child.id);
            continue;
        }
        if literal > places {
            parts.push(child.id);
            continue;
        }
        let same = if child.leaf { None } else { Some(covered(tree, child.id, wild)) };
        let value = match same {
            Some(same) if same.named >= 0.5 || !sure && same.any >= 0.5 => Some(true),
            Some(same) if same.any < 0.3 && child.visits >= if sure { 2 } else { 4 } => Some(false),
            _ if sure && child.visits >= 3 && (ripe || literals >= 4) => Some(false),
            _ if sure => (child.age >= 3).then_some(true),
            Some(_) => (child.age >= 3).then_some(true),
            None if child.visits >= 50 && child.visits.saturating_mul(10) >= visits.saturating_mul(3) => {
                Some(false)
            }
            None => (child.age >= 1 || child.visits < 8).then_some(true),
        };
        match value {
            Some(true) => values.push(child.id),
            Some(false) => parts.push(child.id),
            None => {
                let age = &mut tree.at_mut(child.id).age;
                *age = age.saturating_add(1).min(HELD - 1);
            }
        }
    }
    for part in parts {
        let node = tree.at_mut(part);
        node.state = State::Literal;
        let key = node.key;
        if let Some(word) = tree.words.get_mut(&key) {
            word.literal_at(place);
        }
        let above = tree.at_mut(id);
        above.literals = above.literals.saturating_add(1);
        above.fresh = above.fresh.saturating_sub(1);
        tree.forget_groups(part);
    }
    gather(tree, id, wild, &values);
}

/// Adds up the values of a position in the child they share.
fn gather(tree: &mut Tree, id: NodeId, wild: NodeId, values: &[NodeId]) {
    if values.is_empty() {
        return;
    }
    let place = tree.at(id).place;
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    tree.unlink_all(id, &|child| sorted.binary_search(&child).is_ok());
    for &value in values {
        let Node { key, state, .. } = *tree.at(value);
        let above = tree.at_mut(id);
        if state == State::Literal {
            above.literals = above.literals.saturating_sub(1);
        } else {
            above.fresh = above.fresh.saturating_sub(1);
        }
        if let Some(word) = tree.words.get_mut(&key) {
            if state == State::Literal {
                word.literal = word.literal.saturating_sub(1);
            }
            word.value_at(place);
        }
        tree.merge(value, wild);
    }
}

/// How much of what followed a word follows the values beside it too, from 0 to 1.
struct Covered {
    /// By a word or the end of a path that is no value's.
    named: f64,
    /// By anything.
    any: f64,
}

fn covered(tree: &Tree, id: NodeId, wild: NodeId) -> Covered {
    let (mut named, mut any) = (0_u32, 0_u32);
    let all = tree.at(id).visits.max(1);
    let mut stack = vec![(id, wild, false, 0)];
    let mut steps = 0;
    while let Some((id, like, name, depth)) = stack.pop() {
        let Node { ends, first, wild, .. } = *tree.at(id);
        steps += 1;
        if depth == 3 || steps > 256 {
            let visits = tree.at(id).visits;
            any = any.saturating_add(visits);
            named = named.saturating_add(if name { visits } else { 0 });
            continue;
        }
        let other = tree.at(like);
        if other.ends > 0 {
            any = any.saturating_add(ends);
            named = named.saturating_add(if name { ends } else { 0 });
        }
        if wild != NIL && other.wild != NIL {
            stack.push((wild, other.wild, name, depth + 1));
        }
        let mut child = first;
        while child != NIL {
            let Node { key, kind, next, .. } = *tree.at(child);
            if let Some(same) = tree.child(like, key) {
                let word = matches!(kind, Kind::Word | Kind::Suffix)
                    && tree.words.get(&key).is_none_or(|w| w.places() == 0);
                stack.push((child, same, name || word, depth + 1));
            } else if other.wild != NIL && kind == Kind::Word {
                stack.push((child, other.wild, name, depth + 1));
            }
            child = next;
        }
    }
    Covered { named: f64::from(named) / f64::from(all), any: f64::from(any) / f64::from(all) }
}
