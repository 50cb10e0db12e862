//! The examples of RFC 7541, appendix C: what the wanted fields are, and how full the table is then.

use gatewatch_event::request::Method;

use super::table::{Fields, Table};
use crate::{
    http::decoder::{Context, Decoder, Texts},
    protocol::tests::hex,
};

/// Blocks of one connection one after the other, each with what is expected of it.
fn read(limit: Option<usize>, blocks: &[&str], check: impl Fn(usize, &Fields, (usize, usize))) {
    let (mut decoder, mut texts) = (Decoder::default(), Texts::default());
    let mut table = Table::new(false);
    if let Some(limit) = limit {
        table.bound(limit);
    }
    for (n, block) in blocks.iter().enumerate() {
        let mut cx = Context { decoder: &mut decoder, texts: &mut texts };
        let fields = table.read(&hex(&block.replace(' ', "")), &mut cx);
        assert!(!fields.broken, "{block}");
        check(n, &fields, table.size());
    }
}

#[test]
fn fields_one_by_one() {
    // C.2.1 to C.2.4: kept, not kept, never kept, from the static table.
    for (block, size) in [
        ("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", (1, 55)),
        ("040c 2f73 616d 706c 652f 7061 7468", (0, 0)),
        ("1008 7061 7373 776f 7264 0673 6563 7265 74", (0, 0)),
        ("82", (0, 0)),
    ] {
        read(None, &[block], |_, fields, filled| {
            assert_eq!(filled, size, "{block}");
            match block.get(..2) {
                Some("04") => assert_eq!(fields.path.as_deref(), Some("/sample/path")),
                Some("82") => assert_eq!(fields.method, Some(Method::Get)),
                _ => assert_eq!(fields, &Fields::default()),
            }
        });
    }
}

#[test]
fn requests() {
    // C.3 plain, C.4 in Huffman's code.
    let plain = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    let coded = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    for blocks in [plain, coded] {
        read(None, &blocks, |n, fields, filled| {
            assert_eq!(fields.method, Some(Method::Get));
            assert_eq!(fields.host.as_deref(), Some("www.example.com"), "{n}");
            assert_eq!(fields.path.as_deref(), Some(["/", "/", "/index.html"][n]));
            assert_eq!(filled, [(1, 57), (2, 110), (3, 164)][n]);
            assert_eq!(fields.unknown, 0);
        });
    }
}

#[test]
fn responses_with_eviction() {
    // C.5 plain, C.6 in Huffman's code; the table holds 256 bytes.
    let plain = [
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d
         546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f
         6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b
         2076 6572 7369 6f6e 3d31",
    ];
    let coded = [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7
         8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335
         dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ];
    for blocks in [plain, coded] {
        let blocks = blocks.map(|block| block.replace(char::is_whitespace, ""));
        read(Some(256), &blocks.each_ref().map(String::as_str), |n, fields, filled| {
            assert_eq!(fields.status, Some([302, 307, 200][n]), "{n}");
            assert_eq!(filled, [(4, 222), (4, 222), (3, 215)][n]);
            assert_eq!(fields.unknown, 0);
        });
    }
}

#[test]
fn every_name_of_the_static_table_has_its_length() {
    // A literal by name is kept: its size tells the length. Three names of the table, from its ends and its middle.
    for (index, len) in [
        (1, 10),
        (15, 14),
        (16, 15),
        (20, 27),
        (22, 5),
        (31, 12),
        (38, 4),
        (48, 18),
        (49, 19),
        (58, 10),
        (61, 16),
    ] {
        let block = format!("{:02x}00", 0x40 + index);
        read(None, &[&block], |_, _, filled| assert_eq!(filled, (1, 32 + len), "{index}"));
    }
}

#[test]
fn what_is_no_block_empties_the_table() {
    let (mut decoder, mut texts) = (Decoder::default(), Texts::default());
    let mut cx = Context { decoder: &mut decoder, texts: &mut texts };
    for block in ["80", "41ffffffff7f", "7f", "40ff", "410f77", "418cf1", "4183ffffff"] {
        let mut table = Table::new(false);
        table.read(&hex("410168"), &mut cx);
        assert!(table.read(&hex(block), &mut cx).broken, "{block}");
        assert_eq!(table.size(), (0, 0), "{block}");
    }
}

#[test]
fn tables_are_bounded_whatever_is_announced() {
    let (mut decoder, mut texts) = (Decoder::default(), Texts::default());
    let mut cx = Context { decoder: &mut decoder, texts: &mut texts };
    let mut table = Table::new(true);
    table.allow(usize::MAX);
    let path = [&[0x44, 0x7f, 0x81, 0x01][..], &[b'a'; 256]].concat();
    for _ in 0..10_000 {
        // A size of 2^20 is announced, then a path of 256 bytes kept.
        let block = [&[0x3f, 0xe1, 0xff, 0x3f][..], &path].concat();
        let fields = table.read(&block, &mut cx);
        assert!(!fields.broken);
    }
    assert!(table.size().1 <= 64 << 10 && table.held() < 1 << 18, "{:?}", table.size());
}
