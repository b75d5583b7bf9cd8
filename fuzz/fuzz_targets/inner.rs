//! See `mtd_fuzz::inner`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    mtd_fuzz::inner(data);
});
