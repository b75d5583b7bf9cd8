//! See `mtd_fuzz::control_record`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    mtd_fuzz::control_record(data);
});
