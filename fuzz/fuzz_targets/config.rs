//! Configuration files: good, or refused with a message that names a place.
#![no_main]

use gatewatch_config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match Config::parse_bytes(bytes, "gatewatch.yaml") {
        Ok(config) => {
            let _inert = config.not_yet_effective();
            let _valid = config.validate();
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
