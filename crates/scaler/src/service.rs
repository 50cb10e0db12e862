//! Which Service is meant.

use std::fmt;

/// The longest name of a namespace or Service: a DNS label.
const NAME_MAX: usize = 63;

/// A Service's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Service {
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its name in there.
    pub name: Box<str>,
}

impl Service {
    /// The Service of these names, if they can be names.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Option<Self> {
        (is_label(namespace) && is_label(name))
            .then(|| Self { namespace: namespace.into(), name: name.into() })
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

fn is_label(name: &str) -> bool {
    let good = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-';
    (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(good)
}
