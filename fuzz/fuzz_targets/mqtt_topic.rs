#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mqtt::codec::fuzz::fuzz_topic(data));
