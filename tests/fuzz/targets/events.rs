//! See `aios_mesh::fuzzing::events`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| aios_mesh::fuzzing::events(input));
