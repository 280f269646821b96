//! `examples/mosquitto`: the broker that strangers are told to run, as its files say.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use serde::Deserialize;
use tempfile::TempDir;

use crate::support::agent::Instance;
use crate::support::payload::commit;
use crate::support::{LOOK, PATIENCE, free_port};
use crate::{example, holds, publish, published, refused};

#[derive(Deserialize)]
struct Compose {
    services: BTreeMap<String, Service>,
}

#[derive(Deserialize)]
struct Service {
    user: String,
    working_dir: String,
    command: Vec<String>,
    ports: Vec<String>,
    volumes: Vec<String>,
}

/// A mosquitto with the example's configuration, certificates, accounts and rules; gone when dropped.
pub(crate) struct ExampleBroker {
    directory: TempDir,
    port: u16,
    child: Child,
}

impl ExampleBroker {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        // As root the broker runs as somebody else, who must get through.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(directory.path().join("config")).unwrap();
        for file in ["setup", "compose.yaml", "config/mosquitto.conf", "config/acl"] {
            fs::copy(example("mosquitto").join(file), directory.path().join(file)).unwrap();
        }
        let setup = Command::new(directory.path().join("setup"))
            .arg("localhost")
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
            .output()
            .unwrap();
        assert!(setup.status.success(), "{setup:?}");
        let (port, child) = start(directory.path());
        Self { directory, port, child }
    }

    pub(crate) fn url(&self) -> String {
        format!("mqtts://localhost:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn password(&self, account: &str) -> String {
        fs::read_to_string(self.file(&format!("secrets/{account}.password"))).unwrap().trim().to_owned()
    }

    /// What tells `publish` of this broker, and to log in as this account.
    pub(crate) fn login(&self, account: &str) -> Vec<String> {
        let password = self.file(&format!("secrets/{account}.password"));
        ["--broker", &self.url(), "--ca-file", path(&self.file("ca.crt"))]
            .into_iter()
            .chain(["--username", account, "--password-file", path(&password)])
            .map(str::to_owned)
            .collect()
    }

    /// An instance whose agent logs in as agents do.
    pub(crate) fn instance(&self) -> Instance {
        Instance::of(&self.url())
            .mqtt("username: agent")
            .mqtt(&format!("password_file: {}", path(&self.file("secrets/agent.password"))))
            .mqtt(&format!("ca_file: {}", path(&self.file("ca.crt"))))
    }
}

impl Drop for ExampleBroker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// As the container would be: its user, its directory, its command. Only the port is another.
fn start(directory: &Path) -> (u16, Child) {
    let service = service(directory);
    let conf = directory.join("config/mosquitto.conf");
    let text = fs::read_to_string(&conf).unwrap();
    assert!(text.contains("\nlistener 8883\n"), "{text}");
    // The port may be gone again by the time mosquitto wants it.
    for _ in 0..20 {
        let port = free_port();
        fs::write(&conf, text.replace("\nlistener 8883\n", &format!("\nlistener {port} 127.0.0.1\n")))
            .unwrap();
        if let Some(child) = try_start(directory, &service, port) {
            return (port, child);
        }
    }
    panic!("mosquitto does not start");
}

fn service(directory: &Path) -> Service {
    let text = fs::read_to_string(directory.join("compose.yaml")).unwrap();
    let compose: Compose = serde_yaml::from_str(&text).unwrap();
    let service = compose.services.into_values().next().unwrap();
    assert_eq!(service.ports, ["8883:8883"]);
    assert!(service.user.starts_with("${BROKER_USER:?"), "{}", service.user);
    for volume in &service.volumes {
        let (here, there) = volume.trim_end_matches(":ro").split_once(':').unwrap();
        assert!(directory.join(here).is_dir(), "{volume}");
        assert_eq!(there, format!("{}/{}", service.working_dir, here.trim_start_matches("./")));
    }
    service
}

fn try_start(directory: &Path, service: &Service, port: u16) -> Option<Child> {
    let user = fs::read_to_string(directory.join(".env")).unwrap();
    let (uid, gid) = user.trim().strip_prefix("BROKER_USER=").unwrap().split_once(':').unwrap();
    assert_eq!(directory.join("config/tls/server.key").metadata().unwrap().uid().to_string(), uid);
    let mut command = if nix::unistd::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", uid, "--regid", gid, "--clear-groups"]).args(&service.command);
        command
    } else {
        let mut command = Command::new(&service.command[0]);
        command.args(&service.command[1..]);
        command
    };
    command.current_dir(directory).env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Some(child);
        }
        assert!(Instant::now() < deadline, "mosquitto neither listens nor ends");
        thread::sleep(LOOK);
    }
    None
}

#[test]
fn agents_only_read_and_the_publisher_only_writes() {
    let broker = ExampleBroker::start();
    let instance = broker.instance();
    instance.configure("apps: [{repo: acme/api, service: api, branch: main, settle: 0s}]");
    let agent = instance.start();
    agent.subscribed(1);
    let by_hand = |login: &[String], more: &[&str]| {
        let a = commit('a');
        let push = ["--repo", "acme/api", "--ref", "main", "--sha", &a];
        let login = login.iter().map(String::as_str);
        publish(&login.chain(push).chain(more.iter().copied()).collect::<Vec<_>>(), &[], b"")
    };
    let publisher = broker.login("publisher");
    let url = [publisher[0].clone(), publisher[1].clone()];
    let denied = "NotAuthorized";
    holds(&refused(&by_hand(&broker.login("agent"), &[]), 1), &["refused the message", denied, "user agent"]);
    holds(&refused(&by_hand(&publisher, &["--topic", "other/+/+"]), 1), &["other/acme/api", denied]);
    holds(&refused(&by_hand(&publisher[..4], &[]), 1), &["refused client", denied]);
    holds(&refused(&by_hand(&url, &[]), 1), &["no TLS with", "UnknownIssuer", "--ca-file"]);
    let in_the_clear = [url[0].clone(), url[1].replace("mqtts:", "mqtt:")];
    refused(&by_hand(&in_the_clear, &[]), 1);
    published(&by_hand(&publisher, &[]));
    agent.logged("deployed", &[("sha", &commit('a'))]);
    assert_eq!(agent.instance.history("api").len(), 1, "{}", agent.report());
}

#[test]
fn setup_again_keeps_the_authority_and_the_accounts() {
    let broker = ExampleBroker::start();
    let kept = ["ca.crt", "config/passwords", "secrets/agent.password"];
    let read = |name: &str| fs::read(broker.file(name)).unwrap();
    let (before, certificate) = (kept.map(read), read("config/tls/server.crt"));
    let setup = |name: &str| Command::new(broker.file("setup")).arg(name).output().unwrap();
    assert!(setup("127.0.0.1").status.success());
    assert_eq!(kept.map(read), before);
    assert_ne!(read("config/tls/server.crt"), certificate, "a new one");
    assert_eq!(setup("a b").status.code(), Some(2));
}
