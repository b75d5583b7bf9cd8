//! See `mtd_fuzz::request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    mtd_fuzz::request(data);
});
