//! Configuration files: good, or refused with a message that names a place.
#![no_main]

use gatewatch_config::{Config, diff};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match Config::parse_bytes(bytes, "gatewatch.yaml") {
        Ok(config) => {
            let _inert = config.not_yet_effective();
            let _valid = config.validate();
            assert!(diff(&config, &config).is_empty());
            for change in diff(&Config::default(), &config) {
                let line = change.to_string();
                assert!(line.chars().count() < 2000 && !line.contains(char::is_control), "{line:?}");
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
