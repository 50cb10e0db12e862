//! Routing rules: which service a request belongs to, told from its host and path.
//!
//! The rules classify and label; nothing is forwarded. A rule applies only when its domain *and* its path
//! match (a rule without one of them accepts anything there). Among the rules that apply the best one is
//! taken, in this order:
//!
//! 1. exact domain and exact path
//! 2. exact domain with a path pattern
//! 3. wildcard domain with a path (pattern or exact)
//! 4. domain alone
//! 5. path alone
//!
//! and inside one of these classes: the lower `priority`, then the longer literal prefix of the path, then
//! the longer literal part of the domain, then the order in the file.
//!
//! That order does not depend on the request, so every rule gets one *rank* when the set is compiled and
//! matching is the search for the lowest rank: a hash lookup for the exact domain, one per label for the
//! wildcards, and for each of the few entries found one hash lookup, one binary search and one run of a
//! table-driven automaton over the path. The number of rules hardly shows in the cost.
//!
//! # Patterns
//!
//! * Domain: `api.example.com`, `*.example.com` (any depth of subdomains, not the apex) or `*` (any host).
//!   Case, the port and one trailing dot are ignored.
//! * Path: without `*` it is exact. `*` at the end takes everything, slashes too, and may be empty:
//!   `/v1/users/*` matches `/v1/users/`, `/v1/users/1` and `/v1/users/1/orders`, but not `/v1/users`.
//!   Elsewhere `*` stays inside one segment, and a `*` that is a whole segment is never empty.
//!   `**` crosses slashes anywhere; `/a/**/b` matches `/a/b` too.
//! * Path starting with `~`: a regular expression on bytes, searched anywhere unless anchored by `^` / `$`.
//!
//! Paths are compared as the raw bytes that were sent: no decoding, no normalisation, no query.

mod automaton;
mod host;
mod pattern;
mod prefixes;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;

use automaton::Automaton;
use host::{DomainPattern, HostBuf};
use pattern::PathPattern;
use prefixes::Prefixes;
use rustc_hash::FxHashMap;

/// Most rules one set may hold.
pub const MAX_RULES: usize = 10_000;
/// Longest path pattern, in bytes.
pub const MAX_PATTERN_BYTES: usize = 1024;
/// Longest service name, in bytes (a DNS name's limit: services are usually named so).
pub const MAX_SERVICE_BYTES: usize = 253;

/// One routing rule as written by the user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// Host name, `*.suffix` or `*`; `None` accepts any request, even one without a host.
    pub domain: Option<String>,
    /// Exact path, glob, or regular expression after `~`; `None` accepts any path.
    pub path: Option<String>,
    /// Name the matching requests are labelled with.
    pub service: String,
    /// Lower wins inside one class of rules.
    pub priority: i32,
}

impl Rule {
    /// Checks this rule by itself, so that a caller can report every bad rule and not only the first.
    pub fn check(&self) -> Result<(), (Field, RouteProblem)> {
        ParsedRule::parse(self).map(drop)
    }
}

/// A service of a compiled set; ids are dense, from 0, in the order of first mention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(u32);

impl ServiceId {
    /// The id as an index into a table with [`Routes::service_count`] entries.
    pub fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// What a request was matched by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteMatch {
    /// The service of the winning rule.
    pub service: ServiceId,
    /// Index of the winning rule in the slice given to [`Routes::compile`].
    pub rule: usize,
}

/// The key of a rule an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// The rule's `domain`.
    Domain,
    /// The rule's `path`.
    Path,
    /// The rule's `service`.
    Service,
    /// The rule as a whole.
    Rule,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Domain => "domain",
            Self::Path => "path",
            Self::Service => "service",
            Self::Rule => "rule",
        })
    }
}

/// What is wrong with a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteProblem {
    /// Neither a domain nor a path.
    #[error("the rule has neither `domain` nor `path`: give one (`path: \"/*\"` takes every request)")]
    Empty,
    /// The domain is no host name and no wildcard we know.
    #[error("bad domain `{domain}`: {why}")]
    Domain {
        /// As written.
        domain: String,
        /// What to do about it.
        why: &'static str,
    },
    /// The path is no usable pattern.
    #[error("bad path `{path}`: {why}")]
    Path {
        /// As written.
        path: String,
        /// What to do about it.
        why: &'static str,
    },
    /// The expression after `~` does not compile or is too large.
    #[error("bad regular expression in path: {0}")]
    Regex(String),
    /// The service's name is empty or too long.
    #[error("the service needs a name of 1 to {MAX_SERVICE_BYTES} bytes")]
    Service,
    /// More than [`MAX_RULES`].
    #[error("{0} rules are too many: {MAX_RULES} at most")]
    TooMany(usize),
    /// All patterns together exceed the memory the matcher may take.
    #[error("the patterns together are too large: fewer or simpler regular expressions are needed")]
    TooLarge,
}

/// A rule that cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("routing rule {}: {problem}", rule + 1)]
pub struct RouteError {
    /// Index of the rule in the slice given, from 0.
    pub rule: usize,
    /// The key of the rule that is wrong.
    pub field: Field,
    /// What is wrong.
    pub problem: RouteProblem,
}

/// Position in the order of preference; the lowest matching one wins.
type Rank = u32;

/// A compiled set of rules. Cheap to match against, immutable, shareable between threads.
#[derive(Debug, Default)]
pub struct Routes {
    // The fast hash is safe here: requests look up, only the configuration inserts.
    exact_domains: FxHashMap<Box<[u8]>, Entry>,
    /// Keyed by the part after `*.`; the empty key is `*`.
    wildcard_domains: FxHashMap<Box<[u8]>, Entry>,
    /// Most labels any wildcard key has: a longer tail of a host cannot match and is not looked up.
    wildcard_labels: usize,
    any_domain: Entry,
    /// Indexed by rank.
    ranked: Vec<RouteMatch>,
    services: Vec<String>,
}

/// The rules of one domain.
#[derive(Debug, Default)]
struct Entry {
    /// The best rank any rule of this entry has.
    lowest: Option<Rank>,
    /// The best rule without a path.
    alone: Option<Rank>,
    exact: FxHashMap<Box<[u8]>, Rank>,
    prefixes: Prefixes,
    automaton: Option<Automaton>,
}

impl Routes {
    /// Compiles rules; their order in the slice is their order in the file.
    pub fn compile(rules: &[Rule]) -> Result<Self, RouteError> {
        if rules.len() > MAX_RULES {
            let problem = RouteProblem::TooMany(rules.len());
            return Err(RouteError { rule: MAX_RULES, field: Field::Rule, problem });
        }
        let mut parsed = Vec::with_capacity(rules.len());
        for (index, rule) in rules.iter().enumerate() {
            let one = ParsedRule::parse(rule).map_err(|(field, problem)| RouteError {
                rule: index,
                field,
                problem,
            })?;
            parsed.push((index, rule, one));
        }
        // A stable sort leaves the file's order as the last criterion.
        parsed.sort_by_key(|(_, rule, one)| one.order(rule.priority));

        let mut routes = Self::default();
        let mut ids: HashMap<&str, ServiceId> = HashMap::new();
        for rule in rules {
            let next = ServiceId(u32::try_from(ids.len()).unwrap_or(u32::MAX));
            if let std::collections::hash_map::Entry::Vacant(slot) = ids.entry(rule.service.as_str()) {
                slot.insert(next);
                routes.services.push(rule.service.clone());
            }
        }

        let mut builders = Builders::default();
        for (rank, (index, rule, one)) in (0..).zip(parsed) {
            let Some(&service) = ids.get(rule.service.as_str()) else {
                continue;
            };
            routes.ranked.push(RouteMatch { service, rule: index });
            builders.add(rank, index, one);
        }
        builders.finish(&mut routes)?;
        Ok(routes)
    }

    /// The winning rule for a request, or `None` if no rule applies.
    ///
    /// `host` is the raw `Host` value (a port and a trailing dot are ignored; empty when there was none);
    /// `path` is the raw path without its query.
    pub fn find(&self, host: &[u8], path: &[u8]) -> Option<RouteMatch> {
        let mut best = None;
        let needs_host = !self.exact_domains.is_empty() || !self.wildcard_domains.is_empty();
        if needs_host && let Some(host) = HostBuf::normalise(host) {
            let host = host.as_bytes();
            if let Some(entry) = self.exact_domains.get(host) {
                entry.search(path, &mut best);
            }
            if !self.wildcard_domains.is_empty() {
                for tail in host::tails(host, self.wildcard_labels) {
                    if let Some(entry) = self.wildcard_domains.get(tail) {
                        entry.search(path, &mut best);
                    }
                }
            }
        }
        self.any_domain.search(path, &mut best);
        self.ranked.get(usize::try_from(best?).ok()?).copied()
    }

    /// The service of a request; see [`Self::find`].
    pub fn service(&self, host: &[u8], path: &[u8]) -> Option<ServiceId> {
        self.find(host, path).map(|found| found.service)
    }

    /// The name of a service of this set; empty for an id of another set.
    pub fn name(&self, id: ServiceId) -> &str {
        self.services.get(id.index()).map_or("", String::as_str)
    }

    /// All services with their ids, in the order of first mention.
    pub fn services(&self) -> impl Iterator<Item = (ServiceId, &str)> {
        (0..).map(ServiceId).zip(self.services.iter().map(String::as_str))
    }

    /// How many services there are.
    pub fn service_count(&self) -> usize {
        self.services.len()
    }

    /// Whether there is no rule at all.
    pub fn is_empty(&self) -> bool {
        self.ranked.is_empty()
    }
}

impl Entry {
    /// Lowers `best` to the best rank of this entry for `path`; what cannot improve it is not searched.
    fn search(&self, path: &[u8], best: &mut Option<Rank>) {
        let useful = |lowest: Option<Rank>, best: &Option<Rank>| {
            lowest.is_some_and(|lowest| best.is_none_or(|known| lowest < known))
        };
        if !useful(self.lowest, best) {
            return;
        }
        let mut take = |found: Option<Rank>| {
            if useful(found, best) {
                *best = found;
            }
            *best
        };
        take(self.alone);
        if !self.exact.is_empty() {
            take(self.exact.get(path).copied());
        }
        let known = take(self.prefixes.find(path));
        if let Some(automaton) = &self.automaton
            && useful(automaton.lowest(), &known)
        {
            take(automaton.find(path));
        }
    }
}

/// A rule taken apart.
struct ParsedRule {
    domain: DomainPattern,
    path: PathPattern,
}

impl ParsedRule {
    fn parse(rule: &Rule) -> Result<Self, (Field, RouteProblem)> {
        if rule.service.is_empty() || rule.service.len() > MAX_SERVICE_BYTES {
            return Err((Field::Service, RouteProblem::Service));
        }
        if rule.domain.is_none() && rule.path.is_none() {
            return Err((Field::Rule, RouteProblem::Empty));
        }
        let domain = DomainPattern::parse(rule.domain.as_deref()).map_err(|why| {
            let domain = rule.domain.clone().unwrap_or_default();
            (Field::Domain, RouteProblem::Domain { domain, why })
        })?;
        let path = PathPattern::parse(rule.path.as_deref()).map_err(|problem| (Field::Path, problem))?;
        Ok(Self { domain, path })
    }

    /// The sort key of the ruling; the file's order follows from a stable sort.
    fn order(&self, priority: i32) -> (u8, i32, std::cmp::Reverse<usize>, std::cmp::Reverse<usize>) {
        let class = match (&self.domain, &self.path) {
            (DomainPattern::Exact(_), PathPattern::Exact(_)) => 0,
            (DomainPattern::Exact(_), PathPattern::Prefix(_) | PathPattern::Hir { .. }) => 1,
            (
                DomainPattern::Wildcard(_),
                PathPattern::Exact(_) | PathPattern::Prefix(_) | PathPattern::Hir { .. },
            ) => 2,
            (DomainPattern::Exact(_) | DomainPattern::Wildcard(_), PathPattern::Any) => 3,
            (DomainPattern::Any, _) => 4,
        };
        let literal = std::cmp::Reverse(self.path.literal_prefix());
        (class, priority, literal, std::cmp::Reverse(self.domain.literal_len()))
    }
}

/// Entries while they are collected: automata are built once all patterns of a domain are known.
#[derive(Default)]
struct Builders {
    exact: HashMap<Box<[u8]>, EntryBuilder>,
    wildcard: HashMap<Box<[u8]>, EntryBuilder>,
    any: EntryBuilder,
}

#[derive(Default)]
struct EntryBuilder {
    entry: Entry,
    prefixes: Vec<(Box<[u8]>, Rank)>,
    /// In rising order of rank, as rules are added in that order.
    complex: Vec<(regex_syntax::hir::Hir, Rank)>,
    /// A rule to name should the automaton not fit.
    last_rule: usize,
}

impl Builders {
    fn add(&mut self, rank: Rank, rule: usize, parsed: ParsedRule) {
        let builder = match parsed.domain {
            DomainPattern::Exact(name) => self.exact.entry(name).or_default(),
            DomainPattern::Wildcard(suffix) => self.wildcard.entry(suffix).or_default(),
            DomainPattern::Any => &mut self.any,
        };
        // Rules come best first, so whatever is already there stays.
        builder.entry.lowest.get_or_insert(rank);
        match parsed.path {
            PathPattern::Any => {
                builder.entry.alone.get_or_insert(rank);
            }
            PathPattern::Exact(path) => {
                builder.entry.exact.entry(path).or_insert(rank);
            }
            PathPattern::Prefix(prefix) => builder.prefixes.push((prefix, rank)),
            PathPattern::Hir { hir, .. } => {
                builder.complex.push((hir, rank));
                builder.last_rule = rule;
            }
        }
    }

    fn finish(self, routes: &mut Routes) -> Result<(), RouteError> {
        let mut budget = automaton::Budget::default();
        routes.any_domain = self.any.finish(&mut budget)?;
        for (name, builder) in self.exact {
            routes.exact_domains.insert(name, builder.finish(&mut budget)?);
        }
        for (suffix, builder) in self.wildcard {
            routes.wildcard_labels = routes.wildcard_labels.max(host::label_count(&suffix));
            routes.wildcard_domains.insert(suffix, builder.finish(&mut budget)?);
        }
        Ok(())
    }
}

impl EntryBuilder {
    fn finish(self, budget: &mut automaton::Budget) -> Result<Entry, RouteError> {
        let mut entry = self.entry;
        entry.prefixes = Prefixes::new(self.prefixes);
        entry.automaton = Automaton::new(self.complex, budget).map_err(|problem| RouteError {
            rule: self.last_rule,
            field: Field::Path,
            problem,
        })?;
        Ok(entry)
    }
}
