//! What libbpf and the kernel's verifier say while programs are loaded: kept, not printed.

use std::sync::Mutex;

use libbpf_rs::PrintLevel;

use crate::CaptureError;

static LAST: Mutex<String> = Mutex::new(String::new());

/// Keeps the line that says why: the one before the verifier's closing count.
fn keep(_level: PrintLevel, text: String) {
    let mut lines = text.lines().rev().skip_while(|line| !line.starts_with("processed "));
    let why = lines.nth(1).unwrap_or_default();
    if !why.is_empty()
        && let Ok(mut last) = LAST.lock()
    {
        *last = format!(" (the verifier: {why})");
    }
}

/// From now on libbpf is quiet.
pub(crate) fn listen() {
    libbpf_rs::set_print(Some((PrintLevel::Warn, keep)));
}

/// The error for an object that could not be loaded.
pub(crate) fn load_error(object: &'static str) -> impl Fn(libbpf_rs::Error) -> CaptureError + Copy {
    move |source| {
        let said = LAST.lock().map(|mut last| std::mem::take(&mut *last)).unwrap_or_default();
        CaptureError::Load { object, source, said }
    }
}
