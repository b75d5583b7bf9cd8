//! See `mtd_fuzz::introduction`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    mtd_fuzz::introduction(data);
});
