#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trapline_fuzz::mach_image(data));
