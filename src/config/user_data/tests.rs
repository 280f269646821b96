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
fn found(raw: &[u8]) -> (String, u32) {
    match read(raw) {
        Ok(UserData::Configuration(source, fragment)) => {
            let environment = fragment.environment.unwrap_or_else(|| panic!("no environment: {raw:?}"));
            (source.to_string(), environment.line)
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
        (
            b"#cloud-config-jsonp\n[{\"op\": \"add\", \"path\": \"/instance_agent\", \"value\": {}}]\n",
            "a #cloud-config-jsonp",
        ),
        (b"#instance-agent\n# nothing yet\n", "a document that says nothing"),
        (b"#cloud-boothook\n", "a #cloud-boothook"),
        (b"#include\nhttps://example.com/\n", "a list of addresses"),
        (b"## template: jinja\n#cloud-config\ninstance_agent: {}\n", "a template"),
        (b"<powershell>\n", "a script for Windows"),
        (b"mqtt: {url: mqtt://localhost}\n", OTHER_TEXT),
        (b"#instance-agents\n", OTHER_TEXT),
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
    let empty = mistake("#cloud-config\ninstance_agent:\n");
    assert!(empty.starts_with("user-data (#cloud-config):2: instance_agent: is empty"), "{empty}");
    let syntax = mistake("#cloud-config\ninstance_agent:\n  environment: hunter2\n    hunter2: *hunter2\n");
    assert!(syntax.starts_with("user-data (#cloud-config):4: not valid YAML"), "{syntax}");
    let twice = mistake("#instance-agent\napps:\n- branch: {hunter2: a, hunter2: b}\n");
    assert!(twice.starts_with("user-data (#instance-agent):3: a key is given twice"), "{twice}");
    assert!(!syntax.contains("hunter2") && !twice.contains("hunter2"), "{syntax}\n{twice}");
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

/// cloud-init's parser takes some of it, but even what it does not take is not the agent's to complain of.
#[test]
fn mistakes_of_others_are_neither_errors_nor_repeated_nor_in_the_way() {
    for rest in
        ["hunter2: 1\nhunter2: 2\n", "password: hunter2\n  hunter2: *hunter2\n", "hunter2\n", "a: \u{7}\n"]
    {
        let ours = "instance_agent:\n  # ours\n\n  environment: demo\n";
        let (line, before) =
            (5 + u32::try_from(rest.lines().count()).unwrap(), format!("#cloud-config\n{rest}{ours}"));
        assert_eq!(found(before.as_bytes()), ("user-data (#cloud-config)".to_owned(), line));
        assert_eq!(found(format!("#cloud-config\n{ours}{rest}").as_bytes()).1, 5, "{rest}");
        let wrong = mistake(format!("#cloud-config\n{rest}instance_agent:\n  brokr: x\n"));
        let place = format!("user-data (#cloud-config):{}: unknown key \"brokr\"", line - 2);
        assert!(wrong.starts_with(&place) && !wrong.contains("hunter2"), "{wrong}");
        // Perhaps the agent's, perhaps not: beside a file that is a warning.
        let mentioned =
            damaged(format!("#cloud-config\n{rest}runcmd: [instance_agent, {{instance_agent: \n").as_bytes());
        assert!(
            mentioned.starts_with("a #cloud-config with instance_agent in it, but user-data"),
            "{mentioned}"
        );
        assert!(!mentioned.contains("hunter2"), "{mentioned}");
        let part = ("Content-Type: text/cloud-config", format!("{rest}instance_agent_: [{{\n"));
        let own = ("Content-Type: text/x-instance-agent", &b"environment: demo"[..]);
        let both = mime(&[(part.0, part.1.as_bytes()), own, (part.0, part.1.as_bytes())]);
        assert_eq!(found(&both).0, "user-data (MIME part 2)");
    }
}

#[test]
fn the_own_part_of_a_cloud_config_is_found_whole() {
    let broken = "a: 1\na: 2\n";
    for value in
        ["{\n  environment: demo\n}\n", "{environment: demo,\n}\n# more\n", "\n  environment: demo\r\n\r\n"]
    {
        let raw = format!("#cloud-config\ninstance_agent: {value}{broken}");
        assert_eq!(found(raw.as_bytes()).0, "user-data (#cloud-config)", "{raw}");
    }
    let twice =
        format!("#cloud-config\ninstance_agent: {{}}\nb: 1\ninstance_agent: {{environment: demo}}\n{broken}");
    assert!(
        mistake(&twice).starts_with("user-data (#cloud-config):4: a key is given twice"),
        "{}",
        mistake(&twice)
    );
    let flow = mistake("#cloud-config\n{a: 1, \"instance_agent\": {brokr: x}}\n");
    assert!(flow.starts_with("user-data (#cloud-config):2: unknown key \"brokr\""), "{flow}");
    let list = mistake(format!("#cloud-config\ninstance_agent:\n- a\n- b\n{broken}"));
    assert!(list.starts_with("user-data (#cloud-config):3: instance_agent: is a list"), "{list}");
}

/// Nanoseconds that this thread has had a processor.
fn cpu_time() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// What nests or repeats as much as fits into what is expanded at most, and is small when it is compressed.
fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    let filled = |start: &str, more: &str| {
        let count = (usize::try_from(MAX_EXPANDED).unwrap() - start.len()) / more.len();
        (start.to_owned() + &more.repeat(count)).into_bytes()
    };
    let head = "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=x\n\n";
    let own = "MIME-Version: 1.0\nContent-Type: text/x-instance-agent";
    let inner = base64_lines(&filled(head, "--x\nContent-Type: multipart/mixed; boundary=y\n\n")[..700_000]);
    vec![
        ("parts", filled(head, "--x\n\n")),
        ("multiparts without end", filled(head, "--x\nContent-Type: multipart/mixed; boundary=x\n\n")),
        ("multiparts without beginning", filled(head, "--x\nContent-Type: multipart/mixed; boundary=y\n\n")),
        ("messages", filled(head, "--x\nContent-Type: message/rfc822\n\n")),
        (
            "an encoded message",
            [
                b"MIME-Version: 1.0\nContent-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\n",
                &inner[..],
            ]
            .concat(),
        ),
        ("headers", filled(head.trim_end(), "\na:b")),
        ("attributes", filled(own, ";\n a*0=b")),
        ("comments", filled(own, "(")),
        (
            "soft ends of lines",
            filled(
                "MIME-Version: 1.0\nContent-Type: text/x-instance-agent\nContent-Transfer-Encoding: quoted-printable\n\n",
                "=\n",
            ),
        ),
        ("lists", filled("#instance-agent\n", "[")),
        ("mappings", filled("#instance-agent\n", "{a: ")),
        ("items", filled("#cloud-config\ninstance_agent: {}\nx:\n", "- [a, b]\n")),
        ("anchors", filled("#cloud-config\ninstance_agent: {}\nx:\n", "- &a a\n- *a\n")),
        ("one long text", filled("#instance-agent\nenvironment: \"", "\\x41")),
        ("own keys", filled("#cloud-config\n", "instance_agent: {}\n")),
        ("digits", filled("", "IyMj")),
        ("white space", filled("", " ")),
    ]
}

fn base64_lines(bytes: &[u8]) -> Vec<u8> {
    let text = STANDARD.encode(bytes).into_bytes();
    text.chunks(76).flat_map(|line| [line, b"\n"].concat()).collect()
}

/// In nanoseconds. A debug build takes several times as long.
const CPU_LIMIT: u64 = if cfg!(debug_assertions) { 500_000_000 } else { 50_000_000 };

#[test]
fn what_is_hostile_costs_no_more_than_its_size() {
    for (what, expanded) in hostile() {
        let raw = gzip(&expanded);
        assert!(raw.len() <= 16 * 1024, "{what}: {} bytes", raw.len());
        let begun = cpu_time();
        let _ = read(&raw);
        let taken = cpu_time() - begun;
        assert!(taken < CPU_LIMIT, "{what}: {} ms", taken / 1_000_000);
    }
}

fn ends(raw: &[u8]) -> Result<(), TestCaseError> {
    let begun = cpu_time();
    let _ = read(raw);
    let taken = cpu_time() - begun;
    prop_assert!(taken < CPU_LIMIT, "{} ms", taken / 1_000_000);
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
