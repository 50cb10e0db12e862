//! What differs between two configurations, in words that may be logged.

use std::fmt;

use serde_json::Value;

use crate::model::Config;

/// Characters shown of a value.
const SHOWN: usize = 80;
/// What stands where a list has no such entry, or a key no value.
const UNSET: &str = "unset";

/// Keys whose change takes effect at the next start only: a key, or a section with all its keys.
const AT_NEXT_START: [&str; 6] =
    ["listen", "capture", "network.max_connections", "network.pin", "network.pin_dir", "node"];

/// One key that differs. The texts are cut, masked and escaped: fit for a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// As in the file: `routing.rules[2].service`.
    pub key: String,
    /// Its value before.
    pub old: String,
    /// Its value now.
    pub new: String,
}

impl Change {
    /// Whether this key, or one below it, differs.
    pub fn is_of(&self, key: &str) -> bool {
        self.key.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    }

    /// The key cannot change while the watcher runs.
    pub fn waits_for_next_start(&self) -> bool {
        AT_NEXT_START.iter().any(|key| self.is_of(key))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {} → {}", self.key, self.old, self.new)
    }
}

/// The keys that differ, by name. A list of values is one key; of a
/// list of entries each entry's keys are, after what both have in common at its beginning and end.
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let mut changes = Vec::new();
    // These types always serialize: nothing in them can refuse.
    if let (Ok(old), Ok(new)) = (serde_json::to_value(old), serde_json::to_value(new)) {
        compare("", &old, &new, &mut changes);
    }
    changes
}

fn compare(key: &str, old: &Value, new: &Value, changes: &mut Vec<Change>) {
    if old == new {
        return;
    }
    match (old, new) {
        (Value::Object(before), Value::Object(after)) => {
            let gone = before.keys().filter(|name| !after.contains_key(*name));
            for name in after.keys().chain(gone) {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                let of = |map: &serde_json::Map<String, Value>| map.get(name).cloned().unwrap_or(Value::Null);
                compare(&key, &of(before), &of(after), changes);
            }
        }
        (Value::Array(before), Value::Array(after)) if before.iter().chain(after).all(Value::is_object) => {
            entries(key, before, after, changes);
        }
        _ => changes.push(Change { key: key.to_owned(), old: show(old), new: show(new) }),
    }
}

fn entries(key: &str, before: &[Value], after: &[Value], changes: &mut Vec<Change>) {
    let same = before.iter().zip(after).take_while(|(old, new)| old == new).count();
    let (old, new) = (before.get(same..).unwrap_or(&[]), after.get(same..).unwrap_or(&[]));
    let behind = old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| old == new).count();
    let (old, new) =
        (old.get(..old.len() - behind).unwrap_or(&[]), new.get(..new.len() - behind).unwrap_or(&[]));
    for index in 0..old.len().max(new.len()) {
        let key = format!("{key}[{}]", same + index);
        match (old.get(index), new.get(index)) {
            (Some(old), Some(new)) => compare(&key, old, new, changes),
            (old, new) => {
                let show = |entry: Option<&Value>| entry.map_or_else(|| UNSET.to_owned(), show);
                changes.push(Change { key, old: show(old), new: show(new) });
            }
        }
    }
}

/// A value for people: short, without secrets, without what steers a terminal.
fn show(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    let mut shown = String::new();
    for (nth, c) in text.chars().enumerate() {
        if nth == SHOWN {
            shown.push('…');
            break;
        }
        let steers = c.is_control()
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
        if steers { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    shown
}

fn write(value: &Value, to: &mut String) {
    match value {
        Value::Null => to.push_str(UNSET),
        Value::Bool(_) | Value::Number(_) => to.push_str(&value.to_string()),
        Value::String(text) if text.is_empty() => to.push_str("\"\""),
        Value::String(text) => to.push_str(&without_credentials(text)),
        Value::Array(items) => {
            to.push('[');
            for (nth, item) in items.iter().enumerate() {
                if nth > 0 {
                    to.push_str(", ");
                }
                write(item, to);
                // A list may have ten thousand entries, of which nobody will see the rest.
                if to.len() > SHOWN * 4 {
                    return;
                }
            }
            to.push(']');
        }
        Value::Object(map) => {
            to.push('{');
            for (nth, (key, value)) in map.iter().filter(|(_, value)| !value.is_null()).enumerate() {
                if nth > 0 {
                    to.push_str(", ");
                }
                to.push_str(key);
                to.push_str(": ");
                write(value, to);
            }
            to.push('}');
        }
    }
}

/// A URL without user, password and query, where secrets stand.
fn without_credentials(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end).unwrap_or((rest, ""));
    let host = match authority.rsplit_once('@') {
        Some((_, host)) => format!("***@{host}"),
        None => authority.to_owned(),
    };
    match path.split_once(['?', '#']) {
        Some((path, _)) => format!("{scheme}://{host}{path}?***"),
        None => format!("{scheme}://{host}{path}"),
    }
}

#[cfg(test)]
mod tests;
