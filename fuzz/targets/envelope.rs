//! What comes without headers: an envelope, or anything else.
#![no_main]

use instance_agent::push::Headers;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzz::decode(&Headers::default(), data));
