//! User properties of MQTT 5: lines of `name: value`.
#![no_main]

use instance_agent::push::Headers;
use libfuzzer_sys::fuzz_target;

const BODY: &[u8] = br#"{"ref":"refs/heads/main","after":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","repository":{"full_name":"o/r"}}"#;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let pairs = text.lines().map(|line| line.split_once(':').unwrap_or((line, "")));
    if let Ok(headers) = Headers::from_pairs(pairs.map(|(name, value)| (name, value.trim()))) {
        fuzz::decode(&headers, BODY);
    }
});
