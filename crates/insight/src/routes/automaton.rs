//! All complex patterns of one domain in a single automaton.
//!
//! A dense table is built when it fits the budget. Sets of patterns exist whose table grows exponentially
//! (`/**/a/**`, `/**/b/**`, …), so otherwise states are built lazily in a cache of bounded size: slower,
//! but never larger, and still linear in the path.

use std::fmt;

use regex_automata::dfa::{Automaton as _, StartKind, dense};
use regex_automata::hybrid;
use regex_automata::nfa::thompson::{self, NFA};
use regex_automata::util::pool::Pool;
use regex_automata::util::primitives::StateID;
use regex_automata::{Anchored, Input, MatchKind};
use regex_syntax::hir::Hir;

use super::{Rank, RouteProblem};

/// NFA of all patterns of one domain.
const MAX_NFA_BYTES: usize = 32 << 20;
/// Scratch memory for building one table.
const MAX_DETERMINIZE_BYTES: usize = 4 << 20;
/// Cache of one lazily built automaton, per thread that uses it at the same time.
const LAZY_CACHE_BYTES: usize = 2 << 20;

/// Memory left for the dense tables of one rule set.
pub(super) struct Budget {
    dense_bytes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { dense_bytes: 8 << 20 }
    }
}

type Caches = Pool<hybrid::dfa::Cache, Box<dyn Fn() -> hybrid::dfa::Cache + Send + Sync>>;

pub(super) struct Automaton {
    machine: Machine,
    /// Pattern number to rank; rising, so the first pattern of a match state is the best one.
    ranks: Vec<Rank>,
}

enum Machine {
    Dense { dfa: Box<dense::DFA<Vec<u32>>>, start: StateID },
    Lazy { dfa: std::sync::Arc<hybrid::dfa::DFA>, caches: Box<Caches> },
}

impl fmt::Debug for Automaton {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Automaton")
            .field("patterns", &self.ranks.len())
            .field("lazy", &self.is_lazy())
            .finish()
    }
}

impl Automaton {
    /// `patterns` match whole paths and come in rising order of rank. `None` without patterns.
    pub(super) fn new(patterns: Vec<(Hir, Rank)>, budget: &mut Budget) -> Result<Option<Self>, RouteProblem> {
        if patterns.is_empty() {
            return Ok(None);
        }
        let (hirs, ranks): (Vec<Hir>, Vec<Rank>) = patterns.into_iter().unzip();
        let nfa = thompson::Compiler::new()
            .configure(thompson::Config::new().utf8(false).nfa_size_limit(Some(MAX_NFA_BYTES)))
            .build_many_from_hir(&hirs)
            .map_err(|_| RouteProblem::TooLarge)?;
        let machine = match dense(&nfa, budget) {
            Some(machine) => machine,
            None => lazy(nfa)?,
        };
        Ok(Some(Self { machine, ranks }))
    }

    /// Whether the dense table did not fit.
    pub(super) fn is_lazy(&self) -> bool {
        matches!(self.machine, Machine::Lazy { .. })
    }

    /// The best rank there is to find.
    pub(super) fn lowest(&self) -> Option<Rank> {
        self.ranks.first().copied()
    }

    pub(super) fn find(&self, path: &[u8]) -> Option<Rank> {
        let pattern = match &self.machine {
            Machine::Dense { dfa, start } => run_dense(dfa, *start, path)?,
            Machine::Lazy { dfa, caches } => run_lazy(dfa, &mut caches.get(), path)?,
        };
        self.ranks.get(pattern).copied()
    }
}

fn anchored() -> Input<'static> {
    Input::new(&[]).anchored(Anchored::Yes)
}

fn dense(nfa: &NFA, budget: &mut Budget) -> Option<Machine> {
    let config = dense::Config::new()
        .match_kind(MatchKind::All)
        .start_kind(StartKind::Anchored)
        .accelerate(false)
        .dfa_size_limit(Some(budget.dense_bytes))
        .determinize_size_limit(Some(MAX_DETERMINIZE_BYTES));
    let dfa = dense::Builder::new().configure(config).build_from_nfa(nfa).ok()?;
    let start = dfa.start_state_forward(&anchored()).ok()?;
    budget.dense_bytes = budget.dense_bytes.saturating_sub(dfa.memory_usage());
    Some(Machine::Dense { dfa: Box::new(dfa), start })
}

fn lazy(nfa: NFA) -> Result<Machine, RouteProblem> {
    let config = hybrid::dfa::Config::new()
        .match_kind(MatchKind::All)
        .cache_capacity(LAZY_CACHE_BYTES)
        .skip_cache_capacity_check(true);
    let built = hybrid::dfa::Builder::new().configure(config).build_from_nfa(nfa);
    let dfa = std::sync::Arc::new(built.map_err(|_| RouteProblem::TooLarge)?);
    let for_caches = std::sync::Arc::clone(&dfa);
    let caches: Caches = Pool::new(Box::new(move || for_caches.create_cache()));
    Ok(Machine::Lazy { dfa, caches: Box::new(caches) })
}

/// Patterns match the whole path, so only the state behind the last byte counts.
fn run_dense(dfa: &dense::DFA<Vec<u32>>, start: StateID, path: &[u8]) -> Option<usize> {
    let mut state = start;
    for &byte in path {
        state = dfa.next_state(state, byte);
        if dfa.is_dead_state(state) {
            return None;
        }
    }
    state = dfa.next_eoi_state(state);
    dfa.is_match_state(state).then(|| dfa.match_pattern(state, 0).as_usize())
}

/// A failure is impossible as configured (the cache is cleared, never given up); it reads as "no match".
fn run_lazy(dfa: &hybrid::dfa::DFA, cache: &mut hybrid::dfa::Cache, path: &[u8]) -> Option<usize> {
    let mut state = dfa.start_state_forward(cache, &anchored()).ok()?;
    for &byte in path {
        state = dfa.next_state(cache, state, byte).ok()?;
        if state.is_dead() {
            return None;
        }
    }
    state = dfa.next_eoi_state(cache, state).ok()?;
    state.is_match().then(|| dfa.match_pattern(cache, state, 0).as_usize())
}
