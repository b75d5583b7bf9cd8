//! See `mtd_fuzz::neighbour`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    mtd_fuzz::neighbour(data);
});
