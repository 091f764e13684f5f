#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bulla_fuzz::named("jetstream").check(data));
