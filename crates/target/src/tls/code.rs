//! Machine code of a function, and Go's own table of functions.

use std::{collections::BTreeMap, fs::File};

use iced_x86::{Decoder, DecoderOptions, Mnemonic, Register};
use object::{Object, ObjectSection, ReadCache};

use super::Call;

/// A function's instructions.
pub(super) struct Code<'a> {
    pub(super) bytes: &'a [u8],
    /// x86-64, else AArch64.
    pub(super) x86: bool,
}

impl Code<'_> {
    /// Where its return instructions stand.
    pub(super) fn returns(&self) -> Vec<u64> {
        if self.x86 {
            let decoder = Decoder::with_ip(64, self.bytes, 0, DecoderOptions::NONE);
            return decoder
                .into_iter()
                .filter(|instruction| instruction.mnemonic() == Mnemonic::Ret)
                .map(|instruction| instruction.ip())
                .collect();
        }
        const RET: [u32; 3] = [0xd65f_03c0, 0xd65f_0bff, 0xd65f_0fff]; // ret, retaa, retab
        (0..)
            .step_by(4)
            .zip(self.bytes.chunks_exact(4))
            .filter(|(_, word)| word.first_chunk().is_some_and(|w| RET.contains(&u32::from_le_bytes(*w))))
            .map(|(at, _)| at)
            .collect()
    }

    /// Go begins a function with a look at the stack's end, which the kernel must step over one instruction at a time; the
    /// `push` behind it is emulated, and the arguments still stand there. 0 where there is none.
    pub(super) fn behind_go_prologue(&self) -> u64 {
        if !self.x86 {
            return 0;
        }
        let decoder = Decoder::with_ip(64, self.bytes, 0, DecoderOptions::NONE);
        for instruction in decoder.into_iter().take(6) {
            let (what, to) = (instruction.mnemonic(), instruction.op0_register());
            if what == Mnemonic::Push && to == Register::RBP {
                return instruction.ip();
            }
            // The place the stack would grow to is computed in registers that carry no argument.
            let is_look = matches!(what, Mnemonic::Cmp | Mnemonic::Jbe | Mnemonic::Nop)
                || matches!(what, Mnemonic::Lea | Mnemonic::Mov | Mnemonic::Sub)
                    && matches!(to, Register::R12 | Register::R13);
            if !is_look {
                break;
            }
        }
        0
    }
}

/// Numbers of Go's table, in the file's order of bytes.
struct Table<'a>(&'a [u8]);

impl<'a> Table<'a> {
    fn u32(&self, at: u64) -> Option<u32> {
        let at = usize::try_from(at).ok()?;
        Some(u32::from_le_bytes(*self.0.get(at..)?.first_chunk()?))
    }

    fn u64(&self, at: u64) -> Option<u64> {
        let at = usize::try_from(at).ok()?;
        Some(u64::from_le_bytes(*self.0.get(at..)?.first_chunk()?))
    }

    fn name(&self, at: u64) -> Option<&'a [u8]> {
        let bytes = self.0.get(usize::try_from(at).ok()?..)?;
        bytes.split(|byte| *byte == 0).next()
    }
}

/// Address and size of functions that Go's own table names: it is there though the symbols were stripped. Empty where it
/// is none of Go 1.18 or later.
pub(super) fn go_functions<'a>(
    file: &object::File<'a, &'a ReadCache<File>>,
    wanted: &[(&str, Call)],
) -> BTreeMap<Call, (u64, u64)> {
    read_table(file, wanted).unwrap_or_default()
}

fn read_table<'a>(
    file: &object::File<'a, &'a ReadCache<File>>,
    wanted: &[(&str, Call)],
) -> Option<BTreeMap<Call, (u64, u64)>> {
    const NAMES: [&str; 2] = [".gopclntab", ".data.rel.ro.gopclntab"];
    /// Of Go 1.18 and 1.19, and since 1.20.
    const MAGIC: [u32; 2] = [0xffff_fff0, 0xffff_fff1];
    let section = NAMES.into_iter().find_map(|name| file.section_by_name(name))?;
    let table = Table(section.data().ok()?);
    if !MAGIC.contains(&table.u32(0)?) || table.0.get(7) != Some(&8) {
        return None;
    }
    let functions = table.u64(8)?;
    // Newer linkers leave the text's address out: it is the section's.
    let text = match table.u64(24)? {
        0 => file.section_by_name(".text")?.address(),
        address => address,
    };
    let (names, entries) = (table.u64(32)?, table.u64(64)?);
    let mut found = BTreeMap::new();
    for index in 0..functions.min(1 << 24) {
        let at = entries.checked_add(index.checked_mul(8)?)?;
        let (start, function) = (u64::from(table.u32(at)?), u64::from(table.u32(at + 4)?));
        let end = u64::from(table.u32(at + 8)?);
        // A function's description begins with its address, then the place of its name.
        let name_at = u64::from(table.u32(entries.checked_add(function)?.checked_add(4)?)?);
        let name = table.name(names.checked_add(name_at)?)?;
        if let Some((_, call)) = wanted.iter().find(|(wanted, _)| wanted.as_bytes() == name) {
            found.insert(*call, (text.checked_add(start)?, end.saturating_sub(start)));
        }
    }
    Some(found)
}
