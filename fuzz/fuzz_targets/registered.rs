//! See `mtd_fuzz::registered`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    mtd_fuzz::registered(data);
});
