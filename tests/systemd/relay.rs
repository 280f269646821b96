//! `examples/webhook-relay` as its README installs it: the distribution's unit of webhook(1) with the drop-in, without
//! root's rights.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use ring::hmac;

use super::agent::{Broker, until};
use super::transient::HELPER;
use super::{must_be_inside, systemctl};

pub(super) const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/webhook-relay");
const PORT: &str = "18832";
const SECRET: &str = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
const BODY: &str = r#"{"ref":"refs/heads/main",  "after":"7fd1a60b01f91b314f59955a4e4d4e80d8edf11d",
                       "repository":{"full_name":"octocat/hello"}}"#;

/// Lets in only who knows the password.
fn broker() -> Broker {
    let accounts = Path::new("/run/relay-accounts");
    fs::write(accounts, "publisher:hunter2\n").unwrap();
    assert!(Command::new("mosquitto_passwd").arg("-U").arg(accounts).status().unwrap().success());
    let conf = format!(
        "user root\nlistener {PORT} 127.0.0.1\nallow_anonymous false\npassword_file {}\n",
        accounts.display()
    );
    fs::write("/run/relay-broker.conf", conf).unwrap();
    Broker(Command::new("mosquitto").args(["-c", "/run/relay-broker.conf"]).spawn().unwrap())
}

/// The table of the README.
fn install() {
    let put = |from: &str, to: &str, mode: u32| {
        let to = Path::new(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(Path::new(EXAMPLE).join(from), to).unwrap();
        fs::set_permissions(to, Permissions::from_mode(mode)).unwrap();
    };
    put("hooks.json", "/etc/webhook-relay/hooks.json", 0o644);
    put("relay", "/usr/local/lib/webhook-relay/relay", 0o755);
    put("relay.env", "/etc/webhook-relay/env", 0o600);
    put("webhook.service.conf", "/etc/systemd/system/webhook.service.d/relay.conf", 0o644);
    put(HELPER, "/usr/local/bin/instance-agent", 0o755);
    fs::write("/etc/webhook-relay/password", "hunter2\n").unwrap();
    fs::set_permissions("/etc/webhook-relay/password", Permissions::from_mode(0o600)).unwrap();
    let env = fs::read_to_string("/etc/webhook-relay/env").unwrap();
    let filled = env
        .replace("WEBHOOK_SECRET=\n", &format!("WEBHOOK_SECRET={SECRET}\n"))
        .replace("mqtts://broker.example.com", &format!("mqtt://127.0.0.1:{PORT}"));
    fs::write("/etc/webhook-relay/env", filled).unwrap();
}

fn signature() -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), BODY.as_bytes());
    tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A signed delivery, and the whole answer.
fn delivered() -> String {
    let mut connection = TcpStream::connect("127.0.0.1:9000").unwrap();
    let request = format!(
        "POST /hooks/github HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         X-GitHub-Event: push\r\nX-GitHub-Delivery: 72d3162e-cc78-11e3\r\nX-Hub-Signature-256: sha256={}\r\n\
         Content-Length: {}\r\n\r\n{BODY}",
        signature(),
        BODY.len()
    );
    connection.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
#[ignore = "runs inside the container"]
fn case_the_relay_publishes_without_roots_rights() {
    must_be_inside();
    install();
    let _broker = broker();
    until("mosquitto listens", || TcpStream::connect(format!("127.0.0.1:{PORT}")).is_ok());
    systemctl(&["daemon-reload"]);
    systemctl(&["restart", "webhook"]);
    until("webhook listens", || TcpStream::connect("127.0.0.1:9000").is_ok());
    let answer = delivered();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("Published on github/octocat/hello"), "{answer}");
    let user =
        Command::new("systemctl").args(["show", "--property=User,DynamicUser", "webhook"]).output().unwrap();
    assert!(String::from_utf8_lossy(&user.stdout).contains("DynamicUser=yes"));
}
