//! See `mtd_fuzz::response`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    mtd_fuzz::response(data);
});
