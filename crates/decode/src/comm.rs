//! Names of processes.

/// A process's name is chosen by its program: any bytes up to a NUL. Without control characters.
#[must_use]
pub fn clean(bytes: &[u8]) -> String {
    let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let clean = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    String::from_utf8_lossy(name).chars().map(clean).collect()
}
