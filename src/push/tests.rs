use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/// What today's webhooks send, as far as it matters.
fn today() -> Value {
    json!({
        "ref": "refs/heads/main", "before": A, "after": B,
        "created": false, "deleted": false, "forced": false,
        "repository": {
            "id": 1, "name": "InstanceAPI", "full_name": "2lemetry/InstanceAPI",
            "owner": {"name": "2lemetry", "login": "2lemetry"},
            "default_branch": "main", "master_branch": "main", "pushed_at": 1_700_000_000,
        },
        "pusher": {"name": "octocat"}, "commits": [{"id": B, "message": "x \u{1F600}"}],
    })
}

/// What GitHub Services sent in 2012.
fn of_2012() -> Value {
    json!({
        "before": A, "after": B, "ref": "refs/heads/master",
        "repository": {
            "name": "InstanceAPI", "owner": {"name": "2lemetry", "email": "x@example.com"},
            "url": "https://github.com/2lemetry/InstanceAPI", "master_branch": "master", "pushed_at": "2012/04/15",
        },
    })
}

/// What becomes of a message where nobody asks for signatures.
fn decode(headers: &Headers, payload: &[u8]) -> Result<Decoded, DecodeError> {
    decode_signed(headers, payload, None).unwrap()
}

fn decode_signed(
    headers: &Headers,
    payload: &[u8],
    secrets: Option<&Secrets>,
) -> Result<Result<Decoded, DecodeError>, SignatureError> {
    Ok(match open(headers.clone(), payload) {
        Err(error) => Err(error),
        Ok(Opened::Other(other)) => Ok(Decoded::Other(other)),
        Ok(Opened::Delivery(delivery)) => delivery.authenticate(secrets)?.decode(),
    })
}

fn bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

fn push(payload: &[u8]) -> Push {
    match decode(&Headers::default(), payload) {
        Ok(Decoded::Push(push)) => *push,
        other => panic!("no push: {other:?}"),
    }
}

fn other(payload: &[u8]) -> Other {
    match decode(&Headers::default(), payload) {
        Ok(Decoded::Other(other)) => other,
        decoded => panic!("not another thing: {decoded:?}"),
    }
}

fn error(payload: &[u8]) -> DecodeError {
    decode(&Headers::default(), payload).unwrap_err()
}

fn with(mut value: Value, pointer: &str, replacement: Value) -> Vec<u8> {
    *value.pointer_mut(pointer).unwrap() = replacement;
    bytes(&value)
}

fn without(mut value: Value, key: &str) -> Vec<u8> {
    value.as_object_mut().unwrap().remove(key).unwrap();
    bytes(&value)
}

fn form(payload: &[u8]) -> Vec<u8> {
    let field: String = form_urlencoded::byte_serialize(payload).collect();
    format!("payload={field}").into_bytes()
}

#[test]
fn todays_payload() {
    let push = push(&bytes(&today()));
    assert_eq!(push.repo.as_str(), "2lemetry/InstanceAPI");
    assert_eq!(push.git_ref.as_str(), "refs/heads/main");
    assert_eq!(push.before.as_ref().map(CommitId::as_str), Some(A));
    assert_eq!(push.after.as_str(), B);
    assert_eq!(push.default_branch.as_deref(), Some("main"));
    assert_eq!(push.pushed_at, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)));
    assert!(!push.is_deletion());
}

#[test]
fn the_payload_of_2012() {
    let push = push(&bytes(&of_2012()));
    assert_eq!(push.repo.as_str(), "2lemetry/InstanceAPI");
    assert_eq!(push.default_branch.as_deref(), Some("master"));
    assert_eq!(push.pushed_at, None, "the order of arrival decides");
}

#[test]
fn the_form_body_of_a_webhook_on_its_default_content_type() {
    assert_eq!(push(&form(&bytes(&today()))), push(&bytes(&today())));
    assert_eq!(push(&form(&bytes(&of_2012()))), push(&bytes(&of_2012())));
    assert!(matches!(error(b"payload="), DecodeError::Json { .. }));
    assert!(matches!(error(b"payload=%7B"), DecodeError::Json { problem: "cut short", .. }));
    assert!(matches!(error(b"body=%7B%7D"), DecodeError::Json { .. }));
}

#[test]
fn an_envelope_carries_headers_and_the_exact_body() {
    let body = String::from_utf8(bytes(&today())).unwrap();
    let headers = json!({"x-github-EVENT": "push", "X-GitHub-Delivery": "72d3162e-cc78-11e3", "Host": ["x"]});
    let plain = json!({"headers": headers, "body": body});
    let encoded = json!({"headers": headers, "body_base64": STANDARD.encode(&body)});
    let of_form = json!({"headers": headers, "body": String::from_utf8(form(body.as_bytes())).unwrap()});
    for envelope in [plain, encoded, of_form] {
        let push = push(&bytes(&envelope));
        assert_eq!(push.after.as_str(), B);
        assert_eq!(push.delivery.as_deref(), Some("72d3162e-cc78-11e3"));
    }
    let ping = json!({"headers": {"X-GitHub-Event": "ping"}, "body": body});
    assert_eq!(other(&bytes(&ping)), Other::Event);
}

#[test]
fn a_contradictory_envelope_is_an_error() {
    let body = String::from_utf8(bytes(&today())).unwrap();
    let inner = json!({"headers": {}, "body": body}).to_string();
    for bad in [
        json!({"headers": {}}),
        json!({"body": body}),
        json!({"body_base64": ""}),
        json!({"headers": {}, "body": body, "body_base64": ""}),
        json!({"headers": {}, "body_base64": "not base64!"}),
        json!({"headers": {}, "body": inner}),
    ] {
        assert_eq!(error(&bytes(&bad)), DecodeError::Envelope, "{bad}");
    }
    let twice = br#"{"headers":{"X-GitHub-Event":"push","x-github-event":"ping"},"body":"{}"}"#;
    assert!(decode(&Headers::default(), twice).is_err());
    let carried = Headers::from_pairs([("X-GitHub-Event", "push")]).unwrap();
    let envelope = json!({"headers": {}, "body": body});
    assert_eq!(decode(&carried, &bytes(&envelope)), Err(DecodeError::Envelope));
}

#[test]
fn headers_of_mqtt_5() {
    let headers = |pairs: &[(&'static str, &'static str)]| Headers::from_pairs(pairs.iter().copied());
    let payload = bytes(&today());
    let ping = headers(&[("X-GITHUB-EVENT", "ping")]).unwrap();
    assert_eq!(decode(&ping, &payload), Ok(Decoded::Other(Other::Event)));
    assert_eq!(decode(&ping, b"junk"), Ok(Decoded::Other(Other::Event)), "another event need not be JSON");
    let pushed =
        headers(&[("x-github-event", "push"), ("x-github-delivery", "a-1"), ("other", "x")]).unwrap();
    let Ok(Decoded::Push(push)) = decode(&pushed, &payload) else { panic!() };
    assert_eq!(push.delivery.as_deref(), Some("a-1"));
    let twice = headers(&[("X-GitHub-Event", "push"), ("x-github-event", "ping")]);
    assert_eq!(twice, Err(DecodeError::DuplicateHeader("X-GitHub-Event")));
    assert!(headers(&[("X-GitHub-Event", "push"), ("x-github-event", "push")]).is_ok());
    let forged = headers(&[("X-GitHub-Delivery", "a\nERROR forged")]).unwrap();
    assert_eq!(forged.delivery(), None);
}

#[test]
fn what_is_no_push_is_told_apart_from_a_broken_one() {
    assert_eq!(other(b""), Other::Empty);
    assert_eq!(other(b"{}"), Other::Shape);
    // Events create and delete have a ref too, but no `after`.
    assert_eq!(
        other(br#"{"ref":"main","ref_type":"branch","repository":{"full_name":"o/r"}}"#),
        Other::Shape
    );
    for missing in ["ref", "after", "repository"] {
        assert_eq!(other(&without(today(), missing)), Other::Shape, "{missing}");
    }
    assert_eq!(push(&without(today(), "before")).before, None);
    for junk in
        [&b"junk"[..], b"[]", b"null", b"5", b"\"x\"", b"\xff\xfe", b"{", b"{\"ref\":", b"{\"ref\":5}", b" "]
    {
        assert!(matches!(error(junk), DecodeError::Json { .. }), "{junk:?}");
    }
    let array = br#"["refs/heads/main"]"#;
    assert!(matches!(error(array), DecodeError::Json { problem: "no object", .. }));
}

#[test]
fn values_that_break_the_rules_of_their_kind_are_refused() {
    for (pointer, bad, field) in [
        ("/ref", "main", "ref"),
        ("/ref", "refs/heads/a b", "ref"),
        ("/ref", "refs/heads/a\nb", "ref"),
        ("/after", "HEAD", "after"),
        ("/before", "0", "before"),
        ("/repository/full_name", "2lemetry", "repository"),
        ("/repository/full_name", "../../etc", "repository"),
    ] {
        match error(&with(today(), pointer, json!(bad))) {
            DecodeError::Value { field: found, .. } => assert_eq!(found, field),
            other => panic!("{pointer} {bad:?}: {other:?}"),
        }
    }
}

#[test]
fn deletions_are_told_by_the_flag_or_by_zeros() {
    assert!(push(&with(today(), "/deleted", json!(true))).is_deletion());
    assert!(push(&with(today(), "/after", json!("0".repeat(40)))).is_deletion());
    assert!(push(&with(today(), "/after", json!("0".repeat(64)))).is_deletion());
}

#[test]
fn a_date_that_is_none_counts_as_not_said() {
    for odd in
        [json!(null), json!(-5), json!(1.5), json!("yesterday"), json!([1]), json!({}), json!(u64::MAX)]
    {
        assert_eq!(push(&with(today(), "/repository/pushed_at", odd.clone())).pushed_at, None, "{odd}");
    }
    let rfc3339 = push(&with(today(), "/repository/pushed_at", json!("2023-11-14T22:13:20Z")));
    assert_eq!(rfc3339.pushed_at, push(&bytes(&today())).pushed_at);
}

#[test]
fn no_text_of_the_payload_is_in_an_error() {
    let secret = "hunter2";
    for payload in [
        format!("{{\"ref\":{{\"{secret}\":1}}}}"),
        format!("{{\"deleted\":\"{secret}\"}}"),
        format!("{{{secret}"),
        String::from_utf8(with(today(), "/ref", json!(secret))).unwrap(),
    ] {
        let error = error(payload.as_bytes());
        assert!(!error.to_string().contains(secret) && !format!("{error:?}").contains(secret), "{error}");
    }
}

fn secrets() -> Secrets {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secrets");
    std::fs::write(&file, "new\nold\n").unwrap();
    Secrets::read(&file).unwrap()
}

fn signed(body: &[u8]) -> Headers {
    Headers::from_pairs([("x-hub-signature-256", secrets().first().sign(body).as_str())]).unwrap()
}

fn enveloped(signature: &str, body: &[u8]) -> Vec<u8> {
    bytes(&json!({"headers": {"X-Hub-Signature-256": signature}, "body_base64": STANDARD.encode(body)}))
}

#[test]
fn a_signature_covers_the_exact_body_wherever_it_came() {
    let (secrets, none) = (secrets(), Headers::default());
    let json = bytes(&today());
    for body in [json.clone(), form(&json), bytes(&of_2012())] {
        let envelope = enveloped(&secrets.first().sign(&body), &body);
        for (headers, payload) in [(signed(&body), body.clone()), (none.clone(), envelope)] {
            let decoded = decode_signed(&headers, &payload, Some(&secrets));
            assert!(matches!(decoded, Ok(Ok(Decoded::Push(_)))), "{decoded:?}");
        }
    }
    // Signed is what form and envelope hold, not what they stand for.
    let mismatch = Err(SignatureError::Mismatch);
    assert_eq!(decode_signed(&signed(&json), &form(&json), Some(&secrets)), mismatch);
    let envelope = enveloped(&secrets.first().sign(&form(&json)), &json);
    assert_eq!(decode_signed(&none, &envelope, Some(&secrets)), mismatch);
}

#[test]
fn nothing_unsigned_is_read_where_secrets_are() {
    let (secrets, none) = (secrets(), Headers::default());
    let json = bytes(&today());
    let envelope =
        bytes(&json!({"headers": {"X-GitHub-Event": "push"}, "body_base64": STANDARD.encode(&json)}));
    for unsigned in [json.clone(), form(&json), envelope, b"{}".to_vec()] {
        assert_eq!(decode_signed(&none, &unsigned, Some(&secrets)), Err(SignatureError::Missing));
    }
    // Junk that would not even parse: had it been tried, the answer were another.
    let junk = decode_signed(&signed(&json), b"{ junk", Some(&secrets));
    assert_eq!(junk, Err(SignatureError::Mismatch));
    let junk = decode_signed(&none, &enveloped("sha256=0", b"{ junk"), Some(&secrets));
    assert_eq!(junk, Err(SignatureError::Malformed));
}

#[test]
fn a_signed_envelope_is_no_body() {
    let body = enveloped(&secrets().first().sign(b"{}"), &bytes(&today()));
    let decoded = decode_signed(&signed(&body), &body, Some(&secrets()));
    assert_eq!(decoded, Ok(Err(DecodeError::Envelope)));
    let nested = enveloped(&secrets().first().sign(&body), &body);
    assert_eq!(decode_signed(&Headers::default(), &nested, Some(&secrets())), Ok(Err(DecodeError::Envelope)));
}

#[test]
fn what_came_shows_nowhere() {
    let headers = signed(b"body");
    assert_eq!(format!("{headers:?}"), r#"["X-Hub-Signature-256"]"#);
    let opened = format!("{:?}", open(headers, b"hunter2").unwrap());
    assert!(opened.contains("Body(7 bytes)") && !opened.contains("hunter2"), "{opened}");
}

proptest! {
    #[test]
    fn no_mutation_of_a_signed_message_is_believed(
        enveloped_too in any::<bool>(),
        at in any::<prop::sample::Index>(),
        bit in 0_u8..8,
    ) {
        let body = bytes(&today());
        let mut payload = if enveloped_too { enveloped(&secrets().first().sign(&body), &body) } else { body.clone() };
        let at = at.index(payload.len());
        payload[at] ^= 1 << bit;
        let headers = if enveloped_too { Headers::default() } else { signed(&body) };
        // An upper case digit in the signature, or in the name of a header, changes nothing that counts.
        if let Ok(Ok(Decoded::Push(mutated))) = decode_signed(&headers, &payload, Some(&secrets())) {
            prop_assert!(enveloped_too);
            prop_assert_eq!(*mutated, push(&body));
        }
    }

    #[test]
    fn any_bytes_are_decoded_without_a_panic(payload in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(&Headers::default(), &payload);
    }

    #[test]
    fn any_mutation_of_a_payload_yields_only_validated_values(
        base in prop::sample::select(vec![bytes(&today()), bytes(&of_2012()), form(&bytes(&today()))]),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        length in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut payload = base;
        for (at, byte) in edits {
            let at = at.index(payload.len());
            payload[at] = byte;
        }
        if cut {
            payload.truncate(length.index(payload.len()));
        }
        check_validated(&payload)?;
    }

    #[test]
    fn any_text_in_any_field_yields_only_validated_values(
        text in ".{0,60}",
        pointer in prop::sample::select(vec!["/ref", "/before", "/after", "/repository/full_name"]),
    ) {
        check_validated(&with(today(), pointer, json!(text)))?;
    }

    #[test]
    fn any_headers_are_taken_without_a_panic(pairs in prop::collection::vec((".{0,20}", ".{0,80}"), 0..6)) {
        let known = ["X-GitHub-Event", "X-GitHub-Delivery", "X-Hub-Signature-256"];
        for (i, (name, value)) in pairs.iter().enumerate() {
            let named = [(known[i % 3], value.as_str()), (name, value)];
            if let Some(id) = Headers::from_pairs(named).ok().as_ref().and_then(Headers::delivery) {
                prop_assert!(id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
            }
        }
    }
}

fn check_validated(payload: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(Decoded::Push(push)) = decode(&Headers::default(), payload) {
        prop_assert!(push.repo.as_str().parse::<RepoName>().is_ok());
        prop_assert!(push.git_ref.as_str().parse::<GitRef>().is_ok());
        prop_assert!(push.after.as_str().bytes().all(|b| b.is_ascii_hexdigit()));
        prop_assert!(!push.git_ref.as_str().contains(char::is_control));
    }
    Ok(())
}

/// What fuzzing starts from, and what it ever found.
#[test]
fn the_corpus_of_the_fuzz_targets_is_decoded_without_a_panic() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut files = 0;
    for target in std::fs::read_dir(corpus).unwrap() {
        for file in std::fs::read_dir(target.unwrap().path()).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            check_validated(&bytes).unwrap();
            check_validated(&[b"payload=", &*bytes].concat()).unwrap();
            let text = String::from_utf8_lossy(&bytes);
            let headers = Headers::from_pairs(text.lines().filter_map(|line| line.split_once(": ")));
            let _ = headers.map(|headers| decode(&headers, b"{}"));
            files += 1;
        }
    }
    assert!(files >= 14, "{files}");
}

#[test]
fn an_envelope_whose_names_are_escaped_is_refused() {
    let body = today().to_string();
    let text = json!({"headers": {"X-GitHub-Event": "push"}, "body": body}).to_string();
    assert!(matches!(decode(&Headers::default(), text.as_bytes()), Ok(Decoded::Push(_))));
    let escaped = text.replacen("headers", r"\u0068eaders", 1);
    assert_eq!(error(escaped.as_bytes()), DecodeError::Envelope);
}

#[test]
fn a_field_that_comes_twice_is_refused_whatever_it_holds() {
    let whole = today().to_string();
    for field in ["ref", "before", "after", "deleted", "repository", "instance_agent", "headers", "body"] {
        for value in ["null", "\"x\""] {
            let twice = whole.replacen('{', &format!("{{\"{field}\": null, \"{field}\": {value}, "), 1);
            let decoded = decode(&Headers::default(), twice.as_bytes());
            assert!(decoded.is_err(), "{field} {value}: {decoded:?}");
        }
    }
    let unused = whole.replacen('{', r#"{"x": 1, "x": 2, "#, 1);
    assert!(matches!(decode(&Headers::default(), unused.as_bytes()), Ok(Decoded::Push(_))));
}
