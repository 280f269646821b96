//! A host as an operator has it: a real systemd as PID 1, the package, a broker, and an app in a git checkout.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::libc::O_NONBLOCK;
use serde_json::Value;

use super::container::Container;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);
/// What a user of the host finds in its own files.
const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/package/files");
pub(crate) const BOOTSTRAP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/user-data/bootstrap.sh");

/// The package that `make deb` has built.
pub(crate) fn package() -> PathBuf {
    built("INSTANCE_AGENT_DEB")
}

/// What `make tarball` has built.
pub(crate) fn tarball() -> PathBuf {
    built("INSTANCE_AGENT_TARBALL")
}

fn built(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_file());
    path.unwrap_or_else(|| {
        panic!("{variable} must name a file to test: run `make test-systemd`, which builds it")
    })
}

/// Everything is inside a container, and goes with it.
pub(crate) struct Host {
    container: Container,
}

impl Host {
    /// A host with a broker, and with the app `hello` serving `v1`, but without the package.
    pub(crate) fn without_package() -> Self {
        let (package, tarball) = (package(), tarball());
        let visible = [package.as_path(), tarball.as_path(), Path::new(FILES), Path::new(BOOTSTRAP)];
        let host = Self { container: Container::boot_to("multi-user.target", &visible) };
        host.sh(&format!("exec sh {FILES}/prepare-host {FILES}"));
        host
    }

    /// The package is installed on it, but not configured.
    pub(crate) fn unconfigured() -> Self {
        let host = Self::without_package();
        host.install(&package());
        host
    }

    /// The agent runs and is subscribed; its configuration has these lines after the broker's.
    pub(crate) fn configured(rest: &str) -> Self {
        let host = Self::unconfigured();
        host.configure(rest);
        host.systemctl("start instance-agent");
        host.until_subscribed();
        host
    }

    pub(crate) fn install(&self, package: &Path) {
        self.sh(&format!("apt-get install -q -y --no-install-recommends {}", package.display()));
    }

    /// The same package as the version 99.MINOR; where it is inside.
    pub(crate) fn newer_package(&self, minor: usize) -> PathBuf {
        let newer = format!("/var/tmp/instance-agent-99.{minor}.deb");
        self.sh(&format!(
            "cd /var/tmp; dpkg-deb --raw-extract {} newer; sed -i 's/^Version: .*/Version: 99.{minor}/' newer/DEBIAN/control; \
             dpkg-deb --root-owner-group -Zgzip -z1 --build newer {newer}; rm -r newer",
            package().display()
        ));
        newer.into()
    }

    /// With tags that supply the environment and the app. Only the firmware that tells of EC2 is missing.
    pub(crate) fn become_ec2_instance(&self) {
        self.sh("ip address add 169.254.169.254/32 dev lo");
        self.unit("metadata", &format!("[Service]\nExecStart=/usr/bin/python3 {FILES}/metadata.py\n"));
        self.systemctl("start metadata");
        self.drop_in(
            "instance-agent",
            "[Service]\nExecStart=\nExecStart=/usr/bin/instance-agent run --ec2\n",
        );
    }

    pub(crate) fn configure(&self, rest: &str) {
        let text = format!("mqtt:\n  url: mqtt://localhost\n{rest}");
        self.write("/etc/instance-agent/config.yaml", &text);
    }

    pub(crate) fn until_subscribed(&self) {
        self.until(
            "subscribed",
            "systemctl show -P StatusText instance-agent | grep -q '^Connected to .*; apps:'",
        );
    }

    /// The outcome of a shell script inside, in root's environment.
    pub(crate) fn run(&self, script: &str) -> Output {
        self.shell(script).output().expect("entering the container")
    }

    fn shell(&self, script: &str) -> Command {
        let mut command = self.container.command("env");
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        command.args(["-i", path, "HOME=/root", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"]);
        command.args(["sh", "-euc", script]).stdin(Stdio::null());
        command
    }

    /// What a script prints, which must succeed.
    #[track_caller]
    pub(crate) fn sh(&self, script: &str) -> String {
        let output = self.run(script);
        assert!(output.status.success(), "{script}: {output:?}\n{}", self.told());
        String::from_utf8(output.stdout).expect("UTF-8").trim_end().to_owned()
    }

    pub(crate) fn holds(&self, script: &str) -> bool {
        self.run(script).status.success()
    }

    /// Begins a script that must succeed in the end.
    pub(crate) fn begin(&self, script: &str) -> Begun {
        Begun(
            self.shell(script)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("entering the container"),
        )
    }

    /// Waits until a script succeeds.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, script: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.holds(script) {
            assert!(Instant::now() < end, "never: {what}\n{}", self.told());
            std::thread::sleep(LOOK);
        }
    }

    /// For the messages of failed tests.
    pub(crate) fn told(&self) -> String {
        let script = "systemctl status --no-pager --full -n 0 instance-agent hello mosquitto; \
                      instance-agent status; journalctl --no-pager -o short-precise | tail -n 80; cat /run/steps/*";
        let output = self.run(&script.replace(';', " 2>&1 || :;"));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[track_caller]
    pub(crate) fn systemctl(&self, arguments: &str) -> String {
        self.sh(&format!("systemctl {arguments}"))
    }

    /// A property of a unit.
    #[track_caller]
    pub(crate) fn property(&self, name: &str, unit: &str) -> String {
        self.systemctl(&format!("show -P {name} {unit}"))
    }

    /// Waits for a line of the agent's with this in it. Read from outside: what looks inside while the host goes down
    /// for good would be stopped with everything there, and hold up the end.
    #[track_caller]
    pub(crate) fn until_logged(&self, part: &str) {
        let root = format!("--root={}", self.path("").display());
        let end = Instant::now() + PATIENCE;
        loop {
            let log = Command::new("journalctl").args([&root, "-u", "instance-agent", "-o", "cat"]).output();
            if String::from_utf8_lossy(&log.expect("running journalctl").stdout).contains(part) {
                return;
            }
            assert!(Instant::now() < end, "never: {part}\n{}", self.told());
            std::thread::sleep(LOOK);
        }
    }

    /// Adds a unit.
    pub(crate) fn unit(&self, name: &str, content: &str) {
        self.write(&format!("/etc/systemd/system/{name}.service"), content);
        self.systemctl("daemon-reload");
    }

    /// Changes a unit as `systemctl edit` does.
    pub(crate) fn drop_in(&self, unit: &str, content: &str) {
        self.write(&format!("/etc/systemd/system/{unit}.service.d/test.conf"), content);
        self.systemctl("daemon-reload");
    }

    /// As an operator does it. Returns when the host is up again.
    pub(crate) fn reboot(&mut self) {
        self.begin_reboot();
        self.until_rebooted();
    }

    pub(crate) fn begin_reboot(&self) {
        self.container.begin_reboot();
    }

    pub(crate) fn until_rebooted(&mut self) {
        self.container.until_rebooted();
        self.until(
            "the boot is complete",
            "systemctl is-system-running --wait | grep -qE 'running|degraded'",
        );
    }

    /// The process of a unit, as the host of the container numbers it.
    pub(crate) fn process_outside(&self, unit: &str) -> String {
        self.container.process(&format!("system.slice/{unit}")).expect("it runs")
    }

    /// Seen from outside.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.container.path(inside)
    }

    pub(crate) fn write(&self, inside: &str, content: &str) {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().expect("a file")).expect("a directory");
        fs::write(path, content).expect("writing a file of the container");
    }

    pub(crate) fn read(&self, inside: &str) -> String {
        fs::read_to_string(self.path(inside)).unwrap_or_default()
    }
}

/// The app and its deploys.
impl Host {
    /// Pushes a version of the app to its repository; the commit.
    pub(crate) fn commit(&self, version: &str) -> String {
        self.sh(&format!(
            "cd /srv/work; echo {version} > version; git commit -q -a -m {version}; git push -q origin main; \
             git rev-parse HEAD"
        ))
    }

    /// Tells the agent of a commit as an operator does.
    #[track_caller]
    pub(crate) fn publish(&self, sha: &str) {
        self.sh(&Self::publish_command(sha));
    }

    pub(crate) fn publish_command(sha: &str) -> String {
        format!(
            "instance-agent publish --broker mqtt://localhost --repo octocat/hello --ref main --sha {sha}"
        )
    }

    /// Pushes a version, and tells the agent of it.
    pub(crate) fn push(&self, version: &str) -> String {
        let sha = self.commit(version);
        self.publish(&sha);
        sha
    }

    #[track_caller]
    pub(crate) fn until_served(&self, version: &str) {
        let same = format!("test \"$(curl -fsS http://127.0.0.1:8080/)\" = {version}");
        self.until(&format!("{version} is served"), &same);
    }

    /// Waits until the deploy of this commit has ended so (`deployed`, `failed`), as `status` tells.
    #[track_caller]
    pub(crate) fn until_state(&self, state: &str, sha: &str) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let app = self.status();
            if app["state"] == state && app["desired"]["commit"] == sha {
                return app;
            }
            assert!(Instant::now() < end, "never {state}: {app:#}\n{}", self.told());
            std::thread::sleep(LOOK);
        }
    }

    /// What `instance-agent status --json` says of the only app.
    pub(crate) fn status(&self) -> Value {
        let answer = self.sh("instance-agent status --json");
        let apps: Vec<Value> = serde_json::from_str(&answer).expect("JSON");
        // A push that is not recorded yet leaves no app to tell of.
        apps.into_iter().next().unwrap_or_default()
    }

    /// What the steps did: `update 7fd1a60…`, …
    pub(crate) fn events(&self, what: &str, sha: &str) -> usize {
        self.read("/srv/steps/events").lines().filter(|line| *line == format!("{what} {sha}")).count()
    }

    pub(crate) fn incarnation(&self) -> String {
        self.property("InvocationID", "hello")
    }

    /// Holds a step up from now on.
    pub(crate) fn hold(&self, what: &str) {
        self.sh(&format!("mkfifo -m 666 /srv/steps/hold.{what}"));
    }

    /// Waits until a step is held up, and takes back [`Host::hold`]: this one stays held until it is released.
    #[track_caller]
    pub(crate) fn held(&self, what: &str) -> Held {
        let fifo = self.path(&format!("/srv/steps/hold.{what}"));
        let end = Instant::now() + PATIENCE;
        loop {
            if let Ok(file) = fs::OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open(&fifo) {
                fs::remove_file(&fifo).expect("removing the FIFO");
                return Held(file);
            }
            assert!(Instant::now() < end, "{what} never waits\n{}", self.told());
            std::thread::sleep(LOOK);
        }
    }

    /// No two steps of a name were ever at work at once.
    #[track_caller]
    pub(crate) fn assert_no_overlaps(&self) {
        assert_eq!(self.read("/srv/steps/overlaps"), "", "{}", self.told());
    }
}

/// A step that waits.
pub(crate) struct Held(fs::File);

impl Held {
    pub(crate) fn release(mut self) {
        self.0.write_all(b"go\n").expect("the step waits");
    }
}

/// A script that runs.
pub(crate) struct Begun(Child);

impl Begun {
    #[track_caller]
    pub(crate) fn ended(self) {
        let output = self.0.wait_with_output().expect("waiting for it");
        assert!(output.status.success(), "{output:?}");
    }
}
