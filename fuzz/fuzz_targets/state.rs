//! See `mtd_fuzz::state`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    mtd_fuzz::state(data);
});
