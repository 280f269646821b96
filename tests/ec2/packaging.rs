//! What is under `packaging/user-data/` can be used as it stands.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use instance_agent::config::{Flags, Host, Loaded, Loader, Request};
use instance_agent::ec2::Platform;

use crate::support::PATIENCE;
use crate::support::imds::Imds;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/user-data")
}

fn read(name: &str) -> String {
    let text = fs::read_to_string(directory().join(name)).unwrap();
    assert!(text.len() < 16 * 1024, "{name} is larger than EC2 allows");
    text
}

/// The tags that the launch template gives.
fn tags() -> Vec<(String, String)> {
    let template = read("launch-template.tf");
    let lines = template.lines().filter_map(|line| line.trim().strip_prefix('"')?.split_once("\" "));
    let value = |value: &str| value.trim().strip_prefix("= \"").unwrap().trim_end_matches('"').to_owned();
    lines.map(|(key, rest)| (key.to_owned(), value(rest))).collect()
}

/// Loads the configuration of an instance with this user-data or file, and the launch template's tags.
async fn load(user_data: Option<&str>, file: Option<&str>) -> Loaded {
    let directory = tempfile::tempdir().unwrap();
    let etc = directory.path().display().to_string();
    let password = directory.path().join("password");
    fs::write(&password, "hunter2\n").unwrap();
    fs::set_permissions(&password, Permissions::from_mode(0o600)).unwrap();
    let path = file.map(|text| {
        let path = directory.path().join("config.yaml");
        fs::write(&path, text.replace("/etc/instance-agent", &etc)).unwrap();
        path
    });
    let imds = Imds::start();
    imds.state().user_data = user_data.map(|text| text.replace("/etc/instance-agent", &etc).into_bytes());
    imds.state().tags = Some(tags().into_iter().collect());
    let platform = Platform { is_ec2: true, instance_id: None };
    let host = Host { machine: String::new(), platform, own_units: Vec::new() };
    let request = Request { file: path, flags: Flags::default() };
    let mut loader = Loader::new(request, host, Some(&imds.endpoint())).unwrap();
    loader.load(PATIENCE).await.unwrap()
}

fn assert_is_the_fleet(name: &str, loaded: &Loaded) {
    let settings = &loaded.settings;
    assert_eq!(settings.mqtt.host, "broker.example.com", "{name}");
    assert!(settings.mqtt.password_file.is_some() && settings.mqtt.tls.is_some(), "{name}");
    assert_eq!(settings.environment.as_deref(), Some("production"), "{name}");
    let apps: Vec<_> = settings.apps.iter().map(|app| (app.name.as_str(), app.repo.to_string())).collect();
    assert_eq!(apps, [("hello", "octocat/hello".to_owned()), ("shop", "octocat/shop".to_owned())], "{name}");
    assert!(loaded.warnings.is_empty(), "{name}: {:?}", loaded.warnings);
}

#[tokio::test]
async fn every_file_makes_the_same_fleet() {
    let mut names: Vec<String> = fs::read_dir(directory())
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["bootstrap.sh", "cloud-config.yaml", "instance-agent.yaml", "launch-template.tf"]);
    for name in ["cloud-config.yaml", "instance-agent.yaml"] {
        assert_is_the_fleet(name, &load(Some(&read(name)), None).await);
    }
    let script = load(Some(&read("bootstrap.sh")), Some(&written_by_bootstrap())).await;
    assert_is_the_fleet("bootstrap.sh", &script);
}

#[test]
fn the_launch_template_has_what_the_agent_needs() {
    let template = read("launch-template.tf");
    let words: String = template.split_whitespace().collect::<Vec<_>>().join(" ");
    for setting in ["http_tokens = \"required\"", "instance_metadata_tags = \"enabled\""] {
        assert!(words.contains(setting), "{setting}");
    }
    assert_eq!(tags().len(), 4, "{:?}", tags());
}

fn bootstrap(variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new("sh");
    command.arg(directory().join("bootstrap.sh")).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.envs(variables.iter().copied()).output().unwrap()
}

/// The configuration that a dry run shows.
fn written_by_bootstrap() -> String {
    let output = bootstrap(&[("DRY_RUN", "1")]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().skip_while(|line| !line.contains("would write /etc/instance-agent/config.yaml"));
    lines.skip(1).map_while(|line| line.strip_prefix("    ")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_dry_run_of_the_bootstrap_script_shows_each_step() {
    let output =
        bootstrap(&[("DRY_RUN", "1"), ("PACKAGE_URL", "s3://bucket/agent.deb"), ("PASSWORD_PARAMETER", "")]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    for step in
        ["would download s3://bucket/agent.deb", "instance-agent.deb", "config.yaml (mode 0644):", "done"]
    {
        assert!(text.contains(step), "{step}\n{text}");
    }
    assert!(!text.contains("password"), "{text}");
}

#[test]
fn the_bootstrap_script_installs_nothing_that_is_not_what_it_should_be() {
    let package = tempfile::NamedTempFile::new().unwrap();
    let url = format!("file://{}", package.path().display());
    let output = bootstrap(&[("PACKAGE_URL", &url), ("PASSWORD_PARAMETER", "")]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("its SHA-256 is not 000") && text.contains("nothing was installed"), "{text}");
    let missing = bootstrap(&[("PACKAGE_URL", "file:///no/such/file"), ("PASSWORD_PARAMETER", "")]);
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
    assert!(String::from_utf8(missing.stderr).unwrap().contains("cannot be downloaded"));
}
