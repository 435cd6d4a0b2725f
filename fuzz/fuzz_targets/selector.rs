#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| broker::selector::fuzz_selector(data));
