//! Names of groups: bounded, valid UTF-8, without control characters.

use super::learn::crowded;
use super::shape::{LEARNED, Shape};
use super::tree::{Kind, NIL, Node, NodeId, State, Tree, Word};
use super::{MAX_DEPTH, Scope, sure};

/// Bytes of a name at most, with the mark of a cut.
const MAX_NAME: usize = 256;
/// Bytes kept of one word at most.
const MAX_WORD: usize = 80;
const CUT: char = '…';

/// A word as it is kept: cut, and with what cannot be shown replaced.
pub(super) fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len().min(MAX_WORD));
    for c in text.chars() {
        if out.len() + c.len_utf8() > MAX_WORD {
            out.push(CUT);
            break;
        }
        out.push(if c.is_control() || c == '\u{2028}' || c == '\u{2029}' { '\u{fffd}' } else { c });
    }
    out
}

/// The name of the paths that end at `end`, and whether it lasts until the next lesson at least. `tight` if few names
/// are left.
pub(super) fn name(tree: &Tree, scope: &Scope, end: NodeId, tight: bool) -> (Box<str>, bool) {
    let mut chain = Vec::new();
    let mut at = end;
    while at != scope.root && at != NIL && chain.len() <= MAX_DEPTH as usize + 1 {
        chain.push(at);
        at = tree.at(at).parent;
    }
    let mut name = String::new();
    // What is shown follows the judged part of the tree, even where the walk left it by a word not yet judged.
    let mut shown = scope.root;
    let mut lasting = true;
    for &id in chain.iter().rev() {
        let node = tree.at(id);
        let suffix = node.kind == Kind::Suffix;
        if !suffix {
            name.push('/');
        }
        match node.kind {
            Kind::Wild => {
                name.push_str(LEARNED);
                shown = if shown == node.parent { id } else { tree.at(shown).wild };
            }
            Kind::Class(class, _) => {
                if class == Shape::Empty && name.ends_with("/{…}/") && name.len() > MAX_NAME {
                    break;
                }
                name.push_str(class.placeholder());
                shown = tree.child(shown, node.key).unwrap_or(NIL);
            }
            Kind::Word | Kind::Suffix | Kind::Root => {
                let (value, next, last) = word(tree, scope, shown, node, tight);
                lasting &= last;
                if value && !suffix {
                    name.push_str(LEARNED);
                } else if let Some(word) = tree.words.get(&node.key) {
                    name.push_str(&word.text);
                }
                shown = next;
            }
        }
        if name.len() > MAX_NAME {
            break;
        }
    }
    if name.is_empty() {
        name.push('/');
    }
    if name.len() > MAX_NAME {
        let mut end = MAX_NAME - CUT.len_utf8();
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        name.truncate(end);
        name.push(CUT);
    }
    (name.into(), lasting)
}

/// Whether a word is shown as a value under `shown`, the node what follows is shown under, and whether that lasts until
/// the next lesson at least.
fn word(tree: &Tree, scope: &Scope, shown: NodeId, node: &Node, tight: bool) -> (bool, NodeId, bool) {
    let above = tree.at(shown);
    let child = tree.child(shown, node.key);
    let literal = child.is_some_and(|c| tree.at(c).state == State::Literal);
    if above.wild != NIL && !literal {
        return (true, above.wild, true);
    }
    let rare = tight && above.fresh > 3 && node.visits < 3;
    if !literal && shown != NIL && (rare || crowded(above, scope)) {
        return (true, child.unwrap_or(NIL), false);
    }
    let value = child.is_none() && sure(scope) && tree.words.get(&node.key).is_some_and(Word::common);
    (value, child.unwrap_or(NIL), true)
}
