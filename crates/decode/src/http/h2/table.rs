//! Header blocks of HTTP/2 read for the fields that are wanted, with the dynamic table (RFC 7541) as far as it is known.
//!
//! An entry's place counts from the newest one. So a table whose beginning was missed, or of which some entries were
//! lost, is right again for all that comes after; only what was put in before stays unknown. Keeping an entry longer
//! than the encoder does is harmless as well, for it never names one that it has dropped.

use std::{collections::VecDeque, sync::Arc};

use gatewatch_event::request::Method;

use crate::{
    hpack::{FieldName, Representation, Text},
    http::decoder::{Context, is_grpc, number, protocol_name},
    protocol::bytes::Bytes,
};

/// Size of a table until its encoder says otherwise.
const SIZE: usize = 4096;
/// Largest table kept; an encoder with a larger one may name entries that are not there any more.
const SIZE_MAX: usize = 64 << 10;
/// What an entry takes beside its texts, by the standard.
const ENTRY: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Method,
    Path,
    Authority,
    Host,
    Status,
    Protocol,
    ContentType,
    UserAgent,
    GrpcStatus,
    Other,
    Unknown,
}

impl Name {
    fn of(text: &[u8]) -> Self {
        match text {
            b":method" => Self::Method,
            b":path" => Self::Path,
            b":authority" => Self::Authority,
            b"host" => Self::Host,
            b":status" => Self::Status,
            b":protocol" => Self::Protocol,
            b"content-type" => Self::ContentType,
            b"user-agent" => Self::UserAgent,
            b"grpc-status" => Self::GrpcStatus,
            _ => Self::Other,
        }
    }
}

/// A field of the static table: its name, its value, and how long its name is.
fn fixed(index: usize) -> (Name, &'static [u8], usize) {
    match index {
        1 => (Name::Authority, b"", 10),
        2 => (Name::Method, b"GET", 7),
        3 => (Name::Method, b"POST", 7),
        4 => (Name::Path, b"/", 5),
        5 => (Name::Path, b"/index.html", 5),
        8 => (Name::Status, b"200", 7),
        9 => (Name::Status, b"204", 7),
        10 => (Name::Status, b"206", 7),
        11 => (Name::Status, b"304", 7),
        12 => (Name::Status, b"400", 7),
        13 => (Name::Status, b"404", 7),
        14 => (Name::Status, b"500", 7),
        31 => (Name::ContentType, b"", 12),
        38 => (Name::Host, b"", 4),
        58 => (Name::UserAgent, b"", 10),
        _ => (Name::Other, b"", OTHER_NAMES.get(index).copied().unwrap_or(0).into()),
    }
}

/// Lengths of the names in the static table; its first place is 1.
const OTHER_NAMES: [u8; 62] = [
    0, 10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14, 16,
    13, 12, 6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10, 25, 17, 10, 4,
    3, 16,
];
const FIXED: usize = OTHER_NAMES.len() - 1;

/// A field that is wanted, ready for use.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Field {
    Method(Method),
    Path(Arc<str>),
    Authority(Arc<str>),
    Host(Arc<str>),
    Status(u16),
    Protocol(Arc<str>),
    Grpc,
    UserAgent(Arc<str>),
    GrpcStatus(u32),
    Other,
}

impl Field {
    fn of(name: Name, value: &[u8], cx: &mut Context<'_>) -> Self {
        let field = match name {
            Name::Method => Some(Method::of(value)).filter(|it| *it != Method::Unknown).map(Self::Method),
            Name::Path => Some(Self::Path(cx.path(value))),
            Name::Authority => Some(Self::Authority(cx.host(value))),
            Name::Host => Some(Self::Host(cx.host(value))),
            Name::Status => number(value).and_then(|it| u16::try_from(it).ok()).map(Self::Status),
            Name::Protocol => protocol_name(value).map(Self::Protocol),
            Name::ContentType => is_grpc(value).then_some(Self::Grpc),
            Name::UserAgent => Some(Self::UserAgent(cx.agent(value))),
            Name::GrpcStatus => number(value).and_then(|it| u32::try_from(it).ok()).map(Self::GrpcStatus),
            Name::Other | Name::Unknown => None,
        };
        field.unwrap_or(Self::Other)
    }

    fn held(&self) -> usize {
        match self {
            Self::Path(text)
            | Self::Authority(text)
            | Self::Host(text)
            | Self::Protocol(text)
            | Self::UserAgent(text) => text.len(),
            Self::Method(_) | Self::Status(_) | Self::Grpc | Self::GrpcStatus(_) | Self::Other => 0,
        }
    }
}

/// The fields of a block that are wanted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) method: Option<Method>,
    pub(super) path: Option<Arc<str>>,
    pub(super) host: Option<Arc<str>>,
    pub(super) status: Option<u16>,
    pub(super) protocol: Option<Arc<str>>,
    pub(super) grpc: bool,
    pub(super) agent: Option<Arc<str>>,
    pub(super) grpc_status: Option<u32>,
    /// Fields whose place in the table was not seen filled.
    pub(super) unknown: u32,
    /// It is no header block, at least not to its end.
    pub(super) broken: bool,
    from_authority: bool,
}

impl Fields {
    /// Of a block that was not seen.
    pub(super) fn lost() -> Self {
        Self { broken: true, ..Self::default() }
    }

    fn add(&mut self, field: &Field) {
        match field {
            Field::Method(method) => self.method = self.method.or(Some(*method)),
            Field::Path(path) => {
                self.path.get_or_insert_with(|| Arc::clone(path));
            }
            Field::Authority(host) => {
                if !std::mem::replace(&mut self.from_authority, true) {
                    self.host = Some(Arc::clone(host));
                }
            }
            Field::Host(host) => {
                self.host.get_or_insert_with(|| Arc::clone(host));
            }
            Field::Status(status) => self.status = self.status.or(Some(*status)),
            Field::Protocol(to) => {
                self.protocol.get_or_insert_with(|| Arc::clone(to));
            }
            Field::Grpc => self.grpc = true,
            Field::UserAgent(agent) => {
                self.agent.get_or_insert_with(|| Arc::clone(agent));
            }
            Field::GrpcStatus(status) => self.grpc_status = self.grpc_status.or(Some(*status)),
            Field::Other => {}
        }
    }
}

#[derive(Debug)]
struct Entry {
    name: Name,
    field: Field,
    /// By the standard's reckoning.
    size: usize,
    name_len: usize,
}

/// The dynamic table of one direction.
#[derive(Debug)]
pub(super) struct Table {
    /// The newest first.
    entries: VecDeque<Entry>,
    size: usize,
    max: usize,
    held: usize,
}

impl Table {
    /// `mid`: it may have any size by now.
    pub(super) fn new(mid: bool) -> Self {
        let max = if mid { SIZE_MAX } else { SIZE };
        Self { entries: VecDeque::new(), size: 0, max, held: 0 }
    }

    pub(super) fn held(&self) -> usize {
        self.held + self.entries.capacity() * size_of::<Entry>()
    }

    /// Blocks were lost: what the entries' places are now is not known.
    pub(super) fn lose(&mut self) {
        self.entries.clear();
        (self.size, self.held) = (0, 0);
    }

    /// The decoding side allows a table of this size. The encoder says itself when it takes it; should it not, what
    /// is kept too long does no harm.
    pub(super) fn allow(&mut self, size: usize) {
        self.max = self.max.max(size).min(SIZE_MAX);
    }

    /// Reads a block.
    pub(super) fn read(&mut self, block: &[u8], cx: &mut Context<'_>) -> Fields {
        let mut fields = Fields::default();
        let mut left = Bytes(block);
        while !left.0.is_empty() {
            let read = Representation::read(&mut left).and_then(|it| self.field(it, &mut fields, cx));
            if read.is_none() {
                // What it would have put into the table is not known.
                fields.broken = true;
                self.lose();
                break;
            }
        }
        cx.counts().unknown_fields += u64::from(fields.unknown);
        fields
    }

    fn field(&mut self, it: Representation<'_>, fields: &mut Fields, cx: &mut Context<'_>) -> Option<()> {
        match it {
            Representation::Indexed(index @ ..=FIXED) => {
                let (name, value, _) = fixed(index);
                fields.add(&Field::of(name, value, cx));
            }
            Representation::Indexed(index) => match self.entries.get(index - FIXED - 1) {
                Some(entry) if entry.name != Name::Unknown => fields.add(&entry.field),
                Some(_) | None => fields.unknown += 1,
            },
            Representation::Resize(size) => {
                self.max = size.min(SIZE_MAX);
                self.evict();
            }
            Representation::Literal { name, value, keep } => {
                let (name, name_len) = self.name(name)?;
                if name == Name::Unknown {
                    fields.unknown += 1;
                }
                self.literal(name, name_len, value, keep, fields, cx)?;
            }
        }
        Some(())
    }

    fn literal(
        &mut self,
        name: Name,
        name_len: usize,
        value: Text<'_>,
        keep: bool,
        fields: &mut Fields,
        cx: &mut Context<'_>,
    ) -> Option<()> {
        let wanted = !matches!(name, Name::Other | Name::Unknown);
        if !wanted && !keep {
            return Some(());
        }
        // Of what is not wanted, the length counts.
        let value = value.decode()?;
        let field = Field::of(name, &value, cx);
        fields.add(&field);
        if keep {
            let size = name_len + value.len() + ENTRY;
            self.size += size;
            self.held += field.held();
            self.entries.push_front(Entry { name, field, size, name_len });
            self.evict();
        }
        Some(())
    }

    fn name(&self, name: FieldName<'_>) -> Option<(Name, usize)> {
        Some(match name {
            FieldName::At(index @ ..=FIXED) => {
                let (name, _, len) = fixed(index);
                (name, len)
            }
            FieldName::At(index) => match self.entries.get(index - FIXED - 1) {
                Some(entry) => (entry.name, entry.name_len),
                None => (Name::Unknown, 0),
            },
            FieldName::Text(text) => {
                let text = text.decode()?;
                (Name::of(&text), text.len())
            }
        })
    }

    fn evict(&mut self) {
        while self.size > self.max
            && let Some(entry) = self.entries.pop_back()
        {
            self.size -= entry.size;
            self.held -= entry.field.held();
        }
    }

    #[cfg(test)]
    pub(super) fn bound(&mut self, max: usize) {
        self.max = max;
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> (usize, usize) {
        (self.entries.len(), self.size)
    }
}
