//! The path of a rule: sorted into the cheapest form that can match it.

use regex_automata::nfa::thompson;
use regex_syntax::hir::literal::{ExtractKind, Extractor};
use regex_syntax::hir::{Class, ClassBytes, ClassBytesRange, Dot, Hir, Look, Repetition};

use super::{MAX_PATTERN_BYTES, RouteProblem};

/// What one expression may take as an NFA: `(a{500}){500}` is refused here, before any table is built.
const MAX_REGEX_NFA_BYTES: usize = 1 << 20;
/// Groups inside groups; the parser and compiler recurse.
const MAX_REGEX_NESTING: u32 = 64;

#[derive(Debug)]
pub(super) enum PathPattern {
    /// No path given.
    Any,
    Exact(Box<[u8]>),
    /// A literal with one trailing `*`: by far the most frequent glob.
    Prefix(Box<[u8]>),
    /// Everything else, matching the whole path.
    Hir {
        hir: Hir,
        literal_prefix: usize,
    },
}

impl PathPattern {
    pub(super) fn parse(path: Option<&str>) -> Result<Self, RouteProblem> {
        let Some(path) = path else { return Ok(Self::Any) };
        let refuse = |why| Err(RouteProblem::Path { path: path.chars().take(80).collect(), why });
        if path.len() > MAX_PATTERN_BYTES {
            return refuse("it is longer than 1024 bytes");
        }
        if let Some(expression) = path.strip_prefix('~') {
            return parse_regex(expression);
        }
        if !path.starts_with(['/', '*']) {
            return refuse("a path starts with `/` (or with `~` when it is a regular expression)");
        }
        if path.contains(['?', '#']) {
            return refuse("rules see the path without its query: remove `?` and what follows");
        }
        if !path.contains('*') {
            return Ok(Self::Exact(path.as_bytes().into()));
        }
        let literal = path.trim_end_matches('*');
        if !literal.contains('*') {
            return Ok(Self::Prefix(literal.as_bytes().into()));
        }
        if path.starts_with('*') && !path.starts_with("**") {
            return refuse("a single `*` stays inside one segment: begin with `/` or `**`");
        }
        let literal_prefix = path.find('*').unwrap_or(0);
        Ok(Self::Hir { hir: glob(path.as_bytes()), literal_prefix })
    }

    /// Bytes before the first place where anything may stand.
    pub(super) fn literal_prefix(&self) -> usize {
        match self {
            Self::Any => 0,
            Self::Exact(literal) | Self::Prefix(literal) => literal.len(),
            Self::Hir { literal_prefix, .. } => *literal_prefix,
        }
    }
}

/// A glob as an expression over the whole path; see the module `routes` for what the stars mean.
fn glob(pattern: &[u8]) -> Hir {
    let mut parts = Vec::new();
    let mut rest = pattern;
    let mut before = None;
    while let Some(&first) = rest.first() {
        if first != b'*' {
            let end = rest.iter().position(|&byte| byte == b'*').unwrap_or(rest.len());
            let (literal, tail) = rest.split_at_checked(end).unwrap_or((rest, &[]));
            before = literal.last().copied();
            parts.push(Hir::literal(literal));
            rest = tail;
            continue;
        }
        let stars = rest.iter().take_while(|&&byte| byte == b'*').count();
        let tail = rest.get(stars..).unwrap_or_default();
        let whole_segment = before == Some(b'/') && tail.first() == Some(&b'/');
        rest = tail;
        parts.push(match (stars, whole_segment) {
            // `/**/` may also be a single slash: the second one belongs to what is optional.
            (2.., true) => {
                rest = tail.get(1..).unwrap_or_default();
                optional(Hir::concat(vec![any_bytes(), Hir::literal(*b"/")]))
            }
            (2.., false) => any_bytes(),
            (_, _) if tail.is_empty() => any_bytes(),
            (_, true) => repeat(segment_byte(), 1),
            (_, false) => repeat(segment_byte(), 0),
        });
        // After `/**/` the next part starts behind a slash.
        before = if stars > 1 && whole_segment { Some(b'/') } else { Some(b'*') };
    }
    Hir::concat(parts)
}

fn parse_regex(expression: &str) -> Result<PathPattern, RouteProblem> {
    let refuse = |error: &dyn std::fmt::Display| RouteProblem::Regex(one_line(&error.to_string()));
    // Bytes, not characters: a path may hold anything, and automata over bytes stay small.
    let hir = regex_syntax::ParserBuilder::new()
        .unicode(false)
        .utf8(false)
        .nest_limit(MAX_REGEX_NESTING)
        .build()
        .parse(expression)
        .map_err(|error| refuse(&error))?;
    thompson::Compiler::new()
        .configure(thompson::Config::new().utf8(false).nfa_size_limit(Some(MAX_REGEX_NFA_BYTES)))
        .build_from_hir(&hir)
        .map_err(|error| refuse(&error))?;
    let anchored = hir.properties().look_set_prefix().contains(Look::Start);
    let literal_prefix = if anchored {
        let literals = Extractor::new().kind(ExtractKind::Prefix).extract(&hir);
        literals.longest_common_prefix().map_or(0, <[u8]>::len)
    } else {
        0
    };
    // The automaton matches whole paths; an expression is searched for, so anything may surround it.
    let hir = Hir::concat(vec![any_bytes(), hir, any_bytes()]);
    Ok(PathPattern::Hir { hir, literal_prefix })
}

/// The parser draws its message over several lines; the last one says what is wrong.
fn one_line(message: &str) -> String {
    let last = message.lines().rfind(|line| !line.trim().is_empty()).unwrap_or(message).trim();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

fn any_bytes() -> Hir {
    repeat(Hir::dot(Dot::AnyByte), 0)
}

fn segment_byte() -> Hir {
    let ranges = [ClassBytesRange::new(0, b'/' - 1), ClassBytesRange::new(b'/' + 1, 255)];
    Hir::class(Class::Bytes(ClassBytes::new(ranges)))
}

fn repeat(hir: Hir, min: u32) -> Hir {
    Hir::repetition(Repetition { min, max: None, greedy: true, sub: Box::new(hir) })
}

fn optional(hir: Hir) -> Hir {
    Hir::repetition(Repetition { min: 0, max: Some(1), greedy: true, sub: Box::new(hir) })
}
