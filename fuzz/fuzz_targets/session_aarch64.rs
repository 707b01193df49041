#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trapline_fuzz::session_aarch64(data));
