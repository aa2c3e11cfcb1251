//! See `aios_mesh::fuzzing::state`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| aios_mesh::fuzzing::state(input));
