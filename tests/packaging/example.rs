//! The example configuration and the manual page: every key is in both, and the example is valid.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::{packaging, read};

const EXAMPLE: &str = "usr/share/doc/instance-agent/examples/config.yaml";

/// The keys that a configuration may have, from the code that reads it.
fn keys() -> Vec<String> {
    let code = fs::read_to_string(packaging().join("../src/config/fragment.rs")).unwrap();
    let fragments = code.split("\nfragment! {\n").skip(1).map(|rest| rest.split("\n}\n").next().unwrap());
    let fields = fragments.flat_map(str::lines).filter(|line| !line.contains("///"));
    let keys: Vec<_> = fields.filter_map(|line| Some(line.trim().split_once(": ")?.0.to_owned())).collect();
    assert!(keys.len() > 40 && keys.contains(&"password_file".to_owned()), "{keys:?}");
    keys
}

#[test]
fn the_example_has_every_key() {
    let example = read(EXAMPLE);
    for key in keys() {
        let start = format!("{key}:");
        let words = || example.split(|c: char| c.is_whitespace() || "{#,".contains(c));
        assert!(words().any(|word| word == start), "{EXAMPLE} lacks {key}");
    }
}

#[test]
fn the_manual_page_has_every_key() {
    let page = read("usr/share/man/man5/instance-agent.yaml.5");
    for key in keys() {
        let heading = format!(".SH {}\n", key.to_uppercase());
        let shapes = [
            format!("\\fB{key}\\fR"),
            format!(".{key}\\fR"),
            format!("\\fB{key}."),
            format!("\n  {key}:"),
            heading,
        ];
        assert!(shapes.iter().any(|shape| page.contains(shape)), "instance-agent.yaml(5) lacks {key}");
    }
}

#[test]
fn the_example_is_valid() {
    let directory = TempDir::new().unwrap();
    certificates(directory.path());
    for secret in ["password", "webhook-secret"] {
        fs::write(directory.path().join(secret), "sesame\n").unwrap();
    }
    for file in fs::read_dir(&directory).unwrap() {
        fs::set_permissions(file.unwrap().path(), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let there = directory.path().display().to_string();
    // Neither systemd nor upstart need be here.
    let manager = "service_manager: {name: none, stop: [\"true\", \"{service}\"], \
                   start: [\"true\", \"{service}\"], status: [\"true\", \"{service}\"]}";
    let example = read(EXAMPLE).replace(": /etc/instance-agent/", &format!(": {there}/"));
    let example = example.replace("user: deploy", "user: nobody");
    let (before, after) = example.split_once("service_manager: auto").unwrap();
    let file = directory.path().join("config.yaml");
    fs::write(&file, format!("{before}{manager}{after}")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_instance-agent"))
        .args(["check", "--config"])
        .arg(&file)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success() && said.contains("octocat/shop"), "{output:?}");
}

fn certificates(directory: &Path) {
    let script = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=web-7 \
                  -keyout key.pem -out cert.pem && cp cert.pem ca.pem";
    let output = Command::new("sh").args(["-c", script]).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
