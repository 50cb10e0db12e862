//! What was worked out of a text before: user agents, hosts and peers come again and again.

use std::{collections::HashMap, sync::Arc};

/// Texts remembered; more, and it begins anew.
const MAX: usize = 2048;
/// Longer texts are not worth the memory.
const LONGEST: usize = 256;

/// Remembers what `work` made of a text.
#[derive(Debug, Default)]
pub struct Memo {
    known: HashMap<Box<[u8]>, Arc<str>>,
}

impl Memo {
    /// What `work` makes of `text`, or made of it before.
    pub fn get(&mut self, text: &[u8], work: impl FnOnce(&[u8]) -> Arc<str>) -> Arc<str> {
        if let Some(known) = self.known.get(text) {
            return Arc::clone(known);
        }
        let made = work(text);
        if text.len() <= LONGEST {
            if self.known.len() >= MAX {
                self.known.clear();
            }
            self.known.insert(text.into(), Arc::clone(&made));
        }
        made
    }
}
