//! YAML text to a small tree that remembers where everything stands.
//!
//! The file may come from anyone who may write a ConfigMap, so size, depth and number of nodes are bounded
//! while reading; an alias counts as all it stands for, so that bombs end after a few thousand nodes.

use std::borrow::Cow;
use std::collections::HashMap;

use granit_parser::{ErrorKind, Event, Options, Parser, ScalarStyle, ScanError, Span};

use crate::error::{Place, Problem};

/// Largest file, in bytes.
pub const MAX_FILE_BYTES: usize = 1 << 20;
const MAX_DEPTH: usize = 16;
/// Enough for 10,000 routing rules with four keys each.
const MAX_NODES: usize = 150_000;

/// A value with its place.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) kind: Kind,
    /// Nodes in this one, itself included.
    size: usize,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// `plain` means unquoted: only then `true`, `12` and `~` are more than text.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) text: String,
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl Node {
    fn new(span: &Span, kind: Kind) -> Self {
        Self { line: span.start.line(), column: span.start.col() + 1, kind, size: 1 }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    pub(crate) fn entry(&self, key: &str) -> Option<&(Key, Self)> {
        match &self.kind {
            Kind::Map(entries) => entries.iter().find(|(it, _)| it.text == key),
            Kind::List(_) | Kind::Scalar { .. } => None,
        }
    }

    /// Line and column of a key such as `routing.rules[2].path`, or of the innermost part that exists.
    pub(crate) fn nearest(&self, path: &str) -> (usize, usize) {
        let mut node = self;
        let mut place = (self.line, self.column);
        for part in path.split(['.', '[']) {
            let next = match (part.strip_suffix(']'), &node.kind) {
                (Some(index), Kind::List(items)) => {
                    let index: Option<usize> = index.parse().ok();
                    index.and_then(|index| items.get(index))
                }
                _ => node.entry(part).map(|(_, value)| value),
            };
            let Some(next) = next else { break };
            node = next;
            place = (node.line, node.column);
        }
        place
    }
}

/// A collection that is being read.
struct Open {
    node: Node,
    anchor: usize,
    key: Option<Key>,
}

struct Reader<'a> {
    file: &'a str,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    root: Option<Node>,
}

/// An empty file is an empty mapping.
pub(crate) fn parse(text: &str, file: &str) -> Result<Node, Problem> {
    let mut reader = Reader { file, open: Vec::new(), anchors: HashMap::new(), nodes: 0, root: None };
    if text.len() > MAX_FILE_BYTES {
        return Err(reader.problem(1, 1, "the file is larger than 1 MiB: a configuration never is"));
    }
    let mut options = Options::default();
    options.flow_nesting_limit = MAX_DEPTH * 2;
    options.block_nesting_limit = MAX_DEPTH * 2;
    options.set_emit_comments(false);
    for event in Parser::new_from_str_with_options(text, options) {
        match event {
            Ok((event, span)) => reader.event(event, &span)?,
            Err(error) => {
                let (line, column) = (error.marker().line(), error.marker().col() + 1);
                return Err(reader.problem(line, column, &why(&error)));
            }
        }
    }
    let empty = Node { line: 1, column: 1, kind: Kind::Map(Vec::new()), size: 1 };
    Ok(reader.root.filter(|root| !root.is_null()).unwrap_or(empty))
}

/// The parser reads ahead, so its own bound on depth may be met before ours.
fn why(error: &ScanError) -> String {
    if matches!(error.kind(), ErrorKind::RecursionLimitExceeded) {
        return "nested too deeply".to_owned();
    }
    format!("not valid YAML: {}", error.info())
}

impl Reader<'_> {
    fn problem(&self, line: usize, column: usize, message: &str) -> Problem {
        let place = Place { file: self.file.to_owned(), line, column };
        Problem { place: Some(place), key: String::new(), message: message.to_owned() }
    }

    fn refuse(&self, span: &Span, message: &str) -> Result<(), Problem> {
        Err(self.problem(span.start.line(), span.start.col() + 1, message))
    }

    fn event(&mut self, event: Event<'_>, span: &Span) -> Result<(), Problem> {
        // `!!str` and its kind say what we know; anything else asks for a type we do not have.
        if event.tag().is_some_and(|tag| tag.core_suffix().is_none()) {
            let at = span.tag_start().unwrap_or(span.start);
            return Err(self.problem(at.line(), at.col() + 1, "tags (`!name`) are not supported: remove it"));
        }
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let plain = matches!(style, ScalarStyle::Plain);
                self.value(Node::new(span, Kind::Scalar { text: Cow::into_owned(text), plain }), anchor, span)
            }
            Event::SequenceStart(_, anchor, _) => {
                self.start(Node::new(span, Kind::List(Vec::new())), anchor, span)
            }
            Event::MappingStart(_, anchor, _) => {
                self.start(Node::new(span, Kind::Map(Vec::new())), anchor, span)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(done) => self.close(done, span),
                None => Ok(()),
            },
            Event::Alias(id) => match self.anchors.get(&id) {
                Some(node) => {
                    self.nodes = self.nodes.saturating_add(node.size);
                    if self.nodes > MAX_NODES {
                        return self.refuse(span, "the aliases expand to too many values: write them out");
                    }
                    let mut copy = node.clone();
                    (copy.line, copy.column) = (span.start.line(), span.start.col() + 1);
                    self.attach(copy, span)
                }
                None => self.refuse(span, "this alias stands inside what it names"),
            },
            Event::UnresolvedAlias(_) => self.refuse(span, "no such anchor"),
            Event::DocumentStart(..) if self.root.is_some() => {
                self.refuse(span, "a second document begins here: one file holds one configuration")
            }
            Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(..)
            | Event::DocumentEnd
            | Event::Anchor(..)
            | _ => Ok(()),
        }
    }

    fn start(&mut self, node: Node, anchor: usize, span: &Span) -> Result<(), Problem> {
        if self.open.len() >= MAX_DEPTH {
            return self.refuse(span, "nested too deeply");
        }
        if matches!(node.kind, Kind::Map(_) | Kind::List(_)) && self.expects_key() {
            return self.refuse(span, "a key must be a plain word");
        }
        self.count(span)?;
        self.open.push(Open { node, anchor, key: None });
        Ok(())
    }

    fn value(&mut self, node: Node, anchor: usize, span: &Span) -> Result<(), Problem> {
        self.count(span)?;
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        self.attach(node, span)
    }

    fn close(&mut self, done: Open, span: &Span) -> Result<(), Problem> {
        if done.anchor > 0 {
            // The copy counts as well: it is kept.
            self.nodes = self.nodes.saturating_add(done.node.size);
            self.anchors.insert(done.anchor, done.node.clone());
        }
        self.attach(done.node, span)
    }

    fn count(&mut self, span: &Span) -> Result<(), Problem> {
        self.nodes = self.nodes.saturating_add(1);
        if self.nodes > MAX_NODES { self.refuse(span, "the file holds too many values") } else { Ok(()) }
    }

    fn expects_key(&self) -> bool {
        self.open.last().is_some_and(|open| matches!(open.node.kind, Kind::Map(_)) && open.key.is_none())
    }

    /// Puts a finished node where it belongs.
    fn attach(&mut self, node: Node, span: &Span) -> Result<(), Problem> {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        if let Kind::List(items) = &mut open.node.kind {
            open.node.size = open.node.size.saturating_add(node.size);
            items.push(node);
            return Ok(());
        }
        match (open.key.take(), &mut open.node.kind) {
            (Some(key), Kind::Map(entries)) => {
                open.node.size = open.node.size.saturating_add(node.size);
                entries.push((key, node));
                Ok(())
            }
            (None, Kind::Map(entries)) => {
                let Kind::Scalar { text, .. } = node.kind else {
                    return self.refuse(span, "a key must be a plain word");
                };
                if text == "<<" {
                    return self.refuse(span, "merge keys (`<<`) are not supported: write the keys out");
                }
                // Our sections are small; a mapping large enough to make this slow has only unknown keys.
                if let Some((first, _)) = entries.iter().take(100).find(|(key, _)| key.text == text) {
                    let message = format!("the key `{text}` is here twice, first in line {}", first.line);
                    return self.refuse(span, &message);
                }
                open.key = Some(Key { text, line: node.line, column: node.column });
                Ok(())
            }
            (_, Kind::List(_) | Kind::Scalar { .. }) => Ok(()),
        }
    }
}
