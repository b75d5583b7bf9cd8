//! See `mtd_fuzz::leases`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    mtd_fuzz::leases(data);
});
