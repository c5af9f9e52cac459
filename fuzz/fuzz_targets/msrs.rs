#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| squib_soft::fuzzing::msrs(data));
