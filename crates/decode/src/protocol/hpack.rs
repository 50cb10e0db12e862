//! A block of header fields of HTTP/2 (RFC 7541), read for the few fields that are wanted.
//!
//! Read without the dynamic table, which a watcher that may have missed blocks cannot have. The first block of a
//! connection cannot need it for the wanted fields: nothing has been put there yet.

use super::bytes::Bytes;
use crate::hpack::{FieldName, Representation};

/// Longest encoded name that is decoded: `content-type` and shorter are wanted.
const NAME_MAX: usize = 16;

/// The fields that are wanted, decoded, as far as the block holds them in full.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields {
    pub(crate) authority: Option<Vec<u8>>,
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) content_type: Option<Vec<u8>>,
}

impl Fields {
    /// gRPC says so: `application/grpc`, `application/grpc+proto`, `application/grpc-web` …
    pub(crate) fn grpc(&self) -> bool {
        let rest = self.content_type.as_deref().and_then(|text| text.strip_prefix(b"application/grpc"));
        rest.is_some_and(|rest| !rest.first().is_some_and(u8::is_ascii_alphanumeric))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    Authority,
    Path,
    ContentType,
    Other,
}

impl Name {
    /// By its place in the static table.
    fn at(index: usize) -> Self {
        match index {
            1 | 38 => Self::Authority,
            4 | 5 => Self::Path,
            31 => Self::ContentType,
            _ => Self::Other,
        }
    }

    fn of(text: &[u8]) -> Self {
        match text {
            b":authority" | b"host" => Self::Authority,
            b":path" => Self::Path,
            b"content-type" => Self::ContentType,
            _ => Self::Other,
        }
    }
}

/// Reads a block to its end, to where it was cut, or to what is none.
pub(crate) fn read(block: &[u8]) -> Fields {
    let mut fields = Fields::default();
    let mut left = Bytes(block);
    while field(&mut left, &mut fields).is_some() {}
    fields
}

fn field(left: &mut Bytes<'_>, fields: &mut Fields) -> Option<()> {
    let (name, value) = match Representation::read(left)? {
        Representation::Indexed(4) => {
            fields.path.get_or_insert_with(|| b"/".to_vec());
            return Some(());
        }
        Representation::Indexed(5) => {
            fields.path.get_or_insert_with(|| b"/index.html".to_vec());
            return Some(());
        }
        Representation::Indexed(_) | Representation::Resize(_) => return Some(()),
        Representation::Literal { name, value, .. } => (name, value),
    };
    let name = match name {
        FieldName::At(index) => Name::at(index),
        FieldName::Text(name) if name.bytes.len() > NAME_MAX => Name::Other,
        FieldName::Text(name) => name.decode().map_or(Name::Other, |it| Name::of(&it)),
    };
    let place = match name {
        Name::Authority => &mut fields.authority,
        Name::Path => &mut fields.path,
        Name::ContentType => &mut fields.content_type,
        Name::Other => return Some(()),
    };
    if place.is_none() {
        *place = Some(value.decode()?.into_owned());
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        crate::protocol::tests::hex(text)
    }

    #[test]
    fn the_examples_of_the_standard() {
        // RFC 7541, C.3.1 (plain) and C.4.1 (Huffman).
        for block in ["828684410f7777772e6578616d706c652e636f6d", "828684418cf1e3c2e5f23a6ba0ab90f4ff"] {
            let fields = read(&hex(block));
            assert_eq!(fields.authority.as_deref(), Some(&b"www.example.com"[..]), "{block}");
            assert_eq!(fields.path.as_deref(), Some(&b"/"[..]));
            assert!(!fields.grpc());
        }
        // C.2.2: a path that is not put into the table.
        assert_eq!(read(&hex("040c2f73616d706c652f70617468")).path.as_deref(), Some(&b"/sample/path"[..]));
    }

    #[test]
    fn grpc_says_so() {
        for (block, grpc) in [
            // content-type by index 31: `application/grpc` in Huffman's code, and plain.
            ("5f8b1d75d0620d263d4c4d6564", true),
            ("0f108b1d75d0620d263d4c4d6564", true),
            ("5f106170706c69636174696f6e2f67727063", true),
            // `application/grpc+proto` and `application/grpcx`, plain.
            ("5f166170706c69636174696f6e2f677270632b70726f746f", true),
            ("5f116170706c69636174696f6e2f6772706378", false),
            // A name of its own, plain: `content-type`; then one that is not.
            ("400c636f6e74656e742d747970658b1d75d0620d263d4c4d6564", true),
            ("400c636f6e74656e742d747970788b1d75d0620d263d4c4d6564", false),
            // The same bytes as the value of another field, and as a path.
            ("418b1d75d0620d263d4c4d6564", false),
            ("448b1d75d0620d263d4c4d6564", false),
            // Cut.
            ("5f8b1d75d0620d263d4c4d65", false),
        ] {
            assert_eq!(read(&hex(block)).grpc(), grpc, "{block}");
        }
    }

    #[test]
    fn lengths_that_lie() {
        for block in ["41ffffffff7f", "41ff80808080808001", "7f", "40ff", "80", "4f", "410f77"] {
            assert_eq!(read(&hex(block)), Fields::default(), "{block}");
        }
        // Too long a name is passed over, what follows is read.
        let block = [&[0x40, 30][..], &[b'x'; 30], &[1, b'y', 0x84]].concat();
        assert_eq!(read(&block).path.as_deref(), Some(&b"/"[..]));
    }
}
