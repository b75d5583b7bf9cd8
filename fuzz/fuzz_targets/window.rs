//! See `mtd_fuzz::window`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    mtd_fuzz::window(data);
});
