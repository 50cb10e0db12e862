//! Serde over the tree, made to find every error and not only the first.
//!
//! Serde stops at the first error. So an offending value is reported, cut from the tree, and the rest is
//! read again (every key has a default), until nothing is wrong or enough has been listed.

use std::fmt;

use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use crate::error::{Place, Problem};
use crate::yaml::{Kind, Node};

/// Errors listed before the reading ends.
const MAX_PROBLEMS: usize = 25;

/// Reads a tree; with problems, the value holds defaults in the places of what was wrong.
pub(crate) fn read<T: DeserializeOwned + Default>(root: &Node, file: &str) -> (T, Vec<Problem>) {
    let mut problems: Vec<Problem> = Vec::new();
    let mut tree = root.clone();
    loop {
        let error = match T::deserialize(&tree) {
            Ok(value) => return (value, problems),
            Err(error) => error,
        };
        let (line, column) = error.place.unwrap_or((tree.line, tree.column));
        let key = error.path.iter().rev().fold(String::new(), |key, step| match step {
            Step::Key(name) if key.is_empty() => name.clone(),
            Step::Key(name) => format!("{key}.{name}"),
            Step::Index(index) => format!("{key}[{index}]"),
        });
        problems.push(Problem {
            place: Some(Place { file: file.to_owned(), line, column }),
            key,
            message: error.message,
        });
        let path: Vec<&Step> = error.path.iter().rev().collect();
        if problems.len() >= MAX_PROBLEMS || !cut(&mut tree, &path) {
            return (T::default(), problems);
        }
    }
}

/// Removes what stands at a path; false when it is the root itself.
fn cut(node: &mut Node, path: &[&Step]) -> bool {
    match (path, &mut node.kind) {
        ([Step::Key(name)], Kind::Map(entries)) => {
            let before = entries.len();
            entries.retain(|(key, _)| key.text != *name);
            entries.len() < before
        }
        ([Step::Index(index)], Kind::List(items)) if *index < items.len() => {
            // Emptied rather than removed: the indices of the others are part of what is reported.
            items.get_mut(*index).is_some_and(|item| {
                let known = item.is_removed();
                item.kind = removed();
                !known
            })
        }
        ([Step::Key(name), rest @ ..], Kind::Map(entries)) => {
            entries.iter_mut().find(|(key, _)| key.text == *name).is_some_and(|(_, value)| cut(value, rest))
        }
        ([Step::Index(index), rest @ ..], Kind::List(items)) => {
            items.get_mut(*index).is_some_and(|item| cut(item, rest))
        }
        _ => false,
    }
}

/// A mark no file can hold: a quoted text is never `plain`, a plain one never holds NUL.
fn removed() -> Kind {
    Kind::Scalar { text: "\0".to_owned(), plain: true }
}

impl Node {
    fn is_removed(&self) -> bool {
        matches!(&self.kind, Kind::Scalar { text, plain: true } if text == "\0")
    }
}

#[derive(Debug, Clone)]
enum Step {
    Key(String),
    Index(usize),
}

/// An error on its way up: the innermost level sets the place, each level adds its step.
#[derive(Debug)]
pub(crate) struct Error {
    message: String,
    place: Option<(usize, usize)>,
    /// From the inside out.
    path: Vec<Step>,
}

impl Error {
    fn at(mut self, line: usize, column: usize) -> Self {
        self.place.get_or_insert((line, column));
        self
    }

    fn under(mut self, step: Step) -> Self {
        self.path.push(step);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { message: message.to_string(), place: None, path: Vec::new() }
    }

    fn missing_field(field: &'static str) -> Self {
        Self::custom(format_args!("the key `{field}` is missing"))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format_args!("unknown value `{}`{}", short(variant), suggest(variant, expected)))
    }
}

/// `, did you mean …` for what is near, else all there is.
fn suggest(word: &str, known: &[&str]) -> String {
    let lower = short(word).to_lowercase();
    let near = known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(&lower, known), known))
        .filter(|(distance, known)| *distance <= known.len().max(lower.len()) / 3 + 1)
        .min();
    match near {
        Some((_, known)) => format!(", did you mean `{known}`?"),
        None => format!(", known are: {}", known.join(", ")),
    }
}

/// Enough of a word to recognise it.
fn short(word: &str) -> String {
    word.chars().take(64).collect()
}

fn describe(node: &Node) -> String {
    match &node.kind {
        _ if node.is_null() => "nothing".to_owned(),
        Kind::Scalar { text, .. } => format!("`{}`", short(text)),
        Kind::List(_) => "a list".to_owned(),
        Kind::Map(_) => "a mapping".to_owned(),
    }
}

impl Node {
    fn scalar<'a>(&'a self, expected: &str) -> Result<&'a str, Error> {
        match &self.kind {
            Kind::Scalar { text, .. } if !self.is_null() => Ok(text),
            Kind::Scalar { .. } | Kind::List(_) | Kind::Map(_) => Err(self.wrong(expected)),
        }
    }

    fn wrong(&self, expected: &str) -> Error {
        de::Error::custom(format_args!("expected {expected}, found {}", describe(self)))
    }

    fn number<T: std::str::FromStr>(&self, expected: &str) -> Result<T, Error> {
        self.scalar(expected)?.replace('_', "").parse().map_err(|_| self.wrong(expected))
    }

    fn place<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        result.map_err(|error| error.at(self.line, self.column))
    }
}

macro_rules! number {
    ($($method:ident $visit:ident $type:ty, $expected:expr;)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.place(self.number::<$type>($expected).and_then(|number| visitor.$visit(number)))
        }
    )* };
}

impl<'de> de::Deserializer<'de> for &'de Node {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.place(match &self.kind {
            // Types that take several shapes read scalars as text.
            Kind::Scalar { text, .. } => visitor.visit_borrowed_str(text),
            Kind::List(items) => visitor.visit_seq(List { items, next: 0 }),
            Kind::Map(entries) => visitor.visit_map(Fields { entries, known: None, next: 0, value: None }),
        })
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.place(match self.scalar("true or false") {
            Ok("true" | "True" | "TRUE") => visitor.visit_bool(true),
            Ok("false" | "False" | "FALSE") => visitor.visit_bool(false),
            _ => Err(self.wrong("true or false")),
        })
    }

    number! {
        deserialize_i32 visit_i32 i32, "a whole number (-2147483648 to 2147483647)";
        deserialize_u16 visit_u16 u16, "a whole number (0 to 65535)";
        deserialize_u32 visit_u32 u32, "a whole number (0 to 4294967295)";
        deserialize_u64 visit_u64 u64, "a whole number";
        deserialize_f64 visit_f64 f64, "a number";
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.place(self.scalar("a text").and_then(|text| visitor.visit_borrowed_str(text)))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let expected = format!("one of {}", known.join(", "));
        self.place(self.scalar(&expected).and_then(|text| visitor.visit_enum(text.into_deserializer())))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.place(match &self.kind {
            Kind::List(items) => visitor.visit_seq(List { items, next: 0 }),
            // `filters:` with nothing behind it.
            Kind::Scalar { .. } if self.is_null() => visitor.visit_seq(List { items: &[], next: 0 }),
            Kind::Scalar { .. } | Kind::Map(_) => Err(self.wrong("a list (`- …` lines or `[…, …]`)")),
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.place(match &self.kind {
            Kind::Map(entries) => {
                visitor.visit_map(Fields { entries, known: Some(known), next: 0, value: None })
            }
            Kind::Scalar { .. } if self.is_null() => {
                visitor.visit_map(Fields { entries: &[], known: Some(known), next: 0, value: None })
            }
            Kind::Scalar { .. } | Kind::List(_) => {
                Err(self.wrong(&format!("a mapping with the keys {}", known.join(", "))))
            }
        })
    }

    forward_to_deserialize_any! {
        i8 i16 i64 i128 u8 u128 f32 char bytes byte_buf unit unit_struct newtype_struct tuple
        tuple_struct map identifier ignored_any
    }
}

struct List<'de> {
    items: &'de [Node],
    next: usize,
}

impl<'de> SeqAccess<'de> for List<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        while let Some(item) = self.items.get(self.next) {
            let index = self.next;
            self.next += 1;
            if !item.is_removed() {
                let read = item.place(seed.deserialize(item));
                return read.map(Some).map_err(|error| error.under(Step::Index(index)));
            }
        }
        Ok(None)
    }
}

struct Fields<'de> {
    entries: &'de [(crate::yaml::Key, Node)],
    /// The keys there are; `None` accepts any.
    known: Option<&'static [&'static str]>,
    next: usize,
    value: Option<&'de (crate::yaml::Key, Node)>,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(entry) = self.entries.get(self.next) else {
            return Ok(None);
        };
        self.next += 1;
        self.value = Some(entry);
        let (key, _) = entry;
        if let Some(known) = self.known
            && !known.contains(&key.text.as_str())
        {
            let name = short(&key.text);
            // `{ port: 80,443 }` is `{ port: 80, 443: null }` to YAML.
            let help = if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) {
                ": inside braces put a list in quotes, as in `port: \"80,443\"`".to_owned()
            } else {
                suggest(&name, known)
            };
            let error: Error = de::Error::custom(format_args!("unknown key `{name}`{help}"));
            return Err(error.at(key.line, key.column).under(Step::Key(key.text.clone())));
        }
        seed.deserialize(key.text.as_str().into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let Some((key, node)) = self.value.take() else {
            return Err(de::Error::custom("a value without its key"));
        };
        node.place(seed.deserialize(node)).map_err(|error| error.under(Step::Key(key.text.clone())))
    }
}
