//! The target that the variable `GAFI_FUZZ_TARGET` names, under libFuzzer.
#![no_main]

use std::sync::LazyLock;

use gafi_fuzz::{Target, named};
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("GAFI_FUZZ_TARGET").unwrap_or_default();
    named(&name).expect("GAFI_FUZZ_TARGET names a target of gafi-fuzz")
});

fuzz_target!(|input: &[u8]| (TARGET.run)(input));
