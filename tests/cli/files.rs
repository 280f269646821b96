//! Mistakes in files: those that the configuration names, and its own.

use std::path::PathBuf;
use std::process::Command;

use crate::{Directory, agent, assert_mistakes, beside_apps, complaints_about, in_mqtt};

#[test]
fn files_and_their_neighbours_are_explained() {
    let missing = ["mqtt.password_file: /no/such/file: No such file"];
    assert_mistakes(&in_mqtt("username: a\n  password_file: /no/such/file"), &[(4, &missing)]);
    let directory = ["mqtt.password_file: /tmp: is a directory"];
    assert_mistakes(&in_mqtt("username: a\n  password_file: /tmp"), &[(4, &directory)]);
    let directory = certificates();
    let path = |name: &str| directory.0.path().join(name).display().to_string();
    let password = directory.write("password", "hunter2\n");
    let alone = ["mqtt.password_file: ", "mqtt.username"];
    assert_mistakes(&in_mqtt(&format!("password_file: {}", password.display())), &[(3, &alone)]);
    let key = ["mqtt.cert_file: needs mqtt.key_file"];
    assert_mistakes(&in_mqtt(&format!("cert_file: {}", path("cert.pem"))), &[(3, &key)]);
    let cert = ["mqtt.key_file: needs mqtt.cert_file"];
    assert_mistakes(&in_mqtt(&format!("key_file: {}", path("key.pem"))), &[(3, &cert)]);
    assert_mistakes(&in_mqtt("ca_file: ca.pem"), &[(3, &["mqtt.ca_file: ca.pem: must be an absolute path"])]);
    let plain = in_mqtt(&format!("ca_file: {}", path("cert.pem"))).replace("mqtts://", "mqtt://");
    assert_mistakes(&plain, &[(3, &["mqtt.ca_file: needs a broker with TLS", "mqtts://"])]);
    let plain = in_mqtt("alpn: x").replace("mqtts://", "mqtt://");
    assert_mistakes(&plain, &[(3, &["mqtt.alpn: needs a broker with TLS", "mqtts://"])]);
}

/// Two certificates that signed themselves, and their keys.
fn certificates() -> Directory {
    let directory = Directory::new();
    let script = "for prefix in '' other-; do \
                    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=x \
                      -keyout ${prefix}key.pem -out ${prefix}cert.pem || exit; \
                  done";
    let made = Command::new("sh").args(["-c", script]).current_dir(directory.0.path()).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    directory
}

#[test]
fn files_that_no_connection_could_use_are_named() {
    let directory = certificates();
    let path = |name: &str| directory.0.path().join(name).display().to_string();
    let fifo = Command::new("mkfifo").arg(path("fifo")).status().unwrap();
    assert!(fifo.success());
    for (name, content) in [("empty", ""), ("blank", "\nhunter2\n"), ("words", "hunter2\n")] {
        directory.write(name, content);
    }
    let right = format!("cert_file: {}\n  key_file: {}", path("cert.pem"), path("key.pem"));
    let file = directory.write("right.yaml", in_mqtt(&format!("{right}\n  ca_file: {}", path("cert.pem"))));
    assert!(agent(&["check", "--config", file.to_str().unwrap()]).status.success());
    for (key, name, problem) in [
        ("password_file", "fifo", "is no regular file"),
        ("password_file", "empty", "has no password in its first line"),
        ("password_file", "blank", "has no password in its first line"),
        ("ca_file", "fifo", "is no regular file"),
        ("ca_file", "empty", "holds no certificate in PEM form"),
        ("ca_file", "words", "holds no certificate in PEM form"),
        ("ca_file", "key.pem", "holds no certificate in PEM form"),
    ] {
        let text = in_mqtt(&format!("{key}: {}\n  username: a", path(name)));
        assert_mistakes(&text, &[(3, &[&format!("mqtt.{key}: {}", path(name)), problem])]);
    }
    let wrong = |from: &str, to: &str| in_mqtt(&right.replace(&path(from), &path(to)));
    assert_mistakes(&wrong("cert.pem", "words"), &[(3, &["mqtt.cert_file: ", "words holds no certificate"])]);
    assert_mistakes(
        &wrong("key.pem", "cert.pem"),
        &[(4, &["mqtt.key_file: ", "cert.pem holds no private key"])],
    );
    let pair = ["mqtt.cert_file: ", "cannot be used with mqtt.key_file ", "other-key.pem"];
    assert_mistakes(&wrong("key.pem", "other-key.pem"), &[(3, &pair)]);
    let words = path("words");
    let mistake = format!("state_dir: {words}: is there already, but is no directory");
    assert_mistakes(&beside_apps(&format!("state_dir: {words}")), &[(1, &[&mistake])]);
    let mistake = format!("state_dir: {words}/state: lies below");
    assert_mistakes(&beside_apps(&format!("state_dir: {words}/state")), &[(1, &[&mistake])]);
}

#[test]
fn files_that_are_no_configuration_are_named() {
    let directory = Directory::new();
    let nested = format!("apps: {}\n", "[".repeat(100_000));
    let cases: [(&str, &[u8], &str); 8] = [
        ("binary", b"\x7fELF\x02\x01\x01\x00\x00\xff\xfe", "not UTF-8"),
        ("nul", b"mqtt:\n  url: \x00\n", "control character"),
        ("latin1", b"environment: gr\xf6\xdfe\n", "not UTF-8 text (byte 15)"),
        ("nested", nested.as_bytes(), "recursion limit"),
        ("list", b"- a\n", "must be a mapping with the keys mqtt, apps"),
        ("text", b"hello\n", "must be a mapping with the keys mqtt, apps"),
        ("empty", b"", "is empty: it was named by --config"),
        ("comments", b"# soon\n", "is empty: it was named by --config"),
    ];
    for (name, content, part) in cases {
        let path = directory.write(name, content);
        let lines = complaints_about(&path, &[]);
        assert_eq!(lines.len(), 1, "{name}: {lines:?}");
        assert!(lines[0].starts_with(path.to_str().unwrap()) && lines[0].contains(part), "{name}: {lines:?}");
    }
    for (path, part) in [
        (directory.0.path().join("missing"), "does not exist"),
        (directory.0.path().to_owned(), "irectory"),
        (PathBuf::from("/dev/zero"), "larger than 16 MiB"),
    ] {
        let lines = complaints_about(&path, &[]);
        assert!(lines.len() == 1 && lines[0].contains(part), "{lines:?}");
        assert!(lines[0].starts_with(path.to_str().unwrap()), "{lines:?}");
    }
}

#[test]
fn an_alias_bomb_is_refused() {
    let bomb = (0..9).fold("environment:\n- &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, n| {
        text + &format!("- &a{} [{}]\n", n + 1, vec![format!("*a{n}"); 10].join(", "))
    });
    assert_mistakes(
        &bomb,
        &[(6, &["the document is too large or too complex once its aliases are expanded"])],
    );
}

#[test]
fn all_mistakes_are_reported_at_once_in_the_order_of_their_lines() {
    let text = "apps:\n- repo: acme\n  service: -x\n  settle: 5\n- repo: acme/web\n  service: web\n  retries: x\n\
                max_parallel: 0\nstagger: later\nmqtt:\n  url: http://x\n  keep_alive: 1s\n  protocol: 6\n";
    assert_mistakes(
        text,
        &[
            (2, &["apps[0].repo: "]),
            (3, &["apps[0].service: "]),
            (4, &["apps[0].settle: "]),
            (7, &["apps[1].retries: "]),
            (8, &["max_parallel: "]),
            (9, &["stagger: "]),
            (11, &["mqtt.url: "]),
            (12, &["mqtt.keep_alive: "]),
            (13, &["mqtt.protocol: "]),
        ],
    );
}
