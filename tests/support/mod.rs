//! What tests of several kinds need: a broker of their own, and the lines that were logged.
#![allow(dead_code, unreachable_pub)]

pub mod agent;
pub mod apps;
pub mod disk;
pub mod forger;
pub mod imds;
pub mod payload;
pub mod program;
pub mod proxy;
pub mod publisher;

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often to look whether something has happened.
pub const LOOK: Duration = Duration::from_millis(5);

/// A mosquitto on a free port of 127.0.0.1, its files in a directory of its own; gone when dropped.
pub struct Mosquitto {
    directory: TempDir,
    port: u16,
    child: Option<Child>,
}

impl Mosquitto {
    /// Anonymous clients may do everything; sessions outlive a restart.
    pub fn start() -> Self {
        Self::configured(|_| "allow_anonymous true".to_owned())
    }

    /// Adds these lines to the configuration, after its listener. They may name files made in the directory.
    pub fn configured(lines: impl FnOnce(&Path) -> String) -> Self {
        let general = |path: &str| {
            format!(
                "user root\npersistence true\npersistence_location {path}/\nautosave_on_changes true\n\
                 autosave_interval 1\nlog_dest file {path}/log\nlog_type all\n"
            )
        };
        Self::with(general, lines)
    }

    /// For very many messages: writes nothing down, and drops nothing.
    pub fn fast() -> Self {
        let general =
            |path: &str| format!("user root\npersistence false\nlog_dest file {path}/log\nlog_type all\n");
        Self::with(general, |_| "allow_anonymous true\nmax_queued_messages 0".to_owned())
    }

    /// For measurements: writes nothing down, drops nothing, and logs no more than who subscribes.
    pub fn quiet() -> Self {
        let general = |path: &str| {
            format!(
                "user root\npersistence false\nlog_dest file {path}/log\nlog_type subscribe\nlog_type error\n"
            )
        };
        Self::with(general, |_| "allow_anonymous true\nmax_queued_messages 0".to_owned())
    }

    fn with(general: impl FnOnce(&str) -> String, lines: impl FnOnce(&Path) -> String) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let general = general(&directory.path().display().to_string());
        let lines = lines(directory.path());
        let mut broker = Self { directory, port: 0, child: None };
        // The port may be gone again by the time mosquitto wants it.
        for _ in 0..20 {
            broker.port = free_port();
            let listener = format!("listener {} 127.0.0.1\n", broker.port);
            fs::write(broker.directory.path().join("conf"), format!("{general}{listener}{lines}\n")).unwrap();
            if broker.try_start() {
                return broker;
            }
        }
        panic!("mosquitto does not start:\n{}", broker.log());
    }

    /// Starts it again on the same port, with what it has kept.
    pub fn start_again(&mut self) {
        self.stop();
        assert!(self.try_start(), "mosquitto does not start again:\n{}", self.log());
    }

    fn try_start(&mut self) -> bool {
        let conf = self.directory.path().join("conf");
        let mut child = Command::new("mosquitto").arg("-c").arg(conf).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                self.child = Some(child);
                return true;
            }
            thread::sleep(LOOK);
        }
        let _ = child.kill();
        let _ = child.wait();
        false
    }

    /// Ends it as an operator would: it writes down what it keeps.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let id = child.id().to_string();
            assert!(Command::new("kill").arg(&id).status().unwrap().success());
            child.wait().unwrap();
        }
    }

    /// Ends it as a power failure would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Of its process, while there is one.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Where its files are: `conf`, `log`, `mosquitto.db`.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.directory.path().join("log")).unwrap_or_default()).into_owned()
    }

    /// How often this stands in its log.
    pub fn logged(&self, what: &str) -> usize {
        self.log().matches(what).count()
    }

    /// Publishes with QoS 1 and waits for the broker's answer.
    pub fn publish(&self, topic: &str, payload: &[u8]) {
        self.publish_with(&["-q", "1", "-t", topic, "-s"], payload);
    }

    /// Runs `mosquitto_pub` with these arguments and this input.
    pub fn publish_with(&self, arguments: &[&str], input: &[u8]) {
        let mut child = Command::new("mosquitto_pub")
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string()])
            .args(arguments)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        assert!(child.wait().unwrap().success(), "mosquitto_pub {arguments:?} failed");
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A port nobody listens on.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// An authority, and a certificate for localhost that it signed.
pub fn certificates(directory: &Path) {
    let script = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca \
                    -keyout ca.key -out ca.pem && \
                  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost \
                    -keyout key.pem -out request.pem && \
                  printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\n' > extensions && \
                  openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
                    -extfile extensions -out cert.pem";
    let output = Command::new("sh").args(["-c", script]).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The lines logged by this thread, and by the tasks of its runtime.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Listens until the guard is dropped.
    pub fn listen() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    /// The first line with all of these in it, once there is one.
    pub async fn line(&self, parts: &[&str]) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = self.text();
            if let Some(line) = text.lines().find(|line| parts.iter().all(|part| line.contains(part))) {
                return line.to_owned();
            }
            assert!(Instant::now() < deadline, "no line with {parts:?} in:\n{text}");
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
