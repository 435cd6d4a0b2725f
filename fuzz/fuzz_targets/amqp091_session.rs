#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| amqp091::session_fuzz(data));
