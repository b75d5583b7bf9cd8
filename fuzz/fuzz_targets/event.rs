//! See `mtd_fuzz::event`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    mtd_fuzz::event(data);
});
