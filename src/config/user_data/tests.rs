#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;

const DOCUMENT: &str = "#instance-agent\nmqtt: {url: mqtt://localhost}\nenvironment: demo\n";
const CLOUD_CONFIG: &str =
    "#cloud-config\npackages: [curl]\ninstance_agent:\n  environment: demo\nruncmd: [[echo, hi]]\n";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// As Terraform's `cloudinit_config`, cloud-init's `make-mime` and Python's `email` write it.
fn mime(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut message =
        b"Content-Type: multipart/mixed; boundary=\"==BOUNDARY==\"\nMIME-Version: 1.0\n\n".to_vec();
    for (headers, body) in parts {
        message.extend_from_slice(format!("--==BOUNDARY==\n{headers}\n\n").as_bytes());
        message.extend_from_slice(body);
        message.extend_from_slice(b"\n");
    }
    message.extend_from_slice(b"--==BOUNDARY==--\n");
    message
}

/// The source, and the line of the environment.
fn found(raw: &[u8]) -> (String, u64) {
    match read(raw) {
        Ok(UserData::Configuration(source, fragment)) => {
            let environment = fragment.environment.unwrap_or_else(|| panic!("no environment: {raw:?}"));
            (source.to_string(), environment.referenced.line())
        }
        other => panic!("{other:?}\n{}", String::from_utf8_lossy(raw)),
    }
}

fn foreign(raw: &[u8]) -> &'static str {
    match read(raw) {
        Ok(UserData::Foreign(what)) => what,
        other => panic!("{other:?}\n{}", String::from_utf8_lossy(raw)),
    }
}

fn damaged(raw: &[u8]) -> String {
    match read(raw) {
        Ok(UserData::Damaged(what)) => what,
        other => panic!("{other:?}\n{}", String::from_utf8_lossy(raw)),
    }
}

fn mistake(raw: impl AsRef<[u8]>) -> String {
    read(raw.as_ref()).unwrap_err().to_string()
}

#[test]
fn each_form_is_found_however_it_is_written() {
    let own: &[u8] = b"environment: demo\n";
    let base64 = STANDARD.encode(CLOUD_CONFIG);
    let latin =
        ("Content-Type: text/x-shellscript; charset=iso-8859-1", &b"#!/bin/sh\necho Gr\xfc\xdfe\n"[..]);
    let own_type = "Content-Type: text/x-instance-agent; charset=\"utf-8\"\nMIME-Version: 1.0";
    let cloud_type = "Content-Type: text/cloud-config\nContent-Transfer-Encoding: base64";
    let named =
        "Content-Disposition: attachment; filename=\"agent.yaml\"\nContent-Type: TEXT/X-Instance-Agent";
    let forms = [
        (DOCUMENT.as_bytes().to_vec(), "user-data (#instance-agent)", 3),
        (CLOUD_CONFIG.as_bytes().to_vec(), "user-data (#cloud-config)", 4),
        (mime(&[latin, (own_type, own)]), "user-data (MIME part 2)", 1),
        (mime(&[(cloud_type, base64.as_bytes()), latin]), "user-data (MIME part 1)", 4),
        (mime(&[("Content-Type: text/plain", CLOUD_CONFIG.as_bytes())]), "user-data (MIME part 1)", 4),
        (mime(&[("Content-Type: text/plain", DOCUMENT.as_bytes())]), "user-data (MIME part 1)", 3),
        (mime(&[latin, latin, (named, own)]), "user-data (MIME part 3)", 1),
    ];
    for (bytes, source, line) in forms {
        let with_bom = [&b"\xef\xbb\xbf"[..], &bytes].concat();
        let mut crlf = Vec::new();
        for byte in &bytes {
            crlf.extend_from_slice(if *byte == b'\n' { b"\r\n" } else { std::slice::from_ref(byte) });
        }
        for raw in [bytes, with_bom, crlf] {
            assert_eq!(found(&raw), (source.to_owned(), line), "{}", String::from_utf8_lossy(&raw));
            assert_eq!(found(&gzip(&raw)), (source.to_owned(), line));
        }
    }
}

#[test]
fn a_single_part_and_nested_multiparts_are_mime_too() {
    let single = b"MIME-Version: 1.0\nContent-Type: text/x-instance-agent\n\nenvironment: demo\n";
    assert_eq!(found(single).0, "user-data (MIME part 1)");
    let inner = b"--IN\nContent-Type: text/x-instance-agent\n\nenvironment: demo\n--IN--\n";
    let nested = mime(&[("Content-Type: multipart/mixed; boundary=IN", inner)]);
    assert_eq!(found(&nested).0, "user-data (MIME part 1)");
    let mut mbox = b"From nobody Sat Nov 21 10:00:00 2026\n".to_vec();
    mbox.extend_from_slice(&mime(&[("Content-Type: text/x-instance-agent", b"environment: demo")]));
    assert_eq!(found(&mbox).0, "user-data (MIME part 1)");
}

#[test]
fn what_is_meant_for_others_is_named_and_not_repeated() {
    let base64 = STANDARD.encode(CLOUD_CONFIG);
    for (raw, what) in [
        (&b""[..], "empty"),
        (b" \n\n", "empty"),
        (b"#!/bin/sh\nexport PASSWORD=hunter2\n", "a script"),
        (b"#!/bin/sh\ncat <<EOF\nMIME-Version: 1.0\n", "a script"),
        (b"#cloud-config\npassword: hunter2\npassword: [\n", "a #cloud-config without instance_agent:"),
        (b"#cloud-config\n# instance_agent: later\n", "a #cloud-config without instance_agent:"),
        (b"#cloud-config\ninstance_agent:\n", "a #cloud-config without instance_agent:"),
        (b"#instance-agent\n# nothing yet\n", "a document that says nothing"),
        (b"#cloud-boothook\n", "a #cloud-boothook"),
        (b"#include\nhttps://example.com/\n", "a list of addresses"),
        (b"## template: jinja\n#cloud-config\ninstance_agent: {}\n", "a template"),
        (b"<powershell>\n", "a script for Windows"),
        (b"mqtt: {url: mqtt://localhost}\n", "text in another form"),
        (b"#instance-agents\n", "text in another form"),
        (base64.as_bytes(), "base64: encoded once too often"),
    ] {
        assert!(foreign(raw).starts_with(what), "{}: {}", String::from_utf8_lossy(raw), foreign(raw));
    }
    let script = mime(&[("Content-Type: text/x-shellscript", b"#!/bin/sh\n")]);
    assert!(foreign(&script).starts_with("a MIME message without a part"), "{}", foreign(&script));
}

#[test]
fn what_is_damaged_is_no_configuration() {
    let whole = mime(&[("Content-Type: text/x-instance-agent", b"environment: demo\n")]);
    let cut = &whole[..whole.len() - 20];
    assert!(damaged(cut).contains("cut off"), "{}", damaged(cut));
    let head = b"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=x\n\n";
    assert!(damaged(head).contains("cut off"), "{}", damaged(head));
    let zipped = gzip(DOCUMENT.as_bytes());
    assert!(damaged(&zipped[..zipped.len() - 9]).starts_with("gzip that cannot be expanded"));
    let bomb = gzip(&vec![b'#'; 12 << 20]);
    assert!(bomb.len() < 16 * 1024, "{}", bomb.len());
    assert_eq!(damaged(&bomb), "gzip that expands to more than 1 MiB");
    assert!(damaged(b"\x00\xff\xfe\x80").starts_with("binary data"));
    let latin = b"#instance-agent\nenvironment: Gr\xfc\xdfe\n";
    assert_eq!(damaged(latin), "not UTF-8 text, but user-data (#instance-agent) must be");
    let latin =
        mime(&[("Content-Type: text/x-instance-agent; charset=utf-8", b"environment: Gr\xfc\xdfe\n")]);
    assert_eq!(damaged(&latin), "not UTF-8 text, but user-data (MIME part 1) must be");
}

#[test]
fn mistakes_name_form_and_line_and_show_no_secret() {
    let unknown = mistake("#cloud-config\nwrite_files: []\ninstance_agent:\n  brokr: x\n");
    assert!(
        unknown.starts_with("user-data (#cloud-config):4: unknown key \"brokr\": allowed here are"),
        "{unknown}"
    );
    let list = mistake("#cloud-config\ninstance_agent: [a]\n");
    assert!(list.starts_with("user-data (#cloud-config):2: instance_agent: is a list"), "{list}");
    let syntax = mistake("#cloud-config\npassword: hunter2\n  hunter2: *hunter2\ninstance_agent: {}\n");
    assert!(syntax.starts_with("user-data (#cloud-config):3: not valid YAML"), "{syntax}");
    assert!(!syntax.contains("hunter2"), "{syntax}");
    let cyclic = mistake("#cloud-config\ninstance_agent: &all\n  apps: [*all]\n");
    assert!(cyclic.starts_with("user-data (#cloud-config):"), "{cyclic}");
    let own = ("Content-Type: text/x-instance-agent", &b"environment: demo\n"[..]);
    let twice = mistake(mime(&[own, own]));
    assert_eq!(
        twice,
        "user-data (MIME part 2): is a second configuration beside user-data (MIME part 1): keep one"
    );
}

/// Tags, merges and octal modes are cloud-init's business, but must not hide what is the agent's.
#[test]
fn the_rest_of_a_cloud_config_may_be_anything() {
    let rest = "#cloud-config\nwrite_files:\n- {path: /a, permissions: 0644, content: !!binary aGk=}\n\
                x: &x {a: 1}\ny:\n  <<: *x\ninstance_agent: {environment: demo}\nz: !custom [~, 1.5, 2026-11-24]\n";
    assert_eq!(found(rest.as_bytes()), ("user-data (#cloud-config)".to_owned(), 7));
}

fn ends(raw: &[u8]) -> Result<(), TestCaseError> {
    let begun = std::time::Instant::now();
    let _ = read(raw);
    // A debug build is some ten times slower.
    prop_assert!(begun.elapsed().as_millis() < 500, "{:?}", begun.elapsed());
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_end_soon(raw in proptest::collection::vec(any::<u8>(), 0..16384)) {
        ends(&raw)?;
    }

    #[test]
    fn any_text_after_a_known_start_ends_soon(
        start in prop_oneof!["#cloud-config\ninstance_agent:\n", "#instance-agent\n", "MIME-Version: 1.0\n"],
        rest in "(\\PC|[\\[\\]{}&*:,\n -]){0,600}",
    ) {
        let raw = format!("{start}{rest}");
        ends(raw.as_bytes())?;
        ends(&gzip(raw.as_bytes()))?;
    }

    #[test]
    fn mutations_of_a_message_end_soon(at in 0_usize..400, byte in any::<u8>(), cut in 0_usize..400) {
        let own = ("Content-Type: text/x-instance-agent\nContent-Transfer-Encoding: base64", &b"ZW52aXJvbm1lbnQ6IGRlbW8K"[..]);
        let mut raw = mime(&[own, ("Content-Type: multipart/mixed; boundary=\"=\"", b"--=\n\n--=--")]);
        let (at, cut) = (at % raw.len(), cut % raw.len());
        raw[at] = byte;
        raw.drain(at..(at + cut).min(raw.len()));
        ends(&raw)?;
        ends(&gzip(&raw))?;
    }
}
