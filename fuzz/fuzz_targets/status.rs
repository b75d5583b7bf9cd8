//! See `mtd_fuzz::status`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    mtd_fuzz::status(data);
});
