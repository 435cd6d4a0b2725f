#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mqtt::session_fuzz(data));
