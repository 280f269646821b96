//! The body of a push that came with its headers.
#![no_main]

use instance_agent::push::Headers;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let headers = Headers::from_pairs([("X-GitHub-Event", "push"), ("X-Hub-Signature-256", "sha256=00")]);
    fuzz::decode(&headers.expect("no header twice"), data);
});
