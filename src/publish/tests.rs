use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::*;
use crate::push::ByHand;
use crate::signature::Secrets;

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn plan() -> Plan<'static> {
    Plan {
        slim: false,
        secret: None,
        envelope: false,
        protocol: Protocol::V5,
        destination: Destination::default(),
        retain: false,
    }
}

fn github() -> Value {
    json!({
        "ref": "refs/heads/main", "before": A, "after": B, "deleted": false,
        "repository": {
            "full_name": "Acme/API", "default_branch": "main", "pushed_at": 1_700_000_000, "description": "x",
        },
        "commits": [{"id": B, "message": "x".repeat(1000)}],
    })
}

fn delivery(body: &Value, headers: &[(&str, &str)]) -> Delivery {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Delivery { body: body.to_string().into_bytes(), headers: headers.collect() }
}

fn secrets() -> Secrets {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "sesame\nthe-one-before\n").unwrap();
    Secrets::read(file.path()).unwrap()
}

fn signature(message: &Outgoing) -> &str {
    let mut found =
        message.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("X-Hub-Signature-256"));
    let (_, value) = found.next().unwrap();
    assert!(found.next().is_none(), "one signature only");
    value
}

fn by_hand(again: bool) -> Delivery {
    let wish = ByHandWish {
        repo: "Acme/API".parse().unwrap(),
        git_ref: "refs/heads/main".parse().unwrap(),
        commit: B.parse().unwrap(),
        default_branch: Some("main".to_owned()),
        again,
    };
    Delivery::by_hand(
        wish,
        "0123456789abcdef".to_owned(),
        SystemTime::UNIX_EPOCH + Duration::from_millis(1500),
    )
}

#[test]
fn a_payload_leaves_byte_for_byte_on_the_topic_as_github_spells_it() {
    let signature = secrets().first().sign(b"whatever");
    let delivery = delivery(&github(), &[("x-github-event", "push"), ("X-Hub-Signature-256", &signature)]);
    let composed = compose(delivery.clone(), &plan()).unwrap();
    assert_eq!(composed.message.topic, "github/Acme/API");
    assert_eq!(composed.message.payload, delivery.body);
    assert_eq!(composed.message.headers, delivery.headers);
    assert!(composed.signed);
}

#[test]
fn slim_keeps_all_that_agents_read() {
    let of_2012 = json!({
        "ref": "refs/heads/master", "before": A, "after": B,
        "repository": {"name": "API", "owner": {"name": "Acme"}, "master_branch": "master"},
        "commits": ["x".repeat(1000)],
    });
    let deletion = json!({
        "ref": "refs/heads/gone", "before": A, "after": "0".repeat(40), "deleted": true,
        "repository": {"full_name": "Acme/API"}, "padding": "x".repeat(1000),
    });
    let form = || {
        let field: String = form_urlencoded::byte_serialize(github().to_string().as_bytes()).collect();
        Delivery { body: format!("payload={field}").into_bytes(), headers: Vec::new() }
    };
    let deliveries = [delivery(&github(), &[]), delivery(&of_2012, &[]), delivery(&deletion, &[]), form()];
    for delivery in deliveries {
        let whole = compose(delivery.clone(), &plan()).unwrap();
        let slim = compose(delivery, &Plan { slim: true, ..plan() }).unwrap();
        assert_eq!(slim.push, whole.push);
        assert!(slim.message.payload.len() < 300, "{}", String::from_utf8_lossy(&slim.message.payload));
    }
}

#[test]
fn slim_is_signed_anew_or_refused() {
    let signed = || delivery(&github(), &[("x-hub-signature-256", "sha256=00")]);
    let slim = |secret| compose(signed(), &Plan { slim: true, secret, ..plan() });
    assert!(matches!(slim(None), Err(ComposeError::StaleSignature)));
    let secrets = secrets();
    let Composed { message, .. } = slim(Some(secrets.first())).unwrap();
    assert_eq!(secrets.verify(&message.payload, signature(&message)), Ok(()));
    assert_eq!(signature(&message), secrets.first().sign(&message.payload));
}

#[test]
fn an_envelope_carries_what_mqtt_3_cannot() {
    let secrets = secrets();
    let with = |envelope, protocol| {
        let delivery = delivery(&github(), &[("X-GitHub-Delivery", "72d3162e-cc78-11e3")]);
        compose(delivery, &Plan { envelope, protocol, secret: Some(secrets.first()), ..plan() }).unwrap()
    };
    for composed in [with(true, Protocol::V5), with(false, Protocol::V311)] {
        assert!(composed.message.headers.is_empty());
        assert_eq!(composed.push.delivery.as_deref(), Some("72d3162e-cc78-11e3"));
        let envelope: Value = serde_json::from_slice(&composed.message.payload).unwrap();
        let (body, signature) = (&envelope["body"], &envelope["headers"]["X-Hub-Signature-256"]);
        let verified = secrets.verify(body.as_str().unwrap().as_bytes(), signature.as_str().unwrap());
        assert_eq!(verified, Ok(()));
    }
    let bare = compose(delivery(&github(), &[]), &Plan { protocol: Protocol::V311, ..plan() }).unwrap();
    assert_eq!(bare.message.payload, github().to_string().into_bytes(), "nothing to carry, no envelope");
}

#[test]
fn a_body_that_is_no_text_goes_in_base64() {
    let mut delivery = delivery(&github(), &[("X-GitHub-Event", "push")]);
    let at = delivery.body.iter().position(|b| *b == b'x').unwrap();
    delivery.body[at] = 0xff;
    let composed = compose(delivery.clone(), &Plan { envelope: true, ..plan() }).unwrap();
    let envelope: Value = serde_json::from_slice(&composed.message.payload).unwrap();
    assert!(envelope["body_base64"].is_string() && envelope["body"].is_null());
}

#[test]
fn a_push_by_hand_says_so() {
    let composed = compose(by_hand(true), &plan()).unwrap();
    let made = ByHand {
        id: "0123456789abcdef".to_owned(),
        at: SystemTime::UNIX_EPOCH + Duration::from_secs(2),
        again: true,
    };
    assert_eq!(composed.push.by_hand, Some(made));
    assert_eq!((composed.push.pushed_at, composed.signed), (None, false));
    let text = String::from_utf8(composed.message.payload).unwrap();
    assert_eq!(
        text,
        format!(
            r#"{{"ref":"refs/heads/main","after":"{B}","repository":{{"full_name":"Acme/API","default_branch":"main"}},"instance_agent":{{"id":"0123456789abcdef","time":2,"again":true}}}}"#
        )
    );
}

#[test]
fn what_no_agent_takes_is_not_published() {
    let refused = |body: &Value, headers: &[(&str, &str)]| match compose(delivery(body, headers), &plan()) {
        Ok(_) => panic!("published: {body}"),
        Err(error) => error,
    };
    assert!(matches!(refused(&github(), &[("X-GitHub-Event", "ping")]), ComposeError::OtherEvent));
    assert!(matches!(refused(&json!({"zen": "x"}), &[]), ComposeError::NotAPush(Other::Shape)));
    assert!(matches!(refused(&json!([]), &[]), ComposeError::Undecodable(_)));
    let envelope = json!({"headers": {}, "body": github().to_string()});
    assert!(matches!(refused(&envelope, &[]), ComposeError::Envelope));
    let twice = [("X-GitHub-Delivery", "a"), ("x-github-delivery", "b")];
    assert!(matches!(refused(&github(), &twice), ComposeError::Undecodable(DecodeError::DuplicateHeader(_))));
}

#[test]
fn a_signature_that_no_secret_makes_is_refused() {
    let with = |value: &str| compose(delivery(&github(), &[("x-hub-signature-256", value)]), &plan());
    assert!(matches!(with("sha256=zz"), Err(ComposeError::Signature(SignatureError::Malformed))));
    assert!(with(&secrets().first().sign(b"another body")).is_ok(), "the agents' secrets are not known here");
}

#[test]
fn again_is_never_retained_wherever_it_comes_from() {
    let retained = |again| compose(by_hand(again), &Plan { retain: true, ..plan() });
    assert!(matches!(retained(true), Err(ComposeError::AgainRetained)));
    assert!(retained(false).is_ok());
}

#[test]
fn the_topic_ends_in_the_pushs_repository() {
    let topic = |text: &str| {
        let destination = text.parse()?;
        match compose(by_hand(false), &Plan { destination, ..plan() }) {
            Ok(composed) => Ok(composed.message.topic),
            Err(ComposeError::Destination(error)) => Err(error),
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(topic("ci/hooks/+/+").unwrap(), "ci/hooks/Acme/API");
    assert_eq!(topic("ci/acme/api").unwrap(), "ci/acme/api");
    assert_eq!(topic("Acme/API").unwrap(), "Acme/API");
    for mismatch in ["ci/acme/web", "github/acme/api/", "api", "github/acme"] {
        assert!(matches!(topic(mismatch), Err(DestinationError::Mismatch { .. })), "{mismatch}");
    }
    for bad in ["", "github/#", "github/+/api", "$SYS/acme/api", "a\n/acme/api"] {
        assert_eq!(topic(bad), Err(DestinationError::Topic), "{bad:?}");
    }
    assert!(matches!(topic("+/github/+/+"), Err(DestinationError::Pattern(_))));
}

#[test]
fn headers_are_names_and_values() {
    let pair = |name: &str, value: &str| Ok((name.to_owned(), value.to_owned()));
    assert_eq!(parse_header("X-GitHub-Event: push"), pair("X-GitHub-Event", "push"));
    assert_eq!(parse_header("a:b:c"), pair("a", "b:c"));
    for (bad, part) in [
        ("push", "NAME: VALUE"),
        (": push", "the name"),
        ("a b: push", "the name"),
        ("X-GitHub-Event:  ", "no value"),
        ("a: b\nc", "control"),
    ] {
        assert!(parse_header(bad).unwrap_err().contains(part), "{bad:?}");
    }
}
