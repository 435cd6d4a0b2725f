#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| websocket::frames_fuzz(data));
