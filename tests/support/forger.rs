//! Messages that must deploy nothing: forged, mutated, replayed, malformed. The same seed makes the same ones.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fastrand::Rng;
use instance_agent::signature::{Secret, Secrets};
use serde_json::{Value, json};

use super::payload::{Push, commit};
use super::publisher::Outgoing;

pub const SIGNATURE: &str = "X-Hub-Signature-256";
const EVENT: &str = "X-GitHub-Event";
const DAY: u64 = 24 * 60 * 60;

/// How a message is made to fail.
type Trick = fn(&mut Forger) -> Outgoing;

const TRICKS: [Trick; 23] = [
    Forger::flipped_body,
    Forger::flipped_form,
    Forger::flipped_body_in_envelope,
    Forger::flipped_signature,
    Forger::flipped_signature_in_envelope,
    Forger::wrong_secret,
    Forger::unsigned,
    Forger::unsigned_envelope,
    Forger::another_event,
    Forger::signature_of_another_form,
    Forger::signature_of_other_bytes,
    Forger::swapped_topic,
    Forger::nested_envelope,
    Forger::signed_envelope,
    Forger::cut_base64,
    Forger::header_of_the_wrong_type,
    Forger::header_twice,
    Forger::key_twice,
    Forger::huge_headers,
    Forger::replay,
    Forger::stale,
    Forger::too_old,
    Forger::undated,
];

/// Makes them, for the repository of one push that was deployed before.
pub struct Forger {
    random: Rng,
    right: Secret,
    wrong: Secret,
    deployed: Push,
    /// What would be deployed, were it believed.
    body: Vec<u8>,
}

impl Forger {
    pub fn new(seed: u64, secret: &str, deployed: Push) -> Self {
        let of = |text: &str| Secrets::parse(text.as_bytes()).unwrap().first().clone();
        let body = Push { after: commit('f'), pushed_at: deployed.pushed_at + 1, ..deployed.clone() }.bytes();
        Self { random: Rng::with_seed(seed), right: of(secret), wrong: of("wrong"), deployed, body }
    }

    /// The next message; every trick has its turn.
    pub fn message(&mut self, n: usize) -> Outgoing {
        TRICKS[n % TRICKS.len()](self)
    }

    /// A push as GitHub would send it, with its headers as user properties.
    pub fn good(&self, push: &Push) -> Outgoing {
        let body = push.bytes();
        let signature = self.right.sign(&body);
        Outgoing::new(push.topic(), body).header(EVENT, "push").header(SIGNATURE, &signature)
    }

    /// The same in an envelope.
    pub fn good_in_envelope(&self, push: &Push) -> Outgoing {
        let body = push.bytes();
        Outgoing::new(
            push.topic(),
            envelope(&json!({EVENT: "push", SIGNATURE: self.right.sign(&body)}), &body),
        )
    }

    fn send(&self, payload: impl Into<Vec<u8>>) -> Outgoing {
        Outgoing::new(self.deployed.topic(), payload)
    }

    fn sent(&self, body: impl Into<Vec<u8>>, signature: &str) -> Outgoing {
        self.send(body).header(EVENT, "push").header(SIGNATURE, signature)
    }

    fn enveloped(&self, signature: &str, body: &[u8]) -> Outgoing {
        self.send(envelope(&json!({EVENT: "push", SIGNATURE: signature}), body))
    }

    fn signature(&self) -> String {
        self.right.sign(&self.body)
    }

    fn form(&self) -> Vec<u8> {
        let field: String = form_urlencoded::byte_serialize(&self.body).collect();
        format!("payload={field}").into_bytes()
    }

    fn flip(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        for _ in 0..self.random.usize(1..4) {
            let at = self.random.usize(..bytes.len());
            // Two flips of one bit would be none.
            bytes[at] ^= 1 << self.random.u8(..8);
        }
        if bytes == self.body { b"{}".to_vec() } else { bytes }
    }

    fn flipped_body(&mut self) -> Outgoing {
        let signature = self.signature();
        let body = self.flip(self.body.clone());
        self.sent(body, &signature)
    }

    fn flipped_form(&mut self) -> Outgoing {
        let mut form = self.form();
        let signature = self.right.sign(&form);
        let at = self.random.usize(..form.len());
        form[at] ^= 1 << self.random.u8(..8);
        self.sent(form, &signature)
    }

    fn flipped_body_in_envelope(&mut self) -> Outgoing {
        let signature = self.signature();
        let body = self.flip(self.body.clone());
        self.enveloped(&signature, &body)
    }

    fn another_signature(&mut self) -> String {
        let mut digits = self.signature().into_bytes();
        let at = self.random.usize("sha256=".len()..digits.len());
        digits[at] = if digits[at] == b'0' { b'1' } else { b'0' };
        String::from_utf8(digits).unwrap()
    }

    fn flipped_signature(&mut self) -> Outgoing {
        let signature = self.another_signature();
        self.sent(self.body.clone(), &signature)
    }

    fn flipped_signature_in_envelope(&mut self) -> Outgoing {
        let signature = self.another_signature();
        self.enveloped(&signature, &self.body)
    }

    fn wrong_secret(&mut self) -> Outgoing {
        self.sent(self.body.clone(), &self.wrong.sign(&self.body))
    }

    fn unsigned(&mut self) -> Outgoing {
        let payload = if self.random.bool() { self.form() } else { self.body.clone() };
        self.send(payload).header(EVENT, "push")
    }

    fn unsigned_envelope(&mut self) -> Outgoing {
        self.send(envelope(&json!({EVENT: "push", "X-Hub-Signature": self.signature()}), &self.body))
    }

    fn another_event(&mut self) -> Outgoing {
        let signature = if self.random.bool() { self.signature() } else { self.wrong.sign(&self.body) };
        let event = self.random.choice(["ping", "", "PUSH", "push "]).unwrap();
        let headers = json!({EVENT: event, SIGNATURE: signature});
        if self.random.bool() {
            return self.send(envelope(&headers, &self.body));
        }
        self.send(self.body.clone()).header(EVENT, event).header(SIGNATURE, &signature)
    }

    fn signature_of_another_form(&mut self) -> Outgoing {
        let signature = self.signature();
        let digits = signature.trim_start_matches("sha256=");
        let forms = [
            digits.to_owned(),
            format!("sha1={digits}"),
            format!("SHA256={digits}"),
            format!(" {signature}"),
            format!("{signature}\n"),
            format!("{signature}00"),
            signature[..self.random.usize(1..signature.len())].to_owned(),
            format!("{signature},{signature}"),
            "sha256=".to_owned() + &"g".repeat(64),
            "sha256=".to_owned() + &"0".repeat(64),
        ];
        let form = self.random.choice(&forms).unwrap();
        // MQTT allows no control characters in a property: mosquitto ends the connection.
        if form.contains(char::is_control) || self.random.bool() {
            return self.enveloped(form, &self.body);
        }
        self.sent(self.body.clone(), form)
    }

    fn signature_of_other_bytes(&mut self) -> Outgoing {
        if self.random.bool() {
            return self.sent(self.form(), &self.signature());
        }
        let mut spaced = self.body.clone();
        spaced.push(b'\n');
        self.sent(spaced, &self.signature())
    }

    fn swapped_topic(&mut self) -> Outgoing {
        if self.random.u8(..3) == 0 {
            let topics = ["github/acme/other", "github/acme/api/x", "other/acme/api", "github/acme"];
            let topic = (*self.random.choice(&topics).unwrap()).to_owned();
            return Outgoing { topic, ..self.sent(self.body.clone(), &self.signature()) };
        }
        let other = Push { repo: "acme/other".to_owned(), ..Push::new("acme/other", 'f') };
        let good = if self.random.bool() { self.good(&other) } else { self.good_in_envelope(&other) };
        Outgoing { topic: self.deployed.topic(), ..good }
    }

    fn nested_envelope(&mut self) -> Outgoing {
        let mut inner = envelope(&json!({SIGNATURE: self.signature()}), &self.body);
        for _ in 0..self.random.usize(1..5) {
            inner = envelope(&json!({SIGNATURE: self.right.sign(&inner)}), &inner);
        }
        self.send(inner)
    }

    fn signed_envelope(&mut self) -> Outgoing {
        // Where properties are lost, MQTT 3.1.1, what is inside must not be good either.
        let inner = envelope(&json!({SIGNATURE: self.wrong.sign(&self.body)}), &self.body);
        let signature = self.right.sign(&inner);
        self.sent(inner, &signature)
    }

    fn cut_base64(&mut self) -> Outgoing {
        let mut encoded = STANDARD.encode(&self.body);
        encoded.truncate(self.random.usize(..encoded.len()));
        let headers = json!({EVENT: "push", SIGNATURE: self.signature()});
        self.send(json!({"headers": headers, "body_base64": encoded}).to_string())
    }

    fn header_of_the_wrong_type(&mut self) -> Outgoing {
        let signature = self.signature();
        let values = [json!(5), json!(null), json!([signature]), json!({"0": signature}), json!(true)];
        let value = self.random.choice(&values).unwrap().clone();
        let headers =
            self.random.choice([json!({SIGNATURE: value}), value, json!([[SIGNATURE, signature]])]).unwrap();
        self.send(envelope(&headers, &self.body))
    }

    fn header_twice(&mut self) -> Outgoing {
        let wrong = self.wrong.sign(&self.body);
        if self.random.bool() {
            return self.sent(self.body.clone(), &self.signature()).header("x-hub-signature-256", &wrong);
        }
        let headers = json!({SIGNATURE: self.signature(), SIGNATURE.to_lowercase(): wrong});
        self.send(envelope(&headers, &self.body))
    }

    fn key_twice(&mut self) -> Outgoing {
        let headers = json!({SIGNATURE: self.signature()});
        let other = json!(String::from_utf8(self.body.clone()).unwrap());
        let twice = self.random.choice(["headers", "body"]).unwrap();
        let more = if twice == "headers" { &headers } else { &other };
        self.send(format!(r#"{{"headers":{headers},"body":{other},"{twice}":{more}}}"#))
    }

    fn huge_headers(&mut self) -> Outgoing {
        let huge = "0".repeat(self.random.usize(10_000..60_000));
        let name = self.random.choice([SIGNATURE, "X-GitHub-Delivery", "X-Other", &huge]).unwrap();
        if self.random.bool() {
            return self.send(self.body.clone()).header(name, &huge);
        }
        self.send(envelope(&json!({name: huge}), &self.body))
    }

    fn replay(&mut self) -> Outgoing {
        self.good(&self.deployed)
    }

    fn stale(&mut self) -> Outgoing {
        let pushed_at = self.deployed.pushed_at - self.random.u64(1..DAY / 2);
        self.good(&Push { pushed_at, ..Push::new(&self.deployed.repo, 'f') })
    }

    fn too_old(&mut self) -> Outgoing {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let pushed_at = now - self.random.u64(DAY + 60..900 * DAY);
        self.good_in_envelope(&Push { pushed_at, ..Push::new(&self.deployed.repo, 'f') })
    }

    fn undated(&mut self) -> Outgoing {
        let body = Push { after: commit('f'), ..self.deployed.clone() }.json_of_2012().to_string();
        let signature = self.right.sign(body.as_bytes());
        if self.random.bool() {
            self.sent(body, &signature)
        } else {
            self.enveloped(&signature, body.as_bytes())
        }
    }
}

/// What carries headers for publishers without MQTT 5.
pub fn envelope(headers: &Value, body: &[u8]) -> Vec<u8> {
    json!({"headers": headers, "body_base64": STANDARD.encode(body)}).to_string().into_bytes()
}
