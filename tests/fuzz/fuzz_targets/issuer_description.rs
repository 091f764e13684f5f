#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bulla_fuzz::named("issuer_description").check(data));
