#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| stomp::session_fuzz(data));
