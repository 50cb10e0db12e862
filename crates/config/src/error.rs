//! What can be wrong with a configuration, and where.

use std::fmt;

use crate::yaml::Node;

/// Problems shown by `Display`; the rest is counted.
const SHOWN: usize = 20;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file or the environment holds something that is not accepted.
    #[error("{}", List(.0))]
    Invalid(Vec<Problem>),
}

impl ConfigError {
    /// The problems one by one; none when the file could not be read.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Read { .. } => &[],
            Self::Invalid(problems) => problems,
        }
    }
}

/// A place in a file; line and column count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// As given by the caller.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
}

/// One thing that is wrong. `Display` is a single line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where, unless it comes from the environment or from flags.
    pub place: Option<Place>,
    /// The key (`routing.rules[2].path`) or the variable (`STATS_INTERVAL`).
    pub key: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl Problem {
    pub(crate) fn new(key: impl Into<String>, message: impl fmt::Display) -> Self {
        Self { place: None, key: key.into(), message: message.to_string() }
    }

    /// Looks up the place of the key, or of the nearest key around it that was written.
    pub(crate) fn locate(mut self, root: &Node, file: &str) -> Self {
        let (line, column) = root.nearest(&self.key);
        self.place = Some(Place { file: file.to_owned(), line, column });
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{}:{}:{}: ", printable(&place.file), place.line, place.column)?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", printable(&self.key))?;
        }
        f.write_str(&printable(&self.message))
    }
}

/// Text from files goes to terminals and logs: no control characters, no endless lines.
fn printable(text: &str) -> String {
    text.chars().take(600).map(|it| if it.is_control() { '\u{fffd}' } else { it }).collect()
}

struct List<'a>(&'a [Problem]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, problem) in self.0.iter().take(SHOWN).enumerate() {
            if nth > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        match self.0.len().checked_sub(SHOWN) {
            Some(more @ 1..) => write!(f, "\n… and {more} more"),
            _ => Ok(()),
        }
    }
}
