//! What is not published, and what is said of it.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

use crate::support::payload::Push;
use crate::support::{Mosquitto, free_port};
use crate::{holds, publish, published, refused};

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const BY_HAND: [&str; 6] = ["--repo", "acme/api", "--ref", "main", "--sha", A];

fn by_hand(port: u16, more: &[&str]) -> std::process::Output {
    let url = format!("mqtt://127.0.0.1:{port}");
    publish(&[&["--broker", &*url], &BY_HAND[..], more].concat(), &[], b"")
}

#[test]
fn contradictions_are_wrong_usage() {
    let cases: [(&[&str], &[&str]); 23] = [
        (&[], &["nothing to publish", "--payload FILE"]),
        (&["--repo", "acme/api", "--ref", "main"], &["--sha is missing"]),
        (&["--again"], &["--repo is missing"]),
        (&["--repo", "acme", "--ref", "main", "--sha", A], &["--repo", "OWNER/NAME"]),
        (
            &["--repo", "acme/api", "--ref", "a b", "--sha", A],
            &["--ref", "not a branch's name", "git-check-ref-format"],
        ),
        (&["--ref", "main "], &["--ref", "begins or ends with white space", "leave it out"]),
        (&["--ref", "refs/heads/main\n"], &["--ref", "begins or ends with white space"]),
        (&["--ref", "refs/main"], &["--ref", "not a full git ref"]),
        (
            &["--repo", "acme/api", "--ref", "main", "--sha", "aaaaaaa"],
            &["--sha", "40 or 64", "git rev-parse"],
        ),
        (&["--sha", "0000000000000000000000000000000000000000"], &["no commit"]),
        (&["--ref", "heads/main"], &["write refs/heads/main"]),
        (&["--ref", "tags/v1"], &["write refs/tags/v1", "refs/heads/tags/v1"]),
        (&["--default-branch", "refs/heads/main"], &["--default-branch", "name alone"]),
        (&["--payload", "-", "--again"], &["--again is for a push made by hand", "--payload"]),
        (&["--payload", "-", "--sha", A], &["--sha is for a push made by hand"]),
        (&["--again", "--retain"], &["--again cannot be retained"]),
        (&["--sha", A, "--header", "X-GitHub-Event: push"], &["--header goes with --payload"]),
        (&["--header", "X-GitHub-Event"], &["NAME: VALUE"]),
        (&["--password-file", "x"], &["--password-file needs --username"]),
        (&["--cert-file", "x"], &["--cert-file needs --key-file"]),
        (&["--ca-file", "x"], &["--ca-file needs a broker with TLS", "mqtts://"]),
        (&["--topic", "github/#"], &["--topic", "without +, #"]),
        (&["--timeout", "soon"], &["--timeout", "30s"]),
    ];
    for (arguments, parts) in cases {
        let output = publish(&[&["--broker", "mqtt://127.0.0.1:1"], arguments].concat(), &[], b"");
        holds(&refused(&output, 2), parts);
    }
    let output = publish(&["--broker", "mqtt://agent:hunter2@127.0.0.1"], &[], b"");
    let complaint = refused(&output, 2);
    holds(&complaint, &["--broker", "--password-file"]);
    assert!(!complaint.contains("hunter2"), "{complaint}");
}

/// MQTT gives the length of a string 16 bits.
#[test]
fn what_mqtt_cannot_carry_is_refused_before_anybody_is_asked() {
    let long = "x".repeat(65_536);
    for option in ["--client-id", "--username"] {
        holds(&refused(&by_hand(1, &[option, &long]), 2), &[option, "is longer than 65535 bytes"]);
        holds(&refused(&by_hand(1, &[option, &long[1..]]), 1), &["127.0.0.1:1", "refused"]);
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    let login = ["--username", "ci", "--password-file", file.to_str().unwrap()];
    fs::write(&file, format!("{long}\n")).unwrap();
    let complaint = refused(&by_hand(1, &login), 1);
    holds(&complaint, &["--password-file", "first line longer than 65535 bytes"]);
    assert!(!complaint.contains("xxx"), "{complaint}");
    fs::write(&file, format!("{}\n", &long[1..])).unwrap();
    holds(&refused(&by_hand(1, &login), 1), &["127.0.0.1:1", "refused"]);
}

#[test]
fn what_agents_would_not_take_never_reaches_the_broker() {
    let push = Push::new("acme/api", 'a');
    let given = |more: &[&str], input: &[u8]| {
        let arguments = ["--broker", "mqtt://127.0.0.1:1", "--payload", "-"];
        publish(&[&arguments[..], more].concat(), &[], input)
    };
    holds(&refused(&given(&[], b""), 1), &["not published", "empty"]);
    holds(&refused(&given(&[], b"{\"zen\": 1}"), 1), &["not a push"]);
    holds(&refused(&given(&[], b"[1, 2"), 1), &["no object"]);
    let signed = ["--slim", "--header", "X-Hub-Signature-256: sha256=00"];
    holds(&refused(&given(&signed, &push.bytes()), 2), &["--slim needs --sign-with"]);
    let elsewhere = given(&["--topic", "github/acme/web"], &push.bytes());
    holds(&refused(&elsewhere, 2), &["the push is for acme/api", "github/acme/web", "PREFIX/+/+"]);
    let unsigned = given(&["--sign-with", "/nowhere"], &push.bytes());
    holds(&refused(&unsigned, 1), &["--sign-with /nowhere", "No such file"]);
    let missing = publish(&["--broker", "mqtt://127.0.0.1:1", "--payload", "/nowhere"], &[], b"");
    holds(&refused(&missing, 1), &["/nowhere: No such file"]);
    let ping = given(&["--header", "X-GitHub-Event: ping"], b"{\"zen\": 1}");
    assert_eq!(published(&ping), "Nothing published: the event is not push.\n");
}

#[test]
fn a_broker_that_lets_nobody_in_or_publish_is_quoted() {
    let broker = Mosquitto::configured(|directory| {
        let (passwords, rules) = (directory.join("passwords"), directory.join("rules"));
        fs::write(&passwords, "").unwrap();
        let made = std::process::Command::new("mosquitto_passwd")
            .args(["-b", passwords.to_str().unwrap(), "ci", "right"])
            .status();
        assert!(made.unwrap().success());
        fs::write(&rules, "user ci\ntopic write github/acme/web\n").unwrap();
        fs::write(directory.join("right"), "right\n").unwrap();
        fs::write(directory.join("wrong"), "wrong\n").unwrap();
        format!("password_file {}\nacl_file {}", passwords.display(), rules.display())
    });
    let login = |file: &str| broker.directory().join(file).display().to_string();
    let (right, wrong) = (login("right"), login("wrong"));
    let as_ci = |password| by_hand(broker.port(), &["--username", "ci", "--password-file", password]);
    holds(
        &refused(&as_ci(&right), 1),
        &["refused the message on github/acme/api", "NotAuthorized", "user ci", "access rules"],
    );
    holds(&refused(&as_ci(&wrong), 1), &["refused client publish-", "--username, --password-file"]);
    let nobody = login("nobody");
    holds(&refused(&as_ci(&nobody), 1), &["cannot read --password-file", "nobody: No such file"]);
}

#[test]
fn a_message_too_large_for_the_broker_says_so() {
    let broker = Mosquitto::configured(|_| "allow_anonymous true\nmax_packet_size 1000".to_owned());
    let url = format!("mqtt://127.0.0.1:{}", broker.port());
    let push = Push::new("acme/api", 'a').bytes();
    let given = |more: &[&str]| publish(&[&["--broker", &*url, "--payload", "-"], more].concat(), &[], &push);
    holds(&refused(&given(&[]), 1), &["takes packets of at most 1000 bytes", "--slim"]);
    let silent = refused(&given(&["--protocol", "3.1.1"]), 1);
    holds(&silent, &["instead of confirming", "github/acme/api", "this size"]);
    published(&given(&["--slim"]));
}

/// A broker that says this to whoever connects, and nothing else. Gives what it has heard in the end.
fn says_only(words: &'static [u8]) -> (u16, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let broker = thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        connection.write_all(words).unwrap();
        let mut heard = Vec::new();
        connection.read_to_end(&mut heard).unwrap();
        heard
    });
    (port, broker)
}

/// A broker that says this to whoever connects, and reads nothing. The connection lasts as long as what is given.
fn accepts_only(words: &'static [u8]) -> (u16, JoinHandle<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let broker = thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        connection.write_all(words).unwrap();
        connection
    });
    (port, broker)
}

#[test]
fn nothing_waits_for_ever() {
    let closed = refused(&by_hand(free_port(), &[]), 1);
    holds(&closed, &["127.0.0.1:", "refused"]);
    let (port, silent) = says_only(b"");
    let late = refused(&by_hand(port, &["--timeout", "200ms"]), 1);
    holds(&late, &["did not accept the connection within 200ms"]);
    assert!(!silent.join().unwrap().is_empty(), "it has been spoken to");
    // A CONNACK, and then it reads no more than fits into the socket.
    let (port, _deaf) = accepts_only(&[0x20, 3, 0, 0, 0]);
    let push = Push::new("acme/api", 'a').bytes_of(24 << 20);
    let url = format!("mqtt://127.0.0.1:{port}");
    let late = publish(&["--broker", &url, "--payload", "-", "--timeout", "2s"], &[], &push);
    holds(&refused(&late, 1), &["did not take all of the message within 2s"]);
    // A CONNACK, and no PUBACK.
    let (port, aloof) = says_only(&[0x20, 3, 0, 0, 0]);
    let late = refused(&by_hand(port, &["--timeout", "200ms"]), 1);
    holds(&late, &["did not confirm the message, though it may have it, within 200ms"]);
    assert!(String::from_utf8_lossy(&aloof.join().unwrap()).contains("acme/api"), "it has been sent");
}
