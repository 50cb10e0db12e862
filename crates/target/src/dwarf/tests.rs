use std::fs;

use super::*;
use crate::testing::{compile, text, told};

fn read(bytes: &[u8]) -> Result<Option<Layout>, gimli::Error> {
    layout(&object::File::parse(bytes).unwrap())
}

#[test]
fn offsets_are_those_the_program_itself_has() {
    let check = |compiler: &str, flags: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let program = compile(dir.path(), compiler, flags);
        let seen = read(&fs::read(&program).unwrap()).unwrap();
        assert_eq!(seen, Some(told(&program)), "{compiler} {flags:?}");
        assert_eq!(seen.unwrap().connection.ssl.is_none(), flags.contains(&"-DNO_SSL"));
    };
    for compiler in ["gcc", "clang-16"] {
        for version in ["-gdwarf-4", "-gdwarf-5"] {
            for compressed in ["-gz=none", "-gz"] {
                check(compiler, &["-g", version, compressed]);
            }
            check(compiler, &["-O2", version, "-DNO_SSL"]);
        }
    }
}

#[test]
fn without_debug_information_there_is_no_layout() {
    let dir = tempfile::tempdir().unwrap();
    for flags in [&["-g0"][..], &["-g1"]] {
        let program = compile(dir.path(), "gcc", flags);
        assert_eq!(read(&fs::read(&program).unwrap()).unwrap(), None, "{flags:?}");
    }
}

/// One structure missing is as good as all: a layout is whole or none.
#[test]
fn an_unnamed_member_makes_no_layout() {
    let dir = tempfile::tempdir().unwrap();
    for renamed in ["-Derr_status=x", "-Dpeer=x", "-Dngx_connection_s=x", "-Dvalue=x", "-Duser_agent=x"] {
        let program = compile(dir.path(), "gcc", &["-g", renamed]);
        assert_eq!(read(&fs::read(&program).unwrap()).unwrap(), None, "{renamed}");
    }
}

/// A compressed section that claims to be larger than any memory.
#[test]
fn a_false_size_of_a_compressed_section_is_refused() {
    use object::{Object, ObjectSection};
    let dir = tempfile::tempdir().unwrap();
    let program = compile(dir.path(), "gcc", &["-g", "-gz"]);
    let good = fs::read(&program).unwrap();
    let file = object::File::parse(&*good).unwrap();
    let (at, _) = file.section_by_name(".debug_info").unwrap().file_range().unwrap();
    let at = usize::try_from(at).unwrap();
    for size in [0, 1, 1 << 20, 1 << 40, u64::MAX >> 1, u64::MAX] {
        let mut bad = good.clone();
        // `ch_size` of Elf64_Chdr.
        bad[at + 8..at + 16].copy_from_slice(&u64::to_le_bytes(size));
        assert!(matches!(read(&bad), Ok(None) | Err(_)), "{size} in {}", text(&program));
    }
}

/// A few hundred kilobytes that unpack to more than is read: whoever names a program `nginx` could fill the memory.
#[test]
fn a_section_that_unpacks_to_too_much_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let assembly = dir.path().join("zeros.s");
    for (zeros, expected) in [(1 << 20, true), (SECTION_MAX, false)] {
        fs::write(&assembly, format!(".section .debug_str,\"\",@progbits\n.zero {zeros}\n")).unwrap();
        let flags = ["-g", "-Wl,--compress-debug-sections=zlib", text(&assembly)];
        let bytes = fs::read(compile(dir.path(), "gcc", &flags)).unwrap();
        assert!(bytes.len() < 2 << 20, "{} bytes: it was not packed", bytes.len());
        assert_eq!(matches!(read(&bytes), Ok(Some(_))), expected, "{zeros}");
    }
}

fn by_hand(members: &[(&str, u64)], inner: &[(&str, u64)]) -> (Types, DebugInfoOffset) {
    let (outer, struct_in) = (DebugInfoOffset(1), DebugInfoOffset(2));
    let mut types = Types::default();
    let list = |members: &[(&str, u64)], of| {
        members.iter().map(|(name, offset)| ((*name).to_owned(), *offset, of)).collect()
    };
    types.structs.insert(outer, Struct { size: 8, members: list(members, Some(struct_in)) });
    types.structs.insert(struct_in, Struct { size: 8, members: list(inner, None) });
    (types, outer)
}

#[test]
fn paths_add_up_and_damage_does_not_overflow() {
    let check = |first: u64, second: u64, expected: Option<u16>| {
        let (types, outer) = by_hand(&[("a", first)], &[("b", second)]);
        assert_eq!(types.offset(&types.structs[&outer], "a.b"), expected, "{first} + {second}");
    };
    check(8, 16, Some(24));
    check(0, 65535, Some(65535));
    check(1, 65535, None);
    check(u64::MAX, 1, None);
    check(u64::MAX, u64::MAX, None);
    let (types, outer) = by_hand(&[("a", 8)], &[("b", 16)]);
    let outer = &types.structs[&outer];
    assert_eq!(types.offset(outer, "a"), Some(8));
    assert_eq!(
        [types.offset(outer, "b"), types.offset(outer, "a.c"), types.offset(outer, "a.b.c")],
        [None; 3]
    );
}

#[test]
fn typedefs_that_name_each_other_end() {
    let mut types = Types::default();
    let (a, b) = (DebugInfoOffset(1), DebugInfoOffset(2));
    types.typedefs.insert(a, b);
    types.typedefs.insert(b, a);
    types.names.insert("a".to_owned(), a);
    assert!(types.named(&["a"]).is_none());
    assert!(types.named(&["nothing"]).is_none());
}
