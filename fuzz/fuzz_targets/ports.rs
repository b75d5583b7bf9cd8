//! See `mtd_fuzz::ports`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    mtd_fuzz::ports(data);
});
