//! The parts of HTTP/2's header compression (RFC 7541) that need no state: numbers, texts, representations.

use octets::Octets;

use crate::protocol::bytes::Bytes;

/// A text as it stands in a block.
#[derive(Clone, Copy)]
pub(crate) struct Text<'a> {
    huffman: bool,
    /// As it was sent.
    pub(crate) bytes: &'a [u8],
}

impl<'a> Text<'a> {
    fn read(left: &mut Bytes<'a>) -> Option<Self> {
        let first = left.u8()?;
        let len = integer(left, first, 7)?;
        Some(Self { huffman: first & 0x80 != 0, bytes: left.take(len)? })
    }

    /// In clear; `None` where it is no Huffman code.
    pub(crate) fn decode(self) -> Option<std::borrow::Cow<'a, [u8]>> {
        if !self.huffman {
            return Some(self.bytes.into());
        }
        // The shortest code has five bits: at most 8/5 of the bytes that were captured.
        Octets::with_slice(self.bytes).get_huffman_decoded().ok().map(Into::into)
    }
}

/// How a field stands in a block.
pub(crate) enum Representation<'a> {
    /// Name and value are in a table, from 1 on.
    Indexed(usize),
    /// The value is written out.
    Literal {
        name: FieldName<'a>,
        value: Text<'a>,
        /// It goes into the dynamic table.
        keep: bool,
    },
    /// The dynamic table has another size.
    Resize(usize),
}

/// A name in a table, or written out.
pub(crate) enum FieldName<'a> {
    At(usize),
    Text(Text<'a>),
}

impl<'a> Representation<'a> {
    /// The next of a block; `None` at its end, where it was cut, and where it is none.
    pub(crate) fn read(left: &mut Bytes<'a>) -> Option<Self> {
        let first = left.u8()?;
        if first & 0x80 != 0 {
            return integer(left, first, 7).filter(|index| *index != 0).map(Self::Indexed);
        }
        if first & 0xe0 == 0x20 {
            return integer(left, first, 5).map(Self::Resize);
        }
        let keep = first & 0x40 != 0;
        let name = match integer(left, first, if keep { 6 } else { 4 })? {
            0 => FieldName::Text(Text::read(left)?),
            index => FieldName::At(index),
        };
        Some(Self::Literal { name, value: Text::read(left)?, keep })
    }
}

/// A number whose first bits are the last `bits` of a byte.
fn integer(left: &mut Bytes<'_>, first: u8, bits: u32) -> Option<usize> {
    let most = (1_usize << bits) - 1;
    let mut number = usize::from(first) & most;
    if number < most {
        return Some(number);
    }
    // Three more bytes make two million, longer than any block.
    for shift in [0, 7, 14] {
        let byte = left.u8()?;
        number += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
