//! See `mtd_fuzz::drop_line`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    mtd_fuzz::drop_line(data);
});
