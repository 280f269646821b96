//! The form that GitHub sends from a webhook on its default content type, after `payload=`.
#![no_main]

use instance_agent::push::Headers;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let form = [b"payload=", data].concat();
    fuzz::decode(&Headers::default(), &form);
});
