#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trapline_fuzz::page_walk_aarch64(data));
