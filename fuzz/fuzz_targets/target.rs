//! Programs that claim to be a gateway: ELF, symbols and debug information.
#![no_main]

use std::{fs, path::Path};

use gatewatch_target::binary::Binary;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let dir = if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" };
    let path = format!("{dir}/gatewatch-fuzz-{}", std::process::id());
    if fs::write(&path, bytes).is_err() {
        return;
    }
    if let Err(error) = Binary::inspect(Path::new(&path), Path::new("/nonexistent")) {
        assert!(!error.to_string().is_empty());
    }
    let _gone = fs::remove_file(&path);
});
