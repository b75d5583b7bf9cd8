//! See `mtd_fuzz::key`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    mtd_fuzz::key(data);
});
