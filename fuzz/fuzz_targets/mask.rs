//! Whatever stands in front of it, a token in a query does not get through.
#![no_main]

use gatewatch_decode::mask::{MaskSettings, Masker};
use libfuzzer_sys::fuzz_target;

const SECRET: &str = "Canary-0f9e";

fuzz_target!(|bytes: &[u8]| {
    let lax = MaskSettings { query_values: false, ..MaskSettings::default() };
    let maskers = [Masker::default(), Masker::new(lax).expect("no patterns")];
    let holds = |text: &[u8]| text.windows(SECRET.len()).any(|at| at == SECRET.as_bytes());
    if holds(bytes) {
        return;
    }
    for masker in &maskers {
        let _masked = masker.mask_target(bytes);
        let _masked = masker.mask_header(bytes);
        let _masked = masker.mask_user_agent(bytes);
        if let Ok(text) = std::str::from_utf8(bytes) {
            let _masked = masker.mask_remote_addr(text);
        }
        for key in ["?token=", "?a=b&access_token=", "?password="] {
            let target = [bytes, key.as_bytes(), SECRET.as_bytes()].concat();
            let masked = masker.mask_target(&target);
            assert!(!holds(masked.as_bytes()), "shown: {masked}");
        }
    }
});
