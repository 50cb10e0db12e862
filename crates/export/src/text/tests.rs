use super::*;

fn check(text: &str, expected: &str) {
    assert_eq!(Plain(text).to_string(), expected, "{text:?}");
}

#[test]
fn what_could_fool_a_terminal_is_escaped() {
    check("plain ASCII /?&=%\"'\\", "plain ASCII /?&=%\"'\\");
    check("grüße 日本 🦀", "grüße 日本 🦀");
    check("\x1b[2J", "\\u{1b}[2J");
    check("a\nb\r\tc\0", "a\\u{a}b\\u{d}\\u{9}c\\u{0}");
    check("\x7f\u{80}\u{9b}2J\u{9f}", "\\u{7f}\\u{80}\\u{9b}2J\\u{9f}");
    check("\u{202e}gpj", "\\u{202e}gpj");
    check(
        "\u{2028}\u{2029}\u{200b}\u{200f}\u{2066}\u{2069}\u{feff}",
        "\\u{2028}\\u{2029}\\u{200b}\\u{200f}\\u{2066}\\u{2069}\\u{feff}",
    );
    check("\u{fffd}", "\u{fffd}");
}

#[test]
fn exactly_these_characters_are_unsafe() {
    let count = ('\0'..=char::MAX).filter(|c| is_unsafe(*c)).count();
    // 65 controls, two separators, 5 zero-width, 5 bidirectional, 10 invisible, the byte order mark.
    assert_eq!(count, 65 + 2 + 5 + 5 + 10 + 1);
}
